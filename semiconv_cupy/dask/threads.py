"""How many threads each call uses on a worker of Dask's."""

from __future__ import annotations

import os
from typing import Any

from distributed import WorkerPlugin

from semiconv_cupy.backends.host.functions import use_threads


class ThreadsPerCall(WorkerPlugin):
    """A worker plugin that says how many threads each call on a worker uses.

    A worker runs ``nthreads`` tasks at once, and each call of this library uses `threads` threads,
    so that a worker keeps ``nthreads * threads`` cores busy. Without this plugin,
    ``OMP_NUM_THREADS`` says it, which Dask sets to 1 for the workers that it starts unless the
    environment has it.

    Parameters
    ----------
    threads : int, optional
        By default the cores that the worker may use, divided by its number of threads: right for
        one worker a machine.

    Examples
    --------
    ::

        client = distributed.Client(n_workers=1, threads_per_worker=1)
        client.register_plugin(ThreadsPerCall(8))
    """

    name = "semiconv_cupy.ThreadsPerCall"

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads!r}")
        self.threads = threads

    def setup(self, worker: Any) -> None:
        """Called by Dask on each worker, those that join later included."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        use_threads(self.threads or max(1, (cores or 1) // worker.state.nthreads))
