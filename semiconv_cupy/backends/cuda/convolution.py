"""One convolution as launches see it: all that is known before there are arrays.

Strides, structs and offset types of a launch, and conditional launches; no kernels. Array-free.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import strides, structs
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, CHUNK, Limits
from semiconv_cupy.backends.cuda.tiles import furthest_position, reach
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.layout import Layout
from semiconv_cupy.residual import residual_of
from semiconv_cupy.strides import Strides

Array = Any
GRID_X = 2**31 - 1  # the most blocks of a launch along its first axis


class Case(NamedTuple):
    """What is computed: a semifield, where windows lie, and the storage dtype's name.

    The dtype is named as in ``source.FLOATING`` or ``source.INTEGER``; arrays of bfloat16 come as
    the bits of uint16. `by_channel`: each kernel has a value of the parameter; `slopes` as in
    `Route`.
    """

    semifield: Semifield
    geometry: Geometry
    storage: str
    by_channel: bool = False
    slopes: bool = False


class Convolution(NamedTuple):
    """A case, the dtype of its residual, and the strides of its arrays: the key of all launches.

    Strides are in bytes, as arrays have them; None where there is no array.
    """

    semifield: Semifield
    geometry: Geometry
    storage: str
    residual: np.dtype | None
    img_byte_strides: Strides | None
    krn_byte_strides: Strides | None
    by_channel: bool = False
    slopes: bool = False

    @classmethod
    def of(
        cls, case: Case, residual: np.dtype | None, img_strides: Strides, krn_strides: Strides
    ) -> Convolution:
        """The convolution of arrays of these strides in elements."""
        img_byte_strides = strides.in_bytes(img_strides, case.storage)
        krn_byte_strides = strides.in_bytes(krn_strides, case.storage)
        strides_in_bytes = img_byte_strides, krn_byte_strides
        return cls(*case[:3], residual, *strides_in_bytes, *case[3:])

    @property
    def img_strides(self) -> Strides:
        """The image's strides in elements; 0 where there is no image."""
        return self._in_elements(self.img_byte_strides)

    @property
    def krn_strides(self) -> Strides:
        """The kernel's strides in elements; 0 where there is no kernel."""
        return self._in_elements(self.krn_byte_strides)

    def _in_elements(self, byte_strides: Strides | None) -> Strides:
        if byte_strides is None:
            return (0,) * (self.geometry.rank + 2)
        return strides.in_elements(byte_strides, self.storage)

    @property
    def struct(self) -> np.void:
        """The geometry, with strides in elements, as a launch passes it by value."""
        layout = Layout.plain(self.geometry, self.img_strides, self.krn_strides)
        return structs.Geometry.of(self.geometry, layout, self.semifield).scalar()

    @property
    def residual_size(self) -> int:
        """Elements of the residual that a forward pass keeps for the derivative."""
        spec = residual_of(self.semifield, self.storage, self.geometry, slopes=self.slopes)
        return 0 if spec is None else math.prod(spec.shape)

    @property
    def residual_plane(self) -> np.int64:
        """Elements from one array of the residual to the next."""
        spec = residual_of(self.semifield, self.storage, self.geometry)
        return np.int64(0 if spec is None else math.prod(spec.shape) // spec.arrays)

    def has_whole_chunks(self, size: int = CHUNK, *, padded_rows: bool = False) -> bool:
        """Whether chunks of `size` elements lie in rows of an image, none across its edge.

        `padded_rows`: windows lie inside the image, and whole chunks of a row may be read.
        """
        *outer, last = self.img_strides
        sizes = self.geometry.img_shape
        steps = [n for n, size in zip(outer, sizes, strict=False) if size > 1]
        if not padded_rows:
            steps.append(self.geometry.image_size[-1])
        return last == 1 and not any(n % size for n in steps)

    def piece(self, *, once: bool, padded_rows: bool = False) -> int:
        """Elements of the image that are copied at a time: a chunk, two, or 0 for single ones.

        `once`: a block copies all that it sees before it computes; only then two serve.
        """
        if self.has_whole_chunks(padded_rows=padded_rows):
            return CHUNK
        return 2 if once and self.has_whole_chunks(2) else 0

    def forward_offset(self, limits: Limits) -> str:
        """The type that holds every offset of a launch of one thread an output."""
        geometry = self.geometry
        far = max(
            reach(geometry.img_shape, self.img_strides) + _overhang(geometry, self.img_strides),
            reach(geometry.krn_shape, self.krn_strides),
            math.prod(geometry.out_shape),
            furthest_position(geometry),
        )
        return "int32" if far < limits.offset_32 else "int64"

    def gradient_offset(self, limits: Limits) -> str:
        """The type that holds every offset of a gradient's launch; its positions have 64 bits."""
        geometry = self.geometry
        far = max(
            reach(geometry.img_shape, self.img_strides),
            reach(geometry.krn_shape, self.krn_strides),
            self.residual_size,
            math.prod(geometry.out_shape),
            math.prod(geometry.img_shape),
        )
        return "int32" if far < limits.offset_32 else "int64"


def _overhang(geometry: Geometry, img_strides: Strides) -> int:
    """How far in elements a window's corner may lie outside an image of these strides."""
    return sum(
        (pad + dilation * size) * abs(stride)
        for pad, dilation, size, stride in zip(
            geometry.pad_begin,
            geometry.dilation,
            geometry.kernel_size,
            img_strides[2:],
            strict=True,
        )
    )


def blocks_for(threads: int) -> int:
    """Blocks of that many threads in all; where the grid has no more, they loop."""
    return min(-(-threads // BLOCK_THREADS), GRID_X)


# ---- conditional launches ------------------------------------------------------------------------


class Condition(NamedTuple):
    """Flags on the device: a kernel that is launched with them returns at once if none is set.

    The last two arguments of the kernels that read them (kernels_cu/cuda/conditional_launch.cuh).
    """

    flags: int  # the address of the flags
    number: np.int64  # how many flags there are


ALWAYS = Condition(0, np.int64(0))  # no flags: the kernel runs


def conditional(
    grid: tuple[int, ...], scalars: tuple[Any, ...], condition: Condition, most_blocks: int
) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Grid and last arguments of a launch under that condition, with `most_blocks` at most.

    `scalars` ends with `ALWAYS`, which the condition replaces.
    """
    assert scalars[-2:] == ALWAYS
    return (min(grid[0], most_blocks),), (*scalars[:-2], *condition)
