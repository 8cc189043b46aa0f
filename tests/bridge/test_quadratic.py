"""Learnable kernels: values, shapes, initial distributions, checkpoints, pictures."""

import copy
import math
import pickle

import pytest
import torch
from cuda_on_cpu.device import HarnessDevice
from torch.autograd import forward_ad

from semiconv_cupy.backends.quadratic import Family, on_gpu, on_host
from torch_bridge import quadratic
from torch_bridge.quadratic import (
    CovCholesky,
    CovCholesky2D,
    CovSpectral,
    CovSpectral2D,
    LearnedKernel,
    LearnedKernel2D,
    QuadraticKernelCholesky,
    QuadraticKernelCholesky2D,
    QuadraticKernelIso,
    QuadraticKernelIso2D,
    QuadraticKernelSpectral,
    QuadraticKernelSpectral2D,
)

ANISOTROPIC = (QuadraticKernelSpectral, QuadraticKernelCholesky)
QUADRATIC = (*ANISOTROPIC, QuadraticKernelIso)
SIZES = [(5,), (4, 3), (3, 4, 2), (2, 3, 2, 2)]


def offsets(sizes):
    axes = [torch.arange(k, dtype=torch.float64) - (k - 1) // 2 for k in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cls", ANISOTROPIC)
def test_kernel_is_the_quadratic_form_of_its_covariance(cls, sizes):
    kernel = cls(2, 3, sizes, dtype=torch.float64)
    values, cov, x = kernel(), kernel.covs.cov(), offsets(sizes)
    assert values.shape == (3, 2, *sizes)
    inverse = torch.linalg.inv(cov)
    expected = -torch.einsum("...a,oiab,...b->oi...", x, inverse, x)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(cov, cov.mT)
    if cls is QuadraticKernelSpectral:
        torch.testing.assert_close(kernel.covs.inverse_cov(), inverse)
        assert torch.equal(kernel.covs(), kernel.covs.inverse_cov())
        std = torch.linalg.eigvalsh(cov).sqrt()
        torch.testing.assert_close(std, kernel.covs.log_std.exp().sort(dim=-1).values)
    else:
        lower = kernel.covs.cholesky()
        torch.testing.assert_close(lower, torch.linalg.cholesky(cov))
        assert torch.equal(kernel.covs(), lower)
        std = cov.diagonal(dim1=-2, dim2=-1).sqrt()
        torch.testing.assert_close(std, kernel.inspect_parameters()[0].exp())


def test_two_dimensional_conventions():
    spectral = CovSpectral2D(1, 1)
    cholesky = CovCholesky2D(1, 1)
    with torch.no_grad():
        spectral.log_std.copy_(torch.tensor([[[0.3, 0.9]]]))
        spectral.theta.fill_(0.4)
        cholesky.log_std.copy_(torch.tensor([0.3, 0.9]).view(2, 1, 1))
        cholesky.corr.fill_(0.4)
    c, s = math.cos(0.4), math.sin(0.4)
    rotation = torch.tensor([[c, -s], [s, c]])
    expected = rotation @ torch.diag(torch.tensor([0.6, 1.8]).exp()) @ rotation.T
    torch.testing.assert_close(spectral.cov()[0, 0], expected)
    between = math.tanh(0.4) * math.exp(1.2)
    expected = torch.tensor([[math.exp(0.6), between], [between, math.exp(1.8)]])
    torch.testing.assert_close(cholesky.cov()[0, 0], expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_isotropic_values(size):
    kernel = QuadraticKernelIso2D(1, 1, size, {"var": 4})
    expected = -offsets((size, size)).square().sum(-1) / 4
    torch.testing.assert_close(kernel()[0, 0].double(), expected)


@pytest.mark.parametrize("sizes", SIZES[:3])
@pytest.mark.parametrize("cls", QUADRATIC)
def test_gradcheck(cls, sizes):
    kernel = cls(1, 2, sizes, dtype=torch.float64)
    names, values = zip(*kernel.named_parameters(), strict=True)

    def call(*values):
        return torch.func.functional_call(kernel, dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(call, tuple(v.detach().requires_grad_() for v in values))


@pytest.mark.table(8)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("cls", QUADRATIC)
@pytest.mark.parametrize("where", ["host", "gpu"])
def test_compiled_functions_agree_with_tensors(where, cls, sizes):
    """Values and gradients; a GPU's kernels run on the CPU."""
    kernel, shape = cls(2, 3, sizes, dtype=torch.float64), (3, 2, *sizes)
    covs = getattr(kernel, "covs", None)
    log_std, pairs = (kernel.log_std, None) if covs is None else (covs.log_std, covs.pairs)
    family = Family("isotropic" if covs is None else covs.parametrisation, "float64", sizes, 6)
    calls = on_host(family) if where == "host" else on_gpu(family, HarnessDevice())
    last = 2 if where == "host" else None
    krn = torch.full(shape, math.nan, dtype=torch.float64)
    given = [tensor for tensor in (log_std, pairs) if tensor is not None]
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in (log_std, pairs)]
    calls.values(*addresses, krn.data_ptr(), last)
    # Differentiation of what functional_call traces is that of tensors.
    names, values = zip(*kernel.named_parameters(), strict=True)
    grad = torch.randn(shape, dtype=torch.float64)
    expected, pullback = torch.func.vjp(
        lambda *values: torch.func.functional_call(kernel, dict(zip(names, values, strict=True))),
        *(value.detach() for value in values),
    )
    torch.testing.assert_close(krn, expected)
    of_given = [torch.full_like(tensor, math.nan) for tensor in given]
    of_both = [tensor.data_ptr() for tensor in of_given] + [0] * (2 - len(given))
    calls.gradients(*addresses, grad.data_ptr(), *of_both, last)
    by_name = {id(value): found for value, found in zip(values, pullback(grad), strict=True)}
    torch.testing.assert_close(of_given, [by_name[id(tensor)] for tensor in given])


@pytest.mark.parametrize("cls", QUADRATIC)
def test_odd_memory_and_second_derivatives(cls):
    """Parameters that are not contiguous; what compiled functions leave to tensors."""
    kernel = cls(2, 3, (3, 4), dtype=torch.float64)
    names, values = zip(*kernel.named_parameters(), strict=True)

    def call(*values):
        return torch.func.functional_call(kernel, dict(zip(names, values, strict=True)))

    strided = [torch.stack([v.detach()] * 2, -1)[..., 1].requires_grad_() for v in values]
    assert not any(value.is_contiguous() for value in strided)
    assert torch.equal(call(*strided), kernel())
    assert torch.autograd.gradgradcheck(call, strided)
    (tangent,) = torch.autograd.grad(call(*strided).sum(), strided[:1])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(values[0].detach(), torch.ones_like(values[0]))
        found = forward_ad.unpack_dual(call(dual, *values[1:]).sum()).tangent
    torch.testing.assert_close(found, tangent.sum())


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "nowhere-found")
    kernel = QuadraticKernelIso(1, 3, (2, 9), {"var": 2.0})  # a family that no other test asks for
    expected = -offsets((2, 9)).square().sum(-1) / 2
    torch.testing.assert_close(kernel()[0, 0].double(), expected)


def test_strong_correlation_stays_regular():
    kernel = QuadraticKernelCholesky2D(1, 1, 3, {"var": 1.0})
    with torch.no_grad():
        kernel.covs.corr.fill_(12.0)  # tanh is 1 in float32
    kernel().sum().backward()
    assert kernel().isfinite().all()
    assert kernel.covs.corr.grad.isfinite()


N_KERNELS = (40, 50)  # 2000 kernels


def variances(kernel):
    iso = isinstance(kernel, QuadraticKernelIso)
    log_std = kernel.log_std[..., None] if iso else kernel.inspect_parameters()[0]
    assert log_std.shape == (50, 40, 1 if iso else kernel().dim() - 2)
    return (2 * log_std.detach()).exp().reshape(2000, -1)


@pytest.mark.parametrize(
    ("name", "ranges", "mean"),
    [
        (4.0, [(4, 4), (4, 4)], 4),
        (4, [(4, 4), (4, 4)], 4),
        ("uniform", [(1, 16), (1, 16)], 8.5),
        ("normal", [(1, 16), (1, 16)], 8.17),
        ("skewed", [(1, 8), (20, 24)], 13.25),
        ("uniform-iso", [(1, 16), (1, 16)], 8.5),
        ("ss-iso", [(1, 18), (1, 18)], 9.5),
        ("log-ss-iso", [(1, 18), (1, 18)], 17 / math.log(18)),
    ],
)
@pytest.mark.parametrize("cls", ANISOTROPIC)
def test_initial_variances(cls, name, ranges, mean):
    torch.manual_seed(1)
    values = variances(cls(*N_KERNELS, 7, {"var": name}, ndim=2))
    for axis, (low, high) in zip(values.T, ranges, strict=True):
        assert low - 1e-4 <= axis.min() <= low + 0.1
        assert high - 0.1 <= axis.max() <= high + 1e-4
    assert values.mean().item() == pytest.approx(mean, abs=0.25)
    if isinstance(name, str) and name.endswith("iso"):
        assert torch.equal(values[:, 0], values[:, 1])
    if name == "normal":
        assert values.std().item() == pytest.approx(3.4, abs=0.1)
    if name == "ss-iso":
        even = torch.linspace(1, 18, 2000)
        torch.testing.assert_close(values[:, 0].sort().values, even)
        assert not torch.equal(values[:, 0], values[:, 0].sort().values)


@pytest.mark.parametrize(
    ("init", "low", "high"),
    [
        (None, 1, 18),
        ({"var": "ss"}, 1, 18),
        ({"var": "log-ss"}, 1, 18),
        ({"var": "normal"}, 1, 16),
        ({"var": "uniform"}, 1, 16),
        ({"var": 2.5}, 2.5, 2.5),
    ],
)
def test_initial_isotropic_variances(init, low, high):
    torch.manual_seed(1)
    values = variances(QuadraticKernelIso2D(*N_KERNELS, 7, init))
    assert low - 1e-4 <= values.min() <= low + 0.2
    assert high - 0.2 <= values.max() <= high + 1e-4


def test_initial_angles_and_correlations():
    torch.manual_seed(1)
    spin = QuadraticKernelSpectral2D(*N_KERNELS, 3).inspect_parameters()[1].detach()
    assert spin.shape == (50, 40)
    torch.testing.assert_close(spin.flatten().sort().values, torch.arange(2000) * math.pi / 2000)
    theta = QuadraticKernelSpectral2D(*N_KERNELS, 3, {"theta": "uniform"}).covs.theta
    assert 0 <= theta.min() < 0.01
    assert math.pi - 0.01 < theta.max() <= math.pi
    corr = QuadraticKernelCholesky2D(*N_KERNELS, 3).inspect_parameters()[1]
    assert corr.shape == (50, 40)
    assert corr.abs().max() <= 1
    assert corr.std().item() == pytest.approx(0.44, abs=0.02)
    free = LearnedKernel2D(*N_KERNELS, 3)().detach()
    assert free.shape == (50, 40, 3, 3)
    assert abs(free.mean()) < 0.02
    assert free.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("cls", QUADRATIC)
def test_size_one_kernel(cls):
    assert cls(2, 3, 1, ndim=2)().abs().sum() == 0
    assert math.isfinite(QuadraticKernelIso2D(2, 3, 1).log_std.sum().item())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: QuadraticKernelSpectral(1, 1, 3), ValueError, "kernel_size=3.*ndim"),
        (lambda: QuadraticKernelSpectral2D(1, 1, (3, 3, 3)), ValueError, r"\(3, 3, 3\)"),
        (lambda: QuadraticKernelIso2D(1, 1, 3, ndim=3), ValueError, "ndim=3"),
        (lambda: LearnedKernel(1, 1, 0, ndim=1), ValueError, "kernel_size.*got 0"),
        (lambda: LearnedKernel(1, 1, 2.5, ndim=1), TypeError, "kernel_size.*2.5"),
        (lambda: LearnedKernel2D(0, 1, 3), ValueError, "in_channels.*0"),
        (lambda: QuadraticKernelIso2D(1, 1, 3, {"var": "skewed"}), ValueError, "skewed"),
        (lambda: QuadraticKernelIso2D(1, 1, 3, {"var": -1.0}), ValueError, "-1.0"),
        (lambda: QuadraticKernelIso2D(1, 1, 3, {"variance": 1.0}), ValueError, "variance"),
        (lambda: QuadraticKernelIso2D(1, 1, 3, "ss"), TypeError, "init.*'ss'"),
        (lambda: QuadraticKernelSpectral2D(1, 1, 3, {"theta": "x"}), ValueError, "theta.*'x'"),
        (lambda: CovSpectral2D(1, 1, {"var": "ss-iso"}), ValueError, "kernel_size"),
        (lambda: CovCholesky(1, 1), ValueError, "ndim"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_repr_and_attributes():
    kernel = QuadraticKernelSpectral2D(in_channels=2, out_channels=3, kernel_size=5, init=None)
    assert repr(kernel).splitlines()[1:3] == [
        "  2, 3, kernel_size=5",
        "  (covs): CovSpectral2D(2, 3)",
    ]
    assert (kernel.in_channels, kernel.out_channels, kernel.kernel_size) == (2, 3, 5)
    assert repr(QuadraticKernelIso2D(1, 2, 3)) == "QuadraticKernelIso2D(1, 2, kernel_size=3)"
    assert repr(LearnedKernel(1, 2, (3, 4))) == "LearnedKernel(1, 2, kernel_size=(3, 4))"
    assert isinstance(QuadraticKernelCholesky2D(1, 1, 3).covs, CovCholesky2D)


@pytest.mark.parametrize("cls", [*QUADRATIC, LearnedKernel])
def test_copies_and_moves(cls):
    kernel = cls(2, 3, (3, 4))
    for other in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert torch.equal(other(), kernel())
    fresh = cls(2, 3, (3, 4))
    fresh.load_state_dict(kernel.state_dict())
    assert torch.equal(fresh(), kernel())
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        values = copy.deepcopy(kernel).to(dtype)()
        assert values.dtype == dtype
        torch.testing.assert_close(values.float(), kernel(), atol=0.1, rtol=0.05)


@pytest.mark.table(3)
@pytest.mark.parametrize("cls", [*QUADRATIC, LearnedKernel])
@pytest.mark.parametrize("sizes", SIZES[:3])
def test_plot(cls, sizes):
    matplotlib = pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    matplotlib.use("Agg")
    kernel = cls(2, 3, sizes)
    assert [len(kernel.plot(n)) for n in (1, 4, 100)] == [1, 4, 6]
    axes = kernel.plot()
    assert len(axes) == 5
    assert axes[3].get_title() == "out 1, in 1"
    drawn = axes[3].lines[0].get_ydata() if len(sizes) == 1 else axes[3].images[0].get_array()
    middle = kernel()[1, 1].detach()
    for _ in range(len(sizes) - 2):
        middle = middle[(middle.shape[0] - 1) // 2]
    assert torch.equal(torch.as_tensor(drawn), middle)
    matplotlib.pyplot.close("all")


def test_plot_marks_whole_offsets():
    matplotlib = pytest.importorskip("matplotlib", reason="drawing needs matplotlib")
    matplotlib.use("Agg")
    (axis,) = LearnedKernel2D(1, 1, 3).plot()
    assert all(float(tick).is_integer() for tick in (*axis.get_xticks(), *axis.get_yticks()))
    matplotlib.pyplot.close("all")


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        LearnedKernel2D(1, 1, 3).plot()


@pytest.mark.parametrize(
    "name",
    [
        "QuadraticKernelSpectral2D",
        "QuadraticKernelCholesky2D",
        "QuadraticKernelIso2D",
        "LearnedKernel2D",
    ],
)
@pytest.mark.parametrize("size", [3, 4])
def test_checkpoints_of_pytorch_nd_semiconv_load(name, size):
    other = pytest.importorskip("pytorch_nd_semiconv", reason="the package being replaced")
    theirs, ours = (getattr(m, name)(2, 3, size) for m in (other, quadratic))
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(), theirs())
    assert {n for n, _ in ours.named_parameters()} == {n for n, _ in theirs.named_parameters()}
    if hasattr(theirs, "inspect_parameters"):
        assert all(map(torch.equal, ours.inspect_parameters(), theirs.inspect_parameters()))


def test_initial_values_of_covariances_without_a_kernel():
    assert CovSpectral(1, 2, ndim=3).theta.shape == (2, 1, 3)
    assert CovCholesky(1, 2, ndim=3).log_std.shape == (3, 2, 1)
    assert CovCholesky2D(1, 2, kernel_size=4, init={"var": "ss-iso"}).log_std.max() > 1.03
