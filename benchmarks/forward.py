"""The forward convolution on the CPU, beside SciPy's: python benchmarks/forward.py [--json FILE].

Every ratio is of calls that take turns in one run. Memory is what the process grows by at its peak
during a call, the result included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from timing import best_times

import semiconv_cupy as sc
from semiconv_cupy.conv import forward
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import residual_of

TROPICAL_MAX = sc.SelectSemifield.tropical_max()
GOALS = {3: 20, 7: 50, 11: 55, 21: 65}  # times as fast as scipy.ndimage.grey_dilation
RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.random(shape, np.float32)


def line(
    name: str, seconds: float, compared: str, value: float, least: float = 0, most: float = np.inf
) -> dict[str, Any]:
    """Print one line of the table and return it; `value` has its goal between the bounds."""
    met = least <= value <= most
    goal = f">= {least:g}" if least else f"<= {most:g}" if np.isfinite(most) else ""
    verdict = goal and ("ok" if met else "MISSED")
    time = f"{1e3 * seconds:9.2f} ms" if seconds else " " * 12
    print(f"{name:42} {time}  {compared:31} {value:7.2f}  {goal:>7} {verdict}", flush=True)
    return dict(name=name, seconds=seconds, compared=compared, value=value, goal=goal, met=met)


def dilation(size: int) -> list[Any]:
    """Non-flat K x K on 1024 x 1024: against SciPy, and with the winning tap remembered."""
    img, krn = numbers(1, 1, 1024, 1024), -numbers(1, 1, size, size)

    def ours() -> np.ndarray:
        return sc.semifield_conv(img, krn, TROPICAL_MAX, padding="same")

    def theirs() -> np.ndarray:
        return scipy.ndimage.grey_dilation(  # type: ignore[no-any-return]
            img[0, 0], structure=krn[0, 0], mode="constant", cval=-np.inf
        )

    geometry = Geometry.plan(img.shape, krn.shape, padding="same")
    described = residual_of(TROPICAL_MAX, "float32", geometry)
    assert described is not None

    def with_provenance() -> None:
        out = np.empty(geometry.out_shape, np.float32)
        winner = np.empty(described.shape, described.dtype)
        forward(img, krn, out, winner, TROPICAL_MAX, geometry, "float32")

    assert np.array_equal(ours()[0, 0], theirs())
    fast, slow = best_times(ours, theirs, seconds=2)
    bare, remembered = best_times(ours, with_provenance)
    name = f"max-plus {size} x {size}, 1024^2 float32"
    return [
        line(name, fast, "scipy.ndimage / ours", slow / fast, least=GOALS[size]),
        line(f"{name}, provenance", remembered, "/ without it", remembered / bare, most=1.5),
    ]


def addition(name: str, img: np.ndarray, krn: np.ndarray, what: str) -> dict[str, Any]:
    """Another semifield, beside max-plus on the same windows."""
    make = getattr(sc.SubtractSemifield, name)
    semifield = make() if name == "linear" else make(3.0)
    own, dilated = best_times(
        lambda: sc.semifield_conv(img, krn, semifield, padding="same"),
        lambda: sc.semifield_conv(img, krn, TROPICAL_MAX, padding="same"),
    )
    return line(f"{name} {what}", own, "/ max-plus", own / dilated)


MEMORY = """
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
print((resident("VmHWM") - before) / (img.nbytes + out.nbytes))
"""


def memory() -> list[Any]:
    """The growth of a process at its peak, over the size of image and result together."""
    lines = []
    for size in (3, 31, 101):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(size)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent,
        )
        value = float(done.stdout)
        name = f"max-plus {size} x {size}, 2048^2 float32"
        lines.append(line(name, 0, "memory / (input + output)", value, most=1.5))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the table as JSON as well")
    arguments = parser.parse_args()
    lines = [row for size in GOALS for row in dilation(size)]
    small = numbers(8, 16, 32, 32), numbers(32, 16, 3, 3)
    large = numbers(1, 1, 512, 512), numbers(1, 1, 31, 31)
    for name in ("linear", "log", "root"):
        lines.append(addition(name, *small, "3 x 3, 8 x 16 x 32^2 -> 32"))
        lines.append(addition(name, *large, "31 x 31, 512^2 float32"))
    if sys.platform == "linux":
        lines += memory()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(lines, indent=1))
    if not all(row["met"] for row in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
