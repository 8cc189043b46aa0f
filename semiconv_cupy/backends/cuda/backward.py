"""Backward launches: which kernels compute the gradients of a convolution.

    both gradients     grad_tiled                    depthwise work
    the image's        adjoint (adjoint.py)          ordinary sums that mix channels
                       grad_tiled                    wherever a tile serves
                       grad_image                    any geometry
    the kernel's       grad_weights                  ordinary sums that mix channels
                       grad_tiled                    wherever a tile serves
                       grad_bins, or grad_kernel     a provenance, or anything else; any geometry

The first that serves is taken. A launch is planned once for each `Convolution`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda.adjoint import AdjointLaunch, adjoint_launch
from semiconv_cupy.backends.cuda.bins import BINS_THREADS, Bins, bins_of
from semiconv_cupy.backends.cuda.convolution import (
    ALWAYS,
    GRID_X,
    Case,
    Convolution,
    blocks_for,
)
from semiconv_cupy.backends.cuda.gradient_launch import (
    GradientLaunch,
    PartialSums,
    partial_sums,
)
from semiconv_cupy.backends.cuda.gradient_tile import gradient_tile_of
from semiconv_cupy.backends.cuda.kernels import compiled, kernel_source, specialise
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, LIMITS, Limits
from semiconv_cupy.backends.cuda.weight_tile import mixes_sums, weight_tile_of
from semiconv_cupy.backends.device import Device
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.residual import is_provenance

Launch = GradientLaunch | AdjointLaunch


@dataclass(frozen=True)
class _Planner:
    """Plans one launch at a time, by methods called as the kernels' files and `adjoint`.

    A method returns None where its kernel cannot compute the convolution.
    """

    device: Device
    convolution: Convolution
    limits: Limits
    tiles: bool  # whether kernels of tiles may serve

    def grad_tiled(self, wants: tuple[bool, bool]) -> GradientLaunch | None:
        """These gradients, by tiles of the image."""
        semifield, geometry, storage, residual, *_ = self.convolution
        if not self.tiles:
            return None
        tile = gradient_tile_of(semifield, storage, geometry, residual, wants, self.limits)
        if tile is None:
            return None
        owners, parts, jobs = tile.partition(geometry, self.limits)
        kernel = specialise("grad_tiled", semifield, storage, geometry, "int64", residual, tile)
        counts = (jobs, parts, *tile.cover(geometry.image_size))
        scalars = (self.convolution.residual_plane, *map(np.int64, counts))
        return GradientLaunch(
            kernel=compiled(self.device, kernel_source, kernel),
            grid=(owners * parts,),
            block=(tile.threads,),
            struct=self.convolution.struct,
            writes_img=True,
            writes_partial=True,
            scalars=scalars,
            sums=self._partial_sums(parts) if wants[1] else None,
            conditional_blocks=self.limits.conditional_blocks,
        )

    def grad_weights(self) -> GradientLaunch | None:
        """The kernel's gradient of an ordinary sum that mixes channels."""
        semifield, geometry, storage, *_ = self.convolution
        if not self.tiles:
            return None
        tile = weight_tile_of(semifield, storage, geometry, self.limits)
        if tile is None or tile.reach(geometry, self.convolution.img_strides) >= 2**31:
            return None
        owners, parts, jobs = tile.partition(geometry, self.limits)
        kernel = specialise("grad_weights", semifield, storage, geometry, "int64", None, tile)
        whole = self.convolution.has_whole_chunks()
        at_once = tile.jobs_at_once(self.limits)
        counts = (jobs, parts, at_once, *tile.cover(geometry.out_size), whole)
        return GradientLaunch(
            kernel=compiled(self.device, kernel_source, kernel),
            grid=(owners * parts,),
            block=(tile.threads,),
            struct=self.convolution.struct,
            writes_img=False,
            writes_partial=True,
            scalars=tuple(map(np.int64, counts)),
            sums=self._partial_sums(parts),
            conditional_blocks=self.limits.conditional_blocks,
        )

    def adjoint(self, *, only_finite: bool) -> AdjointLaunch | None:
        """The image's gradient of an ordinary sum that mixes channels."""
        semifield, geometry, storage, *_ = self.convolution
        if not self.tiles or not mixes_sums(semifield, geometry, self.limits.mixed_channels):
            return None
        if source.ARITHMETIC[storage] != storage:  # halves: gradients have more digits than that
            return None
        fallback = None if only_finite else self.grad_image()
        return adjoint_launch(self.device, self.convolution, fallback, self.limits)

    def grad_image(self) -> GradientLaunch:
        """The image's gradient, any geometry."""
        elements = math.prod(self.convolution.geometry.img_shape)
        scalars = (self.convolution.residual_plane, np.int64(elements), *ALWAYS)
        return self._direct("grad_image", (blocks_for(elements),), BLOCK_THREADS, scalars)

    def grad_bins(self) -> GradientLaunch:
        """The kernel's gradient from a provenance, any geometry."""
        semifield, geometry, storage, *_ = self.convolution
        bins = bins_of(semifield, storage, geometry, self.limits)
        owners, parts, jobs = bins.partition(semifield, geometry, self.limits)
        scalars = tuple(map(np.int64, (jobs, parts, bins.slices)))
        return self._direct("grad_bins", (owners * parts,), BINS_THREADS, scalars, parts, bins)

    def grad_kernel(self) -> GradientLaunch:
        """The kernel's gradient where no provenance is kept, any geometry."""
        geometry, limits = self.convolution.geometry, self.limits
        weights = math.prod(geometry.krn_shape)
        groups = geometry.groups if geometry.shares_kernels else 1
        outputs = geometry.batch * groups * math.prod(geometry.out_size)  # of a weight
        enough = max(1, min(limits.direct_parts, -(-limits.full_blocks // weights)))
        each = max(limits.direct_outputs, -(-outputs // enough))
        parts = -(-outputs // each)
        scalars = (self.convolution.residual_plane, np.int64(each), np.int64(parts), *ALWAYS)
        grid = (min(weights * parts, GRID_X),)
        return self._direct("grad_kernel", grid, BLOCK_THREADS, scalars, parts)

    def _direct(
        self,
        file: str,
        grid: tuple[int],
        threads: int,
        scalars: tuple[Any, ...],
        parts: int = 0,
        bins: Bins | None = None,
    ) -> GradientLaunch:
        """The kernel of that file; `parts`: partial sums of each weight, 0 where it leaves none."""
        semifield, geometry, storage, residual, *_ = self.convolution
        offset = self.convolution.gradient_offset(self.limits)
        kernel = specialise(file, semifield, storage, geometry, offset, residual, bins)
        return GradientLaunch(
            kernel=compiled(self.device, kernel_source, kernel),
            grid=grid,
            block=(threads,),
            struct=self.convolution.struct,
            writes_img=not parts,
            writes_partial=bool(parts),
            scalars=scalars,
            sums=self._partial_sums(parts) if parts else None,
            conditional_blocks=self.limits.conditional_blocks,
        )

    def _partial_sums(self, parts: int) -> PartialSums:
        _, geometry, storage, *_ = self.convolution
        return partial_sums(self.device, geometry, storage, parts, self.limits)


@lru_cache(maxsize=4096)
def gradient_launches(
    device: Device,
    convolution: Convolution,
    wants: tuple[bool, bool],
    method: str = "auto",
    limits: Limits = LIMITS,
    *,
    only_finite: bool = False,
) -> list[Launch]:
    """What `backward` launches for arrays of these strides.

    `wants` says which of the gradients of img and krn are computed. `only_finite`: where the kernel
    is not finite, grad_out is nowhere 0.
    """
    held = min(limits.multiprocessors, device.multiprocessors())  # a wave of blocks is no longer
    limits = replace(limits.for_method(method), multiprocessors=held)
    plan = _Planner(device, convolution, limits, method != "direct")
    wants_img, wants_krn = wants
    both = plan.grad_tiled(wants) if wants_img and wants_krn else None
    if both is not None:
        return [both]
    launches: list[Launch] = []
    if wants_img:
        adjoint = plan.adjoint(only_finite=only_finite)
        launches.append(adjoint or plan.grad_tiled((True, False)) or plan.grad_image())
    if wants_krn:
        tiled = plan.grad_weights() or plan.grad_tiled((False, True))
        if tiled is not None:
            launches.append(tiled)
        else:
            bins = is_provenance(convolution.semifield)
            launches.append(plan.grad_bins() if bins else plan.grad_kernel())
    return launches


def backward(
    device: Device,
    case: Case,
    arrays: GradientArrays,
    method: str = "auto",
    limits: Limits = LIMITS,
) -> None:
    """Launch the kernels of the gradients that are there, on the device's current stream.

    Gradients are in arithmetic dtype; every element is written. The results do not differ between
    runs. `method` "auto" takes tiles where `gradient_tile_of` finds one, "tiled" also where they
    are mostly empty, "direct" none.
    """
    arrays = with_contiguous_grad_out(device, arrays)
    if fills_with_zeros(case, arrays):
        return
    _, img, krn, residual, grad_img, grad_krn = arrays
    convolution = Convolution(
        *case[:3],
        None if residual is None else residual.dtype,
        None if img is None else img.strides,
        None if krn is None else krn.strides,
        *case[3:],
    )
    wants = grad_img is not None, grad_krn is not None
    for launch in gradient_launches(device, convolution, wants, method, limits):
        launch(device, arrays)


def with_contiguous_grad_out(device: Device, arrays: GradientArrays) -> GradientArrays:
    """The same arrays, grad_out copied where it is not C-contiguous."""
    grad_out = device.array_module.ascontiguousarray(arrays.grad_out)
    return arrays if grad_out is arrays.grad_out else arrays._replace(grad_out=grad_out)


def fills_with_zeros(case: Case, arrays: GradientArrays) -> bool:
    """Whether no term has a gradient, as there is no output or no image; then all become 0."""
    if arrays.grad_out.size and min(case.geometry.img_shape):
        return False
    for gradient in (arrays.grad_img, arrays.grad_krn):
        if gradient is not None:
            gradient[...] = 0
    return True
