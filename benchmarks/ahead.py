"""Kernels compiled before a run, by several processes, so that no compiler works between timings.

A compiled kernel is in the cache on disk from then on (CuPy's, or that of the libraries of the
CPU), and the process that measures finds it there.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed

from benchmarks import peers
from benchmarks.works import OURS, AnyWork, Device
from semiconv_cupy.progress import bar


def compile_ahead(selected: Iterable[AnyWork], device: Device, jobs: int) -> None:
    """Make our call of each work once, by `jobs` processes. Errors are left to the measuring."""
    # The repr of works that differ only in what fills a long array is one: so are their kernels.
    distinct = {repr(measured): measured for measured in selected}
    # A forked process could not use the GPU.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn) as pool, bar("compiling", "works") as show:
        made = [pool.submit(_run_once, measured, device) for measured in distinct.values()]
        try:
            for number, _ in enumerate(as_completed(made), 1):
                show(number, len(made))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_once(measured: AnyWork, device: Device) -> None:
    call = peers.calls(measured, device, 0, list(peers.absent_peers(device)))[OURS]()
    if call is not None:
        call()
