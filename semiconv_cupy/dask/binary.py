"""Binary morphology of Dask arrays: steps by overlaps, and what runs until nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
from dask.array.utils import meta_from_array

from semiconv_cupy.dask import borders, spreading
from semiconv_cupy.dask.halo import MOST_GROWTH, Halo, repeated
from semiconv_cupy.dask.overlap import call_by_name, in_one_chunk, overlapped
from semiconv_cupy.dask.stages import STAGES, Arguments, binary_step
from semiconv_cupy.ndimage import binary
from semiconv_cupy.ndimage.structures import require_whole

Array = Any
Images = dict[str, da.Array]
_MOST_ROUNDS = 4096


def steps(function: Callable[..., Any], arguments: Arguments, images: Images) -> da.Array:
    """`binary_erosion` and `binary_dilation`."""
    name, image = function.__name__, images["input"]
    call = partial(call_by_name, function, tuple(images), arguments)
    meta = call(*map(meta_from_array, images.values()))
    stage = STAGES[name](arguments, image)[0]
    window = binary_step(arguments, image, dilate=name == "binary_dilation")
    iterations = require_whole(arguments["iterations"], "iterations")
    if image.size == 0 or iterations == 1:
        return overlapped(call, list(images.values()), [stage], meta, name)
    if window.contains_own_position():
        enough = image.size if "mask" in images else sum(image.shape)
        if iterations < 1 or iterations >= enough:
            return _until_nothing_changes(function, arguments, images)
    a_round = _steps_of_a_round(stage, image.chunks, iterations)
    if iterations < 1 or iterations > a_round * _MOST_ROUNDS:
        # Only a structure that does not contain its origin: its states may repeat in any period.
        return in_one_chunk(call, list(images.values()), meta)
    while iterations:
        count = min(a_round, iterations)
        call = partial(call_by_name, function, tuple(images), {**arguments, "iterations": count})
        done = overlapped(call, list(images.values()), [repeated(stage, count)], meta, name)
        images = {**images, "input": done}
        iterations -= count
    return done


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
    image = images["input"]
    start = steps(function, {**arguments, "iterations": 1}, images)
    window, _ = binary_step(arguments, image, dilate).within(image.shape)
    offsets = -window.offsets()
    offsets = offsets[offsets.any(axis=1)]
    may_change = da.map_blocks(_truth, images["mask"], dtype=bool) if "mask" in images else True
    changed = start if dilate else ~start
    limit = da.broadcast_to(changed | may_change, image.shape, chunks=image.chunks)
    if spreading.is_symmetric(offsets):
        result = spreading.spread(changed, limit, offsets)
    else:
        result = borders.reconstruct(changed, limit, offsets, minimum=False)
    return result if dilate else ~result


def _truth(array: Array) -> Array:
    return array != 0


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
    call_by_name(function, ("input",), arguments, meta_from_array(images["input"]))
    background = da.map_blocks(_falsehood, images["input"], dtype=bool)
    nothing = da.zeros_like(background)
    arguments = {**arguments, "iterations": -1, "border_value": 1, "brute_force": False}
    outside = {"input": nothing, "mask": background}
    return ~steps(binary.binary_dilation, arguments, outside)


def _falsehood(array: Array) -> Array:
    return array == 0
