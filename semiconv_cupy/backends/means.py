"""Means of windows at every rate, 0 included, by compiled functions; and gradients by the image.

ln(mean e^(rate v)) / rate of each window, or the mean of powers, (mean max(v, eps)^rate)^(1/rate).
The functions read the rate's memory, so nobody waits for it. ``kernels_cu/means.cuh`` says how they
compute. Called by ``torch_bridge/ops/means.py`` with addresses.
"""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.backends.cuda.convolution import blocks_for
from semiconv_cupy.backends.cuda.kernels import OPTIONS, compiled
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS
from semiconv_cupy.backends.device import Device, prepared
from semiconv_cupy.backends.host import functions as host

_POINTER, _FLAG = ctypes.c_void_p, ctypes.c_int
# The taps up to which a thread computes a window by itself; of more, a warp does.
_TAPS_OF_A_THREAD = 32
# The threads of a block of values: threads_of_means of kernels_cu/cuda/means.cu.
_THREADS = 128
# Values of the image from which on a GPU has work enough for threads of several planes, and how
# many: these share what is computed of their position.
_LEAST_FOR_PLANES, _PLANES_OF_A_THREAD = 1 << 21, 4
# Terms of all windows from which on a second thread saves more than it costs.
_LEAST_FOR_THREADS = 1 << 12
# How many products a block of a GPU adds to a rate's gradient, and the most blocks for a rate.
_PRODUCTS_OF_A_BLOCK, _MOST_PARTS = 1 << 12, 256


class Means(NamedTuple):
    """The windows of one call.

    Attributes
    ----------
    powers : bool
        Whether the mean is of powers.
    storage : str
        The dtype of image and result; the rates and residuals have that of its arithmetic.
    eps : float
        Of powers: smaller values count as this.
    planes : int
        Images times channels; plane p has the rate p % rates.
    rates : int
    kept : int
        Residuals: 0, 2, or 3 with the derivative by the rate.
    img, out, size, stride, dilation, before : tuple of int
        Of at most three axes: of a plane of the image and of results, of the windows, and how far
        the first one begins before the image.
    """

    powers: bool
    storage: str
    eps: float
    planes: int
    rates: int
    kept: int
    img: tuple[int, ...]
    out: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]

    def struct(self, together: int = 1) -> structs.WindowMeans:
        """What the functions receive; `together`: the planes of a GPU's thread."""
        lacking = 3 - len(self.img)
        ones, of_axes = (1,) * lacking, ctypes.c_int64 * 3
        axes = [
            of_axes(*ones, *of)
            for of in (self.img, self.out, self.size, self.stride, self.dilation)
        ]
        before = of_axes(*(0,) * lacking, *self.before)
        divisors = [
            (structs.Divisor * 3)(*map(structs.Divisor.of, (max(n, 1) for n in (*ones, *of))))
            for of in (self.img, self.out, self.stride)
        ]
        numbers, flags = (self.planes, self.rates, self.kept), (together, self.plain, self.eps)
        return structs.WindowMeans(*numbers, *axes, before, *divisors, *flags)

    @property
    def ends(self) -> tuple[int, ...]:
        """Along each axis, how far the last window reaches from the first one's begin."""
        axes = self.out, self.stride, self.size, self.dilation
        return tuple((o - 1) * s + d * (k - 1) + 1 for o, s, k, d in zip(*axes, strict=True))

    @property
    def plain(self) -> bool:
        """Whether every window lies inside the image and has no gaps."""
        inside = not any(self.before) and all(map(operator.le, self.ends, self.img))
        return inside and all(gap == 1 for gap in self.dilation)

    @property
    def outputs(self) -> int:
        """How many results there are."""
        return self.planes * math.prod(self.out)

    @property
    def values(self) -> int:
        """How many values the image has."""
        return self.planes * math.prod(self.img)

    @property
    def largest(self) -> int:
        """No offset and no position along an axis is larger."""
        axes = self.img, self.before, self.ends, self.stride
        positions = (max(n + b, end) + s for n, b, end, s in zip(*axes, strict=True))
        return max(self.values, self.outputs, *positions)


class Calls(NamedTuple):
    """What computes the means, all arrays as addresses of C-contiguous memory.

    Attributes
    ----------
    values : callable
        (img, rate, out, residual or 0, threads or stream).
    gradients : callable
        (grad_out, img, rate, residual, grad_img, threads or stream).
    rates : callable or None
        Of a GPU: (grad_out, residual, sums, grad_rate, stream), the gradient by the rates; `sums`
        has room for `parts` float64 numbers of each rate.
    parts : int
    """

    values: Callable[[int, int, int, int, Any], None]
    gradients: Callable[[int, int, int, int, int, Any], None]
    rates: Callable[[int, int, int, int, Any], None] | None = None
    parts: int = 0


def on_host(means: Means) -> Calls:
    """The calls on the CPU, whose last argument is the most threads that they may have."""
    functions = {
        "semiconv_means": (*(_POINTER,) * 5, _FLAG),
        "semiconv_means_gradient": (*(_POINTER,) * 6, _FLAG),
    }
    library = host.open_library(*host_source(means.powers, means.storage), functions)
    at = ctypes.byref(means.struct())  # which keeps it alive
    alone = means.outputs * math.prod(means.size) < _LEAST_FOR_THREADS
    run, run_back = library.semiconv_means, library.semiconv_means_gradient

    def values(img: int, rate: int, out: int, residual: int, threads: int) -> None:
        run(img, rate, out, residual, at, 1 if alone else threads)

    def gradients(
        grad_out: int, img: int, rate: int, residual: int, grad_img: int, threads: int
    ) -> None:
        run_back(grad_out, img, rate, residual, grad_img, at, 1 if alone else threads)

    return Calls(values, gradients)


def host_source(powers: bool, storage: str) -> tuple[str, str]:
    """The text of the CPU's library and its name in messages, as `libraries.build` takes them."""
    text = source.assemble("host/means.cpp", _macros(powers, storage))
    return text, f"means of {'powers' if powers else 'exponentials'} on {storage}"


def host_sources(storages: Sequence[str] | None = None) -> Iterator[source.HostSource]:
    """The sources of the CPU's libraries for the given dtypes, or for all."""
    exports = (*source.COMMON_EXPORTS, "semiconv_means", "semiconv_means_gradient")
    for storage in source.FLOATING:
        if storages is None or storage in storages:
            for powers in (False, True):
                yield source.HostSource(*host_source(powers, storage), exports)


def on_gpu(means: Means, device: Device, together: int | None = None) -> Calls:
    """The calls on a GPU, whose last argument is the stream.

    A thread computes the gradient by the image in so many planes `together`, at one position.
    """
    if together is None:
        together = _PLANES_OF_A_THREAD if means.values >= _LEAST_FOR_PLANES else 1
    lanes = 1 if math.prod(means.size) <= _TAPS_OF_A_THREAD else 32
    offset = "int32" if means.largest < 2**31 else "int64"
    constants = means_source, means.powers, means.storage, offset, lanes
    kernel = compiled(device, *constants)
    gradient = compiled(device, *constants, suffix="_gradient")
    windows = (means.struct(together).scalar(),)
    block = (BLOCK_THREADS,)
    positions = -(-means.planes // together) * math.prod(means.img)
    grid, back = (blocks_for(2 * lanes * means.outputs),), (blocks_for(positions),)
    number = np.dtype(source.ARITHMETIC[means.storage]).itemsize
    terms = _THREADS * math.prod(means.size) * number if lanes == 1 else 0
    run = prepared(kernel, grid, (_THREADS,), (), 4, windows, terms)
    run_back = prepared(gradient, back, block, (), 5, windows)

    def values(img: int, rate: int, out: int, residual: int, stream: Any) -> None:
        run((img, rate, out, residual), stream)

    def gradients(
        grad_out: int, img: int, rate: int, residual: int, grad_img: int, stream: Any
    ) -> None:
        run_back((grad_out, img, rate, residual, grad_img), stream)

    each = -(-means.outputs // (means.rates * _PRODUCTS_OF_A_BLOCK))
    parts = max(1, min(each, _MOST_PARTS))
    after = (*windows, np.int64(parts))
    of_sums = (blocks_for(means.rates),)
    to_sums = compiled(device, *constants, suffix="_rates")
    run_rates = prepared(to_sums, (means.rates * parts,), block, (), 3, after)
    from_sums = compiled(device, *constants, suffix="_sums")
    run_sums = prepared(from_sums, of_sums, block, (), 2, after)

    def rates(grad_out: int, residual: int, sums: int, grad_rate: int, stream: Any) -> None:
        run_rates((grad_out, residual, sums), stream)
        run_sums((sums, grad_rate), stream)

    return Calls(values, gradients, rates, parts)


def means_source(powers: bool, storage: str, offset: str, lanes: int) -> source.KernelSource:
    """The kernel of the values; of gradients, ``_gradient``, ``_rates`` and ``_sums`` behind it."""
    kind = "powers" if powers else "exponentials"
    name = f"semiconv_means_of_{kind}_{storage}_{offset}_{lanes}"
    macros = _macros(powers, storage) | {
        "SEMICONV_OFFSET": offset,
        "SEMICONV_LANES": str(lanes),
        "SEMICONV_KERNEL": name,
        "SEMICONV_KERNEL_GRADIENT": f"{name}_gradient",
        "SEMICONV_KERNEL_RATES": f"{name}_rates",
        "SEMICONV_KERNEL_SUMS": f"{name}_sums",
    }
    return source.KernelSource(name, source.assemble("cuda/means.cu", macros), OPTIONS)


def _macros(powers: bool, storage: str) -> dict[str, str]:
    return source.storage_macros(storage) | ({"SEMICONV_POWERS": ""} if powers else {})
