"""The primitives on a GPU: `neighbourhood.Backend` on a device, by the launches beside it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import numpy as np

from semiconv_cupy.backends.device import Device
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.cuda import boxes, footprints, lines, spread, structures, sums, taps
from semiconv_cupy.ndimage.cuda.launcher import Launcher
from semiconv_cupy.ndimage.cuda.limits import LIMITS, Limits
from semiconv_cupy.ndimage.lines import Pass, Pullback
from semiconv_cupy.ndimage.window import WeightedTaps, Window

Array = Any
Shape: TypeAlias = tuple[int, ...]
Call: TypeAlias = Callable[..., Array]


class Backend:
    """The primitives on one device's arrays, which is CuPy's in production."""

    def __init__(self, device: Device, limits: Limits = LIMITS) -> None:
        self._launcher = Launcher(device, limits)

    def planner(self) -> tuple[Hashable, ...]:
        """Who plans the calls: the device, its limits, and the GPU and stream that are current."""
        device = self._launcher.device
        return device, self._launcher.limits, *device.gpu_and_stream()

    def box(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """The extremum over a box."""
        return self.box_call(array.shape, array.dtype, window, outside, minimum)(array)

    def box_call(self, shape: Shape, dtype: np.dtype, *box: Any) -> Call:
        """What computes `box` of arrays of that shape and dtype, in the current stream."""
        return boxes.box_call(self._launcher, shape, dtype, *box)

    def footprint(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """The extremum over any footprint that is not empty."""
        return self.footprint_call(array.shape, array.dtype, window, outside, minimum)(array)

    def footprint_call(self, shape: Shape, dtype: np.dtype, *footprint: Any) -> Call:
        """What computes `footprint` of arrays of that shape and dtype, in the current stream."""
        tiled = footprints.footprint_call(self._launcher, shape, dtype, *footprint)
        if tiled is not None:
            return tiled
        return taps.footprint_call(self._launcher, shape, dtype, *footprint)

    def structure(self, array: Array, window: Window, addends: Addends, minimum: bool) -> Array:
        """The extremum of element + addend over the taps."""
        return self.structure_call(array.shape, array.dtype, window, addends, minimum)(array)

    def structure_call(self, shape: Shape, dtype: np.dtype, *structure: Any) -> Call:
        """What computes `structure` of arrays of that shape and dtype, in the current stream."""
        tiled = structures.structure_call(self._launcher, shape, dtype, *structure)
        if tiled is not None:
            return tiled
        return taps.structure_call(self._launcher, shape, dtype, *structure)

    def correlate(self, array: Array, window: Window, weights: WeightedTaps, out: Array) -> None:
        """Weighted sums into `out`, which is C-contiguous and of any supported dtype."""
        call = self.correlate_call(array.shape, array.dtype, window, weights, out.dtype)
        call(array, out, weights.weights)

    def correlate_call(
        self, shape: Shape, dtype: np.dtype, window: Window, weights: WeightedTaps, out: np.dtype
    ) -> Callable[[Array, Array, Array | None], None]:
        """What computes `correlate`, in the current stream; the last argument: unread weights."""
        tiled = sums.correlate_call(self._launcher, shape, (dtype, out), window, weights)
        if tiled is not None:
            return tiled

        def plan(read: WeightedTaps) -> Call:
            return taps.correlate_call(self._launcher, shape, (dtype, out), window, read)

        known = None if weights.unread else plan(weights)
        empty = weights._replace(weights=None)  # the plan keeps no array of the caller's alive

        def call(array: Array, out: Array, unread: Array | None) -> None:
            run = known or plan(empty._replace(weights=unread).read())
            run(array, out)

        return call

    def reconstruct(self, seed: Array, mask: Array, steps: np.ndarray, minimum: bool) -> Array:
        """What spreads from `seed` within `mask` by `steps`."""
        return spread.reconstruct(self._launcher, seed, mask, steps, minimum)

    def nearest(self, unset: Array, step: Pass) -> None:
        """How far the nearest False lies along the last axis, into `step.out`."""
        lines.nearest(self._launcher, unset, step)

    def parabolas(self, array: Array, step: Pass) -> None:
        """The extremum of element and cost along an axis, into `step.out`."""
        lines.parabolas(self._launcher, array, step)

    def pull_back(self, grad: Array, back: Pullback) -> None:
        """The transpose of a pass of parabolas: into `back.out` and `back.moments`, of doubles."""
        lines.pull_back(self._launcher, grad, back)

    def chamfer(self, unset: Array, steps: np.ndarray, features: bool) -> tuple[Array, Any]:
        """Distances in steps to the nearest False, and its flat index."""
        return lines.chamfer(self._launcher, unset, steps, features)
