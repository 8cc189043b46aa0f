"""What a configuration file says: the data, the training, and the networks to compare.

A run's options may be lists: every combination is a run of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """How each network learns; `at_once` of the `seeds` networks share a step."""

    epochs: int
    batch: int
    rate: float
    seeds: int
    at_once: int

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "seeds", "at_once"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"training.{name} must be an int >= 1, got {value!r}")
        if not self.rate > 0:
            raise ValueError(f"training.rate must be > 0, got {self.rate!r}")

    def groups(self, done: Collection[int] = ()) -> Iterator[list[int]]:
        """The seeds that are not done, in groups of at most `at_once`."""
        left = [seed for seed in range(self.seeds) if seed not in done]
        for begin in range(0, len(left), self.at_once):
            yield left[begin : begin + self.at_once]


@dataclass(frozen=True)
class Setting:
    """One network: the options of its pooling and of its convolutions."""

    pooling: Options
    convolution: Options = field(default_factory=lambda: {"kind": "linear"})

    @property
    def name(self) -> str:
        """A text that differs for different settings, as `spectral 7` or `log 1.0, max 3`."""
        named = [] if self.convolution == {"kind": "linear"} else [_text(self.convolution)]
        return ", ".join([*named, _text(self.pooling)])


def _text(options: Options) -> str:
    """The values that say what it is first; then texts as they are, and the rest with their names.

    >>> _text({"kind": "log", "mu": 2.0, "sum": "unit", "learn": True, "spread": 1.0})
    'log 2.0 unit learn spread=1.0'
    """
    known = ("kind", "size", "mu", "p", "sum", "norm", "learn")
    names = [name for name in known if name in options]
    others = sorted(set(options) - set(known))
    return " ".join(_entry(name, options[name]) for name in [*names, *others])


def _entry(name: str, value: Any) -> str:
    if isinstance(value, str) or name in ("size", "mu", "p"):
        return str(value)
    return name if value is True else f"{name}={json.dumps(value)}"


@dataclass(frozen=True)
class Experiment:
    data: str
    training: Training
    settings: tuple[Setting, ...]
    baseline: str  # the name of the setting with which all others are compared

    def only(self, text: str) -> Experiment:
        """The same with those settings whose names contain `text`; ValueError if there are none."""
        found = tuple(setting for setting in self.settings if text in setting.name)
        if not found:
            names = ", ".join(repr(setting.name) for setting in self.settings)
            raise ValueError(f"no network has {text!r} in its name; they are {names}")
        return dataclasses.replace(self, settings=found)


def read(path: Path, **changes: Any) -> Experiment:
    """The experiment of a TOML file; `changes` take the place of entries of its [training].

    Raises
    ------
    ValueError
        Entries that are missing, unknown or wrong, by name.
    """
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    missing = {"data", "training", "run"} - set(found)
    unknown = set(found) - {"data", "training", "run", "baseline"}
    if missing or unknown:
        raise ValueError(f"{path}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    training = found["training"] | {k: v for k, v in changes.items() if v is not None}
    names = set(Training.__dataclass_fields__)
    if set(training) != names:
        raise ValueError(f"{path}: [training] must have {sorted(names)}, got {sorted(training)}")
    settings = _settings(found["run"])
    baseline = found.get("baseline", settings[0].name)
    if baseline not in {setting.name for setting in settings}:
        raise ValueError(f"{path}: no run is called {baseline!r}, the baseline")
    return Experiment(found["data"], Training(**training), settings, baseline)


def _settings(runs: list[dict[str, Options]]) -> tuple[Setting, ...]:
    settings = {}
    for run in runs:
        for setting in _combinations(run):
            settings[setting.name] = setting
    return tuple(settings.values())


def _combinations(run: dict[str, Options]) -> Iterator[Setting]:
    layers = [_choices(options) for options in run.values()]
    for chosen in itertools.product(*layers):
        yield Setting(**dict(zip(run, chosen, strict=True)))


def _choices(options: Options) -> list[dict[str, Any]]:
    """All combinations of the options that are lists."""
    lists = [value if isinstance(value, list) else [value] for value in options.values()]
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*lists)]
