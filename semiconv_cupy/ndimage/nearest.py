"""Which background element is nearest, by passes along axes, and which of several as near.

No SciPy conventions and no kernels here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import Array
from semiconv_cupy.ndimage.lines import Costs, Finish, Pass, steps_of

# Queries of `last_in_cube` at once, each of which takes about 100 bytes.
_QUERIES = 1 << 18


def first_nearest(
    place: Place, unset: Array, along: Costs, indices: bool
) -> tuple[Array, Array | None]:
    """Distances to the nearest False, and its index: the first in C order of those equally near."""
    xp, shape, last = place.array_module, unset.shape, unset.ndim - 1
    found = xp.empty(shape, np.float64)
    between = xp.empty(shape, np.float32) if along.single and last else found
    winners = xp.empty((unset.ndim, *shape), np.int32) if indices else None
    for axis in range(last, -1, -1):
        step = Pass(
            axis,
            along.tables[axis],
            found if axis == 0 else between,
            None if winners is None else winners[axis],
            None if winners is None or axis == last else winners[axis + 1 :],
            finish=Finish.ROOT if along.root and axis == 0 else Finish.TO_NEAREST,
            exact=along.exact,
        )
        if axis == last:
            neighbourhood.nearest(place, unset, step)
        else:
            neighbourhood.parabolas(place, between, step)
    return found, winners


def last_nearest(
    place: Place, unset: Array, along: Costs, indices: bool
) -> tuple[Array, Array | None]:
    """The same, but of those equally near the last in C order: the first of the mirrored array."""
    xp, turned = place.array_module, (slice(None, None, -1),) * unset.ndim
    mirrored = xp.ascontiguousarray(unset[turned]) if indices else unset
    found, winners = first_nearest(place, mirrored, along, indices)
    if winners is None:  # and distances are those of the mirrored array
        return found, None
    for axis, size in enumerate(unset.shape):
        winners[axis] = xp.where(winners[axis] < 0, -1, size - 1 - winners[axis])
    winners = xp.ascontiguousarray(winners[(slice(None), *turned)])
    return xp.ascontiguousarray(found[turned]), winners


def last_by_steps(place: Place, unset: Array) -> Array:
    """The index of the last False in C order of those at the taxicab's distance."""
    winners: Array = last_nearest(place, unset, steps_of(unset.shape), True)[1]
    return winners


def last_in_cube(place: Place, unset: Array, distances: Array, steps: np.ndarray) -> Array:
    """The last False in C order among those at the chessboard's distance, which is known.

    Nothing nearer is False, so it is the last one in the cube of that radius. Its positions are
    found axis by axis: the last one within the radius whose slab, of the axes that follow, has a
    False in the cube, which it has if the distance within the slab is no more than the radius.

    Parameters
    ----------
    distances : array
        int32, -1 where nothing is False.
    steps : numpy.ndarray
        The chessboard's, as `neighbourhood.chamfer` takes them.
    """
    xp, shape = place.array_module, unset.shape
    found = xp.full((unset.ndim, *shape), -1, np.int32)
    if unset.size == 0 or distances.ravel()[0] < 0:
        return found
    positions, radii = found.reshape(unset.ndim, -1), distances.ravel()
    for axis, size in enumerate(shape):
        tree = _minima_of_blocks(xp, _distances_within_slabs(place, unset, axis, steps))
        for begin in range(0, unset.size, _QUERIES):
            part = slice(begin, min(begin + _QUERIES, unset.size))
            at = list(xp.unravel_index(xp.arange(part.start, part.stop), shape))
            at[:axis] = positions[:axis, part]
            line = xp.zeros(at[axis].shape, np.int64)
            for other in (a for a in range(unset.ndim) if a != axis):
                line = line * shape[other] + at[other]
            radius = radii[part]
            last = xp.minimum(at[axis] + radius, size - 1)
            positions[axis, part] = _last_at_most(xp, tree, line, last, radius)
    return found


def _distances_within_slabs(place: Place, unset: Array, axis: int, steps: np.ndarray) -> Array:
    """Distances along the axes after `axis` alone, in lines along `axis`: one row each."""
    xp = place.array_module
    if axis < unset.ndim - 1:
        along = steps[(steps[:, : axis + 1] == 0).all(axis=1)]
        found = neighbourhood.chamfer(place, unset, along, features=False)[0]
    else:
        found = xp.where(unset, np.int32(-1), np.int32(0))
    found[found < 0] = np.iinfo(np.int32).max
    return xp.ascontiguousarray(xp.moveaxis(found, axis, -1)).reshape(-1, unset.shape[axis])


def _minima_of_blocks(xp: Any, rows: Array) -> list[Array]:
    """Each row's minima of 1, 2, 4, ... neighbours; the last block may have fewer."""
    levels = [rows]
    while levels[-1].shape[1] > 1:
        below = levels[-1]
        pairs, single = divmod(below.shape[1], 2)
        level = xp.empty((len(below), pairs + single), below.dtype)
        xp.minimum(below[:, : 2 * pairs : 2], below[:, 1::2], out=level[:, :pairs])
        level[:, pairs:] = below[:, 2 * pairs :]
        levels.append(level)
    return levels


def _last_at_most(xp: Any, levels: list[Array], row: Array, begin: Array, limit: Array) -> Array:
    """For each query the last position, not after `begin`, where its row is at most its limit.

    There is one. The levels of `_minima_of_blocks` are a tree; a query climbs it from `begin` to
    the first block on the left that has such a position, and goes down to the last one there::

        level 2          [   0   ]          blocks of 4
        level 1      [ 0 ]     [ 1 ]        found here: its right half is too large
        row          5   2     7   9        limit 3, begin 3: position 1
    """
    block, level = begin.astype(np.int64), xp.zeros(begin.shape, np.int64)
    climbing = xp.arange(begin.size)
    for height, minima in enumerate(levels):
        level[climbing] = height
        here = block[climbing]
        climbing = climbing[minima[row[climbing], here] > limit[climbing]]
        if climbing.size == 0:
            break
        block[climbing] = (block[climbing] - 1) // 2
    for height in range(len(levels) - 2, -1, -1):
        going = xp.flatnonzero(level > height)
        right = 2 * block[going] + 1
        minima = levels[height]
        inside = right < minima.shape[1]
        least = minima[row[going], xp.where(inside, right, 0)]
        block[going] = xp.where(inside & (least <= limit[going]), right, right - 1)
    return block
