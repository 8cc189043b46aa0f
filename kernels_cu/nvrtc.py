"""NVRTC by ctypes: CUDA source to machine code and its resource usage, with no GPU and no driver.

Not for running kernels: that is CuPy's work, which compiles with the same options. Called by
report.py and by tests.
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What CuPy appends to the options of every RawModule (cupy/cuda/compiler.py), besides -arch.
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")

_REMEDY = "install it with `pip install nvidia-cuda-nvrtc-cu12`, or set CUDA_PATH to a CUDA toolkit"


class LibraryNotFoundError(RuntimeError):
    """No NVRTC library on this machine; the message names the remedy."""


class CompileError(RuntimeError):
    """NVRTC does not accept the source; the message is the compiler's log."""


@dataclass(frozen=True)
class Resources:
    """What one kernel takes of a multiprocessor; all but registers in bytes (static ones).

    `local` is memory of a thread that does not fit registers or is indexed at run time; spills are
    the bytes that the compiler stores to and loads from it because registers ran out.
    """

    registers: int
    shared: int
    local: int
    spill_stores: int
    spill_loads: int

    @property
    def spills(self) -> bool:
        return self.spill_stores + self.spill_loads > 0


@dataclass(frozen=True)
class Compiled:
    """Machine code for one architecture, the compiler's log, and the resources by kernel name."""

    cubin: bytes
    log: str
    kernels: Mapping[str, Resources]


class Nvrtc:
    """One loaded NVRTC library.

    Parameters
    ----------
    path : path
        The shared library; `find_libraries` lists those of this machine.

    Raises
    ------
    LibraryNotFoundError
        If it cannot be loaded.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            # NVRTC opens its second part by name alone, which is found if it is loaded already.
            for part in self.path.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(part))
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise LibraryNotFoundError(f"cannot load NVRTC: {error}; {_REMEDY}") from None
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def __repr__(self) -> str:
        return f"Nvrtc({str(self.path)!r}, version {self.version[0]}.{self.version[1]})"

    @functools.cached_property
    def architectures(self) -> tuple[str, ...]:
        """The architectures that this version compiles for, as ``"sm_90"``."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", numbers)
        return tuple(f"sm_{number}" for number in numbers)

    def compile(self, source: str, arch: str, options: Sequence[str] = ()) -> Compiled:
        """Compile a self-contained CUDA source text as CuPy would on a GPU of that architecture.

        Parameters
        ----------
        source : str
            The text, its own includes already inlined.
        arch : str
            ``"sm_75"``, ``"sm_80"``, ``"sm_90"``, ``"sm_120"``, ...
        options : sequence of str
            What the caller of CuPy's RawModule passes; `CUPY_OPTIONS` and the architecture are
            appended.

        Raises
        ------
        ValueError
            If this NVRTC does not know `arch`.
        CompileError
            With the compiler's log.

        Examples
        --------
        >>> source = 'extern "C" __global__ void f(int* a) { *a = 37; }'
        >>> load().compile(source, "sm_90").kernels["f"].spills  # doctest: +SKIP
        False
        """
        machine = [*options, *CUPY_OPTIONS, f"-arch={arch}", "--ptxas-options=-v"]
        with self._compiled(source, arch, machine) as (program, log):
            return Compiled(self._bytes(program, "CUBIN"), log, read_resources(log))

    def check(self, source: str, arch: str, options: Sequence[str] = ()) -> str:
        """Return the log of a source that this version accepts; a tenth of `compile`'s work.

        It is neither optimised nor made machine code. Parameters and errors are those of `compile`.
        """
        virtual = f"-arch={arch.replace('sm', 'compute')}"
        with self._compiled(source, arch, [*options, *CUPY_OPTIONS, virtual, "-G"]) as (_, log):
            return log

    @contextlib.contextmanager
    def _compiled(
        self, source: str, arch: str, options: Sequence[str]
    ) -> Iterator[tuple[ctypes.c_void_p, str]]:
        """The program of a source, and the compiler's log."""
        if arch not in self.architectures:
            raise ValueError(
                f"{arch=}: NVRTC {self.version[0]}.{self.version[1]} compiles for "
                f"{', '.join(self.architectures)}"
            )
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            *(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None),
        )
        try:
            texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            result = self._library.nvrtcCompileProgram(program, len(options), texts)
            log = self._bytes(program, "ProgramLog").rstrip(b"\0\n ").decode(errors="replace")
            if result:
                raise CompileError(f"{self._error(result)} with {' '.join(options)}\n{log}")
            yield program, log
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, buffer)
        return buffer.raw

    def _call(self, function: str, *arguments: object) -> None:
        result = getattr(self._library, function)(*arguments)
        if result:
            raise RuntimeError(f"{function}: {self._error(result)} ({self.path})")

    def _error(self, result: int) -> str:
        return self._library.nvrtcGetErrorString(result).decode()


@functools.cache
def load() -> Nvrtc:
    """Return the first NVRTC library that `find_libraries` lists.

    Raises
    ------
    LibraryNotFoundError
        If there is none.
    """
    return first_of(find_libraries())


def first_of(paths: Iterable[Path]) -> Nvrtc:
    """Load the first of these libraries; LibraryNotFoundError, which names the remedy, of none."""
    for path in paths:
        return Nvrtc(path)
    raise LibraryNotFoundError(f"no NVRTC library found; {_REMEDY}")


def find_libraries() -> Iterator[Path]:
    """List NVRTC libraries: of NVIDIA's wheels (CUDA 13 and 12), of toolkits, of the system."""
    wheels = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in (wheels and wheels.submodule_search_locations) or ()]
    yield from _newest(path for place in folders for path in place.glob("*/lib/libnvrtc.so.*"))
    toolkits = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    for root in filter(None, toolkits):
        for folder in ("lib64", "lib"):
            yield from _newest((Path(root) / folder).glob("libnvrtc.so.*"))
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"):
        yield from _newest(Path(folder).glob("libnvrtc.so.*"))


def _newest(paths: Iterable[Path]) -> list[Path]:
    def version(path: Path) -> list[int]:
        return [int(part) for part in path.name.split(".so.")[1].split(".")]

    return sorted(paths, key=version, reverse=True)


_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_STACK = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", re.ASCII
)
_USED = re.compile(r"Used (\d+) registers(.*)")


def read_resources(log: str) -> dict[str, Resources]:
    """Return the resources by kernel name from a log of ``--ptxas-options=-v``.

    A kernel's spills include those of the functions that the compiler did not inline into it.
    """
    kernels: dict[str, Resources] = {}
    name, local, stores, loads = "", 0, 0, 0
    for line in log.splitlines():
        if entry := _ENTRY.search(line):
            name, local, stores, loads = entry[1], 0, 0, 0
        elif stack := _STACK.search(line):
            local = max(local, int(stack[1]))
            stores += int(stack[2])
            loads += int(stack[3])
        elif used := _USED.search(line):
            cumulative = re.search(r"(\d+) bytes cumulative stack size", used[2])
            shared = re.search(r"(\d+) bytes smem", used[2])
            kernels[name] = Resources(
                registers=int(used[1]),
                shared=int(shared[1]) if shared else 0,
                local=int(cumulative[1]) if cumulative else local,
                spill_stores=stores,
                spill_loads=loads,
            )
    return kernels
