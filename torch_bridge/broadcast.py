"""Convolutions and matrix products of a BroadcastSemifield on tensors: all terms as one tensor.

Every step is torch's own and so differentiable by it. `semiconv_cupy.backends.broadcast` has the
same for arrays. Called by `functional` and `modules`.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from semiconv_cupy.backends.broadcast import no_integers
from semiconv_cupy.geometry import Geometry

if TYPE_CHECKING:
    from semiconv_cupy.algebra import BroadcastSemifield


def broadcast_conv(
    img: Tensor,
    krn: Tensor,
    semifield: BroadcastSemifield,
    geometry: Geometry,
    unfold_copy: bool = False,
) -> Tensor:
    """Pad with the zero, view all windows, multiply by the kernels, reduce the window axes."""
    if not (img.is_floating_point() or img.is_complex()):
        raise no_integers(semifield, img.dtype)
    semifield = semifield.called_with()
    rank = geometry.rank
    img = _padded(img, geometry, semifield.zero)
    windows = _copied_windows(img, geometry) if unfold_copy else _viewed_windows(img, geometry)
    # (G, O / G) kernels, or (1, O) where they are shared, each spread over the outputs.
    kernels = krn.unflatten(0, (1 if geometry.shares_kernels else geometry.groups, -1))
    kernels = kernels[:, :, *(None,) * rank]
    multiply = _product if semifield.multiply is operator.mul else semifield.multiply
    products = multiply(windows, kernels)  # (B, G, O / G, *out, I, *K)
    channel, *taps = range(3 + rank, 4 + 2 * rank)
    if semifield.add_reduce_channels is None:
        out = semifield.add_reduce(products, (channel, *taps))
    else:
        out = semifield.add_reduce_channels(semifield.add_reduce(products, tuple(taps)), channel)
    out = out.flatten(1, 2)
    if geometry.mirrored:
        out = out.flip(_spatial(geometry))
    return without_gradient_of_zero(out, semifield)


def broadcast_matmul(a: Tensor, b: Tensor, semifield: BroadcastSemifield) -> Tensor:
    """Multiply rows by columns, reduce the axis of the terms; operands have two axes or more."""
    if not (a.is_floating_point() or a.is_complex()):
        raise no_integers(semifield, a.dtype)
    multiply = _product if semifield.multiply is operator.mul else semifield.multiply
    products = multiply(a.unsqueeze(-1), b.unsqueeze(-3))  # (..., M, K, N)
    if not a.shape[-1]:
        return products.sum(-2) + semifield.zero  # no term, and so the sum is 0
    return without_gradient_of_zero(
        semifield.add_reduce(products, (products.dim() - 2,)), semifield
    )


def without_gradient_of_zero(out: Tensor, semifield: BroadcastSemifield) -> Tensor:
    """`out`, whose elements at an infinite zero depend on no element of the arguments."""
    if math.isinf(semifield.zero):
        out = out.masked_fill(out == semifield.zero, semifield.zero)
    return out


class _Product(torch.autograd.Function):
    """a * b with derivatives that are 0 where one of their factors is 0, even if the other is inf.

    A term that takes no part in a result has the gradient 0, not 0 * inf = NaN (``chained`` of
    ``kernels_cu/accumulators.cuh``).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a * b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        a, b = ctx.saved_tensors
        by_a, by_b = ctx.needs_input_grad
        return (
            _chained(grad_out, b).sum_to_size(a.shape) if by_a else None,
            _chained(grad_out, a).sum_to_size(b.shape) if by_b else None,
        )


class _EagerProduct(_Product):
    """The same with a derivative in forward mode, which torch.compile does not support."""

    @staticmethod
    def jvp(ctx: Any, a_tangent: Tensor | None, b_tangent: Tensor | None) -> Tensor | None:
        a, b = ctx.saved_tensors
        parts = [t * x for t, x in ((a_tangent, b), (b_tangent, a)) if t is not None]
        return parts[0] + parts[1] if len(parts) == 2 else parts[0] if parts else None


def _product(a: Tensor, b: Tensor) -> Tensor:
    recorded = _Product if torch.compiler.is_compiling() else _EagerProduct
    product: Tensor = recorded.apply(a, b)
    return product


def _chained(grad_out: Tensor, factor: Tensor) -> Tensor:
    """grad_out * factor, 0 where grad_out is 0 or where 0 meets inf."""
    zero = (grad_out == 0) | ((factor == 0) & grad_out.isinf())
    return torch.where(zero, 0, _product(grad_out, factor))


def _spatial(geometry: Geometry) -> tuple[int, ...]:
    return tuple(range(2, 2 + geometry.rank))


def _padded(img: Tensor, geometry: Geometry, zero: float) -> Tensor:
    """The part of the padded image that windows touch, mirrored where the kernel is.

    Mirroring the image, not the kernel, keeps the taps in the kernel's memory order, so that the
    same one of equal terms wins as everywhere else. The outputs then come in reverse order.
    """
    pads: list[int] = []
    for n in reversed(range(geometry.rank)):
        length = geometry.stride[n] * (geometry.out_size[n] - 1) + _reach(geometry, n)
        begin = geometry.pad_begin[n]
        pads += [begin, length - begin - geometry.image_size[n]]  # a negative end crops
    if any(pads):
        img = F.pad(img, pads, value=zero)
    return img.flip(_spatial(geometry)) if geometry.mirrored else img


def _reach(geometry: Geometry, axis: int) -> int:
    """Elements from a window's first tap to its last, both counted."""
    return geometry.dilation[axis] * (geometry.kernel_size[axis] - 1) + 1


def _viewed_windows(img: Tensor, geometry: Geometry) -> Tensor:
    """All windows, (B, G, 1, *out, I, *K): a view, or while compiling an indexing that is fused."""
    rank = geometry.rank
    for n in range(rank):
        stride, dilation = geometry.stride[n], geometry.dilation[n]
        if torch.compiler.is_compiling():
            # Inductor writes the gradient of unfold out of bounds (torch 2.13, CPU).
            outputs = torch.arange(geometry.out_size[n], device=img.device)
            taps = torch.arange(geometry.kernel_size[n], device=img.device)
            indices = stride * outputs[:, None] + dilation * taps
            img = img[(slice(None),) * (2 + n) + (indices,)].movedim(3 + n, -1)
        else:
            img = img.unfold(2 + n, _reach(geometry, n), stride)[..., ::dilation]
    windows = img.unflatten(1, (geometry.groups, geometry.in_channels))
    return windows.permute(0, 1, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank)).unsqueeze(
        2
    )


def _copied_windows(img: Tensor, geometry: Geometry) -> Tensor:
    """The windows of `_viewed_windows` as a copy, by torch's im2col."""
    if geometry.rank != 2:
        raise ValueError(f"unfold_copy=True serves 2 spatial axes, got {geometry.rank}")
    columns = F.unfold(
        img, geometry.kernel_size, dilation=geometry.dilation, stride=geometry.stride
    )
    windows = columns.unflatten(2, geometry.out_size).unflatten(
        1, (geometry.groups, geometry.in_channels, *geometry.kernel_size)
    )
    return windows.permute(0, 1, 5, 6, 2, 3, 4).unsqueeze(2)
