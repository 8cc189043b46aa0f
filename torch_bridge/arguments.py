"""What the raw operators take, declared once: names, order and schema follow from these classes.

The dispatcher hands an operator's arguments over as one flat list, a geometry's entries in the
middle of it. Called by `ops` and `autograd`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, get_type_hints

from torch import Tensor

from semiconv_cupy.geometry import Geometry

Axes = Annotated[tuple[int, ...], "int[]"]
Shape = Annotated[tuple[int, ...], "SymInt[]"]  # may follow from sizes that are symbols

_SCHEMA_TYPES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    str: "str",
    bool: "bool",
    int: "int",
    float: "float",
    Axes: "int[]",
    Shape: "SymInt[]",
}


class GeometryArguments(NamedTuple):
    """The geometry of a convolution, without the shapes of its tensors."""

    stride: Axes
    padding: Axes  # begin and end of the first axis, then of the next
    dilation: Axes
    groups: int
    group_broadcasting: bool
    mirrored: bool

    @classmethod
    def of(cls, geometry: Geometry) -> GeometryArguments:
        """The arguments from which `plan` makes this geometry again."""
        return cls(
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
            geometry.shares_kernels,
            geometry.mirrored,
        )

    def plan(self, img_shape: Sequence[int], krn_shape: Sequence[int]) -> Geometry:
        """The geometry for these shapes, planned without a cache: sizes may be symbols."""
        return Geometry.plan_uncached(
            tuple(img_shape),
            tuple(krn_shape),
            stride=self.stride,
            padding=tuple(zip(self.padding[::2], self.padding[1::2], strict=True)),
            dilation=self.dilation,
            groups=self.groups,
            group_broadcasting=self.group_broadcasting,
            kind="conv" if self.mirrored else "corr",
        )


class ForwardArguments(NamedTuple):
    """The arguments of ``semiconv::forward``."""

    img: Tensor
    krn: Tensor
    semifield: str  # the key of a `Handle`
    geometry: GeometryArguments
    residual: bool  # whether to return what the derivative needs

    @classmethod
    def received(cls, *flat: Any) -> ForwardArguments:
        """The arguments as the dispatcher hands them over."""
        return cls._make(_nested(cls, flat))


class BackwardArguments(NamedTuple):
    """The arguments of ``semiconv::backward``."""

    grad_out: Tensor
    img: Tensor | None
    krn: Tensor | None
    residual: Tensor
    semifield: str
    img_shape: Shape
    krn_shape: Shape
    geometry: GeometryArguments
    want_img: bool
    want_krn: bool

    @classmethod
    def received(cls, *flat: Any) -> BackwardArguments:
        """The arguments as the dispatcher hands them over."""
        return cls._make(_nested(cls, flat))


class ParametricArguments(NamedTuple):
    """The arguments of ``semiconv::parametric_forward``."""

    img: Tensor
    krn: Tensor
    parameter: Tensor  # one number, or one for each kernel, in the dtype of arithmetic; or rows
    semifield: str
    geometry: GeometryArguments
    residual: bool  # whether to return what the derivative by img and krn needs
    slopes: bool  # and, behind it, the derivative of each output by the parameter

    @classmethod
    def received(cls, *flat: Any) -> ParametricArguments:
        """The arguments as the dispatcher hands them over."""
        return cls._make(_nested(cls, flat))


class ParametricBackwardArguments(NamedTuple):
    """The arguments of ``semiconv::parametric_backward``."""

    grad_out: Tensor
    img: Tensor
    krn: Tensor
    parameter: Tensor
    residual: Tensor
    semifield: str
    geometry: GeometryArguments
    slopes: bool  # whether the forward pass returned them in the residual
    want_img: bool
    want_krn: bool
    want_parameter: bool

    @classmethod
    def received(cls, *flat: Any) -> ParametricBackwardArguments:
        """The arguments as the dispatcher hands them over."""
        return cls._make(_nested(cls, flat))


class MeansArguments(NamedTuple):
    """The arguments of ``semiconv::means``."""

    img: Tensor
    rate: Tensor  # one number, or one for each channel, in the dtype of arithmetic
    powers: bool  # whether the mean is of powers of the values, or of exponentials
    eps: float
    out_size: Shape
    size: Axes
    stride: Axes
    dilation: Axes
    before: Axes  # how far the first window begins before the image
    kept: int  # residuals: 0, 2, or 3 with the derivative by the rate

    @classmethod
    def received(cls, *flat: Any) -> MeansArguments:
        """The arguments as the dispatcher hands them over."""
        return cls._make(tuple(value) if isinstance(value, list) else value for value in flat)


class MeansBackwardArguments(NamedTuple):
    """The arguments of ``semiconv::means_backward``."""

    grad_out: Tensor
    residual: Tensor
    img: Tensor
    rate: Tensor
    powers: bool
    eps: float
    out_size: Shape
    size: Axes
    stride: Axes
    dilation: Axes
    before: Axes
    kept: int
    want_img: bool
    want_rate: bool

    @classmethod
    def received(cls, *flat: Any) -> MeansBackwardArguments:
        """The arguments as the dispatcher hands them over."""
        return cls._make(tuple(value) if isinstance(value, list) else value for value in flat)

    @property
    def forward(self) -> MeansArguments:
        """Those of the forward pass."""
        return MeansArguments._make(self[2:12])


class ProductArguments(NamedTuple):
    """The arguments of ``semiconv::product``."""

    a: Tensor
    b: Tensor
    semifield: str
    residual: bool

    @classmethod
    def received(cls, *flat: Any) -> ProductArguments:
        """The arguments as the dispatcher hands them over."""
        return cls._make(flat)


class ProductBackwardArguments(NamedTuple):
    """The arguments of ``semiconv::product_backward``."""

    grad_out: Tensor
    a: Tensor | None
    b: Tensor | None
    residual: Tensor
    semifield: str
    a_shape: Shape
    b_shape: Shape
    want_a: bool
    want_b: bool

    @classmethod
    def received(cls, *flat: Any) -> ProductBackwardArguments:
        """The arguments as the dispatcher hands them over."""
        return cls._make(tuple(value) if isinstance(value, list) else value for value in flat)


def schema(arguments: type) -> str:
    """The arguments in the language of `torch.library`, a geometry's in place of it."""
    hints = get_type_hints(arguments, include_extras=True)
    return ", ".join(
        schema(kind) if kind is GeometryArguments else f"{_SCHEMA_TYPES[kind]} {name}"
        for name, kind in hints.items()
    )


def _nested(arguments: Any, flat: Sequence[Any]) -> list[Any]:
    """The flat arguments with a geometry's gathered into one, and tuples in place of lists."""
    values = [tuple(value) if isinstance(value, list) else value for value in flat]
    begin = arguments._fields.index("geometry")
    end = begin + len(GeometryArguments._fields)
    values[begin:end] = [GeometryArguments._make(values[begin:end])]
    return values
