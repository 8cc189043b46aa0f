"""A run: works, clocks and ceilings in, one report (plain data, as in the JSON) out.

What stands for the machine is in `Bench`, so that tests can put a clock of their own in its place.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks import ceilings, peers, works
from benchmarks.costs import Cost
from benchmarks.peers import OURS
from benchmarks.timing import PAUSE, Call, Clock, Events, Times, alternate, in_turn, wall
from benchmarks.works import Convolution, Device, Filter, Goal, Growth
from kernels_cu import model, nvrtc, sass
from kernels_cu.report import model_work
from semiconv_cupy.launches import STANDARD_WORKS, launches

Report = dict[str, Any]
FLAGGED = 1.3  # times the model time: something that the model does not know costs time
TOO_SLOW = 0.3  # seconds: a call that grows beyond leaves its series


@dataclass(frozen=True)
class Bench:
    """The machine as a run sees it: its clock, ceilings, calls, and its cache in bytes."""

    device: Device
    clock: Clock
    seconds: float
    ceilings: Mapping[str, float]
    missing: list[str]
    cache: int = 0
    machine: model.Machine | None = None
    calls: Callable[[Convolution | Filter, Device, int, list[str]], dict[str, peers.Maker]] = (
        peers.calls
    )
    between: Callable[[], None] = field(default=lambda: None)  # two works

    @property
    def pause(self) -> float:
        """A GPU's calls wait for each other anyway."""
        return PAUSE if self.device == "cpu" else 0.0

    @property
    def statistic(self) -> str:
        """On a CPU others' work only ever adds; a GPU is ours alone."""
        return "best" if self.device == "cpu" else "median"

    def time(
        self, measured: Convolution | Filter, only: Iterable[str] = ()
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Seconds of ours and of each peer's call (`only` these, if named), and who failed how."""
        sets = peers.sets_of_inputs(measured, self.cache)
        makers = [self.calls(measured, self.device, seed, self.missing) for seed in range(sets)]
        calls: dict[str, Call] = {}
        failures = {}
        for name in makers[0]:
            if only and name not in only:
                continue
            try:
                made = [call for each in makers if (call := each[name]()) is not None]
                if made:
                    made[0]()
                    calls[name] = in_turn(made)
            except Exception as error:
                # A peer may fail in any way of its own; that is no reason to lose the others.
                if name == OURS:
                    raise
                failures[name] = f"{type(error).__name__}: {error}"
        times: dict[str, Times] = alternate(calls, self.clock, self.seconds, pause=self.pause)
        return {name: getattr(found, self.statistic) for name, found in times.items()}, failures


def bench_of_cpu(seconds: float) -> Bench:
    """The CPU that this process runs on."""
    # Everything is held against the ceilings: they get their time also where the rest is rough.
    found = ceilings.of_cpu(wall, max(seconds, 0.5))
    return Bench("cpu", wall, seconds, found, peers.absent("cpu"))


def bench_of_gpu(seconds: float) -> Bench:
    """The current GPU."""
    import cupy

    missing = peers.absent("gpu")
    if works.CONV2D not in missing:
        import torch

        torch.backends.cudnn.allow_tf32 = False  # float32 is to mean float32 for everyone
    clock, device = Events(), cupy.cuda.Device()
    found = ceilings.of_gpu(clock, seconds)
    arch = f"sm_{device.compute_capability}"
    machine = None
    if arch in model.ARCHITECTURES:
        count = device.attributes["MultiProcessorCount"]
        per_clock = model.rate(
            {"fma": 1, "alu": 1, "issue": 2}, model.Machine(arch, count, 1, math.inf)
        )
        clock_rate = found["pairs float32"] / per_clock
        machine = model.Machine(arch, count, clock_rate, found[ceilings.COPY])

    def between() -> None:
        cupy.get_default_memory_pool().free_all_blocks()
        if works.POOLING not in missing:
            import torch

            torch.cuda.empty_cache()

    cache = device.attributes["L2CacheSize"]
    return Bench(
        "gpu", clock, seconds, found, missing, cache, machine, between=between
    )  # fmt: skip


# ---- rows ----------------------------------------------------------------------------------------


def row(
    measured: Convolution | Filter,
    times: Mapping[str, float],
    failures: Mapping[str, str],
    bench: Bench,
) -> Report:
    """One work's line: times, ratios, the limit and the share of it, the goals."""
    ours = times[OURS]
    theirs = {name: seconds for name, seconds in times.items() if name != OURS}
    ratios = {name: seconds / ours for name, seconds in theirs.items()}
    bounds = {"bytes": measured.bytes / bench.ceilings[ceilings.COPY]}
    if isinstance(measured, Convolution) and measured.operation in bench.ceilings:
        rate = bench.ceilings[measured.operation]
        bounds[measured.operation] = measured.operations / rate
    bound = max(bounds, key=lambda name: bounds[name])
    limit = bounds[bound]
    reached = {**ratios, works.LIMIT: limit / ours}
    return {
        "work": measured.name,
        "seconds": ours,
        "peers": theirs,
        "ratios": ratios,
        "failures": dict(failures),
        "limit": limit,
        "bound": bound,
        "share": limit / ours,
        "goals": [verdict(goal, reached.get(goal.of)) for goal in measured.goals],
    }


def verdict(goal: Goal, reached: float | None) -> Report:
    """A goal and what was reached; None where its peer is absent."""
    met = None if reached is None else goal.least <= reached <= goal.most
    return {"goal": goal.text, "reached": reached, "met": met}


def measure(
    bench: Bench,
    selected: Iterable[Convolution | Filter],
    say: Callable[[Report], None],
    until: float = math.inf,
) -> tuple[list[Report], list[str]]:
    """The rows of works, and the names of those that there was no time for."""
    rows, skipped = [], []
    for measured in selected:
        if time.monotonic() > until:
            skipped.append(measured.name)
            continue
        try:
            found = row(measured, *bench.time(measured), bench)
        except Exception as error:
            # One work's failure, too, costs only its row; the exit status tells.
            found = {"work": measured.name, "error": f"{type(error).__name__}: {error}"}
        rows.append(found)
        say(found)
        bench.between()
    return rows, skipped


def model_rows(bench: Bench, rows: list[Report]) -> str:
    """Add the model times to the rows of standard works; return why there are none, or nothing."""
    if bench.machine is None:
        return "" if bench.device == "cpu" else "the model knows no such GPU"
    standard = {work.name: work for work in STANDARD_WORKS}
    for found in rows:
        work = standard.get(found["work"])
        if work is None or "error" in found:
            continue
        try:
            told = model_work(work, launches(work), bench.machine)
        except (nvrtc.LibraryNotFoundError, sass.DisassemblerNotFoundError) as error:
            return str(error)
        if not math.isnan(told.seconds):
            ratio = found["seconds"] / told.seconds
            found |= {
                "model": told.seconds,
                "model bound": told.bound,
                "measured / model": ratio,
                "flagged": ratio > FLAGGED,
            }
    return ""


def measure_costs(selected: Iterable[Cost], say: Callable[[Report], None]) -> list[Report]:
    """The rows of what is no ratio."""
    rows = []
    for cost in selected:
        value = cost.measure()
        goals = [verdict(cost.goal, value)] if math.isfinite(cost.goal.most) else []
        found = {"cost": cost.name, "value": value, "unit": cost.unit, "goals": goals}
        rows.append(found)
        say(found)
    return rows


def measure_growth(bench: Bench, selected: Iterable[Growth]) -> list[Report]:
    """Times along each axis; a call that is slow at one point is not made at the next."""
    grown = []
    for growth in selected:
        series: dict[str, list[tuple[int, float]]] = {}
        slow: set[str] = set()
        for at, work in growth.works.items():
            measured = Convolution(work)
            wanted = [OURS, works.SCIPY, works.CUPYX, works.KORNIA, works.EAGER]
            only = [name for name in wanted if name not in slow]
            if not only or OURS in slow:
                break
            for name, seconds in bench.time(measured, only)[0].items():
                series.setdefault(name, []).append((at, seconds))
                if seconds > TOO_SLOW:
                    slow.add(name)
            bench.between()
        grown.append(
            {"name": growth.name, "axis": growth.axis, "power": growth.power, "series": series}
        )
    return grown


# ---- the machine ---------------------------------------------------------------------------------

_PACKAGES = (
    *("numpy", "scipy", "torch", "cupy-cuda12x", "cupy-cuda13x", "scikit-image"),
    *("opencv-python", "opencv-python-headless", "kornia", "pytorch-nd-semiconv", "numba-cuda"),
)


def facts(device: Device) -> Report:
    """Device, driver and versions."""
    found: Report = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device == "gpu":
        import cupy

        runtime = cupy.cuda.runtime
        found["device"] = runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        found["CUDA of the driver"] = runtime.driverGetVersion()
        found["CUDA runtime"] = runtime.runtimeGetVersion()
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        if shutil.which(query[0]):
            found["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
        return found
    lines = subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("Model name")]
    found["device"] = names[0] if names else platform.processor() or platform.machine()
    found["threads"] = len(os.sched_getaffinity(0))
    return found
