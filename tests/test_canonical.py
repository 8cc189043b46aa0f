"""A work and its canonical form are equal: what merges, what does not, and what both compute."""

import itertools
import math
from dataclasses import replace

import cases
import numpy as np
import oracle
import pytest
from cuda_on_cpu.device import HarnessDevice
from hypothesis import given
from hypothesis import strategies as st

from semiconv_cupy import SelectSemifield, SubtractSemifield, run
from semiconv_cupy.backends.device import Recorder
from semiconv_cupy.backends.place import Place
from semiconv_cupy.canonical import canonical
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.route import choose
from semiconv_cupy.strides import contiguous_strides


def form_of(img, krn, strides=None, **arguments):
    plan = Geometry.plan(img, krn, **arguments)
    return canonical(plan, strides or contiguous_strides(img), contiguous_strides(krn))


@pytest.mark.parametrize(
    ("img", "krn", "arguments", "text"),
    [
        ((1, 1, 64, 48, 16), (1, 1, 3, 1, 1), {}, "windowed 64, 3 taps; free 768"),
        ((1, 1, 64, 48, 3), (1, 1, 3, 5, 1), {},
         "windowed 64, 3 taps; windowed 144, 5 taps 3 apart"),
        ((1, 1, 64, 48, 3), (1, 1, 3, 5, 1), dict(padding="same", dilation=(1, 2, 1)),
         "windowed 64, 3 taps; windowed 144, 5 taps 6 apart"),
        ((1, 1, 64, 48, 3), (1, 1, 3, 5, 1), dict(stride=(2, 1, 1)),
         "windowed 64, 3 taps, step 2; windowed 144, 5 taps 3 apart"),
        ((1, 1, 64, 48, 3), (1, 1, 3, 5, 1), dict(stride=(1, 2, 1)),
         "windowed 64, 3 taps; windowed 48, 5 taps, step 2; free 3"),
        ((1, 1, 64, 48, 64), (1, 1, 3, 5, 1), {},
         "windowed 64, 3 taps; windowed 48, 5 taps; free 64"),
        ((1, 1, 64, 48, 1), (1, 1, 3, 5, 1), dict(stride=(2, 2, 1)),
         "windowed 64, 3 taps, step 2; windowed 48, 5 taps, step 2"),
        ((1, 1, 64, 48, 16), (1, 1, 1, 1, 3), {}, "free 3072; windowed 16, 3 taps"),
        ((5, 1, 40), (1, 1, 1), {}, "free 200"),
        ((5, 1, 8, 9), (1, 1, 1, 3), {}, "free 40; windowed 9, 3 taps"),
        ((5, 1, 8, 9), (1, 1, 3, 1), {}, "free 5; windowed 72, 3 taps 9 apart"),
        ((5, 2, 8, 9), (1, 1, 1, 3), dict(groups=2, group_broadcasting=True),
         "free 80; windowed 9, 3 taps"),
        ((5, 2, 8, 9), (2, 1, 1, 3), dict(groups=2),
         "free 5; free 2; free 8; windowed 9, 3 taps"),
        ((5, 2, 8, 9), (3, 2, 1, 1), {}, "free 5; produced 3; free 72; contracted 2"),
        ((1, 2, 8, 9), (2, 2, 1, 1), dict(stride=2),
         "produced 2; free 4; free 5; contracted 2"),
        ((4, 1, 1, 9), (1, 1, 1, 3), {}, "free 4; windowed 9, 3 taps"),
        ((4, 2, 1, 1), (2, 1, 1, 1), dict(groups=2), "free 4; free 2; free 1"),
    ],
    ids=str,
)  # fmt: skip
def test_what_merges(img, krn, arguments, text):
    form = form_of(img, krn, **arguments)
    assert str(form) == text
    assert math.prod(form.geometry.out_shape) == math.prod(
        Geometry.plan(img, krn, **arguments).out_shape
    )


def test_a_border_keeps_an_axis_apart():
    img, krn = (1, 1, 6, 7), (1, 1, 1, 1)
    assert form_of(img, krn).geometry.image_size == (42,)
    plan = Geometry.plan(img, krn, padding=((0, 0), (0, 1)))
    assert canonical(plan, contiguous_strides(img), contiguous_strides(krn)).geometry is plan


@pytest.mark.parametrize("strides", [(96, 96, 16, 2), (56, 56, 8, 1), (48, 48, 1, 6)])
def test_only_what_lies_together_merges(strides):
    """Every second column, rows with a gap, columns first."""
    form = form_of((1, 1, 6, 8), (1, 1, 1, 1), strides)
    merges = strides[2] == 8 * strides[3]
    assert (form.geometry.rank == 1) == merges
    assert form.layout.img[-1] == strides[3]


def test_an_empty_image_stays_as_it_is():
    plan = Geometry.plan((0, 1, 6, 8), (1, 1, 1, 1))
    assert canonical(plan, (0, 0, 0, 0), (1, 1, 1, 1)).geometry is plan


# ---- equal works ---------------------------------------------------------------------------------


@st.composite
def works(draw):
    """(image of any memory order, kernel, arguments), most axes with one tap."""
    rank = draw(st.integers(1, 3))
    taps = tuple(draw(st.sampled_from([1, 1, 1, 2, 3])) for _ in range(rank))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    stride = tuple(draw(st.sampled_from([1, 1, 1, 2])) for _ in range(rank))
    pads = tuple((draw(st.sampled_from([0, 0, 0, 1])), 0) for _ in range(rank))
    size = [d * (k - 1) + draw(st.integers(1, 4)) for d, k in zip(dilation, taps, strict=True)]
    groups, channels = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    shares = draw(st.booleans())
    outputs = draw(st.integers(1, 2)) * (1 if shares else groups)
    shape = (draw(st.integers(1, 3)), groups * channels, *size)
    order = draw(st.permutations(range(rank + 2)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    memory = rng.integers(-9, 9, [shape[axis] for axis in order]).astype("f4")  # with ties
    img = memory.transpose(np.argsort(order))
    if draw(st.booleans()):
        img = np.ascontiguousarray(img)
    krn = rng.integers(-9, 9, (outputs, channels, *taps)).astype("f4")
    arguments = dict(
        stride=stride, padding=pads, dilation=dilation, groups=groups, group_broadcasting=shares,
        kind=draw(st.sampled_from(["conv", "corr"])),
    )  # fmt: skip
    return img, krn, arguments


def arguments_of(plan):
    """The arguments that state this geometry."""
    return dict(
        stride=plan.stride,
        padding=tuple(zip(plan.pad_begin, plan.pad_end, strict=True)),
        dilation=plan.dilation,
        groups=plan.groups,
        group_broadcasting=plan.shares_kernels,
        kind="conv" if plan.mirrored else "corr",
    )


def elements(array):
    return tuple(stride // array.itemsize for stride in array.strides)


def rewritten(array, shape, strides):
    """The same memory as an array of another shape."""
    steps = [stride * array.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(array, shape, steps)


@given(work=works())
def test_both_forms_compute_the_same(work):
    img, krn, arguments = work
    plan = Geometry.plan(img.shape, krn.shape, **arguments)
    form = canonical(plan, elements(img), elements(krn))
    image = rewritten(img, form.geometry.img_shape, form.layout.img)
    kernel = rewritten(krn, form.geometry.krn_shape, form.layout.krn)
    same = Geometry.plan(image.shape, kernel.shape, **arguments_of(form.geometry))
    assert same == form.geometry
    assert form.geometry.taps == plan.taps
    for algebra in (oracle.TROPICAL_MAX, oracle.Sum()):
        expected = oracle.convolve(img, krn, algebra, **arguments).value
        found = oracle.convolve(image, kernel, algebra, **arguments_of(form.geometry)).value
        np.testing.assert_array_equal(found.ravel(), expected.ravel())
    assert canonical(form.geometry, form.layout.img, form.layout.krn).geometry == form.geometry


# ---- the backends take the canonical form --------------------------------------------------------


def passes(semifield, dtype, device=None):
    """(result, residual) of one work in memory where axes merge, and in rows with a gap."""
    img = cases.numbers((3, 1, 6, 7, 5), dtype, cases.MAGNITUDES)
    krn = cases.numbers((1, 1, 3, 3, 1), dtype, cases.MAGNITUDES, seed=3)
    apart = np.zeros((3, 1, 6, 7, 8), dtype)[..., :5]
    apart[...] = img
    plan = Geometry.plan(img.shape, krn.shape, padding=((1, 0), (0, 1), (0, 0)))
    assert canonical(plan, elements(img), elements(krn)).geometry.rank == 2
    assert canonical(plan, elements(apart), elements(krn)).geometry is plan
    method = "direct" if device is None else "auto"  # not by sums
    route = cases.route_of(semifield, plan, dtype, device, method)
    for image in (img, apart):
        out, spec = np.empty(plan.out_shape, dtype), route.residual_spec
        residual = None if spec is None else np.empty(spec.shape, spec.dtype)
        run.forward(route, image, krn, out, residual)
        yield out, residual


@pytest.mark.parametrize(
    ("name", "dtype"),
    cases.slow_except(
        itertools.product(["tropical_max", "linear", "log(2)", "norm"], ["float32", "float16"]),
        *((name, "float32") for name in ("tropical_max", "linear", "log(2)")),
        ("tropical_max", "float16"),
    ),
)
def test_bits_of_results_and_residuals_stay(name, dtype):
    merged, plain = passes(cases.SEMIFIELDS[name].semifield, dtype)
    for one, other in zip(merged, plain, strict=True):
        assert (one is other is None) or one.tobytes() == other.tobytes()


def test_cuda_takes_it_for_selections():
    device, names = HarnessDevice(), []
    compiled = device.compile

    def compile(text, name, options):
        names.append(name)
        return compiled(text, name, options)

    device.compile = compile
    merged, plain = passes(cases.SEMIFIELDS["tropical_max"].semifield, "float32", device)
    for one, other in zip(merged, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [("3x3x1" in name, "3x3" in name) for name in names] == [(False, True), (True, True)]


def on_gpu(semifield, img, krn, method="auto", **arguments):
    """The route of a work on a GPU."""
    plan = Geometry.plan(img, krn, padding="same", **arguments)
    place = Place("CuPy", gpu=0, device=Recorder())
    return choose(semifield, plan, "float32", place, method)


MAX, LINEAR, LOG = (
    SelectSemifield.tropical_max(),
    SubtractSemifield.linear(),
    SubtractSemifield.log(2.0),
)


@pytest.mark.parametrize(
    ("semifield", "method", "img", "krn", "rank"),
    [
        (MAX, "auto", (1, 1, 64, 48, 3), (1, 1, 3, 5, 1), 2),
        (LINEAR, "auto", (1, 1, 64, 48, 3), (1, 1, 3, 5, 1), 2),
        (LOG, "linear", (2, 1, 64, 48, 3), (1, 1, 3, 5, 1), 2),
        (LOG, "linear", (5, 1, 8, 48, 3), (1, 1, 1, 5, 1), 3),  # would join images
        (MAX, "auto", (5, 1, 8, 48, 3), (1, 1, 1, 5, 1), 2),
        (MAX, "tiled", (1, 1, 64, 48, 3), (1, 1, 3, 5, 1), 3),
        (MAX, "auto", (1, 1, 640, 7), (1, 1, 3, 1), 1),
        (MAX, "auto", (1, 1, 640, 8), (1, 1, 3, 1), 2),
        (MAX, "auto", (1, 1, 64, 48), (1, 1, 3, 3), 2),
    ],
)
def test_which_forms_a_gpu_takes(semifield, method, img, krn, rank):
    route = on_gpu(semifield, img, krn, method)
    assert route.form(contiguous_strides(img), contiguous_strides(krn)).geometry.rank == rank


def gradients(route, wants, img=None, krn=None):
    """(rank, which) of each form that computes gradients."""
    plan = route.geometry
    strides = img or contiguous_strides(plan.img_shape), krn or contiguous_strides(plan.krn_shape)
    return [(each.route.geometry.rank, each.wants) for each in route.gradients(*strides, wants)]


def test_gradients_of_a_gpu_take_it_where_they_are_contiguous():
    shapes = (1, 2, 64, 48, 3), (2, 1, 3, 5, 1)
    colours = on_gpu(LINEAR, *shapes, groups=2)
    assert gradients(colours, (True, True)) == [(2, (True, True))]
    # One kernel in memory for both groups has two gradients.
    assert gradients(colours, (True, True), krn=(0, 0, 5, 1, 1)) == [(3, (True, True))]
    # A step leaves out positions of the image.
    skipping = on_gpu(LINEAR, (1, 1, 64, 48, 3), (1, 1, 3, 5, 1), stride=(1, 1, 2))
    assert gradients(skipping, (True, True)) == [(3, (True, True))]


@pytest.mark.parametrize(("taps", "rank"), [(11, 2), (12, 3)])
def test_gradients_of_a_gpu_keep_windows_within_their_tiles(taps, rank):
    colours = on_gpu(LINEAR, (1, 1, 64, 48, 3), (1, 1, 3, taps, 1))
    assert gradients(colours, (True, True)) == [(rank, (True, True))]


def test_gradients_of_selections_keep_long_rows_on_a_gpu():
    for last, ranks in ((31, [2, 3]), (32, [3])):
        bands = on_gpu(MAX, (1, 1, 64, 48, last), (1, 1, 3, 2, 1))
        assert [rank for rank, _ in gradients(bands, (True, True))] == ranks


def test_the_kernels_gradient_of_a_selection_keeps_its_form_on_a_gpu():
    colours = on_gpu(MAX, (1, 1, 64, 48, 3), (1, 1, 3, 5, 1))
    assert gradients(colours, (True, True)) == [(2, (True, False)), (3, (False, True))]
    assert gradients(colours, (False, True)) == [(3, (False, True))]
    # So it does where the image's has no other form: its bits do not depend on memory orders.
    apart = [(3, (True, False)), (3, (False, True))]
    assert gradients(colours, (True, True), img=(1, 1, 4 * 48, 4, 1)) == apart
    assert gradients(replace(colours, plain=True), (True, True)) == apart
    planes = on_gpu(MAX, (1, 1, 64, 48), (1, 1, 3, 5))
    assert gradients(planes, (True, True)) == [(2, (True, True))]
