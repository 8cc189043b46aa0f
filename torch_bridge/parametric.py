"""Convolutions and products of semifields whose parameters are tensors, as torch differentiates.

In image, kernel and parameters, once. `autograd` does the same of two tensors, for semifields that
hold their own parameters; `ops.parametric` has the operators. Called by `functional` and `means`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from semiconv_cupy.algebra import SubtractSemifield
from semiconv_cupy.geometry import Geometry
from torch_bridge import ops
from torch_bridge.arguments import GeometryArguments
from torch_bridge.autograd import (
    Named,
    in_forward_mode,
    is_recorded,
    no_forward_mode,
    no_second_derivative,
    no_second_tangent,
    recording,
    with_signature,
)
from torch_bridge.checks import plan
from torch_bridge.convolutions import fused_conv
from torch_bridge.ops.plans import storage_of
from torch_bridge.parameters import Parameter, resolved, resolved_own
from torch_bridge.products import fused_matmul

Wants = tuple[bool, bool, bool]  # gradients of img, krn and parameter


class ParametricOperation(Named, Protocol):
    """What computes an output and a residual from an image, a kernel and a parameter.

    `learns`: whether the forward pass keeps what the derivative by the parameter needs.
    """

    learns: bool

    def forward(
        self, img: Tensor, krn: Tensor, parameter: Tensor, with_residual: bool
    ) -> tuple[Tensor, Tensor]: ...

    def gradients(self, grad_out: Tensor, saved: Any, wants: Wants) -> tuple[Tensor, ...]:
        """Those that are wanted of (img, krn, parameter); empty tensors for the others."""


def conv_in_family(
    img: Tensor, krn: Tensor, family: str, geometry: Geometry, value: Parameter
) -> Tensor:
    """The convolution of checked tensors in "log" or "root", of a number or a tensor."""
    found = resolved(family, value, img, "kernels", krn.shape[0], "img")
    if isinstance(found, Tensor):
        return parametric_conv(img, krn, _Operation(ops.handle_of_family(family), geometry), found)
    return fused_conv(img, krn, found, geometry)


def conv_of_own(
    img: Tensor, krn: Tensor, semifield: Any, geometry: Geometry, values: Mapping[str, Parameter]
) -> Tensor:
    """The convolution of checked tensors by a semifield of the user's own with these parameters."""
    found = resolved_own(semifield, values, img, "kernels", krn.shape[0], "img")
    if not isinstance(found, Tensor):
        return fused_conv(img, krn, found, geometry)
    return parametric_conv(img, krn, _Operation(ops.handle_of_own(semifield), geometry), found)


def matmul_of_own(a: Tensor, b: Tensor, semifield: Any, values: Mapping[str, Parameter]) -> Tensor:
    """The product of checked tensors of two axes or more, likewise."""
    found = resolved_own(semifield, values, a, "columns of b", b.shape[-1], "a")
    if not isinstance(found, Tensor):
        return fused_matmul(a, b, found)
    return _matmul(a, b, _Kind(ops.handle_of_own(semifield), semifield.zero), found)


def matmul_in_family(a: Tensor, b: Tensor, family: str, value: Parameter) -> Tensor:
    """The product of checked tensors of two axes or more in "log" or "root"."""
    if not a.is_floating_point():
        storage_of(a.dtype, SubtractSemifield.named_family(family), "a", False)  # raises
    found = resolved(family, value, a, "columns of b", b.shape[-1], "a")
    if not isinstance(found, Tensor):
        return fused_matmul(a, b, found)
    return _matmul(a, b, _Kind(ops.handle_of_family(family), family == "log"), found)


class _Kind(NamedTuple):
    """A semifield without values; its zero: a number, or whether that of mu > 0 is -inf, not 0."""

    handle: ops.Handle
    zero: float | bool


def _matmul(a: Tensor, b: Tensor, kind: _Kind, parameter: Tensor) -> Tensor:
    if b.dim() == 2:  # the rows of all matrices of a are those of one
        rows = a.flatten(0, -2)
        out = _product(rows[None], b[None], kind, parameter)[0]
        return out.unflatten(0, a.shape[:-1]) if a.dim() != 2 else out
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    first, second = (x.expand(*batch, *x.shape[-2:]).flatten(0, -3) for x in (a, b))
    return _product(first, second, kind, parameter).unflatten(0, batch)


def _product(a: Tensor, b: Tensor, kind: _Kind, parameter: Tensor) -> Tensor:
    """The product of matrices (G, M, K) and (G, K, N), as a convolution of G groups.

    A column of b is a kernel of one tap, and the rows of a are the positions of an image of K
    channels, which lie next to each other in vectors.
    """
    count, columns = a.shape[0], b.shape[-1]
    if not (count and a.numel() and b.numel()):
        return _of_no_terms(a, b, kind.zero, parameter)
    img, krn = a.mT.flatten(0, 1)[None], b.mT.flatten(0, 1)[..., None]
    if parameter.dim() and parameter.shape[-1] > 1:
        parameter = parameter.repeat(*(1,) * (parameter.dim() - 1), count)
    operation = _Operation(kind.handle, plan(img, krn, groups=count), "matrix product")
    out = parametric_conv(img, krn, operation, parameter)
    return out[0].unflatten(0, (count, columns)).mT.contiguous()


def _of_no_terms(a: Tensor, b: Tensor, own_zero: float | bool, parameter: Tensor) -> Tensor:
    """The product where it has no terms, and so is the zero, or no results; gradients are 0."""
    if isinstance(own_zero, bool):
        lowest = -torch.inf if own_zero else 0.0
        zero = torch.where(parameter.detach() > 0, lowest, torch.inf).to(a.dtype)
    else:
        zero = torch.full((), own_zero, dtype=a.dtype, device=a.device)
    nothing = sum(tensor.flatten()[:0].sum().to(a.dtype) for tensor in (a, b, parameter))
    return (zero + nothing).expand(a.shape[0], a.shape[1], b.shape[-1]).contiguous()


def parametric_conv(
    img: Tensor, krn: Tensor, operation: ParametricOperation, parameter: Tensor
) -> Tensor:
    """The convolution of checked tensors, which are image, kernel and parameters.

    These are in the dtype of arithmetic: one number, or one for each kernel; of a semifield of the
    user's own rows of such.
    """
    operation.learns = torch.is_grad_enabled() and _is_learned(parameter)
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
    """A `ParametricOperation` of a semifield; no tuple, as `autograd`'s operations are none."""

    learns = False

    def __init__(
        self, handle: ops.Handle, geometry: Geometry, name: str = "semifield convolution"
    ) -> None:
        self.name = name
        self.handle = handle
        self.arguments = GeometryArguments.of(geometry)

    def forward(
        self, img: Tensor, krn: Tensor, parameter: Tensor, with_residual: bool
    ) -> tuple[Tensor, Tensor]:
        slopes = with_residual and self.learns and self.handle.has_slopes
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
            self.learns and self.handle.has_slopes,
            wants,
        )


class _Traced(torch.autograd.Function):
    """(img, krn, parameter) -> (out, residual)."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        img: Tensor, krn: Tensor, parameter: Tensor, operation: ParametricOperation
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

    def __init__(self, operation: ParametricOperation, wants: Wants) -> None:
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
