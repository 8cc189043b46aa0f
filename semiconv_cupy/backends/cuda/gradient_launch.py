"""Launches of the gradient kernels, planned; and the last stage of a kernel's gradient.

    a gradient kernel    block 0   block 1   block 2       each leaves a partial sum
                            |         |         |          of its weights
    partial sums         w w w w   w w w w   w w w w       (float64, in scratch memory)
                            \\        |        /
    grad_sum.cu              w   w   w   w                 a warp adds those of a weight

No atomics, so that two runs give the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from semiconv_cupy import structs
from semiconv_cupy.backends.cuda.convolution import (
    ALWAYS,
    Array,
    Condition,
    blocks_for,
    conditional,
)
from semiconv_cupy.backends.cuda.kernels import compiled, sum_source
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, Limits
from semiconv_cupy.backends.device import (
    Described,
    Device,
    Kernel,
    Prepared,
    Stream,
    described,
    prepared,
)
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.source import ARITHMETIC


@dataclass(frozen=True)
class PartialSums:
    """The last stage of a kernel's gradient: the partial sums of each weight are added."""

    kernel: Kernel
    grid: tuple[int]  # one warp a weight
    scalars: tuple[Any, ...]  # weights, partial sums of each, no condition
    numbers: int  # partial sums of all weights
    conditional_blocks: int

    @cached_property
    def _launch(self) -> Prepared:
        return prepared(self.kernel, self.grid, (BLOCK_THREADS,), (), 2, self.scalars)

    def __call__(
        self, partial: int, grad_krn: Array, stream: Stream | None, condition: Condition | None
    ) -> None:
        """Launch for arrays or their addresses."""
        if condition is None:
            self._launch((partial, grad_krn), stream)
            return
        grid, scalars = conditional(self.grid, self.scalars, condition, self.conditional_blocks)
        self.kernel(grid, (BLOCK_THREADS,), (partial, grad_krn, *scalars), 0, stream)

    def described(self) -> Described | None:
        """The launch without condition; None without a driver."""
        return described(self._launch, ("scratch", "grad_second"))


def partial_sums(
    device: Device, geometry: Geometry, storage: str, parts: int, limits: Limits
) -> PartialSums:
    """The last stage for that many partial sums of each weight."""
    weights = math.prod(geometry.krn_shape)
    return PartialSums(
        kernel=compiled(device, sum_source, ARITHMETIC[storage]),
        grid=(blocks_for(32 * weights),),
        scalars=(np.int64(weights), np.int64(parts), *ALWAYS),
        numbers=weights * parts,
        conditional_blocks=limits.conditional_blocks,
    )


@dataclass(frozen=True)
class GradientLaunch:
    """All of a gradient kernel's launch but its arrays."""

    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int]
    struct: np.void
    writes_img: bool  # whether the kernel takes grad_img, and partial sums
    writes_partial: bool
    scalars: tuple[Any, ...]  # the arguments behind the arrays
    sums: PartialSums | None  # None: the kernel's gradient is not computed
    conditional_blocks: int

    @cached_property
    def _launch(self) -> Prepared:
        return self._prepared(None)

    @cached_property
    def _with_latest(self) -> structs.Latest[Prepared]:
        """The launch with the parameters of a call."""
        return structs.Latest(self._prepared)

    def _prepared(self, parameters: structs.Parameters | None) -> Prepared:
        struct = structs.scalar_with_parameters(self.struct, parameters)
        pointers = 4 + self.writes_img + self.writes_partial
        return prepared(self.kernel, self.grid, self.block, (struct,), pointers, self.scalars)

    def __call__(
        self,
        device: Device,
        arrays: GradientArrays,
        stream: Stream | None = None,
        condition: Condition | None = None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        """Launch for arrays or their addresses."""
        grad_out, img, krn, residual, grad_img, grad_krn = arrays
        pointers: tuple[Array, ...] = (
            grad_out,
            grad_out if img is None else img,
            grad_out if krn is None else krn,
            grad_out if residual is None else residual,
        )
        partial, owner = (0, None) if self.sums is None else device.scratch(self.sums.numbers)
        if self.writes_img:
            pointers += (0 if grad_img is None else grad_img,)
        if self.writes_partial:
            pointers += (partial,)
        if condition is None:
            launch = self._launch if parameters is None else self._with_latest.of(parameters)
            launch(pointers, stream)
        else:
            grid, scalars = conditional(self.grid, self.scalars, condition, self.conditional_blocks)
            struct = structs.scalar_with_parameters(self.struct, parameters)
            self.kernel(grid, self.block, (struct, *pointers, *scalars), 0, stream)
        if self.sums is not None:
            self.sums(partial, grad_krn, stream, condition)
        del owner  # only later launches on this stream use the freed memory

    def described(
        self, wants: tuple[bool, bool], *, has_arrays: bool, keeps_residual: bool
    ) -> list[Described] | None:
        """The launches without condition, one after the other; None without a driver.

        Pointers have the names that `Launches` lists.
        """
        pointers: tuple[str, ...] = ("grad_out",)
        pointers += ("first", "second") if has_arrays else ("grad_out", "grad_out")
        pointers += ("residual" if keeps_residual else "grad_out",)
        if self.writes_img:
            pointers += ("grad_first" if wants[0] else "nowhere",)
        if self.writes_partial:
            pointers += ("nowhere" if self.sums is None else "scratch",)
        found = [described(self._launch, pointers)]
        if self.sums is not None:
            found.append(self.sums.described())
        return [launch for launch in found if launch is not None] or None
