"""Compiled libraries whatever happens to their folder, their files, the compiler and the process.

Each state is met by a process of its own, forked from a server that has imported this module.
"""

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from processes import is_alive, wait_for

import semiconv_cupy as sc
from semiconv_cupy.backends.host import compiler, libraries
from semiconv_cupy.backends.host.cache import describe, folder, problem
from semiconv_cupy.errors import BackendUnavailableError, BackendWarning, CompileError

ROOT = Path(__file__).parent.parent
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on the PATH"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
]
by_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
OTHER_USER = 54321


def source_of(number):
    exported = 'extern "C" __attribute__((visibility("default")))'
    return f"{exported} int answer() {{ return {number}; }}"


def sample(names, *plain):
    """All names, of which the plain test command runs some."""
    return [name if name in plain else pytest.param(name, marks=pytest.mark.slow) for name in names]


# ---- processes -----------------------------------------------------------------------------------


def answer(number=42, **arguments):
    found = libraries.load(source_of(number), "the answer", {"answer": ()}, **arguments)
    return found.answer()


def _serve(connection, work, arguments, environment, umask, user):
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = str(value)
    os.umask(umask)
    if user is not None:
        import grp  # noqa: F401 -- another user may not be able to read Python's folder
        import pwd  # noqa: F401

        import platformdirs

        platformdirs.user_cache_dir("before")
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = work(**arguments)
        except Exception as error:  # sent to the test, which knows which one it expects
            result = error
    connection.send((result, [str(w.message) for w in caught if w.category is BackendWarning]))


@pytest.fixture(scope="module")
def context():
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([__name__])
    with pytest.MonkeyPatch.context() as patch:
        # The server skips in silence what it cannot import.
        patch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), str(ROOT))))
        multiprocessing.forkserver.ensure_running()
    return made


@pytest.fixture
def begin(context, tmp_path):
    """Start a process; the function that it returns waits for (result or error, warnings)."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def begin(cache, work=answer, /, *, umask=0o022, user=None, environment=(), **arguments):
        variables = {"SEMICONV_CACHE_DIR": cache, "CXX": None, "TMPDIR": temporary}
        here, there = context.Pipe(duplex=False)
        given = (there, work, arguments, {**variables, **dict(environment)}, umask, user)
        process = context.Process(target=_serve, args=given)
        process.start()
        there.close()

        def finish():
            assert here.poll(60), "the process hangs"
            try:
                return here.recv()
            except EOFError:
                process.join()
                pytest.fail(f"the process ended with {process.exitcode}")
            finally:
                process.join(10)

        finish.process = process
        return finish

    return begin


@pytest.fixture
def run(begin):
    return lambda *arguments, **keywords: begin(*arguments, **keywords)()


@pytest.fixture(scope="module")
def kept(context, tmp_path_factory):
    """A cache with the libraries of 42 and of 43, to be copied."""
    cache = tmp_path_factory.mktemp("kept") / "cache"
    here, there = context.Pipe(duplex=False)
    for number in (43, 42):
        variables = {"SEMICONV_CACHE_DIR": cache, "CXX": None}
        given = (there, answer, {"number": number}, variables, 0o022, None)
        process = context.Process(target=_serve, args=given)
        process.start()
        assert here.recv() == (number, [])
        process.join()
        if number == 43:
            (other,) = cache.iterdir()
    return cache, other.name


@pytest.fixture
def cache(kept, tmp_path):
    """A cache folder with the library of 42 alone, and its path."""
    filled, other = kept
    folder = tmp_path / "cache"
    shutil.copytree(filled, folder, ignore=lambda *_: [other])
    return folder


def only_library(cache):
    (library,) = cache.iterdir()
    return library


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


# ---- files ---------------------------------------------------------------------------------------


def truncated_to(part):
    return lambda file: os.truncate(file, int(file.stat().st_size * part))


def zeros_at(part):
    def damage(file):
        size = file.stat().st_size
        with file.open("r+b") as opened:
            opened.seek(int(size * part) // 4096 * 4096)
            opened.write(bytes(min(4096, size - opened.tell())))

    return damage


def another_bit(seed):
    def damage(file):
        content = bytearray(file.read_bytes())
        place = random.Random(seed).randrange(len(content))
        content[place] ^= 1 << seed % 8
        file.write_bytes(content)

    return damage


def a_folder(file):
    file.unlink()
    (file / "inside").mkdir(parents=True)


def a_socket(file):
    file.unlink()
    before = os.getcwd()
    os.chdir(file.parent)  # an address has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
    finally:
        os.chdir(before)


def a_fifo(file):
    file.unlink()
    os.mkfifo(file)


def a_dangling_link(file):
    file.unlink()
    file.symlink_to("nothing")


def a_foreign_library(file):
    file.unlink()
    text = file.with_suffix(".cpp")
    text.write_text('extern "C" int other() { return 1; }')
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", file, text], check=True)
    text.unlink()


def an_endless_file(file):
    os.truncate(file, 1 << 40)


DAMAGE = {
    **{f"truncated to {part:.0%}": truncated_to(part) for part in (0, 0.01, 0.3, 0.6, 0.99)},
    "a byte less": lambda file: os.truncate(file, file.stat().st_size - 1),
    "a byte more": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    **{f"a page of zeros at {part:.0%}": zeros_at(part) for part in (0, 0.3, 0.6, 0.9)},
    **{f"another bit, {seed}": another_bit(seed) for seed in range(5)},
    "endless": an_endless_file,
    "a folder": a_folder,
    "a FIFO": a_fifo,
    "a socket": a_socket,
    "a foreign library": a_foreign_library,
}


def assert_replaced(cache, run):
    """One private regular file is there, which the next process loads as it is."""
    status = only_library(cache).lstat()
    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert run(cache) == (42, [])
    assert only_library(cache).lstat().st_mtime_ns == status.st_mtime_ns


@pytest.mark.parametrize(
    "damage",
    sample(
        DAMAGE, "truncated to 60%", "a byte less", "a page of zeros at 30%", "another bit, 0",
        "a folder", "a FIFO", "a socket", "a foreign library",
    ),
)  # fmt: skip
def test_what_is_damaged_is_compiled_again(damage, cache, run):
    DAMAGE[damage](only_library(cache))
    assert run(cache) == (42, [])
    assert_replaced(cache, run)


def test_a_library_does_not_serve_under_anothers_name(cache, kept, run):
    filled, other = kept
    shutil.copyfile(filled / other, only_library(cache))
    assert run(cache) == (42, [])
    assert_replaced(cache, run)


def a_link_to_a_library(file):
    elsewhere = file.parent.parent / "elsewhere.so"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


UNSAFE = {
    "a dangling link": (a_dangling_link, "symbolic link"),
    "a link": (a_link_to_a_library, "symbolic link"),
    "mode 666": (lambda file: file.chmod(0o666), "mode 0666"),
    "mode 620": (lambda file: file.chmod(0o620), "mode 0620"),
}


@pytest.mark.parametrize(
    "state",
    [
        *UNSAFE.values(),
        pytest.param(
            (lambda file: os.chown(file, OTHER_USER, 0), f"uid {OTHER_USER}"), marks=by_root
        ),
    ],
    ids=[*UNSAFE, "another owner"],
)
def test_what_others_may_have_written_is_not_loaded(state, cache, run):
    change, reason = state
    library = only_library(cache)
    change(library)
    result, (warning,) = run(cache)
    assert result == 42
    assert str(library) in warning
    assert reason in warning
    assert "SEMICONV_CACHE_DIR" in warning
    assert_replaced(cache, run)


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o777])
def test_what_is_made_is_private_whatever_the_umask(umask, tmp_path, run):
    cache = tmp_path / "a" / "b" / "cache"
    assert run(cache, umask=umask) == (42, [])
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (cache, *cache.parents[:2])}
    assert set(modes.values()) == {0o700}, modes
    assert stat.S_IMODE(only_library(cache).stat().st_mode) == 0o600
    assert run(cache, umask=umask) == (42, [])


# ---- folders -------------------------------------------------------------------------------------


def a_parent_open_to_all(cache):
    cache.parent.chmod(0o777)


def another_group(cache):
    os.chown(cache, -1, OTHER_USER)
    cache.chmod(0o770)


def another_owner(path):
    os.chown(path, OTHER_USER, -1)


def a_file(cache):
    shutil.rmtree(cache)
    cache.write_text("")


def a_link_to_an_open_folder(cache):
    shutil.rmtree(cache)
    elsewhere = cache.parent / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    cache.symlink_to(elsewhere)


FOLDERS = {
    "open to all": lambda cache: cache.chmod(0o777),
    "open to all, sticky": lambda cache: cache.chmod(0o1777),
    "a parent open to all": a_parent_open_to_all,
    "a file": a_file,
    "a link to an open folder": a_link_to_an_open_folder,
    "open to another group": another_group,
    "another owner": another_owner,
    "a parent of another owner": lambda cache: another_owner(cache.parent),
}
NEED_ROOT = ("open to another group", "another owner", "a parent of another owner")


@pytest.mark.parametrize(
    "state", [pytest.param(s, marks=by_root) if s in NEED_ROOT else s for s in FOLDERS]
)
def test_a_folder_that_others_may_write_is_replaced(state, kept, run, tmp_path):
    cache = tmp_path / "parent" / "cache"
    shutil.copytree(kept[0], cache)
    before = {file: file.stat().st_atime_ns for file in cache.iterdir()}
    FOLDERS[state](cache)
    result, (warning,) = run(cache, environment={"TMPDIR": tmp_path / "temporary"})
    assert result == 42
    assert str(cache.parent) in warning
    assert "SEMICONV_CACHE_DIR" in warning
    assert str(tmp_path / "temporary" / "semiconv_cupy-") in warning
    if cache.is_dir() and before:
        assert {file.name for file in cache.iterdir()} <= {file.name for file in before}


def test_a_sticky_parent_and_a_link_to_a_safe_folder_serve(cache, run, tmp_path):
    cache.parent.chmod(0o1777)
    assert run(cache) == (42, [])
    (tmp_path / "link").symlink_to(cache)
    assert run(tmp_path / "link") == (42, [])


def test_a_folder_that_cannot_be_written_serves_what_it_has(cache, begin):
    cache.parent.parent.chmod(0o755)
    cache.parent.chmod(0o755)
    cache.chmod(0o755)
    only_library(cache).chmod(0o644)  # of root, read by another user
    user = OTHER_USER if os.geteuid() == 0 else None
    if user is None:
        cache.chmod(0o555)
    (cache.parent / "temporary").chmod(0o1777)
    reachable = cache
    while reachable != reachable.parent:  # as pytest's folders are private
        if os.geteuid() == 0 and not reachable.stat().st_mode & 0o001:
            reachable.chmod(reachable.stat().st_mode | 0o011)
        reachable = reachable.parent
    assert begin(cache, user=user)() == (42, [])
    result, (warning,) = begin(cache, user=user, number=44)()
    assert result == 44
    assert "Permission denied" in warning
    cache.chmod(0o755)


# ---- paths ---------------------------------------------------------------------------------------


def two_answers(elsewhere):
    first = answer(42)
    os.chdir(elsewhere)
    return first, answer(43)


@pytest.mark.parametrize("named", sample([".", "relative", "a/../b"], "."))
def test_a_relative_folder_is_resolved_once(named, tmp_path):
    start, elsewhere = tmp_path / "start", tmp_path / "elsewhere"
    start.mkdir()
    elsewhere.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import test_libraries; print(test_libraries.two_answers({str(elsewhere)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=start,
        capture_output=True,
        text=True,
        env={**os.environ, "SEMICONV_CACHE_DIR": named, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "(42, 43)", done.stderr
    assert not list(elsewhere.iterdir())
    assert len(list((start / named).resolve().glob("*.so"))) == 2


@pytest.mark.parametrize("name", ["a b'\"\n", os.fsdecode(b"\xff"), "ü", "$ORIGIN", "$LIB"])
def test_any_name_of_a_folder_serves(name, run, tmp_path):
    """The loader replaces $ORIGIN and $LIB in a path."""
    result, shown = run(tmp_path / name)
    assert result == 42
    assert len(shown) == name.startswith("$")


def shown_folder():
    return str(folder())


def test_the_folder_is_the_users_unless_it_is_named(run, tmp_path):
    home = {"HOME": tmp_path, "XDG_CACHE_HOME": None}
    expected = {"": tmp_path / ".cache" / "semiconv_cupy", "~/here": tmp_path / "here"}
    if sys.platform == "darwin":
        expected[""] = tmp_path / "Library" / "Caches" / "semiconv_cupy"
    for named, path in expected.items():
        assert run(named, shown_folder, environment=home) == (str(path), [])
    if sys.platform != "darwin":
        general = {**home, "XDG_CACHE_HOME": tmp_path / "general"}
        found = run(None, shown_folder, environment=general)
        assert found == (str(tmp_path / "general" / "semiconv_cupy"), [])


@pytest.mark.parametrize("named", [None, "", "~/cache", "~nobody-of-this-name/cache"])
def test_without_a_home_folder_a_temporary_one_serves(named, run, tmp_path):
    user = OTHER_USER if os.geteuid() == 0 else None
    if user is None and named != "~nobody-of-this-name/cache":
        pytest.skip("only root can become a user without an entry in the password file")
    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(_open_temporary()))
        environment = {"HOME": None, "XDG_CACHE_HOME": None, "TMPDIR": temporary}
        result, (warning,) = run(named, user=user, environment=environment)
        assert result == 42
        assert "SEMICONV_CACHE_DIR" in warning
        assert "home" in warning.lower()
        assert str(temporary / "semiconv_cupy-") in warning


@contextlib.contextmanager
def _open_temporary():
    """A folder for temporary files that another user reaches as well."""
    made = Path(f"/tmp/semiconv-test-{os.getpid()}-{random.randrange(1 << 30)}")
    made.mkdir()
    made.chmod(0o1777)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@by_root
def test_without_a_home_folder_a_named_one_serves(run):
    with _open_temporary() as temporary:
        environment = {"HOME": None, "XDG_CACHE_HOME": None}
        found = run(temporary / "cache", user=OTHER_USER, environment=environment)
        assert found == (42, [])


# ---- compilers -----------------------------------------------------------------------------------

BROKEN = {  # of a compiler that answers --version: what it does with a library, what is said
    "makes nothing": ("exit 0", "made no complete shared object"),
    "makes half a file": (
        f'{COMPILER} "$@"; for out; do case $out in *library.so) '
        'head -c 9000 "$out" > "$out.half"; mv "$out.half" "$out";; esac; done',
        "made no complete shared object",
    ),
    "makes a text": (
        'for out; do case $out in *library.so) echo text > "$out";; esac; done',
        "made no complete shared object",
    ),
    "makes a folder": (
        'for out; do case $out in *library.so) mkdir "$out";; esac; done',
        "made no complete shared object",
    ),
    "makes another library": (
        'echo "int other() { return 1; }" > "$TMPDIR/other.cpp"; '
        "for out; do case $out in *library.so) "
        f'exec {COMPILER} -shared -fPIC -o "$out" "$TMPDIR/other.cpp";; esac; done',
        "without its functions answer",
    ),
    "fails with bytes": (r"printf 'wrong: \377\376\n' >&2; exit 1", "wrong: \ufffd\ufffd"),
    "fails silently": ("exit 3", "does not compile for the CPU"),
    "is killed": ("kill -9 $$", "was ended by signal 9"),
    "crashes": ("kill -11 $$", "was ended by signal 11"),
    "hangs": ("sleep 1000", "had not finished after 0.5 s"),
    "hangs with children": ("sleep 1000 & sleep 1000 & wait", "had not finished after 0.5 s"),
    "ignores signals": ("trap '' TERM INT; sleep 1000", "had not finished after 0.5 s"),
    "never stops talking": ("exec yes", "had not finished after 0.5 s"),
}


@pytest.mark.parametrize("state", BROKEN)
def test_a_broken_compiler_is_one_clear_error(state, tmp_path, run):
    what, message = BROKEN[state]
    named = script(
        tmp_path / "cxx",
        f'case "$*" in *library.cpp*) ;; *) exec {COMPILER} "$@";; esac\n{what}',
    )
    cache = tmp_path / "cache"
    limit = 0.5 if "had not finished" in message else 60
    error, shown = run(cache, environment={"CXX": named}, time_limit=limit)
    assert isinstance(error, CompileError)
    assert "the answer" in str(error)
    assert str(named) in str(error)
    assert message in str(error)
    assert shown == []
    assert not list(cache.iterdir())
    assert run(cache) == (42, [])


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ('g++ "', "cannot be read: No closing quotation"),
        ("   ", "has no command"),
        ("{folder}", "is a folder"),
        ("{file}", "is not executable"),
        ("{folder}/nothing -O2", "was not found"),
    ],
)
def test_a_wrong_cxx_is_no_compiler(named, message, tmp_path, run):
    (tmp_path / "file").write_text("")
    named = named.format(folder=tmp_path, file=tmp_path / "file")
    error, _ = run(tmp_path / "cache", environment={"CXX": named})
    assert isinstance(error, BackendUnavailableError)
    assert message in str(error)
    assert repr(named) in str(error)
    assert "correct or unset CXX" in str(error)


def version_within(seconds):
    return compiler.toolchain(time_limit=seconds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\nsleep 1000\n", "had not finished after 1 s"),
        ("#!/bin/sh\nkill -6 $$\n", "was ended by signal 6"),
        ("\x7fELF of another machine", "cannot be started: Exec format error"),
        ("#!/nonexistent/shell\n", "cannot be started: No such file"),
    ],
)
def test_a_compiler_that_cannot_tell_its_version_is_a_clear_error(text, message, tmp_path, run):
    named = tmp_path / "cxx"
    named.write_text(text)
    named.chmod(0o755)
    error, _ = run(None, version_within, environment={"CXX": named}, seconds=1)
    assert isinstance(error, BackendUnavailableError)
    assert message in str(error)
    assert str(named) in str(error)
    assert "correct or unset CXX" in str(error)


SOUND = {
    "prints bytes": r"printf '\377\376\n' >&2; printf '\377\n'",
    "leaves a daemon": "sleep 20 &",
    "is wordy": "head -c 3000000 /dev/zero | tr '\\0' x",
    "needs its folder of temporary files": 'echo > "$TMPDIR/temporary" || exit 1',
}


@pytest.mark.parametrize("state", SOUND)
@pytest.mark.parametrize("temporary", sample(["usual", "missing", "a file"], "missing"))
def test_an_odd_compiler_and_odd_temporary_folders_serve(state, temporary, tmp_path, run):
    named = script(
        tmp_path / "cxx",
        f'case "$*" in *library.cpp*) {SOUND[state]};; esac\nexec {COMPILER} "$@"',
    )
    folder = {"usual": tmp_path, "missing": tmp_path / "none", "a file": named}[temporary]
    start = time.monotonic()
    assert run(tmp_path / "cache", environment={"CXX": named, "TMPDIR": folder}) == (42, [])
    assert time.monotonic() - start < 15  # not the daemon's 20 s
    assert only_library(tmp_path / "cache").suffix == ".so"


def test_a_time_limit_must_be_possible(tmp_path, run):
    for limit in (0, -1, 1e9, float("nan")):
        error, _ = run(tmp_path / "cache", time_limit=limit)
        assert isinstance(error, ValueError)
        assert f"got {limit!r}" in str(error)


# ---- threads and processes -----------------------------------------------------------------------


# A signal, or a fork by another thread, while `subprocess` still starts the compiler is Python's
# affair: compilers say that they run a while after they were started.
STARTED = "sleep .4"


@pytest.fixture
def slow_compiler(tmp_path):
    """A compiler that writes down the time at which it begins and ends, a second apart at least."""
    log = tmp_path / "log"
    named = script(
        tmp_path / "cxx",
        f'case "$*" in *library.cpp*) {STARTED}; echo begin >> {log}; sleep 1;; esac\n'
        f'{COMPILER} "$@"\n'
        f'status=$?; case "$*" in *library.cpp*) echo end >> {log};; esac; exit $status',
    )
    return named, log


def answers_of_threads(numbers):
    found = {}

    def work(place, number):
        found[place] = answer(number)

    threads = [threading.Thread(target=work, args=given) for given in enumerate(numbers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[place] for place in range(len(numbers))]


def test_threads_compile_different_libraries_at_once_and_one_library_once(
    slow_compiler, tmp_path, run
):
    named, log = slow_compiler
    numbers = [1, 2, 3, 1, 2, 3]
    found = run(tmp_path / "cache", answers_of_threads, environment={"CXX": named}, numbers=numbers)
    assert found == (numbers, [])
    lines = log.read_text().split()
    assert sorted(lines) == ["begin"] * 3 + ["end"] * 3
    assert lines[:2] == ["begin"] * 2


def built_ahead(numbers):
    sources = [(source_of(number), f"answer {number}") for number in numbers]
    return [str(path) for path in libraries.build_all(sources, workers=3)]


def test_libraries_are_built_ahead_in_parallel(slow_compiler, tmp_path, run):
    named, log = slow_compiler
    cache, environment = tmp_path / "cache", {"CXX": named}
    paths, _ = run(cache, built_ahead, environment=environment, numbers=[5, 6, 7])
    assert sorted(paths) == sorted(map(str, cache.iterdir()))
    lines = log.read_text().split()
    assert lines[:2] == ["begin"] * 2
    assert run(cache, environment=environment, number=6) == (6, [])
    assert log.read_text().split() == lines


def test_eight_processes_race_on_an_empty_cache(tmp_path, begin):
    racing = [begin(tmp_path / "parent" / "cache") for _ in range(8)]
    assert [finish() for finish in racing] == [(42, [])] * 8
    only_library(tmp_path / "parent" / "cache")


def test_killed_compilations_leave_nothing_for_ever(slow_compiler, tmp_path, begin, run):
    named, log = slow_compiler
    cache = tmp_path / "cache"
    finish = begin(cache, environment={"CXX": named})
    wait_for(log.exists)
    finish.process.kill()
    finish.process.join()
    wait_for(lambda: "end" in log.read_text())  # the compiler lives on, and writes into its folder
    (build,) = cache.glob("build-*")
    (lock,) = cache.glob("*.lock")
    assert run(cache, number=43) == (43, [])
    assert build.is_dir()  # they may be of a process that is alive
    assert lock.exists()
    old = time.time() - 2.5 * compiler.LONGEST_TIME_LIMIT
    for left in (build, lock):
        os.utime(left, (old, old))
    assert run(cache, number=44) == (44, [])
    assert [path.suffix for path in cache.iterdir()] == [".so"] * 2


def interrupted():
    # Not there in the children of a shell that has started the tests in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        answer()
    except KeyboardInterrupt:
        return "interrupted"


def test_an_interrupt_leaves_nothing_behind(tmp_path, begin):
    log, cache = tmp_path / "log", tmp_path / "cache"
    named = script(
        tmp_path / "cxx",
        f'case "$*" in *library.cpp*) {STARTED}; echo $$ > {log}; exec sleep 100;; esac\n'
        f'exec {COMPILER} "$@"',
    )
    finish = begin(cache, interrupted, environment={"CXX": named})
    wait_for(lambda: log.exists() and log.read_text())
    assert is_alive(int(log.read_text()))
    os.kill(finish.process.pid, signal.SIGINT)
    assert finish() == ("interrupted", [])
    assert not list(cache.iterdir())
    wait_for(lambda: not is_alive(int(log.read_text())))


def in_a_forked_child(work):
    """What `work` returns in a child of this process, within 100 seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked_while_compiling(log, work):
    """Fork while a thread is inside the compiler; the status of the child, then the parent's."""
    mask = np.ones((3, 4), bool)
    kernel = np.zeros((1, 1, 2, 2), np.float32)
    calls = {
        "the same library": answer,
        "ndimage": lambda: sc.ndimage.binary_propagation(mask, mask=mask).all(),
        "a convolution": lambda: sc.semifield_conv(kernel, kernel, "tropical_max").size,
    }
    call = calls[work]
    thread = threading.Thread(target=call)
    thread.start()
    wait_for(Path(log).exists)
    status = in_a_forked_child(call)
    thread.join()
    return status, bool(call())


@pytest.mark.parametrize(
    "work", sample(["the same library", "ndimage", "a convolution"], "the same library")
)
def test_a_child_forked_in_mid_compilation_compiles_by_itself(work, slow_compiler, tmp_path, run):
    named, log = slow_compiler
    quick = script(tmp_path / "quick", f'exec {named} "$@" -O0')
    arguments = {"log": str(log), "work": work}
    found = run(tmp_path / "cache", forked_while_compiling, environment={"CXX": quick}, **arguments)
    assert found == ((0, True), [])


def forked_while_tracing():
    """Fork while a thread prints formulas, under a lock of functools in Python 3.11."""
    going = True

    def made(power):
        semifield = sc.SelectSemifield(
            lambda left, right: left < right, lambda img, krn: img * krn**power, zero=-np.inf
        )
        return semifield.times(2.0, 1.0) == 2 and not semifield.d_times_constant

    def work():
        power = 1
        while going:
            power += 1
            made(power)

    # SymPy imports modules on the way, and the import system's own locks do not survive a fork.
    for power in (-2, -1, 1, 2):
        made(power)
    thread = threading.Thread(target=work)
    thread.start()
    statuses = {in_a_forked_child(lambda: made(-1)) for _ in range(20)}
    going = False
    thread.join()
    return statuses


def test_a_child_forked_while_another_thread_prints_formulas_can_print(run):
    assert run(None, forked_while_tracing) == ({0}, [])


def a_child_that_exits(log):
    thread = threading.Thread(target=answer)
    thread.start()
    wait_for(Path(log).exists)
    child = os.fork()
    if child == 0:
        sys.exit()  # with everything that Python does at its exit
    os.waitpid(child, 0)
    thread.join()
    return answer()


def test_a_childs_exit_does_not_disturb_its_parents_compilation(slow_compiler, tmp_path, run):
    named, log = slow_compiler
    found = run(tmp_path / "cache", a_child_that_exits, environment={"CXX": named}, log=str(log))
    assert found == (42, [])


def folder_removed_meanwhile(log, cache):
    thread = threading.Thread(target=lambda: (wait_for(Path(log).exists), shutil.rmtree(cache)))
    thread.start()
    found = answer()
    thread.join()
    return found


def test_a_cache_that_is_removed_meanwhile_is_replaced(slow_compiler, tmp_path, run):
    named, log = slow_compiler
    cache = tmp_path / "cache"
    arguments = {"log": str(log), "cache": str(cache)}
    result, (warning,) = run(
        cache, folder_removed_meanwhile, environment={"CXX": named}, **arguments
    )
    assert result == 42
    assert "SEMICONV_CACHE_DIR" in warning


def test_the_report_tells_folder_size_and_trust(cache, run, tmp_path):
    described, _ = run(cache, describe)
    assert str(cache) in described
    assert "1 libraries" in described
    assert "(1 libraries, 0.0 MiB, trusted)" in described
    assert run(cache, problem) == (None, [])
    cache.chmod(0o777)
    assert f"not trusted: others may write to {cache} (mode 0777)" in run(cache, describe)[0]
    assert "mode 0777" in run(cache, problem)[0]
    assert "not made yet" in run(tmp_path / "new", describe)[0]
    assert not (tmp_path / "new").exists()
