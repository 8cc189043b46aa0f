"""Minimum and maximum filters and grey-scale morphology, with SciPy's signatures.

Arguments are resolved to one of three primitives of ``neighbourhood`` (box, footprint, structure);
everything else is a composition.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from semiconv_cupy.errors import FootprintWarning, warn
from semiconv_cupy.ndimage import neighbourhood, reference
from semiconv_cupy.ndimage.arguments import (
    as_array,
    as_numpy,
    begin,
    check_axes,
    check_axis,
    check_constant,
    check_size,
    deliver,
    is_output_array,
    output_dtype,
    per_axis,
    place,
    readable,
    reflected_origin,
    require_real,
    spread,
    wrong_rank,
)
from semiconv_cupy.ndimage.borders import check_mode

Array = Any

__all__ = [
    "black_tophat",
    "grey_closing",
    "grey_dilation",
    "grey_erosion",
    "grey_opening",
    "maximum_filter",
    "maximum_filter1d",
    "minimum_filter",
    "minimum_filter1d",
    "morphological_gradient",
    "morphological_laplace",
    "white_tophat",
]


def _warn_of_ignored_size(size: Any, footprint: Any) -> None:
    if size is not None and footprint is not None:
        warn("ignoring size because footprint is set", UserWarning)


def _warn_of_lost_fractions(structure: np.ndarray, dtype: np.dtype) -> None:
    """Rounded to integers, a structure of fractions is the flat one."""
    if structure.dtype.kind == "f" and dtype.kind in "iu":
        largest = np.abs(structure).max(initial=0)
        if 0 < largest < 1:
            warn(
                f"structure has no value beyond {largest:.3g}, which {dtype} rounds to 0: the "
                "window is flat. Of an image in [0, 255] the structure is "
                "quadratic(..., value_range=255)",
                UserWarning,
            )


# ---- one extremum ------------------------------------------------------------------------------


def _extremum(
    input: Any,
    size: Any,
    footprint: Any,
    structure: Any,
    output: Any,
    mode: Any,
    cval: Any,
    origin: Any,
    minimum: bool,
    axes: Any,
    reflected: bool = False,
) -> Array:
    """The one door to the primitives; `reflected`: the window is mirrored, as in a dilation."""
    xp, input = as_array(input)
    require_real(input)
    factors = getattr(structure, "factors", None) if footprint is None else None
    if structure is not None:
        structure = as_numpy(structure, name="structure")
        require_real(structure, "Complex type not supported for structure")
        if structure.dtype.kind not in "biuf":
            structure = as_numpy(structure, np.float64, "structure")
    if footprint is not None:
        footprint = as_numpy(footprint, bool, "footprint")
        if not footprint.any():
            error = ValueError if footprint.size or structure is None else RuntimeError
            raise error(f"All-zero footprint is not supported: got one of shape {footprint.shape}")
    elif structure is None and size is None:
        raise RuntimeError("no footprint provided: pass size= or footprint=")
    cval = check_constant(cval)
    if reflected:
        axes, origin = _reflect(input.ndim, axes, origin, size, footprint, structure)
        mirror = (slice(None, None, -1),)
        if footprint is not None:
            footprint = footprint[mirror * footprint.ndim]
        if structure is not None:
            structure = structure[mirror * structure.ndim]
            factors = factors and tuple(factor[::-1] for factor in factors)
    dtype = output_dtype(xp, output, input)
    axes = check_axes(axes, input.ndim)
    wide = _in_dtype_of_output(xp, input, output, dtype)
    if structure is not None and input.dtype.kind == "b":
        footprint, structure = _boolean_footprint(footprint, structure), None
    if structure is not None:
        _warn_of_lost_fractions(structure, wide.dtype)
    if structure is None and (footprint is None or footprint.all()):
        if footprint is None:
            sizes = [_size_of_box(k) for k in per_axis(size, len(axes), "size")]
        else:
            sizes = per_axis(footprint.shape, len(axes), "footprint")
        result = _separable(xp, wide, sizes, mode, cval, origin, minimum, axes)
    else:
        # As in SciPy, the constant is a number of the input's dtype here.
        cval = neighbourhood.constant(cval, input.dtype, minimum)[()]
        result = _neighbourhood(
            xp, wide, footprint, structure, factors, mode, cval, origin, minimum, axes
        )
    return deliver(xp, result, output, input)


def _in_dtype_of_output(xp: Any, input: Array, output: Any, dtype: np.dtype) -> Array:
    """The input in the output's dtype if that holds all its values: results then do, too."""
    if output is not None and dtype != input.dtype:
        kind = dtype.newbyteorder("=")
        if np.can_cast(input.dtype, kind, "safe") and input.dtype.kind != "b":
            return readable(xp, input.astype(kind))
    return readable(xp, input)


def _reflect(
    ndim: int, axes: Any, origin: Any, size: Any, footprint: Any, structure: Any
) -> tuple[tuple[int, ...], list[Any]]:
    axes = check_axes(axes, ndim)
    origins = per_axis(origin, len(axes))
    if footprint is not None:
        sizes = footprint.shape
    elif structure is not None:
        sizes = structure.shape
    else:
        sizes = [check_size(k) for k in per_axis(size, len(axes), "size")]
    if len(sizes) < len(axes):
        raise wrong_rank("footprint" if footprint is not None else "structure", sizes, len(axes))
    # An array's k-th axis belongs to the k-th of the sorted axes, an origin to the k-th given: a
    # pair that does not fit here may fit where it is placed.
    checked = list(axes) == sorted(axes)
    return axes, [
        reflected_origin(o, k, checked=checked)
        for o, k in zip(origins, sizes[: len(axes)], strict=True)
    ]


def _size_of_box(size: Any) -> int:
    """A checked size; SciPy cuts a fraction off, where the window is not reflected."""
    if type(size) is not int and isinstance(size, (float, np.floating)) and math.isfinite(size):
        size = int(size)
    return check_size(size)


def _boolean_footprint(footprint: np.ndarray | None, structure: np.ndarray) -> np.ndarray:
    """The set that a structure is to a bool image: its taps that are not zero.

    A structure of nothing but zeros, which is flat to the arithmetic of numbers, is all of them.
    """
    taps = structure != 0
    if not taps.any():
        taps = np.ones(structure.shape, np.bool_)
    if footprint is not None:
        if footprint.shape != taps.shape:
            raise RuntimeError(
                f"structure array has incorrect shape: {taps.shape} with a footprint of "
                f"{footprint.shape}"
            )
        taps &= footprint
        if not taps.any():
            raise ValueError("All-zero footprint is not supported.")
    return taps


def _separable(
    xp: Any,
    input: Array,
    sizes: list[int],
    mode: Any,
    cval: Any,
    origin: Any,
    minimum: bool,
    axes: tuple[int, ...],
) -> Array:
    origins = per_axis(origin, len(axes))
    modes = per_axis(mode, len(axes), "mode")
    window, before = [1] * input.ndim, [0] * input.ndim
    rules = ["constant"] * input.ndim
    for axis, k, shift, name in zip(axes, sizes, origins, modes, strict=True):
        if k > 1:
            window[axis], before[axis], rules[axis] = k, begin(k, shift), check_mode(name)
    return neighbourhood.box(xp, input, window, before, rules, cval, minimum)


def _neighbourhood(
    xp: Any,
    input: Array,
    footprint: np.ndarray | None,
    structure: np.ndarray | None,
    factors: tuple[np.ndarray, ...] | None,
    mode: Any,
    cval: Any,
    origin: Any,
    minimum: bool,
    axes: tuple[int, ...],
) -> Array:
    ndim = input.ndim
    name = "footprint"
    if footprint is None:
        assert structure is not None
        name, footprint = "structure", np.ones(structure.shape, np.bool_)
        if not footprint.size:
            raise RuntimeError(f"structure must not be empty, got shape {structure.shape}")
    origins = per_axis(origin, len(axes))
    if len(axes) < ndim:
        origins = spread(origins, axes, ndim, 0)
    taps = place(footprint, axes, ndim, name)
    before = [begin(k, o) for k, o in zip(taps.shape, origins, strict=True)]
    if structure is not None:
        if structure.ndim != len(axes):
            raise RuntimeError(
                f"structure array has incorrect shape: {structure.ndim} axes for {len(axes)}"
            )
        structure = place(structure, axes, ndim, "structure")
        if structure.shape != taps.shape:
            raise RuntimeError(
                f"structure array has incorrect shape: {structure.shape} with a footprint of "
                f"{taps.shape}"
            )
    if not isinstance(mode, str) and isinstance(mode, Iterable):
        raise RuntimeError(
            f"A sequence of modes is not supported for non-separable footprints, got {mode!r}"
        )
    rules = [check_mode(mode)] * ndim
    if structure is None:
        return neighbourhood.footprint(xp, input, taps, before, rules, cval, minimum)
    values = _signed(structure[taps], minimum)
    if factors is not None and len(axes) > 1 and input.dtype in (np.float32, np.float64):
        placed = spread(factors, sorted(axes), ndim, None)
        if all(factor.dtype == input.dtype for factor in factors):
            return _by_factors(xp, input, placed, before, rules, cval, minimum)
    return neighbourhood.structure(xp, input, taps, values, before, rules, cval, minimum)


def _signed(values: np.ndarray, minimum: bool) -> np.ndarray:
    """A structure's values as they are added: negated in an erosion."""
    if values.dtype.kind in "biu":
        if values.dtype == np.uint64 and int(values.max(initial=0)) >= 2**63:
            values = values.astype(np.float64)
        else:
            values = values.astype(np.int64)
            if minimum and int(values.min(initial=0)) == -(2**63):
                values = values.astype(np.float64)
    else:
        values = values.astype(np.float64)
    return -values if minimum else values


def _by_factors(
    xp: Any,
    input: Array,
    factors: list[Any],
    before: list[int],
    rules: list[str],
    cval: Any,
    minimum: bool,
) -> Array:
    """A structure that is an outer sum, one axis after another: O(N K) instead of O(N K^2)."""
    for axis, factor in enumerate(factors):
        if factor is None:
            continue
        values = _signed(factor, minimum)
        shape = [1] * input.ndim
        shape[axis] = len(values)
        begins = [before[a] if a == axis else 0 for a in range(input.ndim)]
        input = neighbourhood.structure(
            xp, input, np.ones(shape, np.bool_), values, begins, rules, cval, minimum
        )
        # Beyond the other axes' borders, this axis has made of the constant:
        cval = cval + (values.min() if minimum else values.max())
    return input


# ---- filters -----------------------------------------------------------------------------------


def _extremum1d(
    input: Any, size: Any, axis: Any, output: Any, mode: Any, cval: Any, origin: Any, minimum: bool
) -> Array:
    xp, input = as_array(input)
    require_real(input)
    axis = check_axis(axis, input.ndim)
    size = check_size(size)
    if size < 1:
        raise RuntimeError(f"incorrect filter size: size must be at least 1, got {size}")
    dtype = output_dtype(xp, output, input)
    cval = check_constant(cval)
    window, before, rules = [1] * input.ndim, [0] * input.ndim, ["constant"] * input.ndim
    window[axis], before[axis], rules[axis] = size, begin(size, origin), check_mode(mode)
    wide = _in_dtype_of_output(xp, input, output, dtype)
    result = neighbourhood.box(xp, wide, window, before, rules, cval, minimum)
    return deliver(xp, result, output, input)


def minimum_filter1d(
    input: Any,
    size: int,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int = 0,
) -> Array:
    """The minimum of every `size` neighbours along one axis.

    Parameters
    ----------
    input, output, mode, cval, origin
        As in `minimum_filter`.
    size : int
        Number of neighbours.
    axis : int
        The axis.

    Returns
    -------
    array
        Of the input's shape.

    Examples
    --------
    >>> minimum_filter1d(np.array([2, 8, 0, 4, 1, 9]), size=3)
    array([2, 0, 0, 0, 1, 1])
    """
    return _extremum1d(input, size, axis, output, mode, cval, origin, True)


def maximum_filter1d(
    input: Any,
    size: int,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int = 0,
) -> Array:
    """The maximum of every `size` neighbours along one axis; arguments as in `minimum_filter1d`.

    Examples
    --------
    >>> maximum_filter1d(np.array([2, 8, 0, 4, 1, 9]), size=3)
    array([8, 8, 8, 4, 9, 9])
    """
    return _extremum1d(input, size, axis, output, mode, cval, origin, False)


def minimum_filter(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""The minimum over a neighbourhood: `scipy.ndimage.minimum_filter` for NumPy and CuPy arrays.

    .. math:: out[x] = \min_{y \in F} input[x + y - \lfloor K / 2 \rfloor - origin]

    Parameters
    ----------
    input : array_like
        NumPy or CuPy, any number of axes; bool, integers, float16 (which SciPy does not know),
        float32 and float64.
    size : int or sequence of int
        The neighbourhood is a box of so many elements along each of `axes`.
    footprint : array_like of bool
        Or it is this set, of shape K; `size` is then ignored, with a warning.
    output : array or dtype, optional
        Where the result goes, which may be the input itself, or what dtype it has. A result that
        does not fit is converted as C does.
    mode : str or sequence of str
        What lies beyond the border: "reflect" (d c b a | a b c d | d c b a, also "grid-mirror"),
        "mirror" (d c b | a b c d | c b a), "nearest", "wrap" (also "grid-wrap"), "constant" (also
        "grid-constant"). With `size`, one for each of `axes` if wanted.
    cval : float
        The constant; for an integer dtype rounded towards zero and limited to its range.
    origin : int or sequence of int
        Shifts the neighbourhood; positive values to lower indices.
    axes : int or tuple of int, optional
        The axes of the neighbourhood, (0, 1) for a colour picture (H, W, 3); all by default.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    Notes
    -----
    Any size costs nearly the same: boxes are built from windows that double, footprints from their
    runs. Nothing is compiled for another size, origin or mode. NaN is never selected (SciPy's
    result depends on the direction of its loop); where there is nothing but NaN, the result is
    +inf (-inf for the maximum). Only a window of nothing but its own position copies NaN, too.

    Examples
    --------
    >>> image = np.array([[5, 3, 8], [7, 1, 6], [4, 9, 2]])
    >>> minimum_filter(image, size=2)
    array([[5, 3, 3],
           [5, 1, 1],
           [4, 1, 1]])
    >>> minimum_filter(image, footprint=[[0, 1, 0], [1, 1, 1], [0, 1, 0]], mode="nearest")
    array([[3, 1, 3],
           [1, 1, 1],
           [4, 1, 2]])
    """
    _warn_of_ignored_size(size, footprint)
    return _extremum(input, size, footprint, None, output, mode, cval, origin, True, axes)


def maximum_filter(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """The maximum over a neighbourhood; parameters and notes as in `minimum_filter`.

    Examples
    --------
    >>> maximum_filter(np.array([5, 3, 8, 1, 2]), size=3)
    array([5, 8, 8, 8, 2])
    """
    _warn_of_ignored_size(size, footprint)
    return _extremum(input, size, footprint, None, output, mode, cval, origin, False, axes)


# ---- grey-scale morphology ---------------------------------------------------------------------


def _check_window(input: Any, size: Any, footprint: Any, structure: Any) -> None:
    if size is None and footprint is None and structure is None:
        raise ValueError("size, footprint, or structure must be specified")
    _warn_of_ignored_size(size, footprint)
    if structure is not None:
        _warn_of_a_footprint(input, structure)


def _warn_of_a_footprint(input: Any, structure: Any) -> None:
    structure = as_numpy(structure, name="structure")
    flags = structure.dtype.kind == "b"
    ones = structure.size > 1 and structure.flat[0] == 1 and bool((structure == 1).all())
    # To a bool image every structure is a set of taps (`_boolean_footprint`).
    if (flags or ones) and as_array(input)[1].dtype.kind != "b":
        warn(
            f"structure is {'of bool' if flags else 'nothing but ones'}: its values are added to "
            "the image (subtracted in an erosion), and the result is off by 1; for a flat window "
            "pass it as footprint=",
            FootprintWarning,
        )


def grey_erosion(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""Grey-scale erosion: `scipy.ndimage.grey_erosion` for NumPy and CuPy arrays.

    .. math:: out[x] = \min_{y \in F} input[x + y - c] - structure[y], \quad
              c = \lfloor K / 2 \rfloor + origin

    Parameters
    ----------
    input, size, footprint, output, mode, cval, origin, axes
        As in `minimum_filter`. At least one of `size`, `footprint`, `structure` is needed.
    structure : array_like, optional
        The structuring function, of shape K; zero everywhere by default. Where a footprint is given
        as well, only its taps take part. An outer sum that knows its factors
        (`semiconv_cupy.structuring.quadratic`) is applied one axis at a time.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    Warns
    -----
    FootprintWarning
        For a structure of bool or of nothing but ones, which probably is a footprint: its values
        are added, and the result is off by 1. Not to a bool image.

    Notes
    -----
    To an integer image a structure is rounded towards zero (but its first tap, as in SciPy).

    Where SciPy is wrong this differs. Integers are exact in 64 bits and saturate (SciPy computes in
    double, and 250 + 10 in uint8 is 4 or 255, by its build). To a bool image a structure is a set,
    its taps that are not zero (SciPy's result is True everywhere). NaN is never selected. `output`
    may be the input, in the compositions too.

    Mathematics: Serra, "Image Analysis and Mathematical Morphology", 1982; Heijmans, "Theoretical
    aspects of gray-level morphology", IEEE TPAMI 13 (1991).

    Examples
    --------
    >>> grey_erosion(np.array([3, 9, 9, 9, 3, 9]), structure=[-2, 0, -2], mode="nearest")
    array([3, 5, 9, 5, 3, 5])
    """
    _check_window(input, size, footprint, structure)
    return _extremum(input, size, footprint, structure, output, mode, cval, origin, True, axes)


def grey_dilation(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""Grey-scale dilation: `scipy.ndimage.grey_dilation` for NumPy and CuPy arrays.

    .. math:: out[x] = \max_{y \in F} input[x - y + c] + structure[y]

    The adjoint of `grey_erosion`; parameters, errors and notes as there.

    Examples
    --------
    >>> grey_dilation(np.array([0, 0, 5, 0, 0, 0, 0]), structure=[-1, 0, -1])
    array([0, 4, 5, 4, 0, 0, 0])
    >>> grey_dilation(np.array([250, 3], np.uint8), structure=[0, 10, 0])  # saturates
    array([255, 250], dtype=uint8)
    """
    _check_window(input, size, footprint, structure)
    return _extremum(
        input, size, footprint, structure, output, mode, cval, origin, False, axes, reflected=True
    )


def _window(
    input: Any,
    size: Any,
    footprint: Any,
    structure: Any,
    output: Any,
    mode: Any,
    cval: Any,
    origin: Any,
    axes: Any,
) -> tuple[Any, Array, dict[str, Any], dict[str, Any]]:
    """NumPy or CuPy, the input, and the arguments of an erosion and a dilation by one window.

    An `output` array is checked here, before the first of the two is computed.
    """
    _check_window(input, size, footprint, structure)
    xp, input = as_array(input)
    if is_output_array(xp, output):
        output_dtype(xp, output, input)
    common = dict(
        size=size, footprint=footprint, structure=structure, mode=mode, cval=cval, origin=origin,
        axes=axes,
    )  # fmt: skip
    return xp, input, common | dict(minimum=True), common | dict(minimum=False, reflected=True)


def _require_differences(xp: Any, input: Array, output: Any) -> None:
    """TypeError for an output of another kind than its differences to the input, as in SciPy.

    A result that is only selected is converted to any dtype.
    """
    if output is None:
        return
    dtype = output_dtype(xp, output, input)
    both = np.result_type(input.dtype, dtype)
    if not np.can_cast(both, dtype, "same_kind"):
        raise TypeError(
            f"output of {dtype} cannot hold differences to an input of {input.dtype}: pass one of "
            f"{both}, or None"
        )


def grey_opening(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """Erosion, then dilation with the same window; parameters and notes as in `grey_erosion`.

    Examples
    --------
    >>> grey_opening(np.array([0, 7, 0, 5, 5, 5, 0]), size=3)
    array([0, 0, 0, 5, 5, 5, 0])
    """
    _, input, erosion, dilation = _window(
        input, size, footprint, structure, output, mode, cval, origin, axes
    )
    eroded = _extremum(input, output=None, **erosion)
    return _extremum(eroded, output=output, **dilation)


def grey_closing(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """Dilation, then erosion with the same window; parameters and notes as in `grey_erosion`.

    Examples
    --------
    >>> grey_closing(np.array([5, 0, 5, 0, 0, 0, 5]), size=3)
    array([5, 5, 5, 0, 0, 0, 5])
    """
    _, input, erosion, dilation = _window(
        input, size, footprint, structure, output, mode, cval, origin, axes
    )
    dilated = _extremum(input, output=None, **dilation)
    return _extremum(dilated, output=output, **erosion)


def morphological_gradient(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """Dilation minus erosion; parameters and notes as in `grey_erosion`.

    An `output` that is a dtype is ignored, as in SciPy. Of a bool image it is the set difference
    (SciPy raises). Integers are subtracted modulo their range, as in SciPy: a difference beyond 127
    of int8 is negative. Convert such an image to a wider dtype before.

    Examples
    --------
    >>> morphological_gradient(np.array([0, 0, 0, 7, 7, 7]), size=3)
    array([0, 0, 7, 7, 0, 0])
    """
    xp, input, erosion, dilation = _window(
        input, size, footprint, structure, output, mode, cval, origin, axes
    )
    output = output if is_output_array(xp, output) else None
    _require_differences(xp, input, output)
    dilated = _extremum(input, output=None, **dilation)
    eroded = _extremum(input, output=output, **erosion)
    if dilated.dtype.kind == "b" and eroded.dtype.kind == "b":
        return xp.bitwise_xor(dilated, eroded, out=eroded)
    return xp.subtract(dilated, eroded, out=eroded)


def morphological_laplace(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""Dilation plus erosion minus twice the input; parameters and notes as in `grey_erosion`.

    .. math:: out = \delta(input) + \varepsilon(input) - 2\, input

    An `output` that is a dtype is ignored, as in SciPy. Integers are added modulo their range.
    Floating results are SciPy's bits, but right where SciPy's sum overflows on the way; of float16,
    which SciPy does not know, they are rounded once.

    Examples
    --------
    >>> morphological_laplace(np.array([0, 0, 0, 7, 7, 7]), size=3)
    array([ 0,  0,  7, -7,  0,  0])
    """
    xp, input, erosion, dilation = _window(
        input, size, footprint, structure, output, mode, cval, origin, axes
    )
    if is_output_array(xp, output):
        input = _kept(xp, input, output)
    else:
        output = None
    _require_differences(xp, input, output)
    dilated = _extremum(input, output=None, **dilation)
    result = _extremum(input, output=output, **erosion)
    if result.dtype == np.float16:
        wide = xp.add(dilated, result, dtype=np.float64)  # exact, as are the differences
        wide -= input
        wide -= input
        result[...] = reference.c_cast(xp, wide, result.dtype)
        return result
    # Where a sum overflows, NumPy calls back: a look for it in the result would take a pass more.
    same = xp is np and dilated.dtype == result.dtype == input.dtype
    overflows = [] if same else ["unknown"]
    with np.errstate(over="call", invalid="call", call=lambda kind, _: overflows.append(kind)):
        xp.add(dilated, result, out=result)
        xp.subtract(result, input, out=result)
        xp.subtract(result, input, out=result)
    if overflows and result.dtype.kind == "f":
        lost = ~xp.isfinite(result)
        if bool(lost.any()):
            eroded = _extremum(input, output=None, **erosion)
            result[lost] = _far_laplacian(xp, dilated[lost], eroded[lost], input[lost])
    return result


def _far_laplacian(xp: Any, dilated: Array, eroded: Array, input: Array) -> Array:
    """dilated + eroded - 2 input where that overflows on the way: infinite only if it is so.

    A quarter of each number leaves room for the sums, whose rounding errors are added at the end.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        upper, upper_error = _two_sum(dilated * 0.25, input * -0.25)
        lower, lower_error = _two_sum(eroded * 0.25, input * -0.25)
        total, error = _two_sum(upper, lower)
        corrected = total + (upper_error + lower_error + error)
        return xp.where(xp.isfinite(total), corrected, total) * 4


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The rounded sum, and its exact error (Knuth)."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def _kept(xp: Any, input: Array, output: Any) -> Array:
    """The input, copied if writing to `output` might change it."""
    if is_output_array(xp, output) and xp.may_share_memory(input, output):
        return input.copy()
    return input


def white_tophat(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """The input minus its opening: what is bright and small; parameters as in `grey_erosion`.

    Right for an `output` that is the input, where SciPy's is zero.

    Examples
    --------
    >>> white_tophat(np.array([0, 7, 0, 5, 5, 5, 0]), size=3)
    array([0, 7, 0, 0, 0, 0, 0])
    """
    xp, input, erosion, dilation = _window(
        input, size, footprint, structure, output, mode, cval, origin, axes
    )
    _require_differences(xp, input, output)
    input = _kept(xp, input, output)
    opened = _extremum(_extremum(input, output=None, **erosion), output=output, **dilation)
    return _difference(xp, input, opened, opened)


def black_tophat(
    input: Any,
    size: Any = None,
    footprint: Any = None,
    structure: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """The closing minus the input: what is dark and small; parameters as in `grey_erosion`.

    Right for an `output` that is the input, where SciPy's is zero.

    Examples
    --------
    >>> black_tophat(np.array([5, 0, 5, 0, 0, 0, 5]), size=3)
    array([0, 5, 0, 0, 0, 0, 0])
    """
    xp, input, erosion, dilation = _window(
        input, size, footprint, structure, output, mode, cval, origin, axes
    )
    _require_differences(xp, input, output)
    input = _kept(xp, input, output)
    closed = _extremum(_extremum(input, output=None, **dilation), output=output, **erosion)
    return _difference(xp, closed, input, closed)


def _difference(xp: Any, left: Array, right: Array, out: Array) -> Array:
    if left.dtype.kind == "b" and right.dtype.kind == "b":
        return xp.bitwise_xor(left, right, out=out)
    return xp.subtract(left, right, out=out)
