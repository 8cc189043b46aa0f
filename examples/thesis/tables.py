"""Tables of the records: accuracies with their spread, differences with a test, and times.

A difference is one of pairs: networks of one seed have equal initial values in all layers that both
have, and equal orders of the examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

HEADER = (
    *("network", "seeds", "accuracy in %", "spread", "95 % interval", "p"),
    *("best mean (epoch)", "learned", "ms an epoch and network"),
)
TRAINED = 0.5  # a network below this accuracy has not learned to tell ten classes apart


@dataclass
class Row:
    """All networks of one setting."""

    setting: str
    seeds: list[int] = field(default_factory=list)
    accuracy: list[np.ndarray] = field(default_factory=list)  # (epochs,) of each seed
    seconds: list[float] = field(default_factory=list)  # an epoch, of one network; where known
    at_once: list[int] = field(default_factory=list)

    @property
    def last(self) -> np.ndarray:
        """The accuracy of each network after its last epoch."""
        return np.array([curve[-1] for curve in self.accuracy])

    @property
    def trained(self) -> np.ndarray:
        return self.last > TRAINED

    @property
    def best_mean(self) -> tuple[float, int]:
        """The highest mean over the networks, and after which epoch: chosen by the test images."""
        curve = np.mean(self.accuracy, axis=0)
        return float(curve.max()), int(curve.argmax()) + 1


@dataclass(frozen=True)
class Difference:
    """The paired difference of two settings' mean accuracies."""

    mean: float
    low: float  # the 95 % interval
    high: float
    p: float  # of Student's paired test, two-sided
    pairs: int


def rows(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Row]]:
    """The rows of each experiment (data set and training), in the records' order.

    A record without "seconds" was made while the machine did other work, too: it tells no time.
    """
    found: dict[str, dict[str, Row]] = {}
    for record in records:
        if record["kind"] != "training":
            continue
        identity = record["identity"]
        title = (
            f"{identity['data']}, {identity['examples']} examples: {identity['epochs']} epochs, "
            f"batch {identity['batch']}, learning rate {identity['rate']}"
        )
        row = found.setdefault(title, {}).setdefault(record["setting"], Row(record["setting"]))
        count = len(identity["seeds"])
        times = record.get("seconds", [])
        for number, seed in enumerate(identity["seeds"]):
            row.seeds.append(seed)
            row.accuracy.append(np.array([epoch[number] for epoch in record["accuracy"]]))
            if times:  # the first one includes compilation and the capture of a CUDA graph
                row.seconds.append(float(np.median(times[1:] or times)) / count)
            row.at_once.append(count)
    return {title: list(settings.values()) for title, settings in found.items()}


def difference(row: Row, baseline: Row) -> Difference | None:
    """The difference over the seeds that both have; None with fewer than two pairs."""
    others = dict(zip(baseline.seeds, baseline.last, strict=True))
    pairs = [
        (own, others[seed]) for seed, own in zip(row.seeds, row.last, strict=True) if seed in others
    ]
    if len(pairs) < 2:
        return None
    differences = np.array([own - other for own, other in pairs])
    mean, error = differences.mean(), stats.sem(differences)
    if error == 0:
        return Difference(mean, mean, mean, float(mean == 0), len(pairs))
    reach = stats.t.ppf(0.975, len(pairs) - 1) * error
    p = 2 * stats.t.sf(abs(mean) / error, len(pairs) - 1)
    return Difference(float(mean), float(mean - reach), float(mean + reach), float(p), len(pairs))


def holm(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given."""
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def accuracy_table(settings: Sequence[Row], baseline: str) -> list[list[str]]:
    """A header and a row for each setting, as text."""
    by_name = {row.setting: row for row in settings}
    base = by_name.get(baseline)
    found = [None if base is None or row is base else difference(row, base) for row in settings]
    tested = [index for index, one in enumerate(found) if one is not None]
    adjusted = dict(zip(tested, holm([found[i].p for i in tested]), strict=True))
    lines = [
        [*HEADER[:4], f"minus {baseline}", *HEADER[4:]],
    ]
    for index, row in enumerate(settings):
        one, last = found[index], 100 * row.last
        best, epoch = row.best_mean
        spread = f"{last.std(ddof=1):.3f}" if len(last) > 1 else "-"
        shown = ["-", "-", "-"]
        if one is not None:
            interval = f"{100 * one.low:+.3f} to {100 * one.high:+.3f}"
            shown = [f"{100 * one.mean:+.3f}", interval, f"{adjusted[index]:.2g}"]
        lines.append(
            [
                row.setting,
                str(len(last)),
                f"{last.mean():.3f}",
                spread,
                *shown,
                f"{100 * best:.3f} ({epoch})",
                f"{row.trained.sum()} of {len(last)}",
                f"{1e3 * float(np.median(row.seconds)):.0f}" if row.seconds else "-",
            ]
        )
    return lines


def timing_table(records: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Seconds an epoch of one network, and the ratio to max-pooling by the same windows' size 3."""
    timings = [record for record in records if record["kind"] == "timing"]
    base = {
        record["mode"]: record.get("seconds_an_epoch")
        for record in timings
        if record["network"] == "max 3"
    }
    names = list(dict.fromkeys(record["network"] for record in timings))
    by_key = {(record["network"], record["mode"]): record for record in timings}
    lines = [["network", "eager, s an epoch", "of max 3", "CUDA graph, s an epoch", "of max 3"]]
    for name in names:
        line = [name]
        for mode in ("eager", "graph"):
            record = by_key.get((name, mode))
            seconds = record and record.get("seconds_an_epoch")
            if not seconds:
                line += [_why(record), "-"]
                continue
            ratio = f"{seconds / base[mode]:.2f}" if base.get(mode) else "-"
            line += [f"{seconds:.3f}", ratio]
        lines.append(line)
    return lines


def _why(record: Mapping[str, Any] | None) -> str:
    """Why there is no time: the word before a colon, where an error says more."""
    return "-" if record is None else str(record.get("problem", "-")).partition(":")[0]


def learned_table(records: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """What mu or p each layer has learned: after the first epoch, and after the last one.

    Of each network it is one number, the mean over a layer's channels where each of them has one.
    """
    means = ("mean after epoch 1", "after the last")
    lines = [["network", "layer", "seeds", *means, "spread", "range"]]
    for record in records:
        epochs = record.get("parameters") or [{}]
        for name, values in epochs[-1].items():
            first, last = np.array(epochs[0][name]), np.array(values)
            spread = f"{last.std(ddof=1):.2f}" if len(last) > 1 else "-"
            reach = f"{last.min():.2f} to {last.max():.2f}"
            numbers = [f"{first.mean():.2f}", f"{last.mean():.2f}", spread, reach]
            lines.append([record["setting"], name, str(len(last)), *numbers])
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The lines as a table, columns aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * max(3, width) for width in widths]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def report(records: Sequence[Mapping[str, Any]], baseline: str) -> str:
    """All tables of the records, as a text."""
    parts = []
    for title, settings in rows(records).items():
        machines = {r["machine"]["device"] for r in records if r["kind"] == "training"}
        parts.append(f"{title}; {', '.join(sorted(machines))}\n")
        parts.append(markdown(accuracy_table(settings, baseline)) + "\n")
    learned = learned_table(records)
    if len(learned) > 1:
        parts.append("Parameters that were learned, by the number of the layer\n")
        parts.append(markdown(learned) + "\n")
    if any(record["kind"] == "timing" for record in records):
        parts.append("One network, batch of the timing\n")
        parts.append(markdown(timing_table(records)) + "\n")
    return "\n".join(parts)
