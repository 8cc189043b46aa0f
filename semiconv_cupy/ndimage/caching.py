"""Caches for what follows from shapes and footprints, so that large arguments occupy no memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any


def cached_where(
    is_small: Callable[..., bool], results: int
) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: keep the last `results` results, but none of arguments that are not small.

    Arguments are given by position, and can be hashed.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        cached = lru_cache(maxsize=results)(function)

        @wraps(function)
        def call(*arguments: Any) -> Any:
            return (cached if is_small(*arguments) else function)(*arguments)

        return call

    return decorate


def is_small_footprint(footprint: bytes | None, *_: Any) -> bool:
    """Whether a footprint, the first argument, has at most 2**16 elements; None stands for a box.

    The bound is for memory; no time was measured.
    """
    return footprint is None or len(footprint) <= 2**16
