"""torch.compile in one graph: forward and backward, any batch size, fixed and dynamic modules."""

import pytest
import torch
from problems import inputs, with_gradients
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import torch_bridge as semiconv
from torch_bridge import BroadcastSemifield, GenericConv, SelectSemifield, SubtractSemifield
from torch_bridge.functional import semifield_conv

CONVOLUTIONS = {
    "dynamic": lambda: SelectSemifield.tropical_max().dynamic(),
    "lazy_fixed": lambda: SelectSemifield.tropical_max().lazy_fixed(),
    "log, lazy_fixed": lambda: SubtractSemifield.log(2.0).lazy_fixed(),
    "broadcast": lambda: BroadcastSemifield.log(2.0).dynamic(),
}


def network(conv, dtype=torch.float64):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        GenericConv(semiconv.LearnedKernel2D(1, 4, 3), conv, padding="same", stride=2, groups=4),
        nn.Tanh(),
        semiconv.DilationPool2d(2, channels=4),
        semiconv.Closing(3, 4, ndim=2),
    )
    return layers.to(dtype)


def step(model, img):
    """The result and all gradients."""
    out = model(img)
    return (out, *torch.autograd.grad(out.square().sum(), [img, *model.parameters()]))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_one_graph_for_all_batch_sizes(name):
    torch._dynamo.reset()
    model = network(CONVOLUTIONS[name]())
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for batch in (2, 3, 5, 8):
        img = torch.randn(batch, 1, 14, 14, dtype=torch.float64).requires_grad_()
        torch._dynamo.mark_dynamic(img, 0)
        for size in (2, 3):
            torch._dynamo.mark_static(img, size)
        found = step(compiled, img)  # before the eager call: the first call of lazy_fixed is traced
        torch.testing.assert_close(found, step(model, img))
    assert counter.frame_count <= 2  # lazy_fixed: one more, now that it is fixed


def test_lazy_fixed_refuses_while_compiling():
    torch._dynamo.reset()
    conv = SelectSemifield.tropical_max().lazy_fixed()
    compiled = torch.compile(conv, backend="eager")
    compiled(torch.zeros(1, 1, 6), torch.zeros(1, 1, 3))
    compiled(torch.zeros(2, 1, 6), torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match="lazy_fixed"):
        compiled(torch.zeros(1, 1, 7), torch.zeros(1, 1, 3))


@pytest.mark.slow
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "broadcast"])
def test_inductor(fused):
    torch._dynamo.reset()
    made = SubtractSemifield if fused else BroadcastSemifield
    conv = made.log(2.0).dynamic()

    def function(img, krn):
        return conv(img.sin(), krn, padding="same", stride=2).cos()

    tensors = inputs((2, 2, 9, 8), (3, 2, 3, 3))
    compiled = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(with_gradients(compiled, tensors), with_gradients(function, tensors))


@pytest.mark.slow
def test_functions_by_name_and_by_semifield():
    img, krn = inputs((2, 1, 9), (3, 1, 3))
    for semifield in ("tropical_max", SubtractSemifield.root(3.0)):
        torch._dynamo.reset()

        def function(img, krn, semifield=semifield):
            return semifield_conv(img, krn, semifield, padding="same", kind="corr")

        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(
            with_gradients(compiled, [img, krn]), with_gradients(function, [img, krn])
        )


def test_the_documented_example_compiles():
    torch._dynamo.reset()
    pooling = GenericConv(
        semiconv.QuadraticKernelSpectral2D(in_channels=1, out_channels=5, kernel_size=3),
        SelectSemifield.tropical_max().lazy_fixed(),
        padding="same",
        stride=2,
        groups=5,
    )
    img = torch.rand(2, 5, 8, 8, requires_grad=True)
    compiled = torch.compile(pooling, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(compiled, img), step(pooling, img))


def test_export():
    conv = network(SelectSemifield.tropical_max().dynamic(), torch.float32)
    img = torch.randn(2, 1, 14, 14)
    program = torch.export.export(conv, (img,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for batch in (2, 5):
        img = torch.randn(batch, 1, 14, 14)
        torch.testing.assert_close(program.module()(img), conv(img))


def test_export_where_the_batch_decides_what_is_kept_for_a_derivative():
    """On a GPU, by fake tensors: a program without a derivative must not fix its batch size."""
    with FakeTensorMode(), torch.device("cuda"):
        conv = GenericConv(
            semiconv.LearnedKernel2D(16, 16, 3), SubtractSemifield.log(2.0).dynamic(),
            padding="same",
        ).requires_grad_(False)  # fmt: skip
        img = torch.randn(2, 16, 9, 9)
    dimensions = ({0: torch.export.Dim("batch", min=2, max=10**6)},)
    program = torch.export.export(conv, (img,), dynamic_shapes=dimensions)
    (operator,) = (node for node in program.graph.nodes if "forward" in str(node.target))
    (batch,) = program.range_constraints
    assert operator.meta["val"][0].shape == (batch, 16, 9, 9)
    bounds = program.range_constraints[batch]
    assert (bounds.lower, bounds.upper) == (2, 10**6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SubtractSemifield.log(2.0),
        lambda: SubtractSemifield.linear(),
        lambda: SelectSemifield.tropical_max(),
        lambda: BroadcastSemifield.log(2.0),
        lambda: SubtractSemifield(lambda a, b: a + b, lambda i, k: i * k, zero=0.0),
    ],
)
def test_semifields_are_made_outside_of_graphs(make):
    """With fullgraph=True the error says what to do; else the graph is parted there."""
    img, krn = torch.rand(1, 1, 6), torch.rand(1, 1, 3)

    def call(img):
        return semifield_conv(img, krn, make())

    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="make semifields outside of compiled"):
        torch.compile(call, fullgraph=True, backend="eager")(img)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(call, backend="eager")(img), call(img))
