"""Where semifields and models saved by version 0.1.0 find what has moved since.

A pickle names classes and functions by their modules. Modules of that version which are gone are
put in ``sys.modules``, with all names of the files that took their place. Nothing else uses them.
"""

from __future__ import annotations

import importlib
import sys
import types

_MOVED = {
    "expressions": ("algebra.recording",),
    "laws": ("algebra.laws",),
    "printing": ("algebra.functions", "algebra.arrays"),
    "reductions": ("algebra.reductions",),
    "semifields": ("algebra", "algebra.compiled"),
}


def find_moved_names() -> None:
    """Make ``pickle.load`` find the names of version 0.1.0."""
    package = __name__.rpartition(".")[0]
    for old, files in _MOVED.items():
        module = types.ModuleType(f"{package}.{old}", "Names that saved files look for.")
        for file in files:
            vars(module).update(
                (name, value)
                for name, value in vars(importlib.import_module(f"{package}.{file}")).items()
                if not name.startswith("__")
            )
        sys.modules.setdefault(module.__name__, module)
