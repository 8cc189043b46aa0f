"""`prepare`: what calls will need is compiled before they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import SelectSemifield, Semifield, SubtractSemifield
from semiconv_cupy.algebra.names import READY_MADE, no_semifield, semifield_of
from semiconv_cupy.backends.host import libraries
from semiconv_cupy.errors import integer
from semiconv_cupy.progress import bar

_FILTERS = "ndimage"


def prepare(
    semifields: Sequence[Semifield | str] | None = None,
    dtypes: Sequence[Any] = ("float32",),
    *,
    jobs: int | None = None,
) -> int:
    """Compile ahead what calls on the CPU need, in parallel; a later call then waits for nothing.

    For each semifield and dtype: convolutions and matrix products, what they keep for the
    derivative, and the gradients. What is ready-made or in the cache is not compiled again. A bar
    shows the progress on a terminal, where tqdm is installed.

    Parameters
    ----------
    semifields : sequence of semifield or str, optional
        Semifields; names such as ``"tropical_max"`` or ``"log(2)"``; ``"ndimage"`` for the
        functions of `semiconv_cupy.ndimage`. Default: every name without a parameter, and
        ``"ndimage"``.
    dtypes : sequence of dtype, optional
        Of arrays; ``"bfloat16"`` is that of tensors. A dtype in which a semifield has no meaning
        is left out for it.
    jobs : int, optional
        Compilers at the same time; default: one for each core.

    Returns
    -------
    int
        How many libraries are there now.

    Raises
    ------
    TypeError, ValueError
        A semifield or a dtype that there is not, or `jobs` below 1.
    CompileError
        A semifield that does not compile.
    BackendUnavailableError
        Something is not ready-made, and there is no compiler.

    See Also
    --------
    explain : Which libraries a call needs.

    Examples
    --------
    >>> import semiconv_cupy as sc
    >>> sc.prepare(["tropical_max"], ["float32"])  # doctest: +SKIP
    9
    """
    storages = list(dict.fromkeys(map(_storage_of, _several("dtypes", dtypes))))
    if jobs is not None and integer("jobs", jobs) < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    named = [name for name, entry in READY_MADE.items() if entry.parameter is None]
    given = [*named, _FILTERS] if semifields is None else _several("semifields", semifields)
    sources = {one.text: one for each in given for one in _sources_of(each, storages)}
    done, total = count(1), len(sources)
    with bar("compiling", "libraries") as show:
        works = (one[:2] for one in sources.values())
        return len(
            libraries.build_all(works, workers=jobs, progress=lambda: show(next(done), total))
        )


def _several(name: str, value: Any) -> list[Any]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} must be a sequence, such as [{value!r}], got {value!r}")
    return list(value)


def _storage_of(dtype: Any) -> str:
    known = (*source.FLOATING, *source.INTEGER, source.BOOLEAN)
    try:
        name = dtype if dtype == "bfloat16" else np.dtype(dtype).name
    except TypeError:
        name = dtype
    if name not in known:
        raise ValueError(f"dtypes: {dtype!r} is not supported; supported are {', '.join(known)}")
    return str(name)


def _sources_of(what: Any, storages: Sequence[str]) -> Iterator[source.HostSource]:
    from semiconv_cupy.variants import filters_on_cpu, libraries_of

    yield source.pool_of_threads()
    if what == _FILTERS:
        yield from filters_on_cpu(storages)
        return
    semifield = semifield_of(what) if isinstance(what, str) else what
    if not isinstance(semifield, (SelectSemifield, SubtractSemifield)):
        raise no_semifield(semifield)
    for storage in storages:
        yield from libraries_of(semifield, storage)
