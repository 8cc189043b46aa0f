"""The structs that kernels of this package take, field by field: twins of those in ``kernels_cu``.

The host's functions take them by ctypes, CUDA kernels as NumPy scalars of the same layout. Sizes
and strides are in elements.
"""

from __future__ import annotations

import ctypes
import math

from semiconv_cupy.structs import MAX_RANK, Axes, Struct

# ---- kernels_cu/host -----------------------------------------------------------------------------

Pair = ctypes.c_int64 * 2
Tables = ctypes.c_void_p * MAX_RANK
TablePair = ctypes.c_void_p * 2


class Box(Struct):
    """A window along one or two axes, and what lies beyond their borders."""

    file = "host/structs.hpp"
    _fields_ = (
        ("planes", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("window", Pair),
        ("before", Pair),
        ("beyond", TablePair),
        ("unit", ctypes.c_int64),
    )


class Mapped(Struct):
    """A window of any axes, and what lies beyond their borders."""

    file = "host/structs.hpp"
    _fields_ = (
        ("rank", ctypes.c_int64),
        ("size", Axes),
        ("window", Axes),
        ("before", Axes),
        ("stride", Axes),
        ("beyond", Tables),
        ("unit", ctypes.c_int64),
    )


class Sizes(Struct):
    """The arrays of a reconstruction, and how far its steps reach."""

    file = "host/structs.hpp"
    _fields_ = (("rank", ctypes.c_int64), ("size", Axes), ("reach", Axes))


class Lines(Struct):
    """Lines along one axis, which lie side by side."""

    file = "host/structs.hpp"
    _fields_ = tuple((name, ctypes.c_int64) for name in ("outer", "size", "inner"))

    @classmethod
    def along(cls, shape: tuple[int, ...], axis: int) -> Lines:
        """The lines of a contiguous array along one of its axes."""
        return cls(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


# ---- kernels_cu/cuda -----------------------------------------------------------------------------

MOST_LEVELS = 16  # most_levels of kernels_cu/cuda/footprint.cu
_Pair32 = ctypes.c_int32 * 2
_Triple = ctypes.c_int64 * 3
_Triple32 = ctypes.c_int32 * 3


class Neighbourhood(Struct):
    """A reduction of a list of taps."""

    file = "cuda/neighbourhood.cu"
    _fields_ = (
        ("taps", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("size", Axes),
        ("stride", Axes),
        ("window", Axes),
        ("before", Axes),
        ("table", Axes),
    )


class Bordered(Struct):
    """The copy of an array with its borders."""

    file = "cuda/border.cu"
    _fields_ = (
        ("size", Axes),
        ("stride", Axes),
        ("window", Axes),
        ("before", Axes),
        ("unit", ctypes.c_int64),
        ("pitch", ctypes.c_int64),
        ("table", Axes),
        ("rows", ctypes.c_int64),
        ("parts", ctypes.c_int64),
    )


class Weighted(Struct):
    """Weighted sums from tiles."""

    file = "cuda/weighted.cu"
    _fields_ = (
        ("batch", ctypes.c_int64),
        ("size", _Triple),
        ("window", _Triple32),
        ("before", _Triple32),
        ("unit", ctypes.c_int32),
        ("tile", _Pair32),
        ("taps", ctypes.c_int32),
    )


class Spread(Struct):
    """A part of a reconstruction."""

    file = "cuda/spread.cuh"
    _fields_ = (
        ("size", Axes),
        ("planar", ctypes.c_int64),
        ("across", ctypes.c_int64),
        ("tiles_y", ctypes.c_int64),
        ("tiles_x", ctypes.c_int64),
    )


class Flat(Struct):
    """An extremum over windows along one or two axes."""

    file = "cuda/flat.cu"
    _fields_ = (
        ("planes", ctypes.c_int64),
        ("size", Pair),
        ("window", _Pair32),
        ("before", _Pair32),
        ("unit", ctypes.c_int32),
        ("tile", _Pair32),
        ("aligned", ctypes.c_int32),
        ("rows_pitch", ctypes.c_int32),
        ("stacks_pitch", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("rows_folds", ctypes.c_int32),
        ("stacks_folds", ctypes.c_int32),
    )


class Footprint(Struct):
    """An extremum over a footprint's runs."""

    file = "cuda/footprint.cu"
    _fields_ = (
        ("batch", ctypes.c_int64),
        ("size", _Triple),
        ("window", _Triple32),
        ("before", _Triple32),
        ("unit", ctypes.c_int32),
        ("tile", _Triple32),
        ("pitch", ctypes.c_int32),
        ("aligned", ctypes.c_int32),
        ("levels", ctypes.c_int32),
        ("first", ctypes.c_int32 * (MOST_LEVELS + 1)),
    )


class LinePass(Struct):
    """Envelopes of parabolas over lines."""

    file = "cuda/parabolas.cu"
    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("lines", "size", "exact", "groups", "repeat")
    )


class LinePullback(Struct):
    """The transpose of passes over lines."""

    file = "cuda/parabolas_backward.cu"
    _fields_ = tuple((name, ctypes.c_int64) for name in ("lines", "size", "inner"))


class Front(Struct):
    """One front of a scan."""

    file = "cuda/chamfer.cu"
    _fields_ = (
        ("size", Axes),
        ("rows", ctypes.c_int64),
        ("steps", ctypes.c_int64),
        ("number", ctypes.c_int64),
        ("sign", ctypes.c_int32),
    )


NEIGHBOURHOOD = Neighbourhood.dtype()
BORDERED = Bordered.dtype()
SPREAD = Spread.dtype()
FLAT = Flat.dtype()
FOOTPRINT = Footprint.dtype()
WEIGHTED = Weighted.dtype()
LINE_PASS = LinePass.dtype()
LINE_PULLBACK = LinePullback.dtype()
FRONT = Front.dtype()
