"""The demo's picture: eight panels with their names and times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.float32]

PAPER, INK, FAINT, ACCENT = (17, 19, 24), (236, 238, 242), (140, 146, 158), (255, 176, 84)
# The colour map from dark violet to pale yellow: anchors at equal steps, linear between them.
ANCHORS = ((3, 2, 14), (60, 15, 95), (132, 32, 107), (203, 66, 77), (246, 133, 31), (252, 232, 150))


class Panel(NamedTuple):
    """A result, and what stands beside its name."""

    values: Pixels
    note: str


def draw(
    texts: tuple[str, str],
    image: Pixels,
    krn: np.ndarray,
    results: Mapping[str, Panel],
    panel: int,
) -> Image.Image:
    """The labelled picture: two rows of four panels; of a volume, three sections in each.

    Above: the image, its dilation, its erosion and their difference (the gradient). Below: the
    structuring function, the closing, the opening, and the image minus its opening (the top-hat).
    """
    from PIL import Image, ImageDraw

    title, subtitle = texts
    shown = {name: _flat(entry.values) for name, entry in results.items()}
    original = _flat(image)
    rows, columns = original.shape[:2]
    factor = min(panel / max(rows, columns), max(1, panel // max(rows, columns)))
    height, width = (max(1, round(length * factor)) for length in (rows, columns))
    column, unit = max(width, round(0.8 * panel)), panel / 100
    gap, caption, header = round(4 * unit), round(13 * unit), round(21 * unit)

    sheet = Image.new("RGB", (4 * column + 5 * gap, header + 2 * (height + caption)), PAPER)
    pen = ImageDraw.Draw(sheet)
    _text(pen, (gap, 7.5 * unit), title, 7.5 * unit)
    _text(pen, (gap, 15.5 * unit), subtitle, 4.2 * unit, FAINT)

    surface = _surface(krn[krn.shape[0] // 2] if krn.ndim == 3 else krn, (column, height))
    taps = " x ".join(map(str, reversed(krn.shape)))
    gradient, top_hat = shown["dilation"] - shown["erosion"], original - shown["opening"]
    panels: list[tuple[str, str, Image.Image]] = [
        ("image", "", _shades(original)),
        ("dilation", results["dilation"].note, _shades(shown["dilation"])),
        ("erosion", results["erosion"].note, _shades(shown["erosion"])),
        ("gradient", "dilation - erosion", _colours(gradient)),
        ("structuring function", f"{taps} taps", surface),
        ("closing", results["closing"].note, _shades(shown["closing"])),
        ("opening", results["opening"].note, _shades(shown["opening"])),
        ("top-hat", "image - opening", _colours(top_hat)),
    ]
    resampling = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    for index, (name, note, picture) in enumerate(panels):
        row, across = divmod(index, 4)
        left = gap + across * (column + gap)
        top = header + row * (height + caption)
        if picture is not surface:
            picture = picture.resize((width, height), resampling)
        sheet.paste(picture, (left + (column - picture.width) // 2, top))
        line = top + height + 5 * unit
        _text(pen, (left, line), name, 5.2 * unit)
        _text(pen, (left + column, line), note, 4.2 * unit, ACCENT, anchor="rm")
    return sheet


def _flat(values: Pixels) -> Pixels:
    """A picture as it is; of a volume its middle sections: along z, beside it y, below it x."""
    if values.ndim == 2 or values.shape[-1] == 3:
        return values
    z, y, x = (length // 2 for length in values.shape)
    across, down, side = values[z], values[:, y], values[:, :, x].T
    gap = 2
    rows, columns = across.shape[0] + gap + down.shape[0], across.shape[1] + gap + side.shape[1]
    sheet = np.zeros((rows, columns), values.dtype)
    sheet[: across.shape[0], : across.shape[1]] = across
    sheet[-down.shape[0] :, : down.shape[1]] = down
    sheet[: side.shape[0], -side.shape[1] :] = side
    return sheet


def _text(
    pen: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: float,
    colour: tuple[int, int, int] = INK,
    anchor: str = "lm",
) -> None:
    from PIL import ImageFont

    pen.text(at, text, fill=colour, font=ImageFont.load_default(size), anchor=anchor)


def _shades(values: Pixels) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8))


def _colours(values: Pixels) -> Image.Image:
    """The values from 0 to their 99.5th percentile, in the colours of the map or their own."""
    from PIL import Image

    top = float(np.percentile(values, 99.5)) or 1.0
    parts = np.clip(values / top, 0, 1)
    return _shades(parts) if values.ndim == 3 else Image.fromarray(_colour_map(parts))


def _colour_map(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    steps = np.linspace(0, 1, len(ANCHORS))
    channels = [np.interp(values, steps, channel) for channel in zip(*ANCHORS, strict=True)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _surface(krn: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The structuring function, where it is above its lowest useful value -1, as a surface."""
    from PIL import Image, ImageDraw

    smooth = 3  # drawn this many times larger and then reduced, for smooth edges
    width, height = (smooth * length for length in size)
    heights = np.maximum(np.asarray(krn, dtype=np.float64), -1) + 1
    half = max(krn.shape[0] - 1, 2) / 2
    turn, tilt = math.radians(32), math.radians(28)
    rows, columns = np.indices(heights.shape) - (np.array(krn.shape)[:, None, None] - 1) / 2
    rows, columns = rows / half, columns / half
    across = columns * math.cos(turn) - rows * math.sin(turn)
    away = columns * math.sin(turn) + rows * math.cos(turn)
    reach = 0.36 * min(width, height * 1.25)
    x = width / 2 + reach * across
    y = height * 0.6 + reach * (away * math.sin(tilt) - heights * math.cos(tilt))
    colours = _colour_map(0.12 + 0.88 * heights)

    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    cells = [(r, c) for r in range(heights.shape[0] - 1) for c in range(heights.shape[1] - 1)]
    for r, c in sorted(cells, key=lambda cell: away[cell]):  # the farthest first
        corners = [(r, c), (r, c + 1), (r + 1, c + 1), (r + 1, c)]
        colour = tuple(np.mean([colours[corner] for corner in corners], axis=0).astype(int))
        outline = tuple(int(0.72 * channel) for channel in colour)
        pen.polygon([(x[k], y[k]) for k in corners], fill=colour, outline=outline, width=smooth)
    return canvas.resize(size, Image.Resampling.LANCZOS)
