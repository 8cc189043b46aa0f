"""The folder that keeps compiled libraries: which one, whether it is trusted, and what replaces it.

A folder is used only if nobody but this user (and root) can write to it. Called by ``libraries``;
``info`` prints what `describe` and `problem` say.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from semiconv_cupy.errors import BackendUnavailableError, warn
from semiconv_cupy.once import exclusive

REMEDY = "set SEMICONV_CACHE_DIR to a folder in which, and in whose parents, only you can write"

_replacement: Path | None = None  # the temporary folder of a process that cannot use its cache

try:
    _STARTED_IN = os.getcwd()
except OSError:  # it was removed
    _STARTED_IN = ""


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


def distrust(path: Path, system: str = os.name) -> str | None:
    """Why somebody else may put libraries into a folder; None if only this user and root may.

    The path is resolved, as `folder` returns it. Folders that do not exist yet are skipped. On
    Windows the rights of a file are those of its folder, and a user's profile is their own.
    """
    if system != "posix":
        profile = Path(os.path.realpath(os.path.expanduser("~")))
        return None if path.is_relative_to(profile) else f"{path} is not in {profile}"
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
    """Why the cache folder cannot be used; None if it can. Nothing is made or changed."""
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


def trusted_folders() -> Iterator[Path]:
    """The folders from which this process may load libraries."""
    try:
        usual = folder()
    except OSError:
        pass
    else:
        if distrust(usual) is None:
            yield usual
    if _replacement is not None:
        yield _replacement


def writable_folder() -> Path:
    """The folder in which libraries are compiled; it is made if it does not exist.

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


def temporary_folder(reason: OSError) -> Path:
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
