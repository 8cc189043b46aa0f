"""The standard works: convolutions that ``python -m kernels_cu report --works`` models.

The benchmarks measure them, and others of their kind; nothing here computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from semiconv_cupy.algebra import SelectSemifield, SubtractSemifield
from semiconv_cupy.backends.device import Launch
from semiconv_cupy.explain import explain
from semiconv_cupy.geometry import Geometry

DILATION = SelectSemifield.tropical_max()


@dataclass(frozen=True)
class Work:
    """One convolution: shapes (B, C, *S) and (O, I, *K), and the rest.

    Examples
    --------
    >>> [launch] = Work("one image", (1, 1, 512, 512), (1, 1, 5, 5)).launches
    >>> launch.source.name.startswith("semiconv_forward")
    True
    """

    name: str
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    semifield: SelectSemifield | SubtractSemifield = DILATION
    dtype: str = "float32"
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: int | str = "same"

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of `semifield_conv`."""
        return dict(
            stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )  # fmt: skip

    @property
    def geometry(self) -> Geometry:
        """Where its windows lie."""
        return Geometry.plan(self.image, self.kernel, **self.arguments)

    @property
    def terms(self) -> int:
        """Terms of all windows, those outside the image included."""
        return math.prod(self.geometry.out_shape) * self.geometry.taps

    @property
    def bytes(self) -> int:
        """Image, kernel and result, each moved once."""
        shapes = (self.image, self.kernel, self.geometry.out_shape)
        return sum(map(math.prod, shapes)) * np.dtype(self.dtype).itemsize

    @property
    def launches(self) -> tuple[Launch, ...]:
        """What a GPU is given for the result, without a GPU."""
        found = explain(
            "semifield_conv", self.image, self.kernel, self.semifield, dtype=self.dtype, gpu=True,
            **self.arguments,
        )  # fmt: skip
        return found.launches


# What the kernels are made for, at sizes beyond a GPU's cache where memory is the limit.
STANDARD_WORKS = (
    Work("mixing 3x3, 64 -> 64, 8 x 128^2", (8, 64, 128, 128), (64, 64, 3, 3)),
    Work("mixing 3x3, 64 -> 64, 8 x 128^2, float16", (8, 64, 128, 128), (64, 64, 3, 3),
         dtype="float16"),
    Work("mixing 3x3, 64 -> 64, 8 x 128^2, linear", (8, 64, 128, 128), (64, 64, 3, 3),
         SubtractSemifield.linear()),
    Work("depthwise 3x3, 8 x 16 x 1024^2", (8, 16, 1024, 1024), (16, 1, 3, 3), groups=16),
    Work("depthwise 5x5, 8 x 16 x 1024^2", (8, 16, 1024, 1024), (16, 1, 5, 5), groups=16),
    Work("depthwise 3x3, 8 x 16 x 1024^2, float16", (8, 16, 1024, 1024), (16, 1, 3, 3),
         dtype="float16", groups=16),
    Work("depthwise 3x3 stride 2, 8 x 16 x 1024^2", (8, 16, 1024, 1024), (16, 1, 3, 3),
         stride=2, groups=16),
    Work("depthwise 3x3 stride 2, 512 x 64 x 28^2", (512, 64, 28, 28), (64, 1, 3, 3),
         stride=2, groups=64),
    Work("depthwise 3x3, 4096 x 32 x 14^2", (4096, 32, 14, 14), (32, 1, 3, 3), groups=32),
    Work("depthwise 3x3 dilation 2, 8 x 16 x 1024^2", (8, 16, 1024, 1024), (16, 1, 3, 3),
         dilation=2, groups=16),
    Work("one image 11x11, 4096^2", (1, 1, 4096, 4096), (1, 1, 11, 11)),
    Work("one image 31x31, 2048^2", (1, 1, 2048, 2048), (1, 1, 31, 31)),
    Work("one image 101x101, 1024^2", (1, 1, 1024, 1024), (1, 1, 101, 101)),
    Work("one image 11x11, 2048^2, float64", (1, 1, 2048, 2048), (1, 1, 11, 11), dtype="float64"),
    Work("volume 7^3, 128^3", (1, 1, 128, 128, 128), (1, 1, 7, 7, 7)),
    Work("signal 501, 10^7", (1, 1, 10**7), (1, 1, 501)),
)  # fmt: skip
