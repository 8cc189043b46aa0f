"""TIFF by tifffile: pages as a volume, mapped into memory; resolution of TIFF, ImageJ and OME."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from semiconv_cupy.files.about import About, FileError, Image, OnDisk, needed

# tifffile's letters for pages of which the file says nothing: slices of a volume.
_PAGES = {"Q": "z", "I": "z"}
_RESOLUTION_UNITS = {2: "inch", 3: "cm"}


def opened(path: Path) -> Image:
    """The first series of a TIFF; what is compressed stays on disk if Zarr is there to read it."""
    tifffile = needed("tifffile", "tifffile", path)
    with tifffile.TiffFile(path) as tiff:
        if not tiff.series:
            raise FileError(f"{path} has no pages")
        series = tiff.series[0]
        about = _about(tiff, series)
        shape, dtype = series.shape, series.dtype
        if 0 in shape or dtype is None:
            raise FileError(f"{path} has no pixels: shape {shape}")
        if series.dataoffset is not None:
            return Image(OnDisk(path, shape, dtype.newbyteorder(tiff.byteorder), mapped), about)
        try:
            import zarr  # noqa: F401
        except ImportError:
            return Image(series.asarray(), about)
        store = series.aszarr(level=0)
        chunks = tuple(getattr(store, "_chunks", ())) or None
        chunks = chunks if chunks and len(chunks) == len(shape) else None
    return Image(OnDisk(path, shape, dtype, compressed, chunks=chunks), about)


def mapped(path: str, mode: str) -> Any:
    import tifffile

    return tifffile.memmap(path, mode=mode)


def compressed(path: str, mode: str) -> Any:
    import tifffile
    import zarr

    return zarr.open_array(tifffile.imread(path, aszarr=True, series=0, level=0), mode="r")


def _about(tiff: Any, series: Any) -> About:
    axes = ""
    for letter in series.axes:
        name = _PAGES.get(letter, letter.lower())
        axes += name if name not in axes else next(other for other in "pqruvw" if other not in axes)
    said = not set(series.axes) & set(_PAGES)
    if tiff.is_ome:
        return About(axes, *_of_ome(tiff.ome_metadata), said, "ome")
    spacing, units = _of_tags(series.pages[0].tags)
    if not tiff.is_imagej:
        return About(axes, spacing, units, said, "plain")
    metadata = tiff.imagej_metadata or {}
    unit = str(metadata.get("unit", "")).replace("\\u00B5", "µ")
    if "spacing" in metadata:
        spacing["z"] = abs(float(metadata["spacing"]))
    if unit:
        units = dict.fromkeys(spacing, unit)
    return About(axes, spacing, units, said, "imagej")


def _of_tags(tags: Any) -> tuple[dict[str, float], dict[str, str]]:
    spacing, units = {}, {}
    unit = tags.get("ResolutionUnit")
    for axis in "xy":
        found = tags.get(f"{axis.upper()}Resolution")
        if found is None or 0 in found.value:
            continue
        number, parts = found.value
        if number == parts and (unit is None or int(unit.value) == 1):
            continue  # 1 pixel a pixel says nothing
        spacing[axis] = parts / number
        if unit is not None and int(unit.value) in _RESOLUTION_UNITS:
            units[axis] = _RESOLUTION_UNITS[int(unit.value)]
    return spacing, units


def _of_ome(text: str) -> tuple[dict[str, float], dict[str, str]]:
    spacing, units = {}, {}
    pixels = next(
        node for node in ElementTree.fromstring(text).iter() if node.tag.endswith("}Pixels")
    )
    for axis in "xyz":
        size = pixels.get(f"PhysicalSize{axis.upper()}")
        if size is not None:
            spacing[axis] = float(size)
            units[axis] = pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm")
    return spacing, units


def created(path: Path, shape: tuple[int, ...], dtype: np.dtype, about: About, name: str) -> OnDisk:
    """An array to write to, in a new TIFF without compression; `name` is its name at last."""
    tifffile = needed("tifffile", "tifffile", path)
    axes = about.axes.upper()
    colour = axes.endswith("S") and shape[-1] in (3, 4)
    options: dict[str, Any] = {"photometric": "rgb" if colour else "minisblack"}
    metadata: dict[str, Any] = {"axes": axes}
    flavour = flavour_for(about, dtype, name)
    if flavour == "ome":
        options["ome"] = True
        for axis in set(about.spacing) & set("xyz"):
            metadata[f"PhysicalSize{axis.upper()}"] = about.spacing[axis]
            if axis in about.units:
                metadata[f"PhysicalSize{axis.upper()}Unit"] = about.units[axis]
    else:
        options |= _resolution(about)
        options["ome"] = False
    if flavour == "imagej":
        options["imagej"] = True
        if "z" in about.spacing:
            metadata["spacing"] = about.spacing["z"]
        if about.units.get("x"):
            metadata["unit"] = about.units["x"].replace("µ", "\\u00B5")
    tifffile.memmap(path, shape=shape, dtype=dtype, metadata=metadata, **options).flush()
    return OnDisk(path, shape, dtype, mapped, "r+")


def flavour_for(about: About, dtype: Any, name: str) -> str:
    """Which of TIFF's ways to describe itself serves, ImageJ knowing three dtypes."""
    if about.flavour.startswith("ome") or name.lower().endswith((".ome.tif", ".ome.tiff")):
        return "ome"
    order = ["TZCYXS".find(axis) for axis in about.axes.upper()]
    fits = np.dtype(dtype).name in ("uint8", "uint16", "float32") and order == sorted(order)
    return "imagej" if about.flavour == "imagej" and fits and -1 not in order else "plain"


def _resolution(about: About) -> dict[str, Any]:
    if not {"x", "y"} <= set(about.spacing):
        return {}
    numbers = {unit: number for number, unit in _RESOLUTION_UNITS.items()}
    return {
        "resolution": (1 / about.spacing["x"], 1 / about.spacing["y"]),
        "resolutionunit": numbers.get(about.units.get("x", ""), 1),
    }
