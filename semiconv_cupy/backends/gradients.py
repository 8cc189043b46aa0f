"""What a backward pass reads and writes, of convolutions and of matrix products alike.

Called by ``run``, the backends and whoever lets them differentiate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Array = Any


class GradientArrays(NamedTuple):
    """The arrays of a backward pass, or their addresses; None for what is not there.

    `img` and `krn` are there unless the derivative needs none (``residual.needs_arrays``), a
    gradient unless it is not computed. `residual` is None where the forward pass kept none. The
    arrays of a convolution are C-contiguous, except img and krn; those of a matrix product lie as
    its levels say.
    """

    grad_out: Array
    img: Array | None
    krn: Array | None
    residual: Array | None
    grad_img: Array | None
    grad_krn: Array | None

    def each(self, function: Callable[[Array], Any]) -> GradientArrays:
        """A function of each array that is there, such as its address."""
        return GradientArrays(*(None if array is None else function(array) for array in self))
