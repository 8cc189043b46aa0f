"""Pooling of tensors by the log-sum-exp and by the generalised mean.

`pooling_functions` offers the two as functions, `pooling_layers` as layers. Both come from sums
that the kernels compute: ln(sum e^(mu v)) / mu and (sum v^p)^(1/p). These lie ln(n) / mu above the
mean of n numbers, and are n^(1/p) times as large. So near mu = 0 and p = 0 they say little of the
mean, and leave the range of numbers: there `window_means` computes it, by kernels that serve every
value and take longer. They also serve where nobody knows the value: a graph that is traced does
not, and a GPU would have to be waited for.
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
from torch_bridge.checks import is_one_or, plan, require_tensors
from torch_bridge.ops.dispatch import PLAIN_CLASSES
from torch_bridge.parameters import Parameter, checked_tensor, tensor_or_number
from torch_bridge.parametric import conv_in_family
from torch_bridge.pooling import PoolingWindow
from torch_bridge.sizes import positive_number
from torch_bridge.window_means import window_means

# From here on, sums leave the mean of numbers of about 1 exact to some 20 units in the last place.
_LEAST_RATE = 0.25


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
    if _is_hidden(mu) or _are_below(mu, _LEAST_RATE, batch):
        return _of_windows(batch, window, "log", mu, 0.0)
    values = _wide(batch)
    out = _sums(values, window, "log", mu, 0.0)
    inside = _at_least_1(_counts(out, values, window))
    ln = inside.log() if isinstance(inside, Tensor) else math.log(inside)
    return (out - ln / _along_channels(mu, out)).to(batch.dtype)


def gem_pool(img: Tensor, window: PoolingWindow, p: Parameter, eps: float) -> Tensor:
    """(mean of max(v, eps)^p)^(1/p) of each window, 0 where it lies outside of the image.

    Halves are computed in float32, as torch's own power is under autocast: the sum before the
    division may lie beyond their range.
    """
    batch = _batched(img, len(window.sizes))
    eps, p = positive_number("eps", eps), tensor_or_number("p", p)
    out = (
        _of_windows(batch, window, "root", p, eps)
        if _is_hidden(p) or _are_below(p, _least_power(window), batch)
        else _mean_of_powers(_wide(batch).clamp(min=eps), window, p).to(img.dtype)
    )
    return out if batch is img else out[0]


def _mean_of_powers(values: Tensor, window: PoolingWindow, p: Parameter) -> Tensor:
    out = _sums(values, window, "root", p, 1.0)
    counts, power = _counts(out, values, window), -1 / _along_channels(p, out)
    out = _zero_without_terms(out, counts)  # roots have inf there for p < 0
    return out * _at_least_1(counts) ** power


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


def _least_power(window: PoolingWindow) -> float:
    """The |p| from which on roots serve: n^(1/p) times numbers of 1e-10 to 1e10 is in the range."""
    room = math.log(torch.finfo(torch.float32).max) - 24
    return max(_LEAST_RATE, math.log(math.prod(window.sizes)) / room)


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
    if isinstance(value, Tensor) and not is_one_or(value, channels):
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
