"""The plan of ``kernels_cu/cuda/forward_tiled.cu``: which tile serves a forward launch.

Array-free. `forward_tile_of` takes the largest tile for the kind of work, and makes it smaller
until shared memory holds it and there are enough blocks for a large GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, CHUNK, LIMITS, Limits
from semiconv_cupy.backends.cuda.tiles import Tile, furthest_position, patch, planar, reach, shift
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import is_provenance


@dataclass(frozen=True)
class ForwardTile(Tile):
    """A tile of outputs, `CHUNK` in a thread's row.

    A block has the tiles of several planes of outputs where images are small (`teams`). Its taps
    pass in slabs: rows of taps of one plane, `depth` of them between two barriers, with a patch of
    the image for each in shared memory.
    """

    teams: int  # planes of outputs in a block
    depth: int  # slabs of taps between two barriers
    sides: int  # how many of the slabs' patches of the image shared memory holds
    slab: int  # rows of taps at a time

    def macros(self, geometry: Geometry) -> dict[str, str]:
        """The macros of kernels_cu/cuda/tile.cuh, place.cuh, patch.cuh and slab.cuh."""
        return super().macros(geometry) | {
            "SEMICONV_TEAMS": str(self.teams),
            "SEMICONV_DEPTH": str(self.depth),
            "SEMICONV_SIDES": str(self.sides),
            "SEMICONV_SLAB": str(self.slab),
            "SEMICONV_SHIFT": str(shift(geometry)),
            "SEMICONV_SKEW": str(self.skew(geometry)),
            "SEMICONV_WHOLE": str(int(self.teams > 1 and self.cover(geometry.out_size) == (1, 1))),
        }

    def once(self, geometry: Geometry) -> bool:
        """Whether a block copies all that it sees of the image before it computes."""
        return self.sides == 1 and self.slab == planar(geometry.kernel_size, 1)[0]

    @property
    def suffix(self) -> str:
        """Channels and rows of a thread."""
        return f"_{self.channels}x{self.rows}"

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.teams * self.threads_y * self.threads_x

    def channel_blocks(self, geometry: Geometry) -> int:
        """Blocks along the output channels of a group."""
        return -(-geometry.outputs_per_group // self.channels)

    def planes(self, geometry: Geometry) -> int:
        """Planes of outputs of a launch; a team computes one at a time."""
        return geometry.batch * geometry.groups * self.channel_blocks(geometry)

    def part_of_warp(self, geometry: Geometry) -> float:
        """The part of a warp's threads that are in teams with a plane of outputs."""
        teams = min(self.teams, max(1, self.planes(geometry)))
        return min(1.0, teams * self.threads_y * self.threads_x / 32)

    def grid(self, geometry: Geometry) -> int:
        """Blocks of a launch."""
        tiles = math.prod(self.cover(geometry.out_size)) * math.prod(geometry.out_size[:-2])
        return tiles * -(-self.planes(geometry) // self.teams)

    def warps(self, geometry: Geometry) -> int:
        """Warps of a launch."""
        return self.grid(geometry) * -(-self.threads // 32)

    def cost(self, geometry: Geometry) -> int:
        """What all lanes load and compute, also those without outputs.

        A thread of r rows loads each row of the image for all of them, and what lies around them: a
        row costs about 1 + 1/r.
        """
        return self.warps(geometry) * self.channels * (self.rows + 1)

    def division(self, geometry: Geometry) -> np.void:
        """The struct Division of kernels_cu/cuda/place.cuh."""
        tiles_y, tiles_x = self.cover(geometry.out_size)
        numbers = (tiles_x, tiles_y, self.channel_blocks(geometry), geometry.groups)
        return structs.Division(*map(structs.Divisor.of, numbers)).scalar()

    def patch(self, geometry: Geometry) -> tuple[int, int]:
        """Rows and columns of the image that a tile sees by a slab, columns in whole chunks."""
        return patch(self.size, self.slab, geometry)

    def skew(self, geometry: Geometry) -> int:
        """Chunks left out of a patch between threads above each other (cuda/slab.cuh)."""
        stride_y, stride_x = planar(geometry.stride, 1)
        banks = 32 // CHUNK
        abreast = self.threads_x * stride_x  # chunks from a row of threads to the next
        one_row = self.teams == 1 or self.threads_y == 1 or self.threads_x >= banks
        height, width = self.patch(geometry)
        if one_row or abreast > banks or height > 255 or not self.once(geometry):
            return 0
        if abreast == banks:  # of stride 2: every other chunk is free
            abreast = 1
        return (abreast - self.rows * stride_y * width // CHUNK) % banks

    def shared_bytes(self, geometry: Geometry, storage: str) -> int:
        """Shared memory of a block: patches of the image, and the weights of their slabs."""
        columns = geometry.kernel_size[-1]
        weights = self.slab * -(-columns * self.channels // CHUNK) * CHUNK
        itemsize = source.itemsize(storage)  # short weights are widened
        height, width = self.patch(geometry)
        skewed = (height - 1) // (self.rows * planar(geometry.stride, 1)[0]) * self.skew(geometry)
        each = (height * width + skewed * CHUNK) * itemsize + weights * max(itemsize, 4)
        return self.sides * self.depth * self.teams * each

    def shrunk_to_shared_memory(
        self, geometry: Geometry, storage: str, limits: Limits
    ) -> ForwardTile | None:
        """The same with slabs that shared memory suffices for; None where they get too low."""
        height = self.slab
        most = 1 if self.depth * self.teams > 1 else -(-height // limits.slab_rows)
        for slabs in range(1, most + 1):
            tile = replace(self, slab=-(-height // slabs))
            if tile.shared_bytes(geometry, storage) <= limits.shared_bytes:
                return tile
        return None

    def shrunk_to_more_blocks(self, geometry: Geometry, limits: Limits) -> ForwardTile:
        """The same, or a small tile where there would be too few warps for a large GPU."""
        if self.warps(geometry) >= limits.warps:
            return self
        return replace(
            self,
            channels=min(self.channels, 2),
            rows=1,
            threads_y=min(self.threads_y, max(1, limits.threads // self.threads_x)),
            teams=min(self.teams, _least_teams(self.threads_y * self.threads_x, limits)),
        )

    def parts(self, geometry: Geometry, limits: Limits) -> int:
        """Blocks that share the slabs of a tile: several where few tiles have many slabs."""
        slabs = -(-planar(geometry.kernel_size, 1)[0] // self.slab)
        if slabs == 1:
            return 1
        slabs *= geometry.in_channels * math.prod(geometry.kernel_size[:-2])
        return max(1, min(slabs // limits.part_slabs, limits.part_warps // self.warps(geometry)))

    def reach(
        self, geometry: Geometry, img_strides: tuple[int, ...], krn_strides: tuple[int, ...]
    ) -> int:
        """Elements that a patch of the image spans, or the weights of a plane.

        Strides are in elements.
        """
        axes = min(2, geometry.rank)
        weights = (self.channels, *geometry.kernel_size[-axes:])
        return max(
            reach(self.patch(geometry)[-axes:], img_strides[-axes:]),
            reach(weights, (krn_strides[0], *krn_strides[-axes:])),
        )


@lru_cache(maxsize=4096)
def forward_tile_of(
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    residual: np.dtype | None,
    limits: Limits = LIMITS,
) -> ForwardTile | None:
    """The tile for a forward launch, None where only `direct` serves.

    The largest tiles, as channels x rows x columns of a thread, in float32. Channels mix where
    four or more outputs of a group see the same inputs; other work is bound by memory.

                        max, min     with its winners           sum         log, root
        channels mix    8 x 2 x 4    4 x 2 x 4                  8 x 1 x 4   2 x 1 x 4
        else            1 x 8 x 4    1 x 4 x 4                  1 x 1 x 4   1 x 1 x 4
                        (1 x 4 x 4   (1 x 8 x 4 up to 9 taps
                        from 226     in one plane)
                        taps on)

    Doubles take twice the registers, so that a thread holds fewer of them. Small images and short
    signals get tiles of about their size, several to a block, by threads of four or seven rows
    where there are many (`limits.small_rows`); where few outputs would leave a large GPU idle, and
    `limits.filled` is not 0, threads hold fewer. Large windows are cut into slabs of rows of taps.

    Sides of threads are of few sizes, so that few kernels serve all images; others are taken where
    that leaves many lanes idle.
    """
    if not _has_kernel(semifield, storage, geometry, residual):
        return None
    case = semifield, storage, geometry, residual, limits
    usual, fitting = (_tile_of(*case, fits=fits) for fits in (False, True))
    if usual is None or fitting is None:
        return usual or fitting
    return fitting if fitting.cost(geometry) < _GAIN * usual.cost(geometry) else usual


def _tile_of(
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    residual: np.dtype | None,
    limits: Limits,
    *,
    fits: bool,
) -> ForwardTile | None:
    """The tile of usual sides, or (`fits`) of such as leave few lanes idle."""
    largest, resident = _largest(semifield, storage, geometry, residual, limits, fits=fits)
    tile = _shrunk(largest, geometry, storage, limits)
    if tile is None:
        return None
    if limits.filled and tile.parts(geometry, limits) == 1:
        small = tile.shrunk_to_more_blocks(geometry, limits)
        if small.shared_bytes(geometry, storage) <= limits.shared_bytes:
            tile = small  # the skew of its patches may be larger
    room = limits.shared_bytes_of_multiprocessor // (tile.shared_bytes(geometry, storage) + 1024)
    warps = -(-tile.threads // 32)
    tile = replace(tile, resident_blocks=max(1, min(resident // (32 * warps), room)))
    if not tile.is_filled(geometry.out_size, limits.filled / tile.part_of_warp(geometry)):
        return None
    if limits.filled and 32 * warps < limits.threads:
        return None
    near = furthest_position(geometry) < 2**30
    return tile if near and tile.grid(geometry) * tile.teams < 2**31 else None


def _has_kernel(
    semifield: Semifield, storage: str, geometry: Geometry, residual: np.dtype | None
) -> bool:
    """Whether forward_tiled.cu computes this at all."""
    integer = storage not in source.FLOATING
    tests_border = semifield.unbound is semifield and semifield.traits("floating").is_arithmetic
    if semifield.channels_add or not (integer or semifield.absorbing or tests_border):
        return False
    if integer and residual is not None and not is_provenance(semifield):
        return False
    return max(geometry.stride[-2:]) <= 2


def _registers(semifield: Semifield, storage: str, residual: np.dtype | None) -> int:
    """Registers that tiles plan for one output's accumulator, in words of 32 bits.

    A selection alone takes 1, with its provenance 2, a compensated sum 3. An addition of the
    user's own keeps 1 number, and computes with more. log and root count as 4, although they
    declare 5 and 7 numbers (kernels_cu/accumulators).
    """
    kept = {"select": 1 if residual is None else 2, "custom": 2, "sum": 3}
    count = kept.get(semifield.accumulator, 4)
    count *= 2 if source.itemsize(storage) == 8 else 1
    if storage not in source.FLOATING and source.itemsize(storage) >= 4 and count > 1:
        count += 1  # sums that saturate
    return count


def _least_teams(threads: int, limits: Limits) -> int:
    """Teams of so many threads that have the warps of `limits.threads`, with few lanes idle."""
    some = limits.threads // threads or 1, -(-limits.threads // threads)
    return min(some, key=lambda teams: -(-teams * threads // 32) / teams)


_SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
_GAIN = 0.9  # another tile than the usual one is taken where it costs less than this part


def _side(needed: int, most: int) -> int:
    """Threads along a side of many small planes: few are idle, and most planes are whole warps."""
    return min(next(side for side in (*_SIDES, needed) if side >= needed), most)


def _fitting(needed: int, most: int) -> int:
    """Threads along a side, a fifth idle at most, so that a kernel serves several sizes."""
    step = 1 << max(0, (needed - 1).bit_length() - 3)
    return min(-(-needed // step) * step, most)


def _of_signals(width: int) -> int:
    """Threads along a signal: of all, or whole warps, so that few lie beyond its end."""
    needed = -(-width // CHUNK)
    if needed <= 64:
        return _fitting(needed, BLOCK_THREADS)
    return min(range(BLOCK_THREADS, 63, -32), key=lambda threads: -(-needed // threads) * threads)


def _of_planes(size: tuple[int, int], rows: int, block: int) -> tuple[int, int, int]:
    """Rows of a thread, threads along y and x, for planes of more than 32 columns."""
    height, width = size

    def threads(rows: int, abreast: int) -> tuple[int, int, int]:
        above = _fitting(-(-height // rows), block // abreast)
        longer = abreast == 32 and width > 128 and 2 * above * abreast <= block
        return rows, above, 64 if longer else abreast

    def cost(tile: tuple[int, int, int]) -> float:
        rows, above, abreast = tile
        tiles = -(-height // (rows * above)) * -(-width // (CHUNK * abreast))
        lanes = above * abreast
        if lanes > 32:  # else other planes fill the warp
            lanes = -(-lanes // 32) * 32
        return tiles * lanes * (rows + 1)

    halves = [rows >> n for n in range(rows.bit_length())]
    return min((threads(r, abreast) for r in halves for abreast in (32, 24, 16, 12)), key=cost)


def _usual_sides(
    size: tuple[int, int], rows: int, few: int, block: int, *, mixes: bool, flat: bool
) -> tuple[int, int, int, int]:
    """Rows of a thread, threads along y and x, and teams: sides of few sizes for all images."""
    height, width = size
    if flat or width > 32:
        needed = -(-width // CHUNK)
        threads_x = _side(needed, BLOCK_THREADS) if flat else 32 if width > 64 else 16
    else:
        threads_x, rows = _side(-(-width // CHUNK), 8), few
        block = BLOCK_THREADS if mixes else BLOCK_THREADS // 2
    threads_y = _side(-(-height // rows), block // threads_x)
    teams = block // (threads_y * threads_x)
    if not flat and width > 32:  # one team with longer rows
        threads_x *= 2 if teams > 1 and width > 128 else 1
        teams = 1
    return rows, threads_y, threads_x, teams


def _fitting_sides(
    size: tuple[int, int], rows: int, few: int, block: int, *, mixes: bool, flat: bool
) -> tuple[int, int, int, int]:
    """`_usual_sides`, by which few lanes are idle."""
    height, width = size
    if flat:
        threads_y, threads_x = 1, _of_signals(width)
    elif width > 32:
        rows, threads_y, threads_x = _of_planes(size, rows, block)
        if threads_y * threads_x > 32:
            return rows, threads_y, threads_x, 1
    else:
        rows, block = min(few, height), BLOCK_THREADS if mixes else BLOCK_THREADS // 2
        threads_x = _fitting(-(-width // CHUNK), 8)
        threads_y = _fitting(-(-height // rows), block // threads_x)
    return rows, threads_y, threads_x, block // (threads_y * threads_x)


def _rows_of_many(storage: str, geometry: Geometry, threads_x: int, limits: Limits) -> int | None:
    """Rows of a thread where many planes of at most 32 columns are read at once; None of few.

    The fewest, or more where threads of so many cover a plane with less beyond it, in more than one
    row of threads: those beside each other read the same banks of shared memory otherwise.
    """
    height = geometry.out_size[-2]
    fewest, *more = limits.small_rows if max(geometry.stride[-2:]) == 1 else limits.small_rows[:1]

    def threads_y(rows: int) -> int:
        return _side(-(-height // rows), BLOCK_THREADS)

    several = (fewest, *(rows for rows in more if threads_y(rows) > 1))
    rows = min(several, key=lambda rows: threads_y(rows) * rows)
    threads = geometry.batch * geometry.groups * threads_y(rows) * threads_x
    floats = storage in source.FLOATING and source.itemsize(storage) <= 4
    return rows if floats and threads >= 32 * limits.warps else None


def _resident(storage: str, tile: ForwardTile, taps: int, registers: int) -> int:
    """Threads to be resident of work that mixes no channels and keeps few registers."""
    itemsize = source.itemsize(storage)
    if tile.teams > 1 and registers == 2 and (tile.rows > 4 or itemsize == 8):
        return 384 if itemsize == 2 else 640 if itemsize == 4 else 512
    if tile.teams > 1 and registers == 1 and itemsize == 4:
        return 768
    return 768 if 9 < taps <= 25 else 640 if tile.teams > 1 else 512


def _largest(
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    residual: np.dtype | None,
    limits: Limits,
    *,
    fits: bool,
) -> tuple[ForwardTile, int]:
    """The tile that is fastest where nothing limits it, and how many threads are to be resident.

    More threads of a multiprocessor hide memory better, and have fewer registers each.
    """
    registers = _registers(semifield, storage, residual)
    mixes, flat = geometry.outputs_per_group >= 4, geometry.rank == 1
    mixes_sums = mixes and semifield.accumulator == "sum" and registers == 3
    channels = 8 if mixes_sums else max(1, 8 // registers) if mixes else 1
    rows = (2 if mixes else 4) // (1 if registers < 3 else registers)
    taps = math.prod(geometry.kernel_size[-2:])
    planes = geometry.in_channels * math.prod(geometry.kernel_size[:-2])
    tall_taps = {1: 225, 2: 0 if storage not in source.FLOATING or planes > 1 else 9}
    tall = not mixes and taps <= tall_taps.get(registers, 0)
    rows = 1 if flat else 8 if tall else max(1, rows)
    depth = 2 if mixes and geometry.rank < 3 and geometry.in_channels > 1 else 1
    height, width = planar(geometry.out_size, 1)
    block = BLOCK_THREADS // 2 if not flat and (tall or mixes_sums) else BLOCK_THREADS
    few = min(rows, 2 if mixes or max(geometry.stride[-2:]) > 1 else 4)
    if tall and planes == 1 and width <= 32 and not flat:
        few = _rows_of_many(storage, geometry, _side(-(-width // CHUNK), 8), limits) or few
    sides_of = _fitting_sides if fits else _usual_sides
    rows, threads_y, threads_x, teams = sides_of(
        (height, width), rows, few, block, mixes=mixes, flat=flat
    )
    planes_of_outputs = (
        geometry.batch * geometry.groups * -(-geometry.outputs_per_group // channels)
    )
    least = _least_teams(threads_y * threads_x, limits)
    teams = max(1, min(teams, max(1 << (planes_of_outputs - 1).bit_length(), least)))
    sides = 1 if 0 < planes <= depth else 2  # a kernel of one side knows that there is a plane
    tile = ForwardTile(
        channels=channels,
        rows=rows,
        columns=CHUNK,
        threads_y=threads_y,
        threads_x=threads_x,
        resident_blocks=1,
        teams=teams,
        depth=depth,
        sides=sides,
        slab=planar(geometry.kernel_size, 1)[0],
    )
    resident = 384 if mixes_sums else 512
    of_any_kind = semifield.accumulator == "root" and not semifield.nature
    if registers >= 8 or of_any_kind or (mixes and semifield.own):
        # Doubles, or p of an array, in log and root; parameters of several channels: none spills.
        resident = 256
    if not mixes and registers <= 2:
        resident = _resident(storage, tile, taps, registers)
    return tile, resident


def _shrunk(
    tile: ForwardTile, geometry: Geometry, storage: str, limits: Limits
) -> ForwardTile | None:
    """The tile with fewer slabs, planes, rows or threads at a time, until shared memory holds it.

    None where the smallest is too large.
    """
    while (found := tile.shrunk_to_shared_memory(geometry, storage, limits)) is None:
        if tile.depth > 1:
            tile = replace(tile, depth=1, sides=2)
        elif tile.teams > 1:
            tile = replace(tile, teams=tile.teams // 2)
        elif tile.rows > 1:
            tile = replace(tile, rows=tile.rows // 2)
        elif tile.threads_y > 4:
            tile = replace(tile, threads_y=tile.threads_y // 2)
        else:
            return None
    return found
