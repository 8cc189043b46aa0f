"""A call with Dask arrays: its arguments checked, then the plan of its function.

Arguments are checked at once, by the function itself on arrays without elements, whose result says
the dtype, too. Only numbers wait for ``compute()``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array

from semiconv_cupy.backends.place import library_of
from semiconv_cupy.chunked import is_chunked
from semiconv_cupy.dask import binary, lines, products, reconstructions
from semiconv_cupy.dask.halo import MOST_GROWTH, Halo
from semiconv_cupy.dask.overlap import call_by_name, in_one_chunk, overlapped
from semiconv_cupy.dask.stages import STAGES, Arguments, window_of_erosion
from semiconv_cupy.ndimage.morphology import grey_dilation, grey_erosion
from semiconv_cupy.parabolic import PASSES

# Arguments that have the image's shape, and so its chunks.
_IMAGES = ("input", "image", "seed", "mask")


def compute_later(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The result of a public function of Dask arrays, as Dask arrays."""
    signature = inspect.signature(function)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    arguments = dict(bound.arguments)
    own = {}  # a semifield's parameters: one may have the name of an operand
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            own = arguments.pop(parameter.name)
    for name, value in (*arguments.items(), *own.items()):
        _require_known_chunks(name, value)
    _refuse_output(arguments)
    own = {name: value.compute() if is_chunked(value) else value for name, value in own.items()}
    if function.__name__ == "semifield_matmul":
        return products.matrix_product(function, arguments, own)
    arguments |= own
    if function.__name__ == "semifield_conv":
        return products.convolution(function, arguments)
    images, chunks = _images(function.__name__, arguments)
    for name, value in arguments.items():
        if is_chunked(value):  # a footprint, weights: small, and needed for the plan
            arguments[name] = value.compute()
    result = _PLANS.get(function.__name__, by_overlap)(function, arguments, images)
    if isinstance(result, tuple):
        return tuple(_in_chunks(each, chunks) for each in result)
    return _in_chunks(result, chunks)


def _in_chunks(result: da.Array, chunks: Any) -> da.Array:
    """A result in the image's own chunks, on its last axes."""
    ahead = result.ndim - len(chunks)
    return (
        result
        if result.chunks[ahead:] == chunks
        else result.rechunk((*result.chunks[:ahead], *chunks))
    )


def _require_known_chunks(name: str, value: Any) -> None:
    if is_chunked(value) and any(map(math.isnan, value.shape)):
        raise ValueError(
            f"{name} has chunks of unknown sizes, got shape {value.shape}: call "
            f"{name}.compute_chunk_sizes() first"
        )


def _refuse_output(arguments: Arguments) -> None:
    """TypeError for an array to write to: a Dask array is never written to."""
    for name in ("output", "out", "distances", "indices"):
        value = arguments.get(name)
        if isinstance(value, tuple | list) or is_chunked(value) or library_of(value) is not None:
            raise TypeError(
                f"{name} cannot be an array where the input is a Dask array, whose result is "
                f"computed later: got {type(value).__name__}; leave {name} out, and pass the "
                "result to dask.array.store, .to_zarr or .compute"
            )


def _images(function: str, arguments: Arguments) -> tuple[dict[str, da.Array], Any]:
    """The arguments of the image's shape, taken out of the rest, in equal chunks; and its chunks.

    An axis of one element is one chunk here: with others that have none, Dask would broadcast it.
    """
    names = [name for name in _IMAGES if arguments.get(name) is not None]
    given = {name: arguments.pop(name) for name in names}
    first = next(value for value in given.values() if is_chunked(value))
    images = {}
    chunks = tuple((1,) if sum(sizes) == 1 else sizes for sizes in first.chunks)
    for name, value in given.items():
        if not is_chunked(value) and library_of(value) is None:
            value = np.asarray(value)
        if value.shape != first.shape:
            error = ValueError if function == "reconstruction" else RuntimeError
            shapes = " and ".join(str(np.shape(value)) for value in given.values())
            raise error(f"{' and '.join(given)} must have equal sizes, got {shapes}")
        if is_chunked(value):
            images[name] = value.rechunk(chunks)
        else:
            images[name] = da.from_array(value, chunks=chunks)
    return images, first.chunks


def by_overlap(
    function: Callable[..., Any], arguments: Arguments, images: dict[str, da.Array]
) -> da.Array:
    """One function of each chunk and its surroundings."""
    name = function.__name__
    call = partial(call_by_name, function, tuple(images), arguments)
    arrays = list(images.values())
    metas = [meta_from_array(array) for array in arrays]
    meta = call(*metas)
    if _sees_itself_nowhere(name, arguments, arrays[0]):
        return in_one_chunk(call, arrays, meta)
    stages = STAGES[name](arguments, arrays[0])
    if name in _IN_TWO and Halo.of(arrays[0].chunks, stages).growth(arrays[0].chunks) > MOST_GROWTH:
        first, second = _IN_TWO[name]
        between = by_overlap(first, {**arguments, "output": None}, images)
        return by_overlap(second, arguments, {"input": between})
    return overlapped(call, arrays, stages, meta, name)


def _sees_itself_nowhere(name: str, arguments: Arguments, image: da.Array) -> bool:
    """Whether a difference of extrema may be refused for what its window sees of the whole image.

    Such a window, which ignores what is outside and does not contain its own position, would be
    refused for chunks that lie inside the image.
    """
    if name not in _DIFFERENCES:
        return False
    window = window_of_erosion(arguments, image)
    return bool(window.ignoring()) and not window.contains_own_position()


_DIFFERENCES = ("morphological_gradient", "morphological_laplace", "white_tophat", "black_tophat")
_IN_TWO = {
    "grey_opening": (grey_erosion, grey_dilation),
    "grey_closing": (grey_dilation, grey_erosion),
}
_PLANS = {
    "binary_erosion": binary.steps,
    "binary_dilation": binary.steps,
    "binary_opening": binary.opening,
    "binary_closing": binary.opening,
    "binary_propagation": binary.propagation,
    "binary_fill_holes": binary.fill_holes,
    "reconstruction": reconstructions.reconstruction,
    **dict.fromkeys(PASSES, lines.parabolic),
    "distance_transform_edt": lines.distance,
    "distance_transform_bf": lines.distance,
    "distance_transform_cdt": lines.distance,
    "h_maxima": reconstructions.of_height,
    "h_minima": reconstructions.of_height,
    "opening_by_reconstruction": reconstructions.by_reconstruction,
    "closing_by_reconstruction": reconstructions.by_reconstruction,
}
