"""Passes along lines of NumPy arrays, and scans, by files of ``kernels_cu/host``."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.ndimage.host.forms import threads_for
from semiconv_cupy.ndimage.host.libraries import TYPE_CODES, library, part_of
from semiconv_cupy.ndimage.lines import Pass
from semiconv_cupy.ndimage.structs import Axes, LineOutputs, Lines, Sizes


def nearest(unset: np.ndarray, step: Pass) -> None:
    """How far the nearest False lies along the last axis, into `step.out`."""
    loaded = library(*part_of("nearest", unset.dtype))
    lines = Lines.along(unset.shape, unset.ndim - 1)
    status = loaded.semiconv_nearest(
        ctypes.byref(lines), host.address(step.costs), host.address(unset), host.address(step.out),
        TYPE_CODES[step.out.dtype.name], host.address_or_none(step.winners), step.finish,
        threads_for(64 * unset.size),
    )  # fmt: skip
    host.check(status, "a distance transform")


def _outputs(lines: Lines, step: Pass) -> LineOutputs:
    """Which elements of each line are computed, and where they go: into `step.out`."""
    begin, end = step.outputs or (0, lines.size)
    row, pitch = lines.inner, lines.inner
    if not step.out.flags.c_contiguous:  # a part of an array, of whole rows along the later axes
        shape, strides = step.out.shape, step.out.strides
        split = max(a for a in range(len(shape) - 1) if strides[a] != strides[a + 1] * shape[a + 1])
        row, pitch = math.prod(shape[split + 1 :]), strides[split] // step.out.itemsize
    return LineOutputs(begin, end, row, pitch)


def parabolas(array: np.ndarray, step: Pass) -> None:
    """The extremum of element - cost along an axis, into `step.out`."""
    part, dtype = part_of("parabolas", array.dtype, step)
    function = getattr(library(part, dtype), f"semiconv_{part}")
    lines = Lines.along(array.shape, step.axis)
    followers = step.followers
    given, stored = step.storages_of(array.dtype)
    status = function(
        ctypes.byref(lines), ctypes.byref(_outputs(lines, step)), host.address(step.costs),
        step.groups, step.repeat,
        host.address(array), TYPE_CODES[given], host.address(step.out), TYPE_CODES[stored],
        host.address_or_none(step.winners), host.address_or_none(followers),
        0 if followers is None else len(followers),
        not step.minimum, step.finish, step.exact,
        min(threads_for(1024 * array.size), step.threads or host.threads()),
    )  # fmt: skip
    host.check(status, "a filter by parabolas")


def chamfer(unset: np.ndarray, steps: np.ndarray, features: bool) -> tuple[np.ndarray, Any]:
    """Distances in steps to the nearest False, and its flat index, by two raster scans."""
    loaded = library(*part_of("chamfer", unset.dtype))
    struct = Sizes(unset.ndim, Axes(*unset.shape), Axes())
    distances = np.empty(unset.shape, np.int32)
    reached = np.empty(unset.shape, np.int32) if features else None
    status = loaded.semiconv_chamfer(
        ctypes.byref(struct), host.address(steps), len(steps), host.address(unset),
        host.address(distances), host.address_or_none(reached),
    )  # fmt: skip
    host.check(status, "a distance transform")
    return distances, reached
