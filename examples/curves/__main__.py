"""The commands `train`, `table` and `plot`: how networks of roots and logs learn.

    python -m examples.curves train --out digits.jsonl
    python -m examples.curves train --data mnist --folder FOLDER --epochs 3 --out mnist.jsonl
    python -m examples.curves table digits.jsonl mnist.jsonl
    python -m examples.curves plot digits.jsonl mnist.jsonl --out docs/curves.png

`train` adds a line of JSON for each p and mu, and leaves out those that are there.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples.curves.networks import lenet
from examples.thesis import data, records
from examples.thesis.train import machine
from semiconv_cupy import progress

Record = Mapping[str, Any]
VALUES = {"root": (0.5, 2.0, 3.0, 5.0, 10.0), "log": (-10.0, -2.0, -0.5, 0.5, 2.0, 10.0)}
LOSSES_AN_EPOCH = {8: 1, 28: 20}  # points of the curve, by the images' side
NAMES = {"root": "p", "log": "mu"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("train", help="train the networks of each p and mu")
    add.add_argument("--data", default="digits", help="digits, or a title of the files in --folder")
    add.add_argument("--folder", type=Path, help="of MNIST's four files")
    add.add_argument("--out", type=Path, required=True, metavar="FILE", help="lines of JSON")
    add.add_argument("--root", type=float, nargs="*", metavar="P", default=VALUES["root"])
    add.add_argument("--log", type=float, nargs="*", metavar="MU", default=VALUES["log"])
    add.add_argument("--seeds", type=int, default=3, metavar="N")
    add.add_argument("--epochs", type=int, default=40, metavar="N")
    add.add_argument("--batch", type=int, default=100, metavar="N")
    add.add_argument("--rate", type=float, default=0.03, metavar="X")
    add.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add.set_defaults(command=_train)
    add = commands.add_parser("table", help="print the accuracies at the end")
    add.add_argument("records", type=Path, nargs="+", metavar="FILE")
    add.set_defaults(command=_table)
    add = commands.add_parser("plot", help="draw losses and accuracies, the spread over the seeds")
    add.add_argument("records", type=Path, nargs="+", metavar="FILE")
    add.add_argument("--out", type=Path, required=True, metavar="PICTURE")
    add.set_defaults(command=_plot)
    options = parser.parse_args(arguments)
    options.command(options)


def _train(options: argparse.Namespace) -> None:
    found = digits() if options.data == "digits" else data.load(options.data, options.folder)
    found = found.to(torch.device(options.device))
    setting = {name: getattr(options, name) for name in ("epochs", "batch", "rate", "seeds")}
    every = [(family, value) for family in VALUES for value in getattr(options, family)]
    with progress.bar("training", "values") as show:
        for number, (family, value) in enumerate(every):
            show(number, len(every), f"{family} {NAMES[family]}={value:g}")
            identity = {"data": options.data, "family": family, "value": value, **setting}
            if any(record["identity"] == identity for record in records.read(options.out)):
                continue
            begin = time.perf_counter()
            curves = [learn(family, value, found, seed, setting) for seed in range(options.seeds)]
            seconds = round(time.perf_counter() - begin, 1)
            record = {
                "kind": "curves",
                "identity": identity,
                "loss": [curve[0] for curve in curves],
                "accuracy": [curve[1] for curve in curves],
                "seconds": seconds,
                "machine": machine(found.train.images.device),
            }
            records.append(options.out, record)
            progress.say(f"{_line(record)} {seconds} s")


def digits() -> data.Data:
    """scikit-learn's digits, 1200 for training and 597 for the test, drawn at random."""
    splits = data.load("digits", None)
    images, labels = (torch.cat(pair) for pair in zip(splits.train, splits.test, strict=True))
    # In scikit-learn's order: every fifth is in the other split.
    test = torch.arange(len(labels)) % 5 == 0
    at = torch.cat([torch.where(~test)[0], torch.where(test)[0]]).argsort()
    images, labels = images[at], labels[at]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = (data.Split(images[part], labels[part]) for part in (order[:1200], order[1200:]))
    return data.Data("digits", *parts)


def learn(
    family: str, value: float, found: data.Data, seed: int, setting: Mapping[str, Any]
) -> tuple[list[float | None], list[float]]:
    """The losses, several an epoch, and the accuracy after each epoch of one network."""
    torch.manual_seed(seed)
    images, labels = found.train
    side, count, device = images.shape[-1], len(images), images.device
    model = lenet(family, value, side).to(device)
    optimiser = torch.optim.Adam(model.parameters())
    steps = -(-count // setting["batch"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, setting["rate"], total_steps=steps * setting["epochs"]
    )
    losses: list[float | None] = []
    accuracies: list[float] = []
    for _ in range(setting["epochs"]):
        model.train()
        of_steps = torch.empty(steps, device=device)
        order = torch.randperm(count).to(device)
        for step, part in enumerate(order.split(setting["batch"])):
            loss = nn.functional.cross_entropy(model(images[part]), labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            of_steps[step] = loss.detach()
        parts = of_steps.tensor_split(min(steps, LOSSES_AN_EPOCH[side]))
        losses += [_short(part.mean().item()) for part in parts]
        accuracies.append(round(accuracy(model, found.test), 5))
    return losses, accuracies


def _short(loss: float) -> float | None:
    """A loss with the digits that a picture needs; JSON has no infinity."""
    return float(f"{loss:.4g}") if math.isfinite(loss) else None


@torch.no_grad()
def accuracy(model: nn.Module, split: data.Split) -> float:
    """The share of images whose label the model tells."""
    model.eval()
    right: list[Tensor] = [
        (model(images).argmax(1) == labels).sum()
        for images, labels in zip(*(part.split(1000) for part in split), strict=True)
    ]
    return sum(part.item() for part in right) / len(split.labels)


def _line(record: Record) -> str:
    """The accuracies at the end, a number for each seed, in percent."""
    family, value = record["identity"]["family"], record["identity"]["value"]
    last = ", ".join(f"{100 * curve[-1]:.1f}" for curve in record["accuracy"])
    return f"{record['identity']['data']}, {family}, {NAMES[family]} = {value:g}: {last}"


def _table(options: argparse.Namespace) -> None:
    for record in _read(options.records):
        print(_line(record))


def _read(paths: Iterable[Path]) -> list[Record]:
    return [record for path in paths for record in records.of_kind("curves", path)]


def _plot(options: argparse.Namespace) -> None:
    import matplotlib.pyplot as plt  # installed where pictures are wanted

    found = _read(options.records)
    names = list(dict.fromkeys(record["identity"]["data"] for record in found))
    figure, axes = plt.subplots(
        2, 2 * len(names), figsize=(5 * len(names), 5), squeeze=False, layout="constrained"
    )
    for column, name in enumerate(names):
        for row, family in enumerate(VALUES):
            chosen = [
                record
                for record in found
                if (record["identity"]["data"], record["identity"]["family"]) == (name, family)
            ]
            chosen.sort(key=lambda record: record["identity"]["value"])
            _draw(axes[row, 2 * column], chosen, "loss")
            _draw(axes[row, 2 * column + 1], chosen, "accuracy")
            axes[row, 2 * column].set_title(f"{name}, {family}", fontsize="medium")
    figure.savefig(options.out, dpi=110)
    plt.close(figure)


def _draw(axes: Any, found: Iterable[Record], what: str) -> None:
    """For each value a line, the mean over the seeds, in a band from the least to the largest."""
    for record in found:
        identity = record["identity"]
        curves = np.array(record[what], float)
        if what == "accuracy":
            curves = 100 * curves
        at = np.arange(1, curves.shape[1] + 1) * identity["epochs"] / curves.shape[1]
        label = f"{NAMES[identity['family']]} = {identity['value']:g}"
        marker = "." if curves.shape[1] < 5 else None
        (line,) = axes.plot(at, curves.mean(0), label=label, lw=1, marker=marker)
        axes.fill_between(at, curves.min(0), curves.max(0), color=line.get_color(), alpha=0.2, lw=0)
        axes.set_xlim(0, 1.03 * identity["epochs"])
    axes.set_xlabel("epoch", fontsize="small")
    axes.tick_params(labelsize="small")
    if what == "loss":
        axes.set(yscale="log", ylabel="training loss")
        axes.legend(fontsize="x-small")
    else:
        axes.set(ylim=(90, 100), ylabel="test accuracy in percent")


if __name__ == "__main__":
    main()
