"""Processes of dask.distributed, Zarr on disk, a worker that dies, one without memory, threads."""

import os
import signal
import time

import numpy as np
import pytest

da = pytest.importorskip("dask.array", reason="Dask is not installed: pip install '.[dask]'")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")
zarr = pytest.importorskip("zarr", minversion="3", reason="Zarr 3 is not installed")

import dask  # noqa: E402

from semiconv_cupy import ndimage  # noqa: E402
from semiconv_cupy.dask import ThreadsPerCall  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """Two workers of one thread each."""
    arguments = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 5}),
        distributed.LocalCluster(**arguments, silence_logs=50) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def volume(tmp_path):
    """A Zarr array of uint8 on disk, and its numbers."""
    numbers = np.random.default_rng(0).integers(0, 256, (60, 70, 80), np.uint8)
    store = zarr.create_array(tmp_path / "in.zarr", data=numbers, chunks=(20, 35, 40))
    return store, numbers


def slow(block):
    time.sleep(0.2)
    return block


@pytest.mark.slow
def test_zarr_to_zarr_on_processes(cluster, volume, tmp_path):
    store, numbers = volume
    later = ndimage.grey_opening(da.from_zarr(store), size=(5, 4, 3), mode="wrap")
    later.to_zarr(str(tmp_path / "out.zarr"))
    found = zarr.open_array(tmp_path / "out.zarr", mode="r")
    assert found.chunks == store.chunks
    np.testing.assert_array_equal(found[:], ndimage.grey_opening(numbers, (5, 4, 3), mode="wrap"))
    holes = ndimage.binary_fill_holes(da.from_zarr(store) > 60)
    np.testing.assert_array_equal(holes, ndimage.binary_fill_holes(numbers > 60))


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_only_time(cluster, volume):
    store, numbers = volume
    image = da.from_zarr(store).map_blocks(slow, dtype=np.uint8)
    future = cluster.compute(ndimage.white_tophat(image, 5))
    time.sleep(0.5)
    first = next(iter(cluster.scheduler_info()["workers"]))
    os.kill(cluster.run(os.getpid, workers=[first])[first], signal.SIGKILL)
    np.testing.assert_array_equal(future.result(timeout=60), ndimage.white_tophat(numbers, 5))


@pytest.mark.slow
def test_a_worker_without_memory_is_a_clear_error_and_loses_nothing(volume, tmp_path):
    store, numbers = volume
    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.memory.terminate": 0.9,
        "distributed.worker.memory.monitor-interval": "20ms",
    }
    arguments = dict(n_workers=1, threads_per_worker=1, memory_limit="400 MB", processes=True)
    with (
        dask.config.set(settings),
        distributed.LocalCluster(**arguments, dashboard_address=None, silence_logs=50) as cluster,
        distributed.Client(cluster),
    ):
        image = da.from_zarr(store)
        killed = (distributed.scheduler.KilledWorker, MemoryError)
        with pytest.raises(killed, match=r"died|allocate"):
            ndimage.grey_erosion(image.map_blocks(take_and_hold, dtype=np.uint8), 3).compute()
        result = ndimage.grey_erosion(image, 3).compute()
    np.testing.assert_array_equal(result, ndimage.grey_erosion(numbers, 3))
    np.testing.assert_array_equal(store[:], numbers)


def take_and_hold(block):
    held = np.ones(2**30, np.uint8)
    time.sleep(1)
    return block + held[:1]


def threads_of_a_call():
    from semiconv_cupy.backends.host.functions import threads

    return threads()


@pytest.mark.slow
def test_the_threads_of_each_call_are_what_the_plugin_says(cluster):
    cluster.register_plugin(ThreadsPerCall(2))
    assert set(cluster.run(threads_of_a_call).values()) == {2}
    cluster.register_plugin(ThreadsPerCall(), name="the worker's share")
    share = max(1, len(os.sched_getaffinity(0)))
    assert set(cluster.run(threads_of_a_call).values()) == {share}
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        ThreadsPerCall(0)
