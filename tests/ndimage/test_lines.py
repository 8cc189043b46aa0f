"""Passes of parabolas whose costs differ between groups of lines, and their transposes."""

import numpy as np
import pytest
from cuda_on_cpu.device import HarnessDevice

from semiconv_cupy.backends.place import NUMPY
from semiconv_cupy.ndimage import cuda, neighbourhood, reference
from semiconv_cupy.ndimage.lines import Pass, Pullback, costs
from semiconv_cupy.ndimage.lines_backward import pull_back, pull_back_by_arrays
from semiconv_cupy.ndimage.neighbourhood import served_by

SHAPES = ((2, 3, 17), (2, 3, 7, 90), (1, 3, 4, 5, 6))
WEIGHTS = (0.4, np.inf, 0.01)


def image_of(shape, dtype="float32"):
    image = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    image[0, :, 0] = np.nan
    image[0, 2] = np.inf
    return image


def computed(image, axis, of_groups, minimum, backend=None):
    out, winners = np.empty(image.shape), np.empty(image.shape, np.int32)
    repeat = int(np.prod(image.shape[2:axis]))
    step = Pass(axis, of_groups, out, winners, minimum=minimum, repeat=repeat)
    with served_by(backend):
        neighbourhood.parabolas(NUMPY, image, step)
    return out, winners


@pytest.mark.parametrize("minimum", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_group_of_lines_has_its_own_costs(shape, minimum):
    image = image_of(shape)
    for axis in range(2, len(shape)):
        size = shape[axis]
        rows = [costs(size, w) if w < np.inf else np.full(size, np.inf) for w in WEIGHTS]
        out, winners = computed(image, axis, np.stack(rows), minimum)
        for group, row in enumerate(rows):
            given = np.ascontiguousarray(image[:, group : group + 1])
            if row[0] == 0:
                alone = computed(given, axis, row, minimum)
            else:  # nothing moves, and NaN stays
                own = np.arange(size).reshape(-1, *(1,) * (image.ndim - axis - 1))
                alone = given, np.broadcast_to(own, given.shape)
            np.testing.assert_array_equal(out[:, group : group + 1], alone[0])
            np.testing.assert_array_equal(winners[:, group : group + 1], alone[1])
        for backend in (reference, cuda.Backend(HarnessDevice())):
            again = computed(image, axis, np.stack(rows), minimum, backend)
            np.testing.assert_array_equal(again[0], out)
            np.testing.assert_array_equal(again[1], winners)


@pytest.mark.parametrize(
    "backend",
    [None, reference]
    + [cuda.Backend(HarnessDevice(), cuda.Limits(shared_bytes=n)) for n in (48 * 1024, 5000)],
)
@pytest.mark.parametrize("weight", [0.3, 1e-4])
def test_parts_of_lines_are_those_of_the_whole(backend, weight):
    image = np.random.default_rng(2).standard_normal((3, 26, 150, 5)).astype(np.float32)
    image[0, :, 3] = np.inf
    whole, there = np.empty(image.shape), np.empty(image.shape, np.float32)
    with served_by(backend):
        neighbourhood.parabolas(NUMPY, image, Pass(2, costs(150, weight), whole))
        neighbourhood.parabolas(NUMPY, whole, Pass(0, costs(3, 0.5), there, minimum=False))
        for begin, end in ((0, 64), (16, 65), (133, 150), (0, 150)):
            part = np.empty((3, 26, end - begin, 5))
            step = Pass(2, costs(150, weight), part, outputs=(begin, end))
            neighbourhood.parabolas(NUMPY, image, step)
            np.testing.assert_array_equal(part, whole[:, :, begin:end])
            to = np.zeros(image.shape, np.float32)
            step = Pass(0, costs(3, 0.5), to[:, :, begin:end], minimum=False)
            neighbourhood.parabolas(NUMPY, part, step)
            np.testing.assert_array_equal(to[:, :, begin:end], there[:, :, begin:end])
            assert not to[:, :, :begin].any()
            assert not to[:, :, end:].any()


# Weights above all rounding, about as small, and far below it; and costs that are no squares.
KINDS = [
    *[("float64", lambda size, w=w: costs(size, w)) for w in (2.5, 1e-14, 1e-30)],
    ("float64", lambda size: np.arange(size, dtype=np.float64)),
    ("uint8", lambda size: costs(size, 0.003)),
]


@pytest.mark.parametrize(("dtype", "of_distances"), KINDS)
def test_a_gpu_computes_the_bits_of_the_host(dtype, of_distances):
    random = np.random.default_rng(3)
    devices = [
        cuda.Backend(HarnessDevice(), cuda.Limits(shared_bytes=n)) for n in (49152, 9000, 2000)
    ]
    for shape in ((1, 3), (9, 31), (5, 33), (4, 300), (2, 2, 129), (1, 700)):
        image = (random.standard_normal(shape) * 40).astype(dtype)
        if dtype == "float64":
            image[0, ..., ::3] = np.inf
            image[-1, ..., ::2] = np.nan
            image.flat[image.size // 2] = -np.inf if shape == (9, 31) else 1e300
        for axis, minimum in ((0, True), (len(shape) - 1, False)):
            given = np.ascontiguousarray(np.moveaxis(image, -1, axis)) if axis == 0 else image
            step = Pass(axis, of_distances(given.shape[axis]), None, minimum=minimum)
            found = []
            for backend in (None, *devices):
                out, winners = np.empty(given.shape), np.empty(given.shape, np.int32)
                with served_by(backend):
                    neighbourhood.parabolas(NUMPY, given, step._replace(out=out, winners=winners))
                found.append((out, winners))
            for out, winners in found[1:]:
                np.testing.assert_array_equal(out, found[0][0])
                np.testing.assert_array_equal(winners, found[0][1])


def lines_that_drop_candidates(size, random):
    """Noise, few numbers, ties, chords in a straight line, and numbers on one parabola each."""
    x = np.arange(size, dtype=np.float64)
    few = np.where(random.random((3, size)) < 0.02, random.random((3, size)), np.inf)
    few[:, 0] = few[0, -1] = 3.0
    rounded = random.integers(0, 9, (3, size)).astype(np.float64)
    smooth = 1e4 * np.sin(x / 20) + [[0.0], [1e6], [1e9]]
    below, above = -0.7 * (x - 0.3 * size) ** 2, 0.7 * (x - 0.3 * size) ** 2
    corners = np.abs(x % 50 - 25) * [[1.0], [-3.0]]
    return np.vstack([random.random((3, size)) * 250, few, rounded, smooth, below, above, corners])


@pytest.mark.parametrize("warps", [1, 4])
@pytest.mark.parametrize("size", [32, 33, 64, 255, 1000])
def test_candidates_that_win_nowhere_are_dropped_alone(size, warps):
    image = lines_that_drop_candidates(size, np.random.default_rng(size))
    # A block of four warps has four lines where there is room, else one.
    limits = cuda.Limits(shared_bytes=48 * 1024 if warps == 1 else 300 + 11 * size)
    backend = cuda.Backend(HarnessDevice(), limits)
    apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    for weight in (0.7, 1 / 9, 1.0, 40.0, 1e-6):
        for axis, given in ((1, image), (0, np.ascontiguousarray(image.T))):
            out, winners = computed(given, axis, costs(size, weight), True, backend)
            sums = image[:, np.newaxis] + costs(size, weight)[apart]
            lines = (out, winners) if axis else (out.T, winners.T)
            np.testing.assert_array_equal(lines[0], sums.min(-1))
            np.testing.assert_array_equal(lines[1], sums.argmin(-1))


def test_lanes_of_a_warp_meet_at_barriers():
    """Lines that are thinned, and not; of a warp, and of several; parts of lines; exact float32."""
    random = np.random.default_rng(5)
    noise = random.random((3, 300)) * 250
    all_stay = np.tile(-0.2 * (np.arange(300.0) - 90) ** 2, (3, 1))
    many_stay = np.where(np.arange(300) < 135, all_stay, noise)
    for shared_bytes in (48 * 1024, 3000):
        device = cuda.Backend(HarnessDevice(races=True), cuda.Limits(shared_bytes=shared_bytes))
        with served_by(device):
            for image in (noise, all_stay, many_stay):
                for begin, end in ((0, 300), (60, 130)):
                    for weight in (0.7, 1e-14):
                        out = np.empty((3, end - begin))
                        step = Pass(1, costs(300, weight), out, outputs=(begin, end))
                        neighbourhood.parabolas(NUMPY, image, step)
            integers = random.integers(0, 99, (3, 300)).astype(np.float32)
            step = Pass(1, costs(300, 1.0), np.empty((3, 300)), exact=True)
            neighbourhood.parabolas(NUMPY, integers, step)


@pytest.mark.parametrize("size", [1, 31, 1024, 1025, 2100])
def test_rows_of_any_length_find_the_nearest(size):
    unset = np.random.default_rng(size).random((5, size)) < 0.995
    unset[0], unset[1, :-1], unset[2, 1:] = True, True, True
    found = []
    for backend in (None, cuda.Backend(HarnessDevice())):
        out, winners = np.empty(unset.shape), np.empty(unset.shape, np.int32)
        with served_by(backend):
            neighbourhood.nearest(NUMPY, unset, Pass(1, costs(size, 0.7), out, winners))
        found.append((out, winners))
    np.testing.assert_array_equal(found[1][0], found[0][0])
    np.testing.assert_array_equal(found[1][1], found[0][1])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [*SHAPES, (3, 70, 200), (5, 1), (0, 4)])
def test_gradients_go_to_the_winners(shape, threads):
    random = np.random.default_rng(1)
    for axis, size in enumerate(shape):
        grad = random.standard_normal(shape).astype(np.float32)
        winners = random.integers(-1, size, shape).astype(np.int32)
        expected, moments = np.zeros(shape), np.zeros(shape[:axis] + shape[axis + 1 :])
        for index in np.ndindex(shape):
            winner = winners[index]
            if winner >= 0:
                where = (*index[:axis], winner, *index[axis + 1 :])
                expected[where] += grad[index]
                moments[index[:axis] + index[axis + 1 :]] += (
                    float(grad[index]) * int(index[axis] - winner) ** 2
                )
        for dtype in (np.float64, np.float32, np.float16):
            out, found = np.empty(shape, dtype), np.empty(moments.shape)
            pull_back(grad, Pullback(axis, winners, out, found), threads)
            np.testing.assert_array_equal(out, expected.astype(dtype))
            np.testing.assert_array_equal(found, moments)
        there, of_lines = np.empty(shape), np.empty(moments.shape)
        if grad.size:
            device = cuda.Backend(HarnessDevice())
            device.pull_back(grad.astype(np.float64), Pullback(axis, winners, there, of_lines))
            np.testing.assert_array_equal(there, expected)
            np.testing.assert_array_equal(of_lines, moments)
        again, by_arrays = np.empty(shape), np.empty(moments.shape)
        pull_back_by_arrays(grad, Pullback(axis, winners, again, by_arrays))
        np.testing.assert_allclose(again, expected, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(by_arrays, moments, rtol=1e-12, atol=1e-12)
