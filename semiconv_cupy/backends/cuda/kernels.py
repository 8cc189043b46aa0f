"""Kernels of ``kernels_cu/cuda``: from a specialisation to its text, and compiled once.

`compiled` is the one cache of kernels, for convolutions and for ``ndimage``. Array-free.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.algebra.slopes import slope_definitions
from semiconv_cupy.backends.cuda.bins import Bins
from semiconv_cupy.backends.cuda.tiles import Tile
from semiconv_cupy.backends.device import Device, Kernel
from semiconv_cupy.geometry import Geometry

_log = logging.getLogger(__name__)
OPTIONS = ("-std=c++17", "--device-int128")
# The functions of cuda/by_sums.cu beside the one that its kernel is named after.
_BY_SUMS = ("extremes", "transform", "term_gradients", "finish")

_compiled: dict[tuple[Any, ...], Kernel] = {}


def compiled(
    device: Device,
    write: Callable[..., source.KernelSource],
    *arguments: Any,
    suffix: str = "",
) -> Kernel:
    """The kernel whose source `write(*arguments)` is, compiled once for each device.

    `suffix` names another function of the same text: its name is the kernel's with this behind it.
    """
    key = (device, write, arguments, suffix)
    found = _compiled.get(key)
    if found is None:
        made = write(*arguments)
        _log.info("kernel %s%s, which NVRTC compiles unless CuPy's cache has it", made.name, suffix)
        found = _compiled[key] = device.compile(made.text, made.name + suffix, made.options)
    return found


class Specialisation(NamedTuple):
    """All that the text of a convolution's kernel depends on.

    Sizes of images, batches, channels, padding and groups are arguments of the kernel.
    """

    file: str  # kernels_cu/cuda/<file>.cu
    semifield: Semifield
    storage: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    offset: str  # the type of offsets: "int32" or "int64"
    residual: np.dtype | None
    tile_macros: tuple[tuple[str, str], ...]
    suffix: str  # the end of the kernel's name, which describes the tile
    bins: Bins | None
    by_channel: bool = False  # each kernel has a value of the parameter
    slopes: bool = False  # the derivative by the parameter is kept


def specialise(
    file: str,
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    offset: str = "int64",
    residual: np.dtype | None = None,
    plan: Tile | Bins | None = None,
    *,
    by_channel: bool = False,
    slopes: bool = False,
) -> Specialisation:
    """The specialisation of ``kernels_cu/cuda/<file>.cu`` for a geometry, and for a plan if any."""
    tile = plan if isinstance(plan, Tile) else None
    return Specialisation(
        file=file,
        semifield=semifield.unbound,
        storage=storage,
        kernel_size=geometry.kernel_size,
        stride=geometry.stride,
        dilation=geometry.dilation,
        offset=offset,
        residual=residual,
        tile_macros=() if tile is None else tuple(tile.macros(geometry).items()),
        suffix="" if tile is None else tile.suffix,
        bins=plan if isinstance(plan, Bins) else None,
        by_channel=by_channel,
        slopes=slopes,
    )


def in_parts(kernel: Specialisation) -> tuple[Specialisation, Specialisation, int]:
    """forward_tiled for a part of the slabs; what joins the parts; bytes for an accumulator."""
    numbers = {"select": 4, "sum": 4}.get(kernel.semifield.accumulator, 8)
    size = numbers * max(4, source.itemsize(source.ARITHMETIC[kernel.storage]))
    macros = (*kernel.tile_macros, ("SEMICONV_PARTS", str(size)))
    part = kernel._replace(tile_macros=macros, suffix=f"{kernel.suffix}_part")
    macros += (("SEMICONV_JOIN", ""),)
    return part, kernel._replace(tile_macros=macros, suffix=f"{kernel.suffix}_join"), size


def kernel_source(kernel: Specialisation) -> source.KernelSource:
    """The kernel that this specialises, ready for a compiler."""
    size = "x".join(map(str, kernel.kernel_size))
    name = "_".join(("semiconv", kernel.file, kernel.semifield.word, kernel.storage, size))
    macros = source.definitions(kernel.semifield, kernel.storage)
    macros |= source.known_kind(kernel.semifield)
    macros |= {
        "SEMICONV_RANK": str(len(kernel.kernel_size)),
        "SEMICONV_WINDOW": _braces(kernel.kernel_size),
        "SEMICONV_STRIDE": _braces(kernel.stride),
        "SEMICONV_DILATION": _braces(kernel.dilation),
        "SEMICONV_OFFSET": kernel.offset,
    }
    floating = kernel.storage in source.FLOATING
    if kernel.file == "forward_tiled" and floating and not kernel.semifield.absorbing:
        macros["SEMICONV_TEST_BORDER"] = ""
    if kernel.residual is not None:
        macros["SEMICONV_RESIDUAL"] = (
            kernel.residual.name if kernel.residual.kind == "u" else "Real"
        )
        name += "_residual" if kernel.file.startswith("forward") else ""
    for flag, word in ((kernel.by_channel, "by_channel"), (kernel.slopes, "slopes")):
        if flag:
            macros[f"SEMICONV_{word.upper()}"] = ""
            name += f"_{word}"
    if kernel.slopes:
        macros |= slope_definitions(kernel.semifield)
    name += kernel.suffix
    macros |= dict(kernel.tile_macros)
    macros["SEMICONV_KERNEL"] = name
    if kernel.bins is not None:
        macros |= kernel.bins.macros()
    if kernel.file == "by_sums":
        macros |= {f"SEMICONV_KERNEL_{part.upper()}": f"{name}_{part}" for part in _BY_SUMS}
    options: tuple[str, ...] = OPTIONS
    if kernel.semifield.traits(source.arithmetic_of(kernel.storage)).rounds_products:
        options += ("-fmad=false",)
    return source.KernelSource(name, source.assemble(f"cuda/{kernel.file}.cu", macros), options)


def _braces(values: tuple[int, ...]) -> str:
    return "{{" + ", ".join(map(str, values)) + "}}"


def sum_source(storage: str) -> source.KernelSource:
    """The last stage of a kernel's gradient: partial sums to weights."""
    real = source.ARITHMETIC[storage]
    name = f"semiconv_grad_sum_{real}"
    macros = source.storage_macros(real) | {"SEMICONV_KERNEL": name}
    return source.KernelSource(name, source.assemble("cuda/grad_sum.cu", macros), OPTIONS)


def exchange_source(storage: str) -> source.KernelSource:
    """The kernel that exchanges the output and input channels of a convolution's kernel."""
    name = f"semiconv_exchange_{storage}"
    macros = source.storage_macros(storage) | {"SEMICONV_KERNEL": name}
    return source.KernelSource(name, source.assemble("cuda/exchange.cu", macros), OPTIONS)


def in_order_source(itemsize: int) -> source.KernelSource:
    """The kernel that copies elements of so many bytes into C order."""
    name = f"semiconv_in_order_{itemsize}"
    macros = {"SEMICONV_BYTES": str(itemsize), "SEMICONV_KERNEL": name}
    return source.KernelSource(name, source.assemble("cuda/in_order.cu", macros), OPTIONS)
