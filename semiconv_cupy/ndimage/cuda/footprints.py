"""Extrema over footprints on a GPU, by their runs in tiles; launches of ``footprint.cu``.

A run of taps along the last axis is the better of two windows of 2 ** level elements, which may
overlap. Each line of a tile in shared memory becomes such windows in turn, level after level, and
each run of that level is one or two look-ups. The plans (`footprint_launch`) know no arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import BLOCK_THREADS
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.backends.device import Prepared, prepared
from semiconv_cupy.ndimage.caching import cached_where
from semiconv_cupy.ndimage.cuda.boxes import powers_of_two
from semiconv_cupy.ndimage.cuda.launcher import Launcher, Ways, fours
from semiconv_cupy.ndimage.cuda.limits import LIMITS, Limits
from semiconv_cupy.ndimage.form import FilterForm
from semiconv_cupy.ndimage.structs import Footprint
from semiconv_cupy.ndimage.window import Window

Array = Any
Triple = tuple[int, int, int]
_WORDS = (1, 2, 4, 8)  # of outputs that a thread finds; a kernel is compiled for each
# Blocks that a multiprocessor should hold, for which the compiler limits the registers of a thread.
_BLOCKS = 3


def footprint_kernel(storage: str, minimum: bool, together: int) -> source.KernelSource:
    """The extremum over a footprint's runs, `together` words of outputs of a thread."""
    name = f"semiconv_footprint_{'minimum' if minimum else 'maximum'}_{storage}_{together}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_TOGETHER": str(together),
        "SEMICONV_BLOCKS": str(_BLOCKS),
    }
    return source.KernelSource(name, source.assemble("cuda/footprint.cu", macros), OPTIONS)


@dataclass(frozen=True)
class FootprintLaunch:
    """One launch of kernels_cu/cuda/footprint.cu.

    Attributes
    ----------
    struct : numpy.ndarray
        `structs.Footprint`, but for `aligned`, which depends on the arrays.
    lookups : numpy.ndarray of int32
        Where in a tile to look for each run, level after level.
    key : tuple
        The content of `lookups`, by which a copy stays on the GPU.
    together : int
        Words of outputs that a thread finds.
    grid : tuple of int
        Blocks along the last axis, the one before, and all others.
    shared_bytes : int
        Shared memory of a block.
    """

    struct: np.ndarray
    lookups: np.ndarray
    key: tuple[str, bytes]
    together: int
    grid: Triple
    shared_bytes: int


class _Volumes(NamedTuple):
    """The last three axes, which a tile covers, of an array with `batch` such volumes.

    Neighbouring positions of the last one are `unit` elements apart; `size` counts elements.
    """

    batch: int
    size: Triple
    window: Triple
    unit: int
    lanes: int  # elements of a word

    def seen(self, tile: Triple) -> Triple:
        """What the windows of a tile's outputs see, along each axis."""
        depth, rows, columns = self.window
        return tile[0] + depth - 1, tile[1] + rows - 1, tile[2] + (columns - 1) * self.unit


@cached_where(lambda form, taps, *_: len(taps) <= LIMITS.kept_bytes, 256)
def footprint_launch(
    form: FilterForm, taps: bytes, itemsize: int, limits: Limits = LIMITS
) -> FootprintLaunch | None:
    """The launch with the tile that loads least, None where the footprint is too large for one."""
    shape, window = form.shape, form.window
    axes = max(len(shape) - 3, 0)
    if math.prod(window[:axes]) > 1:
        return None
    lanes, word = max(4 // itemsize, 1), max(itemsize, 4)
    size = _last_three(shape[axes:])
    batch = math.prod(shape[:axes])
    volumes = _Volumes(batch, size, _last_three(window[axes:]), form.unit, lanes)
    best = _cheapest_tile(volumes, word, limits)
    if best is None:
        return None
    tile, words = best
    _, high, broad = volumes.seen(tile)
    pitch = broad | 1
    whole = np.frombuffer(taps, np.bool_).reshape(volumes.window)
    levels = _lookups(whole, high, pitch, form.unit)
    struct = np.zeros((), Footprint.dtype())
    struct["batch"], struct["size"], struct["window"] = batch, size, volumes.window
    struct["before"], struct["unit"] = (0, 0, 0, *form.before[axes:])[-3:], form.unit
    struct["tile"], struct["pitch"], struct["levels"] = tile, pitch, len(levels)
    struct["first"][1 : len(levels) + 1] = np.cumsum([len(level) for level in levels])
    grid = (
        min(-(-size[2] // tile[2]), limits.blocks),
        min(-(-size[1] // (tile[1] * lanes)), limits.blocks_y),
        min(volumes.batch * -(-size[0] // tile[0]), limits.blocks_y),
    )
    lookups = np.array([offset for level in levels for offset in level], np.int32)
    key = "lookups", lookups.tobytes()
    together = math.prod(tile) // BLOCK_THREADS
    return FootprintLaunch(struct, lookups, key, together, grid, words * word)


def _last_three(sizes: tuple[int, ...]) -> Triple:
    """Up to three sizes as three, with 1 for an axis that is missing."""
    first, second, third = (1, 1, 1, *sizes)[-3:]
    return first, second, third


def _cheapest_tile(volumes: _Volumes, word: int, limits: Limits) -> tuple[Triple, int] | None:
    """The tile that loads the fewest words for an output, and all its words; None if none fits."""
    size, lanes = volumes.size, volumes.lanes
    best: tuple[float, Triple, int] | None = None
    for tile in _tiles((size[0], -(-size[1] // lanes), size[2])):
        tall, high, broad = volumes.seen(tile)
        words = tall * high * (broad | 1)
        if words * word <= limits.shared_bytes:
            outputs = math.prod(tile)
            blocks = volumes.batch * math.prod(size) / (outputs * lanes)
            cost = words / outputs * (1 + limits.blocks_at_once / 2 / blocks)
            best = min(best or (cost, tile, words), (cost, tile, words))
    return best and best[1:]


def _tiles(size: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """Tiles of some words a thread; lines of a warp's width where the array is as wide."""
    for words in (BLOCK_THREADS * each for each in _WORDS):
        for depth in powers_of_two(1, size[0]):
            for columns in powers_of_two(min(32, 1 << (size[2] - 1).bit_length()), size[2]):
                rows = words // (depth * columns)
                if rows and (columns if depth == 1 else rows * columns) <= BLOCK_THREADS:
                    yield depth, rows, columns


def _lookups(taps: np.ndarray, high: int, pitch: int, unit: int) -> list[list[int]]:
    """Where in a tile to look for each run: by level, windows of 2 ** level positions."""
    levels: list[list[int]] = []
    edges = np.diff(np.pad(taps, ((0, 0), (0, 0), (1, 1))).astype(np.int8))
    for (z, y, begin), end in zip(np.argwhere(edges > 0), np.nonzero(edges < 0)[2], strict=True):
        level = int(end - begin).bit_length() - 1
        levels += [[] for _ in range(level + 1 - len(levels))]
        line = int(z * high + y) * pitch
        ends = {int(begin), int(end) - 2**level}
        levels[level] += sorted(line + position * unit for position in ends)
    return levels


def footprint_call(
    launcher: Launcher,
    shape: tuple[int, ...],
    dtype: np.dtype,
    window: Window,
    outside: np.ndarray,
    minimum: bool,
) -> Ways | None:
    """What computes the extremum over a footprint of arrays of that shape and dtype.

    None where no tile has room for it.
    """
    assert window.taps is not None
    taps = window.taps.tobytes()
    form = launcher.near_form(shape, window)
    launch = footprint_launch(form, taps, dtype.itemsize, launcher.limits)
    if launch is None:
        return None
    storage = dtype.name
    beyond = outside.astype(source.ARITHMETIC[storage])[()]

    def tiles(aligned: bool) -> Prepared:
        struct = launch.struct.copy()
        struct["aligned"] = aligned
        kernel = launcher.kernel(footprint_kernel, storage, minimum, launch.together)
        given = (BLOCK_THREADS,), (struct[()],), 4, (beyond,), launch.shared_bytes
        return prepared(kernel, launch.grid, *given)

    def planned() -> Ways:
        together = fours(form.shape[-1], dtype.itemsize)
        ways = [(together, partial(tiles, True))] * (together > 0) + [(1, partial(tiles, False))]
        tables = launcher.tables(form), launcher.keep(launch.key, lambda: launch.lookups)
        return Ways(launcher.device, ways, tables)

    if len(taps) > launcher.limits.kept_bytes:
        return planned()
    key = "footprint", launcher.limits, form, dtype, taps, outside.tobytes(), minimum
    return launcher.keep_plan(key, planned)
