"""Sizes and counts that users give: one integer, or one for each axis. Called by the modules."""

from __future__ import annotations

import math
import numbers
from typing import Any

KernelSize = int | tuple[int, ...]
MOST_AXES = 62  # spatial axes: a torch tensor has at most 64 axes, two of them for channels


def per_axis(
    name: str, value: int | tuple[int, ...], ndim: int | None, at_least: int = 1
) -> tuple[int, ...]:
    """`value` as one integer per spatial axis; an int needs `ndim`, a tuple brings its own."""
    if isinstance(value, (tuple, list)):
        if not value or (ndim is not None and len(value) != ndim):
            raise ValueError(f"{name} must have {ndim or 'one or more'} entries, got {value!r}")
        return tuple(whole_number(name, entry, at_least) for entry in value)
    number = whole_number(name, value, at_least)
    if ndim is None:
        raise ValueError(
            f"{name}={value!r} does not say the number of dimensions: "
            "give one entry per axis, or ndim"
        )
    return (number,) * whole_number("ndim", ndim, below=MOST_AXES + 1)


def fixed_dimensions(cls: type, ndim: int | None, fixed: int | None) -> int | None:
    """The number of spatial axes of a class that has `fixed`, or else of the argument `ndim`."""
    if fixed is not None and not (ndim is None or whole_number("ndim", ndim) == fixed):
        raise ValueError(f"{cls.__name__} has {fixed} dimensions, got ndim={ndim!r}")
    return ndim if fixed is None else fixed


def whole_number(name: str, value: Any, at_least: int = 1, below: int = 2**31) -> int:
    """The value as Python's own integer, in [at_least, below); the error names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value!r}")
    if int(value) >= below:
        raise ValueError(f"{name} must be below {below}, got {value!r}")
    return int(value)


def positive_number(name: str, value: Any) -> float:
    """The value as a finite float above 0; the error names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return float(value)
