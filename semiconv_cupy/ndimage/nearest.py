"""Which background element is nearest, by passes along axes, and which of several as near.

A metric is what a distance along each axis adds. No SciPy conventions and no kernels here.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import Array
from semiconv_cupy.ndimage.lines import Finish, Pass, costs
from semiconv_cupy.ndimage.reference import accumulated

_EXACT, _SINGLE = 2.0**53, 2.0**24  # integers up to here are doubles, and floats


class Costs(NamedTuple):
    """What a distance along each axis adds, and whether a root follows.

    Attributes
    ----------
    tables : list of numpy.ndarray
        The costs along each axis.
    exact, single : bool
        Whether all sums are integers that doubles, and floats, hold.
    root : bool
        Whether the results are the roots of the sums.
    """

    tables: list[np.ndarray]
    exact: bool
    single: bool
    root: bool


def squares_of(shape: tuple[int, ...], steps: list[float] | None) -> Costs:
    """Squares of distances by a sampling: integers where it is absent."""
    weights = [1.0] * len(shape) if steps is None else [step * step for step in steps]
    largest = math.fsum(w * (n - 1) ** 2 for w, n in zip(weights, shape, strict=True) if n)
    whole = all(w.is_integer() for w in weights)
    exact, single = whole and largest <= _EXACT, whole and largest <= _SINGLE
    tables = [costs(n, w) for n, w in zip(shape, weights, strict=True)]
    return Costs(tables, exact, single, root=True)


def steps_of(shape: tuple[int, ...]) -> Costs:
    """The distances themselves."""
    tables = [np.arange(n, dtype=np.float64) for n in shape]
    return Costs(tables, exact=True, single=sum(shape) <= _SINGLE, root=False)


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


def last_nearest_by_steps(place: Place, unset: Array, metric: str, distances: Array) -> Array:
    """The last False in C order at the distance, which is known, of a metric of integers."""
    if metric == "chessboard":
        return last_in_cube(place, unset, distances)
    return last_nearest(place, unset, steps_of(unset.shape), True)[1]


def last_in_cube(place: Place, unset: Array, distances: Array) -> Array:
    """The last False in C order among those at the chessboard's distance, which is known.

    Nothing nearer is False, so it is the last one in the cube of that radius. The offsets along all
    axes but the last are tried from the greatest on; the row there has a False in the cube if the
    last one before the cube's end is not before its beginning.
    """
    xp, shape, n = place.array_module, unset.shape, unset.shape[-1]
    found = xp.full((unset.ndim, *shape), -1, np.int32)
    if unset.size == 0:
        return found
    before = accumulated(xp, xp.where(unset, -1, xp.arange(n)), xp.maximum).reshape(-1, n)
    rows = [xp.asarray(r.ravel()) for r in np.indices(shape[:-1])]
    radius = distances.ravel()
    left, most = xp.flatnonzero(radius >= 0), int(radius.max())
    reaches = [min(most, size - 1) for size in shape[:-1]]
    for offset in product(*(range(reach, -reach - 1, -1) for reach in reaches)):
        inside = radius[left] >= max(map(abs, offset), default=0)
        at = [row[left // n] + o for row, o in zip(rows, offset, strict=True)]
        for position, size in zip(at, shape, strict=False):
            inside &= (position >= 0) & (position < size)
        tried, at = left[inside], [position[inside] for position in at]
        row = xp.zeros(tried.shape, np.int64)
        for position, size in zip(at, shape, strict=False):
            row = row * size + position
        x, reach = tried % n, radius[tried]
        last = before[row, xp.minimum(x + reach, n - 1)]
        hit = last >= xp.maximum(x - reach, 0)
        for plane, position in zip(found, (*at, last), strict=True):
            plane.ravel()[tried[hit]] = position[hit]
        inside[inside] = hit
        left = left[~inside]
    return found
