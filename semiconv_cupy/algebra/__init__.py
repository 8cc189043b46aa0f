"""The semifields: three ways to define one, and the ready-made ones.

They are written in `algebra`. What a convolution does with one is in `conv.py`. Importing this
module imports neither torch nor CuPy.
"""

from semiconv_cupy.algebra.broadcast import BroadcastSemifield
from semiconv_cupy.algebra.compiled import _rebuilt as _rebuilt  # of pickles that name it here
from semiconv_cupy.algebra.names import READY_MADE, Semifield, named, no_semifield
from semiconv_cupy.algebra.selections import SelectSemifield
from semiconv_cupy.algebra.sums import SubtractSemifield

__all__ = [
    "READY_MADE",
    "BroadcastSemifield",
    "SelectSemifield",
    "Semifield",
    "SubtractSemifield",
    "named",
    "no_semifield",
]
