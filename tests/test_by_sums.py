"""root and log by ordinary sums: what is particular to that method.

`test_numerics.py` runs it through the extremes, beside the other backends.
"""

import warnings

import cases
import numpy as np
import oracle
import pytest
from cases import ESSENTIAL, GEOMETRIES, SEMIFIELDS
from compare import assert_matches
from cuda_on_cpu.device import HarnessDevice
from hypothesis import given

import semiconv_cupy as sc
from semiconv_cupy import SelectSemifield, SubtractSemifield, run
from semiconv_cupy.backends import cuda
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host import libraries
from semiconv_cupy.backends.place import NUMPY, Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.methods import Limits
from semiconv_cupy.residual import residual_of
from semiconv_cupy.route import choose
from semiconv_cupy.strides import contiguous_strides, element_strides

LOG, ROOT = SubtractSemifield.log(2.0), SubtractSemifield.root(3.0)
BY_SUMS = ["log(2)", "log(-0.7)", "root(3)", "root(2.5)", "root(-2)"]


def check(backend, name, geometry, dtype="float32"):
    case = SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, dtype)
    got = cases.run(backend, img, krn, case.semifield, **geometry.arguments)
    assert_matches(got, cases.expected_of(name, geometry, dtype), dtype=dtype)


@pytest.mark.table(6)
@pytest.mark.parametrize("name", ["log(2)", "root(2.5)"])
@pytest.mark.parametrize("geometry", [g for g, case in GEOMETRIES.items() if not case.large])
def test_every_geometry(geometry, name):
    check("host_linear", name, GEOMETRIES[geometry])


@pytest.mark.table(4)
@pytest.mark.parametrize("name", ["log(2)", "root(2.5)"])
@pytest.mark.parametrize("geometry", ESSENTIAL)
def test_every_geometry_on_cuda(geometry, name):
    check("cuda_linear_on_cpu", name, GEOMETRIES[geometry])


@pytest.mark.table(2)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("backend", cases.LINEAR)
@pytest.mark.parametrize("name", ["log(2)", "root(2.5)"])
def test_other_dtypes(backend, name, dtype):
    check(backend, name, GEOMETRIES["everything"], dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_SUMS)
def test_drawn_geometries(name):
    @given(geometry=cases.geometries())
    def agrees(geometry):
        check("host_linear", name, geometry)

    agrees()


# ---- any range of numbers ------------------------------------------------------------------------


def spread(name, shape, decades, seed):
    """Numbers whose terms differ by up to so many powers of ten."""
    rng = np.random.default_rng(seed)
    if name.startswith("log"):
        return rng.uniform(-1, 1, shape) * decades
    return 10.0 ** rng.uniform(-decades / 6, decades / 6, shape)


@pytest.mark.table(4)
@pytest.mark.parametrize("decades", [1, 30, 1000])
@pytest.mark.parametrize("backend", cases.LINEAR)
@pytest.mark.parametrize("name", BY_SUMS)
def test_any_range(backend, name, decades):
    """All outputs proven, some, hardly any."""
    case, geometry = SEMIFIELDS[name], GEOMETRIES["same"]
    decades = decades if case.domain == cases.REALS else min(decades, 100)
    img = spread(name, geometry.img, decades, 1).astype("f4")
    krn = spread(name, geometry.krn, decades, 2).astype("f4")
    img[0, :, 2:5, 1:4] = case.semifield.zero
    expected = oracle.convolve(img, krn, case.algebra, **geometry.arguments)
    got = cases.run(backend, img, krn, case.semifield, **geometry.arguments)
    assert_matches(got, expected, dtype="float32")


@pytest.mark.table(2)
@pytest.mark.parametrize("backend", cases.LINEAR)
@pytest.mark.parametrize(("name", "factor"), [("log(2)", 60.0), ("root(3)", 1e16)])
def test_what_a_sum_does_not_prove_is_computed_directly(backend, name, factor):
    """Half of the image is so far below the other that its powers vanish."""
    case = SEMIFIELDS[name]
    img = np.ones((1, 1, 8, 40), "f4")
    img[..., 20:] = 1 - factor if name == "log(2)" else 1 / factor
    krn = np.ones((1, 1, 3, 3), "f4")
    expected = oracle.convolve(img, krn, case.algebra)
    alone = sums_alone(name, img, krn)
    upper = oracle.Expected(expected.value[..., :18], expected.scale[..., :18])
    assert_matches(alone[..., :18].copy(), upper, dtype="float32")
    with pytest.raises(AssertionError, match="ulp"):
        assert_matches(alone, expected, dtype="float32")
    assert_matches(cases.run(backend, img, krn, case.semifield), expected, dtype="float32")


def sums_alone(name, img, krn):
    """Ordinary sums of float32 powers relative to the largest ones, which nothing corrects."""
    image, kernel = img - img.max(), krn - krn.max()
    if name == "log(2)":
        powers = sc.semifield_conv(np.exp(2 * image), np.exp(2 * kernel), "linear")
        with np.errstate(divide="ignore"):
            return np.log(powers) / np.float32(2) + img.max() + krn.max()
    powers = sc.semifield_conv((img / img.max()) ** 3, (krn / krn.max()) ** 3, "linear")
    return img.max() * krn.max() * powers ** np.float32(1 / 3)


# ---- gradients -----------------------------------------------------------------------------------


def gradients(img, krn, grad_out, semifield, method, **arguments):
    _, pullback = sc.semifield_conv_vjp(img, krn, semifield, method=method, **arguments)
    return pullback(grad_out)


def gradients_on_cuda(img, krn, grad_out, semifield, device=None, **arguments):
    """What the launch code computes, on the harness, where no residual was kept."""
    device, plan = device or cases.harness(), Geometry.plan(img.shape, krn.shape, **arguments)
    real = np.promote_types(img.dtype, "f4")
    grads = [device.empty(array.shape, real) for array in (img, krn)]
    route = cases.route_of(semifield, plan, img.dtype.name, device, "linear")
    run.backward(route, GradientArrays(grad_out, img, krn, None, *grads))
    return grads


def direct_gradients_on_cuda(img, krn, grad_out, semifield, **arguments):
    """What the direct kernels make of the residual that the direct one left."""
    device, plan = cases.harness(), Geometry.plan(img.shape, krn.shape, **arguments)
    case = (semifield, plan, img.dtype.name)
    residual_spec = residual_of(semifield, img.dtype.name, plan)
    residual = device.empty(residual_spec.shape, residual_spec.dtype)
    out, grads = (
        device.empty(grad_out.shape, img.dtype),
        [device.empty(a.shape, "f4") for a in (img, krn)],
    )
    case = cuda.Case(*case)
    cuda.forward(device, case, img, krn, out, residual, "direct")
    arrays = GradientArrays(grad_out, img, krn, residual, *grads)
    cuda.backward(device, case, arrays, "direct")
    return grads


def linear_gradients(backend, *arrays, **arguments):
    if backend == "host_linear":
        return gradients(*arrays, "linear", **arguments)
    return gradients_on_cuda(*arrays, **arguments)


def direct_gradients(backend, *arrays, **arguments):
    if backend == "host_linear":
        return gradients(*arrays, "direct", **arguments)
    return direct_gradients_on_cuda(*arrays, **arguments)


def assert_gradients_match(img, krn, grad_out, semifield, backend="host_linear", **arguments):
    """In float32, within 16 ulp of the sum of magnitudes: of the reference in float64."""
    got = linear_gradients(backend, img, krn, grad_out, semifield, **arguments)
    wide = [array.astype("f8") for array in (img, krn, grad_out)]
    wanted = gradients(*wide, semifield, "reference", **arguments)
    magnitudes = gradients(*wide[:2], abs(wide[2]), semifield, "reference", **arguments)
    for one, exact, magnitude in zip(got, wanted, magnitudes, strict=True):
        scale = np.maximum(abs(magnitude), 1e-3 * abs(magnitude).max())
        assert abs(one - exact).max() > 0  # no method computes them by accident
        assert (abs(one - exact) <= 16 * np.finfo("f4").eps * scale).all()


@pytest.mark.table(4)
@pytest.mark.parametrize("geometry", ["same", "group broadcasting", "everything", "1-D", "3-D"])
@pytest.mark.parametrize("decades", [1, 30])
@pytest.mark.parametrize("name", BY_SUMS)
def test_gradients(name, decades, geometry):
    case, geometry = SEMIFIELDS[name], GEOMETRIES[geometry]
    img = spread(name, geometry.img, decades, 1).astype("f4")
    krn = spread(name, geometry.krn, 1, 2).astype("f4")
    grad_out = np.random.default_rng(3).normal(size=geometry.plan().out_shape).astype("f4")
    assert_gradients_match(img, krn, grad_out, case.semifield, **geometry.arguments)


MIXES = dict(img=(2, 10, 9, 21), krn=(8, 5, 3, 3), arguments=dict(padding=1, groups=2))


@pytest.mark.table(3)
@pytest.mark.parametrize("geometry", ["mixing", "group broadcasting", "everything"])
@pytest.mark.parametrize("name", BY_SUMS)
def test_gradients_on_cuda(name, geometry):
    geometry = GEOMETRIES.get(geometry) or cases.GeometryCase(**MIXES)
    img = spread(name, geometry.img, 1, 1).astype("f4")
    krn = spread(name, geometry.krn, 1, 2).astype("f4")
    grad_out = np.random.default_rng(3).normal(size=geometry.plan().out_shape).astype("f4")
    arrays = (img, krn, grad_out, SEMIFIELDS[name].semifield)
    assert_gradients_match(*arrays, "cuda_linear_on_cpu", **geometry.arguments)


@pytest.mark.parametrize("name", ["log(2)", "root(3)"])
def test_gradients_on_cuda_of_what_is_not_proven(name):
    """Then every element comes from the direct kernels."""
    img = spread(name, MIXES["img"], 200, 1).astype("f4")
    krn = spread(name, MIXES["krn"], 1, 2).astype("f4")
    grad_out = np.random.default_rng(3).normal(size=(2, 8, 9, 21)).astype("f4")
    case, arguments = (img, krn, grad_out, SEMIFIELDS[name].semifield), MIXES["arguments"]
    direct = direct_gradients_on_cuda(*case, **arguments)
    for one, other in zip(gradients_on_cuda(*case, **arguments), direct, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.table(3)
@pytest.mark.parametrize("backend", cases.LINEAR)
@pytest.mark.parametrize("name", BY_SUMS)
@pytest.mark.parametrize("special", ["zero", "infinity", "negative infinity", "negative", "NaN"])
def test_gradients_beside_what_is_no_number(name, special, backend):
    """Outputs that see it are differentiated directly, all others are none the worse."""
    value = {
        "zero": SEMIFIELDS[name].semifield.zero, "infinity": np.inf, "negative infinity": -np.inf,
        "negative": -1.0, "NaN": np.nan,
    }[special]  # fmt: skip
    img = spread(name, (2, 2, 12, 30), 1, 1).astype("f4")
    img[0, 1, 4:9, 11:19] = value
    krn = spread(name, (3, 2, 3, 3), 1, 2).astype("f4")
    grad_out = np.random.default_rng(3).normal(size=(2, 3, 12, 30)).astype("f4")
    arguments = dict(padding="same")
    got = linear_gradients(backend, img, krn, grad_out, SEMIFIELDS[name].semifield, **arguments)
    direct = direct_gradients(backend, img, krn, grad_out, SEMIFIELDS[name].semifield, **arguments)
    for one, other in zip(got, direct, strict=True):
        np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.table(3)
@pytest.mark.parametrize("backend", cases.LINEAR)
@pytest.mark.parametrize("factor", [1e-38, 1e-30, 1e30])
def test_gradients_of_any_magnitude(factor, backend):
    img, krn = (cases.numbers(shape, "f4", seed=5) for shape in ((1, 1, 20, 20), (1, 1, 3, 3)))
    grad_out = (factor * np.random.default_rng(3).uniform(1, 2, (1, 1, 18, 18))).astype("f4")
    got = linear_gradients(backend, img, krn, grad_out, LOG)
    direct = gradients(img, krn, grad_out, LOG, "direct")
    for one, other in zip(got, direct, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * factor)


@pytest.mark.parametrize("scale", [1e-18, 1e15])
def test_gradients_of_a_norm_of_any_magnitude(scale):
    """Image and kernel far from 1, in different directions; and what they give is as far."""
    rng = np.random.default_rng(3)
    img, krn = (
        (rng.uniform(0.1, 1, shape) * by).astype("f4")
        for shape, by in (((2, 4, 9, 21), scale), ((5, 4, 3, 3), 10 / scale))
    )
    grad_out = rng.normal(size=(2, 5, 9, 21)).astype("f4")
    assert_gradients_match(img, krn, grad_out, ROOT, "cuda_linear_on_cpu", padding=1)


def test_on_cuda_only_what_is_not_proven_is_asked_again():
    """The direct kernels return at once, or overwrite everything."""
    img, krn = (cases.numbers(shape, "f4", seed=5) for shape in ((2, 4, 9, 21), (5, 4, 3, 3)))
    grad_out = cases.numbers((2, 5, 7, 19), "f4", seed=3)
    device, asked = HarnessDevice(), []
    compiled = device.compile

    def compile(text, name, options):
        kernel = compiled(text, name, options)

        def launch(grid, block, args, shared_bytes, stream=None):
            before = args[5].copy() if name.startswith("semiconv_grad_image_log") else None
            kernel(grid, block, args, shared_bytes, stream)
            if before is not None:
                asked.append(not np.array_equal(before, args[5]))

        return launch

    device.compile = compile
    img[0, :, :5, :6] = -np.inf  # nothing is proven, too
    gradients_on_cuda(img, krn, grad_out, LOG, device=device)
    img[0, 0, 4, 10] = 100
    gradients_on_cuda(img, krn, grad_out, LOG, device=device)
    assert asked == [False, True]


@pytest.mark.parametrize("name", ["log(2)", "root(3)"])
@pytest.mark.parametrize("array", ["img", "krn"])
def test_what_is_no_number_meets_no_gradient_on_cuda(name, array):
    img, krn = (spread(name, MIXES[a], 1, 1).astype("f4") for a in ("img", "krn"))
    grad_out = np.random.default_rng(3).normal(size=(2, 8, 9, 21)).astype("f4")
    if array == "img":
        img[1, 7, 4, 10] = np.nan
        grad_out[1, :, 3:6, 9:12] = 0
    else:
        krn[6, 1, 1, 1] = np.inf
        grad_out[:, 6] = 0
    got = gradients_on_cuda(img, krn, grad_out, SEMIFIELDS[name].semifield, **MIXES["arguments"])
    assert all(np.isfinite(gradient).all() for gradient in got)


def test_by_addresses_on_cuda():
    """As the bridge calls it, where a GPU takes this method."""
    img, krn = (cases.numbers(shape, "f4", seed=5) for shape in ((2, 4, 9, 21), (5, 4, 3, 3)))
    plan, device = Geometry.plan(img.shape, krn.shape), cases.harness()
    grad_out, steps = (
        cases.numbers(plan.out_shape, "f4", seed=3),
        (element_strides(img), element_strides(krn)),
    )
    route = cases.route_of(LOG, plan, "float32", device, "linear")
    out, grads = (
        device.empty(plan.out_shape, "f4"),
        [device.empty(a.shape, "f4") for a in (img, krn)],
    )
    at = [device.address(array) for array in (grad_out, img, krn, out, *grads)]
    run.forward_at(route, *steps)(at[1], at[2], at[3], None, None)
    expected = oracle.convolve(img, krn, SEMIFIELDS["log(2)"].algebra)
    assert_matches(out, expected, dtype="float32")
    run.backward_at(route, *steps, (True, True))(GradientArrays(*at[:3], None, *at[4:]), None)
    for one, other in zip(grads, gradients_on_cuda(img, krn, grad_out, LOG), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_gradients_of_other_dtypes_on_cuda(dtype):
    img, krn = (cases.numbers(shape, dtype, seed=5) for shape in ((1, 4, 9, 21), (4, 4, 3, 3)))
    grad_out = cases.numbers((1, 4, 7, 19), dtype, seed=3)
    got = gradients_on_cuda(img, krn, grad_out, LOG)
    wide = gradients(*(array.astype("f8") for array in (img, krn, grad_out)), LOG, "reference")
    for one, exact in zip(got, wide, strict=True):
        np.testing.assert_allclose(one, exact, atol=(1e-5 if dtype == "f2" else 1e-12))


@pytest.mark.parametrize("level", [1.0, 1e6, 1e8])
def test_weights_of_a_window_sum_to_one(level):
    """The gradient of a sum of logs, given every window's own scale."""
    img = (level + cases.numbers((1, 1, 40, 40), "f8", seed=1) * level * 1e-6).astype("f4")
    krn = cases.numbers((1, 1, 3, 3), "f4", seed=2)
    grad_img, grad_krn = gradients(img, krn, np.ones((1, 1, 38, 38), "f4"), LOG, "linear")
    assert abs(grad_img.sum(dtype="f8") / 38**2 - 1) < 1e-6
    assert abs(grad_krn.sum(dtype="f8") / 38**2 - 1) < 1e-6


def test_threads_do_not_change_a_bit():
    """Neither of proven outputs nor of others."""
    img = spread("log", (3, 4, 70, 90), 40, 1).astype("f4")
    krn = spread("log", (6, 4, 5, 4), 1, 2).astype("f4")
    plan = Geometry.plan(img.shape, krn.shape, padding="same")
    grad_out = cases.numbers(plan.out_shape, "f4", seed=3)
    route = cases.route_of(LOG, plan, "float32", method="linear")
    results = []
    for threads in (1, 2, 5):
        grads = np.zeros_like(img), np.empty_like(krn)
        run.backward(route, GradientArrays(grad_out, img, krn, None, *grads), threads=threads)
        results.append(grads)
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, same)


def test_one_gradient_at_a_time():
    img, krn = (cases.numbers(shape, "f4", seed=5) for shape in ((2, 3, 20, 20), (4, 3, 3, 3)))
    plan = Geometry.plan(img.shape, krn.shape)
    grad_out = cases.numbers(plan.out_shape, "f4", seed=3)
    both = np.zeros_like(img), np.empty_like(krn)
    route = cases.route_of(LOG, plan, "float32", method="linear")
    run.backward(route, GradientArrays(grad_out, img, krn, None, *both))
    alone = np.zeros_like(img), np.empty_like(krn)
    run.backward(route, GradientArrays(grad_out, img, krn, None, alone[0], None))
    run.backward(route, GradientArrays(grad_out, img, krn, None, None, alone[1]))
    for one, other in zip(both, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_gpu_differentiates_what_was_computed_linearly():
    """Launch code on the harness: the direct kernels, their residual computed again."""
    img, krn = (cases.numbers(shape, "f8", seed=5) for shape in ((1, 2, 6, 7), (2, 2, 3, 3)))
    plan, device = Geometry.plan(img.shape, krn.shape), cases.harness()
    grad_out = cases.numbers(plan.out_shape, "f8", seed=3)
    grads = [device.empty(array.shape, "f8") for array in (img, krn)]
    route = cases.route_of(LOG, plan, "float64", device)
    run.backward(route, GradientArrays(grad_out, img, krn, None, *grads))
    for got, wanted in zip(grads, gradients(img, krn, grad_out, LOG, "direct"), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-10)


def test_a_derivative_by_array_loops():
    """Forward kept no residual; the loops compute it again."""
    img, krn = (cases.numbers(shape, "f8", seed=5) for shape in ((1, 2, 6, 7), (2, 2, 3, 3)))
    grad_out, grads = np.ones((1, 2, 4, 5)), (np.zeros_like(img), np.empty_like(krn))
    plan = Geometry.plan(img.shape, krn.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sc.BackendWarning)  # unless another test has met it
        route = choose(LOG, plan, "float64", NUMPY, limits=Limits(scratch=1))
    assert (route.backend, route.by_sums, route.residual_spec) == ("reference", True, None)
    run.backward(route, GradientArrays(grad_out, img, krn, None, *grads))
    for got, exact in zip(grads, gradients(img, krn, grad_out, LOG, "direct"), strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-9, atol=1e-10)


# ---- which method --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("semifield", "taps"), [(LOG, 3), (SubtractSemifield.root(2.5), 3), (ROOT, 24)]
)
def test_it_is_chosen_where_it_was_measured_to_be_faster(semifield, taps):
    def chosen(taps):
        return choose(semifield, Geometry.plan((1, 1, 30), (1, 1, taps)), "float32", NUMPY).by_sums

    assert not chosen(taps - 1)
    assert chosen(taps)


def test_the_public_call_takes_the_chosen_method():
    img = np.linspace(0, 1, 30, dtype="f4")[None, None]
    for method in ("auto", "linear"):
        before = set(libraries.loaded())
        sc.semifield_conv(img, img[..., :5], SubtractSemifield.log(2.125), method=method)
    assert set(libraries.loaded()) == before  # "auto" had loaded what "linear" needs


@pytest.mark.parametrize("semifield", [LOG, ROOT])
def test_on_a_gpu_it_is_chosen_for_many_terms(semifield):
    def chosen(img_shape, krn_shape, **arguments):
        plan = Geometry.plan(img_shape, krn_shape, padding="same", **arguments)
        return choose(semifield, plan, "float32", Place("CuPy", 0)).by_sums

    assert chosen((8, 64, 64, 64), (64, 64, 3, 3))
    assert not chosen((8, 8, 32, 32), (8, 8, 3, 3))  # launches would take longer
    assert not chosen((8, 64, 512, 512), (64, 1, 3, 3), groups=64)  # and passes over the image
    assert chosen((8, 64, 512, 512), (64, 1, 11, 11), groups=64)


@pytest.mark.parametrize(
    "semifield",
    ["tropical_max", "linear", SubtractSemifield.root(0.5), SEMIFIELDS["norm"].semifield],
)
def test_where_it_cannot_serve_it_says_so(semifield):
    img = np.ones((1, 1, 9, 9), "f4")
    for function in (sc.semifield_conv, sc.semifield_conv_vjp):
        with pytest.raises(ValueError, match="method='linear' serves the ready-made log"):
            function(img, img[..., :3, :3], semifield, method="linear")


def test_where_it_cannot_run_it_says_so():
    plan = Geometry.plan((1, 1, 9, 10), (1, 1, 3, 3))
    with pytest.raises(sc.BackendUnavailableError, match="method='linear' cannot run here"):
        choose(LOG, plan, "float32", NUMPY, "linear", Limits(scratch=1))
    img = np.ones((1, 1, 9, 10), "f4")
    with pytest.raises(ValueError, match="BroadcastSemifield"):
        sc.semifield_conv(img, img[..., :3, :3], sc.BroadcastSemifield.log(2.0), method="linear")
    with pytest.raises(TypeError, match="floating"):
        sc.semifield_conv(img.astype("i4"), img[..., :3, :3].astype("i4"), LOG, method="linear")


def test_a_selection_stays_what_it_was():
    plan = Geometry.plan((1, 1, 9), (1, 1, 7))
    route = choose(SelectSemifield.tropical_max(), plan, "float32", NUMPY)
    assert not route.by_sums
    assert route.residual_spec.dtype == np.uint8


@pytest.mark.parametrize("name", ["log(2)", "root(3)"])
@pytest.mark.parametrize(
    ("img_shape", "krn_shape", "arguments"),
    [
        ((2, 2, 20, 30, 3), (2, 1, 3, 5, 1), dict(padding=(1, 2, 0), groups=2)),
        ((3, 5, 8, 7), (4, 5, 1, 1), {}),
        ((2, 3, 9, 4, 5), (3, 1, 4, 1, 1), dict(groups=3, stride=(2, 1, 1))),
    ],
    ids=["colour", "pointwise", "one axis"],
)
def test_the_canonical_form_agrees_with_the_plain_one(name, img_shape, krn_shape, arguments):
    """Values and gradients on the CPU, within twice what each of them promises."""
    plan, rng = Geometry.plan(img_shape, krn_shape, **arguments), np.random.default_rng(4)
    img, krn = (rng.random(shape).astype(np.float32) for shape in (img_shape, krn_shape))
    grad_out = rng.random(plan.out_shape).astype(np.float32)
    results = []
    for limits in (Limits(), Limits(plain=True)):
        semifield = SEMIFIELDS[name].semifield
        route = choose(semifield, plan, "float32", NUMPY, "linear", limits)
        form, _ = route.form_of_gradients(contiguous_strides(img_shape))
        assert (form.geometry == plan) == limits.plain
        out, *grads = (np.empty(shape, "f4") for shape in (plan.out_shape, img_shape, krn_shape))
        run.forward(route, img, krn, out)
        run.backward(route, GradientArrays(grad_out, img, krn, None, *grads))
        results.append((out, *grads))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-6)
