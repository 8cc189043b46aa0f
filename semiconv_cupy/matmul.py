"""The matrix product in any semifield: the public call for arrays.

A call that was planned once (``matmul_plans``) is found again by the arrays' shapes, strides and
dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semiconv_cupy.algebra import (
    BroadcastSemifield,
    Semifield,
    named,
)
from semiconv_cupy.backends.place import place_of
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.errors import flag
from semiconv_cupy.matmul_plans import plan_into, plan_values
from semiconv_cupy.parameters import Given, given

Array = Any


@by_chunks
def semifield_matmul(
    a: Array,
    b: Array,
    /,
    semifield: Semifield | BroadcastSemifield | str,
    *,
    out: Array | tuple[Array] | None = None,
    method: str = "auto",
    return_indices: bool = False,
    **parameters: Any,
) -> Any:
    r"""Multiply matrices in a semifield.

    .. math:: out[\ldots, m, n] = \bigoplus_k a[\ldots, m, k] \otimes b[\ldots, k, n]

    Shapes, broadcasting and operands of one axis are those of `numpy.matmul`. With
    ``"tropical_min"`` this is one step of shortest paths, with ``"tropical_max"`` of Viterbi's
    algorithm, with `SubtractSemifield.log` of the forward algorithm, all in logarithms.

    Parameters
    ----------
    a : array (..., M, K) or (K,)
        NumPy or CuPy, any strides: transposed, sliced and broadcast arrays are read where they lie.
        dtypes as in `semifield_conv`.
    b : array (..., K, N) or (K,)
        Of the same library, device and dtype; only the byte orders may differ. Leading axes
        broadcast.
    semifield : SelectSemifield, SubtractSemifield, BroadcastSemifield or str
        The addition and the multiplication, or the name of a ready-made pair. `channels_add` has no
        effect: a product adds all its terms by the semifield's own addition.
    out : array, optional
        Receives the result, and is returned: of its shape, or one to which it broadcasts, and of a
        dtype to which it may be cast as "same_kind"; or a tuple of such an array alone. It may
        overlap `a` and `b`; where it does not, and has the result's shape and dtype, nothing else
        is allocated.
    method : {"auto", "direct", "tiled", "linear", "reference"}
        As in `semifield_conv`.
    return_indices : bool
        Return the winners, too; for selections.
    **parameters
        As in `semifield_conv`; an array of several values has one for each column of `b`.

    Returns
    -------
    out : array (..., M, N)
        C-contiguous unless given; of the operands' library, device and dtype. A number where both
        operands have one axis.
    indices : array of int64, of the result's shape
        Only with `return_indices`, as (out, indices): which k gave the term that won, the first of
        equal ones; -1 where no term is better than the zero.

    Raises
    ------
    TypeError
        Arrays of different libraries or dtypes, a dtype that the semifield has no meaning for, or
        an `out` that cannot hold the result's dtype.
    ValueError
        Scalars; shapes that do not fit; an `out` of another shape, or one that is read-only.
        `return_indices` with an addition that is no selection.
    BackendUnavailableError
        A method asked for by name that cannot run on this machine.

    See Also
    --------
    semifield_matmul_vjp : With gradients.
    semifield_matrix_power, semifield_closure : Products of a matrix with itself.
    semifield_conv : The convolution.
    torch_bridge.functional.semifield_matmul : Of tensors.

    Notes
    -----
    Numbers are treated as in `semifield_conv`: integers saturate, halves are computed in float32,
    NaN is never selected. Where K = 0 the result is the semifield's zero. Nothing of the size
    M x N x K is ever in memory.

    The zero of integers is the dtype's own limit, a number like any other: the sum of the greatest
    int32 and -5 is 5 less, although the greatest one is the zero of ``"tropical_min"``.
    `semifield_matrix_power` and `semifield_closure` keep such a zero as it is.

    References
    ----------
    R. Cuninghame-Green, "Minimax Algebra", Springer, 1979.

    Examples
    --------
    Two steps along roads, whose lengths a has; inf: no road.

    >>> import numpy as np
    >>> import semiconv_cupy as sc
    >>> a = np.array([[0, 4, np.inf], [np.inf, 0, 1], [2, np.inf, 0]])
    >>> sc.semifield_matmul(a, a, "tropical_min")
    array([[0., 4., 5.],
           [3., 0., 1.],
           [2., 6., 0.]])
    >>> sc.semifield_matmul(a, a, "tropical_min", return_indices=True)[1]
    array([[0, 0, 1],
           [2, 1, 1],
           [0, 0, 2]])
    """
    if parameters or not isinstance(semifield, str):
        known = given(semifield, parameters, "semifield_matmul")
    else:
        known = Given(named(semifield))
    if isinstance(out, tuple) and len(out) == 1:
        (out,) = out
    layout = None if out is None else _layout_of(out)
    call: Callable[..., Any] | None = None
    key: tuple[Any, ...] = ()
    try:
        key = (
            a.shape, a.strides, a.dtype, b.shape, b.strides, b.dtype, type(a), type(b), known.key,
            method, return_indices, layout,
        )  # fmt: skip
        call = _calls.get(key)
    except (AttributeError, TypeError):  # no arrays, or nothing that can be hashed
        key = ()
    if call is None:
        with_winners = flag("return_indices", return_indices)
        if out is None:
            call = plan_values(a, b, known, method, with_winners)
        else:
            call = plan_into(a, b, out, known, method, with_winners)
        if key:
            if len(_calls) >= _MOST_CALLS:
                _calls.clear()
            _calls[key] = call
    arrays = (a, b) if out is None else (a, b, out)
    return call(*arrays) if known.value is None else call(*arrays, value=known.value)


# Calls already planned, by everything that a plan depends on.
_calls: dict[tuple[Any, ...], Callable[..., Any]] = {}
_MOST_CALLS = 1024


def _layout_of(out: Array) -> tuple[Any, ...]:
    """What a plan depends on; TypeError where `out` is no array."""
    place_of("semifield_matmul", out=out)
    return out.shape, out.strides, out.dtype, type(out)
