"""Settings of hypothesis, fixtures for the backends, and the marker `table`.

The table of cases is in `cases.py`, comparisons in `compare.py`, expected values in `oracle.py`.
"""

import hashlib
import os
from collections import defaultdict
from pathlib import Path

import cases
import pytest
from hypothesis import settings

# By default the examples are the same in every run; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("explore", deadline=None, max_examples=400, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# For our OpenMP and for torch's, which is loaded later. The workers of `pytest -n` share the cores,
# but tests of threads need two threads each; "passive" keeps waiting threads from spinning on cores
# that other workers could use.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(2, (os.cpu_count() or 1) // _workers)))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Tests compile what they test, also where `python -m kernels_cu build` has left libraries in the
# package; test_prebuilt.py and test_installed.py look at these.
os.environ.setdefault("SEMICONV_PREBUILT", "0")


def _parameters(backends):
    return [pytest.param(b, marks=pytest.mark.gpu if b == "cupy" else ()) for b in backends]


@pytest.fixture(params=_parameters(cases.BACKENDS))
def backend(request):
    """The name of a backend for `cases.run`; the test is skipped if its GPU is missing."""
    reason = cases.unavailable(request.param)
    if reason:
        pytest.skip(reason)
    return request.param


@pytest.fixture(params=_parameters((*cases.BACKENDS, *cases.LINEAR)))
def any_backend(request):
    """The name of a backend, or of one that computes log and root as ordinary sums."""
    reason = cases.unavailable(request.param)
    if reason:
        pytest.skip(reason)
    return request.param


def pytest_ignore_collect(collection_path):
    """Take tests from files of tests alone.

    To look for doctests, pytest would import the others, too: `scipy_names` replaces SciPy's
    functions by ours when it is imported, and `typed_program` is for mypy.
    """
    if collection_path.suffix == ".py" and not collection_path.name.startswith("test_"):
        return True
    return None  # what else is ignored, others decide


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark all but n cases of each test with `table(n)` as slow; a hash of the name chooses.

    Cases that are slow anyway do not count.
    """
    tables = defaultdict(list)
    for item in items:
        apart = item.get_closest_marker("gpu") or item.get_closest_marker("slow")
        if item.get_closest_marker("table") and not apart:
            tables[item.nodeid.partition("[")[0]].append(item)
    for rows in tables.values():
        (kept,) = rows[0].get_closest_marker("table").args
        rows.sort(key=lambda item: hashlib.sha256(item.nodeid.encode()).digest())
        for item in rows[kept:]:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def no_compiler(tmp_path):
    """The environment variables of a process that finds no C++ compiler, not ziglang's either."""
    hidden = tmp_path / "hidden" / "ziglang"  # a package of that name without a compiler
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").touch()
    paths = hidden.parent, Path(__file__).parent.parent
    return {"PATH": str(hidden), "PYTHONPATH": os.pathsep.join(map(str, paths))}
