"""Seconds an epoch of one network, with max-pooling, this library's pooling and other packages'.

One network, as a user would write it: no ensemble. Each is timed eagerly and, on a GPU, as a CUDA
graph; all are timed in turn, several times, and the least time counts.
"""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from examples.thesis.data import Data
from examples.thesis.networks import LEARNED, STRIDE, lenet

LINEAR = {"kind": "linear"}
SEEDS_PACKAGE = "pytorch_nd_semiconv"


def poolings(size: int) -> dict[str, dict[str, Any]]:
    return {
        "max 2": {"kind": "max", "size": 2},
        "max 3": {"kind": "max", "size": 3},
        f"max {size}": {"kind": "max", "size": size},
        **{f"{kind} {size}": {"kind": kind, "size": size} for kind in LEARNED},
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
    if importlib.util.find_spec(SEEDS_PACKAGE) and data.train.images.is_cuda:
        for kind in LEARNED:
            found[f"{SEEDS_PACKAGE}, {kind} {size}"] = functools.partial(the_packages, kind)
    return found


class Trainer:
    """Steps of one network on the examples of `index`."""

    def __init__(self, network: nn.Module, data: Data, batch: int) -> None:
        self.network, self.data = network, data
        graph = data.train.images.is_cuda
        self.optimiser = torch.optim.Adam(
            network.parameters(), 0.004, capturable=graph, fused=graph
        )
        self.index = torch.zeros(batch, dtype=torch.long, device=data.train.images.device)

    def step(self) -> None:
        images, labels = self.data.train
        self.optimiser.zero_grad(set_to_none=True)
        scores = self.network(images[self.index])
        nn.functional.cross_entropy(scores, labels[self.index]).backward()
        self.optimiser.step()

    def captured(self) -> Callable[[], None]:
        """The step as a CUDA graph, after a few steps as they are."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


def measure(data: Data, batch: int, size: int, rounds: int = 5) -> list[dict[str, Any]]:
    """A record of each network: seconds an epoch, eagerly and as a CUDA graph.

    A step that fails has None, and the record says why: a package need not support graphs.
    """
    on_gpu = data.train.images.is_cuda
    calls: dict[tuple[str, str], Callable[[], None]] = {}
    problems: dict[tuple[str, str], str] = {}
    for name, make in networks(data, size).items():
        # A capture that fails would leave the device unusable for all that follows.
        graphs = on_gpu and not name.startswith(SEEDS_PACKAGE)
        for mode in ("eager", "graph") if graphs else ("eager",):
            try:
                trainer = Trainer(make().to(data.train.images.device), data, batch)
                trainer.step()
                call = trainer.captured() if mode == "graph" else trainer.step
                if on_gpu:
                    torch.cuda.synchronize()
            except Exception as error:  # other packages fail in their own ways; say how
                problems[name, mode] = f"{type(error).__name__}: {error}"[:300]
            else:
                calls[name, mode] = call
    steps = len(data.train.labels) // batch
    least = _least_seconds(calls, rounds, min(steps, 20), on_gpu)
    keys = [*calls, *problems]
    return [
        {
            "kind": "timing",
            "network": name,
            "mode": mode,
            "batch": batch,
            "steps": steps,
            "seconds_an_epoch": steps * least[name, mode] if (name, mode) in least else None,
            "problem": problems.get((name, mode)),
        }
        for name, mode in keys
    ]


def _least_seconds(
    calls: dict[Any, Callable[[], None]], rounds: int, steps: int, on_gpu: bool
) -> dict[Any, float]:
    """The least time of a step of each call; the calls take turns."""
    least: dict[Any, float] = {}
    for _ in range(rounds):
        for key, call in calls.items():
            if on_gpu:
                torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(steps):
                call()
            if on_gpu:
                torch.cuda.synchronize()
            taken = (time.perf_counter() - begin) / steps
            least[key] = min(taken, least.get(key, taken))
    return least
