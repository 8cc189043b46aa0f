"""The derivative of the matrix product in any semifield, for arrays.

Called by users; `matmul` checks the arguments, ``run`` computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from semiconv_cupy import own_gradients, run, source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host.functions import aligned
from semiconv_cupy.backends.place import place_of
from semiconv_cupy.conv import native, refuse_broadcast, require_derivatives, require_grad_out
from semiconv_cupy.matmul import Checked
from semiconv_cupy.parameters import given, gradient_of
from semiconv_cupy.product import merged
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

    Parameters are as in `semifield_matmul`, floating dtypes only, no BroadcastSemifield.

    Returns
    -------
    out : array
        As `semifield_matmul` returns it.
    pullback : callable
        ``pullback(grad_out) -> (grad_a, grad_b)``, of the shapes and dtype of a and b. It holds a
        and b only where the derivative needs them. Where a parameter was passed, its gradient is
        the third, as of `semifield_conv_vjp`.

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
    algebra, value = values.semifield, values.value
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
            run.product(route, a, b, out, residual, value=value)
    # Views, whose shape and strides stay these whatever becomes of the caller's arrays.
    saved: tuple[Array, Array] = (None, None)
    if needs_arrays(algebra):
        saved = a.view(), b.view()
    a_shape, b_shape, out_like = a.shape, b.shape, out.reshape(-1)[:0]

    def summed(other: Semifield, grad_out: Array) -> Array:
        """The gradient of each column of `b`, added up, by another derivative of times."""
        of_b = xp.empty(b_shape, source.ARITHMETIC[checked.storage])
        arrays = GradientArrays(grad_out, *saved, residual, None, of_b)
        run.product_backward(replace(route, semifield=other), gradients, arrays, value=value)
        return of_b.reshape(-1, b_shape[-1] if len(b_shape) > 1 else 1).sum(
            axis=0, dtype=np.float64
        )

    def pullback(grad_out: Array) -> tuple[Array, ...]:
        if np.isscalar(grad_out):
            grad_out = _number(xp, grad_out, dtype)
        place_of("semifield_matmul", out=out_like, grad_out=grad_out)
        require_grad_out(grad_out, shape, dtype)
        real = source.ARITHMETIC[checked.storage]
        with place.current():
            if not math.prod(shape):
                nothing = xp.zeros(a_shape, dtype), xp.zeros(b_shape, dtype)
                return *nothing, *(xp.zeros(np.shape(one), real) for one in parameters.values())
            grad_a, grad_b = xp.empty(a_shape, real), xp.empty(b_shape, real)
            grad_out = xp.ascontiguousarray(grad_out).astype(dtype, copy=False).reshape(shape)
            arrays = GradientArrays(grad_out, *saved, residual, grad_a, grad_b)
            run.product_backward(route, gradients, arrays, value=value)
            found = grad_a.astype(dtype, copy=False), grad_b.astype(dtype, copy=False)
            if not parameters:
                return found
            columns = (1, shape[-1]) if len(b_shape) > 1 else (1, 1)
            if algebra.own:
                sums = None if residual is None else _rows(residual, columns[1])
                flat = grad_out.reshape(-1, columns[1])
                by_own = own_gradients.gradients(
                    values, parameters, sums, flat, xp, lambda other: summed(other, grad_out)
                )
                return *found, *(one.astype(real) for one in by_own)
            assert residual is not None
            slopes, given_out = (x.reshape(-1, columns[1]) for x in (residual[-1], grad_out))
            return *found, gradient_of(value, slopes, given_out, xp)

    return out if shape else out[()], pullback


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
