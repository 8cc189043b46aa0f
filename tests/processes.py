"""What runs on this machine: for tests of processes that are killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_ENDED = "Z", "X"  # states of /proc: nothing runs, but nobody has asked for the exit status yet


def wait_for(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _state_and_group(process: int) -> tuple[str, int]:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    state, _parent, group = text.rpartition(")")[2].split()[:3]  # a name may contain brackets
    return state, int(group)


def is_alive(process: int) -> bool:
    """Whether the process runs; an orphan that nobody waits for stays in the table, ended."""
    return _state_and_group(process)[0] not in _ENDED


def group_is_alive(group: int) -> bool:
    """Whether a process of the group runs."""
    found = (_state_and_group(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return any(of == group and state not in _ENDED for state, of in found)
