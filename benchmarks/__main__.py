"""Ratios to every peer that is installed, the limits of the machine, and each goal's verdict.

    python -m benchmarks [--device gpu] [--only TEXT] [--quick] [--json FILE] [--plot FOLDER]
    python -m benchmarks --read FILE [--markdown] [--plot FOLDER]

Calls of ours and of the peers take turns in one run, so that what else the machine does meets all.
The exit status is 1 where a goal is missed or a work fails.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import costs, plot, run, table, works


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or read a report; print, draw and keep it."""
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
    parser.add_argument("--markdown", action="store_true", help="print the README's tables")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw how the cost grows")
    options = parser.parse_args(arguments)

    report = json.loads(options.read.read_text()) if options.read else measure(options)
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


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """A new report; its rows are printed as they come, unless the README's form is wanted."""
    begin = time.monotonic()
    seconds = 0.1 if options.quick else 0.5
    bench = run.bench_of_gpu(seconds) if options.device == "gpu" else run.bench_of_cpu(seconds)
    report: dict[str, Any] = {
        "facts": run.facts(bench.device),
        "statistic": bench.statistic,
        "ceilings": bench.ceilings,
        "absent": bench.missing,
    }

    def say(found: dict[str, Any]) -> None:
        if not options.markdown:
            print(table.line(found), flush=True)

    if not options.markdown:
        print(table.heading(report), flush=True)
    every = works.gpu() if bench.device == "gpu" else works.cpu()
    selected = [work for work in every if options.only in work.name]
    report["rows"], report["not measured"] = run.measure(
        bench, selected, say, begin + 60 * options.minutes
    )
    report["no model"] = run.model_rows(bench, report["rows"])
    chosen = [
        cost for cost in costs.costs(bench.device, bench.missing) if options.only in cost.name
    ]  # fmt: skip
    report["costs"] = run.measure_costs(chosen, say)
    growths = works.growths(options.quick) if options.plot else ()
    report["growth"] = run.measure_growth(bench, growths)
    report["minutes"] = (time.monotonic() - begin) / 60
    return report


def succeeded(report: dict[str, Any]) -> bool:
    """Whether every work ran and every goal that was measured is met."""
    rows = report["rows"] + report["costs"]
    missed = any(goal["met"] is False for found in rows for goal in found.get("goals", ()))
    return not missed and not any("error" in found for found in rows)


if __name__ == "__main__":
    sys.exit(main())
