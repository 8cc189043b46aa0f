"""Weighted sums over windows on a GPU: launches of ``small_weighted.cu`` and ``weighted.cu``.

Small windows need no shared memory (``small_sums``). Others are found from tiles of doubles there,
so that each element is converted once for all taps that see it. The plans know no arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import BLOCK_THREADS
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.backends.device import Prepared, prepared
from semiconv_cupy.ndimage.cuda.boxes import powers_of_two
from semiconv_cupy.ndimage.cuda.launcher import Launcher
from semiconv_cupy.ndimage.cuda.limits import LIMITS, Limits
from semiconv_cupy.ndimage.cuda.small_sums import Sum, Volumes, small_sum_kernel, small_sum_launch
from semiconv_cupy.ndimage.structs import Weighted
from semiconv_cupy.ndimage.window import NEGLIGIBLE, WeightedTaps, Window

Array = Any
Triple = tuple[int, int, int]
_BELOW = (1, 2, 4, 8)  # outputs of a thread in a column; a kernel is compiled for each
_MOST_JOINED = 4  # where taps are joined along a column: there are no registers for more
_LEAST_FULL = 0.25  # of a window's positions; with fewer taps a list of them is shorter work

# What a multiprocessor of an H200 needs, in clocks: for an element of a tile (its load, conversion
# and place in shared memory), for a double read from there, for a tap of an output (a product and a
# sum), and until the first elements of a tile have come.
_LOAD, _READ, _TAP, _WAIT = 0.25, 1 / 16, 2 / 64, 300.0


def sum_kernel(
    storage: str, out: str, kind: Sum, below: int, adjacent: bool = True
) -> source.KernelSource:
    """The weighted sums of windows.

    `below`: outputs of a thread in a column; `adjacent`: positions of a row are neighbours.
    """
    symmetry, holed = kind.symmetry, kind.holed
    which = f"symmetry{symmetry}".replace("-", "_") + "_holed" * holed + "_spaced" * (not adjacent)
    name = f"semiconv_weighted_{which}_{storage}_{out}_{below}"
    lean = not symmetry and below < 8 and adjacent
    spacious = not adjacent and (holed or symmetry != 0)
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_OUT": source.storage_macros(out)["SEMICONV_STORAGE"],
        "SEMICONV_SYMMETRY": str(symmetry),
        "SEMICONV_BELOW": str(below),
        "SEMICONV_BLOCKS": str(3 if lean else 1 if spacious else 2),
        "SEMICONV_ADJACENT": str(adjacent).lower(),
        "SEMICONV_NEGLIGIBLE": str(NEGLIGIBLE if holed else -1.0),
    }
    # Without fused multiplications sums are the host's bits.
    options = (*OPTIONS, "-fmad=false")
    return source.KernelSource(name, source.assemble("cuda/weighted.cu", macros), options)


@dataclass(frozen=True)
class SumLaunch:
    """One launch of kernels_cu/cuda/weighted.cu.

    Attributes
    ----------
    struct : numpy.void
        `structs.Weighted`.
    below : int
        Outputs of a thread in a column.
    grid : tuple of int
        Blocks along the last axis, the one before, and all others.
    shared_bytes : int
        Shared memory of a block.
    """

    struct: Any
    below: int
    grid: Triple
    shared_bytes: int


class _Tile(NamedTuple):
    """A block's outputs: `lanes` threads side by side, each of `below` rows of two columns."""

    lanes: int
    below: int
    unit: int

    @property
    def rows(self) -> int:
        return BLOCK_THREADS // self.lanes * self.below

    @property
    def columns(self) -> int:
        return 2 * self.unit * (self.lanes // self.unit)

    def pitch(self, window: Triple) -> int:
        """Doubles from one row to the next: even, and with room for the second of any pair."""
        columns = self.columns + ((window[2] | 1) - 1) * self.unit
        return columns + columns % 2

    def shared_bytes(self, window: Triple) -> int:
        weights = window[0] * window[1] * (window[2] + window[2] % 2)
        return 8 * ((self.rows + window[1] - 1) * self.pitch(window) + weights)

    def clocks(self, window: Triple, joined: bool) -> float:
        """What the tile takes on a multiprocessor that has others to work on meanwhile."""
        seen = (self.rows + window[1] - 1) * (self.columns + window[2] * self.unit)
        conflicts = max(8 / self.lanes, 1)  # of warps that read several rows at a time
        rows = window[1] + -(-window[1] // 4) * (self.below - 1)  # four rows of taps at a time
        reads = rows * (window[2] + 1) / (2 * self.below)
        if joined:
            reads = window[2] / 2 if window[1] == 1 else window[1] / self.below + 2
        one = math.prod(window[1:]) * _TAP + reads * _READ * conflicts
        return window[0] * (_LOAD * seen + self.rows * self.columns * one + _WAIT)


def sum_launch(volumes: Volumes, kind: Sum, limits: Limits = LIMITS) -> SumLaunch | None:
    """The launch for all taps of a window; None where no tile has room for it."""
    size, window = volumes.size, volumes.window
    best = _cheapest_tile(volumes, kind.symmetry != 0, limits)
    if best is None:
        return None
    struct = np.zeros((), Weighted.dtype())
    struct["batch"], struct["size"] = volumes.number, size
    struct["window"], struct["before"] = window, volumes.before
    struct["unit"], struct["tile"] = volumes.unit, (best.rows, best.columns)
    struct["pitch"], struct["lanes"] = best.pitch(window), best.lanes
    struct["rotated"] = kind.rotated
    grid = (
        -(-size[2] // best.columns),
        min(-(-size[1] // best.rows), limits.blocks_y),
        min(volumes.number * size[0], limits.blocks_y),
    )
    return SumLaunch(struct[()], best.below, grid, best.shared_bytes(window))


def _cheapest_tile(volumes: Volumes, joined: bool, limits: Limits) -> _Tile | None:
    """The tile whose outputs cost least, None if none fits."""
    size, window = volumes.size, volumes.window

    def cost(tile: _Tile) -> float:
        blocks = -(-size[1] // tile.rows) * -(-size[2] // tile.columns)
        blocks *= volumes.number * size[0]
        return (blocks + limits.blocks_at_once / 2) * tile.clocks(window, joined)

    most = _MOST_JOINED if joined else max(_BELOW)
    tiles = _tiles(size[2], volumes.unit, [below for below in _BELOW if below <= most])
    fitting = [
        tile
        for tile in tiles
        if tile.shared_bytes(window) <= limits.shared_bytes
        and -(-size[2] // tile.columns) <= limits.blocks
    ]
    return min(fitting, key=cost, default=None)


def _tiles(broad: int, unit: int, below: list[int]) -> Iterator[_Tile]:
    """Tiles at most as broad as the array needs."""
    first = 1 << (unit - 1).bit_length()  # a thread for each element of a position
    for lanes in powers_of_two(first, -(-broad // 2)):
        if lanes <= BLOCK_THREADS:
            yield from (_Tile(lanes, each, unit) for each in below)


def _order(indices: np.ndarray, window: tuple[int, ...], symmetry: int) -> str:
    """In which order a window's taps come.

    "straight": as in memory; "rotated": the last one, then the others straight; "joined": the
    centre, then the others, of which opposite ones are joined; "" for any other.
    """
    if not window:
        return "straight"
    flat = np.ravel_multi_index(tuple(indices.T), window)
    size = math.prod(window)
    if symmetry:
        centre_first = np.r_[size // 2, 0 : size // 2, size // 2 + 1 : size]
        return "joined" if np.array_equal(flat, centre_first) else ""
    if (np.diff(flat) > 0).all():
        return "straight"
    return "rotated" if np.array_equal(flat, np.r_[size - 1, 0 : size - 1]) else ""


class _Plan(NamedTuple):
    """A launch that is repeated, and the tables that it reads each time."""

    run: Prepared | None = None  # None where no tile serves
    tables: Array = None
    as_given: bool = False  # whether the weights are one for each position, in their order

    @property
    def nbytes(self) -> int:
        """Those on the device."""
        return 0 if self.tables is None else int(self.tables.nbytes)


def _plan(
    launcher: Launcher,
    shape: tuple[int, ...],
    dtypes: tuple[np.dtype, np.dtype],
    window: Window,
    taps: WeightedTaps,
) -> _Plan:
    order = _order(taps.indices, window.shape, taps.symmetry)
    positions = math.prod(window.shape)
    if not order or len(taps.indices) < _LEAST_FULL * positions:
        return _Plan()
    form = launcher.near_form(shape, window)
    volumes = Volumes.of(form)
    if volumes is None:
        return _Plan()
    full = len(taps.indices) == positions
    constant = bool(window.showing_cval())
    kind = Sum(taps.symmetry, order == "rotated", taps.unread or not full, constant)
    if kind.along_an_axis and volumes.window[0] > 1:
        return _Plan()
    run = _run(launcher, volumes, kind, dtypes, window.cval)
    if run is None:
        return _Plan()
    return _Plan(run, launcher.tables(form), full and order == "straight")


def _run(
    launcher: Launcher,
    volumes: Volumes,
    kind: Sum,
    dtypes: tuple[np.dtype, np.dtype],
    cval: Any,
) -> Prepared | None:
    """The launch that serves all taps of a window, by strips or by tiles."""
    storages, after = [dtype.name for dtype in dtypes], (np.float64(cval),)
    small = small_sum_launch(volumes, launcher.limits)
    if small is not None:
        kernel = launcher.kernel(small_sum_kernel, *storages, small.window, kind)
        return prepared(kernel, small.grid, small.block, (small.struct,), 4, after)
    launch = sum_launch(volumes, kind, launcher.limits)
    if launch is None:
        return None
    kind = kind._replace(rotated=False, constant=False)  # one kernel serves these
    kernel = launcher.kernel(sum_kernel, *storages, kind, launch.below, volumes.unit == 1)
    given = (BLOCK_THREADS,), (launch.struct,), 4, after, launch.shared_bytes
    return prepared(kernel, launch.grid, *given)


def correlate_call(
    launcher: Launcher,
    shape: tuple[int, ...],
    dtypes: tuple[np.dtype, np.dtype],
    window: Window,
    taps: WeightedTaps,
) -> Callable[[Array, Array, Array | None], None] | None:
    """What sums arrays of that shape into others, of these two dtypes; None where no tile serves.

    The third argument are the weights where the taps are `unread`.
    """
    if not len(taps.indices):
        return None
    window_key = window.shape, window.before, window.rules, float(window.cval).hex()
    taps_key = taps.indices.tobytes(), taps.symmetry, taps.unread
    key = "sums", launcher.limits, shape, dtypes, *window_key, *taps_key
    plan = launcher.keep_plan(key, lambda: _plan(launcher, shape, dtypes, window, taps))
    run, tables = plan.run, plan.tables
    if run is None:
        return None
    if taps.unread:
        return lambda array, out, weights: run((array, out, tables, weights))
    if plan.as_given:
        given = np.ascontiguousarray(taps.weights, np.float64)
    else:
        given = np.zeros(window.shape)
        given[tuple(taps.indices.T)] = taps.weights
    known = launcher.keep(("weights", given.tobytes()), lambda: given)
    return lambda array, out, weights: run((array, out, tables, known))
