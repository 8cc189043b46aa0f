"""Scalar functions as expressions: a Python callable -> SymPy -> C++ text, array function, derivative.

Nothing here knows what a semifield is; `semifields.py` is the caller. A callable is run once, on
symbols that record what it does to them; only NumPy and SymPy are imported.
"""

from __future__ import annotations

import builtins
import functools
import math
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean, BooleanFunction
from sympy.printing.precedence import PRECEDENCE, precedence
from sympy.printing.str import StrPrinter

__all__ = [
    "ArrayFunction",
    "cpp_bool",
    "cpp_floating",
    "cpp_integer",
    "derivative",
    "symbol",
    "trace",
    "where",
]

BRANCH_REMEDY = (
    "write semiconv_cupy.where(condition, a, b) instead, and combine conditions with & | ~"
)
FUNCTION_REMEDY = (
    "use arithmetic, min, max, abs, semiconv_cupy.where, or the elementary functions of math, "
    "numpy or torch (exp, log, sqrt, sin, tanh, erf, ...)"
)


def symbol(name: str) -> sympy.Symbol:
    """The symbol of a parameter: a real number or +-inf."""
    return sympy.Symbol(name, extended_real=True)


# ---- the functions whose SymPy twins would reorder their arguments, simplify, or differentiate
# ---- into distributions


class _Elementary(sympy.Function):
    is_extended_real = True
    is_commutative = True


class Maximum(_Elementary):
    """max(a, b); the derivative goes to the first argument at ties."""

    nargs = 2

    @classmethod
    def eval(cls, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr | None:
        return sympy.Max(a, b) if a.is_number and b.is_number else a if a == b else None

    def _eval_is_extended_nonnegative(self) -> bool | None:
        return any(argument.is_extended_nonnegative for argument in self.args) or None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        a, b = self.args
        return Where(a >= b, *((1, 0) if argindex == 1 else (0, 1)))


class Minimum(_Elementary):
    """min(a, b); the derivative goes to the first argument at ties."""

    nargs = 2

    @classmethod
    def eval(cls, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr | None:
        return sympy.Min(a, b) if a.is_number and b.is_number else a if a == b else None

    def _eval_is_extended_nonpositive(self) -> bool | None:
        return any(argument.is_extended_nonpositive for argument in self.args) or None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        a, b = self.args
        return Where(a <= b, *((1, 0) if argindex == 1 else (0, 1)))


class Grouped(_Elementary):
    """Brackets: SymPy would multiply out 2 (a - b) and (a / b)^3, and so cancel or overflow where
    the formula as it was written does not."""

    nargs = 1

    @classmethod
    def eval(cls, a: sympy.Expr) -> sympy.Expr | None:
        return None if not a.is_number and (a.is_Add or a.is_Mul or a.is_Pow) else a

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sympy.Integer(1)


class Where(_Elementary):
    """a where the condition holds, else b."""

    nargs = 3

    @classmethod
    def eval(cls, condition: Boolean, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr | None:
        if condition in (sympy.true, sympy.false):
            return a if condition else b
        return a if a == b else None

    def _eval_derivative(self, s: sympy.Symbol) -> sympy.Expr:
        condition, a, b = self.args
        return Where(condition, a.diff(s), b.diff(s))


class Absolute(_Elementary):
    """|a|, with derivative 0 at 0."""

    nargs = 1

    @classmethod
    def eval(cls, a: sympy.Expr) -> sympy.Expr | None:
        return sympy.Abs(a) if a.is_number else None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return Sign(self.args[0])


class _Step(_Elementary):
    """Piecewise constant: the derivative is 0."""

    nargs = 1
    twin: Callable[[sympy.Expr], sympy.Expr]

    @classmethod
    def eval(cls, a: sympy.Expr) -> sympy.Expr | None:
        return cls.twin(a) if a.is_number else None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sympy.Integer(0)


class Sign(_Step):
    twin = sympy.sign


class Floor(_Step):
    twin = sympy.floor


class Ceil(_Step):
    twin = sympy.ceiling


class Expm1(_Elementary):
    """exp(a) - 1 without cancellation."""

    nargs = 1

    @classmethod
    def eval(cls, a: sympy.Expr) -> sympy.Expr | None:
        return sympy.exp(a) - 1 if a.is_number else None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return sympy.exp(self.args[0])


class Log1p(_Elementary):
    """log(1 + a) without cancellation."""

    nargs = 1

    @classmethod
    def eval(cls, a: sympy.Expr) -> sympy.Expr | None:
        return sympy.log(1 + a) if a.is_number else None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        return 1 / (1 + self.args[0])


# ---- what each known function name means, in SymPy ---------------------------------------------


def _add(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    return (Grouped(a) if a.is_Add else a) + (Grouped(b) if b.is_Add else b)


def _multiply(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    return Grouped(a) * Grouped(b)


def _divide(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    return Grouped(a) / Grouped(b)


def _remainder(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    return _add(a, -b * Floor(_divide(a, b)))


def _power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    if exponent.is_Float and float(exponent).is_integer():
        exponent = sympy.Integer(int(exponent))  # x**2.0 is x*x
    elif exponent.is_Float and abs(exponent) == 0.5:
        exponent = sympy.Rational(1, 2) * (1 if exponent > 0 else -1)
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


_HALF_PI_FUNCTIONS = ("sin", "cos", "tan", "sinh", "cosh", "tanh")

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": sympy.exp,
    "expm1": Expm1,
    "exp2": lambda a: sympy.Pow(2, a),
    "log": lambda a, base=sympy.E: sympy.log(a) / sympy.log(base),
    "log1p": Log1p,
    "log2": lambda a: sympy.log(a) / sympy.log(2),
    "log10": lambda a: sympy.log(a) / sympy.log(10),
    "sqrt": lambda a: sympy.sqrt(Grouped(a)),
    "rsqrt": lambda a: 1 / sympy.sqrt(Grouped(a)),
    "cbrt": lambda a: Sign(a) * Absolute(a) ** sympy.Rational(1, 3),
    "square": lambda a: Grouped(a) ** 2,
    "reciprocal": lambda a: 1 / Grouped(a),
    "pow": _power,
    "power": _power,
    "float_power": _power,
    "hypot": lambda a, b: sympy.sqrt(Grouped(a) ** 2 + Grouped(b) ** 2),
    "logaddexp": _logaddexp,
    "sigmoid": lambda a: 1 / (1 + sympy.exp(-a)),
    "expit": lambda a: 1 / (1 + sympy.exp(-a)),
    "relu": lambda a: Maximum(sympy.Integer(0), a),  # its derivative at 0 is 0, as torch's
    "erf": sympy.erf,
    "erfc": sympy.erfc,
    "gamma": sympy.gamma,
    "lgamma": sympy.loggamma,
    "gammaln": sympy.loggamma,
    "loggamma": sympy.loggamma,
    "radians": lambda a: Grouped(a) * sympy.pi / 180,
    "deg2rad": lambda a: Grouped(a) * sympy.pi / 180,
    "degrees": lambda a: Grouped(a) * 180 / sympy.pi,
    "rad2deg": lambda a: Grouped(a) * 180 / sympy.pi,
    "arctan2": sympy.atan2,
    "atan2": sympy.atan2,
    "abs": Absolute,
    "fabs": Absolute,
    "absolute": Absolute,
    "Abs": Absolute,
    "sign": Sign,
    "sgn": Sign,
    "floor": Floor,
    "ceil": Ceil,
    "ceiling": Ceil,
    "trunc": lambda a: Where(a < 0, Ceil(a), Floor(a)),
    "heaviside": lambda a, middle: Where(a < 0, 0, Where(a > 0, 1, middle)),
    "Heaviside": lambda a, middle=sympy.Rational(1, 2): Where(a < 0, 0, Where(a > 0, 1, middle)),
    "maximum": Maximum,
    "fmax": Maximum,
    "max": _left_fold(Maximum),
    "Max": _left_fold(Maximum),
    "minimum": Minimum,
    "fmin": Minimum,
    "min": _left_fold(Minimum),
    "Min": _left_fold(Minimum),
    "clip": _clip,
    "clamp": _clip,
    "where": Where,
    "ITE": Where,
    "add": _add,
    "subtract": lambda a, b: _add(a, -b),
    "sub": lambda a, b: _add(a, -b),
    "rsub": lambda a, b: _add(b, -a),
    "multiply": _multiply,
    "mul": _multiply,
    "divide": _divide,
    "true_divide": _divide,
    "div": _divide,
    "floor_divide": lambda a, b: Floor(_divide(a, b)),
    "floordiv": lambda a, b: Floor(_divide(a, b)),
    "remainder": _remainder,
    "mod": _remainder,
    "negative": lambda a: -a,
    "neg": lambda a: -a,
    "positive": lambda a: a,
    "greater": sympy.Gt,
    "gt": sympy.Gt,
    "greater_equal": sympy.Ge,
    "ge": sympy.Ge,
    "less": sympy.Lt,
    "lt": sympy.Lt,
    "less_equal": sympy.Le,
    "le": sympy.Le,
    "equal": sympy.Eq,
    "eq": sympy.Eq,
    "not_equal": sympy.Ne,
    "ne": sympy.Ne,
    "logical_and": sympy.And,
    "bitwise_and": sympy.And,
    "logical_or": sympy.Or,
    "bitwise_or": sympy.Or,
    "logical_xor": lambda a, b: (a & ~b) | (~a & b),
    "bitwise_xor": lambda a, b: (a & ~b) | (~a & b),
    "logical_not": sympy.Not,
    "bitwise_not": sympy.Not,
    "invert": sympy.Not,
    "isinf": lambda a: sympy.Eq(a, sympy.oo) | sympy.Eq(a, -sympy.oo),
    "isfinite": lambda a: (a < sympy.oo) & (a > -sympy.oo),
}
for _name in _HALF_PI_FUNCTIONS:
    _FUNCTIONS[_name] = getattr(sympy, _name)
    for _inverse in ("a", "arc"):
        _FUNCTIONS[_inverse + _name] = getattr(sympy, "a" + _name)


# ---- tracing -----------------------------------------------------------------------------------


class TracingError(TypeError):
    """A callable does something that cannot be written as one expression."""


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
            raise TracingError("a constant is NaN")
        if math.isinf(value):
            return sympy.oo if value > 0 else -sympy.oo
        return sympy.Float(value, precision=53)
    shape = getattr(value, "shape", None)
    described = f"an array of shape {tuple(shape)}" if shape is not None else repr(value)
    raise TracingError(f"{described} is not a scalar: only numbers and 0-d arrays can be captured")


def _apply(name: str, arguments: Sequence[Any], keywords: dict[str, Any] | None = None) -> Traced:
    function = _FUNCTIONS.get(name)
    if function is None:
        raise TracingError(f"the function {name!r} cannot be traced: {FUNCTION_REMEDY}")
    converted = [None if value is None else _to_sympy(value) for value in arguments]
    named = {
        key: None if value is None else _to_sympy(value)
        for key, value in (keywords or {}).items()
        if key != "out" or value is not None
    }
    try:
        return Traced(_normalised(function(*converted, **named)))
    except TracingError:
        raise
    except (TypeError, AttributeError) as error:
        shown = ", ".join(map(str, converted))
        raise TracingError(f"{name}({shown}) cannot be traced: {error}") from None


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
        raise TracingError(
            f"a Python branch (if, and, or, not, a chained comparison) depends on the value of "
            f"{self!r}: {BRANCH_REMEDY}"
        )

    def _no_number(self, *_: Any) -> Any:
        raise TracingError(
            f"{self!r} was asked for its number (by float(), int(), round() or a function that "
            f"cannot be traced): {FUNCTION_REMEDY}"
        )

    __float__ = __int__ = __index__ = __complex__ = __round__ = _no_number
    __array__ = __iter__ = _no_number

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Traced:
        if method != "__call__":
            raise TracingError(f"numpy.{ufunc.__name__}.{method} cannot be traced")
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


for _symbol, _name in {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "logical_and",
    "or": "logical_or",
    "xor": "logical_xor",
}.items():
    setattr(Traced, f"__{_symbol}__", _operator(_name, swapped=False))
    setattr(Traced, f"__r{_symbol}__", _operator(_name, swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Traced, f"__{_name}__", _operator(_name, swapped=False))
del _symbol, _name, _inverse


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
_LEFT_ALONE = {"numpy", "torch", "sympy", "scipy", "builtins", "operator", __name__.split(".")[0]}


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
            raise TracingError(f"{name}() with {', '.join(keywords)}= cannot be traced")
        return _apply(name, values) if len(values) > 1 else values[0]

    return call


_EXTREMA = {id(getattr(builtins, name)): _extremum(name) for name in ("min", "max")}


def _is_random(value: Any) -> bool:
    if isinstance(value, types.ModuleType):
        return value.__name__ in _RANDOM
    owner = getattr(value, "__self__", None)
    module = getattr(value, "__module__", None) or type(owner).__module__
    name = getattr(value, "__name__", "")
    return callable(value) and (
        module in _RANDOM
        or type(owner).__module__ in _RANDOM
        or (isinstance(owner, types.ModuleType) and owner.__name__ in _RANDOM)
        or ("torch" in module and name.startswith("rand"))
    )


def _refuse(name: str) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise TracingError(
            f"{name} cannot be traced: the function is run once, so its value would be frozen"
        )

    return call


def _traceable(value: Any, memo: dict[int, Any]) -> Any:
    """The value as a traced function must see it: functions and modules replaced, data as it is."""
    if id(value) in memo:
        return memo[id(value)]
    if id(value) in _EXTREMA:
        return _EXTREMA[id(value)]
    if _is_random(value):
        name = getattr(value, "__name__", repr(value))
        if isinstance(value, types.ModuleType):
            return types.SimpleNamespace(
                **{attribute: _refuse(f"{name}.{attribute}") for attribute in dir(value)}
            )
        return _refuse(name)
    if isinstance(value, types.ModuleType):
        if value.__name__.partition(".")[0] in {"sympy", __name__.split(".")[0]}:
            return value
        return _TracedModule(value, memo)
    if isinstance(value, types.BuiltinFunctionType) and value.__module__ == "math":
        return _by_name(value.__name__, value)
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
    call = vars(type(value)).get("__call__")
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
            result = _to_sympy(_traceable(function, {})(*map(Traced, symbols)))
        else:
            raise TracingError(f"needs a callable or a SymPy expression, not {function!r}")
        if isinstance(result, Grouped):
            result = result.args[0]
        _check(result, symbols, condition)
    except TracingError as error:
        raise TypeError(f"{what}({', '.join(names)}): {error}") from error
    except Exception as error:
        error.add_note(f"while tracing {what}({', '.join(names)})")
        raise
    return result


def _check(expression: sympy.Basic, symbols: Sequence[sympy.Symbol], condition: bool) -> None:
    strangers = expression.free_symbols - set(symbols)
    if strangers:
        raise TracingError(f"unknown symbols {', '.join(sorted(map(str, strangers)))}")
    if isinstance(expression, Boolean) != condition and not expression.is_Symbol:
        wanted, got = ("a condition", "a number") if condition else ("a number", "a condition")
        raise TracingError(f"must give {wanted}, but {readable(expression)} is {got}")
    for node in sympy.preorder_traversal(expression):
        if node in (sympy.nan, sympy.zoo, sympy.I):
            raise TracingError("the expression is not a real number (division by 0, or complex)")
        known = (
            isinstance(node, _KNOWN_NODES)
            or node.is_Symbol
            or node.is_number
            or type(node).__name__ in _CPP_FUNCTIONS
        )
        if not known:
            raise TracingError(
                f"the function {type(node).__name__!r} cannot be compiled: {FUNCTION_REMEDY}"
            )


def _normalised(expression: Any) -> sympy.Basic:
    """The expression with Max, Abs, Piecewise, ... written with the functions of this file."""
    if not isinstance(expression, sympy.Basic):
        return _to_sympy(expression)
    if isinstance(expression, sympy.Piecewise):
        *branches, (last, condition) = expression.args
        if condition != sympy.true:
            raise TracingError(f"{expression} has no default: end it with (value, True)")
        result = _normalised(last)
        for value, condition in reversed(branches):
            result = Where(_normalised(condition), _normalised(value), result)
        return result
    if not expression.args:
        return expression
    arguments = [_normalised(argument) for argument in expression.args]
    name = type(expression).__name__
    if isinstance(expression, _REPLACED) or (
        type(expression).__module__.startswith("sympy.codegen") and name.lower() in _FUNCTIONS
    ):
        return _FUNCTIONS.get(name, _FUNCTIONS.get(name.lower()))(*arguments)  # type: ignore[misc]
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
)
_KNOWN_NODES = (sympy.Add, sympy.Mul, sympy.Pow, Relational, BooleanFunction)


def ungrouped(expression: sympy.Basic) -> sympy.Basic:
    """The expression without the brackets that keep SymPy from rearranging it."""
    return expression.replace(Grouped, lambda inner: inner)


def derivative(expression: sympy.Expr, name: str, what: str) -> sympy.Expr:
    """The derivative by the parameter called ``name``; one-sided at kinks (the first argument of
    max and min, 0 for abs), 0 for steps.

    Examples
    --------
    >>> derivative(trace(max, ["a", "b"], "f"), "b", "df")
    Where(a >= b, 0, 1)
    """
    result = _normalised(expression.diff(symbol(name)))
    try:
        _check(result, list(expression.free_symbols), condition=False)
    except TracingError as error:
        raise TypeError(
            f"{what}: the derivative {result} of {readable(expression)} cannot be compiled "
            f"({error}); pass {what} yourself"
        ) from None
    return result


# ---- printing ----------------------------------------------------------------------------------

_CPP_FUNCTIONS = {
    **{name: name for name in ("exp", "log", "erf", "erfc", "atan2", *_HALF_PI_FUNCTIONS)},
    **{"a" + name: "a" + name for name in _HALF_PI_FUNCTIONS},
    "gamma": "tgamma",
    "loggamma": "lgamma",
    "Expm1": "expm1",
    "Log1p": "log1p",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Absolute": "absolute",
    "Sign": "sign",
    "Floor": "floor",
    "Ceil": "ceil",
    "Where": "where",
    "Grouped": "",
}
_NUMPY_FUNCTIONS = {
    **_CPP_FUNCTIONS,
    **{"a" + name: "arc" + name for name in _HALF_PI_FUNCTIONS},
    "atan2": "arctan2",
}


class _Printer(StrPrinter):
    """Sums, products, comparisons and calls, the same in C++ and Python; subclasses fill in."""

    functions: dict[str, str] = _CPP_FUNCTIONS

    def constant(self, value: sympy.Expr) -> str:
        raise NotImplementedError

    def integer_power(self, base: sympy.Expr, exponent: int) -> str:
        raise NotImplementedError

    def call(self, name: str, arguments: Sequence[str]) -> str:
        return f"{name}({', '.join(arguments)})"

    def _print(self, expression: Any, **keywords: Any) -> str:
        if isinstance(expression, sympy.Expr) and expression.is_number:
            return self.constant(expression)
        return super()._print(expression, **keywords)

    def operand(self, expression: sympy.Expr, level: str, strict: bool = False) -> str:
        """The text, in brackets where it binds no tighter than the level."""
        text = self._print(expression)
        if expression.is_number:
            return text
        if isinstance(expression, Grouped):
            expression, strict = expression.args[0], True
        own, outer = precedence(expression), PRECEDENCE[level]
        if expression.is_Pow and expression.exp.is_number and expression.exp.is_negative:
            own = PRECEDENCE["Mul"]  # printed as a division
        return f"({text})" if own < outer or (strict and own == outer) else text

    def _print_Symbol(self, expression: sympy.Symbol) -> str:
        return str(expression.name)

    def _print_Add(self, expression: sympy.Add, order: Any = None) -> str:
        terms = sorted(
            self._as_ordered_terms(expression, order=None),
            key=lambda term: bool(term.could_extract_minus_sign()),  # a - b rather than -b + a
        )
        text = self.operand(terms[0], "Add")
        for term in terms[1:]:
            if term.could_extract_minus_sign():
                text += " - " + self.operand(-term, "Add", strict=True)
            else:
                text += " + " + self.operand(term, "Add", strict=True)
        return text

    def _print_Mul(self, expression: sympy.Mul) -> str:
        coefficient, rest = expression.as_coeff_Mul()
        above: list[sympy.Expr] = []
        below: list[sympy.Expr] = []
        for factor in rest.as_ordered_factors():
            if factor.is_Pow and factor.exp.is_number and factor.exp.is_negative:
                below.append(factor.base ** (-factor.exp))
            else:
                above.append(factor)
        sign = ""
        if coefficient.is_Rational:
            if coefficient.p < 0 and (above or coefficient.p == -1):
                sign, coefficient = "-", -coefficient
            if coefficient.q != 1:
                below.insert(0, sympy.Integer(coefficient.q))
            coefficient = sympy.Integer(coefficient.p)
        if float(coefficient) != 1 or not above:
            above.insert(0, coefficient)
        text = " * ".join(self.operand(factor, "Mul") for factor in above)
        if below:
            if len(below) == 1:
                text += " / " + self.operand(below[0], "Mul", strict=True)
            else:
                text += " / (" + " * ".join(self.operand(f, "Mul") for f in below) + ")"
        return sign + text

    def _print_Pow(self, expression: sympy.Pow, rational: bool = False) -> str:
        base, exponent = expression.args
        if exponent.is_number and exponent.is_negative:
            inverse = self.operand(base ** (-exponent), "Mul", strict=True)
            return f"{self.constant(sympy.Integer(1))} / {inverse}"
        if exponent == sympy.Rational(1, 2):
            return self.call("sqrt", [self._print(base)])
        if exponent.is_Integer and exponent <= 16:
            return self.integer_power(base, int(exponent))
        return self.power(base, exponent)

    def power(self, base: sympy.Expr, exponent: sympy.Expr) -> str:
        return self.call("pow", [self._print(base), self._print(exponent)])

    def _print_Function(self, expression: sympy.Function) -> str:
        name = self.functions[type(expression).__name__]
        return self.call(name, [self._print(argument) for argument in expression.args])

    _print_Where = _print_ExpBase = _print_Function

    def _print_Grouped(self, expression: Grouped) -> str:
        return self._print(expression.args[0])

    def _print_Relational(self, expression: Any) -> str:
        a, b = (self.operand(argument, "Relational", True) for argument in expression.args)
        operator = {"Eq": "==", "Ne": "!="}.get(expression.rel_op, expression.rel_op)
        return f"({a} {operator} {b})"

    def joined(self, expression: BooleanFunction, operator: str) -> str:
        arguments = sorted(expression.args, key=sympy.default_sort_key)
        return "(" + f" {operator} ".join(map(self._print, arguments)) + ")"

    def _print_And(self, expression: sympy.And) -> str:
        return self.joined(expression, "&")

    def _print_Or(self, expression: sympy.Or) -> str:
        return self.joined(expression, "|")

    def _print_Not(self, expression: sympy.Not) -> str:
        return self.call("logical_not", [self._print(expression.args[0])])


class _FloatingPrinter(_Printer):
    """C++ on V: every constant has the type V, so nothing is computed in double by accident."""

    def constant(self, value: sympy.Expr) -> str:
        if value.is_infinite:
            return "infinity<V>()" if value.is_extended_positive else "-infinity<V>()"
        return f"constant<V>({float(value)!r})"

    def integer_power(self, base: sympy.Expr, exponent: int) -> str:
        return self.call(f"power<{exponent}>", [self._print(base)])


class _IntegerPrinter(_Printer):
    """C++ on integers V: in wider numbers, or a single operation by a function that saturates."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def constant(self, value: sympy.Expr) -> str:
        if value.is_infinite:
            positive = value.is_extended_positive
            text = "infinity<V>()" if positive else "negative_infinity<V>()"
            return f"widen({text})" if self.wide else text
        if not float(value).is_integer():
            raise TracingError(f"the constant {float(value)} is no integer")
        return f"constant<{'Wide<V>' if self.wide else 'V'}>({int(value)})"

    def integer_power(self, base: sympy.Expr, exponent: int) -> str:
        return self.call(f"power<{exponent}>", [self._print(base)])

    def power(self, base: sympy.Expr, exponent: sympy.Expr) -> str:
        raise TracingError(f"the power {readable(base**exponent)} gives no integer")

    def _print_Symbol(self, expression: sympy.Symbol) -> str:
        return f"widen({expression.name})" if self.wide else str(expression.name)

    def _print_Pow(self, expression: sympy.Pow, rational: bool = False) -> str:
        base, exponent = expression.args
        if not (exponent.is_Integer and 0 < exponent <= 16):
            return self.power(base, exponent)
        return self.integer_power(base, int(exponent))

    def _print_Add(self, expression: sympy.Add, order: Any = None) -> str:
        if self.wide:
            return super()._print_Add(expression)
        first, second = sorted(
            self._as_ordered_terms(expression, order=None), key=lambda term: not term.is_Symbol
        )
        if second.is_Symbol:
            return f"saturating_add({first}, {second})"
        return f"saturating_subtract({first}, {-second})"

    def _print_Mul(self, expression: sympy.Mul) -> str:
        if not self.wide:
            first, second = expression.as_ordered_factors()
            return f"saturating_multiply({first}, {second})"
        if any(factor.is_Pow and not factor.exp.is_Integer for factor in expression.args):
            raise TracingError(f"{readable(expression)} gives no integer")
        if expression.as_numer_denom()[1] != 1:
            raise TracingError(f"the division in {readable(expression)} gives no integer")
        return super()._print_Mul(expression)

    def _print_Function(self, expression: sympy.Function) -> str:
        name = type(expression).__name__
        if name in ("Floor", "Ceil"):
            return self._print(expression.args[0])
        if name not in ("Maximum", "Minimum", "Absolute", "Sign", "Where"):
            raise TracingError(f"the function {self.functions[name]} gives no integer")
        return super()._print_Function(expression)

    _print_Where = _print_ExpBase = _print_Function


class _BoolPrinter(_Printer):
    """C++ on V = unsigned char, 0 or 1."""

    def constant(self, value: sympy.Expr) -> str:
        return f"constant<V>({int(bool(value > 0))})"

    def _print_Function(self, expression: sympy.Function) -> str:
        operator = {"Maximum": "|", "Minimum": "&"}.get(type(expression).__name__)
        if operator is None:
            return super()._print_Function(expression)
        a, b = map(self._print, expression.args)
        return f"V({a} {operator} {b})"

    def joined(self, expression: BooleanFunction, operator: str) -> str:
        return "V" + super().joined(expression, operator)

    def _print_Not(self, expression: sympy.Not) -> str:
        return f"(constant<V>(1) ^ {self._print(expression.args[0])})"


class _ArrayPrinter(_Printer):
    """Python on arrays; every function is an attribute of ``prefix``."""

    functions = _NUMPY_FUNCTIONS

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def constant(self, value: sympy.Expr) -> str:
        if value.is_infinite:
            text = self.prefix + "inf"
            return text if value.is_extended_positive else f"-{text}"
        return repr(int(value) if value.is_Integer else float(value))

    def call(self, name: str, arguments: Sequence[str]) -> str:
        return super().call(self.prefix + name, arguments)

    def integer_power(self, base: sympy.Expr, exponent: int) -> str:
        return f"{self.operand(base, 'Pow', strict=True)}**{exponent}"

    def power(self, base: sympy.Expr, exponent: sympy.Expr) -> str:
        return f"{self.operand(base, 'Pow', strict=True)}**{self.operand(exponent, 'Pow', strict=True)}"


def readable(expression: sympy.Basic) -> str:
    """The expression for people: as one would write it in Python.

    Examples
    --------
    >>> readable(trace(lambda a, b: max(a, b) - 1.5, ["a", "b"], "f"))
    'maximum(a, b) - 1.5'
    """
    text = _ArrayPrinter("").doprint(expression)
    return text[1:-1] if isinstance(expression, Relational) else text


def cpp_floating(expression: sympy.Basic) -> str:
    """C++ text for floating values of type V.

    Examples
    --------
    >>> cpp_floating(trace(lambda a, b: 3 * a - b**2, ["a", "b"], "f"))
    'constant<V>(3.0) * a - power<2>(b)'
    """
    return _FloatingPrinter().doprint(expression)


def _needs_wide(expression: sympy.Basic) -> bool:
    """Whether integers need wider numbers than their own: all but one saturating operation."""
    if expression.is_Symbol or expression in (0, 1, sympy.oo, -sympy.oo):
        return False
    if expression.is_Add or expression.is_Mul:
        symbols = sum(term.is_Symbol for term in expression.args)
        negated = sum((-term).is_Symbol for term in expression.args) if expression.is_Add else 0
        return len(expression.args) != 2 or symbols == 0 or symbols + negated != 2
    if isinstance(expression, Maximum | Minimum | Where | BooleanFunction | Relational):
        return any(map(_needs_wide, expression.args))
    return True


def cpp_integer(expression: sympy.Basic) -> str:
    """C++ text for integer values of type V, exact in wider numbers or saturating.

    Raises
    ------
    TypeError
        Where the expression has a division, a function or a constant that gives no integer.

    Examples
    --------
    >>> cpp_integer(trace(lambda a, b: a - b, ["a", "b"], "f"))
    'saturating_subtract(a, b)'
    >>> cpp_integer(trace(lambda a, b: 3 * a - b, ["a", "b"], "f"))
    'narrow<V>(constant<Wide<V>>(3) * widen(a) - widen(b))'
    """
    wide = _needs_wide(expression)
    text = _IntegerPrinter(wide).doprint(expression)
    return f"narrow<V>({text})" if wide and not isinstance(expression, Boolean) else text


def cpp_bool(expression: sympy.Basic) -> str:
    """C++ text for V = unsigned char, 0 or 1.

    Examples
    --------
    >>> cpp_bool(trace(min, ["a", "b"], "f"))
    'V(a & b)'
    """
    return _BoolPrinter().doprint(expression)


# ---- array functions ---------------------------------------------------------------------------


def array_module(*arguments: Any) -> Any:
    """The module (numpy, cupy or torch) whose arrays are among the arguments; None for scalars.

    Raises
    ------
    TypeError
        Where arrays of two libraries are mixed.
    """
    names = {type(argument).__module__.partition(".")[0] for argument in arguments}
    names &= {"numpy", "cupy", "torch"}
    if all(np.isscalar(argument) for argument in arguments):
        return None
    if len(names) > 1 and any(isinstance(argument, np.ndarray) for argument in arguments):
        raise TypeError(f"arrays of different libraries: {' and '.join(sorted(names))}")
    names = names - {"numpy"} or names
    return sys.modules[names.pop()] if names else np


class _ArrayFunctions:
    """The functions that the text of an `ArrayFunction` names, from NumPy or CuPy."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name, None)
        if found is None:
            found = self._special(name)
        setattr(self, name, found)
        return found

    def _special(self, name: str) -> Any:
        if self._module is np:  # NumPy has none of these; the package does not need SciPy
            return np.vectorize(_guarded(getattr(math, {"tgamma": "gamma"}.get(name, name))))
        import cupyx.scipy.special as special

        return getattr(special, {"tgamma": "gamma", "lgamma": "gammaln"}.get(name, name))

    # As the kernels: the second argument only where it is strictly better.
    def maximum(self, a: Any, b: Any) -> Any:
        return self._module.where(a < b, b, a)

    def minimum(self, a: Any, b: Any) -> Any:
        return self._module.where(b < a, b, a)


def _guarded(function: Callable[[float], float]) -> Callable[[float], float]:
    def call(value: float) -> float:
        try:
            return float(function(value))
        except (OverflowError, ValueError):  # a pole
            return math.inf

    return call


@functools.cache
def _array_functions(name: str) -> _ArrayFunctions:
    return _ArrayFunctions(sys.modules[name])


class ArrayFunction:
    """An expression as a function of NumPy or CuPy arrays, or of Python numbers.

    Parameters
    ----------
    expression
        As `trace` gives it.
    names
        The parameters, in order.
    never_nan
        The name of a parameter for which a condition is False where that parameter is NaN.

    Notes
    -----
    The arguments broadcast; the result has their common shape and floating dtype. On integers it
    saturates, exactly as the kernels do; a result that is no integer is a TypeError.

    Examples
    --------
    >>> f = ArrayFunction(trace(lambda a, b: a + b, ["a", "b"], "f"), ["a", "b"])
    >>> f(1.0, 2.0)
    3.0
    >>> f(np.array([100, 1], np.int8), np.int8(100))
    array([127, 101], dtype=int8)
    """

    def __init__(
        self, expression: sympy.Basic, names: Sequence[str], never_nan: str | None = None
    ) -> None:
        self.expression = expression
        self.names = tuple(names)
        self.never_nan = never_nan
        self.condition = isinstance(expression, Boolean) and not expression.is_Symbol

    def __repr__(self) -> str:
        return f"<({', '.join(self.names)}) -> {readable(self.expression)}>"

    def __reduce__(self) -> Any:
        return ArrayFunction, (self.expression, self.names, self.never_nan)

    @functools.cached_property
    def _calculates(self) -> bool:
        """Whether there is anything that can overflow."""
        return not all(
            node.is_Symbol
            or node in (0, 1)
            or isinstance(node, Maximum | Minimum | Where | BooleanFunction | Relational)
            for node in sympy.preorder_traversal(self.expression)
        )

    @functools.cached_property
    def _evaluate(self) -> Callable[..., Any]:
        text = _ArrayPrinter("xp.").doprint(self.expression)
        if self.never_nan is not None:
            text = f"{text} & ({self.never_nan} == {self.never_nan})"
        return eval(f"lambda xp, {', '.join(self.names)}: {text}", {})

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) != len(self.names):
            raise TypeError(
                f"takes {len(self.names)} arguments ({', '.join(self.names)}), got {len(arguments)}"
            )
        module = array_module(*arguments)
        scalars = module is None
        module = module or np
        if module.__name__ not in ("numpy", "cupy"):
            raise TypeError(f"needs NumPy or CuPy arrays or numbers, got {module.__name__} arrays")
        if scalars and not any(isinstance(argument, np.generic) for argument in arguments):
            arrays = [np.float64(argument) for argument in arguments]
        else:
            arrays = [module.asarray(argument) for argument in arguments]
        with np.errstate(all="ignore"):
            result = self._on_arrays(module, arrays)
        return result.item() if scalars else result

    def _on_arrays(self, module: Any, arrays: list[Any]) -> Any:
        dtype = module.result_type(*arrays)
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        exact = dtype.kind in "iu" and self._calculates
        if exact:
            cpp_integer(self.expression)  # refuses what gives no integer
            if module is not np:
                raise TypeError(f"{self!r} on integers is evaluated on NumPy arrays only")
            arrays = [array.astype(object) for array in arrays]  # Python's own unbounded integers
        result = self._evaluate(_array_functions(module.__name__), *arrays)
        if exact and not self.condition:
            limits = np.iinfo(dtype)
            result = np.minimum(np.maximum(result, limits.min), limits.max)
        wanted = np.dtype(bool) if self.condition else dtype
        result = module.asarray(result).astype(wanted, copy=False)
        return result if result.shape == shape else module.broadcast_to(result, shape)
