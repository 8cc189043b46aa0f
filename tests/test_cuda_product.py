"""The CUDA kernels of matrix products, launched by the real launch code, on the CPU."""

import functools
from dataclasses import replace
from functools import partial

import cases
import numpy as np
import pytest
from compare import assert_matches
from hypothesis import given, settings
from hypothesis import strategies as st

import semiconv_cupy as sc
from semiconv_cupy import run
from semiconv_cupy.backends.cuda import (
    LIMITS,
    Multiplication,
    differentiate,
    multiply,
    multiply_by_sums,
)
from semiconv_cupy.backends.cuda.limits import Limits
from semiconv_cupy.backends.cuda.product_tile import plan_product
from semiconv_cupy.backends.device import Recorder
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import NUMPY, Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.product import Level, Product, merged
from semiconv_cupy.product_route import choose_product
from semiconv_cupy.route import choose
from semiconv_cupy.strides import contiguous_strides, element_strides

MAX = sc.SelectSemifield.tropical_max()
# Terms shared by 4 blocks wherever a team has a slab for each; offsets of 64 bits.
SHARED = Limits(multiprocessors=10**6, product_slabs=0)
LONG_OFFSETS = Limits(offset_32=0)


@functools.cache
def harness():
    return cases.harness()


def product_of(a, b, out):
    """The product of stacks of matrices a (S, M, K) and b (S, K, N)."""
    return unmerged(a, b, out).merged()


def unmerged(a, b, out):
    """`product_of` with a level for each axis."""
    at, bt, ot = map(element_strides, (a, b, out))
    return Product(
        shared=(Level(a.shape[0], at[0], bt[0], ot[0]),),
        free=(Level(a.shape[1], img=at[1], out=ot[1]),),
        produced=(Level(b.shape[2], krn=bt[2], out=ot[2]),),
        contracted=(Level(a.shape[2], at[2], bt[1]),),
    )


def laid_out(shape, transposed, dtype, offset=0):
    """An array of poison of that shape, contiguous or transposed, `offset` elements behind it."""
    last = shape[-2:][::-1] if transposed else shape[-2:]
    size = int(np.prod(shape))
    memory = harness().empty(size + offset, dtype)[offset:]
    array = memory.reshape(*shape[:-2], *last)
    return array.swapaxes(-1, -2) if transposed else array


def check(semifield, dtype, sizes, layout=(False, False, False), offset=0, limits=LIMITS, seed=0):
    """Compare values and what the derivative needs with array loops."""
    (s, m, n, k), rng = sizes, np.random.default_rng(seed)
    a, b = (
        laid_out((s, m, k), layout[0], dtype, offset),
        laid_out((s, k, n), layout[1], dtype, offset),
    )
    for operand in (a, b):
        if np.dtype(dtype).kind == "f":
            numbers = rng.normal(size=operand.shape)
            operand[...] = abs(numbers) if semifield.accumulator == "root" else numbers
        else:
            info = np.iinfo(dtype)
            few = rng.integers(-3 if info.min else 0, 4, operand.shape)
            operand[...] = np.where(rng.random(operand.shape) < 0.9, few, info.max)
    out = laid_out((s, m, n), layout[2], dtype, offset)
    product = product_of(a, b, out)
    route = choose_product(semifield, product, np.dtype(dtype).name, NUMPY, "reference")
    spec = route.residual_spec(out.shape)
    numbers, arrays = (None, ()) if spec is None else (spec.dtype, spec.shape[: spec.arrays > 1])
    if np.dtype(dtype).kind != "f" and semifield.accumulator != "select":
        numbers = None
    for kept in dict.fromkeys((None, numbers)):
        residual = wanted = None
        if kept is not None:
            residual = laid_out((*arrays, s, m, n), layout[2], kept)
            wanted = laid_out((*arrays, s, m, n), layout[2], kept)
        multiplication = Multiplication(semifield, product, np.dtype(dtype).name, kept)
        out.fill(1)
        multiply(harness(), multiplication, a, b, out, residual, limits)
        expected = laid_out((s, m, n), layout[2], dtype, offset)
        run.product(route, a, b, expected, wanted)
        if semifield.accumulator == "select":
            np.testing.assert_array_equal(out, expected)
            if residual is not None:
                np.testing.assert_array_equal(residual, wanted)
        else:
            exact = np.dtype(dtype).itemsize > 2
            np.testing.assert_allclose(out, expected, 2e-6 if exact else 2e-3, 1e-5)
            if residual is not None:
                np.testing.assert_allclose(residual, wanted, 1e-4, 1e-5)


layouts = st.tuples(st.booleans(), st.booleans(), st.booleans())
sizes = st.tuples(st.integers(1, 2), st.integers(1, 80), st.integers(1, 80), st.integers(0, 40))


@settings(max_examples=12)
@given(sizes, layouts, st.integers(0, 1), st.integers(0, 99))
def test_maximum_of_any_shape_and_layout(sizes, layout, offset, seed):
    check(MAX, "float32", sizes, layout, offset, seed=seed)


@pytest.mark.parametrize("limits", [SHARED, LONG_OFFSETS], ids=["shared", "long"])
@pytest.mark.parametrize("layout", [(False, False, False), (True, True, True)])
def test_terms_shared_by_blocks_and_long_offsets(layout, limits):
    check(MAX, "float32", (2, 9, 140, 150), layout, limits=limits)


@pytest.mark.parametrize("semifield", [MAX, sc.SubtractSemifield.log(2.0)], ids=repr)
def test_few_rows_whose_terms_blocks_share(semifield):
    """A tile of 4 x 128 outputs; one team of 32 threads joins its parts."""
    plan = plan_product(semifield, "float32", 1, (3, 256, 1024), keeps_residual=False)
    assert plan.parts > 1
    assert plan.tile.size[1] > plan.tile.threads // plan.tile.teams
    check(semifield, "float32", (1, 3, 256, 1024))


@pytest.mark.parametrize("layout", [(False, False, False), (True, True, False)])
@pytest.mark.parametrize(
    ("semifield", "dtype"),
    [
        (MAX, "float32"),
        (MAX, "uint8"),
        (MAX, "float64"),
        (sc.SubtractSemifield.log(2.0), "float32"),
    ],
    ids=str,
)
def test_few_rows_of_many_columns(semifield, dtype, layout):
    """Tiles of 8 x 512 or 4 x 512 outputs, which a GPU of one multiprocessor takes sooner."""
    one = Limits(multiprocessors=1)
    plan = plan_product(semifield, dtype, 2, (7, 1030, 9), keeps_residual=False, limits=one)
    assert plan.tile.is_wide
    assert plan.tile.size[1] == 512
    check(semifield, dtype, (2, 7, 1030, 9), layout, limits=one)


def test_wide_tiles_fit_into_shared_memory():
    small = Limits(multiprocessors=1, shared_bytes=20_000)
    sizes = 7, 1030, 9
    plans = (
        plan_product(MAX, "float32", 2, sizes, keeps_residual=False, limits=limits)
        for limits in (Limits(multiprocessors=1), small)
    )
    assert [plan.tile.is_wide for plan in plans] == [True, False]


def test_shared_terms_are_shared():
    plan = plan_product(MAX, "float32", 1, (64, 64, 4096), keeps_residual=False)
    assert plan.parts > 1
    assert plan_product(MAX, "float32", 1, (64, 64, 8), keeps_residual=False).parts == 1


@pytest.mark.parametrize("limits", [LIMITS, SHARED], ids=["one", "shared"])
@pytest.mark.parametrize(
    "semifield",
    [
        sc.SelectSemifield.tropical_min_negated(),
        sc.SelectSemifield.max_times(),
        sc.SelectSemifield.tropical_max(spread_gradient=True),
        sc.SubtractSemifield.linear(),
        sc.SubtractSemifield.log(2.0),
        pytest.param(sc.SubtractSemifield.log(-2.0), marks=pytest.mark.slow),
        pytest.param(sc.SubtractSemifield.root(3.0), marks=pytest.mark.slow),
        sc.SubtractSemifield.root(-2.5),
        pytest.param(cases.largest_magnitude(), marks=pytest.mark.slow),
        cases.hypotenuse(),
    ],
    ids=repr,
)
def test_every_addition(semifield, limits):
    check(semifield, "float32", (1, 19, 72, 83), limits=limits)


@pytest.mark.parametrize("terms", [41, 73, 167])
def test_a_team_with_fewer_slabs_than_others_adds_all_of_its_terms(terms):
    check(sc.SubtractSemifield.linear(), "float32", (1, 47, 46, terms))


@pytest.mark.parametrize(
    "dtype",
    cases.slow_except(
        ["float16", "float64", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64"],
        *("float16", "uint8", "int64"),
    ),
)
def test_every_dtype(dtype):
    check(MAX, dtype, (1, 17, 72, 43))


def test_bools():
    rng = np.random.default_rng(0)
    a, b = (rng.random(shape) < 0.1 for shape in ((1, 20, 30), (1, 30, 40)))
    out = np.empty((1, 20, 40), bool)
    multiplication = Multiplication(
        sc.SelectSemifield.boolean(), product_of(a, b, out), "bool", None
    )
    multiply(harness(), multiplication, a, b, out)
    np.testing.assert_array_equal(out, a @ b)


def test_ties_nan_and_infinities():
    rng = np.random.default_rng(3)
    few = np.array([-np.inf, -1, 0, 1, np.nan, np.inf], np.float32)
    a, b = rng.choice(few, (1, 33, 41)), rng.choice(few, (1, 41, 36))
    out, residual = np.empty((1, 33, 36), "f4"), np.empty((1, 33, 36), "u1")
    product = product_of(a, b, out)
    for limits in (LIMITS, SHARED):
        multiply(
            harness(),
            Multiplication(MAX, product, "float32", np.dtype("u1")),
            a,
            b,
            out,
            residual,
            limits,
        )
        route = choose_product(MAX, product, "float32", NUMPY, "reference")
        expected, wanted = np.empty_like(out), np.empty_like(residual)
        run.product(route, a, b, expected, wanted)
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(residual, wanted)


def test_levels_of_any_depth():
    """Rows, columns and terms of two axes each, an operand that is broadcast, a step backwards."""
    rng = np.random.default_rng(0)
    img = rng.normal(size=(3, 4, 5, 6)).astype("f4")[:, ::-1]  # s, f0, c0, c1
    krn = rng.normal(size=(6, 2, 5, 7)).astype("f4")  # c1, p0, c0, p1
    out = np.empty((2, 3, 4, 7), "f4")  # p0, s, f0, p1
    i, k, o = map(element_strides, (img, krn, out))
    product = Product(
        shared=(Level(3, i[0], 0, o[1]),),
        free=(Level(4, i[1], 0, o[2]),),
        produced=(Level(2, 0, k[1], o[0]), Level(7, 0, k[3], o[3])),
        contracted=(Level(5, i[2], k[2]), Level(6, i[3], k[0])),
    )
    multiply(harness(), Multiplication(MAX, product, "float32", None), img, krn, out)
    terms = img[None, :, :, :, :, None] + krn.transpose(1, 2, 0, 3)[:, None, None]
    assert_matches(out, terms.max((3, 4)), dtype="f4")


# ---- log and root by ordinary sums ---------------------------------------------------------------


def check_by_sums(semifield, dtype, sizes, layout=(False, False, False), scale=1.0, limits=LIMITS):
    """Compare values by ordinary sums with those of array loops in float64."""
    (s, m, n, k), rng = sizes, np.random.default_rng(0)
    a, b = laid_out((s, m, k), layout[0], dtype), laid_out((s, k, n), layout[1], dtype)
    for operand in (a, b):
        numbers = scale * rng.normal(size=operand.shape)
        operand[...] = np.exp(numbers) if semifield.accumulator == "root" else numbers
    out = laid_out((s, m, n), layout[2], dtype)
    out.fill(1)
    name = np.dtype(dtype).name
    multiplication = Multiplication(semifield, product_of(a, b, out), name, None)
    multiply_by_sums(harness(), multiplication, a, b, out, limits)
    a, b = a.astype("f8"), b.astype("f8")
    expected = sc.semifield_matmul(a, b, semifield, method="reference")
    tolerance = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-14}[name]
    np.testing.assert_allclose(out, expected, tolerance, tolerance)


@pytest.mark.parametrize("limits", [LIMITS, SHARED], ids=["one", "shared"])
@pytest.mark.parametrize(
    "layout", [(False, False, False), (True, False, True), (True, True, False)]
)
@pytest.mark.parametrize(
    "semifield", [sc.SubtractSemifield.log(2.0), sc.SubtractSemifield.root(3.0)]
)
def test_by_sums_in_any_layout(semifield, layout, limits):
    check_by_sums(semifield, "float32", (2, 19, 70, 83), layout, limits=limits)


@pytest.mark.table(2)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize(
    "semifield", [sc.SubtractSemifield.log(-1.5), sc.SubtractSemifield.root(-2.5)]
)
def test_by_sums_of_other_dtypes(semifield, dtype):
    check_by_sums(semifield, dtype, (1, 5, 40, 33), scale=0.25)


@pytest.mark.parametrize("scale", [10.0, 300.0])
@pytest.mark.parametrize("limits", [LIMITS, SHARED], ids=["one", "shared"])
def test_what_sums_do_not_prove_is_computed_directly(limits, scale):
    check_by_sums(
        sc.SubtractSemifield.log(2.0), "float32", (2, 40, 50, 150), (0, 1, 0), scale, limits
    )


def test_by_sums_of_infinities_nan_and_no_terms():
    semifield = sc.SubtractSemifield.log(1.0)
    rng = np.random.default_rng(3)
    few = np.array([-np.inf, -1, 0, 1, 2, 3, 4, 5], np.float32)
    a, b = rng.choice(few, (1, 33, 41)), rng.choice(few, (1, 41, 36))
    a[0, 4] = -np.inf
    a[0, 5, 7], b[0, 3, 9], b[0, 8, 8] = np.nan, np.inf, np.nan
    for terms in (0, 41):
        out = np.empty((1, 33, 36), "f4")
        some = a[..., :terms].copy(), b[:, :terms].copy()
        multiplication = Multiplication(semifield, product_of(*some, out), "float32", None)
        multiply_by_sums(harness(), multiplication, *some, out)
        expected = sc.semifield_matmul(*some, semifield, method="reference")
        np.testing.assert_allclose(out, expected, 1e-6, 1e-6)


def test_a_gpu_computes_values_by_sums_where_that_is_faster():
    def serve(semifield, m, n, k, method="auto"):
        levels = (Level(m, k, 0, n),), (Level(n, 0, 1, 1),), (Level(k, 1, n),)
        place = Place("NumPy", gpu=0, device=harness())
        return choose_product(semifield, Product((), *levels), "float32", place, method)

    log = sc.SubtractSemifield.log(2.0)
    route = serve(log, 1024, 1024, 1024)
    assert route.values_by_sums
    assert not route.by_sums
    assert route.residual_spec((1024, 1024)) is not None
    assert not serve(log, 1024, 1024, 16).values_by_sums
    assert not serve(log, 16, 4096, 4096).values_by_sums
    assert not serve(log, 128, 128, 128).values_by_sums
    assert not serve(log, 1024, 1024, 1024, "direct").values_by_sums
    assert not serve(MAX, 1024, 1024, 1024).values_by_sums


@pytest.mark.parametrize("method", ["direct", "linear"])
def test_values_follow_the_route(method):
    semifield, rng = sc.SubtractSemifield.log(2.0), np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype("f4") for shape in ((1, 9, 30), (1, 30, 40)))
    out, residual = np.empty((1, 9, 40), "f4"), np.empty((2, 1, 9, 40), "f4")
    device = Recorder()
    place = Place("NumPy", gpu=0, device=device)
    route = choose_product(semifield, product_of(a, b, out), "float32", place, method)
    run.product(route, a, b, out)
    assert any("by_sums" in each.source.name for each in device.launches) == (method == "linear")
    device.clear()
    run.product(route, a, b, out, residual)
    assert not any("by_sums" in each.source.name for each in device.launches)


def test_matmul_on_a_gpu_takes_the_kernel():
    place = Place("NumPy", gpu=0, device=harness())
    a = np.arange(6, dtype="f4").reshape(1, 2, 3)
    b = a.reshape(1, 3, 2)
    out = np.empty((1, 2, 2), "f4")
    route = choose_product(MAX, product_of(a, b, out), "float32", place)
    assert route.backend == "cuda"
    run.product(route, a, b, out)
    np.testing.assert_array_equal(out[0], (a[0][:, :, None] + b[0]).max(1))


@pytest.mark.parametrize("full_blocks", [1, 4096], ids=["one", "shared"])
@pytest.mark.parametrize("layout", [(False, False, False), (True, True, False)])
@pytest.mark.parametrize(
    "semifield",
    [
        MAX,
        pytest.param(sc.SelectSemifield.max_times(), marks=pytest.mark.slow),
        sc.SelectSemifield.tropical_max(spread_gradient=True),
        sc.SubtractSemifield.linear(),
        sc.SubtractSemifield.log(2.0),
        pytest.param(sc.SubtractSemifield.root(3.0), marks=pytest.mark.slow),
        pytest.param(cases.hypotenuse(), marks=pytest.mark.slow),
        cases.norm(),
    ],
    ids=repr,
)
def test_gradients(semifield, layout, full_blocks):
    rng = np.random.default_rng(1)
    a = laid_out((2, 7, 35), layout[0], "f4")
    b = laid_out((2, 35, 130), layout[1], "f4")
    for operand in (a, b):
        operand[...] = rng.integers(1, 9, operand.shape) / 8
    out = np.empty((2, 7, 130), "f4")
    product = product_of(a, b, out)
    route = choose_product(semifield, product, "float32", NUMPY, "reference")
    spec = route.residual_spec(out.shape)
    residual = None if spec is None else np.empty(spec.shape, spec.dtype)
    run.product(route, a, b, out, residual)
    compare_gradients(route, a, b, residual, full_blocks)


def compare_gradients(route, a, b, residual, full_blocks=4096):
    """The gradients of both operands against those of array loops."""
    shape = (a.shape[0], a.shape[1], b.shape[2])
    slopes = np.random.default_rng(2).integers(-4, 5, shape).astype("f4")
    made, wanted = ([harness().empty(x.shape, "f4") for x in (a, b)] for _ in range(2))
    product, gradients = merged(unmerged(a, b, slopes), unmerged(*made, slopes))
    numbers = None if residual is None else residual.dtype
    differentiate(
        harness(),
        Multiplication(route.semifield, product, "float32", numbers),
        gradients,
        (slopes, a, b, residual, *made),
        Limits(full_blocks=full_blocks),
    )
    route = replace(route, product=product)
    run.product_backward(route, gradients, GradientArrays(slopes, a, b, residual, *wanted))
    for found, expected in zip(made, wanted, strict=True):
        np.testing.assert_allclose(found, expected, 2e-5, 1e-4)


def test_gradients_of_an_operand_that_is_broadcast():
    rng = np.random.default_rng(5)
    a, b = (rng.normal(size=shape).astype("f4") for shape in ((3, 4, 5), (5, 6)))
    for semifield in (MAX, sc.SubtractSemifield.log(1.0)):
        _, pull = sc.semifield_matmul_vjp(a, b, semifield)
        slopes = rng.normal(size=(3, 4, 6)).astype("f4")
        place = Place("NumPy", gpu=0, device=harness())
        data = Product(
            (Level(3, 20, 0, 24),), (Level(4, 5, 0, 6),), (Level(6, 0, 1, 1),), (Level(5, 1, 6),)
        )
        route = choose_product(semifield, data, "float32", place)
        spec = route.residual_spec((3, 4, 6))
        out, residual = np.empty((3, 4, 6), "f4"), np.empty(spec.shape, spec.dtype)
        run.product(route, a, b, out, residual)
        found = np.empty_like(a), np.empty_like(b)
        run.product_backward(route, data, GradientArrays(slopes, a, b, residual, *found))
        for made, expected in zip(found, pull(slopes), strict=True):
            np.testing.assert_allclose(made, expected, 1e-5, 1e-5)


@pytest.mark.parametrize("scale", [1.0, 300.0], ids=["proven", "computed directly"])
@pytest.mark.parametrize(
    ("img", "krn", "arguments"),
    [
        ((40, 33, 1), (9, 33, 1), {}),
        ((3, 12, 4, 6), (10, 6, 2, 3), dict(stride=(2, 3), groups=2)),
    ],
)
def test_a_convolution_without_windows_is_a_product_of_sums(img, krn, arguments, scale):
    """By one scale for each row and column, and so by panels of both operands."""
    semifield, rng = sc.SubtractSemifield.log(2.0), np.random.default_rng(0)
    geometry = Geometry.plan(img, krn, **arguments)
    img, krn = ((scale * rng.normal(size=shape)).astype("f4") for shape in (img, krn))
    found = []
    for device in (Recorder(), harness()):
        place = Place("NumPy", gpu=0, device=device)
        route = choose(semifield, geometry, "float32", place, "linear")
        calls = run.forward_call(route, img, krn), partial(forwarded, route)
        found += [call(img, krn) for call in calls]
        if isinstance(device, Recorder):
            names = [each.source.name for each in device.launches]
            assert names
            assert all("product" in name for name in names)
    expected = sc.semifield_conv(img, krn, semifield, method="reference", **arguments)
    for out in found[2:]:
        np.testing.assert_allclose(out, expected, 1e-6, 1e-6)


@pytest.mark.parametrize(
    ("img", "krn", "pays"),
    [
        ((427, 1059, 1), (1303, 1059, 1), True),
        ((16, 4096, 1), (4096, 4096, 1), False),  # each weight is read by 16 outputs
        ((64, 64, 128, 128), (2, 64, 1, 1), False),  # each pixel by 2
    ],
)
def test_sums_of_convolutions_pay_as_those_of_products(img, krn, pays):
    plan, place = Geometry.plan(img, krn), Place("NumPy", gpu=0, device=Recorder())
    for method, by_sums in (("auto", pays), ("linear", True)):
        route = choose(sc.SubtractSemifield.log(2.0), plan, "float32", place, method)
        strides = map(contiguous_strides, (img, krn))
        assert route.product(*strides).values_by_sums == by_sums


def forwarded(route, img, krn):
    """The forward pass into an array that the caller allocates."""
    out = np.empty(route.geometry.out_shape, img.dtype)
    run.forward(route, img, krn, out)
    return out


@pytest.mark.parametrize("name", ["tropical_max", "largest_magnitude"])
@pytest.mark.parametrize(
    ("img", "krn"), [((40, 12, 1), (9, 12, 1)), ((2, 16, 5, 40), (8, 16, 1, 1))]
)
def test_a_convolution_without_windows_takes_the_kernel(img, krn, name):
    semifield, rng = cases.SEMIFIELDS[name].semifield, np.random.default_rng(0)
    geometry = Geometry.plan(img, krn)
    img, krn = (rng.normal(size=shape).astype("f4") for shape in (img, krn))
    results = []
    for place in (Place("NumPy", gpu=0, device=harness()), NUMPY):
        route = choose(semifield, geometry, "float32", place, "auto")
        if place.on_gpu:
            assert route.product(element_strides(img), element_strides(krn)) is not None
        spec = route.residual_spec
        out, residual = np.empty(geometry.out_shape, "f4"), np.empty(spec.shape, spec.dtype)
        run.forward(route, img, krn, out, residual)
        grads = np.zeros_like(img), np.zeros_like(krn)
        run.backward(route, GradientArrays(out, img, krn, residual, *grads))
        results.append((out, *grads))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, 2e-5, 2e-5)
