"""The kernels of this package that ship: one of each kind, for the report and the tests."""

from __future__ import annotations

from collections.abc import Iterator

from semiconv_cupy import source
from semiconv_cupy.ndimage.cuda.boxes import flat_kernel
from semiconv_cupy.ndimage.cuda.footprints import footprint_kernel
from semiconv_cupy.ndimage.cuda.limits import LIMITS
from semiconv_cupy.ndimage.cuda.lines import (
    Specialisation,
    chamfer_kernel,
    nearest_kernel,
    parabolas_backward_kernel,
    parabolas_kernel,
    single_kernel,
)
from semiconv_cupy.ndimage.cuda.small_boxes import SmallBox, small_box_kernel
from semiconv_cupy.ndimage.cuda.small_sums import SmallWindow, Sum, small_sum_kernel
from semiconv_cupy.ndimage.cuda.spread import components_kernel, spread_kernel
from semiconv_cupy.ndimage.cuda.structures import border_kernel
from semiconv_cupy.ndimage.cuda.sums import sum_kernel
from semiconv_cupy.ndimage.cuda.taps import taps_kernel
from semiconv_cupy.ndimage.lines import Finish


def shipping_variants() -> Iterator[source.KernelSource]:
    """A kernel of each kind for each dtype for which it differs."""
    for storage in ("float16", "float32", "float64", "uint8", "int64", "bool"):
        for together in ((2, 2), (8, 8), (1, 4), (8, 1)):
            yield flat_kernel(storage, False, together)
        for together in ((2, 2), (8, 8), (1, 4)):
            yield flat_kernel(storage, False, together, spaced=True)
        for words in (1, 8):
            yield footprint_kernel(storage, False, words)
        words = 2 if storage in ("float64", "int64") else 4
        for box in (SmallBox(3, 3, 1, 4, words), SmallBox(1, 3, 2, 1, 1), SmallBox(3, 1, 0, 2, 2)):
            yield small_box_kernel(storage, False, box)
        rows = 4 if storage in ("uint8", "bool") else 8
        if storage not in ("float64", "int64"):
            yield small_box_kernel(storage, False, SmallBox(9, 9, 4, rows, words))
            yield small_box_kernel(storage, False, SmallBox(5, 5, 2, rows, words))
            yield small_box_kernel(storage, False, SmallBox(1, 7, 3, rows, words))
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
    for symmetry in (0, 1, -1):
        yield sum_kernel("float32", "float32", Sum(symmetry), 4)
    for below in (1, 8):
        yield sum_kernel("float32", "float32", Sum(), below)
    for storages in (("uint8", "uint8"), ("int64", "bool"), ("float16", "float64")):
        yield sum_kernel(*storages, Sum(), 8)
    yield sum_kernel("float32", "float32", Sum(holed=True), 8)
    for symmetry in (0, 1):
        yield sum_kernel("float32", "float32", Sum(symmetry), 4, adjacent=False)
    yield from _small_sums()
    for storage in ("float16", "float32", "uint8"):
        yield border_kernel(storage, 2)
        yield spread_kernel(storage, 2, False, (1, 1))
    for rank in (2, 3):
        yield components_kernel(rank, False, (1, 1))
    yield spread_kernel("float64", 4, True, (LIMITS.reach, LIMITS.reach))
    for winners in (False, True):
        yield nearest_kernel("float64", winners)
        yield nearest_kernel("float32", winners)
        yield parabolas_kernel("float64", Specialisation("float64", winners, finish=Finish.ROOT))
        for shared, lines in ((True, 2), (True, 1), (False, 1)):
            kind = Specialisation("float64", winners, shared, lines=lines)
            yield parabolas_kernel("float64", kind)
        for columns in (2, 4, 8):
            kind = Specialisation("float64", winners, finish=Finish.ROOT, side_by_side=columns)
            yield parabolas_kernel("float64", kind)
            yield parabolas_kernel("float64", kind._replace(squares=False))
        for columns in (1, 2, 4, 8):
            yield single_kernel("float64", winners, Finish.ROOT, columns)
        yield single_kernel("float32", winners, Finish.TO_NEAREST, 8)
    for storage in ("uint8", "int64", "float16", "float32"):
        yield parabolas_kernel(storage, Specialisation("float64", minimum=False))
        for finish in (Finish.TO_NEAREST, Finish.UPWARD):
            yield parabolas_kernel("float64", Specialisation(storage, finish=finish))
    yield parabolas_backward_kernel()
    for rank in (1, 2, 3):
        yield chamfer_kernel(rank)


def _small_sums() -> Iterator[source.KernelSource]:
    boxes = (3, 3, 8), (4, 3, 4), (2, 4, 4), (4, 4, 2), (5, 4, 2), (5, 5, 4), (1, 3, 1)
    lines = [SmallWindow(*line) for line in ((21, 1, 8), (9, 1, 8), (1, 9, 4), (1, 5, 4))]
    for storages in (("float32", "float32"), ("uint8", "uint8"), ("int64", "bool")):
        for window in map(SmallWindow._make, boxes):
            for holed in (False, True):
                for constant in (False, True):
                    kind = Sum(holed=holed, constant=constant)
                    yield small_sum_kernel(*storages, window, kind)
        for window in lines:
            yield small_sum_kernel(*storages, window, Sum(rotated=True))
    for window in lines:
        for symmetry in (1, -1):
            yield small_sum_kernel("float32", "float64", window, Sum(symmetry))
