"""Parabolas without end: against all pairs of elements, laws, and one backend against another."""

import math
import tracemalloc

import cases
import numpy as np
import oracle
import pytest
from cuda_on_cpu.device import HarnessDevice
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import semiconv_cupy as sc
from semiconv_cupy.ndimage import cuda, host, reference
from semiconv_cupy.ndimage.lines import Pass, costs
from semiconv_cupy.ndimage.neighbourhood import served_by

FUNCTIONS = (
    sc.parabolic_dilation, sc.parabolic_erosion, sc.parabolic_opening, sc.parabolic_closing,
)  # fmt: skip
# What a CPU library, in one shared object, reads and writes.
DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64")
SCALES = st.sampled_from([0, 0.03, 0.3, 1, 2.5, 17, 300, 1e6, 1e200, math.inf])


def image_of(random, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        image = random.standard_normal(shape).astype(dtype)
        image[random.random(shape) < 0.05] = np.inf
        image[random.random(shape) < 0.1] = np.nan
        return image
    info = np.iinfo(dtype)
    return random.integers(max(info.min, -500), min(info.max, 500), shape, dtype, endpoint=True)


@given(
    st.integers(0, 2**32),
    arrays.array_shapes(min_dims=1, max_dims=4, max_side=40).filter(lambda s: math.prod(s) < 700),
    st.sampled_from(DTYPES),
    st.data(),
)
def test_all_pairs_of_elements(seed, shape, dtype, data):
    image = image_of(np.random.default_rng(seed), shape, dtype)
    scales = [data.draw(SCALES) for _ in shape]
    if not any(scales):  # the identity
        image[image != image] = 0
    flat = [1e300 if s == math.inf else s for s in scales]
    assert_rounded(sc.parabolic_erosion(image, scales), oracle.parabolic_erosion(image, flat))
    negated = -image.astype(np.float64)
    expected = -oracle.parabolic_erosion(negated, flat)
    assert_rounded(sc.parabolic_dilation(image, scales), expected)


def assert_rounded(result, expected):
    """Within half a last place of the result's dtype, and the rounding of doubles."""
    wide, kind = result.astype(np.longdouble), result.dtype
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(wide[~finite], expected[~finite])
    wide, expected = wide[finite], expected[finite]
    if kind.kind in "iu":
        assert np.all(abs(wide - expected) <= 0.5 + 1e-9)
        return
    overflows = abs(expected) > np.finfo(kind).max
    assert np.isinf(wide[overflows]).all()
    error, size = abs(wide - expected)[~overflows], abs(expected[~overflows])
    last = np.spacing(size.astype(kind)).astype(np.longdouble)
    assert np.all(error <= last / 2 + 8 * np.finfo(np.float64).eps * (1 + size))


def test_a_scale_of_zero_leaves_an_axis_as_it_is():
    image = np.random.default_rng(1).integers(0, 99, (5, 6, 7), np.uint8)
    for function in FUNCTIONS:
        np.testing.assert_array_equal(function(image, 0), image)
        assert function(image, 0) is not image
        rows = np.stack([function(plane, (0, 3)) for plane in image])
        np.testing.assert_array_equal(function(image, (0, 3), axes=(1, 2)), rows)
        np.testing.assert_array_equal(function(image, 3, axes=-1), rows)
    assert sc.parabolic_dilation(np.array(3), 2) == 3
    wide = sc.parabolic_dilation(np.array([[-7.5, 300]]), 0, output=np.uint8)
    np.testing.assert_array_equal(wide, np.array([[0, 255]], np.uint8))
    np.testing.assert_array_equal(sc.parabolic_opening([np.nan, 1.0], 0), [np.nan, 1.0])
    large = np.array([2**53 + 1, -(2**62) - 3, 2**63 - 2])  # no doubles
    np.testing.assert_array_equal(sc.parabolic_closing(large, 0), large)


def test_an_infinite_scale_takes_the_extremum_of_an_axis():
    image = np.random.default_rng(2).standard_normal((30, 40)).astype(np.float32)
    result = sc.parabolic_dilation(image, (math.inf, 0))
    np.testing.assert_array_equal(result, np.broadcast_to(image.max(0), image.shape))
    result = sc.parabolic_erosion(image, math.inf)
    np.testing.assert_array_equal(result, np.full_like(image, image.min()))


def test_a_window_of_a_quadratic_that_is_large_enough_gives_the_same():
    image = np.random.default_rng(3).random((40, 50))
    for scale in (1.0, (2.0, 0.7), np.diag([4.0, 9.0])):
        krn = sc.structuring.quadratic(scale)
        windowed = sc.ndimage.grey_dilation(image, structure=krn, mode="constant", cval=-np.inf)
        np.testing.assert_allclose(sc.parabolic_dilation(image, scale), windowed, rtol=1e-6)
    short = sc.structuring.quadratic(3.0, ndim=2, size=3)
    cut = sc.ndimage.grey_dilation(image, structure=short, mode="constant", cval=-np.inf)
    assert (cut <= sc.parabolic_dilation(image, 3.0) + 1e-6).all()


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.int16]), arrays.array_shapes(max_dims=3, max_side=20)
    ),
    st.sampled_from([0.1, 1 / 3, 0.5, 1, 2.7, 9]),
)
def test_openings_and_closings_of_integers_are_idempotent(image, scale):
    opened, closed = sc.parabolic_opening(image, scale), sc.parabolic_closing(image, scale)
    assert (opened <= image).all()
    assert (image <= closed).all()
    np.testing.assert_array_equal(sc.parabolic_opening(opened, scale), opened)
    np.testing.assert_array_equal(sc.parabolic_closing(closed, scale), closed)


@pytest.mark.parametrize("backend", [None, reference])
def test_whole_results_stay_however_large(backend):
    image = np.array([2**52 - 1, 2**51 + 1, 2**50 + 3, 2**52 - 3])
    with served_by(backend):
        least = np.full_like(image, image.min())
        np.testing.assert_array_equal(sc.parabolic_opening(image, math.inf), least)
        np.testing.assert_array_equal(sc.parabolic_closing(-image, math.inf), -least)


def test_duality_and_adjunction():
    random = np.random.default_rng(4)
    f, g = random.standard_normal((2, 25, 35))
    dilated = sc.parabolic_dilation(f, 2)
    np.testing.assert_array_equal(dilated, -sc.parabolic_erosion(-f, 2))
    np.testing.assert_array_equal(sc.parabolic_opening(f, 2), -sc.parabolic_closing(-f, 2))
    below = (dilated <= g).all()
    assert below == (f <= sc.parabolic_erosion(g, 2)).all()
    g = dilated + 1e-9
    assert (f <= sc.parabolic_erosion(g, 2)).all()


def test_integers_saturate_in_one_rounding():
    image = np.array([0, 250, 10], np.uint8)
    result = sc.parabolic_dilation(image, 0.2, output=np.int8)
    np.testing.assert_array_equal(result, np.array([127, 127, 127], np.int8))
    top = np.array([2**63 - 1, 0, -(2**63)], np.int64)
    np.testing.assert_array_equal(sc.parabolic_erosion(top, 1e-300), top)
    np.testing.assert_array_equal(
        sc.parabolic_dilation(np.array([2**64 - 1, 0], np.uint64), 1, output=np.uint64)[0:1],
        np.array([2**64 - 1], np.uint64),
    )


def test_output_and_memory_order():
    random = np.random.default_rng(5)
    image = random.integers(0, 255, (12, 3, 14), np.uint8)
    expected = sc.parabolic_dilation(image, 0.3, axes=(0, 2))
    for order in ("C", "F"):
        to = np.zeros(image.shape, np.uint8, order=order)
        assert sc.parabolic_dilation(image, 0.3, axes=(0, 2), output=to) is to
        np.testing.assert_array_equal(to, expected)
    turned = sc.parabolic_dilation(image.T, 0.3, axes=(2, 0))
    np.testing.assert_array_equal(turned, expected.T)
    same = image.copy()
    sc.parabolic_dilation(same, 0.3, axes=(0, 2), output=same)
    np.testing.assert_array_equal(same, expected)
    swapped = sc.parabolic_dilation(image.astype(">i4")[:, ::-1], 0.3, axes=(0, 2))
    np.testing.assert_array_equal(swapped, expected[:, ::-1])
    assert sc.parabolic_erosion(np.zeros((0, 3)), 2).shape == (0, 3)
    doubles = sc.parabolic_dilation(image, 0.3, axes=(0, 2), output=np.float64)
    np.testing.assert_array_equal(np.rint(doubles), expected)


@pytest.mark.parametrize("dtype", cases.slow_except(DTYPES, "uint8", "float32"))
@pytest.mark.parametrize("backend", [reference, cuda.Backend(HarnessDevice(order="reverse"))])
def test_every_backend_gives_the_same_bits(backend, dtype):
    image = image_of(np.random.default_rng(6), (3, 70, 23), dtype)
    image[0] = np.sort(image[0], axis=0)  # nearly equal sums
    for function, scale in zip(FUNCTIONS, (0.4, 3, (0, 1, 40), 1e9), strict=True):
        expected = function(image, scale)
        with served_by(backend):
            result = function(image, scale)
        np.testing.assert_array_equal(result, expected, err_msg=str(function))


@pytest.mark.parametrize("shared_bytes", [5000, 2000, 1000])
def test_few_lines_side_by_side(shared_bytes):
    """Four, two, and none, whose lines are copied together."""
    image = image_of(np.random.default_rng(6), (3, 70, 23), "uint8")
    expected = sc.parabolic_dilation(image, (0, 3, 2))
    limits = cuda.Limits(shared_bytes=shared_bytes)
    with served_by(cuda.Backend(HarnessDevice(), limits)):
        np.testing.assert_array_equal(sc.parabolic_dilation(image, (0, 3, 2)), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_large_images_take_little_memory(dtype):
    image = image_of(np.random.default_rng(7), (700, 800), dtype)
    size = np.dtype(dtype).itemsize
    for function in FUNCTIONS:
        tracemalloc.start()
        result = function(image, 5)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        doubles = function in (sc.parabolic_opening, sc.parabolic_closing)
        assert most <= 3e5 + image.size * (8 if doubles else 2 * size)
        again = function(image, 5, output=np.float64)
        rounded = again.astype(dtype) if size == 4 else np.rint(again).astype(dtype)
        if not doubles or size == 4:  # integers are rounded to one side
            np.testing.assert_array_equal(result, rounded)
        else:
            assert abs(result - again).max() < 1


@pytest.mark.parametrize("shape", [(513, 1025), (8200, 4, 17)])
def test_a_last_part_of_one_element(shape):
    """Large images go by parts of a multiple of 16 elements of the last axis."""
    image = image_of(np.random.default_rng(8), shape, "uint8")
    for function in (sc.parabolic_dilation, sc.parabolic_erosion):
        expected = np.rint(function(image, 0.7, output=np.float64))
        np.testing.assert_array_equal(function(image, 0.7), expected)


@pytest.mark.parametrize("backend", [host, reference, cuda.Backend(HarnessDevice())])
def test_a_pass_into_a_column_writes_nothing_beside_it(backend):
    column = np.random.default_rng(9).integers(0, 99, (70, 1)).astype(np.float64)
    whole, alone = np.full((70, 5), 7, np.uint8), np.empty((70, 1), np.uint8)
    for out in (whole[:, 2:3], alone):
        backend.parabolas(column, Pass(0, costs(70, 2.0), out))
    np.testing.assert_array_equal(whole[:, 2:3], alone)
    assert (np.delete(whole, 2, axis=1) == 7).all()


def test_infinities_and_nothing():
    none = np.full((4, 5), np.nan, np.float32)
    assert np.isneginf(sc.parabolic_dilation(none, 1)).all()
    assert np.isposinf(sc.parabolic_erosion(none, 1)).all()
    one = np.zeros((4, 5))
    one[1, 2] = -np.inf
    assert np.isneginf(sc.parabolic_erosion(one, (2, 0))[:, 2]).all()
    assert np.isneginf(sc.parabolic_erosion(one, 2)).all()


@pytest.mark.parametrize(
    ("error", "text", "image", "scale"),
    [
        (ValueError, "at least 0 .* got -1", np.zeros(3), -1),
        (ValueError, "at least 0 .* got nan", np.zeros(3), math.nan),
        (ValueError, r"structuring.quadratic\(scale\)", np.zeros((3, 3)), [[2.0, 1], [1, 2]]),
        (ValueError, r"must have shape \(1, 1\)", np.zeros(3), np.eye(2)),
        (ValueError, "variances >= 0", np.zeros((3, 3)), -np.eye(2)),
        (RuntimeError, "scale: sequence", np.zeros((3, 3)), (1, 2, 3)),
        (TypeError, "scale must be numbers", np.zeros(3), "wide"),
        (TypeError, "input is of bool", np.zeros(3, bool), 1),
        (TypeError, "Complex", np.zeros(3, complex), 1),
    ],
)
def test_wrong_arguments(error, text, image, scale):
    for function in FUNCTIONS:
        with pytest.raises(error, match=text):
            function(image, scale)
    with pytest.raises(TypeError, match="output of bool"):
        sc.parabolic_dilation(np.zeros(3), 1, output=bool)
