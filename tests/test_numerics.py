"""The extremes: nothing overflows, vanishes or turns into NaN that the exact mathematics keeps.

Errors count in ulp of the scale that `oracle.py` defines for each semifield.
"""

import math

import cases
import mpmath
import numpy as np
import oracle
import pytest
from compare import ULPS, assert_matches, distance
from hypothesis import given
from hypothesis import strategies as st
from oracle import Log, Root

from semiconv_cupy import BroadcastSemifield, SelectSemifield, SubtractSemifield, semifield_conv

TROPICAL_MAX = SelectSemifield.tropical_max()
MINUS_INFINITY = np.float32(-np.inf)


def check(backend, semifield, algebra, img, krn, dtype="float32", **arguments):
    img, krn = np.asarray(img, dtype), np.asarray(krn, dtype)
    expected = oracle.convolve(img, krn, algebra, **arguments)
    got = cases.run(backend, img, krn, semifield, **arguments)
    assert_matches(got, expected, dtype=dtype, library=cases.library_of(backend))


def row(*numbers):
    """An image or a kernel of one channel and one axis."""
    return np.array([[numbers]], "float64")


# ---- log ---------------------------------------------------------------------------------------

SMALL_KERNEL = row(0.0, -0.25, 0.0078125)


@pytest.mark.table(3)
@pytest.mark.parametrize(("mu", "dtype"), [(50.0, "f4"), (-50.0, "f4"), (50.0, "f8")])
def test_log_where_the_exponentials_overflow(any_backend, mu, dtype):
    """mu v = 5e6: e^(mu v) has two million digits."""
    steps = [0, 0, 1, -1, 0.03125, 0.0625, 3, 0, -7, 0.25, 0, 0]
    for level in (1e5, -1e5, 0.0, 1e5 * 2.0**60):
        img = row(*(level + step for step in steps))
        check(any_backend, SubtractSemifield.log(mu), Log(mu), img, SMALL_KERNEL, dtype, padding=1)


def test_log_of_equal_terms(any_backend):
    """v + ln(N)/mu at any magnitude."""
    for level in (0.0, 1.0, 1e4, -1e30):
        out = cases.run(
            any_backend, np.full((1, 1, 40), level, "f4"), np.zeros((1, 1, 3), "f4"),
            cases.SEMIFIELDS["log(2)"].semifield,
        )  # fmt: skip
        wanted = np.full((1, 1, 38), np.float32(level + math.log(3) / 2))
        expected = oracle.Expected(wanted, np.abs(wanted))
        assert_matches(out, expected, dtype="float32", library=cases.library_of(any_backend))


@pytest.mark.parametrize("name", ["log(2)", "log(-0.7)"])
def test_log_of_any_finite_numbers(name):
    case = cases.SEMIFIELDS[name]
    number = st.floats(-(2.0**100), 2.0**100, width=32)

    @given(
        img=st.lists(number, min_size=12, max_size=12), krn=st.lists(number, min_size=3, max_size=3)
    )
    def agrees(img, krn):
        for backend in ("host", "host_linear", "reference"):
            check(backend, case.semifield, case.algebra, row(*img), row(*krn), padding=1)

    agrees()


# ---- root --------------------------------------------------------------------------------------


@pytest.mark.table(40)
@pytest.mark.parametrize("p", [3.0, 2.5, 0.5, -2.0])
@pytest.mark.parametrize("level", [1e-30, 1e-12, 1.0, 1e14, 1e30])
def test_root_where_the_powers_leave_the_range(any_backend, p, level):
    steps = [1, 1, 2, 0.5, 0, 3, 1.75, 0, 0, 0, 0, 1e-6, 1e-3, 1]
    img, krn = row(*(level * step for step in steps)), row(1.0, 0.5, 1.5)
    check(any_backend, SubtractSemifield.root(p), Root(p), img, krn, padding=1)


def test_root_at_both_ends_of_the_range(any_backend):
    """Double precision; the scale's own reciprocal is a denormal number."""
    for level in (1e-307, 1.6e308):
        img, krn = row(*(level * step for step in (0.5, 1, 1, 0.25, 0.75))), row(0.5, 0.25)
        check(any_backend, SubtractSemifield.root(2.5), Root(2.5), img, krn, "float64", padding=1)


@pytest.mark.parametrize("p", [30.0, -30.0])
def test_roots_of_large_exponents_at_both_ends_of_the_range(any_backend, p):
    """The scale's reciprocal is subnormal, or infinite where the terms are subnormal themselves."""
    levels = (2e38, 1e-40) if any_backend != "cupy" else (2e38,)  # a GPU flushes to 0
    for level in levels:
        img = row(*(level * step for step in (0.5, 1, 1, 0.25, 0.75)))
        check(any_backend, SubtractSemifield.root(p), Root(p), img, row(1.0, 0.75), padding=1)


@pytest.mark.table(2)
@pytest.mark.parametrize("p", [0.5, 0.08, -0.08])
def test_flat_roots_see_terms_of_any_magnitude(any_backend, p):
    """The ratio to the extreme term leaves the range of float32, and its power does not."""
    values, semifield = [1e-20, 1e28, 3e-15, 2e27], SubtractSemifield.root(p)
    img, krn = row(*values).astype("f4"), row(1.0, 1.0, 1.0, 1.0).astype("f4")
    exact = [mpmath.mpf(float(value)) for value in img.ravel()]
    out = sum(value**p for value in exact) ** (1 / mpmath.mpf(p))
    weights = np.array([float((value / out) ** (p - 1)) for value in exact])
    assert cases.run(any_backend, img, krn, semifield).item() == pytest.approx(float(out), rel=3e-5)
    found = cases.gradients(any_backend, img, krn, np.ones((1, 1, 1), "f4"), semifield, kind="corr")
    # A weight is a number of its own, before it is multiplied by a slope of the term.
    tiny, by_krn = np.finfo("f4").tiny, weights * img.ravel()
    seen = (tiny < weights) & (weights < np.finfo("f4").max)
    np.testing.assert_allclose(found[0].ravel()[seen], weights[seen], rtol=1e-4, atol=tiny)
    np.testing.assert_allclose(found[1].ravel()[seen], by_krn[seen], rtol=1e-4, atol=tiny)


@pytest.mark.parametrize("p", [0.5, 0.08, -0.08])
def test_flat_roots_of_array_functions_see_terms_of_any_magnitude(p):
    img, krn = row(1e-20, 1e28, 3e-15, 2e27).astype("f4"), np.ones((1, 1, 4), "f4")
    out = semifield_conv(img, krn, BroadcastSemifield.root(p))
    exact = sum(mpmath.mpf(float(value)) ** p for value in img.ravel()) ** (1 / mpmath.mpf(p))
    assert out.item() == pytest.approx(float(exact), rel=3e-5)


@pytest.mark.parametrize("size", [1e-45, 1e-38, 0.005])
def test_roots_beyond_the_range_are_infinite_or_0(any_backend, size):
    """2^(1/p) times 3 is 10^60 and more; one term by itself stays as it is."""
    img = np.array([[[0.5, 3.0, 7.0, 1e-30, 1e30]]], "float32")
    for p, beyond in ((size, np.inf), (-size, 0.0)):
        root = SubtractSemifield.root(p)
        alone = cases.run(any_backend, img, np.ones((1, 1, 1), "float32"), root)
        assert alone.ravel().tolist() == pytest.approx(img.ravel().tolist(), rel=1e-6)
        pairs = cases.run(any_backend, img[..., :3], np.ones((1, 1, 2), "float32"), root)
        assert pairs.tolist() == [[[beyond, beyond]]]


@pytest.mark.parametrize("p", [3.0, 2.5, -2.0])
def test_root_of_zeros_is_zero(any_backend, p):
    """Also where one zero among others makes the result: p < 0."""
    zeros = np.zeros((1, 1, 40))
    check(any_backend, SubtractSemifield.root(p), Root(p), zeros, row(1.0, 2.0, 0.0))
    check(any_backend, SubtractSemifield.root(p), Root(p), zeros + 1, row(1.0, 2.0, 0.0))


@pytest.mark.parametrize("p", [3.0, 2.5, -2.0])
def test_root_of_negative_numbers_is_nan_and_only_there(any_backend, p):
    img = row(1.0, 2.0, 3.0, -1.0, 2.0, 1.0, 4.0, 0.0, -0.0, 1.0)
    check(any_backend, SubtractSemifield.root(p), Root(p), img, row(1.0, 0.5))


@pytest.mark.parametrize("name", ["root(3)", "root(2.5)", "root(-2)"])
def test_root_of_any_magnitudes(name):
    case = cases.SEMIFIELDS[name]
    number = st.one_of(st.just(0.0), st.floats(2.0**-100, 2.0**100, width=32))
    weight = st.one_of(st.just(0.0), st.floats(2.0**-20, 2.0**20, width=32))

    @given(
        img=st.lists(number, min_size=12, max_size=12), krn=st.lists(weight, min_size=3, max_size=3)
    )
    def agrees(img, krn):
        for backend in ("host", "host_linear", "reference"):
            check(backend, case.semifield, case.algebra, row(*img), row(*krn), padding=1)

    agrees()


# ---- long sums ---------------------------------------------------------------------------------


@pytest.mark.table(4)
@pytest.mark.parametrize("name", ["linear", "log(2)", "root(3)", "tropical_max"])
def test_windows_of_a_thousand_terms(any_backend, name):
    """961 taps of 3 channels; positive terms, so that errors count relative to the result."""
    case = cases.SEMIFIELDS[name]
    img = cases.numbers((1, 3, 33, 36), "f4", cases.MAGNITUDES, seed=1)
    krn = cases.numbers((1, 3, 31, 31), "f4", cases.MAGNITUDES, seed=2)
    check(any_backend, case.semifield, case.algebra, img, krn)


# ---- infinities and NaN ------------------------------------------------------------------------


@pytest.mark.table(150)
@pytest.mark.parametrize("kernel", cases.SPECIAL_KERNELS)
@pytest.mark.parametrize("name", cases.SEMIFIELDS)
def test_infinities_and_nan(any_backend, name, kernel):
    """A selection never takes NaN; every other addition passes it on to the windows that see it."""
    case = cases.SEMIFIELDS[name]
    if name in ("hypotenuse", "norm"):
        pytest.skip("what a user's own formula makes of infinities is the user's")
    img, krn = np.array(cases.SPECIAL), np.array(cases.SPECIAL_KERNELS[kernel])
    if case.domain == cases.MAGNITUDES and not case.selects:
        img, krn = np.abs(img), np.abs(krn)
    check(any_backend, case.semifield, case.algebra, row(*img), row(*krn), padding=((2, 4),))


@pytest.mark.parametrize("name", [name for name, case in cases.SEMIFIELDS.items() if case.selects])
def test_windows_of_nothing_but_nan_give_the_zero(backend, name):
    case = cases.SEMIFIELDS[name]
    out = cases.run(
        backend, np.full((1, 1, 40), np.nan, "f4"), np.ones((1, 1, 3), "f4"), case.semifield
    )
    wanted = np.full((1, 1, 38), np.float32(case.semifield.zero))
    assert_matches(out, wanted, dtype="float32", library=cases.library_of(backend))


@pytest.mark.parametrize("name", cases.SEMIFIELDS)
def test_windows_outside_and_windows_of_zeros_give_the_zero(any_backend, name):
    """And nothing beside them: the neighbours' terms stay their own."""
    case = cases.SEMIFIELDS[name]
    zero = np.float32(case.semifield.zero)
    img = np.array([[[zero] * 6 + [2.0]]], "f4")
    out = cases.run(any_backend, img, np.ones((1, 1, 3), "f4"), case.semifield, padding=5)
    got = np.asarray(out.get() if hasattr(out, "get") else out)
    if name != "signed_max_times":  # -inf * 1 is the zero, but so would be inf * -1
        assert (got[0, 0, :9] == zero).all()
    assert (got[0, 0, :3] == zero).all()
    assert (got[0, 0, 12:] == zero).all()
    assert (got[0, 0, 9:12] != zero).all()


# ---- which term wins ---------------------------------------------------------------------------


def winners(backend, img, krn, semifield, **arguments):
    """Winning taps, -1 where nothing was selected."""
    out, residual = cases.run_with_residual(
        backend, img, krn, semifield, str(img.dtype), **arguments
    )
    nobody = np.iinfo(residual.dtype).max
    return out, np.where(residual == nobody, -1, residual.astype(np.int64))


@pytest.mark.table(10)
@pytest.mark.parametrize("geometry", ["same", "everything", "windows wholly outside", "long rows"])
@pytest.mark.parametrize(
    "name", ["tropical_max", "tropical_min_negated", "max_times", "largest_magnitude"]
)
def test_ties_go_to_the_first_tap(backend, name, geometry):
    """Numbers of three values: nearly every window has ties, across taps and channels."""
    case, geometry = cases.SEMIFIELDS[name], cases.GEOMETRIES[geometry]
    low = 0 if case.domain == cases.MAGNITUDES else -1
    rng = np.random.default_rng(7)
    img = rng.integers(low, 2, geometry.img).astype("f4")
    krn = rng.integers(low, 2, geometry.krn).astype("f4")
    expected = oracle.convolve(img, krn, case.algebra, **geometry.arguments)
    out, winner = winners(backend, img, krn, case.semifield, **geometry.arguments)
    assert_matches(out, expected, dtype="float32")
    assert_matches(winner, expected.winner, dtype="int64")


@pytest.mark.parametrize("name", ["tropical_max", "largest_magnitude"])
def test_nan_never_wins(backend, name):
    case = cases.SEMIFIELDS[name]
    img, krn = row(*cases.SPECIAL).astype("f4"), row(np.nan, 1.0, 2.0).astype("f4")
    expected = oracle.convolve(img, krn, case.algebra, padding=3)
    _, winner = winners(backend, img, krn, case.semifield, padding=3)
    assert_matches(winner, expected.winner, dtype="int64")


@pytest.mark.table(4)
@pytest.mark.parametrize(
    ("size", "dtype"), [((2, 127), "uint8"), ((5, 51), "uint16"), ((257, 256), "uint32")]
)
def test_provenance_is_as_small_as_the_window_allows(backend, size, dtype):
    """254 taps fit into a byte beside "nobody", 255 do not."""
    if backend == "reference" and dtype == "uint32":
        pytest.skip("65792 array operations take long, and are no other than 255 of them")
    img = cases.numbers((1, 1, size[0], size[1] + 2), "f4", seed=1)
    krn = np.zeros((2, 1, *size), "f4")
    krn[1, 0, -1, -1] = 1000  # the last tap wins
    expected = oracle.convolve(img, krn, oracle.TROPICAL_MAX, kind="corr")
    _, residual = cases.run_with_residual(backend, img, krn, TROPICAL_MAX, "float32", kind="corr")
    assert residual.dtype == dtype
    assert expected.winner.max() == math.prod(size) - 1
    assert_matches(residual.astype("int64"), expected.winner, dtype="int64")


@pytest.mark.parametrize("backend", ["host", "reference"])
@pytest.mark.parametrize(
    ("name", "kind"), [("tropical_max", "corr"), ("tropical_max", "conv"), ("tropical_min", "corr")]
)
def test_of_two_zeros_the_first_wins(backend, name, kind):
    """Bit by bit. (A GPU's maximum gives +0: its instruction ranks the two.)"""
    img = row(-0.0, 0.0, -0.0, -0.0, 0.0, 0.0).astype("f4")
    krn = row(-0.0, -0.0).astype("f4")
    case = cases.SEMIFIELDS[name]
    expected = oracle.convolve(img, krn, case.algebra, kind=kind, padding=1)
    out = cases.run(backend, img, krn, case.semifield, kind=kind, padding=1)
    assert_matches(out, expected, dtype="float32", signed_zeros=True)


# ---- what the derivative is given --------------------------------------------------------------


def test_shared_extrema_are_counted(backend):
    geometry = cases.GEOMETRIES["everything"]
    rng = np.random.default_rng(3)
    img, krn = (rng.integers(-1, 2, shape).astype("f4") for shape in (geometry.img, geometry.krn))
    images, kernels, inside = oracle.windows(img, krn, **geometry.arguments)
    terms = np.where(inside, images + kernels, MINUS_INFINITY)
    best = terms.max(-1)
    count = np.where(best > MINUS_INFINITY, (terms == best[..., None]).sum(-1), 0)
    semifield = SelectSemifield.tropical_max(spread_gradient=True)
    out, residual = cases.run_with_residual(
        backend, img, krn, semifield, "float32", **geometry.arguments
    )
    assert_matches(out, best, dtype="float32")
    assert_matches(residual, np.stack([best, count]), dtype="float32")


def test_taps_that_never_win_keep_their_number_where_gradients_are_shared(backend):
    geometry = cases.GEOMETRIES["same"]
    rng = np.random.default_rng(5)
    img, krn, grad_out = (
        rng.normal(size=shape) for shape in (geometry.img, geometry.krn, geometry.plan().out_shape)
    )
    krn[:, :, 0, :2] = krn[0, 1, 2, 1] = MINUS_INFINITY
    gradients = [
        cases.gradients(backend, img, krn, grad_out, semifield, **geometry.arguments)
        for semifield in (
            SelectSemifield.tropical_max(spread_gradient=True),
            SelectSemifield.tropical_max(),  # the same, as no two terms are equal
        )
    ]
    assert not gradients[0][1][:, :, 0, :2].any()
    for shared, undivided in zip(*gradients, strict=True):
        np.testing.assert_allclose(shared, undivided, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["everything", "several tiles"])
def test_channels_are_added_after_their_own_selections(backend, name):
    geometry = cases.GEOMETRIES[name]
    img, krn = cases.arrays_of(cases.SEMIFIELDS["tropical_max"], geometry, "float32")
    images, kernels, inside = oracle.windows(img, krn, **geometry.arguments)
    terms = np.where(inside, images + kernels, MINUS_INFINITY)
    each = terms.reshape(*terms.shape[:-1], krn.shape[1], -1)
    best, first = each.max(-1), each.argmax(-1)
    channel = np.arange(krn.shape[1]) * each.shape[-1]
    wanted = np.where(best > MINUS_INFINITY, first + channel, -1)
    semifield = SelectSemifield.tropical_max(channels_add=True)
    out, winner = winners(backend, img, krn, semifield, **geometry.arguments)
    total = sum(best[..., channel] for channel in range(krn.shape[1]))  # float32's own sum
    assert_matches(out, total, dtype="float32")
    assert_matches(winner, np.moveaxis(wanted, -1, 2), dtype="int64")


@pytest.mark.parametrize("level", [1.0, 1e6, 1e8])
@pytest.mark.parametrize("name", ["log(2)", "root(3)"])
def test_weights_of_a_window_sum_to_one(backend, name, level):
    """From the window's own scale and sum, not from a rounded result: at any magnitude."""
    case = cases.SEMIFIELDS[name]
    steps = np.array([0, 1, 0.5, 2, 2, 0.25, 1.5, 3, 0])
    spacing = np.spacing(np.float32(level)) if name == "log(2)" else level
    img = row(*(level + steps * spacing)).astype("f4")
    krn = row(0.0, 0.0, 0.0) if name == "log(2)" else row(1.0, 1.0, 1.0)
    out, (scale, total) = cases.run_with_residual(
        backend, img, krn.astype("f4"), case.semifield, "float32", padding=1
    )
    images, _, inside = oracle.windows(img.astype("f8"), krn, padding=1)
    if name == "log(2)":
        powers, result = np.exp(2 * (images - scale[..., None])), scale + np.log(total) / 2
    else:
        powers, result = (images / scale[..., None]) ** 3, scale * total ** (1 / 3)
    weights = np.where(inside, powers, 0).sum(-1) / total
    assert abs(weights - 1).max() < ULPS * 2.0**-23
    assert distance(out, oracle.Expected(result, np.maximum(abs(result), 0.5)), "f4").max() <= ULPS


def test_windows_of_zeros_have_no_weight(backend):
    """log and root: the sum that weights are divided by is 0, and marks them."""
    for name, zero in (("log(2)", -np.inf), ("root(3)", 0.0)):
        case = cases.SEMIFIELDS[name]
        img = np.full((1, 1, 5), zero, "f4")
        _, (scale, total) = cases.run_with_residual(
            backend, img, np.ones((1, 1, 3), "f4"), case.semifield, "float32", padding=4
        )
        assert np.isfinite(scale).all()
        assert (total == 0).all()


# ---- slopes beside infinities and zeros --------------------------------------------------------


def own(add, **functions):
    return SubtractSemifield(add, lambda a, b: a * b, zero=0.0, **functions)


# Roots of the user's own, whose addition has no finite slope at 0.
OWN_ROOT = own(
    lambda a, b: (a**0.5 + b**0.5) ** 2,
    subtract=lambda res, val: (res**0.5 - val**0.5) ** 2,
    d_add_d_right=lambda acc, val: (acc**0.5 + val**0.5) / val**0.5,
)
EUCLID = own(lambda a, b: (a**2 + b**2) ** 0.5)


def power_sum(p):
    """A root as docs/extending.md proposes it: terms that are powers, and the root of their sum."""
    return SubtractSemifield(
        add=lambda a, b: a + b,
        times=lambda a, b: (a * b) ** p,
        zero=0.0,
        post_sum=lambda acc: acc ** (1 / p),
        undo_post_sum=lambda res: res**p,
    )


EDGES = {
    # semifield, which it is, its parameter
    "log(2)": (SubtractSemifield.log(2.0), "log", 2.0),
    "log(-1.5)": (SubtractSemifield.log(-1.5), "log", -1.5),
    "root(3)": (SubtractSemifield.root(3.0), "root", 3.0),
    "root(-2)": (SubtractSemifield.root(-2.0), "root", -2.0),
    "root(0.5)": (SubtractSemifield.root(0.5), "root", 0.5),
    "own root(0.5)": (OWN_ROOT, "root", 0.5),
    "own root(2)": (EUCLID, "root", 2.0),
    "power sum(0.5)": (power_sum(0.5), "root", 0.5),
    "power sum(2)": (power_sum(2.0), "root", 2.0),
    "power sum(-2)": (power_sum(-2.0), "root", -2.0),
}
INF = math.inf
WINDOWS = {
    "log(2)": [
        ([INF, 1, 3], [0, 0, 0]), ([1, INF, INF], [0, 1, 2]), ([INF, INF, INF], [0, 0, 1]),
        ([1, 2, 3], [0, INF, 1]), ([INF, -INF, 1], [0, 0, 0]), ([-INF, 2, 1], [0, 0, -INF]),
        ([-INF, -INF, -INF], [0, 1, 0]), ([INF, 1.79e308, -1e308], [0, 0, 0]),
        ([1, 2, 3], [1, 0, 2]),
    ],
    "root(3)": [
        ([INF, 1, 3], [1, 1, 1]), ([0, INF, 2], [1, 2, 0]), ([0, 0, 0], [1, 1, 0]),
        ([0, 1, 2], [1, 0, 1]), ([1, 2, 3], [0, INF, 1]),
    ],
    "root(-2)": [
        ([INF, 1, 2], [1, 1, 1]), ([INF, INF, INF], [1, 2, 1]), ([1, 2, 3], [1, INF, 1]),
        ([0, 1, 2], [1, 1, 1]), ([1, 2, 3], [0, 1, 2]), ([0, INF, 2], [1, 1, 1]),
    ],
    "root(0.5)": [
        ([0, 1, 2], [1, 1, 1]), ([1, 1, 2], [0, 1, 1]), ([0, 1, 0], [1, 1, 0]),
        ([0, 0, 0], [1, 1, 1]), ([0, 0, 1], [0, 0, 0]), ([INF, 1, 2], [1, 1, 1]),
    ],
}  # fmt: skip
WINDOWS["log(-1.5)"] = [([-a for a in img], [-w for w in krn]) for img, krn in WINDOWS["log(2)"]]
WINDOWS["own root(0.5)"] = WINDOWS["root(0.5)"][:5]  # of infinities its formula has inf - inf
WINDOWS["power sum(0.5)"] = WINDOWS["root(0.5)"][:5]
WINDOWS["own root(2)"] = [([0, 0, 0], [1, 1, 1]), ([0, 3, 4], [1, 1, 1]), ([0, 3, 4], [0, 1, 0])]
WINDOWS["power sum(2)"] = WINDOWS["own root(2)"]
WINDOWS["power sum(-2)"] = WINDOWS["root(-2)"][:3]


def slopes_by_limit(kind, parameter, img, krn):
    """The derivatives of a window by image and kernel: their limits as infinities are approached.

    All infinities are approached at the same pace, and so are the zeros of a root, but for those of
    a window of nothing but the zero: its slopes are 0.
    """
    far = mpmath.mpf(10) ** 400
    nothing = {"log": -INF if parameter > 0 else INF, "root": 0 if parameter > 0 else INF}[kind]

    def number(a):
        if math.isinf(a):
            return math.copysign(1, a) * far if kind == "log" or a > 0 else a
        return mpmath.mpf(a) if kind == "log" or a else 1 / far

    terms = [a + w if kind == "log" else a * w for a, w in zip(img, krn, strict=True)]
    if all(term == nothing for term in terms):
        return [0.0] * len(img), [0.0] * len(img)
    img_, krn_ = [number(a) for a in img], [number(w) for w in krn]
    if kind == "log":
        exact = [a + w for a, w in zip(img_, krn_, strict=True)]
        extreme = max(parameter * v for v in exact)
        powers = [mpmath.exp(parameter * v - extreme) for v in exact]
        weights = [power / sum(powers) for power in powers]
        by_img, by_krn = weights, weights
    else:
        exact = [a * w for a, w in zip(img_, krn_, strict=True)]
        out = sum(v**parameter for v in exact) ** (1 / mpmath.mpf(parameter))
        weights = [(v / out) ** (mpmath.mpf(parameter) - 1) for v in exact]
        # What a factor of exactly 0 multiplies is 0.
        by_img = [s * w if w0 else 0 for s, w, w0 in zip(weights, krn_, krn, strict=True)]
        by_krn = [s * a if a0 else 0 for s, a, a0 in zip(weights, img_, img, strict=True)]

    def seen(value):
        return INF if value > 1e60 else 0.0 if value < 1e-60 else float(value)

    return [seen(v) for v in by_img], [seen(v) for v in by_krn]


def assert_slopes(backend, name, dtype, tolerance):
    semifield, kind, parameter = EDGES[name]
    windows = WINDOWS[name]
    if dtype != "float64":
        windows = [w for w in windows if 1.79e308 not in map(abs, w[0])]
    img, krn = (np.array(side, dtype) for side in zip(*windows, strict=True))
    slopes = np.full((1, len(windows), 1), 2, dtype)
    got = cases.gradients(
        backend, img[None], krn[:, None], slopes, semifield, groups=len(windows), kind="corr"
    )
    for n, window in enumerate(windows):
        wanted = slopes_by_limit(kind, parameter, *window)
        for one, exact in zip((got[0][0, n], got[1][n, 0]), wanted, strict=True):
            np.testing.assert_allclose(
                one, 2 * np.array(exact), rtol=tolerance, err_msg=str(window)
            )


@pytest.mark.table(5)
@pytest.mark.parametrize("name", EDGES)
def test_slopes_beside_infinities_and_zeros(any_backend, name):
    """Windows beside each other, each with a kernel of its own."""
    assert_slopes(any_backend, name, "float64", 1e-12)


@pytest.mark.parametrize("name", ["log(2)", "root(0.5)"])
def test_slopes_beside_infinities_by_tiles(name):
    """CUDA's tiled kernels."""
    assert_slopes(cases.TILED, name, "float64", 1e-12)


@pytest.mark.parametrize("level", [5.0, -INF, 3e38])
def test_infinities_that_come_in_other_channels(any_backend, level):
    """Sums that were begun without them, or have numbers beside them that are as large."""
    img = np.full((1, 3, 20, 20), level, "f4")
    img[0, 1, 10, 10] = img[0, 2, 10, 11] = INF
    krn = np.zeros((1, 3, 3, 3), "f4")
    grad_img, grad_krn = cases.gradients(
        any_backend, img, krn, np.ones((1, 1, 18, 18), "f4"), EDGES["log(2)"][0]
    )
    # Of the windows six see both, and three one of them alone; others share theirs in 27 parts.
    assert_allclose = np.testing.assert_allclose
    assert_allclose([grad_img[0, 1, 10, 10], grad_img[0, 2, 10, 11]], 6, rtol=1e-6)
    assert (grad_img[0, 0, 10, 10:12] == 0).all()
    others = 0 if math.isinf(level) else 18 * 18 - 12
    assert_allclose([grad_img.sum(), grad_krn.sum()], 12 + others, rtol=1e-5)
    assert_allclose(grad_img[0, :, 3:7, 3:7], 1 / 3 if others else 0, rtol=1e-5)


@pytest.mark.table(4)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_slopes_beside_infinities_in_other_dtypes(any_backend, dtype):
    assert_slopes(any_backend, "log(2)", dtype, 2e-3 if dtype == "float16" else 1e-6)


@pytest.mark.table(3)
@pytest.mark.parametrize("name", ["log(2)", "root(3)", "root(-2)"])
def test_slopes_beside_nan_are_nan(any_backend, name):
    """In the windows that see it, as the value."""
    img, krn = np.array([[[1.0, np.nan, 2.0, 3.0, 4.0]]]), np.ones((1, 1, 2))
    grad_img, grad_krn = cases.gradients(
        any_backend, img, krn, np.ones((1, 1, 4)), EDGES[name][0], kind="corr"
    )
    assert np.isnan(grad_img[0, 0]).tolist() == [True, True, True, False, False]
    assert np.isnan(grad_krn).all()


@pytest.mark.table(2)
@pytest.mark.parametrize("spread", [False, True])
def test_an_infinite_pixel_under_a_slope_of_0(backend, spread):
    """A selection of products: the winner's own derivative is infinite, and takes no part."""
    semifield = SelectSemifield(
        lambda left, right: right > left, lambda a, b: a * b, zero=0.0, spread_gradient=spread
    )
    img, krn = np.array([[[np.inf, 1.0, 2.0]]]), np.array([[[1.0, 0.5]]])
    grad_img, grad_krn = cases.gradients(
        backend, img, krn, np.array([[[0.0, 1.0]]]), semifield, kind="corr"
    )
    assert grad_img.tolist() == [[[0, 1 if not spread else 0.5, 0 if not spread else 0.25]]]
    assert grad_krn.tolist() == [[[1 if not spread else 0.5, 0 if not spread else 1]]]
