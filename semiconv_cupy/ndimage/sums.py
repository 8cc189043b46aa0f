"""In which type an element and a structure's value are added, and the numbers that go with it.

Integers: exactly, or in double where a value is too large; floating numbers: in their own
arithmetic (float32 for the halves). No images, no kernels; called by ``neighbourhood``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# The types of exact sums, as in kernels_cu/host/structure.hpp, and the largest numbers of which a
# sum of two stays within them.
_EXACT: dict[str, tuple[type, int]] = {
    "int8": (np.int16, 2**14 - 1),
    "uint8": (np.int16, 2**14 - 1),
    "int16": (np.int32, 2**30 - 1),
    "uint16": (np.int32, 2**30 - 1),
    "int32": (np.int64, 2**62 - 1),
    "uint32": (np.int64, 2**62 - 1),
}


@dataclass(frozen=True)
class Sums:
    """What is added, tap by tap: `values`, beyond the border to `outside` (0-d).

    `first` is the first value before it was rounded, or None where it was not; SciPy rounds all
    others. 64-bit integers have no wider type: their values are int64 and sums saturate.
    """

    values: np.ndarray
    outside: np.ndarray
    first: float | None = None
    in_double: bool = False


def never_least(dtype: np.dtype) -> int:
    """A constant for integers of up to 32 bits that is above any sum of an element and a value."""
    return _EXACT[dtype.name][1]


def sums_of(dtype: np.dtype, values: np.ndarray, cval: Any, minimum: bool) -> Sums:
    """The sums of a dtype's elements with values (flat, integers or float64) and the constant."""
    if cval != cval:  # NaN is never selected
        cval = np.inf if minimum else -np.inf
    if dtype.kind in "iu":
        return _of_integers(dtype, values, cval)
    kind = np.float64 if dtype == np.float64 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        rounded, outside = values.astype(kind), np.array(cval, kind)
    first = None if rounded[0] == values[0] or values[0] != values[0] else float(values[0])
    return Sums(rounded, outside, first)


def _of_integers(dtype: np.dtype, values: np.ndarray, cval: Any) -> Sums:
    first = None
    if values.dtype.kind == "f":
        whole = np.trunc(values)
        if values[0] != whole[0]:
            first = float(values[0])
    else:
        whole = values
    largest = (
        max(abs(int(whole.max())), abs(int(whole.min()))) if np.isfinite(whole).all() else None
    )
    inside = np.isfinite(cval) and int(cval) == cval
    if largest is not None and inside:
        cval = int(cval)
        if dtype.name in _EXACT:
            kind, limit = _EXACT[dtype.name]
            if max(largest, abs(cval)) <= limit:
                return Sums(whole.astype(kind), np.array(cval, kind), first)
        elif (
            largest < 2**63 and np.iinfo(dtype).min <= cval <= np.iinfo(dtype).max and first is None
        ):
            return Sums(whole.astype(np.int64), np.array(cval, dtype))
    exact = whole.astype(np.float64)
    exact[0] = values[0]
    return Sums(exact, np.array(cval, np.float64), in_double=True)
