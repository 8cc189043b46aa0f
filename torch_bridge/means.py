"""Pooling of tensors by the log-sum-exp and by the generalised mean.

`pooling_functions` offers the two as functions, `pooling_layers` as layers. Both come from sums
that the kernels compute: ln(sum e^(mu v)) / mu and (sum v^p)^(1/p). These lie ln(n) / mu above the
mean of n numbers, and are n^(1/p) times as large. So near mu = 0 and p = 0 they say little of the
mean, and leave the range of numbers; `_mean_near_0` computes it there. Which formula serves depends
on the value of mu or p. A graph that is traced does not know it, and a GPU would have to be waited
for: there `window_means` computes the mean, by kernels that serve every value.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import is_functorch_wrapped_tensor

from semiconv_cupy.errors import flag
from semiconv_cupy.geometry import Geometry
from torch_bridge.checks import plan, require_tensors
from torch_bridge.convolutions import fused_conv
from torch_bridge.ops.dispatch import PLAIN_CLASSES
from torch_bridge.parameters import Parameter, checked_tensor, tensor_or_number
from torch_bridge.parametric import conv_in_family
from torch_bridge.pooling import PoolingWindow
from torch_bridge.sizes import positive_number
from torch_bridge.window_means import window_means

# From here on, mu leaves the mean of numbers of about 1 exact to some 50 units in the last place.
_SMALL_MU = 0.05
# A derivative by p or mu is taken at this distance from 0, for numbers of about 1.
_NEAREST_SLOPE = 1e-5
_TINY = 1e-200  # of float64, next to which 1 is a large number


def log_sum_exp_pool(img: Tensor, window: PoolingWindow, mu: Parameter, mean: bool) -> Tensor:
    """ln(sum e^(mu v)) / mu of each window; with `mean`, minus ln(n) / mu.

    With `mean`, halves are computed in float32: ln(n) / mu may be much larger than the result.
    """
    batch = _batched(img, len(window.sizes))
    if flag("mean", mean):
        out = _mean_of_exponentials(batch, window, tensor_or_number("mu", mu))
    else:
        out = _sums(batch, window, "log", mu, 0.0)
    return out if batch is img else out[0]


def _mean_of_exponentials(batch: Tensor, window: PoolingWindow, mu: Parameter) -> Tensor:
    if _is_hidden(mu) or (_is_hidden(batch) and _are_below(mu, _SMALL_MU, batch)):
        return _of_windows(batch, window, "log", mu, 0.0)
    values, limit = _wide(batch), 0.0
    if _are_below(mu, _SMALL_MU, values):
        limit = min(_SMALL_MU, 1 / max(_largest(values), 1.0))
    small = _as_tensor(mu, values) if _are_below(mu, limit, values) else None
    away = mu if small is None else _away_from_0(small, limit)
    out = _sums(values, window, "log", away, 0.0)
    counts = _counts(out, values, window)
    inside = _at_least_1(counts)
    ln = inside.log() if isinstance(inside, Tensor) else math.log(inside)
    out = out - ln / _along_channels(away, out)
    if small is not None:
        near_0 = _mean_near_0(values, window, small)
        chosen = _along_channels(small, near_0).abs() < limit
        if isinstance(counts, Tensor):
            chosen = chosen & (counts > 0)
        out = torch.where(chosen, near_0.to(out.dtype), out)
    return out.to(batch.dtype)


def gem_pool(img: Tensor, window: PoolingWindow, p: Parameter, eps: float) -> Tensor:
    """(mean of max(v, eps)^p)^(1/p) of each window, 0 where it lies outside of the image.

    Halves are computed in float32, as torch's own power is under autocast: the sum before the
    division may lie beyond their range.
    """
    batch = _batched(img, len(window.sizes))
    eps, p = positive_number("eps", eps), tensor_or_number("p", p)
    out = (
        _of_windows(batch, window, "root", p, eps)
        if _is_hidden(p)
        else _mean_of_powers(_wide(batch).clamp(min=eps), window, p).to(img.dtype)
    )
    return out if batch is img else out[0]


def _mean_of_powers(values: Tensor, window: PoolingWindow, p: Parameter) -> Tensor:
    least = _least_power(window, values.dtype)
    below = _are_below(p, least, values)
    away = _away_from_0(_as_tensor(p, values), least) if below else p
    out = _sums(values, window, "root", away, 1.0)
    counts, power = _counts(out, values, window), -1 / _along_channels(away, out)
    out = _zero_without_terms(out, counts)  # roots have inf there for p < 0
    out = out * _at_least_1(counts) ** power
    if below:
        small = _as_tensor(p, values)
        near_0 = _zero_without_terms(_mean_near_0(values.log(), window, small).exp(), counts)
        chosen = _along_channels(small, near_0).abs() < least
        out = torch.where(chosen, near_0.to(out.dtype), out)
    return out


def _of_windows(
    img: Tensor, window: PoolingWindow, family: str, rate: Parameter, eps: float
) -> Tensor:
    """The means by the kernels that serve every rate."""
    _require_one_or_channels(img, family, rate)
    if not isinstance(rate, Tensor):
        rate = torch.full((), rate, dtype=torch.float64, device=img.device)
    real = checked_tensor(family, rate, img, "channels", img.shape[1], "img")
    windows = _geometry(img, img.new_empty((1, 1, *window.sizes)), window)
    return window_means(img, windows, family, real, eps)


def _least_power(window: PoolingWindow, dtype: torch.dtype) -> float:
    """The |p| from which on roots serve: n^(1/p) times numbers of 1e-10 to 1e10 is in the range."""
    return math.log(math.prod(window.sizes)) / (math.log(torch.finfo(dtype).max) - 24)


def _mean_near_0(values: Tensor, window: PoolingWindow, rate: Tensor) -> Tensor:
    """ln(mean of e^(rate v)) / rate of each window, exact for small rates; at 0, the mean of v.

    As ln(1 + mean of (e^(rate v) - 1)) / rate, in float64. Its derivative by the rate is the
    difference of two numbers of about v / rate, so it is taken a little away from 0.
    """
    values, rate = values.double(), rate.double()
    krn = values.new_ones((1, 1, *window.sizes))
    geometry = _geometry(values, krn, window)

    def at(values: Tensor, rate: Tensor) -> Tensor:
        rate = _along_channels(rate, values)
        sums = fused_conv(torch.expm1(rate * values), krn, "linear", geometry)
        return torch.log1p(sums / _at_least_1(_counts(sums, values, window))) / rate

    out = at(values, _away_from_0(rate.detach(), _TINY))
    if rate.requires_grad and torch.is_grad_enabled():
        reach = _largest(values) if not _is_hidden(values) else 100.0
        slope = at(values.detach(), _away_from_0(rate, _NEAREST_SLOPE / max(reach, _TINY)))
        out = out + (slope - slope.detach())
    return out


def _away_from_0(values: Tensor, least: float) -> Tensor:
    """The values with magnitudes of at least this; the derivative is 1 everywhere."""
    fixed = values.detach()
    return values + (torch.copysign(fixed.abs().clamp(min=least), fixed) - fixed)


def _are_below(value: Parameter, limit: float, img: Tensor) -> bool:
    """Whether one of the known values is nearer to 0 than the limit."""
    if not isinstance(value, Tensor):
        return abs(value) < limit
    if value.numel() not in (1, img.shape[1]) or value.layout is not torch.strided:
        return False  # an error later
    return any(abs(number) < limit for number in value.detach().reshape(-1).tolist())


def _is_hidden(value: Parameter) -> bool:
    """Whether it is a tensor whose numbers cost a wait: on a GPU, in a trace, in a transform."""
    if not isinstance(value, Tensor):
        return False
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _len_torch_dispatch_stack():
        return True
    plain = type(value) in PLAIN_CLASSES and not is_functorch_wrapped_tensor(value)
    return not plain or value.device.type != "cpu"


def _largest(values: Tensor) -> float:
    """The largest magnitude; 0 of no numbers."""
    return float(values.detach().abs().max()) if values.numel() else 0.0


def _as_tensor(value: Parameter, img: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=torch.float64, device=img.device)


def _wide(img: Tensor) -> Tensor:
    """The image in float32 where it is a half."""
    return img.float() if img.dtype in (torch.float16, torch.bfloat16) else img


def _batched(img: Any, ndim: int) -> Tensor:
    """The image with a batch axis, which may be missing."""
    require_tensors("semifield_conv", img=img)
    if not img.is_floating_point():
        raise TypeError(f"img must have a floating dtype, got {img.dtype}; img.float() makes one")
    if img.dim() not in (ndim + 1, ndim + 2):
        axes = ", ".join("DHW"[3 - ndim :])
        raise ValueError(
            f"img must have shape (B, C, {axes}) or (C, {axes}), got {tuple(img.shape)}"
        )
    if not img.shape[-1 - ndim]:
        raise ValueError(f"img must have a channel or more, got shape {tuple(img.shape)}")
    return img if img.dim() == ndim + 2 else img[None]


def _sums(img: Tensor, window: PoolingWindow, name: str, value: Parameter, one: float) -> Tensor:
    """The addition of each window in the semifield; all kernel entries are its neutral element."""
    _require_one_or_channels(img, name, value)
    channels = img.shape[1]
    kernels = channels if isinstance(value, Tensor) and value.numel() > 1 else 1
    krn = img.new_full((kernels, 1, *window.sizes), one)
    return conv_in_family(img, krn, name, _geometry(img, krn, window), value)


def _require_one_or_channels(img: Tensor, name: str, value: Parameter) -> None:
    """ValueError for a tensor that has neither one number nor one for each channel."""
    channels = img.shape[1]
    if isinstance(value, Tensor) and tuple(value.shape) not in ((), (1,), (channels,)):
        raise ValueError(
            f"{'mu' if name == 'log' else 'p'} must be one number, or one for each of the "
            f"{channels} channels of an image of shape {tuple(img.shape)}, got shape "
            f"{tuple(value.shape)}"
        )


def _geometry(img: Tensor, krn: Tensor, window: PoolingWindow) -> Geometry:
    """The windows of each channel by itself; one kernel may serve all."""
    padding, channels = window.padding(tuple(img.shape[2:])), img.shape[1]
    shared = krn.shape[0] == 1
    return plan(img, krn, window.strides, padding, window.dilation, channels, shared, "corr")


def _counts(out: Tensor, img: Tensor, window: PoolingWindow) -> Tensor | int:
    """How many taps of each window lie inside the image; one number where all do."""
    spatial = tuple(img.shape[2:])
    if any(pad > 0 for pair in window.padding(spatial) for pad in pair):
        return window.counts(out, spatial)
    return math.prod(window.sizes)


def _at_least_1(counts: Tensor | int) -> Tensor | int:
    return counts.clamp(min=1) if isinstance(counts, Tensor) else counts


def _zero_without_terms(out: Tensor, counts: Tensor | int) -> Tensor:
    """0 where a window has no taps inside the image."""
    return torch.where(counts > 0, out, 0) if isinstance(counts, Tensor) else out


def _along_channels(value: Parameter, out: Tensor) -> Any:
    """mu or p as a number, or as a tensor that broadcasts with the output (B, C, *out size)."""
    if not isinstance(value, Tensor):
        return float(value)
    return value.to(out.dtype).reshape(-1, *(1,) * (out.dim() - 2))
