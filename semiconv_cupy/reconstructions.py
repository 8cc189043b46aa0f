"""Reconstruction by dilation or erosion, as scikit-image has it, of NumPy and CuPy arrays.

Checks the arguments; ``ndimage.neighbourhood`` computes. What is made of it: ``heights.py``,
``openings.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends.place import place_of
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage import neighbourhood, reference
from semiconv_cupy.ndimage.arguments import (
    as_array,
    as_numpy,
    readable,
    require_real,
)

Array = Any

__all__ = ["reconstruction"]


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

    See Also
    --------
    opening_by_reconstruction, closing_by_reconstruction : What keeps outlines.
    h_maxima, h_minima : Extrema of a height.
    ndimage.binary_propagation, ndimage.binary_fill_holes : Of sets.

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
    beyond = (seed < mask) if minimum else (seed > mask)
    if bool(beyond.any()):
        at = int(beyond.argmax())
        exchanged = not bool(((mask < seed) if minimum else (mask > seed)).any())
        raise ValueError(
            f"seed must be {'at least' if minimum else 'at most'} the mask for reconstruction by "
            f"{method}, got a seed of {seed.reshape(-1)[at]} where the mask is "
            f"{mask.reshape(-1)[at]}{'; are the two exchanged?' if exchanged else ''}"
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


def without_nan(image: Array, minimum: bool) -> Array:
    """Floating numbers with what spreads nowhere in place of NaN; `minimum`: of a dilation."""
    nothing = image.dtype.type(reference.worst(image.dtype, not minimum))
    return place_of(image=image).array_module.where(image == image, image, nothing)


def with_nan_of(image: Array, result: Array) -> Array:
    """The result, NaN where the image is."""
    if image.dtype.kind != "f":
        return result
    return place_of(image=image).array_module.where(image == image, result, image)
