"""Results as lines of JSON, and checkpoints: files that survive a kill at any moment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch


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


def save(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint under another name, then rename it: the old one or the new one exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(state | {"identity": json.dumps(identity, sort_keys=True)}, temporary)
    os.replace(temporary, path)


def load(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint of the run of that identity, or None where there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if state["identity"] == json.dumps(identity, sort_keys=True) else None
