"""Semifield convolutions of NumPy and CuPy arrays: dilation, erosion, log-sum-exp and your own.

``semifield_conv`` is the convolution, ``semifield_matmul`` the matrix product; ``SelectSemifield``,
``SubtractSemifield`` and ``BroadcastSemifield`` define their addition and multiplication;
``structuring`` makes kernels; ``ndimage`` has functions with SciPy's names. Importing this package
imports neither torch nor CuPy.
"""

import logging

from semiconv_cupy import ndimage, structuring
from semiconv_cupy.ahead import prepare
from semiconv_cupy.algebra import BroadcastSemifield, SelectSemifield, SubtractSemifield
from semiconv_cupy.algebra.recording import where
from semiconv_cupy.background import rolling_ball
from semiconv_cupy.chunked import open_with
from semiconv_cupy.conv import semifield_conv
from semiconv_cupy.conv_vjp import semifield_conv_vjp
from semiconv_cupy.errors import (
    BackendUnavailableError,
    BackendWarning,
    CompileError,
    FootprintWarning,
)
from semiconv_cupy.explain import explain
from semiconv_cupy.heights import h_maxima, h_minima
from semiconv_cupy.matmul import semifield_matmul
from semiconv_cupy.matmul_vjp import semifield_matmul_vjp
from semiconv_cupy.openings import closing_by_reconstruction, opening_by_reconstruction
from semiconv_cupy.parabolic import (
    parabolic_closing,
    parabolic_dilation,
    parabolic_erosion,
    parabolic_opening,
)
from semiconv_cupy.powers import semifield_closure, semifield_matrix_power
from semiconv_cupy.reconstructions import reconstruction
from semiconv_cupy.saved import find_moved_names

find_moved_names()
# What is logged is shown where the program asks for it (docs/messages.md), and nowhere else.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def _compute_chunks(function, args, kwargs):  # type: ignore[no-untyped-def]
    """Answer a call with Dask arrays; Dask is imported by whoever made them."""
    from semiconv_cupy.dask.calls import compute_later

    return compute_later(function, args, kwargs)


open_with(_compute_chunks)

__version__ = "0.2.0"
__all__ = [
    "BackendUnavailableError",
    "BackendWarning",
    "BroadcastSemifield",
    "CompileError",
    "FootprintWarning",
    "SelectSemifield",
    "SubtractSemifield",
    "closing_by_reconstruction",
    "explain",
    "h_maxima",
    "h_minima",
    "ndimage",
    "opening_by_reconstruction",
    "parabolic_closing",
    "parabolic_dilation",
    "parabolic_erosion",
    "parabolic_opening",
    "prepare",
    "reconstruction",
    "rolling_ball",
    "semifield_closure",
    "semifield_conv",
    "semifield_conv_vjp",
    "semifield_matmul",
    "semifield_matmul_vjp",
    "semifield_matrix_power",
    "structuring",
    "where",
]
