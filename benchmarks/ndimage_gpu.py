"""semiconv_cupy.ndimage beside cupyx.scipy.ndimage: ``python benchmarks/ndimage_gpu.py``."""

import time
from collections.abc import Callable

import cupy
import cupyx.scipy.ndimage as peer
import numpy as np

from semiconv_cupy import ndimage, structuring


def best(call: Callable[[], object], runs: int = 10) -> float:
    """Seconds of the best of some runs after two that compile."""
    call()
    call()
    times = []
    for _ in range(runs):
        cupy.cuda.Device().synchronize()
        begin = time.perf_counter()
        call()
        cupy.cuda.Device().synchronize()
        times.append(time.perf_counter() - begin)
    return min(times)


def line(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    a, b = best(ours), best(theirs)
    print(f"{name:40} {a * 1e3:9.3f} {b * 1e3:9.3f} {b / a:8.2f}")


def main() -> None:
    image = cupy.random.rand(2048, 2048, dtype=cupy.float32)
    structure = np.random.default_rng(0).random((11, 11)).astype(np.float32)
    there, all_taps = cupy.asarray(structure), cupy.ones((11, 11))
    disk = structuring.disk(10)
    print(f"{'2048 x 2048 float32':40} {'ours/ms':>9} {'cupyx/ms':>9} {'ratio':>8}")
    for k in (3, 9, 51):
        line(
            f"maximum_filter {k}",
            lambda k=k: ndimage.maximum_filter(image, k),
            lambda k=k: peer.maximum_filter(image, k),
        )
    line(
        "grey_dilation disk 10",
        lambda: ndimage.grey_dilation(image, footprint=disk),
        lambda: peer.grey_dilation(image, footprint=cupy.asarray(disk)),
    )
    line(
        "grey_dilation structure 11x11",
        lambda: ndimage.grey_dilation(image, structure=structure),
        lambda: peer.grey_dilation(image, footprint=all_taps, structure=there),
    )
    line(
        "correlate 11x11",
        lambda: ndimage.correlate(image, structure),
        lambda: peer.correlate(image, there),
    )


if __name__ == "__main__":
    main()
