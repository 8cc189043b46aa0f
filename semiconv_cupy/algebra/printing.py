"""The text of an expression: what C++ and Python have in common, and the text for people.

The printers of C++ are in `cpp.py`, those of array functions in `arrays.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanFunction
from sympy.printing.precedence import PRECEDENCE, precedence
from sympy.printing.str import StrPrinter

from semiconv_cupy.algebra.functions import CIRCULAR, HALF, Grouped

MOST_FACTORS = 16  # whole powers up to this one are printed as products

# The name of each class of functions in the kernels' C++.
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
# Their names in NumPy and CuPy, and in text for people.
NUMPY_FUNCTIONS = {
    **CPP_FUNCTIONS,
    **{"a" + name: "arc" + name for name in CIRCULAR},
    "atan2": "arctan2",
}


class Printer(StrPrinter):
    """Prints sums, products, comparisons and calls, which C++ and Python write the same way.

    Subclasses print constants, whole powers and what else differs.
    """

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
        """The text of an operand, in brackets where it binds less tightly than the level.

        With ``strict`` also where it binds as tightly: the right side of a - (b - c).
        """
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


class PythonPrinter(Printer):
    """Prints Python for arrays; functions are looked up in ``prefix``."""

    functions = NUMPY_FUNCTIONS

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
    """The text of an expression for people, as one would write it in Python.

    Examples
    --------
    >>> a, b = sympy.symbols("a b")
    >>> readable(2 * a - b**2)
    '2 * a - b**2'
    """
    text = PythonPrinter("").doprint(expression)
    return text[1:-1] if isinstance(expression, Relational) else text
