"""Parameters of one's own in CUDA kernels: on the CPU by the harness, and on a GPU."""

import math

import cases
import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy import run
from semiconv_cupy.algebra.slopes import kept_slopes
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import NUMPY, Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.operands import Operands
from semiconv_cupy.product_route import choose_product
from semiconv_cupy.route import choose
from semiconv_cupy.strides import contiguous_strides


def affine_sum():
    """Terms that are not 0 at the zero, and a function behind the sum."""
    return sc.SubtractSemifield(
        lambda left, right: left + right,
        lambda img, krn, a, b: a * img * krn + b,
        zero=0.0,
        post_sum=lambda acc, c: acc * acc * c,
        parameters={"a": 1.0, "b": 0.0, "c": 1.0},
    )


def hypotenuse():
    """An addition that is folded; its terms, too, are not 0 at the zero."""
    return sc.SubtractSemifield(
        lambda left, right: (left * left + right * right) ** 0.5,
        lambda img, krn, a, b: a * img * krn + b,
        zero=0.0,
        parameters={"a": 1.0, "b": 0.0},
    )


def power():
    """An addition that takes a parameter, and is too long for tiles."""
    return sc.SubtractSemifield(
        lambda left, right, a: (left**a + right**a) ** (1 / a),
        lambda img, krn, b: b * img * krn,
        zero=0.0,
        parameters={"a": 2.0, "b": 1.0},
    )


def nearest():
    """The term that is nearest to a: both functions take parameters."""
    return sc.SelectSemifield(
        lambda left, right, a: abs(right - a) < abs(left - a),
        lambda img, krn, b: b * img - krn,
        zero=math.inf,
        parameters={"a": 0.5, "b": 1.0},
    )


SEMIFIELDS = {"sum": affine_sum, "hypotenuse": hypotenuse, "power": power, "nearest": nearest}
# Channels that mix, one channel with large windows, and signals whose batch is shared.
WORKS = {
    "mixing": ((2, 2, 9, 20), (5, 2, 3, 3), dict(padding="same", kind="corr")),
    "large": ((1, 1, 11, 15), (1, 1, 7, 9), dict(padding=((5, 2), (0, 9)))),
    "signals": ((3, 4, 41), (4, 2, 5), dict(groups=2, stride=2, padding=2)),
}


def values_of(semifield, channels, dtype, seed=0):
    """A number or a value for each channel, of every parameter."""
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(0.5, 1.5, (len(semifield.own), channels)).astype(dtype)
    return tuple(float(one[0]) if channels == 1 else one for one in drawn)


def computed(place, semifield, img, krn, arguments, method, value, channels, slopes):
    """What one backend gives: out, the same without a residual, gradients, slopes of an addition.

    The gradients are those of img and krn.
    """
    geometry = Geometry.plan(img.shape, krn.shape, **arguments)
    storage = img.dtype.name
    route = choose(semifield, geometry, storage, place, method, channels=channels, slopes=slopes)
    out, plain = (np.empty(geometry.out_shape, img.dtype) for _ in range(2))
    spec = route.residual_spec
    residual = None if spec is None else np.empty(spec.shape, spec.dtype)
    run.forward(route, img, krn, out, residual, value=value)
    run.forward(route, img, krn, plain, value=value)
    grads = [np.zeros(x.shape, img.dtype) for x in (img, krn)]
    grad_out = np.random.default_rng(2).normal(size=out.shape).astype(img.dtype)
    run.backward(route, GradientArrays(grad_out, img, krn, residual, *grads), value=value)
    return out, plain, *grads, *([residual[1:]] if slopes else [])


@pytest.mark.table(5)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("work", "dtype"), [*((work, np.float32) for work in WORKS), ("mixing", np.float64)]
)
@pytest.mark.parametrize("method", ["direct", "tiled"])
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_kernels_read_them(name, method, work, per_channel, dtype):
    img_shape, krn_shape, arguments = WORKS[work]
    semifield, rng = SEMIFIELDS[name]().unbound, np.random.default_rng(1)
    img, krn = (rng.uniform(0.2, 1, shape).astype(dtype) for shape in (img_shape, krn_shape))
    geometry = Geometry.plan(img_shape, krn_shape, **arguments)
    if method == "tiled":
        cases.skip_without_tile(semifield, img.dtype.name, geometry, None)

    channels = krn_shape[0] if per_channel and krn_shape[0] > 1 else 1
    slopes = method == "direct" and bool(kept_slopes(semifield))  # no tile keeps them
    gpu = Place("NumPy", gpu=0, device=cases.harness())
    for seed in range(2):  # the second launch reads other values
        value = values_of(semifield, channels, dtype, seed)
        work_of = (semifield, img, krn, arguments)
        found = computed(gpu, *work_of, method, value, channels, slopes)
        right = computed(NUMPY, *work_of, "reference", value, channels, slopes)
        for one, other in zip(found, right, strict=True):
            size = abs(other[np.isfinite(other)]).max(initial=0) * np.finfo(dtype).eps
            np.testing.assert_allclose(one, other, rtol=0, atol=200 * size)


@pytest.mark.parametrize("per_channel", cases.slow_except([False, True], True))
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_products_read_them(name, per_channel):
    semifield, rng = SEMIFIELDS[name]().unbound, np.random.default_rng(3)
    a, b = rng.uniform(0.2, 1, (2, 9, 33)), rng.uniform(0.2, 1, (33, 7))
    operands = Operands.of(a.shape, b.shape)
    shape = operands.out_shape
    strides = map(contiguous_strides, (a.shape, b.shape, shape))
    product = operands.product(*strides).merged()
    value = values_of(semifield, 7 if per_channel else 1, np.float64)
    grad_out, found = rng.normal(size=shape), []
    gpu = Place("NumPy", gpu=0, device=cases.harness())
    for place, method in ((gpu, "auto"), (NUMPY, "reference")):
        route = choose_product(
            semifield, product, "float64", place, method, channels=7 if per_channel else 1,
            slopes=bool(kept_slopes(semifield)),
        )  # fmt: skip
        spec = route.residual_spec(shape)
        residual = None if spec is None else np.empty(spec.shape, spec.dtype)
        out, grads = np.empty(shape), [np.empty(x.shape) for x in (a, b)]
        run.product(route, a, b, out, residual, value=value)
        arrays = GradientArrays(grad_out, a, b, residual, *grads)
        run.product_backward(route, product, arrays, value=value)
        found.append((out, *grads, *([residual] if kept_slopes(semifield) else [])))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)


@pytest.mark.gpu
def test_on_a_gpu():
    """Values and all gradients are those of the CPU, for numbers and for arrays."""
    cupy, rng = pytest.importorskip("cupy"), np.random.default_rng(4)
    img, krn = rng.uniform(0.2, 1, (2, 4, 40, 70)), rng.uniform(0.2, 1, (6, 4, 3, 3))
    a, b = img[0, 0], krn.reshape(6, -1).T[:34].repeat(3, 0)[:70]
    for make in SEMIFIELDS.values():
        semifield = make()
        for channels in (1, 6):
            given = dict(zip(semifield.own, values_of(semifield, channels, float), strict=True))
            on_gpu = {k: v if channels == 1 else cupy.asarray(v) for k, v in given.items()}
            calls = (
                (sc.semifield_conv_vjp, (img, krn), dict(padding="same"), given, on_gpu),
                (sc.semifield_matmul_vjp, (a, b), {}, {}, {}),
            )
            for call, arrays, arguments, here, there in calls:
                out, pullback = call(*arrays, semifield, **arguments, **here)
                found, pullback_on_gpu = call(
                    *map(cupy.asarray, arrays), semifield, **arguments, **there
                )
                grad_out = rng.normal(size=out.shape)
                pairs = zip(
                    (found, *pullback_on_gpu(cupy.asarray(grad_out))),
                    (out, *pullback(grad_out)),
                    strict=True,
                )
                for one, other in pairs:
                    np.testing.assert_allclose(
                        cupy.asnumpy(one), other, atol=1e-12 * abs(other).max()
                    )


def test_a_semifield_of_long_functions_is_refused_by_tiles_alone():
    geometry = Geometry.plan((1, 1, 8, 8), (1, 1, 3, 3))
    place = Place("NumPy", gpu=0, device=cases.harness())
    img, krn, out = np.ones((1, 1, 8, 8)), np.ones((1, 1, 3, 3)), np.empty((1, 1, 6, 6))
    route = choose(power().unbound, geometry, "float64", place, "tiled")
    with pytest.raises(ValueError, match="method='tiled' does not serve"):
        run.forward(route, img, krn, out, value=(2.0, 1.0))
    run.forward(
        choose(power().unbound, geometry, "float64", place), img, krn, out, value=(2.0, 1.0)
    )
    assert math.isclose(out[0, 0, 0, 0], 3.0, rel_tol=1e-15)
