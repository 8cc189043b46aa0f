"""The neighbourhood operations on a GPU: picks, compiles and launches ``kernels_cu/cuda``.

Same functions as ``host``, as methods of a `Backend` on a device (of ``backends.cuda``), which is
CuPy's in production and the CPU harness in tests. Called by ``neighbourhood``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.cuda import THREADS, Device, Kernel, elements, forward, tile_of
from semiconv_cupy.backends.host import MAX_RANK
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.borders import positions
from semiconv_cupy.ndimage.sums import Sums
from semiconv_cupy.semifields import SelectSemifield

Array = Any
_OPTIONS = ("-std=c++17", "--device-int128")
_AXES = (np.int64, MAX_RANK)
# semiconv::Neighbourhood of kernels_cu/cuda/neighbourhood.cu.
_NEIGHBOURHOOD = np.dtype(
    [
        ("taps", np.int64), ("outputs", np.int64), ("size", *_AXES),
        ("stride", *_AXES), ("window", *_AXES), ("before", *_AXES), ("table", *_AXES),
    ],
    align=True,
)  # fmt: skip
# semiconv::Bordered of kernels_cu/cuda/border.cu, semiconv::Spread of kernels_cu/cuda/spread.cu.
_BORDERED = np.dtype(
    [
        ("size", *_AXES), ("stride", *_AXES), ("table", *_AXES), ("rows", np.int64),
        ("parts", np.int64),
    ],
    align=True,
)  # fmt: skip
_SPREAD = np.dtype(
    [
        ("size", *_AXES), ("planar", np.int64), ("across", np.int64), ("tiles_y", np.int64),
        ("tiles_x", np.int64),
    ],
    align=True,
)  # fmt: skip
_OF_THREAD = 8  # elements of a row that a thread of border.cu copies
_SIDE, _MOST_REACH = 32, 8  # of spread.cu: a tile's edge, and the steps that shared memory allows
_SHARED_BYTES = 48 * 1024
_MOST_BLOCKS = 2**31 - 1
_DILATION, _EROSION = SelectSemifield.tropical_max(), SelectSemifield.tropical_min_negated()

_kernels: dict[tuple[Any, ...], Kernel] = {}
_uploaded: dict[tuple[Any, ...], Array] = {}
_MOST_UPLOADED = 256


def flat_kernel(storage: str, minimum: bool) -> source.KernelSource:
    """The extremum over a window along one axis."""
    name = f"semiconv_flat_{'minimum' if minimum else 'maximum'}_{storage}"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_MINIMUM": str(minimum).lower(),
    }
    return source.KernelSource(name, source.assemble("cuda/flat.cu", macros), _OPTIONS)


def taps_kernel(
    operation: str,
    storage: str,
    lane: str,
    out: str,
    rank: int,
    minimum: bool = False,
    symmetry: int = 0,
) -> source.KernelSource:
    """The reduction of a list of taps; operation: "flat", "structure", "saturating" or "sum"."""
    which = f"symmetry{symmetry}".replace("-", "_") if operation == "sum" else (
        "minimum" if minimum else "maximum"
    )  # fmt: skip
    name = f"semiconv_{operation}_{which}_{storage}_{lane}_{out}_{rank}d"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_LANE": lane,
        "SEMICONV_RANK": str(rank),
        "SEMICONV_OUT": source.storage_macros(out)["SEMICONV_STORAGE"],
        f"SEMICONV_{operation.upper()}": "",
    }
    if operation == "sum":
        macros["SEMICONV_SYMMETRY"] = str(symmetry)
    else:
        macros["SEMICONV_MINIMUM"] = str(minimum).lower()
    # Without fused multiplications sums are the host's bits.
    options = (*_OPTIONS, "-fmad=false") if operation == "sum" else _OPTIONS
    return source.KernelSource(name, source.assemble("cuda/neighbourhood.cu", macros), options)


def border_kernel(storage: str, rank: int) -> source.KernelSource:
    """The copy of an array with its borders."""
    name = f"semiconv_border_{storage}_{rank}d"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_RANK": str(rank),
    }
    return source.KernelSource(name, source.assemble("cuda/border.cu", macros), _OPTIONS)


def spread_kernel(
    storage: str, rank: int, minimum: bool, reach: tuple[int, int]
) -> source.KernelSource:
    """A part of a reconstruction, for steps of that reach along the last two axes."""
    name = f"semiconv_spread_{'minimum' if minimum else 'maximum'}_{storage}_{rank}d"
    macros = source.storage_macros(storage) | {
        "SEMICONV_KERNEL": name,
        "SEMICONV_RANK": str(rank),
        "SEMICONV_MINIMUM": str(minimum).lower(),
        "SEMICONV_REACH_Y": str(reach[0]),
        "SEMICONV_REACH_X": str(reach[1]),
    }
    return source.KernelSource(name, source.assemble("cuda/spread.cu", macros), _OPTIONS)


def shipping_variants() -> Iterator[source.KernelSource]:
    """A kernel of each kind for the dtypes that differ in it: for the report and the tests."""
    for storage in ("float16", "float32", "float64", "uint8", "int64", "bool"):
        yield flat_kernel(storage, False)
        yield taps_kernel("flat", storage, source.ARITHMETIC[storage], storage, 2, True)
    for storage, lane in (
        ("float16", "float32"), ("float32", "float32"), ("float64", "float64"),
        ("uint8", "int16"), ("int32", "int64"), ("int32", "float64"),
    ):  # fmt: skip
        yield taps_kernel("structure", storage, lane, storage, 2, True)
    yield taps_kernel("saturating", "uint64", "uint64", "uint64", 3)
    for symmetry in (0, 1, -1):
        yield taps_kernel("sum", "float32", "float64", "float32", 2, symmetry=symmetry)
    yield taps_kernel("sum", "uint8", "float64", "bool", 8)
    yield taps_kernel("sum", "float32", "float64", "float16", 1)
    for storage in ("float16", "float32", "uint8"):
        yield border_kernel(storage, 2)
        yield spread_kernel(storage, 2, False, (1, 1))
    yield spread_kernel("float64", 4, True, (_MOST_REACH, _MOST_REACH))


class Backend:
    """The operations on one device's arrays."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def _kernel(self, build: Callable[..., source.KernelSource], *arguments: Any) -> Kernel:
        key = (type(self.device), build, *arguments)
        found = _kernels.get(key)
        if found is None:
            kernel = build(*arguments)
            found = _kernels[key] = self.device.compile(kernel.text, kernel.name, kernel.options)
        return found

    def _there(self, array: np.ndarray) -> Array:
        return self.device.array_module.asarray(np.ascontiguousarray(array))

    def _kept(self, like: Array, key: tuple[Any, ...], make: Callable[[], np.ndarray]) -> Array:
        """A small array on the device of `like`, uploaded once."""
        number = getattr(getattr(like, "device", None), "id", None)
        whole = (type(self.device), number, *key)
        found = _uploaded.get(whole)
        if found is None:
            if len(_uploaded) >= _MOST_UPLOADED:
                _uploaded.clear()
            found = _uploaded[whole] = self._there(make())
        return found

    def box(
        self,
        array: Array,
        window: tuple[int, ...],
        before: tuple[int, ...],
        rules: tuple[str, ...],
        outside: np.ndarray,
        minimum: bool,
    ) -> Array:
        """The extremum over a box, axis by axis."""
        storage = array.dtype.name
        kernel = self._kernel(flat_kernel, storage, minimum)
        real = np.dtype(source.ARITHMETIC[storage])
        for axis, k in enumerate(window):
            if k == 1:
                continue
            size, inner = array.shape[axis], math.prod(array.shape[axis + 1 :])
            outer = math.prod(array.shape[:axis])
            columns = min(inner, 32)
            while True:
                room = _SHARED_BYTES // (2 * real.itemsize * columns) - (k - 1)
                if room >= min(size, k, 64) or columns == 1:
                    break
                columns //= 2
            if room < 1:  # a window as long as this leaves shared memory no room for outputs
                rest = [1] * array.ndim
                rest[axis] = k
                array = reference.box(array, tuple(rest), before, rules, outside, minimum)
                continue
            tile = min(room, size, max(THREADS * 4 // columns, k))
            where = (size, before[axis], k - 1 - before[axis], rules[axis])
            table = self._kept(array, where, lambda where=where: positions(*where))  # type: ignore[misc]
            out = self.device.empty(array.shape, array.dtype)
            tiles = outer * -(-size // tile) * -(-inner // columns)
            kernel(
                (min(tiles, _MOST_BLOCKS),),
                (THREADS,),
                (
                    array, out, table, outside.astype(real)[()],
                    *map(np.int64, (outer, size, inner, k, tile, columns)),
                ),
                2 * (tile + k - 1) * columns * real.itemsize,
            )  # fmt: skip
            array = out
        return array

    def footprint(
        self,
        array: Array,
        taps: np.ndarray,
        before: tuple[int, ...],
        rules: tuple[str, ...],
        outside: np.ndarray,
        minimum: bool,
    ) -> Array:
        """The extremum over any footprint that is not empty."""
        storage = array.dtype.name
        lane = source.ARITHMETIC[storage]
        kernel = self._kernel(taps_kernel, "flat", storage, lane, storage, array.ndim, minimum)
        out = self.device.empty(array.shape, array.dtype)
        indices = np.argwhere(taps)
        self._reduce(
            kernel, array, indices, taps.shape, before, rules, None, outside.astype(lane), None, out
        )
        return out

    def structure(
        self,
        array: Array,
        taps: np.ndarray,
        sums: Sums,
        before: tuple[int, ...],
        rules: tuple[str, ...],
        minimum: bool,
    ) -> Array:
        """The extremum of element + value over the taps."""
        tiled = self._tiled_structure(array, taps, sums, before, rules, minimum)
        if tiled is not None:
            return tiled
        storage, lane = array.dtype.name, sums.values.dtype.name
        operation = "structure"
        if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and not sums.in_double:
            operation, lane = "saturating", storage
        kernel = self._kernel(taps_kernel, operation, storage, lane, storage, array.ndim, minimum)
        out = self.device.empty(array.shape, array.dtype)
        self._reduce(
            kernel, array, np.argwhere(taps), taps.shape, before, rules, sums.values,
            sums.outside.astype(lane), sums.first, out,
        )  # fmt: skip
        return out

    def _tiled_structure(
        self,
        array: Array,
        taps: np.ndarray,
        sums: Sums,
        before: tuple[int, ...],
        rules: tuple[str, ...],
        minimum: bool,
    ) -> Array | None:
        """The same as a convolution of the array with its borders; None where no tile serves it."""
        storage, xp, first = array.dtype.name, self.device.array_module, sums.first
        weights = -sums.values if minimum else sums.values  # erosions subtract them
        with np.errstate(over="ignore", invalid="ignore"):
            values = weights.astype(array.dtype)
            exact = (values == weights).all() and sums.outside.astype(array.dtype) == sums.outside
        # Integers have no weight that leaves a tap out.
        whole = taps.all() and first is None and array.dtype.itemsize < 8 and not sums.in_double
        if not exact or not (storage in source.FLOATING or whole):
            return None
        shape = tuple(n + k - 1 for n, k in zip(array.shape, taps.shape, strict=True))
        geometry = Geometry.plan((1, 1, *shape), (1, 1, *taps.shape), kind="corr")
        semifield = _EROSION if minimum else _DILATION
        if tile_of(semifield, storage, geometry, None) is None:
            return None
        wide = self._bordered(array, taps.shape, before, rules, sums.outside)
        krn = np.zeros((1, 1, *taps.shape), array.dtype)
        if not taps.all() or first is not None:
            krn[...] = -np.inf
        krn[0, 0][taps] = values
        if first is not None:  # this one is added in double, below
            krn[0, 0][tuple(np.argwhere(taps)[0])] = -np.inf
        out = self.device.empty(geometry.out_shape, array.dtype)
        images = wide[None, None], self._there(krn)
        forward(self.device, *images, semifield, geometry, storage, out)
        if first is not None:
            seen = reference.view(wide, np.argwhere(taps)[0], array.shape).astype(np.float64)
            term = (seen + first).astype(sums.values.dtype).astype(array.dtype)
            out = reference.better(xp, out, term, minimum)
        return out.reshape(array.shape)

    def _bordered(
        self,
        array: Array,
        window: tuple[int, ...],
        before: tuple[int, ...],
        rules: tuple[str, ...],
        outside: np.ndarray,
    ) -> Array:
        """The array with what windows see beyond its borders."""
        storage, rank = array.dtype.name, array.ndim
        shape = tuple(n + k - 1 for n, k in zip(array.shape, window, strict=True))
        out = self.device.empty(shape, array.dtype)
        threads_x = min(THREADS, 2 ** max(5, (shape[-1] // _OF_THREAD).bit_length()))
        described = np.zeros((), _BORDERED)
        described["size"][:rank] = shape
        described["stride"][:rank] = elements(array)
        described["table"][:rank] = np.cumsum([0, *shape])[:-1]
        described["rows"] = rows = math.prod(shape[:-1])
        described["parts"] = parts = -(-shape[-1] // (threads_x * _OF_THREAD))
        real = np.dtype(source.ARITHMETIC[storage])
        self._kernel(border_kernel, storage, rank)(
            (-(-rows // (THREADS // threads_x)) * parts,),
            (THREADS,),
            (
                described[()], array, out, self._tables(array, window, before, rules),
                outside.astype(real)[()], np.int32(threads_x),
            ),
            0,
        )  # fmt: skip
        return out

    def correlate(
        self,
        array: Array,
        indices: np.ndarray,
        weights: np.ndarray,
        window: tuple[int, ...],
        before: tuple[int, ...],
        rules: tuple[str, ...],
        cval: float,
        symmetry: int,
        out: Array,
    ) -> None:
        """Weighted sums into `out`, which is C-contiguous and of any supported dtype."""
        arguments = (
            "sum",
            array.dtype.name,
            "float64",
            out.dtype.name,
            array.ndim,
            False,
            symmetry,
        )
        kernel = self._kernel(taps_kernel, *arguments)
        outside = np.array(cval, np.float64)
        self._reduce(kernel, array, indices, window, before, rules, weights, outside, None, out)

    def _reduce(
        self,
        kernel: Kernel,
        array: Array,
        indices: np.ndarray,
        window: tuple[int, ...],
        before: tuple[int, ...],
        rules: tuple[str, ...],
        values: np.ndarray | None,
        outside: np.ndarray,
        first: float | None,
        out: Array,
    ) -> None:
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        lengths = [n + k - 1 for n, k in zip(array.shape, window, strict=True)]
        described = np.zeros((), _NEIGHBOURHOOD)
        described["taps"], described["outputs"] = len(indices), array.size
        starts = np.cumsum([0, *lengths])[:-1]
        entries = zip(
            ("size", "stride", "window", "before", "table"),
            (array.shape, strides, window, before, starts),
            strict=True,
        )
        for name, entry in entries:
            described[name][: array.ndim] = entry
        indices = np.ascontiguousarray(indices, np.int64).reshape(-1, array.ndim)
        offsets = indices @ np.array(strides, np.int64).reshape(array.ndim)
        kernel(
            (min(-(-array.size // (4 * THREADS)), _MOST_BLOCKS),),
            (THREADS,),
            (
                described[()], array, out,
                self._tables(array, window, before, rules),
                self._kept(array, (indices.tobytes(), array.ndim), lambda: indices),
                self._kept(array, (offsets.tobytes(),), lambda: offsets),
                self._kept(array, (), lambda: np.zeros(1)) if values is None
                else self._there(values),
                outside[()], np.float64(first or 0), np.int32(first is not None),
            ),
            0,
        )  # fmt: skip

    def _tables(
        self, array: Array, window: tuple[int, ...], before: tuple[int, ...], rules: tuple[str, ...]
    ) -> Array:
        """The tables of border positions of all axes, one behind the other."""

        def tables() -> np.ndarray:
            each = zip(array.shape, window, before, rules, strict=True)
            parts = [positions(n, b, k - 1 - b, rule) for n, k, b, rule in each]
            return np.concatenate([*parts, np.zeros(1, np.int64)])

        return self._kept(array, (array.shape, window, before, rules), tables)

    def reconstruct(self, seed: Array, mask: Array, steps: np.ndarray, minimum: bool) -> Array:
        """Values spread within tiles until nothing changes; asks after every eighth launch."""
        xp, shape = self.device.array_module, seed.shape
        value = xp.ascontiguousarray(reference.limit(xp, seed, mask, minimum))
        mask = xp.ascontiguousarray(mask)
        if seed.ndim == 1:
            shape, steps = (1, *shape), np.pad(steps, ((0, 0), (1, 0)))
        *outer, height, width = shape
        reach_y, reach_x = (int(r) for r in np.abs(steps[:, -2:]).max(axis=0))
        tiles_y, tiles_x = -(-height // _SIDE), -(-width // _SIDE)
        tiles = math.prod(outer) * tiles_y * tiles_x
        if max(reach_y, reach_x) > _MOST_REACH or max(tiles, height, width) > _MOST_BLOCKS:
            return reference.reconstruct(seed, mask, steps[:, -seed.ndim :], minimum)
        across = steps[:, :-2].any(axis=1)
        described = np.zeros((), _SPREAD)
        described["size"][: len(shape)] = shape
        described["planar"], described["across"] = np.count_nonzero(~across), across.sum()
        described["tiles_y"], described["tiles_x"] = tiles_y, tiles_x
        # An output sees what lies a step back.
        seen = np.ascontiguousarray(-steps[np.argsort(across, kind="stable")], np.int64)
        table = self._kept(seed, (seen.tobytes(), seen.shape), lambda: seen)
        reach = (reach_y, reach_x)
        kernel = self._kernel(spread_kernel, seed.dtype.name, len(shape), minimum, reach)
        other = self.device.empty(value.shape, value.dtype)
        while True:
            changed = xp.zeros(8, np.int32)
            for n in range(8):
                arguments = (described[()], value, mask, other, table, changed[n:])
                kernel((tiles,), (THREADS,), arguments, 0)
                value, other = other, value
            if not int(changed[-1]):
                return value
