"""Compiled libraries: which files are loaded, and how one is compiled that is not there.

What a wheel brings (``prebuilt``) is taken first; then neither cache nor compiler is looked at.
A library is loaded only if nobody but this user (and root) can have written it and if it is
complete; otherwise it is compiled again. ``cache`` has the folder. Called by the host backends of
convolutions and of ``ndimage``; knows no semifields.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple, TypeAlias

from semiconv_cupy.backends.host import cache, compiler, prebuilt
from semiconv_cupy.errors import BackendUnavailableError, CompileError, warn_once
from semiconv_cupy.once import exclusive

_log = logging.getLogger(__name__)
_DIGEST = hashlib.sha256().digest_size
_LARGEST = 1 << 28  # bytes; no library of ours is larger than a few MiB
_STALE = 2 * compiler.LONGEST_TIME_LIMIT  # seconds

Library: TypeAlias = ctypes.CDLL | prebuilt.Part
_loaded: dict[str, Library] = {}  # by their orders' keys
_names: dict[str, None] = {}  # their names, ready-made ones included, in the order of loading


def _flags(*names: str) -> int:
    """The flags of `os.open` with these names that this system has; Windows lacks some."""
    return sum(getattr(os, name, 0) for name in (*names, "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"))


# ---- files ---------------------------------------------------------------------------------------


class _Order(NamedTuple):
    """A library to be compiled: its key, its text, what it computes (for messages), and limits."""

    key: str
    text: str
    what: str
    flags: tuple[str, ...]
    time_limit: float

    @classmethod
    def of(cls, text: str, what: str, flags: tuple[str, ...], time_limit: float) -> _Order:
        """The order whose key is a hash of all that the library's bytes follow from."""
        identity = "\0".join((text, *flags, *_identity()))
        key = hashlib.sha256(identity.encode()).hexdigest()[:32]
        return cls(key, text, what, flags, time_limit)


def _identity() -> tuple[str, ...]:
    command, version, machine = compiler.toolchain()
    return (*command, version, machine, "digest at the end")


def _digest(key: str, body: bytes) -> bytes:
    """The last bytes of a library's file: a hash of its name and content, so that both belong."""
    return hashlib.sha256(key.encode() + body).digest()


def _is_intact(file: Path, key: str) -> bool:
    """Whether a file is a library as this user (or root) wrote it, complete and unchanged.

    The file is loaded by its path afterwards. In between, only this user and root could exchange
    it, as nobody else may write to the folder. A path by descriptor (/proc/self/fd/N) would not do:
    the loader recognises a loaded library by its path, and descriptors are used again.
    """
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        descriptor = os.open(file, os.O_RDONLY | _flags("O_NONBLOCK", "O_NOFOLLOW"))
    except OSError as error:
        if error.errno == errno.ELOOP:
            _warn_of_file(file, "it is a symbolic link")
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            return False
        mode = stat.S_IMODE(status.st_mode)
        if os.name == "posix" and status.st_uid not in (0, os.geteuid()):
            _warn_of_file(file, f"it belongs to another user (uid {status.st_uid})")
            return False
        if os.name == "posix" and mode & 0o022:
            _warn_of_file(file, f"others may write to it (mode {mode:04o})")
            return False
        with open(descriptor, "rb", closefd=False) as opened:
            content = opened.read()
    except OSError:  # the device fails, or a network lost the file: compile it again
        return False
    finally:
        os.close(descriptor)
    return content[-_DIGEST:] == _digest(key, content[:-_DIGEST])


def _warn_of_file(file: Path, reason: str) -> None:
    warn_once(
        "a library file",
        f"{file} is not loaded, as {reason}; it is compiled again. Find out who changed it, or "
        f"{cache.REMEDY}",
    )


def _make(place: Path, order: _Order) -> Path:
    """Compile into a folder, unless another process does; return the library's file."""
    library = place / f"{order.key}.so"
    _remove_leftovers(place)
    with _first_of_all_processes(place / f"{order.key}.lock", order.time_limit):
        if not _is_intact(library, order.key):  # no other process made it meanwhile
            _compile_into(library, order)
    return library


def _compile_into(library: Path, order: _Order) -> None:
    place, (key, text, what, flags, time_limit) = library.parent, order
    build = Path(tempfile.mkdtemp(prefix="build-", dir=place))
    begin = time.perf_counter()
    try:
        build.chmod(0o700)
        made = compiler.compile_library(text, what, build, flags=flags, time_limit=time_limit)
        body = made.read_bytes()
        complete = build / "complete"
        _write(complete, body + _digest(key, body))
        if library.is_dir() and not library.is_symlink():
            library.rename(build / "in the way")
        complete.replace(library)
        _synchronise(place)
    finally:
        # Not tempfile.TemporaryDirectory: at its exit, a forked child would remove it as well.
        shutil.rmtree(build, ignore_errors=True)
    if not _is_intact(library, key):
        raise OSError(f"{library} is not as it was written")
    _log.info("compiled %s in %.2f s: %s", what, time.perf_counter() - begin, library)


@contextlib.contextmanager
def _first_of_all_processes(lock: Path, time_limit: float) -> Iterator[None]:
    """Make other processes that need the same library wait until it is complete.

    This only saves work. A process that gets no lock (the file system has none, or the process that
    holds it was stopped) compiles as well, and each renames a complete file. The system frees the
    lock of a process that dies.
    """
    flags = os.O_RDWR | os.O_CREAT | _flags("O_NOFOLLOW", "O_NONBLOCK")
    try:
        descriptor = os.open(lock, flags, 0o600)
    except OSError:  # a folder or a link has this name
        yield
        return
    try:
        end = time.monotonic() + time_limit
        while time.monotonic() < end:
            try:
                _lock(descriptor)
                break
            except (BlockingIOError, PermissionError):  # another process has it
                time.sleep(0.02)
            except OSError:
                break
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a file for this process; PermissionError or BlockingIOError if another one has it."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        # A lock that a forked child does not inherit, unlike flock's.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flags(), 0o600)
    with open(descriptor, "wb") as opened:
        if os.name == "posix":
            os.fchmod(descriptor, 0o600)  # whatever the umask
        opened.write(content)
        opened.flush()
        os.fsync(descriptor)


def _synchronise(place: Path) -> None:
    """Make a rename in a folder permanent, where a folder can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it
            raise
    finally:
        os.close(descriptor)


def _remove_leftovers(place: Path) -> None:
    """Remove build folders and locks of processes that were killed: older than any time limit."""
    with os.scandir(place) as entries:
        left = [e for e in entries if e.name.startswith("build-") or e.name.endswith(".lock")]
    for entry in left:
        try:
            age = time.time() - entry.stat(follow_symlinks=False).st_mtime
        except FileNotFoundError:
            continue
        if age > _STALE and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif age > _STALE:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


# ---- building and loading ------------------------------------------------------------------------


def build(
    text: str,
    what: str,
    flags: tuple[str, ...] = (),
    *,
    time_limit: float = compiler.TIME_LIMIT,
) -> Path:
    """The file of a C++ text's shared object: a ready-made one, else of the cache, else compiled.

    Different libraries are compiled at the same time where several threads call.

    Parameters
    ----------
    text : str
        The whole source.
    what : str
        What the library computes, for messages.
    flags : tuple of str
        The compiler's, behind the source's name; a ready-made library has none.
    time_limit : float
        Seconds for the compiler.

    Raises
    ------
    CompileError
        The text does not compile.
    BackendUnavailableError
        No compiler, or no folder at all.
    """
    ready = prebuilt.file_of(text)
    if ready is not None:
        return ready
    order = _Order.of(text, what, flags, time_limit)
    with exclusive(order.key):
        return _built(order)


def is_kept(text: str, flags: tuple[str, ...] = ()) -> bool:
    """Whether the cache has the library that `build` would compile; nothing is compiled."""
    return _kept(_Order.of(text, "", flags, compiler.TIME_LIMIT)) is not None


def build_all(
    sources: Iterable[tuple[str, str]],
    *,
    workers: int | None = None,
    time_limit: float = compiler.TIME_LIMIT,
    progress: Callable[[], None] = lambda: None,
) -> list[Path]:
    """`build` of many (text, what) at the same time, by default one for each core.

    `progress` is called whenever one is done. After an error no other one begins; of several
    errors the first source's is raised.
    """
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)
        workers = len(affinity(0)) if affinity else os.cpu_count()
    with ThreadPoolExecutor(workers) as pool:
        works = [pool.submit(build, *source, time_limit=time_limit) for source in sources]
        try:
            for work in as_completed(works):
                if work.exception() is not None:
                    break
                progress()
        finally:
            pool.shutdown(cancel_futures=True)
    return [work.result() for work in works if not work.cancelled()]


def load(
    text: str,
    what: str,
    functions: Mapping[str, Sequence[type] | None],
    *,
    flags: tuple[str, ...] = (),
    time_limit: float = compiler.TIME_LIMIT,
) -> Library:
    """`build` a library, load it and declare its functions' arguments (None: undeclared).

    `flags` are those of `build`.
    """
    ready = prebuilt.find(text)
    if ready is not None:
        _log.debug("%s is ready-made", what)
    library = ready or _compiled(_Order.of(text, what, flags, time_limit), functions)
    _names[prebuilt.name_of(text)] = None
    for name, arguments in functions.items():
        if arguments is not None:
            getattr(library, name).argtypes = arguments
    return library


def _compiled(order: _Order, functions: Iterable[str]) -> Library:
    key, what = order.key, order.what
    with exclusive(key):
        library = _loaded.get(key)
        if library is None:
            file = _built(order)
            try:
                library = _open(file)
            except OSError as error:  # in a folder whose files may not be executed, for example
                library = _load_from_elsewhere(error, order)
            lacking = [name for name in functions if not hasattr(library, name)]
            if lacking:
                file.unlink(missing_ok=True)
                raise CompileError(
                    f"{what} was compiled without its functions {', '.join(lacking)} by the "
                    f"compiler {compiler.compiler()}; name another one in $CXX"
                )
            _loaded[key] = library
    return library


def loaded() -> tuple[str, ...]:
    """The names of the libraries that this process has loaded, in that order (`name_of` texts)."""
    return tuple(_names)


def _open(file: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(file))
    except UnicodeDecodeError:  # ctypes cannot read the loader's message, which has the path
        raise OSError(f"{str(file)!r} is refused by the system's loader") from None


def _kept(order: _Order) -> Path | None:
    files = (place / f"{order.key}.so" for place in cache.trusted_folders())
    return next((file for file in files if _is_intact(file, order.key)), None)


def _built(order: _Order) -> Path:
    kept = _kept(order)
    if kept is not None:
        _log.debug("%s is in the cache: %s", order.what, kept)
        return kept
    try:
        return _make(cache.writable_folder(), order)
    except OSError as error:  # full, read-only, not to be trusted, or removed meanwhile
        return _make_elsewhere(error, order)


def _make_elsewhere(reason: OSError, order: _Order) -> Path:
    place = cache.temporary_folder(reason)
    try:
        return _make(place, order)
    except OSError as error:
        raise BackendUnavailableError(
            f"{order.what} can be compiled neither in the cache ({reason}) nor in {place} "
            f"({error}); {cache.REMEDY}"
        ) from None


def _load_from_elsewhere(reason: OSError, order: _Order) -> ctypes.CDLL:
    file = _make_elsewhere(reason, order)
    try:
        return _open(file)
    except OSError as error:
        raise BackendUnavailableError(
            f"{order.what} was compiled and cannot be loaded: {error}; name another C++ compiler "
            f"in $CXX, or {cache.REMEDY}"
        ) from None
