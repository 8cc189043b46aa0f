"""A scalar callable -> SymPy expression.

A callable is run once, on symbols that record what it does to them (`recording.py`), with stand-ins
for the functions that it calls (`stand_ins.py`). Nothing here knows what a semifield is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from semiconv_cupy.algebra.arrays import ArrayFunction
from semiconv_cupy.algebra.functions import ExpressionError, Grouped, symbol
from semiconv_cupy.algebra.own import named_by
from semiconv_cupy.algebra.printing import CPP_FUNCTIONS, readable
from semiconv_cupy.algebra.recording import FUNCTION_REMEDY, Traced, to_sympy
from semiconv_cupy.algebra.stand_ins import stand_in


def trace(
    function: Any,
    names: Sequence[str],
    what: str,
    condition: bool = False,
    own: Sequence[str] = (),
) -> sympy.Basic:
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
    own
        Names of more symbols, which the callable may take by name.

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
    named = {name: symbol(name) for name in own}
    try:
        if isinstance(function, ArrayFunction):
            function = function.expression
        if isinstance(function, sympy.Lambda):
            more = [named[s.name] for s in function.signature[len(names) :] if s.name in named]
            result = to_sympy(function(*symbols, *more))
        elif isinstance(function, sympy.Basic):
            by_name = dict(zip(names, symbols, strict=True)) | named
            result = to_sympy(
                function.xreplace({s: by_name.get(s.name, s) for s in function.free_symbols})
            )
        elif callable(function):
            taken = named_by(function, len(names), own)
            _check_signature(function, names, taken)
            keywords = {name: Traced(named[name]) for name in taken}
            value = stand_in(function, {})(*map(Traced, symbols), **keywords)
            if value is None:
                raise ExpressionError("returned None: is `return` missing?")
            result = to_sympy(value)
        else:
            raise ExpressionError(f"needs a callable or a SymPy expression, not {function!r}")
        if isinstance(result, Grouped):
            result = result.args[0]
        require_compilable(result, [*symbols, *named.values()], condition)
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


def _check_signature(
    function: Callable[..., Any], names: Sequence[str], taken: Sequence[str]
) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none
        return
    try:
        signature.bind(*names, **dict.fromkeys(taken))
    except TypeError:
        remedy = ""
        more = list(signature.parameters)[len(names) :]
        if more:
            remedy = (
                "; numbers that it takes by name are declared, as "
                f"parameters={dict.fromkeys(more, 1.0)}"
            )
        raise ExpressionError(
            f"is called with {len(names)} arguments{' and ' * bool(taken)}{', '.join(taken)}, but "
            f"takes {signature}{remedy}"
        ) from None


_KNOWN_NODES = (sympy.Add, sympy.Mul, sympy.Pow, Relational, sympy.And, sympy.Or, sympy.Not)


def require_compilable(
    expression: sympy.Basic, symbols: Sequence[sympy.Symbol], condition: bool
) -> None:
    """Raise an `ExpressionError` for what is no formula of `symbols`, or has no C++."""
    strangers = expression.free_symbols - set(symbols)
    if strangers:
        raise ExpressionError(
            f"unknown symbols {', '.join(sorted(map(str, strangers)))}; known are "
            f"{', '.join(map(str, symbols))}"
        )
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
