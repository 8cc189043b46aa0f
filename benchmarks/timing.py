"""Times of calls that take turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable


def best_times(*calls: Callable[[], object], seconds: float = 1.0, most: int = 200) -> list[float]:
    """The best time of each call in seconds; at least three rounds, then as many as fit."""
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    until = time.perf_counter() + seconds
    while len(times[0]) < 3 or (time.perf_counter() < until and len(times[0]) < most):
        for call, found in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            found.append(time.perf_counter() - begin)
    return [min(found) for found in times]
