"""Pooling by learned structuring functions, in place of torch.nn.MaxPool1d/2d/3d.

The layers join a kernel of `quadratic` with a fused convolution. Models of version 0.1.0 look here
for the layers of `morphology_layers`, too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.errors import flag
from semiconv_cupy.geometry import Geometry
from torch_bridge.autograd import Operation, recorded
from torch_bridge.channelwise import (
    ChannelwiseLayer,
    FlatLearnedKernel,
    Structuring,
    structuring_functions,
)
from torch_bridge.checks import DENSE, TENSORS, one_kind
from torch_bridge.convolutions import convolution
from torch_bridge.functional import semifield_conv
from torch_bridge.morphology_layers import Closing, Dilation, Erosion, Opening
from torch_bridge.pooling import PoolingWindow, WindowedModule
from torch_bridge.quadratic.initial import Init
from torch_bridge.sizes import KernelSize

__all__ = [
    "Closing",
    "Dilation",
    "DilationPool1d",
    "DilationPool2d",
    "DilationPool3d",
    "Erosion",
    "FlatLearnedKernel",
    "Opening",
]


class _DilationPool(ChannelwiseLayer, WindowedModule):
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
        self.kernel = structuring_functions(sizes, channels, structuring, init, device, dtype)

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
