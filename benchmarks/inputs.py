"""What works are computed on: random arrays of one generator, as each library's own arrays."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import works
from benchmarks.works import Convolution, Device

TORCH_DEVICES: dict[Device, str] = {"cpu": "cpu", "gpu": "cuda"}


@dataclass(frozen=True)
class Libraries:
    """The libraries that hold the inputs on one device.

    Attributes
    ----------
    arrays : module
        NumPy or CuPy.
    ndimage : str
        The module that is SciPy's or CuPy's `ndimage`.
    torch_device : str
        Where torch puts its tensors.
    """

    arrays: ModuleType
    ndimage: str
    torch_device: str

    def random(self, seed: int) -> Any:
        """A generator of random arrays of this library."""
        if self.arrays is np:
            return np.random.default_rng(seed)
        random = self.arrays.random
        return random.Generator(random.Philox4x3210(seed))  # begins at once, unlike the default


def libraries_of(device: Device) -> Libraries:
    """The libraries of a device. A GPU needs CuPy."""
    if device == "gpu":
        return Libraries(importlib.import_module("cupy"), works.CUPYX, TORCH_DEVICES["gpu"])
    return Libraries(np, works.SCIPY, TORCH_DEVICES["cpu"])


class Inputs:
    """The image and the kernel of one work, for every library."""

    def __init__(
        self, measured: Convolution, device: Device, seed: int, libraries: Libraries
    ) -> None:
        work = measured.work
        self.device = device
        self.libraries = libraries
        random = libraries.random(seed)
        self._img, self._krn = (numbers(random, s, work.dtype) for s in (work.image, work.kernel))
        self._memory = measured.memory

    @cached_property
    def arrays(self) -> tuple[Any, Any]:
        """As NumPy's or CuPy's arrays."""
        return laid_out(self._img, self.libraries.arrays.empty, self._memory), self._krn

    @cached_property
    def tensors(self) -> tuple[Any, Any]:
        """As torch's tensors, on the device."""
        import torch

        where = self.libraries.torch_device
        img, krn = map(torch.from_dlpack, (self._img, self._krn))
        empty = partial(torch.empty, device=where)
        return laid_out(img, empty, self._memory), krn


def laid_out(img: Any, empty: Callable[..., Any], memory: works.Memory) -> Any:
    """An array or tensor with the same numbers that lies in memory in this order."""
    if memory == "rows":
        return img
    axes = list(range(img.ndim))
    if memory == "channels last":
        axes = [0, *axes[2:], 1]
    elif memory == "transposed":
        axes.reverse()
    shape = [img.shape[axis] for axis in axes]
    if memory == "every second":
        found = empty((*shape[:-1], 2 * shape[-1]), dtype=img.dtype)[..., ::2]
    else:
        back = tuple(axes.index(axis) for axis in range(img.ndim))
        found = empty(tuple(shape), dtype=img.dtype)
        found = found.permute(back) if hasattr(found, "permute") else found.transpose(back)
    found[...] = img
    return found


def numbers(random: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """Numbers that every library can hold in this dtype, by a generator of NumPy or CuPy."""
    if dtype == "bool":
        return random.random(shape) < 0.02
    if np.dtype(dtype).kind in "iu":
        return (100 * random.random(shape, np.float32)).astype(dtype)
    return random.random(shape, np.float32).astype(dtype, copy=False)


def foreground(
    random: np.random.Generator, shape: tuple[int, ...], picture: works.Picture
) -> np.ndarray:
    """A bool array: 98 % True, blobs of some ten elements, or True but for one element."""
    if picture == "dense":
        return random.random(shape) < 0.98
    if picture == "one point":
        found = np.ones(shape, np.bool_)
        found[tuple(n // 3 for n in shape)] = False
        return found
    smooth = np.fft.fftn(random.standard_normal(shape))
    for axis, n in enumerate(shape):
        across = (1,) * (len(shape) - 1 - axis)
        smooth *= np.exp(-((20 * np.fft.fftfreq(n)) ** 2)).reshape(-1, *across)
    return np.fft.ifftn(smooth).real > 0
