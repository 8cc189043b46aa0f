"""Calls of the compiled matrix products of ``kernels_cu/host/product*``.

Fills the struct of levels and calls by ctypes. Called by ``run``; takes NumPy arrays or raw
addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host import functions
from semiconv_cupy.product import Product
from semiconv_cupy.residual import residual_of_terms

if TYPE_CHECKING:
    from semiconv_cupy.product_route import ProductRoute

Forward: TypeAlias = Callable[..., None]
Backward: TypeAlias = Callable[..., None]
_NO_MEMORY = "not enough memory for the scratch of a matrix product"


def part(route: ProductRoute, residual: object | None) -> str:
    """Which of kernels_cu/host/*.cpp computes a product with this residual, or with None."""
    if residual is not None:
        return "product_slopes" if route.slopes else "product_residual"
    return "product_by_sums" if route.values_by_sums else "product"


def backward_part(route: ProductRoute, gradients: Product) -> str:
    """Which of kernels_cu/host/*.cpp computes the gradients, unless its sums prove not enough."""
    return _part_by_sums(route, gradients) or "product_backward"


def _part_by_sums(route: ProductRoute, gradients: Product) -> str | None:
    """`backward_part` where ordinary sums serve."""
    images = (level.img for level in (*gradients.shared, *gradients.free))
    kernels = (level.krn for level in (*gradients.shared, *gradients.produced))
    if route.semifield.differentiates_by_factors:
        return "product_linear_backward"
    broadcast = 0 in (*images, *kernels)
    return "product_by_sums_backward" if route.by_sums and not broadcast else None


@lru_cache(maxsize=4096)
def forward_at(route: ProductRoute, keeps_residual: bool = False) -> Forward:
    """What computes (img, krn, out, residual, most threads), arrays as their addresses.

    The residual is None unless `keeps_residual`; several arrays of it lie behind each other. The
    most threads may be None, which means ``functions.threads``.
    """
    return _forward_at(route, route.product.outputs if keeps_residual else None)


@lru_cache(maxsize=4096)
def _forward_at(route: ProductRoute, plane: int | None) -> Forward:
    """`forward_at`; `plane` counts the elements from one of the residual's arrays to the next."""
    name = part(route, plane)
    loaded = functions.library(route.semifield, route.storage, name)
    struct = structs.Product.of(route.product, route.matrix_step, route.semifield)
    reference, run = structs.referring(struct), getattr(loaded, f"semiconv_{name}")
    spec = route.residual_spec(()) or residual_of_terms(
        route.semifield, route.storage, (), route.product.terms
    )
    layout = () if plane is None or spec is None else (spec.dtype.itemsize, plane)
    origin = route.product.img_origin * source.itemsize(route.storage)
    workers = functions.workers(route.semifield, route.product.outputs, route.product.terms)

    def call(
        img: int,
        krn: int,
        out: int,
        residual: int | None,
        most: int | None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        kept = (residual, *layout) if layout else ()
        if run(reference(parameters), img + origin, krn, out, *kept, workers(most)):
            raise MemoryError(_NO_MEMORY)

    return call


def forward(
    route: ProductRoute,
    img: np.ndarray,
    krn: np.ndarray,
    out: np.ndarray,
    residual: np.ndarray | None = None,
    threads: int | None = None,
    parameters: structs.Parameters | None = None,
) -> None:
    """Fill `out`, and `residual` where given, with at most `threads` threads."""
    if route.product.outputs == 0:
        return
    plane = None if residual is None else residual.strides[0] // residual.itemsize
    run = _forward_at(route, plane)
    kept = functions.address_or_none(residual)
    given = functions.address(img), functions.address(krn), functions.address(out)
    run(*given, kept, threads, parameters)


@lru_cache(maxsize=4096)
def backward_at(route: ProductRoute, gradients: Product) -> Backward:
    """What computes (addresses of `GradientArrays`, most threads, parameters).

    `gradients` as in ``run.product_backward``. Several arrays of the residual lie behind each
    other. Where the forward pass went by ordinary sums, there is no residual: the
    gradients come from sums, too, or from a residual that is computed here. The bits do not depend
    on the threads.
    """
    by_sums = by_sums_backward_at(route, gradients)
    if by_sums is None:
        return _by_residual_at(route, gradients)

    def call(
        arrays: GradientArrays, most: int | None, parameters: structs.Parameters | None = None
    ) -> None:
        if arrays.residual is not None or not by_sums(arrays, most, parameters):
            by_residual = _by_residual_at(route, gradients)  # compiled only if needed
            by_residual(arrays, most, parameters)

    return call


@lru_cache(maxsize=4096)
def _by_residual_at(route: ProductRoute, gradients: Product) -> Backward:
    """`backward_at` from a residual, which is computed here where the forward pass kept none."""
    loaded = functions.library(route.semifield, route.storage, "product_backward")
    product = structs.referring(
        structs.Product.of(route.product, route.matrix_step, route.semifield)
    )
    slopes = structs.Product.of(gradients)
    run = loaded.semiconv_product_backward
    spec = residual_of_terms(route.semifield, route.storage, (), route.product.terms)
    itemsize, plane = 0 if spec is None else spec.dtype.itemsize, route.product.outputs
    origin = route.product.img_origin * source.itemsize(route.storage)
    to_origin = gradients.img_origin * np.dtype(source.ARITHMETIC[route.storage]).itemsize
    workers = functions.workers(route.semifield, route.product.outputs, route.product.terms)
    recompute = _residual_at(route)

    def call(
        arrays: GradientArrays, most: int | None, parameters: structs.Parameters | None = None
    ) -> None:
        grad_out, img, krn, residual, grad_img, grad_krn = arrays
        references = product(parameters), ctypes.byref(slopes)
        kept = None
        if residual is None and recompute is not None and img is not None and krn is not None:
            kept = recompute(img, krn, most, parameters)
            residual = functions.address(kept)
        image = None if img is None else img + origin
        to_img = None if grad_img is None else grad_img + to_origin
        given = (grad_out, image, krn, residual, itemsize, plane)
        if run(*references, *given, to_img, grad_krn, workers(most)):
            raise MemoryError(_NO_MEMORY)

    return call


def _residual_at(route: ProductRoute) -> Callable[..., np.ndarray] | None:
    """What computes the residual from (img, krn, most threads, parameters); None for none.

    The result is contiguous.
    """
    count = route.product.outputs
    spec = residual_of_terms(route.semifield, route.storage, (count,), route.product.terms)
    if spec is None:
        return None

    def call(
        img: int, krn: int, most: int | None, parameters: structs.Parameters | None
    ) -> np.ndarray:
        out = np.empty(count * source.itemsize(route.storage), np.uint8)
        residual = np.empty(spec.shape, spec.dtype)
        forward = forward_at(route, keeps_residual=True)
        places = functions.address(out), functions.address(residual)
        forward(img, krn, *places, most, parameters)
        return residual

    return call


def backward(
    route: ProductRoute,
    gradients: Product,
    arrays: GradientArrays,
    threads: int | None = None,
    parameters: structs.Parameters | None = None,
) -> None:
    """Fill the gradients that are given: see ``run.product_backward``."""
    for gradient in arrays[4:]:
        if gradient is not None:
            gradient[...] = 0
    if route.product.outputs == 0:
        return
    backward_at(route, gradients)(arrays.each(functions.address), threads, parameters)


_UNPROVEN = 2  # unproven_sums of kernels_cu/host/product_backward.hpp

BySums: TypeAlias = Callable[..., bool]


@lru_cache(maxsize=4096)
def by_sums_backward_at(route: ProductRoute, gradients: Product) -> BySums | None:
    """What computes (addresses of `GradientArrays`, most threads, parameters).

    It returns whether the sums prove the gradients; otherwise, and without img and krn, they must
    be computed in another way.
    None where ordinary sums do not serve: for other semifields than linear, log and root, and in
    these two for an operand that was broadcast.
    """
    part = _part_by_sums(route, gradients)
    if part is None:
        return None
    loaded = functions.library(route.semifield, route.storage, part)
    run = getattr(loaded, f"semiconv_{part}")
    product = structs.referring(
        structs.Product.of(route.product, route.matrix_step, route.semifield)
    )
    slopes = structs.Product.of(gradients)
    origin = route.product.img_origin * source.itemsize(route.storage)
    to_origin = gradients.img_origin * np.dtype(source.ARITHMETIC[route.storage]).itemsize
    workers = functions.workers(route.semifield, route.product.outputs, route.product.terms)

    def call(
        arrays: GradientArrays, most: int | None, parameters: structs.Parameters | None = None
    ) -> bool:
        grad_out, img, krn, _, grad_img, grad_krn = arrays
        if img is None or krn is None:
            return False
        to_img = None if grad_img is None else grad_img + to_origin
        references = product(parameters), ctypes.byref(slopes)
        status: int = run(*references, grad_out, img + origin, krn, to_img, grad_krn, workers(most))
        if status not in (0, _UNPROVEN):
            raise MemoryError(_NO_MEMORY)
        return status == 0

    return call
