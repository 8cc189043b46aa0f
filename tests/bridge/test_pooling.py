"""Log-sum-exp and GeM pooling against torch's own pooling, powers and log-sum-exp."""

import copy
import itertools
import math
import pickle
from functools import partial

import mpmath
import pytest
import torch
from cases import slow_except
from torch import nn
from torch.nn import functional as F

import torch_bridge as semiconv
from torch_bridge import functional

LOG = {1: semiconv.LogSumExpPool1d, 2: semiconv.LogSumExpPool2d, 3: semiconv.LogSumExpPool3d}
GEM = {1: semiconv.GeMPool1d, 2: semiconv.GeMPool2d, 3: semiconv.GeMPool3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def windows_of(img, shape, size, stride, padding, dilation):
    """The values of each window of an image (B, C, *S), NaN outside: (B, C, *shape, taps)."""
    ndim, reach = img.dim() - 2, dilation * (size - 1) + 1
    room = [(n - 1) * stride + reach - padding for n in shape]
    pads = [side for have, need in zip(img.shape[2:], room, strict=True)
            for side in (max(need - have, 0), padding)][::-1]  # fmt: skip
    windows = F.pad(img, pads, value=math.nan)
    for axis in range(2, 2 + ndim):
        windows = windows.unfold(axis, reach, stride)[..., ::dilation]
    for axis, n in enumerate(shape):
        windows = windows.narrow(2 + axis, 0, n)
    return windows.flatten(2 + ndim)


def log_sum_exp(values, mu, mean=False):
    inside = ~values.isnan()
    out = torch.where(inside, mu * values, -math.inf).logsumexp(-1) / mu
    n = inside.sum(-1).clamp(min=1).to(values.dtype)
    return out - n.log() / mu if mean else out


def generalised_mean(values, p, eps=1e-6):
    inside = ~values.isnan()
    powers = torch.where(inside, values.clamp(min=eps) ** p, 0).sum(-1)
    n = inside.sum(-1).to(values.dtype)
    return torch.where(n > 0, (powers / n.clamp(min=1)).clamp(min=1e-300) ** (1 / p), 0)


GEOMETRIES = list(
    itertools.product((2, 3), (None, 1, 3), (0, 1), (1, 2), (False, True), (6, 7), (1, 2, 3))
)


@pytest.mark.table(40)
@pytest.mark.parametrize(
    ("size", "stride", "padding", "dilation", "ceil", "length", "ndim"), GEOMETRIES
)
def test_windows_are_torchs(size, stride, padding, dilation, ceil, length, ndim):
    img = torch.randn(2, 2, *(length + n for n in range(ndim)), dtype=torch.float64)
    shape = MAX[ndim](size, stride, padding, dilation, ceil_mode=ceil)(img).shape[2:]
    values = windows_of(img, shape, size, stride or size, padding, dilation)
    given = {"dilation": dilation, "ceil_mode": ceil, "dtype": torch.float64}
    for mean, mu in ((False, 1.5), (True, -0.7)):
        pool = LOG[ndim](size, stride, padding, mu=mu, mean=mean, **given)
        torch.testing.assert_close(pool(img), log_sum_exp(values, mu, mean))
        torch.testing.assert_close(pool(img[0]), pool(img)[0])
    for p in (3.0, -1.0):
        pool = GEM[ndim](size, stride, padding, p=p, **given)
        torch.testing.assert_close(pool(img), generalised_mean(values, p))
        torch.testing.assert_close(pool(img[0]), pool(img)[0])


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("ceil", [False, True])
def test_gem_is_the_average_of_powers(ndim, ceil):
    img = torch.randn(2, 3, *(7,) * ndim)
    for p in (1.0, 2.5):
        powers = img.clamp(min=1e-6) ** p
        expected = AVERAGE[ndim](powers, 3, 2, 1, ceil, count_include_pad=False) ** (1 / p)
        torch.testing.assert_close(GEM[ndim](3, 2, 1, p=p, ceil_mode=ceil)(img), expected)
    norm = F.lp_pool2d(img.abs(), 3.0, 3) if ndim == 2 else None
    if norm is not None:
        found = functional.gem_pool2d(img.abs(), 3) * 9 ** (1 / 3)
        torch.testing.assert_close(found, norm)


def test_windows_outside_of_the_image():
    """Two taps at -2 and 2 of an image of one pixel."""
    img = torch.ones(1, 1, 1, requires_grad=True)
    given = {"padding": 2, "dilation": 4}
    for mu in (1.0, -1.0):
        for mean in (False, True):
            out = functional.log_sum_exp_pool1d(img, 2, mu=torch.tensor(mu), mean=mean, **given)
            assert out.tolist() == [[[-math.copysign(math.inf, mu)]]]
    for p in (3.0, -2.0):
        power = torch.tensor(p, requires_grad=True)
        out = functional.gem_pool1d(img, 2, p=power, **given)
        assert out.tolist() == [[[0.0]]]
        gradients = torch.autograd.grad(out.sum(), (img, power))
        assert [gradient.item() for gradient in gradients] == [0, 0]


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_gradients(channels, padding):
    torch.manual_seed(0)
    shape = () if channels is None else (3,)
    img = torch.rand(2, 3, 5, 6, dtype=torch.float64).add(0.1).requires_grad_()
    for sign in (1, -1):
        value = sign * torch.rand(shape, dtype=torch.float64).add(0.5)
        value.requires_grad_()
        for mean in (False, True):
            assert torch.autograd.gradcheck(
                lambda img, mu, mean=mean: functional.log_sum_exp_pool2d(
                    img, 3, 2, padding, mu=mu, mean=mean
                ),
                (img, value),
            )
        assert torch.autograd.gradcheck(
            lambda img, p: functional.gem_pool2d(img, 3, 2, padding, p=p), (img, value)
        )


def test_values_below_eps_count_as_eps_and_get_no_gradient():
    img = torch.tensor([[[-3.0, 0.0, 1e-9, 2.0]]], requires_grad=True)
    out = functional.gem_pool1d(img, 4, p=3.0, eps=0.5)
    assert out.item() == pytest.approx(((3 * 0.5**3 + 8) / 4) ** (1 / 3))
    out.sum().backward()
    assert img.grad.flatten()[:3].tolist() == [0, 0, 0]
    assert img.grad.flatten()[3] > 0


@pytest.mark.parametrize(
    "dtype",
    slow_except(
        [torch.float16, torch.bfloat16, torch.float32, torch.float64], torch.float32, torch.float64
    ),
)
def test_dtypes(dtype):
    img = (1000 * torch.rand(2, 3, 49)).to(dtype).requires_grad_()
    for pool, oracle in (
        (semiconv.GeMPool1d(49, p=0.5, dtype=dtype), lambda v: generalised_mean(v, 0.5)),
        (semiconv.LogSumExpPool1d(49, mu=0.5, dtype=dtype), lambda v: log_sum_exp(v, 0.5)),
    ):
        out = pool(img)
        assert out.dtype == dtype
        out.sum().backward()
        (parameter,) = pool.parameters()
        assert parameter.grad.dtype == dtype
        assert parameter.grad.isfinite()
        expected = oracle(img.detach().double()[:, :, None])
        tolerance = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(out.detach().double(), expected, rtol=tolerance, atol=0)


def test_ends_of_the_scale():
    img = torch.rand(1, 2, 8, 8) + 0.5
    close = {"rtol": 1e-2, "atol": 0}
    maximum, average = F.max_pool2d(img, 2), F.avg_pool2d(img, 2)
    pool = functional.log_sum_exp_pool2d
    torch.testing.assert_close(pool(img, 2, mu=1e6), maximum)
    torch.testing.assert_close(pool(img, 2, mu=-1e6), -F.max_pool2d(-img, 2))
    torch.testing.assert_close(pool(img, 2, mu=0.01, mean=True), average, **close)
    torch.testing.assert_close(functional.gem_pool2d(img, 2, p=1.0), average)
    torch.testing.assert_close(functional.gem_pool2d(img, 2, p=500.0), maximum, **close)


def exact_mean(values, rate):
    """ln(mean e^(rate v)) / rate and its derivatives by the rate and by the values; as rate -> 0.

    At 0 with a rate so small that mpmath's digits still show what it changes.
    """
    with mpmath.workdps(100):
        values, rate = [mpmath.mpf(v) for v in values], mpmath.mpf(rate or 1e-30)
        powers = [mpmath.exp(rate * v) for v in values]
        mean = mpmath.log(mpmath.fsum(powers) / len(values)) / rate
        weights = [power / mpmath.fsum(powers) for power in powers]
        slope = (mpmath.fdot(weights, values) - mean) / rate
        return mean, slope, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-6, 1e-3, 0.02, 0.034, 0.05])
@pytest.mark.parametrize("sign", [1, -1])
def test_means_near_0(dtype, size, sign):
    """Where the sum is out of range, or says nothing: e^(ln 9 / 0.02) is 10^47."""
    torch.manual_seed(0)
    rate, eps = sign * size, torch.finfo(dtype).eps
    img = torch.exp(2 * torch.randn(1, 1, 9, dtype=torch.float64)).to(dtype).requires_grad_()
    power = torch.tensor(rate, dtype=dtype, requires_grad=True)
    flat = img.detach().double().flatten().log()
    for p in (rate, power):
        out = functional.gem_pool1d(img, 9, p=p)
        mean, slope, weights = exact_mean(flat.tolist(), p if p is rate else p.item())
        assert out.item() == pytest.approx(float(mpmath.exp(mean)), rel=60 * eps)
        grads = torch.autograd.grad(out.sum(), (img, power) if p is power else img)
        expected = torch.tensor(list(map(float, weights)), dtype=torch.float64)
        expected = float(mpmath.exp(mean)) * expected / flat.exp()
        torch.testing.assert_close(grads[0].flatten().double(), expected, rtol=60 * eps, atol=0)
        if p is power:
            wanted = float(mpmath.exp(mean) * slope)
            assert grads[1].item() == pytest.approx(wanted, rel=1e3 * eps)
    mu = torch.tensor(rate, dtype=dtype, requires_grad=True)
    logs = img.detach().log().requires_grad_()
    out = functional.log_sum_exp_pool1d(logs, 9, mu=mu, mean=True)
    mean, slope, weights = exact_mean(logs.double().flatten().tolist(), mu.item())
    assert out.item() == pytest.approx(float(mean), rel=0, abs=60 * eps)
    by_logs, by_mu = torch.autograd.grad(out.sum(), (logs, mu))
    expected = torch.tensor(list(map(float, weights)), dtype=torch.float64)
    torch.testing.assert_close(by_logs.flatten().double(), expected, rtol=60 * eps, atol=0)
    assert by_mu.item() == pytest.approx(float(slope), rel=1e3 * eps)


def test_a_large_number_elsewhere_changes_no_mean():
    """Nor its slope, near 0; NaN and infinity stay in their windows."""
    img = torch.rand(1, 1, 4, 4)
    mu = torch.tensor(0.002, requires_grad=True)

    def of_others(img):
        out = functional.log_sum_exp_pool2d(img, 2, mu=mu, mean=True)[..., 0]
        return out.detach(), torch.autograd.grad(out.sum(), mu)[0]

    expected = of_others(img)
    for number in (1e4, float("inf"), float("nan")):
        img[0, 0, 3, 3] = number
        torch.testing.assert_close(of_others(img), expected, rtol=0, atol=0)


@pytest.mark.parametrize("mean", [False, True])
def test_a_value_for_each_channel_of_dynamic_sizes(mean):
    pool = semiconv.LogSumExpPool2d(2, mu=0.7, mean=mean, channels=3)
    run = torch.compile(pool, backend="aot_eager", dynamic=True, fullgraph=True)
    img = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(run(img), pool(img))


def test_means_at_0_and_channels_of_several_powers():
    """A learned power that reaches 0 gives the geometric mean; windows outside of the image 0."""
    img = torch.rand(2, 4, 6, 7).add(0.1).requires_grad_()
    power = torch.tensor([0.0, 3.0, -1e-4, 0.05], requires_grad=True)
    given = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True}
    out = functional.gem_pool2d(img, p=power, **given)
    windows = windows_of(img.detach().double(), out.shape[2:], 3, 2, 1, 2)
    for channel, p in enumerate([0.0, 3.0, -1e-4, 0.05]):
        values = windows[:, channel, None]
        expected = generalised_mean(values, p) if p else values.log().nanmean(-1).exp()
        torch.testing.assert_close(out[:, channel, None].double(), expected, rtol=1e-5, atol=0)
    gradients = torch.autograd.grad(out.sum(), (img, power))
    assert all(gradient.isfinite().all() for gradient in gradients)
    alone = functional.gem_pool1d(torch.ones(1, 1, 1), 2, padding=2, dilation=4, p=1e-9)
    assert alone.tolist() == [[[0.0]]]
    mean = functional.log_sum_exp_pool2d(img, mu=torch.zeros(4), mean=True, **given)
    torch.testing.assert_close(mean.double(), windows.nanmean(-1))


def pooled(family, img, rate, windows=9):
    """The mean of the windows of signals, by the function of that family."""
    if family == "root":
        return functional.gem_pool1d(img, windows, p=rate)
    return functional.log_sum_exp_pool1d(img, windows, mu=rate, mean=True)


def require_exact_mean(family, img, rate, found, gradients=None):
    """A window's mean, and its gradients by image and rate, beside exact ones."""
    logs = img.detach().double().flatten()
    logs = logs.log() if family == "root" else logs
    mean, slope, weights = exact_mean(logs.tolist(), rate)
    value = float(mpmath.exp(mean) if family == "root" else mean)
    eps = torch.finfo(img.dtype).eps
    assert found.item() == pytest.approx(value, rel=20 * eps)
    if gradients is None:
        return
    scale = value if family == "root" else 1.0
    expected = scale * torch.tensor(list(map(float, weights)), dtype=torch.float64)
    expected = expected / logs.exp() if family == "root" else expected
    by_img, by_rate = gradients
    near = 20 * eps * expected.abs().max().item()
    torch.testing.assert_close(by_img.double().flatten(), expected, rtol=20 * eps, atol=near)
    assert by_rate.item() == pytest.approx(scale * float(slope), rel=20 * eps)


RATES = (0.0, 1e-6, -1e-6, 0.02, -0.02, 0.1, 3.0, -40.0)


@pytest.mark.parametrize("transform", ["compile", "vmap", "grad"])
@pytest.mark.parametrize("family", ["root", "log"])
def test_means_of_rates_that_nobody_reads(family, transform):
    """Each value, near 0 too, gives its own mean: in traces, under transforms, as on a GPU."""
    torch.manual_seed(0)
    img = torch.rand(1, 1, 9) + 0.1
    run = torch.compile(lambda rate: pooled(family, img, rate), backend="aot_eager", fullgraph=True)
    for number in RATES:
        rate = torch.tensor(number)
        exact = rate.item()
        if transform == "compile":
            require_exact_mean(family, img, exact, run(rate))
        elif transform == "vmap":
            require_exact_mean(
                family, img, exact, torch.vmap(partial(pooled, family, img))(rate[None])
            )
        else:
            gradients, found = torch.func.grad_and_value(
                lambda img, rate: pooled(family, img, rate).sum(), (0, 1)
            )(img, rate)
            require_exact_mean(family, img, exact, found, gradients)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["root", "log"])
def test_means_near_0_on_a_gpu(family, dtype):
    """A tensor there is read by the kernels alone; a number, too, gives the mean near 0."""
    torch.manual_seed(0)
    img = (torch.rand(1, 1, 49, device="cuda") + 0.1).to(dtype).requires_grad_()
    real = torch.float64 if dtype is torch.float64 else torch.float32
    for taps in (9, 49):
        for number in RATES:
            part = img[..., :taps]
            rate = torch.tensor(number, device="cuda", dtype=real, requires_grad=True)
            found = pooled(family, part, rate, taps)
            by_img, by_rate = torch.autograd.grad(found.sum(), (part, rate))
            gradients = by_img.cpu(), by_rate.to(dtype).cpu()
            require_exact_mean(family, part.cpu(), rate.item(), found.cpu(), gradients)
            if family == "log" and 0 < abs(number) < 0.05:
                require_exact_mean(
                    family, part.cpu(), number, pooled(family, part, number, taps).cpu()
                )


@pytest.mark.parametrize("powers", [[3.0, 0.5, -2.0], [3.0, 2.5, -2.0]])
def test_a_compiled_mean_learns_its_rates(powers):
    """One a channel, of dynamic sizes, as the eager function does; large ones go by sums."""
    torch.manual_seed(0)
    run = torch.compile(
        lambda img, p: functional.gem_pool2d(img, 3, 2, 1, p=p, ceil_mode=True),
        fullgraph=True, dynamic=True, backend="aot_eager",
    )  # fmt: skip
    for size in (7, 8):
        img = (torch.rand(2, 3, size, 6) + 0.1).requires_grad_()
        power = torch.tensor(powers, requires_grad=True)
        eager = functional.gem_pool2d(img, 3, 2, 1, p=power, ceil_mode=True)
        found = run(img, power)
        torch.testing.assert_close(found, eager)
        grad = torch.rand_like(eager)
        torch.testing.assert_close(
            torch.autograd.grad(found, (img, power), grad),
            torch.autograd.grad(eager, (img, power), grad),
        )
    each = torch.vmap(lambda p: functional.gem_pool2d(img, 3, 2, 1, p=p, ceil_mode=True))
    torch.testing.assert_close(each(power.detach()[None])[0], eager)
    by_p = torch.vmap(
        torch.func.grad(
            lambda p, img: functional.gem_pool2d(img[None], 3, 2, 1, p=p, ceil_mode=True).sum()
        ),
        (None, 0),
    )(power.detach(), img.detach())
    alone = [functional.gem_pool2d(one[None], 3, 2, 1, p=power, ceil_mode=True) for one in img]
    expected = torch.stack([torch.autograd.grad(one.sum(), power)[0] for one in alone])
    torch.testing.assert_close(by_p, expected)
    with pytest.raises(RuntimeError, match="through a fused mean of windows"):
        torch.func.hessian(lambda p: functional.gem_pool1d(img[0, 0, :1], 3, p=p).sum())(power[0])


@pytest.mark.parametrize("cls", [semiconv.LogSumExpPool2d, semiconv.GeMPool2d])
def test_modules(cls):
    img = torch.rand(2, 3, 8, 8)
    name = cls.parameter_name
    pool = cls(2, channels=3, **{name: 2.0})
    assert [key for key, _ in pool.named_parameters()] == [name]
    fixed = cls(2, learn=False)
    assert not list(fixed.parameters())
    assert list(fixed.state_dict()) == [name]
    nn.init.uniform_(getattr(pool, name), 1, 5)
    for same in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert torch.equal(same(img), pool(img))
    other = cls(2, channels=3)
    other.load_state_dict(pool.state_dict())
    assert torch.equal(other(img), pool(img))
    for channel, value in enumerate(getattr(pool, name).tolist()):
        alone = cls(2, learn=False, **{name: value})
        torch.testing.assert_close(alone(img)[:, channel], pool(img)[:, channel])
    pool.reset_parameters()
    assert getattr(pool, name).tolist() == [2, 2, 2]
    run = torch.compile(pool, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(img), pool(img))


@pytest.mark.parametrize(
    ("error", "call", "message"),
    [
        (ValueError, lambda: semiconv.LogSumExpPool2d(2, mu=0.0), "mu"),
        (ValueError, lambda: semiconv.GeMPool2d(2, p=math.inf), "p must"),
        (ValueError, lambda: functional.gem_pool1d(torch.ones(1, 1, 4), 2, p=0.0), "p must.*not 0"),
        (ValueError, lambda: semiconv.LogSumExpPool2d(2, mu=1e39), r"float32, got mu=1e\+39"),
        (ValueError, lambda: semiconv.GeMPool2d(2, p=1e-46), "float32, got p=1e-46"),
        (TypeError, lambda: semiconv.GeMPool2d(2, dtype=torch.int32), "floating torch.dtype"),
        (ValueError, lambda: semiconv.GeMPool2d(2, eps=0.0), "eps"),
        (ValueError, lambda: semiconv.GeMPool2d(2, padding=2), "half the window"),
        (ValueError, lambda: semiconv.GeMPool2d((2, 2, 2)), "kernel_size"),
        (ValueError, lambda: semiconv.GeMPool2d(2, channels=0), "channels"),
        (ValueError, lambda: semiconv.GeMPool2d(2, channels=2)(torch.ones(3, 4, 4)), "2 channels"),
        (ValueError, lambda: semiconv.GeMPool2d(2)(torch.ones(4, 4)), r"\(B, C, H, W\)"),
        (TypeError, lambda: semiconv.GeMPool2d(2)(torch.ones(1, 4, 4, dtype=torch.int32)), "float"),
        (ValueError, lambda: functional.gem_pool1d(torch.ones(3, 4), 2, p=torch.ones(2)), "p must"),
    ],
)  # fmt: skip
def test_errors(error, call, message):
    with pytest.raises(error, match=message):
        call()
