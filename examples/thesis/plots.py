"""Figures of the records: accuracies of all seeds, curves of learning, and learned kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from examples.thesis.tables import Row, rows


def accuracies(settings: Sequence[Row], axes: Axes, low: float | None = None) -> None:
    """A point for each network, and the mean with its 95 % interval.

    The axis begins with `low`, in percent. Of networks below it, a number at the edge is the mean.
    """
    for height, row in enumerate(settings):
        last = 100 * row.last
        if low is not None and last.mean() < low:
            axes.text(low, height, f" \u25c2 {last.mean():.1f}", va="center", fontsize="small")
            continue
        axes.plot(last, np.full(len(last), height), "o", color="C0", alpha=0.3, ms=4)
        if len(last) > 1:
            reach = stats.t.ppf(0.975, len(last) - 1) * stats.sem(last)
            axes.errorbar(last.mean(), height, xerr=reach, fmt="|k", ms=12, capsize=3)
    axes.set_yticks(range(len(settings)), [row.setting for row in settings])
    axes.set_ylim(len(settings) - 0.5, -0.5)
    axes.set_xlim(left=low)
    axes.set_xlabel("test accuracy in percent; | mean and its 95 % interval")


def curves(settings: Sequence[Row], axes: Axes) -> None:
    """The mean accuracy of each setting after each epoch."""
    for row in settings:
        mean = 100 * np.mean(row.accuracy, axis=0)
        axes.plot(np.arange(1, len(mean) + 1), mean, label=row.setting)
    axes.set(xlabel="epoch", ylabel="mean test accuracy in percent")
    axes.legend(fontsize="small")


def parameters(records: Sequence[Mapping[str, Any]], axes: Axes) -> None:
    """mu or p of each layer that learned one, from epoch to epoch: the mean over the networks."""
    for number, record in enumerate(records):
        epochs = record["parameters"]
        for name, style in zip(epochs[0], ("-", "--"), strict=False):
            means = [np.mean(epoch[name]) for epoch in epochs]
            label = f"{record['setting']}, layer {name}"
            axes.plot(np.arange(1, len(means) + 1), means, style, color=f"C{number}", label=label)
    axes.set(xlabel="epoch", ylabel="mean of mu or p", yscale="log")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def kernels(record: Mapping[str, Any], layer: str, at_most: int = 6) -> Figure | None:
    """The kernels that the first network learned in that layer; None where it learned none."""
    planes = record["learned"][0]["layers"].get(layer)
    if not planes:
        return None
    shown = np.array(planes[:at_most], dtype=float)
    figure, axes = plt.subplots(
        1, len(shown), figsize=(1.3 * len(shown), 1.7), squeeze=False, layout="constrained"
    )
    low, high = shown.min(), max(shown.max(), 0.0)
    if record["identity"]["convolution"]["kind"] == "linear":
        # Below -1, a pixel must be brighter by more than 1 to win against the one in the middle.
        low = max(low, -1.0)
    for axis, plane in zip(axes[0], shown, strict=True):
        image = axis.imshow(plane, vmin=low, vmax=high, cmap="viridis")
        axis.set_axis_off()
    figure.colorbar(image, ax=axes[0].tolist(), shrink=0.7)
    figure.suptitle(record["setting"], fontsize="medium")
    return figure


def write(records: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """All figures as PNG files in `folder`; returns their paths.

    Of each experiment the accuracies, their curves and the parameters that were learned; of each
    network the kernels of the first layer that has some.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []

    def save(name: str, figure: Figure) -> None:
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)

    trained = [record for record in records if record["kind"] == "training"]
    for number, (title, settings) in enumerate(rows(trained).items()):
        for name, draw, size in (
            ("accuracies", accuracies, (8.0, 1.2 + 0.3 * len(settings))),
            ("curves", curves, (8.0, 5.0)),
        ):
            figure, axes = plt.subplots(figsize=size, layout="constrained")
            draw(settings, axes)
            axes.set_title(title, fontsize="medium")
            save(f"{name}_{number}", figure)
    learned = [record for record in trained if record.get("parameters", [{}])[0]]
    if learned:
        figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
        parameters(learned, axes)
        save("parameters", figure)
    for record in trained:
        layer = next(iter(record["learned"][0]["layers"]), "")
        drawn = kernels(record, layer)
        if drawn is not None:
            name = "_".join(record["setting"].replace(",", "").split())
            save(f"kernels_{name}_layer_{layer}", drawn)
    return paths
