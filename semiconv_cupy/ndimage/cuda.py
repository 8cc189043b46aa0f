"""The neighbourhood operations on a GPU: picks, compiles and launches ``kernels_cu/cuda``.

Same functions as ``host``, as methods of a `Backend` on a device (``backends.device``), which is
CuPy's in production and the CPU harness in tests. Called by ``neighbourhood``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import SelectSemifield
from semiconv_cupy.backends.cuda import BLOCK_THREADS as THREADS
from semiconv_cupy.backends.cuda import CHUNK as COLUMNS
from semiconv_cupy.backends.cuda import Convolution, forward_launch, forward_tile_of
from semiconv_cupy.backends.cuda import element_strides as elements
from semiconv_cupy.backends.device import Device, Kernel
from semiconv_cupy.backends.host.calls import MAX_RANK
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.borders import all_beyond, remembered
from semiconv_cupy.ndimage.sums import Sums

Array = Any
_OPTIONS = ("-std=c++17", "--device-int128")
_AXES = (np.int64, MAX_RANK)
# semiconv::Neighbourhood of kernels_cu/cuda/neighbourhood.cu.
_NEIGHBOURHOOD = np.dtype(
    [
        ("taps", np.int64), ("outputs", np.int64), ("size", *_AXES),
        ("stride", *_AXES), ("window", *_AXES), ("before", *_AXES), ("table", *_AXES),
    ],
    align=True,
)  # fmt: skip
# semiconv::Bordered of kernels_cu/cuda/border.cu, semiconv::Spread of kernels_cu/cuda/spread.cu.
_BORDERED = np.dtype(
    [
        ("size", *_AXES), ("stride", *_AXES), ("window", *_AXES), ("before", *_AXES),
        ("pitch", np.int64), ("table", *_AXES), ("rows", np.int64), ("parts", np.int64),
    ],
    align=True,
)  # fmt: skip
_SPREAD = np.dtype(
    [
        ("size", *_AXES), ("planar", np.int64), ("across", np.int64), ("tiles_y", np.int64),
        ("tiles_x", np.int64),
    ],
    align=True,
)  # fmt: skip
_OF_THREAD = 8  # elements of a row that a thread of border.cu copies
_SIDE, _MOST_REACH = 32, 8  # of spread.cu: a tile's edge, and the steps that shared memory allows
_DILATION, _EROSION = SelectSemifield.tropical_max(), SelectSemifield.tropical_min_negated()
# semiconv::Flat of kernels_cu/cuda/flat.cu.
_PAIR = (np.int32, 2)
_FLAT = np.dtype(
    [
        ("planes", np.int64), ("size", np.int64, 2), ("window", *_PAIR), ("before", *_PAIR),
        ("tile", *_PAIR), ("aligned", np.int32), ("rows_pitch", np.int32),
        ("stacks_pitch", np.int32), ("rows", np.int32), ("rows_folds", np.int32),
        ("stacks_folds", np.int32),
    ],
    align=True,
)  # fmt: skip
# semiconv::Footprint of kernels_cu/cuda/footprint.cu.
_TRIPLE = (np.int32, 3)
_MOST_LEVELS = 16
_FOOTPRINT_WORDS = (1, 2, 4, 8)  # that a thread may find
_FOOTPRINT_BLOCKS = 3  # that a multiprocessor should hold
_FOOTPRINT = np.dtype(
    [
        ("batch", np.int64), ("size", np.int64, 3), ("window", *_TRIPLE), ("before", *_TRIPLE),
        ("tile", *_TRIPLE), ("pitch", np.int32), ("aligned", np.int32), ("levels", np.int32),
        ("first", np.int32, _MOST_LEVELS + 1),
    ],
    align=True,
)  # fmt: skip
_MOST_TOGETHER = 8  # most_together there
_SHARED_BYTES = 48 * 1024
_SECTOR_BYTES = 32  # the least that memory moves
_MOST_BLOCKS, _MOST_BLOCKS_Y = 2**31 - 1, 2**16 - 1
_THREAD_WORDS = 2.5  # a thread's work besides its outputs, in words moved
_STACKS_APART = 16
_BLOCKS_AT_ONCE = 792  # six a multiprocessor of a large GPU

_kernels: dict[tuple[Any, ...], Kernel] = {}
_uploaded: dict[tuple[Any, ...], Array] = {}
_MOST_UPLOADED = 256
_MOST_KEPT = 2**16  # bytes of what is kept on the device, and of a footprint that is remembered


def flat_kernel(storage: str, minimum: bool, together: tuple[int, int]) -> source.KernelSource:
    """The extremum over windows of one or two axes, `together` outputs of a thread along each."""
    down, across = together
    name = f"semiconv_flat_{'minimum' if minimum else 'maximum'}_{storage}_{down}x{across}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_DOWN": str(down),
        "SEMICONV_ACROSS": str(across),
    }
    return source.KernelSource(name, source.assemble("cuda/flat.cu", macros), _OPTIONS)


def footprint_kernel(storage: str, minimum: bool, together: int) -> source.KernelSource:
    """The extremum over a footprint's runs, `together` words of outputs of a thread."""
    name = f"semiconv_footprint_{'minimum' if minimum else 'maximum'}_{storage}_{together}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_TOGETHER": str(together),
        "SEMICONV_BLOCKS": str(_FOOTPRINT_BLOCKS),
    }
    return source.KernelSource(name, source.assemble("cuda/footprint.cu", macros), _OPTIONS)


def taps_kernel(
    operation: str,
    storage: str,
    lane: str,
    out: str,
    rank: int,
    minimum: bool = False,
    symmetry: int = 0,
) -> source.KernelSource:
    """The reduction of a list of taps; operation: "flat", "structure", "saturating" or "sum"."""
    which = f"symmetry{symmetry}".replace("-", "_") if operation == "sum" else (
        "minimum" if minimum else "maximum"
    )  # fmt: skip
    name = f"semiconv_{operation}_{which}_{storage}_{lane}_{out}_{rank}d"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_LANE": lane,
        "SEMICONV_RANK": str(rank),
        "SEMICONV_OUT": source.storage_macros(out)["SEMICONV_STORAGE"],
        f"SEMICONV_{operation.upper()}": "",
    }
    if operation == "sum":
        macros["SEMICONV_SYMMETRY"] = str(symmetry)
    else:
        macros["SEMICONV_MINIMUM"] = str(minimum).lower()
    # Without fused multiplications sums are the host's bits.
    options = (*_OPTIONS, "-fmad=false") if operation == "sum" else _OPTIONS
    return source.KernelSource(name, source.assemble("cuda/neighbourhood.cu", macros), options)


def border_kernel(storage: str, rank: int) -> source.KernelSource:
    """The copy of an array with its borders."""
    name = f"semiconv_border_{storage}_{rank}d"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_RANK": str(rank),
    }
    return source.KernelSource(name, source.assemble("cuda/border.cu", macros), _OPTIONS)


def spread_kernel(
    storage: str, rank: int, minimum: bool, reach: tuple[int, int]
) -> source.KernelSource:
    """A part of a reconstruction, for steps of that reach along the last two axes."""
    name = f"semiconv_spread_{'minimum' if minimum else 'maximum'}_{storage}_{rank}d"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_RANK": str(rank),
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_REACH_Y": str(reach[0]),
        "SEMICONV_REACH_X": str(reach[1]),
    }
    return source.KernelSource(name, source.assemble("cuda/spread.cu", macros), _OPTIONS)


def shipping_variants() -> Iterator[source.KernelSource]:
    """A kernel of each kind for the dtypes that differ in it: for the report and the tests."""
    for storage in ("float16", "float32", "float64", "uint8", "int64", "bool"):
        for together in ((2, 2), (8, 8), (1, 4), (8, 1)):
            yield flat_kernel(storage, False, together)
        for words in (1, 8):
            yield footprint_kernel(storage, False, words)
        yield taps_kernel("flat", storage, source.ARITHMETIC[storage], storage, 2, True)
    for storage, lane in (
        ("float16", "float32"), ("float32", "float32"), ("float64", "float64"),
        ("uint8", "int16"), ("int32", "int64"), ("int32", "float64"),
    ):  # fmt: skip
        yield taps_kernel("structure", storage, lane, storage, 2, True)
    yield taps_kernel("saturating", "uint64", "uint64", "uint64", 3)
    for symmetry in (0, 1, -1):
        yield taps_kernel("sum", "float32", "float64", "float32", 2, symmetry=symmetry)
    yield taps_kernel("sum", "uint8", "float64", "bool", 8)
    yield taps_kernel("sum", "float32", "float64", "float16", 1)
    for storage in ("float16", "float32", "uint8"):
        yield border_kernel(storage, 2)
        yield spread_kernel(storage, 2, False, (1, 1))
    yield spread_kernel("float64", 4, True, (_MOST_REACH, _MOST_REACH))


# ---- boxes: which axes at once, and in what tiles ------------------------------------------------


def _together(window: int) -> int:
    """How many neighbouring outputs a thread finds together: a power of two within the window."""
    return min(2 ** (window.bit_length() - 1), _MOST_TOGETHER)


@dataclass(frozen=True)
class _FlatTile:
    """What a block of kernels_cu/cuda/flat.cu finds at once, and how it lies in shared memory."""

    rows: int
    columns: int
    window: tuple[int, int]
    itemsize: int

    @property
    def lanes(self) -> int:
        """Elements of a word."""
        return max(4 // self.itemsize, 1)

    @property
    def threads(self) -> int:
        """Threads of a block: of some words each, since a block costs each of them some work."""
        return THREADS if self.rows * self.columns > THREADS * 8 * self.lanes else THREADS // 2

    @property
    def tall(self) -> int:
        """Rows that the windows see."""
        return self.rows + self.window[0] - 1

    @property
    def broad(self) -> int:
        """Columns that the windows see."""
        return self.columns + self.window[1] - 1

    @property
    def stacks(self) -> int:
        """Words one below the other."""
        return -(-self.tall // self.lanes)

    # An odd pitch keeps the lines that a warp reads in different banks.
    @property
    def rows_pitch(self) -> int:
        """Words from a row to the next."""
        return self.columns // self.lanes | 1

    @property
    def stacks_pitch(self) -> int:
        """Words from a stack to the next; the first may begin three elements early."""
        return -(-(self.broad + 3) // 4) * 4 | 1 if self.window[1] > 1 else 0

    @property
    def parts(self) -> dict[str, int]:
        """Words of each part of shared memory, in order."""
        down, across = (k >= 2 * _MOST_TOGETHER for k in self.window)
        return {
            "stacks": self.stacks * self.stacks_pitch,
            "stacks_folds": self.stacks * (self.broad // _MOST_TOGETHER) * across,
            "rows": self.stacks * self.lanes * self.rows_pitch,
            "rows_folds": self.tall // _MOST_TOGETHER * self.rows_pitch * down,
        }

    @property
    def shared_bytes(self) -> int:
        """All of shared memory that it takes."""
        return sum(self.parts.values()) * max(self.itemsize, 4)


@dataclass(frozen=True)
class _FlatLaunch:
    """One launch of kernels_cu/cuda/flat.cu; `cost` is its modelled traffic per output."""

    tile: _FlatTile
    described: np.ndarray
    grid: tuple[int, int, int]
    cost: float


def _flat_launch(
    planes: int,
    size: tuple[int, int],
    window: tuple[int, int],
    before: tuple[int, int],
    itemsize: int,
) -> _FlatLaunch | None:
    """The launch with the cheapest tile, None where none fits shared memory."""
    outputs = size[0] * size[1]
    best, cost = None, math.inf
    down, across = (k if k == 1 else max(_together(k), 4) for k in window)
    for rows in _powers_of_two(down, size[0]):
        for columns in _powers_of_two(max(across, 4), size[1]):
            if rows * columns < min(outputs, THREADS):
                continue
            tile = _FlatTile(rows, columns, window, itemsize)
            if tile.shared_bytes > _SHARED_BYTES:
                break
            # Rows begin and end within sectors; the GPU is half idle at the end; windows along few
            # stacks meet in the same banks.
            seen: float = tile.tall * (tile.broad + _SECTOR_BYTES // itemsize)
            seen += _THREAD_WORDS * tile.threads * tile.lanes
            blocks = planes * -(-size[0] // rows) * -(-size[1] // columns)
            slower = max(1.0, _STACKS_APART / tile.stacks) if across > 1 else 1.0
            found = (seen / (rows * columns) + 1) * (1 + _BLOCKS_AT_ONCE / 2 / blocks) * slower
            if found < cost:
                best, cost = tile, found
    if best is None:
        return None
    described = np.zeros((), _FLAT)
    described["planes"], described["size"], described["before"] = planes, size, before
    described["window"], described["tile"] = window, (best.rows, best.columns)
    described["rows_pitch"], described["stacks_pitch"] = best.rows_pitch, best.stacks_pitch
    begin = 0
    for part, words in best.parts.items():
        if part != "stacks":
            described[part] = begin
        begin += words
    grid = (
        min(-(-size[1] // best.columns), _MOST_BLOCKS),
        min(-(-size[0] // best.rows), _MOST_BLOCKS_Y),
        min(planes, _MOST_BLOCKS_Y),
    )
    return _FlatLaunch(best, described, grid, cost)


def _powers_of_two(first: int, enough: int) -> Iterator[int]:
    yield first
    while first < enough:
        first *= 2
        yield first


@lru_cache(maxsize=256)
def _flat_launches(
    shape: tuple[int, ...], window: tuple[int, ...], before: tuple[int, ...], itemsize: int
) -> tuple[tuple[tuple[int, ...], _FlatLaunch | None], ...]:
    """The launches of a box: the last two axes in one where two launches would cost more."""

    def one(axis: int) -> tuple[tuple[int, ...], _FlatLaunch | None]:
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        k, b = window[axis], before[axis]
        if inner > 1:
            return (axis,), _flat_launch(outer, (shape[axis], inner), (k, 1), (b, 0), itemsize)
        return (axis,), _flat_launch(1, (outer, shape[axis]), (1, k), (0, b), itemsize)

    axes = [axis for axis, k in enumerate(window) if k > 1]
    launches = [one(axis) for axis in axes]
    last = len(shape) - 1
    while last > 0 and shape[last] == window[last] == 1:
        last -= 1
    first = last - 1
    if axes[-2:] == [first, last]:
        size, k, b = ((each[first], each[last]) for each in (shape, window, before))
        both = _flat_launch(math.prod(shape[:first]), size, k, b, itemsize)
        separate = [launch.cost for _, launch in launches[-2:] if launch]
        if both and (len(separate) < 2 or both.cost <= sum(separate)):
            launches[-2:] = [((first, last), both)]
    return tuple(launches)


# ---- footprints: runs and tiles ------------------------------------------------------------------


@dataclass(frozen=True)
class _FootprintLaunch:
    """One launch of kernels_cu/cuda/footprint.cu."""

    described: np.ndarray
    lookups: np.ndarray
    together: int
    grid: tuple[int, int, int]
    shared_bytes: int


@remembered(256, lambda shape, taps, *_: len(taps) <= _MOST_KEPT)
def _footprint_launch(
    shape: tuple[int, ...],
    taps: bytes,
    window: tuple[int, ...],
    before: tuple[int, ...],
    itemsize: int,
) -> _FootprintLaunch | None:
    """The launch with the tile that loads least, None where the footprint is too large for one."""
    axes = max(len(shape) - 3, 0)
    if math.prod(window[:axes]) > 1:
        return None

    def last_three(sizes: tuple[int, ...]) -> tuple[int, int, int]:
        first, second, third = (1, 1, 1, *sizes[axes:])[-3:]
        return first, second, third

    batch, size, k = math.prod(shape[:axes]), last_three(shape), last_three(window)
    lanes = max(4 // itemsize, 1)
    best: tuple[float, tuple[int, int, int], int] | None = None
    for tile in _footprint_tiles((size[0], -(-size[1] // lanes), size[2])):
        tall, high, broad = (t + n - 1 for t, n in zip(tile, k, strict=True))
        words = tall * high * (broad | 1)
        if words * max(itemsize, 4) <= _SHARED_BYTES:
            outputs = math.prod(tile)
            blocks = batch * math.prod(size) / (outputs * lanes)
            cost = words / outputs * (1 + _BLOCKS_AT_ONCE / 2 / blocks)
            best = min(best or (cost, tile, words), (cost, tile, words))
    if best is None:
        return None
    _, tile, words = best
    tall, high, broad = (t + n - 1 for t, n in zip(tile, k, strict=True))
    levels = _lookups(np.frombuffer(taps, np.bool_).reshape(k), high, broad | 1)
    described = np.zeros((), _FOOTPRINT)
    described["batch"], described["size"], described["window"] = batch, size, k
    described["before"] = (0, 0, 0, *before[axes:])[-3:]
    described["tile"], described["pitch"], described["levels"] = tile, broad | 1, len(levels)
    described["first"][1 : len(levels) + 1] = np.cumsum([len(level) for level in levels])
    grid = (
        min(-(-size[2] // tile[2]), _MOST_BLOCKS),
        min(-(-size[1] // (tile[1] * lanes)), _MOST_BLOCKS_Y),
        min(batch * -(-size[0] // tile[0]), _MOST_BLOCKS_Y),
    )
    lookups = np.array([offset for level in levels for offset in level], np.int32)
    together = math.prod(tile) // THREADS
    return _FootprintLaunch(described, lookups, together, grid, words * max(itemsize, 4))


def _footprint_tiles(size: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """Tiles of some words a thread; lines of a warp's width where the array is as wide."""
    for words in (THREADS * each for each in _FOOTPRINT_WORDS):
        for depth in _powers_of_two(1, size[0]):
            for columns in _powers_of_two(min(32, 1 << (size[2] - 1).bit_length()), size[2]):
                rows = words // (depth * columns)
                if rows and (columns if depth == 1 else rows * columns) <= THREADS:
                    yield depth, rows, columns


def _lookups(taps: np.ndarray, high: int, pitch: int) -> list[list[int]]:
    """Where in a tile to look for each run: by level, windows of 2 ** level words."""
    levels: list[list[int]] = []
    edges = np.diff(np.pad(taps, ((0, 0), (0, 0), (1, 1))).astype(np.int8))
    for (z, y, begin), end in zip(np.argwhere(edges > 0), np.nonzero(edges < 0)[2], strict=True):
        level = int(end - begin).bit_length() - 1
        levels += [[] for _ in range(level + 1 - len(levels))]
        line = int(z * high + y) * pitch
        levels[level] += sorted({line + int(begin), line + int(end) - 2**level})
    return levels


def _table_starts(window: tuple[int, ...]) -> np.ndarray:
    """Where each axis' entries begin in the tables."""
    return np.cumsum([0, *(k - 1 for k in window)])[:-1]


class Backend:
    """The operations on one device's arrays."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def _kernel(self, build: Callable[..., source.KernelSource], *arguments: Any) -> Kernel:
        key = (type(self.device), build, *arguments)
        found = _kernels.get(key)
        if found is None:
            kernel = build(*arguments)
            found = _kernels[key] = self.device.compile(kernel.text, kernel.name, kernel.options)
        return found

    def _there(self, array: np.ndarray) -> Array:
        return self.device.array_module.asarray(np.ascontiguousarray(array))

    def _kept(self, key: tuple[Any, ...], make: Callable[[], np.ndarray]) -> Array:
        """An array, uploaded once for each stream: nobody reads it too early or too late.

        Large ones are not kept.
        """
        whole = (type(self.device), *self.device.gpu_and_stream(), *key)
        found = _uploaded.get(whole)
        if found is None:
            made = make()
            found = self._there(made)
            if made.nbytes <= _MOST_KEPT:
                if len(_uploaded) >= _MOST_UPLOADED:
                    _uploaded.clear()
                _uploaded[whole] = found
        return found

    def _moves_fours(self, row: int, *arrays: Array) -> bool:
        """Whether rows begin where four elements may be moved at once."""
        return row % 4 == 0 and all(
            self.device.address(a) % min(4 * a.dtype.itemsize, 16) == 0 for a in arrays
        )

    def box(
        self,
        array: Array,
        window: tuple[int, ...],
        before: tuple[int, ...],
        rules: tuple[str, ...],
        outside: np.ndarray,
        minimum: bool,
    ) -> Array:
        """The extremum over a box."""
        storage = array.dtype.name
        real = np.dtype(source.ARITHMETIC[storage])
        for axes, launch in _flat_launches(array.shape, window, before, array.dtype.itemsize):
            if launch is None:  # a window as long as this leaves shared memory no room for outputs
                rest = [k if axis in axes else 1 for axis, k in enumerate(window)]
                array = reference.box(array, tuple(rest), before, rules, outside, minimum)
                continue
            together = tuple(map(_together, launch.tile.window))
            kernel = self._kernel(flat_kernel, storage, minimum, together)
            table = self._tables(
                tuple(array.shape[a] for a in axes), tuple(window[a] for a in axes),
                tuple(before[a] for a in axes), tuple(rules[a] for a in axes),
            )  # fmt: skip
            out = self.device.empty(array.shape, array.dtype)
            described = launch.described.copy()
            described["aligned"] = self._moves_fours(int(described["size"][1]), array, out)
            kernel(
                launch.grid, (launch.tile.threads,),
                (described[()], array, out, table, outside.astype(real)[()]),
                launch.tile.shared_bytes,
            )  # fmt: skip
            array = out
        return array

    def footprint(
        self,
        array: Array,
        taps: np.ndarray,
        before: tuple[int, ...],
        rules: tuple[str, ...],
        outside: np.ndarray,
        minimum: bool,
    ) -> Array:
        """The extremum over any footprint that is not empty."""
        storage = array.dtype.name
        lane = source.ARITHMETIC[storage]
        out = self.device.empty(array.shape, array.dtype)
        launch = _footprint_launch(
            array.shape, taps.tobytes(), taps.shape, before, array.dtype.itemsize
        )
        if launch is not None:
            described = launch.described.copy()
            described["aligned"] = self._moves_fours(array.shape[-1], array)
            self._kernel(footprint_kernel, storage, minimum, launch.together)(
                launch.grid, (THREADS,),
                (
                    described[()], array, out,
                    self._tables(array.shape, taps.shape, before, rules),
                    self._kept((launch.lookups.tobytes(),), lambda: launch.lookups),
                    outside.astype(lane)[()],
                ),
                launch.shared_bytes,
            )  # fmt: skip
            return out
        kernel = self._kernel(taps_kernel, "flat", storage, lane, storage, array.ndim, minimum)
        indices = np.argwhere(taps)
        self._reduce(
            kernel, array, indices, taps.shape, before, rules, None, outside.astype(lane), None, out
        )
        return out

    def structure(
        self,
        array: Array,
        taps: np.ndarray,
        sums: Sums,
        before: tuple[int, ...],
        rules: tuple[str, ...],
        minimum: bool,
    ) -> Array:
        """The extremum of element + value over the taps."""
        tiled = self._tiled_structure(array, taps, sums, before, rules, minimum)
        if tiled is not None:
            return tiled
        storage, lane = array.dtype.name, sums.values.dtype.name
        operation = "structure"
        if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and not sums.in_double:
            operation, lane = "saturating", storage
        kernel = self._kernel(taps_kernel, operation, storage, lane, storage, array.ndim, minimum)
        out = self.device.empty(array.shape, array.dtype)
        self._reduce(
            kernel, array, np.argwhere(taps), taps.shape, before, rules, sums.values,
            sums.outside.astype(lane), sums.first, out,
        )  # fmt: skip
        return out

    def _tiled_structure(
        self,
        array: Array,
        taps: np.ndarray,
        sums: Sums,
        before: tuple[int, ...],
        rules: tuple[str, ...],
        minimum: bool,
    ) -> Array | None:
        """The same as a convolution of the array with its borders; None where no tile serves it."""
        storage, xp, first = array.dtype.name, self.device.array_module, sums.first
        weights = -sums.values if minimum else sums.values  # erosions subtract them
        with np.errstate(over="ignore", invalid="ignore"):
            values = weights.astype(array.dtype)
            exact = (values == weights).all() and sums.outside.astype(array.dtype) == sums.outside
        # Integers have no weight that leaves a tap out.
        whole = taps.all() and first is None and array.dtype.itemsize < 8 and not sums.in_double
        if not exact or not (storage in source.FLOATING or whole):
            return None
        shape = tuple(n + k - 1 for n, k in zip(array.shape, taps.shape, strict=True))
        geometry = Geometry.plan((1, 1, *shape), (1, 1, *taps.shape), kind="corr")
        semifield = _EROSION if minimum else _DILATION
        if forward_tile_of(semifield, storage, geometry, None) is None:
            return None
        wide = self._bordered(array, taps.shape, before, rules, sums.outside)
        out = self.device.empty(geometry.out_shape, array.dtype)
        img, krn = wide[None, None], self._weights(taps, values, first is not None)
        convolution = Convolution(semifield, geometry, storage, None, img.strides, krn.strides)
        if out.size:
            launch = forward_launch(self.device, convolution, padded_rows=True)
            launch(self.device.address(img), img, krn, out, None)
        if first is not None:
            seen = reference.view(wide, np.argwhere(taps)[0], array.shape).astype(np.float64)
            term = (seen + first).astype(sums.values.dtype).astype(array.dtype)
            out = reference.better(xp, out, term, minimum)
        return out.reshape(array.shape)

    def _weights(self, taps: np.ndarray, values: np.ndarray, but_first: bool) -> Array:
        """The kernel that has these values at its taps, and leaves out all others."""

        def weights() -> np.ndarray:
            krn = np.zeros((1, 1, *taps.shape), values.dtype)
            if not taps.all() or but_first:
                krn[...] = -np.inf
            krn[0, 0][taps] = values
            if but_first:
                krn[0, 0][tuple(np.argwhere(taps)[0])] = -np.inf
            return krn

        if values.nbytes > _MOST_KEPT:
            return self._there(weights())
        said = taps.shape, taps.tobytes(), values.dtype.name, values.tobytes(), but_first
        return self._kept(said, weights)

    def _bordered(
        self,
        array: Array,
        window: tuple[int, ...],
        before: tuple[int, ...],
        rules: tuple[str, ...],
        outside: np.ndarray,
    ) -> Array:
        """The array with what windows see beyond its borders."""
        storage, rank = array.dtype.name, array.ndim
        shape = tuple(n + k - 1 for n, k in zip(array.shape, window, strict=True))
        pitch = -(-shape[-1] // COLUMNS) * COLUMNS  # so that whole chunks can be read
        out = self.device.empty((*shape[:-1], pitch), array.dtype)[..., : shape[-1]]
        threads_x = min(THREADS, 2 ** max(5, (shape[-1] // _OF_THREAD).bit_length()))
        described = np.zeros((), _BORDERED)
        described["size"][:rank], described["stride"][:rank] = array.shape, elements(array)
        described["window"][:rank], described["before"][:rank] = window, before
        described["table"][:rank], described["pitch"] = _table_starts(window), pitch
        described["rows"] = rows = math.prod(shape[:-1])
        described["parts"] = parts = -(-shape[-1] // (threads_x * _OF_THREAD))
        real = np.dtype(source.ARITHMETIC[storage])
        self._kernel(border_kernel, storage, rank)(
            (-(-rows // (THREADS // threads_x)) * parts,),
            (THREADS,),
            (
                described[()], array, out, self._tables(array.shape, window, before, rules),
                outside.astype(real)[()], np.int32(threads_x),
            ),
            0,
        )  # fmt: skip
        return out

    def correlate(
        self,
        array: Array,
        indices: np.ndarray,
        weights: np.ndarray,
        window: tuple[int, ...],
        before: tuple[int, ...],
        rules: tuple[str, ...],
        cval: float,
        symmetry: int,
        out: Array,
    ) -> None:
        """Weighted sums into `out`, which is C-contiguous and of any supported dtype."""
        arguments = (
            "sum",
            array.dtype.name,
            "float64",
            out.dtype.name,
            array.ndim,
            False,
            symmetry,
        )
        kernel = self._kernel(taps_kernel, *arguments)
        outside = np.array(cval, np.float64)
        self._reduce(kernel, array, indices, window, before, rules, weights, outside, None, out)

    def _reduce(
        self,
        kernel: Kernel,
        array: Array,
        indices: np.ndarray,
        window: tuple[int, ...],
        before: tuple[int, ...],
        rules: tuple[str, ...],
        values: np.ndarray | None,
        outside: np.ndarray,
        first: float | None,
        out: Array,
    ) -> None:
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        described = np.zeros((), _NEIGHBOURHOOD)
        described["taps"], described["outputs"] = len(indices), array.size
        entries = zip(
            ("size", "stride", "window", "before", "table"),
            (array.shape, strides, window, before, _table_starts(window)),
            strict=True,
        )
        for name, entry in entries:
            described[name][: array.ndim] = entry
        indices = np.ascontiguousarray(indices, np.int64).reshape(-1, array.ndim)
        offsets = indices @ np.array(strides, np.int64).reshape(array.ndim)
        kernel(
            (min(-(-array.size // (4 * THREADS)), _MOST_BLOCKS),),
            (THREADS,),
            (
                described[()], array, out,
                self._tables(array.shape, window, before, rules),
                self._kept((indices.tobytes(), array.ndim), lambda: indices),
                self._kept((offsets.tobytes(),), lambda: offsets),
                self._kept((), lambda: np.zeros(1)) if values is None
                else self._there(values),
                outside[()], np.float64(first or 0), np.int32(first is not None),
            ),
            0,
        )  # fmt: skip

    def _tables(
        self,
        shape: tuple[int, ...],
        window: tuple[int, ...],
        before: tuple[int, ...],
        rules: tuple[str, ...],
    ) -> Array:
        """What lies beyond the borders, one axis' table behind the other; never empty."""

        def tables() -> np.ndarray:
            each = all_beyond(shape, window, before, rules)
            return np.concatenate([*each, np.zeros(1, np.int64)])

        return self._kept((shape, window, before, rules), tables)

    def reconstruct(self, seed: Array, mask: Array, steps: np.ndarray, minimum: bool) -> Array:
        """Values spread within tiles until nothing changes; asks after every eighth launch."""
        xp, shape = self.device.array_module, seed.shape
        value = xp.ascontiguousarray(reference.limit(xp, seed, mask, minimum))
        mask = xp.ascontiguousarray(mask)
        if seed.ndim == 1:
            shape, steps = (1, *shape), np.pad(steps, ((0, 0), (1, 0)))
        *outer, height, width = shape
        reach_y, reach_x = (int(r) for r in np.abs(steps[:, -2:]).max(axis=0))
        tiles_y, tiles_x = -(-height // _SIDE), -(-width // _SIDE)
        tiles = math.prod(outer) * tiles_y * tiles_x
        if max(reach_y, reach_x) > _MOST_REACH or max(tiles, height, width) > _MOST_BLOCKS:
            return reference.reconstruct(seed, mask, steps[:, -seed.ndim :], minimum)
        across = steps[:, :-2].any(axis=1)
        described = np.zeros((), _SPREAD)
        described["size"][: len(shape)] = shape
        described["planar"], described["across"] = np.count_nonzero(~across), across.sum()
        described["tiles_y"], described["tiles_x"] = tiles_y, tiles_x
        # An output sees what lies a step back.
        seen = np.ascontiguousarray(-steps[np.argsort(across, kind="stable")], np.int64)
        table = self._kept((seen.tobytes(), seen.shape), lambda: seen)
        reach = (reach_y, reach_x)
        kernel = self._kernel(spread_kernel, seed.dtype.name, len(shape), minimum, reach)
        other = self.device.empty(value.shape, value.dtype)
        while True:
            changed = xp.zeros(8, np.int32)
            for n in range(8):
                arguments = (described[()], value, mask, other, table, changed[n:])
                kernel((tiles,), (THREADS,), arguments, 0)
                value, other = other, value
            if not int(changed[-1]):
                return value
