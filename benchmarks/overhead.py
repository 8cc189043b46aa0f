"""What one small call costs: python benchmarks/overhead.py [--json FILE].

A 3 x 3 dilation of a 1 x 1 x 8 x 8 float32 image, planned before; peers are those of the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.ndimage
from timing import best_times

import semiconv_cupy as sc

CALLS = 200  # in each measured round
GOAL = 20.0  # microseconds


def calls() -> dict[str, Callable[[], object]]:
    """The same small dilation by ours and by the peers, each in the form that it likes best."""
    img = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    krn = np.zeros((1, 1, 3, 3), np.float32)
    plane = img[0, 0]
    semifield = sc.SelectSemifield.tropical_max()
    found: dict[str, Callable[[], object]] = {
        "semiconv_cupy.semifield_conv": lambda: sc.semifield_conv(img, krn, semifield, padding=1),
        "the same, by name and padding='same'": lambda: sc.semifield_conv(
            img, krn, "tropical_max", padding="same"
        ),
        "scipy.ndimage.grey_dilation": lambda: scipy.ndimage.grey_dilation(
            plane, structure=krn[0, 0], mode="constant", cval=-np.inf
        ),
    }
    if importlib.util.find_spec("cv2"):
        import cv2

        flat = np.ones((3, 3), np.uint8)
        found["cv2.dilate (flat)"] = lambda: cv2.dilate(plane, flat)
    if importlib.util.find_spec("torch"):
        import torch

        tensor = torch.from_numpy(img)
        found["torch max_pool2d (flat)"] = lambda: torch.nn.functional.max_pool2d(tensor, 3, 1, 1)
    return found


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(CALLS):
            call()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the table as JSON as well")
    arguments = parser.parse_args()
    named = calls()
    times = best_times(*map(repeated, named.values()), seconds=5, most=400)
    table = {name: 1e6 * time / CALLS for name, time in zip(named, times, strict=True)}
    for name, microseconds in table.items():
        print(f"{name:40} {microseconds:7.2f} us")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(table, indent=1))
    ours = table["semiconv_cupy.semifield_conv"]
    print(f"goal: <= {GOAL:g} us, {'ok' if ours <= GOAL else 'MISSED'}")
    if ours > GOAL:
        sys.exit(1)


if __name__ == "__main__":
    main()
