"""Grey-scale morphology, with SciPy's signatures: compositions of minima and maxima.

An erosion is a minimum over a window, a dilation a maximum over the reflected window; everything
else is made of these two. What is subtracted of them is in ``differences``.
"""

from __future__ import annotations

from typing import Any

from semiconv_cupy.backends.place import Place
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.errors import FootprintWarning, warn
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

__all__ = ["grey_closing", "grey_dilation", "grey_erosion", "grey_opening"]


# ---- the image and the window --------------------------------------------------------------------


def image_of(
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


def erode(place: Place, input: Array, window: WindowArguments, output: Any = None) -> Array:
    """The minimum over the window."""
    return extremum(place, input, window, output, minimum=True)


def dilate(place: Place, input: Array, window: WindowArguments, output: Any = None) -> Array:
    """The maximum over the reflected window."""
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

    See Also
    --------
    grey_dilation : Its adjoint.
    grey_opening, grey_closing : Compositions of both.
    semiconv_cupy.parabolic_erosion : By a parabola without end.
    semiconv_cupy.semifield_conv : Batches, channels, strides and gradients.

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
    >>> import numpy as np
    >>> grey_erosion(np.array([3, 9, 9, 9, 3, 9]), structure=[-2, 0, -2], mode="nearest")
    array([3, 5, 9, 5, 3, 5])
    """
    place, input = image_of(input, size, footprint, structure)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    return erode(place, input, window, output)


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

    The adjoint of `grey_erosion`, whose notes hold here, too.

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
    grey_erosion : Its adjoint, and the notes on dtypes and borders.
    morphological_gradient : Dilation minus erosion.
    semiconv_cupy.parabolic_dilation : By a parabola without end.
    semiconv_cupy.semifield_conv : Batches, channels, strides and gradients.

    Examples
    --------
    >>> import numpy as np
    >>> grey_dilation(np.array([0, 0, 5, 0, 0, 0, 0]), structure=[-1, 0, -1])
    array([0, 4, 5, 4, 0, 0, 0])
    >>> grey_dilation(np.array([250, 3], np.uint8), structure=[0, 10, 0])  # saturates
    array([255, 250], dtype=uint8)
    """
    place, input = image_of(input, size, footprint, structure)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    return dilate(place, input, window, output)


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
    r"""Erosion, then dilation with the same window: `scipy.ndimage.grey_opening`.

    .. math:: out = \delta(\varepsilon(input))

    It removes what is bright and narrower than the window.

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
    grey_closing : Removes what is dark and narrow.
    white_tophat : What an opening removes.
    semiconv_cupy.opening_by_reconstruction : Keeps the outlines of what remains.
    grey_erosion : Notes on dtypes and borders.

    Examples
    --------
    >>> import numpy as np
    >>> grey_opening(np.array([0, 7, 0, 5, 5, 5, 0]), size=3)
    array([0, 0, 0, 5, 5, 5, 0])
    """
    place, input = image_of(input, size, footprint, structure, output)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    return dilate(place, erode(place, input, window), window, output)


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
    r"""Dilation, then erosion with the same window: `scipy.ndimage.grey_closing`.

    .. math:: out = \varepsilon(\delta(input))

    It fills what is dark and narrower than the window.

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
    grey_opening : Removes what is bright and narrow.
    black_tophat : What a closing fills.
    semiconv_cupy.closing_by_reconstruction : Keeps the outlines of what remains.
    grey_erosion : Notes on dtypes and borders.

    Examples
    --------
    >>> import numpy as np
    >>> grey_closing(np.array([5, 0, 5, 0, 0, 0, 5]), size=3)
    array([5, 5, 5, 0, 0, 0, 5])
    """
    place, input = image_of(input, size, footprint, structure, output)
    window = window_arguments(input, size, footprint, structure, mode, cval, origin, axes)
    return erode(place, dilate(place, input, window), window, output)
