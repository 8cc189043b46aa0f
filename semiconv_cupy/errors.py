"""Exceptions and warnings that are this library's own."""

from __future__ import annotations

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


def warn(text: str, category: type[Warning] = BackendWarning) -> None:
    """Warn at the line that called this library, however deep in it the cause is met."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
