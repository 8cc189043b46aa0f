"""Weighted sums on a GPU, from tiles of doubles in shared memory; launches of ``weighted.cu``.

Each element is converted once for all taps that see it. The plans (`sum_launch`) know no arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import BLOCK_THREADS
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.backends.device import Prepared, prepared
from semiconv_cupy.ndimage.caching import cached_where
from semiconv_cupy.ndimage.cuda.boxes import powers_of_two
from semiconv_cupy.ndimage.cuda.launcher import Launcher
from semiconv_cupy.ndimage.cuda.limits import LIMITS, Limits
from semiconv_cupy.ndimage.form import FilterForm
from semiconv_cupy.ndimage.structs import Weighted
from semiconv_cupy.ndimage.window import NEGLIGIBLE, WeightedTaps, Window

Array = Any
Triple = tuple[int, int, int]
_OUTPUTS = (1, 2, 4, 8)  # of a thread; a kernel is compiled for each
_MOST_JOINED = 4  # of a thread where taps are joined: there are no registers for more
# What it costs to load an element of a tile, in the time of adding one tap for an output: index
# arithmetic, and a conversion to double.
_LOAD = 6.0


def sum_kernel(
    storage: str, out: str, symmetry: int, together: int, unread: bool = False
) -> source.KernelSource:
    """The weighted sums of taps, `together` outputs of a thread; `unread`: as in `WeightedTaps`."""
    which = f"symmetry{symmetry}".replace("-", "_")
    if unread:
        which = "unread"
    name = f"semiconv_weighted_{which}_{storage}_{out}_{together}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_OUT": source.storage_macros(out)["SEMICONV_STORAGE"],
        "SEMICONV_SYMMETRY": str(symmetry),
        "SEMICONV_TOGETHER": str(together),
        "SEMICONV_NEGLIGIBLE": str(NEGLIGIBLE if unread else -1.0),
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
    places : numpy.ndarray of int32
        The taps of each plane, and where they lie in a tile.
    together : int
        Outputs of a thread.
    grid : tuple of int
        Blocks along the last axis, the one before, and all others.
    shared_bytes : int
        Shared memory of a block.
    """

    struct: Any
    places: np.ndarray
    together: int
    grid: Triple
    shared_bytes: int


@cached_where(lambda form, indices, *_: len(indices) <= LIMITS.kept_bytes, 256)
def sum_launch(
    form: FilterForm, indices: bytes, symmetry: int, limits: Limits = LIMITS
) -> SumLaunch | None:
    """The launch for taps at these indices of the window (int64, one row each), in their order.

    None where no tile has room for the window, where more than three axes have windows, and where
    the taps go back to an earlier plane. Taps that are joined lie in one plane.
    """
    axes = max(len(form.shape) - 3, 0)
    if math.prod(form.window[:axes]) > 1:
        return None
    window, before = _last_three(form.window[axes:], 1), _last_three(form.before[axes:], 0)
    size, batch = _last_three(form.shape[axes:], 1), math.prod(form.shape[:axes])
    taps = np.frombuffer(indices, np.int64).reshape(-1, len(form.shape))[:, axes:]
    taps = np.pad(taps, ((0, 0), (3 - taps.shape[1], 0)))
    planes = taps[:, 0]
    outputs = [each for each in _OUTPUTS if each <= _MOST_JOINED or not symmetry]
    best = _cheapest_tile(batch, size, window, form.unit, len(taps), outputs, limits)
    if best is None or (np.diff(planes) < 0).any() or (symmetry and window[0] > 1):
        return None
    rows, columns = best
    broad = columns + (window[2] - 1) * form.unit
    struct = np.zeros((), Weighted.dtype())
    struct["batch"], struct["size"] = batch, size
    struct["window"], struct["before"] = window, before
    struct["unit"], struct["tile"], struct["taps"] = form.unit, best, len(taps)
    first = np.searchsorted(planes, np.arange(window[0] + 1))
    places = np.concatenate([first, taps[:, 1] * broad + taps[:, 2] * form.unit]).astype(np.int32)
    grid = (
        min(-(-size[2] // columns), limits.blocks),
        min(-(-size[1] // rows), limits.blocks_y),
        min(batch * size[0], limits.blocks_y),
    )
    shared_bytes = 8 * (rows + window[1] - 1) * broad
    together = rows * columns // BLOCK_THREADS
    return SumLaunch(struct[()], places, together, grid, shared_bytes)


def _last_three(values: tuple[int, ...], missing: int) -> Triple:
    first, second, third = ((missing,) * 3 + values)[-3:]
    return first, second, third


def _cheapest_tile(
    batch: int,
    size: Triple,
    window: Triple,
    unit: int,
    taps: int,
    outputs: list[int],
    limits: Limits,
) -> tuple[int, int] | None:
    """The rows and columns whose outputs cost least, None if no tile fits."""
    best: tuple[float, int, int] | None = None
    for rows, columns in _tiles(size[1], size[2], outputs):
        seen = (rows + window[1] - 1) * (columns + (window[2] - 1) * unit)
        if 8 * seen > limits.shared_bytes:
            continue
        blocks = batch * size[0] * -(-size[1] // rows) * -(-size[2] // columns)
        work = blocks * (_LOAD * window[0] * seen + taps * rows * columns)
        cost = work * (1 + limits.blocks_at_once / 2 / blocks)
        best = min(best or (cost, rows, columns), (cost, rows, columns))
    return best and best[1:]


def _tiles(high: int, broad: int, each: list[int]) -> Iterator[tuple[int, int]]:
    """Tiles of `each` outputs a thread; rows of a warp's width where the array is as wide."""
    for outputs in (BLOCK_THREADS * number for number in each):
        for columns in powers_of_two(min(32, 1 << (broad - 1).bit_length()), broad):
            if columns <= BLOCK_THREADS:
                yield outputs // columns, columns


class _Plan(NamedTuple):
    """A launch that is repeated, and the arrays that it reads each time."""

    run: Prepared | None  # None where no tile serves
    kept: tuple[Array, ...] = ()

    @property
    def nbytes(self) -> int:
        """Those on the device."""
        return sum(array.nbytes for array in self.kept)


def _plan(
    launcher: Launcher, array: Array, window: Window, taps: WeightedTaps, out: Array
) -> _Plan:
    form = launcher.near_form(array, window)
    if not taps.unread and math.prod(form.window[:-1]) == 1:
        # Neighbouring threads read neighbouring elements of a row anyway: without a tile, 5 and 21
        # taps of 2048 x 2048 take 46 and 90 us in place of 100 and 135 (H200).
        return _Plan(None)
    # An axis without a window takes part in no index, whichever axis it is said to have.
    indices = taps.indices[:, list(form.windowed)] * (np.array(form.window) > 1)
    launch = sum_launch(form, indices.tobytes(), taps.symmetry, launcher.limits)
    if launch is None:
        return _Plan(None)
    dtypes = array.dtype.name, out.dtype.name
    kernel = launcher.kernel(sum_kernel, *dtypes, taps.symmetry, launch.together, taps.unread)
    around = (launch.struct,), 5, (np.float64(window.cval),)
    run = prepared(kernel, launch.grid, (BLOCK_THREADS,), *around, launch.shared_bytes)
    return _Plan(run, (launcher.tables(form), launcher.upload(launch.places)))


def correlate(
    launcher: Launcher, array: Array, window: Window, taps: WeightedTaps, out: Array
) -> bool:
    """Weighted sums into `out`; False where no tile serves."""
    if not len(taps.weights):
        return False
    window_key = window.shape, window.before, window.rules, float(window.cval).hex()
    taps_key = taps.indices.tobytes(), taps.symmetry, taps.unread
    key = "sums", launcher.limits, array.shape, array.dtype, out.dtype, *window_key, *taps_key
    plan = launcher.keep_plan(key, lambda: _plan(launcher, array, window, taps, out))
    if plan.run is None:
        return False
    weights = taps.weights
    if not taps.unread:
        given = np.ascontiguousarray(weights, np.float64)
        weights = launcher.keep(("weights", given.tobytes()), lambda: given)
    plan.run((array, out, *plan.kept, weights))
    return True
