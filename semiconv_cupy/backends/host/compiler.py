"""The machine's C++ compiler: its command, its flags, and one compilation under limits.

Knows neither semifields nor the cache of ``libraries``, which calls it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import selectors
import shlex
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from semiconv_cupy.errors import BackendUnavailableError, CompileError
from semiconv_cupy.once import exclusive
from semiconv_cupy.progress import note

TIME_LIMIT = 600.0  # seconds of one compilation, which takes 1 to 6 on an idle machine
LONGEST_TIME_LIMIT = 3600.0  # `libraries` takes older build folders for those of dead processes
_KEPT = 1 << 16  # bytes of the compiler's output: its end
_FULL = ("No space left on device", "Disk quota exceeded")
_FLAGS = (
    "-std=c++17",
    # Loops over taps and lanes are unrolled where the sources say so. -O3 takes twice as long and
    # gains only the vectorisation of conversions, which the next two flags turn on.
    "-O2",
    "-ftree-vectorize",
    "-fPIC",
    "-w",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-pthread",
)
_SHARED = "-shared"
_FLAGS_OF_GCC = ("-fvect-cost-model=dynamic",)
# With `fast` alone, Clang fuses products and sums where a source's pragma forbids it, too.
_FLAGS_OF_CLANG = ("-ffp-contract=fast-honor-pragmas",)
# zig compiles its C++ runtime before it links it for the first time, which takes a minute; the
# sources need none.
_FLAGS_OF_ZIG = (
    "-g0", "-fno-exceptions", "-fno-rtti", "-nostdlib++", "-DSEMICONV_WITHOUT_RUNTIME",
)  # fmt: skip


class Toolchain(NamedTuple):
    """The compiler's command with its flags, and all else that its output follows from."""

    command: tuple[str, ...]
    version: str
    machine: str  # architecture, C library and features of the CPU


# ---- which compiler ------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def compiler() -> str | None:
    """The C++ compiler's command: $CXX, else c++, g++ or clang++ of the PATH, else ziglang's."""
    command, _ = _found()
    return None if command is None else shlex.join(command)


def missing_compiler() -> str:
    """The error message for a machine where `compiler` finds none."""
    _, problem = _found()
    if problem:
        return problem
    return (
        "no C++ compiler found (looked for $CXX, c++, g++, clang++, ziglang); install one, for "
        "example `pip install 'semiconv-cupy[compiler]'` or `apt install g++`"
    )


def _found() -> tuple[list[str] | None, str | None]:
    """The command, or what is wrong and how to mend it; neither where there is no compiler."""
    named = os.environ.get("CXX")
    if not named:
        paths = filter(None, map(shutil.which, ("c++", "g++", "clang++")))
        path = next(paths, None)
        return (zig() if path is None else [os.path.abspath(path)]), None
    try:
        program, *arguments = words_of(named)
    except ValueError as error:
        what = "has no command" if not named.strip() else f"cannot be read: {error}"
        return None, f"$CXX {what}: {named!r}; correct or unset CXX"
    path = shutil.which(program)
    if path:
        return [os.path.abspath(path), *arguments], None
    if os.path.isdir(program):
        what = "is a folder"
    else:
        what = "is not executable" if os.path.exists(program) else "was not found"
    return None, f"the C++ compiler named by $CXX {what}: {named!r}; correct or unset CXX"


def words_of(command: str, system: str = os.name) -> list[str]:
    """The words of a command; in a path of Windows a backslash is no quotation mark."""
    if system == "posix":
        return shlex.split(command)
    return [word.strip('"') for word in shlex.split(command, posix=False)]


def zig() -> list[str] | None:
    """The command of the C++ compiler in the package ziglang; None where it is not installed."""
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        return None
    path = os.path.join(os.path.dirname(found.origin), "zig.exe" if os.name == "nt" else "zig")
    return [path, "c++"] if os.path.isfile(path) else None


def is_zig(command: Sequence[str]) -> bool:
    """Whether a compiler's command is zig's, by its words: `zig c++`, `python -m ziglang c++`."""
    return any(Path(word).stem in ("zig", "ziglang") for word in command)


def flags_of(command: Sequence[str], version: str = "") -> tuple[str, ...]:
    """The flags with which an object is compiled, without those of the machine.

    `version` is what the compiler prints about itself.
    """
    if is_zig(command):
        return (*_FLAGS, *_FLAGS_OF_CLANG, *_FLAGS_OF_ZIG)
    return (*_FLAGS, *(_FLAGS_OF_CLANG if "clang" in version else _FLAGS_OF_GCC))


def variables_of(command: Sequence[str], cache: Path) -> dict[str, str]:
    """The compiler's environment variables: zig keeps what it compiled in a cache of its own."""
    if not is_zig(command):
        return {}
    return {name: str(cache / "zig") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")}


@lru_cache(maxsize=1)
def toolchain(time_limit: float = 60.0) -> Toolchain:
    """The compiler, its flags and its identity; the compiler is run twice to learn them.

    Raises
    ------
    BackendUnavailableError
        Where there is no compiler, or it cannot tell its version within `time_limit` seconds.
    """
    found = compiler()
    if found is None:
        raise BackendUnavailableError(missing_compiler())
    command = shlex.split(found)
    answer = _run([*command, "--version"], time_limit, errors=False)
    if answer.problem:
        raise BackendUnavailableError(f"`{found} --version` {answer.problem}; {_remedy()}")
    flags = [_SHARED, *flags_of(command, answer.output)]
    for native in ("-march=native", "-mcpu=native"):
        # Preprocessing an empty file needs no temporary file.
        if _run([*command, native, "-E", "-x", "c++", os.devnull], time_limit).status == 0:
            flags.append(native)
            break
    return Toolchain((*command, *flags), answer.output, _machine())


def version() -> str:
    """The first line that the compiler's --version prints."""
    return toolchain().version.partition("\n")[0]


def _remedy() -> str:
    """The remedy for a compiler that was found and does not work."""
    if os.environ.get("CXX"):
        return "correct or unset CXX"
    return "name another C++ compiler in $CXX"


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        features = platform.processor()
    else:
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    try:
        runtime = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):  # another system than Linux with glibc
        runtime = platform.platform()
    return "\n".join((platform.machine(), runtime, features))


# ---- one compilation -----------------------------------------------------------------------------


def compile_library(
    text: str,
    what: str,
    folder: Path,
    *,
    flags: Sequence[str] = (),
    time_limit: float = TIME_LIMIT,
) -> Path:
    """Compile a C++ text to a whole shared object in a folder that is the caller's alone.

    Parameters
    ----------
    text : str
        The source.
    what : str
        What it computes, for messages.
    folder : Path
        Also the compiler's folder of temporary files.
    flags : sequence of str
        Behind those of the `toolchain`, and behind the source's name.
    time_limit : float
        Seconds, at most `LONGEST_TIME_LIMIT`; then the compiler and its children are killed.

    Raises
    ------
    CompileError
        The text does not compile, or the compiler is killed, is too slow or makes no library.
    BackendUnavailableError
        The compiler cannot be started.
    OSError
        The folder is full or has vanished.
    """
    if not 0 < time_limit <= LONGEST_TIME_LIMIT:
        raise ValueError(
            f"time_limit must be in (0, {LONGEST_TIME_LIMIT:g}] seconds, got {time_limit!r}"
        )
    command = toolchain().command
    file, made = folder / "library.cpp", folder / "library.so"
    file.write_bytes(text.encode())
    variables = {"TMPDIR": str(folder), **variables_of(command, folder.parent)}
    if is_zig(command) and not (folder.parent / "zig").exists():
        note("zig compiles for the first time, which takes ten seconds")
    done = _run([*command, "-o", str(made), str(file), *flags], time_limit, variables)
    problem = done.problem
    if done.status:
        if any(text in done.output for text in _FULL):
            raise OSError(f"no space left on the device of {folder.parent}")
        if not file.exists():
            raise OSError(f"{folder} was removed while the compiler ran")
    elif not problem and not is_whole(made):
        problem = f"reported success but made no complete shared object; {_remedy()}"
    if done.status or problem:
        raise CompileError(
            f"{what} does not compile for the CPU{f': the compiler {problem}' if problem else ''}\n"
            f"{shlex.join(command)}\n{done.output[-4000:]}"
        )
    return made


# A process group of its own, and files that only this user may read.
_GROUP: dict[str, Any] = {"start_new_session": True, "umask": 0o077} if os.name == "posix" else {}


# Compilers that this process has started: a forked child has none.
_running: set[subprocess.Popen[bytes]] = set()
_all_ended = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)


class _Done(NamedTuple):
    status: int | None
    output: str
    problem: str | None  # how it was ended; None where it ended by itself


def _run(
    command: Sequence[str],
    time_limit: float,
    variables: Mapping[str, str] | None = None,
    *,
    errors: bool = True,
) -> _Done:
    """Run the compiler in a process group of its own, which ends with this call or its limit."""
    try:
        process = _started(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
            # Messages in English, among which _FULL is looked for.
            env={**os.environ, "LC_ALL": "C", **(variables or {})},
            **_GROUP,
        )
    except OSError as error:
        raise BackendUnavailableError(
            f"the C++ compiler {shlex.join(command[:1])} cannot be started: {error.strerror}; "
            f"{_remedy()}"
        ) from None
    try:
        output, in_time = _output(process, time_limit)
    finally:
        if process.returncode is None:  # too slow, or an exception such as KeyboardInterrupt
            _kill(process)
            process.wait()
        _running.discard(process)
        assert process.stdout is not None
        process.stdout.close()
    status, problem = process.returncode, None
    if not in_time:
        problem = f"was killed, as it had not finished after {time_limit:g} s; {_remedy()}"
    elif status < 0:
        memory = ", is memory short?" if -status == signal.SIGKILL else ""
        name = signal.strsignal(-status)
        problem = f"was ended by signal {-status} ({name}{memory}); {_remedy()}"
    return _Done(status, output, problem)


def _started(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    with exclusive("a start of the compiler"):
        if _all_ended:
            raise BackendUnavailableError("this process ends, and compiles nothing any more")
        process = subprocess.Popen(command, **options)
        _running.add(process)
    return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def end_all() -> None:
    """Kill the compilers that run, and start none any more: a thread outlives the program."""
    global _all_ended
    with exclusive("a start of the compiler"):
        _all_ended = True
        for process in tuple(_running):
            if process.returncode is None:
                _kill(process)


def _output(process: subprocess.Popen[bytes], time_limit: float) -> tuple[str, bool]:
    """The end of what a process writes until it exits, and whether it does so in time.

    Waits for the process, not for the end of its output: a daemon that it has started (of a
    compiler cache) may keep that open.
    """
    assert process.stdout is not None
    if os.name != "posix":  # where pipes cannot be selected
        try:
            whole, _ = process.communicate(timeout=time_limit)
        except subprocess.TimeoutExpired:
            return "", False
        return whole[-_KEPT:].decode(errors="replace"), True
    end = time.monotonic() + time_limit
    output = bytearray()
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    is_open = True
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            left = end - time.monotonic()
            if left <= 0:
                break
            exited = process.poll() is not None
            if is_open and selector.select(0 if exited else min(left, 0.1)):
                piece = os.read(descriptor, _KEPT)
                output = (output + piece)[-_KEPT:]
                is_open = bool(piece)
            elif exited:
                break
            elif not is_open:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(left)
    return output.decode(errors="replace"), process.returncode is not None


def is_whole(made: Path, system: str = platform.system()) -> bool:
    """Whether a compiler's output is a file that does not end too early, as the system can tell.

    The table of sections is the end of an ELF file. The system maps a shorter file as well and
    kills the process that reads beyond its end.
    """
    if made.is_symlink() or not made.is_file():
        return False
    size = made.stat().st_size
    with made.open("rb") as file:
        head = file.read(64)
    if head[:4] != b"\x7fELF":  # another system's format, which only its loader knows
        return size > 0 and system != "Linux"
    if len(head) < 64:
        return False
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    (table,) = struct.unpack_from(order + ("Q" if wide else "I"), head, 40 if wide else 32)
    length, count = struct.unpack_from(order + "HH", head, 58 if wide else 46)
    return table > 0 and table + length * count <= size
