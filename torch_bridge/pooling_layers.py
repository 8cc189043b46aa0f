"""Pooling layers between the mean and the maximum, whose parameter is learned.

Here: the log-sum-exp and the generalised mean. `means` computes them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semiconv_cupy.errors import flag
from torch_bridge.checks import require_channels
from torch_bridge.means import gem_pool, log_sum_exp_pool
from torch_bridge.parameters import initial_number
from torch_bridge.pooling import WindowedModule
from torch_bridge.sizes import KernelSize, positive_number, whole_number

__all__ = [
    "GeMPool1d",
    "GeMPool2d",
    "GeMPool3d",
    "LogSumExpPool1d",
    "LogSumExpPool2d",
    "LogSumExpPool3d",
]


class _Pool(WindowedModule):
    """Windows, and one parameter or one for each channel."""

    parameter_name: ClassVar[str]
    channels: int | None

    def _set_parameter(
        self, value: Any, function: str, channels: int | None, learn: bool, device: Any, dtype: Any
    ) -> None:
        """Take the initial value; `function` is that of `functional` that takes a tensor."""
        name = self.parameter_name
        self._initial = initial_number(name, value, f"{function}{self.ndim}d")
        self.channels = None if channels is None else whole_number("channels", channels)
        self.learn = flag("learn", learn)
        shape = () if self.channels is None else (self.channels,)
        dtype = dtype or torch.get_default_dtype()
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating torch.dtype, got {dtype!r}")
        info = torch.finfo(dtype)
        if not info.smallest_normal * info.eps / 2 < abs(self._initial) <= info.max:
            raise ValueError(f"{name} must be in the range of {dtype}, got {name}={value!r}")
        tensor = torch.full(shape, self._initial, device=device, dtype=dtype)
        if self.learn:
            self.register_parameter(name, nn.Parameter(tensor))
        else:
            self.register_buffer(name, tensor)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the parameter to its initial value, as after ``to_empty``."""
        getattr(self, self.parameter_name).fill_(self._initial)

    def extra_repr(self) -> str:
        shown = [
            f"kernel_size={self.kernel_size}",
            f"stride={self.stride}",
            f"padding={self.padding}",
            f"{self.parameter_name}={self._initial}",
        ]
        if self.dilation not in (1, (1,) * self.ndim):
            shown.append(f"dilation={self.dilation}")
        if self.channels is not None:
            shown.append(f"channels={self.channels}")
        shown += [f"{name}=True" for name in ("ceil_mode", "mean") if getattr(self, name, False)]
        return ", ".join(shown + ["learn=False"] * (not self.learn))

    def _require_channels(self, img: Any) -> None:
        """ValueError where there is a parameter for each of other channels than the image has."""
        if isinstance(img, Tensor) and img.dim() > self.ndim:
            require_channels(img, self.channels, -1 - self.ndim)


class _LogSumExpPool(_Pool):
    parameter_name = "mu"
    mu: Tensor

    def __init__(
        self,
        kernel_size: KernelSize,
        stride: KernelSize | None = None,
        padding: KernelSize = 0,
        *,
        mu: float = 1.0,
        mean: bool = False,
        dilation: KernelSize = 1,
        ceil_mode: bool = False,
        channels: int | None = None,
        learn: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)
        self._set_parameter(mu, "log_sum_exp_pool", channels, learn, device, dtype)
        self.mean = flag("mean", mean)

    def forward(self, img: Tensor) -> Tensor:
        """`img` (B, C, *S) or (C, *S), and the result in the same way."""
        self._require_channels(img)
        return log_sum_exp_pool(img, self._window, self.mu, self.mean)


class LogSumExpPool1d(_LogSumExpPool):
    """Pooling of signals by the log-sum-exp: `LogSumExpPool2d` in one dimension.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.MaxPool1d`.
    mu, mean, channels, learn, device, dtype
        As in `LogSumExpPool2d`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    LogSumExpPool2d : The formula, its limits and its source.
    GeMPool1d : By the generalised mean.
    functional.log_sum_exp_pool1d : The function.

    Examples
    --------
    >>> import torch
    >>> LogSumExpPool1d(3, stride=2, ceil_mode=True)(torch.zeros(2, 4, 10)).shape
    torch.Size([2, 4, 5])
    """

    ndim = 1


class LogSumExpPool2d(_LogSumExpPool):
    r"""Pooling by the log-sum-exp, a soft maximum whose hardness mu is learned.

    .. math:: out[b, c, x] = \frac{1}{\mu} \ln \sum_y e^{\mu\, img[b, c, s x + d y - p]}

    The sum is over the positions inside the image. For large mu it tends to the maximum, for large
    negative mu to the minimum. It lies ln(n) / mu above the log of the mean, which ``mean=True``
    computes: for small mu that tends to the mean of the n values.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.MaxPool2d`, with its output sizes; positions outside the image do not take
        part.
    mu : float
        The initial hardness, finite and not 0.
    mean : bool
        Subtract ln(n) / mu, n the number of positions inside the image.
    channels : int, optional
        One mu for each of so many channels; None: one for all.
    learn : bool
        Whether `mu` is a parameter, or a buffer that stays as it is.
    device, dtype : optional
        As in torch's modules.

    Attributes
    ----------
    mu : Parameter or buffer, () or (channels,)

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    GeMPool2d : By the generalised mean.
    DilationPool2d : By the maximum, with a learned structuring function.
    functional.log_sum_exp_pool2d : The function.

    Notes
    -----
    Windows that lie outside of the image give -inf for mu > 0 and +inf for mu < 0. A learned mu
    does not pass through 0, where the sum diverges; at 0 results are not finite. With ``mean=True``
    a learned mu may: at 0 the result is the mean. Results are exact to a few units in the last
    place of the largest value, on the CPU to ln(n) / mu of these units for a mu above 0.05, or
    above 1 / max(abs(img)) if that is less.

    References
    ----------
    P. O. Pinheiro and R. Collobert, "From image-level to pixel-level labeling with convolutional
    networks", CVPR 2015, which has the mean, and mu as its r.

    Examples
    --------
    >>> import torch
    >>> pool = LogSumExpPool2d(2, mu=4.0, mean=True, channels=3)
    >>> pool
    LogSumExpPool2d(kernel_size=2, stride=2, padding=0, mu=4.0, channels=3, mean=True)
    >>> pool(torch.randn(8, 3, 28, 28)).shape
    torch.Size([8, 3, 14, 14])
    """

    ndim = 2


class LogSumExpPool3d(_LogSumExpPool):
    """Pooling of volumes by the log-sum-exp: `LogSumExpPool2d` in three dimensions.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.MaxPool3d`.
    mu, mean, channels, learn, device, dtype
        As in `LogSumExpPool2d`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    LogSumExpPool2d : The formula, its limits and its source.
    GeMPool3d : By the generalised mean.
    functional.log_sum_exp_pool3d : The function.

    Examples
    --------
    >>> import torch
    >>> LogSumExpPool3d(2)(torch.zeros(1, 3, 8, 8, 8)).shape
    torch.Size([1, 3, 4, 4, 4])
    """

    ndim = 3


class _GeMPool(_Pool):
    parameter_name = "p"
    p: Tensor

    def __init__(
        self,
        kernel_size: KernelSize,
        stride: KernelSize | None = None,
        padding: KernelSize = 0,
        *,
        p: float = 3.0,
        eps: float = 1e-6,
        dilation: KernelSize = 1,
        ceil_mode: bool = False,
        channels: int | None = None,
        learn: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)
        self._set_parameter(p, "gem_pool", channels, learn, device, dtype)
        self.eps = positive_number("eps", eps)

    def forward(self, img: Tensor) -> Tensor:
        """`img` (B, C, *S) or (C, *S), and the result in the same way."""
        self._require_channels(img)
        return gem_pool(img, self._window, self.p, self.eps)


class GeMPool1d(_GeMPool):
    """Pooling of signals by the generalised mean: `GeMPool2d` in one dimension.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.MaxPool1d`.
    p, eps, channels, learn, device, dtype
        As in `GeMPool2d`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    GeMPool2d : The formula, its limits and its source.
    LogSumExpPool1d : By the log-sum-exp.
    functional.gem_pool1d : The function.

    Examples
    --------
    >>> import torch
    >>> GeMPool1d(3, stride=2, ceil_mode=True)(torch.ones(2, 4, 10)).shape
    torch.Size([2, 4, 5])
    """

    ndim = 1


class GeMPool2d(_GeMPool):
    r"""Pooling by the generalised mean, whose power p is learned.

    .. math:: out[b, c, x] = \Bigl( \frac{1}{n} \sum_y
              \max(img[b, c, s x + d y - p], \epsilon)^p \Bigr)^{1/p}

    The mean is over the n positions inside the image, as in `torch.nn.AvgPool2d` with
    ``count_include_pad=False``. p = 1 is the mean and large p the maximum; p = -1 is the harmonic
    mean and large negative p the minimum.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.MaxPool2d`, with its output sizes. The whole image is one window of
        `functional.gem_pool2d` ``(x, x.shape[-2:])``.
    p : float
        The initial power, finite and not 0.
    eps : float
        Values below it count as eps, and get no gradient.
    channels : int, optional
        One p for each of so many channels; None: one for all.
    learn : bool
        Whether `p` is a parameter, or a buffer that stays as it is.
    device, dtype : optional
        As in torch's modules.

    Attributes
    ----------
    p : Parameter or buffer, () or (channels,)

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    LogSumExpPool2d : By the log-sum-exp.
    DilationPool2d : By the maximum, with a learned structuring function.
    functional.gem_pool2d : The function, also of the whole image.

    Notes
    -----
    Windows that lie outside of the image give 0. Halves are computed in float32. As p -> 0 the
    result tends to the geometric mean, which a learned p of exactly 0 gives. This holds for every
    p, to some 25 units in the last place. Where sums compute it (from a p of 1/4 on), means beyond
    1e-10 to 1e10 also need n^(1/p) times them to be in the dtype's range.

    References
    ----------
    F. Radenovic, G. Tolias and O. Chum, "Fine-tuning CNN image retrieval with no human annotation",
    IEEE TPAMI 41 (2019; 2018 as preprint), whose initial p and eps these are.

    Examples
    --------
    >>> import torch
    >>> GeMPool2d(2)
    GeMPool2d(kernel_size=2, stride=2, padding=0, p=3.0)
    >>> GeMPool2d(2, p=1.0)(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])).item()
    3.0
    """

    ndim = 2


class GeMPool3d(_GeMPool):
    """Pooling of volumes by the generalised mean: `GeMPool2d` in three dimensions.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.MaxPool3d`.
    p, eps, channels, learn, device, dtype
        As in `GeMPool2d`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    GeMPool2d : The formula, its limits and its source.
    LogSumExpPool3d : By the log-sum-exp.
    functional.gem_pool3d : The function.

    Examples
    --------
    >>> import torch
    >>> GeMPool3d(2)(torch.ones(1, 3, 8, 8, 8)).shape
    torch.Size([1, 3, 4, 4, 4])
    """

    ndim = 3
