"""How the arrays of a convolution lie in memory, and by which numbers winners name taps.

Array-free. ``canonical`` makes the layouts; ``structs`` hands them to the kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

from semiconv_cupy.geometry import Geometry
from semiconv_cupy.strides import Strides, contiguous_strides


@dataclass(frozen=True)
class Layout:
    """The strides of image, kernel and result, in elements, and the numbers of taps.

    Attributes
    ----------
    img, krn, out : tuple of int
        Of batch (kernel: output), channel, spatial axes. A residual lies as the result does.
    krn_begin, first_tap : int
        The place of the first tap in the kernel's memory, and its number. They are not 0 where
        taps that no output sees inside the image are left out.
    tap_steps : tuple of int
        How far the numbers of neighbouring taps lie apart: along input channels, spatial axes.

    Examples
    --------
    >>> plan = Geometry.plan((1, 2, 9, 9), (1, 2, 3, 5))
    >>> layout = Layout.plain(plan, contiguous_strides(plan.img_shape))
    >>> layout.out, layout.tap_steps
    ((35, 35, 5, 1), (15, 5, 1))
    """

    img: Strides
    krn: Strides
    out: Strides
    krn_begin: int
    first_tap: int
    tap_steps: Strides

    @classmethod
    def plain(cls, geometry: Geometry, img: Strides, krn: Strides | None = None) -> Layout:
        """Of a C-contiguous result and the taps of the whole kernel.

        The kernel is C-contiguous, too, if no strides are given.
        """
        taps = contiguous_strides(geometry.krn_shape)
        out = contiguous_strides(geometry.out_shape)
        return cls(img, taps if krn is None else krn, out, 0, 0, taps[1:])
