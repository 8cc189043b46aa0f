"""LeNet-5 with the poolings and the convolutions that the experiment compares.

    convolution - pooling - ReLU - convolution - pooling - ReLU - three dense layers

Layers take one image batch (B, C, H, W); `ensemble` turns a network into many.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import torch_bridge
from torch_bridge.functional import semifield_conv

Options = Mapping[str, Any]

# ---- pooling -------------------------------------------------------------------------------------

STRIDE = 2
LEARNED = ("iso", "spectral", "cholesky", "free")
SOFT = {"log-sum-exp": torch_bridge.LogSumExpPool2d, "gem": torch_bridge.GeMPool2d}


def pooling(options: Options, channels: int) -> nn.Module:
    """The pooling layer of {"kind": ..., "size": ...}; other entries go to the layer.

    All poolings have stride 2 and the padding of torch's "same" windows, (size - 1) // 2 on both
    sides, so that networks with different windows have layers of the same shapes. What is learned,
    each channel has for itself.
    """
    chosen = dict(options)
    kind, size = chosen.pop("kind"), chosen.pop("size")
    place = dict(kernel_size=size, stride=STRIDE, padding=(size - 1) // 2)
    if kind == "max":
        return nn.MaxPool2d(**place, **chosen)
    if kind == "mean":
        return nn.AvgPool2d(**place, count_include_pad=False, **chosen)
    if kind in LEARNED:
        return torch_bridge.DilationPool2d(**place, channels=channels, structuring=kind, **chosen)
    if kind in SOFT:
        return SOFT[kind](**place, channels=channels, **chosen)
    known = ["max", "mean", *LEARNED, *SOFT]
    raise ValueError(f'pooling "kind" must be one of {known}, got {kind!r}')


# ---- convolutions --------------------------------------------------------------------------------

WAYS = ("torch", "own", "patches")


class Linear2d(nn.Conv2d):
    """`torch.nn.Conv2d`, computed in the way that suits many networks at once.

    `way` is "torch" (cuDNN or oneDNN; a convolution with one group for each network), "own" (this
    library's kernels) or "patches" (each window a row of a batched matrix product).
    """

    way = "torch"

    def forward(self, img: Tensor) -> Tensor:
        if self.way == "torch":
            return super().forward(img)
        if self.way == "own":
            out = semifield_conv(img, self.weight, "linear", padding=self.padding, kind="corr")
        else:
            out = self._by_patches(img)
        return out + self.bias.view(-1, 1, 1)

    def _by_patches(self, img: Tensor) -> Tensor:
        patches = nn.functional.unfold(img, self.kernel_size, padding=self.padding)
        out = self.weight.flatten(1) @ patches
        sizes = (
            size + 2 * pad - reach + 1
            for size, pad, reach in zip(img.shape[2:], self.padding, self.kernel_size, strict=True)
        )
        return out.unflatten(-1, tuple(sizes))


class Semifield2d(nn.Module):
    """A convolution with a free kernel in the semifield max-plus, log(mu) or root(p).

    The taps of a root are positive: exp of a parameter. mu * kernel or p * ln(kernel) decides how
    much a tap weighs.

    Parameters
    ----------
    channels : (int, int)
    size, padding : int
    kind : {"max-plus", "log", "root"}
    parameter : float, optional
        mu, not 0, or p > 0.
    learn : bool
        Whether mu or p, > 0, is learned, one number for the layer, as its logarithm.
    spread : float, optional
        The standard deviation of the kernel's initial values; for a root, of their logarithms. By
        default 2 / |mu| or 2 / p, so that few taps of a window weigh most; of max-plus 1.
    sum : {"unit", "mean", "plain"}
        "plain" is the semifield's sum: of n equal numbers, log adds ln(n) / mu to one of them, root
        multiplies it by n^(1 / p). "mean" takes this away. "unit" divides the kernel by its own
        sum, in the semifield's sense, so that a constant image stays as it is for any kernel; the
        largest tap of max-plus is then 0.
    norm : {"affine", "batch", "group"}, optional
        A factor and a summand for each channel that are learned, from 1 and 0. Before, "batch"
        gives each channel of a batch mean 0 and variance 1, when it is tested as when it learns
        (torch.nn.BatchNorm2d), and "group" each image (torch.nn.GroupNorm of one group).
    """

    def __init__(
        self,
        channels: tuple[int, int],
        size: int,
        padding: int,
        kind: str,
        parameter: float | None = None,
        *,
        learn: bool = False,
        spread: float | None = None,
        sum: str = "unit",
        norm: str | None = None,
    ) -> None:
        super().__init__()
        if sum not in SUMS:
            raise ValueError(f'"sum" must be one of {SUMS}, got {sum!r}')
        if learn and not (parameter and parameter > 0):
            raise ValueError(f"a parameter that is learned must begin > 0, got {parameter!r}")
        ins, outs = channels
        self.norm = _norm(norm, outs)
        self.kind, self.padding, self.sum = kind, padding, sum
        if spread is None:
            spread = 2 / abs(parameter) if parameter else 1.0
        self.weight = nn.Parameter(spread * torch.randn(outs, ins, size, size))
        self.value = parameter
        self.log_parameter = None
        if learn:
            self.log_parameter = nn.Parameter(torch.tensor(math.log(parameter)))

    def extra_repr(self) -> str:
        return f"{self.kind}, parameter={self.value}, padding={self.padding}, sum={self.sum}"

    def forward(self, img: Tensor) -> Tensor:
        value = self.parameter()
        taps = self.taps(value)
        if self.kind == "max-plus":
            out = semifield_conv(img, taps, "tropical_max", padding=self.padding)
        elif self.kind == "log":
            out = semifield_conv(img, taps, "log", mu=value, padding=self.padding)
        else:
            out = semifield_conv(img, taps.exp(), "root", p=value, padding=self.padding)
        return self.norm(out)

    def parameter(self) -> Any:
        """mu or p, a number or the tensor that is learned; None of max-plus."""
        return self.value if self.log_parameter is None else self.log_parameter.exp()

    def taps(self, value: Any) -> Tensor:
        """The kernel, for a root its logarithm, with the sum that `sum` says."""
        flat = self.weight.flatten(1)
        if self.sum == "plain" or (self.sum == "mean" and self.kind == "max-plus"):
            return self.weight
        if self.sum == "mean":
            return self.weight - math.log(flat.shape[1]) / value
        if self.kind == "max-plus":
            total = flat.amax(1)
        else:
            total = torch.logsumexp(value * flat, 1) / value
        return self.weight - total[:, None, None, None]


SUMS = ("unit", "mean", "plain")


class Affine(nn.Module):
    """A factor and a summand for each channel, from 1 and 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, img: Tensor) -> Tensor:
        return self.weight * img + self.bias


NORMS: dict[str | None, Callable[[int], nn.Module]] = {
    None: lambda channels: nn.Identity(),
    "affine": Affine,
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "group": lambda channels: nn.GroupNorm(1, channels),
}


def _norm(name: str | None, channels: int) -> nn.Module:
    if name not in NORMS:
        known = [norm for norm in NORMS if norm]
        raise ValueError(f'"norm" must be one of {known}, got {name!r}')
    return NORMS[name](channels)


def convolution(
    options: Options, channels: tuple[int, int], size: int, padding: int, way: str
) -> nn.Module:
    """The convolution of {"kind": ...}; other entries go to the layer."""
    chosen = dict(options)
    kind = chosen.pop("kind")
    if kind == "linear":
        layer = Linear2d(*channels, size, padding=padding, **chosen)
        layer.way = way
        return layer
    if kind in PARAMETERS:
        name = PARAMETERS[kind]
        parameter = chosen.pop(name) if name else None
        return Semifield2d(channels, size, padding, kind, parameter, **chosen)
    raise ValueError(f'convolution "kind" must be linear or one of {[*PARAMETERS]}, got {kind!r}')


PARAMETERS = {"max-plus": None, "log": "mu", "root": "p"}


# ---- the network ---------------------------------------------------------------------------------


def lenet(
    shape: tuple[int, ...],
    classes: int,
    pool: Options,
    conv: Options,
    seed: int,
    way: str = "torch",
) -> nn.Sequential:
    """LeNet-5 for images of shape (C, H, W).

    The "size" of its two convolutions is 5 by default, and 3 for images below 24 x 24 pixels, where
    both are padded; the second one of larger images is not.

    Each layer draws its parameters with a random state of its own. So two networks of one seed are
    equal in all layers that both of them have, and their accuracies are a pair.
    """
    first, height, width = shape
    kernel = dict(conv)
    large = min(height, width) >= 24  # the digits have 8 x 8 pixels
    size = kernel.pop("size", 5 if large else 3)
    padding = 0 if large else size // 2
    makers: list[Callable[[], nn.Module]] = [
        lambda: convolution(kernel, (first, 6), size, size // 2, way),
        lambda: pooling(pool, 6),
        nn.ReLU,
        lambda: convolution(kernel, (6, 16), size, padding, way),
        lambda: pooling(pool, 16),
        nn.ReLU,
        nn.Flatten,
    ]
    layers = nn.Sequential(*_drawn(makers, seed))
    dense = [_features(shape, (size, padding), pool["size"]), 120, 84, classes]
    for number, (ins, outs) in enumerate(itertools.pairwise(dense)):
        layers.extend(_drawn([lambda i=ins, o=outs: nn.Linear(i, o)], seed, len(layers)))
        if number < 2:
            layers.append(nn.ReLU())
    return layers


def _features(shape: tuple[int, ...], conv: tuple[int, int], window: int) -> int:
    """How many numbers the dense layers take. No layer is run, so none is compiled for it."""
    size, padding = conv
    pool = nn.MaxPool2d(window, STRIDE, (window - 1) // 2)
    with torch.device("meta"):
        first = nn.Conv2d(shape[0], 6, size, padding=size // 2)
        second = nn.Conv2d(6, 16, size, padding=padding)
        out: Tensor = pool(second(pool(first(torch.empty(1, *shape)))))
    return out.numel()


def _drawn(makers: list[Callable[[], nn.Module]], seed: int, begin: int = 0) -> list[nn.Module]:
    layers = []
    for number, make in enumerate(makers, begin):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * seed + number)
            layers.append(make())
    return layers
