"""The directive `drawn`: pictures of what a page's Python blocks compute, drawn while it is read.

Each line of its content is an expression in the names of the blocks above it on the page, and a
title: ``opened: opened by a disk``. ``distance [magma]: ...`` picks colours; ``labels`` gives each
number its own. So a picture shows what its code does today, and a block that fails ends the build.
"""

import re

from docutils import nodes
from pictures import save
from sphinx.util.docutils import SphinxDirective

LINE = re.compile(r"(?P<code>.+?)(?: \[(?P<colours>\w+)\])?: (?P<title>.+)")


class Drawn(SphinxDirective):
    """A row of pictures with their titles."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        names = self._names()
        row = nodes.container(classes=["panels"])
        for line in self.content:
            found = LINE.fullmatch(line.strip())
            if found is None:
                raise self.error(f"not of the form 'expression [colours]: title': {line!r}")
            row += self._panel(eval(found["code"], names), found["colours"], found["title"])
        return [row]

    def _names(self) -> dict:
        """What the page's blocks have defined; those that are new are run."""
        done, names = self.env.temp_data.setdefault("drawn", (set(), {"__name__": "__main__"}))
        for block in self.state.document.findall(nodes.literal_block):
            if block.get("language") == "python" and block.line not in done:
                done.add(block.line)
                code = "\n" * (block.line or 0) + block.astext()
                exec(compile(code, f"{self.env.docname}.md", "exec"), names)
        return names

    def _panel(self, content, colours: str | None, title: str) -> nodes.figure:
        number = self.env.new_serialno("drawn")
        file = save(content, f"{self.env.docname.replace('/', '-')}-{number:02}", colours)
        image = nodes.image(uri=f"/_drawn/{file}", alt=title)
        return nodes.figure("", image, nodes.caption(title, title))


def setup(app):
    app.add_directive("drawn", Drawn)
    return {"parallel_read_safe": True}
