"""What lies beyond an array's border, as tables of positions; and the checks of `mode`.

A window of K taps on an axis of n elements sees n + K - 1 positions. A table holds the element that
each of them shows, or -1 for the constant. Kernels know tables, not modes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["MODES", "beyond", "check_mode", "positions"]

# SciPy's names; the values are what `positions` distinguishes.
MODES = {
    "nearest": "nearest",
    "wrap": "wrap",
    "grid-wrap": "wrap",
    "reflect": "reflect",
    "grid-mirror": "reflect",
    "mirror": "mirror",
    "constant": "constant",
    "grid-constant": "constant",
}


def check_mode(mode: object) -> str:
    """The border rule that `mode` names; RuntimeError, as SciPy's, for another name."""
    if not isinstance(mode, str) or mode not in MODES:
        raise RuntimeError(f"boundary mode not supported: {mode!r}; known are {', '.join(MODES)}")
    return MODES[mode]


@lru_cache(maxsize=512)
def positions(size: int, before: int, after: int, rule: str) -> np.ndarray:
    """The element shown at each of the positions -before .. size + after - 1; -1: the constant.

    Examples
    --------
    >>> positions(3, 2, 2, "reflect")
    array([1, 0, 0, 1, 2, 2, 1])
    >>> positions(3, 2, 2, "mirror")
    array([2, 1, 0, 1, 2, 1, 0])
    >>> positions(3, 1, 2, "constant")
    array([-1,  0,  1,  2, -1, -1])
    """
    return _shown(np.arange(-before, size + after, dtype=np.int64), size, rule)


@lru_cache(maxsize=512)
def beyond(size: int, before: int, after: int, rule: str) -> np.ndarray:
    """Of `positions` only those before the first and after the last element.

    Examples
    --------
    >>> beyond(3, 2, 1, "reflect")
    array([1, 0, 2])
    """
    outside = np.arange(before + after, dtype=np.int64) - before
    outside[before:] += size
    return _shown(outside, size, rule)


def _shown(p: np.ndarray, size: int, rule: str) -> np.ndarray:
    if rule == "nearest":
        p = p.clip(0, size - 1)
    elif rule == "wrap":
        p %= size
    elif rule == "reflect":
        p %= 2 * size
        p = np.minimum(p, 2 * size - 1 - p)
    elif rule == "mirror":
        period = max(2 * size - 2, 1)
        p %= period
        p = np.minimum(p, period - p) if size > 1 else np.zeros_like(p)
    else:
        p[(p < 0) | (p >= size)] = -1
    p.flags.writeable = False
    return p
