"""HarnessDevice: what backends/device.py asks of a GPU, done on the CPU with NumPy arrays.

Compiles with g++, checks every launch as CUDA does and a little more, runs it (runtime.cpp). The
text is prepared in translate.py; the CUDA names are in cuda_on_cpu.hpp.
"""

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .translate import translate

_HERE = Path(__file__).parent
_SANITIZE_VARIABLE = "CUDA_ON_CPU_SANITIZE"
_FLAGS = (
    *("-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-fvisibility=hidden"),
    "-fno-gnu-unique",  # libraries of several kernels must not share their static variables
    "-fno-strict-aliasing",  # CUDA code reinterprets bytes
)
_SANITIZER_FLAGS = (
    *("-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"),
    "-fno-sanitize-recover=all",
)
# Each access to memory calls the runtime (races.hpp) where ThreadSanitizer would have its library.
_RACES_FLAGS = ("-fsanitize=thread", "-nodefaultlibs", "-lstdc++", "-lm", "-lgcc_s", "-lgcc", "-lc")
# What NVRTC understands and has no meaning for g++ on a CPU.
_GPU_OPTIONS = re.compile(
    r"--?(std=c\+\+17|ftz=|fmad=|prec-div=|prec-sqrt=|use_fast_math|lineinfo|generate-line-info"
    r"|maxrregcount=|ptxas-options=|device-as-default-execution-space|default-device|arch="
    r"|device-int128).*"
)

_BLOCK_LIMIT = (1024, 1024, 64)
_GRID_LIMIT = (2**31 - 1, 65535, 65535)
_THREAD_LIMIT = 1024
_SHARED_LIMIT = 227 * 1024
_POISON = 0xA5
_KINDS = {"b": "bool", "i": "signed integer", "u": "unsigned integer", "f": "float", "s": "struct"}

_lock = threading.Lock()  # the runtime's state (threadIdx, ...) is one for the process


class CompileError(RuntimeError):
    """g++ does not accept the kernel source; the message is the compiler's."""


class LaunchError(RuntimeError):
    """A launch went wrong on the device: deadlock, a wrong mask, shared memory overrun, __trap."""


class _Parameter(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_ulonglong),
        ("pointee", ctypes.c_ulonglong),
        ("kind", ctypes.c_char),
    )


class _Entry(ctypes.Structure):
    pass


_Entry._fields_ = (
    ("name", ctypes.c_char_p),
    ("parameter_count", ctypes.c_int),
    ("parameters", ctypes.POINTER(_Parameter)),
    ("run", ctypes.c_void_p),
    ("next", ctypes.POINTER(_Entry)),
    ("watched", ctypes.c_bool),
)


class HarnessDevice:
    """A device whose memory is NumPy's and whose multiprocessor is the calling thread.

    Parameters
    ----------
    order : "forward" or "reverse"
        The order of blocks and threads. A result that depends on it has a race: a missing
        barrier shows in at least one of the two.
    sanitize : bool, optional
        Compile with AddressSanitizer and UBSan. The process must have been started with
        `sanitizer_environment`; by default, whether it was.
    races : bool
        Watch shared memory: threads that touch the same bytes without a barrier between, one of
        which writes, end the launch, in whatever order they ran. A kernel takes twice as long.
    ucontext : bool
        Use the portable context switch where the assembly one would serve.
    cache_folder : path, optional
        Where compiled kernels stay; default: the user's cache folder.
    """

    def __init__(
        self,
        *,
        order: str = "forward",
        sanitize: bool | None = None,
        races: bool = False,
        ucontext: bool = False,
        cache_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if order not in ("forward", "reverse"):
            raise ValueError(f"order must be 'forward' or 'reverse', got {order!r}")
        prepared = os.environ.get(_SANITIZE_VARIABLE) == "1"
        if sanitize and not prepared:
            raise ValueError("sanitize=True needs a process started with sanitizer_environment()")
        self._reverse = order == "reverse"
        self._sanitize = prepared if sanitize is None else sanitize
        if races and self._sanitize:
            raise ValueError("races=True does not go with sanitize=True: one of the two at a time")
        self._races = races
        self._ucontext = ucontext
        self._cache = Path(cache_folder) if cache_folder else _user_cache()
        self._libraries: dict[tuple[str, tuple[str, ...]], tuple[ctypes.CDLL, dict[str, Any]]] = {}

    @property
    def array_module(self) -> ModuleType:
        return np

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array of poison bytes: a kernel that forgets to write an element shows."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[...] = _POISON
        return array

    def address(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def scratch(self, numbers: int) -> tuple[int, object]:
        array = self.empty(numbers, np.float64)
        return array.ctypes.data, array

    def gpu_and_stream(self) -> tuple[int, int]:
        return 0, 0

    def multiprocessors(self) -> int:
        return 132

    def compile(self, source: str, name: str, options: Sequence[str] = ()) -> "HarnessKernel":
        """Compile a CUDA source text and return its ``extern "C" __global__`` function `name`."""
        key = (source, tuple(options))
        if key not in self._libraries:
            self._libraries[key] = self._load(source, _defines(options))
        _, entries = self._libraries[key]
        if name not in entries:
            raise ValueError(
                f'name={name!r} is no extern "C" __global__ function of this source; '
                f"it has {', '.join(sorted(entries)) or 'none'}"
            )
        return HarnessKernel(name, entries[name], self._runtime, self._reverse)

    def _load(self, source: str, defines: Sequence[str]) -> tuple[ctypes.CDLL, dict[str, Any]]:
        header, runtime = self._header_and_runtime
        text = f'#include "{header}"\n#line 1 "kernel.cu"\n{translate(source)}\n'
        flags = self._instrumentation
        library = ctypes.CDLL(str(self._build(text, [*flags, str(runtime), *defines])))
        first = library.cuda_on_cpu_entries
        first.restype = ctypes.POINTER(_Entry)
        entries: dict[str, Any] = {}
        entry = first()
        while entry:
            entries[entry.contents.name.decode()] = entry.contents
            entry = entry.contents.next
        return library, entries

    @property
    def _instrumentation(self) -> tuple[str, ...]:
        """The flags with which kernels are compiled to be watched."""
        if self._sanitize:
            return _SANITIZER_FLAGS
        return _RACES_FLAGS if self._races else ()

    @functools.cached_property
    def _header_and_runtime(self) -> tuple[Path, Path]:
        flags = ["-O2"]
        if self._ucontext:
            flags.append("-DCUDA_ON_CPU_UCONTEXT=1")
        if self._sanitize:
            flags.append("-DCUDA_ON_CPU_ASAN=1")
        declarations = (_HERE / "runtime.hpp").read_text()
        # The content of what is included has to be part of the text that is hashed.
        text = (_HERE / "runtime.cpp").read_text().replace('#include "runtime.hpp"', declarations)
        text = text.replace('#include "races.hpp"', (_HERE / "races.hpp").read_text())
        runtime = self._build(text.replace("#pragma once", ""), flags)
        names = (_HERE / "cuda_on_cpu.hpp").read_text()
        header_text = names.replace('#include "runtime.hpp"', declarations)
        return self._keep_header(header_text, self._instrumentation), runtime

    @functools.cached_property
    def _runtime(self) -> Any:
        library = ctypes.CDLL(str(self._header_and_runtime[1]))
        launch = library.cuda_on_cpu_launch
        launch.argtypes = (
            ctypes.POINTER(_Entry),
            ctypes.c_uint * 3,
            ctypes.c_uint * 3,
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_size_t,
        )
        return launch

    def _keep_header(self, text: str, flags: Sequence[str]) -> Path:
        """Write the header that all kernels include, and its precompiled form beside it.

        GCC takes ``name.hpp.gch`` for ``#include "name.hpp"`` where the flags are the same ones,
        which halves the time that a kernel takes; other compilers read the header itself.
        """
        compiler, version = _compiler()
        path = self._cache / f"cuda_on_cpu-{_digest(text, version, *_FLAGS, *flags)}.hpp"
        if not path.exists():
            _write_whole(path, text)
        precompiled = path.with_name(f"{path.name}.gch")
        if "clang" not in version and not precompiled.exists():
            with tempfile.TemporaryDirectory(dir=self._cache) as folder:
                made = Path(folder) / "header.gch"
                command = [
                    compiler,
                    "-x",
                    "c++-header",
                    str(path),
                    "-o",
                    str(made),
                    *_FLAGS,
                    *flags,
                ]
                subprocess.run(command, capture_output=True, check=True, env=_unsanitized())
                made.replace(precompiled)
        return path

    def _build(self, text: str, arguments: Sequence[str]) -> Path:
        flags = [*_FLAGS, *arguments]
        compiler, version = _compiler()
        path = self._cache / f"{_digest(text, version, *flags)}.so"
        if path.exists():
            return path
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=self._cache) as folder:
            library = Path(folder) / "kernel.so"
            command = [compiler, "-x", "c++", "-", "-o", str(library), "-x", "none", *flags]
            result = subprocess.run(
                command, input=text, capture_output=True, text=True, env=_unsanitized()
            )
            if result.returncode:
                raise CompileError(f"{' '.join(command)}\n{result.stderr[:8000]}")
            library.replace(path)
        return path


class HarnessKernel:
    """A compiled kernel: ``kernel(grid, block, args, shared_bytes)`` runs it to its end."""

    def __init__(self, name: str, entry: Any, launch: Any, reverse: bool) -> None:
        self.name = name
        self._entry = entry
        self._launch = launch
        self._reverse = reverse
        self.parameters = entry.parameters[: entry.parameter_count]

    def __repr__(self) -> str:
        return f"HarnessKernel({self.name!r})"

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        shared_bytes: int = 0,
        stream: object = None,
    ) -> None:
        grid_size = _extent("grid", grid, _GRID_LIMIT)
        block_size = _extent("block", block, _BLOCK_LIMIT)
        threads = block_size[0] * block_size[1] * block_size[2]
        if threads > _THREAD_LIMIT:
            raise ValueError(f"block={block} has {threads} threads; the limit is {_THREAD_LIMIT}")
        if not 0 <= shared_bytes <= _SHARED_LIMIT:
            raise ValueError(f"{shared_bytes=} is not within 0 and {_SHARED_LIMIT}")
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments, got {len(args)}")
        held = [
            self._argument(i, arg, parameter)
            for i, (arg, parameter) in enumerate(zip(args, self.parameters, strict=True))
        ]
        pointers = (ctypes.c_void_p * max(len(held), 1))(*(array.ctypes.data for array in held))
        message = ctypes.create_string_buffer(4096)
        with _lock:
            failed = self._launch(
                ctypes.byref(self._entry),
                (ctypes.c_uint * 3)(*grid_size),
                (ctypes.c_uint * 3)(*block_size),
                pointers,
                shared_bytes,
                self._reverse,
                message,
                len(message),
            )
        if failed:
            raise LaunchError(message.value.decode(errors="replace"))

    def _argument(self, number: int, value: Any, parameter: _Parameter) -> np.ndarray:
        """Return an array that holds the parameter's bytes."""
        where = f"args[{number}] of {self.name}"
        kind = parameter.kind.decode()
        if kind in "pc":
            return _pointer(where, value, parameter.pointee, writes=kind == "p")
        if not isinstance(value, np.generic) and not (
            isinstance(value, np.ndarray) and value.ndim == 0
        ):
            raise TypeError(
                f"{where} is a {_KINDS[kind]} of {parameter.size} bytes: pass a NumPy scalar, "
                f"got {type(value).__name__}"
            )
        given = {"V": "s"}.get(value.dtype.kind, value.dtype.kind)
        if given != kind or value.dtype.itemsize != parameter.size:
            raise TypeError(
                f"{where} is a {_KINDS[kind]} of {parameter.size} bytes, "
                f"got {value.dtype} of {value.dtype.itemsize}"
            )
        return np.array(value)


def _pointer(where: str, value: Any, pointee: int, writes: bool) -> np.ndarray:
    if value is None:
        return np.zeros(1, np.uintp)
    if isinstance(value, int):
        return np.array(value, np.uintp)
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"{where} is a pointer: pass an array, an address or None, got {type(value).__name__}"
        )
    # Bytes (a workspace) may become anything, as on the GPU; numbers of another size are a mistake.
    if pointee > 1 and value.dtype.itemsize not in (1, pointee):
        raise TypeError(
            f"{where} points to elements of {pointee} bytes, "
            f"got an array of {value.dtype} ({value.dtype.itemsize} bytes)"
        )
    if writes and not value.flags.writeable:
        raise TypeError(f"{where} is a pointer to non-const, got a read-only array")
    return np.array(value.ctypes.data, np.uintp)


def _extent(what: str, size: tuple[int, ...], limits: tuple[int, int, int]) -> tuple[int, ...]:
    if not isinstance(size, tuple) or not 1 <= len(size) <= 3:
        raise ValueError(f"{what} must be a tuple of one to three integers, got {size!r}")
    if any(not 1 <= n <= limit for n, limit in zip(size, limits, strict=False)):
        raise ValueError(f"{what}={size} must be at least 1 and at most {limits[: len(size)]}")
    return size + (1,) * (3 - len(size))


def _defines(options: Sequence[str]) -> list[str]:
    """Return the options that mean something to g++ as well."""
    defines = [option for option in options if option.startswith("-D")]
    for option in options:
        if not option.startswith("-D") and not _GPU_OPTIONS.fullmatch(option):
            raise ValueError(f"options: the harness does not know {option!r}")
    return defines


@functools.cache
def _compiler() -> tuple[str, str]:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        raise RuntimeError("no g++ on PATH: install it, or name a compiler in $CXX")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    return compiler, version.stdout


def _unsanitized() -> dict[str, str]:
    """The environment for the compiler, which need not be sanitized itself."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def _user_cache() -> Path:
    named = os.environ.get("SEMICONV_CACHE_DIR")
    general = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(named) if named else Path(general) / "semiconv_cupy") / "cuda_on_cpu"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.replace(file.name, path)


def sanitizer_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for a Python process whose HarnessDevice sanitizes.

    AddressSanitizer has to be the first library of the process, and Python's own allocator has
    to leave each array its own bounds.
    """
    compiler, _ = _compiler()
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        **environment,
        "LD_PRELOAD": " ".join(libraries),
        # Leaks of the interpreter are not ours; the stacks of fibers are known by annotations.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        _SANITIZE_VARIABLE: "1",
    }
