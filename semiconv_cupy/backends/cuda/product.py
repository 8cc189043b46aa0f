"""Launches of matrix products: values, and what the derivative needs.

A launch is planned once for each product and called with addresses. The order of work is that of
``kernels_cu/cuda/product.cu``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.algebra.slopes import slope_definitions
from semiconv_cupy.backends.cuda.convolution import GRID_X
from semiconv_cupy.backends.cuda.kernels import OPTIONS, compiled
from semiconv_cupy.backends.cuda.limits import LIMITS, Limits
from semiconv_cupy.backends.cuda.product_tile import (
    ProductPlan,
    ProductTile,
    plan_product,
    words_of_output,
)
from semiconv_cupy.backends.device import Device, Kernel, Prepared, Stream, prepared
from semiconv_cupy.product import Level, Levels, Product
from semiconv_cupy.product_route import ProductRoute
from semiconv_cupy.residual import is_provenance
from semiconv_cupy.source import itemsize

Array = Any

_ALIGNMENT = 16  # bytes of the widest load and store
_CHUNK = 8  # the most neighbours that a thread copies at once; 4 of wide numbers
_BY_TERMS, _BY_NEIGHBOURS, _BY_CHUNKS = range(3)  # Copies in kernels_cu/cuda/product_panels.cuh
Operand = Literal["img", "krn"]


class Multiplication(NamedTuple):
    """What is multiplied: the key of launches. `residual` is the dtype of the one that is kept."""

    semifield: Semifield
    product: Product
    storage: str
    residual: np.dtype | None
    by_channel: bool = False
    matrix_step: int = 0
    slopes: bool = False

    @classmethod
    def of(cls, route: ProductRoute, residual: np.dtype | None) -> Multiplication:
        """The multiplication of a route."""
        more = route.channels > 1, route.matrix_step, route.slopes and residual is not None
        return cls(route.semifield, route.product, route.storage, residual, *more)


class ProductSpecialisation(NamedTuple):
    """All that the text of a kernel depends on."""

    semifield: Semifield
    storage: str
    residual: np.dtype | None
    tile: ProductTile
    image_in_columns: bool
    offset: str  # the type of offsets: "int32" or "int64"
    joins: bool  # the kernel that joins parts of the terms
    unproven: bool = False  # only tiles that ordinary sums leave unproven
    by_channel: bool = False  # as in `Specialisation`
    slopes: bool = False


def product_source(kernel: ProductSpecialisation) -> source.KernelSource:
    """The kernel that this specialises, ready for a compiler."""
    semifield, storage, residual, tile, image_in_columns, offset, joins, *_ = kernel
    rows, columns = tile.size
    name = "_".join(("semiconv_product", semifield.word, storage, f"{rows}x{columns}"))
    name += ("_residual" if residual is not None else "") + ("_join" if joins else "")
    macros = source.definitions(semifield, storage) | source.known_kind(semifield) | tile.macros
    macros |= {
        "SEMICONV_OFFSET": offset,
        "SEMICONV_IMAGE_IN_COLUMNS": str(int(image_in_columns)),
    }
    if residual is not None:
        macros["SEMICONV_RESIDUAL"] = residual.name if residual.kind in "iu" else "Real"
    if joins:
        macros["SEMICONV_JOIN"] = ""
    for flag in ("unproven", "by_channel", "slopes"):
        if getattr(kernel, flag):
            macros[f"SEMICONV_{flag.upper()}"] = ""
            name += f"_{flag}"
    if kernel.slopes:
        macros |= slope_definitions(semifield)
    macros["SEMICONV_KERNEL"] = name
    options: tuple[str, ...] = OPTIONS
    if semifield.traits(source.arithmetic_of(storage)).rounds_products:
        options += ("-fmad=false",)
    return source.KernelSource(name, source.assemble("cuda/product.cu", macros), options)


# ---- how the arrays lie --------------------------------------------------------------------------


class Matrices(NamedTuple):
    """A product as its kernel takes it: which index counts a tile's columns."""

    product: Product  # each index has a level
    image_in_columns: bool

    @classmethod
    def of(cls, product: Product) -> Matrices:
        """Columns are the index along which results are neighbours, unless there are few of them.

        A level that the kernel (the image) lacks is free (produced), not shared.
        """
        free, produced = list(product.free), list(product.produced)
        shared: list[Level] = []
        for level in reversed(product.shared):
            if not level.krn:
                free.insert(0, level)
            elif not level.img:
                produced.insert(0, level)
            else:
                shared.insert(0, level)
        product = replace(
            product, shared=tuple(shared), free=tuple(free), produced=tuple(produced)
        ).merged()
        one = (Level(1),)
        product = Product(
            shared=product.shared or one,
            free=product.free or one,
            produced=product.produced or one,
            contracted=product.contracted or one,
            img_origin=product.img_origin,
        )
        sizes = _size(product.free), _size(product.produced)
        steps = abs(product.free[-1].out), abs(product.produced[-1].out)
        in_columns = 0 < steps[0] < steps[1] if min(steps) else steps[0] > 0
        few = 8
        if min(sizes) <= few < max(sizes):
            in_columns = sizes[0] > sizes[1]
        return cls(product, in_columns)

    @property
    def levels(self) -> tuple[Levels, Levels]:
        """Of rows and columns."""
        both = self.product.produced, self.product.free
        return both if self.image_in_columns else both[::-1]

    @property
    def operands(self) -> tuple[Operand, Operand]:
        """Which operand the rows come from, and which the columns."""
        return ("krn", "img") if self.image_in_columns else ("img", "krn")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows, columns and terms of a matrix."""
        rows, columns = self.levels
        return _size(rows), _size(columns), _size(self.product.contracted)

    @property
    def matrices(self) -> int:
        """How many matrices are multiplied by how many."""
        return _size(self.product.shared)

    def copies(self, axis: int, *, aligned: bool) -> int:
        """How the rows (axis 0) or columns (axis 1) of an operand are copied."""
        levels, name = self.levels[axis], self.operands[axis]
        rest = (*self.product.contracted, *self.product.shared)
        origin = self.product.img_origin if name == "img" else 0
        if aligned and not origin % _CHUNK and _in_chunks(levels, rest, name):
            return _BY_CHUNKS
        terms, neighbours = (
            abs(getattr(some[-1], name)) or math.inf for some in (self.product.contracted, levels)
        )
        return _BY_TERMS if terms < neighbours else _BY_NEIGHBOURS

    @property
    def results_in_chunks(self) -> bool:
        """Whether chunks of neighbouring columns are neighbours in the results, too."""
        rows, columns = self.levels
        return _in_chunks(columns, (*rows, *self.product.shared), "out")

    def offset(self, limits: Limits) -> str:
        """The type that holds every offset of a matrix."""
        rows, columns = self.levels
        contracted = self.product.contracted
        far = max(
            *(
                _reach((*levels, *contracted), name)
                for levels, name in zip(self.levels, self.operands, strict=True)
            ),
            _reach((*rows, *columns), "out"),
            *self.sizes,
        )
        return "int32" if far < limits.offset_32 else "int64"


def _size(levels: Iterable[Level]) -> int:
    return math.prod(level.size for level in levels)


def _reach(levels: Levels, name: str) -> int:
    return sum((level.size - 1) * abs(getattr(level, name)) for level in levels)


def _in_chunks(levels: Levels, rest: Levels, name: str) -> bool:
    """Whether chunks of an index are neighbours in memory, and begin at multiples of a chunk."""
    *outer, last = levels
    others = (getattr(level, name) for level in (*outer, *rest) if level.size > 1)
    return getattr(last, name) == 1 and not any(n % _CHUNK for n in (last.size, *others))


# ---- launches ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProductLaunch:
    """All of a launch but its arrays."""

    tile: ProductTile
    kernel: Kernel
    join: Kernel | None  # None: no blocks share the terms of a tile
    grid: tuple[int]
    block: tuple[int]
    join_launch: tuple[tuple[int], tuple[int]]  # its grid and block
    struct: np.void
    cut: np.void
    cut_if_aligned: np.void  # where all addresses are multiples of 16
    origin: int  # bytes from img's address to the first number that is read
    residual_plane: np.int64
    partial: int  # float64 numbers for the parts of the terms

    @cached_property
    def _launches(self) -> tuple[Prepared, Prepared]:
        """Without parts and flags: for any addresses, and for aligned ones."""
        return self._prepared(None)

    @cached_property
    def _with_latest(self) -> structs.Latest[tuple[Prepared, Prepared]]:
        """The same with the parameters of a call."""
        return structs.Latest(self._prepared)

    def _prepared(self, parameters: structs.Parameters | None) -> tuple[Prepared, Prepared]:
        struct = structs.scalar_with_parameters(self.struct, parameters)
        given = self.grid, self.block, (struct,), 4
        first, second = (
            prepared(self.kernel, *given, (self.residual_plane, cut, 0, 0))
            for cut in (self.cut, self.cut_if_aligned)
        )
        return first, second

    def __call__(
        self,
        device: Device,
        img: int,
        krn: int,
        out: int,
        residual: int | None,
        stream: Stream | None = None,
        unproven: int = 0,
        parameters: structs.Parameters | None = None,
    ) -> None:
        """Launch for the addresses of the arrays' first elements.

        `unproven`: the address of a flag for each tile, where only tiles with a flag are computed.
        """
        kept = out if residual is None else residual
        aligned = not (img | krn | out | kept) % _ALIGNMENT
        if not (self.partial or unproven):
            launches = self._launches if parameters is None else self._with_latest.of(parameters)
            launches[aligned]((img + self.origin, krn, out, kept), stream)
            return
        cut = self.cut_if_aligned if aligned else self.cut
        partial, owner = device.scratch(self.partial) if self.partial else (0, None)
        arguments = (
            *(structs.scalar_with_parameters(self.struct, parameters), img + self.origin, krn),
            *(out, kept, self.residual_plane, cut, partial, unproven),
        )
        self.kernel(self.grid, self.block, arguments, 0, stream)
        if self.join is not None:
            self.join(*self.join_launch, arguments, 0, stream)
        del owner  # only later launches on this stream use the freed memory


@lru_cache(maxsize=4096)
def product_launch(
    device: Device,
    multiplication: Multiplication,
    residual_plane: int,
    limits: Limits = LIMITS,
    *,
    unproven: bool = False,
) -> ProductLaunch:
    """What multiplies arrays of these strides; there is an output.

    `residual_plane`: elements from one of the residual's arrays to the next. `unproven`: whether
    only tiles with a flag are computed.
    """
    semifield, product, storage, residual, by_channel, matrix_step, slopes = multiplication
    matrices = Matrices.of(product)
    plan = plan_product(
        semifield,
        storage,
        matrices.matrices,
        matrices.sizes,
        keeps_residual=residual is not None,
        slopes=slopes,
        limits=limits,
    )
    tile = plan.tile
    tiles = matrices.matrices * math.prod(tile.cover(*matrices.sizes[:2]))
    if tiles * plan.parts > GRID_X:
        raise ValueError(f"a launch has at most {GRID_X} blocks; {product} takes more")
    kernel = ProductSpecialisation(
        semifield.unbound, storage, residual, tile, matrices.image_in_columns,
        matrices.offset(limits), joins=False, unproven=unproven, by_channel=by_channel,
        slopes=slopes,
    )  # fmt: skip
    join = None if plan.parts == 1 else kernel._replace(joins=True)
    outputs = tiles * plan.parts * math.prod(tile.size)
    words = words_of_output(semifield, keeps_residual=residual is not None, slopes=slopes)
    number = max(4, itemsize(source.ARITHMETIC[storage]))
    return ProductLaunch(
        tile=tile,
        kernel=compiled(device, product_source, kernel),
        join=None if join is None else compiled(device, product_source, join),
        grid=(tiles * plan.parts,),
        block=(tile.threads,),
        join_launch=((tiles,), (tile.threads // tile.teams,)),
        struct=structs.Product.of(matrices.product, matrix_step, semifield).scalar(),
        cut=_cut(matrices, plan, residual_plane, aligned=False),
        cut_if_aligned=_cut(matrices, plan, residual_plane, aligned=True),
        origin=product.img_origin * itemsize(storage),
        residual_plane=np.int64(residual_plane),
        partial=0 if join is None else -(-outputs * words * number // 8),
    )


def _cut(matrices: Matrices, plan: ProductPlan, residual_plane: int, *, aligned: bool) -> np.void:
    rows, columns, terms = matrices.sizes
    tiles_y, tiles_x = plan.tile.cover(rows, columns)
    whole = aligned and not residual_plane % _CHUNK and matrices.results_in_chunks
    return structs.ProductCut(
        rows=rows,
        columns=columns,
        terms=terms,
        tiles_y=tiles_y,
        tiles_x=tiles_x,
        parts=plan.parts,
        team_terms=plan.team_terms(terms),
        row_copies=matrices.copies(0, aligned=aligned),
        column_copies=matrices.copies(1, aligned=aligned),
        whole_chunks=whole,
    ).scalar()


def multiply_at(
    device: Device, multiplication: Multiplication, residual_plane: int = 0, limits: Limits = LIMITS
) -> Callable[..., None]:
    """What computes (img, krn, out, residual or None, stream) by addresses on the current GPU."""
    launch = product_launch(device, multiplication, residual_plane, limits)

    def call(
        img: int,
        krn: int,
        out: int,
        residual: int | None,
        stream: Stream | None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        launch(device, img, krn, out, residual, stream, parameters=parameters)

    return call


def multiply(
    device: Device,
    multiplication: Multiplication,
    img: Array,
    krn: Array,
    out: Array,
    residual: Array | None = None,
    limits: Limits = LIMITS,
    parameters: structs.Parameters | None = None,
) -> None:
    """Launch the computation of `out`, and of `residual` where given, on the current stream.

    The product says where the numbers of all arrays lie, relative to the first element of each.
    """
    if not multiplication.product.outputs:
        return
    plane = 0
    if residual is not None and not is_provenance(multiplication.semifield):
        plane = residual.size // residual.shape[0]
    launch = product_launch(device, multiplication, plane, limits)
    img, krn, out = map(device.address, (img, krn, out))
    kept = None if residual is None else device.address(residual)
    launch(device, img, krn, out, kept, parameters=parameters)
