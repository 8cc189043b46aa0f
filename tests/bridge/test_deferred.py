"""Modules made without memory (the "meta" device), filled later, copied and converted."""

import copy
import io
import pickle

import pytest
import torch
from cases import slow_except
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import torch_bridge as semiconv
from torch_bridge import BroadcastSemifield, SelectSemifield, layers, modules, ops, quadratic

MAX = SelectSemifield.tropical_max()
MIN = SelectSemifield.tropical_min_negated()
IMG = torch.randn(2, 2, 9, 10, generator=torch.Generator().manual_seed(1))


class Closing(nn.Sequential):
    def __init__(self):
        kernel = semiconv.QuadraticKernelCholesky(2, 2, (3, 4))
        super().__init__(
            semiconv.GenericClosing(kernel, MAX.lazy_fixed(), MIN.lazy_fixed(), padding="same")
        )


def generic(kernel, conv):
    return lambda: semiconv.GenericConv(kernel(), conv(), padding="same")


# Each class of torch_bridge that holds parameters, in a module of an image.
MODELS = {
    "spectral": generic(
        lambda: semiconv.QuadraticKernelSpectral2D(2, 3, 3),
        BroadcastSemifield.tropical_max().dynamic,
    ),
    "spectral, any dimension": generic(
        lambda: semiconv.QuadraticKernelSpectral(2, 3, (3, 4)), MAX.dynamic
    ),
    "cholesky": generic(lambda: semiconv.QuadraticKernelCholesky2D(2, 3, 4), MAX.dynamic),
    "iso": generic(lambda: semiconv.QuadraticKernelIso2D(2, 3, 5, {"var": "ss"}), MAX.lazy_fixed),
    "iso, any dimension": generic(lambda: semiconv.QuadraticKernelIso(2, 3, (2, 5)), MAX.dynamic),
    "learned": generic(lambda: semiconv.LearnedKernel2D(2, 3, 3), MAX.lazy_fixed),
    "pool": lambda: semiconv.DilationPool2d(3, 2, channels=2),
    "pool, free": lambda: semiconv.DilationPool2d(3, 2, channels=2, structuring="free"),
    "opening": lambda: semiconv.Opening(3, 2, ndim=2, structuring="iso"),
    "closing by two convolutions": Closing,
}
EVERY = pytest.mark.parametrize("name", MODELS)


def on_meta(name):
    with torch.device("meta"):
        model = MODELS[name]()
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return model


def filled(model, state, way):
    """A model on "meta" with the values of a checkpoint."""
    if way == "assign":
        model.load_state_dict(state, assign=True)
        return model
    # Whatever the memory held before: here NaN, which nothing hides.
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(torch.nan)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("way", ["to_empty", "assign"])
@EVERY
def test_a_checkpoint_is_all_that_a_model_needs(name, way):
    original = MODELS[name]()
    model = filled(on_meta(name), original.state_dict(), way)
    expected = original(IMG)
    assert torch.equal(model(IMG), expected)
    assert model.state_dict().keys() == dict(original.named_parameters()).keys()


@EVERY
def test_models_on_meta_have_shapes(name):
    model = on_meta(name)
    assert model(IMG.to("meta")).shape == MODELS[name]()(IMG).shape


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": lambda model: torch.load(saved(model), weights_only=False),
}


@pytest.mark.parametrize(
    "name",
    [
        *(f"quadratic {name}" for name in quadratic.__all__),
        *(f"modules {name}" for name in modules.__all__),
        *(f"layers {name}" for name in layers.__all__),
        "layers FlatLearnedKernel",
        "quadratic _drop_position_grid",
        "ops Known",
    ],
)
def test_models_pickled_by_version_0_1_0_find_what_they_name(name):
    module, name = name.split()
    found = pickle.loads(f"ctorch_bridge.{module}\n{name}\n.".encode())
    assert callable(found)


def test_a_model_pickled_by_version_0_1_0():
    """Its convolution kept the prepared semifield, under the names of that version."""
    old = MAX.dynamic()
    new = object.__new__(type(old))
    new.__setstate__({**old.__getstate__(), "_known": ops.Known(MAX)})
    krn = torch.zeros(3, 2, 3, 3)
    assert torch.equal(new(IMG, krn), old(IMG, krn))
    assert vars(new).keys() == vars(old).keys()


def test_a_pooling_layer_pickled_by_version_0_1_0():
    """It kept the numbers of its window one by one."""
    pool = layers.DilationPool2d(3, 2, 1, ceil_mode=True)
    old = object.__new__(type(pool))
    old.__setstate__({key: value for key, value in vars(pool).items() if key != "_window"})
    assert torch.equal(old(IMG), pool(IMG))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ["spectral", "cholesky", "iso", "pool"])
def test_copies_of_a_filled_model(name, way):
    original = MODELS[name]()
    model = COPIES[way](filled(COPIES[way](on_meta(name)), original.state_dict(), "to_empty"))
    assert torch.equal(model(IMG), original(IMG))


@pytest.mark.parametrize(
    "dtype", slow_except([torch.float16, torch.bfloat16, torch.float64], torch.float64)
)
@pytest.mark.parametrize("name", ["spectral", "cholesky", "iso"])
def test_the_dtype_is_that_of_the_parameters(name, dtype):
    kernel = MODELS[name]().kernel
    expected = kernel().double()
    converted = copy.deepcopy(kernel).to(dtype)
    assert converted().dtype == dtype
    tolerance = 30 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-5
    torch.testing.assert_close(converted().double(), expected, rtol=tolerance, atol=0.3 * tolerance)
    # As does assignment, which replaces parameters by those of another dtype.
    assigned = filled(on_meta(name), MODELS[name]().to(dtype).state_dict(), "assign")
    assert assigned.kernel().dtype == dtype


@pytest.mark.parametrize("name", ["spectral", "cholesky", "iso"])
def test_compiled_after_to_empty(name):
    original = MODELS[name]().kernel
    model = filled(on_meta(name).kernel, original.state_dict(), "to_empty")
    run = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(), original())


@EVERY
def test_reset_parameters_starts_again(name):
    def begin(model):
        torch.manual_seed(5)
        for module in model.modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.reset_parameters()  # as torch's own layers and FSDP have it
        return model

    empty = filled(on_meta(name), MODELS[name]().state_dict(), "to_empty")
    torch.manual_seed(5)
    fresh = MODELS[name]()
    assert torch.equal(begin(empty)(IMG), fresh(IMG))


def test_offsets_made_in_another_mode_are_not_kept():
    """Sizes that no other test has, first met in a mode whose tensors must not leave it."""
    kernel = semiconv.QuadraticKernelIso(1, 1, (6, 11), {"var": 2.0})
    with torch.inference_mode():
        kernel()
    kernel().sum().backward()
    assert kernel.log_std.grad.isfinite().all()
    kernel = semiconv.QuadraticKernelIso(1, 1, (6, 13), {"var": 2.0})
    parameters = {"log_std": kernel.log_std.detach().expand(2, 1, 1)}

    def value(parameters):
        return torch.func.functional_call(kernel, parameters, ()).sum()

    by_grad = torch.func.vmap(torch.func.grad(value))(parameters)["log_std"]
    kernel().sum().backward()
    torch.testing.assert_close(by_grad[0], kernel.log_std.grad)
    kernel = semiconv.QuadraticKernelIso(1, 1, (6, 17), {"var": 2.0})
    with FakeTensorMode() as mode:
        fakes = {name: mode.from_tensor(value) for name, value in kernel.named_parameters()}
        assert torch.func.functional_call(kernel, fakes, ()).shape == (1, 1, 6, 17)
    assert type(kernel().detach()) is torch.Tensor
