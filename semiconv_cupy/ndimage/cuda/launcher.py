"""A GPU as this package's launches use it: compiled kernels, and small arrays that stay there."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda.kernels import compiled
from semiconv_cupy.backends.device import Device, Kernel
from semiconv_cupy.ndimage.cuda.limits import LIMITS, Limits
from semiconv_cupy.ndimage.form import FilterForm, filter_form
from semiconv_cupy.ndimage.window import Window

Array = Any
_kept: dict[tuple[Any, ...], Any] = {}


class _Plan(Protocol):
    @property
    def nbytes(self) -> int: ...


Plan = TypeVar("Plan", bound=_Plan)


class Launcher:
    """A device, with the limits of what is launched on it."""

    def __init__(self, device: Device, limits: Limits = LIMITS) -> None:
        self.device = device
        self.limits = limits

    def kernel(
        self, write: Callable[..., source.KernelSource], *arguments: Any, suffix: str = ""
    ) -> Kernel:
        """The kernel whose source `write(*arguments)` is, compiled once for each device.

        `suffix` names another function of the same text, as in `compiled`.
        """
        return compiled(self.device, write, *arguments, suffix=suffix)

    def upload(self, array: np.ndarray) -> Array:
        """A copy on the device."""
        return self.device.array_module.asarray(np.ascontiguousarray(array))

    def keep(self, key: tuple[Any, ...], make: Callable[[], np.ndarray]) -> Array:
        """The array that `make` returns, on the device; `key`: what it is, and depends on.

        It is uploaded once for each stream: a launch on another stream might read it before the
        upload, or after its memory has been given to another array. Large arrays are not kept.
        """
        return self.keep_plan(key, lambda: self.upload(make()))

    def keep_plan(self, key: tuple[Any, ...], make: Callable[[], Plan]) -> Plan:
        """The same of what `make` returns, whose `nbytes` are on the device already."""
        whole = (self.device, *self.device.gpu_and_stream(), *key)
        found: Plan | None = _kept.get(whole)
        if found is None:
            found = make()
            if found.nbytes <= self.limits.kept_bytes:
                if len(_kept) >= self.limits.kept_arrays:
                    _kept.clear()
                _kept[whole] = found
        return found

    def tables(self, form: FilterForm, axes: tuple[int, ...] | None = None) -> Array:
        """The tables of `borders`, of all axes or some, one behind the other; never empty."""
        axes = tuple(range(len(form.shape))) if axes is None else axes
        key = "tables", form.shape, form.window, form.before, form.rules, form.unit, axes

        def tables() -> np.ndarray:
            return np.concatenate([*map(form.beyond, axes), np.zeros(1, np.int64)])

        return self.keep(key, tables)

    def near_form(self, array: Array, window: Window) -> FilterForm:
        """The form of a filter; where the positions of its rows are far apart, their elements are
        an axis of their own.
        """
        form = form_of(array, window)
        return form if form.unit <= self.limits.unit else form.with_positions_apart()

    def moves_fours(self, row: int, *arrays: Array) -> bool:
        """Whether rows begin where four elements may be moved at once."""
        return row % 4 == 0 and all(
            self.device.address(a) % min(4 * a.dtype.itemsize, 16) == 0 for a in arrays
        )


def form_of(array: Array, window: Window) -> FilterForm:
    """The form in which launches compute a filter of an array."""
    return filter_form(array.shape, window.shape, window.before, window.rules)


@lru_cache(maxsize=256)
def table_starts(window: tuple[int, ...]) -> tuple[int, ...]:
    """Where each axis' entries begin in `Launcher.tables`."""
    return tuple(accumulate((k - 1 for k in window[:-1]), initial=0))
