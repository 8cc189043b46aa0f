"""mu of log and p of root in a call: numbers, or tensors that learn.

A number is a semifield's own. A tensor is an argument of the kernels, which read its memory: its
value is known to nobody else, so it costs no synchronisation, and a CUDA graph that is replayed
reads it again. Called by `functional`, `means` and the modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.algebra import Semifield, SubtractSemifield
from semiconv_cupy.algebra.arguments import checked_parameter
from semiconv_cupy.algebra.own import checked_value
from torch_bridge.checks import is_one_or, require_dense

Parameter = float | Tensor
NAMES = {"log": "mu", "root": "p"}
_FAMILIES = {name: family for family, name in NAMES.items()}


def resolved(
    family: str, value: Parameter, first: Tensor, of: str, count: int, name_of_first: str
) -> Tensor | Semifield:
    """The parameter of "log" or "root" as kernels read it; the semifield of a number.

    The tensor is converted to the dtype in which the kernels compute: that of halves is float32. It
    has one number, or one for each of `count` kernels or columns, which errors call `of`.
    """
    name = NAMES[family]
    real = torch.float64 if first.dtype is torch.float64 else torch.float32
    if not isinstance(value, Tensor):
        if torch.compiler.is_compiling():  # a program holds tensors, and no semifields
            return torch.full((), checked_parameter(name, value), dtype=real, device=first.device)
        made: Semifield = getattr(SubtractSemifield, family)(tensor_or_number(name, value))
        return made
    return checked_tensor(family, value, first, of, count, name_of_first)


def checked_tensor(
    family: str, value: Tensor, first: Tensor, of: str, count: int, name_of_first: str
) -> Tensor:
    """`resolved` of a tensor."""
    real = torch.float64 if first.dtype is torch.float64 else torch.float32
    return _checked(NAMES[family], value, first, of, count, name_of_first).to(real)


def tensor_or_number(name: str, value: Parameter) -> Parameter:
    """The tensor, or the checked number; TypeError or ValueError for everything else."""
    if isinstance(value, Tensor):
        return value
    _refuse_sequence(name, value)
    return checked_parameter(name, value)


def _refuse_sequence(name: str, value: Any) -> None:
    """TypeError with the remedy for several numbers that are no tensor."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        raise TypeError(
            f"{name} must be a number or a tensor, got {name}={value!r}; torch.as_tensor({name}) "
            "makes one"
        )


def _checked(
    name: str, value: Tensor, first: Tensor, of: str, count: int, name_of_first: str
) -> Tensor:
    """A tensor that may be a parameter."""
    require_dense(name, value)
    if not value.is_floating_point():
        raise TypeError(
            f"{name} must have a floating dtype, got {value.dtype}; {name}.float() makes one"
        )
    if value.device != first.device:
        raise ValueError(
            f"{name_of_first} and {name} must be on one device, got {name_of_first} on "
            f"{first.device} and {name} on {value.device}; move one of them: "
            f"{name}.to({name_of_first}.device)"
        )
    if not is_one_or(value, count):
        raise ValueError(
            f"{name} must be one number, or one for each of the {count} {of}, got shape "
            f"{tuple(value.shape)}"
        )
    return value


def resolved_own(
    semifield: Any,
    given: Mapping[str, Parameter],
    first: Tensor,
    of: str,
    count: int,
    name_of_first: str,
) -> Tensor | Semifield:
    """The parameters of a semifield of the user's own as `resolved`, each a row of a matrix.

    The semifield of numbers, if no tensor is among those that are given.
    """
    if not any(isinstance(value, Tensor) for value in given.values()):
        for name, value in given.items():
            _refuse_sequence(name, value)
        made: Semifield = semifield.with_parameters(**given)
        return made
    real = torch.float64 if first.dtype is torch.float64 else torch.float32
    rows = []
    for name, number in default_values(semifield):
        value = given.get(name, number)
        if isinstance(value, Tensor):
            row = _checked(name, value, first, of, count, name_of_first).to(real).reshape(-1)
        else:
            row = torch.full((1,), checked_value(name, value), dtype=real, device=first.device)
        rows.append(row)
    columns = max(row.shape[0] for row in rows)
    return torch.stack([row.expand(columns) for row in rows])


@torch.compiler.assume_constant_result
def default_values(semifield: Any) -> tuple[tuple[str, float | None], ...]:
    """The names of a semifield's own parameters, and its values; None where it has none."""
    return tuple((name, semifield.parameters.get(name)) for name in semifield.own)


def require_own(semifield: Any, given: Mapping[str, Parameter], function: str) -> None:
    """TypeError for an argument that is no parameter of the semifield."""
    names = getattr(semifield, "own", ())
    for name in given:
        if name not in names:
            has = f"has the parameters {', '.join(names)}" if names else "has no such parameter"
            raise TypeError(
                f"{function}() got an unexpected argument {name!r}; {semifield!r} {has}"
            )


def of_numbers(semifield: Any, given: Mapping[str, Parameter]) -> Any:
    """The semifield with these numbers; TypeError for a tensor, whose value only kernels see."""
    for name, value in given.items():
        if isinstance(value, Tensor):
            raise TypeError(f"{name} must be a number with return_indices=True, got a tensor")
    return semifield.with_parameters(**given) if given else semifield


def parameter_of(semifield: Any, mu: Parameter | None, p: Parameter | None) -> Parameter | None:
    """The parameter of a call in "log" or "root"; None of every other semifield.

    Raises
    ------
    TypeError
        It is missing, or given to another semifield.
    """
    given = {"mu": mu, "p": p}
    own = NAMES.get(family_of(semifield) or "")
    for name, value in given.items():
        if value is not None and name != own:
            raise TypeError(f'{name} is the parameter of "{_FAMILIES[name]}", got {semifield!r}')
    if own is None:
        return None
    found = given[own]
    if found is None and not isinstance(semifield, str):  # its own value, or an error elsewhere
        return None
    if found is None:
        raise TypeError(f'"{semifield}" needs its parameter: pass {own}=, a number or a tensor')
    return found


def family_of(semifield: Any) -> str | None:
    """ "log" or "root", of a name or of such a semifield; None of all others."""
    if isinstance(semifield, SubtractSemifield):
        semifield = semifield.accumulator
    return semifield if isinstance(semifield, str) and semifield in NAMES else None


def initial_number(name: str, value: Any, function: str) -> float:
    """The value at which a layer begins to learn; a TypeError for a tensor that learns itself."""
    if isinstance(value, Tensor) and value.requires_grad:
        raise TypeError(
            f"{name} is the number at which the layer's own parameter begins, got a tensor that "
            f"requires a gradient: pass {name}=value.item(); {function}(..., {name}=tensor) of "
            "torch_bridge.functional takes a parameter that you hold"
        )
    return checked_parameter(name, value)
