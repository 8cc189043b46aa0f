"""The compiled functions of ``kernels_cu/host``: found or compiled, loaded, given threads.

``calls`` calls those of convolutions, ``products`` those of matrix products, ``ndimage`` its own.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.algebra.slopes import kept_slopes
from semiconv_cupy.backends import by_sums
from semiconv_cupy.backends.host import libraries
from semiconv_cupy.errors import CompileError
from semiconv_cupy.once import exclusive
from semiconv_cupy.residual import residual_of_terms

# ---- libraries ---------------------------------------------------------------------------------

Library: TypeAlias = libraries.Library
_libraries: dict[tuple[object, str, str], Library] = {}


def library(semifield: Semifield, storage: str, part: str) -> Library:
    """The compiled functions of one semifield on one storage dtype; part as in `_ARGUMENTS`."""
    semifield = semifield.unbound
    key = (semifield, storage, part)
    found = _libraries.get(key)
    if found is None:
        functions = {f"semiconv_{part}": _ARGUMENTS[part]}
        own_source, walk = source_of(semifield, storage, part), _WALKS.get(part)
        if walk is None:
            found = open_library(*own_source, functions)
        else:
            # Both are compiled at the same time. If both fail, the semifield's error is raised.
            libraries.build_all([own_source, _source_of_walk(walk.file, storage)])
            found = open_library(*own_source, functions | {"semiconv_use_walk": (_POINTER,)})
            found.semiconv_use_walk(_function_of(walk, storage))
        size, own = found.semiconv_geometry_size(), ctypes.sizeof(structs.Geometry)
        if size != own:
            raise CompileError(f"geometry.cuh holds {size} bytes, structs.Geometry {own}")
        _libraries[key] = found
    return found


class _Walk(NamedTuple):
    """A library that knows a storage dtype and no semifield, so that one serves all semifields."""

    file: str  # kernels_cu/host/<file>.cpp
    function: str  # the function of it that a semifield's library receives


# A walk cuts up the work, or (`tile_functions`) has the functions with which a part does so itself.
_TILES, _BLOCKS = _Walk("over_tiles", "over_tiles"), _Walk("over_blocks", "over_blocks")
_WALKS = {
    **dict.fromkeys(("forward", "forward_residual", "forward_slopes"), _TILES),
    **dict.fromkeys(
        ("backward", "by_sums", "by_sums_slopes", "by_sums_backward"),
        _TILES._replace(function="tile_functions"),
    ),
    **dict.fromkeys(
        (
            "product", "product_residual", "product_slopes", "product_by_sums",
            "product_by_sums_backward", "product_linear_backward",
        ),
        _BLOCKS,
    ),
}  # fmt: skip
_EXPORTS_OF_WALKS = {
    "over_tiles": ("over_tiles", "tile_functions"),
    "over_blocks": ("over_blocks",),
}


def library_names(semifield: Semifield, storage: str, part: str) -> tuple[str, ...]:
    """What `library` builds besides the pool of threads, in words: its own text, then its walk."""
    own, walk = f"{part} of {semifield!r} on {storage}", _WALKS.get(part)
    return (own,) if walk is None else (own, f"{walk.file} on {storage}")


@cache
def _function_of(walk: _Walk, storage: str) -> ctypes.c_void_p:
    """The function of a walk for a storage dtype."""
    name = f"semiconv_{walk.function}"
    loaded = open_library(*_source_of_walk(walk.file, storage), {name: None})
    return ctypes.cast(loaded[name], ctypes.c_void_p)


def sources_of(semifield: Semifield, storage: str, part: str) -> Iterator[source.HostSource]:
    """What `library` loads besides the pool of threads, with the functions that each exports."""
    walk = _WALKS.get(part)
    own = (*source.COMMON_EXPORTS, f"semiconv_{part}")
    if walk is None:
        yield source.HostSource(*source_of(semifield, storage, part), own)
    else:
        own_source = source_of(semifield, storage, part)
        yield source.HostSource(*own_source, (*own, "semiconv_use_walk"))
        exports = (f"semiconv_{function}" for function in _EXPORTS_OF_WALKS[walk.file])
        yield source.HostSource(
            *_source_of_walk(walk.file, storage), (*source.COMMON_EXPORTS, *exports)
        )


def parts_of(semifield: Semifield, storage: str) -> Iterator[str]:
    """The parts that calls of a semifield on a storage dtype may need."""
    yield from ("forward", "product")
    floating = storage in source.FLOATING
    keeps = residual_of_terms(semifield, storage, (), 1) is not None
    if keeps and (floating or semifield.accumulator == "select"):  # integers return indices
        yield from ("forward_residual", "product_residual")
    if floating:
        yield from ("backward", "product_backward")
    if kept_slopes(semifield) if semifield.own else semifield.parameters:
        yield from ("forward_slopes", "product_slopes")
    if floating and by_sums.applies(semifield):
        yield from (
            "by_sums", "by_sums_backward", "product_by_sums", "product_by_sums_backward",
        )  # fmt: skip
        if semifield.parameters:
            yield "by_sums_slopes"
    if floating and semifield.differentiates_by_factors:
        yield "product_linear_backward"


def _source_of_walk(file: str, storage: str) -> tuple[str, str]:
    text = source.assemble(f"host/{file}.cpp", source.storage_macros(storage))
    return text, f"kernels_cu/host/{file}.cpp on {storage}"


def source_of(semifield: Semifield, storage: str, part: str) -> tuple[str, str]:
    """The text of a library and its name in messages, as `libraries.build` takes them."""
    with exclusive("the semifields' formulas"):  # SymPy is not safe for several threads
        return source.host_library(semifield, storage, part), f"{semifield!r} on {storage}"


_POINTER, _COUNT, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
# The exported function of each kernels_cu/host/*.cpp is semiconv_<part>.
_ARGUMENTS: dict[str, tuple[type, ...]] = {
    "forward": (*(_POINTER,) * 4, _FLAG, _FLAG),
    "by_sums": (*(_POINTER,) * 4, _FLAG, _FLAG),
    "by_sums_slopes": (*(_POINTER,) * 5, _COUNT, _COUNT, _FLAG, _FLAG),
    "forward_residual": (*(_POINTER,) * 5, _COUNT, _COUNT, _FLAG, _FLAG),
    "forward_slopes": (*(_POINTER,) * 5, _COUNT, _COUNT, _FLAG, _FLAG),
    "backward": (*(_POINTER,) * 5, _COUNT, _COUNT, *(_POINTER,) * 3, _FLAG, _FLAG),
    "by_sums_backward": (*(_POINTER,) * 7, _FLAG, _FLAG),
    "product": (*(_POINTER,) * 4, _FLAG),
    "product_by_sums": (*(_POINTER,) * 4, _FLAG),
    "product_by_sums_backward": (*(_POINTER,) * 7, _FLAG),
    "product_linear_backward": (*(_POINTER,) * 7, _FLAG),
    "product_backward": (*(_POINTER,) * 6, _COUNT, _COUNT, _POINTER, _POINTER, _FLAG),
    "product_residual": (*(_POINTER,) * 5, _COUNT, _COUNT, _FLAG),
    "product_slopes": (*(_POINTER,) * 5, _COUNT, _COUNT, _FLAG),
}


def open_library(text: str, what: str, functions: Mapping[str, Sequence[type] | None]) -> Library:
    """Load any library of kernels_cu/host, and give it the threads of this process."""
    loaded = libraries.load(text, what, {"semiconv_use_threads": None, **functions})
    loaded.semiconv_use_threads(_run_on_threads())
    return loaded


@cache
def _run_on_threads() -> ctypes.c_void_p:
    """The function of the one pool of threads, which all libraries share."""
    text, what, exports = source.pool_of_threads()
    pool = libraries.load(text, what, dict.fromkeys(exports))
    return ctypes.cast(pool.semiconv_run_on_threads, ctypes.c_void_p)


@cache
def threads() -> int:
    """How many threads a call may use: $OMP_NUM_THREADS, else one for each usable core."""
    named = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if named.isdecimal() and int(named) > 0:
        return int(named)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_threads(count: int) -> None:
    """Let calls that are planned from now on use so many threads."""
    os.environ["OMP_NUM_THREADS"] = str(count)
    threads.cache_clear()


def check(status: int, what: str) -> None:
    """Raise for a status that is not success."""
    if status:
        raise MemoryError(f"not enough memory for the scratch of {what}")


# ---- threads -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The least work for which a second thread saves more than it costs.

    Attributes
    ----------
    terms : int
        Measured in terms of a maximum or a plain sum: some 50 microseconds of one thread.
    output : int
        The fixed cost of an output, counted in terms.
    expensive : int
        Terms of that kind that one term of log, root or a user's own addition costs.
    """

    terms: int = 1_000_000
    output: int = 64
    expensive: int = 16


LIMITS = Limits()


def workers(
    semifield: Semifield, outputs: int, terms: int, limits: Limits = LIMITS
) -> Callable[[int | None], int]:
    """(the most threads that a call may have, None: `threads`) -> the threads that it gets.

    `terms` counts those of one output.
    """
    term = 1 if semifield.accumulator in ("select", "sum") else limits.expensive
    if outputs * (terms * term + limits.output) < limits.terms:
        return lambda most: 1
    return lambda most: min(threads(), most or sys.maxsize)


# ---- arrays ------------------------------------------------------------------------------------


def aligned(array: np.ndarray) -> bool:
    """Whether the array's strides are whole elements and its numbers the machine's own."""
    return (
        array.flags.aligned
        and array.dtype.isnative
        and not any(stride % array.itemsize for stride in array.strides)
    )


class _Head(ctypes.Structure):
    """How the object of every NumPy array begins: ``PyArrayObject`` of NumPy's C interface."""

    _fields_ = (("object", ctypes.c_byte * object.__basicsize__), ("data", ctypes.c_void_p))


_head_at = _Head.from_address


def _by_head(array: np.ndarray) -> int:
    return _head_at(id(array)).data or 0


def _by_interface(array: np.ndarray) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


def _address_function() -> Callable[[np.ndarray], int]:
    """The function `address`: by the array's head where an `id` is the address of an object.

    That takes 0.3 microseconds instead of 1.5, for each of a small call's three arrays.
    """
    if sys.implementation.name == "cpython":
        probe = np.zeros(3)
        if _by_head(probe) == _by_interface(probe):
            return _by_head
    return _by_interface


# The address of an array's first element.
address = _address_function()


def address_or_none(array: np.ndarray | None) -> int | None:
    """The address of an array; None for None."""
    return None if array is None else address(array)
