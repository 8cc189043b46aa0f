"""Learnable kernels, in any number of dimensions; nothing here takes an image.

`kernels` and `kernels_2d` have the modules, `covariances` the parametrisations of quadratic ones,
`fused` their compiled functions, `initial` where their parameters start, `offsets` the grid, `plot`
their pictures.
"""

from torch_bridge.quadratic.covariances import (
    CovCholesky,
    CovCholesky2D,
    CovSpectral,
    CovSpectral2D,
)
from torch_bridge.quadratic.kernels import (
    LearnedKernel,
    QuadraticKernelCholesky,
    QuadraticKernelIso,
    QuadraticKernelSpectral,
)
from torch_bridge.quadratic.kernels import (
    drop_position_grid as _drop_position_grid,  # noqa: F401  (so named in models of version 0.1.0)
)
from torch_bridge.quadratic.kernels_2d import (
    LearnedKernel2D,
    QuadraticKernelCholesky2D,
    QuadraticKernelIso2D,
    QuadraticKernelSpectral2D,
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
