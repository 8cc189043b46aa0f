"""Quadratic kernels by compiled functions: values, and gradients of the parameters.

The kernels of a family are -x^T S^-1 x; one or two arrays of parameters describe all covariances S.
What they mean, and the same by tensors, is in ``torch_bridge.quadratic``, which calls this with
addresses.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda.convolution import blocks_for
from semiconv_cupy.backends.cuda.kernels import OPTIONS, compiled
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS
from semiconv_cupy.backends.device import Device, Launches, described, prepared
from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.structs import MAX_RANK

Parametrisation = Literal["isotropic", "spectral", "cholesky"]
_NUMBERS = {name: number for number, name in enumerate(get_args(Parametrisation))}
_POINTER, _COUNT, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
# The least taps of all kernels for which a second thread saves more than it costs.
_LEAST_FOR_THREADS = 1 << 15


class Family(NamedTuple):
    """Kernels of one size and one parametrisation of their covariances.

    Attributes
    ----------
    covariance : {"isotropic", "spectral", "cholesky"}
    storage : str
        The dtype of all arrays.
    sizes : tuple of int
        Of a kernel, at most `MAX_RANK`.
    kernels : int
        How many there are.
    """

    covariance: Parametrisation
    storage: str
    sizes: tuple[int, ...]
    kernels: int

    @property
    def taps(self) -> int:
        """The taps of all kernels together."""
        return self.kernels * math.prod(self.sizes)


class Calls(NamedTuple):
    """What computes a family, all arrays as addresses of C-contiguous memory.

    Attributes
    ----------
    values : callable
        (log_std, pairs, krn, threads or stream).
    gradients : callable
        (log_std, pairs, grad_krn, grad_log_std, grad_pairs, threads or stream).
    launches : Launches or None
        The same on a GPU, described; log_std and pairs are the two tensors.
    """

    values: Callable[[int, int, int, Any], None]
    gradients: Callable[[int, int, int, int, int, Any], None]
    launches: Launches | None


def serves(sizes: tuple[int, ...]) -> bool:
    """Whether kernels of so many axes are computed here."""
    return len(sizes) <= MAX_RANK


def on_host(family: Family) -> Calls:
    """The calls on the CPU, whose last argument is the most threads that they may have."""
    pointers = (_FLAG, _FLAG, _POINTER, _COUNT)
    functions = {
        "semiconv_quadratic": (*pointers, *(_POINTER,) * 3, _FLAG),
        "semiconv_quadratic_gradient": (*pointers, *(_POINTER,) * 5, _FLAG),
    }
    library = host.open_library(*host_source(family.storage), functions)
    rank = len(family.sizes)
    sizes = (ctypes.c_int64 * rank)(*family.sizes)
    given = _NUMBERS[family.covariance], rank, sizes, family.kernels
    alone = family.taps < _LEAST_FOR_THREADS
    run, run_back = library.semiconv_quadratic, library.semiconv_quadratic_gradient

    def values(log_std: int, pairs: int, krn: int, threads: int) -> None:
        run(*given, log_std, pairs, krn, 1 if alone else threads)

    def gradients(
        log_std: int, pairs: int, grad_krn: int, grad_log_std: int, grad_pairs: int, threads: int
    ) -> None:
        others = grad_krn, grad_log_std, grad_pairs
        run_back(*given, log_std, pairs, *others, 1 if alone else threads)

    return Calls(values, gradients, None)


def host_source(storage: str) -> tuple[str, str]:
    """The text of the CPU's library and its name in messages, as `libraries.build` takes them."""
    text = source.assemble("host/quadratic.cpp", source.storage_macros(storage))
    return text, f"quadratic kernels on {storage}"


def host_sources(storages: Sequence[str] | None = None) -> Iterator[source.HostSource]:
    """The sources of the CPU's libraries for the given dtypes, or for all."""
    exports = (*source.COMMON_EXPORTS, "semiconv_quadratic", "semiconv_quadratic_gradient")
    for storage in source.FLOATING:
        if storages is None or storage in storages:
            yield source.HostSource(*host_source(storage), exports)


def on_gpu(family: Family, device: Device) -> Calls:
    """The calls on a GPU, whose last argument is the stream."""
    constants = quadratic_source, family.covariance, family.storage, family.sizes
    kernel = compiled(device, *constants)
    gradient = compiled(device, *constants, suffix="_gradient")
    count = (np.int64(family.kernels),)
    grid, warps = (blocks_for(family.taps),), (blocks_for(32 * family.kernels),)
    run = prepared(kernel, grid, (BLOCK_THREADS,), (), 3, count)
    run_back = prepared(gradient, warps, (BLOCK_THREADS,), (), 5, count)

    def values(log_std: int, pairs: int, krn: int, stream: Any) -> None:
        run((log_std, pairs, krn), stream)

    def gradients(
        log_std: int, pairs: int, grad_krn: int, grad_log_std: int, grad_pairs: int, stream: Any
    ) -> None:
        run_back((log_std, pairs, grad_krn, grad_log_std, grad_pairs), stream)

    alone = family.covariance == "isotropic"
    second, of_second = ("nowhere", "nowhere") if alone else ("second", "grad_second")
    there = described(run, ("first", second, "out"))
    back = described(run_back, ("first", second, "grad_out", "grad_first", of_second))
    launches = None
    if there is not None and back is not None:
        launches = Launches([there, there], alignment=1, backward=[back], scratch=0)
    return Calls(values, gradients, launches)


def quadratic_source(
    covariance: Parametrisation, storage: str, sizes: tuple[int, ...]
) -> source.KernelSource:
    """The kernel of the values; that of the gradients is named as it is, and ``_gradient``."""
    size = "x".join(map(str, sizes))
    name = f"semiconv_quadratic_{covariance}_{storage}_{size}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_COVARIANCE": covariance,
        "SEMICONV_RANK": str(len(sizes)),
        "SEMICONV_WINDOW": "{{" + ", ".join(map(str, sizes)) + "}}",
        "SEMICONV_KERNEL": name,
        "SEMICONV_KERNEL_GRADIENT": f"{name}_gradient",
    }
    return source.KernelSource(name, source.assemble("cuda/quadratic.cu", macros), OPTIONS)
