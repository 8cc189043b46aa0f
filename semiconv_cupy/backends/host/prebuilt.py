"""Ready-made libraries: machine code that a wheel brings, found by the text that it was made of.

``python -m kernels_cu build`` compiles what ``variants.ready_made_libraries`` lists into one shared
object for each level of the CPU's instructions. A function's name in it ends in the hash of its
library's text, so that code of another source is never found: its place is taken by compiling.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import sys
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import kernels_cu
from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.host.compiler import compiler, is_whole, missing_compiler
from semiconv_cupy.errors import warn_once
from semiconv_cupy.once import exclusive

# The levels of each machine's instructions, from the lowest, as `cpu_level` of
# kernels_cu/host/cpu_level.cpp counts them from 1. v1, which has no level of ours, is every x86-64.
LEVELS = {"x86_64": ("v1", "v2", "v3", "v4"), "aarch64": ("neon",)}
PROBE = "cpu_level"  # the library that says the level


class Part:
    """The functions of one text in a shared object of many; takes the place of a `ctypes.CDLL`."""

    def __init__(self, whole: ctypes.CDLL, name: str) -> None:
        self._whole, self._name = whole, name

    def __getitem__(self, function: str) -> Any:
        return getattr(self, function)

    def __getattr__(self, function: str) -> Any:
        found = self._whole[exported(function, self._name)]
        setattr(self, function, found)
        return found


def name_of(text: str) -> str:
    """The name of a text's library within a shared object of many."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def exported(function: str, name: str) -> str:
    """The symbol of an exported function of the library of that name."""
    return f"{function}_{name}"


def folder() -> Path:
    """The folder of the ready-made libraries, which is there only where some were built."""
    return kernels_cu.folder() / "prebuilt"


def file_name(library: str, system: str = sys.platform) -> str:
    """The file of a shared object on a system, as `sys.platform` names it."""
    return library + {"win32": ".dll", "darwin": ".dylib"}.get(system, ".so")


def machine(named: str | None = None) -> str:
    """This machine, or the one that a system names so, as `LEVELS` names it."""
    name = (platform.machine() if named is None else named).lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@lru_cache(maxsize=1)
def cpu_level() -> str | None:
    """The highest level whose instructions this CPU and its system have; None if unknown."""
    levels = LEVELS.get(machine(), ())
    file = folder() / file_name(PROBE)
    if not levels or not file.is_file():
        return None
    try:
        number: int = _opened(file).semiconv_cpu_level()
    except (OSError, AttributeError) as error:
        _warn(file, error)
        return None
    return levels[min(number, len(levels)) - 1]


def _allowed() -> tuple[str, ...]:
    """The levels that may be loaded, from the highest: $SEMICONV_PREBUILT may name a lower one."""
    level = cpu_level()
    if level is None:
        return ()
    levels = LEVELS[machine()]
    allowed = levels[: levels.index(level) + 1]
    named = os.environ.get("SEMICONV_PREBUILT", "")
    if named == "0":
        return ()
    if named:
        if named not in levels:
            raise ValueError(f"SEMICONV_PREBUILT={named!r} must be 0 or one of {', '.join(levels)}")
        allowed = allowed[: levels.index(named) + 1]
    return allowed[::-1]


@lru_cache(maxsize=1)
def level() -> str | None:
    """The level that is loaded: the highest one that is there and that the CPU has."""
    found = _loaded()
    return None if found is None else found[0]


@lru_cache(maxsize=1)
def _loaded() -> tuple[str, Path, ctypes.CDLL] | None:
    if not folder().is_dir():
        return None
    for name in _allowed():
        file = folder() / file_name(name)
        if file.is_file():
            try:
                return name, file, _opened(file)
            except OSError as error:
                _warn(file, error)
    return None


def _opened(file: Path) -> ctypes.CDLL:
    if not is_whole(file):  # the system would map it, and kill who reads beyond its end
        raise OSError("it is not complete")
    return ctypes.CDLL(str(file))


def describe() -> str:
    """Which ready-made libraries are used."""
    found = _loaded()
    if found is None:
        has = f"; the CPU has {cpu_level()}" if cpu_level() else ""
        return f"none in {folder()}{has}"
    return f"{found[1]} ({found[1].stat().st_size / 2**20:.1f} MiB; the CPU has {cpu_level()})"


def _warn(file: Path, error: Exception) -> None:
    warn_once(
        "a ready-made library",
        f"the ready-made {file} cannot be loaded ({error}); what it holds is compiled instead. "
        "Install semiconv-cupy again",
    )


# One of them is in every library.
_EXPORTED_BY_ALL = ("semiconv_use_threads", *source.pool_of_threads().exports)


def find(text: str) -> Part | None:
    """The ready-made library of a text; None where there is none."""
    found = _loaded()
    if found is None:
        return None
    part = Part(found[2], name_of(text))
    return part if any(hasattr(part, function) for function in _EXPORTED_BY_ALL) else None


def file_of(text: str) -> Path | None:
    """The shared object that holds a text's library; None where there is none."""
    found = _loaded()
    return None if found is None or find(text) is None else found[1]


@cache
def has(text: str) -> bool:
    """Whether a text's library is ready-made here."""
    return find(text) is not None


def serves(text: str) -> bool:
    """Whether a text's library can be had: ready-made, or by a compiler."""
    return compiler() is not None or has(text)


@cache
def _has_semifield(semifield: Semifield, storage: str) -> bool:
    with exclusive("the semifields' formulas"):  # SymPy is not safe for several threads
        text = source.host_library(semifield, storage, "forward")
    return has(text)


def obstacle(semifield: Semifield, storage: str) -> str | None:
    """Why the CPU's kernels of a semifield cannot run here; None where they can.

    Where one of its libraries is ready-made, all are.
    """
    if compiler() is not None or _has_semifield(semifield.unbound, storage):
        return None
    return missing_compiler()
