"""Maxima and minima of a height, as scikit-image has them: a reconstruction and a comparison.

The steps between them are functions of their own, which ``dask/reconstructions.py`` runs chunk by
chunk.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import place_of
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.arguments import as_array, readable, require_real
from semiconv_cupy.reconstructions import reconstruction, without_nan

Array = Any

__all__ = ["h_maxima", "h_minima"]


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

    See Also
    --------
    h_minima : The dark counterpart.
    reconstruction : What it compares the image with.

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

    Notes as in `h_maxima`.

    Parameters
    ----------
    image, h, footprint
        As in `h_maxima`.

    Returns
    -------
    array of uint8
        1 at all elements of these minima, else 0; of the image's shape, library and device.

    Raises
    ------
    ValueError, TypeError
        As in `h_maxima`.

    See Also
    --------
    h_maxima : The bright counterpart; notes and source.
    reconstruction : What it compares the image with.

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
