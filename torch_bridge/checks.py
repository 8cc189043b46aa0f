"""What tensors a function may be given: dense, of one dtype and device; and their geometry.

Called by `functional`, `means` and the modules.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semiconv_cupy.geometry import Geometry, IntOrTuple, Kind, Padding

TENSORS, DENSE = (Tensor, torch.nn.Parameter), torch.strided


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
        No dense tensors.
    """
    if not (type(img) in TENSORS and type(krn) in TENSORS and img.layout is krn.layout is DENSE):
        require_tensors("semifield_conv", img=img, krn=krn)
    # While compiling, sizes may be symbols, which no cache can look up.
    make_plan = Geometry.plan_uncached if torch.compiler.is_compiling() else Geometry.plan
    return make_plan(
        img.shape,
        krn.shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        group_broadcasting=group_broadcasting,
        kind=kind,
    )


def is_one_or(value: Tensor, count: int) -> bool:
    """Whether a tensor has one number, or a row of so many.

    While compiling, sizes may be symbols: only ``==`` compares them.
    """
    return value.dim() == 0 or (value.dim() == 1 and (value.numel() == 1 or value.numel() == count))


def require_tensors(function: str, **values: object) -> None:
    """TypeError for what is no dense tensor; `function` is the core's name of the same.

    The core takes arrays. A sparse tensor has no memory in which each element lies.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}; for arrays use "
                f"semiconv_cupy.{function}"
            )
        require_dense(name, value)


def require_channels(img: Tensor, channels: int | None, axis: int = 1) -> None:
    """ValueError where a layer has parameters for other channels than lie along an axis."""
    if channels is None or img.shape[axis] == channels:
        return
    axis %= img.dim()
    remedy = f"; they lie last: img.movedim(-1, {axis})" if img.shape[-1] == channels else ""
    raise ValueError(
        f"img must have {channels} channels on axis {axis}, got an image of shape "
        f"{tuple(img.shape)}{remedy}"
    )


def require_dense(name: str, tensor: Tensor) -> None:
    """TypeError for a tensor that is sparse, or of another layout without strides."""
    if tensor.layout is not torch.strided:
        remedy = "" if tensor.is_nested else f"; {name}.to_dense() makes one"
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}{remedy}")


def one_kind(
    img: Tensor, krn: Tensor, names: tuple[str, str] = ("img", "krn")
) -> tuple[Tensor, Tensor]:
    """The two tensors in one dtype; an error with the remedy where dtypes or devices differ."""
    first, second = names
    if img.device != krn.device:
        raise ValueError(
            f"{first} and {second} must be on one device, got {first} on {img.device} and {second} "
            f"on {krn.device}; move one of them: {second}.to({first}.device), or the module that "
            f"holds it, module.to({first}.device)"
        )
    if img.dtype == krn.dtype:
        return img, krn
    floating = img.is_floating_point() and krn.is_floating_point()
    if floating and torch.is_autocast_enabled(img.device.type):
        wider = torch.promote_types(img.dtype, krn.dtype)
        return img.to(wider), krn.to(wider)
    # An integer dtype cannot hold a floating kernel, so the image is converted instead.
    integers = krn.is_floating_point() and not img.is_floating_point()
    remedy = f"{second}.to({first}.dtype), or the module that holds it, module.to({first}.dtype)"
    if integers:
        remedy = f"{first}.to({second}.dtype)"
    raise TypeError(
        f"{first} and {second} must have one dtype, got {first} {img.dtype} and {second} "
        f"{krn.dtype}; convert one of them: {remedy}"
    )
