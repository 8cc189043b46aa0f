"""What lies beyond an array's border, as tables of positions; and the checks of `mode`.

A window of K taps on an axis of n elements sees K - 1 positions that are not elements. A table
holds the element that each of them shows, or -1 for the constant. Kernels know tables, not modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

__all__ = [
    "MODES",
    "all_beyond",
    "beyond",
    "check_mode",
    "check_mode_of_sum",
    "farthest",
    "ignores",
    "shows_constant",
]

# SciPy's names, and "ignore"; the values are what `beyond` distinguishes.
MODES = {
    "nearest": "nearest",
    "wrap": "wrap",
    "grid-wrap": "wrap",
    "reflect": "reflect",
    "grid-mirror": "reflect",
    "mirror": "mirror",
    "constant": "constant",
    "grid-constant": "constant",
    "ignore": "ignore",
}


def check_mode(mode: object) -> str:
    """The border rule that `mode` names; RuntimeError, as SciPy's, for another name."""
    if not isinstance(mode, str) or mode not in MODES:
        raise RuntimeError(f"boundary mode not supported: {mode!r}; known are {', '.join(MODES)}")
    return MODES[mode]


class ModeError(RuntimeError, ValueError):
    """A mode that others take: SciPy's class for a mode that it refuses, and the usual one."""


def check_mode_of_sum(mode: object) -> str:
    """`check_mode` of a weighted sum, which cannot leave a position out."""
    rule = check_mode(mode)
    if ignores(rule):
        raise ModeError(
            f"mode={mode!r} is for minima and maxima: a weighted sum that leaves positions out has "
            "weights of another sum; pass mode='constant' with cval=0, and for a mean of what lies "
            "inside divide by the same sum of an image of ones"
        )
    return rule


@cache
def ignores(rule: str) -> bool:
    """Whether what lies beyond the border takes no part: its constant is the value that never wins.

    Examples
    --------
    >>> ignores("ignore"), ignores("constant")
    (True, False)
    """
    return rule == "ignore"


def beyond(size: int, before: int, after: int, rule: str) -> np.ndarray:
    """The elements that the positions -before .. -1 and size .. size + after - 1 show.

    -1 stands for the constant, which a rule shows at all of them or at none.

    Examples
    --------
    >>> beyond(3, 2, 2, "reflect")
    array([1, 0, 2, 1])
    >>> beyond(3, 2, 2, "mirror")
    array([2, 1, 1, 0])
    >>> beyond(3, 1, 2, "constant")
    array([-1, -1, -1])
    """
    p = np.arange(before + after, dtype=np.int64) - before
    p[before:] += size
    if rule == "nearest":
        p = p.clip(0, size - 1)
    elif rule == "wrap":
        p %= size
    elif rule == "reflect":
        p %= 2 * size
        np.minimum(p, 2 * size - 1 - p, out=p)
    elif rule == "mirror":
        period = max(2 * size - 2, 1)
        p %= period
        p = np.minimum(p, period - p) if size > 1 else np.zeros_like(p)
    else:
        p[:] = -1
    p.flags.writeable = False
    return p


@cache
def shows_constant(rule: str) -> bool:
    """Whether a rule shows the constant beyond the border.

    Examples
    --------
    >>> shows_constant("constant"), shows_constant("mirror")
    (True, False)
    """
    return bool(beyond(1, 1, 0, rule)[0] < 0)


def all_beyond(
    shape: Sequence[int], window: Sequence[int], before: Sequence[int], rules: Sequence[str]
) -> tuple[np.ndarray, ...]:
    """The table of each axis."""
    return tuple(
        beyond(n, b, k - 1 - b, rule)
        for n, k, b, rule in zip(shape, window, before, rules, strict=True)
    )


def farthest(size: int, before: int, after: int, rule: str) -> tuple[int, int]:
    """How far a box of this reach must look, before and after; looking farther shows nothing new.

    Beyond one length of the axis the constant is all that a box sees, and beyond two lengths every
    other border repeats itself.

    Examples
    --------
    >>> farthest(5, 10**12, 1, "wrap")
    (10, 1)
    >>> farthest(5, 3, 10**12, "constant")
    (3, 5)
    """
    most = size if shows_constant(rule) else 2 * size
    return min(before, most), min(after, most)
