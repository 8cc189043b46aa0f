"""The primitives of this package: extrema over boxes, footprints and structures; sums; spreading.

Every public function is a composition of these. They choose the algorithm, and `backend_for` who
runs it: ``host``, ``cuda``, or array operations in ``reference``. No SciPy conventions here.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from semiconv_cupy.backends.device import cupy_device
from semiconv_cupy.backends.host.compiler import missing_compiler
from semiconv_cupy.backends.place import Place
from semiconv_cupy.errors import warn_once
from semiconv_cupy.ndimage import cuda, host, reference
from semiconv_cupy.ndimage.addends import Addends, addends_of
from semiconv_cupy.ndimage.balls import Ball, ball_of, padding
from semiconv_cupy.ndimage.borders import farthest, shows_constant
from semiconv_cupy.ndimage.caching import cached_where, is_small_footprint
from semiconv_cupy.ndimage.lines import Pass, squares_of
from semiconv_cupy.ndimage.window import WeightedTaps, Window, constant
from semiconv_cupy.structs import MAX_RANK

_log = logging.getLogger(__name__)
Array = Any


class Backend(Protocol):
    """Who computes the primitives, for arrays that have elements and are C-contiguous.

    ``host`` and ``reference`` are modules with these functions, ``cuda.Backend`` has them as
    methods. Some exist as calls, too (`box_call`): prepared for one shape and dtype.
    """

    def box(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """The extremum over a box no longer than the array; `outside` is 0-d, of its dtype."""

    def footprint(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """The extremum over the window's taps, of which there is at least one."""

    def structure(self, array: Array, window: Window, addends: Addends, minimum: bool) -> Array:
        """The extremum of element + addend over the window's taps."""

    def correlate(self, array: Array, window: Window, taps: WeightedTaps, out: Array) -> None:
        """Weighted sums in double into `out`, C-contiguous and of any supported dtype."""

    def reconstruct(self, seed: Array, mask: Array, steps: np.ndarray, minimum: bool) -> Array:
        """What spreads from `seed` within `mask` by `steps`, one row of offsets each."""

    def nearest(self, unset: Array, step: Pass) -> None:
        """The costs of the distances to the nearest False along the last axis, of a bool array."""

    def parabolas(self, array: Array, step: Pass) -> None:
        """The extremum of element and cost along an axis; of any supported dtype but bool."""

    def chamfer(
        self, unset: Array, steps: np.ndarray, features: bool
    ) -> tuple[Array, Array | None]:
        """Distances in steps to the nearest False of a bool array, and its flat index, in int32.

        Both are -1 where no step leads. One row of `steps` says how far an element lies that comes
        earlier in raster order: the first scan pulls from there, the second from the opposite ones.
        """


Primitive: TypeAlias = Literal[
    "box", "footprint", "structure", "correlate", "reconstruct", "nearest", "parabolas",
    "chamfer",
]  # fmt: skip
_chosen: ContextVar[Backend | None] = ContextVar("backend", default=None)


@contextmanager
def served_by(backend: Backend) -> Iterator[None]:
    """A context in which all primitives run on one backend, which must take the arrays given."""
    token = _chosen.set(backend)
    try:
        yield
    finally:
        _chosen.reset(token)


def planner(place: Place) -> tuple[Hashable, ...] | None:
    """Who plans calls on arrays of this place, to find them by; None where none are to be kept.

    A plan for a GPU has arrays on it, and belongs to the stream that is current now.
    """
    backend = _chosen.get()
    if backend is None:
        if not place.on_gpu:
            return ()
        backend = cuda.Backend(place.device or cupy_device())
    return backend.planner() if isinstance(backend, cuda.Backend) else None


def backend_for(place: Place, primitive: Primitive, dtype: np.dtype, ndim: int = 1) -> Backend:
    """Who computes a primitive of arrays of this place, dtype and rank."""
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    found: Backend = reference
    way = "array loops"
    if 1 <= ndim <= MAX_RANK:
        if place.on_gpu:
            found, way = cuda.Backend(place.device or cupy_device()), "cuda"
        elif host.serves(primitive, dtype):
            found, way = host, "host"
        else:
            reason = missing_compiler()
            way = f"{way}, as {reason}"
            warn_once(
                "array loops of ndimage",
                f"semiconv_cupy.ndimage runs as slow array loops: {reason}",
            )
    _log.debug("%s of %s in %d axes: %s", primitive, dtype, ndim, way)
    return found


class Call(Protocol):
    """A primitive for arrays of one shape and dtype."""

    def __call__(self, array: Array, out: Array | None = None, /) -> Array:
        """The result: `out` if that is given and the call can write to it, else a new array.

        `out` is C-contiguous, like the array, and shares no memory with it.
        """


SumCall: TypeAlias = Callable[[Array, Array, Array | None], None]


def _call_of(
    place: Place,
    primitive: Literal["box", "footprint", "structure"],
    like: Array,
    *others: Any,
) -> Call:
    """A primitive for arrays of one shape and dtype; who can prepares all but the addresses."""
    backend = backend_for(place, primitive, like.dtype, like.ndim)
    prepare: Callable[..., Call] | None = getattr(backend, f"{primitive}_call", None)
    if prepare is not None:
        return prepare(like.shape, like.dtype, *others)
    run = getattr(backend, primitive)
    return lambda array, out=None: run(array, *others)


def extremum(place: Place, array: Array, window: Window, minimum: bool) -> Array:
    """The minimum or maximum of what the window sees, as a new array of the array's dtype."""
    return extremum_call(place, array, window, minimum)(array)


def extremum_call(place: Place, like: Array, window: Window, minimum: bool) -> Call:
    """What computes `extremum` of arrays of one shape and dtype, while the same backend serves."""
    if window.taps is None:
        return box_call(place, like, window, minimum)
    if window.values is not None:
        factors = window.factors
        if (
            factors is not None
            and like.dtype in (np.float32, np.float64)
            and all(f is None or f.dtype == like.dtype for f in factors)
        ):
            return lambda array, out=None: _factor_by_factor(place, array, window, minimum)
    if window.ignoring() and window.showing_cval():
        return lambda array, out=None: _beside_constants(place, array, window, minimum)
    if window.values is not None:
        return _structure_call(place, like, window, minimum)
    may_be_ball = like.dtype == np.bool_ and like.size > 0 and not place.on_gpu
    ball = ball_of(window) if may_be_ball else None
    if ball is not None:
        return lambda array, out=None: _by_distances(place, array, window, ball, minimum)
    return _footprint_call(place, like, window, minimum)


def _by_distances(place: Place, array: Array, window: Window, ball: Ball, minimum: bool) -> Array:
    """The extremum of a bool array over a ball: where the nearest element that wins lies in it."""
    xp, sides = place.array_module, padding(window, minimum)
    inner = tuple(slice(b, b + n) for (b, _), n in zip(sides, array.shape, strict=True))
    if any(map(any, sides)):
        array = xp.pad(array, sides, constant_values=not minimum)
    unset = array if minimum else ~array
    along = squares_of(array.shape, list(ball.steps))
    found = xp.empty(array.shape, np.float32 if along.single else np.float64)
    for axis in range(array.ndim - 1, -1, -1):
        step = Pass(axis, along.tables[axis], found, exact=along.exact)
        if axis == array.ndim - 1:
            nearest(place, xp.ascontiguousarray(unset), step)
        else:
            parabolas(place, found, step)
    within = found[inner] <= ball.square
    return xp.ascontiguousarray(~within if minimum else within)


def _outside(window: Window, dtype: np.dtype, minimum: bool) -> np.ndarray:
    """The number beyond the borders that show no element, as a 0-d array of the dtype.

    Where they take no part this is the value that never wins. No window has borders of both kinds
    here: see `box_call` and `_beside_constants`.
    """
    if window.ignoring():
        return np.array(reference.worst(dtype, minimum), dtype)
    return constant(window.cval, dtype, minimum)


def _beside_constants(place: Place, array: Array, window: Window, minimum: bool) -> Array:
    """`extremum` with a constant beyond some borders, where others take no part.

    The array is copied with the constants around it, which are elements then.
    """
    xp = place.array_module
    constants = window.showing_cval()
    rules = list(window.rules)
    sides, inner = [(0, 0)] * array.ndim, [slice(None)] * array.ndim
    for axis in constants:
        before, after = window.before[axis], window.after[axis]
        sides[axis], rules[axis] = (before, after), "ignore"
        inner[axis] = slice(before, before + array.shape[axis])
    outside = constant(window.cval, array.dtype, minimum)[()]
    wide = xp.ascontiguousarray(xp.pad(array, sides, constant_values=outside))
    result = extremum(place, wide, window._replace(rules=tuple(rules)), minimum)
    return xp.ascontiguousarray(result[tuple(inner)])


def box(place: Place, array: Array, window: Window, minimum: bool) -> Array:
    """The extremum over a box, as a new array."""
    return box_call(place, array, window, minimum)(array)


def _copy(array: Array, out: Array | None = None) -> Array:
    return array.copy()


def box_call(place: Place, like: Array, window: Window, minimum: bool) -> Call:
    """What computes `box` of arrays of one shape and dtype, while the same backend serves."""
    if like.size == 0 or max(window.shape, default=1) == 1:
        return _copy
    ignoring = window.ignoring()
    if ignoring and window.showing_cval():
        others = tuple(axis for axis in range(like.ndim) if axis not in ignoring)
        first = box_call(place, like, window.without(others), minimum)
        then = box_call(place, like, window.without(ignoring), minimum)
        return lambda array, out=None: then(first(array), out)
    outside = _outside(window, like.dtype, minimum)
    if any(map(operator.gt, window.shape, like.shape)):
        return lambda array, out=None: _long_box(place, array, window, outside, minimum)
    return _call_of(place, "box", like, window, outside, minimum)


def _long_box(
    place: Place, array: Array, window: Window, outside: np.ndarray, minimum: bool
) -> Array:
    """`box` where a window is longer than its axis, in time and memory that depend on neither.

    Where every output sees its whole axis and both borders, all outputs are equal: the axis is
    reduced to one. Along the others, the window is cut to what `borders.farthest` says.
    """
    xp = place.array_module
    whole, reaches = [], []
    sides = zip(array.shape, window.before, window.after, window.rules, strict=True)
    for axis, (n, before, after, rule) in enumerate(sides):
        if min(before, after) >= max(n - 1, 1):
            whole.append(axis)
            reaches.append((0, 0))
        else:
            reaches.append(farthest(n, before, after, rule))
    result = array
    if whole:
        result = reference.extremum_along(xp, array, tuple(whole), minimum)
        if any(shows_constant(window.rules[axis]) for axis in whole):
            result = reference.better(xp, result, outside[()], minimum)
    shape = tuple(before + 1 + after for before, after in reaches)
    if any(k > 1 for k in shape):
        cut = Window(shape, tuple(before for before, _ in reaches), window.rules, window.cval)
        backend = backend_for(place, "box", array.dtype, array.ndim)
        result = backend.box(xp.ascontiguousarray(result), cut, outside, minimum)
    return xp.broadcast_to(result, array.shape).copy() if whole else result


def _footprint_call(place: Place, like: Array, window: Window, minimum: bool) -> Call:
    """The extremum over a footprint, which must have a tap, as a new array."""
    if like.size == 0:
        return _copy
    assert window.taps is not None
    shape, before, taps = _trimmed(window.taps.tobytes(), window.shape, window.before)
    trimmed = Window(shape, before, window.rules, window.cval, taps)
    if taps is None:
        return box_call(place, like, trimmed, minimum)
    outside = _outside(window, like.dtype, minimum)
    return _call_of(place, "footprint", like, trimmed, outside, minimum)


@cached_where(is_small_footprint, 64)
def _trimmed(
    taps: bytes, shape: tuple[int, ...], before: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray | None]:
    """Shape, before and taps of a footprint without outer rows and columns that have no tap.

    These would only enlarge the scratch. What is left still contains the output's own position; the
    taps are None where it is a box.
    """
    footprint = np.frombuffer(taps, np.bool_).reshape(shape)
    kept, begins = [], []
    for axis, own in enumerate(before):
        others = tuple(a for a in range(len(shape)) if a != axis)
        used = np.flatnonzero(footprint.any(axis=others))
        first, last = min(int(used[0]), own), max(int(used[-1]), own)
        kept.append(slice(first, last + 1))
        begins.append(own - first)
    trimmed = np.ascontiguousarray(footprint[tuple(kept)])
    return trimmed.shape, tuple(begins), None if trimmed.all() else trimmed


def structure(place: Place, array: Array, window: Window, minimum: bool) -> Array:
    """The extremum of element + value over the window's taps, as a new array; integers saturate.

    Values are added, in a minimum too.
    """
    return _structure_call(place, array, window, minimum)(array)


def _structure_call(place: Place, like: Array, window: Window, minimum: bool) -> Call:
    if like.size == 0:
        return _copy
    assert window.values is not None
    absent = bool(window.ignoring())
    addends = addends_of(like.dtype, window.values, window.cval, minimum, absent)
    return _call_of(place, "structure", like, window, addends, minimum)


def _factor_by_factor(place: Place, array: Array, window: Window, minimum: bool) -> Array:
    """A structure that is an outer sum, one axis after another: O(N K) instead of O(N K^2)."""
    assert window.factors is not None
    cval, ignoring = window.cval, window.ignoring()
    # Borders that take no part come last: what lies beyond the others then is what all taps of
    # these make of the constant, and not what they find of it beside such a border.
    for axis in sorted(range(array.ndim), key=ignoring.__contains__):
        factor = window.factors[axis]
        if factor is None:
            continue
        line = Window.along(
            axis, array.ndim, len(factor), window.before[axis], window.rules[axis], cval
        )
        values = factor.astype(np.float64)
        # The other axes, of length 1, see no border.
        line = line._replace(taps=np.ones(line.shape, np.bool_), values=values)
        array = structure(place, array, line, minimum)
        # What this axis has made of the constant lies beyond the borders of the others.
        cval = cval + (values.min() if minimum else values.max())
    return array


def correlate_call(
    place: Place, like: Array, window: Window, taps: WeightedTaps, dtype: np.dtype
) -> SumCall:
    """What sums weight * element over taps, in double and in their order.

    It is called with an array like this one, the output, C-contiguous and of that dtype, and the
    weights where the taps are `unread`.
    """
    if not like.size:
        return lambda array, out, weights: None
    backend = backend_for(place, "correlate", like.dtype, like.ndim)
    if isinstance(backend, cuda.Backend):
        return backend.correlate_call(like.shape, like.dtype, window, taps, dtype)

    def call(array: Array, out: Array, weights: Array | None) -> None:
        given = taps if weights is None else taps._replace(weights=weights)
        backend.correlate(array, window, given, out)

    return call


def reconstruct(place: Place, seed: Array, mask: Array, steps: np.ndarray, minimum: bool) -> Array:
    """What `seed` becomes when its values spread by `steps` within `mask` until nothing changes."""
    if seed.size == 0 or len(steps) == 0:
        return seed.copy()
    return backend_for(place, "reconstruct", seed.dtype, seed.ndim).reconstruct(
        seed, mask, steps, minimum
    )


def nearest(place: Place, unset: Array, step: Pass) -> None:
    """How far the nearest False lies along the last axis of a C-contiguous bool array."""
    if unset.size:
        backend_for(place, "nearest", unset.dtype).nearest(unset, step)


def parabolas(place: Place, array: Array, step: Pass) -> None:
    """The minimum of element + cost, or maximum of element - cost, along one axis of any array."""
    if array.size:
        backend_for(place, "parabolas", array.dtype).parabolas(array, step)


def chamfer(
    place: Place, unset: Array, steps: np.ndarray, features: bool
) -> tuple[Array, Array | None]:
    """Distances in steps to the nearest False of a C-contiguous bool array, and its flat index."""
    if unset.size == 0:
        none = place.array_module.empty(unset.shape, np.int32)
        return none, none if features else None
    return backend_for(place, "chamfer", unset.dtype, unset.ndim).chamfer(unset, steps, features)
