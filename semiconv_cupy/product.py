"""A matrix product in a semifield: which numbers of which arrays meet, as levels of strides.

    out[s, f, p] = (+) over c of img[s, f, c] (x) krn[s, p, c]

Each index counts through *levels*, as nested loops do: a size, and for each array how far apart in
memory two neighbours are, 0 where the array lacks the axis. So transposed, strided and broadcast
operands are levels like any others, and convolutions without windows are products
(``canonical``). Array-free. Called by ``canonical``, ``route`` and whoever multiplies matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple


class Level(NamedTuple):
    """One of the nested loops of an index: its size, and the memory strides in elements."""

    size: int
    img: int = 0
    krn: int = 0
    out: int = 0

    def __str__(self) -> str:
        """The size, and the strides of the arrays that have this axis."""
        names = ("img", "krn", "out")
        steps = (f"{name} {step}" for name, step in zip(names, self[1:], strict=True) if step)
        return f"{self.size} ({', '.join(steps)})"


Levels = tuple[Level, ...]


@dataclass(frozen=True)
class Product:
    """A matrix product as its levels, each tuple from the outermost to the innermost one.

    A residual lies in memory as the result does.

    Attributes
    ----------
    shared : tuple of Level
        All arrays have these: batches of matrices. An operand that is broadcast has stride 0.
    free : tuple of Level
        Image and result have these: rows of ``a`` in ``a @ b``.
    produced : tuple of Level
        Kernel and result have these: columns of ``b``.
    contracted : tuple of Level
        Image and kernel have these; the result adds them up. Their order is the kernel's memory
        order: equal terms are decided by it, and it numbers a selection's winners.
    img_origin : int
        The image's number at index 0 of every level, in elements behind the array's first one. Only
        convolutions that mirror their kernel begin elsewhere.

    Examples
    --------
    >>> rows, columns, terms = Level(4, img=3, out=5), Level(5, krn=1, out=1), Level(3, 1, 5)
    >>> product = Product(free=(rows,), produced=(columns,), contracted=(terms,))
    >>> product.outputs, product.terms
    (20, 3)
    >>> print(product)
    free 4 (img 3, out 5); produced 5 (krn 1, out 1); contracted 3 (img 1, krn 5)
    """

    shared: Levels = ()
    free: Levels = ()
    produced: Levels = ()
    contracted: Levels = ()
    img_origin: int = 0

    def __str__(self) -> str:
        """The levels in words, those of size 1 left out."""
        return "; ".join(
            f"{role} {' x '.join(map(str, levels))}"
            for role, levels in self.roles
            if math.prod(level.size for level in levels) != 1
        )

    @property
    def roles(self) -> tuple[tuple[str, Levels], ...]:
        """(name, levels) of the four indices."""
        return tuple((field.name, getattr(self, field.name)) for field in fields(self)[:4])

    @property
    def outputs(self) -> int:
        """How many numbers the result has."""
        return math.prod(level.size for level in (*self.shared, *self.free, *self.produced))

    @property
    def terms(self) -> int:
        """How many terms are added up for each output."""
        return math.prod(level.size for level in self.contracted)

    @property
    def depth(self) -> int:
        """The number of levels of the index that has most."""
        return max(len(levels) for _, levels in self.roles)

    def merged(self) -> Product:
        """The same product with as few levels as possible: see `merged`."""
        return merged(self)[0]


def merged(*products: Product) -> list[Product]:
    """Products of the same sizes, neighbouring levels that lie together in all of them as one.

    Levels of size 1 are dropped. A product and its gradients' layout are merged together, so that
    they keep levels of the same sizes.

    Examples
    --------
    >>> rows, columns = (Level(2, 12, 0, 20), Level(4, 3, 0, 5)), (Level(5, 0, 1, 1),)
    >>> (product,) = merged(Product(free=rows, produced=columns, contracted=(Level(3, 1, 5),)))
    >>> print(product)
    free 8 (img 3, out 5); produced 5 (krn 1, out 1); contracted 3 (img 1, krn 5)
    """
    found = {
        role: _merged([getattr(product, role) for product in products])
        for role, _ in products[0].roles
    }
    return [
        Product(
            **{role: tuple(levels[n] for levels in found[role]) for role in found},
            img_origin=product.img_origin,
        )
        for n, product in enumerate(products)
    ]


def _merged(levels: Sequence[Levels]) -> list[Levels]:
    """[the level of each product] of an index, from the levels of each product."""
    found: list[Levels] = []
    for inner in zip(*levels, strict=True):
        size = inner[0].size
        if size == 1:
            continue
        outer = found[-1] if found else ()
        if outer and all(_lie_together(a, b) for a, b in zip(outer, inner, strict=True)):
            found[-1] = tuple(level._replace(size=outer[0].size * size) for level in inner)
        else:
            found.append(inner)
    return found


def _lie_together(outer: Level, inner: Level) -> bool:
    """Whether a step along the outer level is one whole inner level further, in every array."""
    return all(a == inner.size * b for a, b in zip(outer[1:], inner[1:], strict=True))
