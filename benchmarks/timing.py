"""Times of calls that take turns, so that other load on the machine slows all of them alike.

A turn is a few calls of one function. The first call of a turn finds the caches full of another
function's data and, on the CPU, its threads asleep; the later calls take the time of a call in a
loop over images. On the CPU a turn begins with a pause, in which the threads of the last function
stop spinning.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

Call = Callable[[], object]
Maker = Callable[[], Call | None]
SLOW = 1.0  # seconds: a call that takes longer is timed once
TURN = 0.02  # seconds of one turn, which has from one to ten calls
PAUSE = 0.015  # seconds; OpenMP's threads spin for about half of that


class Clock(Protocol):
    """A function that makes one call and returns the seconds it took."""

    def __call__(self, call: Call) -> float: ...


class Times(NamedTuple):
    """The best and the median time of one call, in seconds."""

    best: float
    median: float


def wall(call: Call) -> float:
    """The CPU's clock."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


_WAIT = """extern "C" __global__ void wait(long long cycles) {
  const long long begin = clock64();
  while (clock64() - begin < cycles) {}
}"""


class Events:
    """The GPU's clock: two events around as many calls as fill half a millisecond.

    A waiting kernel keeps the GPU busy until all calls are queued, so that the events measure the
    GPU's time alone. The rows on small calls have the time that Python takes.
    """

    def __init__(self) -> None:
        import cupy

        self._wait = cupy.RawKernel(_WAIT, "wait")
        self._begin, self._end = cupy.cuda.Event(), cupy.cuda.Event()
        self._elapsed: Callable[[Any, Any], float] = cupy.cuda.get_elapsed_time

    def __call__(self, call: Call) -> float:
        once = self._time(call, 1)
        return once if once > 5e-4 else self._time(call, min(50, int(5e-4 / max(once, 1e-6)) + 1))

    def _time(self, call: Call, repeats: int) -> float:
        self._wait((1,), (1,), (np.int64(8_000_000),))  # about 4 ms
        self._begin.record()
        for _ in range(repeats):
            call()
        self._end.record()
        self._end.synchronize()
        return 1e-3 * self._elapsed(self._begin, self._end) / repeats


def alternate(
    calls: Mapping[str, Call], clock: Clock, seconds: float, most: int = 200, pause: float = 0
) -> dict[str, Times]:
    """Time calls in turns, for about `seconds` each and in at least three rounds.

    Every call runs once before, to compile and to load. A slow call is then timed only once.
    """
    first = {name: clock(call) for name, call in calls.items()}
    found = {name: [clock(calls[name])] for name in calls}
    shortest = {name: min(first[name], *found[name]) for name in calls}
    quick = [name for name in calls if shortest[name] <= SLOW]
    until = time.perf_counter() + seconds * len(quick)
    rounds = 1
    while quick and (rounds < 3 or (time.perf_counter() < until and rounds < most)):
        for name in quick:
            time.sleep(pause)
            for _ in range(max(1, min(10, int(TURN / shortest[name])))):
                found[name].append(clock(calls[name]))
        rounds += 1
    return {name: Times(min(times), statistics.median(times)) for name, times in found.items()}


def in_turn(calls: list[Call]) -> Call:
    """One call that runs several calls in turn, so that their inputs exceed the cache."""
    if len(calls) == 1:
        return calls[0]
    state = {"next": 0}

    def run() -> object:
        state["next"] = (state["next"] + 1) % len(calls)
        return calls[state["next"]]()

    return run
