"""Extrema of a height and openings by reconstruction, against scikit-image and definitions."""

import warnings

import numpy as np
import pytest
from cuda_on_cpu.device import HarnessDevice
from hypothesis import given, settings
from hypothesis import strategies as st

import semiconv_cupy as sc
from semiconv_cupy.ndimage import cuda, reference
from semiconv_cupy.ndimage.neighbourhood import served_by

skimage = pytest.importorskip("skimage")
from skimage.morphology import dilation, erosion, h_maxima, h_minima, reconstruction  # noqa: E402


@pytest.fixture
def erosions_have_a_mode():
    pytest.importorskip("skimage", minversion="0.23")


@settings(max_examples=100)
@given(st.data())
def test_heights_are_scikit_images(data):
    shape = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from(["uint8", "int64", "float16", "float32", "float64"]))
    image = (random.random(shape) * data.draw(st.sampled_from([3, 9, 200]))).astype(dtype)
    h = data.draw(st.sampled_from([1, 2, 2.5, 0.1, 7, 150, np.float32(0.3), np.float64(1.7)]))
    footprint = None
    if data.draw(st.booleans()) and (dtype != "int64" or h == int(h)):
        footprint = random.random((3, 5, 3)[: len(shape)]) < 0.5
    for ours, theirs in ((sc.h_maxima, h_maxima), (sc.h_minima, h_minima)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of lost precision: not ours
            expected = theirs(image, h, footprint)
        found = ours(image, h, footprint)
        assert found.dtype == expected.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def by_paths(image, h):
    """The definition in one dimension: every path to a higher element descends by at least h."""
    values = [int(v) for v in image]
    if max(values) - min(values) < h:
        return [0] * len(values)
    found = []
    for at, top in enumerate(values):
        lowest = []
        for step in (1, -1):
            least, other = top, at
            while 0 <= other < len(values) and values[other] <= top:
                least, other = min(least, values[other]), other + step
            if 0 <= other < len(values):
                lowest.append(least)
        found.append(int(all(top - least >= h for least in lowest)) if lowest else 1)
    return found


@settings(max_examples=150)
@given(st.data())
def test_heights_of_integers_are_exact_to_the_ends_of_their_range(data):
    dtype = data.draw(st.sampled_from(["uint8", "int8", "int64", "uint64"]))
    info = np.iinfo(dtype)
    low, high = int(info.min), int(info.max)
    number = st.one_of(
        st.integers(low, high), st.integers(low, low + 3), st.integers(high - 3, high)
    )
    values = data.draw(st.lists(number, min_size=1, max_size=9))
    h = data.draw(st.one_of(st.integers(1, high - low), st.integers(1, 4)))
    image = np.array(values, dtype)
    expected = by_paths(image, h)
    assert sc.h_maxima(image, h).tolist() == expected
    mirrored = (~image.view(f"u{image.itemsize}")).view(dtype)  # reverses the order of all numbers
    assert sc.h_minima(mirrored, h).tolist() == expected


def test_heights_of_what_is_no_number_and_of_infinities():
    image = np.array([1, 5, np.nan, 4, 0, np.inf, 0, -np.inf, 3])
    assert sc.h_maxima(image, 2).tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 1]
    assert sc.h_minima(-image, 2).tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 1]
    for nothing in (np.full(3, np.nan), np.full(3, np.inf), np.ones(3), np.ones((0, 4))):
        assert not sc.h_maxima(nothing, 1).any()
    assert sc.h_maxima(np.array(5.0), 1) == 0
    assert sc.h_maxima(np.array([True, False, True]), 1).tolist() == [1, 0, 1]
    assert sc.h_maxima(np.array([3, 9, 3], np.float16), 2).tolist() == [0, 1, 0]


@pytest.mark.parametrize("h", [0, -1, np.nan])
def test_a_height_is_above_zero(h):
    with pytest.raises(ValueError, match="h must be above 0"):
        sc.h_maxima(np.arange(5), h)


def test_heights_name_what_does_not_fit():
    with pytest.raises(TypeError, match="h must be a real number, got 'a'"):
        sc.h_minima(np.arange(5), "a")
    with pytest.raises(TypeError, match="Complex"):
        sc.h_maxima(np.arange(5) + 1j, 1)
    for image in (np.arange(5), np.ones(5), np.ones(0)):  # even where there is nothing to find
        with pytest.raises(ValueError, match="odd"):
            sc.h_maxima(image, 1, footprint=[1, 1])


@pytest.mark.table(2)
@pytest.mark.usefixtures("erosions_have_a_mode")
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])  # theirs errs of int64
@pytest.mark.parametrize("shape", [(90,), (30, 41), (9, 10, 8)])
def test_openings_by_reconstruction_are_those_by_scikit_image(dtype, shape):
    image = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    footprint = np.random.default_rng(1).random((3, 5, 3)[: len(shape)]) < 0.7
    footprint[tuple(k // 2 for k in footprint.shape)] = True
    box = np.ones((3,) * len(shape), bool)
    for taps in (box, footprint):
        eroded = erosion(image, taps, mode="ignore")
        theirs = reconstruction(eroded, image)
        np.testing.assert_array_equal(sc.opening_by_reconstruction(image, taps), theirs)
        dilated = dilation(image, np.flip(taps), mode="ignore")  # which does not mirror
        theirs = reconstruction(dilated, image, "erosion")
        np.testing.assert_array_equal(sc.closing_by_reconstruction(image, taps), theirs)
    faces = sc.ndimage.generate_binary_structure(len(shape), 1)
    theirs = reconstruction(erosion(image, box, mode="ignore"), image, footprint=faces)
    ours = sc.opening_by_reconstruction(image, size=3, connectivity=1)
    assert ours.dtype == image.dtype
    np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=60)
@given(st.data())
def test_openings_by_reconstruction_keep_their_laws(data):
    """Below the image, for every footprint; idempotent, where values spread through the window."""
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=2))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    image = random.integers(0, 9, shape).astype(data.draw(st.sampled_from(["uint8", "float32"])))
    sizes = [data.draw(st.integers(1, 4)) for _ in shape]
    footprint = random.random(sizes) < 0.6
    footprint[tuple(k // 2 for k in sizes)] = True
    arguments = {"connectivity": data.draw(st.sampled_from([None, 1]))}
    opened = sc.opening_by_reconstruction(image, footprint, **arguments)
    assert (opened <= image).all()
    boxes = sc.opening_by_reconstruction(image, size=sizes, **arguments)
    again = sc.opening_by_reconstruction(boxes, size=sizes, **arguments)
    np.testing.assert_array_equal(again, boxes)
    kept = sc.opening_by_reconstruction(image, footprint, preserve_intensities=True, **arguments)
    assert ((opened <= kept) & (kept <= image)).all()
    mirrored = np.flip(footprint), {"origin": [k % 2 - 1 for k in sizes]}
    closed = sc.closing_by_reconstruction(10 - image, mirrored[0], **mirrored[1], **arguments)
    np.testing.assert_array_equal(10 - closed, opened)


@pytest.mark.usefixtures("erosions_have_a_mode")
def test_preserved_intensities_are_itks():
    """ITK's filter, step by step: where erosion and reconstruction agree, it takes the image."""
    image = (np.random.default_rng(3).random((30, 31)) * 30).astype(np.uint8)
    box = np.ones((3, 3), bool)
    eroded = erosion(image, box, mode="ignore")
    raised = reconstruction(eroded, image)
    expected = reconstruction(np.where(eroded == raised, image, 0), image)
    result = sc.opening_by_reconstruction(image, size=3, preserve_intensities=True)
    np.testing.assert_array_equal(result, expected)
    inverse = sc.closing_by_reconstruction(255 - image, size=3, preserve_intensities=True)
    np.testing.assert_array_equal(255 - inverse, expected)


def test_colours_are_opened_one_by_one():
    image = np.random.default_rng(4).integers(0, 99, (12, 13, 3)).astype(np.uint8)
    opened = sc.opening_by_reconstruction(image, sc.structuring.disk(1), axes=(0, 1))
    for colour in range(3):
        alone = sc.opening_by_reconstruction(image[..., colour], sc.structuring.disk(1))
        np.testing.assert_array_equal(opened[..., colour], alone)


def test_nan_stays_and_is_a_wall():
    row = np.array([6, 6, 6, 9, np.nan, 9, 4, 4])
    opened = sc.opening_by_reconstruction(row, size=3)
    np.testing.assert_array_equal(opened, [6, 6, 6, 6, np.nan, 4, 4, 4])
    np.testing.assert_array_equal(sc.closing_by_reconstruction(-row, size=3), -opened)


def test_openings_by_reconstruction_name_what_does_not_fit():
    image = np.arange(12).reshape(3, 4)
    with pytest.raises(
        TypeError, match="footprint must be an array of bool, got 3; a box is given by size="
    ):
        sc.opening_by_reconstruction(image, 3)
    with pytest.raises(ValueError, match="footprint or size must be specified"):
        sc.opening_by_reconstruction(image)
    with pytest.raises(ValueError, match=r"own position, got one of shape \(1, 3\)"):
        sc.closing_by_reconstruction(image, [[1, 0, 1]])
    for wrong in (0, 3, 1.5):
        with pytest.raises(ValueError, match=f"from 1 to 2.*got {wrong}"):
            sc.opening_by_reconstruction(image, size=3, connectivity=wrong)
    with pytest.raises(RuntimeError, match="'reflekt'"):
        sc.opening_by_reconstruction(image, size=3, mode="reflekt")


@pytest.mark.parametrize("backend", [reference, cuda.Backend(HarnessDevice())])
def test_other_backends_find_the_same(backend):
    image = np.random.default_rng(5).integers(0, 30, (20, 25)).astype(np.uint8)
    calls = (
        lambda: sc.h_maxima(image, 9),
        lambda: sc.h_minima(image * 0.37, 2.5),
        lambda: sc.closing_by_reconstruction(image, sc.structuring.disk(2), connectivity=1),
    )
    expected = [call() for call in calls]
    with served_by(backend):
        for call, result in zip(calls, expected, strict=True):
            np.testing.assert_array_equal(call(), result)


@settings(max_examples=100)
@given(st.data())
def test_bool_arrays_by_components_are_those_of_numbers(data):
    """Symmetric steps with both neighbours of a row go by runs, the others by scans and a queue."""
    shape = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    mask = random.random(shape) < data.draw(st.sampled_from([0.3, 0.6, 0.9, 1.0]))
    some = random.random(shape) < data.draw(st.sampled_from([0.02, 0.2]))
    footprint = random.random((3, 5, 1, 3)[: len(shape)]) < 0.5
    if data.draw(st.booleans()):
        footprint |= footprint[(slice(None, None, -1),) * len(shape)]
    if data.draw(st.booleans()):
        footprint[tuple(k // 2 for k in footprint.shape[:-1])] = True
    for method, seed in (("dilation", some & mask), ("erosion", some | mask)):
        found = sc.reconstruction(seed, mask, method, footprint)
        expected = sc.reconstruction(*(a.astype(np.uint8) for a in (seed, mask)), method, footprint)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, expected)
        bytes_of_255 = ((255 * a.astype(np.uint8)).view(bool) for a in (seed, mask))
        np.testing.assert_array_equal(sc.reconstruction(*bytes_of_255, method, footprint), found)
