"""The GPU backend: picks, compiles and launches the kernels of ``kernels_cu/cuda``.

It talks to a narrow `Device` (compile, launch, empty): CuPy in production, a CPU harness in the
tests, so that the very launch code is tested without a GPU. The only module that imports CuPy.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.host import MAX_RANK, GeometryStruct
from semiconv_cupy.errors import BackendUnavailableError
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import residual_of

if TYPE_CHECKING:
    from semiconv_cupy.source import Semifield

Array = Any
_AXES = (np.int64, MAX_RANK)
_STRIDES = (np.int64, MAX_RANK + 2)
GEOMETRY = np.dtype(
    [
        (name, *(_STRIDES if name.endswith("_strides") else _AXES))
        if hasattr(kind, "_length_")
        else (name, np.int64)
        for name, kind in GeometryStruct._fields_
    ],
    align=True,
)
THREADS = 256
_OPTIONS = ("-std=c++17", "--device-int128")


class Kernel(Protocol):
    """A compiled CUDA function; arrays are passed as pointers, NumPy scalars by value."""

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_bytes: int
    ) -> None: ...


class Device(Protocol):
    """All that this module asks of a GPU."""

    array_module: Any

    def compile(self, text: str, name: str, options: tuple[str, ...]) -> Kernel: ...

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array: ...


class CupyDevice:
    """The current device, through CuPy."""

    def __init__(self) -> None:
        import cupy

        self.array_module = cupy

    def compile(self, text: str, name: str, options: tuple[str, ...]) -> Kernel:
        """Compile by NVRTC; CuPy keeps the binary in memory per device and on disk."""
        function = self.array_module.RawModule(code=text, options=options).get_function(name)

        def launch(
            grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], shared_bytes: int
        ) -> None:
            function(grid, block, args, shared_mem=shared_bytes)

        return launch

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An uninitialised array of CuPy's pool."""
        return self.array_module.empty(shape, dtype)


@lru_cache(maxsize=1)
def device() -> CupyDevice:
    """The production device; an error with the remedy where CuPy or a driver is missing."""
    try:
        found = CupyDevice()
        found.array_module.cuda.runtime.getDeviceCount()
    except ImportError:
        raise BackendUnavailableError(
            "CuPy is not installed; `pip install cupy-cuda12x[ctk]` (or cupy-cuda13x[ctk])"
        ) from None
    except Exception as error:
        if type(error).__name__ != "CUDARuntimeError":
            raise
        raise BackendUnavailableError(
            f"CuPy finds no usable GPU ({error}); `python -m semiconv_cupy info` says more"
        ) from None
    return found


def is_cupy(array: object) -> bool:
    """Whether `array` is a CuPy array, without importing CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


# ---- kernels -----------------------------------------------------------------------------------


def kernel_source(
    file: str,
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    offset: str = "int64",
    residual: str | None = None,
) -> source.KernelSource:
    """``kernels_cu/cuda/<file>.cu`` for one specialisation."""
    name = "_".join(
        ("semiconv", file, _word(semifield), storage, "x".join(map(str, geometry.kernel_size)))
    )
    macros = source.definitions(semifield, storage)
    macros |= _geometry_macros(geometry, offset)
    macros["SEMICONV_KERNEL"] = name
    if file == "grad_kernel":
        macros["SEMICONV_KERNEL_SUM"] = f"{name}_sum"
    if residual is not None:
        macros["SEMICONV_RESIDUAL"] = residual if residual.startswith("uint") else "Real"
    return source.KernelSource(name, source.assemble(f"cuda/{file}.cu", macros), _OPTIONS)


def _word(semifield: Semifield) -> str:
    """A word for a profiler's list; the content, not the name, tells kernels apart."""
    kind, _, made = repr(semifield).partition(".")
    if "(" in kind:  # of the user's own
        return "selection" if semifield.accumulator == "select" else semifield.accumulator
    return re.sub(r"\W+", "_", made.replace("=True", "").replace("-", "minus_")).strip("_")


def _geometry_macros(geometry: Geometry, offset: str) -> dict[str, str]:
    def braces(values: tuple[int, ...]) -> str:
        return "{{" + ", ".join(map(str, values)) + "}}"

    return {
        "SEMICONV_RANK": str(geometry.rank),
        "SEMICONV_WINDOW": braces(geometry.kernel_size),
        "SEMICONV_STRIDE": braces(geometry.stride),
        "SEMICONV_DILATION": braces(geometry.dilation),
        "SEMICONV_OFFSET": offset,
    }


def shipping_variants() -> Iterator[source.KernelSource]:
    """One source of every kernel file for each semifield, dtype and rank that it is written for.

    What ``python -m kernels_cu report`` compiles for GPUs that are not there.
    """
    from semiconv_cupy.semifields import SelectSemifield, SubtractSemifield

    dilation = SelectSemifield.tropical_max()
    floating: list[Semifield] = [
        dilation,
        SelectSemifield.tropical_min_negated(),
        SelectSemifield.max_times(),
        SelectSemifield.tropical_max(spread_gradient=True),
        SelectSemifield.tropical_max(channels_add=True),
        SubtractSemifield.linear(),
        SubtractSemifield.log(2.0),
        SubtractSemifield.log(-2.0),
        SubtractSemifield.root(3.0),
        SubtractSemifield.root(2.5),
    ]
    plane = Geometry.plan((1, 1, 8, 8), (1, 1, 3, 3))
    cases = [(semifield, "float32", plane) for semifield in floating]
    cases += [
        (semifield, storage, plane)
        for semifield in (dilation, SubtractSemifield.log(2.0))
        for storage in ("float16", "bfloat16", "float64")
    ]
    cases += [
        (dilation, "float32", Geometry.plan((1, 1) + (9,) * rank, (1, 1) + (3,) * rank))
        for rank in (1, 3, 4)
    ]
    for semifield, storage, geometry in cases:
        residual = residual_of(semifield, storage, geometry)
        element = None if residual is None else str(residual.dtype)
        yield kernel_source("forward", semifield, storage, geometry, "int32")
        yield kernel_source("forward", semifield, storage, geometry, "int64", element)
        for file in ("grad_image", "grad_kernel"):
            yield kernel_source(file, semifield, storage, geometry, "int64", element)
    for storage in (*source.INTEGER, source.BOOLEAN):
        yield kernel_source("forward", dilation, storage, plane, "int32")


_kernels: dict[tuple[Any, ...], Kernel] = {}


def _kernel(
    device: Device,
    file: str,
    semifield: Semifield,
    storage: str,
    geometry: Geometry,
    offset: str,
    residual: str | None,
    suffix: str = "",
) -> Kernel:
    """The compiled kernel of one specialisation, compiled once."""
    key = (
        device, file, suffix, semifield, storage, geometry.kernel_size, geometry.stride,
        geometry.dilation, offset, residual,
    )  # fmt: skip
    found = _kernels.get(key)
    if found is None:
        made = kernel_source(file, semifield, storage, geometry, offset, residual)
        found = _kernels[key] = device.compile(made.text, made.name + suffix, made.options)
    return found


# ---- launches ----------------------------------------------------------------------------------


def elements(array: Array) -> tuple[int, ...]:
    """An array's strides in elements."""
    return tuple(stride // array.itemsize for stride in array.strides)


def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    return sum((size - 1) * abs(stride) for size, stride in zip(shape, strides, strict=True))


def struct_of(geometry: Geometry, img: Array, krn: Array) -> np.void:
    """The geometry as a struct that a launch passes by value."""
    filled = GeometryStruct.of(geometry, elements(img), elements(krn))
    return np.frombuffer(bytes(filled), GEOMETRY)[0]


def forward(
    device: Device,
    img: Array,
    krn: Array,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    out: Array,
    residual: Array | None = None,
) -> None:
    """Launch the forward kernel on the device's current stream; `out` is C-contiguous."""
    if out.size == 0:
        return
    far = max(
        _reach(img.shape, elements(img)) + _overhang(geometry, img),
        _reach(krn.shape, elements(krn)),
        out.size,
    )
    offset = "int32" if far < 2**31 - 1 else "int64"
    residual_type = None if residual is None else str(residual.dtype)
    kernel = _kernel(device, "forward", semifield, storage, geometry, offset, residual_type)
    plane = _plane(semifield, storage, geometry, residual)
    kernel(
        (_blocks(out.size),),
        (THREADS,),
        (
            struct_of(geometry, img, krn),
            img,
            krn,
            out,
            out if residual is None else residual,
            np.int64(plane),
            np.int64(out.size),
        ),
        0,
    )


def _overhang(geometry: Geometry, img: Array) -> int:
    """How far in elements a window's corner may lie outside the image."""
    return sum(
        (pad + dilation * size) * abs(stride)
        for pad, dilation, size, stride in zip(
            geometry.pad_begin,
            geometry.dilation,
            geometry.kernel_size,
            elements(img)[2:],
            strict=True,
        )
    )


def _blocks(threads: int) -> int:
    return min(-(-threads // THREADS), 2**31 - 1)


def _plane(
    semifield: Semifield, storage: str, geometry: Geometry, residual: Array | None
) -> int:
    """Elements between the arrays that a residual stacks."""
    described = residual_of(semifield, storage, geometry)
    if residual is None or described is None:
        return 0
    return int(residual.size) // described.arrays


_MOST_CHUNKS = 256
_CHUNK = 16 * THREADS  # outputs that one block of a kernel's gradient adds up, at least


def backward(
    device: Device,
    grad_out: Array,
    img: Array | None,
    krn: Array | None,
    residual: Array | None,
    grad_img: Array | None,
    grad_krn: Array | None,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
) -> None:
    """Launch the gradient kernels that are wanted on the device's current stream.

    Gradients are C-contiguous and in arithmetic dtype. The results do not differ between runs.
    """
    xp = device.array_module
    grad_out = xp.ascontiguousarray(grad_out)
    if grad_out.size == 0:
        if grad_krn is not None:
            grad_krn[...] = 0
        return
    none = (0,) * (geometry.rank + 2)
    filled = GeometryStruct.of(
        geometry,
        none if img is None else elements(img),
        none if krn is None else elements(krn),
    )
    struct = np.frombuffer(bytes(filled), GEOMETRY)[0]
    residual_type = None if residual is None else str(residual.dtype)
    arrays = tuple(
        grad_out if array is None else array for array in (grad_out, img, krn, residual)
    )
    plane = np.int64(_plane(semifield, storage, geometry, residual))
    if grad_img is not None and grad_img.size:
        kernel = _kernel(
            device, "grad_image", semifield, storage, geometry, "int64", residual_type
        )
        kernel(
            (_blocks(grad_img.size),),
            (THREADS,),
            (struct, *arrays, grad_img, plane, np.int64(grad_img.size)),
            0,
        )
    if grad_krn is not None:
        outputs = geometry.batch * math.prod(geometry.out_size)
        outputs *= geometry.groups if geometry.shares_kernels else 1
        chunk = max(_CHUNK, -(-outputs // _MOST_CHUNKS))
        chunks = -(-outputs // chunk)
        weights = int(grad_krn.size)
        partial = device.empty((chunks, weights), np.float64)
        specialisation = (semifield, storage, geometry, "int64", residual_type)
        _kernel(device, "grad_kernel", *specialisation)(
            (weights, chunks),
            (THREADS,),
            (struct, *arrays, partial, plane, np.int64(chunk)),
            0,
        )
        _kernel(device, "grad_kernel", *specialisation, suffix="_sum")(
            (_blocks(weights),),
            (THREADS,),
            (partial, grad_krn, np.int64(weights), np.int64(chunks)),
            0,
        )
