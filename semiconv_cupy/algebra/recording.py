"""A symbolic value that records, as a SymPy expression, every operation done to it.

`tracing.py` runs a semifield's functions on such values. The meanings of the operations are in
`functions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy

from semiconv_cupy.algebra.arrays import array_module
from semiconv_cupy.algebra.functions import FUNCTIONS, ExpressionError, normalised
from semiconv_cupy.algebra.printing import readable

BRANCH_REMEDY = (
    "write semiconv_cupy.where(condition, a, b) instead, and combine conditions with & | ~"
)
FUNCTION_REMEDY = (
    "use arithmetic, min, max, abs, semiconv_cupy.where, or the elementary functions of math, "
    "numpy or torch (exp, log, sqrt, sin, tanh, erf, ...)"
)
SCALARS = "a semifield's values are scalars, no pairs or vectors"


def is_symbolic(value: Any) -> bool:
    """Whether a value stands for a number that is not known yet."""
    return isinstance(value, Traced | sympy.Basic)


def to_sympy(value: Any) -> sympy.Basic:
    """A number, 0-d array, traced value or SymPy expression as a SymPy expression."""
    if isinstance(value, Traced):
        return value.expression
    if isinstance(value, sympy.Basic):
        return normalised(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | np.bool_):
        return sympy.true if value else sympy.false
    if isinstance(value, int):
        return sympy.Integer(value)
    if isinstance(value, float):
        if math.isnan(value):
            raise ExpressionError("a constant is NaN")
        if math.isinf(value):
            return sympy.oo if value > 0 else -sympy.oo
        return sympy.Float(value, precision=53)
    if isinstance(value, complex):
        raise ExpressionError(f"{value!r} is complex; a semifield's values are real numbers")
    shape = getattr(value, "shape", None)
    described = f"an array of shape {tuple(shape)}" if shape is not None else repr(value)
    remedy = "only numbers and 0-d arrays can be captured"
    if isinstance(value, tuple | list | dict | np.ndarray) and shape in (None, (len(value),)):
        remedy = f"{remedy}, and {SCALARS}"
    raise ExpressionError(f"{described} is not a scalar: {remedy}")


def record(name: str, arguments: Sequence[Any], keywords: dict[str, Any] | None = None) -> Traced:
    """The symbolic result of the function that NumPy, math, torch or SymPy call `name`."""
    function = FUNCTIONS.get(name)
    if function is None:
        raise ExpressionError(f"the function {name!r} cannot be traced: {FUNCTION_REMEDY}")
    converted = [None if value is None else to_sympy(value) for value in arguments]
    named = {
        key: None if value is None else to_sympy(value)
        for key, value in (keywords or {}).items()
        if key != "out" or value is not None
    }
    try:
        return Traced(to_sympy(function(*converted, **named)))
    except ExpressionError:
        raise
    except (TypeError, AttributeError) as error:
        shown = ", ".join(map(str, converted))
        raise ExpressionError(f"{name}({shown}) cannot be traced: {error}") from None


class Traced:
    """A symbolic value; each operation on it gives another, with the expression of the result."""

    __slots__ = ("expression",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expression: sympy.Basic) -> None:
        self.expression = expression

    def __repr__(self) -> str:
        return readable(self.expression)

    def _sympy_(self) -> sympy.Basic:
        return self.expression

    def __bool__(self) -> bool:
        if self.expression in (sympy.true, sympy.false):
            return bool(self.expression)
        raise ExpressionError(
            f"a Python branch (if, and, or, not, a chained comparison) depends on the value of "
            f"{self!r}: {BRANCH_REMEDY}"
        )

    def _no_number(self, *_: Any) -> Any:
        raise ExpressionError(
            f"{self!r} was asked for its number (by float(), int(), round() or a function that "
            f"cannot be traced): {FUNCTION_REMEDY}"
        )

    __float__ = __int__ = __index__ = __complex__ = _no_number
    __array__ = _no_number

    def __round__(self, digits: int | None = None) -> Any:
        return self._no_number() if digits else record("round", [self])

    def _no_vector(self, *_: Any) -> Any:
        raise ExpressionError(f"{self!r} cannot be indexed or unpacked: {SCALARS}")

    __iter__ = __getitem__ = __len__ = _no_vector

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Traced:
        if method != "__call__":
            raise ExpressionError(f"numpy.{ufunc.__name__}.{method} cannot be traced")
        return record(ufunc.__name__, inputs, keywords)

    def __array_function__(self, function: Any, _types: Any, args: Any, keywords: Any) -> Traced:
        return record(function.__name__, args, keywords)

    @classmethod
    def __torch_function__(
        cls, function: Any, _types: Any, args: Any = (), keywords: Any = None
    ) -> Traced:
        return record(function.__name__.strip("_"), args, keywords)

    def __neg__(self) -> Traced:
        return record("negative", [self])

    def __pos__(self) -> Traced:
        return self

    def __abs__(self) -> Traced:
        return record("abs", [self])

    def __invert__(self) -> Traced:
        return record("logical_not", [self])

    def __floor__(self) -> Traced:
        return record("floor", [self])

    def __ceil__(self) -> Traced:
        return record("ceil", [self])

    def __trunc__(self) -> Traced:
        return record("trunc", [self])


def _operator(name: str, swapped: bool) -> Callable[..., Any]:
    def operator(self: Traced, other: Any) -> Any:
        return record(name, [other, self] if swapped else [self, other])

    return operator


for _method, _name in (
    ("add", "add"),
    ("sub", "subtract"),
    ("mul", "multiply"),
    ("truediv", "divide"),
    ("floordiv", "floor_divide"),
    ("mod", "remainder"),
    ("pow", "power"),
    ("and", "logical_and"),
    ("or", "logical_or"),
    ("xor", "logical_xor"),
):
    setattr(Traced, f"__{_method}__", _operator(_name, swapped=False))
    setattr(Traced, f"__r{_method}__", _operator(_name, swapped=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Traced, f"__{_name}__", _operator(_name, swapped=False))


def where(condition: Any, a: Any, b: Any) -> Any:
    """Choose without branching: a where the condition holds, else b.

    Use it in place of a Python conditional inside a semifield's functions. It works on the symbols
    of tracing, on NumPy and CuPy arrays and torch tensors, and on plain numbers.

    Parameters
    ----------
    condition, a, b
        Scalars, arrays or symbols; arrays broadcast.

    Returns
    -------
    scalar, array or symbol
        Of the shape to which the three broadcast.

    See Also
    --------
    SelectSemifield, SubtractSemifield : Whose functions may use it.

    Examples
    --------
    >>> where(2 > 1, 10, 20)
    10
    >>> where(np.array([True, False]), 1.0, 2.0)
    array([1., 2.])
    """
    if any(map(is_symbolic, (condition, a, b))):
        return record("where", [condition, a, b])
    module = array_module(condition, a, b)
    if module is None:
        return a if condition else b
    return module.where(condition, a, b)
