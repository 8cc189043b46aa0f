"""One minimum or maximum with SciPy's arguments: what filters and morphology are made of.

Resolves the window, runs the primitive, puts the result where the caller wants it. A new filter
that is a composition of extrema calls this and nothing below it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.errors import warn
from semiconv_cupy.ndimage import calls, neighbourhood
from semiconv_cupy.ndimage.arguments import (
    Array,
    deliver,
    output_dtype,
    readable,
    writable_beside,
)
from semiconv_cupy.ndimage.neighbourhood import Call
from semiconv_cupy.ndimage.window import Window, WindowArguments


def extremum(
    place: Place,
    input: Array,
    arguments: WindowArguments,
    output: Any,
    minimum: bool,
    *,
    reflected: bool = False,
) -> Array:
    """The minimum or maximum over a window, in `output` where that is an array.

    `reflected`: over `WindowArguments.reflected`, as in a dilation.
    """
    if output is None:
        image = readable(place, input)
    else:
        image = _in_dtype_of_output(place, input, output_dtype(place, output, input))
    size, footprint, structure, factors, *others = arguments
    key = None
    if factors is None:
        what = "extremum", input.dtype, minimum, reflected
        key = calls.key_of(place, image, what, (size, *others), footprint, structure)
    call: Call | None = calls.kept(key)
    if call is None:
        if footprint is not None:
            # A call that is kept must not see what its caller writes to the array later.
            arguments = arguments._replace(footprint=footprint.copy())
        if reflected:
            arguments = arguments.reflected(input.ndim)
        window = arguments.resolve(input.ndim, input.dtype, minimum)
        call = neighbourhood.extremum_call(place, image, window, minimum)
        calls.keep(key, call, window)
    if structure is not None:
        _warn_of_lost_fractions(structure, image.dtype)
    return delivered(place, call, image, output, input)


def delivered(place: Place, call: Call, image: Array, output: Any, input: Array) -> Array:
    """The result of a call, written at once to an `output` in which it can be."""
    if output is None:
        return call(image)
    target = None
    if isinstance(output, place.array_module.ndarray) and output.dtype == image.dtype:
        target = output if writable_beside(place, output, image) else None
    result = call(image, target)
    return result if result is target else deliver(place, result, output, input)


def extremum_in_box(
    place: Place, input: Array, box: Window, output: Any, dtype: np.dtype, minimum: bool
) -> Array:
    """The same over a box that is placed already; `dtype` is the checked one of the output."""
    image = _in_dtype_of_output(place, input, dtype)
    return delivered(
        place, neighbourhood.box_call(place, image, box, minimum), image, output, input
    )


def _in_dtype_of_output(place: Place, input: Array, dtype: np.dtype) -> Array:
    """The input in the output's dtype if that holds all its values: results then do, too."""
    if dtype != input.dtype:
        kind = dtype.newbyteorder("=")
        if np.can_cast(input.dtype, kind, "safe") and input.dtype.kind != "b":
            return readable(place, input.astype(kind))
    return readable(place, input)


def _warn_of_lost_fractions(structure: np.ndarray, dtype: np.dtype) -> None:
    """Rounded to integers, a structure of small fractions is (nearly) the flat one."""
    if structure.dtype.kind == "f" and dtype.kind in "iu":
        largest = np.abs(structure).max(initial=0, where=np.isfinite(structure))
        if 0 < largest < 4 and (structure != np.rint(structure)).any():
            flat = "which {} rounds to 0: the window is flat"
            nearly = "of which {} keeps whole numbers: the window is nearly flat"
            what = (flat if largest < 1 else nearly).format(dtype)
            warn(
                f"structure has no value beyond {largest:.3g}, {what}. Of an image in [0, 255] "
                "the structure is quadratic(..., value_range=255)",
                UserWarning,
            )
