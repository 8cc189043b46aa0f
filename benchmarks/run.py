"""A run: it takes works, a clock and ceilings, and returns one report (plain data, as in the JSON).

`Bench` describes the machine. A test passes a `Bench` with its own clock, calls and limits.
"""

from __future__ import annotations

import datetime
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
from benchmarks.agreement import disagreement
from benchmarks.costs import Cost
from benchmarks.table import Report
from benchmarks.timing import PAUSE, Call, Clock, Events, Maker, Times, alternate, in_turn, wall
from benchmarks.works import OURS, AnyWork, Convolution, Device, Filter, Goal, Growth, Measured
from kernels_cu import model, nvrtc, sass
from kernels_cu.report import model_work
from semiconv_cupy.backends.host import compiler
from semiconv_cupy.progress import bar
from semiconv_cupy.works import STANDARD_WORKS, Work

FLAGGED = 1.3  # times the model time: beyond it, something costs time that the model lacks
TOO_SLOW = 0.3  # seconds: a slower call is not measured at the larger sizes


@dataclass(frozen=True)
class Bench:
    """One machine: what measures time on it, its limits, and who makes the calls.

    Each call is timed for about `seconds`; `cache` is the size of the GPU's cache in bytes;
    `between` is called after each work.
    """

    device: Device
    clock: Clock
    seconds: float
    ceilings: Mapping[str, float]
    absent: list[str]
    cache: int = 0
    machine: model.Machine | None = None
    calls: Callable[[Any, Device, int, list[str]], dict[str, Maker]] = peers.calls
    between: Callable[[], None] = field(default=lambda: None)

    @property
    def pause(self) -> float:
        """Seconds between two turns; calls on a GPU wait for each other anyway."""
        return PAUSE if self.device == "cpu" else 0.0

    @property
    def statistic(self) -> str:
        """On a CPU other processes only add time, so the best counts; a GPU runs ours alone."""
        return "best" if self.device == "cpu" else "median"

    def time(
        self, measured: Measured, only: Iterable[str] = ()
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Seconds of our call and of each peer's, and why some peers were not timed.

        Who computes other numbers than ours is not. With `only`, the calls of these names alone.
        """
        calls, failures = self._same_calls(measured, only)
        times: dict[str, Times] = alternate(calls, self.clock, self.seconds, pause=self.pause)
        return {name: getattr(found, self.statistic) for name, found in times.items()}, failures

    def _same_calls(
        self, measured: Measured, only: Iterable[str]
    ) -> tuple[dict[str, Call], dict[str, str]]:
        """The calls that compute the same, each made once, and why others are left out."""
        gradients = getattr(measured, "mode", "forward") == "training"
        sets = peers.sets_of_inputs(measured, self.cache)
        makers = [self.calls(measured, self.device, seed, self.absent) for seed in range(sets)]
        calls: dict[str, Call] = {}
        failures = {}
        ours: Any = None
        for name in makers[0]:
            if only and name not in only:
                continue
            try:
                made = [call for each in makers if (call := each[name]()) is not None]
                if not made:
                    continue
                result = made[0]()
                ours = result if name == OURS else ours
                wrong = None if name in works.OTHERS else disagreement(ours, result, gradients)
                if wrong is None:
                    calls[name] = in_turn(made)
                else:
                    failures[name] = wrong
            except Exception as error:
                # A peer may raise any error; the other peers are measured all the same.
                if name == OURS:
                    raise
                failures[name] = f"{type(error).__name__}: {error}"
        return calls, failures


def bench_of_cpu(seconds: float) -> Bench:
    """The CPU that this process runs on."""
    # Every limit depends on the ceilings, so they are measured well even in a quick run.
    found = ceilings.of_cpu(wall, max(seconds, 0.5))
    return Bench("cpu", wall, seconds, found, peers.absent_peers("cpu"))


def bench_of_gpu(seconds: float) -> Bench:
    """The current GPU."""
    import cupy

    absent = peers.absent_peers("gpu")
    if works.CONV2D not in absent:
        import torch

        torch.backends.cudnn.allow_tf32 = False  # torch must compute float32 in float32
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
        if works.POOLING not in absent:
            import torch

            torch.cuda.empty_cache()

    cache = device.attributes["L2CacheSize"]
    return Bench(
        "gpu", clock, seconds, found, absent, cache, machine, between=between
    )  # fmt: skip


# ---- rows ----------------------------------------------------------------------------------------


def row(
    measured: AnyWork,
    times: Mapping[str, float],
    failures: Mapping[str, str],
    bench: Bench,
) -> Report:
    """The row of one work: times, ratios, the limit, the share of it that was reached, goals."""
    ours = times[OURS]
    theirs = {name: seconds for name, seconds in times.items() if name != OURS}
    ratios = {name: seconds / ours for name, seconds in theirs.items()}
    bounds = {"bytes": measured.bytes / bench.ceilings[ceilings.COPY]}
    if not isinstance(measured, Filter) and measured.operation in bench.ceilings:
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
    """A goal, what was reached, and whether that meets it; None if its peer is absent."""
    met = None if reached is None else goal.least <= reached <= goal.most
    return {"goal": goal.text, "reached": reached, "met": met}


def measure(
    bench: Bench,
    selected: Iterable[AnyWork],
    say: Callable[[Report], None],
    until: float = math.inf,
) -> tuple[list[Report], list[str]]:
    """The rows of the works, and the names of the works left when the time `until` had come."""
    rows, skipped, every = [], [], list(selected)
    with bar("measuring", "works") as show:
        for number, measured in enumerate(every):
            if time.monotonic() > until:
                skipped.append(measured.name)
                continue
            show(number, len(every), measured.name)
            try:
                found = row(measured, *bench.time(measured), bench)
            except Exception as error:
                # The other works are measured all the same; the exit status is then 1.
                found = {"work": measured.name, "error": f"{type(error).__name__}: {error}"}
            rows.append(found)
            say(found)
            bench.between()
    return rows, skipped


def model_rows(
    bench: Bench,
    rows: list[Report],
    model_time: Callable[[Work, model.Machine], model.ModelTime] = model_work,
) -> str:
    """Add the model times to the rows of standard works.

    Returns an empty string, or the reason why there are no model times.
    """
    if bench.machine is None:
        return "" if bench.device == "cpu" else "the model knows no such GPU"
    standard = {work.name: work for work in STANDARD_WORKS}
    for found in rows:
        work = standard.get(found["work"])
        if work is None or "error" in found:
            continue
        try:
            modelled = model_time(work, bench.machine)
        except (nvrtc.LibraryNotFoundError, sass.DisassemblerNotFoundError) as error:
            return str(error)
        if not math.isnan(modelled.seconds):
            ratio = found["seconds"] / modelled.seconds
            found |= {
                "model": modelled.seconds,
                "model bound": modelled.bound,
                "measured / model": ratio,
                "flagged": ratio > FLAGGED,
            }
    return ""


def measure_costs(selected: Iterable[Cost], say: Callable[[Report], None]) -> list[Report]:
    """The rows of costs that are not ratios."""
    rows: list[Report] = []
    for cost in selected:
        try:
            value = cost.measure()
            goals = [verdict(cost.goal, value)] if math.isfinite(cost.goal.most) else []
            found = {"cost": cost.name, "value": value, "unit": cost.unit, "goals": goals}
        except Exception as error:
            # As of a work: the other rows are measured all the same; the exit status is then 1.
            found = {"cost": cost.name, "error": f"{type(error).__name__}: {error}"}
        rows.append(found)
        say(found)
    return rows


def measure_growth(bench: Bench, selected: Iterable[Growth]) -> list[Report]:
    """Times along each axis; a call that is slow at one size is left out at the larger ones."""
    grown = []
    for growth in selected:
        series: dict[str, list[tuple[int, float]]] = {}
        slow: set[str] = set()
        for at, work in growth.works.items():
            measured = Convolution(work)
            names = [OURS, works.SCIPY, works.CUPYX, works.KORNIA, works.EAGER]
            only = [name for name in names if name not in slow]
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
    *("edt", "diplib", "fastmorph"),
)


def facts(device: Device) -> Report:
    """The day, the device, its driver or compiler, and the versions of the packages."""
    today = datetime.date.today().isoformat()
    found: Report = {"measured": today, "python": platform.python_version()}
    found["platform"] = platform.platform()
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
    described = _lscpu()
    found["device"] = described.get("Model name") or platform.processor() or platform.machine()
    flags = set(described.get("Flags", "").split())
    vectors = next((name for flag, name in _VECTORS.items() if flag in flags), "unknown")
    found["threads"], found["vectors"] = len(os.sched_getaffinity(0)), vectors
    found["compiler"] = compiler.version() if compiler.compiler() else "none"
    return found


# What lscpu calls the widest registers, the widest first.
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sse4_2": "SSE4.2", "asimd": "NEON"}


def _lscpu() -> dict[str, str]:
    lines = subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
