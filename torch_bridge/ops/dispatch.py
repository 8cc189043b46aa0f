"""Whether torch's dispatcher has anything to do for a call, beyond finding the kernel.

On its way through the dispatcher a small call spends twice the time that it computes: arguments
are boxed, checked against the schema, and unboxed. What the dispatcher does for plain tensors is to
pick the kernel of their device. So such a call goes to that very kernel at once; whatever else may
have to see the call (a mode, a transform, a trace, a profiler) makes it go the long way.
Called by the operators.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch._C import (
    DispatchKey,
    DispatchKeySet,
    _dispatch_keys,
    _dispatch_tls_local_include_set,
    _is_torch_function_mode_enabled,
)
from torch.autograd import _profiler_enabled

PLAIN_CLASSES = (Tensor, torch.nn.Parameter)


def _plain_keys() -> int:
    """The keys of which none does more than to pick the kernel, as bits."""
    names = ("", "Autograd", "Autocast")
    keys = [f"{name}{device}" for name in names for device in ("CPU", "CUDA")]
    bits = 0
    for key in (*keys, "ADInplaceOrView", "BackendSelect"):
        bits |= DispatchKeySet(getattr(DispatchKey, key)).raw_repr()
    return bits


BEYOND_PLAIN = ~_plain_keys()


def goes_straight(*tensors: Tensor | None) -> bool:
    """Whether a call by these tensors may go to its kernel without the dispatcher.

    No subclass, no lazily negated numbers, no meta device, and nothing that watches. Autograd does
    not see the call either: for callers that give the operator its derivative.
    """
    if torch.compiler.is_compiling():
        return False
    if _is_torch_function_mode_enabled() or _profiler_enabled():
        return False
    keys: int = _dispatch_tls_local_include_set().raw_repr()
    for tensor in tensors:
        if tensor is not None:
            if type(tensor) not in PLAIN_CLASSES:
                return False
            keys |= _dispatch_keys(tensor).raw_repr()
    return not keys & BEYOND_PLAIN
