"""Chunks in the CPU's memory, each computed on a GPU while other threads copy theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from semiconv_cupy.backends.device import import_cupy

Array = Any
_wanted: ContextVar[bool] = ContextVar("on_gpu", default=False)
_of_thread = threading.local()


@contextmanager
def on_gpu() -> Iterator[None]:
    """Plan functions of Dask arrays so that a GPU computes each chunk, which is a NumPy array.

    A task copies a chunk with its surroundings to the current GPU, computes there, and copies the
    result back, all in a stream of its thread: so the copies of one thread run beside the kernels
    of another one. A GPU holds what the worker's threads compute at once, no more; with four
    threads a worker the copies decide. Chunks of CuPy arrays need none of this.

    Filters, grey and binary morphology of a number of iterations, correlations, `rolling_ball` and
    `semifield_conv`; others raise NotImplementedError when they are called in the block.

    Examples
    --------
    ::

        with on_gpu():
            opened = ndimage.grey_opening(dask.array.from_zarr("in.zarr"), size=9)
        opened.to_zarr("out.zarr")
    """
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def refuse_gpu(what: str) -> None:
    """NotImplementedError in a block of `on_gpu`."""
    if _wanted.get():
        raise NotImplementedError(
            f"on_gpu() does not serve {what}, which needs more than a chunk and its surroundings: "
            "pass chunks of CuPy arrays, .map_blocks(cupy.asarray), outside of the block"
        )


def placed(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call itself, or the call on a GPU in a block of `on_gpu`."""
    return OnGpu(call) if _wanted.get() else call


class OnGpu:
    """A call whose NumPy arrays are copied to the GPU, and whose results are copied back."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __dask_tokenize__(self) -> Any:
        from dask.base import normalize_token

        return "OnGpu", normalize_token(self.call)

    def __call__(self, *arrays: Any, **arguments: Any) -> Any:
        cupy = import_cupy()
        stream = _stream(cupy)
        with stream:
            result = self.call(*(_to_gpu(cupy, array) for array in arrays), **arguments)
            if isinstance(result, tuple):
                return tuple(_to_cpu(cupy, one, stream) for one in result)
            return _to_cpu(cupy, result, stream)


def _stream(cupy: Any) -> Any:
    """This thread's stream of the current GPU: kernels of other streams do not hold it up."""
    if not hasattr(_of_thread, "streams"):
        _of_thread.streams = {}
    gpu = cupy.cuda.runtime.getDevice()
    if gpu not in _of_thread.streams:
        _of_thread.streams[gpu] = cupy.cuda.Stream(non_blocking=True)
    return _of_thread.streams[gpu]


def _to_gpu(cupy: Any, array: Array) -> Array:
    return cupy.asarray(array) if isinstance(array, np.ndarray) else array


def _to_cpu(cupy: Any, array: Array, stream: Any) -> np.ndarray:
    """A copy by way of pinned memory, from which a GPU copies while the host goes on."""
    memory = cupy.cuda.alloc_pinned_memory(max(1, array.nbytes))
    pinned = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    cupy.ascontiguousarray(array).get(stream=stream, out=pinned)
    stream.synchronize()
    return pinned.copy()
