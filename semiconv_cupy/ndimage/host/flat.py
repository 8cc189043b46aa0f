"""Extrema over boxes and footprints of NumPy arrays, by ``kernels_cu/host/flat.cpp``."""

from __future__ import annotations

import ctypes
import math
from typing import Protocol

import numpy as np

from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.ndimage.caching import cached_where, is_small_footprint
from semiconv_cupy.ndimage.form import FilterForm
from semiconv_cupy.ndimage.host.forms import (
    KeptTables,
    form_for,
    has_small_tables,
    least_row,
    mapped_window,
    threads_for,
)
from semiconv_cupy.ndimage.host.libraries import library
from semiconv_cupy.ndimage.structs import Box, Pair, TablePair
from semiconv_cupy.ndimage.window import Window
from semiconv_cupy.structs import MAX_RANK


class Call(Protocol):
    """A primitive for arrays of one shape and dtype; the result is `out`, if that is given."""

    def __call__(self, array: np.ndarray, out: np.ndarray | None = None, /) -> np.ndarray: ...


@cached_where(has_small_tables, 256)
def _box_passes(form: FilterForm) -> tuple[tuple[Box, KeptTables], ...]:
    """The structs of a box's passes over planes, each with the tables that it points to.

    The last two axes are filtered in one pass where both have a window, each other axis in a pass
    of its own.
    """
    passes = []
    shape, extents, begins = form.shape, form.window_in_elements(), form.before_in_elements()
    last = len(shape) - 1

    def add(planes: int, rows: int, columns: int, *axes: int | None) -> None:
        """A pass with windows along these axes, down and across."""
        window = Pair(*(1 if a is None else extents[a] for a in axes))
        before = Pair(*(0 if a is None else begins[a] for a in axes))
        tables = tuple(None if a is None else form.beyond(a) for a in axes)
        addresses = TablePair(*(None if table is None else host.address(table) for table in tables))
        unit = 1 if axes[1] is None else form.unit
        passes.append((Box(planes, rows, columns, window, before, addresses, unit), tables))

    axes = [a for a, k in enumerate(form.window) if k > 1]
    if last in axes:
        axes.pop()
        if axes and axes[-1] == last - 1:
            axes.pop()
            add(math.prod(shape[:-2]), shape[-2], shape[-1], last - 1, last)
        else:
            add(1, math.prod(shape[:-1]), shape[-1], None, last)
    for a in reversed(axes):
        add(math.prod(shape[:a]), shape[a], math.prod(shape[a + 1 :]), a, None)
    return tuple(passes)


def box(array: np.ndarray, window: Window, outside: np.ndarray, minimum: bool) -> np.ndarray:
    """The extremum over a box; `outside` is a 0-d array of the array's dtype."""
    return box_call(array.shape, array.dtype, window, outside, minimum)(array)


def box_call(
    shape: tuple[int, ...], dtype: np.dtype, window: Window, outside: np.ndarray, minimum: bool
) -> Call:
    """What computes `box` of arrays of that shape and dtype."""
    form = form_for(shape, window, least_row(dtype.itemsize))
    if form.strides[-1] > 1:
        return _box_of_short_rows(shape, dtype, window, form, outside, minimum)
    run, passes = library("flat", dtype).semiconv_flat, _box_passes(form)
    threads = threads_for(16 * len(passes) * math.prod(shape) * dtype.itemsize)
    flag, later = int(minimum), len(passes) - 1

    def call(array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        out = np.empty_like(array) if out is None else out
        spare = np.empty_like(array) if later else out
        given = array
        for number, (struct, _) in enumerate(passes):
            to = spare if (later - number) % 2 else out
            status = run(
                ctypes.byref(struct), host.address(given), host.address(to), host.address(outside),
                flag, threads,
            )  # fmt: skip
            host.check(status, "a flat filter")
            given = to
        return out

    return call


# Look-ups of a footprint that take no longer than one more pass over the array.
_FEW_LOOKUPS = 16


def _box_of_short_rows(
    shape: tuple[int, ...],
    dtype: np.dtype,
    window: Window,
    form: FilterForm,
    outside: np.ndarray,
    minimum: bool,
) -> Call:
    """`box_call` where rows are so short that registers run along another axis.

    A small box is one footprint. Of a larger one the rows are: all else is a box before.
    """
    axes = [a for a, k in enumerate(window.shape) if k > 1]
    before = None
    if len(axes) > 1 and math.prod(form.window[:-1]) > _FEW_LOOKUPS:
        before = box_call(shape, dtype, window.without(axes[-1:]), outside, minimum)
        window = window.without(axes[:-1])
    whole = window._replace(taps=np.ones(window.shape, np.bool_))
    rows = footprint_call(shape, dtype, whole, outside, minimum)
    return rows if before is None else lambda array, out=None: rows(before(array), out)


@cached_where(is_small_footprint, 64)
def _lookups(
    footprint: bytes, shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[np.ndarray, int]:
    """The look-ups of a footprint along these axes, and the number of levels.

    A run of taps along the last of the axes, of length L, is the better of two windows of
    2 ** level elements, level = floor(log2 L), which may overlap; of one where L is a power of two.
    The kernel keeps for each level the extrema of 2 ** level neighbours. One row of the look-ups
    says the level, and at which index of the footprint a window begins::

        taps     . 1 1 1 1 1 .     L = 5, level 2
        windows    a a a a         begins at index 1
                     b b b b       begins at index 1 + 5 - 4 = 2
    """
    others = tuple(a for a in range(len(shape)) if a not in axes)
    taps = np.frombuffer(footprint, np.bool_).reshape(shape).transpose(axes + others)
    taps = taps.reshape(taps.shape[: len(axes)])
    edges = np.diff(np.pad(taps, [(0, 0)] * (taps.ndim - 1) + [(1, 1)]).view(np.int8), axis=-1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    lengths = ends[:, -1] - begins[:, -1]
    levels = np.frexp(lengths)[1] - 1
    index = np.zeros((len(begins), 1 + MAX_RANK), np.int64)
    index[:, 0] = levels
    index[:, 1 : 1 + taps.ndim] = begins
    second = index[lengths > 1 << levels]
    second[:, taps.ndim] += (lengths - (1 << levels))[lengths > 1 << levels]
    both = np.concatenate([index, second])
    both = both[np.lexsort(both.T[::-1])]
    return np.ascontiguousarray(both), int(levels.max()) + 1


def footprint(array: np.ndarray, window: Window, outside: np.ndarray, minimum: bool) -> np.ndarray:
    """The extremum over any footprint that is not empty."""
    return footprint_call(array.shape, array.dtype, window, outside, minimum)(array)


def footprint_call(
    shape: tuple[int, ...], dtype: np.dtype, window: Window, outside: np.ndarray, minimum: bool
) -> Call:
    """What computes `footprint` of arrays of that shape and dtype."""
    assert window.taps is not None
    run, form = (
        library("footprint", dtype).semiconv_footprint,
        form_for(shape, window, least_row(dtype.itemsize)),
    )
    lookups, levels = _lookups(window.taps.tobytes(), window.shape, form.windowed)
    mapped = mapped_window(form)
    threads = threads_for(math.prod(shape) * dtype.itemsize * (4 + len(lookups)))
    flag = int(minimum)

    def call(array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        out = np.empty_like(array) if out is None else out
        status = run(
            ctypes.byref(mapped[0]), host.address(lookups), len(lookups), levels,
            host.address(array), host.address(out), host.address(outside), flag, threads,
        )  # fmt: skip
        host.check(status, "a flat filter")
        return out

    return call
