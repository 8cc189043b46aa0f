"""Windows: what each output sees, from SciPy's arguments; no images."""

import numpy as np
import pytest

from semiconv_cupy.ndimage.window import Window, window_arguments

IMAGE = np.zeros((9, 11), np.float32)
TAPS = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 0, 1]], bool)


def resolved(image=IMAGE, reflected=False, minimum=False, **given):
    usual = dict.fromkeys(("size", "footprint", "structure", "axes"))
    arguments = window_arguments(
        image, **usual | {"mode": "reflect", "cval": 0, "origin": 0} | given
    )
    if reflected:
        arguments = arguments.reflected(image.ndim)
    return arguments.resolve(image.ndim, image.dtype, minimum)


@pytest.mark.parametrize("given", [{"size": 3}, {"size": (3, 3)}, {"footprint": np.ones((3, 3))}])
@pytest.mark.parametrize("origin", [1, -1, (1, -1)])
def test_a_box_however_it_is_given(given, origin):
    window = resolved(**given, origin=origin, mode="grid-wrap", cval=7)
    ahead = (origin, origin) if isinstance(origin, int) else origin
    assert window == Window((3, 3), (1 + ahead[0], 1 + ahead[1]), ("wrap", "wrap"), 7)


def test_boxes_that_differ_in_one_argument():
    usual = {"size": 5, "mode": "mirror", "cval": 1, "origin": 1, "axes": (0, 1)}
    boxes = [resolved(**usual)]
    for name, other in (("size", 4), ("mode", "wrap"), ("cval", 2.5), ("origin", -1), ("axes", 0)):
        boxes.append(resolved(**usual | {name: other}))
        assert boxes[-1] == resolved(**usual | {name: other})
    assert len(set(boxes)) == len(boxes)


def test_axes_without_a_window_have_length_one():
    volume = np.zeros((4, 5, 6))
    window = resolved(volume, size=(3, 5), axes=(2, 0), mode=("mirror", "nearest"))
    assert window.shape == (5, 1, 3)
    assert window.before == (2, 0, 1)
    assert window.rules == ("nearest", "constant", "mirror")
    assert window.after == (2, 0, 1)


@pytest.mark.parametrize("origin", [0, 1, (-1, 1), (0, -2)])
@pytest.mark.parametrize("kind", ["footprint", "structure", "size"])
def test_reflected_offsets_are_the_negated_ones(kind, origin):
    """A dilation sees from x what an erosion from elsewhere sees at x."""
    value = {"footprint": TAPS, "structure": np.arange(12.0).reshape(3, 4), "size": (3, 4)}[kind]
    window = resolved(**{kind: value}, origin=origin)
    mirrored = resolved(**{kind: value}, origin=origin, reflected=True)
    order = slice(None, None, -1)
    np.testing.assert_array_equal(mirrored.offsets()[order], -window.offsets())
    assert (window.values is None) == (kind != "structure")
    if kind == "structure":
        np.testing.assert_array_equal(mirrored.values[order], window.values)


def test_values_are_those_of_the_taps_and_negated_in_a_minimum():
    structure = np.arange(12).reshape(3, 4)
    given = {"footprint": TAPS, "structure": structure}
    np.testing.assert_array_equal(resolved(**given).values, structure[TAPS])
    np.testing.assert_array_equal(resolved(**given, minimum=True).values, -structure[TAPS])


def test_a_structure_is_a_set_to_a_bool_image():
    window = resolved(IMAGE > 0, structure=TAPS * 5.0)
    assert window.values is None
    np.testing.assert_array_equal(window.taps, TAPS)


def test_a_line_lies_along_its_axis():
    window = Window.along(1, 3, 5, 4, "mirror", 2)
    expected = Window((1, 5, 1), (0, 4, 0), ("constant", "mirror", "constant"), 2)
    assert window == expected


def test_the_part_of_a_window_within_an_image():
    window = Window((3, 4), (1, 2), ("constant",) * 2, taps=TAPS)
    assert window.within((3, 4)) == (window, False)
    # Beyond one row, only the middle row of taps sees anything of the image.
    part, more = window.within((1, 4))
    assert more
    assert (part.shape, part.before) == ((1, 4), (0, 2))
    np.testing.assert_array_equal(part.offsets(), [[0, -1]])
    # Longer than the image, but with no tap that reaches out of it.
    sparse = window._replace(taps=np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], bool))
    part, more = sparse.within((1, 4))
    assert not more
    np.testing.assert_array_equal(part.offsets(), sparse.offsets())


def test_the_own_position():
    window = Window((3, 4), (1, 2), ("constant",) * 2)
    assert window.contains_own_position()
    assert not window._replace(taps=TAPS).contains_own_position()
    assert window._replace(taps=TAPS, before=(1, 1)).contains_own_position()
