"""`mode="ignore"`: what lies beyond the border takes no part, whatever is added to it."""

import numpy as np
import pytest
from cuda_on_cpu.device import HarnessDevice
from hypothesis import given, settings
from hypothesis import strategies as st

from semiconv_cupy import ndimage, structuring
from semiconv_cupy.ndimage import cuda, reference
from semiconv_cupy.ndimage.neighbourhood import served_by

RULES = ("ignore", "ignore", "ignore", "constant", "nearest")
INTEGERS = ("uint8", "int8", "int64", "uint64")
CVAL = 3


def ends(dtype):
    """The least and the largest number of a dtype, as Python's."""
    if np.dtype(dtype).kind == "f":
        return -np.inf, np.inf
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def seen(image, x, y, before, modes):
    """The element that tap y shows to the output at x, None where it takes no part."""
    position = [p + t - b for p, t, b in zip(x, y, before, strict=True)]
    out = [not 0 <= p < n for p, n in zip(position, image.shape, strict=True)]
    if any(o and mode == "ignore" for o, mode in zip(out, modes, strict=True)):
        return None
    if any(o and mode == "constant" for o, mode in zip(out, modes, strict=True)):
        return CVAL
    return image[tuple(np.clip(position, 0, np.array(image.shape) - 1))].item()


def extremum(image, footprint, structure, before, modes, minimum):
    """The erosion (minimum) or its mirrored dilation, in Python's numbers, saturated at the end."""
    low, high = ends(image.dtype)
    result = np.empty_like(image)
    for x in np.ndindex(image.shape):
        best = high if minimum else low
        for y in np.argwhere(footprint).tolist():
            element = seen(image, x, y, before, modes)
            if element is not None:
                value = structure[tuple(y)].item()
                term = element - value if minimum else element + value
                best = min(best, term) if minimum else max(best, term)
        result[x] = min(max(best, low), high)
    return result


@st.composite
def images(draw, dtypes):
    """Images whose elements lie at either end of the dtype's range, or anywhere."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    if dtype.startswith("float"):
        return random.integers(-20, 20, shape).astype(dtype)
    low, high = ends(dtype)
    where = draw(st.sampled_from(["low", "high", "anywhere"]))
    if where == "anywhere":
        return random.integers(low, high, shape, dtype=dtype, endpoint=True)
    steps = random.integers(0, 5, shape).astype(object)
    return (low + steps if where == "low" else high - steps).astype(dtype)


@st.composite
def windows(draw, ndim):
    """(footprint, structure, origin): of any sizes, with or without their own positions."""
    shape = draw(st.lists(st.integers(1, 5), min_size=ndim, max_size=ndim))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    footprint = random.random(shape) < draw(st.sampled_from([0.2, 0.6, 1.0]))
    footprint[tuple(random.integers(0, shape))] = True
    largest = draw(st.sampled_from([0, 9, 300, 2**62]))
    structure = random.integers(-largest, largest, shape, endpoint=True)
    origin = [draw(st.integers(-(k // 2), (k - 1) // 2)) for k in shape]
    return footprint, structure, origin


def mirrored(footprint, structure, origin):
    """The arguments of a dilation that sees what an erosion with these sees."""
    origin = [-o - (1 - k % 2) for o, k in zip(origin, footprint.shape, strict=True)]
    return np.flip(footprint), np.flip(structure), origin


def check(data, dtypes, modes_of, backend):
    image = data.draw(images(dtypes))
    footprint, structure, origin = data.draw(windows(image.ndim))
    if image.dtype.kind == "f":
        structure = structure % 64  # sums are exact
    modes = [data.draw(st.sampled_from(modes_of)) for _ in image.shape]
    minimum = data.draw(st.booleans())
    before = [k // 2 + o for k, o in zip(footprint.shape, origin, strict=True)]
    expected = extremum(image, footprint, structure, before, modes, minimum)
    name = "grey_erosion" if minimum else "grey_dilation"
    window = (footprint, structure, origin)
    footprint, structure, origin = window if minimum else mirrored(*window)
    mode = modes[0] if len(set(modes)) == 1 and data.draw(st.booleans()) else modes
    arguments = {"footprint": footprint, "mode": mode, "cval": CVAL, "origin": origin}
    if structure.any() or data.draw(st.booleans()):
        arguments["structure"] = structure
    with served_by(backend):
        result = getattr(ndimage, name)(image, **arguments)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@settings(max_examples=150)
@given(st.data())
def test_the_cpu_ignores_what_is_outside(data):
    check(data, ("uint8", "float32"), RULES, None)


@settings(max_examples=150)
@given(st.data())
def test_integers_of_64_bits_ignore_it_exactly(data):
    """No number stays behind all others when a value is added to it, which saturates."""
    check(data, ("uint64",), RULES, None)


@settings(max_examples=100)
@given(st.data())
def test_array_loops_ignore_what_is_outside(data):
    check(data, (*INTEGERS, "float32", "int16", "int32"), RULES, reference)


@pytest.mark.table(1)
@pytest.mark.parametrize("dtype", ["uint64", "uint8", "float32", "float16", "int32"])
def test_cuda_kernels_ignore_what_is_outside(dtype):
    backend = cuda.Backend(HarnessDevice())

    @settings(max_examples=15)
    @given(st.data())
    def compare(data):
        check(data, (dtype,), RULES, backend)

    compare()


@settings(max_examples=100)
@given(st.data())
def test_boxes_ignore_what_is_outside(data):
    image = data.draw(images(("uint8", "float32")))
    sizes = [data.draw(st.integers(1, 9)) for _ in image.shape]
    origin = [data.draw(st.integers(-(k // 2), (k - 1) // 2)) for k in sizes]
    modes = [data.draw(st.sampled_from(RULES)) for _ in sizes]
    full = np.ones(sizes, bool)
    before = [k // 2 + o for k, o in zip(sizes, origin, strict=True)]
    for minimum, name in ((True, "minimum_filter"), (False, "maximum_filter")):
        expected = extremum(image, full, 0 * full, before, modes, minimum)
        result = getattr(ndimage, name)(image, sizes, mode=modes, cval=CVAL, origin=origin)
        np.testing.assert_array_equal(result, expected)


@settings(max_examples=150)
@given(st.data())
def test_openings_lie_below_and_closings_above_for_every_footprint(data):
    """Even, asymmetric, shifted, without their own position; along some axes; and idempotent."""
    image = data.draw(images(("uint8", "float32")))
    axes = tuple(range(data.draw(st.integers(0, image.ndim - 1)), image.ndim))
    footprint, _, origin = data.draw(windows(len(axes)))
    arguments = {"footprint": footprint, "origin": origin, "axes": axes, "mode": "ignore"}
    opened, closed = (f(image, **arguments) for f in (ndimage.grey_opening, ndimage.grey_closing))
    assert (opened <= image).all()
    assert (closed >= image).all()
    np.testing.assert_array_equal(ndimage.grey_opening(opened, **arguments), opened)
    np.testing.assert_array_equal(ndimage.grey_closing(closed, **arguments), closed)
    dilated = ndimage.grey_dilation(image, **arguments)
    for other in (np.flip(image), np.maximum(np.flip(image), dilated)):
        eroded = ndimage.grey_erosion(other, **arguments)
        assert (dilated <= other).all() == (image <= eroded).all()


def test_openings_by_a_reflecting_border_are_not_all_below():
    """The reason for this mode; and that the law above can fail."""
    row = np.array([4, 7, 0, 3, 4, 2])
    assert not (ndimage.grey_opening(row, footprint=[1, 0, 0]) <= row).all()
    opened = ndimage.grey_opening(row, footprint=[1, 0, 0], mode="ignore")
    assert opened.tolist() == [4, 7, 0, 3, 4, np.iinfo(row.dtype).min]


@pytest.mark.parametrize("shape", [(3, 3), (5, 4), (1, 6)])
def test_the_results_are_those_of_scikit_image(shape):
    skimage = pytest.importorskip(
        "skimage", minversion="0.23"
    )  # the first whose erosion has a mode
    random = np.random.default_rng(0)
    image = random.integers(0, 255, (12, 15)).astype(np.uint8)
    footprint = random.random(shape) < 0.7
    footprint[tuple(k // 2 for k in shape)] = True
    origin = tuple((k - 1) // 2 - k // 2 for k in shape)  # the middle of an even size
    eroded = ndimage.grey_erosion(image, footprint=footprint, mode="ignore", origin=origin)
    theirs = skimage.morphology.erosion(image, footprint, mode="ignore")
    np.testing.assert_array_equal(eroded, theirs)


@pytest.mark.parametrize("mode", ["ignore", ("ignore", "nearest")])
def test_sums_refuse_it(mode):
    image, weights = np.ones((4, 5)), np.ones((3, 3))
    for call in (ndimage.correlate, ndimage.convolve):
        with pytest.raises(RuntimeError):
            call(image, weights, mode=mode)
    if mode == "ignore":
        for call in (ndimage.correlate1d, ndimage.convolve1d):
            for error in (RuntimeError, ValueError):
                with pytest.raises(error, match="mode='ignore' is for minima and maxima"):
                    call(image, weights[0], mode=mode)
        with pytest.raises(ValueError, match="image of ones"):
            ndimage.convolve(image + 1j, weights, mode=mode)


def test_a_window_that_sees_nothing_gives_the_zero():
    for dtype in ("uint8", "int64", "float32", "float16"):
        low, high = ends(dtype)
        image = np.array([5, 6, 7], dtype)
        window = {"footprint": [1, 0, 0], "mode": "ignore"}
        for value in ({}, {"structure": [2, 2, 2]}):
            assert ndimage.grey_erosion(image, **window, **value)[0] == high
            assert ndimage.grey_dilation(image, **window, **value)[2] == low
    wide = ndimage.maximum_filter(image.astype(np.int8), output=np.int32, **window)
    assert wide.tolist() == [np.iinfo(np.int32).min, 5, 6]
    black = np.zeros(3, bool)
    assert ndimage.minimum_filter(black, **window).tolist() == [True, False, False]


DIFFERENCES = ("morphological_gradient", "morphological_laplace", "white_tophat", "black_tophat")


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_need_something_to_see(name):
    image = np.random.default_rng(1).integers(0, 99, (4, 7))
    call = getattr(ndimage, name)
    for mode in ("ignore", ("nearest", "ignore")):
        with pytest.raises(ValueError, match=r"mode=.*sees nothing of an image of shape \(4, 7\)"):
            call(image, footprint=[[1, 0, 0]], mode=mode)
    # Without its own position, but with something to see from everywhere.
    assert (np.abs(call(image, footprint=[[1, 0, 1]], mode="ignore")) < 400).all()
    with pytest.raises(ValueError, match=r"of shape \(4, 1\)"):
        call(image[:, :1], footprint=[[1, 0, 1]], mode="ignore")
    call(image, footprint=[[1, 0, 0]], mode=("ignore", "nearest"))
    assert call(image[:0], footprint=[[1, 0, 0]], mode="ignore").shape == (0, 7)


@pytest.mark.parametrize("mode", ["reflect", "mirror", "wrap", "constant"])
def test_a_footprint_takes_a_mode_for_each_axis(mode):
    """SciPy refuses a sequence, of equal modes too."""
    image = np.random.default_rng(2).integers(0, 99, (5, 6, 3))
    footprint = np.array([[1, 0, 1, 1], [0, 1, 0, 0]], bool)
    for structure in (None, footprint * 4):
        arguments = {"footprint": footprint, "axes": (1, 0), "origin": (1, 0)}
        call = ndimage.grey_dilation
        expected = call(image, structure=structure, mode=mode, **arguments)
        result = call(image, structure=structure, mode=[mode, mode], **arguments)
        np.testing.assert_array_equal(result, expected)
    with pytest.raises(RuntimeError, match=r"mode: .* for 2 axes"):
        ndimage.maximum_filter(image, footprint=footprint, mode=[mode] * 3, axes=(0, 1))
    with pytest.raises(RuntimeError, match="'reflekt'"):
        ndimage.maximum_filter(image, footprint=footprint, mode=[mode, "reflekt"], axes=(0, 1))


def test_structures_that_are_outer_sums_ignore_what_is_outside():
    """One axis at a time: a constant beyond one border is seen beside another that is ignored."""
    image = np.random.default_rng(3).integers(0, 9, (5, 6)).astype(np.float32)
    structure = structuring.quadratic(2.0, size=5)
    whole = np.array(structure)
    for mode in ("ignore", ("ignore", "constant"), ("constant", "ignore"), ("nearest", "ignore")):
        for name in ("grey_dilation", "grey_erosion"):
            fast, slow = (
                getattr(ndimage, name)(image, structure=s, mode=mode, cval=6)
                for s in (structure, whole)
            )
            np.testing.assert_allclose(fast, slow, rtol=1e-6)
