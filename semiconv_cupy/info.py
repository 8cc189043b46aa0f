"""A report of what runs where on this machine, with the remedy for each thing that is missing.

`python -m semiconv_cupy info` calls `run`. A broken CUDA installation may raise any exception; a
probe that fails becomes a line of the report, and the report goes on.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from semiconv_cupy import demo

Facts = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Installed:
    """What is installed: versions by distribution, and the packages that the demo lacks."""

    versions: Mapping[str, str]
    demo_lacks: Sequence[str]

    @property
    def cupys(self) -> list[str]:
        """CuPy is one module of several distributions: cupy, cupy-cuda12x, cupy-rocm-5-0..."""
        return sorted(
            f"{name} {version}"
            for name, version in self.versions.items()
            if name.split("-")[0] == "cupy"
        )

    def version(self, name: str) -> str:
        """The version of a distribution, or that it is not installed."""
        return self.versions.get(name, "not installed")


def installed_here() -> Installed:
    """What this Python finds."""
    versions: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        if found.name:  # a broken installation has none
            # The first folder of sys.path wins, as in an import.
            versions.setdefault(re.sub(r"[-_.]+", "-", found.name).lower(), str(found.version))
    return Installed(versions, demo.missing_packages())


def run(
    installed: Installed | None = None,
    *,
    as_json: bool = False,
    node: Callable[[], str] | None = None,
) -> None:
    """Print the report: what is found, section by section, and then the remedies.

    Parameters
    ----------
    installed : Installed, optional
        By default `installed_here()`.
    as_json : bool
        One JSON object: each section's facts by their names, and the list of remedies.
    node : callable, optional
        Says whether training calls on a GPU have their C++ node; called where torch is installed.
    """
    installed = installed_here() if installed is None else installed
    remedies: list[str] = []
    sections: dict[str, Callable[[Installed, list[str]], Facts]] = {
        "Packages": _packages,
        "CPU": _cpu,
        "GPU": partial(_gpu, node=node),
        "Backends": _backends,
    }
    if as_json:
        found: dict[str, Any] = {
            title.lower(): dict(section(installed, remedies)) for title, section in sections.items()
        }
        print(json.dumps(found | {"remedies": remedies}, indent=1))
        return
    for title, section in sections.items():
        print(title)
        for name, fact in section(installed, remedies):
            print(f"  {name:14} {fact}", flush=True)
        print()
    print("Remedies")
    for remedy in remedies or ["none needed"]:
        print(f"  - {remedy}")


def _packages(installed: Installed, remedies: list[str]) -> Facts:
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    here = Path(__file__).parent.parent
    yield "semiconv-cupy", f"{installed.version('semiconv-cupy')}, imported from {here}"
    for name in ("numpy", "sympy", "scipy", "torch"):
        yield name, installed.version(name)
    yield "cupy", ", ".join(installed.cupys) or "not installed"

    if installed.demo_lacks:
        packages = " ".join(installed.demo_lacks)
        remedies.append(f"the demo needs more packages: pip install {packages}")
    if "torch" not in installed.versions:
        remedies.append("torch_bridge needs PyTorch: pip install torch")
    if len(installed.cupys) > 1:
        remedies.append(
            "the installed CuPy packages overwrite each other: pip uninstall all, install one"
        )


def _cpu(installed: Installed, remedies: list[str]) -> Facts:
    from semiconv_cupy.backends.host import cache, prebuilt
    from semiconv_cupy.backends.host import compiler as host_compiler
    from semiconv_cupy.backends.host import functions as host

    yield "cores", _fact(lambda: f"{_cores()}, {platform.machine()}")
    yield "ready-made", _fact(prebuilt.describe)
    compiler = host_compiler.compiler()
    if compiler is None:
        yield "compiler", "none"
        what = "NumPy arrays" if prebuilt.level() is None else "semifields of one's own"
        remedies.append(f"{what} run on a slow reference: {host_compiler.missing_compiler()}")
    else:
        yield "compiler", _fact(lambda: f"{compiler} ({host_compiler.version()})")
        yield "threads", _fact(lambda: str(host.threads()))
    yield "cache", _fact(cache.describe)
    problem = cache.problem()
    if problem:
        remedies.append(f"compiled kernels are not kept ({problem}): {cache.REMEDY}")


def _gpu(installed: Installed, remedies: list[str], node: Callable[[], str] | None) -> Facts:
    driver = _driver()
    yield "driver", f"CUDA {_dotted(driver)}" if driver else "no NVIDIA driver"
    yield from _cupy(installed, driver, remedies)
    if "torch" in installed.versions:
        yield "torch", _fact(_torch)
        if node is not None:
            yield "training node", _fact(node)


def _cupy(installed: Installed, driver: int | None, remedies: list[str]) -> Facts:
    from semiconv_cupy.backends.device import import_cupy

    package = f"'cupy-cuda{13 if driver and driver >= 13000 else 12}x[ctk]'"
    if not installed.cupys:
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
    except Exception as error:  # a broken installation may raise anything
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


def _backends(installed: Installed, remedies: list[str]) -> Facts:
    try:
        from semiconv_cupy import backends

        served = backends.describe()
    except Exception as error:  # a backend's own probe failed
        yield "unknown", _first_line(error)
        return
    yield "NumPy arrays", served["numpy"]
    yield "CuPy arrays", served["cupy"]


def _attempt(probe: Callable[[], Any]) -> Any:
    """What the probe returns, or None if it raises anything."""
    try:
        return probe()
    except Exception:  # see the top of the file
        return None


def _fact(probe: Callable[[], str]) -> str:
    """What the probe returns, or the error that it raises."""
    try:
        return probe()
    except Exception as error:  # see the top of the file
        return f"unknown: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _driver() -> int | None:
    """The newest CUDA version that the driver supports (12040 is 12.4); None without a driver."""
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
