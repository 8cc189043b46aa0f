"""What every border rule must keep to, and that all backends show the same.

SciPy's results are compared in `test_against_scipy.py`.
"""

import numpy as np
import pytest
from cuda_on_cpu.device import HarnessDevice

from semiconv_cupy import ndimage
from semiconv_cupy.ndimage import cuda, reference
from semiconv_cupy.ndimage.borders import MODES, beyond, farthest, ignores, shows_constant
from semiconv_cupy.ndimage.neighbourhood import served_by

RULES = tuple(dict.fromkeys(MODES.values()))


def seen(size, before, after, rule, own):
    """The elements that a box shows to the output at `own`; -1 for the constant."""
    table = beyond(size, before, after, rule)
    line = np.concatenate([table[:before], np.arange(size), table[before:]])
    return set(line[own : own + before + 1 + after].tolist())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_long_boxes_see_what_the_farthest_ones_see(size, rule):
    for before, after in ((7 * size, 0), (1, 9 * size), (6 * size + 1, 5 * size)):
        near = farthest(size, before, after, rule)
        for own in range(size):
            expected = seen(size, before, after, rule, own)
            assert seen(size, *near, rule, own) == expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_box_of_both_lengths_shows_every_output_the_same(size, rule):
    reach = max(size - 1, 1)
    expected = {*range(size), *([-1] if shows_constant(rule) else [])}
    for own in range(size):
        assert seen(size, reach, reach, rule, own) == expected


@pytest.mark.parametrize("mode", MODES)
def test_backends_show_the_same_beyond_the_border(mode):
    image = np.random.default_rng(3).standard_normal((6, 9))
    footprint = np.array([[1, 0, 1, 1], [0, 1, 0, 1]], bool)
    border = {"mode": mode, "cval": 0.5}
    calls = (
        lambda: ndimage.maximum_filter(image, (4, 7), **border),
        lambda: ndimage.minimum_filter(image, (3, 40), origin=(0, -15), **border),
        lambda: ndimage.maximum_filter(image, 31, **border),
        lambda: ndimage.grey_dilation(image, footprint=footprint, **border),
        lambda: ndimage.grey_erosion(image, structure=footprint * 0.7, **border),
        lambda: ndimage.grey_erosion(
            image, footprint=footprint, **border | {"mode": (mode, "nearest")}
        ),
        lambda: ndimage.correlate(image, footprint * 0.7, **border),
    )
    if ignores(MODES[mode]):
        calls = calls[:-1]
    expected = [call() for call in calls]
    for backend in (reference, cuda.Backend(HarnessDevice())):
        with served_by(backend):
            for call, result in zip(calls, expected, strict=True):
                np.testing.assert_array_equal(call(), result)
