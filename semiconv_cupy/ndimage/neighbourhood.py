"""The four primitives of this package, on whatever array kind: boxes, footprints, structures, sums.

Every public function is a composition of these. Chooses the algorithm and who runs it (``host``,
``cuda``, or array operations in ``reference``); knows no SciPy conventions.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from semiconv_cupy.backends import cuda as cuda_backend
from semiconv_cupy.backends import host as host_backend
from semiconv_cupy.errors import BackendWarning
from semiconv_cupy.ndimage import cuda, host, reference

Array = Any
_warned = False


def backend(xp: Any, ndim: int) -> Any:
    """What serves arrays of this kind and rank: a module or object with the same functions."""
    if xp is not np:
        if ndim <= host.MAX_RANK:
            return cuda.Backend(cuda_backend.device())
        return reference
    if host_backend.compiler() is not None and ndim <= host.MAX_RANK:
        return host
    global _warned
    if host_backend.compiler() is None and not _warned:
        _warned = True
        warnings.warn(
            f"semiconv_cupy.ndimage runs as slow array loops: {host_backend.missing_compiler()}",
            BackendWarning,
            stacklevel=4,
        )
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
    served = backend(xp, array.ndim)
    return served.box(array, tuple(window), tuple(before), tuple(rules), outside, minimum)


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
    # Rows and columns without a tap only enlarge the scratch.
    kept = []
    before = list(before)
    for axis in range(taps.ndim):
        used = np.flatnonzero(taps.any(axis=tuple(a for a in range(taps.ndim) if a != axis)))
        first, last = int(used[0]), int(used[-1])
        if not first <= before[axis] <= last:  # a window has to cover its own output
            first, last = min(first, before[axis]), max(last, before[axis])
        before[axis] -= first
        kept.append(slice(first, last + 1))
    taps = taps[tuple(kept)]
    if taps.all():
        return box(xp, array, taps.shape, before, rules, cval, minimum)
    outside = constant(cval, array.dtype, minimum)
    served = backend(xp, array.ndim)
    return served.footprint(array, taps, tuple(before), tuple(rules), outside, minimum)


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
    values, outside = sums_of(array.dtype, values, cval, minimum)
    served = backend(xp, array.ndim)
    return served.structure(array, taps, values, tuple(before), tuple(rules), outside, minimum)


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
        with np.errstate(over="ignore"):
            return np.array(cval, dtype)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if cval != cval:  # NaN is never selected
        return np.array(high if minimum else low, dtype)
    return np.array(min(max(low, cval), high), dtype)


# The types of exact sums, as in kernels_cu/host/structure.hpp, and the numbers that may be added
# twice without leaving them.
_SUMS: dict[str, tuple[type, int]] = {
    "int8": (np.int16, 2**14 - 1),
    "uint8": (np.int16, 2**14 - 1),
    "int16": (np.int32, 2**30 - 1),
    "uint16": (np.int32, 2**30 - 1),
    "int32": (np.int64, 2**62 - 1),
    "uint32": (np.int64, 2**62 - 1),
}


def sums_of(
    dtype: np.dtype, values: np.ndarray, cval: Any, minimum: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values and constant in the type of sums: the narrowest that is exact, else double."""
    if dtype.kind in "iu":
        whole = values.dtype.kind in "biu" or bool(np.all(np.trunc(values) == values))
        if whole and cval == cval and abs(cval) < 2**64 and int(cval) == cval:
            cval = int(cval)
            most = int(max(values.max(), -int(values.min())))
            if dtype.name in _SUMS:
                kind, limit = _SUMS[dtype.name]
                if max(most, abs(cval)) <= limit:
                    return values.astype(kind), np.array(cval, kind)
            elif most < 2**63 and np.iinfo(dtype).min <= cval <= np.iinfo(dtype).max:
                return values.astype(np.int64), np.array(cval, dtype)
        return values.astype(np.float64), np.array(_known(cval, minimum), np.float64)
    kind = np.float64 if dtype == np.float64 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        rounded, outside = values.astype(kind), np.array(cval, kind)
    if np.array_equal(rounded.astype(np.float64), values, equal_nan=True) and (
        float(outside) == cval or cval != cval
    ):
        return rounded, np.array(_known(outside, minimum), kind)
    return values.astype(np.float64), np.array(_known(cval, minimum), np.float64)


def _known(cval: Any, minimum: bool) -> Any:
    """The constant, or what is never selected in the place of NaN."""
    return cval if cval == cval else (np.inf if minimum else -np.inf)
