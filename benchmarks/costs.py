"""Costs that are not ratios: extra memory, the time of a small call, a second process's start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import semiconv_cupy as sc
from benchmarks.inputs import TORCH_DEVICES
from benchmarks.timing import alternate, wall
from benchmarks.works import Device, Goal

ROOT = Path(__file__).parent.parent
VALUE = "value"
CALLS = 200  # small calls in each measured round


class Cost(NamedTuple):
    """One number: its unit, its goal, and the function that measures it."""

    name: str
    unit: str
    goal: Goal
    measure: Callable[[], float]


def costs(device: Device, absent: list[str]) -> Iterator[Cost]:
    """The costs that can be measured with the peers that are installed."""
    for size in (3, 31, 101):
        measure = _gpu_memory if device == "gpu" else _cpu_memory
        yield Cost(
            f"extra memory, {size}x{size} on 2048^2",
            "x (input + output)",
            Goal(VALUE, most=1.5),
            lambda size=size, measure=measure: measure(size),  # type: ignore[misc]
        )
    img, krn = np.ones((1, 1, 8, 8), np.float32), np.zeros((1, 1, 3, 3), np.float32)
    if device == "gpu":
        import cupy

        img, krn = cupy.asarray(img), cupy.asarray(krn)
    dilation = sc.SelectSemifield.tropical_max()
    yield Cost(
        "array call on 1x1x8x8", "us", Goal(VALUE, most=20),
        lambda: _overhead(device, lambda: sc.semifield_conv(img, krn, dilation, padding=1)),
    )  # fmt: skip
    if "torch max_pool2d" not in absent:
        yield from _tensor_calls(device)
    yield Cost(
        "first result of a second process, after import",
        "s",
        Goal(VALUE, most=1),
        lambda: _start(device),
    )


def _tensor_calls(device: Device) -> Iterator[Cost]:
    """The costs of calls with tensors."""
    import torch

    from torch_bridge.functional import semifield_conv

    where = TORCH_DEVICES[device]
    yield Cost(
        "extra memory, 31x31 on 2048^2, fwd + bwd",
        "x (input + output)",
        Goal(VALUE),
        _gpu_training_memory if device == "gpu" else lambda: float(_python(_TRAINING_MEMORY, "31")),
    )
    img, krn = torch.ones(1, 1, 8, 8, device=where), torch.zeros(1, 1, 3, 3, device=where)
    recorded = krn.clone().requires_grad_()
    for name, kernel in (
        ("torch call on 1x1x8x8", krn),
        ("torch call on 1x1x8x8, recorded", recorded),
    ):
        yield Cost(
            name, "us", Goal(VALUE, most=60),
            lambda kernel=kernel: _overhead(  # type: ignore[misc]
                device, lambda: semifield_conv(img, kernel, "tropical_max", padding=1)
            ),
        )  # fmt: skip
    yield Cost(
        "torch max_pool2d on 1x1x8x8", "us", Goal(VALUE),
        lambda: _overhead(device, lambda: torch.nn.functional.max_pool2d(img, 3, 1, 1)),
    )  # fmt: skip


def _overhead(device: Device, call: Callable[[], Any]) -> float:
    """Microseconds that one call takes on the CPU, without waiting for the GPU each time."""

    def run() -> None:
        for _ in range(CALLS):
            call()
        if device == "gpu":
            import cupy

            cupy.cuda.Device().synchronize()

    return 1e6 * alternate({"": run}, wall, 0.5)[""].best / CALLS


_MEMORY = """
import sys
import numpy as np
import semiconv_cupy as sc

def resident(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))

size = int(sys.argv[1])
img, krn = (np.random.rand(1, 1, n, n).astype("f4") for n in (2048, size))
sc.semifield_conv(krn, krn, "tropical_max")  # loads the library
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = resident("VmRSS")
out = sc.semifield_conv(img, krn, "tropical_max", padding="same")
print((resident("VmHWM") - before - out.nbytes) / (img.nbytes + out.nbytes))
"""


def _cpu_memory(size: int) -> float:
    """The peak growth of a new process beyond the result, over input plus output (Linux)."""
    return float(_python(_MEMORY, str(size)))


def _gpu_memory(size: int) -> float:
    """What a call takes of an empty memory pool beyond the result, over input plus output."""
    import cupy

    img, krn = (cupy.random.random((1, 1, n, n), np.float32) for n in (2048, size))
    sc.semifield_conv(img, krn, "tropical_max", padding="same")  # it keeps plans and tables
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        out = sc.semifield_conv(img, krn, "tropical_max", padding="same")
    return float((pool.total_bytes() - out.nbytes) / (img.nbytes + out.nbytes))


_TRAINING_MEMORY = """
import sys
import torch
from torch_bridge.functional import semifield_conv

def resident(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))

def step(n, size):
    img = torch.rand(1, 1, n, n, requires_grad=True)
    krn = torch.rand(1, 1, size, size, requires_grad=True)
    before = resident("VmRSS")
    semifield_conv(img, krn, "tropical_max", padding="same").sum().backward()
    return before, 4 * n * n

step(64, 3)  # loads the libraries
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before, image = step(2048, int(sys.argv[1]))
print((resident("VmHWM") - before - image) / (2 * image))
"""


def _gpu_training_memory() -> float:
    """The peak growth of torch's allocator beyond the gradients, over input plus output."""
    import torch

    from torch_bridge.functional import semifield_conv

    img = torch.rand(1, 1, 2048, 2048, device="cuda", requires_grad=True)
    krn = torch.rand(1, 1, 31, 31, device="cuda", requires_grad=True)
    torch.cuda.reset_peak_memory_stats()
    before, image = torch.cuda.memory_allocated(), 4 * img.numel()
    semifield_conv(img, krn, "tropical_max", padding="same").sum().backward()
    return (torch.cuda.max_memory_allocated() - before - image) / (2 * image)


_START = """
import sys, time
import numpy as np
import semiconv_cupy as sc
img, krn = np.ones((1, 1, 64, 64), np.float32), np.ones((1, 1, 3, 3), np.float32)
if sys.argv[1] == "gpu":
    import cupy
    img, krn = cupy.asarray(img), cupy.asarray(krn)  # the driver has started
begin = time.perf_counter()
out = sc.semifield_conv(img, krn, "tropical_max", padding="same")
if sys.argv[1] == "gpu":
    cupy.cuda.Device().synchronize()
print(time.perf_counter() - begin)
"""


def _start(device: Device) -> float:
    """Seconds from the import to the first result, after another process compiled everything."""
    _python(_START, device)
    return float(_python(_START, device))


def _python(text: str, argument: str) -> str:
    command = [sys.executable, "-c", text, argument]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"a measuring process failed:\n{done.stderr}")
    return done.stdout
