"""What layers with a structuring function for each channel have in common.

`layers` pools by them, `morphology_layers` keeps the image's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from torch_bridge.checks import require_channels
from torch_bridge.quadratic import (
    LearnedKernel,
    QuadraticKernelCholesky,
    QuadraticKernelIso,
    QuadraticKernelSpectral,
)
from torch_bridge.quadratic.initial import Init

Structuring = Literal["spectral", "cholesky", "iso", "free"]

_QUADRATIC: dict[str, Callable[..., nn.Module]] = {
    "spectral": QuadraticKernelSpectral,
    "cholesky": QuadraticKernelCholesky,
    "iso": QuadraticKernelIso,
}


def structuring_functions(
    sizes: tuple[int, ...],
    channels: int | None,
    structuring: Structuring,
    init: Init | None,
    device: Any,
    dtype: Any,
) -> nn.Module:
    """A kernel (channels or 1, 1, *sizes)."""
    count = 1 if channels is None else channels
    if isinstance(structuring, str) and structuring in _QUADRATIC:
        return _QUADRATIC[structuring](1, count, sizes, init, device=device, dtype=dtype)
    if not isinstance(structuring, str) or structuring != "free":
        raise ValueError(f"structuring must be one of {[*_QUADRATIC, 'free']}, got {structuring!r}")
    if init is not None:
        raise ValueError(f'structuring="free" starts flat and has no init, got {init!r}')
    return FlatLearnedKernel(1, count, sizes, device=device, dtype=dtype)


class FlatLearnedKernel(LearnedKernel):
    """A `LearnedKernel` that starts at zero: a flat structuring function."""

    def reset_parameters(self) -> None:
        """Set all taps to zero."""
        nn.init.zeros_(self.kernel)


class ChannelwiseLayer(nn.Module):
    """One structuring function for each channel, or one for all of them."""

    kernel: nn.Module
    channels: int | None

    def forward(self, img: Tensor) -> Tensor:
        """`img` (B, C, *S) or (C, *S), and the result in the same way."""
        if not isinstance(img, Tensor):
            raise TypeError(
                f"img must be a torch.Tensor, got {type(img).__name__}; torch.from_numpy(img) "
                "makes one of a NumPy array"
            )
        krn = self.kernel()
        if img.dim() == krn.dim() - 1:
            return self._convolve(img[None], krn)[0]
        return self._convolve(img, krn)

    def _convolve(self, img: Tensor, krn: Tensor) -> Tensor:
        raise NotImplementedError

    def _groups(self, img: Tensor) -> dict[str, Any]:
        """Each channel of `img` a group."""
        require_channels(img, self.channels)
        return {"groups": img.shape[1], "group_broadcasting": self.channels is None}
