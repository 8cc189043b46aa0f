"""Extrema over boxes on a GPU: which axes at once, in what tiles; launches of ``flat.cu``.

Small windows go by the strips of ``small_boxes`` where these serve them. The plans
(`flat_launches`) know no arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import BLOCK_THREADS
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.backends.device import Prepared, prepared
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.cuda import small_boxes
from semiconv_cupy.ndimage.cuda.launcher import Launcher, Ways, form_of, fours
from semiconv_cupy.ndimage.cuda.limits import LIMITS, Limits
from semiconv_cupy.ndimage.cuda.small_boxes import Planes, small_box_kernel
from semiconv_cupy.ndimage.form import FilterForm
from semiconv_cupy.ndimage.structs import Flat
from semiconv_cupy.ndimage.window import Window

Array = Any
MOST_TOGETHER = 8  # most_together of kernels_cu/cuda/flat.cu


def flat_kernel(
    storage: str, minimum: bool, together: tuple[int, int], spaced: bool = False
) -> source.KernelSource:
    """The extremum over windows of one or two axes, `together` outputs of a thread along each.

    `spaced`: neighbouring positions of a row are several elements apart.
    """
    down, across = together
    name = f"semiconv_flat_{'minimum' if minimum else 'maximum'}_{storage}_{down}x{across}"
    name += "_spaced" if spaced else ""
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_DOWN": str(down),
        "SEMICONV_ACROSS": str(across),
        "SEMICONV_SPACED": str(int(spaced)),
    }
    return source.KernelSource(name, source.assemble("cuda/flat.cu", macros), OPTIONS)


def together(window: int) -> int:
    """How many neighbouring outputs a thread finds together: a power of two within the window."""
    return min(2 ** (window.bit_length() - 1), MOST_TOGETHER)


@dataclass(frozen=True)
class FlatTile:
    """What a block of kernels_cu/cuda/flat.cu computes, and how it lies in shared memory.

    The windows of a tile's outputs see more than the tile::

        |<------- broad ------->|
        +-----------------------+ -
        |   +---------------+   | |
        |   | rows x columns|   | tall
        |   |    outputs    |   | |
        |   +---------------+   | |
        +-----------------------+ -

    All of that is loaded as "stacks": words of `lanes` elements one below the other. The extrema
    along rows are written to "rows", words of `lanes` elements side by side, from which those down
    columns follow. Long windows read whole blocks of `MOST_TOGETHER` words from the "folds", which
    hold the extremum of each block. Where colours lie between each other, `unit` elements for each
    pixel, a window counts pixels, all else elements.
    """

    rows: int
    columns: int
    window: tuple[int, int]
    itemsize: int
    unit: int = 1

    @property
    def lanes(self) -> int:
        """Elements of a word."""
        return max(4 // self.itemsize, 1)

    @property
    def threads(self) -> int:
        """Threads of a block: half as many for a small tile, since a block costs each some work."""
        large = self.rows * self.columns > BLOCK_THREADS * 8 * self.lanes
        return BLOCK_THREADS if large else BLOCK_THREADS // 2

    @property
    def tall(self) -> int:
        """Rows that the windows see."""
        return self.rows + self.window[0] - 1

    @property
    def broad(self) -> int:
        """Columns that the windows see."""
        return self.columns + (self.window[1] - 1) * self.unit

    @property
    def stacks(self) -> int:
        """Lines of words that hold `tall` rows."""
        return -(-self.tall // self.lanes)

    # Pitches are odd, so that the lines that a warp reads lie in different banks.
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
        down, across = (k >= 2 * MOST_TOGETHER for k in self.window)
        pixels = self.columns // self.unit + self.window[1] - 1
        return {
            "stacks": self.stacks * self.stacks_pitch,
            "stacks_folds": self.stacks * (pixels // MOST_TOGETHER) * self.unit * across,
            "rows": self.stacks * self.lanes * self.rows_pitch,
            "rows_folds": self.tall // MOST_TOGETHER * self.rows_pitch * down,
        }

    @property
    def shared_bytes(self) -> int:
        """The shared memory of a block."""
        return sum(self.parts.values()) * max(self.itemsize, 4)


@dataclass(frozen=True)
class FlatLaunch:
    """One launch of kernels_cu/cuda/flat.cu.

    Attributes
    ----------
    together : tuple of int
        Neighbouring outputs that a thread finds along each axis.
    threads, shared_bytes : int
        Threads and shared memory of a block.
    struct : numpy.ndarray
        `structs.Flat`, but for `aligned`, which depends on the arrays.
    grid : tuple of int
        Blocks along columns, rows and planes.
    strips : small_boxes.StripsLaunch or None
        The launch of small_box.cu that takes its place, if it serves the window.
    cost : float
        The traffic of an output by a model, in words, to compare launches by.
    """

    together: tuple[int, int]
    threads: int
    shared_bytes: int
    struct: np.ndarray
    grid: tuple[int, int, int]
    strips: small_boxes.StripsLaunch | None
    cost: float


def _flat_launch(planes: Planes, itemsize: int, limits: Limits) -> FlatLaunch | None:
    """The launch with the cheapest tile, None where none fits shared memory."""
    tile, cost = _cheapest_tile(planes, itemsize, limits)
    if tile is None:
        return None
    struct = np.zeros((), Flat.dtype())
    struct["planes"], struct["size"], struct["before"] = planes.number, planes.size, planes.before
    struct["window"], struct["tile"] = planes.window, (tile.rows, tile.columns)
    struct["unit"] = planes.unit
    struct["rows_pitch"], struct["stacks_pitch"] = tile.rows_pitch, tile.stacks_pitch
    begin = 0
    for part, words in tile.parts.items():
        if part != "stacks":
            struct[part] = begin
        begin += words
    grid = (
        min(-(-planes.size[1] // tile.columns), limits.blocks),
        min(-(-planes.size[0] // tile.rows), limits.blocks_y),
        min(planes.number, limits.blocks_y),
    )
    down, across = map(together, tile.window)
    strips = small_boxes.strips(planes, itemsize, limits)
    return FlatLaunch((down, across), tile.threads, tile.shared_bytes, struct, grid, strips, cost)


def _cheapest_tile(planes: Planes, itemsize: int, limits: Limits) -> tuple[FlatTile | None, float]:
    """The tile with the least traffic of an output, by a model; and that traffic, in words.

    A tile of rows x columns outputs loads what its windows see, tall x broad words; whole sectors
    of memory at both ends of each row; and some words' worth of index arithmetic by each thread.
    Each output is written once. All that is more expensive by the part of the launch in which the
    GPU is half idle, and where windows along few stacks meet in the same banks.
    """
    size, window, unit = planes.size, planes.window, planes.unit
    outputs = size[0] * size[1]
    best, cost = None, math.inf
    down, across = (k if k == 1 else max(together(k), 4) for k in window)
    for rows in powers_of_two(down, size[0]):
        for positions in powers_of_two(max(across, 4), -(-size[1] // unit)):
            columns = positions * unit
            if rows * columns < min(outputs, BLOCK_THREADS):
                continue
            tile = FlatTile(rows, columns, window, itemsize, unit)
            if tile.shared_bytes > limits.shared_bytes:
                break
            tall = tile.tall if unit == 1 else tile.stacks * tile.lanes
            seen: float = tall * (tile.broad + limits.sector_bytes // itemsize)
            seen += limits.thread_words * tile.threads * tile.lanes
            blocks = planes.number * -(-size[0] // rows) * -(-size[1] // columns)
            idle = limits.blocks_at_once / 2 / blocks
            slower = max(1.0, limits.stacks_apart / tile.stacks / unit) if across > 1 else 1.0
            found = (seen / (rows * columns) + 1) * (1 + idle) * slower
            if found < cost:
                best, cost = tile, found
    return best, cost


def powers_of_two(first: int, enough: int) -> Iterator[int]:
    """`first`, and its doubles up to the first that is enough."""
    yield first
    while first < enough:
        first *= 2
        yield first


@lru_cache(maxsize=256)
def flat_launches(
    form: FilterForm, itemsize: int, limits: Limits = LIMITS
) -> tuple[tuple[tuple[int, ...], FlatLaunch | None], ...]:
    """The axes and the launch of each pass of a box; None where shared memory is too small.

    One launch filters the last two axes where two launches would cost more. Each other axis has a
    launch of its own: along rows the last one, the others down columns. Where the positions of the
    last axis are several elements apart, these elements may be the columns, too.
    """
    shape, window, before, unit = form.shape, form.window, form.before, form.unit
    last = len(shape) - 1

    def one(axis: int) -> tuple[tuple[int, ...], FlatLaunch | None]:
        outer, n, k, b = math.prod(shape[:axis]), shape[axis], window[axis], before[axis]
        if axis < last:
            planes = [Planes(outer, (n, math.prod(shape[axis + 1 :])), (k, 1), (b, 0))]
        else:
            planes = [Planes(1, (outer, n), (1, k), (0, b), unit)]
            if unit > 1:
                planes.append(Planes(outer, (n // unit, unit), (k, 1), (b, 0)))
        found = [launch for each in planes if (launch := _flat_launch(each, itemsize, limits))]
        return (axis,), min(found, key=lambda launch: launch.cost, default=None)

    axes = [axis for axis, k in enumerate(window) if k > 1]
    launches = [one(axis) for axis in axes]
    if len(axes) > 1 and axes[-2:] == [last - 1, last]:
        size, k, b = ((each[-2], each[-1]) for each in (shape, window, before))
        both = _flat_launch(Planes(math.prod(shape[:-2]), size, k, b, unit), itemsize, limits)
        separate = [launch.cost for _, launch in launches[-2:] if launch]
        if both and (len(separate) < 2 or both.cost <= sum(separate)):
            launches[-2:] = [((last - 1, last), both)]
    return tuple(launches)


class BoxCall:
    """The extremum over a box of arrays of one shape and dtype: one pass after another.

    Attributes
    ----------
    nbytes : int
        Of the tables on the device.
    """

    def __init__(self, passes: list[Ways | Callable[..., Array]]) -> None:
        *self._first, self._last = passes
        self.nbytes = sum(each.nbytes for each in passes if isinstance(each, Ways))

    def __call__(self, array: Array, out: Array | None = None) -> Array:
        """The extremum, in `out` where that is given and no pass is of array operations."""
        for each in self._first:
            array = each(array)
        return self._last(array, out)


def box_call(
    launcher: Launcher,
    shape: tuple[int, ...],
    dtype: np.dtype,
    window: Window,
    outside: np.ndarray,
    minimum: bool,
) -> BoxCall:
    """What computes the extremum over a box of arrays of that shape and dtype."""
    geometry = window.shape, window.before, window.rules
    key = "box", launcher.limits, shape, dtype, *geometry, outside.tobytes(), minimum

    def planned() -> BoxCall:
        form = form_of(shape, window)
        return BoxCall(
            [
                _ways(launcher, dtype, launch, launcher.tables(form, axes), outside, minimum)
                if launch
                else _by_array_loops(form, axes, window, outside, minimum)
                for axes, launch in flat_launches(form, dtype.itemsize, launcher.limits)
            ]
        )

    return launcher.keep_plan(key, planned)


def _by_array_loops(
    form: FilterForm, axes: tuple[int, ...], window: Window, outside: np.ndarray, minimum: bool
) -> Callable[..., Array]:
    """A pass over a window that is so long that shared memory has no room for outputs."""
    own = {form.windowed[axis] for axis in axes}
    rest = window._replace(shape=tuple(k if a in own else 1 for a, k in enumerate(window.shape)))
    return lambda array, out=None: reference.box(array, rest, outside, minimum)


def _ways(
    launcher: Launcher,
    dtype: np.dtype,
    launch: FlatLaunch,
    table: Array,
    outside: np.ndarray,
    minimum: bool,
) -> Ways:
    """A pass: by strips, by tiles whose elements move four at once, or one by one."""
    storage = dtype.name
    beyond = outside.astype(source.ARITHMETIC[storage])[()]

    def strips(found: small_boxes.StripsLaunch) -> Prepared:
        kernel = launcher.kernel(small_box_kernel, storage, minimum, found.window)
        return prepared(kernel, found.grid, found.block, (found.struct,), 3, (beyond,))

    def tiles(aligned: bool) -> Prepared:
        spaced = bool(launch.struct["unit"] > 1)
        kernel = launcher.kernel(flat_kernel, storage, minimum, launch.together, spaced)
        struct = launch.struct.copy()
        struct["aligned"] = aligned
        given = (launch.threads,), (struct[()],), 3, (beyond,), launch.shared_bytes
        return prepared(kernel, launch.grid, *given)

    ways: list[tuple[int, Callable[[], Prepared]]] = []
    if launch.strips is not None:
        alignment = small_boxes.alignment(launch.strips, dtype.itemsize)
        ways.append((alignment, partial(strips, launch.strips)))
    together = fours(int(launch.struct["size"][1]), dtype.itemsize)
    if together:
        ways.append((together, partial(tiles, True)))
    return Ways(launcher.device, [*ways, (1, partial(tiles, False))], (table,))
