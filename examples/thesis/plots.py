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


def accuracies(settings: Sequence[Row], axes: Axes) -> None:
    """A point for each network, and the mean with its 95 % interval."""
    for height, row in enumerate(settings):
        last = 100 * row.last
        axes.plot(last, np.full(len(last), height), "o", color="C0", alpha=0.3, ms=4)
        if len(last) > 1:
            reach = stats.t.ppf(0.975, len(last) - 1) * stats.sem(last)
            axes.errorbar(last.mean(), height, xerr=reach, fmt="|k", ms=12, capsize=3)
    axes.set_yticks(range(len(settings)), [row.setting for row in settings])
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy in percent; | mean and its 95 % interval")


def curves(settings: Sequence[Row], axes: Axes) -> None:
    """The mean accuracy of each setting after each epoch."""
    for row in settings:
        mean = 100 * np.mean(row.accuracy, axis=0)
        axes.plot(np.arange(1, len(mean) + 1), mean, label=row.setting)
    axes.set(xlabel="epoch", ylabel="mean test accuracy in percent")
    axes.legend(fontsize="small")


def kernels(record: Mapping[str, Any], layer: str, at_most: int = 6) -> Figure | None:
    """The kernels that the first network learned in that layer; None where it learned none."""
    planes = record["learned"][0]["layers"].get(layer)
    if not isinstance(planes, list) or not isinstance(planes[0], list):
        return None
    shown = np.array(planes[:at_most], dtype=float)
    figure, axes = plt.subplots(
        1, len(shown), figsize=(1.3 * len(shown), 1.7), squeeze=False, layout="constrained"
    )
    # Below -1, a pixel must be brighter by more than 1 to win against the one in the middle.
    low, high = max(shown.min(), -1.0), max(shown.max(), 0.0)
    for axis, plane in zip(axes[0], shown, strict=True):
        image = axis.imshow(plane, vmin=low, vmax=high, cmap="viridis")
        axis.set_axis_off()
    figure.colorbar(image, ax=axes[0].tolist(), shrink=0.7)
    figure.suptitle(record["setting"], fontsize="medium")
    return figure


def write(records: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """All figures as PNG files in `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    for number, (title, settings) in enumerate(rows(records).items()):
        for kind, draw in (("accuracies", accuracies), ("curves", curves)):
            size = (8, 1.2 + 0.3 * len(settings)) if draw is accuracies else (8, 5)
            figure, axes = plt.subplots(figsize=size, layout="constrained")
            draw(settings, axes)
            axes.set_title(title, fontsize="medium")
            figures[f"{kind}_{number}"] = figure
    for record in records:
        layers = record["learned"][0]["layers"] if record["kind"] == "training" else {}
        for layer in layers:
            learned = kernels(record, layer)
            if learned is not None:
                name = "_".join(record["setting"].replace('"', "").split())
                figures[f"kernels_{name}_layer_{layer}"] = learned
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)
    return paths
