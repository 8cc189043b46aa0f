"""PNG and JPEG, which are read and written whole, by Pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from semiconv_cupy.files.about import About, FileError, Image, needed

INCH_IN = {"inch": 1.0, "in": 1.0, "cm": 2.54, "mm": 25.4, "micrometer": 25400.0, "µm": 25400.0}
_MODES = {
    "png": {("bool", 0), ("uint8", 0), ("uint8", 2), ("uint8", 3), ("uint8", 4), ("uint16", 0)},
    "jpeg": {("uint8", 0), ("uint8", 3)},
}


def opened(path: Path) -> Image:
    """The pixels of a picture, upright, and its dots per inch."""
    pillow = needed("PIL.Image", "pillow", path)
    operations = needed("PIL.ImageOps", "pillow", path)
    _refuse_deep_colours(path)
    with pillow.open(path) as picture:
        dpi = picture.info.get("dpi")
        upright = operations.exif_transpose(picture)
        if upright.mode in ("P", "PA"):
            upright = upright.convert("RGBA" if "transparency" in picture.info else "RGB")
        elif upright.mode not in ("1", "L", "LA", "RGB", "RGBA") and upright.mode[0] not in "IF":
            upright = upright.convert("RGB")  # CMYK and YCbCr of JPEG
        pixels = np.array(upright)
    if upright.mode == "I" and path.suffix.lower() == ".png":
        pixels = pixels.astype(np.uint16)  # PNG holds 16 bits at most
    axes = "yxs" if pixels.ndim == 3 else "yx"
    if not dpi or min(map(float, dpi)) <= 0:
        return Image(pixels, About(axes, said=True))
    spacing = {"x": 1 / float(dpi[0]), "y": 1 / float(dpi[1])}
    return Image(pixels, About(axes, spacing, dict.fromkeys("xy", "inch"), said=True))


def _refuse_deep_colours(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(26)
    if head[:4] == b"\x89PNG" and len(head) == 26 and head[24] == 16 and head[25] != 0:
        raise FileError(f"{path} has colours of 16 bits, of which Pillow reads 8: save it as TIFF")


def require_fits(path: Path, kind: str, shape: tuple[int, ...], dtype: Any, about: About) -> None:
    """FileError for numbers that the format cannot hold."""
    colours = shape[-1] if len(shape) == 3 and about.axes[-1:] in ("s", "c") else 0
    plane = len(shape) == 2 or bool(colours)
    if 0 in shape or not plane or (np.dtype(dtype).name, colours) not in _MODES[kind]:
        holds = "uint8, grey or colour" + (", bool, and grey uint16" * (kind == "png"))
        raise FileError(
            f"OUTPUT {path.name}: {kind.upper()} holds a picture of {holds}; the result is "
            f"{np.dtype(dtype)} of shape {shape}: choose .tif, .npy or .zarr"
        )


def save(path: Path, kind: str, pixels: np.ndarray, about: About) -> None:
    """Write a picture, with its dots per inch."""
    pillow = needed("PIL.Image", "pillow", path)
    options: dict[str, Any] = {"quality": 95} if kind == "jpeg" else {}
    found = [
        INCH_IN[about.units[axis]] / about.spacing[axis]
        for axis in "xy"
        if about.units.get(axis) in INCH_IN and about.spacing.get(axis, 0) > 0
    ]
    if len(found) == 2:
        options["dpi"] = tuple(found)
    pillow.fromarray(np.ascontiguousarray(pixels)).save(path, format=kind.upper(), **options)
