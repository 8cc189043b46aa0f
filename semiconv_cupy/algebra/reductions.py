"""Reductions of whole arrays over several axes: how the ready-made BroadcastSemifields add.

They serve NumPy and CuPy arrays and torch tensors, which torch differentiates by itself, and are
stable at any magnitude. Called by `algebra/broadcast.py`; the kernels have their own accumulators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semiconv_cupy.algebra.arrays import array_module


def _detached(array: Any) -> Any:
    """A torch tensor without its history, so that no gradient flows through it; others as is."""
    return array.detach() if hasattr(array, "detach") else array


def _axes(array: Any, dims: int | Sequence[int]) -> tuple[int, ...]:
    given = (dims,) if isinstance(dims, int) else tuple(dims)
    return tuple(sorted(dim % array.ndim for dim in given))


def _expanded(array: Any, axes: tuple[int, ...]) -> Any:
    """With the reduced axes back as axes of length 1."""
    for axis in axes:
        array = array[(slice(None),) * axis + (None,)]
    return array


@dataclass(frozen=True)
class Sum:
    """The ordinary sum."""

    def __call__(self, array: Any, dims: int | Sequence[int]) -> Any:
        return array.sum(_axes(array, dims))


@dataclass(frozen=True)
class Extremum:
    """Maximum or minimum. In torch, the gradient goes to one of equal extrema, or evenly to all,
    and to none where all are the zero."""

    largest: bool
    spread_gradient: bool = False

    def __call__(self, array: Any, dims: int | Sequence[int]) -> Any:
        module, axes = array_module(array), _axes(array, dims)
        reduce = module.amax if self.largest else module.amin
        if module.__name__ != "torch":
            return reduce(array, axes)
        if self.spread_gradient:
            values = reduce(array, axes)
        else:
            ends = tuple(range(array.ndim - len(axes), array.ndim))
            flat = array.movedim(axes, ends).flatten(ends[0])
            values = (flat.max(-1) if self.largest else flat.min(-1)).values
        zero = -math.inf if self.largest else math.inf
        return module.where(values == zero, values.detach(), values)


def _infinite_terms(module: Any, terms: Any, chosen: Any, axes: tuple[int, ...]) -> Any:
    """The sum of the chosen terms, in torch with a gradient of 1 for each."""
    return module.where(chosen, terms, 0).sum(axes)


def _flat_powers(module: Any, p: float, array: Any, ratio: Any, divisor: Any) -> Any:
    """ratio^p of |p| < 1, also where array / divisor left the range of numbers: its logarithm is a
    difference. The slope at 0, which is infinite for p > 0, counts as 0."""
    nothing, endless = array == 0, array == math.inf
    left = (ratio < module.finfo(array.dtype).tiny) & ~nothing | (ratio == math.inf) & ~endless
    far = module.exp(p * (module.log(module.where(left, array, 1)) - module.log(divisor)))
    kept = module.where(nothing | left, 1, ratio)
    at_nothing = 0 if p > 0 else math.inf
    return module.where(left, far, module.where(nothing, at_nothing, kept**p))


@dataclass(frozen=True)
class Root:
    """(sum of a^p)^(1/p), scaled by the largest (p < 0: the smallest) |a| of each window, so that
    no power leaves the range. Negative numbers count as their powers do: for even p as |a|, else
    the result is NaN where it is not real. The gradient is 0 where all are the zero, and 1 for an
    infinite term (p < 0: for a 0)."""

    p: float

    def __call__(self, array: Any, dims: int | Sequence[int]) -> Any:
        module, axes, p = array_module(array), _axes(array, dims), self.p
        if p == 1:
            return array.sum(axes)
        extremum = module.amax if p > 0 else module.amin
        scale = extremum(module.abs(_detached(array)), axes)
        inside = (scale != 0) & (scale != math.inf)
        divisor = module.where(inside, scale, 1)
        ratio = array / _expanded(divisor, axes)
        ratio = module.where(_expanded(inside, axes), ratio, 1)
        if abs(p) < 1:
            powers = _flat_powers(module, p, array, ratio, _expanded(divisor, axes))
        else:
            powers = ratio**p
        if module.__name__ == "torch":
            terms = module.abs(array) if p > 0 else array
            infinite = scale == (math.inf if p > 0 else 0)
            chosen = (terms == (math.inf if p > 0 else 0)) & _expanded(infinite, axes)
            scale = module.where(infinite, _infinite_terms(module, terms, chosen, axes), scale)
        return module.where(inside, powers.sum(axes) ** (1 / p) * divisor, scale)


@dataclass(frozen=True)
class Log:
    """ln(sum of e^(mu a)) / mu, relative to the extremum of each window, so that nothing overflows.
    The gradient is 0 where all are the zero; infinite terms share it evenly."""

    mu: float

    def __call__(self, array: Any, dims: int | Sequence[int]) -> Any:
        module, axes, mu = array_module(array), _axes(array, dims), self.mu
        extremum = (module.amax if mu > 0 else module.amin)(_detached(array), axes)
        ordinary = abs(extremum) != math.inf
        origin = module.where(ordinary, extremum, 0)
        distance = module.where(_expanded(ordinary, axes), array - _expanded(origin, axes), 0)
        total = module.exp(mu * distance).sum(axes)
        if module.__name__ == "torch":
            limit = math.copysign(math.inf, mu)
            infinite = extremum == limit
            chosen = (array == limit) & _expanded(infinite, axes)
            count = chosen.sum(axes).clamp(min=1)
            share = _infinite_terms(module, array, chosen, axes) / count
            extremum = module.where(infinite, share, extremum)
        return module.where(ordinary, origin + module.log(total) / mu, extremum)
