"""The torch modules that `dynamic()` and `lazy_fixed()` of a semifield return.

The core has none and imports no torch: ``import torch_bridge`` provides their classes here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_classes: dict[str, Callable[..., Any]] = {}


def provide(compiled: Callable[..., Any], broadcast: Callable[..., Any]) -> None:
    """Set the classes for compiled semifields and for a `BroadcastSemifield`."""
    _classes.update(compiled=compiled, broadcast=broadcast)


def compiled_module(semifield: Any, **options: Any) -> Any:
    """The module of a `SelectSemifield` or `SubtractSemifield`.

    Raises
    ------
    ImportError
        Where `torch_bridge` has not been imported.
    """
    return _class("compiled", semifield)(semifield, **options)


def broadcast_module(semifield: Any, **options: Any) -> Any:
    """The module of a `BroadcastSemifield`; errors as `compiled_module`."""
    return _class("broadcast", semifield)(semifield, **options)


def _class(kind: str, semifield: Any) -> Callable[..., Any]:
    if kind not in _classes:
        raise ImportError(
            f"dynamic() and lazy_fixed() of {semifield!r} make PyTorch modules, which torch_bridge "
            "provides: write `import torch_bridge` first"
        )
    return _classes[kind]
