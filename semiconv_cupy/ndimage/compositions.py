"""What is made of binary steps, with SciPy's signatures: holes, propagation, hit or miss."""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage.arguments import (
    Array,
    as_array,
    as_numpy,
    check_axes,
    deliver,
    require_real,
)
from semiconv_cupy.ndimage.binary import binary_dilation
from semiconv_cupy.ndimage.binary_arguments import checked_output, truth_of
from semiconv_cupy.ndimage.iterations import Step, iterate
from semiconv_cupy.ndimage.structures import (
    binary_window,
    checked_origins,
    cross,
    require_whole,
    size_of_full,
)

__all__ = [
    "binary_fill_holes",
    "binary_hit_or_miss",
    "binary_propagation",
    "iterate_structure",
]


def iterate_structure(structure: Any, iterations: int, origin: Any = None) -> Any:
    r"""The structure whose one dilation is `iterations` dilations by the given one.

    .. math:: out = structure \oplus \ldots \oplus structure \quad (iterations \text{ times})

    Parameters
    ----------
    structure : array_like of bool
        NumPy or CuPy.
    iterations : int
        Below 2 the structure itself is returned.
    origin : int or sequence of int, optional
        If given, the origin of the new structure is returned as well, from 2 iterations on.

    Returns
    -------
    array of bool, or (array of bool, list of int)
        Of the structure's library, and the structure itself for less than 2 iterations.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `binary_erosion`; a ValueError for a structure too large to be in memory.

    See Also
    --------
    generate_binary_structure : Of size 3.
    binary_dilation : Takes the structure, or `iterations`.

    Examples
    --------
    >>> iterate_structure([True, True, True], 2).astype(int)
    array([1, 1, 1, 1, 1])
    """
    place, _ = as_array(structure, "structure")
    xp = place.array_module
    structure = as_numpy(structure, name="structure")
    iterations = require_whole(iterations, "iterations")
    if iterations < 2:
        return xp.asarray(structure.copy())
    more = iterations - 1
    wider = [(more * (k // 2), more * (k - 1) - more * (k // 2)) for k in structure.shape]
    if any(n >= 2**40 for n in map(sum, wider)):
        raise ValueError(f"iterations make too large a structure, got {iterations}")
    start = np.pad(structure != 0, wider)
    result = xp.asarray(binary_dilation(start, structure, iterations=more))
    if origin is None:
        return result
    return result, [iterations * o for o in checked_origins(origin, structure.ndim, "origin")]


@by_chunks
def binary_propagation(
    input: Any,
    structure: Any = None,
    mask: Any = None,
    output: Any = None,
    border_value: int = 0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""What dilations within `mask` reach in the end: `scipy.ndimage.binary_propagation`.

    .. math:: out = \lim_n f^n(input), \quad f(g) = \delta(g) \wedge mask

    Parameters
    ----------
    input, structure, mask, output, border_value, origin, axes
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
    semiconv_cupy.reconstruction : The same of grey values.
    binary_fill_holes : Propagation of the background from outside.
    binary_dilation : `iterations` steps of it.

    Examples
    --------
    >>> binary_propagation([0, 1, 0, 0, 0, 0], mask=[1, 1, 1, 0, 1, 1]).astype(int)
    array([1, 1, 1, 0, 0, 0])
    """
    return binary_dilation(input, structure, -1, mask, output, border_value, origin, axes=axes)


@by_chunks
def binary_fill_holes(
    input: Any, structure: Any = None, output: Any = None, origin: Any = 0, *, axes: Any = None
) -> Array | None:
    r"""Fill what the background cannot reach from outside: `scipy.ndimage.binary_fill_holes`.

    .. math:: out = \lnot \lim_n f^n(\emptyset), \quad f(g) = \delta(g) \wedge \lnot input,
              \text{ where all is true beyond the border}

    Parameters
    ----------
    input, origin, axes
        As in `binary_erosion`.
    structure : array_like of bool, optional
        How the background is connected; the cross by default.
    output : array, optional
        Then nothing is returned, as in SciPy.

    Returns
    -------
    array of bool or None

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `binary_erosion`.

    See Also
    --------
    binary_propagation : What a set reaches within a mask.
    binary_closing : Fills what is small.
    semiconv_cupy.reconstruction : With ``method="erosion"`` it fills holes of grey values.

    Examples
    --------
    >>> ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    >>> binary_fill_holes(ring).all()
    np.True_
    """
    place, input = as_array(input)
    xp = place.array_module
    if input.dtype.kind not in "biufc":
        raise TypeError(f"data type not supported: input is {input.dtype}")
    output = checked_output(place, output, input)
    background = xp.asarray(xp.logical_not(input))
    nothing = xp.zeros(input.shape, np.bool_)
    outside = binary_dilation(nothing, structure, -1, background, None, 1, origin, axes=axes)
    return _filled(place, xp.asarray(xp.logical_not(outside)), output, input)


@by_chunks
def binary_hit_or_miss(
    input: Any,
    structure1: Any = None,
    structure2: Any = None,
    output: Any = None,
    origin1: Any = 0,
    origin2: Any = None,
    *,
    axes: Any = None,
) -> Array | None:
    r"""Where `structure1` fits the image and `structure2` its complement.

    .. math:: out = \varepsilon_1(input) \wedge \varepsilon_2(\lnot input)

    Parameters
    ----------
    input, axes
        As in `binary_erosion`.
    structure1, structure2 : array_like of bool, optional
        By default the cross, and the complement of `structure1`.
    output : array, optional
        Then nothing is returned, as in SciPy.
    origin1, origin2 : int or sequence of int
        Of the structures; the second is the first's by default.

    Returns
    -------
    array of bool or None

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As in `binary_erosion`.

    See Also
    --------
    binary_erosion : One structure alone.

    Examples
    --------
    >>> alone = [0, 1, 0]
    >>> binary_hit_or_miss([0, 1, 0, 1, 1, 0], alone, np.logical_not(alone)).astype(int)
    array([0, 1, 0, 0, 0, 0])
    """
    place, input = as_array(input)
    output = checked_output(place, output, input)
    axes = check_axes(axes, input.ndim)
    if structure1 is None:
        structure1 = cross(len(axes))
    if structure2 is None:
        size = size_of_full(structure1, len(axes))
        if size is None:
            structure2 = np.logical_not(as_numpy(structure1, bool, "structure1"))
        else:
            structure2 = np.broadcast_to(np.False_, [max(k, 0) for k in size])
    if origin2 is None:
        origin2 = origin1
    require_real(input)
    image = truth_of(place, input, "input")
    window1 = binary_window(structure1, origin1, axes, image.ndim, suffix="1")
    hit = iterate(Step(place, window1, None, dilate=False), image, 1)
    window2 = binary_window(structure2, origin2, axes, image.ndim, suffix="2")
    # The erosion of the complement is the complement of a maximum over the same window.
    touched = iterate(Step(place, window2, None, dilate=True), image, 1)
    xp = place.array_module
    result = xp.asarray(xp.logical_and(hit, xp.logical_not(touched)))
    return _filled(place, result, output, input)


def _filled(place: Place, result: Array, output: Array | None, input: Array) -> Array | None:
    """The result; None if it goes to an `output`."""
    if output is None:
        return result
    deliver(place, result, output, input)
    return None
