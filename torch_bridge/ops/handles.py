"""Semifields as the operators know them: by a key, which a program can hold and save.

Called by both operators, by `autograd` and by the modules.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import weakref
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from semiconv_cupy.algebra import SelectSemifield, Semifield, SubtractSemifield, named, no_semifield
from semiconv_cupy.backends import by_sums
from semiconv_cupy.parameters import require_value_of
from semiconv_cupy.residual import needs_arrays
from semiconv_cupy.winners import selection_by_one


class Handle(NamedTuple):
    """What traced code may know of a semifield: plain constants, and a string for the operators.

    `constant_d_times` has the derivatives of times by img and by krn, where the derivative of the
    convolution needs nothing but them and the index of the winning tap.
    """

    key: str
    needs_arrays: bool  # whether the derivative needs img and krn besides the residual
    constant_d_times: tuple[float, float] | None


# The semifields that keys stand for, as long as something else holds them: a module, a graph of
# autograd, a plan, or the cache of handles. A semifield that a trace has met is held for ever, as
# the traced program may run at any time. Log and root, of which a sweep makes thousands, are made
# again from their keys instead.
_semifields: weakref.WeakValueDictionary[str, Semifield] = weakref.WeakValueDictionary()
_traced: dict[str, Semifield] = {}
_PARAMETRIC = re.compile(r"(log|root)(?:\((.+)\))?-\w+")


@torch.compiler.assume_constant_result
def handle_of(semifield: Semifield | str) -> Handle:
    """The handle of a semifield or of a name; equal semifields have equal ones, in any process."""
    handle, found = _entry_of(semifield)
    if handle.key.startswith(("log-", "root-")):  # of no value
        require_value_of(found)
    return handle


@torch.compiler.assume_constant_result
def handle_of_family(family: str) -> Handle:
    """The handle of log or root without a value of its parameter."""
    return _entry_of(SubtractSemifield.named_family(family))[0]


@torch.compiler.assume_constant_result
def handle_by_one_winner(semifield: Semifield | str) -> Handle:
    """The handle of the selection that has the winners of `semifield`.

    Raises
    ------
    ValueError
        A semifield without winners: see ``semiconv_cupy.winners``.
    """
    algebra = named(semifield) if isinstance(semifield, str) else semifield
    return _entry_of(selection_by_one(algebra))[0]


def _entry_of(semifield: Semifield | str) -> tuple[Handle, Semifield]:
    try:
        return _cached_entry(semifield)
    except TypeError:
        if isinstance(semifield, (str, SelectSemifield, SubtractSemifield)):
            raise
        raise no_semifield(semifield) from None  # an object that cannot be hashed


@lru_cache(maxsize=256)
def _cached_entry(semifield: Semifield | str) -> tuple[Handle, Semifield]:
    """The handle, and the semifield that its key finds: one object for all equal semifields."""
    algebra = named(semifield) if isinstance(semifield, str) else semifield
    if not isinstance(algebra, (SelectSemifield, SubtractSemifield)):
        raise no_semifield(semifield)
    digest = hashlib.sha256(repr((algebra.stated, _rules())).encode()).hexdigest()[:16]
    d_times = None
    if not needs_arrays(algebra):
        by_img, by_krn = (algebra.expressions[f"d_times_d_{name}"] for name in ("img", "krn"))
        d_times = (float(by_img), float(by_krn))
    kind: str = algebra.accumulator
    if kind in ("log", "root") and algebra.parameter is not None:  # only ready-made ones are such
        kind = f"{kind}({algebra.parameter!r})"
    handle = Handle(f"{kind}-{digest}", needs_arrays(algebra), d_times)
    return handle, _semifields.setdefault(handle.key, algebra)


def _rules() -> tuple[object, ...]:
    """What decides, besides the semifield, which residual a forward pass keeps.

    Torch keeps compiled graphs on disk and knows of a semifield nothing but the key, so the key
    must follow from the rules too. Programs that version 0.1.0 saved hold keys of this form.
    """
    limits = by_sums.LIMITS
    return (
        {"any": limits.taps, "whole powers": limits.taps_of_whole_powers},
        {"any": limits.taps_on_gpu, "whole powers": limits.taps_of_whole_powers_on_gpu},
        limits.terms_on_gpu,
    )


class PreparedSemifield:
    """A semifield with its handle, made beforehand for modules: one attribute in traced code.

    Not every version of Dynamo takes a semifield for a constant. Unpickling makes the handle again.
    """

    def __init__(self, semifield: Semifield) -> None:
        self.handle, self.semifield = _entry_of(semifield)

    def __reduce__(self) -> Any:
        return PreparedSemifield, (self.semifield,)


def semifield_of(key: str) -> Semifield:
    """The semifield of a handle's key.

    Raises
    ------
    RuntimeError
        Nothing in this process holds such a semifield.
    """
    found = _semifields.get(key)
    if found is not None:
        return found
    parametric = _PARAMETRIC.fullmatch(key)
    if parametric is not None:
        name, parameter = parametric.groups()
        with contextlib.suppress(ValueError):  # the text of another program, not a parameter
            if parameter is None:
                made = SubtractSemifield.named_family(name)
            else:
                made = getattr(SubtractSemifield, name)(float(parameter))
            handle, found = _entry_of(made)
            if handle.key == key:
                return found
    raise RuntimeError(
        f"this process knows no semifield {key!r}: call a convolution with it once before "
        "running a program that was traced elsewhere"
    )


def held_semifield(key: str) -> Semifield:
    """`semifield_of`, which the process then holds: a traced program has nothing but the key."""
    found = semifield_of(key)
    if _PARAMETRIC.fullmatch(key) is None:
        _traced[key] = found
    return found
