"""Structuring functions as NumPy arrays: quadratic ones, and flat ones from footprints.

All arrays have spatial axes only, shape (*K). `krn[None, None]` is the (O, I, *K) kernel that
`semifield_conv` takes; `cupy.asarray` and `torch.tensor` copy it to the image's device. Nothing
here convolves. The footprints themselves come from `footprints`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from semiconv_cupy.extents import (
    MOST_ELEMENTS,
    checked_rank,
    checked_shape,
    real_number,
    real_numbers,
    require_possible,
)
from semiconv_cupy.footprints import ball, box, cross, diamond, disk, outer_sum

__all__ = [
    "StructuringFunction",
    "ball",
    "box",
    "cross",
    "diamond",
    "disk",
    "flat",
    "quadratic",
]


class StructuringFunction(np.ndarray):
    """A read-only array that can carry the 1-D functions of which it is the outer sum.

    A dilation by an outer sum is a dilation along each axis in turn, O(N K) instead of O(K^N) work;
    algorithms that do this read the terms from `factors`. Leading new axes (`krn[None, None]`)
    keep the factors; any other slice, copy or arithmetic gives an array whose `factors` is None.
    The array is read-only, so that it always equals its factors; `krn.copy()` can be written to.

    Attributes
    ----------
    factors : tuple of numpy.ndarray or None
        One 1-D array for each spatial axis, each in the dtype of the array.

    See Also
    --------
    quadratic : What makes such arrays.

    Examples
    --------
    >>> krn = quadratic(2.0, size=3)
    >>> krn.factors
    (array([-0.25,  0.  , -0.25], dtype=float32), array([-0.25,  0.  , -0.25], dtype=float32))
    >>> krn[None, None].factors is krn.factors, (krn + 1).factors
    (True, None)
    """

    factors: tuple[np.ndarray, ...] | None

    def __array_finalize__(self, source: Any) -> None:
        self.factors = None

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        entries = key if isinstance(key, tuple) else (key,)
        if all(entry is None for entry in entries):
            part.factors = self.factors
        return part


def quadratic(
    scale: npt.ArrayLike,
    ndim: int | None = None,
    size: int | Sequence[int] | None = None,
    *,
    value_range: float = 1.0,
    dtype: npt.DTypeLike = np.float32,
) -> StructuringFunction:
    r"""The quadratic structuring function on the grid of integer offsets x.

    .. math:: q(x) = -x^T S^{-1} x

    Parameters
    ----------
    scale : float, sequence of float, or 2-D array
        Lengths in pixels, or their matrix:

        - a number s: isotropic, S = s^2 I. q falls by 1 at the distance s;
        - a sequence (s_1, ..., s_N): along the axes, S = diag(s_1^2, ..., s_N^2);
        - a symmetric positive definite N x N matrix: the covariance S itself, in squared pixels.
    ndim : int, optional
        Number of axes N. For a number 2 by default; a sequence or a matrix has its own.
    size : int or sequence of int, optional
        Taps along each axis. K taps are at the offsets -((K - 1) // 2) and the K - 1 integers
        that follow: -1..1 for K = 3, -1..2 for K = 4. By default the smallest odd size that is
        exact for an image whose values span `value_range`: a tap with q(x) <= -value_range never
        wins.
    value_range : float
        Largest minus smallest value of the image, for the automatic size: 1 for an image in
        [0, 1], 255 for one in [0, 255].
    dtype : dtype
        float16, float32 (default) or float64.

    Returns
    -------
    StructuringFunction
        C-contiguous, of shape (*K). Its `factors` are set if S is diagonal.

    Raises
    ------
    ValueError
        A scale that is not positive and finite, a matrix that is not symmetric positive definite,
        a size below 1, or `ndim`, `scale` and `size` that contradict each other.
    TypeError
        A dtype that is not floating.

    See Also
    --------
    flat : 0 in a set, -inf outside.
    semiconv_cupy.parabolic_dilation : Along the axes, without end and in less time.
    torch_bridge.QuadraticKernelSpectral : A module that learns S.

    Notes
    -----
    Quadratic functions are to dilation what Gaussians are to linear convolution [1]_: closed under
    it, q_S (+) q_T = q_(S + T), and the only ones that are both isotropic and separable. The
    scale-space parameter t of [1]_, ``q(x) = -|x|^2 / (4 t)``, is t = s^2 / 4. S is the covariance
    of the modules `torch_bridge.QuadraticKernel*`, whose `log_std` is log(s).

    References
    ----------
    .. [1] R. van den Boomgaard and A. Smeulders, "The morphological structure of images: the
       differential equations of morphological scale-space", IEEE TPAMI 16 (1994), 1101-1113.

    Examples
    --------
    >>> quadratic(2.0, ndim=1)
    StructuringFunction([-0.25,  0.  , -0.25], dtype=float32)
    >>> quadratic((2.0, 4.0), size=(1, 5))
    StructuringFunction([[-0.25  , -0.0625,  0.    , -0.0625, -0.25  ]], dtype=float32)
    >>> quadratic(10.0).shape, quadratic(10.0, ndim=3).shape
    ((19, 19), (19, 19, 19))
    >>> quadratic([[9.0, 4.0], [4.0, 4.0]]).shape
    (5, 3)
    >>> krn = quadratic(3.0)[None, None]  # the (O, I, *K) that semifield_conv takes
    >>> krn.shape
    (1, 1, 5, 5)
    """
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise TypeError(
            f"dtype must be floating for a quadratic structuring function, got {dtype}; "
            "round it for an integer image: numpy.rint(quadratic(...)).astype(...)"
        )
    covariance = _covariance(scale, ndim)
    variances = covariance.diagonal()
    rank = len(variances)
    if size is None:
        value_range = real_number("value_range", value_range)
        if not (0 < value_range < math.inf):
            raise ValueError(f"value_range must be positive and finite, got {value_range!r}")
        # sqrt(range * S_ii) is the half width of the ellipsoid q(x) > -range along axis i.
        with np.errstate(over="ignore"):
            halves = np.minimum(np.sqrt(value_range * variances), MOST_ELEMENTS)
        shape = tuple(2 * math.ceil(half) - 1 for half in halves)
        require_possible(shape, f"scale {scale!r} with value_range {value_range!r}")
    else:
        shape = checked_shape(size, rank)
    offsets = [np.arange(length) - (length - 1) // 2 for length in shape]

    # Computed in float64 and rounded once; a value below float16's range rightly becomes -inf.
    with np.errstate(over="ignore"):
        if np.array_equal(covariance, np.diag(variances)):
            terms = [0.0 - x * x / v for x, v in zip(offsets, variances, strict=True)]
            krn = outer_sum(terms).astype(dtype).view(StructuringFunction)
            krn.factors = tuple(_read_only(term.astype(dtype)) for term in terms)
        else:
            grid = np.stack(np.meshgrid(*offsets, indexing="ij"), axis=-1).astype(np.float64)
            # With S = L L^T, -|L^-1 x|^2 cannot become positive by rounding.
            whitened = np.linalg.solve(np.linalg.cholesky(covariance), grid[..., None])[..., 0]
            krn = (0.0 - np.square(whitened).sum(axis=-1)).astype(dtype).view(StructuringFunction)
    krn.flags.writeable = False
    return krn


def flat(footprint: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> np.ndarray:
    r"""The flat structuring function of a footprint: 0 inside, -inf outside.

    .. math:: b(x) = 0 \text{ for } x \in footprint, \quad -\infty \text{ elsewhere}

    Parameters
    ----------
    footprint : array_like of bool, shape (*K)
        The set, for example `disk(5)`. Its centre is the middle of the array, as in `quadratic`.
    dtype : dtype
        A floating dtype, or bool. For bool the footprint itself is returned, which is the kernel
        for a boolean image (in the semifield (or, and), True is the one and False the zero).

    Returns
    -------
    numpy.ndarray
        C-contiguous, of shape (*K).

    Raises
    ------
    TypeError
        An integer dtype, which has no -inf: with any integer, a pixel outside the footprint could
        still win. `semiconv_cupy.ndimage` takes an integer image and its footprint.

    See Also
    --------
    box, disk, ball, diamond, cross : Footprints.
    quadratic : A structuring function that falls from its middle.

    Examples
    --------
    >>> flat(cross(1))
    array([[-inf,   0., -inf],
           [  0.,   0.,   0.],
           [-inf,   0., -inf]], dtype=float32)
    """
    footprint = np.array(real_numbers("footprint", footprint), dtype=np.bool_, order="C")
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return footprint
    if dtype.kind != "f":
        raise TypeError(
            f"dtype must be floating or bool, got {dtype}: integers have no -inf for the taps "
            "outside the footprint; for an integer image use "
            "semiconv_cupy.ndimage.grey_dilation(image, footprint=...)"
        )
    return np.where(footprint, 0.0, -np.inf).astype(dtype)


def _covariance(scale: npt.ArrayLike, ndim: int | None) -> npt.NDArray[np.float64]:
    """The matrix S for `scale`, as `quadratic` defines it; raises if there is none."""
    given = np.asarray(real_numbers("scale", scale), dtype=np.float64)
    if given.ndim > 2:
        raise ValueError(
            f"scale must be a number, a sequence or a square matrix, got shape {given.shape}"
        )
    rank = checked_rank(2 if ndim is None else ndim) if given.ndim == 0 else len(given)
    if ndim not in (None, rank):
        raise ValueError(f"ndim is {ndim}, but scale has {rank} axes: {scale!r}")
    if given.ndim < 2:
        lengths = np.broadcast_to(given, (checked_rank(rank),))
        if not np.all((lengths > 0) & np.isfinite(lengths)):
            raise ValueError(f"scale must be positive and finite, got {scale!r}")
        with np.errstate(over="ignore"):
            return np.diag(lengths**2)
    finite = given.shape == (rank, rank) and np.all(np.isfinite(given))
    if not finite or not np.allclose(given, given.T):
        raise ValueError(f"scale as a matrix must be finite, square and symmetric, got {scale!r}")
    if not np.all(np.linalg.eigvalsh(given) > 0):
        raise ValueError(f"scale as a matrix must be positive definite, got {scale!r}")
    return given


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
