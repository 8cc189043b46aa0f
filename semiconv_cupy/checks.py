"""Checks that the calls for arrays share: methods, dtypes, values of parameters, gradients.

Each names the argument and its value. Shapes are checked in ``geometry.py`` and ``operands.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import BroadcastSemifield, Semifield, SubtractSemifield
from semiconv_cupy.methods import METHODS
from semiconv_cupy.parameters import Given

Array = Any


def require_method(method: object) -> None:
    """ValueError for what is no method's name."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got method={method!r}")


def require_one_dtype(first: Array, second: Array, names: tuple[str, str]) -> None:
    """TypeError with the remedy where the dtypes of two arguments differ."""
    if first.dtype == second.dtype:
        return
    one, other = names
    remedy = f"{other}.astype({one}.dtype)"
    if first.dtype.kind in "iub" and second.dtype.kind == "f":  # integers cannot hold the second
        remedy = f"{one}.astype({other}.dtype)"
    raise TypeError(
        f"{one} and {other} must have one dtype, got {one} {first.dtype} and {other} "
        f"{second.dtype}; convert one of them: {remedy}"
    )


def native(dtype: Any) -> Any:
    """The dtype in the machine's byte order: that of results."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def storage_of(dtype: Any, semifield: Semifield, argument: str = "img") -> str:
    """The storage name of an argument's dtype; a TypeError where the semifield has no meaning."""
    name = str(dtype.name)
    if name not in (*source.FLOATING, *source.INTEGER, source.BOOLEAN):
        supported = ", ".join((*source.FLOATING, *source.INTEGER, source.BOOLEAN))
        raise TypeError(f"{argument} has dtype {dtype}; supported are {supported}")
    require_meaning(name, semifield)
    return name


def require_meaning(name: str, semifield: Semifield) -> None:
    """Raise where the semifield has no meaning in that storage dtype, or its parameter no value."""
    if name in source.FLOATING:
        _require_range(name, semifield.parameters if semifield.own else {})
        if semifield.parameter is not None:
            with np.errstate(over="ignore", under="ignore"):
                parameter = np.dtype(source.ARITHMETIC[name]).type(semifield.parameter)
            if parameter == 0 or not np.isfinite(parameter):
                raise ValueError(f"{semifield!r} cannot be computed in {name}: {parameter}")
    elif name == source.BOOLEAN:
        semifield.definitions("bool")  # raises where there are none
    else:
        source.bits_on_the_way(semifield, name)


def require_value(name: str, values: Given) -> None:
    """ValueError for a number that is none, or infinite, in that storage dtype."""
    if type(values.value) is tuple:
        numbers = zip(values.semifield.own, values.value, strict=True)
        _require_range(name, {key: one for key, one in numbers if type(one) is float})
        return
    if type(values.value) is float and name in source.FLOATING:
        made = getattr(SubtractSemifield, values.semifield.accumulator)(values.value)
        require_meaning(name, made)


def _require_range(name: str, own: Mapping[str, float]) -> None:
    largest = float(np.finfo(source.ARITHMETIC[name]).max)
    for key, value in own.items():
        if not abs(value) <= largest:
            raise ValueError(f"{key}={value!r} cannot be computed in {name}: it is infinite there")


def refuse_broadcast(semifield: object, function: str) -> None:
    """TypeError for whole-array functions, of which no derivative is known here."""
    if isinstance(semifield, BroadcastSemifield):
        raise TypeError(
            f"{function} needs a SelectSemifield or SubtractSemifield; a BroadcastSemifield is "
            "differentiated by PyTorch (torch_bridge)"
        )


def refuse_kernels(method: str) -> None:
    """ValueError for a method of compiled kernels, which a BroadcastSemifield does not have."""
    if method in ("direct", "tiled", "linear"):
        raise ValueError(
            f"method={method!r} has no kernels for a BroadcastSemifield; use a "
            "SelectSemifield or SubtractSemifield, or method='auto'"
        )


def require_derivatives(storage: str) -> None:
    """TypeError for a dtype whose results have no derivative."""
    if storage not in source.FLOATING:
        raise TypeError(f"derivatives need a floating dtype, got {storage}")


def require_grad_out(grad_out: Array, shape: tuple[int, ...], dtype: Any) -> None:
    """ValueError for a gradient of another shape or dtype than the result's."""
    if grad_out.shape != shape or grad_out.dtype != dtype:
        raise ValueError(
            f"grad_out must have the result's shape {shape} and dtype {dtype}, "
            f"got {grad_out.shape} and {grad_out.dtype}"
        )
