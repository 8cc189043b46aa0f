"""Convolutions and matrix products of Dask arrays in a semifield.

A convolution's chunks need what their windows see, by the stride and the padding of the call; each
chunk pads only where its windows reach beyond the image. Channels are contracted, so that each
chunk needs all of them. A product's chunks need whole rows of a and whole columns of b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from semiconv_cupy.chunked import is_chunked
from semiconv_cupy.dask.halo import ALONE, Halo, Span, between
from semiconv_cupy.dask.overlap import Graph, Held, Surroundings, assembled, shared
from semiconv_cupy.errors import as_repeated_call
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.operands import Operands

Array = Any
Arguments = dict[str, Any]
_GEOMETRY = ("stride", "padding", "dilation", "groups", "group_broadcasting", "kind")


class Part(NamedTuple):
    """The outputs of one chunk along a spatial axis.

    Attributes
    ----------
    outputs : int
        How many there are.
    span : Span
        What they need of other chunks.
    seen : (int, int)
        Which of the chunk and its surroundings their windows see.
    padding : (int, int)
        How far the windows reach beyond the image.
    """

    outputs: int
    span: Span
    seen: tuple[int, int]
    padding: tuple[int, int]


def parts_of(sizes: Sequence[int], geometry: Geometry, axis: int) -> list[Part]:
    """Each chunk of a spatial axis computes the outputs whose window's middle lies in it."""
    stride, begin = geometry.stride[axis], geometry.pad_begin[axis]
    extent = geometry.dilation[axis] * (geometry.kernel_size[axis] - 1) + 1
    ends = list(accumulate(sizes))
    count, size = geometry.out_size[axis], ends[-1]
    middle = (extent - 1) // 2 - begin  # the middle of output 0's window
    bounds = [min(count, max(0, -(-(end - middle) // stride))) for end in ends]
    last = max((k for k, length in enumerate(sizes) if length), default=len(sizes) - 1)
    bounds[last:] = [count] * (len(sizes) - last)
    found = []
    for number, (length, end) in enumerate(zip(sizes, ends, strict=True)):
        first, stop = bounds[number - 1] if number else 0, bounds[number]
        if first >= stop:
            found.append(Part(0, ALONE, (0, 0), (0, 0)))
            continue
        low, high = stride * first - begin, stride * (stop - 1) - begin + extent
        inside = (min(max(low, 0), size), max(min(high, size), 0))
        if inside[0] >= inside[1]:  # the windows lie wholly outside
            found.append(Part(stop - first, ALONE, (0, 0), (high - low, 0)))
            continue
        own = end - length
        span = Span(
            between(ends, min(inside[0], own), own), between(ends, end, max(inside[1], end))
        )
        origin = own - span.offset
        seen = (inside[0] - origin, inside[1] - origin)
        found.append(Part(stop - first, span, seen, (inside[0] - low, high - inside[1])))
    return found


def convolution(function: Callable[..., Any], arguments: Arguments) -> Any:
    """`semifield_conv` of an image in chunks; a kernel in chunks is small, and computed first."""
    img, krn = arguments.pop("img"), arguments.pop("krn")
    krn = krn.compute() if is_chunked(krn) else krn
    if not is_chunked(img):
        img = da.from_array(img, chunks=img.shape)
    given = {name: arguments.pop(name) for name in _GEOMETRY}
    geometry = Geometry.plan(img.shape, krn.shape, **given)
    img = img.rechunk({1: img.shape[1]})
    fixed = {name: value for name, value in given.items() if name != "padding"} | arguments
    least = np.empty_like(meta_from_array(img), shape=(0, img.shape[1], *krn.shape[2:]))
    metas = function(least, krn, **{**fixed, "stride": 1, "dilation": 1})
    name = f"semifield_conv-{tokenize(img.name, krn, given, arguments)}"
    axes = [parts_of(sizes, geometry, axis) for axis, sizes in enumerate(img.chunks[2:])]
    alone = ((ALONE,) * img.numblocks[0], (ALONE,))
    halo = Halo((*alone, *(tuple(part.span for part in axis) for axis in axes)))
    graph: Graph = {}
    work = shared(graph, f"work-{name}", (partial(function, **fixed), krn, metas))
    around = Surroundings(img, halo, f"slab-{name}", graph)
    for index in around.indices:
        parts = [axis[i] for axis, i in zip(axes, index[2:], strict=True)]
        shape = [geometry.out_channels, *(part.outputs for part in parts)]
        where = [[*part.seen, *part.padding] for part in parts]
        graph[(name, *index)] = (_convolved, work, around.part(index), where, shape)
    counts = (tuple(part.outputs for part in axis) for axis in axes)
    chunks = (img.chunks[0], (geometry.out_channels,), *counts)
    whole = HighLevelGraph.from_collections(name, graph, dependencies=[img])
    if not isinstance(metas, tuple):
        return da.Array(whole, name, chunks, meta=metas)
    return _each(da.Array(whole, name, chunks, meta=metas[0]), metas)


def _convolved(held: Held, part: Any, where: Any, shape: Sequence[int]) -> Any:
    """The outputs of one chunk."""
    call, krn, metas = held.value
    img = assembled(*part)
    if not all(shape):
        shape = (len(img), *shape)
        if isinstance(metas, tuple):
            return tuple(np.empty_like(meta, shape=shape) for meta in metas)
        return np.empty_like(metas, shape=shape)
    seen = (slice(None), slice(None), *(slice(start, stop) for start, stop, *_ in where))
    with as_repeated_call():
        return call(img[seen], krn, padding=tuple(tuple(padding) for _, _, *padding in where))


def _each(pairs: da.Array, metas: tuple[Array, ...]) -> tuple[da.Array, ...]:
    """Two arrays from one whose chunks are pairs of arrays."""
    return tuple(
        da.map_blocks(_item, pairs, place, dtype=meta.dtype, meta=meta)
        for place, meta in enumerate(metas)
    )


def _item(values: Sequence[Any], place: int) -> Any:
    return values[place]


# ---- products ------------------------------------------------------------------------------------


def matrix_product(function: Callable[..., Any], arguments: Arguments, own: Arguments) -> Any:
    """`semifield_matmul`, of which each chunk of the result is one product.

    `own`: the semifield's parameters; those with a value for each column are cut as columns are.
    """
    a, b = (_in_chunks(arguments.pop(name)) for name in "ab")
    operands = Operands.of(a.shape, b.shape)
    a, b = a.rechunk({-1: -1}), b.rechunk({max(-2, -b.ndim): -1})
    given = {name: value for name, value in arguments.items() if name != "out"}
    by_column = {name: x for name, x in own.items() if np.ndim(x) == 1 and len(x) > 1}
    fixed = {name: x for name, x in own.items() if name not in by_column}
    call = partial(_product, partial(function, **given), fixed, tuple(by_column))
    columns = b.shape[-1] if by_column and b.ndim > 1 else 0
    shapes = (0,) * a.ndim, (*(0,) * (b.ndim - 1), columns)
    operands_of_nothing = (
        np.empty_like(meta_from_array(x), shape=shape)
        for x, shape in zip((a, b), shapes, strict=True)
    )
    metas = call(*operands_of_nothing, *by_column.values())
    batch = len(operands.batch)
    row, column, term = batch, batch + 1, batch + 2
    axes_a = (*range(batch - max(a.ndim - 2, 0), batch), row, term) if a.ndim > 1 else (term,)
    axes_b = (*range(batch - max(b.ndim - 2, 0), batch), term, column) if b.ndim > 1 else (term,)
    out = (*range(batch), *((row,) if a.ndim > 1 else ()), *((column,) if b.ndim > 1 else ()))
    meta = metas[0] if isinstance(metas, tuple) else metas
    cut = (
        part
        for x in by_column.values()
        for part in (da.from_array(x, chunks=(b.chunks[-1],)), (column,))
    )
    result = da.blockwise(
        call, out, a, axes_a, b, axes_b, *cut, concatenate=True, name=None,
        token="semifield_matmul", dtype=meta.dtype,
        meta=meta[(slice(0),) * len(out)] if out else np.empty((), meta.dtype),
    )  # fmt: skip
    return _each(result, metas) if isinstance(metas, tuple) else result


def _product(
    call: Callable[..., Any],
    own: Arguments,
    names: Sequence[str],
    a: Array,
    b: Array,
    *values: Array,
) -> Any:
    """The product of two chunks, with the values of its columns."""
    return call(a, b, **own, **dict(zip(names, values, strict=True)))


def _in_chunks(value: Any) -> da.Array:
    """A Dask array; an axis of one element is one chunk, as Dask broadcasts chunks of such axes."""
    if not is_chunked(value):
        return da.from_array(value, chunks=np.shape(value))
    return value.rechunk(tuple((1,) if sum(sizes) == 1 else sizes for sizes in value.chunks))
