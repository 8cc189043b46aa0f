"""Arrays and lines as files of pictures, for pages (`drawn`) and the reference (`figures`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

FOLDER = Path(__file__).parent.parent / "_drawn"
SMALL = 240  # arrays with fewer columns are enlarged, each element a square
OUTSIDE = (200, 200, 205)  # what has no value: -inf of a structuring function


def save(content: Any, name: str, colours: str | None = None) -> str:
    """Draw an array as an image, or a mapping of titles to 1-D arrays as lines; the file's name."""
    FOLDER.mkdir(exist_ok=True)
    if isinstance(content, Mapping):
        name += ".svg"
        lines(content).savefig(FOLDER / name, transparent=True)
        return name
    picture = Image.fromarray(rgb(np.asarray(content), colours))
    photograph = colours is None and np.asarray(content).dtype == np.uint8
    if picture.width < SMALL:
        factor = -(-SMALL // picture.width)
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.NEAREST)
        photograph = False
    name += ".jpg" if photograph else ".png"
    picture.save(FOLDER / name, **(dict(quality=88) if photograph else dict(optimize=True)))
    return name


def rgb(array: np.ndarray, colours: str | None) -> np.ndarray:
    """The bytes (H, W, 3): bool as black and white, uint8 as it is, all else from least to most."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"a picture is (H, W) or (H, W, 3), and not {array.shape}")
    if array.dtype == bool:
        array = np.uint8(255) * array
    if array.ndim == 3:
        return array if array.dtype == np.uint8 else np.uint8(255 * np.clip(array, 0, 1) + 0.5)
    if colours == "labels":
        return labels(array)
    if array.dtype == np.uint8 and colours is None:
        return np.repeat(array[..., None], 3, axis=2)
    known = np.isfinite(array)
    low, high = array[known].min(), array[known].max()
    scaled = np.where(known, (array - low) / max(high - low, 1e-30), 0)
    drawn = np.uint8(255 * colormaps[colours or "gray"](scaled)[..., :3] + 0.5)
    drawn[~known] = OUTSIDE
    return drawn


def labels(array: np.ndarray) -> np.ndarray:
    """A colour for each number above 0, far from those of its neighbours; black for 0."""
    hues = np.random.default_rng(3).permutation(np.linspace(0, 1, int(array.max()), endpoint=False))
    table = np.vstack([[0, 0, 0], colormaps["hsv"](hues)[:, :3] * 0.6 + 0.35])
    return np.uint8(255 * table[array.astype(int)])


def lines(content: Mapping[str, Any]) -> Figure:
    """One line for each title, with a legend; of a pair (x, y) points."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axes = figure.subplots()
    for title, line in content.items():
        if isinstance(line, tuple):
            axes.plot(*line, "o", label=title, markersize=9 - 3 * len(axes.lines))
        else:
            axes.plot(line, label=title, linewidth=1.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
