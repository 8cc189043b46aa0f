"""Which taps won, as users get them: ``return_indices=True`` of convolutions and matrix products.

A forward pass of a selection keeps the index of each output's winning tap for the derivative
(``residual``). Here: which semifields have winners, and the residual as indices. Called by
``conv``, ``matmul`` and the PyTorch bridge.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.algebra import SelectSemifield, SubtractSemifield, no_semifield
from semiconv_cupy.algebra.broadcast import BroadcastSemifield

Array = Any


def selection_by_one(semifield: Any) -> SelectSemifield:
    """The selection whose winners are those of `semifield`, the first of equal terms.

    It is the semifield itself, or, where equal terms share the gradient, the same selection without
    that.

    Raises
    ------
    ValueError
        A semifield whose outputs are not one of their terms.
    TypeError
        What is no semifield.

    Examples
    --------
    >>> selection_by_one(SelectSemifield.tropical_max(spread_gradient=True))
    SelectSemifield.tropical_max()
    """
    if not isinstance(semifield, (SelectSemifield, SubtractSemifield, BroadcastSemifield)):
        raise no_semifield(semifield)
    if not isinstance(semifield, SelectSemifield):
        raise ValueError(
            f"return_indices=True needs a SelectSemifield, such as tropical_max, got {semifield!r}"
        )
    if semifield.channels_add:
        raise ValueError(
            "return_indices=True needs one winner for each output, but channels_add=True adds one "
            f"winner of each channel, got {semifield!r}"
        )
    return semifield.by_one_winner


def indices_of(xp: Any, residual: Array) -> Array:
    """A residual of winners as int64 indices, -1 where no term won.

    Parameters
    ----------
    xp : module
        NumPy or CuPy, as the residual's library.
    residual : array of unsigned integers
        As ``residual.residual_of`` describes it: the largest value says that no term won.

    Examples
    --------
    >>> indices_of(np, np.array([0, 255, 3], np.uint8))
    array([ 0, -1,  3])
    """
    indices = (residual + residual.dtype.type(1)).astype(np.int64)  # the largest value becomes 0
    indices -= 1
    return indices
