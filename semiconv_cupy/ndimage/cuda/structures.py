"""Extrema by structures on a GPU as tiled convolutions of an array with its borders.

``border.cu`` copies the array with what its windows see beyond the borders, and the convolution of
``backends.cuda`` over a semifield of maxima (minima) does the rest.
"""

from __future__ import annotations

import math
from typing import Any

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
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.cuda.launcher import Launcher, table_starts
from semiconv_cupy.ndimage.form import FilterForm
from semiconv_cupy.ndimage.structs import Bordered
from semiconv_cupy.ndimage.window import Window
from semiconv_cupy.strides import contiguous_strides

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


def structure(
    launcher: Launcher, array: Array, window: Window, addends: Addends, minimum: bool
) -> Array | None:
    """The extremum of element + addend over the taps; None where no tile serves it exactly."""
    taps, first, storage = window.taps, addends.first, array.dtype.name
    assert taps is not None
    weights = -addends.values if minimum else addends.values  # erosions subtract them
    with np.errstate(over="ignore", invalid="ignore"):
        values = weights.astype(array.dtype)
        exact = (values == weights).all()
        exact = exact and addends.outside.astype(array.dtype) == addends.outside
    # Integers have no weight that leaves a tap out.
    whole = taps.all() and first is None and array.dtype.itemsize < 8 and not addends.in_double
    if not exact or not (storage in source.FLOATING or whole):
        return None
    form = launcher.near_form(array.shape, window)
    dilation = (*(1 for _ in form.shape[:-1]), form.unit)
    geometry = Geometry.plan(
        (1, 1, *_bordered_shape(form)), (1, 1, *form.window), dilation=dilation, kind="corr"
    )
    semifield = _EROSION if minimum else _DILATION
    if forward_tile_of(semifield, storage, geometry, None) is None:
        return None
    wide = _bordered(launcher, array, form, addends.outside)
    device = launcher.device
    out = device.empty(geometry.out_shape, array.dtype)
    taps = taps.reshape(form.window)
    img, krn = wide[None, None], _weights(launcher, taps, values, first is not None)
    convolution = Convolution(semifield, geometry, storage, None, img.strides, krn.strides)
    if out.size:
        launch = forward_launch(device, convolution, padded_rows=True)
        launch(device.address(img), img, krn, out, None)
    if first is not None:
        corner = np.argwhere(taps)[0] * dilation
        seen = reference.view(wide, corner, form.shape).astype(np.float64)
        term = (seen + first).astype(addends.values.dtype).astype(array.dtype)
        out = reference.better(device.array_module, out, term, minimum)
    return out.reshape(array.shape)


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


def _bordered(launcher: Launcher, array: Array, form: FilterForm, outside: np.ndarray) -> Array:
    """The array with what windows see beyond its borders."""
    storage, rank = array.dtype.name, len(form.shape)
    shape = _bordered_shape(form)
    pitch = -(-shape[-1] // CHUNK) * CHUNK  # so that whole chunks can be read
    out = launcher.device.empty((*shape[:-1], pitch), array.dtype)[..., : shape[-1]]
    threads_x = min(BLOCK_THREADS, 2 ** max(5, (shape[-1] // _OF_THREAD).bit_length()))
    struct = np.zeros((), Bordered.dtype())
    struct["size"][:rank], struct["stride"][:rank] = form.shape, contiguous_strides(form.shape)
    struct["window"][:rank], struct["before"][:rank] = form.window, form.before
    struct["table"][:rank], struct["pitch"] = table_starts(form.window), pitch
    struct["unit"] = form.unit
    struct["rows"] = rows = math.prod(shape[:-1])
    struct["parts"] = parts = -(-shape[-1] // (threads_x * _OF_THREAD))
    arguments = (
        struct[()],
        array,
        out,
        launcher.tables(form),
        outside.astype(source.ARITHMETIC[storage])[()],
        np.int32(threads_x),
    )
    blocks = -(-rows // (BLOCK_THREADS // threads_x)) * parts
    launcher.kernel(border_kernel, storage, rank)((blocks,), (BLOCK_THREADS,), arguments, 0)
    return out
