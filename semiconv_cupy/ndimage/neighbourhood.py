"""The four primitives of this package, on whatever array kind: boxes, footprints, structures, sums.

Every public function is a composition of these. Chooses the algorithm and who runs it (``host``,
``cuda``, or array operations in ``reference``); knows no SciPy conventions.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from semiconv_cupy.backends.device import cupy_device
from semiconv_cupy.backends.host import calls as host_backend
from semiconv_cupy.errors import warn
from semiconv_cupy.ndimage import cuda, host, reference
from semiconv_cupy.ndimage.borders import farthest, remembered, small_footprint
from semiconv_cupy.ndimage.sums import sums_of

Array = Any
_HALF_MAX = float(np.finfo(np.float16).max)
_warned = False


def backend(xp: Any, ndim: int) -> Any:
    """What serves arrays of this kind and rank: a module or object with the same functions."""
    if not 1 <= ndim <= host.MAX_RANK:
        return reference
    if xp is not np:
        return cuda.Backend(cupy_device())
    if host_backend.compiler() is not None:
        return host
    global _warned
    if not _warned:
        _warned = True
        warn(f"semiconv_cupy.ndimage runs as slow array loops: {host_backend.missing_compiler()}")
    return reference


def box(
    xp: Any,
    array: Array,
    window: Sequence[int],
    before: Sequence[int],
    rules: Sequence[str],
    cval: Any,
    minimum: bool,
) -> Array:
    """The extremum over a box, as a new array of the array's dtype."""
    if array.size == 0 or all(k == 1 for k in window):
        return array.copy()
    outside = constant(cval, array.dtype, minimum)
    if any(map(operator.gt, window, array.shape)):
        return _long_box(xp, array, window, before, rules, outside, minimum)
    served = backend(xp, array.ndim)
    return served.box(array, tuple(window), tuple(before), tuple(rules), outside, minimum)


def _long_box(
    xp: Any,
    array: Array,
    window: Sequence[int],
    before: Sequence[int],
    rules: Sequence[str],
    outside: np.ndarray,
    minimum: bool,
) -> Array:
    """`box` where a window is longer than its axis: in time and memory that depend on neither."""
    whole, reaches = [], []
    for axis, (n, k, b, rule) in enumerate(zip(array.shape, window, before, rules, strict=True)):
        if min(b, k - 1 - b) >= max(n - 1, 1):  # every output sees the whole axis and both borders
            whole.append(axis)
            reaches.append((0, 0))
        else:
            reaches.append(farthest(n, b, k - 1 - b, rule))
    result = array
    if whole:
        result = reference.extremum_along(xp, array, tuple(whole), minimum)
        if any(rules[axis] == "constant" for axis in whole):
            result = reference.better(xp, result, outside[()], minimum)
    lengths = tuple(ahead + 1 + behind for ahead, behind in reaches)
    if any(k > 1 for k in lengths):
        begins = tuple(ahead for ahead, _ in reaches)
        served = backend(xp, array.ndim)
        result = served.box(
            xp.ascontiguousarray(result), lengths, begins, tuple(rules), outside, minimum
        )
    return xp.broadcast_to(result, array.shape).copy() if whole else result


def footprint(
    xp: Any,
    array: Array,
    taps: np.ndarray,
    before: Sequence[int],
    rules: Sequence[str],
    cval: Any,
    minimum: bool,
) -> Array:
    """The extremum over a footprint, which must have a tap, as a new array."""
    if taps.all():
        return box(xp, array, taps.shape, before, rules, cval, minimum)
    if array.size == 0:
        return array.copy()
    taps, begins = _trimmed(taps.tobytes(), taps.shape, tuple(before))
    if taps.all():
        return box(xp, array, taps.shape, begins, rules, cval, minimum)
    outside = constant(cval, array.dtype, minimum)
    served = backend(xp, array.ndim)
    return served.footprint(array, taps, begins, tuple(rules), outside, minimum)


@remembered(64, small_footprint)
def _trimmed(
    taps: bytes, shape: tuple[int, ...], before: tuple[int, ...]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """A footprint without outer rows and columns that have no tap: they only enlarge the scratch.

    What is left still covers the output's own position.
    """
    footprint = np.frombuffer(taps, np.bool_).reshape(shape)
    kept, begins = [], []
    for axis, own in enumerate(before):
        others = tuple(a for a in range(len(shape)) if a != axis)
        used = np.flatnonzero(footprint.any(axis=others))
        first, last = min(int(used[0]), own), max(int(used[-1]), own)
        kept.append(slice(first, last + 1))
        begins.append(own - first)
    return np.ascontiguousarray(footprint[tuple(kept)]), tuple(begins)


def structure(
    xp: Any,
    array: Array,
    taps: np.ndarray,
    values: np.ndarray,
    before: Sequence[int],
    rules: Sequence[str],
    cval: Any,
    minimum: bool,
) -> Array:
    """The extremum of element + value over the taps; integers saturate; as a new array.

    `values` has one number for each tap, in order; also in a minimum they are added.
    """
    if array.size == 0:
        return array.copy()
    sums = sums_of(array.dtype, values, cval, minimum)
    served = backend(xp, array.ndim)
    return served.structure(array, taps, sums, tuple(before), tuple(rules), minimum)


def correlate(
    xp: Any,
    array: Array,
    indices: np.ndarray,
    weights: np.ndarray,
    window: Sequence[int],
    before: Sequence[int],
    rules: Sequence[str],
    cval: float,
    symmetry: int,
    out: Array,
) -> None:
    """Sums of weight * element over taps, in double and in this order, into `out`.

    symmetry: 0, or 1 (-1) where taps k and n - k of n (k > 0) have equal (opposite) weights and are
    added (subtracted) first; tap 0 then stands alone.
    """
    if array.size:
        served = backend(xp, array.ndim)
        served.correlate(
            array, indices, weights, tuple(window), tuple(before), tuple(rules), cval, symmetry, out
        )


def reconstruct(xp: Any, seed: Array, mask: Array, steps: np.ndarray, minimum: bool) -> Array:
    """What `seed` becomes when its values spread by `steps` within `mask` until nothing changes."""
    if seed.size == 0 or len(steps) == 0:
        return seed.copy()
    return backend(xp, seed.ndim).reconstruct(seed, mask, steps, minimum)


def constant(cval: Any, dtype: np.dtype, minimum: bool) -> np.ndarray:
    """The constant beyond the border as a number of the dtype: towards zero, then saturated."""
    if dtype.kind not in "biu":
        if -_HALF_MAX <= cval <= _HALF_MAX:  # fits all of them, and errstate takes a microsecond
            return np.array(cval, dtype)
        with np.errstate(over="ignore"):
            return np.array(cval, dtype)
    low, high = _range(dtype)
    if cval != cval:  # NaN is never selected
        return np.array(high if minimum else low, dtype)
    return np.array(min(max(low, cval), high), dtype)


@cache
def _range(dtype: np.dtype) -> tuple[int, int]:
    """The least and the largest number of an integer dtype or bool."""
    if dtype.kind == "b":
        return 0, 1
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
