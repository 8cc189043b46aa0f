"""The derivative of the matrix product in any semifield, for arrays.

Called by users; ``matmul_plans`` checks the arguments, ``run`` computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from semiconv_cupy import own_gradients, run, source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host.functions import aligned
from semiconv_cupy.backends.place import place_of
from semiconv_cupy.checks import native, refuse_broadcast, require_derivatives, require_grad_out
from semiconv_cupy.matmul_plans import Checked
from semiconv_cupy.operands import Shape
from semiconv_cupy.parameters import Given, given, gradient_of
from semiconv_cupy.product import Product, merged
from semiconv_cupy.product_route import ProductRoute
from semiconv_cupy.residual import needs_arrays
from semiconv_cupy.strides import contiguous_strides, element_strides

Array = Any


def semifield_matmul_vjp(
    a: Array, b: Array, /, semifield: Semifield | str, *, method: str = "auto", **parameters: Any
) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    r"""Multiply matrices, and return what pulls a gradient of the result back to both.

    .. math:: grad\_a[m, k] = \sum_n grad\_out[m, n]\,
              \frac{\partial out[m, n]}{\partial term} \frac{\partial term}{\partial a[m, k]}

    and likewise for `b`. The weights of the terms are those of `semifield_conv_vjp`: a selection
    sends the whole gradient to the term that won, log and root share it by their own scaled values.
    An operand that was broadcast gets the sum of its copies' gradients.

    Parameters
    ----------
    a, b, method
        As in `semifield_matmul`; floating dtypes only.
    semifield : SelectSemifield, SubtractSemifield or str
        As in `semifield_matmul`; no BroadcastSemifield.
    **parameters
        As in `semifield_matmul`.

    Returns
    -------
    out : array
        As `semifield_matmul` returns it.
    pullback : callable
        ``pullback(grad_out) -> (grad_a, grad_b)``, of the shapes and dtype of a and b. It holds a
        and b only where the derivative needs them. Where a parameter was passed, its gradient is
        the third, as of `semifield_conv_vjp`.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError
        As in `semifield_matmul`. Also a TypeError for integers and for a BroadcastSemifield, and by
        pullback a ValueError for a `grad_out` of another shape or dtype than the result's.

    See Also
    --------
    semifield_matmul : Without gradients; the formula.
    semifield_conv_vjp : Of the convolution.
    torch_bridge.functional.semifield_matmul : Of tensors, by autograd.

    Examples
    --------
    >>> import numpy as np
    >>> import semiconv_cupy as sc
    >>> a, b = np.array([[0.0, 3.0], [2.0, 1.0]]), np.array([[1.0], [0.0]])
    >>> out, pullback = sc.semifield_matmul_vjp(a, b, "tropical_max")
    >>> grad_a, grad_b = pullback(np.ones_like(out))
    >>> grad_a
    array([[0., 1.],
           [1., 0.]])
    >>> grad_b
    array([[1.],
           [1.]])
    """
    values = given(semifield, parameters, "semifield_matmul_vjp")
    algebra = values.semifield
    refuse_broadcast(algebra, "semifield_matmul_vjp")
    checked = Checked.of(
        a, b, values, method, slopes=own_gradients.keeps_slopes(algebra, parameters)
    )
    require_derivatives(checked.storage)
    place, operands, dtype = checked.place, checked.operands, native(a.dtype)
    xp, shape = place.array_module, operands.out_shape
    if not place.on_gpu:
        a, b = (x if aligned(x) else x.astype(dtype, order="C") for x in (a, b))
    product, gradients = merged(
        operands.product(element_strides(a), element_strides(b), contiguous_strides(shape)),
        operands.product(*map(contiguous_strides, (a.shape, b.shape, shape))),
    )
    route = checked.route(product)
    spec = route.residual_spec(shape or (1,))
    with place.current():
        out = xp.empty(shape, dtype)
        residual = None if spec is None else xp.empty(spec.shape, spec.dtype)
        if out.size:
            run.product(route, a, b, out, residual, value=values.value)
    # Views, whose shape and strides stay these whatever becomes of the caller's arrays.
    saved = (a.view(), b.view()) if needs_arrays(algebra) else (None, None)
    pullback = _Pullback(
        route,
        gradients,
        (a.shape, b.shape, shape),
        values,
        dict(parameters),
        saved,
        residual,
        out.reshape(-1)[:0],
    )
    return out if shape else out[()], pullback


@dataclass(frozen=True)
class _Pullback:
    """What pulls a gradient of the result back to both matrices and the parameters passed.

    `gradients` is the product whose operands are C-contiguous, as their gradients are; `shapes` are
    those of both matrices and of the result. `saved` holds the matrices, or None where the
    derivative does not need them; `no_outputs` has the library, device and dtype of the result.
    """

    route: ProductRoute
    gradients: Product
    shapes: tuple[Shape, Shape, Shape]
    values: Given
    parameters: dict[str, Any]
    saved: tuple[Array, Array]
    residual: Array | None
    no_outputs: Array

    def __call__(self, grad_out: Array) -> tuple[Array, ...]:
        place, dtype = self.route.place, self.no_outputs.dtype
        xp, real = place.array_module, source.ARITHMETIC[self.route.storage]
        if np.isscalar(grad_out):
            grad_out = _number(xp, grad_out, dtype)
        place_of("semifield_matmul", out=self.no_outputs, grad_out=grad_out)
        of_a, of_b, shape = self.shapes
        require_grad_out(grad_out, shape, dtype)
        with place.current():
            if not math.prod(shape):
                nothing = xp.zeros(of_a, dtype), xp.zeros(of_b, dtype)
                return *nothing, *(xp.zeros(np.shape(x), real) for x in self.parameters.values())
            grad_a, grad_b = xp.empty(of_a, real), xp.empty(of_b, real)
            grad_out = xp.ascontiguousarray(grad_out).astype(dtype, copy=False).reshape(shape)
            arrays = GradientArrays(grad_out, *self.saved, self.residual, grad_a, grad_b)
            run.product_backward(self.route, self.gradients, arrays, value=self.values.value)
            found = grad_a.astype(dtype, copy=False), grad_b.astype(dtype, copy=False)
            return *found, *self._by_parameters(grad_out, xp, real)

    def _by_parameters(self, grad_out: Array, xp: Any, real: str) -> Iterator[Array]:
        """The gradient by each parameter, in the call's order."""
        if not self.parameters:
            return
        columns, residual = self._columns, self.residual
        if self.values.semifield.own:
            by_own = own_gradients.gradients(
                self.values,
                self.parameters,
                None if residual is None else _rows(residual, columns),
                grad_out.reshape(-1, columns),
                xp,
                lambda other: self._sums_of_columns(other, grad_out, xp, real),
            )
            yield from (one.astype(real) for one in by_own)
            return
        assert residual is not None
        slopes, given_out = (x.reshape(-1, columns) for x in (residual[-1], grad_out))
        yield gradient_of(self.values.value, slopes, given_out, xp)

    @property
    def _columns(self) -> int:
        """The columns of `b`, each of which may have a value of a parameter."""
        of_b = self.shapes[1]
        return of_b[-1] if len(of_b) > 1 else 1

    def _sums_of_columns(self, other: Semifield, grad_out: Array, xp: Any, real: str) -> Array:
        """The gradient of each column of `b`, added up, by another derivative of times."""
        of_b = xp.empty(self.shapes[1], real)
        arrays = GradientArrays(grad_out, *self.saved, self.residual, None, of_b)
        route = replace(self.route, semifield=other)
        run.product_backward(route, self.gradients, arrays, value=self.values.value)
        return of_b.reshape(-1, self._columns).sum(axis=0, dtype=np.float64)


def _rows(residual: Array, columns: int) -> Array:
    """The residual's arrays, the matrices of each below each other; winners are one array."""
    arrays = len(residual) if residual.dtype.kind == "f" else 1
    return residual.reshape(arrays, -1, columns)


def _number(xp: Any, value: Any, dtype: Any) -> Array:
    """A number as an array without axes: Python's own, or one of this dtype."""
    if type(value) not in (int, float) and getattr(value, "dtype", None) != dtype:
        kind = type(value).__name__
        raise TypeError(f"grad_out must have the result's dtype {dtype}, got {value!r} of {kind}")
    return xp.asarray(value, dtype)
