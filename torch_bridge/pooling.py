"""Pooling of tensors: the windows of torch's pooling, the log-sum-exp and the generalised mean.

`pooling_functions` offers the two as functions, `pooling_layers` as layers, `layers` pooling by
dilations.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from semiconv_cupy.errors import flag
from torch_bridge.checks import plan, require_tensors
from torch_bridge.parameters import Parameter
from torch_bridge.parametric import conv_in_family
from torch_bridge.sizes import KernelSize, per_axis, positive_number

Pairs = tuple[tuple[int, int], ...]


class PoolingWindow(NamedTuple):
    """The arguments of torch's pooling, one entry for each spatial axis."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool

    @classmethod
    def of(
        cls,
        ndim: int,
        kernel_size: KernelSize,
        stride: KernelSize | None,
        padding: KernelSize,
        dilation: KernelSize,
        ceil_mode: bool,
    ) -> PoolingWindow:
        """The checked window; ValueError or TypeError for an argument that torch refuses too."""
        if isinstance(padding, str):
            raise TypeError(
                f"padding must be an integer, or one for each axis, got {padding!r}; for a result "
                "of the image's size take stride=1 and an odd kernel_size K with padding=K // 2"
            )
        window = cls(
            per_axis("kernel_size", kernel_size, ndim),
            per_axis("stride", kernel_size if stride is None else stride, ndim),
            per_axis("padding", padding, ndim, at_least=0),
            per_axis("dilation", dilation, ndim),
            flag("ceil_mode", ceil_mode),
        )
        if any(2 * pad > reach for pad, reach in zip(window.pads, window.reach, strict=True)):
            raise ValueError(
                f"padding must be at most half the window (as in torch), got {padding!r} for "
                f"windows of {window.reach} elements"
            )
        return window

    @property
    def reach(self) -> tuple[int, ...]:
        """How many elements lie from the first to the last tap, on each axis."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.sizes, strict=True))

    def padding(self, spatial: tuple[int, ...]) -> Pairs:
        """The padding at both ends for an image of this size.

        With `ceil_mode`, the end is padded until the last window fits that begins inside.
        """
        if not self.ceil_mode:
            return tuple((pad, pad) for pad in self.pads)
        pairs = []
        for size, pad, stride, reach in zip(
            spatial, self.pads, self.strides, self.reach, strict=True
        ):
            last = -(-(size + 2 * pad - reach) // stride) * stride  # where the last window begins
            if last >= size + pad:
                last -= stride
            pairs.append((pad, max(pad, last + reach - size - pad)))
        return tuple(pairs)

    def counts(self, out: Tensor, spatial: tuple[int, ...]) -> Tensor:
        """How many taps of each window of `out` (B, C, *out size) lie inside the image.

        Of the first axis and the last one alone: (1, 1, *out size).
        """
        total = out.new_ones(())
        for axis, (size, step, tap, stride, pad) in enumerate(
            zip(spatial, self.dilation, self.sizes, self.strides, self.pads, strict=True)
        ):
            first = torch.arange(out.shape[2 + axis], device=out.device) * stride - pad
            # Taps lie at first + step * t. Those below `limit` number ceil((limit - first) / step).
            below = [
                torch.div(limit - first + (step - 1), step, rounding_mode="floor").clamp(0, tap)
                for limit in (0, size)
            ]
            inside = (below[1] - below[0]).to(out.dtype)
            total = total * inside.view(-1, *(1,) * (len(spatial) - 1 - axis))
        return total[None, None]


class WindowedModule(nn.Module):
    """A layer with windows, in `ndim` dimensions."""

    ndim: ClassVar[int]

    def _set_window(
        self,
        kernel_size: KernelSize,
        stride: KernelSize | None,
        padding: KernelSize,
        dilation: KernelSize,
        ceil_mode: bool,
    ) -> None:
        """Take a constructor's arguments, as attributes and as `_window`."""
        self._window = PoolingWindow.of(
            self.ndim, kernel_size, stride, padding, dilation, ceil_mode
        )
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = self._window.ceil_mode

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_window" not in state:  # of models that were saved by version 0.1.0
            self._set_window(
                self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
            )


def log_sum_exp_pool(img: Tensor, window: PoolingWindow, mu: Parameter, mean: bool) -> Tensor:
    """ln(sum e^(mu v)) / mu of each window; with `mean`, minus ln(n) / mu.

    With `mean`, halves are computed in float32: ln(n) / mu may be much larger than the result.
    """
    batch = _batched(img, len(window.sizes))
    mean = flag("mean", mean)
    out = _pooled(_wide(batch) if mean else batch, window, "log", mu, 0.0)
    if mean:
        out = (out - _ln_counts(out, batch, window) / _along_channels(mu, out)).to(img.dtype)
    return out if batch is img else out[0]


def gem_pool(img: Tensor, window: PoolingWindow, p: Parameter, eps: float) -> Tensor:
    """(mean of max(v, eps)^p)^(1/p) of each window, 0 where it lies outside of the image.

    Halves are computed in float32, as torch's own power is under autocast: the sum before the
    division may lie beyond their range.
    """
    batch = _batched(img, len(window.sizes))
    sums = _pooled(_wide(batch).clamp(min=positive_number("eps", eps)), window, "root", p, 1.0)
    if not _sticks_out(batch, window):
        out = sums * _to_minus_1_by_p(math.prod(window.sizes), p, sums)
    else:
        counts = window.counts(sums, tuple(batch.shape[2:]))
        sums = torch.where(counts > 0, sums, 0)  # instead of the zero of p < 0, which is inf
        out = sums * _to_minus_1_by_p(counts.clamp(min=1), p, sums)
    out = out.to(img.dtype)
    return out if batch is img else out[0]


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


def _pooled(img: Tensor, window: PoolingWindow, name: str, value: Parameter, one: float) -> Tensor:
    """The addition of each window in the semifield; all kernel entries are its neutral element."""
    channels = img.shape[1]
    by_channel = isinstance(value, Tensor) and value.numel() > 1
    if isinstance(value, Tensor) and tuple(value.shape) not in ((), (1,), (channels,)):
        raise ValueError(
            f"{'mu' if name == 'log' else 'p'} must be one number, or one for each of the "
            f"{channels} channels of an image of shape {tuple(img.shape)}, got shape "
            f"{tuple(value.shape)}"
        )
    krn = img.new_full((channels if by_channel else 1, 1, *window.sizes), one)
    geometry = plan(
        img,
        krn,
        window.strides,
        window.padding(tuple(img.shape[2:])),
        window.dilation,
        channels,
        not by_channel,
        "corr",
    )
    return conv_in_family(img, krn, name, geometry, value)


def _sticks_out(img: Tensor, window: PoolingWindow) -> bool:
    """Whether a window may have taps outside of the image."""
    return any(pad > 0 for pair in window.padding(tuple(img.shape[2:])) for pad in pair)


def _ln_counts(out: Tensor, img: Tensor, window: PoolingWindow) -> Tensor | float:
    """ln n of each window; 0 where it lies outside of the image."""
    if not _sticks_out(img, window):
        return math.log(math.prod(window.sizes))
    return window.counts(out, tuple(img.shape[2:])).clamp(min=1).log()


def _along_channels(value: Parameter, out: Tensor) -> Any:
    """mu or p as a number, or as a tensor that broadcasts with the output (B, C, *out size)."""
    if not isinstance(value, Tensor):
        return float(value)
    return value.to(out.dtype).reshape(-1, *(1,) * (out.dim() - 2))


def _to_minus_1_by_p(n: Tensor | int, p: Parameter, out: Tensor) -> Any:
    """n^(-1/p)."""
    power = -1 / _along_channels(p, out)
    return n**power if isinstance(n, Tensor) or not isinstance(p, Tensor) else torch.pow(n, power)
