"""A filter's window: from SciPy's arguments to what the primitives of ``neighbourhood`` take.

`WindowArguments` holds SciPy's arguments, `Window` says what each output sees. No images.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy.ndimage.arguments import (
    Array,
    as_numpy,
    check_axes,
    check_constant,
    check_size,
    expanded,
    on_axes,
    per_axis,
    positions_before,
    reflected_origin,
    require_real,
    wrong_rank,
)
from semiconv_cupy.ndimage.borders import check_mode, ignores, shows_constant
from semiconv_cupy.ndimage.caching import cached_where

NEGLIGIBLE = float(np.finfo(np.float64).eps)  # SciPy's: a smaller weight is none
_HALF_MAX = float(np.finfo(np.float16).max)


class Window(NamedTuple):
    """What each output sees: positions around its own, and what lies beyond the border.

    Along one axis, with shape 5 and before 3, an output x sees::

        position  x-3  x-2  x-1   x   x+1
        tap        0    1    2    3    4
                  |--- before ---|   |after|

    Attributes
    ----------
    shape : tuple of int
        Number of positions along each axis of the array.
    before : tuple of int
        How many of them lie before the output's own position.
    rules : tuple of str
        What lies beyond the border of each axis, in the words of `borders.check_mode`.
    cval : number
        The constant of the rule "constant"; that of "ignore" is the value that never wins.
    taps : numpy.ndarray of bool, optional
        Which positions are seen, of the window's shape; all of them by default.
    values : numpy.ndarray, optional
        What is added to each element that is seen, one number for each tap in C order; in an
        erosion these are the negated values of the structure. By default nothing is added.
    factors : tuple of numpy.ndarray or None, optional
        Where the structure is an outer sum: its part along each axis, None for an axis without.
    """

    shape: tuple[int, ...]
    before: tuple[int, ...]
    rules: tuple[str, ...]
    cval: Any = 0
    taps: np.ndarray | None = None
    values: np.ndarray | None = None
    factors: tuple[np.ndarray | None, ...] | None = None

    @classmethod
    def along(
        cls, axis: int, ndim: int, length: int, before: int, rule: str, cval: Any = 0
    ) -> Window:
        """The window of `length` positions along one axis of an array."""
        return cls(*_line(axis, ndim, length, before, rule), cval)

    @property
    def after(self) -> tuple[int, ...]:
        """How many positions lie behind the output's own, along each axis."""
        return tuple(k - 1 - b for k, b in zip(self.shape, self.before, strict=True))

    def ignoring(self) -> tuple[int, ...]:
        """The axes along which what lies beyond the border takes no part."""
        sides = enumerate(zip(self.shape, self.rules, strict=True))
        return tuple(axis for axis, (k, rule) in sides if k > 1 and ignores(rule))

    def showing_cval(self) -> tuple[int, ...]:
        """The axes along which `cval` lies beyond the border."""
        sides = enumerate(zip(self.shape, self.rules, strict=True))
        return tuple(
            axis
            for axis, (k, rule) in sides
            if k > 1 and shows_constant(rule) and not ignores(rule)
        )

    def without(self, axes: Sequence[int]) -> Window:
        """The box that sees, along these axes, only an output's own position."""
        shape, before = (
            tuple(one if a in axes else of for a, of in enumerate(all_of))
            for one, all_of in ((1, self.shape), (0, self.before))
        )
        return self._replace(shape=shape, before=before)

    def contains_own_position(self) -> bool:
        """Whether an output sees its own position."""
        return self.taps is None or bool(self.taps[self.before])

    def within(self, shape: tuple[int, ...]) -> tuple[Window, bool]:
        """The part that reaches from some position of the image to another; whether more exists.

        An offset as long as the image sees what lies beyond the border, from every position.
        """
        if all(map(operator.le, self.shape, shape)):
            return self, False
        after = self.after
        if all(map(operator.lt, self.before + after, shape + shape)):
            return self, False
        before = tuple(min(b, n - 1) for b, n in zip(self.before, shape, strict=True))
        after = tuple(min(a, n - 1) for a, n in zip(after, shape, strict=True))
        sizes = tuple(b + 1 + a for b, a in zip(before, after, strict=True))
        if self.taps is None:
            return self._replace(shape=sizes, before=before), True
        starts = (whole - b for whole, b in zip(self.before, before, strict=True))
        taps = self.taps[tuple(slice(s, s + k) for s, k in zip(starts, sizes, strict=True))]
        more = int(np.count_nonzero(taps)) < int(np.count_nonzero(self.taps))
        return self._replace(shape=sizes, before=before, taps=taps), more

    def indices(self) -> np.ndarray:
        """Where the taps lie in the window, in C order: one row of int64 for each."""
        return np.argwhere(np.ones(self.shape, np.bool_) if self.taps is None else self.taps)

    def offsets(self) -> np.ndarray:
        """Where the taps lie, seen from the output: one row for each."""
        return self.indices() - np.array(self.before)


@lru_cache(maxsize=256)
def _line(
    axis: int, ndim: int, length: int, before: int, rule: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """Shape, before and rules of `Window.along`."""
    ahead, behind = axis, ndim - axis - 1
    return (
        (*(1,) * ahead, length, *(1,) * behind),
        (*(0,) * ahead, before, *(0,) * behind),
        (*("constant",) * ahead, rule, *("constant",) * behind),
    )


class WeightedTaps(NamedTuple):
    """The terms of a correlation, in the order in which they are added.

    Attributes
    ----------
    indices : numpy.ndarray of int64
        Where each tap lies in the window, one row each; C-contiguous.
    weights : numpy.ndarray of float64
        What each element is multiplied by.
    symmetry : {0, 1, -1}
        1 (-1) where taps k and n - k of n (k > 0) have equal (opposite) weights and are added
        (subtracted) before they are multiplied; tap 0 then stands alone.
    unread : bool
        Whether the weights lie where the array does and may be negligible, so that whoever adds
        leaves those out; `read` does.
    """

    indices: np.ndarray
    weights: Array
    symmetry: int = 0
    unread: bool = False

    def read(self) -> WeightedTaps:
        """The same in NumPy's arrays, without those that are negligible."""
        if not self.unread:
            return self
        weights = as_numpy(self.weights, name="weights")
        taps = np.abs(weights) > NEGLIGIBLE
        return WeightedTaps(self.indices[taps], weights[taps])


@cached_where(lambda shape, taps: len(taps) <= 1 << 12, 256)
def tap_indices(shape: tuple[int, ...], taps: bytes) -> np.ndarray:
    """Where taps lie in a window, one row each in C order; `taps`: the bytes of a bool array."""
    there = np.frombuffer(taps, np.bool_).reshape(shape)
    return np.ascontiguousarray(np.argwhere(there), np.int64)


def every_tap(weights: Array) -> WeightedTaps:
    """The taps of weights that are not looked at: a GPU's, for which the host would wait."""
    indices = tap_indices(weights.shape, b"\1" * weights.size)
    return WeightedTaps(indices, weights.ravel(), 0, unread=True)


class WindowArguments(NamedTuple):
    """SciPy's arguments of a window, each checked by itself; on the axes of the window.

    `size`, `mode`, `cval`, `origin` and `axes` are as the caller gave them. `factors` are those of
    a structure that is an outer sum.
    """

    size: Any
    footprint: np.ndarray | None
    structure: np.ndarray | None
    factors: tuple[np.ndarray, ...] | None
    mode: Any
    cval: Any
    origin: Any
    axes: Any

    def reflected(self, ndim: int) -> WindowArguments:
        """The window that a dilation of an array of `ndim` axes uses: mirrored on every axis.

        SciPy mirrors before it places the window on the array's axes, which shows where `axes` are
        not sorted: an array's k-th axis belongs to the k-th of the sorted axes, an origin to the
        k-th of those given. So this does it here, and not to a `Window`.
        """
        axes = check_axes(self.axes, ndim)
        size, origin = self.size, self.origin
        footprint, structure, factors = self.footprint, self.structure, self.factors
        # An origin that does not fit the size it is paired with here may fit where it is placed.
        checked = list(axes) == sorted(axes)
        if footprint is structure is None and type(size) is type(origin) is int and axes:
            origin = reflected_origin(origin, check_size(size), checked=checked)
            return self._replace(origin=origin, axes=axes)
        origins = per_axis(origin, len(axes))
        if footprint is not None:
            sizes: Sequence[int] = footprint.shape
        elif structure is not None:
            sizes = structure.shape
        else:
            sizes = [check_size(k) for k in per_axis(size, len(axes), "size")]
        if len(sizes) < len(axes):
            name = "footprint" if footprint is not None else "structure"
            raise wrong_rank(name, sizes, len(axes))
        pairs = zip(origins, sizes[: len(axes)], strict=True)
        if structure is not None:
            structure = _mirrored(structure)
            factors = factors and tuple(factor[::-1] for factor in factors)
        return WindowArguments(
            size,
            None if footprint is None else _mirrored(footprint),
            structure,
            factors,
            self.mode,
            self.cval,
            [reflected_origin(o, k, checked=checked) for o, k in pairs],
            axes,
        )

    def resolve(self, ndim: int, dtype: np.dtype, minimum: bool) -> Window:
        """The window of a minimum (or maximum) on all axes of an array of that dtype."""
        axes = check_axes(self.axes, ndim)
        footprint, structure = self.footprint, self.structure
        if structure is not None and dtype.kind == "b":
            footprint, structure = _boolean_footprint(footprint, structure), None
        if structure is not None or (footprint is not None and not footprint.all()):
            # As in SciPy, the constant is a number of the input's dtype here.
            cval = constant(self.cval, dtype, minimum)[()]
            return self._resolve_taps(footprint, structure, axes, ndim, cval, minimum)
        size, mode, origin = self.size, self.mode, self.origin
        if footprint is None and type(size) is int and type(mode) is str and type(origin) is int:
            return Window(*_equal_sides(size, mode, origin, axes, ndim), self.cval)
        if footprint is None:
            sizes = [_size_of_box(k) for k in per_axis(size, len(axes), "size")]
        else:
            sizes = per_axis(footprint.shape, len(axes), "footprint")
        origins = per_axis(origin, len(axes))
        modes = per_axis(mode, len(axes), "mode")
        return Window(*_placed_box(sizes, modes, origins, axes, ndim), self.cval)

    def _resolve_taps(
        self,
        footprint: np.ndarray | None,
        structure: np.ndarray | None,
        axes: tuple[int, ...],
        ndim: int,
        cval: Any,
        minimum: bool,
    ) -> Window:
        """A footprint, a structure, or a structure of which only a footprint's taps take part."""
        name = "footprint"
        if footprint is None:
            assert structure is not None
            name, footprint = "structure", np.ones(structure.shape, np.bool_)
            if not footprint.size:
                raise RuntimeError(f"structure must not be empty, got shape {structure.shape}")
        origins = per_axis(self.origin, len(axes))
        if len(axes) < ndim:
            origins = on_axes(origins, axes, ndim, 0)
        taps = expanded(footprint, axes, ndim, name)
        before = tuple([positions_before(k, o) for k, o in zip(taps.shape, origins, strict=True)])
        if structure is not None:
            structure = _placed_structure(structure, taps, axes, ndim)
        if not isinstance(self.mode, str) and isinstance(self.mode, Iterable):
            modes = [check_mode(mode) for mode in per_axis(self.mode, len(axes), "mode")]
            rules = tuple(on_axes(modes, axes, ndim, "constant"))
        else:
            rules = (check_mode(self.mode),) * ndim
        if structure is None:
            return Window(taps.shape, before, rules, cval, taps)
        factors = None
        if len(axes) > 1 and self.factors and all(f.dtype.kind == "f" for f in self.factors):
            placed = on_axes(self.factors, sorted(axes), ndim, None)
            factors = tuple(f if f is None or not minimum else -f for f in placed)
        values = added_values(structure[taps], minimum)
        return Window(taps.shape, before, rules, cval, taps, values, factors)


def window_arguments(
    input: Array,
    size: Any,
    footprint: Any,
    structure: Any,
    mode: Any,
    cval: Any,
    origin: Any,
    axes: Any,
) -> WindowArguments:
    """SciPy's arguments of a window for an image, which must be real; arrays as NumPy's."""
    require_real(input)
    factors = getattr(structure, "factors", None) if footprint is None else None
    if structure is not None:
        structure = as_numpy(structure, name="structure")
        require_real(structure, "Complex type not supported for structure")
        if structure.dtype.kind not in "biuf":
            structure = as_numpy(structure, np.float64, "structure")
    if footprint is not None:
        footprint = as_numpy(footprint, bool, "footprint")
        if not footprint.any():
            error = ValueError if footprint.size or structure is None else RuntimeError
            raise error(f"All-zero footprint is not supported: got one of shape {footprint.shape}")
    elif structure is None and size is None:
        raise RuntimeError("no footprint provided: pass size= or footprint=")
    cval = check_constant(cval)
    return WindowArguments(size, footprint, structure, factors, mode, cval, origin, axes)


def _mirrored(array: np.ndarray) -> np.ndarray:
    return array[(slice(None, None, -1),) * array.ndim]


def _size_of_box(size: Any) -> int:
    """A checked size; SciPy cuts a fraction off, where the window is not reflected."""
    if type(size) is not int and isinstance(size, (float, np.floating)) and math.isfinite(size):
        size = int(size)
    return check_size(size)


def _placed_box(
    sizes: Sequence[int],
    modes: Sequence[Any],
    origins: Sequence[Any],
    axes: tuple[int, ...],
    ndim: int,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """Shape, before and rules of a box, each of `axes` with its own; sizes below 2 are 1."""
    shape, before, rules = [1] * ndim, [0] * ndim, ["constant"] * ndim
    for axis, k, mode, origin in zip(axes, sizes, modes, origins, strict=True):
        if k > 1:
            shape[axis], before[axis] = k, positions_before(k, origin)
            rules[axis] = check_mode(mode)
    return tuple(shape), tuple(before), tuple(rules)


@lru_cache(maxsize=256)  # a fifth of the time that a filter of a small image takes
def _equal_sides(
    size: int, mode: str, origin: int, axes: tuple[int, ...], ndim: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """The same for a box with one size, mode and origin for all of `axes`."""
    check_size(size)
    count = len(axes)
    return _placed_box([size] * count, [mode] * count, [origin] * count, axes, ndim)


def _boolean_footprint(footprint: np.ndarray | None, structure: np.ndarray) -> np.ndarray:
    """The set that a structure is to a bool image: its taps that are not zero.

    A structure of nothing but zeros, which is flat to the arithmetic of numbers, is all of them.
    """
    taps = structure != 0
    if not taps.any():
        taps = np.ones(structure.shape, np.bool_)
    if footprint is not None:
        if footprint.shape != taps.shape:
            raise _other_shape(taps.shape, footprint.shape)
        taps &= footprint
        if not taps.any():
            raise ValueError("All-zero footprint is not supported.")
    return taps


def _placed_structure(
    structure: np.ndarray, taps: np.ndarray, axes: tuple[int, ...], ndim: int
) -> np.ndarray:
    """The structure on all axes of the array, of the shape of its taps there."""
    if structure.ndim != len(axes):
        raise RuntimeError(
            f"structure array has incorrect shape: {structure.ndim} axes for {len(axes)}"
        )
    structure = expanded(structure, axes, ndim, "structure")
    if structure.shape != taps.shape:
        raise _other_shape(structure.shape, taps.shape)
    return structure


def _other_shape(structure: tuple[int, ...], footprint: tuple[int, ...]) -> RuntimeError:
    return RuntimeError(
        f"structure array has incorrect shape: {structure} with a footprint of {footprint}"
    )


def added_values(values: np.ndarray, minimum: bool) -> np.ndarray:
    """A structure's values as they are added, int64 or float64: negated in an erosion."""
    if values.dtype.kind in "biu":
        if values.dtype == np.uint64 and int(values.max(initial=0)) >= 2**63:
            values = values.astype(np.float64)
        else:
            values = values.astype(np.int64)
            if minimum and int(values.min(initial=0)) == -(2**63):
                values = values.astype(np.float64)
    else:
        values = values.astype(np.float64)
    return -values if minimum else values


def constant(cval: Any, dtype: np.dtype, minimum: bool) -> np.ndarray:
    """The constant beyond the border as a number of the dtype: towards zero, then saturated."""
    if dtype.kind not in "biu":
        if -_HALF_MAX <= cval <= _HALF_MAX:  # fits all of them, and errstate takes a microsecond
            return np.array(cval, dtype)
        with np.errstate(over="ignore"):
            return np.array(cval, dtype)
    low, high = _range(dtype)
    if cval != cval:  # NaN is never selected
        return np.array(high if minimum else low, dtype)
    return np.array(min(max(low, cval), high), dtype)


@cache
def _range(dtype: np.dtype) -> tuple[int, int]:
    """The least and the largest number of an integer dtype or bool."""
    if dtype.kind == "b":
        return 0, 1
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
