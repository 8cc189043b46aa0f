"""The grid on which quadratic kernels are evaluated. Called by `kernels`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active

_offsets_kept: dict[tuple[tuple[int, ...], torch.device, torch.dtype], list[Tensor]] = {}
_MOST_OFFSETS = 256


def offsets(sizes: tuple[int, ...], like: Tensor) -> list[Tensor]:
    """The integer offsets of the taps: one tensor an axis, with `len(sizes)` axes, to broadcast.

    K of them from -((K - 1) // 2) upward, with the device and dtype of the parameter `like`. They
    are no state of a module: a buffer that no checkpoint holds is left uninitialised by `to_empty`.
    """
    ordinary = type(like) in (nn.Parameter, Tensor) and not _are_functorch_transforms_active()
    if torch.compiler.is_compiling() or not ordinary:
        return _new_offsets(sizes, like)
    key = (sizes, like.device, like.dtype)
    found = _offsets_kept.get(key)
    if found is None:
        with torch.inference_mode(False):  # else they could never take part in training
            found = _new_offsets(sizes, like)
        capturing = like.is_cuda and torch.cuda.is_current_stream_capturing()
        if capturing or type(found[0]) is not Tensor:  # memory of a CUDA graph; a fake tensor
            return found
        if len(_offsets_kept) >= _MOST_OFFSETS:
            _offsets_kept.clear()
        _offsets_kept[key] = found
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
