"""Openings and closings by reconstruction, which keep or remove whole objects, as ITK has them.

An erosion (or dilation) of ``ndimage``, then a reconstruction. The steps between them are functions
of their own, which ``dask/reconstructions.py`` runs chunk by chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends.place import place_of
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.arguments import (
    as_array,
    check_axes,
    expanded,
    readable,
)
from semiconv_cupy.ndimage.extrema import extremum
from semiconv_cupy.ndimage.structures import generate_binary_structure
from semiconv_cupy.ndimage.window import window_arguments
from semiconv_cupy.reconstructions import reconstruction, with_nan_of, without_nan

Array = Any

__all__ = ["closing_by_reconstruction", "opening_by_reconstruction"]


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

    See Also
    --------
    closing_by_reconstruction : The dark counterpart.
    ndimage.grey_opening : An opening alone, which rounds corners.
    reconstruction : The second step, from any seed.

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
    r"""What remains dark where the footprint fits: a closing by reconstruction.

    .. math:: out = reconstruction(image \oplus footprint,\ image) \text{ by erosion}

    The dark counterpart of `opening_by_reconstruction`, and ITK's
    ClosingByReconstructionImageFilter.

    Parameters
    ----------
    image, footprint, size, connectivity, preserve_intensities, mode, cval, origin, axes
        As in `opening_by_reconstruction`, with dark for bright.

    Returns
    -------
    array
        Of the image's shape, dtype, library and device; nowhere below the image.

    Raises
    ------
    ValueError, RuntimeError, TypeError
        As in `opening_by_reconstruction`.

    See Also
    --------
    opening_by_reconstruction : The bright counterpart; notes and source.
    ndimage.grey_closing : A closing alone, which rounds corners.
    reconstruction : The second step, from any seed.

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
    if footprint is not None and np.ndim(footprint) == 0:
        raise TypeError(
            f"footprint must be an array of bool, got {footprint!r}; a box is given by size="
        )
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
