"""The semifields: three ways to define one, and the ready-made ones.

A semifield is written once, as scalar Python functions; `expressions.py` traces them, `printing.py`
turns them into C++ for the kernels and into array functions, `laws.py` checks them. What a
convolution does with one is in `conv.py`. Importing this module imports neither torch nor CuPy.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import operator
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, TypeAlias

import numpy as np
import sympy

from semiconv_cupy import laws
from semiconv_cupy.errors import flag
from semiconv_cupy.expressions import SCALARS, derivative, solutions, symbol, trace, where
from semiconv_cupy.modules import broadcast_module, compiled_module
from semiconv_cupy.once import cached_property
from semiconv_cupy.printing import (
    ArrayFunction,
    Minimum,
    Where,
    cpp_bool,
    cpp_floating,
    cpp_integer,
    readable,
)
from semiconv_cupy.reductions import Extremum, Log, Root, Sum

__all__ = ["BroadcastSemifield", "SelectSemifield", "Semifield", "SubtractSemifield", "named"]

ScalarFunction: TypeAlias = Callable[..., Any] | sympy.Basic

IMG, KRN, LEFT, RIGHT, ACC, RES, VAL = (
    symbol(name) for name in ("img", "krn", "left", "right", "acc", "res", "val")
)

# The parameters of each function, by the name that `expressions` and `functions` use.
_PARAMETERS = {
    "select": ("left", "right"),
    "add": ("left", "right"),
    "times": ("img", "krn"),
    "d_times_d_img": ("img", "krn"),
    "d_times_d_krn": ("img", "krn"),
    "subtract": ("res", "val"),
    "d_add_d_right": ("acc", "val"),
    "post_sum": ("acc",),
    "undo_post_sum": ("res",),
    "d_post_d_acc": ("acc",),
}
# What users call them, where it differs.
_ARGUMENTS = {"select": "add_select", "d_times_d_krn": "d_times_d_kernel"}


class _CompiledSemifield:
    """What the two kinds share that are compiled into kernels. Immutable; equality by content.

    Attributes
    ----------
    zero : float
        The neutral element of the addition.
    cache_name : str or None
        As given; no part of the identity.
    accumulator : str
        How kernels add: "select", "sum", "log", "root" or "custom".
    parameter : float or None
        mu of "log", p of "root".
    expressions : mapping
        The scalar functions as SymPy expressions, by name.
    content : tuple
        What equality and hash compare.
    channels_add, spread_gradient : bool
        Selections only: channels are summed by ordinary +; equal extrema share the gradient.
    """

    zero: float
    cache_name: str | None
    accumulator: str
    parameter: float | None
    expressions: Mapping[str, Any]
    content: tuple[Any, ...]
    channels_add: bool = False
    spread_gradient: bool = False
    _hash: int
    _recipe: tuple[str, dict[str, Any]] | None  # the class method that made it

    def _define(
        self,
        functions: dict[str, Any],
        zero: float,
        accumulator: str,
        parameter: float | None = None,
        cache_name: str | None = None,
        **flags: bool,
    ) -> None:
        texts = tuple((name, sympy.srepr(functions[name])) for name in sorted(functions))
        options = tuple(sorted(flags.items()))
        content = (type(self).__name__, texts, zero, accumulator, parameter, options)
        vars(self).update(
            expressions=types.MappingProxyType(functions),
            zero=zero,
            cache_name=cache_name,
            accumulator=accumulator,
            parameter=parameter,
            content=content,
            _hash=hash(content),
            _recipe=None,
            **flags,
        )

    def _made_by(self, name: str, **keywords: Any) -> None:
        vars(self)["_recipe"] = (name, keywords)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed: {name}")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, _CompiledSemifield):
            return NotImplemented
        return self._hash == other._hash and self.content == other.content

    def __hash__(self) -> int:
        return self._hash

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    def __reduce__(self) -> Any:
        if self._recipe is not None:
            name, keywords = self._recipe
            return _rebuilt, (getattr(type(self), name), keywords)
        return _rebuilt, (type(self), self._arguments())

    def _arguments(self) -> dict[str, Any]:
        """What makes the same semifield again: expressions, so that lambdas can be pickled."""
        functions = {_ARGUMENTS.get(name, name): f for name, f in self.expressions.items()}
        return {**functions, "zero": self.zero, "cache_name": self.cache_name}

    def __repr__(self) -> str:
        if self._recipe is not None:
            name, keywords = self._recipe
            return f"{type(self).__name__}.{name}({_shown(keywords)})"
        texts = {
            _ARGUMENTS.get(name, name): readable(self.expressions[name])
            for name in ("select", "add", "times", "post_sum")
            if name in self.expressions
        }
        flags = {name: value for name, value in self._arguments().items() if value is True}
        parts = [f"{name}={text}" for name, text in texts.items()]
        parts += [f"zero={self.zero!r}", *([_shown(flags)] if flags else [])]
        return f"{type(self).__name__}({', '.join(parts)})"

    @cached_property
    def functions(self) -> types.SimpleNamespace:
        """The scalar functions on numbers, NumPy and CuPy arrays, by the names of `expressions`."""
        made = {
            name: ArrayFunction(
                expression, _PARAMETERS[name], never_nan="right" if name == "select" else None
            )
            for name, expression in self.expressions.items()
        }
        return types.SimpleNamespace(**made)

    @property
    def times(self) -> ArrayFunction:
        """The multiplication, as a function of numbers or arrays ``img`` and ``krn``."""
        return self.functions.times  # type: ignore[no-any-return]

    @property
    def d_times_d_img(self) -> ArrayFunction:
        """The derivative of times by ``img``, as a function of ``img`` and ``krn``."""
        return self.functions.d_times_d_img  # type: ignore[no-any-return]

    @property
    def d_times_d_kernel(self) -> ArrayFunction:
        """The derivative of times by ``krn``, as a function of ``img`` and ``krn``."""
        return self.functions.d_times_d_krn  # type: ignore[no-any-return]

    @property
    def of_positive_numbers(self) -> bool:
        """Whether it may be one of numbers >= 0 alone: its zero is 0, or it is a root."""
        return self.zero == 0 or self.accumulator == "root"

    @cached_property
    def d_times_constant(self) -> bool:
        """Whether both derivatives of times are constants: backward needs neither img nor krn."""
        by_img, by_krn = (self.expressions[f"d_times_d_{name}"] for name in ("img", "krn"))
        return not by_img.free_symbols and not by_krn.free_symbols

    @cached_property
    def absorbing(self) -> bool:
        """Whether a tap that meets the zero changes nothing, for every finite kernel value.

        Then padding an image with the zero is the same as leaving those taps out. A selection never
        takes such a tap; a sum gets exactly the zero. A custom addition is not trusted: its formula
        may round or overflow where it meets the zero.
        """
        zero, weight = _number(self.zero), sympy.Symbol("k", real=True)
        try:
            product = self.expressions["times"].subs({IMG: zero, KRN: weight}, simultaneous=True)
        except TypeError:  # the zero makes it NaN, which SymPy does not compare
            return False
        if product.has(sympy.nan, sympy.zoo):
            return False
        largest = float(np.finfo(np.float64).max)
        weights = np.array([0.0, -0.0, 1.0, -1.0, 1e-300, -1e-300, largest, -largest])
        products = self.functions.times(np.full_like(weights, self.zero), weights)
        if self.accumulator == "select":
            replaced = {LEFT: zero, RIGHT: product}
            wins = self.expressions["select"].subs(replaced, simultaneous=True)
            return wins == sympy.false and not self.functions.select(self.zero, products).any()
        if self.accumulator == "custom":
            return False
        return bool(product == zero and (products == self.zero).all())

    @cached_property
    def _definitions(self) -> dict[str, dict[str, str]]:
        return {}

    def definitions(self, arithmetic: str) -> dict[str, str]:
        """C++ text of the scalar functions, by macro name, for the kernels.

        Parameters
        ----------
        arithmetic : {"floating", "integer", "bool"}
            Integers saturate; bool values are 0 or 1. Both serve selections only.

        Raises
        ------
        TypeError
            Where the semifield has no meaning in this arithmetic.

        Examples
        --------
        >>> SelectSemifield.tropical_max().definitions("integer")["SEMICONV_TIMES"]
        'saturating_add(img, krn)'
        """
        if arithmetic not in ("floating", "integer", "bool"):
            raise ValueError(
                f"arithmetic must be 'floating', 'integer' or 'bool', got arithmetic={arithmetic!r}"
            )
        if arithmetic not in self._definitions:
            printed = {
                "floating": self._floating_definitions,
                "integer": self._integer_definitions,
                "bool": self._bool_definitions,
            }
            self._definitions[arithmetic] = printed[arithmetic]()
        return dict(self._definitions[arithmetic])

    def _floating_definitions(self) -> dict[str, str]:
        texts = {
            f"SEMICONV_{name.upper()}": cpp_floating(expression)
            for name, expression in self.expressions.items()
            if name != "undo_post_sum"  # no kernel needs it
        }
        texts["SEMICONV_ZERO"] = cpp_floating(_number(self.zero))
        if self.parameter is not None:
            texts["SEMICONV_PARAMETER"] = repr(self.parameter)
        return texts

    def _integer_definitions(self) -> dict[str, str]:
        raise TypeError(f"{self!r} works on floating arrays only; integers need a SelectSemifield")

    def _bool_definitions(self) -> dict[str, str]:
        raise TypeError(f"{self!r} works on floating arrays only; bool needs a SelectSemifield")

    def check(
        self, samples: int = 200, seed: int = 0, domain: tuple[float, float] | None = None
    ) -> laws.LawReport:
        """Test the laws of a semifield, and the derivatives, on random numbers and at ties.

        Parameters
        ----------
        samples : int
            Numbers drawn for each variable.
        seed : int
            Of the random numbers.
        domain : (float, float), optional
            The interval of the semifield's set to draw from. By default (0.1, 4) where
            `of_positive_numbers`, else (-4, 4).

        Returns
        -------
        LawReport
            Prints one line a law, with an example where it fails. ``.ok`` (and
            ``.raise_if_failed()``) says whether it is enough for a convolution, ``.is_semifield``
            whether the multiplication is one of a semifield too.

        Examples
        --------
        >>> SelectSemifield.tropical_max().check().ok
        True
        """
        return laws.check(self, samples, seed, domain)


def _rebuilt(maker: Callable[..., Any], keywords: dict[str, Any]) -> Any:
    return maker(**keywords)


def _shown(keywords: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in keywords.items())


def _number(value: float) -> sympy.Expr:
    """A float as SymPy's number, whole ones as integers."""
    if math.isinf(value):
        return sympy.oo if value > 0 else -sympy.oo
    return sympy.Integer(int(value)) if value.is_integer() else sympy.Float(value, precision=53)


def _real(name: str, value: Any) -> float:
    """The value as a float, or an error that names the argument."""
    text = isinstance(value, str | bytes | bytearray)
    if not text and not isinstance(value, complex | np.complexfloating):
        try:
            return float(value)
        except OverflowError:
            shown = f"{Decimal(value):.3e}" if isinstance(value, int) else repr(value)
            raise ValueError(
                f"{name} must lie in the range of float64, up to 1.8e308, got {name}={shown}"
            ) from None
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{name} must be a real number, got {name}={value!r}")


def _checked_zero(zero: Any) -> float:
    if zero is None:
        raise TypeError("zero is missing: pass the neutral element of the addition")
    if isinstance(zero, tuple | list) or np.ndim(zero) > 0:
        raise TypeError(f"zero must be one number, got zero={zero!r}: {SCALARS}")
    value = _real("zero", zero)
    if math.isnan(value):
        raise ValueError("zero must be a number or +-inf, got zero=nan")
    return value


def _checked_parameter(name: str, value: Any) -> float:
    if getattr(value, "requires_grad", False):
        same = {
            "mu": "log(mu) of (f, g) is log(1) of (mu f, mu g), divided by mu",
            "p": "root(p) of (f, g) is linear of (f^p, g^p), to the power of 1/p",
        }
        raise TypeError(
            f"{name} must be a number, got a tensor that requires a gradient: it is compiled into "
            f"the kernel and gets none. Learn it outside: {same[name]}"
        )
    number = _real(name, value)
    if not math.isfinite(number) or number == 0:
        raise ValueError(f"{name} must be finite and not 0, got {name}={value!r}")
    return number


def _traced(name: str, function: ScalarFunction) -> Any:
    argument = _ARGUMENTS.get(name, name)
    return trace(function, _PARAMETERS[name], argument, condition=name == "select")


def _times_and_derivatives(
    times: ScalarFunction, d_img: ScalarFunction | None, d_krn: ScalarFunction | None
) -> dict[str, Any]:
    product = _traced("times", times)
    functions = {"times": product}
    for name, given, by in (("d_times_d_img", d_img, "img"), ("d_times_d_krn", d_krn, "krn")):
        if given is None:
            slope = derivative(product, by, _ARGUMENTS.get(name, name))
            functions[name] = _zero_where_a_factor_is(slope)
        else:
            functions[name] = _traced(name, given)
    return functions


def _zero_where_a_factor_is(slope: Any) -> Any:
    """A derivative whose quotients are 0 where a factor is, infinite as another may be.

    At img = 0 the term sqrt(img * krn) does not depend on krn: img / (2 sqrt(img * krn)) counts as
    0 there, and not as 0 / 0.
    """
    if isinstance(slope, sympy.Add):
        return sympy.Add(*map(_zero_where_a_factor_is, slope.args))
    factors = [factor for factor in sympy.Mul.make_args(slope) if factor.free_symbols]
    if len(factors) < 2 or not any(f.is_Pow and f.exp.is_negative for f in factors):
        return slope
    zeros = [sympy.Eq(factor, 0, evaluate=False) for factor in factors]
    return Where(sympy.Or(*zeros), 0, slope)


def _made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """A class method of two flags, called once for each of their values."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def made(cls: type, channels_add: bool = False, spread_gradient: bool = False) -> Any:
        return cached(cls, **_flags(channels_add, spread_gradient))

    return made


class SelectSemifield(_CompiledSemifield):
    """A semifield whose addition picks one of its two arguments, such as max or min.

    Every function is a Python callable of scalars, traced once with symbols (arithmetic, ``math``,
    ``numpy`` and ``torch`` functions, helpers, captured constants; `semiconv_cupy.where` in place
    of branches), or a SymPy expression in symbols called as the parameters below.

    Parameters
    ----------
    add_select : (left, right) -> bool
        Whether a ⊕ b takes ``right``. False where there is no difference, so that the first of
        equal taps is kept. NaN is never taken, whatever this says.
    times : (img, krn) -> number
        The multiplication.
    d_times_d_img, d_times_d_kernel : (img, krn) -> number, optional
        Its derivatives; derived where they are None. At kinks they are the mean of both sides, as
        1/2 for max and min at ties and 0 for abs at 0.
    zero : float
        The neutral element of the addition, such as -inf.
    cache_name : str, optional
        Accepted for programs written for ``pytorch_nd_semiconv`` and not part of the identity: two
        semifields are equal if and only if their formulas are.
    channels_add : bool
        Add ordinarily, +, along the channel axis, and select in the window of each channel.
    spread_gradient : bool
        Share the gradient evenly among equal extrema; by default the first one gets it.

    Raises
    ------
    TypeError
        Where a function cannot be traced; the message says what to write.

    Notes
    -----
    Integer arrays are computed exactly and saturate; bool arrays work where `boolean_equivalent`
    says how.

    Examples
    --------
    >>> import math
    >>> semifield = SelectSemifield(lambda a, b: b > a, lambda img, krn: img + krn, zero=-math.inf)
    >>> semifield
    SelectSemifield(add_select=right > left, times=img + krn, zero=-inf)
    >>> semifield == SelectSemifield.tropical_max()
    True
    >>> semifield.times(1.0, 2.0)
    3.0
    """

    channels_add: bool
    spread_gradient: bool

    def __init__(
        self,
        add_select: ScalarFunction,
        times: ScalarFunction,
        d_times_d_img: ScalarFunction | None = None,
        d_times_d_kernel: ScalarFunction | None = None,
        zero: float | None = None,
        cache_name: str | None = None,
        *,
        channels_add: bool = False,
        spread_gradient: bool = False,
    ) -> None:
        self._define(
            {
                "select": _traced("select", add_select),
                **_times_and_derivatives(times, d_times_d_img, d_times_d_kernel),
            },
            _checked_zero(zero),
            "select",
            cache_name=cache_name,
            **_flags(channels_add, spread_gradient),
        )

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), **_flags(self.channels_add, self.spread_gradient)}

    def _made(self, name: str) -> SelectSemifield:
        flags = _flags(self.channels_add, self.spread_gradient)
        self._made_by(name, **{flag: value for flag, value in flags.items() if value})
        return self

    @classmethod
    @_made_once
    def tropical_max(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> SelectSemifield:
        """a ⊕ b = max(a, b), img ⊗ krn = img + krn, zero -inf: dilation.

        Parameters
        ----------
        channels_add, spread_gradient : bool
            As in `SelectSemifield`.
        """
        flags = _flags(channels_add, spread_gradient)
        return cls(RIGHT > LEFT, IMG + KRN, zero=-math.inf, **flags)._made("tropical_max")

    @classmethod
    @_made_once
    def tropical_min_negated(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> SelectSemifield:
        """a ⊕ b = min(a, b), img ⊗ krn = img - krn, zero +inf: erosion by the dilation's kernel.

        Parameters
        ----------
        channels_add, spread_gradient : bool
            As in `SelectSemifield`.
        """
        flags = _flags(channels_add, spread_gradient)
        return cls(RIGHT < LEFT, IMG - KRN, zero=math.inf, **flags)._made("tropical_min_negated")

    @classmethod
    @_made_once
    def tropical_min(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> SelectSemifield:
        """a ⊕ b = min(a, b), img ⊗ krn = img + krn, zero +inf: the kernel is not negated.

        Parameters
        ----------
        channels_add, spread_gradient : bool
            As in `SelectSemifield`.
        """
        flags = _flags(channels_add, spread_gradient)
        return cls(RIGHT < LEFT, IMG + KRN, zero=math.inf, **flags)._made("tropical_min")

    @classmethod
    @functools.cache
    def max_times(cls) -> SelectSemifield:
        """a ⊕ b = max(a, b), img ⊗ krn = img * krn, zero 0, one 1: the likeliest path (Viterbi).

        On numbers >= 0.
        """
        return cls(RIGHT > LEFT, IMG * KRN, zero=0.0)._made("max_times")

    @classmethod
    @functools.cache
    def boolean(cls) -> SelectSemifield:
        """or and and, zero False, one True; on numbers in [0, 1] max and min, zero 0, one 1."""
        return cls(RIGHT > LEFT, Minimum(IMG, KRN), zero=0.0)._made("boolean")

    @property
    def add_select(self) -> ArrayFunction:
        """Whether the right one is taken, as a function of numbers or arrays."""
        return self.functions.select  # type: ignore[no-any-return]

    @property
    def boolean_equivalent(self) -> SelectSemifield | None:
        """The semifield that or/and arithmetic uses for bool arrays, None where there is none.

        In a bool kernel True means one, that is, 0 of the tropical semifields, and False zero.
        """
        return _boolean_equivalents().get(self)

    def _floating_definitions(self) -> dict[str, str]:
        texts = super()._floating_definitions()
        strict = (RIGHT > LEFT, LEFT < RIGHT, RIGHT < LEFT, LEFT > RIGHT)
        if self.expressions["select"] not in strict:  # those are False for NaN by themselves
            texts["SEMICONV_SELECT"] += " & (right == right)"
        return texts

    def _integer_definitions(self) -> dict[str, str]:
        try:
            return {
                "SEMICONV_SELECT": cpp_integer(self.expressions["select"]),
                "SEMICONV_TIMES": cpp_integer(self.expressions["times"]),
                "SEMICONV_ZERO": cpp_integer(_number(self.zero)),
            }
        except TypeError as error:
            raise TypeError(f"{self!r} cannot work on integer arrays: {error}") from None

    def _bool_definitions(self) -> dict[str, str]:
        equivalent = self.boolean_equivalent
        if equivalent is None:
            raise TypeError(f"{self!r} cannot work on bool arrays: it has no or/and equivalent")
        return {
            "SEMICONV_SELECT": cpp_bool(equivalent.expressions["select"]),
            "SEMICONV_TIMES": cpp_bool(equivalent.expressions["times"]),
            "SEMICONV_ZERO": cpp_bool(_number(equivalent.zero)),
        }

    def dynamic(
        self,
        thread_block_size: int | None = None,
        to_extension: bool = False,
        debug: bool = False,
        kernel_inflation: int = 16,
    ) -> Any:
        """A torch module ``conv(img, krn, stride=1, padding=0, ...)`` for inputs of any shape.

        Parameters
        ----------
        thread_block_size, to_extension, kernel_inflation
            Accepted for programs written for ``pytorch_nd_semiconv``, and without effect: each
            kernel brings its block size, is compiled when it is first used and kept on disk, and
            its gradient needs no inflated buffer.
        debug : bool
            Print what is compiled.

        Raises
        ------
        ImportError
            Where `torch_bridge`, whose module it is, has not been imported.
        """
        return _module(self, False, thread_block_size, to_extension, debug, kernel_inflation)

    def lazy_fixed(
        self,
        thread_block_size: int | None = None,
        to_extension: bool = False,
        debug: bool = False,
        kernel_inflation: int = 16,
    ) -> Any:
        """As `dynamic`, but fixed to the shapes and parameters of the first call.

        Only the batch size may change afterwards; anything else is a ValueError.
        """
        return _module(self, True, thread_block_size, to_extension, debug, kernel_inflation)


def _flags(channels_add: Any, spread_gradient: Any) -> dict[str, Any]:
    return {
        "channels_add": flag("channels_add", channels_add),
        "spread_gradient": flag("spread_gradient", spread_gradient),
    }


def _module(semifield: Any, lazy_fixed: bool, *tuning: Any) -> Any:
    names = ("thread_block_size", "to_extension", "debug", "kernel_inflation")
    options = dict(zip(names, tuning, strict=True))
    return compiled_module(semifield, lazy_fixed=lazy_fixed, **options)


@functools.cache
def _boolean_equivalents() -> dict[SelectSemifield, SelectSemifield]:
    def conjunction(times: Any) -> SelectSemifield:
        semifield = object.__new__(SelectSemifield)
        functions = {"select": RIGHT < LEFT, "times": times}
        semifield._define(functions, 1.0, "select", channels_add=False, spread_gradient=False)
        return semifield

    boolean = SelectSemifield.boolean()
    erosion = conjunction(sympy.Or(IMG, sympy.Not(KRN)))
    dual = conjunction(sympy.Or(IMG, KRN))
    table = {boolean: boolean, SelectSemifield.max_times(): boolean}
    for spread in (False, True):  # without effect on bool arrays, which have no gradient
        table[SelectSemifield.tropical_max(spread_gradient=spread)] = boolean
        table[SelectSemifield.tropical_min_negated(spread_gradient=spread)] = erosion
        table[SelectSemifield.tropical_min(spread_gradient=spread)] = dual
    return table


class SubtractSemifield(_CompiledSemifield):
    """A semifield whose addition has an inverse, such as + or the log-sum-exp.

    Functions are given as in `SelectSemifield`; those that are None are derived.

    Parameters
    ----------
    add : (left, right) -> number
        The addition; with ``post_sum``, of untransformed accumulators.
    times : (img, krn) -> number
        The multiplication.
    d_times_d_img, d_times_d_kernel : (img, krn) -> number, optional
        Its derivatives.
    subtract : (res, val) -> number, optional
        The acc with ``add(acc, val) == res``. The derivative of any addition but a plain sum,
        ``left + right``, needs it.
    d_add_d_right : (acc, val) -> number, optional
        The derivative of ``add(acc, val)`` by ``val``.
    zero : float
        The neutral element of the addition: where an accumulator starts.
    cache_name : str, optional
        Accepted for programs written for ``pytorch_nd_semiconv`` and not part of the identity.
    post_sum : (acc) -> number, optional
        What makes the output of an accumulator; None for the identity.
    undo_post_sum : (res) -> number, optional
        Its inverse. Nothing needs it; `check` tests it where it is given.
    d_post_d_acc : (acc) -> number, optional
        Its derivative.

    Raises
    ------
    TypeError
        Where a function cannot be traced.
    ValueError
        Where subtract is needed and left out, and SymPy cannot solve for it.

    Notes
    -----
    `log` and `root` are computed with accumulators that cannot overflow. Any other semifield is
    computed by the very formulas that are given here.

    Examples
    --------
    >>> import math
    >>> norm = SubtractSemifield(lambda a, b: math.sqrt(a**2 + b**2), lambda a, b: a * b, zero=0.0)
    >>> norm
    SubtractSemifield(add=sqrt(left**2 + right**2), times=img * krn, zero=0.0)
    >>> norm.subtract(5.0, 3.0)
    4.0
    >>> norm.d_add_d_right(4.0, 3.0)
    0.6
    """

    boolean_equivalent: None = None

    def __init__(
        self,
        add: ScalarFunction,
        times: ScalarFunction,
        d_times_d_img: ScalarFunction | None = None,
        d_times_d_kernel: ScalarFunction | None = None,
        subtract: ScalarFunction | None = None,
        d_add_d_right: ScalarFunction | None = None,
        zero: float | None = None,
        cache_name: str | None = None,
        post_sum: ScalarFunction | None = None,
        undo_post_sum: ScalarFunction | None = None,
        d_post_d_acc: ScalarFunction | None = None,
    ) -> None:
        functions = _times_and_derivatives(times, d_times_d_img, d_times_d_kernel)
        total = functions["add"] = _traced("add", add)
        as_acc_and_val = {LEFT: ACC, RIGHT: VAL}
        plain = total == LEFT + RIGHT
        if subtract is None and plain:
            functions["subtract"] = RES - VAL
        elif subtract is None:
            functions["subtract"] = _inverse(total.xreplace(as_acc_and_val), "subtract", "add")
        else:
            functions["subtract"] = _traced("subtract", subtract)
        if d_add_d_right is None:
            slope = derivative(total, "right", "d_add_d_right")
            functions["d_add_d_right"] = slope.xreplace(as_acc_and_val)
        else:
            functions["d_add_d_right"] = _traced("d_add_d_right", d_add_d_right)
        if post_sum is not None:
            post = functions["post_sum"] = _traced("post_sum", post_sum)
            if undo_post_sum is not None:  # no kernel needs it
                functions["undo_post_sum"] = _traced("undo_post_sum", undo_post_sum)
            functions["d_post_d_acc"] = (
                derivative(post, "acc", "d_post_d_acc")
                if d_post_d_acc is None
                else _traced("d_post_d_acc", d_post_d_acc)
            )
        elif undo_post_sum is not None or d_post_d_acc is not None:
            raise TypeError("undo_post_sum and d_post_d_acc need post_sum, which is None")
        accumulator = "sum" if plain else "custom"
        self._define(functions, _checked_zero(zero), accumulator, cache_name=cache_name)

    def _specialise(self, accumulator: str, **parameter: float) -> None:
        """Mark it as one for which the kernels have an accumulator that cannot overflow."""
        (value,) = parameter.values()
        self._define(dict(self.expressions), self.zero, accumulator, value)
        self._made_by(accumulator, **parameter)

    @classmethod
    @functools.cache
    def linear(cls) -> SubtractSemifield:
        """a ⊕ b = a + b, img ⊗ krn = img * krn, zero 0: the ordinary convolution."""
        semifield = cls(operator.add, operator.mul, subtract=operator.sub, zero=0.0)
        semifield._made_by("linear")
        return semifield

    @classmethod
    def root(cls, p: float) -> SubtractSemifield:
        """a ⊕ b = (a^p + b^p)^(1/p), img ⊗ krn = img * krn, on numbers >= 0: the p-norm.

        A window with a negative term gives NaN, whatever p is.

        Parameters
        ----------
        p : float
            Finite, not 0. The zero is 0, or +inf where p < 0 (then 1/0 = inf: a window with a 0
            gives 0).

        Raises
        ------
        ValueError
            Where p is 0 or not finite.
        TypeError
            Of a tensor that requires a gradient; p is compiled into the kernel, not learned.

        Examples
        --------
        >>> SubtractSemifield.root(2.0).add(3.0, 4.0)
        5.0
        """
        return cls._root(_checked_parameter("p", p))

    @classmethod
    @functools.lru_cache(256)
    def _root(cls, p: float) -> SubtractSemifield:
        zero = 0.0 if p > 0 else math.inf

        def add(left: Any, right: Any) -> Any:
            # Scaled by the larger (p < 0: the smaller) term, so that no power overflows.
            scale = (np.maximum if p > 0 else np.minimum)(abs(left), abs(right))
            scaled = scale * ((left / scale) ** p + (right / scale) ** p) ** (1 / p)
            return where((scale > 0) & (scale < math.inf), scaled, scale)

        def subtract(res: Any, val: Any) -> Any:
            remainder = res * np.maximum(1 - (val / res) ** p, 0) ** (1 / p)
            return where(res == val, zero, remainder)

        def d_add_d_right(acc: Any, val: Any) -> Any:
            nothing = (acc == val) & (val == zero)
            return where(nothing, float(p == 1), (val / add(acc, val)) ** (p - 1))

        semifield = cls(
            add, operator.mul, subtract=subtract, d_add_d_right=d_add_d_right, zero=zero
        )
        semifield._specialise("root", p=p)
        return semifield

    @classmethod
    def log(cls, mu: float) -> SubtractSemifield:
        """a ⊕ b = ln(e^(mu a) + e^(mu b)) / mu, img ⊗ krn = img + krn: the soft maximum.

        Parameters
        ----------
        mu : float
            Finite, not 0; the larger, the nearer to the maximum. The zero is -inf; where mu < 0
            this is the soft minimum and the zero is +inf.

        Raises
        ------
        ValueError
            Where mu is 0 or not finite.
        TypeError
            Of a tensor that requires a gradient; mu is compiled into the kernel, not learned.

        Examples
        --------
        >>> SubtractSemifield.log(1.0).add(0.0, 0.0)
        0.6931471805599453
        """
        return cls._log(_checked_parameter("mu", mu))

    @classmethod
    @functools.lru_cache(256)
    def _log(cls, mu: float) -> SubtractSemifield:
        zero = -math.inf if mu > 0 else math.inf

        def add(left: Any, right: Any) -> Any:
            extremum = (np.maximum if mu > 0 else np.minimum)(left, right)
            apart = extremum + np.log1p(np.exp(-abs(mu) * abs(left - right))) / mu
            return where(left == right, left + math.log(2) / mu, apart)

        def subtract(res: Any, val: Any) -> Any:
            remainder = np.maximum(-np.expm1(mu * (val - res)), 0)
            return where(res == val, zero, res + np.log(remainder) / mu)

        def d_add_d_right(acc: Any, val: Any) -> Any:
            tie = where(val == zero, 0.0, 0.5)
            return where(acc == val, tie, 1 / (1 + np.exp(mu * (acc - val))))

        semifield = cls(
            add, operator.add, subtract=subtract, d_add_d_right=d_add_d_right, zero=zero
        )
        semifield._specialise("log", mu=mu)
        return semifield

    @property
    def add(self) -> ArrayFunction:
        """The addition, as a function of numbers or arrays."""
        return self.functions.add  # type: ignore[no-any-return]

    @property
    def subtract(self) -> ArrayFunction:
        """The inverse of the addition, as a function of ``res`` and ``val``."""
        return self.functions.subtract  # type: ignore[no-any-return]

    @property
    def d_add_d_right(self) -> ArrayFunction:
        """The derivative of ``add(acc, val)`` by ``val``."""
        return self.functions.d_add_d_right  # type: ignore[no-any-return]

    @property
    def post_sum(self) -> ArrayFunction | None:
        """What makes the output of an accumulator; None for the identity."""
        return getattr(self.functions, "post_sum", None)

    @cached_property
    def undo_post_sum(self) -> ArrayFunction | None:
        """The inverse of `post_sum`; where none was given, SymPy solves for it on first access.

        Raises
        ------
        ValueError
            Where none was given and SymPy cannot solve for it.
        """
        if "undo_post_sum" in self.expressions or "post_sum" not in self.expressions:
            return getattr(self.functions, "undo_post_sum", None)
        inverse = _inverse(self.expressions["post_sum"], "undo_post_sum", "post_sum")
        return ArrayFunction(inverse, _PARAMETERS["undo_post_sum"])

    @property
    def d_post_d_acc(self) -> ArrayFunction | None:
        """The derivative of `post_sum`."""
        return getattr(self.functions, "d_post_d_acc", None)

    def dynamic(
        self,
        thread_block_size: int = 256,
        to_extension: bool = False,
        debug: bool = False,
        kernel_inflation: int = 16,
    ) -> Any:
        """As `SelectSemifield.dynamic`."""
        return _module(self, False, thread_block_size, to_extension, debug, kernel_inflation)

    def lazy_fixed(
        self,
        thread_block_size: int = 256,
        to_extension: bool = False,
        debug: bool = False,
        kernel_inflation: int = 16,
    ) -> Any:
        """As `SelectSemifield.lazy_fixed`."""
        return _module(self, True, thread_block_size, to_extension, debug, kernel_inflation)


# Where a derived inverse is tried: values of acc, and of val.
_SAMPLES = (np.array([0.3, 0.7, 1.1, 1.9]), np.array([0.2, 0.9, 0.4, 0.6]))


_HOW_TO_UNDO = {
    "subtract": "lambda res, val: ..., the acc with add(acc, val) == res",
    "undo_post_sum": "lambda res: ..., the acc with post_sum(acc) == res",
}


def _selects(addition: Any) -> bool:
    """Whether an addition of acc and val always gives one of them."""
    grid = np.linspace(-2, 2, 9)
    acc, val = (axis.ravel() for axis in np.meshgrid(grid, grid))
    total = ArrayFunction(addition, ("acc", "val"))(acc, val)
    return bool(((total == acc) | (total == val)).all())


def _ready_made_sum(addition: Any) -> str | None:
    """The call that makes the log or root whose addition this is, in acc and val."""
    add = ArrayFunction(addition, ("acc", "val"))
    acc, val = np.meshgrid(*_SAMPLES)
    at_zero, at_one = add(0.0, 0.0), add(1.0, 1.0)  # ln(2)/mu, 2^(1/p)
    with np.errstate(all="ignore"):
        candidates = (
            ("log", np.divide(math.log(2), at_zero)),
            ("root", np.divide(math.log(2), np.log(at_one))),
        )
    for family, parameter in candidates:
        value = float(f"{parameter:.9g}")
        if math.isfinite(value) and value != 0:
            semifield = getattr(SubtractSemifield, family)(value)
            if np.allclose(semifield.add(acc, val), add(acc, val), rtol=1e-8):
                return f"{semifield!r}"
    return None


def _inverse(expression: Any, argument: str, function: str) -> Any:
    """The expression of res (and val) that undoes an expression of acc (and val)."""
    names = [name for name in ("acc", "val") if name == "acc" or VAL in expression.free_symbols]
    accs, *vals = _SAMPLES[: len(names)]
    results = ArrayFunction(expression, names)(accs, *vals)
    for solution in solutions(expression, ACC, RES):
        try:
            inverse = trace(solution, ("res", *names[1:]), argument)
        except TypeError:  # a solution in complex numbers, or in functions that have no C++
            continue
        found = ArrayFunction(inverse, ("res", *names[1:]))(results, *vals)
        if np.allclose(found, accs, rtol=1e-6):
            return inverse
    remedy = f"pass {argument}={_HOW_TO_UNDO[argument]}"
    if argument == "subtract":
        ready_made = _ready_made_sum(expression)
        if _selects(expression):
            remedy = "it picks one of its arguments, which cannot be undone: use SelectSemifield"
        elif ready_made is not None:
            remedy += f", or use {ready_made}, which is this addition and cannot overflow"
    raise ValueError(
        f"{argument} is missing, and {function}({', '.join(names)}) = {readable(expression)} could "
        f"not be solved for acc; {remedy}"
    )


@dataclass(frozen=True)
class BroadcastSemifield:
    """A semifield of whole-array functions, for any device; torch differentiates it by itself.

    Parameters
    ----------
    add_reduce
        ``add_reduce(array, dims) -> array``: the addition over several axes.
    multiply
        ``multiply(a, b) -> array``: the multiplication, broadcasting.
    zero
        The neutral element of the addition.
    add_reduce_channels
        ``add_reduce_channels(array, dim) -> array``: another reduction for the channel axis alone.

    Notes
    -----
    The ready-made ones work on NumPy and CuPy arrays and on torch tensors.

    Examples
    --------
    >>> semifield = BroadcastSemifield.log(2.0)
    >>> semifield
    BroadcastSemifield.log(mu=2.0)
    >>> float(semifield.add_reduce(np.array([1e4, 1e4]), (0,)))
    10000.34657359028
    """

    accumulator: ClassVar[str] = "arrays"  # beside those of the compiled semifields

    add_reduce: Callable[..., Any]
    multiply: Callable[..., Any]
    zero: float
    add_reduce_channels: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("add_reduce", "multiply"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {getattr(self, name)!r}")
        if self.add_reduce_channels is not None and not callable(self.add_reduce_channels):
            raise TypeError(
                f"add_reduce_channels must be callable or None, got {self.add_reduce_channels!r}"
            )
        object.__setattr__(self, "zero", _checked_zero(self.zero))

    @classmethod
    def tropical_max(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> BroadcastSemifield:
        """max, img + krn, as `SelectSemifield.tropical_max`."""
        flags = _flags(channels_add, spread_gradient)
        reduce = Extremum(largest=True, spread_gradient=flags["spread_gradient"])
        return cls(reduce, operator.add, -math.inf, Sum() if flags["channels_add"] else None)

    @classmethod
    def tropical_min_negated(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> BroadcastSemifield:
        """min, img - krn, as `SelectSemifield.tropical_min_negated`."""
        flags = _flags(channels_add, spread_gradient)
        reduce = Extremum(largest=False, spread_gradient=flags["spread_gradient"])
        return cls(reduce, operator.sub, math.inf, Sum() if flags["channels_add"] else None)

    @classmethod
    def linear(cls) -> BroadcastSemifield:
        """+, img * krn, as `SubtractSemifield.linear`."""
        return cls(Sum(), operator.mul, 0.0)

    @classmethod
    def root(cls, p: float) -> BroadcastSemifield:
        """The p-norm and img * krn, as `SubtractSemifield.root`, on numbers >= 0.

        Negative terms are taken to the power as they are: for even p like their magnitudes, else
        the result is NaN where it is not real.
        """
        value = _checked_parameter("p", p)
        return cls(Root(value), operator.mul, 0.0 if value > 0 else math.inf)

    @classmethod
    def log(cls, mu: float) -> BroadcastSemifield:
        """The log-sum-exp and img + krn, as `SubtractSemifield.log`."""
        value = _checked_parameter("mu", mu)
        return cls(Log(value), operator.add, -math.inf if value > 0 else math.inf)

    @property
    def of_positive_numbers(self) -> bool:
        """Whether it may be one of numbers >= 0 alone: its zero is 0, or it is a root."""
        return self.zero == 0 or isinstance(self.add_reduce, Root)

    def check(
        self, samples: int = 200, seed: int = 0, domain: tuple[float, float] | None = None
    ) -> laws.LawReport:
        """As `SelectSemifield.check`."""
        return laws.check(self, samples, seed, domain)

    def dynamic(self, unfold_copy: bool = False) -> Any:
        """A torch module ``conv(img, krn, stride=1, padding=0, ...)`` for this semifield.

        Parameters
        ----------
        unfold_copy
            Gather the windows by ``torch.nn.functional.unfold``, which copies; 2-D only. By
            default they are a strided view.

        Raises
        ------
        ImportError
            Where `torch_bridge`, whose module it is, has not been imported.
        """
        return broadcast_module(self, unfold_copy=unfold_copy)

    def __repr__(self) -> str:
        reduce, channels = self.add_reduce, self.add_reduce_channels is not None
        name, keywords = None, {}
        if isinstance(reduce, Extremum):
            name = "tropical_max" if reduce.largest else "tropical_min_negated"
            keywords = {"channels_add": channels, "spread_gradient": reduce.spread_gradient}
        elif isinstance(reduce, Sum):
            name = "linear"
        elif isinstance(reduce, Root | Log):
            name = "root" if isinstance(reduce, Root) else "log"
            keywords = vars(reduce)
        if name is not None and self == getattr(BroadcastSemifield, name)(**keywords):
            shown = {key: value for key, value in keywords.items() if value is not False}
            return f"BroadcastSemifield.{name}({_shown(shown)})"
        parts = [f"add_reduce={reduce!r}", f"multiply={self.multiply!r}", f"zero={self.zero!r}"]
        if channels:
            parts.append(f"add_reduce_channels={self.add_reduce_channels!r}")
        return f"BroadcastSemifield({', '.join(parts)})"


Semifield: TypeAlias = SelectSemifield | SubtractSemifield | BroadcastSemifield

_NAMED: dict[str, Callable[[], Semifield]] = {
    "tropical_max": SelectSemifield.tropical_max,
    "tropical_min_negated": SelectSemifield.tropical_min_negated,
    "tropical_min": SelectSemifield.tropical_min,
    "max_times": SelectSemifield.max_times,
    "boolean": SelectSemifield.boolean,
    "linear": SubtractSemifield.linear,
}


# What others call them.
_OTHER_NAMES = {
    "dilation": "tropical_max",
    "max": "tropical_max",
    "max_plus": "tropical_max",
    "erosion": "tropical_min_negated",
    "min": "tropical_min_negated",
    "min_plus": "tropical_min",
    "viterbi": "max_times",
}


@functools.cache
def named(name: str) -> Semifield:
    """The ready-made semifield of that name.

    Raises
    ------
    ValueError
        Where there is none of that name, or it needs a parameter; the message says what to pass.

    Examples
    --------
    >>> named("tropical_max")
    SelectSemifield.tropical_max()
    """
    if name in _NAMED:
        return _NAMED[name]()
    for family, parameter in (("log", "mu"), ("root", "p")):
        if name.startswith(family):  # log, log(2), logsumexp
            raise ValueError(
                f"semifield={name!r} needs its parameter: pass "
                f"semiconv_cupy.SubtractSemifield.{family}({parameter})"
            )
    similar = _OTHER_NAMES.get(name) or next(iter(difflib.get_close_matches(name, _NAMED)), None)
    guess = f" (did you mean {similar!r}?)" if similar else ""
    raise ValueError(f"semifield={name!r} is unknown{guess}; the names are {', '.join(_NAMED)}")


def no_semifield(value: object) -> TypeError:
    """The error for what is neither a semifield nor a name."""
    maker = getattr(value, "__name__", None)
    if inspect.ismethod(value):
        maker = f"{value.__self__.__name__}.{maker}"  # type: ignore[attr-defined]
    called = f"; it must be called: {maker}(...)" if maker else ""
    return TypeError(
        "semifield must be a SelectSemifield, SubtractSemifield, BroadcastSemifield or a name, "
        f"got {maker or repr(value)}{called}"
    )
