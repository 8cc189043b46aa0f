"""CuPy arrays on a real GPU: the host's results, on the array's device."""

import numpy as np
import pytest
from test_backends import DTYPES, calls, image_of

import semiconv_cupy as sc
from semiconv_cupy import ndimage, structuring

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cupy():
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no GPU: {error}")
    return cupy


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_the_hosts(cupy, dtype):
    image = image_of(dtype, (70, 133))
    for name, call in calls(dtype).items():
        result = call(cupy.asarray(image))
        assert isinstance(result, cupy.ndarray)
        expected = call(image)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result.get(), expected, err_msg=f"{name} of {dtype}")


@pytest.mark.parametrize("name", ["white_tophat", "morphological_laplace", "grey_erosion"])
def test_output_may_be_the_input(cupy, name):
    image = image_of("float32")
    there = cupy.asarray(image)
    result = getattr(ndimage, name)(there, size=(3, 5), output=there)
    assert result is there
    np.testing.assert_array_equal(there.get(), getattr(ndimage, name)(image, size=(3, 5)))


def test_long_windows_volumes_and_strides(cupy):
    for shape, size in (((3000,), 999), ((40, 50, 60), (3, 9, 20)), ((9000, 3), (5000, 1))):
        image = image_of("uint8", shape)
        expected = ndimage.minimum_filter(image, size, mode="mirror")
        result = ndimage.minimum_filter(cupy.asarray(image), size, mode="mirror")
        np.testing.assert_array_equal(result.get(), expected)
    image = image_of("float32", (60, 80))
    result = ndimage.maximum_filter(cupy.asarray(image)[::-2, 3:].T, 5)
    np.testing.assert_array_equal(result.get(), ndimage.maximum_filter(image[::-2, 3:].T, 5))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64"])
def test_many_tiles(cupy, dtype):
    image = image_of(dtype, (1030, 1304))
    there = cupy.asarray(image)
    for size in (3, (9, 4), 21, 51, (1, 130), (130, 1)):
        for part in (slice(None), slice(1, -2)):  # rows that may be moved as words, and not
            expected = ndimage.maximum_filter(image[:, part], size)
            result = ndimage.maximum_filter(there[:, part], size)
            np.testing.assert_array_equal(result.get(), expected, err_msg=f"{size} {part}")
    expected = ndimage.grey_erosion(image, footprint=structuring.disk(20))
    result = ndimage.grey_erosion(there, footprint=structuring.disk(20))
    np.testing.assert_array_equal(result.get(), expected)
    image = image_of(dtype, (70, 90, 100))
    expected = ndimage.grey_dilation(image, footprint=structuring.ball(5), mode="constant")
    result = ndimage.grey_dilation(
        cupy.asarray(image), footprint=structuring.ball(5), mode="constant"
    )
    np.testing.assert_array_equal(result.get(), expected)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint64", "float16", "float32"])
def test_borders_that_take_no_part(cupy, dtype):
    image = image_of(dtype, (70, 133))
    structure = np.random.default_rng(1).integers(-99, 99, (4, 5))
    for mode in ("ignore", ("ignore", "constant")):
        border = {"mode": mode, "cval": 3}
        for call in (
            lambda a, border: ndimage.grey_opening(a, (4, 7), **border),
            lambda a, border: ndimage.grey_closing(a, footprint=structure > 9, **border),
            lambda a, border: ndimage.grey_dilation(a, structure=structure, **border),
        ):
            result = call(cupy.asarray(image), border)
            np.testing.assert_array_equal(result.get(), call(image, border))


def test_rolling_ball_and_reconstruction(cupy):
    image = image_of("uint8", (90, 80))
    result = sc.rolling_ball(cupy.asarray(image), 7)
    np.testing.assert_array_equal(result.get(), sc.rolling_ball(image, 7))
    seed = np.minimum(image, image[::-1])
    for part, h in ((image, 9), (image, 2.5), (image.astype(np.float32) * 0.37, 2)):
        heights = sc.h_maxima(cupy.asarray(part), h)
        np.testing.assert_array_equal(heights.get(), sc.h_maxima(part, h))
    opened = sc.opening_by_reconstruction(cupy.asarray(image), size=5)
    np.testing.assert_array_equal(opened.get(), sc.opening_by_reconstruction(image, size=5))
    result = sc.reconstruction(cupy.asarray(seed), cupy.asarray(image))
    np.testing.assert_array_equal(result.get(), sc.reconstruction(seed, image))


@pytest.mark.parametrize("iterations", [1, 3])
def test_an_iterated_structure_stays_on_the_device(cupy, iterations):
    structure = np.array([[0, 1], [1, 1], [0, 1]])
    there = ndimage.iterate_structure(cupy.asarray(structure), iterations)
    assert isinstance(there, cupy.ndarray)
    expected = ndimage.iterate_structure(structure, iterations)
    np.testing.assert_array_equal(there.get(), expected)


def test_arrays_of_two_libraries_are_refused(cupy):
    image = image_of("float32")
    with pytest.raises(TypeError, match="output"):
        ndimage.maximum_filter(cupy.asarray(image), 3, output=image)
    with pytest.raises(TypeError, match="seed"):
        sc.reconstruction(cupy.asarray(image), image)


@pytest.mark.parametrize("mode", ["reflect", "wrap", "constant"])
def test_windows_of_any_length_need_little_memory(cupy, mode):
    image = image_of("float32", (40, 60))
    there = cupy.asarray(image)
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    for size in (2**40, (2**62, 3), (3, 10**6)):
        result = ndimage.maximum_filter(there, size, mode=mode, cval=9)
        expected = ndimage.maximum_filter(image, size, mode=mode, cval=9)
        np.testing.assert_array_equal(result.get(), expected)
    assert pool.total_bytes() - before < 100 * image.nbytes


def test_weights_of_a_gpu_are_those_of_the_host(cupy):
    image = image_of("float32", (40, 60))
    image[3, 5] = np.inf
    for weights in (np.array([[1, 0, 2], [0, -3, 1e-30]]), np.array([[2, 0, 1]], np.int8)):
        for function in (ndimage.correlate, ndimage.convolve):
            result = function(cupy.asarray(image), cupy.asarray(weights), mode="wrap")
            np.testing.assert_array_equal(result.get(), function(image, weights, mode="wrap"))


def test_halves_are_rounded_once(cupy):
    middles = np.array([4.904296875, 1 + 2.0**-11, 2.0**-25, 3 * 2.0**-25, 60.03125])
    exact = np.concatenate([np.nextafter(middles, 0), np.nextafter(middles, np.inf)])
    result = ndimage.correlate(cupy.asarray(exact), [1.0], output=np.float16)
    np.testing.assert_array_equal(result.get(), exact.astype(np.float16))
    image = np.random.default_rng(0).standard_normal((50, 60)).astype(np.float16) * 100
    result = ndimage.morphological_laplace(cupy.asarray(image), 3)
    np.testing.assert_array_equal(result.get(), ndimage.morphological_laplace(image, 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_laplacians_overflow_only_where_they_must(cupy, dtype):
    image = (np.random.default_rng(1).random((30, 40)) * 2 - 1) * float(np.finfo(dtype).max)
    image = image.astype(dtype)
    result = ndimage.morphological_laplace(cupy.asarray(image), 3)
    np.testing.assert_array_equal(result.get(), ndimage.morphological_laplace(image, 3))


def test_distances_and_parabolas(cupy):
    random = np.random.default_rng(11)
    for shape in ((3000,), (130, 257), (9000, 3), (30, 40, 50)):
        image = random.random(shape) < 0.97
        there = cupy.asarray(image)
        for sampling in (None, random.random(len(shape)) + 0.1):
            given = ndimage.distance_transform_edt(there, sampling, return_indices=True)
            expected = ndimage.distance_transform_edt(image, sampling, return_indices=True)
            for one, other in zip(given, expected, strict=True):
                np.testing.assert_array_equal(one.get(), other)
        given = ndimage.distance_transform_cdt(there[:100], return_indices=True)
        expected = ndimage.distance_transform_cdt(image[:100], return_indices=True)
        for one, other in zip(given, expected, strict=True):
            np.testing.assert_array_equal(one.get(), other)
        for dtype in ("uint8", "int32", "float16", "float32", "float64"):
            grey = (random.standard_normal(shape) * 20 + 60).astype(dtype)
            for function in (sc.parabolic_dilation, sc.parabolic_opening):
                result = function(cupy.asarray(grey), 3)
                assert result.dtype == grey.dtype
                np.testing.assert_array_equal(result.get(), function(grey, 3))


@pytest.mark.parametrize("shape", [(3, 3), (1, 9), (9, 9)])
def test_an_output_may_be_the_weights(cupy, shape):
    """Kernels read weights while they write."""
    random = np.random.default_rng(0)
    image, weights = random.random(shape), random.random(shape)
    given = cupy.asarray(weights)
    for name in ("correlate", "convolve"):
        given[...] = cupy.asarray(weights)
        getattr(ndimage, name)(cupy.asarray(image), given, output=given)
        np.testing.assert_array_equal(given.get(), getattr(ndimage, name)(image, weights))
