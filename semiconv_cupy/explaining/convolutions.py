"""The steps of a convolution and of its derivative."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy import conv, own_gradients, parameters, run, source
from semiconv_cupy.algebra import BroadcastSemifield
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host import calls as host_calls
from semiconv_cupy.backends.host import products as host_products
from semiconv_cupy.backends.host.functions import aligned, library_names
from semiconv_cupy.checks import refuse_broadcast, require_derivatives
from semiconv_cupy.errors import flag
from semiconv_cupy.explaining.records import (
    Needs,
    moved_bytes,
    planned_place,
    recorded,
)
from semiconv_cupy.explanation import Step
from semiconv_cupy.methods import route_in_words
from semiconv_cupy.route import Route, least_scratch
from semiconv_cupy.strides import contiguous_strides, element_strides
from semiconv_cupy.vectors import COSTS
from semiconv_cupy.winners import selection_by_one


def convolution_steps(name: str, bound: dict[str, Any], on_gpu: bool) -> tuple[Step, ...]:
    """The forward pass, and of a derivative the backward pass; `bound` are the arguments."""
    given = dict(bound)
    img, krn, semifield = (given.pop(key) for key in ("img", "krn", "semifield"))
    method, passed = given.pop("method", "auto"), given.pop("parameters", {})
    winners = flag("return_indices", given.pop("return_indices", False))
    values = parameters.given(semifield, passed, name)
    if winners:
        values = values._replace(semifield=selection_by_one(values.semifield))
    algebra = values.semifield
    place = planned_place(on_gpu)
    if name == "semifield_conv_vjp":
        refuse_broadcast(algebra, "semifield_conv_vjp")
    if isinstance(algebra, BroadcastSemifield):
        geometry = conv.checked_broadcast(img, krn, method, given)[1]
        terms = math.prod(geometry.out_shape) * geometry.taps
        moved = moved_bytes(img, krn) + math.prod(geometry.out_shape) * img.itemsize
        return (Step("forward", "whole windows", "arrays", 2 * terms, moved),)
    slopes = name == "semifield_conv_vjp" and own_gradients.keeps_slopes(algebra, passed)
    route = conv.checked_route(img, krn, values, method, given, place=place, slopes=slopes)
    if route.backend == "host" and not (aligned(img) and aligned(krn)):
        img, krn = np.empty(img.shape, img.dtype), np.empty(krn.shape, krn.dtype)  # copied first
    if name == "semifield_conv":
        return (_forward(route, img, krn, values.value, keeps_residual=winners),)
    require_derivatives(route.storage)
    forward = _forward(route, img, krn, values.value, keeps_residual=True)
    return forward, _backward(route, img, krn, values.value)


def _forward(
    route: Route, img: np.ndarray, krn: np.ndarray, value: Any, *, keeps_residual: bool
) -> Step:
    spec = route.residual_spec if keeps_residual else None
    out = np.empty(route.geometry.out_shape, img.dtype)
    residual = None if spec is None else np.empty(spec.shape, spec.dtype)
    arrays = (img, krn, out, residual)
    strides = element_strides(img), element_strides(krn)
    product = route.product(*strides)
    if route.backend == "cuda":
        needs = recorded(run.forward, route, *arrays, value=value)
    else:
        part = host_calls.forward_part(route, keeps_residual=residual is not None)
        needs = _compiled(route, part if product is None else host_products.part(product, residual))
    form = str(route.form(*strides) if product is None else product.product)
    words = route_in_words(route.backend, by_sums=route.by_sums)
    return Step("forward", form, words, _operations(route), moved_bytes(*arrays), *needs)


def _backward(route: Route, img: np.ndarray, krn: np.ndarray, value: Any) -> Step:
    spec, real = route.residual_spec, source.ARITHMETIC[route.storage]
    grad_out = np.empty(route.geometry.out_shape, img.dtype)
    residual = None if spec is None else np.empty(spec.shape, spec.dtype)
    arrays = (grad_out, img, krn, residual, np.empty(img.shape, real), np.empty(krn.shape, real))
    if route.backend == "cuda":
        needs = recorded(run.backward, route, GradientArrays(*arrays), value=value)
    else:
        strides = element_strides(img)
        if route.needs_contiguous_image(strides):
            strides = contiguous_strides(img.shape)
        product = route.product_gradients(strides)
        part = host_calls.backward_part(route)
        needs = _compiled(route, part if product is None else host_products.backward_part(*product))
    words, operations = route_in_words(route.backend, by_sums=route.by_sums), 2 * _operations(route)
    form = "gradients of img and krn"
    return Step("backward", form, words, operations, moved_bytes(*arrays), *needs)


def _operations(route: Route) -> int:
    return 2 * math.prod(route.geometry.out_shape) * route.geometry.taps


def _compiled(route: Route, part: str) -> Needs:
    """Libraries and scratch of a pass on the CPU."""
    if route.backend == "reference":
        return (), (), 0
    names = library_names(route.semifield, route.storage, part)
    number = np.dtype(source.ARITHMETIC.get(route.storage, route.storage)).itemsize
    return names, (), max(COSTS.scratch, least_scratch(route.geometry) * number)
