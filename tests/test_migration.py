"""Each line of the tables in docs/migration.md that has code on both sides: both give the same.

The page's text is evaluated, so that it cannot say what is not so. Lines of a library that is not
installed are skipped.
"""

import importlib
import re
import warnings

import numpy as np
import pytest
from pages import ROOT

import semiconv_cupy as sc
from semiconv_cupy import ndimage

PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
PEERS = ("skimage", "skimage2", "cv2", "edt", "diplib", "dask_image")
THEIRS, OURS = (rf"`((?:{'|'.join(names)})\.[^`]*)`" for names in (PEERS, ("ndimage", "sc")))
LINE = re.compile(rf"^\| {THEIRS}[^`|]*\| {OURS}", re.MULTILINE)


def lines(heading):
    """Both codes of each line below a heading of the page."""
    below = PAGE.partition(f"{heading}\n")[2]
    return LINE.findall(re.split(r"^#+ ", below, maxsplit=1, flags=re.MULTILINE)[0])


SYMMETRIC = lines("## scikit-image, OpenCV, edt, DIPlib")
LOPSIDED = lines("### scikit-image 0.26, and skimage2")
CHUNKED = lines("## dask-image")


def images():
    rng = np.random.default_rng(0)
    f = rng.integers(0, 256, (60, 80), dtype=np.uint8)
    return {
        "f": f,
        "m": ndimage.grey_opening(f, 3) > 40,
        "x": rng.normal(0, 20, f.shape).astype(np.float32),
        "colour": rng.integers(0, 256, (40, 50, 3), dtype=np.uint8),
    }


def both(theirs, ours, **names):
    for module in re.findall(r"\b(\w+(?:\.\w+)*)\.\w+\(", theirs):
        peer = module.partition(".")[0]
        if peer in PEERS:
            pytest.importorskip(module)
            names[peer] = importlib.import_module(peer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what scikit-image deprecates
        expected = np.asarray(eval(theirs, {"np": np, **names}))
    result = np.asarray(eval(ours, {"np": np, "sc": sc, "ndimage": ndimage, **names}))
    if expected.dtype.kind == "f" and result.dtype.kind == "f":
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=5e-5)
    else:
        np.testing.assert_array_equal(result, expected)


def test_the_page_has_such_lines():
    assert (len(SYMMETRIC), len(LOPSIDED), len(CHUNKED)) == (31, 9, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), SYMMETRIC)
def test_a_line_for_symmetric_footprints(theirs, ours):
    both(theirs, ours, b=sc.structuring.disk(5).astype(np.uint8), **images())


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), LOPSIDED)
def test_a_line_for_any_footprint(theirs, ours):
    both(theirs, ours, b=np.tri(5, dtype=np.uint8), **images())


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), CHUNKED)
def test_a_line_for_chunks(theirs, ours):
    array = pytest.importorskip("dask.array")
    chunked = {name: array.from_array(image, chunks=25) for name, image in images().items()}
    both(theirs, ours, **chunked)
