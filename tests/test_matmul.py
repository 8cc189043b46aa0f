"""Matrix products of arrays: shapes and errors as `numpy.matmul`'s, values as the oracle's.

The schedules have their own tests (`test_product.py`); here is the public call.
"""

import itertools
import tracemalloc

import cases
import numpy as np
import oracle
import pytest
from cases import SEMIFIELDS
from compare import assert_matches
from hypothesis import given
from hypothesis import strategies as st
from test_return_indices import BITWISE, SELECTIONS

import semiconv_cupy as sc

MATRICES = {
    "matrices": ((5, 7), (7, 4)),
    "row by matrix": ((7,), (7, 4)),
    "matrix by column": ((5, 7), (7,)),
    "two vectors": ((7,), (7,)),
    "batches": ((3, 5, 7), (3, 7, 4)),
    "one matrix for a batch": ((3, 5, 7), (7, 4)),
    "a batch for one matrix": ((5, 7), (3, 7, 4)),
    "broadcast batches": ((2, 1, 5, 7), (3, 7, 4)),
    "vector by batch": ((7,), (2, 3, 7, 4)),
    "batch by vector": ((2, 3, 5, 7), (7,)),
    "one term": ((5, 1), (1, 4)),
    "many terms": ((3, 300), (300, 2)),
    "no term": ((5, 0), (0, 4)),
    "no row": ((0, 7), (7, 4)),
    "no matrix": ((0, 5, 7), (7, 4)),
    "vectors of no term": ((0,), (0,)),
}


def expected_of(a, b, algebra):
    """The oracle's result: terms gathered as (..., M, N, K), without the axes that vectors lack."""
    rows = a[..., None, :] if a.ndim > 1 else a[None, None, :]
    columns = np.swapaxes(b, -1, -2)[..., None, :, :] if b.ndim > 1 else b[None, None, :]
    rows, columns = np.broadcast_arrays(rows, columns)
    found = algebra.reduce(rows, columns, np.ones(rows.shape, bool))
    lacking = tuple(axis for axis, array in ((-2, a), (-1, b)) if array.ndim == 1)

    def squeezed(array):
        return None if array is None else array.squeeze(lacking)

    return oracle.Expected(*map(squeezed, (found.value, found.scale, found.winner)))


def operands(name, dtype, domain):
    return [
        cases.numbers(shape, dtype, domain, seed)
        for seed, shape in enumerate(MATRICES[name], start=1)
    ]


def check(a, b, name, **arguments):
    case = SEMIFIELDS[name]
    algebra = BITWISE[name] if a.dtype == bool else case.algebra
    got = sc.semifield_matmul(a, b, case.semifield, **arguments)
    assert type(got) is type(np.matmul(a, b))
    assert_matches(np.asarray(got), expected_of(a, b, algebra), dtype=a.dtype)


@pytest.mark.table(30)
@pytest.mark.parametrize("shapes", MATRICES)
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_against_the_oracle(name, shapes):
    check(*operands(shapes, "float32", SEMIFIELDS[name].domain), name)


# Each pair is a library to compile: all dtypes of one selection, the ends of others.
EVERY_DTYPE = (
    "int8", "uint8", "int16", "uint32", "int64", "uint64", "bool", "float16", "float64",
)  # fmt: skip
OTHERS = ("tropical_min", "max_times", "boolean")


@pytest.mark.parametrize(
    ("name", "dtype"),
    cases.slow_except(
        [
            *(("tropical_max", dtype) for dtype in EVERY_DTYPE),
            *itertools.product(OTHERS, ("int8", "uint64", "bool")),
        ],
        *(("tropical_max", dtype) for dtype in ("uint8", "int64", "bool", "float64")),
    ),
)
def test_dtypes(name, dtype):
    check(*operands("broadcast batches", dtype, SEMIFIELDS[name].domain), name)
    check(*operands("many terms", dtype, SEMIFIELDS[name].domain), name, method="reference")


@pytest.mark.parametrize("shapes", MATRICES)
def test_shapes_are_those_of_numpy(shapes):
    a, b = operands(shapes, "float64", cases.REALS)
    wanted = np.matmul(a, b)
    for semifield in ("linear", sc.BroadcastSemifield.linear()):
        got = sc.semifield_matmul(a, b, semifield)
        assert type(got) is type(wanted)
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


@st.composite
def pairs(draw):
    """Two operands of any shapes that meet, with any strides."""
    m, n, k = (draw(st.integers(0, 5)) for _ in range(3))
    batch = [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 3)))]

    def leading():
        kept = batch[draw(st.integers(0, len(batch))) :]
        return [size if draw(st.booleans()) else 1 for size in kept]

    a = [*leading(), m, k] if draw(st.booleans()) else draw(st.sampled_from([[m, k], [k]]))
    b = [*leading(), k, n] if draw(st.booleans()) else draw(st.sampled_from([[k, n], [k]]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    dtype = draw(st.sampled_from(["<f4", "<f4", "<f4", ">f4"]))
    return strided(draw, rng, a, dtype), strided(draw, rng, b, dtype)


def strided(draw, rng, shape, dtype):
    """Few distinct numbers, permuted, stepped and reversed in memory, perhaps unaligned."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -2])) for _ in shape]
    stored = [shape[axis] * abs(steps[axis]) for axis in order]
    values = rng.choice([-np.inf, -1.0, 0.0, 0.5, 1.0, np.nan], stored).astype(dtype)
    if draw(st.integers(0, 4)) == 0:
        room = np.zeros(values.nbytes + 1, np.uint8)
        away = room[1:].view(values.dtype).reshape(values.shape)
        away[...] = values
        values = away
    array = values.transpose(np.argsort(order))
    return array[tuple(slice(None, None, step) for step in steps)]


@given(pair=pairs())
def test_any_shapes_and_strides(pair):
    a, b = pair
    native = [np.ascontiguousarray(x.astype("f4")).reshape(x.shape) for x in pair]
    expected = expected_of(*native, oracle.TROPICAL_MAX)
    out, indices = sc.semifield_matmul(a, b, "tropical_max", return_indices=True)
    assert_matches(np.asarray(out), expected, dtype="float32")
    assert_matches(np.asarray(indices), expected.winner, dtype=np.int64)
    again = sc.semifield_matmul(a, b, "tropical_max")
    np.testing.assert_array_equal(again, out)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "bool", "float16", "float32"])
@pytest.mark.parametrize("name", cases.slow_except(SELECTIONS[:4], "tropical_max"))
def test_winners(name, dtype):
    a, b = operands("many terms", dtype, SEMIFIELDS[name].domain)
    algebra = BITWISE[name] if dtype == "bool" else SEMIFIELDS[name].algebra
    expected = expected_of(a, b, algebra)
    out, indices = sc.semifield_matmul(a, b, SEMIFIELDS[name].semifield, return_indices=True)
    assert_matches(out, expected, dtype=dtype)
    assert_matches(indices, expected.winner, dtype=np.int64)


def test_nothing_wins_without_terms():
    out, indices = sc.semifield_matmul(
        np.ones((2, 0)), np.ones((0, 3)), "tropical_max", return_indices=True
    )
    assert (out == -np.inf).all()
    assert indices.tolist() == [[-1, -1, -1], [-1, -1, -1]]


@pytest.mark.parametrize("semifield", ["linear", sc.BroadcastSemifield.tropical_max()], ids=repr)
def test_additions_without_winners_are_refused(semifield):
    with pytest.raises(ValueError, match="return_indices=True needs"):
        sc.semifield_matmul(np.ones((2, 2)), np.ones((2, 2)), semifield, return_indices=True)


# ---- out= ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", ["matrices", "two vectors", "broadcast batches", "no term"])
def test_out_is_filled_and_returned(shapes):
    a, b = operands(shapes, "float32", cases.REALS)
    wanted = sc.semifield_matmul(a, b, "tropical_max")
    outs = [
        np.zeros(np.shape(wanted), np.float32),
        np.zeros(np.shape(wanted), np.float64),
        np.zeros((2, *np.shape(wanted)), np.float32),
        np.zeros(np.shape(wanted)[::-1], np.float32).T,
    ]
    for out in outs:
        assert sc.semifield_matmul(a, b, "tropical_max", out=out) is out
        assert np.array_equal(out, np.broadcast_to(wanted, out.shape))


def most_memory(call):
    """The greatest number of bytes that a call holds beside those before it."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("order", ["as it is", "transposed", "every other one"])
def test_an_out_of_the_result_is_written_in_place(order):
    rng = np.random.default_rng(3)
    a, b = rng.random((300, 8), np.float32), rng.random((8, 400), np.float32)
    out = {
        "as it is": np.zeros((300, 400), np.float32),
        "transposed": np.zeros((400, 300), np.float32).T,
        "every other one": np.zeros((600, 800), np.float32)[::2, ::2],
    }[order]

    def multiply():
        sc.semifield_matmul(a, b, "tropical_max", out=out)

    multiply()  # which plans and compiles
    assert most_memory(multiply) < out.nbytes / 10
    np.testing.assert_array_equal(out, sc.semifield_matmul(a, b, "tropical_max"))


@pytest.mark.parametrize("with_winners", [False, True])
@pytest.mark.parametrize("method", ["auto", "reference"])
def test_out_of_any_layout(method, with_winners):
    a, b = operands("broadcast batches", "float32", cases.REALS)
    wanted, winners = sc.semifield_matmul(a, b, "tropical_max", return_indices=True)
    unaligned = np.zeros(wanted.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(wanted.shape)
    outs = [
        np.zeros(wanted.shape, np.float32)[..., ::-1],
        np.zeros(wanted.shape[::-1], np.float32).transpose(3, 2, 1, 0),
        np.zeros((*wanted.shape, 2), np.float32)[..., 1],
        np.zeros(wanted.shape, ">f4"),
        unaligned,
        np.zeros(wanted.shape, np.float32),  # the layout of the one before, found planned
    ]
    for out in outs:
        arguments = dict(method=method, out=out, return_indices=with_winners)
        found = sc.semifield_matmul(a, b, "tropical_max", **arguments)
        np.testing.assert_array_equal(out, wanted)
        if with_winners:
            np.testing.assert_array_equal(found[1], winners)


def test_out_whose_numbers_share_a_place():
    """The last one stays, as where NumPy copies."""
    out = np.lib.stride_tricks.as_strided(np.zeros(9, np.float32), (5, 4), (4, 4))
    a, b = operands("matrices", "float32", cases.REALS)
    wanted = np.lib.stride_tricks.as_strided(np.zeros(9, np.float32), (5, 4), (4, 4))
    wanted[...] = sc.semifield_matmul(a, b, "tropical_max")
    sc.semifield_matmul(a, b, "tropical_max", out=out)
    np.testing.assert_array_equal(out, wanted)


def test_out_may_overlap_where_the_same_layout_did_not():
    """The plan is found by the layouts; whether arrays overlap is each call's own."""
    rng = np.random.default_rng(3)
    room = rng.random((12, 5), np.float32)
    for first in (7, 0, 3, 6):
        a, b, out = room[first : first + 5], rng.random((5, 5), np.float32), room[2:7]
        wanted = sc.semifield_matmul(a, b, "tropical_max")
        sc.semifield_matmul(a, b, "tropical_max", out=out)
        np.testing.assert_array_equal(out, wanted)


def test_out_as_a_tuple():
    a, b = operands("matrices", "float32", cases.REALS)
    out = np.empty((5, 4), np.float32)
    assert sc.semifield_matmul(a, b, "tropical_max", out=(out,)) is out
    assert np.array_equal(out, sc.semifield_matmul(a, b, "tropical_max"))
    with pytest.raises(TypeError, match="out must be a NumPy or CuPy array, got tuple"):
        sc.semifield_matmul(a, b, "tropical_max", out=(out, out))


@pytest.mark.parametrize("dtype", ["f4", "i4", "f2"])
def test_operands_of_both_byte_orders(dtype):
    a, b = (x.astype(dtype) for x in operands("matrices", "float32", cases.REALS))
    wanted = sc.semifield_matmul(a, b, "tropical_max")
    for pair in ((a, b.astype(">" + dtype)), (a.astype(">" + dtype), b)):
        for method in ("auto", "reference"):
            found = sc.semifield_matmul(*pair, "tropical_max", method=method)
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    if dtype == "f4":
        out, pullback = sc.semifield_matmul_vjp(a, b.astype(">f4"), "linear")
        gradients = sc.semifield_matmul_vjp(a, b, "linear")[1](out)
        for found, expected in zip(pullback(out), gradients, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_out_may_be_an_operand():
    a, _ = operands("matrices", "float32", cases.REALS)
    square = a[:, :5].copy()
    wanted = sc.semifield_matmul(square, square, "tropical_max")
    assert np.array_equal(sc.semifield_matmul(square, square, "tropical_max", out=square), wanted)


def test_out_with_indices():
    a, b = operands("matrices", "float32", cases.REALS)
    out = np.empty((5, 4), np.float32)
    values, indices = sc.semifield_matmul(a, b, "tropical_max", return_indices=True)
    found = sc.semifield_matmul(a, b, "tropical_max", out=out, return_indices=True)
    assert found[0] is out
    assert np.array_equal(out, values)
    assert np.array_equal(found[1], indices)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((5, 5), "f4"), ValueError, r"out must have shape \(5, 4\), or .*got \(5, 5\)"),
        (np.zeros(4, "f4"), ValueError, r"out must have shape \(5, 4\)"),
        (np.zeros((5, 4), int), TypeError, "float32 can be cast as 'same_kind', got int64"),
        (np.broadcast_to(np.float32(0), (5, 4)), ValueError, "out is read-only"),
        ([0], TypeError, "out must be a NumPy or CuPy array"),
    ],
)
def test_an_out_that_does_not_fit(out, error, message):
    a, b = operands("matrices", "float32", cases.REALS)
    with pytest.raises(error, match=message):
        sc.semifield_matmul(a, b, "tropical_max", out=out)
    if isinstance(out, np.ndarray):
        with pytest.raises(error):
            np.matmul(a, b, out=out)


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.float32(1), np.ones(3, "f4"), "a must have at least one axis|a must be a NumPy"),
        (np.ones(()), np.ones(3), "a must have at least one axis, got a scalar"),
        (np.ones(3), np.ones(()), "b must have at least one axis"),
        (np.ones(3), np.ones(4), r"the only axis of b must have one length, got a of shape \(3,\)"),
        (np.ones((2, 3)), np.ones((4, 3)), r"the second to last axis of b must have one length"),
        (np.ones((2, 3, 3)), np.ones((4, 3, 3)), r"must be the same or broadcast, got a of shape"),
    ],
)
def test_shapes_that_do_not_fit(a, b, message):
    with pytest.raises(ValueError):
        np.matmul(a, b)
    with pytest.raises((ValueError, TypeError), match=message):
        sc.semifield_matmul(a, b, "tropical_max")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(b=np.ones((3, 2), "f4")), TypeError, r"a and b must have one dtype.*b.astype\(a"),
        (dict(a=[[1.0]]), TypeError, "a must be a NumPy or CuPy array, got list"),
        (dict(semifield="max_plus"), ValueError, "did you mean 'tropical_max'"),
        (dict(semifield=7), TypeError, "semifield must be"),
        (dict(method="fast"), ValueError, "method must be one of"),
        (dict(method="tiled"), ValueError, "method='tiled' is for CuPy arrays; NumPy arrays take"),
        (dict(method="tiled", return_indices=True), ValueError, "method='tiled' is for CuPy"),
        (dict(method="tiled", a=np.ones((0, 3))), ValueError, "method='tiled' is for CuPy arrays"),
        (dict(semifield=sc.BroadcastSemifield.linear(), method="direct"), ValueError, "no kernels"),
        (dict(return_indices=1.5), TypeError, "return_indices must be a bool"),
    ],
)
def test_arguments_that_do_not_fit(change, error, message):
    arguments = dict(a=np.ones((2, 3)), b=np.ones((3, 2)), semifield="tropical_max") | change
    a, b = (arguments.pop(name) for name in "ab")
    with pytest.raises(error, match=message):
        sc.semifield_matmul(a, b, **arguments)


def test_dtypes_without_meaning():
    for dtype, semifield in (("c16", "tropical_max"), ("i4", "linear"), ("U3", "boolean")):
        a = np.ones((2, 2), dtype)
        with pytest.raises(TypeError, match=r"supported are|floating arrays only"):
            sc.semifield_matmul(a, a, semifield)


def test_any_array_of_the_same_layout_takes_the_planned_call():
    """The plan is found by shapes, strides and dtypes; an unaligned array has the same ones."""
    room = np.zeros(4 * 4 * 4 + 1, np.uint8)
    a = np.arange(16, dtype=np.float32).reshape(4, 4)
    away = room[1:].view(np.float32).reshape(4, 4)
    away[...] = a
    assert away.strides == a.strides
    wanted = sc.semifield_matmul(a, a, "tropical_max")
    assert np.array_equal(sc.semifield_matmul(away, away, "tropical_max"), wanted)


# ---- derivatives ---------------------------------------------------------------------------------


def differences(function, array, step=1e-6):
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        moved = array.copy()
        moved[index] += step
        above = function(moved)
        moved[index] -= 2 * step
        gradient[index] = (above - function(moved)) / (2 * step)
    return gradient


@pytest.mark.table(30)
@pytest.mark.parametrize("shapes", [name for name in MATRICES if not name.startswith("many")])
@pytest.mark.parametrize(
    "name",
    ["tropical_max", "tropical_min_negated", "max_times", "linear", "log(2)", "root(3)", "norm",
     "hypotenuse"],
)  # fmt: skip
def test_gradients_by_differences(name, shapes):
    rng = np.random.default_rng(5)
    a, b = (rng.random(shape) + 0.1 for shape in MATRICES[shapes])
    semifield = SEMIFIELDS[name].semifield
    out, pullback = sc.semifield_matmul_vjp(a, b, semifield)
    np.testing.assert_array_equal(out, sc.semifield_matmul(a, b, semifield))
    grad_out = rng.standard_normal(np.shape(out))

    def value(a, b):
        found = np.asarray(sc.semifield_matmul(a, b, semifield))
        return (np.where(np.isfinite(found), found, 0) * grad_out).sum()

    grad_a, grad_b = pullback(grad_out)
    np.testing.assert_allclose(grad_a, differences(lambda x: value(x, b), a), atol=2e-5)
    np.testing.assert_allclose(grad_b, differences(lambda x: value(a, x), b), atol=2e-5)


def test_strides_of_the_operands_do_not_change_gradients():
    rng = np.random.default_rng(5)
    a, b, grad_out = rng.random((6, 5)), rng.random((5, 4)), rng.random((6, 4))
    for semifield in ("tropical_max", sc.SubtractSemifield.log(1.0)):
        plain = sc.semifield_matmul_vjp(a, b, semifield)[1](grad_out)
        turned = [np.ascontiguousarray(x.T).T for x in (a, b, grad_out)]
        other = sc.semifield_matmul_vjp(*turned[:2], semifield)[1](turned[2])
        for got, wanted in zip(other, plain, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-14)


def test_equal_terms_share_the_gradient_on_demand():
    semifield = sc.SelectSemifield.tropical_max(spread_gradient=True)
    _, pullback = sc.semifield_matmul_vjp(np.zeros((1, 4)), np.zeros((4, 1)), semifield)
    grad_a, grad_b = pullback(np.ones((1, 1)))
    assert grad_a.tolist() == [[0.25] * 4]
    assert grad_b.ravel().tolist() == [0.25] * 4


def test_the_gradient_of_a_number_is_a_number():
    a = np.array([1.0, 2.0], "f4")
    _, pullback = sc.semifield_matmul_vjp(a, a, "linear")
    for grad_out in (2, 2.0, np.float32(2), np.array(2, "f4")):
        grad_a, grad_b = pullback(grad_out)
        assert grad_a.dtype == grad_b.dtype == np.float32
        assert grad_a.tolist() == grad_b.tolist() == [2, 4]
    for grad_out in (np.float64(2), np.int32(2), True, 1j):
        with pytest.raises(TypeError, match="grad_out must have the result's dtype float32, got"):
            pullback(grad_out)


def test_errors_of_derivatives():
    a = np.ones((2, 2))
    _, pullback = sc.semifield_matmul_vjp(a, a, "tropical_max")
    with pytest.raises(ValueError, match=r"shape \(2, 2\) and dtype float64, got \(2,\)"):
        pullback(np.ones(2))
    with pytest.raises(TypeError, match="derivatives need a floating dtype, got int32"):
        sc.semifield_matmul_vjp(a.astype("i4"), a.astype("i4"), "tropical_max")
    with pytest.raises(TypeError, match=r"semifield_matmul_vjp needs .* differentiated by PyTorch"):
        sc.semifield_matmul_vjp(a, a, sc.BroadcastSemifield.linear())
    with pytest.raises(ValueError, match="method='tiled' is for CuPy arrays"):
        sc.semifield_matmul_vjp(a, a, "tropical_max", method="tiled")
