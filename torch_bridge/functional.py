"""Semifield convolution as a function of tensors; the modules are thin layers over it.

Checks tensors and plans; what runs is `autograd` (compiled semifields) or `broadcast` (array
functions, differentiated by torch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semiconv_cupy.algebra import BroadcastSemifield, Semifield
from semiconv_cupy.geometry import Geometry, IntOrTuple, Kind, Padding
from torch_bridge.autograd import fused_conv
from torch_bridge.broadcast import broadcast_conv

if TYPE_CHECKING:
    from torch_bridge.ops import PreparedSemifield

__all__ = ["semifield_conv"]


def plan(
    img: Tensor,
    krn: Tensor,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    group_broadcasting: bool = False,
    kind: Kind = "conv",
) -> Geometry:
    """`Geometry.plan` of two tensors.

    Raises
    ------
    TypeError
        No tensors.
    """
    for name, value in (("img", img), ("krn", krn)):
        if not isinstance(value, Tensor):
            hint = "; for arrays use semiconv_cupy.semifield_conv"
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}{hint}")
    # While compiling, sizes may be symbols, which no cache can look up.
    make_plan = Geometry.plan_uncached if torch.compiler.is_compiling() else Geometry.plan
    return make_plan(
        tuple(img.shape),
        tuple(krn.shape),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        group_broadcasting=group_broadcasting,
        kind=kind,
    )


def semifield_conv(
    img: Tensor,
    krn: Tensor,
    semifield: Semifield | BroadcastSemifield | PreparedSemifield | str,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    group_broadcasting: bool = False,
    kind: Kind = "conv",
) -> Tensor:
    """Convolve an image with a kernel in a semifield, differentiably.

    Formula, shapes and arguments are those of `semiconv_cupy.semifield_conv`; tensors in, a tensor
    of their dtype and device out.

    Parameters
    ----------
    img : Tensor (B, C, *S)
    krn : Tensor (O, I, *K)
        Of img's dtype and device. Under `torch.autocast` two floating dtypes meet in the wider one.
    semifield : SelectSemifield, SubtractSemifield, BroadcastSemifield or str
        A semifield, or the name of a ready-made one, such as ``"tropical_max"``.
    stride, padding, dilation, groups, group_broadcasting, kind
        As in `semiconv_cupy.semifield_conv`.

    Raises
    ------
    TypeError
        No tensors, or of two dtypes.
    ValueError
        Tensors on two devices; shapes or arguments that do not fit.

    Examples
    --------
    >>> img = torch.tensor([[[0.0, 0.0, 5.0, 0.0, 1.0]]], requires_grad=True)
    >>> krn = torch.tensor([[[-1.0, 0.0, -1.0]]])
    >>> semifield_conv(img, krn, BroadcastSemifield.tropical_max(), padding="same").tolist()
    [[[0.0, 4.0, 5.0, 4.0, 1.0]]]
    """
    geometry = plan(img, krn, stride, padding, dilation, groups, group_broadcasting, kind)
    img, krn = one_kind(img, krn)
    if isinstance(semifield, BroadcastSemifield):
        return broadcast_conv(img, krn, semifield, geometry)
    return fused_conv(img, krn, semifield, geometry)


def one_kind(img: Tensor, krn: Tensor) -> tuple[Tensor, Tensor]:
    """The two tensors in one dtype; an error with the remedy where dtypes or devices differ."""
    if img.device != krn.device:
        raise ValueError(
            f"img and krn must be on one device, got img on {img.device} and krn on {krn.device}; "
            "move one of them: krn.to(img.device), or the module that holds it, "
            "module.to(img.device)"
        )
    if img.dtype == krn.dtype:
        return img, krn
    floating = img.is_floating_point() and krn.is_floating_point()
    if floating and torch.is_autocast_enabled(img.device.type):
        wider = torch.promote_types(img.dtype, krn.dtype)
        return img.to(wider), krn.to(wider)
    # An integer dtype cannot hold a floating kernel, so the image is converted instead.
    integers = krn.is_floating_point() and not img.is_floating_point()
    remedy = "krn.to(img.dtype), or the module that holds it, module.to(img.dtype)"
    if integers:
        remedy = "img.to(krn.dtype)"
    raise TypeError(
        f"img and krn must have one dtype, got img {img.dtype} and krn {krn.dtype}; "
        f"convert one of them: {remedy}"
    )
