"""What runs where on this machine, and the remedy for each thing that is missing.

`python -m semiconv_cupy info` calls `run`. Each probe stands alone and may fail in any way (a
broken CUDA installation raises what it likes): its failure is a line of the report, never its end.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from semiconv_cupy import demo

Facts = Iterator[tuple[str, str]]


def run() -> None:
    """Print the report: section by section what is found, and then the remedies."""
    remedies: list[str] = []
    for title, section in {
        "Packages": _packages,
        "CPU": _cpu,
        "GPU": _gpu,
        "Backends": _backends,
    }.items():
        print(title)
        for name, fact in section(remedies):
            print(f"  {name:14} {fact}", flush=True)
        print()
    print("Remedies")
    for remedy in remedies or ["none needed"]:
        print(f"  - {remedy}")


def _packages(remedies: list[str]) -> Facts:
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    here = Path(__file__).parent.parent
    yield "semiconv-cupy", f"{_version('semiconv-cupy') or 'not installed'}, imported from {here}"
    for name in ("numpy", "sympy", "scipy", "torch"):
        yield name, _version(name) or "not installed"
    cupys = _cupy_distributions()
    yield "cupy", ", ".join(cupys) or "not installed"

    missing = demo.missing_packages()
    if missing:
        remedies.append(f"the demo needs more packages: pip install {' '.join(missing)}")
    if _version("torch") is None:
        remedies.append("torch_bridge needs PyTorch: pip install torch")
    if len(cupys) > 1:
        remedies.append(
            "the installed CuPy packages overwrite each other: pip uninstall all, install one"
        )


def _cpu(remedies: list[str]) -> Facts:
    from semiconv_cupy.backends.host import calls as host
    from semiconv_cupy.backends.host import compiler as host_compiler
    from semiconv_cupy.backends.host import libraries

    yield "cores", _fact(lambda: f"{_cores()}, {platform.machine()}")
    compiler = host.compiler()
    if compiler is None:
        yield "compiler", "none"
        remedies.append(f"NumPy arrays are served by a slow reference: {host.missing_compiler()}")
    else:
        yield "compiler", _fact(lambda: f"{compiler} ({host_compiler.version()})")
        yield "threads", _fact(lambda: str(host.threads()))
    yield "cache", _fact(libraries.describe)
    problem = libraries.problem()
    if problem:
        remedies.append(f"compiled kernels are not kept ({problem}): {libraries.REMEDY}")


def _gpu(remedies: list[str]) -> Facts:
    driver = _driver()
    yield "driver", f"CUDA {_dotted(driver)}" if driver else "no NVIDIA driver"
    yield from _cupy(driver, remedies)
    if _version("torch") is not None:
        yield "torch", _fact(_torch)


def _cupy(driver: int | None, remedies: list[str]) -> Facts:
    from semiconv_cupy.backends.device import import_cupy

    package = f"'cupy-cuda{13 if driver and driver >= 13000 else 12}x[ctk]'"
    if not _cupy_distributions():
        yield "CuPy", "not installed"
        if driver:
            remedies.append(f"CuPy arrays and CUDA tensors: pip install {package}")
        else:
            remedies.append(
                "CuPy arrays need an NVIDIA GPU with its driver, and then 'cupy-cuda12x[ctk]' or "
                "'cupy-cuda13x[ctk]'; NumPy arrays and CPU tensors need neither"
            )
        return
    try:
        cupy = import_cupy()
    except Exception as error:  # a broken installation raises what it likes
        yield "CuPy", f"cannot be imported: {_first_line(error)}"
        remedies.append(f"reinstall CuPy: pip install --force-reinstall {package}")
        return
    runtime = cupy.cuda.runtime
    yield "CUDA runtime", _fact(lambda: _dotted(runtime.runtimeGetVersion()))
    nvrtc = _attempt(lambda: "{}.{}".format(*cupy.cuda.nvrtc.getVersion()))
    yield "NVRTC", nvrtc or "not found"
    if nvrtc is None:
        remedies.append(
            f"CuPy cannot compile without NVRTC: pip install {package}, or set CUDA_PATH to a "
            "CUDA toolkit"
        )
    count = _attempt(runtime.getDeviceCount) or 0
    for index in range(count):
        yield f"device {index}", _fact(partial(_device, runtime, index))
    if not count:
        yield "devices", "none"
        remedies.append(
            "no CUDA device is seen: CuPy arrays need an NVIDIA GPU and its driver (nvidia-smi "
            "lists them; CUDA_VISIBLE_DEVICES may hide them)"
        )


def _backends(remedies: list[str]) -> Facts:
    try:
        from semiconv_cupy import backends

        served = backends.describe()
    except Exception as error:  # whatever a backend's own probing meets is worth a line here
        yield "unknown", _first_line(error)
        return
    yield "NumPy arrays", served["numpy"]
    yield "CuPy arrays", served["cupy"]


def _attempt(probe: Callable[[], Any]) -> Any:
    """What the probe finds, or None where it fails in whatever way."""
    try:
        return probe()
    except Exception:  # see the head of the file
        return None


def _fact(probe: Callable[[], str]) -> str:
    """What the probe finds, or how it failed."""
    try:
        return probe()
    except Exception as error:  # see the head of the file
        return f"unknown: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cupy_distributions() -> list[str]:
    """CuPy is one module under several names: cupy, cupy-cuda12x, cupy-cuda13x, cupy-rocm-..."""
    names = {
        f"{found.name} {found.version}"
        for found in importlib.metadata.distributions()
        if found.name and found.name.lower().split("-")[0] == "cupy"
    }
    return sorted(names)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _driver() -> int | None:
    """The newest CUDA version that the driver serves, as 12040 for 12.4; None without a driver."""
    version = ctypes.c_int()
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        status = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return version.value if status == 0 and version.value else None


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _device(runtime: Any, index: int) -> str:
    properties = runtime.getDeviceProperties(index)
    memory = properties["totalGlobalMem"] / 2**30
    capability = f"{properties['major']}.{properties['minor']}"
    return f"{properties['name'].decode()}, capability {capability}, {memory:.0f} GiB"


def _torch() -> str:
    torch = importlib.import_module("torch")
    if torch.version.cuda is None:
        return "built for the CPU only"
    return f"built for CUDA {torch.version.cuda}, {torch.cuda.device_count()} devices"
