"""The raw operators of torch.library: semiconv::forward, ::backward, ::product and others.

They take checked arguments, fill what torch allocates, and have no derivative: `autograd`,
`products` and `parametric` give them one. `forward`, `backward`, `product` and `product_backward`
hold one operator each, `parametric` two whose mu or p is a tensor, `parabolas` those of parabolas.
`node` and `conv_node` record calls on a GPU without Python.
`handles` has the keys by which operators find semifields, `plans` what follows from shapes and
dtypes, `executors` the CPU and the GPUs, `dispatch` says which calls need no dispatcher.
"""

from torch_bridge.ops.backward import call_backward
from torch_bridge.ops.conv_node import conv_node
from torch_bridge.ops.dispatch import PLAIN_CLASSES, goes_straight
from torch_bridge.ops.forward import call_forward, forward_straight
from torch_bridge.ops.handles import (
    Handle,
    PreparedSemifield,
    handle_by_one_winner,
    handle_of,
    handle_of_family,
    handle_of_own,
    semifield_of,
)
from torch_bridge.ops.node import FallBack, Node
from torch_bridge.ops.parametric import call_parametric, call_parametric_backward
from torch_bridge.ops.product import call_product, product_straight
from torch_bridge.ops.product_backward import call_product_backward

# Modules that version 0.1.0 pickled name the class so.
Known = PreparedSemifield

__all__ = [
    "PLAIN_CLASSES",
    "FallBack",
    "Handle",
    "Node",
    "PreparedSemifield",
    "call_backward",
    "call_forward",
    "call_parametric",
    "call_parametric_backward",
    "call_product",
    "call_product_backward",
    "conv_node",
    "forward_straight",
    "goes_straight",
    "handle_by_one_winner",
    "handle_of",
    "handle_of_family",
    "handle_of_own",
    "product_straight",
    "semifield_of",
]
