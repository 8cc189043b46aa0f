"""The raw operators of torch.library: semiconv::forward and semiconv::backward.

They take checked arguments, fill what torch allocates, and have no derivative: `autograd` gives
them one. `forward` and `backward` hold one operator each, `handles` the keys by which operators
find semifields, `plans` what follows from shapes and dtypes, `executors` the CPU and the GPUs.
"""

from torch_bridge.ops.backward import call_backward
from torch_bridge.ops.forward import call_forward
from torch_bridge.ops.handles import (
    Handle,
    PreparedSemifield,
    handle_of,
    semifield_of,
)

# Modules that version 0.1.0 pickled name the class so.
Known = PreparedSemifield

__all__ = [
    "Handle",
    "PreparedSemifield",
    "call_backward",
    "call_forward",
    "handle_of",
    "semifield_of",
]
