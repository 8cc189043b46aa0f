"""The reference backend: plain array loops over the taps, for NumPy and CuPy arrays alike.

Slow and always right: it serves where there is no compiler, and for `method="reference"`. Arrays
come in checked, with their route, from ``run``; nothing here knows kernels or compilers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.additions import (
    ADDITIONS,
    as_bits,
    chained,
    computed_semifield,
    holds_bits,
    numbers,
    sum_of_channels,
    times_function,
    weight_function,
)
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.parameters import bound_by_kernel

if TYPE_CHECKING:
    from semiconv_cupy.route import Route

Array = Any
Channel = tuple[int, Array, Array]  # (the channel's number in its group, image, kernel)


class Work(NamedTuple):
    """What is computed, and with the functions of which array module."""

    xp: Any
    semifield: Semifield
    geometry: Geometry
    dtype: np.dtype  # that of the arithmetic
    of_kernel: tuple[Semifield, ...]  # one semifield for each kernel, or one for all kernels

    @classmethod
    def of(cls, route: Route, value: Any = None) -> Work:
        """The work of a route; `value` is the parameter's, where the semifield has none itself."""
        semifield = computed_semifield(route.semifield, route.storage)
        dtype = np.dtype(source.ARITHMETIC[route.storage])
        of_kernel = bound_by_kernel(semifield, value)
        return cls(route.place.array_module, of_kernel[0], route.geometry, dtype, of_kernel)

    def semifield_of(self, plane: int) -> Semifield:
        """The semifield of an output channel."""
        kernel = plane % self.geometry.outputs_per_group if self.geometry.shares_kernels else plane
        return self.of_kernel[kernel if len(self.of_kernel) > 1 else 0]


def forward(
    route: Route,
    img: Array,
    krn: Array,
    out: Array,
    residual: Array | None = None,
    value: Any = None,
) -> None:
    """Fill `out`, and `residual` where given."""
    work, storage = Work.of(route, value), route.storage
    with np.errstate(all="ignore"):
        found, kept = _convolve(work, numbers(img, storage), numbers(krn, storage))
        out[...] = as_bits(work.xp, found) if holds_bits(out, storage) else found
    if residual is not None and kept is not None:
        first = len(kept) - 1 if route.by_sums else 0  # a route by sums keeps the slope alone
        several = kept.ndim == residual.ndim and len(residual) != len(kept)
        residual[...] = kept[first : first + len(residual)] if several else kept


def backward(
    route: Route,
    arrays: GradientArrays,
    value: Any = None,
) -> None:
    """Fill the gradients that are given; after a route by sums, compute the residual again."""
    work, storage = Work.of(route, value), route.storage
    *given, residual, grad_img, grad_krn = arrays
    grad_out, img, krn = (numbers(array, storage) for array in given)
    with np.errstate(all="ignore"):
        if route.by_sums:
            assert img is not None
            assert krn is not None
            residual = _convolve(work, img, krn)[1]
        arrays = GradientArrays(grad_out, img, krn, residual, grad_img, grad_krn)
        _differentiate(work, arrays)


# ---- loops over outputs' channels and taps -------------------------------------------------------


def _convolve(work: Work, img: Array, krn: Array) -> tuple[Array, Array | None]:
    """The convolution in the arithmetic's dtype, and its residual.

    The residual is as ``residual.residual_of`` says, but indices have NumPy's integer type.
    """
    xp, semifield, geometry, dtype, _ = work
    img = img.astype(dtype, copy=False)
    krn = krn.astype(dtype, copy=False)
    add = ADDITIONS[semifield.accumulator]
    out = xp.empty(geometry.out_shape, dtype)
    shape = (geometry.batch, *geometry.out_size)
    residuals: list[Any] = []
    for plane, channels in _planes(geometry, img, krn):
        groups, own = _addends(semifield, channels), work.semifield_of(plane)
        times = times_function(xp, own, dtype)
        parts = [
            add(
                *(xp, own, dtype, shape),
                lambda some=some, times=times: _terms(geometry, some, times),
            )
            for some in groups
        ]
        out[:, plane] = sum_of_channels([value for value, _ in parts], dtype)
        residuals.append([residual for _, residual in parts])
    if residuals[0][0] is None:
        return out, None
    # (plane, part, [array,] batch, pixels) -> ([array,] batch, plane, [part,] pixels)
    residual = xp.stack([xp.stack(row) for row in residuals])
    stacked = residual.ndim == geometry.rank + 4
    residual = xp.moveaxis(residual, (2, 3), (0, 1)) if stacked else xp.moveaxis(residual, 2, 0)
    if not _per_channel(semifield):
        residual = residual[:, :, :, 0] if stacked else residual[:, :, 0]
    return out, residual


def _differentiate(
    work: Work,
    arrays: GradientArrays,
) -> None:
    """Fill the gradients that are given."""
    grad_out, img, krn, residual, grad_img, grad_krn = arrays
    xp, semifield, geometry, dtype, _ = work
    ones = xp.ones((1,) * (geometry.rank + 2), dtype)
    img = (
        xp.broadcast_to(ones, geometry.img_shape) if img is None else img.astype(dtype, copy=False)
    )
    krn = (
        xp.broadcast_to(ones, geometry.krn_shape) if krn is None else krn.astype(dtype, copy=False)
    )
    grad_out = grad_out.astype(dtype, copy=False)
    for gradient in (grad_img, grad_krn):
        if gradient is not None:
            gradient[...] = 0
    for plane, channels in _planes(geometry, img, krn):
        functions = work.semifield_of(plane).functions
        group, output = divmod(plane, geometry.outputs_per_group)
        kernel = output if geometry.shares_kernels else plane
        for channel, image, weights in channels:
            at = (plane, channel) if _per_channel(semifield) else (plane,)
            weight_of = weight_function(xp, work.semifield_of(plane), residual, at)
            for index, tap in _taps(geometry, channel):
                places = _places(geometry, tap)
                if places is None:
                    continue
                outputs, inputs = places
                pixel, weight = image[inputs], weights[tap]
                share = weight_of(outputs, functions.times(pixel, weight), index)
                flow = chained(xp, grad_out[:, plane][outputs], share)
                if grad_img is not None:
                    part = chained(xp, flow, functions.d_times_d_img(pixel, weight))
                    grad_img[:, group * geometry.in_channels + channel][inputs] += part
                if grad_krn is not None:
                    part = chained(xp, flow, functions.d_times_d_krn(pixel, weight))
                    grad_krn[(kernel, channel, *tap)] += part.sum()


def _planes(geometry: Geometry, img: Array, krn: Array) -> Iterator[tuple[int, list[Channel]]]:
    """(output channel, its input channels with their kernels)."""
    for plane in range(geometry.out_channels):
        group, output = divmod(plane, geometry.outputs_per_group)
        kernel = krn[output if geometry.shares_kernels else plane]
        first = group * geometry.in_channels
        yield plane, [(i, img[:, first + i], kernel[i]) for i in range(geometry.in_channels)]


def _per_channel(semifield: Semifield) -> bool:
    return semifield.channels_add


def _addends(semifield: Semifield, channels: list[Any]) -> list[list[Any]]:
    """Groups of input channels; the semifield adds within each, plain addition joins them."""
    return [[one] for one in channels] if _per_channel(semifield) else [channels]


def _places(
    geometry: Geometry, tap: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """The outputs that see this tap inside the image, and the image positions they see there."""
    outputs: list[slice] = [slice(None)]
    inputs: list[slice] = [slice(None)]
    for axis, index in enumerate(tap):
        stride = geometry.stride[axis]
        corner = geometry.dilation[axis] * geometry.step(axis, index) - geometry.pad_begin[axis]
        first = max(0, -(corner // stride))
        last = min(geometry.out_size[axis] - 1, (geometry.image_size[axis] - 1 - corner) // stride)
        if last < first:
            return None
        outputs.append(slice(first, last + 1))
        inputs.append(slice(corner + first * stride, corner + last * stride + 1, stride))
    return tuple(outputs), tuple(inputs)


def _terms(
    geometry: Geometry, channels: list[Channel], times: Callable[[Array, Array], Array]
) -> Iterator[tuple[int, tuple[slice, ...], Array]]:
    """(tap, outputs that see it inside the image, the terms), in the kernel's memory order."""
    for channel, image, kernel in channels:
        for index, tap in _taps(geometry, channel):
            places = _places(geometry, tap)
            if places is not None:
                yield index, places[0], times(image[places[1]], kernel[tap])


def _taps(geometry: Geometry, channel: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(index in the kernel's memory order, position in the kernel) of one channel's taps."""
    positions = itertools.product(*(range(k) for k in geometry.kernel_size))
    return enumerate(positions, channel * (geometry.taps // geometry.in_channels))
