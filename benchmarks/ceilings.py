"""The limits of the machine: the bandwidth of a copy and the rates of arithmetic.

Each run measures them itself, with ceilings.cpp and ceilings.cu. Units: bytes and terms a second; a
"pair" is an addition and a maximum, a "product" a multiplication and an addition.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Clock, alternate
from semiconv_cupy.backends.host import libraries
from semiconv_cupy.source import KernelSource

HERE = Path(__file__).parent
COPY = "copy bytes/s"
_CPU_RATES = (
    *("pairs float32", "pairs float64", "pairs uint8", "pairs int16", "pairs int32"),
    *("products float32", "products float64"),
)
# For each rate on a GPU: the C++ type, its NumPy dtype, how many terms a value holds, one term.
GPU_RATES = {
    "pairs float32": ("float", np.float32, 1, "fmaxf(acc + y, z)"),
    "pairs float16": ("unsigned", np.uint32, 2, "pairs_of_halves(acc, y, z)"),
    "pairs float64": ("double", np.float64, 1, "fmax(acc + y, z)"),
    "products float32": ("float", np.float32, 1, "fmaf(acc, y, z)"),
    "products float64": ("double", np.float64, 1, "fma(acc, y, z)"),
}
THREADS, CHAINS, ROUNDS = 256, 16, 4096


def of_cpu(clock: Clock, seconds: float) -> dict[str, float]:
    """The ceilings of this CPU with all its threads."""
    text = (HERE / "ceilings.cpp").read_text()
    library = libraries.load(text, "the benchmark of the CPU's ceilings", {"copy": None})
    source, target = np.ones(1 << 28, np.uint8), np.empty(1 << 28, np.uint8)
    library.copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    library.copy.restype = ctypes.c_double
    works: dict[str, Callable[[], float]] = {
        COPY: lambda: library.copy(target.ctypes.data, source.ctypes.data, source.nbytes)
    }
    for name in _CPU_RATES:
        function = library[name.replace(" ", "_")]
        function.argtypes, function.restype = [ctypes.c_long], ctypes.c_double
        works[name] = lambda function=function: function(3_000_000)  # type: ignore[misc]
    return {
        name: work() / alternate({name: work}, clock, seconds)[name].best
        for name, work in works.items()
    }


def gpu_kernel(rate: str) -> KernelSource:
    """The kernel whose inner loop computes terms of one rate and nothing else."""
    kind, _, _, step = GPU_RATES[rate]
    name = f"ceiling_{rate.replace(' ', '_')}"
    macros = {"SEMICONV_KERNEL": name, "VALUE": kind, "STEP(acc, y, z)": step}
    defines = "".join(f"#define {macro} {text}\n" for macro, text in macros.items())
    return KernelSource(name, defines + (HERE / "ceilings.cu").read_text(), ("-std=c++17",))


def of_gpu(clock: Clock, seconds: float) -> dict[str, float]:
    """The ceilings of the current GPU."""
    import cupy

    source = cupy.ones(1 << 28, np.float32)
    target = cupy.empty_like(source)
    copying = alternate({COPY: lambda: cupy.copyto(target, source)}, clock, seconds)
    found = {COPY: 2 * source.nbytes / copying[COPY].median}
    blocks = 16 * cupy.cuda.Device().attributes["MultiProcessorCount"]
    for rate, (_, dtype, terms, _) in GPU_RATES.items():
        made = gpu_kernel(rate)
        kernel = cupy.RawKernel(made.text, made.name, made.options)
        out, constant = cupy.zeros(CHAINS * THREADS, dtype), np.dtype(dtype).type(0)

        def run(kernel: Any = kernel, out: Any = out, constant: Any = constant) -> None:
            kernel((blocks,), (THREADS,), (out, constant, constant))

        time = alternate({rate: run}, clock, seconds)[rate].median
        found[rate] = terms * CHAINS * ROUNDS * THREADS * blocks / time
    return found
