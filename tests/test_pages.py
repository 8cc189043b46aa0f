"""What docs/_extensions adds to Sphinx: formulas without a script, a check of written pages."""

from importlib.util import find_spec
from pathlib import Path

import pytest

# Nothing is imported here: of a folder without files that is called sphinx, which some machines
# have on the path, Python makes a module, and SciPy then imports sphinx.ext.
FOUND = [find_spec(name) for name in ("sphinx", "latex2mathml")]
pytestmark = pytest.mark.skipif(
    not all(spec is not None and spec.origin for spec in FOUND),
    reason="needs sphinx and latex2mathml",
)
EXTENSIONS = Path(__file__).parent.parent / "docs" / "_extensions"


@pytest.fixture(autouse=True)
def extensions(monkeypatch):
    monkeypatch.syspath_prepend(str(EXTENSIONS))


def test_a_formula_has_words_and_limits():
    from mathml import mathml

    block = mathml(r"grad\_out[x] = \bigoplus_y img[y] \text{ for } s x", "block")
    assert all(f"<mtext>{word}</mtext>" in block for word in ("grad_out", "img"))
    assert all(part in block for part in ("<munder><mo", "⨁", "<mi>s</mi><mi>x</mi>"))
    assert "<munder" not in mathml(r"\bigoplus_y y", "inline")


def test_faults_of_pages_are_found(tmp_path):
    from written import faults

    page = '<a href="b.html#there">b</a><img src="p.png" alt=""><h1 id="here"></h1>'
    (tmp_path / "a.html").write_text(page)
    (tmp_path / "b.html").write_text(
        '<a href="a.html#here">a</a><p id="there"></p><a href="#there">'
    )
    (tmp_path / "p.png").touch()
    assert faults(tmp_path) == []
    (tmp_path / "p.png").unlink()
    (tmp_path / "b.html").write_text(
        '<script src="https://cdn.example/x.js"></script><img src="a.html">'
    )
    assert faults(tmp_path) == [
        "a.html: b.html#there names no place on that page",
        "a.html: p.png leads nowhere",
        "b.html loads https://cdn.example/x.js",
        "b.html: a.html has no alternative text",
    ]


def test_versions_are_those_of_the_changelog():
    from project import URLS, versions

    titles = [title for title, _ in versions()]
    assert titles[0] == "in development"
    assert "0.1.0" in titles
    assert all(address.startswith(URLS["Documentation"]) for _, address in versions())
