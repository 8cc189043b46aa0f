"""A check of the written pages: they load nothing from the network, local links lead somewhere.

Sphinx checks its own references; these are the links of templates, notebooks and included files.
"""

import os
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from sphinx.util import logging

logger = logging.getLogger(__name__)
LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class Page(HTMLParser):
    """What one page links to and loads, and the names to which others can link."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.without_text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.names |= {name for name in (given.get("id"), given.get("name")) if name}
        for key, value in given.items():
            if (tag, key) in LOADED and value:
                self.loaded.append(value)
            elif (tag, key) == ("a", "href") and value:
                self.links.append(value)
        if tag == "img" and "alt" not in given:
            self.without_text.append(given.get("src") or "")


def faults(folder: Path) -> list[str]:
    """One sentence for each fault of the pages below a folder."""
    paths = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]
    pages = {str(path): Page(path) for path in paths}
    exists = cache(os.path.exists)
    found = []
    for path, page in pages.items():
        here = Path(path).relative_to(folder)
        found += [f"{here} loads {url}" for url in page.loaded if urlsplit(url).netloc]
        found += [f"{here}: {url} has no alternative text" for url in page.without_text]
        for url in (*page.links, *page.loaded):
            address, fragment = urldefrag(url)
            if urlsplit(url).scheme or urlsplit(url).netloc:
                continue
            file = unquote(urlsplit(address).path)
            target = os.path.normpath(os.path.join(os.path.dirname(path), file)) if file else path
            if not exists(target):
                found.append(f"{here}: {url} leads nowhere")
            elif fragment and target in pages and unquote(fragment) not in pages[target].names:
                found.append(f"{here}: {url} names no place on that page")
    return sorted(set(found))


def check(app, exception) -> None:
    if exception is None and app.builder.format == "html":
        for fault in faults(Path(app.outdir)):
            logger.warning("%s", fault)


def setup(app):
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
