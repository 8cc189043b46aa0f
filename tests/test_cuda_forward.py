"""The CUDA forward kernels, launched by the real launch code, on the CPU.

`test_forward.py` and others run what the launch code picks: on small images the direct kernel.
Here: the tiled kernel on the whole table, that every element is written, 64-bit offsets, the
grid-stride loop, the order of threads, memory errors.
"""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cases
import numpy as np
import oracle
import pytest
from cases import GEOMETRIES, SEMIFIELDS
from compare import assert_matches
from cuda_on_cpu.device import HarnessDevice, sanitizer_environment
from hypothesis import example, given
from hypothesis import strategies as st

from semiconv_cupy.backends import cuda
from semiconv_cupy.backends.cuda.forward_tile import forward_tile_of
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, LIMITS, Limits
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import residual_of
from semiconv_cupy.structs import Divisor

HERE = Path(__file__).parent
ANY_TILE = LIMITS.for_method("tiled")


class Recorder(HarnessDevice):
    """Remembers what was compiled and launched; may change the grid."""

    def __init__(self, grid=None, **arguments):
        super().__init__(**arguments)
        self.grid = grid
        self.sources, self.names, self.grids = [], [], []

    def compile(self, source, name, options=()):
        self.sources.append(source)
        kernel = super().compile(source, name, options)

        def launch(grid, block, args, shared_bytes=0, stream=None):
            self.names.append(name)
            self.grids.append(grid)
            kernel(self.grid or grid, block, args, shared_bytes)

        return launch


def bits_of(storage, numbers):
    """Numbers as the arrays of bits that a kernel on float16 or bfloat16 reads; NaN is one."""
    if storage == "float16":
        with np.errstate(over="ignore"):
            return numbers.astype("f2").view("u2")
    bits = numbers.astype("f4").view("u4")
    rounded = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("u2")
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), rounded)


def check(device, name, geometry, dtype="float32", method="direct"):
    case = SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, dtype)
    out = cases.run_on(device, img, krn, case.semifield, method, **geometry.arguments)
    assert_matches(out, cases.expected_of(name, geometry, dtype), dtype=dtype)


def tiled(name, geometry, dtype="float32"):
    case = SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, dtype)
    out = cases.run(cases.TILED, img, krn, case.semifield, **geometry.arguments)
    assert_matches(out, cases.expected_of(name, geometry, dtype), dtype=dtype)


@pytest.mark.table(6)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_tiles_on_every_geometry(geometry):
    tiled("tropical_max", GEOMETRIES[geometry])


def test_most_of_the_table_has_tiles():
    """So that the tests of tiles do not all skip."""
    semifields = [case.semifield for case in SEMIFIELDS.values()]
    served = [
        forward_tile_of(semifield, "float32", geometry.plan(), None, ANY_TILE) is not None
        for semifield in semifields
        for geometry in GEOMETRIES.values()
    ]
    assert np.mean(served) > 0.7


@pytest.mark.table(8)
@pytest.mark.parametrize("geometry", ["groups", "everything", "3-D", "1-D, stride 2"])
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_tiles_on_every_semifield(name, geometry):
    more = {"1-D, stride 2": cases.GeometryCase((2, 3, 17), (4, 3, 4), dict(stride=2, padding=3))}
    tiled(name, {**GEOMETRIES, **more}[geometry])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("name", ["tropical_max", "linear"])
def test_tiles_on_other_dtypes(name, dtype):
    tiled(name, GEOMETRIES["everything"], dtype)


@pytest.mark.parametrize("name", ["tropical_max", "tropical_min_negated"])
def test_ties_in_tiles_go_to_the_first_tap(name):
    case, geometry = SEMIFIELDS[name], GEOMETRIES["everything"]
    rng = np.random.default_rng(7)
    img, krn = (rng.integers(-1, 2, shape).astype("f4") for shape in (geometry.img, geometry.krn))
    expected = oracle.convolve(img, krn, case.algebra, **geometry.arguments)
    out, residual = cases.run_with_residual(
        cases.TILED, img, krn, case.semifield, "float32", **geometry.arguments
    )
    assert_matches(out, expected, dtype="float32")
    winner = np.where(residual == 255, -1, residual.astype(int))
    assert_matches(winner, expected.winner, dtype=int)


@pytest.mark.parametrize("name", ["linear", "log(2)", "tropical_max"])
def test_tiles_of_a_thousand_terms(name):
    case = SEMIFIELDS[name]
    img = cases.numbers((1, 3, 33, 36), "f4", cases.MAGNITUDES, seed=1)
    krn = cases.numbers((1, 3, 31, 31), "f4", cases.MAGNITUDES, seed=2)
    out = cases.run(cases.TILED, img, krn, case.semifield)
    assert_matches(out, oracle.convolve(img, krn, case.algebra), dtype="float32")


@pytest.mark.table(8)
@pytest.mark.parametrize("kernel", cases.SPECIAL_KERNELS)
@pytest.mark.parametrize("name", ["tropical_max", "max_times", "linear", "log(2)", "root(3)"])
def test_infinities_and_nan_in_tiles(name, kernel):
    case = SEMIFIELDS[name]
    img, krn = np.array([[cases.SPECIAL]], "f4"), np.array([[cases.SPECIAL_KERNELS[kernel]]], "f4")
    if name == "root(3)":
        img, krn = np.abs(img), np.abs(krn)
    arguments = dict(padding=((2, 4),))
    out = cases.run(cases.TILED, img, krn, case.semifield, **arguments)
    assert_matches(out, oracle.convolve(img, krn, case.algebra, **arguments), dtype="float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tropical_max", "linear", "log(2)", "root(3)", "norm"])
def test_large_images_are_tiled(name):
    """By the launch code's own choice; those that fill no tile, and forced ones, are not."""
    device = Recorder()
    large = cases.GeometryCase((1, 2, 40, 70), (4, 2, 3, 3), dict(padding="same"))
    flat = cases.GeometryCase((1, 2, 1, 3), (4, 2, 3, 3), dict(padding="same"))
    check(device, name, large, method="auto")
    check(device, name, large, method="direct")
    check(device, name, flat, method="auto")
    assert ["tiled" in name for name in device.names] == [True, False, False]


@pytest.mark.parametrize("name", ["tropical_max", "linear", "log(2)"])
def test_teams_without_a_plane_fill_no_tile(name):
    """Of slices of 4 x 4 a warp computes one in a thread, unless a batch has more of them."""
    for shape, kernel, tiles in (
        ((1, 1, 4, 4), (1, 1, 3, 3), False),
        ((1, 1, 99, 4, 4), (1, 1, 3, 3, 3), False),
        ((1, 1, 99, 16, 16), (1, 1, 3, 3, 3), True),
        ((64, 1, 4, 4), (1, 1, 3, 3), True),
        ((64, 1, 99, 4, 4), (1, 1, 3, 3, 3), True),
    ):
        plan = Geometry.plan(shape, kernel, padding="same")
        tile = forward_tile_of(SEMIFIELDS[name].semifield, "float32", plan, None)
        assert (tile is not None) == tiles, shape


def test_tiled_by_name_is_honoured_or_refused():
    geometry, device = GEOMETRIES["stride"], cases.harness()
    semifield = SEMIFIELDS["tropical_max"].semifield
    img, krn = cases.arrays_of(SEMIFIELDS["tropical_max"], geometry, "float32")
    out = device.empty(geometry.plan().out_shape, "float32")
    with pytest.raises(ValueError, match="method='tiled' does not serve"):
        cuda.forward(
            device, cuda.Case(semifield, geometry.plan(), "float32"), img, krn, out, method="tiled"
        )


@pytest.mark.parametrize("method", ["direct", "tiled"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", ["tropical_max", "log(2)"])
def test_every_element_is_written(name, residual, method):
    """From two different poisons the same bits."""
    case, geometry = SEMIFIELDS[name], GEOMETRIES["everything"]
    img, krn = cases.arrays_of(case, geometry, "float32")
    plan = geometry.plan()
    spec = residual_of(case.semifield, "float32", plan)
    results = []
    for poison in (0xA5, 0x3C):
        arrays = [np.empty(plan.out_shape, "f4"), np.empty(spec.shape, spec.dtype)]
        for array in arrays:
            array.view(np.uint8)[...] = poison
        where = arrays if residual else [arrays[0], None]
        computed = cuda.Case(case.semifield, plan, "float32")
        cuda.forward(cases.harness(), computed, img, krn, *where, method=method)
        results.append([array.tobytes() for array in where if array is not None])
    assert results[0] == results[1]


@pytest.mark.table(3)
@pytest.mark.parametrize("name", ["tropical_max", "linear"])
@pytest.mark.parametrize("geometry", ["same", "everything", "1-D", "3-D"])
def test_offsets_of_64_bits(geometry, name):
    """The variant for arrays beyond 2 GiB, on small ones."""
    device, geometry, case = Recorder(), GEOMETRIES[geometry], SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, "float32")
    computed = cuda.Case(case.semifield, geometry.plan(), "float32")
    out = device.empty(computed.geometry.out_shape, "f4")
    cuda.forward(device, computed, img, krn, out, method="direct", limits=Limits(offset_32=0))
    assert_matches(out, cases.expected_of(name, geometry, "float32"), dtype="float32")
    (source,) = device.sources
    assert "#define SEMICONV_OFFSET int64" in source


def test_offsets_of_32_bits_where_they_reach():
    device = Recorder()
    check(device, "tropical_max", GEOMETRIES["everything"])
    (source,) = device.sources
    assert "#define SEMICONV_OFFSET int32" in source


@pytest.mark.parametrize("name", ["tropical_max", "linear"])
def test_one_block_serves_more_outputs_than_it_has_threads(name):
    """The grid-stride loop: a grid of one block goes on until all outputs are there."""
    geometry = GEOMETRIES["everything"]
    device = Recorder(grid=(1,))
    check(device, name, geometry)
    assert device.grids == [(-(-np.prod(geometry.plan().out_shape) // BLOCK_THREADS),)]
    assert device.grids[0][0] > 1


def test_another_image_compiles_nothing():
    """Image sizes, batch, channels, padding, groups and strides are arguments of the kernel."""
    device = Recorder()
    arguments = GEOMETRIES["everything"].arguments
    fixed = {name: arguments[name] for name in ("stride", "dilation")}
    semifield = SEMIFIELDS["tropical_max"].semifield
    for size, groups, padding, kind in (
        ((1, 2, 12, 13), 1, 0, "conv"),
        ((3, 4, 30, 9), 2, ((1, 2), (3, 4)), "corr"),
        ((2, 4, 8, 50), 4, 1, "conv"),
    ):
        img = cases.numbers(size, "f4", seed=1)
        krn = cases.numbers((4, size[1] // groups, 2, 3), "f4", seed=2)
        arguments = dict(groups=groups, padding=padding, kind=kind, **fixed)
        cases.run_on(device, img, krn, semifield, "direct", **arguments)
    assert len(device.sources) == 1


def test_tiles_of_images_are_few():
    """The tiled kernel adapts to small images only: a dozen kernels for all widths."""
    semifield = SEMIFIELDS["tropical_max"].semifield
    plans = (Geometry.plan((1, 1, 9, n), (1, 1, 3, 3), padding=1) for n in range(1, 2000))
    tiles = {forward_tile_of(semifield, "float32", plan, None, ANY_TILE) for plan in plans}
    assert None not in tiles
    assert len(tiles) <= 12


@pytest.mark.table(4)
@pytest.mark.parametrize("kind", ["conv", "corr"])
@pytest.mark.parametrize(
    ("image", "kernel", "arguments"),
    [
        ((1, 1, 61, 150), (1, 1, 61, 151), dict(padding="same")),
        ((1, 2, 40, 47), (1, 2, 41, 45), dict(padding=((0, 30), (37, 3)))),
        ((1, 1, 300), (1, 1, 401), dict(padding=250)),
        ((1, 1, 30, 260), (1, 1, 25, 40), dict(padding="same", dilation=(1, 3))),
        ((1, 1, 31, 60), (1, 1, 30, 60), dict(padding="same", stride=2)),
    ],
)
def test_taps_that_see_the_border_alone_are_passed_over(image, kernel, arguments, kind):
    """Windows about as large as the image, in slabs and segments; values and winners."""
    semifield = SEMIFIELDS["tropical_max"].semifield
    random = np.random.default_rng(5)
    img, krn = (random.integers(0, 20, size).astype("f4") for size in (image, kernel))
    plan = Geometry.plan(image, kernel, kind=kind, **arguments)
    tile = forward_tile_of(semifield, "float32", plan, np.dtype("u2"), ANY_TILE)
    assert tile.slab < plan.kernel_size[0] or plan.kernel_size[-1] > 33
    case, found = cuda.Case(semifield, plan, "float32"), []
    for method, order in (("direct", "forward"), ("tiled", "forward"), ("tiled", "reverse")):
        out, winners = np.empty(plan.out_shape, "f4"), np.empty(plan.out_shape, "u2")
        device = HarnessDevice(order=order)
        cuda.forward(device, case, img, krn, out, winners, method, ANY_TILE)
        found.append((out, winners))
    for direct, *tiled in zip(*found, strict=True):
        for each in tiled:
            np.testing.assert_array_equal(each, direct)


@pytest.mark.table(3)
@pytest.mark.parametrize("name", ["tropical_max", "linear", "log(2)"])
@pytest.mark.parametrize(
    ("image", "kernel", "arguments"),
    [
        ((1, 1, 37, 70), (1, 1, 37, 71), dict(padding="same")),
        ((2, 2, 20, 27), (5, 2, 21, 25), dict(padding=((0, 30), (27, 3)), kind="corr")),
    ],
)
def test_blocks_share_the_slabs_of_a_tile(image, kernel, arguments, name):
    """Ties go to the first tap of all parts; other additions join what the parts have added."""
    semifield = SEMIFIELDS[name].semifield
    random = np.random.default_rng(5)
    img, krn = (random.integers(1, 20, size).astype("f4") / 20 for size in (image, kernel))
    plan = Geometry.plan(image, kernel, **arguments)
    spec, found = residual_of(semifield, "float32", plan), []
    parted = Limits(filled=0.0, shared_bytes=12000, part_slabs=1)
    together = replace(parted, part_warps=1)
    for limits, order in ((parted, "forward"), (parted, "reverse"), (together, "forward")):
        tile = forward_tile_of(semifield, "float32", plan, spec and spec.dtype, limits)
        assert (tile.parts(plan, limits) > 1) == (limits is parted)
        out, residual = np.empty(plan.out_shape, "f4"), spec and np.empty(spec.shape, spec.dtype)
        case, device = cuda.Case(semifield, plan, "float32"), HarnessDevice(order=order)
        cuda.forward(device, case, img, krn, out, residual, "tiled", limits)
        found.append((out, residual))
    *shared, (whole, its_residual) = found
    for out, residual in shared:
        if name == "tropical_max":
            np.testing.assert_array_equal(out, whole)
            np.testing.assert_array_equal(residual, its_residual)
        else:
            np.testing.assert_allclose(out, whole, rtol=1e-6)


def test_few_outputs_get_small_tiles():
    """So that they occupy a large GPU, by few kernels more."""
    semifield = SEMIFIELDS["tropical_max"].semifield
    small = Geometry.plan((8, 64, 14, 14), (64, 64, 3, 3), padding=1)
    tiles = [
        forward_tile_of(semifield, "float32", small, None, limits) for limits in (LIMITS, ANY_TILE)
    ]
    assert [tile.channels * tile.rows for tile in tiles] == [2, 16]
    assert tiles[0].grid(small) >= 256 > tiles[1].grid(small)
    plans = (
        Geometry.plan((batch, 16, n, n), (16, 16, 3, 3), padding=1)
        for n in range(8, 1200, 7)
        for batch in (1, 3, 8, 50)
    )
    assert len({forward_tile_of(semifield, "float32", plan, None) for plan in plans}) <= 14


@pytest.mark.parametrize(
    ("img", "krn", "arguments"),
    [
        ((8, 64, 67, 4), (64, 1, 16, 2), dict(dilation=(3, 2))),
        ((1, 16, 5, 3), (16, 1, 9, 7), {}),
        ((8, 64, 15, 3), (64, 1, 10, 2), {}),
    ],
)
def test_small_tiles_fit_into_shared_memory(img, krn, arguments):
    """Of few outputs a tile becomes smaller, and the gaps of its patches larger."""
    plan = Geometry.plan(img, krn, padding="same", groups=img[1], **arguments)
    for name in ("tropical_max", "hypotenuse"):
        semifield = SEMIFIELDS[name].semifield
        for spec in (None, residual_of(semifield, "float32", plan)):
            tile = forward_tile_of(semifield, "float32", plan, spec and spec.dtype)
            assert tile is None or tile.shared_bytes(plan, "float32") <= LIMITS.shared_bytes


def lanes_of(img, krn, **arguments):
    """The lanes of all warps of a maximum, over the outputs that they compute."""
    plan = Geometry.plan(img, krn, padding="same", **arguments)
    tile = forward_tile_of(SEMIFIELDS["tropical_max"].semifield, "float32", plan, None)
    lanes = 32 * -(-tile.threads // 32) * tile.rows * tile.columns / tile.teams
    return lanes * math.prod(tile.cover(plan.out_size)) / math.prod(plan.out_size[-2:])


@pytest.mark.parametrize(
    ("shapes", "arguments", "most"),
    [
        # Of batches, mixed channels with strides, low images, signals: once left to the direct
        # kernel, or half outside the image.
        (((5400, 56, 12, 12), (24, 56, 3, 3)), dict(stride=2), 1.5),
        (((4316, 46, 9, 9), (30, 46, 3, 3)), {}, 1.5),
        (((152468, 1, 8, 4, 10), (1, 1, 3, 4, 3)), {}, 1.3),
        (((1, 1, 2, 10**6), (1, 1, 7, 7)), {}, 1.05),
        (((1, 1, 12, 10**6), (1, 1, 5, 5)), {}, 1.05),
        (((2000, 1, 60, 43), (1, 1, 5, 5)), {}, 1.2),
        (((200000, 1, 8, 33), (1, 1, 5, 5)), {}, 1.6),
        (((512, 64, 33, 33), (64, 64, 3, 3)), {}, 1.9),
        (((500, 32, 1115), (32, 1, 24)), dict(groups=32), 1.05),
        (((500, 1, 330), (1, 1, 24)), {}, 1.2),
        (((8, 1, 1024, 1024), (1, 1, 5, 5)), {}, 1.0),
    ],
)
def test_few_lanes_compute_nothing(shapes, arguments, most):
    assert lanes_of(*shapes, **arguments) <= most


@given(number=st.integers(1, 2**31 - 1), n=st.integers(0, 2**31 - 1))
@example(number=1, n=2**31 - 1)
@example(number=2**31 - 1, n=2**31 - 1)
@example(number=2**30 + 1, n=2**31 - 1)
def test_divisors_divide(number, n):
    by = Divisor.of(number)
    assert by.divisor == number
    assert n * by.multiplier >> (31 + by.shift) == n // number


@pytest.mark.slow
def test_many_tiles_teams_and_planes():
    """More than one tile along each axis, blocks of several planes, the last of them idle."""
    for geometry in (
        cases.GeometryCase((1, 2, 37, 270), (2, 1, 3, 3), dict(padding="same", groups=2)),
        cases.GeometryCase((1, 2, 35, 139), (2, 1, 3, 3), dict(padding="same", groups=2)),
        cases.GeometryCase((3, 7, 20, 9), (7, 1, 3, 2), dict(padding=((2, 0), (0, 3)), groups=7)),
        cases.GeometryCase((2, 5, 18, 70), (9, 5, 3, 3), dict(padding="same")),
    ):
        tiled("tropical_max", geometry)
        tiled("linear", geometry)


SMALL_PLANES = {  # shape, arguments, rows of a thread
    "14 columns": ((3, 7, 14, 14), dict(padding=1), 7),
    "odd": ((5, 3, 13, 13), dict(padding=((2, 0), (1, 1))), 7),
    "stride": ((3, 5, 28, 28), dict(padding=1, stride=2), 4),
    "7 columns, dilation": ((9, 8, 11, 11), dict(dilation=2, kind="corr"), 4),
    "whole chunks": ((3, 7, 16, 16), dict(padding=1), 4),
    "six threads of a row": ((5, 9, 20, 22), dict(padding=1), 7),
}


@pytest.mark.table(3)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("planes", SMALL_PLANES)
def test_small_planes_share_a_block(planes, residual):
    """Threads hold many rows, and outputs leave by whole vectors; the bits are direct's."""
    shape, arguments, rows = SMALL_PLANES[planes]
    channels = shape[1]
    plan = Geometry.plan(shape, (channels, 1, 3, 3), groups=channels, **arguments)
    semifield, limits = SEMIFIELDS["tropical_max"].semifield, Limits(filled=0.0, warps=0)
    spec = residual_of(semifield, "float32", plan) if residual else None
    tile = forward_tile_of(semifield, "float32", plan, spec and spec.dtype, limits)
    assert tile.rows == rows
    assert (*tile.cover(plan.out_size), tile.teams > 1) == (1, 1, True)
    random = np.random.default_rng(3)
    img, krn = (random.integers(-3, 4, size).astype("f4") for size in (shape, plan.krn_shape))
    views = [img, img.swapaxes(2, 3).copy().swapaxes(2, 3), np.broadcast_to(img[:1], img.shape)]
    for img in views if planes == "14 columns" else views[:1]:
        found = []
        for method, order in (("direct", "forward"), ("tiled", "forward"), ("tiled", "reverse")):
            device = HarnessDevice(order=order)
            arrays = [device.empty(plan.out_shape, "f4")]
            arrays += [device.empty(spec.shape, spec.dtype)] if spec else [None]
            case = cuda.Case(semifield, plan, "float32")
            cuda.forward(device, case, img, krn, *arrays, method, limits)
            found.append(arrays)
        for direct, *tiled in zip(*found, strict=True):
            for each in tiled:
                np.testing.assert_array_equal(each, direct)


@pytest.mark.parametrize("size", [(9, 9), (3, 11), (4, 3, 5)])
def test_winners_told_by_runs_of_taps(size):
    """Ties everywhere: the first tap of the kernel's memory order wins, also within a run."""
    rng = np.random.default_rng(3)
    img = rng.integers(-1, 2, (1, 6, *(17,) * len(size))).astype("f4")
    krn = rng.integers(-1, 2, (5, 6, *size)).astype("f4")
    img[0, 0, 3, :9], krn[2, 1] = np.nan, -np.inf
    case = SEMIFIELDS["tropical_max"]
    expected = oracle.convolve(img, krn, case.algebra, padding="same")
    out, residual = cases.run_with_residual(
        cases.TILED, img, krn, case.semifield, "float32", padding="same"
    )
    assert_matches(out, expected, dtype="float32")
    nobody = np.iinfo(residual.dtype).max
    assert_matches(
        np.where(residual == nobody, -1, residual.astype(int)), expected.winner, dtype=int
    )


# Rows of taps that pass in segments, planes of taps that pass in slabs; neither divides evenly.
LARGE_WINDOWS = {
    "signal": cases.GeometryCase((2, 3, 150), (4, 3, 45), dict(padding=((20, 30),), stride=2)),
    "signal, dilation": cases.GeometryCase(
        (1, 2, 90), (2, 2, 9), dict(padding=30, dilation=5, kind="corr")
    ),
    "wide": cases.GeometryCase((1, 1, 12, 80), (1, 1, 5, 38), dict(padding="same")),
    "tall": cases.GeometryCase((1, 1, 40, 70), (1, 1, 95, 9), dict(padding="same", kind="corr")),
    "tall, channels": cases.GeometryCase((1, 2, 10, 30), (5, 2, 113, 9), dict(padding="same")),
    "tall, 3-D": cases.GeometryCase((1, 1, 3, 40, 70), (1, 1, 2, 47, 9), dict(padding="same")),
}


@pytest.mark.table(3)
@pytest.mark.parametrize("window", LARGE_WINDOWS)
def test_ties_in_tiles_of_large_windows_go_to_the_first_tap(window):
    geometry = LARGE_WINDOWS[window]
    rng = np.random.default_rng(5)
    img, krn = (rng.integers(-3, 4, shape).astype("f4") for shape in (geometry.img, geometry.krn))
    case = SEMIFIELDS["tropical_max"]
    expected = oracle.convolve(img, krn, case.algebra, **geometry.arguments)
    out, residual = cases.run_with_residual(
        cases.TILED, img, krn, case.semifield, "float32", **geometry.arguments
    )
    assert_matches(out, expected, dtype="float32")
    nobody = np.iinfo(residual.dtype).max
    winner = np.where(residual == nobody, -1, residual.astype(int))
    assert_matches(winner, expected.winner, dtype=int)


@pytest.mark.table(3)
@pytest.mark.parametrize("infinite", [False, True])
@pytest.mark.parametrize(
    ("name", "window"),
    [("log(2)", "signal, dilation"), ("linear", "tall, channels"), ("linear", "tall")],
)
def test_sums_in_tiles_of_large_windows(name, window, infinite):
    """An infinite weight makes the zero outside no longer absorbing."""
    geometry, case = LARGE_WINDOWS[window], SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, "float32")
    if infinite:
        krn[..., 3] = np.inf
    expected = oracle.convolve(img, krn, case.algebra, **geometry.arguments)
    device = HarnessDevice(order="reverse")
    out = cases.run_on(device, img, krn, case.semifield, "tiled", **geometry.arguments)
    assert_matches(out, expected, dtype="float32")


@pytest.mark.table(5)
@pytest.mark.parametrize("largest", [2, 9, None])
@pytest.mark.parametrize("window", ["everything", "whole tiles"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("tropical_max", "uint8"),
        ("tropical_max", "int8"),
        ("tropical_min_negated", "uint8"),
        ("tropical_max", "uint16"),
        ("tropical_max", "int32"),
        ("tropical_min_negated", "int64"),
        ("tropical_min_negated", "uint32"),
        ("max_times", "int16"),
        pytest.param("largest_magnitude", "uint8", marks=pytest.mark.slow),
        ("tropical_max", "bool"),
    ],
)
def test_integers_in_tiles(name, dtype, window, largest):
    """Many ties, sums far from the range's ends, and such that saturate."""
    more = {"whole tiles": cases.GeometryCase((2, 2, 14, 12), (4, 2, 3, 5))}
    geometry, case = {**GEOMETRIES, **more}[window], SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, dtype)
    if largest is not None:
        img, krn = (np.clip(array, 0, largest).astype(dtype) for array in (img, krn))
    algebra = oracle.OR_AND if dtype == "bool" else case.algebra
    expected = oracle.convolve(img, krn, algebra, **geometry.arguments)
    out = cases.run(cases.TILED, img, krn, case.semifield, **geometry.arguments)
    assert_matches(out, expected, dtype=dtype)
    out, residual = cases.run_with_residual(
        cases.TILED, img, krn, case.semifield, dtype, **geometry.arguments
    )
    assert_matches(out, expected, dtype=dtype)
    winner = np.where(residual == 255, -1, residual.astype(int))
    assert_matches(winner, expected.winner, dtype=int)


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["tropical_max", "tropical_min_negated"])
def test_pairs_of_halves_round_once(name, storage):
    """Every half with special and random ones: what the exact sum rounds to, NaN never selected."""
    case, every = SEMIFIELDS[name], np.arange(2**16, dtype=np.uint16)
    special = [
        0x0000,
        0x8000,
        0x0001,
        0x3C00,
        0x7BFF,
        0xFBFF,
        0x7C00,
        0xFC00,
        0x7E00,
        0x7F80,
        0xFF80,
    ]
    krn = np.r_[special, np.random.default_rng(1).integers(0, 2**16, 21)].astype(np.uint16)
    img, krn = every.reshape(1, 1, -1), krn.reshape(-1, 1, 1)

    def numbers(bits):
        if storage == "float16":
            return bits.view("f2").astype("f8")
        return (bits.astype("u4") << 16).view("f4")

    expected = oracle.convolve(numbers(img), numbers(krn), case.algebra).value
    geometry = Geometry.plan(img.shape, krn.shape)
    out = cases.harness().empty(geometry.out_shape, np.uint16)
    computed = cuda.Case(case.semifield, geometry, storage)
    cuda.forward(cases.harness(), computed, img, krn, out, method="tiled")
    got = numbers(out)
    assert_matches(got, numbers(bits_of(storage, expected)), dtype=got.dtype)


@pytest.mark.parametrize("method", ["direct", "tiled"])
@pytest.mark.parametrize("name", ["tropical_max", "log(2)"])
def test_no_result_depends_on_the_order_of_threads(name, method):
    """A missing barrier shows in one order or the other."""
    device = HarnessDevice(order="reverse")
    for geometry in ("same", "everything"):
        check(device, name, GEOMETRIES[geometry], method=method)


SANITIZED = """
import sys
sys.path[:0] = {path!r}
import cases
import numpy as np
from compare import assert_matches
for name in {names!r}:
    case = cases.SEMIFIELDS[name]
    for geometry in map(cases.GEOMETRIES.get, {geometries!r}):
        img, krn = cases.arrays_of(case, geometry, "float32")
        expected = cases.expected_of(name, geometry, "float32")
        for method in ("direct", "tiled"):
            out = cases.run_on(
                cases.harness(), img, krn, case.semifield, method, **geometry.arguments
            )
            assert_matches(out, expected, dtype="float32")
    for backend in ("cuda_on_cpu", cases.TILED):
        out, residual = cases.run_with_residual(
            backend, img, krn, case.semifield, "float32", **geometry.arguments
        )
        assert_matches(out, expected, dtype="float32")
print("clean")
"""


@pytest.mark.slow
def test_sanitizers_find_nothing():
    """AddressSanitizer and UBSan, on windows that reach over every edge."""
    code = SANITIZED.format(
        path=[str(HERE), str(HERE.parent)],
        names=["tropical_max", "log(2)"],
        geometries=["windows wholly outside", "empty image", "groups"],
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=sanitizer_environment(),
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr[-4000:]
