"""Derivatives and inverses of expressions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import sympy

from semiconv_cupy.algebra.arrays import ArrayFunction
from semiconv_cupy.algebra.functions import (
    Expm1,
    ExpressionError,
    Grouped,
    Log1p,
    Where,
    normalised,
    power,
    symbol,
)
from semiconv_cupy.algebra.printing import readable
from semiconv_cupy.algebra.signatures import ACC, RES, VAL
from semiconv_cupy.algebra.tracing import require_compilable, trace


def derivative(expression: sympy.Expr, name: str, what: str) -> sympy.Expr:
    """The derivative by the parameter called ``name``; at kinks the mean of both sides (1/2 for max
    and min, 0 for abs), 0 for steps.

    Examples
    --------
    >>> derivative(trace(max, ["a", "b"], "f"), "b", "df")
    Where(a < b, 1, Where(Eq(a, b), 1/2, 0))
    """
    result = normalised(expression.diff(symbol(name)))
    if isinstance(result, Grouped):  # as `trace` leaves it: equal semifields have equal formulas
        result = result.args[0]
    try:
        require_compilable(result, list(expression.free_symbols), condition=False)
    except ExpressionError as error:
        raise TypeError(
            f"{what}: the derivative {result} of {readable(expression)} cannot be compiled "
            f"({error}); pass {what} yourself"
        ) from None
    return result


def zero_where_a_factor_is(slope: Any) -> Any:
    """The derivative with each quotient set to 0 where one of its factors is 0.

    Another factor may be infinite there. At img = 0 the term sqrt(img * krn) does not depend on
    krn, so that its derivative img / (2 sqrt(img * krn)) counts as 0, and not as 0 / 0.
    """
    if isinstance(slope, sympy.Add):
        return sympy.Add(*map(zero_where_a_factor_is, slope.args))
    factors = [factor for factor in sympy.Mul.make_args(slope) if factor.free_symbols]
    if len(factors) < 2 or not any(f.is_Pow and f.exp.is_negative for f in factors):
        return slope
    zeros = [sympy.Eq(factor, 0, evaluate=False) for factor in factors]
    return Where(sympy.Or(*zeros), 0, slope)


# Values of acc and of val at which a derived inverse must be right.
SAMPLES = (np.array([0.3, 0.7, 1.1, 1.9]), np.array([0.2, 0.9, 0.4, 0.6]))


def inverse(expression: Any, argument: str, own: Mapping[str, float] | None = None) -> Any:
    """The expression of res (and val) that undoes an expression of acc (and val); None if unknown.

    SymPy's solutions are tried on numbers, as an equation of powers has many.

    Parameters
    ----------
    expression
        Of the symbols acc and, for an addition, val.
    argument
        The name of the constructor argument that the inverse stands for.
    own
        The semifield's parameters, whose symbols the expression may have: the inverse is tried at
        these values.
    """
    names = [name for name in ("acc", "val") if name == "acc" or VAL in expression.free_symbols]
    accs, *vals = SAMPLES[: len(names)]
    results = ArrayFunction(expression, names, own=own)(accs, *vals)
    parameters = ("res", *names[1:])
    for solution in solutions(expression, ACC, RES):
        try:
            candidate = trace(solution, parameters, argument, own=tuple(own or ()))
        except TypeError:  # a solution in complex numbers, or in functions that have no C++
            continue
        found = ArrayFunction(candidate, parameters, own=own)(results, *vals)
        if np.allclose(found, accs, rtol=1e-6):
            return candidate
    return None


def solutions(expression: Any, unknown: Any, result: Any) -> Iterator[Any]:
    """Expressions for the unknown where ``expression == result``; the caller picks the right one.

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
    # Fractional powers of floats, and those of symbols, take SymPy minutes.
    if not any(power.exp.is_Float or power.exp.free_symbols for power in plain.atoms(sympy.Pow)):
        try:
            yield from sympy.solve(sympy.Eq(plain, result), unknown)
        except NotImplementedError:
            return


def _unwound(expression: Any, unknown: Any, result: Any) -> Any:
    """The solution by undoing one operation after the other; None where two parts hold the unknown.

    From outside to inside, each step moves one operation to the other side:

        (acc^3 + val^3)^0.5 = res
         acc^3 + val^3      = res^2
         acc^3              = res^2 - val^3
         acc                = (res^2 - val^3)^(1/3)

    Unlike SymPy's solver this keeps the brackets of the formula, and takes powers of floats.
    """
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
