"""Ratios to every peer that is installed, the limits of the machine, and each goal's verdict.

    python -m benchmarks [--device gpu] [--only TEXT] [--quick] [--json FILE] [--plot FOLDER]
    python -m benchmarks --read FILE [--markdown] [--plot FOLDER]
    python -m benchmarks floor --help      random shapes against a friendly one
    python -m benchmarks scale --help      volumes in chunks on worker processes
    python -m benchmarks gpus --help       training and volumes on several GPUs
    python -m benchmarks volumes --help    time and memory of distances and parabolas
    python -m benchmarks choices --help    a GPU's kernels between which a limit chooses
    python -m benchmarks documents         the README's table, of the reports in benchmarks/results

Our calls and the peers' take turns in one run, so that other load on the machine slows all of them.
The exit status is 1 if a goal is missed or a work fails.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    choices,
    costs,
    documents,
    floor,
    gpus,
    plot,
    run,
    scale,
    steps,
    table,
    volumes,
    works,
)
from benchmarks.table import Report
from benchmarks.works import Device
from semiconv_cupy import progress


@dataclass(frozen=True)
class Suite:
    """All that is measured on one device, and how it is measured.

    Attributes
    ----------
    bench : callable
        Takes the seconds for each call; measures the machine's limits.
    works : callable
        Returns the works, in the order of the report.
    costs : callable
        Takes the names of the absent peers; returns the costs.
    growths : callable
        Takes whether the run is quick; returns the works whose growth is drawn.
    seconds : float
        For each call.
    """

    bench: Callable[[float], run.Bench]
    works: Callable[[], Iterable[works.AnyWork]]
    costs: Callable[[list[str]], Iterable[costs.Cost]]
    growths: Callable[[bool], Iterable[works.Growth]] = works.growths
    seconds: float = 0.5


SUITES: dict[Device, Suite] = {
    "cpu": Suite(run.bench_of_cpu, works.cpu, lambda absent: costs.costs("cpu", absent)),
    "gpu": Suite(
        run.bench_of_gpu,
        works.gpu,
        lambda absent: (*costs.costs("gpu", absent), *steps.steps(absent)),
        seconds=0.2,  # nothing else runs there, so that the median of fewer calls will do
    ),
}


def main(arguments: Sequence[str] | None = None, suites: Mapping[Device, Suite] = SUITES) -> int:
    """Measure or read a report; print, store and draw it; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["floor"]:
        return floor.main(arguments[1:])
    if arguments[:1] == ["scale"]:
        return scale.main(arguments[1:])
    if arguments[:1] == ["gpus"]:
        return gpus.main(arguments[1:])
    if arguments[:1] == ["volumes"]:
        return volumes.main(arguments[1:])
    if arguments[:1] == ["choices"]:
        return choices.main(arguments[1:])
    if arguments[:1] == ["documents"]:
        return documents.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--only", default="", metavar="TEXT", help="works with TEXT in the name")
    parser.add_argument("--quick", action="store_true", help="short and rough")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no work after")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the report there")
    parser.add_argument("--read", type=Path, metavar="FILE", help="a kept report, not a new one")
    parser.add_argument("--markdown", action="store_true", help="print the page's tables")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw how the cost grows")
    options = parser.parse_args(arguments)

    if options.read:
        report = json.loads(options.read.read_text())
    else:
        report = measure(options, suites[options.device])
    if options.plot and not report["growth"]:
        parser.error(f"{options.read} was measured without --plot and has no growth")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.markdown:
        print(table.markdown(report))
    elif options.read:
        print(table.heading(report))
        print("\n".join(map(table.line, report["rows"] + report["costs"])))
    if not options.markdown:
        print(table.summary(report))
    for path in plot.draw(report, options.plot) if options.plot else ():
        print(path)
    return 0 if succeeded(report) else 1


def measure(options: argparse.Namespace, suite: Suite) -> Report:
    """A new report; each row is printed as soon as it is measured, except with ``--markdown``."""
    begin = time.monotonic()
    bench = suite.bench(0.1 if options.quick else suite.seconds)
    report: Report = {
        "facts": run.facts(bench.device),
        "statistic": bench.statistic,
        "ceilings": bench.ceilings,
        "absent": bench.absent,
    }

    def say(found: Report) -> None:
        if not options.markdown:
            progress.say(table.line(found))

    if not options.markdown:
        print(table.heading(report), flush=True)
    chosen = [cost for cost in suite.costs(bench.absent) if options.only in cost.name]
    report["costs"] = run.measure_costs(chosen, say)  # few, and first: the time is the works'
    selected = [work for work in suite.works() if options.only in work.name]
    report["rows"], report["not measured"] = run.measure(
        bench, selected, say, begin + 60 * options.minutes
    )
    report["no model"] = run.model_rows(bench, report["rows"])
    growths = suite.growths(options.quick) if options.plot else ()
    report["growth"] = run.measure_growth(bench, growths)
    report["minutes"] = (time.monotonic() - begin) / 60
    return report


def succeeded(report: Report) -> bool:
    """Whether every work ran and every goal that was measured is met."""
    rows = report["rows"] + report["costs"]
    missed = any(goal["met"] is False for found in rows for goal in found.get("goals", ()))
    return not missed and not any("error" in found for found in rows)


if __name__ == "__main__":
    sys.exit(main())
