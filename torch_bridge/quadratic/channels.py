"""What kernels and covariances share: channels, and parameters that can be drawn again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torch_bridge.sizes import whole_number


class Channels(nn.Module):
    """A module with in and out channels, and parameters with random initial values."""

    in_channels: int
    out_channels: int

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = whole_number("in_channels", in_channels)
        self.out_channels = whole_number("out_channels", out_channels)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"

    def initial_parameters(self) -> dict[str, Tensor]:
        """New initial values of the module's own parameters, not of its children's."""
        return {}

    def draw_parameters(self, device: Any, dtype: Any) -> None:
        for name, value in self.initial_parameters().items():
            self.register_parameter(name, nn.Parameter(value.to(device=device, dtype=dtype)))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the module's own parameters again, as its construction did.

        After ``to_empty``, which leaves them uninitialised; for a whole model,
        ``model.apply(lambda m: hasattr(m, "reset_parameters") and m.reset_parameters())``.
        """
        for name, value in self.initial_parameters().items():
            getattr(self, name).copy_(value)
