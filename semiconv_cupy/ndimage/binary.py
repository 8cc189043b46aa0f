"""Binary morphology with SciPy's signatures: the flat filters on bool, iterated.

An erosion is a minimum, a dilation a maximum; what runs "until nothing changes" is a
reconstruction.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import (
    as_array,
    as_numpy,
    begin,
    check_axes,
    deliver,
    is_output_array,
    output_dtype,
    per_axis,
    place,
    readable,
    reflected_origin,
    require_real,
    spread,
)

Array = Any

__all__ = [
    "binary_closing",
    "binary_dilation",
    "binary_erosion",
    "binary_fill_holes",
    "binary_hit_or_miss",
    "binary_opening",
    "binary_propagation",
    "generate_binary_structure",
    "iterate_structure",
]


def generate_binary_structure(rank: int, connectivity: int) -> np.ndarray:
    """The structure of size 3 whose taps are at most `connectivity` unit steps from the centre.

    Parameters
    ----------
    rank : int
        Number of axes; below 1 the structure is the scalar True.
    connectivity : int
        1 for the direct neighbours, `rank` for the full box; less than 1 counts as 1.

    Returns
    -------
    numpy.ndarray of bool
        Also for use with CuPy arrays.

    Examples
    --------
    >>> generate_binary_structure(2, 1).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    if rank < 1:
        return np.array(True)
    steps = np.abs(np.indices([3] * rank) - 1).sum(axis=0)
    return steps <= max(connectivity, 1)


def iterate_structure(structure: Any, iterations: int, origin: Any = None) -> Any:
    """The structure whose one dilation is `iterations` dilations by the given one.

    Parameters
    ----------
    structure : array_like of bool
    iterations : int
        Below 2 the structure itself is returned.
    origin : int or sequence of int, optional
        If given, the origin of the new structure is returned as well.

    Returns
    -------
    numpy.ndarray, or (numpy.ndarray, list of int)

    Examples
    --------
    >>> iterate_structure([True, True, True], 2).astype(int)
    array([1, 1, 1, 1, 1])
    """
    structure = as_numpy(structure)
    if iterations < 2:
        return structure.copy()
    more = iterations - 1
    wider = [(more * (k // 2), more * (k - 1) - more * (k // 2)) for k in structure.shape]
    start = np.pad(structure != 0, wider)
    result = binary_dilation(start, structure, iterations=more)
    if origin is None:
        return result
    return result, [iterations * o for o in per_axis(origin, structure.ndim)]


# ---- erosions and dilations --------------------------------------------------------------------


def _structure_or_default(structure: Any, axes: tuple[int, ...]) -> np.ndarray:
    if structure is None:
        return generate_binary_structure(len(axes), 1)
    return as_numpy(structure)


def _morph(
    input: Any,
    structure: Any,
    iterations: Any,
    mask: Any,
    output: Any,
    border_value: Any,
    origin: Any,
    dilate: bool,
    brute_force: bool,
    axes: Any,
) -> Array:
    """Both operations; for a dilation the window is the reflected structure."""
    xp, input = as_array(input)
    try:
        iterations = operator.index(iterations)
    except TypeError:
        raise TypeError(f"iterations parameter should be an integer, got {iterations!r}") from None
    require_real(input)
    axes = check_axes(axes, input.ndim)
    structure = _structure_or_default(structure, axes).astype(bool)
    origins = per_axis(origin, len(axes))
    if dilate:
        structure = structure[(slice(None, None, -1),) * structure.ndim]
        origins = [reflected_origin(o, k) for o, k in zip(origins, structure.shape, strict=False)]
    if len(axes) < input.ndim:
        origins = spread(origins, axes, input.ndim, 0)
    taps = place(structure, axes, input.ndim, "structure")
    if taps.size < 1:
        raise RuntimeError(f"structure must not be empty, got shape {taps.shape}")
    if mask is not None:
        _, mask = as_array(mask, "mask")
        if mask.shape != input.shape:
            raise RuntimeError(
                f"mask and input must have equal sizes, got {mask.shape} and {input.shape}"
            )
        mask = mask != 0
    before = tuple(begin(k, o) for k, o in zip(taps.shape, origins, strict=True))
    if is_output_array(xp, output):
        require_real(output, "Complex output type not supported")
        output_dtype(xp, output, input)
    else:
        output = None
    image = readable(xp, input if input.dtype.kind == "b" else input != 0)
    border = bool(border_value)
    result = _iterate(xp, image, taps, before, iterations, mask, border, dilate)
    if output is None:
        return result
    return deliver(xp, result, output, input)


def _iterate(
    xp: Any,
    image: Array,
    taps: np.ndarray,
    before: tuple[int, ...],
    iterations: int,
    mask: Array | None,
    border: bool,
    dilate: bool,
) -> Array:
    def once(image: Array, taps: np.ndarray = taps, before: tuple[int, ...] = before) -> Array:
        if not taps.any():
            changed = xp.full(image.shape, not dilate)
        else:
            rules = ("constant",) * image.ndim
            changed = neighbourhood.footprint(xp, image, taps, before, rules, border, not dilate)
        return changed if mask is None else xp.where(mask, changed, image)

    if iterations == 1:
        return once(image)
    contains_centre = bool(taps[before]) if taps.ndim else bool(taps)
    if contains_centre and iterations < 1:
        # Only the first step sees the border; then values spread until nothing changes.
        start = once(image)
        limit = xp.full(start.shape, dilate) if mask is None else xp.where(mask, dilate, start)
        steps = np.array(before) - np.argwhere(taps)
        return neighbourhood.reconstruct(
            xp, start, limit, steps[steps.any(axis=1)], minimum=not dilate
        )
    if contains_centre and mask is None:
        together = _iterated(taps, before, iterations)
        if together is not None:
            return once(image, *together)
    done = 0
    while iterations < 1 or done < iterations:
        changed = once(image)
        done += 1
        # Whether it is finished costs a look at the result, on a GPU a synchronisation.
        ask = iterations < 1 or (done % 16 == 0 and contains_centre)
        if ask and bool(xp.array_equal(changed, image)):
            return changed
        image = changed
    return image


def _iterated(
    taps: np.ndarray, before: tuple[int, ...], iterations: int
) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """One window that does as much as all iterations, where the image's borders cannot matter.

    A path of such steps can be put in an order that never leaves the rectangle of its ends: true
    for boxes and for the two-dimensional cross.
    """
    if taps.all():
        shape = tuple(iterations * (k - 1) + 1 for k in taps.shape)
        return np.ones(shape, np.bool_), tuple(iterations * b for b in before)
    sizes = [k for k in taps.shape if k > 1]
    centred = all(b == k // 2 for b, k in zip(before, taps.shape, strict=True))
    if (
        sizes == [3, 3]
        and iterations <= 32
        and centred
        and np.array_equal(taps.reshape(3, 3), generate_binary_structure(2, 1))
    ):
        distance = np.abs(np.arange(-iterations, iterations + 1))
        diamond = distance[:, None] + distance <= iterations
        shape = tuple(2 * iterations + 1 if k > 1 else 1 for k in taps.shape)
        return diamond.reshape(shape), tuple(k // 2 for k in shape)
    return None


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
    structure : array_like of bool, optional
        The cross of direct neighbours by default.
    iterations : int
        How often; below 1 until nothing changes.
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
        As SciPy does. Also a ValueError where the origin lies outside the structure.

    Notes
    -----
    Iterations of a box or of the two-dimensional cross are one pass; what runs until nothing
    changes is a reconstruction by a queue [1]_.

    References
    ----------
    .. [1] L. Vincent, "Morphological grayscale reconstruction in image analysis", IEEE Trans. Image
       Processing 2 (1993), 176-201.

    Examples
    --------
    >>> binary_erosion([0, 1, 1, 1, 0, 1]).astype(int)
    array([0, 0, 1, 0, 0, 0])
    """
    return _morph(
        input, structure, iterations, mask, output, border_value, origin, False, brute_force, axes
    )


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
    r"""Binary dilation; parameters and notes as in `binary_erosion`.

    .. math:: out[x] = \bigvee_{y:\, structure[y]} input[x - y + \lfloor K / 2 \rfloor + origin]

    Examples
    --------
    >>> binary_dilation([0, 0, 0, 1, 0, 0, 0], iterations=2).astype(int)
    array([0, 1, 1, 1, 1, 1, 0])
    """
    return _morph(
        input, structure, iterations, mask, output, border_value, origin, True, brute_force, axes
    )


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
    """`iterations` erosions, then as many dilations; parameters as in `binary_erosion`.

    Examples
    --------
    >>> binary_opening([0, 1, 0, 1, 1, 1, 0]).astype(int)
    array([0, 0, 0, 1, 1, 1, 0])
    """
    rest = (border_value, origin, brute_force)
    eroded = binary_erosion(input, structure, iterations, mask, None, *rest, axes=axes)
    return binary_dilation(eroded, structure, iterations, mask, output, *rest, axes=axes)


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
    """`iterations` dilations, then as many erosions; parameters as in `binary_erosion`.

    Examples
    --------
    >>> binary_closing([0, 0, 1, 0, 1, 0, 0]).astype(int)
    array([0, 0, 1, 1, 1, 0, 0])
    """
    rest = (border_value, origin, brute_force)
    dilated = binary_dilation(input, structure, iterations, mask, None, *rest, axes=axes)
    return binary_erosion(dilated, structure, iterations, mask, output, *rest, axes=axes)


# ---- compositions ------------------------------------------------------------------------------


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
    """Where `structure1` fits the image and `structure2` its complement.

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

    Examples
    --------
    >>> alone = [0, 1, 0]
    >>> binary_hit_or_miss([0, 1, 0, 1, 1, 0], alone, np.logical_not(alone)).astype(int)
    array([0, 1, 0, 0, 0, 0])
    """
    xp, input = as_array(input)
    axes = check_axes(axes, input.ndim)
    structure1 = _structure_or_default(structure1, axes)
    if structure2 is None:
        structure2 = np.logical_not(structure1)
    if origin2 is None:
        origin2 = origin1
    hit = _morph(input, structure1, 1, None, None, 0, origin1, False, False, axes)
    # The erosion of the complement is the complement of a maximum over the same window.
    structure2 = as_numpy(structure2)
    mirror = (slice(None, None, -1),) * structure2.ndim
    origins = [
        reflected_origin(o, k)
        for o, k in zip(per_axis(origin2, len(axes)), structure2.shape, strict=False)
    ]
    touched = _morph(input, structure2[mirror], 1, None, None, 0, origins, True, False, axes)
    result = xp.logical_and(hit, xp.logical_not(touched))
    if is_output_array(xp, output):
        deliver(xp, result, output, input)
        return None
    return result


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
    """What dilations within `mask` reach in the end; parameters as in `binary_erosion`.

    Examples
    --------
    >>> binary_propagation([0, 1, 0, 0, 0, 0], mask=[1, 1, 1, 0, 1, 1]).astype(int)
    array([1, 1, 1, 0, 0, 0])
    """
    return binary_dilation(input, structure, -1, mask, output, border_value, origin, axes=axes)


def binary_fill_holes(
    input: Any, structure: Any = None, output: Any = None, origin: Any = 0, *, axes: Any = None
) -> Array | None:
    """Fill what the background cannot reach from outside the image.

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

    Examples
    --------
    >>> ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    >>> binary_fill_holes(ring).all()
    np.True_
    """
    xp, input = as_array(input)
    background = xp.logical_not(input)
    nothing = xp.zeros(input.shape, np.bool_)
    outside = binary_dilation(nothing, structure, -1, background, None, 1, origin, axes=axes)
    result = xp.logical_not(outside)
    if is_output_array(xp, output):
        deliver(xp, result, output, input)
        return None
    return result
