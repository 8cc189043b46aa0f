"""`return_indices=True`: which taps or terms won, as int64 tensors. Called by `functional`."""

from __future__ import annotations

import torch
from torch import Tensor

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.geometry import Geometry
from torch_bridge import ops
from torch_bridge.arguments import GeometryArguments
from torch_bridge.convolutions import fused_conv_with_winners
from torch_bridge.ops import Handle, PreparedSemifield
from torch_bridge.products import fused_matmul_with_winners

AnySemifield = Semifield | PreparedSemifield | str


def conv_with_winners(
    img: Tensor, krn: Tensor, semifield: AnySemifield, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The convolution of checked tensors, and its winning taps: flat into krn[o] as stored."""
    by_one = _by_one_winner(semifield)
    out, residual = fused_conv_with_winners(img, krn, semifield, geometry, by_one is None)
    if by_one is not None:
        arguments = GeometryArguments.of(geometry)
        residual = ops.call_forward(img.detach(), krn.detach(), by_one.key, arguments, True)[1]
    return out, _indices(residual)


def matmul_with_winners(a: Tensor, b: Tensor, semifield: AnySemifield) -> tuple[Tensor, Tensor]:
    """The product of checked tensors of two axes or more, and its winning terms."""
    by_one = _by_one_winner(semifield)
    out, residual = fused_matmul_with_winners(a, b, semifield, by_one is None)
    if by_one is not None:
        residual = ops.call_product(a.detach(), b.detach(), by_one.key, True)[1]
    return out, _indices(residual)


def _by_one_winner(semifield: AnySemifield) -> Handle | None:
    """The selection that finds the winners; None where the semifield's own residual is winners."""
    if isinstance(semifield, PreparedSemifield):
        handle, by_one = semifield.handle, ops.handle_by_one_winner(semifield.semifield)
    else:
        handle, by_one = ops.handle_of(semifield), ops.handle_by_one_winner(semifield)
    return None if by_one.key == handle.key else by_one


def _indices(residual: Tensor) -> Tensor:
    """A residual of winners as indices, -1 where no term won."""
    none = torch.iinfo(residual.dtype).max
    indices = residual.to(torch.int64)
    return torch.where(indices == none, -1, indices)
