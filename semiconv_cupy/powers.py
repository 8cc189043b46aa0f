"""Powers of a square matrix in a semifield, and their sum: walks of n steps, and of any number.

Both are products by squaring, so `matmul` does the work.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from semiconv_cupy.algebra import (
    BroadcastSemifield,
    SelectSemifield,
    Semifield,
    SubtractSemifield,
    no_semifield,
)
from semiconv_cupy.algebra.laws import LawReport
from semiconv_cupy.backends.additions import computed_semifield
from semiconv_cupy.backends.place import place_of
from semiconv_cupy.checks import native, storage_of
from semiconv_cupy.errors import flag, integer
from semiconv_cupy.matmul import semifield_matmul
from semiconv_cupy.parameters import bound
from semiconv_cupy.winners import selection_by_one

Array = Any


def semifield_matrix_power(
    a: Array,
    n: int,
    semifield: Semifield | BroadcastSemifield | str,
    *,
    method: str = "auto",
    **parameters: float,
) -> Array:
    r"""The product of n equal matrices.

    .. math:: out = a \otimes a \otimes \ldots \otimes a \quad (n \text{ times})

    Of a graph's weights it is the ⊕ of all walks of n steps, each walk the ⊗ of its edges. Takes at
    most 2 log2(n) products.

    Parameters
    ----------
    a : array (..., N, N)
        As in `semifield_matmul`.
    n : int
        At least 0. The power 0 has one on the diagonal and zero elsewhere.
    semifield : SelectSemifield, SubtractSemifield, BroadcastSemifield or str
        Its multiplication must be associative: ``"tropical_min"`` serves, and
        ``"tropical_min_negated"`` does not.
    method : str
        As in `semifield_matmul`.
    **parameters : float
        As in `semifield_matmul`, numbers only: ``mu=`` of ``"log"``, ``p=`` of ``"root"``.

    Returns
    -------
    array (..., N, N)
        Of a's library, device and dtype; never `a` itself. A selection's power has the zero where
        only NaN leads, the power 1 too.

    Raises
    ------
    numpy.linalg.LinAlgError
        An array that is not a stack of square matrices.
    TypeError
        An `n` that is no integer; everything as in `semifield_matmul`.
    ValueError
        A negative `n`: matrices of a semifield have no inverse. A multiplication that is not
        associative, or for `n` = 0 one without a neutral element.

    See Also
    --------
    semifield_closure : The sum of all powers.
    semifield_matmul : The product of two matrices.

    Notes
    -----
    In a selection's powers, zero times anything is zero, also of integers, whose zero is the limit
    of the dtype: where no edge leads, no walk does. Unsigned integers have one number for both zero
    and one of ``"tropical_max"``, 0: it means no edge.

    Examples
    --------
    >>> import numpy as np
    >>> import semiconv_cupy as sc
    >>> a = np.array([[np.inf, 4, np.inf], [np.inf, np.inf, 1], [2, np.inf, np.inf]])
    >>> sc.semifield_matrix_power(a, 2, "tropical_min")  # two steps
    array([[inf, inf,  5.],
           [ 3., inf, inf],
           [inf,  6., inf]])
    >>> sc.semifield_matrix_power(a, 0, "tropical_min")
    array([[ 0., inf, inf],
           [inf,  0., inf],
           [inf, inf,  0.]])
    """
    algebra = bound(semifield, parameters, "semifield_matrix_power")
    exponent = integer("n", n)
    require_square(a)
    if exponent < 0:
        raise ValueError(f"n must be at least 0, since a matrix has no inverse here, got n={n!r}")
    one = one_of(algebra)
    if exponent == 0:
        # A product checks everything about the arguments; of no matrix, it computes nothing.
        semifield_matmul(a[..., :0, :], a[..., :0], algebra, method=method)
        return _identity(a, algebra, one)
    result: Any = None
    square = a
    while True:
        if exponent & 1:
            result = square if result is None else _times(result, square, algebra, method)
        exponent >>= 1
        if not exponent:
            break
        square = _times(square, square, algebra, method)
    if result is not a:
        return result
    semifield_matmul(a[..., :0, :], a[..., :0], algebra, method=method)
    result = a.astype(native(a.dtype), order="C")
    if isinstance(algebra, SelectSemifield) and a.dtype.kind == "f":
        result[result != result] = algebra.zero  # NaN is never selected
    return result


def semifield_closure(
    a: Array,
    semifield: SelectSemifield | str,
    *,
    method: str = "auto",
    return_indices: bool = False,
    **parameters: float,
) -> Any:
    r"""The sum of all powers of a matrix.

    .. math:: a^* = 1 \oplus a \oplus a^2 \oplus \ldots

    Of a graph's weights it is the best walk between each two nodes, of any number of steps:
    ``"tropical_min"`` gives all shortest paths, ``"max_times"`` the likeliest ones,
    ``"boolean"`` what is reachable (of numbers: the widest paths). It is the power N of 1 ⊕ a,
    by squaring: at most ceil(log2 N) products, fewer where nothing changes any more.

    Parameters
    ----------
    a : array (..., N, N)
        As in `semifield_matmul`: a[i, j] is the weight of the edge from i to j, the semifield's
        zero where there is none.
    semifield : SelectSemifield or str
        A selection, whose sums repeat no term; its multiplication must be associative.
    method : str
        As in `semifield_matmul`.
    return_indices : bool
        Return the paths, too.
    **parameters : float
        Of a semifield of your own those that it names, numbers only.

    Returns
    -------
    out : array (..., N, N)
        Of a's library, device and dtype.
    indices : array of int64 (..., N, N)
        Only with `return_indices`, as (out, indices): the node before j on a best path from i to j;
        -1 where i = j, and where no path leads. Following row i back from j gives the whole path.

    See Also
    --------
    semifield_matrix_power : Walks of n steps.
    semifield_matmul : The product of two matrices.

    Notes
    -----
    NaN is no edge. Zero times anything is zero, also of integers, whose zero is the limit of the
    dtype: the greatest int32 in ``"tropical_min"`` is no edge, however negative the next one is.
    Unsigned integers have one number for both zero and one of ``"tropical_max"``, 0: no edge.

    Raises
    ------
    numpy.linalg.LinAlgError
        An array that is not a stack of square matrices.
    ValueError
        A cycle that is better than one, such as one of negative length in shortest paths: walks
        along it get better without end. Rounding alone can make a cycle of length 0 negative; whole
        numbers are not rounded. A semifield that does not serve.
    TypeError
        As in `semifield_matmul`.

    References
    ----------
    R. Cuninghame-Green, "Minimax Algebra", Springer, 1979.

    Examples
    --------
    >>> import numpy as np
    >>> import semiconv_cupy as sc
    >>> roads = np.array([[0, 4, np.inf], [np.inf, 0, 1], [2, np.inf, 0]])
    >>> lengths, before = sc.semifield_closure(roads, "tropical_min", return_indices=True)
    >>> lengths
    array([[0., 4., 5.],
           [3., 0., 1.],
           [2., 6., 0.]])
    >>> before[0]  # from node 0 to node 2 by node 1
    array([-1,  0,  1])
    """
    algebra = bound(semifield, parameters, "semifield_closure")
    with_paths = flag("return_indices", return_indices)
    if not isinstance(algebra, SelectSemifield) or algebra.channels_add:
        raise ValueError(
            "semifield_closure needs a SelectSemifield without channels_add, whose sums repeat no "
            f"term, got {algebra!r}"
        )
    require_square(a)
    algebra, one = selection_by_one(algebra), one_of(algebra)
    semifield_matmul(a[..., :0, :], a[..., :0], algebra, method=method)  # checks the arguments
    xp = place_of(a=a).array_module
    better = _comparison(algebra, a)
    with place_of(a=a).current():
        diagonal = _identity(a, algebra, one)
        # Of one and an edge the first of equal ones; what beats neither, NaN too, is no edge.
        walks = xp.where(better(diagonal, a), a, diagonal).astype(native(a.dtype), copy=False)
        before = _edges(xp, walks, diagonal, better) if with_paths else None
        for _ in range(max(a.shape[-1] - 1, 0).bit_length()):
            longer, middle = _walks(walks, walks, algebra, method, with_paths)
            improved = better(walks, longer)
            if not improved.any():
                break
            walks = xp.where(improved, longer, walks)
            if with_paths:
                before = _joined(xp, before, middle, improved)
        ends = xp.diagonal(walks, axis1=-2, axis2=-1)
        cycles = better(xp.diagonal(diagonal, axis1=-2, axis2=-1), ends)
        if cycles.any():
            node = tuple(map(int, xp.argwhere(cycles)[0]))
            raise ValueError(
                "a has a cycle that is better than one (of negative length, in shortest paths), "
                f"and walks along it get better without end: a walk from node {node[-1]} to itself "
                f"gives {ends[node]}. If that is the rounding of a cycle as good as one, use whole "
                "numbers"
            )
    return (walks, before) if with_paths else walks


def require_square(a: Array) -> None:
    """LinAlgError for what is no stack of square matrices, TypeError for what is no array."""
    place_of(a=a)
    if a.ndim < 2:
        raise np.linalg.LinAlgError(f"a must have two axes or more, got shape {a.shape}")
    if a.shape[-1] != a.shape[-2]:
        raise np.linalg.LinAlgError(f"the last two axes of a must be equal, got shape {a.shape}")


def one_of(semifield: Any) -> float | None:
    """The neutral element of a semifield's multiplication, None where there is none.

    Raises
    ------
    ValueError
        A multiplication that is not associative, whose powers depend on the order of the products.

    Examples
    --------
    >>> one_of(SelectSemifield.tropical_min()), one_of(SelectSemifield.max_times())
    (0.0, 1.0)
    """
    if not isinstance(semifield, (SelectSemifield, SubtractSemifield, BroadcastSemifield)):
        raise no_semifield(semifield)
    report = laws_of(semifield)
    laws = {law.name: law for law in report.laws}
    if report.kernel_inverted or not laws["multiplication is associative"].holds:
        hint = "; tropical_min adds both" if report.kernel_inverted else ""
        raise ValueError(
            f"powers need an associative multiplication, (a ⊗ b) ⊗ c = a ⊗ (b ⊗ c), got "
            f"{semifield!r}{hint}"
        )
    return report.one


def laws_of(semifield: Any) -> LawReport:
    """The report of ``semifield.check()``, computed once for each semifield.

    All logs of positive mu have the laws of log(1), all roots of negative p those of root(-1).
    """
    if getattr(semifield, "parameter", None) is not None:
        made = getattr(type(semifield), semifield.accumulator)
        semifield = made(math.copysign(1.0, semifield.parameter))
    return _report_of(semifield)


@lru_cache(maxsize=64)
def _report_of(semifield: Any) -> LawReport:
    report: LawReport = semifield.check()
    return report


def _times(a: Array, b: Array, semifield: Any, method: str) -> Array:
    if not isinstance(semifield, SelectSemifield):
        return semifield_matmul(a, b, semifield, method=method)
    with place_of(a=a).current():
        return _walks(a, b, semifield, method, with_winners=False)[0]


# ---- products in which zero absorbs --------------------------------------------------------------
#
# The zero of integers is the dtype's limit, and saturating sums can lead away from it: in
# tropical_min of int32, M = 2^31 - 1 is "no edge", but M + (-5) = M - 5 is better than M. Floats
# have inf, which absorbs. So where numbers are such, they are multiplied as float64, which is exact
#
#     of up to 32 bits     beyond 2^53 every result is at the limit anyway
#     of 64 bits           while all numbers and results are below 2^53
#
# and other numbers of 64 bits one output at a time, of the k alone that join two edges.

_EXACT = 2**53  # integers below are exact in float64


def _walks(
    a: Array, b: Array, semifield: SelectSemifield, method: str, with_winners: bool
) -> tuple[Array, Array | None]:
    """The product, and its winners or None, in which zero times anything is zero."""
    zero = _zero_of(semifield, a)
    if a.dtype.kind not in "iu" or _absorbs(zero, a, b, semifield, method):
        if not with_winners:
            return semifield_matmul(a, b, semifield, method=method), None
        out, winners = semifield_matmul(a, b, semifield, method=method, return_indices=True)
        return out, winners
    by_one = semifield.by_one_winner
    return _as_floats(a, b, zero, by_one, method) or _one_by_one(a, b, zero, by_one, method)


def _zero_of(semifield: Any, a: Array) -> Any:
    """The semifield's zero as a number of a's dtype."""
    zero, dtype = semifield.zero, native(a.dtype)
    if dtype.kind == "b":
        zero = computed_semifield(semifield, storage_of(dtype, semifield, "a")).zero
    elif dtype.kind in "iu":
        limits = np.iinfo(dtype)
        zero = int(min(max(zero, limits.min), limits.max))
    return dtype.type(zero)


def _absorbs(zero: Any, a: Array, b: Array, semifield: SelectSemifield, method: str) -> bool:
    """Whether neither a's numbers times zero nor zero times b's are better than zero."""
    alone = place_of(a=a).array_module.full((1, 1), zero, native(a.dtype))
    first, second = a.reshape(-1, 1), b.reshape(1, -1)
    left = semifield_matmul(first, alone, semifield, method=method)
    right = semifield_matmul(alone, second, semifield, method=method)
    return bool((left == zero).all() and (right == zero).all())


def _as_floats(
    a: Array, b: Array, zero: Any, semifield: SelectSemifield, method: str
) -> tuple[Array, Array] | None:
    """Product and winners of integers by way of float64; None where that is not exact."""
    xp, dtype = place_of(a=a).array_module, native(a.dtype)
    first, second = (
        xp.where(x == zero, float(semifield.zero), x.astype(np.float64)) for x in (a, b)
    )
    out, winners = semifield_matmul(first, second, semifield, method=method, return_indices=True)
    if dtype.itemsize == 8 and any(
        ((xp.abs(x) >= _EXACT) & (x != semifield.zero)).any() for x in (first, second, out)
    ):
        return None
    limits = np.iinfo(dtype)
    nothing = out == semifield.zero
    inside = xp.where(nothing, 0, out)
    if dtype.itemsize < 8:
        inside = inside.clip(limits.min, limits.max)
    return xp.where(nothing, zero, inside.astype(dtype)), winners


def _one_by_one(
    a: Array, b: Array, zero: Any, semifield: SelectSemifield, method: str
) -> tuple[Array, Array]:
    """Product and winners of integers, each output a product of vectors without zeros."""
    xp = place_of(a=a).array_module
    out, winners = xp.empty(a.shape, native(a.dtype)), xp.empty(a.shape, np.int64)
    for *batch, i, j in np.ndindex(a.shape):
        row, column = a[(*batch, i)], b[(*batch, slice(None), j)]
        k = xp.nonzero((row != zero) & (column != zero))[0]
        value, winner = semifield_matmul(
            row[k], column[k], semifield, method=method, return_indices=True
        )
        out[(*batch, i, j)] = value
        winners[(*batch, i, j)] = k[winner] if winner >= 0 else -1
    return out, winners


def _identity(a: Array, semifield: Any, one: float | None) -> Array:
    """Matrices of a's shape and dtype with one on the diagonal, zero elsewhere."""
    if one is None:
        raise ValueError(f"{semifield!r} has no one, which the power 0 and the closure need")
    place, zero, dtype = place_of(a=a), _zero_of(semifield, a), native(a.dtype)
    if dtype.kind == "b":
        one = not zero
    elif dtype.kind in "iu":
        limits = np.iinfo(dtype)
        one = int(min(max(one, limits.min), limits.max))
    xp = place.array_module
    with place.current():
        on_diagonal = xp.eye(a.shape[-1], dtype=bool)
        values = (xp.asarray(value).astype(dtype) for value in (one, zero))
        return xp.array(xp.broadcast_to(xp.where(on_diagonal, *values), a.shape))


def _comparison(semifield: SelectSemifield, a: Array) -> Any:
    """(left, right) -> where right is better than left, for arrays of a's dtype."""
    storage = storage_of(a.dtype, semifield, "a")
    select = computed_semifield(semifield, storage).functions.select
    if storage == "bool":
        return lambda left, right: select(left.astype(np.uint8), right.astype(np.uint8))
    return select


def _edges(xp: Any, walks: Array, diagonal: Array, better: Any) -> Array:
    """The node before each on a path of one edge: i where an edge leads from i to another node."""
    nodes = xp.arange(walks.shape[-1])
    linked = better(diagonal, walks) & (nodes[:, None] != nodes)
    return xp.where(linked, nodes[:, None], -1)


def _joined(xp: Any, before: Array, middle: Array, improved: Array) -> Array:
    """The node before each, where the best walk has become one by way of `middle`.

    The last edge of the walk i -> middle -> j is that of middle -> j. Only strict improvements
    count, and among equal ones the first middle: so no row of indices runs in a circle, not even
    along cycles that cost nothing. A walk that ends in its middle is no improvement.
    """
    last = xp.take_along_axis(before, xp.maximum(middle, 0), axis=-2)
    return xp.where(improved, last, before)
