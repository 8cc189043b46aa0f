"""Dilation, erosion, opening and closing by learned structuring functions, as layers.

They keep the image's size, and join a kernel of `quadratic` with a fused convolution.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from semiconv_cupy.geometry import Geometry
from torch_bridge.channelwise import ChannelwiseLayer, Structuring, structuring_functions
from torch_bridge.checks import plan
from torch_bridge.functional import semifield_conv
from torch_bridge.quadratic.initial import Init
from torch_bridge.sizes import KernelSize, per_axis

__all__ = ["Closing", "Dilation", "Erosion", "Opening"]


class _Morphology(ChannelwiseLayer):
    """Dilations and erosions that keep the image's size and are adjoint to each other."""

    def __init__(
        self,
        kernel_size: KernelSize,
        channels: int | None = None,
        *,
        ndim: int | None = None,
        dilation: int | tuple[int, ...] = 1,
        structuring: Structuring = "spectral",
        init: Init | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = per_axis("kernel_size", kernel_size, ndim)
        self.kernel_size = kernel_size
        self.channels = channels
        self.dilation = per_axis("dilation", dilation, len(sizes))
        self.kernel = structuring_functions(sizes, channels, structuring, init, device, dtype)

    def extra_repr(self) -> str:
        shown = [f"kernel_size={self.kernel_size}"]
        if self.channels is not None:
            shown.append(f"channels={self.channels}")
        if max(self.dilation) > 1:
            shown.append(f"dilation={self.dilation}")
        return ", ".join(shown)

    def _dilate(self, img: Tensor, krn: Tensor) -> Tensor:
        return semifield_conv(
            img,
            krn,
            "tropical_max",
            padding="same",
            dilation=self.dilation,
            **self._groups(img),
        )

    def _erode(self, img: Tensor, krn: Tensor) -> Tensor:
        return semifield_conv(
            img,
            krn,
            "tropical_min_negated",
            padding=self._geometry(img, krn).transposed_padding,
            dilation=self.dilation,
            kind="corr",
            **self._groups(img),
        )

    def _geometry(self, img: Tensor, krn: Tensor) -> Geometry:
        return plan(img, krn, padding="same", dilation=self.dilation, **self._groups(img))


class Dilation(_Morphology):
    r"""Dilation by a learned structuring function; it keeps the image's size.

    .. math:: out[b, c, x] = \max_y img[b, c, x - y] + h_c[y]

    y runs over the integer offsets from -((K - 1) // 2) upward, times `dilation`; positions outside
    the image do not take part. For even K the image is read one step further (x - y + 1), as in
    `scipy.ndimage.grey_dilation`. `Erosion` is its adjoint, for even K too.

    Parameters
    ----------
    kernel_size : int or tuple of int
        K: one size for all axes, or one per axis.
    channels : int, optional
        One structuring function for each of so many channels; None: one shared by all.
    ndim : int, optional
        Number of spatial axes; needed where `kernel_size` is an int.
    dilation : int or tuple of int
        Distance of the taps in image elements.
    structuring, init, device, dtype
        As in `DilationPool2d`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    Erosion : Its adjoint.
    Opening, Closing : Compositions of both.
    DilationPool2d : With strides.
    ParabolicDilation : Without a window.

    Examples
    --------
    >>> import torch
    >>> Dilation(5, channels=3, ndim=2)(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 3, 16, 16])
    """

    def _convolve(self, img: Tensor, krn: Tensor) -> Tensor:
        return self._dilate(img, krn)


class Erosion(_Morphology):
    r"""Erosion by a learned structuring function; it keeps the image's size.

    .. math:: out[b, c, x] = \min_y img[b, c, x + y] - h_c[y]

    For even K, the image is read at x + y - 1. It is the adjoint of `Dilation`.

    Parameters
    ----------
    kernel_size, channels, ndim, dilation, structuring, init, device, dtype
        As in `Dilation`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    Dilation : Its adjoint.
    Opening, Closing : Compositions of both.
    ParabolicErosion : Without a window.

    Examples
    --------
    >>> import torch
    >>> Erosion((5, 4))(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 3, 16, 16])
    """

    def _convolve(self, img: Tensor, krn: Tensor) -> Tensor:
        return self._erode(img, krn)


class Opening(_Morphology):
    r"""Opening by a learned structuring function: `Erosion`, then `Dilation`.

    The result is nowhere above the image, and opening it again changes nothing.

    .. math:: out = \delta(\varepsilon(img))

    Parameters
    ----------
    kernel_size, channels, ndim, dilation, structuring, init, device, dtype
        As in `Dilation`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    Closing : From above.
    GenericOpening : Of kernels that mix channels.
    ParabolicOpening : Without a window.

    Examples
    --------
    >>> import torch
    >>> Opening(3, ndim=2)(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 3, 16, 16])
    """

    def _convolve(self, img: Tensor, krn: Tensor) -> Tensor:
        return self._dilate(self._erode(img, krn), krn)


class Closing(_Morphology):
    r"""Closing by a learned structuring function: `Dilation`, then `Erosion`.

    The result is nowhere below the image, and closing it again changes nothing.

    .. math:: out = \varepsilon(\delta(img))

    Parameters
    ----------
    kernel_size, channels, ndim, dilation, structuring, init, device, dtype
        As in `Dilation`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    Opening : From below.
    GenericClosing : Of kernels that mix channels.
    ParabolicClosing : Without a window.

    Examples
    --------
    >>> import torch
    >>> Closing(3, ndim=2)(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 3, 16, 16])
    """

    def _convolve(self, img: Tensor, krn: Tensor) -> Tensor:
        return self._erode(self._dilate(img, krn), krn)
