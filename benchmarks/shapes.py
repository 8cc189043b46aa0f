"""Random works from the families of shapes that people have; no arrays and no clocks.

Each work comes with the friendly work that it is compared with: the same kind of convolution with a
7x7 window on planes of 700x800, on which every schedule is fast, or for flat windows a window as
long on a plane of as many elements. floor.py measures both.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.families import CONVOLUTIONS, Shape, between, odd, role_of, sides
from benchmarks.works import LINEAR, LOG, Convolution, Device, Filter
from semiconv_cupy import SelectSemifield, SubtractSemifield, structuring
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.works import DILATION, Work

Unit = Literal["pair", "output", "row"]


@dataclass(frozen=True)
class Limits:
    """How large a work may be.

    Attributes
    ----------
    pairs : tuple of int
        The range from which the number of pairs of a dilation's forward pass is drawn: at the
        friendly rate of two cores (some 50 pairs a nanosecond) a call takes 0.4 to 2 ms, and 50 ms
        at most where it is 25 times slower.
    outputs : tuple of int
        The same for flat windows, whose time does not depend on the window.
    elements : int
        No array has more elements.
    planes : int
        How many planes the friendly convolution has. A GPU computes one in less than it takes to
        launch a kernel.
    """

    pairs: tuple[int, int] = (20_000_000, 100_000_000)
    outputs: tuple[int, int] = (1_000_000, 10_000_000)
    elements: int = 2**24
    planes: int = 1


LIMITS: dict[Device, Limits] = {
    "cpu": Limits(),
    "gpu": Limits((1_000_000_000, 4_000_000_000), (20_000_000, 100_000_000), 2**27, 64),
}


class Kind(NamedTuple):
    """What is computed.

    Works of a kind that costs more for each pair have fewer pairs: those of a dilation's forward
    pass, divided by `cost`.
    """

    name: str
    semifield: SelectSemifield | SubtractSemifield
    dtype: str
    mode: Literal["forward", "training"]
    cost: float

    @property
    def label(self) -> str:
        """The name in tables."""
        return self.name if self.mode == "forward" else f"{self.name}, fwd + bwd"


MAX = Kind("max float32", DILATION, "float32", "forward", 1)
# A convolution is MAX more often than not; the rest takes turns.
KINDS = (
    MAX,
    Kind("max uint8", DILATION, "uint8", "forward", 0.5),
    Kind("log float32", LOG, "float32", "forward", 4),
    Kind("linear float32", LINEAR, "float32", "forward", 1),
    Kind("max float32", DILATION, "float32", "training", 5),
    Kind("log float32", LOG, "float32", "training", 12),
)


@dataclass(frozen=True)
class Sample:
    """One work, the friendly work of the same kind, and what is counted in both.

    Attributes
    ----------
    family : str
        The family of shapes that it was drawn from.
    kind : str
        What is computed, with the dtype.
    measured, friendly : Convolution or Filter
        The two works.
    unit : str
        What is counted: a "pair" is one tap of one output, inside the image; boxes count each
        "output", flat footprints each "row" of the footprint at each output.
    count, friendly_count : int
        How many units the two works have.
    """

    family: str
    kind: str
    measured: Convolution | Filter
    friendly: Convolution | Filter
    unit: Unit
    count: int
    friendly_count: int

    @property
    def name(self) -> str:
        """The name in tables: the family, the shapes and the kind."""
        return self.measured.name

    @property
    def role(self) -> str:
        """What is hard about it."""
        return role_of(self.family)

    @property
    def bytes(self) -> int:
        """The fewest bytes that the work moves."""
        return self.measured.bytes


def samples(seed: int, number: int, limits: Limits) -> Iterator[Sample]:
    """`number` works, the families in turn.

    Each is the same for the same seed, family, turn and limits, whatever other families there are.
    """
    families = [*CONVOLUTIONS, *FILTERS]
    for index in range(number):
        turn, place = divmod(index, len(families))
        family = families[place]
        rng = random.Random(f"{seed} {family} {turn}")
        if family in CONVOLUTIONS:
            kind = MAX if rng.random() < 0.5 else rng.choice(KINDS[1:])
            yield _convolution(rng, limits, family, CONVOLUTIONS[family], kind)
        else:
            yield FILTERS[family](rng, limits, family)


# ---- convolutions --------------------------------------------------------------------------------


def pairs_inside(geometry: Geometry) -> int:
    """How many terms of all windows lie inside the image.

    On each axis, tap k of output o reads the element s o + d k - begin. The outputs for which this
    is inside are an interval, whose length is summed over the taps.
    """
    count = geometry.batch * geometry.out_channels * geometry.in_channels
    for axis, outputs in enumerate(geometry.out_size):
        step = geometry.stride[axis]
        reach = np.arange(geometry.kernel_size[axis]) * geometry.dilation[axis]
        first = -((reach - geometry.pad_begin[axis]) // step)
        end = -((reach - geometry.pad_begin[axis] - geometry.image_size[axis]) // step)
        count *= int(np.maximum(np.clip(end, 0, outputs) - np.clip(first, 0, outputs), 0).sum())
    return count


def _convolution(
    rng: random.Random,
    limits: Limits,
    family: str,
    draw: Callable[[random.Random, float], Shape],
    kind: Kind,
) -> Sample:
    pairs = between(rng, *limits.pairs) / kind.cost

    def work(batch: int) -> Work:
        return Work("", (batch, *shape.image), shape.kernel, kind.semifield, kind.dtype,
                    shape.stride, shape.dilation, shape.groups, shape.padding)  # fmt: skip

    fitting = 0
    while fitting < 1:
        shape = draw(rng, pairs)
        one = work(1).geometry
        fitting = limits.elements // max(math.prod(one.img_shape), math.prod(one.out_shape))
    batch = round(pairs / max(1, pairs_inside(one)))
    found = work(max(1, min(batch, fitting, shape.most)))
    named = dataclasses.replace(found, name=_name(family, found, kind))
    measured = Convolution(named, kind.mode, memory=shape.memory)
    planes = Work(f"7x7 on 700x800, {kind.name}", (limits.planes, 1, 700, 800), (1, 1, 7, 7),
                  kind.semifield, kind.dtype)  # fmt: skip
    return Sample(
        family, kind.label, measured, Convolution(planes, kind.mode), "pair",
        pairs_inside(found.geometry), pairs_inside(planes.geometry),
    )  # fmt: skip


def _name(family: str, work: Work, kind: Kind) -> str:
    text = f"{family}: {_times(work.image)} * {_times(work.kernel)}"
    options = {"stride": work.stride, "dilation": work.dilation, "groups": work.groups}
    text += "".join(f", {option} {value}" for option, value in options.items() if value > 1)
    return f"{text}{'' if work.padding == 'same' else ', no padding'}, {kind.name}"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


# ---- filters -------------------------------------------------------------------------------------


def _colour_space(rng: random.Random, outputs: float) -> tuple[int, ...]:
    channels = rng.choice((3, 3, 3, 4))
    return (*sides(rng, outputs / channels, 32), channels)


def _volume_space(rng: random.Random, outputs: float) -> tuple[int, ...]:
    first, second = between(rng, 8, 128), between(rng, 8, 256)
    return first, second, max(8, round(outputs / first / second))


def _box(
    space: Callable[[random.Random, float], tuple[int, ...]], windowed: int
) -> Callable[[random.Random, Limits, str], Sample]:
    """Flat boxes on the first `windowed` axes: an output costs the same whatever the window."""

    def draw(rng: random.Random, limits: Limits, family: str) -> Sample:
        shape, dtype = space(rng, between(rng, *limits.outputs)), rng.choice(("float32", "uint8"))
        size = odd(rng, 3, 31)
        window = (size,) * windowed + (1,) * (len(shape) - windowed)
        plane = _plane_of(shape)
        named = f"{family}: {_times(shape)}, window {_times(window)}, {dtype}"
        friendly = (size, size) if windowed > 1 else (size, 1)
        return Sample(
            family, f"box {dtype}",
            Filter(named, "maximum_filter", shape, dtype, {"size": window}),
            Filter("plane", "maximum_filter", plane, dtype, {"size": friendly}),
            "output", math.prod(shape), math.prod(plane),
        )  # fmt: skip

    return draw


def _plane_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """The friendly plane, 7 to 8, with as many elements."""
    rows = max(1, round(math.sqrt(math.prod(shape) * 7 / 8)))
    return rows, max(1, round(math.prod(shape) / rows))


def _ball(
    space: Callable[[random.Random, float], tuple[int, ...]], windowed: int, largest: int
) -> Callable[[random.Random, Limits, str], Sample]:
    """Disks on colour and balls on volumes; each row of the footprint costs the same."""

    def draw(rng: random.Random, limits: Limits, family: str) -> Sample:
        radius, dtype = rng.randint(2, largest), rng.choice(("float32", "uint8"))
        disk = structuring.disk(radius)
        ball = disk[..., None] if windowed == 2 else structuring.ball(radius)
        rows, disk_rows = (int(f.any(axis=1).sum()) for f in (ball, disk))
        shape = space(rng, between(rng, *limits.outputs) * disk_rows / rows / 5)
        plane = _plane_of(shape)
        named = f"{family}: {_times(shape)}, radius {radius}, {dtype}"
        return Sample(
            family, f"footprint {dtype}",
            Filter(named, "grey_dilation", shape, dtype, {"footprint": ball}),
            Filter("plane", "grey_dilation", plane, dtype, {"footprint": disk}),
            "row", math.prod(shape) * rows, math.prod(plane) * disk_rows,
        )  # fmt: skip

    return draw


def _structure(
    space: Callable[[random.Random, float], tuple[int, ...]], windowed: int, largest: int
) -> Callable[[random.Random, Limits, str], Sample]:
    """Structures that are not flat and not separable: every tap is a pair."""

    def draw(rng: random.Random, limits: Limits, family: str) -> Sample:
        size, dtype = odd(rng, 3, largest), rng.choice(("float32", "uint8"))
        shape = space(rng, between(rng, *limits.pairs) / size**windowed)
        window = (size,) * windowed + (1,) * (len(shape) - windowed)
        plane = (700, 800 * limits.planes)
        named = f"{family}: {_times(shape)}, window {_times(window)}, {dtype}"
        return Sample(
            family, f"structure {dtype}",
            Filter(named, "grey_dilation", shape, dtype, {"structure": _heights(window)}),
            Filter("plane", "grey_dilation", plane, dtype, {"structure": _heights((7, 7))}),
            "pair", math.prod(shape) * math.prod(window), math.prod(plane) * 49,
        )  # fmt: skip

    return draw


def _heights(window: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 100, window)


def _rows(rng: random.Random, outputs: float) -> tuple[int, ...]:
    last = rng.choice((rng.randint(2, 8), between(rng, 9, 64)))
    return max(32, round(outputs / last)), last


FILTERS: dict[str, Callable[[random.Random, Limits, str], Sample]] = {
    "box, colour": _box(_colour_space, 2),
    "box, volume": _box(_volume_space, 3),
    "box, short rows": _box(_rows, 1),
    "disk, colour": _ball(_colour_space, 2, 15),
    "ball, volume": _ball(_volume_space, 3, 5),
    "structure, colour": _structure(_colour_space, 2, 15),
    "structure, volume": _structure(_volume_space, 3, 7),
}
