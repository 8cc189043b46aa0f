"""A picture of an image before and after: itself, or of a volume a slice and what is largest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from semiconv_cupy.files import pictures
from semiconv_cupy.files.about import About
from semiconv_cupy.files.images import in_place_of

_LONGEST = 1024  # pixels of a side of a panel
_AT_ONCE = 64 << 20


def write(path: Path, before: Any, after: Any, about: About) -> None:
    """Write a PNG: before on the left, after on the right; below, a volume's largest values.

    Parameters
    ----------
    path : Path
    before, after : array or OnDisk
        Of equal shapes. Of axes that are no rows or columns the middle is shown, above, and the
        largest of each z below; colours stay.
    """
    axes = about.axes
    rows = [[_middle(array, axes) for array in (before, after)]]
    if "z" in axes:
        rows.append([_largest(array, axes) for array in (before, after)])
    sheet = np.concatenate(
        [np.concatenate([_bytes(panel) for panel in row], axis=1) for row in rows]
    )
    with in_place_of(path) as part:
        pictures.save(part, "png", sheet, About("yxs"))


def _index(array: Any, axes: str, z: Any) -> tuple[Any, ...]:
    """The middle of other axes, `z` of z, and as many rows and columns as a panel shows."""
    step = max(1, -(-max(_lengths(array, axes)) // _LONGEST))
    kept = {"y": slice(None, None, step), "x": slice(None, None, step), "s": slice(None), "z": z}
    return tuple(
        kept.get(axis, length // 2) for axis, length in zip(axes, array.shape, strict=True)
    )


def _lengths(array: Any, axes: str) -> list[int]:
    return [length for axis, length in zip(axes, array.shape, strict=True) if axis in "yx"] or [1]


def _middle(array: Any, axes: str) -> np.ndarray:
    middle = array.shape[axes.index("z")] // 2 if "z" in axes else 0
    return np.asarray(array[_index(array, axes, middle)])


def _largest(array: Any, axes: str) -> np.ndarray:
    """The maximum along z, of a few slices at once."""
    count = array.shape[axes.index("z")]
    slices = max(1, _AT_ONCE // max(1, array.dtype.itemsize * int(np.prod(_lengths(array, axes)))))
    along = [axis for axis in axes if axis in "zyxs"].index("z")
    parts = [
        np.max(array[_index(array, axes, slice(first, first + slices))], axis=along)
        for first in range(0, count, slices)
    ]
    return np.asarray(np.max(parts, axis=0))


def _bytes(panel: np.ndarray) -> np.ndarray:
    """Three colours of 8 bits, with a border; other dtypes from their minimum to their maximum."""
    if panel.dtype == bool:
        panel = panel * np.uint8(255)
    elif panel.dtype != np.uint8:
        numbers = panel.astype(np.float64)
        finite = numbers[np.isfinite(numbers)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        scaled = (np.nan_to_num(numbers, nan=low, posinf=high, neginf=low) - low) / (
            (high - low) or 1
        )
        panel = np.rint(255 * scaled).astype(np.uint8)
    panel = np.atleast_2d(panel)
    if panel.ndim == 2:
        panel = panel[..., None]
    colours = panel[..., :3] if panel.shape[-1] >= 3 else np.repeat(panel[..., :1], 3, axis=-1)
    return np.pad(colours, ((2, 2), (2, 2), (0, 0)), constant_values=96)
