"""An operation that autograd records without Python, by ``kernels_cu/torch/node.cpp``.

On a GPU a small training call takes as long as its Python: this node allocates and launches in
C++, forward and backward, what `Launches` describes. It is compiled once for a version of torch, in
the background; until then, and for all that a node does not serve, Python's path computes the same
bits. Called by `autograd` through the operations.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import shlex
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semiconv_cupy import source
from semiconv_cupy.backends.device import Described, Driver, Launches
from semiconv_cupy.backends.host import compiler, libraries
from semiconv_cupy.errors import BackendUnavailableError, BackendWarning, CompileError, warn_once
from torch_bridge.ops.dispatch import BEYOND_PLAIN

# In the order of `Role` in node.cpp.
ROLES = (
    "nowhere", "first", "second", "out", "residual", "grad_out", "grad_first", "grad_second",
    "scratch",
)  # fmt: skip
Gradients = tuple["Tensor | None", "Tensor | None"]
# (grad_out, first, second, residual, wants first, wants second)
FallBack = Callable[..., Gradients]
Make = Callable[..., "Node | None"]


class Operand(NamedTuple):
    """One of the two tensors as a node expects it."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    wants: bool  # whether its gradient is computed


class Work(NamedTuple):
    """What a node computes: tensors of one dtype on one device.

    `gradients` and `residual` are empty tensors of the dtypes of gradients before they are rounded
    and of the residual, on that device; `tensor` is one of the tensors' own dtype.
    """

    first: Operand
    second: Operand | None
    out_shape: tuple[int, ...]
    residual_shape: tuple[int, ...] | None
    tensor: Tensor
    gradients: Tensor
    residual: Tensor
    saves_tensors: bool  # whether the derivative needs the two tensors


class Node:
    """The recorded call for tensors of one layout."""

    def __init__(
        self, library: Any, work: Work, launches: Launches, driver: Driver, fall_back: FallBack
    ) -> None:
        self._forget, self._call = library.semiconv_node_forget, library.semiconv_node_call
        numbers = _numbers(work, launches, driver)
        array = (ctypes.c_int64 * len(numbers))(*numbers)
        self._plan = library.semiconv_node_plan(array, fall_back)

    def __call__(self, first: Tensor, second: Tensor | None) -> Tensor | None:
        """The output, which autograd has recorded; None for tensors of another layout.

        For tensors without subclasses. Also None where none is to be recorded, or where a mode, a
        transform or a profiler has to see the call.
        """
        second_at = None if second is None else second._cdata
        found: Tensor | None = self._call(self._plan, first._cdata, second_at)
        return found

    def __reduce__(self) -> Any:
        raise TypeError("a Node owns memory of C++, so it is neither copied nor pickled")

    def __del__(self) -> None:
        if hasattr(self, "_plan"):  # nodes of graphs that are still alive share the plan
            self._forget(self._plan)


class _CapturingError(Exception):
    """A CUDA graph is being captured."""


def kept(most: int) -> Callable[[Make], Make]:
    """`lru_cache` of a function that makes nodes; the decorated one makes none during a capture.

    What makes a node loads kernels, which ends the capture of a CUDA graph with an error. There
    Python's path launches the same kernels, so the graph is the same; the None that says so is not
    kept.
    """

    def decorated(make: Make) -> Make:
        @lru_cache(maxsize=most)
        def made(*given: Any) -> Node | None:
            if torch.cuda.is_current_stream_capturing():
                raise _CapturingError
            return make(*given)

        def found(*given: Any) -> Node | None:
            try:
                return made(*given)
            except _CapturingError:
                return None

        return found

    return decorated


# ---- the numbers that node.cpp reads -------------------------------------------------------------


def _numbers(work: Work, launches: Launches, driver: Driver) -> list[int]:
    """All of a plan, in the order of its class `Plan`; a list begins with its length."""
    operands = work.first, work.second
    residual = work.residual_shape or ()
    return [
        *driver,
        *(tensor._cdata for tensor in (work.tensor, work.gradients, work.residual)),
        BEYOND_PLAIN,
        work.saves_tensors,
        *(number for operand in operands for number in _numbers_of_operand(operand)),
        *(len(work.out_shape), *work.out_shape),
        *(len(residual), *residual),
        launches.scratch,
        launches.alignment,
        *_numbers_of_launches(launches.forward),
        *_numbers_of_launches(launches.backward),
    ]


def _numbers_of_operand(operand: Operand | None) -> list[int]:
    if operand is None:
        return [0, 0, 0, 0]
    sizes, strides, wants = operand
    return [1, wants, len(sizes), *sizes, len(strides), *strides]


def _numbers_of_launches(launches: list[Described]) -> list[int]:
    found = [len(launches)]
    for function, extent, given in launches:
        arguments: list[int] = []
        constants: list[int] = []
        for argument in given:
            if isinstance(argument, str):
                arguments.append(ROLES.index(argument))
                continue
            arguments.append(-1 - len(constants))
            padded = argument + bytes(-len(argument) % 8)
            constants += memoryview(padded).cast("q").tolist()
        found += [function, len(extent), *extent, len(arguments), *arguments]
        found += [len(constants), *constants]
    return found


# ---- the library ---------------------------------------------------------------------------------

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "semiconv_node_plan": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.py_object]),
    "semiconv_node_forget": (None, [ctypes.c_void_p]),
    "semiconv_node_call": (ctypes.py_object, [ctypes.c_void_p] * 3),
}
_WHAT = "the C++ node of training calls"
_NEEDS = "it needs GCC or Clang on Linux (`apt install g++`), as torch's headers do"


class _Build:
    """The library, compiled once in a thread of its own."""

    def __init__(self) -> None:
        self.library: Any = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="semiconv node", daemon=True)
        self.thread.start()
        atexit.register(self._end)

    def _run(self) -> None:
        try:
            self.library = _load()
        except (BackendUnavailableError, BackendWarning, CompileError, OSError) as error:
            self.error = error

    def _end(self) -> None:
        """At the process's exit nobody waits: the compiler is killed, its folder is removed."""
        if self.thread.is_alive():
            compiler.end_all()
            self.thread.join(5)


@lru_cache(maxsize=1)
def _build() -> _Build:
    return _Build()


@lru_cache(maxsize=1)
def _wanted() -> bool:
    named = os.environ.get("SEMICONV_NODE", "")
    if named not in ("", "0", "1"):
        raise ValueError(f"SEMICONV_NODE={named!r} must be 0 (Python records all calls) or 1")
    return named != "0"


def library(*, wait: bool = False) -> Any:
    """The compiled functions; None while they are compiled, or where they cannot be.

    The first call begins to compile in a thread; with `wait` the caller waits for its end. A
    warning says once what does not compile; without a compiler Python's path serves.
    """
    if not (wait or _wanted()) or not served() or _compiles_autograd():
        return None
    build = _build()
    if wait:
        build.thread.join()
    if isinstance(build.error, (BackendWarning, CompileError, OSError)):
        warn_once(
            "the C++ node", f"training calls go through Python, which is slower: {build.error}"
        )
    return build.library


def _compiles_autograd() -> bool:
    """Whether backward passes are to be traced, which sees no C++."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and dynamo.config.compiled_autograd


@lru_cache(maxsize=1)
def served() -> bool:
    """Whether this machine's compiler can make what torch loads: GCC or Clang, on Linux."""
    found = compiler.compiler()
    return sys.platform == "linux" and found is not None and not compiler.is_zig(shlex.split(found))


def prepare() -> None:
    """Compile the node now, for calls of later processes; it takes about ten seconds.

    Raises
    ------
    BackendUnavailableError
        No GCC or Clang, or another system than Linux.
    CompileError
        The node does not compile.
    """
    if not served():
        raise BackendUnavailableError(f"{_WHAT} cannot be compiled: {_NEEDS}")
    libraries.build(_text(), _WHAT, _flags())


def describe(cuda: str | None = torch.version.cuda) -> str:
    """Whether training calls on a GPU have the node; `cuda` is the version torch is built for."""
    if cuda is None:
        return "not needed: torch is built for the CPU only"
    if not _wanted():
        return "off: SEMICONV_NODE=0"
    if not served():
        return f"none, training calls go through Python: {_NEEDS}"
    if libraries.is_kept(_text(), _flags()):
        return "ready"
    return (
        "compiled in the background at the first training call, or now: "
        "python -m semiconv_cupy prepare torch"
    )


def _text() -> str:
    return source.assemble("torch/node.cpp", {"SEMICONV_TORCH": f'"{torch.__version__}"'})


def _load() -> Any:
    functions = dict.fromkeys(_FUNCTIONS)
    found = libraries.load(_text(), _WHAT, functions, flags=_flags())
    # With Python's lock held, and what the functions return is a Python object.
    python = ctypes.PyDLL(None, handle=found._handle)
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(python, name)
        function.restype, function.argtypes = result, arguments
    return python


def _flags() -> tuple[str, ...]:
    """Those of torch's headers and libraries, which this process has loaded already."""
    folder = Path(torch.__file__).parent
    names = "-lc10", "-ltorch_cpu", "-ltorch_python"
    return (
        "-std=c++20",
        "-O1",  # nothing here is worth the time of more
        "-DAT_PER_OPERATOR_HEADERS",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{folder / 'include'}",
        f"-L{folder / 'lib'}",
        *names,
    )
