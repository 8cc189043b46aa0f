"""Public functions that also take arrays in chunks (Dask's), and arrays of every GPU.

Where a function reads its arguments, `refuse_chunks` raises `ChunkedArgument`, and
`Place.require_current` `NotCurrentError`. The decorator `by_chunks` catches them: it hands chunks
to what `open_with` has set, which computes them later, and repeats the call on the arrays' GPU.
This file imports nothing above it, and a call with arrays in memory passes through one ``try``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from semiconv_cupy.errors import NotCurrentError

_P = ParamSpec("_P")
_R = TypeVar("_R")


class ChunkedArgument(TypeError):
    """An argument is a Dask array; the message is for functions that do not take any."""


def is_chunked(value: object) -> bool:
    """Whether this is a Dask array; Dask is not imported for it."""
    core = sys.modules.get("dask.array.core")
    return core is not None and isinstance(value, core.Array)


def refuse_chunks(name: str, value: object) -> None:
    """ChunkedArgument for a Dask array."""
    if is_chunked(value):
        raise ChunkedArgument(
            f"{name} is a Dask array, which this function does not take: pass {name}.compute()"
        )


def by_chunks(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, which for Dask arrays returns Dask arrays (``semiconv_cupy.dask``).

    CuPy arrays may lie on any GPU, all on one: that GPU is the current one during the call.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except ChunkedArgument:
            if not _opened:
                raise
            elsewhere = None
        except NotCurrentError as error:
            elsewhere = error
        if elsewhere is not None:
            return _on_its_gpu(elsewhere, function, args, kwargs)
        later: _R = _opened[0](call, args, kwargs)
        return later

    return call


def _on_its_gpu(
    elsewhere: NotCurrentError, function: Callable[..., _R], args: Any, kwargs: Any
) -> _R:
    """Repeat a call while the GPU of its arrays is the current one."""
    with elsewhere.on_its_gpu():
        try:
            return function(*args, **kwargs)
        except NotCurrentError as other:
            raise TypeError(
                f"all arrays must be on one GPU: {elsewhere.where}, {other.where}"
            ) from None


# What computes a function of Dask arrays; set by the package when it is imported.
_opened: list[Callable[..., Any]] = []


def open_with(compute: Callable[..., Any]) -> None:
    """Let `compute(function, args, kwargs)` answer calls with Dask arrays."""
    _opened[:] = [compute]
