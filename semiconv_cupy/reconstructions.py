"""Reconstruction by dilation or erosion, and what is made of it: extrema of a height, openings.

The functions of scikit-image equal it, the openings ITK. Composed of ``ndimage``'s primitives; no
kernels here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import place_of
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage import neighbourhood, reference
from semiconv_cupy.ndimage.arguments import (
    as_array,
    as_numpy,
    check_axes,
    expanded,
    readable,
    require_real,
)
from semiconv_cupy.ndimage.extrema import extremum
from semiconv_cupy.ndimage.structures import generate_binary_structure
from semiconv_cupy.ndimage.window import window_arguments

Array = Any

__all__ = [
    "closing_by_reconstruction",
    "h_maxima",
    "h_minima",
    "opening_by_reconstruction",
    "reconstruction",
]


@by_chunks
def reconstruction(
    seed: Any, mask: Any, method: str = "dilation", footprint: Any = None, offset: Any = None
) -> Array:
    r"""Reconstruction of `mask` from `seed`: `skimage.morphology.reconstruction`.

    .. math:: out = \lim_n f^n(seed), \quad f(g) = \min(g \oplus footprint,\ mask)

    and with erosion and maximum for ``method="erosion"``.

    Parameters
    ----------
    seed : array_like
        The values that spread; at most (erosion: at least) the mask.
    mask : array_like
        The limit of the values; of the same shape and library.
    method : {"dilation", "erosion"}
        Whether high or low values spread.
    footprint : array_like of bool, optional
        The neighbourhood over which a value spreads in one step: from `offset` to every tap. By
        default the box of size 3.
    offset : sequence of int, optional
        The footprint's centre; by default its middle, and then all sizes must be odd.

    Returns
    -------
    array
        With the dtype that holds the values of both arrays (scikit-image returns a floating one).

    Raises
    ------
    ValueError
        Shapes that differ, a seed beyond the mask, a footprint or an offset that does not fit, an
        unknown method.

    Notes
    -----
    On a CPU: two raster scans and a queue [1]_. On a GPU: steps over the whole image; after every
    eight, the host tests whether anything changed. NaN never spreads.

    References
    ----------
    .. [1] L. Vincent, "Morphological grayscale reconstruction in image analysis", IEEE Trans. Image
       Processing 2 (1993), 176-201.

    Examples
    --------
    >>> mask = np.array([0, 3, 5, 3, 0, 4, 0])
    >>> reconstruction(np.array([0, 0, 2, 0, 0, 0, 0]), mask)
    array([0, 2, 2, 2, 0, 0, 0])
    """
    place, seed = as_array(seed, "seed")
    _, mask = as_array(mask, "mask")
    place_of(seed=seed, mask=mask)
    require_real(seed, "Complex type not supported for seed")
    require_real(mask, "Complex type not supported for mask")
    if seed.shape != mask.shape:
        raise ValueError(f"seed and mask must have one shape, got {seed.shape} and {mask.shape}")
    if method not in ("dilation", "erosion"):
        raise ValueError(f"method must be 'dilation' or 'erosion', got {method!r}")
    minimum = method == "erosion"
    require_within(seed, mask, method)
    steps = reconstruction_steps(footprint, offset, seed.ndim)
    kind = np.result_type(seed.dtype, mask.dtype)
    seed, mask = (readable(place, array.astype(kind, copy=False)) for array in (seed, mask))
    return neighbourhood.reconstruct(place, seed, mask, steps, minimum)


def require_within(seed: Array, mask: Array, method: str) -> None:
    """ValueError where the seed lies beyond the mask."""
    minimum = method == "erosion"
    if bool(((seed < mask) if minimum else (seed > mask)).any()):
        raise ValueError(
            f"seed must be {'at least' if minimum else 'at most'} the mask for "
            f"reconstruction by {method}"
        )


def reconstruction_steps(footprint: Any, offset: Any, ndim: int) -> np.ndarray:
    """The offsets over which a value spreads at once, one row each, from the call's arguments."""
    taps = as_numpy(np.ones((3,) * ndim) if footprint is None else footprint, bool, "footprint")
    if taps.ndim != ndim:
        raise ValueError(f"footprint must have {ndim} axes like seed, got {taps.ndim}")
    if offset is None:
        if any(k % 2 == 0 for k in taps.shape):
            raise ValueError(f"footprint dimensions must all be odd, got {taps.shape}")
        centre = np.array(taps.shape) // 2
    else:
        centre = as_numpy(offset, name="offset")
        if centre.size and centre.dtype.kind not in "iu":
            raise TypeError(f"offset must be integers, got {offset!r}")
        if centre.shape != (taps.ndim,):
            raise ValueError(f"offset must have {taps.ndim} entries, got {offset!r}")
        if not all(0 <= o < k for o, k in zip(centre, taps.shape, strict=True)):
            raise ValueError(f"offset must lie inside the footprint {taps.shape}, got {offset!r}")
    steps = np.argwhere(taps) - centre
    found: np.ndarray = steps[steps.any(axis=1)]
    return found


# ---- extrema of a height -------------------------------------------------------------------------


@by_chunks
def h_maxima(image: Any, h: float, footprint: Any = None) -> Array:
    r"""Where the maxima of a height of at least h are: `skimage.morphology.h_maxima`.

    .. math:: out = [\, image - R \ge h \,], \quad
              R = reconstruction(image - h,\ image)

    From such a maximum every path to a higher element descends by at least h (Soille,
    "Morphological Image Analysis", 2nd edition, 2003, chapter 6). So h is the depth of the valleys
    that tell two objects apart, for example in a distance map.

    Parameters
    ----------
    image : array_like
        NumPy or CuPy, any number of axes; bool, integers, float16, float32 and float64.
    h : float
        The least height, above 0.
    footprint : array_like of bool, optional
        What counts as neighbours, as in `reconstruction`: by default the box of size 3.

    Returns
    -------
    array of uint8
        1 at all elements of these maxima, else 0; of the image's shape, library and device.
        Nothing but 0 where h is larger than the range of the image.

    Raises
    ------
    ValueError
        An h that is not above 0, or a footprint that does not fit.
    TypeError
        A complex image, or an h that is not a number.

    Notes
    -----
    Integers are exact, of 64 bits too. For an h that is not whole they are converted to float64,
    as in scikit-image; of 64 bits, which float64 cannot hold, h is rounded up instead: of 2.5
    heights of 3 are the first.

    For floating images the result is scikit-image's to the bit: image - h is rounded, and lowered
    by twice the dtype's `numpy.finfo` resolution of each element, so that no rounding hides a
    maximum of height h. By as little, heights just below h may count. Infinite elements are
    compared without that (scikit-image gives NaN): +inf is a maximum of any height. NaN is none,
    and values do not spread through it.

    Examples
    --------
    >>> row = np.array([0, 3, 2, 5, 1, 1, 4, 0])
    >>> for h in (1, 2, 4):
    ...     print(h_maxima(row, h))
    [0 1 0 1 0 0 1 0]
    [0 0 0 1 0 0 1 0]
    [0 0 0 1 0 0 0 0]
    """
    return _of_height(image, h, footprint, minimum=False)


@by_chunks
def h_minima(image: Any, h: float, footprint: Any = None) -> Array:
    r"""Where the minima of a depth of at least h are: `skimage.morphology.h_minima`.

    .. math:: out = [\, R - image \ge h \,], \quad
              R = reconstruction(image + h,\ image) \text{ by erosion}

    Parameters, errors and notes as in `h_maxima`.

    Examples
    --------
    >>> h_minima(np.array([5, 2, 3, 0, 4]), 2)
    array([0, 0, 0, 1, 0], dtype=uint8)
    """
    return _of_height(image, h, footprint, minimum=True)


def _of_height(image: Any, h: Any, footprint: Any, minimum: bool) -> Array:
    place, image = as_array(image, "image")
    require_real(image, "Complex type not supported for image")
    try:
        unusable = not h > 0
    except (TypeError, ValueError) as error:
        raise TypeError(f"h must be a real number, got {h!r}: {error}") from None
    if unusable:
        raise ValueError(f"h must be above 0, got {h!r}; heights of 0 are those of all maxima")
    numbers = numbers_of_height(readable(place, image, "image"), h, minimum)
    method = "erosion" if minimum else "dilation"
    # The footprint is checked, too, where there is nothing to find.
    if image.size == 0 or not has_range(end_of(numbers, True), end_of(numbers, False), h):
        reconstruction(numbers, numbers, method, footprint)
        return place.array_module.zeros(image.shape, np.uint8)
    seed, mask = moved_by_height(numbers, h, minimum), in_wide_dtype(numbers)
    return of_height(numbers, reconstruction(seed, mask, method, footprint), h, minimum)


def numbers_of_height(image: Array, h: Any, minimum: bool) -> Array:
    """The image in the dtype in which h is a difference; NaN is what every number beats."""
    if image.dtype.kind == "b":
        return image.view(np.uint8)
    if image.dtype.kind == "f":
        return without_nan(image, not minimum)
    return image.astype(np.float64) if image.dtype.itemsize < 8 and h % 1 else image


def without_nan(image: Array, minimum: bool) -> Array:
    """Floating numbers with what spreads nowhere in place of NaN; `minimum`: of a dilation."""
    nothing = image.dtype.type(reference.worst(image.dtype, not minimum))
    return place_of(image=image).array_module.where(image == image, image, nothing)


def in_wide_dtype(numbers: Array) -> Array:
    """Halves in float32, as scikit-image reconstructs them."""
    if numbers.dtype.kind != "f":
        return numbers
    return numbers.astype(np.promote_types(numbers.dtype, np.float32), copy=False)


def end_of(numbers: Array, minimum: bool) -> Array:
    """The smallest or largest element, in an array of as many axes."""
    xp = place_of(image=numbers).array_module
    return reference.extremum_along(xp, numbers, tuple(range(numbers.ndim)), minimum)


def has_range(low: Array, high: Array, h: Any) -> bool:
    """Whether the smallest and the largest element are at least h apart."""
    if low.dtype.kind != "f":
        return bool(int(high.reshape(())) - int(low.reshape(())) >= h)
    with np.errstate(over="ignore"):
        return bool(high.reshape(()) > low.reshape(())) and not bool((h > high - low).reshape(()))


def moved_by_height(numbers: Array, h: Any, minimum: bool) -> Array:
    """The seed: lowered by h, of minima raised; what there is no number for ends at the last."""
    xp = place_of(image=numbers).array_module
    if numbers.dtype.kind == "f":  # scikit-image's arithmetic, but for infinities
        resolution = xp.abs(numbers) * (2 * np.finfo(numbers.dtype).resolution)
        with np.errstate(invalid="ignore", over="ignore"):
            moved = numbers + h + resolution if minimum else numbers - h - resolution
        return in_wide_dtype(xp.where(xp.isinf(numbers), numbers, moved))
    info, bits, step = np.iinfo(numbers.dtype), _unsigned(numbers), _step(numbers, h)
    end = numbers.dtype.type(info.max if minimum else info.min)
    from_end = np.array(end).view(bits.dtype)[()]
    room = from_end - bits if minimum else bits - from_end
    moved = (bits + step if minimum else bits - step).view(numbers.dtype)
    return xp.where(room >= step, moved, end).reshape(numbers.shape)


def of_height(numbers: Array, limit: Array, h: Any, minimum: bool) -> Array:
    """1 where the reconstruction stays at least h away, as uint8."""
    xp = place_of(image=numbers).array_module
    if numbers.dtype.kind == "f":
        wide = in_wide_dtype(numbers)
        with np.errstate(invalid="ignore"):
            found = (limit - wide if minimum else wide - limit) >= h
        found = found | (xp.isinf(wide) & (wide < 0 if minimum else wide > 0))
        return found.astype(np.uint8)
    bits, limits = _unsigned(numbers), _unsigned(limit)
    height = limits - bits if minimum else bits - limits
    return (height >= _step(numbers, h)).reshape(numbers.shape).astype(np.uint8)


def _unsigned(numbers: Array) -> Array:
    """In a row, as unsigned numbers of as many bits, whose differences are exact."""
    return numbers.reshape(-1).view(f"u{numbers.dtype.itemsize}")


def _step(numbers: Array, h: Any) -> Any:
    return np.dtype(f"u{numbers.dtype.itemsize}").type(math.ceil(h))


# ---- openings and closings -----------------------------------------------------------------------


@by_chunks
def opening_by_reconstruction(
    image: Any,
    footprint: Any = None,
    *,
    size: Any = None,
    connectivity: int | None = None,
    preserve_intensities: bool = False,
    mode: Any = "ignore",
    cval: float = 0.0,
    origin: Any = 0,
    axes: Any = None,
) -> Array:
    r"""What remains where the footprint fits, in its whole shape: an opening by reconstruction.

    .. math:: out = reconstruction(image \ominus footprint,\ image)

    An opening rounds the corners of what it keeps; this removes an object wholly or keeps its
    outline [1]_. ITK's OpeningByReconstructionImageFilter.

    Parameters
    ----------
    image : array_like
        NumPy or CuPy, any number of axes; bool, integers, float16, float32 and float64.
    footprint : array_like of bool, optional
        The set that must fit; it contains its own position (its middle, unless `origin` moves it).
    size : int or sequence of int, optional
        Or it is a box of this size.
    connectivity : int, optional
        Over how many unit steps at once values spread: 1 to the direct neighbours (ITK's default),
        up to the number of axes, to all neighbours; that is the default, as in `reconstruction`.
    preserve_intensities : bool
        Where the footprint fits, the erosion has removed the highest values of a region, and they
        do not come back. If true, a second reconstruction begins with the image's own values at all
        elements that the first one has not raised.
    mode, cval, origin, axes
        As in `semiconv_cupy.ndimage.grey_erosion`; by default positions outside take no part.
        Values spread along the same axes.

    Returns
    -------
    array
        Of the image's shape, dtype, library and device; nowhere above the image.

    Raises
    ------
    ValueError
        Neither a footprint nor a size, a footprint without its own position (whose erosion may lie
        above the image), or a connectivity below 1 or above the number of axes.
    RuntimeError, TypeError
        As in `semiconv_cupy.ndimage.grey_erosion`.

    Notes
    -----
    NaN stays NaN; it takes no part, and values do not spread through it.

    References
    ----------
    .. [1] P. Soille, "Morphological Image Analysis: Principles and Applications", 2nd edition,
       Springer, 2003, section 6.3.9.

    Examples
    --------
    >>> row = np.array([0, 7, 0, 2, 5, 5, 6, 3, 0])
    >>> opening_by_reconstruction(row, size=3)
    array([0, 0, 0, 2, 5, 5, 5, 3, 0])
    >>> opening_by_reconstruction(np.array([5, 5, 6, 5, 5]), size=3, preserve_intensities=True)
    array([5, 5, 6, 5, 5])
    """
    window = (size, footprint, mode, cval, origin, axes)
    return _reconstructed(image, window, connectivity, preserve_intensities, minimum=True)


@by_chunks
def closing_by_reconstruction(
    image: Any,
    footprint: Any = None,
    *,
    size: Any = None,
    connectivity: int | None = None,
    preserve_intensities: bool = False,
    mode: Any = "ignore",
    cval: float = 0.0,
    origin: Any = 0,
    axes: Any = None,
) -> Array:
    r"""The dark counterpart of `opening_by_reconstruction`; parameters and notes as there.

    .. math:: out = reconstruction(image \oplus footprint,\ image) \text{ by erosion}

    ITK's ClosingByReconstructionImageFilter; nowhere below the image.

    Examples
    --------
    >>> closing_by_reconstruction(np.array([9, 1, 9, 6, 4, 4, 3, 5, 9]), size=3)
    array([9, 9, 9, 6, 4, 4, 4, 5, 9])
    """
    window = (size, footprint, mode, cval, origin, axes)
    return _reconstructed(image, window, connectivity, preserve_intensities, minimum=False)


def _reconstructed(
    image: Any, given: tuple[Any, ...], connectivity: Any, preserves: bool, minimum: bool
) -> Array:
    """The opening (`minimum`: of an erosion) or the closing."""
    size, footprint, mode, cval, origin, axes = given
    place, image = as_array(image, "image")
    if size is None and footprint is None:
        raise ValueError("footprint or size must be specified: what fits into objects that stay")
    arguments = window_arguments(image, size, footprint, None, mode, cval, origin, axes)
    window = arguments.resolve(image.ndim, image.dtype, minimum)
    if not window.contains_own_position():
        raise ValueError(
            f"footprint must be True at its own position, got one of shape {window.shape} that is "
            "not: an erosion by it may lie above the image"
        )
    spread = neighbours(image.ndim, axes, connectivity)
    image = readable(place, image, "image")
    xp, method = place.array_module, "dilation" if minimum else "erosion"
    seed = extremum(place, image, arguments, None, minimum, reflected=not minimum)
    mask = without_nan(image, minimum) if image.dtype.kind == "f" else image
    seed = reference.limit(xp, seed, mask, not minimum)
    result = reconstruction(seed, mask, method, spread)
    if preserves:
        kept = kept_intensities(result, seed, mask, minimum)
        result = reconstruction(kept, mask, method, spread)
    return with_nan_of(image, result)


def kept_intensities(result: Array, seed: Array, mask: Array, minimum: bool) -> Array:
    """The image's own values where the reconstruction has not changed the seed."""
    worst = mask.dtype.type(reference.worst(mask.dtype, not minimum))
    return place_of(seed=seed).array_module.where(result == seed, mask, worst)


def with_nan_of(image: Array, result: Array) -> Array:
    """The result, NaN where the image is."""
    if image.dtype.kind != "f":
        return result
    return place_of(image=image).array_module.where(image == image, result, image)


def neighbours(ndim: int, axes: Any, connectivity: Any) -> np.ndarray:
    """The set of size 3 over which values spread, on all axes of the array."""
    axes = check_axes(axes, ndim)
    if connectivity is None:
        near = np.ones((3,) * len(axes), np.bool_)
    elif isinstance(connectivity, int | np.integer) and 1 <= connectivity <= len(axes):
        near = generate_binary_structure(len(axes), int(connectivity))
    else:
        raise ValueError(
            f"connectivity must be an integer from 1 to {len(axes)}, the number of axes, or None, "
            f"got {connectivity!r}"
        )
    return expanded(near, axes, ndim, "connectivity")
