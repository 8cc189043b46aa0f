"""SciPy's binary steps, called so that they stay within their memory.

Where a window is longer than the image, `binary_erosion` of several iterations and all that is made
of it write beyond their memory (SciPy 1.17 and 1.18; issue 22533 of scipy/scipy), which ends the
process now and then. With ``brute_force=True`` they do not, and the result is the same.
"""

import functools

import numpy as np
import pytest

ndimage = pytest.importorskip("scipy.ndimage")

STEPS = ("binary_erosion", "binary_dilation", "binary_opening", "binary_closing")


def propagation(input, structure=None, mask=None, **arguments):
    """``binary_propagation``, as SciPy defines it."""
    return ndimage.binary_dilation(input, structure, -1, mask, brute_force=True, **arguments)


def fill_holes(input, structure=None, **arguments):
    """``binary_fill_holes``, as SciPy defines it."""
    image = np.asarray(input) != 0
    background = ndimage.binary_dilation(
        np.zeros(image.shape, bool), structure, -1, ~image, border_value=1, brute_force=True,
        **arguments,
    )  # fmt: skip
    return ~background


def function(name, image, arguments):
    """SciPy's function of that name; with these keyword arguments it looks at all of the image."""
    if name in STEPS:
        arguments.pop("brute_force", None)
        return functools.partial(getattr(ndimage, name), brute_force=True)
    if name in ("binary_propagation", "binary_fill_holes"):
        window = np.shape(arguments.get("structure", np.ones((3,) * np.ndim(image))))
        if max(window, default=1) > min(np.shape(image), default=1):
            return propagation if name == "binary_propagation" else fill_holes
    return getattr(ndimage, name)
