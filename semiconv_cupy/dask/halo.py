"""Which elements of other chunks a chunk's outputs need: exactly, per axis and border rule.

A function is a chain of stages; each sees, along each axis, some positions before and after an
output's own (`Reach`). `spans` follows the chain from its end to its beginning. Array-free.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from semiconv_cupy.ndimage.window import Window


class Reach(NamedTuple):
    """How far an output looks along one axis, and what it sees beyond the image's border."""

    before: int
    after: int
    rule: str


Stage: TypeAlias = tuple[Reach, ...]  # one entry for each axis


class Piece(NamedTuple):
    """The elements from `start` to `stop` of a chunk along one axis."""

    chunk: int
    start: int
    stop: int


class Span(NamedTuple):
    """What a chunk's outputs need along one axis.

    Attributes
    ----------
    before, after : tuple of Piece
        What lies ahead of the chunk's own elements and behind them, in order.
    offset : int
        How many elements lie ahead.
    """

    before: tuple[Piece, ...]
    after: tuple[Piece, ...]

    @property
    def offset(self) -> int:
        return sum(piece.stop - piece.start for piece in self.before)

    @property
    def more(self) -> int:
        """How many elements of other chunks there are."""
        return self.offset + sum(piece.stop - piece.start for piece in self.after)


ALONE = Span((), ())

# So many elements are computed at most for one of the image, to save an exchange of two stages.
# Measured with openings of a uint8 volume in this process, one overlap against two: 0.44 to 0.89 of
# the processor time for growths up to 2.4, the same at 3.4; on a cluster an exchange costs more.
MOST_GROWTH = 3.0


def stage_of(window: Window) -> Stage:
    """What an output sees by a window: to its outermost taps."""
    return tuple(
        Reach(before, after, rule)
        for (before, after), rule in zip(_sides(window), window.rules, strict=True)
    )


def union(first: Stage, second: Stage) -> Stage:
    """What an output sees that depends on both windows at once."""
    return tuple(
        Reach(max(a.before, b.before), max(a.after, b.after), a.rule)
        for a, b in zip(first, second, strict=True)
    )


def _sides(window: Window) -> list[tuple[int, int]]:
    if window.taps is None:
        return list(zip(window.before, window.after, strict=True))
    if not window.taps.any():
        return [(0, 0)] * len(window.shape)
    offsets = window.offsets()
    first, last = offsets.min(axis=0), offsets.max(axis=0)
    return [(max(0, -int(b)), max(0, int(a))) for b, a in zip(first, last, strict=True)]


def needed(start: int, stop: int, size: int, chain: Sequence[Reach]) -> tuple[int, int]:
    """The elements that outputs from `start` to `stop` need of an axis of `size` elements.

    The function must compute the same from this part alone, whose border is the image's where it
    ends there. "wrap" joins the ends: the part may begin below 0, or end beyond `size`.

    Examples
    --------
    >>> needed(4, 8, 20, [Reach(2, 1, "nearest"), Reach(1, 2, "nearest")])
    (1, 11)
    >>> needed(0, 1, 20, [Reach(5, 0, "reflect")])  # positions -5 .. -1 show the elements 4 .. 0
    (0, 5)
    >>> needed(0, 4, 20, [Reach(2, 2, "wrap")]), needed(0, 4, 7, [Reach(2, 2, "wrap")])
    ((-2, 6), (0, 7))
    """
    if start == stop:
        return start, stop
    if any(reach.rule == "wrap" and (reach.before or reach.after) for reach in chain):
        start -= sum(reach.before for reach in chain)
        stop += sum(reach.after for reach in chain)
        return (start, stop) if stop - start < size else (0, size)
    for before, after, rule in reversed(chain):
        first, last = start - before, stop - 1 + after
        start, stop = max(first, 0), min(last, size - 1) + 1
        if rule in ("reflect", "mirror"):
            # Position -p shows the element p - 1, or p.
            more = int(rule == "mirror")
            if first < 0:
                stop = max(stop, -first + more)
            if last >= size:
                start = min(start, 2 * size - 1 - last - more)
        if start < 0 or stop > size:
            return 0, size
    return start, stop


def spans(sizes: Sequence[int], chain: Sequence[Reach]) -> tuple[Span, ...]:
    """What each chunk of an axis needs, of `sizes` elements each.

    Examples
    --------
    >>> spans((3, 1, 4), [Reach(2, 0, "nearest")])[2].before
    (Piece(chunk=0, start=2, stop=3), Piece(chunk=1, start=0, stop=1))
    """
    if not any(reach.before or reach.after for reach in chain):
        return (ALONE,) * len(sizes)
    ends = list(accumulate(sizes))
    size = ends[-1] if ends else 0
    found = []
    for length, end in zip(sizes, ends, strict=True):
        low, high = needed(end - length, end, size, chain)
        found.append(Span(between(ends, low, end - length), between(ends, end, high)))
    return tuple(found)


def between(ends: Sequence[int], low: int, high: int) -> tuple[Piece, ...]:
    """The pieces of chunks from `low` to `high`, which may lie beyond the axis' two ends."""
    size = ends[-1]
    if low < 0:
        low, high = low + size, high + size
        return (*between(ends, low, min(high, size)), *between(ends, 0, max(high - size, 0)))
    if high > size:
        return (
            *between(ends, min(low, size), size),
            *between(ends, max(low - size, 0), high - size),
        )
    if low >= high:
        return ()
    found, index = [], bisect_right(ends, low)
    while low < high:
        begin = ends[index - 1] if index else 0
        stop = min(ends[index], high)
        if stop > low:
            found.append(Piece(index, low - begin, stop - begin))
            low = stop
        index += 1
    return tuple(found)


class Halo(NamedTuple):
    """What the chunks of an array need along each axis."""

    axes: tuple[tuple[Span, ...], ...]

    @classmethod
    def of(cls, chunks: Sequence[Sequence[int]], stages: Sequence[Stage]) -> Halo:
        """What the chunks of an array need for a chain of stages."""
        return cls(
            tuple(
                spans(sizes, [stage[axis] for stage in stages]) for axis, sizes in enumerate(chunks)
            )
        )

    def growth(self, chunks: Sequence[Sequence[int]]) -> float:
        """How many elements are read, and computed, for one of the array's."""
        return math.prod(
            1 + sum(span.more for span in found) / max(1, sum(sizes))
            for found, sizes in zip(self.axes, chunks, strict=True)
        )

    def elements_moved(self, chunks: Sequence[Sequence[int]]) -> int:
        """Elements that chunks take from others: the least, as each is taken once."""
        whole = math.prod(sum(sizes) for sizes in chunks)
        read = math.prod(
            sum(sizes) + sum(span.more for span in found)
            for found, sizes in zip(self.axes, chunks, strict=True)
        )
        return read - whole


def repeated(stage: Stage, times: int) -> Stage:
    """One stage that sees as far as `times` steps that show the constant beyond the border."""
    return tuple(Reach(times * before, times * after, rule) for before, after, rule in stage)
