"""Tiles of a matrix product's outputs: their shapes, and which one is fastest for a product.

Array-free: sizes in, numbers out. The kernel's side is ``kernels_cu/cuda/product_tile.cuh``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.cuda.limits import LIMITS, Limits


@dataclass(frozen=True)
class ProductTile:
    """What a thread computes, the threads of a tile, and how its terms are shared."""

    rows: int
    columns: int
    threads_y: int
    threads_x: int
    teams: int  # teams of a block; each adds a part of the terms
    depth: int  # terms of a team between two barriers
    resident_blocks: int  # blocks of a multiprocessor that the registers must suffice for

    @property
    def macros(self) -> dict[str, str]:
        """The macros of kernels_cu/cuda/product_tile.cuh that say so."""
        return {
            "SEMICONV_ROWS": str(self.rows),
            "SEMICONV_COLUMNS": str(self.columns),
            "SEMICONV_THREADS_Y": str(self.threads_y),
            "SEMICONV_THREADS_X": str(self.threads_x),
            "SEMICONV_TEAMS": str(self.teams),
            "SEMICONV_DEPTH": str(self.depth),
            "SEMICONV_BLOCKS": str(self.resident_blocks),
        }

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a tile."""
        return self.rows * self.threads_y, self.columns * self.threads_x

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.threads_y * self.threads_x * self.teams

    @property
    def is_wide(self) -> bool:
        """Whether it is for matrices of few rows."""
        return self.threads_x > 32

    def shared_bytes(self, number: int) -> int:
        """Shared memory of a block for numbers of that many bytes, with offsets of 64 bits."""
        rows, columns = self.size
        panels = 2 * self.teams * self.depth * (rows + columns + 8) * number
        return panels + 2 * self.teams * self.depth * 16 + 16 * (rows + columns)

    def fitted(self, number: int, limits: Limits) -> ProductTile | None:
        """This tile with as many teams as there is shared memory for; None where there is none."""
        tile = self
        while tile.shared_bytes(number) > limits.shared_bytes:
            if tile.teams == 1:
                return None
            tile = replace(tile, teams=tile.teams // 2)
        return tile

    def cover(self, rows: int, columns: int) -> tuple[int, int]:
        """Tiles along rows and columns of a matrix of that size."""
        return -(-rows // self.size[0]), -(-columns // self.size[1])


def words_of_output(semifield: Semifield, *, keeps_residual: bool, slopes: bool = False) -> int:
    """Numbers of arithmetic that the accumulator of one output holds (kernels_cu/accumulators)."""
    if semifield.accumulator == "select":
        return 1 if not keeps_residual else 3 if semifield.spread_gradient else 2
    more = 9 if slopes else 0  # with_slope.cuh: three sums
    return {"sum": 3, "log": 5, "root": 7}.get(semifield.accumulator, 1) + more


def _tiles(words: int, *, slopes: bool) -> Iterator[ProductTile]:
    """Tiles for outputs of so many 32-bit words, from the largest to the thinnest.

    Registers: 64 words of outputs and 40 others are two blocks of 256 threads; 96 words are three
    blocks of 128. A tile of fewer threads shares its terms among teams, so that a block has as many
    threads: a multiprocessor needs 8 warps or more to be busy. Wide tiles are for few rows: they
    read each column once or twice. Accumulators with slopes are too large for shared memory,
    through which teams join.
    """
    if slopes:
        yield ProductTile(2, 2, 8, 16, 1, 8, 2)
    elif words == 1:
        yield ProductTile(8, 8, 16, 16, 1, 16, 2)
        yield ProductTile(8, 8, 8, 8, 4, 8, 2)
        yield ProductTile(8, 8, 8, 8, 2, 8, 4)
        yield ProductTile(8, 8, 8, 8, 1, 8, 6)
        yield ProductTile(8, 4, 4, 8, 8, 8, 2)
        yield ProductTile(4, 4, 1, 32, 8, 8, 2)
        yield ProductTile(8, 4, 1, 128, 1, 4, 4)
    elif words <= 3:
        yield ProductTile(8, 4, 8, 16, 1, 8, 3)
        yield ProductTile(8, 4, 4, 8, 4, 8, 3)
        yield ProductTile(4, 4, 1, 32, 4, 8, 3)
        yield ProductTile(8, 4, 1, 128, 1, 4, 2)
    else:
        yield ProductTile(4, 4, 8, 16, 1, 8, 2)
        yield ProductTile(4, 4, 4, 8, 4, 8, 2)
        yield ProductTile(4, 4, 1, 32, 4, 8, 2)
        yield ProductTile(4, 4, 1, 128, 1, 4, 2)


@dataclass(frozen=True)
class ProductPlan:
    """A tile, and how many blocks share the terms of each tile of outputs."""

    tile: ProductTile
    parts: int

    def team_terms(self, terms: int) -> int:
        """Terms of a team, a multiple of the tile's depth."""
        each = -(-terms // (self.parts * self.tile.teams))
        return max(1, -(-each // self.tile.depth)) * self.tile.depth


def plan_product(
    semifield: Semifield,
    storage: str,
    matrices: int,
    sizes: tuple[int, int, int],
    *,
    keeps_residual: bool,
    slopes: bool = False,
    limits: Limits = LIMITS,
) -> ProductPlan:
    """The plan that a model of a large GPU finds fastest; sizes are (rows, columns, terms)."""
    number = max(4, source.itemsize(source.ARITHMETIC[storage]))
    words = words_of_output(semifield, keeps_residual=keeps_residual, slopes=slopes)
    words = words * number // 4
    of_tile = words + bool(semifield.own)  # its parameters lie beside the outputs
    fitted = (tile.fitted(number, limits) for tile in _tiles(of_tile, slopes=slopes))
    plans = (
        ProductPlan(tile, parts)
        for tile in fitted
        if tile is not None and (not tile.is_wide or tile.cover(*sizes[:2])[0] <= limits.few_rows)
        for parts in _parts(sizes[2], tile, limits)
    )
    return min(plans, key=lambda plan: _clocks(plan, matrices, sizes, words, limits))


def _parts(terms: int, tile: ProductTile, limits: Limits) -> Iterator[int]:
    """1, 2, 4, ... parts, so that each team still has some slabs of terms."""
    parts = 1
    while parts == 1 or (
        parts <= limits.product_parts
        and terms >= parts * tile.teams * tile.depth * limits.product_slabs
    ):
        yield parts
        parts *= 2


def _clocks(
    plan: ProductPlan, matrices: int, sizes: tuple[int, int, int], words: int, limits: Limits
) -> float:
    """Clocks of the multiprocessor that has most to do.

    It adds 64 terms a clock if 8 warps or more are there and load nothing. Each of its blocks
    begins and ends in about 2000 clocks, while others work if there are any. Parts are written and
    read again by another launch, at 20 bytes a clock.
    """
    tile, (rows, columns, terms) = plan.tile, sizes
    outputs = math.prod(tile.size)
    tiles = matrices * math.prod(tile.cover(rows, columns))
    blocks = -(-tiles * plan.parts // limits.multiprocessors)
    together = min(blocks, tile.resident_blocks)
    rate = 64 * min(1.0, together * tile.threads / 256) / (1 + 1 / tile.rows + 1 / tile.columns)
    padded = plan.team_terms(terms) * tile.teams
    of_term = outputs / rate + sum(tile.size) / 16  # to add it up, and to copy its numbers
    clocks = blocks * of_term * (padded + tile.depth) + 2000 * -(-blocks // together)
    if plan.parts > 1:
        moved = (2 * plan.parts + 1) * tiles * outputs * words * 4
        clocks += 5000 + moved / (20 * limits.multiprocessors)
    return clocks
