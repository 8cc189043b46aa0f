"""The reference backend: plain array loops over the taps, for NumPy and CuPy arrays alike.

Slow and always right; it serves where no compiler is, and `method="reference"` asks for it. Arrays
come in checked and planned from ``conv``; nothing here knows kernels or compilers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from semiconv_cupy.geometry import Geometry

if TYPE_CHECKING:
    from semiconv_cupy.source import Semifield

Array = Any


def forward(
    xp: Any, img: Array, krn: Array, semifield: Semifield, geometry: Geometry, dtype: np.dtype
) -> Array:
    """The convolution in arithmetic `dtype`, shape geometry.out_shape.

    Sub-dtype storage (float16) is the caller's: arrays come in and go out in `dtype`. Booleans come
    as uint8 0/1 with the boolean equivalent of their semifield.
    """
    img = img.astype(dtype, copy=False)
    krn = krn.astype(dtype, copy=False)
    add = _ADDITIONS[semifield.accumulator]
    out = xp.empty(geometry.out_shape, dtype)
    times = _times(xp, semifield, dtype)
    for group in range(geometry.groups):
        for output in range(geometry.outputs_per_group):
            plane = group * geometry.outputs_per_group + output
            kernel = krn[output if geometry.shares_kernels else plane]
            channels = [
                (img[:, group * geometry.in_channels + i], kernel[i])
                for i in range(geometry.in_channels)
            ]
            shape = (geometry.batch, *geometry.out_size)
            if semifield.accumulator == "select" and semifield.channels_add:
                parts = [
                    add(xp, semifield, dtype, shape, lambda one=one: _terms(geometry, [one], times))
                    for one in channels
                ]
                out[:, plane] = _sum_of(parts, dtype)
            else:
                out[:, plane] = add(
                    xp, semifield, dtype, shape, lambda: _terms(geometry, channels, times)
                )
    return out


def _sum_of(parts: list[Array], dtype: np.dtype) -> Array:
    total = parts[0]
    for part in parts[1:]:
        total = total + part if dtype.kind == "f" else _saturate(_wide(total) + _wide(part), dtype)
    return total


def _terms(
    geometry: Geometry, channels: list[tuple[Array, Array]], times: Callable[[Array, Array], Array]
) -> Iterator[tuple[tuple[slice, ...], Array]]:
    """(outputs that see this tap inside the image, the term there), in the kernel's memory order."""
    for image, kernel in channels:
        for tap in itertools.product(*(range(k) for k in geometry.kernel_size)):
            outputs: list[slice] = [slice(None)]
            inputs: list[slice] = [slice(None)]
            for axis, index in enumerate(tap):
                stride = geometry.stride[axis]
                corner = geometry.dilation[axis] * geometry.step(axis, index)
                corner -= geometry.pad_begin[axis]
                size = geometry.image_size[axis]
                first = max(0, -(corner // stride))
                last = min(geometry.out_size[axis] - 1, (size - 1 - corner) // stride)
                if last < first:
                    break
                outputs.append(slice(first, last + 1))
                start = corner + first * stride
                inputs.append(slice(start, corner + last * stride + 1, stride))
            else:
                yield tuple(outputs), times(image[tuple(inputs)], kernel[tap])


# ---- additions: (xp, semifield, dtype, shape, terms) -> the windows' values ----------------------


def _select(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> Array:
    best = xp.full(shape, _saturated_zero(semifield, dtype), dtype)
    for where, value in terms():
        seen = best[where]
        better = semifield.functions.select(seen, value)
        best[where] = xp.where(better, value, seen)
    return best


def _sum(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> Array:
    # One compensated addition a term (Knuth's TwoSum): as accurate as the kernels' blocks or better.
    total, correction = xp.zeros(shape, dtype), xp.zeros(shape, dtype)
    for where, value in terms():
        _compensated_add(xp, total, correction, where, value)
    return _post(semifield, total + correction)


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
) -> Array:
    mu = dtype.type(semifield.parameter)
    extreme = xp.full(shape, semifield.zero, dtype)
    for where, value in terms():
        extreme[where] = (xp.fmax if mu > 0 else xp.fmin)(extreme[where], value)
    shift = xp.where(xp.isfinite(extreme), extreme, 0)
    total, correction = xp.zeros(shape, dtype), xp.zeros(shape, dtype)
    for where, value in terms():
        _compensated_add(xp, total, correction, where, xp.exp(mu * (value - shift[where])))
    return shift + xp.log(total + correction) / mu


def _root(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> Array:
    p = semifield.parameter
    extreme = xp.full(shape, semifield.zero, dtype)
    negative = xp.zeros(shape, bool)
    for where, value in terms():
        extreme[where] = (xp.fmax if p > 0 else xp.fmin)(extreme[where], value)
        negative[where] |= value < 0
    smallest = np.finfo(dtype).tiny
    scale = xp.where(xp.isfinite(extreme), xp.maximum(extreme, smallest), dtype.type(1))
    total, correction = xp.zeros(shape, dtype), xp.zeros(shape, dtype)
    for where, value in terms():
        _compensated_add(xp, total, correction, where, (value / scale[where]) ** dtype.type(p))
    result = scale * (total + correction) ** dtype.type(1 / p)
    return xp.where(negative, dtype.type(np.nan), result)


def _custom(
    xp: Any, semifield: Semifield, dtype: np.dtype, shape: tuple[int, ...], terms: Any
) -> Array:
    acc = xp.full(shape, semifield.zero, dtype)
    for where, value in terms():
        acc[where] = semifield.functions.add(acc[where], value)
    return _post(semifield, acc)


_ADDITIONS = {"select": _select, "sum": _sum, "log": _log, "root": _root, "custom": _custom}


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


def _times(xp: Any, semifield: Semifield, dtype: np.dtype) -> Callable[[Array, Array], Array]:
    times: Callable[[Array, Array], Array] = semifield.functions.times
    if dtype.kind == "f":
        return times
    if dtype.itemsize == 8 and xp is not np:
        raise TypeError(f"method='reference' serves no {dtype} arrays of CuPy; use method='auto'")
    # uint32 products need 64 unsigned bits and differences a sign: Python integers hold both.
    exact = object if dtype.itemsize == 8 or dtype == np.uint32 else np.int64

    def saturating(image: Array, weight: Array) -> Array:
        with np.errstate(over="ignore"):
            value = times(image.astype(exact), weight.astype(exact))
        return _saturate(value, dtype)

    return saturating
