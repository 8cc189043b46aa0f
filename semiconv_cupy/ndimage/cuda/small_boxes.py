"""Extrema over small boxes of aligned rows on a GPU, without shared memory: ``small_box.cu``.

A pass of ``boxes`` that this serves is launched here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.ndimage.cuda.launcher import Launcher
from semiconv_cupy.ndimage.cuda.limits import Limits
from semiconv_cupy.ndimage.structs import Strips

Array = Any
_THREADS, _WORDS = 128, 4  # of a block; words of a strip, as in kernels_cu/cuda/small_box.cu


class SmallBox(NamedTuple):
    """The window that a kernel is compiled for: rows, columns, and the columns before an output."""

    down: int
    across: int
    before: int


class StripsLaunch(NamedTuple):
    """How a pass is cut into strips: the kernel's window, its struct, the grid and the block."""

    window: SmallBox
    struct: Any
    grid: tuple[int, int, int]
    block: tuple[int, int]


def small_box_kernel(storage: str, minimum: bool, window: SmallBox) -> source.KernelSource:
    """The extremum over a window of one or two axes."""
    down, across, before = window
    extremum = "minimum" if minimum else "maximum"
    name = f"semiconv_small_box_{extremum}_{storage}_{down}x{across}_from_{before}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_DOWN": str(down),
        "SEMICONV_ACROSS": str(across),
        "SEMICONV_BEFORE": str(before),
    }
    return source.KernelSource(name, source.assemble("cuda/small_box.cu", macros), OPTIONS)


def strips(flat: Any, itemsize: int, limits: Limits) -> StripsLaunch | None:
    """The launch of a pass that is described for ``flat.cu``; None where strips do not serve it.

    Long strips load few rows twice; short ones are many, which keeps a large GPU busy.
    """
    (down, across), (above, before) = flat["window"].tolist(), flat["before"].tolist()
    (height, width), planes = flat["size"].tolist(), int(flat["planes"])
    columns = _WORDS * max(4 // itemsize, 1)
    if max(down, across) > limits.small_box or flat["unit"] > 1 or width % columns:
        return None
    across_row = width // columns
    rows = planes * height * across_row // limits.strips
    rows = min(max(rows, limits.strip_rows[0]), limits.strip_rows[1])
    side = next((n for n in (8, 16, 32, 64) if n >= across_row), _THREADS)
    block = side, _THREADS // side
    struct = np.zeros((), Strips.dtype())
    struct["planes"], struct["size"] = planes, (height, width)
    struct["before"], struct["rows"] = above, rows
    grid = (
        -(-across_row // side),
        min(-(-height // (rows * block[1])), limits.blocks_y),
        min(planes, limits.blocks_y),
    )
    return StripsLaunch(SmallBox(down, across, before), struct[()], grid, block)


def launched(
    launcher: Launcher,
    flat: Any,
    array: Array,
    out: Array,
    table: Array,
    outside: Any,
    minimum: bool,
) -> bool:
    """Launch a pass that is described for ``flat.cu``; whether strips serve it."""
    found = strips(flat, array.dtype.itemsize, launcher.limits)
    if found is None or any(launcher.device.address(each) % 16 for each in (array, out)):
        return False
    kernel = launcher.kernel(small_box_kernel, array.dtype.name, minimum, found.window)
    kernel(found.grid, found.block, (found.struct, array, out, table, outside), 0)
    return True
