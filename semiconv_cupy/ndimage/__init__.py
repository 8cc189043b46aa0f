"""The morphology and the filters of scipy.ndimage, for NumPy and CuPy arrays, and faster.

Names, signatures, conventions and results are SciPy's; docstrings say where SciPy is wrong and
this is not. No kernels here: the public functions (``filters``, ``morphology``, ``binary``,
``correlation``, ``distance``) resolve SciPy's arguments to a `Window` and compose a few primitives
(``neighbourhood``), which ``kernels_cu`` computes.
"""

import sys
from typing import TYPE_CHECKING

from semiconv_cupy.ndimage.binary import (
    binary_closing,
    binary_dilation,
    binary_erosion,
    binary_opening,
)
from semiconv_cupy.ndimage.compositions import (
    binary_fill_holes,
    binary_hit_or_miss,
    binary_propagation,
    iterate_structure,
)
from semiconv_cupy.ndimage.correlation import convolve, convolve1d, correlate, correlate1d
from semiconv_cupy.ndimage.differences import (
    black_tophat,
    morphological_gradient,
    morphological_laplace,
    white_tophat,
)
from semiconv_cupy.ndimage.distance import (
    distance_transform_bf,
    distance_transform_cdt,
    distance_transform_edt,
)
from semiconv_cupy.ndimage.filters import (
    maximum_filter,
    maximum_filter1d,
    minimum_filter,
    minimum_filter1d,
)
from semiconv_cupy.ndimage.morphology import (
    grey_closing,
    grey_dilation,
    grey_erosion,
    grey_opening,
)
from semiconv_cupy.ndimage.structures import generate_binary_structure

__all__ = [
    "binary_closing",
    "binary_dilation",
    "binary_erosion",
    "binary_fill_holes",
    "binary_hit_or_miss",
    "binary_opening",
    "binary_propagation",
    "black_tophat",
    "convolve",
    "convolve1d",
    "correlate",
    "correlate1d",
    "distance_transform_bf",
    "distance_transform_cdt",
    "distance_transform_edt",
    "generate_binary_structure",
    "grey_closing",
    "grey_dilation",
    "grey_erosion",
    "grey_opening",
    "iterate_structure",
    "maximum_filter",
    "maximum_filter1d",
    "minimum_filter",
    "minimum_filter1d",
    "morphological_gradient",
    "morphological_laplace",
    "white_tophat",
]

if not TYPE_CHECKING:  # to a checker, every name would be there

    def __getattr__(name):
        text = (
            f"semiconv_cupy.ndimage has no {name} (it has morphology, minimum and maximum filters, "
            "convolutions and correlations); SciPy's other functions stay in scipy.ndimage"
        )
        package = sys.modules[__package__.partition(".")[0]]
        if name in getattr(package, "__all__", ()):
            text = f"semiconv_cupy.ndimage has no {name}: it is semiconv_cupy.{name}"
        # `from semiconv_cupy.ndimage import name` makes of an AttributeError an ImportError without
        # its text. The import system looks names of a package up in this function.
        caller = sys._getframe(1)
        if (caller.f_globals.get("__name__"), caller.f_code.co_name) == (
            "importlib._bootstrap",
            "_handle_fromlist",
        ):
            raise ImportError(text, name=__name__, path=__file__)
        raise AttributeError(text, name=name, obj=sys.modules[__name__])
