"""The windows of torch's pooling: its arguments, its paddings, how many pixels a window sees.

`means` pools by the log-sum-exp and the generalised mean, `layers` by dilations.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from semiconv_cupy.errors import flag
from torch_bridge.sizes import KernelSize, per_axis

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
