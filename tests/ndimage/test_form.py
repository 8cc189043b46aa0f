"""Merged axes: the form itself, and filters of colours, volumes and batches against SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_against_scipy import GREY, RUNS, compare, origin_for

from semiconv_cupy.ndimage.form import filter_form

MODES = ("reflect", "mirror", "nearest", "wrap", "constant")


def form_of(shape, window):
    before = tuple(k // 2 for k in window)
    return filter_form(shape, window, before, ("reflect",) * len(shape))


@pytest.mark.parametrize(
    ("shape", "window", "merged", "merged_window", "unit", "windowed"),
    [
        ((9, 8, 3), (5, 4, 1), (9, 24), (5, 4), 3, (0, 1)),  # colour
        ((9, 8, 3), (5, 4, 3), (9, 8, 3), (5, 4, 3), 1, (0, 1, 2)),
        ((9, 8, 3), (5, 1, 1), (216,), (5,), 24, (0,)),
        ((9, 8, 3), (1, 1, 2), (72, 3), (1, 2), 1, (0, 2)),  # a batch
        ((9, 8, 1), (5, 4, 1), (9, 8), (5, 4), 1, (0, 1)),
        ((9, 1, 8, 2, 3), (5, 1, 4, 1, 1), (9, 48), (5, 4), 6, (0, 2)),
        ((9, 7, 8, 3), (5, 1, 4, 1), (9, 7, 24), (5, 1, 4), 3, (0, 1, 2)),
        ((9, 8, 3), (1, 1, 1), (216,), (1,), 1, (0,)),
        ((1, 1), (1, 1), (1,), (1,), 1, (0,)),
        ((1, 8), (3, 1), (8,), (3,), 8, (0,)),
    ],
)
def test_axes_that_merge(shape, window, merged, merged_window, unit, windowed):
    form = form_of(shape, window)
    assert (form.shape, form.window, form.unit, form.windowed) == (
        merged, merged_window, unit, windowed,
    )  # fmt: skip


def test_short_rows_give_their_place_to_the_longest_axis():
    shape, window = (20, 30, 5), (3, 5, 3)
    short = filter_form(shape, window, (1, 2, 1), ("mirror", "wrap", "reflect"), least=6)
    assert short.shape == (20, 5, 30)
    assert (short.window, short.before) == ((3, 3, 5), (1, 1, 2))
    assert (short.rules, short.windowed) == (("mirror", "reflect", "wrap"), (0, 2, 1))
    assert (short.strides, short.unit) == ((150, 1, 5), 1)
    enough = filter_form(shape, window, (1, 2, 1), ("mirror", "wrap", "reflect"), least=5)
    assert enough.strides == (150, 5, 1)
    batch = filter_form((40, 30, 3, 2), (1, 1, 3, 1), (0, 0, 1, 0), ("nearest",) * 4, least=7)
    assert (batch.shape, batch.strides) == ((3, 2, 1200), (2, 1, 6))


def test_borders_count_positions():
    form = form_of((4, 5, 3), (3, 5, 1))
    assert form.before_in_elements() == (1, 6)
    assert form.window_in_elements() == (3, 13)
    assert form.beyond(1).tolist() == [1, 0, 4, 3]


@st.composite
def colours(draw, dtypes):
    """An image of at least two axes whose last one is short, and a window for each axis."""
    rank = draw(st.integers(2, 4))
    most = (0, 0, 90, 24, 10)[rank]
    shape = tuple(draw(st.integers(1, most)) for _ in range(rank - 1))
    shape += (draw(st.sampled_from([1, 2, 3, 4, 5, 8, 16])),)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    image = random.integers(0, 100, shape).astype(draw(st.sampled_from(dtypes)))
    window = [draw(st.sampled_from([1, 2, 3, 5])) for _ in shape]
    if draw(st.integers(0, 3)):
        window[-1] = 1
    return image, tuple(window), random


def border(draw, window):
    return {
        "mode": draw(st.sampled_from(MODES)),
        "cval": 5,
        "origin": origin_for(draw, window) if draw(st.booleans()) else 0,
    }


@RUNS
@given(st.data())
def test_boxes(data):
    image, window, _ = data.draw(colours(("uint8", "float32", "uint16", "float64", "bool")))
    arguments = border(data.draw, window)
    arguments["mode"] = [data.draw(st.sampled_from(MODES)) for _ in window]
    name = data.draw(st.sampled_from(["minimum_filter", "maximum_filter"]))
    compare(name, image, size=window, **arguments)


@RUNS
@given(st.data())
def test_footprints(data):
    image, window, random = data.draw(colours(("uint8", "float32", "int16", "float64")))
    footprint = random.random(window) < 0.6
    footprint[tuple(k // 2 for k in window)] = True
    name = data.draw(st.sampled_from(GREY))
    compare(name, image, footprint=footprint, **border(data.draw, window))


@RUNS
@given(st.data())
def test_structures(data):
    image, window, random = data.draw(colours(("int16", "float32", "int32", "float64")))
    structure = random.integers(-9, 10, window)
    name = data.draw(st.sampled_from(["grey_erosion", "grey_dilation"]))
    compare(name, image, structure=structure, **border(data.draw, window))


@RUNS
@given(st.data())
def test_correlations(data):
    image, window, random = data.draw(colours(("uint8", "float32", "float64")))
    weights = random.standard_normal(window)
    arguments = border(data.draw, window) | {"output": np.float64}
    compare(data.draw(st.sampled_from(["correlate", "convolve"])), image, weights, **arguments)
    axis = data.draw(st.integers(0, image.ndim - 1))
    length = weights.shape[axis]
    arguments["origin"] = 0
    compare("correlate1d", image, random.standard_normal(length), axis, **arguments)


@RUNS
@given(st.data())
def test_binary_steps(data):
    image, window, random = data.draw(colours(("bool",)))
    structure = random.random(window) < 0.6
    structure[tuple(k // 2 for k in window)] = True
    name = data.draw(st.sampled_from(["binary_erosion", "binary_dilation", "binary_opening"]))
    iterations = data.draw(st.integers(1, 3))
    compare(name, image, structure, iterations, border_value=data.draw(st.integers(0, 1)))


@pytest.mark.parametrize("channels", [1, 3, 4, 16])
@pytest.mark.parametrize("mode", MODES)
def test_wide_colours_and_long_windows(channels, mode):
    """Rows of several bands, and windows that are longer than the image."""
    random = np.random.default_rng(0)
    wide = random.integers(0, 200, (3, 40_000 // channels, channels)).astype(np.float32)
    compare("maximum_filter", wide, (3, 9, 1), mode=mode)
    compare("grey_dilation", wide, footprint=random.random((3, 9, 1)) < 0.5, mode=mode)
    small = random.integers(0, 200, (5, 7, channels)).astype(np.uint8)
    compare("minimum_filter", small, (31, 40, 1), mode=mode)
    compare("grey_erosion", small, footprint=random.random((11, 17, 1)) < 0.5, mode=mode)


@pytest.mark.parametrize(
    "shape", [(70, 30, 5), (300, 5, 4), (900, 3), (99, 7, 2, 3), (3, 4, 300, 2)]
)
@pytest.mark.parametrize("mode", MODES)
def test_short_rows(shape, mode):
    """Registers run along another axis, in tiles that are cut there."""
    random = np.random.default_rng(1)
    image = random.integers(0, 200, shape).astype(np.uint8)
    for last in (1, 2, 3):
        window = (*(3,) * (len(shape) - 2), 5, last)[-len(shape) :]
        footprint = random.random(window) < 0.6
        footprint[tuple(k // 2 for k in window)] = True
        compare("maximum_filter", image, window, mode=mode, cval=7)
        compare("minimum_filter", image, (1, *window[1:]), mode=mode, cval=7)
        compare("grey_dilation", image, footprint=footprint, mode=mode, cval=7)
        values = random.integers(-9, 10, window)
        compare("grey_erosion", image.astype(np.int32), structure=values, mode=mode, cval=7)
        compare("correlate", image, values, output=np.float64, mode=mode, cval=7)


def test_colours_without_pixels():
    for shape in ((0, 5, 3), (5, 5, 0), (0,), (3, 0, 2)):
        image = np.zeros(shape, np.float32)
        for name in ("minimum_filter", "grey_closing"):
            compare(name, image, (3,) * image.ndim)
