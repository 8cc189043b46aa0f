"""Extrema of sums with a structure over NumPy arrays, by ``kernels_cu/host/structure*.cpp``."""

from __future__ import annotations

import ctypes
import math

import numpy as np

from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.caching import cached_where, is_small_footprint
from semiconv_cupy.ndimage.host.flat import Call
from semiconv_cupy.ndimage.host.forms import form_for, least_row, mapped_window, threads_for
from semiconv_cupy.ndimage.host.libraries import library, part_of
from semiconv_cupy.ndimage.window import Window


@cached_where(is_small_footprint, 64)
def _indices(footprint: bytes, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """Where the taps of a footprint lie along these axes, one row each in the footprint's order."""
    taps = np.frombuffer(footprint, np.bool_).reshape(shape)
    return np.ascontiguousarray(np.argwhere(taps)[:, axes], np.int64)


def _no_element(array: np.ndarray, minimum: bool) -> np.ndarray:
    """A 64-bit integer that no element of the array equals, as a 0-d array.

    That is the last one to win, or else one of a sequence that goes through all of them (Knuth's
    MMIX generator); arrays are so short that it soon finds one.
    """
    info = np.iinfo(array.dtype)
    extreme, last = (array.max(), info.max) if minimum else (array.min(), info.min)
    number = int(last)
    if int(extreme) == number:
        while True:
            number = (number * 6364136223846793005 + 1442695040888963407) % 2**64
            found = np.array(number, np.uint64).view(array.dtype)
            if not bool((array == found).any()):
                return found
    return np.array(number, array.dtype)


def structure(array: np.ndarray, window: Window, addends: Addends, minimum: bool) -> np.ndarray:
    """The extremum of element + addend over the taps."""
    return structure_call(array.shape, array.dtype, window, addends, minimum)(array)


def structure_call(
    shape: tuple[int, ...], dtype: np.dtype, window: Window, addends: Addends, minimum: bool
) -> Call:
    """What computes `structure` of arrays of that shape and dtype."""
    assert window.taps is not None
    values, outside, itemsize = addends.values, addends.outside, addends.values.itemsize
    part, _ = part_of("structure", dtype, window, addends)
    run = getattr(library(part, dtype), f"semiconv_{part}")
    form = form_for(shape, window, least_row(itemsize))
    indices = _indices(window.taps.tobytes(), window.shape, form.windowed)
    mapped = mapped_window(form)
    first = None if addends.first is None else ctypes.byref(ctypes.c_double(addends.first))
    threads = threads_for(itemsize * math.prod(shape) * (8 + len(indices)))
    flag, absent = int(minimum), part == "structure_absent"

    def call(array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        out = np.empty_like(array) if out is None else out
        beyond = _no_element(array, minimum) if absent else outside
        status = run(
            ctypes.byref(mapped[0]), host.address(indices), host.address(values), first,
            len(indices), host.address(array), host.address(out), host.address(beyond), flag,
            threads,
        )  # fmt: skip
        host.check(status, "a filter by a structure")
        return out

    return call
