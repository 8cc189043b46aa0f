"""Parabolas without end as torch differentiates them: by image and scale. Called by `parabolic`.

mode                                     what records
torch.compile, and all else              `_Recorded`, whose backward pass is an operator
torch.func, vmap, forward mode           torch itself, from the winners
a second derivative                      torch itself, from the gradients' formula
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_bridge.autograd import _inside_of_transforms, in_forward_mode
from torch_bridge.ops.parabolas import (
    Passes,
    call_parabolas,
    call_parabolas_backward,
    expressed,
    plain_gradients,
)


def parabolas(img: Tensor, scale: Tensor, passes: Passes) -> Tensor:
    """The passes over a checked image, by checked scales (G, N) of float64."""
    if _inside_of_transforms() or in_forward_mode():
        _, winners = call_parabolas(img.detach(), scale.detach(), passes, True)
        return expressed(img, scale, winners, passes)
    if torch.is_grad_enabled() and (img.requires_grad or scale.requires_grad):
        out: Tensor = _Recorded.apply(img, scale, passes)[0]
        return out
    return call_parabolas(img, scale, passes, False)[0]


class _Recorded(torch.autograd.Function):
    """(img, scale) -> result and winners."""

    @staticmethod
    def forward(ctx: Any, img: Tensor, scale: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
        out, winners = call_parabolas(img, scale, passes, True)
        ctx.mark_non_differentiable(winners)
        if not torch.compiler.is_compiling():  # Dynamo neither supports nor needs this call
            ctx.set_materialize_grads(False)
        ctx.passes = passes
        ctx.save_for_backward(scale, winners)
        return out, winners

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, _: Any) -> Any:
        if grad_out is None:
            return None, None, None
        scale, winners = ctx.saved_tensors
        again = not torch.compiler.is_compiling() and (
            torch.is_grad_enabled() or in_forward_mode() or _inside_of_transforms()
        )
        gradients = plain_gradients if again else call_parabolas_backward
        grad_img, grad_scale = gradients(grad_out, scale, winners, ctx.passes)
        want_img, want_scale = ctx.needs_input_grad[:2]
        return grad_img if want_img else None, grad_scale if want_scale else None, None
