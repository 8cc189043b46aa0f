"""The one comparison of results: value, dtype, shape, layout and array library, or it raises.

Expected values come from `oracle.py`. Used by every test that compares arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from oracle import Expected, narrowed

ULPS = 4  # what design asks of everything that is not a selection


def assert_matches(
    got: Any,
    expected: Expected | np.ndarray,
    *,
    dtype: Any,
    library: str = "numpy",
    ulps: float = ULPS,
    signed_zeros: bool = False,
) -> None:
    """Raise AssertionError unless `got` is the expected array.

    Without a scale (or for a plain array) values must be equal, NaN to NaN; zeros of either sign
    are equal unless `signed_zeros`. With one, they may differ by `ulps` units in the last place of
    the scale in the arithmetic of `dtype`, and by the rounding to a 16-bit `dtype`.
    """
    if not isinstance(expected, Expected):
        expected = Expected(np.asarray(expected))
    array = host_array(got, library)
    if array.dtype != np.dtype(dtype) or not array.dtype.isnative:
        raise AssertionError(f"dtype is {array.dtype}, expected {np.dtype(dtype)}")
    if array.shape != expected.value.shape:
        raise AssertionError(f"shape is {array.shape}, expected {expected.value.shape}")
    if not got.flags.c_contiguous:
        raise AssertionError(f"not C-contiguous: strides {got.strides} of shape {got.shape}")
    wanted = narrowed(expected.value, dtype)
    if expected.scale is None:
        wrong = ~equal(array, wanted, signed_zeros)
        _report(wrong, array, wanted, "must be equal")
    else:
        apart = distance(array, expected, dtype)
        _report(~(apart <= ulps), array, wanted, f"more than {ulps} ulp of the scale apart", apart)


def host_array(array: Any, library: str = "numpy") -> np.ndarray:
    """The numbers as a NumPy array; raises where the array is not exactly the library's."""
    kind = f"{type(array).__module__.split('.')[0]}.{type(array).__name__}"
    if kind != f"{library}.ndarray":
        raise AssertionError(f"a {kind}, expected a {library}.ndarray")
    return array if library == "numpy" else array.get()  # type: ignore[no-any-return]


def equal(a: np.ndarray, b: np.ndarray, signed_zeros: bool = False) -> np.ndarray:
    """Elementwise equality, NaN equal to NaN."""
    same = np.asarray(a == b)
    if a.dtype.kind in "iub":
        return same
    if signed_zeros:
        same &= np.signbit(a) == np.signbit(b)
    return same | (np.isnan(a) & np.isnan(b))


def distance(array: np.ndarray, expected: Expected, dtype: Any) -> np.ndarray:
    """How far apart, in ulp of the scale; infinite where NaN or an infinity differ."""
    dtype = np.dtype(dtype)
    assert expected.scale is not None
    real = dtype if dtype.itemsize > 2 else np.dtype(np.float32)
    smallest = np.finfo(real).tiny
    with np.errstate(all="ignore"):
        value, wanted = array.astype(np.float64), expected.value
        scale = np.maximum(np.abs(expected.scale), smallest).astype(real)
        unit = np.spacing(np.where(np.isfinite(scale), scale, 1)).astype(np.float64)
        error = np.abs(value - wanted)
        if dtype != real:  # half a unit of the stored number is its rounding
            stored = narrowed(wanted, dtype)
            error = np.maximum(error - _half_unit(stored), 0)
        apart = error / unit
    same = equal(array, narrowed(wanted, dtype))
    return np.where(same, 0, np.where(np.isfinite(apart), apart, np.inf))


def _half_unit(stored: np.ndarray) -> np.ndarray:
    """Half the distance from a 16-bit number to the next larger one."""
    magnitude = np.abs(stored.astype(np.float64))
    digits, smallest = (10, -14) if stored.dtype == np.float16 else (7, -126)
    exponent = np.floor(np.log2(np.maximum(magnitude, 2.0**smallest)))
    return np.asarray(2.0 ** (exponent - digits - 1))


def _report(
    wrong: np.ndarray, got: np.ndarray, wanted: np.ndarray, why: str, apart: Any = None
) -> None:
    if not wrong.any():
        return
    worst = np.argwhere(wrong)[0] if apart is None else np.unravel_index(apart.argmax(), got.shape)
    at = tuple(int(i) for i in worst)
    error = "" if apart is None else f" ({apart[at]:.3g} ulp)"
    raise AssertionError(
        f"{int(wrong.sum())} of {wrong.size} values {why}; at {at}: got {got[at]!r}, "
        f"expected {wanted[at]!r}{error}"
    )
