"""Parameters that a semifield of one's own names, as tensors: values, gradients, transforms."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from cases import nearest
from torch.autograd import gradcheck

import semiconv_cupy as sc
import torch_bridge as semiconv
from torch_bridge.functional import semifield_conv, semifield_matmul


def norm():
    """In the terms, in the addition, and behind it."""
    return sc.SubtractSemifield(
        add=lambda left, right, q: (left**q + right**q) ** (1 / q),
        times=lambda img, krn, gain: gain * img * krn,
        zero=0.0,
        post_sum=lambda acc, gain: gain * acc,
        parameters={"q": 2.0, "gain": 1.5},
    )


def soft():
    return sc.BroadcastSemifield(
        lambda x, dims, s: torch.logsumexp(s * x, dims) / s,
        lambda a, b, gain: gain * a + b,
        -math.inf,
        parameters={"s": 1.0, "gain": 1.0},
    )


def inputs(*shapes):
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.uniform(0.2, 1, shape)).requires_grad_() for shape in shapes]


ONE, EACH = torch.tensor(2.5, dtype=torch.double), torch.tensor([1.5, 2, 3], dtype=torch.double)


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (norm, {"q": ONE}),
        (norm, {"gain": EACH, "q": ONE}),
        (norm, {"q": EACH, "gain": 0.5}),
        (nearest, {"gain": EACH, "a": 0.1}),
        (soft, {"s": ONE, "gain": ONE}),
    ],
)
def test_gradients(make, values):
    semifield = make()
    tensors = inputs((2, 2, 4, 5), (3, 2, 2, 2))
    names = list(values)
    own = [
        v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for v in values.values()
    ]

    def conv(img, krn, *own):
        given = dict(zip(names, own, strict=True))
        return semifield_conv(img, krn, semifield, padding=int(make is not soft), **given)

    assert gradcheck(conv, (*tensors, *own))
    if make is not soft:
        given = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        arrays = [x.detach().numpy() for x in tensors]
        right = sc.semifield_conv(*arrays, semifield, padding=1, **given)
        np.testing.assert_array_equal(conv(*tensors, *own).detach(), right)

    def product(a, b, *own):
        return semifield_matmul(a, b, semifield, **dict(zip(names, own, strict=True)))

    assert gradcheck(product, (*inputs((2, 3, 4), (4, 3)), *own))


def test_numbers_and_winners():
    img, krn = (x.detach() for x in inputs((2, 2, 4, 5), (3, 2, 2, 2)))
    out, indices = semifield_conv(img, krn, nearest(), a=0.5, gain=2.0, return_indices=True)
    right = sc.semifield_conv(
        img.numpy(), krn.numpy(), nearest(), a=0.5, gain=2.0, return_indices=True
    )
    np.testing.assert_array_equal(out, right[0])
    np.testing.assert_array_equal(indices, right[1])
    changed = nearest().with_parameters(a=0.5, gain=2.0)
    assert torch.equal(semifield_conv(img, krn, changed), out)


def test_transforms_and_compile():
    img, krn = (x.detach() for x in inputs((1, 2, 4, 5), (3, 2, 2, 2)))
    semifield, values = norm(), torch.tensor([1.5, 2.5], dtype=torch.double)

    def total(q):
        return semifield_conv(img, krn, semifield, q=q).sum()

    each = torch.func.vmap(total)(values)
    slopes = torch.func.vmap(torch.func.grad(total))(values)
    compiled = torch.compile(total, fullgraph=True)
    for q, out, slope in zip(values, each, slopes, strict=True):
        for function in (total, compiled):
            learned = q.clone().requires_grad_()
            found = function(learned)
            found.backward()
            torch.testing.assert_close(found.detach(), out)
            torch.testing.assert_close(learned.grad, slope)


@pytest.mark.slow
def test_halves_learn_in_float32():
    img, krn = (x.detach() for x in inputs((1, 2, 4, 5), (3, 2, 2, 2)))
    grads = []
    for dtype in (torch.double, torch.half, torch.bfloat16):
        q = torch.tensor([1.5, 2, 3], dtype=torch.float32, requires_grad=True)
        semifield_conv(img.to(dtype), krn.to(dtype), norm(), q=q).sum().backward()
        assert q.grad.dtype is torch.float32
        grads.append(q.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=2e-2, atol=0)
    torch.testing.assert_close(grads[2], grads[0], rtol=1e-1, atol=0)


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (1, 2, 1, 1)])
def test_nothing_to_compute_has_the_gradient_0(shape):
    img, krn = torch.rand(shape, dtype=torch.double), torch.rand(3, 2, 2, 2, dtype=torch.double)
    q = torch.tensor(2.0, dtype=torch.double, requires_grad=True)
    semifield_conv(img, krn, norm(), q=q, padding=((3, 0), (3, 0))).sum().backward()
    assert q.grad.isfinite()
    empty = torch.empty(2, 0, dtype=torch.double)
    out = semifield_matmul(empty, empty.T, norm(), q=q)
    assert torch.equal(out.detach(), torch.zeros(2, 2, dtype=torch.double))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"z": 1.0}, TypeError, "unexpected argument 'z'; .* parameters q, gain"),
        ({"q": torch.ones(5)}, ValueError, "q must be one number, or one for each of the 3"),
        ({"q": math.inf}, ValueError, "q must be finite"),
        ({"q": torch.ones(3, dtype=torch.int)}, TypeError, "q must have a floating dtype"),
    ],
)
def test_what_is_refused(values, error, message):
    img, krn = inputs((2, 2, 4, 5), (3, 2, 2, 2))
    with pytest.raises(error, match=message):
        semifield_conv(img, krn, norm(), **values)
    with pytest.raises(TypeError, match="unexpected argument 'q'; 'tropical_max' has no such"):
        semifield_conv(img, krn, "tropical_max", q=1.0)
    with pytest.raises(TypeError, match="a must be a number with return_indices=True"):
        semifield_conv(img, krn, nearest(), a=ONE, return_indices=True)
    with pytest.raises(ValueError, match="s must be one number for a BroadcastSemifield"):
        semifield_conv(img, krn, soft(), s=EACH)


# ---- modules -------------------------------------------------------------------------------------


def learned(value):
    return torch.nn.Parameter(torch.as_tensor(value, dtype=torch.double))


@pytest.mark.parametrize(
    ("make", "module", "values", "numbers"),
    [
        (norm, semiconv.SemifieldConv, {"gain": [1.5, 2.0, 3.0], "q": 2.5}, {}),
        (norm, semiconv.SemifieldConv, {"q": 2.5}, {"gain": 0.5}),
        (nearest, semiconv.SemifieldConv, {"gain": [1.5, 2.0, 3.0]}, {"a": 0.1}),
        (soft, semiconv.BroadcastConv, {"s": 2.5}, {"gain": 2.0}),
    ],
)
def test_convolutions_hold_and_learn_them(make, module, values, numbers):
    img, krn = inputs((2, 2, 4, 5), (3, 2, 2, 2))
    own = {name: learned(value) for name, value in values.items()}
    conv = module(make(), **own, **numbers)
    assert dict(conv.named_parameters()) == own
    out = conv(img, krn, stride=2)
    assert torch.equal(out, semifield_conv(img, krn, make(), stride=2, **own, **numbers))
    out.sum().backward()
    assert all(tensor.grad.isfinite().all() and tensor.grad.any() for tensor in own.values())
    other = copy.deepcopy(conv)
    with torch.no_grad():
        next(iter(own.values())).add_(1)
    assert not torch.equal(other(img, krn, stride=2), conv(img, krn, stride=2))
    other.load_state_dict(conv.state_dict())
    for same in (other, *([pickle.loads(pickle.dumps(conv))] if make is not soft else [])):
        assert torch.equal(same(img, krn, stride=2), conv(img, krn, stride=2))


def test_a_network_learns_them():
    """The last layer's parameter is a buffer; all of it is traced as one graph."""
    torch.manual_seed(0)
    kernel = semiconv.LearnedKernel2D(2, 3, 3, positive="exp", dtype=torch.double)
    gain = torch.ones((), dtype=torch.double)
    conv = semiconv.GenericConv(kernel, semiconv.SemifieldConv(norm(), q=learned(2.0), gain=gain))
    q = learned(torch.full((4,), 3.0))
    dense = semiconv.SemifieldLinear(3 * 4, 4, norm(), q=q, gain=1.0, bias=False, dtype=q.dtype)
    model = torch.nn.Sequential(conv, torch.nn.Flatten(), dense)
    assert [name for name, _ in model.named_parameters()] == [
        "0.kernel.kernel",
        "0.conv.q",
        "2.q",
        "2.weight",
    ]
    assert "0.conv.gain" in model.state_dict()
    with torch.no_grad():
        dense.weight.uniform_(0.1, 1)
    x = torch.rand(2, 2, 4, 4, dtype=torch.double)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x).sum(), list(model.parameters()))
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    torch.testing.assert_close(found, expected)
    assert all(gradient.any() for gradient in found)


@pytest.mark.parametrize("module", [False, True])
def test_functions_of_arrays_compile(module):
    img, krn = inputs((1, 1, 4, 5), (1, 1, 2, 2))
    s = learned(2.0)
    semifield = soft()
    conv = semiconv.BroadcastConv(semifield, s=s)
    call = conv if module else lambda img, krn: semifield_conv(img, krn, semifield, s=s)
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(img, krn).sum(), s)
    (expected,) = torch.autograd.grad(call(img, krn).sum(), s)
    torch.testing.assert_close(found, expected)


def test_a_bias_needs_a_one_that_stays():
    """The bias is the weight of an input that is one."""

    def shifted(slope):
        return sc.SelectSemifield(
            lambda left, right: right > left,
            lambda img, krn, a: krn + (a * img if slope else img + a - 1),
            zero=-math.inf,
            parameters={"a": 1.0},
        )

    layer = semiconv.SemifieldLinear(3, 2, shifted(True), a=learned([1.0, 2.0]), dtype=torch.double)
    with torch.no_grad():
        layer.weight.fill_(-math.inf)
    assert torch.equal(layer(torch.ones(1, 3, dtype=torch.double))[0], layer.bias)
    with pytest.raises(ValueError, match=r"got a as a tensor, on which .* pass bias=False"):
        semiconv.SemifieldLinear(3, 2, shifted(False), a=learned(1.0))
    sums = sc.BroadcastSemifield(
        lambda x, dims, s: s * x.sum(dims),
        lambda a, b, gain: gain * a * b,
        0.0,
        parameters={"s": 1.0, "gain": 1.0},
    )
    with pytest.raises(ValueError, match="got gain as a tensor"):
        semiconv.SemifieldLinear(3, 2, sums, gain=learned(1.0))
    assert semiconv.SemifieldLinear(3, 2, sums, s=learned(1.0)).bias is not None


def named(name):
    return sc.SubtractSemifield(
        lambda left, right: left + right,
        eval(f"lambda img, krn, {name}: {name} * img * krn"),
        zero=0.0,
        parameters={name: 1.0},
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: semiconv.SemifieldConv(norm(), z=ONE), TypeError, "unexpected argument 'z'"),
        (lambda: semiconv.SemifieldConv("linear", q=ONE), TypeError, "no such parameter"),
        (lambda: semiconv.SemifieldConv(norm(), q=math.nan), ValueError, "q must be finite"),
        (
            lambda: semiconv.SemifieldConv(named("training"), training=ONE),
            ValueError,
            "training must be a number, got a tensor",
        ),
        (
            lambda: semiconv.SemifieldLinear(3, 2, named("weight"), weight=ONE),
            ValueError,
            "another name",
        ),
        (
            lambda: semiconv.SemifieldLinear(3, 2, norm(), q=EACH, bias=False),
            ValueError,
            "q must be one number, or one for each of the 2 outputs",
        ),
        (
            lambda: sc.SubtractSemifield(
                norm().add, norm().times, zero=0.0, parameters={"q": learned(1.0)}
            ),
            TypeError,
            "requires a gradient.*SemifieldConv",
        ),
    ],
)
def test_what_modules_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()
