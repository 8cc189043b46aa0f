"""How far each function looks: its chain of stages, from the arguments of a call.

Windows come from the functions' own readers of arguments. A function that computes two extrema of
one array sees the union of both windows at once; a composition has one stage after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from semiconv_cupy.dask.halo import Reach, Stage, stage_of, union
from semiconv_cupy.ndimage.arguments import (
    as_numpy,
    check_axes,
    check_axis,
    positions_before,
    reflected_origin,
)
from semiconv_cupy.ndimage.borders import check_mode
from semiconv_cupy.ndimage.correlation import weighted_window
from semiconv_cupy.ndimage.structures import binary_window, cross, size_of_full
from semiconv_cupy.ndimage.window import Window, WindowArguments, window_arguments

Arguments: TypeAlias = dict[str, Any]
Stages: TypeAlias = tuple[Stage, ...]


# ---- extrema -------------------------------------------------------------------------------------


def _arguments_of(arguments: Arguments, image: Any) -> WindowArguments:
    names = ("size", "footprint", "structure", "mode", "cval", "origin", "axes")
    return window_arguments(image, *(arguments.get(name) for name in names))


def of_erosion(arguments: Arguments, image: Any) -> Stages:
    """An erosion; both filters, too, whose windows are not reflected."""
    return (stage_of(window_of_erosion(arguments, image)),)


def window_of_erosion(arguments: Arguments, image: Any) -> Window:
    return _arguments_of(arguments, image).resolve(image.ndim, image.dtype, minimum=True)


def of_dilation(arguments: Arguments, image: Any) -> Stages:
    reflected = _arguments_of(arguments, image).reflected(image.ndim)
    return (stage_of(reflected.resolve(image.ndim, image.dtype, minimum=False)),)


def of_opening(arguments: Arguments, image: Any) -> Stages:
    """Erosion, then dilation; `white_tophat` too, as an opening's stages contain the identity."""
    return of_erosion(arguments, image) + of_dilation(arguments, image)


def of_closing(arguments: Arguments, image: Any) -> Stages:
    return of_dilation(arguments, image) + of_erosion(arguments, image)


def of_difference(arguments: Arguments, image: Any) -> Stages:
    """Gradient and Laplacian, of which each output sees both windows."""
    return (union(of_erosion(arguments, image)[0], of_dilation(arguments, image)[0]),)


def of_filter1d(arguments: Arguments, image: Any) -> Stages:
    size, origin = arguments["size"], arguments["origin"]
    axis, rule = check_axis(arguments["axis"], image.ndim), check_mode(arguments["mode"])
    return (stage_of(Window.along(axis, image.ndim, size, positions_before(size, origin), rule)),)


# ---- sums ----------------------------------------------------------------------------------------


def of_correlation(arguments: Arguments, image: Any, convolution: bool = False) -> Stages:
    weights = as_numpy(arguments["weights"], name="weights")
    taps = weights != 0 if weights.dtype.kind == "c" else weights.astype(np.float64)
    names = ("mode", "origin", "axes")
    mode, origin, axes = (arguments[name] for name in names)
    window, found = weighted_window(
        np.asarray(taps, np.float64), mode, 0.0, origin, axes, image.ndim, convolution
    )
    seen = np.zeros(window.shape, np.bool_)
    seen[tuple(found.indices.T)] = True
    return (stage_of(window._replace(taps=seen)),)


def of_convolution(arguments: Arguments, image: Any) -> Stages:
    return of_correlation(arguments, image, convolution=True)


def of_correlation1d(arguments: Arguments, image: Any, convolution: bool = False) -> Stages:
    length, origin = len(as_numpy(arguments["weights"], name="weights")), arguments["origin"]
    if convolution:
        origin = reflected_origin(origin, length)
    axis, rule = check_axis(arguments["axis"], image.ndim), check_mode(arguments["mode"])
    before = positions_before(length, origin)
    return (stage_of(Window.along(axis, image.ndim, length, before, rule)),)


def of_convolution1d(arguments: Arguments, image: Any) -> Stages:
    return of_correlation1d(arguments, image, convolution=True)


# ---- binary --------------------------------------------------------------------------------------


def binary_step(arguments: Arguments, image: Any, dilate: bool, suffix: str = "") -> Window:
    """The window of one step."""
    axes = check_axes(arguments["axes"], image.ndim)
    structure, origin = arguments[f"structure{suffix}"], arguments[f"origin{suffix}"]
    return binary_window(structure, origin, axes, image.ndim, reflected=dilate, suffix=suffix)


def of_binary_erosion(arguments: Arguments, image: Any) -> Stages:
    return (stage_of(binary_step(arguments, image, dilate=False)),)


def of_binary_dilation(arguments: Arguments, image: Any) -> Stages:
    return (stage_of(binary_step(arguments, image, dilate=True)),)


def of_hit_or_miss(arguments: Arguments, image: Any) -> Stages:
    """Both erosions see the image at once."""
    given = dict(arguments)
    count = len(check_axes(given["axes"], image.ndim))
    if given["structure1"] is None:
        given["structure1"] = cross(count)
    if given["structure2"] is None:
        size = size_of_full(given["structure1"], count)
        shape = as_numpy(given["structure1"], bool).shape if size is None else size
        given["structure2"] = np.ones(shape, np.bool_)
    if given["origin2"] is None:
        given["origin2"] = given["origin1"]
    first, second = (
        stage_of(binary_step(given, image, dilate=False, suffix=suffix)) for suffix in "12"
    )
    return (union(first, second),)


# ---- the rolling ball ----------------------------------------------------------------------------


def of_rolling_ball(arguments: Arguments, image: Any) -> Stages:
    kernel, whole = arguments["kernel"], arguments["nansafe"]
    if kernel is None:
        radius = arguments["radius"]
        reach = math.ceil(radius) if whole else math.floor(radius)
        return ((Reach(reach, reach, "constant"),) * image.ndim,)
    body = as_numpy(kernel, name="kernel")
    centre = tuple(k // 2 for k in body.shape)
    taps = None if whole else body != np.inf
    return (stage_of(Window(body.shape, centre, ("constant",) * image.ndim, np.inf, taps)),)


STAGES: dict[str, Callable[[Arguments, Any], Stages]] = {
    "minimum_filter": of_erosion,
    "maximum_filter": of_erosion,
    "minimum_filter1d": of_filter1d,
    "maximum_filter1d": of_filter1d,
    "grey_erosion": of_erosion,
    "grey_dilation": of_dilation,
    "grey_opening": of_opening,
    "grey_closing": of_closing,
    "white_tophat": of_opening,
    "black_tophat": of_closing,
    "morphological_gradient": of_difference,
    "morphological_laplace": of_difference,
    "correlate": of_correlation,
    "convolve": of_convolution,
    "correlate1d": of_correlation1d,
    "convolve1d": of_convolution1d,
    "binary_erosion": of_binary_erosion,
    "binary_dilation": of_binary_dilation,
    "binary_hit_or_miss": of_hit_or_miss,
    "rolling_ball": of_rolling_ball,
}
