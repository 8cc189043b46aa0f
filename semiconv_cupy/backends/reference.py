"""The reference backend: plain array loops over the taps, for NumPy and CuPy arrays alike.

Slow and always right: it serves where there is no compiler, and for `method="reference"`. Arrays
come in checked, with their route, from ``run``; nothing here knows kernels or compilers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import SelectSemifield, Semifield
from semiconv_cupy.geometry import Geometry

if TYPE_CHECKING:
    from semiconv_cupy.route import Route

Array = Any
Channel = tuple[int, Array, Array]  # its number in the group, image, kernel


class Work(NamedTuple):
    """What is computed, and with the functions of which array module."""

    xp: Any
    semifield: Semifield
    geometry: Geometry
    dtype: np.dtype  # of the arithmetic

    @classmethod
    def of(cls, route: Route) -> Work:
        """A route's work; booleans are computed as 0 and 1."""
        semifield = route.semifield
        if route.storage == source.BOOLEAN:
            assert isinstance(semifield, SelectSemifield)
            semifield = semifield.boolean_equivalent or semifield
        dtype = np.dtype(source.ARITHMETIC[route.storage])
        return cls(route.place.array_module, semifield, route.geometry, dtype)


def forward(
    route: Route, img: Array, krn: Array, out: Array, residual: Array | None = None
) -> None:
    """Fill `out`, and `residual` where given."""
    work, storage = Work.of(route), route.storage
    with np.errstate(all="ignore"):
        value, kept = _convolve(work, _numbers(img, storage), _numbers(krn, storage))
        out[...] = _bits(work.xp, value) if _holds_bits(out, storage) else value
    if residual is not None:
        residual[...] = kept


def backward(
    route: Route,
    grad_out: Array,
    img: Array | None,
    krn: Array | None,
    residual: Array | None,
    grad_img: Array | None,
    grad_krn: Array | None,
) -> None:
    """Fill the gradients that are given; after a route by sums, compute the residual again."""
    work, storage = Work.of(route), route.storage
    grad_out, img, krn = (_numbers(array, storage) for array in (grad_out, img, krn))
    with np.errstate(all="ignore"):
        if route.by_sums:
            assert img is not None
            assert krn is not None
            residual = _convolve(work, img, krn)[1]
        _differentiate(work, grad_out, img, krn, residual, grad_img, grad_krn)


# ---- bfloat16 as the bits of integers ------------------------------------------------------------


def _holds_bits(array: Array, storage: str) -> bool:
    """Whether an array holds bfloat16 as the bits of integers."""
    return storage == "bfloat16" and array.dtype == np.uint16


def _numbers(array: Array, storage: str) -> Array:
    """The numbers that an array's bits stand for; None stays None."""
    if array is None or not _holds_bits(array, storage):
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _bits(xp: Any, values: Array) -> Array:
    """The nearest bfloat16 of float32 numbers, ties to even, as bits."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return xp.where(xp.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


# ---- loops over outputs' channels and taps -------------------------------------------------------


def _convolve(work: Work, img: Array, krn: Array) -> tuple[Array, Array | None]:
    """The convolution in the arithmetic's dtype, and its residual.

    The residual is as ``residual.residual_of`` says, but indices have NumPy's integer type.
    """
    xp, semifield, geometry, dtype = work
    img = img.astype(dtype, copy=False)
    krn = krn.astype(dtype, copy=False)
    add = _ADDITIONS[semifield.accumulator]
    out = xp.empty(geometry.out_shape, dtype)
    times = _times(xp, semifield, dtype)
    shape = (geometry.batch, *geometry.out_size)
    residuals: list[Any] = []
    for plane, channels in _planes(geometry, img, krn):
        groups = _addends(semifield, channels)
        parts = [
            add(xp, semifield, dtype, shape, lambda some=some: _terms(geometry, some, times))
            for some in groups
        ]
        out[:, plane] = _sum_of([value for value, _ in parts], dtype)
        residuals.append([residual for _, residual in parts])
    if residuals[0][0] is None:
        return out, None
    # (plane, part, [array,] batch, pixels) -> ([array,] batch, plane, [part,] pixels)
    residual = xp.stack([xp.stack(row) for row in residuals])
    stacked = residual.ndim == geometry.rank + 4
    residual = xp.moveaxis(residual, (2, 3), (0, 1)) if stacked else xp.moveaxis(residual, 2, 0)
    if not _per_channel(semifield):
        residual = residual[:, :, :, 0] if stacked else residual[:, :, 0]
    return out, residual


def _differentiate(
    work: Work,
    grad_out: Array,
    img: Array | None,
    krn: Array | None,
    residual: Array | None,
    grad_img: Array | None,
    grad_krn: Array | None,
) -> None:
    """Fill the gradients that are given."""
    xp, semifield, geometry, dtype = work
    ones = xp.ones((1,) * (geometry.rank + 2), dtype)
    img = (
        xp.broadcast_to(ones, geometry.img_shape) if img is None else img.astype(dtype, copy=False)
    )
    krn = (
        xp.broadcast_to(ones, geometry.krn_shape) if krn is None else krn.astype(dtype, copy=False)
    )
    grad_out = grad_out.astype(dtype, copy=False)
    for gradient in (grad_img, grad_krn):
        if gradient is not None:
            gradient[...] = 0
    functions = semifield.functions
    for plane, channels in _planes(geometry, img, krn):
        group, output = divmod(plane, geometry.outputs_per_group)
        kernel = output if geometry.shares_kernels else plane
        for channel, image, weights in channels:
            at = (plane, channel) if _per_channel(semifield) else (plane,)
            weight_of = _weight(xp, semifield, residual, at)
            for index, tap in _taps(geometry, channel):
                places = _places(geometry, tap)
                if places is None:
                    continue
                outputs, inputs = places
                pixel, weight = image[inputs], weights[tap]
                share = weight_of(outputs, functions.times(pixel, weight), index)
                flow = _chained(xp, grad_out[:, plane][outputs], share)
                if grad_img is not None:
                    part = _chained(xp, flow, functions.d_times_d_img(pixel, weight))
                    grad_img[:, group * geometry.in_channels + channel][inputs] += part
                if grad_krn is not None:
                    part = _chained(xp, flow, functions.d_times_d_krn(pixel, weight))
                    grad_krn[(kernel, channel, *tap)] += part.sum()


def _chained(xp: Any, flow: Array, slope: Any) -> Array:
    """A product of the chain rule: 0 where one factor is, infinite as the other may be.

    NaN in `flow` stays (``chained`` of ``kernels_cu/accumulators.cuh``).
    """
    nothing = (flow == 0) | ((slope == 0) & (flow == flow))
    return xp.where(nothing, flow.dtype.type(0), flow * slope)


def _planes(geometry: Geometry, img: Array, krn: Array) -> Iterator[tuple[int, list[Channel]]]:
    """(output channel, its input channels with their kernels)."""
    for plane in range(geometry.out_channels):
        group, output = divmod(plane, geometry.outputs_per_group)
        kernel = krn[output if geometry.shares_kernels else plane]
        first = group * geometry.in_channels
        yield plane, [(i, img[:, first + i], kernel[i]) for i in range(geometry.in_channels)]


def _per_channel(semifield: Semifield) -> bool:
    return semifield.channels_add


def _addends(semifield: Semifield, channels: list[Any]) -> list[list[Any]]:
    """The channels that the semifield's own addition joins."""
    return [[one] for one in channels] if _per_channel(semifield) else [channels]


def _sum_of(parts: list[Array], dtype: np.dtype) -> Array:
    total = parts[0]
    for part in parts[1:]:
        total = total + part if dtype.kind == "f" else _saturate(_wide(total) + _wide(part), dtype)
    return total


def _places(
    geometry: Geometry, tap: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """The outputs that see this tap inside the image, and the image positions they see there."""
    outputs: list[slice] = [slice(None)]
    inputs: list[slice] = [slice(None)]
    for axis, index in enumerate(tap):
        stride = geometry.stride[axis]
        corner = geometry.dilation[axis] * geometry.step(axis, index) - geometry.pad_begin[axis]
        first = max(0, -(corner // stride))
        last = min(geometry.out_size[axis] - 1, (geometry.image_size[axis] - 1 - corner) // stride)
        if last < first:
            return None
        outputs.append(slice(first, last + 1))
        inputs.append(slice(corner + first * stride, corner + last * stride + 1, stride))
    return tuple(outputs), tuple(inputs)


def _terms(
    geometry: Geometry, channels: list[Channel], times: Callable[[Array, Array], Array]
) -> Iterator[tuple[int, tuple[slice, ...], Array]]:
    """(tap, outputs that see it inside the image, the terms), in the kernel's memory order."""
    for channel, image, kernel in channels:
        for index, tap in _taps(geometry, channel):
            places = _places(geometry, tap)
            if places is not None:
                yield index, places[0], times(image[places[1]], kernel[tap])


def _taps(geometry: Geometry, channel: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(index in the kernel's memory order, position in the kernel) of one channel's taps."""
    positions = itertools.product(*(range(k) for k in geometry.kernel_size))
    return enumerate(positions, channel * (geometry.taps // geometry.in_channels))


# ---- additions: (xp, semifield, dtype, shape, terms) -> the windows' values and residuals --------


def _select(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> tuple[Array, Array | None]:
    best = xp.full(shape, _saturated_zero(semifield, dtype), dtype)
    winner, select = xp.full(shape, -1, np.int64), _selection(semifield, dtype)
    for index, where, value in terms():
        seen = best[where]
        better = select(seen, value)
        best[where] = xp.where(better, value, seen)
        winner[where] = xp.where(better, index, winner[where])
    if not semifield.spread_gradient:
        return best, winner
    count = xp.zeros(shape, dtype)
    for _, where, value in terms():
        count[where] += (value == best[where]) & (value != semifield.zero)
    return best, xp.stack([best, count])


def _sum(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> tuple[Array, Array | None]:
    # A compensated addition per term (Knuth's TwoSum): as accurate as the kernels' blocks.
    total, correction = xp.full(shape, semifield.zero, dtype), xp.zeros(shape, dtype)
    for _, where, value in terms():
        _compensated_add(xp, total, correction, where, value)
    acc = total + correction
    return _post(semifield, acc), acc[None] if "post_sum" in semifield.expressions else None


def _compensated_add(
    xp: Any, total: Array, correction: Array, where: tuple[slice, ...], value: Array
) -> None:
    before = total[where]
    after = before + value
    shadow = after - before
    error = (before - (after - shadow)) + (value - shadow)
    correction[where] += xp.where(xp.isfinite(after), error, 0)
    total[where] = after


def _post(semifield: Semifield, acc: Array) -> Array:
    post_sum = getattr(semifield.functions, "post_sum", None)
    return acc if post_sum is None else post_sum(acc)


def _log(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> tuple[Array, Array | None]:
    mu = dtype.type(semifield.parameter)
    extreme = xp.full(shape, semifield.zero, dtype)
    for _, where, value in terms():
        extreme[where] = (xp.fmax if mu > 0 else xp.fmin)(extreme[where], value)
    shift = xp.where(xp.isfinite(extreme), extreme, 0)
    infinite = extreme == -semifield.zero  # then infinite terms are counted, and no others
    total, correction = xp.zeros(shape, dtype), xp.zeros(shape, dtype)
    for _, where, value in terms():
        power = xp.exp(mu * (value - shift[where]))
        counted = infinite[where] & ~xp.isnan(value)
        power = xp.where(counted, (value == extreme[where]).astype(dtype), power)
        _compensated_add(xp, total, correction, where, power)
    total = total + correction
    shift = xp.where(infinite, extreme, shift)
    return shift + xp.log(total) / mu, xp.stack([shift, total])


def _root(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> tuple[Array, Array | None]:
    p = float(semifield.parameter or 0)
    extreme = xp.full(shape, semifield.zero, dtype)
    negative = xp.zeros(shape, bool)
    for _, where, value in terms():
        extreme[where] = (xp.fmax if p > 0 else xp.fmin)(extreme[where], value)
        negative[where] |= value < 0
    scale = xp.where(xp.isfinite(extreme) & (extreme > 0), extreme, dtype.type(1))
    total, correction = xp.zeros(shape, dtype), xp.zeros(shape, dtype)
    for _, where, value in terms():
        power = _power_of_ratio(xp, value, scale[where], p, 0)
        _compensated_add(xp, total, correction, where, power)
    total = total + correction
    result = scale * total ** dtype.type(1 / p)
    result, total = (xp.where(negative, dtype.type(np.nan), array) for array in (result, total))
    return result, xp.stack([scale, total])


def _custom(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> tuple[Array, Array | None]:
    acc = xp.full(shape, semifield.zero, dtype)
    for _, where, value in terms():
        acc[where] = semifield.functions.add(acc[where], value)
    return _post(semifield, acc), acc[None]


_ADDITIONS = {"select": _select, "sum": _sum, "log": _log, "root": _root, "custom": _custom}


def _weight(
    xp: Any, semifield: Semifield, residual: Any, at: tuple[int, ...]
) -> Callable[..., Any]:
    """(outputs, terms, tap) -> d result / d term, from the residual of one output channel."""
    kind, functions = semifield.accumulator, semifield.functions
    if residual is None:
        return lambda outputs, value, tap: 1
    if kind == "select" and not semifield.spread_gradient:
        winner = residual[(slice(None), *at)]
        return lambda outputs, value, tap: (winner[outputs] == tap).astype(value.dtype)
    first = residual[(0, slice(None), *at)]
    if kind in ("sum", "custom"):
        post = "post_sum" in semifield.expressions
        slope = functions.d_post_d_acc(first) if post else xp.ones_like(first)
        empty = first == semifield.zero

        def finite_at_zero(slope: Array, empty: Array) -> Array:
            return xp.where(empty & ~xp.isfinite(slope), slope.dtype.type(0), slope)

        if kind == "sum":
            slope = finite_at_zero(slope, empty)
            return lambda outputs, value, tap: slope[outputs]
        return lambda outputs, value, tap: finite_at_zero(
            slope[outputs]
            * functions.d_add_d_right(functions.subtract(first[outputs], value), value),
            empty[outputs],
        )
    second = residual[(1, slice(None), *at)]
    if kind == "select":
        share = xp.where(second > 0, 1 / second, 0)
        return lambda outputs, value, tap: xp.where(value == first[outputs], share[outputs], 0)
    parameter = first.dtype.type(semifield.parameter)
    if kind == "log":
        share = xp.where(second == 0, 0, 1 / second)
        return lambda outputs, value, tap: (  # fmin makes 0 of inf - inf, an infinite term's
            share[outputs] * xp.exp(xp.fmin(parameter * (value - first[outputs]), 0))
        )
    return _weight_of_power(xp, parameter, first, second)


def _weight_of_power(xp: Any, p: Any, scale: Array, total: Array) -> Callable[..., Any]:
    """The weights of a root, as `_weight`.

    A window of nothing but the zero has weight 0 (p = 1: 1); an infinite term (p < 0: 0) has 1,
    and beside it the others have what (value / infinity)^(p - 1) is.
    """
    limit = np.inf if p > 0 else 0.0
    infinite, empty = total == np.inf, total == 0
    factor = xp.where(infinite, 1, xp.where(empty, p == 1, total ** (1 / p - 1)))
    scale = xp.where(infinite, limit, scale)

    def weight(outputs: tuple[slice, ...], value: Array, tap: int) -> Array:
        share = factor[outputs] * _power_of_ratio(xp, value, scale[outputs], p, 1)
        alone = empty[outputs] | (infinite[outputs] & (value == limit))
        return xp.where(alone, factor[outputs], share)

    return weight


def _power_of_ratio(xp: Any, value: Array, scale: Array, p: Any, minus: int) -> Array:
    """(value / scale)^(p - minus), also where a small p makes something of a ratio that leaves the
    range of numbers: its logarithm is a difference."""
    ratio, exponent = value / scale, value.dtype.type(p - minus)
    power = ratio**exponent
    if abs(p) >= 1:
        return power
    outside = (ratio < np.finfo(value.dtype).tiny) | (ratio == np.inf)
    return xp.where(outside, xp.exp(exponent * (xp.log(value) - xp.log(scale))), power)


# ---- integers: exact, saturating ----------------------------------------------------------------


def _saturated_zero(semifield: Semifield, dtype: np.dtype) -> Any:
    if dtype.kind == "f":
        return dtype.type(semifield.zero)
    limits = np.iinfo(dtype)
    return dtype.type(min(max(semifield.zero, limits.min), limits.max))


def _wide(array: Array) -> Array:
    """Numbers in which sums, differences and products of two of `array`'s are exact."""
    return array.astype(np.int64 if array.dtype.itemsize < 8 else object)


def _saturate(values: Array, dtype: np.dtype) -> Array:
    limits = np.iinfo(dtype)
    return values.clip(limits.min, limits.max).astype(dtype)


def _exact(dtype: np.dtype) -> Any:
    """The dtype in which formulas of these integers are computed.

    uint32 products need 64 unsigned bits and differences a sign: Python integers hold both.
    """
    return object if dtype.itemsize == 8 or dtype == np.uint32 else np.int64


def _selection(semifield: Semifield, dtype: np.dtype) -> Callable[[Array, Array], Array]:
    select: Callable[[Array, Array], Array] = semifield.functions.select
    if dtype.kind == "f" or not semifield.traits("integer").wide_select:
        return select
    exact = _exact(dtype)
    return lambda seen, value: select(seen.astype(exact), value.astype(exact)).astype(np.bool_)


def _times(xp: Any, semifield: Semifield, dtype: np.dtype) -> Callable[[Array, Array], Array]:
    times: Callable[[Array, Array], Array] = semifield.functions.times
    if dtype.kind == "f":
        return times
    if dtype.itemsize == 8 and xp is not np:
        raise TypeError(f"method='reference' serves no {dtype} arrays of CuPy; use method='auto'")
    exact = _exact(dtype)

    def saturating(image: Array, weight: Array) -> Array:
        with np.errstate(over="ignore"):
            # A single Python integer would become a number of 64 bits again.
            value = times(image.astype(exact), xp.asarray(weight).astype(exact))
        return _saturate(value, dtype)

    return saturating
