"""Where a convolution runs: the host library, CUDA through CuPy, or plain array loops.

`describe` says which of them this machine has; ``info`` and ``demo`` print it.
"""

from __future__ import annotations

from semiconv_cupy.backends.device import cupy_device
from semiconv_cupy.backends.host import prebuilt
from semiconv_cupy.backends.host.compiler import compiler, missing_compiler
from semiconv_cupy.errors import BackendUnavailableError


def describe() -> dict[str, str]:
    """Which backend serves "numpy" and "cupy" arrays on this machine, as sentences."""
    numpy, level = "host (compiled C++)", prebuilt.level()
    if level is not None:
        others = "compiled" if compiler() else f"array loops, slow: {missing_compiler()}"
        numpy = f"host (ready-made for {level}; semifields of one's own: {others})"
    elif compiler() is None:
        numpy = f"reference (array loops, slow): {missing_compiler()}"
    try:
        cupy_device()
        cupy = "cuda (NVRTC kernels)"
    except BackendUnavailableError as error:
        cupy = f"none: {error}"
    return {"numpy": numpy, "cupy": cupy}
