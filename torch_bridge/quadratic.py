"""Learnable kernels as modules: their `forward()` gives the kernel array (O, I, *K).

Here: quadratic structuring functions -(x^T S^-1 x) with three parametrisations of the covariance S,
and the free kernel, in any number of dimensions. Not here: anything that touches an image.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active

__all__ = [
    "CovCholesky",
    "CovCholesky2D",
    "CovSpectral",
    "CovSpectral2D",
    "LearnedKernel",
    "LearnedKernel2D",
    "QuadraticKernelCholesky",
    "QuadraticKernelCholesky2D",
    "QuadraticKernelIso",
    "QuadraticKernelIso2D",
    "QuadraticKernelSpectral",
    "QuadraticKernelSpectral2D",
]

KernelSize = int | tuple[int, ...]
Init = Mapping[str, str | float]
_MOST_AXES = 63  # of a torch tensor, which has two more


def per_axis(
    name: str, value: int | tuple[int, ...], ndim: int | None, at_least: int = 1
) -> tuple[int, ...]:
    """`value` as one integer per spatial axis; an int needs `ndim`, a tuple brings its own."""
    if isinstance(value, (tuple, list)):
        if not value or (ndim is not None and len(value) != ndim):
            raise ValueError(f"{name} must have {ndim or 'one or more'} entries, got {value!r}")
        return tuple(_integer(name, entry, at_least) for entry in value)
    number = _integer(name, value, at_least)
    if ndim is None:
        raise ValueError(
            f"{name}={value!r} does not say the number of dimensions: "
            "give one entry per axis, or ndim"
        )
    return (number,) * _integer("ndim", ndim, below=_MOST_AXES)


def _fixed_dimensions(cls: type, ndim: int | None, fixed: int | None) -> int | None:
    if fixed is not None and not (ndim is None or _integer("ndim", ndim) == fixed):
        raise ValueError(f"{cls.__name__} has {fixed} dimensions, got ndim={ndim!r}")
    return ndim if fixed is None else fixed


def _integer(name: str, value: Any, at_least: int = 1, below: int = 2**31) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value!r}")
    if int(value) >= below:
        raise ValueError(f"{name} must be below {below}, got {value!r}")
    return int(value)


_offsets_kept: dict[tuple[tuple[int, ...], torch.device, torch.dtype], list[Tensor]] = {}
_MOST_OFFSETS = 256


def _offsets(sizes: tuple[int, ...], like: Tensor) -> list[Tensor]:
    """The integer offsets of the taps: one tensor an axis, with `len(sizes)` axes, to broadcast.

    K of them from -((K - 1) // 2) upward, with the device and dtype of the parameter `like`. They
    are no state of a module: a buffer that no checkpoint holds is left uninitialised by `to_empty`.
    """
    ordinary = type(like) in (nn.Parameter, Tensor) and not _are_functorch_transforms_active()
    if torch.compiler.is_compiling() or not ordinary:
        return _new_offsets(sizes, like)
    key = (sizes, like.device, like.dtype)
    found = _offsets_kept.get(key)
    if found is None:
        with torch.inference_mode(False):  # else they could never take part in training
            found = _new_offsets(sizes, like)
        capturing = like.is_cuda and torch.cuda.is_current_stream_capturing()
        if capturing or type(found[0]) is not Tensor:  # memory of a CUDA graph; a fake tensor
            return found
        if len(_offsets_kept) >= _MOST_OFFSETS:
            _offsets_kept.clear()
        _offsets_kept[key] = found
    return found


def _new_offsets(sizes: tuple[int, ...], like: Tensor) -> list[Tensor]:
    axes = []
    for axis, k in enumerate(sizes):
        first = -((k - 1) // 2)
        offsets = torch.arange(first, first + k, device=like.device, dtype=like.dtype)
        axes.append(offsets.view(*(1,) * axis, -1, *(1,) * (len(sizes) - 1 - axis)))
    return axes


def _sum_of_squares(coordinates: Sequence[Tensor]) -> Tensor:
    first, *others = (axis.square() for axis in coordinates)
    return sum(others, start=first)


# Initial values. A variance of 1 pixel is the narrowest that is useful on a grid.


def _shuffled(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    return values[torch.randperm(values.numel())].view(shape)


def _truncated_normal(mean: float, std: float, low: float, high: float) -> Callable[..., Tensor]:
    def draw(*shape: int) -> Tensor:
        return nn.init.trunc_normal_(torch.empty(shape), mean, std, low, high)

    return draw


def _uniform(low: float, high: float) -> Callable[..., Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.empty(shape).uniform_(low, high)

    return draw


_normal_variance = _truncated_normal(8.0, 4.0, 1.0, 16.0)
_uniform_variance = _uniform(1.0, 16.0)


def _spaced_variance(sizes: tuple[int, ...] | None, shape: tuple[int, int], log: bool) -> Tensor:
    """Variances from 1 to 2 (K // 2)^2, evenly spaced over all kernels, in random order."""
    if sizes is None:
        raise ValueError('init["var"] of even spacing ("ss...") needs kernel_size')
    widest = max(1.0, 2.0 * (max(sizes) // 2) ** 2)
    count = math.prod(shape)
    if log:
        return _shuffled(torch.logspace(0, math.log2(widest), count, base=2.0), shape)
    return _shuffled(torch.linspace(1.0, widest, count), shape)


def _options(init: Init | None, defaults: dict[str, str | float]) -> dict[str, str | float]:
    """`init` over `defaults`; an unknown key is an error."""
    if init is None:
        return defaults
    if not isinstance(init, Mapping):
        raise TypeError(f"init must be a dict with the keys {sorted(defaults)}, got {init!r}")
    unknown = set(init) - set(defaults)
    if unknown:
        raise ValueError(f"init has the keys {sorted(defaults)}, got {sorted(unknown)} in {init!r}")
    return {**defaults, **init}


def _choose(key: str, value: str | float, choices: Mapping[str, Callable[[], Tensor]]) -> Tensor:
    if isinstance(value, str) and value in choices:
        return choices[value]()
    raise ValueError(f'init["{key}"] must be one of {sorted(choices)}, got {value!r}')


def _constant_variance(value: str | float, shape: tuple[int, ...]) -> Tensor | None:
    """The constant that `value` is, or None where it is a name."""
    if isinstance(value, str):
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f'init["var"] must be a name or a positive number, got {value!r}')
    if not 0 < value < math.inf:
        raise ValueError(f'init["var"] must be positive and finite, got {value!r}')
    return torch.full(shape, float(value))


def _anisotropic_variance(
    value: str | float, shape: tuple[int, int], ndim: int, sizes: tuple[int, ...] | None
) -> Tensor:
    """Initial variances (O, I, ndim) along the principal axes."""

    def same_on_all_axes(variance: Tensor) -> Tensor:
        return variance[..., None].expand(*shape, ndim)

    def skewed() -> Tensor:
        narrow, wide = _uniform(1.0, 8.0)(*shape, 1), _uniform(20.0, 24.0)(*shape, ndim - 1)
        return torch.cat([narrow, wide], dim=-1)

    constant = _constant_variance(value, (*shape, ndim))
    if constant is not None:
        return constant
    return _choose(
        "var",
        value,
        {
            "normal": lambda: _normal_variance(*shape, ndim),
            "uniform": lambda: _uniform_variance(*shape, ndim),
            "uniform-iso": lambda: same_on_all_axes(_uniform_variance(*shape)),
            "ss-iso": lambda: same_on_all_axes(_spaced_variance(sizes, shape, log=False)),
            "log-ss-iso": lambda: same_on_all_axes(_spaced_variance(sizes, shape, log=True)),
            "skewed": skewed,
        },
    )


def _isotropic_variance(
    value: str | float, shape: tuple[int, int], sizes: tuple[int, ...]
) -> Tensor:
    """Initial variances (O, I)."""
    constant = _constant_variance(value, shape)
    if constant is not None:
        return constant
    return _choose(
        "var",
        value,
        {
            "normal": lambda: _normal_variance(*shape),
            "uniform": lambda: _uniform_variance(*shape),
            "ss": lambda: _spaced_variance(sizes, shape, log=False),
            "log-ss": lambda: _spaced_variance(sizes, shape, log=True),
        },
    )


def _angles(value: str | float, shape: tuple[int, int], planes: int) -> Tensor:
    """Initial angles (O, I, planes)."""
    count = math.prod(shape)

    def spin() -> Tensor:
        even = torch.arange(count) * (math.pi / count)
        return torch.stack([_shuffled(even, shape) for _ in range(planes)], dim=-1)

    if planes == 0:
        return torch.empty(*shape, 0)
    return _choose(
        "theta", value, {"spin": spin, "uniform": lambda: _uniform(0.0, math.pi)(*shape, planes)}
    )


def _log_std(variance: Tensor) -> Tensor:
    return 0.5 * torch.log(variance)


# Covariances. One parameter per kernel and plane has shape (O, I) where there is one plane (2-D).


def _drop_single_plane(values: Tensor) -> Tensor:
    return values.squeeze(-1) if values.shape[-1] == 1 else values


class _Channels(nn.Module):
    """What every kernel and covariance knows: its channels, and how its own parameters begin."""

    in_channels: int
    out_channels: int

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = _integer("in_channels", in_channels)
        self.out_channels = _integer("out_channels", out_channels)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"

    def _initial_parameters(self) -> dict[str, Tensor]:
        """The initial values of the module's own parameters, not of its children's, drawn anew."""
        return {}

    def _draw_parameters(self, device: Any, dtype: Any) -> None:
        for name, value in self._initial_parameters().items():
            self.register_parameter(name, nn.Parameter(value.to(device=device, dtype=dtype)))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the module's own parameters anew, as its construction did.

        After ``to_empty``, which leaves them uninitialised; for a whole model,
        ``model.apply(lambda m: hasattr(m, "reset_parameters") and m.reset_parameters())``.
        """
        for name, value in self._initial_parameters().items():
            getattr(self, name).copy_(value)


class _Covariance(_Channels):
    """A covariance S for each kernel, given by `ndim` log standard deviations and more."""

    fixed_ndim: int | None = None
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
        ndim = _fixed_dimensions(type(self), ndim, self.fixed_ndim)
        if kernel_size is not None:
            sizes = per_axis("kernel_size", kernel_size, ndim)
            self.ndim = len(sizes)
        elif ndim is not None:
            sizes = None
            self.ndim = _integer("ndim", ndim, below=_MOST_AXES)
        else:
            raise ValueError(f"{type(self).__name__} needs ndim, or a kernel_size tuple")
        self._init, self._sizes = init, sizes
        self._draw_parameters(device, dtype)

    def _initial(self, init: Init | None, sizes: tuple[int, ...] | None) -> dict[str, Tensor]:
        """The initial value of each parameter, in this parametrisation's layout."""
        raise NotImplementedError

    def _initial_parameters(self) -> dict[str, Tensor]:
        return self._initial(self._init, self._sizes)

    def whiten(self, points: Sequence[Tensor]) -> list[Tensor]:
        """z with z^T z = x^T S^-1 x for points x; one tensor a coordinate.

        The coordinates of x have the same number of axes and broadcast with each other; those of z
        broadcast to (O, I, *shape).
        """
        raise NotImplementedError

    def inspect_parameters(self) -> tuple[Tensor, Tensor]:
        """(log_std (O, I, ndim), the rotation or correlation parameters)."""
        raise NotImplementedError


class CovSpectral(_Covariance):
    """Covariances S = R diag(exp(2 log_std)) R^T, R a product of plane rotations by `theta`.

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

    Attributes
    ----------
    log_std : Parameter (O, I, N)
        Logarithms of the standard deviations along the principal axes, in pixels.
    theta : Parameter (O, I) for N = 2, else (O, I, N (N - 1) / 2)
        Angles in radians: one for each pair of axes i < j, in lexicographic order. R is the product
        of the rotations e_i -> cos e_i + sin e_j in that order.

    Examples
    --------
    >>> CovSpectral(1, 2, {"var": 4.0}, ndim=3).cov()[0, 0].diagonal().tolist()
    [4.0, 4.0, 4.0]
    """

    log_std: Tensor
    theta: Tensor

    def _initial(self, init: Init | None, sizes: tuple[int, ...] | None) -> dict[str, Tensor]:
        options = _options(init, {"var": "skewed", "theta": "spin"})
        shape = (self.out_channels, self.in_channels)
        variance = _anisotropic_variance(options["var"], shape, self.ndim, sizes)
        theta = _angles(options["theta"], shape, self.ndim * (self.ndim - 1) // 2)
        return {"theta": _drop_single_plane(theta), "log_std": _log_std(variance)}

    def _rotated_back(self, points: list[Tensor]) -> list[Tensor]:
        """R^T x: the coordinates of x (entries that broadcast with (O, I, ...)) in S's own axes."""
        theta = self.theta.reshape(self.out_channels, self.in_channels, -1)
        planes = itertools.combinations(range(self.ndim), 2)
        for index, (i, j) in enumerate(planes):
            angle = theta[..., index].view(*theta.shape[:2], *(1,) * (points[0].dim() - 2))
            cos, sin = angle.cos(), angle.sin()
            points[i], points[j] = (
                cos * points[i] + sin * points[j],
                cos * points[j] - sin * points[i],
            )
        return points

    def _axes(self) -> Tensor:
        """R, (O, I, N, N)."""
        unit = torch.eye(self.ndim, device=self.log_std.device, dtype=self.log_std.dtype)
        shape = (self.out_channels, self.in_channels, self.ndim)
        rotated = self._rotated_back([row.expand(shape) for row in unit])
        return torch.stack(rotated, dim=-1)

    def whiten(self, points: Sequence[Tensor]) -> list[Tensor]:
        """z = R^T x / std, so that z^T z = x^T S^-1 x."""
        rotated = self._rotated_back([axis[None, None] for axis in points])
        scale = torch.exp(-self.log_std)
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


class CovCholesky(_Covariance):
    """Covariances S = L L^T, L from standard deviations and (partial) correlations tanh(`corr`).

    For N = 2, L = [[s0, 0], [r s1, sqrt(1 - r^2) s1]] with Pearson's correlation r = tanh(corr).
    In general row i of L is s_i (r_i0, r_i1 q_i0, r_i2 q_i0 q_i1, ..., q_i0 ... q_i,i-1) with the
    canonical partial correlations r = tanh(corr) and q = sqrt(1 - r^2) (Lewandowski, Kurowicka and
    Joe 2009): every parameter value is a valid covariance, and every covariance is reached.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, ndim
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

    Examples
    --------
    >>> CovCholesky(1, 2, {"var": 4.0}, ndim=3).cov().diagonal(dim1=-2, dim2=-1)[0, 0].shape
    torch.Size([3])
    """

    log_std: Tensor
    corr: Tensor

    def _initial(self, init: Init | None, sizes: tuple[int, ...] | None) -> dict[str, Tensor]:
        options = _options(init, {"var": "skewed"})
        shape = (self.out_channels, self.in_channels)
        variance = _anisotropic_variance(options["var"], shape, self.ndim, sizes)
        corr = _truncated_normal(0.0, 0.5, -1.0, 1.0)(*shape, self.ndim * (self.ndim - 1) // 2)
        return {
            "corr": _drop_single_plane(corr),
            "log_std": _log_std(variance).movedim(-1, 0).contiguous(),
        }

    def _rows(self) -> list[list[Tensor]]:
        """The entries of L up to its diagonal, each (O, I)."""
        corr = self.corr.reshape(self.out_channels, self.in_channels, -1)
        # 1 / cosh is sqrt(1 - tanh^2) without its cancellation: L stays regular.
        partial, rest = torch.tanh(corr), torch.cosh(corr).reciprocal()
        rows, index = [], 0
        for axis, std in enumerate(self.log_std.exp()):
            row = []
            for _ in range(axis):
                row.append(std * partial[..., index])
                std = std * rest[..., index]
                index += 1
            rows.append([*row, std])
        return rows

    def whiten(self, points: Sequence[Tensor]) -> list[Tensor]:
        """z = L^-1 x by forward substitution, so that z^T z = x^T S^-1 x."""
        solved: list[Tensor] = []
        for row, point in zip(self._rows(), points, strict=True):
            *below, diagonal = (entry.view(*entry.shape, *(1,) * point.dim()) for entry in row)
            rest = point - sum(entry * z for entry, z in zip(below, solved, strict=True))
            solved.append(rest / diagonal)
        return solved

    def cholesky(self) -> Tensor:
        """L, lower triangular, (O, I, N, N)."""
        zero = torch.zeros_like(self.log_std[0])
        rows = [row + [zero] * (self.ndim - len(row)) for row in self._rows()]
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
    """`CovSpectral` in two dimensions: S from two log standard deviations and one rotation."""

    fixed_ndim = 2


class CovCholesky2D(CovCholesky):
    """`CovCholesky` in two dimensions: S from two log standard deviations and Pearson's r."""

    fixed_ndim = 2


# Kernels.


def _plot(kernel: Tensor, at_most: int) -> Any:
    """Draw the first `at_most` of the kernels (O, I, *K) side by side; return the axes."""
    at_most = _integer("at_most", at_most)
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "plot() needs matplotlib, which is not installed: pip install matplotlib"
        ) from error
    kernel = kernel.detach().float().cpu()
    pairs = list(itertools.product(range(kernel.shape[0]), range(kernel.shape[1])))[:at_most]
    ndim = kernel.dim() - 2
    figure, axes = pyplot.subplots(
        1, len(pairs), figsize=(2.5 * len(pairs), 2.5), squeeze=False, layout="constrained"
    )
    low, high = kernel.amin().item(), kernel.amax().item()
    picture = None
    for axis, (o, i) in zip(axes[0], pairs, strict=True):
        tap = kernel[o, i]
        for _ in range(ndim - 2):  # the middle slice of a volume
            tap = tap[(tap.shape[0] - 1) // 2]
        sizes = tap.shape
        first = [-((k - 1) // 2) for k in sizes]
        axis.set_title(f"channel {o}" if kernel.shape[1] == 1 else f"out {o}, in {i}")
        if ndim == 1:
            axis.plot(range(first[0], first[0] + sizes[0]), tap.numpy(), marker="o")
        else:
            rows, columns = sizes
            extent = (
                first[1] - 0.5,
                first[1] + columns - 0.5,
                first[0] + rows - 0.5,
                first[0] - 0.5,
            )
            picture = axis.imshow(tap.numpy(), vmin=low, vmax=high, extent=extent)
        axis.locator_params("x" if ndim == 1 else "both", integer=True)  # offsets are whole
    if picture is not None:
        figure.colorbar(picture, ax=axes[0].tolist(), shrink=0.8)
    return axes[0]


class _Kernel(_Channels):
    """A module whose `forward()` gives a kernel (O, I, *K)."""

    fixed_ndim: int | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        ndim: int | None,
    ) -> None:
        super().__init__(in_channels, out_channels)
        self.kernel_size = kernel_size
        self._sizes = per_axis(
            "kernel_size", kernel_size, _fixed_dimensions(type(self), ndim, self.fixed_ndim)
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}"

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
        return _plot(self(), at_most)


class _QuadraticKernel(_Kernel):
    """A function of the grid of offsets."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        ndim: int | None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, ndim)
        self.register_load_state_dict_pre_hook(_drop_position_grid)


def _drop_position_grid(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The grid is no parameter; checkpoints of pytorch_nd_semiconv hold it nevertheless."""
    state.pop(prefix + "_pos_grid", None)


class _AnisotropicKernel(_QuadraticKernel):
    """-z^T z with the offsets z whitened by a covariance."""

    covariance: type[_Covariance]
    covs: _Covariance

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        init: Init | None = None,
        *,
        ndim: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, ndim)
        self.covs = self.covariance(
            in_channels, out_channels, init, self._sizes, device=device, dtype=dtype
        )

    def inspect_parameters(self) -> tuple[Tensor, Tensor]:
        """The log standard deviations (O, I, N), and the parameters of the axes' directions."""
        return self.covs.inspect_parameters()

    def forward(self) -> Tensor:
        """The kernel, (O, I, *K)."""
        whitened = self.covs.whiten(_offsets(self._sizes, self.covs.log_std))
        return -_sum_of_squares(whitened)


class QuadraticKernelSpectral(_AnisotropicKernel):
    r"""Anisotropic quadratic kernels :math:`-x^T S^{-1} x`, S by its axes' lengths and rotation.

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

    Examples
    --------
    >>> QuadraticKernelSpectral(2, 3, (5, 3, 3))().shape
    torch.Size([3, 2, 5, 3, 3])
    """

    covariance = CovSpectral
    covs: CovSpectral


class QuadraticKernelCholesky(_AnisotropicKernel):
    r"""Anisotropic quadratic kernels :math:`-x^T S^{-1} x`, S by deviations and correlations.

    S = L L^T (see `CovCholesky`); the kernel is computed by a triangular solve. Offsets x and
    all parameters as in `QuadraticKernelSpectral`, except that `init` has no "theta".

    Attributes
    ----------
    covs : CovCholesky
        Holds the parameters `log_std` and `corr`.

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


class QuadraticKernelIso(_QuadraticKernel):
    r"""Isotropic quadratic kernels :math:`-|x|^2 / s^2` with s = exp(log_std).

    Parameters
    ----------
    in_channels, out_channels, kernel_size, ndim, device, dtype
        As in `QuadraticKernelSpectral`.
    init : mapping, optional
        "var", the initial variance s^2: a positive number, "uniform" (in [1, 16]), "normal"
        (mean 8, standard deviation 4, cut to [1, 16]), "ss" (default; evenly spaced from 1 to
        2 (K // 2)^2 over all kernels, shuffled; K the largest size), "log-ss" (the same on a log
        scale).

    Attributes
    ----------
    log_std : Parameter (O, I)

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
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, ndim)
        self._init = init
        self._draw_parameters(device, dtype)

    def _initial_parameters(self) -> dict[str, Tensor]:
        options = _options(self._init, {"var": "ss"})
        shape = (self.out_channels, self.in_channels)
        return {"log_std": _log_std(_isotropic_variance(options["var"], shape, self._sizes))}

    def forward(self) -> Tensor:
        """The kernel, (O, I, *K)."""
        inverse = torch.exp(-2 * self.log_std)
        square = _sum_of_squares(_offsets(self._sizes, self.log_std))
        return -square * inverse.view(*inverse.shape, *(1,) * square.dim())


class LearnedKernel(_Kernel):
    """A free kernel: every tap a parameter, drawn from the standard normal distribution.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, ndim, device, dtype
        As in `QuadraticKernelSpectral`.

    Attributes
    ----------
    kernel : Parameter (O, I, *K)

    Examples
    --------
    >>> LearnedKernel(2, 3, 5, ndim=1)().shape
    torch.Size([3, 2, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        *,
        ndim: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, ndim)
        shape = (self.out_channels, self.in_channels, *self._sizes)
        self.kernel = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernel anew from the standard normal distribution."""
        nn.init.normal_(self.kernel)

    def forward(self) -> Tensor:
        """The kernel, (O, I, *K)."""
        return self.kernel


class QuadraticKernelSpectral2D(QuadraticKernelSpectral):
    """`QuadraticKernelSpectral` in two dimensions: `covs.theta` is one angle a kernel, (O, I).

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

    Examples
    --------
    >>> QuadraticKernelCholesky2D(in_channels=2, out_channels=3, kernel_size=5)().shape
    torch.Size([3, 2, 5, 5])
    """

    fixed_ndim = 2
    covariance = CovCholesky2D


class QuadraticKernelIso2D(QuadraticKernelIso):
    """`QuadraticKernelIso` in two dimensions.

    Examples
    --------
    >>> QuadraticKernelIso2D(in_channels=2, out_channels=3, kernel_size=5).log_std.shape
    torch.Size([3, 2])
    """

    fixed_ndim = 2


class LearnedKernel2D(LearnedKernel):
    """`LearnedKernel` in two dimensions.

    Examples
    --------
    >>> LearnedKernel2D(in_channels=2, out_channels=3, kernel_size=5)().shape
    torch.Size([3, 2, 5, 5])
    """

    fixed_ndim = 2
