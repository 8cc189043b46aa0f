"""The shared table: semifields with their oracles, geometries, data, and the backends under test.

`GEOMETRIES` and `SEMIFIELDS` are what every backend has to get right; `geometries()` draws more.
`run` and `run_with_residual` send one convolution through a backend that is named.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import oracle
import pytest
from cuda_on_cpu.device import HarnessDevice
from hypothesis import strategies as st
from oracle import Algebra, Expected

import semiconv_cupy as sc
from semiconv_cupy import SelectSemifield, SubtractSemifield, source
from semiconv_cupy.backends import by_sums, cuda
from semiconv_cupy.backends.device import cupy_device
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import NUMPY, Place, place_of
from semiconv_cupy.checks import storage_of
from semiconv_cupy.errors import BackendUnavailableError
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import residual_of
from semiconv_cupy.route import Route, choose
from semiconv_cupy.run import backward, forward

# ---- semifields --------------------------------------------------------------------------------

MAGNITUDES = "magnitudes"  # data >= 0
REALS = "reals"


@dataclass(frozen=True)
class Case:
    """A semifield, what it should compute, and the numbers that it is made for."""

    make: Callable[[], Any]
    algebra: Algebra
    domain: str = REALS

    @functools.cached_property
    def semifield(self) -> Any:
        return self.make()

    @property
    def selects(self) -> bool:
        return isinstance(self.algebra, oracle.Selection)


def largest_magnitude() -> SelectSemifield:
    """A user's own selection: the term of the largest magnitude, with its sign."""
    return SelectSemifield(
        add_select=lambda left, right: abs(right) > abs(left),
        times=lambda img, krn: img * krn,
        zero=0.0,
    )


def signed_max_times() -> SelectSemifield:
    """A zero that is not absorbing (-inf times a negative number): outside must not take part."""
    return SelectSemifield(
        add_select=lambda left, right: right > left,
        times=lambda img, krn: img * krn,
        zero=-math.inf,
    )


def weighted_max() -> SelectSemifield:
    """On integers a multiplication that leaves their range on the way to a result within it."""
    return SelectSemifield(
        add_select=lambda left, right: right > left,
        times=lambda img, krn: 3 * img - 2 * krn,
        zero=-math.inf,
    )


def hypotenuse() -> SubtractSemifield:
    """A user's own addition, folded term by term."""
    return SubtractSemifield(
        add=lambda left, right: (left * left + right * right) ** 0.5,
        times=lambda img, krn: img * krn,
        subtract=lambda res, val: (res * res - val * val) ** 0.5,
        d_add_d_right=lambda acc, val: val / (acc * acc + val * val) ** 0.5,
        zero=0.0,
    )


def norm() -> SubtractSemifield:
    """An ordinary sum and a function of it."""
    return SubtractSemifield(
        add=lambda left, right: left + right,
        times=lambda img, krn: img * img * krn * krn,
        subtract=lambda res, val: res - val,
        d_add_d_right=lambda acc, val: 1.0,
        zero=0.0,
        post_sum=lambda acc: acc**0.5,
        undo_post_sum=lambda res: res * res,
        d_post_d_acc=lambda acc: 0.5 / acc**0.5,
    )


def nearest(a: float = 0.3, gain: float = 1.2, **flags: bool) -> SelectSemifield:
    """The term that is nearest to a; both functions take a parameter."""
    return SelectSemifield(
        lambda left, right, a: abs(right - a) < abs(left - a),
        lambda img, krn, gain: gain * img + krn,
        zero=math.inf,
        parameters={"a": a, "gain": gain},
        **flags,
    )


def slow_except(values: Iterable[Any], *plain: Any) -> list[Any]:
    """Parameters of a test of which the plain run has some, to compile few libraries."""
    slow = pytest.mark.slow
    return [
        v if v in plain else pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=slow)
        for v in values
    ]


def _larger_magnitude(left: Any, right: Any) -> Any:
    return abs(right) > abs(left)


SEMIFIELDS: dict[str, Case] = {
    "tropical_max": Case(SelectSemifield.tropical_max, oracle.TROPICAL_MAX),
    "tropical_min": Case(SelectSemifield.tropical_min, oracle.TROPICAL_MIN),
    "tropical_min_negated": Case(SelectSemifield.tropical_min_negated, oracle.TROPICAL_MIN_NEGATED),
    "max_times": Case(SelectSemifield.max_times, oracle.MAX_TIMES, MAGNITUDES),
    "boolean": Case(SelectSemifield.boolean, oracle.BOOLEAN, MAGNITUDES),
    "largest_magnitude": Case(
        largest_magnitude, oracle.Selection(_larger_magnitude, lambda img, krn: img * krn, 0.0)
    ),
    "signed_max_times": Case(
        signed_max_times, oracle.Selection(oracle.larger, lambda img, krn: img * krn, -math.inf)
    ),
    "linear": Case(SubtractSemifield.linear, oracle.Sum()),
    "log(2)": Case(lambda: SubtractSemifield.log(2.0), oracle.Log(2.0)),
    "log(-0.7)": Case(lambda: SubtractSemifield.log(-0.7), oracle.Log(-0.7)),
    "root(3)": Case(lambda: SubtractSemifield.root(3.0), oracle.Root(3.0), MAGNITUDES),
    "root(2.5)": Case(lambda: SubtractSemifield.root(2.5), oracle.Root(2.5), MAGNITUDES),
    "root(-2)": Case(lambda: SubtractSemifield.root(-2.0), oracle.Root(-2.0), MAGNITUDES),
    "hypotenuse": Case(
        hypotenuse,
        oracle.Fold(lambda img, krn: img * krn, lambda terms: math.hypot(*terms)),
    ),
    "norm": Case(
        norm, oracle.Sum(times=lambda img, krn: (img * krn) ** 2, post=math.sqrt), MAGNITUDES
    ),
}


# ---- geometries --------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeometryCase:
    """Shapes and arguments of one convolution; `large` ones are for selections and sums only."""

    img: tuple[int, ...]
    krn: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    large: bool = False

    def __hash__(self) -> int:
        return hash((self.img, self.krn, repr(self.arguments)))

    def plan(self) -> Geometry:
        return Geometry.plan(self.img, self.krn, **self.arguments)


def _case(img: tuple[int, ...], krn: tuple[int, ...], large: bool = False, **arguments: Any) -> Any:
    return GeometryCase(img, krn, arguments, large)


# CUDA compiles one kernel for each (kernel size, stride, dilation): those are few.
GEOMETRIES: dict[str, GeometryCase] = {
    "valid": _case((2, 3, 9, 8), (4, 3, 3, 3)),
    "same": _case((2, 3, 9, 8), (4, 3, 3, 3), padding="same"),
    "named valid, corr": _case((2, 3, 9, 8), (4, 3, 3, 3), padding="valid", kind="corr"),
    "padding each axis, corr": _case((1, 2, 7, 8), (2, 2, 3, 3), padding=(1, 2), kind="corr"),
    "padding each end": _case((1, 2, 7, 8), (2, 2, 3, 3), padding=((0, 2), (3, 1))),
    "groups": _case((2, 6, 7, 9), (4, 3, 3, 3), groups=2, padding=1),
    "depthwise": _case((1, 4, 8, 8), (4, 1, 3, 3), groups=4, padding="same"),
    "group broadcasting": _case(
        (2, 6, 7, 6), (3, 2, 3, 3), groups=3, group_broadcasting=True, padding=1
    ),
    "group broadcasting, one group": _case((1, 2, 7, 6), (3, 2, 3, 3), group_broadcasting=True),
    "windows wholly outside": _case((1, 2, 4, 5), (2, 2, 3, 3), padding=((6, 3), (2, 8))),
    "zero batch": _case((0, 2, 5, 6), (3, 2, 3, 3), padding=1),
    "empty image": _case((2, 2, 0, 4), (1, 2, 3, 3), padding=2),
    "smaller than the kernel": _case((1, 2, 2, 1), (2, 2, 3, 3), padding=1),
    "long rows": _case((1, 2, 4, 301), (2, 2, 3, 3), padding="same"),
    "several tiles": _case((2, 4, 90, 150), (2, 4, 3, 3), large=True, padding=((2, 0), (1, 1))),
    "even kernel": _case((1, 2, 9, 10), (2, 2, 4, 2), padding="same"),
    "stride": _case((1, 2, 13, 11), (2, 2, 3, 3), stride=(2, 3), padding=1),
    "stride, long rows": _case((1, 1, 6, 200), (2, 1, 3, 3), stride=(2, 3), padding=1, kind="corr"),
    "dilation": _case((1, 2, 13, 14), (2, 2, 3, 3), dilation=(2, 3), padding="same"),
    "even kernel, dilation": _case((1, 1, 11, 12), (2, 1, 4, 2), dilation=2, padding="same"),
    "everything": _case(
        (2, 4, 12, 13),
        (4, 2, 2, 3),
        stride=(2, 1),
        dilation=(3, 2),
        padding=((1, 9), (0, 3)),  # some windows lie wholly outside
        groups=2,
        kind="corr",
    ),
    "one tap": _case((2, 2, 5, 6), (3, 2, 1, 1), stride=2),
    "1-D": _case((2, 3, 17), (4, 3, 4), stride=3, dilation=2, padding=((3, 5),)),
    "3-D": _case((1, 2, 5, 6, 7), (2, 2, 2, 3, 3), stride=(1, 2, 1), padding=(1, 0, 2)),
    "4-D": _case((1, 2, 4, 5, 3, 4), (2, 2, 2, 1, 3, 2), dilation=(1, 1, 1, 2), padding="same"),
    "5-D": _case((1, 1, 3, 4, 3, 3, 4), (2, 1, 2, 1, 2, 3, 2), padding=1, stride=(1, 2, 1, 2, 1)),
    "8-D": _case((1, 1, *(2,) * 8), (1, 1, *(2,) * 8), padding=(1, 0) * 4, kind="corr"),
}
# Few kernels to compile, and most of what can go wrong.
ESSENTIAL = ("same", "groups", "windows wholly outside", "empty image", "everything")


@st.composite
def geometries(
    draw: Any, window: tuple[Any, Any, Any] | None = None, max_rank: int = 4
) -> GeometryCase:
    """Any valid geometry of few outputs; `window` fixes (kernel size, stride, dilation)."""
    if window is None:
        rank = draw(st.integers(1, max_rank))
        most = {1: 5, 2: 4, 3: 3}.get(rank, 2)
        sizes = tuple(draw(st.integers(1, most)) for _ in range(rank))
        stride = tuple(draw(st.integers(1, 3)) for _ in range(rank))
        dilation = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    else:
        sizes, stride, dilation = window
        rank = len(sizes)
    groups = draw(st.integers(1, 3))
    in_channels = draw(st.integers(1, 2))
    broadcasting = draw(st.booleans())
    outputs = draw(st.integers(1, 2)) * (1 if broadcasting else groups)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, sizes, strict=True)]
    padding: Any = draw(st.sampled_from(["same", "valid", "one", "axes", "pairs"]))
    pads = [(draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in range(rank)]
    if padding == "one":
        padding, pads = pads[0][0], [(pads[0][0],) * 2] * rank
    elif padding == "axes":
        padding, pads = tuple(p for p, _ in pads), [(p, p) for p, _ in pads]
    elif padding == "pairs":
        padding = tuple(pads)
    else:
        pads = oracle.paddings(padding, sizes, dilation)
    extra = {1: 40, 2: 8, 3: 4}.get(rank, 2)
    size = [
        draw(st.integers(max(0, need - begin - end), max(0, need - begin - end) + extra))
        for need, (begin, end) in zip(reach, pads, strict=True)
    ]
    uniform = len(set(stride)) == 1 and draw(st.booleans())
    return GeometryCase(
        (draw(st.integers(1, 2)), groups * in_channels, *size),
        (outputs, in_channels, *sizes),
        dict(
            stride=stride[0] if uniform else stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            group_broadcasting=broadcasting,
            kind=draw(st.sampled_from(["conv", "corr"])),
        ),
    )


# ---- data and oracle ---------------------------------------------------------------------------


def numbers(shape: tuple[int, ...], dtype: Any, domain: str = REALS, seed: int = 0) -> np.ndarray:
    """Random numbers with some ties and zeros; integers reach both ends of their range."""
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.4
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        small = rng.integers(0, 9, shape).astype(dtype)
        ends = rng.choice(np.array([limits.min, limits.max], dtype), shape)
        return np.where(rng.random(shape) < 0.6, small, np.where(values % 3 == 0, ends, values))
    values = rng.normal(scale=3, size=shape)
    values = np.where(rng.random(shape) < 0.3, np.round(values), values)
    return np.asarray(np.abs(values) if domain == MAGNITUDES else values).astype(dtype)


# One image and kernels with everything that is no number.
SPECIAL = [
    1.0,
    np.inf,
    2.0,
    -np.inf,
    0.0,
    np.nan,
    -3.0,
    -np.inf,
    -np.inf,
    -np.inf,
    5.0,
    np.inf,
    np.inf,
]
SPECIAL_KERNELS = {
    "finite": (0.5, 1.0, 2.0),
    "an infinity": (np.inf, 0.0, 1.0),
    "a negative infinity": (0.0, -np.inf, 1.0),
    "only negative infinities": (-np.inf, -np.inf, -np.inf),
    "NaN": (1.0, np.nan, 2.0),
}


def arrays_of(case: Case, geometry: GeometryCase, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """An image and a kernel for a case."""
    return (
        numbers(geometry.img, dtype, case.domain, seed=1),
        numbers(geometry.krn, dtype, case.domain, seed=2),
    )


@functools.lru_cache(maxsize=512)
def expected_of(name: str, geometry: GeometryCase, dtype: str) -> Expected:
    """The oracle's result on `arrays_of`, once for all backends."""
    case = SEMIFIELDS[name]
    img, krn = arrays_of(case, geometry, dtype)
    return oracle.convolve(img, krn, case.algebra, **geometry.arguments)


# ---- backends ----------------------------------------------------------------------------------

BACKENDS = ("host", "reference", "cuda_on_cpu", "cupy")
# CUDA's tiled kernel, which the launch code picks for larger images than the table's.
TILED = "cuda_tiled_on_cpu"
# By ordinary sums: log and root alone; other semifields are skipped.
LINEAR = ("host_linear", "cuda_linear_on_cpu")
_METHODS = {"host": "direct", "host_linear": "linear", "reference": "reference"}


@functools.lru_cache(maxsize=1)
def harness() -> HarnessDevice:
    """The device that runs CUDA sources on the CPU."""
    return HarnessDevice()


def known(backend: str) -> None:
    """Raise where there is no such backend."""
    if backend not in (*BACKENDS, *LINEAR, TILED):
        raise ValueError(f"no backend {backend!r}; there are {(*BACKENDS, *LINEAR, TILED)}")


@functools.cache
def unavailable(backend: str) -> str | None:
    """Why a backend cannot run here; None where it can."""
    known(backend)
    if backend == "cupy":
        try:
            cupy_device()
        except BackendUnavailableError as error:
            return str(error)
    return None


def library_of(backend: str) -> str:
    """The array library of a backend's results."""
    return "cupy" if backend == "cupy" else "numpy"


def run(backend: str, img: np.ndarray, krn: np.ndarray, semifield: Any, **arguments: Any) -> Any:
    """One convolution on one backend; raises where the backend cannot run it, never falls back."""
    known(backend)
    if backend in LINEAR and not by_sums.applies(semifield):
        pytest.skip(f"{semifield!r} is not computed by ordinary sums")
    if backend in _METHODS:
        method = _METHODS[backend]
        return sc.semifield_conv(img, krn, semifield, method=method, **arguments)
    if backend == "cupy":
        xp = cupy_device().array_module
        return sc.semifield_conv(
            xp.asarray(img), xp.asarray(krn), semifield, method="direct", **arguments
        )
    method = "tiled" if backend == TILED else "linear" if backend in LINEAR else "auto"
    return run_on(harness(), img, krn, semifield, method, **arguments)


def run_on(
    device: Any,
    img: np.ndarray,
    krn: np.ndarray,
    semifield: Any,
    method: str = "auto",
    **arguments: Any,
) -> np.ndarray:
    """One convolution by the CUDA launch code on a given device."""
    geometry = Geometry.plan(img.shape, krn.shape, **arguments)
    out: np.ndarray = device.empty(geometry.out_shape, img.dtype)
    storage = storage_of(img.dtype, semifield)
    if method == "tiled":
        skip_without_tile(semifield, storage, geometry, None)
    forward(route_of(semifield, geometry, storage, device, method), img, krn, out)
    return out


def route_of(
    semifield: Any, geometry: Geometry, storage: str, device: Any = None, method: str = "auto"
) -> Route:
    """The route of a convolution of NumPy arrays: on the CPU, or on a device such as `harness`."""
    place = NUMPY if device is None else Place("NumPy", gpu=0, device=device)
    return choose(semifield, geometry, storage, place, method)


def skip_without_tile(
    semifield: Any, storage: str, geometry: Geometry, residual: np.dtype | None
) -> None:
    """Skip the test of a convolution that the tiled kernel does not serve."""
    limits = cuda.LIMITS.for_method("tiled")
    if cuda.forward_tile_of(semifield, storage, geometry, residual, limits) is None:
        pytest.skip("the tiled kernel does not serve this convolution")


def run_with_residual(
    backend: str, img: np.ndarray, krn: np.ndarray, semifield: Any, storage: str, **arguments: Any
) -> tuple[np.ndarray, np.ndarray | None]:
    """(result, what the derivative needs) on one backend, as NumPy arrays.

    `storage` names the dtype that the arrays' bits stand for: bfloat16 comes as uint16.
    """
    known(backend)
    geometry = Geometry.plan(img.shape, krn.shape, **arguments)
    spec = residual_of(semifield, storage, geometry)
    device: Any = None
    place = NUMPY
    if backend == "cupy":
        device = cupy_device()
        img, krn = (device.array_module.asarray(array) for array in (img, krn))
        place = place_of(img=img, krn=krn)
    elif backend in ("cuda_on_cpu", TILED):
        device = harness()
        place = Place("NumPy", gpu=0, device=device)
    empty = np.empty if device is None else device.empty
    out = empty(geometry.out_shape, img.dtype)
    residual = None if spec is None else empty(spec.shape, spec.dtype)
    if backend == TILED:
        assert residual is not None
        skip_without_tile(semifield, storage, geometry, residual.dtype)
        case = cuda.Case(semifield, geometry, storage)
        cuda.forward(device, case, img, krn, out, residual, "tiled")
        return out, residual
    method = _METHODS.get(backend, "auto")
    forward(choose(semifield, geometry, storage, place, method), img, krn, out, residual)
    if backend == "cupy":
        return out.get(), None if residual is None else residual.get()
    return out, residual


def gradients(
    backend: str, img: Any, krn: Any, grad_out: Any, semifield: Any, **arguments: Any
) -> list[np.ndarray]:
    """(gradient of the image, of the kernel) of one convolution on one backend, as NumPy arrays."""
    known(backend)
    if backend in LINEAR and not by_sums.applies(semifield):
        pytest.skip(f"{semifield!r} is not computed by ordinary sums")
    if backend in _METHODS or backend == "cupy":
        if backend == "cupy":
            xp = cupy_device().array_module
            img, krn, grad_out = (xp.asarray(array) for array in (img, krn, grad_out))
        method = _METHODS.get(backend, "direct")
        _, pullback = sc.semifield_conv_vjp(img, krn, semifield, method=method, **arguments)
        found = pullback(grad_out)
        return [array.get() if backend == "cupy" else array for array in found]
    geometry, device = Geometry.plan(img.shape, krn.shape, **arguments), harness()
    storage = storage_of(img.dtype, semifield)
    spec = None if backend in LINEAR else residual_of(semifield, storage, geometry)
    residual = None if spec is None else device.empty(spec.shape, spec.dtype)
    out = device.empty(geometry.out_shape, img.dtype)
    real = source.ARITHMETIC[storage]
    found = [device.empty(array.shape, real) for array in (img, krn)]
    method = "tiled" if backend == TILED else "auto"
    route = route_of(semifield, geometry, storage, device, method)
    if residual is not None:
        forward(route, img, krn, out, residual)
    backward(route, GradientArrays(grad_out, img, krn, residual, *found))
    return [array.astype(img.dtype) for array in found]
