"""Passes along lines on a GPU by ``parabolas.cu`` and ``nearest.cu``, fronts by ``chamfer.cu``.

Lines along another axis than the last are copied together first, and their results back, where they
are so long that shared memory holds few of them beside each other.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import BLOCK_THREADS
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.ndimage.cuda.launcher import Launcher
from semiconv_cupy.ndimage.lines import Finish, Pass, Pullback
from semiconv_cupy.ndimage.structs import Front, LinePass, LinePullback, SinglePass
from semiconv_cupy.strides import element_strides

Array = Any
_WARP, _LINES = 32, 4  # of a block, as in kernels_cu/cuda/nearest.cu
_BLOCK = 8  # outputs between nodes, as in kernels_cu/cuda/line_search.cuh
_BANKS = 32  # of shared memory, of 4 bytes each
# Squares of distances along shorter lines have 32 bits; weights in between have normal costs.
_LONGEST, _WEIGHTS = 1 << 16, (1e-250, 1e250)
_SIDE_BY_SIDE = (8, 4, 2)  # lines of a block of kernels_cu/cuda/parabolas.cu along another axis
_IN_ROWS, _TEAM = (_LINES, 2, 1), 4  # and along the last one; warps of the only line of a block
_OF_WARPS = 24 * _TEAM  # bytes of shared memory in which these warps meet
_PULLBACK_THREADS = 128


class Specialisation(NamedTuple):
    """All that the text of an envelope's kernel depends on, besides the elements' dtype."""

    out: str  # the results' dtype
    winners: bool = False
    shared: bool = True  # where a line lies meanwhile
    minimum: bool = True
    finish: Finish = Finish.TO_NEAREST
    squares: bool = True  # of distances are their costs, times a weight; else given for each
    side_by_side: int = 0  # lines of a block along another axis than the last; 0: along that one
    lines: int = _LINES  # of a block along the last axis

    @property
    def columns(self) -> int:
        """Lines of a block."""
        return self.side_by_side or self.lines

    @property
    def team(self) -> int:
        """Warps of a line: several where shared memory holds few lines."""
        return _TEAM if self.columns == 1 else 1


def parabolas_kernel(storage: str, kind: Specialisation) -> source.KernelSource:
    """The envelopes of lines of a dtype."""
    marks = [
        "minimum" if kind.minimum else "maximum", storage, kind.out, kind.finish.name.lower(),
        *["winners"] * kind.winners, *["long"] * (not kind.shared),
        *["table"] * (not kind.squares),
        *[f"side_by_side_{kind.side_by_side}"] * bool(kind.side_by_side),
        *[f"lines_{kind.lines}"] * (kind.lines != _LINES),
    ]  # fmt: skip
    name = f"semiconv_parabolas_{'_'.join(marks)}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_OUT": kind.out,
        "SEMICONV_COLUMNS": str(kind.columns),
        "SEMICONV_WARPS": str(kind.team),
        "SEMICONV_SIDE_BY_SIDE": str(bool(kind.side_by_side)).lower(),
        "SEMICONV_WINNERS": str(kind.winners).lower(),
        "SEMICONV_SHARED": str(kind.shared).lower(),
        "SEMICONV_MAXIMUM": str(not kind.minimum).lower(),
        "SEMICONV_SQUARES": str(kind.squares).lower(),
        "SEMICONV_FINISH": str(int(kind.finish)),
    }
    return source.KernelSource(name, source.assemble("cuda/parabolas.cu", macros), OPTIONS)


def single_kernel(out: str, winners: bool, finish: Finish, columns: int) -> source.KernelSource:
    """The envelopes of lines of float32 whose sums are exact."""
    marks = [out, finish.name.lower(), *["winners"] * winners, str(columns)]
    name = f"semiconv_single_parabolas_{'_'.join(marks)}"
    macros = source.storage_macros("float32") | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_OUT": out,
        "SEMICONV_WINNERS": str(winners).lower(),
        "SEMICONV_FINISH": str(int(finish)),
        "SEMICONV_COLUMNS": str(columns),
    }
    return source.KernelSource(name, source.assemble("cuda/single_parabolas.cu", macros), OPTIONS)


def nearest_kernel(storage: str, winners: bool) -> source.KernelSource:
    """The distances along rows, of a dtype."""
    name = f"semiconv_nearest_{storage}{'_winners' if winners else ''}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_WINNERS": str(winners).lower(),
    }
    return source.KernelSource(name, source.assemble("cuda/nearest.cu", macros), OPTIONS)


def parabolas_backward_kernel() -> source.KernelSource:
    """The transpose of a pass, of doubles."""
    name = "semiconv_parabolas_backward"
    macros = source.storage_macros("float64") | {"SEMICONV_KERNEL": name}
    text = source.assemble("cuda/parabolas_backward.cu", macros)
    return source.KernelSource(name, text, OPTIONS)


def chamfer_kernel(rank: int) -> source.KernelSource:
    """One front of a scan."""
    name = f"semiconv_chamfer_{rank}d"
    macros = source.storage_macros("int32") | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_RANK": str(rank),
    }
    return source.KernelSource(name, source.assemble("cuda/chamfer.cu", macros), OPTIONS)


def _costs(launcher: Launcher, given: np.ndarray) -> Array:
    """Costs on the device, which stay there where they are few."""
    if given.nbytes > launcher.limits.kept_bytes:
        return launcher.upload(given)
    return launcher.keep(("costs", given.tobytes()), lambda: given)


def weights_of(costs: np.ndarray) -> np.ndarray | None:
    """Each group's weight where costs are squares times weights: inf where nothing moves.

    None of other costs, and where the kernel does not compute the same bits.

    Examples
    --------
    >>> weights_of(np.array([[0.0, 0.5, 2.0], [np.inf, np.inf, np.inf]]))
    array([0.5, inf])
    >>> weights_of(np.array([0.0, 1.0, 2.0])) is None
    True
    """
    rows = np.atleast_2d(costs)
    size = rows.shape[1]
    if size > _LONGEST:
        return None
    stay, weights = rows[:, 0] > 0, rows[:, min(1, size - 1)]
    least, most = _WEIGHTS
    if not (stay | (weights == 0) | ((weights >= least) & (weights <= most))).all():
        return None
    moving = ~stay
    squares = np.arange(size, dtype=np.float64) ** 2
    same = np.array_equal(rows[moving], weights[moving, np.newaxis] * squares)
    return np.where(stay, np.inf, weights) if same else None


def _weights(launcher: Launcher, costs: np.ndarray) -> np.ndarray | None:
    """The same, known from an earlier pass where costs are few."""
    if costs.nbytes > launcher.limits.kept_bytes:
        return weights_of(costs)
    return _kept_weights(costs.tobytes(), costs.shape)


@lru_cache(maxsize=64)
def _kept_weights(costs: bytes, shape: tuple[int, ...]) -> np.ndarray | None:
    return weights_of(np.frombuffer(costs).reshape(shape))


def nearest(launcher: Launcher, unset: Array, step: Pass) -> None:
    """How far the nearest False lies along the last axis, into `step.out`."""
    rows, size = unset.size // unset.shape[-1], unset.shape[-1]
    kernel = launcher.kernel(nearest_kernel, step.out.dtype.name, step.winners is not None)
    sizes, finish = (np.int64(rows), np.int64(size)), (np.int32(step.finish),)
    arrays = _costs(launcher, step.costs), unset, step.out, step.winners
    launcher.launch(kernel, (-(-rows // _LINES),), (_WARP * _LINES,), sizes, arrays, finish)


def _single_columns(launcher: Launcher, array: Array, step: Pass) -> int:
    """How many lines a block of `single_kernel` takes; 0 where it computes no such pass."""
    costs, size = step.costs, array.shape[step.axis]
    squares = costs.ndim == 1 and costs[0] == 0 and (size < 3 or costs[2] == 4 * costs[1])
    stored = step.out.dtype in (np.float32, np.float64) and step.outputs is None
    if not (squares and stored and step.exact and step.minimum and array.dtype == np.float32):
        return 0
    most = launcher.limits.shared_bytes
    return next((n for n in (8, 4, 2, 1) if _single_bytes(n, size, step) <= most), 0)


def _single_bytes(columns: int, size: int, step: Pass) -> int:
    """Shared memory of a block of `single_kernel`."""
    blocks = -(-size // _WARP)
    return 4 * columns * ((2 + (step.winners is not None)) * (blocks * _WARP + 4) + blocks + 1)


def _single(launcher: Launcher, array: Array, step: Pass, columns: int) -> None:
    """A pass in float32."""
    size = array.shape[step.axis]
    lines, inner = array.size // size, math.prod(array.shape[step.axis + 1 :])
    weight = float(step.costs[1]) if size > 1 else 0.0
    followers = 0 if step.followers is None else len(step.followers)
    struct = _single_struct(lines, size, inner, weight, followers)
    kernel = launcher.kernel(
        single_kernel, step.out.dtype.name, step.winners is not None, Finish(step.finish), columns
    )
    grid, block = (-(-lines // columns),), (_WARP * columns,)
    arrays = array, step.out, step.winners, step.followers
    shared_bytes = _single_bytes(columns, size, step)
    launcher.launch(kernel, grid, block, (struct,), arrays, shared_bytes=shared_bytes)


@lru_cache(maxsize=256)
def _single_struct(lines: int, size: int, inner: int, weight: float, followers: int) -> Any:
    struct = np.zeros((), SinglePass.dtype())
    struct["lines"], struct["size"], struct["inner"] = lines, size, inner
    struct["weight"], struct["followers"] = weight, followers
    return struct[()]


def _side_by_side(launcher: Launcher, array: Array, step: Pass) -> int:
    """How many lines along another axis than the last a block takes; 0 where it takes none."""
    if math.prod(array.shape[step.axis + 1 :]) == 1 or not array.flags.c_contiguous:
        return 0
    if rows_of(step.out, step.axis) is None:
        return 0
    most = launcher.limits.shared_bytes - _OF_WARPS
    return next((n for n in _SIDE_BY_SIDE if _shared_bytes(n, array, step) <= most), 0)


def rows_of(out: Array, axis: int) -> tuple[int, int] | None:
    """How the axes behind `axis` lie: elements that lie together, and from these to the next ones.

    None where they lie otherwise. The array may be a part of one along one of these axes.

    Examples
    --------
    >>> rows_of(np.empty((3, 4, 5)), 0), rows_of(np.empty((3, 4, 9))[..., 2:7], 0)
    ((20, 20), (5, 9))
    """
    strides, row, end = element_strides(out), 1, out.ndim
    while end > axis + 1 and strides[end - 1] == row:
        end -= 1
        row *= out.shape[end]
    step = found = strides[end - 1]
    for size, stride in zip(out.shape[end - 1 :: -1], strides[end - 1 :: -1], strict=True):
        if stride != found:
            return None
        found *= size
    return row, step


def _shared_bytes(columns: int, array: Array, step: Pass) -> int:
    """Shared memory of a block of so many lines side by side: numbers, nodes, winners, results."""
    size, width = array.shape[step.axis], _width(array, step)
    pitch, results_pitch = _pitches(columns, size, width, step.out.dtype.itemsize)
    each = step.out.dtype.itemsize + (4 if step.winners is not None else 0)
    return columns * (8 * pitch + 8 * _nodes(width) + each * results_pitch)


def _width(array: Array, step: Pass) -> int:
    """How many elements along the axis are computed."""
    begin, end = step.outputs or (0, array.shape[step.axis])
    return end - begin


def _nodes(width: int) -> int:
    """Nodes of a line, each of two integers."""
    return -(-width // _BLOCK) + 1


def _pitches(columns: int, size: int, width: int, itemsize: int) -> tuple[int, int]:
    """From a line to the next one: of its numbers, more than there are, and of its results.

    The elements that a warp reads of some lines side by side lie in different banks.

    Examples
    --------
    >>> _pitches(8, 256, 256, 4), _pitches(4, 255, 10, 8), _pitches(0, 7, 7, 8)
    ((258, 260), (260, 20), (8, 8))
    """
    if not columns:
        return size + 2 - size % 2, width + width % 2
    found = []
    for least, item in ((size + 1, 8), (width, itemsize)):
        banks = _BANKS // 2 if item == 8 else _BANKS
        found.append(least + (banks // columns - least) % banks)
    return found[0], found[1]


def parabolas(launcher: Launcher, array: Array, step: Pass) -> None:
    """The extremum of element and cost along an axis, into `step.out`."""
    columns = _single_columns(launcher, array, step)
    if columns:
        _single(launcher, array, step, columns)
        return
    columns = _side_by_side(launcher, array, step)
    if columns:
        _envelopes(launcher, array, step, columns)
        return
    if math.prod(array.shape[step.axis + 1 :]) == 1 and step.out.flags.c_contiguous:
        _envelopes(launcher, array, step, 0)
    else:
        _copied_together(launcher, array, step)
    if step.winners is None or step.followers is None:
        return
    for plane in step.followers:
        moved = launcher.device.array_module.take_along_axis(plane, step.winners.clip(0), step.axis)
        plane[...] = launcher.device.array_module.where(step.winners < 0, -1, moved)


def _copied_together(launcher: Launcher, array: Array, step: Pass) -> None:
    """A pass along an axis that is made the last one of copies."""
    device, axis = launcher.device, step.axis
    xp = device.array_module
    given = xp.ascontiguousarray(xp.moveaxis(array, axis, -1))
    begin, end = step.outputs or (0, array.shape[axis])
    out = device.empty((*given.shape[:-1], end - begin), step.out.dtype)
    winners = None if step.winners is None else device.empty(given.shape, np.int32)
    repeat = step.repeat * math.prod(array.shape[axis + 1 :])
    moved = step._replace(axis=array.ndim - 1, out=out, winners=winners, repeat=repeat)
    _envelopes(launcher, given, moved, 0)
    step.out[...] = xp.moveaxis(out, -1, axis)
    if step.winners is not None:
        step.winners[...] = xp.moveaxis(winners, -1, axis)


def _envelopes(launcher: Launcher, array: Array, step: Pass, side_by_side: int) -> None:
    """A launch of ``parabolas.cu``; so many lines of a block side by side, or 0: the last axis."""
    device, axis = launcher.device, step.axis
    size, inner = array.shape[axis], math.prod(array.shape[axis + 1 :])
    lines, width = array.size // size, _width(array, step)
    pitch, results_pitch = _pitches(side_by_side, size, width, step.out.dtype.itemsize)
    most = launcher.limits.shared_bytes - _OF_WARPS
    each = 8 * (pitch + _nodes(width))
    rows = _LINES if side_by_side else next((n for n in _IN_ROWS if n * each <= most), 1)
    shared_bytes = _shared_bytes(side_by_side, array, step) if side_by_side else rows * each
    shared = shared_bytes <= most
    scratch = None if shared else device.empty((lines, pitch), np.float64)
    nodes = None if shared else device.empty((lines, 2, _nodes(width)), np.int32)
    struct = np.zeros((), LinePass.dtype())
    struct["lines"], struct["size"], struct["exact"] = lines, size, step.exact
    struct["begin"], struct["end"] = step.outputs or (0, size)
    struct["groups"], struct["repeat"], struct["inner"] = step.groups, step.repeat * inner, inner
    struct["row"], struct["row_step"] = rows_of(step.out, axis) or (inner, inner)
    struct["pitch"], struct["results_pitch"] = pitch, results_pitch
    followers = step.followers if side_by_side and step.winners is not None else None
    struct["followers"] = 0 if followers is None else len(followers)
    weights = _weights(launcher, step.costs)
    kind = Specialisation(
        step.out.dtype.name, step.winners is not None, shared, step.minimum,
        Finish(step.finish), weights is not None, side_by_side, rows,
    )  # fmt: skip
    kernel = launcher.kernel(parabolas_kernel, array.dtype.name, kind)
    arrays = (
        _costs(launcher, step.costs if weights is None else weights), array, step.out,
        step.winners, scratch, nodes, followers,
    )  # fmt: skip
    grid, block = (-(-lines // kind.columns),), (_WARP * kind.columns * kind.team,)
    taken = shared_bytes if shared else 0
    launcher.launch(kernel, grid, block, (struct[()],), arrays, shared_bytes=taken)


def pull_back(launcher: Launcher, grad: Array, back: Pullback) -> None:
    """Fill `back.out` and `back.moments`, all of doubles, from the gradient of a pass's output."""
    struct = np.zeros((), LinePullback.dtype())
    size = grad.shape[back.axis]
    struct["lines"], struct["size"] = grad.size // size, size
    struct["inner"] = math.prod(grad.shape[back.axis + 1 :])
    kernel = launcher.kernel(parabolas_backward_kernel)
    arrays = back.winners, grad, back.out, back.moments
    grid, block = (-(-grad.size // size // _PULLBACK_THREADS),), (_PULLBACK_THREADS,)
    launcher.launch(kernel, grid, block, (struct[()],), arrays)


def chamfer(
    launcher: Launcher, unset: Array, steps: np.ndarray, features: bool
) -> tuple[Array, Array | None]:
    """Distances in steps to the nearest False, and its flat index: one launch for each front."""
    xp, shape, ndim = launcher.device.array_module, unset.shape, unset.ndim
    never = np.int32(np.iinfo(np.int32).max - 1)
    distances = xp.where(unset, never, np.int32(0)).astype(np.int32)
    reached = xp.arange(unset.size, dtype=np.int32).reshape(shape) if features else None
    struct = np.zeros((), Front.dtype())
    struct["size"][:ndim] = shape
    struct["rows"], struct["steps"] = unset.size // shape[-1], len(steps)
    fronts = 1 + sum((n - 1) << (ndim - 1 - axis) for axis, n in enumerate(shape))
    table = launcher.upload(steps if len(steps) else np.zeros((1, ndim), np.int64))
    kernel = launcher.kernel(chamfer_kernel, ndim)
    grid = (-(-int(struct["rows"]) // BLOCK_THREADS),)
    for sign, numbers in ((1, range(fronts)), (-1, range(fronts - 1, -1, -1))):
        struct["sign"] = sign
        for number in numbers:
            struct["number"] = number
            arguments = struct[()], table, distances, 0 if reached is None else reached
            kernel(grid, (BLOCK_THREADS,), arguments, 0)
    unreached = distances == never
    found = xp.where(unreached, np.int32(-1), distances)
    return found, None if reached is None else xp.where(unreached, np.int32(-1), reached)
