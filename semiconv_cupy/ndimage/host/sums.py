"""Weighted sums of NumPy arrays, by ``kernels_cu/host/correlate.cpp``."""

from __future__ import annotations

import ctypes

import numpy as np

from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.ndimage.host.forms import LEAST_DOUBLES, form_for, mapped_window, threads_for
from semiconv_cupy.ndimage.host.libraries import TYPE_CODES, library
from semiconv_cupy.ndimage.window import WeightedTaps, Window


def correlate(array: np.ndarray, window: Window, taps: WeightedTaps, out: np.ndarray) -> None:
    """Weighted sums into `out`, which is C-contiguous and of any supported dtype."""
    loaded = library("correlate", np.dtype(np.float64))
    indices, weights, symmetry, _ = taps.read()
    form = form_for(array.shape, window, LEAST_DOUBLES)
    if form.windowed != tuple(range(array.ndim)):
        indices = np.ascontiguousarray(indices[:, form.windowed])
    struct, _ = mapped_window(form)
    threads = threads_for(8 * array.size * (8 + len(weights)))
    status = loaded.semiconv_correlate(
        ctypes.byref(struct), host.address(indices), host.address(weights), len(weights), symmetry,
        host.address(array), TYPE_CODES[array.dtype.name], host.address(out),
        TYPE_CODES[out.dtype.name], float(window.cval), threads,
    )  # fmt: skip
    host.check(status, "a correlation")
