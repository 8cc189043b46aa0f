"""The plan of ``kernels_cu/cuda/grad_tiled.cu``: which tile of the image serves its gradients.

Array-free. A tile of the image owns its elements' gradients, so that nothing is added up across
blocks; the outputs that see it, with what is known of each, lie in shared memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, CHUNK, LIMITS, Limits
from semiconv_cupy.backends.cuda.tiles import Partition, Tile, furthest_position, planar
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import is_provenance

_PLANES_AHEAD = 4  # twin of `ahead` in cuda/grad_patch.cuh


@dataclass(frozen=True)
class GradientTile(Tile):
    """A tile of the image and the gradients that it serves; macros of cuda/grad_tiled.cu."""

    wants_img: bool
    wants_krn: bool
    slab: int  # rows of the window that a block serves
    phase_y: int  # the padding before the image, modulo the stride
    phase_x: int
    light: bool  # whether so few registers are taken that `limits.light_threads` are resident

    def macros(self, geometry: Geometry) -> dict[str, str]:
        """The macros of kernels_cu/cuda/grad_tiled.cu."""
        return super().macros(geometry) | {
            "SEMICONV_WANTS_IMG": str(int(self.wants_img)),
            "SEMICONV_WANTS_KRN": str(int(self.wants_krn)),
            "SEMICONV_SLAB": str(self.slab),
            "SEMICONV_PHASE_Y": str(self.phase_y),
            "SEMICONV_PHASE_X": str(self.phase_x),
            "SEMICONV_WHOLE": str(int(self.is_whole(geometry))),
        }

    def is_whole(self, geometry: Geometry) -> bool:
        """Whether a tile holds the last two axes of the image, and those of outputs are short."""
        near = max(geometry.out_size[-2:]) < 2**15  # places of outputs have 31 bits
        return near and self.cover(geometry.image_size) == (1, 1)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.threads_y * self.threads_x

    def partition(self, geometry: Geometry, limits: Limits) -> Partition:
        """How blocks share the tiles of the image."""
        outer = math.prod(geometry.kernel_size[:-2])
        jobs = math.prod(self.cover(geometry.image_size)) * math.prod(geometry.image_size[:-2])
        jobs *= geometry.batch
        if not self.wants_krn:
            owners = geometry.groups * -(-geometry.in_channels // self.channels)
            return Partition(owners, jobs, jobs)
        slabs = -(-planar(geometry.kernel_size, 1)[0] // self.slab)
        owners = geometry.kernels * geometry.in_channels * outer * slabs
        jobs *= geometry.groups if geometry.shares_kernels else 1
        parts = max(-(-limits.full_blocks // owners), -(-jobs // limits.jobs))
        at_once = limits.multiprocessors * (limits.light_threads // self.threads)
        wave = at_once // owners
        if self.light and self.is_whole(geometry) and owners * wave > 0.8 * at_once:
            # A large GPU holds the blocks of a wave at once: a few more would double the time.
            parts = wave * -(-jobs // (wave * limits.jobs))
        parts = min(parts, jobs)
        return Partition(owners, -(-jobs // -(-jobs // parts)), jobs)

    def patch_bytes(self, geometry: Geometry, output: int) -> int:
        """Shared memory for the outputs that see a tile, `output` bytes each."""
        size, stride, dilation = (
            planar(values, 1)
            for values in (geometry.kernel_size, geometry.stride, geometry.dilation)
        )
        steps = (self.slab, size[1])
        height, width = (
            t // s + (k - 1) * d // s + 2
            for t, s, k, d in zip(self.size, stride, steps, dilation, strict=True)
        )
        weights_and_sums = 16 * math.prod(size) + 2304
        return height * (width // 4 * 4 + 8) * output + weights_and_sums

    def shared_bytes(self, geometry: Geometry, storage: str, residual: np.dtype | None) -> int:
        """Shared memory of a block: the outputs that see a tile, and bins of channels."""
        real = np.dtype(source.ARITHMETIC[storage]).itemsize
        # Bytes of an output: its gradient, and its provenance or its weight.
        output = 3 * real if residual is None else real + residual.itemsize
        if self.channels == 1:
            return self.patch_bytes(geometry, output)
        bins = self.channels * self.threads_y * self.threads_x * real
        return self.patch_bytes(geometry, _PLANES_AHEAD * (real + 4)) + bins


def gradient_tile_of(
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    residual: np.dtype | None,
    wants: tuple[bool, bool],
    limits: Limits = LIMITS,
) -> GradientTile | None:
    """The tile for a launch of these gradients, None where no single tile computes them.

    `wants` says which of the gradients of img and krn are computed. The image's gradient adds over
    all planes of taps, the kernel's owns one: together they go where there is one (depthwise work).
    The kernel's gradient from a provenance is computed by grad_bins.cu, unless the image's gradient
    takes the same tile anyway.
    """
    slab = _slab(semifield, storage, geometry, wants, limits)
    if slab is None:
        return None
    tile = _largest(semifield, storage, geometry, wants, slab)
    read = residual if is_provenance(semifield) else None  # the residual in shared memory
    while tile.shared_bytes(geometry, storage, read) > limits.shared_bytes:
        if tile.rows > planar(geometry.stride, 1)[0]:
            tile = replace(tile, rows=tile.rows // 2)
        elif tile.threads % 64 == 0 and tile.threads_y % 2 == 0:  # warps stay whole
            tile = replace(tile, threads_y=tile.threads_y // 2)
        else:
            return None
    if not tile.is_filled(geometry.image_size, limits.filled):
        return None
    if tile.light:
        resident = max(tile.resident_blocks, limits.light_threads // tile.threads)
        tile = replace(tile, resident_blocks=resident)
    owners, parts, jobs = tile.partition(geometry, limits)
    far = max(furthest_position(geometry), *geometry.image_size)
    return tile if max(owners * parts, jobs) < 2**31 and far < 2**30 else None


def _slab(
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    wants: tuple[bool, bool],
    limits: Limits,
) -> int | None:
    """Rows of the window that a block serves; None where no tile serves these gradients."""
    wants_img, wants_krn = wants
    size_y, size_x = planar(geometry.kernel_size, 1)
    strides = planar(geometry.stride, 1)
    if storage not in source.FLOATING or max(strides) > 4 or 3 in strides:
        return None
    if (size_x - 1) * geometry.dilation[-1] >= limits.line_in_registers:
        return None
    if min(geometry.img_shape) == 0:
        return None
    if not wants_krn:
        return size_y
    slab = size_y
    if slab * size_x > limits.taps_in_registers:
        slab = max(1, limits.taps_in_registers // size_x // strides[0]) * strides[0]
    if slab * size_x > 2 * limits.line_in_registers:
        return None
    planes = geometry.outputs_per_group * math.prod(geometry.kernel_size[:-2])
    if wants_img and (planes > 1 or slab < size_y):
        return None
    if is_provenance(semifield) and (planes * geometry.in_channels > 1 or not wants_img):
        return None
    return slab


_GAIN = 0.75  # another tile than the usual one is taken where it costs less than this part


def _with_fewer_idle(
    size: tuple[int, int], usual: tuple[int, int, int], stride_y: int, most: int
) -> tuple[int, int, int]:
    """Rows of a thread, threads along y and x: the usual ones, or such as leave few idle.

    Whole warps, as they add up by shuffles. A row of a thread of r rows costs about 1 + 1/r, as in
    the forward pass.
    """
    height, width = size

    def cost(tile: tuple[int, int, int]) -> float:
        rows, above, abreast = tile
        tiles = -(-height // (rows * above)) * -(-width // (CHUNK * abreast))
        return tiles * above * abreast * (rows + 1)

    def tiles() -> Iterator[tuple[int, int, int]]:
        rows, _, _ = usual
        while rows % stride_y == 0 and rows > 0:
            for abreast in (*range(most, 31, -32), 24, 16, 12, 8, 4, 2):
                step = 32 // math.gcd(32, abreast)
                above = min(-(-height // (rows * step)), most // (abreast * step)) * step
                if above and (height > 1 or above == 1) and (height == 1 or abreast <= 32):
                    yield rows, above, abreast
            rows //= 2

    best = min(tiles(), key=cost, default=usual)
    return best if cost(best) < _GAIN * cost(usual) else usual


def _largest(
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    wants: tuple[bool, bool],
    slab: int,
) -> GradientTile:
    """The tile that is fastest where shared memory does not limit it.

    Selections cost two instructions a term and hold many elements; weights (exp) hold few. With
    many channels, a thread has one element and a bin for each in shared memory.
    """
    stride_y, stride_x = planar(geometry.stride, 1)
    height, width = planar(geometry.image_size, 1)
    selects = is_provenance(semifield)
    real = np.dtype(source.ARITHMETIC[storage]).itemsize
    channels, rows, columns = 1, max(1 if not selects else 4 if real == 4 else 2, stride_y), 4
    mixes = selects and geometry.in_channels > 1 and not semifield.channels_add
    plain = max(stride_y, stride_x) == 1 and math.prod(geometry.kernel_size) < 2**16
    if mixes and semifield.d_times_constant and plain:
        channels = min(2 ** (geometry.in_channels - 1).bit_length(), 256 // real)
        rows, columns = 1, 1
    threads = BLOCK_THREADS if selects and channels == 1 else BLOCK_THREADS // 2
    threads_x = threads
    while threads_x > (threads if geometry.rank == 1 else 32) or threads_x * columns // 2 >= width:
        if threads_x == 4:
            break
        threads_x //= 2
    threads_y = threads // threads_x
    if geometry.rank == 1:
        rows, threads_y = 1, 1
        threads_x = max(threads_x, 32)
    while threads_y > 1 and threads_y * rows // 2 >= height and threads_y * threads_x > 32:
        threads_y //= 2
    while rows > max(1, stride_y) and rows % (2 * stride_y) == 0 and threads_y * rows >= 2 * height:
        rows //= 2
    if channels == 1:
        usual = rows, threads_y, threads_x
        rows, threads_y, threads_x = _with_fewer_idle((height, width), usual, stride_y, threads)
    phase_y = geometry.pad_begin[-2] % stride_y if geometry.rank > 1 else 0
    phase_x = geometry.pad_begin[-1] % (4 * stride_x)
    wants_img, wants_krn = wants
    resident = 3 if real == 4 else 2
    if selects and real == 4 and channels == 1:
        resident = max(resident, 512 // (threads_y * threads_x))
    square = geometry.rank > 1 and all(1 < k <= 3 for k in geometry.kernel_size[-2:])
    few = real == 4 and semifield.d_times_constant and square
    return GradientTile(
        channels=channels,
        rows=rows,
        columns=columns,
        threads_y=threads_y,
        threads_x=threads_x,
        resident_blocks=resident,
        wants_img=wants_img,
        wants_krn=wants_krn,
        slab=slab,
        phase_y=phase_y,
        phase_x=phase_x,
        light=selects and wants_krn and few,
    )
