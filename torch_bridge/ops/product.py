"""semiconv::product: the matrix product, and on demand what its derivative needs.

The kernel for CPU and CUDA tensors, the shapes of fake tensors for torch.compile, the rule of vmap.
Operands have two axes or more. Called by `products`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semiconv_cupy import run
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.operands import Operands
from semiconv_cupy.product import Product
from semiconv_cupy.product_route import ProductRoute, choose_product, product_goes_by_sums
from semiconv_cupy.residual import Residual, is_provenance, residual_of_terms
from semiconv_cupy.strides import contiguous_strides
from torch_bridge.arguments import ProductArguments, schema
from torch_bridge.dlpack import array_of
from torch_bridge.ops.dispatch import goes_straight
from torch_bridge.ops.executors import Executor, as_arrays, executor_of
from torch_bridge.ops.handles import Parted, held_semifield, parted, semifield_of
from torch_bridge.ops.plans import (
    MOST_PLANS,
    Values,
    as_given,
    mismatch,
    received,
    require_memory,
    storage_of,
    torch_dtype,
)

Results = tuple[Tensor, Tensor]

_library = torch.library.Library("semiconv", "FRAGMENT")
_library.define(f"product({schema(ProductArguments)}) -> (Tensor out, Tensor residual)")


def call_product(a: Tensor, b: Tensor, semifield: str, residual: bool) -> Results:
    """``torch.ops.semiconv.product``."""
    if goes_straight(a, b):
        return product_straight(a, b, parted(semifield), residual)
    results: Results = torch.ops.semiconv.product(a, b, semifield, residual)
    return results


class ProductPlan(NamedTuple):
    """What a product needs besides its tensors: from shapes and dtypes alone."""

    semifield: Semifield
    operands: Operands
    storage: str
    residual_spec: Residual | None  # None: the forward pass keeps nothing for the derivative
    residual_dtype: torch.dtype | None  # that of `residual_spec` in torch

    @classmethod
    def of(
        cls,
        key: str,
        dtype: torch.dtype,
        on_gpu: bool,
        a_shape: Sequence[int],
        b_shape: Sequence[int],
        derivative: bool,
    ) -> ProductPlan:
        """The plan of one call; sizes may be symbols.

        Both passes of a program find the same plan: nothing but the number of terms decides about
        the residual, and ``torch.func.vmap`` changes other sizes only.
        """
        semifield = semifield_of(key)
        storage = storage_of(dtype, semifield, "a", derivative)
        operands = Operands.of(a_shape, b_shape)
        spec = None
        if derivative and not product_goes_by_sums(semifield, operands.terms, on_gpu=on_gpu):
            spec = residual_of_terms(semifield, storage, operands.out_shape, operands.terms)
        return cls(semifield, operands, storage, spec, torch_dtype(spec))

    def route(self, product: Product, executor: Executor) -> ProductRoute:
        """How the core computes the product and differentiates it."""
        return choose_product(self.semifield, product, self.storage, executor.place())


def product_straight(a: Tensor, b: Tensor, semifield: Parted, residual: bool) -> Results:
    """`call_product` of tensors that go straight: by the call prepared for their layout."""
    dtype, index = a.dtype, a.get_device()
    if b.dtype is not dtype or b.get_device() != index:
        raise mismatch("b", b, "a", a)
    unbound, numbers = semifield
    call = _prepared(dtype, index, a.shape, b.shape, a.stride(), b.stride(), unbound, residual)
    return call(a, b, numbers) if numbers else call(a, b)


def _product(a: Tensor, b: Tensor, semifield: str, residual: bool) -> Results:
    """The operator for CPU and CUDA tensors."""
    return product_straight(a, b, parted(semifield), residual)


for _dispatch_key in ("CPU", "CUDA"):
    _library.impl("product", _product, _dispatch_key)


@lru_cache(maxsize=MOST_PLANS)
def _prepared(
    dtype: torch.dtype,
    index: int,
    a_shape: tuple[int, ...],
    b_shape: tuple[int, ...],
    a_strides: tuple[int, ...],
    b_strides: tuple[int, ...],
    semifield: str,
    residual: bool,
) -> Callable[..., Results]:
    """The call for tensors of this layout on the executor of that index."""
    executor, shapes = executor_of(index), (tuple(a_shape), tuple(b_shape))
    plan = ProductPlan.of(semifield, dtype, executor.on_gpu, *shapes, residual)
    return prepare_product(plan, executor, dtype, a_strides, b_strides)


def prepare_product(
    plan: ProductPlan,
    executor: Executor,
    dtype: torch.dtype,
    a_strides: tuple[int, ...],
    b_strides: tuple[int, ...],
) -> Callable[..., Results]:
    """The call for tensors of this plan and these strides, and for values of parameters.

    It takes arrays instead of addresses where array loops serve, at odd addresses, and on another
    GPU than the current one.
    """
    shape, keeps_residual = plan.operands.out_shape, plan.residual_spec is not None
    if 0 in shape:
        return lambda a, b, *values: _new_results(a, plan)
    product = plan.operands.product(a_strides, b_strides, contiguous_strides(shape)).merged()
    route = plan.route(product, executor)
    launch = run.product_at(route, keeps_residual=keeps_residual)
    alignment = dtype.itemsize
    is_current, threads_or_stream = executor.is_current, executor.threads_or_stream

    def call(a: Tensor, b: Tensor, *values: Values) -> Results:
        first, second = a.data_ptr(), b.data_ptr()
        out, residual = _new_results(a, plan)
        if launch is None or (first | second) % alignment or not is_current():
            with as_arrays(a):
                run.product(
                    route,
                    array_of(a),
                    array_of(b),
                    array_of(out),
                    array_of(residual) if keeps_residual else None,
                    threads=torch.get_num_threads(),
                    value=as_given(values, plan.semifield),
                )
            return out, residual
        if not (first and second):
            require_memory(a=a, b=b)
        kept = residual.data_ptr() if keeps_residual else None
        launch(first, second, out.data_ptr(), kept, threads_or_stream(), *map(received, values))
        return out, residual

    return call


def _new_results(a: Tensor, plan: ProductPlan) -> Results:
    """Both results, uninitialised; an empty residual where there is none."""
    out = a.new_empty(plan.operands.out_shape)
    spec = plan.residual_spec
    if spec is None:
        return out, a.new_empty(0)
    return out, a.new_empty(spec.shape, dtype=plan.residual_dtype)


@torch.library.register_fake("semiconv::product", lib=_library)
def _fake(*flat: Any) -> Results:
    """The results' shapes and dtypes, for torch.compile."""
    a, b, key, residual = ProductArguments.received(*flat)
    if b.dtype != a.dtype or b.device != a.device:
        raise mismatch("b", b, "a", a)
    held_semifield(key)
    return _new_results(a, ProductPlan.of(key, a.dtype, a.is_cuda, a.shape, b.shape, residual))


def _vmap(
    info: Any, in_dims: tuple[Any, ...], *flat: Any
) -> tuple[Results, tuple[int, int | None]]:
    """One more leading axis."""
    a, b, key, wants_residual = ProductArguments.received(*flat)
    a, b = with_leading_axis(a, in_dims[0], b, in_dims[1])
    out, residual = call_product(a, b, key, wants_residual)
    if not wants_residual or residual.dim() < out.dim():
        return (out, residual), (0, None)
    return (out, residual), (0, stacked_axes(key))


def stacked_axes(key: str) -> int:
    """How many axes a residual has before those of the result."""
    return 0 if is_provenance(semifield_of(key)) else 1


def with_leading_axis(
    a: Tensor, a_dim: int | None, b: Tensor, b_dim: int | None
) -> tuple[Tensor, Tensor]:
    """Both operands with vmap's axis in front, where they have it, and the others aligned."""
    rank = max(a.dim() - (a_dim is not None), b.dim() - (b_dim is not None))
    return _leading(a, a_dim, rank), _leading(b, b_dim, rank)


def _leading(tensor: Tensor, dim: int | None, rank: int) -> Tensor:
    if dim is None:
        return tensor
    tensor = tensor.movedim(dim, 0)
    return tensor[(slice(None), *(None,) * (rank + 1 - tensor.dim()))]


torch.library.register_vmap("semiconv::product", _vmap, lib=_library)
