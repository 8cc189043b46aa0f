"""Families of shapes that people have: random shapes of convolutions; no dtypes and no arrays.

A family draws the shapes of one image, for about so many pairs; ``shapes`` makes works of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Literal, NamedTuple

from benchmarks.works import Memory


class Shape(NamedTuple):
    """The shapes of a convolution of one image, of which a work has several."""

    image: tuple[int, ...]  # without the batch
    kernel: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: int | Literal["same"] = "same"
    memory: Memory = "rows"
    most: int = 2**62  # images


def between(rng: random.Random, least: float, most: float) -> int:
    """An integer of this range whose logarithm is uniform."""
    most = max(least, most)
    return max(1, round(math.exp(rng.uniform(math.log(least), math.log(most)))))


def odd(rng: random.Random, least: int, most: int) -> int:
    """An odd integer of this range."""
    return rng.randrange(least | 1, most + 1, 2)


def sides(rng: random.Random, elements: float, least: int, stretch: float = 2) -> tuple[int, int]:
    """Two sides of a plane of about so many elements, the first `stretch` times longer at most."""
    side, stretched = math.sqrt(max(1, elements)), math.exp(rng.uniform(-1, 1) * math.log(stretch))
    return max(least, round(side * stretched)), max(least, round(side / stretched))


def _planes(rng: random.Random, pairs: float) -> Shape:
    size = odd(rng, 3, 15)
    return Shape((1, *sides(rng, pairs / size**2, size, 8)), (1, 1, size, size))


def _colour(rng: random.Random, pairs: float) -> Shape:
    size = odd(rng, 3, 15)
    channels = rng.choice((3, 3, 3, 4))
    plane = sides(rng, pairs / size**2 / channels, size)
    return Shape((1, *plane, channels), (1, 1, size, size, 1))


def _dense(rng: random.Random, pairs: float) -> Shape:
    inputs, outputs = between(rng, 32, 2048), between(rng, 8, 2048)
    one = (1,) * rng.choice((1, 2))
    return Shape((inputs, *one), (outputs, inputs, *one))


def _pointwise(rng: random.Random, pairs: float) -> Shape:
    inputs, outputs = between(rng, 8, 512), between(rng, 8, 512)
    side = min(between(rng, 4, 128), math.isqrt(int(pairs / inputs / outputs)) + 1)
    return Shape((inputs, side, side), (outputs, inputs, 1, 1))


def _mixing(rng: random.Random, pairs: float) -> Shape:
    inputs, outputs = between(rng, 3, 128), between(rng, 4, 128)
    size = rng.choice((3, 3, 5))
    side = min(between(rng, 5, 64), math.isqrt(int(pairs / inputs / outputs / size**2)) + size)
    return Shape((inputs, side, side), (outputs, inputs, size, size), stride=rng.choice((1, 1, 2)))


def _small_images(rng: random.Random, pairs: float) -> Shape:
    channels, side = between(rng, 1, 64), between(rng, 5, 32)
    size = min(odd(rng, 3, 7), side)
    return Shape((channels, side, side), (channels, 1, size, size), groups=channels)


def _short_last(rng: random.Random, pairs: float) -> Shape:
    last = rng.randint(1, 8)
    size, other = odd(rng, 3, 31), rng.choice((1, 3))
    most = max(size, round(pairs / last / size / other))
    return Shape((1, between(rng, max(size, 200), most), last), (1, 1, size, min(other, last | 1)))


def _few_long_rows(rng: random.Random, pairs: float) -> Shape:
    rows, size = rng.randint(2, 12), odd(rng, 3, 15)
    return Shape((1, rows, max(size, round(pairs / rows / size**2))), (1, 1, size, size), most=1)


def _batches(rng: random.Random, pairs: float) -> Shape:
    rank = rng.choice((1, 1, 2, 2, 3))
    image = [between(rng, 4, (64, 20, 10)[rank - 1]) for _ in range(rank)]
    window = [min(size, rng.choice((2, 3, 3, 5))) for size in image]
    return Shape((1, *image), (1, 1, *window))


def _signals(rng: random.Random, pairs: float) -> Shape:
    length, channels = between(rng, 16, 100_000), rng.choice((1, 1, 4, 32))
    size = between(rng, 3, min(length, 501))
    return Shape((channels, length), (channels, 1, size), groups=channels)


def _mixed_signals(rng: random.Random, pairs: float) -> Shape:
    inputs, outputs = between(rng, 8, 128), between(rng, 8, 128)
    length, size = between(rng, 16, 4000), rng.choice((1, 3, 5, 9))
    return Shape((inputs, length), (outputs, inputs, size))


def _whole_image(rng: random.Random, pairs: float) -> Shape:
    if rng.random() < 0.5:  # windows about every element: side^4 pairs, 9/16 of them inside
        side = between(rng, 8, (pairs * 16 / 9) ** 0.25)
        size = side | 1
        return Shape((1, side, side), (1, 1, size, size))
    side, inputs, outputs = between(rng, 4, 64), between(rng, 1, 16), between(rng, 4, 64)
    return Shape((inputs, side, side), (outputs, inputs, side, side), padding=0)


def _strides(rng: random.Random, pairs: float) -> Shape:
    size, channels = rng.randint(2, 7), rng.choice((1, 8, 64))
    plane = sides(rng, between(rng, 14**2, 512**2), 8)
    step = rng.randint(2, size)
    return Shape((channels, *plane), (channels, 1, size, size), stride=step, groups=channels)


def _dilations(rng: random.Random, pairs: float) -> Shape:
    size, dilation = odd(rng, 3, 7), rng.randint(2, 8)
    plane = sides(rng, between(rng, 40**2, 700**2), size)
    return Shape((1, *plane), (1, 1, size, size), dilation=dilation)


def _volumes(rng: random.Random, pairs: float) -> Shape:
    window = tuple(rng.choice((1, 3, 5, 7)) for _ in range(3))
    window = window if max(window) > 1 else (3, 3, 3)
    space = [between(rng, 4, 128) for _ in range(3)]
    return Shape((1, *space), (1, 1, *window))


def _channels_last(rng: random.Random, pairs: float) -> Shape:
    draw = rng.choice((_small_images, _mixing, _strides))
    return draw(rng, pairs)._replace(memory="channels last")


def _in_memory(*orders: Memory) -> Callable[[random.Random, float], Shape]:
    """Works of other families, whose images lie in memory in one of these orders."""

    def draw(rng: random.Random, pairs: float) -> Shape:
        family = rng.choice((_planes, _mixing, _small_images, _signals, _volumes, _colour))
        return family(rng, pairs)._replace(memory=rng.choice(orders))

    return draw


CONVOLUTIONS: dict[str, Callable[[random.Random, float], Shape]] = {
    "planes": _planes,
    "colour": _colour,
    "dense": _dense,
    "pointwise": _pointwise,
    "mixing": _mixing,
    "small images": _small_images,
    "batches": _batches,
    "short last axis": _short_last,
    "few long rows": _few_long_rows,
    "signals": _signals,
    "mixed signals": _mixed_signals,
    "whole image": _whole_image,
    "strides": _strides,
    "dilations": _dilations,
    "volumes": _volumes,
    "channels last": _channels_last,
    "transposed": _in_memory("transposed"),
    "every second": _in_memory("every second"),
}
# What is hard about the works of a family; one image of one channel is "other".
ROLES = {
    "depthwise": ("small images", "strides", "signals"),
    "mixing": ("mixing", "pointwise", "mixed signals"),
    "dense": ("dense",),
    "colour": ("colour", "box, colour", "disk, colour", "structure, colour"),
    "batch": ("batches",),
    "memory order": ("channels last", "transposed", "every second"),
}


def role_of(family: str) -> str:
    """The role of a family's works, convolutions and filters alike."""
    return next((role for role, of in ROLES.items() if family in of), "other")
