"""The fused convolution of a compiled semifield, as an operation that autograd records.

`autograd` says what is saved and differentiated, `ops` has the operators themselves. Called by
`functional` and `winners`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.geometry import Geometry
from torch_bridge import ops
from torch_bridge.arguments import GeometryArguments
from torch_bridge.autograd import Directions, Shapes, Wants, recorded, recorded_with_winners
from torch_bridge.ops import FallBack, Handle, Node, PreparedSemifield

AnySemifield = Semifield | PreparedSemifield | str


def fused_conv(img: Tensor, krn: Tensor, semifield: AnySemifield, geometry: Geometry) -> Tensor:
    """The convolution of checked tensors, as `recorded`."""
    return recorded(img, krn, convolution(semifield, geometry))


def fused_conv_with_winners(
    img: Tensor, krn: Tensor, semifield: AnySemifield, geometry: Geometry, with_winners: bool
) -> tuple[Tensor, Tensor]:
    """The convolution of checked tensors, and its residual, as `recorded_with_winners`."""
    return recorded_with_winners(img, krn, convolution(semifield, geometry), with_winners)


def convolution(semifield: AnySemifield, geometry: Geometry) -> _Convolution:
    """What `fused_conv` records, for callers that keep it."""
    if isinstance(semifield, PreparedSemifield):
        handle = semifield.handle
    else:
        handle = ops.handle_of(semifield)
    if torch.compiler.is_compiling():  # sizes may be symbols, which no cache can look up
        return _Convolution(handle, GeometryArguments.of(geometry))
    if handle.parted.numbers:
        return _new_operation(handle, _cached_arguments(geometry))
    return _cached_operation(handle, geometry)


_cached_arguments = lru_cache(maxsize=512)(GeometryArguments.of)


def _new_operation(handle: Handle, arguments: GeometryArguments) -> _Convolution:
    operation = _Convolution(handle, arguments)
    operation.semifield = ops.semifield_of(handle.parted.unbound)
    return operation


@lru_cache(maxsize=512)
def _cached_operation(handle: Handle, geometry: Geometry) -> _Convolution:
    return _new_operation(handle, GeometryArguments.of(geometry))


class _Convolution:
    name = "semifield convolution"
    semifield: Semifield | None = None
    node: Node | None = None

    def __init__(self, handle: Handle, arguments: GeometryArguments) -> None:
        self.handle, self.arguments = handle, arguments

    def __eq__(self, other: object) -> bool:
        """Operations with numbers are made anew for each call, which a node may serve again."""
        if not isinstance(other, _Convolution):
            return NotImplemented
        return (self.handle, self.arguments) == (other.handle, other.arguments)

    def __hash__(self) -> int:
        return hash((self.handle, self.arguments))

    def find_node(self, img: Tensor, krn: Tensor, fall_back: FallBack) -> Node | None:
        return ops.conv_node(img, krn, self.handle, self.arguments, fall_back)

    def without_node(self) -> _Convolution:
        found = _Convolution(self.handle, self.arguments)
        found.semifield = self.semifield
        return found

    def straight(
        self, img: Tensor, krn: Tensor, with_residual: bool
    ) -> tuple[Tensor, Tensor | None]:
        return ops.forward_straight(img, krn, self.handle.parted, self.arguments, with_residual)

    def forward(self, img: Tensor, krn: Tensor, with_residual: bool) -> tuple[Tensor, Tensor]:
        return ops.call_forward(img, krn, self.handle.key, self.arguments, with_residual)

    def gradients(
        self,
        grad_out: Tensor,
        img: Tensor | None,
        krn: Tensor | None,
        residual: Tensor | None,
        shapes: Shapes,
        wants: Wants,
    ) -> tuple[Tensor, Tensor]:
        return ops.call_backward(
            grad_out, img, krn, residual, self.handle.key, shapes, self.arguments, wants
        )

    def at_winners(
        self, directions: Directions, winner: Tensor, shapes: Shapes, d_times: tuple[float, float]
    ) -> Tensor | None:
        """See `Operation`; a residual numbers the winning taps."""
        geometry = self.arguments.plan(*shapes)
        unselected = winner == torch.iinfo(winner.dtype).max
        tap = winner.long().masked_fill(unselected, 0)
        trailing = (1,) * (tap.dim() - 2)
        channel = torch.arange(geometry.out_channels, device=tap.device).view(-1, *trailing)
        image, kernel = (f(tap, channel, geometry) for f in (_index_in_image, _index_in_kernel))
        total: Tensor | None = None
        for direction, index, factor in zip(directions, (image, kernel), d_times, strict=True):
            if direction is None:
                continue
            index = index.masked_fill(unselected, 0)
            part = factor * direction.reshape(-1)[index].masked_fill(unselected, 0)
            total = part if total is None else total + part
        if (
            total is not None and total.dim() > geometry.rank + 2
        ):  # one winner for each input channel
            total = total.sum(2)
        return total


def _index_in_image(tap: Tensor, channel: Tensor, geometry: Geometry) -> Tensor:
    """The flat index, in an image of that shape, of the element under each winning tap.

    `tap` is flat over (input channel, kernel position), `channel` the output channel.
    """
    positions = geometry.taps // geometry.in_channels
    channel = channel // geometry.outputs_per_group * geometry.in_channels + tap // positions
    sample = torch.arange(geometry.batch, device=tap.device)
    index = sample.view(-1, *(1,) * (tap.dim() - 1)) * geometry.img_shape[1] + channel
    position, below = tap % positions, positions
    for axis in range(geometry.rank):
        below //= geometry.kernel_size[axis]
        along = position // below % geometry.kernel_size[axis]
        step = geometry.kernel_size[axis] - 1 - along if geometry.mirrored else along
        outputs = torch.arange(geometry.out_size[axis], device=tap.device)
        corner = geometry.stride[axis] * outputs - geometry.pad_begin[axis]
        corner = corner.view(-1, *(1,) * (geometry.rank - 1 - axis))
        index = index * geometry.image_size[axis] + corner + geometry.dilation[axis] * step
    return index


def _index_in_kernel(tap: Tensor, channel: Tensor, geometry: Geometry) -> Tensor:
    """The flat index, in a kernel of that shape, of each winning tap."""
    kernel = channel % geometry.kernels if geometry.shares_kernels else channel
    return kernel * geometry.taps + tap
