"""The base of the semifields that are compiled into kernels: selections and sums.

A semifield is written once, as scalar Python functions. `tracing.py` makes SymPy expressions of
them, `cpp.py` prints these as C++, `arrays.py` makes array functions of them, `traits.py`
recognises the cases for which kernels have quicker ways, and `laws.py` tests the laws.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import sympy

from semiconv_cupy.algebra import laws
from semiconv_cupy.algebra.arrays import ArrayFunction
from semiconv_cupy.algebra.calculus import derivative, zero_where_a_factor_is
from semiconv_cupy.algebra.cpp import cpp_floating
from semiconv_cupy.algebra.functions import exact_number, symbol
from semiconv_cupy.algebra.parametric import Parametric
from semiconv_cupy.algebra.printing import readable
from semiconv_cupy.algebra.signatures import ARGUMENTS, PARAMETERS
from semiconv_cupy.algebra.tracing import trace
from semiconv_cupy.algebra.traits import Traits, absorbs, derivatives_are_factors, traits_of
from semiconv_cupy.modules import compiled_module
from semiconv_cupy.once import cached_property

ScalarFunction: TypeAlias = Callable[..., Any] | sympy.Basic
Accumulator: TypeAlias = Literal["select", "sum", "log", "root", "custom"]


class CompiledSemifield(Parametric):
    """A semifield that is compiled into kernels. It is immutable; equality compares `content`.

    Attributes
    ----------
    zero : float
        The neutral element of the addition.
    cache_name : str or None
        As it was passed; equality ignores it.
    accumulator : {"select", "sum", "log", "root", "custom"}
        How kernels add.
    parameter : float or None
        mu of "log", p of "root"; None of an `unbound` semifield.
    parameters : mapping
        The numbers that launches of kernels receive, by name: ``{"mu": 2.0}``. No text that is
        compiled contains them.
    own : tuple of str
        The names of parameters that the user gave it; `unbound` has these, and no values.
    nature : str
        What of a root's p decides how it is computed, one of a few words; "" of all others.
    expressions : mapping
        The scalar functions as SymPy expressions, by name.
    content : tuple
        Class, formulas, zero, accumulator, parameter and flags: what equality and hash compare.
    channels_add, spread_gradient : bool
        True in selections only: channels are summed by ordinary +; equal extrema share the
        gradient.
    boolean_equivalent : SelectSemifield or None
        The semifield whose or/and arithmetic serves bool arrays; None where there is none.
    """

    zero: float
    cache_name: str | None
    accumulator: Accumulator
    parameter: float | None
    expressions: Mapping[str, Any]
    content: tuple[Any, ...]
    nature: str = ""
    channels_add: bool = False
    spread_gradient: bool = False
    boolean_equivalent: Any
    _hash: int
    _recipe: tuple[str, dict[str, Any]] | None  # the class method that made it, its arguments

    def _define(
        self,
        functions: dict[str, Any],
        zero: float,
        accumulator: Accumulator,
        parameter: float | None = None,
        cache_name: str | None = None,
        own: tuple[str, ...] = (),
        **flags: bool,
    ) -> None:
        """Set every attribute; `functions` become `expressions`."""
        texts = tuple((name, sympy.srepr(functions[name])) for name in sorted(functions))
        options = tuple(sorted(flags.items()))
        content: tuple[Any, ...] = (
            *(type(self).__name__, texts, zero, accumulator, parameter, options),
            *([own] if own else []),  # keys of saved programs follow from the content of the others
        )
        vars(self).update(
            expressions=types.MappingProxyType(functions),
            zero=zero,
            cache_name=cache_name,
            accumulator=accumulator,
            parameter=parameter,
            content=content,
            _hash=hash(content),
            _recipe=None,
            own=own,
            **flags,
        )

    @property
    def stated(self) -> tuple[Any, ...]:
        """`content` with all formulas, as keys of saved programs follow from it."""
        if self.unbound is self or self.own:
            return self.content
        texts = tuple(
            (name, sympy.srepr(self.expressions[name])) for name in sorted(self.expressions)
        )
        return (type(self).__name__, texts, self.zero, self.accumulator, self.parameter, ())

    def with_expressions(self, expressions: Mapping[str, Any]) -> Any:
        """The same kind of semifield, without values of its parameters, of other formulas."""
        made = type(self).__new__(type(self))
        options: dict[str, Any] = {"own": self.own, **self._flags()}
        made._define(dict(expressions), self.zero, self.accumulator, **options)
        return made

    def _flags(self) -> dict[str, bool]:
        """The options of the kind."""
        return {}

    def _made_by(self, name: str, **keywords: Any) -> None:
        """Remember the class method that makes this semifield, for repr and pickles."""
        vars(self)["_recipe"] = (name, keywords)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed: {name}")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, CompiledSemifield):
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
        if self.own and not self.parameters:
            return _unbound_of, (self.of_values([1.0] * len(self.own)),)
        return _rebuilt, (type(self), self._arguments())

    def _arguments(self) -> dict[str, Any]:
        """Constructor arguments of an equal semifield, with expressions in place of callables.

        Expressions can be pickled, lambdas cannot.
        """
        functions = {ARGUMENTS.get(name, name): f for name, f in self.expressions.items()}
        own = {"parameters": dict(self.parameters)} if self.own else {}
        return {**functions, "zero": self.zero, "cache_name": self.cache_name, **own}

    def __repr__(self) -> str:
        if self._recipe is not None:
            name, keywords = self._recipe
            if name == "_family":
                parameter = "mu" if self.accumulator == "log" else "p"
                return f"{type(self).__name__}.{self.accumulator}({parameter})"
            return f"{type(self).__name__}.{name}({shown_keywords(keywords)})"
        texts = {
            ARGUMENTS.get(name, name): readable(self.expressions[name])
            for name in ("select", "add", "times", "post_sum")
            if name in self.expressions
        }
        flags = {name: value for name, value in self._arguments().items() if value is True}
        parts = [f"{name}={text}" for name, text in texts.items()]
        parts += [f"zero={self.zero!r}", *([shown_keywords(flags)] if flags else [])]
        if self.own:
            parts.append(f"parameters={dict(self.parameters) or self.own!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def word(self) -> str:
        """An identifier for the lists of a profiler; different semifields may share it.

        Examples
        --------
        >>> from semiconv_cupy import SubtractSemifield
        >>> SubtractSemifield.log(-2).word
        'log_mu_minus_2_0'
        """
        if self._recipe is None:
            return "selection" if self.accumulator == "select" else self.accumulator
        name, keywords = self._recipe
        if name == "_family":
            return self.accumulator
        flags = [key if value is True else f"{key}_{value!r}" for key, value in keywords.items()]
        return re.sub(r"\W+", "_", "_".join([name, *flags]).replace("-", "minus_"))

    @cached_property
    def functions(self) -> types.SimpleNamespace:
        """The scalar functions on numbers, NumPy and CuPy arrays, by the names of `expressions`."""
        if self.own and not self.parameters:
            raise TypeError(f"{self!r} has no values of its parameters; use with_parameters")
        made = {
            name: ArrayFunction(
                expression,
                PARAMETERS[name],
                never_nan="right" if name == "select" else None,
                own=self.parameters if self.own else None,
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
        """Whether its numbers may all be >= 0: the zero is 0, or it is a root."""
        return self.zero == 0 or self.accumulator == "root"

    @property
    def whole_power(self) -> bool:
        """Whether it is a root of a small whole p: then powers are products."""
        return self.nature in ("first", "second", "third", "fourth", "whole")

    @cached_property
    def d_times_constant(self) -> bool:
        """Whether both derivatives of times are constants: backward needs neither img nor krn."""
        return not any(
            self.unbound.expressions[name].free_symbols
            for name in ("d_times_d_img", "d_times_d_krn")
        )

    @cached_property
    def differentiates_by_factors(self) -> bool:
        """Whether it is the ordinary convolution, each term's derivatives its other factors."""
        ordinary = self.traits("floating").is_ordinary
        return ordinary and derivatives_are_factors(self.unbound.expressions)

    @cached_property
    def absorbing(self) -> bool:
        """Whether a tap that meets the zero changes nothing, for every finite kernel value.

        Then padding an image with the zero is the same as leaving those taps out. A selection never
        takes such a tap; a sum gets exactly the zero. A custom addition is not trusted: its formula
        may round or overflow where it meets the zero. Of log and root this holds for a positive
        parameter; kernels know its sign.
        """
        if self.accumulator == "root" and self.zero != 0:
            return False  # inf * 0
        if self.own:  # a value may be infinite, in an array
            return False
        known = self.unbound
        return absorbs(known.expressions, known.accumulator, known.zero)

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
        >>> from semiconv_cupy import SelectSemifield
        >>> SelectSemifield.tropical_max().definitions("integer")["SEMICONV_TIMES"]
        'saturating_add(img, krn)'
        """
        if arithmetic not in ("floating", "integer", "bool"):
            raise ValueError(
                f"arithmetic must be 'floating', 'integer' or 'bool', got arithmetic={arithmetic!r}"
            )
        if self.unbound is not self:
            found: dict[str, str] = self.unbound.definitions(arithmetic)
            return found
        if arithmetic not in self._definitions:
            printed = {
                "floating": self._floating_definitions,
                "integer": self._integer_definitions,
                "bool": self._bool_definitions,
            }
            self._definitions[arithmetic] = printed[arithmetic]()
        return dict(self._definitions[arithmetic])

    def as_kernels_call(self, expression: Any) -> Any:
        """An expression in which parameters are called as kernels know them."""
        own = {symbol(name): symbol(f"own<V, {n}>(setting)") for n, name in enumerate(self.own)}
        return expression.xreplace(own)

    def _floating_definitions(self) -> dict[str, str]:
        texts = {
            f"SEMICONV_{name.upper()}": cpp_floating(self.as_kernels_call(expression))
            for name, expression in self.expressions.items()
            if name != "undo_post_sum"  # no kernel reads it
        }
        if self.accumulator not in ("log", "root"):  # theirs follows from the parameter
            texts["SEMICONV_ZERO"] = cpp_floating(exact_number(self.zero))
        return texts

    def _integer_definitions(self) -> dict[str, str]:
        raise TypeError(f"{self!r} works on floating arrays only; integers need a SelectSemifield")

    def _bool_definitions(self) -> dict[str, str]:
        raise TypeError(f"{self!r} works on floating arrays only; bool needs a SelectSemifield")

    @cached_property
    def _traits(self) -> dict[str, Traits]:
        return {}

    def traits(self, arithmetic: str) -> Traits:
        """What the semifield is in this arithmetic: plain max, sums of products, ...

        Parameters and errors as in `definitions`.

        Examples
        --------
        >>> from semiconv_cupy import SelectSemifield
        >>> SelectSemifield.tropical_max().traits("floating").takes
        'greater'
        """
        if self.unbound is not self:
            found: Traits = self.unbound.traits(arithmetic)
            return found
        if arithmetic not in self._traits:
            if arithmetic != "floating":
                self.definitions(arithmetic)  # raises where the semifield has no meaning in it
            meant = self.boolean_equivalent if arithmetic == "bool" else self
            self._traits[arithmetic] = traits_of(
                meant.expressions, self.accumulator, self.zero, arithmetic
            )
        return self._traits[arithmetic]

    def check(
        self, samples: int = 200, seed: int = 0, domain: tuple[float, float] | None = None
    ) -> laws.LawReport:
        """Test the laws of a semifield, and the derivatives, on random numbers and at ties.

        Parameters
        ----------
        samples : int
            How many numbers are drawn for each variable.
        seed : int
            Seed of the random numbers.
        domain : (float, float), optional
            The interval of the semifield's set to draw from. By default (0.1, 4) where
            `of_positive_numbers`, else (-4, 4).

        Returns
        -------
        LawReport
            Prints one line for each law, with a counterexample where the law fails. ``.ok`` (and
            ``.raise_if_failed()``) says whether the semifield is enough for a convolution,
            ``.is_semifield`` whether its multiplication has all laws too.

        Examples
        --------
        >>> from semiconv_cupy import SelectSemifield
        >>> SelectSemifield.tropical_max().check().ok
        True
        """
        return laws.check(self, samples, seed, domain)


def _rebuilt(maker: Callable[..., Any], keywords: dict[str, Any]) -> Any:
    """What pickles call."""
    return maker(**keywords)


def _unbound_of(semifield: CompiledSemifield) -> Any:
    return semifield.unbound


def shown_keywords(keywords: Mapping[str, Any]) -> str:
    """Keyword arguments as a call shows them."""
    return ", ".join(f"{name}={value!r}" for name, value in keywords.items())


def traced(name: str, function: ScalarFunction, own: Sequence[str] = ()) -> Any:
    """The expression of a function that a user passed; `name` is one of `PARAMETERS`."""
    argument = ARGUMENTS.get(name, name)
    return trace(function, PARAMETERS[name], argument, condition=name == "select", own=own)


def times_and_derivatives(
    times: ScalarFunction,
    d_img: ScalarFunction | None,
    d_krn: ScalarFunction | None,
    own: Sequence[str] = (),
) -> dict[str, Any]:
    """The expressions of a multiplication and its derivatives; those that are None are derived."""
    product = traced("times", times, own)
    functions = {"times": product}
    for name, given, by in (("d_times_d_img", d_img, "img"), ("d_times_d_krn", d_krn, "krn")):
        if given is None:
            slope = derivative(product, by, ARGUMENTS.get(name, name))
            functions[name] = zero_where_a_factor_is(slope)
        else:
            functions[name] = traced(name, given, own)
    return functions


def module_of(semifield: Any, lazy_fixed: bool, *tuning: Any) -> Any:
    """The torch module of a semifield; `tuning` are the arguments that `dynamic` documents."""
    names = ("thread_block_size", "to_extension", "debug", "kernel_inflation")
    options = dict(zip(names, tuning, strict=True))
    return compiled_module(semifield, lazy_fixed=lazy_fixed, **options)
