"""The derivative of the convolution, for arrays.

Called by users; ``conv`` checks the arguments, ``run`` computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from semiconv_cupy import own_gradients, run, source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import place_of
from semiconv_cupy.checks import native, refuse_broadcast, require_derivatives, require_grad_out
from semiconv_cupy.conv import checked_route
from semiconv_cupy.geometry import IntOrTuple, Kind, Padding
from semiconv_cupy.parameters import Given, given, gradient_of
from semiconv_cupy.residual import needs_arrays
from semiconv_cupy.route import Route

Array = Any


def semifield_conv_vjp(
    img: Array,
    krn: Array,
    semifield: Semifield | str,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    group_broadcasting: bool = False,
    kind: Kind = "conv",
    method: str = "auto",
    **parameters: Any,
) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    r"""Convolve, and return what pulls a gradient of the result back to image and kernel.

    .. math:: grad\_img[p] = \sum_{o, x, y} grad\_out[o, x]\,
              \frac{\partial out[o, x]}{\partial term} \frac{\partial term}{\partial img[p]}

    and likewise for the kernel. A selection sends the whole gradient to the term that won (the
    first of equal ones, unless the semifield spreads it); log and root weigh the terms by their own
    scaled values, so that the weights sum to 1 (log) at any magnitude. Windows of nothing but zeros
    have gradient 0. On the CPU the bits do not depend on the number of threads.

    Parameters
    ----------
    img, krn, stride, padding, dilation, groups, group_broadcasting, kind, method
        As in `semifield_conv`; floating dtypes only.
    semifield : SelectSemifield, SubtractSemifield or str
        As in `semifield_conv`; no BroadcastSemifield.
    **parameters
        As in `semifield_conv`.

    Returns
    -------
    out : array
        As `semifield_conv` returns it.
    pullback : callable
        ``pullback(grad_out) -> (grad_img, grad_krn)``, of the shapes and dtype of img and krn. It
        holds img and krn only where the derivative needs them. Where a parameter was passed, its
        gradient is the third, of its shape and of the dtype of arithmetic: for log
        ``sum of grad_out (sum_i w_i v_i - out) / mu``, for root
        ``sum of grad_out out (sum_i w_i ln v_i - ln out) / p``, with the weights w_i of a window's
        terms v_i; nothing comes from windows of zeros and from those with an infinite term. Where
        parameters of one's own were passed, a gradient follows for each, in the call's order.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError
        As in `semifield_conv`. Also a TypeError for integers and for a BroadcastSemifield, and by
        pullback a ValueError for a `grad_out` of another shape or dtype than the result's.

    See Also
    --------
    semifield_conv : Without gradients; the formula.
    semifield_matmul_vjp : Of the matrix product.
    torch_bridge.functional.semifield_conv : Of tensors, by autograd.

    Examples
    --------
    >>> import numpy as np
    >>> import semiconv_cupy as sc
    >>> img = np.array([[[0.0, 0.0, 5.0, 0.0, 1.0]]])
    >>> krn = np.array([[[-1.0, 0.0, -1.0]]])
    >>> out, pullback = sc.semifield_conv_vjp(img, krn, "tropical_max", padding="same")
    >>> grad_img, grad_krn = pullback(np.ones_like(out))
    >>> grad_img
    array([[[1., 0., 3., 0., 1.]]])
    >>> grad_krn
    array([[[1., 3., 1.]]])
    """
    values = given(semifield, parameters, "semifield_conv_vjp")
    algebra = values.semifield
    refuse_broadcast(algebra, "semifield_conv_vjp")
    arguments = dict(
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        group_broadcasting=group_broadcasting,
        kind=kind,
    )
    route = checked_route(
        img, krn, values, method, arguments, slopes=own_gradients.keeps_slopes(algebra, parameters)
    )
    require_derivatives(route.storage)
    place, spec = route.place, route.residual_spec
    xp = place.array_module
    with place.current():
        out = xp.empty(route.geometry.out_shape, native(img.dtype))
        residual = None if spec is None else xp.empty(spec.shape, spec.dtype)
        run.forward(route, img, krn, out, residual, value=values.value)
    # Views, whose shape and strides stay these whatever becomes of the caller's arrays.
    saved = (img.view(), krn.view()) if needs_arrays(algebra) else (None, None)
    return out, _Pullback(route, values, dict(parameters), saved, residual, out[:0])


@dataclass(frozen=True)
class _Pullback:
    """What pulls a gradient of the result back to image, kernel and the parameters passed.

    `saved` holds the image and the kernel, or None where the derivative does not need them;
    `no_outputs` has the library, device and dtype of the result.
    """

    route: Route
    values: Given
    parameters: dict[str, Any]
    saved: tuple[Array, Array]
    residual: Array | None
    no_outputs: Array

    def __call__(self, grad_out: Array) -> tuple[Array, ...]:
        place_of("semifield_conv", out=self.no_outputs, grad_out=grad_out)
        geometry, place, dtype = self.route.geometry, self.route.place, self.no_outputs.dtype
        require_grad_out(grad_out, geometry.out_shape, dtype)
        xp, real = place.array_module, source.ARITHMETIC[self.route.storage]
        with place.current():
            grad_img = (xp.empty if place.on_gpu else xp.zeros)(geometry.img_shape, real)
            grad_krn = xp.empty(geometry.krn_shape, real)
            arrays = GradientArrays(grad_out, *self.saved, self.residual, grad_img, grad_krn)
            run.backward(self.route, arrays, value=self.values.value)
            found = grad_img.astype(dtype, copy=False), grad_krn.astype(dtype, copy=False)
            return *found, *self._by_parameters(grad_out, xp, real)

    def _by_parameters(self, grad_out: Array, xp: Any, real: str) -> Iterator[Array]:
        """The gradient by each parameter, in the call's order."""
        if not self.parameters:
            return
        if self.values.semifield.own:
            by_own = own_gradients.gradients(
                self.values,
                self.parameters,
                self.residual,
                grad_out,
                xp,
                lambda other: self._sums_of_kernels(other, grad_out, xp, real),
            )
            yield from (one.astype(real) for one in by_own)
            return
        assert self.residual is not None
        yield gradient_of(self.values.value, self.residual[-1], grad_out, xp)

    def _sums_of_kernels(self, other: Semifield, grad_out: Array, xp: Any, real: str) -> Array:
        """The gradient of each kernel, its numbers added up, by another derivative of times."""
        of_krn = xp.empty(self.route.geometry.krn_shape, real)
        arrays = GradientArrays(grad_out, *self.saved, self.residual, None, of_krn)
        run.backward(replace(self.route, semifield=other), arrays, value=self.values.value)
        return of_krn.sum(axis=tuple(range(1, of_krn.ndim)), dtype=np.float64)
