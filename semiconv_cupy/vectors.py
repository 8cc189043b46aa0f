"""Along which axis the CPU's vectors run, and which taps it leaves out.

A work in canonical form is rewritten once more for the CPU, which may order its axes as it likes:
the kernels transpose while they load and store. Batches of small images join the space, so that
one tile holds many images, and the axis that is last may be any free or windowed one:

    img (2000, 64, 7, 7)     krn (64, 1, 3, 3)

    free 2000 (batch) ----.     free 64
    free 64 (groups)       |    windowed 7, 3 taps
    windowed 7, 3 taps     |    windowed 7, 3 taps
    windowed 7, 3 taps     '--> free 2000

Taps that no output sees inside the image are left out. Winners keep the numbers of the whole
kernel's taps. Array-free. Called by ``route``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from semiconv_cupy.canonical import Axis, CanonicalForm, as_kernels_take_it
from semiconv_cupy.layout import Layout
from semiconv_cupy.structs import MAX_RANK


@dataclass(frozen=True)
class Costs:
    """What decides which axis vectors run along, in cycles of a core.

    Measured on an AMD Zen 3 by batches of squares of 4 to 48 elements: a maximum over 3x3 float32
    took 5.4 cycles an output across images, 30, 14, 8 and 4.5 along rows of 4, 8, 16 and 32. Of 248
    works of `benchmarks floor`, each computed along every axis, the axis chosen took 1.04 times as
    long as the best one in the geometric mean.

    Attributes
    ----------
    register : int
        Bytes of a vector.
    tap : float
        One tap of one vector.
    row : float
        What a row of outputs costs besides its numbers.
    scratch : int
        Bytes of a tile's scratch: `Tiling::budget` of kernels_cu/host/tiles.hpp, with which a test
        compares it. `explain` prints it, too.
    copied, single : float
        To load or store a byte from rows in memory; a number by itself.
    block, block_byte : float
        A number and each of its bytes in blocks across rows.
    registers : int
        How many registers a tile has along a free axis (`Tiling::halve_free`), unless it would load
        each position `twice` times (`Tiling::shorten_vectors`).
    twice : float
        See `registers`.
    at_once : int
        So many channels that are contiguous are loaded at once (`TileLoader::groups_at_once`).
    torn : float
        To store a number where tiles hold parts of many images, whose rows end within lines of the
        cache.
    gain : float
        Another axis than the last one is taken if it costs less than this part.
    """

    register: int = 32
    tap: float = 1.2
    row: float = 110.0
    scratch: int = 192 * 1024
    copied: float = 0.05
    single: float = 3.0
    block: float = 1.0
    block_byte: float = 0.3
    registers: int = 8
    twice: float = 1.5
    at_once: int = 16
    torn: float = 2.0
    gain: float = 0.9


COSTS = Costs()


@lru_cache(maxsize=4096)
def for_vectors(form: CanonicalForm, itemsize: int, costs: Costs = COSTS) -> CanonicalForm:
    """The same work with the axis last along which the CPU's vectors run best.

    `itemsize` is that of the numbers in arithmetic.
    """
    geometry = form.geometry
    if 0 in geometry.out_shape:
        return form
    space: list[Axis] = []
    others: list[Axis] = []
    first_tap = krn_begin = 0
    for axis in form.axes:
        if axis.slot != "space" and (axis.slot not in ("batch", "groups") or axis.krn):
            others.append(axis)
            continue
        clipped, left_out = _clipped(axis, geometry.mirrored)
        first_tap += left_out * axis.numbers
        krn_begin += left_out * axis.krn
        if clipped.role == "windowed" or clipped.size > 1:
            space.append(replace(clipped, slot="space"))
    if not 0 < len(space) <= MAX_RANK:
        return form
    best = min(space[::-1], key=lambda axis: _cost(axis, space, others, itemsize, costs))
    last = space[-1]
    if _cost(best, space, others, itemsize, costs) < costs.gain * _cost(
        last, space, others, itemsize, costs
    ):
        last = best
    space = [axis for axis in space if axis is not last] + [last]
    channels = [axis for axis in others if axis.slot == "channels"]
    axes = (*(axis for axis in others if axis.slot != "channels"), *space, *channels)
    if axes == form.axes:
        return form
    stated, img, krn = as_kernels_take_it(axes, geometry.mirrored)
    slots = {axis.slot: axis for axis in axes}
    out = (
        slots["batch"].out if "batch" in slots else 0,
        slots["outputs"].out
        if "outputs" in slots
        else slots["groups"].out
        if "groups" in slots
        else 0,
        *(axis.out for axis in space),
    )
    numbers = (channels[0].numbers if channels else 0, *(axis.numbers for axis in space))
    layout = Layout(img, krn, out, krn_begin, first_tap, numbers)
    return CanonicalForm(axes, stated, layout, reordered=True)


def _clipped(axis: Axis, mirrored: bool) -> tuple[Axis, int]:
    """The axis with those taps only that some output sees inside, and how many came before them.

    Borders stay at least 0, and with them the number of outputs.
    """
    if axis.role != "windowed":
        return axis, 0
    begin, end = axis.border
    taps, dilation = axis.taps, axis.dilation
    furthest = (axis.outputs - 1) * axis.step - begin  # where the last window begins
    least = min(max(0, -(furthest // dilation)), begin // dilation)
    most = max(min(taps, (axis.size - 1 + begin) // dilation + 1), taps - end // dilation)
    if not 0 <= least < most or most - least == taps:
        return axis, 0
    border = (begin - least * dilation, end - (taps - most) * dilation)
    left_out = taps - most if mirrored else least
    clipped = replace(axis, taps=most - least, border=border)
    if clipped.taps == 1 and border == (0, 0):
        clipped = replace(
            clipped, role="free", size=axis.outputs, img=axis.step * axis.img, krn=0,
            step=1, dilation=1,
        )  # fmt: skip
    return clipped, left_out


def _cost(axis: Axis, space: list[Axis], others: list[Axis], itemsize: int, costs: Costs) -> float:
    """Cycles for one output of one output channel, if vectors run along this axis."""
    lanes = costs.register // itemsize
    used = axis.outputs / (-(-axis.outputs // lanes) * lanes)
    channels = math.prod(a.size for a in others if a.slot == "channels")
    produced = math.prod(a.size for a in others if a.slot == "outputs")
    taps = channels * math.prod(a.taps for a in space)
    read = channels * math.prod(min(a.step, a.taps) for a in space) / produced
    contiguous = {
        a.img for a in (*space, *others) if a is not axis and a.size > 1 and a.slot != "outputs"
    }
    transposed = costs.block + costs.block_byte * itemsize
    load = store = costs.single
    if axis.img == 1:
        load = transposed / used if axis.step > 1 else costs.copied * itemsize
    elif 1 in contiguous:
        load = min(load, transposed)
    if axis.out == 1:
        store = costs.copied * itemsize
    else:
        run = max((a.outputs for a in space if a.out == 1), default=1)
        if run >= lanes or any(a.out == run and a is not axis for a in space):
            store = min(store, transposed)
    together = channels
    if axis.img != 1 and channels < costs.at_once:
        together *= next(
            (min(a.size, costs.at_once // channels) for a in others
             if a.slot == "groups" and a.img == 1), 1,
        )  # fmt: skip

    def halo(length: int) -> float:
        return _halo([a for a in space if a is not axis], together * length * itemsize, costs)

    if axis.role == "free":
        least = halo(lanes)
        loads = min(halo(costs.registers * lanes), max(costs.twice, least))
        store += costs.torn if least > 1 and axis.out != 1 else 0
    else:
        loads = halo(axis.step * axis.outputs + _reach(axis))
    load = read * load * loads + store
    return taps * costs.tap / (lanes * used) + load + costs.row / axis.outputs


def _reach(axis: Axis) -> int:
    return (axis.taps - 1) * axis.dilation


def _halo(outer: list[Axis], bytes_each: int, costs: Costs) -> float:
    """How often tiles load a position, of which each takes so many bytes for all channels."""
    windowed = [axis for axis in outer if axis.role == "windowed"]
    extents = [axis.step * axis.outputs + _reach(axis) for axis in windowed]
    fits = costs.scratch / bytes_each / math.prod(extents)
    if fits >= 1:
        return 1.0
    scale = fits ** (1 / len(windowed)) if windowed else 1.0
    tiles = [max(a.step, scale * n - _reach(a)) for a, n in zip(windowed, extents, strict=True)]
    return math.prod(1 + _reach(a) / n for a, n in zip(windowed, tiles, strict=True))
