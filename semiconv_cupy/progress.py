"""A bar on a terminal for works that take long: tqdm's, where it is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Show(Protocol):
    """Says how many of all units are done, and what comes next."""

    def __call__(self, done: int, total: int, label: str = "") -> None: ...


@contextmanager
def bar(what: str, unit: str) -> Iterator[Show]:
    """A bar that moves when the function is called that one gets.

    Nothing is shown without tqdm, where standard error is no terminal, and where the environment
    has ``TQDM_DISABLE``.

    Examples
    --------
    >>> with bar("compiling", "libraries") as show:
    ...     for number in range(3):
    ...         show(number + 1, 3)
    """
    tqdm = _tqdm()
    if tqdm is None:
        yield lambda done, total, label="": None
        return
    disable = True if os.environ.get("TQDM_DISABLE") else None  # None: unless on a terminal
    with tqdm(desc=what, unit=f" {unit}", disable=disable) as shown:

        def show(done: int, total: int, label: str = "") -> None:
            shown.total = total
            shown.set_postfix_str(label, refresh=False)
            shown.update(done - shown.n)

        yield show


def _tqdm() -> Callable[..., Any] | None:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
