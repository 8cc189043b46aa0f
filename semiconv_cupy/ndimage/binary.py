"""Binary morphology, with SciPy's signatures.

An erosion is a minimum over bool, a dilation a maximum; ``iterations`` repeats them in few passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place, place_of
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage.arguments import (
    Array,
    as_array,
    as_numpy,
    check_axes,
    deliver,
    is_output_array,
    output_dtype,
    readable,
    require_real,
)
from semiconv_cupy.ndimage.iterations import Step, iterate
from semiconv_cupy.ndimage.structures import (
    binary_window,
    checked_origins,
    cross,
    require_whole,
    size_of_full,
)

_MOST_ITERATIONS = 2**63

__all__ = [
    "binary_closing",
    "binary_dilation",
    "binary_erosion",
    "binary_fill_holes",
    "binary_hit_or_miss",
    "binary_opening",
    "binary_propagation",
    "iterate_structure",
]


# ---- erosions and dilations ----------------------------------------------------------------------


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
    place, input = as_array(input)
    iterations = _checked_iterations(iterations)
    step = _step(place, input, structure, mask, border_value, origin, axes, dilate=False)
    return _run(step, input, iterations, output)


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
    place, input = as_array(input)
    iterations = _checked_iterations(iterations)
    step = _step(place, input, structure, mask, border_value, origin, axes, dilate=True)
    return _run(step, input, iterations, output)


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
    require_real(input)
    _require_numbers(input, "input")
    axes = check_axes(axes, input.ndim)
    window = binary_window(structure, origin, axes, input.ndim, reflected=dilate)
    if mask is not None:
        mask = _mask_of(place, input, mask)
    if not isinstance(border_value, np.bool_):
        border_value = require_whole(border_value, "border_value")
    if border_value:
        window = window._replace(cval=True)
    return Step(place, window, mask, dilate)


def _run(step: Step, input: Array, iterations: int, output: Any) -> Array:
    """The result of some steps, in `output` where that is an array."""
    output = _output(step.place, output, input)
    result = iterate(step, _truth(step.place, input, "input"), iterations)
    return deliver(step.place, result, output, input)


def _truth(place: Place, array: Array, name: str) -> Array:
    """Where the array is not zero, also of a scalar as an array."""
    _require_numbers(array, name)
    truth = array if array.dtype.kind == "b" else place.array_module.asarray(array != 0)
    return readable(place, truth)


def _require_numbers(array: Array, name: str) -> None:
    """SciPy's error for an array that is not of real numbers."""
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise RuntimeError(f"data type not supported: {name} is {array.dtype}")


def _mask_of(place: Place, input: Array, mask: Any) -> Array:
    """The elements that may change, as bool."""
    its_place, mask = as_array(mask, "mask")
    if its_place.library != place.library:
        place_of(input=input, mask=mask)  # raises
    if mask.shape != input.shape:
        raise RuntimeError(
            f"mask and input must have equal sizes, got {mask.shape} and {input.shape}"
        )
    return _truth(place, mask, "mask")


def _output(place: Place, output: Any, input: Array) -> Array | None:
    """The array to write to, checked; a dtype is ignored, as in SciPy."""
    if not is_output_array(place, output):
        return None
    require_real(output, f"Complex output type not supported: output is {output.dtype}")
    _require_numbers(output, "output")
    output_dtype(place, output, input)
    return output


# ---- compositions --------------------------------------------------------------------------------


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
    output = _output(place, output, input)
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
    output = _output(place, output, input)
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
    image = _truth(place, input, "input")
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
