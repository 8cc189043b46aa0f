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


def in_memory(shape: tuple[int, ...], strides: Strides) -> tuple[int, ...]:
    """The shape without repetitions: an axis along which an array was broadcast has one element.

    Examples
    --------
    >>> in_memory((10, 3, 4), (0, 4, 1))
    (1, 3, 4)
    """
    return tuple(size if stride else 1 for size, stride in zip(shape, strides, strict=True))


def strides_in_order(shape: tuple[int, ...], strides: Strides) -> Strides:
    """The strides of the array's copy in C order, in which broadcast axes stay broadcast.

    Examples
    --------
    >>> strides_in_order((10, 3, 4), (0, 1, 3))
    (0, 4, 1)
    """
    packed = contiguous_strides(in_memory(shape, strides))
    return tuple(step if stride else 0 for step, stride in zip(packed, strides, strict=True))


def in_one_order(shape: tuple[int, ...], strides: Strides) -> bool:
    """Whether an array of these strides is C-contiguous; those of axes of one element do not count.

    Examples
    --------
    >>> in_one_order((1, 3, 4), (0, 4, 1)), in_one_order((2, 3), (1, 2))
    (True, False)
    """
    pairs = zip(shape, strides, contiguous_strides(shape), strict=True)
    return all(size == 1 or own == step for size, own, step in pairs)


def element_strides(array: Any) -> Strides:
    """The strides of an array of any library that counts them in bytes."""
    return tuple(stride // array.itemsize for stride in array.strides)


def in_elements(byte_strides: Strides, storage: str) -> Strides:
    """Strides in bytes of a storage dtype as strides in elements."""
    itemsize = source.itemsize(storage)
    return tuple(stride // itemsize for stride in byte_strides)


def in_bytes(strides: Strides, storage: str) -> Strides:
    """Strides in elements of a storage dtype as strides in bytes.

    Examples
    --------
    >>> in_bytes((12, 4, 1), "float16"), in_elements((24, 8, 2), "float16")
    ((24, 8, 2), (12, 4, 1))
    """
    itemsize = source.itemsize(storage)
    return tuple(stride * itemsize for stride in strides)
