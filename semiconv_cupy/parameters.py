"""The values of a semifield's parameters that a call passes: mu of log, p of root, one's own.

Plans, routes and kernels know the semifield without them (`unbound`), and how many there are; each
call hands its own over. Called by ``conv`` and ``matmul``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.algebra import (
    READY_MADE,
    BroadcastSemifield,
    Semifield,
    SubtractSemifield,
    named,
)
from semiconv_cupy.algebra.own import checked_value
from semiconv_cupy.backends.device import cupy_device
from semiconv_cupy.backends.host.functions import address
from semiconv_cupy.backends.place import Place, place_of

Array = Any


class Given(NamedTuple):
    """A semifield without its values, and the values: a number, an array, or None for none.

    Of a semifield of the user's own: a tuple of numbers and arrays, one for each parameter.
    """

    semifield: Any
    name: str = ""
    value: Any = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What a plan depends on."""
        value = self.value
        if type(value) is tuple:
            return (self.semifield, *(_kind(one) for one in value))
        if value is None:
            return (self.semifield,)
        if type(value) is float:
            return self.semifield, fit_every_dtype(self.semifield, (value,))
        return self.semifield, type(value), value.shape, value.strides, value.dtype


def given(semifield: Any, parameters: Mapping[str, Any], function: str) -> Given:
    """The semifield of a call, and the values that it passes or that the semifield has.

    Raises
    ------
    TypeError
        A parameter that the semifield does not have, or one that is missing.
    ValueError
        A number that is 0 or not finite.
    """
    for name, value in parameters.items():
        if value is None:
            raise TypeError(f"{name} must be a number or an array, got None")
    if isinstance(semifield, str):
        entry = READY_MADE.get(semifield)
        if entry is None or entry.parameter is None or entry.parameter not in parameters:
            semifield = named(semifield)
        else:
            value = parameters[entry.parameter]
            semifield = entry.make(value if is_number(value) else 1.0)
    if isinstance(semifield, BroadcastSemifield) and semifield.own:
        return Given(semifield.called_with(**parameters))
    if getattr(semifield, "own", ()):
        return _given_own(semifield, parameters, function)
    if not parameters:
        own = semifield.parameters if isinstance(semifield, SubtractSemifield) else {}
        if not own:
            require_value_of(semifield)
            return Given(semifield)
        ((name, value),) = own.items()
        return Given(semifield.unbound, name, value)
    entry = READY_MADE.get(semifield.accumulator) if _is_family(semifield) else None
    own_name = None if entry is None else entry.parameter
    unknown = [name for name in parameters if name != own_name]
    if unknown:
        has = f"has the parameter {own_name}" if own_name else "has no parameter"
        raise TypeError(
            f"{function} got an unexpected argument {unknown[0]!r}; {semifield!r} {has}"
        )
    ((name, value),) = parameters.items()
    family = semifield.accumulator
    if is_number(value):
        made = getattr(SubtractSemifield, family)(value)  # raises for 0
        return Given(made.unbound, name, made.parameter)
    _require_array(name, value, function)
    return Given(SubtractSemifield._family(family), name, value)


def _is_family(semifield: Any) -> bool:
    """Whether it is a ready-made log or root, with a value or without."""
    return isinstance(semifield, SubtractSemifield) and semifield.accumulator in ("log", "root")


def require_value_of(semifield: Any) -> None:
    """TypeError for a semifield whose parameters have no values, where a call passes none."""
    if not isinstance(semifield, SubtractSemifield):
        return
    if _is_family(semifield) and semifield.parameter is None:
        name = {"log": "mu", "root": "p"}[semifield.accumulator]
        raise TypeError(
            f"{semifield!r} has no value of its parameter: pass "
            f'"{semifield.accumulator}" with {name}=...'
        )
    if semifield.own and not semifield.parameters:
        raise TypeError(f"{semifield!r} has no values of its parameters; use with_parameters")


def _kind(value: Any) -> tuple[Any, ...]:
    """What a plan depends on of one of several values: of a number, whether float32 holds it."""
    if type(value) is float:
        return (abs(value) <= _LARGEST,)
    return type(value), value.shape, value.strides, value.dtype


_LARGEST = float(np.finfo(np.float32).max)
# Between these, a number is neither 0 nor infinite once it is rounded to float32.
_LEAST, _BEYOND = 2.0**-150, 2.0**128 - 2.0**103


def fit_every_dtype(semifield: Semifield, numbers: tuple[float, ...]) -> bool:
    """Whether values of a semifield's parameters are such in every dtype, float32 included."""
    if semifield.own:
        return all(abs(number) <= _LARGEST for number in numbers)
    return all(_LEAST < abs(number) < _BEYOND for number in numbers)


def _given_own(semifield: Any, parameters: Mapping[str, Any], function: str) -> Given:
    """`given` of a semifield whose parameters the user named."""
    for name, value in parameters.items():
        if name not in semifield.own:
            has = f"has the parameters {', '.join(semifield.own)}"
            raise TypeError(f"{function} got an unexpected argument {name!r}; {semifield!r} {has}")
        if not is_number(value):
            _require_array(name, value, function)
    found = dict(semifield.parameters)
    for name, value in parameters.items():
        found[name] = checked_value(name, value) if is_number(value) else value
    missing = [name for name in semifield.own if name not in found]
    if missing:
        raise TypeError(f"{function} needs {', '.join(missing)}=, parameters of {semifield!r}")
    return Given(
        semifield.unbound, ", ".join(semifield.own), tuple(found[name] for name in semifield.own)
    )


def bound(semifield: Any, parameters: Mapping[str, Any], function: str) -> Any:
    """The semifield with the numbers of a call that takes no arrays of them; errors as of `given`.

    Raises
    ------
    TypeError
        An array, too.
    """
    for name, value in parameters.items():
        if not (value is None or is_number(value)):
            raise TypeError(f"{name} must be a number in {function}, got {name}={value!r}")
    values = given(semifield, parameters, function)
    if getattr(semifield, "own", ()):
        return semifield.with_parameters(**parameters) if parameters else semifield
    if values.value is None:
        return values.semifield
    return getattr(SubtractSemifield, values.semifield.accumulator)(values.value)


def _require_array(name: str, value: Any, function: str) -> None:
    """TypeError for what is no array, with the remedy."""
    if not hasattr(value, "strides"):
        place_of(function.removesuffix("_vjp"), **{name: value})


def is_number(value: Any) -> bool:
    """Whether a parameter is a number, of Python or of NumPy, or a text that is refused as one."""
    return np.isscalar(value) or isinstance(value, (int, float))


def channels_of(given: Given, kernels: int, storage: str, arrays: Mapping[str, Array]) -> int:
    """How many values a call passes: 1, or one for each kernel; errors name the argument.

    Raises
    ------
    TypeError
        An array of another library, device or dtype than the arithmetic's.
    ValueError
        An array of another size.
    """
    value = given.value
    if type(value) is tuple:
        names = given.semifield.own
        each = (Given(given.semifield, *one) for one in zip(names, value, strict=True))
        return max(channels_of(one, kernels, storage, arrays) for one in each)
    if value is None or type(value) is float:
        return 1
    function = "semifield_conv" if "img" in arrays else "semifield_matmul"
    name = given.name if given.name not in arrays else f"the parameter {given.name}"
    place_of(function, **arrays, **{name: value})
    real = source.ARITHMETIC[storage]
    if value.dtype.newbyteorder("=") != np.dtype(real):
        raise TypeError(
            f"{given.name} must have the dtype {real}, in which {storage} is computed, "
            f"got {value.dtype}: pass {given.name}.astype({real!r})"
        )
    if value.shape not in ((), (1,), (kernels,)):
        whose = "output channel" if "img" in arrays else "column of b"
        raise ValueError(
            f"{given.name} must be a number or an array of shape (), (1,) or ({kernels},), one "
            f"for each {whose}, got shape {value.shape}"
        )
    return kernels if value.shape == (kernels,) else 1


class Values(NamedTuple):
    """Values as launches take them; `owner` keeps the memory."""

    parameters: structs.Parameters
    owner: Any

    @classmethod
    def of(cls, value: Any, place: Place) -> Values | None:
        """A number's or an array's; None where there is none."""
        if value is None:
            return None
        if type(value) is float:
            return cls(structs.Parameters.of_numbers((value,)), None)
        if type(value) is tuple:
            if all(type(one) is float for one in value):
                return cls(structs.Parameters.of_numbers(value), None)
            return cls.of_several(value, place)
        owner = place.array_module.ascontiguousarray(value)
        if place.on_gpu:
            at = (place.device or cupy_device()).address(owner)
        else:
            owner = owner.astype(owner.dtype.newbyteorder("="), copy=False)
            at = address(owner)
        return cls(structs.Parameters.of_memory(at, owner.size), owner)

    @classmethod
    def of_several(cls, value: tuple[Any, ...], place: Place) -> Values:
        """Those of numbers and arrays: all for as many channels as the longest."""
        xp = place.array_module
        real = next(one.dtype.newbyteorder("=") for one in value if type(one) is not float)
        rows = xp.broadcast_arrays(*(xp.atleast_1d(xp.asarray(one, real)) for one in value))
        owner = xp.ascontiguousarray(xp.stack(rows))
        at = (place.device or cupy_device()).address(owner) if place.on_gpu else address(owner)
        return cls(structs.Parameters.of_memory(at, owner.shape[1]), owner)


def bound_by_kernel(semifield: Semifield, value: Any) -> tuple[Semifield, ...]:
    """The semifields of all kernels, for array loops; they wait for a GPU's values."""
    if value is None:
        return (semifield,)
    if type(value) is tuple:
        rows = np.broadcast_arrays(
            *(np.atleast_1d(getattr(one, "get", lambda one=one: one)()) for one in value)
        )
        columns = (map(float, column) for column in zip(*rows, strict=True))
        return tuple(semifield.of_values(column) for column in columns)
    if type(value) is not float:
        value = getattr(value, "get", lambda: value)()
    make = getattr(SubtractSemifield, semifield.accumulator)
    return tuple(make(float(number)) for number in np.ravel(value))


def gradient_of(value: Any, slopes: Array, grad_out: Array, xp: Any) -> Array:
    """The gradient of the values: the sum over outputs of grad_out times their slopes."""
    size = 1 if type(value) is float else value.size
    products = xp.where(grad_out == 0, 0, grad_out.astype(slopes.dtype, copy=False) * slopes)
    axes = (0, *range(2, products.ndim))
    by_channel = products.sum(axis=axes, dtype=np.float64).reshape(-1, size).sum(axis=0)
    shape = () if type(value) is float else value.shape
    return by_channel.reshape(shape).astype(slopes.dtype)
