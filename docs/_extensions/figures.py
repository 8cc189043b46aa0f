"""Pictures in the reference, where one says more than a formula: by the name that they belong to.

Docstrings stay without them, since `help` shows no pictures; they are put behind the formula when a
docstring becomes a page.
"""

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import skimage.data
from pictures import save

import semiconv_cupy as sc
from semiconv_cupy import ndimage

HEADING = re.compile(r"(.*?)(?: \[(\w+)\])?")
# What `save` draws, by a heading: a title, with " [colours]" or without.
Panels = dict[str, Any]
FIGURES: dict[str, Callable[[], Panels]] = {}


def of(*names: str) -> Callable:
    """The decorated function draws the figure of these names, each called with the last part."""

    def register(function: Callable[[str], Panels]) -> Callable:
        for name in names:
            FIGURES[name] = partial(function, name.rpartition(".")[2])
        return function

    return register


# ---- structuring functions -----------------------------------------------------------------------


@of("semiconv_cupy.structuring.quadratic")
def quadratic(_: str) -> Panels:
    scales = {
        "quadratic(12.0)": 12.0,
        "quadratic((6.0, 20.0))": (6.0, 20.0),
        "quadratic([[200, 120], [120, 130]])": [[200.0, 120.0], [120.0, 130.0]],
    }
    return {
        f"{title} [viridis]": np.where(values > -1, values, -np.inf)
        for title, scale in scales.items()
        for values in [np.array(sc.structuring.quadratic(scale, size=41))]
    }


@of(*(f"semiconv_cupy.structuring.{name}" for name in ("box", "disk", "diamond", "cross")))
def footprint(name: str) -> Panels:
    sizes = (3, (5, 9)) if name == "box" else (1, 2.5, 6)
    made = getattr(sc.structuring, name)
    return {f"{name}({size})": framed(made(size)) for size in sizes}


@of("semiconv_cupy.structuring.ball")
def ball(_: str) -> Panels:
    whole = sc.structuring.ball(6)
    return {f"ball(6)[{z}]": framed(whole[z]) for z in (0, 2, 6)}


@of("semiconv_cupy.structuring.flat")
def flat(_: str) -> Panels:
    return {"flat(disk(6)): 0 inside, -inf outside": framed(sc.structuring.flat(disk(6)))}


def framed(taps: np.ndarray, side: int = 15) -> np.ndarray:
    """In the middle of a square, so that sizes can be compared."""
    around = -np.inf if taps.dtype.kind == "f" else 0
    before = [(side - size) // 2 for size in taps.shape]
    after = [side - size - b for size, b in zip(taps.shape, before, strict=True)]
    return np.pad(taps, list(zip(before, after, strict=True)), constant_values=around)


def disk(radius: float) -> np.ndarray:
    return sc.structuring.disk(radius)


# ---- what functions do to a picture --------------------------------------------------------------


@cache
def camera() -> np.ndarray:
    return skimage.data.camera()[40:296, 90:346]


@of(
    "semiconv_cupy.ndimage.grey_erosion", "semiconv_cupy.ndimage.grey_dilation",
    "semiconv_cupy.ndimage.grey_opening", "semiconv_cupy.ndimage.grey_closing",
    "semiconv_cupy.ndimage.white_tophat", "semiconv_cupy.ndimage.black_tophat",
    "semiconv_cupy.ndimage.morphological_gradient",
)  # fmt: skip
def by_disk(name: str) -> Panels:
    radius = 1 if name == "morphological_gradient" else 5
    result = getattr(ndimage, name)(camera(), footprint=disk(radius))
    return {"input": camera(), f"{name}, disk of radius {radius}": result}


@of("semiconv_cupy.opening_by_reconstruction", "semiconv_cupy.closing_by_reconstruction")
def by_reconstruction(name: str) -> Panels:
    alone = f"grey_{name.partition('_')[0]}"
    footprint = disk(5)
    return {
        "input": camera(),
        f"{alone}, disk of radius 5": getattr(ndimage, alone)(camera(), footprint=footprint),
        f"{name}, the same": getattr(sc, name)(camera(), footprint=footprint),
    }


@of(*(f"semiconv_cupy.ndimage.binary_{n}" for n in ("erosion", "dilation", "opening", "closing")))
def binary(name: str) -> Panels:
    horse = ~skimage.data.horse()[::2, ::2]
    return {"input": horse, "iterations=6": getattr(ndimage, name)(horse, iterations=6)}


@of("semiconv_cupy.rolling_ball")
def rolling_ball(_: str) -> Panels:
    row = skimage.data.coins()[70].astype(float)
    balls = {f"radius={radius}": sc.rolling_ball(row, radius=radius) for radius in (30, 150)}
    return {"one row of coins": {"image": row} | balls}


@of("semiconv_cupy.h_maxima", "semiconv_cupy.h_minima")
def heights(name: str) -> Panels:
    x, line = waves()
    points = {h: getattr(sc, name)(line, h).astype(bool) for h in (10, 50)}
    marked = {f"h={h}": (x[chosen], line[chosen]) for h, chosen in points.items()}
    return {f"{name} of a line": {"image": line} | marked}


@of(*(f"semiconv_cupy.parabolic_{name}" for name in ("dilation", "erosion", "opening", "closing")))
def parabolic(name: str) -> Panels:
    line = camera()[128].astype(float)
    results = {f"scale {s}": getattr(sc, name)(line, s) for s in (0.25, 1.0)}
    return {
        "one row of a photograph": {"input": line} | results,
        f"{name}, scale 1": getattr(sc, name)(camera(), 1.0),
    }


@of("semiconv_cupy.reconstruction")
def reconstruction(_: str) -> Panels:
    _, mask = waves()
    seed = mask - 45
    return {
        "of a line, from the line lowered by 45": {
            "mask": mask,
            "seed": seed,
            "reconstruction": sc.reconstruction(seed, mask),
        }
    }


def waves() -> tuple[np.ndarray, np.ndarray]:
    """A line with high and low maxima."""
    x = np.arange(300)
    return x, 60 + 40 * np.sin(x / 14) + 25 * np.sin(x / 41) + 8 * np.sin(x / 3)


@of(
    "semiconv_cupy.ndimage.distance_transform_edt", "semiconv_cupy.ndimage.distance_transform_cdt",
    "semiconv_cupy.ndimage.distance_transform_bf",
)  # fmt: skip
def distance(name: str) -> Panels:
    horse = ~skimage.data.horse()[::2, ::2]
    variants: dict[str, dict[str, Any]] = {
        "distance_transform_edt": {"sampling=None": {}, "sampling=(3, 1)": {"sampling": (3, 1)}},
        "distance_transform_cdt": {m: {"metric": m} for m in ("chessboard", "taxicab")},
        "distance_transform_bf": {m: {"metric": m} for m in ("euclidean", "taxicab")},
    }
    results = {
        f"{title} [magma]": getattr(ndimage, name)(horse, **arguments)
        for title, arguments in variants[name].items()
    }
    return {"input": horse} | results


# ---- pooling -------------------------------------------------------------------------------------


@of(*(f"torch_bridge.{name}Pool2d" for name in ("Dilation", "LogSumExp", "GeM")))
def pooling(name: str) -> Panels:
    import torch

    import torch_bridge

    picture = torch.from_numpy(camera() / np.float32(255))[None, None]
    made = getattr(torch_bridge, name)
    if name == "DilationPool2d":
        layers = {
            f"var {v}": made(9, 4, 4, structuring="iso", init={"var": v}) for v in (2.0, 30.0)
        }
    elif name == "GeMPool2d":
        layers = {f"p={p}": made(4, p=p) for p in (1.0, 20.0)}
    else:
        layers = {f"mu={mu}, mean=True": made(4, mu=mu, mean=True) for mu in (0.1, 50.0)}
    with torch.no_grad():
        pooled = {title: layer(picture)[0, 0].numpy() for title, layer in layers.items()}
    return {"input": camera()} | pooled


# ---- from docstrings to pages --------------------------------------------------------------------


def insert(app, what, name, obj, options, lines):
    """Put the figure of a name before its docstring's first section."""
    if name not in FIGURES:
        return
    rows = [".. container:: panels", ""]
    for number, (heading, content) in enumerate(FIGURES[name]().items()):
        title, colours = HEADING.fullmatch(heading).groups()
        file = save(content, f"{name}-{number}", colours)
        rows += [f"   .. figure:: /_drawn/{file}", f"      :alt: {title}", "", f"      {title}", ""]
    underlined = (i for i, line in enumerate(lines) if line and not line.strip("-"))
    place = next(underlined, len(lines) + 1) - 1
    lines[place:place] = [*rows, ""]


def setup(app):
    app.connect("autodoc-process-docstring", insert, priority=300)
    return {"parallel_read_safe": True}
