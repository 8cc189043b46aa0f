"""The gradients of parameters that a semifield of the user's own names.

The terms' part is the gradient of the kernel with another derivative, d times / d parameter, summed
over each kernel. What follows the sum, `post_sum`, adds its own. Called by ``conv`` and
``matmul_vjp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from semiconv_cupy.algebra import SubtractSemifield
from semiconv_cupy.parameters import Given, gradient_of

Array = Any


def refuse_additions(values: Given, parameters: Mapping[str, Any], function: str) -> None:
    """TypeError for a call that asks for the gradient by a parameter that an addition names."""
    semifield = values.semifield
    for name in parameters if semifield.own else ():
        if semifield.adds_by(name):
            raise TypeError(
                f"{function} has no gradient by {name}, which add of {semifield!r} takes; for "
                f"those by image and kernel pass semifield.with_parameters({name}=...)"
            )


def gradients(
    values: Given,
    names: Iterable[str],
    residual: Array | None,
    grad_out: Array,
    xp: Any,
    kernel_gradient: Callable[[SubtractSemifield], Array],
) -> Iterator[Array]:
    """The gradient by each of `names`, in float64, of the shape of its value.

    Parameters
    ----------
    residual
        The sums before `post_sum`, of grad_out's shape behind an axis of one; None without that.
    grad_out
        Its axis 1 is that of channels or of columns.
    kernel_gradient
        semifield -> its gradient of the kernels, summed over each: one number a kernel.
    """
    semifield, own = values.semifield, dict(zip(values.semifield.own, values.value, strict=True))
    for name in names:
        value = own[name]
        shape = () if type(value) is float else value.shape
        size = max(1, *shape, 1)
        total = xp.zeros(size, np.float64)
        by_terms = semifield.with_kernel_slope(name)
        if by_terms is not None:
            total = total + kernel_gradient(by_terms).reshape(-1, size).sum(axis=0)
        post = semifield.post_slope(name)
        if post is not None:
            assert residual is not None
            sums = residual[0]
            slopes = post(sums, *(_along_channels(one, sums, xp) for one in own.values()))
            empty = (sums == semifield.zero) & ~xp.isfinite(slopes)
            slopes = xp.where(empty, slopes.dtype.type(0), slopes)
            total = total + gradient_of(value, slopes, grad_out, xp).reshape(size)
        yield total.reshape(shape)


def _along_channels(value: Any, sums: Array, xp: Any) -> Array:
    """A parameter's values, beside the sums of their kernels."""
    if type(value) is float or value.size == 1:
        return xp.asarray(value, sums.dtype).reshape(())
    repeated = xp.tile(value, sums.shape[1] // value.size)
    return repeated.reshape(-1, *(1,) * (sums.ndim - 2))
