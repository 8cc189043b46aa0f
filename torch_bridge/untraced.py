"""What torch.compile does with semifields: it takes them for constants, and never makes one.

It would trace SymPy, and fail with an error that names neither the semifield nor a remedy. Called
once, by the package.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from semiconv_cupy.algebra import BroadcastSemifield, SelectSemifield, SubtractSemifield

_REASON = (
    "make semifields outside of compiled functions, or pass a name and its parameter, "
    'as in semifield_conv(img, krn, "log", mu=2.0)'
)


def leave_semifields_untraced() -> None:
    """Let what makes semifields run outside of graphs; under fullgraph=True the error says why."""
    for cls in (SelectSemifield, SubtractSemifield, BroadcastSemifield):
        for name, made in list(vars(cls).items()):
            if isinstance(made, classmethod) and not name.startswith("_"):
                setattr(cls, name, classmethod(_untraced(made.__func__)))
    for compiled in (SelectSemifield, SubtractSemifield):
        pytree.register_constant(compiled)  # without it torch 2.11 refuses them in a trace
        compiled.__init__ = _untraced(compiled.__init__)  # type: ignore[method-assign]


def _untraced(function: Any) -> Any:
    return torch.compiler.disable(function, reason=_REASON)  # type: ignore[no-untyped-call]
