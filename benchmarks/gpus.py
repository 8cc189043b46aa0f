"""Several GPUs of one machine: training with DDP, and volumes in chunks with one worker a GPU.

    python -m benchmarks gpus [--gpus 2] [--batch 4096] [--edge 2048] [--json FILE]
    python -m benchmarks gpus --cpu --batch 64 --edge 128        the same on processes of the CPU

Each work runs on one GPU and on all. The limit is the number of GPUs
(where only a part of the time is computing, less).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WINDOW = 7
SCALE = 10.0  # of the parabola, which then sees 159 elements of uint8


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, and keep the numbers where --json says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpus", description=__doc__)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--edge", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--only", choices=("training", "opening", "erosion"))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    if options.only in (None, "training"):
        found |= training(options)
    if options.only != "training":
        found |= chunks(options)
    for name, value in found.items():
        print(f"{name:44} {value:,.5g}" if isinstance(value, float) else f"{name:44} {value}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


# ---- training ------------------------------------------------------------------------------------


def training(options: argparse.Namespace) -> dict[str, Any]:
    """LeNet with dilation pooling: the time of a step, and whether the gradients agree."""
    import torch.multiprocessing as mp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    jobs = [
        context.Process(target=_train, args=(rank, options, port, queue))
        for rank in range(options.gpus)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    if any(job.exitcode for job in jobs):
        raise RuntimeError(f"exit codes {[job.exitcode for job in jobs]}")
    return dict(queue.get())


def _train(rank: int, options: argparse.Namespace, port: int, queue: Any) -> None:
    import torch
    import torch.distributed as distributed

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if options.cpu:
        torch.set_num_threads(1)
    device = torch.device("cpu") if options.cpu else torch.device("cuda", rank)
    if not options.cpu:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "gloo" if options.cpu else "nccl", rank=rank, world_size=options.gpus
    )
    try:
        found = _steps(rank, options, device)
    finally:
        distributed.destroy_process_group()
    if rank == 0:
        queue.put(list(found.items()))


def _network(device: Any) -> Any:
    import torch
    from torch import nn

    import torch_bridge

    torch.manual_seed(0)
    pool = dict(kernel_size=7, stride=2, padding=3)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), torch_bridge.DilationPool2d(channels=6, **pool), nn.ReLU(),
        nn.Conv2d(6, 16, 5), torch_bridge.DilationPool2d(channels=16, **pool), nn.ReLU(),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    ).to(device)  # fmt: skip


def _steps(rank: int, options: argparse.Namespace, device: Any) -> dict[str, Any]:
    import torch
    import torch.distributed as distributed
    from torch import nn

    torch.backends.cudnn.allow_tf32 = False  # its 1e-3 would hide differences
    gpus, batch = options.gpus, options.batch
    random = torch.Generator().manual_seed(1)
    images = torch.rand(gpus * batch, 1, 28, 28, generator=random).to(device)
    labels = torch.randint(0, 10, (gpus * batch,), generator=random).to(device)
    loss_of = nn.CrossEntropyLoss()

    def gradients(model: Any, part: slice) -> None:
        model.zero_grad()
        loss_of(model(images[part]), labels[part]).backward()

    alone, shared = _network(device), nn.parallel.DistributedDataParallel(_network(device))
    mine = slice(rank * batch, (rank + 1) * batch)
    share = slice(rank * (batch // gpus), (rank + 1) * (batch // gpus))
    found = {
        f"LeNet, batch {batch} on 1, us a step": _time(lambda: gradients(alone, mine), device),
        f"LeNet, batch {batch} on each of {gpus}": _time(lambda: gradients(shared, mine), device),
        f"LeNet, batch {batch} in {gpus} parts": _time(lambda: gradients(shared, share), device),
    }
    gradients(alone, slice(0, batch))
    gradients(shared, share)
    worst, same = 0.0, True
    for one, many in zip(alone.parameters(), shared.parameters(), strict=True):
        scale = one.grad.abs().max().clamp_min(1e-30)
        worst = max(worst, float((one.grad - many.grad).abs().max() / scale))
        copies = [torch.empty_like(many.grad) for _ in range(gpus)]
        distributed.all_gather(copies, many.grad)
        same &= all(torch.equal(copies[0], copy) for copy in copies)
    found["gradients of parts, largest difference"] = worst
    found["gradients of all ranks have the same bits"] = same
    return found


def _time(step: Callable[[], None], device: Any) -> float:
    """Microseconds of one of many steps, the least of three rounds."""
    import torch
    import torch.distributed as distributed

    rounds, times = (1, 2) if device.type == "cpu" else (3, 50)
    seconds = []
    for _ in range(rounds + 1):  # the first compiles
        distributed.barrier()
        if device.type != "cpu":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            step()
        if device.type != "cpu":
            torch.cuda.synchronize()
        distributed.barrier()
        seconds.append((time.perf_counter() - start) / times)
    return min(seconds[1:]) * 1e6


# ---- volumes in chunks ---------------------------------------------------------------------------


def chunks(options: argparse.Namespace) -> dict[str, Any]:
    """An opening and a parabolic erosion of a volume that is made on the workers' devices."""
    import semiconv_cupy as sc
    from semiconv_cupy import ndimage

    works = {
        f"opening {WINDOW}^3": lambda volume: ndimage.grey_opening(volume, size=WINDOW),
        "parabolic erosion": lambda volume: sc.parabolic_erosion(volume, SCALE),
    }
    if options.only:
        works = {name: work for name, work in works.items() if options.only in name}
    found: dict[str, Any] = {"gigabytes": options.edge**3 / 1e9}
    blocks: dict[str, list[Any]] = {}
    for gpus in sorted({1, options.gpus}):
        with _Workers(gpus, options.cpu) as workers:
            for name, work in works.items():
                seconds, moved, block = workers.run(work, options.edge, options.chunk)
                found[f"{name}, {gpus} workers, GB/s"] = options.edge**3 / 1e9 / seconds
                found[f"{name}, {gpus} workers, GB moved"] = moved / 1e9
                blocks.setdefault(name, []).append(block)
    for name, (first, *others) in blocks.items():
        found[f"{name}, sampled block is the same"] = all((first == o).all() for o in others)
    return found


class _Workers:
    """One process with one thread for each GPU, which sees that GPU alone."""

    def __init__(self, gpus: int, cpu: bool) -> None:
        import distributed

        self.cpu = cpu
        common = dict(cls=distributed.Nanny, options={"nthreads": 1})
        workers = {
            # A chunk on a GPU takes none of the memory that the limit is about.
            gpu: common
            | {
                "options": {"nthreads": 1}
                if cpu
                else {
                    "nthreads": 1,
                    "memory_limit": 0,
                    "env": {"CUDA_VISIBLE_DEVICES": str(gpu)},
                }
            }
            for gpu in range(gpus)
        }
        scheduler = {"cls": distributed.Scheduler, "options": {"dashboard": False}}
        self.cluster = distributed.SpecCluster(workers, scheduler, silence_logs=50)
        self.client = distributed.Client(self.cluster)

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.cluster.close()

    def run(
        self, work: Callable[[Any], Any], edge: int, chunk: int
    ) -> tuple[float, float, np.ndarray]:
        """The seconds of one run, the bytes that moved, and one block of the result."""

        volume = self._volume(edge, chunk)
        result = work(volume)
        corner = result[:chunk, :chunk, :chunk].map_blocks(_to_numpy, dtype=np.uint8)
        block = corner.compute()
        sums = result.map_blocks(_sum, dtype=np.float64, chunks=(1, 1, 1))
        sums.compute()  # every worker loads its kernels, and its pool of memory grows
        before = sum(self.client.run(_received).values())
        start = time.perf_counter()
        sums.compute()
        seconds = time.perf_counter() - start
        return seconds, sum(self.client.run(_received).values()) - before, block

    def _volume(self, edge: int, chunk: int) -> Any:
        """Random numbers that lie on the workers: each has one part of the first axis."""
        import dask
        import dask.array as da
        import distributed

        module = np if self.cpu else __import__("cupy")
        addresses = sorted(self.client.scheduler_info(n_workers=-1)["workers"])
        volume = da.map_blocks(
            _random, dtype=np.uint8, chunks=((chunk,) * (edge // chunk),) * 3, cpu=self.cpu,
            meta=module.empty((0, 0, 0), np.uint8),
        )  # fmt: skip
        ends = [chunk * (edge // chunk * k // len(addresses)) for k in range(len(addresses) + 1)]
        parts = []
        for start, stop, address in zip(ends, ends[1:], addresses, strict=False):
            with (
                dask.annotate(workers=[address]),
                dask.config.set({"optimization.fuse.active": False}),
            ):
                parts.append(volume[start:stop].persist(optimize_graph=False))
        distributed.wait(parts)
        return da.concatenate(parts)


def _random(block_info: Any = None, *, cpu: bool) -> Any:
    """A chunk of random numbers, which depend on its place alone."""
    module = np if cpu else __import__("cupy")
    place = block_info[None]
    shape, seed = place["chunk-shape"], place["chunk-location"]
    numbers = module.random.RandomState(sum(1000**axis * at for axis, at in enumerate(seed)))
    return numbers.randint(0, 256, shape, dtype=np.uint8)


def _to_numpy(block: Any) -> np.ndarray:
    return np.asarray(block.get() if hasattr(block, "get") else block)


def _sum(block: Any) -> np.ndarray:
    """A number of the chunk, which is then computed and need not be kept."""
    return np.full((1, 1, 1), float(block[::64, ::64, ::64].sum(dtype=np.float64)))


def _received(dask_worker: Any) -> int:
    return sum(int(entry["total"]) for entry in dask_worker.transfer_incoming_log)
