"""Tensors as arrays of the same memory, and CuPy made to work as torch's guest.

Here: views without a copy (NumPy's on the CPU, CuPy's through DLPack on CUDA), torch's device,
stream and allocator for CuPy's launches. Called by `ops` alone; nobody else knows both libraries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.backends import cuda

Array = Any


def array_of(tensor: Tensor) -> Array:
    """The tensor's own memory as a NumPy or CuPy array, strides included; bfloat16 as uint16 bits.

    CUDA tensors: to be called in `guest`, whose stream DLPack then finds to be torch's already.
    """
    tensor = tensor.detach()
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    if not tensor.is_cuda:
        return tensor.numpy()
    cupy = cuda.device().array_module
    if tensor.numel() == 0:  # has no address that DLPack could tell
        return cupy.empty(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
    return cupy.from_dlpack(tensor)


class TorchDevice(cuda.CupyDevice):
    """One GPU, with scratch memory from torch's allocator.

    So CuPy's pool, which knows nothing of torch's streams and graphs, is not involved. Kernels are
    kept per instance, hence one for each GPU.
    """

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array on torch's current device, alive as long as it is referenced."""
        name = self.array_module.dtype(dtype).name
        return array_of(torch.empty(shape, dtype=getattr(torch, name), device="cuda"))


@cache
def _device(index: int) -> TorchDevice:
    cuda.device()  # an error with the remedy, where CuPy is missing
    return TorchDevice()


@contextlib.contextmanager
def guest(tensor: Tensor) -> Iterator[dict[str, TorchDevice]]:
    """Inside, CuPy works on the tensor's GPU and torch's current stream there.

    Yields what tells the core so: its argument `device`.
    """
    index = tensor.get_device()
    device = _device(index)
    cupy_cuda = device.array_module.cuda
    stream = cupy_cuda.ExternalStream(torch.cuda.current_stream(index).cuda_stream, index)
    with torch.cuda.device(index), cupy_cuda.Device(index), stream:
        yield {"device": device}
