"""The C++ node (`ops.node`): the bits of Python's path, and all else that torch expects of a node.

Without a GPU its launches run on the CPU (`driver_on_cpu`), for CPU tensors.
"""

import copy
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from driver_on_cpu import DriverOnCpu
from processes import group_is_alive, wait_for
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from semiconv_cupy import BackendUnavailableError, SelectSemifield, SubtractSemifield
from semiconv_cupy.__main__ import main
from semiconv_cupy.backends.host import libraries
from semiconv_cupy.backends.place import Place
from semiconv_cupy.backends.quadratic import Family, on_gpu
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.strides import contiguous_strides
from torch_bridge.arguments import GeometryArguments
from torch_bridge.autograd import ByPython
from torch_bridge.convolutions import _cached_operation
from torch_bridge.functional import semifield_conv
from torch_bridge.ops import handle_of, node
from torch_bridge.ops.backward import prepare_backward
from torch_bridge.ops.conv_node import conv_node, prepare_node
from torch_bridge.ops.executors import Executor
from torch_bridge.ops.forward import prepare_forward
from torch_bridge.ops.node import Operand, Work
from torch_bridge.ops.plans import plan_uncached
from torch_bridge.quadratic.fused import _Family
from torch_bridge.quadratic.kernels import QuadraticKernelIso

pytestmark = pytest.mark.skipif(not node.served(), reason="the compiler makes no node for torch")
CPU = torch.device("cpu")
SEMIFIELDS = {
    "max": "tropical_max",
    "spread": SelectSemifield.tropical_max(spread_gradient=True),
    "log": SubtractSemifield.log(2.0),
}


@pytest.fixture(scope="module")
def functions():
    found = node.library(wait=True)
    assert found is not None
    return found


@pytest.fixture
def device(monkeypatch):
    return DriverOnCpu(monkeypatch)


def drawn(dtype=torch.float32, wants=(True, True), shape=(2, 3, 9, 10)):
    generator = torch.Generator().manual_seed(0)
    img = torch.randn(shape, generator=generator).to(dtype)  # no ties, but in halves
    krn = torch.randn((shape[1], 1, 3, 3), generator=generator).to(dtype)
    return img.requires_grad_(wants[0]), krn.requires_grad_(wants[1])


def operation_of(img, krn, semifield, **arguments):
    """What Python's path computes with, on the CPU."""
    return semifield_conv(img, krn, semifield, **arguments).grad_fn.operation


class Prepared:
    """The node of a depthwise convolution, and Python's path to the same kernels."""

    def __init__(self, functions, device, img, krn, semifield, **arguments):
        self.operation = operation_of(img, krn, semifield, groups=img.shape[1], **arguments)
        self.shapes = tuple(img.shape), tuple(krn.shape)
        self.wants = img.requires_grad, krn.requires_grad
        self.executor = Executor(
            -1, True, lambda: Place("CuPy", 0, device), lambda: True, lambda: None
        )
        key = self.operation.handle.key
        self.plan = plan_uncached(
            key, img.dtype, True, *self.shapes, self.operation.arguments, True
        )
        strides = img.stride(), krn.stride()
        self.node = prepare_node(
            functions, self.plan, self.executor, img.dtype, CPU, strides, self.wants,
            ByPython(self.operation.without_node(), self.shapes),
        )  # fmt: skip

    def by_python(self, img, krn, grad_out):
        """The output and the gradients."""
        img, krn = img.detach(), krn.detach()
        call = prepare_forward(self.plan, self.executor, img.dtype, img.stride(), krn.stride())
        out, residual = call(img, krn)
        needed = self.operation.handle.needs_arrays
        strides = img.stride() if needed else None
        call = prepare_backward(self.plan, self.executor, img.dtype, strides, self.wants)
        grads = call(grad_out, *((img, krn) if needed else (None, None)), residual)
        wanted = zip(grads, self.wants, strict=True)
        return out, [grad if wants else None for grad, wants in wanted]


@pytest.mark.table(4)
@pytest.mark.parametrize("wants", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("max", "float32"), ("log", "float32"), ("max", "float16"), ("spread", "float32")],
)
def test_the_bits_are_those_of_pythons_path(functions, device, name, dtype, wants):
    img, krn = drawn(getattr(torch, dtype), wants)
    prepared = Prepared(functions, device, img, krn, SEMIFIELDS[name], stride=2, padding=1)
    out = prepared.node(img, krn)
    grad_out = torch.randn_like(out)
    expected, grads = prepared.by_python(img, krn, grad_out)
    assert device.launches == 1
    out.backward(grad_out.transpose(2, 3).contiguous().transpose(2, 3))  # as torch may lay it out
    torch.testing.assert_close(out.detach(), expected, rtol=0, atol=0)
    for tensor, grad in zip((img, krn), grads, strict=True):
        torch.testing.assert_close(tensor.grad, grad, rtol=0, atol=0)


@pytest.fixture
def recorded_by_node(functions, device):
    """Two tensors, and a convolution of them that the public function records by a node."""
    img, krn = drawn()
    prepared = Prepared(functions, device, img, krn, "tropical_max", padding=1)
    prepared.operation.node = prepared.node

    def convolve(img, krn):
        return semifield_conv(img, krn, "tropical_max", groups=3, padding=1)

    yield img, krn, convolve
    prepared.operation.node = None  # torch's caches keep the operation


def by_torch(img, krn):
    """The same by plain tensors, which torch differentiates as often as one likes."""
    padded = torch.nn.functional.pad(img, (1, 1, 1, 1), value=-float("inf"))
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
    return (windows + krn.flip(2, 3).reshape(1, 3, 1, 1, 9)).amax(-1)


def test_the_public_function_calls_it(recorded_by_node, device):
    img, krn, convolve = recorded_by_node
    out = convolve(img, krn)
    assert out.grad_fn.name() == "SemifieldBackward"
    assert device.launches == 1
    expected = by_torch(img, krn)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    found, wanted = (torch.autograd.grad((one**2).sum(), (img, krn)) for one in (out, expected))
    torch.testing.assert_close(found, wanted)


def test_other_tensors_go_through_python(recorded_by_node, device):
    img, krn, convolve = recorded_by_node
    others = {
        "no gradient of img": (img.detach(), krn),
        "other strides": (img.detach().transpose(2, 3).contiguous().transpose(2, 3), krn),
        "another dtype": (img.double(), krn.double()),
        "a parameter's view": (img, krn[:1].expand(3, 1, 3, 3)),
    }
    for given in others.values():
        assert convolve(*given).grad_fn.name() != "SemifieldBackward"
    with torch.no_grad():
        convolve(img, krn)
    assert device.launches == 0


def test_a_second_derivative_and_fewer_gradients_are_pythons(recorded_by_node, device):
    img, krn, convolve = recorded_by_node

    def twice(out):
        grads = torch.autograd.grad((out**3).sum(), (img, krn), create_graph=True)
        assert device.launches == 1  # forward alone
        return grads, torch.autograd.grad(sum((grad**2).sum() for grad in grads), (img, krn))

    grads, second = twice(convolve(img, krn))
    device.launches = 1
    torch.testing.assert_close((grads, second), twice(by_torch(img, krn)))
    (alone,) = torch.autograd.grad((convolve(img, krn) ** 3).sum(), krn)
    assert device.launches == 2
    torch.testing.assert_close(alone, grads[1].detach())


def test_errors_are_raised_where_torch_raises_them(recorded_by_node, functions, device):
    img, krn, convolve = recorded_by_node
    out = convolve(img, krn)
    out.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        out.sum().backward()
    log = Prepared(functions, device, img, krn, SEMIFIELDS["log"], padding=1)
    out = log.node(img, krn)
    grads = torch.autograd.grad(out.sum(), (img, krn), create_graph=True)
    with pytest.raises(RuntimeError, match=r"second derivative .* is offered for selections"):
        (grads[0] ** 2).sum().backward()
    out = log.node(img, krn)
    with torch.no_grad():
        img += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
    out = log.node(img, krn)
    device.failures += [700]
    with pytest.raises(RuntimeError, match="CUDA error 700 of cuLaunchKernel"):
        out.sum().backward()
    device.failures += [700]
    assert log.node(img, krn) is None  # Python's path repeats the call and raises


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, BackendUnavailableError, torch.OutOfMemoryError]
)
def test_errors_of_python_keep_their_class(functions, device, error):
    def fall_back(*_):
        raise error("too far")

    empty, tensor = torch.empty(0), torch.ones(3, 1, 2, requires_grad=True)
    operand = Operand(tuple(tensor.shape), tensor.stride(), True)
    calls = on_gpu(Family("spectral", "float32", (3, 3), 3), device)
    work = Work(operand, None, (3, 3), None, empty, empty, empty, saves_tensors=True)
    out = node.Node(functions, work, calls.launches, device.driver(), fall_back)
    device.failures += [0]
    with pytest.raises(error, match="too far"):
        torch.autograd.grad(out(tensor, None).sum(), tensor, create_graph=True)


def test_a_thread_that_is_new_to_cuda_is_given_the_context(recorded_by_node, device):
    img, krn, convolve = recorded_by_node
    device.failures += [201]
    out = convolve(img, krn)
    assert device.contexts == [99]
    torch.testing.assert_close(out, by_torch(img, krn), rtol=0, atol=0)


def test_hooks_of_the_node_are_called(recorded_by_node):
    img, krn, convolve = recorded_by_node
    expected = torch.autograd.grad(convolve(img, krn).sum(), (img, krn))
    out = convolve(img, krn)
    out.grad_fn.register_prehook(lambda grads: (2 * grads[0],))
    found = torch.autograd.grad(out.sum(), (img, krn))
    torch.testing.assert_close(found, tuple(2 * grad for grad in expected), rtol=0, atol=0)


def test_what_plain_launches_do_not_compute_has_no_node(functions, device):
    """Ordinary sums, empty outputs, dtypes without gradients of their own."""
    executor = Executor(-1, True, lambda: Place("CuPy", 0, device), lambda: True, lambda: None)
    cases = {
        "sums": ("linear", (64, 32, 40, 40), (32, 32, 3, 3), torch.float32),
        "no image": ("tropical_max", (0, 1, 9, 9), (1, 1, 3, 3), torch.float32),
        "integers": ("tropical_max", (2, 1, 9, 9), (1, 1, 3, 3), torch.int32),
    }
    for semifield, img_shape, krn_shape, dtype in cases.values():
        arguments = GeometryArguments.of(Geometry.plan(img_shape, krn_shape))
        shapes = img_shape, krn_shape
        plan = plan_uncached(handle_of(semifield).key, dtype, True, *shapes, arguments, True)
        strides = tuple(map(contiguous_strides, shapes))
        given = functions, plan, executor, dtype, CPU, strides, (True, True), None
        assert prepare_node(*given) is None


class Functions(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def profiled(convolve, img, krn):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        return convolve(img, krn)


def under_function_mode(convolve, img, krn):
    with Functions():
        return convolve(img, krn)


def under_dispatch_mode(convolve, img, krn):
    with Operators() as mode:
        out = convolve(img, krn)
    assert any("semiconv.forward" in name for name in mode.seen)
    return out


def packed(convolve, img, krn):
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        return convolve(img, krn)


def of_a_subclass(convolve, img, krn):
    return convolve(img.as_subclass(type("Subclass", (torch.Tensor,), {})), krn)


def with_tangents(convolve, img, krn):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(img, torch.ones_like(img))
        return convolve(dual, krn)


def transformed(convolve, img, krn):
    return torch.func.vjp(convolve, img, krn)[0]


@pytest.mark.parametrize(
    "call",
    [profiled, under_function_mode, under_dispatch_mode, packed, of_a_subclass, with_tangents,
     transformed],
)  # fmt: skip
def test_what_has_to_see_a_call_sees_pythons(recorded_by_node, device, call):
    img, krn, convolve = recorded_by_node
    out = call(convolve, img, krn)
    assert device.launches == 0
    torch.testing.assert_close(out.detach().as_subclass(torch.Tensor), by_torch(img, krn).detach())


def test_a_mode_sees_the_backward_pass(recorded_by_node, device):
    img, krn, convolve = recorded_by_node
    out = convolve(img, krn)
    with Operators() as mode:
        grads = torch.autograd.grad(out.sum(), (img, krn))
    assert any("semiconv.backward" in name for name in mode.seen)
    expected = torch.autograd.grad(convolve(img, krn).sum(), (img, krn))
    torch.testing.assert_close(grads, expected)


def test_compiled_autograd_says_the_remedy(recorded_by_node):
    img, krn, convolve = recorded_by_node
    out = convolve(img, krn)
    enabled = torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager"))
    with enabled, pytest.raises(NotImplementedError, match="SEMICONV_NODE=0"):
        out.sum().backward()


def test_nothing_is_left_behind(recorded_by_node, device):
    """No leak in 1,000 steps, and a kept gradient of the kernel keeps nothing else alive."""
    img, krn, convolve = recorded_by_node
    device.failures += [0] * 4000  # no errors, and nothing is run
    convolve(img, krn).sum().backward()
    alive = weakref.ref(img.grad.untyped_storage())
    kept, img.grad = krn.grad, None
    gc.collect()
    assert kept.untyped_storage().nbytes() == 3 * 9 * 4
    assert alive() is None or alive().nbytes() == 0
    resource = pytest.importorskip("resource")
    for step in range(1000):
        if step == 100:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        convolve(img, krn).sum().backward()
        del krn.grad, img.grad
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2048  # KiB


def test_a_plan_lives_as_long_as_graphs_that_need_it(functions, device):
    def fall_back(*_):
        raise AssertionError

    calls = on_gpu(Family("isotropic", "float32", (3, 3), 3), device)
    empty, tensor = torch.empty(0), torch.ones(3, 1, requires_grad=True)
    operand = Operand(tuple(tensor.shape), tensor.stride(), True)
    work = Work(operand, None, (3, 1, 3, 3), None, empty, empty, empty, saves_tensors=True)
    made = node.Node(functions, work, calls.launches, device.driver(), fall_back)
    for function in (copy.copy, copy.deepcopy, pickle.dumps):  # a copy would free it twice
        with pytest.raises(TypeError, match="neither copied nor pickled"):
            function(made)
    alive, out = weakref.ref(fall_back), made(tensor, None)
    del made, fall_back
    gc.collect()
    assert alive() is not None
    out.sum().backward()
    assert tensor.grad is not None
    del out
    gc.collect()
    assert alive() is None


def test_what_has_a_node_is_freed(functions, device):
    """A node keeps what it calls in Python, which must not keep the node."""
    img, krn = drawn()
    prepared = Prepared(functions, device, img, krn, SEMIFIELDS["spread"], padding=1)
    made, operation = prepared.node, prepared.operation
    operation.node = made
    made(img, krn).sum().backward()
    family = _Family.__new__(_Family)  # none is on the CPU
    calls = on_gpu(Family("isotropic", "float32", (3, 3), 3), device)
    family._launches, family._shape = calls.launches, (3, 1, 3, 3)
    kernel = QuadraticKernelIso(1, 3, (3, 3))
    composed = kernel().grad_fn.composed
    assert composed == kernel().grad_fn.composed  # equal ones share a node
    operand = Operand((3, 1), (1, 1), True)
    given = functions, (operand, None), torch.empty(0), device.driver(), composed
    family.node = family.prepare_node(*given)
    family.node(kernel.log_std, None).sum().backward()
    alive = [weakref.ref(one) for one in (made, family.node, family, kernel)]
    _cached_operation.cache_clear()
    del prepared, made, operation, family, kernel
    gc.collect()
    assert [one() for one in alive] == [None] * 4


def test_none_is_made_while_a_graph_is_captured(monkeypatch):
    """What is kept already serves there, too."""
    capturing, made = [True], []

    @node.kept(2)
    def make(number):
        made.append(number)
        return number

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    assert make(7) is None
    capturing[0] = False
    assert make(7) == 7
    capturing[0] = True
    assert make(7) == 7
    assert make(8) is None
    assert made == [7]


def test_several_threads_call_it_at_once(recorded_by_node):
    img, krn, convolve = recorded_by_node
    expected = torch.autograd.grad(convolve(img, krn).sum(), (img, krn))
    found = []

    def work():
        outputs = (convolve(img, krn) for _ in range(20))
        found.extend(torch.autograd.grad(out.sum(), (img, krn)) for out in outputs)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60
    for grads in found:
        torch.testing.assert_close(grads, expected, rtol=0, atol=0)


@pytest.mark.parametrize("covariance", ["spectral", "isotropic"])
def test_quadratic_kernels_have_the_bits_of_their_calls(functions, device, covariance):
    """A node of one tensor, or of two, without a residual."""
    calls = on_gpu(Family(covariance, "float32", (3, 5), 4), device)
    log_std = torch.linspace(-1, 1, 4 if covariance == "isotropic" else 8, requires_grad=True)
    pairs = None if covariance == "isotropic" else torch.linspace(0, 3, 4, requires_grad=True)
    given = log_std, pairs
    operands = [t if t is None else Operand(tuple(t.shape), t.stride(), True) for t in given]
    empty, shape = torch.empty(0), (4, 1, 3, 5)
    work = Work(*operands, shape, None, empty, empty, empty, saves_tensors=True)
    out = node.Node(functions, work, calls.launches, device.driver(), None)(*given)
    expected, grad_out = torch.empty(shape), torch.randn(shape)
    at = [0 if t is None else t.data_ptr() for t in given]
    calls.values(*at, expected.data_ptr(), None)
    assert torch.equal(out, expected)
    out.backward(grad_out)
    grads = [None if t is None else torch.empty_like(t) for t in given]
    places = [0 if t is None else t.data_ptr() for t in grads]
    calls.gradients(*at, grad_out.data_ptr(), *places, None)
    for tensor, grad in zip(given, grads, strict=True):
        assert tensor is None or torch.equal(tensor.grad, grad)


# ---- on a GPU ------------------------------------------------------------------------------------


@pytest.fixture
def on_gpu_too(functions):
    """Tensors on the GPU, their node, and what Python's path gives for them."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    img, krn = (tensor.detach().cuda().requires_grad_() for tensor in drawn(shape=(16, 3, 28, 28)))
    operation = operation_of(
        img.detach().cpu().requires_grad_(), krn.cpu(), "tropical_max", groups=3
    )
    shapes = tuple(img.shape), tuple(krn.shape)
    fall_back = ByPython(operation, shapes)
    found = conv_node(img, krn, operation.handle, operation.arguments, fall_back)
    out, residual = operation.straight(img.detach(), krn.detach(), True)
    grads = operation.gradients(2 * out, None, None, residual, shapes, (True, True))
    return img, krn, found, (out, *grads)


def squared(img, krn, found):
    """The output, and the gradients of the sum of its squares."""
    out = found(img, krn)
    return (out.detach(), *torch.autograd.grad((out**2).sum(), (img, krn)))


@pytest.mark.gpu
def test_streams_and_threads_on_a_gpu(on_gpu_too):
    """Each thread has a stream of its own, and no context before its first launch."""
    img, krn, found, expected = on_gpu_too
    results = []

    def work():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.default_stream())
        with torch.cuda.stream(stream):
            results.extend(squared(img, krn, found) for _ in range(20))
        stream.synchronize()

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 60
    for result in results:
        assert all(map(torch.equal, result, expected))


@pytest.mark.gpu
def test_numbers_have_nodes_when_they_come_again_on_a_gpu(on_gpu_too):
    img, krn, *_ = on_gpu_too
    log = SubtractSemifield.log(2.0)
    outputs = [semifield_conv(img, krn, log, groups=3) for _ in range(6)]
    names = [out.grad_fn.name() for out in outputs]
    assert names[0] != "SemifieldBackward" == names[-1]
    grads = [torch.autograd.grad(out.sum(), (img, krn)) for out in outputs]
    for out, found in zip(outputs, grads, strict=True):
        assert torch.equal(out, outputs[0])
        assert all(map(torch.equal, found, grads[0]))


@pytest.mark.gpu
def test_graphs_on_a_gpu(on_gpu_too):
    img, krn, found, expected = on_gpu_too
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        squared(img, krn, found)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        inside = squared(img, krn, found)
    for tensor in inside:
        tensor.zero_()
    graph.replay()
    assert all(map(torch.equal, inside, expected))


@pytest.mark.gpu
def test_a_capture_makes_no_node_on_a_gpu(functions):
    """The nodes may be compiled after a model has warmed up, just as its graph is captured."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    img = torch.randn(2, 3, 17, 13, device="cuda", requires_grad=True)
    kernel = QuadraticKernelIso(1, 3, (5, 3), device="cuda")  # no other test has made these nodes

    def step():
        krn = kernel()
        out = semifield_conv(img, krn, "tropical_max", groups=3)
        return krn, out, *torch.autograd.grad((out**2).sum(), (img, kernel.log_std))

    def has_nodes(tensors):
        return ["Semifield" in tensor.grad_fn.name() for tensor in tensors[:2]]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch._dynamo.config.patch(compiled_autograd=True):
        expected = step()  # without nodes
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        inside = step()
    graph.replay()
    assert has_nodes(expected) == has_nodes(inside) == [False, False]
    assert has_nodes(after := step()) == [True, True]
    assert all(map(torch.equal, inside, expected))
    assert all(map(torch.equal, after, expected))


@pytest.mark.gpu
def test_memory_on_a_gpu(on_gpu_too):
    """By the least of many readings: autograd's thread may still hold what it has just computed."""
    img, krn, found, _ = on_gpu_too
    gc.collect()  # tensors of other tests
    allocated = []
    for _ in range(400):
        squared(img, krn, found)
        allocated.append(torch.cuda.memory_allocated())
    assert min(allocated[-100:]) <= min(allocated[:100])


def test_the_command_compiles_it_ahead(functions, capsys):
    assert main(["prepare", "torch"]) == 0
    assert capsys.readouterr().out == "1 libraries are ready\n"
    assert node.describe(cuda="13.0") == "ready"
    assert node.describe(cuda=None).startswith("not needed")
    assert not libraries.is_kept("a text that nobody has compiled")
    assert main(["info"]) == 0
    assert re.search(r"^  training node +\w", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("works", [False, True])
def test_a_node_that_does_not_compile_leaves_all_to_python(works, tmp_path):
    """A compiler that cannot make the node is warned of once."""
    made = 'g++ "$@"' if works else "echo not today >&2; exit 1"
    fake = tmp_path / "c++"
    fake.write_text(f'#!/bin/sh\ncase "$*" in *ltorch_cpu*) {made};; *) g++ "$@";; esac\n')
    fake.chmod(0o755)
    code = (
        "import warnings\nwith warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n    from torch_bridge.ops import node\n"
        "    found = [node.library(wait=True) for _ in range(2)]\n"
        "print([one is None for one in found], sum('go through Python' in str(w.message) "
        "for w in seen))"
    )
    environment = {**os.environ, "CXX": str(fake), "SEMICONV_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    expected = "[False, False] 0" if works else "[True, True] 1"
    assert done.stdout.strip() == expected


_SLOW_COMPILER = """#!/bin/sh
case "$*" in *ltorch_cpu*) echo $$ >"$0.pid"; sleep 60;; *) exec g++ "$@";; esac
"""


@pytest.mark.slow
def test_an_exit_while_the_node_compiles_leaves_nothing(tmp_path):
    """Neither a compiler that still runs, nor its folder."""
    fake, cache = tmp_path / "c++", tmp_path / "cache"
    fake.write_text(_SLOW_COMPILER)
    fake.chmod(0o755)
    code = (
        "import os, sys, time\nfrom torch_bridge.ops import node\nassert node.library() is None\n"
        "while not os.path.exists(sys.argv[1]):\n    time.sleep(0.05)\n"
        "if not os.fork():\n    sys.exit()\n"  # a child's exit ends nothing of its parent's
        "os.wait()\nassert node._build().thread.is_alive()\n"
    )
    environment = {**os.environ, "CXX": str(fake), "SEMICONV_CACHE_DIR": str(cache)}
    pid = f"{fake}.pid"
    done = subprocess.run(
        [sys.executable, "-c", code, pid], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(cache.glob("build-*")) == []
    group = int(Path(pid).read_text())
    wait_for(lambda: not group_is_alive(group))  # it is killed, which takes a moment


@pytest.mark.slow
def test_warnings_as_errors_and_a_wrong_variable_are_raised_where_one_calls(tmp_path):
    """Not in the thread that compiles, whose errors nobody catches."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)  # not to be trusted
    code = (
        "import warnings\nfrom torch_bridge.ops import node\nwarnings.simplefilter('error')\n"
        "node.library(wait=%s)\n"
    )
    for variable, wait, expected in (("1", True, "cannot be used"), ("no", False, "must be 0")):
        environment = {
            **os.environ, "SEMICONV_NODE": variable, "SEMICONV_CACHE_DIR": str(cache)
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code % wait],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1
        assert expected in done.stderr.splitlines()[-1]
        assert "Exception in thread" not in done.stderr
