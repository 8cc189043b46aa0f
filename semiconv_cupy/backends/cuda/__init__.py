"""The GPU backend: picks, compiles and launches the kernels of ``kernels_cu/cuda``.

All launch code takes a `Device` (``backends.device``) as argument; arrays are its arrays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield, SubtractSemifield
from semiconv_cupy.backends.device import Device, Kernel, Stream
from semiconv_cupy.backends.host.calls import MAX_RANK, GeometryStruct
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import Residual, is_provenance, residual_of

Array = Any
_AXES = (np.int64, MAX_RANK)
_STRIDES = (np.int64, MAX_RANK + 2)
GEOMETRY = np.dtype(
    [
        (name, *(_STRIDES if name.endswith("_strides") else _AXES))
        if hasattr(kind, "_length_")
        else (name, np.int64)
        for name, kind in GeometryStruct._fields_
    ],
    align=True,
)
THREADS = 256
_OPTIONS = ("-std=c++17", "--device-int128")


# ---- kernels -----------------------------------------------------------------------------------


def kernel_source(
    file: str,
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    offset: str = "int64",
    residual: str | None = None,
    tile: Tile | None = None,
) -> source.KernelSource:
    """``kernels_cu/cuda/<file>.cu`` for one specialisation."""
    name = "_".join(
        ("semiconv", file, _word(semifield), storage, "x".join(map(str, geometry.kernel_size)))
    )
    macros = source.definitions(semifield, storage)
    macros |= _geometry_macros(geometry, offset)
    if residual is not None:
        macros["SEMICONV_RESIDUAL"] = residual if residual.startswith("uint") else "Real"
        name += "_residual" if file.startswith("forward") else ""
    if isinstance(tile, ForwardTile):
        name += f"_{tile.channels}x{tile.rows}"
    if isinstance(tile, WeightTile):
        name += f"_{tile.channels}x{tile.inputs}"
    if tile is not None:
        macros |= tile.macros(geometry)
    macros["SEMICONV_KERNEL"] = name
    if file == "grad_bins":
        taps, slots = _bins(semifield, storage, geometry)
        macros |= {"SEMICONV_SLICE": str(taps), "SEMICONV_SLOTS": str(slots)}
    if file == "by_sums":
        macros |= {f"SEMICONV_KERNEL_{part.upper()}": f"{name}_{part}" for part in _BY_SUMS}
    options: tuple[str, ...] = _OPTIONS
    if semifield.traits(source.arithmetic_of(storage)).rounds_products:
        options += ("-fmad=false",)
    return source.KernelSource(name, source.assemble(f"cuda/{file}.cu", macros), options)


def _word(semifield: Semifield) -> str:
    """A word for a profiler's list; the content, not the name, tells kernels apart."""
    kind, _, made = repr(semifield).partition(".")
    if "(" in kind:  # of the user's own
        return "selection" if semifield.accumulator == "select" else semifield.accumulator
    return re.sub(r"\W+", "_", made.replace("=True", "").replace("-", "minus_")).strip("_")


def _geometry_macros(geometry: Geometry, offset: str) -> dict[str, str]:
    def braces(values: tuple[int, ...]) -> str:
        return "{{" + ", ".join(map(str, values)) + "}}"

    return {
        "SEMICONV_RANK": str(geometry.rank),
        "SEMICONV_WINDOW": braces(geometry.kernel_size),
        "SEMICONV_STRIDE": braces(geometry.stride),
        "SEMICONV_DILATION": braces(geometry.dilation),
        "SEMICONV_OFFSET": offset,
    }


_BINNED = 128  # threads of a block of cuda/grad_bins.cu; each reads four outputs at a time
# The functions of cuda/by_sums.cu beside the one that its kernel is named after.
_BY_SUMS = ("extremes", "transform", "slopes", "finish")


def _bins(semifield: Semifield, storage: str, geometry: Geometry) -> tuple[int, int]:
    """(taps that have bins at a time, bins of a tap in each warp), to fit into shared memory."""
    itemsize = np.dtype(source.ARITHMETIC[storage]).itemsize
    room = 40 * 1024 // (_BINNED // 32 * itemsize)
    taps = min(_taps_of_bins(semifield, geometry), room)
    return taps, 2 ** min(5, int(math.log2(room // taps)))


def _taps_of_bins(semifield: Semifield, geometry: Geometry) -> int:
    """Taps that one provenance chooses from: with added channels each has its own."""
    return math.prod(geometry.kernel_size) if semifield.channels_add else geometry.taps


_kernels: dict[tuple[Any, ...], Kernel] = {}


def kernel_of(
    device: Device,
    file: str,
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    offset: str,
    residual: str | None,
    tile: Tile | None = None,
    suffix: str = "",
) -> Kernel:
    """The compiled kernel of one specialisation (and, by a suffix, of its file), compiled once."""
    key = (
        device, file, suffix, semifield, storage, geometry.kernel_size, geometry.stride,
        geometry.dilation, offset, residual, tile,
        tile is not None and (geometry.mirrored, _shift(geometry)),
    )  # fmt: skip
    found = _kernels.get(key)
    if found is None:
        made = kernel_source(file, semifield, storage, geometry, offset, residual, tile)
        found = _kernels[key] = device.compile(made.text, made.name + suffix, made.options)
    return found


def sum_source(storage: str) -> source.KernelSource:
    """The last stage of a kernel's gradient."""
    real = source.ARITHMETIC[storage]
    name = f"semiconv_grad_sum_{real}"
    macros = source.storage_macros(real) | {"SEMICONV_KERNEL": name}
    return source.KernelSource(name, source.assemble("cuda/grad_sum.cu", macros), _OPTIONS)


def exchange_source(storage: str) -> source.KernelSource:
    """What exchanges the channels of a kernel."""
    name = f"semiconv_exchange_{storage}"
    macros = source.storage_macros(storage) | {"SEMICONV_KERNEL": name}
    return source.KernelSource(name, source.assemble("cuda/exchange.cu", macros), _OPTIONS)


def _plain_kernel(
    device: Device, build: Callable[[str], source.KernelSource], storage: str
) -> Kernel:
    """The compiled kernel that a storage dtype is all of, compiled once."""
    key = (device, build, storage)
    found = _kernels.get(key)
    if found is None:
        made = build(storage)
        found = _kernels[key] = device.compile(made.text, made.name, made.options)
    return found


# ---- tiles ---------------------------------------------------------------------------------------


COLUMNS = 4  # neighbouring elements that a thread loads at once


@dataclass(frozen=True)
class Tile:
    """The shape of a tiled kernel's work: what a thread holds, the threads of a tile."""

    channels: int
    rows: int
    columns: int
    threads_y: int
    threads_x: int
    blocks: int  # of a multiprocessor, that the registers must suffice for

    def macros(self, geometry: Geometry) -> dict[str, str]:
        """The macros of kernels_cu/cuda/tile.cuh."""
        return {
            "SEMICONV_MIRRORED": str(int(geometry.mirrored)),
            "SEMICONV_CHANNELS": str(self.channels),
            "SEMICONV_ROWS": str(self.rows),
            "SEMICONV_COLUMNS": str(self.columns),
            "SEMICONV_THREADS_Y": str(self.threads_y),
            "SEMICONV_THREADS_X": str(self.threads_x),
            "SEMICONV_BLOCKS": str(self.blocks),
        }

    @property
    def size(self) -> tuple[int, int]:
        """A tile's elements along the last two axes."""
        return self.rows * self.threads_y, self.columns * self.threads_x

    def cover(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Tiles along the last two axes of that size."""
        height, width = _planar(size, 1)
        return -(-height // self.size[0]), -(-width // self.size[1])

    def fills(self, size: tuple[int, ...], least: float) -> bool:
        """Whether at least that part of the tiles' elements exists."""
        return math.prod(size[-2:]) >= least * math.prod(self.cover(size)) * math.prod(self.size)


@dataclass(frozen=True)
class ForwardTile(Tile):
    """A tile of outputs, `COLUMNS` in a thread's row."""

    teams: int  # planes of outputs in a block
    depth: int  # slabs of taps between two barriers
    sides: int  # places for their patches of the image
    slab: int  # rows of taps at a time

    def macros(self, geometry: Geometry) -> dict[str, str]:
        """The macros of kernels_cu/cuda/patch.cuh and forward_tiled.cu."""
        return super().macros(geometry) | {
            "SEMICONV_TEAMS": str(self.teams),
            "SEMICONV_DEPTH": str(self.depth),
            "SEMICONV_SIDES": str(self.sides),
            "SEMICONV_SLAB": str(self.slab),
            "SEMICONV_SHIFT": str(_shift(geometry)),
        }

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.teams * self.threads_y * self.threads_x

    def blocks_of_group(self, geometry: Geometry) -> int:
        """Blocks of output channels that one group's take."""
        return -(-geometry.outputs_per_group // self.channels)

    def grid(self, geometry: Geometry) -> int:
        """Blocks of a launch."""
        planes = geometry.batch * geometry.groups * self.blocks_of_group(geometry)
        tiles = math.prod(self.cover(geometry.out_size)) * math.prod(geometry.out_size[:-2])
        return tiles * -(-planes // self.teams)

    def division(self, geometry: Geometry) -> np.void:
        """The struct Division of kernels_cu/cuda/patch.cuh."""
        tiles_y, tiles_x = self.cover(geometry.out_size)
        numbers = (tiles_x, tiles_y, self.blocks_of_group(geometry), geometry.groups)
        return np.array([tuple(map(_divisor, numbers))], _DIVISION)[0]

    def patch(self, geometry: Geometry) -> tuple[int, int]:
        """Rows and columns of the image that a tile sees by a slab, columns in whole chunks."""
        return _patch(self.size, self.slab, geometry)

    def shared_bytes(self, geometry: Geometry, storage: str) -> int:
        """Shared memory of a block: patches of the image, and the weights of their slabs."""
        columns = geometry.kernel_size[-1]
        weights = self.slab * -(-columns * self.channels // COLUMNS) * COLUMNS
        itemsize = source.itemsize(storage)  # short weights are widened
        each = math.prod(self.patch(geometry)) * itemsize + weights * max(itemsize, 4)
        return self.sides * self.depth * self.teams * each

    def that_fits(self, geometry: Geometry, storage: str) -> ForwardTile | None:
        """The same with slabs that shared memory suffices for; None where they get too low."""
        height = self.slab
        most = 1 if self.depth * self.teams > 1 else -(-height // _LOWEST)
        for slabs in range(1, most + 1):
            tile = replace(self, slab=-(-height // slabs))
            if tile.shared_bytes(geometry, storage) <= _SHARED:
                return tile
        return None

    def that_occupies(self, geometry: Geometry) -> ForwardTile:
        """The same, or a small one where there would be too few for a large GPU."""
        if self.warps(geometry) >= _LEAST_WARPS:
            return self
        return replace(
            self,
            channels=min(self.channels, 2),
            rows=1,
            threads_y=min(self.threads_y, max(1, _LEAST_THREADS // self.threads_x)),
            teams=min(self.teams, max(1, _LEAST_THREADS // (self.threads_y * self.threads_x))),
        )

    def warps(self, geometry: Geometry) -> int:
        """Those of a launch."""
        return self.grid(geometry) * -(-self.block // 32)

    def reach(
        self, geometry: Geometry, img_strides: tuple[int, ...], krn_strides: tuple[int, ...]
    ) -> int:
        """Elements that a patch of the image spans, or the weights of a plane, by their strides."""
        planar = min(2, geometry.rank)
        weights = (self.channels, *geometry.kernel_size[-planar:])
        return max(
            _reach(self.patch(geometry)[-planar:], img_strides[-planar:]),
            _reach(weights, (krn_strides[0], *krn_strides[-planar:])),
        )


def _patch(size: tuple[int, int], slab: int, geometry: Geometry) -> tuple[int, int]:
    taps = (slab, geometry.kernel_size[-1])
    stride, dilation = (_planar(values, 1) for values in (geometry.stride, geometry.dilation))
    height, width = (
        (t - 1) * s + (k - 1) * d + 1
        for t, s, k, d in zip(size, stride, taps, dilation, strict=True)
    )
    return height, -(-(width + _shift(geometry)) // COLUMNS) * COLUMNS


def _planar(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    """The numbers of the last two axes; a signal has one row."""
    return (values[-2] if len(values) > 1 else missing, values[-1])


_DIVISOR = np.dtype([(name, np.uint32) for name in ("divisor", "multiplier", "shift")])
_DIVISION = np.dtype([(name, _DIVISOR) for name in ("tiles_x", "tiles_y", "blocks", "groups")])


def _divisor(number: int) -> tuple[int, int, int]:
    """The struct Divisor: n // number == n * multiplier >> (31 + shift) for all n < 2**31.

    Granlund and Montgomery, Division by invariant integers using multiplication, 1994.
    """
    shift = (number - 1).bit_length()
    return number, -(-(1 << (31 + shift)) // number), shift


def _shift(geometry: Geometry) -> int:
    """Columns between a multiple of `COLUMNS` and the first one that a tile's windows see."""
    return -geometry.pad_begin[-1] % COLUMNS


_SHARED = 48 * 1024
_LEAST_FILLED = 0.3  # of a tile's outputs: below, idle threads cost more than tiles save
_LOWEST = 4  # rows of taps in a slab: below, copies of the image cost more than large tiles save
_LEAST_THREADS = 64  # of a block: smaller ones leave a multiprocessor idle
_LEAST_WARPS = 1024  # of a launch: two for each scheduler of a large GPU
_SHARED_OF_ALL = 224 * 1024  # of the blocks of a large multiprocessor


@lru_cache(maxsize=4096)
def tile_of(
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    residual: str | None,
    least_filled: float = _LEAST_FILLED,
) -> ForwardTile | None:
    """The tile for a forward launch, None where only `direct` serves.

    Channel mixing (many outputs share an input) holds eight output channels by 2 x 4 pixels in a
    thread; depthwise work, bound by memory, one channel by 4 x 4 pixels. Accumulators of several
    registers hold less. Small images get small tiles, several to a block; where few outputs would
    leave a large GPU idle, and `least_filled` is not 0, threads hold fewer: at most ten kernels
    serve all images and batches. Large windows are cut into slabs of rows of taps.
    """
    integer = storage not in source.FLOATING
    if semifield.channels_add or not (integer or semifield.absorbing):
        return None
    if integer and residual is not None and not is_provenance(semifield):
        return None
    if max(geometry.stride[-2:]) > 2:
        return None
    # Values of one output that stay in registers: a selection alone 1, with its provenance 2, a
    # compensated sum 3, log and root 5.
    weight = {"select": 1 if residual is None else 2, "sum": 3}.get(semifield.accumulator, 4)
    weight *= 2 if source.itemsize(storage) == 8 else 1
    if integer and source.itemsize(storage) >= 4 and weight > 1:  # sums that saturate
        weight += 1
    mixes = geometry.outputs_per_group >= 4
    flat = geometry.rank == 1
    mixes_sums = mixes and semifield.accumulator == "sum" and weight == 3
    channels = 8 if mixes_sums else max(1, 8 // weight) if mixes else 1
    rows = (2 if mixes else 4) // (1 if weight < 3 else weight)
    taps = math.prod(geometry.kernel_size[-2:])
    planes = geometry.in_channels * math.prod(geometry.kernel_size[:-2])
    tall = not mixes and taps <= {1: 225, 2: 0 if integer or planes > 1 else 9}.get(weight, 0)
    rows = 1 if flat else 8 if tall else max(1, rows)
    depth = 2 if mixes and geometry.rank < 3 and geometry.in_channels > 1 else 1
    sides = 2 if planes > depth else 1
    width = geometry.out_size[-1]
    teams = 1
    if flat:
        threads_y, threads_x = 1, THREADS
    elif width > 32:
        threads_x = 32 if width > 64 else 16
        threads_y = (THREADS // 2 if tall or mixes_sums else THREADS) // threads_x
    else:
        threads_y = threads_x = 8 if width > 16 else 4 if width > 8 else 2
        teams = (THREADS if mixes else THREADS // 2) // threads_x**2
        rows = min(rows, 2 if mixes or max(geometry.stride[-2:]) > 1 else 4)
    # Threads of a multiprocessor: more of them hide memory better, and have fewer registers each.
    resident = 384 if mixes_sums else 512
    if not mixes and weight <= 2:
        resident = 768 if 9 < taps <= 25 else 640 if teams > 1 else 512
    height = _planar(geometry.kernel_size, 1)[0]
    while True:
        whole = ForwardTile(
            channels, rows, COLUMNS, threads_y, threads_x, 1, teams, depth, sides, height
        )
        tile = whole.that_fits(geometry, storage)
        if tile is not None:
            if least_filled:
                tile = tile.that_occupies(geometry)
            warps = -(-tile.block // 32)
            room = _SHARED_OF_ALL // (tile.shared_bytes(geometry, storage) + 1024)
            tile = replace(tile, blocks=max(1, min(resident // (32 * warps), room)))
            break
        if depth > 1:
            depth, sides = 1, 2
        elif teams > 1:
            teams //= 2
        elif rows > 1:
            rows //= 2
        elif threads_y > 4:
            threads_y //= 2
        else:
            return None
    if not tile.fills(geometry.out_size, least_filled):
        return None
    if least_filled and tile.block < _LEAST_THREADS:
        return None
    near = _furthest_position(geometry) < 2**30
    return tile if near and tile.grid(geometry) * tile.teams < 2**31 else None


@dataclass(frozen=True)
class GradientTile(Tile):
    """A tile of the image and the gradients that it serves; macros of cuda/grad_tiled.cu."""

    wants_img: bool
    wants_krn: bool
    slab: int
    phase_y: int
    phase_x: int

    def macros(self, geometry: Geometry) -> dict[str, str]:
        """The macros of kernels_cu/cuda/grad_tiled.cu."""
        return super().macros(geometry) | {
            "SEMICONV_WANTS_IMG": str(int(self.wants_img)),
            "SEMICONV_WANTS_KRN": str(int(self.wants_krn)),
            "SEMICONV_SLAB": str(self.slab),
            "SEMICONV_PHASE_Y": str(self.phase_y),
            "SEMICONV_PHASE_X": str(self.phase_x),
        }

    def work(self, geometry: Geometry) -> tuple[int, int, int]:
        """(owners, chunks, jobs): what blocks own, blocks of each, tiles that these share."""
        outer = math.prod(geometry.kernel_size[:-2])
        jobs = math.prod(self.cover(geometry.image_size)) * math.prod(geometry.image_size[:-2])
        jobs *= geometry.batch
        if not self.wants_krn:
            return geometry.groups * -(-geometry.in_channels // self.channels), jobs, jobs
        slabs = -(-_planar(geometry.kernel_size, 1)[0] // self.slab)
        owners = geometry.kernels * geometry.in_channels * outer * slabs
        jobs *= geometry.groups if geometry.shares_kernels else 1
        chunks = max(-(-_FULL // owners), -(-jobs // _MOST_JOBS))
        return owners, min(chunks, jobs), jobs

    def patch_bytes(self, geometry: Geometry, output: int) -> int:
        """Shared memory for the outputs that see a tile, `output` bytes each."""
        size, stride, dilation = (
            _planar(values, 1)
            for values in (geometry.kernel_size, geometry.stride, geometry.dilation)
        )
        steps = (self.slab, size[1])
        height, width = (
            t // s + (k - 1) * d // s + 2
            for t, s, k, d in zip(self.size, stride, steps, dilation, strict=True)
        )
        weights_and_sums = 16 * math.prod(size) + 2304
        return height * (width // 4 * 4 + 8) * output + weights_and_sums


_FULL = 4096  # blocks that fill any GPU several times over
_MOST_JOBS = 64  # tiles that a block adds up, so that its sums stay exact enough
_PLANES_AHEAD = 4  # twin of `ahead` in cuda/grad_tiled.cu
_TAPS_IN_REGISTERS = 25  # sums of the kernel's gradient that a thread holds
_WIDEST = 33  # columns of a kernel that a thread's registers hold a line for


def gradient_tile_of(
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    residual: str | None,
    wants_img: bool,
    wants_krn: bool,
    least_filled: float = _LEAST_FILLED,
) -> GradientTile | None:
    """The tile for a launch of these gradients, None where it takes two or only `direct` serves.

    The image's gradient adds over all planes of taps, the kernel's owns one: together they go where
    there is one (depthwise work). A provenance is asked for the kernel's gradient by grad_bins.cu
    unless it comes by here anyway.
    """
    size_y, size_x = _planar(geometry.kernel_size, 1)
    stride_y, stride_x = _planar(geometry.stride, 1)
    dilation_x = geometry.dilation[-1]
    height, width = _planar(geometry.image_size, 1)
    planes = geometry.outputs_per_group * math.prod(geometry.kernel_size[:-2])
    selects = is_provenance(semifield)
    if storage not in source.FLOATING or max(stride_x, stride_y) > 4 or 3 in (stride_x, stride_y):
        return None
    if (size_x - 1) * dilation_x >= _WIDEST or min(geometry.img_shape) == 0:
        return None
    slab = size_y
    if wants_krn:
        if slab * size_x > _TAPS_IN_REGISTERS:
            slab = max(1, _TAPS_IN_REGISTERS // size_x // stride_y) * stride_y
        if slab * size_x > 2 * _WIDEST:
            return None
        if wants_img and (planes > 1 or slab < size_y):
            return None
        if selects and (planes * geometry.in_channels > 1 or not wants_img):
            return None
    real = np.dtype(source.ARITHMETIC[storage]).itemsize
    # Selections cost two instructions a term and hold many elements; weights (exp) hold few.
    # With many channels, a thread has one element and a bin for each in shared memory.
    channels, rows, columns = 1, max(1 if not selects else 4 if real == 4 else 2, stride_y), 4
    mixes = selects and geometry.in_channels > 1 and not semifield.channels_add
    plain = max(stride_y, stride_x) == 1 and math.prod(geometry.kernel_size) < 2**16
    if mixes and semifield.d_times_constant and plain:
        channels = min(2 ** (geometry.in_channels - 1).bit_length(), 256 // real)
        rows, columns = 1, 1
    threads = THREADS if selects and channels == 1 else THREADS // 2
    threads_x = threads
    while threads_x > (threads if geometry.rank == 1 else 32) or threads_x * columns // 2 >= width:
        if threads_x == 4:
            break
        threads_x //= 2
    threads_y = threads // threads_x
    if geometry.rank == 1:
        rows, threads_y = 1, 1
        threads_x = max(threads_x, 32)
    while threads_y > 1 and threads_y * rows // 2 >= height and threads_y * threads_x > 32:
        threads_y //= 2
    # Bytes of an output: its slope, and its mark or its weight.
    output = real + np.dtype(residual).itemsize if selects else 3 * real
    if channels > 1:
        output = _PLANES_AHEAD * (real + 4)
    phase_y = geometry.pad_begin[-2] % stride_y if geometry.rank > 1 else 0
    while True:
        tile = GradientTile(
            channels, rows, columns, threads_y, threads_x, 3 if real == 4 else 2,
            wants_img, wants_krn, slab, phase_y, geometry.pad_begin[-1] % (4 * stride_x),
        )  # fmt: skip
        bins = channels * threads_y * threads_x * real if channels > 1 else 0
        if tile.patch_bytes(geometry, output) + bins <= _SHARED:
            break
        if rows > stride_y:
            rows //= 2
        elif threads_y * threads_x > 32 and threads_y > 1:
            threads_y //= 2
        else:
            return None
    if not tile.fills(geometry.image_size, least_filled):
        return None
    owners, chunks, jobs = tile.work(geometry)
    far = max(_furthest_position(geometry), *geometry.image_size)
    return tile if max(owners * chunks, jobs) < 2**31 and far < 2**30 else None


@dataclass(frozen=True)
class WeightTile(Tile):
    """A tile of outputs whose terms a block adds for many weights; macros of cuda/grad_weights.cu.

    `threads_y` and `threads_x` count teams of threads, which share the tile.
    """

    lanes_out: int  # threads of a team along output and input channels
    lanes_in: int
    inputs: int  # input channels of a thread
    slab: int

    def macros(self, geometry: Geometry) -> dict[str, str]:
        """The macros of kernels_cu/cuda/patch.cuh and grad_weights.cu."""
        return super().macros(geometry) | {
            "SEMICONV_TEAMS": "1",
            "SEMICONV_DEPTH": "1",
            "SEMICONV_SIDES": "2",
            "SEMICONV_SHIFT": str(_shift(geometry)),
            "SEMICONV_LANES_OUT": str(self.lanes_out),
            "SEMICONV_LANES_IN": str(self.lanes_in),
            "SEMICONV_INPUTS": str(self.inputs),
            "SEMICONV_SLAB": str(self.slab),
        }

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.lanes_out * self.lanes_in * self.threads_y * self.threads_x

    def cover(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Tiles along the last two axes of that size; a signal is folded into a tile's rows."""
        if len(size) == 1:
            return 1, -(-size[0] // math.prod(self.size))
        return super().cover(size)

    def work(self, geometry: Geometry) -> tuple[int, int, int]:
        """(owners, chunks, jobs): what blocks own, blocks of each, tiles that these share."""
        jobs = math.prod(self.cover(geometry.out_size)) * geometry.batch
        owners = (
            -(-geometry.outputs_per_group // (self.channels * self.lanes_out))
            * -(-geometry.in_channels // (self.inputs * self.lanes_in))
            * -(-_planar(geometry.kernel_size, 1)[0] // self.slab)
        )
        if geometry.shares_kernels:
            jobs *= geometry.groups
        else:
            owners *= geometry.groups
        # Partial sums take memory: no more blocks than keep a GPU evenly busy, however many jobs.
        chunks = min(-(-jobs // self.jobs_at_once), -(-2 * _BUSY // owners))
        return owners, min(max(chunks, -(-_BUSY // owners)), jobs), jobs

    @property
    def jobs_at_once(self) -> int:
        """Tiles whose terms a thread adds plainly, before they are added to a partial sum."""
        return max(1, _MOST_TERMS // (self.rows * self.columns))

    def patch(self, geometry: Geometry) -> tuple[int, int]:
        """Rows and columns of the image that a tile sees by a slab, columns in whole chunks."""
        return _patch(self.size, self.slab, geometry)

    def reach(self, geometry: Geometry, img_steps: tuple[int, ...]) -> int:
        """Elements that a tile's patch of the image spans, or its slopes."""
        height, width = self.patch(geometry)
        along_y, along_x = _planar(img_steps[2:], 0)
        columns = width if geometry.rank > 1 else width + height * self.size[1]
        image = height * abs(along_y) + columns * geometry.stride[-1] * abs(along_x)
        return max(image, self.size[0] * geometry.out_size[-1])

    def shared_bytes(self, geometry: Geometry, storage: str) -> int:
        """Shared memory of a block: slopes and image of two tiles, or the sums of all teams."""
        height, width = self.patch(geometry)
        slopes, image = (
            (n // COLUMNS | 1) * COLUMNS for n in (math.prod(self.size), height * width)
        )
        stage = self.channels * self.lanes_out * slopes + self.inputs * self.lanes_in * image
        sums = self.inputs * self.slab * geometry.kernel_size[-1] * self.block
        numbers = max(2 * stage, sums)
        return numbers * np.dtype(source.ARITHMETIC[storage]).itemsize + _SHARE_BYTES


_MOST_TERMS = 256  # that a thread adds up in the arithmetic's own precision
_SHARE_BYTES = 128  # of shared memory, at most, that say which jobs are a block's
_BUSY = 1024  # blocks of the kernel's gradient that keep any GPU busy
_LEAST_MIXED = 4  # channels on both sides: below, most threads of a block would have none
_SUMS_IN_REGISTERS = 72
_LINES_IN_REGISTERS = 40  # numbers of the image beside them


def is_ordinary_sum(semifield: Semifield) -> bool:
    """Whether terms are products, their addition is the ordinary one, and nothing follows it."""
    return semifield.traits("floating").is_ordinary


def mixes_sums(semifield: Semifield, geometry: Geometry, least: int = _LEAST_MIXED) -> bool:
    """Whether it is an ordinary sum of at least so many channels on both sides."""
    few = min(geometry.outputs_per_group, geometry.in_channels)
    return few >= least and is_ordinary_sum(semifield)


def weight_tile_of(
    semifield: Semifield, storage: str, geometry: Geometry, least: int = _LEAST_MIXED
) -> WeightTile | None:
    """The tile for the kernel's gradient of an ordinary sum that mixes channels, None elsewhere.

    A thread holds up to 72 sums (half as many doubles): 8 output channels of a 3x3 window. Rows of
    a window's taps are cut into slabs where their line of the image would not fit beside them.
    """
    if storage not in source.FLOATING or geometry.rank > 2:
        return None
    if not mixes_sums(semifield, geometry, least):
        return None
    size_y, size_x = _planar(geometry.kernel_size, 1)
    line = (COLUMNS - 1) * geometry.stride[-1] + (size_x - 1) * geometry.dilation[-1] + 1
    wide = np.dtype(source.ARITHMETIC[storage]).itemsize // 4
    most_sums, most_lines = _SUMS_IN_REGISTERS // wide, _LINES_IN_REGISTERS // wide
    if source.itemsize(storage) == 2:  # copies pass through registers, too
        most_sums //= 2
    most = min(most_sums // size_x, most_lines // line)
    if most < 1 or max(_furthest_position(geometry), *geometry.image_size, 0) >= 2**30:
        return None
    slab = -(-size_y // -(-size_y // most))
    lanes_in = min(16, max(4, _power_of_two(geometry.in_channels)))
    lanes_out = 32 // lanes_in
    channels = min(8, most_sums // (slab * size_x), -(-geometry.outputs_per_group // lanes_out))
    inputs = 1
    while (
        inputs * lanes_in < geometry.in_channels
        and 2 * inputs * channels * slab * size_x <= most_sums
        and 2 * inputs * slab * (channels * size_x + line) <= 92 // wide
    ):
        inputs *= 2
    width = geometry.out_size[-1]
    teams_x = 8 if geometry.rank == 1 or width > 16 else 4 if width > 8 else 2
    rows = 4
    while True:
        tile = WeightTile(
            channels, rows, COLUMNS, 8 // teams_x, teams_x, 2, lanes_out, lanes_in, inputs, slab
        )
        if tile.shared_bytes(geometry, storage) <= _SHARED:
            break
        if rows > 1:
            rows //= 2
        elif inputs > 1:
            inputs //= 2
        elif channels > 2:
            channels //= 2
        else:
            return None
    owners, chunks, jobs = tile.work(geometry)
    return tile if max(owners * chunks, jobs) < 2**31 else None


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


# ---- launches ----------------------------------------------------------------------------------


def elements(array: Array) -> tuple[int, ...]:
    """An array's strides in elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return sum((size - 1) * abs(stride) for size, stride in zip(shape, strides, strict=True))


def struct_of(
    geometry: Geometry, img_strides: tuple[int, ...], krn_strides: tuple[int, ...]
) -> np.void:
    """The geometry, with strides in elements, as a struct that a launch passes by value."""
    return np.frombuffer(bytes(GeometryStruct.of(geometry, img_strides, krn_strides)), GEOMETRY)[0]


def forward(
    device: Device,
    img: Array,
    krn: Array,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    out: Array,
    residual: Array | None = None,
    method: str = "auto",
    *,
    padded_rows: bool = False,
) -> None:
    """Launch the forward kernel on the device's current stream; `out` is C-contiguous.

    `method` "auto" takes the tiled kernel where `tile_of` finds a tile, "tiled" insists on it.
    `padded_rows`: windows lie inside the image, and whole chunks of a row may be read.
    """
    if out.size == 0:
        return
    launch = forward_launch(
        device, semifield, geometry, storage, None if residual is None else str(residual.dtype),
        method, img.strides, krn.strides, img.itemsize, padded_rows,
    )  # fmt: skip
    launch(device.address(img), img, krn, out, residual)


# The address of flags of which one decides whether a launch is wanted, and their number.
Flags = tuple[int, np.int64]
_ALWAYS: Flags = (0, np.int64(0))
_GUARDED = 1024  # blocks of a launch that hardly ever is wanted; more would only take time to begin


def _guarded(
    grid: tuple[int, ...], last: tuple[Any, ...], wanted: Flags | None
) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """The grid and last arguments of a launch that is wanted, on the device, if a flag is set.

    For kernels that take flags (kernels_cu/cuda/conditional_launch.cuh).
    """
    if wanted is None:
        return grid, last
    assert last[-2:] == _ALWAYS
    return (min(grid[0], _GUARDED),), (*last[:-2], *wanted)


@dataclass(frozen=True)
class ForwardLaunch:
    """All of a launch but its arrays."""

    kernel: Kernel
    grid: tuple[int]
    block: tuple[int]
    struct: np.void
    last: tuple[Any, ...]  # the arguments behind the arrays
    last_if_aligned: tuple[Any, ...]  # where img's address is a multiple of `alignment`
    alignment: int

    def __call__(
        self,
        address: int,
        img: Array,
        krn: Array,
        out: Array,
        residual: Array | None,
        stream: Stream | None = None,
        wanted: Flags | None = None,
    ) -> None:
        """Launch for arrays or their addresses, of which img's is given as well."""
        last = self.last if address % self.alignment else self.last_if_aligned
        grid, last = _guarded(self.grid, last, wanted)
        arguments = (self.struct, img, krn, out, out if residual is None else residual, *last)
        self.kernel(grid, self.block, arguments, 0, stream)


@lru_cache(maxsize=4096)
def forward_launch(
    device: Device,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    residual: str | None,
    method: str,
    img_strides: tuple[int, ...],
    krn_strides: tuple[int, ...],
    itemsize: int,
    padded_rows: bool = False,
) -> ForwardLaunch:
    """What `forward` launches for arrays of these strides (in bytes); there is an output."""
    img_steps = tuple(stride // itemsize for stride in img_strides)
    krn_steps = tuple(stride // itemsize for stride in krn_strides)
    struct = struct_of(geometry, img_steps, krn_steps)
    described = residual_of(semifield, storage, geometry) if residual is not None else None
    plane = np.int64(math.prod(described.shape) // described.arrays if described else 0)
    tile = None
    if method != "direct":
        filled = 0.0 if method == "tiled" else _LEAST_FILLED
        tile = tile_of(semifield, storage, geometry, residual, filled)
    if tile is not None and tile.reach(geometry, img_steps, krn_steps) >= 2**31:
        tile = None
    if tile is None and method == "tiled":
        raise ValueError(
            f"method='tiled' does not serve {semifield!r} on {storage} with {geometry}"
        )
    if tile is not None:
        kernel = kernel_of(
            device, "forward_tiled", semifield, storage, geometry, "int64", residual, tile
        )
        last: tuple[Any, ...] = (plane, tile.division(geometry))
        whole = np.uint32(_has_whole_chunks(geometry, img_steps, padded_rows))
        return ForwardLaunch(
            kernel, (tile.grid(geometry),), (tile.block,), struct, (*last, np.uint32(0)),
            (*last, whole), min(16, COLUMNS * itemsize),
        )  # fmt: skip
    outputs = math.prod(geometry.out_shape)
    offset = offset_of(geometry, img_steps, krn_steps)
    kernel = kernel_of(device, "forward", semifield, storage, geometry, offset, residual)
    last = (plane, np.int64(outputs), *_ALWAYS)
    return ForwardLaunch(kernel, (_blocks(outputs),), (THREADS,), struct, last, last, 1)


def forward_at(
    device: Device,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    img_strides: tuple[int, ...],
    krn_strides: tuple[int, ...],
    residual: Residual | None,
) -> Callable[[int, int, int, int | None, Stream], None]:
    """`forward` by addresses on the current GPU: (img, krn, out, residual, stream).

    Strides are in elements; there is an output. `residual` tells whether and which one is wanted.
    """
    strides = (in_bytes(steps, storage) for steps in (img_strides, krn_strides))
    launch = forward_launch(
        device, semifield, geometry, storage, None if residual is None else str(residual.dtype),
        "auto", *strides, source.itemsize(storage),
    )  # fmt: skip

    def call(img: int, krn: int, out: int, residual: int | None, stream: Stream) -> None:
        launch(img, img, krn, out, residual, stream)

    return call


def in_bytes(steps: tuple[int, ...], storage: str) -> tuple[int, ...]:
    """Strides in elements of a storage dtype as strides in bytes."""
    return tuple(step * source.itemsize(storage) for step in steps)


def _has_whole_chunks(geometry: Geometry, img_steps: tuple[int, ...], padded_rows: bool) -> bool:
    """Whether chunks of `COLUMNS` elements lie in rows of an image, none across its edge."""
    *outer, last = img_steps
    steps = [n for n, size in zip(outer, geometry.img_shape, strict=False) if size > 1]
    if not padded_rows:
        steps.append(geometry.image_size[-1])
    return last == 1 and not any(n % COLUMNS for n in steps)


def offset_of(geometry: Geometry, img_steps: tuple[int, ...], krn_steps: tuple[int, ...]) -> str:
    """The type that every offset of a launch of one thread an output fits into."""
    far = max(
        _reach(geometry.img_shape, img_steps) + _overhang(geometry, img_steps),
        _reach(geometry.krn_shape, krn_steps),
        math.prod(geometry.out_shape),
        _furthest_position(geometry),
    )
    return "int32" if far < 2**31 - 1 else "int64"


def _furthest_position(geometry: Geometry) -> int:
    """The largest image position, inside or not, that a window computes."""
    return max(
        pad + size * step + k * d
        for pad, size, step, k, d in zip(
            geometry.pad_begin,
            geometry.out_size,
            geometry.stride,
            geometry.kernel_size,
            geometry.dilation,
            strict=True,
        )
    )


def _overhang(geometry: Geometry, strides: tuple[int, ...]) -> int:
    """How far in elements a window's corner may lie outside an image of these strides."""
    return sum(
        (pad + dilation * size) * abs(stride)
        for pad, dilation, size, stride in zip(
            geometry.pad_begin,
            geometry.dilation,
            geometry.kernel_size,
            strides[2:],
            strict=True,
        )
    )


def _blocks(threads: int) -> int:
    return min(-(-threads // THREADS), 2**31 - 1)


_MOST_CHUNKS = 256
_CHUNK = 16 * THREADS  # outputs that one block of a kernel's gradient adds up, at least


def backward(
    device: Device,
    grad_out: Array,
    img: Array | None,
    krn: Array | None,
    residual: Array | None,
    grad_img: Array | None,
    grad_krn: Array | None,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    method: str = "auto",
) -> None:
    """Launch the gradient kernels that are wanted on the device's current stream.

    Gradients are C-contiguous and in arithmetic dtype; every element is written. The results do not
    differ between runs. `method` "auto" takes tiles where `gradient_tile_of` finds one, "tiled"
    also where they are mostly empty, "direct" none.
    """
    grad_out = device.array_module.ascontiguousarray(grad_out)
    if grad_out.size == 0 or min(geometry.img_shape) == 0:
        for gradient in (grad_img, grad_krn):
            if gradient is not None:
                gradient[...] = 0
        return
    launches = gradient_launches(
        device, semifield, geometry, storage, None if residual is None else str(residual.dtype),
        None if img is None else img.strides, None if krn is None else krn.strides,
        grad_out.itemsize, grad_img is not None, grad_krn is not None, method,
    )  # fmt: skip
    for launch in launches:
        launch(device, grad_out, img, krn, residual, grad_img, grad_krn)


def backward_at(
    device: Device,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    img_strides: tuple[int, ...],
    krn_strides: tuple[int, ...],
    residual: Residual | None,
    wants_img: bool,
    wants_krn: bool,
) -> Callable[..., None]:
    """`backward` by addresses on the current GPU.

    The call takes (grad_out, img, krn, residual, grad_img, grad_krn, stream), None for what is not
    there or not wanted. Strides are in elements; grad_out, residual and image have elements.
    """
    launches = gradient_launches(
        device, semifield, geometry, storage, None if residual is None else str(residual.dtype),
        in_bytes(img_strides, storage), in_bytes(krn_strides, storage),
        source.itemsize(storage), wants_img, wants_krn, "auto",
    )  # fmt: skip

    def call(
        grad_out: int,
        img: int | None,
        krn: int | None,
        residual: int | None,
        grad_img: int | None,
        grad_krn: int | None,
        stream: Stream,
    ) -> None:
        for launch in launches:
            launch(device, grad_out, img, krn, residual, grad_img, grad_krn, stream)

    return call


@dataclass(frozen=True)
class GradientLaunch:
    """All of a gradient kernel's launch but its arrays."""

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int]
    struct: np.void
    writes: tuple[str, ...]  # of "grad_img" and "partial"
    last: tuple[Any, ...]  # the arguments behind the arrays
    sum: PartialSums | None  # None: it has no part in the kernel's gradient

    def __call__(
        self,
        device: Device,
        grad_out: Array,
        img: Array | None,
        krn: Array | None,
        residual: Array | None,
        grad_img: Array | None,
        grad_krn: Array | None,
        stream: Stream | None = None,
        wanted: Flags | None = None,
    ) -> None:
        """Launch for arrays or their addresses; None for what is not there or not wanted."""
        reads = (grad_out if array is None else array for array in (img, krn, residual))
        partial, owner = (0, None) if self.sum is None else device.scratch(self.sum.numbers)
        given = {"grad_img": 0 if grad_img is None else grad_img, "partial": partial}
        arrays = (grad_out, *reads, *(given[name] for name in self.writes))
        grid, last = _guarded(self.grid, self.last, wanted)
        self.kernel(grid, self.block, (self.struct, *arrays, *last), 0, stream)
        if self.sum is not None:
            self.sum(partial, grad_krn, stream, wanted)
        del owner  # what is freed now is used again by what comes later on the stream


@dataclass(frozen=True)
class AdjointLaunch:
    """The image's gradient of an ordinary sum at stride 1: the slopes' convolution.

    With the kernel's channels exchanged, by the forward kernel. A kernel that is not finite is the
    business of `direct`, for which a slope of 0 is none.
    """

    exchange: Kernel
    grid: tuple[int]
    struct: np.void  # with the kernel's strides
    count: np.int64  # of its numbers
    numbers: int  # of a scratch that holds them exchanged
    forward: ForwardLaunch
    direct: GradientLaunch | None  # None: no weight that is not finite met a slope

    def __call__(
        self,
        device: Device,
        grad_out: Array,
        img: Array | None,
        krn: Array | None,
        residual: Array | None,
        grad_img: Array | None,
        grad_krn: Array | None,
        stream: Stream | None = None,
    ) -> None:
        """Launch for arrays or their addresses."""
        exchanged, owner = device.scratch(self.numbers + -(-self.grid[0] // 2))
        flags = exchanged + 8 * self.numbers
        only_finite = np.int64(self.direct is None)
        arguments = (self.struct, krn, exchanged, flags, self.count, only_finite)
        self.exchange(self.grid, (THREADS,), arguments, 0, stream)
        address = grad_out if isinstance(grad_out, int) else device.address(grad_out)
        self.forward(address, grad_out, exchanged, grad_img, None, stream)
        if self.direct is not None:
            wanted = flags, np.int64(self.grid[0])
            self.direct(
                device, grad_out, img, krn, residual, grad_img, grad_krn, stream, wanted
            )  # fmt: skip
        del owner


def adjoint_of(geometry: Geometry) -> Geometry | None:
    """The convolution of the slopes that is the image's gradient; None where there is none.

    Strides leave gaps between slopes, and padding wider than a window would be negative there.
    """
    reach = [d * (k - 1) for d, k in zip(geometry.dilation, geometry.kernel_size, strict=True)]
    padding = tuple(
        (far - begin, far - end)
        for far, begin, end in zip(reach, geometry.pad_begin, geometry.pad_end, strict=True)
    )
    if max(geometry.stride) > 1 or min(map(min, padding)) < 0:
        return None
    return Geometry.plan(
        geometry.out_shape,
        (
            geometry.in_channels * (1 if geometry.shares_kernels else geometry.groups),
            geometry.outputs_per_group,
            *geometry.kernel_size,
        ),
        padding=padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        group_broadcasting=geometry.shares_kernels,
        kind="corr" if geometry.mirrored else "conv",
    )


def adjoint_launch(
    device: Device,
    storage: str,
    geometry: Geometry,
    krn_steps: tuple[int, ...],
    direct: GradientLaunch | None,
    least_filled: float = _LEAST_FILLED,
) -> AdjointLaunch | None:
    """The image's gradient of an ordinary sum by the tiled forward kernel, where that serves."""
    adjoint, sums = adjoint_of(geometry), SubtractSemifield.linear()
    if adjoint is None or tile_of(sums, storage, adjoint, None, least_filled) is None:
        return None
    itemsize, method = source.itemsize(storage), "tiled" if least_filled == 0 else "auto"
    strides = (
        in_bytes(contiguous(shape), storage) for shape in (adjoint.img_shape, adjoint.krn_shape)
    )
    forward = forward_launch(
        device, sums, adjoint, storage, None, method, *strides, itemsize
    )  # fmt: skip
    count = math.prod(adjoint.krn_shape)
    return AdjointLaunch(
        _plain_kernel(device, exchange_source, storage), (min(_blocks(count), THREADS),),
        struct_of(geometry, (0,) * (geometry.rank + 2), krn_steps), np.int64(count),
        -(-count * itemsize // 8), forward, direct,
    )  # fmt: skip


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides in elements of a C-contiguous array."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclass(frozen=True)
class PartialSums:
    """The last stage of a kernel's gradient: what the blocks left for each weight is added up."""

    kernel: Kernel
    grid: tuple[int]  # one warp a weight
    counts: tuple[np.int64, np.int64]  # weights, and partial sums of each
    numbers: int  # partial sums of all

    def __call__(
        self, partial: int, grad_krn: Array, stream: Stream | None, wanted: Flags | None
    ) -> None:
        """Launch for arrays or their addresses."""
        grid, last = _guarded(self.grid, (*self.counts, *_ALWAYS), wanted)
        self.kernel(grid, (THREADS,), (partial, grad_krn, *last), 0, stream)


@lru_cache(maxsize=4096)
def gradient_launches(
    device: Device,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    residual: str | None,
    img_strides: tuple[int, ...] | None,
    krn_strides: tuple[int, ...] | None,
    itemsize: int,
    wants_img: bool,
    wants_krn: bool,
    method: str,
    *,
    only_finite: bool = False,
) -> list[GradientLaunch | AdjointLaunch]:
    """What `backward` launches for arrays of these strides (in bytes; None: no array).

    `only_finite`: where the kernel is not finite, there are no slopes but 0.
    """
    img_steps, krn_steps = (
        (0,) * (geometry.rank + 2) if strides is None else tuple(n // itemsize for n in strides)
        for strides in (img_strides, krn_strides)
    )
    struct = struct_of(geometry, img_steps, krn_steps)
    outputs = math.prod(geometry.out_shape)
    described = residual_of(semifield, storage, geometry)
    size = 0 if described is None else math.prod(described.shape)
    plane = np.int64(0 if described is None else size // described.arrays)
    far = max(
        _reach(geometry.img_shape, img_steps),
        _reach(geometry.krn_shape, krn_steps),
        size,
        outputs,
        math.prod(geometry.img_shape),
    )
    offset = "int32" if far < 2**31 - 1 else "int64"

    def partial_sums(chunks: int) -> PartialSums:
        weights = math.prod(geometry.krn_shape)
        counts = np.int64(weights), np.int64(chunks)
        kernel = _plain_kernel(device, sum_source, source.ARITHMETIC[storage])
        return PartialSums(kernel, (_blocks(32 * weights),), counts, weights * chunks)

    def tiled(with_img: bool, with_krn: bool) -> GradientLaunch | None:
        """Tiles for these gradients, where there are any."""
        if method == "direct":
            return None
        filled = 0.0 if method == "tiled" else _LEAST_FILLED
        tile = gradient_tile_of(semifield, storage, geometry, residual, with_img, with_krn, filled)
        if tile is None:
            return None
        owners, chunks, jobs = tile.work(geometry)
        counts = (jobs, chunks, *tile.cover(geometry.image_size))
        return GradientLaunch(
            kernel_of(device, "grad_tiled", semifield, storage, geometry, "int64", residual, tile),
            (owners * chunks,), (tile.threads_y * tile.threads_x,), struct,
            ("grad_img", "partial"), (plane, *map(np.int64, counts)),
            partial_sums(chunks) if with_krn else None,
        )  # fmt: skip

    def weights() -> GradientLaunch | None:
        """The kernel's gradient of an ordinary sum that mixes channels."""
        least = 1 if method == "tiled" else _LEAST_MIXED
        tile = None
        if method != "direct":
            tile = weight_tile_of(semifield, storage, geometry, least)
        if tile is None or tile.reach(geometry, img_steps) >= 2**31:
            return None
        owners, chunks, jobs = tile.work(geometry)
        whole = _has_whole_chunks(geometry, img_steps, False)
        counts = (jobs, chunks, tile.jobs_at_once, *tile.cover(geometry.out_size), whole)
        return GradientLaunch(
            kernel_of(device, "grad_weights", semifield, storage, geometry, "int64", None, tile),
            (owners * chunks,), (tile.block,), struct, ("partial",), tuple(map(np.int64, counts)),
            partial_sums(chunks),
        )  # fmt: skip

    def direct(
        file: str, grid: tuple[int, ...], block: int, last: tuple[Any, ...], chunks: int = 0
    ) -> GradientLaunch:
        """The kernel of that file; chunks: partial sums of each weight, if it leaves any."""
        return GradientLaunch(
            kernel_of(device, file, semifield, storage, geometry, offset, residual),
            grid, (block,), struct, ("partial" if chunks else "grad_img",), last,
            partial_sums(chunks) if chunks else None,
        )  # fmt: skip

    def by_image() -> GradientLaunch:
        """The image's gradient by the kernel that serves any geometry."""
        elements = math.prod(geometry.img_shape)
        last = (plane, np.int64(elements), *_ALWAYS)
        return direct("grad_image", (_blocks(elements),), THREADS, last)

    def adjoint() -> AdjointLaunch | None:
        """The image's gradient of an ordinary sum that mixes channels."""
        least = 1 if method == "tiled" else _LEAST_MIXED
        if method == "direct" or not mixes_sums(semifield, geometry, least):
            return None
        if source.ARITHMETIC[storage] != storage:  # halves: gradients have more digits than that
            return None
        filled = 0.0 if method == "tiled" else _LEAST_FILLED
        fallback = None if only_finite else by_image()
        return adjoint_launch(device, storage, geometry, krn_steps, fallback, filled)

    both = tiled(True, True) if wants_img and wants_krn else None
    if both is not None:
        return [both]
    launches: list[GradientLaunch | AdjointLaunch] = []
    if wants_img:
        launches.append(adjoint() or tiled(True, False) or by_image())
    if not wants_krn:
        return launches
    found = weights() or tiled(False, True)
    planes = geometry.batch * (geometry.groups if geometry.shares_kernels else 1)
    pixels = math.prod(geometry.out_size)
    if found is not None:
        launches.append(found)
    elif is_provenance(semifield):
        taps, slots = _bins(semifield, storage, geometry)
        slices = -(-_taps_of_bins(semifield, geometry) // taps)
        owners = geometry.kernels * slices * (geometry.in_channels if semifield.channels_add else 1)
        jobs = planes * -(-pixels // (4 * _BINNED))
        # Enough blocks, none with more bins than outputs by far, none with too many outputs.
        chunks = min(-(-_FULL // owners), -(-256 * jobs // (slots * taps)))
        chunks = min(max(chunks, -(-jobs // _MOST_JOBS), 1), jobs)
        counts = tuple(map(np.int64, (jobs, chunks, slices)))
        launches.append(direct("grad_bins", (owners * chunks,), _BINNED, counts, chunks))
    else:
        enough = max(1, min(_MOST_CHUNKS, -(-_FULL // math.prod(geometry.krn_shape))))
        chunk = max(_CHUNK, -(-planes * pixels // enough))
        chunks = -(-planes * pixels // chunk)
        grid = (min(math.prod(geometry.krn_shape) * chunks, 2**31 - 1),)
        last = (plane, np.int64(chunk), np.int64(chunks), *_ALWAYS)
        launches.append(direct("grad_kernel", grid, THREADS, last, chunks))
    return launches
