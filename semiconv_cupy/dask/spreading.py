"""What True elements reach within a limit: chunks' components, joined across borders.

Each chunk labels the components of the limit in itself and its surroundings. Where two neighbours'
surroundings overlap, an element has a label of each: these pairs are joined by union-find, once
for the image. Then each chunk paints the components that a True element anywhere belongs to. The
graph is static; what moves are slabs of the limit and of labels, and pairs of labels.

Chunks are read a second time for painting, after the labels are joined, so that they need not stay
in memory while all others are labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.graph_manipulation import bind
from dask.highlevelgraph import HighLevelGraph

from semiconv_cupy.backends.place import place_of, to_numpy
from semiconv_cupy.dask.halo import Halo, Reach
from semiconv_cupy.dask.overlap import Graph, Held, Surroundings, assembled, cut
from semiconv_cupy.dask.union_find import reached
from semiconv_cupy.ndimage import neighbourhood

Array = Any
_SHIFT = 40  # a label of the image is the chunk's number, and below it the label of the chunk


def is_symmetric(steps: np.ndarray) -> bool:
    """Whether each step can be taken back, so that what is reached are components."""
    there = set(map(tuple, steps.tolist()))
    return all(tuple(-k for k in step) in there for step in there)


def spread(start: da.Array, limit: da.Array, steps: np.ndarray) -> da.Array:
    """What `start` reaches within `limit`, which contains it, by symmetric steps; bool."""
    if start.size == 0 or len(steps) == 0:
        return start
    reach = [int(k) for k in np.abs(steps).max(axis=0)]
    stage = tuple(Reach(k, k, "constant") for k in reach)
    halo = Halo.of(limit.chunks, [stage])
    if not any(span.more for along in halo.axes for span in along):
        return da.map_blocks(_paint_alone, start, limit, steps, dtype=bool, meta=start._meta)
    token = tokenize(start.name, limit.name, steps)
    joined = _join(start, limit, halo, Held(steps), token)
    start, limit = bind([start, limit], joined)
    name = f"painted-{token}"
    graph: Graph = {f"steps-{name}": Held(steps)}
    around = Surroundings(limit, halo, f"slab-{name}", graph)
    for number, index in enumerate(around.indices):
        lengths = tuple(sizes[i] for sizes, i in zip(limit.chunks, index, strict=True))
        graph[(name, *index)] = (
            _paint, f"steps-{name}", number, joined.key, (start.name, *index),
            around.part(index), around.trim(index, lengths),
        )  # fmt: skip
    whole = HighLevelGraph.from_collections(name, graph, dependencies=[start, limit, joined])
    return da.Array(whole, name, limit.chunks, meta=start._meta)


def _join(start: da.Array, limit: da.Array, halo: Halo, steps: Held, token: str) -> Delayed:
    """The labels of all chunks that lie in overlaps and are reached."""
    name = f"labels-{token}"
    graph: Graph = {f"steps-{name}": steps}
    around = Surroundings(limit, halo, f"slab-{name}", graph)
    numbers = {index: number for number, index in enumerate(around.indices)}
    pairs, seeds = [], []
    for index, number in numbers.items():
        overlaps = _overlaps(limit.chunks, halo, index)
        lengths = tuple(sizes[i] for sizes, i in zip(limit.chunks, index, strict=True))
        key = (name, *index)
        graph[key] = (
            _label, f"steps-{name}", number, (start.name, *index), around.part(index),
            around.trim(index, lengths), [[axis, *width] for axis, _, *width in overlaps],
        )  # fmt: skip
        graph[f"seeds-{name}", *index] = (_item, key, 0)
        seeds.append((f"seeds-{name}", *index))
        for place, (axis, side, *_) in enumerate(overlaps):
            graph[f"overlap-{name}-{axis}-{side}", *index] = (_item, key, 1 + place)
            if side == 1:
                following = _next(limit.chunks, index, axis)
                pair = (f"pairs-{name}-{axis}", *index)
                graph[pair] = (
                    _pairs,
                    (f"overlap-{name}-{axis}-1", *index),
                    (f"overlap-{name}-{axis}-0", *following),
                )
                pairs.append(pair)
    joined = f"joined-{token}"
    graph[joined] = (_joined, seeds, pairs)
    return Delayed(
        joined, HighLevelGraph.from_collections(joined, graph, dependencies=[start, limit])
    )


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
    steps: Held, number: int, start: Array, part: Any, trim: Sequence[int], overlaps: Any
) -> list[np.ndarray]:
    """The labels of the chunk's own True elements that an overlap shows, and those of overlaps."""
    labels = _components(assembled(*part), steps.value)
    own = cut(labels, trim)
    shown = []
    for axis, first, last in overlaps:
        shown.append(
            to_numpy(labels[(slice(None),) * axis + (slice(first, last),)]).astype(np.int64)
        )
    offset = np.int64(number) << _SHIFT
    seeds = np.unique(to_numpy(own[start])).astype(np.int64)
    seen = np.unique(np.concatenate([np.zeros(0, np.int64), *(np.unique(one) for one in shown)]))
    seeds = np.intersect1d(seeds, seen)
    return [
        seeds[seeds > 0] + offset,
        *(np.where(one > 0, one + offset, 0) for one in shown),
    ]


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


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The different pairs of labels of the same elements."""
    both = first > 0
    return np.unique(np.stack([first[both], second[both]], axis=1), axis=0)


def _joined(seeds: Sequence[np.ndarray], pairs: Sequence[np.ndarray]) -> np.ndarray:
    none = np.zeros(0, np.int64)
    return reached(np.concatenate([none.reshape(0, 2), *pairs]), np.concatenate([none, *seeds]))


def _paint(
    steps: Held, number: int, joined: np.ndarray, start: Array, part: Any, trim: Sequence[int]
) -> Array:
    """The components of a chunk that are reached: from its own elements and from one of each."""
    limit = assembled(*part)
    place = place_of(limit=limit)
    xp = place.array_module
    seed = xp.zeros(limit.shape, np.bool_)
    box = tuple(slice(*pair) for pair in zip(trim[::2], trim[1::2], strict=True))
    seed[box] = start
    low, high = (np.searchsorted(joined, np.int64(n) << _SHIFT) for n in (number, number + 1))
    seed.reshape(-1)[xp.asarray((joined[low:high] & ((1 << _SHIFT) - 1)) - 1)] = True
    return cut(_filled(seed, limit, steps.value), trim)


def _filled(start: Array, limit: Array, steps: np.ndarray) -> Array:
    place = place_of(limit=limit)
    start, limit = (place.array_module.ascontiguousarray(array) for array in (start, limit))
    return neighbourhood.reconstruct(place, start, limit, _within(steps, limit.shape), False)


def _paint_alone(start: Array, limit: Array, steps: np.ndarray) -> Array:
    """The same where no chunk has neighbours."""
    return _filled(start, limit, steps)
