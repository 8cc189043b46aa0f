"""Parameters that a semifield of the user's own names: which names and values there may be.

Functions take them by name, ``times=lambda img, krn, a: a * img + krn``; kernels receive their
values with each call.
"""

from __future__ import annotations

import inspect
import keyword
import math
from collections.abc import Mapping, Sequence
from typing import Any

from semiconv_cupy.algebra.arguments import checked_number

MOST_PARAMETERS = 4  # of a semifield: most_parameters of kernels_cu/parameters.cuh
_OF_FUNCTIONS = ("img", "krn", "left", "right", "acc", "res", "val")
_OF_CALLS = (
    "semifield", "stride", "padding", "dilation", "groups", "group_broadcasting", "kind", "method",
    "return_indices", "out", "mu", "p",
)  # fmt: skip


def checked_parameters(parameters: Any) -> dict[str, float]:
    """The values by their names, in order; errors say which name or value does not fit.

    Raises
    ------
    TypeError
        No mapping of names to real numbers.
    ValueError
        A name that something else has, too many of them, or a value that is not finite.
    """
    if not isinstance(parameters, Mapping):
        named = isinstance(parameters, (list, tuple, set)) and parameters
        example = dict.fromkeys(parameters if named else "a", 1.0)
        raise TypeError(
            f"parameters must map names to numbers, as {example}, got parameters={parameters!r}"
        )
    if len(parameters) > MOST_PARAMETERS:
        raise ValueError(
            f"parameters must be at most {MOST_PARAMETERS}, got {len(parameters)}: "
            f"{', '.join(map(str, parameters))}"
        )
    for name in parameters:
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"parameters must have names that arguments can have, got {name!r}")
        owner = "functions" if name in _OF_FUNCTIONS else "calls" if name in _OF_CALLS else None
        if owner is not None:
            raise ValueError(
                f"parameters must not have the name {name!r}, which an argument of {owner} has; "
                "choose another one"
            )
    return {name: checked_value(name, value) for name, value in parameters.items()}


def unused_parameters(names: Sequence[str]) -> ValueError:
    """The error for parameters that no function takes."""
    return ValueError(
        f"parameters has {', '.join(names)}, which no function takes: write it as a further "
        f"argument, as times(img, krn, {names[0]}), or leave it out"
    )


def checked_value(name: str, value: Any) -> float:
    """A value as a float.

    Raises
    ------
    TypeError
        No real number.
    ValueError
        Not finite.
    """
    number = checked_number(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {name}={value!r}")
    return number


def changed(own: Mapping[str, float], values: Mapping[str, Any], whose: Any) -> dict[str, float]:
    """The parameters with some of their values replaced; TypeError for a name that is not there."""
    for name in values:
        if name not in own:
            raise TypeError(f"{whose!r} has no parameter {name!r}; it has {', '.join(own)}")
    return dict(own) | {name: checked_value(name, value) for name, value in values.items()}


def named_by(function: Any, count: int, own: Sequence[str]) -> list[str]:
    """Which parameters a function takes by name, behind its `count` arguments.

    Examples
    --------
    >>> named_by(lambda img, krn, a: a * img + krn, 2, ("a", "b"))
    ['a']
    """
    try:
        taken = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some built-in functions have no signature
        return []
    if any(one.kind is one.VAR_KEYWORD for one in taken):
        return list(own)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    positional = [one for one in taken if one.kind is not one.KEYWORD_ONLY][:count]
    names = {one.name for one in taken if one.kind in by_name and one not in positional}
    return [name for name in own if name in names]
