"""What the library says: each warning is documented, points at the user's line and comes once."""

import ast
import logging
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy.backends.host import compiler, libraries

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "messages.md"
SOURCES = [
    path
    for package in ("semiconv_cupy", "torch_bridge", "kernels_cu")
    for path in sorted((ROOT / package).rglob("*.py"))
]


# ---- the documents -------------------------------------------------------------------------------


def texts_of_warnings(source):
    """All texts of each function that warns, joined: one for each of its warnings."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            parts = [n.value for n in ast.walk(function) if isinstance(n, ast.Constant)]
            calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
            names = [getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls]
            found += ["…".join(filter(is_text, parts))] * sum(n in WARNS for n in names)
    return found


WARNS = ("warn", "warn_once")


def is_text(value):
    return isinstance(value, str)


def test_the_page_lists_every_warning():
    rows = re.findall(r'^\| "(.*?)" \|', PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [re.sub(r"\{\w+\}", "…", row) for row in rows]
    callers = [path for path in SOURCES if path.name != "errors.py"]  # which defines `warn`
    texts = [text for path in callers for text in texts_of_warnings(path.read_text("utf-8"))]
    assert len(texts) >= 12
    assert [t for t in texts if not any(within(row, t) for row in rows)] == []
    assert [row for row in rows if not any(within(row, text) for text in texts)] == []


def within(row, text):
    return all(part in text for part in row.split("…"))


def test_warnings_are_found_in_sources():
    source = "def f(x):\n    if x:\n        warn(f'a {x} b', UserWarning)\n    w.warn('c')\n"
    assert [within("a …b", text) for text in texts_of_warnings(source)] == [True, True]
    assert texts_of_warnings("def g():\n    return 'a'\n") == []


def test_the_documents_list_every_environment_variable():
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    read = re.compile(r'environ(?:\.get\(|\[)"([A-Z_]+)"')
    files = (*SOURCES, ROOT / "hatch_build.py")
    names = {name for path in files for name in read.findall(path.read_text("utf-8"))}
    assert {"SEMICONV_CACHE_DIR", "TQDM_DISABLE"} < names
    terms = "\n".join(re.findall(r"^`[A-Z].*", page, re.MULTILINE))
    assert names <= set(re.findall(r"`([A-Z_]+)`", terms))


# ---- warnings ------------------------------------------------------------------------------------

GREY = np.zeros((8, 8), np.uint8)


def a_footprint():
    sc.ndimage.grey_dilation(GREY, structure=np.ones((3, 3)))


def fractions():
    sc.ndimage.grey_dilation(GREY, structure=np.full((3, 3), 0.5))


def a_size_beside_a_footprint():
    sc.ndimage.maximum_filter(GREY, size=3, footprint=np.ones((3, 3)))


def a_real_output_of_complex_numbers():
    sc.ndimage.correlate1d(np.zeros(8, complex), [1.0, 2.0], output=np.float32)


def a_kernel_of_all_channels():
    torch = pytest.importorskip("torch")
    import torch_bridge

    module = torch_bridge.Dilation(3, in_channels=2, out_channels=2, groups=2, ndim=1)
    return lambda: torch.nn.Sequential(module)(torch.zeros(1, 2, 8))


@pytest.mark.parametrize(
    "call",
    [a_footprint, fractions, a_size_beside_a_footprint, a_real_output_of_complex_numbers],
)
def test_a_warning_of_arguments_points_at_the_users_line_and_is_shown_once(call):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            call()
    assert [warning.filename for warning in found] == [__file__]
    assert found[0].lineno == call.__code__.co_firstlineno + 1


# ---- logs ----------------------------------------------------------------------------------------


def test_nothing_is_logged_unless_asked_for():
    logger = logging.getLogger("semiconv_cupy")
    assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    assert logger.level == logging.NOTSET


def test_each_new_kind_of_call_says_which_way_it_goes(caplog):
    caplog.set_level(logging.DEBUG, "semiconv_cupy")
    img, krn = np.zeros((1, 1, 11, 7)), np.zeros((1, 1, 3, 3))
    for _ in range(2):
        sc.semifield_conv(img, krn, "tropical_max", method="reference")
        sc.semifield_matmul(img[0, 0, :, :5], img[0, 0, :5], "tropical_max", method="reference")
    texts = [record.getMessage() for record in caplog.records]
    way = "SelectSemifield.tropical_max() of float64 (1, 1, 11, 7) by (1, 1, 3, 3): reference"
    assert texts.count(way) == 1
    assert sum("product of" in text and text.endswith(": reference") for text in texts) == 1


@pytest.mark.skipif(compiler.compiler() is None, reason="no C++ compiler")
def test_a_compilation_and_a_hit_of_the_cache_are_logged(caplog, tmp_path):
    caplog.set_level(logging.DEBUG, "semiconv_cupy")
    text = f"// {tmp_path}\nextern int nothing;\n"  # of no other process
    file = libraries.build(text, "a text")
    assert libraries.build(text, "a text") == file
    (made, found) = (record for record in caplog.records if "a text" in record.getMessage())
    assert re.fullmatch(r"compiled a text in \d+\.\d\d s: .*\.so", made.getMessage())
    assert (made.levelname, found.levelname) == ("INFO", "DEBUG")
    assert found.getMessage() == f"a text is in the cache: {file}"
    file.unlink()
