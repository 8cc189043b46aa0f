"""Tiles of the last two axes: what the plans of the three tiled kernels have in common.

Array-free: shapes in, numbers out. The kernels' side is ``kernels_cu/cuda/tile.cuh``.

    the last two axes of an array      a tile: threads_y x threads_x threads
    +------+------+----+                         columns
    | tile | tile |    |               rows  +----+----+----+
    +------+------+----+  <- partly          | t0 | t1 | t2 |   each thread holds
    | tile | tile |    |     outside         +----+----+----+   rows x columns elements
    +------+------+----+                     | t3 | t4 | t5 |   of some channels
                                             +----+----+----+
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from semiconv_cupy.backends.cuda.limits import CHUNK
from semiconv_cupy.geometry import Geometry


class Partition(NamedTuple):
    """How blocks share the tiles of a gradient."""

    owners: int  # sets of gradient elements that a block computes for itself alone
    parts: int  # blocks of each owner
    jobs: int  # tiles that these blocks share


@dataclass(frozen=True)
class Tile:
    """The shape of a tiled kernel's work: what a thread holds, and the threads of a tile."""

    channels: int
    rows: int
    columns: int
    threads_y: int
    threads_x: int
    resident_blocks: int  # blocks of a multiprocessor that the registers must suffice for

    def macros(self, geometry: Geometry) -> dict[str, str]:
        """The macros of kernels_cu/cuda/tile.cuh."""
        return {
            "SEMICONV_MIRRORED": str(int(geometry.mirrored)),
            "SEMICONV_CHANNELS": str(self.channels),
            "SEMICONV_ROWS": str(self.rows),
            "SEMICONV_COLUMNS": str(self.columns),
            "SEMICONV_THREADS_Y": str(self.threads_y),
            "SEMICONV_THREADS_X": str(self.threads_x),
            "SEMICONV_BLOCKS": str(self.resident_blocks),
        }

    @property
    def suffix(self) -> str:
        """What the name of a kernel says of its tile."""
        return ""

    @property
    def size(self) -> tuple[int, int]:
        """A tile's elements along the last two axes."""
        return self.rows * self.threads_y, self.columns * self.threads_x

    def cover(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Tiles along the last two axes of that size."""
        height, width = planar(size, 1)
        return -(-height // self.size[0]), -(-width // self.size[1])

    def is_filled(self, size: tuple[int, ...], least: float) -> bool:
        """Whether at least that part of the elements of all tiles exists."""
        return math.prod(size[-2:]) >= least * math.prod(self.cover(size)) * math.prod(self.size)


def planar(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    """The numbers of the last two axes; a signal has one row."""
    return (values[-2] if len(values) > 1 else missing, values[-1])


def patch(size: tuple[int, int], slab: int, geometry: Geometry) -> tuple[int, int]:
    """Rows and columns of the image that a tile of that size sees, columns in whole chunks.

    `slab` is how many rows of taps look at it.
    """
    taps = (slab, geometry.kernel_size[-1])
    stride, dilation = (planar(values, 1) for values in (geometry.stride, geometry.dilation))
    height, width = (
        (t - 1) * s + (k - 1) * d + 1
        for t, s, k, d in zip(size, stride, taps, dilation, strict=True)
    )
    return height, -(-(width + shift(geometry)) // CHUNK) * CHUNK


def shift(geometry: Geometry) -> int:
    """Columns between a multiple of `CHUNK` and the first one that a tile's windows see."""
    return -geometry.pad_begin[-1] % CHUNK


def reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the first to the last in memory of an array of these strides in elements."""
    return sum((size - 1) * abs(stride) for size, stride in zip(shape, strides, strict=True))


def furthest_position(geometry: Geometry) -> int:
    """The largest image position, inside or not, that a window computes."""
    return max(
        pad + size * step + k * d
        for pad, size, step, k, d in zip(
            geometry.pad_begin,
            geometry.out_size,
            geometry.stride,
            geometry.kernel_size,
            geometry.dilation,
            strict=True,
        )
    )
