"""Reconstructions on a GPU: values spread within tiles, launch after launch of ``spread.cu``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import BLOCK_THREADS
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.cuda.launcher import Launcher
from semiconv_cupy.ndimage.structs import SPREAD

Array = Any
_SIDE = 32  # of a tile, as in kernels_cu/cuda/spread.cu
_LAUNCHES = 8  # between two looks at whether anything changed, each of which waits for the GPU


def spread_kernel(
    storage: str, rank: int, minimum: bool, reach: tuple[int, int]
) -> source.KernelSource:
    """A part of a reconstruction, for steps of that reach along the last two axes."""
    name = f"semiconv_spread_{'minimum' if minimum else 'maximum'}_{storage}_{rank}d"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_RANK": str(rank),
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_REACH_Y": str(reach[0]),
        "SEMICONV_REACH_X": str(reach[1]),
    }
    return source.KernelSource(name, source.assemble("cuda/spread.cu", macros), OPTIONS)


def reconstruct(
    launcher: Launcher, seed: Array, mask: Array, steps: np.ndarray, minimum: bool
) -> Array:
    """Values spread within tiles until nothing changes.

    In each launch a block spreads the values of its tile, whose border it reads from the arrays, as
    far as they go in the tile, and writes whether one changed.
    """
    device, limits, shape, given = launcher.device, launcher.limits, seed.shape, steps
    xp = device.array_module
    value = xp.ascontiguousarray(reference.limit(xp, seed, mask, minimum))
    mask = xp.ascontiguousarray(mask)
    if _are_colours(shape, steps, limits.reach):  # part of the rows
        steps = steps[:, :-1] * np.array([1] * (len(shape) - 2) + [shape[-1]])
        shape = (*shape[:-2], shape[-2] * shape[-1])
    if len(shape) == 1:
        shape, steps = (1, *shape), np.pad(steps, ((0, 0), (1, 0)))
    *outer, height, width = shape
    reach = tuple(int(r) for r in np.abs(steps[:, -2:]).max(axis=0))
    tiles_y, tiles_x = -(-height // _SIDE), -(-width // _SIDE)
    tiles = math.prod(outer) * tiles_y * tiles_x
    if max(reach) > limits.reach or max(tiles, height, width) > limits.blocks:
        return reference.reconstruct(seed, mask, given, minimum)
    across = steps[:, :-2].any(axis=1)
    struct = np.zeros((), SPREAD)
    struct["size"][: len(shape)] = shape
    struct["planar"], struct["across"] = np.count_nonzero(~across), across.sum()
    struct["tiles_y"], struct["tiles_x"] = tiles_y, tiles_x
    # An output sees what lies a step back.
    seen = np.ascontiguousarray(-steps[np.argsort(across, kind="stable")], np.int64)
    table = launcher.keep(("steps", seen.tobytes(), seen.shape), lambda: seen)
    kernel = launcher.kernel(spread_kernel, seed.dtype.name, len(shape), minimum, reach)
    other = device.empty(value.shape, value.dtype)
    while True:
        changed = xp.zeros(_LAUNCHES, np.int32)
        for n in range(_LAUNCHES):
            arguments = (struct[()], value, mask, other, table, changed[n:])
            kernel((tiles,), (BLOCK_THREADS,), arguments, 0)
            value, other = other, value
        if not int(changed[-1]):
            return value


def _are_colours(shape: tuple[int, ...], steps: np.ndarray, reach: int) -> bool:
    """Whether nothing spreads along the last axis, and a tile sees the steps along its rows."""
    if len(shape) < 2 or steps[:, -1].any():
        return False
    return bool(np.abs(steps[:, -2]).max() * shape[-1] <= reach)
