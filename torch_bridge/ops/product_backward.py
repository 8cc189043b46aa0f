"""semiconv::product_backward: the gradients of both operands of a matrix product, or one of them.

The kernel for CPU and CUDA tensors, the shapes of fake tensors for torch.compile, the rule of vmap.
Called by `products`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy import run
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.checks import require_derivatives
from semiconv_cupy.product import Product, merged
from semiconv_cupy.product_route import ProductRoute
from semiconv_cupy.residual import needs_arrays
from semiconv_cupy.source import ARITHMETIC
from semiconv_cupy.strides import contiguous_strides
from torch_bridge.arguments import ProductBackwardArguments, Shape, schema
from torch_bridge.dlpack import array_of
from torch_bridge.ops.batches import with_batch
from torch_bridge.ops.dispatch import goes_straight
from torch_bridge.ops.executors import Executor, as_arrays, executor_of
from torch_bridge.ops.handles import held_semifield, parted
from torch_bridge.ops.plans import (
    MOST_PLANS,
    Values,
    as_given,
    mismatch,
    received,
    require_memory,
)
from torch_bridge.ops.product import ProductPlan, stacked_axes

Gradients = tuple[Tensor, Tensor]  # of a and of b; empty where it was not requested
Wants = tuple[bool, bool]
Call = Callable[..., Gradients]  # of grad_out, a, b, residual, and of values of parameters

_library = torch.library.Library("semiconv", "FRAGMENT")
_library.define(
    f"product_backward({schema(ProductBackwardArguments)}) -> (Tensor grad_a, Tensor grad_b)"
)


def call_product_backward(
    grad_out: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    residual: Tensor,
    semifield: str,
    shapes: tuple[Shape, Shape],
    wants: Wants,
) -> Gradients:
    """``torch.ops.semiconv.product_backward``."""
    if goes_straight(grad_out, a, b, residual):
        return _backward(grad_out, a, b, residual, semifield, *shapes, *wants)
    gradients: Gradients = torch.ops.semiconv.product_backward(
        grad_out, a, b, residual, semifield, *shapes, *wants
    )
    return gradients


def _backward(
    grad_out: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    residual: Tensor,
    semifield: str,
    a_shape: Sequence[int],
    b_shape: Sequence[int],
    want_a: bool,
    want_b: bool,
) -> Gradients:
    """The operator for CPU and CUDA tensors: finds the call that was prepared for their layout."""
    unbound, numbers = parted(semifield)
    call = _prepared(
        grad_out.dtype,
        grad_out.get_device(),
        None if a is None else a.stride(),
        None if b is None else b.stride(),
        unbound,
        tuple(a_shape),
        tuple(b_shape),
        (want_a, want_b),
    )
    given = grad_out, a, b, residual
    return call(*given, numbers) if numbers else call(*given)


for _dispatch_key in ("CPU", "CUDA"):
    _library.impl("product_backward", _backward, _dispatch_key)


@lru_cache(maxsize=MOST_PLANS)
def _prepared(
    dtype: torch.dtype,
    index: int,
    a_strides: tuple[int, ...] | None,
    b_strides: tuple[int, ...] | None,
    semifield: str,
    a_shape: tuple[int, ...],
    b_shape: tuple[int, ...],
    wants: Wants,
) -> Call:
    """The call for tensors of this layout on the executor of that index."""
    executor = executor_of(index)
    plan = ProductPlan.of(semifield, dtype, executor.on_gpu, a_shape, b_shape, derivative=True)
    require_derivatives(plan.storage)  # winners alone are planned in every dtype
    for name, strides, shape in (("a", a_strides, a_shape), ("b", b_strides, b_shape)):
        if strides is not None and len(strides) != len(shape):
            raise ValueError(f"{name} must have shape {shape}, got {len(strides)} axes")
    return prepare_product_backward(plan, executor, dtype, (a_strides, b_strides), wants)


def prepare_product_backward(
    plan: ProductPlan,
    executor: Executor,
    dtype: torch.dtype,
    strides: tuple[tuple[int, ...] | None, tuple[int, ...] | None],
    wants: Wants,
) -> Call:
    """The call for tensors of this plan, and operands of these strides (None: no operand)."""
    operands, check = plan.operands, _check_of_tensors(plan, dtype, executor.index)
    shapes = operands.a_shape, operands.b_shape
    new_shapes = [shape if want else (0,) for shape, want in zip(shapes, wants, strict=True)]
    if not any(wants) or not math.prod(operands.out_shape) or not operands.terms:

        def nothing(
            grad_out: Tensor, a: Tensor | None, b: Tensor | None, residual: Tensor, *_: Values
        ) -> Gradients:
            check(grad_out, a, b, residual)
            return grad_out.new_zeros(new_shapes[0]), grad_out.new_zeros(new_shapes[1])

        return nothing
    route, gradients = _route_and_gradients(plan, executor, strides)
    launch = run.product_backward_at(route, gradients, wants)
    real, alignment = getattr(torch, ARITHMETIC[plan.storage]), dtype.itemsize
    is_current, threads_or_stream = executor.is_current, executor.threads_or_stream

    def call(
        grad_out: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        residual: Tensor,
        *values: Values,
    ) -> Gradients:
        check(grad_out, a, b, residual)
        grad_out, residual = grad_out.contiguous(), residual.contiguous()
        grad_a, grad_b = (grad_out.new_empty(shape, dtype=real) for shape in new_shapes)
        given = (grad_out, a, b, residual, grad_a, grad_b)
        present = [None if t is None or not t.numel() else t for t in given]
        tensors = GradientArrays(*present)
        addresses = tensors.each(Tensor.data_ptr)
        if 0 in addresses:
            require_memory(grad_out=grad_out, a=a, b=b, residual=residual)
        if launch is None or any((at or 0) % alignment for at in addresses[:3]) or not is_current():
            with as_arrays(grad_out):
                arrays = tensors.each(array_of)
                run.product_backward(
                    route,
                    gradients,
                    arrays,
                    threads=torch.get_num_threads(),
                    value=as_given(values, plan.semifield),
                )
        else:
            launch(addresses, threads_or_stream(), *map(received, values))
        return (grad_a, grad_b) if real is dtype else (grad_a.to(dtype), grad_b.to(dtype))

    return call


def _route_and_gradients(
    plan: ProductPlan,
    executor: Executor,
    strides: tuple[tuple[int, ...] | None, tuple[int, ...] | None],
) -> tuple[ProductRoute, Product]:
    """The route of the product, and the product of the gradients, which are contiguous."""
    operands = plan.operands
    of_a, of_b = map(contiguous_strides, (operands.a_shape, operands.b_shape))
    of_out = contiguous_strides(operands.out_shape)
    product, gradients = merged(
        operands.product(strides[0] or of_a, strides[1] or of_b, of_out),
        operands.product(of_a, of_b, of_out),
    )
    return plan.route(product, executor), gradients


def _check_of_tensors(
    plan: ProductPlan, dtype: torch.dtype, index: int
) -> Callable[[Tensor, Tensor | None, Tensor | None, Tensor], None]:
    """A function that raises for tensors which cannot come from the plan's forward pass."""
    operands, spec = plan.operands, plan.residual_spec
    needed, out_shape = needs_arrays(plan.semifield), plan.operands.out_shape
    kept_shape = (0,) if spec is None else spec.shape
    kept_dtype = dtype if spec is None else plan.residual_dtype

    def check(grad_out: Tensor, a: Tensor | None, b: Tensor | None, residual: Tensor) -> None:
        if grad_out.shape != out_shape:
            raise ValueError(f"grad_out must have shape {out_shape}, got {tuple(grad_out.shape)}")
        if residual.shape != kept_shape or residual.dtype is not kept_dtype:
            raise ValueError(
                f"residual must be what the forward pass returned, of shape {kept_shape} and "
                f"dtype {kept_dtype}, got {tuple(residual.shape)} and {residual.dtype}"
            )
        if residual.get_device() != index:
            raise mismatch("residual", residual, "grad_out", grad_out)
        for name, tensor, shape in (("a", a, operands.a_shape), ("b", b, operands.b_shape)):
            if tensor is None:
                if needed:
                    raise ValueError(
                        f"{name} is None, but {plan.semifield!r} is differentiated by it"
                    )
                continue
            if tensor.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
            if tensor.dtype is not dtype or tensor.get_device() != index:
                raise mismatch(name, tensor, "grad_out", grad_out)

    return check


@torch.library.register_fake("semiconv::product_backward", lib=_library)
def _fake(*flat: Any) -> Gradients:
    """The gradients' shapes and dtypes, for torch.compile."""
    given = ProductBackwardArguments.received(*flat)
    grad_out = given.grad_out
    for name, tensor in (("a", given.a), ("b", given.b), ("residual", given.residual)):
        if tensor is not None and tensor.device != grad_out.device:
            raise mismatch(name, tensor, "grad_out", grad_out)
    held_semifield(given.semifield)
    return (
        grad_out.new_empty(given.a_shape if given.want_a else 0),
        grad_out.new_empty(given.b_shape if given.want_b else 0),
    )


def _vmap(
    info: Any, in_dims: tuple[Any, ...], *flat: Any
) -> tuple[Gradients, tuple[int | None, int | None]]:
    """One more leading axis, which both operands have, so that each entry has its gradients."""
    given, count = ProductBackwardArguments.received(*flat), info.batch_size
    rank = max(len(given.a_shape), len(given.b_shape))
    a_shape, b_shape = (
        (count, *(1,) * (rank - len(shape)), *shape) for shape in (given.a_shape, given.b_shape)
    )

    def leading(tensor: Tensor | None, dim: int | None, shape: tuple[int, ...]) -> Tensor | None:
        return None if tensor is None else with_batch(tensor, dim, count, 0).reshape(shape)

    residual = given.residual
    if in_dims[3] is not None or residual.numel():
        residual = with_batch(residual, in_dims[3], count, stacked_axes(given.semifield))
    grad_a, grad_b = call_product_backward(
        with_batch(given.grad_out, in_dims[0], count, 0),
        leading(given.a, in_dims[1], a_shape),
        leading(given.b, in_dims[2], b_shape),
        residual,
        given.semifield,
        (a_shape, b_shape),
        (given.want_a, given.want_b),
    )
    if given.want_a:
        grad_a = grad_a.reshape(count, *given.a_shape)
    if given.want_b:
        grad_b = grad_b.reshape(count, *given.b_shape)
    return (grad_a, grad_b), (0 if given.want_a else None, 0 if given.want_b else None)


torch.library.register_vmap("semiconv::product_backward", _vmap, lib=_library)
