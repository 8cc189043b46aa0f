"""Means of windows by a tensor mu or p that nobody can read at no cost, as torch differentiates.

On a GPU, in a traced program and under torch.func no one formula serves every value: the kernels of
`ops.means` read the number and compute the mean for each, 0 included. In image and rate, once.
Called by `means`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from semiconv_cupy.geometry import Geometry
from torch_bridge import ops
from torch_bridge.arguments import MeansArguments, MeansBackwardArguments
from torch_bridge.ops.means import call_means, call_means_backward
from torch_bridge.parametric import Wants, parametric_conv


def window_means(img: Tensor, windows: Geometry, family: str, rate: Tensor, eps: float) -> Tensor:
    """The means of checked tensors: ln(mean e^(rate v)) / rate of "log", else of powers.

    The rate is in the dtype of arithmetic: one number, or one for each channel.
    """
    operation = _Operation(windows, family, eps)
    return parametric_conv(img, img.new_empty(0), operation, rate)


class _Operation:
    """What is computed, as `parametric` records operations: of image, kernel and parameter.

    There is no kernel: an empty tensor takes its place.
    """

    learns = False

    def __init__(self, windows: Geometry, family: str, eps: float) -> None:
        self.name = "mean of windows"
        self.handle = ops.handle_of_family(family)
        self.constants = (
            family == "root",
            eps,
            tuple(windows.out_shape[2:]),
            windows.kernel_size,
            windows.stride,
            windows.dilation,
            windows.pad_begin,
        )

    def forward(
        self, img: Tensor, _: Tensor, rate: Tensor, with_residual: bool
    ) -> tuple[Tensor, Tensor]:
        kept = self._kept if with_residual else 0
        return call_means(MeansArguments(img, rate, *self.constants, kept))

    def gradients(self, grad_out: Tensor, saved: Any, wants: Wants) -> tuple[Tensor, ...]:
        """Those that are wanted; empty tensors for the others."""
        residual, img, krn, rate = saved
        given = MeansArguments(img, rate, *self.constants, self._kept)
        grad_img, grad_rate = call_means_backward(
            MeansBackwardArguments._make((grad_out, residual, *given, wants[0], wants[2]))
        )
        return grad_img, krn, grad_rate

    @property
    def _kept(self) -> int:
        return 3 if self.learns else 2
