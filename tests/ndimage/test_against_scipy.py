"""Random comparison with scipy.ndimage: functions, ranks, dtypes, modes, origins, axes, footprints.

Equal means the same bits (of equal numbers: SciPy's zeros may have another sign), the same dtype
and shape; where SciPy raises, the same class of error. The random calls are also made with CuPy
arrays, on a GPU.
"""

import platform
import warnings

import numpy as np
import pytest
import safe_scipy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semiconv_cupy import ndimage, structuring

scipy_ndimage = pytest.importorskip("scipy.ndimage")

RUNS = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64", "bool")
# C leaves open which unsigned integer a negative double becomes. Ours is x86-64's on every machine,
# SciPy's is what its compiler makes of it.
ON_X86 = platform.machine().lower() in ("x86_64", "amd64")
OF_SUMS = tuple(name for name in DTYPES if ON_X86 or not name.startswith("u"))
MODES = ("reflect", "mirror", "nearest", "wrap", "constant", "grid-mirror", "grid-wrap")
GREY = (
    "grey_erosion", "grey_dilation", "grey_opening", "grey_closing", "morphological_gradient",
    "morphological_laplace", "white_tophat", "black_tophat",
)  # fmt: skip


def outcome(function, args, kwargs):
    """(result, None), or (None, the class of error)."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return function(*args, **kwargs), None
    except Exception as error:
        return None, error


@pytest.fixture(scope="module", params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def library(request):
    """The module whose arrays are given to ours."""
    module = pytest.importorskip(request.param)
    if request.param == "cupy":
        try:
            module.cuda.runtime.getDeviceCount()
        except module.cuda.runtime.CUDARuntimeError as error:
            pytest.skip(f"no GPU: {error}")
    return module


def compare(name, image, *args, library=np, **kwargs):
    given = dict(kwargs)
    theirs, their_error = outcome(safe_scipy.function(name, image, given), (image, *args), given)
    there = {key: library.asarray(kwargs[key]) for key in ("mask",) if key in kwargs}
    call = (library.asarray(image), *args), kwargs | there
    ours, our_error = outcome(getattr(ndimage, name), *call)
    args = image, *args
    what = f"{name}(*{args!r}, **{kwargs!r})"
    if their_error is not None:
        assert our_error is not None, f"{what}: SciPy raises {their_error!r}"
        assert isinstance(our_error, type(their_error)), f"{what}: {their_error!r} / {our_error!r}"
        return
    assert our_error is None, f"{what}: {our_error!r}"
    assert ours.dtype == theirs.dtype, what
    assert isinstance(ours, library.ndarray), what
    found = ours if library is np else ours.get()
    np.testing.assert_array_equal(found, theirs, err_msg=what)


@st.composite
def images(draw, dtypes=DTYPES, max_rank=3):
    rank = draw(st.integers(1, max_rank))
    shape = tuple(draw(st.integers(1, (40, 12, 7)[rank - 1])) for _ in range(rank))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if dtype.kind == "b":
        array = random.random(shape) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    elif dtype.kind == "f":
        array = random.standard_normal(shape).astype(dtype)
    else:
        info = np.iinfo(dtype)
        array = random.integers(max(info.min, -100), min(info.max, 100), shape).astype(dtype)
    layout = draw(st.sampled_from(["C", "F", "reversed", "strided"]))
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "reversed":
        array = array[..., ::-1]
    elif layout == "strided":
        array = np.repeat(array, 2, axis=0)[::2]
    return array


def some_axes(draw, rank):
    if draw(st.booleans()):
        return tuple(range(rank)), None
    axes = draw(st.permutations(range(rank)))[: draw(st.integers(1, rank))]
    return tuple(axes), tuple(axes)


def border(draw):
    return {"mode": draw(st.sampled_from(MODES)), "cval": draw(st.sampled_from([0, 1, 3, 2.0]))}


def origin_for(draw, window):
    return tuple(draw(st.integers(-(k // 2), (k - 1) // 2)) for k in window)


def flat_window(draw, image, axes):
    """size= or footprint= on these axes, with a border and an origin that fit."""
    window = tuple(draw(st.integers(1, 5)) for _ in axes)
    arguments = border(draw)
    if draw(st.booleans()):
        arguments["size"] = window if draw(st.booleans()) else window[0]
        window = window if isinstance(arguments["size"], tuple) else (window[0],) * len(axes)
    else:
        seed = draw(st.integers(0, 2**32))
        footprint = np.random.default_rng(seed).random(window) < 0.6
        footprint[tuple(k // 2 for k in window)] = True
        arguments["footprint"] = footprint
    if draw(st.booleans()):
        arguments["origin"] = origin_for(draw, window)
    return arguments


@RUNS
@given(st.data())
def test_flat_filters(library, data):
    image = data.draw(images())
    axes, given_axes = some_axes(data.draw, image.ndim)
    arguments = flat_window(data.draw, image, axes)
    if given_axes is not None:
        arguments["axes"] = given_axes
    name = data.draw(st.sampled_from(["minimum_filter", "maximum_filter", *GREY]))
    if image.dtype == bool and name == "morphological_gradient":
        return  # SciPy raises, we give the difference of sets
    compare(name, image, **arguments, library=library)


@RUNS
@given(st.data())
def test_one_dimensional_filters(library, data):
    image = data.draw(images())
    axis = data.draw(st.integers(-image.ndim, image.ndim - 1))
    size = data.draw(st.integers(1, 60))
    (origin,) = origin_for(data.draw, (size,))
    name = data.draw(st.sampled_from(["minimum_filter1d", "maximum_filter1d"]))
    compare(name, image, size, axis, origin=origin, **border(data.draw), library=library)


@RUNS
@given(st.data())
def test_structures(library, data):
    """Values small enough that no integer wraps; of floats SciPy's bits."""
    image = data.draw(images(tuple(t for t in OF_SUMS if t != "bool")))
    if image.dtype.kind == "u":
        image = image + image.dtype.type(60)
    window = tuple(data.draw(st.integers(1, 4)) for _ in range(image.ndim))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    if image.dtype.kind == "f" or data.draw(st.booleans()):
        structure = random.standard_normal(window) * 3
    else:
        structure = random.integers(-9, 10, window)
    arguments = border(data.draw) | {"structure": structure, "cval": 20}
    if data.draw(st.booleans()):
        footprint = random.random(window) < 0.6
        footprint[tuple(k // 2 for k in window)] = True
        arguments["footprint"] = footprint
    if data.draw(st.booleans()):
        arguments["origin"] = origin_for(data.draw, window)
    compare(data.draw(st.sampled_from(GREY)), image, **arguments, library=library)


@RUNS
@given(st.data())
def test_correlations(library, data):
    image = data.draw(images(OF_SUMS))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    arguments = border(data.draw)
    if data.draw(st.booleans()):
        names = ("float64", "float32", "int32", "uint8", "int64", "uint16")
        names = [name for name in names if name in (*OF_SUMS, "int64")]
        arguments["output"] = getattr(np, data.draw(st.sampled_from(names)))
    if data.draw(st.booleans()):
        length = data.draw(st.integers(1, 7))
        weights = random.standard_normal(length)
        kind = data.draw(st.sampled_from(["free", "symmetric", "antisymmetric"]))
        if kind != "free":
            weights = weights + weights[::-1] if kind == "symmetric" else weights - weights[::-1]
        arguments["axis"] = data.draw(st.integers(-image.ndim, image.ndim - 1))
        (arguments["origin"],) = origin_for(data.draw, (length,))
        name = data.draw(st.sampled_from(["correlate1d", "convolve1d"]))
    else:
        axes, given_axes = some_axes(data.draw, image.ndim)
        window = tuple(data.draw(st.integers(1, 4)) for _ in axes)
        weights = random.standard_normal(window).round(data.draw(st.sampled_from([0, 1, 8])))
        arguments["origin"] = origin_for(data.draw, window)
        if given_axes is not None:
            arguments["axes"] = given_axes
        name = data.draw(st.sampled_from(["correlate", "convolve"]))
    compare(name, image, weights, **arguments, library=library)


def test_fractions_of_a_bool_are_cut_off():
    """As a conversion to any other integer does; a sum below 1 is False."""
    image = np.array([False, True, True, False])
    for weight in (0.4, 1.0, -0.4, -1.5):
        compare("correlate1d", image, [weight, weight, weight])


@RUNS
@given(st.data())
def test_binary_operations(library, data):
    image = data.draw(images(("bool", "uint8", "float32")))
    axes, given_axes = some_axes(data.draw, image.ndim)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    arguments = {} if given_axes is None else {"axes": given_axes}
    window = tuple(data.draw(st.integers(1, 4)) for _ in axes)
    if data.draw(st.booleans()):
        structure = random.random(window) < 0.6
        arguments["origin"] = origin = origin_for(data.draw, window)
        structure[tuple(k // 2 + o for k, o in zip(window, origin, strict=True))] = True
        arguments["structure"] = structure
    name = data.draw(
        st.sampled_from(
            [
                "binary_erosion", "binary_dilation", "binary_opening", "binary_closing",
                "binary_propagation", "binary_fill_holes",
            ]
        )
    )  # fmt: skip
    if name != "binary_fill_holes":
        arguments["border_value"] = data.draw(st.integers(0, 1))
        if data.draw(st.booleans()):
            arguments["mask"] = random.random(image.shape) < 0.7
    if name not in ("binary_fill_holes", "binary_propagation"):
        arguments["iterations"] = data.draw(st.sampled_from([1, 2, 3, 7, 0, -1]))
        arguments["brute_force"] = data.draw(st.booleans())
    compare(name, image, **arguments, library=library)


@RUNS
@given(st.data())
def test_hit_or_miss(library, data):
    image = data.draw(images(("bool", "uint8")))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    window = tuple(data.draw(st.integers(1, 3)) for _ in range(image.ndim))
    arguments = {"structure1": random.random(window) < 0.5}
    if data.draw(st.booleans()):
        arguments["structure2"] = random.random(window) < 0.5
    arguments["origin1"] = origin_for(data.draw, window)
    compare("binary_hit_or_miss", image, **arguments, library=library)


@pytest.mark.parametrize("name", ["minimum_filter", "maximum_filter"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("size", [2, 3, 6, 9, 26, 31, 130, (1, 70), (77, 1), (200, 3)])
def test_large_boxes(name, dtype, size):
    image = (np.random.default_rng(1).standard_normal((150, 333)) * 50).astype(dtype)
    for mode in ("reflect", "constant", "wrap"):
        compare(name, image, size, mode=mode, cval=2)


@pytest.mark.parametrize("shape", [(1, 700), (700, 1), (65, 64, 66), (3, 4, 5, 6, 7)])
def test_boxes_of_other_ranks(shape):
    image = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    compare("maximum_filter", image, 5)
    compare("minimum_filter", image, size=tuple(range(1, 1 + len(shape))), mode="mirror")


@pytest.mark.table(1)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int64"])
def test_large_footprints(dtype):
    image = (np.random.default_rng(3).standard_normal((120, 300)) * 50).astype(dtype)
    for footprint in (structuring.disk(12), np.random.default_rng(4).random((9, 70)) < 0.3):
        compare("grey_dilation", image, footprint=footprint, mode="constant", cval=1)
        compare("grey_erosion", image, footprint=footprint, mode="mirror")


def test_quadratic_structures_go_axis_by_axis():
    image = np.random.default_rng(5).standard_normal((40, 50)).astype(np.float32)
    structure = structuring.quadratic((3.0, 5.0), size=(9, 12))
    for name in ("grey_dilation", "grey_erosion", "grey_closing"):
        for mode in ("reflect", "constant"):
            theirs = getattr(scipy_ndimage, name)(image, structure=structure, mode=mode, cval=0.3)
            ours = getattr(ndimage, name)(image, structure=structure, mode=mode, cval=0.3)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
