"""Exceptions and warnings that are this library's own, and the checks of plain arguments."""

from __future__ import annotations

import operator
import sys
import warnings


class CompileError(RuntimeError):
    """A kernel of the user's semifield did not compile; the compiler's message is in the text."""


class BackendUnavailableError(RuntimeError):
    """A method that was asked for by name cannot run here; the text says what is missing."""


class BackendWarning(UserWarning):
    """Something slower or less permanent is used than could be; the text names the remedy."""


class FootprintWarning(UserWarning):
    """A structure of grey-scale morphology that is probably meant as a footprint.

    Its values are added to the image. Of ones, or of bool, they shift every result by 1.
    """


def integer(name: str, value: object) -> int:
    """A whole number as Python's own; a TypeError that names the argument for True and 1.0."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def flag(name: str, value: object) -> bool:
    """A bool or an integer as a bool; a TypeError that names the argument for anything else."""
    if isinstance(value, (bool, int)) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{name} must be a bool, got {value!r}")


def warn(text: str, category: type[Warning] = BackendWarning) -> None:
    """Warn at the line that called this library, however deep in it the cause is met."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


_topics: set[str] = set()  # of which `warn_once` has warned


def warn_once(topic: str, text: str) -> None:
    """`warn` of a topic, unless this process was warned of it before."""
    if topic not in _topics:
        _topics.add(topic)
        warn(text)
