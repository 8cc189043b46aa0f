"""The bridge on CUDA tensors: the same numbers as on the CPU, on torch's streams and memory."""

import copy
import gc
from functools import partial

import pytest
import torch
from problems import GEOMETRIES, SEMIFIELDS, inputs, with_gradients
from torch import nn
from torch.func import grad, vmap

import torch_bridge as semiconv
from semiconv_cupy.backends.device import cupy_device
from semiconv_cupy.errors import BackendUnavailableError
from torch_bridge import GenericConv, LearnedKernel2D, SelectSemifield, SubtractSemifield
from torch_bridge.functional import semifield_conv, semifield_matmul
from torch_bridge.ops.node import library


def reason_to_skip():
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    try:
        cupy_device()
    except BackendUnavailableError as error:
        return str(error)
    return None


_REASON = reason_to_skip()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(_REASON is not None, reason=_REASON or "there is a GPU"),
]


def fused(name, **fixed):
    semifield = SEMIFIELDS[name][0]
    return lambda img, krn, **arguments: semifield_conv(img, krn, semifield, **fixed, **arguments)


def on_gpu(tensors, device="cuda"):
    return [tensor.detach().to(device).requires_grad_() for tensor in tensors]


def assert_same(found, expected, **tolerances):
    for one, other in zip(found, expected, strict=True):
        assert one.is_cuda
        torch.testing.assert_close(one.cpu(), other, **tolerances)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", SEMIFIELDS)
def test_as_on_the_cpu(name, case, dtype):
    img, krn, arguments = case
    tensors = inputs(img, krn, dtype)
    expected = with_gradients(fused(name), tensors, **arguments)
    assert_same(with_gradients(fused(name), on_gpu(tensors), **arguments), expected)


@pytest.mark.parametrize("semifield", [SubtractSemifield.log(2.0), SubtractSemifield.root(3.0)])
def test_large_layers_are_ordinary_sums(semifield):
    """More terms than `by_sums.Limits.terms_on_gpu`."""
    tensors = inputs((4, 32, 64, 64), (32, 32, 3, 3), torch.float32)

    def function(img, krn):
        return semifield_conv(img, krn, semifield, padding="same")

    expected = with_gradients(function, tensors)
    assert_same(with_gradients(function, on_gpu(tensors)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["max", "log"])
def test_half_precision(name, dtype):
    tensors = inputs((2, 3, 9, 9), (4, 3, 3, 3), dtype)
    expected = with_gradients(fused(name), tensors, padding=1)
    found = with_gradients(fused(name), on_gpu(tensors), padding=1)
    assert_same(found, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers(dtype):
    img, krn = (torch.randint(0, 2, shape).to(dtype) for shape in ((2, 1, 9, 9), (1, 1, 3, 3)))
    found = semifield_conv(img.cuda(), krn.cuda(), "tropical_max", padding=1)
    assert torch.equal(found.cpu(), semifield_conv(img, krn, "tropical_max", padding=1))


@pytest.mark.parametrize("name", ["max", "log"])
def test_gradcheck(name):
    img, krn, arguments = GEOMETRIES[1]
    tensors = inputs(img, krn, device="cuda")
    conv = fused(name, **arguments)
    assert torch.autograd.gradcheck(conv, tensors, fast_mode=True)
    if name == "max":
        assert torch.autograd.gradgradcheck(conv, tensors, fast_mode=True)


def test_any_strides_and_empty_images():
    img, krn = inputs((6, 5, 4, 7), (3, 3, 4, 2), torch.float32)
    tensors = [img.permute(2, 0, 3, 1)[:, ::2], krn.permute(2, 1, 0, 3)]
    expected = with_gradients(fused("max"), [t.detach().requires_grad_() for t in tensors])
    views = [t.detach().requires_grad_() for t in (
        img.detach().cuda().permute(2, 0, 3, 1)[:, ::2], krn.detach().cuda().permute(2, 1, 0, 3)
    )]  # fmt: skip
    assert not views[0].is_contiguous()
    assert_same(with_gradients(fused("max"), views), expected)
    img, krn = on_gpu(inputs((1, 2, 0), (3, 2, 3)))
    out, *grads = with_gradients(fused("max"), [img, krn], padding=2)
    assert (out == -torch.inf).all()
    assert not grads[1].any()


@pytest.mark.parametrize("name", ["max", "log", "linear"])
def test_the_same_bits_in_each_run(name):
    tensors = on_gpu(inputs((8, 4, 64, 64), (4, 2, 5, 5), torch.float32))
    runs = [with_gradients(fused(name), tensors, groups=2, padding="same") for _ in range(3)]
    for run in runs[1:]:
        for found, expected in zip(run, runs[0], strict=True):
            assert torch.equal(found, expected)


def test_on_a_side_stream():
    """The work waits for what the stream does before, and the default stream is not in it."""
    img, krn = inputs((4, 4, 128, 128), (4, 1, 7, 7), torch.float32)
    expected = with_gradients(fused("max", groups=4), [img, krn])
    img, krn = on_gpu([img, krn])
    with_gradients(fused("max", groups=4), [img, krn])  # compiled
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    for cycles in (10**8, 10**9, 10**10):  # long enough, however busy the CPU is
        with torch.cuda.stream(stream):
            late = torch.zeros_like(img)
            torch.cuda._sleep(cycles)
            with torch.no_grad():
                late.copy_(img)
            found = with_gradients(fused("max", groups=4), [late.requires_grad_(), krn])
            waited = stream.query()
        stream.synchronize()
        assert_same(found, expected)
        if not waited:
            break
    assert not waited  # for the GPU


def test_memory_is_torchs():
    cupy = cupy_device().array_module
    tensors = on_gpu(inputs((8, 4, 64, 64), (4, 2, 5, 5), torch.float32))
    with_gradients(fused("log"), tensors, groups=2)
    gc.collect()  # arrays of other tests
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes(), pool.total_bytes()
    with_gradients(fused("log"), tensors, groups=2)
    assert (pool.used_bytes(), pool.total_bytes()) == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU at most")
@pytest.mark.parametrize("name", ["max", "log"])
def test_on_the_second_gpu(name):
    tensors = inputs((2, 2, 9, 9), (3, 2, 3, 3), torch.float32)
    expected = with_gradients(fused(name), tensors)
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        found = with_gradients(fused(name), on_gpu(tensors, device))
        assert all(str(tensor.device) == device for tensor in found)
        assert_same(found, expected)
    assert torch.cuda.current_device() == 0
    with pytest.raises(ValueError, match="one device"):
        fused(name)(on_gpu(tensors, "cuda:0")[0], on_gpu(tensors, "cuda:1")[1])


def captured(step):
    """What replays a call that a CUDA graph has recorded, and its result."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    return graph, out


LAYER, LARGE_LAYER, MATRICES = (
    ((2, 2, 16, 16), (3, 2, 3, 3)), ((4, 32, 64, 64), (32, 32, 3, 3)), ((9, 5), (5, 7)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        *((name, LAYER) for name in SEMIFIELDS),
        *((name, LARGE_LAYER) for name in ("log", "root")),  # by ordinary sums
        *((name, MATRICES) for name in ("max", "linear", "log", "root")),
    ],
)
def test_cuda_graph(name, shapes):
    library(wait=True)  # a call with a number has a node from the fourth on: that of the capture
    first, second = on_gpu(inputs(*shapes, torch.float32))
    multiply = semifield_matmul if shapes is MATRICES else partial(semifield_conv, padding=1)

    def step():
        return with_gradients(multiply, [first, second], semifield=SEMIFIELDS[name][0])

    graph, found = captured(step)
    with torch.no_grad():
        for tensor, other in zip((first, second), inputs(*shapes, seed=1), strict=True):
            tensor.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(found, step())


OWN = SubtractSemifield(
    lambda left, right, q: (left**q + right**q) ** (1 / q),
    lambda img, krn, gain: gain * img * krn,
    zero=0.0,
    parameters={"q": 2.0, "gain": 1.0},
)


@pytest.mark.parametrize(
    ("semifield", "name"), [("log", "mu"), ("root", "p"), (OWN, "q"), (OWN, "gain")]
)
@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("as_module", [False, True])
def test_a_replayed_graph_reads_new_values_of_parameters(semifield, name, shape, as_module):
    if as_module and semifield is OWN:
        pytest.skip("modules hold mu and p")
    img, krn = (x.detach() for x in inputs((2, 2, 16, 16), (3, 2, 3, 3), torch.float32))
    tensors = [x.cuda() for x in (img, krn)]
    value = nn.Parameter(torch.full(shape, 2.0, device="cuda"))
    conv = semiconv.SemifieldConv(semifield, **{name: value}) if as_module else None

    def step():
        given = {} if as_module else {name: value}
        function = conv if as_module else lambda *x, **y: semifield_conv(*x, semifield, **y)
        leaves = [x.detach().requires_grad_() for x in tensors]
        out = function(*leaves, padding=1, **given)
        return out, *torch.autograd.grad(out.sum(), (*leaves, value))

    graph, found = captured(step)
    for number in (3.5, 1.5):
        with torch.no_grad():
            value.fill_(number)
        graph.replay()
        torch.cuda.synchronize()
        given = {name: torch.full(shape, number, requires_grad=True)}
        leaves = [x.clone().requires_grad_() for x in (img, krn)]
        out = semifield_conv(*leaves, semifield, padding=1, **given)
        right = (out, *torch.autograd.grad(out.sum(), (*leaves, given[name])))
        assert_same(found, right, rtol=2e-4, atol=1e-5)


def network(conv):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        GenericConv(LearnedKernel2D(1, 4, 3), conv, padding="same", stride=2, groups=4),
        nn.Tanh(),
        semiconv.DilationPool2d(2, channels=4),
    )


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("fixed", [True, False], ids=["lazy_fixed", "dynamic"])
def test_compile(fixed, mode):
    torch._dynamo.reset()
    semifield = SelectSemifield.tropical_max()
    model = network(semifield.lazy_fixed() if fixed else semifield.dynamic()).double().cuda()
    compiled = torch.compile(model, fullgraph=True, mode=mode)
    for batch in (2, 3, 5, 5, 5):
        img = torch.randn(batch, 1, 14, 14, dtype=torch.float64, device="cuda")
        expected = model(img)
        gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
        out = compiled(img)
        torch.testing.assert_close(out, expected)
        found = torch.autograd.grad(out.square().sum(), list(model.parameters()))
        torch.testing.assert_close(found, gradients)


def test_autocast_and_moving():
    model = network(SubtractSemifield.log(2.0).dynamic())
    img = torch.randn(2, 1, 14, 14)
    moved = copy.deepcopy(model).cuda()
    torch.testing.assert_close(moved(img.cuda()).cpu(), model(img), rtol=1e-3, atol=1e-3)
    with torch.autocast("cuda", torch.float16):
        moved(img.cuda()).float().square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.is_cuda for p in moved.parameters())


def test_vmap_and_func_grad():
    img, krn = (tensor.detach() for tensor in inputs((3, 2, 2, 9), (2, 2, 3)))

    def loss(img, krn):
        return semifield_conv(img, krn, "tropical_max").square().sum()

    per_sample = vmap(grad(loss, (0, 1)), (0, None))
    assert_same(per_sample(img.cuda(), krn.cuda()), per_sample(img, krn))


def test_opcheck():
    from torch_bridge.ops import handle_of

    img, krn = (tensor.detach().cuda() for tensor in inputs((2, 2, 9), (3, 2, 3)))
    key, geometry = handle_of("tropical_max").key, ([1], [0, 0], [1], 1, False, True)
    forward, backward = (
        getattr(torch.ops.semiconv, name).default for name in ("forward", "backward")
    )
    torch.library.opcheck(forward, (img, krn, key, *geometry, True))
    out, residual = forward(img, krn, key, *geometry, True)
    shapes = [list(img.shape), list(krn.shape)]
    torch.library.opcheck(
        backward, (torch.ones_like(out), None, None, residual, key, *shapes, *geometry, True, True)
    )


def test_host_and_gpu_do_not_mix():
    img, krn = inputs((1, 1, 5), (1, 1, 3))
    with pytest.raises(ValueError, match="one device"):
        semifield_conv(img.cuda(), krn, "tropical_max")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "scale", [torch.tensor(1.3), torch.tensor([[0.7, 2.0], [1.5, 0.3], [0.0, torch.inf]])]
)
def test_parabolas(dtype, scale):
    """The CPU's bits, per channel in one call; gradients are the same in every run."""
    img = torch.randn(2, 3, 70, 133, generator=torch.Generator().manual_seed(0)).to(dtype)
    for name in ("parabolic_dilation", "parabolic_opening"):
        function = getattr(semiconv.functional, name)
        found = []
        for device in ("cpu", "cuda", "cuda"):
            given = img.detach().to(device, copy=True).requires_grad_()
            lengths = scale.detach().to(device, copy=True).requires_grad_()
            out = function(given, lengths)
            out.backward(img.to(device).flip(3))
            found.append([tensor.cpu() for tensor in (out, given.grad, lengths.grad)])
        for on_cpu, on_gpu, again in zip(*found, strict=True):
            assert torch.equal(on_gpu, again)
            torch.testing.assert_close(on_gpu, on_cpu)
        assert torch.equal(found[0][0], found[1][0])
    mask = (img > -1.5).to(dtype)
    transform = semiconv.functional.distance_transform_edt
    torch.testing.assert_close(transform(mask.cuda()).cpu(), transform(mask))
