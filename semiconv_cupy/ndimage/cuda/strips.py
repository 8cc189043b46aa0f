"""Planes cut into strips on a GPU: a thread computes a few outputs, or words, below each other.

No arrays; the launches of ``small_boxes`` and ``small_sums`` are made of it.
"""

from __future__ import annotations

from typing import NamedTuple

from semiconv_cupy.ndimage.cuda.limits import Limits

_THREADS = 128  # of a block: as in kernels_cu/cuda/small_box.cu and small_weighted.cu
_WARP = 32
_HELD = 2**31 - 2**6  # what integers hold, less what windows and strips reach beyond planes


class Cut(NamedTuple):
    """How planes are cut.

    Attributes
    ----------
    rows : int
        Of a strip.
    strips, of_column : int
        Strips below each other: of all planes, and of one.
    grid : tuple of int
        Blocks side by side; below each other, along two axes.
    block : tuple of int
        Threads side by side and below each other.
    """

    rows: int
    strips: int
    of_column: int
    grid: tuple[int, int, int]
    block: tuple[int, int]


def cut(number: int, height: int, across: int, most: int, limits: Limits) -> Cut | None:
    """Strips of at most `most` rows of `number` planes; None where a launch has no room for them.

    `across`: strips side by side. Long strips load few rows twice; short ones are many, which keeps
    a large GPU busy.
    """
    rows, longest = limits.strip_rows
    most = min(most, longest, height, number * height * across // max(limits.strips, 1))
    while 2 * rows <= most:
        rows *= 2
    of_column = -(-height // rows)
    strips = number * of_column
    # Strips below each other in a block: what both see is loaded from memory once.
    side = max(_power_of_two(min(across, _WARP)), _THREADS // _power_of_two(strips))
    side = min(side, _power_of_two(across))
    block = side, _THREADS // side
    side_by_side, below = -(-across // side), -(-strips // block[1])
    if max(height, strips) >= _HELD or side_by_side > limits.blocks:
        return None
    grid = side_by_side, min(below, limits.blocks_y), -(-below // limits.blocks_y)
    return Cut(rows, strips, of_column, grid, block)


def _power_of_two(enough: int) -> int:
    """The least that is enough, up to the threads of a block."""
    return min(1 << (enough - 1).bit_length(), _THREADS)
