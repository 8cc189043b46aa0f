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
from semiconv_cupy.backends.host import calls
from semiconv_cupy.residual import residual_of_terms

if TYPE_CHECKING:
    from semiconv_cupy.route import ProductRoute

Forward: TypeAlias = Callable[[int, int, int, "int | None", int, "int | None"], None]
_NO_MEMORY = "not enough memory for the scratch of a matrix product"


@lru_cache(maxsize=4096)
def forward_at(route: ProductRoute, keeps_residual: bool = False) -> Forward:
    """What computes (img, krn, out, residual, plane, most threads), arrays as their addresses.

    `plane` counts elements from one of the residual's arrays to the next. The residual is None
    unless `keeps_residual`.
    """
    part = "product_residual" if keeps_residual else "product"
    loaded = calls.library(route.semifield, route.storage, part)
    struct = structs.Product.of(route.product)
    reference, run = ctypes.byref(struct), getattr(loaded, f"semiconv_{part}")
    spec = residual_of_terms(route.semifield, route.storage, (), route.product.terms)
    itemsize = 0 if spec is None else spec.dtype.itemsize
    origin = route.product.img_origin * source.itemsize(route.storage)
    workers = calls.workers(route.semifield, route.product.outputs, route.product.terms)

    def call(
        img: int, krn: int, out: int, residual: int | None, plane: int, most: int | None
    ) -> None:
        kept = (residual, itemsize, plane) if keeps_residual else ()
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
    run = forward_at(route, residual is not None)
    plane = 0 if residual is None else residual.strides[0] // residual.itemsize
    kept = None if residual is None else calls.address(residual)
    run(calls.address(img), calls.address(krn), calls.address(out), kept, plane, threads)
