"""Binary erosions, dilations, openings and closings, with SciPy's signatures.

An erosion is a minimum over bool, a dilation a maximum; ``iterations`` repeats them in few passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage import calls
from semiconv_cupy.ndimage.arguments import (
    Array,
    as_array,
    check_axes,
    deliver,
    require_real,
)
from semiconv_cupy.ndimage.binary_arguments import (
    checked_output,
    mask_of,
    truth_of,
)
from semiconv_cupy.ndimage.extrema import delivered
from semiconv_cupy.ndimage.iterations import Step, iterate
from semiconv_cupy.ndimage.neighbourhood import Call
from semiconv_cupy.ndimage.structures import (
    binary_window,
    require_whole,
)

_MOST_ITERATIONS = 2**63

__all__ = [
    "binary_closing",
    "binary_dilation",
    "binary_erosion",
    "binary_opening",
]


@by_chunks
def binary_erosion(
    input: Any,
    structure: Any = None,
    iterations: int = 1,
    mask: Any = None,
    output: Any = None,
    border_value: int = 0,
    origin: Any = 0,
    brute_force: bool = False,
    *,
    axes: Any = None,
) -> Array:
    r"""Binary erosion: `scipy.ndimage.binary_erosion` for NumPy and CuPy arrays.

    .. math:: out[x] = \bigwedge_{y:\, structure[y]} input[x + y - \lfloor K / 2 \rfloor - origin]

    Parameters
    ----------
    input : array_like
        What is not zero is True.
    structure : array_like of bool, int or tuple of int, optional
        The cross of direct neighbours by default. As in CuPy an int, or a sequence of one for each
        axis, is the size of a full structure; along one axis only a tuple (k,), k > 1, is.
    iterations : int
        How often; below 1 until nothing changes. Any number ends soon: what no longer changes, or
        repeats, is not computed again.
    mask : array_like, optional
        Only elements where it is True change.
    output : array, optional
        Where the result goes, of any real dtype; it may be the input itself.
    border_value : int
        The truth of what lies beyond the border.
    origin, axes
        As in `minimum_filter`.
    brute_force : bool
        Accepted and without effect: every algorithm here looks at what it must and no more.

    Returns
    -------
    array of bool
        Or `output`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does. An origin outside the structure is an IndexError and a ValueError, one that
        is no integer an IndexError and a TypeError. Also a ValueError where `iterations` is below 1
        and the states always change, as by the structure [1, 0, 1] (SciPy never returns).

    See Also
    --------
    binary_dilation : The same of the complement, by the reflected structure.
    binary_opening, binary_closing : Compositions of both.
    distance_transform_edt : Erosions by balls of all radii at once.

    Notes
    -----
    Iterations of a box are one pass, those of the cross some log(iterations); what runs until
    nothing changes is a reconstruction by a queue [1]_. A ball or an ellipsoid of 200 rows or more
    goes by distances on the CPU, in a time that does not depend on its radii. A structure may be
    larger than the image (SciPy then writes beyond its arrays).

    References
    ----------
    .. [1] L. Vincent, "Morphological grayscale reconstruction in image analysis", IEEE Trans. Image
       Processing 2 (1993), 176-201.

    Examples
    --------
    >>> binary_erosion([0, 1, 1, 1, 0, 1]).astype(int)
    array([0, 0, 1, 0, 0, 0])
    """
    rest = border_value, origin, axes
    return _steps(input, structure, iterations, mask, output, rest, dilate=False)


@by_chunks
def binary_dilation(
    input: Any,
    structure: Any = None,
    iterations: int = 1,
    mask: Any = None,
    output: Any = None,
    border_value: int = 0,
    origin: Any = 0,
    brute_force: bool = False,
    *,
    axes: Any = None,
) -> Array:
    r"""Binary dilation: `scipy.ndimage.binary_dilation`; notes as in `binary_erosion`.

    .. math:: out[x] = \bigvee_{y:\, structure[y]} input[x - y + \lfloor K / 2 \rfloor + origin]

    Parameters
    ----------
    input, structure, iterations, mask, output, border_value, origin, brute_force, axes
        As in `binary_erosion`.

    Returns
    -------
    array of bool
        Or `output`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `binary_erosion`.

    See Also
    --------
    binary_erosion : The same of the complement, by the reflected structure.
    binary_propagation : Until nothing changes.
    iterate_structure : The structure of several dilations.

    Examples
    --------
    >>> binary_dilation([0, 0, 0, 1, 0, 0, 0], iterations=2).astype(int)
    array([0, 1, 1, 1, 1, 1, 0])
    """
    rest = border_value, origin, axes
    return _steps(input, structure, iterations, mask, output, rest, dilate=True)


@by_chunks
def binary_opening(
    input: Any,
    structure: Any = None,
    iterations: int = 1,
    output: Any = None,
    origin: Any = 0,
    mask: Any = None,
    border_value: int = 0,
    brute_force: bool = False,
    *,
    axes: Any = None,
) -> Array:
    r"""`iterations` erosions, then as many dilations: `scipy.ndimage.binary_opening`.

    .. math:: out = \delta^n(\varepsilon^n(input))

    It removes what the structure does not fit into.

    Parameters
    ----------
    input, structure, iterations, output, origin, mask, border_value, brute_force, axes
        As in `binary_erosion`.

    Returns
    -------
    array of bool
        Or `output`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `binary_erosion`.

    See Also
    --------
    binary_closing : Fills what the structure does not fit into.
    binary_erosion, binary_dilation : Its steps.
    grey_opening : Of grey values.

    Examples
    --------
    >>> binary_opening([0, 1, 0, 1, 1, 1, 0]).astype(int)
    array([0, 0, 0, 1, 1, 1, 0])
    """
    rest = (border_value, origin, brute_force)
    eroded = binary_erosion(input, structure, iterations, mask, None, *rest, axes=axes)
    return binary_dilation(eroded, structure, iterations, mask, output, *rest, axes=axes)


@by_chunks
def binary_closing(
    input: Any,
    structure: Any = None,
    iterations: int = 1,
    output: Any = None,
    origin: Any = 0,
    mask: Any = None,
    border_value: int = 0,
    brute_force: bool = False,
    *,
    axes: Any = None,
) -> Array:
    r"""`iterations` dilations, then as many erosions: `scipy.ndimage.binary_closing`.

    .. math:: out = \varepsilon^n(\delta^n(input))

    It fills gaps into which the structure does not fit.

    Parameters
    ----------
    input, structure, iterations, output, origin, mask, border_value, brute_force, axes
        As in `binary_erosion`.

    Returns
    -------
    array of bool
        Or `output`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `binary_erosion`.

    See Also
    --------
    binary_opening : Removes what the structure does not fit into.
    binary_fill_holes : Fills holes of any size.
    grey_closing : Of grey values.

    Examples
    --------
    >>> binary_closing([0, 0, 1, 0, 1, 0, 0]).astype(int)
    array([0, 0, 1, 1, 1, 0, 0])
    """
    rest = (border_value, origin, brute_force)
    dilated = binary_dilation(input, structure, iterations, mask, None, *rest, axes=axes)
    return binary_erosion(dilated, structure, iterations, mask, output, *rest, axes=axes)


def _checked_iterations(iterations: Any) -> int:
    """A number of steps, which must fit 64 bits."""
    iterations = require_whole(iterations, "iterations")
    if not -_MOST_ITERATIONS <= iterations < _MOST_ITERATIONS:
        raise OverflowError(f"iterations must fit 64 bits, got {iterations}")
    return iterations


def _steps(
    input: Any,
    structure: Any,
    iterations: Any,
    mask: Any,
    output: Any,
    rest: tuple[Any, Any, Any],
    dilate: bool,
) -> Array:
    """Erosions or dilations of an image; `rest`: border_value, origin and axes.

    One step without a mask is planned once.
    """
    place, input = as_array(input)
    iterations = _checked_iterations(iterations)
    require_real(input)
    image, key = truth_of(place, input, "input"), None
    single = iterations == 1 and mask is None and image.size > 0
    if single:
        given = structure if isinstance(structure, np.ndarray) else None
        written = *rest, structure if given is None else None
        key = calls.key_of(place, image, ("binary", dilate), written, given)
    call: Call | None = calls.kept(key)
    if call is None:
        step = _step(place, input, structure, mask, *rest, dilate)
        if single:
            call = step.call_for(image)
            calls.keep(key, call, step.window)
    output = checked_output(place, output, input)
    if call is None:
        return deliver(place, iterate(step, image, iterations), output, input)
    return delivered(place, call, image, output, input)


def _step(
    place: Place,
    input: Array,
    structure: Any,
    mask: Any,
    border_value: Any,
    origin: Any,
    axes: Any,
    dilate: bool,
) -> Step:
    """One erosion or dilation of an image; the window of a dilation is the reflected structure."""
    axes = check_axes(axes, input.ndim)
    window = binary_window(structure, origin, axes, input.ndim, reflected=dilate)
    if mask is not None:
        mask = mask_of(place, input, mask)
    if not isinstance(border_value, np.bool_):
        border_value = require_whole(border_value, "border_value")
    if border_value:
        window = window._replace(cval=True)
    return Step(place, window, mask, dilate)
