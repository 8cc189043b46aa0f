"""Reductions of a list of taps on a GPU, one tap after the other; launches of ``neighbourhood.cu``.

Serves every window: correlations, and the footprints and structures that no tile has room for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import BLOCK_THREADS
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.backends.device import Kernel
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.cuda.launcher import Launcher, table_starts
from semiconv_cupy.ndimage.form import FilterForm
from semiconv_cupy.ndimage.structs import Neighbourhood
from semiconv_cupy.ndimage.window import WeightedTaps, Window
from semiconv_cupy.strides import contiguous_strides

Array = Any


def taps_kernel(
    operation: str,
    storage: str,
    lane: str,
    out: str,
    rank: int,
    minimum: bool = False,
    symmetry: int = 0,
) -> source.KernelSource:
    """The reduction of a list of taps; operation: "flat", "structure", "saturating" or "sum"."""
    if operation == "sum":
        which = f"symmetry{symmetry}".replace("-", "_")
    else:
        which = "minimum" if minimum else "maximum"
    rank = max(rank, 1)  # a number is a line of one element
    name = f"semiconv_{operation}_{which}_{storage}_{lane}_{out}_{rank}d"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_LANE": lane,
        "SEMICONV_RANK": str(rank),
        "SEMICONV_OUT": source.storage_macros(out)["SEMICONV_STORAGE"],
        f"SEMICONV_{operation.upper()}": "",
    }
    if operation == "sum":
        macros["SEMICONV_SYMMETRY"] = str(symmetry)
    else:
        macros["SEMICONV_MINIMUM"] = str(minimum).lower()
    # Without fused multiplications sums are the host's bits.
    options = (*OPTIONS, "-fmad=false") if operation == "sum" else OPTIONS
    return source.KernelSource(name, source.assemble("cuda/neighbourhood.cu", macros), options)


class _Terms(NamedTuple):
    """The terms of a reduction, one for each tap.

    `indices` say where the taps lie in the window, `values` what is added or multiplied there;
    `outside` is the constant in the type of the arithmetic. `first` is the first value before it
    was rounded.
    """

    indices: np.ndarray
    values: np.ndarray | None
    outside: np.ndarray
    first: float | None = None
    absent: bool = False


def footprint(
    launcher: Launcher, array: Array, window: Window, outside: np.ndarray, minimum: bool
) -> Array:
    """The extremum over any footprint that is not empty."""
    storage = array.dtype.name
    lane = source.ARITHMETIC[storage]
    kernel = launcher.kernel(taps_kernel, "flat", storage, lane, storage, array.ndim, minimum)
    out = launcher.device.empty(array.shape, array.dtype)
    terms = _Terms(window.indices(), None, outside.astype(lane))
    _reduce(launcher, kernel, array, window, terms, out)
    return out


def structure(
    launcher: Launcher, array: Array, window: Window, addends: Addends, minimum: bool
) -> Array:
    """The extremum of element + addend over the taps."""
    storage, lane = array.dtype.name, addends.values.dtype.name
    operation = "structure"
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and not addends.in_double:
        operation, lane = "saturating", storage
    kernel = launcher.kernel(taps_kernel, operation, storage, lane, storage, array.ndim, minimum)
    out = launcher.device.empty(array.shape, array.dtype)
    outside = addends.outside.astype(lane)
    terms = _Terms(window.indices(), addends.values, outside, addends.first, addends.absent)
    _reduce(launcher, kernel, array, window, terms, out)
    return out


def correlate(
    launcher: Launcher, array: Array, window: Window, taps: WeightedTaps, out: Array
) -> None:
    """Weighted sums into `out`, which is C-contiguous and of any supported dtype."""
    dtypes = array.dtype.name, "float64", out.dtype.name
    kernel = launcher.kernel(taps_kernel, "sum", *dtypes, array.ndim, False, taps.symmetry)
    terms = _Terms(taps.indices, taps.weights, np.array(window.cval, np.float64))
    _reduce(launcher, kernel, array, window, terms, out)


def _reduce(
    launcher: Launcher, kernel: Kernel, array: Array, window: Window, terms: _Terms, out: Array
) -> None:
    """One launch of a reduction into `out`."""
    if array.ndim == 0:
        number = Window((1,), (0,), ("constant",))
        terms = terms._replace(indices=np.zeros((len(terms.indices), 1), np.int64))
        _reduce(launcher, kernel, array.reshape(1), number, terms, out)
        return
    rank = array.ndim
    strides = contiguous_strides(array.shape)
    axes = tuple(range(rank))
    form = FilterForm(array.shape, window.shape, window.before, window.rules, 1, axes, strides)
    struct = np.zeros((), Neighbourhood.dtype())
    struct["taps"], struct["outputs"] = len(terms.indices), array.size
    struct["size"][:rank], struct["stride"][:rank] = array.shape, strides
    struct["window"][:rank], struct["before"][:rank] = window.shape, window.before
    struct["table"][:rank] = table_starts(window.shape)
    indices = np.ascontiguousarray(terms.indices, np.int64).reshape(-1, rank)
    offsets = indices @ np.array(strides, np.int64).reshape(rank)
    if terms.values is None:
        values = launcher.keep(("no values",), lambda: np.zeros(1))
    else:
        values = launcher.upload(terms.values)
    arguments = (
        struct[()],
        array,
        out,
        launcher.tables(form),
        launcher.keep(("indices", indices.tobytes(), rank), lambda: indices),
        launcher.keep(("offsets", offsets.tobytes()), lambda: offsets),
        values,
        terms.outside[()],
        np.float64(terms.first or 0),
        np.int32(terms.first is not None),
        np.int32(terms.absent),
    )
    blocks = min(-(-array.size // (4 * BLOCK_THREADS)), launcher.limits.blocks)
    kernel((blocks,), (BLOCK_THREADS,), arguments, 0)
