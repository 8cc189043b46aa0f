"""Calls that were planned before: what they are found by, and what they must not be found by."""

import types

import numpy as np
import pytest
import scipy.ndimage
from cuda_on_cpu.device import HarnessDevice

from semiconv_cupy import ndimage
from semiconv_cupy.backends.device import Recorder
from semiconv_cupy.errors import FootprintWarning
from semiconv_cupy.ndimage import cuda
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


@pytest.mark.parametrize("name", ["binary_erosion", "binary_dilation"])
def test_structures_and_borders_that_change_between_calls(name):
    image, structure = IMAGE > 40, np.ones((3, 3), bool)
    for output in (np.empty(image.shape, bool), np.empty(image.shape, np.int16)):
        for given in (structure, structure.tolist(), None):
            for border in (0, 1, True, 0):
                for origin in (0, (1, -1)):
                    arguments = {"structure": given, "border_value": border, "origin": origin}
                    agree(name, image, **arguments)
                    getattr(ndimage, name)(image, output=output, **arguments)
                    expected = getattr(scipy.ndimage, name)(image, **arguments)
                    np.testing.assert_array_equal(output, expected)
        structure[0, 1] = structure[2, 2] = False
        image[...] = RNG.random(image.shape) < 0.6


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


class CountingDevice(Recorder):
    """Counts the arrays that are copied to it, in a stream that a test can change."""

    def __init__(self):
        super().__init__()
        self.uploads, self.stream = 0, 0
        self.array_module = types.SimpleNamespace(asarray=self._asarray)

    def gpu_and_stream(self):
        return 0, self.stream

    def _asarray(self, array):
        self.uploads += 1
        return array


FACES = {
    "correlate": lambda: ndimage.correlate(IMAGE, [[1, 0, 2], [0, 3, 0]], mode="constant", cval=2),
    "convolve": lambda: ndimage.convolve(IMAGE, np.ones((3, 3)), origin=(1, 0), output=np.float32),
    "along an axis": lambda: ndimage.convolve1d(IMAGE, [1, 2, 3.5], 0),
    "symmetric": lambda: ndimage.correlate1d(
        IMAGE, np.array([1, 2, 1]), output=np.empty_like(IMAGE)
    ),
    "box": lambda: ndimage.minimum_filter(IMAGE, (3, 5), mode=["wrap", "mirror"]),
    "line": lambda: ndimage.maximum_filter1d(IMAGE, 4, output=np.empty_like(IMAGE)),
    "footprint": lambda: ndimage.grey_erosion(IMAGE, footprint=[[0, 1], [1, 1]]),
    "structure": lambda: ndimage.grey_dilation(IMAGE, structure=[[1, 2, 3], [4, 5, 6]]),
    "saturating": lambda: ndimage.grey_erosion(IMAGE.astype(np.int64), structure=[[1, 2]]),
    "few weights": lambda: ndimage.correlate(IMAGE, np.diag((1, 2, 3, 4, 5))),
    "bool": lambda: ndimage.binary_dilation(IMAGE > 99),
}


@pytest.mark.parametrize("face", FACES)
def test_a_repeated_call_on_a_gpu_copies_nothing_to_it(face):
    device = CountingDevice()
    with served_by(cuda.Backend(device)):
        FACES[face]()
        uploads, launches = device.uploads, len(device.launches)
        assert launches == 1 + (face == "structure")  # which copies the image with its borders
        FACES[face]()
        assert (device.uploads, device.launches[launches:]) == (uploads, device.launches[:launches])
        device.stream = 5  # which does not wait for what another one was given
        FACES[face]()
        assert device.uploads == 2 * uploads


@pytest.mark.parametrize("name", ["correlate", "correlate1d", "convolve", "convolve1d"])
def test_weights_that_change_between_calls(name):
    """And weights of equal bytes: of other shapes, of numbers that are something else."""
    shape = (3,) if name.endswith("1d") else (2, 3)
    weights = RNG.normal(size=shape)
    for gpu in (None, cuda.Backend(HarnessDevice())):
        for _ in range(3):
            for given in (weights, weights.view(np.int64) >> 50, weights.tolist()):
                expected = getattr(scipy.ndimage, name)(IMAGE, given, output=np.float64)
                with served_by(gpu):
                    found = getattr(ndimage, name)(IMAGE, given, output=np.float64)
                np.testing.assert_array_equal(found, expected)
            weights[...] = RNG.normal(size=shape)
    same = np.arange(4).reshape(2, 2)
    for given in (same, same.view(np.float64), same.reshape(1, 4), same[::-1].T):
        agree("correlate", IMAGE, weights=given)


@pytest.mark.parametrize("gpu", [None, cuda.Backend(HarnessDevice())])
def test_outputs_that_a_kernel_can_and_cannot_write_to(gpu):
    wide = np.zeros((13, 40), np.uint8)
    for output in (
        *(np.zeros(IMAGE.shape, dtype) for dtype in (np.uint8, np.int32, ">i4")),
        *(wide[:, ::2][:, :17], wide.reshape(-1)[1:222].reshape(13, 17)),
    ):
        for name, given in (
            ("grey_dilation", {"size": (3, 4)}),
            ("maximum_filter", {"footprint": [[1, 0, 1]], "mode": "wrap"}),
            ("minimum_filter1d", {"size": 5}),
            ("correlate", {"weights": [[1, 0, 1], [0, 2, 0]]}),
            ("convolve1d", {"weights": [1, 2, 3]}),
        ):
            expected = getattr(scipy.ndimage, name)(IMAGE, output=output.dtype, **given)
            with served_by(gpu):
                found = getattr(ndimage, name)(IMAGE, output=output, **given)
                both = IMAGE.copy()
                getattr(ndimage, name)(both, output=both, **given)
            assert found is output
            np.testing.assert_array_equal(found, expected, err_msg=name)
            np.testing.assert_array_equal(
                both, getattr(scipy.ndimage, name)(IMAGE, **given), err_msg=name
            )


def test_an_output_that_begins_between_words_is_not_written_in_words():
    class Device(Recorder):
        def address(self, array):
            return array.ctypes.data

    device, image, memory = Device(), np.zeros((64, 64), np.uint8), np.zeros(5000, np.uint8)
    first = -memory.ctypes.data % 16
    for shift in (0, 4, 0):
        output = memory[first + shift :][: image.size].reshape(image.shape)
        with served_by(cuda.Backend(device)):
            ndimage.maximum_filter(image, 3, output=output)
        assert ("small_box" in device.launches[-1].source.name) == (shift == 0)
