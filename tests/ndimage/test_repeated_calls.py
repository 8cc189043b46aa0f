"""Calls that were planned before: what they are found by, and what they must not be found by."""

import numpy as np
import pytest
import scipy.ndimage

from semiconv_cupy import ndimage
from semiconv_cupy.errors import FootprintWarning
from semiconv_cupy.ndimage.neighbourhood import served_by

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 200, (13, 17)).astype(np.uint8)


def agree(name, image, **arguments):
    found = getattr(ndimage, name)(image, **arguments)
    np.testing.assert_array_equal(found, getattr(scipy.ndimage, name)(image, **arguments))


@pytest.mark.parametrize("name", ["grey_erosion", "grey_dilation", "grey_opening"])
def test_arrays_that_change_between_calls(name):
    image = IMAGE.astype(np.float32)
    structure, footprint = RNG.normal(size=(3, 4)), np.ones((3, 4), bool)
    for _ in range(3):
        agree(name, image, structure=structure.astype(np.float32))
        agree(name, image, footprint=footprint)
        agree(name, image, size=(3, 4))
        image[...] = RNG.normal(size=image.shape)
        structure[...] = RNG.normal(size=structure.shape)
        footprint[RNG.integers(3), RNG.integers(4)] = False


@pytest.mark.parametrize("name", ["grey_erosion", "grey_dilation"])
def test_a_footprint_that_changes_after_the_call(name):
    """Array loops, which serve so many axes, compute from the array that they were given."""
    filtered = getattr(ndimage, name)
    image, structure = RNG.random((*(1,) * 7, 7, 8)), RNG.random((*(1,) * 7, 3, 3))
    footprint = np.ones(structure.shape, np.bool_)
    footprint[..., 0, 0] = False
    kept = footprint.copy()
    expected = filtered(image, footprint=footprint, structure=structure)
    footprint[...] = structure > 0.5
    footprint[..., 0, 0], footprint[..., 1, 1] = True, False
    found = filtered(image, footprint=kept, structure=structure)
    np.testing.assert_array_equal(found, expected)


def test_an_entry_whose_text_says_little():
    class Length:
        value = 3

        def __index__(self):
            return self.value

        def __repr__(self):
            return "a length"

    length = Length()
    ndimage.grey_dilation(IMAGE, size=(length, 3))
    length.value = 5
    np.testing.assert_array_equal(
        ndimage.grey_dilation(IMAGE, size=(length, 3)), ndimage.grey_dilation(IMAGE, size=(5, 3))
    )


def test_arguments_that_differ_by_little():
    for mode in ("reflect", "constant", ["reflect", "wrap"], ("constant", "mirror")):
        for cval in (0.0, 7):
            for origin in (0, (1, 0), [0, -1]):
                for size in (3, (3, 4), [4, 3]):
                    for name in ("grey_erosion", "grey_dilation", "minimum_filter"):
                        agree(name, IMAGE, size=size, mode=mode, cval=cval, origin=origin)


def test_arguments_that_are_used_up():
    for lengths in ((3, 3), (1, 5), (5, 1)):
        expected = ndimage.minimum_filter(IMAGE, size=lengths)
        np.testing.assert_array_equal(ndimage.minimum_filter(IMAGE, size=iter(lengths)), expected)


def test_equal_numbers_of_different_types():
    ndimage.grey_dilation(IMAGE, size=3)
    with pytest.raises(TypeError, match="size"):
        ndimage.grey_dilation(IMAGE, size=3.0)


@pytest.mark.parametrize(
    "other", [IMAGE.T, IMAGE[:, ::-1], IMAGE.astype(">u2"), IMAGE.astype(np.int8), IMAGE.tolist()]
)
def test_arrays_that_lie_otherwise(other):
    agree("maximum_filter", IMAGE, size=(5, 3))
    agree("maximum_filter", other, size=(5, 3))


def test_results_are_new_arrays():
    first, second = (ndimage.grey_dilation(IMAGE, size=3) for _ in range(2))
    assert not np.shares_memory(first, second)
    output = np.empty_like(IMAGE)
    assert ndimage.grey_dilation(IMAGE, size=3, output=output) is output
    np.testing.assert_array_equal(output, first)


def test_each_call_warns():
    for _ in range(2):
        with pytest.warns(UserWarning, match="the window is flat"):
            ndimage.grey_erosion(IMAGE, structure=np.full((3, 3), 0.5))
        with pytest.warns(FootprintWarning):
            ndimage.grey_erosion(IMAGE, structure=np.ones((3, 3)))


def test_a_chosen_backend_serves_calls_planned_before():
    class Failing:
        def box(self, *arguments):
            raise ZeroDivisionError

    ndimage.grey_dilation(IMAGE, size=(3, 5))
    with served_by(Failing()), pytest.raises(ZeroDivisionError):
        ndimage.grey_dilation(IMAGE, size=(3, 5))
    ndimage.grey_dilation(IMAGE, size=(3, 5))
