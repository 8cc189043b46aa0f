"""mu and p as tensors: values, gradients, torch's modes, modules that learn them."""

import copy
import gc
import math
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from cases import slow_except
from torch import nn
from torch.func import grad, jvp, vmap

import torch_bridge as semiconv
from torch_bridge import SubtractSemifield, ops
from torch_bridge.arguments import GeometryArguments
from torch_bridge.checks import plan
from torch_bridge.functional import semifield_conv, semifield_matmul

FORWARD = torch.ops.semiconv.parametric_forward
BACKWARD = torch.ops.semiconv.parametric_backward
NAME = {"log": "mu", "root": "p"}
VALUES = {"log": (-3.0, 0.5, 10.0), "root": (-2.0, 0.5, 1.0, 3.0)}
ALL = [(family, value) for family, values in VALUES.items() for value in values]
# img, krn, arguments
GEOMETRIES = {
    "line": ((2, 3, 9), (4, 3, 3), {"padding": "same"}),
    "plane": ((2, 2, 5, 6), (3, 2, 2, 3), {"stride": (1, 2), "dilation": (2, 1), "kind": "corr"}),
    "groups": ((2, 4, 6), (6, 2, 2), {"groups": 2, "padding": 1}),
    "shared": ((2, 4, 6), (3, 2, 2), {"groups": 2, "group_broadcasting": True}),
    "product": ((3, 5, 1), (4, 5, 1), {}),
}


def tensors(geometry, family, dtype=torch.float64):
    torch.manual_seed(0)
    img, krn, arguments = GEOMETRIES[geometry]
    lowest = 0.2 if family == "root" else -1.0
    img, krn = (torch.empty(s, dtype=dtype).uniform_(lowest, 1.5) for s in (img, krn))
    return img, krn, arguments


def fixed(family, value):
    return getattr(SubtractSemifield, family)(value)


def with_tensor(img, krn, family, value, **arguments):
    return semifield_conv(img, krn, family, **{NAME[family]: value}, **arguments)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("family", "value"), ALL)
def test_values_are_those_of_the_number(family, value, geometry):
    img, krn, arguments = tensors(geometry, family)
    expected = semifield_conv(img, krn, fixed(family, value), **arguments)
    assert torch.equal(with_tensor(img, krn, family, value, **arguments), expected)
    for shape in ((), (1,), krn.shape[:1]):
        found = with_tensor(img, krn, family, torch.full(shape, value).double(), **arguments)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def sweep(family, call, count=150):
    """The memory that so many new values leave behind, after as many as warm caches up."""
    for value in range(1, 20):
        call(fixed(family, 1.0 + value / 9999))
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for value in range(count):
            call(fixed(family, 2.5 + value / 99))
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("family", slow_except(NAME, "log"))
def test_numbers_are_no_part_of_what_is_kept(family):
    """A plan took 30 KiB a value. Torch's own graph leaves some 60 KiB, whatever the count."""
    img, krn, arguments = tensors("plane", family, torch.float32)
    a, b = torch.rand(2, 30, requires_grad=True), torch.rand(30, 3)

    def convolution(semifield):
        semifield_conv(img.requires_grad_(), krn, semifield, **arguments).sum().backward()

    def product(semifield):
        semifield_matmul(a, b, semifield).sum().backward()

    assert max(sweep(family, convolution), sweep(family, product)) < 200_000


def test_a_number_out_of_range_is_refused_whatever_was_planned_before():
    img, krn, arguments = tensors("plane", "log", torch.float32)
    semifield_conv(img, krn, "log", mu=2.0, **arguments)
    with pytest.raises(ValueError, match=r"log\(mu=1e\+300\) cannot be computed in float32"):
        semifield_conv(img, krn, "log", mu=1e300, **arguments)
    with pytest.raises(ValueError, match=r"log\(mu=1e-300\) cannot be computed in float32"):
        semifield_matmul(img[0, 0], img[0, 0].mT, "log", mu=1e-300)
    doubles = semifield_conv(img.double(), krn.double(), "log", mu=1e300, **arguments)
    greatest = semifield_conv(img.double(), krn.double(), "tropical_max", **arguments)
    assert torch.equal(doubles, greatest)


@pytest.mark.parametrize("geometry", ["plane", "groups", "shared"])
@pytest.mark.parametrize("family", VALUES)
def test_each_kernel_has_its_own_value(family, geometry):
    img, krn, arguments = tensors(geometry, family)
    values = torch.linspace(0.5, 4, krn.shape[0], dtype=torch.float64)
    values[1::2] *= -1
    found = with_tensor(img, krn, family, values, **arguments)
    for channel in range(found.shape[1]):
        value = values[channel % krn.shape[0]].item()
        expected = semifield_conv(img, krn, fixed(family, value), **arguments)
        torch.testing.assert_close(found[:, channel], expected[:, channel])


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("family", "value"), ALL)
def test_gradients_in_all_three(family, value, geometry):
    img, krn, arguments = tensors(geometry, family)
    for shape in ((), krn.shape[:1]):
        mu = torch.full(shape, value, dtype=torch.float64)
        inputs = [tensor.clone().requires_grad_() for tensor in (img, krn, mu)]
        assert torch.autograd.gradcheck(
            lambda img, krn, mu: with_tensor(img, krn, family, mu, **arguments), inputs
        )
        inputs[0].requires_grad_(False)
        inputs[1].requires_grad_(False)
        assert torch.autograd.gradcheck(
            lambda img, krn, mu: with_tensor(img, krn, family, mu, **arguments), inputs
        )


def test_windows_of_nothing():
    """All of one window lies outside, all of another is the zero: gradients are 0."""
    krn = torch.zeros(1, 1, 1, requires_grad=True)
    for family, value, zero in (
        ("log", 2.0, -math.inf),
        ("log", -2.0, math.inf),
        ("root", 3.0, 0.0),
        ("root", -3.0, math.inf),
    ):
        img = torch.full((1, 1, 3), zero, requires_grad=True)
        weights = krn if family == "log" else krn + 1
        mu = torch.tensor(value, requires_grad=True)
        out = with_tensor(img, weights, family, mu, padding=1)
        assert (out == zero).all()
        gradients = torch.autograd.grad(out, (img, krn, mu), torch.ones_like(out))
        assert all(not gradient.any() for gradient in gradients), (family, value, gradients)


def test_large_values_tend_to_the_extrema():
    img, krn, arguments = tensors("plane", "log", torch.float32)
    for value, name in ((1e30, "tropical_max"), (-1e30, "tropical_min")):
        mu = torch.tensor(value, requires_grad=True)
        out = with_tensor(img, krn, "log", mu, **arguments)
        torch.testing.assert_close(out, semifield_conv(img, krn, name, **arguments))
        out.sum().backward()
        assert mu.grad.isfinite()


@pytest.mark.parametrize(
    "dtype",
    slow_except([torch.float16, torch.bfloat16, torch.float32], torch.bfloat16, torch.float32),
)
def test_halves_keep_the_parameters_dtype(dtype):
    img, krn, arguments = tensors("plane", "log", dtype)
    for own in (torch.float32, torch.float64, dtype):
        mu = torch.tensor(2.0, dtype=own, requires_grad=True)
        out = with_tensor(img, krn, "log", mu, **arguments)
        assert out.dtype == dtype
        out.float().sum().backward()
        assert mu.grad.dtype == own
        assert mu.grad < 0


def test_autocast():
    img, krn, arguments = tensors("plane", "log", torch.float32)
    mu = torch.tensor(2.0, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = with_tensor(img.bfloat16(), krn, "log", mu, **arguments)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert mu.grad.dtype == torch.float32


@pytest.mark.parametrize("geometry", ["groups", "shared"])
@pytest.mark.parametrize("shape", [(), "kernels"])
def test_vmap(geometry, shape):
    img, krn, arguments = tensors(geometry, "log")
    kernels = krn.shape[0]
    own = (kernels,) if shape else ()
    mu = torch.rand(3, *own, dtype=torch.float64) + 0.5
    imgs = torch.stack([img, 2 * img, -img])
    krns = torch.stack([krn, 0.5 * krn, -krn])

    def call(img, krn, mu):
        return with_tensor(img, krn, "log", mu, **arguments)

    def loss(img, krn, mu):
        return call(img, krn, mu).square().sum()

    for dims in ((0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0), (0, None, 0)):
        given = [
            every if dim == 0 else every[0]
            for every, dim in zip((imgs, krns, mu), dims, strict=True)
        ]
        each = [
            [every[n] if dim == 0 else every for every, dim in zip(given, dims, strict=True)]
            for n in range(3)
        ]
        expected = torch.stack([call(*one) for one in each])
        torch.testing.assert_close(vmap(call, dims)(*given), expected)
        found = vmap(grad(loss, (0, 1, 2)), dims)(*given)
        for n, one in enumerate(each):
            inputs = [tensor.clone().requires_grad_() for tensor in one]
            own_gradients = torch.autograd.grad(loss(*inputs), inputs)
            torch.testing.assert_close([gradient[n] for gradient in found], list(own_gradients))


@pytest.mark.parametrize("dims", [None, (0, None), (0, 0)], ids=str)
@pytest.mark.parametrize("shape", [(), (4,)], ids=["one value", "each kernel's"])
def test_a_parameter_that_is_not_learned(shape, dims):
    """Ordinary sums, which keep no residual, serve one value for all kernels and no other."""
    torch.manual_seed(0)
    batch = () if dims is None else (2,)
    img = torch.rand(*batch, 2, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    krn = torch.rand(*(batch if dims == (0, 0) else ()), 4, 3, 3, 3, dtype=torch.float64)
    krn.requires_grad_()

    def values(p):
        def call(img, krn):
            return semifield_conv(img, krn, "root", p=p)

        return (call if dims is None else vmap(call, dims))(img, krn)

    found = torch.autograd.grad(values(torch.full(shape, 3.0)).square().sum(), (img, krn))
    expected = torch.autograd.grad(values(3.0).square().sum(), (img, krn))
    torch.testing.assert_close(found, expected)


def test_what_is_offered_of_no_sum():
    img, krn, arguments = tensors("line", "log")
    mu = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    with pytest.raises(NotImplementedError, match="forward mode"):
        jvp(lambda mu: with_tensor(img, krn, "log", mu, **arguments), (mu,), (mu,))
    out = with_tensor(img, krn, "log", mu, **arguments)
    (gradient,) = torch.autograd.grad(out.sum(), mu, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        gradient.backward()


@pytest.mark.parametrize("family", VALUES)
def test_raw_operators(family):
    img, krn, arguments = tensors("plane", family, torch.float32)
    mu, handle = torch.tensor([1.0, 2.0, -3.0]), ops.handle_of_family(family)
    geometry = GeometryArguments.of(plan(img, krn, **arguments))
    for residual, slopes in ((False, False), (True, True)):
        torch.library.opcheck(FORWARD, (img, krn, mu, handle.key, *geometry, residual, slopes))
    out, kept = FORWARD(img, krn, mu, handle.key, *geometry, True, True)
    given = (torch.ones_like(out), img, krn, mu, kept, handle.key, *geometry, True)
    torch.library.opcheck(BACKWARD, (*given, True, True, True))
    with pytest.raises(ValueError, match="one value or 3"):
        FORWARD(img, krn, torch.ones(2), handle.key, *geometry, False, False)
    with pytest.raises(TypeError, match="float32"):
        FORWARD(img, krn, mu.double(), handle.key, *geometry, False, False)


@pytest.mark.parametrize("family", VALUES)
def test_compiled_without_a_graph_break(family):
    img, krn, arguments = tensors("plane", family, torch.float32)

    def step(img, krn, mu):
        return with_tensor(img, krn, family, mu, **arguments).square().sum()

    run = torch.compile(step, fullgraph=True, backend="aot_eager")
    for value in (torch.tensor(2.0), torch.tensor([1.0, 2.0, 3.0])):
        inputs = [tensor.clone().requires_grad_() for tensor in (img, krn, value)]
        expected = torch.autograd.grad(step(*inputs), inputs)
        found = torch.autograd.grad(run(*inputs), inputs)
        torch.testing.assert_close(found, expected)
    fixed_value = torch.compile(
        lambda img: with_tensor(img, krn, family, 2.0, **arguments),
        fullgraph=True,
        backend="aot_eager",
    )
    torch.testing.assert_close(fixed_value(img), with_tensor(img, krn, family, 2.0, **arguments))


# ---- matrix products -----------------------------------------------------------------------------


def product(a, b, family, value):
    return semifield_matmul(a, b, family, **{NAME[family]: value})


OPERANDS = [
    ((4, 5), (5, 3)), ((2, 4, 5), (5, 3)), ((4, 5), (2, 5, 3)), ((2, 1, 4, 5), (3, 5, 3)),
    ((5,), (5, 3)), ((4, 5), (5,)), ((5,), (5,)),
    ((0, 5), (5, 3)), ((4, 5), (5, 0)), ((0, 4, 5), (0, 5, 3)), ((4, 0), (0, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), OPERANDS, ids=str)
@pytest.mark.parametrize("family", VALUES)
def test_products(family, a, b):
    torch.manual_seed(0)
    a, b = (torch.empty(shape).double().uniform_(0.2, 1.5).requires_grad_() for shape in (a, b))
    columns = b.shape[-1] if b.dim() > 1 else 1
    for value in VALUES[family]:
        expected = product(a, b, family, value)
        assert torch.equal(expected, semifield_matmul(a, b, fixed(family, value)))
        for shape in ((), (1,), (columns,)):
            given = torch.full(shape, value, dtype=torch.float64, requires_grad=True)
            out = product(a, b, family, given)
            torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-14)
            assert out.is_contiguous()
            if a.numel() and b.numel():
                assert torch.autograd.gradcheck(
                    lambda a, b, given: product(a, b, family, given), (a, b, given), fast_mode=True
                )
            else:  # no terms: the zero, whose gradients are 0
                gradients = torch.autograd.grad(out.sum(), (a, b, given))
                assert not any(gradient.any() for gradient in gradients)


def test_products_in_torchs_modes():
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4, 5), torch.randn(2, 1, 5, 6)
    mu = torch.tensor([1.0, 2.0, -3.0, 0.5, 4.0, -1.0])
    columns = [product(a, b, "log", value.item())[..., n] for n, value in enumerate(mu)]
    torch.testing.assert_close(product(a, b, "log", mu), torch.stack(columns, -1))

    def step(a, b, mu):
        return product(a, b, "log", mu).square().sum()

    each = [grad(step, (0, 1, 2))(a[n], b[n], (n + 1) * mu) for n in range(2)]
    mus = torch.stack([mu, 2 * mu])
    found = vmap(grad(step, (0, 1, 2)))(a, b, mus)
    torch.testing.assert_close(list(found), [torch.stack(both) for both in zip(*each, strict=True)])
    inputs = [tensor.clone().requires_grad_() for tensor in (a, b, mu)]
    run = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(step(*inputs), inputs)
    torch.testing.assert_close(torch.autograd.grad(run(*inputs), inputs), expected)
    half = product(a.bfloat16(), b.bfloat16(), "log", inputs[2])
    half.float().sum().backward()
    assert half.dtype == torch.bfloat16
    assert inputs[2].grad.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert product(a.bfloat16(), b, "log", mu).dtype == torch.float32
    (first,) = torch.autograd.grad(step(*inputs), inputs[2], create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative of a fused matrix product"):
        first.sum().backward()


def test_errors_of_products():
    a, b = torch.rand(4, 5), torch.rand(5, 3)
    for call, error, message in (
        (lambda: semifield_matmul(a, b, "log"), TypeError, "pass mu="),
        (lambda: semifield_matmul(a, b, "tropical_max", mu=1.0), TypeError, "mu is the parameter"),
        (lambda: product(a, b, "log", 0.0), ValueError, "mu must be finite and not 0"),
        (lambda: product(a, b, "log", torch.ones(4)), ValueError, "3 columns of b, got shape"),
        (lambda: product(a, b, "log", torch.tensor(1)), TypeError, r"mu\.float\(\) makes one"),
        (lambda: product(a, b, "log", torch.ones((), device="meta")), ValueError, "a and mu must"),
        (lambda: product(a.int(), b.int(), "log", torch.tensor(1.0)), TypeError, "floating"),
    ):
        with pytest.raises(error, match=message):
            call()
    for function, second in ((semifield_matmul, b), (semifield_conv, torch.rand(2, 5, 3))):
        first = a if function is semifield_matmul else torch.rand(1, 5, 6)
        with pytest.raises(ValueError, match="needs a SelectSemifield"):
            function(first, second, "log", mu=2.0, return_indices=True)


@pytest.mark.parametrize("lazy_fixed", [False, True])
@pytest.mark.parametrize("family", VALUES)
def test_a_module_learns_it(family, lazy_fixed):
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    conv = semiconv.SemifieldConv(family, **{NAME[family]: parameter}, lazy_fixed=lazy_fixed)
    model = semiconv.GenericConv(semiconv.LearnedKernel2D(2, 3, 3, positive="exp"), conv)
    name = f"conv.{NAME[family]}"
    assert name in dict(model.named_parameters())
    img = torch.rand(1, 2, 6, 6)
    model(img).sum().backward()
    assert parameter.grad.isfinite().all()
    assert parameter.grad.all()
    other = copy.deepcopy(model)
    with torch.no_grad():
        parameter.add_(1)
    assert not torch.equal(other(img), model(img))
    other.load_state_dict(model.state_dict())
    for same in (other, pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(img), model(img))
    assert model.double()(img.double()).dtype == torch.float64
    buffer = semiconv.SemifieldConv(family, **{NAME[family]: torch.tensor(2.0)})
    assert not list(buffer.parameters())
    assert list(buffer.state_dict()) == [NAME[family]]


def test_roots_refuse_negative_kernels_here_too():
    conv = semiconv.SemifieldConv("root", p=nn.Parameter(torch.tensor(3.0)))
    with pytest.raises(ValueError, match='positive="exp"'):
        semiconv.GenericConv(semiconv.LearnedKernel2D(1, 1, 3), conv)


def test_errors():
    img, krn = torch.rand(1, 2, 6), torch.rand(3, 2, 2)
    for call, error, message in (
        (lambda: semifield_conv(img, krn, "log"), TypeError, "needs its parameter: pass mu="),
        (
            lambda: semifield_conv(img, krn, "root", mu=1.0),
            TypeError,
            'mu is the parameter of "log',
        ),
        (lambda: semifield_conv(img, krn, "linear", p=1.0), TypeError, 'p is the parameter of "ro'),
        (lambda: semifield_conv(img, krn, "log", mu=0.0), ValueError, "mu"),
        (
            lambda: semifield_conv(img, krn, "log", mu=np.ones(3)),
            TypeError,
            r"torch\.as_tensor\(mu\) makes one",
        ),
        (lambda: semifield_conv(img, krn, "root", p=math.inf), ValueError, "p must"),
        (lambda: with_tensor(img, krn, "log", torch.ones(2)), ValueError, "each of the 3 kernels"),
        (lambda: with_tensor(img, krn, "log", torch.ones(3, 1)), ValueError, r"\(3, 1\)"),
        (lambda: with_tensor(img, krn, "log", torch.tensor(1)), TypeError, "floating"),
        (
            lambda: with_tensor(img, krn, "log", torch.ones((), device="meta")),
            ValueError,
            "one dev",
        ),
        (lambda: semiconv.SemifieldConv("log"), TypeError, "mu="),
        (
            lambda: semifield_conv(img, krn, SubtractSemifield.named_family("root")),
            TypeError,
            'pass "root" with p=',
        ),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("family", ["log", "root"])
def test_modules_of_a_family_need_a_value(family):
    with pytest.raises(TypeError, match="has no value of its parameter"):
        semiconv.SubtractSemifield.named_family(family).dynamic()


# ---- what is refused -----------------------------------------------------------------------------

LOG = SubtractSemifield.named_family("log")
OWN = SubtractSemifield(
    lambda left, right: left + right,
    lambda img, krn, a: a * img * krn,
    zero=0.0,
    parameters={"a": 1.0},
)
IMG = torch.ones(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LOG.check(), TypeError, r"log\(mu\) has no value of its parameter"),
        (lambda: LOG.add(1.0, 2.0), TypeError, r"SubtractSemifield\.log\(2\.0\) has one"),
        (lambda: semiconv.SemifieldLinear(3, 3, LOG), TypeError, 'pass "log" with mu='),
        (lambda: semifield_conv(IMG, IMG, LOG), TypeError, 'pass "log" with mu='),
        (lambda: semifield_conv(IMG, IMG, OWN.unbound), TypeError, "use with_parameters"),
        (lambda: OWN.unbound.dynamic(), TypeError, "use with_parameters"),
        (
            lambda: semiconv.LogSumExpPool2d(2, mu=nn.Parameter(torch.tensor(2.0))),
            TypeError,
            "mu is the number at which .*log_sum_exp_pool2d",
        ),
        (
            lambda: semiconv.GeMPool1d(2, p=nn.Parameter(torch.tensor(2.0))),
            TypeError,
            "p is the number at which .*gem_pool1d",
        ),
        (lambda: semiconv.GeMPool2d(2)(IMG[:, :0]), ValueError, r"channel.*\(1, 0, 4, 4\)"),
        (lambda: semiconv.LogSumExpPool2d(2)(IMG[0, :0]), ValueError, r"channel.*\(0, 4, 4\)"),
    ],
)
def test_errors_name_the_remedy(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_family_without_value_takes_that_of_a_call():
    for value in (2.0, torch.tensor([2.0])):
        found = semifield_conv(IMG, IMG, LOG, mu=value)
        torch.testing.assert_close(found, semifield_conv(IMG, IMG, "log", mu=2.0))
