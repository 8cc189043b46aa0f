"""Semifield convolutions and matrix products as functions of tensors; modules are layers over them.

Checks tensors and plans; what runs is `convolutions` and `products` (compiled semifields) or
`broadcast` (array functions, differentiated by torch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from semiconv_cupy.algebra import BroadcastSemifield, Semifield
from semiconv_cupy.errors import flag
from semiconv_cupy.geometry import Geometry, IntOrTuple, Kind, Padding
from semiconv_cupy.operands import Operands
from semiconv_cupy.winners import selection_by_one
from torch_bridge.broadcast import broadcast_conv, broadcast_matmul
from torch_bridge.convolutions import fused_conv
from torch_bridge.products import fused_matmul
from torch_bridge.winners import conv_with_winners, matmul_with_winners

if TYPE_CHECKING:
    from torch_bridge.ops import PreparedSemifield

__all__ = ["semifield_conv", "semifield_matmul"]


TENSORS, _DENSE = (Tensor, torch.nn.Parameter), torch.strided


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
    if not (type(img) in TENSORS and type(krn) in TENSORS and img.layout is krn.layout is _DENSE):
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


def require_dense(name: str, tensor: Tensor) -> None:
    """TypeError for a tensor that is sparse, or of another layout without strides."""
    if tensor.layout is not torch.strided:
        remedy = "" if tensor.is_nested else f"; {name}.to_dense() makes one"
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}{remedy}")


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
    return_indices: bool = False,
) -> Any:
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
    return_indices : bool
        Return (out, indices), as `semiconv_cupy.semifield_conv` does: an int64 tensor of the
        winning taps, of selections only.

    Raises
    ------
    TypeError
        No dense tensors, or of two dtypes.
    ValueError
        Tensors on two devices; shapes or arguments that do not fit; `return_indices` with an
        addition that is no selection.

    NotImplementedError
        Forward mode, unless the semifield selects one winner and its times has constant
        derivatives; `torch.compile` around a transform of `torch.func`.

    Examples
    --------
    >>> img = torch.tensor([[[0.0, 0.0, 5.0, 0.0, 1.0]]], requires_grad=True)
    >>> krn = torch.tensor([[[-1.0, 0.0, -1.0]]])
    >>> semifield_conv(img, krn, BroadcastSemifield.tropical_max(), padding="same").tolist()
    [[[0.0, 4.0, 5.0, 4.0, 1.0]]]
    """
    geometry = plan(img, krn, stride, padding, dilation, groups, group_broadcasting, kind)
    img, krn = one_kind(img, krn)
    if flag("return_indices", return_indices):
        return conv_with_winners(img, krn, _with_winners(semifield), geometry)
    if isinstance(semifield, BroadcastSemifield):
        return broadcast_conv(img, krn, semifield, geometry)
    return fused_conv(img, krn, semifield, geometry)


def semifield_matmul(
    a: Tensor,
    b: Tensor,
    semifield: Semifield | BroadcastSemifield | PreparedSemifield | str,
    *,
    return_indices: bool = False,
) -> Any:
    """Multiply matrices in a semifield, differentiably.

    Formula and shapes are those of `semiconv_cupy.semifield_matmul`, which are `torch.matmul`'s;
    tensors in, a tensor of their dtype and device out.

    Parameters
    ----------
    a : Tensor (..., M, K) or (K,)
        Any strides; nothing is copied.
    b : Tensor (..., K, N) or (K,)
        Of a's dtype and device. Under `torch.autocast` two floating dtypes meet in the wider one.
    semifield : SelectSemifield, SubtractSemifield, BroadcastSemifield or str
        A semifield, or the name of a ready-made one. A BroadcastSemifield holds all M K N products.
    return_indices : bool
        Return (out, indices): an int64 tensor that says which k won, -1 where no term is better
        than the zero; of selections only.

    Raises
    ------
    TypeError
        No dense tensors, or of two dtypes.
    ValueError
        Scalars, shapes that do not fit, tensors on two devices; `return_indices` with an addition
        that is no selection.

    NotImplementedError
        As in `semifield_conv`.

    Examples
    --------
    >>> a = torch.tensor([[0.0, 3.0], [2.0, 1.0]], requires_grad=True)
    >>> b = torch.tensor([[1.0], [0.0]])
    >>> out, indices = semifield_matmul(a, b, "tropical_max", return_indices=True)
    >>> out.tolist(), indices.tolist()
    ([[3.0], [3.0]], [[1], [0]])
    >>> out.sum().backward()
    >>> a.grad.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    require_tensors("semifield_matmul", a=a, b=b)
    if not (a.dim() and b.dim() and a.size(-1) == b.size(-min(b.dim(), 2))):
        Operands.of(a.shape, b.shape)  # raises
    a, b = one_kind(a, b, ("a", "b"))
    rows, columns = (a if a.dim() > 1 else a[None]), (b if b.dim() > 1 else b[:, None])
    if flag("return_indices", return_indices):
        found = matmul_with_winners(rows, columns, _with_winners(semifield))
        out, indices = (_without_axes(tensor, a, b) for tensor in found)
        return out, indices
    if isinstance(semifield, BroadcastSemifield):
        return _without_axes(broadcast_matmul(rows, columns, semifield), a, b)
    return _without_axes(fused_matmul(rows, columns, semifield), a, b)


def _without_axes(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A product without the axes that operands of one axis lack."""
    if b.dim() == 1:
        out = out.squeeze(-1)
    return out.squeeze(-1 if b.dim() == 1 else -2) if a.dim() == 1 else out


def _with_winners(semifield: Any) -> Any:
    """The semifield; ValueError for array functions, which have no winners."""
    if isinstance(semifield, BroadcastSemifield):
        selection_by_one(semifield)  # raises
    return semifield


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
