"""Derivatives and inverses of expressions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy

from semiconv_cupy.algebra.functions import (
    Expm1,
    ExpressionError,
    Grouped,
    Log1p,
    normalised,
    power,
    symbol,
)
from semiconv_cupy.algebra.printing import readable
from semiconv_cupy.algebra.tracing import require_compilable


def derivative(expression: sympy.Expr, name: str, what: str) -> sympy.Expr:
    """The derivative by the parameter called ``name``; at kinks the mean of both sides (1/2 for max
    and min, 0 for abs), 0 for steps.

    Examples
    --------
    >>> from semiconv_cupy.algebra.tracing import trace
    >>> derivative(trace(max, ["a", "b"], "f"), "b", "df")
    Where(a < b, 1, Where(Eq(a, b), 1/2, 0))
    """
    result = normalised(expression.diff(symbol(name)))
    try:
        require_compilable(result, list(expression.free_symbols), condition=False)
    except ExpressionError as error:
        raise TypeError(
            f"{what}: the derivative {result} of {readable(expression)} cannot be compiled "
            f"({error}); pass {what} yourself"
        ) from None
    return result


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
            result = power(result, 1 / expression.exp)
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
