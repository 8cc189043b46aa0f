"""What a call would run: held against what it runs, on the CPU and as recorded for a GPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy import ndimage
from semiconv_cupy.__main__ import main
from semiconv_cupy.explanation import Explanation, Step

KERNELS = Path(__file__).parent.parent / "kernels_cu"

# Explains each call and makes it with an empty cache; prints (libraries named, libraries built).
BUILDS = """
import json, os, pathlib
import numpy as np, semiconv_cupy as sc
cache = pathlib.Path(os.environ["SEMICONV_CACHE_DIR"])
built = lambda: len(list(cache.rglob("*.so")))
img, krn = np.zeros((1, 1, 9, 9), "f"), np.zeros((1, 1, 3, 3), "f")
sc.ndimage.maximum_filter(np.zeros((3, 3), "u1"), 3)  # also builds the pool of threads
def opening():
    return sc.ndimage.grey_opening(img[0, 0], structure=krn[0, 0] - np.eye(3))
def trained():
    out, pullback = sc.semifield_conv_vjp(img, krn, "tropical_max", padding="same")
    pullback(out)
found = []
for explained, call in (
    (sc.explain("grey_opening", (9, 9), structure=krn[0, 0] - np.eye(3)), opening),
    (sc.explain("semifield_conv_vjp", img, krn, "tropical_max", padding="same"), trained),
):
    before = built()
    call()
    found.append((len(explained.libraries), built() - before))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_libraries_are_those_that_the_call_builds(tmp_path):
    environment = os.environ | {"SEMICONV_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", BUILDS], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[1, 1], [3, 3]]


# Arguments besides an image of 12 x 14 for the functions that need some.
ARGUMENTS = {
    "convolve": {"weights": np.ones((3, 3))},
    "convolve1d": {"weights": [1, 2, 1]},
    "correlate": {"weights": np.ones((3, 3))},
    "correlate1d": {"weights": [1, 2, 1]},
    "distance_transform_bf": {},
    "distance_transform_cdt": {},
    "distance_transform_edt": {},
    "maximum_filter1d": {"size": 3},
    "minimum_filter1d": {"size": 3},
}
BINARY = [name for name in ndimage.__all__ if name.startswith("binary_")]
GREY = [
    name
    for name in ndimage.__all__
    if name not in (*BINARY, "generate_binary_structure", "iterate_structure")
]


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("name", [*GREY, *BINARY])
def test_every_filter_is_explained(name, gpu):
    arguments = ARGUMENTS.get(name, {} if name in BINARY else {"size": 3})
    found = sc.explain(
        name, (12, 14), dtype=bool if name in BINARY else "float32", gpu=gpu, **arguments
    )
    assert found.steps
    for step in found.steps:
        assert "(12, 14)" in step.form
        assert min(step.operations, step.bytes) >= 12 * 14
        assert (bool(step.launches), bool(step.libraries)) == (gpu, not gpu)
    names = [launch.source.name for launch in found.launches] if gpu else found.libraries
    assert all(kernel in repr(found) for kernel in names)


@pytest.mark.parametrize("gpu", [False, True])
def test_a_convolution_and_its_derivative(gpu):
    img, krn = np.zeros((2, 3, 20, 30), "f4"), np.zeros((5, 3, 7, 7), "f4")
    found = sc.explain(sc.semifield_conv_vjp, img, krn, "tropical_max", gpu=gpu)
    forward, backward = found.step("forward"), found.step("backward")
    outputs, taps = 2 * 5 * 14 * 24, 3 * 7 * 7
    windows = "windowed 20, 7 taps; windowed 30, 7 taps; contracted 3"
    on_the_cpu = f"produced 5; free 2; {windows}; vectors along windowed 30"  # the batch is space
    assert forward.form == (f"free 2; produced 5; {windows}" if gpu else on_the_cpu)
    assert forward.operations == 2 * outputs * taps
    # Image, kernel and result in float32, and a byte for the winner of each output's 147 terms.
    assert forward.bytes == img.nbytes + krn.nbytes + 4 * outputs + outputs
    assert backward.bytes == 2 * (img.nbytes + krn.nbytes) + 4 * outputs + outputs
    if gpu:
        assert any("residual" in launch.source.name for launch in forward.launches)
        assert any("grad_sum" in launch.source.name for launch in backward.launches)
    else:
        parts = ["forward_residual", "over_tiles", "backward"]
        assert [name.split()[0] for name in found.libraries] == parts
    with pytest.raises(ValueError, match="name='sideways' is no step"):
        found.step("sideways")


@pytest.mark.parametrize("name", ["semifield_conv", "semifield_matmul"])
def test_winners_are_returned_by_the_library_that_keeps_them(name):
    first, second = ((1, 1, 9, 9), (1, 1, 3, 3)) if name == "semifield_conv" else ((8, 5), (5, 9))
    values = sc.explain(name, first, second, "tropical_max").step("forward")
    winners = sc.explain(name, first, second, "tropical_max", return_indices=True).step("forward")
    assert winners.libraries != values.libraries
    assert winners.bytes > values.bytes
    with pytest.raises(ValueError, match="return_indices=True needs a SelectSemifield"):
        sc.explain(name, first, second, "linear", return_indices=True)


def test_the_form_is_the_canonical_one():
    found = sc.explain("semifield_conv", (1, 1, 512, 512, 16), (1, 1, 3, 1, 1), "tropical_max")
    assert found.step("forward").form == "windowed 512, 3 taps; free 8192"


def test_arrays_that_are_copied_first_have_the_form_of_their_copies():
    img = np.zeros((1, 1, 20, 30), ">f4").transpose(0, 1, 3, 2)
    found = sc.explain("semifield_conv", img, np.zeros((1, 1, 1, 1), ">f4"), "tropical_max")
    assert found.step("forward").form == "free 600"


@pytest.mark.parametrize(
    ("call", "route"),
    [
        (dict(semifield="linear"), "host"),
        (dict(semifield=sc.SubtractSemifield.log(2.0)), "host, by sums"),
        (dict(semifield="linear", method="reference"), "reference"),
        (dict(semifield=sc.BroadcastSemifield.tropical_max()), "arrays"),
        (dict(semifield="linear", gpu=True), "cuda"),
    ],
)
def test_the_route(call, route):
    assert (
        sc.explain("semifield_conv", (1, 1, 30, 30), (1, 1, 5, 5), **call).steps[0].route == route
    )


@pytest.mark.parametrize(
    ("shape", "arguments", "form"),
    [
        ((20, 30, 3), dict(size=(5, 5, 1)), ", as (20, 90), taps 3 apart in a row"),
        ((4, 20, 30), dict(footprint=np.eye(3)[None] > 0), ""),
        ((2, 3, 20, 30), dict(footprint=np.eye(3)[None, None] > 0), ", as (6, 20, 30)"),
        ((20, 3), dict(structure=np.eye(3)), ""),
    ],
)
@pytest.mark.parametrize("gpu", [False, True])
def test_merged_axes_of_filters(shape, arguments, form, gpu):
    [step] = sc.explain("grey_dilation", shape, gpu=gpu, **arguments).steps
    taps_or_window = step.form.partition("), ")[2]
    assert taps_or_window.endswith(form)
    assert ("as" in taps_or_window.split()) == bool(form)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("grey_dilation", dict(size=3)),
        ("grey_erosion", dict(structure=np.arange(27).reshape(3, 3, 3))),
        ("minimum_filter", dict(footprint=np.arange(27).reshape(3, 3, 3) % 2 > 0)),
        ("correlate", dict(weights=np.ones((3, 3, 3)))),
    ],
)
def test_another_axis_takes_the_place_of_short_rows(name, arguments):
    [step] = sc.explain(name, (60, 70, 3), **arguments).steps
    assert step.form.endswith(", as (60, 3, 70), vectors along the last axis")
    assert "as" not in sc.explain(name, (60, 70, 3), gpu=True, **arguments).steps[0].form.split()


@pytest.mark.parametrize(
    ("semifield", "route", "parts"),
    [
        ("linear", "host", ["product", "product_linear_backward"]),
        ("log", "host, by sums", ["product_by_sums", "product_by_sums_backward"]),
    ],
)
def test_products_by_ordinary_sums(semifield, route, parts):
    algebra = sc.SubtractSemifield.log(1.0) if semifield == "log" else semifield
    calls = (
        ("semifield_matmul_vjp", (64, 48), (48, 32), algebra),
        ("semifield_conv_vjp", (64, 48, 1), (32, 48, 1), algebra),
    )
    for call in calls:
        steps = sc.explain(*call).steps
        assert [step.route for step in steps] == [route, route]
        assert [step.libraries[0].split()[0] for step in steps] == parts


def test_a_product_of_few_rows_by_its_own_terms():
    log = sc.SubtractSemifield.log(1.0)
    forward, backward = sc.explain("semifield_matmul_vjp", (1, 48), (48, 32), log).steps
    assert [forward.route, backward.route] == ["host", "host, by sums"]
    assert [forward.libraries[0].split()[0], backward.libraries[0].split()[0]] == [
        "product",
        "product_by_sums_backward",
    ]


def test_a_matrix_product():
    a, b = np.zeros((7, 20, 10), "f4").swapaxes(1, 2), np.zeros((20, 5), "f4")
    found = sc.explain(sc.semifield_matmul, a, b, "tropical_max")
    [step] = found.steps
    assert step.form == (
        "free 7 (img 200, out 50) x 10 (img 1, out 5); produced 5 (krn 1, out 1); "
        "contracted 20 (img 10, krn 5)"
    )
    assert step.operations == 2 * 7 * 10 * 5 * 20
    assert step.bytes == a.nbytes + b.nbytes + 4 * 7 * 10 * 5
    assert [name.split()[0] for name in step.libraries] == ["product", "over_blocks"]
    derived = sc.explain("semifield_matmul_vjp", a, b, "tropical_max")
    forward, backward = derived.steps
    assert forward.libraries == (
        "product_residual of SelectSemifield.tropical_max() on float32",
        "over_blocks on float32",
    )
    assert forward.bytes == step.bytes + 7 * 10 * 5
    assert backward.name == "backward"
    assert backward.libraries == ("product_backward of SelectSemifield.tropical_max() on float32",)
    on_gpu = sc.explain("semifield_matmul_vjp", a, b, "tropical_max", gpu=True).step("backward")
    assert on_gpu.route == "cuda"
    assert len(on_gpu.launches) >= 2
    loops = sc.explain("semifield_matmul", a, b, "linear", method="reference")
    assert loops.step("forward").route == "reference"
    with pytest.raises(ValueError, match="one length"):
        sc.explain("semifield_matmul", (3, 4), (5, 6), "linear")


# Explains a call that array loops compute, then makes it: (warnings of the first, of the second).
WARNS = """
import warnings
import numpy as np, semiconv_cupy as sc
found = []
arrays = np.zeros((1, 1) + (2,) * 9), np.zeros((1, 1) + (1,) * 9)
for call in (lambda: sc.explain("semifield_conv", *arrays, "linear"),
             lambda: sc.semifield_conv(*arrays, "linear")):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    found.append(sum("array loops" in str(warning.message) for warning in caught))
print(found)
"""


def test_the_warning_of_slow_loops_is_left_to_the_call():
    done = subprocess.run([sys.executable, "-c", WARNS], capture_output=True, text=True, check=True)
    assert done.stdout == "[0, 1]\n"


def test_memory_that_nothing_touches_costs_nothing():
    found = sc.explain("maximum_filter", (2**16, 2**16), size=3, dtype="uint8", gpu=True)
    assert found.steps[0].bytes == 2 * 2**32


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (162, "162 operations, 162 B moved"),
        (25_170_000, "25.2 M operations, 25.2 MB moved"),
        (999_499, "999 k operations, 999 kB moved"),
        (999_999, "1 M operations, 1 MB moved"),
    ],
)
def test_numbers_have_three_digits_and_a_prefix(number, words):
    step = Step("box", "", "host", number, number)
    assert f" host: {words}" in repr(Explanation("call", (step,), None, {}))


# A child of a process that forks amid an explanation explains as well.
FORKS = """
import os, signal, sys
import numpy as np, semiconv_cupy as sc
def fork(input):
    child = os.fork()
    if child:
        sys.exit(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
    signal.alarm(20)  # a child that hangs ends with a signal
    sc.explain("maximum_filter", (3, 3), size=3)
    os._exit(0)
sc.explain(fork, (3, 3))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_fork_explains():
    subprocess.run([sys.executable, "-c", FORKS], check=True)


def test_scratch_holds_what_one_window_sees():
    found = sc.explain("semifield_conv", (1, 64, 150, 150), (2, 64, 101, 101), "tropical_max")
    assert found.steps[0].scratch >= 4 * 64 * 101 * 101


def test_scratch_is_the_budget_of_the_host_kernels():
    budget = re.compile(r"constexpr int64 budget = (\d+) \* 1024;")
    for step, header in (
        (sc.explain("semifield_conv", (1, 1, 9, 9), (1, 1, 3, 3), "linear").steps[0], "tiles.hpp"),
        (sc.explain("maximum_filter", (9, 9), size=3).steps[0], "mapped.hpp"),
    ):
        text = (KERNELS / "host" / header).read_text()
        assert step.scratch == 1024 * int(budget.search(text)[1])


@pytest.mark.parametrize("name", ["grey_dilation", "correlate", "grey_opening"])
def test_the_callers_output_is_not_written_to(name):
    output = np.full((3, 4), 7.0)
    arguments = {"weights": np.ones((3, 3))} if name == "correlate" else {"size": 3}
    before = output.copy()
    sc.explain(name, (3, 4), output=output, **arguments)
    sc.explain(name, output, output=output, **arguments)
    assert np.array_equal(output, before)
    sc.explain(name, (3, 4), output=np.float64, **arguments)
    output.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        sc.explain(name, (3, 4), output=output, **arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ((3, (9, 9)), TypeError, "function must be a function or its name, got 3"),
        (("grey_dillation", (9, 9)), ValueError, "function='grey_dillation' is none of"),
        (("grey_dilation", (9, 9)), ValueError, "size, footprint, or structure"),
        (("semifield_conv", (1, 1, 9), (1, 2, 3), "linear"), ValueError, "input channels"),
        (("generate_binary_structure", 2, 1), ValueError, "runs no kernel"),
    ],
)
def test_errors_are_those_of_the_call(call, error, message):
    with pytest.raises(error, match=message):
        sc.explain(*call)


@pytest.mark.parametrize(
    ("name", "method"), [("semifield_conv", "direct"), ("semifield_conv_vjp", "auto")]
)
def test_array_functions_have_no_kernels_and_no_derivative(name, method):
    semifield = sc.BroadcastSemifield.tropical_max()
    arrays = np.zeros((1, 1, 5)), np.zeros((1, 1, 3))
    with pytest.raises((TypeError, ValueError)) as of_the_call:
        getattr(sc, name)(*arrays, semifield, method=method)
    with pytest.raises(of_the_call.type, match=re.escape(str(of_the_call.value))):
        sc.explain(name, *arrays, semifield, method=method)


def test_registers_by_the_compiler_of_another_gpu():
    pytest.importorskip("nvidia.cuda_nvrtc", reason="NVRTC is not installed")
    found = sc.explain("maximum_filter", (64, 64), size=3, arch="sm_90")
    assert all(16 <= taken.registers <= 255 for taken in found.resources.values())
    assert set(found.resources) == {launch.source.name for launch in found.launches}
    assert "registers" in repr(found)


def test_the_command(capsys):
    command = (
        "explain grey_dilation --shape 32x40x3 --dtype uint8 --kernel 9x9 --argument mode=wrap"
    )
    assert main(command.split()) == 0
    expected = sc.explain(
        "grey_dilation", (32, 40, 3), size=(9, 9), mode="wrap", axes=(0, 1), dtype="uint8"
    )
    assert capsys.readouterr().out == f"{expected!r}\n"
    convolution = "explain semifield_conv_vjp --shape 1x3x9x9 --kernel 2x3x3x3 --semifield log(2)"
    assert main([*convolution.split(), "--gpu", "--argument", "padding=same"]) == 0
    expected = sc.explain(
        "semifield_conv_vjp", (1, 3, 9, 9), (2, 3, 3, 3), sc.SubtractSemifield.log(2.0),
        padding="same", gpu=True,
    )  # fmt: skip
    assert capsys.readouterr().out == f"{expected!r}\n"
    assert main(["explain", "semifield_matmul_vjp", "--shape", "8x5", "--kernel", "5x9"]) == 0
    expected = sc.explain("semifield_matmul_vjp", (8, 5), (5, 9), "tropical_max")
    assert capsys.readouterr().out == f"{expected!r}\n"
    assert main(["explain", "correlate", "--shape", "8x9x3", "--kernel", "3x5"]) == 0
    assert "15 taps of (3, 5, 1), as (8, 27), taps 3 apart" in capsys.readouterr().out
    for name in ("correlate1d", "minimum_filter1d"):
        along = ["--shape", "8x9", "--kernel", "5", "--argument", "axis=0"]
        assert main(["explain", name, *along]) == 0
        assert "(5, 1)" in capsys.readouterr().out


def test_bfloat16_by_its_name(monkeypatch):
    call = ("semifield_conv", (1, 1, 9), (1, 1, 3), "linear")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "ml_dtypes", None)
        with pytest.raises(TypeError, match="pip install ml_dtypes"):
            sc.explain(*call, dtype="bfloat16")
    pytest.importorskip("ml_dtypes")
    for gpu in (False, True):
        step = sc.explain(*call, dtype="bfloat16", gpu=gpu).step("forward")
        assert step.bytes == 2 * (9 + 3 + 7)
        assert "bfloat16" in (step.launches[0].source.name if gpu else step.libraries[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("maximum_filter --shape 1048576x1048576x1048576 --argument size=3", "allocate"),
        ("nothing --shape 3x3", "function='nothing'"),
        ("semifield_conv --shape 1x1x3", "--kernel is missing"),
        ("semifield_matmul --shape 64x32", "--kernel is missing: the shape of b"),
        ("maximum_filter --shape 3x3 --kernel 99999999999999999999", "size must be at most"),
        ("maximum_filter --shape 3x3 --argument size", "'size' is not of the form NAME=VALUE"),
    ],
)
def test_errors_of_the_command(arguments, message, capsys):
    assert main(["explain", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("gpu", [False, True])
def test_more_axes_than_kernels_have(gpu):
    for call in (("grey_dilation", (2,) * 9, 2), ("binary_erosion", (2,) * 9)):
        found = sc.explain(*call, dtype=bool if "binary" in call[0] else "float32", gpu=gpu)
        assert {step.route for step in found.steps} == {"reference"}


def test_a_function_that_explains():
    def own(input):
        sc.explain("grey_dilation", (3, 3), size=3, gpu=True)
        return ndimage.grey_dilation(input, size=5)

    [step] = sc.explain(own, (9, 9), gpu=True).steps
    assert "window (5, 5)" in step.form


def test_long_rows_keep_their_tile():
    """Offsets within a tile have 32 bits, which merged axes may leave."""
    shape = (1, 1, 64, 8192, 8192)
    found = sc.explain(
        "semifield_conv", shape, (1, 1, 3, 1, 1), "tropical_max", dtype="u1", gpu=True
    )
    assert "forward_tiled" in found.launches[0].source.name


def test_parameters_of_a_call():
    text = str(
        sc.explain("semifield_conv_vjp", (1, 2, 8, 8), (2, 2, 3, 3), "log", mu=2.0, gpu=True)
    )
    assert "semiconv_forward_log_float32_3x3_residual_slopes" in text
    assert "log(mu)" in str(sc.explain("semifield_matmul", (4, 5), (5, 3), "log", mu=2.0))
    with pytest.raises(TypeError, match="unexpected argument 'mu'"):
        sc.explain("semifield_conv", (1, 2, 8), (2, 2, 3), "tropical_max", mu=2.0)
