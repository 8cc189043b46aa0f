"""How much slower each shape is than a friendly one: the floor under the speed of any shape.

    python -m benchmarks floor [--device gpu] [--seed N ...] [--works N] [--ahead JOBS]
                               [--minutes N] [--json FILE] [--explain]
    python -m benchmarks floor --read FILE ... [--markdown]

Random works of families of shapes that people have (families.py), each in turns with the friendly
work of its kind. A ratio is the time over max(pairs / the friendly work's pairs a second, bytes / a
copy's bytes a second). Flat windows count outputs instead of pairs. No work that is drawn is left
out. The exit status is 1 if a goal is missed or a work fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import ceilings, inputs, peers, run, shapes, works
from benchmarks.ahead import compile_ahead
from benchmarks.families import CONVOLUTIONS
from benchmarks.shapes import LIMITS, MAX, Sample
from benchmarks.table import Report, duration
from benchmarks.timing import Maker
from benchmarks.works import FRIENDLY, OURS, Convolution, Device
from semiconv_cupy import progress
from semiconv_cupy.explain import Explanation, explain

SECONDS = 0.1  # for each call; the works are many
SHOWN, EXPLAINED = 20, 10  # of the slowest works


class Goal(NamedTuple):
    """The largest ratio that the worst work of a group, and its median, may have."""

    group: str
    worst: float
    median: float


OTHERS = "others"
GOALS: dict[Device, tuple[Goal, ...]] = {
    "cpu": (Goal(MAX.label, 6, 2), Goal(OTHERS, 10, 3)),
    "gpu": (Goal(MAX.label, 12, 1.5), Goal(OTHERS, 12, 1.5)),
}
BENCHES: dict[Device, Callable[[float], run.Bench]] = {
    "cpu": run.bench_of_cpu,
    "gpu": run.bench_of_gpu,
}


def main(
    arguments: Sequence[str] | None = None,
    benches: Mapping[Device, Callable[[float], run.Bench]] = BENCHES,
    limits: Mapping[Device, shapes.Limits] = LIMITS,
) -> int:
    """Measure; print and store the report; return the exit status."""
    options = _options(arguments)
    if options.read:
        report = together([json.loads(file.read_text()) for file in options.read])
    else:
        if options.ahead:
            drawn = [
                sample
                for seed in options.seed
                for sample in shapes.samples(seed, options.works, limits[options.device])
            ]
            every = [work for sample in drawn for work in (sample.measured, sample.friendly)]
            compile_ahead(every, options.device, options.ahead)
        report = drawn_and_measured(
            benches[options.device](SECONDS), options.seed, options.works, limits[options.device],
            options.minutes, (lambda _: None) if options.markdown else progress.say,
        )  # fmt: skip
    if options.json:
        options.json.write_text(stored(report))
    print(markdown(report) if options.markdown else "\n".join(text(report)))
    if options.explain:
        for found in slowest_first(report)[:EXPLAINED]:
            drawn = shapes.samples(found["seed"], report["works"], limits[report["device"]])
            sample = next(sample for sample in drawn if sample.name == found["work"])
            print(f"\n{found['ratio']:.3g}x {explained(sample, report['device'])}")
    failed = not report["rows"] or any("error" in found for found in report["rows"])
    return 1 if failed or any(not goal["met"] for goal in report["goals"]) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks floor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[0], metavar="N", help="other works for each"
    )
    families = len(CONVOLUTIONS) + len(shapes.FILTERS)
    parser.add_argument(
        "--works", type=int, default=20 * families, metavar="N", help="of each seed"
    )
    parser.add_argument(
        "--ahead", type=int, default=0, metavar="JOBS", help="processes that compile all before"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, metavar="N", help="begin no work after"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the report there")
    parser.add_argument(
        "--read", type=Path, nargs="+", metavar="FILE", help="kept reports of one device, as one"
    )
    parser.add_argument("--markdown", action="store_true", help="print the page's table")
    parser.add_argument(
        "--explain", action="store_true", help=f"say what the {EXPLAINED} slowest works run"
    )
    options = parser.parse_args(arguments)
    if options.ahead < 0:
        parser.error(f"--ahead must be at least 0, got {options.ahead}")
    return options


def drawn_and_measured(
    bench: run.Bench,
    seeds: Sequence[int],
    works: int,
    limits: shapes.Limits,
    minutes: float = math.inf,
    say: Callable[[str], None] = progress.say,
) -> Report:
    """The report of so many works of each seed, or of those that begin in so many minutes."""
    begin = time.monotonic()
    report: Report = {
        "facts": run.facts(bench.device),
        "device": bench.device,
        "statistic": bench.statistic,
        "copy bytes/s": bench.ceilings[ceilings.COPY],
        "seeds": list(seeds),
        "works": works,
        "rows": [],
        "not measured": [],
    }
    for seed in seeds:
        drawn = shapes.samples(seed, works, limits)
        rows, skipped = measure(bench, drawn, say, begin + 60 * minutes)
        report["rows"] += [{"seed": seed} | found for found in rows]
        report["not measured"] += skipped
    report["goals"] = [found for goal in GOALS[bench.device] for found in verdicts(goal, report)]
    report["minutes"] = (time.monotonic() - begin) / 60
    return report


def stored(report: Report) -> str:
    """The report as JSON: a line for each row, numbers with four digits."""

    def short(value: Any) -> Any:
        return float(f"{value:.4g}") if isinstance(value, float) else value

    rows = [
        json.dumps({name: short(value) for name, value in found.items()})
        for found in report["rows"]
    ]
    empty = json.dumps(report | {"rows": []}, indent=1)
    return empty.replace('"rows": []', '"rows": [\n{}\n ]'.format(",\n".join(rows)), 1) + "\n"


def together(reports: Sequence[Report]) -> Report:
    """The reports of several runs on one device as one."""
    report = dict(reports[0])
    for name in ("seeds", "rows", "not measured"):
        report[name] = [found for each in reports for found in each[name]]
    report["minutes"] = sum(each["minutes"] for each in reports)
    report["goals"] = [
        found for goal in GOALS[report["device"]] for found in verdicts(goal, report)
    ]
    return report


# ---- measuring -----------------------------------------------------------------------------------


class Calls:
    """The makers of our calls of a work and of its friendly work, as `makers` makes each of them.

    Few friendly convolutions are compared with many works: their arrays are made once and kept. One
    set of them is larger than any cache.
    """

    def __init__(self, makers: Callable[..., dict[str, Maker]] = peers.calls) -> None:
        self._makers = makers
        self._kept: dict[str, Maker] = {}

    def __call__(
        self, sample: Sample, device: Device, seed: int, absent: list[str]
    ) -> dict[str, Maker]:
        """The makers of a bench's calls, for a sample."""
        ours = self._makers(sample.measured, device, seed, absent)[OURS]
        if not isinstance(sample.friendly, Convolution):
            friendly = self._makers(sample.friendly, device, seed, absent)[OURS]
            return {OURS: ours, FRIENDLY: friendly}
        name = sample.friendly.name
        if name not in self._kept:
            self._kept[name] = self._makers(sample.friendly, device, seed, absent)[OURS]
        return {OURS: ours, FRIENDLY: self._kept[name]}


def measure(
    bench: run.Bench,
    drawn: Iterable[Sample],
    say: Callable[[str], None] = progress.say,
    until: float = math.inf,
) -> tuple[list[Report], list[str]]:
    """The rows of the works, and the names of those that are not measured, with the reasons.

    Each row is said as soon as it is there; no work begins after the time `until`.
    """
    rows, skipped, every = [], [], list(drawn)
    taking_turns = dataclasses.replace(bench, calls=Calls(bench.calls))
    with progress.bar("measuring", "works") as show:
        for number, sample in enumerate(every):
            show(number, len(every), sample.name)
            if time.monotonic() > until:
                skipped.append(f"{sample.name}: no time was left")
                continue
            trains = isinstance(sample.measured, Convolution) and sample.measured.mode == "training"
            if trains and works.POOLING in bench.absent:
                skipped.append(f"{sample.name}: torch is not installed")
                continue
            try:
                times, failures = taking_turns.time(sample)
                if failures:
                    raise RuntimeError(failures[FRIENDLY])
                rows.append(row(sample, times, bench.ceilings[ceilings.COPY]))
                say(line(rows[-1]))
            except Exception as error:
                # The other works are measured all the same; the exit status is then 1.
                rows.append({"work": sample.name, "error": f"{type(error).__name__}: {error}"})
            bench.between()
    return rows, skipped


def row(sample: Sample, times: Mapping[str, float], copied: float) -> Report:
    """The row of one work; `copied` is how many bytes a second a copy moves."""
    each = times[FRIENDLY] / sample.friendly_count
    bounds = {sample.unit: sample.count * each, "bytes": sample.bytes / copied}
    bound = max(bounds, key=lambda name: bounds[name])
    return {
        "work": sample.name,
        "family": sample.family,
        "role": sample.role,
        "kind": sample.kind,
        "unit": sample.unit,
        "count": sample.count,
        "seconds": times[OURS],
        "ns": 1e9 * times[OURS] / sample.count,
        "friendly ns": 1e9 * each,
        "bound": bound,
        "ratio": times[OURS] / bounds[bound],
        # What the ratio would be if no work were limited by memory.
        "ratio of units": times[OURS] / sample.count / each,
    }


# ---- what the rows say ---------------------------------------------------------------------------


def slowest_first(report: Report) -> list[Report]:
    """The rows of the works that ran, the largest ratio first."""
    ran = [found for found in report["rows"] if "error" not in found]
    return sorted(ran, key=lambda found: -found["ratio"])


def verdicts(goal: Goal, report: Report) -> Iterator[Report]:
    """What the worst work of a group and its median reach; nothing if the group is empty."""
    ratios = [
        found["ratio"]
        for found in slowest_first(report)
        if (found["kind"] == MAX.label) == (goal.group == MAX.label)
    ]
    if ratios:
        for of, most, reached in (
            ("worst", goal.worst, ratios[0]),
            ("median", goal.median, statistics.median(ratios)),
        ):
            yield {
                "group": goal.group, "of": of, "most": most, "reached": reached,
                "met": reached <= most,
            }  # fmt: skip


def text(report: Report) -> Iterator[str]:
    """The report as lines: the slowest works, the distribution in each family, the verdicts."""
    ranked = slowest_first(report)
    seeds = " and ".join(map(str, report["seeds"]))
    yield (
        f"{report['facts']['device']}; times are each the {report['statistic']} of calls in turns "
        f"with the friendly work's; seed {seeds}, {len(ranked)} works, "
        f"{report['minutes']:.1f} minutes"
    )
    friendly = [found["friendly ns"] for found in ranked if found["kind"] == MAX.label]
    if friendly:
        yield (
            f"a pair of the friendly {MAX.label} took {min(friendly):.3g} to {max(friendly):.3g} "
            "ns: so much does the machine's speed vary"
        )
    yield f"\n{'ratio':>7} {'time':>9} {'ns each':>9} {'friendly':>9}  {'of':6} work"
    yield from map(line, ranked[:SHOWN])
    for by in ("family", "role", "kind"):
        yield f"\n{by:28} works   worst  median    best"
        for group, ratios in _groups(ranked, by):
            yield (
                f"{group:28} {len(ratios):5} {ratios[0]:6.1f}x {statistics.median(ratios):6.2f}x "
                f"{ratios[-1]:6.2f}x"
            )
    yield ""
    for found in report["rows"]:
        if "error" in found:
            yield f"FAILED {found['work']}: {found['error']}"
    for skipped in report["not measured"]:
        yield f"not measured: {skipped}"
    for goal in report["goals"]:
        yield (
            f"{goal['group']}: {goal['of']} {goal['reached']:.3g}x "
            f"[<= {goal['most']:g}x: {'met' if goal['met'] else 'MISSED'}]"
        )


def line(found: Report) -> str:
    """A row as a line."""
    return (
        f"{found['ratio']:6.1f}x {duration(found['seconds']):>9} {found['ns']:9.3g} "
        f"{found['friendly ns']:9.3g}  {found['bound']:6} {found['work']}"
    )


def _groups(ranked: list[Report], by: str) -> list[tuple[str, list[float]]]:
    """The ratios of each group, largest first; the group with the largest median first."""
    ratios: dict[str, list[float]] = {}
    for found in ranked:
        ratios.setdefault(found[by], []).append(found["ratio"])
    return sorted(ratios.items(), key=lambda group: -statistics.median(group[1]))


def markdown(report: Report) -> str:
    """The page's table: the distribution of all works, of each kind and of each role."""
    ranked = slowest_first(report)
    lines = ["| works | number | median | worst |", "|---|---|---|---|"]
    groups = [("all", [found["ratio"] for found in ranked])]
    for group, ratios in groups + _groups(ranked, "kind") + _groups(ranked, "role"):
        median, worst = statistics.median(ratios), ratios[0]
        lines.append(f"| {group} | {len(ratios)} | {median:.2g} | {worst:.2g} |")
    return "\n".join(lines)


def explained(sample: Sample, device: Device) -> Explanation:
    """What the work runs."""
    measured, gpu = sample.measured, device == "gpu"
    if not isinstance(measured, Convolution):
        return explain(
            measured.function, measured.shape, dtype=measured.dtype, gpu=gpu, **measured.arguments
        )  # fmt: skip
    work = measured.work
    name = "semifield_conv" if measured.mode == "forward" else "semifield_conv_vjp"
    img = inputs.laid_out(np.zeros(work.image, work.dtype), np.zeros, measured.memory)
    return explain(
        name, img, work.kernel, work.semifield, dtype=work.dtype, gpu=gpu, **work.arguments
    )
