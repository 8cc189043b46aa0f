"""Covariances S of quadratic kernels -(x^T S^-1 x), and their parametrisations.

By the principal axes (`CovSpectral`), or by standard deviations and correlations (`CovCholesky`).
Called by `kernels`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.backends.quadratic import Parametrisation
from torch_bridge.quadratic.channels import Channels
from torch_bridge.quadratic.initial import (
    Init,
    angles,
    anisotropic_variance,
    log_std,
    options,
    truncated_normal,
)
from torch_bridge.quadratic.offsets import sum_of_squares
from torch_bridge.sizes import MOST_AXES, KernelSize, fixed_dimensions, per_axis, whole_number


def _drop_single_plane(values: Tensor) -> Tensor:
    return values.squeeze(-1) if values.shape[-1] == 1 else values


class Covariance(Channels):
    """A covariance S for each kernel, given by `ndim` log standard deviations and more."""

    fixed_ndim: int | None = None
    parametrisation: Parametrisation | None = None  # None: only tensors know it
    ndim: int
    log_std: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        init: Init | None = None,
        kernel_size: KernelSize | None = None,
        *,
        ndim: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels)
        ndim = fixed_dimensions(type(self), ndim, self.fixed_ndim)
        if kernel_size is not None:
            sizes = per_axis("kernel_size", kernel_size, ndim)
            self.ndim = len(sizes)
        elif ndim is not None:
            sizes = None
            self.ndim = whole_number("ndim", ndim, below=MOST_AXES + 1)
        else:
            raise ValueError(f"{type(self).__name__} needs ndim, or a kernel_size tuple")
        self._init, self._sizes = init, sizes
        self.draw_parameters(device, dtype)

    def initial(self, init: Init | None, sizes: tuple[int, ...] | None) -> dict[str, Tensor]:
        """The initial value of each parameter, in this parametrisation's layout."""
        raise NotImplementedError

    def initial_parameters(self) -> dict[str, Tensor]:
        return self.initial(self._init, self._sizes)

    @property
    def pairs(self) -> Tensor:
        """The parameters of pairs of axes, (O, I) or (O, I, N (N - 1) / 2)."""
        raise NotImplementedError

    @staticmethod
    def whitened(log_std: Tensor, pairs: Tensor, points: Sequence[Tensor]) -> list[Tensor]:
        """`whiten` with these parameters."""
        raise NotImplementedError

    @classmethod
    def quadratic(cls, log_std: Tensor, pairs: Tensor, points: Sequence[Tensor]) -> Tensor:
        """-x^T S^-1 x for points x, with these parameters."""
        return -sum_of_squares(cls.whitened(log_std, pairs, points))

    def whiten(self, points: Sequence[Tensor]) -> list[Tensor]:
        """z with z^T z = x^T S^-1 x for points x; one tensor a coordinate.

        The coordinates of x have the same number of axes and broadcast with each other; those of z
        broadcast to (O, I, *shape).
        """
        return self.whitened(self.log_std, self.pairs, points)

    def inspect_parameters(self) -> tuple[Tensor, Tensor]:
        """(log_std (O, I, ndim), the rotation or correlation parameters)."""
        raise NotImplementedError


def _rotated_back(theta: Tensor, points: list[Tensor]) -> list[Tensor]:
    """R^T x: the coordinates of x (entries that broadcast with (O, I, ...)) in S's own axes."""
    theta = theta.reshape(*theta.shape[:2], -1)
    planes = itertools.combinations(range(len(points)), 2)
    for index, (i, j) in enumerate(planes):
        angle = theta[..., index].view(*theta.shape[:2], *(1,) * (points[0].dim() - 2))
        cos, sin = angle.cos(), angle.sin()
        points[i], points[j] = (
            cos * points[i] + sin * points[j],
            cos * points[j] - sin * points[i],
        )
    return points


class CovSpectral(Covariance):
    r"""Covariances by the lengths of their axes and plane rotations by `theta`.

    .. math:: S = R\, diag(e^{2\, log\_std})\, R^T

    Parameters
    ----------
    in_channels, out_channels : int
        I and O: there are O x I covariances.
    init : mapping, optional
        "var": float | "normal" | "uniform" | "uniform-iso" | "ss-iso" | "log-ss-iso" | "skewed"
        (default); "theta": "uniform" | "spin" (default). See `QuadraticKernelSpectral`.
    kernel_size : int or tuple of int, optional
        Needed by the "ss" initial values alone.
    ndim : int
        Number of spatial axes N.
    device, dtype : optional
        As in torch's modules.

    Attributes
    ----------
    log_std : Parameter (O, I, N)
        Logarithms of the standard deviations along the principal axes, in pixels.
    theta : Parameter (O, I) for N = 2, else (O, I, N (N - 1) / 2)
        Angles in radians: one for each pair of axes i < j, in lexicographic order. R is the product
        of the rotations e_i -> cos e_i + sin e_j in that order.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    CovCholesky : By deviations and correlations.
    QuadraticKernelSpectral : The kernels.

    Examples
    --------
    >>> CovSpectral(1, 2, {"var": 4.0}, ndim=3).cov()[0, 0].diagonal().tolist()
    [4.0, 4.0, 4.0]
    """

    parametrisation = "spectral"
    log_std: Tensor
    theta: Tensor

    def initial(self, init: Init | None, sizes: tuple[int, ...] | None) -> dict[str, Tensor]:
        chosen = options(init, {"var": "skewed", "theta": "spin"})
        shape = (self.out_channels, self.in_channels)
        variance = anisotropic_variance(chosen["var"], shape, self.ndim, sizes)
        theta = angles(chosen["theta"], shape, self.ndim * (self.ndim - 1) // 2)
        return {"theta": _drop_single_plane(theta), "log_std": log_std(variance)}

    @property
    def pairs(self) -> Tensor:
        return self.theta

    def _axes(self) -> Tensor:
        """R, (O, I, N, N)."""
        unit = torch.eye(self.ndim, device=self.log_std.device, dtype=self.log_std.dtype)
        shape = (self.out_channels, self.in_channels, self.ndim)
        rotated = _rotated_back(self.theta, [row.expand(shape) for row in unit])
        return torch.stack(rotated, dim=-1)

    @staticmethod
    def whitened(log_std: Tensor, pairs: Tensor, points: Sequence[Tensor]) -> list[Tensor]:
        """z = R^T x / std, so that z^T z = x^T S^-1 x."""
        rotated = _rotated_back(pairs, [axis[None, None] for axis in points])
        scale = torch.exp(-log_std)
        scale = scale.view(*scale.shape, *(1,) * points[0].dim())
        return [z * scale[:, :, n] for n, z in enumerate(rotated)]

    def inverse_cov(self) -> Tensor:
        """S^-1, (O, I, N, N)."""
        return self._from_eigenvalues(torch.exp(-2 * self.log_std))

    def cov(self) -> Tensor:
        """S, (O, I, N, N)."""
        return self._from_eigenvalues(torch.exp(2 * self.log_std))

    def _from_eigenvalues(self, values: Tensor) -> Tensor:
        axes = self._axes()
        return ((axes * values[..., None, :])[..., :, None, :] * axes[..., None, :, :]).sum(-1)

    def inspect_parameters(self) -> tuple[Tensor, Tensor]:
        return self.log_std, self.theta

    def forward(self) -> Tensor:
        return self.inverse_cov()


def _lower_rows(log_std: Tensor, corr: Tensor) -> list[list[Tensor]]:
    """The entries of L up to its diagonal, each (O, I)."""
    corr = corr.reshape(*corr.shape[:2], -1)
    # 1 / cosh is sqrt(1 - tanh^2) without its cancellation: L stays regular.
    partial, rest = torch.tanh(corr), torch.cosh(corr).reciprocal()
    rows, index = [], 0
    for axis, std in enumerate(log_std.exp()):
        row = []
        for _ in range(axis):
            row.append(std * partial[..., index])
            std = std * rest[..., index]
            index += 1
        rows.append([*row, std])
    return rows


class CovCholesky(Covariance):
    """Covariances by standard deviations and (partial) correlations tanh(`corr`).

    .. math:: S = L L^T

    For N = 2, L = [[s0, 0], [r s1, sqrt(1 - r^2) s1]] with Pearson's correlation r = tanh(corr).
    In general row i of L is s_i (r_i0, r_i1 q_i0, r_i2 q_i0 q_i1, ..., q_i0 ... q_i,i-1) with the
    canonical partial correlations r = tanh(corr) and q = sqrt(1 - r^2) (Lewandowski, Kurowicka and
    Joe 2009): every parameter value is a valid covariance, and every covariance is reached.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, ndim, device, dtype
        As in `CovSpectral`.
    init : mapping, optional
        "var" as in `CovSpectral`. Correlations start at tanh of a normal draw with standard
        deviation 0.5, cut to [-1, 1].

    Attributes
    ----------
    log_std : Parameter (N, O, I)
        Logarithms of the standard deviations along the image axes, in pixels.
    corr : Parameter (O, I) for N = 2, else (O, I, N (N - 1) / 2)
        One for each entry of L below its diagonal, row by row.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    CovSpectral : By the lengths of their axes and rotations.
    QuadraticKernelCholesky : The kernels.

    Examples
    --------
    >>> CovCholesky(1, 2, {"var": 4.0}, ndim=3).cov().diagonal(dim1=-2, dim2=-1)[0, 0].shape
    torch.Size([3])
    """

    parametrisation = "cholesky"
    log_std: Tensor
    corr: Tensor

    def initial(self, init: Init | None, sizes: tuple[int, ...] | None) -> dict[str, Tensor]:
        chosen = options(init, {"var": "skewed"})
        shape = (self.out_channels, self.in_channels)
        variance = anisotropic_variance(chosen["var"], shape, self.ndim, sizes)
        corr = truncated_normal(0.0, 0.5, -1.0, 1.0)(*shape, self.ndim * (self.ndim - 1) // 2)
        return {
            "corr": _drop_single_plane(corr),
            "log_std": log_std(variance).movedim(-1, 0).contiguous(),
        }

    @property
    def pairs(self) -> Tensor:
        return self.corr

    @staticmethod
    def whitened(log_std: Tensor, pairs: Tensor, points: Sequence[Tensor]) -> list[Tensor]:
        """z = L^-1 x by forward substitution, so that z^T z = x^T S^-1 x."""
        solved: list[Tensor] = []
        for row, point in zip(_lower_rows(log_std, pairs), points, strict=True):
            *below, diagonal = (entry.view(*entry.shape, *(1,) * point.dim()) for entry in row)
            rest = point - sum(entry * z for entry, z in zip(below, solved, strict=True))
            solved.append(rest / diagonal)
        return solved

    def cholesky(self) -> Tensor:
        """L, lower triangular, (O, I, N, N)."""
        zero = torch.zeros_like(self.log_std[0])
        rows = [
            row + [zero] * (self.ndim - len(row)) for row in _lower_rows(self.log_std, self.corr)
        ]
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)

    def cov(self) -> Tensor:
        """S = L L^T, (O, I, N, N)."""
        lower = self.cholesky()
        return (lower[..., :, None, :] * lower[..., None, :, :]).sum(-1)

    def inspect_parameters(self) -> tuple[Tensor, Tensor]:
        return self.log_std.movedim(0, -1), self.corr

    def forward(self) -> Tensor:
        return self.cholesky()


class CovSpectral2D(CovSpectral):
    """`CovSpectral` in two dimensions: S from two log standard deviations and one rotation.

    Parameters
    ----------
    in_channels, out_channels, init, kernel_size, device, dtype
        As in `CovSpectral`.
    ndim : int, optional
        Nothing but 2.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    CovSpectral : In any number of dimensions; the formula.
    QuadraticKernelSpectral2D : The kernels.

    Examples
    --------
    >>> CovSpectral2D(1, 2, {"var": 4.0}).theta.shape
    torch.Size([2, 1])
    """

    fixed_ndim = 2


class CovCholesky2D(CovCholesky):
    """`CovCholesky` in two dimensions: S from two log standard deviations and Pearson's r.

    Parameters
    ----------
    in_channels, out_channels, init, kernel_size, device, dtype
        As in `CovCholesky`.
    ndim : int, optional
        Nothing but 2.

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    CovCholesky : In any number of dimensions; the formula.
    QuadraticKernelCholesky2D : The kernels.

    Examples
    --------
    >>> CovCholesky2D(1, 2, {"var": 4.0}).corr.shape
    torch.Size([2, 1])
    """

    fixed_ndim = 2
