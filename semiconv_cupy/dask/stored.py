"""From files to files in chunks: on threads, on processes of this machine, or on a cluster."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.callbacks import Callback

from semiconv_cupy.progress import Show, bar

MOST_CHUNK = 128 << 20
# A chunk with its surroundings, its result and scratch, twice: so many chunks a thread may hold.
_COPIES = 6


def cores() -> int:
    """The cores that this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1


def in_chunks(
    array: Any, cut: tuple[int | str, ...], itemsize: int, memory: int, stored: Any
) -> da.Array:
    """The array, lazily: `cut` has a size or "auto" for each axis; "auto" fits the memory."""
    limit = max(1 << 16, min(MOST_CHUNK, memory // (_COPIES * cores())))
    previous = stored if stored and len(stored) == len(array.shape) else None
    chunks = da.core.normalize_chunks(
        cut, array.shape, limit=limit, dtype=np.dtype(f"V{itemsize}"), previous_chunks=previous
    )
    return da.from_array(array, chunks=chunks, name=False, lock=False)


def evenly(result: da.Array, stored: Any) -> tuple[da.Array, tuple[int, ...]]:
    """The result in even chunks, and the chunks of a store of which each writer has whole ones."""
    even = result.rechunk(tuple(max(1, *axis) if axis else 1 for axis in result.chunks))
    size = even.chunksize
    if stored and len(stored) == len(size):
        fits = [
            max(1, inner) if outer % max(1, inner) == 0 or outer == length else outer
            for inner, outer, length in zip(stored, size, result.shape, strict=True)
        ]
        return even, tuple(fits)
    return even, tuple(max(1, length) for length in size)


@contextmanager
def scheduled(scheduler: str, memory: int) -> Iterator[Any]:
    """What runs the tasks: None for threads, else a client of the workers."""
    if scheduler == "threads":
        pool = ThreadPoolExecutor(cores())
        try:
            with dask.config.set(scheduler="threads", pool=pool):
                yield None
        finally:  # waits for the tasks that still run, so that none writes afterwards
            pool.shutdown(wait=True, cancel_futures=True)
        return
    from distributed import Client, LocalCluster

    from semiconv_cupy.dask.threads import ThreadsPerCall

    if scheduler != "processes":
        with Client(scheduler, timeout="10s") as client:
            yield client
        return
    arguments = dict(
        n_workers=cores(), threads_per_worker=1, memory_limit=memory // cores(),
        dashboard_address=":0",
    )  # fmt: skip
    with LocalCluster(**arguments) as cluster, Client(cluster) as client:
        client.register_plugin(ThreadsPerCall(1))
        yield client


def write(result: da.Array, target: Any, client: Any) -> None:
    """Compute the result and write each chunk where it belongs, with a bar of the chunks."""
    if isinstance(target, np.ndarray):
        target[...] = result.compute()
        return
    name = f"written-{uuid.uuid4().hex}"
    written = da.map_blocks(
        partial(_write_block, target), result, name=name, dtype=bool,
        meta=np.empty((0,) * result.ndim, bool),
        chunks=tuple((1,) * count for count in result.numblocks),
    )  # fmt: skip
    if client is None:
        with bar("writing", "chunks") as show, _Counted(name, result.npartitions, show):
            written.compute()
        return
    from distributed import KilledWorker, as_completed, futures_of

    futures = futures_of(client.persist(written))
    try:
        with bar("writing", "chunks") as show:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                show(done, len(futures))
    except KilledWorker as error:
        raise MemoryError(
            f"workers died of a chunk, most likely for lack of memory: {error}; choose smaller "
            "--chunks or more --memory"
        ) from None


def _write_block(target: Any, block: np.ndarray, block_info: Any = None) -> np.ndarray:
    place = tuple(slice(first, end) for first, end in block_info[0]["array-location"])
    target[place] = block
    return np.ones((1,) * block.ndim, bool)


class _Counted(Callback):
    """Moves the bar for each chunk that is written by threads."""

    def __init__(self, name: str, total: int, show: Show) -> None:
        super().__init__()
        self.name, self.done, self.total, self.show = name, 0, total, show

    def _posttask(self, key: Any, *_: Any) -> None:
        if isinstance(key, tuple) and key[0] == self.name:
            self.done += 1
            self.show(self.done, self.total)


def tasks(result: da.Array) -> int:
    """The tasks of the graph, before Dask joins some."""
    return len(dict(result.__dask_graph__()))


def stacked(parts: Iterable[Any], axis: int) -> da.Array:
    """The parts along a new axis."""
    return da.stack(list(parts), axis=axis)
