"""The axis that the CPU's vectors run along: which one it is, and that results keep their bits."""

import cases
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from semiconv_cupy import run
from semiconv_cupy.backends.place import NUMPY
from semiconv_cupy.canonical import canonical
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.methods import Limits
from semiconv_cupy.route import choose
from semiconv_cupy.strides import contiguous_strides
from semiconv_cupy.vectors import for_vectors


def form_of(img, krn, strides=None, itemsize=4, **arguments):
    plan = Geometry.plan(img, krn, **arguments)
    found = canonical(plan, strides or contiguous_strides(img), contiguous_strides(krn))
    return for_vectors(found, itemsize)


SAME = {"padding": "same"}


@pytest.mark.parametrize(
    ("img", "krn", "arguments", "text"),
    [
        ((1, 1, 700, 800), (1, 1, 7, 7), SAME, "windowed 700, 7 taps; windowed 800, 7 taps"),
        ((2000, 1, 7, 7), (1, 1, 3, 3), SAME,
         "windowed 7, 3 taps; windowed 7, 3 taps; free 2000; vectors along free 2000"),
        ((2000, 64, 7, 7), (64, 1, 3, 3), SAME | {"groups": 64},
         "free 64; windowed 7, 3 taps; windowed 7, 3 taps; free 2000; vectors along free 2000"),
        ((1, 1, 90000, 3), (1, 1, 9, 3), SAME,
         "windowed 3, 3 taps; windowed 90000, 9 taps; vectors along windowed 90000"),
        ((1, 1, 2, 90000), (1, 1, 15, 3), SAME,
         "windowed 2, 3 taps; windowed 90000, 3 taps; vectors along windowed 90000"),
        ((1, 1, 1, 90000), (1, 1, 15, 3), SAME,
         "windowed 90000, 3 taps; vectors along windowed 90000"),
        ((3, 1, 40, 800), (1, 1, 1, 5), SAME, "free 120; windowed 800, 5 taps"),
        ((3, 1, 40, 800), (1, 1, 5, 5), SAME,
         "free 3; windowed 40, 5 taps; windowed 800, 5 taps; vectors along windowed 800"),
    ],
    ids=str,
)  # fmt: skip
def test_which_axis(img, krn, arguments, text):
    assert str(form_of(img, krn, **arguments)) == text


def test_taps_that_are_left_out_keep_the_others_numbers():
    """Of 9 taps on 3 elements, the middle five see something inside."""
    plan = Geometry.plan((1, 1, 40, 3), (1, 1, 1, 9), padding="same")
    form = for_vectors(canonical(plan, (120, 120, 3, 1), (9, 9, 9, 1)), 4)
    (windowed,) = (axis for axis in form.axes if axis.role == "windowed")
    assert (windowed.taps, windowed.border) == (5, (2, 2))
    assert (form.layout.first_tap, form.layout.krn_begin) == (2, 2)


@st.composite
def works(draw):
    """(image, kernel, arguments): batches and rows of all lengths, borders, steps, any order."""
    rank = draw(st.integers(1, 3))
    taps = [draw(st.sampled_from([1, 2, 3, 9])) for _ in range(rank)]
    dilation = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(rank)]
    stride = tuple(draw(st.sampled_from([1, 1, 2, 5])) for _ in range(rank))
    pads = tuple(draw(st.tuples(*[st.sampled_from([0, 1, 8])] * 2)) for _ in range(rank))
    size = [
        max(1, d * (k - 1) + 1 - sum(pad) + draw(st.sampled_from([0, 3, 20, 70])))
        for d, k, pad in zip(dilation, taps, pads, strict=True)
    ]
    groups, channels = draw(st.sampled_from([1, 1, 2, 17])), draw(st.sampled_from([1, 1, 5]))
    shares = draw(st.booleans())
    outputs = draw(st.integers(1, 2)) * (1 if shares else groups)
    shape = [draw(st.sampled_from([1, 2, 40])), groups * channels, *size]
    assume(np.prod(shape) <= 100_000)
    order = draw(st.permutations(range(rank + 2)))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    img = rng.integers(0, 9, [shape[axis] for axis in order]).transpose(np.argsort(order))
    krn = rng.integers(0, 5, (outputs, channels, *taps))
    arguments = dict(
        stride=stride, padding=pads, dilation=tuple(dilation), groups=groups,
        group_broadcasting=shares, kind=draw(st.sampled_from(["conv", "corr"])),
    )  # fmt: skip
    return img, krn, arguments


@pytest.mark.parametrize("dtype", ["float32", "uint8", "float64", "int16"])
@settings(max_examples=40)
@given(work=works())
def test_values_and_winners_are_those_of_the_plain_form(dtype, work):
    """With ties; integers have no harmless number outside, and are masked there."""
    img, krn, arguments = work
    img, krn = img.astype(dtype, order="K"), krn.astype(dtype)
    plan = Geometry.plan(img.shape, krn.shape, **arguments)
    found = []
    for plain in (True, False):
        semifield = cases.SEMIFIELDS["tropical_max"].semifield
        route = choose(semifield, plan, dtype, NUMPY, limits=Limits(plain=plain))
        spec = route.residual_spec
        out, residual = np.empty(plan.out_shape, dtype), np.empty(spec.shape, spec.dtype)
        run.forward(route, img, krn, out, residual)
        found.append((out, residual))
    for plainly, canonically in zip(*found, strict=True):
        np.testing.assert_array_equal(canonically, plainly)
