"""Semifields whose addition has an inverse: sums, the log-sum-exp, p-norms."""

from __future__ import annotations

import functools
import math
import operator
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from semiconv_cupy.algebra.arguments import checked_parameter, checked_zero
from semiconv_cupy.algebra.arrays import ArrayFunction
from semiconv_cupy.algebra.calculus import SAMPLES, derivative, inverse
from semiconv_cupy.algebra.compiled import (
    Accumulator,
    CompiledSemifield,
    ScalarFunction,
    module_of,
    times_and_derivatives,
    traced,
)
from semiconv_cupy.algebra.own import checked_parameters
from semiconv_cupy.algebra.printing import readable
from semiconv_cupy.algebra.recording import where
from semiconv_cupy.algebra.signatures import ACC, LEFT, PARAMETERS, RES, RIGHT, VAL
from semiconv_cupy.once import cached_property


class SubtractSemifield(CompiledSemifield):
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
    parameters : mapping of names to numbers, optional
        At most four numbers that functions take by name and kernels receive with each call, as
        ``times=lambda img, krn, a: a * img + krn`` with ``parameters={"a": 1.0}``. Calls give
        others as keywords, as `semifield_conv` documents ``mu``; nothing is compiled for them.

    Raises
    ------
    TypeError
        Where a function cannot be traced, or takes a name that `parameters` does not have.
    ValueError
        Where subtract is needed and left out, and SymPy cannot solve for it. A parameter that is
        not finite, or has the name of an argument of functions or calls.

    See Also
    --------
    SelectSemifield : An addition that picks one of its arguments.
    BroadcastSemifield : Functions of whole arrays.
    where : In place of branches.

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
        parameters: Mapping[str, float] | None = None,
    ) -> None:
        values = {} if parameters is None else checked_parameters(parameters)
        own = tuple(values)
        functions = times_and_derivatives(times, d_times_d_img, d_times_d_kernel, own)
        total = functions["add"] = traced("add", add, own)
        as_acc_and_val = {LEFT: ACC, RIGHT: VAL}
        plain = total == LEFT + RIGHT
        if subtract is None and plain:
            functions["subtract"] = RES - VAL
        elif subtract is None:
            functions["subtract"] = _inverse(
                total.xreplace(as_acc_and_val), "subtract", "add", values
            )
        else:
            functions["subtract"] = traced("subtract", subtract, own)
        if d_add_d_right is None:
            slope = derivative(total, "right", "d_add_d_right")
            functions["d_add_d_right"] = slope.xreplace(as_acc_and_val)
        else:
            functions["d_add_d_right"] = traced("d_add_d_right", d_add_d_right, own)
        if post_sum is not None:
            post = functions["post_sum"] = traced("post_sum", post_sum, own)
            if undo_post_sum is not None:  # no kernel reads it
                functions["undo_post_sum"] = traced("undo_post_sum", undo_post_sum, own)
            functions["d_post_d_acc"] = (
                derivative(post, "acc", "d_post_d_acc")
                if d_post_d_acc is None
                else traced("d_post_d_acc", d_post_d_acc, own)
            )
        elif undo_post_sum is not None or d_post_d_acc is not None:
            raise TypeError("undo_post_sum and d_post_d_acc need post_sum, which is None")
        accumulator: Accumulator = "sum" if plain else "custom"
        self._define_with(values, functions, checked_zero(zero), accumulator, cache_name=cache_name)

    @classmethod
    def named_family(cls, name: str) -> SubtractSemifield:
        """The "log" or the "root" without a value of its parameter: each call passes one."""
        if name not in ("log", "root"):
            raise ValueError(f"name must be 'log' or 'root', got {name!r}")
        return cls._family("log" if name == "log" else "root")

    @classmethod
    def _family(cls, accumulator: Accumulator, nature: str = "") -> SubtractSemifield:
        """Log or root without a value of its parameter; the zero is that of a positive one."""
        found: SubtractSemifield = _family(cls, accumulator, nature)  # type: ignore[arg-type]
        return found

    @classmethod
    def _bound(cls, accumulator: Accumulator, name: str, value: float) -> SubtractSemifield:
        """Log or root of a value; formulas are traced where they are first read."""
        nature = "" if accumulator == "log" else _nature(value)
        if accumulator == "log":
            zero = -math.inf if value > 0 else math.inf
        else:
            zero = 0.0 if value > 0 else math.inf
        made = cls.__new__(cls)
        content = (cls.__name__, accumulator, value)
        vars(made).update(
            zero=zero,
            cache_name=None,
            accumulator=accumulator,
            parameter=value,
            parameters=types.MappingProxyType({name: value}),
            nature=nature,
            content=content,
            _hash=hash(content),
            _recipe=(accumulator, {name: value}),
            _unbound=cls._family(accumulator, nature),
        )
        return made

    @cached_property
    def expressions(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The scalar functions: of log and root those of one value of the parameter."""
        formulas = _log_formulas if self.accumulator == "log" else _root_formulas
        value = self.parameter or math.nan
        found: Mapping[str, Any] = formulas(type(self), value, self.zero).expressions
        return found

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
            Of a tensor that requires a gradient: pass it as ``p=`` of a call instead.

        Examples
        --------
        >>> SubtractSemifield.root(2.0).add(3.0, 4.0)
        5.0
        """
        return cls._bound("root", "p", checked_parameter("p", p))

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
            Of a tensor that requires a gradient: pass it as ``mu=`` of a call instead.

        Examples
        --------
        >>> SubtractSemifield.log(1.0).add(0.0, 0.0)
        0.6931471805599453
        """
        return cls._bound("log", "mu", checked_parameter("mu", mu))

    @property
    def _functions_of_value(self) -> types.SimpleNamespace:
        """`functions`; TypeError for a log or root of no value, which has no addition."""
        if self.accumulator in ("log", "root") and self.parameter is None:
            raise TypeError(
                f"{self!r} has no value of its parameter: "
                f"SubtractSemifield.{self.accumulator}(2.0) has one"
            )
        return self.functions

    @property
    def add(self) -> ArrayFunction:
        """The addition, as a function of numbers or arrays."""
        return self._functions_of_value.add  # type: ignore[no-any-return]

    @property
    def subtract(self) -> ArrayFunction:
        """The inverse of the addition, as a function of ``res`` and ``val``."""
        return self._functions_of_value.subtract  # type: ignore[no-any-return]

    @property
    def d_add_d_right(self) -> ArrayFunction:
        """The derivative of ``add(acc, val)`` by ``val``."""
        return self._functions_of_value.d_add_d_right  # type: ignore[no-any-return]

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
        inverse = _inverse(
            self.expressions["post_sum"], "undo_post_sum", "post_sum", self._own_values
        )
        return ArrayFunction(inverse, PARAMETERS["undo_post_sum"], own=self._own_values)

    @property
    def _own_values(self) -> Mapping[str, float]:
        return self.parameters if self.own else {}

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
        return module_of(self, False, thread_block_size, to_extension, debug, kernel_inflation)

    def lazy_fixed(
        self,
        thread_block_size: int = 256,
        to_extension: bool = False,
        debug: bool = False,
        kernel_inflation: int = 16,
    ) -> Any:
        """As `SelectSemifield.lazy_fixed`."""
        return module_of(self, True, thread_block_size, to_extension, debug, kernel_inflation)


@functools.cache
def _family(cls: Any, accumulator: Accumulator, nature: str) -> Any:
    multiplication = operator.add if accumulator == "log" else operator.mul
    made = cls.__new__(cls)
    zero = -math.inf if accumulator == "log" else 0.0
    made._define(times_and_derivatives(multiplication, None, None), zero, accumulator)
    content = (cls.__name__, accumulator, nature, "unbound")
    vars(made).update(content=content, _hash=hash(content), nature=nature)
    made._made_by("_family", accumulator=accumulator, nature=nature)
    return made


def _nature(p: float) -> str:
    """What of p decides how a root is computed: `Kind` of ``kernels_cu/setting.cuh``."""
    if -1 < p < 1:
        return "flat_up" if p > 0 else "flat_down"
    if not p.is_integer() or abs(p) > 16:
        return "other"
    return {1: "first", 2: "second", 3: "third", 4: "fourth"}.get(int(p), "whole")


def _root_formulas(cls: Any, p: float, zero: float) -> Any:
    """A semifield of the formulas of root(p)."""

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

    return cls(add, operator.mul, subtract=subtract, d_add_d_right=d_add_d_right, zero=zero)


def _log_formulas(cls: Any, mu: float, zero: float) -> Any:
    """A semifield of the formulas of log(mu)."""

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

    return cls(add, operator.add, subtract=subtract, d_add_d_right=d_add_d_right, zero=zero)


# What an error tells the user to pass.
_HOW_TO_UNDO = {
    "subtract": "lambda res, val: ..., the acc with add(acc, val) == res",
    "undo_post_sum": "lambda res: ..., the acc with post_sum(acc) == res",
}


def _selects(addition: Any, own: Mapping[str, float]) -> bool:
    """Whether an addition of acc and val always gives one of them."""
    grid = np.linspace(-2, 2, 9)
    acc, val = (axis.ravel() for axis in np.meshgrid(grid, grid))
    total = ArrayFunction(addition, ("acc", "val"), own=own)(acc, val)
    return bool(((total == acc) | (total == val)).all())


def _ready_made_sum(addition: Any, own: Mapping[str, float]) -> str | None:
    """The call that makes the log or root whose addition this is, in acc and val."""
    add = ArrayFunction(addition, ("acc", "val"), own=own)
    acc, val = np.meshgrid(*SAMPLES)
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


def _inverse(expression: Any, argument: str, function: str, own: Mapping[str, float]) -> Any:
    """The inverse of an addition or of post_sum, or the error that names the argument to pass."""
    found = inverse(expression, argument, own)
    if found is not None:
        return found
    remedy = f"pass {argument}={_HOW_TO_UNDO[argument]}"
    if argument == "subtract":
        ready_made = _ready_made_sum(expression, own)
        if _selects(expression, own):
            remedy = "it picks one of its arguments, which cannot be undone: use SelectSemifield"
        elif ready_made is not None:
            remedy += f", or use {ready_made}, which is this addition and cannot overflow"
    names = [name for name in ("acc", "val") if name == "acc" or VAL in expression.free_symbols]
    raise ValueError(
        f"{argument} is missing, and {function}({', '.join(names)}) = {readable(expression)} could "
        f"not be solved for acc; {remedy}"
    )
