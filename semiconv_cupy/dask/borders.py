"""Reconstruction of an image in chunks: values go around among the chunks' borders.

How far a value spreads is not known before it is computed, so this is computed when it is called,
but only the chunks' borders stay in memory: each chunk is read, reconstructed with what its
neighbours' borders hold, and dropped; chunks around a border that has changed are read again, until
none changes. What is returned reconstructs each chunk once more, later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from semiconv_cupy.backends.place import place_of, to_numpy
from semiconv_cupy.ndimage import neighbourhood

Array = Any
Index = tuple[int, ...]
Box = tuple[tuple[int, int], ...]  # (start, stop) along each axis, in the image


@dataclass(frozen=True)
class Chunk:
    """One chunk, and where its borders and its surroundings lie.

    Attributes
    ----------
    own, around : tuple of (int, int)
        The chunk, and with what may spread into it.
    borders : tuple of boxes
        Its elements from which something may spread into other chunks.
    """

    own: Box
    around: Box
    borders: tuple[Box, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.around)


@dataclass(frozen=True)
class Known:
    """What is known of a chunk's neighbours: (where in its surroundings, values, limits)."""

    parts: tuple[tuple[tuple[slice, ...], np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class Rule:
    """How values spread."""

    steps: np.ndarray
    minimum: bool


def reconstruct(seed: da.Array, mask: da.Array, steps: np.ndarray, minimum: bool) -> da.Array:
    """`neighbourhood.reconstruct` of two Dask arrays of one dtype and of equal chunks."""
    if seed.size == 0 or len(steps) == 0:
        return seed
    chunks = _chunks(seed.chunks, steps)
    rule = Rule(steps, minimum)
    seeds, masks = (
        dict(zip(product(*map(range, array.numblocks)), array.to_delayed().ravel(), strict=True))
        for array in (seed, mask)
    )
    solve = dask.delayed(_borders_of, pure=False)
    near = {index: _near(chunks, index, seed.numblocks) for index in chunks}
    values: dict[Index, list[np.ndarray]] = {}
    limits: dict[Index, list[np.ndarray]] = {}
    # Nothing spreads out of the other chunks.
    active = [index for index in chunks if chunks[index].borders]
    while active:
        tasks = [
            solve(
                rule,
                chunks[index],
                _known(chunks, index, near, values, limits),
                seeds[index],
                masks[index],
            )
            for index in active
        ]
        changed = set()
        for index, (found, limit) in zip(active, dask.compute(*tasks), strict=True):
            before = values.get(index)
            if before is None or not all(map(np.array_equal, before, found)):
                changed.add(index)
            values[index], limits[index] = found, limit
        active = [
            index for index in chunks if chunks[index].borders and changed.intersection(near[index])
        ]
    return _finished(seed, mask, rule, chunks, near, values, limits)


def _finished(
    seed: da.Array, mask: da.Array, rule: Rule, chunks: Any, near: Any, values: Any, limits: Any
) -> da.Array:
    name = f"reconstruction-{tokenize(seed.name, mask.name, rule.steps, rule.minimum)}"
    graph: dict[Any, Any] = {f"rule-{name}": rule}
    for index, chunk in chunks.items():
        known = _known(chunks, index, near, values, limits)
        graph[(name, *index)] = (
            _reconstructed, f"rule-{name}", chunk, known, (seed.name, *index), (mask.name, *index),
        )  # fmt: skip
    layered = HighLevelGraph.from_collections(name, graph, dependencies=[seed, mask])
    return da.Array(layered, name, seed.chunks, meta=seed._meta)


# ---- where ---------------------------------------------------------------------------------------


def _chunks(sizes: Sequence[Sequence[int]], steps: np.ndarray) -> dict[Index, Chunk]:
    """All chunks. A value comes from `before` elements ahead at most, and from `after` behind."""
    before = [max(0, int(k)) for k in steps.max(axis=0)]
    after = [max(0, int(-k)) for k in steps.min(axis=0)]
    ends = [np.cumsum(along).tolist() for along in sizes]
    found = {}
    for index in product(*(range(len(along)) for along in sizes)):
        own = tuple((ends[a][i] - sizes[a][i], ends[a][i]) for a, i in enumerate(index))
        around = tuple(
            (max(0, start - before[a]), min(ends[a][-1], stop + after[a]))
            for a, (start, stop) in enumerate(own)
        )
        borders = []
        for axis, (start, stop) in enumerate(own):
            for first, last in (
                (start, min(stop, start + after[axis])),
                (max(start, stop - before[axis]), stop),
            ):
                if first < last and len(sizes[axis]) > 1:
                    borders.append((*own[:axis], (first, last), *own[axis + 1 :]))
        found[index] = Chunk(own, around, tuple(borders))
    return found


def _meet(first: Box, second: Box) -> Box | None:
    """The box that two boxes share."""
    shared = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))
    return shared if all(start < stop for start, stop in shared) else None


def _near(chunks: dict[Index, Chunk], index: Index, counts: Sequence[int]) -> list[Index]:
    """The other chunks in a chunk's surroundings."""
    around = chunks[index].around
    ranges = []
    for axis, (i, (start, stop)) in enumerate(zip(index, around, strict=True)):
        low = high = i
        line = lambda k: chunks[(*index[:axis], k, *index[axis + 1 :])].own[axis]  # noqa: E731, B023
        while low > 0 and line(low - 1)[1] > start:
            low -= 1
        while high + 1 < counts[axis] and line(high + 1)[0] < stop:
            high += 1
        ranges.append(range(low, high + 1))
    return [other for other in product(*ranges) if other != index]


def _part(box: Box, origin: Box) -> tuple[slice, ...]:
    """A box of the image as slices of an array that begins where `origin` does."""
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(box, origin, strict=True))


def _known(chunks: Any, index: Index, near: Any, values: Any, limits: Any) -> Known:
    """What is known of the surroundings of a chunk."""
    around, parts = chunks[index].around, []
    for other in near[index]:
        for place, border in enumerate(chunks[other].borders if other in values else ()):
            shared = _meet(border, around)
            if shared is not None:
                part = _part(shared, border)
                parts.append(
                    (
                        _part(shared, around),
                        values[other][place][part].copy(),
                        limits[other][place][part].copy(),
                    )
                )
    return Known(tuple(parts))


# ---- tasks ---------------------------------------------------------------------------------------


def _reconstructed(rule: Rule, chunk: Chunk, known: Known, seed: Array, mask: Array) -> Array:
    """A chunk reconstructed, with what is known of its surroundings."""
    place = place_of(seed=seed, mask=mask)
    xp, own = place.array_module, _part(chunk.own, chunk.around)
    wide_seed, wide_mask = (xp.full(chunk.shape, _weakest(seed.dtype, rule.minimum)) for _ in "sm")
    for part, value, limit in known.parts:
        wide_seed[part], wide_mask[part] = xp.asarray(value), xp.asarray(limit)
    wide_seed[own], wide_mask[own] = seed, mask
    if wide_seed.size == 0:
        return seed
    steps = rule.steps[(np.abs(rule.steps) < np.array(chunk.shape)).all(axis=1)]
    result = neighbourhood.reconstruct(place, wide_seed, wide_mask, steps, rule.minimum)
    return result[own].copy()


def _weakest(dtype: np.dtype, minimum: bool) -> Any:
    """The value that spreads nowhere."""
    if dtype.kind == "b":
        return np.bool_(minimum)
    if dtype.kind == "f":
        return dtype.type(np.inf if minimum else -np.inf)
    limits = np.iinfo(dtype)
    return dtype.type(limits.max if minimum else limits.min)


def _borders_of(
    rule: Rule, chunk: Chunk, known: Known, seed: Array, mask: Array
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The values and the limits of a chunk's borders once it is reconstructed."""
    result = _reconstructed(rule, chunk, known, seed, mask)
    parts = [_part(border, chunk.own) for border in chunk.borders]
    return [to_numpy(result[p]).copy() for p in parts], [to_numpy(mask[p]).copy() for p in parts]
