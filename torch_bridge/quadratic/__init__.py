"""Learnable kernels, in any number of dimensions; nothing here takes an image.

`kernels` has the modules, `covariances` the parametrisations of quadratic ones, `fused` their
compiled functions, `initial` where their parameters start, `offsets` the grid, `plot` their
pictures.
"""

from torch_bridge.quadratic.covariances import (
    CovCholesky,
    CovCholesky2D,
    CovSpectral,
    CovSpectral2D,
)
from torch_bridge.quadratic.kernels import (
    LearnedKernel,
    LearnedKernel2D,
    QuadraticKernelCholesky,
    QuadraticKernelCholesky2D,
    QuadraticKernelIso,
    QuadraticKernelIso2D,
    QuadraticKernelSpectral,
    QuadraticKernelSpectral2D,
)
from torch_bridge.quadratic.kernels import (
    drop_position_grid as _drop_position_grid,  # noqa: F401  (so named in models of version 0.1.0)
)

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
