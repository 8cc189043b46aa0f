"""The registry of ready-made semifields: their names, parameters and what others call them.

A new one needs a class method and a row here; `tests/test_names.py` says which tables of the tests
and of the documents it must join.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from semiconv_cupy.algebra.selections import SelectSemifield
from semiconv_cupy.algebra.sums import SubtractSemifield

# A semifield that is compiled into kernels; annotations name a `BroadcastSemifield` beside it.
Semifield: TypeAlias = SelectSemifield | SubtractSemifield


@dataclass(frozen=True)
class ReadyMade:
    """A ready-made semifield, or a family of them.

    Attributes
    ----------
    make
        The class method; its ``__name__`` is the semifield's name.
    parameter : str or None
        The name of the number that `make` needs, which chooses one of a family.
    other_names : tuple of str
        What others call it; for the error that suggests the right name.
    """

    make: Callable[..., Semifield]
    parameter: str | None = None
    other_names: tuple[str, ...] = ()


READY_MADE = {
    entry.make.__name__: entry
    for entry in (
        ReadyMade(SelectSemifield.tropical_max, other_names=("dilation", "max", "max_plus")),
        ReadyMade(SelectSemifield.tropical_min_negated, other_names=("erosion", "min")),
        ReadyMade(SelectSemifield.tropical_min, other_names=("min_plus",)),
        ReadyMade(SelectSemifield.max_times, other_names=("viterbi",)),
        ReadyMade(SelectSemifield.boolean),
        ReadyMade(SubtractSemifield.linear),
        ReadyMade(SubtractSemifield.log, parameter="mu"),
        ReadyMade(SubtractSemifield.root, parameter="p"),
    )
}


@functools.cache
def named(name: str) -> Semifield:
    """The ready-made semifield of that name.

    Raises
    ------
    TypeError
        Where it needs a parameter; the message says what to pass.
    ValueError
        Where there is none of that name.

    Examples
    --------
    >>> named("tropical_max")
    SelectSemifield.tropical_max()
    """
    names = [name for name, entry in READY_MADE.items() if entry.parameter is None]
    if name in names:
        return READY_MADE[name].make()
    for family, entry in READY_MADE.items():
        if entry.parameter is not None and name.startswith(family):  # log, log(2), logsumexp
            raise TypeError(
                f"semifield={name!r} needs its parameter: pass {family!r} with "
                f"{entry.parameter}=..., or semiconv_cupy.SubtractSemifield."
                f"{family}({entry.parameter})"
            )
    known_as = {other: ours for ours, entry in READY_MADE.items() for other in entry.other_names}
    spelt = name.lower().replace("-", "_").replace(" ", "_")  # "max-plus"
    similar = known_as.get(spelt) or next(iter(difflib.get_close_matches(spelt, names)), None)
    guess = f" (did you mean {similar!r}?)" if similar else ""
    families = [f"{name} (with {e.parameter}=)" for name, e in READY_MADE.items() if e.parameter]
    raise ValueError(
        f"semifield={name!r} is unknown{guess}; the names are {', '.join(names + families)}"
    )


def semifield_of(text: str) -> Semifield:
    """The ready-made semifield of a text: a name, or a family with its parameter.

    Raises
    ------
    ValueError
        As `named`; or the parameter is no number that the family takes.

    Examples
    --------
    >>> semifield_of("log(2)")
    SubtractSemifield.log(mu=2.0)
    """
    family, found, parameter = text.rstrip(")").partition("(")
    if found and family in READY_MADE and READY_MADE[family].parameter is not None:
        try:
            number = float(parameter)
        except ValueError:
            raise ValueError(f"semifield={text!r} needs a number, such as {family}(2)") from None
        return READY_MADE[family].make(number)
    return named(text)


def no_semifield(value: object) -> TypeError:
    """The error for what is neither a semifield nor a name."""
    maker = getattr(value, "__name__", None)
    if inspect.ismethod(value):
        maker = f"{value.__self__.__name__}.{maker}"  # type: ignore[attr-defined]
    called = ""
    if inspect.ismethod(value) or inspect.isclass(value):
        called = f"; it must be called: {maker}(...)"
    elif callable(value):
        called = "; functions make one: SelectSemifield(add_select=..., times=..., zero=...)"
    return TypeError(
        "semifield must be a SelectSemifield, SubtractSemifield, BroadcastSemifield or a name, "
        f"got {maker or repr(value)}{called}"
    )
