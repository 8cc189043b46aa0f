"""The grid on which quadratic kernels are evaluated. Called by `kernels`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active

_cache: dict[tuple[tuple[int, ...], torch.device, torch.dtype], list[Tensor]] = {}
_MOST_CACHED = 256


def offsets(sizes: tuple[int, ...], like: Tensor) -> list[Tensor]:
    """The integer offsets of the taps: one tensor an axis, with `len(sizes)` axes, to broadcast.

    There are K of them from -((K - 1) // 2) upward, with the device and dtype of the parameter
    `like`. No module holds them as a buffer: `to_empty` leaves buffers uninitialised, and no
    checkpoint would fill them.
    """
    plain = type(like) in (nn.Parameter, Tensor) and not _are_functorch_transforms_active()
    if torch.compiler.is_compiling() or not plain:
        return _new_offsets(sizes, like)
    key = (sizes, like.device, like.dtype)
    found = _cache.get(key)
    if found is None:
        with torch.inference_mode(False):  # inference tensors could never take part in training
            found = _new_offsets(sizes, like)
        capturing = like.is_cuda and torch.cuda.is_current_stream_capturing()
        if capturing or type(found[0]) is not Tensor:
            return found  # the memory belongs to a CUDA graph, or the tensor is fake
        if len(_cache) >= _MOST_CACHED:
            _cache.clear()
        _cache[key] = found
    return found


def _new_offsets(sizes: tuple[int, ...], like: Tensor) -> list[Tensor]:
    axes = []
    for axis, k in enumerate(sizes):
        first = -((k - 1) // 2)
        offsets = torch.arange(first, first + k, device=like.device, dtype=like.dtype)
        axes.append(offsets.view(*(1,) * axis, -1, *(1,) * (len(sizes) - 1 - axis)))
    return axes


def sum_of_squares(coordinates: Sequence[Tensor]) -> Tensor:
    """|x|^2 for coordinates that broadcast with each other."""
    first, *others = (axis.square() for axis in coordinates)
    return sum(others, start=first)
