"""Correlation and convolution, with SciPy's signatures, summed in double precision.

Taps are summed in SciPy's order and in its precision, so that results are the same bits.
"""

from __future__ import annotations

import cmath
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place, gpu_place
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.ndimage import calls, neighbourhood
from semiconv_cupy.ndimage.arguments import (
    Array,
    as_array,
    as_numpy,
    check_axes,
    check_axis,
    check_constant,
    expanded,
    get_output,
    on_axes,
    per_axis,
    positions_before,
    readable,
    reflected_origin,
    writable_beside,
)
from semiconv_cupy.ndimage.borders import check_mode_of_sum
from semiconv_cupy.ndimage.neighbourhood import SumCall
from semiconv_cupy.ndimage.window import NEGLIGIBLE, WeightedTaps, Window, every_tap, tap_indices

__all__ = ["convolve", "convolve1d", "correlate", "correlate1d"]


def _by_components(
    correlate_real: Callable[..., Array],
    input: Array,
    weights: np.ndarray,
    output: Array,
    cval: Any,
) -> Array:
    """A complex correlation from real ones; each part of `output` is written once.

    With weights u + iv and input a + ib, the real part is u * a - v * b and the imaginary part
    v * a + u * b, of which a real input or real weights leave one term each.

    `correlate_real` takes a part of the input, a part of the weights, `output` and `cval`.
    """
    pairs: dict[str, list[tuple[int, Array, np.ndarray, Any]]] = {"real": [], "imag": []}
    parts = (False, True) if weights.dtype.kind == "c" else (False,)
    try:
        cmath.isnan(cval)  # refuses a text, which complex() would read
    except (TypeError, OverflowError) as error:
        raise type(error)(f"cval must be a number, got {cval!r}") from None
    if input.dtype.kind != "c" and np.iscomplexobj(cval):
        raise ValueError(
            f"Cannot provide a complex-valued cval when the input is real, got {cval!r}"
        )
    for imaginary in parts:
        values = weights.imag if imaginary else weights.real
        pairs["imag" if imaginary else "real"].append((1, input.real, values, np.real(cval)))
        if input.dtype.kind == "c":
            entry = (-1 if imaginary else 1, input.imag, values, np.imag(cval))
            pairs["real" if imaginary else "imag"].append(entry)
    results = {}
    kind = output.real.dtype
    for name, entries in pairs.items():
        total: Any = None
        for sign, part, values, constant in entries:
            term = correlate_real(part, values, output=kind, cval=constant)
            total = term if total is None else (total + term if sign > 0 else total - term)
        results[name] = 0 if total is None else total
    output.real[...] = results["real"]
    output.imag[...] = results["imag"]
    return output


def _write(
    place: Place, image: Array, call: SumCall, target: Array, output: Any, unread: Any = None
) -> Array:
    """Run a call into `target`, around whatever keeps it from being written to at once."""
    read = [image] if unread is None else [image, unread]
    direct = target is not output or all(writable_beside(place, target, each) for each in read)
    out = target if direct else place.array_module.empty(target.shape, target.dtype.name)
    call(image, out, unread)
    if out is not target:
        target[...] = out
    return target


@by_chunks
def correlate1d(
    input: Any,
    weights: Any,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: int = 0,
) -> Array:
    r"""Correlate along one axis with one-dimensional weights.

    .. math:: out[x] = \sum_y weights[y]\, input[x + y - \lfloor K / 2 \rfloor - origin]

    Parameters
    ----------
    input, output, mode, cval, origin
        As in `correlate`.
    weights : array_like
        One-dimensional.
    axis : int
        The axis.

    Returns
    -------
    array
        Of the input's shape.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    See Also
    --------
    convolve1d : With the weights reflected.
    correlate : Along several axes; notes on dtypes and rounding.

    Examples
    --------
    >>> correlate1d(np.array([2, 8, 0, 4, 1, 9, 9, 0]), weights=[1, 3])
    array([ 8, 26,  8, 12,  7, 28, 36,  9])
    """
    place, input = as_array(input)
    weights = as_numpy(weights, name="weights")
    if input.dtype.kind == "c" or weights.dtype.kind == "c":
        output = get_output(place, output, input, complex_output=True)
        real = partial(correlate1d, axis=axis, mode=mode, origin=origin)
        return _by_components(real, input, weights.conj(), output, cval)
    target, image = get_output(place, output, input), readable(place, input)
    what, written = ("correlate1d", target.dtype), (axis, mode, cval, origin)
    key = calls.key_of(place, image, what, written, weights)
    call: SumCall | None = calls.kept(key)
    if call is None:
        window, taps = _along(weights, axis, mode, cval, origin, image.ndim)
        call = neighbourhood.correlate_call(place, image, window, taps, _native(target))
        calls.keep(key, call, window)
    return _write(place, image, call, target, output)


def _native(target: Array) -> np.dtype:
    """The target's dtype in the machine's byte order, in which kernels write."""
    dtype: np.dtype = target.dtype.newbyteorder("=")
    return dtype


def _along(
    weights: np.ndarray, axis: Any, mode: Any, cval: Any, origin: Any, ndim: int
) -> tuple[Window, WeightedTaps]:
    """What outputs see by weights along one axis, and in which order these are added."""
    weights = as_numpy(weights, np.float64, "weights")
    if weights.ndim != 1 or len(weights) < 1:
        raise RuntimeError(f"no filter weights given: weights has shape {weights.shape}")
    axis = check_axis(axis, ndim)
    length = len(weights)
    rule = check_mode_of_sum(mode)
    before = positions_before(length, origin)
    window = Window.along(axis, ndim, length, before, rule, float(check_constant(cval)))
    order, symmetry = _order(weights)
    indices = np.zeros((length, ndim), np.int64)
    indices[:, axis] = order
    return window, WeightedTaps(indices, weights[order], symmetry)


def _order(weights: np.ndarray) -> tuple[np.ndarray, int]:
    """The order in which SciPy adds the taps, and whether it joins those that lie opposite.

    The first tap is the centre of a symmetric filter, the last tap of any other.
    """
    taps = np.arange(len(weights))
    half = len(weights) // 2
    if len(weights) % 2:
        ahead, behind = weights[half + 1 :], weights[:half][::-1]
        for sign in (1, -1):
            if np.all(np.abs(ahead - sign * behind) <= NEGLIGIBLE):
                return np.concatenate([[half], taps[:half], taps[half + 1 :]]), sign
    return np.roll(taps, 1), 0


@by_chunks
def convolve1d(
    input: Any,
    weights: Any,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: int = 0,
) -> Array:
    r"""Convolve along one axis with one-dimensional weights.

    .. math:: out[x] = \sum_y weights[y]\, input[x - y + \lfloor K / 2 \rfloor + origin]

    Parameters
    ----------
    input, weights, axis, output, mode, cval, origin
        As in `correlate1d`.

    Returns
    -------
    array
        Of the input's shape.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    See Also
    --------
    correlate1d : With the weights as they are.
    convolve : Along several axes; notes on dtypes and rounding.

    Examples
    --------
    >>> convolve1d(np.array([2, 8, 0, 4, 1, 9, 9, 0]), weights=[1, 3])
    array([14, 24,  4, 13, 12, 36, 27,  0])
    """
    weights = as_numpy(weights, name="weights")
    if weights.ndim == 0:
        raise IndexError(f"weights must have one axis, got {weights[()]!r}")
    weights = weights[::-1]
    if weights.dtype.kind == "c":
        weights = weights.conj()  # correlate1d conjugates, a convolution does not
    return correlate1d(
        input, weights, axis, output, mode, cval, reflected_origin(origin, len(weights))
    )


@by_chunks
def correlate(
    input: Any,
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""Correlation with weights: `scipy.ndimage.correlate` for NumPy and CuPy arrays.

    .. math:: out[x] = \sum_y weights[y]\, input[x + y - \lfloor K / 2 \rfloor - origin]

    Parameters
    ----------
    input : array_like
        Any number of axes; bool, integers, floating or complex.
    weights : array_like
        Of shape K; complex ones are conjugated.
    output : array or dtype, optional
        Where the result goes (it may be the input itself), or its dtype; by default the input's, to
        which sums are converted as C does: towards zero, modulo an integer's range.
    mode, cval, origin, axes
        As in `minimum_filter`; one mode for all axes, and none that ignores what is outside.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    See Also
    --------
    convolve : With the weights reflected.
    correlate1d : Along one axis.
    semiconv_cupy.semifield_conv : Sums over channels, strides and gradients, by ``"linear"``.

    Notes
    -----
    Sums are formed in double precision in SciPy's order: on a CPU the results are the same bits.

    Examples
    --------
    >>> image = np.arange(9.0).reshape(3, 3)
    >>> correlate(image, [[0, 1, 0], [1, -4, 1], [0, 1, 0]], mode="nearest")
    array([[ 4.,  3.,  2.],
           [ 1.,  0., -1.],
           [-2., -3., -4.]])
    """
    return _correlate(input, weights, output, mode, cval, origin, False, axes)


@by_chunks
def convolve(
    input: Any,
    weights: Any,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    r"""Convolution with weights: `correlate` with the weights reflected (and not conjugated).

    .. math:: out[x] = \sum_y weights[y]\, input[x - y + \lfloor K / 2 \rfloor + origin]

    Parameters
    ----------
    input, weights, output, mode, cval, origin, axes
        As in `correlate`; complex weights are not conjugated.

    Returns
    -------
    array
        Of the input's shape, library and device.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does, the class included.

    See Also
    --------
    correlate : With the weights as they are.
    convolve1d : Along one axis.
    semiconv_cupy.semifield_conv : Sums over channels, strides and gradients, by ``"linear"``.

    Examples
    --------
    >>> convolve(np.array([0.0, 0.0, 1.0, 0.0]), [1.0, 2.0, 3.0], mode="constant")
    array([0., 1., 2., 3.])
    """
    return _correlate(input, weights, output, mode, cval, origin, True, axes)


def _correlate(
    input: Any,
    weights: Any,
    output: Any,
    mode: Any,
    cval: Any,
    origin: Any,
    convolution: bool,
    axes: Any,
) -> Array:
    place, input = as_array(input)
    stays = _lies_there(place, weights) and input.dtype.kind != "c"
    weights = weights if stays else as_numpy(weights, name="weights")
    if input.dtype.kind == "c" or weights.dtype.kind == "c":
        if not convolution:
            weights = weights.conj()

        def real(part: Array, values: np.ndarray, output: Any, cval: Any) -> Array:
            return _correlate(part, values, output, mode, cval, origin, convolution, axes)

        output = get_output(place, output, input, complex_output=True)
        return _by_components(real, input, weights, output, cval)
    target, image = get_output(place, output, input), readable(place, input)
    what = "correlate", convolution, target.dtype, weights.shape if stays else None
    known = None if stays else weights
    key = None
    if weights.size <= calls.MOST_TAPS:
        key = calls.key_of(place, image, what, (mode, cval, origin, axes), known)
    call: SumCall | None = calls.kept(key)
    if call is None:
        known = weights if stays else as_numpy(weights, np.float64, "weights")
        window, taps = weighted_window(known, mode, cval, origin, axes, image.ndim, convolution)
        call = neighbourhood.correlate_call(place, image, window, taps, _native(target))
        calls.keep(key, call, window)
    unread = _in_order_of_taps(place, weights, convolution) if stays else None
    return _write(place, image, call, target, output, unread)


def _lies_there(place: Place, weights: Any) -> bool:
    """Whether weights are real numbers on the GPU where the array is."""
    if not place.on_gpu or gpu_place(weights) != place:
        return False
    return bool(weights.size) and weights.dtype.kind in "biuf"


def _in_order_of_taps(place: Place, weights: Array, convolution: bool) -> Array:
    """Weights on a GPU as its kernels read them."""
    flat = weights.astype(np.float64, copy=False).ravel()
    return place.array_module.ascontiguousarray(flat[::-1]) if convolution else flat


def weighted_window(
    weights: Array,
    mode: Any,
    cval: Any,
    origin: Any,
    axes: Any,
    ndim: int,
    convolution: bool,
) -> tuple[Window, WeightedTaps]:
    """What outputs see by weights in double precision, and the weights that are not negligible.

    Of weights on a GPU all: the kernel leaves out what is negligible.
    """
    axes = check_axes(axes, ndim)
    if weights.size == 0:  # as in SciPy, no taps: the axes of length 0 count for none
        weights = np.zeros([k for k in weights.shape if k])
    weights = expanded(weights, axes, ndim, "weights")
    origins = per_axis(origin, len(axes))
    if len(axes) < ndim:
        origins = on_axes(origins, axes, ndim, 0)
    if convolution:
        weights = weights[(slice(None, None, -1),) * ndim]
        origins = [reflected_origin(o, k) for o, k in zip(origins, weights.shape, strict=True)]
    before = tuple([positions_before(k, o) for k, o in zip(weights.shape, origins, strict=True)])
    if not isinstance(mode, str) and isinstance(mode, Iterable):
        raise RuntimeError(f"A sequence of modes is not supported, got {mode!r}")
    rules = (check_mode_of_sum(mode),) * ndim
    window = Window(weights.shape, before, rules, float(check_constant(cval)))
    if not isinstance(weights, np.ndarray):
        return window, every_tap(weights)
    taps = np.abs(weights) > NEGLIGIBLE
    indices = tap_indices(taps.shape, taps.tobytes())
    return window, WeightedTaps(indices, weights[taps], 0)
