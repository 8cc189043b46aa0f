"""Parabolas along one axis after another: what distances and parabolic morphology are made of.

An erosion by a parabola without end is an erosion along each axis in turn::

    out[x] = min over y of array[y] + cost[|x - y|],    cost[r] = weight * r ** 2

Axes are taken from the last one to the first; among equal candidates the first along the axis wins,
so that the winner of all axes together is the first in C order. Values are doubles in between. No
SciPy conventions and no kernels here: ``neighbourhood`` says who computes a `Pass`.
"""

from __future__ import annotations

import math
from enum import IntEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy.ndimage.caching import cached_where

Array = Any
_EXACT, _SINGLE = 2.0**53, 2.0**24  # integers up to here are doubles, and floats
_KEPT_COSTS = 1 << 14  # elements of an axis whose costs are kept


class Finish(IntEnum):
    """What a result becomes when it is stored: `Finish` of kernels_cu/parabolas.cuh.

    The first three are for integers; of floating results, UPWARD and DOWNWARD are TO_NEAREST.
    """

    TO_NEAREST = 0
    UPWARD = 1
    DOWNWARD = 2
    ROOT = 3


class Pass(NamedTuple):
    """A minimum or maximum along one axis, and where its results go.

    Attributes
    ----------
    axis : int
        The axis.
    costs : numpy.ndarray
        float64, what is added for each distance 0, ..., n - 1 in a minimum (subtracted in a
        maximum); convex. Or one row for each group of lines; a row that begins with inf leaves its
        lines as they are, NaN included.
    out : array
        C-contiguous, of the array's shape; may be the array where both are of float64, or of
        float32 and exact. Without winners it may be a part of an array along a later axis.
    winners : array, optional
        int32: which element along the axis gave each result, -1 where none did.
    followers : array, optional
        int32, with one more axis: winners along other axes, which were found before. Each result
        takes over those of its winner.
    minimum : bool
        Whether the least sum wins.
    finish : Finish
        What the results become.
    exact : bool
        Whether sums are exact in the array's dtype, as those of integers are. Of float32 they are
        computed in float32 then.
    repeat : int
        The lines of `repeat` indices of the axes before, in C order, have the costs of one group,
        the next ones those of the next group.
    outputs : tuple of int, optional
        Which elements along the axis are computed, first and end; all by default. `out` has as
        many; all lines have the same costs, and there are no winners.
    storages : tuple of str, optional
        The storage dtypes of array and `out` where NumPy has none: of bfloat16 in the bits of
        uint16. For the CPU's kernels alone.
    threads : int, optional
        How many threads share the work at most; by default those of `host.functions.threads`.
    """

    axis: int
    costs: np.ndarray
    out: Array
    winners: Array | None = None
    followers: Array | None = None
    minimum: bool = True
    finish: Finish = Finish.TO_NEAREST
    exact: bool = False
    repeat: int = 1
    outputs: tuple[int, int] | None = None
    storages: tuple[str, str] | None = None
    threads: int | None = None

    @property
    def groups(self) -> int:
        """How many rows of costs there are."""
        return len(self.costs) if self.costs.ndim > 1 else 1

    def storages_of(self, dtype: np.dtype) -> tuple[str, str]:
        """The storage dtypes of an array of that dtype and of `out`."""
        return self.storages or (dtype.name, self.out.dtype.name)

    def is_single(self, dtype: np.dtype) -> bool:
        """Whether the CPU computes an array of that dtype in float32, which is exact then."""
        given, stored = self.storages_of(dtype)
        return self.exact and given == "float32" and stored in ("float32", "float64")


class Pullback(NamedTuple):
    """The transpose of a pass along one axis.

    Attributes
    ----------
    axis : int
        The axis.
    winners : array
        int32, of the pass: which element along the axis gave each result, -1 where none did.
    out : array
        The gradient of the pass's input; C-contiguous.
    moments : array
        float64, one for each line in C order of the other axes: the sum of gradient times squared
        distance of the winner.
    storages : tuple of str, optional
        As in `Pass`, of the given gradient and `out`.
    """

    axis: int
    winners: Array
    out: Array
    moments: Array
    storages: tuple[str, str] | None = None


@lru_cache(maxsize=64)
def _kept_costs(size: int, weight: float) -> np.ndarray:
    return _costs(size, weight)


def _costs(size: int, weight: float) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        found = weight * np.arange(size, dtype=np.float64) ** 2
    found[:1] = 0  # also of an infinite weight
    np.minimum(found, np.finfo(np.float64).max, out=found)  # -inf + cost is -inf
    found.setflags(write=False)
    return found


def costs(size: int, weight: float) -> np.ndarray:
    """weight * r ** 2 for r = 0, ..., size - 1, rounded once while r ** 2 is below 2 ** 53."""
    return _kept_costs(size, weight) if size <= _KEPT_COSTS else _costs(size, weight)


class Costs(NamedTuple):
    """What a distance along each axis adds, and whether a root follows.

    Attributes
    ----------
    tables : list of numpy.ndarray
        The costs along each axis.
    exact, single : bool
        Whether doubles, and floats, hold all sums: integers, or multiples of a fraction.
    root : bool
        Whether the results are the roots of the sums.
    """

    tables: list[np.ndarray]
    exact: bool
    single: bool
    root: bool


def squares_of(shape: tuple[int, ...], steps: list[float] | None) -> Costs:
    """Squares of distances by a sampling: integers where it is absent.

    Sums of fractions, too, are exact where they are few enough of the last digit.

    Examples
    --------
    >>> squares_of((256, 256), [1.5, 1.0]).single, squares_of((256, 256), [0.7, 1.0]).exact
    (True, False)
    """
    return _squares_of(shape, (1.0,) * len(shape) if steps is None else tuple(steps))


@cached_where(lambda shape, steps: max(shape, default=0) <= _KEPT_COSTS, 64)
def _squares_of(shape: tuple[int, ...], steps: tuple[float, ...]) -> Costs:
    weights = [step * step for step in steps]
    largest = math.fsum(w * (n - 1) ** 2 for w, n in zip(weights, shape, strict=True) if n)
    unit = max((w.as_integer_ratio()[1] for w in weights), default=1)  # of a fraction, 1 / unit
    units = largest * unit if unit <= _EXACT else math.inf
    exact, single = units <= _EXACT, units <= _SINGLE
    tables = [costs(n, w) for n, w in zip(shape, weights, strict=True)]
    return Costs(tables, exact, single, root=True)


def steps_of(shape: tuple[int, ...]) -> Costs:
    """The distances themselves."""
    tables = [np.arange(n, dtype=np.float64) for n in shape]
    return Costs(tables, exact=True, single=sum(shape) <= _SINGLE, root=False)
