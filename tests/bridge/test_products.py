"""Matrix products of tensors: values, gradients, torch.func, torch.compile, autocast, winners."""

import itertools

import numpy as np
import pytest
import torch
from cases import slow_except
from problems import SEMIFIELDS
from torch.func import grad, vmap

import semiconv_cupy as sc
from semiconv_cupy.product_route import product_goes_by_sums
from torch_bridge import ops
from torch_bridge.functional import semifield_conv, semifield_matmul

SHAPES = [
    ((4,), (4,)),
    ((3, 4), (4, 2)),
    ((2, 3, 4), (4, 2)),
    ((2, 3, 4), (2, 4, 5)),
    ((4,), (2, 4, 5)),
    ((2, 1, 3, 4), (2, 4, 2)),
    ((2, 3, 4), (4,)),
]
# The last is a product of the terms that the others select.
NAMES = [name for name in SEMIFIELDS if name != "max, channels added"]
TWICE = ("max", "min")


def numbers(*shapes, dtype=torch.float64, seed=0):
    """Positive numbers, no two sums equal, wanting gradients."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(s, generator=generator, dtype=torch.float64) + 0.1 for s in shapes]
    return [tensor.to(dtype).requires_grad_() for tensor in drawn]


def product(semifield):
    return lambda a, b: semifield_matmul(a, b, semifield)


# ---- values and gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_arrays(name, shapes):
    a, b = numbers(*shapes)
    arrays = [tensor.detach().numpy() for tensor in (a, b)]
    expected = sc.semifield_matmul(*arrays, SEMIFIELDS[name][0])
    for out in (semifield_matmul(a, b, SEMIFIELDS[name][0]),
                semifield_matmul(a.detach(), b.detach(), SEMIFIELDS[name][0])):  # fmt: skip
        assert out.shape == torch.matmul(a, b).shape
        torch.testing.assert_close(out.detach(), torch.as_tensor(expected), rtol=1e-13, atol=0)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", [name for name in NAMES if SEMIFIELDS[name][1] is not None])
def test_gradients_are_those_of_array_functions(name, shapes):
    a, b = numbers(*shapes)
    found = []
    for semifield in SEMIFIELDS[name]:
        out = semifield_matmul(a, b, semifield)
        weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
        found.append((out.detach(), *torch.autograd.grad(out, (a, b), weights)))
    torch.testing.assert_close(*found)


@pytest.mark.table(8)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name, shapes):
    tensors = numbers(*shapes)
    assert torch.autograd.gradcheck(product(SEMIFIELDS[name][0]), tensors)
    if name in TWICE:
        assert torch.autograd.gradgradcheck(product(SEMIFIELDS[name][0]), tensors)


@pytest.mark.parametrize("want", [0, 1])
def test_one_gradient_alone(want):
    tensors = numbers((3, 4), (4, 2))
    out = semifield_matmul(*tensors, "tropical_max")
    wanted = torch.autograd.grad(out.sum(), tensors)[want]
    tensors = [t.detach().requires_grad_(n == want) for n, t in enumerate(tensors)]
    semifield_matmul(*tensors, "tropical_max").sum().backward()
    torch.testing.assert_close(tensors[want].grad, wanted)
    assert tensors[1 - want].grad is None


def test_second_derivatives_that_are_not_offered():
    a, b = numbers((3, 4), (4, 2))
    out = semifield_matmul(a, b, "linear")
    (first,) = torch.autograd.grad(out.sum(), a, create_graph=True)
    refusal = r"of a fused matrix product .*; got SubtractSemifield\.linear\(\)\."
    with pytest.raises(RuntimeError, match=refusal):
        first.sum().backward()


def test_transposed_and_sliced_operands():
    a, b = (t.detach() for t in numbers((9, 8), (6, 7)))
    views = a[::2, 1:-1].requires_grad_(), b.T.contiguous().T[:, ::3].requires_grad_()
    copies = [view.detach().clone().requires_grad_() for view in views]
    for semifield in ("tropical_max", sc.SubtractSemifield.log(1.0)):
        results = []
        for pair in (views, copies):
            out = semifield_matmul(*pair, semifield)
            results.append((out.detach(), *torch.autograd.grad(out.sum(), pair)))
        torch.testing.assert_close(*results, rtol=1e-14, atol=0)


def test_unaligned_tensors():
    room = torch.zeros(4 * 16 + 1, dtype=torch.uint8)
    away = torch.frombuffer(room.numpy()[1:].data, dtype=torch.float32).view(4, 4)
    away.copy_(torch.arange(16.0).view(4, 4))
    assert away.data_ptr() % 4
    wanted = semifield_matmul(away.clone(), away.clone(), "tropical_max")
    torch.testing.assert_close(semifield_matmul(away, away, "tropical_max"), wanted)


@pytest.mark.parametrize("shapes", [((2, 0), (0, 3)), ((0, 4), (4, 3)), ((0, 2, 4), (4, 3))])
def test_zero_sizes(shapes):
    for semifield in ("tropical_max", sc.SubtractSemifield.log(1.0), "linear",
                      sc.BroadcastSemifield.tropical_max()):  # fmt: skip
        a, b = (torch.zeros(shape, requires_grad=True) for shape in shapes)
        out = semifield_matmul(a, b, semifield)
        assert out.shape == torch.matmul(a, b).shape
        assert (out == (0 if semifield == "linear" else -torch.inf)).all()
        out.sum().backward()
        assert (b.grad == 0).all()


# ---- torch's machinery ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max", "log", "linear"])
def test_opcheck(name):
    semifield = SEMIFIELDS[name][0]
    handle = ops.handle_of(semifield)
    a, b = (t.detach().float() for t in numbers((2, 3, 4), (4, 5)))
    forward = torch.ops.semiconv.product.default
    for residual in (False, True):
        torch.library.opcheck(forward, (a, b, handle.key, residual))
    out, residual = forward(a, b, handle.key, True)
    saved = (a, b) if handle.needs_arrays else (None, None)
    for wants in ((True, True), (True, False)):
        torch.library.opcheck(
            torch.ops.semiconv.product_backward.default,
            (torch.ones_like(out), *saved, residual, handle.key, [2, 3, 4], [4, 5], *wants),
        )


def test_schemas():
    """Saved programs name them."""
    assert str(torch.ops.semiconv.product.default._schema) == (
        "semiconv::product(Tensor a, Tensor b, str semifield, bool residual)"
        " -> (Tensor out, Tensor residual)"
    )
    assert str(torch.ops.semiconv.product_backward.default._schema) == (
        "semiconv::product_backward(Tensor grad_out, Tensor? a, Tensor? b, Tensor residual, "
        "str semifield, SymInt[] a_shape, SymInt[] b_shape, bool want_a, bool want_b)"
        " -> (Tensor grad_a, Tensor grad_b)"
    )


@pytest.mark.parametrize("name", ["max", "max, shared", "log", "linear"])
@pytest.mark.parametrize(
    ("shapes", "dims"),
    [
        (((6, 3, 4), (4, 2)), (0, None)),
        (((3, 4), (6, 4, 2)), (None, 0)),
        (((3, 4, 6), (4, 6, 2)), (2, 1)),
        (((6, 3, 4), (2, 4, 5)), (0, None)),
        (((6, 4), (2, 4, 5, 6)), (0, 3)),
    ],
)
def test_vmap(name, shapes, dims):
    a, b = (t.detach() for t in numbers(*shapes))
    semifield = SEMIFIELDS[name][0]

    def loss(a, b):
        out = semifield_matmul(a, b, semifield)
        return (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)).sum()

    def entry(tensor, dim, n):
        return tensor if dim is None else tensor.select(dim, n)

    pairs = [(entry(a, dims[0], n), entry(b, dims[1], n)) for n in range(6)]
    values = torch.stack([semifield_matmul(*pair, semifield) for pair in pairs])
    torch.testing.assert_close(vmap(product(semifield), dims)(a, b), values)
    found = vmap(grad(loss, (0, 1)), dims)(a, b)
    for n, pair in enumerate(pairs):
        torch.testing.assert_close(tuple(g[n] for g in found), grad(loss, (0, 1))(*pair))


@pytest.mark.parametrize("semifield", ["tropical_max", sc.SubtractSemifield.log(2.0)], ids=repr)
def test_compiled_for_any_size(semifield):
    torch._dynamo.reset()
    compiled = torch.compile(product(semifield), fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (3, 5, 8):
        tensors = numbers((2, size, size + 1), (size + 1, 4))
        out = compiled(*tensors)
        expected = semifield_matmul(*tensors, semifield)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(
            torch.autograd.grad(out.sum(), tensors), torch.autograd.grad(expected.sum(), tensors)
        )


def test_compiled_with_winners():
    torch._dynamo.reset()

    def both(a, b):
        return semifield_matmul(a, b, "tropical_max", return_indices=True)

    tensors = numbers((3, 4), (4, 2))
    out, indices = torch.compile(both, fullgraph=True, backend="aot_eager")(*tensors)
    torch.testing.assert_close((out, indices), both(*tensors))
    out.sum().backward()


def test_autocast_meets_in_the_wider_dtype():
    a, b = (t.detach() for t in numbers((3, 4), (4, 2), dtype=torch.float32))
    with pytest.raises(TypeError, match=r"a and b must have one dtype.*b.to\(a.dtype\)"):
        semifield_matmul(a.bfloat16(), b, "tropical_max")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = semifield_matmul(a.bfloat16(), b, "tropical_max")
    torch.testing.assert_close(out, semifield_matmul(a.bfloat16().float(), b, "tropical_max"))


# ---- ordinary sums -------------------------------------------------------------------------------

LOG, ROOT = sc.SubtractSemifield.log(2.0), sc.SubtractSemifield.root(2.5)


@pytest.mark.parametrize("terms", [1, 2, 3, 40])
@pytest.mark.parametrize("semifield", [LOG, ROOT], ids=repr)
def test_ordinary_sums_keep_no_residual(semifield, terms):
    tensors = [torch.ones(shape) for shape in ((2, terms), (terms, 5))]
    _, residual = torch.ops.semiconv.product(*tensors, ops.handle_of(semifield).key, True)
    sums = product_goes_by_sums(semifield, terms, on_gpu=False)
    assert residual.shape == ((0,) if sums else (2, 2, 5))


@pytest.mark.parametrize(
    ("semifield", "dtype"),
    slow_except(
        itertools.product((LOG, ROOT, "linear"), (torch.float16, torch.bfloat16, torch.float32)),
        (LOG, torch.float32), (LOG, torch.bfloat16), ("linear", torch.float32),
    ),
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("shapes", [((70, 33), (33, 40)), ((3, 8, 33), (33, 20))], ids=str)
@pytest.mark.parametrize("spread", [1, 300])
def test_training_against_float64(semifield, spread, shapes, dtype):
    """A spread of 300 is beyond what the sums of log can prove."""
    spreads = spread, spread if semifield is LOG else 1  # products stay within float16
    a, b = (
        (tensor.detach() * factor).to(dtype).requires_grad_()
        for tensor, factor in zip(numbers(*shapes, seed=spread), spreads, strict=True)
    )
    wide = [tensor.detach().double().requires_grad_() for tensor in (a, b)]
    found, expected = (semifield_matmul(*pair, semifield) for pair in ((a, b), wide))
    tolerance = dict(rtol=2e3 * torch.finfo(dtype).eps if dtype is torch.float32 else 0.02)
    slopes = torch.linspace(-1, 1, found.numel(), dtype=dtype).view(found.shape)
    torch.testing.assert_close(found.double(), expected, atol=0, **tolerance)
    pairs = zip(
        torch.autograd.grad(found, (a, b), slopes),
        torch.autograd.grad(expected, wide, slopes.double()),
        strict=True,
    )
    for one, other in pairs:
        scale = other.abs().max().item()
        torch.testing.assert_close(one.double(), other, atol=1e-2 * scale, rtol=0.02)
        if dtype is torch.float32:
            torch.testing.assert_close(one.double(), other, atol=1e-5 * scale, rtol=1e-3)


@pytest.mark.parametrize("zeros", [0, 5, 100])
@pytest.mark.parametrize("p", slow_except([1.0, 1.5, 3.0, 10.5, -1.5, -3.0], 3.0, -1.5))
def test_training_in_root_against_its_terms(p, zeros):
    """Zeros here and there, then whole rows of them; those of p < 0 are infinite."""
    semifield = sc.SubtractSemifield.root(p)
    tensors = [tensor.detach() for tensor in numbers((2, 37, 33), (2, 33, 21), seed=3)]
    for tensor in tensors:
        tensor.view(-1)[:zeros] = semifield.zero
    out, pullback = sc.semifield_matmul_vjp(
        *(t.numpy() for t in tensors), semifield, method="direct"
    )
    tensors = [tensor.float().requires_grad_() for tensor in tensors]
    found = semifield_matmul(*tensors, semifield)
    slopes = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape)
    torch.testing.assert_close(found, torch.as_tensor(out).float(), rtol=1e-5, atol=0)
    pairs = zip(
        torch.autograd.grad(found, tensors, slopes.float()),
        map(torch.as_tensor, pullback(slopes.numpy())),
        strict=True,
    )
    for one, other in pairs:
        scale = other.abs().max().item()
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=2e-6 * scale)


@pytest.mark.parametrize("semifield", [LOG, ROOT], ids=repr)
def test_compiled_from_few_terms_to_many(semifield):
    """The number of terms decides whether there is a residual."""
    torch._dynamo.reset()
    compiled = torch.compile(product(semifield), fullgraph=True, dynamic=True, backend="aot_eager")
    for terms in (2, 3, 30):
        for rows in (3, 6):
            tensors = numbers((rows, terms), (terms, 4))
            found, expected = compiled(*tensors), semifield_matmul(*tensors, semifield)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(
                torch.autograd.grad(found.sum(), tensors),
                torch.autograd.grad(expected.sum(), tensors),
            )


def test_infinite_numbers_under_a_slope_of_zero():
    """They have no part in a gradient, as in every other schedule."""
    a, b = (tensor.detach() for tensor in numbers((40, 30), (30, 50)))
    b[3, 7], b[4, 7], a[5, 6] = torch.inf, torch.nan, -torch.inf
    a.requires_grad_(), b.requires_grad_()
    slopes = torch.ones(40, 50, dtype=a.dtype)
    slopes[:, 7] = slopes[5] = 0
    found = torch.autograd.grad(semifield_matmul(a, b, "linear"), (a, b), slopes)
    clean = [torch.nan_to_num(t.detach(), 0, 0, 0).requires_grad_() for t in (a, b)]
    expected = torch.autograd.grad(torch.matmul(*clean), clean, slopes)
    torch.testing.assert_close(found, expected)


# ---- winners -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    slow_except(
        [torch.uint8, torch.int32, torch.bool, torch.float16, torch.bfloat16, torch.float32],
        *(torch.uint8, torch.bfloat16, torch.float32),
    ),
    ids=str,
)
def test_winners(dtype):
    rng = np.random.default_rng(0)
    a, b = (torch.as_tensor(rng.integers(0, 4, shape)).to(dtype) for shape in ((2, 3, 5), (5, 4)))
    out, indices = semifield_matmul(a, b, "tropical_max", return_indices=True)
    exact = dtype if dtype in (torch.uint8, torch.int32, torch.bool) else torch.float32
    arrays = [tensor.to(exact).numpy() for tensor in (a, b)]
    values, winners = sc.semifield_matmul(*arrays, "tropical_max", return_indices=True)
    assert out.dtype == dtype
    assert np.array_equal(out.to(exact).numpy(), values)
    assert np.array_equal(indices.numpy(), winners)


@pytest.mark.parametrize("spread", [False, True])
def test_winners_beside_gradients(spread):
    semifield = sc.SelectSemifield.tropical_max(spread_gradient=spread)
    a, b = torch.zeros(1, 4, requires_grad=True), torch.zeros(4, 1)
    out, indices = semifield_matmul(a, b, semifield, return_indices=True)
    out.sum().backward()
    assert indices.tolist() == [[0]]
    assert not indices.requires_grad
    assert a.grad.tolist() == [[0.25] * 4 if spread else [1, 0, 0, 0]]


@pytest.mark.parametrize("kind", ["conv", "corr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_winners_of_convolutions(kind, dtype):
    rng = np.random.default_rng(1)
    img, krn = (rng.integers(0, 9, shape) for shape in ((2, 4, 7), (4, 2, 3)))
    img, krn = (torch.as_tensor(array).to(dtype) for array in (img, krn))
    arguments = dict(groups=2, padding=1, kind=kind, return_indices=True)
    found = semifield_conv(img, krn, "tropical_max", **arguments)
    expected = sc.semifield_conv(img.numpy(), krn.numpy(), "tropical_max", **arguments)
    for tensor, array in zip(found, expected, strict=True):
        assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("semifield", ["linear", sc.BroadcastSemifield.tropical_max()], ids=repr)
def test_additions_without_winners(semifield):
    with pytest.raises(ValueError, match="return_indices=True needs"):
        semifield_matmul(torch.ones(2, 2), torch.ones(2, 2), semifield, return_indices=True)
    with pytest.raises(ValueError, match="return_indices=True needs"):
        semifield_conv(torch.ones(1, 1, 2), torch.ones(1, 1, 2), semifield, return_indices=True)


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "error", "message"),
    [
        (
            np.ones((2, 2)),
            torch.ones(2, 2),
            TypeError,
            "a must be a torch.Tensor.*_matmul",
        ),
        (torch.ones(()), torch.ones(2), ValueError, "a must have at least one axis"),
        (torch.ones(2, 3), torch.ones(2, 3), ValueError, "the second to last axis of b"),
        (torch.ones(3), torch.ones(4), ValueError, "the only axis of b"),
        (torch.ones(2, 3, 3), torch.ones(4, 3, 3), ValueError, "must be the same or broadcast"),
        (torch.ones(2, 2), torch.ones(2, 2, device="meta"), ValueError, "must be on one device"),
    ],
)
def test_operands_that_do_not_fit(a, b, error, message):
    with pytest.raises(error, match=message):
        semifield_matmul(a, b, "tropical_max")


def test_dtypes_without_meaning():
    a = torch.ones(2, 2, dtype=torch.int32)
    with pytest.raises(TypeError, match="floating arrays only"):
        semifield_matmul(a, a, "linear")
    with pytest.raises(TypeError, match="supported are"):
        semifield_matmul(a.to(torch.complex64), a.to(torch.complex64), "tropical_max")
