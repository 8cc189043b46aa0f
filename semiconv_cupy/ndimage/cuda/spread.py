"""Reconstructions on a GPU: values spread within tiles, launch after launch of ``spread.cu``.

Those of bool arrays are components of the mask (``components.cu``), found in four launches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import BLOCK_THREADS
from semiconv_cupy.backends.cuda.kernels import OPTIONS
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.cuda.launcher import Launcher
from semiconv_cupy.ndimage.structs import Spread

Array = Any
_SIDE = 32  # of a tile, as in kernels_cu/cuda/spread.cu
_PARTS = ("unite", "mark", "fill")  # of kernels_cu/cuda/components.cu, behind the first function
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


def components_kernel(rank: int, minimum: bool, reach: tuple[int, int]) -> source.KernelSource:
    """Labels within tiles, and the other functions of components; arguments as `spread_kernel`."""
    name = f"semiconv_components_{'minimum' if minimum else 'maximum'}_{rank}d"
    macros = {
        "SEMICONV_KERNEL": name,
        "SEMICONV_RANK": str(rank),
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_REACH_Y": str(reach[0]),
        "SEMICONV_REACH_X": str(reach[1]),
    } | {f"SEMICONV_KERNEL_{part.upper()}": f"{name}_{part}" for part in _PARTS}
    return source.KernelSource(name, source.assemble("cuda/components.cu", macros), OPTIONS)


def reconstruct(
    launcher: Launcher, seed: Array, mask: Array, steps: np.ndarray, minimum: bool
) -> Array:
    """Values spread within tiles until nothing changes.

    In each launch a block spreads the values of its tile, whose border it reads from the arrays, as
    far as they go in the tile, and writes whether one changed.
    """
    device, limits, shape, given = launcher.device, launcher.limits, seed.shape, steps
    xp = device.array_module
    mask = xp.ascontiguousarray(mask)
    if _are_colours(shape, steps, limits.reach):  # part of the rows
        steps = steps[:, :-1] * np.array([1] * (len(shape) - 2) + [shape[-1]])
        shape = (*shape[:-2], shape[-2] * shape[-1])
    if len(shape) == 1:
        shape, steps = (1, *shape), np.pad(steps, ((0, 0), (1, 0)))
    *outer, height, width = shape
    reach_y, reach_x = np.abs(steps[:, -2:]).max(axis=0).tolist()
    reach = reach_y, reach_x
    tiles_y, tiles_x = -(-height // _SIDE), -(-width // _SIDE)
    tiles = math.prod(outer) * tiles_y * tiles_x
    if max(reach) > limits.reach or max(tiles, height, width) > limits.blocks:
        return reference.reconstruct(seed, mask, given, minimum)
    across = steps[:, :-2].any(axis=1)
    struct = np.zeros((), Spread.dtype())
    struct["size"][: len(shape)] = shape
    struct["planar"], struct["across"] = np.count_nonzero(~across), across.sum()
    struct["tiles_y"], struct["tiles_x"] = tiles_y, tiles_x
    # An output sees what lies a step back.
    seen = np.ascontiguousarray(-steps[np.argsort(across, kind="stable")], np.int64)
    table = launcher.keep(("steps", seen.tobytes(), seen.shape), lambda: seen)
    if seed.dtype == np.bool_ and seed.size < 2**31 and _have_opposites(steps):
        arrays = xp.ascontiguousarray(seed), mask, table
        return _components(launcher, struct[()], *arrays, (len(shape), minimum, reach), tiles)
    value = xp.ascontiguousarray(reference.limit(xp, seed, mask, minimum))
    kernel = launcher.kernel(spread_kernel, seed.dtype.name, len(shape), minimum, reach)
    other = device.empty(value.shape, value.dtype)
    while True:
        changed = xp.zeros(_LAUNCHES, np.int32)
        for n in range(_LAUNCHES):
            these = value, mask, other, table, changed[n:]
            launcher.launch(kernel, (tiles,), (BLOCK_THREADS,), (struct[()],), these)
            value, other = other, value
        if not int(changed[-1]):
            return value


def _have_opposites(steps: np.ndarray) -> bool:
    """Whether what spreads along each step also spreads back."""
    found = {tuple(step) for step in steps.tolist()}
    return all(tuple(-n for n in step) in found for step in found)


def _components(
    launcher: Launcher,
    struct: Any,
    seed: Array,
    mask: Array,
    table: Array,
    variant: tuple[int, bool, tuple[int, int]],
    tiles: int,
) -> Array:
    """The components of the mask that have an element of the seed."""
    device, count = launcher.device, np.int64(seed.size)
    labels = device.empty(seed.shape, np.dtype(np.int32))
    marks, out = (device.empty(seed.shape, seed.dtype) for _ in range(2))
    unite, mark, fill = (
        launcher.kernel(components_kernel, *variant, suffix=f"_{p}") for p in _PARTS
    )
    label = launcher.kernel(components_kernel, *variant)
    grid, block = (min(-(-seed.size // BLOCK_THREADS), launcher.limits.blocks),), (BLOCK_THREADS,)
    launcher.launch(label, (tiles,), block, (struct,), (mask, labels, marks, table))
    launcher.launch(unite, grid, block, (struct,), (labels, table), (count,))
    launcher.launch(mark, grid, block, (), (labels, seed, marks), (count,))
    launcher.launch(fill, grid, block, (), (labels, marks, out), (count,))
    return out


def _are_colours(shape: tuple[int, ...], steps: np.ndarray, reach: int) -> bool:
    """Whether nothing spreads along the last axis, and a tile sees the steps along its rows."""
    if len(shape) < 2 or steps[:, -1].any():
        return False
    return bool(np.abs(steps[:, -2]).max() * shape[-1] <= reach)
