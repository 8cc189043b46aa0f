"""The operators themselves: what torch.library and torch.func ask of them, and who owns memory."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_on_cpu.device import HarnessDevice
from problems import GEOMETRIES, SEMIFIELDS, inputs
from torch.func import grad, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from semiconv_cupy.backends.place import Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import needs_arrays
from torch_bridge import SelectSemifield, SubtractSemifield, dlpack, ops
from torch_bridge.arguments import BackwardArguments, ForwardArguments, GeometryArguments
from torch_bridge.functional import semifield_conv
from torch_bridge.ops.backward import prepare_backward
from torch_bridge.ops.executors import Executor, executor_of
from torch_bridge.ops.forward import prepare_forward
from torch_bridge.ops.plans import plan_uncached

FORWARD, BACKWARD = torch.ops.semiconv.forward.default, torch.ops.semiconv.backward.default


def calls(name, case, dtype=torch.float32):
    """Arguments for both operators."""
    semifield = SEMIFIELDS[name][0]
    handle = ops.handle_of(semifield)
    img, krn = (tensor.detach() for tensor in inputs(*case[:2], dtype))
    plan = Geometry.plan(tuple(img.shape), tuple(krn.shape), **case[2])
    geometry = GeometryArguments.of(plan)
    forward = (img, krn, handle.key, *geometry, True)
    out, residual = FORWARD(*forward)
    arrays = (img, krn) if needs_arrays(semifield) else (None, None)
    shapes = [list(tensor.shape) for tensor in (img, krn)]
    backward = (torch.ones_like(out), *arrays, residual, handle.key, *shapes, *geometry, True, True)
    return forward, backward


@pytest.mark.table(1)
@pytest.mark.parametrize("case", GEOMETRIES[:4], ids=str)
@pytest.mark.parametrize("name", ["max", "max, channels added", "log"])
def test_opcheck(name, case):
    forward, backward = calls(name, case)
    torch.library.opcheck(FORWARD, forward)
    torch.library.opcheck(FORWARD, (*forward[:-1], False))
    torch.library.opcheck(BACKWARD, backward)
    torch.library.opcheck(BACKWARD, (*backward[:-1], False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_an_array_is_the_tensors_own_memory(dtype):
    tensor = torch.ones(2, 3, 4, dtype=dtype).transpose(1, 2)[:, 1:]
    array = dlpack.array_of(tensor)
    assert array.ctypes.data == tensor.data_ptr()
    assert array.shape == tensor.shape
    assert array.strides == tuple(s * tensor.element_size() for s in tensor.stride())


def planned(semifield, case, derivative=True, on_gpu=False):
    """The arguments of a geometry and the plan of a call."""
    arguments = GeometryArguments.of(Geometry.plan(*case[:2], **case[2]))
    key, shapes = ops.handle_of(semifield).key, case[:2]
    return arguments, plan_uncached(key, torch.float32, on_gpu, *shapes, arguments, derivative)


def test_the_core_fills_what_torch_allocates():
    (img, krn, *_), _ = calls("max", GEOMETRIES[0])
    _, plan = planned(SEMIFIELDS["max"][0], GEOMETRIES[0])
    seen = []
    call = prepare_forward(
        plan, executor_of(-1), img.dtype, img.stride(), krn.stride(),
        forward_at=lambda *_, **__: lambda *given: seen.extend(given),
    )  # fmt: skip
    out, residual = call(img, krn)
    assert seen[:-1] == [tensor.data_ptr() for tensor in (img, krn, out, residual)]
    assert seen[-1] == torch.get_num_threads()


@pytest.mark.table(3)
@pytest.mark.parametrize("wants", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("case", GEOMETRIES[:4], ids=str)
@pytest.mark.parametrize("name", ["max", "log"])
def test_what_is_prepared_for_a_gpu(name, case, wants):
    """Addresses to the CUDA kernels, by the code that serves CUDA tensors, on the CPU harness."""
    harness = HarnessDevice()
    executor = Executor(-1, True, lambda: Place("CuPy", 0, harness), lambda: True, lambda: None)
    semifield = SEMIFIELDS[name][0]
    arguments, plan = planned(semifield, case, on_gpu=True)
    (img, krn, key, *_), (grad_out, saved, *_) = calls(name, case)
    img = torch.stack([img, img], -1)[..., 1]  # strides that are not contiguous
    call = prepare_forward(plan, executor, img.dtype, img.stride(), krn.stride())
    out, residual = call(img, krn)
    arrays = (None, None) if saved is None else (img, krn)
    strides = None if saved is None else img.stride()
    call = prepare_backward(plan, executor, img.dtype, strides, wants)
    found = call(grad_out, *arrays, residual)
    expected, kept = ops.call_forward(img, krn, key, arguments, True)  # the CPU's
    torch.testing.assert_close(out, expected)
    expected = ops.call_backward(grad_out, *arrays, kept, key, case[:2], arguments, wants)
    torch.testing.assert_close(found, expected)


def test_the_schemas_are_those_that_saved_programs_name():
    geometry = (
        "int[] stride, int[] padding, int[] dilation, int groups, bool group_broadcasting, "
        "bool mirrored"
    )
    assert str(FORWARD._schema) == (
        f"semiconv::forward(Tensor img, Tensor krn, str semifield, {geometry}, bool residual)"
        " -> (Tensor out, Tensor residual)"
    )
    assert str(BACKWARD._schema) == (
        "semiconv::backward(Tensor grad_out, Tensor? img, Tensor? krn, Tensor residual, "
        f"str semifield, SymInt[] img_shape, SymInt[] krn_shape, {geometry}, bool want_img, "
        "bool want_krn) -> (Tensor grad_img, Tensor grad_krn)"
    )


@pytest.mark.parametrize(
    ("semifield", "key"),
    [
        ("tropical_max", "select-218c0c5bdb875285"),
        (SubtractSemifield.log(2.0), "log(2.0)-a78791d26ead2c50"),
        (SubtractSemifield.root(3.0), "root(3.0)-c68ac58ca763ab45"),
    ],
)
def test_keys_are_those_that_saved_programs_hold(semifield, key):
    """Keys that version 0.1.0 made: a program says with nothing else what it convolves in."""
    made = ops.handle_of(semifield)  # the process knows a selection once it was used
    assert ops.semifield_of(key) == ops.semifield_of(made.key)
    img, krn, geometry = (
        torch.rand(1, 1, 5),
        torch.rand(1, 1, 3),
        ([1], [0, 0], [1], 1, False, True),
    )
    found, expected = (FORWARD(img, krn, one, *geometry, False)[0] for one in (key, made.key))
    assert torch.equal(found, expected)


class Recorder(TorchDispatchMode):
    """Keeps the arguments of the latest operator."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen = args
        return func(*args, **(kwargs or {}))


def test_arguments_arrive_under_the_names_that_they_were_given():
    """Each entry of a geometry another one, so that no two can be exchanged unnoticed."""
    case = ((2, 4, 8, 7), (6, 2, 3, 2), {"stride": (2, 3), "padding": ((2, 0), (0, 1)),
            "dilation": (1, 2), "groups": 2, "kind": "corr"})  # fmt: skip
    arguments = GeometryArguments.of(Geometry.plan(*case[:2], **case[2]))
    assert arguments == ((2, 3), (2, 0, 0, 1), (1, 2), 2, False, False)
    key = ops.handle_of("max_times").key
    img, krn = (torch.rand(shape) for shape in case[:2])
    with Recorder() as recorder:
        out, residual = ops.call_forward(img, krn, key, arguments, True)
    given = ForwardArguments(img, krn, key, arguments, residual=True)
    assert_identical(ForwardArguments.received(*recorder.seen), given)
    grad_out = torch.ones_like(out)
    shapes, wants = case[:2], (False, True)
    with Recorder() as recorder:
        ops.call_backward(grad_out, img, krn, residual, key, shapes, arguments, wants)
    given = BackwardArguments(
        grad_out, img, krn, residual, key, *shapes, arguments, want_img=False, want_krn=True
    )
    assert_identical(BackwardArguments.received(*recorder.seen), given)


def assert_identical(received, given):
    for name, one, other in zip(given._fields, received, given, strict=True):
        assert one is other if isinstance(other, torch.Tensor) else one == other, name


@pytest.mark.slow
def test_handles_are_contents():
    handle = ops.handle_of("tropical_max")
    assert ops.handle_of(SelectSemifield.tropical_max()) == handle
    mine = SelectSemifield(lambda a, b: b > a, lambda img, krn: img + krn, zero=-float("inf"))
    assert ops.handle_of(mine) == handle
    assert ops.handle_of(pickle.loads(pickle.dumps(mine))) == handle
    assert ops.handle_of(SelectSemifield.tropical_max(channels_add=True)) != handle
    code = "from torch_bridge import ops; print(ops.handle_of('tropical_max').key)"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert other.strip() == handle.key
    with pytest.raises(RuntimeError, match="knows no semifield 'sum-0'"):
        FORWARD(torch.zeros(1, 1, 3), torch.zeros(1, 1, 1), "sum-0", [1], [0, 0], [1], 1, 0, 1, 0)


@pytest.mark.parametrize("semifield", ["tropical", 3, None, torch.nn.ReLU()], ids=repr)
def test_what_is_no_semifield(semifield):
    with pytest.raises((TypeError, ValueError), match="semifield"):
        semifield_conv(torch.zeros(1, 1, 3), torch.zeros(1, 1, 1), semifield)


@pytest.mark.slow
def test_no_argument_of_a_raw_operator_reaches_foreign_memory():
    script = Path(__file__).with_name("raw_calls.py")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-1000:])  # negative: a signal
    lines = done.stdout.splitlines()
    assert len(lines) > 400
    refusals = ("ValueError", "TypeError", "RuntimeError this process knows no semifield")
    for line in lines:
        name, _, result = line.partition(" -> ")
        fine = result == "values" if name.startswith("right, ") else result.startswith(refusals)
        assert fine, line


# ---- torch.func ----------------------------------------------------------------------------------


@pytest.mark.table(4)
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", ["max", "max, channels added", "linear", "log"])
def test_vmap_is_a_loop(name, case):
    img, krn, arguments = case
    semifield = SEMIFIELDS[name][0]

    def conv(img, krn):
        return semifield_conv(img, krn, semifield, **arguments)

    def loss(img, krn):
        return conv(img, krn).square().sum()

    img, krn = (tensor.detach() for tensor in inputs((3, *img), (3, *krn)))
    for dims in ((0, 0), (0, None), (None, 0)):
        one = [tensor if d == 0 else tensor[0] for tensor, d in zip((img, krn), dims, strict=True)]
        for function in (conv, grad(loss, (0, 1))):
            found = vmap(function, dims)(*one)
            loop = [
                function(*(t[n] if d == 0 else t for t, d in zip(one, dims, strict=True)))
                for n in range(3)
            ]
            if isinstance(found, torch.Tensor):
                torch.testing.assert_close(found, torch.stack(loop))
            else:
                torch.testing.assert_close(found, tuple(map(torch.stack, zip(*loop, strict=True))))
    moved = vmap(conv, (2, None), out_dims=1)(img.movedim(0, 2), krn[0])
    torch.testing.assert_close(moved.movedim(1, 0), vmap(conv, (0, None))(img, krn[0]))


@pytest.mark.parametrize("name", ["max", "log"])
def test_func_grad_and_jacobian(name):
    semifield = SEMIFIELDS[name][0]
    img, krn = inputs((1, 2, 6), (2, 2, 3))

    def conv(img, krn):
        return semifield_conv(img, krn, semifield, padding=1)

    expected = torch.autograd.grad(conv(img, krn).square().sum(), [img, krn])
    found = grad(lambda *t: conv(*t).square().sum(), (0, 1))(img.detach(), krn.detach())
    torch.testing.assert_close(found, expected)
    by_rows = torch.autograd.functional.jacobian(conv, (img, krn))
    torch.testing.assert_close(jacrev(conv, (0, 1))(img.detach(), krn.detach()), by_rows)


def test_func_second_derivative_of_a_selection():
    img, krn = (tensor.detach() for tensor in inputs((1, 1, 6), (1, 1, 3)))

    def loss(img):
        return semifield_conv(img, krn, "tropical_max").pow(3).sum()

    expected = torch.autograd.functional.hessian(loss, img)
    torch.testing.assert_close(jacrev(jacrev(loss))(img), expected)
    assert expected.any()
