"""Grey-scale morphology, with SciPy's signatures: compositions of minima and maxima.

An erosion is a minimum over a window, a dilation a maximum over the reflected window; everything
else is made of these two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.errors import FootprintWarning, warn
from semiconv_cupy.ndimage import neighbourhood, reference
from semiconv_cupy.ndimage.arguments import (
    Array,
    as_array,
    as_numpy,
    is_output_array,
    output_dtype,
)
from semiconv_cupy.ndimage.extrema import extremum
from semiconv_cupy.ndimage.filters import warn_of_ignored_size
from semiconv_cupy.ndimage.window import WindowArguments, window_arguments

__all__ = [
    "black_tophat",
    "grey_closing",
    "grey_dilation",
    "grey_erosion",
    "grey_opening",
    "morphological_gradient",
    "morphological_laplace",
    "white_tophat",
]


# ---- the image and the window --------------------------------------------------------------------


def _image(
    input: Any, size: Any, footprint: Any, structure: Any, output: Any = None
) -> tuple[Place, Array]:
    """Where the input lies, and the input as an array; warns of a window that looks mistaken.

    An `output` array is checked here where the function computes several extrema: nothing may be
    computed before its error is raised.
    """
    if size is None and footprint is None and structure is None:
        raise ValueError("size, footprint, or structure must be specified")
    warn_of_ignored_size(size, footprint)
    if structure is not None:
        _warn_of_a_footprint(input, structure)
    place, input = as_array(input)
    if is_output_array(place, output):
        output_dtype(place, output, input)
    return place, input


def _warn_of_a_footprint(input: Any, structure: Any) -> None:
    """Warn of a structure that is probably meant as a footprint."""
    structure = as_numpy(structure, name="structure")
    flags = structure.dtype.kind == "b"
    ones = structure.size > 1 and structure.flat[0] == 1 and bool((structure == 1).all())
    # To a bool image every structure is a set of taps (`WindowArguments.resolve`).
    if (flags or ones) and as_array(input)[1].dtype.kind != "b":
        warn(
            f"structure is {'of bool' if flags else 'nothing but ones'}: its values are added to "
            "the image (subtracted in an erosion), and the result is off by 1; for a flat window "
            "pass it as footprint=",
            FootprintWarning,
        )


def _erode(place: Place, input: Array, window: WindowArguments, output: Any = None) -> Array:
    return extremum(place, input, window, output, minimum=True)


def _dilate(place: Place, input: Array, window: WindowArguments, output: Any = None) -> Array:
    return extremum(place, input, window, output, minimum=False, reflected=True)


# ---- erosion, dilation, opening, closing ---------------------------------------------------------


@by_chunks
def grey_erosion(
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
    r"""Grey-scale erosion: `scipy.ndimage.grey_erosion` for NumPy and CuPy arrays.

    .. math:: out[x] = \min_{y \in F} input[x + y - c] - structure[y], \quad
              c = \lfloor K / 2 \rfloor + origin

    Parameters
    ----------
    input, size, footprint, output, mode, cval, origin, axes
        As in `minimum_filter`. At least one of `size`, `footprint`, `structure` is needed. With
        ``mode="ignore"`` openings are nowhere above the image and closings nowhere below it, by
        any footprint.
    structure : array_like, optional
        The structuring function, of shape K; zero everywhere by default. Where a footprint is given
        as well, only its taps take part. An outer sum that knows its factors
        (`semiconv_cupy.structuring.quadratic`) is applied one axis at a time.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    Warns
    -----
    FootprintWarning
        For a structure of bool or of nothing but ones, which probably is a footprint: its values
        are added, and the result is off by 1. Not to a bool image.

    Notes
    -----
    To an integer image a structure is rounded towards zero (but its first tap, as in SciPy).

    Where SciPy is wrong this differs. Integers are exact in 64 bits and saturate (SciPy computes in
    double, and 250 + 10 in uint8 is 4 or 255, by its build). To a bool image a structure is a set,
    its taps that are not zero (SciPy's result is True everywhere). NaN is never selected. `output`
    may be the input, in the compositions too.

    Mathematics: Serra, "Image Analysis and Mathematical Morphology", 1982; Heijmans, "Theoretical
    aspects of gray-level morphology", IEEE TPAMI 13 (1991).

    Examples
    --------
    >>> grey_erosion(np.array([3, 9, 9, 9, 3, 9]), structure=[-2, 0, -2], mode="nearest")
    array([3, 5, 9, 5, 3, 5])
    """
    place, input = _image(input, size, footprint, structure)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    return _erode(place, input, window, output)


@by_chunks
def grey_dilation(
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
    r"""Grey-scale dilation: `scipy.ndimage.grey_dilation` for NumPy and CuPy arrays.

    .. math:: out[x] = \max_{y \in F} input[x - y + c] + structure[y]

    The adjoint of `grey_erosion`; parameters, errors and notes as there.

    Examples
    --------
    >>> grey_dilation(np.array([0, 0, 5, 0, 0, 0, 0]), structure=[-1, 0, -1])
    array([0, 4, 5, 4, 0, 0, 0])
    >>> grey_dilation(np.array([250, 3], np.uint8), structure=[0, 10, 0])  # saturates
    array([255, 250], dtype=uint8)
    """
    place, input = _image(input, size, footprint, structure)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    return _dilate(place, input, window, output)


@by_chunks
def grey_opening(
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
    """Erosion, then dilation with the same window; parameters and notes as in `grey_erosion`.

    Examples
    --------
    >>> grey_opening(np.array([0, 7, 0, 5, 5, 5, 0]), size=3)
    array([0, 0, 0, 5, 5, 5, 0])
    """
    place, input = _image(input, size, footprint, structure, output)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    return _dilate(place, _erode(place, input, window), window, output)


@by_chunks
def grey_closing(
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
    """Dilation, then erosion with the same window; parameters and notes as in `grey_erosion`.

    Examples
    --------
    >>> grey_closing(np.array([5, 0, 5, 0, 0, 0, 5]), size=3)
    array([5, 5, 5, 0, 0, 0, 5])
    """
    place, input = _image(input, size, footprint, structure, output)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    return _erode(place, _dilate(place, input, window), window, output)


# ---- differences ---------------------------------------------------------------------------------


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
    """Dilation minus erosion; parameters and notes as in `grey_erosion`.

    An `output` that is a dtype is ignored, as in SciPy. Of a bool image it is the set difference
    (SciPy raises). Integers are subtracted modulo their range, as in SciPy: a difference beyond 127
    of int8 is negative. Convert such an image to a wider dtype before. With ``mode="ignore"``
    differences need a window that sees some element from everywhere: else ValueError.

    Examples
    --------
    >>> morphological_gradient(np.array([0, 0, 0, 7, 7, 7]), size=3)
    array([0, 0, 7, 7, 0, 0])
    """
    place, input = _image(input, size, footprint, structure, output)
    output = output if is_output_array(place, output) else None
    _require_differences(place, input, output)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    _require_something_seen(place, input, window)
    dilated = _dilate(place, input, window)
    eroded = _erode(place, input, window, output)
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
    """The input minus its opening: what is bright and small; parameters as in `grey_erosion`.

    Right for an `output` that is the input, where SciPy's is zero.

    Examples
    --------
    >>> white_tophat(np.array([0, 7, 0, 5, 5, 5, 0]), size=3)
    array([0, 7, 0, 0, 0, 0, 0])
    """
    place, input = _image(input, size, footprint, structure, output)
    _require_differences(place, input, output)
    input = _kept(place, input, output)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    _require_something_seen(place, input, window)
    opened = _dilate(place, _erode(place, input, window), window, output)
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
    """The closing minus the input: what is dark and small; parameters as in `grey_erosion`.

    Right for an `output` that is the input, where SciPy's is zero.

    Examples
    --------
    >>> black_tophat(np.array([5, 0, 5, 0, 0, 0, 5]), size=3)
    array([0, 5, 0, 0, 0, 0, 0])
    """
    place, input = _image(input, size, footprint, structure, output)
    _require_differences(place, input, output)
    input = _kept(place, input, output)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    _require_something_seen(place, input, window)
    closed = _erode(place, _dilate(place, input, window), window, output)
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
    r"""Dilation plus erosion minus twice the input; parameters and notes as in `grey_erosion`.

    .. math:: out = \delta(input) + \varepsilon(input) - 2\, input

    An `output` that is a dtype is ignored, as in SciPy. Integers are added modulo their range.
    Floating results are SciPy's bits, but right where SciPy's sum overflows on the way; of float16,
    which SciPy does not know, they are rounded once.

    Examples
    --------
    >>> morphological_laplace(np.array([0, 0, 0, 7, 7, 7]), size=3)
    array([ 0,  0,  7, -7,  0,  0])
    """
    place, input = _image(input, size, footprint, structure, output)
    if is_output_array(place, output):
        input = _kept(place, input, output)
    else:
        output = None
    _require_differences(place, input, output)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    _require_something_seen(place, input, window)
    dilated = _dilate(place, input, window)
    eroded = _erode(place, input, window, output)
    return _laplacian(place, dilated, eroded, input, lambda: _erode(place, input, window))


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
