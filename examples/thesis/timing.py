"""Seconds an epoch of one network, with max-pooling, this library's pooling and other packages'.

One network, as a user would write it: no ensemble. Each is timed eagerly and, on a GPU, as a CUDA
graph. A row is a network in a mode. Another process measures the rows and writes each at once: an
error of CUDA ends that process, and the next one goes on with the row behind.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib.util
import math
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from examples.thesis import records, train
from examples.thesis.data import Data
from examples.thesis.networks import LEARNED, SOFT, STRIDE, lenet

Row = tuple[str, str]  # the name of a network, and "eager" or "graph"
SECONDS_OF_A_ROW = 40.0  # a row that takes longer is given up
LINEAR = {"kind": "linear"}
SEEDS_PACKAGE = "pytorch_nd_semiconv"
ABSENT = "not installed"


def poolings(size: int) -> dict[str, dict[str, Any]]:
    return {
        "max 2": {"kind": "max", "size": 2},
        "max 3": {"kind": "max", "size": 3},
        f"max {size}": {"kind": "max", "size": size},
        **{f"{kind} {size}": {"kind": kind, "size": size} for kind in LEARNED},
        **{f"{kind} 3": {"kind": kind, "size": 3} for kind in SOFT},
    }


def of_the_package(package: Any, kind: str, size: int, channels: int) -> nn.Module:
    """The pooling of `networks.pooling` by a package with the names of pytorch_nd_semiconv."""
    kernels = {
        "free": package.LearnedKernel2D,
        "iso": package.QuadraticKernelIso2D,
        "spectral": package.QuadraticKernelSpectral2D,
        "cholesky": package.QuadraticKernelCholesky2D,
    }
    return package.GenericConv(
        kernels[kind](1, channels, size),
        package.SelectSemifield.tropical_max().dynamic(),
        stride=STRIDE,
        padding=(size - 1) // 2,
        groups=channels,
    )


def networks(data: Data, size: int) -> dict[str, Callable[[], nn.Module]]:
    """What makes each network to time, by its name."""

    def ours(pool: dict[str, Any]) -> nn.Module:
        return lenet(data.shape, data.classes, pool, LINEAR, 0)

    def the_packages(kind: str) -> nn.Module:
        package = importlib.import_module(SEEDS_PACKAGE)
        network = ours({"kind": "max", "size": size})
        for number, layer in enumerate(network):
            if isinstance(layer, nn.MaxPool2d):
                channels = network[number - 1].out_channels
                network[number] = of_the_package(package, kind, size, channels)
        return network

    found = {name: functools.partial(ours, pool) for name, pool in poolings(size).items()}
    if data.train.images.is_cuda:  # it has no functions for CPUs
        for kind in LEARNED:
            found[f"{SEEDS_PACKAGE}, {kind} {size}"] = functools.partial(the_packages, kind)
    return found


class Trainer:
    """Steps of one network on the first examples."""

    def __init__(self, network: nn.Module, data: Data, batch: int) -> None:
        self.network, self.data = network, data
        graph = data.train.images.is_cuda
        self.optimiser = torch.optim.Adam(
            network.parameters(), 0.004, capturable=graph, fused=graph
        )
        self.index = torch.arange(batch, device=data.train.images.device)
        self._launch = self._eager

    def step(self) -> None:
        self._launch()

    def _eager(self) -> None:
        images, labels = self.data.train
        self.optimiser.zero_grad(set_to_none=True)
        scores = self.network(images[self.index])
        nn.functional.cross_entropy(scores, labels[self.index]).backward()
        self.optimiser.step()

    def capture(self) -> None:
        """Make the step a CUDA graph, after a few steps as they are.

        The graph uses the memory of this object's tensors and does not keep it: launch it by
        `step`, never by itself.
        """
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._eager()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._eager()
        self._launch = graph.replay


def measure(data: Data, row: Row, batch: int, size: int, rounds: int = 5) -> dict[str, Any]:
    """The record of that row: the least of so many times."""
    name, mode = row
    if _absent(name):
        return _record(row, batch, problem=ABSENT)
    trainer = Trainer(networks(data, size)[name]().to(data.train.images.device), data, batch)
    trainer.step()
    if mode == "graph":
        trainer.capture()
    steps = len(data.train.labels) // batch
    wait = torch.cuda.synchronize if data.train.images.is_cuda else _nothing
    least = min(_seconds_of_a_step(trainer.step, min(steps, 20), wait) for _ in range(rounds))
    return _record(row, batch, steps=steps, seconds_an_epoch=steps * least)


def _record(row: Row, batch: int, **values: Any) -> dict[str, Any]:
    return {"kind": "timing", "network": row[0], "mode": row[1], "batch": batch, **values}


def _nothing() -> None:
    pass


def _seconds_of_a_step(call: Callable[[], None], steps: int, wait: Callable[[], None]) -> float:
    wait()
    begin = time.perf_counter()
    for _ in range(steps):
        call()
    wait()
    return (time.perf_counter() - begin) / steps


# ---- all rows ------------------------------------------------------------------------------------


def rows(data: Data, size: int) -> list[Row]:
    modes = ("eager", "graph") if data.train.images.is_cuda else ("eager",)
    return [(name, mode) for mode in modes for name in networks(data, size)]


def measure_missing(
    data: Data,
    out: Path,
    batch: int,
    size: int,
    rounds: int,
    seconds: float = math.inf,
    *,
    installed: bool = False,
) -> None:
    """Add the records that `out` lacks, each when it is measured; begin none after `seconds`.

    With `installed`, networks of packages that are not installed get no record. A Python error
    becomes a record. So does what takes too long, after which the process ends: no call into CUDA
    can be left otherwise.
    """
    device, deadline = data.train.images.device, time.monotonic() + seconds
    for row in _missing(rows(data, size), out):
        if time.monotonic() > deadline:
            return
        if installed and not can_be_measured(row):
            continue
        faulthandler.dump_traceback_later(SECONDS_OF_A_ROW, exit=True)
        try:
            record = measure(data, row, batch, size, rounds)
        except Exception as error:  # other packages fail in their own ways; say how
            if _broken(device):
                raise
            record = _record(row, batch, problem=f"{type(error).__name__}: {error}"[:300])
        finally:
            faulthandler.cancel_dump_traceback_later()
        records.append(out, record | {"machine": train.machine(device)})


def _broken(device: torch.device) -> bool:
    """Whether this process cannot use the device any more."""
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return True
    return False


def _missing(wanted: Sequence[Row], out: Path) -> list[Row]:
    done = {
        (record["network"], record["mode"])
        for record in records.of_kind("timing", out)
        if record.get("problem") != ABSENT or _absent(record["network"])
    }
    return [row for row in wanted if row not in done]


def can_be_measured(row: Row) -> bool:
    """Whether the package that the row's network needs is installed."""
    return not _absent(row[0])


def _absent(name: str) -> bool:
    """Whether the network of that name needs a package that is not installed."""
    return name.startswith(SEEDS_PACKAGE) and not importlib.util.find_spec(SEEDS_PACKAGE)


def by_processes(
    command: Sequence[str],
    wanted: Sequence[Row],
    out: Path,
    batch: int,
    deadline: float = math.inf,
) -> bool:
    """Run `command`, which calls `measure_missing`, until `out` has all rows.

    Rows have an order. So where the process ends early, it ended within the first row that is
    missing, whose record then has the last lines that it printed. Returns whether `out` has all
    rows: no row begins after `deadline`, a time of ``time.monotonic``.
    """
    while _missing(wanted, out):
        left_over = deadline - time.monotonic()
        if left_over <= 0:
            return False
        limited = command if left_over == math.inf else [*command, "--seconds", f"{left_over:.0f}"]
        done = subprocess.run(limited, stderr=subprocess.PIPE, text=True, errors="replace")
        left = _missing(wanted, out)
        if left and done.returncode == 0:
            if time.monotonic() > deadline - 1:
                return False
            raise RuntimeError(f"{command} ended without the rows {left}")
        if left:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            why = f"the process ended with {done.returncode}: {' / '.join(said[-3:])}"[:300]
            records.append(out, _record(left[0], batch, problem=why))
    return True
