"""What a compiled semifield is, read from its SymPy expressions.

Kernels have quicker ways for common cases: plain max and min, sums of products, ``img + krn``. Here
it is decided which of them a semifield is. `CompiledSemifield.traits` gives the answers;
`source.py` turns them into macros, the backends choose kernels and compiler options by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import sympy

from semiconv_cupy.algebra.arrays import ArrayFunction
from semiconv_cupy.algebra.cpp import needs_wide
from semiconv_cupy.algebra.functions import (
    Absolute,
    Grouped,
    Maximum,
    Minimum,
    Sign,
    Where,
    exact_number,
)
from semiconv_cupy.algebra.printing import MOST_FACTORS
from semiconv_cupy.algebra.signatures import IMG, KRN, LEFT, RIGHT


@dataclass(frozen=True)
class Traits:
    """What a semifield is in one arithmetic.

    Attributes
    ----------
    takes : {"greater", "less"} or None
        The addition is plain max or plain min.
    offset : {"krn", "-krn"} or None
        The multiplication adds this to img (in integers: and saturates).
    is_sum_of_products, is_ordinary : bool
        Terms are img * krn and their addition is +; besides, the zero is 0 and no `post_sum`
        follows: the ordinary convolution.
    drops_zero_weights : bool
        A selection to which a kernel value at the zero gives a term that never wins.
    wide_times, wide_select : bool
        The multiplication of integers, or the selection of one, has intermediate results beyond the
        range of their dtype.
    is_arithmetic : bool
        Terms and their addition are sums, products, quotients, square roots and comparisons: so
        short that a kernel may repeat them for every tap and many outputs.
    rounds_products : bool
        A selection whose terms add up products. Kernels compute the winning term a second time to
        find its tap. Both must have the same bits, so the compiler must not fuse a product and a
        sum into one multiply-add at one of the two places.
    """

    takes: Literal["greater", "less"] | None
    offset: Literal["krn", "-krn"] | None
    is_sum_of_products: bool
    is_ordinary: bool
    drops_zero_weights: bool
    wide_times: bool
    wide_select: bool
    is_arithmetic: bool
    rounds_products: bool


def traits_of(
    expressions: Mapping[str, Any], accumulator: str, zero: float, arithmetic: str
) -> Traits:
    """The traits of a semifield of these expressions.

    Parameters
    ----------
    expressions
        The scalar functions; for bool arithmetic those of the semifield's or/and equivalent.
    accumulator, zero
        As `CompiledSemifield` has them.
    arithmetic : {"floating", "integer", "bool"}
        As in `CompiledSemifield.definitions`.
    """
    times, floating = expressions["times"], arithmetic == "floating"
    selects, sums = accumulator == "select", accumulator == "sum"
    wide = arithmetic == "integer" and needs_wide(times)
    offset = None if wide or arithmetic == "bool" else offset_of(times)
    product = floating and is_product(times)
    return Traits(
        takes=taken(expressions["select"]) if selects else None,
        offset=offset,
        is_sum_of_products=sums and product,
        is_ordinary=sums and product and zero == 0 and "post_sum" not in expressions,
        drops_zero_weights=selects and floating and (product or offset is not None),
        wide_times=wide,
        wide_select=selects and arithmetic == "integer" and needs_wide(expressions["select"]),
        is_arithmetic=all(
            is_arithmetic(expressions[name])
            for name in ("times", "select", "add")
            if name in expressions
        ),
        rounds_products=selects and floating and adds_products(times),
    )


def absorbs(expressions: Mapping[str, Any], accumulator: str, zero: float) -> bool:
    """Whether a term of the zero and any finite kernel value changes no sum.

    A selection must not take such a term; a sum must get exactly the zero. Both are tested by
    SymPy, for any kernel value, and by NumPy at extreme ones, where formulas overflow. A custom
    addition is not trusted: its formula may round where it meets the zero.
    """
    exact, weight = exact_number(zero), sympy.Symbol("k", real=True)
    at_zero = {IMG: exact, KRN: weight}
    largest = float(np.finfo(np.float64).max)
    weights = np.array([0.0, -0.0, 1.0, -1.0, 1e-300, -1e-300, largest, -largest])
    try:
        product = expressions["times"].subs(at_zero, simultaneous=True)
        if product.has(sympy.nan, sympy.zoo):
            return False
        products = ArrayFunction(expressions["times"], ("img", "krn"))(
            np.full_like(weights, zero), weights
        )
        if accumulator == "select":
            replaced = {LEFT: exact, RIGHT: product}
            wins = expressions["select"].subs(replaced, simultaneous=True)
            takes = ArrayFunction(expressions["select"], ("left", "right"), never_nan="right")
            return wins == sympy.false and not takes(zero, products).any()
    except TypeError:  # the product is NaN or complex, which SymPy does not compare
        return False
    if accumulator == "custom":
        return False
    return bool(product == exact and (products == zero).all())


def taken(select: Any) -> Literal["greater", "less"] | None:
    """Which of two numbers a selection takes, None where it compares anything else.

    Examples
    --------
    >>> taken(RIGHT > LEFT), taken(LEFT > RIGHT), taken(RIGHT >= LEFT)
    ('greater', 'less', None)
    """
    if select in (RIGHT > LEFT, LEFT < RIGHT):
        return "greater"
    return "less" if select in (RIGHT < LEFT, LEFT > RIGHT) else None


def offset_of(times: Any) -> Literal["krn", "-krn"] | None:
    """What a multiplication adds to img: krn, -krn, or None where it does anything else.

    Examples
    --------
    >>> offset_of(IMG + 1.0 * KRN), offset_of(IMG - KRN), offset_of(KRN - IMG)
    ('krn', '-krn', None)
    """
    if not isinstance(times, sympy.Expr):  # or, and: of bool
        return None
    times = _bare(times)
    if not times.is_Add:
        return None
    signs = {}
    for term in times.args:
        negative = term.could_extract_minus_sign()
        signs[_bare(-term if negative else term)] = negative
    if len(times.args) != 2 or signs.keys() != {IMG, KRN} or signs[IMG]:
        return None
    return "-krn" if signs[KRN] else "krn"


def is_product(times: Any) -> bool:
    """Whether a multiplication is img * krn.

    Examples
    --------
    >>> is_product(1.0 * KRN * IMG), is_product(2 * IMG * KRN)
    (True, False)
    """
    factors = sympy.Mul.make_args(_bare(times))
    return len(factors) == 2 and {_bare(factor) for factor in factors} == {IMG, KRN}


def derivatives_are_factors(expressions: Mapping[str, Any]) -> bool:
    """Whether the derivative of a multiplication by img is krn, and that by krn img.

    Examples
    --------
    >>> derivatives_are_factors({"d_times_d_img": 1.0 * KRN, "d_times_d_krn": IMG})
    True
    """
    by_img, by_krn = (_bare(expressions[f"d_times_d_{name}"]) for name in ("img", "krn"))
    return bool(by_img == KRN and by_krn == IMG)


def is_arithmetic(expression: Any) -> bool:
    """Whether an expression has no function that takes many instructions, as exp or a power.

    Examples
    --------
    >>> is_arithmetic(sympy.sqrt(LEFT**2 + RIGHT**2)), is_arithmetic(sympy.exp(IMG) * KRN)
    (True, False)
    """
    return all(
        abs(node.exp) in (sympy.Rational(1, 2), 0.5) or (node.exp.is_Integer and abs(node.exp) <= 4)
        if isinstance(node, sympy.Pow)
        else not isinstance(node, sympy.Function) or isinstance(node, _SHORT)
        for node in sympy.preorder_traversal(expression)
    )


_SHORT = (Absolute, Grouped, Maximum, Minimum, Sign, Where)


def adds_products(expression: Any) -> bool:
    """Whether a product that rounds is, perhaps through other functions, a term of a sum.

    Products that round are those of two variables or with a constant, and whole powers. A compiler
    may fuse such a product and the sum into one multiply-add, which rounds once and not twice.

    Examples
    --------
    >>> adds_products(IMG * KRN + 1), adds_products(KRN - IMG**2)
    (True, True)
    >>> adds_products(-2 * IMG * KRN), adds_products(IMG - KRN), adds_products((IMG - KRN) ** 2)
    (False, False, False)
    """
    return any(
        _rounds(node)
        for total in sympy.preorder_traversal(expression)
        if isinstance(total, sympy.Add)
        for node in sympy.preorder_traversal(total)
    )


def _rounds(node: Any) -> bool:
    """Whether a node has a multiplication that rounds: one by 1 or -1 does not, nor a division."""
    if isinstance(node, sympy.Pow):
        return bool(node.exp.is_Integer and 1 < abs(node.exp) <= MOST_FACTORS)
    if not isinstance(node, sympy.Mul):
        return False
    coefficient, rest = node.as_coeff_Mul()
    above, below = (int(abs(float(n)) != 1) for n in coefficient.as_numer_denom())
    for factor in sympy.Mul.make_args(rest):
        if factor.is_Pow and factor.exp.is_number and factor.exp.is_negative:
            below += 1
        else:
            above += 1
    return above > 1 or below > 1


def _bare(expression: Any) -> Any:
    """The expression without brackets around it and without factors of 1.0."""
    while True:
        coefficient, rest = expression.as_coeff_Mul()
        if isinstance(expression, Grouped):
            (expression,) = expression.args
        elif coefficient.is_Float and float(coefficient) == 1:
            expression = rest
        else:
            return expression
