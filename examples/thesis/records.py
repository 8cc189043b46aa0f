"""Results as lines of JSON, and checkpoints: files that survive a kill at any moment.

Records are read and written without PyTorch, which takes seconds to import.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, without a last line that was cut off; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record, in the place of a last line that was cut off."""
    text = json.dumps(record, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def of_kind(kind: str, path: Path) -> list[dict[str, Any]]:
    return [record for record in read(path) if record["kind"] == kind]


PLANES_TO_KEEP = 6


def reduced(record: dict[str, Any]) -> dict[str, Any]:
    """What tables and figures need of a record: no optimiser's details, the kernels of one network.

    Losses become their mean over the networks, and kernels have fewer digits.
    """
    if record["kind"] != "training" or "loss" not in record:
        return record  # that of a time; or reduced before
    unwanted = ("graph", "test_seconds", "loss", "learned")
    small = {name: value for name, value in record.items() if name not in unwanted}
    losses = [[value for value in epoch if value is not None] for epoch in record["loss"]]
    small["mean_loss"] = [_short(sum(epoch) / len(epoch)) if epoch else None for epoch in losses]
    small["learned"] = [_kept(network) for network in record["learned"][:1]]
    return small


def _kept(network: dict[str, Any]) -> dict[str, Any]:
    layers = {
        name: _short(values[:PLANES_TO_KEEP] if isinstance(values, list) else values)
        for name, values in network["layers"].items()
    }
    return network | {"layers": layers}


def _short(values: Any) -> Any:
    if isinstance(values, list):
        return [_short(value) for value in values]
    return None if values is None else float(f"{values:.3g}")


def save(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint under another name, then rename it: the old one or the new one exists."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(state | {"identity": json.dumps(identity, sort_keys=True)}, temporary)
    os.replace(temporary, path)


def load(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint of the run of that identity, or None where there is none."""
    import torch

    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if state["identity"] == json.dumps(identity, sort_keys=True) else None
