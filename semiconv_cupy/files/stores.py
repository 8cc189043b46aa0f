"""Zarr of both formats, and the first level of OME-Zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from semiconv_cupy.files.about import About, FileError, Image, OnDisk, axes_of_rank, needed

_KINDS = {"t": "time", "c": "channel"}


def opened(path: Path) -> Image:
    """An array, or of an OME-Zarr group its first level."""
    zarr = needed("zarr", "zarr", path)
    found = zarr.open(str(path), mode="r")
    if isinstance(found, zarr.Array):
        names = getattr(found.metadata, "dimension_names", None) or ()
        named = all(name and len(name) == 1 for name in names) and len(set(names)) == found.ndim
        axes = "".join(names).lower() if named else axes_of_rank(found.ndim)
        about = About(axes, said=named, flavour=str(found.metadata.zarr_format))
        return Image(_on_disk(path, found), about)
    attributes = dict(found.attrs)
    levels = attributes.get("ome", attributes).get("multiscales")
    if not levels:
        arrays = ", ".join(sorted(found.array_keys())) or "none"
        raise FileError(f"{path} is a group of Zarr without multiscales: name one array ({arrays})")
    first = levels[0]["datasets"][0]
    array = found[first["path"]]
    axes = "".join(_letter(axis) for axis in levels[0].get("axes", "tczyx"))
    scales = [
        step["scale"]
        for step in (*first.get("coordinateTransformations", ()),
                     *levels[0].get("coordinateTransformations", ()))
        if step["type"] == "scale"
    ]  # fmt: skip
    steps = np.prod(scales, axis=0) if scales else ()
    units = {
        _letter(axis): axis["unit"]
        for axis in levels[0].get("axes", ())
        if isinstance(axis, dict) and "unit" in axis
    }
    about = About(
        axes, {name: float(step) for name, step in zip(axes, steps, strict=False)}, units,
        said=True, flavour=f"ome{array.metadata.zarr_format}",
    )  # fmt: skip
    return Image(_on_disk(path / first["path"], array), about)


def _letter(axis: Any) -> str:
    return str(axis["name"] if isinstance(axis, dict) else axis)[0].lower()


def _on_disk(path: Path, array: Any) -> OnDisk:
    # Of a sharded array the shards, so that a result has no more files than the image.
    chunks = getattr(array, "shards", None) or array.chunks
    return OnDisk(path, array.shape, array.dtype, stored, chunks=chunks)


def stored(path: str, mode: str) -> Any:
    import zarr

    array = zarr.open_array(path, mode=mode)
    return array if mode == "r" else _Written(array)


class _Written:
    """An array of a new store, filled with 0, whose parts are written once.

    Zarr compares each chunk with the fill value before it writes it, 5 processor seconds a GB, ten
    times as long as the rest. A part is tested here instead, of its bits, since -0.0 is not 0.0.
    """

    def __init__(self, array: Any) -> None:
        has = hasattr(array, "with_config")  # since Zarr 3.1
        self.array = array.with_config({"write_empty_chunks": True}) if has else array

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __setitem__(self, index: Any, values: np.ndarray) -> None:
        if np.ascontiguousarray(values).view(np.uint8).any():
            self.array[index] = values


def created(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, about: About, name: str,
    chunks: tuple[int, ...] | None,
) -> OnDisk:  # fmt: skip
    """An array to write to, in a new store of the format of the input, 3 where it has none."""
    zarr = needed("zarr", "zarr", path)
    version = 2 if about.flavour.endswith("2") else 3
    options: dict[str, Any] = {"shape": shape, "dtype": dtype, "chunks": chunks or "auto"}
    if version == 3:
        options["dimension_names"] = list(about.axes)
    if not (about.flavour.startswith("ome") or name.lower().endswith(".ome.zarr")):
        zarr.create_array(str(path), zarr_format=version, **options)
        return OnDisk(path, shape, dtype, stored, "r+", chunks)
    axes = [
        {"name": axis, "type": _KINDS.get(axis, "space")}
        | ({"unit": about.units[axis]} if axis in about.units else {})
        for axis in about.axes
    ]
    scale = {"type": "scale", "scale": [float(about.spacing.get(axis, 1)) for axis in about.axes]}
    level = {"path": "0", "coordinateTransformations": [scale]}
    scales: dict[str, Any] = {"axes": axes, "datasets": [level], "name": name}
    attributes: dict[str, Any] = (
        {"multiscales": [{"version": "0.4", **scales}]}
        if version == 2
        else {"ome": {"version": "0.5", "multiscales": [scales]}}
    )
    group = zarr.create_group(str(path), zarr_format=version, attributes=attributes)
    group.create_array("0", **options)
    return OnDisk(path / "0", shape, dtype, stored, "r+", chunks)
