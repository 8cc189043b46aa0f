"""Forward launches: the tiled kernel where a tile serves, else one thread an output.

A launch is planned once for each `Convolution` and called with arrays or their addresses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.backends.cuda.convolution import (
    ALWAYS,
    Array,
    Case,
    Condition,
    Convolution,
    blocks_for,
    conditional,
)
from semiconv_cupy.backends.cuda.forward_tile import ForwardTile, forward_tile_of
from semiconv_cupy.backends.cuda.kernels import (
    Specialisation,
    compiled,
    in_parts,
    kernel_source,
    specialise,
)
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, CHUNK, LIMITS, Limits
from semiconv_cupy.backends.device import (
    Described,
    Device,
    Kernel,
    Prepared,
    Stream,
    described,
    prepared,
)
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import Residual
from semiconv_cupy.strides import Strides

_ONE_PART = 0, np.uint32(1)  # no memory for accumulators


@dataclass(frozen=True)
class Parts:
    """Blocks that share the slabs of each tile, and the kernel that joins what they leave."""

    device: Device
    number: int
    join: Kernel
    numbers: int  # how many float64 hold the accumulators of all parts


@dataclass(frozen=True)
class ForwardLaunch:
    """All of a launch but its arrays."""

    kernel: Kernel
    grid: tuple[int]
    block: tuple[int]
    struct: np.void
    scalars: tuple[Any, ...]  # the arguments behind the arrays
    scalars_if_aligned: tuple[Any, ...]  # where img's address is a multiple of `alignment`
    alignment: int
    conditional_blocks: int
    parts: Parts | None = None

    @cached_property
    def _launches(self) -> tuple[Prepared, Prepared]:
        """Without parts and conditions: for any address of img, and for one that is aligned."""
        return self._prepared(None)

    @cached_property
    def _with_latest(self) -> structs.Latest[tuple[Prepared, Prepared]]:
        """The same with the parameters of a call."""
        return structs.Latest(self._prepared)

    def _prepared(self, parameters: structs.Parameters | None) -> tuple[Prepared, Prepared]:
        struct = structs.scalar_with_parameters(self.struct, parameters)
        both = (self.scalars, self.scalars_if_aligned)
        given = self.grid, self.block, (struct,), 4
        first, second = (prepared(self.kernel, *given, scalars) for scalars in both)
        return first, second

    def __call__(
        self,
        address: int,
        img: Array,
        krn: Array,
        out: Array,
        residual: Array | None,
        stream: Stream | None = None,
        condition: Condition | None = None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        """Launch for arrays or their addresses, of which img's is given as well."""
        aligned = not address % self.alignment
        if condition is None and self.parts is None:
            launches = self._launches if parameters is None else self._with_latest.of(parameters)
            launches[aligned]((img, krn, out, out if residual is None else residual), stream)
            return
        scalars = self.scalars_if_aligned if aligned else self.scalars
        grid: tuple[int, ...] = self.grid
        if condition is not None:
            grid, scalars = conditional(grid, scalars, condition, self.conditional_blocks)
        struct = structs.scalar_with_parameters(self.struct, parameters)
        arguments = (struct, img, krn, out, out if residual is None else residual, *scalars)
        if self.parts is None:
            self.kernel(grid, self.block, arguments, 0, stream)
            return
        partial, owner = self.parts.device.scratch(self.parts.numbers)
        arguments = (*arguments[:-2], partial, np.uint32(self.parts.number))
        self.kernel((*grid, self.parts.number), self.block, arguments, 0, stream)
        self.parts.join(grid, self.block, arguments, 0, stream)
        del owner  # only later launches on this stream use the freed memory

    def described(self, *, keeps_residual: bool) -> list[Described] | None:
        """Launches for any address of img and for an aligned one; None where parts are joined.

        Pointers have the names that `Launches` lists.
        """
        if self.parts is not None:
            return None
        pointers = ("first", "second", "out", "residual" if keeps_residual else "out")
        both = [described(launch, pointers) for launch in self._launches]
        return [found for found in both if found is not None] or None

    def with_parameters(
        self,
        address: int,
        img: Array,
        krn: Array,
        out: Array,
        residual: Array | None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        """Launch on the current stream, with these values of the semifield's parameters."""
        self(address, img, krn, out, residual, parameters=parameters)


def _in_parts(
    device: Device, kernel: Specialisation, tile: ForwardTile, geometry: Geometry, limits: Limits
) -> tuple[Specialisation, Parts | None]:
    """The kernel of a part, and what joins the parts; the kernel itself where there is one."""
    number = tile.parts(geometry, limits)
    if number == 1:
        return kernel, None
    part, join, size = in_parts(kernel)
    accumulators = tile.grid(geometry) * tile.threads * tile.channels * tile.rows * tile.columns
    room = number * accumulators * size // 8
    return part, Parts(device, number, compiled(device, kernel_source, join), room)


@lru_cache(maxsize=4096)
def forward_launch(
    device: Device,
    convolution: Convolution,
    method: str = "auto",
    limits: Limits = LIMITS,
    *,
    padded_rows: bool = False,
) -> ForwardLaunch:
    """What `forward` launches for arrays of these strides; there is an output.

    `padded_rows`: windows lie inside the image, and whole chunks of a row may be read.
    """
    semifield, geometry, storage, residual, *_ = convolution
    tile = None
    if method != "direct" and not convolution.slopes:
        tile = forward_tile_of(semifield, storage, geometry, residual, limits.for_method(method))
    strides = convolution.img_strides, convolution.krn_strides
    if tile is not None and tile.reach(geometry, *strides) >= 2**31:
        tile = None
    if tile is None and method == "tiled":
        raise ValueError(
            f"method='tiled' does not serve {semifield!r} on {storage} with {geometry}"
        )
    plane = np.int64(0) if residual is None else convolution.residual_plane
    if tile is not None:
        kernel = specialise(
            "forward_tiled", semifield, storage, geometry, "int64", residual, tile,
            by_channel=convolution.by_channel,
        )  # fmt: skip
        kernel, parts = _in_parts(device, kernel, tile, geometry, limits)
        piece = np.uint32(convolution.piece(once=tile.once(geometry), padded_rows=padded_rows))
        first = (plane, tile.division(geometry))
        return ForwardLaunch(
            kernel=compiled(device, kernel_source, kernel),
            grid=(tile.grid(geometry),),
            block=(tile.threads,),
            struct=convolution.struct,
            scalars=(*first, np.uint32(0), *_ONE_PART),
            scalars_if_aligned=(*first, piece, *_ONE_PART),
            alignment=min(16, CHUNK * source.itemsize(storage)),
            conditional_blocks=limits.conditional_blocks,
            parts=parts,
        )
    outputs = math.prod(geometry.out_shape)
    offset = convolution.forward_offset(limits)
    kernel = specialise(
        "forward", semifield, storage, geometry, offset, residual, slopes=convolution.slopes
    )
    scalars = (plane, np.int64(outputs), *ALWAYS)
    return ForwardLaunch(
        kernel=compiled(device, kernel_source, kernel),
        grid=(blocks_for(outputs),),
        block=(BLOCK_THREADS,),
        struct=convolution.struct,
        scalars=scalars,
        scalars_if_aligned=scalars,
        alignment=1,
        conditional_blocks=limits.conditional_blocks,
    )


def forward(
    device: Device,
    case: Case,
    img: Array,
    krn: Array,
    out: Array,
    residual: Array | None = None,
    method: str = "auto",
    limits: Limits = LIMITS,
) -> None:
    """Launch the forward kernel on the device's current stream.

    `out` and `residual` (None: not kept) are C-contiguous. `method` "auto" takes the tiled kernel
    where `forward_tile_of` finds a tile, "tiled" insists on it, "direct" never does.
    """
    if out.size == 0:
        return
    dtype = None if residual is None else residual.dtype
    strides = img.strides, krn.strides
    convolution = Convolution(*case[:3], dtype, *strides, *case[3:])
    launch = forward_launch(device, convolution, method, limits)
    launch(device.address(img), img, krn, out, residual)


def forward_at(
    device: Device,
    case: Case,
    img_strides: Strides,
    krn_strides: Strides,
    residual: Residual | None,
    method: str = "auto",
) -> Callable[..., None]:
    """`forward` by addresses on the current GPU: (img, krn, out, residual, stream).

    Strides are in elements; there is an output. `residual` describes the one that is kept.
    """
    dtype = None if residual is None else residual.dtype
    launch = forward_launch(device, Convolution.of(case, dtype, img_strides, krn_strides), method)

    def call(
        img: int,
        krn: int,
        out: int,
        residual: int | None,
        stream: Stream,
        parameters: structs.Parameters | None = None,
    ) -> None:
        launch(img, img, krn, out, residual, stream, parameters=parameters)

    return call
