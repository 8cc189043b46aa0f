"""Derivatives by the parameters that a semifield of the user's own names.

A parameter changes a result by the terms (`with_kernel_slope`), and by the addition and `post_sum`
(`Slopes`): forward passes keep these derivatives of the result. Called by ``own_gradients``,
``source`` and the array loops.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import sympy

from semiconv_cupy.algebra.calculus import derivative, zero_where_a_factor_is
from semiconv_cupy.algebra.cpp import cpp_floating
from semiconv_cupy.algebra.signatures import ACC, IMG, LEFT, RIGHT, VAL


class Slopes(NamedTuple):
    """Derivatives as expressions: of add(acc, val) by acc; of it and of post_sum by parameters.

    The parameters are those of `kept_slopes`; an ordinary sum has none of add.
    """

    add_by_left: Any
    add_by_own: tuple[Any, ...]
    post_by_own: tuple[Any, ...]


def with_kernel_slope(semifield: Any, name: str) -> Any:
    """The semifield that differentiates by a parameter where this one does by the kernel.

    None where no term depends on the parameter.
    """
    return _with_kernel_slope(semifield.unbound, name)


@lru_cache(maxsize=256)
def _with_kernel_slope(unbound: Any, name: str) -> Any:
    slope = zero_where_a_factor_is(derivative(unbound.expressions["times"], name, name))
    if slope == 0:
        return None
    return unbound.with_expressions({**unbound.expressions, "d_times_d_krn": slope})


def product_depends_on(semifield: Any, name: str, img: float) -> bool:
    """Whether img ⊗ krn of this number and any krn depends on the parameter.

    Examples
    --------
    >>> from semiconv_cupy import SubtractSemifield
    >>> scaled = SubtractSemifield(
    ...     lambda left, right: left + right,
    ...     lambda img, krn, a: a * img + krn,
    ...     zero=0.0,
    ...     parameters={"a": 1.0},
    ... )
    >>> product_depends_on(scaled, "a", 1.0), product_depends_on(scaled, "a", 0.0)
    (True, False)
    """
    product = semifield.expressions["times"].xreplace({IMG: sympy.Float(img)})
    return name in {symbol.name for symbol in product.free_symbols}


def kept_slopes(semifield: Any) -> tuple[str, ...]:
    """The parameters that the addition or `post_sum` takes, in the semifield's order.

    A selection has none: its result is one of the terms, whatever they are.
    """
    if not semifield.own or semifield.accumulator not in ("sum", "custom"):
        return ()
    expressions = semifield.unbound.expressions
    taken = {
        symbol.name
        for function in ("add", "post_sum")
        if function in expressions
        for symbol in expressions[function].free_symbols
    }
    return tuple(name for name in semifield.own if name in taken)


def slopes_of(semifield: Any) -> Slopes:
    """The derivatives that are kept; TypeError for one that cannot be derived."""
    return _slopes_of(semifield.unbound)


@lru_cache(maxsize=256)
def _slopes_of(unbound: Any) -> Slopes:
    names, nothing = kept_slopes(unbound), sympy.S.Zero
    total, post = (unbound.expressions.get(key, nothing) for key in ("add", "post_sum"))

    def by(name: str) -> Any:
        slope = zero_where_a_factor_is(derivative(total, name, name))
        return slope.xreplace({LEFT: ACC, RIGHT: VAL})

    return Slopes(
        by("left"),
        tuple(map(by, names)),
        tuple(derivative(post, name, name) for name in names),
    )


def slope_definitions(semifield: Any) -> dict[str, str]:
    """The macros of kernels that keep these derivatives; none of log and root."""
    names = kept_slopes(semifield)
    if not names:
        return {}
    found = slopes_of(semifield)

    def printed(expression: Any) -> str:
        return cpp_floating(semifield.unbound.as_kernels_call(expression))

    def braced(expressions: tuple[Any, ...]) -> str:
        return f"{{{', '.join(map(printed, expressions))}}}"

    texts = {
        "SEMICONV_SLOPE_COUNT": str(len(names)),
        "SEMICONV_D_POST_D_OWN": braced(found.post_by_own),
    }
    if semifield.accumulator == "custom":
        texts["SEMICONV_D_ADD_D_LEFT"] = printed(found.add_by_left)
        texts["SEMICONV_D_ADD_D_OWN"] = braced(found.add_by_own)
    return texts
