"""The background of an image by a rolling ball, and reconstruction by dilation or erosion.

The functions equal scikit-image's, and are composed of ``ndimage``'s primitives; no kernels here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import place_of
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.addends import above_all_sums
from semiconv_cupy.ndimage.arguments import (
    as_array,
    as_numpy,
    check_length,
    readable,
    require_real,
)
from semiconv_cupy.ndimage.window import Window

Array = Any

__all__ = ["reconstruction", "rolling_ball"]


def rolling_ball(
    image: Any, radius: float = 100, kernel: Any = None, nansafe: bool = False
) -> Array:
    r"""The background under which a ball rolls: `skimage.restoration.rolling_ball`.

    .. math:: out[x] = \min_y\ image[x + y] + kernel[0] - kernel[y]

    This is an erosion by the upper half of the ball; the background is the height of its apex [1]_.

    Parameters
    ----------
    image : array_like
        NumPy or CuPy, any number of axes; dark is background.
    radius : float
        Radius of the ball, in pixels and in units of intensity; larger than the objects.
    kernel : array_like, optional
        Heights of another body to use instead of the ball, infinite outside it, with the apex in
        the middle of the array. `radius` is then ignored.
    nansafe : bool
        Whether a NaN makes its whole neighbourhood NaN. By default NaN is ignored.

    Returns
    -------
    array
        With the image's shape, dtype (integers are rounded towards zero), library and device.

    Raises
    ------
    ValueError
        A radius below 0 or not finite, an empty kernel, or one with another number of axes than the
        image.
    OverflowError
        A radius beyond the largest length of an axis.
    TypeError
        A complex image or kernel, or a radius that is not a number.

    Notes
    -----
    Computed in float32 for float16 and float32 images, otherwise in float64, as in scikit-image.

    References
    ----------
    .. [1] S. R. Sternberg, "Biomedical image processing", Computer 16 (1983), 22-34.

    Examples
    --------
    >>> rolling_ball(np.array([10.0, 10.0, 50.0, 10.0, 10.0]), radius=3).round(2)
    array([10.  , 10.  , 10.17, 10.  , 10.  ])
    """
    place, image = as_array(image, "image")
    xp = place.array_module
    require_real(image, "Complex type not supported for image")
    kind = np.dtype(np.float32 if image.dtype.name in ("float16", "float32") else np.float64)
    if kernel is None:
        body = _ball(_checked_radius(radius), image.shape).astype(kind)
    else:
        body = as_numpy(kernel, name="kernel")
        require_real(body, "Complex type not supported for kernel")
        body = as_numpy(body, kind, "kernel")
        if body.ndim != image.ndim or body.size == 0:
            raise ValueError(
                f"kernel must be an array of heights with as many axes as image ({image.ndim}) and "
                f"not empty: got {kernel!r} of shape {body.shape}"
            )
    centre = tuple(k // 2 for k in body.shape)
    taps = body != np.inf
    with np.errstate(invalid="ignore"):
        drop = (body[centre] - body)[taps]
    window = Window(body.shape, centre, ("constant",) * image.ndim, np.inf, taps, drop)
    if image.dtype.name in ("uint8", "uint16", "uint32") and _floors(drop, bool(taps[centre])):
        never = above_all_sums(image.dtype)
        steps = np.floor(drop).astype(np.int64)
        window = window._replace(values=steps, cval=never)
        return neighbourhood.structure(place, readable(place, image), window, minimum=True)
    plain = readable(place, image.astype(kind, copy=False))
    if not taps.any():
        result = xp.full(image.shape, np.inf, kind)
    else:
        result = neighbourhood.structure(place, plain, window, minimum=True)
    if nansafe and kind.kind == "f" and bool(xp.isnan(plain).any()):
        # scikit-image spreads NaN over the whole array of the kernel, not only over the body.
        box = Window(body.shape, centre, window.rules)
        spread = neighbourhood.box(place, xp.isnan(plain), box, minimum=False)
        result[spread] = np.nan
    with np.errstate(invalid="ignore"):
        return result.astype(image.dtype.newbyteorder("="), copy=False)


def _floors(drop: np.ndarray, has_apex: bool) -> bool:
    """Whether unsigned element + drop, rounded towards zero, is element + floor(drop).

    This holds for drops >= 0, unless a drop is so little below an integer that its double sum with
    a 32-bit element is rounded up to the integer. With the apex among the taps, the constant beyond
    the border is never the least value.
    """
    if not has_apex or not np.all((drop >= 0) & (drop < 2**13)):
        return False
    missing = np.ceil(drop) - drop
    return bool(np.all((missing == 0) | (missing >= 2.0**-20)))


def _checked_radius(radius: Any) -> float:
    try:
        finite = math.isfinite(radius)
    except (TypeError, OverflowError) as error:
        raise type(error)(f"radius must be a real number, got {radius!r}") from None
    if not finite or radius < 0:
        raise ValueError(f"radius must be finite and at least 0, got {radius!r}")
    check_length("radius", radius)
    return float(radius)


def _ball(radius: float, shape: tuple[int, ...]) -> np.ndarray:
    """The heights of the upper half of a ball, infinite outside it, at offsets within an image."""
    halves = [max(min(math.ceil(radius), n - 1), 0) for n in shape]
    squares = [np.arange(-half, half + 1, dtype=np.float64) ** 2 for half in halves]
    distance = sum(np.ix_(*squares), start=np.zeros(()))
    height = np.sqrt(np.clip(radius**2 - distance, 0, None))
    return np.where(np.sqrt(distance) > radius, np.inf, height)


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
    if bool(((seed < mask) if minimum else (seed > mask)).any()):
        raise ValueError(
            f"seed must be {'at least' if minimum else 'at most'} the mask for "
            f"reconstruction by {method}"
        )
    taps = as_numpy(
        np.ones((3,) * seed.ndim) if footprint is None else footprint, bool, "footprint"
    )
    if taps.ndim != seed.ndim:
        raise ValueError(f"footprint must have {seed.ndim} axes like seed, got {taps.ndim}")
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
    kind = np.result_type(seed.dtype, mask.dtype)
    seed, mask = (readable(place, array.astype(kind, copy=False)) for array in (seed, mask))
    return neighbourhood.reconstruct(place, seed, mask, steps[steps.any(axis=1)], minimum)
