"""What SciPy or CuPy get wrong or refuse, and what is promised beyond them."""

import doctest
import inspect
import pickle
import tracemalloc
import warnings
from fractions import Fraction

import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy import FootprintWarning, ndimage, structuring

IMAGE = np.random.default_rng(0).integers(0, 200, (20, 30)).astype(np.uint8)
GREY = (
    "grey_erosion", "grey_dilation", "grey_opening", "grey_closing", "morphological_gradient",
    "morphological_laplace", "white_tophat", "black_tophat",
)  # fmt: skip


@pytest.mark.parametrize("name", [*GREY, "minimum_filter", "maximum_filter"])
@pytest.mark.parametrize("window", [{"size": 3}, {"footprint": structuring.disk(2)}])
def test_output_may_be_the_input(name, window):
    image = IMAGE.copy()
    expected = getattr(ndimage, name)(image, **window)
    result = getattr(ndimage, name)(image, output=image, **window)
    assert result is image
    np.testing.assert_array_equal(image, expected)


def test_integers_saturate():
    image = np.array([0, 100, 250], np.uint8)
    assert ndimage.grey_dilation(image, structure=[10]).tolist() == [10, 110, 255]
    assert ndimage.grey_erosion(image, structure=[10]).tolist() == [0, 90, 240]
    image = image.astype(np.int8)
    assert ndimage.grey_dilation(image, structure=[60]).tolist() == [60, 127, 54]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_are_exact_in_64_bits(dtype):
    top = np.iinfo(dtype).max
    image = np.array([2**53 + 1, 5, top - 1], dtype)
    assert ndimage.maximum_filter(image, 1 + 2).tolist() == [2**53 + 1, top - 1, top - 1]
    assert ndimage.grey_dilation(image, structure=[3]).tolist() == [2**53 + 4, 8, top]
    assert ndimage.grey_erosion(image, structure=[3]).tolist() == [2**53 - 2, 2, top - 4]
    wide = ndimage.grey_dilation(image, structure=[-1, 2, -1], footprint=[1, 1, 0])
    assert wide.tolist() == [2**53 + 3, top - 2, top]


def test_to_a_bool_image_a_structure_is_a_set():
    image = np.zeros((7, 9), bool)
    image[3, 4] = True
    for structure in (np.ones((3, 3)), np.ones((3, 3), bool), np.zeros((3, 3))):
        result = ndimage.grey_dilation(image, structure=structure)
        np.testing.assert_array_equal(result, ndimage.binary_dilation(image, np.ones((3, 3))))
    cross = ndimage.generate_binary_structure(2, 1)
    np.testing.assert_array_equal(
        ndimage.grey_dilation(image, structure=cross), ndimage.binary_dilation(image, cross)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nan_is_never_selected_whatever_the_direction(dtype):
    image = np.array([3, np.nan, 1, np.nan, np.nan, np.nan, np.nan], dtype)
    for part in (image, image[::-1]):
        for window in ({"size": 3}, {"footprint": [1, 1, 1, 0]}, {"structure": [0, 0, 0]}):
            low = ndimage.grey_erosion(part, mode="nearest", **window)
            high = ndimage.grey_dilation(part, mode="nearest", **window)
            assert not np.isnan(low).any()
            assert not np.isnan(high).any()
        assert low.max() == np.inf
        assert high.min() == -np.inf
        assert sorted(ndimage.maximum_filter(part, 3)[[0, -1]]) == [-np.inf, 3]


def test_negative_centres_do_not_matter():
    image = np.full((5, 5), -3, np.int32)
    structure = np.array([[0, 0, 0], [0, -9, 0], [0, 0, 0]])
    assert (ndimage.grey_dilation(image, structure=structure) == -3).all()


def test_half_precision():
    image = np.random.default_rng(1).standard_normal((30, 40)).astype(np.float16)
    for call in (
        lambda a: ndimage.maximum_filter(a, 5),
        lambda a: ndimage.grey_erosion(a, footprint=structuring.disk(3), mode="wrap"),
    ):
        result = call(image)
        assert result.dtype == np.float16
        np.testing.assert_array_equal(result, call(image.astype(np.float32)))


def test_bool_gradient_is_a_difference_of_sets():
    image = IMAGE > 150
    gradient = ndimage.morphological_gradient(image, size=3)
    expected = ndimage.grey_dilation(image, 3) & ~ndimage.grey_erosion(image, 3)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize(
    ("call", "arrays"),
    [
        (lambda a: ndimage.maximum_filter(a, 31), 1),
        (lambda a: ndimage.grey_closing(a, 31), 1),
        (lambda a: ndimage.grey_dilation(a, footprint=structuring.disk(15)), 1),
        (lambda a: ndimage.grey_dilation(a, structure=np.full((25, 25), 2)), 1),
        (lambda a: ndimage.white_tophat(a, 9), 1),
        (lambda a: ndimage.correlate(a, np.ones((25, 25))), 1),
        (lambda a: ndimage.binary_dilation(a > 0, iterations=40), 1),
    ],
)
def test_memory_does_not_grow_with_the_window(call, arrays):
    image = np.random.default_rng(2).standard_normal((700, 800)).astype(np.float32)
    call(image)
    tracemalloc.start()
    call(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * (2 * image.nbytes)


@pytest.mark.parametrize(
    "call",
    [
        lambda a: ndimage.maximum_filter1d(a, 3),
        lambda a: ndimage.maximum_filter(a, 5, mode="wrap"),
        lambda a: ndimage.grey_erosion(a, footprint=[1, 0, 1]),
        lambda a: ndimage.grey_dilation(a, structure=[1, 0, 2]),
        lambda a: ndimage.correlate(a, [1, 0, 2]),
        lambda a: ndimage.convolve1d(a, [1, 0, 2]),
        lambda a: ndimage.binary_erosion(a.view(bool)),
        lambda a: ndimage.maximum_filter1d(a.reshape(-1, 2), 3, axis=0),
        lambda a: ndimage.maximum_filter1d(a.reshape(-1, 4), 3, axis=1),
    ],
)
def test_a_long_axis_needs_no_memory_besides_the_result(call):
    """Not on the way, and nothing is kept afterwards.

    Of three calls the least counts: other threads of the process may allocate, too.
    """
    call(np.zeros(10**6 + 4, np.uint8))  # imports and starts what a large image needs
    found = []
    for elements in (10**6, 10**6 + 8, 10**6 + 16):
        image = np.zeros(elements, np.uint8)
        tracemalloc.start()
        result = call(image)
        found.append([traced - result.nbytes for traced in tracemalloc.get_traced_memory()])
        tracemalloc.stop()
    kept, peak = np.min(found, axis=0)
    assert peak < 0.2 * image.nbytes
    assert kept < 0.01 * image.nbytes


@pytest.mark.parametrize("size", [10**6, 2**40, 2**63 - 1])
@pytest.mark.parametrize("mode", ["reflect", "mirror", "wrap", "nearest", "constant"])
def test_windows_of_any_length_end_and_are_right(size, mode):
    """SciPy's window of 61 sees as much of these images."""
    scipy_ndimage = pytest.importorskip("scipy.ndimage")
    for image in (IMAGE[:4, :6], IMAGE[:1, :7], IMAGE[0, :5].astype(float), IMAGE[:2, 0] > 99):
        for name in ("minimum_filter", "maximum_filter", "minimum_filter1d", "maximum_filter1d"):
            for least in (0, 1):
                origins = (-(size // 2), -30) if least else (0, 0)
                mine, theirs = (
                    getattr(module, name)(image, k, mode=mode, cval=77, origin=origin)
                    for module, k, origin in zip(
                        (ndimage, scipy_ndimage), (size, 61), origins, strict=True
                    )
                )
                np.testing.assert_array_equal(mine, theirs)
        tall = ndimage.grey_closing(image, (size,) + (3,) * (image.ndim - 1), mode=mode)
        expected = scipy_ndimage.grey_closing(image, (61,) + (3,) * (image.ndim - 1), mode=mode)
        np.testing.assert_array_equal(tall, expected)


def test_long_windows_need_little_memory():
    image = np.random.default_rng(0).random((300, 400))
    tracemalloc.start()
    result = ndimage.maximum_filter(image, 10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * image.nbytes
    np.testing.assert_array_equal(result, np.full_like(image, image.max()))


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_nan_is_not_selected_by_long_windows(mode):
    image = np.full((3, 4), np.nan, np.float32)
    assert (ndimage.maximum_filter(image, 2**40, mode=mode, cval=np.nan) == -np.inf).all()
    image[1, 2] = 5
    assert (ndimage.minimum_filter(image, 99, mode=mode, cval=np.nan) == 5).all()


def test_a_ball_larger_than_the_image():
    image = np.random.default_rng(3).random((4, 6)) * 9
    np.testing.assert_array_equal(sc.rolling_ball(image, 1e9), np.full_like(image, image.min()))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_laplacians_overflow_only_where_they_must(dtype):
    """Against exact fractions, for numbers near the largest, of both signs and of one."""
    largest = float(np.finfo(dtype).max)
    near = np.full((5, 5), 0.6 * largest, dtype)
    np.testing.assert_array_equal(ndimage.morphological_laplace(near, 3), np.zeros_like(near))
    image = ((np.random.default_rng(4).random((12, 12)) * 2 - 1) * largest).astype(dtype)
    image[:6] = abs(image[:6]) / 2 + dtype(largest / 2)
    footprint = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    into = np.empty_like(image)
    for given in ({"size": 3}, {"footprint": footprint}, {"size": 3, "output": into}):
        result = ndimage.morphological_laplace(image, **given)
        window = {key: value for key, value in given.items() if key != "output"}
        parts = ndimage.grey_dilation(image, **window), ndimage.grey_erosion(image, **window), image
        assert np.isfinite(result).any()
        for found, *terms in zip(result.flat, *(part.flat for part in parts), strict=True):
            d, e, x = (Fraction(float(term)) for term in terms)
            exact = d + e - 2 * x
            if abs(exact) > largest:
                assert found == (np.inf if exact > 0 else -np.inf)
            else:
                spacing = Fraction(float(np.spacing(dtype(largest / 2))))
                assert abs(Fraction(float(found)) - exact) <= 4 * spacing


def test_laplacians_of_halves_are_rounded_once():
    image = np.random.default_rng(5).standard_normal((30, 40)).astype(np.float16)
    wide = image.astype(np.float64)
    exact = ndimage.grey_dilation(wide, 3) + ndimage.grey_erosion(wide, 3) - 2 * wide
    result = ndimage.morphological_laplace(image, 3)
    np.testing.assert_array_equal(result, exact.astype(np.float16))


def test_infinities_in_a_laplacian():
    image = np.array([[1, 2, 3, np.inf, 5, 6], [1, 2, 3, 4, 5, 6]])
    scipy_ndimage = pytest.importorskip("scipy.ndimage")
    with np.errstate(invalid="ignore"):
        expected = scipy_ndimage.morphological_laplace(image, 3)
    np.testing.assert_array_equal(ndimage.morphological_laplace(image, 3), expected)


# Doubles that lie next to the middle of two halves (small ones and the largest too), where a
# float32 on the way makes another half of them.
MIDDLES = np.array([4.904296875, 1 + 2.0**-11, 3 * 2.0**-11 + 1, 2.0**-25, 3 * 2.0**-25, 65520.0])


@pytest.mark.parametrize("name", ["correlate", "convolve", "correlate1d", "convolve1d"])
def test_sums_become_halves_in_one_rounding(name):
    exact = np.concatenate([MIDDLES, np.nextafter(MIDDLES, 0), np.nextafter(MIDDLES, np.inf)])
    exact = np.concatenate([exact, -exact, [0.0, np.inf, -np.inf, np.nan, 1e-300, -1e-300, 1e300]])
    with np.errstate(over="ignore"):
        expected = exact.astype(np.float16)
    result = getattr(ndimage, name)(exact, [1.0], output=np.float16)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))
    weights = np.random.default_rng(6).standard_normal(5)
    halves = np.random.default_rng(7).standard_normal(4000).astype(np.float16)
    wide = getattr(ndimage, name)(halves, weights, output=np.float64)
    narrow = getattr(ndimage, name)(halves, weights)
    np.testing.assert_array_equal(narrow, wide.astype(np.float16))
    one = np.array([4.904296874999999])  # the nearest half is 4.902
    assert getattr(ndimage, name)(one, [1.0], output="float16") == np.float16(4.902)


def test_nothing_compiles_for_another_size_mode_origin_or_constant():
    from semiconv_cupy.backends.host import libraries

    image = np.zeros((9, 9), np.float32)
    ndimage.maximum_filter(image, 3)
    ndimage.grey_dilation(image, footprint=structuring.disk(1))
    loaded = libraries.loaded()
    assert loaded  # else nothing would be counted
    for shape in ((3,), (20, 21), (4, 5, 6)):
        other = np.ones(shape, np.float32)
        for mode in ("reflect", "constant", "wrap"):
            ndimage.maximum_filter(other, 4, mode=mode, cval=3, origin=1)
            ndimage.grey_dilation(other, footprint=structuring.ball(2, len(shape)), mode=mode)
    assert libraries.loaded() == loaded


def test_empty_and_scalar_images():
    assert ndimage.maximum_filter(np.zeros((0, 4)), 3).shape == (0, 4)
    assert ndimage.maximum_filter(np.array(5), 3) == 5
    assert ndimage.binary_erosion(np.array(True)).shape == ()
    assert ndimage.grey_dilation(np.array(5), structure=np.array(2)) == 7
    assert ndimage.correlate(np.array(5.0), np.array(2.0)) == 10


def test_a_window_far_longer_than_the_image():
    image = np.arange(5.0)
    scipy_ndimage = pytest.importorskip("scipy.ndimage")
    for mode in ("reflect", "mirror", "wrap", "nearest", "constant"):
        np.testing.assert_array_equal(
            ndimage.maximum_filter(image, 61, mode=mode),
            scipy_ndimage.maximum_filter(image, 61, mode=mode),
        )


@pytest.mark.parametrize("name", GREY)
@pytest.mark.parametrize(
    "structure",
    [np.ones((3, 3), np.uint8), [[1.0, 1.0]], structuring.disk(1), np.zeros((3, 3), bool)],
)
def test_a_structure_that_looks_like_a_footprint_warns_at_the_call(name, structure):
    with pytest.warns(FootprintWarning, match="footprint=") as caught:
        getattr(ndimage, name)(IMAGE, structure=structure)
    assert {warning.filename for warning in caught} == {__file__}
    assert len(caught) == 1


@pytest.mark.parametrize("name", ["grey_erosion", "grey_dilation", "grey_opening", "white_tophat"])
@pytest.mark.parametrize(
    ("image", "window"),
    [
        (IMAGE, {"structure": np.zeros((3, 3))}),
        (IMAGE, {"structure": [[1]]}),
        (IMAGE, {"structure": [[0, 1]]}),
        (IMAGE, {"structure": [[2, 2]]}),
        (IMAGE, {"footprint": np.ones((3, 3))}),
        (IMAGE, {"size": 3}),
        (IMAGE > 90, {"structure": np.ones((3, 3), bool)}),
    ],
)
def test_other_windows_do_not_warn(name, image, window):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(ndimage, name)(image, **window)


@pytest.mark.parametrize("name", ["median_filter", "label", "gaussian_filter"])
def test_a_name_of_scipy_alone_is_explained_however_it_is_asked_for(name):
    message = f"has no {name}.*stay in scipy.ndimage"
    with pytest.raises(ImportError, match=message):
        exec(f"from semiconv_cupy.ndimage import maximum_filter, {name}")
    with pytest.raises(AttributeError, match=message):
        getattr(ndimage, name)
    assert getattr(ndimage, name, None) is None
    assert name not in dir(ndimage)


def test_names_that_exist_are_imported_as_from_any_package():
    namespace = {}
    exec("from semiconv_cupy.ndimage import *", namespace)
    assert set(ndimage.__all__) <= set(namespace)
    for name in ndimage.__all__:
        assert pickle.loads(pickle.dumps(getattr(ndimage, name))) is namespace[name]
    assert dict(inspect.getmembers(ndimage, inspect.isfunction)).keys() >= set(ndimage.__all__)
    assert any(test.examples for test in doctest.DocTestFinder().find(ndimage.binary_erosion))


ARRAYS = (
    "input", "image", "seed", "mask", "output", "footprint", "kernel", "offset", "weights",
    "structure", "structure1", "structure2",
)  # fmt: skip
TAKING_ARRAYS = [
    (function, name)
    for function in (
        *(getattr(ndimage, name) for name in ndimage.__all__),
        sc.rolling_ball,
        sc.reconstruction,
        sc.h_maxima,
        sc.opening_by_reconstruction,
    )
    for name in inspect.signature(function).parameters
    if name in ARRAYS
]


@pytest.mark.parametrize(("function", "name"), TAKING_ARRAYS)
def test_masked_arrays_are_refused(function, name):
    """Their masks would be lost."""
    image = np.eye(5)
    line = function.__name__.endswith("1d")
    given = {"input": image, "image": image, "seed": image, "mask": image, "iterations": 2, "h": 1}
    given |= {"weights": np.ones(3) if line else np.ones((3, 3)), "structure": np.eye(3)}
    if "footprint" not in inspect.signature(function).parameters or name == "output":
        given["size"] = 3
    given[name] = np.ma.array(given.get(name, image))
    known = inspect.signature(function).parameters
    arguments = {key: value for key, value in given.items() if key in known}
    remedy = "data" if name == "output" else "filled"
    with pytest.raises(TypeError, match=rf"(?s){name} is a masked array.*{name}.{remedy}"):
        function(**arguments)


def test_images_without_axes_or_of_swapped_bytes():
    assert sc.rolling_ball(np.array(5.0), radius=2) == 5
    assert sc.reconstruction(np.array(2), np.array(5), offset=[]) == 2
    for dtype in (">u2", ">i4", ">f4"):
        image = np.arange(20, dtype=dtype).reshape(4, 5)
        background = sc.rolling_ball(image, radius=2)
        assert background.dtype == image.dtype.newbyteorder("=")
        assert background.dtype.isnative
        assert np.array_equal(background, sc.rolling_ball(image.astype(background.dtype), radius=2))
