"""The additions, multiplications and derivatives of a semifield as functions of arrays.

For NumPy and CuPy arrays alike. ``reference`` loops over the taps of windows with them,
``reference_product`` over the terms of matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import SelectSemifield, Semifield
from semiconv_cupy.algebra.arrays import ArrayFunction
from semiconv_cupy.algebra.slopes import kept_slopes, slopes_of

Array = Any


def computed_semifield(semifield: Semifield, storage: str) -> Semifield:
    """The semifield whose formulas are computed: booleans are computed as 0 and 1."""
    if storage != source.BOOLEAN:
        return semifield
    assert isinstance(semifield, SelectSemifield)
    return semifield.boolean_equivalent or semifield


def chained(xp: Any, flow: Array, slope: Any) -> Array:
    """A product of the chain rule: 0 where one factor is, infinite as the other may be.

    NaN in `flow` stays (``chained`` of ``kernels_cu/accumulators.cuh``).
    """
    nothing = (flow == 0) | ((slope == 0) & (flow == flow))
    return xp.where(nothing, flow.dtype.type(0), flow * slope)


def sum_of_channels(parts: list[Array], dtype: np.dtype) -> Array:
    total = parts[0]
    for part in parts[1:]:
        total = total + part if dtype.kind == "f" else _saturate(_wide(total) + _wide(part), dtype)
    return total


# ---- bfloat16 as the bits of integers ------------------------------------------------------------


def holds_bits(array: Array, storage: str) -> bool:
    """Whether an array holds bfloat16 as the bits of integers."""
    return storage == "bfloat16" and array.dtype == np.uint16


def numbers(array: Array, storage: str) -> Array:
    """The numbers that an array's bits stand for; None stays None."""
    if array is None or not holds_bits(array, storage):
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def as_bits(xp: Any, values: Array) -> Array:
    """The nearest bfloat16 of float32 numbers, ties to even, as bits."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return xp.where(xp.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


# ---- additions: (xp, semifield, dtype, shape, terms) -> the outputs' values and residuals --------


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
    if "post_sum" not in semifield.expressions:
        return acc, None
    slopes = xp.zeros((len(kept_slopes(semifield)), *shape), dtype)
    return _post(semifield, acc), xp.concatenate([acc[None], _of_value(xp, semifield, acc, slopes)])


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
    value = shift + xp.log(total) / mu
    shares = ((where, xp.exp(mu * (term - shift[where]))) for _, where, term in terms())
    slope = -_entropy(xp, total, shares) / mu / mu
    slope = xp.where(xp.isfinite(value), slope, xp.where(xp.isnan(value), value, 0))
    return value, xp.stack([shift, total, slope])


def _entropy(xp: Any, total: Array, shares: Any) -> Array:
    """-sum w ln w of the weights w = share / total."""
    found, correction = xp.zeros_like(total), xp.zeros_like(total)
    for where, share in shares:
        weight = share / total[where]
        # Near 1, a weight's logarithm is that of 1 - the others.
        part = xp.where(weight > 0, -weight * xp.log(weight), 0)
        _compensated_add(xp, found, correction, where, part)
    return xp.where(total > 0, found + correction, 0)


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
    shares = ((where, _power_of_ratio(xp, term, scale[where], p, 0)) for _, where, term in terms())
    slope = -result * _entropy(xp, total, shares) / dtype.type(p) / dtype.type(p)
    slope = xp.where(xp.isfinite(result), slope, xp.where(xp.isnan(result), result, 0))
    return result, xp.stack([scale, total, slope])


def _custom(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> tuple[Array, Array | None]:
    acc = xp.full(shape, semifield.zero, dtype)
    slopes, grow = xp.zeros((len(kept_slopes(semifield)), *shape), dtype), _growth(xp, semifield)
    for _, where, value in terms():
        grow(slopes, acc[where], value, where)
        acc[where] = semifield.functions.add(acc[where], value)
    return _post(semifield, acc), xp.concatenate([acc[None], _of_value(xp, semifield, acc, slopes)])


def _growth(xp: Any, semifield: Any) -> Callable[..., None]:
    """What makes slopes of acc those of add(acc, value), of which the zero is neutral."""
    if not kept_slopes(semifield):
        return lambda *arguments: None
    found = slopes_of(semifield)
    by_left, *by_own = (
        ArrayFunction(one, ("acc", "val"), own=semifield.parameters)
        for one in (found.add_by_left, *found.add_by_own)
    )

    def grow(slopes: Array, acc: Array, value: Array, where: tuple[slice, ...]) -> None:
        first, last = acc == semifield.zero, value == semifield.zero
        left = xp.where(last, 1, by_left(acc, value))
        for slope, own in zip(slopes, by_own, strict=True):
            before = slope[where]
            grown = xp.where(before == 0, 0, left * before)
            slope[where] = grown + xp.where(first | last, 0, own(acc, value))

    return grow


def _of_value(xp: Any, semifield: Any, acc: Array, slopes: Array) -> Array:
    """The derivatives of post_sum(acc), from those of acc."""
    if "post_sum" not in semifield.expressions or not len(slopes):
        return slopes

    def finite_at_zero(slope: Array) -> Array:
        empty = (acc == semifield.zero) & ~xp.isfinite(slope)
        return xp.where(empty, acc.dtype.type(0), slope)

    d_post = finite_at_zero(semifield.functions.d_post_d_acc(acc))
    by_own = (
        finite_at_zero(ArrayFunction(one, ("acc",), own=semifield.parameters)(acc))
        for one in slopes_of(semifield).post_by_own
    )
    found = [
        xp.where(slope == 0, 0, d_post * slope) + own
        for slope, own in zip(slopes, by_own, strict=True)
    ]
    return xp.stack(found).astype(acc.dtype, copy=False)


ADDITIONS = {"select": _select, "sum": _sum, "log": _log, "root": _root, "custom": _custom}


def weight_function(
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

        def without(total: Array, value: Array) -> Array:
            """What is left without a term; the zero where rounding leaves less than nothing."""
            left = functions.subtract(total, value)
            lost = xp.isnan(left) & ~xp.isnan(total)
            return xp.where(lost, left.dtype.type(semifield.zero), left)

        return lambda outputs, value, tap: finite_at_zero(
            slope[outputs] * functions.d_add_d_right(without(first[outputs], value), value),
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
    """The weights of a root, as `weight_function`.

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


def _exact(semifield: Semifield, dtype: np.dtype) -> Any:
    """The dtype in which formulas of these integers are computed: Python integers are objects.

    uint32 products need 64 unsigned bits and differences a sign, whatever the formula.
    """
    large = dtype.itemsize == 8 or dtype == np.uint32
    return object if large or source.bits_on_the_way(semifield, dtype.name) == 128 else np.int64


def _selection(semifield: Semifield, dtype: np.dtype) -> Callable[[Array, Array], Array]:
    select: Callable[[Array, Array], Array] = semifield.functions.select
    if dtype.kind == "f" or not semifield.traits("integer").wide_select:
        return select
    exact = _exact(semifield, dtype)
    return lambda seen, value: select(seen.astype(exact), value.astype(exact)).astype(np.bool_)


def times_function(
    xp: Any, semifield: Semifield, dtype: np.dtype
) -> Callable[[Array, Array], Array]:
    times: Callable[[Array, Array], Array] = semifield.functions.times
    if dtype.kind == "f":
        return times
    exact = _exact(semifield, dtype)
    if exact is object and xp is not np:
        raise TypeError(
            f"method='reference' serves no {dtype} arrays of CuPy with {semifield!r}; use "
            "method='auto'"
        )

    def saturating(image: Array, weight: Array) -> Array:
        with np.errstate(over="ignore"):
            # A single Python integer would become a number of 64 bits again.
            value = times(image.astype(exact), xp.asarray(weight).astype(exact))
        return _saturate(value, dtype)

    return saturating
