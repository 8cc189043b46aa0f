"""Semifields whose addition picks one of its arguments, as max and min do."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import sympy

from semiconv_cupy.algebra.arguments import checked_flags, checked_zero
from semiconv_cupy.algebra.arrays import ArrayFunction
from semiconv_cupy.algebra.compiled import (
    CompiledSemifield,
    ScalarFunction,
    module_of,
    times_and_derivatives,
    traced,
)
from semiconv_cupy.algebra.cpp import cpp_bool, cpp_integer, largest_on_the_way, needs_wide
from semiconv_cupy.algebra.functions import Minimum, exact_number
from semiconv_cupy.algebra.own import checked_parameters
from semiconv_cupy.algebra.signatures import IMG, KRN, LEFT, RIGHT
from semiconv_cupy.once import cached_property


def _made_once(make: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a class method of two flags so that equal flags, positional or not, give one object."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def made(cls: type, channels_add: bool = False, spread_gradient: bool = False) -> Any:
        return cached(cls, **checked_flags(channels_add, spread_gradient))

    return made


class SelectSemifield(CompiledSemifield):
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
    parameters : mapping of names to numbers, optional
        As of `SubtractSemifield`, for floating arrays. Of one that only `add_select` takes the
        derivative is 0: it decides which term is the result, and not its value.

    Raises
    ------
    TypeError
        Where a function cannot be traced, or takes a name that `parameters` does not have; the
        message says what to write.
    ValueError
        A parameter that is not finite, or has the name of an argument of functions or calls.

    See Also
    --------
    SubtractSemifield : An addition that has an inverse, such as + or the log-sum-exp.
    BroadcastSemifield : Functions of whole arrays.
    where : In place of branches.

    Notes
    -----
    Integer arrays are computed exactly and saturate; bool arrays work where `boolean_equivalent`
    says how.

    References
    ----------
    J. S. Golan, "Semirings and their Applications", Kluwer, 1999.

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
        parameters: Mapping[str, float] | None = None,
    ) -> None:
        values = {} if parameters is None else checked_parameters(parameters)
        own = tuple(values)
        self._define_with(
            values,
            {
                "select": traced("select", add_select, own),
                **times_and_derivatives(times, d_times_d_img, d_times_d_kernel, own),
            },
            checked_zero(zero),
            "select",
            cache_name=cache_name,
            **checked_flags(channels_add, spread_gradient),
        )

    def _flags(self) -> dict[str, bool]:
        return checked_flags(self.channels_add, self.spread_gradient)

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), **self._flags()}

    def _made(self, name: str) -> SelectSemifield:
        flags = checked_flags(self.channels_add, self.spread_gradient)
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
        flags = checked_flags(channels_add, spread_gradient)
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
        flags = checked_flags(channels_add, spread_gradient)
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
        flags = checked_flags(channels_add, spread_gradient)
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

    @cached_property
    def by_one_winner(self) -> SelectSemifield:
        """The same selection, each output of which is one term, the first of equal ones."""
        if not (self.spread_gradient or self.channels_add):
            return self
        flags = checked_flags(channels_add=False, spread_gradient=False)
        if self._recipe is not None:
            name, keywords = self._recipe
            made: SelectSemifield = getattr(type(self), name)(**{**keywords, **flags})
            return made
        if self.own:
            one = type(self).__new__(type(self))
            one._define(dict(self.expressions), self.zero, "select", own=self.own, **flags)
            return one.of_values(self.parameters.values()) if self.parameters else one
        return SelectSemifield(**{**self._arguments(), **flags})

    @property
    def boolean_equivalent(self) -> SelectSemifield | None:
        """The semifield that or/and arithmetic uses for bool arrays, None where there is none.

        In a bool kernel True means one, that is, 0 of the tropical semifields, and False zero.
        """
        return _boolean_equivalents().get(self)

    def _floating_definitions(self) -> dict[str, str]:
        texts = super()._floating_definitions()
        strict = (RIGHT > LEFT, LEFT < RIGHT, RIGHT < LEFT, LEFT > RIGHT)
        if self.expressions["select"] not in strict:  # these comparisons are False for NaN
            texts["SEMICONV_SELECT"] += " & (right == right)"
        return texts

    def _integer_definitions(self) -> dict[str, str]:
        self._require_no_own("integer")
        try:
            return {
                "SEMICONV_SELECT": cpp_integer(self.expressions["select"]),
                "SEMICONV_TIMES": cpp_integer(self.expressions["times"]),
                "SEMICONV_ZERO": cpp_integer(self._integer_zero),
            }
        except TypeError as error:
            raise TypeError(f"{self!r} cannot work on integer arrays: {error}") from None

    def largest_on_the_way(self, largest: int) -> int:
        """A limit of what the functions compute from integers up to `largest` in wider numbers.

        0 where they compute nothing in wider numbers.
        """
        formulas = (self.expressions["select"], self.expressions["times"], self._integer_zero)
        wide = (largest_on_the_way(one, largest) for one in formulas if needs_wide(one))
        return max(wide, default=0)

    @property
    def _integer_zero(self) -> sympy.Expr:
        """The zero; beyond all integer dtypes it is as infinite, and saturates."""
        zero = self.zero if abs(self.zero) < 2.0**64 else math.copysign(math.inf, self.zero)
        return exact_number(zero)

    def _require_no_own(self, kind: str) -> None:
        if self.own:
            raise TypeError(
                f"{self!r} cannot work on {kind} arrays: its parameters are real numbers; close "
                "over them instead"
            )

    def _bool_definitions(self) -> dict[str, str]:
        self._require_no_own("bool")
        equivalent = self.boolean_equivalent
        if equivalent is None:
            raise TypeError(f"{self!r} cannot work on bool arrays: it has no or/and equivalent")
        return {
            "SEMICONV_SELECT": cpp_bool(equivalent.expressions["select"]),
            "SEMICONV_TIMES": cpp_bool(equivalent.expressions["times"]),
            "SEMICONV_ZERO": cpp_bool(exact_number(equivalent.zero)),
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
        return module_of(self, False, thread_block_size, to_extension, debug, kernel_inflation)

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
        return module_of(self, True, thread_block_size, to_extension, debug, kernel_inflation)


@functools.cache
def _boolean_equivalents() -> dict[SelectSemifield, SelectSemifield]:
    """The or/and arithmetic of each semifield that has one."""

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
