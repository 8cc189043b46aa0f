"""``python -m benchmarks``: every work runs, and the tables show what the report contains.

The works of a GPU run here on NumPy arrays instead of CuPy's, all works on small arrays and with a
clock that counts calls. What these tests cannot find are wrong names of CuPy's own functions.
"""

import dataclasses
import json
import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import (
    ceilings,
    documents,
    inputs,
    peers,
    plot,
    run,
    steps,
    table,
    timing,
    volumes,
    works,
)
from benchmarks.costs import Cost
from benchmarks.works import Convolution, Filter, Goal, Parametric, Product
from kernels_cu import model, nvrtc, sass
from semiconv_cupy.works import STANDARD_WORKS, Work

CEILINGS = {ceilings.COPY: 1e9, "pairs float32": 1e9}


class Counting:
    """A clock by which the k-th call takes k seconds, so that no call is repeated for long."""

    def __init__(self):
        self.calls = []

    def __call__(self, call):
        call()
        if call not in self.calls:
            self.calls.append(call)
        return 1.0 + self.calls.index(call)


def small(measured):
    """The same work with fewer elements."""
    if isinstance(measured, Filter):
        return dataclasses.replace(measured, shape=tuple(min(n, 40) for n in measured.shape))
    if isinstance(measured, Product):
        a, b = (tuple(min(n, 12) for n in shape) for shape in (measured.a, measured.b))
        return dataclasses.replace(measured, a=a, b=b)
    if isinstance(measured, Parametric):
        shapes = tuple(tuple(min(n, 7) for n in shape) for shape in measured.shapes)
        return dataclasses.replace(measured, shapes=shapes)
    work = measured.work
    channels = 3 if work.groups > 1 else min(work.image[1], 4)
    groups = 3 if work.groups > 1 else 1
    kernels = 3 if work.groups > 1 else min(work.kernel[0], 4)
    less = dataclasses.replace(
        work,
        image=(min(work.image[0], 2), channels, *(min(n, 12) for n in work.image[2:])),
        kernel=(kernels, channels // groups, *(min(k, 5) for k in work.kernel[2:])),
        groups=groups,
    )
    return dataclasses.replace(measured, work=less)


def is_rehearsed(measured):
    """Of works whose parameter is compiled in as a number, each number is a library or more."""
    numbers = "log(3)", "root(3)"
    return not isinstance(measured, Parametric) or any(n in measured.name for n in numbers)


def rehearse(measured, device):
    """Make our call and each peer's call of a work on little data; return its row.

    The calls of a GPU get NumPy's arrays, SciPy's functions and torch's tensors on the CPU.
    """
    left_out = {works.COMPILED, works.FUSED}  # the first takes half a minute, the other a GPU
    absent = ({*peers.absent_peers(device)} - {works.CUPYX}) | left_out
    calls = partial(peers.calls, libraries=inputs.libraries_of("cpu"))
    bench = run.Bench(device, Counting(), 0.0, CEILINGS, sorted(absent), calls=calls)
    [found], skipped = run.measure(bench, [small(measured)], lambda _: None)
    assert "error" not in found, found["error"]
    assert found["failures"] == {}
    assert not skipped
    json.dumps(found)
    assert table.line(found).startswith(measured.name)
    return found


@pytest.mark.table(4)
@pytest.mark.parametrize(
    "measured",
    [pytest.param(work, id=work.name) for work in works.gpu() if is_rehearsed(work)],
)
def test_works_of_a_gpu(measured):
    pytest.importorskip("scipy.ndimage")
    pytest.importorskip("torch")
    found = rehearse(measured, "gpu")
    if isinstance(measured, Convolution) and measured.mode == "training":
        pools = measured.work.groups > 1
        assert (works.POOLING in found["ratios"]) == pools


QUICK = "parameters: log(3), 3x3, 1 -> 4, 256^2"
CPU = [
    pytest.param(
        measured,
        id=measured.name,
        marks=[pytest.mark.slow]
        if isinstance(measured, Parametric) and measured.name != QUICK
        else [],
    )
    for measured in works.cpu()
    if is_rehearsed(measured)
]


@pytest.mark.parametrize("measured", CPU)
def test_works_of_a_cpu(measured):
    found = rehearse(measured, "cpu")
    for goal, of in zip(found["goals"], measured.goals, strict=True):
        installed = of.of not in (*peers.absent_peers("cpu"), works.COMPILED)
        assert (goal["reached"] is not None) == installed, f"no {of.of} does this work"


def test_each_work_has_a_name_of_its_own():
    for every in (list(works.cpu()), list(works.gpu())):
        names = [measured.name for measured in every]
        assert len(set(names)) == len(names)
    assert {work.name for work in STANDARD_WORKS} <= {measured.name for measured in works.gpu()}


# ---- what a row says -----------------------------------------------------------------------------

WORK = Work("w", (1, 1, 10, 100), (1, 1, 3, 3))
BYTES = 4 * (1000 + 9 + 1000)


def row_of(measured, **times):
    bench = run.Bench("gpu", Counting(), 0.0, CEILINGS, [])
    return run.row(measured, times, {}, bench)


def test_ratio_limit_and_verdict():
    goals = (Goal("cv2", least=2), Goal("skimage", least=4), Goal("limit", least=0.8))
    found = row_of(Convolution(WORK, goals=goals), ours=1e-5, cv2=3e-5)
    assert found["ratios"] == pytest.approx({"cv2": 3})
    assert found["limit"] == pytest.approx(9000 / 1e9)  # 9000 pairs take longer than 8036 bytes
    assert found["bound"] == "pairs float32"
    assert found["share"] == pytest.approx(0.9)
    assert [goal["met"] for goal in found["goals"]] == [True, None, True]
    assert "[>= 2x cv2: met]" in table.line(found)
    assert "[>= 4x skimage: not measured]" in table.line(found)
    slow = row_of(Convolution(WORK, goals=goals), ours=2e-5, cv2=3e-5)
    assert [goal["met"] for goal in slow["goals"]] == [False, None, False]


def test_fewest_bytes():
    assert Convolution(WORK).bytes == BYTES
    assert Convolution(WORK, "provenance").bytes == BYTES + 1000  # a byte says which of nine taps
    assert Convolution(WORK, "training").bytes == 2 * (BYTES + 1000)
    found = row_of(Filter("f", "maximum_filter", (500, 500), "uint8", {"size": 3}), ours=1e-3)
    assert (found["limit"], found["bound"]) == (pytest.approx(5e-4), "bytes")


def test_measured_times_are_compared_with_model_times():
    modelled = model.ModelTime(moving=1e-4, computing=2e-4, limit=1.5e-4, bound="issue")
    bench = run.Bench("gpu", Counting(), 0.0, CEILINGS, [], machine=model.H100)
    rows = [
        row_of(Convolution(work), ours=t)
        for work, t in zip(STANDARD_WORKS[:2], (2.5e-4, 3e-4), strict=True)
    ]
    every = [*rows, {"work": "another", "seconds": 1.0}]
    assert run.model_rows(bench, every, lambda work, machine: modelled) == ""
    assert [found["flagged"] for found in rows] == [False, True]
    assert "1.50x FLAGGED" in table.models({"rows": rows})

    def missing(*_):
        raise sass.DisassemblerNotFoundError("no nvdisasm")

    assert run.model_rows(bench, rows, missing) == "no nvdisasm"


def failing():
    raise MemoryError("too much")


def test_a_peer_that_computes_other_numbers_is_not_timed():
    def giving(value):
        return lambda: lambda: np.full(3, value)

    makers = {"ours": giving(1.0), "cv2": giving(1.1), "skimage": giving(1.00001)}
    makers[works.POOLING] = giving(7.0)  # another algebra
    bench = run.Bench("cpu", Counting(), 0.0, CEILINGS, [], calls=lambda *_: makers)
    [found], _ = run.measure(bench, [Convolution(WORK)], print)
    assert list(found["ratios"]) == ["skimage", works.POOLING]
    assert found["failures"] == {"cv2": "its numbers differ from ours by up to 0.1"}


def test_failures_cost_one_row_and_a_late_work_is_named():
    def bench(**makers):
        return run.Bench("cpu", Counting(), 0.0, CEILINGS, [], calls=lambda *_: makers)

    def works_well():
        return lambda: None

    for maker in (failing, lambda: failing):  # the maker fails, the call fails
        [found], _ = run.measure(bench(ours=works_well, cv2=maker), [Convolution(WORK)], print)
        assert found["seconds"] > 0
        assert found["failures"] == {"cv2": "MemoryError: too much"}
        assert "cv2 failed: MemoryError" in table.line(found)
        [found], _ = run.measure(bench(ours=maker, cv2=works_well), [Convolution(WORK)], print)
        assert found == {"work": "w", "error": "MemoryError: too much"}
    assert run.measure(bench(), [Convolution(WORK)], print, until=0) == ([], ["w"])


# ---- clocks --------------------------------------------------------------------------------------


def test_calls_take_turns():
    made = []
    calls = {name: lambda name=name: made.append(name) for name in "ab"}
    times = timing.alternate(calls, lambda call: call() or 0.01 * len(made), 0.0)
    # One call each to load, then three rounds; the later two have as many calls as fill a turn.
    assert made == list("ababaabaab")
    assert times["a"] == pytest.approx((0.03, 0.06))
    assert times["b"] == pytest.approx((0.04, 0.07))


def test_a_slow_call_is_timed_once():
    made = []
    calls = {"slow": lambda: made.append(5.0), "fast": lambda: made.append(0.1)}
    timing.alternate(calls, lambda call: call() or made[-1], 0.0)
    assert made.count(5.0) == 2
    assert made.count(0.1) == 4


def test_sets_of_inputs_exceed_the_cache():
    made = []
    run_next = timing.in_turn([lambda: made.append(0), lambda: made.append(1)])
    for _ in range(4):
        run_next()
    assert sorted(made) == [0, 0, 1, 1]
    assert made[0] != made[1]
    large = Convolution(Work("", (8, 8, 512, 512), (8, 1, 3, 3), groups=8))
    assert peers.sets_of_inputs(large, 0) == 1
    assert peers.sets_of_inputs(large, 100 * 2**20) == 2
    assert peers.sets_of_inputs(Convolution(WORK), 100 * 2**20) == 1


# A maximum of doubles takes several instructions.
@pytest.mark.parametrize("rate", sorted(ceilings.GPU_RATES.keys() - {"pairs float64"}))
def test_ceilings_of_a_gpu_are_loops_of_nothing_else(rate):
    try:
        made = ceilings.gpu_kernel(rate)
        compiled = nvrtc.load().compile(made.text, "sm_90", made.options)
        code = sass.read(sass.disassemble(compiled.cubin))[made.name]
    except (nvrtc.LibraryNotFoundError, sass.DisassemblerNotFoundError) as error:
        pytest.skip(str(error))
    [loop] = code.loops
    own = {"FADD", "FMNMX", "FFMA", "HADD2", "HMNMX2", "HFMA2", "DFMA"}
    counts = sass.by_opcode(loop)
    assert sum(counts[opcode] for opcode in own) >= 0.94 * sum(counts.values())


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def command_of_few():
    """The command with two works, one cost, one growth, and calls that take 10 ms each."""
    chosen = [
        Convolution(Work("dilated", (1, 1, 20, 20), (1, 1, 3, 3)), goals=(Goal("cv2", least=1),)),
        Filter("flat", "maximum_filter", (20, 20), "uint8", {"size": 3}, (Goal("cv2", most=0.5),)),
    ]
    grown = {n: Work("", (1, 1, n, n), (1, 1, 3, 3)) for n in (8, 16)}

    def calls(measured, device, seed, absent):
        return {name: lambda: lambda: None for name in ("ours", "cv2")}

    bench = run.Bench("cpu", lambda call: 0.01, 0.0, CEILINGS, ["kornia"], calls=calls)
    suite = command.Suite(
        bench=lambda seconds: bench,
        works=lambda: chosen,
        costs=lambda absent: [Cost("a call", "us", Goal("value", most=20), lambda: 10.0)],
        growths=lambda quick: [works.Growth("n", "pixels", grown, 1)],
    )
    return partial(command.main, suites={"cpu": suite})


def test_a_report_is_kept_read_and_drawn(command_of_few, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = tmp_path / "report.json"
    status = command_of_few(["--json", str(file), "--plot", str(tmp_path / "plots")])
    printed = capsys.readouterr().out
    assert status == 1  # one goal is missed
    assert "not installed: kornia" in printed
    assert "1 goals met" not in printed
    assert "2 goals met, 1 missed, 0 not measured" in printed
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["growth_n.png"]
    report = json.loads(file.read_text())
    assert {"facts", "statistic", "ceilings", "absent", "rows", "costs", "growth"} < set(report)
    assert report["growth"][0]["series"]["ours"] == [[8, 0.01], [16, 0.01]]
    assert plot.draw(report, tmp_path / "again")

    assert command_of_few(["--read", str(file), "--markdown"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "| dilated | 10 ms | 0% (pairs float32) | 1 `cv2` | >= 1x cv2: met |" in lines
    assert "| a call | 10 us | <= 20: met |" in lines
    assert all(line.startswith("|") or not line for line in lines[1:])


# ---- what the documents show ---------------------------------------------------------------------

ROOT = Path(__file__).parent.parent


def test_the_readme_shows_the_kept_reports(capsys):
    assert command.main(["documents"]) == 0
    table = capsys.readouterr().out
    assert table.count("| CPU |") == table.count("| GPU |") == 8
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- speeds -->\n")[2].partition("\n\n")[0]
    assert shown.splitlines() == table.splitlines(), "python -m benchmarks documents prints it"


def test_the_page_shows_every_kept_report(tmp_path):
    documents.write(tmp_path)
    made = {path.name for path in tmp_path.iterdir()}
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert made == set(re.findall(r"^```\{include\} generated/(.*)$", text, re.MULTILINE))
    assert len(made) >= 3
    for path in tmp_path.iterdir():
        assert f"{path.stem}.json" in {kept.name for kept in documents.RESULTS.iterdir()}
        assert len(re.findall(r"^\| .* \|$", path.read_text(encoding="utf-8"), re.MULTILINE)) > 10


def test_works_in_which_a_peer_is_faster_are_named():
    ratios = [{"cv2": 0.9, "skimage": 3.0}, {"cv2": 0.5, works.POINTWISE: 0.1}]
    rows = [{"work": f"w{n}", "ratios": each} for n, each in enumerate(ratios)]
    found = documents.losses({"rows": [*rows, {"work": "failed", "error": "why"}]})
    assert found == ([(0.5, "w1", "cv2"), (0.9, "w0", "cv2")], 3)


def test_only_chooses_by_name(command_of_few, capsys):
    assert command_of_few(["--only", "dil"]) == 0
    printed = capsys.readouterr().out
    assert "dilated" in printed
    assert "flat" not in printed
    assert "a call" not in printed


def test_a_duration_below_a_unit_and_a_goal_without_a_limit():
    assert table.duration(0.99e-3) == "990 us"
    assert math.isinf(Goal("value").most)


def test_every_training_step_runs_and_a_peer_that_fails_fails_alone():
    every = {cost.name: cost for cost in steps.steps([], where="cpu")}
    assert len(every) == 8
    few = [cost for name, cost in every.items() if "4096" not in name and "512" not in name]
    rows = run.measure_costs(few, lambda row: None)
    peers = [row for row in rows if steps.PACKAGE in row["cost"]]
    assert all(row["value"] > 0 for row in rows if row not in peers)
    assert all("error" in row or row["value"] > 0 for row in peers)
    assert table.line(peers[0])
    assert not [*steps.steps([works.POOLING])]
    assert len([*steps.steps([works.FUSED])]) == 4


@pytest.mark.slow
def test_every_choice_of_a_limit_is_timed(capsys):
    assert command.main(["choices", "--cpu", "--only", "box 3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(", us: " in line and ", a copy " in line for line in lines)


def test_every_call_on_volumes_runs_or_lacks_its_peer(tmp_path, capsys):
    volumes.main(["--sides", "6", "8", "--plot", str(tmp_path / "growth.png")])
    printed = capsys.readouterr().out
    for name, call in volumes.CALLS.items():
        ran = f"{name:26} 8^3" in printed
        assert ran or (f"{name}: ModuleNotFoundError" in printed and "sc." not in call)
    assert (tmp_path / "growth.png").exists()
