"""Learnable kernels as modules: their `forward()` gives the kernel array (O, I, *K).

Quadratic structuring functions -(x^T S^-1 x) with three parametrisations of the covariance S, and
the free kernel, in any number of dimensions. Nothing here takes an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_bridge.quadratic.channels import Channels
from torch_bridge.quadratic.covariances import (
    Covariance,
    CovCholesky,
    CovSpectral,
)
from torch_bridge.quadratic.fused import quadratic_kernel
from torch_bridge.quadratic.initial import Init, isotropic_variance, log_std, options
from torch_bridge.quadratic.offsets import offsets, sum_of_squares
from torch_bridge.quadratic.plot import draw
from torch_bridge.quadratic.positive import Positive, centre, checked, mapped
from torch_bridge.sizes import KernelSize, fixed_dimensions, per_axis


def _isotropic(log_std: Tensor, _: None, points: Sequence[Tensor]) -> Tensor:
    inverse, square = torch.exp(-2 * log_std), sum_of_squares(points)
    return -square * inverse.view(*inverse.shape, *(1,) * square.dim())


class Kernel(Channels):
    """A module whose `forward()` gives a kernel (O, I, *K)."""

    fixed_ndim: int | None = None
    positive: Positive | None = None  # of models that were saved before there was a choice

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        ndim: int | None,
        positive: Positive | None,
    ) -> None:
        super().__init__(in_channels, out_channels)
        self.positive = checked(positive)
        self.kernel_size = kernel_size
        self._sizes = per_axis(
            "kernel_size", kernel_size, fixed_dimensions(type(self), ndim, self.fixed_ndim)
        )

    def extra_repr(self) -> str:
        positive = "" if self.positive is None else f", positive={self.positive!r}"
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}{positive}"

    @torch.no_grad()
    def plot(self, at_most: int = 5) -> Any:
        """Draw the first `at_most` kernels with matplotlib, output channel by output channel.

        A 1-D kernel is drawn as a line, a 2-D one as an image whose axes are the offsets in pixels
        (all on one colour scale), a volume by its middle slice. Nothing is shown: call
        ``matplotlib.pyplot.show()`` outside a notebook.

        Returns
        -------
        numpy.ndarray of matplotlib Axes, one for each drawn kernel

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        return draw(self(), at_most)


class QuadraticKernel(Kernel):
    """A function of the grid of offsets."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        ndim: int | None,
        positive: Positive | None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, ndim, positive)
        self.register_load_state_dict_pre_hook(drop_position_grid)


def drop_position_grid(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop the grid of offsets, a buffer in checkpoints of pytorch_nd_semiconv."""
    state.pop(prefix + "_pos_grid", None)


class AnisotropicKernel(QuadraticKernel):
    """-z^T z with the offsets z whitened by a covariance."""

    covariance: type[Covariance]
    covs: Covariance

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        init: Init | None = None,
        *,
        ndim: int | None = None,
        positive: Positive | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, ndim, positive)
        self.covs = self.covariance(
            in_channels, out_channels, init, self._sizes, device=device, dtype=dtype
        )

    def inspect_parameters(self) -> tuple[Tensor, Tensor]:
        """The log standard deviations (O, I, N), and the parameters of the axes' directions."""
        return self.covs.inspect_parameters()

    def forward(self) -> Tensor:
        """The kernel, (O, I, *K)."""
        return mapped(self._values(), self.positive)

    def _values(self) -> Tensor:
        covs, shape = self.covs, (self.out_channels, self.in_channels)
        if covs.parametrisation is not None and type(covs).whiten is Covariance.whiten:
            return quadratic_kernel(
                covs.parametrisation,
                shape,
                self._sizes,
                covs.log_std,
                covs.pairs,
                covs.quadratic,
            )
        return -sum_of_squares(covs.whiten(offsets(self._sizes, covs.log_std)))


class QuadraticKernelSpectral(AnisotropicKernel):
    r"""Anisotropic quadratic kernels, S by its axes' lengths and rotation.

    .. math:: kernel[o, i, x] = -x^T S_{oi}^{-1} x

    x runs over the integer offsets of the taps: K of them on each axis, from -((K - 1) // 2) upward
    (K = 3: -1..1, K = 4: -1..2), the first offset along the first spatial axis.
    S = R diag(exp(2 log_std)) R^T (see `CovSpectral`). All values are <= 0, 0 at the origin.

    Parameters
    ----------
    in_channels, out_channels : int
        I and O.
    kernel_size : int or tuple of int
        K: one size for all axes, or one per axis.
    init : mapping, optional
        "var", the initial variances along the principal axes, in square pixels: a positive number,
        "uniform" (in [1, 16]), "normal" (mean 8, standard deviation 4, cut to [1, 16]),
        "skewed" (default; first axis uniform in [1, 8], all others in [20, 24]), or equal on
        all axes: "uniform-iso", "ss-iso" (evenly spaced from 1 to 2 (K // 2)^2 over all kernels,
        shuffled; K the largest size), "log-ss-iso" (the same on a log scale).
        "theta", the initial angles: "spin" (default; evenly spaced in [0, pi) over all kernels,
        shuffled), or "uniform" in [0, pi].
    ndim : int, optional
        Number of spatial axes N; needed where `kernel_size` is an int.
    positive : {None, "softplus", "exp"}
        "exp": the kernel is exp(-x^T S^-1 x), a Gaussian with values in (0, 1], as `root` needs
        them; a `root(p)` with it is the exponential of `log(p)` with the kernel of None.
        "softplus": softplus(-x^T S^-1 x) = ln(1 + exp(-x^T S^-1 x)), with values in (0, ln 2].
    device, dtype : optional
        As in torch's modules.

    Attributes
    ----------
    covs : CovSpectral
        Holds the parameters `log_std` and `theta`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    QuadraticKernelCholesky : S by deviations and correlations.
    QuadraticKernelIso : The same length in all directions.
    LearnedKernel : Free taps.
    semiconv_cupy.structuring.quadratic : An array, by its scale; source.

    Examples
    --------
    >>> QuadraticKernelSpectral(2, 3, (5, 3, 3))().shape
    torch.Size([3, 2, 5, 3, 3])
    """

    covariance = CovSpectral
    covs: CovSpectral


class QuadraticKernelCholesky(AnisotropicKernel):
    r"""Anisotropic quadratic kernels, S by deviations and correlations.

    .. math:: kernel[o, i, x] = -x^T S_{oi}^{-1} x

    S = L L^T (see `CovCholesky`); the kernel is computed by a triangular solve. Offsets x as
    in `QuadraticKernelSpectral`.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, ndim, positive, device, dtype
        As in `QuadraticKernelSpectral`.
    init : mapping, optional
        As in `QuadraticKernelSpectral`, without "theta".

    Attributes
    ----------
    covs : CovCholesky
        Holds the parameters `log_std` and `corr`.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    QuadraticKernelSpectral : S by its axes' lengths and rotation.
    QuadraticKernelIso : The same length in all directions.
    LearnedKernel : Free taps.

    Examples
    --------
    >>> kernel = QuadraticKernelCholesky(1, 1, (1, 3), {"var": 4.0})
    >>> kernel.covs.corr.data.zero_()
    tensor([[0.]])
    >>> kernel().flatten().tolist()
    [-0.25, -0.0, -0.25]
    """

    covariance = CovCholesky
    covs: CovCholesky


class QuadraticKernelIso(QuadraticKernel):
    r"""Isotropic quadratic kernels, with s = exp(log_std).

    .. math:: kernel[o, i, x] = -\vert x \vert^2 / s_{oi}^2

    Parameters
    ----------
    in_channels, out_channels, kernel_size, ndim, positive, device, dtype
        As in `QuadraticKernelSpectral`.
    init : mapping, optional
        "var", the initial variance s^2: a positive number, "uniform" (in [1, 16]), "normal"
        (mean 8, standard deviation 4, cut to [1, 16]), "ss" (default; evenly spaced from 1 to
        2 (K // 2)^2 over all kernels, shuffled; K the largest size), "log-ss" (the same on a log
        scale).

    Attributes
    ----------
    log_std : Parameter (O, I)

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    QuadraticKernelSpectral, QuadraticKernelCholesky : Anisotropic ones.
    LearnedKernel : Free taps.

    Examples
    --------
    >>> QuadraticKernelIso(1, 1, 3, {"var": 2.0}, ndim=1)().flatten().round(decimals=3).tolist()
    [-0.5, -0.0, -0.5]
    """

    log_std: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        init: Init | None = None,
        *,
        ndim: int | None = None,
        positive: Positive | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, ndim, positive)
        self._init = init
        self.draw_parameters(device, dtype)

    def initial_parameters(self) -> dict[str, Tensor]:
        chosen = options(self._init, {"var": "ss"})
        shape = (self.out_channels, self.in_channels)
        return {"log_std": log_std(isotropic_variance(chosen["var"], shape, self._sizes))}

    def forward(self) -> Tensor:
        """The kernel, (O, I, *K)."""
        shape = (self.out_channels, self.in_channels)
        values = quadratic_kernel("isotropic", shape, self._sizes, self.log_std, None, _isotropic)
        return mapped(values, self.positive)


class LearnedKernel(Kernel):
    """A free kernel: every tap a parameter, drawn from a normal distribution of deviation 1.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, ndim, device, dtype
        As in `QuadraticKernelSpectral`.
    positive : {None, "softplus", "exp"}
        None: the taps are the parameter, whose mean is 0. Else the taps are softplus(parameter) or
        exp(parameter), whose mean is the one that stands for a tap of 1: as `root` needs them.

    Attributes
    ----------
    kernel : Parameter (O, I, *K)

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    QuadraticKernelIso, QuadraticKernelSpectral : Kernels with a shape.

    Examples
    --------
    >>> LearnedKernel(2, 3, 5, ndim=1)().shape
    torch.Size([3, 2, 5])
    >>> bool((LearnedKernel(2, 3, 5, ndim=1, positive="exp")() > 0).all())
    True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        *,
        ndim: int | None = None,
        positive: Positive | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, ndim, positive)
        shape = (self.out_channels, self.in_channels, *self._sizes)
        self.kernel = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel's parameter again."""
        nn.init.normal_(self.kernel, mean=centre(self.positive))

    def forward(self) -> Tensor:
        """The kernel, (O, I, *K)."""
        return mapped(self.kernel, self.positive)
