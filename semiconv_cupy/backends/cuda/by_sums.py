"""log and root on a GPU as ordinary convolutions of transformed numbers: what is launched.

Values and gradients, for arrays or by addresses; the mathematics is in ``kernels_cu/by_sums.cuh``.

    img, krn --transform--> E(img), E(krn) --ordinary convolution--> sums --value--> out
                                                                      |
    outputs of which the sums prove nothing: the value kernel computes them term by term

Backward, the sums are computed again:

    grad_out --term_gradients--> gradient of each product E(img) E(krn)
             --gradients of the ordinary convolution--> those in E(img) and E(krn)
             --finish--> those in img and krn

Where a sum proves nothing, a flag is set, and the direct kernels, launched under that condition,
compute everything anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from semiconv_cupy import source, structs
from semiconv_cupy.algebra import SubtractSemifield
from semiconv_cupy.backends.cuda.backward import (
    Launch,
    fills_with_zeros,
    gradient_launches,
    with_contiguous_grad_out,
)
from semiconv_cupy.backends.cuda.convolution import (
    Case,
    Condition,
    Convolution,
)
from semiconv_cupy.backends.cuda.forward import ForwardLaunch, forward_launch
from semiconv_cupy.backends.cuda.gradient_launch import GradientLaunch
from semiconv_cupy.backends.cuda.kernels import compiled, kernel_source, specialise
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, LIMITS, Limits
from semiconv_cupy.backends.device import Device, Kernel, Stream
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import residual_of
from semiconv_cupy.strides import Strides, contiguous_strides, element_strides

Array = Any
_PARTS = 256  # at most so many parts of a plane look for their extreme numbers at the same time
_BLOCKS = 1024  # the most blocks of a pass over all outputs; each block has a flag
_ALIGNED = 256  # bytes, to which each part of the scratch is aligned


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
    """The kernels that transform an array, and those that make its gradient from that of sums."""

    name: str
    kernels: tuple[Kernel, Kernel, Kernel]
    grid: tuple[int, int]  # planes with one shift each, and the parts of a plane
    struct: np.void
    numbers: tuple[np.int64, np.int64]  # whether it is the kernel, and the elements of a plane

    def reserve(self, scratch: Scratch, itemsize: int) -> None:
        """Room for what the launches leave."""
        planes, parts = self.grid
        scratch.add(self.name, planes * int(self.numbers[1]), itemsize)
        scratch.add(f"{self.name} ranges", 2 * planes, itemsize)
        scratch.add(f"{self.name} extremes", 2 * planes * parts, itemsize)

    def __call__(self, at: Callable[[str], int], array: Array, stream: Stream | None) -> None:
        """Transform the array."""
        find_extremes, transform, _ = self.kernels
        extremes, block = at(f"{self.name} extremes"), (BLOCK_THREADS,)
        find_extremes(self.grid, block, (self.struct, array, extremes, *self.numbers), 0, stream)
        results = at(self.name), at(f"{self.name} ranges")
        arguments = (self.struct, array, extremes, *results, *self.numbers)
        transform(self.grid, block, arguments, 0, stream)

    def finish(
        self, at: Callable[[str], int], array: Array, gradient: Array, stream: Stream | None
    ) -> None:
        """From the gradient in the transformed array to that in the array, in place."""
        transformed = at(self.name), at(f"{self.name} ranges")
        arguments = (self.struct, array, *transformed, gradient, *self.numbers)
        self.kernels[2](self.grid, (BLOCK_THREADS,), arguments, 0, stream)


@dataclass(frozen=True)
class WindowSums:
    """What every pass begins with: both transformations, and the sums of all windows."""

    scratch: Scratch
    img: Transform
    krn: Transform
    forward: ForwardLaunch
    grid: tuple[int]  # of each pass over all outputs
    channels: tuple[np.int64, np.int64]  # how many output channels there are, and the parts of each

    def with_parameters(self, parameters: structs.Parameters | None) -> WindowSums:
        """The same launches, with these values of the semifield's parameters."""
        if parameters is None:
            return self
        struct = structs.scalar_with_parameters(self.img.struct, parameters)
        img, krn = (replace(one, struct=struct) for one in (self.img, self.krn))
        return replace(self, img=img, krn=krn)

    def __call__(
        self, at: Callable[[str], int], img: Array, krn: Array, stream: Stream | None
    ) -> tuple[int, int, int]:
        """Launch for arrays or their addresses; return where the sums and both ranges lie."""
        self.img(at, img, stream)
        self.krn(at, krn, stream)
        image = at("img")
        self.forward(image, image, at("krn"), at("sums"), None, stream)
        return at("sums"), at("img ranges"), at("krn ranges")


def _window_sums(
    convolution: Convolution, device: Device, kernel: Callable[[str], Kernel], limits: Limits
) -> WindowSums:
    """The sums, with a scratch that has room for more; `kernel` finds functions of by_sums.cu."""
    geometry, real = convolution.geometry, source.ARITHMETIC[convolution.storage]
    itemsize = source.itemsize(real)
    kernels = kernel("_extremes"), kernel("_transform"), kernel("_finish")

    def transform(name: str, size: int, planes: int) -> Transform:
        count = size // planes
        parts = max(1, min(_PARTS, count // (4 * BLOCK_THREADS)))
        numbers = np.int64(name == "krn"), np.int64(count)
        return Transform(name, kernels, (planes, parts), convolution.struct, numbers)

    img = transform("img", math.prod(geometry.img_shape), geometry.batch * geometry.groups)
    krn = transform("krn", math.prod(geometry.krn_shape), geometry.kernels)
    scratch = Scratch()
    for one in (img, krn):
        one.reserve(scratch, itemsize)
    scratch.add("sums", math.prod(geometry.out_shape), itemsize)
    forward = forward_launch(device, _ordinary(geometry, real), limits=limits)
    channels, pixels = geometry.batch * geometry.out_channels, math.prod(geometry.out_size)
    parts = max(1, min(-(-_BLOCKS // channels), -(-pixels // BLOCK_THREADS)))
    grid = (min(_BLOCKS, channels * parts),)
    counts = np.int64(channels), np.int64(parts)
    return WindowSums(scratch, img, krn, forward, grid, counts)


def _ordinary(geometry: Geometry, real: str) -> Convolution:
    """The ordinary convolution of the transformed arrays."""
    strides = contiguous_strides(geometry.img_shape), contiguous_strides(geometry.krn_shape)
    return Convolution.of(Case(SubtractSemifield.linear(), geometry, real), None, *strides)


def _functions(device: Device, convolution: Convolution, limits: Limits) -> Callable[[str], Kernel]:
    """The functions of cuda/by_sums.cu, by what their names end with."""
    semifield, geometry, storage, *_ = convolution
    offset = convolution.forward_offset(limits)
    kernel = specialise("by_sums", semifield, storage, geometry, offset)
    return lambda suffix: compiled(device, kernel_source, kernel, suffix=suffix)


# ---- values --------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def forward_at(
    device: Device,
    case: Case,
    img_strides: Strides,
    krn_strides: Strides,
    limits: Limits = LIMITS,
) -> Callable[..., None]:
    """What computes (img, krn, out, residual: None, stream), arrays or addresses.

    Strides are in elements; there is an output. Four passes over arrays besides the convolution,
    and as much memory as img, krn and out hold as float32 or float64.
    """
    convolution = Convolution.of(case, None, img_strides, krn_strides)
    kernel = _functions(device, convolution, limits)
    known, value = _window_sums(convolution, device, kernel, limits), kernel("")

    def call(
        img: Array,
        krn: Array,
        out: Array,
        residual: None,
        stream: Stream | None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        sums = known.with_parameters(parameters)
        at, owner = sums.scratch.allocate(device)
        sums_and_ranges = sums(at, img, krn, stream)
        arguments = (sums.img.struct, img, krn, *sums_and_ranges, out, *sums.channels)
        value(sums.grid, (BLOCK_THREADS,), arguments, 0, stream)
        del owner

    return call


def forward(
    device: Device, case: Case, img: Array, krn: Array, out: Array, limits: Limits = LIMITS
) -> None:
    """Launch the computation of C-contiguous `out` on the device's current stream."""
    if out.size:
        strides = element_strides(img), element_strides(krn)
        forward_at(device, case, *strides, limits)(img, krn, out, None, None)


# ---- gradients -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _DirectFallback:
    """The direct kernels, which compute what the sums do not prove: a residual, then gradients."""

    forward: ForwardLaunch
    gradients: list[GradientLaunch]

    def __call__(
        self,
        device: Device,
        arrays: GradientArrays,
        unused: int,
        stream: Stream | None,
        condition: Condition,
        parameters: structs.Parameters | None,
    ) -> None:
        """Launch under the condition; the values go to `unused` memory."""
        given = arrays.img, arrays.krn, unused, arrays.residual
        self.forward(0, *given, stream, condition, parameters)
        for launch in self.gradients:
            launch(device, arrays, stream, condition, parameters)


def _direct_fallback(
    device: Device, convolution: Convolution, wants: tuple[bool, bool], limits: Limits
) -> _DirectFallback:
    return _DirectFallback(
        forward_launch(device, convolution, "direct", limits),
        [
            launch
            for launch in gradient_launches(device, convolution, wants, "direct", limits)
            if isinstance(launch, GradientLaunch)  # method="direct" launches nothing else
        ],
    )


def _most_terms(geometry: Geometry) -> np.float64:
    """The most terms that an element of either gradient has."""
    of_image = geometry.taps * geometry.outputs_per_group
    return np.float64(max(of_image, math.prod(geometry.out_shape) // geometry.kernels))


@dataclass(frozen=True)
class _Backward:
    """The call that `backward_at` returns."""

    device: Device
    sums: WindowSums  # its scratch has room for all that follows
    term_gradients: Kernel
    image: Launch | None  # the gradients of ordinary sums; None where one is not computed
    kernel: Launch | None
    fallback: _DirectFallback
    one_for_both: bool  # whether both gradients take the same gradient of the sums
    most_terms: np.float64  # the most terms of an element of either gradient

    def __call__(
        self,
        grad_out: Array,
        img: Array,
        krn: Array,
        residual: None,
        grad_img: Array | None,
        grad_krn: Array | None,
        stream: Stream | None,
        parameters: structs.Parameters | None = None,
    ) -> None:
        device, sums = self.device, self.sums.with_parameters(parameters)
        at, owner = sums.scratch.allocate(device)
        sums_and_ranges = sums(at, img, krn, stream)
        to_img, flags = at("to img"), at("flags")
        to_krn = to_img if self.one_for_both else at("to krn")
        given = sums.img.struct, grad_out, *sums_and_ranges
        arguments = (*given, to_img, to_krn, flags, self.most_terms, *sums.channels)
        self.term_gradients(sums.grid, (BLOCK_THREADS,), arguments, 0, stream)
        transformed = at("img"), at("krn")
        if self.image is not None:
            arrays = GradientArrays(to_img, *transformed, None, grad_img, None)
            self.image(device, arrays, stream)
            sums.img.finish(at, img, grad_img, stream)
        if self.kernel is not None:
            arrays = GradientArrays(to_krn, *transformed, None, None, grad_krn)
            self.kernel(device, arrays, stream)
            sums.krn.finish(at, krn, grad_krn, stream)
        # The direct kernels' residual (2 numbers an output) reuses the memory of "to img" and
        # "to krn", which are no longer needed.
        arrays = GradientArrays(grad_out, img, krn, to_img, grad_img, grad_krn)
        condition = Condition(flags, np.int64(sums.grid[0]))
        self.fallback(device, arrays, at("sums"), stream, condition, parameters)
        del owner


@lru_cache(maxsize=1024)
def backward_at(
    device: Device,
    case: Case,
    img_strides: Strides,
    krn_strides: Strides,
    wants: tuple[bool, bool],
    method: str = "auto",
    limits: Limits = LIMITS,
) -> Callable[..., None]:
    """What differentiates: (grad_out, img, krn, residual: None, grad_img, grad_krn, stream).

    Arrays or addresses; grad_out and image have elements, and gradients that are not computed are
    None. Strides are in elements. `method` is that of the gradients of
    ordinary sums, which these become.
    """
    semifield, geometry, storage, *_ = case
    real, spec = source.ARITHMETIC[storage], residual_of(semifield, storage, geometry)
    assert spec is not None
    convolution = Convolution.of(case, None, img_strides, krn_strides)
    kernel = _functions(device, convolution, limits)
    sums = _window_sums(convolution, device, kernel, limits)
    for name in ("to img", "to krn"):
        sums.scratch.add(name, math.prod(geometry.out_shape), source.itemsize(real))
    sums.scratch.add("flags", _BLOCKS, 4)
    ordinary = _ordinary(geometry, real)
    image, krn = (
        gradient_launches(device, ordinary, alone, method, limits, only_finite=True)[0]
        if any(alone)
        else None
        for alone in ((wants[0], False), (False, wants[1]))
    )
    return _Backward(
        device=device,
        sums=sums,
        term_gradients=kernel("_term_gradients"),
        image=image,
        kernel=krn,
        fallback=_direct_fallback(device, convolution._replace(residual=spec.dtype), wants, limits),
        one_for_both=semifield.accumulator == "log",
        most_terms=_most_terms(geometry),
    )


def backward(
    device: Device,
    case: Case,
    arrays: GradientArrays,
    method: str = "auto",
    limits: Limits = LIMITS,
) -> None:
    """Launch the kernels of the gradients that are there; as `cuda.backward`, with no residual."""
    arrays = with_contiguous_grad_out(device, arrays)
    if fills_with_zeros(case, arrays):
        return
    assert arrays.img is not None
    assert arrays.krn is not None
    wants = arrays.grad_img is not None, arrays.grad_krn is not None
    strides = element_strides(arrays.img), element_strides(arrays.krn)
    backward_at(device, case, *strides, wants, method, limits)(*arrays, None)
