"""Exceptions and warnings that are this library's own."""

from __future__ import annotations


class CompileError(RuntimeError):
    """A kernel of the user's semifield did not compile; the compiler's message is in the text."""


class BackendUnavailableError(RuntimeError):
    """A method that was asked for by name cannot run here; the text says what is missing."""


class BackendWarning(UserWarning):
    """Something slower or less permanent is used than could be; the text names the remedy."""
