"""The semifields: three ways to define one, and the ready-made ones.

A semifield is written once, as scalar Python functions; `expressions.py` turns them into C++ for
the kernels and into array functions. What a convolution does with it is in `conv.py`. Importing
this module imports neither torch nor CuPy.
"""

from __future__ import annotations

import functools
import math
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import sympy

from semiconv_cupy.expressions import derivative, plain, symbol, trace, where
from semiconv_cupy.printing import (
    ArrayFunction,
    Minimum,
    array_module,
    cpp_bool,
    cpp_floating,
    cpp_integer,
    readable,
)

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


class _CompiledSemifield:
    """What the two kinds that are compiled into kernels share. Immutable; equality by content."""

    zero: float
    accumulator: str
    parameter: float | None
    expressions: Mapping[str, sympy.Basic]
    content: tuple[Any, ...]

    def _define(
        self,
        functions: dict[str, sympy.Basic],
        zero: Any,
        accumulator: str,
        parameter: float | None = None,
        **flags: bool,
    ) -> None:
        texts = tuple((name, sympy.srepr(functions[name])) for name in sorted(functions))
        content = (
            type(self).__name__,
            texts,
            zero,
            accumulator,
            parameter,
            tuple(sorted(flags.items())),
        )
        self.__dict__.update(
            expressions=types.MappingProxyType(functions),
            zero=zero,
            accumulator=accumulator,
            parameter=parameter,
            content=content,
            _hash=hash(content),
            _recipe=None,
            **flags,
        )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed: {name}")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is not type(self):
            return NotImplemented
        return self._hash == other._hash and self.content == other.content  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined, no-any-return]

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self

    @functools.cached_property
    def functions(self) -> types.SimpleNamespace:
        """The scalar functions on NumPy and CuPy arrays: times, select or add, derivatives, ..."""
        return types.SimpleNamespace(
            **{
                name: ArrayFunction(
                    expression,
                    _PARAMETERS[name],
                    never_nan="right" if name == "select" else None,
                )
                for name, expression in self.expressions.items()
            }
        )

    @functools.cached_property
    def _definitions(self) -> dict[str, dict[str, str]]:
        return {}

    def definitions(self, arithmetic: str) -> dict[str, str]:
        """C++ text of the scalar functions, by macro name, for the kernels.

        Parameters
        ----------
        arithmetic
            "floating", "integer" (selections; saturating) or "bool" (selections; 0 or 1).

        Raises
        ------
        TypeError
            Where the semifield has no meaning in this arithmetic.
        """
        if arithmetic not in self._definitions:
            self._definitions[arithmetic] = self._print_definitions(arithmetic)
        return dict(self._definitions[arithmetic])

    def _print_definitions(self, arithmetic: str) -> dict[str, str]:
        if arithmetic != "floating":
            raise TypeError(
                f"{self!r} works on floating arrays only; integers and bool need a SelectSemifield"
            )
        texts = {
            f"SEMICONV_{name.upper()}": cpp_floating(expression)
            for name, expression in self.expressions.items()
        }
        texts["SEMICONV_ZERO"] = cpp_floating(sympy.sympify(self.zero))
        if self.parameter is not None:
            texts["SEMICONV_PARAMETER"] = repr(self.parameter)
        return texts

    @functools.cached_property
    def d_times_constant(self) -> bool:
        """Whether both derivatives of times are constants: backward needs neither img nor krn."""
        return not any(
            self.expressions[name].free_symbols for name in ("d_times_d_img", "d_times_d_krn")
        )

    @functools.cached_property
    def absorbing(self) -> bool:
        """Whether a tap that meets the zero changes nothing, for every finite kernel value, so that
        padding an image with the zero is the same as leaving those taps out."""
        product = self.expressions["times"].subs(IMG, _number(self.zero))
        product = product.subs(KRN, sympy.Symbol("k", real=True))
        largest = float(np.finfo(np.float64).max)
        weights = np.array([0.0, 1.0, -1.0, 0.1, -1e-300, largest, -largest])
        products = self.functions.times(np.full_like(weights, self.zero), weights)
        if self.accumulator == "select":
            left, right = _number(self.zero), product
            wins = self.expressions["select"].subs({LEFT: left, RIGHT: right}, simultaneous=True)
            never = not self.functions.select(self.zero, products).any()
            return bool(wins == sympy.false) and never
        if self.accumulator == "custom":
            return False  # its author's formula may round, or overflow, where it meets the zero
        return bool(product == _number(self.zero)) and bool((products == self.zero).all())

    def _function(self, name: str) -> Any:
        return getattr(self.functions, name, None)

    def check(
        self, samples: int = 200, seed: int = 0, domain: tuple[float, float] | None = None
    ) -> Any:
        """Test the laws."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        if self._recipe is not None:  # type: ignore[attr-defined]
            name, keywords = self._recipe  # type: ignore[attr-defined]
            return _ready_made, (type(self), name, keywords)
        return _restore, (type(self), self._state())

    def _state(self) -> dict[str, Any]:
        raise NotImplementedError

    def _named(self, name: str, **keywords: Any) -> Any:
        self.__dict__["_recipe"] = (name, keywords)
        return self

    def _described(self) -> dict[str, str]:
        return {}

    def __repr__(self) -> str:
        kind = type(self).__name__
        if self._recipe is not None:  # type: ignore[attr-defined]
            name, keywords = self._recipe  # type: ignore[attr-defined]
            shown = ", ".join(
                f"{key}={value!r}" for key, value in keywords.items() if value is not False
            )
            return f"{kind}.{name}({shown})"
        parts = {**self._described(), "zero": repr(self.zero)}
        return f"{kind}({', '.join(f'{key}={text}' for key, text in parts.items())})"


def _ready_made(kind: Any, name: str, keywords: dict[str, Any]) -> Any:
    return getattr(kind, name)(**keywords)


def _restore(kind: Any, state: dict[str, Any]) -> Any:
    return kind(**state)


def _number(value: float) -> sympy.Expr:
    """A float as SymPy's number, whole ones as integers."""
    if math.isinf(value):
        return sympy.oo if value > 0 else -sympy.oo
    return sympy.Integer(int(value)) if value.is_integer() else sympy.Float(value, precision=53)


def _checked_zero(zero: Any) -> float:
    if zero is None:
        raise TypeError("zero is missing: pass the neutral element of the addition")
    value = float(zero)
    if math.isnan(value):
        raise ValueError("zero must be a number or +-inf, got nan")
    return value


def _checked_parameter(name: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number == 0:
        raise ValueError(f"{name} must be finite and not 0, got {name}={value!r}")
    return number


def _traced(name: str, function: ScalarFunction, argument: str, condition: bool = False) -> Any:
    return trace(function, _PARAMETERS[name], argument, condition)


def _times_and_derivatives(
    times: ScalarFunction,
    d_times_d_img: ScalarFunction | None,
    d_times_d_kernel: ScalarFunction | None,
) -> dict[str, sympy.Basic]:
    functions = {"times": _traced("times", times, "times")}
    for name, argument, function, by in (
        ("d_times_d_img", "d_times_d_img", d_times_d_img, "img"),
        ("d_times_d_krn", "d_times_d_kernel", d_times_d_kernel, "krn"),
    ):
        functions[name] = (
            derivative(functions["times"], by, argument)
            if function is None
            else _traced(name, function, argument)
        )
    return functions


class SelectSemifield(_CompiledSemifield):
    """A semifield whose addition picks one of its arguments, such as max or min."""

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
                "select": _traced("select", add_select, "add_select", condition=True),
                **_times_and_derivatives(times, d_times_d_img, d_times_d_kernel),
            },
            _checked_zero(zero),
            "select",
            channels_add=bool(channels_add),
            spread_gradient=bool(spread_gradient),
        )

    @classmethod
    @functools.cache
    def _simple(
        cls,
        name: str,
        select: sympy.Basic,
        times: sympy.Basic,
        zero: float,
        channels_add: bool = False,
        spread_gradient: bool = False,
    ) -> SelectSemifield:
        flags = {"channels_add": channels_add, "spread_gradient": spread_gradient}
        made = cls(select, times, zero=zero, **flags)
        return made._named(name, **{key: value for key, value in flags.items() if value})  # type: ignore[no-any-return]

    @classmethod
    def tropical_max(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> SelectSemifield:
        """max, img + krn: dilation."""
        flags = bool(channels_add), bool(spread_gradient)
        return cls._simple("tropical_max", RIGHT > LEFT, IMG + KRN, -math.inf, *flags)

    @classmethod
    def tropical_min_negated(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> SelectSemifield:
        """min, img - krn: erosion by the dilation's kernel."""
        flags = bool(channels_add), bool(spread_gradient)
        return cls._simple("tropical_min_negated", RIGHT < LEFT, IMG - KRN, math.inf, *flags)

    @classmethod
    def tropical_min(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> SelectSemifield:
        """min, img + krn."""
        flags = bool(channels_add), bool(spread_gradient)
        return cls._simple("tropical_min", RIGHT < LEFT, IMG + KRN, math.inf, *flags)

    @classmethod
    def max_times(cls) -> SelectSemifield:
        """max, img * krn on numbers >= 0 (Viterbi)."""
        return cls._simple("max_times", RIGHT > LEFT, IMG * KRN, 0.0)

    @classmethod
    def boolean(cls) -> SelectSemifield:
        """or, and; on numbers >= 0, max and min."""
        return cls._simple("boolean", RIGHT > LEFT, Minimum(IMG, KRN), 0.0)

    @property
    def boolean_equivalent(self) -> SelectSemifield | None:
        """The semifield that or/and arithmetic uses for bool arrays, None where there is none."""
        return _boolean_equivalents().get(self)

    def _print_definitions(self, arithmetic: str) -> dict[str, str]:
        select, times = self.expressions["select"], self.expressions["times"]
        if arithmetic == "floating":
            texts = super()._print_definitions(arithmetic)
            if select not in (RIGHT > LEFT, RIGHT < LEFT, LEFT < RIGHT, LEFT > RIGHT):
                texts["SEMICONV_SELECT"] += " & (right == right)"  # NaN is never selected
            return texts
        if arithmetic == "integer":
            try:
                return {
                    "SEMICONV_SELECT": cpp_integer(select),
                    "SEMICONV_TIMES": cpp_integer(times),
                    "SEMICONV_ZERO": cpp_integer(_number(self.zero)),
                }
            except TypeError as error:
                raise TypeError(f"{self!r} cannot work on integer arrays: {error}") from None
        if arithmetic == "bool":
            equivalent = self.boolean_equivalent
            if equivalent is None:
                raise TypeError(f"{self!r} cannot work on bool arrays: it has no or/and equivalent")
            return {
                "SEMICONV_SELECT": cpp_bool(equivalent.expressions["select"]),
                "SEMICONV_TIMES": cpp_bool(equivalent.expressions["times"]),
                "SEMICONV_ZERO": cpp_bool(_number(equivalent.zero)),
            }
        raise ValueError(
            f"arithmetic must be 'floating', 'integer' or 'bool', got arithmetic={arithmetic!r}"
        )

    add_select = property(lambda self: self._function("select"))
    times = property(lambda self: self._function("times"))
    d_times_d_img = property(lambda self: self._function("d_times_d_img"))
    d_times_d_kernel = property(lambda self: self._function("d_times_d_krn"))

    def _state(self) -> dict[str, Any]:
        return {
            "add_select": self.expressions["select"],
            "times": self.expressions["times"],
            "d_times_d_img": self.expressions["d_times_d_img"],
            "d_times_d_kernel": self.expressions["d_times_d_krn"],
            "zero": self.zero,
            "channels_add": self.channels_add,
            "spread_gradient": self.spread_gradient,
        }

    def _described(self) -> dict[str, str]:
        flags = {name: "True" for name in ("channels_add", "spread_gradient") if vars(self)[name]}
        return {
            "add_select": readable(self.expressions["select"]),
            "times": readable(self.expressions["times"]),
            **flags,
        }


@functools.cache
def _boolean_equivalents() -> dict[SelectSemifield, SelectSemifield]:
    boolean = SelectSemifield.boolean()

    def conjunction(name: str, times: sympy.Basic) -> SelectSemifield:
        made = object.__new__(SelectSemifield)
        made._define(
            {"select": RIGHT < LEFT, "times": times},
            1.0,
            "select",
            channels_add=False,
            spread_gradient=False,
        )
        return made

    eroding = conjunction("and", sympy.Or(IMG, sympy.Not(KRN)))
    dual = conjunction("and", sympy.Or(IMG, KRN))
    table = {boolean: boolean, SelectSemifield.max_times(): boolean, eroding: eroding, dual: dual}
    for spread in (False, True):
        table[SelectSemifield.tropical_max(spread_gradient=spread)] = boolean
        table[SelectSemifield.tropical_min_negated(spread_gradient=spread)] = eroding
        table[SelectSemifield.tropical_min(spread_gradient=spread)] = dual
    return table


class SubtractSemifield(_CompiledSemifield):
    """A semifield whose addition has an inverse."""

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
        value = _checked_zero(zero)
        functions = _times_and_derivatives(times, d_times_d_img, d_times_d_kernel)
        total = functions["add"] = _traced("add", add, "add")
        if subtract is None:
            functions["subtract"] = _inverse(
                total.xreplace({LEFT: ACC, RIGHT: VAL}), "add(acc, val)", "subtract"
            )
        else:
            functions["subtract"] = _traced("subtract", subtract, "subtract")
        if d_add_d_right is None:
            slope = derivative(total, "right", "d_add_d_right")
            functions["d_add_d_right"] = slope.xreplace({LEFT: ACC, RIGHT: VAL})
        else:
            functions["d_add_d_right"] = _traced("d_add_d_right", d_add_d_right, "d_add_d_right")
        if post_sum is not None:
            post = functions["post_sum"] = _traced("post_sum", post_sum, "post_sum")
            functions["undo_post_sum"] = (
                _inverse(post, "post_sum(acc)", "undo_post_sum")
                if undo_post_sum is None
                else _traced("undo_post_sum", undo_post_sum, "undo_post_sum")
            )
            functions["d_post_d_acc"] = (
                derivative(post, "acc", "d_post_d_acc")
                if d_post_d_acc is None
                else _traced("d_post_d_acc", d_post_d_acc, "d_post_d_acc")
            )
        elif undo_post_sum is not None or d_post_d_acc is not None:
            raise TypeError("undo_post_sum and d_post_d_acc need post_sum")
        self._define(functions, value, "sum" if total == LEFT + RIGHT else "custom")

    def _specialised(self, accumulator: str, **parameter: float) -> SubtractSemifield:
        """Marked as the one for which the kernels have an accumulator that cannot overflow."""
        (value,) = parameter.values()
        self._define(dict(self.expressions), self.zero, accumulator, value)
        return self._named(accumulator, **parameter)  # type: ignore[no-any-return]

    @classmethod
    @functools.cache
    def linear(cls) -> SubtractSemifield:
        """+, img * krn: the ordinary convolution."""
        made = cls(LEFT + RIGHT, IMG * KRN, subtract=RES - VAL, zero=0.0)
        return made._named("linear")  # type: ignore[no-any-return]

    @classmethod
    def root(cls, p: float) -> SubtractSemifield:
        """(a^p + b^p)^(1/p), img * krn: the p-norm."""
        return cls._root(_checked_parameter("p", p))

    @classmethod
    @functools.lru_cache(256)
    def _root(cls, value: float) -> SubtractSemifield:
        zero = 0.0 if value > 0 else math.inf
        p = value

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

        made = cls(add, operator.mul, subtract=subtract, d_add_d_right=d_add_d_right, zero=zero)
        return made._specialised("root", p=value)  # type: ignore[no-any-return]

    @classmethod
    def log(cls, mu: float) -> SubtractSemifield:
        """ln(e^(mu a) + e^(mu b)) / mu, img + krn: the soft maximum (mu < 0: minimum)."""
        return cls._log(_checked_parameter("mu", mu))

    @classmethod
    @functools.lru_cache(256)
    def _log(cls, value: float) -> SubtractSemifield:
        zero = -math.inf if value > 0 else math.inf
        mu = value

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

        made = cls(add, operator.add, subtract=subtract, d_add_d_right=d_add_d_right, zero=zero)
        return made._specialised("log", mu=value)  # type: ignore[no-any-return]

    add = property(lambda self: self._function("add"))
    times = property(lambda self: self._function("times"))
    d_times_d_img = property(lambda self: self._function("d_times_d_img"))
    d_times_d_kernel = property(lambda self: self._function("d_times_d_krn"))
    subtract = property(lambda self: self._function("subtract"))
    d_add_d_right = property(lambda self: self._function("d_add_d_right"))
    post_sum = property(lambda self: self._function("post_sum"))
    undo_post_sum = property(lambda self: self._function("undo_post_sum"))
    d_post_d_acc = property(lambda self: self._function("d_post_d_acc"))
    boolean_equivalent = None

    def _state(self) -> dict[str, Any]:
        arguments = dict(self.expressions)
        arguments["d_times_d_kernel"] = arguments.pop("d_times_d_krn")
        return {**arguments, "zero": self.zero}

    def _described(self) -> dict[str, str]:
        shown = ("add", "times", "post_sum")
        return {
            name: readable(self.expressions[name]) for name in shown if name in self.expressions
        }


def _inverse(expression: sympy.Expr, what: str, argument: str) -> sympy.Expr:
    """The expression in res (and val) that undoes an expression of acc."""
    message = (
        f"{argument} cannot be derived: {what} = {readable(expression)} was not solved for acc; "
        f"pass {argument} yourself"
    )
    try:
        solutions = sympy.solve(sympy.Eq(plain(expression), RES), ACC)
    except NotImplementedError:
        raise ValueError(message) from None
    samples = np.array([0.3, 0.7, 1.1, 1.9]), np.array([0.2, 0.9, 0.4, 0.6])
    names = [s.name for s in (ACC, VAL) if s in expression.free_symbols]
    forward = ArrayFunction(expression, names)
    results = forward(*samples[: len(names)])
    for solution in solutions:
        try:
            candidate = trace(solution, ("res", *names[1:]), argument)
        except TypeError:
            continue
        back = ArrayFunction(candidate, ("res", *names[1:]))
        found = back(results, *samples[1 : len(names)])
        if np.allclose(found, samples[0], rtol=1e-6):
            return candidate
    raise ValueError(message)


# ---- reductions of whole arrays ----------------------------------------------------------------


def _module(array: Any) -> Any:
    module = array_module(array)
    return np if module is None else module


def _detached(array: Any) -> Any:
    return array.detach() if hasattr(array, "detach") else array


def _axes(array: Any, dims: int | Sequence[int]) -> tuple[int, ...]:
    given = (dims,) if isinstance(dims, int) else tuple(dims)
    return tuple(sorted(dim % array.ndim for dim in given))


@dataclass(frozen=True)
class _Sum:
    def __call__(self, array: Any, dims: int | Sequence[int]) -> Any:
        return array.sum(_axes(array, dims))


@dataclass(frozen=True)
class _Extremum:
    """Maximum or minimum. In torch the gradient goes to one of equal extrema, or evenly to all."""

    largest: bool
    spread_gradient: bool = False

    def __call__(self, array: Any, dims: int | Sequence[int]) -> Any:
        module, axes = _module(array), _axes(array, dims)
        if module.__name__ != "torch" or self.spread_gradient:
            return (module.amax if self.largest else module.amin)(array, axes)
        ends = tuple(range(array.ndim - len(axes), array.ndim))
        flat = array.movedim(axes, ends).flatten(ends[0])
        return (flat.max(-1) if self.largest else flat.min(-1)).values


@dataclass(frozen=True)
class _Root:
    """(sum of |a|^p)^(1/p), scaled by the largest (p < 0: the smallest) |a| of each window, so that
    no power leaves the range; gradient 0 where all are zero."""

    p: float

    def __call__(self, array: Any, dims: int | Sequence[int]) -> Any:
        module, axes, p = _module(array), _axes(array, dims), self.p
        if p == 1:
            return array.sum(axes)
        extremum = module.amax if p > 0 else module.amin
        scale = extremum(module.abs(_detached(array)), axes)
        inside = (scale > 0) & (scale < math.inf)
        divisor = module.where(inside, scale, 1)
        ratio = array / _expanded(divisor, axes)
        ratio = module.where(_expanded(inside, axes), ratio, 1)
        if p < 1:  # the slope of x^p at 0 is infinite; there it counts as 0
            powers = module.where(ratio == 0, 0 if p > 0 else math.inf, _nonzero(ratio) ** p)
        else:
            powers = ratio**p
        return module.where(inside, powers.sum(axes) ** (1 / p) * divisor, scale)


def _expanded(array: Any, axes: tuple[int, ...]) -> Any:
    """With the reduced axes back as axes of length 1."""
    for axis in axes:
        array = array[(slice(None),) * axis + (None,)]
    return array


def _nonzero(array: Any) -> Any:
    return _module(array).where(array == 0, 1, array)


@dataclass(frozen=True)
class _Log:
    """ln(sum of e^(mu a)) / mu, relative to the extremum of each window, so that nothing overflows;
    gradient 0 where all are the zero."""

    mu: float

    def __call__(self, array: Any, dims: int | Sequence[int]) -> Any:
        module, axes, mu = _module(array), _axes(array, dims), self.mu
        extremum = (module.amax if mu > 0 else module.amin)(_detached(array), axes)
        finite = module.isfinite(extremum)
        origin = module.where(finite, extremum, 0)
        distance = module.where(_expanded(finite, axes), array - _expanded(origin, axes), 0)
        total = module.exp(mu * distance).sum(axes)
        return module.where(finite, origin + module.log(total) / mu, extremum)


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
    10000.346573590279
    """

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
        reduce = _Extremum(largest=True, spread_gradient=bool(spread_gradient))
        return cls(reduce, operator.add, -math.inf, _Sum() if channels_add else None)

    @classmethod
    def tropical_min_negated(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> BroadcastSemifield:
        """min, img - krn, as `SelectSemifield.tropical_min_negated`."""
        reduce = _Extremum(largest=False, spread_gradient=bool(spread_gradient))
        return cls(reduce, operator.sub, math.inf, _Sum() if channels_add else None)

    @classmethod
    def linear(cls) -> BroadcastSemifield:
        """+, img * krn, as `SubtractSemifield.linear`."""
        return cls(_Sum(), operator.mul, 0.0)

    @classmethod
    def root(cls, p: float) -> BroadcastSemifield:
        """The p-norm and img * krn, as `SubtractSemifield.root`."""
        value = _checked_parameter("p", p)
        return cls(_Root(value), operator.mul, 0.0 if value > 0 else math.inf)

    @classmethod
    def log(cls, mu: float) -> BroadcastSemifield:
        """The log-sum-exp and img + krn, as `SubtractSemifield.log`."""
        value = _checked_parameter("mu", mu)
        return cls(_Log(value), operator.add, -math.inf if value > 0 else math.inf)

    def dynamic(self, unfold_copy: bool = False) -> Any:
        """A torch module that computes this semifield's convolution.

        Parameters
        ----------
        unfold_copy
            Gather the windows by ``torch.nn.functional.unfold``, which copies; 2-D only. By
            default they are a strided view.
        """
        from torch_bridge.modules import SemifieldConv

        return SemifieldConv(self, lazy_fixed=False, unfold_copy=unfold_copy)

    def __repr__(self) -> str:
        reduce, channels = self.add_reduce, self.add_reduce_channels is not None
        name, keywords = None, {}
        if isinstance(reduce, _Extremum):
            name = "tropical_max" if reduce.largest else "tropical_min_negated"
            keywords = {"channels_add": channels, "spread_gradient": reduce.spread_gradient}
        elif isinstance(reduce, _Sum):
            name = "linear"
        elif isinstance(reduce, _Root | _Log):
            name = "root" if isinstance(reduce, _Root) else "log"
            keywords = vars(reduce)
        if name is not None and self == getattr(BroadcastSemifield, name)(**keywords):
            shown = (f"{key}={value!r}" for key, value in keywords.items() if value is not False)
            return f"BroadcastSemifield.{name}({', '.join(shown)})"
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
    if name in ("log", "root"):
        parameter = {"log": "mu", "root": "p"}[name]
        raise ValueError(
            f"semifield={name!r} needs its parameter: pass SubtractSemifield.{name}({parameter})"
        )
    raise ValueError(f"semifield={name!r} is unknown; the names are {', '.join(_NAMED)}")
