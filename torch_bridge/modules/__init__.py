"""Modules that convolve.

`convolutions` has what a semifield's `dynamic()` and `lazy_fixed()` return, `generic` what joins a
kernel with them, `linear` the dense layer, `of_torch` torch's own convolution and pooling.
"""

from torch_bridge.modules.convolutions import BroadcastConv, SemifieldConv
from torch_bridge.modules.generic import GenericClosing, GenericConv, GenericOpening
from torch_bridge.modules.linear import SemifieldLinear
from torch_bridge.modules.of_torch import TorchLinearConv2D, TorchMaxPool2D

__all__ = [
    "BroadcastConv",
    "GenericClosing",
    "GenericConv",
    "GenericOpening",
    "SemifieldConv",
    "SemifieldLinear",
    "TorchLinearConv2D",
    "TorchMaxPool2D",
]
