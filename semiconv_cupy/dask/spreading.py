"""What True elements reach within a limit: chunks' components, joined across borders.

Each chunk labels the components of the limit in itself and its surroundings. Where two neighbours'
surroundings overlap, an element has a label of each: these pairs are joined by union-find, once
for the image. Then each chunk paints the components that a True element anywhere belongs to. The
graph is static; what moves are slabs of the limit and of labels, and pairs of labels.

Chunks are read a second time for painting, after the labels are joined, so that they need not stay
in memory while all others are labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.base import tokenize
from dask.delayed import Delayed
from dask.graph_manipulation import bind
from dask.highlevelgraph import HighLevelGraph

from semiconv_cupy.backends.place import place_of, to_numpy
from semiconv_cupy.dask.halo import Halo, Reach
from semiconv_cupy.dask.overlap import Graph, Held, Surroundings, assembled, cut, shared
from semiconv_cupy.dask.union_find import reached
from semiconv_cupy.ndimage import neighbourhood

Array = Any
# What an element may be, in one array of uint8, which moves and is read as one.
START, LIMIT = 1, 2
# A label of the image has the chunk's number above this bit, and the chunk's own label below it.
_SHIFT = 40


def is_symmetric(steps: np.ndarray) -> bool:
    """Whether each step can be taken back, so that what is reached are components."""
    there = set(map(tuple, steps.tolist()))
    return all(tuple(-k for k in step) in there for step in there)


def spread(
    images: Sequence[da.Array], mark: Callable[[Sequence[da.Array]], da.Array], steps: np.ndarray
) -> da.Array:
    """What START reaches within LIMIT, which contains it, by symmetric steps; bool.

    `mark` makes of the images an array of uint8 of both, for each element, in equal chunks. It is
    called twice, since the images are read twice.
    """
    marks = mark(images)
    if marks.size == 0 or len(steps) == 0:
        return da.map_blocks(_started, marks, dtype=bool)
    reach = [int(k) for k in np.abs(steps).max(axis=0)]
    stage = tuple(Reach(k, k, "constant") for k in reach)
    halo = Halo.of(marks.chunks, [stage])
    if not any(span.more for along in halo.axes for span in along):
        return da.map_blocks(_paint_alone, marks, steps, dtype=bool)
    token = tokenize(marks.name, steps)
    joined = _join(marks, halo, steps, token)
    again = mark(bind(list(images), joined))
    name = f"painted-{token}"
    graph: Graph = {}
    held = shared(graph, f"steps-{name}", steps)
    around = Surroundings(again, halo, f"slab-{name}", graph)
    for number, index in enumerate(around.indices):
        lengths = tuple(sizes[i] for sizes, i in zip(marks.chunks, index, strict=True))
        graph[(name, *index)] = (
            _paint, held, number, joined.key, around.part(index), around.trim(index, lengths),
        )  # fmt: skip
    whole = HighLevelGraph.from_collections(name, graph, dependencies=[again, joined])
    meta = np.empty_like(meta_from_array(marks), dtype=np.bool_)
    return da.Array(whole, name, marks.chunks, meta=meta)


def _join(marks: da.Array, halo: Halo, steps: np.ndarray, token: str) -> Delayed:
    """The labels of all chunks that lie in overlaps and are reached."""
    name = f"labels-{token}"
    graph: Graph = {}
    held = shared(graph, f"steps-{name}", steps)
    around = Surroundings(marks, halo, f"slab-{name}", graph)
    numbers = {index: number for number, index in enumerate(around.indices)}
    pairs = []
    for index in numbers:
        overlaps = _overlaps(marks.chunks, halo, index)
        lengths = tuple(sizes[i] for sizes, i in zip(marks.chunks, index, strict=True))
        key, after, nexts = (name, *index), [], []
        graph[key] = (
            _label, held, around.part(index), around.trim(index, lengths),
            [[axis, *width] for axis, _, *width in overlaps],
        )  # fmt: skip
        for place, (axis, side, *_) in enumerate(overlaps, start=1):
            if side == 0:  # these elements move to the chunk before this one
                graph[f"overlap-{name}-{axis}", *index] = (_item, key, place)
                continue
            following = _next(marks.chunks, index, axis)
            after.append(place)
            nexts.append([numbers[following], (f"overlap-{name}-{axis}", *following)])
        graph[f"pairs-{name}", *index] = (_pairs, numbers[index], key, after, nexts)
        pairs.append((f"pairs-{name}", *index))
    joined = f"joined-{token}"
    graph[joined] = (_joined, pairs)
    return Delayed(joined, HighLevelGraph.from_collections(joined, graph, dependencies=[marks]))


def _next(chunks: Sequence[Sequence[int]], index: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The next chunk along an axis that has elements."""
    following = next(i for i in range(index[axis] + 1, len(chunks[axis])) if chunks[axis][i])
    return (*index[:axis], following, *index[axis + 1 :])


def _overlaps(
    chunks: Sequence[Sequence[int]], halo: Halo, index: tuple[int, ...]
) -> list[tuple[int, int, int, int]]:
    """(axis, side, start, stop): where a chunk's surroundings overlap those of its neighbours.

    Side 0 is the one before it. Counted from the beginning of its own surroundings.
    """
    found: list[tuple[int, int, int, int]] = []
    if not all(sizes[i] for sizes, i in zip(chunks, index, strict=True)):
        return found
    for axis, (sizes, i) in enumerate(zip(chunks, index, strict=True)):
        spans = halo.axes[axis]
        begin = sum(sizes[:i]) - spans[i].offset
        end = begin + sizes[i] + spans[i].more
        filled = [k for k, size in enumerate(sizes) if size]
        place = filled.index(i)
        if not spans[i].more and len(filled) > 1 and not any(span.more for span in spans):
            continue  # no step goes along this axis
        if place > 0:
            other = filled[place - 1]
            stop = sum(sizes[: other + 1]) + _behind(spans[other])
            found.append((axis, 0, 0, stop - begin))
        if place + 1 < len(filled):
            other = filled[place + 1]
            start = sum(sizes[:other]) - spans[other].offset
            found.append((axis, 1, start - begin, end - begin))
    return found


def _behind(span: Any) -> int:
    return int(span.more - span.offset)


# ---- tasks ---------------------------------------------------------------------------------------


def _label(
    steps: Held, part: Any, trim: Sequence[int], overlaps: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """The labels of a chunk's own starts that an overlap shows, and those of its overlaps."""
    marks = assembled(*part)
    labels = _components(marks >= LIMIT, steps.value)
    shown = [
        to_numpy(labels[(slice(None),) * axis + (slice(first, last),)]).copy()
        for axis, first, last in overlaps
    ]
    seeds = np.unique(to_numpy(cut(labels, trim)[_started(cut(marks, trim))]))
    seen = np.unique(np.concatenate([seeds[:0], *(np.unique(one) for one in shown)]))
    seeds = np.intersect1d(seeds, seen)
    return [seeds[seeds > 0], *shown]


def _components(limit: Array, steps: np.ndarray) -> Array:
    """The label of each True element: one more than the place of the last of its component."""
    place = place_of(limit=limit)
    xp = place.array_module
    dtype = np.int32 if limit.size < 2**31 - 1 else np.int64
    if limit.size == 0:
        return xp.zeros(limit.shape, dtype)
    numbers = xp.arange(1, limit.size + 1, dtype=dtype).reshape(limit.shape)
    zero = dtype(0)
    seed = xp.where(limit, numbers, zero)
    mask = xp.where(limit, dtype(limit.size), zero)
    return neighbourhood.reconstruct(place, seed, mask, _within(steps, limit.shape), False)


def _within(steps: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The steps that lead from some element of an array to another."""
    return steps[(np.abs(steps) < np.array(shape)).all(axis=1)]


def _item(values: Sequence[Any], place: int) -> Any:
    return values[place]


def _pairs(
    number: int, labels: Sequence[np.ndarray], places: Sequence[int], following: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Of a chunk the labels of the image that its starts have, and their pairs with others' labels.

    Its overlaps at `places` show the elements that `following` has of the next chunks, each with
    that chunk's number.
    """
    pairs = [np.zeros((0, 2), np.int64)]
    for place, (other, second) in zip(places, following, strict=True):
        first = labels[place]
        both = first > 0
        found = np.unique(np.stack([first[both], second[both]], axis=1).astype(np.int64), axis=0)
        pairs.append(found + (np.array([number, other], np.int64) << _SHIFT))
    return labels[0].astype(np.int64) + (np.int64(number) << _SHIFT), np.concatenate(pairs)


def _joined(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    seeds, pairs = zip(*found, strict=True)
    return reached(np.concatenate(pairs), np.concatenate(seeds))


def _started(marks: Array) -> Array:
    return (marks & START) != 0


def _paint(steps: Held, number: int, joined: np.ndarray, part: Any, trim: Sequence[int]) -> Array:
    """The components of a chunk that are reached: from its own elements and from one of each."""
    marks = assembled(*part)
    seed = _started(marks)
    xp = place_of(marks=marks).array_module
    low, high = (np.searchsorted(joined, np.int64(n) << _SHIFT) for n in (number, number + 1))
    seed.reshape(-1)[xp.asarray((joined[low:high] & ((1 << _SHIFT) - 1)) - 1)] = True
    return cut(_filled(seed, marks >= LIMIT, steps.value), trim)


def _filled(start: Array, limit: Array, steps: np.ndarray) -> Array:
    place = place_of(limit=limit)
    start, limit = (place.array_module.ascontiguousarray(array) for array in (start, limit))
    return neighbourhood.reconstruct(place, start, limit, _within(steps, limit.shape), False)


def _paint_alone(marks: Array, steps: np.ndarray) -> Array:
    """The same where no chunk has neighbours."""
    return _filled(_started(marks), marks >= LIMIT, steps)
