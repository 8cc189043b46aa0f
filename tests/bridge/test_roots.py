"""Roots are of numbers >= 0: which kernels they take, and what they say of the others."""

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import torch_bridge as semiconv
from torch_bridge import BroadcastSemifield, SubtractSemifield

FUSED = SubtractSemifield.root(3.0).dynamic
IMG = torch.rand(2, 1, 6, 7)
OWN = {
    "learned": partial(semiconv.LearnedKernel2D, 1, 4, 2),
    "learned, any dimension": partial(semiconv.LearnedKernel, 1, 4, (2, 3)),
    "spectral": partial(semiconv.QuadraticKernelSpectral2D, 1, 4, 3),
    "cholesky": partial(semiconv.QuadraticKernelCholesky, 1, 4, (3, 2)),
    "iso": partial(semiconv.QuadraticKernelIso2D, 1, 4, 3),
}


class Weights(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-2, 2, 16).view(4, 1, 2, 2))
        self.function = function

    def forward(self):
        return self.function(self.weight)


def generic(kernel, conv):
    return semiconv.GenericConv(kernel, conv, padding="same")


def closing(kernel, conv):
    return semiconv.GenericClosing(kernel, conv, conv, padding="same")


def opening(kernel, conv):
    return semiconv.GenericOpening(kernel, conv, conv, padding="same")


@pytest.mark.parametrize("joined", [generic, closing, opening])
@pytest.mark.parametrize("lazy_fixed", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_kernels_that_cannot_be_positive_are_refused(name, lazy_fixed, joined):
    root = SubtractSemifield.root(3.0)
    conv = root.lazy_fixed() if lazy_fixed else root.dynamic()
    with pytest.raises(
        ValueError,
        match=r"root\(p=3.0\) is defined for numbers >= 0.*"
        rf"{type(OWN[name]()).__name__}\(..., positive=\"exp\"\)",
    ):
        joined(OWN[name](), conv)


@pytest.mark.parametrize("name", OWN)
def test_a_kernel_without_values_is_refused_when_it_has_them(name):
    with torch.device("meta"):
        model = generic(OWN[name](), FUSED())
    original = OWN[name]()
    model.to_empty(device="cpu").load_state_dict(
        {f"kernel.{key}": value for key, value in original.state_dict().items()}
    )
    for _ in range(2):  # at every call, not the first alone
        with pytest.raises(ValueError, match="softplus"):
            model(IMG)


def test_kernels_of_others_are_refused_by_their_values():
    model = generic(Weights(lambda weight: weight), FUSED())
    with pytest.raises(ValueError, match="Weights has values down to -2"):
        model(IMG)


@pytest.mark.parametrize(
    "function",
    [torch.exp, nn.functional.softplus, torch.square],
    ids=lambda function: function.__name__,
)
def test_positive_kernels_serve_and_train(function):
    model = generic(Weights(function), FUSED())
    model(IMG).sum().backward()
    assert model.kernel.weight.grad.isfinite().all()
    assert torch.equal(copy.deepcopy(model)(IMG), model(IMG))


POSITIVE = {"exp": torch.exp, "softplus": nn.functional.softplus}


def test_a_free_parametrisation_serves_too():
    kernel = semiconv.LearnedKernel2D(1, 4, 2)
    nn.utils.parametrize.register_parametrization(kernel, "kernel", nn.Softplus())
    assert generic(kernel, FUSED())(IMG).isfinite().all()


@pytest.mark.parametrize("positive", POSITIVE)
@pytest.mark.parametrize("name", OWN)
def test_positive_by_construction(name, positive):
    torch.manual_seed(0)
    kernel = OWN[name](positive=positive)
    plain = OWN[name]()
    plain.load_state_dict(kernel.state_dict())  # the same parameters mean the same function
    assert torch.equal(kernel(), POSITIVE[positive](plain()))
    assert f"positive='{positive}'" in repr(kernel)
    assert "positive" not in repr(plain)
    for joined in (generic, closing, opening):
        joined(kernel, FUSED())  # no longer refused
    model = generic(kernel, FUSED())
    model(IMG).sum().backward()
    for parameter in kernel.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(IMG), model(IMG))


@pytest.mark.parametrize("positive", POSITIVE)
def test_a_free_positive_kernel_starts_around_one(positive):
    torch.manual_seed(0)
    kernel = semiconv.LearnedKernel(1, 1, 4001, ndim=1, positive=positive)
    for _ in range(2):
        assert kernel().median().item() == pytest.approx(1, abs=0.1)
        kernel.reset_parameters()


def test_a_root_with_exp_is_the_exponential_of_log():
    kernel = semiconv.QuadraticKernelCholesky(1, 2, (3, 2), dtype=torch.float64)
    positive = semiconv.QuadraticKernelCholesky(1, 2, (3, 2), positive="exp", dtype=torch.float64)
    positive.load_state_dict(kernel.state_dict())
    img = torch.randn(1, 1, 5, 6, dtype=torch.float64)
    log = generic(kernel, SubtractSemifield.log(3.0).dynamic())(img)
    torch.testing.assert_close(generic(positive, FUSED())(img.exp()), log.exp())


@pytest.mark.parametrize("odd", ["relu", "EXP", "", True, 1, ("exp",), torch.ones(2)])
def test_an_odd_positive_is_refused(odd):
    with pytest.raises(ValueError, match=r"positive must be one of \['softplus', 'exp'\] or None"):
        semiconv.LearnedKernel2D(1, 1, 3, positive=odd)


def test_compiled_without_a_graph_break():
    model = generic(Weights(torch.exp), FUSED())
    run = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(IMG), model(IMG))


@pytest.mark.parametrize(
    "kernel", [OWN["iso"], lambda: Weights(lambda weight: weight)], ids=["iso", "weights"]
)
def test_an_array_function_warns_once_and_computes(kernel):
    """As in pytorch_nd_semiconv, one of whose documented examples is this."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = generic(kernel(), BroadcastSemifield.root(3.0).dynamic())
        out = model(IMG)
        model(IMG)
    (warning,) = caught
    assert "softplus" in str(warning.message)
    assert out.shape == (2, 4, 6, 7)


@pytest.mark.parametrize("semifield", [SubtractSemifield.linear(), BroadcastSemifield.linear()])
def test_other_semifields_take_any_kernel(semifield):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generic(OWN["learned"](), semifield.dynamic())
