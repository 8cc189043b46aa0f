"""Who runs the operators: the CPU's threads, or one GPU with torch's streams.

Called by both operators; `dlpack` knows how CuPy becomes torch's guest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.backends.place import NUMPY, Place
from torch_bridge.dlpack import current_stream, gpu, guest


@dataclass(frozen=True)
class Executor:
    """The CPU or a GPU, for calls that are prepared for it.

    Attributes
    ----------
    index : int
        What `Tensor.get_device` returns for tensors there: -1 on the CPU.
    on_gpu : bool
    place : callable
        The `Place` of its tensors seen as arrays; raises for a GPU where CuPy is missing.
    is_current : callable
        Whether launches go there now: torch's current GPU may be another one.
    threads_or_stream : callable
        The last argument of a prepared call: the number of threads, or the stream.
    """

    index: int
    on_gpu: bool
    place: Callable[[], Place]
    is_current: Callable[[], bool]
    threads_or_stream: Callable[[], Any]


@cache
def executor_of(index: int) -> Executor:
    """The executor for tensors whose `get_device` returns `index`."""
    if index < 0:
        return Executor(index, False, lambda: NUMPY, lambda: True, torch.get_num_threads)
    return Executor(
        index,
        True,
        lambda: Place("CuPy", index, gpu(index)),
        lambda: torch.cuda.current_device() == index,
        partial(current_stream, index),
    )


def as_arrays(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Inside, arrays of tensors' memory are computed where the tensor is: as torch's guest."""
    return guest(tensor) if tensor.is_cuda else contextlib.nullcontext()
