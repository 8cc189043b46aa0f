"""Distance transforms: against all pairs of elements, SciPy, and one another."""

import math

import numpy as np
import oracle
import pytest
from cuda_on_cpu.device import HarnessDevice

from semiconv_cupy import ndimage
from semiconv_cupy.ndimage import cuda, reference
from semiconv_cupy.ndimage.neighbourhood import served_by

scipy_ndimage = pytest.importorskip("scipy.ndimage")


def images(count, seed, longest=60, most_elements=60_000):
    """Foregrounds of ranks 1 to 5 and sizes 1 to `longest`: all densities, single pixels."""
    random = np.random.default_rng(seed)
    for n in range(count):
        rank = int(random.integers(1, 6))
        most = min(longest, int(most_elements ** (1 / rank)))
        shape = tuple(random.integers(1, most + 1, rank))
        kind = n % 6
        image = random.random(shape) < random.choice([0.1, 0.5, 0.9, 0.99])
        if kind == 0:
            image[...] = random.random() < 0.5
        elif kind == 1:
            image[...] = True
            image[tuple(random.integers(0, shape))] = False
        elif kind == 2:
            image[...] = False
            image[tuple(random.integers(0, shape))] = True
        yield image, random


def assert_nearest(image, distances, indices, sampling=None):
    """Distances and indices belong together, and no element is nearer by SciPy's account."""
    if image.all():
        assert np.isposinf(distances).all()
        assert (indices == -1).all()
        return
    assert not image[tuple(indices)].any()
    steps = np.ones(image.ndim) if sampling is None else np.asarray(sampling)
    away = (indices - np.indices(image.shape)) * steps.reshape(-1, *(1,) * image.ndim)
    expected = scipy_ndimage.distance_transform_edt(image, sampling)
    if sampling is None:
        np.testing.assert_array_equal(distances, expected)
        np.testing.assert_array_equal(np.sqrt((away**2).sum(0)), expected)
    else:
        np.testing.assert_allclose(distances, expected, rtol=1e-14, atol=0)
        np.testing.assert_allclose(np.sqrt((away**2).sum(0)), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_euclidean_distances_are_scipys(count):
    """To the bit without sampling; with sampling from 1e-3 to 1e3 within rounding."""
    for image, random in images(count, seed=count):
        assert_nearest(image, *ndimage.distance_transform_edt(image, return_indices=True))
        sampling = 10 ** random.uniform(-3, 3, image.ndim)
        given = ndimage.distance_transform_edt(image, sampling, return_indices=True)
        assert_nearest(image, *given, sampling)


def test_of_several_that_are_equally_near_the_first_in_c_order():
    for image, random in images(60, seed=3, most_elements=600):
        squares, indices = oracle.nearest_background(image)
        given = ndimage.distance_transform_edt(image, return_indices=True)
        np.testing.assert_array_equal(given[0], np.sqrt(squares))
        np.testing.assert_array_equal(given[1], indices)
        sampling = random.integers(1, 4, image.ndim)
        squares, indices = oracle.nearest_background(image, sampling)
        given = ndimage.distance_transform_edt(image, sampling, return_indices=True)
        np.testing.assert_array_equal(given[0], np.sqrt(squares))
        np.testing.assert_array_equal(given[1], indices)


@pytest.mark.parametrize(
    "backend",
    [
        reference,
        cuda.Backend(HarnessDevice(order="reverse")),
        cuda.Backend(HarnessDevice(), cuda.Limits(shared_bytes=1500)),
    ],
)
def test_every_backend_finds_the_same_elements(backend):
    """With sampling, too: whichever sums are compared, the least rounded one wins."""
    for image, random in images(40, seed=4, most_elements=3000):
        for sampling in (None, 10 ** random.uniform(-1, 1, image.ndim)):
            expected = ndimage.distance_transform_edt(image, sampling, return_indices=True)
            with served_by(backend):
                given = ndimage.distance_transform_edt(image, sampling, return_indices=True)
            np.testing.assert_array_equal(given[0], expected[0])
            np.testing.assert_array_equal(given[1], expected[1])
        structure = random.random((3,) * image.ndim) < 0.6
        expected = ndimage.distance_transform_cdt(image, structure, return_indices=True)
        with served_by(backend):
            given = ndimage.distance_transform_cdt(image, structure, return_indices=True)
        np.testing.assert_array_equal(given[0], expected[0])
        np.testing.assert_array_equal(given[1], expected[1])


@pytest.mark.parametrize("metric", ["euclidean", "cityblock", "Chessboard"])
def test_distances_by_any_metric_are_scipys(metric):
    """The indices as well: of several elements equally near, the last in C order."""
    for image, _ in images(40, seed=7, most_elements=2000):
        given = ndimage.distance_transform_bf(image, metric, return_indices=True)
        alone = ndimage.distance_transform_bf(image, metric)
        np.testing.assert_array_equal(alone, given[0])
        assert alone.dtype == given[0].dtype
        if image.all():
            assert (given[0] == (np.inf if metric == "euclidean" else 2**32 - 1)).all()
            assert (given[1] == -1).all()
            continue
        expected = scipy_ndimage.distance_transform_bf(image, metric, return_indices=True)
        for one, other in zip(given, expected, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype


def test_a_long_axis_beside_short_ones_takes_no_longer():
    image = np.ones((2, 1, 2, 2, 90), bool)
    image[1, 0, 1, 0, 89] = False
    distances, indices = ndimage.distance_transform_bf(image, "chessboard", return_indices=True)
    np.testing.assert_array_equal(distances[0, 0, 0, 1], np.r_[89:0:-1, 1])
    assert (indices == np.array([1, 0, 1, 0, 89]).reshape(5, 1, 1, 1, 1, 1)).all()


def test_chessboard_indices_far_from_the_background():
    for shape in ((500, 300), (40, 50, 60)):
        image = np.ones(shape, bool)
        image[tuple(n // 3 for n in shape)] = False
        distances, indices = ndimage.distance_transform_bf(image, "chessboard", return_indices=True)
        where = np.array([n // 3 for n in shape]).reshape(-1, *(1,) * len(shape))
        assert (indices == where).all()
        np.testing.assert_array_equal(distances, abs(np.indices(shape) - where).max(axis=0))


def test_taxicab_indices_far_from_the_background():
    for seed in range(40):
        random = np.random.default_rng(seed)
        image = random.random(random.integers(20, 60, 2)) < random.choice([0.97, 0.99])
        given = ndimage.distance_transform_bf(image, "taxicab", return_indices=True)
        expected = scipy_ndimage.distance_transform_bf(image, "taxicab", return_indices=True)
        np.testing.assert_array_equal(given[1], expected[1])


def test_chamfer_distances_are_scipys():
    """By name and by any structure of bool; where no step leads, SciPy's index is the element's."""
    for image, random in images(60, seed=8, most_elements=2000):
        structure = random.random((3,) * image.ndim) < 0.6
        for metric in ("chessboard", "manhattan", structure):
            given = ndimage.distance_transform_cdt(image, metric, return_indices=True)
            expected = scipy_ndimage.distance_transform_cdt(image, metric, return_indices=True)
            np.testing.assert_array_equal(given[0], expected[0])
            np.testing.assert_array_equal(given[1], np.where(given[0] < 0, -1, expected[1]))
            assert [a.dtype for a in given] == [a.dtype for a in expected]
            number = structure.astype(np.float64) if metric is structure else metric
            alone = ndimage.distance_transform_cdt(image, number)
            np.testing.assert_array_equal(alone, expected[0])


def test_long_lines_and_any_memory_order():
    random = np.random.default_rng(5)
    image = random.random((3, 700, 45)) < 0.995
    expected = scipy_ndimage.distance_transform_edt(image)
    for axes in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        turned = image.transpose(axes)
        np.testing.assert_array_equal(
            ndimage.distance_transform_edt(turned), expected.transpose(axes)
        )
    strided = np.repeat(image, 2, axis=1)[:, ::-2]
    np.testing.assert_array_equal(
        ndimage.distance_transform_edt(strided), scipy_ndimage.distance_transform_edt(strided)
    )


def test_any_dtype_and_what_is_not_zero():
    for dtype in ("int8", "uint16", "float16", "float32", "complex64", ">i4"):
        given = ndimage.distance_transform_edt(np.array([0, 3, 1, 0], dtype))
        np.testing.assert_array_equal(given, [0, 1, 1, 0])
    np.testing.assert_array_equal(ndimage.distance_transform_edt([np.nan, -0.0, -1.0]), [1, 0, 1])
    assert ndimage.distance_transform_edt(1).shape == (1,)
    for shape in ((0,), (0, 3), (3, 0)):
        given = ndimage.distance_transform_edt(np.ones(shape), return_indices=True)
        assert given[0].shape == shape
        assert given[1].shape == (len(shape), *shape)


def test_squared_distances_far_apart_are_exact():
    """sqrt(n ** 2) of an n whose square needs more than 32 bits."""
    image = np.ones(200_001, bool)
    image[0] = False
    np.testing.assert_array_equal(ndimage.distance_transform_edt(image), np.arange(200_001.0))
    plane = np.ones((70_000, 2), bool)
    plane[0, 0] = False
    expected = [[n, math.sqrt(n * n + 1)] for n in range(70_000)]
    np.testing.assert_array_equal(ndimage.distance_transform_edt(plane), expected)


def test_results_go_to_arrays_of_the_caller():
    image = np.random.default_rng(6).random((20, 30)) < 0.9
    d, i = ndimage.distance_transform_edt(image, return_indices=True)
    for order in ("C", "F"):
        to = np.zeros((20, 30), order=order), np.zeros((2, 20, 30), np.int32, order=order)
        given = dict(return_indices=True, distances=to[0], indices=to[1])
        assert ndimage.distance_transform_edt(image, **given) is None
        np.testing.assert_array_equal(to[0], d)
        np.testing.assert_array_equal(to[1], i)
    swapped = np.zeros((20, 30), ">f8")
    ndimage.distance_transform_edt(image, distances=swapped)
    np.testing.assert_array_equal(swapped, d)
    only = ndimage.distance_transform_edt(image, return_indices=True, distances=to[0])
    np.testing.assert_array_equal(only, i)
    only = ndimage.distance_transform_edt(image, return_distances=False, return_indices=True)
    np.testing.assert_array_equal(only, i)


@pytest.mark.parametrize(
    ("error", "text", "given"),
    [
        (RuntimeError, "at least one of", dict(return_distances=False)),
        (RuntimeError, "return_indices must be True", dict(indices=np.zeros((2, 4, 5), np.int32))),
        (RuntimeError, "wrong shape: got .4,", dict(distances=np.zeros(4))),
        (RuntimeError, "must be float64", dict(distances=np.zeros((4, 5), np.float32))),
        (
            RuntimeError,
            "must be int32",
            dict(return_indices=True, indices=np.zeros((2, 4, 5), np.int64)),
        ),
        (TypeError, "distances must be an array", dict(distances=[[0]])),
        (RuntimeError, "sampling: sequence", dict(sampling=(1, 2, 3))),
        (ValueError, "sampling must be .* got nan", dict(sampling=math.nan)),
        (ValueError, "sampling must be .* got 1e.200", dict(sampling=1e200)),
        (TypeError, "sampling must be numbers", dict(sampling="ab")),
    ],
)
def test_wrong_arguments(error, text, given):
    with pytest.raises(error, match=text):
        ndimage.distance_transform_edt(np.ones((4, 5)), **given)


def test_what_is_no_number_is_no_foreground():
    for image in (None, [["a"]], np.array(["2020-01-01"], "M8[D]"), np.zeros(3, "i4,i4")):
        with pytest.raises(RuntimeError, match="data type not supported"):
            ndimage.distance_transform_edt(image)


def test_wrong_metrics():
    image = np.ones((4, 5))
    with pytest.raises(RuntimeError, match=r"metric not supported: .* got 'far'"):
        ndimage.distance_transform_bf(image, "far")
    with pytest.raises(RuntimeError, match="must be uint32"):
        ndimage.distance_transform_bf(image, "taxicab", distances=np.zeros((4, 5)))
    for metric, text in (
        ("euclidean", "invalid metric provided: .* got 'euclidean'"),
        (np.ones((3, 3, 3)), "must have 2 axes"),
        (np.ones((3, 5)), "sizes must be equal to 3"),
    ):
        with pytest.raises(ValueError, match=text):
            ndimage.distance_transform_cdt(image, metric)
    with pytest.raises(ValueError, match="must be int32"):
        ndimage.distance_transform_cdt(image, distances=np.zeros((4, 5)))
    many = np.broadcast_to(True, (2**16, 2**15))
    with pytest.raises(ValueError, match=r"less than 2\*\*31 elements"):
        ndimage.distance_transform_cdt(many, return_indices=True)
