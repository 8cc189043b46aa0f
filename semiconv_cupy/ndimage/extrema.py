"""One minimum or maximum with SciPy's arguments: what filters and morphology are made of.

Resolves the window, runs the primitive, puts the result where the caller wants it. A new filter
that is a composition of extrema calls this and nothing below it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.errors import warn
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import Array, deliver, output_dtype, readable
from semiconv_cupy.ndimage.window import Window, WindowArguments


def extremum(
    place: Place, input: Array, arguments: WindowArguments, output: Any, minimum: bool
) -> Array:
    """The minimum or maximum over a window, in `output` where that is an array."""
    dtype = output_dtype(place, output, input)
    image = _in_dtype_of_output(place, input, output, dtype)
    if arguments.structure is not None and input.dtype.kind != "b":
        _warn_of_lost_fractions(arguments.structure, image.dtype)
    window = arguments.resolve(input.ndim, input.dtype, minimum)
    result = neighbourhood.extremum(place, image, window, minimum)
    return deliver(place, result, output, input)


def extremum_in_box(
    place: Place, input: Array, box: Window, output: Any, dtype: np.dtype, minimum: bool
) -> Array:
    """The same over a box that is placed already; `dtype` is the checked one of the output."""
    image = _in_dtype_of_output(place, input, output, dtype)
    return deliver(place, neighbourhood.box(place, image, box, minimum), output, input)


def _in_dtype_of_output(place: Place, input: Array, output: Any, dtype: np.dtype) -> Array:
    """The input in the output's dtype if that holds all its values: results then do, too."""
    if output is not None and dtype != input.dtype:
        kind = dtype.newbyteorder("=")
        if np.can_cast(input.dtype, kind, "safe") and input.dtype.kind != "b":
            return readable(place, input.astype(kind))
    return readable(place, input)


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
