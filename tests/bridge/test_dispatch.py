"""Calls that go straight to their kernel, and everything that must still see a call."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from semiconv_cupy import SelectSemifield
from torch_bridge.functional import semifield_conv, semifield_matmul

PLAIN = ("semiconv::forward", "semiconv::product")


def both(img, krn, semifield="tropical_max"):
    """A convolution and a product of the same numbers, which have equal results."""
    product = semifield_matmul(img.flatten(1), krn.flatten(1).mT, semifield)
    return semifield_conv(img, krn, semifield, kind="corr").flatten(1), product


def tensors():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(4, 3, 2, generator=generator), torch.randn(5, 3, 2, generator=generator))


class Names(TorchDispatchMode):
    """Which operators a mode of dispatch sees."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.seen.add(function.name())
        return function(*arguments, **(keywords or {}))


class Functions(TorchFunctionMode):
    """Which functions a mode of functions sees."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        self.seen.add(str(function))
        return function(*arguments, **(keywords or {}))


class Subclass(torch.Tensor):
    """A subclass that behaves as torch's own tensor, and stays what it is."""


def test_modes_see_each_operator():
    img, krn = (tensor.requires_grad_() for tensor in tensors())
    with Names() as mode:
        for out in both(img, krn):
            out.sum().backward()
    assert mode.seen >= {*PLAIN, "semiconv::backward", "semiconv::product_backward"}
    with Functions() as functions:
        both(*tensors())
    assert {"semiconv.forward", "semiconv.product"} <= functions.seen


def test_profilers_see_each_operator():
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        both(*tensors())
    assert set(PLAIN) <= {event.key for event in profiler.key_averages()}


def test_lazily_negated_numbers():
    img, krn = tensors()
    negated = torch.complex(torch.zeros_like(img), -img).conj().imag
    assert negated.is_neg()
    torch.testing.assert_close(negated, img)
    for found, expected in zip(both(negated, krn), both(img, krn), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_subclasses_stay_subclasses():
    img, krn = tensors()
    for found, expected in zip(both(img.as_subclass(Subclass), krn), both(img, krn), strict=True):
        assert type(found) is Subclass
        torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, rtol=0, atol=0)


def test_meta_tensors_have_shapes_alone():
    img, krn = (tensor.to("meta") for tensor in tensors())
    for out in both(img, krn):
        assert out.is_meta
        assert out.shape == (4, 5)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("semifield", ["tropical_max", SelectSemifield.max_times()])
def test_contexts_of_autograd(context, semifield):
    img, krn = tensors()
    expected = both(img, krn, semifield)
    with context():
        for found, right in zip(
            both(img, torch.nn.Parameter(krn), semifield), expected, strict=True
        ):
            assert found.requires_grad == (context is torch.enable_grad)
            torch.testing.assert_close(found.detach(), right, rtol=0, atol=0)
