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
from semiconv_cupy.algebra.slopes import kept_slopes
from semiconv_cupy.backends import by_sums
from semiconv_cupy.parameters import fit_every_dtype, require_value_of
from semiconv_cupy.residual import needs_arrays
from semiconv_cupy.winners import selection_by_one


class Parted(NamedTuple):
    """A semifield's key without the values of its parameters, by which calls are planned.

    `numbers` are the values, which kernels receive with each call; none where the semifield has no
    parameter, or where float32 does not hold them: its own key then says which plans refuse them.
    """

    unbound: str
    numbers: tuple[float, ...] = ()


class Handle(NamedTuple):
    """What traced code may know of a semifield: plain constants, and a string for the operators.

    `constant_d_times` has the derivatives of times by img and by krn, where the derivative of the
    convolution needs nothing but them and the index of the winning tap.
    """

    key: str
    needs_arrays: bool  # whether the derivative needs img and krn besides the residual
    constant_d_times: tuple[float, float] | None
    parted: Parted
    has_slopes: bool = True  # whether a parameter has a derivative besides those of terms


# The semifields that keys stand for, as long as something else holds them: a module, a graph of
# autograd, a plan, or the cache of handles. A semifield that a trace has met is held for ever, as
# the traced program may run at any time. Of semifields with values of parameters, of which a sweep
# makes thousands, only the unbound one is here: keys have the values in parentheses.
_semifields: weakref.WeakValueDictionary[str, Semifield] = weakref.WeakValueDictionary()
_traced: dict[str, Semifield] = {}
_FEW = 32  # values of parameters that are remembered: those of a network, not those of a sweep
_BOUND = re.compile(r"(\w+)\((.+)\)-(\w+)")


@torch.compiler.assume_constant_result
def handle_of(semifield: Semifield | str) -> Handle:
    """The handle of a semifield or of a name; equal semifields have equal ones, in any process."""
    handle, found = _entry_of(semifield)
    require_value_of(found)
    return handle


@torch.compiler.assume_constant_result
def handle_of_family(family: str) -> Handle:
    """The handle of log or root without a value of its parameter."""
    return _entry_of(SubtractSemifield.named_family(family))[0]


@torch.compiler.assume_constant_result
def handle_of_own(semifield: Semifield) -> Handle:
    """The handle of a semifield of the user's own without the values of its parameters."""
    return _entry_of(semifield.unbound)[0]


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
    """The handle, and the semifield: of those without values, the one that the key finds."""
    if not isinstance(semifield, str) and getattr(semifield, "unbound", semifield) is not semifield:
        return _handle_of_values(semifield), semifield
    try:
        return _cached_entry(semifield)
    except TypeError:
        if isinstance(semifield, (str, SelectSemifield, SubtractSemifield)):
            raise
        raise no_semifield(semifield) from None  # an object that cannot be hashed


@lru_cache(maxsize=_FEW)
def _handle_of_values(semifield: Semifield) -> Handle:
    """The handle of a semifield with values of its parameters."""
    handle, unbound = _cached_entry(semifield.unbound)
    numbers = tuple(semifield.parameters.values())
    kind, _, digest = handle.key.partition("-")
    key = f"{kind}({', '.join(map(repr, numbers))})-{digest}"
    return handle._replace(key=key, parted=_parted(key, handle.key, unbound, numbers))


def _parted(key: str, unbound_key: str, unbound: Semifield, numbers: tuple[float, ...]) -> Parted:
    """The key by which a semifield with these values is planned."""
    return Parted(unbound_key, numbers) if fit_every_dtype(unbound, numbers) else Parted(key)


def parted(key: str) -> Parted:
    """`Handle.parted` of a key."""
    return _parted_by_text(key) if "(" in key else Parted(key)


@lru_cache(maxsize=_FEW)
def _parted_by_text(key: str) -> Parted:
    match = _BOUND.fullmatch(key)
    if match is not None:
        kind, numbers, digest = match.groups()
        unbound_key = f"{kind}-{digest}"
        unbound = _semifields.get(unbound_key)
        if unbound is not None:
            return _parted(key, unbound_key, unbound, _numbers(numbers))
    return _entry_of(semifield_of(key))[0].parted


def _numbers(text: str) -> tuple[float, ...]:
    """The values in a key."""
    return tuple(map(float, text.split(", ")))


@lru_cache(maxsize=256)
def _cached_entry(semifield: Semifield | str) -> tuple[Handle, Semifield]:
    """The handle of a semifield without values, and the one object for all that equal it."""
    algebra = named(semifield) if isinstance(semifield, str) else semifield
    if not isinstance(algebra, (SelectSemifield, SubtractSemifield)):
        raise no_semifield(semifield)
    d_times = None
    if not needs_arrays(algebra):
        by_img, by_krn = (algebra.expressions[f"d_times_d_{name}"] for name in ("img", "krn"))
        d_times = (float(by_img), float(by_krn))
    key = f"{algebra.accumulator}-{_digest(algebra)}"
    has_slopes = not algebra.own or bool(kept_slopes(algebra))
    handle = Handle(key, needs_arrays(algebra), d_times, Parted(key), has_slopes)
    return handle, _semifields.setdefault(key, algebra)


def _digest(semifield: Semifield) -> str:
    """What a key says of a semifield's formulas, and of the rules."""
    return hashlib.sha256(repr((semifield.stated, _rules())).encode()).hexdigest()[:16]


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
    if found is None:
        bound = _BOUND.fullmatch(key)
        found = _family_of(key) if bound is None else _bound(*bound.groups())
    if found is not None:
        return found
    raise RuntimeError(
        f"this process knows no semifield {key!r}: call a convolution with it once before "
        "running a program that was traced elsewhere"
    )


def _family_of(key: str) -> Semifield | None:
    """The log or root without a value that has this key."""
    name = key.partition("-")[0]
    if name not in ("log", "root"):
        return None
    handle, found = _entry_of(SubtractSemifield.named_family(name))
    return found if handle.key == key else None


def _bound(kind: str, values: str, digest: str) -> Semifield | None:
    """The semifield whose key has these parts, the unbound one with values."""
    with contextlib.suppress(ValueError):  # the text of another program, no values
        numbers = _numbers(values)
        if kind in ("log", "root"):
            made: Semifield = getattr(SubtractSemifield, kind)(*numbers)
            known = _cached_entry(made.unbound)[0].key == f"{kind}-{digest}"
            return made if known or digest == _digest_of_all_formulas(made) else None
        unbound = _semifields.get(f"{kind}-{digest}")
        if unbound is not None and len(unbound.own) == len(numbers):
            bound: Semifield = unbound.of_values(numbers)
            return bound
    return None


@lru_cache(maxsize=_FEW)
def _digest_of_all_formulas(semifield: Semifield) -> str:
    """The digest of a log or root in keys of version 0.1.0, which has the value's formulas."""
    return _digest(semifield)


def held_semifield(key: str) -> Semifield:
    """`semifield_of`, which the process then holds: a traced program has nothing but the key."""
    found = semifield_of(key)
    unbound: Semifield = found.unbound
    if unbound.accumulator not in ("log", "root"):  # of which there are but a few
        _traced[_entry_of(unbound)[0].key] = unbound
    return found
