"""Roots are of numbers >= 0: which kernels they take, and what they say of the others."""

import copy
import warnings

import pytest
import torch
from torch import nn

import torch_bridge as semiconv
from torch_bridge import BroadcastSemifield, SubtractSemifield

FUSED = SubtractSemifield.root(3.0).dynamic
IMG = torch.rand(2, 1, 6, 7)
OWN = {
    "learned": lambda: semiconv.LearnedKernel2D(1, 4, 2),
    "learned, any dimension": lambda: semiconv.LearnedKernel(1, 4, (2, 3)),
    "spectral": lambda: semiconv.QuadraticKernelSpectral2D(1, 4, 3),
    "cholesky": lambda: semiconv.QuadraticKernelCholesky(1, 4, (3, 2)),
    "iso": lambda: semiconv.QuadraticKernelIso2D(1, 4, 3),
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
    with pytest.raises(ValueError, match=r"root\(p=3.0\) is defined for numbers >= 0.*softplus"):
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


def test_the_remedies_of_the_message():
    kernel = semiconv.LearnedKernel2D(1, 4, 2)
    nn.utils.parametrize.register_parametrization(kernel, "kernel", nn.Softplus())
    assert generic(kernel, FUSED())(IMG).isfinite().all()

    class Positive(semiconv.QuadraticKernelIso2D):
        def forward(self):
            return super().forward().exp()

    assert generic(Positive(1, 4, 2), FUSED())(IMG).isfinite().all()


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
