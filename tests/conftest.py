"""What all tests share: hypothesis' settings, and the backend as an argument.

The table of cases is in `cases.py`, comparisons in `compare.py`, expected values in `oracle.py`.
"""

import hashlib
import os
from collections import defaultdict

import cases
import pytest
from hypothesis import settings

# The same examples in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("explore", deadline=None, max_examples=400, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Ours, and torch's OpenMP, which is loaded later. The workers of `pytest -n` share the cores, and
# tests of threads need two: threads that wait for work by spinning would take the cores from those
# that have some.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(2, (os.cpu_count() or 1) // _workers)))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _parameters(backends):
    return [pytest.param(b, marks=pytest.mark.gpu if b == "cupy" else ()) for b in backends]


@pytest.fixture(params=_parameters(cases.BACKENDS))
def backend(request):
    """The name of a backend, for `cases.run`; a GPU that is not there skips, with the reason."""
    reason = cases.unavailable(request.param)
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.fixture(params=_parameters((*cases.BACKENDS, *cases.LINEAR)))
def any_backend(request):
    """The same, and by ordinary sums: for tests of log and root."""
    reason = cases.unavailable(request.param)
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test marked `table(n)` all cases but n, drawn by their names, become slow ones."""
    tables = defaultdict(list)
    for item in items:
        if item.get_closest_marker("table") and not item.get_closest_marker("gpu"):
            tables[item.nodeid.partition("[")[0]].append(item)
    for rows in tables.values():
        (kept,) = rows[0].get_closest_marker("table").args
        rows.sort(key=lambda item: hashlib.sha256(item.nodeid.encode()).digest())
        for item in rows[kept:]:
            item.add_marker(pytest.mark.slow)
