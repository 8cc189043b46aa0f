"""``python -m benchmarks floor``: which works are drawn, what their ratios mean, what is printed.

The works run here on small arrays; clocks are functions of the call, so no test depends on time.
"""

import dataclasses
import itertools
import json
import math
import time
from collections import Counter
from functools import partial

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import ceilings, floor, inputs, peers, run, shapes, works
from benchmarks.ahead import compile_ahead
from benchmarks.families import CONVOLUTIONS, ROLES
from benchmarks.works import OURS, Convolution
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.works import Work

SMALL = shapes.Limits((2000, 4000), (2000, 4000), 2**14)
COPY = {ceilings.COPY: 1e9}


# ---- the works -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_seed_says_which_works_are_drawn(device):
    limits = shapes.LIMITS[device]
    every = {*CONVOLUTIONS, *shapes.FILTERS}
    number = 20 * len(every)
    drawn = list(shapes.samples(0, number, limits))
    names = [sample.name for sample in drawn]
    assert [sample.name for sample in shapes.samples(0, number, limits)] == names
    assert [sample.name for sample in shapes.samples(0, 100, limits)] == names[:100]
    assert len({*names} & {sample.name for sample in shapes.samples(1, number, limits)}) < 5
    assert Counter(sample.family for sample in drawn) == dict.fromkeys(every, 20)
    kinds = Counter(sample.kind for sample in drawn)
    assert kinds[shapes.MAX.label] > 100
    assert all(kinds[kind.label] >= 20 for kind in shapes.KINDS)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_hundred_works_have_twenty_of_each_role(seed):
    """At the least: a run has 500 unless --works says otherwise."""
    drawn = list(shapes.samples(seed, 20 * (len(CONVOLUTIONS) + len(shapes.FILTERS)), SMALL))
    roles = Counter(sample.role for sample in drawn)
    assert len(drawn) >= 200
    assert {*ROLES} < {*roles}
    assert min(roles.values()) >= 20
    memories = Counter(
        sample.measured.memory for sample in drawn if isinstance(sample.measured, Convolution)
    )
    assert min(memories.values()) >= 20
    assert {*memories} == {"rows", "channels last", "transposed", "every second"}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_works_are_neither_small_nor_huge(device):
    limits = shapes.LIMITS[device]
    for sample in itertools.chain.from_iterable(shapes.samples(s, 220, limits) for s in range(3)):
        assert 100_000 <= sample.count < 10 * limits.pairs[1], sample.name
        # Every array has the most elements at most, give or take the smallest plane of a family.
        assert sample.bytes < 4 * 6 * limits.elements, sample.name


def by_hand(geometry):
    """Counts the terms inside the image, window by window and tap by tap."""
    per_axis = [
        sum(
            0 <= s * o + d * k - begin < size
            for o in range(outputs)
            for k in range(taps)
        )
        for s, d, begin, size, outputs, taps in zip(
            geometry.stride, geometry.dilation, geometry.pad_begin, geometry.image_size,
            geometry.out_size, geometry.kernel_size, strict=True,
        )
    ]  # fmt: skip
    channels = geometry.out_channels * geometry.in_channels
    return geometry.batch * channels * math.prod(per_axis)


@pytest.mark.parametrize("padding", ["same", 0, 3])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 2), (1, 4), (2, 3)])
@pytest.mark.parametrize(("size", "taps"), [((9, 4), (3, 1)), ((7,), (2,)), ((13, 6), (3, 2))])
def test_pairs_inside_are_counted_as_by_hand(size, taps, stride, dilation, padding):
    geometry = Geometry.plan(
        (2, 6, *size), (4, 3, *taps), stride=stride, padding=padding, dilation=dilation, groups=2
    )  # fmt: skip
    assert shapes.pairs_inside(geometry) == by_hand(geometry)


def test_a_kernel_as_large_as_the_image_counts_what_is_inside():
    work = Work("", (1, 1, 7), (1, 1, 7))
    assert shapes.pairs_inside(work.geometry) == 4 + 5 + 6 + 7 + 6 + 5 + 4
    unpadded = Work("", (1, 1, 7), (1, 1, 7), padding=0)
    assert shapes.pairs_inside(unpadded.geometry) == 7


def test_each_work_is_compared_with_one_of_its_kind():
    for sample in shapes.samples(0, 220, SMALL):
        mine, friendly = sample.measured, sample.friendly
        if isinstance(mine, Convolution):
            assert mine.work.semifield is friendly.work.semifield
            assert (mine.mode, mine.work.dtype) == (friendly.mode, friendly.work.dtype)
            assert sample.friendly_count == pytest.approx(700 * 800 * 49, rel=0.02)
        else:
            assert (mine.function, mine.dtype) == (friendly.function, friendly.dtype)
            assert mine.arguments.keys() == friendly.arguments.keys()
            if "structure" not in mine.arguments:  # flat: as many elements
                assert math.prod(friendly.shape) == pytest.approx(math.prod(mine.shape), rel=0.03)


@pytest.mark.table(8)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("index", range(len(CONVOLUTIONS) + len(shapes.FILTERS)))
def test_a_work_of_each_family_runs(index, device):
    """The calls of a GPU get NumPy's arrays and torch's tensors on the CPU."""
    pytest.importorskip("torch")
    *_, sample = shapes.samples(0, index + 1, SMALL)
    calls = partial(peers.calls, libraries=inputs.libraries_of("cpu"))
    bench = run.Bench(device, lambda call: call() is None or 2.0, 0.0, COPY, [], calls=calls)
    [found], skipped = floor.measure(bench, [sample])
    assert "error" not in found, found["error"]
    assert not skipped
    json.dumps(found)
    assert found["ratio"] > 0
    assert sample.family in repr(found)
    assert floor.explained(sample, device).steps


@pytest.mark.parametrize(
    ("memory", "strides"),
    [
        ("rows", (60, 12, 3, 1)),
        ("channels last", (60, 1, 15, 5)),
        ("transposed", (1, 2, 10, 40)),
        ("every second", (120, 24, 6, 2)),
    ],
)
def test_images_in_memory(memory, strides):
    work = Work("", (2, 5, 4, 3), (5, 1, 3, 3), groups=5)
    measured = Convolution(work, memory=memory)
    given = inputs.Inputs(measured, "cpu", 0, inputs.libraries_of("cpu"))
    plain = inputs.Inputs(Convolution(work), "cpu", 0, inputs.libraries_of("cpu")).arrays[0]
    img = given.arrays[0]
    assert np.array_equal(img, plain)
    assert img.strides == tuple(4 * stride for stride in strides)
    more = plain.nbytes if memory == "every second" else 0
    assert measured.bytes == Convolution(work).bytes + more
    pytest.importorskip("torch")
    assert given.tensors[0].stride() == strides
    assert np.array_equal(given.tensors[0], plain)


# ---- ratios --------------------------------------------------------------------------------------


def sample_of(
    name="w", count=10**6, friendly_count=2 * 10**6, kind=shapes.MAX.label, mode="forward"
):
    measured = Convolution(Work(name, (1, 1, 10, 100), (1, 1, 3, 3)), mode)
    return shapes.Sample("f", kind, measured, measured, "pair", count, friendly_count)


def test_a_ratio_is_of_the_time_of_a_pair():
    found = floor.row(sample_of(), {OURS: 0.03, floor.FRIENDLY: 0.02}, copied=1e9)
    assert found["ns"] == pytest.approx(30)
    assert found["friendly ns"] == pytest.approx(10)
    assert found["ratio"] == pytest.approx(3)
    assert found["bound"] == "pair"


def test_a_work_limited_by_memory_is_compared_with_a_copy():
    # 8036 bytes at 100,000 bytes/s take 80 ms, 10^6 friendly pairs 10 ms.
    found = floor.row(sample_of(), {OURS: 0.16072, floor.FRIENDLY: 0.02}, copied=1e5)
    assert found["bound"] == "bytes"
    assert found["ratio"] == pytest.approx(2)
    assert found["ratio of units"] == pytest.approx(16.072)


def bench_of(slowness, absent=()):
    """A machine on which the work `name` takes `slowness[name]` seconds, the friendly one 1 s.

    A work that is not in `slowness` cannot run.
    """

    def calls(measured, device, seed, absent):
        if measured.name == "friendly":
            return {OURS: lambda: lambda: 1.0}
        return {OURS: lambda: lambda: slowness[measured.name]}

    return run.Bench("cpu", lambda call: call(), 0.0, COPY, list(absent), calls=calls)


def drawn_of(*names, **arguments):
    friendly = Convolution(Work("friendly", (1, 1, 10, 100), (1, 1, 3, 3)))
    for name in names:
        made = sample_of(name, 10**6, 10**6, **arguments)
        yield dataclasses.replace(made, friendly=friendly)


def test_works_take_turns_with_their_friendly_ones():
    rows, skipped = floor.measure(bench_of({"a": 3.0, "b": 0.5}), drawn_of("a", "b", "broken"))
    assert [found.get("ratio") for found in rows] == pytest.approx([3, 0.5, None])
    assert rows[2] == {"work": "broken", "error": "KeyError: 'broken'"}
    assert skipped == []


def test_a_friendly_convolution_is_made_once():
    made = Counter()

    def calls(measured, device, seed, absent):
        made[measured.name, seed] += 1
        return {OURS: lambda: lambda: 1.0}

    floor.measure(dataclasses.replace(bench_of({}), calls=calls), drawn_of("a", "b", "c"))
    assert made == {("friendly", 0): 1, ("a", 0): 1, ("b", 0): 1, ("c", 0): 1}


def test_no_work_begins_after_the_time(capsys):
    rows, skipped = floor.measure(bench_of({"a": 3.0}), drawn_of("a"), until=time.monotonic() - 1)
    assert (rows, skipped) == ([], ["a: no time was left"])
    floor.measure(bench_of({"a": 3.0}), drawn_of("a"))
    assert capsys.readouterr().out.split()[0] == "3.0x"


@pytest.mark.slow
def test_kernels_are_compiled_before_the_run(tmp_path, monkeypatch):
    """By other processes: what they compile is in the cache on disk, and errors end nothing."""
    monkeypatch.setenv("SEMICONV_CACHE_DIR", str(tmp_path))
    compiled = Work("compiled", (1, 1, 10, 100), (1, 1, 3, 3))
    wrong = Work("no channels", (1, 2, 10, 100), (1, 3, 3, 3))
    compile_ahead(map(Convolution, (compiled, wrong)), "cpu", 2)
    assert [*tmp_path.rglob("*.so")]


def test_what_is_not_measured_is_said():
    training = drawn_of("trained", mode="training")
    rows, skipped = floor.measure(bench_of({}, [works.POOLING]), training)
    assert rows == []
    assert skipped == ["trained, fwd + bwd: torch is not installed"]


def report_of(ratios):
    """A report of works with these ratios, by kind."""
    rows = [
        {
            "work": f"{kind} {index}", "family": "f", "role": "r", "kind": kind, "ratio": ratio,
            "seconds": 1.0, "ns": 1.0, "friendly ns": 1 + ratio, "bound": "pair",
        }
        for kind, of_kind in ratios.items()
        for index, ratio in enumerate(of_kind)
    ]  # fmt: skip
    return {
        "facts": {"device": "a machine"}, "device": "cpu", "statistic": "best", "seeds": [0],
        "minutes": 1.0, "rows": [*rows, {"work": "broken", "error": "no"}],
        "not measured": ["small: too small"],
    }  # fmt: skip


def test_verdicts_of_the_worst_and_of_the_median():
    report = report_of({shapes.MAX.label: [1, 3, 5], "log": [9, 1], "box": [4, 2]})
    mine, others = floor.GOALS["cpu"]
    worst, median = floor.verdicts(mine, report)
    assert (worst["reached"], worst["met"]) == (5, True)
    assert (median["reached"], median["met"]) == (3, False)
    worst, median = floor.verdicts(others, report)
    assert (worst["reached"], worst["met"]) == (9, True)
    assert (median["reached"], median["met"]) == (3, True)
    assert list(floor.verdicts(mine, report_of({"log": [1]}))) == []


def test_the_slowest_come_first_and_families_by_their_medians():
    report = report_of({shapes.MAX.label: [1, 30, 5], "log": [9, 8]})
    report["goals"] = [
        found for goal in floor.GOALS["cpu"] for found in floor.verdicts(goal, report)
    ]
    lines = list(floor.text(report))
    works_shown = [line.split("pair   ")[1] for line in lines if "pair   " in line]
    assert works_shown == ["max float32 1", "log 0", "log 1", "max float32 2", "max float32 0"]
    kinds = lines[lines.index("\nkind                         works   worst  median    best") + 1 :]
    assert [line.split() for line in kinds[:2]] == [
        ["log", "2", "9.0x", "8.50x", "8.00x"],
        ["max", "float32", "3", "30.0x", "5.00x", "1.00x"],
    ]
    assert lines[1].startswith("a pair of the friendly max float32 took 2 to 31 ns")
    assert "FAILED broken: no" in lines
    assert "not measured: small: too small" in lines
    assert "max float32: worst 30x [<= 6x: MISSED]" in lines
    assert "others: worst 9x [<= 10x: met]" in lines


# ---- the command ---------------------------------------------------------------------------------


def run_command(arguments, seconds):
    """The command on a machine where our calls take `seconds`, those of friendly works 10 ms."""

    def calls(measured, device, seed, absent):
        friendly = "700x800" in measured.name or measured.name == "plane"
        if not friendly and seconds is None:
            raise MemoryError("too much")
        return {OURS: lambda: lambda: 0.01 if friendly else seconds}

    bench = run.Bench("cpu", lambda call: call(), 0.0, {ceilings.COPY: 1e20}, [], calls=calls)
    return floor.main(arguments, benches={"cpu": lambda _: bench})


def test_the_command_prints_and_keeps_a_report(tmp_path, capsys):
    file = tmp_path / "floor.json"
    arguments = ["--works", "22", "--seed", "3", "4", "--json", str(file), "--explain"]
    assert run_command(arguments, 1e-6) == 0
    printed = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert len(report["rows"]) == 44
    assert report["seeds"] == [3, 4]
    assert report["not measured"] == []
    assert len(file.read_text().splitlines()) < 200
    assert all(goal["met"] for goal in report["goals"])
    assert [row["work"] for row in report["rows"]] == [
        sample.name for seed in (3, 4) for sample in shapes.samples(seed, 22, shapes.LIMITS["cpu"])
    ]
    assert printed.count("on the CPU\n") == floor.EXPLAINED
    assert run_command(["--works", "44"], 10.0) == 1
    assert "MISSED" in capsys.readouterr().out


def test_reports_are_read_as_one(tmp_path, capsys):
    files = [tmp_path / f"{seed}.json" for seed in (5, 6)]
    for file, seed in zip(files, "56", strict=True):
        assert run_command(["--works", "30", "--seed", seed, "--json", str(file)], 1e-6) == 0
    capsys.readouterr()
    assert floor.main(["--read", *map(str, files), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| all | 60 |")
    assert {f"| {role} |" for role in ROLES} <= {
        line[: len(line.split(" | ")[0]) + 2] for line in lines
    }
    assert floor.main(["--read", *map(str, files)]) == 0
    assert "seed 5 and 6, 60 works" in capsys.readouterr().out


def test_a_work_that_fails_fails_the_command(capsys):
    assert run_command(["--works", "22"], None) == 1
    assert "FAILED planes: " in capsys.readouterr().out


def test_the_benchmarks_hand_the_rest_of_the_line_to_floor(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["floor", "--help"])
    assert stopped.value.code == 0
    assert "python -m benchmarks floor" in capsys.readouterr().out
