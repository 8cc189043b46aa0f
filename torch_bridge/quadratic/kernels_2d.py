"""The kernels of `kernels` in two dimensions, whose parameters have names of their own."""

from __future__ import annotations

from torch_bridge.quadratic.covariances import CovCholesky2D, CovSpectral2D
from torch_bridge.quadratic.kernels import (
    LearnedKernel,
    QuadraticKernelCholesky,
    QuadraticKernelIso,
    QuadraticKernelSpectral,
)


class QuadraticKernelSpectral2D(QuadraticKernelSpectral):
    """`QuadraticKernelSpectral` in two dimensions: `covs.theta` is one angle a kernel, (O, I).

    Parameters
    ----------
    in_channels, out_channels, kernel_size, init, positive, device, dtype
        As in `QuadraticKernelSpectral`.
    ndim : int, optional
        Nothing but 2.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    QuadraticKernelSpectral : In any number of dimensions; the formula.
    QuadraticKernelCholesky2D, QuadraticKernelIso2D, LearnedKernel2D : Other kernels.

    Examples
    --------
    >>> QuadraticKernelSpectral2D(in_channels=2, out_channels=3, kernel_size=5)
    QuadraticKernelSpectral2D(
      2, 3, kernel_size=5
      (covs): CovSpectral2D(2, 3)
    )
    """

    fixed_ndim = 2
    covariance = CovSpectral2D


class QuadraticKernelCholesky2D(QuadraticKernelCholesky):
    """`QuadraticKernelCholesky` in two dimensions: `covs.corr` is Pearson's r before tanh, (O, I).

    Parameters
    ----------
    in_channels, out_channels, kernel_size, init, positive, device, dtype
        As in `QuadraticKernelCholesky`.
    ndim : int, optional
        Nothing but 2.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    QuadraticKernelCholesky : In any number of dimensions; the formula.
    QuadraticKernelSpectral2D, QuadraticKernelIso2D, LearnedKernel2D : Other kernels.

    Examples
    --------
    >>> QuadraticKernelCholesky2D(in_channels=2, out_channels=3, kernel_size=5)().shape
    torch.Size([3, 2, 5, 5])
    """

    fixed_ndim = 2
    covariance = CovCholesky2D


class QuadraticKernelIso2D(QuadraticKernelIso):
    """`QuadraticKernelIso` in two dimensions.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, init, positive, device, dtype
        As in `QuadraticKernelIso`.
    ndim : int, optional
        Nothing but 2.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    QuadraticKernelIso : In any number of dimensions; the formula.
    QuadraticKernelSpectral2D, QuadraticKernelCholesky2D, LearnedKernel2D : Other kernels.

    Examples
    --------
    >>> QuadraticKernelIso2D(in_channels=2, out_channels=3, kernel_size=5).log_std.shape
    torch.Size([3, 2])
    """

    fixed_ndim = 2


class LearnedKernel2D(LearnedKernel):
    """`LearnedKernel` in two dimensions.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, positive, device, dtype
        As in `LearnedKernel`.
    ndim : int, optional
        Nothing but 2.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    LearnedKernel : In any number of dimensions.
    QuadraticKernelSpectral2D, QuadraticKernelCholesky2D, QuadraticKernelIso2D : With a shape.

    Examples
    --------
    >>> LearnedKernel2D(in_channels=2, out_channels=3, kernel_size=5)().shape
    torch.Size([3, 2, 5, 5])
    """

    fixed_ndim = 2
