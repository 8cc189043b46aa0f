"""What a file says about its numbers, and the numbers themselves where they stay on disk."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# Axes along which neighbours are no neighbours in space: time, channels, samples of a pixel.
NOT_IN_SPACE = "tcs"


class FileError(Exception):
    """A file that cannot be read or written as asked; the text says why, and the remedy."""


class About(NamedTuple):
    """Axes by their letters ("zyx", "yxs": s is colour), and how far apart pixels are."""

    axes: str
    spacing: Mapping[str, float] = {}
    units: Mapping[str, str] = {}
    said: bool = False  # whether the file itself names its axes
    flavour: str = ""  # of a TIFF: imagej, ome or plain; of Zarr: "ome" and the format, as "ome2"


class OnDisk:
    """An array in a file, opened by each process that reads or writes a part of it.

    Parameters
    ----------
    opener : callable
        A function of a module, `opener(path, mode)`, that returns an array to index; mode is "r"
        or "r+".
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: Any, opener: Callable[[str, str], Any],
        mode: str = "r", chunks: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        self.path, self.shape, self.dtype = str(path.absolute()), shape, np.dtype(dtype)
        self.opener, self.mode, self.chunks = opener, mode, chunks
        self._array: Any = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}  # the other process opens the file itself

    def _opened(self) -> Any:
        if self._array is None:
            self._array = self.opener(self.path, self.mode)
        return self._array

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self._opened()[index])

    def __setitem__(self, index: Any, values: Any) -> None:
        self._opened()[index] = values

    def flush(self) -> None:
        """Hand to the file what a memory map still holds, and let go of it."""
        if isinstance(self._array, np.memmap):
            self._array.flush()
        self._array = None


class Image(NamedTuple):
    """An array in memory or on disk, and what its file says about it."""

    array: Any
    about: About


def axes_of_rank(rank: int) -> str:
    """Letters for the axes of a file that does not name them, all of them in space."""
    return "zyx"[-rank:] if 0 < rank <= 3 else "pqruvw"[: max(0, rank - 3)] + "zyx" * (rank > 0)


def needed(module: str, package: str, path: Path) -> Any:
    """The module that reads this file, or a FileError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise FileError(f"{path} needs {package}: pip install {package}") from None
