"""Train all networks of an experiment: one record a setting and group of seeds.

What has been recorded is not computed again; what was under way continues from its checkpoint.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples.thesis import records
from examples.thesis.data import Data
from examples.thesis.ensemble import Ensemble
from examples.thesis.networks import PARAMETERS, SOFT, WAYS, Semifield2d, lenet
from examples.thesis.settings import Experiment, Setting, Training
from semiconv_cupy import progress

SECONDS_BETWEEN_CHECKPOINTS = 30.0
SEEDS_WITH_KERNELS = 2  # of so many networks a record has the learned kernels


def run(
    experiment: Experiment,
    data: Data,
    out: Path,
    *,
    way: str = "auto",
    graph: bool = True,
    seconds: float = math.inf,
    bar: bool = True,
    reduce: bool = False,
) -> bool:
    """Train what `out` does not have yet, and add it there, a line for each group of seeds.

    Parameters
    ----------
    way : str
        How linear convolutions are computed: one of `networks.WAYS`, or "auto" for the fastest of
        them on a GPU, and torch's own on a CPU.
    graph : bool
        Whether a step on a GPU is a CUDA graph.
    seconds : float
        After so much time the epoch is finished, a checkpoint written, and False returned: the
        same call then continues. Each call does an epoch at least.
    bar : bool
        Whether a terminal shows a bar of progress.
    reduce : bool
        Whether a record has only what tables and figures need.

    Returns
    -------
    bool
        Whether everything is done.
    """
    deadline = time.monotonic() + seconds
    work = []
    recorded = _recorded(out)
    for setting in experiment.settings:
        done = recorded.get(_key(_identity(setting, experiment.training, data, [])), set())
        work += [
            (setting, _identity(setting, experiment.training, data, seeds))
            for seeds in experiment.training.groups(done)
        ]
    if work and way == "auto":
        way = _fastest_way(experiment, data, graph)
    epochs = experiment.training.epochs
    with progress.bar("training", "epochs", shown=bar) as show:
        for number, (setting, identity) in enumerate(work):
            if number and time.monotonic() > deadline:
                return False
            one = _Run(setting, identity, data, out, way, graph)
            say = _part_of(show, number * epochs, len(work) * epochs, setting.name)
            if not one.learn(say, deadline):
                return False
            record = one.record()
            records.append(out, records.reduced(record) if reduce else record)
            one.checkpoint.unlink(missing_ok=True)
    return True


def _part_of(show: progress.Show, before: int, total: int, name: str) -> Callable[[int, str], None]:
    """Say how many epochs of one run are done, to the bar of all."""
    return lambda done, label: show(before + done, total, f"{name} {label}")


def _recorded(out: Path) -> dict[str, set[int]]:
    """The seeds that the file has of each work, in whatever groups they were trained."""
    found: dict[str, set[int]] = {}
    for record in records.of_kind("training", out):
        identity = record["identity"]
        found.setdefault(_key(identity | {"seeds": []}), set()).update(identity["seeds"])
    return found


def _identity(setting: Setting, training: Training, data: Data, seeds: list[int]) -> dict[str, Any]:
    """What decides a run's result, but for the machine."""
    return {
        "data": data.name,
        "examples": len(data.train.labels),
        "pooling": dict(setting.pooling),
        "convolution": dict(setting.convolution),
        "epochs": training.epochs,
        "batch": training.batch,
        "rate": training.rate,
        "seeds": seeds,
    }


def _key(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def order(seed: int, epoch: int, examples: int) -> Tensor:
    """The order of the examples in that epoch of that network, the same on every machine."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(examples))


class _Run:
    """The networks of one setting and one group of seeds."""

    def __init__(
        self,
        setting: Setting,
        identity: dict[str, Any],
        data: Data,
        out: Path,
        way: str,
        graph: bool,
    ) -> None:
        self.setting, self.identity, self.data, self.way = setting, identity, data, way
        self.checkpoint = out.with_name(f"{out.stem}.{_key(identity)}.pt")
        self.seeds, self.batch = identity["seeds"], identity["batch"]
        self.steps = len(data.train.labels) // self.batch
        if not self.steps:
            raise ValueError(
                f"training.batch is {self.batch}, but there are {len(data.train.labels)} examples"
            )
        pool, conv = setting.pooling, setting.convolution
        make = functools.partial(lenet, data.shape, data.classes, pool, conv, way=way)
        self.ensemble = Ensemble(make, self.seeds, data, identity["rate"], self.batch, graph)
        self.history: dict[str, list[Any]] = {
            name: [] for name in ("loss", "accuracy", "seconds", "test_seconds", "parameters")
        }
        saved = records.load(self.checkpoint, identity)
        if saved is not None:
            self.history.update(saved["history"])
            self.ensemble.load_state(saved["ensemble"])

    def learn(self, say: Callable[[int, str], None], deadline: float) -> bool:
        """Go through the epochs that are left; False where the time ends before."""
        begin, epochs = len(self.history["loss"]), self.identity["epochs"]
        say(begin, "")
        ready = self._order(begin)
        saved = time.monotonic()
        for epoch in range(begin, epochs):
            ready = self._epoch(ready, epoch)
            say(epoch + 1, f"accuracy {np.mean(self.history['accuracy'][-1]):.4f}")
            now = time.monotonic()
            if now > deadline or now - saved > SECONDS_BETWEEN_CHECKPOINTS:
                self._save()
                saved = now
            if now > deadline and epoch + 1 < epochs:
                return False
        return True

    def _epoch(self, order: Tensor, epoch: int) -> Tensor:
        """Learn in this order, then test; returns the next epoch's order."""
        begin = time.perf_counter()
        order = order.to(self.data.train.images.device)
        for step in range(self.steps):
            self.ensemble.step(order[:, step * self.batch : (step + 1) * self.batch])
        following = self._order(epoch + 1)  # while a GPU computes
        losses = self.ensemble.take_losses(self.steps).tolist()  # waits
        learned = time.perf_counter()
        accuracy = self.ensemble.accuracy().tolist()
        self.history["parameters"].append(_parameters(self.ensemble))
        self.history["accuracy"].append([round(value, 6) for value in accuracy])
        self.history["loss"].append([_rounded(value) for value in losses])
        self.history["seconds"].append(round(learned - begin, 4))
        self.history["test_seconds"].append(round(time.perf_counter() - learned, 4))
        return following

    def _order(self, epoch: int) -> Tensor:
        examples = len(self.data.train.labels)
        return torch.stack([order(seed, epoch, examples) for seed in self.seeds])

    def _save(self) -> None:
        state = {"history": self.history, "ensemble": self.ensemble.state()}
        records.save(self.checkpoint, self.identity, state)

    def record(self) -> dict[str, Any]:
        return {
            "kind": "training",
            "setting": self.setting.name,
            "identity": self.identity,
            **self.history,
            "learned": _learned(self.ensemble),
            "way": self.way,
            "graph": self.ensemble.graph,
            "machine": machine(self.data.train.images.device),
        }


def _fastest_way(experiment: Experiment, data: Data, graph: bool) -> str:
    """How linear convolutions of so many networks take the least time on this device."""
    if data.train.images.device.type != "cuda":
        return "torch"
    training, times = experiment.training, {}
    seeds = next(training.groups())
    for way in WAYS:
        pool, conv = {"kind": "max", "size": 2}, {"kind": "linear"}
        make = functools.partial(lenet, data.shape, data.classes, pool, conv, way=way)
        ensemble = Ensemble(make, seeds, data, training.rate, training.batch, graph)
        ensemble.step(ensemble.index)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(5):
            ensemble.step(ensemble.index)
        torch.cuda.synchronize()
        times[way] = (time.perf_counter() - begin) / 5
        del ensemble
        torch.cuda.empty_cache()
    shown = ", ".join(f"{way} {1e3 * seconds:.2f} ms" for way, seconds in times.items())
    print(
        f"a step of {len(seeds)} networks by each way of linear convolutions: {shown}", flush=True
    )
    return min(times, key=times.__getitem__)


def _parameters(ensemble: Ensemble) -> dict[str, list[float]]:
    """What mu or p each network has learned in each layer, as a mean over the layer's channels.

    The names are those of the layers with "mu" or "p" behind, as "0 mu".
    """
    found = {}
    for name, layer in ensemble.network.named_children():
        if isinstance(layer, Semifield2d) and layer.log_parameter is not None:
            values = ensemble.parameters[f"{name}.log_parameter"].detach().exp()
            found[f"{name} {PARAMETERS[layer.kind]}"] = _rounded(values.tolist())
        if isinstance(layer, tuple(SOFT.values())) and layer.learn:
            values = ensemble.parameters[f"{name}.{layer.parameter_name}"].detach().mean(1)
            found[f"{name} {layer.parameter_name}"] = _rounded(values.tolist())
    return found


def _learned(ensemble: Ensemble) -> list[dict[str, Any]]:
    """The kernels that the first networks have learned, of the first image channel."""
    found = []
    for number in range(min(SEEDS_WITH_KERNELS, len(ensemble.seeds))):
        layers = {}
        for name, layer in ensemble.member(number).named_children():
            kernel = getattr(layer, "kernel", None)
            with torch.no_grad():
                if isinstance(kernel, nn.Module):
                    layers[name] = _rounded(kernel()[:, 0].tolist())
                if isinstance(layer, Semifield2d):
                    layers[name] = _rounded(layer.taps(layer.parameter())[:, 0].tolist())
        found.append({"seed": ensemble.seeds[number], "layers": layers})
    return found


def _rounded(values: Any) -> Any:
    """Numbers, in lists or not, with so many digits as a picture needs; JSON has no infinity."""
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return float(f"{values:.5g}") if math.isfinite(values) else None


def machine(device: torch.device) -> dict[str, str]:
    name = platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": name, "torch": torch.__version__, "python": platform.python_version()}
