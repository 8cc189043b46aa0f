"""SymPy expression -> C++ text for the kernels.

Three arithmetics: floating numbers, integers that saturate, and bool values 0 or 1. The functions
that the text calls are in ``kernels_cu/functions.cuh``.
"""

from __future__ import annotations

import math
from typing import Any

import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean, BooleanFunction

from semiconv_cupy.algebra.functions import ExpressionError, Maximum, Minimum, Where
from semiconv_cupy.algebra.printing import MOST_FACTORS, Printer, readable


class _FloatingPrinter(Printer):
    """Prints C++ for floating V. Every constant has the type V, so nothing becomes double."""

    def constant(self, value: sympy.Expr) -> str:
        if value.is_infinite:
            return "infinity<V>()" if value.is_extended_positive else "-infinity<V>()"
        return f"constant<V>({float(value)!r})"

    def integer_power(self, base: sympy.Expr, exponent: int) -> str:
        return self.call(f"power<{exponent}>", [self._print(base)])


class _IntegerPrinter(Printer):
    """Prints C++ for integers V: in wider numbers, or as calls of functions that saturate."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.wide = wide

    def constant(self, value: sympy.Expr) -> str:
        if value.is_infinite:
            positive = value.is_extended_positive
            text = "infinity<V>()" if positive else "negative_infinity<V>()"
            return f"widen({text})" if self.wide else text
        if not (value.is_Integer or float(value).is_integer()):
            raise ExpressionError(f"the constant {float(value)} is no integer")
        return _cpp_constant(int(value), "Wide<V>" if self.wide else "V")

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


def _cpp_constant(value: int, type_: str) -> str:
    """C++ text for an integer of any size; a literal has 32 bits or 64, and no sign of its own."""
    if abs(value) < 2**31:
        return f"constant<{type_}>({value})"
    if abs(value) < 2**63:
        return f"constant<{type_}>(int64({value}))"
    high, low = divmod(value, 2**32)
    return (
        f"({_cpp_constant(high, type_)} * {_cpp_constant(2**32, type_)}"
        f" + {_cpp_constant(low, type_)})"
    )


class _BoolPrinter(Printer):
    """Prints C++ for V = unsigned char, whose values are 0 and 1."""

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
    """Whether integers are computed in wider numbers: all formulas but one saturating operation.

    Examples
    --------
    >>> a, b = sympy.symbols("a b")
    >>> needs_wide(a - b), needs_wide(Maximum(a + b, a)), needs_wide(a + b + 1)
    (False, False, True)
    """
    if expression.is_Symbol or expression in (0, 1, sympy.oo, -sympy.oo):
        return False
    if expression.is_Add or expression.is_Mul:
        symbols = sum(term.is_Symbol for term in expression.args)
        negated = sum((-term).is_Symbol for term in expression.args) if expression.is_Add else 0
        return len(expression.args) != 2 or symbols == 0 or symbols + negated != 2
    if isinstance(expression, Maximum | Minimum | Where | BooleanFunction | Relational):
        return any(map(needs_wide, expression.args))
    return True


def largest_on_the_way(expression: sympy.Basic, largest: int) -> int:
    """An upper limit of the magnitudes that an expression of integers computes, its parts included.

    Parameters
    ----------
    expression
        As `cpp_integer` takes it.
    largest : int
        The largest magnitude of each symbol.

    Examples
    --------
    >>> a, b = sympy.symbols("a b")
    >>> largest_on_the_way(a**2 > 3 * b, 10)
    100
    """
    parts = [largest_on_the_way(part, largest) for part in expression.args]
    if expression.is_Symbol or expression.is_infinite:
        whole = largest
    elif expression.is_Integer:
        whole = abs(int(expression))
    elif expression.is_Add:
        whole = sum(parts)
    elif expression.is_Mul:
        whole = math.prod(parts)
    elif expression.is_Pow:
        whole = parts[0] ** int(expression.exp)
    else:  # a choice, a comparison, a sign
        whole = 1
    return max(whole, *parts, 1)


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
