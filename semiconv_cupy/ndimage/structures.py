"""Structuring elements of binary morphology: the usual ones, and the window that one stands for.

A structure is an array of bool, or the size of one that is True everywhere.
"""

from __future__ import annotations

import operator
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np

from semiconv_cupy.ndimage.arguments import (
    as_numpy,
    on_axes,
    per_axis,
    reflected_origin,
    wrong_rank,
)
from semiconv_cupy.ndimage.caching import cached_where, is_small_footprint
from semiconv_cupy.ndimage.window import Window

MOST_AXES = 20  # of a structure of size 3: 3 GiB


def generate_binary_structure(rank: int, connectivity: int) -> np.ndarray:
    r"""The structure of size 3 whose taps are at most `connectivity` unit steps from the centre.

    .. math:: out[y] = \bigl[\, \textstyle\sum_a \vert y_a - 1 \vert \le connectivity \,\bigr]

    Parameters
    ----------
    rank : int
        Number of axes; below 1 the structure is the scalar True.
    connectivity : int
        1 for the direct neighbours, `rank` for the full box; less than 1 counts as 1.

    Returns
    -------
    numpy.ndarray of bool
        Also for use with CuPy arrays.

    Raises
    ------
    TypeError
        A rank that is no integer, or a connectivity that is no number.
    ValueError
        A rank for whose structure there are no indices.

    See Also
    --------
    iterate_structure : Larger ones.
    semiconv_cupy.structuring.cross, semiconv_cupy.structuring.box : Of any size.

    Examples
    --------
    >>> generate_binary_structure(2, 1).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    rank = require_whole(rank, "rank")
    if not isinstance(connectivity, Real):
        raise TypeError(f"connectivity must be a number, got {connectivity!r}")
    if rank < 1:
        return np.array(True)
    if rank > MOST_AXES:
        raise ValueError(f"rank must be at most {MOST_AXES}, of 3**rank elements, got {rank}")
    steps = np.zeros((), np.int8)
    for _ in range(rank):
        steps = np.add.outer(steps, np.array([1, 0, 1], np.int8))
    return steps <= max(connectivity, 1)


@lru_cache(maxsize=MOST_AXES)
def cross(rank: int) -> np.ndarray:
    """The default structure, which nobody writes to."""
    return generate_binary_structure(rank, 1)


class _NotAnIndex(IndexError, TypeError):
    """An origin that is no integer: SciPy's class, and the usual one."""


class _OutsideStructure(IndexError, ValueError):
    """An origin outside the structure: SciPy's class, and the usual one."""


def size_of_full(structure: Any, count: int) -> tuple[int, ...] | None:
    """The size of a full structure, where `structure` is one as in CuPy; None for an array.

    SciPy reads a sequence of integers as a structure of one axis, an error but for one axis. There,
    (k,) is a size, and any other sequence the structure itself.
    """
    if isinstance(structure, np.ndarray):
        return None
    if isinstance(structure, int | np.integer) and not isinstance(structure, bool):
        return (int(structure),) * count if count else None
    if not isinstance(structure, tuple | list) or len(structure) != count or count == 0:
        return None
    if not all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in structure):
        return None
    if count == 1 and (isinstance(structure, list) or structure[0] < 2):
        return None
    return tuple(int(k) for k in structure)


def binary_window(
    structure: Any,
    origin: Any,
    axes: tuple[int, ...],
    ndim: int,
    reflected: bool = False,
    suffix: str = "",
) -> Window:
    """The window of a structure, checked; what lies beyond the border is False.

    `suffix` belongs to the names of the arguments.
    """
    name, count = f"structure{suffix}", len(axes)
    taps = None
    shape = size_of_full(structure, count)
    if shape is None:
        taps = cross(count) if structure is None else as_numpy(structure, bool, name)
        if taps.ndim != count:
            raise wrong_rank(name, taps.shape, count)
        shape = taps.shape
    if min(shape, default=1) < 1:
        raise RuntimeError(f"{name} must not be empty, got shape {shape}")
    origins = tuple(checked_origins(origin, count, f"origin{suffix}"))
    flags = None if taps is None else taps.tobytes()
    try:
        return _placed(flags, shape, origins, axes, ndim, reflected)
    except _OutsideStructure as error:
        raise _OutsideStructure(
            f"invalid origin{suffix} {origin!r} for a {name} of shape {shape}: it must satisfy "
            f"-({error} // 2) <= origin{suffix} <= ({error} - 1) // 2"
        ) from None


@cached_where(is_small_footprint, 64)
def _placed(
    flags: bytes | None,
    shape: tuple[int, ...],
    origins: tuple[int, ...],
    axes: tuple[int, ...],
    ndim: int,
    reflected: bool,
) -> Window:
    """The window on all axes; _OutsideStructure with the length that an origin does not fit."""
    taps = None if flags is None else np.frombuffer(flags, np.bool_).reshape(shape)
    if reflected:
        pairs = zip(origins, shape, strict=True)
        origins = tuple(reflected_origin(o, k, checked=False) for o, k in pairs)
        taps = None if taps is None else taps[(slice(None, None, -1),) * len(shape)]
    if len(axes) < ndim:
        origins = tuple(on_axes(origins, axes, ndim, 0))
        # As in SciPy, the k-th axis of the structure belongs to the k-th of the sorted axes, and
        # the k-th origin to the k-th axis given.
        shape = tuple(on_axes(shape, sorted(axes), ndim, 1))
    before = tuple(k // 2 + o for k, o in zip(shape, origins, strict=True))
    for b, k in zip(before, shape, strict=True):
        if not 0 <= b < k:
            raise _OutsideStructure(k)
    if taps is not None:
        taps = None if taps.all() else taps.reshape(shape)
    return Window(shape, before, ("constant",) * ndim, False, taps)


def checked_origins(origin: Any, count: int, name: str) -> list[int]:
    """One integer for each axis."""
    entries = per_axis(origin, count, name)
    try:
        return [operator.index(entry) for entry in entries]
    except TypeError:
        raise _NotAnIndex(
            f"{name} must be an integer, or one for each axis, got {origin!r}"
        ) from None


def require_whole(value: Any, name: str) -> int:
    """An integer argument, as Python's own."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
