"""The exceptions and warnings of this library, and checks of integer and boolean arguments."""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any


class CompileError(RuntimeError):
    """A kernel of the user's semifield did not compile; the compiler's message is in the text."""


class BackendUnavailableError(RuntimeError):
    """The requested method cannot run on this machine; the text says what is missing."""


class NotCurrentError(ValueError):
    """An array lies on another GPU than the current one.

    Attributes
    ----------
    where : str
        Which argument it is, and where it lies.
    on_its_gpu : () -> context manager
        What makes that GPU the current one.
    """

    def __init__(
        self, where: str, remedy: str, on_its_gpu: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        super().__init__(f"{where}, {remedy}")
        self.where = where
        self.on_its_gpu = on_its_gpu


class BackendWarning(UserWarning):
    """A slower path or a temporary cache is used; the text names the remedy."""


class FootprintWarning(UserWarning):
    """The `structure` of grey-scale morphology is probably meant as a footprint.

    Its values are added to the image: a structure of ones, or of bool, shifts every result by 1.
    """


def integer(name: str, value: object) -> int:
    """The integer `value` as an int. For bool and float: a TypeError that names the argument."""
    if type(value) is int:
        return value
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def flag(name: str, value: object) -> bool:
    """A bool or integer `value` as a bool; otherwise a TypeError that names the argument."""
    if isinstance(value, (bool, int)) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{name} must be a bool, got {value!r}")


_NOT_THE_USERS = ("semiconv_cupy", "torch_bridge", "torch")
_repeated: ContextVar[bool] = ContextVar("repeated", default=False)


def warn(text: str, category: type[Warning] = BackendWarning) -> None:
    """Warn, with the user's line that called this library as the place of the warning.

    Python then shows a text once for each such line. A module of torch calls its parts, so that
    torch's own lines are not the user's either.
    """
    if _repeated.get() and category is not BackendWarning:
        return
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_USERS:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


_topics: set[str] = set()  # of which `warn_once` has warned
_silent: ContextVar[bool] = ContextVar("silent", default=False)


def warn_once(topic: str, text: str) -> None:
    """`warn` of a topic, unless this process was warned of it before."""
    if topic not in _topics and not _silent.get():
        _topics.add(topic)
        warn(text)


@contextmanager
def without_warnings() -> Iterator[None]:
    """A context in which `warn_once` neither warns nor counts as a warning of its topic."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


@contextmanager
def as_repeated_call() -> Iterator[None]:
    """A context in which nothing warns of arguments: a call with the same ones has done so."""
    token = _repeated.set(True)
    try:
        yield
    finally:
        _repeated.reset(token)
