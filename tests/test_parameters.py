"""mu of log and p of root as arguments of a call: values, gradients, and what they compile."""

import gc
import tracemalloc
import warnings

import cases
import mpmath
import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy import run
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host import functions
from semiconv_cupy.backends.host.compiler import compiler
from semiconv_cupy.backends.place import NUMPY, Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.methods import Limits
from semiconv_cupy.route import choose
from semiconv_cupy.strides import contiguous_strides

compiled = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
MADE = {"log": sc.SubtractSemifield.log, "root": sc.SubtractSemifield.root}
NAMES = {"log": "mu", "root": "p"}
# Both signs, both sides of 1, each kind of loop.
VALUES = {
    "log": (2.0, -2.0, 0.125, -30.0, 1e-3),
    "root": (1.0, 2.0, 3.0, 4.0, 7.0, 0.5, 2.5, 30.5, -0.5, -2.0, -3.5),
}
EACH = [(family, value) for family, values in VALUES.items() for value in values]
WORKS = {
    "windows": ((2, 3, 8, 9), (5, 3, 3, 2), dict(padding=1)),
    "groups": ((2, 4, 9), (6, 2, 3), dict(groups=2)),
    "shared kernels": ((2, 4, 9), (5, 2, 3), dict(groups=2, group_broadcasting=True, padding=1)),
    "a matrix product": ((6, 20, 1), (5, 20, 1), {}),
    "one pixel": ((1, 2, 1, 1), (5, 2, 3, 3), dict(padding=2)),
    "nothing": ((0, 2, 4), (5, 2, 3), {}),
}


def arrays(work, dtype=np.float64, seed=0):
    img, krn, arguments = WORKS[work]
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 2, img).astype(dtype), rng.uniform(0.1, 2, krn).astype(dtype), arguments


def close(found, expected, rtol=2e-6, atol=1e-6):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


# ---- values --------------------------------------------------------------------------------------


@compiled
@pytest.mark.parametrize(("family", "value"), EACH)
@pytest.mark.parametrize("work", ["windows", "a matrix product"])
def test_a_value_is_that_of_the_semifield(family, value, work):
    img, krn, arguments = arrays(work, np.float32)
    expected = sc.semifield_conv(img, krn, MADE[family](value), **arguments)
    for given in (value, np.float32(value), np.array([value], np.float32)):
        found = sc.semifield_conv(img, krn, family, **{NAMES[family]: given}, **arguments)
        assert found.dtype == np.float32
        # An array's value is not known when the way is chosen: ordinary sums may compute it.
        compare = np.testing.assert_array_equal if given is value else close
        compare(found, expected)


@pytest.mark.parametrize("method", ["reference", pytest.param("auto", marks=compiled)])
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("family", MADE)
def test_each_kernel_has_a_value_of_its_own(family, work, method):
    img, krn, arguments = arrays(work)
    kernels = len(krn)
    values = np.array([2.0, -2.0, 0.5, 3.0, -1.5, 2.5][:kernels])
    call = dict(method=method, **arguments)
    out, pullback = sc.semifield_conv_vjp(img, krn, family, **{NAMES[family]: values}, **call)
    parts = [sc.semifield_conv_vjp(img, krn, MADE[family](v), **call) for v in values]
    expected = out.copy()
    for channel in range(out.shape[1]):
        expected[:, channel] = parts[channel % kernels][0][:, channel]
    close(out, expected, 1e-13, 1e-13)
    grad_out = np.random.default_rng(1).uniform(0.5, 1, out.shape)
    grad_img, grad_krn, grad_values = pullback(grad_out)
    assert grad_values.shape == values.shape
    img_sum, krn_sum = np.zeros_like(img), np.zeros_like(krn)
    for kernel, (_, back) in enumerate(parts):
        own = np.zeros_like(grad_out)
        own[:, kernel::kernels] = grad_out[:, kernel::kernels]
        to_img, to_krn = back(own)
        img_sum += to_img
        krn_sum += to_krn
        one = {NAMES[family]: values[kernel]}
        alone = sc.semifield_conv_vjp(img, krn, family, **one, **call)[1](own)[2]
        np.testing.assert_allclose(grad_values[kernel], alone, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(grad_img, img_sum, rtol=1e-11)
    np.testing.assert_allclose(grad_krn, krn_sum, rtol=1e-11)


@compiled
@pytest.mark.parametrize("family", MADE)
def test_each_column_of_a_product_has_a_value_of_its_own(family):
    rng, values = np.random.default_rng(2), np.array([2.0, -2.0, 0.5, 3.0, -1.5])
    for shape_a, shape_b in (((7, 9), (9, 5)), ((2, 1, 3, 40), (4, 40, 5)), ((9,), (9, 5))):
        a, b = rng.uniform(0.1, 2, shape_a), rng.uniform(0.1, 2, shape_b)
        given = {NAMES[family]: values}
        out, pullback = sc.semifield_matmul_vjp(a, b, family, **given)
        np.testing.assert_array_equal(sc.semifield_matmul(a, b, family, **given), out)
        swapped = sc.semifield_matmul(a, b, family, **{NAMES[family]: values.astype(">f8")})
        np.testing.assert_array_equal(swapped, out)
        into = np.empty_like(out)
        assert sc.semifield_matmul(a, b, family, out=into, **given) is into
        np.testing.assert_array_equal(into, out)
        grad_a, grad_b, grad_values = pullback(np.ones_like(out))
        assert (grad_a.shape, grad_b.shape, grad_values.shape) == (a.shape, b.shape, (5,))
        for column, value in enumerate(values):
            alone = sc.semifield_matmul(a, b[..., column : column + 1], MADE[family](value))
            close(out[..., column], alone[..., 0], 1e-13, 1e-13)


# ---- gradients -----------------------------------------------------------------------------------


def exact(family, value, terms):
    """(value, derivative by the parameter) of a window in 60 digits."""
    with mpmath.workdps(60):
        x, terms = mpmath.mpf(float(value)), [mpmath.mpf(float(term)) for term in terms]
        if family == "log":
            powers = [mpmath.exp(x * term) for term in terms]
            out = mpmath.log(sum(powers)) / x
            mean = sum(s * term for s, term in zip(powers, terms, strict=True)) / sum(powers)
            return out, (mean - out) / x
        powers = [term**x for term in terms]
        out = sum(powers) ** (1 / x)
        pairs = zip(powers, terms, strict=True)
        mean = sum(s * mpmath.log(term) for s, term in pairs) / sum(powers)
        return out, out / x * (mean - mpmath.log(out))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ["auto", "reference"])
@pytest.mark.parametrize("spread", [0.1, 3.0])
@pytest.mark.parametrize(("family", "value"), EACH)
def test_the_derivative_by_a_parameter(family, value, spread, method, dtype):
    """Exact to a few units of the exponentials, of windows near to one term's alone, too."""
    value = float(dtype(value))
    terms = np.exp(spread * np.random.default_rng(3).normal(size=(6, 1, 13))).astype(dtype)
    one = np.ones((1, 1, 13), dtype)
    if family == "log":
        one[...] = 0
    given = {NAMES[family]: value}
    out, pullback = sc.semifield_conv_vjp(terms, one, family, method=method, **given)
    for window in range(len(terms)):
        expected, slope = exact(family, value, terms[window, 0])
        grad_out = np.zeros_like(out)
        grad_out[window] = 1
        eps, largest = float(np.finfo(dtype).eps), float(terms[window].max())
        assert abs(out[window, 0, 0] - expected) <= 4 * eps * max(abs(expected), largest)
        found, scale = float(pullback(grad_out)[2]), abs(slope)
        if method == "reference":  # array loops add up weights beside 1
            scale += (1 if family == "log" else abs(expected)) / value**2
        assert abs(found - slope) <= 100 * eps * scale + 1e-30, (found, float(slope))


def slopes_of(img, krn, family, value, method, **arguments):
    """The route, the values, and each output's derivative by the parameter."""
    geometry = Geometry.plan(img.shape, krn.shape, **arguments)
    unbound = MADE[family](value).unbound
    route = choose(unbound, geometry, img.dtype.name, NUMPY, method, slopes=True)
    out, spec = np.empty(geometry.out_shape, img.dtype), route.residual_spec
    residual = np.empty(spec.shape, spec.dtype)
    run.forward(route, img, krn, out, residual, value=value)
    return route, out, residual[-1]


BY_SUMS = {
    "several tiles": ((2, 4, 90, 150), (5, 4, 3, 3), dict(padding=1)),
    "wide borders, stride": (
        (2, 3, 13, 11),
        (4, 3, 3, 3),
        dict(padding=((6, 3), (2, 8)), stride=2),
    ),
    "groups, dilation": ((2, 4, 40), (6, 2, 3), dict(groups=2, dilation=3, padding=3)),
    "shared kernels": ((2, 4, 9), (5, 2, 3), dict(groups=2, group_broadcasting=True, padding=1)),
    "volumes": ((1, 2, 6, 7, 9), (3, 2, 2, 3, 3), dict(padding=1)),
    "colours": ((2, 1, 12, 20, 3), (2, 1, 3, 3, 1), dict(padding=(1, 1, 0))),
    "one pixel": ((1, 2, 1, 1), (5, 2, 3, 3), dict(padding=2)),
    "an empty batch": ((0, 2, 9), (5, 2, 3), dict(padding=1)),
}


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("work", BY_SUMS)
@pytest.mark.parametrize(("family", "value"), [("log", 2.0), ("log", -0.5), ("root", 3.0)])
def test_slopes_by_sums_are_those_of_the_terms(family, value, work, dtype):
    """Few of them at each range: sums prove all slopes, some, or none; black and far pixels."""
    (img_shape, krn_shape, arguments), rng = BY_SUMS[work], np.random.default_rng(5)
    for spread in (0.3, 2.0, 30.0):
        img, krn = (spread * rng.normal(size=shape) for shape in (img_shape, krn_shape))
        if family == "root":
            img, krn = np.exp(img / 4), np.exp(krn / 4)
        if img.size > 99:
            img[..., :5] = MADE[family](value).zero
            img[:1, :1, 7:8] *= 1000
        img, krn = img.astype(dtype), krn.astype(dtype)
        route, out, slopes = slopes_of(img, krn, family, value, "linear", **arguments)
        assert route.by_sums
        direct, expected, exact_slopes = slopes_of(img, krn, family, value, "direct", **arguments)
        assert not direct.by_sums
        eps = float(np.finfo(dtype).eps)
        terms = max(np.abs(x[np.isfinite(x)]).max(initial=1) for x in (img, krn))
        close(out, expected, 16 * eps, 16 * eps * terms if family == "log" else 0)
        close(slopes, exact_slopes, 200 * eps, 1e-30)


@compiled
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.1, 3.0])
@pytest.mark.parametrize(("family", "value"), EACH)
def test_slopes_of_windows_that_overlap(family, value, spread, dtype):
    """Whether sums give them or, since they cannot prove them, the terms."""
    value, size = float(dtype(value)), 7
    img = np.exp(spread * np.random.default_rng(3).normal(size=(1, 1, 30))).astype(dtype)
    krn = np.full((1, 1, size), float(family == "root"), dtype)
    method = "auto" if family == "root" and -1 < value < 1 else "linear"
    _, _, slopes = slopes_of(img, krn, family, value, method)
    for n, found in enumerate(slopes[0, 0]):
        _, slope = exact(family, value, img[0, 0, n : n + size])
        assert abs(found - slope) <= 100 * np.finfo(dtype).eps * abs(slope) + 1e-30


def test_slopes_by_sums_by_array_loops():
    """A route by sums that compiled kernels cannot follow keeps its one plane, too."""
    img, krn, arguments = arrays("windows")
    geometry = Geometry.plan(img.shape, krn.shape, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sc.BackendWarning)
        route = choose(
            MADE["log"](2.0), geometry, "float64", NUMPY, slopes=True, limits=Limits(scratch=1)
        )
    assert (route.backend, route.by_sums, route.residual_spec.arrays) == ("reference", True, 1)
    residual = np.empty(route.residual_spec.shape)
    run.forward(route, img, krn, np.empty(geometry.out_shape), residual)
    close(residual[0], slopes_of(img, krn, "log", 2.0, "reference", **arguments)[2], 1e-12, 1e-14)


def test_products_and_several_values_keep_the_terms():
    for work, channels, sums in (
        ("windows", 1, True),
        ("windows", 5, False),
        ("a matrix product", 1, False),
    ):
        img, krn, arguments = arrays(work)
        geometry = Geometry.plan(img.shape, krn.shape, **arguments)
        unbound = MADE["log"](2.0).unbound
        route = choose(unbound, geometry, "float64", NUMPY, channels=channels, slopes=True)
        assert (route.by_sums, route.residual_spec.arrays) == (sums, 1 if sums else 3)
        if not sums:
            with pytest.raises(ValueError, match="method='linear' does not serve"):
                choose(
                    unbound, geometry, "float64", NUMPY, "linear", channels=channels, slopes=True
                )


def test_windows_of_zeros_and_infinite_terms_have_no_slope():
    for family, zero in (("log", -np.inf), ("root", 0.0)):
        img = np.array([[[zero, zero, zero, 1.0, np.inf, 2.0]]])
        krn = np.zeros((1, 1, 2)) if family == "log" else np.ones((1, 1, 2))
        given = {NAMES[family]: 2.0}
        out, pullback = sc.semifield_conv_vjp(img, krn, family, method="direct", **given)
        slopes = []
        for n in range(out.shape[-1]):
            grad_out = np.zeros_like(out)
            grad_out[..., n] = 1
            slopes.append(float(pullback(grad_out)[2]))
        assert slopes == [0.0, 0.0, 0.0, 0.0, 0.0]  # two zeros, a zero and 1, infinite terms


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_parameter_of_halves_is_float32(dtype):
    img, krn, arguments = arrays("windows", dtype)
    mu = np.full(len(krn), 0.7, np.float32)
    out, pullback = sc.semifield_conv_vjp(img, krn, "log", mu=mu, **arguments)
    grads = pullback(np.ones_like(out))
    assert [grad.dtype for grad in grads] == [dtype, dtype, np.float32]


# ---- what is compiled, and kept ------------------------------------------------------------------


@compiled
@pytest.mark.parametrize("family", MADE)
def test_a_sweep_compiles_no_library_and_keeps_nothing(family, monkeypatch):
    img, krn, arguments = arrays("windows", np.float32)
    for warm in VALUES[family]:
        sc.semifield_conv_vjp(img, krn, MADE[family](warm), **arguments)[1]
        sc.semifield_conv(img, krn, MADE[family](warm), **arguments)
    opened = []
    monkeypatch.setattr(functions, "open_library", lambda *given: opened.append(given))
    values = np.random.default_rng(4).uniform(-9, 9, 1000)
    for value in values[:100]:
        sc.semifield_conv(img, krn, MADE[family](value), **arguments)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for value in values:
        sc.semifield_conv(img, krn, MADE[family](value), **arguments)
    for value in range(1, 10_000):
        MADE[family](value / 7)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert not opened
    assert grown < 20_000


def test_equal_values_are_equal_semifields():
    log = sc.SubtractSemifield.log
    assert log(2) == log(2.0) != log(3)
    assert log(2).unbound is log(-3).unbound
    assert dict(log(2).parameters) == {"mu": 2.0}
    assert sc.SubtractSemifield.linear().unbound == sc.SubtractSemifield.linear()


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("semifield", "given", "error", "message"),
    [
        ("log", {}, TypeError, r"'log' needs its parameter: pass 'log' with mu=\.\.\."),
        ("log", {"p": 2.0}, TypeError, "'log' needs its parameter"),
        ("log", {"mu": 0}, ValueError, "mu must be finite and not 0, got mu=0; .*'linear'.* mean"),
        ("log", {"mu": None}, TypeError, "mu must be a number or an array, got None"),
        (MADE["log"](1), {"mu": None}, TypeError, "mu must be a number or an array, got None"),
        (sc.SubtractSemifield.named_family("log"), {}, TypeError, r'pass "log" with mu=\.\.\.'),
        ("log", {"mu": [1.0]}, TypeError, r"numpy\.asarray\(mu\) makes one"),
        ("log", {"mu": (1.0,)}, TypeError, r"numpy\.asarray\(mu\) makes one"),
        ("root", {"p": np.inf}, ValueError, "p must be finite and not 0, got p=inf"),
        (
            "log",
            {"mu": np.ones(3)},
            ValueError,
            r"shape \(\), \(1,\) or \(5,\), .* got shape \(3,\)",
        ),
        ("log", {"mu": np.ones(5, np.float32)}, TypeError, r"pass mu\.astype\('float64'\)"),
        ("tropical_max", {"mu": 2.0}, TypeError, "unexpected argument 'mu'; .* has no parameter"),
        (MADE["log"](1), {"p": 2.0}, TypeError, "unexpected argument 'p'; .* the parameter mu"),
        (
            "log",
            {"mu": np.ones(5), "method": "linear"},
            ValueError,
            "'linear' does not serve 5 val",
        ),
    ],
)
def test_errors(semifield, given, error, message):
    img, krn, arguments = arrays("windows")
    with pytest.raises(error, match=message):
        sc.semifield_conv(img, krn, semifield, **given, **arguments)


# ---- CUDA kernels on the CPU ---------------------------------------------------------------------


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("method", ["direct", "tiled"])
@pytest.mark.parametrize("family", MADE)
def test_cuda_kernels_read_values(family, method, by_channel):
    """Each launch reads the memory again: the same route, other numbers."""
    img, krn, arguments = arrays("windows", np.float32)
    geometry = Geometry.plan(img.shape, krn.shape, **arguments)
    device = cases.harness()
    place = Place("NumPy", gpu=0, device=device)
    unbound = sc.SubtractSemifield._family(family)
    channels = len(krn) if by_channel else 1
    slopes = method == "direct"
    route = choose(unbound, geometry, "float32", place, method, channels=channels, slopes=slopes)
    for values in ([2.0, -2.0, 0.5, 3.0, -1.5], [1.0, 4.0, 2.5, 7.0, -0.5]):
        value = np.array(values[:channels], np.float32)
        spec = route.residual_spec
        out = np.empty(geometry.out_shape, np.float32)
        residual = np.empty(spec.shape, spec.dtype)
        run.forward(route, img, krn, out, residual, value=value)
        given = {NAMES[family]: value}
        expected, pullback = sc.semifield_conv_vjp(img, krn, family, **given, **arguments)
        close(out, expected)
        plain = np.empty_like(out)
        run.forward(route, img, krn, plain, value=value)
        close(plain, expected)
        grad_out = np.ones_like(out)
        grads = [np.empty(x.shape, np.float32) for x in (img, krn)]
        run.backward(route, GradientArrays(grad_out, img, krn, residual, *grads), value=value)
        to_img, to_krn, to_value = pullback(grad_out)
        np.testing.assert_allclose(grads[0], to_img, rtol=2e-5)
        np.testing.assert_allclose(grads[1], to_krn, rtol=2e-5)
        if slopes:
            axes = (0, 2, 3) if by_channel else None
            np.testing.assert_allclose(residual[-1].sum(axis=axes), to_value.squeeze(), rtol=2e-5)


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("family", MADE)
def test_cuda_products_read_values(family, by_channel):
    img, krn, _ = arrays("a matrix product", np.float32)
    geometry = Geometry.plan(img.shape, krn.shape)
    place = Place("NumPy", gpu=0, device=cases.harness())
    channels = len(krn) if by_channel else 1
    value = np.array([2.0, -2.0, 0.5, 3.0, -1.5][:channels], np.float32)
    expected = sc.semifield_conv(img, krn, family, **{NAMES[family]: value})
    strides = contiguous_strides(img.shape), contiguous_strides(krn.shape)
    route = choose(
        sc.SubtractSemifield._family(family), geometry, "float32", place, channels=channels,
        slopes=True,
    )  # fmt: skip
    product = route.product(*strides)
    if product is None:
        pytest.skip("the GPU computes this work as windows")
    out, spec = np.empty_like(expected), route.residual_spec
    residual = np.empty(spec.shape, spec.dtype)
    run.forward(route, img, krn, out, residual, value=value)
    close(out, expected)


def test_a_number_out_of_range_is_refused_whatever_was_planned_before():
    img, krn = np.ones((1, 1, 5, 5), np.float32), np.ones((1, 1, 3, 3), np.float32)
    a = np.ones((5, 5), np.float32)
    for family, name in (("log", "mu"), ("root", "p")):
        for value in (2.0, 1e300, 1e-300, -1e300):
            for call in (sc.semifield_conv, sc.semifield_conv_vjp, sc.semifield_matmul):
                given = (img, krn) if call is not sc.semifield_matmul else (a, a)
                if value == 2.0:
                    call(*given, family, **{name: value})
                    continue
                with pytest.raises(ValueError, match="cannot be computed in float32"):
                    call(*given, family, **{name: value})
    doubles = sc.semifield_conv(img.astype("f8"), krn.astype("f8"), "log", mu=1e300)
    assert (doubles == 2).all()


def test_errors_of_products_name_columns():
    a = np.ones((3, 3))
    with pytest.raises(ValueError, match=r"one for each column of b, got shape \(4,\)"):
        sc.semifield_matmul(a, a, "log", mu=np.ones(4))
