"""Gradients of the fused convolutions: by differences, by the peer, at extremes, to the bit."""

import math
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import problems
import pytest
import torch
from problems import GEOMETRIES, SEMIFIELDS, TWICE, inputs, with_gradients

from torch_bridge import BroadcastConv, BroadcastSemifield, SelectSemifield, SubtractSemifield
from torch_bridge.functional import semifield_conv

INF = math.inf


def fused(name):
    semifield = SEMIFIELDS[name][0]
    return lambda img, krn, **arguments: semifield_conv(img, krn, semifield, **arguments)


@pytest.mark.table(2)
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_gradcheck(name, case):
    img, krn, arguments = case
    tensors = inputs(img, krn)
    conv = fused(name)
    assert torch.autograd.gradcheck(lambda *t: conv(*t, **arguments), tensors, fast_mode=True)
    if name in TWICE:
        assert torch.autograd.gradgradcheck(
            lambda *t: conv(*t, **arguments), tensors, fast_mode=True
        )


@pytest.mark.table(5)
@pytest.mark.parametrize("name", [name for name, pair in SEMIFIELDS.items() if pair[1]])
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_fused_is_what_torch_differentiates_itself(name, case):
    img, krn, arguments = case
    tensors = inputs(img, krn)
    if name == "max, shared":  # with ties
        tensors = [(4 * tensor.detach()).round().requires_grad_() for tensor in tensors]
    expected = with_gradients(BroadcastConv(SEMIFIELDS[name][1]), tensors, **arguments)
    found = with_gradients(fused(name), tensors, **arguments)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", range(100, 112))
@pytest.mark.parametrize("name", ["max", "min", "linear", "root", "log"])
def test_fused_equals_pytorch_nd_semiconv(name, seed):
    other = pytest.importorskip("pytorch_nd_semiconv", reason="the package being replaced")
    img, krn, arguments = problems.random_geometry(seed)
    theirs = {
        "max": other.BroadcastSemifield.tropical_max,
        "min": other.BroadcastSemifield.tropical_min_negated,
        "linear": other.BroadcastSemifield.linear,
        "root": lambda: other.BroadcastSemifield.root(3.0),
        "log": lambda: other.BroadcastSemifield.log(-2.0),
    }[name]().dynamic()
    tensors = inputs(img, krn, seed=seed)
    found = with_gradients(fused(name), tensors, **arguments)
    expected = with_gradients(theirs, tensors, **arguments)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_only_the_gradients_that_are_wanted():
    img, krn = inputs((1, 2, 7), (3, 2, 3))
    for wanting in ((True, False), (False, True)):
        tensors = [
            tensor.detach().requires_grad_(want)
            for tensor, want in zip((img, krn), wanting, strict=True)
        ]
        for name in SEMIFIELDS:
            out = fused(name)(*tensors)
            assert out.requires_grad
            out.sum().backward()
            both = torch.autograd.grad(fused(name)(img, krn).sum(), [img, krn])
            for tensor, want, expected in zip(tensors, wanting, both, strict=True):
                assert (tensor.grad is not None) == want
                if want:
                    torch.testing.assert_close(tensor.grad, expected)
                tensor.grad = None
    with torch.no_grad():
        assert not fused("max")(img, krn).requires_grad


def test_a_dilation_saves_one_byte_an_output():
    img, krn = inputs((1, 2, 9, 9), (3, 2, 3, 3), torch.float32)
    out, other = fused("max")(img, krn), fused("log")(img, krn)
    saved = out.grad_fn.saved_tensors  # as long as the output lives
    assert [(t.dtype, tuple(t.shape)) for t in saved] == [(torch.uint8, (1, 3, 7, 7))]
    assert len(other.grad_fn.saved_tensors) == 3


def test_a_second_derivative_that_is_not_offered_is_an_error():
    for name in ("log", "max_times", "max, shared"):
        img, krn = inputs((1, 1, 7), (1, 1, 3))
        (grad,) = torch.autograd.grad(fused(name)(img, krn).square().sum(), img, create_graph=True)
        refusal = f"second derivative .* got {re.escape(repr(SEMIFIELDS[name][0]))}\\."
        with pytest.raises(RuntimeError, match=refusal):
            grad.sum().backward()


def test_changing_a_saved_tensor_is_an_error():
    img, krn = inputs((1, 1, 7), (1, 1, 3))
    out = fused("log")(img, krn)
    with torch.no_grad():
        img.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# ---- extremes ------------------------------------------------------------------------------------


def gradients(semifield, img, krn, **arguments):
    img, krn = (torch.as_tensor(t)[None, None].clone().requires_grad_() for t in (img, krn))
    out = semifield_conv(img, krn, semifield, **arguments)
    return out.detach(), *torch.autograd.grad(out.sum(), [img, krn])


@pytest.mark.table(1)
@pytest.mark.parametrize("magnitude", [0.0, 1e4, 1e8, -1e8, 1e30])
@pytest.mark.parametrize("mu", [3.0, -3.0])
def test_weights_of_log_sum_to_one_at_any_magnitude(mu, magnitude):
    img = magnitude + torch.linspace(-1, 1, 20)
    out, grad_img, grad_krn = gradients(SubtractSemifield.log(mu), img, torch.zeros(5))
    assert out.isfinite().all()
    assert grad_img.isfinite().all()
    torch.testing.assert_close(grad_img.sum(), torch.tensor(16.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(grad_krn.sum(), torch.tensor(16.0), rtol=1e-5, atol=0)


@pytest.mark.table(1)
@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e15])
def test_root_has_gradients_at_zeros_and_at_any_scale(scale):
    root = SubtractSemifield.root(3.0)
    img = scale * torch.tensor([0.0, 3.0, 0.0, 4.0, 0.0, 0.0, 0.0])
    out, grad_img, grad_krn = gradients(root, img, torch.ones(2))
    norm = (27 + 64) ** (1 / 3)
    expected = scale * torch.tensor([3.0, 3.0, 4.0, 4.0, 0.0, 0.0])
    torch.testing.assert_close(out[0, 0], expected)
    assert grad_img.flatten().tolist() == pytest.approx([0, 2, 0, 2, 0, 0, 0])
    assert grad_krn.isfinite().all()
    both, grad_img, _ = gradients(root, img[[1, 3]], torch.ones(2))
    assert both.item() == pytest.approx(scale * norm)
    assert grad_img.flatten().tolist() == pytest.approx([9 / norm**2, 16 / norm**2])


@pytest.mark.table(1)
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_windows_of_nothing_have_gradient_zero(name):
    semifield = SEMIFIELDS[name][0]
    zero = semifield.zero
    img, krn = torch.full((3,), zero).double(), torch.full((2,), 0.5).double()
    out, grad_img, grad_krn = gradients(semifield, img, krn, padding=4)
    assert (out == zero).all()
    assert grad_img.isfinite().all()
    assert not grad_krn.any()
    if name != "linear":  # and max_times' zero is a number like others
        assert name == "max_times" or not grad_img.any()


@pytest.mark.table(2)
@pytest.mark.parametrize("name", ["max", "min", "max, channels added", "max, shared", "log"])
def test_zeros_beside_numbers(name):
    semifield = SEMIFIELDS[name][0]
    img = torch.tensor([1.0, semifield.zero, 2.0, semifield.zero, semifield.zero, 1.0]).double()
    out, grad_img, grad_krn = gradients(semifield, img, torch.zeros(2).double())
    assert out.isfinite().sum() == 4
    assert grad_img.flatten().tolist() == [1, 0, 2, 0, 0, 1]
    assert grad_krn.abs().sum() == 4


EDGES = [
    # semifield, image, kernel, the gradients of both
    ("log(2)", [INF, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]),
    ("log(-2)", [-INF, 1.0, -INF], [0.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.5, 0.0, 0.5]),
    ("log(2)", [1.0, 2.0], [0.0, INF], [0.0, 1.0], [0.0, 1.0]),
    ("root(-2)", [INF, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]),
    ("root(-2)", [INF, INF], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]),
    ("root(-2)", [0.0, 1.0], [2.0, 1.0], [2.0, 0.0], [0.0, 0.0]),
    ("root(3)", [INF, 1.0], [2.0, 1.0], [2.0, 0.0], [INF, 0.0]),
    ("root(3)", [0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]),
]


@pytest.mark.table(5)
@pytest.mark.parametrize("make", [SubtractSemifield, BroadcastSemifield])
@pytest.mark.parametrize(("name", "img", "krn", "by_img", "by_krn"), EDGES)
def test_gradients_beside_infinities(make, name, img, krn, by_img, by_krn):
    """By the kernels, and by torch's own derivative of array functions."""
    kind, parameter = name.removesuffix(")").split("(")
    semifield = getattr(make, kind)(float(parameter))
    img, krn = (torch.tensor(numbers, dtype=torch.float64) for numbers in (img, krn))
    _, grad_img, grad_krn = gradients(semifield, img, krn, kind="corr")
    assert grad_img.flatten().tolist() == by_img
    assert grad_krn.flatten().tolist() == by_krn


@pytest.mark.parametrize("make", [SubtractSemifield, BroadcastSemifield])
def test_a_root_with_an_infinite_slope_at_zero(make):
    """No term of a black pixel depends on its weight, and of a weight of 0 on its pixel."""
    root = make.root(0.5)
    black, ones = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for img, krn, without in ((black, ones, 2), (ones, black, 1)):
        found = gradients(root, img, krn, kind="corr")
        assert found[without].flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("make", [SubtractSemifield, BroadcastSemifield])
def test_an_infinite_pixel_that_takes_no_part(make):
    img = torch.tensor([[[INF, 1.0, 2.0]]], dtype=torch.float64)
    krn = torch.ones(1, 1, 1, dtype=torch.float64, requires_grad=True)
    out = semifield_conv(img, krn, make.linear())
    (out * torch.tensor([0.0, 1.0, 1.0])).sum().backward()
    assert krn.grad.item() == 3


def test_the_product_of_array_functions_is_differentiated_in_every_way():
    """Forward, twice and batched, as torch's own product."""
    tensors = inputs((1, 2, 5), (2, 2, 2))
    conv = partial(semifield_conv, semifield=BroadcastSemifield.root(3.0))
    assert torch.autograd.gradcheck(conv, tensors, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(conv, tensors)


# ---- bits ----------------------------------------------------------------------------------------


@pytest.mark.table(1)
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_the_same_bits_in_each_run_and_with_any_number_of_threads(name):
    tensors = inputs((4, 4, 40, 40), (4, 2, 5, 5))
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (2, 2, 1):
            torch.set_num_threads(count)
            runs.append(with_gradients(fused(name), tensors, groups=2, padding="same"))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        for found, expected in zip(run, runs[0], strict=True):
            assert torch.equal(found, expected)


# ---- dtypes --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["max", "log"])
def test_half_precision(name, dtype):
    tensors = [t.detach().to(dtype).requires_grad_() for t in inputs((2, 3, 9, 9), (4, 3, 3, 3))]
    wide = [tensor.detach().float().requires_grad_() for tensor in tensors]
    found = with_gradients(fused(name), tensors, padding=1)
    expected = with_gradients(fused(name), wide, padding=1)
    for half, full in zip(found, expected, strict=True):
        assert half.dtype == dtype
        torch.testing.assert_close(half.float(), full, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_integers_saturate(dtype):
    largest = torch.iinfo(dtype).max
    img = torch.tensor([[[0, largest, 1]]]).to(dtype)
    krn = torch.tensor([[[0, 1, 0]]]).to(dtype)
    out = semifield_conv(img, krn, "tropical_max", padding="same")
    assert out.dtype == dtype
    assert out[0, 0, 1] == largest
    with pytest.raises(TypeError, match="floating"):
        semifield_conv(img, krn, SubtractSemifield.linear())
    with pytest.raises(TypeError, match="complex64"):
        semifield_conv(img.to(torch.complex64), krn.to(torch.complex64), "tropical_max")


def test_any_strides_without_a_copy():
    img, krn = inputs((6, 5, 4, 7), (3, 3, 4, 2))
    img = img.detach().permute(2, 0, 3, 1)[:, ::2].requires_grad_()
    krn = krn.detach().permute(2, 1, 0, 3).requires_grad_()
    for name in SEMIFIELDS:
        found = with_gradients(fused(name), [img, krn], padding=1)
        copies = [tensor.detach().contiguous().requires_grad_() for tensor in (img, krn)]
        expected = with_gradients(fused(name), copies, padding=1)
        for one, other in zip(found, expected, strict=True):
            if isinstance(SEMIFIELDS[name][0], SelectSemifield):
                assert torch.equal(one, other)
            else:  # the vectors' axis follows the strides, and a sum's order follows the vectors
                torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


def test_empty_batches_and_images():
    img, krn = inputs((0, 2, 5), (3, 2, 3))
    out, *grads = with_gradients(fused("max"), [img, krn])
    assert out.shape == (0, 3, 3)
    assert not grads[1].any()
    img, krn = inputs((1, 2, 0), (3, 2, 3))
    out, *grads = with_gradients(fused("max"), [img, krn], padding=2)
    assert (out == -math.inf).all()
    assert not grads[1].any()


WITHOUT_A_COMPILER = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from problems import SEMIFIELDS, inputs, with_gradients
from torch_bridge.functional import semifield_conv

tensors = inputs((1, 2, 6, 6), (2, 2, 3, 3))
found = with_gradients(lambda *t: semifield_conv(*t, SEMIFIELDS["log"][0]), tensors)
half = [tensor.detach().bfloat16().requires_grad_() for tensor in tensors]
halves = with_gradients(lambda *t: semifield_conv(*t, SEMIFIELDS["max"][0]), half)
torch.save((found, halves), sys.argv[2])
"""


def test_without_a_compiler(tmp_path):
    folder, results = Path(__file__).parent, tmp_path / "results.pt"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_COMPILER, folder, results],
        env={**os.environ, "CXX": "/nonexistent/c++", "SEMICONV_CACHE_DIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "slow array loops" in done.stderr
    assert "/nonexistent/c++" in done.stderr
    found, halves = torch.load(results)
    tensors = inputs((1, 2, 6, 6), (2, 2, 3, 3))
    torch.testing.assert_close(found, with_gradients(fused("log"), tensors))
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in tensors]
    expected = with_gradients(fused("max"), [t.detach().double().requires_grad_() for t in half])
    assert halves[1].dtype == torch.bfloat16
    for one, other in zip(halves, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0.02, atol=0.02)


def test_tensors_at_odd_addresses():
    tensors = inputs((1, 2, 6, 6), (2, 2, 3, 3))

    def moved(tensor):
        memory = bytearray(1) + tensor.detach().numpy().tobytes()
        odd = torch.frombuffer(memory, dtype=tensor.dtype, offset=1).view(tensor.shape)
        assert odd.data_ptr() % 2
        return odd.requires_grad_()

    for name in ("max", "log"):
        torch.testing.assert_close(
            with_gradients(fused(name), [moved(tensor) for tensor in tensors]),
            with_gradients(fused(name), tensors),
        )


def test_the_users_own_semifield():
    semifield = SelectSemifield(lambda a, b: abs(b) > abs(a), lambda img, krn: img * krn, zero=0.0)
    img, krn = inputs((2, 2, 7), (2, 2, 3))
    assert torch.autograd.gradcheck(
        lambda *t: semifield_conv(*t, semifield), (img, krn), fast_mode=True
    )
