"""Binary morphology of Dask arrays: steps by overlaps, and what runs until nothing changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array

from semiconv_cupy.backends.place import place_of, to_numpy
from semiconv_cupy.dask import borders, spreading
from semiconv_cupy.dask.halo import MOST_GROWTH, Halo, repeated, stage_of
from semiconv_cupy.dask.overlap import call_by_name, in_one_chunk, overlapped
from semiconv_cupy.dask.stages import STAGES, Arguments, binary_step
from semiconv_cupy.ndimage import binary
from semiconv_cupy.ndimage.iterations import without_limit
from semiconv_cupy.ndimage.structures import require_whole

Array = Any
Images = dict[str, da.Array]
# With more rounds the graph would take more memory than the image.
_MOST_ROUNDS = 4096
# While waiting for a state that no longer changes, each state is compared with so many later ones.
_LONGEST_PERIOD = 12


def steps(function: Callable[..., Any], arguments: Arguments, images: Images) -> da.Array:
    """`binary_erosion` and `binary_dilation`."""
    name, image = function.__name__, images["input"]
    call = partial(call_by_name, function, tuple(images), arguments)
    meta = call(*map(meta_from_array, images.values()))
    stage = STAGES[name](arguments, image)[0]
    window = binary_step(arguments, image, dilate=name == "binary_dilation")
    iterations = require_whole(arguments["iterations"], "iterations")
    if image.size == 0:
        return overlapped(call, list(images.values()), [stage], meta, name)
    if iterations == 1:
        return _one_step(function, arguments, images)
    if window.contains_own_position():
        enough = image.size if "mask" in images else sum(image.shape)
        if iterations < 1 or iterations >= enough:
            return _until_nothing_changes(function, arguments, images)
    elif iterations < 1:
        return _until_it_repeats(function, arguments, images)
    a_round = _steps_of_a_round(stage, image.chunks, iterations)
    if iterations > a_round * _MOST_ROUNDS:
        return in_one_chunk(call, list(images.values()), meta)
    while iterations:
        count = min(a_round, iterations)
        call = partial(call_by_name, function, tuple(images), {**arguments, "iterations": count})
        done = overlapped(call, list(images.values()), [repeated(stage, count)], meta, name)
        images = {**images, "input": done}
        iterations -= count
    return done


def _one_step(function: Callable[..., Any], arguments: Arguments, images: Images) -> da.Array:
    """One step; of a mask each chunk needs its own elements alone."""
    image = images["input"]
    arguments = {**arguments, "iterations": 1}
    call = partial(call_by_name, function, ("input",), arguments)
    meta = call(meta_from_array(image))
    stage = STAGES[function.__name__](arguments, image)[0]
    changed = overlapped(call, [image], [stage], meta, function.__name__)
    if "mask" not in images:
        return changed
    return da.map_blocks(_where, images["mask"], changed, image, dtype=bool)


def _where(mask: Array, changed: Array, image: Array) -> Array:
    return place_of(input=image).array_module.where(mask != 0, changed, image != 0)


def _steps_of_a_round(stage: Any, chunks: Any, iterations: int) -> int:
    """How many steps each chunk computes between two exchanges."""
    count, most = 1, iterations if iterations > 0 else 1
    while count < most:
        more = min(2 * count, most)
        if Halo.of(chunks, [repeated(stage, more)]).growth(chunks) > MOST_GROWTH:
            break
        count = more
    return count


def _until_nothing_changes(
    function: Callable[..., Any], arguments: Arguments, images: Images
) -> da.Array:
    """One step, which sees the border; then what changes spreads, as in memory."""
    dilate = function.__name__ == "binary_dilation"
    names = list(images)

    def mark(arrays: Sequence[da.Array]) -> da.Array:
        given = dict(zip(names, arrays, strict=True))
        return _marked(_one_step(function, arguments, given), given.get("mask"), dilate)

    result = _spread(mark, arguments, images, dilate)
    return result if dilate else da.map_blocks(_not, result, dtype=bool)


def _spread(
    mark: Callable[[Sequence[da.Array]], da.Array], arguments: Arguments, images: Images,
    dilate: bool,
) -> da.Array:  # fmt: skip
    image = images["input"]
    window, _ = binary_step(arguments, image, dilate).within(image.shape)
    offsets = -window.offsets()
    offsets = offsets[offsets.any(axis=1)]
    if spreading.is_symmetric(offsets):
        return spreading.spread(list(images.values()), mark, offsets)
    marks = mark(list(images.values()))
    start, limit = (
        da.map_blocks(_has, marks, bit, dtype=bool) for bit in (spreading.START, spreading.LIMIT)
    )
    return borders.reconstruct(start, limit, offsets, minimum=False)


def _marked(first: da.Array, mask: da.Array | None, dilate: bool) -> da.Array:
    """What has changed after the first step, and what may change."""
    arrays = [first] if mask is None else [first, mask]
    return da.map_blocks(_marks, *arrays, dilate=dilate, dtype=np.uint8)


def _marks(first: Array, mask: Array | None = None, *, dilate: bool) -> Array:
    changed = (first if dilate else ~first).astype(np.uint8)
    if mask is None:
        return changed | np.uint8(spreading.LIMIT)
    may_change = (mask != 0).astype(np.uint8) | changed
    return changed * np.uint8(spreading.START) + may_change * np.uint8(spreading.LIMIT)


def _has(marks: Array, bit: int) -> Array:
    return (marks & np.uint8(bit)) != 0


def _not(array: Array) -> Array:
    return ~array


# ---- a structure that does not contain its origin ------------------------------------------------


def _until_it_repeats(
    function: Callable[..., Any], arguments: Arguments, images: Images
) -> da.Array:
    """Steps until nothing changes, whose number is found at once; the image is read for each test.

    States after 1, 2, 4, 8, ... steps are compared with the next ones by digests of the chunks, so
    that no more than a few chunks are in memory. In memory a longer period is found, too.
    """
    done, most = 1, 4 * images["input"].size + 4
    while done <= most:
        states = [steps(function, {**arguments, "iterations": done}, images)]
        for period in range(1, _LONGEST_PERIOD + 1):
            states.append(_one_step(function, arguments, {**images, "input": states[-1]}))
            if period not in (1, _LONGEST_PERIOD):
                continue
            first, *later = dask.compute(*map(_digests, states))
            same = [number for number, one in enumerate(later, start=1) if (one == first).all()]
            if 1 in same:
                return states[0]
            if same:
                raise ValueError(without_limit(f"they repeat every {same[0]} steps"))
        done *= 2
    raise ValueError(without_limit(f"they change after {done} steps"))


def _digests(state: da.Array) -> da.Array:
    ones = tuple((1,) * count for count in state.numblocks)
    return da.map_blocks(_digest, state, chunks=ones, dtype="U32", meta=np.empty(0, "U32"))


def _digest(block: Array) -> np.ndarray:
    bits = np.packbits(to_numpy(block))
    found = hashlib.blake2b(bits.tobytes(), digest_size=16).hexdigest()
    return np.full((1,) * block.ndim, found)


# ---- compositions --------------------------------------------------------------------------------


def opening(function: Callable[..., Any], arguments: Arguments, images: Images) -> da.Array:
    """`binary_opening` and `binary_closing`: one overlap where that computes little twice."""
    first, second = "binary_erosion", "binary_dilation"
    if function.__name__ == "binary_closing":
        first, second = second, first
    image = images["input"]
    iterations = require_whole(arguments["iterations"], "iterations")
    call = partial(call_by_name, function, tuple(images), arguments)
    meta = call(*map(meta_from_array, images.values()))
    if iterations >= 1:
        windows = [
            repeated(STAGES[name](arguments, image)[0], min(iterations, sum(image.shape)))
            for name in (first, second)
        ]
        if Halo.of(image.chunks, windows).growth(image.chunks) <= MOST_GROWTH:
            return overlapped(call, list(images.values()), windows, meta, function.__name__)
    for name in (first, second):
        images = {**images, "input": steps(getattr(binary, name), arguments, images)}
    return images["input"]


def propagation(function: Callable[..., Any], arguments: Arguments, images: Images) -> da.Array:
    """Dilations within the mask until nothing changes."""
    arguments = {**arguments, "iterations": -1, "brute_force": False}
    return steps(binary.binary_dilation, arguments, images)


def fill_holes(function: Callable[..., Any], arguments: Arguments, images: Images) -> da.Array:
    """The complement of what the background reaches from outside."""
    image = images["input"]
    call_by_name(function, ("input",), arguments, meta_from_array(image))
    if image.size == 0:
        return da.map_blocks(_falsehood, image, dtype=bool)
    window = binary_step(arguments, image, dilate=True)
    if window.contains_own_position():
        inner = tuple(
            (reach.before, length - reach.after)
            for reach, length in zip(stage_of(window), image.shape, strict=True)
        )
        reached = _spread(partial(_outside, inner), arguments, images, dilate=True)
    else:
        background = da.map_blocks(_falsehood, image, dtype=bool)
        outside = {"input": da.zeros_like(background), "mask": background}
        arguments = {**arguments, "iterations": -1, "border_value": 1, "brute_force": False}
        reached = steps(binary.binary_dilation, arguments, outside)
    return da.map_blocks(_not, reached, dtype=bool)


def _outside(inner: Any, images: Sequence[da.Array]) -> da.Array:
    """The background, and of it what a step from beyond the border reaches."""
    meta = meta_from_array(images[0]).astype(np.uint8)
    return da.map_blocks(_background, images[0], inner, dtype=np.uint8, meta=meta)


def _background(image: Array, inner: Any, block_info: Any = None) -> Array:
    limit = (image == 0).astype(np.uint8)
    start = limit.copy()
    place = block_info[0]["array-location"] if block_info else [(0, 0)] * image.ndim
    box = tuple(
        slice(min(max(low - first, 0), stop - first), max(high - first, 0))
        for (low, high), (first, stop) in zip(inner, place, strict=True)
    )
    start[box] = 0
    return start * np.uint8(spreading.START) + limit * np.uint8(spreading.LIMIT)


def _falsehood(array: Array) -> Array:
    return array == 0
