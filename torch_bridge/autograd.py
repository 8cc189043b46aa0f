"""The fused convolution of a compiled semifield as a differentiable function of tensors.

What is saved for the derivative, which gradients are computed, and the second derivative of
selections. `ops` has the operators themselves. Called by `functional`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.autograd import forward_ad

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.geometry import Geometry
from torch_bridge import ops
from torch_bridge.arguments import GeometryArguments, Shape
from torch_bridge.ops import Handle, PreparedSemifield


def fused_conv(
    img: Tensor,
    krn: Tensor,
    semifield: Semifield | PreparedSemifield | str,
    geometry: Geometry,
    with_winners: bool = False,
) -> tuple[Tensor, Tensor]:
    """The convolution of checked tensors, and its residual.

    The residual is computed only where autograd records, or where winners are requested.
    """
    if isinstance(semifield, PreparedSemifield):
        handle = semifield.handle
    else:
        handle = ops.handle_of(semifield)
    arguments = GeometryArguments.of(geometry)
    recorded = recorder(img, krn, _Convolution, _EagerConvolution, _TransformedConvolution)
    if recorded is None:
        return ops.call_forward(img, krn, handle.key, arguments, with_winners)
    found: tuple[Tensor, Tensor] = recorded.apply(img, krn, handle, arguments)
    return found


def recorder(
    first: Tensor,
    second: Tensor,
    traced: type[torch.autograd.Function],
    eager: type[torch.autograd.Function],
    transformed: type[torch.autograd.Function],
) -> type[torch.autograd.Function] | None:
    """The function that records a derivative by these tensors; None where nobody records one.

    `traced` serves torch.compile; `transformed` torch.func and forward mode; `eager` all else.
    """
    if torch.compiler.is_compiling():
        wanted = torch.is_grad_enabled() and (first.requires_grad or second.requires_grad)
        return traced if wanted else None
    if in_forward_mode():
        return transformed if first.is_floating_point() else None
    if not torch.is_grad_enabled():
        return None
    if _are_functorch_transforms_active():
        return transformed if _is_recorded(first) or _is_recorded(second) else None
    return eager if first.requires_grad or second.requires_grad else None


def in_forward_mode() -> bool:
    """Whether tensors may carry tangents: by torch.func.jvp or torch.autograd.forward_ad."""
    return forward_ad._current_level >= 0


def _is_recorded(tensor: Tensor) -> bool:
    """Whether a transform records the tensor, or autograd outside of all transforms.

    Inside of torch.vmap a batched tensor does not say that the tensor it slices is recorded.
    """
    while not tensor.requires_grad:
        if not is_functorch_wrapped_tensor(tensor):
            return False
        tensor = get_unwrapped(tensor)
    return True


def with_signature(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its signature attached, which `apply` otherwise inspects at every call.

    That inspection was a third of a small call's time.
    """
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def no_second_derivative(operation: str, handle: Handle) -> RuntimeError:
    """The error for a second derivative that depends on more than the winners."""
    return RuntimeError(
        f"the second derivative of a fused {operation} is offered for selections by one winner (no "
        "spread_gradient) whose times has constant derivatives, such as tropical_max; got "
        f"{ops.semifield_of(handle.key)!r}. A BroadcastSemifield is differentiated by torch "
        "itself, as often as you like"
    )


def no_forward_mode(operation: str, handle: Handle) -> NotImplementedError:
    """The error for a tangent that depends on more than the winners."""
    return NotImplementedError(
        f"forward mode through a fused {operation} is offered for selections by one winner (no "
        "spread_gradient) whose times has constant derivatives, such as tropical_max; got "
        f"{handle.key}. Use reverse mode: torch.func.vjp, torch.func.jacrev or backward()"
    )


def no_second_tangent(operation: str) -> NotImplementedError:
    """The error for a gradient in forward mode, as torch.func.hessian computes it."""
    return NotImplementedError(
        f"forward mode through the gradient of a fused {operation} is not offered; use reverse "
        "mode twice: torch.func.jacrev of torch.func.jacrev, or backward(create_graph=True)"
    )


class _Convolution(torch.autograd.Function):
    """(img, krn) -> (out, residual)."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        img: Tensor, krn: Tensor, handle: Handle, arguments: GeometryArguments
    ) -> tuple[Tensor, Tensor]:
        return ops.call_forward(img, krn, handle.key, arguments, True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():  # Dynamo neither supports nor needs this call
            ctx.set_materialize_grads(False)
        img, krn, handle, arguments = inputs
        _save(ctx, img, krn, handle, arguments, output[1])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, _: Any) -> Any:
        wants = want_img, want_krn = ctx.needs_input_grad[:2]
        if grad_out is None:
            return None, None, None, None
        residual, *arrays = ctx.saved_tensors
        img, krn = arrays if arrays else (None, None)
        twice = not torch.compiler.is_compiling() and (torch.is_grad_enabled() or in_forward_mode())
        gradients = _Gradients.apply if twice else _Gradients.forward
        grad_img, grad_krn = gradients(
            grad_out, img, krn, residual, ctx.handle, ctx.shapes, ctx.arguments, wants
        )
        return grad_img if want_img else None, grad_krn if want_krn else None, None, None


def _save(
    ctx: Any,
    img: Tensor,
    krn: Tensor,
    handle: Handle,
    arguments: GeometryArguments,
    residual: Tensor,
) -> None:
    """Keep what the backward pass needs."""
    ctx.mark_non_differentiable(residual)
    ctx.handle, ctx.arguments = handle, arguments
    if not torch.compiler.is_compiling():
        # Keeps the semifield alive: the backward pass finds it by its key.
        ctx.semifield = ops.semifield_of(handle.key)
    ctx.shapes = (tuple(img.shape), tuple(krn.shape))
    ctx.save_for_backward(*((residual, img, krn) if handle.needs_arrays else (residual,)))


class _EagerConvolution(torch.autograd.Function):
    """`_Convolution` outside of torch.compile and torch.func, where `apply` takes half the time."""

    @staticmethod
    def forward(
        ctx: Any, img: Tensor, krn: Tensor, handle: Handle, arguments: GeometryArguments
    ) -> tuple[Tensor, Tensor]:
        out, residual = ops.call_forward(img, krn, handle.key, arguments, True)
        ctx.set_materialize_grads(False)
        _save(ctx, img, krn, handle, arguments, residual)
        return out, residual

    backward = _Convolution.backward


class _TransformedConvolution(_Convolution):
    """`_Convolution` with a derivative in forward mode, which torch.compile does not support."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _Convolution.setup_context(ctx, inputs, output)
        if ctx.handle.constant_d_times is not None:
            ctx.save_for_forward(output[1])

    @staticmethod
    def jvp(ctx: Any, img_tangent: Tensor | None, krn_tangent: Tensor | None, *_: None) -> Any:
        d_times = ctx.handle.constant_d_times
        if d_times is None:
            raise no_forward_mode("semifield convolution", ctx.handle)
        (residual,) = ctx.saved_tensors
        directions, geometry = (img_tangent, krn_tangent), ctx.arguments.plan(*ctx.shapes)
        return _at_winners(directions, residual, d_times, geometry), None


class _Gradients(torch.autograd.Function):
    """(grad_out, img, krn, residual) -> (grad_img, grad_krn), itself differentiable by grad_out.

    A selection whose terms have constant derivatives has no other second derivative: the winners
    do not move.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(
        grad_out: Tensor,
        img: Tensor | None,
        krn: Tensor | None,
        residual: Tensor,
        handle: Handle,
        shapes: tuple[Shape, Shape],
        arguments: GeometryArguments,
        wants: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor]:
        return ops.call_backward(grad_out, img, krn, residual, handle.key, shapes, arguments, wants)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        residual, ctx.handle, ctx.shapes, ctx.arguments, ctx.wants = inputs[3:]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(residual)

    @staticmethod
    def backward(ctx: Any, grad_grad_img: Tensor | None, grad_grad_krn: Tensor | None) -> Any:
        d_times = ctx.handle.constant_d_times
        if d_times is None:
            raise no_second_derivative("semifield convolution", ctx.handle)
        (residual,) = ctx.saved_tensors
        want_img, want_krn = ctx.wants
        directions = (grad_grad_img if want_img else None, grad_grad_krn if want_krn else None)
        found = _at_winners(directions, residual, d_times, ctx.arguments.plan(*ctx.shapes))
        return found, *(None,) * 7

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise no_second_tangent("semifield convolution")


def _at_winners(
    directions: tuple[Tensor | None, Tensor | None],
    winner: Tensor,
    d_times: tuple[float, float],
    geometry: Geometry,
) -> Tensor | None:
    """The derivative of out in a direction of (img, krn), for the winning taps of a residual.

    A window's output changes as its winning term does: by the derivative of times by img, times
    the direction at the winner's image element, and likewise for the kernel. That is linear in the
    direction, and the transpose of what gives the gradients.
    """
    unselected = winner == torch.iinfo(winner.dtype).max
    tap = winner.long().masked_fill(unselected, 0)
    trailing = (1,) * (tap.dim() - 2)
    channel = torch.arange(geometry.out_channels, device=tap.device).view(-1, *trailing)
    indices = (_index_in_image(tap, channel, geometry), _index_in_kernel(tap, channel, geometry))
    total: Tensor | None = None
    for direction, index, factor in zip(directions, indices, d_times, strict=True):
        if direction is None:
            continue
        index = index.masked_fill(unselected, 0)
        part = factor * direction.reshape(-1)[index].masked_fill(unselected, 0)
        total = part if total is None else total + part
    if total is not None and total.dim() > geometry.rank + 2:  # one winner for each input channel
        total = total.sum(2)
    return total


def _index_in_image(tap: Tensor, channel: Tensor, geometry: Geometry) -> Tensor:
    """The flat index, in an image of that shape, of the element under each winning tap.

    `tap` is flat over (input channel, kernel position), `channel` the output channel.
    """
    positions = geometry.taps // geometry.in_channels
    channel = channel // geometry.outputs_per_group * geometry.in_channels + tap // positions
    sample = torch.arange(geometry.batch, device=tap.device)
    index = sample.view(-1, *(1,) * (tap.dim() - 1)) * geometry.img_shape[1] + channel
    position, below = tap % positions, positions
    for axis in range(geometry.rank):
        below //= geometry.kernel_size[axis]
        along = position // below % geometry.kernel_size[axis]
        step = geometry.kernel_size[axis] - 1 - along if geometry.mirrored else along
        outputs = torch.arange(geometry.out_size[axis], device=tap.device)
        corner = geometry.stride[axis] * outputs - geometry.pad_begin[axis]
        corner = corner.view(-1, *(1,) * (geometry.rank - 1 - axis))
        index = index * geometry.image_size[axis] + corner + geometry.dilation[axis] * step
    return index


def _index_in_kernel(tap: Tensor, channel: Tensor, geometry: Geometry) -> Tensor:
    """The flat index, in a kernel of that shape, of each winning tap."""
    kernel = channel % geometry.kernels if geometry.shares_kernels else channel
    return kernel * geometry.taps + tap
