"""The image's gradient of an ordinary sum at stride 1: a convolution of grad_out.

    out[o] = sum over inputs i, taps t:  krn[o, i, t] * img[i, o + t]
    grad_img[i] = sum over outputs o, taps t:  krn[o, i, t] * grad_out[o, i - t]

So it is the same convolution of grad_out with the kernel's channels exchanged and its taps
mirrored, for which the tiled forward kernel is much faster than one thread an element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import SubtractSemifield
from semiconv_cupy.backends.cuda.convolution import (
    Case,
    Condition,
    Convolution,
    blocks_for,
)
from semiconv_cupy.backends.cuda.forward import ForwardLaunch, forward_launch
from semiconv_cupy.backends.cuda.forward_tile import forward_tile_of
from semiconv_cupy.backends.cuda.gradient_launch import GradientLaunch
from semiconv_cupy.backends.cuda.kernels import compiled, exchange_source
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, LIMITS, Limits
from semiconv_cupy.backends.device import Device, Kernel, Stream
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.strides import contiguous_strides


@dataclass(frozen=True)
class AdjointLaunch:
    """The image's gradient by the forward kernel, of a kernel with its channels exchanged.

    If the kernel contains inf or NaN, `direct` recomputes the gradient: it skips outputs whose
    gradient is 0, where this convolution would give 0 * inf = NaN.
    """

    exchange: Kernel
    grid: tuple[int]
    struct: np.void  # with the kernel's strides
    count: np.int64  # of the kernel's numbers
    numbers: int  # float64 numbers of a scratch that holds them exchanged
    forward: ForwardLaunch
    direct: GradientLaunch | None  # None: no weight that is not finite meets a gradient of 0

    def __call__(
        self,
        device: Device,
        arrays: GradientArrays,
        stream: Stream | None = None,
        parameters: object = None,
    ) -> None:
        """Launch for arrays or their addresses."""
        exchanged, owner = device.scratch(self.numbers + -(-self.grid[0] // 2))
        flags = exchanged + 8 * self.numbers
        only_finite = np.int64(self.direct is None)
        arguments = (self.struct, arrays.krn, exchanged, flags, self.count, only_finite)
        self.exchange(self.grid, (BLOCK_THREADS,), arguments, 0, stream)
        grad_out = arrays.grad_out
        address = grad_out if isinstance(grad_out, int) else device.address(grad_out)
        self.forward(address, grad_out, exchanged, arrays.grad_img, None, stream)
        if self.direct is not None:
            self.direct(device, arrays, stream, Condition(flags, np.int64(self.grid[0])))
        del owner


def adjoint_of(geometry: Geometry) -> Geometry | None:
    """The convolution of grad_out that is the image's gradient; None where there is none.

    Strides leave gaps between outputs, and padding wider than a window would be negative there.
    """
    far = [d * (k - 1) for d, k in zip(geometry.dilation, geometry.kernel_size, strict=True)]
    padding = tuple(
        (span - begin, span - end)
        for span, begin, end in zip(far, geometry.pad_begin, geometry.pad_end, strict=True)
    )
    if max(geometry.stride) > 1 or min(map(min, padding)) < 0:
        return None
    return Geometry.plan(
        geometry.out_shape,
        (
            geometry.in_channels * (1 if geometry.shares_kernels else geometry.groups),
            geometry.outputs_per_group,
            *geometry.kernel_size,
        ),
        padding=padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        group_broadcasting=geometry.shares_kernels,
        kind="corr" if geometry.mirrored else "conv",
    )


def adjoint_launch(
    device: Device,
    convolution: Convolution,
    direct: GradientLaunch | None,
    limits: Limits = LIMITS,
) -> AdjointLaunch | None:
    """The image's gradient of an ordinary sum by the tiled forward kernel; None without a tile."""
    geometry, storage = convolution.geometry, convolution.storage
    adjoint, linear = adjoint_of(geometry), SubtractSemifield.linear()
    if adjoint is None or forward_tile_of(linear, storage, adjoint, None, limits) is None:
        return None
    strides = contiguous_strides(adjoint.img_shape), contiguous_strides(adjoint.krn_shape)
    method = "tiled" if limits.filled == 0 else "auto"
    of_grad_out = Convolution.of(Case(linear, adjoint, storage), None, *strides)
    forward = forward_launch(device, of_grad_out, method, limits)
    count = math.prod(adjoint.krn_shape)
    return AdjointLaunch(
        exchange=compiled(device, exchange_source, storage),
        grid=(min(blocks_for(count), BLOCK_THREADS),),
        struct=convolution._replace(img_byte_strides=None).struct,
        count=np.int64(count),
        numbers=-(-count * source.itemsize(storage) // 8),
        forward=forward,
        direct=direct,
    )
