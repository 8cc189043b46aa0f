"""The cache of compiled libraries, and machines on which it or the compiler is missing.

Each test starts processes of its own, with a cache folder of its own where that matters.
"""

import concurrent.futures
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import oracle
import pytest
from compare import assert_matches

import semiconv_cupy as sc
from semiconv_cupy import run
from semiconv_cupy.geometry import Geometry

ROOT = Path(__file__).parent.parent
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on the PATH")

IMG = cases.numbers((1, 2, 9, 20), "f4", seed=1)
KRN = cases.numbers((2, 2, 3, 3), "f4", seed=2)
EXPECTED = oracle.convolve(IMG, KRN, oracle.TROPICAL_MAX, padding=1)

# Convolves once or more, and says what happened on the way.
PROBE = """
import json, sys, time, warnings
import numpy as np
import semiconv_cupy as sc
start = time.perf_counter()
img, krn = (np.load(name) for name in sys.argv[1:3])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    out = sc.semifield_conv(img, krn, "tropical_max", padding=1)
    seconds = time.perf_counter() - start
    for _ in range(2):
        out = sc.semifield_conv(img, krn, "tropical_max", padding=1)
refused = None
try:
    sc.semifield_conv(img, krn, "tropical_max", padding=1, method="direct")
except sc.BackendUnavailableError as error:
    refused = str(error)
print(json.dumps({
    "result": out.tolist(),
    "seconds": seconds,
    "warnings": [[type(w.message).__name__, str(w.message), w.filename] for w in caught],
    "refused": refused,
}))
"""


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    np.save(folder / "img.npy", IMG)
    np.save(folder / "krn.npy", KRN)
    return [str(folder / "img.npy"), str(folder / "krn.npy")]


def start(arguments, cache, **environment):
    """A process with its own cache folder; a variable that is None is taken away."""
    variables = {**os.environ, "SEMICONV_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    variables.pop("CXX", None)
    for name, value in environment.items():
        variables.pop(name, None)
        if value is not None:
            variables[name] = str(value)
    return subprocess.Popen(
        [sys.executable, "-c", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
    )


def finish(process):
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return json.loads(out)


def probe(arrays, cache, **environment):
    return finish(start([PROBE, *arrays], cache, **environment))


def assert_right(found):
    assert_matches(np.array(found["result"], "f4"), EXPECTED, dtype="float32")


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def quick_compiler(tmp_path_factory):
    """A compiler that does not optimise, where only what is compiled when matters."""
    return script(tmp_path_factory.mktemp("compiler") / "cxx", f'exec {COMPILER} "$@" -O0')


@pytest.fixture(scope="module")
def recording_compiler(tmp_path_factory):
    """A compiler that writes down what it is asked to do."""
    folder = tmp_path_factory.mktemp("compiler")
    log = folder / "log"
    return script(folder / "cxx", f'echo "$@" >> {log}\nexec {COMPILER} "$@"'), log


@pytest.fixture(scope="module")
def filled(arrays, recording_compiler, tmp_path_factory):
    """A cache folder that a first process has filled, and what that process found."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    return cache, probe(arrays, cache, CXX=recording_compiler[0])


# ---- the cache ---------------------------------------------------------------------------------


@pytest.mark.slow
@needs_compiler
def test_a_first_process_compiles_into_a_private_folder(filled):
    cache, found = filled
    assert_right(found)
    assert found["warnings"] == []
    assert found["refused"] is None
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    # The convolution, the walk over tiles and the pool of threads, and nothing half-made.
    assert [path.suffix for path in cache.iterdir()] == [".so"] * 3


@needs_compiler
def test_a_second_process_compiles_nothing_and_is_quick(filled, arrays, recording_compiler):
    cache, _ = filled
    compiler, log = recording_compiler
    before = log.read_text()
    assert "library.cpp" in before  # the log would show it
    found = [probe(arrays, cache, CXX=compiler) for _ in range(3)]
    assert "library.cpp" not in log.read_text().removeprefix(before)
    for each in found:
        assert_right(each)
    # The best of three: a busy machine must not fail what an idle one shows.
    assert min(each["seconds"] for each in found) < 1


@pytest.mark.slow
@needs_compiler
def test_two_processes_race_on_an_empty_cache(arrays, tmp_path, quick_compiler):
    cache = tmp_path / "cache"
    racing = [start([PROBE, *arrays], cache, CXX=quick_compiler) for _ in range(2)]
    for process in racing:
        found = finish(process)
        assert_right(found)
        assert found["warnings"] == []
    assert [path.suffix for path in cache.iterdir()] == [".so"] * 3


def a_file(path):
    path.write_text("")


def writable_by_everybody(path):
    path.mkdir()
    path.chmod(0o777)


def read_only(path):
    path.mkdir(mode=0o500)


UNUSABLE = {
    "a file": a_file,
    "writable by everybody": writable_by_everybody,
    "read-only": read_only,
}


@pytest.mark.table(1)
@needs_compiler
@pytest.mark.parametrize("what", [*UNUSABLE, "cannot be made"])
def test_an_unusable_folder_is_replaced_with_one_warning(what, arrays, tmp_path, quick_compiler):
    if what == "read-only" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    if what == "cannot be made" and not Path("/proc").is_dir():
        pytest.skip("no /proc, in which nobody can make folders")
    cache = Path("/proc/semiconv") if what == "cannot be made" else tmp_path / "cache"
    if what in UNUSABLE:
        UNUSABLE[what](cache)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    found = probe(arrays, cache, TMPDIR=temporary, CXX=quick_compiler)
    assert_right(found)
    (warning,) = found["warnings"]
    assert warning[0] == "BackendWarning"
    assert "SEMICONV_CACHE_DIR" in warning[1]
    assert str(temporary / "semiconv_cupy-") in warning[1]
    assert not list(temporary.iterdir())  # it went with the process


@needs_compiler
def test_a_folder_that_fills_up_is_replaced_with_one_warning(arrays, tmp_path):
    """As a compiler reports it, whose output does not fit."""
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    compiler = script(
        tmp_path / "cxx",
        f'case "$*" in *{cache}*) echo "fatal error: No space left on device" >&2; exit 1;; esac\n'
        f'exec {COMPILER} "$@" -O0',
    )
    found = probe(arrays, cache, CXX=compiler, TMPDIR=temporary)
    assert_right(found)
    (warning,) = found["warnings"]
    assert "no space left" in warning[1]
    assert str(temporary / "semiconv_cupy-") in warning[1]
    assert not list(temporary.iterdir())


# ---- the compiler ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["CXX names none", "none on the PATH"])
def test_without_a_compiler_the_reference_serves_with_one_warning(
    how, arrays, no_compiler, tmp_path
):
    if how == "CXX names none":
        environment, remedy = {"CXX": "/nonexistent/c++"}, "correct or unset CXX"
    else:
        environment, remedy = no_compiler, "semiconv-cupy[compiler]"
    found = probe(arrays, tmp_path / "cache", **environment)
    assert_right(found)
    (warning,) = found["warnings"]
    assert warning[0] == "BackendWarning"
    assert remedy in warning[1]
    assert "method='direct' cannot run here" in found["refused"]
    assert remedy in found["refused"]


@needs_compiler
def test_a_compile_error_shows_the_semifield_and_the_compilers_message(arrays, tmp_path):
    compiler = script(
        tmp_path / "cxx",
        f'case "$*" in *library.cpp*) echo "error: no such thing as a vector" >&2; exit 1;; esac\n'
        f'exec {COMPILER} "$@"',
    )
    process = start([PROBE, *arrays], tmp_path / "cache", CXX=compiler)
    _, error = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "CompileError: SelectSemifield.tropical_max() on float32 does not compile" in error
    assert "no such thing as a vector" in error
    assert not list((tmp_path / "cache").iterdir())


# ---- threads and processes ---------------------------------------------------------------------

LARGE = cases.numbers((1, 1, 300, 400), "f4", seed=1)  # enough work for several threads
SEVEN = cases.numbers((1, 1, 7, 7), "f4", seed=2)

FORK = """
import os, signal, sys
import numpy as np
import semiconv_cupy as sc
img = np.random.default_rng(0).random((1, 1, 300, 400), np.float32)
krn = img[:, :, :7, :7]
signal.alarm(60)  # a child that hangs ends with a signal
expected = sc.semifield_conv(img, krn, "tropical_max", padding=3)
for generation in range(2):  # a child of a child as well
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if generation:
            os._exit(abs(code))
        print(code)
        sys.exit()
    signal.alarm(60)
    for _ in range(3):
        same = np.array_equal(sc.semifield_conv(img, krn, "tropical_max", padding=3), expected)
        if not same:
            os._exit(1)
os._exit(0)
"""


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_can_convolve():
    """Threads do not survive a fork: a child that counted on them would wait for ever."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


@needs_compiler
@pytest.mark.parametrize("name", ["tropical_max", "linear", "log(2)"])
def test_the_bits_do_not_depend_on_the_number_of_threads(name):
    plan = Geometry.plan(LARGE.shape, SEVEN.shape, padding=3)
    route = cases.route_of(cases.SEMIFIELDS[name].semifield, plan, "float32")
    results = []
    for threads in (1, 2, 3, 5):
        results.append(np.empty(plan.out_shape, "f4"))
        run.forward(route, LARGE, SEVEN, results[-1], threads=threads)
    for result in results[1:]:
        assert_matches(result, results[0], dtype="float32", signed_zeros=True)


@needs_compiler
def test_calls_from_several_python_threads():
    """Also of one and the same plan, whose struct they share."""
    images = [LARGE, LARGE[:, :, ::2], LARGE[:, :, :, ::-1], LARGE]

    def convolve(img):
        return sc.semifield_conv(img, SEVEN, "tropical_max", padding=3)

    expected = [convolve(img) for img in images]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, right in zip(pool.map(convolve, images), expected, strict=True):
                assert_matches(got, right, dtype="float32")
