"""Powers and closures of matrices: repeated products, SciPy's shortest paths, plain search."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components, shortest_path

import semiconv_cupy as sc

SHORTEST = "tropical_min"


def roads(n, density, seed):
    """Lengths of edges, inf where there is none, 0 from a node to itself."""
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random((n, n)) < density, rng.random((n, n)), np.inf)
    np.fill_diagonal(lengths, 0)
    return lengths


# ---- powers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(9))
@pytest.mark.parametrize("shape", [(3, 3), (2, 1, 4, 4), (0, 0), (1, 1), (0, 2, 2)])
def test_ordinary_powers_are_those_of_numpy(n, shape):
    a = np.random.default_rng(0).normal(size=shape)
    for semifield in ("linear", sc.BroadcastSemifield.linear()):
        got = sc.semifield_matrix_power(a, n, semifield)
        np.testing.assert_allclose(got, np.linalg.matrix_power(a, n), rtol=1e-12, atol=1e-12)
        assert got is not a
        assert not np.shares_memory(got, a)


@pytest.mark.parametrize(
    "semifield",
    ["tropical_max", "max_times", "boolean", sc.SubtractSemifield.log(2.0),
     sc.SubtractSemifield.root(3.0)],
    ids=repr,
)  # fmt: skip
def test_powers_are_repeated_products(semifield):
    a = np.random.default_rng(0).random((5, 5))
    product = sc.semifield_matrix_power(a, 0, semifield)
    for n in range(7):
        power = sc.semifield_matrix_power(a, n, semifield)
        np.testing.assert_allclose(power, product, rtol=1e-12)
        product = sc.semifield_matmul(product, a, semifield)


def test_parameters_of_powers_are_those_of_products():
    """Numbers, of log and of semifields of one's own; (a + b - s) ⊗ has the one s."""
    a = np.random.default_rng(0).random((4, 4))
    shifted = sc.SelectSemifield(
        lambda left, right: right > left,
        lambda img, krn, s: img + krn - s,
        zero=-np.inf,
        parameters={"s": 0.0},
    )
    for semifield, own in (("log", {"mu": -2.0}), (shifted, {"s": 2.0}), (shifted, {})):
        product = a
        for n in range(1, 4):
            power = sc.semifield_matrix_power(a, n, semifield, **own)
            np.testing.assert_allclose(power, product, rtol=1e-12)
            product = sc.semifield_matmul(product, a, semifield, **own)
    one = sc.semifield_matrix_power(a, 0, shifted, s=2.0)
    np.testing.assert_array_equal(one, np.where(np.eye(4), 2.0, -np.inf))
    best = sc.semifield_closure(a, shifted, s=2.0)
    np.testing.assert_allclose(best, sc.semifield_closure(a - 2, "tropical_max") + 2, rtol=1e-12)


@pytest.mark.table(6)
@pytest.mark.parametrize(
    ("semifield", "dtype", "one", "zero"),
    [
        ("tropical_max", "float32", 0, -np.inf),
        ("tropical_max", "int8", 0, -128),
        ("tropical_min", "uint16", 0, 65535),
        ("max_times", "float64", 1, 0),
        ("boolean", "bool", True, False),
        ("tropical_max", "bool", True, False),
        ("tropical_min", "bool", False, True),
        ("boolean", "float32", np.inf, 0),
        ("boolean", "uint8", 255, 0),
        (sc.SubtractSemifield.log(-1.0), "float32", 0, np.inf),
        (sc.SubtractSemifield.root(2.0), "float16", 1, 0),
    ],
)
def test_the_power_zero_is_neutral(semifield, dtype, one, zero):
    a = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype)
    identity = sc.semifield_matrix_power(a, 0, semifield)
    assert identity.dtype == dtype
    assert identity.tolist() == [[one if i == j else zero for j in range(3)] for i in range(3)]
    for product in ((identity, a), (a, identity)):
        np.testing.assert_array_equal(sc.semifield_matmul(*product, semifield), a)


def paths_of_edges(a, b, zero, best):
    """The product of integers, of edges alone, in exact numbers, saturated."""
    limits = np.iinfo(a.dtype)
    out = np.full_like(a, zero)
    for i, j in np.ndindex(a.shape):
        both = [k for k in range(len(a)) if a[i, k] != zero and b[k, j] != zero]
        if both:
            length = best(int(a[i, k]) + int(b[k, j]) for k in both)
            out[i, j] = min(max(length, limits.min), limits.max)
    return out


@pytest.mark.table(6)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("size", [20, 2**60])
@pytest.mark.parametrize(("name", "best"), [("tropical_min", min), ("tropical_max", max)])
def test_integers_find_no_walk_where_no_edge_is(name, best, size, dtype):
    rng, limits = np.random.default_rng(4), np.iinfo(dtype)
    zero = limits.max if name == "tropical_min" else limits.min
    low, high = max(-size, limits.min), min(size, limits.max)
    edges = rng.integers(low, high, (9, 9), dtype, endpoint=True)
    a = np.where(rng.random((9, 9)) < 0.2, edges, np.dtype(dtype).type(zero))
    shared = sc.SelectSemifield.tropical_min if best is min else sc.SelectSemifield.tropical_max
    square = paths_of_edges(a, a, zero, best)
    cube = paths_of_edges(square, a, zero, best)
    others = [shared(channels_add=True), shared(spread_gradient=True)]
    for semifield in (name, *(others if dtype == "int32" else [])):
        for n, wanted in ((1, a), (2, square)):
            found = sc.semifield_matrix_power(a, n, semifield)
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, wanted)
    if size == 20:  # the cube of numbers at the limits depends on the order of the products
        np.testing.assert_array_equal(sc.semifield_matrix_power(a, 3, name), cube)


def test_a_selection_never_takes_nan_into_a_power():
    a = np.array([[np.nan, 1], [2, np.nan]])
    assert sc.semifield_matrix_power(a, 1, SHORTEST).tolist() == [[np.inf, 1], [2, np.inf]]
    assert sc.semifield_matrix_power(a, 2, SHORTEST).tolist() == [[3, np.inf], [np.inf, 3]]
    assert np.isnan(sc.semifield_matrix_power(a, 1, "linear")).sum() == 2


@pytest.mark.parametrize(
    ("a", "n", "semifield", "error", "message"),
    [
        (np.ones(3), 2, "linear", np.linalg.LinAlgError, "two axes or more"),
        (np.ones((3, 2)), 2, "linear", np.linalg.LinAlgError, "must be equal"),
        (np.ones((3, 3)), 2.0, "linear", TypeError, "n must be an integer, got 2.0"),
        (np.ones((3, 3)), -1, "linear", ValueError, "n must be at least 0"),
        ([[1]], 2, "linear", TypeError, "a must be a NumPy or CuPy array"),
        (np.ones((3, 3)), 2, 5, TypeError, "semifield must be"),
        (
            np.ones((3, 3)),
            2,
            "tropical_min_negated",
            ValueError,
            "associative .* tropical_min",
        ),
        (np.ones((3, 3), "i4"), 0, "linear", TypeError, "floating arrays only"),
        (np.ones((3, 3), "i4"), 1, "linear", TypeError, "floating arrays only"),
    ],
)
def test_errors_of_powers(a, n, semifield, error, message):
    with pytest.raises(error, match=message):
        sc.semifield_matrix_power(a, n, semifield)


@pytest.mark.parametrize(
    ("own", "error", "message"),
    [
        ({}, TypeError, "pass 'log' with mu="),
        ({"mu": np.ones(3)}, TypeError, "mu must be a number in semifield_matrix_power"),
        ({"mu": 0.0}, ValueError, "mu must be finite and not 0"),
        ({"q": 1.0}, TypeError, "needs its parameter"),
        ({"mu": 1.0, "q": 1.0}, TypeError, "unexpected argument 'q'"),
    ],
)
def test_errors_of_parameters(own, error, message):
    with pytest.raises(error, match=message):
        sc.semifield_matrix_power(np.ones((3, 3)), 2, "log", **own)


def test_a_multiplication_without_one():
    half = sc.SelectSemifield(lambda a, b: b > a, lambda img, krn: img * krn * 0, zero=-np.inf)
    a = np.ones((2, 2))
    assert sc.semifield_matrix_power(a, 2, half).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="has no one"):
        sc.semifield_matrix_power(a, 0, half)


# ---- closures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9, 33])
@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_shortest_paths_are_those_of_scipy(n, density):
    lengths = roads(n, density, seed=n)
    found, before = sc.semifield_closure(lengths, SHORTEST, return_indices=True)
    expected, predecessors = shortest_path(lengths, return_predecessors=True)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(before, np.maximum(predecessors, -1))
    np.testing.assert_array_equal(sc.semifield_closure(lengths, SHORTEST), found)


def follow(before, i, j):
    """The nodes of the path from i to j; fails where the indices run in a circle."""
    path = [j]
    while path[-1] != i:
        path.append(int(before[i, path[-1]]))
        assert len(path) <= len(before)
    return path[::-1]


@given(st.integers(1, 12), st.integers(0, 10**6), st.sampled_from(["int16", "float64"]))
def test_paths_lead_where_they_should_among_equal_ones(n, seed, dtype):
    """Lengths of 0 to 2: many equal paths, and cycles that cost nothing."""
    rng = np.random.default_rng(seed)
    none = np.inf if dtype == "float64" else np.iinfo(dtype).max
    lengths = np.where(rng.random((n, n)) < 0.4, rng.integers(0, 3, (n, n)), none).astype(dtype)
    found, before = sc.semifield_closure(lengths, SHORTEST, return_indices=True)
    for i, j in np.ndindex(n, n):
        if i == j or found[i, j] == none:
            assert before[i, j] == -1
            continue
        path = follow(before, i, j)
        assert sum(int(lengths[step]) for step in itertools.pairwise(path)) == found[i, j]


@pytest.mark.parametrize(
    ("dtype", "scale"), [("int8", 1), ("int32", 1), ("int64", 1), ("int64", 2**55)]
)
@pytest.mark.parametrize("name", ["tropical_min", "tropical_max"])
def test_paths_of_integers_are_those_of_floats(name, scale, dtype):
    """Negative edges of a graph without cycles: no node leads to an earlier one."""
    rng, limits = np.random.default_rng(2), np.iinfo(dtype)
    none, infinity = (limits.max, np.inf) if name == "tropical_min" else (limits.min, -np.inf)
    there = np.triu(rng.random((12, 12)) < 0.4, 1)
    edges = rng.integers(-5, 6, (12, 12)) * scale
    floats = np.where(there, edges, infinity)
    integers = np.where(there, edges, none).astype(dtype)
    wanted, predecessors = sc.semifield_closure(floats, name, return_indices=True)
    found, before = sc.semifield_closure(integers, name, return_indices=True)
    assert found.dtype == dtype
    reached = np.isfinite(wanted)
    np.testing.assert_array_equal(found[reached], wanted[reached].astype(dtype))
    assert (found[~reached] == none).all()
    np.testing.assert_array_equal(before, predecessors)
    np.testing.assert_array_equal(sc.semifield_closure(integers, name), found)
    batch = sc.semifield_closure(np.stack([integers, integers]), name)
    np.testing.assert_array_equal(batch, [found, found])


def test_no_path_of_the_greatest_integers():
    none = np.iinfo("i4").max
    lengths = np.array([[0, none, none], [-5, 0, none], [none, -5, 0]], "i4")
    found, before = sc.semifield_closure(lengths, SHORTEST, return_indices=True)
    assert found.tolist() == [[0, none, none], [-5, 0, none], [-10, -5, 0]]
    assert before.tolist() == [[-1, -1, -1], [1, -1, -1], [1, 2, -1]]


def test_longest_paths_of_unsigned_integers():
    """Zero and one are the same number: 0, no edge."""
    steps = np.array([[0, 5, 6], [0, 0, 3], [0, 0, 0]], np.uint8)
    found, before = sc.semifield_closure(steps, "tropical_max", return_indices=True)
    assert found.tolist() == [[0, 5, 8], [0, 0, 3], [0, 0, 0]]
    assert before.tolist() == [[-1, 0, 1], [-1, -1, 1], [-1, -1, -1]]


def test_nan_is_no_edge():
    nan, none = np.nan, np.inf
    lengths = np.array([[nan, 1, nan], [none, 0, 2], [none, nan, 0]])
    found, before = sc.semifield_closure(lengths, SHORTEST, return_indices=True)
    assert found.tolist() == [[0, 1, 3], [none, 0, 2], [none, none, 0]]
    assert before.tolist() == [[-1, 0, 1], [-1, -1, 1], [-1, -1, -1]]
    assert sc.semifield_closure(np.full((1, 1), nan), SHORTEST).tolist() == [[0]]


def test_negative_edges_without_a_negative_cycle():
    lengths = np.array([[np.inf, 3, np.inf], [np.inf, np.inf, -2], [0, np.inf, np.inf]])
    found, before = sc.semifield_closure(lengths, SHORTEST, return_indices=True)
    assert found.tolist() == [[0, 3, 1], [-2, 0, -2], [0, 3, 0]]
    assert before.tolist() == [[-1, 0, 1], [2, -1, 1], [2, 0, -1]]


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7])
def test_a_negative_cycle_is_refused(n):
    lengths = np.full((n, n), np.inf)
    lengths[np.arange(n), (np.arange(n) + 1) % n] = 1
    lengths[0, 1 % n] = 0.5 - n
    with pytest.raises(ValueError, match=r"a has a cycle that is better.*node 0 to itself gives -"):
        sc.semifield_closure(np.stack([np.zeros((n, n)), lengths]), SHORTEST)


def test_likeliest_and_widest_paths_and_reachability():
    rng = np.random.default_rng(3)
    weights = np.where(rng.random((12, 12)) < 0.15, rng.random((12, 12)), 0)
    reachable = sc.semifield_closure(weights > 0, "boolean")
    _, labels = connected_components(weights > 0, connection="strong")
    assert ((reachable & reachable.T) == (labels[:, None] == labels)).all()
    likely = sc.semifield_closure(weights, "max_times")
    lengths = sc.semifield_closure(-np.log(np.where(weights > 0, weights, 1e-300)), SHORTEST)
    np.testing.assert_allclose(likely, np.where(reachable, np.exp(-lengths), 0), atol=1e-12)
    widest = np.where(np.eye(12, dtype=bool), np.inf, weights)
    for k in range(12):  # Floyd and Warshall
        widest = np.maximum(widest, np.minimum(widest[:, k, None], widest[k]))
    np.testing.assert_array_equal(sc.semifield_closure(weights, "boolean"), widest)


def test_batches():
    lengths = np.stack([roads(6, 0.4, seed) for seed in range(4)]).reshape(2, 2, 6, 6)
    found, before = sc.semifield_closure(lengths, SHORTEST, return_indices=True)
    for index in np.ndindex(2, 2):
        alone = sc.semifield_closure(lengths[index], SHORTEST, return_indices=True)
        np.testing.assert_array_equal(found[index], alone[0])
        np.testing.assert_array_equal(before[index], alone[1])
    assert sc.semifield_closure(lengths[:0], SHORTEST).shape == (0, 2, 6, 6)


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8", "int32"])
def test_dtypes_of_closures(dtype):
    lengths = (10 * roads(7, 0.5, 1)).round()
    none = np.iinfo(dtype).max if dtype == "int32" else np.inf
    a = np.where(np.isinf(lengths), none, lengths).astype(dtype)
    found = sc.semifield_closure(a, SHORTEST)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    exact = sc.semifield_closure(lengths, SHORTEST)
    np.testing.assert_array_equal(found, np.where(np.isinf(exact), none, exact))


@pytest.mark.parametrize(
    ("semifield", "message"),
    [
        ("linear", "needs a SelectSemifield"),
        (sc.BroadcastSemifield.tropical_max(), "needs a SelectSemifield"),
        (sc.SelectSemifield.tropical_max(channels_add=True), "without channels_add"),
        ("tropical_min_negated", "associative"),
    ],
)
def test_semifields_without_closures(semifield, message):
    with pytest.raises(ValueError, match=message):
        sc.semifield_closure(np.ones((2, 2)), semifield)


def test_no_matrix():
    with pytest.raises(np.linalg.LinAlgError):
        sc.semifield_closure(np.ones((2, 3)), SHORTEST)
