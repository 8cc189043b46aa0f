"""The modules: broadcast convolution, kernels joined with convolutions, torch's own operations."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torch_bridge as semiconv
from semiconv_cupy import semifield_conv as array_conv
from semiconv_cupy.geometry import Geometry
from torch_bridge import (
    BroadcastConv,
    BroadcastSemifield,
    GenericClosing,
    GenericConv,
    GenericOpening,
    LearnedKernel,
    LearnedKernel2D,
    SelectSemifield,
    SemifieldConv,
    SubtractSemifield,
    TorchLinearConv2D,
    TorchMaxPool2D,
)

BROADCAST = {
    "max": (BroadcastSemifield.tropical_max(), SelectSemifield.tropical_max()),
    "min": (BroadcastSemifield.tropical_min_negated(), SelectSemifield.tropical_min_negated()),
    "linear": (BroadcastSemifield.linear(), SubtractSemifield.linear()),
    "root": (BroadcastSemifield.root(3.0), SubtractSemifield.root(3.0)),
    "log": (BroadcastSemifield.log(-2.0), SubtractSemifield.log(-2.0)),
}
MAX, MIN = (BroadcastConv(BROADCAST[name][0]) for name in ("max", "min"))
# image, kernel, arguments
GEOMETRY = [
    ((2, 3, 9), (4, 3, 4), {"padding": "same", "dilation": 2}),
    ((2, 4, 8, 7), (6, 2, 3, 2), {"stride": (2, 3), "padding": ((2, 0), (0, 1)), "groups": 2}),
    ((1, 4, 6, 9), (3, 2, 2, 3), {"groups": 2, "group_broadcasting": True, "kind": "corr"}),
    ((1, 2, 5, 4, 6), (2, 1, 2, 3, 2), {"padding": 1, "groups": 2, "stride": 2}),
    ((1, 1, 4, 5), (2, 1, 3, 3), {"padding": 3}),  # windows wholly outside
    ((2, 1, 11, 10), (1, 1, 1, 4), {"stride": 4, "padding": "valid", "kind": "corr"}),
]


def inputs(img_shape, krn_shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (img_shape, krn_shape)
    # positive, and no two sums equal
    return [torch.rand(s, generator=generator, dtype=dtype).add(0.1) for s in shapes]


@pytest.mark.parametrize("shapes", GEOMETRY, ids=str)
@pytest.mark.parametrize("name", BROADCAST)
def test_broadcast_conv_computes_what_arrays_do(name, shapes):
    img_shape, krn_shape, arguments = shapes
    img, krn = inputs(img_shape, krn_shape)
    broadcast, compiled = BROADCAST[name]
    expected = array_conv(img.numpy(), krn.numpy(), compiled, method="reference", **arguments)
    out = BroadcastConv(broadcast)(img, krn, **arguments)
    torch.testing.assert_close(out, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)
    if img.dim() == 4:
        copied = BroadcastConv(broadcast, unfold_copy=True)(img, krn, **arguments)
        torch.testing.assert_close(copied, out, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shapes", GEOMETRY, ids=str)
@pytest.mark.parametrize("name", BROADCAST)
def test_broadcast_conv_gradcheck(name, shapes):
    img_shape, krn_shape, arguments = shapes
    tensors = [t.requires_grad_() for t in inputs(img_shape, krn_shape)]
    conv = BroadcastConv(BROADCAST[name][0])
    assert torch.autograd.gradcheck(
        lambda img, krn: torch.nan_to_num(conv(img, krn, **arguments), 0, 0, 0),
        tensors,
        fast_mode=True,
    )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", BROADCAST)
def test_broadcast_conv_equals_pytorch_nd_semiconv(name, seed):
    other = pytest.importorskip("pytorch_nd_semiconv", reason="the package being replaced")
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))
    groups, ins, outs = (int(n) for n in rng.integers(1, 4, 3))
    sizes = tuple(int(k) for k in rng.integers(1, 5, rank))
    arguments = {
        "stride": tuple(int(s) for s in rng.integers(1, 4, rank)),
        "dilation": tuple(int(d) for d in rng.integers(1, 3, rank)),
        "groups": groups,
        "group_broadcasting": bool(rng.integers(2)),
        "kind": str(rng.choice(["conv", "corr"])),
    }
    arguments["padding"] = tuple(  # at most half a window, so that none is wholly outside
        tuple(int(p) for p in rng.integers(0, d * (k - 1) // 2 + 1, 2))
        for d, k in zip(arguments["dilation"], sizes, strict=True)
    )
    img, krn = inputs((2, groups * ins, *(9,) * rank), (outs * groups, ins, *sizes), seed=seed)
    theirs = {
        "max": lambda: other.BroadcastSemifield.tropical_max(),
        "min": lambda: other.BroadcastSemifield.tropical_min_negated(),
        "linear": lambda: other.BroadcastSemifield.linear(),
        "root": lambda: other.BroadcastSemifield.root(3.0),
        "log": lambda: other.BroadcastSemifield.log(-2.0),
    }[name]().dynamic()
    results = []
    for conv in (BroadcastConv(BROADCAST[name][0]), theirs):
        tensors = [t.clone().requires_grad_() for t in (img, krn)]
        out = conv(*tensors, **arguments)
        weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
        results.append((out, *torch.autograd.grad(out, tensors, weights)))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-7)


def test_ties_go_to_the_first_tap():
    img, krn = torch.zeros(1, 2, 1, 3), torch.zeros(1, 2, 1, 2, requires_grad=True)
    for kind in ("conv", "corr"):
        MAX(img, krn, kind=kind).sum().backward()
        assert krn.grad.flatten().tolist() == [2, 0, 0, 0]
        krn.grad = None


@pytest.mark.parametrize("name", ["max", "min", "log"])
def test_windows_of_nothing_but_the_zero(name):
    field = BROADCAST[name][0]
    img = torch.full((1, 1, 3), field.zero, requires_grad=True)
    krn = torch.zeros(1, 1, 2, requires_grad=True)
    out = BroadcastConv(field)(img, krn, padding=3)
    assert (out == field.zero).all()
    out.sum().backward()
    assert not img.grad.any()
    assert not krn.grad.any()


def test_channels_add_and_custom_functions():
    img, krn = inputs((1, 2, 5), (3, 2, 3))
    field = BroadcastSemifield.tropical_max(channels_add=True)
    parts = [MAX(img[:, i : i + 1], krn[:, i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(BroadcastConv(field)(img, krn), parts[0] + parts[1])
    seen = []

    def reduce(array, dims):
        seen.append((tuple(array.shape), dims))
        return array.sum(dims)

    BroadcastConv(BroadcastSemifield(reduce, torch.mul, 0.0))(img, krn)
    assert seen == [((1, 1, 3, 3, 2, 3), (4, 5))]


def test_broadcast_conv_refuses():
    img, krn = inputs((1, 2, 5), (3, 2, 3))
    with pytest.raises(ValueError, match="unfold_copy"):
        BroadcastConv(BROADCAST["max"][0], unfold_copy=True)(img, krn)
    with pytest.raises(TypeError, match=r"float32.*float64"):
        MAX(img.float(), krn)
    with pytest.raises(TypeError, match=r"krn must be a torch\.Tensor, got ndarray"):
        MAX(img, krn.numpy())
    with torch.autocast("cpu", torch.bfloat16):
        assert MAX(img.bfloat16(), krn.float()).dtype == torch.float32


class Spy(torch.nn.Module):
    def forward(self, img, krn, **arguments):
        self.seen = (krn, arguments)
        return img


def test_generic_conv_passes_on_what_is_not_default():
    spy = Spy()
    plain = GenericConv(LearnedKernel2D(1, 1, 3), spy)
    plain(torch.zeros(1, 1, 4, 4))
    assert spy.seen[1] == {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    assert plain.extra_repr() == ""
    conv = GenericConv(
        LearnedKernel2D(1, 1, 3), spy, 2, "same", 3, 4, group_broadcasting=True, kind="corr"
    )
    conv(torch.zeros(1, 4, 4, 4))
    assert spy.seen[1] == {
        "stride": 2, "padding": "same", "dilation": 3, "groups": 4,
        "group_broadcasting": True, "kind": "corr",
    }  # fmt: skip
    for part in ("stride=2", "padding=same", "dilation=3", "groups=4", "group_broadcasting=True"):
        assert part in repr(conv)


def test_kernel_with_all_channels_is_read_block_diagonally():
    kernel = LearnedKernel2D(4, 6, 3)
    conv = GenericConv(kernel, MAX, groups=2, padding="same")
    img = torch.randn(2, 4, 5, 5)
    with pytest.warns(UserWarning, match="in_channels=2") as caught:
        outs = [conv(img), conv(img)]
    assert len(caught) == 1
    krn = kernel.kernel
    block = torch.cat([krn[:3, :2], krn[3:, 2:]])
    for out in outs:
        torch.testing.assert_close(out, MAX(img, block, groups=2, padding="same"))
    with pytest.raises(ValueError, match="krn must have 2 input channels"):
        MAX(img, krn, groups=2)


def small_integers(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=generator).double()


class Fixed(torch.nn.Module):
    def __init__(self, krn):
        super().__init__()
        self.krn = krn

    def forward(self):
        return self.krn


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    broadcasting=st.booleans(),
)
def test_openings_and_closings_keep_their_laws(
    seed, sizes, dilation, groups, channels, broadcasting
):
    ins, outs = channels
    img = small_integers((1, groups * ins, *(6 for _ in sizes)), seed)
    krn = small_integers((outs if broadcasting else groups * outs, ins, *sizes), seed + 2)
    arguments = dict(dilation=dilation, groups=groups, group_broadcasting=broadcasting)
    closing = GenericClosing(Fixed(krn), MAX, MIN, padding="same", **arguments)
    closed = closing(img)
    assert (closed >= img).all()
    assert torch.equal(closing(closed), closed)
    opening = GenericOpening(Fixed(krn), MIN, MAX, padding="same", **arguments)
    opened = opening(img)
    assert (opened <= img).all()
    assert torch.equal(opening(opened), opened)


@pytest.mark.parametrize(
    "padding", ["same", "valid", 1, ((1, 2), (0, 2)), ((3, 3), (2, 2))], ids=str
)
def test_closing_with_any_padding_is_the_middle_of_a_closing(padding):
    img, krn = small_integers((1, 1, 7, 8), 1), small_integers((1, 1, 4, 3), 2)
    geometry = Geometry.plan(img.shape, krn.shape, padding=padding)
    pads = list(zip(geometry.pad_begin, geometry.pad_end, (3, 2), strict=True))
    adjoint = tuple((reach - begin, reach - end) for begin, end, reach in pads)

    def exact(img):
        return MIN(MAX(img, krn, padding=padding), krn, padding=adjoint, kind="corr")

    whole = exact(img)
    assert (whole >= img).all()
    assert torch.equal(exact(whole), whole)
    part = GenericClosing(Fixed(krn), MAX, MIN, padding=padding)(img)
    for n, (begin, end, reach) in enumerate(pads, start=2):
        lost = reach - begin - end  # negative: reaches beyond the image
        whole = whole.narrow(n, max(lost, 0), whole.shape[n] - 2 * max(lost, 0))
        part = part.narrow(n, max(-lost, 0), part.shape[n] - 2 * max(-lost, 0))
    assert torch.equal(part, whole)


def test_torch_linear_conv_equals_the_linear_semifield():
    ours = BroadcastConv(BROADCAST["linear"][0])
    for img_shape, krn_shape, arguments in GEOMETRY:
        if len(img_shape) == 4:
            img, krn = inputs(img_shape, krn_shape)
            torch.testing.assert_close(
                TorchLinearConv2D()(img, krn, **arguments), ours(img, krn, **arguments)
            )
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        TorchLinearConv2D()(torch.zeros(1, 1, 4), torch.zeros(1, 1, 2))


@pytest.mark.parametrize("padding", ["same", "valid", 1, 3, ((1, 0), (0, 2))])
@pytest.mark.parametrize("stride", [None, 1, (2, 3)])
@pytest.mark.parametrize("size", [2, (3, 4)])
def test_torch_max_pool(size, stride, padding):
    img = torch.randn(2, 3, 9, 8)
    pool = TorchMaxPool2D(size, stride, padding)
    flat = torch.zeros(1, 1, *pool.kernel_size)
    expected = MAX(img, flat, pool.stride, padding, groups=3, group_broadcasting=True, kind="corr")
    assert torch.equal(pool(img), expected)


def test_lazy_fixed_refuses_all_but_another_batch_size():
    conv = SemifieldConv(SelectSemifield.tropical_max(), lazy_fixed=True)
    img, krn = torch.randn(1, 4, 6, 6), torch.randn(4, 4, 3, 3)
    conv(img, krn, padding=1)
    conv(torch.cat([img, img]), krn, padding=1)
    conv(img.double(), krn.double(), padding=1)
    for args, arguments, message in (
        (
            (img[..., 1:], krn),
            {"padding": 1},
            r"img.shape\[1:\] was \(4, 6, 6\) and is \(4, 6, 5\)",
        ),
        ((img, krn[..., 1:]), {"padding": 1}, "krn.shape"),
        ((img, krn), {"padding": 0}, "padding was 1 and is 0"),
        ((img, krn), {"padding": 1, "stride": 2}, "stride"),
        ((img, krn), {"padding": 1, "kind": "corr"}, "kind was 'conv' and is 'corr'"),
    ):
        with pytest.raises(ValueError, match=message):
            conv(*args, **arguments)
    assert copy.deepcopy(conv).fixed == conv.fixed
    with pytest.raises(ValueError, match="window does not fit"):
        SemifieldConv(SelectSemifield.tropical_max(), lazy_fixed=True)(
            img, krn[:, :, :1], dilation=9
        )


def test_debug_prints_what_is_compiled_once(capsys):
    conv = SemifieldConv(SelectSemifield.tropical_max(), debug=True)
    img, krn = torch.randn(1, 1, 6), torch.randn(1, 1, 3)
    conv(img, krn)
    assert "SEMICONV_TIMES" in capsys.readouterr().out
    conv(img, krn)
    assert capsys.readouterr().out == ""
    conv(img.double(), krn.double())
    assert "float64" in capsys.readouterr().out


@pytest.mark.parametrize(
    "conv",
    [
        SemifieldConv(SelectSemifield.tropical_max()),
        SemifieldConv(SubtractSemifield.root(3.0), lazy_fixed=True),
        SemifieldConv(SelectSemifield(lambda a, b: b > a, lambda i, k: i * k + k, zero=-math.inf)),
        BroadcastConv(BroadcastSemifield.log(2.0)),
    ],
    ids=repr,
)
def test_modules_copy_and_pickle(conv):
    kernel = LearnedKernel(1, 2, 3, ndim=1).requires_grad_(False)
    kernel.kernel.abs_()  # root takes no others
    model = GenericConv(kernel, conv, padding="same")
    img = torch.rand(1, 1, 5)
    out = model(img)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert repr(other) == repr(model)
        assert torch.equal(other(img), out)
    assert list(model.state_dict()) == ["kernel.kernel"]


def test_every_name_of_pytorch_nd_semiconv():
    names = [
        *("BroadcastSemifield", "SelectSemifield", "SubtractSemifield"),
        *("GenericConv", "GenericClosing", "TorchLinearConv2D", "TorchMaxPool2D"),
        *("QuadraticKernelSpectral2D", "QuadraticKernelCholesky2D", "QuadraticKernelIso2D"),
        *("LearnedKernel2D", "CovSpectral2D", "CovCholesky2D"),
    ]
    assert set(names) <= set(semiconv.__all__)
    assert all(hasattr(semiconv, name) for name in semiconv.__all__)


def test_documented_examples():
    img = torch.rand(2, 5, 8, 8)
    pooling = GenericConv(
        semiconv.QuadraticKernelSpectral2D(in_channels=5, out_channels=5, kernel_size=3),
        SelectSemifield.tropical_max().lazy_fixed(),
        padding="same",
        stride=2,
        groups=5,
    )
    with pytest.warns(UserWarning, match="numbers >= 0"):
        root = GenericConv(
            semiconv.QuadraticKernelIso2D(5, 10, 3),
            BroadcastSemifield.root(3.0).dynamic(),
            padding="same",
        )
    closing = GenericClosing(
        semiconv.QuadraticKernelCholesky2D(5, 5, 3),
        SelectSemifield.tropical_max().lazy_fixed(),
        SelectSemifield.tropical_min_negated().lazy_fixed(),
        padding="same",
        groups=5,
    )
    with pytest.warns(UserWarning, match="in_channels=1"):
        pooled = pooling(img)
    with pytest.warns(UserWarning, match="in_channels=1"):
        closed = closing(img)
    assert pooled.shape == (2, 5, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rooted = root(img)
    assert rooted.shape == (2, 10, 8, 8)
    assert (closed >= img - 1e-6).all()
    for module, out in ((pooling, pooled), (closing, closed)):
        out.sum().backward()
        assert all(p.grad.isfinite().all() for p in module.parameters())
        assert any(p.grad.any() for p in module.parameters())
    (gradient,) = torch.autograd.grad(rooted[:, ::2].sum(), root.kernel.log_std)
    assert gradient.shape == (10, 5)
