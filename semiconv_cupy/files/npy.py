"""Files of NumPy, mapped into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from semiconv_cupy.files.about import About, FileError, Image, OnDisk, axes_of_rank


def opened(path: Path) -> Image:
    """The array of a .npy file."""
    found = np.load(path, mmap_mode=None if _is_empty(path) else "r", allow_pickle=False)
    about = About(axes_of_rank(found.ndim))
    if found.size == 0:
        return Image(found, about)
    return Image(OnDisk(path, found.shape, found.dtype, mapped), about)


def _is_empty(path: Path) -> bool:
    """Whether the file ends with its header, which no memory map can show."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise FileError(f"{path} is of version {version} of .npy, whose fields have names")
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        return 0 in read(file)[0]


def mapped(path: str, mode: str) -> Any:
    return np.lib.format.open_memmap(path, mode=mode)


def created(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """An array to write to, in a new file."""
    if 0 in shape:
        array = np.empty(shape, dtype)
        with path.open("wb") as file:
            np.save(file, array)
        return array
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
    return OnDisk(path, shape, dtype, mapped, "r+")
