"""SymPy expression -> C++ text, function of NumPy or CuPy arrays, text for people.

Here are also the elementary functions that expressions are made of besides SymPy's own. How an
expression comes from a callable is in `tracing.py`, the only caller besides `algebra`.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean, BooleanFunction
from sympy.printing.precedence import PRECEDENCE, precedence
from sympy.printing.str import StrPrinter

from semiconv_cupy.once import cached_property


class ExpressionError(TypeError):
    """Something cannot be written as one expression, or not in this arithmetic."""


# ---- functions whose SymPy twins reorder their arguments, or differentiate into distributions ---
#
# Derivatives at kinks are the mean of both sides: 1/2 for max and min at ties, 0 for abs at 0. The
# mean is linear, so kinks that cancel, as in max(a, b) + log1p(exp(-|a - b|)), cancel here too.


class _Elementary(sympy.Function):
    is_extended_real = True
    is_commutative = True


class Maximum(_Elementary):
    """max(a, b); at ties the derivative is 1/2 by either argument."""

    nargs = 2

    @classmethod
    def eval(cls, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr | None:
        return sympy.Max(a, b) if a.is_number and b.is_number else a if a == b else None

    def _eval_is_extended_nonnegative(self) -> bool | None:
        return any(argument.is_extended_nonnegative for argument in self.args) or None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        a, b = self.args
        return _share(a < b, a, b, argindex)


class Minimum(_Elementary):
    """min(a, b); at ties the derivative is 1/2 by either argument."""

    nargs = 2

    @classmethod
    def eval(cls, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr | None:
        return sympy.Min(a, b) if a.is_number and b.is_number else a if a == b else None

    def _eval_is_extended_nonpositive(self) -> bool | None:
        return any(argument.is_extended_nonpositive for argument in self.args) or None

    def fdiff(self, argindex: int = 1) -> sympy.Expr:
        a, b = self.args
        return _share(b < a, a, b, argindex)


def _share(second: Boolean, a: sympy.Expr, b: sympy.Expr, argindex: int) -> sympy.Expr:
    """The derivative of an extremum; `second` says where it is b. Of NaN it is a, as the value."""
    of_first, of_second = (1, 0) if argindex == 1 else (0, 1)
    return Where(second, of_second, Where(sympy.Eq(a, b), HALF, of_first))


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
        # That of the branch taken or, on a boundary at which both are equal, of its two sides.
        condition, a, b = self.args
        by_a, by_b = a.diff(s), b.diff(s)
        chosen = Where(condition, by_a, by_b)
        if by_a == by_b or not condition.has(s) or (a.is_number and b.is_number):
            return chosen
        meet = sympy.Eq(a, b, evaluate=False)
        strict, loose = _beside(condition, False), _beside(condition, True)
        if strict == loose == sympy.false:  # an equation: both sides are b
            return Where(condition & ~(meet & (Absolute(by_b) < sympy.oo)), by_a, by_b)
        if strict == loose == sympy.true:
            return Where(condition | (meet & (Absolute(by_a) < sympy.oo)), by_a, by_b)
        if sympy.true in (strict, loose) or sympy.false in (strict, loose):
            return chosen
        return SlopeOfWhere(condition, strict, loose, meet, by_a, by_b)


def _beside(condition: Boolean, closed: bool) -> Boolean:
    """What holds beside the condition's boundary, the boundary itself counted in or out."""
    if isinstance(condition, sympy.Eq | sympy.Ne):
        return sympy.true if isinstance(condition, sympy.Ne) else sympy.false
    if isinstance(condition, Relational):
        downwards = isinstance(condition, sympy.Lt | sympy.Le)
        kinds = (sympy.Lt, sympy.Le) if downwards else (sympy.Gt, sympy.Ge)
        return kinds[closed](*condition.args)
    return condition.func(*(_beside(argument, closed) for argument in condition.args))


class SlopeOfWhere(_Elementary):
    """The derivative of a `Where`: (condition, the same without and with its boundary, whether both
    branches are equal, the derivatives of both). The mean on a boundary where the branches meet, if
    it is finite; a branch is often there to replace the other where that has no derivative."""

    nargs = 6


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


class Rint(_Step):
    """The nearest integer; of two equally near ones the even one."""

    twin = staticmethod(lambda a: sympy.Integer(round(a)))


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


# ---- printing ----------------------------------------------------------------------------------

HALF = sympy.Rational(1, 2)
MOST_FACTORS = 16  # whole powers up to this one are printed as products
CIRCULAR = ("sin", "cos", "tan", "sinh", "cosh", "tanh")
CPP_FUNCTIONS = {
    **{name: name for name in ("exp", "log", "erf", "erfc", "atan2", *CIRCULAR)},
    **{"a" + name: "a" + name for name in CIRCULAR},
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
    "Rint": "rint",
    "Where": "where",
    "SlopeOfWhere": "slope_of_where",
    "Grouped": "",
}
_NUMPY_FUNCTIONS = {
    **CPP_FUNCTIONS,
    **{"a" + name: "arc" + name for name in CIRCULAR},
    "atan2": "arctan2",
}


class _Printer(StrPrinter):
    """Sums, products, comparisons and calls, the same in C++ and Python; subclasses fill in."""

    functions: dict[str, str] = CPP_FUNCTIONS

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
        if exponent == HALF:
            return self.call("sqrt", [self._print(base)])
        if exponent.is_Integer and exponent <= MOST_FACTORS:
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
            raise ExpressionError(f"the constant {float(value)} is no integer")
        return f"constant<{'Wide<V>' if self.wide else 'V'}>({int(value)})"

    def integer_power(self, base: sympy.Expr, exponent: int) -> str:
        return self.call(f"power<{exponent}>", [self._print(base)])

    def power(self, base: sympy.Expr, exponent: sympy.Expr) -> str:
        raise ExpressionError(f"the power {readable(base**exponent)} gives no integer")

    def _print_Symbol(self, expression: sympy.Symbol) -> str:
        return f"widen({expression.name})" if self.wide else str(expression.name)

    def _print_Pow(self, expression: sympy.Pow, rational: bool = False) -> str:
        base, exponent = expression.args
        if not (exponent.is_Integer and 0 < exponent <= MOST_FACTORS):
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
            raise ExpressionError(f"{readable(expression)} gives no integer")
        if expression.as_numer_denom()[1] != 1:
            raise ExpressionError(f"the division in {readable(expression)} gives no integer")
        return super()._print_Mul(expression)

    def _print_Function(self, expression: sympy.Function) -> str:
        name = type(expression).__name__
        if name in ("Floor", "Ceil", "Rint"):
            return self._print(expression.args[0])
        if name not in ("Maximum", "Minimum", "Absolute", "Sign", "Where"):
            raise ExpressionError(f"the function {self.functions[name]} gives no integer")
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
        sides = (self.operand(side, "Pow", strict=True) for side in (base, exponent))
        return "**".join(sides)


def readable(expression: sympy.Basic) -> str:
    """The expression for people: as one would write it in Python.

    Examples
    --------
    >>> readable(Maximum(*sympy.symbols("a b")) - 1.5)
    'maximum(a, b) - 1.5'
    """
    text = _ArrayPrinter("").doprint(expression)
    return text[1:-1] if isinstance(expression, Relational) else text


def cpp_floating(expression: sympy.Basic) -> str:
    """C++ text for floating values of type V.

    Examples
    --------
    >>> a, b = sympy.symbols("a b")
    >>> cpp_floating(3 * a - b**2)
    'constant<V>(3.0) * a - power<2>(b)'
    """
    return _FloatingPrinter().doprint(expression)


def needs_wide(expression: sympy.Basic) -> bool:
    """Whether integers need wider numbers than their own: all but one saturating operation."""
    if expression.is_Symbol or expression in (0, 1, sympy.oo, -sympy.oo):
        return False
    if expression.is_Add or expression.is_Mul:
        symbols = sum(term.is_Symbol for term in expression.args)
        negated = sum((-term).is_Symbol for term in expression.args) if expression.is_Add else 0
        return len(expression.args) != 2 or symbols == 0 or symbols + negated != 2
    if isinstance(expression, Maximum | Minimum | Where | BooleanFunction | Relational):
        return any(map(needs_wide, expression.args))
    return True


def cpp_integer(expression: sympy.Basic) -> str:
    """C++ text for integer values of type V, exact in wider numbers or saturating.

    Raises
    ------
    TypeError
        Where the expression has a division, a function or a constant that gives no integer.

    Examples
    --------
    >>> a, b = sympy.symbols("a b")
    >>> cpp_integer(a - b)
    'saturating_subtract(a, b)'
    >>> cpp_integer(3 * a - b)
    'narrow<V>(constant<Wide<V>>(3) * widen(a) - widen(b))'
    """
    wide = needs_wide(expression)
    text = _IntegerPrinter(wide).doprint(expression)
    return f"narrow<V>({text})" if wide and not isinstance(expression, Boolean) else text


def cpp_bool(expression: sympy.Basic) -> str:
    """C++ text for V = unsigned char, 0 or 1.

    Examples
    --------
    >>> cpp_bool(Minimum(*sympy.symbols("a b")))
    'V(a & b)'
    """
    return _BoolPrinter().doprint(expression)


# ---- array functions ---------------------------------------------------------------------------


def _library(argument: Any) -> str:
    for name, kind in (("torch", "Tensor"), ("cupy", "ndarray")):
        module = sys.modules.get(name)
        if module is not None and isinstance(argument, getattr(module, kind, ())):
            return name
    return "numpy"


def array_module(*arguments: Any) -> Any:
    """The module (numpy, cupy or torch) of the arrays among the arguments; None for scalars alone.

    Raises
    ------
    TypeError
        Where arrays of two libraries are mixed.
    """
    names = {_library(value) for value in arguments if not isinstance(value, _SCALARS)}
    if len(names) > 1:
        raise TypeError(f"arrays of {' and '.join(sorted(names))} are mixed")
    return sys.modules[names.pop()] if names else None


_SCALARS = (int, float, np.generic)


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

    def slope_of_where(
        self, condition: Any, strict: Any, loose: Any, meet: Any, by_a: Any, by_b: Any
    ) -> Any:
        where = self._module.where
        sides = where(strict, by_a, where(loose, (by_a + by_b) * 0.5, by_b))
        settled = meet & (self._module.abs(sides) < math.inf)
        return where(settled, sides, where(condition, by_a, by_b))


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
    The arguments broadcast; the result has their common shape, and their dtype or bool. Integers
    are computed as the arrays do it: NumPy's own integers wrap, arrays of Python integers do not.

    Examples
    --------
    >>> f = ArrayFunction(sum(sympy.symbols("a b")), ["a", "b"])
    >>> f(1.0, 2.0)
    3.0
    >>> f(np.array([1, 2], np.float32), np.float32(0.5))
    array([1.5, 2.5], dtype=float32)
    """

    def __init__(
        self, expression: sympy.Basic, names: Sequence[str], never_nan: str | None = None
    ) -> None:
        self.expression = expression
        self.names = tuple(names)
        self.never_nan = never_nan
        # Or(a, b) of plain symbols works on 0 and 1 of any dtype; a comparison gives bool.
        self.condition = isinstance(expression, Boolean) and expression.has(Relational)

    def __repr__(self) -> str:
        return f"<({', '.join(self.names)}) -> {readable(self.expression)}>"

    def __reduce__(self) -> Any:
        return ArrayFunction, (self.expression, self.names, self.never_nan)

    @cached_property
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
        module = array_module(*arguments) or np
        if module.__name__ == "torch":
            raise TypeError("needs NumPy or CuPy arrays or numbers, got a torch tensor")
        numbers = all(isinstance(argument, int | float) for argument in arguments)
        dtype: Any = np.float64 if numbers else None
        if any(getattr(argument, "dtype", None) == np.dtype(object) for argument in arguments):
            dtype = object  # all of them, or a Python integer would become one of 64 bits
        arrays = [module.asarray(argument, dtype=dtype) for argument in arguments]
        with np.errstate(all="ignore"):
            result = self._on_arrays(module, arrays)
        return result.item() if numbers else result

    def _on_arrays(self, module: Any, arrays: list[Any]) -> Any:
        dtype = module.result_type(*arrays)
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        result = self._evaluate(_array_functions(module.__name__), *arrays)
        wanted = np.dtype(bool) if self.condition else dtype
        result = module.asarray(result).astype(wanted, copy=False)
        return result if result.shape == shape else module.broadcast_to(result, shape)
