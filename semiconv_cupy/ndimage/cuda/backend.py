"""The primitives on a GPU: `neighbourhood.Backend` on a device, by the launches beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy.backends.device import Device
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.cuda import boxes, footprints, lines, spread, structures, sums, taps
from semiconv_cupy.ndimage.cuda.launcher import Launcher
from semiconv_cupy.ndimage.cuda.limits import LIMITS, Limits
from semiconv_cupy.ndimage.lines import Pass, Pullback
from semiconv_cupy.ndimage.window import WeightedTaps, Window

Array = Any


class Backend:
    """The primitives on one device's arrays, which is CuPy's in production."""

    def __init__(self, device: Device, limits: Limits = LIMITS) -> None:
        self._launcher = Launcher(device, limits)

    def box(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """The extremum over a box."""
        return boxes.box(self._launcher, array, window, outside, minimum)

    def footprint(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """The extremum over any footprint that is not empty."""
        tiled = footprints.footprint(self._launcher, array, window, outside, minimum)
        if tiled is not None:
            return tiled
        return taps.footprint(self._launcher, array, window, outside, minimum)

    def structure(self, array: Array, window: Window, addends: Addends, minimum: bool) -> Array:
        """The extremum of element + addend over the taps."""
        tiled = structures.structure(self._launcher, array, window, addends, minimum)
        if tiled is not None:
            return tiled
        return taps.structure(self._launcher, array, window, addends, minimum)

    def correlate(self, array: Array, window: Window, weights: WeightedTaps, out: Array) -> None:
        """Weighted sums into `out`, which is C-contiguous and of any supported dtype."""
        if not sums.correlate(self._launcher, array, window, weights, out):
            taps.correlate(self._launcher, array, window, weights.read(), out)

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
