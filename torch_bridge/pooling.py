"""The windows of torch's pooling. Called by the layers that take its place."""

from __future__ import annotations

from typing import NamedTuple

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
