"""What each function that a formula may call means in SymPy.

SymPy's own functions serve where they keep the order of their arguments and have ordinary
derivatives; the classes here stand in for the others. Not here: how a formula is recorded
(`recording.py`), and how it becomes C++ (`cpp.py`) or a function of arrays (`arrays.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

HALF = sympy.Rational(1, 2)
CIRCULAR = ("sin", "cos", "tan", "sinh", "cosh", "tanh")


def symbol(name: str) -> sympy.Symbol:
    """The symbol of a parameter: a real number or +-inf."""
    return sympy.Symbol(name, extended_real=True)


def exact_number(value: float) -> sympy.Expr:
    """A float as SymPy's number, whole ones as integers."""
    if math.isinf(value):
        return sympy.oo if value > 0 else -sympy.oo
    return sympy.Integer(int(value)) if value.is_integer() else sympy.Float(value, precision=53)


class ExpressionError(TypeError):
    """A function cannot be written as one expression, or has no meaning in an arithmetic."""


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
    """The derivative of an extremum, which is b where `second` holds; with NaN it is a."""
    of_first, of_second = (1, 0) if argindex == 1 else (0, 1)
    return Where(second, of_second, Where(sympy.Eq(a, b), HALF, of_first))


class Grouped(_Elementary):
    """Brackets, which keep SymPy from multiplying out.

    2 (a - b) as 2 a - 2 b, and (a / b)^3 as a^3 / b^3, would cancel or overflow where the formula
    as it was written does not.
    """

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
        """The derivative of the branch that is taken; where both branches meet, the mean of both.

        Example: where(s > 0, s, 0), whose branches meet at the boundary s = 0.

                                 s < 0   s = 0   s > 0
            condition            false   false   true
            strict: s > 0        false   false   true     the boundary counts as false
            loose:  s >= 0       false   true    true     the boundary counts as true
            meet:   s == 0       false   true    false    both branches have the same value
            derivative             0      1/2     1

        Where strict and loose agree, the point lies inside a branch, whose derivative is right.
        Where they differ it lies on a boundary: if the branches meet there, and the mean of their
        derivatives is finite, that mean is the result. Otherwise it is the derivative of the branch
        that the condition takes, as one branch is often there to replace the other where that has
        no derivative.

        An equation is false on both sides of its boundary, so that branch b's derivative serves
        wherever the branches meet; where(s != c, ...) likewise takes branch a's.
        """
        condition, a, b = self.args
        by_a, by_b = a.diff(s), b.diff(s)
        chosen = Where(condition, by_a, by_b)
        if by_a == by_b or not condition.has(s) or (a.is_number and b.is_number):
            return chosen
        meet = sympy.Eq(a, b, evaluate=False)
        strict, loose = _beside(condition, False), _beside(condition, True)
        if strict == loose == sympy.false:  # an equation: branch b lies on both sides
            return Where(condition & ~(meet & (Absolute(by_b) < sympy.oo)), by_a, by_b)
        if strict == loose == sympy.true:
            return Where(condition | (meet & (Absolute(by_a) < sympy.oo)), by_a, by_b)
        if sympy.true in (strict, loose) or sympy.false in (strict, loose):
            return chosen
        return SlopeOfWhere(condition, strict, loose, meet, by_a, by_b)


def _beside(condition: Boolean, closed: bool) -> Boolean:
    """The condition with its boundary counted as true (closed) or as false.

    An equation is its own boundary, beside which it is false.
    """
    if isinstance(condition, sympy.Eq | sympy.Ne):
        return sympy.true if isinstance(condition, sympy.Ne) else sympy.false
    if isinstance(condition, Relational):
        downwards = isinstance(condition, sympy.Lt | sympy.Le)
        kinds = (sympy.Lt, sympy.Le) if downwards else (sympy.Gt, sympy.Ge)
        return kinds[closed](*condition.args)
    return condition.func(*(_beside(argument, closed) for argument in condition.args))


class SlopeOfWhere(_Elementary):
    """The derivative of a `Where`, which explains the arguments.

    They are (condition, strict, loose, meet, derivative of a, derivative of b).
    """

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
    if a.is_Pow and a.exp == 2:  # |a|, whose derivative at 0 is 0 and not 0 / 0
        return Absolute(a.base)
    return sympy.sqrt(Grouped(a))


def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
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

# The meaning of each name that NumPy, math, torch, SciPy or SymPy have for a function.
FUNCTIONS: dict[str, Callable[..., Any]] = {
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
        ("power pow float_power", power),
        ("rpow", lambda a, b: power(b, a)),
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


def normalised(expression: sympy.Basic) -> sympy.Basic:
    """The expression with SymPy's Max, Abs, Piecewise, ... replaced by this file's functions."""
    if isinstance(expression, sympy.Piecewise):
        *branches, (last, condition) = expression.args
        if condition != sympy.true:
            raise ExpressionError(f"{expression} has no default: end it with (value, True)")
        result = normalised(last)
        for value, condition in reversed(branches):
            result = Where(normalised(condition), normalised(value), result)
        return result
    if not expression.args:
        return expression
    arguments = [normalised(argument) for argument in expression.args]
    name = type(expression).__name__
    if isinstance(expression, _REPLACED):
        return FUNCTIONS[name](*arguments)
    if type(expression).__module__.startswith("sympy.codegen") and name.lower() in FUNCTIONS:
        return FUNCTIONS[name.lower()](*arguments)
    if all(new is old for new, old in zip(arguments, expression.args, strict=True)):
        return expression
    return expression.func(*arguments)
