"""The works that are measured and the goals that they should reach; no arrays and no clocks.

A ratio is a peer's time over ours, so more is better. How each peer does a work is in peers.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

import semiconv_cupy as sc
from semiconv_cupy import structuring
from semiconv_cupy.residual import residual_of
from semiconv_cupy.works import DILATION, STANDARD_WORKS, Work

Device = Literal["cpu", "gpu"]
# How an image lies in memory: C-contiguous, the channels of an element together, all axes in the
# opposite order, or as every second column of another image.
Memory = Literal["rows", "channels last", "transposed", "every second"]

# What an array shows: numbers of one range; or a foreground of 98 %, blobs, all but one element.
Picture = Literal["numbers", "dense", "blobs", "one point"]

# The peers, as tables name them.
SCIPY, CUPYX = "scipy.ndimage", "cupyx.scipy.ndimage"
OPENCV, SKIMAGE, KORNIA = "cv2", "skimage", "kornia"
EDT, DIPLIB, FASTMORPH = "edt", "diplib", "fastmorph"
# kornia's engines; by itself it picks one of them.
ENGINES = {KORNIA: "auto"} | {f"{KORNIA} {e}": e for e in ("shift", "unfold", "convolution")}
POOLING, CONV2D = "torch max_pool2d", "torch conv2d"
MATMUL, BROADCAST = "torch matmul", "torch broadcast"
POINTWISE = "1x1 semifield_conv"
EAGER = "pytorch_nd_semiconv eager"
COMPILED = "pytorch_nd_semiconv compiled"
FUSED = "pytorch_nd_semiconv fused"
OURS, PLAIN, FRIENDLY = "ours", "without provenance", "friendly"
CONSTANT, BY_CHANNEL, LEARNED = "compiled in", "one a channel", "learned"
LIMIT = "limit"
# Who computes other numbers: another algebra, other outputs, another work.
OTHERS = (POOLING, CONV2D, MATMUL, PLAIN, FRIENDLY)
MOST_BYTES = 2 * 2**30  # a work for which a peer would allocate more is left out for it

LOG, ROOT = sc.SubtractSemifield.log(3.0), sc.SubtractSemifield.root(3.0)
LINEAR = sc.SubtractSemifield.linear()


@dataclass(frozen=True)
class Goal:
    """The range in which `of` (a ratio to a peer, the share of the limit, a cost) should lie."""

    of: str
    least: float = -math.inf
    most: float = math.inf

    @property
    def text(self) -> str:
        """``>= 20x cv2``, ``<= 1.5``."""
        if self.of == LIMIT:
            return f">= {self.least:.0%} of the limit"
        if self.least > 0:
            return f">= {self.least:.3g}x {self.of}"
        return f"<= {self.most:g}"


def at_least(ratio: float, *peers: str) -> tuple[Goal, ...]:
    """The goals to be at least `ratio` times as fast as each of these peers."""
    return tuple(Goal(peer, least=ratio) for peer in peers)


class Measured(Protocol):
    """A work whose calls are timed."""

    @property
    def name(self) -> str:
        """The name in tables."""

    @property
    def bytes(self) -> int:
        """The fewest bytes that the work moves."""


@dataclass(frozen=True)
class Convolution:
    """A convolution on one device.

    `mode` is "forward", "provenance" (forward with the residual that a derivative needs) or
    "training" (forward and backward through torch). With `tensors`, forward runs through torch too.
    `memory` says how the image lies.
    """

    work: Work
    mode: Literal["forward", "provenance", "training"] = "forward"
    goals: tuple[Goal, ...] = ()
    tensors: bool = False
    memory: Memory = "rows"

    @property
    def name(self) -> str:
        """The name in tables."""
        extra = {"forward": "", "provenance": ", provenance", "training": ", fwd + bwd"}
        return self.work.name + extra[self.mode]

    @property
    def bytes(self) -> int:
        """The fewest bytes: every array once, in training every array and every gradient.

        Cache lines that hold every second column of an image hold the other ones, too.
        """
        arrays = self.work.bytes
        if self.memory == "every second":
            arrays += math.prod(self.work.image) * np.dtype(self.work.dtype).itemsize
        if self.mode == "forward":
            return arrays
        residual = residual_of(self.work.semifield, self.work.dtype, self.work.geometry)
        kept = math.prod(residual.shape) * residual.dtype.itemsize if residual else 0
        return arrays + kept if self.mode == "provenance" else 2 * (arrays + kept)

    @property
    def operation(self) -> str:
        """The name of the ceiling: log and root are sums of products of transformed values."""
        selects = self.work.semifield.accumulator == "select"
        # Halves are accumulated in float32.
        dtype = "float32" if self.work.dtype == "float16" else self.work.dtype
        return f"{'pairs' if selects else 'products'} {dtype}"

    @property
    def operations(self) -> int:
        """How many terms all windows have together."""
        return self.work.terms


@dataclass(frozen=True)
class Filter:
    """A function of semiconv_cupy.ndimage, or of the core, on one array in [0, 255)."""

    name: str
    function: str
    shape: tuple[int, ...]
    dtype: str
    arguments: dict[str, Any] = field(hash=False)
    goals: tuple[Goal, ...] = ()
    picture: Picture = "numbers"
    radius: float | None = None  # of a window that is a ball

    @property
    def bytes(self) -> int:
        """The bytes of the array and the result."""
        return 2 * math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Product:
    """`semifield_matmul` of arrays of these shapes."""

    name: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    semifield: sc.SelectSemifield | sc.SubtractSemifield = DILATION
    dtype: str = "float32"
    goals: tuple[Goal, ...] = ()

    @property
    def operations(self) -> int:
        """How many terms all outputs have together."""
        return math.prod(self.a) * self.b[-1]

    @property
    def bytes(self) -> int:
        """The bytes of both operands and of the result."""
        numbers = math.prod(self.a) + math.prod(self.b) + math.prod((*self.a[:-1], self.b[-1]))
        return numbers * np.dtype(self.dtype).itemsize

    @property
    def operation(self) -> str:
        """The name of the ceiling, as of a `Convolution`."""
        selects = self.semifield.accumulator == "select"
        return f"{'pairs' if selects else 'products'} {self.dtype}"


@dataclass(frozen=True)
class Parametric:
    """A convolution or a product in log or root, whose number is given at run time.

    In "training", forward and backward through torch.
    """

    name: str
    function: Literal["semifield_conv", "semifield_matmul"]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    semifield: sc.SubtractSemifield
    mode: Literal["forward", "training"]
    arguments: dict[str, Any] = field(hash=False)
    goals: tuple[Goal, ...] = ()

    @property
    def columns(self) -> int:
        """How many values there may be: one for each kernel, or each column."""
        return self.shapes[1][0 if self.function == "semifield_conv" else -1]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the result; windows keep the image's size."""
        first, columns = self.shapes[0], self.columns
        if self.function == "semifield_conv":
            return (first[0], columns, *first[2:])
        return (*first[:-1], columns)

    @property
    def operations(self) -> int:
        """How many terms all outputs have together."""
        return math.prod(self.out_shape) * math.prod(self.shapes[1]) // self.columns

    @property
    def bytes(self) -> int:
        """The fewest bytes, as of a `Convolution` that keeps nothing."""
        once = 4 * sum(map(math.prod, (*self.shapes, self.out_shape)))
        return once if self.mode == "forward" else 2 * once

    @property
    def operation(self) -> str:
        """The name of the ceiling."""
        return "products float32"


AnyWork = Convolution | Filter | Product | Parametric


def _product(n: int, name: str, goals: tuple[Goal, ...] = (), **arguments: Any) -> Product:
    return Product(f"product {n}^3, {name}", (n, n), (n, n), goals=goals, **arguments)


def _square(n: int, size: int, dtype: str = "float32", **arguments: Any) -> Work:
    suffix = "" if dtype == "float32" else f", {dtype}"
    return Work(f"any {size}x{size}, {n}^2{suffix}", (1, 1, n, n), (1, 1, size, size),
                dtype=dtype, **arguments)  # fmt: skip


def _pooling(*image: int, size: int, stride: int) -> Work:
    batch, channels, *space = image
    name = f"pooling {size}x{size} stride {stride}, {batch} x {channels} x {space[0]}^2"
    return Work(name, image, (channels, 1, size, size), stride=stride, groups=channels)


def _mixing(semifield: Any, name: str) -> Work:
    return Work(
        f"mixing 3x3, 16 -> 32, 8 x 32^2, {name}", (8, 16, 32, 32), (32, 16, 3, 3), semifield
    )


def _flat(size: int, n: tuple[int, ...], dtype: str, goals: tuple[Goal, ...]) -> Filter:
    where = _times(n)
    return Filter(f"flat {size}x{size}, {where} {dtype}", "maximum_filter", n, dtype,
                  {"size": size}, goals)  # fmt: skip


def _colours(shape: tuple[int, int]) -> Iterator[Convolution | Filter]:
    """Pictures whose colours lie together in memory."""
    n, where = (*shape, 3), _times((*shape, 3))
    for size in (3, 9, 31):
        yield Filter(f"colour flat {size}x{size}, {where} uint8", "maximum_filter", n, "uint8",
                     {"size": (size, size, 1)}, at_least(1, OPENCV))  # fmt: skip
    yield Filter(f"colour flat 9x9, {where} float32", "maximum_filter", n, "float32",
                 {"size": (9, 9, 1)}, at_least(1, OPENCV))  # fmt: skip
    disk = {"footprint": structuring.disk(15)[..., None]}
    yield Filter("colour disk 15, 512x512x3 uint8", "grey_dilation", (512, 512, 3), "uint8", disk,
                 at_least(1, OPENCV))  # fmt: skip
    structure = np.random.default_rng(0).integers(0, 100, (7, 7, 1))
    yield Filter(f"colour structure 7x7, {where} uint8", "grey_dilation", n, "uint8",
                 {"structure": structure}, at_least(25, SCIPY))  # fmt: skip
    yield Convolution(
        Work(f"colour 7x7, {where}", (1, 1, *n), (1, 1, 7, 7, 1)), goals=at_least(25, SCIPY)
    )


def _distances(n: int, *peers: Goal) -> Iterator[Filter]:
    """Distance transforms, and parabolas without end."""
    pictures: tuple[Picture, ...] = ("dense", "blobs", "one point")
    for picture in pictures:
        yield Filter(f"distances, {picture}, {n}^2", "distance_transform_edt", (n, n), "bool", {},
                     peers, picture)  # fmt: skip
    yield Filter(f"distances and indices, blobs, {n}^2", "distance_transform_edt", (n, n), "bool",
                 {"return_indices": True}, (), "blobs")  # fmt: skip
    yield Filter("distances, blobs, 128^3", "distance_transform_edt", (128,) * 3, "bool", {}, (),
                 "blobs")  # fmt: skip
    for dtype in ("float32", "uint8"):
        for scale in (3.0, 100.0):
            goals = at_least(3, DIPLIB) if dtype == "float32" else ()
            yield Filter(f"parabolas {scale:g}, {n}^2 {dtype}", "parabolic_dilation", (n, n), dtype,
                         {"scale": scale}, goals)  # fmt: skip


def _batches() -> Iterator[Convolution]:
    """Many small images and short signals."""
    yield Convolution(
        Work("batch 3x3, 4096 x 16^2", (4096, 1, 16, 16), (1, 1, 3, 3)), goals=at_least(20, SCIPY)
    )
    yield Convolution(
        Work("batch 7, 16384 x 64", (16384, 1, 64), (1, 1, 7)), goals=at_least(20, SCIPY)
    )


def cpu() -> Iterator[AnyWork]:
    """The works of the CPU."""
    yield from _windows()
    yield from _filters()
    yield from _of_tensors()
    yield from _colours((1000, 1100))
    yield from _batches()
    yield from _products()
    yield from _parameters()


def _windows() -> Iterator[AnyWork]:
    """Dilations of arrays by windows of many sizes, dtypes and ranks."""
    for size, ratio in {3: 20, 7: 50, 11: 55, 21: 65}.items():
        yield Convolution(_square(1024, size), goals=at_least(ratio, SCIPY))
    for size in (3, 7, 11, 21):
        yield Convolution(_square(1024, size), "provenance", at_least(1 / 1.5, PLAIN))
    yield Convolution(_square(1024, 101))
    for dtype in ("float64", "float16", "uint8", "int16", "int32"):
        yield Convolution(_square(1024, 11, dtype))
    yield Convolution(
        Work("any 11x11 dilation 3, 1024^2", (1, 1, 1024, 1024), (1, 1, 11, 11), dilation=3)
    )
    yield Convolution(
        Work("any 11x11 stride 2, 1024^2", (1, 1, 1024, 1024), (1, 1, 11, 11), stride=2)
    )
    yield Convolution(Work("volume 7^3, 128^3", (1, 1, 128, 128, 128), (1, 1, 7, 7, 7)))
    yield Convolution(Work("signal 501, 10^7", (1, 1, 10**7), (1, 1, 501)))


def _filters() -> Iterator[AnyWork]:
    """Functions of ``ndimage``."""
    for size in (3, 5, 9, 15, 31, 51):
        for dtype in ("float32", "uint8"):
            yield _flat(size, (1000, 1100), dtype, at_least(1, OPENCV))
    disk = {"footprint": structuring.disk(20)}
    for dtype in ("uint8", "int16", "float32"):
        goals = (*at_least(100, SKIMAGE), *at_least(1, OPENCV)) if dtype == "uint8" else ()
        yield Filter(f"disk 20, 512^2 {dtype}", "grey_dilation", (512, 512), dtype, disk, goals)
    yield Filter("quadratic 21x21, 1024^2 float32", "grey_dilation", (1024, 1024), "float32",
                 {"structure": structuring.quadratic(5.0, size=21)})  # fmt: skip
    ball = {"footprint": structuring.ball(5)}
    yield Filter("ball 5, 128^3 uint8", "grey_dilation", (128,) * 3, "uint8", ball)
    for radius in (2, 5, 20):
        ball = {"structure": structuring.ball(radius)}
        yield Filter(f"ball {radius}, 128^3 bool", "binary_dilation", (128,) * 3, "bool", ball,
                     at_least(1, FASTMORPH), "blobs", radius)  # fmt: skip
    for dtype in ("uint8", "float32"):
        yield Filter(f"flat 9^3, 128^3 {dtype}", "maximum_filter", (128,) * 3, dtype, {"size": 9})
    for dtype in ("uint8", "uint32"):
        yield Filter(f"flat 3^3, 256^3 {dtype}", "maximum_filter", (256,) * 3, dtype, {"size": 3},
                     at_least(1, FASTMORPH))  # fmt: skip
    yield Filter("binary dilation, 5 iterations, 1000^2", "binary_dilation", (1000, 1000), "bool",
                 {"iterations": 5})  # fmt: skip
    yield Filter("binary fill holes, 1000^2", "binary_fill_holes", (1000, 1000), "bool", {})
    yield Filter("binary fill holes, blobs, 256^3", "binary_fill_holes", (256,) * 3, "bool", {}, (),
                 "blobs")  # fmt: skip
    yield Filter("rolling ball 30, 582x200 uint8", "rolling_ball", (582, 200), "uint8",
                 {"radius": 30}, at_least(50, SKIMAGE))  # fmt: skip
    yield Filter("reconstruction, 512^2 float32", "reconstruction", (512, 512), "float32", {})
    goals = (*at_least(1.5, OPENCV), *at_least(10, SCIPY), *at_least(4, EDT))
    yield from _distances(1024, *goals)
    yield Filter("correlate 7x7, 1024^2 float32", "correlate", (1024, 1024), "float32",
                 {"weights": np.linspace(-1, 1, 49).reshape(7, 7)})  # fmt: skip
    yield Filter("flat 3x3, 16^2 float32", "maximum_filter", (16, 16), "float32", {"size": 3})


def _of_tensors() -> Iterator[AnyWork]:
    """Large windows, pooling and mixing layers, and their training."""
    for semifield, name in ((sc.SelectSemifield.tropical_max(), "max"), (LOG, "log")):
        work = Work(f"any 31x31, 512^2, {name}", (1, 1, 512, 512), (1, 1, 31, 31), semifield)
        yield Convolution(work, goals=at_least(3, COMPILED), tensors=True)
        yield Convolution(work, "training")
    for shape, size, stride in POOLINGS:
        yield Convolution(
            _pooling(*shape, size=size, stride=stride), "training",
            (*at_least(2, POOLING), *at_least(20, EAGER)),
        )  # fmt: skip
    yield Convolution(_pooling(512, 32, 14, 14, size=3, stride=1), "training")
    for semifield, name in ((ROOT, "root(3)"), (LOG, "log(3)"), (LINEAR, "linear")):
        goals = () if semifield is LINEAR else at_least(1 / 3, CONV2D)
        yield Convolution(_mixing(semifield, name), goals=goals, tensors=True)
        yield Convolution(_mixing(semifield, name), "training")


def _products() -> Iterator[AnyWork]:
    """Dense layers and matrix products."""
    dense = Work("dense 1024 -> 1024, batch 1024", (1024, 1024, 1), (1024, 1024, 1))
    yield Convolution(dense, goals=at_least(1 / 2, MATMUL))
    dense = Work("dense 512 -> 512, batch 256", (256, 512, 1), (512, 512, 1))
    yield Convolution(dense, "training")
    yield _product(1024, "max", at_least(1 / 2, MATMUL))
    yield _product(1024, "log", at_least(1 / 4, MATMUL), semifield=LOG)
    yield _product(1024, "linear", semifield=LINEAR)
    for dtype in ("uint8", "int16", "float64"):
        yield _product(1024, f"max, {dtype}", dtype=dtype)
    yield _product(512, "max")
    for a, b in (((1, 1024), (1024, 1024)), ((1024, 4), (4, 1024)), ((1024, 16, 16),) * 2):
        yield Product(f"product {_times(a)} by {_times(b)}, max", a, b)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _parameters() -> Iterator[Parametric]:
    """Log and root of a number at run time."""
    log, root = sc.SubtractSemifield.log, sc.SubtractSemifield.root
    roots = {f"root({p:g})": root(p) for p in (3.0, 2.5, 2.0, 0.5, 4.0, 1.0, 7.0, -2.0)}
    for name, semifield in {"log(3)": LOG, **roots, "log(-2)": log(-2.0)}.items():
        for what, function, shapes in (
            ("3x3, 1 -> 4, 256^2", "semifield_conv", ((1, 1, 256, 256), (4, 1, 3, 3))),
            ("3x3, 16 -> 32, 8 x 32^2", "semifield_conv", ((8, 16, 32, 32), (32, 16, 3, 3))),
            ("product 256^3", "semifield_matmul", ((256, 256), (256, 256))),
        ):
            arguments = {"padding": "same"} if function == "semifield_conv" else {}
            for mode, extra in (("forward", ""), ("training", ", fwd + bwd")):
                yield Parametric(
                    f"parameters: {name}, {what}{extra}", function, shapes, semifield, mode,
                    arguments, at_least(1 / 1.1, CONSTANT),
                )  # fmt: skip


POOLINGS = (((32, 6, 28, 28), 7, 2), ((8, 16, 64, 64), 5, 1))


def gpu() -> Iterator[AnyWork]:
    """The works of a GPU; those in `STANDARD_WORKS` have model times as well."""
    for work in STANDARD_WORKS:
        goals: tuple[Goal, ...] = ()
        if work.name.startswith("depthwise") and work.dtype == "float32" and work.dilation == 1:
            goals = (Goal(LIMIT, least=0.8),)
        elif work.name.startswith("mixing") and work.name.endswith("128^2"):
            goals = (Goal(LIMIT, least=0.75),)
        elif work.name.startswith("one image") and work.dtype == "float32":
            goals = at_least(5, CUPYX)
        yield Convolution(work, goals=goals)
    trained = [work for work in STANDARD_WORKS if work.groups > 1 and work.dtype == "float32"]
    trained += [_pooling(*shape, size=size, stride=stride) for shape, size, stride in POOLINGS]
    for work in trained:
        if work.dilation == 1:
            goals = (*at_least(1 / 1.1, POOLING), *at_least(3, FUSED))
            yield Convolution(work, "training", goals)
    yield Convolution(STANDARD_WORKS[0], "training", at_least(3, FUSED))
    yield Convolution(STANDARD_WORKS[0], "provenance", at_least(1 / 1.5, PLAIN))
    for size in (3, 11, 21):
        yield Convolution(_square(2048, size), goals=at_least(5, CUPYX))
        yield Convolution(_square(2048, size), "provenance", at_least(1 / 1.5, PLAIN))
    for dtype in ("uint8", "int16", "int32"):
        yield Convolution(_square(2048, 11, dtype))
    yield Convolution(Work("mixing 3x3, 64 -> 64, 8 x 14^2", (8, 64, 14, 14), (64, 64, 3, 3)))
    for semifield, name in ((ROOT, "root(3)"), (LOG, "log(3)"), (LINEAR, "linear")):
        work = Work(
            f"mixing 3x3, 64 -> 64, 8 x 128^2, {name}", (8, 64, 128, 128), (64, 64, 3, 3), semifield
        )
        if semifield is not LINEAR:  # a standard work
            yield Convolution(work, goals=at_least(1 / 3, CONV2D))
        yield Convolution(work, "training")
    for size in (3, 9, 51):
        for dtype in ("float32", "uint8"):
            yield _flat(size, (4096, 4096), dtype, ())
    disk = {"footprint": structuring.disk(20)}
    yield Filter("disk 20, 2048^2 uint8", "grey_dilation", (2048, 2048), "uint8", disk)
    ball = {"footprint": structuring.ball(5)}
    yield Filter("ball 5, 256^3 uint8", "grey_dilation", (256,) * 3, "uint8", ball)
    structure = np.random.default_rng(0).integers(0, 100, (11, 11))
    for dtype in ("float32", "uint8"):
        yield Filter(f"structure 11x11, 2048^2 {dtype}", "grey_dilation", (2048, 2048), dtype,
                     {"structure": structure}, at_least(5, CUPYX))  # fmt: skip
    yield Filter("quadratic 21x21, 2048^2 float32", "grey_dilation", (2048, 2048), "float32",
                 {"structure": structuring.quadratic(5.0, size=21)})  # fmt: skip
    yield Filter("binary fill holes, 1000^2", "binary_fill_holes", (1000, 1000), "bool", {},
                 at_least(1, CUPYX))  # fmt: skip
    yield from _correlations()
    yield from _distances(2048, *at_least(1, CUPYX))
    yield Filter("distances, blobs, 256^3, voxels of 2 x 1 x 1", "distance_transform_edt",
                 (256,) * 3, "bool", {"sampling": (2.0, 1.0, 1.0)}, at_least(1, CUPYX),
                 "blobs")  # fmt: skip
    yield from _colours((4096, 4096))
    yield from _batches()
    yield Convolution(Work("dense 4096 -> 4096, batch 4096", (4096, 4096, 1), (4096, 4096, 1)))
    yield _product(4096, "max", (Goal(LIMIT, least=0.75),))
    yield _product(512, "max", (Goal(LIMIT, least=0.4),))
    yield _product(4096, "log", semifield=LOG)
    yield Product("product 1024x64x64 by 1024x64x64, max", *((1024, 64, 64),) * 2,
                  goals=(Goal(LIMIT, least=0.4),))  # fmt: skip
    yield from _parameters()


def _correlations() -> Iterator[Filter]:
    """Weighted sums over windows of planes, volumes, many small images and lines."""
    goals = at_least(1, CUPYX)
    shapes = (
        *(((2048, 2048), (size, size)) for size in (3, 5, 11)),
        ((128,) * 3, (3,) * 3),
        ((4096, 28, 28), (1, 3, 3)),
    )
    for n, window in shapes:
        weights = np.linspace(-1, 1, math.prod(window)).reshape(window)
        yield Filter(f"correlate {_times(window)}, {_times(n)} float32", "correlate", n, "float32",
                     {"weights": weights}, goals)  # fmt: skip
    for size in (5, 21):
        for axis in (0, 1):
            yield Filter(f"convolve1d {size} along axis {axis}, 2048^2 float32", "convolve1d",
                         (2048, 2048), "float32",
                         {"weights": np.linspace(-1, 1, size), "axis": axis}, goals)  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """How the time of a work grows with the quantity n on the axis.

    `works` maps each n to its work; in theory, the time is proportional to n to the power `power`.
    """

    name: str
    axis: str
    works: dict[int, Work]
    power: float


def growths(quick: bool) -> Iterator[Growth]:
    """Works of growing images, windows and channels."""
    side = {2**k: (2 ** (k // 2), 2 ** (k - k // 2)) for k in range(10, 21 if quick else 27, 2)}
    for size in (3, 11):
        works = {n: Work(f"any {size}x{size}", (1, 1, *shape), (1, 1, size, size))
                 for n, shape in side.items()}  # fmt: skip
        yield Growth(f"any {size}x{size}, pixels", "pixels", works, 1)
    sizes = (3, 5, 7, 11, 15, 21, 31) if quick else (3, 5, 7, 11, 15, 21, 31, 51, 71, 101)
    windows = {k: Work(f"any {k}x{k}", (1, 1, 512, 512), (1, 1, k, k)) for k in sizes}
    yield Growth("512^2, window", "K", windows, 2)
    counts = [2**k for k in range(6 if quick else 9)]
    mixing = {c: Work(f"{c} -> {c}", (1, c, 64, 64), (c, c, 3, 3)) for c in counts}
    yield Growth("mixing 3x3, 64^2, channels", "channels", mixing, 2)
