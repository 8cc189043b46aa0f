"""Matrix products by levels of strides: the plan, and each backend against plain loops."""

import itertools

import cases
import numpy as np
import oracle
import pytest
from compare import assert_matches
from hypothesis import given, settings
from hypothesis import strategies as st

import semiconv_cupy as sc
from semiconv_cupy import run
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import NUMPY
from semiconv_cupy.canonical import as_given
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.product import Level, Product, merged
from semiconv_cupy.product_route import choose_product
from semiconv_cupy.strides import element_strides

MAX = sc.SelectSemifield.tropical_max()


def levels_of(a, b, out):
    """The product of stacks of matrices a (S, M, K) and b (S, K, N)."""
    at, bt, ot = map(element_strides, (a, b, out))
    return Product(
        shared=(Level(a.shape[0], at[0], bt[0], ot[0]),),
        free=(Level(a.shape[1], img=at[1], out=ot[1]),),
        produced=(Level(b.shape[2], krn=bt[2], out=ot[2]),),
        contracted=(Level(a.shape[2], at[2], bt[1]),),
    )


def multiplied(a, b, semifield, method="auto"):
    """(values, winners) of a product."""
    shape = (a.shape[0], a.shape[1], b.shape[2])
    out = np.empty(shape, a.dtype)
    route = choose_product(semifield, levels_of(a, b, out).merged(), a.dtype.name, NUMPY, method)
    spec = route.residual_spec(shape)
    residual = None if spec is None else np.empty(spec.shape, spec.dtype)
    run.product(route, a, b, out, residual)
    return out, residual


def by_loops(a, b):
    """Values and winners of a maximum of sums, one number after another."""
    shape = (a.shape[0], a.shape[1], b.shape[2])
    out, winners = np.full(shape, -np.inf, a.dtype), np.full(shape, -1)
    for s, m, n in itertools.product(*map(range, shape)):
        for k in range(a.shape[2]):
            term = a[s, m, k] + b[s, k, n]
            if term > out[s, m, n]:
                out[s, m, n], winners[s, m, n] = term, k
    return out, winners


sizes = st.integers(0, 5)


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, sizes, sizes, st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_a_maximum_and_its_winners(s, m, n, k, seed, turned, reversed_):
    rng = np.random.default_rng(seed)
    values = np.array([-np.inf, -1, 0, 1, np.nan, np.inf], np.float32)
    a, b = rng.choice(values, (s, m, k)), rng.choice(values, (s, k, n))
    if turned:
        a = np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2)
    if reversed_:
        b = b[:, ::-1]
    with np.errstate(invalid="ignore"):
        values, winners = by_loops(a, b)
    out, found = multiplied(a, b, MAX)
    np.testing.assert_array_equal(out, values)
    np.testing.assert_array_equal(found.astype(int), np.where(winners < 0, 255, winners))


def test_no_term_gives_the_zero():
    for semifield in (MAX, sc.SubtractSemifield.log(2.0), sc.SubtractSemifield.linear()):
        out, _ = multiplied(np.ones((1, 2, 0)), np.ones((1, 0, 3)), semifield)
        np.testing.assert_array_equal(out, np.full((1, 2, 3), semifield.zero))


@pytest.mark.parametrize("shapes", [((2, 0), (0, 3)), ((0, 4), (4, 3)), ((5, 0, 4), (4, 3))])
@pytest.mark.parametrize("semifield", [MAX, sc.SubtractSemifield.log(2.0)])
def test_gradients_of_nothing(shapes, semifield):
    a, b = (np.ones(shape, np.float32) for shape in shapes)
    out, pull = sc.semifield_matmul_vjp(a, b, semifield)
    for gradient, operand in zip(pull(np.ones_like(out)), (a, b), strict=True):
        np.testing.assert_array_equal(gradient, np.zeros_like(operand))


def test_levels_merge_only_where_they_lie_together_in_all_products():
    rows = (Level(2, 12, 0, 20), Level(1, 7, 0, 7), Level(4, 3, 0, 5))
    product = Product(free=rows, produced=(Level(5, 0, 1, 1),), contracted=(Level(3, 1, 5),))
    assert product.merged().free == (Level(8, 3, 0, 5),)
    apart = Product(free=(Level(2, 12, 0, 21), *rows[1:]), produced=product.produced, contracted=())
    both = merged(product, Product(apart.shared, apart.free, apart.produced, product.contracted))
    assert [len(one.free) for one in both] == [2, 2]


@pytest.mark.parametrize("kind", ["conv", "corr"])
@pytest.mark.parametrize(
    ("img", "krn", "arguments"),
    [
        ((5, 3, 1), (4, 3, 1), {}),
        ((5, 6, 7), (4, 3, 1), {"groups": 2}),
        ((5, 6, 7), (4, 3, 1), {"groups": 2, "group_broadcasting": True}),
        ((2, 3, 4, 5), (4, 3, 4, 5), {}),
        ((2, 3, 9, 5), (4, 3, 4, 2), {"stride": (5, 2), "dilation": (2, 1)}),
    ],
)
def test_a_convolution_without_border_is_a_product(img, krn, arguments, kind):
    rng = np.random.default_rng(0)
    img, krn = (rng.integers(-3, 4, shape).astype(np.float32) for shape in (img, krn))
    expected, pull = sc.semifield_conv_vjp(img, krn, MAX, kind=kind, **arguments)
    geometry = Geometry.plan(img.shape, krn.shape, kind=kind, **arguments)
    product = as_given(geometry, element_strides(img), element_strides(krn)).product
    route = choose_product(MAX, product, "float32", NUMPY)
    spec = route.residual_spec(geometry.out_shape)
    out, residual = np.empty(geometry.out_shape, np.float32), np.empty(spec.shape, spec.dtype)
    run.product(route, img, krn, out, residual)
    np.testing.assert_array_equal(out, expected)
    grad_out = rng.integers(-3, 4, out.shape).astype(np.float32)
    grad_img, grad_krn = np.empty_like(img), np.empty_like(krn)
    run.product_backward(
        route, product, GradientArrays(grad_out, None, None, residual, grad_img, grad_krn)
    )
    for found, wanted in zip((grad_img, grad_krn), pull(grad_out), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_border_makes_no_product():
    geometry = Geometry.plan((1, 1, 9), (1, 1, 3), padding="same")
    assert as_given(geometry, (9, 9, 1), (3, 3, 1)).product is None


# ---- every semifield and dtype, against the oracle -----------------------------------------------

FLOATING = ("float32", "float64", "float16")


def test_values_go_by_sums_where_each_number_is_read_often():
    def serve(semifield, m, n, k, method="auto"):
        levels = (Level(m, k, 0, n),), (Level(n, 0, 1, 1),), (Level(k, 1, n),)
        return choose_product(semifield, Product((), *levels), "float32", NUMPY, method)

    log, root = sc.SubtractSemifield.log(2.0), sc.SubtractSemifield.root(3.0)
    for semifield, few, many in ((log, 2, 4), (root, 8, 16)):
        for m, n in ((few, 512), (512, few), (1, 512)):
            route = serve(semifield, m, n, 512)
            assert route.by_sums
            assert not route.values_by_sums
            assert route.residual_spec((m, n)) is None  # vmap makes more rows of them
            assert serve(semifield, m, n, 512, "linear").values_by_sums
        assert serve(semifield, many, 512, 512).values_by_sums
    assert serve(log, 32, 4096, 3).values_by_sums
    assert not serve(log, 8, 4096, 3).values_by_sums
    assert not serve(log, 64, 64, 64, "direct").values_by_sums


@pytest.mark.parametrize("name", ["log(2)", "root(3)"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 40), (40, 1), (2, 40)])
def test_few_rows_in_log_and_root(name, rows, columns):
    """Values of their own terms, gradients by ordinary sums."""
    rng = np.random.default_rng(5)
    a, b = rng.random((rows, 64)), rng.random((64, columns))
    semifield = cases.SEMIFIELDS[name].semifield
    out, pull = sc.semifield_matmul_vjp(a, b, semifield)
    expected, pull_directly = sc.semifield_matmul_vjp(a, b, semifield, method="direct")
    np.testing.assert_allclose(out, expected, 1e-13)
    slopes = rng.random(out.shape)
    for found, directly in zip(pull(slopes), pull_directly(slopes), strict=True):
        np.testing.assert_allclose(found, directly, 1e-11)


HALVES = ("tropical_max", "linear", "log(2)", "root(3)")  # differentiated in all dtypes
DIFFERENTIATED = ("tropical_max", "max_times", "linear", "log(2)", "root(3)", "norm", "hypotenuse")
INTEGERS = ("uint8", "int8", "int16", "uint32", "int64", "bool")


BOOLEAN = {"tropical_max": oracle.OR_AND, "tropical_min": oracle.AND_OR, "boolean": oracle.OR_AND}


def algebra_of(name, dtype):
    """What a semifield computes on a dtype; None where it has no meaning there."""
    case = cases.SEMIFIELDS[name]
    if dtype == "bool":
        return BOOLEAN.get(name)
    return case.algebra if dtype in FLOATING or case.selects else None


def strided(rng, array):
    """The same numbers in a memory order of their own, perhaps with gaps or backwards."""
    order = rng.permutation(array.ndim)
    steps = [int(rng.choice((1, 1, -1, 2))) for _ in order]
    sizes = np.array(array.shape)[order] * np.abs(steps)
    room = np.zeros(sizes, array.dtype)
    view = room[tuple(slice(None, None, s) for s in steps)].transpose(np.argsort(order))
    view[...] = array
    return view


@pytest.mark.table(8)
@pytest.mark.parametrize("method", ["auto", "reference"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    cases.slow_except(
        (
            (name, dtype)
            for name in cases.SEMIFIELDS
            for dtype in (*FLOATING, *(INTEGERS if name == "tropical_max" else ("int8", "bool")))
            if algebra_of(name, dtype)
        ),
        *((name, "float32") for name in cases.SEMIFIELDS),
        *(("tropical_max", dtype) for dtype in INTEGERS),
    ),
)
def test_every_semifield(name, dtype, method):
    case = cases.SEMIFIELDS[name]
    for seed, (m, n, k) in enumerate([(1, 40, 7), (13, 1, 300), (9, 21, 33), (3, 5, 1)]):
        rng = np.random.default_rng(seed)
        a = cases.numbers((m, k), dtype, case.domain, seed)
        b = cases.numbers((n, k), dtype, case.domain, seed + 9)
        expected = oracle.convolve(a[..., None], b[..., None], algebra_of(name, dtype))
        room = strided(rng, np.zeros((1, m, n), a.dtype))
        images, kernels = strided(rng, a[None]), strided(rng, b.T[None])
        product = levels_of(images, kernels, room).merged()
        route = choose_product(case.semifield, product, dtype, NUMPY, method)
        run.product(route, images, kernels, room)
        assert_matches(np.ascontiguousarray(room[0])[..., None], expected, dtype=a.dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64"])
def test_winners_beyond_a_block_of_terms(dtype):
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, 7, shape).astype(dtype) for shape in ((1, 19, 1000), (1, 1000, 70)))
    values, winners = multiplied(a, b, MAX)
    expected = multiplied(a, b, MAX, "reference")
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(winners, expected[1])
    terms = a[0, :, :, None] + b[0]
    np.testing.assert_array_equal(winners[0], terms.argmax(1))


@pytest.mark.parametrize("name", ["log(2)", "root(3)", "log(-0.7)", "root(-2)"])
@pytest.mark.parametrize("scale", [1, 1e4])
@pytest.mark.parametrize("turned", [False, True])
def test_ordinary_sums(name, scale, turned):
    """Also of numbers so far apart that sums prove nothing; with infinities in some rows."""
    case = cases.SEMIFIELDS[name]
    a = cases.numbers((9, 300), "float32", case.domain, 1) * np.float32(scale)
    b = cases.numbers((21, 300), "float32", case.domain, 2)
    a[3], b[4] = case.semifield.zero, case.semifield.zero
    if turned:
        a, b = b, a
    expected = oracle.convolve(a[..., None], b[..., None], case.algebra)
    out = sc.semifield_matmul(a, b.T, case.semifield, method="linear")
    assert_matches(out[..., None], expected, dtype=a.dtype)
    np.testing.assert_array_equal(
        sc.semifield_matmul(a, b.T, case.semifield),
        out,  # this is what is taken without asking
    )


@pytest.mark.table(8)
@pytest.mark.parametrize(
    ("name", "dtype"),
    cases.slow_except(
        (
            (name, dtype)
            for name in cases.SEMIFIELDS
            for dtype in ("float64", *(("float32", "float16") if name in HALVES else ()))
        ),
        *((name, "float64") for name in DIFFERENTIATED),
        ("tropical_max", "float32"),
        ("tropical_max", "float16"),
        ("log(2)", "float16"),
    ),
)
@pytest.mark.parametrize(
    "shapes", [((3, 9, 40), (3, 40, 21)), ((2, 70, 5), (5, 8)), ((4, 33), (3, 33, 40))]
)
def test_gradients(name, dtype, shapes):
    """Compiled ones against array loops; an operand without batches gets the sum of all."""
    case = cases.SEMIFIELDS[name]
    a, b = (cases.numbers(s, dtype, case.domain, n) for n, s in enumerate(shapes))
    a = np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2)
    out, pull = sc.semifield_matmul_vjp(a, b, case.semifield)
    _, expected = sc.semifield_matmul_vjp(a, b, case.semifield, method="reference")
    grad_out = cases.numbers(out.shape, dtype, cases.REALS, 7)
    unit = 64 * np.finfo(np.float32 if dtype == "float16" else dtype).eps
    for found, wanted in zip(pull(grad_out), expected(grad_out), strict=True):
        scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1)
        rounding = np.finfo(dtype).eps if dtype == "float16" else 0
        np.testing.assert_allclose(found, wanted, rtol=unit + rounding, atol=unit * scale)


@pytest.mark.parametrize("scale", [1, 300])
@pytest.mark.parametrize(
    ("img", "krn", "arguments"),
    [
        ((21, 29, 1), (17, 29, 1), {}),
        ((5, 6, 7), (4, 3, 1), {"groups": 2}),
        ((5, 6, 7), (4, 3, 1), {"groups": 2, "group_broadcasting": True}),
        ((4, 3, 6, 6), (8, 3, 2, 3), {"stride": (2, 3)}),
        ((4, 3, 7, 6), (8, 3, 2, 3), {"stride": (2, 3)}),
    ],
)
def test_gradients_of_convolutions_by_sums(img, krn, arguments, scale):
    """Numbers far apart prove nothing by sums; windows may leave a rest of the image unseen."""
    rng = np.random.default_rng(0)
    img, krn = (rng.normal(scale=scale, size=shape).astype(np.float32) for shape in (img, krn))
    semifield = sc.SubtractSemifield.log(2.0)
    out, pull = sc.semifield_conv_vjp(img, krn, semifield, method="linear", **arguments)
    _, expected = sc.semifield_conv_vjp(img, krn, semifield, method="direct", **arguments)
    grad_out = rng.normal(size=out.shape).astype(np.float32)
    for found, wanted in zip(pull(grad_out), expected(grad_out), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("terms", [62, 63, 64, 70])
def test_rows_of_several_threads_keep_apart(terms):
    """Rows of operands are transformed in blocks, of which no one writes into the next."""
    rng = np.random.default_rng(0)
    semifield = sc.SubtractSemifield.log(2.0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((900, terms), (terms, 300)))
    expected = sc.semifield_matmul(a, b, semifield, method="direct")
    for _ in range(20):
        np.testing.assert_allclose(sc.semifield_matmul(a, b, semifield), expected, rtol=1e-5)
