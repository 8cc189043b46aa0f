"""Calls that are planned once: what they are found by, and the ones that are kept.

A plan holds all that follows from SciPy's arguments, shapes and dtypes: a window, the tables of
what lies beyond borders, on a GPU the kernel and what it is launched with. A later call of the kind
is a look-up, an allocation and a launch.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import Array
from semiconv_cupy.ndimage.window import Window

_calls: dict[tuple[Any, ...], Any] = {}
MOST_TAPS = 4096  # of weights of planned calls, footprints and structures
_MOST_CALLS, _LONGEST_WINDOW = 1024, 4096
_PLAIN = frozenset((int, float, str, bool, type(None)))  # types of which a text says all


def _is_plain(value: Any) -> bool:
    """Whether the text of an argument says all: of other objects it may stay while they change."""
    kind = type(value)
    return kind in _PLAIN or (kind in (tuple, list) and _PLAIN.issuperset(map(type, value)))


def key_of(
    place: Place,
    image: Array,
    what: tuple[Hashable, ...],
    written: tuple[Any, ...],
    *arrays: np.ndarray | None,
) -> tuple[Any, ...] | None:
    """What a call on such an image is found by; None of calls that are planned each time.

    Parameters
    ----------
    image : array
        As `arguments.readable` returns it.
    what : tuple
        The function, and what else can be hashed.
    written : tuple
        Arguments as the caller wrote them.
    arrays : numpy.ndarray or None
        Footprints, structures, weights: they are compared by their content.
    """
    planner = neighbourhood.planner(place)
    if planner is None:
        return None
    if not _PLAIN.issuperset(map(type, written)) and not all(map(_is_plain, written)):
        return None
    contents: list[Hashable] = []
    for array in arrays:
        if array is None:
            contents.append(None)
        elif array.size > MOST_TAPS or array.dtype.kind not in "biuf":
            return None
        else:
            contents.append((array.shape, array.dtype, array.tobytes()))
    # 1 == 1.0 == True, which differ here: their texts do.
    return planner, image.shape, image.dtype, what, repr(written), *contents


def kept(key: tuple[Any, ...] | None) -> Any:
    """The call that was kept, None if there is none."""
    return None if key is None else _calls.get(key)


def keep(key: tuple[Any, ...] | None, call: Any, window: Window) -> None:
    """Keep a call, unless it has no key or a long window, whose tables take much memory."""
    if key is not None and sum(window.shape) <= _LONGEST_WINDOW:
        if len(_calls) >= _MOST_CALLS:
            _calls.clear()
        _calls[key] = call
