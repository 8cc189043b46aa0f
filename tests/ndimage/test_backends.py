"""The CUDA sources on the CPU harness, NVRTC, and the array loops: each the same as the host's."""

import math
import tracemalloc

import numpy as np
import pytest
import scipy.ndimage
from cuda_on_cpu.device import HarnessDevice

from semiconv_cupy import ndimage, structuring
from semiconv_cupy.backends.device import Recorder
from semiconv_cupy.ndimage import cuda, reference
from semiconv_cupy.ndimage.cuda import boxes, footprints, small_sums
from semiconv_cupy.ndimage.cuda.launcher import Launcher
from semiconv_cupy.ndimage.form import filter_form
from semiconv_cupy.ndimage.neighbourhood import served_by
from semiconv_cupy.ndimage.window import WeightedTaps, Window, every_tap

DTYPES = ("bool", "uint8", "int16", "int64", "uint64", "float16", "float32", "float64")


def image_of(dtype, shape=(13, 17)):
    random = np.random.default_rng(7)
    if dtype == "bool":
        return random.random(shape) < 0.4
    if dtype.startswith("float"):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 120, shape).astype(dtype)


def calls(dtype):
    """Public calls that between them reach every primitive; name -> a function of the image."""
    random = np.random.default_rng(8)
    footprint = random.random((3, 5)) < 0.6
    footprint[1, 2] = True
    structure = random.integers(-9, 9, (3, 4))
    found = {
        "box": lambda a: ndimage.maximum_filter(a, (4, 7), mode="mirror", origin=(1, -2)),
        "constant": lambda a: ndimage.minimum_filter(a, 3, mode="constant", cval=1),
        "long": lambda a: ndimage.maximum_filter1d(a, 40, mode="wrap"),
        "footprint": lambda a: ndimage.grey_erosion(a, footprint=footprint, mode="constant"),
        "opening": lambda a: ndimage.grey_opening(a, footprint=footprint, mode="nearest"),
    }
    if dtype == "bool":
        more = {
            "iterated": lambda a: ndimage.binary_dilation(a, iterations=3, mask=~a[::-1]),
            "crosses": lambda a: ndimage.binary_erosion(a | a[::-1], iterations=25),
            "period": lambda a: ndimage.binary_dilation(a, [[1, 0, 1]], iterations=2**40),
            "size": lambda a: ndimage.binary_closing(a, (3, 50), border_value=1),
            "holes": ndimage.binary_fill_holes,
            "propagation": lambda a: ndimage.binary_propagation(a & a[::-1], mask=a),
            "erosion": lambda a: ndimage.binary_erosion(a, iterations=-1, border_value=1),
        }
        return found | more
    more = {
        "structure": lambda a: ndimage.grey_dilation(a, structure=structure, mode="reflect"),
        "fractions": lambda a: ndimage.grey_erosion(
            a, structure=structure + 0.3, mode="constant", cval=3
        ),
        "ignored": lambda a: ndimage.grey_closing(
            a, structure=structure * 20, footprint=structure > 0, mode="ignore"
        ),
        "correlate": lambda a: ndimage.correlate(a, structure * 0.7, output=np.float64),
        "symmetric": lambda a: ndimage.correlate1d(a, [0.3, 2, 0.3], 0, mode="wrap"),
        "antisymmetric": lambda a: ndimage.convolve1d(a, [0.3, 0, -0.3], output=np.int16),
    }
    return found | more


@pytest.mark.table(1)
@pytest.mark.parametrize("dtype", DTYPES)
def test_array_loops_agree_with_the_host(dtype):
    image = image_of(dtype)
    for name, call in calls(dtype).items():
        expected = call(image)
        with served_by(reference):
            result = call(image)
        np.testing.assert_array_equal(result, expected, err_msg=f"{name} of {dtype}")


@pytest.mark.table(1)
@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint64", "float16", "float32"])
def test_cuda_kernels_agree_with_the_host(dtype, order):
    image, device = image_of(dtype), HarnessDevice(order=order)
    for name, call in calls(dtype).items():
        expected = call(image)
        with served_by(cuda.Backend(device)):
            result = call(image)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected, err_msg=f"{name} of {dtype}")


def test_arrays_that_stay_on_a_gpu_are_told_apart_by_more_than_their_bytes():
    """Of the int32 look-ups (3, 0) of a footprint, and of an int64 offset 3."""
    image, one = np.arange(9), np.array([0, 0, 0, 1], bool)
    with served_by(cuda.Backend(HarnessDevice())):
        ndimage.minimum_filter(image, footprint=[1, 1, 0, 1])
        result = ndimage.grey_erosion(image, structure=one * 2, footprint=one)
    assert result.tolist() == [-1, 0, 1, 2, 3, 4, 5, 6, 6]


def test_the_chosen_backend_computes_within_its_context_alone():
    class Failing:
        def box(self, array, window, outside, minimum):
            raise ZeroDivisionError(window.shape)

    image = image_of("float32")
    with served_by(Failing()), pytest.raises(ZeroDivisionError, match=r"\(3, 3\)"):
        ndimage.maximum_filter(image, 3)
    assert ndimage.maximum_filter(image, 3).shape == image.shape


SMALL_BOXES = {
    "centred": (3, {"mode": "mirror"}),
    "even": (2, {"mode": "constant", "cval": 50}),
    "across": ((1, 3), {"mode": "wrap"}),
    "down": ((3, 1), {"origin": (1, 0), "mode": "nearest"}),
    "beside": (3, {"origin": (1, -1), "mode": "ignore"}),
    "larger": ((4, 5), {"origin": (-2, 1), "mode": "reflect"}),
    "wide": ((2, 9), {"origin": (0, 4), "mode": "mirror"}),
    "tall": ((9, 6), {"mode": "constant", "cval": np.nan}),
}
BY_STRIPS = (9, 9, 9, 9)
STRIP_DTYPES = (*DTYPES, "int8", "uint16", "uint32")


@pytest.mark.table(6)
@pytest.mark.parametrize("box", SMALL_BOXES)
@pytest.mark.parametrize("dtype", STRIP_DTYPES)
def test_strips_of_small_boxes(dtype, box):
    """Rows of whole strips, some of which see the border; a last strip of fewer rows; planes."""
    size, border = SMALL_BOXES[box]
    images = image_of(dtype, (23, 64)), image_of(dtype, (2, 9, 36))
    integer = not dtype.startswith("float")
    cval = {"cval": 0} if integer and np.isnan(border.get("cval", 0)) else {}
    for image in images:
        if not integer:
            image.flat[::7], image.flat[3::50] = np.nan, np.inf
            image[..., 3:12, :20] = np.nan
    # Each box and each dtype meets both functions with both numbers of rows, though not each pair.
    place = (*SMALL_BOXES,).index(box) + STRIP_DTYPES.index(dtype)
    calls = (ndimage.maximum_filter, ndimage.minimum_filter)[:: 1 if place % 2 else -1]
    for rows, image, call in zip((1, 8), images, calls, strict=True):
        limits = cuda.Limits(strip_rows=(rows, rows), small_box=BY_STRIPS)
        given = {"axes": (-2, -1), **border, **cval}
        expected = call(image, size, **given)
        with served_by(cuda.Backend(HarnessDevice(order="reverse"), limits)):
            result = call(image, size, **given)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("shape", [(1, 16), (40, 4), (1, 4096), (300, 1, 24), (2, 5, 48)])
def test_strips_of_images_of_any_size(shape):
    """One strip that sees both borders; windows larger than the image; one row; many planes."""
    image = np.random.default_rng(5).integers(0, 255, shape).astype(np.uint8)
    limits = cuda.Limits(small_box=BY_STRIPS, strips=0, blocks_y=2)
    for size, border in ((3, {"mode": "wrap"}), (9, {"mode": "constant", "cval": 7})):
        expected = scipy.ndimage.grey_erosion(image, size=(size,) * image.ndim, **border)
        with served_by(cuda.Backend(HarnessDevice(), limits)):
            result = ndimage.grey_erosion(image, size=(size,) * image.ndim, **border)
        np.testing.assert_array_equal(result, expected)


def test_which_boxes_go_by_strips():
    def launched(image, size, **limits):
        recorder = Recorder()
        with served_by(cuda.Backend(recorder, cuda.Limits(**limits))):
            ndimage.maximum_filter(image, size)
        return ["small_box" in launch.source.name for launch in recorder.launches]

    image, bytes_to_three = image_of("uint8", (64, 64)), (3, 1, 1, 1)
    for size in (3, (3, 1), (1, 2)):
        assert launched(image, size, small_box=bytes_to_three) == [True]
    assert all(launched(image.reshape(4, 16, 64), 3, small_box=bytes_to_three))
    assert launched(image, 4, small_box=bytes_to_three) == [False]
    assert launched(image[:, :44], 3, small_box=bytes_to_three) == [True]
    assert launched(image[:, :42], 3, small_box=bytes_to_three) == [False]  # no whole words
    assert launched(image.astype("int16"), 3, small_box=bytes_to_three) == [False]


@pytest.mark.parametrize("name", ["correlate", "grey_erosion", "maximum_filter"])
def test_cuda_filters_a_number(name):
    number = np.array(3.0)
    given = {"maximum_filter": {"size": ()}, "grey_erosion": {"structure": np.array(2.0)}}
    given = given.get(name, {"weights": np.array(2.0)})
    with served_by(cuda.Backend(HarnessDevice())):
        result = getattr(ndimage, name)(number, **given)
    assert result == getattr(scipy.ndimage, name)(number, **given)


@pytest.mark.parametrize("shape", [(5,), (300,), (3, 4, 5), (2, 3, 2, 70)])
def test_cuda_boxes_of_any_rank(shape):
    image = image_of("float32", shape)
    size = tuple(range(2, 2 + len(shape)))
    expected = ndimage.grey_closing(image, size, mode="reflect")
    with served_by(cuda.Backend(HarnessDevice())):
        result = ndimage.grey_closing(image, size, mode="reflect")
    np.testing.assert_array_equal(result, expected)


def colour_calls(size):
    """Filters of colours, (..., H, W, C), whose windows leave the last axis alone."""
    random = np.random.default_rng(4)
    disk = structuring.disk(3)[..., None]
    structure = random.integers(-9, 9, (3, 5, 1))
    return {
        "box": lambda a, mode: ndimage.maximum_filter(a, (*size, 1), mode=mode, cval=7),
        "rows": lambda a, mode: ndimage.minimum_filter1d(a, 21, axis=-2, mode=mode, cval=7),
        "disk": lambda a, mode: ndimage.grey_erosion(a, footprint=disk, mode=mode, cval=7),
        "structure": lambda a, mode: ndimage.grey_dilation(
            a, structure=structure, mode=mode, cval=7
        ),
    }


@pytest.mark.table(1)
@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "wrap", "constant"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_cuda_kernels_take_colours_as_parts_of_rows(dtype, mode):
    """Bytes, halves, words and doubles; rows that are and are not whole chunks; NaN."""
    backend = cuda.Backend(
        HarnessDevice(order="reverse" if mode in ("wrap", "mirror") else "forward")
    )
    for shape, size in (((45, 70, 3), (9, 20)), ((33, 52, 4), (3, 3)), ((40, 23, 2), (1, 3))):
        image = image_of(dtype, shape)
        if image.dtype.kind == "f":
            image[::7, ::5, 1] = np.nan
        for name, call in colour_calls(size).items():
            expected = call(image, mode)
            with served_by(backend):
                result = call(image, mode)
            np.testing.assert_array_equal(result, expected, err_msg=f"{name} of {shape}")


@pytest.mark.parametrize("unit", [8, 9])
def test_positions_far_apart_are_an_axis_of_their_own_in_tiles_of_footprints(unit):
    image = image_of("float32", (20, 21, unit))
    footprint = structuring.disk(2)[..., None]
    limits = cuda.Limits(unit=8)
    form = Launcher(HarnessDevice(), limits).near_form(
        image.shape, Window(footprint.shape, (2, 2, 0), ("wrap",) * 3)
    )
    assert (form.unit, form.shape[-1]) == ((8, 21 * 8) if unit == 8 else (1, 9))
    expected = ndimage.grey_dilation(image, footprint=footprint, mode="wrap")
    with served_by(cuda.Backend(HarnessDevice(), limits)):
        result = ndimage.grey_dilation(image, footprint=footprint, mode="wrap")
    np.testing.assert_array_equal(result, expected)


def test_cuda_reconstruction_of_colours():
    random = np.random.default_rng(3)
    mask = random.random((50, 45, 3)) < 0.6
    seed = mask & (random.random(mask.shape) < 0.01)
    steps = np.ones((3, 3, 1))
    expected = ndimage.binary_propagation(seed, steps, mask=mask)
    with served_by(cuda.Backend(HarnessDevice())):
        result = ndimage.binary_propagation(seed, steps, mask=mask)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.table(3)
@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("shape", [(150,), (70, 75), (3, 4, 34, 40)])
def test_cuda_components(shape, minimum, order):
    """What spreads there and back: snakes over many tiles, and noise at which components grow."""
    random = np.random.default_rng(9)
    snake = np.zeros(shape, bool)
    snake[..., ::4] = True
    if len(shape) > 1:
        snake[..., 0, 2::8] = snake[..., -1, 6::8] = True
        snake[..., 0, 1:-1] |= snake[..., 0, 2:] | snake[..., 0, :-2]
    steps = random.integers(-1, 2, (4, len(shape)))
    steps[0] = [0] * (len(shape) - 1) + [1]
    steps = np.unique(np.concatenate([steps, -steps])[:, :], axis=0)
    steps = steps[steps.any(axis=1)]
    backend = cuda.Backend(HarnessDevice(order=order))
    for mask in (snake, random.random(shape) < 0.5, np.ones(shape, bool), np.zeros(shape, bool)):
        seed = random.random(shape) < 0.03
        given = (seed != minimum, mask != minimum, steps, minimum)
        np.testing.assert_array_equal(backend.reconstruct(*given), reference.reconstruct(*given))


@pytest.mark.table(3)
@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("dtype", ["bool", "int16", "float32"])
@pytest.mark.parametrize("shape", [(150,), (37, 75), (4, 3, 34, 5)])
def test_cuda_reconstruction_goes_through_tiles(shape, dtype, minimum):
    """Over their edges, against what one step after another gives; NaN spreads nowhere."""
    random = np.random.default_rng(9)
    mask = image_of(dtype, shape)
    seed = np.where(random.random(shape) < 0.02, mask, mask.max() if minimum else mask.min())
    if dtype == "float32":
        seed[random.random(shape) < 0.1] = np.nan
    steps = random.integers(-1, 2, (6, len(shape)))
    steps[0] = [0] * (len(shape) - 1) + [2]
    steps = np.unique(steps[steps.any(axis=1)], axis=0)
    given = (seed, mask, steps, minimum)
    result = cuda.Backend(HarnessDevice()).reconstruct(*given)
    np.testing.assert_array_equal(result, reference.reconstruct(*given))


class Recording(HarnessDevice):
    """A harness that keeps the names of the kernels it compiled."""

    def __init__(self):
        super().__init__()
        self.compiled = []

    def compile(self, source, name, options=()):
        self.compiled.append(name)
        return super().compile(source, name, options)


def test_what_no_tile_serves_is_reduced_tap_by_tap():
    """The kernels that the test below must not find, found where shared memory is too small."""
    device, image = Recording(), image_of("float32")
    footprint = np.eye(5, dtype=bool)
    expected = ndimage.maximum_filter(image, footprint=footprint)
    with served_by(cuda.Backend(device, cuda.Limits(shared_bytes=64))):
        result = ndimage.maximum_filter(image, footprint=footprint)
    np.testing.assert_array_equal(result, expected)
    assert [name.partition("_maximum")[0] for name in device.compiled] == ["semiconv_flat"]


@pytest.mark.table(2)
@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32"])
def test_cuda_structures_are_tiled(dtype, mode):
    """As convolutions of a copy with borders, three axes, windows wider than the image."""
    image = image_of(dtype, (3, 40, 70))
    functions = ndimage.grey_dilation, ndimage.grey_erosion
    structure = image_of(dtype, (2, 11, 3))
    if image.dtype.kind == "f":
        structure[0, 3] = -np.inf
    given = dict(structure=structure, mode=mode, cval=3)
    expected = [function(image, **given) for function in functions]
    device = Recording()
    for function, right in zip(functions, expected, strict=True):
        with served_by(cuda.Backend(device)):
            result = function(image, **given)
        np.testing.assert_array_equal(result, right)
    assert any(name.startswith("semiconv_border") for name in device.compiled)
    # These kernels serve one tap after the other.
    assert not any(name.startswith("semiconv_structure") for name in device.compiled)


# Shapes with rows that may be moved four elements at once and without; tiles inside and at every
# border; windows of each number of outputs found together, with folds, longer than the image.
BOXES = [
    ((70, 200), (3, 2), (1, 0), ("reflect", "wrap")),
    ((90, 260), (9, 40), (8, 20), ("mirror", "constant")),
    ((45, 39), (17, 12), (3, 11), ("constant", "nearest")),
    ((3, 5, 7), (1, 4, 20), (0, 2, 19), ("nearest", "wrap", "mirror")),
    ((6, 30, 2), (9, 3, 1), (4, 0, 0), ("wrap", "reflect", "nearest")),
]


@pytest.mark.table(1)
@pytest.mark.parametrize("dtype", ["int8", "uint16", "float16", "float32"])
def test_cuda_boxes(dtype):
    backend = cuda.Backend(HarnessDevice(order="reverse"))
    random = np.random.default_rng(3)
    for minimum, (shape, *box) in zip((False, True, False, True, True), BOXES, strict=True):
        window = Window(*box)
        image = image_of(dtype, shape)
        if image.dtype.kind == "f":
            image[random.random(shape) < 0.3] = np.nan
        elif image.dtype.kind == "i":
            image -= 60
        outside = np.array(1, dtype)
        expected = reference.box(image, window, outside, minimum)
        result = backend.box(image, window, outside, minimum)
        np.testing.assert_array_equal(result, expected, err_msg=f"{shape} {box}")


# Strips and tiles, at borders and between them; windows beyond the image; planes of taps, one
# without any; colours; no tile. The numbers say how many of a window's positions are taps.
SUMS = [
    ((70, 130), (5, 3), (2, 2), ("mirror", "constant"), 0.7),
    ((72, 331), (3, 3), (1, 1), ("nearest", "constant"), 1),
    ((9, 90, 3), (3, 3, 1), (1, 1, 0), ("mirror", "reflect", "wrap"), 1),
    ((2, 4, 9, 33), (1, 3, 3, 3), (0, 1, 1, 1), ("wrap", "constant", "constant", "constant"), 1),
    ((40, 39), (17, 12), (3, 11), ("constant", "nearest"), 0.7),
    ((66, 39), (11, 8), (3, 7), ("constant", "reflect"), 1),
    ((3, 5, 7), (3, 4, 20), (0, 2, 19), ("nearest", "wrap", "mirror"), 0.7),
    ((4, 9, 33), (3, 2, 4), (1, 0, 2), ("wrap", "constant", "mirror"), 1),
    ((2, 6, 30, 3), (1, 5, 3, 1), (0, 4, 0, 0), ("wrap", "reflect", "nearest", "wrap"), 1),
    ((40, 50), (9, 9), (4, 4), ("wrap", "reflect"), 0.1),
    ((2, 3, 9, 9), (2, 3, 3, 3), (0, 1, 1, 1), ("wrap", "constant", "mirror", "nearest"), 0.7),
    ((20, 3000), (3, 200), (1, 100), ("reflect", "reflect"), 0.7),
]


@pytest.mark.parametrize(
    "dtypes",
    [("float32", "float32"), pytest.param(("int64", "uint8"), marks=pytest.mark.slow)],
    ids=str,
)
def test_cuda_sums(dtypes):
    backend = cuda.Backend(HarnessDevice(order="reverse"), cuda.Limits(strips=0, blocks_y=3))
    random = np.random.default_rng(3)
    for shape, window, before, rules, part in SUMS:
        image = image_of(dtypes[0], shape)
        taps = random.random(window) < part
        if part < 1:
            taps[..., -1] = part > 0.5
            if len(window) == 3:
                taps[1] = False  # a plane without taps
        indices = np.argwhere(taps)
        given = (
            Window(window, before, rules, cval=2.5),
            WeightedTaps(indices, random.random(len(indices))),
        )
        expected, result = (np.full(shape, 77, dtypes[1]) for _ in range(2))
        reference.correlate(image, *given, expected)
        backend.correlate(image, *given, result)
        np.testing.assert_array_equal(result, expected, err_msg=f"{shape} {window}")


@pytest.mark.parametrize("shape", [(70, 40), (3, 300), (5, 40, 3)])
def test_cuda_sums_along_an_axis_begin_with_the_last_tap(shape):
    image, random = image_of("float32", shape), np.random.default_rng(5)
    for axis, length in ((0, 4), (1, 5), (0, 11), (1, 12)):
        indices = np.zeros((length, len(shape)), np.int64)
        indices[:, axis] = np.roll(np.arange(length), 1)
        window = Window.along(axis, len(shape), length, 2, "mirror", 0.0)
        taps = WeightedTaps(indices, random.normal(size=length))
        expected, result = (np.full(shape, 77, np.float64) for _ in range(2))
        reference.correlate(image, window, taps, expected)
        by_strips = cuda.Backend(HarnessDevice(), cuda.Limits(strips=0))
        by_strips.correlate(image, window, taps, result)
        np.testing.assert_array_equal(result, expected, err_msg=f"{axis} {length}")


@pytest.mark.parametrize("symmetry", [1, -1])
def test_cuda_joins_opposite_taps(symmetry):
    backend = cuda.Backend(HarnessDevice(order="reverse"), cuda.Limits(strips=0))
    random = np.random.default_rng(4)
    for axis, half, shape in (
        (0, 3, (70, 40)),
        (1, 3, (3, 300)),
        (1, 2, (5, 60)),
        (0, 5, (70, 40)),
        (1, 6, (3, 300)),
        (1, 3, (5, 40, 3)),
    ):
        ahead = random.random(half)
        length = 2 * half + 1
        order = np.r_[half, 0:half, half + 1 : length]
        weights = np.concatenate([[0.3], symmetry * ahead, ahead[::-1]])
        indices = np.zeros((length, len(shape)), np.int64)
        indices[:, axis] = order
        window = Window.along(axis, len(shape), length, 2, "mirror", 0.0)
        taps, image = WeightedTaps(indices, weights, symmetry), image_of("float32", shape)
        expected, result = (np.full(shape, 77, np.float32) for _ in range(2))
        reference.correlate(image, window, taps, expected)
        backend.correlate(image, window, taps, result)
        np.testing.assert_array_equal(result, expected, err_msg=f"{axis} {half} {shape}")


@pytest.mark.parametrize(
    ("number", "size", "unit", "served"),
    [
        (1, (1, 2**31 - 100, 100), 1, True),
        (8, (1, 2**31 - 100, 100), 1, True),
        (9, (1, 2**31 - 100, 100), 1, False),
        (1, (1, 2**31 - 1, 2), 1, False),
        (1, (1, 100, 2**31 - 2), 1, False),
        (2**31, (1, 1, 100), 3, False),
        (100, (2**20, 3, 100), 3, True),
    ],
)
def test_strips_of_sums_are_within_the_limits(number, size, unit, served):
    volumes = small_sums.Volumes(number, size, (3, 3, 3), (1, 1, 1), unit)
    launch = small_sums.small_sum_launch(volumes, cuda.Limits())
    assert (launch is not None) == served
    if launch is not None:
        below = launch.grid[1] * launch.grid[2] * launch.block[1]
        assert below * launch.window.rows >= number * math.prod(size[:2])
        assert launch.grid[0] * launch.block[0] >= size[2]
        assert max(launch.grid[1:]) <= 65535


def test_cuda_reads_weights_where_they_are_and_leaves_out_the_negligible():
    image = image_of("float32", (40, 70))
    image[3, 5], image[20, 60] = np.inf, np.nan
    weights = np.array([[1, 0, -2], [2.0**-60, 3, 0.5]])
    window = Window((2, 3), (1, 1), ("reflect", "reflect"))
    taps = every_tap(weights)
    expected, result = (np.full(image.shape, 77, np.float32) for _ in range(2))
    reference.correlate(image, window, taps, expected)
    cuda.Backend(HarnessDevice()).correlate(image, window, taps, result)
    assert np.isnan(result).sum() == 4
    np.testing.assert_array_equal(result, expected)
    of_wide_windows = cuda.Backend(HarnessDevice(), cuda.Limits(shared_bytes=0))
    of_wide_windows.correlate(image, window, taps, result)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("backend", [reference, cuda.Backend(HarnessDevice())])
def test_sums_of_the_other_backends_become_halves_in_one_rounding(backend):
    middles = np.array([4.904296875, 1 + 2.0**-11, 2.0**-25, 3 * 2.0**-25, 65520.0])
    exact = np.concatenate([np.nextafter(middles, 0), np.nextafter(middles, np.inf), [np.inf, 0]])
    exact = np.concatenate([exact, -exact])
    out = np.empty(len(exact), np.float16)
    one = WeightedTaps(np.zeros((1, 1), np.int64), np.ones(1))
    backend.correlate(exact, Window((1,), (0,), ("nearest",)), one, out)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, exact.astype(np.float16))


@pytest.mark.parametrize("backend", [reference, cuda.Backend(HarnessDevice())])
def test_the_other_backends_sum_no_taps_to_zero(backend):
    out = np.full((3, 4), 7, np.uint8)
    none = WeightedTaps(np.zeros((0, 2), np.int64), np.zeros(0))
    window = Window((3, 3), (1, 1), ("wrap", "wrap"))
    backend.correlate(np.ones((3, 4), np.uint8), window, none, out)
    assert not out.any()


def test_cuda_keeps_no_table_of_a_long_axis():
    backend, image = cuda.Backend(HarnessDevice()), np.zeros(30_000, np.uint8)
    window, constant = Window((3,), (1,), ("reflect",)), np.array(0, np.uint8)
    holed = window._replace(taps=np.array([True, False, True]))
    taps = WeightedTaps(np.arange(3)[:, None], np.ones(3))
    calls = [
        lambda: backend.box(image, window, constant, False),
        lambda: backend.footprint(image, holed, constant, False),
        lambda: backend.correlate(image, window, taps, np.empty_like(image)),
    ]
    for call in calls:
        tracemalloc.start()
        call()
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert kept < 8 * image.size / 2


def test_a_view_that_begins_between_words():
    image = image_of("uint8", (1 + 40 * 64,))[1:].reshape(40, 64)
    box = Window((3, 3), (1, 1), ("nearest", "nearest")), np.array(0, np.uint8), False
    result = cuda.Backend(HarnessDevice()).box(image, *box)
    np.testing.assert_array_equal(result, reference.box(image, *box))


def _holes(*shape):
    taps = np.random.default_rng(5).random(shape) < 0.6
    taps[(0,) * len(shape)] = taps[(-1,) * len(shape)] = True
    return taps


# Runs of every length, several and none in a line; tiles with depth; more axes than a tile has.
FOOTPRINTS = [
    ((150, 140), structuring.disk(9), (4, 17), ("reflect", "constant")),
    ((170, 75), _holes(6, 41), (5, 0), ("wrap", "mirror")),
    ((20, 21, 40), structuring.ball(2), (2, 0, 4), ("nearest", "constant", "wrap")),
    ((2, 3, 9, 12), _holes(1, 2, 2, 4), (0, 1, 0, 2), ("nearest",) * 4),
    ((5, 4, 6, 7), _holes(2, 2, 1, 3), (1, 0, 0, 1), ("mirror",) * 4),
]


@pytest.mark.table(2)
@pytest.mark.parametrize("dtype", ["int8", "uint16", "float16", "float32"])
def test_cuda_footprints(dtype):
    backend = cuda.Backend(HarnessDevice(order="reverse"))
    random = np.random.default_rng(4)
    for minimum, (shape, taps, *rest) in zip((0, 1, 1, 0, 1), FOOTPRINTS, strict=True):
        image = image_of(dtype, shape)
        if image.dtype.kind == "f":
            image[random.random(shape) < 0.5] = np.nan
        elif image.dtype.kind == "i":
            image -= 60
        given = Window(taps.shape, *rest, taps=taps), np.array(1, dtype), bool(minimum)
        expected = reference.footprint(image, *given)
        result = backend.footprint(image, *given)
        np.testing.assert_array_equal(result, expected, err_msg=f"{shape} {minimum}")


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("shape", "radius", "expected"),
    [((2**33, 64), 3, True), ((2**20, 300, 300), 2, True), ((4000, 4000), 100, False)],
)
def test_launches_of_footprints_are_within_the_limits(shape, radius, expected, itemsize):
    taps = {2: structuring.disk, 3: structuring.ball}[len(shape)](radius)
    before = (radius,) * len(shape)
    form = filter_form(shape, taps.shape, before, ("reflect",) * len(shape))
    launch = footprints.footprint_launch(form, taps.tobytes(), itemsize)
    assert (launch is not None) == expected
    if launch is not None:
        assert launch.shared_bytes <= 48 * 1024
        limits = zip(launch.grid, (2**31 - 1, 65535, 65535), strict=True)
        assert all(0 < blocks <= most for blocks, most in limits)


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2**32,), (300,)),
        ((2**20, 2**14), (3, 3)),
        ((2**17, 3, 2), (1, 2, 2)),
        ((4096, 4096), (51, 51)),
        ((4096, 4096), (1000, 1000)),
    ],
)
def test_launches_of_boxes_are_within_the_limits(shape, window, itemsize):
    covered = set()
    rank = len(shape)
    form = filter_form(shape, window, (0,) * rank, ("wrap",) * rank)
    for axes, launch in boxes.flat_launches(form, itemsize):
        covered.update(form.windowed[axis] for axis in axes)
        assert launch is not None
        assert launch.shared_bytes <= 48 * 1024
        limits = zip(launch.grid, (2**31 - 1, 65535, 65535), strict=True)
        assert all(0 < blocks <= most for blocks, most in limits)
    assert covered == {axis for axis, k in enumerate(window) if k > 1}


@pytest.mark.table(5)
@pytest.mark.parametrize("architecture", ["sm_90"])
@pytest.mark.parametrize("kernel", list(cuda.shipping_variants()), ids=lambda kernel: kernel.name)
def test_nvrtc_compiles_without_spills(kernel, architecture):
    nvrtc = pytest.importorskip("kernels_cu.nvrtc")
    try:
        compiler = nvrtc.load()
    except nvrtc.LibraryNotFoundError as error:
        pytest.skip(str(error))
    compiled = compiler.compile(kernel.text, architecture, kernel.options)
    assert not compiled.kernels[kernel.name].spills
