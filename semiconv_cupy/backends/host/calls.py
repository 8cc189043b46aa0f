"""Calls of the compiled convolutions of ``kernels_cu/host``.

Fills the geometry struct and calls by ctypes; works that are matrix products go to ``products``.
Called by ``run``; takes NumPy arrays or raw addresses.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host import products
from semiconv_cupy.backends.host.functions import (
    LIMITS,
    Limits,
    address,
    address_or_none,
    aligned,
    library,
    workers,
)
from semiconv_cupy.residual import Residual
from semiconv_cupy.strides import Strides, contiguous_strides, element_strides

if TYPE_CHECKING:
    from semiconv_cupy.route import Route


def forward_call(route: Route, img: np.ndarray, krn: np.ndarray) -> Callable[..., np.ndarray]:
    """What convolves arrays of these shapes, dtypes and strides; all but addresses is prepared."""
    dtype = img.dtype.newbyteorder("=") if img.dtype.kind in "iufb" else img.dtype
    shape, empty = route.geometry.out_shape, route.place.array_module.empty
    if 0 in shape:
        return lambda *arrays: empty(shape, dtype)

    def convert(
        img: np.ndarray, krn: np.ndarray, parameters: structs.Parameters | None = None
    ) -> np.ndarray:
        img, krn = img.astype(dtype, order="C"), krn.astype(dtype, order="C")
        return forward_call(route, img, krn)(img, krn, parameters)

    if not (aligned(img) and aligned(krn)):
        return convert
    run = forward_at(route, element_strides(img), element_strides(krn))
    alignment = dtype.alignment

    def call(
        img: np.ndarray, krn: np.ndarray, parameters: structs.Parameters | None = None
    ) -> np.ndarray:
        image, kernel = address(img), address(krn)
        if (image | kernel) % alignment:  # unlike the arrays that this was planned for
            return convert(img, krn, parameters)
        out = empty(shape, dtype)
        run(image, kernel, address(out), None, None, parameters)
        return out

    return call


def forward_part(route: Route, *, keeps_residual: bool) -> str:
    """Which of kernels_cu/host/*.cpp computes a forward pass."""
    if keeps_residual:
        values = "by_sums" if route.by_sums else "forward"
        return f"{values}_slopes" if route.slopes else "forward_residual"
    return "by_sums" if route.by_sums else "forward"


def backward_part(route: Route) -> str:
    """Which of kernels_cu/host/*.cpp computes the gradients."""
    return "by_sums_backward" if route.by_sums else "backward"


Forward: TypeAlias = Callable[..., None]


@lru_cache(maxsize=4096)
def forward_at(
    route: Route,
    img_strides: Strides,
    krn_strides: Strides,
    keeps_residual: bool = False,
) -> Forward:
    """What computes (img, krn, out, residual, most threads, parameters), arrays as addresses.

    Strides are in elements; there is an output; out and residual are C-contiguous, and addresses
    are multiples of their element's size. The residual is None unless `keeps_residual`; the most
    threads may be None, which means `threads`.
    """
    product = route.product(img_strides, krn_strides)
    if product is not None:
        return products.forward_at(product, keeps_residual)
    form = route.form(img_strides, krn_strides)
    part = forward_part(route, keeps_residual=keeps_residual)
    loaded = library(route.semifield, route.storage, part)
    struct = structs.Geometry.of(form.geometry, form.layout, route.semifield)
    reference, run = structs.referring(struct), getattr(loaded, f"semiconv_{part}")
    absorbing = int(route.storage in source.FLOATING and route.semifield.absorbing)
    workers = _workers(route)
    layout = _layout(route.residual_spec) if keeps_residual else ()

    def call(
        img: int,
        krn: int,
        out: int,
        residual: int | None,
        most: int | None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        kept = (residual, *layout) if layout else ()
        if run(reference(parameters), img, krn, out, *kept, absorbing, workers(most)):
            raise MemoryError(_NO_MEMORY)

    return call


@lru_cache(maxsize=4096)
def backward_at(route: Route, img_strides: Strides) -> products.Backward:
    """What computes (addresses of `GradientArrays`, most threads, parameters).

    The kernel is C-contiguous, too. The bits do not depend on the threads.
    """
    product = route.product_gradients(img_strides)
    by_sums = None if product is None else products.by_sums_backward_at(*product)
    if by_sums is None:
        return _by_windows_at(route, img_strides)

    def call(
        arrays: GradientArrays, most: int | None, parameters: structs.Parameters | None = None
    ) -> None:
        if not by_sums(arrays, most, parameters):
            by_windows = _by_windows_at(route, img_strides)  # compiled where it serves
            by_windows(arrays, most, parameters)

    return call


@lru_cache(maxsize=4096)
def _by_windows_at(route: Route, img_strides: Strides) -> products.Backward:
    """`backward_at`, window by window."""
    part = backward_part(route)
    loaded = library(route.semifield, route.storage, part)
    form, gradient_strides = route.form_of_gradients(img_strides)
    struct = structs.Geometry.of(form.geometry, form.layout, route.semifield)
    strides = (ctypes.c_int64 * len(gradient_strides))(*gradient_strides)
    reference, run = structs.referring(struct), getattr(loaded, f"semiconv_{part}")
    layout = _layout(route.residual_spec)
    workers = _workers(route)
    absorbing = int(route.semifield.absorbing)

    def call(
        arrays: GradientArrays, most: int | None, parameters: structs.Parameters | None = None
    ) -> None:
        grad_out, img, krn, residual, *grads = arrays
        kept = () if route.by_sums else (residual, *layout)
        own = reference(parameters)
        if run(own, grad_out, img, krn, *kept, *grads, strides, absorbing, workers(most)):
            raise MemoryError(_NO_MEMORY)

    return call


_NO_MEMORY = "not enough memory for the scratch of semifield_conv"


def _layout(residual: Residual | None) -> tuple[int, int]:
    """The bytes of an element, and the elements from one of its arrays to the next."""
    if residual is None:
        return 0, 0
    return residual.dtype.itemsize, math.prod(residual.shape[1:])


def _workers(route: Route, limits: Limits = LIMITS) -> Callable[[int | None], int]:
    """(the most threads that a call may have, None: `threads`) -> the threads that it gets."""
    geometry = route.geometry
    return workers(route.semifield, math.prod(geometry.out_shape), geometry.taps, limits)


def forward(
    route: Route,
    img: np.ndarray,
    krn: np.ndarray,
    out: np.ndarray,
    residual: np.ndarray | None = None,
    threads: int | None = None,
    parameters: structs.Parameters | None = None,
) -> None:
    """Fill `out`, and `residual` where given, C-contiguous, with at most `threads` threads."""
    if out.size == 0:
        return
    img, krn = _usable(img), _usable(krn)
    run = forward_at(route, element_strides(img), element_strides(krn), residual is not None)
    kept = address_or_none(residual)
    run(address(img), address(krn), address(out), kept, threads, parameters)


def backward(
    route: Route,
    arrays: GradientArrays,
    threads: int | None = None,
    parameters: structs.Parameters | None = None,
) -> None:
    """Fill the gradients that are given, of which grad_img holds zeros; see `backward_at`."""
    grad_out, img, krn, residual, grad_img, grad_krn = arrays
    if grad_out.size == 0:
        if grad_krn is not None:
            grad_krn[...] = 0
        return
    grad_out = np.ascontiguousarray(_usable(grad_out))
    img = None if img is None else _usable(img)
    krn = None if krn is None else np.ascontiguousarray(_usable(krn))
    strides = (0,) * (route.geometry.rank + 2) if img is None else element_strides(img)
    if img is not None and route.needs_contiguous_image(strides):
        img = np.ascontiguousarray(img)
        strides = contiguous_strides(img.shape)
    arrays = GradientArrays(grad_out, img, krn, residual, grad_img, grad_krn)
    backward_at(route, strides)(arrays.each(address), threads, parameters)


def _usable(array: np.ndarray) -> np.ndarray:
    if aligned(array):
        return array
    return array.astype(array.dtype.newbyteorder("="), order="C")
