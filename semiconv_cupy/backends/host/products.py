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
from semiconv_cupy.backends.host import functions
from semiconv_cupy.residual import residual_of_terms

if TYPE_CHECKING:
    from semiconv_cupy.route import ProductRoute

Forward: TypeAlias = Callable[[int, int, int, "int | None", "int | None"], None]
_NO_MEMORY = "not enough memory for the scratch of a matrix product"


def part(route: ProductRoute, residual: object | None) -> str:
    """Which of kernels_cu/host/*.cpp computes a product with this residual, or with None."""
    if residual is not None:
        return "product_residual"
    return "product_by_sums" if route.by_sums else "product"


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
    struct = structs.Product.of(route.product)
    reference, run = ctypes.byref(struct), getattr(loaded, f"semiconv_{name}")
    spec = residual_of_terms(route.semifield, route.storage, (), route.product.terms)
    layout = () if plane is None or spec is None else (spec.dtype.itemsize, plane)
    origin = route.product.img_origin * source.itemsize(route.storage)
    workers = functions.workers(route.semifield, route.product.outputs, route.product.terms)

    def call(img: int, krn: int, out: int, residual: int | None, most: int | None) -> None:
        kept = (residual, *layout) if layout else ()
        if run(reference, img + origin, krn, out, *kept, workers(most)):
            raise MemoryError(_NO_MEMORY)

    return call


def forward(
    route: ProductRoute,
    img: np.ndarray,
    krn: np.ndarray,
    out: np.ndarray,
    residual: np.ndarray | None = None,
    threads: int | None = None,
) -> None:
    """Fill `out`, and `residual` where given, with at most `threads` threads."""
    if route.product.outputs == 0:
        return
    plane = None if residual is None else residual.strides[0] // residual.itemsize
    run = _forward_at(route, plane)
    kept = functions.address_or_none(residual)
    run(functions.address(img), functions.address(krn), functions.address(out), kept, threads)
