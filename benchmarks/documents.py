"""What README.md and docs/benchmarks.md show of the reports that benchmarks/results keeps.

    python -m benchmarks documents       the README's table, below the line <!-- speeds -->

The build of the pages calls `write`, and a test compares the README with `readme`. So no figure of
a kept report is copied by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import floor, works
from benchmarks.table import Report, duration, machine, markdown

RESULTS = Path(__file__).parent / "results"
# Rows compare a work with another of ours, too.
OURS_OTHERWISE = {works.PLAIN, works.POINTWISE, works.CONSTANT, works.BY_CHANNEL, works.LEARNED}
NAMES = {
    works.SCIPY: "SciPy",
    works.CUPYX: "CuPy",
    works.OPENCV: "OpenCV",
    works.SKIMAGE: "scikit-image",
    works.KORNIA: "kornia",
    works.POOLING: "torch's max-pooling",
    works.CONV2D: "torch's ordinary `conv2d`",
    works.MATMUL: "torch's ordinary `matmul`",
    works.FUSED: "pytorch_nd_semiconv",
}


class Shown(NamedTuple):
    """A work in the README: in words, its name in the report, and the peers that are named."""

    words: str
    work: str
    peers: tuple[str, ...]


README: dict[str, tuple[str, tuple[Shown, ...]]] = {
    "CPU": (
        "cpu_emerald_rapids_2_cores.json",
        (
            Shown("dilation, 11 x 11 taps that are not flat, 1024² float32", "any 11x11, 1024^2",
                  (works.SCIPY, works.KORNIA)),
            Shown("flat 9 x 9, 1000 x 1100 uint8", "flat 9x9, 1000x1100 uint8",
                  (works.SCIPY, works.OPENCV)),
            Shown("disk of radius 15, colour, 512² x 3 uint8", "colour disk 15, 512x512x3 uint8",
                  (works.SKIMAGE, works.OPENCV)),
            Shown("exact Euclidean distances, 1024²", "distances, blobs, 1024^2",
                  (works.SCIPY, works.OPENCV)),
            Shown("learned pooling 5 x 5, 8 x 16 x 64², forward and backward",
                  "pooling 5x5 stride 1, 8 x 16 x 64^2, fwd + bwd", (works.POOLING,)),
            Shown("max-plus matrix product, 1024³ float32", "product 1024^3, max",
                  (works.MATMUL,)),
            Shown("root(3), 16 to 32 channels, 3 x 3, forward and backward",
                  "mixing 3x3, 16 -> 32, 8 x 32^2, root(3), fwd + bwd", (works.CONV2D,)),
            Shown("a small image: flat 3 x 3, 16² float32", "flat 3x3, 16^2 float32",
                  (works.SCIPY, works.OPENCV)),
        ),
    ),
    "GPU": (
        "gpu_h200.json",
        (
            Shown("dilation, 11 x 11 taps that are not flat, 2048² float32", "any 11x11, 2048^2",
                  (works.CUPYX, works.FUSED)),
            Shown("flat 3 x 3, 4096² float32", "flat 3x3, 4096x4096 float32", (works.CUPYX,)),
            Shown("exact Euclidean distances, 2048²", "distances, blobs, 2048^2", (works.CUPYX,)),
            Shown("weighted sums of 3 x 3, 4096 images of 28² float32",
                  "correlate 1x3x3, 4096x28x28 float32", (works.CUPYX,)),
            Shown("learned pooling 3 x 3, 8 x 16 x 1024², forward and backward",
                  "depthwise 3x3, 8 x 16 x 1024^2, fwd + bwd", (works.POOLING, works.FUSED)),
            Shown("the same, small: 7 x 7, stride 2, 32 x 6 x 28²",
                  "pooling 7x7 stride 2, 32 x 6 x 28^2, fwd + bwd", (works.POOLING, works.FUSED)),
            Shown("max-plus, 64 to 64 channels, 3 x 3, 8 x 128²",
                  "mixing 3x3, 64 -> 64, 8 x 128^2", ()),
            Shown("root(3), the same, forward and backward",
                  "mixing 3x3, 64 -> 64, 8 x 128^2, root(3), fwd + bwd", (works.CONV2D,)),
        ),
    ),
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Print the README's table."""
    if arguments:
        print(__doc__)
        return 2
    print(readme())
    return 0


def kept(file: str) -> Report:
    """A report of the folder."""
    report: Report = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    return report


def readme() -> str:
    """The README's table: a few works on each device."""
    lines = ["| | work | time | times as fast as |", "|---|---|---|---|"]
    for device, (file, chosen) in README.items():
        rows = {found["work"]: found for found in kept(file)["rows"]}
        lines += [f"| {device} | {_cells(shown, rows[shown.work])} |" for shown in chosen]
    return "\n".join(lines)


def _cells(shown: Shown, found: Report) -> str:
    ratios = ", ".join(f"{_ratio(found['ratios'][peer])} {NAMES[peer]}" for peer in shown.peers)
    reached = ratios or f"{found['share']:.0%} of what the GPU's arithmetic allows"
    return f"{shown.words} | {_micro(duration(found['seconds']))} | {reached}"


def _ratio(ratio: float) -> str:
    text = f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"
    return f"**{text}**" if ratio < 1 else text


def _micro(text: str) -> str:
    return text.replace(" us", " µs")


def write(folder: Path) -> None:
    """Write the tables of each kept report for the pages: ``<name of the report>.md``."""
    folder.mkdir(exist_ok=True)
    for path in sorted(RESULTS.glob("*.json")):
        report = kept(path.name)
        text = floor_table(report) if "seeds" in report else tables(report)
        (folder / f"{path.stem}.md").write_text(text + "\n", encoding="utf-8")


def floor_table(report: Report) -> str:
    """How much slower random shapes are, by their roles."""
    return f"{machine(report)}\n\n{floor.markdown(report)}"


def tables(report: Report) -> str:
    """The machine, the works in which a peer is faster, and all rows."""
    faster, compared = losses(report)
    lines = [
        machine(report),
        "",
        f"In {len(faster)} of {compared} comparisons a peer is faster:",
        "",
        "| work | peer | times as fast as it |",
        "|---|---|---|",
        *(f"| {work} | {peer} | {ratio:.2g} |" for ratio, work, peer in faster),
        "",
        markdown(report),
    ]
    return _micro("\n".join(lines))


def losses(report: Report) -> tuple[list[tuple[float, str, str]], int]:
    """(ratio, work, peer) of the comparisons that a peer wins, and the number of comparisons."""
    every = [
        (ratio, found["work"], peer)
        for found in report["rows"]
        for peer, ratio in found.get("ratios", {}).items()
        if peer not in OURS_OTHERWISE
    ]
    return sorted(entry for entry in every if entry[0] < 1), len(every)
