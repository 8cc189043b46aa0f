"""The modules in use: mixed precision, moving, many processes, and models that learn."""

import copy
import datetime
import os
import pickle
import statistics
import sys

import pytest
import torch
import torch.multiprocessing
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import torch_bridge as semiconv
from examples.curves import __main__ as curves
from examples.curves import networks
from torch_bridge import GenericConv, LearnedKernel2D, SelectSemifield, SubtractSemifield
from torch_bridge.functional import semifield_conv


def small_model(conv=None):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        GenericConv(
            LearnedKernel2D(1, 4, 3),
            conv or SelectSemifield.tropical_max().lazy_fixed(),
            stride=2,
            groups=4,
        ),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 3),
    )


def test_autocast():
    model = small_model()
    img = torch.randn(2, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model[0](img)
        assert hidden.dtype == torch.bfloat16
        assert model[1](hidden).dtype == torch.float32  # the kernel's, the wider one
        loss = model(img).float().square().sum()
    loss.backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )
    assert model[1].kernel.kernel.grad.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_moving_to_another_dtype(dtype):
    model, img = small_model(), torch.randn(2, 1, 8, 8)
    moved = copy.deepcopy(model).to(dtype)
    out = moved(img.to(dtype))
    assert out.dtype == dtype
    out.sum().backward()
    assert all(p.grad.dtype == dtype for p in moved.parameters())
    torch.testing.assert_close(out.float(), model(img), rtol=0.1, atol=0.1)


def test_state_copies_and_pickles():
    model = small_model(SubtractSemifield.log(2.0).dynamic())
    img = torch.randn(2, 1, 8, 8)
    other = small_model(SubtractSemifield.log(2.0).dynamic())
    other[1].kernel.kernel.data.zero_()
    other.load_state_dict(model.state_dict())
    expected = torch.autograd.grad(model(img).sum(), list(model.parameters()))
    for same in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found = torch.autograd.grad(same(img).sum(), list(same.parameters()))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_data_parallel_without_gpus_is_the_model():
    model, img = small_model(), torch.randn(2, 1, 8, 8)
    assert torch.equal(DataParallel(model)(img), model(img))


def train_in_a_group(rank, folder, img, expected):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    model = DistributedDataParallel(small_model())
    model(img[rank::2]).square().mean().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    torch.distributed.barrier()
    os._exit(0)  # gloo's own teardown at times waits for ever


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch has no gloo")
def test_distributed_over_two_processes(tmp_path, monkeypatch):
    # The loopback interface: a machine need not know its own name.
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    model, img = small_model(), torch.randn(4, 1, 8, 8)
    model(img).square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    torch.multiprocessing.spawn(train_in_a_group, (str(tmp_path), img, gradients), nprocs=2)


# ---- learning ------------------------------------------------------------------------------------


def lenet(pool):
    """Two convolutions, each followed by pooling over 3 x 3 windows, for 8 x 8 digits."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), pool(8),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), pool(16),
        nn.Flatten(), nn.Linear(16 * 2 * 2, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


POOLS = {
    "dilation": lambda channels: semiconv.DilationPool2d(3, 2, 1, channels=channels),
    "maximum": lambda channels: nn.MaxPool2d(3, 2, 1),
}


def accuracy_after_training(make, data, seed, epochs=20, rate=1e-2, batch=100):
    torch.manual_seed(seed)
    images, labels, test_images, test_labels = data
    model = make()
    optimiser = torch.optim.Adam(model.parameters())
    steps = epochs * -(-len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for part in torch.randperm(len(images)).split(batch):
            loss = nn.functional.cross_entropy(model(images[part]), labels[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        losses.append(total)
    assert losses[-1] < 0.1 * losses[0]
    model.eval()
    with torch.no_grad():
        return (model(test_images).argmax(1) == test_labels).float().mean().item()


def digits():
    """Images and labels for training, and others for the test."""
    pytest.importorskip("sklearn.datasets", reason="scikit-learn has the digits")
    found = curves.digits()
    return *found.train, *found.test


@pytest.mark.slow
def test_digits_are_learned_as_well_as_with_max_pooling():
    data = digits()
    mean = {
        name: statistics.mean(
            accuracy_after_training(lambda pool=pool: lenet(pool), data, seed) for seed in range(3)
        )
        for name, pool in POOLS.items()
    }
    assert mean["dilation"] > 0.95
    assert mean["dilation"] >= mean["maximum"] - 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("family", "value"), [("root", 0.5), ("root", 10), ("log", -2)])
def test_networks_of_roots_and_logs_train(family, value):
    found = accuracy_after_training(
        lambda: networks.lenet(family, value, 8), digits(), 0, epochs=40, rate=0.03
    )
    assert found > 0.95


def test_a_structuring_function_is_recovered():
    torch.manual_seed(0)
    axis = torch.arange(-2.0, 3.0)
    known = -(axis[:, None] ** 2 / 2 + axis**2 / 8 + axis[:, None] * axis / 10)[None, None]
    images = 10.0 * (torch.rand(8, 1, 24, 24) > 0.97)  # impulses show all of it
    goals = semifield_conv(images, known, "tropical_max", padding="same")
    kernel = torch.full_like(known, -1.0).requires_grad_()
    optimiser = torch.optim.Adam([kernel], 0.1)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
    for _ in range(300):
        out = semifield_conv(images, kernel, "tropical_max", padding="same")
        loss = (out - goals).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    torch.testing.assert_close(kernel.detach(), known, atol=0.05, rtol=0)


def test_curves_are_recorded_and_drawn(tmp_path, monkeypatch, capsys):
    """On few digits, so that nothing is learned; what is recorded is not computed again."""
    pytest.importorskip("sklearn.datasets", reason="scikit-learn has the digits")
    pytest.importorskip("matplotlib", reason="pictures need it")
    some, out = curves.digits(), tmp_path / "curves.jsonl"
    few = some._replace(train=curves.data.Split(*(part[:40] for part in some.train)))
    monkeypatch.setattr(curves, "digits", lambda: few)
    train = ["train", "--root", "2", "--log", "-2", "--seeds", "2", "--epochs", "2"]
    for _ in range(2):
        curves.main([*train, "--batch", "20", "--device", "cpu", "--out", str(out)])
    curves.main(["table", str(out)])
    assert len(out.read_text().splitlines()) == 2
    assert (
        capsys.readouterr().out.count("digits, log, mu = -2: ") == 2
    )  # trained once, and the table
    curves.main(["plot", str(out), "--out", str(tmp_path / "curves.png")])
    assert (tmp_path / "curves.png").stat().st_size > 10_000
