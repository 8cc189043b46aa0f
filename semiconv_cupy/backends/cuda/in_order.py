"""Images whose elements lie in another order, copied into C order before they are convolved.

A copy reads and writes each element once. Read where they lie, elements that are no neighbours take
a sector of memory each, in every pass. Array-free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from semiconv_cupy import structs
from semiconv_cupy.backends.cuda.convolution import GRID_X
from semiconv_cupy.backends.cuda.kernels import compiled, in_order_source
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS
from semiconv_cupy.backends.device import Device, Kernel, Stream
from semiconv_cupy.strides import Strides, contiguous_strides, in_memory

_SIDE = 32  # of a tile: twin of `side` in cuda/in_order.cu


@dataclass(frozen=True)
class CopyInOrder:
    """The launch that copies an array of one shape and order into C order."""

    device: Device
    kernel: Kernel
    grid: tuple[int]
    struct: np.void
    numbers: int  # float64 that hold the copy

    def __call__(self, array: int, stream: Stream | None = None) -> tuple[int, object]:
        """Launch for an address; return the copy's, and what keeps it alive."""
        copy, owner = self.device.scratch(self.numbers)
        self.kernel(self.grid, (BLOCK_THREADS,), (self.struct, array, copy), 0, stream)
        return copy, owner


@lru_cache(maxsize=4096)
def copy_in_order(
    device: Device, shape: tuple[int, ...], strides: Strides, itemsize: int
) -> CopyInOrder:
    """What copies an array of this shape, strides (in elements) and bytes of an element.

    The copy's strides are those of ``strides.strides_in_order``.
    """
    shape = in_memory(shape, strides)
    axes = _as_few_axes(shape, strides)
    size, stride, _ = axes.pop()
    near = min(axes, key=lambda axis: abs(axis[1]), default=(1, 0, 0))
    others = [axis for axis in axes if axis is not near][::-1]
    blocks = -(-size // _SIDE) * -(-near[0] // _SIDE) * math.prod(axis[0] for axis in others)
    sizes, of_array, of_copy = zip(*others, strict=True) if others else ((), (), ())
    struct = structs.InOrder(
        near=near[0],
        near_stride=near[1],
        near_step=near[2],
        last=size,
        last_stride=stride,
        others=len(others),
        size=structs.Strides(*sizes),
        stride=structs.Strides(*of_array),
        step=structs.Strides(*of_copy),
        blocks=blocks,
    )
    kernel = compiled(device, in_order_source, itemsize)
    grid = (min(blocks, GRID_X),)
    return CopyInOrder(device, kernel, grid, struct.scalar(), -(-math.prod(shape) * itemsize // 8))


def _as_few_axes(shape: tuple[int, ...], strides: Strides) -> list[tuple[int, int, int]]:
    """Size, stride and stride of the copy of each axis; neighbours in both are one."""
    axes: list[tuple[int, int, int]] = []
    for size, stride, step in zip(shape, strides, contiguous_strides(shape), strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == size * stride:
            axes[-1] = axes[-1][0] * size, stride, step
        else:
            axes.append((size, stride, step))
    return axes or [(1, 0, 1)]
