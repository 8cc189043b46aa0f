"""Reconstruction of Dask arrays, and what is made of it: extrema of a height, openings.

The steps are those of the functions in memory: the seed is made lazily, chunk by chunk;
`borders.reconstruct` exchanges the chunks' borders at once; what follows is lazy again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array

from semiconv_cupy import heights, openings
from semiconv_cupy import reconstructions as whole
from semiconv_cupy.backends.place import place_of
from semiconv_cupy.dask import borders
from semiconv_cupy.dask.overlap import call_by_name
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.arguments import readable
from semiconv_cupy.ndimage.morphology import grey_dilation, grey_erosion

Array = Any
Arguments = dict[str, Any]
Images = dict[str, da.Array]


def _blocks(function: Callable[..., Array], *arrays: da.Array) -> da.Array:
    """An elementwise function, chunk by chunk; its result for empty arrays tells the dtype."""
    meta = function(*map(meta_from_array, arrays))
    return da.map_blocks(function, *arrays, dtype=meta.dtype, meta=meta)


def reconstruction(function: Callable[..., Any], arguments: Arguments, images: Images) -> da.Array:
    """`reconstruction`, whose chunks exchange their borders at once."""
    call = partial(call_by_name, function, tuple(images), arguments)
    meta = call(*map(meta_from_array, images.values()))
    method, seed, mask = arguments["method"], images["seed"], images["mask"]
    steps = whole.reconstruction_steps(arguments["footprint"], arguments["offset"], seed.ndim)
    checked = da.map_blocks(_checked, seed, mask, method, meta.dtype, dtype=meta.dtype, meta=meta)
    return borders.reconstruct(checked, mask.astype(meta.dtype), steps, method == "erosion")


def _checked(seed: Array, mask: Array, method: str, dtype: Any) -> Array:
    whole.require_within(seed, mask, method)
    return seed.astype(dtype)


# ---- extrema of a height -------------------------------------------------------------------------


def of_height(function: Callable[..., Any], arguments: Arguments, images: Images) -> da.Array:
    """`h_maxima` and `h_minima`; the range of the image is computed at once, too."""
    (image,), h, footprint = images.values(), arguments["h"], arguments["footprint"]
    minimum = function.__name__ == "h_minima"
    meta = call_by_name(function, ("image",), arguments, meta_from_array(image))
    numbers = _blocks(partial(_numbers, h=h, minimum=minimum), image)
    if image.size == 0 or not heights.has_range(*_ends(numbers), h):
        return da.map_blocks(_nothing, image, dtype=meta.dtype, meta=meta)
    seed = _blocks(partial(heights.moved_by_height, h=h, minimum=minimum), numbers)
    mask = _blocks(heights.in_wide_dtype, numbers)
    steps = whole.reconstruction_steps(footprint, None, image.ndim)
    limit = borders.reconstruct(seed, mask, steps, minimum)
    return _blocks(partial(heights.of_height, h=h, minimum=minimum), numbers, limit)


def _numbers(image: Array, h: Any, minimum: bool) -> Array:
    return heights.numbers_of_height(readable(place_of(image=image), image, "image"), h, minimum)


def _nothing(image: Array) -> Array:
    return place_of(image=image).array_module.zeros(image.shape, np.uint8)


def _ends(numbers: da.Array) -> tuple[Array, Array]:
    """The smallest and the largest element of the image, from those of its chunks."""
    ends = dask.delayed(_ends_of, pure=True)
    found = dask.compute(*map(ends, numbers.to_delayed().ravel()))
    found = [pair for pair in found if pair is not None]
    low, high = (np.array(one, numbers.dtype) for one in zip(*found, strict=True))
    return heights.end_of(low, True), heights.end_of(high, False)


def _ends_of(numbers: Array) -> tuple[Any, Any] | None:
    if numbers.size == 0:
        return None
    low, high = (heights.end_of(numbers, least).reshape(-1)[0].item() for least in (True, False))
    return low, high


# ---- openings and closings -----------------------------------------------------------------------


def by_reconstruction(
    function: Callable[..., Any], arguments: Arguments, images: Images
) -> da.Array:
    """`opening_by_reconstruction`, whose erosion is lazy, and the closing."""
    (image,) = images.values()
    call_by_name(function, ("image",), arguments, meta_from_array(image))
    minimum = function.__name__ == "opening_by_reconstruction"
    names = ("size", "footprint", "mode", "cval", "origin", "axes")
    fitting = grey_erosion if minimum else grey_dilation
    extremum = fitting(image, **{name: arguments[name] for name in names})
    near = openings.neighbours(image.ndim, arguments["axes"], arguments["connectivity"])
    steps = whole.reconstruction_steps(near, None, image.ndim)
    mask = _blocks(partial(_mask, minimum=minimum), image)
    seed = _blocks(partial(_seed, minimum=minimum), extremum, mask)
    result = borders.reconstruct(seed, mask, steps, not minimum)
    if arguments["preserve_intensities"]:
        kept = _blocks(partial(openings.kept_intensities, minimum=minimum), result, seed, mask)
        result = borders.reconstruct(kept, mask, steps, not minimum)
    return _blocks(_with_nan, image, result)


def _mask(image: Array, minimum: bool) -> Array:
    image = readable(place_of(image=image), image, "image")
    return whole.without_nan(image, minimum) if image.dtype.kind == "f" else image


def _seed(extremum: Array, mask: Array, minimum: bool) -> Array:
    xp = place_of(image=mask).array_module
    return reference.limit(xp, extremum.astype(mask.dtype), mask, not minimum)


def _with_nan(image: Array, result: Array) -> Array:
    return whole.with_nan_of(readable(place_of(image=image), image, "image"), result)
