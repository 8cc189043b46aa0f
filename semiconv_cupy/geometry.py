"""The geometry of a convolution: shapes in, a frozen, array-free plan out.

Padding, strides, dilation, groups and output sizes are decided only here, without arrays, dtypes
or semifields. ``conv`` and the PyTorch bridge make the plans; ``kernels_cu/geometry.cuh`` declares
the same struct for the kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from semiconv_cupy.errors import flag, integer

_LARGEST = 2**31 - 1  # stride, dilation or padding; then every offset fits into 64 bits
IntOrTuple = int | tuple[int, ...]
Padding = int | tuple[int, ...] | tuple[tuple[int, int], ...] | Literal["valid", "same"]
Kind = Literal["conv", "corr"]


@dataclass(frozen=True)
class Geometry:
    """How the windows of one convolution lie in its image.

    Sizes are in elements, one entry per spatial axis. `in_channels` counts the channels of one
    group (the kernel's second axis), `outputs_per_group` the output channels of one group, and
    `kernels` the kernel's first axis. Derived: `out_size` is
    floor((S + begin + end - d (K - 1) - 1) / s + 1), the shapes are (B, C, *S), (O, I, *K) and
    (B, out_channels, *out_size), `taps` counts the terms of one window, I * prod(K), and `padding`
    is begin and end of the first axis, then of the next.
    """

    batch: int
    groups: int
    in_channels: int
    outputs_per_group: int
    kernels: int
    image_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pad_begin: tuple[int, ...]
    pad_end: tuple[int, ...]
    mirrored: bool

    # Derived, and so not compared. Plain fields, not properties: torch.compile traces them.
    out_size: tuple[int, ...] = field(init=False, compare=False)
    out_channels: int = field(init=False, compare=False)
    img_shape: tuple[int, ...] = field(init=False, compare=False)
    krn_shape: tuple[int, ...] = field(init=False, compare=False)
    out_shape: tuple[int, ...] = field(init=False, compare=False)
    taps: int = field(init=False, compare=False)
    padding: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        out_size = tuple(
            (size + begin + end - d * (k - 1) - 1) // s + 1
            for size, begin, end, d, k, s in zip(
                self.image_size,
                self.pad_begin,
                self.pad_end,
                self.dilation,
                self.kernel_size,
                self.stride,
                strict=True,
            )
        )
        out_channels = self.groups * self.outputs_per_group
        derived = {
            "out_size": out_size,
            "out_channels": out_channels,
            "img_shape": (self.batch, self.groups * self.in_channels, *self.image_size),
            "krn_shape": (self.kernels, self.in_channels, *self.kernel_size),
            "out_shape": (self.batch, out_channels, *out_size),
            "taps": self.in_channels * math.prod(self.kernel_size),
            "padding": tuple(
                pad for pair in zip(self.pad_begin, self.pad_end, strict=True) for pad in pair
            ),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.image_size)

    @property
    def shares_kernels(self) -> bool:
        """Whether every group uses all kernels (group broadcasting)."""
        return self.groups > 1 and self.outputs_per_group == self.kernels

    def step(self, axis: int, index: int) -> int:
        """The image offset, in dilation steps, of kernel index `index` on spatial axis `axis`."""
        return self.kernel_size[axis] - 1 - index if self.mirrored else index

    @property
    def transposed_padding(self) -> tuple[tuple[int, int], ...]:
        """The padding of the adjoint operation: (end, begin) on each axis."""
        return tuple((end, begin) for begin, end in zip(self.pad_begin, self.pad_end, strict=True))

    @staticmethod
    def plan(
        img_shape: tuple[int, ...],
        krn_shape: tuple[int, ...],
        *,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        group_broadcasting: bool = False,
        kind: Kind = "conv",
    ) -> Geometry:
        """Check all arguments against the shapes and return the (cached) geometry.

        Raises
        ------
        ValueError
            A shape or value that does not fit; the message names the argument and its value.
        TypeError
            A value of the wrong type.

        Examples
        --------
        >>> Geometry.plan((1, 1, 5), (1, 1, 4), padding="same", dilation=2).out_size
        (5,)
        """
        return _cached_plan(
            tuple(img_shape),
            tuple(krn_shape),
            _normalised("stride", stride),
            _normalised("padding", padding),
            _normalised("dilation", dilation),
            integer("groups", groups),
            flag("group_broadcasting", group_broadcasting),
            _kind(kind),
        )

    @staticmethod
    def plan_uncached(
        img_shape: tuple[int, ...],
        krn_shape: tuple[int, ...],
        *,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        group_broadcasting: bool = False,
        kind: Kind = "conv",
    ) -> Geometry:
        """`plan` without the cache, for sizes that cannot be hashed (torch.compile's symbols)."""
        return _plan(
            tuple(img_shape),
            tuple(krn_shape),
            _normalised("stride", stride),
            _normalised("padding", padding),
            _normalised("dilation", dilation),
            integer("groups", groups),
            flag("group_broadcasting", group_broadcasting),
            _kind(kind),
        )


def _normalised(name: str, value: object) -> Any:
    """A geometry argument with lists and arrays as (nested) tuples, and integers as ints.

    The result can be hashed. 1.0 and True are refused, since they would hash like 1.
    """
    if type(value) is int or isinstance(value, str):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(_normalised(name, entry) for entry in value)
    if getattr(value, "ndim", 0):
        return _normalised(name, value.tolist())  # type: ignore[attr-defined]
    return integer(name, value)


def _plan(
    img_shape: tuple[int, ...],
    krn_shape: tuple[int, ...],
    stride: object,
    padding: object,
    dilation: object,
    groups: int,
    group_broadcasting: bool,
    kind: str,
) -> Geometry:
    _require_shapes(img_shape, krn_shape)
    rank = len(img_shape) - 2
    batch, _, *image_size = img_shape
    kernels, in_channels, *kernel_size = krn_shape
    _require_groups(img_shape, krn_shape, groups, group_broadcasting)
    strides = _per_axis("stride", stride, rank)
    dilations = _per_axis("dilation", dilation, rank)
    pads = _padding(padding, rank, dilations, tuple(kernel_size))
    geometry = Geometry(
        batch=batch,
        groups=groups,
        in_channels=in_channels,
        outputs_per_group=kernels if group_broadcasting else kernels // groups,
        kernels=kernels,
        image_size=tuple(image_size),
        kernel_size=tuple(kernel_size),
        stride=strides,
        dilation=dilations,
        pad_begin=tuple(begin for begin, _ in pads),
        pad_end=tuple(end for _, end in pads),
        mirrored=kind == "conv",
    )
    for name, values in (
        ("stride", strides),
        ("dilation", dilations),
        ("padding", tuple(max(pair) for pair in pads)),
    ):
        if max(values) > _LARGEST:
            raise ValueError(f"{name} must be below 2**31, got {max(values)}")
    if min(geometry.out_size) < 1:
        raise ValueError(
            f"the window does not fit into the padded image: image size {geometry.image_size}, "
            f"padding {pads}, kernel size {geometry.kernel_size}, dilation {dilations} give "
            f"output size {geometry.out_size}"
        )
    return geometry


def _require_shapes(img_shape: tuple[int, ...], krn_shape: tuple[int, ...]) -> None:
    """Raise unless the shapes are (B, C, *S) and (O, I, *K) of one rank."""
    if len(img_shape) < 3:
        raise ValueError(
            f"img must have shape (B, C, *S) with at least one spatial axis, got {img_shape}; "
            "a single picture is img[None, None]"
        )
    if len(krn_shape) != len(img_shape):
        raise ValueError(
            f"krn must have shape (O, I, *K) with as many axes as img: got krn {krn_shape} "
            f"and img {img_shape}; a single kernel is krn[None, None]"
        )
    if min(krn_shape) < 1:
        raise ValueError(f"krn must not be empty, got shape {krn_shape}")


def _require_groups(
    img_shape: tuple[int, ...], krn_shape: tuple[int, ...], groups: int, group_broadcasting: bool
) -> None:
    """Raise unless the channels of both shapes divide into the groups."""
    channels, (kernels, in_channels) = img_shape[1], krn_shape[:2]
    if groups < 1:
        raise ValueError(f"groups must be at least 1, got {groups}")
    if channels % groups:
        raise ValueError(f"groups must divide the channels of img: {channels=}, {groups=}")
    if in_channels != channels // groups:
        raise ValueError(
            f"krn must have {channels // groups} input channels (img channels / groups = "
            f"{channels} / {groups}), got krn of shape {krn_shape} and img of shape {img_shape}"
            + _channel_remedy(channels, groups, kernels, in_channels, img_shape[-1])
        )
    if kernels % groups and not group_broadcasting:
        raise ValueError(
            f"groups must divide the output channels of krn unless group_broadcasting: "
            f"{kernels=}, {groups=}"
        )


def _channel_remedy(
    channels: int, groups: int, kernels: int, in_channels: int, last_size: int
) -> str:
    """A hint for the error text: what a kernel with the wrong number of channels could mean."""
    if last_size <= 4 < channels:
        return "; channels come second, as numpy.moveaxis(img, -1, 1) has them"
    if in_channels != 1 or groups != 1:
        return ""
    if kernels % channels:
        return f"; one kernel for every channel is groups={channels}, group_broadcasting=True"
    return f"; a kernel for each channel is groups={channels}"


def _kind(value: object) -> Any:
    if isinstance(value, str) and value in ("conv", "corr"):
        return value
    error = ValueError if isinstance(value, str) else TypeError
    raise error(f'kind must be "conv" or "corr", got {value!r}')


_cached_plan = lru_cache(maxsize=4096, typed=True)(_plan)


def _per_axis(name: str, value: object, rank: int) -> tuple[int, ...]:
    if isinstance(value, tuple):
        entries = tuple(integer(name, entry) for entry in value)
        if len(entries) != rank:
            raise ValueError(f"{name} must have one entry per spatial axis ({rank}), got {value!r}")
    else:
        entries = (integer(name, value),) * rank
    if min(entries) < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return entries


def _padding(
    value: object, rank: int, dilation: tuple[int, ...], kernel_size: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    if isinstance(value, str):
        if value == "valid":
            return ((0, 0),) * rank
        if value == "same":
            return tuple(
                (d * ((k - 1) // 2), d * (k // 2))
                for d, k in zip(dilation, kernel_size, strict=True)
            )
        raise ValueError(
            f'padding must be "valid", "same" or integers, got {value!r}; for another border pad '
            "the image first, or see semiconv_cupy.ndimage"
        )
    if not isinstance(value, tuple):
        pads: tuple[tuple[int, int], ...] = ((integer("padding", value),) * 2,) * rank
    else:
        if len(value) != rank:
            raise ValueError(
                f"padding must have one entry per axis ({rank}), an int or a (begin, end) pair, "
                f"got {value!r}"
            )
        entries = []
        for entry in value:
            if isinstance(entry, tuple):
                if len(entry) != 2:
                    raise ValueError(f"padding pairs are (begin, end), got {entry!r} in {value!r}")
                entries.append((integer("padding", entry[0]), integer("padding", entry[1])))
            else:
                entries.append((integer("padding", entry),) * 2)
        pads = tuple(entries)
    if min(min(pair) for pair in pads) < 0:
        raise ValueError(f"padding must not be negative, got {value!r}")
    return pads
