"""How time and memory of distances and parabolas grow with a volume: one process for each call.

    python -m benchmarks volumes [--sides 64 128 256 512] [--plot FILE]

Time is the CPU's in user mode, of all threads together: other work on the machine changes it
little, and the pages that the kernel clears for new arrays are not in it. Memory is the most that a
process holds beyond its input while the call runs (Linux), over the result's. A peer
that takes longer than a minute is left out at larger sides.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CALLS = {
    "distances": "ndimage.distance_transform_edt(blobs)",
    "distances, scipy.ndimage": "scipy.ndimage.distance_transform_edt(blobs)",
    "distances, edt": "edt.edt(blobs, parallel=2)",
    "dilation float32": "sc.parabolic_dilation(image, 20.0)",
    "dilation uint8": "sc.parabolic_dilation(bytes, 20.0)",
    "opening float32": "sc.parabolic_opening(image, 20.0)",
}
TOO_SLOW = 60.0  # seconds

_PROCESS = """
import json, resource, sys
import numpy as np
import semiconv_cupy as sc
from semiconv_cupy import ndimage
if "scipy" in sys.argv[1]: import scipy.ndimage
if "edt.edt" in sys.argv[1]: import edt

def resident(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))

def user():
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime

call, side = compile(sys.argv[1], "call", "eval"), int(sys.argv[2])

def inputs(side):  # waves of three lengths and some noise, in float32
    along = np.arange(side, dtype=np.float32)
    waves = sum(np.sin(along / length) for length in (3, 11, 37))
    image = np.random.default_rng(0).random((side,) * 3, np.float32)
    image += waves[:, None, None]
    image += waves[:, None]
    image += waves
    return image

image = inputs(8)
for n in (8, side):
    image = inputs(n)
    blobs = image > 1.5 if "blobs" in sys.argv[1] else None
    bytes = np.clip(image * 40, 0, 255).astype(np.uint8) if "bytes" in sys.argv[1] else None
    if "image" not in sys.argv[1]: del image
    if n == 8: eval(call)  # loads the libraries
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")
before = resident("VmRSS")
begin = user()
out = eval(call)
seconds = [user() - begin]
memory = (resident("VmHWM") - before) / out.nbytes
while sum(seconds) < 0.3:
    begin = user()
    eval(call)
    seconds.append(user() - begin)
print(json.dumps([sum(seconds) / len(seconds), memory]))
"""


def measure(sides: Sequence[int]) -> dict[str, list[tuple[int, float, float]]]:
    """(side, seconds, memory over the result's) of each call."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for name, call in CALLS.items():
        for side in sides:
            process = [sys.executable, "-c", _PROCESS, call, str(side)]
            answer = subprocess.run(process, capture_output=True, text=True, check=False)
            if answer.returncode:
                print(f"{name}: {answer.stderr.strip().splitlines()[-1]}", flush=True)
                break
            seconds, memory = json.loads(answer.stdout)
            found.setdefault(name, []).append((side, seconds, memory))
            each = 1e9 * seconds / side**3
            print(
                f"{name:26} {side}^3 {seconds:9.4f} s of the CPU, {each:7.2f} ns an element, "
                f"{memory:5.2f} x",
                flush=True,
            )
            if seconds > TOO_SLOW:
                break
    return found


def draw(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Seconds, and memory over the result's, against elements."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, points in found.items():
        elements = [side**3 for side, _, _ in points]
        left.loglog(elements, [seconds for _, seconds, _ in points], "o-", label=name)
        right.semilogx(elements, [memory for _, _, memory in points], "o-", label=name)
    side, seconds, _ = found["distances"][-1]
    first = found["distances"][0][0]
    line = [seconds * (first / side) ** 3, seconds]
    left.loglog([first**3, side**3], line, "k:", linewidth=1, label="~ elements")
    left.set(xlabel="elements", ylabel="seconds of the CPU in user mode")
    right.set(xlabel="elements", ylabel="memory / result", ylim=(0, None))
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.grid(which="both", alpha=0.2)
    left.legend(fontsize="small")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and draw; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks volumes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw how both grow")
    options = parser.parse_args(arguments)
    found = measure(options.sides)
    if options.plot:
        draw(found, options.plot)
    return 0 if len(found) == len(CALLS) else 1
