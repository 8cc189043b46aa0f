"""The ready-made semifields by their names."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import TypeAlias

from semiconv_cupy.algebra.selections import SelectSemifield
from semiconv_cupy.algebra.sums import SubtractSemifield

# A semifield that is compiled into kernels; annotations name a `BroadcastSemifield` beside it.
Semifield: TypeAlias = SelectSemifield | SubtractSemifield

_NAMED: dict[str, Callable[[], Semifield]] = {
    "tropical_max": SelectSemifield.tropical_max,
    "tropical_min_negated": SelectSemifield.tropical_min_negated,
    "tropical_min": SelectSemifield.tropical_min,
    "max_times": SelectSemifield.max_times,
    "boolean": SelectSemifield.boolean,
    "linear": SubtractSemifield.linear,
}


# What others call them.
_OTHER_NAMES = {
    "dilation": "tropical_max",
    "max": "tropical_max",
    "max_plus": "tropical_max",
    "erosion": "tropical_min_negated",
    "min": "tropical_min_negated",
    "min_plus": "tropical_min",
    "viterbi": "max_times",
}


@functools.cache
def named(name: str) -> Semifield:
    """The ready-made semifield of that name.

    Raises
    ------
    ValueError
        Where there is none of that name, or it needs a parameter; the message says what to pass.

    Examples
    --------
    >>> named("tropical_max")
    SelectSemifield.tropical_max()
    """
    if name in _NAMED:
        return _NAMED[name]()
    for family, parameter in (("log", "mu"), ("root", "p")):
        if name.startswith(family):  # log, log(2), logsumexp
            raise ValueError(
                f"semifield={name!r} needs its parameter: pass "
                f"semiconv_cupy.SubtractSemifield.{family}({parameter})"
            )
    similar = _OTHER_NAMES.get(name) or next(iter(difflib.get_close_matches(name, _NAMED)), None)
    guess = f" (did you mean {similar!r}?)" if similar else ""
    raise ValueError(f"semifield={name!r} is unknown{guess}; the names are {', '.join(_NAMED)}")


def no_semifield(value: object) -> TypeError:
    """The error for what is neither a semifield nor a name."""
    maker = getattr(value, "__name__", None)
    if inspect.ismethod(value):
        maker = f"{value.__self__.__name__}.{maker}"  # type: ignore[attr-defined]
    called = f"; it must be called: {maker}(...)" if maker else ""
    return TypeError(
        "semifield must be a SelectSemifield, SubtractSemifield, BroadcastSemifield or a name, "
        f"got {maker or repr(value)}{called}"
    )
