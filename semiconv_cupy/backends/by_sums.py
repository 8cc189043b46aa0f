"""When root and log are computed as the linear field in disguise.

x -> x^p and x -> e^(mu x) turn their additions into ordinary sums and their multiplications into
products, so that a term costs one multiply-add and no exponential. Each sum tells whether terms
that underflowed could matter; outputs that it proves nothing about are computed directly, so that
the method is right for any numbers (``kernels_cu/linear.cuh``). Nothing is kept for the derivative,
which computes the sums again from image and kernel. Array-free; called by ``conv`` and the PyTorch
bridge.
"""

from __future__ import annotations

import math

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import Residual, residual_of

# Fewer taps do not pay for transforming the image: measured, forward and backward together. Whole
# powers are a few products, which exponentials and other powers are not.
LEAST_TAPS = {"any": 3, "whole powers": 24}
# A GPU makes a dozen launches and several passes over the image of it, forward and backward: on an
# H100 they take as long as 10^8 terms by the direct kernels. Whole powers save less than they cost
# for longer, unless many outputs see the same image.
LEAST_TAPS_ON_GPU = {"any": 24, "whole powers": 36}
LEAST_TERMS_ON_GPU = 10**8


def can_serve(semifield: Semifield) -> bool:
    """Whether a semifield is a linear one in disguise: a ready-made root or log.

    A root of -1 < p < 1 makes something of terms beyond the range of numbers from the extreme one,
    and for p > 0 has no finite slope at 0.
    """
    if semifield.accumulator == "log":
        return True
    parameter = semifield.parameter or 0.0
    return semifield.accumulator == "root" and abs(parameter) >= 1


def serves(semifield: Semifield, geometry: Geometry, method: str, *, on_gpu: bool) -> bool:
    """Whether `method` means the linear field here; raises where it is asked for and cannot be.

    Left to itself, it serves where it was measured to be faster.
    """
    if method == "linear" and not can_serve(semifield):
        raise ValueError(
            "method='linear' serves the ready-made log(mu), and root(p) of p >= 1 or p <= -1, got "
            f"{semifield!r}; use method='auto'"
        )
    if method != "auto":
        return method == "linear"
    if not can_serve(semifield) or geometry.taps < _least_taps(semifield, geometry, on_gpu):
        return False
    return not on_gpu or math.prod(geometry.out_shape) * geometry.taps >= LEAST_TERMS_ON_GPU


def _least_taps(semifield: Semifield, geometry: Geometry, on_gpu: bool) -> int:
    whole = semifield.accumulator == "root" and float(semifield.parameter or 0).is_integer()
    if not on_gpu:
        return LEAST_TAPS["whole powers" if whole else "any"]
    few_outputs = geometry.outputs_per_group < 4
    return LEAST_TAPS_ON_GPU["whole powers" if whole and few_outputs else "any"]


def saved_residual(
    semifield: Semifield, storage: str, geometry: Geometry, method: str, *, on_gpu: bool
) -> Residual | None:
    """What a forward pass by `method` keeps for the derivative: nothing where it is linear.

    Then the sums are computed again: their scale is that of a tile (on a GPU, of an image), and
    what is relative to one scale sums to 1 with no other.
    """
    if serves(semifield, geometry, method, on_gpu=on_gpu):
        return None
    return residual_of(semifield, storage, geometry)
