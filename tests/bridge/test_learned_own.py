"""Parameters that a semifield of one's own names, as tensors: values, gradients, transforms."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

import semiconv_cupy as sc
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


def nearest():
    return sc.SelectSemifield(
        lambda left, right, c: abs(right - c) < abs(left - c),
        lambda img, krn, gain: gain * img + krn,
        zero=math.inf,
        parameters={"c": 0.3, "gain": 1.2},
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
        (nearest, {"gain": EACH, "c": 0.1}),
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
    out, indices = semifield_conv(img, krn, nearest(), c=0.5, gain=2.0, return_indices=True)
    right = sc.semifield_conv(
        img.numpy(), krn.numpy(), nearest(), c=0.5, gain=2.0, return_indices=True
    )
    np.testing.assert_array_equal(out, right[0])
    np.testing.assert_array_equal(indices, right[1])
    changed = nearest().with_parameters(c=0.5, gain=2.0)
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
    with pytest.raises(TypeError, match="c must be a number with return_indices=True"):
        semifield_conv(img, krn, nearest(), c=ONE, return_indices=True)
    with pytest.raises(ValueError, match="s must be one number for a BroadcastSemifield"):
        semifield_conv(img, krn, soft(), s=EACH)
