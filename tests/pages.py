"""The examples of a page of the documentation: found, run, and the pictures that they draw.

`test_documents.py` runs all of them. `python tests/pages.py [PAGE ...]` runs the pages that draw
pictures, and keeps these beside the page.
"""

import ast
import doctest
import importlib.util
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^):]+\.(?:jpg|png))\)")
WRITTEN = re.compile(r"savefig\(\"([^\"]+)\"\)")
OPTIONAL = (
    "torch", "kornia", "cv2", "pytorch_nd_semiconv", "skimage", "scipy", "tensorflow", "xarray",
    "dask", "matplotlib", "sklearn", "zarr",
)  # fmt: skip


def blocks(page):
    """The language, the code and the line of each example."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        yield match[1], match[2], text[: match.start(2)].count("\n")


def missing(language, code, optional=OPTIONAL):
    """The first optional module that the example imports and that is not installed, or None."""
    examples = [code]
    if language == "pycon":
        examples = [example.source for example in doctest.DocTestParser().get_examples(code)]
    imported = set()
    for node in (node for example in examples for node in ast.walk(ast.parse(example))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    return next(
        (name for name in optional if name in imported and not importlib.util.find_spec(name)), None
    )


def run(language, code, line, page, namespace):
    """Run one example; of a session, an answer that differs from the shown one fails."""
    name = str(page.relative_to(ROOT))
    if language == "python":
        exec(compile("\n" * line + code, name, "exec"), namespace)
        return
    session = doctest.DocTestParser().get_doctest(code, namespace, name, name, line)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    report = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=flags)
    runner.run(session, out=report.append, clear_globs=False)
    namespace.update(session.globs)
    assert not runner.failures, "".join(report)


def run_page(page):
    """Run all examples in order, in one namespace; the names of absent modules."""
    namespace, absent = {"__name__": "__main__"}, set()
    for language, code, line in blocks(page):
        name = missing(language, code)
        if name:
            absent.add(name)
        else:
            run(language, code, line, page, namespace)
    return absent


def pictures(page):
    """The files that a page shows, and the ones that its examples write."""
    text = page.read_text(encoding="utf-8")
    return set(PICTURE.findall(text)), set(WRITTEN.findall(text))


def draw(page):
    """Run a page in an empty folder and keep its pictures beside it."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            run_page(page)
        finally:
            os.chdir(before)
        for name in sorted(pictures(page)[1]):
            shutil.copy(Path(folder, name), page.parent / name)
            print(page.parent.relative_to(ROOT) / name, f"{(page.parent / name).stat().st_size} B")


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "Agg"
    every = [page for page in sorted((ROOT / "docs").rglob("*.md")) if pictures(page)[1]]
    for page in [Path(name).resolve() for name in sys.argv[1:]] or every:
        draw(page)
