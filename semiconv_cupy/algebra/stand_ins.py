"""What a traced function sees in place of the functions and modules that it uses.

``math.exp`` wants a float, and ``max`` a comparison that is true or false: neither takes a symbol.
So a copy of the user's function is run, and every name in the copy leads to a stand-in. It does
with numbers what the original does, and records what is done with symbols:

    name in the user's function      in its copy
    globals: math, np, torch         _TracedModule, whose attributes are stand-ins
             a helper function       a copy of it, made in the same way
    closure: mu = 2.0                the same number: data stay as they are
    builtins: min, max               functions that record an extremum of symbols
              import                 gives a _TracedModule
    random numbers, clocks           functions that raise: their values would be frozen

Nothing that belongs to the user is changed. `memo` maps the id of each original to its stand-in, so
that functions may call themselves and each other.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator
from typing import Any

from semiconv_cupy.algebra.functions import ExpressionError
from semiconv_cupy.algebra.recording import is_symbolic, record, where

_RANDOM = {"random", "secrets", "time", "numpy.random", "cupy.random", "torch.random"}
_LEFT_ALONE = {"numpy", "torch", "sympy", "scipy", "builtins", "operator"}


def _root_module(value: Any) -> str:
    return (getattr(value, "__module__", None) or "").partition(".")[0]


class _TracedModule:
    """A module as a traced function sees it: its attributes are stand-ins."""

    def __init__(self, module: types.ModuleType, memo: dict[int, Any]) -> None:
        self._module, self._memo = module, memo

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if self._module.__name__.startswith("cupy") and not isinstance(value, type | float):
            return _by_name(name, value) if callable(value) else value
        return stand_in(value, self._memo)


def _by_name(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The original for numbers, the SymPy meaning of its name for symbols."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        if any(map(is_symbolic, arguments)):
            return record(name, arguments, keywords)
        return original(*arguments, **keywords)

    return call


def _extremum(name: str) -> Callable[..., Any]:
    original = getattr(builtins, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        values = list(arguments[0]) if len(arguments) == 1 else list(arguments)
        if not any(map(is_symbolic, values)):
            return original(*([values] if len(arguments) == 1 else values), **keywords)
        if keywords:
            raise ExpressionError(f"{name}() with {', '.join(keywords)}= cannot be traced")
        return record(name, values) if len(values) > 1 else values[0]

    return call


_EXTREMA = {id(getattr(builtins, name)): _extremum(name) for name in ("min", "max")}


def _is_random(value: Any) -> bool:
    """Whether a value is, or belongs to, a source of numbers that change from call to call."""
    name, owner = getattr(value, "__name__", ""), getattr(value, "__self__", None)
    if isinstance(value, types.ModuleType):
        return name in _RANDOM
    homes = {
        getattr(value, "__module__", None) or "",
        type(value).__module__,
        type(owner).__module__,
    }
    if isinstance(owner, types.ModuleType):
        homes.add(owner.__name__)
    return any(
        home in _RANDOM or home.startswith(("numpy.random.", "cupy.random.")) for home in homes
    ) or (name.startswith("rand") and any("torch" in home for home in homes))


def _refuse(name: str) -> Callable[..., Any]:
    """A function that raises, in place of a source of numbers that change."""

    def call(*_: Any, **__: Any) -> Any:
        raise ExpressionError(
            f"{name} cannot be traced: the function is run once, so its value would be frozen"
        )

    return call


def stand_in(value: Any, memo: dict[int, Any]) -> Any:
    """What a traced function sees in place of a value; data stay as they are."""
    if id(value) in memo:
        return memo[id(value)]
    if value is where:
        return value
    if id(value) in _EXTREMA:
        return _EXTREMA[id(value)]
    if _is_random(value):
        name = getattr(value, "__name__", type(value).__name__)
        if callable(value):
            return _refuse(name)
        attributes = {attribute: _refuse(f"{name}.{attribute}") for attribute in dir(value)}
        return types.SimpleNamespace(**attributes)
    if isinstance(value, types.ModuleType):
        if value.__name__.partition(".")[0] in {"sympy", __name__.split(".")[0]}:
            return value
        return _TracedModule(value, memo)
    if isinstance(value, types.BuiltinFunctionType) and value.__module__ == "math":
        # Of the names that NumPy has too this one alone means something else.
        name = "ieee_remainder" if value is math.remainder else value.__name__
        return _by_name(name, value)
    if isinstance(value, functools.partial):
        return functools.partial(stand_in(value.func, memo), *value.args, **value.keywords)
    if isinstance(value, types.MethodType):
        return types.MethodType(stand_in(value.__func__, memo), value.__self__)
    if isinstance(getattr(value, "py_func", None), types.FunctionType):  # a Numba function
        return stand_in(value.py_func, memo)
    if isinstance(value, types.FunctionType) and _root_module(value) not in _LEFT_ALONE:
        return _copy_with_stand_ins(value, memo)
    if type(value).__module__.startswith("cupy.") and hasattr(value, "name"):  # a CuPy ufunc
        return _by_name(value.name.removeprefix("cupy_"), value)
    call = inspect.getattr_static(type(value), "__call__", None)
    if isinstance(call, types.FunctionType) and _root_module(value) not in _LEFT_ALONE:
        return types.MethodType(stand_in(call, memo), value)
    return value


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that a function's code looks up, those of the functions in it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _copy_with_stand_ins(function: types.FunctionType, memo: dict[int, Any]) -> Callable[..., Any]:
    """A copy of a Python function with stand-ins in its globals, closure and defaults."""
    scope: dict[str, Any] = dict(function.__globals__)

    def import_stand_in(*arguments: Any, **keywords: Any) -> Any:
        return stand_in(builtins.__import__(*arguments, **keywords), memo)

    scope["__builtins__"] = {
        **vars(builtins),
        "min": _EXTREMA[id(min)],
        "max": _EXTREMA[id(max)],
        "__import__": import_stand_in,
    }
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    copy = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, cells or None
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__wrapped__ = function  # type: ignore[attr-defined]  # keeps its id from being reused
    memo[id(function)] = copy  # before its names: it may call itself
    for name in set(_names(function.__code__)) & set(function.__globals__):
        scope[name] = stand_in(function.__globals__[name], memo)
    for cell, original in zip(cells, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents = stand_in(original.cell_contents, memo)
        except ValueError:  # an empty cell stays empty
            continue
    if copy.__defaults__:
        copy.__defaults__ = tuple(stand_in(value, memo) for value in copy.__defaults__)
    if copy.__kwdefaults__:
        copy.__kwdefaults__ = {
            name: stand_in(value, memo) for name, value in copy.__kwdefaults__.items()
        }
    return copy
