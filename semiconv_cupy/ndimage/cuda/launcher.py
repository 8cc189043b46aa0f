"""A GPU as this package's launches use it: compiled kernels, and small arrays that stay there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda.kernels import compiled
from semiconv_cupy.backends.device import Device, Kernel, Prepared, prepared
from semiconv_cupy.ndimage.cuda.limits import LIMITS, Limits
from semiconv_cupy.ndimage.form import FilterForm, filter_form
from semiconv_cupy.ndimage.window import Window

Array = Any
_kept: dict[tuple[Any, ...], Any] = {}
_prepared: dict[tuple[Any, ...], Prepared] = {}


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

    def launch(
        self,
        kernel: Kernel,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        before: tuple[Any, ...],
        pointers: tuple[Array | None, ...],
        after: tuple[Any, ...] = (),
        shared_bytes: int = 0,
    ) -> None:
        """Launch a kernel of arrays between scalars: prepared once for each of these scalars."""
        scalars = (scalar.tobytes() for scalar in (*before, *after))
        key = kernel, grid, block, shared_bytes, *scalars
        run = _prepared.get(key)
        if run is None:
            given = before, len(pointers), after, shared_bytes
            if len(_prepared) >= self.limits.kept_arrays:
                _prepared.clear()
            run = _prepared[key] = prepared(kernel, grid, block, *given)
        run(tuple([0 if pointer is None else pointer for pointer in pointers]))

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

    def near_form(self, shape: tuple[int, ...], window: Window) -> FilterForm:
        """The form of a filter; where the positions of its rows are far apart, their elements are
        an axis of their own.
        """
        form = form_of(shape, window)
        return form if form.unit <= self.limits.unit else form.with_positions_apart()


class Ways:
    """A launch that is repeated, from an array to another one, by kernels that differ in speed.

    A way serves addresses that are multiples of its alignment, a power of two; the last one serves
    all. Each is made, and its kernel compiled, when it is first needed.

    Attributes
    ----------
    nbytes : int
        Of the arrays on the device that all ways read.
    """

    def __init__(
        self,
        device: Device,
        ways: Sequence[tuple[int, Callable[[], Prepared]]],
        others: tuple[Array, ...],
    ) -> None:
        self._device, self._ways, self._others = device, tuple(ways), others
        self._made: dict[int, Prepared] = {}
        self.nbytes = sum(int(other.nbytes) for other in others)

    def __call__(self, array: Array, out: Array | None = None) -> Array:
        """The output: `out`, or else a new array like the first."""
        if out is None:
            out = self._device.empty(array.shape, array.dtype)
        address = self._device.address
        both = address(array) | address(out)
        alignment, make = next(way for way in self._ways if not both & (way[0] - 1))
        run = self._made.get(alignment)
        if run is None:
            run = self._made[alignment] = make()
        run((array, out, *self._others))
        return out


def fours(row: int, itemsize: int) -> int:
    """The alignment of arrays of which four elements of a row may be moved at once; 0: of none."""
    return min(4 * itemsize, 16) if row % 4 == 0 else 0


def form_of(shape: tuple[int, ...], window: Window) -> FilterForm:
    """The form in which launches compute a filter of an array."""
    return filter_form(shape, window.shape, window.before, window.rules)


@lru_cache(maxsize=256)
def table_starts(window: tuple[int, ...]) -> tuple[int, ...]:
    """Where each axis' entries begin in `Launcher.tables`."""
    return tuple(accumulate((k - 1 for k in window[:-1]), initial=0))
