"""Gradients of arrays: by differences, on every backend, at extremes, and to the bit.

The PyTorch bridge's tests go deeper into geometry; here are the core's own promises.
"""

import cases
import numpy as np
import pytest
from cuda_on_cpu.device import HarnessDevice

import semiconv_cupy as sc
from semiconv_cupy import run
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host import libraries
from semiconv_cupy.backends.place import NUMPY, Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.product import Level, Product
from semiconv_cupy.product_route import choose_product
from semiconv_cupy.residual import residual_of
from semiconv_cupy.strides import element_strides

SEMIFIELDS = {
    "max": sc.SelectSemifield.tropical_max(),
    "min negated": sc.SelectSemifield.tropical_min_negated(),
    "max shared": sc.SelectSemifield.tropical_max(spread_gradient=True),
    "max of channels": sc.SelectSemifield.tropical_max(channels_add=True),
    "max times": sc.SelectSemifield.max_times(),
    "linear": sc.SubtractSemifield.linear(),
    "log": sc.SubtractSemifield.log(2.0),
    "log below": sc.SubtractSemifield.log(-1.5),
    "root 3": sc.SubtractSemifield.root(3.0),
    "root -2": sc.SubtractSemifield.root(-2.0),
    "norm": sc.SubtractSemifield(
        add=lambda a, b: a + b,
        times=lambda a, b: (a * b) ** 2,
        zero=0.0,
        post_sum=lambda a: a**0.5,
        undo_post_sum=lambda r: r**2,
    ),
    "sum and product": sc.SubtractSemifield(
        add=lambda a, b: a + b + a * b,
        times=lambda a, b: a * b,
        zero=0.0,
        subtract=lambda r, v: (r - v) / (1 + v),
    ),
}
GEOMETRIES = {
    "plain": ((2, 3, 6, 7), (2, 3, 3, 2), dict(padding="same")),
    "strided": (
        (2, 4, 6, 7),
        (4, 2, 3, 2),
        dict(stride=2, padding=((1, 2), (0, 1)), dilation=(2, 1), groups=2, kind="corr"),
    ),
    "broadcast": ((1, 4, 5, 4), (3, 2, 2, 3), dict(groups=2, group_broadcasting=True, padding=3)),
    "signal": ((2, 2, 9), (3, 2, 4), dict(padding=2)),
    "volume": ((1, 1, 4, 3, 5), (2, 1, 2, 3, 2), dict(padding="same")),
}


def problem(geometry):
    img_shape, krn_shape, arguments = GEOMETRIES[geometry]
    rng = np.random.default_rng(7)
    img, krn = rng.random(img_shape) + 0.1, rng.random(krn_shape) + 0.1
    plan = Geometry.plan(img_shape, krn_shape, **arguments)
    grad_out = rng.standard_normal(plan.out_shape)
    return img, krn, grad_out, arguments, plan


def differences(function, array, step=1e-6):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        moved = array.copy()
        moved[index] += step
        above = function(moved)
        moved[index] -= 2 * step
        gradient[index] = (above - function(moved)) / (2 * step)
    return gradient


@pytest.mark.table(4)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_by_differences(name, geometry):
    img, krn, grad_out, arguments, _ = problem(geometry)

    def value(img, krn):
        out = sc.semifield_conv(img, krn, SEMIFIELDS[name], **arguments)
        return (np.where(np.isfinite(out), out, 0) * grad_out).sum()

    _, pullback = sc.semifield_conv_vjp(img, krn, SEMIFIELDS[name], **arguments)
    grad_img, grad_krn = pullback(grad_out)
    np.testing.assert_allclose(grad_img, differences(lambda x: value(x, krn), img), atol=2e-5)
    np.testing.assert_allclose(grad_krn, differences(lambda x: value(img, x), krn), atol=2e-5)


@pytest.mark.parametrize("geometry", ["plain", "strided", "broadcast"])
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_reference_agrees(name, geometry):
    img, krn, grad_out, arguments, _ = problem(geometry)
    out, pullback = sc.semifield_conv_vjp(img, krn, SEMIFIELDS[name], **arguments)
    same, reference = sc.semifield_conv_vjp(
        img, krn, SEMIFIELDS[name], method="reference", **arguments
    )
    np.testing.assert_allclose(same, out, rtol=1e-11)
    for got, expected in zip(reference(grad_out), pullback(grad_out), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)


# Three kernels are compiled for each: all semifields on the geometry that has most in it, and a
# semifield of each way to find a term's weight on the others.
@pytest.mark.table(4)
@pytest.mark.parametrize(
    ("name", "geometry"),
    [(name, "strided") for name in SEMIFIELDS]
    + [
        (name, geometry)
        for name in ("max", "max shared", "max of channels", "linear", "log", "norm")
        for geometry in ("plain", "broadcast", "volume")
    ],
)
def test_cuda_kernels_agree(name, geometry):
    img, krn, grad_out, arguments, plan = problem(geometry)
    semifield, device = SEMIFIELDS[name], HarnessDevice()
    out, pullback = sc.semifield_conv_vjp(img, krn, semifield, **arguments)
    residual_spec = residual_of(semifield, "float64", plan)
    residual = residual_spec and device.empty(residual_spec.shape, residual_spec.dtype)
    filled, grads = device.empty(out.shape, "f8"), [device.empty(a.shape, "f8") for a in (img, krn)]
    route = cases.route_of(semifield, plan, "float64", device)
    run.forward(route, img, krn, filled, residual)
    np.testing.assert_allclose(filled, out, rtol=1e-12)
    run.backward(route, GradientArrays(grad_out, img, krn, residual, *grads))
    for got, expected in zip(grads, pullback(grad_out), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["max", "max shared", "log", "linear"])
def test_threads_do_not_change_a_bit(name):
    rng = np.random.default_rng(3)
    img = rng.standard_normal((1, 2, 200, 180)).astype(np.float32)
    krn = rng.standard_normal((2, 2, 7, 5)).astype(np.float32)
    plan = Geometry.plan(img.shape, krn.shape, padding="same")
    semifield = SEMIFIELDS[name]
    route = cases.route_of(semifield, plan, "float32", method="direct")
    residual_spec = route.residual_spec
    out = np.empty(plan.out_shape, np.float32)
    grad_out = rng.standard_normal(plan.out_shape).astype(np.float32)
    results = []
    for threads in (1, 2, 3):
        residual = residual_spec and np.empty(residual_spec.shape, residual_spec.dtype)
        run.forward(route, img, krn, out, residual, threads=threads)
        grads = np.zeros_like(img), np.empty_like(krn)
        run.backward(route, GradientArrays(grad_out, img, krn, residual, *grads), threads=threads)
        results.append(grads)
    for grads in results[1:]:
        for got, expected in zip(grads, results[0], strict=True):
            assert np.array_equal(got, expected)


@pytest.mark.parametrize("name", ["log", "linear"])
def test_gradients_of_small_images_with_channels_last(name):
    """The CPU computes them of a contiguous copy, in another form than the given one."""
    rng = np.random.default_rng(3)
    img = rng.standard_normal((40, 6, 5, 4)).astype(np.float32)
    krn = rng.standard_normal((6, 1, 3, 3)).astype(np.float32)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(img, 1, -1)), -1, 1)
    arguments = dict(padding="same", groups=6)
    plan = Geometry.plan(img.shape, krn.shape, **arguments)
    route = cases.route_of(SEMIFIELDS[name], plan, "float32")
    assert route.needs_contiguous_image(element_strides(last))
    assert not route.needs_contiguous_image(element_strides(img))
    results = []
    for each in (img, last):
        out, pullback = sc.semifield_conv_vjp(each, krn, SEMIFIELDS[name], **arguments)
        results.append((out, *pullback(np.cos(out))))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("special", [None, np.inf, np.nan])
@pytest.mark.parametrize(
    ("img_shape", "krn_shape", "arguments"),
    [
        ((17, 24, 1), (9, 24, 1), {}),
        ((2, 24, 6, 5), (10, 12, 1, 1), {"groups": 2}),
        ((3, 8, 6, 4), (5, 4, 3, 2), {"groups": 2, "group_broadcasting": True, "stride": (3, 2)}),
    ],
)
def test_ordinary_products_are_differentiated_as_products(img_shape, krn_shape, arguments, special):
    """Also where a sum meets 0 times infinity, and the loops over windows write once more."""
    rng = np.random.default_rng(0)
    img, krn = rng.normal(size=img_shape), rng.normal(size=krn_shape)
    out, pullback = sc.semifield_conv_vjp(img, krn, "linear", **arguments)
    grad_out = rng.normal(size=out.shape)
    if special is not None:
        img[0, 0], grad_out[0] = special, 0
    loops = sc.semifield_conv_vjp(img, krn, "linear", method="reference", **arguments)[1]
    for found, expected in zip(pullback(grad_out), loops(grad_out), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert np.isfinite(pullback(grad_out)[1]).all()


@pytest.mark.parametrize("magnitude", [0.0, 1e6, 1e8])
def test_log_weights_sum_to_one_at_any_magnitude(magnitude):
    img = (magnitude + np.linspace(0, 1, 25)).astype(np.float32).reshape(1, 1, 5, 5)
    krn = np.zeros((1, 1, 3, 3), np.float32)
    out, pullback = sc.semifield_conv_vjp(img, krn, sc.SubtractSemifield.log(3.0))
    grad_img, grad_krn = pullback(np.ones_like(out))
    assert abs(grad_img.sum() - out.size) < 1e-4
    assert abs(grad_krn.sum() - out.size) < 1e-4


def smooth(a, b):
    """A smooth function of two kinks."""
    return sc.where(a > b, a, b) + np.log1p(np.exp(-abs(a - b)))


ROUNDED = sc.SubtractSemifield(
    add=smooth, times=smooth, subtract=lambda r, v: r + np.log(-np.expm1(v - r)), zero=-np.inf
)


@pytest.mark.table(2)
@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("auto", "float32"),
        *(("reference", dtype) for dtype in ("float16", "float32", "float64")),
        *(pytest.param("auto", dtype, marks=pytest.mark.slow) for dtype in ("float16", "float64")),
    ],
)
def test_kinks_that_cancel_leave_no_trace_in_gradients(method, dtype):
    ones = np.ones((1, 1, 9, 2), dtype)
    _, pullback = sc.semifield_conv_vjp(ones, ones[..., :1, :], ROUNDED, method=method)
    grad_img, grad_krn = pullback(np.ones((1, 1, 9, 1), dtype))
    np.testing.assert_allclose(grad_img, 0.25, rtol=2e-3 if dtype == "float16" else 1e-6)
    np.testing.assert_allclose(grad_krn, 9 / 4, rtol=2e-3 if dtype == "float16" else 1e-6)


def test_kinks_that_cancel_leave_no_trace_in_cuda_kernels():
    ones, device = np.ones((1, 1, 9, 2)), HarnessDevice()
    krn, grad_out = ones[..., :1, :].copy(), np.ones((1, 1, 9, 1))
    plan = Geometry.plan(ones.shape, krn.shape)
    residual_spec = residual_of(ROUNDED, "float64", plan)
    residual = device.empty(residual_spec.shape, residual_spec.dtype)
    out, grads = (
        device.empty(plan.out_shape, "f8"),
        [device.empty(a.shape, "f8") for a in (ones, krn)],
    )
    route = cases.route_of(ROUNDED, plan, "float64", device)
    run.forward(route, ones, krn, out, residual)
    run.backward(route, GradientArrays(grad_out, ones, krn, residual, *grads))
    np.testing.assert_allclose(grads[0], 0.25, rtol=1e-12)
    np.testing.assert_allclose(grads[1], 9 / 4, rtol=1e-12)


# Of one term, the sum without that term is nothing, or by rounding less: the root of it is NaN.
CUBES = sc.SubtractSemifield(
    add=lambda left, right: (left**3 + right**3) ** (1 / 3),
    times=lambda img, krn: img * krn,
    subtract=lambda res, val: (res**3 - val**3) ** (1 / 3),
    zero=0.0,
)


@pytest.mark.parametrize("backend", ["host", "reference", "cuda_on_cpu"])
def test_power_sums_of_one_term(backend):
    rng = np.random.default_rng(2)
    img, krn, grad_out = (
        rng.random(shape).astype("f4") + 0.5 for shape in ((2, 1, 90), (9, 1, 1), (2, 9, 90))
    )
    to_img, to_krn = cases.gradients(backend, img, krn, grad_out, CUBES)
    np.testing.assert_allclose(to_img, np.einsum("oct,bon->bcn", krn, grad_out), rtol=1e-5)
    np.testing.assert_allclose(to_krn, np.einsum("bcn,bon->oc", img, grad_out)[..., None], 1e-5)


@pytest.mark.parametrize("name", ["host", "reference", "harness"])
def test_power_sums_of_one_term_in_products(name):
    rng = np.random.default_rng(2)
    a, b, grad_out = (rng.random(n).astype("f4") + 0.5 for n in ((9, 1), (1, 20), (9, 20)))
    product = Product((), (Level(9, img=1, out=20),), (Level(20, krn=1, out=1),), (Level(1),))
    place = NUMPY if name != "harness" else Place("NumPy", gpu=0, device=cases.harness())
    method = "reference" if name == "reference" else "direct"
    route = choose_product(CUBES, product, "float32", place, method)
    assert route.backend == {"harness": "cuda"}.get(name, name)
    spec = route.residual_spec((9, 20))
    out, residual = np.empty((9, 20), "f4"), np.empty(spec.shape, spec.dtype)
    run.product(route, a, b, out, residual)
    grads = np.empty_like(a), np.empty_like(b)
    arrays = GradientArrays(grad_out, a, b, residual, *grads)
    run.product_backward(route, product, arrays)
    np.testing.assert_allclose(out, a * b, rtol=1e-5)
    for found, right in zip(grads, (grad_out @ b.T, a.T @ grad_out), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5)


@pytest.mark.parametrize("name", ["max", "max shared", "log", "root 3", "norm"])
def test_windows_of_nothing_have_gradient_zero(name):
    semifield = SEMIFIELDS[name]
    img = np.full((1, 1, 4, 4), semifield.zero)
    krn = np.ones((1, 1, 3, 3))
    out, pullback = sc.semifield_conv_vjp(img, krn, semifield, padding=5)
    assert (out == semifield.zero).all()
    for gradient in pullback(np.ones_like(out)):
        assert (gradient == 0).all()


def test_no_library_is_compiled_that_is_never_called():
    """Forward with a residual, and backward; the forward pass without one is another library."""
    img, krn = np.ones((1, 1, 9)), np.ones((1, 1, 3))
    sc.semifield_conv(img, krn, "tropical_max")  # loads what all libraries share
    semifield = sc.SelectSemifield(lambda a, b: b > a, lambda i, k: i + 3 * k, zero=-np.inf)
    counts = [len(libraries.loaded())]
    out, pullback = sc.semifield_conv_vjp(img, krn, semifield)
    counts.append(len(libraries.loaded()))
    pullback(np.ones_like(out))
    counts.append(len(libraries.loaded()))
    sc.semifield_conv(img, krn, semifield)
    counts.append(len(libraries.loaded()))
    assert np.diff(counts).tolist() == [1, 1, 1]


def test_errors_name_what_is_wrong():
    img, krn = np.zeros((1, 1, 4)), np.zeros((1, 1, 2))
    out, pullback = sc.semifield_conv_vjp(img, krn, "tropical_max")
    with pytest.raises(ValueError, match=r"shape \(1, 1, 3\) and dtype float64, got \(1, 1, 4\)"):
        pullback(img)
    with pytest.raises(TypeError, match="derivatives need a floating dtype, got int32"):
        sc.semifield_conv_vjp(img.astype("i4"), krn.astype("i4"), "tropical_max")
    with pytest.raises(TypeError, match="differentiated by PyTorch"):
        sc.semifield_conv_vjp(img, krn, sc.BroadcastSemifield.linear())
    assert out.shape == (1, 1, 3)
