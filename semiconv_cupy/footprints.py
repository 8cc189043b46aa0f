"""Footprints as bool arrays: boxes, discs, balls, diamonds and crosses.

`structuring` offers them. An array has spatial axes only, and its middle is the set's centre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from semiconv_cupy.extents import (
    checked_rank,
    checked_shape,
    real_number,
    real_numbers,
    require_possible,
)

__all__ = ["ball", "box", "cross", "diamond", "disk"]

BoolArray = npt.NDArray[np.bool_]


def box(size: int | Sequence[int], ndim: int | None = None) -> BoolArray:
    """The footprint of a box: True everywhere.

    `skimage.morphology.footprint_rectangle(size)` as a bool array.

    Parameters
    ----------
    size : int or sequence of int
        Taps along each axis; a single size is that of all axes.
    ndim : int, optional
        Number of axes: by default that of a sequence, else 2.

    Returns
    -------
    array of bool

    Raises
    ------
    ValueError
        A size or a number of axes below 1, or sizes for another number of axes.
    TypeError
        What is no integer.

    See Also
    --------
    diamond, cross, ball : Other sets.
    flat : The structuring function of a set.

    Examples
    --------
    >>> box((2, 3))
    array([[ True,  True,  True],
           [ True,  True,  True]])
    >>> box(3, ndim=3).shape
    (3, 3, 3)
    """
    if ndim is None:
        sizes = real_numbers("size", size)
        ndim = sizes.size if sizes.ndim else 2
    return np.ones(checked_shape(size, checked_rank(ndim)), dtype=np.bool_)


def disk(radius: float) -> BoolArray:
    r"""The footprint of a disk in the plane, equal to `skimage.morphology.disk`.

    .. math:: \{ x \in \mathbb{Z}^2 : \sqrt{x_1^2 + x_2^2} \le radius \}

    Parameters
    ----------
    radius : float
        In pixels; at least 0.

    Returns
    -------
    array of bool
        2 floor(radius) + 1 taps along both axes.

    Raises
    ------
    ValueError
        A radius that is negative or not finite.
    TypeError
        A radius that is no number.

    See Also
    --------
    ball : In any number of dimensions.
    diamond, box, cross : Other sets.
    flat : The structuring function of a set.

    Examples
    --------
    >>> disk(2).astype(int)
    array([[0, 0, 1, 0, 0],
           [0, 1, 1, 1, 0],
           [1, 1, 1, 1, 1],
           [0, 1, 1, 1, 0],
           [0, 0, 1, 0, 0]])
    """
    return ball(radius, ndim=2)


def ball(radius: float, ndim: int = 3) -> BoolArray:
    r"""The footprint of a ball, Euclidean, in `ndim` dimensions.

    .. math:: \{ x \in \mathbb{Z}^N : \textstyle\sum_a x_a^2 \le radius^2 \}

    In three dimensions equal to `skimage.morphology.ball`.

    Parameters
    ----------
    radius : float
        In elements; at least 0.
    ndim : int
        Number of axes N.

    Returns
    -------
    array of bool
        2 floor(radius) + 1 taps along each axis.

    Raises
    ------
    ValueError
        A radius that is negative or not finite, or `ndim` below 1.
    TypeError
        A radius that is no number, or `ndim` that is no integer.

    See Also
    --------
    disk : In the plane.
    diamond, box, cross : Other sets.
    semiconv_cupy.ndimage.distance_transform_edt : Dilations and erosions by balls of all radii.

    Examples
    --------
    >>> ball(1).sum(), ball(1.5).sum(), ball(2, ndim=1)
    (np.int64(7), np.int64(19), array([ True,  True,  True,  True,  True]))
    """
    radius, offsets = _offsets(radius, ndim)
    return outer_sum([offsets**2] * checked_rank(ndim)) <= radius * radius


def diamond(radius: float, ndim: int = 2) -> BoolArray:
    r"""The ball of the taxicab distance, as `skimage.morphology.diamond` and `octahedron`.

    .. math:: \{ x \in \mathbb{Z}^N : \textstyle\sum_a \vert x_a \vert \le radius \}

    Parameters
    ----------
    radius : float
        In elements; at least 0.
    ndim : int
        Number of axes N.

    Returns
    -------
    array of bool
        2 floor(radius) + 1 taps along each axis.

    Raises
    ------
    ValueError
        A radius that is negative or not finite, or `ndim` below 1.
    TypeError
        A radius that is no number, or `ndim` that is no integer.

    See Also
    --------
    ball : Of the Euclidean distance.
    box : Of the chessboard distance.
    cross : The axes alone.

    Examples
    --------
    >>> diamond(1).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    radius, offsets = _offsets(radius, ndim)
    return outer_sum([abs(offsets)] * checked_rank(ndim)) <= radius


def cross(radius: float, ndim: int = 2) -> BoolArray:
    r"""The footprint of the points on an axis that are at most `radius` from the centre.

    .. math:: \{ x \in \mathbb{Z}^N :
              \textstyle\sum_a \vert x_a \vert = \max_a \vert x_a \vert \le radius \}

    `cross(1, ndim)` is `scipy.ndimage.generate_binary_structure(ndim, 1)`.

    Parameters
    ----------
    radius : float
        In elements; at least 0.
    ndim : int
        Number of axes N.

    Returns
    -------
    array of bool
        2 floor(radius) + 1 taps along each axis.

    Raises
    ------
    ValueError
        A radius that is negative or not finite, or `ndim` below 1.
    TypeError
        A radius that is no number, or `ndim` that is no integer.

    See Also
    --------
    diamond, ball, box : Other sets.
    semiconv_cupy.ndimage.generate_binary_structure : Of size 3.

    Examples
    --------
    >>> cross(2).astype(int)
    array([[0, 0, 1, 0, 0],
           [0, 0, 1, 0, 0],
           [1, 1, 1, 1, 1],
           [0, 0, 1, 0, 0],
           [0, 0, 1, 0, 0]])
    """
    off_axis = (_offsets(radius, ndim)[1] != 0).astype(np.int64)
    return outer_sum([off_axis] * checked_rank(ndim)) <= 1


def _offsets(radius: float, ndim: int) -> tuple[float, npt.NDArray[np.int64]]:
    """The radius as a Python number, whose square cannot overflow, and the offsets of an axis."""
    radius = real_number("radius", radius)
    if not (0 <= radius < math.inf):
        raise ValueError(f"radius must be finite and at least 0, got {radius!r}")
    half = math.floor(radius)
    require_possible((2 * half + 1,) * checked_rank(ndim), f"radius {radius!r}")
    return radius, np.arange(-half, half + 1, dtype=np.int64)


def outer_sum(terms: Sequence[np.ndarray]) -> np.ndarray:
    return sum(np.ix_(*terms), start=np.zeros((), dtype=terms[0].dtype))
