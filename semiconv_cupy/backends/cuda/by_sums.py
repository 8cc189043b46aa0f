"""log and root on a GPU as ordinary convolutions of transformed numbers: what is launched.

Values and gradients, for arrays or by addresses; the mathematics is in ``kernels_cu/by_sums.cuh``.
What the sums do not prove is computed by the direct kernels, which the device itself asks for.
Called by `conv`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield, SubtractSemifield
from semiconv_cupy.backends import cuda
from semiconv_cupy.backends.cuda import ForwardLaunch
from semiconv_cupy.backends.device import Device, Kernel, Stream
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import residual_of

Array = Any
_PARTS = 256  # of a plane whose extreme numbers are looked for at the same time
_BLOCKS = 1024  # that go through all outputs, each with a flag
_ALIGNED = 256  # bytes


class Scratch:
    """Names for the parts of one allocation."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._bytes = 0

    def add(self, name: str, count: int, itemsize: int) -> None:
        """Room for `count` elements."""
        self._places[name] = self._bytes
        self._bytes += -(-count * itemsize // _ALIGNED) * _ALIGNED

    def allocate(self, device: Device) -> tuple[Callable[[str], int], object]:
        """The address of each part, and what keeps them alive."""
        first, owner = device.scratch(self._bytes // 8)
        return (lambda name: first + self._places[name]), owner


@dataclass(frozen=True)
class Transform:
    """The kernels that transform an array, and that make a gradient of sums by what it became."""

    name: str
    kernels: tuple[Kernel, Kernel, Kernel]
    grid: tuple[int, int]  # planes that have one shift, and their parts
    struct: np.void
    numbers: tuple[np.int64, np.int64]  # whether it is the kernel, and the elements of a plane

    def reserve(self, scratch: Scratch, itemsize: int) -> None:
        """Room for what the launches leave."""
        planes, parts = self.grid
        scratch.add(self.name, planes * int(self.numbers[1]), itemsize)
        scratch.add(f"{self.name} ranges", 2 * planes, itemsize)
        scratch.add(f"{self.name} extremes", 2 * planes * parts, itemsize)

    def __call__(self, at: Callable[[str], int], array: Array, stream: Stream | None) -> None:
        """Transform."""
        first, then, _ = self.kernels
        extremes, block = at(f"{self.name} extremes"), (cuda.THREADS,)
        first(self.grid, block, (self.struct, array, extremes, *self.numbers), 0, stream)
        results = at(self.name), at(f"{self.name} ranges")
        then(self.grid, block, (self.struct, array, extremes, *results, *self.numbers), 0, stream)

    def finish(
        self, at: Callable[[str], int], array: Array, gradient: Array, stream: Stream | None
    ) -> None:
        """From sums to a gradient by the array's numbers, in place."""
        known = at(self.name), at(f"{self.name} ranges")
        arguments = (self.struct, array, *known, gradient, *self.numbers)
        self.kernels[2](self.grid, (cuda.THREADS,), arguments, 0, stream)


@dataclass(frozen=True)
class Sums:
    """What every pass begins with: both transformations, and the sums S of all windows."""

    scratch: Scratch
    img: Transform
    krn: Transform
    forward: ForwardLaunch
    grid: tuple[int]  # of what goes through all outputs
    channels: tuple[np.int64, np.int64]  # of outputs, and the parts of each

    def __call__(
        self, at: Callable[[str], int], img: Array, krn: Array, stream: Stream | None
    ) -> None:
        """Launch for arrays or their addresses."""
        self.img(at, img, stream)
        self.krn(at, krn, stream)
        image = at("img")
        self.forward(image, image, at("krn"), at("sums"), None, stream)


def _sums(
    device: Device,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    img_steps: tuple[int, ...],
    krn_steps: tuple[int, ...],
) -> tuple[Sums, Callable[[str], Kernel]]:
    """The sums, with a scratch that has room for more, and the functions of cuda/by_sums.cu."""
    real = source.ARITHMETIC[storage]
    itemsize = source.itemsize(real)
    struct = cuda.struct_of(geometry, img_steps, krn_steps)
    offset = cuda.offset_of(geometry, img_steps, krn_steps)

    def kernel(suffix: str) -> Kernel:
        return cuda.kernel_of(
            device, "by_sums", semifield, storage, geometry, offset, None, suffix=suffix
        )

    def transform(name: str, size: int, planes: int) -> Transform:
        count = size // planes
        parts = max(1, min(_PARTS, count // (4 * cuda.THREADS)))
        kernels = kernel("_extremes"), kernel("_transform"), kernel("_finish")
        numbers = np.int64(name == "krn"), np.int64(count)
        return Transform(name, kernels, (planes, parts), struct, numbers)

    img = transform("img", math.prod(geometry.img_shape), geometry.batch * geometry.groups)
    krn = transform("krn", math.prod(geometry.krn_shape), geometry.kernels)
    scratch = Scratch()
    for one in (img, krn):
        one.reserve(scratch, itemsize)
    scratch.add("sums", math.prod(geometry.out_shape), itemsize)
    strides = (
        cuda.in_bytes(cuda.contiguous(shape), real)
        for shape in (geometry.img_shape, geometry.krn_shape)
    )
    forward = cuda.forward_launch(
        device, _linear(), geometry, real, None, "auto", *strides, itemsize
    )
    channels, pixels = geometry.batch * geometry.out_channels, math.prod(geometry.out_size)
    parts = max(1, min(-(-_BLOCKS // channels), -(-pixels // cuda.THREADS)))
    grid = (min(_BLOCKS, channels * parts),)
    counts = np.int64(channels), np.int64(parts)
    return Sums(scratch, img, krn, forward, grid, counts), kernel


def _linear() -> Semifield:
    return SubtractSemifield.linear()


# ---- values --------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def forward_call(
    device: Device,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    img_steps: tuple[int, ...],
    krn_steps: tuple[int, ...],
) -> Callable[..., None]:
    """What computes (img, krn, out, residual: None, stream), arrays or addresses.

    Strides are in elements; there is an output. Four passes over arrays besides the convolution,
    and as much memory as img, krn and out hold as float32 or float64.
    """
    sums, kernel = _sums(device, semifield, geometry, storage, img_steps, krn_steps)
    value = kernel("")

    def call(img: Array, krn: Array, out: Array, residual: None, stream: Stream | None) -> None:
        at, owner = sums.scratch.allocate(device)
        sums(at, img, krn, stream)
        known = at("sums"), at("img ranges"), at("krn ranges")
        arguments = (sums.img.struct, img, krn, *known, out, *sums.channels)
        value(sums.grid, (cuda.THREADS,), arguments, 0, stream)
        del owner

    return call


def forward(
    device: Device,
    img: Array,
    krn: Array,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    out: Array,
) -> None:
    """Launch the computation of C-contiguous `out` on the device's current stream."""
    if out.size:
        steps = cuda.elements(img), cuda.elements(krn)
        forward_call(device, semifield, geometry, storage, *steps)(img, krn, out, None, None)


# ---- gradients -----------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def backward_call(
    device: Device,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    img_steps: tuple[int, ...],
    krn_steps: tuple[int, ...],
    wants_img: bool,
    wants_krn: bool,
    method: str = "auto",
) -> Callable[..., None]:
    """What differentiates: (grad_out, img, krn, residual: None, grad_img, grad_krn, stream).

    Arrays or addresses, as `cuda.backward_at` takes them. `method` is that of the gradients of
    ordinary sums, which these become.
    """
    real = source.ARITHMETIC[storage]
    itemsize = source.itemsize(real)
    sums, kernel = _sums(device, semifield, geometry, storage, img_steps, krn_steps)
    slopes, scratch = kernel("_slopes"), sums.scratch
    outputs = math.prod(geometry.out_shape)
    described = residual_of(semifield, storage, geometry)
    assert described is not None
    log = semifield.accumulator == "log"  # one slope serves both gradients
    # The direct kernels' residual, two numbers an output, lies over both: they are read by then.
    for name in ("to img", "to krn"):
        scratch.add(name, outputs, itemsize)
    scratch.add("flags", _BLOCKS, 4)
    most_terms = np.float64(
        max(
            geometry.in_channels * math.prod(geometry.kernel_size) * geometry.outputs_per_group,
            outputs // geometry.kernels,
        )
    )

    contiguous = [
        cuda.in_bytes(cuda.contiguous(shape), real)
        for shape in (geometry.img_shape, geometry.krn_shape)
    ]
    of_sums = []
    for wants in ((wants_img, False), (False, wants_krn)):
        if any(wants):
            of_sums += cuda.gradient_launches(
                device, _linear(), geometry, real, None, *contiguous, itemsize, *wants, method,
                only_finite=True,
            )  # fmt: skip
    strides = cuda.in_bytes(img_steps, storage), cuda.in_bytes(krn_steps, storage)
    size = source.itemsize(storage)
    again = cuda.forward_launch(
        device, semifield, geometry, storage, str(described.dtype), "direct", *strides, size
    )
    direct = [
        launch
        for launch in cuda.gradient_launches(
            device, semifield, geometry, storage, str(described.dtype), *strides, size, wants_img,
            wants_krn, "direct",
        )
        if isinstance(launch, cuda.GradientLaunch)  # by that method all are
    ]  # fmt: skip

    def call(
        grad_out: Array,
        img: Array,
        krn: Array,
        residual: None,
        grad_img: Array | None,
        grad_krn: Array | None,
        stream: Stream | None,
    ) -> None:
        at, owner = scratch.allocate(device)
        sums(at, img, krn, stream)
        to_img, flags = at("to img"), at("flags")
        to_krn = to_img if log else at("to krn")
        known = at("sums"), at("img ranges"), at("krn ranges")
        arguments = (sums.img.struct, grad_out, *known, to_img, to_krn, flags, most_terms)
        slopes(sums.grid, (cuda.THREADS,), (*arguments, *sums.channels), 0, stream)
        transformed = at("img"), at("krn")
        todo = iter(of_sums)
        if wants_img:
            next(todo)(device, to_img, *transformed, None, grad_img, None, stream)
            sums.img.finish(at, img, grad_img, stream)
        if wants_krn:
            next(todo)(device, to_krn, *transformed, None, None, grad_krn, stream)
            sums.krn.finish(at, krn, grad_krn, stream)
        wanted, left = (flags, np.int64(sums.grid[0])), to_img
        again(0, img, krn, at("sums"), left, stream, wanted)
        for launch in direct:
            launch(device, grad_out, img, krn, left, grad_img, grad_krn, stream, wanted)
        del owner

    return call


def backward(
    device: Device,
    grad_out: Array,
    img: Array,
    krn: Array,
    grad_img: Array | None,
    grad_krn: Array | None,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    method: str = "auto",
) -> None:
    """Launch the gradients that are wanted; as `cuda.backward`, which kept no residual."""
    grad_out = device.array_module.ascontiguousarray(grad_out)
    if grad_out.size == 0 or min(geometry.img_shape) == 0:
        for gradient in (grad_img, grad_krn):
            if gradient is not None:
                gradient[...] = 0
        return
    run = backward_call(
        device, semifield, geometry, storage, cuda.elements(img), cuda.elements(krn),
        grad_img is not None, grad_krn is not None, method,
    )  # fmt: skip
    run(grad_out, img, krn, None, grad_img, grad_krn, None)
