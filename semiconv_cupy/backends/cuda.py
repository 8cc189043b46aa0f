"""The GPU backend: picks, compiles and launches the kernels of ``kernels_cu/cuda``.

It talks to a narrow `Device` (compile, launch, empty): CuPy in production, a CPU harness in the
tests, so that the very launch code is tested without a GPU. The only module that imports CuPy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
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


def forward_kernel(
    semifield: Semifield, storage: str, geometry: Geometry, offset: str, residual: str | None
) -> source.KernelSource:
    """The `direct` forward kernel for one specialisation."""
    name = "_".join(
        ("semiconv_forward", _word(semifield), storage, "x".join(map(str, geometry.kernel_size)))
    )
    macros = source.definitions(semifield, storage)
    macros |= _geometry_macros(geometry, offset)
    macros["SEMICONV_KERNEL"] = name
    if residual is not None:
        macros["SEMICONV_RESIDUAL"] = residual if residual.startswith("uint") else "Real"
    return source.KernelSource(name, source.assemble("cuda/forward.cu", macros), _OPTIONS)


def _word(semifield: Semifield) -> str:
    """A word for a profiler's list; the content, not the name, tells kernels apart."""
    return {"select": "selection", "custom": "custom"}.get(
        semifield.accumulator, semifield.accumulator
    )


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


_kernels: dict[tuple[Any, ...], Kernel] = {}


def _compiled(device: Device, key: tuple[Any, ...], build: Callable[[], source.KernelSource]) -> Kernel:
    found = _kernels.get(key)
    if found is None:
        kernel = build()
        found = _kernels[key] = device.compile(kernel.text, kernel.name, kernel.options)
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
    key = (
        id(type(device)), semifield, storage, geometry.kernel_size, geometry.stride,
        geometry.dilation, offset, residual_type,
    )  # fmt: skip
    kernel = _compiled(
        device, key, lambda: forward_kernel(semifield, storage, geometry, offset, residual_type)
    )
    blocks = min(-(-out.size // THREADS), 2**31 - 1)
    plane = 0
    if residual is not None:
        described = residual_of(semifield, storage, geometry)
        plane = residual.size // described.arrays if described else 0
    kernel(
        (blocks,),
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
