"""The demo: quadratic morphology of a photograph, with our results and times next to SciPy's.

`python -m semiconv_cupy demo` calls `run`. Only this file needs the extra `demo`; it computes with
the public `semifield_conv`.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from semiconv_cupy import structuring
from semiconv_cupy.progress import bar

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

Grey = npt.NDArray[np.float32]
Operation = Callable[[Grey], Grey]


class DemoError(Exception):
    """An error that the user can correct; the text says how."""


class Timed(NamedTuple):
    """One operation by both libraries: our result, the seconds of each, the largest difference."""

    result: Grey
    ours: float
    scipys: float
    difference: float


def run(image: Path | None, out: Path, scale: float, size: int | None, panel: int) -> None:
    """Run the whole demo: load, compute, compare, print, draw.

    Parameters
    ----------
    image : Path, optional
        As in `load`.
    out : Path
        The picture to write; its extension chooses the format.
    scale : float
        Pixels at which the structuring function has fallen by the whole range of the image, 1.
    size : int, optional
        Taps along each axis, odd. By default as many as can change a result.
    panel : int
        Longest side of one panel in pixels.

    Raises
    ------
    DemoError
        A package of the extra `demo` is missing, the picture cannot be read or written, or the
        arguments do not fit.
    """
    missing = missing_packages()
    if missing:
        raise DemoError(f"packages are missing: pip install {' '.join(missing)}")
    name, grey = load(image)
    try:
        krn = structuring.quadratic(scale, size=size)
    except ValueError as error:
        raise DemoError(str(error)) from None
    if krn.shape[0] % 2 == 0:
        raise DemoError(f"--size must be odd, got {size}: an even kernel has no central tap")
    if panel < 64:
        raise DemoError(f"--panel must be at least 64 pixels, got {panel}")
    if out.suffix.lower() not in _writable():
        raise DemoError(f"cannot write {out}: no picture format has the extension {out.suffix!r}")
    if not out.parent.is_dir():
        raise DemoError(f"cannot write {out}: there is no folder {out.parent}")

    shape = f"{grey.shape[1]} x {grey.shape[0]}"
    taps = f"{krn.shape[1]} x {krn.shape[0]}"
    print(f"picture    {name}, {shape} pixels, float32")
    print(f"kernel     quadratic, {taps} taps, falls by 1 at {scale:g} pixels")
    print(f"backend    {_backend()}", flush=True)

    first_call, timed = compare(grey, krn)
    print(f"first call {_seconds(first_call)} for each semifield (compiled once, then cached)\n")
    print(f"{'':10}{'semiconv_cupy':>15}{'scipy.ndimage':>15}{'ratio':>9}{'max |difference|':>19}")
    for operation, (_, ours, scipys, difference) in timed.items():
        ratio = f"{scipys / ours:.3g}x"
        times = f"{_seconds(ours):>15}{_seconds(scipys):>15} {ratio:>8}"
        print(f"{operation:10}{times}{difference:>19g}")

    picture = draw(f"{name}, {shape}", grey, krn, timed, panel)
    try:
        picture.save(out, quality=90)  # PNG has no quality and ignores it
    except OSError as error:
        raise DemoError(f"cannot write {out}: {error.strerror or error}") from None
    print(f"\nwritten to {out}")


def load(path: Path | None) -> tuple[str, Grey]:
    """A picture as float32 grey values in [0, 1], with its name.

    Parameters
    ----------
    path : Path, optional
        Any file that Pillow reads, or a .npy, .tif or .tiff array: a picture, a colour picture
        (last axis 3 or 4), or a volume, of which the middle slice along the first axis is taken.
        By default the photograph that scikit-image ships.

    Returns
    -------
    name : str
    grey : numpy.ndarray
        8-bit values are divided by 255 and values within [0, 1] are kept; any others are
        stretched from their minimum and maximum.
    """
    if path is None:
        from skimage import data

        return "skimage.data.camera()", _grey(data.camera())
    if not path.is_file():
        raise DemoError(f"no such picture: {path}")
    try:
        return path.name, _grey(_read(path))
    except (OSError, ValueError) as error:
        raise DemoError(f"cannot read {path} as a picture: {error}") from None


def _read(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if suffix in (".tif", ".tiff"):
        import tifffile

        return np.asarray(tifffile.imread(path))
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        deep = upright.mode.startswith(("I", "F"))  # 16 and 32 bits, which "RGB" would clip
        return np.asarray(upright if deep else upright.convert("RGB"))


def _grey(values: np.ndarray) -> Grey:
    if values.dtype.kind not in "buif":
        raise ValueError(f"pixels must be real numbers, got dtype {values.dtype}")
    eight_bit = values.dtype == np.uint8
    if values.ndim > 2 and values.shape[-1] in (3, 4):
        values = values[..., :3] @ np.array([0.299, 0.587, 0.114])
    while values.ndim > 2:
        values = values[len(values) // 2]
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"a picture has two axes and some pixels, got shape {values.shape}")
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("some pixels are not finite")
    if eight_bit:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return np.ascontiguousarray((values - low) / ((high - low) or 1.0), dtype=np.float32)


def compare(grey: Grey, krn: np.ndarray) -> tuple[float, dict[str, Timed]]:
    """Dilation, erosion, opening and closing by both libraries; times are medians of several runs.

    Returns
    -------
    first_call : float
        Seconds of our slowest first call, which includes the compilation if nothing was cached.
    timed : dict of str to Timed
    """
    ours, scipys = _our_operations(krn), _scipys_operations(krn)
    steps = 2 + 2 * len(ours)
    first_calls, timed = [], {}
    with bar("comparing", "steps") as show:
        for step, operation in enumerate(("dilation", "erosion")):
            show(step, steps, f"first {operation}")
            first_calls.append(_time(ours[operation], grey))
        for step, operation in enumerate(ours, start=1):
            show(2 * step, steps, operation)
            result = ours[operation](grey)
            seconds = _median_time(ours[operation], grey)
            show(2 * step + 1, steps, f"{operation} by scipy.ndimage")
            scipys_result = scipys[operation](grey)  # not timed: SciPy's first call imports modules
            scipys_seconds = _median_time(scipys[operation], grey)
            difference = float(np.max(np.abs(result - scipys_result)))
            timed[operation] = Timed(result, seconds, scipys_seconds, difference)
        show(steps, steps)
    return max(first_calls), timed


def _our_operations(krn: np.ndarray) -> dict[str, Operation]:
    from semiconv_cupy import semifield_conv

    kernel = krn[None, None]

    def dilation(grey: Grey) -> Grey:
        return semifield_conv(grey[None, None], kernel, "tropical_max", padding="same")[0, 0]

    def erosion(grey: Grey) -> Grey:
        return semifield_conv(
            grey[None, None], kernel, "tropical_min_negated", padding="same", kind="corr"
        )[0, 0]

    return _with_openings(dilation, erosion)


def _scipys_operations(krn: np.ndarray) -> dict[str, Operation]:
    from scipy import ndimage

    # Positions outside the image never win: -inf in a maximum, +inf in a minimum.
    structure = np.asarray(krn)

    def dilation(grey: Grey) -> Grey:
        return ndimage.grey_dilation(grey, structure=structure, mode="constant", cval=-np.inf)

    def erosion(grey: Grey) -> Grey:
        return ndimage.grey_erosion(grey, structure=structure, mode="constant", cval=np.inf)

    return _with_openings(dilation, erosion)


def _with_openings(dilation: Operation, erosion: Operation) -> dict[str, Operation]:
    return {
        "dilation": dilation,
        "erosion": erosion,
        "opening": lambda grey: dilation(erosion(grey)),
        "closing": lambda grey: erosion(dilation(grey)),
    }


def _time(operation: Operation, grey: Grey) -> float:
    start = time.perf_counter()
    operation(grey)
    return time.perf_counter() - start


def _median_time(operation: Operation, grey: Grey) -> float:
    """The median of up to 15 runs, or of as many as begin within 0.6 s."""
    seconds = [_time(operation, grey)]
    while len(seconds) < 15 and sum(seconds) < 0.6:
        seconds.append(_time(operation, grey))
    return statistics.median(seconds)


def _seconds(seconds: float) -> str:
    """Three digits and a unit: 0.84 ms, 12.3 ms, 1.52 s."""
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1e3)
    value = seconds * factor
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def _backend() -> str:
    from semiconv_cupy import backends

    return backends.describe()["numpy"]


def missing_packages() -> list[str]:
    """The packages that `pip install` must add before the demo can run."""
    packages = {
        "PIL": "pillow",
        "scipy": "scipy",
        "skimage": "scikit-image",
        "tifffile": "tifffile",
    }
    return [name for module, name in packages.items() if importlib.util.find_spec(module) is None]


def _writable() -> set[str]:
    from PIL import Image

    Image.init()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE}


PAPER, INK, FAINT, ACCENT = (17, 19, 24), (236, 238, 242), (140, 146, 158), (255, 176, 84)
# The colour map from dark violet to pale yellow: anchors at equal steps, linear between them.
ANCHORS = ((3, 2, 14), (60, 15, 95), (132, 32, 107), (203, 66, 77), (246, 133, 31), (252, 232, 150))


def draw(
    title: str, grey: Grey, krn: np.ndarray, timed: Mapping[str, Timed], panel: int
) -> Image.Image:
    """The labelled picture: two rows of four panels.

    Above: the image, its dilation, its erosion and their difference (the gradient). Below: the
    structuring function, the closing, the opening, and the image minus its opening (the top-hat).
    """
    from PIL import Image, ImageDraw

    results = {name: entry.result for name, entry in timed.items()}
    gradient = results["dilation"] - results["erosion"]
    top_hat = grey - results["opening"]
    factor = min(panel / max(grey.shape), max(1, panel // max(grey.shape)))
    height, width = (max(1, round(length * factor)) for length in grey.shape)
    column, unit = max(width, round(0.8 * panel)), panel / 100
    gap, caption, header = round(4 * unit), round(13 * unit), round(21 * unit)

    sheet = Image.new("RGB", (4 * column + 5 * gap, header + 2 * (height + caption)), PAPER)
    pen = ImageDraw.Draw(sheet)
    _text(pen, (gap, 7.5 * unit), "Morphology with a quadratic structuring function", 7.5 * unit)
    difference = max(entry.difference for entry in timed.values())
    subtitle = f"{title}    {_backend()}    max |difference| to scipy.ndimage: {difference:g}"
    _text(pen, (gap, 15.5 * unit), subtitle, 4.2 * unit, FAINT)

    surface = _surface(krn, (column, height))
    panels: list[tuple[str, str, Image.Image]] = [
        ("image", "", _shades(grey)),
        ("dilation", _both_times(timed["dilation"]), _shades(results["dilation"])),
        ("erosion", _both_times(timed["erosion"]), _shades(results["erosion"])),
        ("gradient", "dilation - erosion", _colours(gradient)),
        ("structuring function", f"{krn.shape[1]} x {krn.shape[0]} taps", surface),
        ("closing", _both_times(timed["closing"]), _shades(results["closing"])),
        ("opening", _both_times(timed["opening"]), _shades(results["opening"])),
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


def _both_times(timed: Timed) -> str:
    return f"{_seconds(timed.ours)}, SciPy {_seconds(timed.scipys)}"


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


def _shades(grey: Grey) -> Image.Image:
    from PIL import Image

    return Image.fromarray(np.rint(255 * np.clip(grey, 0, 1)).astype(np.uint8))


def _colours(values: Grey) -> Image.Image:
    """The values from 0 to their 99.5th percentile, in the colours of the map."""
    from PIL import Image

    top = float(np.percentile(values, 99.5)) or 1.0
    return Image.fromarray(_colour_map(np.clip(values / top, 0, 1)))


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
