"""Which format a name means; an image opened, and one created that is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from semiconv_cupy.files import npy, pictures, stores, tiff
from semiconv_cupy.files.about import About, FileError, Image

_KINDS = {
    ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff",
    ".npy": "npy", ".zarr": "zarr",
}  # fmt: skip


def kind_of(path: Path, argument: str) -> str:
    """The format by the name's end; a folder of Zarr may have any name."""
    if path.is_dir() and any(
        (path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup")
    ):
        return "zarr"
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise FileError(f"{argument} {path} must end with one of {', '.join(_KINDS)}")
    return kind


def opened(path: Path, argument: str = "INPUT") -> Image:
    """The image of a file: in memory for pictures, else on disk until it is indexed."""
    kind = kind_of(path, argument)
    if not path.exists():
        raise FileError(f"{argument}: no such file: {path}")
    read: Any = {
        "png": pictures.opened, "jpeg": pictures.opened, "tiff": tiff.opened, "npy": npy.opened,
        "zarr": stores.opened,
    }[kind]  # fmt: skip
    try:
        image: Image = read(path)
    except (OSError, ValueError, KeyError) as error:
        raise FileError(f"{argument}: cannot read {path}: {error}") from None
    return image


def stored_dtype(path: Path, dtype: Any) -> np.dtype:
    """The dtype in which results of this dtype are written: a TIFF has no bool, but 0 and 255."""
    bilevel = np.dtype(dtype) == bool and kind_of(path, "OUTPUT") in ("tiff", "jpeg", "png")
    return np.dtype(np.uint8) if bilevel else np.dtype(dtype)


def require_fits(path: Path, shape: tuple[int, ...], dtype: np.dtype, about: About) -> None:
    """FileError before anything is computed that the file could not hold."""
    kind = kind_of(path, "OUTPUT")
    if kind in ("png", "jpeg"):
        pictures.require_fits(path, kind, shape, dtype, about)
    elif kind == "tiff" and (0 in shape or dtype.kind not in "uif"):
        raise FileError(f"OUTPUT {path.name}: TIFF holds no {dtype} of shape {shape}: choose .npy")


@contextmanager
def created(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, about: About,
    chunks: tuple[int, ...] | None = None,
) -> Iterator[Any]:  # fmt: skip
    """An array to write to; `path` has it when the block has ended well, and not before."""
    kind = kind_of(path, "OUTPUT")
    with in_place_of(path) as part:
        target: Any
        if kind in ("png", "jpeg"):
            target = np.empty(shape, dtype)
        elif kind == "tiff":
            target = tiff.created(part, shape, dtype, about, path.name)
        elif kind == "npy":
            target = npy.created(part, shape, dtype)
        else:
            target = stores.created(part, shape, dtype, about, path.name, chunks)
        yield target
        if kind in ("png", "jpeg"):
            pictures.save(part, kind, target, about)
        elif not isinstance(target, np.ndarray):
            target.flush()


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """A name beside `path`, whose file or folder takes its place if the block ends well."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    _remove(part)
    try:
        yield part
        if path.is_dir():  # os.replace replaces no folder that is not empty
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, old)
            os.replace(part, path)
            _remove(old)
        else:
            os.replace(part, path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
