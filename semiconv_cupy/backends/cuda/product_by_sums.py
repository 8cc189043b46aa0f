"""Matrix products in log and root on a GPU as ordinary products of transformed operands.

    img, krn --transform--> E(img), E(krn) --ordinary product--> sums --value--> out
                                                                  |
    tiles with an output of which its sum proves nothing: the semifield's own product computes them

Values alone: where the derivative needs a residual, the semifield's own addition computes it. The
kernels are in ``kernels_cu/cuda/product_by_sums.cu``, the mathematics in ``by_sums.cuh``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.algebra import Semifield, SubtractSemifield
from semiconv_cupy.backends.cuda.by_sums import Scratch
from semiconv_cupy.backends.cuda.convolution import GRID_X
from semiconv_cupy.backends.cuda.kernels import OPTIONS, compiled
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, LIMITS, Limits
from semiconv_cupy.backends.cuda.product import (
    Matrices,
    Multiplication,
    ProductLaunch,
    product_launch,
)
from semiconv_cupy.backends.device import Device, Kernel, Stream
from semiconv_cupy.product import Level, Levels, Product

Array = Any
_SIDE, _LINES = 32, 8  # side and lines of product_by_sums.cu
_CHUNK = 8  # rows are padded to a multiple of it, so that the product copies them in chunks
_BLOCKS = 1024  # about so many blocks pass over an operand, if it has so many numbers
_PARTS = ("extremes", "transform")  # the functions beside the one that the kernel is named after


class ProductSumsSpecialisation(NamedTuple):
    """All that the text of the kernels depends on."""

    semifield: Semifield
    storage: str


def product_sums_source(kernel: ProductSumsSpecialisation) -> source.KernelSource:
    """The kernels that this specialises, ready for a compiler."""
    semifield, storage = kernel
    name = "_".join(("semiconv_product_by_sums", semifield.word, storage))
    macros = source.definitions(semifield, storage) | {"SEMICONV_KERNEL": name}
    macros |= {f"SEMICONV_KERNEL_{part.upper()}": f"{name}_{part}" for part in _PARTS}
    options: tuple[str, ...] = OPTIONS
    if semifield.traits(source.arithmetic_of(storage)).rounds_products:
        options += ("-fmad=false",)
    return source.KernelSource(name, source.assemble("cuda/product_by_sums.cu", macros), options)


@dataclass(frozen=True)
class Transformation:
    """The launches that transform an operand."""

    name: str  # the operand's name in the scratch
    kernels: tuple[Kernel, Kernel]
    grid: tuple[int]
    struct: np.void
    pitch: int  # rows of a matrix, padded

    def __call__(
        self,
        at: Callable[[str], int],
        product: np.void,
        operand: int,
        flags: np.int64,
        stream: Stream | None,
    ) -> None:
        """Transform the operand at this address, and clear so many flags."""
        extremes, block = at(f"{self.name} extremes"), (BLOCK_THREADS,)
        find_extremes, transform = self.kernels
        given = product, operand, self.struct, extremes
        find_extremes(self.grid, block, (*given, at("unproven"), flags), 0, stream)
        results = at(self.name), at(f"{self.name} ranges")
        transform(self.grid, block, (*given, *results), 0, stream)


@dataclass(frozen=True)
class ProductSumsLaunch:
    """All of the launches of a product but its arrays."""

    scratch: Scratch
    struct: np.void
    origin: int  # bytes from img's address to the first number that is read
    flags: np.int64  # how many tiles the fallback has
    tiles: tuple[np.int64, ...]  # rows and columns of a tile, and the tiles along them
    img: Transformation
    krn: Transformation
    linear: ProductLaunch
    value: Kernel
    grid: tuple[int]
    image_in_columns: bool
    fallback: ProductLaunch  # computes the tiles that the sums leave unproven

    def __call__(
        self,
        device: Device,
        img: int,
        krn: int,
        out: int,
        stream: Stream | None = None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        """Launch for the addresses of the arrays' first elements."""
        at, owner = self.scratch.allocate(device)
        struct = structs.scalar_with_parameters(self.struct, parameters)
        self.img(at, struct, img + self.origin, self.flags, stream)
        self.krn(at, struct, krn, np.int64(0), stream)
        self.linear(device, at("img"), at("krn"), at("sums"), None, stream)
        both = (self.krn, self.img) if self.image_in_columns else (self.img, self.krn)
        arguments = (
            *(struct, *(one.struct for one in both)),
            *(at("sums"), *(at(f"{one.name} ranges") for one in both), out, at("unproven")),
            *self.tiles,
        )
        self.value(self.grid, (BLOCK_THREADS,), arguments, 0, stream)
        self.fallback(device, img, krn, out, None, stream, at("unproven"), parameters)
        del owner  # only later launches on this stream use the freed memory


def _filled_up(rows: int) -> int:
    return rows if rows < _CHUNK else -(-rows // _CHUNK) * _CHUNK


def _linear(matrices: Matrices, rows: int, columns: int) -> Product:
    """The product of the transformed operands, C-contiguous, rows and columns filled up."""
    terms = max(1, matrices.sizes[2])
    size = terms * rows, terms * columns, rows * columns
    if matrices.image_in_columns:
        free, produced = Level(columns, 1, 0, 1), Level(rows, 0, 1, columns)
        img, krn, steps = size[1], size[0], (columns, rows)
    else:
        free, produced = Level(rows, 1, 0, columns), Level(columns, 0, 1, 1)
        img, krn, steps = size[0], size[1], (rows, columns)
    return Product(
        shared=(Level(matrices.matrices, img, krn, size[2]),),
        free=(free,),
        produced=(produced,),
        contracted=(Level(matrices.sizes[2], *steps),),
    )


def _transformation(
    name: str,
    matrices: Matrices,
    levels: Levels,
    rows: int,
    kernels: tuple[Kernel, Kernel],
) -> Transformation:
    """The launches of the operand `name`, which has these levels of rows."""
    terms, pitch = matrices.sizes[2], _filled_up(rows)
    steps = (abs(getattr(some[-1], name)) for some in (matrices.product.contracted, levels))
    of_term, of_row = steps
    blocks = matrices.matrices * -(-pitch // _SIDE)
    parts = max(1, min(-(-_BLOCKS // blocks), -(-terms // _SIDE)))
    part_terms = max(1, -(-terms // (parts * _SIDE))) * _SIDE
    parts = max(1, -(-terms // part_terms))
    struct = structs.TransformedOperand(
        of_kernel=name == "krn",
        by_terms=of_term < of_row,
        rows=rows,
        pitch=pitch,
        terms=terms,
        parts=parts,
        part_terms=part_terms,
    )
    return Transformation(name, kernels, (blocks * parts,), struct.scalar(), pitch)


@lru_cache(maxsize=4096)
def product_sums_launch(
    device: Device, multiplication: Multiplication, limits: Limits = LIMITS
) -> ProductSumsLaunch:
    """What multiplies arrays of these strides by ordinary sums; there is an output."""
    semifield, product, storage, *_ = multiplication
    matrices, real = Matrices.of(product), source.ARITHMETIC[storage]
    text = ProductSumsSpecialisation(semifield.unbound, storage)
    find_extremes, transform = (
        compiled(device, product_sums_source, text, suffix=f"_{part}") for part in _PARTS
    )
    both = [
        _transformation(name, matrices, levels, rows, (find_extremes, transform))
        for name, levels, rows in zip(
            matrices.operands, matrices.levels, matrices.sizes[:2], strict=True
        )
    ]
    (rows, columns), (m, n, terms), count = both, matrices.sizes, matrices.matrices
    scratch, itemsize = Scratch(), source.itemsize(real)
    for one, size in ((rows, m), (columns, n)):
        scratch.add(one.name, count * terms * one.pitch, itemsize)
        scratch.add(f"{one.name} ranges", 2 * count * size, itemsize)
        scratch.add(f"{one.name} extremes", 2 * count * size * int(one.struct["parts"]), itemsize)
    scratch.add("sums", count * rows.pitch * columns.pitch, itemsize)
    fallback = product_launch(device, multiplication, 0, limits, unproven=True)
    cover = fallback.tile.cover(m, n)
    flags = count * math.prod(cover)
    scratch.add("unproven", flags, 4)
    linear = _linear(matrices, rows.pitch, columns.pitch)
    sums = Multiplication(SubtractSemifield.linear(), linear, real, None)
    grid = count * -(-m // _LINES) * -(-n // _SIDE)
    if max(grid, rows.grid[0], columns.grid[0]) > GRID_X:
        raise ValueError(f"a launch has at most {GRID_X} blocks; {product} takes more")
    img, krn = both[::-1] if matrices.image_in_columns else both
    return ProductSumsLaunch(
        scratch=scratch,
        struct=structs.Product.of(matrices.product, 0, semifield).scalar(),
        origin=product.img_origin * source.itemsize(storage),
        flags=np.int64(flags),
        tiles=tuple(map(np.int64, (*fallback.tile.size, *cover))),
        img=img,
        krn=krn,
        linear=product_launch(device, sums, 0, limits),
        value=compiled(device, product_sums_source, text),
        grid=(grid,),
        image_in_columns=matrices.image_in_columns,
        fallback=fallback,
    )


def multiply_by_sums_at(
    device: Device, multiplication: Multiplication, limits: Limits = LIMITS
) -> Callable[..., None]:
    """`multiply_by_sums` by addresses, as ``product.multiply_at``; there is no residual."""
    launch = product_sums_launch(device, multiplication, limits)

    def call(
        img: int,
        krn: int,
        out: int,
        residual: None,
        stream: Stream | None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        launch(device, img, krn, out, stream, parameters)

    return call


def multiply_by_sums(
    device: Device,
    multiplication: Multiplication,
    img: Array,
    krn: Array,
    out: Array,
    limits: Limits = LIMITS,
    parameters: structs.Parameters | None = None,
) -> None:
    """Launch the computation of `out` on the current stream; as ``product.multiply``."""
    if multiplication.product.outputs:
        run = multiply_by_sums_at(device, multiplication, limits)
        run(*map(device.address, (img, krn, out)), None, None, parameters)
