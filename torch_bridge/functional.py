"""Semifield convolutions and matrix products as functions of tensors; modules are layers over them.

Checks tensors and plans; what runs is `convolutions` and `products` (compiled semifields) or
`broadcast` (array functions, differentiated by torch).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from semiconv_cupy.algebra import BroadcastSemifield, Semifield, SubtractSemifield
from semiconv_cupy.errors import flag
from semiconv_cupy.geometry import IntOrTuple, Kind, Padding
from semiconv_cupy.operands import Operands
from semiconv_cupy.winners import selection_by_one
from torch_bridge.broadcast import broadcast_conv, broadcast_matmul
from torch_bridge.checks import one_kind, plan, require_tensors
from torch_bridge.convolutions import fused_conv
from torch_bridge.parabolic import (
    distance_transform_edt,
    parabolic_closing,
    parabolic_dilation,
    parabolic_erosion,
    parabolic_opening,
)
from torch_bridge.parameters import (
    NAMES,
    Parameter,
    family_of,
    of_numbers,
    parameter_of,
    require_own,
)
from torch_bridge.parametric import conv_in_family, conv_of_own, matmul_in_family, matmul_of_own
from torch_bridge.pooling_functions import (
    gem_pool1d,
    gem_pool2d,
    gem_pool3d,
    log_sum_exp_pool1d,
    log_sum_exp_pool2d,
    log_sum_exp_pool3d,
)
from torch_bridge.products import fused_matmul
from torch_bridge.winners import conv_with_winners, matmul_with_winners

if TYPE_CHECKING:
    from torch_bridge.ops import PreparedSemifield

__all__ = [
    "distance_transform_edt",
    "gem_pool1d",
    "gem_pool2d",
    "gem_pool3d",
    "log_sum_exp_pool1d",
    "log_sum_exp_pool2d",
    "log_sum_exp_pool3d",
    "parabolic_closing",
    "parabolic_dilation",
    "parabolic_erosion",
    "parabolic_opening",
    "semifield_conv",
    "semifield_matmul",
]


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
    mu: Parameter | None = None,
    p: Parameter | None = None,
    **parameters: Parameter,
) -> Any:
    r"""Convolve an image with a kernel in a semifield, differentiably.

    Formula, shapes and arguments are those of `semiconv_cupy.semifield_conv`; tensors in, a tensor
    of their dtype and device out.

    .. math:: out[b, o, x] = \bigoplus_{i, y} img[b, g I + i, s x + d\,step(y) - begin]
              \otimes krn[k(o), i, y]

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
    mu, p : float or Tensor, optional
        The parameter of ``"log"`` and of ``"root"``: a number, or a tensor with one entry or one
        for each kernel, (O,). A tensor gets a gradient, in its own dtype; the kernels compute with
        it in float32, or float64 for float64 images. Nothing is compiled for a new value, and
        nobody waits for the GPU to look at it: a tensor with 0, infinity or NaN in it gives results
        that are not finite, where such a number is an error.
    **parameters : float or Tensor
        Those of a semifield of one's own: as of `semiconv_cupy.semifield_conv`, with gradients.

    Returns
    -------
    Tensor (B, O or O * groups, \*out)
        Of img's dtype and device; with `return_indices` a pair of it and the indices.

    Raises
    ------
    TypeError
        No dense tensors, or of two dtypes; ``"log"`` without mu, ``"root"`` without p, or either
        with another semifield.
    ValueError
        Tensors on two devices; shapes or arguments that do not fit; `return_indices` with an
        addition that is no selection; a parameter that is 0 or not finite.
    NotImplementedError
        Forward mode, unless the semifield selects one winner and its times has constant
        derivatives; `torch.compile` around a transform of `torch.func`.

    See Also
    --------
    semifield_matmul : The matrix product.
    torch_bridge.GenericConv, torch_bridge.SemifieldConv : Modules.
    semiconv_cupy.semifield_conv : Of arrays; formula, numbers and sources.

    Examples
    --------
    >>> import torch
    >>> img = torch.tensor([[[0.0, 0.0, 5.0, 0.0, 1.0]]], requires_grad=True)
    >>> krn = torch.tensor([[[-1.0, 0.0, -1.0]]])
    >>> semifield_conv(img, krn, BroadcastSemifield.tropical_max(), padding="same").tolist()
    [[[0.0, 4.0, 5.0, 4.0, 1.0]]]
    >>> mu = torch.tensor(2.0, requires_grad=True)
    >>> semifield_conv(img, krn, "log", mu=mu).sum().backward()
    >>> bool(mu.grad < 0)  # with a larger mu, the soft maximum falls towards the maximum
    True
    """
    geometry = plan(img, krn, stride, padding, dilation, groups, group_broadcasting, kind)
    img, krn = one_kind(img, krn)
    parameter = parameter_of(semifield, mu, p)
    if parameters:
        require_own(semifield, parameters, "semifield_conv")
    if flag("return_indices", return_indices):
        semifield = of_numbers(semifield, parameters)
        return conv_with_winners(img, krn, _with_winners(semifield), geometry)
    if parameter is not None:
        return conv_in_family(img, krn, str(family_of(semifield)), geometry, parameter)
    if isinstance(semifield, BroadcastSemifield):
        return broadcast_conv(img, krn, semifield.called_with(**parameters), geometry)
    if parameters:
        return conv_of_own(img, krn, semifield, geometry, parameters)
    return fused_conv(img, krn, semifield, geometry)


def semifield_matmul(
    a: Tensor,
    b: Tensor,
    /,
    semifield: Semifield | BroadcastSemifield | PreparedSemifield | str,
    *,
    return_indices: bool = False,
    mu: Parameter | None = None,
    p: Parameter | None = None,
    **parameters: Parameter,
) -> Any:
    r"""Multiply matrices in a semifield, differentiably.

    Formula and shapes are those of `semiconv_cupy.semifield_matmul`, which are `torch.matmul`'s;
    tensors in, a tensor of their dtype and device out.

    .. math:: out[\ldots, m, n] = \bigoplus_k a[\ldots, m, k] \otimes b[\ldots, k, n]

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
    mu, p : float or Tensor, optional
        As in `semifield_conv`; a tensor has one entry, or one for each column of `b`, (N,).
    **parameters : float or Tensor
        As in `semifield_conv`.

    Returns
    -------
    Tensor (..., M, N)
        Of a's dtype and device; with `return_indices` a pair of it and the indices.

    Raises
    ------
    TypeError
        No dense tensors, or of two dtypes; ``"log"`` without mu, ``"root"`` without p, or either
        with another semifield.
    ValueError
        Scalars, shapes that do not fit, tensors on two devices; `return_indices` with an addition
        that is no selection; a parameter that is 0 or not finite.
    NotImplementedError
        As in `semifield_conv`.

    See Also
    --------
    torch_bridge.SemifieldLinear : A dense layer.
    semifield_conv : The convolution.
    semiconv_cupy.semifield_matmul : Of arrays; numbers and sources.

    Examples
    --------
    >>> import torch
    >>> a = torch.tensor([[0.0, 3.0], [2.0, 1.0]], requires_grad=True)
    >>> b = torch.tensor([[1.0], [0.0]])
    >>> out, indices = semifield_matmul(a, b, "tropical_max", return_indices=True)
    >>> out.tolist(), indices.tolist()
    ([[3.0], [3.0]], [[1], [0]])
    >>> out.sum().backward()
    >>> a.grad.tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    >>> mu = torch.tensor(2.0, requires_grad=True)
    >>> semifield_matmul(a, b, "log", mu=mu).sum().backward()
    >>> bool(mu.grad < 0)
    True
    """
    require_tensors("semifield_matmul", a=a, b=b)
    parameter = parameter_of(semifield, mu, p)
    if not (a.dim() and b.dim() and a.size(-1) == b.size(-min(b.dim(), 2))):
        Operands.of(a.shape, b.shape)  # raises
    a, b = one_kind(a, b, ("a", "b"))
    rows, columns = (a if a.dim() > 1 else a[None]), (b if b.dim() > 1 else b[:, None])
    if parameters:
        require_own(semifield, parameters, "semifield_matmul")
    if flag("return_indices", return_indices):
        semifield = of_numbers(semifield, parameters)
        found = matmul_with_winners(rows, columns, _with_winners(semifield))
        out, indices = (_without_axes(tensor, a, b) for tensor in found)
        return out, indices
    if parameter is not None:
        family = str(family_of(semifield))
        return _without_axes(matmul_in_family(rows, columns, family, parameter), a, b)
    if isinstance(semifield, BroadcastSemifield):
        called = semifield.called_with(**parameters)
        return _without_axes(broadcast_matmul(rows, columns, called), a, b)
    if parameters:
        return _without_axes(matmul_of_own(rows, columns, semifield, parameters), a, b)
    return _without_axes(fused_matmul(rows, columns, semifield), a, b)


def _without_axes(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A product without the axes that operands of one axis lack."""
    if b.dim() == 1:
        out = out.squeeze(-1)
    return out.squeeze(-1 if b.dim() == 1 else -2) if a.dim() == 1 else out


def _with_winners(semifield: Any) -> Any:
    """The semifield; ValueError for array functions, log and root, which have no winners."""
    if isinstance(semifield, str) and semifield in NAMES:
        semifield = SubtractSemifield.named_family(semifield)
    if isinstance(semifield, (BroadcastSemifield, SubtractSemifield)):
        selection_by_one(semifield)  # raises
    return semifield
