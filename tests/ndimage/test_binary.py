"""Binary morphology: iterations against the definition, sizes as structures, scalars and errors."""

import inspect
import time
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage as scipy_ndimage

from semiconv_cupy import ndimage, structuring

BINARY = [name for name in ndimage.__all__ if name.startswith("binary")]
ITERATED = ("binary_erosion", "binary_dilation", "binary_opening", "binary_closing")


def step(image, structure, origin, mask, border, dilate):
    """One operation, by its definition."""
    pad = max(structure.shape)
    wide = np.pad(image, pad, constant_values=border)
    result = np.full(image.shape, not dilate)
    centre = np.array(structure.shape) // 2 + np.array(origin)
    for index in np.argwhere(structure):
        shift = centre - index if dilate else index - centre
        part = wide[
            tuple(slice(pad + s, pad + s + n) for s, n in zip(shift, image.shape, strict=True))
        ]
        result = result | part if dilate else result & part
    return result if mask is None else np.where(mask, result, image)


def iterated(image, structure, iterations, origin, mask, border, dilate):
    """So many steps (all of them, until nothing changes, below 1)."""
    done, previous = 0, None
    while iterations != done and not (iterations < 1 and np.array_equal(image, previous)):
        image, previous = step(image, structure, origin, mask, border, dilate), image
        done += 1
    return image


WINDOWS = {
    "box": ((5, 9), np.ones((3, 2)), (0, -1)),
    "cross": ((11, 4), ndimage.generate_binary_structure(2, 1), (0, 0)),
    "cross in a volume": ((4, 5, 6), ndimage.generate_binary_structure(3, 1), (0, 0, 0)),
    "cross that is shifted": ((7, 7), ndimage.generate_binary_structure(2, 1), (1, 0)),
    "disk": ((12, 13), structuring.disk(2), (0, 0)),
    "longer than the image": ((4, 3), np.ones((9, 4)), (2, 1)),
    "holes, longer than the image": ((4, 5), np.eye(11)[:, ::2], (0, 1)),
    "without the centre": ((6, 7), [[1, 0, 1], [0, 0, 1]], (0, 0)),
}


@pytest.mark.parametrize("iterations", [2, 3, 7, 20, 60])
@pytest.mark.parametrize("window", WINDOWS)
def test_iterations_are_so_many_steps(window, iterations):
    shape, structure, origin = WINDOWS[window]
    structure = np.asarray(structure) != 0
    random = np.random.default_rng(iterations)
    for density in (0.03, 0.97):
        image = random.random(shape) < density
        for mask in (None, random.random(shape) < 0.8):
            for border in (0, 1):
                given = (mask, border)
                for name, dilate in (("binary_dilation", True), ("binary_erosion", False)):
                    expected = iterated(image, structure, iterations, origin, *given, dilate)
                    result = getattr(ndimage, name)(
                        image, structure, iterations, mask, None, border, origin
                    )
                    np.testing.assert_array_equal(result, expected, err_msg=f"{name} {given}")


@pytest.mark.parametrize("name", ITERATED)
@pytest.mark.parametrize("iterations", [1000, 2**40, 2**63 - 1])
@pytest.mark.parametrize(
    "structure", [np.ones((3, 3, 3)), ndimage.generate_binary_structure(3, 1), (3, 5, 2), None]
)
def test_any_number_of_iterations_ends_and_needs_no_memory(name, structure, iterations):
    volume = np.random.default_rng(0).random((20, 20, 20)) < 0.3
    function = getattr(ndimage, name)
    until_nothing_changes = function(volume, structure, 0)
    begin = time.perf_counter()
    tracemalloc.start()
    result = function(volume, structure, iterations)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - begin < 5
    assert peak < 100 * volume.nbytes
    np.testing.assert_array_equal(result, until_nothing_changes)


@pytest.mark.parametrize("name", ITERATED)
def test_more_iterations_than_64_bits_hold_are_refused(name):
    with pytest.raises(OverflowError, match="iterations must fit 64 bits, got 9223372036854775808"):
        getattr(ndimage, name)([0, 1, 0], iterations=2**63)


# Two parts of an image that do not see each other: a row with offsets 1 and -1, whose states have
# period 2, and a column with offsets 1 and -2 and period 3.
PARTS = np.zeros((3, 9, 9), bool)
PARTS[0, 0, 2:] = PARTS[0, 4:, 0] = True  # the mask
PARTS[1, 0, 2] = PARTS[1, 4, 0] = True  # the image
PARTS[2, 3, [2, 4]] = PARTS[2, [2, 5], 3] = True  # the structure
PERIODIC = [
    (2, np.array([1, 0, 1, 0, 1, 0]), np.array([1, 0, 1]), None),
    (3, np.array([1, 0, 0, 0, 0, 0, 0, 0]), np.array([0, 1, 0, 0, 1]), None),
    (6, PARTS[1], PARTS[2, :7, :7], PARTS[0]),
]


@pytest.mark.parametrize("name", ["binary_dilation", "binary_erosion"])
@pytest.mark.parametrize(("period", "image", "structure", "mask"), PERIODIC)
def test_states_that_repeat_have_no_limit(name, period, image, structure, mask):
    image, border, dilate = image != 0, 0, name == "binary_dilation"
    origin = (0,) * image.ndim
    if not dilate:  # of the complement, by the reflected structure
        image, border, structure = ~image, 1, np.flip(structure)
    function = getattr(ndimage, name)
    with pytest.raises(ValueError, match=f"repeat every {period} steps.*number of iterations"):
        function(image, structure, 0, mask, None, border)
    few = 60 + 2**40 % period  # 60 is a multiple of each period
    expected = iterated(image, structure, few, origin, mask, border, dilate)
    result = function(image, structure, 2**40, mask, None, border)
    np.testing.assert_array_equal(result, expected)


def test_states_that_settle_without_the_centre():
    image = np.random.default_rng(3).random((6, 30)) < 0.05
    for structure in ([[1, 1, 0, 0, 1]], [[0, 0, 0, 1, 0]]):
        structure = np.array(structure) != 0
        for border in (0, 1):
            for dilate in (False, True):
                expected = iterated(image, structure, -1, (0, 0), None, border, dilate)
                function = ndimage.binary_dilation if dilate else ndimage.binary_erosion
                result = function(image, structure, 0, None, None, border)
                np.testing.assert_array_equal(result, expected)


# ---- scalars -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("value", [1, 0.0, True, np.uint8(1), np.float16(2)])
def test_of_a_scalar_the_result_is_an_array(name, value):
    for image in (value, np.array(value)):
        result = getattr(ndimage, name)(image)
        assert type(result) is np.ndarray
        assert (result.dtype, result.shape) == (np.bool_, ())
        if name != "binary_fill_holes":  # a scalar has no outside, and is a hole
            assert bool(result) == bool(value)


# ---- the size of a full structure ----------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in BINARY if name != "binary_hit_or_miss"])
@pytest.mark.parametrize(
    ("shape", "size", "axes"),
    [
        ((9, 8), (3, 2), None),
        ((9, 8), 3, None),
        ((9, 8), [2, 3], None),
        ((12,), (4,), None),
        ((12,), 4, None),
        ((5, 6, 7), (np.int64(3), 2), (2, 0)),
    ],
)
def test_a_structure_may_be_a_size(name, shape, size, axes):
    image = np.random.default_rng(4).random(shape) < 0.6
    rank = len(axes or shape)
    structure = np.ones((size,) * rank if isinstance(size, int) else size)
    function = getattr(ndimage, name)
    np.testing.assert_array_equal(
        function(image, size, axes=axes), function(image, structure, axes=axes)
    )


def test_a_sequence_along_one_axis_is_a_structure():
    image = np.array([0, 0, 1, 0, 0])
    assert ndimage.binary_dilation(image, (1, 0, 0)).tolist() == [0, 1, 0, 0, 0]
    assert ndimage.binary_dilation(image, [3]).tolist() == [0, 0, 1, 0, 0]


def test_a_full_structure_of_any_size_needs_no_array():
    image = np.zeros((30, 40), bool)
    image[3, 4] = True
    assert ndimage.binary_dilation(image, (2**50, 2**62)).all()
    hit = ndimage.binary_hit_or_miss(~image, (3, 3))
    np.testing.assert_array_equal(hit, ndimage.binary_erosion(~image, np.ones((3, 3))))


# ---- errors --------------------------------------------------------------------------------------

WRONG = [
    ("structure", np.ones(3), RuntimeError, r"structure{}.ndim \(1\)"),
    ("structure", [[1, 0], [1]], ValueError, "structure{} must be an array"),
    ("structure", np.ones((0, 3)), RuntimeError, r"structure{} must not be empty.*\(0, 3\)"),
    ("structure", (0, 3), RuntimeError, r"structure{} must not be empty.*\(0, 3\)"),
    ("structure", np.ma.ones((3, 3)), TypeError, "structure{} is a masked array.*filled"),
    ("origin", 2.1, IndexError, "origin{} must be an integer.*got 2.1"),
    ("origin", 2.1, TypeError, "origin{} must be an integer.*got 2.1"),
    ("origin", (0, "x"), TypeError, "origin{} must be an integer.*'x'"),
    ("origin", 2, IndexError, r"invalid origin{} 2 for a structure{} of shape \(3, 3\)"),
    ("origin", -2, ValueError, r"invalid origin{} -2 for a structure{} of shape \(3, 3\)"),
    ("origin", (0, 0, 0), RuntimeError, "origin{}: sequence argument"),
    ("iterations", 1.5, TypeError, "iterations must be an integer, got 1.5"),
    ("iterations", "2", TypeError, "iterations must be an integer, got '2'"),
    ("mask", np.ones((3, 3)), RuntimeError, r"mask and input must have equal sizes.*\(3, 3\)"),
    ("mask", [[1, 0], [1]], ValueError, "mask must be an array"),
    ("mask", np.ones((6, 7), complex), RuntimeError, "mask is complex128"),
    ("mask", np.ma.ones((6, 7)), TypeError, "mask is a masked array.*filled"),
    ("border_value", 1.5, TypeError, "border_value must be an integer, got 1.5"),
    ("border_value", None, TypeError, "border_value must be an integer, got None"),
    ("output", np.zeros((6, 7), complex), TypeError, "output is complex128"),
    ("output", np.zeros((6, 7), object), RuntimeError, "output is object"),
    ("output", np.ma.zeros((6, 7)), TypeError, "output is a masked array"),
    ("axes", (0.5, 1), TypeError, r"axes must be integers, got \(0.5, 1\)"),
    ("input", np.ones((6, 7), "V3"), (RuntimeError, TypeError), "input is .*V3"),
    ("input", np.array(["a"]), (RuntimeError, TypeError), "input is <U1"),
    ("input", np.ma.ones((6, 7)), TypeError, "input is a masked array"),
]


def cases():
    """Each wrong argument of each function that has it."""
    for name in BINARY:
        known = inspect.signature(getattr(ndimage, name)).parameters
        for argument, value, error, message in WRONG:
            for number in ("", "1", "2"):
                if argument + number in known:
                    yield name, argument + number, value, error, message.replace("{}", number)


@pytest.mark.parametrize(("name", "argument", "value", "error", "message"), list(cases()))
def test_errors_name_the_argument(name, argument, value, error, message):
    arguments = {"input": np.ones((6, 7), bool), argument: value}
    with pytest.raises(error, match=message):
        getattr(ndimage, name)(**arguments)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (ndimage.iterate_structure, ([1, 1], 2.5), TypeError, "iterations .*got 2.5"),
        (ndimage.iterate_structure, ([1, 1], 2, 0.5), TypeError, "origin .*got 0.5"),
        (
            ndimage.iterate_structure,
            ([1, 1], 2**50),
            ValueError,
            "iterations .*got 1125899906842624",
        ),
        (ndimage.iterate_structure, (np.ma.ones(3), 2), TypeError, "structure is a masked array"),
        (ndimage.generate_binary_structure, ("x", 1), TypeError, "rank .*got 'x'"),
        (ndimage.generate_binary_structure, (2, "x"), TypeError, "connectivity .*got 'x'"),
        (ndimage.generate_binary_structure, (64, 1), ValueError, "rank .*got 64"),
    ],
)
def test_errors_of_structures(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


def test_origins_belong_to_the_axes_as_given_and_fit_there():
    """The structure belongs to the sorted axes, as in SciPy, and so not every pair fits."""
    image = np.random.default_rng(4).random((4, 5, 6)) < 0.8
    structure = np.array([[1, 0, 1, 1, 1], [0, 1, 1, 0, 1], [1, 1, 0, 1, 1]], bool)
    for name in ("binary_erosion", "binary_dilation", "grey_erosion", "grey_dilation"):
        function = getattr(ndimage, name)
        window = {"structure" if name.startswith("binary") else "footprint": structure}
        with pytest.raises(ValueError, match="origin"):
            function(image, **window, axes=(1, 0), origin=[0, 2])
        shifted = function(image, **window, axes=(1, 0), origin=[2, 0])
        assert np.array_equal(shifted, function(image, **window, axes=(0, 1), origin=[0, 2])), name


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 7])
def test_iterations_of_a_cross_in_space(iterations):
    image = np.random.default_rng(3).random((9, 8, 10)) < 0.02
    for border in (0, 1):
        ours = ndimage.binary_dilation(image, iterations=iterations, border_value=border)
        stepped = image
        for _ in range(iterations):
            stepped = ndimage.binary_dilation(stepped, border_value=border)
        assert np.array_equal(ours, stepped)


def ellipsoid(*radii):
    grid = np.ix_(*(np.arange(-r, r + 1) for r in radii))
    return np.asarray(sum((x / r) ** 2 for x, r in zip(grid, radii, strict=True))) <= 1


@pytest.mark.parametrize("border_value", [0, 1])
@pytest.mark.parametrize("radii", [(9, 9, 9), (8, 11, 6), (3, 3, 3, 3), (101, 4)])
def test_balls_by_distances_are_scipys(radii, border_value):
    ball = ellipsoid(*radii)
    one_less = ball.copy()  # no ball, and not by distances
    one_less[tuple(n // 3 for n in ball.shape)] ^= True
    random = np.random.default_rng(0)
    for density in (0.002, 0.998, 0.0):
        image = random.random([n + 7 for n in radii]) < density
        for name in ("binary_dilation", "binary_erosion"):
            for structure in (ball, one_less):
                result = getattr(ndimage, name)(image, structure, border_value=border_value)
                theirs = getattr(scipy_ndimage, name)(image, structure, border_value=border_value)
                np.testing.assert_array_equal(result, theirs)
        if len(radii) == 3 and density == 0.002:  # the others' maxima are the same everywhere
            for mode in ("reflect", "nearest", "wrap"):
                result = ndimage.maximum_filter(image, footprint=ball, mode=mode)
                theirs = scipy_ndimage.maximum_filter(image, footprint=ball, mode=mode)
                np.testing.assert_array_equal(result, theirs)
