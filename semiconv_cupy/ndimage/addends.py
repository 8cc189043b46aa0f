"""The numbers that a structure adds to elements, in the type in which they are added.

Integers are added exactly, or in double where a value is too large; floating numbers in their own
arithmetic (float32 for the halves). What lies beyond the border may take no part. No images, no
kernels; called by ``neighbourhood``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# For each integer dtype the type of exact sums, which is SumOf in kernels_cu/filters.cuh, and the
# largest number of which a sum of two stays within that type.
_EXACT: dict[str, tuple[type, int]] = {
    "int8": (np.int16, 2**14 - 1),
    "uint8": (np.int16, 2**14 - 1),
    "int16": (np.int32, 2**30 - 1),
    "uint16": (np.int32, 2**30 - 1),
    "int32": (np.int64, 2**62 - 1),
    "uint32": (np.int64, 2**62 - 1),
}


@dataclass(frozen=True)
class Addends:
    """What is added to the elements that a window sees, one value for each tap.

    Attributes
    ----------
    values : numpy.ndarray
        One number for each tap, in order. 64-bit integers have no wider type: their values are
        int64, and sums saturate.
    outside : numpy.ndarray
        The constant beyond the border, 0-d, to which values are added as to an element.
    first : float or None
        The first value before it was rounded, or None where it was not. SciPy rounds all others.
    in_double : bool
        Whether integers are added as doubles.
    absent : bool
        Whether the constant takes no part, whatever is added to it. Of 64-bit integers no number
        says that: a backend must leave these terms out. For all others `outside` is a number from
        which no sum wins.
    """

    values: np.ndarray
    outside: np.ndarray
    first: float | None = None
    in_double: bool = False
    absent: bool = False


def above_all_sums(dtype: np.dtype) -> int:
    """A constant for integers of up to 32 bits that is above any sum of an element and a value."""
    return _EXACT[dtype.name][1]


def addends_of(
    dtype: np.dtype, values: np.ndarray, cval: Any, minimum: bool, absent: bool = False
) -> Addends:
    """The addends for elements of a dtype.

    `values` is flat, of integers or float64; `cval` is the constant beyond the border, unless that
    is `absent`.
    """
    if absent or cval != cval:  # NaN is never selected
        cval = np.inf if minimum else -np.inf
    if dtype.kind in "iu":
        if absent and dtype.name in _EXACT:
            return _beside_nothing(dtype, values, minimum)
        return _of_integers(dtype, values, cval, absent)
    kind = np.float64 if dtype == np.float64 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        rounded, outside = values.astype(kind), np.array(cval, kind)
    first = None if rounded[0] == values[0] or values[0] != values[0] else float(values[0])
    return Addends(rounded, outside, first, absent=absent)


def _fraction(values: np.ndarray) -> float | None:
    """The first value if it is no integer."""
    first = float(values[0]) if values.dtype.kind == "f" else 0.0
    return first if np.trunc(first) != first and first == first else None


def _beside_nothing(dtype: np.dtype, values: np.ndarray, minimum: bool) -> Addends:
    """The addends for integers of up to 32 bits where what lies outside takes no part.

    A value as large as the dtype's range moves every element to its end, where sums saturate, and a
    larger one moves it no farther. The constant lies so far beyond the range that no such value
    leads back into it: it never wins against an element, and alone saturates.
    """
    kind, limit = _EXACT[dtype.name]
    info = np.iinfo(dtype)
    span = int(info.max) - int(info.min)
    if values.dtype.kind == "f":
        values = np.where(values == values, values, span if minimum else -span)  # NaN never wins
    values = values.clip(-span, span)
    first = _fraction(values)
    outside: np.ndarray = np.array(limit if minimum else -limit, kind)
    return Addends(np.trunc(values).astype(kind), outside, first, absent=True)


def _of_integers(dtype: np.dtype, values: np.ndarray, cval: Any, absent: bool) -> Addends:
    """The addends for integers: exact where values and constant allow it, else doubles."""
    first = _fraction(values)
    whole = np.trunc(values) if values.dtype.kind == "f" else values
    largest = (
        max(abs(int(whole.max())), abs(int(whole.min()))) if np.isfinite(whole).all() else None
    )
    if absent:
        if largest is not None and largest < 2**63 and first is None:
            return Addends(whole.astype(np.int64), np.array(0, dtype), absent=True)
    elif largest is not None and np.isfinite(cval) and int(cval) == cval:
        cval = int(cval)
        if dtype.name in _EXACT:
            kind, limit = _EXACT[dtype.name]
            if max(largest, abs(cval)) <= limit:
                return Addends(whole.astype(kind), np.array(cval, kind), first)
        elif (
            largest < 2**63 and np.iinfo(dtype).min <= cval <= np.iinfo(dtype).max and first is None
        ):
            return Addends(whole.astype(np.int64), np.array(cval, dtype))
    exact = whole.astype(np.float64)
    exact[0] = values[0]
    return Addends(exact, np.array(cval, np.float64), in_double=True, absent=absent)
