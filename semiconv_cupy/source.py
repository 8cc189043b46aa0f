"""From a kernel's specification to its final source text.

Python writes ``#define`` lines and names files; the C++ itself lives in ``kernels_cu`` and is
inlined here, so that one text (and its hash) is all that a compiler and a cache need. Called by the
backends and by ``python -m kernels_cu report``.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Literal, NamedTuple

import numpy as np

from semiconv_cupy.algebra import SelectSemifield, Semifield
from semiconv_cupy.algebra.slopes import slope_definitions

FLOATING = ("float16", "bfloat16", "float32", "float64")
INTEGER = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
BOOLEAN = "bool"
_STORAGE = {name: name for name in FLOATING + INTEGER} | {BOOLEAN: "boolean"}
# The dtype of arithmetic, and so of gradients' weights and residuals, on a storage dtype.
ARITHMETIC = {name: name for name in FLOATING + INTEGER} | {
    "float16": "float32",
    "bfloat16": "float32",
    BOOLEAN: "uint8",
}


def itemsize(storage: str) -> int:
    """Bytes of one element."""
    return 2 if storage == "bfloat16" else np.dtype(storage).itemsize


class HostSource(NamedTuple):
    """A library of ``kernels_cu/host``: its text, its name in messages, its exported functions."""

    text: str
    what: str
    exports: tuple[str, ...]


# The functions of kernels_cu/host/exports.hpp, which every library exports but the pool of threads.
COMMON_EXPORTS = ("semiconv_geometry_size", "semiconv_use_threads")

_INCLUDE = re.compile(r'^#include "([^"]+)"\s*$', re.MULTILINE)


@dataclass(frozen=True)
class KernelSource:
    """One function ready for a compiler: its name, the whole text, the compiler's options."""

    name: str
    text: str
    options: tuple[str, ...] = ()


@cache
def inlined(path: str) -> str:
    """The text of ``kernels_cu/<path>`` with every quoted include replaced by its text, once."""
    seen: set[str] = set()

    def expand(name: str, folder: str) -> str:
        root = resources.files("kernels_cu")
        for candidate in (posixpath.normpath(f"{folder}/{name}"), name):
            if root.joinpath(candidate).is_file():
                break
        else:
            raise FileNotFoundError(f"kernels_cu/{path} includes {name}, which is not there")
        if candidate in seen:
            return ""
        seen.add(candidate)
        text = root.joinpath(candidate).read_text().replace("#pragma once\n", "")
        inside = candidate.rpartition("/")[0]
        return _INCLUDE.sub(lambda match: expand(match[1], inside), text)

    return expand(path, "")


def arithmetic_of(storage: str) -> str:
    """The arithmetic of a storage dtype, as `CompiledSemifield.definitions` names it."""
    if storage in FLOATING:
        return "floating"
    return "bool" if storage == BOOLEAN else "integer"


@lru_cache(maxsize=1000)
def bits_on_the_way(semifield: Semifield, storage: str) -> Literal[64, 128]:
    """The bits in which a selection computes what its integers' own do not hold.

    Raises
    ------
    TypeError
        128 do not hold it, or the semifield has no meaning in integers.
    """
    semifield.definitions("integer")  # refuses all but selections
    assert isinstance(semifield, SelectSemifield)
    limits = np.iinfo(storage)
    largest = semifield.largest_on_the_way(max(-int(limits.min), int(limits.max)))
    if largest < 2**63:
        return 64
    if largest < 2**127:
        return 128
    raise TypeError(
        f"{semifield!r} cannot work on {storage} arrays: its functions compute numbers of more "
        "than 128 bits; convert the arrays to a smaller integer dtype or to float64"
    )


def storage_macros(storage: str) -> dict[str, str]:
    """The macros of a kernel that needs no semifield, only a storage dtype."""
    macros = {"SEMICONV_STORAGE": _STORAGE[storage]}
    if arithmetic_of(storage) != "floating":
        macros["SEMICONV_INTEGER"] = ""
    return macros


def definitions(semifield: Semifield, storage: str) -> dict[str, str]:
    """The macros of one semifield on one storage dtype; ``kernels_cu/README.md`` explains each."""
    arithmetic = arithmetic_of(storage)
    macros = {"SEMICONV_STORAGE": _STORAGE[storage]}
    macros |= semifield.definitions(arithmetic)
    if semifield.accumulator in ("log", "root", "sum"):
        macros[f"SEMICONV_{semifield.accumulator.upper()}"] = ""
        for function in ("ADD", "SUBTRACT", "D_ADD_D_RIGHT"):  # of an addition that is folded
            macros.pop(f"SEMICONV_{function}", None)
    if semifield.own:
        macros["SEMICONV_OWN"] = str(len(semifield.own))
    if arithmetic == "integer" and bits_on_the_way(semifield, storage) == 128:
        macros["SEMICONV_INT128"] = ""
    traits = semifield.traits(arithmetic)
    if traits.offset is not None:
        macros["SEMICONV_PLAIN_TIMES"] = traits.offset
    if traits.takes is not None:
        macros[f"SEMICONV_SELECT_{traits.takes.upper()}"] = ""
    flags = {
        "SUM_OF_PRODUCTS": traits.is_sum_of_products,
        "DROP_ZERO_WEIGHTS": traits.drops_zero_weights,
        "SPREAD_GRADIENT": semifield.spread_gradient,
        "CHANNELS_ADD": semifield.channels_add,
        "CONSTANT_DERIVATIVES": semifield.d_times_constant,
        "INTEGER": arithmetic != "floating",
        "WIDE_TIMES": traits.wide_times,
        "WIDE_SELECT": traits.wide_select,
    }
    return macros | {f"SEMICONV_{name}": "" for name, holds in flags.items() if holds}


def known_kind(semifield: Semifield) -> dict[str, str]:
    """The macro of a CUDA kernel for a root of which more is known than that it is one.

    Loops for all kinds of p in one kernel would need more registers, and minutes of compilation.
    """
    return {"SEMICONV_KIND": semifield.nature} if semifield.nature else {}


def assemble(path: str, macros: dict[str, str]) -> str:
    """The final text of ``kernels_cu/<path>`` under the given macros."""
    lines = [f"#define {name} {text}".rstrip() for name, text in macros.items()]
    return "\n".join(lines) + "\n" + inlined(path)


@cache
def pool_of_threads() -> HostSource:
    """The library whose threads all others share."""
    exports = ("semiconv_run_on_threads",)
    return HostSource(inlined("host/threads.cpp"), "the pool of threads", exports)


def host_library(semifield: Semifield, storage: str, part: str) -> str:
    """The source of a shared object for one semifield and dtype; part names a host/*.cpp file."""
    macros = definitions(semifield, storage)
    if part.endswith("_slopes"):
        macros |= slope_definitions(semifield)
    return assemble(f"host/{part}.cpp", macros)
