"""Memory strides of arrays: in elements, unless a name says bytes.

Called by whatever plans a launch, and by whatever hands addresses to kernels.
"""

from __future__ import annotations

import math
from typing import Any

from semiconv_cupy import source

Strides = tuple[int, ...]


def contiguous_strides(shape: tuple[int, ...]) -> Strides:
    """The strides of a C-contiguous array.

    Examples
    --------
    >>> contiguous_strides((2, 3, 4))
    (12, 4, 1)
    """
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def element_strides(array: Any) -> Strides:
    """The strides of an array of any library that counts them in bytes."""
    return tuple(stride // array.itemsize for stride in array.strides)


def byte_strides(strides: Strides, storage: str) -> Strides:
    """Strides in bytes, for elements of a storage dtype."""
    return tuple(stride * source.itemsize(storage) for stride in strides)
