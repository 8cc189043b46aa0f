"""Parabolas and distances of Dask arrays: one axis at a time, each rechunked to whole lines.

A parabola sees no further in an image of integers than their range allows: where that is not far,
a chunk and its surroundings are enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.utils import parse_bytes

from semiconv_cupy.backends.place import place_of
from semiconv_cupy.dask.halo import Halo, Reach, Stage
from semiconv_cupy.dask.overlap import call_by_name, overlapped
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import check_axes, readable
from semiconv_cupy.ndimage.distance import checked_sampling
from semiconv_cupy.ndimage.lines import Finish, Pass, squares_of
from semiconv_cupy.parabolic import PASSES, scales_of
from semiconv_cupy.parabolic_passes import computed

Array = Any
Arguments = dict[str, Any]
Images = dict[str, da.Array]

# At most so many elements are computed for one of the image; otherwise all elements are exchanged,
# as doubles, before each pass.
MOST_GROWTH = 4.0


def whole_lines(array: da.Array, axis: int, chunks: Any) -> da.Array:
    """The array in pieces that contain whole lines along an axis: parts, or groups, of `chunks`.

    A piece has as many numbers as Dask's usual chunk of double, or as the largest of `chunks`.
    Ends of chunks stay ends of pieces: else each piece would need parts of many others. All axes
    but the first are joined first, and the first is cut first: pieces along two of them share its
    cuts, so that each is taken apart along one axis alone.
    """
    if array.numblocks[axis] <= 1:
        return array
    usual = parse_bytes(dask.config.get("array.chunk-size")) // 8
    most = max(usual, math.prod(max(sizes) for sizes in chunks))
    edges = list(array.shape)
    others = [other for other in range(array.ndim) if other != axis]
    least = {other: max(chunks[other]) for other in others}
    for other, floor in (
        *((other, least[other]) for other in reversed(others)),
        *((other, 1) for other in others),
    ):
        fits = most * edges[other] // max(1, math.prod(edges))
        edges[other] = min(edges[other], max(floor, fits))
    pieces = [pieces_of(sizes, edge) for sizes, edge in zip(chunks, edges, strict=True)]
    pieces[axis] = (array.shape[axis],)
    return array.rechunk(tuple(pieces))


def without_empty(chunks: Any) -> tuple[tuple[int, ...], ...]:
    """The chunks that have elements: with empty ones Dask cannot rechunk in several steps."""
    return tuple(tuple(size for size in sizes if size) or (0,) for sizes in chunks)


def pieces_of(sizes: Sequence[int], most: int) -> tuple[int, ...]:
    """Chunks cut into equal parts of `most` elements at most, or joined up to so many.

    Examples
    --------
    >>> pieces_of((10, 3, 2, 4), 5)
    (5, 5, 5, 4)
    """
    pieces: list[int] = []
    for size in sizes:
        count = max(1, -(-size // max(1, most)))
        if count > 1 or not pieces or pieces[-1] + size > most:
            pieces += [size * (k + 1) // count - size * k // count for k in range(count)]
        else:
            pieces[-1] += size
    return tuple(pieces)


def parabolic(function: Callable[..., Any], arguments: Arguments, images: Images) -> da.Array:
    """A pass along each axis in double, as in memory; the last one rounds. Or one overlap."""
    (image,) = images.values()
    call = partial(call_by_name, function, tuple(images), arguments)
    meta = call(meta_from_array(image))
    scales = scales_of(arguments["scale"], check_axes(arguments["axes"], image.ndim))
    minima, finish = PASSES[function.__name__]
    passes = [(minimum, axis) for minimum in minima for axis in sorted(scales, reverse=True)]
    if not passes:
        return da.map_blocks(call, image, dtype=meta.dtype, meta=meta)
    stages = [_seen(image, scales)] * len(minima)
    if Halo.of(image.chunks, stages).growth(image.chunks) <= MOST_GROWTH:
        return overlapped(call, [image], stages, meta, function.__name__)
    chunks = without_empty(image.chunks)
    result = image.rechunk(chunks)
    for number, (minimum, axis) in enumerate(passes, start=1):
        dtype = meta.dtype if number == len(passes) else np.dtype(np.float64)
        lines = whole_lines(result, axis, chunks)
        result = da.map_blocks(
            _parabolic_pass, lines, {axis: scales[axis]}, dtype, (minimum,),
            finish, dtype=dtype, meta=meta.astype(dtype),
        )  # fmt: skip
    return result.rechunk(chunks).rechunk(image.chunks)


def _seen(image: da.Array, scales: dict[int, float]) -> Stage:
    """How far one element may decide another: while the parabola has not fallen by their range."""
    reaches = [0] * image.ndim
    for axis, scale in scales.items():
        reaches[axis] = image.shape[axis]
        if image.dtype.kind in "iu" and math.isfinite(scale):
            limits = np.iinfo(image.dtype)
            far = math.floor(scale * math.sqrt(int(limits.max) - int(limits.min)))
            reaches[axis] = min(far, image.shape[axis])
    return tuple(Reach(reach, reach, "ignore") for reach in reaches)


def _parabolic_pass(
    image: Array, scales: dict[int, float], dtype: np.dtype, minima: Any, finish: Finish
) -> Array:
    place = place_of(input=image)
    return computed(place, readable(place, image), scales, dtype, minima, finish)


def distance(function: Callable[..., Any], arguments: Arguments, images: Images) -> Any:
    """The Euclidean distance axis by axis; indices, and other metrics, of the whole image."""
    (image,) = images.values()
    if arguments["return_indices"] or "metric" in arguments or image.ndim == 0:
        return of_the_whole(function, arguments, images)
    call = partial(call_by_name, function, tuple(images), arguments)
    meta = call(meta_from_array(image))
    sampling = arguments["sampling"]
    steps = None if sampling is None else checked_sampling(sampling, image.ndim)
    along = squares_of(image.shape, steps)
    chunks = without_empty(image.chunks)
    result = da.map_blocks(_is_set, image, dtype=bool).rechunk(chunks)
    for axis in reversed(range(image.ndim)):
        finish = Finish.ROOT if axis == 0 else Finish.TO_NEAREST
        lines = whole_lines(result, axis, chunks)
        result = da.map_blocks(
            _distance_pass, lines, axis, along.tables[axis], along.exact,
            finish, dtype=np.float64, meta=meta,
        )  # fmt: skip
    return result.rechunk(chunks).rechunk(image.chunks)


def _is_set(array: Array) -> Array:
    return array != 0


def _distance_pass(array: Array, axis: int, costs: Any, exact: bool, finish: Finish) -> Array:
    place = place_of(input=array)
    xp = place.array_module
    out = xp.empty(array.shape, np.float64)
    run = neighbourhood.nearest if array.dtype == np.bool_ else neighbourhood.parabolas
    run(place, xp.ascontiguousarray(array), Pass(axis, costs, out, finish=finish, exact=exact))
    return out


def of_the_whole(function: Callable[..., Any], arguments: Arguments, images: Images) -> Any:
    """A function of one whole image, as one task, cut into the image's chunks again."""
    (image,) = images.values()
    call = partial(call_by_name, function, tuple(images), arguments)
    metas = call(meta_from_array(image))
    (whole,) = image.rechunk(image.shape).to_delayed().ravel()
    computed_whole = dask.delayed(call, pure=True)(whole)
    several = isinstance(metas, tuple)
    found = []
    for place, meta in enumerate(metas if several else (metas,)):
        more = meta.ndim - image.ndim  # indices have an axis more, ahead
        shape, chunks = image.shape, image.chunks
        if more > 0:
            shape, chunks = (image.ndim, *shape), ((image.ndim,), *chunks)
        part = computed_whole[place] if several else computed_whole
        found.append(da.from_delayed(part, shape, meta=meta).rechunk(chunks))
    return tuple(found) if several else found[0]
