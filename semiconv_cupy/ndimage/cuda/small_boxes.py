"""Extrema over small boxes of aligned rows on a GPU, without shared memory: ``small_box.cu``.

The plan knows no arrays; ``boxes`` launches it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.ndimage.cuda.limits import Limits
from semiconv_cupy.ndimage.cuda.strips import cut
from semiconv_cupy.ndimage.structs import Strips

_WORD, _MOST_BYTES = 4, 16  # of a row of a strip: what one load moves
# Rows of a strip, of windows up to 3 x 3 and of longer ones. Of bytes, older GPUs have no registers
# for eight (on an H200, 9 x 9 on 4096^2 takes 22 us by four rows of bytes, 18 by eight).
_MOST_ROWS, _MOST_OF_LONG = 4, 8


class Planes(NamedTuple):
    """A box along two axes, which every launch computes: down (rows) and across (columns).

    Neighbouring positions of a row are `unit` elements apart; `size` counts elements.
    """

    number: int
    size: tuple[int, int]
    window: tuple[int, int]
    before: tuple[int, int]
    unit: int = 1


class SmallBox(NamedTuple):
    """The window that a kernel is compiled for, and its strips.

    Attributes
    ----------
    down, across : int
        Rows and columns of the window.
    before : int
        Columns of it before an output.
    rows, words : int
        Rows of a strip, and its words of at least four bytes in each.
    """

    down: int
    across: int
    before: int
    rows: int
    words: int


class StripsLaunch(NamedTuple):
    """How a pass is cut into strips: the kernel's window, its struct, the grid and the block."""

    window: SmallBox
    struct: Any
    grid: tuple[int, int, int]
    block: tuple[int, int]


def small_box_kernel(storage: str, minimum: bool, window: SmallBox) -> source.KernelSource:
    """The extremum over a window of one or two axes."""
    down, across, before, rows, words = window
    extremum = "minimum" if minimum else "maximum"
    name = (
        f"semiconv_small_box_{extremum}_{storage}_{down}x{across}_from_{before}_by_{rows}x{words}"
    )
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_DOWN": str(down),
        "SEMICONV_ACROSS": str(across),
        "SEMICONV_BEFORE": str(before),
        "SEMICONV_ROWS": str(rows),
        "SEMICONV_WORDS": str(words),
    }
    return source.KernelSource(name, source.assemble("cuda/small_box.cu", macros), OPTIONS)


def strips(planes: Planes, itemsize: int, limits: Limits) -> StripsLaunch | None:
    """The launch of a box; None where strips do not serve it."""
    (down, across), (above, before) = planes.window, planes.before
    (height, width), word = planes.size, max(itemsize, _WORD)
    longest = limits.small_box[itemsize.bit_length() - 1]
    if planes.unit > 1 or width * itemsize % word or max(down, across) > longest:
        return None
    words = _MOST_BYTES // word
    while width * itemsize % (words * word):  # rows begin where a strip may be moved at once
        words //= 2
    across_row = width * itemsize // (words * word)
    most = _MOST_OF_LONG if max(down, across) > 3 and itemsize > 1 else _MOST_ROWS
    found = cut(planes.number, height, across_row, most, limits)
    if found is None:
        return None
    struct = np.zeros((), Strips.dtype())
    struct["width"], struct["height"], struct["before"] = width, height, above
    struct["strips"], struct["of_column"] = found.strips, found.of_column
    window = SmallBox(down, across, before, found.rows, words)
    return StripsLaunch(window, struct[()], found.grid, found.block)


def alignment(found: StripsLaunch, itemsize: int) -> int:
    """What addresses must be multiples of: words of a strip's row are moved at once."""
    return found.window.words * max(itemsize, _WORD)
