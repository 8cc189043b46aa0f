"""Weighted sums over small windows on a GPU, without shared memory: ``small_weighted.cu``.

The plan knows no arrays; ``sums`` launches it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.ndimage.cuda.limits import Limits
from semiconv_cupy.ndimage.cuda.strips import cut
from semiconv_cupy.ndimage.form import FilterForm
from semiconv_cupy.ndimage.structs import SmallWeighted
from semiconv_cupy.ndimage.window import NEGLIGIBLE

Triple = tuple[int, int, int]
# Outputs of a thread at most: an element is converted once for all of them. Of long rows, more of
# them have too few registers.
_ROWS, _ROWS_OF_FEW_COLUMNS = 4, 8
# Below this width every thread looks up what lies beyond the border. With longer rows most warps
# are inside and do not; those at the border take both ways.
_NARROW = 160


class Volumes(NamedTuple):
    """Windows along the last three axes, which every launch of sums computes.

    Neighbouring positions of a row are `unit` elements apart; `size` counts elements.
    """

    number: int
    size: Triple
    window: Triple
    before: Triple
    unit: int

    @classmethod
    def of(cls, form: FilterForm) -> Volumes | None:
        """Those of a form; None where more axes have windows."""
        axes = max(len(form.shape) - 3, 0)
        if math.prod(form.window[:axes]) > 1:
            return None

        def last_three(values: tuple[int, ...], missing: int) -> Triple:
            first, second, third = ((missing,) * 3 + values[axes:])[-3:]
            return first, second, third

        return cls(
            math.prod(form.shape[:axes]),
            last_three(form.shape, 1),
            last_three(form.window, 1),
            last_three(form.before, 0),
            form.unit,
        )


class Sum(NamedTuple):
    """How the taps of a window are added.

    Attributes
    ----------
    symmetry : {0, 1, -1}
        Of `WeightedTaps`.
    rotated : bool
        Whether the last tap is added first.
    holed : bool
        Whether weights may be negligible, and are left out then.
    constant : bool
        Whether the constant lies beyond a border.
    """

    symmetry: int = 0
    rotated: bool = False
    holed: bool = False
    constant: bool = False

    @property
    def along_an_axis(self) -> bool:
        """Whether the taps lie along one axis, and are not added in their order."""
        return self.symmetry != 0 or self.rotated


class SmallWindow(NamedTuple):
    """Rows and columns of taps in a plane of a window, and outputs of a thread below each other."""

    down: int
    across: int
    rows: int


class SmallSumLaunch(NamedTuple):
    """How sums are cut into strips: the kernel's window, its struct, the grid and the block."""

    window: SmallWindow
    struct: Any
    grid: Triple
    block: tuple[int, int]


def small_sum_kernel(storage: str, out: str, window: SmallWindow, kind: Sum) -> source.KernelSource:
    """The weighted sums of small windows."""
    words = {1: "symmetric", -1: "antisymmetric"}
    which = [words.get(kind.symmetry), *(name for name in kind._fields[1:] if getattr(kind, name))]
    kinds = "_".join(filter(None, ["small_weighted", *which]))
    name = f"semiconv_{kinds}_{storage}_{out}_{window.down}x{window.across}_by_{window.rows}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_OUT": source.storage_macros(out)["SEMICONV_STORAGE"],
        "SEMICONV_DOWN": str(window.down),
        "SEMICONV_ACROSS": str(window.across),
        "SEMICONV_ROWS": str(window.rows),
        "SEMICONV_SYMMETRY": str(kind.symmetry),
        "SEMICONV_ROTATED": str(kind.rotated).lower(),
        "SEMICONV_CONSTANT": str(kind.constant).lower(),
        "SEMICONV_NEGLIGIBLE": str(NEGLIGIBLE if kind.holed else -1.0),
    }
    # Without fused multiplications sums are the host's bits.
    options = (*OPTIONS, "-fmad=false")
    return source.KernelSource(name, source.assemble("cuda/small_weighted.cu", macros), options)


def small_sum_launch(volumes: Volumes, limits: Limits) -> SmallSumLaunch | None:
    """The launch for all taps of a window; None where strips do not serve it."""
    (depth, height, width), (planes, down, across) = volumes.size, volumes.window
    longest, longest_across, longest_down = limits.small_sum
    if down == 1:
        longest = max(longest, longest_across)
    if across == 1:
        longest = max(longest, longest_down)
    if max(down, across) > longest:
        return None
    if width + across * volumes.unit >= 2**31 or max(depth + planes, volumes.number) >= 2**31:
        return None
    few = across == 1 or max(down, across) <= 3
    most = _ROWS_OF_FEW_COLUMNS if few else _ROWS
    strips = cut(volumes.number * depth, height, width, most, limits)
    if strips is None:
        return None
    struct = np.zeros((), SmallWeighted.dtype())
    struct["depth"], struct["height"], struct["width"] = volumes.size
    struct["planes"], struct["before"] = planes, volumes.before
    struct["unit"], struct["positions"] = volumes.unit, width // volumes.unit
    struct["strips"], struct["of_column"] = strips.strips, strips.of_column
    struct["narrow"] = width < _NARROW
    window = SmallWindow(down, across, strips.rows)
    return SmallSumLaunch(window, struct[()], strips.grid, strips.block)
