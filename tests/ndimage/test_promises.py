"""What SciPy or CuPy get wrong or refuse, and what is promised beyond them."""

import doctest
import inspect
import pickle
import tracemalloc
import warnings

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


def test_nothing_compiles_for_another_size_mode_origin_or_constant():
    from semiconv_cupy.backends import libraries

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


@pytest.mark.parametrize("name", ["distance_transform_edt", "label", "gaussian_filter"])
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
    )
    for name in inspect.signature(function).parameters
    if name in ARRAYS
]


@pytest.mark.parametrize(("function", "name"), TAKING_ARRAYS)
def test_masked_arrays_are_refused(function, name):
    """Their masks would be lost."""
    image = np.eye(5)
    line = function.__name__.endswith("1d")
    given = {"input": image, "image": image, "seed": image, "mask": image, "iterations": 2}
    given |= {"weights": np.ones(3) if line else np.ones((3, 3)), "structure": np.eye(3)}
    if "footprint" not in inspect.signature(function).parameters or name == "output":
        given["size"] = 3
    given[name] = np.ma.array(given.get(name, image))
    known = inspect.signature(function).parameters
    arguments = {key: value for key, value in given.items() if key in known}
    with pytest.raises(TypeError, match=rf"{name} is a masked array.*{name}.filled"):
        function(**arguments)
