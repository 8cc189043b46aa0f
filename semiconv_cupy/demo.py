"""The demo: quadratic morphology of a picture or volume, our results and times next to SciPy's.

`python -m semiconv_cupy demo` calls `run`. Only this file needs the extra `demo`; it computes with
the public `semifield_conv`.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semiconv_cupy import structuring
from semiconv_cupy.demo_sheet import Panel, Pixels, draw
from semiconv_cupy.geometry import Kind
from semiconv_cupy.progress import bar

Operation = Callable[[Pixels], Pixels]

# Pixels at which the structuring function has fallen by 1, unless --scale says it.
SCALES = {"grey": 12.0, "colour": 12.0, "volume": 4.0}


class DemoError(Exception):
    """An error that the user can correct; the text says how."""


class Timed(NamedTuple):
    """One operation by both libraries: our result, the seconds of each, the largest difference."""

    result: Pixels
    ours: float
    scipys: float
    difference: float


def run(
    image: Path | None,
    out: Path,
    scale: float | None,
    size: int | None,
    panel: int,
    kind: str = "grey",
) -> None:
    """Run the whole demo: load, compute, compare, print, draw.

    Parameters
    ----------
    image : Path, optional
        As in `load`.
    out : Path
        The picture to write; its extension chooses the format.
    scale : float, optional
        Pixels at which the structuring function has fallen by the whole range of the image, 1; by
        default as in `SCALES`.
    size : int, optional
        Taps along each axis, odd. By default as many as can change a result.
    panel : int
        Longest side of one panel in pixels.
    kind : {"grey", "colour", "volume"}
        What the image is taken for.

    Raises
    ------
    DemoError
        A package of the extra `demo` is missing, the picture cannot be read or written, or the
        arguments do not fit.
    """
    missing = missing_packages()
    if missing:
        raise DemoError(f"packages are missing: pip install {' '.join(missing)}")
    name, pixels = load(image, kind)
    scale = SCALES[kind] if scale is None else scale
    try:
        krn = structuring.quadratic(scale, size=size, ndim=3 if kind == "volume" else 2)
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

    shape = " x ".join(map(str, reversed(pixels.shape[: krn.ndim])))
    taps = " x ".join(map(str, reversed(krn.shape)))
    unit = {"grey": "pixels", "colour": "pixels of 3 channels", "volume": "voxels"}[kind]
    print(f"picture    {name}, {shape} {unit}, float32")
    print(f"kernel     quadratic, {taps} taps, falls by 1 at {scale:g} pixels")
    print(f"backend    {_backend()}", flush=True)

    first_call, timed = compare(pixels, krn)
    print(f"first call {_seconds(first_call)} for each semifield ({_preparation()})\n")
    print(f"{'':10}{'semiconv_cupy':>15}{'scipy.ndimage':>15}{'ratio':>9}{'max |difference|':>19}")
    for operation, (_, ours, scipys, difference) in timed.items():
        ratio = f"{scipys / ours:.3g}x"
        times = f"{_seconds(ours):>15}{_seconds(scipys):>15} {ratio:>8}"
        print(f"{operation:10}{times}{difference:>19g}")

    panels = {
        operation: Panel(one.result, f"{_seconds(one.ours)}, SciPy {_seconds(one.scipys)}")
        for operation, one in timed.items()
    }
    worst = max(one.difference for one in timed.values())
    title = "Morphology with a quadratic structuring function"
    below = f"{name}, {shape}    {_backend()}    max |difference| to scipy.ndimage: {worst:g}"
    picture = draw((title, below), pixels, krn, panels, panel)
    try:
        picture.save(out, quality=90)  # PNG has no quality and ignores it
    except OSError as error:
        raise DemoError(f"cannot write {out}: {error.strerror or error}") from None
    print(f"\nwritten to {out}")


def load(path: Path | None, kind: str = "grey") -> tuple[str, Pixels]:
    """An image as float32 values in [0, 1], with its name.

    Parameters
    ----------
    path : Path, optional
        Any file that Pillow reads, or a .npy, .tif or .tiff array: a picture, a colour picture
        (last axis 3 or 4), or a volume. By default what scikit-image ships, or makes.
    kind : {"grey", "colour", "volume"}
        "grey" weighs colours, and takes the middle slice of a volume along its first axis.

    Returns
    -------
    name : str
    pixels : numpy.ndarray
        (H, W), (H, W, 3) or (D, H, W). 8-bit values are divided by 255 and values within [0, 1] are
        kept; any others are stretched from their minimum and maximum.
    """
    if path is None:
        name, values = _shipped(kind)
        return name, _in_range(values)
    if not path.is_file():
        raise DemoError(f"no such picture: {path}")
    try:
        return path.name, _in_range(_as_kind(_read(path), kind))
    except (OSError, ValueError) as error:
        what = "volume" if kind == "volume" else "picture"
        raise DemoError(f"cannot read {path} as a {what}: {error}") from None


def _shipped(kind: str) -> tuple[str, np.ndarray]:
    from skimage import data

    if kind == "colour":
        return "skimage.data.astronaut()", data.astronaut()
    if kind == "grey":
        return "skimage.data.camera()", data.camera()
    from scipy import ndimage

    blobs = data.binary_blobs(64, n_dim=3, blob_size_fraction=0.2, volume_fraction=0.35, rng=0)
    noise = np.random.default_rng(0).normal(0, 0.08, blobs.shape)
    return "blobs in noise", np.clip(ndimage.gaussian_filter(0.8 * blobs, 1.0) + noise, 0, 1)


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


def _as_kind(values: np.ndarray, kind: str) -> np.ndarray:
    if values.dtype.kind not in "buif":
        raise ValueError(f"pixels must be real numbers, got dtype {values.dtype}")
    coloured = values.ndim > 2 and values.shape[-1] in (3, 4)
    wrong = f"got shape {values.shape}"
    if kind == "volume":
        if values.ndim != 3 or values.size == 0:
            raise ValueError(f"a volume has three axes and some voxels, {wrong}")
        return values
    if kind == "colour":
        if values.ndim != 3 or not coloured or values.size == 0:
            raise ValueError(f"a colour picture has a last axis of 3 or 4 and some pixels, {wrong}")
        return values[..., :3]
    eight_bit = values.dtype == np.uint8
    if coloured:
        values = values[..., :3] @ np.array([0.299, 0.587, 0.114])
    while values.ndim > 2:
        values = values[len(values) // 2]
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"a picture has two axes and some pixels, got shape {values.shape}")
    return values / 255 if eight_bit else values


def _in_range(values: np.ndarray) -> Pixels:
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("some pixels are not finite")
    if values.dtype == np.uint8:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return np.ascontiguousarray((values - low) / ((high - low) or 1.0), dtype=np.float32)


def compare(pixels: Pixels, krn: np.ndarray) -> tuple[float, dict[str, Timed]]:
    """Dilation, erosion, opening and closing by both libraries; times are medians of several runs.

    Returns
    -------
    first_call : float
        Seconds of our slowest first call, which includes the compilation if nothing was cached.
    timed : dict of str to Timed
    """
    ours, scipys = _our_operations(krn), _scipys_operations(krn, pixels.ndim - krn.ndim)
    steps = 2 + 2 * len(ours)
    first_calls, timed = [], {}
    with bar("comparing", "steps") as show:
        for step, operation in enumerate(("dilation", "erosion")):
            show(step, steps, f"first {operation}")
            first_calls.append(_time(ours[operation], pixels))
        for step, operation in enumerate(ours, start=1):
            show(2 * step, steps, operation)
            result = ours[operation](pixels)
            seconds = _median_time(ours[operation], pixels)
            show(2 * step + 1, steps, f"{operation} by scipy.ndimage")
            scipys_result = scipys[operation](pixels)  # not timed: imports
            scipys_seconds = _median_time(scipys[operation], pixels)
            difference = float(np.max(np.abs(result - scipys_result)))
            timed[operation] = Timed(result, seconds, scipys_seconds, difference)
        show(steps, steps)
    return max(first_calls), timed


def _our_operations(krn: np.ndarray) -> dict[str, Operation]:
    from semiconv_cupy import semifield_conv

    kernel = krn[None, None]

    def morphology(pixels: Pixels, semifield: str, kind: Kind) -> Pixels:
        if pixels.ndim == krn.ndim:
            return semifield_conv(pixels[None, None], kernel, semifield, kind=kind, padding="same")[
                0, 0
            ]
        channels = np.moveaxis(pixels, -1, 0)[:, None]  # a batch; no element is copied
        done = semifield_conv(channels, kernel, semifield, kind=kind, padding="same")
        return np.moveaxis(done[:, 0], 0, -1)

    return _with_openings(
        lambda pixels: morphology(pixels, "tropical_max", "conv"),
        lambda pixels: morphology(pixels, "tropical_min_negated", "corr"),
    )


def _scipys_operations(krn: np.ndarray, channels: int) -> dict[str, Operation]:
    from scipy import ndimage

    # Positions outside the image never win: -inf in a maximum, +inf in a minimum.
    structure = np.asarray(krn)[..., None] if channels else np.asarray(krn)
    beyond = dict(structure=structure, mode="constant")
    return _with_openings(
        lambda pixels: ndimage.grey_dilation(pixels, cval=-np.inf, **beyond),
        lambda pixels: ndimage.grey_erosion(pixels, cval=np.inf, **beyond),
    )


def _with_openings(dilation: Operation, erosion: Operation) -> dict[str, Operation]:
    return {
        "dilation": dilation,
        "erosion": erosion,
        "opening": lambda pixels: dilation(erosion(pixels)),
        "closing": lambda pixels: erosion(dilation(pixels)),
    }


def _time(operation: Operation, pixels: Pixels) -> float:
    start = time.perf_counter()
    operation(pixels)
    return time.perf_counter() - start


def _median_time(operation: Operation, pixels: Pixels) -> float:
    """The median of up to 15 runs, or of as many as begin within 0.6 s."""
    seconds = [_time(operation, pixels)]
    while len(seconds) < 15 and sum(seconds) < 0.6:
        seconds.append(_time(operation, pixels))
    return statistics.median(seconds)


def _seconds(seconds: float) -> str:
    """Three digits and a unit: 0.84 ms, 12.3 ms, 1.52 s."""
    unit, factor = ("s", 1) if seconds >= 1 else ("ms", 1e3)
    value = seconds * factor
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def _backend() -> str:
    from semiconv_cupy import backends

    return backends.describe()["numpy"]


def _preparation() -> str:
    """What a first call waits for."""
    from semiconv_cupy.backends.host import prebuilt

    return "compiled once, then cached" if prebuilt.level() is None else "ready-made"


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
