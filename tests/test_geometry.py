"""Plans: shapes and every form of every argument, without arrays; each wrong argument's message."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import oracle
import pytest
from compare import assert_matches
from hypothesis import given
from hypothesis import strategies as st

import semiconv_cupy as sc
from semiconv_cupy.geometry import Geometry

IMG, KRN = (2, 6, 11, 9), (4, 3, 3, 2)


def plan(img=IMG, krn=KRN, **arguments):
    return Geometry.plan(img, krn, **{"groups": 2, **arguments})


# ---- what is right -----------------------------------------------------------------------------


@given(geometry=cases.geometries(max_rank=5))
def test_output_shape_is_that_of_the_windows(geometry):
    img, krn = np.zeros(geometry.img, "u1"), np.zeros(geometry.krn, "u1")
    plan = geometry.plan()
    seen, _, inside = oracle.windows(img, krn, **geometry.arguments)
    assert plan.out_shape == seen.shape[:-1]
    assert plan.taps == inside.shape[-1]
    assert plan.out_channels == plan.out_shape[1]
    assert (plan.img_shape, plan.krn_shape, plan.rank) == (img.shape, krn.shape, img.ndim - 2)


@pytest.mark.parametrize(
    ("padding", "begin", "end"),
    [
        (0, (0, 0), (0, 0)),
        ("valid", (0, 0), (0, 0)),
        (2, (2, 2), (2, 2)),
        (np.int64(2), (2, 2), (2, 2)),
        ((1, 3), (1, 3), (1, 3)),
        ([1, 3], (1, 3), (1, 3)),
        (((0, 1), (2, 3)), (0, 2), (1, 3)),
        ([[0, 1], (2, 3)], (0, 2), (1, 3)),
        (np.array([[0, 1], [2, 3]]), (0, 2), (1, 3)),
        ((1, (2, 3)), (1, 2), (1, 3)),
        ("same", (1, 0), (1, 1)),
    ],
)
def test_every_form_of_padding(padding, begin, end):
    found = plan(padding=padding)
    assert (found.pad_begin, found.pad_end) == (begin, end)
    assert found.transposed_padding == tuple(zip(end, begin, strict=True))


@pytest.mark.parametrize("rank", range(1, 6))
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_named_padding_in_every_rank(rank, padding):
    sizes = (5, 4, 3, 2, 1)[:rank]
    found = Geometry.plan((1, 1, *(9,) * rank), (1, 1, *sizes), padding=padding, dilation=2)
    expected = (9,) * rank if padding == "same" else tuple(9 - 2 * (k - 1) for k in sizes)
    assert found.out_size == expected


def test_same_pads_in_dilation_steps_with_the_odd_one_at_the_end():
    found = Geometry.plan((1, 1, 20), (1, 1, 4), padding="same", dilation=2)
    assert (found.pad_begin, found.pad_end, found.out_size) == ((2,), (4,), (20,))


def test_same_with_stride_pads_as_without():
    assert Geometry.plan((1, 1, 11), (1, 1, 3), padding="same", stride=2).out_size == (6,)


@pytest.mark.parametrize("forms", [2, (2, 2), [2, 2], np.array([2, 2]), np.int32(2)])
@pytest.mark.parametrize("name", ["stride", "dilation"])
def test_every_form_of_steps(name, forms):
    assert getattr(plan(**{name: forms}), name) == (2, 2)


def test_groups_share_out_or_share_kernels():
    shared_out, broadcast = plan(), plan(group_broadcasting=True)
    assert (shared_out.outputs_per_group, shared_out.out_channels) == (2, 4)
    assert (broadcast.outputs_per_group, broadcast.out_channels) == (4, 8)
    assert not shared_out.shares_kernels
    assert broadcast.shares_kernels
    assert plan(krn=(4, 6, 3, 2), groups=1, group_broadcasting=True).out_channels == 4


@pytest.mark.parametrize("kind", ["conv", "corr"])
def test_mirrored_taps(kind):
    found = plan(kind=kind)
    assert found.mirrored == (kind == "conv")
    assert [found.step(0, index) for index in range(3)] == (
        [2, 1, 0] if kind == "conv" else [0, 1, 2]
    )


def test_plans_are_cached_and_array_free():
    assert plan(padding=[1, 3]) is plan(padding=(1, 3))
    assert plan(padding=1) is plan(padding=1)
    hash(plan())


@pytest.mark.parametrize("kind", ["conv", "corr"])
@pytest.mark.parametrize("position", list(itertools.product(range(3), range(2))))
def test_an_impulse_shows_the_kernel(kind, position):
    """conv with a unit impulse is the kernel itself, corr its mirror image."""
    krn = np.arange(6, dtype="f4").reshape(1, 1, 3, 2) + 1
    img = np.full((1, 1, 7, 6), -np.inf, "f4")
    row, column = position[0] + 2, position[1] + 2
    img[0, 0, row, column] = 0
    out = sc.semifield_conv(img, krn, "tropical_max", padding=((1, 1), (0, 1)), kind=kind)
    expected = np.full((1, 1, 7, 6), -np.inf, "f4")
    shown = krn[0, 0] if kind == "conv" else krn[0, 0, ::-1, ::-1]
    # "corr" sees the impulse at index y from x = impulse - y + begin; "conv" is its mirror image.
    top, left = row - 1, column - 1
    expected[0, 0, top : top + 3, left : left + 2] = shown
    assert_matches(out, expected, dtype="float32")


# ---- what is wrong -----------------------------------------------------------------------------

WRONG_VALUES = {
    "img without axes": (dict(img=(6, 6)), r"img must have shape \(B, C, \*S\).*\(6, 6\)"),
    "a single picture": (dict(img=(6, 6)), r"img\[None, None\]"),
    "other rank": (dict(krn=(4, 3, 3)), r"as many axes as img.*\(4, 3, 3\)"),
    "empty kernel": (dict(krn=(4, 3, 0, 2)), r"krn must not be empty, got shape \(4, 3, 0, 2\)"),
    "no kernels": (dict(krn=(0, 3, 3, 2)), "krn must not be empty"),
    "groups do not divide": (dict(groups=4), r"channels=6, groups=4"),
    "no groups": (dict(groups=0), "groups must be at least 1, got 0"),
    "negative groups": (dict(groups=-2), "groups must be at least 1, got -2"),
    "other channels": (dict(krn=(4, 2, 3, 2)), r"3 input channels.*\(4, 2, 3, 2\)"),
    "kernels not shared out": (dict(krn=(3, 3, 3, 2)), "kernels=3, groups=2"),
    "kind": (dict(kind="convolution"), '"conv" or "corr", got \'convolution\''),
    "stride 0": (dict(stride=0), "stride must be at least 1, got 0"),
    "negative stride": (dict(stride=(1, -1)), r"stride must be at least 1, got \(1, -1\)"),
    "dilation 0": (dict(dilation=(0, 1)), r"dilation must be at least 1, got \(0, 1\)"),
    "too many strides": (
        dict(stride=(1, 1, 1)),
        r"one entry per spatial axis \(2\), got \(1, 1, 1\)",
    ),
    "too few dilations": (dict(dilation=(1,)), r"one entry per spatial axis \(2\), got \(1,\)"),
    "too much padding": (
        dict(padding=(1, 1, 1)),
        r"padding must have .* got \(1, 1, 1\)",
    ),
    "no pair": (dict(padding=((1, 1, 1), 1)), r"\(begin, end\), got \(1, 1, 1\)"),
    "negative padding": (dict(padding=-1), "padding must not be negative, got -1"),
    "negative end": (dict(padding=((0, 0), (0, -1))), "padding must not be negative"),
    "padding's name": (dict(padding="full"), '"valid", "same" or integers, got \'full\''),
    "does not fit": (dict(img=(2, 6, 2, 9)), r"does not fit.*\(2, 9\).*output size \(0, 8\)"),
    "dilated does not fit": (dict(dilation=6), "the window does not fit"),
}
WRONG_TYPES = {
    "groups": (dict(groups=2.0), r"groups must be an integer, got 2\.0"),
    "stride": (dict(stride=1.5), r"stride must be an integer, got 1\.5"),
    "stride's entry": (dict(stride=(1, "2")), "stride must be an integer, got '2'"),
    "bool": (dict(dilation=True), "dilation must be an integer, got True"),
    "None": (dict(stride=None), "stride must be an integer, got None"),
    "padding": (dict(padding=0.5), r"padding must be an integer, got 0\.5"),
    "padding's pair": (dict(padding=((0, 1.0), 1)), r"padding must be an integer, got 1\.0"),
    "group_broadcasting": (dict(group_broadcasting="no"), "group_broadcasting must be a bool"),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values_name_the_argument_and_the_value(name):
    arguments, message = WRONG_VALUES[name]
    with pytest.raises(ValueError, match=message):
        plan(**arguments)


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_wrong_types_name_the_argument_and_the_value(name):
    arguments, message = WRONG_TYPES[name]
    with pytest.raises(TypeError, match=message):
        plan(**arguments)


@pytest.mark.parametrize("name", [*WRONG_VALUES, *WRONG_TYPES])
def test_a_call_says_what_its_plan_says(name):
    """Also after an equal call was right: 1.0 == True == 1 must not find that call again."""
    arguments, message = {**WRONG_VALUES, **WRONG_TYPES}[name]
    arguments = {"groups": 2, **arguments}
    img, krn = np.zeros(arguments.pop("img", IMG)), np.zeros(arguments.pop("krn", KRN))
    sc.semifield_conv(np.zeros(IMG), np.zeros(KRN), "tropical_max", groups=2)
    with pytest.raises((ValueError, TypeError), match=message):
        sc.semifield_conv(img, krn, "tropical_max", **arguments)


# ---- sizes at the edge -------------------------------------------------------------------------


@given(
    size=st.integers(1, 12), k=st.integers(1, 40), padding=st.integers(0, 60), d=st.integers(1, 4)
)
def test_kernels_larger_than_the_image_and_huge_padding(size, k, padding, d):
    need = d * (k - 1) + 1 - size
    padding = max(padding, math.ceil(need / 2))
    img, krn = cases.numbers((1, 1, size), "f4"), cases.numbers((1, 1, k), "f4", seed=3)
    expected = oracle.convolve(img, krn, oracle.TROPICAL_MAX, padding=padding, dilation=d)
    for backend in ("host", "reference"):
        out = cases.run(backend, img, krn, cases.SEMIFIELDS["tropical_max"].semifield,
                        padding=padding, dilation=d)  # fmt: skip
        assert_matches(out, expected, dtype="float32")


NINE_AXES = """
import warnings

import cases
import oracle
from compare import assert_matches

import semiconv_cupy as sc

shape = (1, 1, *(2,) * 9)
img, krn = cases.numbers(shape, "f4"), cases.numbers(shape, "f4", seed=3)
expected = oracle.convolve(img, krn, oracle.TROPICAL_MAX, padding="same")
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for _ in range(2):
        out = sc.semifield_conv(img, krn, "tropical_max", padding="same")
        assert_matches(out, expected, dtype="float32")
[warning] = warned
assert warning.category is sc.BackendWarning
print(warning.message)
"""


def test_nine_axes_go_by_the_reference_with_one_warning_or_are_refused():
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", NINE_AXES],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"},
    )
    assert done.returncode == 0, done.stderr
    assert "slow array loops: kernels serve up to 8 spatial axes, got 9" in done.stdout
    img = np.ones((1, 1, *(2,) * 9), "f4")
    with pytest.raises(sc.BackendUnavailableError, match="up to 8 spatial axes, got 9"):
        sc.semifield_conv(img, img, "tropical_max", padding="same", method="direct")


def test_far_apart_taps():
    """Windows that reach far beyond a small image."""
    img, krn = cases.numbers((1, 1, 3, 4), "f4"), cases.numbers((1, 1, 3, 3), "f4", seed=3)
    arguments = dict(dilation=500, padding=500)
    expected = oracle.convolve(img, krn, oracle.TROPICAL_MAX, **arguments)
    out = sc.semifield_conv(img, krn, "tropical_max", **arguments)
    assert_matches(out, expected, dtype="float32")
