"""Initial values of a kernel's parameters, by the names that `init` gives them.

A variance of 1 square pixel is the narrowest that is useful on a grid. Called by `covariances` and
`kernels`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Init = Mapping[str, str | float]


def _shuffled(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    return values[torch.randperm(values.numel())].view(shape)


def truncated_normal(mean: float, std: float, low: float, high: float) -> Callable[..., Tensor]:
    def draw(*shape: int) -> Tensor:
        return nn.init.trunc_normal_(torch.empty(shape), mean, std, low, high)

    return draw


def _uniform(low: float, high: float) -> Callable[..., Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.empty(shape).uniform_(low, high)

    return draw


_normal_variance = truncated_normal(8.0, 4.0, 1.0, 16.0)
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


def options(init: Init | None, defaults: dict[str, str | float]) -> dict[str, str | float]:
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


def anisotropic_variance(
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


def isotropic_variance(
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


def angles(value: str | float, shape: tuple[int, int], planes: int) -> Tensor:
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


def log_std(variance: Tensor) -> Tensor:
    return 0.5 * torch.log(variance)
