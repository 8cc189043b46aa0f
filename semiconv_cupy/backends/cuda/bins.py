"""The plan of ``kernels_cu/cuda/grad_bins.cu``: the kernel's gradient from a provenance, by bins.

Array-free. A warp reads outputs, and adds each one's gradient to a bin of the tap that won it. Bins
lie in shared memory, so that a block serves a slice of the taps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.cuda.limits import CHUNK, LIMITS, Limits
from semiconv_cupy.backends.cuda.tiles import Partition
from semiconv_cupy.geometry import Geometry

BINS_THREADS = 128  # threads of a block of cuda/grad_bins.cu, where the number is written, too


@dataclass(frozen=True)
class Bins:
    """Which bins a block has."""

    taps: int  # how many taps have bins at the same time
    slots: int  # bins of a tap in each warp: with more of them, fewer lanes wait for each other
    slices: int  # how many slices the taps are cut into

    def macros(self) -> dict[str, str]:
        """The macros of kernels_cu/cuda/grad_bins.cu."""
        return {"SEMICONV_SLICE": str(self.taps), "SEMICONV_SLOTS": str(self.slots)}

    def partition(self, semifield: Semifield, geometry: Geometry, limits: Limits) -> Partition:
        """How blocks share the outputs."""
        channels = geometry.in_channels if semifield.channels_add else 1
        owners = geometry.kernels * self.slices * channels
        planes = geometry.batch * (geometry.groups if geometry.shares_kernels else 1)
        jobs = planes * -(-math.prod(geometry.out_size) // (CHUNK * BINS_THREADS))
        # Enough blocks; in no block far more bins than outputs, nor too many outputs.
        parts = min(-(-limits.full_blocks // owners), -(-256 * jobs // (self.slots * self.taps)))
        # Where multiprocessors would have nothing to do, what bins cost is not seen.
        parts = max(parts, 2 * limits.multiprocessors // owners)
        return Partition(owners, min(max(parts, -(-jobs // limits.jobs), 1), jobs), jobs)


def bins_of(
    semifield: Semifield, storage: str, geometry: Geometry, limits: Limits = LIMITS
) -> Bins:
    """The bins that shared memory holds."""
    itemsize = np.dtype(source.ARITHMETIC[storage]).itemsize
    room = limits.bins_bytes // (BINS_THREADS // 32 * itemsize)
    # The taps that one provenance chooses from: with added channels, each channel has its own.
    choices = math.prod(geometry.kernel_size) if semifield.channels_add else geometry.taps
    taps = min(choices, room)
    return Bins(taps, 2 ** min(5, int(math.log2(room // taps))), -(-choices // taps))
