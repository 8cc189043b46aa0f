"""Random works, and each computed in its canonical and in its plain form; both must agree.

    python tests/forms.py [--works N] [--seed N] [--semifield NAME ...] [--dtype NAME ...]
                          [--device host|harness]

A work that is a matrix product is computed as one, too, whether that pays or not.
Selections agree to the bit: values, winners and gradients. Other semifields agree within twice
their promise, since their terms may be added in another order. `works` draws shapes of all roles,
with odd memory orders, ties, NaN and infinities; the same seed gives the same work.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cases
import numpy as np
import oracle

import semiconv_cupy as sc
from semiconv_cupy import run, source
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import NUMPY, Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.methods import Limits, ProductLimits
from semiconv_cupy.route import Route, choose
from semiconv_cupy.strides import element_strides

PLAIN = Limits(plain=True)
AS_PRODUCTS = Limits(products=ProductLimits(terms=1, row=2**62))
COPIES = Limits(copied=0)
# Selections of which each gradient is shared or added up in another way than in cases.SEMIFIELDS.
SHARED = cases.Case(
    lambda: sc.SelectSemifield.tropical_max(spread_gradient=True), oracle.TROPICAL_MAX
)
OF_CHANNELS = cases.Case(
    lambda: sc.SelectSemifield.tropical_max(channels_add=True), oracle.TROPICAL_MAX
)
SEMIFIELDS = cases.SEMIFIELDS | {"max shared": SHARED, "max of channels": OF_CHANNELS}
FLOATING = ("float32", "float64", "float16", "bfloat16")
# Integers and bool have a meaning only where the semifield defines one.
SELECTED = (*FLOATING, "uint8", "int8", "int16", "uint16", "int32", "int64", "bool")
EVERYWHERE = ("tropical_max", "tropical_min", "tropical_min_negated")


def dtypes_of(name: str) -> tuple[str, ...]:
    """The dtypes in which a semifield of `SEMIFIELDS` is compared."""
    return SELECTED if name in EVERYWHERE else FLOATING


# ---- works ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """The most pairs of a work, and the windows that are drawn.

    On the harness each window is a kernel to compile, so few are drawn there.
    """

    pairs: int = 300_000
    windows: tuple[int, ...] = (1, 1, 2, 3, 3, 4, 5, 7)
    steps: tuple[int, ...] = (1, 1, 1, 2, 3)
    dilations: tuple[int, ...] = (1, 1, 1, 2, 3)
    rank: int = 4


HOST = Size()
HARNESS = Size(6_000, (1, 3), (1, 1, 1, 2), (1, 1, 1, 2), 3)


@dataclass(frozen=True)
class Work:
    """One convolution with its data. `storage` is the dtype that the arrays' bits stand for."""

    role: str
    img: np.ndarray
    krn: np.ndarray
    grad_out: np.ndarray
    storage: str
    arguments: dict[str, Any]

    @property
    def geometry(self) -> Geometry:
        """Where its windows lie."""
        return Geometry.plan(self.img.shape, self.krn.shape, **self.arguments)

    def __str__(self) -> str:
        """What reproduces it, but for the numbers."""
        img, krn = (f"{a.shape} strides {element_strides(a)}" for a in (self.img, self.krn))
        return f"{self.role}, {self.storage}: img {img}, krn {krn}, {self.arguments}"


Shapes = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]


def _between(rng: random.Random, least: int, most: int) -> int:
    return round(math.exp(rng.uniform(math.log(least), math.log(most))))


def _windowed(rng: random.Random, size: Size, image: list[int]) -> tuple[list[int], dict[str, Any]]:
    """A window for each axis of an image, with borders that make every window fit."""
    simple = rng.random() < 0.4
    kernel = [rng.choice(size.windows) for _ in image]
    stride = [1 if simple else rng.choice(size.steps) for _ in image]
    dilation = [1 if simple else rng.choice(size.dilations) for _ in image]
    border: Any = rng.choice(("same", 0, "pairs", "pairs", "outside"))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if border == 0 and any(n < r for n, r in zip(image, reach, strict=True)):
        border = "pairs"
    if border in ("pairs", "outside"):
        most = 3 if border == "outside" else 1
        pads = [[rng.choice((0, rng.randint(0, most * r))) for _ in range(2)] for r in reach]
        for pad, n, r in zip(pads, image, reach, strict=True):
            pad[1] += max(0, r - n - sum(pad))
        border = tuple(map(tuple, pads))
    return kernel, dict(stride=tuple(stride), dilation=tuple(dilation), padding=border)


def _grouped(rng: random.Random) -> tuple[int, int, int, bool]:
    """Groups, input channels of each, kernels, and whether all groups share them."""
    groups, channels, shares = rng.choice((1, 1, 2, 5)), rng.choice((1, 2, 6)), rng.random() < 0.3
    return groups, channels, rng.choice((1, 2, 9)) * (1 if shares else groups), shares


def _depthwise(rng: random.Random, size: Size) -> Shapes:
    channels, image = _between(rng, 1, 40), [_between(rng, 1, 40), _between(rng, 1, 40)]
    kernel, arguments = _windowed(rng, size, image)
    shares = rng.random() < 0.3
    outputs = rng.choice((1, 1, 2)) * (1 if shares else channels)
    arguments |= dict(groups=channels, group_broadcasting=shares)
    return (_between(rng, 1, 8), channels, *image), (outputs, 1, *kernel), arguments


def _mixing(rng: random.Random, size: Size) -> Shapes:
    image = [_between(rng, 1, 20) for _ in range(rng.choice((1, 2, 2)))]
    kernel, arguments = _windowed(rng, size, image)
    inputs, outputs = _between(rng, 1, 40), _between(rng, 1, 40)
    return (_between(rng, 1, 8), inputs, *image), (outputs, inputs, *kernel), arguments


def _dense(rng: random.Random, size: Size) -> Shapes:
    inputs, outputs, batch = (_between(rng, 1, 150) for _ in range(3))
    window = [rng.choice((1, 1, 1, 2, 3)) for _ in range(rng.choice((1, 2)))]  # whole images
    image, kernel = (batch, inputs, *window), (outputs, inputs, *window)
    return image, kernel, {}


def _pointwise(rng: random.Random, size: Size) -> Shapes:
    image = [_between(rng, 1, 30) for _ in range(rng.choice((1, 2, 3)))]
    inputs, outputs, groups = _between(rng, 1, 40), _between(rng, 1, 20), rng.choice((1, 1, 3))
    kernel = (outputs * groups, inputs, *(1,) * len(image))
    step = tuple(rng.choice(size.steps) for _ in image)
    arguments = dict(stride=step, groups=groups)
    return (_between(rng, 1, 8), inputs * groups, *image), kernel, arguments


def _colour(rng: random.Random, size: Size) -> Shapes:
    image, channels = [_between(rng, 1, 40), _between(rng, 1, 60)], rng.choice((1, 2, 3, 3, 4, 7))
    kernel, arguments = _windowed(rng, size, image)
    for name, value in (("stride", 1), ("dilation", 1), ("padding", (0, 0))):
        if isinstance(arguments[name], tuple):
            arguments[name] += (value,)
    groups, inputs, kernels, shares = _grouped(rng)
    arguments |= dict(groups=groups, group_broadcasting=shares)
    batch = rng.choice((1, 1, 2, 5))
    return (batch, groups * inputs, *image, channels), (kernels, inputs, *kernel, 1), arguments


def _batch(rng: random.Random, size: Size) -> Shapes:
    image = [_between(rng, 1, 9) for _ in range(rng.choice((1, 2, 2, 3)))]
    kernel, arguments = _windowed(rng, size, image)
    groups, inputs, kernels, shares = _grouped(rng)
    arguments |= dict(groups=groups, group_broadcasting=shares)
    return (_between(rng, 1, 400), groups * inputs, *image), (kernels, inputs, *kernel), arguments


def _signal(rng: random.Random, size: Size) -> Shapes:
    image = [_between(rng, 1, 500)]
    kernel, arguments = _windowed(rng, size, image)
    groups, inputs, kernels, shares = _grouped(rng)
    arguments |= dict(groups=groups, group_broadcasting=shares)
    return (_between(rng, 1, 60), groups * inputs, *image), (kernels, inputs, *kernel), arguments


def _patches(rng: random.Random, size: Size) -> Shapes:
    """Windows that touch no border and do not overlap."""
    kernel = [rng.choice(size.windows) for _ in range(rng.choice((1, 2, 2, 3)))]
    outputs = [_between(rng, 1, 20) for _ in kernel]
    step = [k + rng.choice((0, 0, 1)) for k in kernel]
    image = [(n - 1) * s + k for n, s, k in zip(outputs, step, kernel, strict=True)]
    groups, inputs, kernels, shares = _grouped(rng)
    arguments = dict(stride=tuple(step), groups=groups, group_broadcasting=shares)
    return (_between(rng, 1, 8), groups * inputs, *image), (kernels, inputs, *kernel), arguments


def _short_rows(rng: random.Random, size: Size) -> Shapes:
    image = [_between(rng, 1, 200), rng.randint(1, 8)]
    kernel, arguments = _windowed(rng, size, image)
    return (_between(rng, 1, 5), 1, *image), (rng.choice((1, 1, 3)), 1, *kernel), arguments


def _any(rng: random.Random, size: Size) -> Shapes:
    image = [_between(rng, 1, 12) for _ in range(rng.randint(1, size.rank))]
    kernel, arguments = _windowed(rng, size, image)
    groups, inputs, kernels, shares = _grouped(rng)
    arguments |= dict(groups=groups, group_broadcasting=shares)
    return (_between(rng, 1, 6), groups * inputs, *image), (kernels, inputs, *kernel), arguments


ROLES: dict[str, Callable[[random.Random, Size], Shapes]] = {
    "depthwise": _depthwise,
    "mixing": _mixing,
    "dense": _dense,
    "pointwise": _pointwise,
    "colour": _colour,
    "batch": _batch,
    "signal": _signal,
    "patches": _patches,
    "short rows": _short_rows,
    "any": _any,
}


def work(seed: int, storage: str, domain: str, size: Size = HOST) -> Work:
    """The work of a seed; roles take turns."""
    rng = random.Random(f"{seed} {storage}")
    role = list(ROLES)[seed % len(ROLES)]
    while True:
        image, kernel, arguments = ROLES[role](rng, size)
        arguments["kind"] = rng.choice(("conv", "corr"))
        plan = Geometry.plan(image, kernel, **arguments)
        if math.prod(plan.out_shape) * plan.taps <= size.pairs:
            break
    few = rng.random() < 0.5
    img, krn = (
        laid_out(rng, numbers(rng, shape, storage, domain, few)) for shape in (image, kernel)
    )
    draws = np.random.default_rng(rng.randrange(2**32))
    grad_out = draws.standard_normal(plan.out_shape)
    stored = bits(grad_out) if storage == "bfloat16" else grad_out.astype(storage)
    return Work(role, img, krn, stored, storage, arguments)


def numbers(
    rng: random.Random, shape: tuple[int, ...], storage: str, domain: str, few: bool
) -> np.ndarray:
    """Random numbers; if `few`, of few distinct values, and now and then none that is finite."""
    draws = np.random.default_rng(rng.randrange(2**32))
    if storage == "bool":
        return draws.random(shape) < rng.choice((0.1, 0.5, 0.9))
    if np.dtype("f4" if storage == "bfloat16" else storage).kind in "iu":
        if few:
            return draws.integers(0, 4, shape).astype(storage)
        return cases.numbers(shape, storage, domain, seed=rng.randrange(2**32))
    values = draws.integers(-3, 4, shape) * 0.5 if few else draws.normal(scale=3, size=shape)
    values = np.abs(values) if domain == cases.MAGNITUDES else values
    if rng.random() < 0.2:
        special = [np.inf, 0.0, np.nan]
        if domain != cases.MAGNITUDES:
            special += [-np.inf, -np.inf, -0.0]
        where = draws.random(shape) < rng.choice((0.02, 0.3))
        values = np.where(where, draws.choice(special, shape), values)
    return bits(values) if storage == "bfloat16" else values.astype(storage)


def bits(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32 numbers, which are bfloat16."""
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def laid_out(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """The array in a random memory order; of a broadcast one, the values change."""
    order = rng.choice(("C", "C", "last", "axes", "flipped", "gaps", "broadcast"))
    axes = list(range(array.ndim))
    if order == "last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    if order == "axes":
        rng.shuffle(axes)
        return np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes))
    if order == "flipped":
        flips = tuple(slice(None, None, rng.choice((1, -1))) for _ in axes)
        return np.ascontiguousarray(array[flips])[flips]
    if order == "gaps":
        steps = [rng.choice((1, 1, 2, 3)) for _ in axes]
        wide = np.zeros([n * step for n, step in zip(array.shape, steps, strict=True)], array.dtype)
        inner = wide[tuple(slice(None, None, step) for step in steps)]
        inner[...] = array
        return inner
    if order == "broadcast":
        axis = rng.choice(axes)
        return np.broadcast_to(np.ascontiguousarray(array.take([0], axis)), array.shape)
    return array


# ---- both forms ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """What one route computes; the gradients are None where there are none."""

    out: np.ndarray
    residual: np.ndarray | None = None
    grad_img: np.ndarray | None = None
    grad_krn: np.ndarray | None = None


def computed(route: Route, work: Work, device: Any = None) -> Results:
    """Both passes of a work along a route."""
    empty = np.empty if device is None else device.empty
    out = empty(route.geometry.out_shape, work.img.dtype)
    run.forward(route, work.img, work.krn, out)
    if work.storage not in source.FLOATING:
        return Results(out)
    spec, alone = route.residual_spec, out
    residual = None if spec is None else empty(spec.shape, spec.dtype)
    out = empty(alone.shape, alone.dtype)
    run.forward(route, work.img, work.krn, out, residual)
    if route.semifield.accumulator == "select":
        np.testing.assert_array_equal(unsigned(alone), unsigned(out), "with a residual and without")
    real = source.ARITHMETIC[work.storage]
    grad_img, grad_krn = np.zeros(work.img.shape, real), empty(work.krn.shape, real)
    run.backward(
        route, GradientArrays(work.grad_out, work.img, work.krn, residual, grad_img, grad_krn)
    )
    return Results(out, residual, grad_img, grad_krn)


def routes(case: cases.Case, work: Work, device: Any = None) -> tuple[Route, ...]:
    """The routes of a work: its own, another way where there is one, and that of its plain form.

    The CPU may compute it as a product, a GPU from a copy of the image.
    """
    place = NUMPY if device is None else Place("NumPy", gpu=0, device=device)
    given = (case.semifield, work.geometry, work.storage, place, "auto")
    own, plain = choose(*given), choose(*given, PLAIN)
    strides = element_strides(work.img), element_strides(work.krn)
    as_product = choose(*given, AS_PRODUCTS)
    if device is None and own.product(*strides) is None and as_product.product(*strides):
        return own, as_product, plain
    copies = choose(*given, COPIES)
    return (own, copies, plain) if copies.copies_image(strides[0]) else (own, plain)


def is_rewritten(case: cases.Case, work: Work) -> bool:
    """Whether the host computes a work in another form than the plain one."""
    own, *_, plain = routes(case, work)
    strides = element_strides(work.img), element_strides(work.krn)
    return own.product(*strides) is not None or own.form(*strides) != plain.form(*strides)


def check(case: cases.Case, work: Work, device: Any = None) -> None:
    """Compute a work in all its forms; raise an AssertionError that says where they differ."""
    *others, plain = (computed(route, work, device) for route in routes(case, work, device))
    for found in others:
        require_agreement(case, work, found, plain)


def require_agreement(case: cases.Case, work: Work, found: Results, plain: Results) -> None:
    """Raise an AssertionError that says where two results of a work differ."""
    if case.selects:
        for name in ("out", "residual", "grad_img", "grad_krn"):
            equal(name, getattr(found, name), getattr(plain, name))
        return
    close("out", numbers_of(work, found.out), numbers_of(work, plain.out), scale_of(case, work),
          VALUE_ULPS, ROUNDED.get(work.storage, 0.0))  # fmt: skip
    if found.grad_img is None:
        return
    for name, scale in zip(("grad_img", "grad_krn"), gradient_scales(case, work), strict=True):
        close(name, getattr(found, name), getattr(plain, name), scale, GRADIENT_ULPS)


def equal(name: str, found: np.ndarray | None, plain: np.ndarray | None) -> None:
    """Raise unless both arrays have the same bits, NaN equal to NaN."""
    if found is plain is None:
        return
    np.testing.assert_array_equal(unsigned(found), unsigned(plain), f"{name} of the two forms")


def unsigned(array: Any) -> np.ndarray:
    """The bits of an array's numbers; all NaN have the same."""
    array = np.ascontiguousarray(array)
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return array.view(f"u{array.itemsize}")


VALUE_ULPS = 8  # of the scale: each form may be 4 away from the exact value
# The weights of log and root amplify the rounding of each term. A wrong term is far beyond this.
GRADIENT_ULPS = 2**10
ROUNDED = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # one unit of a stored result


def close(
    name: str, found: Any, plain: Any, scale: np.ndarray, ulps: float, rounded: float = 0.0
) -> None:
    """Raise unless the arrays are within some ulps of the scale; where one is NaN, both must be."""
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(scale), np.finfo(found.dtype).tiny)
        most = ulps * np.spacing(size.astype(found.dtype)).astype("f8") + rounded * size
        apart = np.where(found == plain, 0, np.abs(found.astype("f8") - plain))
        wrong = np.where(np.isfinite(plain), ~(apart <= most), np.isnan(found) != np.isnan(plain))
        wrong &= np.isfinite(most)
    if wrong.any():
        at = tuple(map(int, np.argwhere(wrong)[0]))
        raise AssertionError(
            f"{name} of the two forms: {int(wrong.sum())} of {wrong.size} differ, at {at}: "
            f"{found[at]!r}, plain {plain[at]!r}, scale {scale[at]!r}"
        )


def numbers_of(work: Work, array: np.ndarray) -> np.ndarray:
    """An array of a work in its arithmetic."""
    if work.storage == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(source.ARITHMETIC[work.storage], copy=False)


def in_double(work: Work) -> list[np.ndarray]:
    """Image, kernel and gradient of the result in double."""
    return [numbers_of(work, a).astype("f8") for a in (work.img, work.krn, work.grad_out)]


def scale_of(case: cases.Case, work: Work) -> np.ndarray:
    """What errors of a result are measured against, as in oracle.py."""
    algebra, (img, krn, _) = case.algebra, in_double(work)

    def convolved(img: np.ndarray, krn: np.ndarray, semifield: Any) -> np.ndarray:
        found = sc.semifield_conv(img, krn, semifield, method="direct", **work.arguments)
        return np.abs(found)

    if case.semifield == sc.SubtractSemifield.linear():
        return convolved(np.abs(img), np.abs(krn), case.semifield)
    result = convolved(img, krn, case.semifield)
    if isinstance(algebra, oracle.Log):
        extreme = convolved(img, krn, "tropical_max" if algebra.mu > 0 else "tropical_min")
        return np.maximum(np.maximum(result, extreme), 1 / abs(algebra.mu))
    if isinstance(algebra, oracle.Root):
        return result / min(1, abs(algebra.p))
    return result * max(1, work.geometry.taps / 4)


def gradient_scales(case: cases.Case, work: Work) -> tuple[np.ndarray, np.ndarray]:
    """What errors of gradients are measured against: the magnitudes of their terms."""
    img, krn, grad_out = in_double(work)
    if case.domain == cases.REALS and not isinstance(case.algebra, oracle.Log):
        img, krn = np.abs(img), np.abs(krn)
    _, pullback = sc.semifield_conv_vjp(img, krn, case.semifield, method="direct", **work.arguments)
    grad_img, grad_krn = pullback(np.abs(grad_out))
    return np.abs(grad_img), np.abs(grad_krn)


# ---- many works ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """How many works of each role were compared, in how many forms differ, and what is wrong."""

    works: Counter[str]
    rewritten: Counter[str]
    faults: list[str]


def compare(
    name: str, dtypes: Sequence[str], seeds: range, size: Size = HOST, device: Any = None
) -> Tally:
    """Compare the works of these seeds, dtypes in turn, in both forms."""
    case, tally = SEMIFIELDS[name], Tally(Counter(), Counter(), [])
    for seed in seeds:
        storage = dtypes[seed // len(ROLES) % len(dtypes)]
        drawn = work(seed, storage, case.domain, size)
        tally.works[drawn.role] += 1
        tally.rewritten[drawn.role] += is_rewritten(case, drawn)
        try:
            check(case, drawn, device)
        except (AssertionError, RuntimeError) as error:
            tally.faults.append(f"{name}, seed {seed}, {drawn}\n{error}")
    return tally


def main() -> int:
    """Compare; print each fault, and a line for each semifield. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--works", type=int, default=2000, metavar="N", help="of each semifield")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first")
    parser.add_argument("--semifield", nargs="*", default=list(SEMIFIELDS), choices=SEMIFIELDS)
    parser.add_argument("--dtype", nargs="*", metavar="NAME")
    parser.add_argument("--device", choices=["host", "harness"], default="host")
    options = parser.parse_args()
    device, size = (cases.harness(), HARNESS) if options.device == "harness" else (None, HOST)
    status = 0
    for name in options.semifield:
        begin, seeds = time.monotonic(), range(options.seed, options.seed + options.works)
        tally = compare(name, options.dtype or dtypes_of(name), seeds, size, device)
        for fault in tally.faults:
            print(fault, flush=True)
        roles = ", ".join(f"{role} {tally.rewritten[role]}/{n}" for role, n in tally.works.items())
        print(
            f"{name}: {len(tally.faults)} faults in {options.works} works, "
            f"{time.monotonic() - begin:.0f} s; rewritten: {roles}", flush=True,
        )  # fmt: skip
        status |= bool(tally.faults)
    return status


if __name__ == "__main__":
    sys.exit(main())
