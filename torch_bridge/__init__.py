"""Semifield convolutions for PyTorch: differentiable, compiled, on CPU and CUDA tensors.

``import torch_bridge as semiconv`` takes the place of ``import pytorch_nd_semiconv as semiconv``;
the kernels in any number of dimensions, openings and ready-made layers come in addition.
"""

try:
    import torch  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "torch_bridge needs PyTorch: pip install torch (without an NVIDIA GPU add "
        "--index-url https://download.pytorch.org/whl/cpu); arrays need only semiconv_cupy",
        name="torch",
    ) from None

from semiconv_cupy import modules as _modules
from semiconv_cupy.algebra import BroadcastSemifield, SelectSemifield, SubtractSemifield
from torch_bridge import functional
from torch_bridge.layers import DilationPool1d, DilationPool2d, DilationPool3d
from torch_bridge.modules import (
    BroadcastConv,
    GenericClosing,
    GenericConv,
    GenericOpening,
    SemifieldConv,
    SemifieldLinear,
    TorchLinearConv2D,
    TorchMaxPool2D,
)
from torch_bridge.morphology_layers import Closing, Dilation, Erosion, Opening
from torch_bridge.parabolic_layers import (
    ParabolicClosing,
    ParabolicDilation,
    ParabolicErosion,
    ParabolicOpening,
)
from torch_bridge.pooling_layers import (
    GeMPool1d,
    GeMPool2d,
    GeMPool3d,
    LogSumExpPool1d,
    LogSumExpPool2d,
    LogSumExpPool3d,
)
from torch_bridge.quadratic import (
    CovCholesky,
    CovCholesky2D,
    CovSpectral,
    CovSpectral2D,
    LearnedKernel,
    LearnedKernel2D,
    QuadraticKernelCholesky,
    QuadraticKernelCholesky2D,
    QuadraticKernelIso,
    QuadraticKernelIso2D,
    QuadraticKernelSpectral,
    QuadraticKernelSpectral2D,
)
from torch_bridge.untraced import leave_semifields_untraced

_modules.provide(compiled=SemifieldConv, broadcast=BroadcastConv)
leave_semifields_untraced()

__all__ = [
    "BroadcastConv",
    "BroadcastSemifield",
    "Closing",
    "CovCholesky",
    "CovCholesky2D",
    "CovSpectral",
    "CovSpectral2D",
    "Dilation",
    "DilationPool1d",
    "DilationPool2d",
    "DilationPool3d",
    "Erosion",
    "GeMPool1d",
    "GeMPool2d",
    "GeMPool3d",
    "GenericClosing",
    "GenericConv",
    "GenericOpening",
    "LearnedKernel",
    "LearnedKernel2D",
    "LogSumExpPool1d",
    "LogSumExpPool2d",
    "LogSumExpPool3d",
    "Opening",
    "ParabolicClosing",
    "ParabolicDilation",
    "ParabolicErosion",
    "ParabolicOpening",
    "QuadraticKernelCholesky",
    "QuadraticKernelCholesky2D",
    "QuadraticKernelIso",
    "QuadraticKernelIso2D",
    "QuadraticKernelSpectral",
    "QuadraticKernelSpectral2D",
    "SelectSemifield",
    "SemifieldConv",
    "SemifieldLinear",
    "SubtractSemifield",
    "TorchLinearConv2D",
    "TorchMaxPool2D",
    "functional",
]
