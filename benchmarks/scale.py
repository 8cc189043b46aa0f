"""Volumes in chunks on worker processes: rates, memory, bytes that move, tasks.

    python -m benchmarks scale [--edge 512] [--chunk 128] [--folder FOLDER] [--json FILE]

A volume of uint8 is written as Zarr, uncompressed, and opened by boxes from Zarr to Zarr: in this
process by one call in memory with all threads, by Dask's threads, on one worker, on two. Each
worker has one thread and 1 GiB. Beside other programs processor time is what can be compared:
"work kept" is that of the call in memory over that of the workers' tasks; the workers' event
loops, which take a few per cent of the time that passes, are apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from semiconv_cupy import ndimage
from semiconv_cupy.dask.halo import Halo, Reach

SIZE = 9  # of the box


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, and keep the numbers where --json says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--memory", action="store_true", help="only two workers, once")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="scale", dir=options.folder))
    try:
        found = measure(folder, options.edge, options.chunk, options.memory)
    finally:
        shutil.rmtree(folder)
    for name, value in found.items():
        print(f"{name:46} {value:,.4g}" if isinstance(value, float) else f"{name:46} {value}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def measure(folder: Path, edge: int, chunk: int, memory: bool) -> dict[str, Any]:
    """Every figure of one volume."""
    import dask.array as da

    source = folder / "in.zarr"
    _write(source, edge, chunk)
    elements = edge**3
    found: dict[str, Any] = {"edge": edge, "chunk": chunk, "gigabytes": elements / 1e9}
    times = 2 if elements < 5e8 else 1
    if memory:
        return found | _on_workers(source, folder, 2, elements, 1)
    ndimage.grey_opening(np.zeros((64, 64, 64), np.uint8), SIZE)
    seconds, alone = _cost(lambda: _in_memory(source, folder / "memory.zarr"), times)
    rate = elements / 1e6 / seconds
    found["in memory, MB/s"] = rate
    found["in memory, processor s a GB"] = alone / elements * 1e9
    later = ndimage.grey_opening(da.from_zarr(source), SIZE)
    moves = Halo.of(later.chunks, [(Reach(SIZE // 2, SIZE // 2, "reflect"),) * 3] * 2)
    found["all slabs, MB"] = moves.elements_moved(later.chunks) / 1e6
    found["slabs at the border of two halves, MB"] = 4 * (SIZE // 2) * edge**2 / 1e6
    tasks = len(dict(later.__dask_graph__())) - later.npartitions
    found["tasks a chunk, without reading"] = tasks / later.npartitions
    with_threads, used = _cost(lambda: _from_zarr_to_zarr(source, folder / "threads.zarr"), times)
    found["Dask's threads, processor s a GB"] = used / elements * 1e9
    found["Dask's threads, MB/s"] = elements / 1e6 / with_threads
    for workers in (1, 2):
        found |= _on_workers(source, folder, workers, elements, times)
        kept = alone / elements * 1e9 / found[f"{workers} workers, tasks' processor s a GB"]
        found[f"{workers} workers, rate kept"] = found[f"{workers} workers, MB/s"] / rate
        found[f"{workers} workers, work kept"] = kept
    return found


def _write(path: Path, edge: int, chunk: int) -> None:
    import zarr

    array = zarr.create_array(
        path, shape=(edge,) * 3, chunks=(chunk,) * 3, dtype=np.uint8, compressors=None
    )
    rng = np.random.default_rng(0)
    for start in range(0, edge, chunk):
        slab = rng.integers(0, 256, (min(chunk, edge - start), edge, edge), np.uint8)
        array[start : start + chunk] = slab


def _in_memory(source: Path, target: Path) -> None:
    """Read, one call with all threads, written: what the workers are compared with."""
    import zarr

    given = zarr.open_array(source, mode="r")
    result = ndimage.grey_opening(given[:], SIZE)
    _created(target, result.shape, given.chunks, result.dtype)[:] = result


def _from_zarr_to_zarr(source: Path, target: Path) -> None:
    import dask.array as da

    result = ndimage.grey_opening(da.from_zarr(source), SIZE)
    store = _created(target, result.shape, result.chunksize, result.dtype)
    result.store(store, lock=False)  # to_zarr would join chunks up to 128 MiB first


def _created(target: Path, shape: Any, chunks: Any, dtype: Any) -> Any:
    """A store on disk; Zarr's test for empty chunks would take longer than the opening."""
    import zarr

    shutil.rmtree(target, ignore_errors=True)
    return zarr.create_array(
        target, shape=shape, chunks=chunks, dtype=dtype, compressors=None,
        config={"write_empty_chunks": True},
    )  # fmt: skip


def _cost(call: Callable[[], Any], times: int) -> tuple[float, float]:
    """The least seconds of a call, and the least processor seconds of this process for it."""
    found = []
    for _ in range(times):
        start, used = time.perf_counter(), time.process_time()
        call()
        found.append((time.perf_counter() - start, time.process_time() - used))
    return min(seconds for seconds, _ in found), min(used for _, used in found)


def _on_workers(
    source: Path, folder: Path, workers: int, elements: int, times: int
) -> dict[str, Any]:
    """The rate on so many worker processes; their peak memory, and what moved between them."""
    import distributed

    cluster = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, memory_limit="1 GiB", dashboard_address=None,
        silence_logs=50,
    )  # fmt: skip
    with cluster, distributed.Client(cluster) as client:
        client.run(_warm)
        before, looped = _used(client)
        seconds, served = _cost(lambda: _from_zarr_to_zarr(source, folder / "workers.zarr"), times)
        used, loops = (
            after - start for after, start in zip(_used(client), (before, looped), strict=True)
        )
        peaks = client.run(_peak).values()
        moved = sum(client.run(_received).values()) / times
    return {
        f"{workers} workers, MB/s": elements / 1e6 / seconds,
        f"{workers} workers, peak MB of one": max(peaks) / 1e6,
        f"{workers} workers, tasks' processor s a GB": (used - loops) / times / elements * 1e9,
        f"{workers} workers, loops' processor s a GB": loops / times / elements * 1e9,
        f"{workers} workers, scheduler's processor s a GB": served / elements * 1e9,
        f"{workers} workers, MB moved": moved / 1e6,
    }


def _used(client: Any) -> tuple[float, float]:
    """Processor seconds of all workers, and those of their event loops alone."""
    return sum(client.run(time.process_time).values()), sum(client.run(time.thread_time).values())


def _warm() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    ndimage.grey_opening(np.zeros((32, 32, 32), np.uint8), SIZE)


def _peak() -> int:
    # Not getrusage: a process that is started has the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _received(dask_worker: Any) -> int:
    return sum(int(entry["total"]) for entry in dask_worker.transfer_incoming_log)
