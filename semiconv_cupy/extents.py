"""Checks of the arrays that `structuring` and `footprints` make: axes, sizes, numbers.

Errors name the argument. An array that no memory could hold is refused before it is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import require_unmasked

# Elements of a structuring function: 2 GiB in float64, and more taps than any filter can compute.
MOST_ELEMENTS = 2**28
_MOST_AXES = 32  # the most that NumPy before 2.0 allows


def checked_rank(ndim: int) -> int:
    if isinstance(ndim, bool) or not isinstance(ndim, int | np.integer):
        raise TypeError(f"ndim, the number of axes, must be an int, got {ndim!r}")
    if not 1 <= ndim <= _MOST_AXES:
        limit = "at least 1" if ndim < 1 else f"at most {_MOST_AXES}"
        raise ValueError(f"ndim, the number of axes, must be {limit}, got {ndim}")
    return int(ndim)


def checked_shape(size: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """`size` as one positive int for each of `rank` axes."""
    sizes = real_numbers("size", size)
    if sizes.dtype.kind not in "iu":
        raise TypeError(f"size must be an int or a sequence of ints, got {size!r}")
    if sizes.shape not in ((), (rank,)):
        raise ValueError(f"size must be one int or {rank} of them, got {size!r}")
    if np.any(sizes < 1):
        raise ValueError(f"size must be at least 1 along each axis, got {size!r}")
    shape = tuple(int(length) for length in np.broadcast_to(sizes, (rank,)))
    require_possible(shape, f"size {size!r}")
    return shape


def real_number(name: str, value: Any) -> Any:
    """The real number `value` as a Python number; TypeError for anything else."""
    require_unmasked(name, value)
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    return value


def real_numbers(name: str, value: Any) -> np.ndarray:
    """An array of bools or real numbers; errors name the argument."""
    require_unmasked(name, value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of numbers, got {value!r}: {error}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers of at most 64 bits, got {value!r}")
    return array


def require_possible(shape: Sequence[int], cause: str) -> None:
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"{cause} makes an array of more than {MOST_ELEMENTS} elements")
