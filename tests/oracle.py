"""What a semifield convolution is, written a second time: brute force over gathered windows.

Nothing of the packages under test is imported here. Selections are computed in the arithmetic of
the array's dtype (integers as Python's, which have no end), everything else with so many digits
that the result is the exact one, rounded once to float64. Used by the tests through `cases.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from typing import Any

import numpy as np

Array = np.ndarray
_DIGITS = Context(prec=28, Emax=MAX_EMAX, Emin=MIN_EMIN)


@dataclass(frozen=True)
class Expected:
    """The exact result, and what an error of it is measured against.

    `scale` is None where the result has to be met bit by bit; otherwise errors count in units of
    the last place of `scale`, the numbers whose rounding no implementation can avoid: see `Sum`,
    `Log`, `Root` and `Fold`. `winner` is a selection's winning tap, flat over channel and kernel
    position, -1 where no term beats the zero.
    """

    value: Array
    scale: Array | None = None
    winner: Array | None = None


# ---- geometry ----------------------------------------------------------------------------------


def paddings(padding: Any, kernel_size: tuple[int, ...], dilation: tuple[int, ...]) -> list[Any]:
    """(begin, end) on each axis, from every form that the argument has."""
    if padding == "valid":
        padding = 0
    if padding == "same":  # whole dilation steps, the odd one at the end
        steps = [k - 1 for k in kernel_size]
        return [(n // 2 * d, (n - n // 2) * d) for n, d in zip(steps, dilation, strict=True)]
    if isinstance(padding, int):
        padding = (padding,) * len(kernel_size)
    return [(p, p) if isinstance(p, int) else tuple(p) for p in padding]


def windows(
    img: Array,
    krn: Array,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    group_broadcasting: bool = False,
    kind: str = "conv",
) -> tuple[Array, Array, Array]:
    """Images, kernels and "is inside", each of shape (B, out channels, *out, I * prod(K)).

    The last axis goes through the taps in the kernel's memory order.
    """
    rank = img.ndim - 2
    size, kernel_size = img.shape[2:], krn.shape[2:]
    strides = (stride,) * rank if isinstance(stride, int) else tuple(stride)
    dilations = (dilation,) * rank if isinstance(dilation, int) else tuple(dilation)
    positions = []
    for axis, (begin, end) in enumerate(paddings(padding, kernel_size, dilations)):
        reach = dilations[axis] * (kernel_size[axis] - 1)
        first = np.arange(-begin, size[axis] + end - reach, strides[axis])
        steps = np.arange(kernel_size[axis])
        steps = steps[::-1] if kind == "conv" else steps
        around = [1] * (2 * rank)
        around[axis], around[rank + axis] = len(first), len(steps)
        positions.append((first[:, None] + dilations[axis] * steps).reshape(around))
    inside = np.ones((1,) * (2 * rank), bool)
    for place, extent in zip(positions, size, strict=True):
        inside = inside & (place >= 0) & (place < extent)
    if 0 in size:
        seen = np.zeros(img.shape[:2] + inside.shape, img.dtype)
    else:
        clipped = [np.clip(place, 0, n - 1) for place, n in zip(positions, size, strict=True)]
        seen = img[(slice(None), slice(None), *clipped)]

    batch = len(img)
    outputs, in_channels = krn.shape[:2]
    out_size, taps = inside.shape[:rank], in_channels * math.prod(kernel_size)
    shares = group_broadcasting or groups == 1
    of_group = outputs if shares else outputs // groups
    shape = (batch, groups, of_group, *out_size, taps)
    # batch, group, channel, *out, *K -> the channel goes next to the taps
    seen = seen.reshape(batch, groups, in_channels, *inside.shape)
    seen = np.moveaxis(seen, 2, 2 + rank).reshape(batch, groups, 1, *out_size, taps)
    kernels = krn.reshape(1 if shares else groups, of_group, *(1,) * rank, taps)
    inside = np.tile(inside.reshape(*out_size, -1), in_channels)
    merged = (batch, groups * of_group, *out_size, taps)
    return tuple(  # type: ignore[return-value]
        np.broadcast_to(part, shape).reshape(merged) for part in (seen, kernels, inside)
    )


def convolve(img: Array, krn: Array, algebra: Algebra, **geometry: Any) -> Expected:
    """The convolution of an algebra; keyword arguments as of semifield_conv."""
    return algebra.reduce(*windows(img, krn, **geometry))


def narrowed(value: Array, dtype: Any) -> Array:
    """Numbers as an array of `dtype`, rounded once; integers beyond its range saturate."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        clip = np.vectorize(lambda v: min(max(v, limits.min), limits.max), otypes=[object])
        return clip(value).astype(dtype) if value.size else value.astype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return value.astype(dtype)


def arithmetic(array: Array) -> Array:
    """The numbers that a selection's terms are computed in."""
    kind = array.dtype.kind
    if kind == "b":
        return array.astype(np.uint8)
    if kind in "iu":
        return array.astype(object)
    return array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32)


# ---- algebras ----------------------------------------------------------------------------------


class Algebra:
    """How the terms of a window become one number."""

    def reduce(self, img: Array, krn: Array, inside: Array) -> Expected:
        """The last axis of what `windows` gives, reduced."""
        raise NotImplementedError


def larger(left: Any, right: Any) -> Any:
    """Whether a maximum takes the right one."""
    return right > left


def smaller(left: Any, right: Any) -> Any:
    """Whether a minimum takes the right one."""
    return right < left


@dataclass(frozen=True)
class Selection(Algebra):
    """One of the terms: folded from the left, `better(left, right)` takes the right one.

    A term that is NaN is never taken. Integers saturate: each term, and the zero.
    """

    better: Callable[[Any, Any], Any]
    times: Callable[[Any, Any], Any]
    zero: float

    def reduce(self, img: Array, krn: Array, inside: Array) -> Expected:
        dtype = img.dtype
        exact = dtype.kind in "iu"
        with np.errstate(all="ignore"):
            terms = np.asarray(self.times(arithmetic(img), arithmetic(krn)))
        zero: Any = self.zero
        if exact:
            limits = np.iinfo(dtype)
            zero = int(min(max(zero, limits.min), limits.max))
            terms = narrowed(terms, dtype).astype(object)
        best = np.full(terms.shape[:-1], zero, terms.dtype)
        winner = np.full(best.shape, -1)
        for tap in range(terms.shape[-1]):
            term = terms[..., tap]
            with np.errstate(all="ignore"):
                taken = self.better(best, term).astype(bool) & inside[..., tap] & (term == term)
            best = np.where(taken, term, best)
            winner = np.where(taken, tap, winner)
        return Expected(narrowed(best, dtype), None, winner)


def _bitwise(zero: bool, times: Callable[[Any, Any], Any]) -> Selection:
    """or/and arithmetic on 0 and 1."""
    better = smaller if zero else larger
    return Selection(better, lambda img, krn: times(img, krn).astype(np.uint8), int(zero))


class _Exact(Algebra):
    """An addition whose exact result is found window by window."""

    def terms(self, img: Array, krn: Array, inside: Array) -> Any:
        """(value, scale) of one window of float64 numbers, those outside left out."""
        raise NotImplementedError

    def reduce(self, img: Array, krn: Array, inside: Array) -> Expected:
        shape, taps = img.shape[:-1], img.shape[-1]
        flat = [part.astype(np.float64).reshape(math.prod(shape), taps) for part in (img, krn)]
        mask = inside.reshape(math.prod(shape), taps)
        value, scale = np.empty(len(mask)), np.empty(len(mask))
        with localcontext(_DIGITS):
            for n, kept in enumerate(mask):
                value[n], scale[n] = self.terms(flat[0][n, kept], flat[1][n, kept], kept[kept])
        return Expected(value.reshape(shape), scale.reshape(shape))


def _products(img: Array, krn: Array) -> list[float]:
    """Numbers whose sum is that of the products, exactly (Dekker 1971); not beyond 1e150."""
    with np.errstate(all="ignore"):
        high = img * krn
        parts = []
        for number in (img, krn):
            shifted = number * 134217729.0  # 2^27 + 1 cuts a double into two halves
            upper = shifted - (shifted - number)
            parts.append((upper, number - upper))
        (a, b), (c, d) = parts
        low = ((a * c - high) + a * d + b * c) + b * d
    return [*high.tolist(), *low[np.isfinite(low)].tolist()]


@dataclass(frozen=True)
class Sum(_Exact):
    """The ordinary sum of img * krn, then `post` (and its slope there).

    Scale: the sum of the terms' magnitudes. Where they cancel, no algorithm in the array's own
    precision can do better than some units of that (Higham, Accuracy and Stability, 4.2).
    """

    times: Callable[[Any, Any], Any] | None = None
    post: Callable[[float], float] | None = None

    def terms(self, img: Array, krn: Array, inside: Array) -> tuple[float, float]:
        numbers = _products(img, krn) if self.times is None else self.times(img, krn).tolist()
        if all(map(math.isfinite, numbers)):
            total, scale = math.fsum(numbers), math.fsum(map(abs, numbers))
        else:
            total = scale = sum(number for number in numbers if not math.isfinite(number))
        if self.post is not None:  # only ever on sums of positive terms
            total = scale = self.post(total)
        return total, scale


@dataclass(frozen=True)
class Log(_Exact):
    """ln(sum of e^(mu (img + krn))) / mu.

    Scale: the largest of |result|, |the term that counts most| and 1/|mu|. The term was rounded
    when img + krn was computed; and a sum that is right to a unit of the last place gives a
    logarithm that is right to that unit, divided by mu.
    """

    mu: float

    def terms(self, img: Array, krn: Array, inside: Array) -> tuple[float, float]:
        mu = Decimal(self.mu)
        with np.errstate(invalid="ignore"):
            rough = img + krn
        zero = -math.copysign(math.inf, self.mu)
        if np.isnan(rough).any():
            return math.nan, math.nan
        if (rough == -zero).any():
            return -zero, -zero
        kept = [
            Decimal(a) + Decimal(b)
            for a, b, term in zip(img.tolist(), krn.tolist(), rough, strict=True)
            if term != zero
        ]
        if not kept:
            return zero, zero
        extreme = max(kept) if mu > 0 else min(kept)
        total = sum(((term - extreme) * mu).exp() for term in kept)
        result = float(extreme + total.ln() / mu)
        return result, max(abs(result), abs(float(extreme)), 1 / abs(self.mu))


@dataclass(frozen=True)
class Root(_Exact):
    """(sum of (img * krn)^p)^(1/p) of products >= 0; a negative one gives NaN.

    Scale: the result, as nothing can cancel; divided by |p| where that is below 1, since a sum that
    is right to a unit of the last place gives a root that is right to that unit, divided by p.
    """

    p: float

    def terms(self, img: Array, krn: Array, inside: Array) -> tuple[float, float]:
        with np.errstate(invalid="ignore"):
            rough = img * krn
        if np.isnan(rough).any() or (rough < 0).any():
            return math.nan, math.nan
        zero, absorbing = (0.0, math.inf) if self.p > 0 else (math.inf, 0.0)
        if (rough == absorbing).any():
            return absorbing, absorbing
        kept = [
            Decimal(a) * Decimal(b)
            for a, b, term in zip(img.tolist(), krn.tolist(), rough, strict=True)
            if term != zero
        ]
        if not kept:
            return zero, zero
        p = Decimal(self.p)
        total = sum(term**p for term in kept)
        result = float((total.ln() / p).exp())
        return result, result / min(1.0, abs(self.p))


@dataclass(frozen=True)
class Fold(_Exact):
    """A user's addition, as the exact value of a window's terms in one formula.

    Scale: the result, once for every term: a fold rounds at each of them.
    """

    times: Callable[[Any, Any], Any]
    total: Callable[[list[float]], float]

    def terms(self, img: Array, krn: Array, inside: Array) -> tuple[float, float]:
        result = self.total(self.times(img, krn).tolist())
        return result, abs(result) * max(1.0, len(inside) / 4)


TROPICAL_MAX = Selection(larger, lambda img, krn: img + krn, -math.inf)
TROPICAL_MIN = Selection(smaller, lambda img, krn: img + krn, math.inf)
TROPICAL_MIN_NEGATED = Selection(smaller, lambda img, krn: img - krn, math.inf)
MAX_TIMES = Selection(larger, lambda img, krn: img * krn, 0.0)
# Python's min: the first unless the second is less, of NaN too.
BOOLEAN = Selection(larger, lambda img, krn: np.where(krn < img, krn, img), 0.0)
OR_AND = _bitwise(False, np.logical_and)
AND_OR = _bitwise(True, np.logical_or)
ERODING = _bitwise(True, lambda img, krn: np.logical_or(img, np.logical_not(krn)))


# ---- distances and parabolas ---------------------------------------------------------------------


def nearest_background(foreground: Array, sampling: Any = 1) -> tuple[Array, Array]:
    """(squared distance, index) of the nearest False, by comparing all pairs of elements.

    Integers stay integers. Of several that are equally near the first in C order; none: (inf, -1).
    """
    steps = np.broadcast_to(np.asarray(sampling), foreground.ndim)
    positions = np.moveaxis(np.indices(foreground.shape), 0, -1)
    background = positions[~foreground]
    if len(background) == 0:
        return np.full(foreground.shape, np.inf), np.full((foreground.ndim, *foreground.shape), -1)
    away = (positions[..., None, :] - background) * steps
    squares = (away**2).sum(-1)
    indices = np.moveaxis(background[squares.argmin(-1)], -1, 0)
    return squares.min(-1), indices


def parabolic_erosion(image: Array, scales: Any) -> Array:
    """min over y of image[y] + sum of ((x - y) / scale)^2, of all pairs, in long double."""
    positions = np.indices(image.shape).reshape(image.ndim, -1)
    cost = np.zeros((image.size, image.size), np.longdouble)
    seen = np.ones(cost.shape, np.bool_)
    for axis, scale in zip(positions, np.broadcast_to(scales, image.ndim), strict=True):
        away = axis[:, None] - axis
        if scale == 0:
            seen &= away == 0
        else:
            cost += (away / np.longdouble(scale)) ** 2
    value = np.where(np.isnan(image), np.inf, image.astype(np.longdouble)).ravel()
    return np.where(seen, value + cost, np.inf).min(-1, initial=np.inf).reshape(image.shape)
