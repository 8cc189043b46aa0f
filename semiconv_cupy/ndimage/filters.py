"""Minimum and maximum filters, with SciPy's signatures."""

from __future__ import annotations

from typing import Any

from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.errors import warn
from semiconv_cupy.ndimage.arguments import (
    Array,
    as_array,
    check_axis,
    check_constant,
    check_size,
    output_dtype,
    positions_before,
    require_real,
)
from semiconv_cupy.ndimage.borders import check_mode
from semiconv_cupy.ndimage.extrema import extremum, extremum_in_box
from semiconv_cupy.ndimage.window import Window, window_arguments

__all__ = [
    "maximum_filter",
    "maximum_filter1d",
    "minimum_filter",
    "minimum_filter1d",
]


def warn_of_ignored_size(size: Any, footprint: Any) -> None:
    """Warn where a caller gives both: the footprint says which neighbours there are."""
    if size is not None and footprint is not None:
        warn("ignoring size because footprint is set", UserWarning)


@by_chunks
def minimum_filter(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""The minimum over a neighbourhood: `scipy.ndimage.minimum_filter` for NumPy and CuPy arrays.

    .. math:: out[x] = \min_{y \in F} input[x + y - \lfloor K / 2 \rfloor - origin]

    Parameters
    ----------
    input : array_like
        NumPy or CuPy, any number of axes; bool, integers, float16 (which SciPy does not know),
        float32 and float64.
    size : int or sequence of int
        The neighbourhood is a box of so many elements along each of `axes`.
    footprint : array_like of bool
        Or it is this set, of shape K; `size` is then ignored, with a warning.
    output : array or dtype, optional
        Where the result goes, which may be the input itself, or what dtype it has. A result that
        does not fit is converted as C does.
    mode : str or sequence of str
        What lies beyond the border: "reflect" (d c b a | a b c d | d c b a, also "grid-mirror"),
        "mirror" (d c b | a b c d | c b a), "nearest", "wrap" (also "grid-wrap"), "constant" (also
        "grid-constant"); and "ignore", which SciPy does not know: nothing, positions there take
        no part. Also a sequence of one for each of `axes` (in SciPy only with `size`).
    cval : float
        The constant; for an integer dtype rounded towards zero and limited to its range.
    origin : int or sequence of int
        Shifts the neighbourhood; positive values to lower indices.
    axes : int or tuple of int, optional
        The axes of the neighbourhood, (0, 1) for a colour picture (H, W, 3); all by default.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    See Also
    --------
    maximum_filter : The largest value.
    minimum_filter1d : Along one axis.
    grey_erosion : The same with a structuring function.

    Notes
    -----
    Any size costs nearly the same: boxes are built from windows that double, footprints from their
    runs. Nothing is compiled for another size, origin or mode. NaN is never selected (SciPy's
    result depends on the direction of its loop); where there is nothing but NaN, the result is
    +inf (-inf for the maximum). Only a window of nothing but its own position copies NaN, too.

    With ``mode="ignore"``, a footprint that does not contain its own position may see nothing at
    all: the result then is the semifield's zero, +inf or the dtype's largest integer (for the
    maximum -inf or the smallest). It is the result's dtype whose range counts, if `output` can hold
    all values of the input. Where "ignore" and "constant" meet beyond a corner, nothing is seen.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.array([[5, 3, 8], [7, 1, 6], [4, 9, 2]])
    >>> minimum_filter(image, size=2)
    array([[5, 3, 3],
           [5, 1, 1],
           [4, 1, 1]])
    >>> minimum_filter(image, footprint=[[0, 1, 0], [1, 1, 1], [0, 1, 0]], mode="nearest")
    array([[3, 1, 3],
           [1, 1, 1],
           [4, 1, 2]])
    >>> minimum_filter(image, footprint=[[0, 1, 1]], mode="ignore")
    array([[3, 3, 8],
           [1, 1, 6],
           [4, 2, 2]])
    """
    warn_of_ignored_size(size, footprint)
    place, input = as_array(input)
    window = window_arguments(input, size, footprint, None, mode, cval, origin, axes)
    return extremum(place, input, window, output, minimum=True)


@by_chunks
def maximum_filter(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""The maximum over a neighbourhood: `scipy.ndimage.maximum_filter`.

    .. math:: out[x] = \max_{y \in F} input[x + y - \lfloor K / 2 \rfloor - origin]

    Parameters
    ----------
    input, size, footprint, output, mode, cval, origin, axes
        As in `minimum_filter`, and so are dtypes and notes.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    See Also
    --------
    minimum_filter : The smallest value.
    maximum_filter1d : Along one axis.
    grey_dilation : The same with a structuring function, and with the window reflected.

    Examples
    --------
    >>> import numpy as np
    >>> maximum_filter(np.array([5, 3, 8, 1, 2]), size=3)
    array([5, 8, 8, 8, 2])
    """
    warn_of_ignored_size(size, footprint)
    place, input = as_array(input)
    window = window_arguments(input, size, footprint, None, mode, cval, origin, axes)
    return extremum(place, input, window, output, minimum=False)


def _extremum1d(
    input: Any, size: Any, axis: Any, output: Any, mode: Any, cval: Any, origin: Any, minimum: bool
) -> Array:
    place, input = as_array(input)
    require_real(input)
    axis = check_axis(axis, input.ndim)
    size = check_size(size)
    if size < 1:
        raise RuntimeError(f"incorrect filter size: size must be at least 1, got {size}")
    dtype = output_dtype(place, output, input)
    cval = check_constant(cval)
    before = positions_before(size, origin)
    box = Window.along(axis, input.ndim, size, before, check_mode(mode), cval)
    return extremum_in_box(place, input, box, output, dtype, minimum)


@by_chunks
def minimum_filter1d(
    input: Any,
    size: int,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int = 0,
) -> Array:
    r"""The minimum of every `size` neighbours along one axis.

    .. math:: out[x] = \min_{0 \le y < size} input[x + y - \lfloor size / 2 \rfloor - origin]

    Parameters
    ----------
    input, output, mode, cval, origin
        As in `minimum_filter`.
    size : int
        Number of neighbours.
    axis : int
        The axis.

    Returns
    -------
    array
        Of the input's shape.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    See Also
    --------
    maximum_filter1d : The largest value.
    minimum_filter : Along several axes; dtypes and notes.

    Examples
    --------
    >>> import numpy as np
    >>> minimum_filter1d(np.array([2, 8, 0, 4, 1, 9]), size=3)
    array([2, 0, 0, 0, 1, 1])
    """
    return _extremum1d(input, size, axis, output, mode, cval, origin, True)


@by_chunks
def maximum_filter1d(
    input: Any,
    size: int,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int = 0,
) -> Array:
    r"""The maximum of every `size` neighbours along one axis.

    .. math:: out[x] = \max_{0 \le y < size} input[x + y - \lfloor size / 2 \rfloor - origin]

    Parameters
    ----------
    input, size, axis, output, mode, cval, origin
        As in `minimum_filter1d`.

    Returns
    -------
    array
        Of the input's shape.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    See Also
    --------
    minimum_filter1d : The smallest value.
    maximum_filter : Along several axes; dtypes and notes.

    Examples
    --------
    >>> import numpy as np
    >>> maximum_filter1d(np.array([2, 8, 0, 4, 1, 9]), size=3)
    array([8, 8, 8, 4, 9, 9])
    """
    return _extremum1d(input, size, axis, output, mode, cval, origin, False)
