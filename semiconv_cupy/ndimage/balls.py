"""Extrema over balls and ellipsoids of bool arrays, by distances: the time depends on no radius.

A dilation by a ball is True where the nearest True lies within it, an erosion where the nearest
False does not.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy.ndimage.caching import cached_where, is_small_footprint
from semiconv_cupy.ndimage.window import Window

Array = Any

# Rows of taps from which on distances are taken on the CPU. The time of rows does not depend on the
# image; that of distances is longest in noise of density 1/2, which has the most parabolas. Time of
# rows divided by that of distances (768^2 and 96^3, one core of an Intel Emerald Rapids):
#
#     rows         161 (disk of 80)   201 (100)   301 (150)   253 (ball of 9)   317 (10)
#     noise              0.6             0.8         1.3           1.2             1.5
#     blobs              1.2             1.6         2.4           1.8             2.2
#     few are True       1.5             1.8         2.7           2.0             2.4
_MANY_ROWS = 200
# The borders beyond which a ball sees nothing that is nearer than what it sees inside.
_FOLDED = ("reflect", "mirror", "nearest", "ignore")


class Ball(NamedTuple):
    """The positions x with sum of steps[a]^2 x[a]^2 <= square."""

    steps: tuple[float, ...]
    square: float


def ball_of(window: Window) -> Ball | None:
    """The ball or ellipsoid that a flat window is, if distances are faster."""
    taps = window.taps
    centred = all(
        k % 2 == 1 and k > 1 and b == k // 2
        for k, b in zip(window.shape, window.before, strict=True)
    )
    known = all(rule == "constant" or rule in _FOLDED for rule in window.rules)
    if taps is None or window.values is not None or not (centred and known):
        return None
    if math.prod(window.shape[:-1]) < _MANY_ROWS:
        return None
    return _ball(taps.tobytes(), window.shape)


@cached_where(is_small_footprint, 64)
def _ball(footprint: bytes, shape: tuple[int, ...]) -> Ball | None:
    taps = np.frombuffer(footprint, np.bool_).reshape(shape)
    if np.count_nonzero(taps.any(axis=-1)) < _MANY_ROWS:
        return None
    reach = [k // 2 for k in shape]
    for steps in ((1.0,) * len(shape), tuple(max(reach) / r for r in reach)):
        along = [np.square(np.arange(-r, r + 1) * s) for r, s in zip(reach, steps, strict=True)]
        squares = np.asarray(sum(np.ix_(*along)))
        inside = float(squares[taps].max())
        outside = min(((r + 1) * s) ** 2 for r, s in zip(reach, steps, strict=True))
        outside = min(outside, float(squares[~taps].min(initial=math.inf)))
        if inside * (1 + 1e-9) < outside:
            return Ball(steps, (inside + outside) / 2)
    return None


def padding(window: Window, minimum: bool) -> list[tuple[int, int]]:
    """Elements to put around an array, of the constant where it may win: one on each side."""
    wins = bool(window.cval) != minimum
    return [(1, 1) if wins and rule == "constant" else (0, 0) for rule in window.rules]
