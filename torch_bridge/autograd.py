"""The fused convolution of a compiled semifield as a differentiable function of tensors.

Here: what is saved, which gradients are wanted, and the second derivative of selections. The
operators themselves are in `ops`. Called by `functional`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.geometry import Geometry
from torch_bridge.ops import (
    GeometryArguments,
    Handle,
    Known,
    handle_of,
    semifield_of,
)


def fused_conv(
    img: Tensor, krn: Tensor, semifield: Semifield | Known | str, geometry: Geometry
) -> Tensor:
    """The convolution of checked tensors; the derivative's needs are computed only for one."""
    handle = semifield.handle if isinstance(semifield, Known) else handle_of(semifield)
    arguments = GeometryArguments.of(geometry)
    out: Tensor
    if torch.is_grad_enabled() and (img.requires_grad or krn.requires_grad):
        functional = torch.compiler.is_compiling() or _are_functorch_transforms_active()
        recorded = _Convolution if functional else _EagerConvolution
        out, _ = recorded.apply(img, krn, handle, arguments)
    else:
        out, _ = torch.ops.semiconv.forward(img, krn, handle.key, *arguments, False)
    return out


def _with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """Spare `apply` the inspection of a forward at every call, a third of a small call's time."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


class _Convolution(torch.autograd.Function):
    """(img, krn) -> (out, residual)."""

    generate_vmap_rule = True

    @staticmethod
    @_with_signature
    def forward(
        img: Tensor, krn: Tensor, handle: Handle, arguments: GeometryArguments
    ) -> tuple[Tensor, Tensor]:
        out, residual = torch.ops.semiconv.forward(img, krn, handle.key, *arguments, True)
        return out, residual

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():  # which does not know it, and needs it not
            ctx.set_materialize_grads(False)
        img, krn, handle, arguments = inputs
        _remember(ctx, img, krn, handle, arguments, output[1])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, _: Any) -> Any:
        want_img, want_krn = ctx.needs_input_grad[:2]
        if grad_out is None:
            return None, None, None, None
        residual, *arrays = ctx.saved_tensors
        img, krn = arrays if arrays else (None, None)
        constants = (ctx.handle, ctx.shapes, ctx.arguments, want_img, want_krn)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            grads = _Gradients.apply(grad_out, img, krn, residual, *constants)
        else:
            grads = _gradients(grad_out, img, krn, residual, *constants)
        return grads[0] if want_img else None, grads[1] if want_krn else None, None, None


def _remember(
    ctx: Any,
    img: Tensor,
    krn: Tensor,
    handle: Handle,
    arguments: GeometryArguments,
    residual: Tensor,
) -> None:
    """What the backward pass needs."""
    ctx.mark_non_differentiable(residual)
    ctx.handle, ctx.arguments = handle, arguments
    if not torch.compiler.is_compiling():
        ctx.semifield = semifield_of(handle.key)  # held, as the backward pass finds it by the key
    ctx.shapes = (tuple(img.shape), tuple(krn.shape))
    ctx.save_for_backward(*((residual, img, krn) if handle.needs_arrays else (residual,)))


class _EagerConvolution(torch.autograd.Function):
    """`_Convolution` outside of torch.compile and torch.func, where `apply` takes half the time."""

    @staticmethod
    def forward(
        ctx: Any, img: Tensor, krn: Tensor, handle: Handle, arguments: GeometryArguments
    ) -> tuple[Tensor, Tensor]:
        out, residual = torch.ops.semiconv.forward(img, krn, handle.key, *arguments, True)
        ctx.set_materialize_grads(False)
        _remember(ctx, img, krn, handle, arguments, residual)
        return out, residual

    backward = _Convolution.backward


def _gradients(
    grad_out: Tensor,
    img: Tensor | None,
    krn: Tensor | None,
    residual: Tensor,
    handle: Handle,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    arguments: GeometryArguments,
    want_img: bool,
    want_krn: bool,
) -> tuple[Tensor, Tensor]:
    grads: tuple[Tensor, Tensor] = torch.ops.semiconv.backward(
        grad_out, img, krn, residual, handle.key, *shapes, *arguments, want_img, want_krn
    )
    return grads


class _Gradients(torch.autograd.Function):
    """(grad_out, img, krn, residual) -> (grad_img, grad_krn), itself differentiable by grad_out.

    That is all where a selection's terms have constant slopes: the winners do not move.
    """

    generate_vmap_rule = True

    @staticmethod
    @_with_signature
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        return _gradients(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        residual, ctx.handle, ctx.shapes, ctx.arguments, ctx.want_img, ctx.want_krn = inputs[3:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(residual)

    @staticmethod
    def backward(ctx: Any, by_img: Tensor | None, by_krn: Tensor | None) -> Any:
        if ctx.handle.slopes is None:
            raise RuntimeError(
                "the second derivative of a fused semifield convolution is offered for selections "
                "by one winner (no spread_gradient) whose times has constant derivatives, such as "
                f"tropical_max; got {ctx.handle.key}. A BroadcastSemifield is differentiated by "
                "torch itself, as often as you like"
            )
        (residual,) = ctx.saved_tensors
        geometry = ctx.arguments.plan(*ctx.shapes)
        directions = (by_img if ctx.want_img else None, by_krn if ctx.want_krn else None)
        found = _at_winners(directions, residual, ctx.handle.slopes, geometry)
        return found, *(None,) * 8


def _at_winners(
    directions: tuple[Tensor | None, Tensor | None],
    residual: Tensor,
    slopes: tuple[float, float],
    geometry: Geometry,
) -> Tensor | None:
    """The derivative of out in a direction of (img, krn): each window's winner changes by so much.

    It is linear, and the transpose of what gives the gradients.
    """
    nobody = residual == torch.iinfo(residual.dtype).max
    winner = residual.long().masked_fill(nobody, 0)
    trailing = (1,) * (winner.dim() - 2)
    plane = torch.arange(geometry.out_channels, device=winner.device).view(-1, *trailing)
    places = (_place_in_image(winner, plane, geometry), _place_in_kernel(winner, plane, geometry))
    total: Tensor | None = None
    for direction, place, slope in zip(directions, places, slopes, strict=True):
        if direction is None:
            continue
        place = place.masked_fill(nobody, 0)
        part = slope * direction.reshape(-1)[place].masked_fill(nobody, 0)
        total = part if total is None else total + part
    if total is not None and total.dim() > geometry.rank + 2:  # winners of each channel
        total = total.sum(2)
    return total


def _place_in_image(winner: Tensor, plane: Tensor, geometry: Geometry) -> Tensor:
    """The winners' positions in an image of that shape, as flat indices."""
    taps = geometry.taps // geometry.in_channels
    channel = plane // geometry.outputs_per_group * geometry.in_channels + winner // taps
    sample = torch.arange(geometry.batch, device=winner.device)
    place = sample.view(-1, *(1,) * (winner.dim() - 1)) * geometry.img_shape[1] + channel
    tap, below = winner % taps, taps
    for axis in range(geometry.rank):
        below //= geometry.kernel_size[axis]
        index = tap // below % geometry.kernel_size[axis]
        step = geometry.kernel_size[axis] - 1 - index if geometry.mirrored else index
        outputs = torch.arange(geometry.out_size[axis], device=winner.device)
        corner = geometry.stride[axis] * outputs - geometry.pad_begin[axis]
        corner = corner.view(-1, *(1,) * (geometry.rank - 1 - axis))
        place = place * geometry.image_size[axis] + corner + geometry.dilation[axis] * step
    return place


def _place_in_kernel(winner: Tensor, plane: Tensor, geometry: Geometry) -> Tensor:
    """The winners' positions in a kernel of that shape, as flat indices."""
    kernel = plane % geometry.kernels if geometry.shares_kernels else plane
    return kernel * geometry.taps + winner
