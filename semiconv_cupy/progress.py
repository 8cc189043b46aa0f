"""What is shown on a terminal while works take long: tqdm's bars, where tqdm is installed.

``TQDM_DISABLE`` silences all of them, and nothing is shown where standard error is no terminal.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Show(Protocol):
    """Says how many of all units are done, and what comes next."""

    def __call__(self, done: int, total: int, label: str = "") -> None: ...


@contextmanager
def bar(what: str, unit: str, *, shown: bool = True) -> Iterator[Show]:
    """A bar that moves when the function is called that one gets; none unless `shown`.

    Examples
    --------
    >>> with bar("compiling", "libraries") as show:
    ...     for number in range(3):
    ...         show(number + 1, 3)
    """
    tqdm = _tqdm()
    if tqdm is None or not shown:
        yield lambda done, total, label="": None
        return
    with tqdm(desc=what, unit=f" {unit}", disable=not _on_terminal()) as made:

        def show(done: int, total: int, label: str = "") -> None:
            made.total = total
            made.set_postfix_str(label, refresh=False)
            made.update(done - made.n)

        yield show


def note(text: str) -> None:
    """One line on standard error, where a bar would be shown: why the program waits."""
    if _on_terminal():
        print(f"semiconv_cupy: {text}", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A line of a report on standard output, above a bar if there is one."""
    tqdm: Any = _tqdm()
    if tqdm is None:
        print(text, flush=True)
    else:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()


def _on_terminal() -> bool:
    return not os.environ.get("TQDM_DISABLE") and sys.stderr is not None and sys.stderr.isatty()


def _tqdm() -> Callable[..., Any] | None:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm
