"""Where a convolution runs: the host library, CUDA through CuPy, or plain array loops.

Which kind an array is, and what serves it on this machine. Called by ``conv`` and ``info``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends import cuda
from semiconv_cupy.backends.host import calls as host
from semiconv_cupy.errors import BackendUnavailableError


def require_unmasked(name: str, array: object) -> None:
    """TypeError for a masked array: no algorithm here leaves masked elements out."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, whose mask would be lost: pass {name}.filled(value) with a "
            "value that has no effect, such as the least one in a maximum"
        )


def array_module(**arrays: Any) -> Any:
    """NumPy or CuPy, whichever all the arrays (given by argument name) belong to.

    Raises
    ------
    TypeError
        For another kind of array, or a mixture.
    """
    kinds = {}
    for name, array in arrays.items():
        require_unmasked(name, array)
        if isinstance(array, np.ndarray):
            kinds[name] = "NumPy"
        elif cuda.is_cupy(array):
            kinds[name] = "CuPy"
        else:
            kind = f"{type(array).__module__}.{type(array).__qualname__}"
            hint = ""
            if kind.startswith("torch."):
                hint = "; for tensors use torch_bridge.functional.semifield_conv"
            elif kind.startswith("builtins."):
                kind = type(array).__qualname__
                hint = f"; numpy.asarray({name}) makes one" if kind in ("list", "tuple") else ""
            raise TypeError(f"{name} must be a NumPy or CuPy array, got {kind}{hint}")
    if len(set(kinds.values())) > 1:
        mixture = ", ".join(f"{name} is a {kind} array" for name, kind in kinds.items())
        raise TypeError(f"all arrays must be of one library and device: {mixture}")
    if "CuPy" in kinds.values():
        return cuda.device().array_module
    return np


def describe() -> dict[str, str]:
    """Which backend serves "numpy" and "cupy" arrays on this machine, as sentences."""
    numpy = "host (compiled C++)"
    if host.compiler() is None:
        numpy = f"reference (array loops, slow): {host.missing_compiler()}"
    try:
        cuda.device()
        cupy = "cuda (NVRTC kernels)"
    except BackendUnavailableError as error:
        cupy = f"none: {error}"
    return {"numpy": numpy, "cupy": cupy}
