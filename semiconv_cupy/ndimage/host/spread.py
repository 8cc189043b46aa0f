"""What spreads within a mask of NumPy arrays, by ``kernels_cu/host/reconstruct.cpp``."""

from __future__ import annotations

import ctypes

import numpy as np

from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.ndimage.host.libraries import library
from semiconv_cupy.ndimage.structs import Axes, Sizes


def reconstruct(seed: np.ndarray, mask: np.ndarray, steps: np.ndarray, minimum: bool) -> np.ndarray:
    """What spreads from `seed` within `mask`, by `steps` (one row of offsets each)."""
    loaded = library("reconstruct", seed.dtype)
    if seed.dtype == np.bool_:  # bytes of 255 are True, too; the runs look for bytes of 1
        seed, mask = (array.view(np.uint8) != 0 for array in (seed, mask))
    reach = np.abs(steps).max(axis=0, initial=0)
    pitch = np.ones(seed.ndim, np.int64)
    for axis in range(seed.ndim - 2, -1, -1):
        pitch[axis] = pitch[axis + 1] * (seed.shape[axis + 1] + 2 * reach[axis + 1])
    offsets = steps.astype(np.int64) @ pitch
    forward, backward = offsets[offsets > 0], offsets[offsets < 0]
    ordered = np.concatenate([forward, backward])
    struct = Sizes(seed.ndim, Axes(*seed.shape), Axes(*(int(r) for r in reach)))
    out = np.empty_like(seed)
    status = loaded.semiconv_reconstruct(
        ctypes.byref(struct), host.address(ordered), len(forward), len(backward),
        host.address(seed), host.address(mask), host.address(out), int(minimum),
    )  # fmt: skip
    host.check(status, "a reconstruction")
    return out
