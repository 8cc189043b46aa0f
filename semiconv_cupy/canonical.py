"""The equal work that runs fastest: a convolution's axes by their roles, rewritten.

The time of a term depends on how long the innermost axis is, not on what the axes are called. So
before a convolution is computed, each axis is described by its role, size, taps and memory strides,
and neighbouring axes that lie together in memory become one:

    img (1, 1, 512, 512, 16)                     img (64, 1, 40)
    krn (1, 1, 3, 1, 1)                          krn (1, 1, 1)

    windowed 512, 3 taps - windowed 512, 3 taps  batch 64 -.
    free 512 -.                                             >- free 2560
               >---------- free 8192             free  40 -'
    free  16 -'

A short free axis joins the windows around it. A row of a colour picture has 3 W numbers, and
neighbouring taps lie 3 numbers apart; a border of one pixel is one of 3 numbers:

    img (1, 1, H, 640, 3)     krn (1, 1, 3, 3, 1)

    windowed 640, 3 taps -.
                           >- windowed 1920, 3 taps 3 apart
    free 3 ---------------'

No element moves: image, kernel, result and residual keep their memory, and taps their numbers.
Array-free. Called by ``route``, for forward passes, when a call is planned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from semiconv_cupy.geometry import Geometry
from semiconv_cupy.layout import Layout
from semiconv_cupy.product import Level, Product
from semiconv_cupy.strides import Strides, contiguous_strides

Role = Literal["free", "contracted", "produced", "windowed"]
Slot = Literal["batch", "groups", "outputs", "space", "channels"]


@dataclass(frozen=True)
class Axis:
    """One axis of a work.

    Attributes
    ----------
    role : {"free", "contracted", "produced", "windowed"}
        Free: image and result share it, each position by itself (a batch, groups, a spatial axis of
        one tap). Contracted: image and kernel share it, the result adds it up (input channels).
        Produced: kernel and result share it (output channels). Windowed: a spatial axis whose
        outputs see several positions, or positions outside.
    slot : {"batch", "groups", "outputs", "space", "channels"}
        Where a `Geometry` states it.
    size : int
        Positions in the image; in the result for a produced axis.
    img, krn, out : int
        Memory strides in elements; 0 for an array that does not have the axis.
    taps, step, dilation : int
        The window: its taps, and how many positions lie between outputs and between taps.
    border : (int, int)
        How far windows reach beyond the image, before and after it.
    numbers : int
        The difference of the tap numbers of neighbouring taps; a winner is stored as a tap number.
    """

    role: Role
    slot: Slot
    size: int
    img: int = 0
    krn: int = 0
    out: int = 0
    taps: int = 1
    step: int = 1
    dilation: int = 1
    border: tuple[int, int] = (0, 0)
    numbers: int = 0

    @property
    def outputs(self) -> int:
        """Positions in the result."""
        reach = self.dilation * (self.taps - 1)
        return (self.size + sum(self.border) - reach - 1) // self.step + 1

    def __str__(self) -> str:
        """As in the drawings above."""
        if self.role != "windowed":
            return f"{self.role} {self.size}"
        apart = f" {self.dilation} apart" if self.dilation > 1 and self.taps > 1 else ""
        step = f", step {self.step}" if self.step > 1 else ""
        return f"windowed {self.size}, {self.taps} taps{apart}{step}"


@dataclass(frozen=True)
class CanonicalForm:
    """A work as its axes, and as kernels take it.

    Attributes
    ----------
    axes : tuple of Axis
        From the result's outermost to its innermost, the contracted axis last. Batches, groups and
        channels of one are left out.
    geometry : Geometry
        The same work for the kernels.
    layout : Layout
        How its image, kernel and result lie in memory.
    reordered : bool
        Whether the axes are in another order than in the result, for vectors along the last one.

    Examples
    --------
    >>> img, krn = (1, 1, 512, 512, 16), (1, 1, 3, 1, 1)
    >>> strides = contiguous_strides(img), contiguous_strides(krn)
    >>> form = canonical(Geometry.plan(img, krn), *strides)
    >>> print(form)
    windowed 512, 3 taps; free 8192
    >>> form.geometry.img_shape, form.geometry.krn_shape, form.layout.img[2:]
    ((1, 1, 512, 8192), (1, 1, 3, 1), (8192, 1))
    """

    axes: tuple[Axis, ...]
    geometry: Geometry
    layout: Layout
    reordered: bool = False

    def __str__(self) -> str:
        """The axes in words."""
        words = "; ".join(map(str, self.axes))
        if not self.reordered:
            return words
        last = [axis for axis in self.axes if axis.slot == "space"][-1]
        return f"{words}; vectors along {last.role} {last.size}"

    @property
    def product(self) -> Product | None:
        """The same work as a matrix product; None while windows reach beyond the image.

        An axis on which there is one output is contracted. Windows without a border are free by
        their outputs and contracted by their taps: as long as both are many, neighbouring outputs
        read the same numbers again.

        Examples
        --------
        >>> img, krn = (64, 3, 8, 8), (16, 3, 8, 8)
        >>> strides = contiguous_strides(img), contiguous_strides(krn)
        >>> print(as_given(Geometry.plan(img, krn, kind="corr"), *strides).product)
        free 64 (img 192, out 16); produced 16 (krn 192, out 1); contracted 192 (img 1, krn 1)
        """
        levels = self.levels
        return None if levels is None else levels.merged()

    @property
    def levels(self) -> Product | None:
        """`product` with a level for each axis, and for each axis of taps."""
        if self.reordered or any(axis.border != (0, 0) for axis in self.axes):
            return None
        return _product(self.axes, self.geometry.mirrored)


SHORT = 64  # a free axis is short, and joins windows around it, if it has fewer positions


@lru_cache(maxsize=4096)
def canonical(geometry: Geometry, img_strides: Strides, krn_strides: Strides) -> CanonicalForm:
    """The canonical form of a work on arrays of these strides, in elements.

    The result is C-contiguous. A work in which nothing merges keeps its geometry and strides.
    """
    given = as_given(geometry, img_strides, krn_strides)
    merged = given.axes if 0 in geometry.out_shape else _merged(given.axes)
    if merged == given.axes:
        return given
    stated, img, krn = as_kernels_take_it(merged, geometry.mirrored)
    return CanonicalForm(merged, stated, Layout.plain(stated, img, krn))


def as_given(geometry: Geometry, img_strides: Strides, krn_strides: Strides) -> CanonicalForm:
    """The axes of a work that keeps its geometry and strides."""
    axes = _axes(geometry, img_strides, krn_strides)
    present = tuple(axis for axis in axes if axis.size != 1 or axis.slot == "space")
    return CanonicalForm(present, geometry, Layout.plain(geometry, img_strides, krn_strides))


def _axes(geometry: Geometry, img: Strides, krn: Strides) -> tuple[Axis, ...]:
    """Batch, groups, output channels, spatial axes, input channels."""
    out = contiguous_strides(geometry.out_shape)
    numbers = contiguous_strides(geometry.krn_shape)
    per_group, channels = geometry.outputs_per_group, geometry.in_channels
    krn_of_group = 0 if geometry.kernels == per_group else per_group * krn[0]
    return (
        Axis("free", "batch", geometry.batch, img[0], 0, out[0]),
        Axis(
            "free", "groups", geometry.groups, channels * img[1], krn_of_group, per_group * out[1]
        ),
        Axis("produced", "outputs", per_group, 0, krn[0], out[1]),
        *(
            replace(
                _spatial(geometry, axis, img[axis + 2], krn[axis + 2], out[axis + 2]),
                numbers=numbers[axis + 2],
            )
            for axis in range(geometry.rank)
        ),
        Axis("contracted", "channels", channels, img[1], krn[1], numbers=numbers[1]),
    )


def _spatial(geometry: Geometry, axis: int, img: int, krn: int, out: int) -> Axis:
    size, taps, step = (
        of[axis] for of in (geometry.image_size, geometry.kernel_size, geometry.stride)
    )
    border = (geometry.pad_begin[axis], geometry.pad_end[axis])
    if taps == 1 and border == (0, 0):  # steps leave out what no window reads
        return Axis("free", "space", geometry.out_size[axis], step * img, 0, out)
    return Axis(
        "windowed", "space", size, img, krn, out, taps, step, geometry.dilation[axis], border
    )


def _merged(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Each run of neighbouring axes that lie together in all arrays as one axis.

    Free axes are merged first, so that fewer of them are left to join a window.
    """
    for merge in (_free_as_one, _window_of_pixels):
        found: list[Axis] = []
        for axis in axes:
            merged = merge(found[-1], axis) if found else None
            if merged is None:
                found.append(axis)
            else:
                found[-1] = merged
        axes = tuple(found)
    return axes


def _free_as_one(outer: Axis, inner: Axis) -> Axis | None:
    """Two free axes as one; None where they do not lie together.

    The new axis takes the inner one's slot: a batch becomes part of the space, not the reverse.
    """
    if not outer.role == inner.role == "free":
        return None
    if inner.slot == "space" and outer.krn:  # each of these groups has a kernel of its own
        return None
    if inner.size == 1:
        return replace(outer, slot=inner.slot)
    whole = (inner.size * inner.img, inner.size * inner.krn, inner.size * inner.out)
    if outer.size > 1 and (outer.img, outer.krn, outer.out) != whole:
        return None
    return replace(inner, size=outer.size * inner.size)


def _window_of_pixels(outer: Axis, inner: Axis) -> Axis | None:
    """A windowed axis of pixels and the short free axis within each pixel as one windowed axis.

    Output w n + c sees, at tap k, position (w + d k - border) n + c of an axis of n numbers a
    pixel. It lies inside the image if and only if the pixel does.
    """
    if outer.role != "windowed" or inner.role != "free" or inner.slot != "space":
        return None
    size = inner.size
    if size == 1:
        return outer
    together = (outer.img, outer.out) == (size * inner.img, size * inner.out)
    if outer.step > 1 or not together or size >= SHORT:
        return None
    begin, end = outer.border
    return replace(
        outer,
        size=outer.size * size,
        img=inner.img,
        out=inner.out,
        dilation=outer.dilation * size,
        border=(begin * size, end * size),
    )


def as_kernels_take_it(axes: tuple[Axis, ...], mirrored: bool) -> tuple[Geometry, Strides, Strides]:
    """Each axis in its slot of a geometry, and the strides of image and kernel.

    A slot whose axis was merged into another has size 1.
    """
    slots = {axis.slot: axis for axis in axes if axis.slot != "space"}
    space = [axis for axis in axes if axis.slot == "space"]
    batch = slots.get("batch", Axis("free", "batch", 1))
    groups = slots.get("groups", Axis("free", "groups", 1))
    outputs = slots.get("outputs", Axis("produced", "outputs", 1, 0, groups.krn))
    channels = slots.get("channels", Axis("contracted", "channels", 1, groups.img))
    geometry = Geometry(
        batch=batch.size,
        groups=groups.size,
        in_channels=channels.size,
        outputs_per_group=outputs.size,
        kernels=outputs.size * (groups.size if groups.krn else 1),
        image_size=tuple(axis.size for axis in space),
        kernel_size=tuple(axis.taps for axis in space),
        stride=tuple(axis.step for axis in space),
        dilation=tuple(axis.dilation for axis in space),
        pad_begin=tuple(axis.border[0] for axis in space),
        pad_end=tuple(axis.border[1] for axis in space),
        mirrored=mirrored,
    )
    img = (batch.img, channels.img, *(axis.img for axis in space))
    krn = (outputs.krn, channels.krn, *(axis.krn for axis in space))
    return geometry, img, krn


def _product(axes: tuple[Axis, ...], mirrored: bool) -> Product:
    """The axes as levels; the contracted ones are input channels, then taps, as in the kernel."""
    levels: dict[str, list[Level]] = {
        role: [] for role in ("shared", "free", "produced", "contracted")
    }
    taps: list[Level] = []
    origin = 0
    for axis in axes:
        if axis.role == "contracted":
            levels["contracted"].append(Level(axis.size, axis.img, axis.krn))
        elif axis.role == "produced":
            levels["produced"].append(Level(axis.size, krn=axis.krn, out=axis.out))
        elif axis.slot != "space":
            role = "shared" if axis.krn else "free"
            levels[role].append(Level(axis.size, axis.img, axis.krn, axis.out))
        else:
            reach = axis.dilation * axis.img
            outputs = (axis.size - axis.dilation * (axis.taps - 1) - 1) // axis.step + 1
            levels["free"].append(Level(outputs, axis.step * axis.img, out=axis.out))
            taps.append(Level(axis.taps, -reach if mirrored else reach, axis.krn))
            origin += (axis.taps - 1) * reach if mirrored else 0
    levels["contracted"] += taps
    return Product(**{role: tuple(levels[role]) for role in levels}, img_origin=origin)
