"""Compiled libraries: the folder that keeps them, what in it may be loaded, and how.

A library is loaded only if nobody but this user (and root) can have written it and if it is
complete; otherwise it is compiled anew. Called by the two host backends; knows no semifields.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from semiconv_cupy.backends.host import compiler
from semiconv_cupy.errors import BackendUnavailableError, CompileError, warn
from semiconv_cupy.once import exclusive

_DIGEST = hashlib.sha256().digest_size
_LARGEST = 1 << 28  # bytes; no library of ours is larger than a few MiB
_STALE = 2 * compiler.LONGEST_TIME_LIMIT  # seconds
REMEDY = "set SEMICONV_CACHE_DIR to a folder in which, and in whose parents, only you can write"

_loaded: dict[str, ctypes.CDLL] = {}
_replacement: Path | None = None  # the temporary folder of a process that cannot use its cache
_warned_of_file = False

try:
    _STARTED_IN = os.getcwd()
except OSError:  # it was removed
    _STARTED_IN = ""


# ---- the folder ----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def folder() -> Path:
    """The cache folder, resolved once: $SEMICONV_CACHE_DIR, else the user's cache folder.

    A relative path starts at the folder in which this module was imported. The folder need not
    exist, nor be one that may be used: see `distrust`.

    Raises
    ------
    OSError
        If there is no absolute path: without a home folder, for example.
    """
    import platformdirs  # 10 ms that a process which compiles nothing need not spend

    named = os.environ.get("SEMICONV_CACHE_DIR")
    if named:
        path = os.path.expanduser(named)
        if path.startswith("~"):
            raise OSError(f"SEMICONV_CACHE_DIR={named!r} names an unknown home folder")
        path = os.path.join(_STARTED_IN, path)
    else:
        try:
            path = platformdirs.user_cache_dir("semiconv_cupy", appauthor=False)
        except RuntimeError as error:
            raise OSError(str(error)) from None
    if not os.path.isabs(path):
        raise OSError(f"its path is relative: {path!r}; is HOME set?")
    return Path(os.path.realpath(path))


def distrust(path: Path) -> str | None:
    """Why somebody else may put libraries into a folder; None if only this user and root may.

    The path is resolved, as `folder` returns it; what does not exist yet is left out.
    """
    for place in (path, *path.parents):
        try:
            status = place.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{place}: {error.strerror}"
        if not stat.S_ISDIR(status.st_mode):
            return f"{place} is not a folder"
        if status.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to another user (uid {status.st_uid})"
        mode = stat.S_IMODE(status.st_mode)
        others_write = mode & 0o002 or (mode & 0o020 and not _is_private(status.st_gid))
        # In a folder with the sticky bit others can neither remove nor rename what is ours.
        if others_write and (place == path or not mode & stat.S_ISVTX):
            return f"others may write to {place} (mode {mode:04o})"
    return None


def problem() -> str | None:
    """Why the cache folder cannot be used, if so; nothing is made or changed."""
    try:
        usual = folder()
    except OSError as error:
        return str(error)
    reason = distrust(usual)
    if reason is None:
        nearest = next(place for place in (usual, *usual.parents) if place.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            reason = f"{nearest} cannot be written"
    return reason


def describe() -> str:
    """The cache folder, how many libraries of which size it keeps, and whether it is trusted."""
    usual = folder()
    if not usual.exists():
        kept = "not made yet"
    else:
        with os.scandir(usual) as entries:
            sizes = [
                entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if entry.name.endswith(".so") and entry.is_file(follow_symlinks=False)
            ]
        kept = f"{len(sizes)} libraries, {sum(sizes) / 2**20:.1f} MiB"
    reason = distrust(usual)
    trusted = "trusted" if reason is None else f"not trusted: {reason}"
    return f"{usual} ({kept}, {trusted})"


def _is_private(group: int) -> bool:
    """Whether a group is root's, or has no member but this user.

    Where each user has a group of that name, an umask of 002 is usual.
    """
    import grp
    import pwd

    if group == 0:
        return True
    try:
        found, user = grp.getgrgid(group), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return found.gr_name == user and set(found.gr_mem) <= {user}


def _trusted_folders() -> Iterator[Path]:
    """Where a library of this process may lie."""
    try:
        usual = folder()
    except OSError:
        pass
    else:
        if distrust(usual) is None:
            yield usual
    if _replacement is not None:
        yield _replacement


def _writable_folder() -> Path:
    """Where libraries are compiled; made if it does not exist.

    Raises
    ------
    OSError
        If there is none, or it cannot be trusted.
    """
    if _replacement is not None:
        return _replacement
    usual = folder()
    missing = [place for place in (usual, *usual.parents) if not place.exists()]
    reason = distrust(usual)
    if reason:
        raise OSError(reason)
    for place in reversed(missing):
        try:
            place.mkdir(0o700)
            place.chmod(0o700)  # whatever the umask
        except FileExistsError:  # made by another process
            continue
    reason = distrust(usual)
    if reason:
        raise OSError(reason)
    return usual


def _temporary_folder(reason: OSError) -> Path:
    """The folder that replaces a cache which cannot be used; a warning says why, once."""
    global _replacement
    with exclusive("the temporary folder"):
        if _replacement is not None and _replacement.is_dir():
            return _replacement
        try:
            usual = tempfile.gettempdir()
            places = [place for place in (usual, "/tmp", "/var/tmp") if os.access(place, os.W_OK)]
            trusted = [place for place in places if not _open_to_others(place)]
            made = tempfile.mkdtemp(prefix="semiconv_cupy-", dir=(trusted or [usual])[0])
            os.chmod(made, 0o700)
        except OSError as error:
            raise BackendUnavailableError(
                f"compiled kernels can be kept neither in the cache ({reason}) nor in a temporary "
                f"folder ({error}); {REMEDY}"
            ) from None
        _replacement = replacement = Path(made)
        atexit.register(_remove, replacement, os.getpid())
    open_to_others = "" if trusted else ", to whose parents others may write"
    warn(
        f"the cache of compiled kernels cannot be used ({reason}); this process uses "
        f"{replacement}{open_to_others}, and the next one will compile again; {REMEDY}"
    )
    return replacement


def _open_to_others(place: str) -> bool:
    """Whether others may rename what is made in this folder."""
    return distrust(Path(os.path.realpath(place), "made")) is not None


def _remove(made: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a child that was forked
        shutil.rmtree(made, ignore_errors=True)


# ---- files ---------------------------------------------------------------------------------------


def _key(text: str) -> str:
    """The name of a text's library: whatever decides about its bytes."""
    return hashlib.sha256("\0".join((text, *_identity())).encode()).hexdigest()[:32]


def _identity() -> tuple[str, ...]:
    command, version, machine = compiler.toolchain()
    return (*command, version, machine, "digest at the end")


def _digest(key: str, body: bytes) -> bytes:
    """What follows a library in its file; with the key, so that files cannot change places."""
    return hashlib.sha256(key.encode() + body).digest()


def _is_intact(file: Path, key: str) -> bool:
    """Whether a file is a library as this user (or root) wrote it, complete and unchanged.

    It is loaded by its path afterwards. Between the two only those who may write to the folder
    could exchange it, which are the same; a path by descriptor (/proc/self/fd/N) would not do, as
    the loader recognises a loaded library by its path, and descriptors are used again.
    """
    try:
        # A FIFO would block, were it not for O_NONBLOCK.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(file, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            _warn_of_file(file, "it is a symbolic link")
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            return False
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid not in (0, os.geteuid()):
            _warn_of_file(file, f"it belongs to another user (uid {status.st_uid})")
            return False
        if mode & 0o022:
            _warn_of_file(file, f"others may write to it (mode {mode:04o})")
            return False
        with open(descriptor, "rb", closefd=False) as opened:
            content = opened.read()
    except OSError:  # of the device, or of a network that lost the file: compile it again
        return False
    finally:
        os.close(descriptor)
    return content[-_DIGEST:] == _digest(key, content[:-_DIGEST])


def _warn_of_file(file: Path, reason: str) -> None:
    global _warned_of_file
    if not _warned_of_file:
        _warned_of_file = True
        warn(
            f"{file} is not loaded, as {reason}; it is compiled again. Find out who changed it, or "
            f"{REMEDY}"
        )


def _make(place: Path, key: str, text: str, what: str, time_limit: float) -> Path:
    """Compile into a folder, unless another process does; return the library's file."""
    library = place / f"{key}.so"
    _remove_leftovers(place)
    with _first_of_all_processes(place / f"{key}.lock", time_limit):
        if not _is_intact(library, key):  # no other process made it meanwhile
            _compile_into(library, key, text, what, time_limit)
    return library


def _compile_into(library: Path, key: str, text: str, what: str, time_limit: float) -> None:
    place = library.parent
    build = Path(tempfile.mkdtemp(prefix="build-", dir=place))
    try:
        build.chmod(0o700)
        made = compiler.compile_library(text, what, build, time_limit=time_limit)
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


@contextlib.contextmanager
def _first_of_all_processes(lock: Path, time_limit: float) -> Iterator[None]:
    """Let other processes that want the same library wait until it is there.

    Only a saving: whoever gets no lock (a file system without any, a process that was stopped
    while it held one) compiles as well, and both rename a complete file. The system frees the lock
    of a process that dies.
    """
    import fcntl  # not on Windows, where nothing is compiled

    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(lock, flags, 0o600)
    except OSError:  # something else has this name
        yield
        return
    try:
        end = time.monotonic() + time_limit
        while time.monotonic() < end:
            try:
                # A lock that a forked child does not inherit, unlike flock's.
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _write(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as opened:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        opened.write(content)
        opened.flush()
        os.fsync(descriptor)


def _synchronise(place: Path) -> None:
    """Make a rename in a folder permanent."""
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


def build(text: str, what: str, *, time_limit: float = compiler.TIME_LIMIT) -> Path:
    """The file of a C++ text's shared object, compiled unless an intact one is in the cache.

    Different libraries are compiled at the same time where several threads call.

    Parameters
    ----------
    text : str
        The whole source.
    what : str
        What the library computes, for messages.
    time_limit : float
        Seconds for the compiler.

    Raises
    ------
    CompileError
        The text does not compile.
    BackendUnavailableError
        No compiler, or no folder at all.
    """
    key = _key(text)
    with exclusive(key):
        return _built(key, text, what, time_limit)


def build_all(
    sources: Iterable[tuple[str, str]],
    *,
    workers: int | None = None,
    time_limit: float = compiler.TIME_LIMIT,
) -> list[Path]:
    """`build` of many (text, what) at the same time, by default one for each core."""
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)
        workers = len(affinity(0)) if affinity else os.cpu_count()
    with ThreadPoolExecutor(workers) as pool:
        works = [pool.submit(build, *source, time_limit=time_limit) for source in sources]
        return [work.result() for work in works]


def load(
    text: str,
    what: str,
    functions: Mapping[str, Sequence[type] | None],
    *,
    time_limit: float = compiler.TIME_LIMIT,
) -> ctypes.CDLL:
    """`build` a library, load it and declare its functions' arguments (None: as they come)."""
    key = _key(text)
    with exclusive(key):
        library = _loaded.get(key)
        if library is None:
            file = _built(key, text, what, time_limit)
            try:
                library = _open(file)
            except OSError as error:  # in a folder whose files may not be executed, for example
                library = _load_from_elsewhere(error, key, text, what, time_limit)
            lacking = [name for name in functions if not hasattr(library, name)]
            if lacking:
                file.unlink(missing_ok=True)
                raise CompileError(
                    f"{what} was compiled without its functions {', '.join(lacking)} by the "
                    f"compiler {compiler.compiler()}; name another one in $CXX"
                )
            _loaded[key] = library
    for name, arguments in functions.items():
        if arguments is not None:
            getattr(library, name).argtypes = arguments
    return library


def loaded() -> tuple[str, ...]:
    """The keys of the libraries that this process has loaded, in that order."""
    return tuple(_loaded)


def _open(file: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(file))
    except UnicodeDecodeError:  # ctypes cannot read the loader's message, which has the path
        raise OSError(f"{str(file)!r} is refused by the system's loader") from None


def _built(key: str, text: str, what: str, time_limit: float) -> Path:
    for place in _trusted_folders():
        library = place / f"{key}.so"
        if _is_intact(library, key):
            return library
    try:
        return _make(_writable_folder(), key, text, what, time_limit)
    except OSError as error:  # full, read-only, not to be trusted, or removed meanwhile
        return _make_elsewhere(error, key, text, what, time_limit)


def _make_elsewhere(reason: OSError, key: str, text: str, what: str, time_limit: float) -> Path:
    place = _temporary_folder(reason)
    try:
        return _make(place, key, text, what, time_limit)
    except OSError as error:
        raise BackendUnavailableError(
            f"{what} can be compiled neither in the cache ({reason}) nor in {place} ({error}); "
            f"{REMEDY}"
        ) from None


def _load_from_elsewhere(
    reason: OSError, key: str, text: str, what: str, time_limit: float
) -> ctypes.CDLL:
    file = _make_elsewhere(reason, key, text, what, time_limit)
    try:
        return _open(file)
    except OSError as error:
        raise BackendUnavailableError(
            f"{what} was compiled and cannot be loaded: {error}; name another C++ compiler in "
            f"$CXX, or {REMEDY}"
        ) from None
