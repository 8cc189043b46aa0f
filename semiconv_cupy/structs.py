"""The structs that Python hands to C++ and CUDA: each is declared once here, and once in C++.

ctypes passes them to the host's functions; launches take the same bytes as a NumPy scalar, whose
dtype follows from the same declaration. ``ndimage.structs`` has those of the neighbourhood filters.
A test compares every field's place with the C++ side.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np

from semiconv_cupy.algebra.own import MOST_PARAMETERS

if TYPE_CHECKING:
    from semiconv_cupy import geometry, product
    from semiconv_cupy.algebra import Semifield
    from semiconv_cupy.layout import Layout

MAX_RANK = 8  # spatial axes of an array at most: max_rank of kernels_cu/integers.cuh
MAX_LEVELS = MAX_RANK + 1  # of an index of a matrix product: max_levels of kernels_cu/product.cuh
Axes = ctypes.c_int64 * MAX_RANK
Strides = ctypes.c_int64 * (MAX_RANK + 2)
TapSteps = ctypes.c_int64 * (MAX_RANK + 1)
_OF_A_WINDOW = ("size", "stride", "dilation", "before")
_ROLES = ("shared", "free", "produced", "contracted")  # of a product's indices


class Struct(ctypes.Structure):
    """The struct of ``kernels_cu/<file>`` that is called as the class is, field by field.

    Examples
    --------
    >>> Divisor(3, 4, 5).scalar()["shift"].item(), Divisor.dtype().itemsize
    (5, 12)
    """

    file: ClassVar[str]

    @classmethod
    @cache
    def dtype(cls) -> np.dtype:
        """NumPy's dtype of the same layout."""
        return np.dtype(cls)

    def scalar(self) -> np.void:
        """The struct's bytes as a NumPy scalar, which a launch passes by value."""
        found: np.void = np.frombuffer(bytes(self), self.dtype())[0]
        return found


class Parameters(Struct):
    """The numbers of a semifield for one launch: `values`, or those at an address.

    Examples
    --------
    >>> Parameters.of_numbers((2.5,)).values[0]
    2.5
    """

    file = "parameters.cuh"
    _fields_ = (
        ("at", ctypes.c_void_p),
        ("channels", ctypes.c_int64),
        ("values", ctypes.c_double * MOST_PARAMETERS),
    )

    @classmethod
    def of_numbers(cls, values: Sequence[float]) -> Parameters:
        """Numbers that the launch carries itself."""
        return cls(None, 1, (ctypes.c_double * MOST_PARAMETERS)(*values))

    @classmethod
    def of_semifield(cls, semifield: Semifield) -> Parameters:
        """The values that a semifield has itself; nothing where it has none."""
        return cls.of_numbers(tuple(semifield.parameters.values()))

    @classmethod
    def of_memory(cls, address: int, channels: int) -> Parameters:
        """Numbers of arithmetic, C-contiguous: of each parameter so many channels."""
        return cls(address, channels)


class Geometry(Struct):
    """A plan of windows, and how the arrays lie in memory."""

    file = "geometry.cuh"
    _fields_ = (
        ("rank", ctypes.c_int64),
        ("mirrored", ctypes.c_int64),
        ("shares_kernels", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("groups", ctypes.c_int64),
        ("in_channels", ctypes.c_int64),
        ("outputs_per_group", ctypes.c_int64),
        ("kernels", ctypes.c_int64),
        ("image_size", Axes),
        ("kernel_size", Axes),
        ("out_size", Axes),
        ("stride", Axes),
        ("dilation", Axes),
        ("pad_begin", Axes),
        ("img_strides", Strides),
        ("krn_strides", Strides),
        ("out_strides", Strides),
        ("krn_begin", ctypes.c_int64),
        ("first_tap", ctypes.c_int64),
        ("tap_steps", TapSteps),
        ("parameters", Parameters),  # set for each call
    )

    @classmethod
    def of(
        cls, plan: geometry.Geometry, layout: Layout, semifield: Semifield | None = None
    ) -> Geometry:
        """The struct of a plan on arrays that lie so, with the semifield's own parameters."""
        fields: dict[str, object] = {
            "img_strides": Strides(*layout.img),
            "krn_strides": Strides(*layout.krn),
            "out_strides": Strides(*layout.out),
            "krn_begin": layout.krn_begin,
            "first_tap": layout.first_tap,
            "tap_steps": TapSteps(*layout.tap_steps),
            "parameters": _parameters_of(semifield),
        }
        for name, kind in cls._fields_:
            if name in fields:
                continue
            value = getattr(plan, name)
            if name == "stride":  # of an axis with one output: any serves, and 1 needs no memory
                value = tuple(
                    1 if size == 1 else step
                    for size, step in zip(plan.out_size, value, strict=True)
                )
            fields[name] = Axes(*value) if kind is Axes else int(value)
        return cls(**fields)


def _parameters_of(semifield: Semifield | None) -> Parameters:
    return Parameters(None, 1) if semifield is None else Parameters.of_semifield(semifield)


_WithParameters = TypeVar("_WithParameters", Geometry, "Product")
_Made = TypeVar("_Made")


def with_parameters(struct: _WithParameters, parameters: Parameters | None) -> _WithParameters:
    """The struct, or a copy of it that has these parameters: calls at a time share the first."""
    if parameters is None:
        return struct
    own = type(struct).from_buffer_copy(struct)
    own.parameters = parameters
    return own


class Latest(Generic[_Made]):
    """What `make` makes of a call's parameters, remembered as long as they stay these numbers."""

    def __init__(self, make: Callable[[Parameters], _Made]) -> None:
        self._make = make
        self._latest: tuple[bytes, _Made] | None = None

    def of(self, parameters: Parameters) -> _Made:
        """That of these parameters."""
        key, latest = bytes(parameters), self._latest  # one read: other threads may call, too
        if latest is None or latest[0] != key:
            latest = self._latest = key, self._make(parameters)
        return latest[1]


def referring(struct: _WithParameters) -> Callable[[Parameters | None], Any]:
    """What makes a reference to `with_parameters` of the struct, for calls by ctypes."""
    plain = ctypes.byref(struct)
    latest = Latest(lambda parameters: ctypes.byref(with_parameters(struct, parameters)))
    return lambda parameters: plain if parameters is None else latest.of(parameters)


def scalar_with_parameters(struct: np.void, parameters: Parameters | None) -> np.void:
    """`with_parameters` of what a launch passes by value."""
    if parameters is None:
        return struct
    raw, begin = bytearray(struct.tobytes()), struct.dtype.fields["parameters"][1]  # type: ignore[index]
    raw[begin : begin + ctypes.sizeof(Parameters)] = bytes(parameters)
    own: np.void = np.frombuffer(raw, struct.dtype)[0]  # copying field by field takes 70 us
    return own


class Level(Struct):
    """One of the nested loops of an index of a matrix product, with its strides in elements."""

    file = "product.cuh"
    _fields_ = tuple((name, ctypes.c_int64) for name in ("size", "img", "krn", "out"))


class Product(Struct):
    """A matrix product as the levels of its indices."""

    file = "product.cuh"
    _fields_ = (
        *((f"{role}_levels", ctypes.c_int64) for role in _ROLES),
        *((role, Level * MAX_LEVELS) for role in _ROLES),
        ("matrix_step", ctypes.c_int64),
        ("parameters", Parameters),  # set for each call
    )

    @classmethod
    def of(
        cls, plan: product.Product, matrix_step: int = 0, semifield: Semifield | None = None
    ) -> Product:
        """The struct of a plan whose levels it has room for; the rest as of `Geometry`."""
        counts = {f"{role}_levels": len(levels) for role, levels in plan.roles}
        levels = {
            role: (Level * MAX_LEVELS)(*(Level(*level) for level in levels))
            for role, levels in plan.roles
        }
        return cls(
            **counts, **levels, matrix_step=matrix_step, parameters=_parameters_of(semifield)
        )


class ProductCut(Struct):
    """How a launch cuts a matrix product into tiles of outputs and parts of terms."""

    file = "cuda/product_tile.cuh"
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in (
            *("rows", "columns", "terms", "tiles_y", "tiles_x", "parts", "team_terms"),
            *("row_copies", "column_copies", "whole_chunks"),
        )
    )


class TransformedOperand(Struct):
    """One operand of a matrix product by ordinary sums, and how its blocks are cut."""

    file = "cuda/product_by_sums.cu"
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("of_kernel", "by_terms", "rows", "pitch", "terms", "parts", "part_terms")
    )


class ProductGradient(Struct):
    """Sizes of one operand's gradient of a matrix product, and how the other index is shared."""

    file = "cuda/product_gradient.cu"
    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("matrices", "own", "other", "terms", "parts", "part_size")
    )


class InOrder(Struct):
    """An array that is copied into C order: the axes that are exchanged, and the others."""

    file = "cuda/in_order.cu"
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("near", "near_stride", "near_step")),
        *((name, ctypes.c_int64) for name in ("last", "last_stride", "others")),
        *((name, Strides) for name in ("size", "stride", "step")),
        ("blocks", ctypes.c_int64),
    )


class Divisor(Struct):
    """A number by which kernels divide: n // divisor == n * multiplier >> (31 + shift)."""

    file = "divisor.cuh"
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("divisor", "multiplier", "shift"))

    @classmethod
    def of(cls, number: int) -> Divisor:
        """The multiplier and shift that are right for all n < 2**31.

        Granlund and Montgomery, Division by invariant integers using multiplication, 1994.
        """
        shift = (number - 1).bit_length()
        return cls(number, -(-(1 << (31 + shift)) // number), shift)


class Division(Struct):
    """What a tiled launch divides the numbers of its blocks by."""

    file = "cuda/place.cuh"
    _fields_ = tuple((name, Divisor) for name in ("tiles_x", "tiles_y", "blocks", "groups"))


class WindowMeans(Struct):
    """Which windows means are of, in planes of three axes."""

    file = "means.cuh"
    _fields_ = (
        ("planes", ctypes.c_int64),
        ("rates", ctypes.c_int64),
        ("kept", ctypes.c_int64),
        *((name, ctypes.c_int64 * 3) for name in ("img", "out", *_OF_A_WINDOW)),
        *((name, Divisor * 3) for name in ("by_img", "by_out", "by_stride")),
        ("together", ctypes.c_int64),
        ("plain", ctypes.c_int64),
        ("eps", ctypes.c_double),
    )
