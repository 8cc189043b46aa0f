"""How the operands of a matrix product meet: `numpy.matmul`'s rules, and the levels they mean.

Array-free, like the geometry of a convolution. Called by ``matmul`` and by the PyTorch bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from semiconv_cupy.product import Level, Product
from semiconv_cupy.strides import Strides

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operands:
    """The shapes of one product: a (*batch, rows, terms) by b (*batch, terms, columns).

    Attributes
    ----------
    a_shape, b_shape : tuple of int
        As they were given. One axis alone is that of the terms.
    batch : tuple of int
        The leading axes of both, broadcast.
    rows, columns : int or None
        None where `a` or `b` has one axis alone, so that the result lacks that axis.
    terms : int
        The length of the axis that is added up.

    Examples
    --------
    >>> operands = Operands.of((7, 1, 2, 3), (5, 3, 4))
    >>> operands.batch, operands.terms, operands.out_shape
    ((7, 5), 3, (7, 5, 2, 4))
    >>> Operands.of((3,), (5, 3, 4)).out_shape
    (5, 4)
    """

    a_shape: Shape
    b_shape: Shape
    batch: Shape
    rows: int | None
    columns: int | None
    terms: int

    @classmethod
    def of(cls, a_shape: Sequence[int], b_shape: Sequence[int]) -> Operands:
        """The operands of these shapes.

        Raises
        ------
        ValueError
            A scalar, or shapes that do not fit.
        """
        a, b = tuple(a_shape), tuple(b_shape)
        for name, shape in (("a", a), ("b", b)):
            if not shape:
                raise ValueError(
                    f"{name} must have at least one axis, got a scalar; multiply each element by "
                    "the semifield's times"
                )
        terms, its_terms = a[-1], b[-2] if len(b) > 1 else b[-1]
        if terms != its_terms:
            raise ValueError(
                f"the last axis of a and the {'second to last' if len(b) > 1 else 'only'} axis of "
                f"b must have one length, got a of shape {a} and b of shape {b}"
            )
        return cls(
            a_shape=a,
            b_shape=b,
            batch=_broadcast(a, b),
            rows=a[-2] if len(a) > 1 else None,
            columns=b[-1] if len(b) > 1 else None,
            terms=terms,
        )

    @cached_property
    def out_shape(self) -> Shape:
        """The shape of the result."""
        return (*self.batch, *(size for size in (self.rows, self.columns) if size is not None))

    def product(self, a: Strides, b: Strides, out: Strides) -> Product:
        """The product of arrays of these strides, in elements.

        A leading axis that only `a` has is one more axis of rows, one that only `b` has, of
        columns: there, one matrix meets many. Shapes decide about that, not strides, so the product
        of two arrays and that of their gradients have levels of the same roles and sizes.
        """
        levels: dict[str, list[Level]] = {"shared": [], "free": [], "produced": []}
        in_a, in_b = (self._in_batch(shape) for shape in (self.a_shape, self.b_shape))
        for axis, size in enumerate(self.batch):
            of_a, of_b = (
                strides[within[axis]] if axis in within else 0
                for strides, within in ((a, in_a), (b, in_b))
            )
            both = axis in in_a and axis in in_b
            role = "shared" if both else "free" if axis in in_a else "produced"
            levels[role].append(Level(size, of_a, of_b, out[axis]))
        if self.rows is not None:
            levels["free"].append(Level(self.rows, img=a[-2], out=out[len(self.batch)]))
        if self.columns is not None:
            levels["produced"].append(Level(self.columns, krn=b[-1], out=out[-1]))
        of_terms = Level(self.terms, a[-1], b[-1] if self.columns is None else b[-2])
        shared, free, produced = map(tuple, levels.values())
        return Product(shared, free, produced, contracted=(of_terms,))

    def _in_batch(self, shape: Shape) -> dict[int, int]:
        """Axis of the batch -> the operand's own axis, where the operand is not broadcast."""
        lacking = len(self.batch) - max(len(shape) - 2, 0)
        return {
            axis: axis - lacking
            for axis in range(lacking, len(self.batch))
            if shape[axis - lacking] == self.batch[axis]
        }


def _broadcast(a: Shape, b: Shape) -> Shape:
    """The leading axes of both shapes, by NumPy's rules."""
    batches = a[:-2], b[:-2]
    length = max(map(len, batches))
    padded = [(1,) * (length - len(batch)) + batch for batch in batches]
    batch = []
    for one, other in zip(*padded, strict=True):
        if one != other and 1 not in (one, other):
            raise ValueError(
                "the axes before the last two must be the same or broadcast, got a of shape "
                f"{a} and b of shape {b}"
            )
        batch.append(other if one == 1 else one)
    return tuple(batch)
