"""How each peer computes a filter, or what else the core has of one array: the call, if it can.

All of these compute our numbers: `run` compares them before they are timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import semiconv_cupy as sc
from benchmarks import works
from benchmarks.inputs import Libraries, foreground, numbers
from benchmarks.timing import Call, Maker
from benchmarks.works import MOST_BYTES, OURS, Device, Filter
from semiconv_cupy import ndimage
from semiconv_cupy.backends.host.functions import threads


def calls(
    measured: Filter, device: Device, seed: int, absent: list[str], libraries: Libraries
) -> Iterator[tuple[str, Maker]]:
    if measured.picture == "numbers":
        array = numbers(libraries.random(seed), measured.shape, measured.dtype)
    else:
        array = foreground(np.random.default_rng(seed), measured.shape, measured.picture)
    given: tuple[Any, ...] = (array,)
    if measured.function == "reconstruction":
        given = (array - np.float32(0.02), array)
    given = tuple(map(libraries.arrays.asarray, given))
    ours = getattr(ndimage, measured.function, None) or getattr(sc, measured.function)
    yield OURS, lambda: partial(ours, *given, **measured.arguments)
    if device == "gpu":
        makers = {works.CUPYX: partial(_cupyx_filter, libraries=libraries)}
    else:
        makers = {
            works.SCIPY: partial(_scipy_filter, libraries=libraries),
            works.OPENCV: _opencv_filter,
            works.SKIMAGE: _skimage_filter,
            works.EDT: _edt_filter,
            works.DIPLIB: _diplib_filter,
            works.FASTMORPH: _fastmorph_filter,
            **{
                peer: partial(_kornia_filter, engine=engine)
                for peer, engine in works.ENGINES.items()
            },
        }
    for peer, maker in makers.items():
        if peer not in absent:
            yield peer, partial(maker, measured, given)


def _scipy_filter(measured: Filter, given: tuple[Any, ...], libraries: Libraries) -> Call | None:
    peer = importlib.import_module(libraries.ndimage)
    function = getattr(peer, measured.function, None)
    window = measured.arguments.get("structure", measured.arguments.get("footprint"))
    if window is not None and given[0].size * window.size > 2e9:
        return None  # which would take a minute
    return function and partial(function, *given, **measured.arguments)


def _cupyx_filter(measured: Filter, given: tuple[Any, ...], libraries: Libraries) -> Call | None:
    peer = importlib.import_module(libraries.ndimage)
    function = getattr(peer, measured.function, None)
    arguments = {
        name: libraries.arrays.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in measured.arguments.items()
    }
    if "structure" in arguments:  # CuPy refuses a structure without a footprint
        arguments["footprint"] = arguments["structure"] == arguments["structure"]
    return function and partial(function, *given, **arguments)


def _opencv_filter(measured: Filter, given: tuple[Any, ...]) -> Call | None:
    import cv2

    if measured.function == "distance_transform_edt":
        if given[0].ndim != 2 or measured.arguments:
            return None
        image = given[0].astype(np.uint8)
        return partial(cv2.distanceTransform, image, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    element = _flat_element(measured)
    if element is None or given[0].ndim != element.ndim or given[0].dtype == bool:
        return None
    if element.ndim == 3:  # colours, each by itself
        element = element[..., 0] if element.shape[2] == 1 else None
    return None if element is None or element.ndim != 2 else partial(cv2.dilate, given[0], element)


def _edt_filter(measured: Filter, given: tuple[Any, ...]) -> Call | None:
    if measured.function != "distance_transform_edt" or measured.arguments:
        return None
    import edt

    return partial(edt.edt, given[0], parallel=threads())


def _diplib_filter(measured: Filter, given: tuple[Any, ...]) -> Call | None:
    import diplib

    if measured.function == "parabolic_dilation":
        scales = [measured.arguments["scale"]] * given[0].ndim
        return partial(diplib.Dilation, given[0], diplib.SE(scales, "parabolic"))
    element = _flat_element(measured)
    if element is None or element.ndim != given[0].ndim or element.shape[-1] == 1:
        return None  # a last axis of colours is no axis to DIPlib
    if element.all():  # DIPlib's axes are in the opposite order
        return partial(diplib.Dilation, given[0], diplib.SE(element.shape[::-1], "rectangular"))
    return partial(diplib.Dilation, given[0], diplib.SE(diplib.Image(element > 0)))


def _fastmorph_filter(measured: Filter, given: tuple[Any, ...]) -> Call | None:
    """Of arrays in Fortran's order, which it would copy otherwise; windows are symmetric."""
    import fastmorph

    image, parallel = given[0].T, threads()
    if measured.function == "binary_fill_holes":
        return lambda: fastmorph.fill_holes(image, parallel=parallel).T
    if measured.function == "binary_dilation" and measured.radius is not None:
        return lambda: fastmorph.spherical_dilate(image, measured.radius, parallel).T
    element = _flat_element(measured)
    if element is None or element.shape != (3,) * image.ndim or not element.all():
        return None
    return lambda: fastmorph.dilate(image, parallel=parallel, mode=fastmorph.Mode.grey).T


def _kornia_filter(measured: Filter, given: tuple[Any, ...], engine: str) -> Call | None:
    element, image = _flat_element(measured), given[0]
    if element is None or element.ndim != 2 or image.dtype != np.float32:
        return None
    if engine in ("unfold", "convolution") and image.size * element.size * 4 > MOST_BYTES:
        return None  # which holds all terms in memory at once
    import torch
    from kornia.morphology import dilation

    tensor, kernel = torch.from_numpy(image)[None, None], torch.from_numpy(element).float()
    return partial(dilation, tensor, kernel, engine=engine)


def _skimage_filter(measured: Filter, given: tuple[Any, ...]) -> Call | None:
    from skimage.morphology import dilation, isotropic_dilation, reconstruction
    from skimage.restoration import rolling_ball

    if measured.function == "reconstruction":
        return partial(reconstruction, *given)
    if measured.function == "rolling_ball":
        return partial(rolling_ball, *given, **measured.arguments)
    if measured.function == "binary_dilation" and measured.radius is not None:
        return partial(isotropic_dilation, *given, measured.radius)
    if "footprint" in measured.arguments:
        return partial(dilation, *given, measured.arguments["footprint"])
    return None


def _flat_element(measured: Filter) -> np.ndarray | None:
    """The structuring element that OpenCV takes, or None if it has none for this filter."""
    if measured.function == "maximum_filter":
        size = measured.arguments["size"]
        return np.ones(size if isinstance(size, tuple) else (size,) * len(measured.shape), np.uint8)
    footprint = measured.arguments.get("footprint")
    return None if footprint is None else footprint.astype(np.uint8)
