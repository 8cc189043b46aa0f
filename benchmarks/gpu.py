"""The CUDA kernels beside a device copy, cupyx and torch's max-pooling, in one run.

    python benchmarks/gpu.py [--json FILE]

Needs CuPy and an NVIDIA GPU; torch for the pooling lines. Times are medians of GPU events.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

import semiconv_cupy as sc
from semiconv_cupy.backends import cuda
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import residual_of

DILATION = sc.SelectSemifield.tropical_max()
# batch, channels, size, kernel, groups, kernels, stride
WORKS = {
    "depthwise 3x3, 8 x 16 x 1024^2": (8, 16, 1024, 3, 16, 16, 1),
    "depthwise 5x5, 8 x 16 x 1024^2": (8, 16, 1024, 5, 16, 16, 1),
    "depthwise 3x3 stride 2, 8 x 16 x 1024^2": (8, 16, 1024, 3, 16, 16, 2),
    "depthwise 3x3 stride 2, 128 x 64 x 28^2": (128, 64, 28, 3, 64, 64, 2),
    "mixing 3x3, 64 -> 64, 8 x 128^2": (8, 64, 128, 3, 1, 64, 1),
    "one image 11x11, 4096^2": (1, 1, 4096, 11, 1, 1, 1),
}


def milliseconds(work: Callable[[], Any], repeats: int = 15) -> float:
    """Median time of one call on the GPU."""
    for _ in range(3):
        work()
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    times = []
    for _ in range(repeats):
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(cupy.cuda.get_elapsed_time(begin, end))
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large device copy."""
    source = cupy.ones(1 << 28, np.float32)
    target = cupy.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: cupy.copyto(target, source)) * 1e3


def measure(shape: tuple[int, ...]) -> dict[str, float]:
    """Times of the kernels on one work, and what they come to."""
    batch, channels, size, kernel, groups, kernels, stride = shape
    img = cupy.random.standard_normal((batch, channels, size, size), dtype=np.float32)
    krn = cupy.random.standard_normal((kernels, channels // groups, kernel, kernel), np.float32)
    plan = Geometry.plan(img.shape, krn.shape, padding="same", groups=groups, stride=stride)
    device, out = cuda.device(), cupy.empty(plan.out_shape, np.float32)
    described = residual_of(DILATION, "float32", plan)
    assert described is not None
    residual = cupy.empty(described.shape, described.dtype)
    grad_img, grad_krn = cupy.zeros_like(img), cupy.empty_like(krn)

    def forward(residual: Any, method: str = "auto") -> None:
        cuda.forward(device, img, krn, DILATION, plan, "float32", out, residual, method)

    def backward() -> None:
        cuda.backward(
            device, out, None, None, residual, grad_img, grad_krn, DILATION, plan, "float32"
        )

    plain = milliseconds(lambda: forward(None))
    result = {
        "forward": plain,
        "direct": milliseconds(lambda: forward(None, "direct")),
        "forward and provenance": milliseconds(lambda: forward(residual)),
        "backward": milliseconds(backward),
        "bytes/s": (img.nbytes + out.nbytes) / plain * 1e3,
        "pairs/s": out.size * plan.taps / plain * 1e3,
    }
    if groups == channels and groups > 1:
        result |= max_pooling(img, kernel, stride)
    return result


def max_pooling(img: Any, kernel: int, stride: int) -> dict[str, float]:
    """torch's max-pooling of the same image, forward and backward."""
    try:
        import torch
        from torch.nn import functional
    except ImportError:
        return {}
    tensor = torch.as_tensor(img, device="cuda").requires_grad_()
    slopes = torch.ones_like(functional.max_pool2d(tensor, kernel, stride, kernel // 2))
    stream = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)

    def step() -> None:
        tensor.grad = None
        functional.max_pool2d(tensor, kernel, stride, kernel // 2).backward(slopes)

    with stream:
        return {"max_pool2d forward and backward": milliseconds(step)}


def cupyx_dilation() -> float:
    """cupyx's non-flat dilation, 11 x 11 on 4096^2."""
    from cupyx.scipy import ndimage

    img = cupy.random.standard_normal((4096, 4096), dtype=np.float32)
    krn = cupy.random.standard_normal((11, 11), dtype=np.float32)
    footprint = cupy.ones((11, 11), bool)
    return milliseconds(
        lambda: ndimage.grey_dilation(img, structure=krn, footprint=footprint, mode="constant"), 5
    )


def main() -> None:
    """Measure everything, print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    file = parser.parse_args().json
    bandwidth = copy_bandwidth()
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}: a device copy moves {bandwidth / 1e12:.2f} TB/s")
    results: dict[str, Any] = {"device": name, "copy bytes/s": bandwidth}
    for work, shape in WORKS.items():
        found = results[work] = measure(shape)
        trained = found["forward and provenance"] + found["backward"]
        line = (
            f"{work:42s} {found['forward']:7.3f} ms, {found['bytes/s'] / bandwidth:4.0%} of a copy"
        )
        line += f", {found['pairs/s'] / 1e12:5.2f} T pairs/s, with gradients {trained:7.3f} ms"
        if "max_pool2d forward and backward" in found:
            line += f", {trained / found['max_pool2d forward and backward']:.2f}x max_pool2d"
        print(line, flush=True)
    results["cupyx"] = cupyx_dilation()
    ratio = results["cupyx"] / results["one image 11x11, 4096^2"]["forward"]
    print(f"11x11 on 4096^2: {ratio:.1f}x as fast as cupyx.scipy.ndimage.grey_dilation")
    if file:
        with open(file, "w") as out:
            json.dump(results, out, indent=1)


if __name__ == "__main__":
    main()
