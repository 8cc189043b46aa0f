"""The background of an image by a rolling ball, equal to scikit-image's; no kernels here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from semiconv_cupy.chunked import by_chunks
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

__all__ = ["rolling_ball"]


@by_chunks
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

    See Also
    --------
    ndimage.white_tophat : What a flat or another structuring function does not fit into.
    parabolic_opening : A background by a parabola, in a time that does not depend on its scale.
    opening_by_reconstruction : Whole objects, with their outlines.

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
