"""The equal filter that runs fastest: an array's axes merged, as kernels take them.

What a filter costs depends on how long its rows are, not on what the axes are called. So axes that
nothing tells apart become one before a primitive is computed, and colours become part of the rows:

    array (20, 3, 480, 640)             array (480, 640, 3)
    window (1, 1, 5, 5)                 window (5, 5, 1)

     20 -.                              480, 5 positions
          >-- 60                        640, 5 positions -.
      3 -'                                                 >-- 1920, 5 positions, 3 elements apart
    480, 5 positions                      3 --------------'
    640, 5 positions

Where the window needs rows that are short, another axis takes their place: of an array (200, 200,
5) with a window along all axes, registers hold neighbours along the second axis. No element moves
in memory, and the taps of a window keep their order. Array-free; called by ``host`` and ``cuda``
when they plan a call.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np

from semiconv_cupy.ndimage.borders import beyond


class FilterForm(NamedTuple):
    """An array of merged axes, and the window on them.

    Attributes
    ----------
    shape : tuple of int
        Elements of each axis.
    window, before : tuple of int
        Positions of the window along each axis, and how many of them lie before the output's own.
    rules : tuple of str
        What lies beyond the border of each axis, in the words of `borders.check_mode`.
    unit : int
        Neighbouring positions of the last axis are so many elements apart, those of all others one.
    windowed : tuple of int
        For each axis the one of the array whose window it has (of an axis without a window: any).
    strides : tuple of int
        From one element of an axis to the next, in elements of the contiguous array.
    """

    shape: tuple[int, ...]
    window: tuple[int, ...]
    before: tuple[int, ...]
    rules: tuple[str, ...]
    unit: int
    windowed: tuple[int, ...]
    strides: tuple[int, ...]

    def window_in_elements(self) -> tuple[int, ...]:
        """From the first element that an output sees to the last one, along each axis."""
        return (*self.window[:-1], (self.window[-1] - 1) * self.unit + 1)

    def before_in_elements(self) -> tuple[int, ...]:
        """How many elements lie between the first one that an output sees and its own."""
        return (*self.before[:-1], self.before[-1] * self.unit)

    def with_positions_apart(self) -> FilterForm:
        """The same with the elements of each position of the last axis as an axis of their own."""
        return FilterForm(
            (*self.shape[:-1], self.shape[-1] // self.unit, self.unit),
            (*self.window, 1),
            (*self.before, 0),
            (*self.rules, "constant"),
            1,
            (*self.windowed, self.windowed[-1]),
            (*self.strides[:-1], self.strides[-1] * self.unit, self.strides[-1]),
        )

    def beyond(self, axis: int) -> np.ndarray:
        """What positions beyond the border show (`borders.beyond`), in positions."""
        last = axis == len(self.shape) - 1
        size = self.shape[axis] // self.unit if last else self.shape[axis]
        before = self.before[axis]
        return beyond(size, before, self.window[axis] - 1 - before, self.rules[axis])


@lru_cache(maxsize=1024)
def filter_form(
    shape: tuple[int, ...],
    window: tuple[int, ...],
    before: tuple[int, ...],
    rules: tuple[str, ...],
    least: int = 1,
) -> FilterForm:
    """The form of a filter; the first four have one entry for each axis of the array.

    Rows of fewer than `least` elements give their place to the longest axis if that is longer.

    Examples
    --------
    >>> rules = ("reflect", "reflect", "constant")
    >>> form = filter_form((480, 640, 3), (5, 5, 1), (2, 2, 0), rules)
    >>> form.shape, form.window, form.unit
    ((480, 1920), (5, 5), 3)
    >>> filter_form((20, 3, 480, 640), (1, 1, 5, 5), (0, 0, 2, 2), ("mirror",) * 4).shape
    (60, 480, 640)
    >>> form = filter_form((200, 300, 5), (3, 3, 3), (1, 1, 1), ("mirror",) * 3, least=16)
    >>> form.shape, form.strides
    ((200, 5, 300), (1500, 1, 5))
    """
    if not shape:
        return filter_form((1,), (1,), (0,), ("constant",), least)
    # Each axis with a window by itself, each run of axes without one as one axis.
    present = [a for a, n in enumerate(shape) if n > 1 or window[a] > 1] or [0]
    runs = [tuple(run) for _, run in groupby(present, key=lambda a: a if window[a] > 1 else -1)]
    sizes = [math.prod(shape[a] for a in run) for run in runs]
    strides = [math.prod(sizes[r + 1 :]) for r in range(len(runs))]
    axes = [run[0] for run in runs]
    unit = 1
    joined = len(runs) > 1 and window[axes[-1]] == 1
    row = math.prod(sizes[-2:]) if joined else sizes[-1]
    longest = max(range(len(runs)), key=sizes.__getitem__)
    if row < least and sizes[longest] > row:
        for of in (sizes, strides, axes):
            of.append(of.pop(longest))
    elif joined:
        unit = sizes.pop()
        sizes[-1] *= unit
        strides[-2:] = [1]
        axes.pop()
    windows, begins = tuple(window[a] for a in axes), tuple(before[a] for a in axes)
    along = tuple(rules[a] for a in axes)
    return FilterForm(tuple(sizes), windows, begins, along, unit, tuple(axes), tuple(strides))
