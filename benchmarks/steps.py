"""The time of training calls and of whole training steps on a GPU, Python's share included.

Small works take as long as their launches, so that here nothing waits for the GPU between calls. A
row is a ratio: our time over torch's for the same shapes, or the peer package's over ours.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks import works
from benchmarks.costs import VALUE, Cost
from benchmarks.timing import alternate, wall
from benchmarks.works import Goal

CALLS = 20  # in each measured round
BATCHES = {64: Goal(VALUE, most=1.15), 512: Goal(VALUE, most=1.15), 4096: Goal(VALUE)}
PACKAGE = "pytorch_nd_semiconv"
_CALL, _CHANNELS, _SIZE = (128, 6, 28, 28), 6, 3
Step = Callable[[], object]


def steps(absent: list[str], where: str = "cuda") -> Iterator[Cost]:
    """The rows whose peers are installed."""
    if works.POOLING in absent:
        return
    packages = ["torch_bridge"] if works.FUSED in absent else ["torch_bridge", PACKAGE]
    peers: dict[str, tuple[Callable[[], Step], str, Goal]] = {
        "training call 128x6x28^2, 3x3 stride 2": (
            partial(_depthwise_call, where), "depthwise conv2d", Goal(VALUE, most=1.3),
        ),
    }  # fmt: skip
    makers: dict[str, Callable[[str], Step]] = {
        name: partial(_pooling_call, where) for name in peers
    }
    for batch, goal in BATCHES.items():
        name = f"LeNet step, 5x5 pooling, batch {batch}"
        peers[name] = partial(_lenet_step, where, batch, None), "max-pooling", goal
        makers[name] = partial(_lenet_step, where, batch)
    for name, (peer, title, goal) in peers.items():
        ours = partial(makers[name], packages[0])
        yield Cost(name, f"x {title}", goal, partial(_ratio, ours, peer, where))
        for package in packages[1:]:
            yield Cost(
                f"{name}, {package}", "x ours", Goal(VALUE),
                partial(_ratio, partial(makers[name], package), ours, where),
            )  # fmt: skip


def _ratio(first: Callable[[], Step], second: Callable[[], Step], where: str) -> float:
    """The first step's time over the second's, taken in turns."""
    import torch

    from torch_bridge.ops import node

    if where == "cuda":  # else the first rows would measure Python's path
        node.library(wait=True)

    def several(step: Step) -> Step:
        def run() -> None:
            for _ in range(CALLS):
                step()
            if where == "cuda":
                torch.cuda.synchronize()

        return run

    times = alternate({"first": several(first()), "second": several(second())}, wall, 1.0)
    return times["first"].best / times["second"].best


def _gradients(function: Callable[..., Any], where: str) -> Step:
    import torch

    img = torch.rand(_CALL, device=where, requires_grad=True)
    krn = torch.rand(_CHANNELS, 1, _SIZE, _SIZE, device=where, requires_grad=True)
    grad_out = torch.ones_like(function(img, krn))
    return lambda: torch.autograd.grad(function(img, krn), (img, krn), grad_out)


def _pooling_call(where: str, package: str) -> Step:
    conv = importlib.import_module(package).SelectSemifield.tropical_max().dynamic()
    place = dict(stride=2, padding=1, groups=_CHANNELS)
    return _gradients(lambda img, krn: conv(img, krn, **place), where)


def _depthwise_call(where: str) -> Step:
    from torch.nn.functional import conv2d

    place: dict[str, Any] = dict(stride=2, padding=1, groups=_CHANNELS)
    return _gradients(lambda img, krn: conv2d(img, krn, **place), where)


def _lenet_step(where: str, batch: int, package: str | None) -> Step:
    """A step of LeNet-5 with a package's learned dilation pooling (None: torch's max-pooling)."""
    import torch
    from torch import nn

    def pooling(channels: int) -> nn.Module:
        if package is None:
            return nn.MaxPool2d(5, 2, 2)
        made = importlib.import_module(package)
        kernel = made.QuadraticKernelSpectral2D(1, channels, 5)
        conv = made.SelectSemifield.tropical_max().dynamic()
        module: nn.Module = made.GenericConv(kernel, conv, stride=2, padding=2, groups=channels)
        return module

    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), pooling(6), nn.ReLU()),
        *(nn.Conv2d(6, 16, 5), pooling(16), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    ).to(where)
    fused = dict(fused=True) if where == "cuda" else {}
    optimiser = torch.optim.Adam(network.parameters(), 1e-3, **fused)
    images = torch.rand(batch, 1, 28, 28, device=where)
    labels = torch.arange(batch, device=where) % 10

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(network(images), labels).backward()
        optimiser.step()

    return step
