"""What the CUDA backends need of a GPU: compile, launch, allocate; by CuPy, and by a recorder.

A `Device` is an argument of all launch code: CuPy in production, a CPU harness in the tests, so
that the very launch code is tested without a GPU. The only module that imports CuPy.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from semiconv_cupy.errors import BackendUnavailableError
from semiconv_cupy.source import KernelSource

Array = Any


# ---- protocols -----------------------------------------------------------------------------------


class Stream(Protocol):
    """A CUDA stream, in which launches run one after the other; CuPy's stream has more."""

    @property
    def ptr(self) -> int: ...


class Prepared(Protocol):
    """A launch without its arrays: called with them or their addresses, and the stream."""

    def __call__(self, pointers: tuple[Any, ...], stream: Stream | None = None, /) -> None: ...


class Kernel(Protocol):
    """A compiled CUDA function: launched on the given stream, or on the current one.

    Arrays and addresses (int) are passed as pointers, NumPy scalars by value.
    """

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        shared_bytes: int,
        stream: Stream | None = None,
    ) -> None: ...


class Described(NamedTuple):
    """A launch in the driver's terms, for a program that launches without Python.

    Attributes
    ----------
    function : int
        The address of the driver's function.
    extent : tuple of int
        Three sizes of the grid, three of a block, bytes of shared memory.
    arguments : tuple of bytes or str
        A constant's bytes, or the name of what a pointer points to.
    """

    function: int
    extent: tuple[int, ...]
    arguments: tuple[bytes | str, ...]


class Launches(NamedTuple):
    """What computes an operation of one or two tensors, and what differentiates it.

    Pointers are called "first", "second", "out", "residual", "grad_out", "grad_first",
    "grad_second", "scratch", and "nowhere" where a kernel reads none.

    Attributes
    ----------
    forward : list of Described
        For any address of the first tensor, and for one that is a multiple of `alignment`.
    alignment : int
    backward : list of Described
        One after the other.
    scratch : int
        Float64 numbers, uninitialised.
    """

    forward: list[Described]
    alignment: int
    backward: list[Described]
    scratch: int


class Driver(NamedTuple):
    """Addresses of the driver's functions of these names, and of a GPU's context."""

    cuLaunchKernel: int
    cuCtxSetCurrent: int
    context: int


class Device(Protocol):
    """A GPU that compiles kernels and allocates arrays of `array_module`."""

    def __hash__(self) -> int: ...

    array_module: Any

    def compile(self, text: str, name: str, options: tuple[str, ...]) -> Kernel:
        """The function `name` of a CUDA source text."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array."""
        ...

    def address(self, array: Array) -> int:
        """The address of an array's first element."""
        ...

    def scratch(self, numbers: int) -> tuple[int, object]:
        """The address of uninitialised float64 numbers, and an object that keeps them alive."""
        ...

    def gpu_and_stream(self) -> tuple[int, int]:
        """The current GPU and stream: new arrays are used in the order of that stream."""
        ...

    def multiprocessors(self) -> int:
        """How many the current GPU has."""
        ...


# ---- CuPy ----------------------------------------------------------------------------------------


def import_cupy() -> Any:
    """CuPy, imported now; raises whatever a broken installation raises."""
    return importlib.import_module("cupy")


class CupyDevice:
    """The current GPU, through CuPy.

    Raises
    ------
    BackendUnavailableError
        Where CuPy or a driver is missing; the message names the remedy.
    """

    def __init__(self) -> None:
        try:
            cupy = import_cupy()
            cupy.cuda.runtime.getDeviceCount()
        except ImportError:
            raise BackendUnavailableError(
                "CuPy is not installed; `pip install cupy-cuda12x[ctk]` (or cupy-cuda13x[ctk])"
            ) from None
        except Exception as error:
            if type(error).__name__ != "CUDARuntimeError":
                raise
            raise BackendUnavailableError(
                f"CuPy finds no usable GPU ({error}); `python -m semiconv_cupy info` says more"
            ) from None
        self.array_module = cupy

    def compile(self, text: str, name: str, options: tuple[str, ...]) -> Kernel:
        """Compile by NVRTC; CuPy keeps the binary in memory per device and on disk."""
        return _CupyKernel(self.array_module, text, name, options)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array of CuPy's pool."""
        return self.array_module.empty(shape, dtype)

    def address(self, array: Array) -> int:
        """The address of an array's first element."""
        return int(array.data.ptr)

    def scratch(self, numbers: int) -> tuple[int, object]:
        """The address of uninitialised float64 numbers, and the array that keeps them alive."""
        array = self.array_module.empty(numbers, np.float64)
        return int(array.data.ptr), array

    def gpu_and_stream(self) -> tuple[int, int]:
        """The current GPU and stream: new arrays are used in the order of that stream."""
        cuda = self.array_module.cuda
        return cuda.runtime.getDevice(), cuda.get_current_stream().ptr

    def multiprocessors(self) -> int:
        """How many the current GPU has."""
        return int(self.array_module.cuda.Device().attributes["MultiProcessorCount"])

    def driver(self) -> Driver:
        """What launches `Described` kernels of this GPU, which is the current one."""
        library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        context = ctypes.c_void_p()
        self.array_module.cuda.runtime.free(0)  # makes the context where there is none
        library.cuCtxGetCurrent(ctypes.byref(context))
        launch, set_context = (
            ctypes.cast(function, ctypes.c_void_p).value or 0
            for function in (library.cuLaunchKernel, library.cuCtxSetCurrent)
        )
        return Driver(launch, set_context, context.value or 0)


class _CupyKernel:
    """A `Kernel` by CuPy's RawKernel."""

    def __init__(self, cupy: Any, text: str, name: str, options: tuple[str, ...]) -> None:
        self.cupy, self.function = cupy, cupy.RawKernel(text, name, options)

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        shared_bytes: int,
        stream: Stream | None = None,
    ) -> None:
        self.function(grid, block, args, shared_mem=shared_bytes, stream=stream)


def _bytes_of(argument: Any) -> bytes:
    """An argument as the driver reads it: an address (int), or a scalar."""
    value = np.uint64(argument) if isinstance(argument, int) else argument
    found: bytes = value.tobytes()
    return found


class _Slots:
    """The arguments of one launch in memory, as the driver reads them."""

    def __init__(self, before: Sequence[Any], pointers: int, after: Sequence[Any]) -> None:
        kept = [ctypes.create_string_buffer(_bytes_of(given)) for given in (*before, *after)]
        self.addresses = (ctypes.c_uint64 * pointers)()
        at = [ctypes.addressof(buffer) for buffer in kept]
        first = ctypes.addressof(self.addresses)
        at[len(before) : len(before)] = range(first, first + 8 * pointers, 8)
        table = (ctypes.c_void_p * len(at))(*at)
        self.table, self._kept = ctypes.addressof(table), (table, kept)


class _CupyLaunch:
    """A `Prepared` launch by the driver's function: RawKernel converts each argument at each call.

    Several threads may launch at the same time: each takes slots of its own, whose content the
    driver has copied when its function returns.
    """

    def __init__(
        self,
        kernel: _CupyKernel,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        before: tuple[Any, ...],
        pointers: int,
        after: tuple[Any, ...],
        shared_bytes: int,
    ) -> None:
        self._cupy, self._function = kernel.cupy, kernel.function
        self._grid, self._block = grid, block
        self._size = (*grid, 1, 1)[:3] + (*block, 1, 1)[:3] + (shared_bytes,)
        self._constants = before, after
        self._new_slots = partial(_Slots, before, pointers, after)
        self._pack = struct.Struct(f"{pointers}Q").pack_into
        self._spare: list[_Slots] = []

    def __call__(self, pointers: tuple[Any, ...], stream: Stream | None = None) -> None:
        addresses = [p if type(p) is int else p.data.ptr for p in pointers]
        try:
            slots = self._spare.pop()
        except IndexError:
            slots = self._new_slots()
        self._pack(slots.addresses, 0, *addresses)
        cuda = self._cupy.cuda
        queue = (cuda.get_current_stream() if stream is None else stream).ptr
        try:
            cuda.driver.launchKernel(self._function.kernel.ptr, *self._size, queue, slots.table, 0)
        except cuda.driver.CUDADriverError:
            # A thread's first call finds no context; RawKernel makes one, or raises again.
            before, after = self._constants
            args = (*before, *addresses, *after)
            shared_bytes = self._size[-1]
            self._function(self._grid, self._block, args, shared_mem=shared_bytes, stream=stream)
        self._spare.append(slots)

    def described(self, pointers: tuple[str, ...]) -> Described:
        """The launch, its pointers by name; CuPy keeps the function as long as the process."""
        before, after = (tuple(map(_bytes_of, given)) for given in self._constants)
        return Described(self._function.kernel.ptr, self._size, (*before, *pointers, *after))


def prepared(
    kernel: Kernel,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    before: tuple[Any, ...],
    pointers: int,
    after: tuple[Any, ...],
    shared_bytes: int = 0,
) -> Prepared:
    """A launch that is repeated, with so many pointers between arguments that stay."""
    if isinstance(kernel, _CupyKernel):
        return _CupyLaunch(kernel, grid, block, before, pointers, after, shared_bytes)

    def launch(given: tuple[Any, ...], stream: Stream | None = None) -> None:
        kernel(grid, block, (*before, *given, *after), shared_bytes, stream)

    return launch


def described(launch: Prepared, pointers: tuple[str, ...]) -> Described | None:
    """A prepared launch in the driver's terms, its pointers by name; None without a driver."""
    return launch.described(pointers) if isinstance(launch, _CupyLaunch) else None


@lru_cache(maxsize=1)
def cupy_device() -> CupyDevice:
    """The device of production, made once; raises as `CupyDevice` does."""
    return CupyDevice()


# ---- recorded launches ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """One kernel launch: what is compiled, and how many blocks of how many threads run it."""

    source: KernelSource
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int


class Recorder:
    """A `Device` without a GPU, for NumPy arrays: it keeps a list of the launches, runs none.

    `scratch_bytes` is the memory that they asked for.
    """

    array_module: Any = np

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what was launched."""
        self.launches: list[Launch] = []
        self.scratch_bytes = 0

    def compile(self, text: str, name: str, options: tuple[str, ...]) -> Kernel:
        """A kernel that adds its launch to the list."""
        source = KernelSource(name, text, options)

        def launch(
            grid: tuple[int, ...],
            block: tuple[int, ...],
            args: tuple[Any, ...],
            shared_bytes: int,
            stream: Stream | None = None,
        ) -> None:
            self.launches.append(Launch(source, grid, block, shared_bytes))

        return launch

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised array; no kernel touches it."""
        return np.empty(shape, dtype)

    def address(self, array: np.ndarray) -> int:
        """An address as aligned as those of a GPU's allocations."""
        return 0

    def scratch(self, numbers: int) -> tuple[int, object]:
        """An address as aligned as those of a GPU's allocations; there is no memory behind it."""
        self.scratch_bytes += numbers * np.dtype(np.float64).itemsize
        return 0, None

    def gpu_and_stream(self) -> tuple[int, int]:
        """Always the same."""
        return 0, 0

    def multiprocessors(self) -> int:
        """Those of an H200."""
        return 132
