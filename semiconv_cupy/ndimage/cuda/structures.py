"""Extrema by structures on a GPU as tiled convolutions of an array with its borders.

``border.cu`` copies the array with what its windows see beyond the borders, and the convolution of
``backends.cuda`` over a semifield of maxima (minima) does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import SelectSemifield
from semiconv_cupy.backends.cuda import (
    BLOCK_THREADS,
    CHUNK,
    Convolution,
    forward_launch,
    forward_tile_of,
)
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.backends.device import Prepared, prepared
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.cuda.launcher import Launcher, table_starts
from semiconv_cupy.ndimage.form import FilterForm
from semiconv_cupy.ndimage.structs import Bordered
from semiconv_cupy.ndimage.window import Window
from semiconv_cupy.strides import contiguous_strides, in_bytes

Array = Any
_DILATION, _EROSION = SelectSemifield.tropical_max(), SelectSemifield.tropical_min_negated()
_OF_THREAD = 8  # elements of a row that a thread of kernels_cu/cuda/border.cu copies


def border_kernel(storage: str, rank: int) -> source.KernelSource:
    """The copy of an array with its borders."""
    name = f"semiconv_border_{storage}_{rank}d"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_RANK": str(rank),
    }
    return source.KernelSource(name, source.assemble("cuda/border.cu", macros), OPTIONS)


class _Plan(NamedTuple):
    """What computes a structure; None where no tile serves it. `nbytes` are on the device."""

    call: Callable[..., Array] | None
    nbytes: int = 0


def structure_call(
    launcher: Launcher,
    shape: tuple[int, ...],
    dtype: np.dtype,
    window: Window,
    addends: Addends,
    minimum: bool,
) -> Callable[..., Array] | None:
    """What computes the extremum of element + addend; None where no tile serves it exactly."""
    taps, first, outside = window.taps, addends.first, addends.outside
    assert taps is not None
    weights = -addends.values if minimum else addends.values  # erosions subtract them
    with np.errstate(over="ignore", invalid="ignore"):
        values = weights.astype(dtype)
        exact = bool((values == weights).all()) and outside.astype(dtype) == outside
    # Integers have no weight that leaves a tap out.
    whole = taps.all() and first is None and dtype.itemsize < 8 and not addends.in_double
    if not exact or not (dtype.name in source.FLOATING or whole):
        return None

    def planned() -> _Plan:
        return _plan(launcher, shape, window, values, addends, minimum)

    if values.nbytes > launcher.limits.kept_bytes:
        return planned().call
    contents = taps.tobytes(), values.tobytes(), outside.dtype, outside.tobytes(), first
    geometry = shape, dtype, window.shape, window.before, window.rules
    key = "structure", launcher.limits, *geometry, *contents, minimum
    return launcher.keep_plan(key, planned).call


def _plan(
    launcher: Launcher,
    shape: tuple[int, ...],
    window: Window,
    values: np.ndarray,
    addends: Addends,
    minimum: bool,
) -> _Plan:
    """A copy with borders and a convolution of it, by these values in the array's dtype."""
    dtype, first, device = values.dtype, addends.first, launcher.device
    form = launcher.near_form(shape, window)
    dilation = (*(1 for _ in form.shape[:-1]), form.unit)
    geometry = Geometry.plan(
        (1, 1, *_bordered_shape(form)), (1, 1, *form.window), dilation=dilation, kind="corr"
    )
    semifield = _EROSION if minimum else _DILATION
    if forward_tile_of(semifield, dtype.name, geometry, None) is None:
        return _Plan(None)
    assert window.taps is not None
    taps = window.taps.reshape(form.window)
    krn, tables = _weights(launcher, taps, values, first is not None), launcher.tables(form)
    padded, copy = _border_copy(launcher, dtype, form, addends.outside)
    strides = 0, 0, *in_bytes(contiguous_strides(padded), dtype.name)
    convolution = Convolution(semifield, geometry, dtype.name, None, strides, krn.strides)
    launch = forward_launch(device, convolution, padded_rows=True)

    def call(array: Array, out: Array | None = None) -> Array:
        wide = device.empty(padded, dtype)
        copy((array, wide, tables))
        if out is None:
            out = device.empty(shape, dtype)
        launch(device.address(wide), wide, krn, out, None)
        if first is None:
            return out
        corner = np.argwhere(taps)[0] * dilation
        seen = reference.view(wide, corner, form.shape).astype(np.float64)
        term = (seen + first).astype(addends.values.dtype).astype(dtype)
        return reference.better(device.array_module, out, term.reshape(shape), minimum)

    return _Plan(call, int(krn.nbytes) + int(tables.nbytes))


def _weights(launcher: Launcher, taps: np.ndarray, values: np.ndarray, but_first: bool) -> Array:
    """The kernel that has these values at its taps, and leaves out all others."""

    def weights() -> np.ndarray:
        krn = np.zeros((1, 1, *taps.shape), values.dtype)
        if not taps.all() or but_first:
            krn[...] = -np.inf
        krn[0, 0][taps] = values
        if but_first:
            krn[0, 0][tuple(np.argwhere(taps)[0])] = -np.inf
        return krn

    if values.nbytes > launcher.limits.kept_bytes:
        return launcher.upload(weights())
    key = "weights", taps.shape, taps.tobytes(), values.dtype.name, values.tobytes(), but_first
    return launcher.keep(key, weights)


def _bordered_shape(form: FilterForm) -> tuple[int, ...]:
    """An array's axes with what windows see beyond its borders, in elements."""
    return tuple(n + k - 1 for n, k in zip(form.shape, form.window_in_elements(), strict=True))


def _border_copy(
    launcher: Launcher, dtype: np.dtype, form: FilterForm, outside: np.ndarray
) -> tuple[tuple[int, ...], Prepared]:
    """The shape of an array with what windows see beyond its borders, and the copy to it.

    Rows are longer than `_bordered_shape` says: whole chunks can be read.
    """
    rank, shape = len(form.shape), _bordered_shape(form)
    pitch = -(-shape[-1] // CHUNK) * CHUNK
    threads_x = min(BLOCK_THREADS, 2 ** max(5, (shape[-1] // _OF_THREAD).bit_length()))
    struct = np.zeros((), Bordered.dtype())
    struct["size"][:rank], struct["stride"][:rank] = form.shape, contiguous_strides(form.shape)
    struct["window"][:rank], struct["before"][:rank] = form.window, form.before
    struct["table"][:rank], struct["pitch"] = table_starts(form.window), pitch
    struct["unit"] = form.unit
    struct["rows"] = rows = math.prod(shape[:-1])
    struct["parts"] = parts = -(-shape[-1] // (threads_x * _OF_THREAD))
    after = outside.astype(source.ARITHMETIC[dtype.name])[()], np.int32(threads_x)
    blocks = -(-rows // (BLOCK_THREADS // threads_x)) * parts
    kernel = launcher.kernel(border_kernel, dtype.name, rank)
    copy = prepared(kernel, (blocks,), (BLOCK_THREADS,), (struct[()],), 3, after)
    return (*shape[:-1], pitch), copy
