"""Differences of grey-scale morphology, with SciPy's signatures: gradient, top-hats, Laplacian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage import neighbourhood, reference
from semiconv_cupy.ndimage.arguments import Array, is_output_array, output_dtype
from semiconv_cupy.ndimage.morphology import dilate, erode, image_of
from semiconv_cupy.ndimage.window import WindowArguments, window_arguments

__all__ = ["black_tophat", "morphological_gradient", "morphological_laplace", "white_tophat"]


@by_chunks
def morphological_gradient(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""Dilation minus erosion: `scipy.ndimage.morphological_gradient`.

    .. math:: out = \delta(input) - \varepsilon(input)

    An `output` that is a dtype is ignored, as in SciPy. Of a bool image it is the set difference
    (SciPy raises). Integers are subtracted modulo their range, as in SciPy: a difference beyond 127
    of int8 is negative. Convert such an image to a wider dtype before. With ``mode="ignore"``
    differences need a window that sees some element from everywhere: else ValueError.

    Parameters
    ----------
    input, size, footprint, structure, output, mode, cval, origin, axes
        As in `grey_erosion`.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included; ValueError for a window that sees nothing somewhere.

    See Also
    --------
    morphological_laplace : The second difference.
    grey_dilation, grey_erosion : Its two terms; notes on dtypes and borders.

    Examples
    --------
    >>> morphological_gradient(np.array([0, 0, 0, 7, 7, 7]), size=3)
    array([0, 0, 7, 7, 0, 0])
    """
    place, input = image_of(input, size, footprint, structure, output)
    output = output if is_output_array(place, output) else None
    given = (size, footprint, structure, mode, cval, origin, axes)
    window = _window_of_difference(place, input, output, given)
    dilated = dilate(place, input, window)
    eroded = erode(place, input, window, output)
    return _difference(place, dilated, eroded, out=eroded)


@by_chunks
def white_tophat(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""The input minus its opening, what is bright and small: `scipy.ndimage.white_tophat`.

    .. math:: out = input - \delta(\varepsilon(input))

    Right for an `output` that is the input, where SciPy's is zero.

    Parameters
    ----------
    input, size, footprint, structure, output, mode, cval, origin, axes
        As in `grey_erosion`.

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
    black_tophat : What is dark and small.
    grey_opening : What it subtracts; notes on dtypes and borders are those of `grey_erosion`.
    semiconv_cupy.rolling_ball : A background below all details.

    Examples
    --------
    >>> white_tophat(np.array([0, 7, 0, 5, 5, 5, 0]), size=3)
    array([0, 7, 0, 0, 0, 0, 0])
    """
    place, input = image_of(input, size, footprint, structure, output)
    given = (size, footprint, structure, mode, cval, origin, axes)
    window = _window_of_difference(place, input, output, given)
    input = _kept(place, input, output)
    opened = dilate(place, erode(place, input, window), window, output)
    return _difference(place, input, opened, out=opened)


@by_chunks
def black_tophat(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""The closing minus the input, what is dark and small: `scipy.ndimage.black_tophat`.

    .. math:: out = \varepsilon(\delta(input)) - input

    Right for an `output` that is the input, where SciPy's is zero.

    Parameters
    ----------
    input, size, footprint, structure, output, mode, cval, origin, axes
        As in `grey_erosion`.

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
    white_tophat : What is bright and small.
    grey_closing : From what it subtracts; notes on dtypes and borders are those of `grey_erosion`.

    Examples
    --------
    >>> black_tophat(np.array([5, 0, 5, 0, 0, 0, 5]), size=3)
    array([0, 5, 0, 0, 0, 0, 0])
    """
    place, input = image_of(input, size, footprint, structure, output)
    given = (size, footprint, structure, mode, cval, origin, axes)
    window = _window_of_difference(place, input, output, given)
    input = _kept(place, input, output)
    closed = erode(place, dilate(place, input, window), window, output)
    return _difference(place, closed, input, out=closed)


@by_chunks
def morphological_laplace(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""Dilation plus erosion minus twice the input: `scipy.ndimage.morphological_laplace`.

    .. math:: out = \delta(input) + \varepsilon(input) - 2\, input

    An `output` that is a dtype is ignored, as in SciPy. Integers are added modulo their range.
    Floating results are SciPy's bits, but right where SciPy's sum overflows on the way; of float16,
    which SciPy does not know, they are rounded once.

    Parameters
    ----------
    input, size, footprint, structure, output, mode, cval, origin, axes
        As in `grey_erosion`.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included; ValueError for a window that sees nothing somewhere.

    See Also
    --------
    morphological_gradient : The first difference.
    grey_dilation, grey_erosion : Its terms; notes on dtypes and borders.

    Examples
    --------
    >>> morphological_laplace(np.array([0, 0, 0, 7, 7, 7]), size=3)
    array([ 0,  0,  7, -7,  0,  0])
    """
    place, input = image_of(input, size, footprint, structure, output)
    if is_output_array(place, output):
        input = _kept(place, input, output)
    else:
        output = None
    given = (size, footprint, structure, mode, cval, origin, axes)
    window = _window_of_difference(place, input, output, given)
    dilated = dilate(place, input, window)
    eroded = erode(place, input, window, output)
    return _laplacian(place, dilated, eroded, input, lambda: erode(place, input, window))


def _window_of_difference(
    place: Place, input: Array, output: Any, given: tuple[Any, ...]
) -> WindowArguments:
    """The window of `given`, checked: its extrema have a difference, which `output` can hold."""
    _require_differences(place, input, output)
    window = window_arguments(input, *given)
    _require_something_seen(place, input, window)
    return window


def _require_differences(place: Place, input: Array, output: Any) -> None:
    """TypeError for an output of another kind than its differences to the input, as in SciPy.

    A result that is only selected is converted to any dtype.
    """
    if output is None:
        return
    dtype = output_dtype(place, output, input)
    both = np.result_type(input.dtype, dtype)
    if not np.can_cast(both, dtype, "same_kind"):
        raise TypeError(
            f"output of {dtype} cannot hold differences to an input of {input.dtype}: pass one of "
            f"{both}, or None"
        )


def _require_something_seen(place: Place, input: Array, arguments: WindowArguments) -> None:
    """ValueError for a window of mode "ignore" that sees nothing from some element.

    Its extrema are the infinities, or the ends of an integer's range, which have no difference.
    """
    mode = arguments.mode
    modes = (mode,) if isinstance(mode, str) or not np.iterable(mode) else tuple(mode)
    if "ignore" not in modes:
        return
    window = arguments.resolve(input.ndim, input.dtype, minimum=True)
    if window.contains_own_position() or not window.ignoring():
        return
    seen = window._replace(values=None, factors=None)
    ones = place.array_module.ones(input.shape, bool)
    if not bool(neighbourhood.extremum(place, ones, seen, minimum=False).all()):
        raise ValueError(
            f"with mode={mode!r} this footprint of shape {window.shape} sees nothing of an image "
            f"of shape {input.shape} from some of its elements, and has no extrema to subtract "
            "there; pass a footprint that is True at its own position, or another mode"
        )


def _kept(place: Place, input: Array, output: Any) -> Array:
    """The input, copied if writing to `output` might change it."""
    if is_output_array(place, output) and place.array_module.may_share_memory(input, output):
        return input.copy()
    return input


def _difference(place: Place, left: Array, right: Array, out: Array) -> Array:
    """left - right; of bool arrays, one of which contains the other, the set difference."""
    xp = place.array_module
    if left.dtype.kind == "b" and right.dtype.kind == "b":
        return xp.bitwise_xor(left, right, out=out)
    return xp.subtract(left, right, out=out)


def _laplacian(
    place: Place, dilated: Array, eroded: Array, input: Array, erode_again: Callable[[], Array]
) -> Array:
    """dilated + eroded - 2 input, written over `eroded`.

    Summed from the left as in SciPy, whose bits these are. Where such a sum overflows on the way,
    `erode_again` gives the erosion that was written over, and the sum is formed anew.
    """
    xp = place.array_module
    if eroded.dtype == np.float16:
        wide = xp.add(dilated, eroded, dtype=np.float64)  # exact, as are the differences
        wide -= input
        wide -= input
        eroded[...] = reference.c_cast(place, wide, eroded.dtype)
        return eroded
    # Where NumPy does not call back, or not for these dtypes, only a look at the result shows an
    # overflow, which takes one pass more.
    same = place.reports_overflow and dilated.dtype == eroded.dtype == input.dtype
    overflows = [] if same else ["unknown"]
    with np.errstate(over="call", invalid="call", call=lambda kind, _: overflows.append(kind)):
        result = xp.add(dilated, eroded, out=eroded)
        xp.subtract(result, input, out=result)
        xp.subtract(result, input, out=result)
    if overflows and result.dtype.kind == "f":
        lost = ~xp.isfinite(result)
        if bool(lost.any()):
            result[lost] = _far_laplacian(xp, dilated[lost], erode_again()[lost], input[lost])
    return result


def _far_laplacian(xp: Any, dilated: Array, eroded: Array, input: Array) -> Array:
    """dilated + eroded - 2 input where that overflows on the way: infinite only if it is so.

    A quarter of each number leaves room for the sums, whose rounding errors are added at the end.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        upper, upper_error = _two_sum(dilated * 0.25, input * -0.25)
        lower, lower_error = _two_sum(eroded * 0.25, input * -0.25)
        total, error = _two_sum(upper, lower)
        corrected = total + (upper_error + lower_error + error)
        return xp.where(xp.isfinite(total), corrected, total) * 4


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum, and its exact error (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)
