"""Kernels between which a limit of tiles chooses, on a GPU, timed in turns under each limit.

    python -m benchmarks choices [--cpu]        --cpu: a rehearsal, in which all of them are equal

What is fastest belongs into ``Limits`` of the package that the row names.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

import semiconv_cupy as sc
from benchmarks import timing
from semiconv_cupy import ndimage
from semiconv_cupy.ndimage import cuda
from semiconv_cupy.ndimage.neighbourhood import served_by


@dataclass(frozen=True)
class Choice:
    """A call, and the limits under which it is timed, by name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    call: Callable[[Any], Any]
    limits: dict[str, dict[str, Any]]


def choices(*, small: bool = False) -> Iterator[Choice]:
    """All rows; small ones rehearse."""
    side, volume = (64, 16) if small else (4096, 256)
    boxes: dict[str, dict[str, Any]] = {"flat.cu": {"small_box": (1,) * 4}}
    for n in (1, 2, 4, 8):
        boxes[f"strips of {n} rows"] = {"small_box": (9,) * 4, "strip_rows": (n, n)}
    for dtype in ("float32", "uint8", "float16"):
        shapes: list[tuple[Any, tuple[int, ...]]] = [
            (size, (side, side)) for size in (2, 3, (1, 3), (3, 1), 5, 7, 9)
        ]
        shapes += [(3, (1000, 1100)), (5, (1000, 1100)), ((1, 3, 3), (2 * volume, 28, 32))]
        for size, shape in shapes:
            call = functools.partial(ndimage.maximum_filter, size=size)
            yield Choice(f"box {size}", shape, dtype, call, boxes)
    yield from _sums(side // 2, volume // 2)
    for dtype in ("uint8", "float32"):
        yield Choice(
            "parabolic dilation", (volume,) * 3, dtype,
            functools.partial(sc.parabolic_dilation, scale=3.0), {"as it is": {}},
        )  # fmt: skip
    yield Choice(
        "distances with sampling", (volume,) * 3, "bool",
        functools.partial(ndimage.distance_transform_edt, sampling=[1.5, 1, 1]), {"as it is": {}},
    )  # fmt: skip


def _sums(side: int, volume: int) -> Iterator[Choice]:
    sums: dict[str, dict[str, Any]] = {"weighted.cu": {"small_sum": (0, 0, 0)}}
    for n in (2, 4, 8):
        sums[f"strips of {n} rows"] = {"small_sum": (9, 21, 21), "strip_rows": (n, n)}
    random = np.random.default_rng(1)
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        (size, (side, side))
        for size in ((3, 3), (5, 5), (7, 7), (1, 5), (5, 1), (1, 9), (9, 1), (1, 21), (21, 1))
    ]
    shapes += [((3, 3, 3), (volume,) * 3), ((5, 5, 5), (volume,) * 3)]
    shapes += [((1, 3, 3), (16 * volume, 28, 28)), ((3, 3, 1), (side, side // 2, 3))]
    for size, shape in shapes:
        call = functools.partial(ndimage.correlate, weights=random.random(size))
        yield Choice(f"sum {size}", shape, "float32", call, sums)
    for axis in (0, 1):
        call = functools.partial(ndimage.correlate1d, weights=[1, 4, 9, 16, 9, 4, 1], axis=axis)
        yield Choice(f"symmetric sum of 7 along {axis}", (side, side), "float32", call, sums)


def image_of(choice: Choice, module: Any) -> Any:
    random = np.random.default_rng(0)
    if choice.dtype == "bool":
        return module.asarray(random.random(choice.shape) < 0.98)
    return module.asarray((random.random(choice.shape, np.float32) * 250).astype(choice.dtype))


def copy_of(image: Any, *, cpu: bool) -> Callable[[], Any]:
    """A copy of an array's bytes into memory that is there already, by the driver on a GPU."""
    if cpu:
        return functools.partial(np.copyto, np.empty_like(image), image)
    to = image.copy()
    return functools.partial(to.data.copy_from_device_async, image.data, image.nbytes)


def calls_of(choice: Choice, image: Any, *, cpu: bool) -> dict[str, Callable[[], Any]]:
    """The call under each of the limits, and a copy of the image."""

    def under(limits: dict[str, Any]) -> Any:
        if cpu:
            return nullcontext
        from semiconv_cupy.backends.device import cupy_device

        return functools.partial(served_by, cuda.Backend(cupy_device(), cuda.Limits(**limits)))

    def call(context: Any) -> Callable[[], Any]:
        def run() -> Any:
            with context():
                return choice.call(image)

        return run

    calls = {name: call(under(limits)) for name, limits in choice.limits.items()}
    return calls | {"a copy": copy_of(image, cpu=cpu)}


def timed(choice: Choice, *, cpu: bool) -> dict[str, float]:
    """The least seconds of a call under each of the limits."""
    module: Any = np if cpu else __import__("cupy")
    clock = timing.wall if cpu else timing.Events()
    calls = calls_of(choice, image_of(choice, module), cpu=cpu)
    found = timing.alternate(calls, clock, 0.001 if cpu else 0.2)
    return {name: times.best for name, times in found.items()}


def main(arguments: Sequence[str]) -> int:
    """Print a line for each call: the time under each limit, and of a copy of the image."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks choices", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="small arrays of NumPy, by the CPU")
    parser.add_argument("--only", default="", metavar="TEXT", help="calls with TEXT in the name")
    options = parser.parse_args(arguments)
    for choice in choices(small=options.cpu):
        if options.only not in choice.name:
            continue
        found = timed(choice, cpu=options.cpu)
        times = ", ".join(f"{name} {1e6 * seconds:.1f}" for name, seconds in found.items())
        where = "x".join(map(str, choice.shape))
        print(f"{choice.name}, {where} {choice.dtype}, us: {times}", flush=True)
    return 0
