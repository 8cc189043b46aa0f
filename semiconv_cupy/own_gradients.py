"""The gradients of parameters that a semifield of the user's own names.

The terms' part is the gradient of the kernel with another derivative, d times / d parameter, summed
over each kernel. Of the addition and `post_sum` the forward pass has kept the derivatives. Called
by ``conv_vjp`` and ``matmul_vjp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.algebra.slopes import kept_slopes, with_kernel_slope
from semiconv_cupy.parameters import Given, gradient_of

Array = Any


def keeps_slopes(semifield: Any, parameters: Iterable[str]) -> bool:
    """Whether a forward pass keeps derivatives of the result: by one of these parameters."""
    if not semifield.own:
        return bool(parameters)
    return any(name in kept_slopes(semifield) for name in parameters)


def gradients(
    values: Given,
    names: Iterable[str],
    residual: Array | None,
    grad_out: Array,
    xp: Any,
    kernel_gradient: Callable[[Semifield], Array],
) -> Iterator[Array]:
    """The gradient by each of `names`, in float64, of the shape of its value.

    Parameters
    ----------
    residual
        What the forward pass kept, each array of grad_out's shape: the slopes of `kept_slopes` lie
        behind the sums. None where nothing is kept.
    grad_out
        Its axis 1 is that of channels or of columns.
    kernel_gradient
        semifield -> its gradient of the kernels, summed over each: one number a kernel.
    """
    semifield, own = values.semifield, dict(zip(values.semifield.own, values.value, strict=True))
    kept = kept_slopes(semifield)
    for name in names:
        value = own[name]
        shape = () if type(value) is float else value.shape
        size = max(1, *shape, 1)
        total = xp.zeros(size, np.float64)
        by_terms = with_kernel_slope(semifield, name)
        if by_terms is not None:
            total = total + kernel_gradient(by_terms).reshape(-1, size).sum(axis=0)
        if name in kept:
            assert residual is not None
            slopes = residual[1 + kept.index(name)]
            total = total + gradient_of(value, slopes, grad_out, xp).reshape(size)
        yield total.reshape(shape)
