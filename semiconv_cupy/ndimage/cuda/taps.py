"""Reductions of a list of taps on a GPU, one tap after the other; launches of ``neighbourhood.cu``.

Serves every window: correlations, and the footprints and structures that no tile has room for.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import BLOCK_THREADS
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.backends.device import Prepared, prepared
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.cuda.launcher import Launcher, Ways, table_starts
from semiconv_cupy.ndimage.form import FilterForm
from semiconv_cupy.ndimage.structs import Neighbourhood
from semiconv_cupy.ndimage.window import WeightedTaps, Window
from semiconv_cupy.strides import contiguous_strides


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


def footprint_call(
    launcher: Launcher,
    shape: tuple[int, ...],
    dtype: np.dtype,
    window: Window,
    outside: np.ndarray,
    minimum: bool,
) -> Ways:
    """What computes the extremum over any footprint of arrays of that shape and dtype."""
    storage = dtype.name
    lane = source.ARITHMETIC[storage]
    kernel = "flat", storage, lane, storage, len(shape), minimum
    terms = _Terms(window.indices(), None, outside.astype(lane))
    return _reduction(launcher, kernel, shape, window, terms)


def structure_call(
    launcher: Launcher,
    shape: tuple[int, ...],
    dtype: np.dtype,
    window: Window,
    addends: Addends,
    minimum: bool,
) -> Ways:
    """What computes the extremum of element + addend over the taps."""
    storage, lane = dtype.name, addends.values.dtype.name
    operation = "structure"
    if dtype.kind in "iu" and dtype.itemsize == 8 and not addends.in_double:
        operation, lane = "saturating", storage
    kernel = operation, storage, lane, storage, len(shape), minimum
    outside = addends.outside.astype(lane)
    terms = _Terms(window.indices(), addends.values, outside, addends.first, addends.absent)
    return _reduction(launcher, kernel, shape, window, terms)


def correlate_call(
    launcher: Launcher,
    shape: tuple[int, ...],
    dtypes: tuple[np.dtype, np.dtype],
    window: Window,
    taps: WeightedTaps,
) -> Ways:
    """What sums arrays of that shape into others, of these two dtypes; the taps are read."""
    storage, out = (dtype.name for dtype in dtypes)
    kernel = "sum", storage, "float64", out, len(shape), False, taps.symmetry
    terms = _Terms(taps.indices, taps.weights, np.array(window.cval, np.float64))
    return _reduction(launcher, kernel, shape, window, terms)


def _reduction(
    launcher: Launcher,
    kernel: tuple[Any, ...],
    shape: tuple[int, ...],
    window: Window,
    terms: _Terms,
) -> Ways:
    """One launch of the kernel that `taps_kernel` writes of these arguments."""
    if not shape:
        shape, window = (1,), Window((1,), (0,), ("constant",))
        terms = terms._replace(indices=np.zeros((len(terms.indices), 1), np.int64))
    contents = (None if a is None else a.tobytes() for a in terms[:3])
    geometry = shape, window.shape, window.before, window.rules
    key = "taps", launcher.limits, kernel, *geometry, *contents, terms.first, terms.absent

    def planned() -> Ways:
        rank, strides = len(shape), contiguous_strides(shape)
        form = FilterForm(*geometry, 1, tuple(range(rank)), strides)
        outputs = math.prod(shape)
        struct = np.zeros((), Neighbourhood.dtype())
        struct["taps"], struct["outputs"] = len(terms.indices), outputs
        struct["size"][:rank], struct["stride"][:rank] = shape, strides
        struct["window"][:rank], struct["before"][:rank] = window.shape, window.before
        struct["table"][:rank] = table_starts(window.shape)
        indices = np.ascontiguousarray(terms.indices, np.int64).reshape(-1, rank)
        offsets = indices @ np.array(strides, np.int64).reshape(rank)
        values = np.zeros(1) if terms.values is None else terms.values
        tables = launcher.tables(form), *map(launcher.upload, (indices, offsets, values))
        after = (
            terms.outside[()], np.float64(terms.first or 0), np.int32(terms.first is not None),
            np.int32(terms.absent),
        )  # fmt: skip
        blocks = min(-(-outputs // (4 * BLOCK_THREADS)), launcher.limits.blocks)

        def any_address() -> Prepared:
            made = launcher.kernel(taps_kernel, *kernel)
            return prepared(made, (blocks,), (BLOCK_THREADS,), (struct[()],), 6, after)

        return Ways(launcher.device, [(1, any_address)], tables)

    return launcher.keep_plan(key, planned)
