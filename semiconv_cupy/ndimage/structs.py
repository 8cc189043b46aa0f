"""The structs that kernels of this package take, field by field: twins of those in ``kernels_cu``.

The host's functions take them by ctypes, CUDA kernels as NumPy scalars of the same layout. Sizes
and strides are in elements.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

from semiconv_cupy.structs import MAX_RANK, Axes, Struct


def each(field_type: Any, *names: str) -> tuple[tuple[str, Any], ...]:
    """Fields of one type."""
    return tuple((name, field_type) for name in names)


# ---- kernels_cu/host -----------------------------------------------------------------------------

Pair = ctypes.c_int64 * 2
Tables = ctypes.c_void_p * MAX_RANK
TablePair = ctypes.c_void_p * 2


class Box(Struct):
    """A window along one or two axes, and what lies beyond their borders."""

    file = "host/structs.hpp"
    _fields_ = (
        *each(ctypes.c_int64, "planes", "rows", "columns"),
        *each(Pair, "window", "before"),
        ("beyond", TablePair),
        ("unit", ctypes.c_int64),
    )


class Mapped(Struct):
    """A window of any axes, and what lies beyond their borders."""

    file = "host/structs.hpp"
    _fields_ = (
        ("rank", ctypes.c_int64),
        *each(Axes, "size", "window", "before", "stride"),
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
    _fields_ = each(ctypes.c_int64, "outer", "size", "inner")

    @classmethod
    def along(cls, shape: tuple[int, ...], axis: int) -> Lines:
        """The lines of a contiguous array along one of its axes."""
        return cls(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


class LineOutputs(Struct):
    """Which elements of each line are computed, and where they go."""

    file = "host/structs.hpp"
    _fields_ = each(ctypes.c_int64, "begin", "end", "row", "pitch")


# ---- kernels_cu/cuda -----------------------------------------------------------------------------

MOST_LEVELS = 16  # most_levels of kernels_cu/cuda/footprint.cu
_Pair32 = ctypes.c_int32 * 2
_Triple = ctypes.c_int64 * 3
_Triple32 = ctypes.c_int32 * 3


class Neighbourhood(Struct):
    """A reduction of a list of taps."""

    file = "cuda/neighbourhood.cu"
    _fields_ = (
        *each(ctypes.c_int64, "taps", "outputs"),
        *each(Axes, "size", "stride", "window", "before", "table"),
    )


class Bordered(Struct):
    """The copy of an array with its borders."""

    file = "cuda/border.cu"
    _fields_ = (
        *each(Axes, "size", "stride", "window", "before"),
        *each(ctypes.c_int64, "unit", "pitch"),
        ("table", Axes),
        *each(ctypes.c_int64, "rows", "parts"),
    )


class Weighted(Struct):
    """Weighted sums from tiles."""

    file = "cuda/weighted_tile.cuh"
    _fields_ = (
        ("batch", ctypes.c_int64),
        ("size", _Triple),
        *each(_Triple32, "window", "before"),
        ("unit", ctypes.c_int32),
        ("tile", _Pair32),
        ("pitch", ctypes.c_int32),
        ("lanes", ctypes.c_int32),
        ("rotated", ctypes.c_int32),
    )


class SmallWeighted(Struct):
    """Weighted sums over small windows, by strips."""

    file = "cuda/small_weighted.cu"
    _fields_ = (
        *each(ctypes.c_int32, "depth", "height", "width", "positions", "planes"),
        ("before", _Triple32),
        *each(ctypes.c_int32, "unit", "strips", "of_column", "narrow"),
    )


class Spread(Struct):
    """A part of a reconstruction."""

    file = "cuda/spread.cuh"
    _fields_ = (
        ("size", Axes),
        *each(ctypes.c_int64, "planar", "across", "tiles_y", "tiles_x"),
    )


class Flat(Struct):
    """An extremum over windows along one or two axes."""

    file = "cuda/flat.cu"
    _fields_ = (
        ("planes", ctypes.c_int64),
        ("size", Pair),
        *each(_Pair32, "window", "before"),
        ("unit", ctypes.c_int32),
        ("tile", _Pair32),
        *each(
            ctypes.c_int32,
            "aligned",
            "rows_pitch",
            "stacks_pitch",
            "rows",
            "rows_folds",
            "stacks_folds",
        ),
    )


class Strips(Struct):
    """An extremum over small windows, by strips."""

    file = "cuda/small_box.cu"
    _fields_ = (
        ("width", ctypes.c_int64),
        *each(ctypes.c_int32, "height", "before", "strips", "of_column"),
    )


class Footprint(Struct):
    """An extremum over a footprint's runs."""

    file = "cuda/footprint.cu"
    _fields_ = (
        ("batch", ctypes.c_int64),
        ("size", _Triple),
        *each(_Triple32, "window", "before"),
        ("unit", ctypes.c_int32),
        ("tile", _Triple32),
        *each(ctypes.c_int32, "pitch", "aligned", "levels"),
        ("first", ctypes.c_int32 * (MOST_LEVELS + 1)),
    )


class LinePass(Struct):
    """Envelopes of parabolas over lines."""

    file = "cuda/parabolas.cu"
    _fields_ = each(
        ctypes.c_int64, "lines", "size", "exact", "groups", "repeat", "begin", "end", "inner",
        "row", "row_step", "pitch", "results_pitch", "followers",
    )  # fmt: skip


class SinglePass(Struct):
    """Envelopes in float32 over lines along any axis."""

    file = "cuda/single_parabolas.cu"
    _fields_ = (
        *each(ctypes.c_int64, "lines", "size", "inner", "followers"),
        ("weight", ctypes.c_float),
    )


class LinePullback(Struct):
    """The transpose of passes over lines."""

    file = "cuda/parabolas_backward.cu"
    _fields_ = each(ctypes.c_int64, "lines", "size", "inner")


class Front(Struct):
    """One front of a scan."""

    file = "cuda/chamfer.cu"
    _fields_ = (
        ("size", Axes),
        *each(ctypes.c_int64, "rows", "steps", "number"),
        ("sign", ctypes.c_int32),
    )
