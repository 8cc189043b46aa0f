"""The semifields: three ways to define one, and the ready-made ones.

A user's functions become expressions (`tracing`, on `recording`, `stand_ins` and `functions`), and
these become derivatives and inverses (`calculus`), C++ (`cpp`) and array functions (`arrays`), both
by `printing`. `selections` and `sums` are the two kinds that are compiled, on the base `compiled`;
`traits` says what one of them is. `broadcast` needs no compiler. `laws` checks all three, `names`
is the registry of the ready-made. Importing this package imports neither torch nor CuPy.
"""

from semiconv_cupy.algebra.broadcast import BroadcastSemifield
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
