"""semiconv_cupy.ndimage beside its peers, on the CPU: ``python benchmarks/ndimage.py [FILTER]``.

Each line is one run: ours and the peer's calls alternate, the best time of each counts. Peers are
those of the machine: SciPy, OpenCV and scikit-image.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable

import cv2
import numpy as np
import scipy.ndimage
import skimage.morphology
import skimage.restoration

import semiconv_cupy as sc
from semiconv_cupy import ndimage, structuring

random = np.random.default_rng(0)


def best_of_both(
    ours: Callable[[], object], theirs: Callable[[], object], seconds: float = 1.0
) -> tuple[float, float]:
    """The best times of calls that alternate for so many seconds, but at least twice."""
    ours(), theirs()
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    while len(times[1]) < 2 or time.perf_counter() < until:
        for call, found in zip((ours, theirs), times, strict=True):
            begin = time.perf_counter()
            call()
            found.append(time.perf_counter() - begin)
    return min(times[0]), min(times[1])


def line(name: str, goal: float, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    if len(sys.argv) > 1 and sys.argv[1] not in name:
        return
    a, b = best_of_both(ours, theirs)
    verdict = "" if b / a >= goal else "  below the goal"
    print(f"{name:58} {a * 1e3:9.3f} {b * 1e3:9.3f} {b / a:8.2f} {goal:7.1f}{verdict}", flush=True)


def memory(name: str, call: Callable[[], object], arrays: int) -> None:
    """NumPy's part of the memory: the peak beyond the input, of which one output is the result."""
    if len(sys.argv) > 1 and sys.argv[1] not in name:
        return
    call()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{name:58} extra {peak / arrays - 0.5:.2f} x (input + output)")


def image(shape: tuple[int, ...], dtype: type, scale: float = 255) -> np.ndarray:
    return (random.random(shape) * scale).astype(dtype)


def main() -> None:
    print(f"OpenCV runs {cv2.getNumThreads()} threads")
    print(f"{'':58} {'ours/ms':>9} {'peer/ms':>9} {'ratio':>8} {'goal':>7}")
    for dtype in (np.float32, np.uint8):
        flat = image((1000, 1100), dtype)
        for k in (3, 5, 9, 15, 31, 51):
            element = np.ones((k, k), np.uint8)
            line(
                f"flat {k}x{k} {flat.dtype}, cv2.dilate", 1.0,
                lambda k=k, flat=flat: ndimage.maximum_filter(flat, k),
                lambda element=element, flat=flat: cv2.dilate(flat, element),
            )  # fmt: skip
    grey = image((512, 512), np.uint8)
    disk = structuring.disk(20)
    line(
        "disk 20 uint8 512^2, cv2.dilate", 1.0,
        lambda: ndimage.grey_dilation(grey, footprint=disk),
        lambda: cv2.dilate(grey, disk.astype(np.uint8)),
    )  # fmt: skip
    line(
        "disk 20 uint8 512^2, skimage.morphology.dilation", 100.0,
        lambda: ndimage.grey_dilation(grey, footprint=disk),
        lambda: skimage.morphology.dilation(grey, disk),
    )  # fmt: skip
    field = image((1024, 1024), np.float32, 1)
    for k, goal in ((3, 20.0), (7, 50.0), (11, 55.0), (21, 65.0)):
        structure = random.standard_normal((k, k)).astype(np.float32)
        line(
            f"non-flat {k}x{k} float32 1024^2, scipy", goal,
            lambda s=structure: ndimage.grey_dilation(field, structure=s),
            lambda s=structure: scipy.ndimage.grey_dilation(field, structure=s),
        )  # fmt: skip
    quadratic = structuring.quadratic(5.0, size=21)
    line(
        "quadratic 21x21 float32 1024^2, scipy", 65.0,
        lambda: ndimage.grey_dilation(field, structure=quadratic),
        lambda: scipy.ndimage.grey_dilation(field, structure=np.asarray(quadratic)),
    )  # fmt: skip
    binary = random.random((1000, 1000)) < 0.02
    line(
        "binary_dilation, 5 iterations, 1000^2, scipy", 10.0,
        lambda: ndimage.binary_dilation(binary, iterations=5),
        lambda: scipy.ndimage.binary_dilation(binary, iterations=5),
    )  # fmt: skip
    odd = random.random((3, 3)) < 0.7
    odd[1, 1] = True
    line(
        "binary_dilation, 5 iterations, any structure, scipy", 10.0,
        lambda: ndimage.binary_dilation(binary, odd, iterations=5),
        lambda: scipy.ndimage.binary_dilation(binary, odd, iterations=5),
    )  # fmt: skip
    blobs = scipy.ndimage.gaussian_filter(random.standard_normal((1000, 1000)), 4) > 0.02
    line(
        "binary_fill_holes 1000^2, scipy", 1.0,
        lambda: ndimage.binary_fill_holes(blobs),
        lambda: scipy.ndimage.binary_fill_holes(blobs),
    )  # fmt: skip
    for dtype in (np.uint8, np.float32):
        volume = image((128, 128, 128), dtype)
        line(
            f"maximum_filter 9 on 128^3 {volume.dtype}, scipy", 10.0,
            lambda v=volume: ndimage.maximum_filter(v, 9),
            lambda v=volume: scipy.ndimage.maximum_filter(v, 9),
        )  # fmt: skip
    page = image((582, 200), np.uint8)
    line(
        "rolling_ball 30 on 582x200 uint8, skimage", 50.0,
        lambda: sc.rolling_ball(page, 30),
        lambda: skimage.restoration.rolling_ball(page, radius=30),
    )  # fmt: skip
    mask = scipy.ndimage.gaussian_filter(random.random((512, 512)), 3).astype(np.float32)
    line(
        "reconstruction float32 512^2, skimage", 1.0,
        lambda: sc.reconstruction(mask - 0.02, mask),
        lambda: skimage.morphology.reconstruction(mask - 0.02, mask),
    )  # fmt: skip
    weights = random.standard_normal((7, 7))
    line(
        "correlate 7x7 float32 1024^2, scipy", 1.0,
        lambda: ndimage.correlate(field, weights),
        lambda: scipy.ndimage.correlate(field, weights),
    )  # fmt: skip
    line(
        "convolve1d 15 float32 1024^2, scipy", 1.0,
        lambda: ndimage.convolve1d(field, weights.ravel()[:15]),
        lambda: scipy.ndimage.convolve1d(field, weights.ravel()[:15]),
    )  # fmt: skip
    tiny = image((16, 16), np.float32)
    line(
        "maximum_filter 3 on 16^2 float32, scipy", 1.0,
        lambda: ndimage.maximum_filter(tiny, 3),
        lambda: scipy.ndimage.maximum_filter(tiny, 3),
    )  # fmt: skip

    both = 2 * field.nbytes
    memory("flat 31x31", lambda: ndimage.maximum_filter(field, 31), both)
    memory("disk 20", lambda: ndimage.grey_dilation(field, footprint=disk), both)
    memory("non-flat 21x21", lambda: ndimage.grey_dilation(field, structure=quadratic), both)
    memory("white_tophat", lambda: ndimage.white_tophat(field, 9), both)
    memory(
        "binary_dilation",
        lambda: ndimage.binary_dilation(binary, odd, iterations=5), 2 * binary.nbytes,
    )  # fmt: skip
    volume = image((128, 128, 128), np.uint8)
    memory(
        "maximum_filter on a volume", lambda: ndimage.maximum_filter(volume, 9), 2 * volume.nbytes
    )
    if len(sys.argv) == 1 or sys.argv[1] in "volume 512^3":
        large = random.integers(0, 255, (512, 512, 512), np.uint8)
        begin = time.perf_counter()
        ndimage.grey_dilation(large, footprint=structuring.ball(10))
        print(f"{'volume 512^3 uint8, ball 10':58} {time.perf_counter() - begin:9.2f} s")
        memory(
            "volume 512^3 uint8, ball 10",
            lambda: ndimage.grey_dilation(large, footprint=structuring.ball(10)), 2 * large.nbytes,
        )  # fmt: skip


if __name__ == "__main__":
    main()
