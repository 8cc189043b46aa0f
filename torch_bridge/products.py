"""The fused matrix product of a compiled semifield, as an operation that autograd records.

`autograd` says what is saved and differentiated, `ops` has the operators themselves. Called by
`functional` and `winners`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semiconv_cupy.algebra import Semifield
from torch_bridge import ops
from torch_bridge.autograd import Directions, Shapes, Wants, recorded, recorded_with_winners
from torch_bridge.ops import FallBack, Handle, Node, PreparedSemifield

AnySemifield = Semifield | PreparedSemifield | str


def fused_matmul(a: Tensor, b: Tensor, semifield: AnySemifield) -> Tensor:
    """The product of checked tensors of two axes or more, as `recorded`."""
    return recorded(a, b, _operation(semifield))


def fused_matmul_with_winners(
    a: Tensor, b: Tensor, semifield: AnySemifield, with_winners: bool
) -> tuple[Tensor, Tensor]:
    """The product of checked tensors, and its residual, as `recorded_with_winners`."""
    return recorded_with_winners(a, b, _operation(semifield), with_winners)


def _operation(semifield: AnySemifield) -> _Product:
    if isinstance(semifield, PreparedSemifield):
        handle = semifield.handle
    else:
        handle = ops.handle_of(semifield)
    operation = _Product(handle)
    if not torch.compiler.is_compiling():
        operation.semifield = ops.semifield_of(handle.parted.unbound)
    return operation


class _Product:
    name = "matrix product"
    semifield: Semifield | None = None
    node: Node | None = None

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    def find_node(self, a: Tensor, b: Tensor, fall_back: FallBack) -> Node | None:
        return None  # no launches are described

    def without_node(self) -> _Product:
        return self  # it has none

    def straight(self, a: Tensor, b: Tensor, with_residual: bool) -> tuple[Tensor, Tensor | None]:
        return ops.product_straight(a, b, self.handle.parted, with_residual)

    def forward(self, a: Tensor, b: Tensor, with_residual: bool) -> tuple[Tensor, Tensor]:
        return ops.call_product(a, b, self.handle.key, with_residual)

    def gradients(
        self,
        grad_out: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        residual: Tensor | None,
        shapes: Shapes,
        wants: Wants,
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            residual = grad_out.new_empty(0)
        return ops.call_product_backward(grad_out, a, b, residual, self.handle.key, shapes, wants)

    def at_winners(
        self, directions: Directions, winner: Tensor, _: Shapes, d_times: tuple[float, float]
    ) -> Tensor | None:
        """See `Operation`: the winning k of out[m, n] stands for a[m, k] and b[k, n]."""
        unselected = winner == torch.iinfo(winner.dtype).max
        k = winner.long().masked_fill(unselected, 0)
        batch = winner.shape[:-2]
        total: Tensor | None = None
        for axis, direction, factor in zip((-1, -2), directions, d_times, strict=True):
            if direction is None:
                continue
            if not direction.shape[axis]:  # no term
                continue
            everywhere = direction.expand(*batch, *direction.shape[-2:])
            part = factor * everywhere.gather(axis, k).masked_fill(unselected, 0)
            total = part if total is None else total + part
        return total
