"""Odd values of arguments: a ValueError or TypeError that names the argument."""

import numpy as np
import pytest
import torch

import semiconv_cupy as sc
import torch_bridge as semiconv
from torch_bridge.functional import semifield_conv

ODD = [2**63, 2**64, -1, 0, 1.5, True, "3", None, [], [[1, [2]]], {}, {1}, np.array([1, 2]), 1j]
IMG, KRN = torch.zeros(1, 2, 6, 7), torch.zeros(2, 2, 3, 3)


def of_arrays(function):
    return lambda **odd: function(IMG.numpy(), KRN.numpy(), "tropical_max", **odd)


def generic(**odd):
    conv = sc.SelectSemifield.tropical_max().dynamic()
    return semiconv.GenericConv(semiconv.LearnedKernel2D(2, 2, 3), conv, **odd)(IMG)


FUNCTIONS = {
    "arrays": of_arrays(sc.semifield_conv),
    "gradients of arrays": of_arrays(sc.semifield_conv_vjp),
    "tensors": lambda **odd: semifield_conv(IMG, KRN, "tropical_max", **odd),
    "array functions": lambda **odd: sc.BroadcastSemifield.tropical_max().dynamic()(
        IMG, KRN, **odd
    ),
    "module": generic,
}


def refused(call, name):
    """Whether the value was an error that names the argument; a result is all right, too."""
    message = ""
    try:
        call()
    except (ValueError, TypeError) as error:
        message = str(error)
    assert not message or (name in message and "unhashable" not in message), message
    return bool(message)


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_of_a_convolution(name, odd):
    for argument in ("groups", "kind"):
        # groups of 1.5, kind of anything: never a result.
        assert refused(lambda a=argument: FUNCTIONS[name](**{a: odd}), argument) or odd is None
    for argument in ("stride", "dilation", "padding"):
        fine = argument == "padding" and isinstance(odd, int) and odd == 0
        by_axis = isinstance(odd, np.ndarray)
        done = refused(lambda a=argument: FUNCTIONS[name](**{a: odd}), argument)
        assert done or fine or by_axis


LAYERS = {
    "Dilation": (
        semiconv.Dilation,
        dict(kernel_size=3, ndim=2),
        ("kernel_size", "ndim", "channels"),
    ),
    "DilationPool2d": (semiconv.DilationPool2d, dict(kernel_size=3), ("kernel_size", "channels")),
    "LearnedKernel": (
        semiconv.LearnedKernel,
        dict(in_channels=1, out_channels=1, kernel_size=3, ndim=2),
        ("in_channels", "out_channels", "kernel_size", "ndim"),
    ),
    "CovSpectral": (
        semiconv.CovSpectral,
        dict(in_channels=1, out_channels=1, ndim=2),
        ("in_channels", "out_channels", "ndim"),
    ),
}


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("name", LAYERS)
def test_arguments_of_a_layer(name, odd):
    layer, arguments, names = LAYERS[name]
    for argument in names:
        optional = odd is None and argument == "channels"
        assert optional or refused(lambda a=argument: layer(**{**arguments, a: odd}), argument)


FLAGS = {
    "channels_add": sc.SelectSemifield.tropical_max,
    "spread_gradient": sc.BroadcastSemifield.tropical_min_negated,
    "unfold_copy": sc.BroadcastSemifield.tropical_max().dynamic,
    "debug": sc.SelectSemifield.tropical_max().lazy_fixed,
    "return_indices": lambda **odd: semiconv.DilationPool2d(3, **odd),
    "ceil_mode": lambda **odd: semiconv.DilationPool2d(3, **odd),
}


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("name", FLAGS)
def test_flags(name, odd):
    assert refused(lambda: FLAGS[name](**{name: odd}), name) or isinstance(odd, int)


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("semifield", [sc.SelectSemifield, sc.BroadcastSemifield])
def test_arguments_of_a_check(semifield, odd):
    check = semifield.tropical_max().check
    assert refused(lambda: check(samples=odd), "samples")
    assert refused(lambda: check(seed=odd), "seed") or (isinstance(odd, int) and odd >= 0)
    fine = odd is None or isinstance(odd, np.ndarray)
    assert refused(lambda: check(domain=odd), "domain") or fine


@pytest.mark.parametrize("odd", [*ODD[:2], 2**40, *ODD[2:7]], ids=repr)
@pytest.mark.parametrize("shape", ["ball", "diamond", "cross", "box"])
def test_the_number_of_axes_of_a_footprint(shape, odd):
    assert refused(lambda: getattr(sc.structuring, shape)(1, odd), "ndim")


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_array_functions_refuse_integers(dtype):
    img, krn = IMG.to(dtype), KRN.to(dtype)
    semifield, name = sc.BroadcastSemifield.tropical_max(), str(dtype).removeprefix("torch.")
    for call in (
        lambda: semifield_conv(img, krn, semifield),
        lambda: sc.semifield_conv(img.numpy(), krn.numpy(), semifield),
    ):
        with pytest.raises(TypeError, match=rf"floating arrays only, got (torch\.)?{name}"):
            call()
