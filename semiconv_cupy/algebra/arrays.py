"""SymPy expression -> function of NumPy or CuPy arrays; which library arrays belong to."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import sympy
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

from semiconv_cupy.algebra.printing import PythonPrinter, readable
from semiconv_cupy.once import cached_property


def _library(argument: Any) -> str:
    for name, kind in (("torch", "Tensor"), ("cupy", "ndarray")):
        module = sys.modules.get(name)
        if module is not None and isinstance(argument, getattr(module, kind, ())):
            return name
    return "numpy"


def array_module(*arguments: Any) -> Any:
    """The module (numpy, cupy or torch) of the arrays among the arguments; None for scalars alone.

    Raises
    ------
    TypeError
        Where arrays of two libraries are mixed.
    """
    names = {_library(value) for value in arguments if not isinstance(value, _SCALARS)}
    if len(names) > 1:
        raise TypeError(f"arrays of {' and '.join(sorted(names))} are mixed")
    return sys.modules[names.pop()] if names else None


_SCALARS = (int, float, np.generic)


class _ArrayFunctions:
    """The functions that the text of an `ArrayFunction` names, from NumPy or CuPy."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name, None)
        if found is None:
            found = self._special(name)
        setattr(self, name, found)
        return found

    def _special(self, name: str) -> Any:
        if self._module is np:  # NumPy lacks them, and SciPy may not be installed
            return np.vectorize(_guarded(getattr(math, {"tgamma": "gamma"}.get(name, name))))
        import cupyx.scipy.special as special

        return getattr(special, {"tgamma": "gamma", "lgamma": "gammaln"}.get(name, name))

    # As in the kernels, the second argument is taken only where it is strictly better.
    def maximum(self, a: Any, b: Any) -> Any:
        return self._module.where(a < b, b, a)

    def minimum(self, a: Any, b: Any) -> Any:
        return self._module.where(b < a, b, a)

    def slope_of_where(
        self, condition: Any, strict: Any, loose: Any, meet: Any, by_a: Any, by_b: Any
    ) -> Any:
        where = self._module.where
        sides = where(strict, by_a, where(loose, (by_a + by_b) * 0.5, by_b))
        settled = meet & (self._module.abs(sides) < math.inf)
        return where(settled, sides, where(condition, by_a, by_b))


def _guarded(function: Callable[[float], float]) -> Callable[[float], float]:
    def call(value: float) -> float:
        try:
            return float(function(value))
        except (OverflowError, ValueError):  # a pole
            return math.inf

    return call


@functools.cache
def _array_functions(name: str) -> _ArrayFunctions:
    return _ArrayFunctions(sys.modules[name])


class ArrayFunction:
    """An expression as a function of NumPy or CuPy arrays, or of Python numbers.

    Parameters
    ----------
    expression
        As `trace` gives it.
    names
        The parameters, in order.
    never_nan
        The name of a parameter for which a condition is False where that parameter is NaN.
    own
        Numbers for the expression's other symbols, by name; they take the arguments' dtype.

    Notes
    -----
    The arguments broadcast; the result has their common shape, and their dtype or bool. Integers
    are computed as the arrays do it: NumPy's own integers wrap, arrays of Python integers do not.

    Examples
    --------
    >>> f = ArrayFunction(sum(sympy.symbols("a b")), ["a", "b"])
    >>> f(1.0, 2.0)
    3.0
    >>> f(np.array([1, 2], np.float32), np.float32(0.5))
    array([1.5, 2.5], dtype=float32)
    """

    def __init__(
        self,
        expression: sympy.Basic,
        names: Sequence[str],
        never_nan: str | None = None,
        own: Mapping[str, float] | None = None,
    ) -> None:
        self.expression = expression
        self.names = tuple(names)
        self.never_nan = never_nan
        self.own = dict(own or {})
        # Or(a, b) of plain symbols works on 0 and 1 of any dtype; a comparison gives bool.
        self.condition = isinstance(expression, Boolean) and expression.has(Relational)

    def __repr__(self) -> str:
        return f"<({', '.join(self.names)}) -> {readable(self.expression)}>"

    def __reduce__(self) -> Any:
        return ArrayFunction, (self.expression, self.names, self.never_nan, self.own)

    @cached_property
    def _evaluate(self) -> Callable[..., Any]:
        text = PythonPrinter("xp.").doprint(self.expression)
        if self.never_nan is not None:
            text = f"{text} & ({self.never_nan} == {self.never_nan})"
        return eval(f"lambda xp, {', '.join((*self.names, *self.own))}: {text}", {})

    def __call__(self, *arguments: Any) -> Any:
        if len(arguments) != len(self.names):
            raise TypeError(
                f"takes {len(self.names)} arguments ({', '.join(self.names)}), got {len(arguments)}"
            )
        module = array_module(*arguments) or np
        if module.__name__ == "torch":
            raise TypeError("needs NumPy or CuPy arrays or numbers, got a torch tensor")
        numbers = all(isinstance(argument, int | float) for argument in arguments)
        dtype: Any = np.float64 if numbers else None
        if any(getattr(argument, "dtype", None) == np.dtype(object) for argument in arguments):
            dtype = object  # for all, or a Python integer would become one of 64 bits
        arrays = [module.asarray(argument, dtype=dtype) for argument in arguments]
        with np.errstate(all="ignore"):
            result = self._on_arrays(module, arrays)
        return result.item() if numbers else result

    def _on_arrays(self, module: Any, arrays: list[Any]) -> Any:
        dtype = module.result_type(*arrays)
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        kind = dtype.type if dtype.kind == "f" else np.float64
        own = map(kind, self.own.values())
        result = self._evaluate(_array_functions(module.__name__), *arrays, *own)
        wanted = np.dtype(bool) if self.condition else dtype
        result = module.asarray(result).astype(wanted, copy=False)
        return result if result.shape == shape else module.broadcast_to(result, shape)
