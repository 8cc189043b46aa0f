"""Gradients of matrix products: launches of ``kernels_cu/cuda/product_gradient.cu``.

A launch is planned once for each product, its gradients' layout, and the operand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.backends.cuda.convolution import GRID_X
from semiconv_cupy.backends.cuda.kernels import OPTIONS, compiled
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, LIMITS, Limits
from semiconv_cupy.backends.cuda.product import Multiplication
from semiconv_cupy.backends.device import Device, Kernel
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.product import Level, Product, merged
from semiconv_cupy.residual import is_provenance
from semiconv_cupy.structs import Parameters, scalar_with_parameters

Array = Any
_OWN_ROWS = 4  # own_rows of product_gradient.cu
_WARPS = BLOCK_THREADS // 32


class GradientSpecialisation(NamedTuple):
    """All that the text of a kernel depends on."""

    multiplication: Multiplication  # its product does not matter
    of_image: bool
    joins: bool  # the kernel that adds parts


def gradient_source(kernel: GradientSpecialisation) -> source.KernelSource:
    """The kernel that this specialises, ready for a compiler."""
    semifield, _, storage, residual, *_ = kernel.multiplication
    name = f"semiconv_product_grad_{'img' if kernel.of_image else 'krn'}"
    name += f"_{semifield.word}_{storage}" + ("_join" if kernel.joins else "")
    macros = (
        source.definitions(semifield, storage)
        | source.known_kind(semifield)
        | {
            "SEMICONV_KERNEL": name,
            "SEMICONV_OF_IMAGE": str(int(kernel.of_image)),
        }
    )
    if residual is not None:
        macros["SEMICONV_RESIDUAL"] = residual.name if residual.kind in "iu" else "Real"
    if kernel.joins:
        macros["SEMICONV_JOIN"] = ""
    return source.KernelSource(name, source.assemble("cuda/product_gradient.cu", macros), OPTIONS)


@dataclass(frozen=True)
class ProductGradientLaunch:
    """All of the launches of one operand's gradient but the arrays."""

    kernel: Kernel
    join: Kernel | None
    grid: tuple[int]
    join_grid: tuple[int]
    structs: tuple[np.void, np.void]  # of the product, and of the gradients' layout
    sizes: np.void
    partial: int  # float64 numbers for the parts
    origins: tuple[int, int]  # elements before img's first number, and before grad_img's

    def __call__(
        self,
        device: Device,
        addresses: tuple[int, ...],
        grad: int,
        itemsizes: tuple[int, int],
        plane: int,
        parameters: Parameters | None = None,
    ) -> None:
        """Launch for the addresses of (grad_out, img, krn, residual) and of the gradient."""
        grad_out, img, krn, residual = addresses
        img += self.origins[0] * itemsizes[0]
        grad += self.origins[1] * itemsizes[1]
        partial, owner = device.scratch(self.partial) if self.partial else (0, None)
        arguments = (
            scalar_with_parameters(self.structs[0], parameters), self.structs[1],
            grad_out, img, krn, residual, grad, partial, np.int64(plane), self.sizes,
        )  # fmt: skip
        self.kernel(self.grid, (BLOCK_THREADS,), arguments, 0, None)
        if self.join is not None:
            self.join(self.join_grid, (BLOCK_THREADS,), arguments, 0, None)
        del owner  # only later launches on this stream use the freed memory


def _own_and_other(
    product: Product, gradients: Product, *, of_image: bool
) -> tuple[Product, Product]:
    """Both with the shared levels that the gradient lacks among the other index's levels.

    An operand that was broadcast along a level has one gradient for all of it.
    """
    own = "img" if of_image else "krn"
    other = "produced" if of_image else "free"
    lacks = [getattr(level, own) == 0 for level in gradients.shared]

    def moved(one: Product) -> Product:
        pairs = list(zip(one.shared, lacks, strict=True))
        shared = tuple(level for level, lacking in pairs if not lacking)
        more = tuple(level for level, lacking in pairs if lacking)
        levels = (*more, *getattr(one, other))
        return replace(one, shared=shared, **{other: levels})  # type: ignore[arg-type]

    product, gradients = merged(moved(product), moved(gradients))
    return tuple(_with_levels(one) for one in (product, gradients))  # type: ignore[return-value]


def _with_levels(product: Product) -> Product:
    """The same, each index with a level."""
    one = (Level(1),)
    return Product(
        shared=product.shared or one,
        free=product.free or one,
        produced=product.produced or one,
        contracted=product.contracted or one,
        img_origin=product.img_origin,
    )


@lru_cache(maxsize=4096)
def gradient_launch(
    device: Device,
    multiplication: Multiplication,
    gradients: Product,
    of_image: bool,
    limits: Limits = LIMITS,
) -> ProductGradientLaunch:
    """What computes the gradient of one operand; there are outputs and terms."""
    semifield = multiplication.semifield
    product, layout = _own_and_other(multiplication.product, gradients, of_image=of_image)
    sizes = {role: math.prod(level.size for level in levels) for role, levels in product.roles}
    own, other = sizes["free"], sizes["produced"]
    if not of_image:
        own, other = other, own
    matrices, terms = sizes["shared"], sizes["contracted"]
    warps, elements = matrices * own, matrices * own * terms
    if not is_provenance(multiplication.semifield):
        warps = matrices * -(-own // _OWN_ROWS) * -(-terms // 32)
    parts = min(-(-limits.full_blocks // warps), -(-other // 64), max(1, 2**26 // elements))
    part_size = -(-other // parts)
    parts = -(-other // part_size)
    kernel = GradientSpecialisation(
        Multiplication(
            semifield.unbound, Product(), multiplication.storage, multiplication.residual
        ),
        of_image,
        joins=False,
    )
    blocks, join_blocks = -(-warps * parts // _WARPS), -(-elements // BLOCK_THREADS)
    if max(blocks, join_blocks) > GRID_X or max(sizes.values()) >= 2**32:
        raise ValueError(f"a launch has at most {GRID_X} blocks; {product} takes more")
    number = source.itemsize(source.ARITHMETIC[multiplication.storage])
    join = None if parts == 1 else compiled(device, gradient_source, kernel._replace(joins=True))
    return ProductGradientLaunch(
        kernel=compiled(device, gradient_source, kernel),
        join=join,
        grid=(blocks,),
        join_grid=(join_blocks,),
        structs=(
            structs.Product.of(product, multiplication.matrix_step, semifield).scalar(),
            structs.Product.of(layout).scalar(),
        ),
        sizes=structs.ProductGradient(matrices, own, other, terms, parts, part_size).scalar(),
        partial=0 if parts == 1 else -(-parts * elements * number // 8),
        origins=(product.img_origin, layout.img_origin if of_image else 0),
    )


def differentiate(
    device: Device,
    multiplication: Multiplication,
    gradients: Product,
    arrays: GradientArrays,
    limits: Limits = LIMITS,
    parameters: Parameters | None = None,
) -> None:
    """Launch the gradients that are there.

    They are in arithmetic dtype, and every element is written; `gradients` says where they and
    grad_out lie.
    """
    *given, grad_img, grad_krn = arrays
    residual = given[3]
    grad_out = device.address(given[0])
    some = tuple(grad_out if array is None else device.address(array) for array in given)
    plane = 0
    if residual is not None and not is_provenance(multiplication.semifield):
        plane = residual.size // residual.shape[0]
    itemsizes = (
        source.itemsize(multiplication.storage),
        source.itemsize(source.ARITHMETIC[multiplication.storage]),
    )
    for of_image, grad in ((True, grad_img), (False, grad_krn)):
        if grad is None:
            continue
        if not (multiplication.product.outputs and multiplication.product.terms):
            grad[...] = 0
            continue
        launch = gradient_launch(device, multiplication, gradients, of_image, limits)
        launch(device, some, device.address(grad), itemsizes, plane, parameters)
