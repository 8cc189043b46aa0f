"""Which compiled library serves a primitive on NumPy arrays, and what its functions take."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.backends.host import prebuilt
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.lines import Pass

_POINTER, _COUNT, _FLAG = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_OF_STRUCTURE = (*(_POINTER,) * 4, _COUNT, *(_POINTER,) * 3, _FLAG, _FLAG)
_OF_PARABOLAS = (
    *(_POINTER,) * 3, _COUNT, _COUNT, _POINTER, _FLAG, _POINTER, _FLAG, _POINTER, _POINTER, _COUNT,
    *(_FLAG,) * 4,
)  # fmt: skip
_ARGUMENTS: dict[str, dict[str, tuple[type, ...]]] = {
    "flat": {"semiconv_flat": (_POINTER,) * 4 + (_FLAG, _FLAG)},
    "footprint": {
        "semiconv_footprint": (*(_POINTER,) * 2, _COUNT, _COUNT, *(_POINTER,) * 3, _FLAG, _FLAG),
    },
    "structure": {"semiconv_structure": _OF_STRUCTURE},
    "structure_in_double": {"semiconv_structure_in_double": _OF_STRUCTURE},
    "structure_absent": {"semiconv_structure_absent": _OF_STRUCTURE},
    "correlate": {
        "semiconv_correlate": (
            *(_POINTER,) * 3, _COUNT, _FLAG, _POINTER, _FLAG, _POINTER, _FLAG, ctypes.c_double,
            _FLAG,
        ),
    },
    "nearest": {"semiconv_nearest": (*(_POINTER,) * 4, _FLAG, _POINTER, _FLAG, _FLAG)},
    "parabolas": {"semiconv_parabolas": _OF_PARABOLAS},
    "single_parabolas": {"semiconv_single_parabolas": _OF_PARABOLAS},
    "chamfer": {"semiconv_chamfer": (*(_POINTER,) * 2, _COUNT, *(_POINTER,) * 3)},
    "reconstruct": {
        "semiconv_reconstruct": (*(_POINTER,) * 2, _COUNT, _COUNT, *(_POINTER,) * 3, _FLAG),
    },
}  # fmt: skip
# The codes of SEMICONV_EACH_TYPE in kernels_cu/host/types.hpp.
_TYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16",
    "bfloat16", "float32", "float64",
)  # fmt: skip
# The parts of which one object serves elements of all dtypes, and the dtype that it computes in.
_FOR_ALL = {
    **dict.fromkeys(("correlate", "nearest", "parabolas", "single_parabolas"), "float64"),
    "chamfer": "int32",
}
# Those of the parts that not all dtypes need: bool arrays are added as uint8.
_STORAGES = {
    "structure": _TYPES[1:],
    "structure_in_double": source.INTEGER,
    "structure_absent": ("int64", "uint64"),
}
TYPE_CODES = {name: code for code, name in enumerate(_TYPES)}

_libraries: dict[tuple[str, np.dtype], host.Library] = {}


def library(part: str, dtype: np.dtype) -> host.Library:
    """The compiled functions of ``kernels_cu/host/<part>.cpp`` for a storage dtype."""
    found = _libraries.get((part, dtype))
    if found is None:
        found = host.open_library(*source_of(part, dtype), _ARGUMENTS[part])
        _libraries[part, dtype] = found
    return found


def source_of(part: str, dtype: np.dtype) -> tuple[str, str]:
    """The text of a library and its name in messages, as `libraries.build` takes them."""
    storage = dtype.name
    text = source.assemble(f"host/{part}.cpp", source.storage_macros(storage))
    return text, library_name(part, dtype)


def serves(primitive: str, dtype: np.dtype) -> bool:
    """Whether a primitive's library can be had: ready-made, or by a compiler."""
    return prebuilt.serves(source_of(*part_of(primitive, dtype))[0])


def sources(storages: Sequence[str] | None = None) -> Iterator[source.HostSource]:
    """The sources of the primitives' libraries, for the given dtypes or for all that NumPy has."""
    chosen = [name for name in storages or _TYPES if name != "bfloat16"]
    for part, functions in _ARGUMENTS.items():
        for storage in [_FOR_ALL[part]] if part in _FOR_ALL else chosen:
            if storage in _STORAGES.get(part, (storage,)):
                exports = (*source.COMMON_EXPORTS, *functions)
                yield source.HostSource(*source_of(part, np.dtype(storage)), exports)


def library_name(part: str, dtype: np.dtype) -> str:
    """The name of a library in messages and in explanations."""
    return f"{part} on {dtype.name}"


def part_of(primitive: str, dtype: np.dtype, *arguments: object) -> tuple[str, np.dtype]:
    """Which of kernels_cu/host/*.cpp computes a primitive, and compiled for which dtype.

    `arguments` are the primitive's others than the array; without them, those of most calls.
    """
    part = {"box": "flat"}.get(primitive, primitive)
    if any(isinstance(one, Pass) and one.is_single(dtype) for one in arguments):
        part = {"parabolas": "single_parabolas"}.get(part, part)
    addends = next((one for one in arguments if isinstance(one, Addends)), None)
    if addends is not None and addends.in_double:
        part = "structure_in_double"
    elif addends is not None and addends.absent and dtype.name in _STORAGES["structure_absent"]:
        part = "structure_absent"
    return part, np.dtype(_FOR_ALL.get(part, dtype))
