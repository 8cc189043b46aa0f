"""In which order and memory passes of parabolas are computed: in doubles, rounded once.

A dilation or an erosion of a large image goes part by part along the axis of its first pass; an
opening or closing, whose second half sees the whole image, in one array of doubles.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.lines import Finish, Pass, costs

Array = Any

# Images of fewer elements take little memory in doubles; on a GPU a part should keep it busy.
_LARGE, _LARGE_ON_GPU = 1 << 19, 1 << 25


def weight_of(scale: float) -> float:
    """By what the square of a distance is multiplied: 1 / scale^2; 0 of inf."""
    square = scale * scale
    return math.inf if square == 0 else 1 / square


def computed(
    place: Place,
    image: Array,
    scales: dict[int, float],
    dtype: np.dtype,
    minima: tuple[bool, ...],
    finish: Finish,
) -> Array:
    """Erosions (True) and dilations one after another, as a new array of a dtype."""
    passes = [(minimum, axis) for minimum in minima for axis in sorted(scales, reverse=True)]
    xp = place.array_module
    if not passes and (dtype.kind == "f" or dtype == image.dtype):
        return image.astype(dtype)
    if not passes:
        out = xp.empty(image.shape, dtype)
        _round(place, image, out, minima[0], finish)
        return out
    if dtype == np.float64 or len(passes) == 1:
        out = xp.empty(image.shape, dtype)
        _run(place, image, scales, passes, finish, out)
        return out
    large = image.size >= (_LARGE_ON_GPU if place.on_gpu else _LARGE)
    if large and len(minima) == 1:
        out = xp.empty(image.shape, dtype)
        before = (slice(None),) * passes[0][1]
        for begin, end in parts(image.shape[passes[0][1]], dtype.itemsize):
            part = out[(*before, slice(begin, end))]
            _run(place, image, scales, passes, finish, part, (begin, end))
        return out
    if large and not place.on_gpu:
        return _in_the_memory_of_doubles(place, image, scales, passes, finish, dtype)
    out = xp.empty(image.shape, dtype)
    _run(place, image, scales, passes, finish, out)
    return out


def parts(size: int, itemsize: int) -> list[tuple[int, int]]:
    """Parts of an axis whose elements take no more memory in double than all results.

    Examples
    --------
    >>> parts(1000, itemsize=2)
    [(0, 240), (240, 480), (480, 720), (720, 960), (960, 1000)]
    """
    width = max(16, size * itemsize // 8 // 16 * 16)  # rows of 16 doubles are lines of a cache
    return [(begin, min(begin + width, size)) for begin in range(0, size, width)]


def _run(
    place: Place,
    image: Array,
    scales: dict[int, float],
    passes: list[tuple[bool, int]],
    finish: Finish,
    out: Array,
    outputs: tuple[int, int] | None = None,
) -> None:
    """The passes into `out`, in doubles before the last one; `outputs` of the first one alone."""
    given: Array = image
    between: Array = out if out.dtype == np.float64 else None
    for number, (minimum, axis) in enumerate(passes, start=1):
        last = number == len(passes)
        if between is None and not last:
            between = place.array_module.empty(out.shape, np.float64)
        to = out if last else between
        weight = weight_of(scales[axis])
        step = Pass(axis, costs(given.shape[axis], weight), to, minimum=minimum, exact=weight == 0)
        if last:
            step = step._replace(finish=finish)
        neighbourhood.parabolas(place, given, step._replace(outputs=outputs))
        given, outputs = to, None


def _round(place: Place, image: Array, out: Array, minimum: bool, finish: Finish) -> None:
    """Every element as a pass stores it, by one that moves nothing; all are contiguous."""
    image, out, length = image.reshape(-1), out.reshape(-1), 4096
    whole = image.size // length * length
    for part, rows in ((slice(0, whole), (-1, length)), (slice(whole, None), (1, -1))):
        given, to = image[part], out[part]
        if given.size:
            given, to = given.reshape(rows), to.reshape(rows)
            stays = np.full(given.shape[1], np.inf)
            step = Pass(1, stays, to, minimum=minimum, finish=finish)
            neighbourhood.parabolas(place, given, step)


def _in_the_memory_of_doubles(
    place: Place,
    image: np.ndarray,
    scales: dict[int, float],
    passes: list[tuple[bool, int]],
    finish: Finish,
    dtype: np.dtype,
) -> np.ndarray:
    """The passes in doubles, rounded in the same memory, the rest of which is given back."""
    owner, block = np.empty(image.size, np.float64), 1 << 13
    _run(place, image, scales, passes, Finish.TO_NEAREST, owner.reshape(image.shape))
    for begin in range(0, image.size, block):  # what is overwritten has been rounded before
        doubles = owner[begin : begin + block].copy()
        rounded = np.empty(doubles.shape, dtype)
        _round(place, doubles, rounded, passes[-1][0], finish)
        owner.view(dtype)[begin : begin + rounded.size] = rounded
    owner.resize(-(-image.size * dtype.itemsize // 8), refcheck=False)
    return owner.view(dtype)[: image.size].reshape(image.shape)
