"""Structuring functions: independent formulas, footprints of other libraries, and laws."""

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import scipy.ndimage

from semiconv_cupy import structuring
from semiconv_cupy.structuring import StructuringFunction


def dilate(image, krn):
    """max over y of image[x - y] + krn[y], y from -((K - 1) // 2), by plain loops."""
    out = np.full(image.shape, -np.inf)
    for tap in itertools.product(*(range(length) for length in krn.shape)):
        offset = [t - (length - 1) // 2 for t, length in zip(tap, krn.shape, strict=True)]
        for target in itertools.product(*(range(length) for length in image.shape)):
            source = tuple(x - y for x, y in zip(target, offset, strict=True))
            if all(0 <= x < length for x, length in zip(source, image.shape, strict=True)):
                out[target] = max(out[target], float(image[source]) + float(krn[tap]))
    return out


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 7, 12])
def test_footprints_are_those_of_scikit_image(radius):
    morphology = pytest.importorskip("skimage.morphology")
    np.testing.assert_array_equal(structuring.disk(radius), morphology.disk(radius))
    np.testing.assert_array_equal(structuring.ball(radius), morphology.ball(radius))
    np.testing.assert_array_equal(structuring.diamond(radius), morphology.diamond(radius))
    np.testing.assert_array_equal(structuring.diamond(radius, 3), morphology.octahedron(radius))


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_unit_cross_diamond_and_ball_are_scipys_connectivity(ndim):
    expected = scipy.ndimage.generate_binary_structure(ndim, 1)
    for footprint in (structuring.cross, structuring.diamond, structuring.ball):
        np.testing.assert_array_equal(footprint(1, ndim), expected)


def test_footprints_hold_for_a_radius_that_is_no_integer():
    for ndim in (1, 2, 3):
        grid = np.array(list(itertools.product(range(-2, 3), repeat=ndim)), dtype=float)
        shape = (5,) * ndim
        inside = np.linalg.norm(grid, axis=1) <= 2.3
        np.testing.assert_array_equal(structuring.ball(2.3, ndim), inside.reshape(shape))
        inside = abs(grid).sum(axis=1) <= 2.3
        np.testing.assert_array_equal(structuring.diamond(2.3, ndim), inside.reshape(shape))
        inside = np.count_nonzero(grid, axis=1) <= 1
        np.testing.assert_array_equal(structuring.cross(2.3, ndim), inside.reshape(shape))


def test_box():
    assert structuring.box(3).shape == (3, 3)
    assert structuring.box(4, ndim=3).shape == (4, 4, 4)
    assert structuring.box((2, 5)).shape == (2, 5)
    assert structuring.box((2, 5)).all()
    assert structuring.box(np.int64(2)).dtype == np.bool_


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_flat_is_zero_inside_and_minus_infinity_outside(dtype):
    footprint = structuring.disk(3)
    krn = structuring.flat(footprint, dtype)
    assert krn.dtype == dtype
    assert krn.flags.c_contiguous
    assert np.all(krn[footprint] == 0)
    assert np.all(np.isneginf(krn[~footprint]))


def test_flat_of_a_transposed_footprint_is_contiguous():
    assert structuring.flat(structuring.box((2, 3)).T).flags.c_contiguous


def test_flat_for_a_boolean_image_is_the_footprint_and_a_copy_of_it():
    footprint = structuring.disk(1)
    krn = structuring.flat(footprint, bool)
    np.testing.assert_array_equal(krn, footprint)
    krn[0, 0] = True
    assert not footprint[0, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_flat_refuses_integers_and_names_the_remedy(dtype):
    with pytest.raises(TypeError, match=f"got {np.dtype(dtype)}.*footprint="):
        structuring.flat(structuring.disk(1), dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, (3, 6), (4, 1)])
@pytest.mark.parametrize("scale", [0.7, 3.0, (2.0, 5.0), [[5.0, -2.0], [-2.0, 3.0]]])
def test_quadratic_is_the_form_of_the_inverse_covariance(scale, size, dtype):
    krn = structuring.quadratic(scale, size=size, dtype=dtype)
    lengths = (size, size) if isinstance(size, int) else size
    assert krn.shape == lengths
    assert krn.dtype == dtype
    assert krn.flags.c_contiguous
    covariance = np.diag(np.ones(2) * np.square(scale)) if np.ndim(scale) < 2 else np.array(scale)
    inverse = np.linalg.inv(covariance)
    first = [{1: 0, 2: 0, 3: -1, 4: -1, 5: -2, 6: -2}[length] for length in lengths]
    for tap in np.ndindex(*lengths):
        x = np.array([t + f for t, f in zip(tap, first, strict=True)], dtype=float)
        np.testing.assert_allclose(krn[tap], -(x @ inverse @ x), rtol=2 * np.finfo(dtype).eps)


def test_a_rotated_ellipse():
    # The function falls by 1 at 6 pixels along the diagonal (1, 1), and at 2 pixels across it.
    turn = np.array([[1, -1], [1, 1]]) / math.sqrt(2)
    krn = structuring.quadratic(turn @ np.diag([36.0, 4.0]) @ turn.T, size=7, dtype=np.float64)
    centre = 3
    assert krn[centre, centre] == 0
    np.testing.assert_allclose(krn[centre + 3, centre + 3], -18 / 36)
    np.testing.assert_allclose(krn[centre + 3, centre - 3], -18 / 4)
    assert krn.factors is None


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_one_scale_serves_any_rank(ndim):
    krn = structuring.quadratic(2.5, ndim)
    assert krn.shape == (5,) * ndim
    np.testing.assert_allclose(krn[(0,) * ndim], -4 * ndim / 2.5**2, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 2.0, 2.4, (1.5, 3.0), [[4.0, 2.5], [2.5, 3.0]]])
@pytest.mark.parametrize("value_range", [1.0, 3.5])
def test_the_automatic_size_loses_nothing(scale, value_range):
    rng = np.random.default_rng(7)
    image = rng.random((15, 14)) ** 4 * value_range
    image[5, 6], image[9, 2] = value_range, 0.0
    krn = structuring.quadratic(scale, value_range=value_range, dtype=np.float64)
    larger = structuring.quadratic(scale, size=[k + 4 for k in krn.shape], dtype=np.float64)
    np.testing.assert_array_equal(dilate(image, krn), dilate(image, larger))


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0, 2.4, 30.0])
@pytest.mark.parametrize("value_range", [1.0, 3.5, 255.0])
def test_the_automatic_size_is_as_small_as_it_can_be(scale, value_range):
    half, odd = divmod(structuring.quadratic(scale, 1, value_range=value_range).size, 2)
    assert odd
    assert half**2 / scale**2 < value_range <= (half + 1) ** 2 / scale**2


def test_the_classical_scale_space_parameter_is_a_quarter_of_the_squared_scale():
    t = 2.0
    krn = structuring.quadratic(2 * math.sqrt(t), ndim=1, size=5, dtype=np.float64)
    np.testing.assert_allclose(krn, [-4 / (4 * t), -1 / (4 * t), 0, -1 / (4 * t), -4 / (4 * t)])


def test_dilations_compose_as_the_covariances_add():
    # On a grid the law is exact only where the best intermediate point is an integer.
    one = structuring.quadratic(4.0, ndim=1, size=17, dtype=np.float64)
    both = dilate(np.pad(one, 8, constant_values=-np.inf), one)
    law = structuring.quadratic(math.sqrt(32), ndim=1, size=33, dtype=np.float64)
    np.testing.assert_allclose(both[::2], law[::2])
    assert np.all(both <= law + 1e-12)


def test_factors_add_up_to_the_function():
    krn = structuring.quadratic((2.0, 3.0, 1.5), size=(3, 4, 5), dtype=np.float64)
    a, b, c = krn.factors
    np.testing.assert_allclose(a[:, None, None] + b[:, None] + c, krn, rtol=1e-15)
    assert [factor.dtype for factor in krn.factors] == [krn.dtype] * 3
    assert structuring.quadratic(np.diag([4.0, 9.0])).factors is not None


def test_factors_survive_new_axes_in_front_and_nothing_else():
    krn = structuring.quadratic(3.0)
    for same in (krn[None], krn[None, None], krn[None][None]):
        assert same.factors is krn.factors
    others = [
        krn + 0,
        -krn,
        krn[1:],
        krn[:, None],
        krn[0],
        krn[...],
        krn.T,
        krn.copy(),
        krn.astype(np.float64),
        krn.reshape(-1),
        krn.view(),
        copy.deepcopy(krn),
        pickle.loads(pickle.dumps(krn)),
    ]
    for other in others:
        assert isinstance(other, StructuringFunction)
        assert other.factors is None


def test_a_structuring_function_cannot_drift_from_its_factors():
    krn = structuring.quadratic(3.0)
    with pytest.raises(ValueError, match="read-only"):
        krn[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        krn += 1
    with pytest.raises(ValueError, match="read-only"):
        krn.factors[0][0] = 1
    free = krn.copy()
    free[0, 0] = 1
    assert free[0, 0] == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scale": 0.0}, ValueError, r"scale .* got 0\.0"),
        ({"scale": -1.0}, ValueError, "scale"),
        ({"scale": math.inf}, ValueError, "scale"),
        ({"scale": math.nan}, ValueError, "scale"),
        ({"scale": (1.0, 0.0)}, ValueError, "scale"),
        ({"scale": ()}, ValueError, "number of axes"),
        ({"scale": np.ones((2, 3))}, ValueError, "square and symmetric"),
        ({"scale": [[1.0, 0.5], [0.2, 1.0]]}, ValueError, "square and symmetric"),
        ({"scale": [[1.0, 2.0], [2.0, 1.0]]}, ValueError, "positive definite"),
        ({"scale": [[math.nan, 0.0], [0.0, 1.0]]}, ValueError, "symmetric"),
        ({"scale": np.ones((2, 2, 2))}, ValueError, "got shape"),
        ({"scale": (1.0, 2.0), "ndim": 3}, ValueError, "ndim is 3"),
        ({"scale": 1.0, "ndim": 0}, ValueError, "number of axes"),
        ({"scale": 1.0, "size": 0}, ValueError, "size"),
        ({"scale": 1.0, "size": (3, 3, 3)}, ValueError, "size must be one int or 2"),
        ({"scale": 1.0, "size": 3.0}, TypeError, "size"),
        ({"scale": 1.0, "value_range": 0.0}, ValueError, "value_range"),
        ({"scale": 1.0, "dtype": np.int32}, TypeError, "got int32.*rint"),
    ],
)
def test_wrong_arguments_of_quadratic(arguments, error, message):
    with pytest.raises(error, match=message):
        structuring.quadratic(**arguments)


@pytest.mark.parametrize("radius", [-1, math.nan, math.inf])
@pytest.mark.parametrize("footprint", [structuring.disk, structuring.diamond, structuring.cross])
def test_wrong_radius(footprint, radius):
    with pytest.raises(ValueError, match="radius"):
        footprint(radius)


FOOTPRINTS = (structuring.disk, structuring.ball, structuring.diamond, structuring.cross)


@pytest.mark.parametrize("function", FOOTPRINTS)
@pytest.mark.parametrize(
    ("radius", "error", "message"),
    [
        ("x", TypeError, "radius must be a real number, got 'x'"),
        ("3", TypeError, "radius must be a real number, got '3'"),
        (None, TypeError, "radius must be a real number, got None"),
        ([1, 2], TypeError, r"radius must be a real number, got \[1, 2\]"),
        (2j, TypeError, "radius must be a real number, got 2j"),
        (np.ma.array(2), TypeError, "radius is a masked array"),
        (np.nan, ValueError, "radius must be finite and at least 0, got nan"),
        (1e9, ValueError, "radius 1000000000.0 makes an array of more than"),
        (10**400, ValueError, "radius 1000.* makes an array of more than"),
    ],
)
def test_wrong_radii_are_named(function, radius, error, message):
    with pytest.raises(error, match=message):
        function(radius)


@pytest.mark.parametrize("function", FOOTPRINTS)
def test_a_radius_of_few_bits_does_not_overflow(function):
    np.testing.assert_array_equal(function(np.uint8(20)), function(20))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (structuring.quadratic, {"scale": "3"}, "scale must hold real numbers"),
        (structuring.quadratic, {"scale": [1.0, 2j]}, "scale must hold real numbers"),
        (structuring.quadratic, {"scale": np.ma.array([1.0, 2.0])}, "scale is a masked array"),
        (structuring.quadratic, {"scale": [[1], [1, 2]]}, "scale must be an array"),
        (structuring.quadratic, {"scale": [[np.inf, 0], [0, 1]]}, "scale as a matrix .*finite"),
        (structuring.quadratic, {"scale": 1e300}, "scale 1e.300 .*makes an array of more than"),
        (structuring.quadratic, {"scale": 1.0, "value_range": "x"}, "value_range .*got 'x'"),
        (structuring.quadratic, {"scale": 1.0, "ndim": 2.5}, "ndim.* must be an int, got 2.5"),
        (structuring.box, {"size": [[1], [1, 2]]}, "size must be an array"),
        (structuring.box, {"size": (2**20, 2**20)}, "size .*makes an array of more than"),
        (structuring.box, {"size": 3, "ndim": "x"}, "ndim.* must be an int, got 'x'"),
        (structuring.flat, {"footprint": "x"}, "footprint must hold real numbers"),
        (structuring.flat, {"footprint": np.ma.ones((3, 3))}, "footprint is a masked array"),
    ],
)
def test_other_wrong_arguments_are_named(function, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        function(**arguments)


def test_wrong_rank_of_a_footprint():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        structuring.ball(2, ndim=0)
