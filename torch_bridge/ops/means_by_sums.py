"""Means of windows on the CPU by the vectorised sums of log and root, for rates that are not small.

There they are several times as fast as ``semiconv_cupy.backends.means``, and give the bits of
`torch_bridge.means` for numbers that Python can read: here the operator reads them. Called by
`ops.means`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torch_bridge.arguments import GeometryArguments, MeansArguments
from torch_bridge.ops.handles import handle_of_family
from torch_bridge.ops.parametric import call_parametric, call_parametric_backward
from torch_bridge.pooling import PoolingWindow

# Of numbers of about 1: for smaller rates what is subtracted from the slopes, ln(n) / rate^2, costs
# more than the last four bits.
_LEAST_RATE = 1.0


def serve(given: MeansArguments) -> bool:
    """Whether all rates are so far from 0 that sums serve."""
    if given.img.is_cuda or not given.img.numel():
        return False
    return bool((given.rate.abs() >= _LEAST_RATE).all())


def values_of(given: MeansArguments) -> Tensor:
    """The means."""
    sums = _sums(given, _values(given), residual=False)[0]
    counts, no_terms = _counts(given, sums)
    rate = _along_channels(given)
    if not given.powers:
        return (sums - counts.log() / rate).to(given.img.dtype)
    if no_terms is not None:
        sums = torch.where(no_terms, 0, sums)
    return (sums * counts ** (-1 / rate)).to(given.img.dtype)


def gradients_of(
    given: MeansArguments, grad_out: Tensor, want_img: bool, want_rate: bool
) -> tuple[Tensor, Tensor]:
    """Those by image and rate; the sums are computed once more."""
    values, rate = _values(given), _along_channels(given)
    sums, residual = _sums(given, values, residual=True, slopes=want_rate)
    counts, no_terms = _counts(given, sums)
    grad = grad_out.to(sums.dtype)
    scale = counts ** (-1 / rate) if given.powers else torch.ones_like(rate)
    if no_terms is not None:
        grad = torch.where(no_terms, 0, grad)
        sums = torch.where(no_terms, 0, sums)
    by_sums = grad * scale
    arguments = _krn(given, values), given.rate, residual, *_constants(given)
    wants = want_img, False, want_rate
    grad_img, _, grad_rate = call_parametric_backward(by_sums, values, *arguments, want_rate, wants)
    if want_img and given.powers:
        grad_img = torch.where(given.img.to(values.dtype) >= given.eps, grad_img, 0)
    if want_rate:
        slopes = counts.log() / rate / rate * (sums * scale if given.powers else 1)
        terms = torch.where(grad == 0, 0, grad * slopes)
        axes = [axis for axis in range(terms.dim()) if axis != 1]
        by_channel = terms.sum(axes, dtype=torch.float64)
        own = by_channel if given.rate.numel() > 1 else by_channel.sum()
        grad_rate = grad_rate + own.to(rate.dtype).view(given.rate.shape)
    return grad_img.to(given.img.dtype), grad_rate


def _values(given: MeansArguments) -> Tensor:
    values = given.img.to(given.rate.dtype)
    return values.clamp(min=given.eps) if given.powers else values


def _sums(
    given: MeansArguments, values: Tensor, *, residual: bool, slopes: bool = False
) -> tuple[Tensor, Tensor]:
    krn = _krn(given, values)
    return call_parametric(values, krn, given.rate, *_constants(given), residual, slopes)


def _krn(given: MeansArguments, values: Tensor) -> Tensor:
    """The neutral element for each tap."""
    shape = (given.rate.numel(), 1, *given.size)
    return values.new_full(shape, 1.0 if given.powers else 0.0)


def _constants(given: MeansArguments) -> tuple[Any, GeometryArguments]:
    """The semifield and the geometry."""
    pads: list[int] = []
    axes = given.img.shape[2:], given.out_size, given.size, given.stride, given.dilation
    for n, out, size, stride, dilation, before in zip(*axes, given.before, strict=True):
        pads += [before, max(0, (out - 1) * stride + dilation * (size - 1) + 1 - before - n)]
    geometry = GeometryArguments(
        given.stride,
        tuple(pads),
        given.dilation,
        given.img.shape[1],
        given.rate.numel() == 1,
        False,
    )
    return handle_of_family("root" if given.powers else "log").key, geometry


def _counts(given: MeansArguments, sums: Tensor) -> tuple[Tensor, Tensor | None]:
    """How many taps of each window lie inside, at least 1; and which windows have none."""
    window = PoolingWindow(given.size, given.stride, given.before, given.dilation, False)
    spatial = tuple(given.img.shape[2:])
    reach = zip(given.out_size, given.stride, window.reach, given.before, spatial, strict=True)
    if not any(given.before) and all((o - 1) * s + r <= n for o, s, r, _, n in reach):
        return sums.new_full((), float(math.prod(given.size))), None
    counts = window.counts(sums, spatial)
    return counts.clamp(min=1), counts == 0


def _along_channels(given: MeansArguments) -> Tensor:
    return given.rate.reshape(-1, *(1,) * len(given.size))
