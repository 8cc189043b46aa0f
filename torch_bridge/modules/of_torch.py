"""torch's own convolution and pooling, called as this package's are."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from semiconv_cupy.geometry import Geometry, IntOrTuple, Kind, Padding
from torch_bridge.checks import plan
from torch_bridge.sizes import per_axis


class TorchLinearConv2D(nn.Module):
    """torch's own conv2d with this package's `padding`, `group_broadcasting` and `kind`.

    Called as ``conv(img, kernel, stride=1, padding=0, dilation=1, groups=1,
    group_broadcasting=False, kind="conv")`` with images (B, C, H, W): a linear convolution that
    takes the place of ``SubtractSemifield.linear().dynamic()``.

    See Also
    --------
    SemifieldConv : In any semifield; with ``"linear"`` the same results.
    GenericConv : Joins it with a kernel.

    Examples
    --------
    >>> import torch
    >>> conv = TorchLinearConv2D()
    >>> conv(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2), padding="same").shape
    torch.Size([1, 1, 4, 4])
    """

    def forward(
        self,
        img: Tensor,
        kernel: Tensor,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        group_broadcasting: bool = False,
        kind: Kind = "conv",
    ) -> Tensor:
        """`img` (B, C, H, W) and `kernel` (O, I, KH, KW) to (B, out channels, OH, OW)."""
        geometry = plan(img, kernel, stride, padding, dilation, groups, group_broadcasting, kind)
        _two_dimensional(geometry)
        if geometry.mirrored:
            kernel = kernel.flip((2, 3))
        if geometry.shares_kernels:
            kernel = kernel.repeat(geometry.groups, 1, 1, 1)
        img, pads = _symmetric_padding(img, geometry, 0.0, geometry.pad_begin)
        return F.conv2d(
            img,
            kernel,
            stride=geometry.stride,
            padding=pads,
            dilation=geometry.dilation,
            groups=geometry.groups,
        )


class TorchMaxPool2D(nn.Module):
    """torch's own max_pool2d with this package's `padding`; windows never see the padding.

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride : int or (int, int), optional
        None: the kernel size.
    padding, dilation
        As in `semiconv_cupy.semifield_conv`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    DilationPool2d : With a learned structuring function.

    Examples
    --------
    >>> import torch
    >>> TorchMaxPool2D(3, stride=2, padding="same")(torch.zeros(1, 1, 7, 7)).shape
    torch.Size([1, 1, 4, 4])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: Padding = 0,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = per_axis("kernel_size", kernel_size, 2)
        self.stride = self.kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation

    def extra_repr(self) -> str:
        return (
            f"{self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}"
        )

    def forward(self, img: Tensor) -> Tensor:
        """`img` (B, C, H, W) to (B, C, OH, OW)."""
        window = img.new_empty((1, img.shape[1], *self.kernel_size), device="meta")
        geometry = plan(img, window, self.stride, self.padding, self.dilation, 1, False, "corr")
        _two_dimensional(geometry)
        at_most = tuple(size // 2 for size in self.kernel_size)  # torch's own rule
        img, pads = _symmetric_padding(img, geometry, -math.inf, at_most)
        return F.max_pool2d(
            img, self.kernel_size, stride=geometry.stride, padding=pads, dilation=geometry.dilation
        )


def _two_dimensional(geometry: Geometry) -> None:
    if geometry.rank != 2:
        raise ValueError(f"img must have shape (B, C, H, W), got {geometry.img_shape}")


def _symmetric_padding(
    img: Tensor, geometry: Geometry, value: float, at_most: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """The image, and the padding for torch's function; padding that it cannot add is added here."""
    begin, end = geometry.pad_begin, geometry.pad_end
    if begin == end and all(b <= most for b, most in zip(begin, at_most, strict=True)):
        return img, begin
    pads = [pad for pair in reversed(list(zip(begin, end, strict=True))) for pad in pair]
    return F.pad(img, pads, value=value), (0,) * geometry.rank
