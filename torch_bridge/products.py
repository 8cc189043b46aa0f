"""The fused matrix product of a compiled semifield as a differentiable function of tensors.

What is saved for the derivative, which gradients are computed, and the second derivative of
selections. `ops` has the operators themselves, `autograd` the same for convolutions. Called by
`functional`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.algebra import Semifield
from torch_bridge import ops
from torch_bridge.arguments import Shape
from torch_bridge.autograd import (
    in_forward_mode,
    no_forward_mode,
    no_second_derivative,
    no_second_tangent,
    recorder,
    with_signature,
)
from torch_bridge.ops import Handle, PreparedSemifield


def fused_matmul(
    a: Tensor,
    b: Tensor,
    semifield: Semifield | PreparedSemifield | str,
    with_winners: bool = False,
) -> tuple[Tensor, Tensor]:
    """The product of checked tensors of two axes or more, and its residual, as `fused_conv`."""
    if isinstance(semifield, PreparedSemifield):
        handle = semifield.handle
    else:
        handle = ops.handle_of(semifield)
    recorded = recorder(a, b, _Product, _EagerProduct, _TransformedProduct)
    if recorded is None:
        return ops.call_product(a, b, handle.key, with_winners)
    found: tuple[Tensor, Tensor] = recorded.apply(a, b, handle)
    return found


class _Product(torch.autograd.Function):
    """(a, b) -> (out, residual)."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(a: Tensor, b: Tensor, handle: Handle) -> tuple[Tensor, Tensor]:
        return ops.call_product(a, b, handle.key, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():  # Dynamo neither supports nor needs this call
            ctx.set_materialize_grads(False)
        a, b, handle = inputs
        _save(ctx, a, b, handle, output[1])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, _: Any) -> Any:
        wants = want_a, want_b = ctx.needs_input_grad[:2]
        if grad_out is None:
            return None, None, None
        residual, *arrays = ctx.saved_tensors
        a, b = arrays if arrays else (None, None)
        twice = not torch.compiler.is_compiling() and (torch.is_grad_enabled() or in_forward_mode())
        gradients = _Gradients.apply if twice else _Gradients.forward
        grad_a, grad_b = gradients(grad_out, a, b, residual, ctx.handle, ctx.shapes, wants)
        return grad_a if want_a else None, grad_b if want_b else None, None


def _save(ctx: Any, a: Tensor, b: Tensor, handle: Handle, residual: Tensor) -> None:
    """Keep what the backward pass needs."""
    ctx.mark_non_differentiable(residual)
    ctx.handle = handle
    if not torch.compiler.is_compiling():
        # Keeps the semifield alive: the backward pass finds it by its key.
        ctx.semifield = ops.semifield_of(handle.key)
    ctx.shapes = (tuple(a.shape), tuple(b.shape))
    ctx.save_for_backward(*((residual, a, b) if handle.needs_arrays else (residual,)))


class _EagerProduct(torch.autograd.Function):
    """`_Product` outside of torch.compile and torch.func, where `apply` takes half the time."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, handle: Handle) -> tuple[Tensor, Tensor]:
        out, residual = ops.call_product(a, b, handle.key, True)
        ctx.set_materialize_grads(False)
        _save(ctx, a, b, handle, residual)
        return out, residual

    backward = _Product.backward


class _TransformedProduct(_Product):
    """`_Product` with a derivative in forward mode, which torch.compile does not support."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _Product.setup_context(ctx, inputs, output)
        if ctx.handle.constant_d_times is not None:
            ctx.save_for_forward(output[1])

    @staticmethod
    def jvp(ctx: Any, a_tangent: Tensor | None, b_tangent: Tensor | None, _: None) -> Any:
        d_times = ctx.handle.constant_d_times
        if d_times is None:
            raise no_forward_mode("matrix product", ctx.handle)
        (winner,) = ctx.saved_tensors
        return _at_winners((a_tangent, b_tangent), winner, d_times), None


class _Gradients(torch.autograd.Function):
    """(grad_out, a, b, residual) -> (grad_a, grad_b), itself differentiable by grad_out.

    A selection whose terms have constant derivatives has no other second derivative: the winners
    do not move.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        grad_out: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        residual: Tensor,
        handle: Handle,
        shapes: tuple[Shape, Shape],
        wants: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        return ops.call_product_backward(grad_out, a, b, residual, handle.key, shapes, wants)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        residual, ctx.handle, ctx.shapes, ctx.wants = inputs[3:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(residual)

    @staticmethod
    def backward(ctx: Any, grad_grad_a: Tensor | None, grad_grad_b: Tensor | None) -> Any:
        d_times = ctx.handle.constant_d_times
        if d_times is None:
            raise no_second_derivative("matrix product", ctx.handle)
        (winner,) = ctx.saved_tensors
        want_a, want_b = ctx.wants
        directions = (grad_grad_a if want_a else None, grad_grad_b if want_b else None)
        return _at_winners(directions, winner, d_times), *(None,) * 6

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise no_second_tangent("matrix product")


def _at_winners(
    directions: tuple[Tensor | None, Tensor | None],
    winner: Tensor,
    d_times: tuple[float, float],
) -> Tensor | None:
    """The derivative of out in a direction of (a, b), for the winning terms of a residual.

    An output changes as its winning term k does: by the derivative of times by a, times the
    direction at a[m, k], and likewise for b[k, n]. That is linear in the direction, and the
    transpose of what gives the gradients.
    """
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
