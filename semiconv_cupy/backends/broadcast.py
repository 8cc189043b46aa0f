"""Convolutions and matrix products of a BroadcastSemifield on NumPy and CuPy arrays.

Whole windows, and rows by columns, are one array each. The bridge has the same for tensors, where
the framework differentiates it.
"""

from __future__ import annotations

import math
from typing import Any

from semiconv_cupy.geometry import Geometry
from semiconv_cupy.operands import Operands

Array = Any
_ELEMENTS = 1 << 22  # products held at a time


def no_integers(semifield: Any, dtype: Any) -> TypeError:
    """The error for integers and bool, in which whole-array reductions wrap or change the dtype."""
    return TypeError(
        f"{semifield!r} works on floating arrays only, got {dtype}; convert both arguments to a "
        "floating dtype, or use a SelectSemifield, which is exact on integers"
    )


def broadcast_conv(xp: Any, img: Array, krn: Array, semifield: Any, geometry: Geometry) -> Array:
    """Multiply windows by kernels, reduce the window axes; a few outputs' rows at a time."""
    if img.dtype.kind in "iub":
        raise no_integers(semifield, img.dtype)
    rank, size = geometry.rank, geometry.kernel_size
    pads = list(zip(geometry.pad_begin, geometry.pad_end, strict=True))
    padded = xp.pad(img, [(0, 0), (0, 0), *pads], constant_values=semifield.zero)
    padded = padded.reshape(
        geometry.batch, geometry.groups, geometry.in_channels, *padded.shape[2:]
    )
    spatial = padded.strides[3:]
    shape = (*padded.shape[:3], *geometry.out_size, *size)
    strides = (
        *padded.strides[:3],
        *(step * s for step, s in zip(geometry.stride, spatial, strict=True)),
        *(d * s for d, s in zip(geometry.dilation, spatial, strict=True)),
    )
    windows = xp.lib.stride_tricks.as_strided(padded, shape, strides)[:, :, None]
    if geometry.mirrored:
        krn = krn[(slice(None), slice(None), *(slice(None, None, -1),) * rank)]
    if geometry.shares_kernels:
        kernels = krn[None]
    else:
        kernels = krn.reshape(geometry.groups, geometry.outputs_per_group, *krn.shape[1:])
    kernels = kernels.reshape(*kernels.shape[:3], *(1,) * rank, *size)

    out = xp.empty(geometry.out_shape, img.dtype)
    per_group = geometry.outputs_per_group
    result = out.reshape(geometry.batch, geometry.groups, per_group, *geometry.out_size)
    row = geometry.taps * geometry.out_channels
    for extent in geometry.out_size[1:]:
        row *= extent
    rows = max(1, _ELEMENTS // row)
    window_axes = tuple(range(-rank, 0))
    for b in range(geometry.batch):
        for first in range(0, geometry.out_size[0], rows):
            part = slice(first, first + rows)
            terms = semifield.multiply(windows[b, :, :, :, part], kernels)
            if semifield.add_reduce_channels is None:
                value = semifield.add_reduce(
                    terms, (2, *(axis + terms.ndim for axis in window_axes))
                )
            else:
                value = semifield.add_reduce(terms, tuple(a + terms.ndim for a in window_axes))
                value = semifield.add_reduce_channels(value, 2)
            result[b, :, :, part] = value
    return out


def broadcast_matmul(xp: Any, a: Array, b: Array, semifield: Any, operands: Operands) -> Array:
    """Multiply rows by columns, reduce the axis of the terms; some matrices or rows at a time."""
    if a.dtype.kind in "iub":
        raise no_integers(semifield, a.dtype)
    a = a[None] if operands.rows is None else a
    b = b[:, None] if operands.columns is None else b
    rows, terms, columns = a.shape[-2], operands.terms, b.shape[-1]
    count = math.prod(operands.batch)
    a = xp.broadcast_to(a, (*operands.batch, rows, terms)).reshape(count, rows, terms)
    b = xp.broadcast_to(b, (*operands.batch, terms, columns)).reshape(count, terms, columns)
    out = xp.full((count, rows, columns), semifield.zero, a.dtype)
    if terms and out.size:
        matrices = max(1, _ELEMENTS // (rows * terms * columns))
        some_rows = max(1, _ELEMENTS // (terms * columns))
        for one in range(0, count, matrices):
            for first in range(0, rows, some_rows):
                batch, part = slice(one, one + matrices), slice(first, first + some_rows)
                products = semifield.multiply(a[batch, part, :, None], b[batch, None])
                out[batch, part] = semifield.add_reduce(products, (2,))
    return out.reshape(operands.out_shape)
