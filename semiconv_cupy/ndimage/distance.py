"""Distance transforms, with SciPy's signatures: how far the nearest background lies, and where.

The Euclidean one is exact: squared distances are erosions by parabolas along one axis after another
(``lines``, ``nearest``), and these are sums of integers where no sampling is given.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import Array, as_array, as_numpy, per_axis
from semiconv_cupy.ndimage.lines import squares_of
from semiconv_cupy.ndimage.nearest import (
    first_nearest,
    last_by_steps,
    last_in_cube,
    last_nearest,
)
from semiconv_cupy.ndimage.structures import generate_binary_structure

__all__ = ["distance_transform_bf", "distance_transform_cdt", "distance_transform_edt"]

_TAXICAB = ("taxicab", "cityblock", "manhattan")
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
            if array.dtype.newbyteorder("=") != its_dtype:
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
    if array.dtype.kind not in "biufc":
        raise RuntimeError(f"data type not supported: input is {array.dtype}, not of numbers")
    array = array if array.dtype == np.bool_ else array != 0
    xp = place.array_module
    return place, xp.ascontiguousarray(xp.atleast_1d(array))


def checked_sampling(sampling: Any, ndim: int) -> list[float]:
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


@by_chunks
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
        shape or dtype, a sampling of the wrong length. An input that is not of numbers.
    ValueError, TypeError
        A sampling that is not finite, or whose square is no number.

    See Also
    --------
    distance_transform_cdt : In steps, of integers.
    distance_transform_bf : By three metrics.
    semiconv_cupy.parabolic_erosion : The same of grey values, squared.
    torch_bridge.functional.distance_transform_edt : Of tensors, differentiable.

    Notes
    -----
    Without sampling (or where its squares are integers, or halves, quarters, ...), squared
    distances are exact while 53 bits hold them, and the result is their correctly rounded root:
    SciPy's bits. With any other sampling, squares are summed from the last axis to the first,
    within 2 ulp.

    Where nothing is background, distances are inf and indices -1 (SciPy measures from an element
    that does not exist).

    Each axis is an erosion by a parabola without end [1]_, [2]_; the time grows linearly with the
    number of elements (times the logarithm of the longest axis), and does not depend on them.
    Besides the results, and a bool copy of an input of another dtype, at most one array of float32
    is allocated, of the input's shape.

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
    steps = None if sampling is None else checked_sampling(sampling, unset.ndim)
    wanted.require(unset.shape, np.float64, RuntimeError)
    found, winners = first_nearest(
        place, unset, squares_of(unset.shape, steps), wanted.return_indices
    )
    return wanted.deliver(found if wanted.return_distances else None, winners)


# ---- other metrics -------------------------------------------------------------------------------


@by_chunks
def distance_transform_bf(
    input: Any,
    metric: str = "euclidean",
    sampling: Any = None,
    return_distances: Any = True,
    return_indices: Any = False,
    distances: Any = None,
    indices: Any = None,
) -> Any:
    r"""Distances by any metric: `scipy.ndimage.distance_transform_bf`, not by brute force.

    .. math:: out[x] = \min_{y:\ input[y] = 0} d(x, y)

    Parameters
    ----------
    input, return_distances, return_indices, distances, indices
        As in `distance_transform_edt`; `distances` is of uint32 for the metrics of integers.
    metric : {"euclidean", "taxicab", "chessboard"}
        Also "cityblock" and "manhattan" for taxicab; in any case of letters.
    sampling : float or sequence of float, optional
        As in `distance_transform_edt`; only for the Euclidean metric.

    Returns
    -------
    distances : array
        float64, or uint32 for taxicab and chessboard.
    indices : array
        int32. Of several elements that are equally near, the last in C order, as in SciPy.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `distance_transform_edt`; RuntimeError for another metric.

    See Also
    --------
    distance_transform_edt : Euclidean; notes and sources.
    distance_transform_cdt : Taxicab, chessboard and other steps, of int32.

    Notes
    -----
    One pass along each axis, as in `distance_transform_edt`; distances of integers by two scans,
    the chessboard's indices by searches in trees. SciPy compares all pairs of foreground and border
    elements. Where nothing is background, distances are inf (2**32 - 1 of uint32) and indices -1.

    Examples
    --------
    >>> distance_transform_bf([[0, 1, 1], [1, 1, 1]], "taxicab")
    array([[0, 1, 2],
           [1, 2, 3]], dtype=uint32)
    """
    place, unset = _foreground(input)
    wanted = _Wanted(place, return_distances, return_indices, distances, indices)
    kind = metric.lower() if isinstance(metric, str) else metric
    if kind not in ("euclidean", "chessboard", *_TAXICAB):
        raise RuntimeError(
            "distance metric not supported: metric must be 'euclidean', 'taxicab' or "
            f"'chessboard', got {metric!r}"
        )
    steps = None if sampling is None else checked_sampling(sampling, unset.ndim)
    dtype = np.float64 if kind == "euclidean" else np.uint32
    wanted.require(unset.shape, dtype, RuntimeError)
    if kind == "euclidean":
        found, winners = last_nearest(
            place, unset, squares_of(unset.shape, steps), wanted.return_indices
        )
    else:
        chamfer = _chamfer_steps(kind, unset.ndim)
        found = neighbourhood.chamfer(place, unset, chamfer, features=False)[0]
        winners = None
        if wanted.return_indices and kind == "chessboard":
            winners = last_in_cube(place, unset, found, chamfer)
        elif wanted.return_indices:
            winners = last_by_steps(place, unset)
        found = found.view(np.uint32)  # -1, where nothing is background, is their highest number
    return wanted.deliver(found if wanted.return_distances else None, winners)


@by_chunks
def distance_transform_cdt(
    input: Any,
    metric: Any = "chessboard",
    return_distances: Any = True,
    return_indices: Any = False,
    distances: Any = None,
    indices: Any = None,
) -> Any:
    r"""Chamfer distances, in steps: `scipy.ndimage.distance_transform_cdt`.

    .. math:: out[x] = \min_{y:\ input[y] = 0} (\text{number of steps from } x \text{ to } y)

    Parameters
    ----------
    input, return_distances, return_indices, distances, indices
        As in `distance_transform_edt`; `distances` is of int32.
    metric : {"chessboard", "taxicab"} or array_like
        Steps to all neighbours, or to those along one axis ("cityblock" and "manhattan" are other
        names); or a structure of three elements along each axis, whose taps before its centre in C
        order, and those opposite to them, are steps.

    Returns
    -------
    distances : array
        int32; -1 where no step leads to the background.
    indices : array
        int32; a background element that the steps of one such path lead to, SciPy's; -1 where there
        is none.

    Raises
    ------
    ValueError
        Another metric, a structure of other sizes; arrays of the wrong shape or dtype; indices of
        2**31 elements or more.
    RuntimeError
        Nothing is wanted, or an array is given for what is not wanted.

    See Also
    --------
    distance_transform_edt : Euclidean distances.
    distance_transform_bf : Taxicab and chessboard, of uint32.

    Notes
    -----
    Two scans, in and against C order, as in SciPy, whose results these are for every structure
    (of other dtypes than bool by its taps that are not zero; SciPy reads its bytes). Only the
    indices of elements that no step connects with the background differ: SciPy's are their own.

    Examples
    --------
    >>> distance_transform_cdt([[0, 1, 1], [1, 1, 1]])
    array([[0, 1, 2],
           [1, 1, 2]], dtype=int32)
    """
    if return_indices and math.prod(getattr(input, "shape", ())) >= 2**31:
        raise ValueError(
            f"return_indices is for input of less than 2**31 elements, got shape {input.shape}; "
            "distance_transform_edt and distance_transform_bf have no such limit"
        )
    place, unset = _foreground(input)
    wanted = _Wanted(place, return_distances, return_indices, distances, indices)
    steps = _chamfer_steps(metric, unset.ndim)
    wanted.require(unset.shape, np.int32, ValueError)
    found, reached = neighbourhood.chamfer(place, unset, steps, wanted.return_indices)
    winners = None
    if reached is not None:
        xp = place.array_module
        winners = xp.empty((unset.ndim, *unset.shape), np.int32)
        for axis, size in enumerate(unset.shape):
            behind = math.prod(unset.shape[axis + 1 :])
            winners[axis] = xp.where(reached < 0, -1, reached // max(behind, 1) % max(size, 1))
    return wanted.deliver(found if wanted.return_distances else None, winners)


def _chamfer_steps(metric: Any, ndim: int) -> np.ndarray:
    """The steps of a metric that lead to what comes earlier in C order, one row each."""
    if isinstance(metric, str):
        if metric not in ("chessboard", *_TAXICAB):
            raise ValueError(
                "invalid metric provided: metric must be 'chessboard', 'taxicab' or a structure, "
                f"got {metric!r}"
            )
        structure = generate_binary_structure(ndim, ndim if metric == "chessboard" else 1)
    else:
        structure = as_numpy(metric, name="metric")
        if structure.ndim != ndim:
            raise ValueError(
                f"invalid metric provided: a structure must have {ndim} axes, as input, got "
                f"{structure.ndim}"
            )
        if any(size != 3 for size in structure.shape):
            raise ValueError(f"metric sizes must be equal to 3, got {structure.shape}")
    taps = np.argwhere(structure)
    half = 3**ndim // 2
    before = np.ravel_multi_index(tuple(taps.T), structure.shape) < half
    return np.ascontiguousarray(taps[before] - 1, np.int64)
