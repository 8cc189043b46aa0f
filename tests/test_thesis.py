"""The example of examples/thesis: many networks at once are each network alone; files survive."""

import functools
import gzip
import json
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from examples.thesis import __main__ as command
from examples.thesis import data, records, settings, tables, timing, train
from examples.thesis.ensemble import Ensemble
from examples.thesis.networks import WAYS, lenet

SPECTRAL = {"kind": "spectral", "size": 3}
LINEAR = {"kind": "linear"}
LOG = {"kind": "log", "mu": 2.0}
GEM = {"kind": "gem", "size": 3, "p": 3.0}
LOG_SUM_EXP = {"kind": "log-sum-exp", "size": 3, "mu": 2.0, "mean": True}
gpu = [
    pytest.param("cpu"),
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
        ],
    ),
]


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="scikit-learn has the digits")
    return data.load("digits", None)


def network(digits, seed, pool=SPECTRAL, conv=LINEAR, **options):
    return lenet(digits.shape, digits.classes, pool, conv, seed, **options)


# ---- many networks at once -----------------------------------------------------------------------


def distance(one, other):
    """How far the parameters of two networks are from each other."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return sum((p - q).square().sum() for p, q in pairs).sqrt().item()


@pytest.mark.parametrize("device", gpu)
@pytest.mark.parametrize(
    ("conv", "pool"),
    [(LINEAR, SPECTRAL), (LOG, SPECTRAL), (LOG | {"learn": True}, GEM)],
    ids=["linear", "log", "a learned log, and GeM"],
)
def test_a_step_of_many_networks_is_the_step_of_each(digits, conv, pool, device, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    moved, seeds = digits.to(torch.device(device)), (3, 5)
    ensemble = Ensemble(lambda seed: network(digits, seed, pool, conv), seeds, moved, 0.01, 32)
    indices = [torch.stack([train.order(s, e, 1437)[:32] for s in seeds]) for e in range(3)]
    for index in indices:
        ensemble.step(index.to(device))
    accuracy = ensemble.accuracy().tolist()
    for number, seed in enumerate(seeds):
        before = network(digits, seed, pool, conv)
        alone = network(digits, seed, pool, conv).to(device)
        optimiser = torch.optim.Adam(alone.parameters(), 0.01)
        for index in indices:
            images, labels = (t[index[number].to(device)] for t in moved.train)
            optimiser.zero_grad()
            nn.functional.cross_entropy(alone(images), labels).backward()
            optimiser.step()
        alone.to("cpu")
        # Where a gradient is nearly 0, Adam moves by the rate in the direction of its rounding: one
        # of 2,500 parameters may.
        assert distance(ensemble.member(number), alone) < 0.04 * distance(alone, before)
        with torch.no_grad():
            right = (alone(digits.test.images).argmax(1) == digits.test.labels).float().mean()
        assert accuracy[number] == pytest.approx(right.item(), abs=0.05)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_a_linear_convolution_is_a_convolution(digits, way):
    images = digits.train.images[:4]
    expected = nn.functional.conv2d(
        images, network(digits, 0)[0].weight, network(digits, 0)[0].bias, padding=1
    )
    torch.testing.assert_close(network(digits, 0, way=way)[0](images), expected)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 9, 8)])
@pytest.mark.parametrize("size", [3, 5])
def test_sizes_of_kernels_and_windows(shape, size):
    pool, conv = {"kind": "mean", "size": size}, {"kind": "linear", "size": size}
    made = lenet(shape, 7, pool, conv, 0)
    assert made(torch.zeros(2, *shape)).shape == (2, 7)
    assert made[0].weight.shape[-2:] == made[3].weight.shape[-2:] == (size, size)


def test_networks_of_one_seed_are_equal_where_they_can_be(digits):
    one, other = network(digits, 7), network(digits, 7, {"kind": "max", "size": 3})
    for number, layer in enumerate(other):
        for name, value in layer.state_dict().items():
            assert torch.equal(one[number].state_dict()[name], value)
    assert not torch.equal(network(digits, 8)[0].weight, one[0].weight)


@pytest.mark.parametrize(
    ("conv", "width"),
    [
        (LOG, 2.0),
        (LOG | {"mu": -0.5}, 2.0),
        ({"kind": "root", "p": 3.0}, 2.0),
        ({"kind": "max-plus"}, 1.0),
        (LOG | {"sum": "mean", "spread": 0.0}, 0.0),
        ({"kind": "root", "p": 3.0, "sum": "mean", "spread": 0.0}, 0.0),
    ],
    ids=lambda value: value if isinstance(value, float) else settings.Setting(SPECTRAL, value).name,
)
def test_a_constant_image_stays_constant(conv, width):
    """A kernel of unit sum keeps it, whatever its taps are; so does the mean, of equal taps."""
    layer = lenet((1, 8, 8), 10, SPECTRAL, conv, 0)[0]
    exponents = layer.weight.detach() * abs(layer.value or 1.0)
    assert exponents.std().item() == pytest.approx(width, rel=0.25)
    out = layer(torch.full((1, 1, 8, 8), 0.25))
    torch.testing.assert_close(out[..., 1:-1, 1:-1], torch.full((1, 6, 6, 6), 0.25))


@pytest.mark.parametrize("conv", [{"kind": "log", "mu": 2.0}, {"kind": "root", "p": 2.0}])
def test_a_learned_parameter_starts_as_the_fixed_one_and_moves(digits, conv):
    fixed = network(digits, 0, conv=conv)
    learned = network(digits, 0, conv=conv | {"learn": True})
    images = digits.train.images[:8]
    torch.testing.assert_close(learned(images), fixed(images))
    learned(images).square().sum().backward()
    assert learned[0].log_parameter.grad.abs() > 0


# ---- runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (LOG | {"sum": "none"}, "\"sum\" must be one of .*, got 'none'"),
        (LOG | {"norm": "layer"}, "\"norm\" must be one of .*, got 'layer'"),
        (LOG | {"mu": -2.0, "learn": True}, "must begin > 0, got -2.0"),
        ({"kind": "logs"}, "\"kind\" must be linear or one of .*, got 'logs'"),
    ],
)
def test_wrong_options_of_a_convolution(conv, message):
    with pytest.raises(ValueError, match=message):
        lenet((1, 8, 8), 10, SPECTRAL, conv, 0)


def experiment(pools, **training):
    values = {"epochs": 3, "batch": 256, "rate": 0.01, "seeds": 3, "at_once": 2} | training
    runs = tuple(settings.Setting(pool) for pool in pools)
    return settings.Experiment("digits", settings.Training(**values), runs, runs[0].name)


def without_times(path):
    timed = ("seconds", "test_seconds")
    return [{k: v for k, v in r.items() if k not in timed} for r in records.read(path)]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(digits, tmp_path):
    work = experiment([SPECTRAL])
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert train.run(work, digits, whole, bar=False)
    stops = 0
    while not train.run(work, digits, parts, seconds=0.0, bar=False):
        stops += 1
        checkpoints = len(list(tmp_path.glob("parts.*.pt")))
        assert checkpoints == (stops != 3)  # the third one is between the groups
    assert stops == 5  # two groups of seeds, each of three epochs
    assert without_times(parts) == without_times(whole)
    assert [r["identity"]["seeds"] for r in records.read(whole)] == [[0, 1], [2]]
    assert list(tmp_path.glob("*.pt")) == []
    before = whole.read_bytes()
    assert train.run(work, digits, whole, bar=False)
    assert whole.read_bytes() == before
    more = experiment([SPECTRAL], seeds=4, at_once=4)  # in other groups: only what is missing
    assert train.run(more, digits, whole, bar=False)
    assert [r["identity"]["seeds"] for r in records.read(whole)] == [[0, 1], [2], [3]]


def test_a_checkpoint_of_other_work_is_not_continued(tmp_path):
    path = tmp_path / "checkpoint.pt"
    records.save(path, {"rate": 1.0}, {"history": {}})
    assert records.load(path, {"rate": 1.0})["history"] == {}
    assert records.load(path, {"rate": 2.0}) is None
    assert records.load(tmp_path / "none.pt", {}) is None


def test_a_record_that_was_cut_off_is_written_again(tmp_path):
    path = tmp_path / "records.jsonl"
    records.append(path, {"kind": "a"})
    with open(path, "a") as file:
        file.write('{"kind": "b", "acc')
    assert records.read(path) == [{"kind": "a"}]
    records.append(path, {"kind": "b"})
    assert records.read(path) == [{"kind": "a"}, {"kind": "b"}]


@pytest.mark.parametrize(
    ("conv", "pool", "least"),
    [
        pytest.param(LINEAR, SPECTRAL, 0.6, marks=pytest.mark.slow),
        (LOG, SPECTRAL, 0.2),
        (LOG | {"sum": "plain"}, SPECTRAL, None),
        (LINEAR, GEM, 0.4),
        pytest.param(LINEAR, LOG_SUM_EXP, 0.4, marks=pytest.mark.slow),
    ],
    ids=["linear", "log", "a plain log", "GeM", "log-sum-exp"],
)
def test_digits_are_learned(digits, conv, pool, least):
    """Log networks stay at a tenth only where sums are no means: their offset drowns the image."""
    before = network(digits, 0, pool, conv)[1].state_dict()
    make = functools.partial(network, digits, pool=pool, conv=conv)
    ensemble = Ensemble(make, [0, 1], digits, 0.004, 128)
    for epoch in range(8 if least else 4):
        index = torch.stack([train.order(seed, epoch, 1437) for seed in (0, 1)])
        for part in index.split(128, 1)[:-1]:
            ensemble.step(part)
    accuracy = ensemble.accuracy()
    if least is None:
        assert (accuracy < 0.2).all()
        return
    assert (accuracy > least).all()
    after = ensemble.member(0)[1].state_dict()
    assert all((after[name] != value).any() for name, value in before.items())


# ---- configurations and data ---------------------------------------------------------------------


def test_lists_are_all_combinations(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(
        'data = "digits"\n[training]\nepochs = 1\nbatch = 8\nrate = 0.1\nseeds = 5\nat_once = 2\n'
        '[[run]]\npooling = { kind = ["max", "free"], size = [3, 5] }\n'
        '[[run]]\npooling = { kind = "max", size = 3 }\nconvolution = { kind = "log", mu = 2.0 }\n'
    )
    found = settings.read(path, seeds=3, epochs=None)
    names = [setting.name for setting in found.settings]
    assert names == ["max 3", "max 5", "free 3", "free 5", "log 2.0, max 3"]
    assert list(found.training.groups()) == [[0, 1], [2]]
    assert found.baseline == "max 3"
    assert [setting.name for setting in found.only("free").settings] == ["free 3", "free 5"]
    with pytest.raises(ValueError, match="no network has 'iso' in its name; they are 'max 3', "):
        found.only("iso")
    with pytest.raises(ValueError, match=r"training\.seeds must be an int >= 1, got 0"):
        settings.read(path, seeds=0)
    path.write_text('data = "digits"\n[training]\nepoch = 1\n[[run]]\npooling = {}\n')
    with pytest.raises(ValueError, match=r"\[training\] must have .* got \['epoch'\]"):
        settings.read(path)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_idx_files(tmp_path, pack):
    images, labels = np.arange(2 * 3 * 4).reshape(2, 3, 4), np.array([1, 0])
    end = ".gz" if pack is gzip.compress else ""
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte{end}").write_bytes(pack(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels)))
    found = data.load("mine", tmp_path)
    assert (found.name, found.shape, found.classes) == ("mine", (1, 3, 4), 2)
    torch.testing.assert_close(
        found.test.images, torch.tensor(images / 255, dtype=torch.float32)[:, None]
    )
    assert found.train.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG", "begins with '89 50 4e 47'"),
        (b"\0\0\x08\x02\0\0", "ends within its header"),
        (idx(np.zeros((2, 2)))[:-1], r"should have 4 elements, shape \(2, 2\), but has 3"),
    ],
)
def test_what_is_no_idx_file(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_idx(tmp_path / "file")


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="none of the files train-images-idx3-ubyte, "):
        data.load("mnist", tmp_path)
    with pytest.raises(ValueError, match="'mnist' needs --data FOLDER"):
        data.load("mnist", None)


def stand_in(name, images, labels):
    """A module `torchvision` whose data sets have the attributes of the real ones."""

    class Set:
        def __init__(self, root, train=None, split=None):
            part = 0 if train or split == "train" else 1
            self.data, self.targets, self.labels = images[part], labels[part].tolist(), labels[part]

    datasets = types.SimpleNamespace(**{name: Set})
    return types.SimpleNamespace(datasets=datasets)


@pytest.mark.parametrize("name", ["CIFAR10", "SVHN"])
def test_coloured_data_sets_of_torchvision(tmp_path, monkeypatch, name):
    """CIFAR10 has pixels (N, 32, 32, 3) and a list of labels, SVHN (N, 3, 32, 32) and an array."""
    random = np.random.default_rng(0)
    shape = (32, 32, 3) if name == "CIFAR10" else (3, 32, 32)
    images = [random.integers(256, size=(n, *shape), dtype=np.uint8) for n in (20, 10)]
    labels = [np.arange(n) % 10 for n in (20, 10)]
    monkeypatch.setitem(sys.modules, "torchvision", stand_in(name, images, labels))
    found = data.load(name, tmp_path)
    assert (found.name, found.shape, found.classes) == (name, (3, 32, 32), 10)
    assert found.test.labels.tolist() == labels[1].tolist()
    first = images[0][0].transpose(2, 0, 1) if name == "CIFAR10" else images[0][0]
    torch.testing.assert_close(found.train.images[0], torch.tensor(first / 255).float())
    runs = (settings.Setting(SPECTRAL),)
    work = settings.Experiment(name, settings.Training(1, 10, 0.01, 1, 1), runs, runs[0].name)
    assert train.run(work, found, tmp_path / "out.jsonl", bar=False)
    (made,) = records.read(tmp_path / "out.jsonl")
    assert made["identity"]["examples"] == 20


# ---- tables --------------------------------------------------------------------------------------


def record(setting, seeds, accuracy):
    identity = {"data": "x", "examples": 9, "epochs": 2, "batch": 3, "rate": 0.1, "seeds": seeds}
    return {
        "kind": "training",
        "setting": setting,
        "identity": identity,
        "accuracy": accuracy,
        "seconds": [9.0, 1.0],
        "machine": {"device": "y"},
    }


def test_differences_are_paired_by_seed():
    from scipy import stats  # 0.3 s that no other test here needs

    own, others = [0.9, 0.8, 0.95], [0.7, 0.75, 0.9, 0.1]
    found = tables.rows(
        [
            record("a", [0, 1], [[0.0, 0.0], own[:2]]),
            record("b", [3, 2, 1, 0], [[0.0] * 4, others[::-1]]),
            record("a", [2], [[0.99], own[2:]]),
        ]
    )
    a, b = found["x, 9 examples: 2 epochs, batch 3, learning rate 0.1"]
    one = tables.difference(a, b)
    expected = stats.ttest_rel(own, others[:3])
    interval = expected.confidence_interval()
    assert (one.p, one.pairs) == (pytest.approx(expected.pvalue), 3)
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high))
    assert a.seconds == [0.5, 0.5, 1.0]  # of one network; the first epoch does not count
    without = record("a", [0], [own[:1]])
    del without["seconds"]
    ((timeless,),) = tables.rows([without]).values()
    assert tables.accuracy_table([timeless], "b")[1][-1] == "-"
    header, first, second = tables.accuracy_table([a, b], "b")
    assert dict(zip(header, first, strict=True))["minus b"] == f"{100 * one.mean:+.3f}"
    assert dict(zip(header, second, strict=True))["learned"] == "3 of 4"


def test_holm_against_an_example():
    assert tables.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


FOLDER = Path(train.__file__).parent


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@pytest.mark.parametrize("name", ["pooling", "convolutions", "digits", "timing"])
def test_the_documents_tables_are_those_of_the_records(name):
    """Each row of the records is one of docs/results.md, which leaves some columns out."""
    found = records.read(FOLDER / "results" / f"{name}.jsonl")
    if name == "timing":
        lines = tables.timing_table(found)
    else:
        (rows,) = tables.rows(found).values()
        baseline = "mean 2" if name == "digits" else "max 3"
        lines = [*tables.accuracy_table(rows, baseline), *tables.learned_table(found)]
    text = (FOLDER.parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    shown = [cells(line) for line in text.splitlines() if line.startswith("|")]
    for line in lines:
        rest = [iter(line) for _ in shown]
        fits = [all(cell in left for cell in row) for row, left in zip(shown, rest, strict=True)]
        assert any(fits), line


@pytest.mark.parametrize("name", ["pooling", "convolutions"])
def test_the_document_names_the_networks_that_were_not_trained(name):
    text = " ".join((FOLDER.parents[1] / "docs" / "results.md").read_text("utf-8").split())
    trained = {record["setting"] for record in records.read(FOLDER / "results" / f"{name}.jsonl")}
    names = [setting.name for setting in settings.read(FOLDER / f"{name}.toml").settings]
    left = [one for one in names if one not in trained]
    said = f"of the {len(names)} networks in `examples/thesis/{name}.toml` have **no row on MNIST**"
    if left:
        assert f"{len(left)} {said}, as they were not trained yet: {'; '.join(left)}." in text
    else:
        assert said not in text


def test_the_commands(digits, tmp_path, capsys):
    config = FOLDER / "digits.toml"
    out = tmp_path / "digits.jsonl"
    command.main(["train", str(config), "--out", str(out), "--epochs", "1", "--seeds", "2"])
    command.main(["table", str(out)])
    printed = capsys.readouterr().out
    assert "| spectral 3 " in printed
    assert "| gem 3 3.0              | 1 p " in printed
    command.main(["reduce", str(out), "--out", str(tmp_path / "small")])
    command.main(["table", str(tmp_path / "small" / "digits.jsonl")])
    assert capsys.readouterr().out == printed
    with pytest.raises(FileExistsError, match="remove it first"):
        command.main(["reduce", str(out), "--out", str(tmp_path / "small")])
    pytest.importorskip("matplotlib", reason="draws the figures")
    command.main(["table", str(tmp_path / "small" / "digits.jsonl"), "--figures", str(tmp_path)])
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert {"accuracies_0.png", "curves_0.png", "kernels_spectral_3_layer_1.png"} <= drawn
    assert "parameters.png" in drawn
    assert json.loads(out.read_text().splitlines()[0])["machine"]["torch"] == torch.__version__


def test_what_records_lack_is_completed(tmp_path, capsys):
    """In the folder's files, reduced; what has a record is not trained again."""
    given = ["complete", "--name", "digits", "--results", str(tmp_path), "--epochs", "1"]
    given += ["--seeds", "1", "--only", "max 3"]
    command.main([*given, "--minutes", "0"])
    assert capsys.readouterr().out == (
        "not complete: pooling, convolutions; the same command continues\n"
    )
    command.main([*given[:-1], "mean 3"])
    (record,) = records.read(tmp_path / "pooling.jsonl")
    assert record["setting"] == "mean 3"
    assert "mean_loss" in record
    command.main([*given[:-1], "mean 3"])
    assert len(records.read(tmp_path / "pooling.jsonl")) == 1
    assert capsys.readouterr().out == "complete\n" * 2


def test_times_of_an_epoch(digits, tmp_path):
    out = tmp_path / "times.jsonl"
    records.append(out, {"kind": "timing", "network": "max 2", "mode": "eager"})
    timing.measure_missing(digits, out, batch=256, size=3, rounds=1, seconds=-1)
    assert len(records.read(out)) == 1
    timing.measure_missing(digits, out, batch=256, size=3, rounds=1)
    found = records.read(out)
    assert [(r["network"], r["mode"]) for r in found] == timing.rows(digits, 3)
    assert all(record["seconds_an_epoch"] > 0 for record in found[1:])
    assert "1.00" in tables.markdown(tables.timing_table(found))


def test_a_row_that_ends_its_process_costs_one_row(tmp_path):
    """Of three rows, the second ends the process; the third is measured by another one."""
    out = tmp_path / "times.jsonl"
    script = (
        "import os, pathlib, sys\n"
        "from examples.thesis import records\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "for row in 'abc'[len(records.read(out)):]:\n"
        "    if row == 'b':\n"
        "        os.write(2, b'assert triggered\\n')\n"
        "        os._exit(3)\n"
        "    records.append(out, {'kind': 'timing', 'network': row, 'mode': 'eager'})\n"
    )
    rows = [(name, "eager") for name in "abc"]
    timing.by_processes([sys.executable, "-c", script, str(out)], rows, out, batch=4)
    found = records.read(out)
    assert [record["network"] for record in found] == ["a", "b", "c"]
    assert found[1]["problem"] == "the process ended with 3: assert triggered"
