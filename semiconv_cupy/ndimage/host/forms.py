"""In which form a filter of a NumPy array is computed, by which structs, on how many threads."""

from __future__ import annotations

import math

import numpy as np

from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.caching import cached_where
from semiconv_cupy.ndimage.form import FilterForm, filter_form
from semiconv_cupy.ndimage.structs import Axes, Mapped, Tables
from semiconv_cupy.ndimage.window import Window

# The shortest rows along which registers run, in elements and in bytes of lanes. Of shorter ones
# most lanes fall beyond the end, and another axis is faster although its elements are gathered one
# by one: of windows of 3 x 3 x 3 on (200, 200, n), n = 5, boxes took 3.0 ns an output instead of
# 7.0 (float32), footprints 3.0 instead of 13 (uint8), structures 4.2 instead of 9.2 (float32),
# correlations 12 instead of 18. Nothing was gained at n = 16 (float32, correlations) and 24
# (uint8), nor where arrays are so small that the call takes as long.
_LEAST_ELEMENTS, _LEAST_BYTES, LEAST_DOUBLES, _SMALL_ARRAY = 20, 40, 12, 4096


def least_row(lane: int) -> int:
    """The elements of the shortest row for lanes of so many bytes."""
    return min(_LEAST_ELEMENTS, _LEAST_BYTES // lane)


def form_for(shape: tuple[int, ...], window: Window, least: int) -> FilterForm:
    """The form for arrays of a shape whose rows are used from `least` elements on."""
    if math.prod(shape) < _SMALL_ARRAY:
        least = 1
    return filter_form(shape, window.shape, window.before, window.rules, least)


def form_of(primitive: str, array: np.ndarray, window: Window, *others: object) -> FilterForm:
    """The form in which a primitive is computed, of the arguments that it takes."""
    if primitive == "correlate":
        return form_for(array.shape, window, LEAST_DOUBLES)
    addends = others[0] if others else None
    lane = addends.values.itemsize if isinstance(addends, Addends) else array.itemsize
    return form_for(array.shape, window, least_row(lane))


# A struct points to the tables that are kept beside it.
KeptTables = tuple[np.ndarray | None, ...]


def has_small_tables(form: FilterForm) -> bool:
    """Whether a window's tables of positions beyond the border are small enough to be kept."""
    return sum(form.window) <= 4096


@cached_where(has_small_tables, 256)
def mapped_window(form: FilterForm) -> tuple[Mapped, KeptTables]:
    """The struct and the tables that it points to."""
    rank = len(form.shape)
    tables = tuple(form.beyond(axis) for axis in range(rank))
    addresses = Tables(*(table.ctypes.data for table in tables))
    window, before = Axes(*form.window_in_elements()), Axes(*form.before_in_elements())
    size, stride = Axes(*form.shape), Axes(*form.strides)
    return Mapped(rank, size, window, before, stride, addresses, form.unit), tables


# Bytes that pass through registers in about a millisecond. For less work a second thread does not
# pay: on a busy machine it may start only after the first one has finished.
_SMALL_WORK = 1 << 26


def threads_for(work: int) -> int:
    """How many threads share a work of so many bytes."""
    return 1 if work < _SMALL_WORK else host.threads()
