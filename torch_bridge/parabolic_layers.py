"""Layers of parabolas without end whose scale is learned; they call `functional`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semiconv_cupy.errors import flag
from torch_bridge.checks import require_channels, require_tensors
from torch_bridge.parabolic import (
    parabolic_closing,
    parabolic_dilation,
    parabolic_erosion,
    parabolic_opening,
)
from torch_bridge.sizes import whole_number

__all__ = ["ParabolicClosing", "ParabolicDilation", "ParabolicErosion", "ParabolicOpening"]


class _Parabolic(nn.Module):
    """One scale, or one for each axis, channel or both; its logarithm is the parameter."""

    function: ClassVar[Callable[..., Tensor]]
    channels: int | None
    ndim: int
    log_scale: Tensor

    def __init__(
        self,
        scale: float | Sequence[float] | Tensor = 1.0,
        channels: int | None = None,
        *,
        ndim: int | None = None,
        learn: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        try:
            initial = torch.as_tensor(scale, dtype=torch.float64).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"scale must be numbers or a tensor, got {scale!r}: {error}") from None
        self.channels = None if channels is None else whole_number("channels", channels)
        self.ndim = _ndim(scale, initial, ndim)
        self.learn = flag("learn", learn)
        if not bool(((initial > 0) & (initial < math.inf)).all()):
            raise ValueError(f"scale must be above 0 and finite, got {scale!r}")
        if self.channels is not None and initial.dim() < 2:
            initial = initial.reshape(1, -1).expand(self.channels, -1)
        if initial.dim() > 2 or (initial.dim() == 2 and initial.shape[0] != (self.channels or 1)):
            raise ValueError(
                f"scale must have shape (), ({self.ndim},), or with channels={channels} (C, 1) or "
                f"(C, {self.ndim}), got {tuple(initial.shape)}"
            )
        self._initial = initial.log()
        start = torch.empty(initial.shape, device=device, dtype=dtype)
        if self.learn:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scale to that of the constructor."""
        with torch.no_grad():
            self.log_scale.copy_(self._initial)

    @property
    def scale(self) -> Tensor:
        """The scale, e to the power of the parameter."""
        return self.log_scale.exp()

    def forward(self, img: Tensor) -> Tensor:
        """`img` (B, C, *S) or (C, *S), and the result in the same way."""
        require_tensors(type(self).function.__name__, img=img)
        if img.dim() not in (self.ndim + 1, self.ndim + 2):
            raise ValueError(
                f"img must have shape (B, C, *S) or (C, *S) with {self.ndim} axes of space, got "
                f"{tuple(img.shape)}"
            )
        require_channels(img, self.channels, -self.ndim - 1)
        if img.dim() == self.ndim + 1:
            return type(self).function(img[None], self.scale)[0]
        return type(self).function(img, self.scale)

    def extra_repr(self) -> str:
        shown = [f"ndim={self.ndim}"]
        if self.channels is not None:
            shown.insert(0, f"channels={self.channels}")
        return ", ".join([*shown, *([] if self.learn else ["learn=False"])])


def _ndim(scale: Any, initial: Tensor, ndim: int | None) -> int:
    """The number of axes of space: that of the scales, or `ndim`, or 2."""
    counted = initial.shape[-1] if initial.dim() and initial.shape[-1] > 1 else None
    if ndim is None:
        return counted or 2
    count = whole_number("ndim", ndim)
    if counted not in (None, count):
        raise ValueError(f"scale={scale!r} has {counted} axes, got ndim={ndim}")
    return count


class ParabolicDilation(_Parabolic):
    r"""Dilation by a parabola without end, of a scale that is learned.

    .. math:: out[b, c, x] = \max_y\ img[b, c, y] - \sum_a \left(\frac{x_a - y_a}{s_a}\right)^2

    Unlike `Dilation`, which has a window, it sees the whole image at any scale, in the same time,
    and its only parameters are the scales.

    Parameters
    ----------
    scale : float, sequence of float, or Tensor
        Where learning starts, in elements: one for all axes, or one for each, N; or with channels
        a tensor (C, 1) or (C, N). Above 0.
    channels : int, optional
        One scale (or one for each axis) for each of so many channels; None: shared by all.
    ndim : int, optional
        Number of axes of space; by default that of the scales, or 2.
    learn : bool
        Whether the scale is a parameter; else a buffer.
    device, dtype : optional
        Of the parameter, as in torch's modules. Images of all floating dtypes are taken.

    Attributes
    ----------
    log_scale : Parameter
        The logarithm of the scale: any number is allowed, and equal steps are equal ratios.
    scale : Tensor
        The scale.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    ParabolicErosion : Its adjoint.
    ParabolicOpening, ParabolicClosing : Compositions of both.
    Dilation : By a window, in any direction.
    functional.parabolic_dilation : The function; its gradients.

    Examples
    --------
    >>> layer = ParabolicDilation(2.0, channels=3)
    >>> layer(torch.randn(8, 3, 28, 28)).shape, layer.log_scale.shape
    (torch.Size([8, 3, 28, 28]), torch.Size([3, 1]))
    >>> ParabolicDilation((2.0, 3.0, 3.0))(torch.randn(1, 16, 28, 28)).shape  # one volume
    torch.Size([1, 16, 28, 28])
    """

    function = staticmethod(parabolic_dilation)


class ParabolicErosion(_Parabolic):
    r"""Erosion by a parabola without end, of a scale that is learned.

    .. math:: out[b, c, x] = \min_y\ img[b, c, y] + \sum_a \left(\frac{x_a - y_a}{s_a}\right)^2

    Parameters
    ----------
    scale, channels, ndim, learn, device, dtype
        As in `ParabolicDilation`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    ParabolicDilation : Its adjoint; attributes.
    Erosion : By a window, in any direction.
    functional.parabolic_erosion : The function.

    Examples
    --------
    >>> ParabolicErosion(ndim=1)(torch.randn(2, 3, 100)).shape
    torch.Size([2, 3, 100])
    """

    function = staticmethod(parabolic_erosion)


class ParabolicOpening(_Parabolic):
    r"""`ParabolicErosion`, then `ParabolicDilation`: nowhere above the image.

    .. math:: out = \delta_s(\varepsilon_s(img))

    Parameters
    ----------
    scale, channels, ndim, learn, device, dtype
        As in `ParabolicDilation`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    ParabolicClosing : From above.
    ParabolicDilation : Attributes.
    functional.parabolic_opening : The function.

    Examples
    --------
    >>> ParabolicOpening(channels=3)(torch.randn(2, 3, 28, 28)).shape
    torch.Size([2, 3, 28, 28])
    """

    function = staticmethod(parabolic_opening)


class ParabolicClosing(_Parabolic):
    r"""`ParabolicDilation`, then `ParabolicErosion`: nowhere below the image.

    .. math:: out = \varepsilon_s(\delta_s(img))

    Parameters
    ----------
    scale, channels, ndim, learn, device, dtype
        As in `ParabolicDilation`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    ParabolicOpening : From below.
    ParabolicDilation : Attributes.
    functional.parabolic_closing : The function.

    Examples
    --------
    >>> ParabolicClosing((1.0, 4.0))(torch.randn(3, 28, 28)).shape
    torch.Size([3, 28, 28])
    """

    function = staticmethod(parabolic_closing)
