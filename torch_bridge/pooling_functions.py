"""Pooling between the mean and the maximum as functions of tensors, in one to three dimensions.

`functional` offers them; `means` computes them.
"""

from __future__ import annotations

from torch import Tensor

from torch_bridge.means import gem_pool, log_sum_exp_pool
from torch_bridge.parameters import Parameter
from torch_bridge.pooling import PoolingWindow
from torch_bridge.sizes import KernelSize

__all__ = [
    "gem_pool1d",
    "gem_pool2d",
    "gem_pool3d",
    "log_sum_exp_pool1d",
    "log_sum_exp_pool2d",
    "log_sum_exp_pool3d",
]


def log_sum_exp_pool1d(
    img: Tensor,
    kernel_size: KernelSize,
    stride: KernelSize | None = None,
    padding: KernelSize = 0,
    *,
    mu: Parameter = 1.0,
    mean: bool = False,
    dilation: KernelSize = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`log_sum_exp_pool2d` of signals: ln(sum e^(mu v)) / mu.

    Parameters
    ----------
    img : Tensor (B, C, W) or (C, W)
        Of a floating dtype.
    kernel_size, stride, padding, mu, mean, dilation, ceil_mode
        As in `log_sum_exp_pool2d`.

    Returns
    -------
    Tensor (B, C, W') or (C, W')
        Of img's dtype and device.

    Raises
    ------
    ValueError, TypeError
        As in `log_sum_exp_pool2d`.

    See Also
    --------
    log_sum_exp_pool2d : The formula and its limits.
    torch_bridge.LogSumExpPool1d : The layer.

    Examples
    --------
    >>> import torch
    >>> log_sum_exp_pool1d(torch.tensor([[0.0, 0.0, 5.0, 5.0]]), 2, mean=True)
    tensor([[0., 5.]])
    """
    window = PoolingWindow.of(1, kernel_size, stride, padding, dilation, ceil_mode)
    return log_sum_exp_pool(img, window, mu, mean)


def log_sum_exp_pool2d(
    img: Tensor,
    kernel_size: KernelSize,
    stride: KernelSize | None = None,
    padding: KernelSize = 0,
    *,
    mu: Parameter = 1.0,
    mean: bool = False,
    dilation: KernelSize = 1,
    ceil_mode: bool = False,
) -> Tensor:
    r"""Pool by the log-sum-exp; with `mean`, minus ln(n) / mu.

    .. math:: out[b, c, x] = \frac{1}{\mu} \ln \sum_y e^{\mu\, img[b, c, s x + d y - p]}

    Parameters
    ----------
    img : Tensor (B, C, H, W) or (C, H, W)
        Of a floating dtype.
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.functional.max_pool2d`, with its output sizes; positions outside the image
        do not take part.
    mu : float or Tensor
        The hardness: a number, finite and not 0, or a tensor with one entry or one for each
        channel, (C,), which gets a gradient.
    mean : bool
        Subtract ln(n) / mu, n the number of positions inside the image.

    Returns
    -------
    Tensor (B, C, H', W') or (C, H', W')
        Of img's dtype and device.

    Raises
    ------
    ValueError, TypeError
        A mu that is 0 or not finite, or of another shape; arguments that torch's pooling refuses;
        no floating tensor, or one of another rank.

    See Also
    --------
    gem_pool2d : The generalised mean.
    torch_bridge.LogSumExpPool2d : The layer, with limits and source.

    Examples
    --------
    >>> import torch
    >>> mu = torch.tensor([1.0, 50.0])
    >>> img = torch.tensor([0.0, 0.0, 0.0, 1.0]).view(2, 2).expand(1, 2, 2, 2)
    >>> log_sum_exp_pool2d(img, 2, mu=mu, mean=True).flatten()
    tensor([0.3574, 0.9723])
    """
    window = PoolingWindow.of(2, kernel_size, stride, padding, dilation, ceil_mode)
    return log_sum_exp_pool(img, window, mu, mean)


def log_sum_exp_pool3d(
    img: Tensor,
    kernel_size: KernelSize,
    stride: KernelSize | None = None,
    padding: KernelSize = 0,
    *,
    mu: Parameter = 1.0,
    mean: bool = False,
    dilation: KernelSize = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`log_sum_exp_pool2d` of volumes: ln(sum e^(mu v)) / mu.

    Parameters
    ----------
    img : Tensor (B, C, D, H, W) or (C, D, H, W)
        Of a floating dtype.
    kernel_size, stride, padding, mu, mean, dilation, ceil_mode
        As in `log_sum_exp_pool2d`.

    Returns
    -------
    Tensor (B, C, D', H', W') or (C, D', H', W')
        Of img's dtype and device.

    Raises
    ------
    ValueError, TypeError
        As in `log_sum_exp_pool2d`.

    See Also
    --------
    log_sum_exp_pool2d : The formula and its limits.
    torch_bridge.LogSumExpPool3d : The layer.

    Examples
    --------
    >>> import torch
    >>> log_sum_exp_pool3d(torch.zeros(1, 3, 8, 8, 8), 2, mu=2.0).shape
    torch.Size([1, 3, 4, 4, 4])
    """
    window = PoolingWindow.of(3, kernel_size, stride, padding, dilation, ceil_mode)
    return log_sum_exp_pool(img, window, mu, mean)


def gem_pool1d(
    img: Tensor,
    kernel_size: KernelSize,
    stride: KernelSize | None = None,
    padding: KernelSize = 0,
    *,
    p: Parameter = 3.0,
    eps: float = 1e-6,
    dilation: KernelSize = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`gem_pool2d` of signals: (mean of max(v, eps)^p)^(1/p).

    Parameters
    ----------
    img : Tensor (B, C, W) or (C, W)
        Of a floating dtype.
    kernel_size, stride, padding, p, eps, dilation, ceil_mode
        As in `gem_pool2d`.

    Returns
    -------
    Tensor (B, C, W') or (C, W')
        Of img's dtype and device.

    Raises
    ------
    ValueError, TypeError
        As in `gem_pool2d`.

    See Also
    --------
    gem_pool2d : The formula and its limits.
    torch_bridge.GeMPool1d : The layer.

    Examples
    --------
    >>> import torch
    >>> gem_pool1d(torch.tensor([[3.0, 3.0, 1.0, 7.0]]), 2, p=1.0)
    tensor([[3., 4.]])
    """
    window = PoolingWindow.of(1, kernel_size, stride, padding, dilation, ceil_mode)
    return gem_pool(img, window, p, eps)


def gem_pool2d(
    img: Tensor,
    kernel_size: KernelSize,
    stride: KernelSize | None = None,
    padding: KernelSize = 0,
    *,
    p: Parameter = 3.0,
    eps: float = 1e-6,
    dilation: KernelSize = 1,
    ceil_mode: bool = False,
) -> Tensor:
    r"""Pool by the generalised mean.

    .. math:: out[b, c, x] = \Bigl( \frac{1}{n} \sum_y
              \max(img[b, c, s x + d y - p], \epsilon)^p \Bigr)^{1/p}

    Parameters
    ----------
    img : Tensor (B, C, H, W) or (C, H, W)
        Of a floating dtype.
    kernel_size, stride, padding, dilation, ceil_mode
        As in `torch.nn.functional.max_pool2d`, with its output sizes. The mean is over positions
        inside the image. ``img.shape[-2:]`` pools the whole image.
    p : float or Tensor
        The power: a number, finite and not 0, or a tensor with one entry or one for each channel,
        (C,), which gets a gradient.
    eps : float
        Values below it count as eps, and get no gradient.

    Returns
    -------
    Tensor (B, C, H', W') or (C, H', W')
        Of img's dtype and device.

    Raises
    ------
    ValueError, TypeError
        A p that is 0 or not finite, or of another shape; arguments that torch's pooling refuses;
        no floating tensor, or one of another rank.

    See Also
    --------
    log_sum_exp_pool2d : The soft maximum.
    torch_bridge.GeMPool2d : The layer, with limits and source.

    Examples
    --------
    >>> import torch
    >>> features = torch.rand(4, 16, 7, 7)
    >>> gem_pool2d(features, features.shape[-2:]).shape
    torch.Size([4, 16, 1, 1])
    """
    window = PoolingWindow.of(2, kernel_size, stride, padding, dilation, ceil_mode)
    return gem_pool(img, window, p, eps)


def gem_pool3d(
    img: Tensor,
    kernel_size: KernelSize,
    stride: KernelSize | None = None,
    padding: KernelSize = 0,
    *,
    p: Parameter = 3.0,
    eps: float = 1e-6,
    dilation: KernelSize = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """`gem_pool2d` of volumes: (mean of max(v, eps)^p)^(1/p).

    Parameters
    ----------
    img : Tensor (B, C, D, H, W) or (C, D, H, W)
        Of a floating dtype.
    kernel_size, stride, padding, p, eps, dilation, ceil_mode
        As in `gem_pool2d`.

    Returns
    -------
    Tensor (B, C, D', H', W') or (C, D', H', W')
        Of img's dtype and device.

    Raises
    ------
    ValueError, TypeError
        As in `gem_pool2d`.

    See Also
    --------
    gem_pool2d : The formula and its limits.
    torch_bridge.GeMPool3d : The layer.

    Examples
    --------
    >>> import torch
    >>> gem_pool3d(torch.ones(1, 3, 8, 8, 8), 2).shape
    torch.Size([1, 3, 4, 4, 4])
    """
    window = PoolingWindow.of(3, kernel_size, stride, padding, dilation, ceil_mode)
    return gem_pool(img, window, p, eps)
