"""LeNets whose convolutions are root(p) or log(mu), made so that they learn.

docs/roots_and_logs.md says what was in the way, and how each of these layers removes it.
"""

from __future__ import annotations

from torch import Tensor, nn

from torch_bridge import GenericConv, LearnedKernel2D, SubtractSemifield


class Scaled(nn.Module):
    """The input times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def width(value: float) -> float:
    """A kernel's standard deviation at the start: mu or p times it decides how terms differ."""
    return max(1.0, 2 / abs(value))


def convolution(
    family: str, value: float, channels: tuple[int, int], size: int, padding: int
) -> list[nn.Module]:
    """A convolution in "root" or "log", and what follows it up to the next one."""
    kernel = LearnedKernel2D(*channels, size, positive="exp" if family == "root" else None)
    nn.init.normal_(kernel.kernel, std=width(value))
    semifield = getattr(SubtractSemifield, family)(value)
    norm = nn.BatchNorm2d(channels[1])
    if family == "log":
        nn.init.constant_(norm.weight, width(value))
    above_zero = [nn.ReLU()] if family == "root" else []
    conv = GenericConv(kernel, semifield.dynamic(), padding=padding)
    return [conv, norm, *above_zero, nn.AvgPool2d(2)]


def lenet(family: str, value: float, side: int) -> nn.Sequential:
    """The network for images of one channel and 8 x 8 or 28 x 28 pixels, of ten classes."""
    first = [Scaled(width(value))] if family == "log" else []
    if side == 8:
        convolutions = [
            *convolution(family, value, (1, 16), 3, 1),
            *convolution(family, value, (16, 32), 3, 1),
        ]
        dense = [nn.Linear(32 * 2 * 2, 32), nn.ReLU(), nn.Linear(32, 10)]
    elif side == 28:
        convolutions = [
            *convolution(family, value, (1, 6), 5, 2),
            *convolution(family, value, (6, 16), 5, 0),
        ]
        dense = [nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
        dense.append(nn.Linear(84, 10))
    else:
        raise ValueError(f"side must be 8 or 28, got {side}")
    return nn.Sequential(*first, *convolutions, nn.Flatten(), *dense)
