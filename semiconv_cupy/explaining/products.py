"""The steps of a matrix product and of its derivative."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from semiconv_cupy import own_gradients, parameters, run, source
from semiconv_cupy.algebra import BroadcastSemifield
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host import products as host_products
from semiconv_cupy.backends.host.functions import aligned, library_names
from semiconv_cupy.checks import refuse_broadcast, refuse_kernels, require_derivatives
from semiconv_cupy.errors import flag
from semiconv_cupy.explaining.records import (
    Needs,
    moved_bytes,
    planned_place,
    recorded,
)
from semiconv_cupy.explanation import Step
from semiconv_cupy.matmul_plans import Checked
from semiconv_cupy.methods import route_in_words
from semiconv_cupy.operands import Operands
from semiconv_cupy.product import Product, merged
from semiconv_cupy.product_route import ProductRoute
from semiconv_cupy.strides import contiguous_strides, element_strides
from semiconv_cupy.winners import selection_by_one


def product_steps(name: str, bound: dict[str, Any], on_gpu: bool) -> tuple[Step, ...]:
    """The forward pass, and of a derivative the backward pass; `bound` are the arguments."""
    a, b, semifield = (bound[key] for key in ("a", "b", "semifield"))
    derived, passed = name == "semifield_matmul_vjp", bound.get("parameters", {})
    winners = flag("return_indices", bound.get("return_indices", False))
    values = parameters.given(semifield, passed, name)
    if winners:
        values = values._replace(semifield=selection_by_one(values.semifield))
    algebra = values.semifield
    if derived:
        refuse_broadcast(algebra, name)
    method = bound.get("method", "auto")
    if isinstance(algebra, BroadcastSemifield):
        refuse_kernels(method)
        operands = Operands.of(a.shape, b.shape)
        terms = math.prod(operands.out_shape) * operands.terms
        moved = moved_bytes(a, b) + math.prod(operands.out_shape) * a.itemsize
        return (Step("forward", "whole matrices", "arrays", 2 * terms, moved),)
    slopes = derived and own_gradients.keeps_slopes(algebra, passed)
    checked = Checked.of(a, b, values, method, slopes=slopes)
    checked = checked._replace(place=planned_place(on_gpu))
    if not (aligned(a) and aligned(b)):
        a, b = np.empty(a.shape, a.dtype), np.empty(b.shape, b.dtype)  # copied first
    shape = checked.operands.out_shape
    product, gradients = merged(
        checked.operands.product(element_strides(a), element_strides(b), contiguous_strides(shape)),
        checked.operands.product(*map(contiguous_strides, (a.shape, b.shape, shape))),
    )
    if not derived:
        product = product.merged()
    route = checked.route(product)
    spec = route.residual_spec(shape or (1,)) if derived or winners else None
    out = np.empty(shape, a.dtype)
    arrays = (a, b, out, None if spec is None else np.empty(spec.shape, spec.dtype))
    needs: Needs = ((), (), 0)
    if route.backend == "cuda":
        needs = recorded(run.product, route, *arrays, value=values.value)
    elif route.backend == "host":
        needs = _library(route, host_products.part(route, spec))
    operations = 2 * product.outputs * product.terms
    words = route_in_words(route.backend, by_sums=spec is None and route.values_by_sums)
    forward = Step("forward", str(product), words, operations, moved_bytes(*arrays), *needs)
    if not derived:
        return (forward,)
    require_derivatives(checked.storage)
    return forward, _backward(route, gradients, arrays, values.value, 2 * operations)


def _backward(
    route: ProductRoute, gradients: Product, arrays: Sequence[Any], value: Any, operations: int
) -> Step:
    """The derivative; `arrays` are those of the forward pass."""
    a, b, out, residual = arrays
    needs: Needs = ((), (), 0)
    if route.backend == "cuda":
        real = source.ARITHMETIC[route.storage]
        of_a, of_b = np.empty(a.shape, real), np.empty(b.shape, real)
        given = GradientArrays(out, a, b, residual, of_a, of_b)
        needs = recorded(run.product_backward, route, gradients, given, value=value)
    elif route.backend == "host":
        needs = _library(route, host_products.backward_part(route, gradients))
    words = route_in_words(route.backend, by_sums=route.by_sums)
    moved = 2 * moved_bytes(a, b) + moved_bytes(out, residual)
    return Step("backward", "gradients of a and b", words, operations, moved, *needs)


def _library(route: ProductRoute, part: str) -> Needs:
    return library_names(route.semifield, route.storage, part), (), 0
