"""Parabolas without end of tensors: values, gradients, transforms, layers, soft distances."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

import semiconv_cupy as sc
import torch_bridge as semiconv
from torch_bridge import functional

NAMES = ("parabolic_dilation", "parabolic_erosion", "parabolic_opening", "parabolic_closing")
SCALES = {
    "one": torch.tensor(1.3),
    "of axes": torch.tensor([0.8, 2.0]),
    "of channels": torch.tensor([[0.7], [1.5], [3.0]]),
    "of both": torch.tensor([[0.7, 2.0], [1.5, 0.3], [3.0, 0.9]]),
}


def image(dtype=torch.float64, shape=(2, 3, 6, 7)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def by_core(name, img, scale):
    """Channel by channel, by the function of arrays."""
    function, found = getattr(sc, name), np.empty(tuple(img.shape))
    scale = np.broadcast_to(np.asarray(scale, np.float64), (3, img.dim() - 2))
    for channel in range(3):
        part = img[:, channel].double().numpy()
        axes = tuple(range(1, part.ndim))
        found[:, channel] = function(part, scale[channel].tolist(), axes=axes)
    return torch.from_numpy(found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_are_the_cores_rounded_once(name, dtype):
    img = image(dtype, (2, 3, 30, 41))
    for scale in [*SCALES.values(), torch.tensor([[0.0], [torch.inf], [2.0]])]:
        expected = by_core(name, img, scale.double().numpy())
        if dtype is torch.bfloat16:  # torch rounds doubles twice
            bits = expected.float().view(torch.int32)
            bits = bits - (expected.float().double().abs() > expected.abs()).int()
            bits = bits | (expected.float().double() != expected).int()
            expected = bits.view(torch.float32)
        elif dtype is torch.float16:
            expected = torch.from_numpy(expected.numpy().astype(np.float16))
        for given in (img, img.transpose(2, 3).contiguous().transpose(2, 3)):
            out = getattr(functional, name)(given, scale)
            assert out.dtype is dtype
            assert torch.equal(out, expected.to(dtype))


def test_axes_may_be_chosen():
    img = image()
    out = functional.parabolic_dilation(img, (0.8, 2.0), axes=(3, 1))
    expected = sc.parabolic_dilation(img.numpy(), (0.8, 2.0), axes=(3, 1))
    np.testing.assert_array_equal(out, expected)
    alone = functional.parabolic_erosion(img[0, 0], 1.5, axes=(0, 1))
    np.testing.assert_array_equal(alone, functional.parabolic_erosion(img, 1.5)[0, 0])


def test_nothing_and_what_is_no_number():
    nan = torch.full((1, 1, 4), torch.nan, requires_grad=True)
    out = functional.parabolic_erosion(nan, 2.0)
    assert (out == torch.inf).all()
    out.sum().backward()
    assert (nan.grad == 0).all()
    assert torch.isnan(functional.parabolic_erosion(nan, 0.0)).all()
    empty = torch.zeros(0, 3, 5, requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    functional.parabolic_opening(empty, scale).sum().backward()
    assert empty.grad.shape == (0, 3, 5)
    assert scale.grad == 0
    assert functional.parabolic_closing(torch.zeros(2, 3, 0), 2.0).shape == (2, 3, 0)


@pytest.mark.table(2)
@pytest.mark.parametrize("shape", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_gradients(name, shape):
    function, img = getattr(functional, name), image(shape=(1, 3, 3, 4)).requires_grad_()
    scale = SCALES[shape].double().requires_grad_()
    assert gradcheck(function, (img, scale), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, (img, scale))
    assert gradcheck(lambda scale: function(img.detach(), scale), scale)


def test_gradients_of_scales_without_a_slope():
    img, scale = image().requires_grad_(), torch.tensor([[0.0], [torch.inf], [1e-200]])
    scale = scale.double().requires_grad_()
    out = functional.parabolic_dilation(img, scale)
    first = torch.autograd.grad(out.sum(), (img, scale))
    second = torch.autograd.grad(functional.parabolic_dilation(img, scale).sum(), (img, scale),
                                 create_graph=True)  # fmt: skip
    for own, by_torch in zip(first, second, strict=True):
        assert torch.equal(own, by_torch)
    assert (first[1] == 0).all()
    assert (first[0][:, [0, 2]] == 1).all()
    assert sorted(first[0][0, 1].unique().tolist()) == [0, 42]  # all of it to one element


@pytest.mark.parametrize("name", ["parabolic_dilation", "parabolic_opening"])
def test_transforms(name):
    function = getattr(functional, name)
    images = torch.stack([image(), 2 * image()])
    of_both = torch.stack([SCALES["of both"], 2 * SCALES["of both"]]).double()
    for scales in (of_both, torch.tensor([1.5, 0.6])):
        for dims in ((0, None), (None, 0), (0, 0)):
            given = [a if d == 0 else a[0] for a, d in zip((images, scales), dims, strict=True)]
            pairs = [
                [a[i] if d == 0 else a for a, d in zip(given, dims, strict=True)] for i in (0, 1)
            ]
            out = vmap(function, dims)(*given)
            assert torch.equal(out, torch.stack([function(*pair) for pair in pairs]))
            slopes = grad(lambda img, scale: function(img, scale).square().sum(), (0, 1))
            found = vmap(slopes, dims)(*given)
            for i, pair in enumerate(pairs):
                for one, alone in zip(found, slopes(*pair), strict=True):
                    torch.testing.assert_close(one[i], alone)
    step = torch.ones_like(images[0])
    out, change = jvp(lambda img: function(img, 1.5), (images[0],), (step,))
    assert torch.equal(out, function(images[0], 1.5))
    torch.testing.assert_close(change, step)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiled_in_one_graph(dynamic):
    model = torch.nn.Sequential(
        semiconv.ParabolicDilation(1.5, channels=3), semiconv.ParabolicOpening((1.0, 2.0))
    )
    compiled = torch.compile(model, fullgraph=True, dynamic=dynamic)
    for batch in (2, 5):
        img = image(torch.float32, (batch, 3, 8, 9)).requires_grad_()
        found = []
        for module in (model, compiled):
            out = module(img)
            grads = torch.autograd.grad(out.square().sum(), [img, *model.parameters()])
            found.append((out, *grads))
        torch.testing.assert_close(*found)


def test_opcheck():
    operators, img = torch.ops.semiconv, image(torch.float32)
    scale = SCALES["of both"].double()
    arguments = (1, [2, 3], [True, False])
    for keeps in (True, False):
        torch.library.opcheck(operators.parabolas.default, (img, scale, *arguments, keeps))
    out, winners = operators.parabolas(img, scale, *arguments, True)
    backward = (torch.ones_like(out), scale, winners, *arguments)
    torch.library.opcheck(operators.parabolas_backward.default, backward)


def test_the_same_bits_for_any_number_of_threads():
    img, scale = image(torch.float32, (2, 3, 90, 80)), SCALES["of both"]
    found, threads = [], torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        given, s = img.clone().requires_grad_(), scale.clone().requires_grad_()
        out = functional.parabolic_closing(given, s)
        out.square().sum().backward()
        found.append((out, given.grad, s.grad))
    torch.set_num_threads(threads)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_errors_name_the_argument():
    img = image()
    dilation = functional.parabolic_dilation
    for scale in (-1.0, torch.nan, torch.tensor([1.0, -2.0])):
        with pytest.raises(ValueError, match="scale must be at least 0"):
            dilation(img, scale)
    for shape in ((3,), (4, 1), (3, 3), (1, 1, 1)):
        with pytest.raises(ValueError, match=r"scale must have shape \(\), \(2,\), or of one row"):
            dilation(img, torch.ones(shape))
    with pytest.raises(ValueError, match=r"img\[None, None\], or axes="):
        dilation(img[0, 0], 1.0)
    for axes in ((0, 4), (1.0,), ()):
        with pytest.raises(ValueError, match="axes must be integers from -4 to 3"):
            dilation(img, 1.0, axes=axes)
    with pytest.raises(ValueError, match="axes must be distinct"):
        dilation(img, 1.0, axes=(2, -2))
    with pytest.raises(TypeError, match=r"img\.float\(\)"):
        dilation(torch.ones(1, 1, 3, dtype=torch.int32), 1.0)
    with pytest.raises(TypeError, match=r"semiconv_cupy\.parabolic_dilation"):
        dilation(img.numpy(), 1.0)
    with pytest.raises(TypeError, match="dense tensor"):
        dilation(img.to_sparse(), 1.0)
    with pytest.raises(TypeError, match="scale must be numbers or a tensor, got 'wide'"):
        dilation(img, "wide")
    with pytest.raises(TypeError, match="floating dtype"):
        dilation(img, torch.tensor(3))
    for softness in (0, -1.0, torch.inf, torch.nan, torch.tensor([1.0, -1.0])):
        with pytest.raises(ValueError, match="softness must be above 0"):
            functional.distance_transform_edt(img, softness=softness)
    with pytest.raises(TypeError, match="softness must be numbers"):
        functional.distance_transform_edt(img, softness="soft")
    for sampling in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="sampling must be finite"):
            functional.distance_transform_edt(img, sampling)
    with pytest.raises(TypeError, match="scale must be numbers or a tensor, got 'wide'"):
        semiconv.ParabolicDilation("wide")


# ---- distances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_distances_of_hard_masks_are_scipys(dtype):
    scipy_ndimage = pytest.importorskip("scipy.ndimage")
    masks = (torch.rand(2, 1, 40, 51, generator=torch.Generator().manual_seed(1)) < 0.95).to(dtype)
    for sampling in (1.0, (0.5, -3.0)):
        found = functional.distance_transform_edt(masks, sampling)
        assert found.dtype is (dtype if masks.is_floating_point() else torch.float32)
        for mask, distance in zip(masks[:, 0], found[:, 0], strict=True):
            expected = scipy_ndimage.distance_transform_edt(mask.numpy(), np.abs(sampling))
            # torch's root of a double may be off by a last place
            tolerance = 3e-16 if dtype is torch.float64 else 0
            expected = expected.astype(distance.numpy().dtype)
            np.testing.assert_allclose(distance, expected, rtol=tolerance, atol=0)
    half = functional.distance_transform_edt(torch.ones(1, 1, 900, dtype=torch.float16).index_fill_(
        2, torch.tensor(0), 0))  # fmt: skip
    assert half[0, 0, -1] == 899  # whose square float16 cannot hold
    assert (functional.distance_transform_edt(torch.ones(1, 1, 3, 3)) == torch.inf).all()


def test_distances_of_soft_masks_are_differentiable():
    p = torch.rand(1, 2, 7, 8, dtype=torch.float64) * 0.8 + 0.1
    p[0, 0, 0, :3] = torch.tensor([0.0, 1.0, 1.5])
    p.requires_grad_()
    spacing = torch.tensor([[1.0, 2.0], [0.7, 1.3]], dtype=torch.float64, requires_grad=True)
    softness = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    out = functional.distance_transform_edt(p, spacing, softness=softness)
    cost = torch.where(p < 1, -softness * torch.log1p(-p.clamp(max=0.99)), torch.inf)
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(8.0), indexing="ij")
    for channel in range(2):
        dy = spacing[channel, 0] * (y.flatten()[:, None] - y.flatten())
        dx = spacing[channel, 1] * (x.flatten()[:, None] - x.flatten())
        expected = (dy**2 + dx**2 + cost[0, channel].flatten()).amin(1).sqrt()
        torch.testing.assert_close(out[0, channel].flatten(), expected)
    grads = torch.autograd.grad(out.sum(), (p, spacing, softness))
    assert all(torch.isfinite(g).all() for g in grads)
    inner = p.detach()[:, 1:].clone().requires_grad_()
    call = functional.distance_transform_edt
    assert gradcheck(
        lambda p, d, s: call(p, d, softness=s),
        (inner, spacing[1].detach().requires_grad_(), softness),
    )


# ---- layers --------------------------------------------------------------------------------------

LAYERS = {
    "parabolic_dilation": semiconv.ParabolicDilation,
    "parabolic_erosion": semiconv.ParabolicErosion,
    "parabolic_opening": semiconv.ParabolicOpening,
    "parabolic_closing": semiconv.ParabolicClosing,
}


@pytest.mark.parametrize("name", NAMES)
def test_layers_take_batches_and_single_images(name):
    img = image(torch.float32)
    for given, shape in (
        ({}, ()),
        ({"scale": (1.0, 2.0)}, (2,)),
        ({"channels": 3}, (3, 1)),
        ({"scale": (1.0, 2.0), "channels": 3}, (3, 2)),
        ({"scale": torch.rand(3, 1) + 1, "channels": 3, "learn": False}, (3, 1)),
    ):
        layer = LAYERS[name](**given)
        assert layer.log_scale.shape == shape
        assert len(list(layer.parameters())) == (given.get("learn", True) is True)
        out = layer(img)
        assert torch.equal(out, getattr(functional, name)(img, layer.scale))
        assert torch.equal(layer(img[0]), out[0])
        other = pickle.loads(pickle.dumps(copy.deepcopy(layer)))
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(img), out)
    with pytest.raises(ValueError, match="3 channels"):
        layer(img[:, :2])
    with pytest.raises(ValueError, match="2 axes of space"):
        layer(img[0, 0])


def test_layers_name_what_does_not_fit():
    layer = semiconv.ParabolicDilation
    for scale in (0.0, -1.0, torch.inf):
        with pytest.raises(ValueError, match="scale must be above 0 and finite"):
            layer(scale)
    with pytest.raises(ValueError, match="has 2 axes, got ndim=3"):
        layer((1.0, 2.0), ndim=3)
    with pytest.raises(ValueError, match=r"channels=4 \(C, 1\)"):
        layer(torch.ones(3, 1), channels=4)
    assert repr(layer(channels=3, learn=False)) == (
        "ParabolicDilation(channels=3, ndim=2, learn=False)"
    )


@pytest.mark.parametrize("name", ["parabolic_dilation", "parabolic_closing"])
def test_a_learned_scale_recovers_a_known_one(name):
    torch.manual_seed(0)
    img = torch.rand(4, 2, 24, 24) * 20
    known = torch.tensor([[0.5, 1.5], [0.8, 0.3]])
    target = getattr(functional, name)(img, known)
    layer = LAYERS[name]((1.0, 1.0), channels=2)
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (layer(img) - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(layer.scale, known, rtol=0.02, atol=0)
