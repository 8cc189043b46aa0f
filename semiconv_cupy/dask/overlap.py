"""A function of chunks and of what they need of their neighbours: one Dask graph.

A chunk with its surroundings is put together axis by axis, of thin slabs (three axes)::

    slabs along axis 0: parts of the two neighbours' chunks
    slabs along axis 1: parts of the two neighbours' faces and of their slabs along axis 0
    slabs along axis 2: parts of the two neighbours' faces and of their slabs along axes 0 and 1

So 2 d tasks a chunk copy what moves, each element once, where 3^d - 1 neighbours would be asked;
one more task allocates the whole, calls the function, and cuts the result. The faces of a chunk,
what others need of it along all axes but the first, are one task of that chunk alone: a slab that
needed the chunk and slabs of other workers could be cut where the chunk does not lie, so that a
whole chunk would move for it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import dask.array as da
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from semiconv_cupy.backends.place import place_of
from semiconv_cupy.dask.halo import Halo, Span, Stage
from semiconv_cupy.errors import as_repeated_call

Array = Any
Graph = dict[tuple[Any, ...] | str, Any]
Index = tuple[int, ...]


# What a task may carry of its own. A key that all tasks share lies on all workers, so that Dask's
# scheduler takes each of them for one that has a part of what a task needs, and moves chunks.
_MOST_CARRIED = 16 << 10


@dataclass(frozen=True, eq=False)
class Held:
    """What all tasks of a graph share: a function, an array. A graph takes it as one value."""

    value: Any


def shared(graph: Graph, key: str, value: Any) -> Held | str:
    """What a task takes to receive the `value`: the value itself if it is small, else a key."""
    held = Held(value)
    if len(pickle.dumps(held)) <= _MOST_CARRIED:
        return held
    graph[key] = held
    return key


def _run(held: Held, trim: Sequence[int], *parts: Any) -> Array:
    """The call of the arrays that the parts make, from `trim[0]` to `trim[1]` (...)."""
    arrays = [assembled(*part) for part in parts]
    with as_repeated_call():
        return cut(held.value(*arrays), trim)


def cut(result: Array, trim: Sequence[int]) -> Array:
    """From trim[0] to trim[1] of the first axis, and so on; a copy, so that no more stays."""
    if not trim:
        return result
    part = tuple(slice(*pair) for pair in zip(trim[::2], trim[1::2], strict=True))
    inner = result[part]
    return result if inner.shape == result.shape else inner.copy()


def assembled(base: Array, layers: Sequence[Any]) -> Array:
    """A chunk with its slabs around it, or the same of a part of it.

    `layers` has (axis, slabs before, slabs after) in the order in which they are laid around.
    """
    if not layers:
        return base
    begin, shape = [0] * base.ndim, list(base.shape)
    for along, before, after in layers:
        begin[along] = sum(slab.shape[along] for slab in before)
        shape[along] += begin[along] + sum(slab.shape[along] for slab in after)
    out = place_of(chunk=base).array_module.empty(tuple(shape), base.dtype)
    box = [slice(b, b + n) for b, n in zip(begin, base.shape, strict=True)]
    out[tuple(box)] = base
    for along, before, after in layers:
        position = 0
        end = box[along].stop
        for slab in before:
            out[_placed(box, along, position, slab)] = slab
            position += slab.shape[along]
        for slab in after:
            out[_placed(box, along, end, slab)] = slab
            end += slab.shape[along]
        box[along] = slice(0, shape[along])
    return out


def _placed(box: Sequence[slice], along: int, position: int, slab: Array) -> tuple[slice, ...]:
    return (*box[:along], slice(position, position + slab.shape[along]), *box[along + 1 :])


def piece_of(chunk: Array, axis: int, start: int, stop: int) -> Array:
    """A copy, so that the chunk need not stay."""
    return chunk[_along(axis, start, stop)].copy()


def faces(chunk: Array, pieces: Sequence[tuple[int, int, int]]) -> list[Array]:
    """Several pieces: of each (axis, start, stop)."""
    return [piece_of(chunk, *piece) for piece in pieces]


def slab(
    source: Array, face: int, layers: Sequence[Any], axis: int, start: int, stop: int
) -> Array:
    """A piece of a chunk and of its slabs; of `faces` it is one already, of a chunk face is -1."""
    part = _along(axis, start, stop)
    base = source[part] if face < 0 else source[face]
    return assembled(base, [
        (along, [one[part] for one in before], [one[part] for one in after])
        for along, before, after in layers
    ])  # fmt: skip


def _along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, slice(start, stop))


class Surroundings:
    """The tasks that put the chunks of one array together with what they need."""

    def __init__(self, array: da.Array, halo: Halo, name: str, graph: Graph) -> None:
        self.source, self.halo, self.name, self.graph = array.name, halo, name, graph
        self.chunks = array.chunks
        self.indices = list(product(*map(range, array.numblocks)))
        # Of each chunk, the pieces that are faces: what others need along all axes but the first.
        self.faces: dict[Index, dict[tuple[int, int, int], int]] = {}
        for index in self.indices:
            self._find_faces(index)
        for index, pieces in self.faces.items():
            if self._has_faces(index):
                graph[(f"{name}-faces", *index)] = (faces, (self.source, *index), list(pieces))
        for index in self.indices:
            self._add_slabs(index)

    def _windowed(self, index: Index, up_to: int) -> Iterator[tuple[int, Span]]:
        for axis in range(up_to):
            span = self.halo.axes[axis][index[axis]]
            if span.before or span.after:
                yield axis, span

    def _needed(self, index: Index) -> Iterator[tuple[Index, str, tuple[int, int, int]]]:
        """Of each of a chunk's slabs: the other chunk, the slab's name, the piece of the chunk."""
        for axis, span in self._windowed(index, len(index)):
            for number, piece in enumerate(span.before + span.after):
                other = (*index[:axis], piece.chunk, *index[axis + 1 :])
                yield other, f"{self.name}-{axis}-{number}", (axis, piece.start, piece.stop)

    def _find_faces(self, index: Index) -> None:
        for other, _, piece in self._needed(index):
            if any(self._windowed(other, piece[0])):
                found = self.faces.setdefault(other, {})
                found.setdefault(piece, len(found))

    def _has_faces(self, index: Index) -> bool:
        """Whether a chunk's faces are less than the chunk."""
        lengths = [sizes[i] for sizes, i in zip(self.chunks, index, strict=True)]
        pieces = self.faces.get(index, ())
        return sum((stop - start) / lengths[axis] for axis, start, stop in pieces) < 1

    def _add_slabs(self, index: Index) -> None:
        for other, name, piece in self._needed(index):
            source, layers = self._part(other, piece[0])
            if not layers:
                task: Any = (piece_of, source, *piece)
            elif self._has_faces(other):
                face = self.faces[other][piece]
                task = (slab, (f"{self.name}-faces", *other), face, layers, *piece)
            else:
                task = (slab, source, -1, layers, *piece)
            self.graph[(name, *index)] = task

    def part(self, index: Index) -> list[Any]:
        """The arguments of `assembled` for a chunk with all that it needs."""
        return self._part(index, len(index))

    def _part(self, index: Index, up_to: int) -> list[Any]:
        layers = []
        for axis, span in self._windowed(index, up_to):
            keys = [
                (f"{self.name}-{axis}-{number}", *index)
                for number in range(len(span.before) + len(span.after))
            ]
            count = len(span.before)
            layers.append([axis, keys[:count], keys[count:]])
        return [(self.source, *index), layers]

    def trim(self, index: Index, lengths: Index) -> list[int]:
        """Where the chunk lies in its surroundings, for `cut`; empty where it is all of them."""
        trims: list[int] = []
        if not any(True for _ in self._windowed(index, len(index))):
            return trims
        for axis, length in enumerate(lengths):
            offset = self.halo.axes[axis][index[axis]].offset
            trims += [offset, offset + length]
        return trims


def overlapped(
    call: Callable[..., Any],
    arrays: Sequence[da.Array],
    stages: Sequence[Stage],
    meta: Array,
    name: str,
) -> da.Array:
    """`call` of the chunks of arrays of one shape and equal chunks, with what the stages see."""
    first = arrays[0]
    halo = Halo.of(first.chunks, stages)
    token = tokenize(call, [array.name for array in arrays], stages)
    name = f"{name}-{token}"
    graph: Graph = {}
    held = shared(graph, f"call-{name}", call)
    around = [
        Surroundings(array, halo, f"slab{number}-{name}", graph)
        for number, array in enumerate(arrays)
    ]
    for index in around[0].indices:
        lengths = tuple(sizes[i] for sizes, i in zip(first.chunks, index, strict=True))
        parts = [one.part(index) for one in around]
        graph[(name, *index)] = (_run, held, around[0].trim(index, lengths), *parts)
    layered = HighLevelGraph.from_collections(name, graph, dependencies=list(arrays))
    return da.Array(layered, name, first.chunks, meta=meta)


def in_one_chunk(call: Callable[..., Any], arrays: Sequence[da.Array], meta: Array) -> da.Array:
    """`call` of the whole arrays, as one task; the result in the first one's chunks."""
    whole = [array.rechunk(array.shape) for array in arrays]
    result = da.map_blocks(call, *whole, dtype=meta.dtype, meta=meta)
    return result.rechunk(arrays[0].chunks)


def call_by_name(
    function: Callable[..., Any], names: tuple[str, ...], arguments: dict[str, Any], *arrays: Array
) -> Array:
    """The function of arrays with these names, and the other arguments."""
    return function(**dict(zip(names, arrays, strict=True)), **arguments)
