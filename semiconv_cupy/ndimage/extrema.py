"""One minimum or maximum with SciPy's arguments: what filters and morphology are made of.

Resolves the window, runs the primitive, puts the result where the caller wants it. A new filter
that is a composition of extrema calls this and nothing below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import NUMPY, Place
from semiconv_cupy.errors import warn
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import Array, deliver, is_readable, output_dtype, readable
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
    key = _key(place, input, arguments, minimum, reflected) if output is None else None
    call = None if key is None else _calls.get(key)
    if call is not None:
        if arguments.structure is not None:
            _warn_of_lost_fractions(arguments.structure, input.dtype)
        return call(input)
    if key is not None and arguments.footprint is not None:
        # A call that is kept must not see what its caller writes to the array later.
        arguments = arguments._replace(footprint=arguments.footprint.copy())
    if reflected:
        arguments = arguments.reflected(input.ndim)
    dtype = output_dtype(place, output, input)
    image = _in_dtype_of_output(place, input, output, dtype)
    if arguments.structure is not None and input.dtype.kind != "b":
        _warn_of_lost_fractions(arguments.structure, image.dtype)
    window = arguments.resolve(input.ndim, input.dtype, minimum)
    call = neighbourhood.extremum_call(place, image, window, minimum)
    if key is not None and sum(window.shape) <= _LONGEST_WINDOW:
        if len(_calls) >= _MOST_CALLS:
            _calls.clear()
        _calls[key] = call
    return deliver(place, call(image), output, input)


# Calls already planned for NumPy arrays, by everything that a plan depends on. A call holds its
# window and tables of what lies beyond the borders, so that large windows are not kept.
_calls: dict[tuple[Any, ...], Callable[[Array], Array]] = {}
_MOST_CALLS, _LONGEST_WINDOW, _MOST_TAPS = 1024, 4096, 4096
_PLAIN = frozenset((int, float, str, type(None)))  # types of which a text says all


def _is_plain(value: Any) -> bool:
    """Whether the text of an argument says all: of other objects it may stay while they change."""
    kind = type(value)
    return kind in _PLAIN or (kind in (tuple, list) and _PLAIN.issuperset(map(type, value)))


def _key(
    place: Place, input: Array, arguments: WindowArguments, minimum: bool, reflected: bool
) -> tuple[Any, ...] | None:
    """What a call on such an array is found by; None of calls that are planned each time."""
    size, footprint, structure, factors, mode, cval, origin, axes = arguments
    if place is not NUMPY or factors is not None or neighbourhood.is_chosen():
        return None
    written = (size, mode, cval, origin, axes)
    if not is_readable(place, input):
        return None
    if not _PLAIN.issuperset(map(type, written)) and not all(map(_is_plain, written)):
        return None
    taps = added = None
    if footprint is not None:
        if footprint.size > _MOST_TAPS:
            return None
        taps = footprint.shape, footprint.tobytes()
    if structure is not None:
        if structure.size > _MOST_TAPS:
            return None
        added = structure.shape, structure.dtype, structure.tobytes()
    text = f"{size!r} {mode!r} {cval!r} {origin!r} {axes!r}"  # 1 == 1.0 == True, and differ here
    return input.shape, input.dtype, minimum, reflected, text, taps, added


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
