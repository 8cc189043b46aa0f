"""The dense layer: its formula, torch.nn.Linear's habits, and initial values that keep it alive."""

import copy
import pickle

import numpy as np
import pytest
import torch

import semiconv_cupy as sc
from torch_bridge import SemifieldLinear
from torch_bridge.functional import semifield_matmul

MIN = "tropical_min_negated"
LOG, ROOT = sc.SubtractSemifield.log(2.0), sc.SubtractSemifield.root(3.0)
FORMULAS = {
    "tropical_max": lambda x, w, b: np.maximum((x[..., None, :] + w).max(-1), b),
    MIN: lambda x, w, b: np.minimum((x[..., None, :] - w).min(-1), -b),
    "max_times": lambda x, w, b: np.maximum((x[..., None, :] * w).max(-1), b),
    "boolean": lambda x, w, b: np.maximum(np.minimum(x[..., None, :], w).max(-1), b),
    "linear": lambda x, w, b: x @ w.T + b,
    LOG: lambda x, w, b: np.log(np.exp(2 * (x[..., None, :] + w)).sum(-1) + np.exp(2 * b)) / 2,
    ROOT: lambda x, w, b: (((x[..., None, :] * w) ** 3).sum(-1) + b**3) ** (1 / 3),
    sc.BroadcastSemifield.log(2.0): lambda x, w, b: FORMULAS[LOG](x, w, b),
}


@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 5), (0, 5)], ids=str)
@pytest.mark.parametrize("semifield", FORMULAS, ids=str)
def test_the_formula(semifield, shape):
    torch.manual_seed(0)
    layer = SemifieldLinear(5, 4, semifield, init=torch.nn.init.uniform_, dtype=torch.float64)
    x = torch.rand(shape, dtype=torch.float64)
    weight, bias = (parameter.detach().numpy() for parameter in (layer.weight, layer.bias))
    expected = FORMULAS[semifield](x.numpy(), weight, bias)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12)


def test_linear_is_that_of_torch():
    layer, theirs = SemifieldLinear(5, 4, "linear"), torch.nn.Linear(5, 4)
    layer.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 5)
    torch.testing.assert_close(layer(x), theirs(x))
    bound = 5**-0.5
    layer.reset_parameters()
    assert all((parameter.abs() <= bound).all() for parameter in layer.parameters())


def test_without_bias():
    layer = SemifieldLinear(5, 4, "tropical_max", bias=False)
    x = torch.randn(3, 5)
    assert layer.bias is None
    assert list(layer.state_dict()) == ["weight"]
    torch.testing.assert_close(layer(x), semifield_matmul(x, layer.weight.T, "tropical_max"))


@pytest.mark.parametrize("semifield", ["tropical_max", MIN, LOG, "linear"], ids=str)
def test_gradcheck(semifield):
    torch.manual_seed(1)
    layer = SemifieldLinear(4, 3, semifield, init=torch.nn.init.normal_, dtype=torch.float64)
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)

    def run(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    assert torch.autograd.gradcheck(run, (x, layer.weight, layer.bias))


# ---- as other modules ----------------------------------------------------------------------------


def test_copies_pickles_and_state():
    layer = SemifieldLinear(5, 4, LOG)
    x = torch.randn(3, 5)
    other = SemifieldLinear(5, 4, LOG)
    other.load_state_dict(layer.state_dict())
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        assert torch.equal(same(x), layer(x))


def test_shown():
    assert repr(SemifieldLinear(3, 2, "tropical_max", bias=False)) == (
        "SemifieldLinear(in_features=3, out_features=2, "
        "semifield=SelectSemifield.tropical_max(), bias=False)"
    )


@pytest.mark.parametrize("semifield", ["tropical_max", LOG, ROOT, "linear"], ids=str)
def test_made_on_meta(semifield):
    layer = SemifieldLinear(5, 4, semifield, device="meta", dtype=torch.float64)
    assert layer(torch.empty(3, 5, device="meta", dtype=torch.float64)).shape == (3, 4)
    layer.to_empty(device="cpu").reset_parameters()
    assert layer(torch.rand(3, 5, dtype=torch.float64)).isfinite().all()


def test_compiled():
    torch._dynamo.reset()
    layer = SemifieldLinear(5, 4, "tropical_max")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for batch in (3, 7):
        x = torch.randn(batch, 5)
        torch.testing.assert_close(compiled(x), layer(x))
        compiled(x).sum().backward()


def test_autocast():
    layer = SemifieldLinear(5, 4, "tropical_max")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(3, 5).bfloat16()).dtype == torch.float32


def test_a_positive_root_by_parametrisation():
    layer = SemifieldLinear(5, 4, ROOT, init=torch.nn.init.normal_)
    for name in ("weight", "bias"):
        torch.nn.utils.parametrize.register_parametrization(layer, name, torch.nn.Softplus())
    out = layer(torch.rand(3, 5))
    out.sum().backward()
    assert out.isfinite().all()


# ---- initial values ------------------------------------------------------------------------------


def reach(semifield, layers, init):
    """The share of inputs that a sample's gradient reaches, and the deviation of the units."""
    torch.manual_seed(0)
    x = torch.randn(64, 64, requires_grad=True)
    out = x
    for _ in range(layers):
        out = SemifieldLinear(64, 64, semifield, init=init)(out)
    (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
    return (gradient != 0).float().mean().item(), out.std(1).mean().item()


def test_a_deep_network_of_maxima_stays_alive():
    share, deviation = reach("tropical_max", 16, None)
    assert share > 0.3
    assert deviation > 0.4
    for init in ("uniform", torch.nn.init.normal_):
        assert reach("tropical_max", 16, init)[0] < 0.05


def test_a_deep_network_of_logarithms_stays_alive():
    log = sc.SubtractSemifield.log(1.0)
    assert reach(log, 16, None)[1] > 0.3
    assert reach(log, 16, "uniform")[1] < 0.05


@pytest.mark.parametrize("bias", [True, False])
def test_a_callable_fills_one_matrix(bias):
    """Functions of torch.nn.init that need two axes serve, and those that do not stop recording."""
    init = torch.nn.init
    for fill in (init.xavier_uniform_, init.kaiming_normal_, init.orthogonal_, init.eye_):
        torch.manual_seed(0)
        layer = SemifieldLinear(5, 4, "tropical_max", bias=bias, init=fill)
        torch.manual_seed(0)
        columns = [layer.weight] if layer.bias is None else [layer.weight, layer.bias[:, None]]
        assert torch.equal(torch.cat(columns, 1), fill(torch.empty(4, 5 + bias)))

    def halves(matrix):
        matrix[...] = 0.5

    layer = SemifieldLinear(5, 4, "tropical_max", bias=bias, init=halves)
    assert all((p == 0.5).all() and p.requires_grad and p.is_leaf for p in layer.parameters())


@pytest.mark.parametrize("mu", [0.25, 1.0, -2.0])
def test_constants_pass_unchanged_through_logarithms(mu):
    layer = SemifieldLinear(32, 16, sc.SubtractSemifield.log(mu), bias=False)
    torch.testing.assert_close(layer(torch.full((1, 32), 3.0)), torch.full((1, 16), 3.0))


@pytest.mark.parametrize("p", [1.0, 3.0, -2.0])
def test_constants_pass_unchanged_through_roots(p):
    layer = SemifieldLinear(32, 16, sc.SubtractSemifield.root(p), bias=False)
    torch.testing.assert_close(layer(torch.full((1, 32), 3.0)), torch.full((1, 16), 3.0))


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)], ids=str)
@pytest.mark.parametrize("semifield", ["tropical_max", MIN, "tropical_min", "max_times"])
def test_outputs_begin_as_copies(semifield, shape):
    """Inputs so close together that no weight below a copy's wins."""
    inputs, outputs = shape
    layer = SemifieldLinear(inputs, outputs, semifield, bias=False)
    x = 1 + torch.rand(5, inputs)
    extreme = torch.amin if "min" in semifield else torch.amax
    each = np.arange(max(shape))
    copied = [extreme(x[:, each[each % outputs == o] % inputs], 1) for o in range(outputs)]
    torch.testing.assert_close(layer(x), torch.stack(copied, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(in_features=0), ValueError, "in_features must be at least 1"),
        (dict(out_features=2.5), TypeError, "out_features must be an integer"),
        (dict(semifield="max"), ValueError, "did you mean"),
        (dict(semifield=3), TypeError, "semifield must be"),
        (dict(init="zeros"), ValueError, 'init must be "copies", "uniform" or a callable'),
        (dict(semifield="linear", init="copies"), ValueError, 'init="copies" serves'),
        (dict(bias="yes"), TypeError, "bias must be a bool"),
        (dict(dtype=torch.int32), TypeError, "dtype must be a floating .*, got torch.int32"),
        (dict(dtype=torch.complex64), TypeError, "dtype must be a floating .*, got torch.complex"),
        (dict(dtype="float32"), TypeError, "dtype must be a floating .*, got 'float32'"),
    ],
)
def test_arguments_that_do_not_fit(arguments, error, message):
    with pytest.raises(error, match=message):
        SemifieldLinear(**(dict(in_features=3, out_features=2, semifield="linear") | arguments))


def test_a_multiplication_without_one_has_no_bias():
    semifield = sc.SelectSemifield(lambda a, b: b > a, lambda i, k: 3 * i - 2 * k, zero=-np.inf)
    with pytest.raises(ValueError, match="bias=True needs a multiplication with a neutral element"):
        SemifieldLinear(3, 2, semifield)
    assert SemifieldLinear(3, 2, semifield, bias=False)(torch.ones(3)).shape == (2,)


def test_inputs_that_do_not_fit():
    layer = SemifieldLinear(3, 2, "tropical_max")
    with pytest.raises(ValueError, match=r"3 features on its last axis, got shape \(4,\)"):
        layer(torch.ones(4))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0] * 3, "the input must be a torch.Tensor, got list"),
        (np.ones(3), "the input must be a torch.Tensor, got ndarray"),
        (torch.ones(3, dtype=torch.int64), r"got input torch.int64 .* input.to\(weight.dtype\)"),
        (torch.ones(3).double(), "input and weight must have one dtype, got input torch.float64"),
        (torch.ones(2, 3).to_sparse(), "input must be a dense tensor, got layout torch.sparse_coo"),
    ],
    ids=["list", "array", "int64", "float64", "sparse"],
)
def test_inputs_of_another_kind(x, message, bias):
    with pytest.raises(TypeError, match=message):
        SemifieldLinear(3, 2, "tropical_max", bias=bias)(x)


def test_an_input_on_another_device():
    with pytest.raises(ValueError, match="input and weight must be on one device, got input on me"):
        SemifieldLinear(3, 2, "tropical_max")(torch.ones(3, device="meta"))


@pytest.mark.parametrize("bias", [True, False])
def test_an_init_that_fills_nothing_is_refused(bias):
    with pytest.raises(ValueError, match="init must fill the matrix that it is given in place"):
        SemifieldLinear(3, 2, "tropical_max", bias=bias, init=torch.zeros_like)


@pytest.mark.parametrize(("family", "name"), [("log", "mu"), ("root", "p")])
def test_it_learns_its_parameter(family, name):
    torch.manual_seed(0)
    own = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64))
    layer = SemifieldLinear(5, 4, family, **{name: own}, bias=False, dtype=torch.float64)
    constant = torch.full((5,), 1.5, dtype=torch.float64)
    torch.testing.assert_close(layer(constant), constant[:4])  # rows are divided by their sums
    x = torch.rand(7, 5, dtype=torch.float64) + 0.5
    expected = [
        semifield_matmul(x, layer.weight[n], getattr(sc.SubtractSemifield, family)(value.item()))
        for n, value in enumerate(own)
    ]
    torch.testing.assert_close(layer(x), torch.stack(expected, -1))
    layer(x).square().sum().backward()
    assert own.grad.all()
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same(x), layer(x))
        assert name in dict(same.named_parameters())
    before = own.detach().clone()
    SemifieldLinear.reset_parameters(layer)
    assert torch.equal(own, before)
    fixed = SemifieldLinear(5, 4, family, **{name: torch.tensor(2.0)}, init="uniform")
    assert list(fixed.state_dict()) == ["weight", "bias", name]
    with pytest.raises(ValueError, match=rf"{name} must be one number, .* 4 outputs, got .*\(5,\)"):
        SemifieldLinear(5, 4, family, **{name: torch.ones(5)})
    with pytest.raises(TypeError, match=f"pass {name}="):
        SemifieldLinear(5, 4, family)
