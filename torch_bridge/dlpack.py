"""Tensors as arrays of the same memory, and CuPy as a guest of torch's GPU, stream and allocator.

The arrays are views without a copy: NumPy's on the CPU, CuPy's through DLPack on CUDA. Called by
`ops` alone, whose prepared calls need no arrays, because they pass addresses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.backends.device import CupyDevice, cupy_device

Array = Any


def array_of(tensor: Tensor) -> Array:
    """The tensor's own memory as a NumPy or CuPy array, strides included; bfloat16 as uint16 bits.

    For CUDA tensors, call it inside `guest`: CuPy's stream is torch's there, so DLPack waits for
    nothing.
    """
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    if not tensor.is_cuda:
        return tensor.numpy()
    cupy = cupy_device().array_module
    if tensor.numel() == 0:  # DLPack needs an address, and it has none
        return cupy.empty(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    return cupy.from_dlpack(tensor)


class TorchDevice(CupyDevice):
    """One GPU, with scratch memory from torch's allocator.

    CuPy's own pool does not take part, as it knows nothing of torch's streams and graphs. Compiled
    kernels are kept by the instance, so there is one for each GPU.
    """

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array on torch's current device, alive as long as it is referenced."""
        name = self.array_module.dtype(dtype).name
        return array_of(torch.empty(shape, dtype=getattr(torch, name), device="cuda"))

    def scratch(self, numbers: int) -> tuple[int, object]:
        """The address of uninitialised float64 numbers, and the tensor that keeps them alive."""
        tensor = self._double.new_empty(numbers)
        return tensor.data_ptr(), tensor

    @cached_property
    def _double(self) -> Tensor:
        """An empty tensor, from which others are made faster than by their properties."""
        return torch.empty(0, dtype=torch.float64, device="cuda")


@cache
def gpu(index: int) -> TorchDevice:
    """The GPU of that number in torch."""
    return TorchDevice()


def current_stream(index: int) -> Any:
    """Torch's current stream of that GPU, which must be torch's current GPU."""
    return _stream(torch._C._cuda_getCurrentRawStream(index), index)


@cache
def _stream(handle: int, index: int) -> Any:
    """CuPy's view of a stream of torch. Torch has few streams and keeps them, so the cache may."""
    return cupy_device().array_module.cuda.Stream.from_external(_Handle(handle))


class _Handle:
    """A CUDA stream as an object of the protocol that CuPy reads streams by."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


@contextlib.contextmanager
def guest(tensor: Tensor) -> Iterator[None]:
    """Inside, CuPy works on the tensor's GPU and torch's current stream there."""
    index = tensor.get_device()
    cupy_device = gpu(index).array_module.cuda.Device
    with contextlib.ExitStack() as stack:
        if torch.cuda.current_device() != index:
            stack.enter_context(torch.cuda.device(index))
        if cupy_device().id != index:
            stack.enter_context(cupy_device(index))
        stack.enter_context(current_stream(index))
        yield
