"""Wrong arguments: SciPy's class of error, the argument's name and value, and nothing written."""

import warnings

import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy import ndimage

scipy_ndimage = pytest.importorskip("scipy.ndimage")

IMAGE = (np.arange(30) * 7 % 11).reshape(5, 6).astype(np.float64)
BOX = ("minimum_filter", "maximum_filter")
LINE = ("minimum_filter1d", "maximum_filter1d")
GREY = (
    "grey_erosion", "grey_dilation", "grey_opening", "grey_closing", "morphological_gradient",
    "morphological_laplace", "white_tophat", "black_tophat",
)  # fmt: skip
BINARY = (
    "binary_erosion", "binary_dilation", "binary_opening", "binary_closing", "binary_propagation",
    "binary_hit_or_miss", "binary_fill_holes",
)  # fmt: skip
LINEAR = ("correlate", "convolve", "correlate1d", "convolve1d")
FLAT = (*BOX, *LINE, *GREY)


def arguments(name, ndim=2):
    """What a function needs besides the image."""
    if name in FLAT:
        return {"size": 3}
    if name in LINEAR:
        return {"weights": np.ones(3 if name.endswith("1d") else (3,) * ndim)}
    return {}


def error_of(module, name, image, given):
    """The error of a call; a call that ends well gives None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(module, name)(image, **given)
    except Exception as error:
        return error
    return None


def check_like_scipy(name, image, given, argument, value):
    theirs, ours = (error_of(module, name, image, given) for module in (scipy_ndimage, ndimage))
    assert theirs is not None, "SciPy accepts it: not a test of errors"
    assert isinstance(ours, type(theirs)), f"SciPy: {theirs!r}, here: {ours!r}"
    assert argument in str(ours)
    assert value in str(ours)


# ---- output ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FLAT, *BINARY, *LINEAR])
@pytest.mark.parametrize("kind", ["other", "view of the input", "the input"])
def test_read_only_outputs_are_refused_and_stay_as_they_are(name, kind):
    memory = np.concatenate([IMAGE, IMAGE])
    image = memory[:5]
    output = {"other": np.full((5, 6), 3.0), "view of the input": memory[2:7], "the input": image}
    target = output[kind][...]
    target.flags.writeable = False
    before = memory.copy(), target.copy()
    with pytest.raises(ValueError, match=r"output array is read-only: .*\(5, 6\) and float64"):
        getattr(ndimage, name)(image, **arguments(name), output=target)
    np.testing.assert_array_equal(memory, before[0])
    np.testing.assert_array_equal(target, before[1])


@pytest.mark.parametrize("name", LINEAR)
def test_read_only_outputs_of_other_dtypes_and_shapes(name):
    for image in (IMAGE + 1j, IMAGE[:0], np.asfortranarray(IMAGE)):
        output = np.zeros_like(image)
        output.flags.writeable = False
        with pytest.raises(ValueError, match="output array is read-only"):
            getattr(ndimage, name)(image, **arguments(name), output=output)
        assert not output.any()
    if not name.endswith("1d"):
        output = np.array(0.0)
        output.flags.writeable = False
        with pytest.raises(ValueError, match="output array is read-only"):
            getattr(ndimage, name)(np.array(2.0), np.array(3.0), output=output)
        assert output == 0


@pytest.mark.parametrize("name", [*FLAT, *LINEAR])
@pytest.mark.parametrize(
    "output", [np.zeros((5, 5)), "foo", 5, [1], np.zeros((5, 6), "M8[s]"), np.zeros((5, 6), object)]
)
def test_other_wrong_outputs(name, output):
    if name in ("morphological_gradient", "morphological_laplace") and not hasattr(output, "shape"):
        return  # these ignore what is not an array
    check_like_scipy(name, IMAGE, arguments(name) | {"output": output}, "output", "")


# ---- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("size", [2**63, 2**64, 10**30])
def test_sizes_that_no_axis_can_have(name, size):
    for given in (size,) if name in LINE else (size, (3, size), (size, 1)):
        with pytest.raises(OverflowError, match=f"size must be at most .* got {size}"):
            getattr(ndimage, name)(IMAGE, given)


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("size", ["3", (3,), (3, 3, 3), (3, "3"), 1j, None])
def test_sizes_that_are_none(name, size):
    if name not in (*BOX, *LINE) and size in ((3,), "3"):  # SciPy's IndexError is an accident
        with pytest.raises((RuntimeError, TypeError), match="size"):
            getattr(ndimage, name)(IMAGE, size)
        return
    value = {None: "", 1j: "1j"}.get(size, "3")
    check_like_scipy(name, IMAGE, {"size": size}, "size", value)


@pytest.mark.parametrize("name", LINE)
@pytest.mark.parametrize("size", [0, -1, 2.5, 3.0])
def test_sizes_along_a_line(name, size):
    check_like_scipy(name, IMAGE, {"size": size}, "size", repr(size))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"radius": "3"}, TypeError),
        ({"radius": None}, TypeError),
        ({"radius": -1}, ValueError),
        ({"radius": float("nan")}, ValueError),
        ({"radius": 2**64}, OverflowError),
        ({"radius": 1e300}, OverflowError),
        ({"kernel": (0, 0)}, ValueError),
        ({"kernel": np.ones((0, 3))}, ValueError),
        ({"kernel": [[1], [1, 2]]}, ValueError),
        ({"kernel": np.ones((3, 3)) + 1j}, TypeError),
    ],
)
def test_rolling_balls_that_are_none(given, error):
    (name,) = given
    with pytest.raises(error, match=name):
        sc.rolling_ball(IMAGE, **given)


def test_a_reconstruction_has_a_whole_offset():
    with pytest.raises(TypeError, match=r"offset must be integers, got \[1.5, 1\]"):
        sc.reconstruction(IMAGE, IMAGE, offset=[1.5, 1])


# ---- origin, cval, mode, axes --------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FLAT, *LINEAR])
@pytest.mark.parametrize("origin", [1.0, 2.1, np.float64(1), "1", None, 5, -5, 2**63, -(2**63)])
def test_origins(name, origin):
    given = arguments(name) | {"origin": origin}
    check_like_scipy(name, IMAGE, given, "origin", str(origin))


@pytest.mark.parametrize("name", [*FLAT, *LINEAR])
@pytest.mark.parametrize("cval", [None, "1", "a", 1j, [1], 10**400])
@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_constants(name, cval, mode):
    for image in (IMAGE, IMAGE.astype(np.float16)):
        given = arguments(name) | {"cval": cval, "mode": mode}
        theirs = error_of(scipy_ndimage, name, IMAGE, given)
        ours = error_of(ndimage, name, image, given)
        assert isinstance(ours, type(theirs)), f"SciPy: {theirs!r}, here: {ours!r}"
        assert f"cval must be a real number, got {cval!r}" in str(ours)


@pytest.mark.parametrize("name", LINEAR)
def test_constants_of_complex_images(name):
    for cval in ("1", None, [1]):
        with pytest.raises(TypeError, match="cval must be a number"):
            getattr(ndimage, name)(IMAGE + 1j, **arguments(name), cval=cval)


@pytest.mark.parametrize("name", [*FLAT, *LINEAR])
@pytest.mark.parametrize("mode", [5, None, "foo", b"reflect", ["reflect"], ("reflect", "foo")])
def test_modes(name, mode):
    check_like_scipy(name, IMAGE, arguments(name) | {"mode": mode}, "mode", "")


@pytest.mark.parametrize("name", [*BOX, *GREY])
@pytest.mark.parametrize("axes", [5, -3, 2.0, "a", [0, 0], (0, 5), [0.5], object()])
def test_axes(name, axes):
    check_like_scipy(name, IMAGE, arguments(name) | {"axes": axes}, "axes", "")


@pytest.mark.parametrize("name", [*LINE, "correlate1d", "convolve1d"])
@pytest.mark.parametrize("axis", [5, -3, "0", None, 1.0, [0], 2**63])
def test_one_axis(name, axis):
    check_like_scipy(name, IMAGE, arguments(name) | {"axis": axis}, "axis", "")


# ---- footprints, structures, weights -------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:structure is nothing but ones")
@pytest.mark.parametrize("name", GREY)
@pytest.mark.parametrize("argument", ["footprint", "structure"])
@pytest.mark.parametrize("value", [[[1, 0], [1]], np.ones((3, 3, 3)), np.ones(3), np.ones((0, 3))])
def test_windows_of_another_shape_are_named(name, argument, value):
    other = {"footprint": "structure", "structure": "footprint"}[argument]
    with pytest.raises((RuntimeError, ValueError), match=argument) as raised:
        getattr(ndimage, name)(IMAGE, **{argument: value})
    assert other not in str(raised.value)


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("weights", [[[1, 0], [1]], ["a", "b"], [object()], 5, None])
def test_weights_that_are_none(name, weights):
    check_like_scipy(name, IMAGE, {"weights": weights}, "weights", "")


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, np.complex128])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(
    "shape", [(0,), (3, 0), (0, 3), (0, 0), (0, 3, 3), (3, 0, 3), (0, 0, 3), (0, 3, 3, 3)]
)
def test_empty_weights(dtype, ndim, shape):
    """No taps give zeros where SciPy finds that the other axes fit."""
    image = np.ones((4, 5, 6)[:ndim], dtype)
    for name in LINEAR:
        given = {"weights": np.ones(shape)}
        theirs, ours = (error_of(m, name, image, given) for m in (scipy_ndimage, ndimage))
        assert type(ours) is type(theirs), name
        if ours is None:
            result = getattr(ndimage, name)(image, **given)
            assert result.dtype == dtype
            np.testing.assert_array_equal(result, np.zeros_like(image))


@pytest.mark.parametrize(
    "name", ["white_tophat", "black_tophat", "morphological_gradient", "morphological_laplace"]
)
def test_output_of_another_kind_than_the_differences(name):
    """Refused before anything is written to it."""
    output = np.full((4, 5), 7)
    with pytest.raises(TypeError, match=r"output of int64 cannot hold differences .*float64"):
        getattr(ndimage, name)(np.eye(4, 5), 3, output=output)
    assert (output == 7).all()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_a_structure_on_a_scalar_gives_an_array(dtype):
    scalar = np.array(9, dtype)
    for name in ("grey_erosion", "grey_dilation", "grey_opening", "white_tophat"):
        result = getattr(ndimage, name)(scalar, structure=np.array(2))
        assert isinstance(result, np.ndarray), name
        assert (result.shape, result.dtype) == ((), scalar.dtype)
