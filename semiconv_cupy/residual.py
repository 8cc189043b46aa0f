"""What a forward pass leaves for the derivative: which arrays, of which dtype and shape.

Array-free, like the geometry; the values are described in ``kernels_cu/accumulators.cuh``. Called
by the backends and by the PyTorch bridge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.algebra.slopes import kept_slopes
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.source import ARITHMETIC


class Residual(NamedTuple):
    """The specification of the array that holds a residual; variables call it `residual_spec`.

    `arrays` says how many numbers it has for each output: so many arrays are stacked along the
    first axis.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    arrays: int


def is_provenance(semifield: Semifield) -> bool:
    """Whether the derivative needs which tap won, and no numbers."""
    return semifield.accumulator == "select" and not semifield.spread_gradient


def residual_of(
    semifield: Semifield, storage: str, geometry: Geometry, *, slopes: bool = False
) -> Residual | None:
    """The specification of a semifield's residual, None where the derivative needs none.

    Selections: the index of the winning tap, flat over (channel, kernel position), in the smallest
    unsigned integer that fits; its largest value says that nothing was selected. Selections that
    share gradients: the selected value and how many terms equal it. log and root: the scale and the
    sum that the window's terms are relative to (by ordinary sums, nothing or `slopes_alone`).
    Everything else with a nonlinear addition: the accumulator before post_sum. `slopes`: and the
    derivatives of the value by the parameter of log and root, or by those of `kept_slopes`.
    """
    shape = geometry.out_shape
    if semifield.channels_add:
        shape = (*shape[:2], geometry.in_channels, *shape[2:])
    return residual_of_terms(semifield, storage, shape, geometry.taps, slopes=slopes)


def slopes_alone(storage: str, geometry: Geometry) -> Residual:
    """What ordinary sums keep of log and root where the derivative by the parameter is wanted."""
    return Residual((1, *geometry.out_shape), np.dtype(ARITHMETIC[storage]), 1)


def residual_of_terms(
    semifield: Semifield,
    storage: str,
    shape: tuple[int, ...],
    terms: int,
    *,
    slopes: bool = False,
) -> Residual | None:
    """`residual_of` for outputs of this shape, so many terms each: of a matrix product."""
    if is_provenance(semifield):
        for candidate in (np.uint8, np.uint16, np.uint32):
            if terms < np.iinfo(candidate).max:
                return Residual(shape, np.dtype(candidate), 1)
        raise ValueError(f"an output of {terms} terms has no provenance in 32 bits")
    if semifield.accumulator == "sum" and "post_sum" not in semifield.expressions:
        return None
    arrays = 2 if semifield.accumulator in ("log", "root", "select") else 1
    if slopes:
        arrays += len(kept_slopes(semifield)) if semifield.own else 1
    return Residual((arrays, *shape), np.dtype(ARITHMETIC[storage]), arrays)


def needs_arrays(semifield: Semifield) -> bool:
    """Whether the derivative needs img and krn themselves, besides the residual."""
    return not (is_provenance(semifield) and semifield.d_times_constant)
