"""A scalar callable -> SymPy expression, and its derivative.

Nothing here knows what a semifield is; `algebra` is the caller. A callable is run once, on
symbols that record what it does to them. How expressions become C++ and array functions is in
`cpp.py`. Only NumPy and SymPy are imported.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from semiconv_cupy.algebra.cpp import (
    CIRCULAR,
    CPP_FUNCTIONS,
    HALF,
    Absolute,
    ArrayFunction,
    Ceil,
    Expm1,
    ExpressionError,
    Floor,
    Grouped,
    Log1p,
    Maximum,
    Minimum,
    Rint,
    Sign,
    Where,
    array_module,
    readable,
)

__all__ = ["derivative", "symbol", "trace", "where"]

BRANCH_REMEDY = (
    "write semiconv_cupy.where(condition, a, b) instead, and combine conditions with & | ~"
)
FUNCTION_REMEDY = (
    "use arithmetic, min, max, abs, semiconv_cupy.where, or the elementary functions of math, "
    "numpy or torch (exp, log, sqrt, sin, tanh, erf, ...)"
)
SCALARS = "a semifield's values are scalars, no pairs or vectors"


def symbol(name: str) -> sympy.Symbol:
    """The symbol of a parameter: a real number or +-inf."""
    return sympy.Symbol(name, extended_real=True)


# ---- what each known function name means, in SymPy ---------------------------------------------


def _add(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    return (Grouped(a) if a.is_Add else a) + (Grouped(b) if b.is_Add else b)


def _multiply(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    return Grouped(a) * Grouped(b)


def _divide(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    return Grouped(a) / Grouped(b)


def _remainder(a: sympy.Expr, b: sympy.Expr, quotient: Callable[[Any], Any] = Floor) -> sympy.Expr:
    return _add(a, -b * quotient(_divide(a, b)))


def _trunc(a: sympy.Expr) -> sympy.Expr:
    return Where(a < 0, Ceil(a), Floor(a))


def _square_root(a: sympy.Expr) -> sympy.Expr:
    if a.is_Pow and a.exp == 2:  # its derivative at 0 is no 0 / 0
        return Absolute(a.base)
    return sympy.sqrt(Grouped(a))


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    if exponent.is_Float and float(exponent).is_integer():
        exponent = sympy.Integer(int(exponent))  # x**2.0 is x*x
    elif exponent.is_Float and abs(exponent) == 0.5:
        exponent = HALF if exponent > 0 else -HALF
    if exponent == HALF:
        return _square_root(base)
    return sympy.Pow(Grouped(base), exponent)


def _clip(a: sympy.Expr, low: Any = None, high: Any = None, **bounds: Any) -> sympy.Expr:
    low = next((bounds.pop(name) for name in ("min", "a_min") if name in bounds), low)
    high = next((bounds.pop(name) for name in ("max", "a_max") if name in bounds), high)
    if bounds:
        raise TypeError(f"clip with {', '.join(bounds)}= cannot be traced")
    if low is not None and low is not sympy.S.NegativeInfinity:
        a = Maximum(a, low)
    return a if high is None or high is sympy.S.Infinity else Minimum(a, high)


def _logaddexp(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    apart = Maximum(a, b) + Log1p(sympy.exp(-Absolute(a - b)))
    return Where(sympy.Eq(a, b), Grouped(a + b) / 2 + sympy.log(2), apart)


def _left_fold(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def fold(first: Any, second: Any, *rest: Any) -> Any:
        return functools.reduce(function, (first, second, *rest))

    return fold


def _exclusive_or(a: Boolean, b: Boolean) -> Boolean:
    return (a & ~b) | (~a & b)


def _sigmoid(a: sympy.Expr) -> sympy.Expr:  # neither it nor its derivative overflows
    return Where(a < 0, sympy.exp(a) / (1 + sympy.exp(a)), 1 / (1 + sympy.exp(-a)))


LN2 = sympy.log(2)
_RECIPROCALS = (
    ("sec", sympy.cos),
    ("csc", sympy.sin),
    ("cot", sympy.tan),
    ("sech", sympy.cosh),
    ("csch", sympy.sinh),
    ("coth", sympy.tanh),
)

# Every name that NumPy, math, torch, SciPy or SymPy has for a function.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: meaning
    for names, meaning in (
        ("add", _add),
        ("subtract sub", lambda a, b: _add(a, -b)),
        ("rsub", lambda a, b: _add(b, -a)),
        ("multiply mul", _multiply),
        ("divide true_divide truediv div", _divide),
        ("rdiv rtruediv", lambda a, b: _divide(b, a)),
        ("floor_divide floordiv", lambda a, b: Floor(_divide(a, b))),
        ("remainder mod Mod", _remainder),
        ("fmod", lambda a, b: _remainder(a, b, _trunc)),
        ("ieee_remainder", lambda a, b: _remainder(a, b, Rint)),  # math.remainder
        ("frac", lambda a: _add(a, -_trunc(a))),
        ("negative neg", lambda a: -a),
        ("positive", lambda a: a),
        ("reciprocal", lambda a: 1 / Grouped(a)),
        ("power pow float_power", _power),
        ("rpow", lambda a, b: _power(b, a)),
        ("square", lambda a: Grouped(a) ** 2),
        ("sqrt", _square_root),
        ("rsqrt", lambda a: 1 / sympy.sqrt(Grouped(a))),
        ("cbrt", lambda a: Sign(a) * Absolute(a) ** sympy.Rational(1, 3)),
        ("hypot", lambda a, b: sympy.sqrt(Grouped(a) ** 2 + Grouped(b) ** 2)),
        ("exp", sympy.exp),
        ("exp2", lambda a: sympy.Pow(2, a)),
        ("expm1", Expm1),
        ("log", lambda a, base=sympy.E: sympy.log(a) / sympy.log(base)),
        ("log2", lambda a: sympy.log(a) / sympy.log(2)),
        ("log10", lambda a: sympy.log(a) / sympy.log(10)),
        ("log1p", Log1p),
        ("logaddexp", _logaddexp),
        ("logaddexp2", lambda a, b: _logaddexp(a * LN2, b * LN2) / LN2),
        ("xlogy", lambda a, b: Where(sympy.Eq(a, 0), 0, a * sympy.log(b))),
        ("sigmoid expit", _sigmoid),
        ("relu", lambda a, inplace=None: Maximum(a, sympy.Integer(0))),
        ("erf", sympy.erf),
        ("erfc", sympy.erfc),
        ("gamma", sympy.gamma),
        ("lgamma gammaln loggamma", sympy.loggamma),
        ("radians deg2rad", lambda a: Grouped(a) * (sympy.pi / 180)),
        ("degrees rad2deg", lambda a: Grouped(a) * (180 / sympy.pi)),
        *((name, getattr(sympy, name)) for name in CIRCULAR),
        *((f"a{name} arc{name}", getattr(sympy, "a" + name)) for name in CIRCULAR),
        ("atan2 arctan2", sympy.atan2),
        ("abs absolute fabs Abs", Absolute),
        ("sign sgn", Sign),
        ("floor", Floor),
        ("ceil ceiling", Ceil),
        ("trunc fix", _trunc),
        ("rint round", lambda a: Rint(a)),
        *((name, lambda a, inverse=inverse: 1 / inverse(a)) for name, inverse in _RECIPROCALS),
        ("heaviside Heaviside", lambda a, at_0=HALF: Where(a < 0, 0, Where(a > 0, 1, at_0))),
        ("maximum fmax max Max", _left_fold(Maximum)),
        ("minimum fmin min Min", _left_fold(Minimum)),
        ("clip clamp", _clip),
        ("where ITE", Where),
        ("greater gt", sympy.Gt),
        ("greater_equal ge", sympy.Ge),
        ("less lt", sympy.Lt),
        ("less_equal le", sympy.Le),
        ("equal eq", sympy.Eq),
        ("not_equal ne", sympy.Ne),
        ("logical_and bitwise_and and", sympy.And),
        ("logical_or bitwise_or or", sympy.Or),
        ("logical_xor bitwise_xor xor Xor", _exclusive_or),
        ("logical_not bitwise_not invert", sympy.Not),
        ("isinf", lambda a: sympy.Eq(a, sympy.oo) | sympy.Eq(a, -sympy.oo)),
        ("isfinite", lambda a: (a < sympy.oo) & (a > -sympy.oo)),
    )
    for name in names.split()
}


# ---- tracing -----------------------------------------------------------------------------------


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, Traced | sympy.Basic)


def _to_sympy(value: Any) -> sympy.Basic:
    """A number, 0-d array, traced value or SymPy expression as a SymPy expression."""
    if isinstance(value, Traced):
        return value.expression
    if isinstance(value, sympy.Basic):
        return _normalised(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | np.bool_):
        return sympy.true if value else sympy.false
    if isinstance(value, int):
        return sympy.Integer(value)
    if isinstance(value, float):
        if math.isnan(value):
            raise ExpressionError("a constant is NaN")
        if math.isinf(value):
            return sympy.oo if value > 0 else -sympy.oo
        return sympy.Float(value, precision=53)
    if isinstance(value, complex):
        raise ExpressionError(f"{value!r} is complex; a semifield's values are real numbers")
    shape = getattr(value, "shape", None)
    described = f"an array of shape {tuple(shape)}" if shape is not None else repr(value)
    remedy = "only numbers and 0-d arrays can be captured"
    if isinstance(value, tuple | list | dict | np.ndarray) and shape in (None, (len(value),)):
        remedy = f"{remedy}, and {SCALARS}"
    raise ExpressionError(f"{described} is not a scalar: {remedy}")


def _apply(name: str, arguments: Sequence[Any], keywords: dict[str, Any] | None = None) -> Traced:
    function = _FUNCTIONS.get(name)
    if function is None:
        raise ExpressionError(f"the function {name!r} cannot be traced: {FUNCTION_REMEDY}")
    converted = [None if value is None else _to_sympy(value) for value in arguments]
    named = {
        key: None if value is None else _to_sympy(value)
        for key, value in (keywords or {}).items()
        if key != "out" or value is not None
    }
    try:
        return Traced(_normalised(function(*converted, **named)))
    except ExpressionError:
        raise
    except (TypeError, AttributeError) as error:
        shown = ", ".join(map(str, converted))
        raise ExpressionError(f"{name}({shown}) cannot be traced: {error}") from None


class Traced:
    """A symbolic value: records every operation as a SymPy expression."""

    __slots__ = ("expression",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expression: sympy.Basic) -> None:
        self.expression = expression

    def __repr__(self) -> str:
        return readable(self.expression)

    def _sympy_(self) -> sympy.Basic:
        return self.expression

    def __bool__(self) -> bool:
        if self.expression in (sympy.true, sympy.false):
            return bool(self.expression)
        raise ExpressionError(
            f"a Python branch (if, and, or, not, a chained comparison) depends on the value of "
            f"{self!r}: {BRANCH_REMEDY}"
        )

    def _no_number(self, *_: Any) -> Any:
        raise ExpressionError(
            f"{self!r} was asked for its number (by float(), int(), round() or a function that "
            f"cannot be traced): {FUNCTION_REMEDY}"
        )

    __float__ = __int__ = __index__ = __complex__ = _no_number
    __array__ = _no_number

    def __round__(self, digits: int | None = None) -> Any:
        return self._no_number() if digits else _apply("round", [self])

    def _no_vector(self, *_: Any) -> Any:
        raise ExpressionError(f"{self!r} cannot be indexed or unpacked: {SCALARS}")

    __iter__ = __getitem__ = __len__ = _no_vector

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Traced:
        if method != "__call__":
            raise ExpressionError(f"numpy.{ufunc.__name__}.{method} cannot be traced")
        return _apply(ufunc.__name__, inputs, keywords)

    def __array_function__(self, function: Any, _types: Any, args: Any, keywords: Any) -> Traced:
        return _apply(function.__name__, args, keywords)

    @classmethod
    def __torch_function__(
        cls, function: Any, _types: Any, args: Any = (), keywords: Any = None
    ) -> Traced:
        return _apply(function.__name__.strip("_"), args, keywords)

    def __neg__(self) -> Traced:
        return _apply("negative", [self])

    def __pos__(self) -> Traced:
        return self

    def __abs__(self) -> Traced:
        return _apply("abs", [self])

    def __invert__(self) -> Traced:
        return _apply("logical_not", [self])

    def __floor__(self) -> Traced:
        return _apply("floor", [self])

    def __ceil__(self) -> Traced:
        return _apply("ceil", [self])

    def __trunc__(self) -> Traced:
        return _apply("trunc", [self])


def _operator(name: str, swapped: bool) -> Callable[..., Any]:
    def operator(self: Traced, other: Any) -> Any:
        return _apply(name, [other, self] if swapped else [self, other])

    return operator


for _method, _name in (
    ("add", "add"),
    ("sub", "subtract"),
    ("mul", "multiply"),
    ("truediv", "divide"),
    ("floordiv", "floor_divide"),
    ("mod", "remainder"),
    ("pow", "power"),
    ("and", "logical_and"),
    ("or", "logical_or"),
    ("xor", "logical_xor"),
):
    setattr(Traced, f"__{_method}__", _operator(_name, swapped=False))
    setattr(Traced, f"__r{_method}__", _operator(_name, swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Traced, f"__{_name}__", _operator(_name, swapped=False))


def where(condition: Any, a: Any, b: Any) -> Any:
    """Choose without branching: a where the condition holds, else b.

    Use it in place of a Python conditional inside a semifield's functions. It works on the symbols
    of tracing, on NumPy and CuPy arrays and torch tensors, and on plain numbers.

    Parameters
    ----------
    condition, a, b
        Scalars, arrays or symbols; arrays broadcast.

    Examples
    --------
    >>> where(2 > 1, 10, 20)
    10
    >>> where(np.array([True, False]), 1.0, 2.0)
    array([1., 2.])
    """
    if any(map(_is_symbolic, (condition, a, b))):
        return _apply("where", [condition, a, b])
    module = array_module(condition, a, b)
    if module is None:
        return a if condition else b
    return module.where(condition, a, b)


_RANDOM = {"random", "secrets", "time", "numpy.random", "cupy.random", "torch.random"}
_LEFT_ALONE = {"numpy", "torch", "sympy", "scipy", "builtins", "operator"}


def _root_module(value: Any) -> str:
    return (getattr(value, "__module__", None) or "").partition(".")[0]


class _TracedModule:
    """A module seen from inside a traced function: what it gives out can be traced."""

    def __init__(self, module: types.ModuleType, memo: dict[int, Any]) -> None:
        self._module, self._memo = module, memo

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if self._module.__name__.startswith("cupy") and not isinstance(value, type | float):
            return _by_name(name, value) if callable(value) else value
        return _traceable(value, self._memo)


def _by_name(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The original for numbers, the SymPy meaning of its name for symbols."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        if any(map(_is_symbolic, arguments)):
            return _apply(name, arguments, keywords)
        return original(*arguments, **keywords)

    return call


def _extremum(name: str) -> Callable[..., Any]:
    original = getattr(builtins, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        values = list(arguments[0]) if len(arguments) == 1 else list(arguments)
        if not any(map(_is_symbolic, values)):
            return original(*([values] if len(arguments) == 1 else values), **keywords)
        if keywords:
            raise ExpressionError(f"{name}() with {', '.join(keywords)}= cannot be traced")
        return _apply(name, values) if len(values) > 1 else values[0]

    return call


_EXTREMA = {id(getattr(builtins, name)): _extremum(name) for name in ("min", "max")}


def _is_random(value: Any) -> bool:
    """Whether it is a source of values that change from call to call, or a part of one."""
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
    def call(*_: Any, **__: Any) -> Any:
        raise ExpressionError(
            f"{name} cannot be traced: the function is run once, so its value would be frozen"
        )

    return call


def _traceable(value: Any, memo: dict[int, Any]) -> Any:
    """The value as a traced function must see it: functions and modules replaced, data as it is."""
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
        return functools.partial(_traceable(value.func, memo), *value.args, **value.keywords)
    if isinstance(value, types.MethodType):
        return types.MethodType(_traceable(value.__func__, memo), value.__self__)
    if isinstance(getattr(value, "py_func", None), types.FunctionType):  # a Numba function
        return _traceable(value.py_func, memo)
    if isinstance(value, types.FunctionType) and _root_module(value) not in _LEFT_ALONE:
        return _traceable_function(value, memo)
    if type(value).__module__.startswith("cupy.") and hasattr(value, "name"):  # a CuPy ufunc
        return _by_name(value.name.removeprefix("cupy_"), value)
    call = inspect.getattr_static(type(value), "__call__", None)
    if isinstance(call, types.FunctionType) and _root_module(value) not in _LEFT_ALONE:
        return types.MethodType(_traceable(call, memo), value)
    return value


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _traceable_function(function: types.FunctionType, memo: dict[int, Any]) -> Callable[..., Any]:
    """A copy of a Python function whose globals and closure are traceable."""
    scope: dict[str, Any] = dict(function.__globals__)

    def import_traceable(*arguments: Any, **keywords: Any) -> Any:
        return _traceable(builtins.__import__(*arguments, **keywords), memo)

    scope["__builtins__"] = {
        **vars(builtins),
        "min": _EXTREMA[id(min)],
        "max": _EXTREMA[id(max)],
        "__import__": import_traceable,
    }
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    copy = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, cells or None
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__wrapped__ = function  # type: ignore[attr-defined]  # keeps its id from being reused
    memo[id(function)] = copy  # before its names: it may call itself
    for name in set(_names(function.__code__)) & set(function.__globals__):
        scope[name] = _traceable(function.__globals__[name], memo)
    for cell, original in zip(cells, function.__closure__ or (), strict=True):
        try:
            cell.cell_contents = _traceable(original.cell_contents, memo)
        except ValueError:  # an empty cell stays empty
            continue
    if copy.__defaults__:
        copy.__defaults__ = tuple(_traceable(value, memo) for value in copy.__defaults__)
    if copy.__kwdefaults__:
        copy.__kwdefaults__ = {
            name: _traceable(value, memo) for name, value in copy.__kwdefaults__.items()
        }
    return copy


def trace(function: Any, names: Sequence[str], what: str, condition: bool = False) -> sympy.Basic:
    """The expression that a scalar callable computes.

    Parameters
    ----------
    function
        A callable of ``len(names)`` scalars (lambda, function, closure, NumPy ufunc, ...), or a
        SymPy expression in symbols called ``names``, or a `sympy.Lambda`, or an `ArrayFunction`.
    names
        The parameters' names in the result.
    what
        The name of the argument, for errors.
    condition
        Whether the result must be a condition (True) or a number (False).

    Raises
    ------
    TypeError
        Where the callable cannot be traced, or gives no scalar; the message says what to write.

    Examples
    --------
    >>> trace(lambda img, krn: img + 2 * krn, ["img", "krn"], "times")
    img + 2*krn
    """
    symbols = [symbol(name) for name in names]
    try:
        if isinstance(function, ArrayFunction):
            function = function.expression
        if isinstance(function, sympy.Lambda):
            result = _to_sympy(function(*symbols))
        elif isinstance(function, sympy.Basic):
            by_name = dict(zip(names, symbols, strict=True))
            result = _to_sympy(
                function.xreplace({s: by_name.get(s.name, s) for s in function.free_symbols})
            )
        elif callable(function):
            _check_signature(function, names)
            value = _traceable(function, {})(*map(Traced, symbols))
            if value is None:
                raise ExpressionError("returned None: is `return` missing?")
            result = _to_sympy(value)
        else:
            raise ExpressionError(f"needs a callable or a SymPy expression, not {function!r}")
        if isinstance(result, Grouped):
            result = result.args[0]
        _check(result, symbols, condition)
    except ExpressionError as error:
        raise TypeError(f"{what}({', '.join(names)}): {error}") from error
    except (TypeError, AttributeError) as error:  # an operator, method or call that symbols lack
        raise TypeError(
            f"{what}({', '.join(names)}) cannot be traced: {error}; {FUNCTION_REMEDY}"
        ) from error
    except Exception as error:
        error.add_note(f"while tracing {what}({', '.join(names)})")
        raise
    return result


def _check_signature(function: Callable[..., Any], names: Sequence[str]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none
        return
    try:
        signature.bind(*names)
    except TypeError:
        raise ExpressionError(
            f"is called with {len(names)} arguments, but {function!r} takes {signature}"
        ) from None


def _check(expression: sympy.Basic, symbols: Sequence[sympy.Symbol], condition: bool) -> None:
    strangers = expression.free_symbols - set(symbols)
    if strangers:
        raise ExpressionError(f"unknown symbols {', '.join(sorted(map(str, strangers)))}")
    if (isinstance(expression, Boolean) and not expression.is_Symbol) != condition:
        wanted, got = ("a condition", "a number") if condition else ("a number", "a condition")
        remedy = "; write right > left for a maximum, right < left for a minimum"
        raise ExpressionError(
            f"must give {wanted}, but {readable(expression)} is {got}{remedy if condition else ''}"
        )
    if expression in (sympy.true, sympy.false):
        raise ExpressionError(f"is always {expression}, whatever its arguments are")
    for node in sympy.preorder_traversal(expression):
        if node in (sympy.nan, sympy.zoo, sympy.I):
            raise ExpressionError("the expression is not a real number (division by 0, or complex)")
        known = (
            isinstance(node, _KNOWN_NODES)
            or node.is_Symbol
            or node.is_number
            or type(node).__name__ in CPP_FUNCTIONS
        )
        if not known:
            raise ExpressionError(
                f"the function {type(node).__name__!r} cannot be compiled: {FUNCTION_REMEDY}"
            )


def _normalised(expression: Any) -> sympy.Basic:
    """The expression with Max, Abs, Piecewise, ... written with the functions of this file."""
    if not isinstance(expression, sympy.Basic):
        return _to_sympy(expression)
    if isinstance(expression, sympy.Piecewise):
        *branches, (last, condition) = expression.args
        if condition != sympy.true:
            raise ExpressionError(f"{expression} has no default: end it with (value, True)")
        result = _normalised(last)
        for value, condition in reversed(branches):
            result = Where(_normalised(condition), _normalised(value), result)
        return result
    if not expression.args:
        return expression
    arguments = [_normalised(argument) for argument in expression.args]
    name = type(expression).__name__
    if isinstance(expression, _REPLACED):
        return _FUNCTIONS[name](*arguments)
    if type(expression).__module__.startswith("sympy.codegen") and name.lower() in _FUNCTIONS:
        return _FUNCTIONS[name.lower()](*arguments)
    if all(new is old for new, old in zip(arguments, expression.args, strict=True)):
        return expression
    return expression.func(*arguments)


_REPLACED = (
    sympy.Max,
    sympy.Min,
    sympy.Abs,
    sympy.sign,
    sympy.floor,
    sympy.ceiling,
    sympy.Heaviside,
    sympy.ITE,
    sympy.Xor,
    sympy.Mod,
    *(getattr(sympy, name) for name, _ in _RECIPROCALS),
)
_KNOWN_NODES = (sympy.Add, sympy.Mul, sympy.Pow, Relational, sympy.And, sympy.Or, sympy.Not)


def solutions(expression: Any, unknown: Any, result: Any) -> Iterator[Any]:
    """Expressions for the unknown where ``expression == result``; the caller tests which is meant.

    Examples
    --------
    >>> a, b, y = map(symbol, "aby")
    >>> readable(next(solutions((a**3 + b**3) ** 0.5, a, y)))
    '(y**2 - b**3)**0.3333333333333333'
    """
    unwound = _unwound(expression, unknown, result)
    if unwound is not None:
        yield unwound
    plain = (
        expression.replace(Grouped, lambda a: a)
        .replace(Expm1, lambda a: sympy.exp(a) - 1)
        .replace(Log1p, lambda a: sympy.log(1 + a))
    )
    # Fractional powers of floats take SymPy minutes.
    if not any(power.exp.is_Float for power in plain.atoms(sympy.Pow)):
        try:
            yield from sympy.solve(sympy.Eq(plain, result), unknown)
        except NotImplementedError:
            return


def _unwound(expression: Any, unknown: Any, result: Any) -> Any:
    """The solution by undoing one operation after the other; None where two hold the unknown."""
    while expression != unknown:
        parts = [argument for argument in expression.args if argument.has(unknown)]
        if len(parts) != 1:
            return None
        (part,) = parts
        if expression.is_Add:
            result = result - (expression - part)
        elif expression.is_Mul:
            result = Grouped(result) / (expression / part)
        elif expression.is_Pow and part is expression.base:
            result = _power(result, 1 / expression.exp)
        elif isinstance(expression, sympy.exp):
            result = sympy.log(result)
        elif isinstance(expression, sympy.log):
            result = sympy.exp(result)
        elif isinstance(expression, Expm1 | Log1p):
            result = (Log1p if isinstance(expression, Expm1) else Expm1)(result)
        elif not isinstance(expression, Grouped):
            return None
        expression = part
    return result


def derivative(expression: sympy.Expr, name: str, what: str) -> sympy.Expr:
    """The derivative by the parameter called ``name``; at kinks the mean of both sides (1/2 for max
    and min, 0 for abs), 0 for steps.

    Examples
    --------
    >>> derivative(trace(max, ["a", "b"], "f"), "b", "df")
    Where(a < b, 1, Where(Eq(a, b), 1/2, 0))
    """
    result = _normalised(expression.diff(symbol(name)))
    try:
        _check(result, list(expression.free_symbols), condition=False)
    except ExpressionError as error:
        raise TypeError(
            f"{what}: the derivative {result} of {readable(expression)} cannot be compiled "
            f"({error}); pass {what} yourself"
        ) from None
    return result
