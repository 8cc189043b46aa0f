"""Ready-made layers: morphology with learned structuring functions, in one line of a model.

Here: pooling that takes the place of torch.nn.MaxPool1d/2d/3d, and dilation, erosion, opening and
closing that keep the image's size. They join a kernel of `quadratic` with a fused convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from semiconv_cupy.errors import flag
from semiconv_cupy.geometry import Geometry
from torch_bridge.autograd import Operation, recorded
from torch_bridge.checks import DENSE, TENSORS, one_kind, plan, require_channels
from torch_bridge.convolutions import convolution
from torch_bridge.functional import semifield_conv
from torch_bridge.pooling import PoolingWindow, WindowedModule
from torch_bridge.quadratic import (
    LearnedKernel,
    QuadraticKernelCholesky,
    QuadraticKernelIso,
    QuadraticKernelSpectral,
)
from torch_bridge.quadratic.initial import Init
from torch_bridge.sizes import KernelSize, per_axis

__all__ = [
    "Closing",
    "Dilation",
    "DilationPool1d",
    "DilationPool2d",
    "DilationPool3d",
    "Erosion",
    "Opening",
]

Structuring = Literal["spectral", "cholesky", "iso", "free"]

_QUADRATIC: dict[str, Callable[..., nn.Module]] = {
    "spectral": QuadraticKernelSpectral,
    "cholesky": QuadraticKernelCholesky,
    "iso": QuadraticKernelIso,
}


def _structuring_functions(
    sizes: tuple[int, ...],
    channels: int | None,
    structuring: Structuring,
    init: Init | None,
    device: Any,
    dtype: Any,
) -> nn.Module:
    """A kernel (channels or 1, 1, *sizes)."""
    count = 1 if channels is None else channels
    if isinstance(structuring, str) and structuring in _QUADRATIC:
        return _QUADRATIC[structuring](1, count, sizes, init, device=device, dtype=dtype)
    if not isinstance(structuring, str) or structuring != "free":
        raise ValueError(f"structuring must be one of {[*_QUADRATIC, 'free']}, got {structuring!r}")
    if init is not None:
        raise ValueError(f'structuring="free" starts flat and has no init, got {init!r}')
    return FlatLearnedKernel(1, count, sizes, device=device, dtype=dtype)


class FlatLearnedKernel(LearnedKernel):
    """A `LearnedKernel` that starts at zero: a flat structuring function."""

    def reset_parameters(self) -> None:
        """Set all taps to zero."""
        nn.init.zeros_(self.kernel)


class _ChannelwiseLayer(nn.Module):
    """One structuring function for each channel, or one for all of them."""

    kernel: nn.Module
    channels: int | None

    def forward(self, img: Tensor) -> Tensor:
        """`img` (B, C, *S) or (C, *S), and the result in the same way."""
        if not isinstance(img, Tensor):
            raise TypeError(
                f"img must be a torch.Tensor, got {type(img).__name__}; torch.from_numpy(img) "
                "makes one of a NumPy array"
            )
        krn = self.kernel()
        if img.dim() == krn.dim() - 1:
            return self._convolve(img[None], krn)[0]
        return self._convolve(img, krn)

    def _convolve(self, img: Tensor, krn: Tensor) -> Tensor:
        raise NotImplementedError

    def _groups(self, img: Tensor) -> dict[str, Any]:
        """Each channel of `img` a group."""
        require_channels(img, self.channels)
        return {"groups": img.shape[1], "group_broadcasting": self.channels is None}


class _DilationPool(_ChannelwiseLayer, WindowedModule):
    """Pooling; the subclasses say in how many dimensions."""

    def __init__(
        self,
        kernel_size: KernelSize,
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        channels: int | None = None,
        structuring: Structuring = "spectral",
        init: Init | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if flag("return_indices", return_indices):
            raise ValueError(
                "return_indices=True is not offered: the maximum of image plus structuring "
                "function has no place in the image that max_unpool could use"
            )
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)
        self.channels = channels
        sizes = self._window.sizes
        self.kernel = _structuring_functions(sizes, channels, structuring, init, device, dtype)

    def extra_repr(self) -> str:
        channels = "" if self.channels is None else f", channels={self.channels}"
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}{channels}"
        )

    def _convolve(self, img: Tensor, krn: Tensor) -> Tensor:
        # While compiling, sizes may be symbols, which no cache can look up.
        if type(img) in TENSORS and img.layout is DENSE and not torch.compiler.is_compiling():
            operation = _pooling(self._window, img.shape, krn.shape, **self._groups(img))
            return recorded(*one_kind(img, krn), operation)
        return semifield_conv(
            img,
            krn,
            "tropical_max",
            stride=self._window.strides,
            padding=self._window.padding(tuple(img.shape[2:])),
            dilation=self._window.dilation,
            **self._groups(img),
        )


@lru_cache(maxsize=512)
def _pooling(
    window: PoolingWindow,
    img_shape: tuple[int, ...],
    krn_shape: tuple[int, ...],
    groups: int,
    group_broadcasting: bool,
) -> Operation:
    """The convolution that pools an image of that shape: a module asks in every step."""
    geometry = Geometry.plan(
        img_shape,
        krn_shape,
        stride=window.strides,
        padding=window.padding(tuple(img_shape[2:])),
        dilation=window.dilation,
        groups=groups,
        group_broadcasting=group_broadcasting,
    )
    return convolution("tropical_max", geometry)


class DilationPool1d(_DilationPool):
    """Max-pooling of signals with a learned structuring function, for `torch.nn.MaxPool1d`.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.MaxPool1d`.
    return_indices, channels, structuring, init, device, dtype
        As in `DilationPool2d`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    DilationPool2d : The formula and its source.
    LogSumExpPool1d, GeMPool1d : Between the mean and the maximum.

    Examples
    --------
    >>> import torch
    >>> DilationPool1d(3, stride=2, ceil_mode=True)(torch.zeros(2, 4, 10)).shape
    torch.Size([2, 4, 5])
    """

    ndim = 1


class DilationPool2d(_DilationPool):
    r"""Max-pooling with a learned structuring function, in place of `torch.nn.MaxPool2d`.

    .. math:: out[b, c, x] = \max_y img[b, c, s x + d y - p] + h_c[K - 1 - y]

    Arguments and output sizes are those of `torch.nn.MaxPool2d`; a structuring function h of
    nothing but zeros is max-pooling itself.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.MaxPool2d`; positions outside the image do not take part.
    return_indices : bool
        Must be False: indices mean nothing to `torch.nn.MaxUnpool2d` here.
    channels : int, optional
        One structuring function for each of so many channels; None: one shared by all.
    structuring : {"spectral", "cholesky", "iso", "free"}
        Its parametrisation: `QuadraticKernelSpectral`, `QuadraticKernelCholesky`,
        `QuadraticKernelIso`, or all taps free (`LearnedKernel`, starting at zero, as max-pooling).
    init : mapping, optional
        Initial values of a quadratic one; see its class.
    device, dtype : optional
        As in torch's modules.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    Dilation : Without strides; it keeps the image's size.
    LogSumExpPool2d, GeMPool2d : Between the mean and the maximum.
    GenericConv : Any learned kernel, in any semifield.

    References
    ----------
    Groenendijk, Dorst and Gevers, "MorphPool: efficient non-linear pooling & unpooling in CNNs",
    BMVC 2022.

    Examples
    --------
    >>> import torch
    >>> pool = DilationPool2d(3, stride=2, padding=1, channels=16)
    >>> pool(torch.randn(8, 16, 28, 28)).shape
    torch.Size([8, 16, 14, 14])
    """

    ndim = 2


class DilationPool3d(_DilationPool):
    """Max-pooling of volumes with a learned structuring function, for `torch.nn.MaxPool3d`.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.MaxPool3d`.
    return_indices, channels, structuring, init, device, dtype
        As in `DilationPool2d`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    DilationPool2d : The formula and its source.
    LogSumExpPool3d, GeMPool3d : Between the mean and the maximum.

    Examples
    --------
    >>> import torch
    >>> DilationPool3d(2)(torch.zeros(1, 3, 8, 8, 8)).shape
    torch.Size([1, 3, 4, 4, 4])
    """

    ndim = 3


class _Morphology(_ChannelwiseLayer):
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
        self.kernel = _structuring_functions(sizes, channels, structuring, init, device, dtype)

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
