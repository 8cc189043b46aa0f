"""Locks and cached properties for values that are computed once in a process, by any thread.

If a thread holds a lock while the process forks, the lock stays locked in the child for ever. A
child therefore starts without the locks of this module. Used by ``algebra`` and the host backend.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

_locks: dict[str, threading.Lock] = {}


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Let only one thread at a time run the block with this name; other names do not wait."""
    with _locks.setdefault(name, threading.Lock()):
        yield


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_locks.clear)


if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property:
        """`functools.cached_property` of Python 3.12; in 3.11 one lock serves all instances.

        Two threads may compute the same value; both get the one that was stored first.
        """

        def __init__(self, function: Any) -> None:
            self.function = function
            self.__doc__ = function.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self.name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            return instance.__dict__.setdefault(self.name, self.function(instance))


__all__ = ["cached_property", "exclusive"]
