"""The primitives by array operations alone: slow, in the memory of a few arrays, for any library.

The backend where nothing is compiled (no C++ compiler, more than eight axes), and the oracle of the
tests. Its functions are those of `neighbourhood.Backend`.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place, place_of
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.borders import beyond, shows_constant
from semiconv_cupy.ndimage.lines import Finish, Pass
from semiconv_cupy.ndimage.window import WeightedTaps, Window

Array = Any


def _extended(xp: Any, array: Array, axis: int, window: Window, outside: Any) -> Array:
    """The array with what its border shows, on one axis."""
    before, rule = window.before[axis], window.rules[axis]
    table = beyond(array.shape[axis], before, window.shape[axis] - 1 - before, rule)
    border = xp.take(array, xp.asarray(table.clip(0)), axis=axis)
    if shows_constant(rule):
        border[...] = outside
    ahead, behind = xp.split(border, [before], axis=axis)
    return xp.concatenate([ahead, array, behind], axis=axis)


def _all_extended(xp: Any, array: Array, window: Window, outside: Any) -> Array:
    """The array with what its borders show, on all axes."""
    for axis in range(array.ndim):
        if window.shape[axis] > 1:
            array = _extended(xp, array, axis, window, outside)
    return array


def worst(dtype: np.dtype, minimum: bool) -> Any:
    """The value that every other one beats."""
    if dtype.kind == "b":
        return minimum
    if dtype.kind in "iu":
        return np.iinfo(dtype).max if minimum else np.iinfo(dtype).min
    return np.inf if minimum else -np.inf


def better(xp: Any, left: Array, right: Array, minimum: bool) -> Array:
    """The smaller (larger) of two, the left one where they are equal or the right one is NaN."""
    return xp.where(right < left if minimum else right > left, right, left)


def _without_nan(xp: Any, array: Array, minimum: bool) -> Array:
    """The array with the worst value in place of NaN."""
    if array.dtype.kind in "biu":
        return array
    return xp.where(array == array, array, array.dtype.type(worst(array.dtype, minimum)))


def extremum_along(xp: Any, array: Array, axes: tuple[int, ...], minimum: bool) -> Array:
    """The extremum over whole axes, which stay with length 1; NaN is never selected."""
    array = _without_nan(xp, array, minimum)
    for axis in axes:
        if array.shape[axis] <= 8:  # a reduction along a short axis is slow where that is the last
            parts = xp.split(array, array.shape[axis], axis=axis)
            array = reduce(xp.minimum if minimum else xp.maximum, parts)
        else:
            array = (array.min if minimum else array.max)(axis=axis, keepdims=True)
    return array


def view(array: Array, index: Any, shape: tuple[int, ...]) -> Array:
    """What the tap of that index sees, for all outputs."""
    return array[tuple(slice(i, i + n) for i, n in zip(index, shape, strict=True))]


def box(array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
    """The extremum over a box, by windows of doubled width."""
    xp = place_of(input=array).array_module
    array = _without_nan(xp, array, minimum)
    outside = _without_nan(np, outside, minimum)[()]
    for axis, size in enumerate(array.shape):
        length = window.shape[axis]
        if length == 1:
            continue
        wide = _extended(xp, array, axis, window, outside)

        def part(start: int, length: int, wide: Array = wide, axis: int = axis) -> Array:
            return wide[(slice(None),) * axis + (slice(start, start + length),)]

        width = 1
        while width < length:
            step = min(width, length - width)
            rest = wide.shape[axis] - step
            wide = better(xp, part(0, rest, wide), part(step, rest, wide), minimum)
            width += step
        array = part(0, size, wide)
    return xp.ascontiguousarray(array)


def footprint(array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
    """The extremum over any footprint that is not empty."""
    xp = place_of(input=array).array_module
    wide = _all_extended(xp, array, window, outside[()])
    best = xp.full(array.shape, worst(array.dtype, minimum), array.dtype)
    for index in window.indices():
        best = better(xp, best, view(wide, index, array.shape), minimum)
    return best


def structure(array: Array, window: Window, addends: Addends, minimum: bool) -> Array:
    """The extremum of element + addend; integers saturate."""
    xp = place_of(input=array).array_module
    saturating = array.dtype.kind in "iu" and array.dtype.itemsize == 8 and not addends.in_double
    kind = array.dtype if saturating else addends.values.dtype
    wide = _all_extended(xp, array.astype(kind), window, addends.outside.astype(kind)[()])
    best = xp.full(array.shape, worst(kind, minimum), kind)
    absent = saturating and addends.absent
    inside = _all_extended(xp, xp.ones(array.shape, bool), window, False) if absent else None
    for n, index in enumerate(window.indices()):
        part, value = view(wide, index, array.shape), addends.values[n]
        with np.errstate(invalid="ignore"):
            if saturating:
                part = _saturating_add(xp, part, int(value))
                if inside is not None:
                    part = xp.where(view(inside, index, array.shape), part, best)
            elif n == 0 and addends.first is not None:
                part = (part.astype(np.float64) + addends.first).astype(kind)
            else:
                part = part + value
        best = better(xp, best, part, minimum)
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        if kind.kind == "f" and array.dtype.itemsize == 8:
            # The highest 64-bit integers are no doubles.
            high = best >= float(info.max)
            inside = xp.trunc(xp.where(high, 0, best.clip(float(info.min), None)))
            return xp.where(high, array.dtype.type(info.max), inside.astype(array.dtype))
        best = xp.asarray(best.clip(info.min, info.max))  # also without axes
    with np.errstate(over="ignore"):
        return best.astype(array.dtype)


def _saturating_add(xp: Any, array: Array, value: int) -> Array:
    info = np.iinfo(array.dtype)
    kind = array.dtype.type
    if value >= 0:
        value = min(value, int(info.max) - int(info.min))
        room = int(info.max) - value
        if room < int(info.min):
            return xp.full_like(array, info.max)
        return xp.where(array > kind(room), kind(info.max), array + kind(min(value, info.max)))
    room = int(info.min) - value
    if room > int(info.max):
        return xp.full_like(array, info.min)
    if info.min == 0:
        return xp.where(array < kind(room), kind(0), array - kind(-value))
    return xp.where(array < kind(room), kind(info.min), array + kind(value))


def correlate(array: Array, window: Window, taps: WeightedTaps, out: Array) -> None:
    """Weighted sums in double precision into `out`."""
    place = place_of(input=array)
    xp, (indices, weights, symmetry, _) = place.array_module, taps.read()
    wide = _all_extended(xp, array.astype(np.float64), window, float(window.cval))
    total = xp.zeros(array.shape, np.float64)
    for n in range(len(weights) // 2 + 1 if symmetry else len(weights)):
        part = view(wide, indices[n], array.shape)
        if symmetry and n:
            other = view(wide, indices[len(weights) - n], array.shape)
            part = part + other if symmetry > 0 else part - other
        term = part * weights[n]
        total = term if symmetry and n == 0 else total + term
    with np.errstate(invalid="ignore", over="ignore"):
        out[...] = c_cast(place, total, out.dtype)


def c_cast(place: Place, total: Array, dtype: np.dtype) -> Array:
    """Doubles as C on x86 converts them: towards zero, then modulo the range.

    Halves are rounded once.
    """
    xp = place.array_module
    if dtype.kind == "b":
        return abs(total) >= 1
    if dtype.kind == "u" and dtype.itemsize == 8:
        return xp.where(
            total < 0, (-(-total).astype(dtype)).astype(dtype), abs(total).astype(dtype)
        )
    if dtype.kind in "iu":
        return total.astype(np.int64).astype(dtype)
    if dtype.name == "bfloat16" or (dtype == np.float16 and place.rounds_halves_twice):
        total = _rounded_to_odd(xp, total)
    with np.errstate(over="ignore"):
        return total.astype(dtype)


def _rounded_to_odd(xp: Any, total: Array) -> Array:
    """Doubles as float32: towards zero, then with the last bit set where that lost anything."""
    nearest = total.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.int32) - (abs(back) > abs(total))
    inexact = (back < total) | (back > total)
    return (bits | inexact).astype(np.int32).view(np.float32)


def _spreading(steps: np.ndarray) -> Window:
    """The window in which an output sees itself, and what lies one of the steps back."""
    reach = np.abs(steps).max(axis=0)
    taps = np.zeros(2 * reach + 1, np.bool_)
    taps[tuple((reach - steps).T)] = True
    taps[tuple(reach)] = True
    before = tuple(int(r) for r in reach)
    return Window(taps.shape, before, ("constant",) * len(before), taps=taps)


def limit(xp: Any, value: Array, mask: Array, minimum: bool) -> Array:
    """The values where the mask allows them, else the mask's."""
    return xp.where(value < mask if minimum else value > mask, mask, value)


def reconstruct(seed: Array, mask: Array, steps: np.ndarray, minimum: bool) -> Array:
    """What spreads from `seed` within `mask`: dilations limited by the mask, until none changes."""
    xp = place_of(input=seed).array_module
    window = _spreading(steps)
    outside = np.array(worst(seed.dtype, minimum), seed.dtype)
    value = limit(xp, seed, mask, minimum)
    while True:
        spread = footprint(value, window, outside, minimum)
        limited = limit(xp, spread, mask, minimum)
        if not bool((limited != value).any()):
            return limited
        value = limited


def nearest(unset: Array, step: Pass) -> None:
    """How far the nearest False lies along the last axis."""
    xp, n = place_of(input=unset).array_module, unset.shape[-1]
    positions = xp.arange(n)
    before = accumulated(xp, xp.where(unset, -1, positions), xp.maximum)
    after = accumulated(xp, xp.where(unset, n, positions)[..., ::-1], xp.minimum)[..., ::-1]
    to_left = positions - before
    left = (before >= 0) & ((after == n) | (to_left <= after - positions))
    winner = xp.where(left, before, after)
    winner[winner == n] = -1
    distance = xp.where(winner < 0, 0, abs(positions - winner))
    found = xp.where(winner < 0, np.inf, xp.asarray(step.costs)[distance])
    step.out[...] = xp.sqrt(found) if step.finish == Finish.ROOT else found
    if step.winners is not None:
        step.winners[...] = winner


def accumulated(xp: Any, array: Array, better: Any) -> Array:
    """The running extremum along the last axis, in steps of doubled width."""
    array, step = array.copy(), 1
    while step < array.shape[-1]:
        array[..., step:] = better(array[..., step:], array[..., :-step].copy())
        step *= 2
    return array


def parabolas(array: Array, step: Pass) -> None:
    """The extremum of element and cost along an axis: one distance after the other."""
    if step.costs.ndim > 1:
        _group_by_group(array, step)
        return
    place = place_of(input=array)
    xp, n = place.array_module, array.shape[step.axis]
    if step.costs[0] > 0:
        _leave(place, array, step)
        return
    value = xp.moveaxis(array.astype(np.float64), step.axis, -1)
    value = _without_nan(xp, value if step.minimum else -value, minimum=True)
    best = xp.full(value.shape, np.inf)
    winner = xp.full(value.shape, -1, np.int32)
    finite = value[xp.isfinite(value)]
    reach = n - 1
    if finite.size == value.size:  # costs above the range of values never win
        limit = float(finite.max()) - float(finite.min())
        reach = min(reach, int(np.searchsorted(step.costs, limit, side="right")))
    for offset in range(-reach, reach + 1):
        begin, end = max(-offset, 0), min(n - offset, n)
        part = best[..., begin:end]
        sums = value[..., begin + offset : end + offset] + float(step.costs[abs(offset)])
        wins = sums < part
        best[..., begin:end] = xp.where(wins, sums, part)
        positions = xp.arange(begin + offset, end + offset, dtype=np.int32)
        winner[..., begin:end] = xp.where(wins, positions, winner[..., begin:end])
    begin, end = step.outputs or (0, n)
    best = best[..., begin:end]
    result = best if step.minimum else 0 - best  # never -0
    step.out[...] = xp.moveaxis(_finished(place, result, step), -1, step.axis)
    if step.winners is not None:
        step.winners[...] = xp.moveaxis(winner, -1, step.axis)
        for plane in () if step.followers is None else step.followers:
            moved = xp.take_along_axis(plane, step.winners.clip(0), step.axis)
            plane[...] = xp.where(step.winners < 0, -1, moved)


def _group_by_group(array: Array, step: Pass) -> None:
    """The lines of each group of costs; costs that begin with infinity leave them as they are."""
    shape = array.shape
    inner = math.prod(shape[step.axis + 1 :])
    lines = (-1, step.groups, step.repeat, shape[step.axis], inner)
    for group, costs in enumerate(step.costs):
        given, out = array.reshape(lines)[:, group], step.out.reshape(lines)[:, group]
        winners = None if step.winners is None else step.winners.reshape(lines)[:, group]
        part = step._replace(axis=2, costs=costs, out=out, winners=winners, followers=None)
        parabolas(given, part)


def _leave(place: Place, array: Array, step: Pass) -> None:
    """Every element as it is, NaN too, and won by itself."""
    xp = place.array_module
    step.out[...] = _finished(place, array.astype(np.float64), step)
    if step.winners is not None:
        own = xp.arange(array.shape[step.axis], dtype=np.int32)
        step.winners[...] = own.reshape(-1, *(1,) * (array.ndim - 1 - step.axis))


def _finished(place: Place, result: Array, step: Pass) -> Array:
    """Results as they are stored: integers in one rounding, to the nearer end of their range."""
    xp, dtype = place.array_module, step.out.dtype
    if step.finish == Finish.ROOT:
        return xp.sqrt(result)
    if dtype.kind not in "iu":
        return c_cast(place, result, dtype)
    # near_whole of kernels_cu/parabolas.cuh
    near = xp.minimum(2.0**-32 + 2.0**-50 * abs(result), 0.25)
    if step.finish == Finish.UPWARD:
        whole = xp.ceil(result - near)
    elif step.finish == Finish.DOWNWARD:
        whole = xp.floor(result + near)
    else:
        whole = xp.rint(result)
    info = np.iinfo(dtype)
    # The highest 64-bit integers are no doubles.
    high = whole >= float(info.max)
    inside = xp.where(high, 0, whole.clip(float(info.min), None)).astype(dtype)
    return xp.where(high, dtype.type(info.max), inside)


def chamfer(unset: Array, steps: np.ndarray, features: bool) -> tuple[Array, Array | None]:
    """Distances in steps, by two scans: all elements at once that no step connects."""
    xp, shape = place_of(input=unset).array_module, unset.shape
    never = np.iinfo(np.int32).max - 1
    padded = xp.pad(xp.where(unset, never, 0).astype(np.int32), 1, constant_values=never)
    reached = xp.arange(padded.size, dtype=np.int64)
    distances = padded.ravel()
    pitches = np.array([math.prod(padded.shape[a + 1 :]) for a in range(unset.ndim)], np.int64)
    flat = sum(
        xp.asarray((np.arange(n) + 1) * p).reshape(-1, *(1,) * (unset.ndim - 1 - a))
        for a, (n, p) in enumerate(zip(shape, pitches, strict=True))
    ).ravel()
    # A step backwards in raster order lowers this number, whatever else it changes.
    rank = sum(np.indices(shape, sparse=True)[a] << (unset.ndim - 1 - a) for a in range(unset.ndim))
    order = np.argsort(rank.ravel(), kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(rank.ravel()))[:-1])
    for sign, fronts in ((1, groups), (-1, groups[::-1])):
        for front in fronts:
            at = flat[xp.asarray(front)]
            best, source = distances[at], reached[at]
            for offset in steps @ pitches:
                through = distances[at + sign * int(offset)] + 1
                wins = (through < best) & (best > 0)
                best = xp.where(wins, through, best)
                source = xp.where(wins, reached[at + sign * int(offset)], source)
            distances[at], reached[at] = best, source
    inner = (slice(1, -1),) * unset.ndim
    unreached = distances.reshape(padded.shape)[inner] == never
    found = xp.where(unreached, -1, distances.reshape(padded.shape)[inner]).astype(np.int32)
    if not features:
        return found, None
    dense = xp.zeros(padded.shape, np.int64)
    dense[inner] = xp.arange(unset.size).reshape(shape)
    origin = dense.ravel()[reached].reshape(padded.shape)[inner]
    return found, xp.where(unreached, -1, origin).astype(np.int32)
