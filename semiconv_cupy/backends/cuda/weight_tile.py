"""The plan of ``kernels_cu/cuda/grad_weights.cu``: the kernel's gradient of sums that mix channels.

Array-free. For each tap it is a matrix product: grad_out (outputs x pixels) times the part of the
image that the tap sees (pixels x inputs). One load from shared memory feeds many multiply-adds.

    a team of lanes_out x lanes_in threads        a thread: channels x inputs weights,
                 input channels                   slab x columns-of-the-window taps of each,
              +----+----+----+----+               all of them sums in registers
      output  |    |    |    |    |
     channels +----+----+----+----+               threads_y x threads_x teams share a tile's
              |    |    |    |    |               outputs, and add up what they have in the end
              +----+----+----+----+
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.cuda.limits import CHUNK, LIMITS, Limits
from semiconv_cupy.backends.cuda.tiles import (
    Partition,
    Tile,
    furthest_position,
    patch,
    planar,
    shift,
)
from semiconv_cupy.geometry import Geometry

_SHARE_BYTES = 128  # the most bytes of shared memory that say which jobs a block has


@dataclass(frozen=True)
class WeightTile(Tile):
    """A tile of outputs whose terms a block adds for many weights; macros of cuda/grad_weights.cu.

    `threads_y` and `threads_x` count teams of threads, which share the tile.
    """

    lanes_out: int  # threads of a team along output and input channels
    lanes_in: int
    inputs: int  # input channels of a thread
    slab: int  # rows of the window that a block serves

    def macros(self, geometry: Geometry) -> dict[str, str]:
        """The macros of kernels_cu/cuda/tile.cuh, place.cuh, patch.cuh and grad_weights.cu."""
        return super().macros(geometry) | {
            "SEMICONV_TEAMS": "1",
            "SEMICONV_WHOLE": "0",
            "SEMICONV_DEPTH": "1",
            "SEMICONV_SIDES": "2",
            "SEMICONV_SHIFT": str(shift(geometry)),
            "SEMICONV_LANES_OUT": str(self.lanes_out),
            "SEMICONV_LANES_IN": str(self.lanes_in),
            "SEMICONV_INPUTS": str(self.inputs),
            "SEMICONV_SLAB": str(self.slab),
        }

    @property
    def suffix(self) -> str:
        """Output and input channels of a thread."""
        return f"_{self.channels}x{self.inputs}"

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.lanes_out * self.lanes_in * self.threads_y * self.threads_x

    def cover(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Tiles along the last two axes of that size; a signal is folded into a tile's rows."""
        if len(size) == 1:
            return 1, -(-size[0] // math.prod(self.size))
        return super().cover(size)

    def partition(self, geometry: Geometry, limits: Limits) -> Partition:
        """How blocks share the tiles of outputs."""
        jobs = math.prod(self.cover(geometry.out_size)) * geometry.batch
        owners = (
            -(-geometry.outputs_per_group // (self.channels * self.lanes_out))
            * -(-geometry.in_channels // (self.inputs * self.lanes_in))
            * -(-planar(geometry.kernel_size, 1)[0] // self.slab)
        )
        if geometry.shares_kernels:
            jobs *= geometry.groups
        else:
            owners *= geometry.groups
        # Partial sums take memory: only as many blocks as keep a GPU busy, however many jobs.
        parts = min(-(-jobs // self.jobs_at_once(limits)), -(-2 * limits.busy_blocks // owners))
        return Partition(owners, min(max(parts, -(-limits.busy_blocks // owners)), jobs), jobs)

    def jobs_at_once(self, limits: Limits) -> int:
        """Tiles whose terms a thread adds plainly, before they are added to a partial sum."""
        return max(1, limits.terms // (self.rows * self.columns))

    def patch(self, geometry: Geometry) -> tuple[int, int]:
        """Rows and columns of the image that a tile sees by a slab, columns in whole chunks."""
        return patch(self.size, self.slab, geometry)

    def reach(self, geometry: Geometry, img_strides: tuple[int, ...]) -> int:
        """Elements that a tile's patch of the image spans, or its outputs.

        Strides are in elements.
        """
        height, width = self.patch(geometry)
        along_y, along_x = planar(img_strides[2:], 0)
        columns = width if geometry.rank > 1 else width + height * self.size[1]
        image = height * abs(along_y) + columns * geometry.stride[-1] * abs(along_x)
        return max(image, self.size[0] * geometry.out_size[-1])

    def shared_bytes(self, geometry: Geometry, storage: str) -> int:
        """Shared memory of a block: grad_out and image of two tiles, or the sums of all teams."""
        height, width = self.patch(geometry)
        grad_out, image = ((n // CHUNK | 1) * CHUNK for n in (math.prod(self.size), height * width))
        stage = self.channels * self.lanes_out * grad_out + self.inputs * self.lanes_in * image
        sums = self.inputs * self.slab * geometry.kernel_size[-1] * self.threads
        numbers = max(2 * stage, sums)
        return numbers * np.dtype(source.ARITHMETIC[storage]).itemsize + _SHARE_BYTES


def mixes_sums(semifield: Semifield, geometry: Geometry, least: int) -> bool:
    """Whether this is the ordinary convolution of at least `least` channels on both sides."""
    few = min(geometry.outputs_per_group, geometry.in_channels)
    return few >= least and semifield.traits("floating").is_ordinary


def weight_tile_of(
    semifield: Semifield, storage: str, geometry: Geometry, limits: Limits = LIMITS
) -> WeightTile | None:
    """The tile for the kernel's gradient of an ordinary sum that mixes channels, None elsewhere.

    A thread holds up to 72 sums (half as many doubles): 8 output channels of a 3x3 window. Rows of
    a window's taps are cut into slabs where their line of the image would not fit beside them.
    """
    if storage not in source.FLOATING or geometry.rank > 2:
        return None
    if not mixes_sums(semifield, geometry, limits.mixed_channels):
        return None
    if max(furthest_position(geometry), *geometry.image_size, 0) >= 2**30:
        return None
    largest = _largest(storage, geometry, limits)
    if largest is None:
        return None
    for tile in _ever_smaller(largest):
        if tile.shared_bytes(geometry, storage) <= limits.shared_bytes:
            owners, parts, jobs = tile.partition(geometry, limits)
            return tile if max(owners * parts, jobs) < 2**31 else None
    return None


def _largest(storage: str, geometry: Geometry, limits: Limits) -> WeightTile | None:
    """The tile that registers suffice for; None where a window's row is too wide for them."""
    size_y, size_x = planar(geometry.kernel_size, 1)
    line = (CHUNK - 1) * geometry.stride[-1] + (size_x - 1) * geometry.dilation[-1] + 1
    words = np.dtype(source.ARITHMETIC[storage]).itemsize // 4
    most_sums = limits.sums_in_registers // words
    if source.itemsize(storage) == 2:  # copies pass through registers, too
        most_sums //= 2
    most = min(most_sums // size_x, limits.image_in_registers // words // line)
    if most < 1:
        return None
    slab = -(-size_y // -(-size_y // most))
    lanes_in = min(16, max(4, 1 << (geometry.in_channels - 1).bit_length()))
    lanes_out = 32 // lanes_in
    channels = min(8, most_sums // (slab * size_x), -(-geometry.outputs_per_group // lanes_out))
    inputs = 1
    while (
        inputs * lanes_in < geometry.in_channels
        and 2 * inputs * channels * slab * size_x <= most_sums
        and 2 * inputs * slab * (channels * size_x + line) <= limits.channels_in_registers // words
    ):
        inputs *= 2
    width = geometry.out_size[-1]
    teams_x = 8 if geometry.rank == 1 or width > 16 else 4 if width > 8 else 2
    return WeightTile(
        channels=channels,
        rows=4,
        columns=CHUNK,
        threads_y=8 // teams_x,
        threads_x=teams_x,
        resident_blocks=2,
        lanes_out=lanes_out,
        lanes_in=lanes_in,
        inputs=inputs,
        slab=slab,
    )


def _ever_smaller(tile: WeightTile) -> Iterator[WeightTile]:
    """The tile, then tiles with fewer rows, then fewer inputs, then fewer channels of a thread."""
    yield tile
    while tile.rows > 1:
        yield (tile := replace(tile, rows=tile.rows // 2))
    while tile.inputs > 1:
        yield (tile := replace(tile, inputs=tile.inputs // 2))
    while tile.channels > 2:
        yield (tile := replace(tile, channels=tile.channels // 2))
