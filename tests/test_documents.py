"""Every example in README.md and in docs/ runs, and every link to a file or heading is right.

A block of ```python must run; a session (```pycon) must also print the answers that are shown. Each
block of the README runs alone; the blocks of a page run in order, in one namespace.
"""

import re

import pytest
from pages import ROOT, blocks, missing, pictures, run, run_page

from semiconv_cupy import ndimage

README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
INSTALLATION = ROOT / "docs" / "installation.md"
MADE = {ROOT / "docs" / name for name in ("notebooks", "generated", "api/generated")}  # by Sphinx
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if MADE.isdisjoint(page.parents))
FOLDERS = ("semiconv_cupy", "kernels_cu", "torch_bridge", "tests", "examples", "benchmarks")
# What is read on the repository's page; the pages of docs/ besides.
READ_THERE = sorted(
    [*ROOT.glob("*.md"), *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md"))]
)
LINK = re.compile(r"\]\(([^)#:]*)(?:#([^)]*))?\)")
DIRECTIVE = re.compile(r"^```\{(?:image|figure)\} (\S+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

EXAMPLES = list(blocks(README))


def test_the_readme_has_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "code", "line"), EXAMPLES, ids=[f"line {line}" for *_, line in EXAMPLES]
)
def test_an_example_of_the_readme(language, code, line, tmp_path, monkeypatch):
    absent = missing(language, code)
    if absent:
        pytest.skip(f"{absent} is not installed")
    monkeypatch.chdir(tmp_path)  # an example may write a picture
    run(language, code, line, README, {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(blocks(page))], ids=lambda page: page.stem
)
def test_the_examples_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may draw a picture
    monkeypatch.setenv("MPLBACKEND", "Agg")
    absent = run_page(page)
    if absent:
        pytest.skip(f"the rest ran, but examples with {', '.join(sorted(absent))} did not")
    assert all((tmp_path / name).is_file() for name in pictures(page)[1])


@pytest.mark.parametrize(
    "page", [page for page in PAGES if pictures(page)[1]], ids=lambda page: page.stem
)
def test_a_page_shows_the_pictures_that_it_draws(page):
    """`python tests/pages.py` draws them; small files, as a page should come at once."""
    shown, drawn = pictures(page)
    assert drawn <= shown
    assert all((page.parent / name).stat().st_size < 100_000 for name in drawn)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "import math, absent_peer\n"),
        ("python", "def later():\n    from absent_peer.part import name\n"),
        ("pycon", ">>> import math, absent_peer as peer\n>>> peer.name\n'absent'\n"),
    ],
)
def test_examples_that_import_an_absent_peer_are_recognised(language, code):
    assert missing(language, code, optional=("math", "absent_peer")) == "absent_peer"


@pytest.mark.parametrize("wrong", [">>> 1 + 1\n3\n", ">>> 1 / 0\n"])
def test_a_session_with_a_wrong_answer_fails(wrong):
    with pytest.raises(AssertionError, match=r"Expected|ZeroDivisionError"):
        run("pycon", wrong, 0, README, {})


@pytest.mark.parametrize(
    "document", [*READ_THERE, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_each_link_to_a_file_leads_somewhere(document):
    assert wrong_links(document) == []


def wrong_links(document):
    """The links of a document to files and headings that do not exist."""
    whole = document.read_text(encoding="utf-8")
    text = FENCED.sub("", whole)
    wrong = []
    for target, section in LINK.findall(text):
        path = document.parent / target if target else document
        if not path.exists():
            wrong.append(target)
        elif section:
            headings = HEADING.findall(FENCED.sub("", path.read_text(encoding="utf-8")))
            if section not in map(anchor, headings):
                wrong.append(f"{target}#{section}")
    pictures = [name for name in DIRECTIVE.findall(whole) if not name.startswith("notebooks/")]
    return wrong + [name for name in pictures if not (document.parent / name).exists()]


def test_wrong_links_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# One, two\n```bash\n# a comment\n```\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md#one-two) [b](#here) [c](https://example.org/none) [d](none.md) "
        "[e](other.md#a-comment)\n[f](#there)\n```{image} none.png\n```\n",
        encoding="utf-8",
    )
    assert wrong_links(page) == ["none.md", "other.md#a-comment", "#there", "none.png"]


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_installation_page_lists_every_environment_variable():
    read = re.compile(r"""environ(?:\.get\(|\[)["'](SEMICONV_\w+)""")
    files = [
        ROOT / "hatch_build.py",
        *(path for name in FOLDERS[:3] for path in (ROOT / name).rglob("*.py")),
    ]
    variables = {name for path in files for name in read.findall(path.read_text(encoding="utf-8"))}
    listed = re.findall(
        r"^`(SEMICONV_\w+)`$", INSTALLATION.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(variables) >= 3
    assert variables == set(listed)


def anchor(heading):
    """The name by which GitHub and MyST link to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_the_documents_list_every_filter():
    """The reference all of them, the list for users of SciPy those that SciPy has, with a count."""
    listed = (ROOT / "docs" / "api" / "ndimage.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^   ([a-z]\w+)$", listed, re.MULTILINE)) == sorted(ndimage.__all__)
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    count, names = re.search(
        r"^These (\d+) functions .*:\n\n((?:`.*`\n)+)", page, re.MULTILINE
    ).groups()
    scipys = re.findall(r"`(\w+)`", names)
    assert len(scipys) == len(set(scipys)) == int(count)
    assert set(scipys) <= set(ndimage.__all__)
    assert f"There are {count} of these functions" in README.read_text(encoding="utf-8")


# A file in backticks, as `algebra/names.py`; not a pattern, nor the NAME that a reader fills in.
FILE = re.compile(r"`([a-z_][a-z_/]*\.(?:py|cuh?|cpp|hpp))`")


def absent_files(text, files):
    """The files that a text names and that are at the end of no path."""
    return sorted(name for name in set(FILE.findall(text)) if not any(map(ends(name), files)))


def ends(name):
    return lambda path: f"/{path}".endswith(f"/{name}")


@pytest.mark.parametrize(
    "document",
    [CONTRIBUTING, *(ROOT / "docs" / name for name in ("internals.md", "extending.md"))],
    ids=lambda path: path.stem,
)
def test_each_file_that_is_named_exists(document):
    files = [
        path.relative_to(ROOT).as_posix()
        for folder in (*FOLDERS[:4], "docs")
        for path in (ROOT / folder).rglob("*")
    ]
    text = document.read_text(encoding="utf-8")
    assert len(set(FILE.findall(text))) >= 5
    assert absent_files(text, files) == []


def test_absent_files_are_found():
    text = "`b.py` and `a/b.py`, `a/c.cuh`, `y/b.py`, `NAME.cu`, `x_*.py`"
    assert absent_files(text, ["x/a/b.py", "x/a/cc.cuh"]) == ["a/c.cuh", "y/b.py"]
