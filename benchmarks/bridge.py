"""How the PyTorch bridge compares with torch and pytorch_nd_semiconv, all in one run.

    python benchmarks/bridge.py [--device cuda] [--seconds 1.0]

Times are medians of calls that alternate between ours and the peer's, so that what else the machine
does meets both; a ratio is their time over ours.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

import torch_bridge as semiconv
from torch_bridge.functional import semifield_conv

# (batch, channels, height, width), K, stride
POOLING = [((32, 6, 28, 28), 7, 2), ((8, 16, 64, 64), 5, 1), ((64, 6, 28, 28), 3, 2)]


def medians(seconds: float, device: str, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call, taken in turns."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds * len(calls) or len(times[0]) < 3:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def training_step(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> Callable:
    """One forward and backward pass."""
    with torch.no_grad():
        weights = torch.ones_like(function(*tensors))
    return lambda: torch.autograd.grad(function(*tensors), tensors, weights)


def pooling(seconds: float, device: str) -> None:
    """Forward and backward of dilation pooling, against max-pooling and the package replaced."""
    for shape, size, stride in POOLING:
        compare_pooling(shape, size, stride, seconds, device)


def compare_pooling(
    shape: tuple[int, ...], size: int, stride: int, seconds: float, device: str
) -> None:
    """One line of `pooling`."""
    img = torch.randn(shape, device=device, requires_grad=True)
    krn = torch.randn(shape[1], 1, size, size, device=device, requires_grad=True)
    arguments = {"stride": stride, "padding": "same", "groups": shape[1]}
    calls = [
        training_step(lambda i, k: semifield_conv(i, k, "tropical_max", **arguments), img, krn),
        training_step(lambda i: F.max_pool2d(i, size, stride, size // 2), img),
    ]
    peer = seed_convolution()
    if peer is not None:
        calls.append(training_step(lambda i, k: peer(i, k, **arguments), img, krn))
    ours, maximum, *others = medians(seconds, device, *calls)
    print(
        f"dilation pooling {'x'.join(map(str, shape))} K={size} stride {stride}, fwd + bwd: "
        f"{ours * 1e3:.2f} ms, {ours / maximum:.2f}x the time of max_pool2d (goal 0.5 on the CPU)"
    )
    for theirs in others:
        print(f"    {theirs / ours:.0f}x faster than pytorch_nd_semiconv's broadcast (goal 20)")


def seed_convolution() -> Callable[..., torch.Tensor] | None:
    """pytorch_nd_semiconv's tropical_max, where it is installed."""
    try:
        import pytorch_nd_semiconv
    except ImportError:
        return None
    return pytorch_nd_semiconv.BroadcastSemifield.tropical_max().dynamic()


def provenance(seconds: float, device: str) -> None:
    """What remembering the winners costs."""
    img = torch.randn(1, 1, 1024, 1024, device=device)
    krn = torch.randn(1, 1, 11, 11, device=device)
    wanting = krn.clone().requires_grad_()
    plain, remembering = medians(
        seconds,
        device,
        lambda: semifield_conv(img, krn, "tropical_max", padding="same"),
        lambda: semifield_conv(img, wanting, "tropical_max", padding="same"),
    )
    print(
        f"11x11 dilation of 1024x1024: {plain * 1e3:.2f} ms, for a gradient "
        f"{remembering * 1e3:.2f} ms, {remembering / plain:.2f}x (goal 1.5)"
    )


def overhead(seconds: float, device: str) -> None:
    """A call that has nothing to do."""
    img, krn = torch.randn(1, 1, 8, 8, device=device), torch.randn(1, 1, 3, 3, device=device)
    conv = semiconv.SelectSemifield.tropical_max().dynamic()
    wanting = krn.clone().requires_grad_()
    ours, recorded, theirs = medians(
        seconds,
        device,
        lambda: conv(img, krn),
        lambda: conv(img, wanting),
        lambda: F.max_pool2d(img, 3, 1),
    )
    print(
        f"a call on 1x1x8x8: {ours * 1e6:.0f} us, recorded for a gradient {recorded * 1e6:.0f} us "
        f"(goal 60); max_pool2d {theirs * 1e6:.0f} us"
    )


def memory(size: int = 512, window: int = 31) -> None:
    """Peak memory of a large dilation with gradients, beyond what was held before (Linux)."""

    def step(size: int) -> None:
        img = torch.randn(1, 1, size, size, requires_grad=True)
        krn = torch.zeros(1, 1, window, window, requires_grad=True)
        semifield_conv(img, krn, "tropical_max", padding="same").sum().backward()

    def resident(which: str) -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(rf"^{which}:\s*(\d+)", status, re.MULTILINE)[1])

    step(64)  # libraries loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    step(size)
    extra = resident("VmHWM") - before
    print(
        f"{window}x{window} dilation of {size}x{size}, fwd + bwd: peak {extra / 2**20:.1f} MiB, "
        f"{extra / (4 * size * size):.1f} images (goal 10)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each timed call")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    if options.device == "cpu":
        memory()
    for part in (overhead, pooling, provenance):
        part(options.seconds, options.device)


if __name__ == "__main__":
    main()
