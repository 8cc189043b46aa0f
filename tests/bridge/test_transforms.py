"""Derivatives through torch.vmap and in forward mode: right, or refused with the remedy."""

import pytest
import torch
from problems import SEMIFIELDS, inputs
from torch import nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

from torch_bridge import DilationPool2d, SemifieldLinear
from torch_bridge.functional import semifield_conv, semifield_matmul

OPERATIONS = {
    "conv": (semifield_conv, ((2, 2, 7), (3, 2, 3))),
    "matmul": (semifield_matmul, ((3, 4), (4, 5))),
}
operations = pytest.mark.parametrize("operation", OPERATIONS)


def problem(operation, name):
    """The operation with that semifield, and its shapes."""
    function, shapes = OPERATIONS[operation]
    return lambda *t: function(*t, SEMIFIELDS[name][0]), shapes


# ---- vmap ----------------------------------------------------------------------------------------


@operations
@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0)], ids=str)
@pytest.mark.parametrize("name", ["max", "max, shared", "max_times", "log", "linear"])
def test_backward_outside_of_vmap(name, dims, operation):
    function, shapes = problem(operation, name)
    sizes = [s if d is None else (3, *s) for s, d in zip(shapes, dims, strict=True)]
    tensors = inputs(*sizes)
    found = vmap(function, dims)(*tensors)
    rows = [
        function(*(t if d is None else t[n] for t, d in zip(tensors, dims, strict=True)))
        for n in range(3)
    ]
    expected = torch.stack(rows)
    slopes = torch.linspace(-1, 2, expected.numel(), dtype=expected.dtype).view(expected.shape)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, tensors, slopes), torch.autograd.grad(expected, tensors, slopes)
    )


@operations
def test_one_of_two_tensors_wants_a_gradient_outside_of_two_vmaps(operation):
    function, (first, second) = problem(operation, "max")
    one, two = inputs((2, 3, *first), second)
    one = one.detach()
    vmap(vmap(function, (0, None)), (0, None))(one, two).sum().backward()
    rows = sum(function(x, two).sum() for x in one.flatten(0, 1))
    torch.testing.assert_close(two.grad, torch.autograd.grad(rows, two)[0])
    assert not vmap(function, (0, None))(one[0], two.detach()).requires_grad
    with torch.no_grad():
        assert not vmap(function, (0, None))(one[0], two).requires_grad


@operations
@pytest.mark.parametrize("name", ["max", "max, shared"])
def test_winners_in_vmap_beside_gradients(name, operation):
    function, shapes = OPERATIONS[operation]
    tensors = inputs(*((3, *shape) for shape in shapes))

    def both(*pair):
        return function(*pair, SEMIFIELDS[name][0], return_indices=True)

    out, indices = vmap(both)(*tensors)
    for n in range(3):
        value, winners = both(*(t[n] for t in tensors))
        assert torch.equal(out[n], value)
        assert torch.equal(indices[n], winners)
    assert all(g.any() for g in torch.autograd.grad(out.sum(), tensors))


def test_integers_in_vmap():
    a, b = (torch.arange(n, dtype=torch.uint8) for n in (24, 8))
    a, b = a.view(2, 3, 4), b.view(4, 2)
    out = vmap(lambda a: semifield_matmul(a, b, "tropical_max"))(a)
    assert torch.equal(out, semifield_matmul(a, b, "tropical_max"))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: SemifieldLinear(4, 5, "tropical_max"), (6, 4)),
        (lambda: DilationPool2d(2, channels=3), (2, 3, 6, 6)),
    ],
    ids=["SemifieldLinear", "DilationPool2d"],
)
def test_ensembles_learn(make, shape):
    torch.manual_seed(0)
    layers, x = [make() for _ in range(3)], torch.randn(shape)
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, 0.5, 1)
    parameters, buffers = stack_module_state(layers)
    out = vmap(lambda p, b: functional_call(layers[0], (p, b), (x,)))(parameters, buffers)
    out.square().sum().backward()
    for n, layer in enumerate(layers):
        layer.zero_grad()
        layer(x).square().sum().backward()
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(parameters[name].grad[n], parameter.grad)


# ---- forward mode --------------------------------------------------------------------------------


@operations
@pytest.mark.parametrize("name", ["max", "min", "max, channels added"])
def test_tangents_of_selections(name, operation):
    if (operation, name) == ("matmul", "max, channels added"):
        pytest.skip("a product has no channels")
    function, shapes = problem(operation, name)
    tensors = inputs(*shapes)
    assert torch.autograd.gradcheck(
        function, tensors, check_forward_ad=True, check_batched_forward_grad=True
    )
    tensors = tuple(tensor.detach() for tensor in tensors)
    torch.testing.assert_close(
        jacfwd(function, (0, 1))(*tensors), jacrev(function, (0, 1))(*tensors)
    )
    with torch.no_grad():
        _, tangent = jvp(function, tensors, tensors)
    assert tangent.any()


@operations
@pytest.mark.parametrize("name", ["max, shared", "max_times", "log", "linear"])
def test_tangents_that_are_not_offered(name, operation):
    function, shapes = problem(operation, name)
    tensors = tuple(tensor.detach() for tensor in inputs(*shapes))
    with pytest.raises(NotImplementedError, match=r"got S\w+Semifield\..*Use reverse mode"):
        jvp(function, tensors, tensors)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="Use reverse mode"):
        function(forward_ad.make_dual(tensors[0], tensors[0]), tensors[1])
    # Where no tangent meets the operation, reverse mode works inside of forward mode.
    expected = vjp(function, *tensors)[1](function(*tensors))

    def scaled(factor):
        found = vjp(function, *tensors)[1](function(*tensors))
        return [factor * gradient for gradient in found]

    one = torch.ones((), dtype=tensors[0].dtype)
    torch.testing.assert_close(jvp(scaled, (one,), (one,))[1], list(expected))


@operations
@pytest.mark.parametrize("name", ["max", "min"])
def test_forward_mode_and_vmap_in_any_order(name, operation):
    function, shapes = problem(operation, name)
    first, second = (tensor.detach() for tensor in inputs(*shapes))
    batch = torch.stack([first, 2 * first.flip(0)])

    def batched(batch):
        return vmap(function, (0, None))(batch, second)

    def alone(one):
        return jvp(lambda one: function(one, second), (one,), (one.cos(),))[1]

    expected = torch.stack([alone(one) for one in batch])
    assert expected.any()
    torch.testing.assert_close(jvp(batched, (batch,), (batch.cos(),))[1], expected)
    torch.testing.assert_close(vmap(alone)(batch), expected)
    torch.testing.assert_close(jacfwd(batched)(batch), jacrev(batched)(batch))


@operations
def test_second_derivatives_of_selections_in_every_mode(operation):
    function, shapes = problem(operation, "max")
    tensors = tuple(tensor.detach() for tensor in inputs(*shapes))

    def loss(*tensors):
        return function(*tensors).square().sum()

    expected = jacrev(jacrev(loss, (0, 1)), (0, 1))(*tensors)
    assert expected[0][1].any()
    for outer, inner in ((jacfwd, jacrev), (jacrev, jacfwd), (jacfwd, jacfwd)):
        found = outer(inner(loss, (0, 1)), (0, 1))(*tensors)
        torch.testing.assert_close(found, expected)
    batch = torch.stack([tensors[0], tensors[0].cos()])
    found = vmap(hessian(loss), (0, None))(batch, tensors[1])
    torch.testing.assert_close(found[1], hessian(loss)(batch[1], tensors[1]))


@operations
def test_tangents_of_gradients_that_are_not_offered(operation):
    function, shapes = problem(operation, "log")
    tensors = inputs(*shapes)
    with forward_ad.dual_level():
        out = function(*tensors)
        slopes = forward_ad.make_dual(torch.ones_like(out), torch.ones_like(out))
        with pytest.raises(NotImplementedError, match=r"the gradient of .* SubtractSemifield"):
            torch.autograd.grad(out, tensors, slopes)
    batch, other = (tensor.detach() for tensor in (torch.stack([tensors[0]] * 2), tensors[1]))
    with pytest.raises(NotImplementedError, match=r"got S\w+Semifield\..*Use reverse mode"):
        jvp(lambda batch: vmap(function, (0, None))(batch, other), (batch,), (batch,))


@operations
def test_no_compiled_transform_loses_a_derivative(operation):
    function, shapes = problem(operation, "max")
    tensors = tuple(tensor.detach() for tensor in inputs(*shapes))

    def compiled(function, fullgraph=True):
        torch._dynamo.reset()
        return torch.compile(function, backend="eager", fullgraph=fullgraph)

    for transformed in (
        grad(lambda *t: function(*t).sum()),
        lambda *t: jvp(lambda one: function(one, t[1]), (t[0],), (t[0],))[1],
    ):
        with pytest.raises(torch._dynamo.exc.Unsupported, match="leave the transform uncompiled"):
            compiled(transformed)(*tensors)
    with torch.no_grad():
        batch = torch.stack([tensors[0]] * 2)
        found = compiled(vmap(function, (0, None)))(batch, tensors[1])
        torch.testing.assert_close(found[1], function(*tensors))
