"""Distance transforms, with SciPy's signatures: how far the nearest background lies, and where.

The Euclidean one is exact: squared distances are erosions by parabolas along one axis after another
(``lines``), and these are sums of integers where no sampling is given.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import Array, as_array, per_axis
from semiconv_cupy.ndimage.lines import Finish, Pass, costs

__all__ = ["distance_transform_edt"]

_EXACT = 2.0**53  # integers up to here are doubles
_LEAST, _MOST = 1e-150, 1e150  # of a sampling, so that squares neither overflow nor vanish


# ---- arguments -----------------------------------------------------------------------------------


class _Wanted:
    """Which of the two results are wanted, and where they go: SciPy's four arguments, checked."""

    def __init__(
        self,
        place: Place,
        return_distances: Any,
        return_indices: Any,
        distances: Any,
        indices: Any,
    ) -> None:
        wrong = []
        if not return_distances and not return_indices:
            wrong.append("at least one of return_distances/return_indices must be True")
        if distances is not None and not return_distances:
            wrong.append("return_distances must be True if distances is supplied")
        if indices is not None and not return_indices:
            wrong.append("return_indices must be True if indices is supplied")
        if wrong:
            raise RuntimeError(", ".join(wrong))
        for name, array in (("distances", distances), ("indices", indices)):
            if array is not None and not isinstance(array, place.array_module.ndarray):
                raise TypeError(
                    f"{name} must be an array of input's library or None, got {type(array)}"
                )
        self.return_distances, self.return_indices = bool(return_distances), bool(return_indices)
        self.distances, self.indices = distances, indices

    def require(self, shape: tuple[int, ...], dtype: type, error: type[Exception]) -> None:
        """Raise where an array that was given has another shape or dtype than its result."""
        expected = (
            ("distances", self.distances, shape, dtype),
            ("indices", self.indices, (len(shape), *shape), np.int32),
        )
        for name, array, its_shape, its_dtype in expected:
            if array is None:
                continue
            if array.shape != its_shape:
                raise error(f"{name} array has wrong shape: got {array.shape}, not {its_shape}")
            if array.dtype != its_dtype:
                kind = np.dtype(its_dtype).name
                raise error(f"{name} array must be {kind}: got {array.dtype}")
            if not getattr(array.flags, "writeable", True):
                raise ValueError(f"{name} array is read-only: pass one that can be written to")

    def deliver(self, distances: Array | None, indices: Array | None) -> Any:
        """What the caller gets: the results that were wanted and have no array to go to."""
        found = []
        for result, given in ((distances, self.distances), (indices, self.indices)):
            if given is not None:
                given[...] = result
            elif result is not None:
                found.append(result)
        return tuple(found) if len(found) == 2 else found[0] if found else None


def _foreground(input: Any) -> tuple[Place, Array]:
    """Where the input lies, and which elements are not zero: C-contiguous, of a rank >= 1."""
    place, array = as_array(input)
    array = array if array.dtype == np.bool_ else array != 0
    xp = place.array_module
    return place, xp.ascontiguousarray(xp.atleast_1d(array))


def _checked_sampling(sampling: Any, ndim: int) -> list[float]:
    """The distance between neighbours along each axis."""
    steps = []
    for step in per_axis(sampling, ndim, "sampling"):
        try:
            length = abs(float(step))
        except (TypeError, ValueError) as error:
            raise TypeError(f"sampling must be numbers, got {sampling!r}: {error}") from None
        if length != 0 and not _LEAST <= length <= _MOST:
            raise ValueError(
                f"sampling must be 0 or from {_LEAST:g} to {_MOST:g}, so that its square is a "
                f"number, got {sampling!r}; change the unit of length"
            )
        steps.append(length)
    return steps


# ---- Euclidean -----------------------------------------------------------------------------------


def _euclidean(
    place: Place, unset: Array, steps: list[float] | None, indices: bool
) -> tuple[Array, Array | None]:
    """Distances to the nearest False, and its index: the first in C order of those equally near."""
    xp, shape = place.array_module, unset.shape
    weights = [1.0] * unset.ndim if steps is None else [step * step for step in steps]
    largest = math.fsum(w * (n - 1) ** 2 for w, n in zip(weights, shape, strict=True) if n)
    exact = largest <= _EXACT and all(w.is_integer() for w in weights)
    squares = xp.empty(shape, np.float64)
    winners = xp.empty((unset.ndim, *shape), np.int32) if indices else None
    for axis in range(unset.ndim - 1, -1, -1):
        step = Pass(
            axis,
            costs(shape[axis], weights[axis]),
            squares,
            None if winners is None else winners[axis],
            None if winners is None or axis == unset.ndim - 1 else winners[axis + 1 :],
            finish=Finish.ROOT if axis == 0 else Finish.TO_NEAREST,
            exact=exact,
        )
        if axis == unset.ndim - 1:
            neighbourhood.nearest(place, unset, step)
        else:
            neighbourhood.parabolas(place, squares, step)
    return squares, winners


def distance_transform_edt(
    input: Any,
    sampling: Any = None,
    return_distances: Any = True,
    return_indices: Any = False,
    distances: Any = None,
    indices: Any = None,
) -> Any:
    r"""Exact Euclidean distance transform: `scipy.ndimage.distance_transform_edt`.

    .. math:: out[x] = \min_{y:\ input[y] = 0} \sqrt{\sum_a (s_a (x_a - y_a))^2}

    Parameters
    ----------
    input : array_like
        NumPy or CuPy, of any dtype and rank. What is not zero is foreground; a 0-d array becomes
        one of shape (1,), as in SciPy.
    sampling : float or sequence of float, optional
        Distance s between neighbours, along all axes or along each; 1 by default.
    return_distances, return_indices : bool
        Which results are wanted.
    distances : array, optional
        Where the distances go: float64, of the input's shape. They are not returned then.
    indices : array, optional
        Where the indices go: int32, of shape (input.ndim, \*input.shape).

    Returns
    -------
    distances : array
        float64, of the input's shape, library and device.
    indices : array
        int32: for each element a nearest background element, its index along axis a in
        `indices[a]`. Of several that are equally near, the first in C order.

    Raises
    ------
    RuntimeError
        As SciPy does: nothing is wanted, an array is given for what is not wanted or has the wrong
        shape or dtype, a sampling of the wrong length.
    ValueError, TypeError
        A sampling that is not finite, or whose square is no number.

    Notes
    -----
    Without sampling (or where its squares are integers), squared distances are integers, exact up
    to 2**53, and the result is their correctly rounded root: SciPy's bits. With sampling, squares
    are summed from the last axis to the first, within 2 ulp.

    Where nothing is background, distances are inf and indices -1 (SciPy measures from an element
    that does not exist).

    Each axis is an erosion by a parabola without end [1]_, [2]_; the time grows linearly with the
    number of elements (times the logarithm of the longest axis), and does not depend on them.
    Besides the results, and a bool copy of an input of another dtype, no array is allocated.

    References
    ----------
    .. [1] R. van den Boomgaard, "Mathematical morphology: extensions towards computer vision", PhD
       thesis, University of Amsterdam, 1992.
    .. [2] P. F. Felzenszwalb and D. P. Huttenlocher, "Distance transforms of sampled functions",
       Theory of Computing 8 (2012), 415-428.

    Examples
    --------
    >>> import numpy as np
    >>> distance_transform_edt(np.array([[0, 1, 1], [1, 1, 1]])).round(2)
    array([[0.  , 1.  , 2.  ],
           [1.  , 1.41, 2.24]])
    >>> distance_transform_edt([0, 1, 1, 1, 0], return_distances=False, return_indices=True)
    array([[0, 0, 0, 4, 4]], dtype=int32)
    >>> distance_transform_edt([1, 1])
    array([inf, inf])
    """
    place, unset = _foreground(input)
    wanted = _Wanted(place, return_distances, return_indices, distances, indices)
    steps = None if sampling is None else _checked_sampling(sampling, unset.ndim)
    wanted.require(unset.shape, np.float64, RuntimeError)
    found, winners = _euclidean(place, unset, steps, wanted.return_indices)
    return wanted.deliver(found if wanted.return_distances else None, winners)
