"""The convolution of log or root whose parameter is a tensor, as torch differentiates it.

In image, kernel and parameter, once. `autograd` does the same of two tensors, for semifields that
hold their own parameters; `ops.parametric` has the operators. Called by `functional` and `pooling`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.geometry import Geometry
from torch_bridge import ops
from torch_bridge.arguments import GeometryArguments
from torch_bridge.autograd import (
    in_forward_mode,
    is_recorded,
    no_forward_mode,
    no_second_derivative,
    no_second_tangent,
    recording,
    with_signature,
)
from torch_bridge.convolutions import fused_conv
from torch_bridge.parameters import Parameter, resolved

Wants = tuple[bool, bool, bool]  # gradients of img, krn and parameter


def conv_in_family(
    img: Tensor, krn: Tensor, family: str, geometry: Geometry, value: Parameter
) -> Tensor:
    """The convolution of checked tensors in "log" or "root", of a number or a tensor."""
    found = resolved(family, value, img, krn)
    if isinstance(found, Tensor):
        return parametric_conv(img, krn, family, geometry, found)
    return fused_conv(img, krn, found, geometry)


def parametric_conv(
    img: Tensor, krn: Tensor, family: str, geometry: Geometry, parameter: Tensor
) -> Tensor:
    """The convolution of checked tensors in "log" or "root".

    The parameter has one number, or one for each kernel, in the dtype of arithmetic.
    """
    learns = torch.is_grad_enabled() and _is_learned(parameter)
    operation = _Operation(family, geometry, learns)
    mode = recording(img, krn, parameter)
    if mode is None:
        return operation.forward(img, krn, parameter, False)[0]
    function = _Traced if mode == "traced" else _Transformed
    out: Tensor = function.apply(img, krn, parameter, operation)[0]
    return out


def _is_learned(parameter: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return parameter.requires_grad
    return is_recorded(parameter)


class _Operation:
    """What is computed; no tuple, as the operations of `autograd` are none.

    `learns`: whether the forward pass keeps what the derivative by the parameter needs.
    """

    name = "semifield convolution"

    def __init__(self, family: str, geometry: Geometry, learns: bool) -> None:
        self.handle = ops.handle_of_family(family)
        self.arguments = GeometryArguments.of(geometry)
        self.learns = learns

    def forward(
        self, img: Tensor, krn: Tensor, parameter: Tensor, with_residual: bool
    ) -> tuple[Tensor, Tensor]:
        slopes = with_residual and self.learns
        return ops.call_parametric(
            img, krn, parameter, self.handle.key, self.arguments, with_residual, slopes
        )

    def gradients(self, grad_out: Tensor, saved: Any, wants: Wants) -> tuple[Tensor, ...]:
        """Those that are wanted; empty tensors for the others."""
        residual, img, krn, parameter = saved
        return ops.call_parametric_backward(
            grad_out,
            img,
            krn,
            parameter,
            residual,
            self.handle.key,
            self.arguments,
            self.learns,
            wants,
        )


class _Traced(torch.autograd.Function):
    """(img, krn, parameter) -> (out, residual)."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        img: Tensor, krn: Tensor, parameter: Tensor, operation: _Operation
    ) -> tuple[Tensor, Tensor]:
        return operation.forward(img, krn, parameter, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.operation = inputs
        residual = output[1]
        ctx.mark_non_differentiable(residual)
        ctx.save_for_backward(residual, *tensors)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: Any) -> Any:
        wants = ctx.needs_input_grad[:3]
        compiling = torch.compiler.is_compiling()
        if not compiling and (torch.is_grad_enabled() or in_forward_mode()):
            grads = _Gradients.apply(grad_out, *ctx.saved_tensors, _Request(ctx.operation, wants))
        else:
            grads = ctx.operation.gradients(grad_out, ctx.saved_tensors, wants)
        return (
            grads[0] if wants[0] else None,
            grads[1] if wants[1] else None,
            grads[2] if wants[2] else None,
            None,
        )


class _Transformed(_Traced):
    """`_Traced` outside of torch.compile, where forward mode is refused in our words."""

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise no_forward_mode(ctx.operation)


class _Request:
    """Which gradients are computed; no tuple, as an `_Operation` is none."""

    def __init__(self, operation: _Operation, wants: Wants) -> None:
        self.operation, self.wants = operation, wants


class _Gradients(torch.autograd.Function):
    """(grad_out, residual, img, krn, parameter) -> gradients, which have no derivative."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        grad_out: Tensor,
        residual: Tensor,
        img: Tensor,
        krn: Tensor,
        parameter: Tensor,
        request: _Request,
    ) -> tuple[Tensor, ...]:
        saved = (residual, img, krn, parameter)
        return request.operation.gradients(grad_out, saved, request.wants)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.request = inputs[5]

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise no_second_derivative(ctx.request.operation)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise no_second_tangent(ctx.request.operation)
