"""The primitives on NumPy arrays: calls of compiled ``kernels_cu/host`` by ctypes.

The functions of `neighbourhood.Backend`, for C-contiguous arrays of a supported dtype and checked
arguments; what they return is a new array. Those of selections exist as calls, too: all but the
addresses is prepared for one shape and dtype.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.backends.host import prebuilt
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.caching import cached_where, is_small_footprint
from semiconv_cupy.ndimage.form import FilterForm, filter_form
from semiconv_cupy.ndimage.lines import Pass
from semiconv_cupy.ndimage.structs import Axes, Box, Lines, Mapped, Pair, Sizes, TablePair, Tables
from semiconv_cupy.ndimage.window import WeightedTaps, Window
from semiconv_cupy.structs import MAX_RANK

_POINTER, _COUNT, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_ARGUMENTS: dict[str, dict[str, tuple[type, ...]]] = {
    "flat": {
        "semiconv_flat": (_POINTER,) * 4 + (_FLAG, _FLAG),
        "semiconv_footprint": (*(_POINTER,) * 2, _COUNT, _COUNT, *(_POINTER,) * 3, _FLAG, _FLAG),
    },
    "structure": {
        "semiconv_structure": (
            *(_POINTER,) * 4, _COUNT, *(_POINTER,) * 3, _FLAG, _FLAG, _FLAG, _FLAG,
        ),
    },
    "correlate": {
        "semiconv_correlate": (
            *(_POINTER,) * 3, _COUNT, _FLAG, _POINTER, _FLAG, _POINTER, _FLAG, ctypes.c_double,
            _FLAG,
        ),
    },
    "parabolas": {
        "semiconv_parabolas": (
            *(_POINTER,) * 2, _COUNT, _COUNT, _POINTER, _FLAG, _POINTER, _FLAG, _POINTER, _POINTER,
            _COUNT, *(_FLAG,) * 4,
        ),
        "semiconv_nearest": (*(_POINTER,) * 5, _FLAG, _FLAG),
    },
    "chamfer": {"semiconv_chamfer": (*(_POINTER,) * 2, _COUNT, *(_POINTER,) * 3)},
    "reconstruct": {
        "semiconv_reconstruct": (*(_POINTER,) * 2, _COUNT, _COUNT, *(_POINTER,) * 3, _FLAG),
    },
}  # fmt: skip
# The codes of SEMICONV_EACH_TYPE in kernels_cu/host/types.hpp.
_TYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    "bfloat16", "float32", "float64",
)  # fmt: skip
# The parts of which one object serves elements of all dtypes, and the dtype that it computes in.
_FOR_ALL = {"correlate": "float64", "parabolas": "float64", "chamfer": "int32"}
TYPE_CODES = {name: code for code, name in enumerate(_TYPES)}

_libraries: dict[tuple[str, np.dtype], host.Library] = {}


def _library(part: str, dtype: np.dtype) -> host.Library:
    """The compiled functions of ``kernels_cu/host/<part>.cpp`` for a storage dtype."""
    found = _libraries.get((part, dtype))
    if found is None:
        found = host.open_library(*source_of(part, dtype), _ARGUMENTS[part])
        _libraries[part, dtype] = found
    return found


def source_of(part: str, dtype: np.dtype) -> tuple[str, str]:
    """The text of a library and its name in messages, as `libraries.build` takes them."""
    storage = dtype.name
    text = source.assemble(f"host/{part}.cpp", source.storage_macros(storage))
    return text, library_name(part, dtype)


def serves(primitive: str, dtype: np.dtype) -> bool:
    """Whether a primitive's library can be had: ready-made, or by a compiler."""
    return prebuilt.serves(source_of(*part_of(primitive, dtype))[0])


def sources(storages: Sequence[str] | None = None) -> Iterator[source.HostSource]:
    """The sources of the primitives' libraries, for the given dtypes or for all that NumPy has."""
    chosen = [name for name in storages or _TYPES if name != "bfloat16"]
    for part, functions in _ARGUMENTS.items():
        for storage in [_FOR_ALL[part]] if part in _FOR_ALL else chosen:
            if (part, storage) != ("structure", "bool"):  # whose values are added as uint8
                exports = (*source.COMMON_EXPORTS, *functions)
                yield source.HostSource(*source_of(part, np.dtype(storage)), exports)


def library_name(part: str, dtype: np.dtype) -> str:
    """The name of a library in messages and in explanations."""
    return f"{part} on {dtype.name}"


def part_of(primitive: str, dtype: np.dtype) -> tuple[str, np.dtype]:
    """Which of kernels_cu/host/*.cpp computes a primitive, and compiled for which dtype."""
    part = {"box": "flat", "footprint": "flat", "nearest": "parabolas"}.get(primitive, primitive)
    return part, np.dtype(_FOR_ALL.get(part, dtype))


# A struct points to the tables that are kept beside it.
_Tables = tuple[np.ndarray | None, ...]


# The shortest rows along which registers run, in elements and in bytes of lanes. Of shorter ones
# most lanes fall beyond the end, and another axis is faster although its elements are gathered one
# by one: of windows of 3 x 3 x 3 on (200, 200, n), n = 5, boxes took 3.0 ns an output instead of
# 7.0 (float32), footprints 3.0 instead of 13 (uint8), structures 4.2 instead of 9.2 (float32),
# correlations 12 instead of 18. Nothing was gained at n = 16 (float32, correlations) and 24
# (uint8), nor where arrays are so small that the call takes as long.
_LEAST_ELEMENTS, _LEAST_BYTES, _LEAST_DOUBLES, _SMALL_ARRAY = 20, 40, 12, 4096


def _least(lane: int) -> int:
    """The elements of the shortest row for lanes of so many bytes."""
    return min(_LEAST_ELEMENTS, _LEAST_BYTES // lane)


def _form(shape: tuple[int, ...], window: Window, least: int) -> FilterForm:
    if math.prod(shape) < _SMALL_ARRAY:
        least = 1
    return filter_form(shape, window.shape, window.before, window.rules, least)


def form_of(primitive: str, array: np.ndarray, window: Window, *others: object) -> FilterForm:
    """The form in which a primitive is computed, of the arguments that it takes."""
    if primitive == "correlate":
        return _form(array.shape, window, _LEAST_DOUBLES)
    addends = others[0] if others else None
    lane = addends.values.itemsize if isinstance(addends, Addends) else array.itemsize
    return _form(array.shape, window, _least(lane))


def _has_small_tables(form: FilterForm) -> bool:
    """Whether a window's tables of positions beyond the border are small enough to be kept."""
    return sum(form.window) <= 4096


@cached_where(_has_small_tables, 256)
def _mapped(form: FilterForm) -> tuple[Mapped, _Tables]:
    """The struct and the tables that it points to."""
    rank = len(form.shape)
    tables = tuple(form.beyond(axis) for axis in range(rank))
    addresses = Tables(*(table.ctypes.data for table in tables))
    window, before = Axes(*form.window_in_elements()), Axes(*form.before_in_elements())
    size, stride = Axes(*form.shape), Axes(*form.strides)
    return Mapped(rank, size, window, before, stride, addresses, form.unit), tables


@cached_where(_has_small_tables, 256)
def _box_passes(form: FilterForm) -> tuple[tuple[Box, _Tables], ...]:
    """The structs of a box's passes over planes, each with the tables that it points to.

    The last two axes are filtered in one pass where both have a window, each other axis in a pass
    of its own.
    """
    passes = []
    shape, extents, begins = form.shape, form.window_in_elements(), form.before_in_elements()
    last = len(shape) - 1

    def add(planes: int, rows: int, columns: int, *axes: int | None) -> None:
        """A pass with windows along these axes, down and across."""
        window = Pair(*(1 if a is None else extents[a] for a in axes))
        before = Pair(*(0 if a is None else begins[a] for a in axes))
        tables = tuple(None if a is None else form.beyond(a) for a in axes)
        addresses = TablePair(*(None if table is None else host.address(table) for table in tables))
        unit = 1 if axes[1] is None else form.unit
        passes.append((Box(planes, rows, columns, window, before, addresses, unit), tables))

    axes = [a for a, k in enumerate(form.window) if k > 1]
    if last in axes:
        axes.pop()
        if axes and axes[-1] == last - 1:
            axes.pop()
            add(math.prod(shape[:-2]), shape[-2], shape[-1], last - 1, last)
        else:
            add(1, math.prod(shape[:-1]), shape[-1], None, last)
    for a in reversed(axes):
        add(math.prod(shape[:a]), shape[a], math.prod(shape[a + 1 :]), a, None)
    return tuple(passes)


# Bytes that pass through registers in about a millisecond. For less work a second thread does not
# pay: on a busy machine it may start only after the first one has finished.
_SMALL_WORK = 1 << 26


def _threads(work: int) -> int:
    """How many threads share a work of so many bytes."""
    return 1 if work < _SMALL_WORK else host.threads()


Call: TypeAlias = Callable[[np.ndarray], np.ndarray]


def box(array: np.ndarray, window: Window, outside: np.ndarray, minimum: bool) -> np.ndarray:
    """The extremum over a box; `outside` is a 0-d array of the array's dtype."""
    return box_call(array.shape, array.dtype, window, outside, minimum)(array)


def box_call(
    shape: tuple[int, ...], dtype: np.dtype, window: Window, outside: np.ndarray, minimum: bool
) -> Call:
    """What computes `box` of arrays of that shape and dtype."""
    form = _form(shape, window, _least(dtype.itemsize))
    if form.strides[-1] > 1:
        return _box_of_short_rows(shape, dtype, window, form, outside, minimum)
    run, passes = _library("flat", dtype).semiconv_flat, _box_passes(form)
    threads = _threads(16 * len(passes) * math.prod(shape) * dtype.itemsize)
    flag, later = int(minimum), len(passes) - 1

    def call(array: np.ndarray) -> np.ndarray:
        out = np.empty_like(array)
        spare = np.empty_like(array) if later else out
        given = array
        for number, (struct, _) in enumerate(passes):
            to = spare if (later - number) % 2 else out
            status = run(
                ctypes.byref(struct), host.address(given), host.address(to), host.address(outside),
                flag, threads,
            )  # fmt: skip
            host.check(status, "a flat filter")
            given = to
        return out

    return call


# Look-ups of a footprint that take no longer than one more pass over the array.
_FEW_LOOKUPS = 16


def _box_of_short_rows(
    shape: tuple[int, ...],
    dtype: np.dtype,
    window: Window,
    form: FilterForm,
    outside: np.ndarray,
    minimum: bool,
) -> Call:
    """`box_call` where rows are so short that registers run along another axis.

    A small box is one footprint. Of a larger one the rows are: all else is a box before.
    """
    axes = [a for a, k in enumerate(window.shape) if k > 1]
    before = None
    if len(axes) > 1 and math.prod(form.window[:-1]) > _FEW_LOOKUPS:
        before = box_call(shape, dtype, window.without(axes[-1:]), outside, minimum)
        window = window.without(axes[:-1])
    whole = window._replace(taps=np.ones(window.shape, np.bool_))
    rows = footprint_call(shape, dtype, whole, outside, minimum)
    return rows if before is None else lambda array: rows(before(array))


@cached_where(is_small_footprint, 64)
def _lookups(
    footprint: bytes, shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[np.ndarray, int]:
    """The look-ups of a footprint along these axes, and the number of levels.

    A run of taps along the last of the axes, of length L, is the better of two windows of
    2 ** level elements, level = floor(log2 L), which may overlap; of one where L is a power of two.
    The kernel keeps for each level the extrema of 2 ** level neighbours. One row of the look-ups
    says the level, and at which index of the footprint a window begins::

        taps     . 1 1 1 1 1 .     L = 5, level 2
        windows    a a a a         begins at index 1
                     b b b b       begins at index 1 + 5 - 4 = 2
    """
    others = tuple(a for a in range(len(shape)) if a not in axes)
    taps = np.frombuffer(footprint, np.bool_).reshape(shape).transpose(axes + others)
    taps = taps.reshape(taps.shape[: len(axes)])
    edges = np.diff(np.pad(taps, [(0, 0)] * (taps.ndim - 1) + [(1, 1)]).view(np.int8), axis=-1)
    begins, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    lengths = ends[:, -1] - begins[:, -1]
    levels = np.frexp(lengths)[1] - 1
    index = np.zeros((len(begins), 1 + MAX_RANK), np.int64)
    index[:, 0] = levels
    index[:, 1 : 1 + taps.ndim] = begins
    second = index[lengths > 1 << levels]
    second[:, taps.ndim] += (lengths - (1 << levels))[lengths > 1 << levels]
    both = np.concatenate([index, second])
    both = both[np.lexsort(both.T[::-1])]
    return np.ascontiguousarray(both), int(levels.max()) + 1


def footprint(array: np.ndarray, window: Window, outside: np.ndarray, minimum: bool) -> np.ndarray:
    """The extremum over any footprint that is not empty."""
    return footprint_call(array.shape, array.dtype, window, outside, minimum)(array)


def footprint_call(
    shape: tuple[int, ...], dtype: np.dtype, window: Window, outside: np.ndarray, minimum: bool
) -> Call:
    """What computes `footprint` of arrays of that shape and dtype."""
    assert window.taps is not None
    run, form = (
        _library("flat", dtype).semiconv_footprint,
        _form(shape, window, _least(dtype.itemsize)),
    )
    lookups, levels = _lookups(window.taps.tobytes(), window.shape, form.windowed)
    mapped = _mapped(form)
    threads = _threads(math.prod(shape) * dtype.itemsize * (4 + len(lookups)))
    flag = int(minimum)

    def call(array: np.ndarray) -> np.ndarray:
        out = np.empty_like(array)
        status = run(
            ctypes.byref(mapped[0]), host.address(lookups), len(lookups), levels,
            host.address(array), host.address(out), host.address(outside), flag, threads,
        )  # fmt: skip
        host.check(status, "a flat filter")
        return out

    return call


@cached_where(is_small_footprint, 64)
def _indices(footprint: bytes, shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """Where the taps of a footprint lie along these axes, one row each in the footprint's order."""
    taps = np.frombuffer(footprint, np.bool_).reshape(shape)
    return np.ascontiguousarray(np.argwhere(taps)[:, axes], np.int64)


def _no_element(array: np.ndarray, minimum: bool) -> np.ndarray:
    """A 64-bit integer that no element of the array equals, as a 0-d array.

    That is the last one to win, or else one of a sequence that goes through all of them (Knuth's
    MMIX generator); arrays are so short that it soon finds one.
    """
    info = np.iinfo(array.dtype)
    extreme, last = (array.max(), info.max) if minimum else (array.min(), info.min)
    number = int(last)
    if int(extreme) == number:
        while True:
            number = (number * 6364136223846793005 + 1442695040888963407) % 2**64
            found = np.array(number, np.uint64).view(array.dtype)
            if not bool((array == found).any()):
                return found
    return np.array(number, array.dtype)


def structure(array: np.ndarray, window: Window, addends: Addends, minimum: bool) -> np.ndarray:
    """The extremum of element + addend over the taps."""
    return structure_call(array.shape, array.dtype, window, addends, minimum)(array)


def structure_call(
    shape: tuple[int, ...], dtype: np.dtype, window: Window, addends: Addends, minimum: bool
) -> Call:
    """What computes `structure` of arrays of that shape and dtype."""
    assert window.taps is not None
    values, outside, itemsize = addends.values, addends.outside, addends.values.itemsize
    run, form = (
        _library("structure", dtype).semiconv_structure,
        _form(shape, window, _least(itemsize)),
    )
    indices = _indices(window.taps.tobytes(), window.shape, form.windowed)
    mapped = _mapped(form)
    first = None if addends.first is None else ctypes.byref(ctypes.c_double(addends.first))
    threads = _threads(itemsize * math.prod(shape) * (8 + len(indices)))
    in_double, flag = int(addends.in_double), int(minimum)
    absent = addends.absent and dtype.kind in "iu" and dtype.itemsize == 8 and not in_double

    def call(array: np.ndarray) -> np.ndarray:
        out = np.empty_like(array)
        beyond = _no_element(array, minimum) if absent else outside
        status = run(
            ctypes.byref(mapped[0]), host.address(indices), host.address(values), first,
            len(indices), host.address(array), host.address(out), host.address(beyond),
            in_double, int(absent), flag, threads,
        )  # fmt: skip
        host.check(status, "a filter by a structure")
        return out

    return call


def correlate(array: np.ndarray, window: Window, taps: WeightedTaps, out: np.ndarray) -> None:
    """Weighted sums into `out`, which is C-contiguous and of any supported dtype."""
    loaded = _library("correlate", np.dtype(np.float64))
    indices, weights, symmetry, _ = taps.read()
    form = _form(array.shape, window, _LEAST_DOUBLES)
    if form.windowed != tuple(range(array.ndim)):
        indices = np.ascontiguousarray(indices[:, form.windowed])
    struct, _ = _mapped(form)
    threads = _threads(8 * array.size * (8 + len(weights)))
    status = loaded.semiconv_correlate(
        ctypes.byref(struct), host.address(indices), host.address(weights), len(weights), symmetry,
        host.address(array), TYPE_CODES[array.dtype.name], host.address(out),
        TYPE_CODES[out.dtype.name], float(window.cval), threads,
    )  # fmt: skip
    host.check(status, "a correlation")


def reconstruct(seed: np.ndarray, mask: np.ndarray, steps: np.ndarray, minimum: bool) -> np.ndarray:
    """What spreads from `seed` within `mask`, by `steps` (one row of offsets each)."""
    loaded = _library("reconstruct", seed.dtype)
    reach = np.abs(steps).max(axis=0, initial=0)
    pitch = np.ones(seed.ndim, np.int64)
    for axis in range(seed.ndim - 2, -1, -1):
        pitch[axis] = pitch[axis + 1] * (seed.shape[axis + 1] + 2 * reach[axis + 1])
    offsets = steps.astype(np.int64) @ pitch
    forward, backward = offsets[offsets > 0], offsets[offsets < 0]
    ordered = np.concatenate([forward, backward])
    struct = Sizes(seed.ndim, Axes(*seed.shape), Axes(*(int(r) for r in reach)))
    out = np.empty_like(seed)
    status = loaded.semiconv_reconstruct(
        ctypes.byref(struct), host.address(ordered), len(forward), len(backward),
        host.address(seed), host.address(mask), host.address(out), int(minimum),
    )  # fmt: skip
    host.check(status, "a reconstruction")
    return out


def nearest(unset: np.ndarray, step: Pass) -> None:
    """How far the nearest False lies along the last axis, into `step.out`."""
    loaded = _library(*part_of("nearest", unset.dtype))
    lines = Lines.along(unset.shape, unset.ndim - 1)
    status = loaded.semiconv_nearest(
        ctypes.byref(lines), host.address(step.costs), host.address(unset), host.address(step.out),
        host.address_or_none(step.winners), step.finish, _threads(64 * unset.size),
    )  # fmt: skip
    host.check(status, "a distance transform")


def parabolas(array: np.ndarray, step: Pass) -> None:
    """The extremum of element - cost along an axis, into `step.out`."""
    loaded = _library(*part_of("parabolas", array.dtype))
    lines = Lines.along(array.shape, step.axis)
    followers = step.followers
    given, stored = step.storages or (array.dtype.name, step.out.dtype.name)
    status = loaded.semiconv_parabolas(
        ctypes.byref(lines), host.address(step.costs), step.groups, step.repeat,
        host.address(array), TYPE_CODES[given], host.address(step.out), TYPE_CODES[stored],
        host.address_or_none(step.winners), host.address_or_none(followers),
        0 if followers is None else len(followers),
        not step.minimum, step.finish, step.exact,
        min(_threads(1024 * array.size), step.threads or host.threads()),
    )  # fmt: skip
    host.check(status, "a filter by parabolas")


def chamfer(unset: np.ndarray, steps: np.ndarray, features: bool) -> tuple[np.ndarray, Any]:
    """Distances in steps to the nearest False, and its flat index, by two raster scans."""
    loaded = _library(*part_of("chamfer", unset.dtype))
    struct = Sizes(unset.ndim, Axes(*unset.shape), Axes())
    distances = np.empty(unset.shape, np.int32)
    reached = np.empty(unset.shape, np.int32) if features else None
    status = loaded.semiconv_chamfer(
        ctypes.byref(struct), host.address(steps), len(steps), host.address(unset),
        host.address(distances), host.address_or_none(reached),
    )  # fmt: skip
    host.check(status, "a distance transform")
    return distances, reached
