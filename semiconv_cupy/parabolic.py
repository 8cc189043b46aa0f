"""Morphology by parabolas without end: dilation, erosion, opening and closing at a scale.

The structuring function falls as -(|x| / scale)^2 and is cut nowhere. It is separable, so an image
takes one pass along each axis (``ndimage.lines``), whose time does not depend on the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage.arguments import (
    Array,
    as_array,
    check_axes,
    deliver,
    output_dtype,
    per_axis,
    readable,
    require_real,
)
from semiconv_cupy.ndimage.lines import Finish
from semiconv_cupy.parabolic_passes import computed

__all__ = ["parabolic_closing", "parabolic_dilation", "parabolic_erosion", "parabolic_opening"]


@by_chunks
def parabolic_dilation(
    input: Any, scale: Any, *, axes: int | Sequence[int] | None = None, output: Any = None
) -> Array:
    r"""Dilation by a parabola without end: every element sees the whole image.

    .. math:: out[x] = \max_y\ input[y] - \sum_a \left(\frac{x_a - y_a}{s_a}\right)^2

    Parameters
    ----------
    input : array_like
        NumPy or CuPy, integers or floats, of any rank.
    scale : float, sequence of float, or 2-D array
        Lengths s in elements, as in `structuring.quadratic`: one for all axes, one for each of
        `axes`, or their diagonal covariance, diag(s^2). 0 leaves an axis as it is (on all axes: the
        identity, of NaN too); inf takes the maximum of the whole axis.
    axes : int or sequence of int, optional
        Along which axes, all by default; others are a batch. ``axes=(0, 1)`` for a colour picture.
    output : array or dtype, optional
        Where the result goes, or its dtype; by default a new array of the input's dtype.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    ValueError
        A scale that is negative or NaN; a covariance that is not diagonal, for which
        `structuring.quadratic` makes a kernel with an end.
    TypeError
        An input of bool or of complex numbers, a scale that is no number.
    RuntimeError
        As in `ndimage.grey_dilation`: a scale of the wrong length, an `output` of the wrong shape.

    See Also
    --------
    parabolic_erosion : Its adjoint.
    parabolic_opening, parabolic_closing : Compositions of both.
    structuring.quadratic : A parabola with an end, in any direction, for `ndimage.grey_dilation`.
    torch_bridge.functional.parabolic_dilation : Of tensors, differentiable.

    Notes
    -----
    Computed in double from the last axis to the first, and rounded once at the end; integers to the
    nearest, and what is beyond the range of `output` to its nearer end. Integers beyond 2**53 take
    part as the doubles nearest to them. NaN is never selected; an image of nothing else gives -inf.

    A large image goes part by part: with the result, twice the result's memory is used, more where
    the last axis of a scale is shorter than 128 elements, since a part has 16 of them at least.
    `parabolic_opening` and `parabolic_closing` keep one array of doubles.

    Of `structuring.quadratic`, which ends at a distance r, each result is at most this one; they
    are equal where no value of the image is more than (r / s)^2 above another.

    Source: R. van den Boomgaard, L. Dorst, S. Makram-Ebeid, J. Schavemaker, "Quadratic structuring
    functions in mathematical morphology", ISMM 1996. A line is searched as a totally monotone
    matrix (A. Aggarwal et al., Algorithmica 2, 1987), in O(n log n) vector operations that take
    less time than the O(n) of an envelope kept on a stack.

    Examples
    --------
    >>> parabolic_dilation(np.array([0.0, 0.0, 9.0, 0.0, 0.0]), scale=0.5)
    array([0., 5., 9., 5., 0.])
    >>> parabolic_dilation(np.array([[0, 50, 0]], np.uint8), scale=(0, 0.25))
    array([[34, 50, 34]], dtype=uint8)
    """
    return _morphology(input, scale, axes, output, "parabolic_dilation")


@by_chunks
def parabolic_erosion(
    input: Any, scale: Any, *, axes: int | Sequence[int] | None = None, output: Any = None
) -> Array:
    r"""Erosion by a parabola without end; notes as in `parabolic_dilation`.

    .. math:: out[x] = \min_y\ input[y] + \sum_a \left(\frac{x_a - y_a}{s_a}\right)^2

    The adjoint of the dilation. Of an image that is 0 on the background and inf elsewhere it is the
    squared Euclidean distance in units of the scale (`ndimage.distance_transform_edt`).

    Parameters
    ----------
    input, scale, axes, output
        As in `parabolic_dilation`.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `parabolic_dilation`.

    See Also
    --------
    parabolic_dilation : Its adjoint; notes and source.
    ndimage.distance_transform_edt : Of a mask, the root of this.

    Examples
    --------
    >>> parabolic_erosion(np.array([9.0, 9.0, 0.0, 9.0, 9.0]), scale=0.5)
    array([9., 4., 0., 4., 9.])
    >>> parabolic_erosion(np.array([np.inf, 0, np.inf, np.inf]), scale=1) ** 0.5
    array([1., 0., 1., 2.])
    """
    return _morphology(input, scale, axes, output, "parabolic_erosion")


@by_chunks
def parabolic_opening(
    input: Any, scale: Any, *, axes: int | Sequence[int] | None = None, output: Any = None
) -> Array:
    r"""Erosion, then dilation at the same scale.

    .. math:: out = \delta_s(\varepsilon_s(input))

    The highest image below the input that is made of parabolas of this width. Integers are rounded
    once, after both, and upwards: the result stays below the input, and another opening does not
    change it. (Of results rounded to the nearest neither a rounding in between nor one at the end
    leaves openings idempotent.) Floating results are idempotent up to their rounding, and so are
    integers beyond 2**24, or of scales beyond 1000, where a double has few digits left for the
    steps of a parabola.

    Parameters
    ----------
    input, scale, axes, output
        As in `parabolic_dilation`.

    Returns
    -------
    array
        Of the input's shape, library and device; nowhere above the input.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `parabolic_dilation`.

    See Also
    --------
    parabolic_closing : From above.
    parabolic_dilation : Its second step; notes and source.
    rolling_ball : A background by a ball, which has an end.

    Examples
    --------
    >>> parabolic_opening(np.array([0, 0, 100, 0, 0, 90, 100, 90, 0]), scale=0.25)
    array([ 0,  0, 16,  0,  0, 48, 64, 48,  0])
    """
    return _morphology(input, scale, axes, output, "parabolic_opening")


@by_chunks
def parabolic_closing(
    input: Any, scale: Any, *, axes: int | Sequence[int] | None = None, output: Any = None
) -> Array:
    r"""Dilation, then erosion at the same scale.

    .. math:: out = \varepsilon_s(\delta_s(input))

    The lowest image above the input that is made of parabolas of this width. Integers are rounded
    once, after both, and downwards.

    Parameters
    ----------
    input, scale, axes, output
        As in `parabolic_dilation`.

    Returns
    -------
    array
        Of the input's shape, library and device; nowhere below the input.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `parabolic_dilation`.

    See Also
    --------
    parabolic_opening : From below.
    parabolic_dilation : Its first step; notes and source.

    Examples
    --------
    >>> parabolic_closing(np.array([100, 100, 0, 100, 100]), scale=0.25)
    array([100, 100,  84, 100, 100])
    """
    return _morphology(input, scale, axes, output, "parabolic_closing")


# ---- scales --------------------------------------------------------------------------------------


def scales_of(scale: Any, axes: tuple[int, ...]) -> dict[int, float]:
    """The scale along each axis that has one other than 0."""
    if getattr(scale, "ndim", 0) == 2 or _is_nested(scale):
        scale = _diagonal(np.asarray(scale, np.float64), len(axes))
    found = {}
    for axis, entry in zip(axes, per_axis(scale, len(axes), "scale"), strict=True):
        try:
            length = float(entry)
        except (TypeError, ValueError) as error:
            raise TypeError(f"scale must be numbers, got {scale!r}: {error}") from None
        if not length >= 0:
            raise ValueError(f"scale must be at least 0 (0: identity), got {scale!r}")
        if length > 0:
            found[axis] = length
    return found


def _is_nested(scale: Any) -> bool:
    return isinstance(scale, (list, tuple)) and any(isinstance(row, (list, tuple)) for row in scale)


def _diagonal(covariance: np.ndarray, count: int) -> np.ndarray:
    """The scales of a covariance, which must be diagonal."""
    if covariance.shape != (count, count):
        raise ValueError(
            f"scale as a covariance must have shape {(count, count)}, got {covariance.shape}"
        )
    variances = covariance.diagonal()
    if np.count_nonzero(covariance - np.diag(variances)):
        raise ValueError(
            f"scale is a covariance that is not diagonal: {covariance.tolist()}; its parabola is "
            "not separable. Use ndimage.grey_dilation (grey_erosion) with "
            "structure=structuring.quadratic(scale), which ends where no value reaches"
        )
    if not np.all(variances >= 0):
        raise ValueError(f"scale as a covariance must have variances >= 0, got {variances}")
    return np.sqrt(variances)


# ---- passes --------------------------------------------------------------------------------------

# Which of the passes are minima, and how integers are rounded at the end.
PASSES = {
    "parabolic_dilation": ((False,), Finish.TO_NEAREST),
    "parabolic_erosion": ((True,), Finish.TO_NEAREST),
    "parabolic_opening": ((True, False), Finish.UPWARD),
    "parabolic_closing": ((False, True), Finish.DOWNWARD),
}


def _morphology(
    input: Any,
    scale: Any,
    axes: Any,
    output: Any,
    name: str,
) -> Array:
    """Erosions (True) and dilations one after another, rounded once."""
    minima, finish = PASSES[name]
    place, image = as_array(input)
    require_real(image)
    if image.dtype.kind == "b":
        raise TypeError(
            "input is of bool, between whose values a parabola has no steps: pass "
            "input.astype(float), or use ndimage.distance_transform_edt"
        )
    scales = scales_of(scale, check_axes(axes, image.ndim))
    dtype = output_dtype(place, output, image).newbyteorder("=")
    if dtype.kind == "b":
        raise TypeError(f"output of bool cannot hold parabolas, got {output!r}")
    result = computed(place, readable(place, image), scales, dtype, minima, finish)
    return deliver(place, result, output, image)
