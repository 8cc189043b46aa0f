"""The structs that kernels of this package take, field by field: twins of those in ``kernels_cu``.

ctypes for the host's functions, NumPy's dtypes for CUDA kernels. Sizes and strides are in elements.
"""

from __future__ import annotations

import ctypes

import numpy as np

from semiconv_cupy.backends.host.calls import MAX_RANK

# ---- kernels_cu/host -----------------------------------------------------------------------------

Axes = ctypes.c_int64 * MAX_RANK
Pair = ctypes.c_int64 * 2
Tables = ctypes.c_void_p * MAX_RANK
TablePair = ctypes.c_void_p * 2


class Box(ctypes.Structure):
    """``semiconv::Box`` of kernels_cu/host/flat.hpp."""

    _fields_ = (
        ("planes", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("window", Pair),
        ("before", Pair),
        ("beyond", TablePair),
    )


class Mapped(ctypes.Structure):
    """``semiconv::Mapped`` of kernels_cu/host/mapped.hpp."""

    _fields_ = (
        ("rank", ctypes.c_int64),
        ("size", Axes),
        ("window", Axes),
        ("before", Axes),
        ("beyond", Tables),
    )


class Sizes(ctypes.Structure):
    """``semiconv::Sizes`` of kernels_cu/host/reconstruct.cpp."""

    _fields_ = (("rank", ctypes.c_int64), ("size", Axes), ("reach", Axes))


# ---- kernels_cu/cuda -----------------------------------------------------------------------------

_AXES = (np.int64, MAX_RANK)
_PAIR = (np.int32, 2)
_TRIPLE = (np.int32, 3)
MOST_LEVELS = 16  # most_levels of kernels_cu/cuda/footprint.cu

# semiconv::Neighbourhood of kernels_cu/cuda/neighbourhood.cu
NEIGHBOURHOOD = np.dtype(
    [
        ("taps", np.int64), ("outputs", np.int64), ("size", *_AXES),
        ("stride", *_AXES), ("window", *_AXES), ("before", *_AXES), ("table", *_AXES),
    ],
    align=True,
)  # fmt: skip

# semiconv::Bordered of kernels_cu/cuda/border.cu
BORDERED = np.dtype(
    [
        ("size", *_AXES), ("stride", *_AXES), ("window", *_AXES), ("before", *_AXES),
        ("pitch", np.int64), ("table", *_AXES), ("rows", np.int64), ("parts", np.int64),
    ],
    align=True,
)  # fmt: skip

# semiconv::Spread of kernels_cu/cuda/spread.cu
SPREAD = np.dtype(
    [
        ("size", *_AXES), ("planar", np.int64), ("across", np.int64), ("tiles_y", np.int64),
        ("tiles_x", np.int64),
    ],
    align=True,
)  # fmt: skip

# semiconv::Flat of kernels_cu/cuda/flat.cu
FLAT = np.dtype(
    [
        ("planes", np.int64), ("size", np.int64, 2), ("window", *_PAIR), ("before", *_PAIR),
        ("tile", *_PAIR), ("aligned", np.int32), ("rows_pitch", np.int32),
        ("stacks_pitch", np.int32), ("rows", np.int32), ("rows_folds", np.int32),
        ("stacks_folds", np.int32),
    ],
    align=True,
)  # fmt: skip

# semiconv::Footprint of kernels_cu/cuda/footprint.cu
FOOTPRINT = np.dtype(
    [
        ("batch", np.int64), ("size", np.int64, 3), ("window", *_TRIPLE), ("before", *_TRIPLE),
        ("tile", *_TRIPLE), ("pitch", np.int32), ("aligned", np.int32), ("levels", np.int32),
        ("first", np.int32, MOST_LEVELS + 1),
    ],
    align=True,
)  # fmt: skip
