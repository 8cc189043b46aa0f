"""The fused convolution of a compiled semifield as a differentiable function of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semiconv_cupy import semifield_conv
from semiconv_cupy.geometry import Geometry

if TYPE_CHECKING:
    from semiconv_cupy.semifields import SelectSemifield, SubtractSemifield


def fused_conv(
    img: Tensor, krn: Tensor, semifield: SelectSemifield | SubtractSemifield, geometry: Geometry
) -> Tensor:
    """The convolution; forward alone, on the CPU, for now."""
    out = semifield_conv(
        img.detach().numpy(),
        krn.detach().numpy(),
        semifield,
        stride=geometry.stride,
        padding=tuple(zip(geometry.pad_begin, geometry.pad_end, strict=True)),
        dilation=geometry.dilation,
        groups=geometry.groups,
        group_broadcasting=geometry.shares_kernels,
        kind="conv" if geometry.mirrored else "corr",
    )
    return torch.from_numpy(out)
