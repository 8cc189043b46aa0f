"""Images in another order than C: copied on a GPU before they are convolved (cuda/in_order.cu)."""

import cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from semiconv_cupy import SelectSemifield, SubtractSemifield, run
from semiconv_cupy.backends.cuda import copy_in_order
from semiconv_cupy.backends.device import Recorder
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.methods import Limits
from semiconv_cupy.route import choose
from semiconv_cupy.strides import element_strides, in_memory, strides_in_order


@st.composite
def apart(draw):
    """An array in any memory order, with gaps, flipped and broadcast axes."""
    shape = draw(arrays.array_shapes(min_dims=1, max_dims=6, max_side=9))
    shape = tuple(n * draw(st.sampled_from((1, 1, 1, 9))) for n in shape)[:4] + shape[4:]
    axes = draw(st.permutations(range(len(shape))))
    dtype = draw(st.sampled_from(("uint8", "uint16", "uint32", "uint64")))
    steps = [draw(st.sampled_from((1, 1, 1, -1, 2))) for _ in shape]
    wide = [shape[axis] * abs(steps[axis]) for axis in axes]
    full = np.random.default_rng(0).integers(0, 250, wide).astype(dtype).transpose(np.argsort(axes))
    array = full[tuple(slice(None, None, step) for step in steps)]
    if draw(st.booleans()):
        array = np.broadcast_to(array.take([0], 0), array.shape)
    return array


@given(apart())
def test_copies_are_those_of_numpy(array):
    device, strides = cases.harness(), element_strides(array)
    copy = copy_in_order(device, array.shape, strides, array.itemsize)
    address, owner = copy(device.address(array))
    once = np.empty(in_memory(array.shape, strides), array.dtype)
    bits = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * once.nbytes).from_address(address))
    once.reshape(-1).view(np.uint8)[...] = bits
    in_bytes = [array.itemsize * step for step in strides_in_order(array.shape, strides)]
    found = np.lib.stride_tricks.as_strided(once, array.shape, in_bytes)
    np.testing.assert_array_equal(found, array)
    del owner


def launches_of(strides, copied=0, storage="float32", semifield=None):
    """The names of what a GPU launches for an image of these strides."""
    recorder = Recorder()
    plan = Geometry.plan((8, 16, 32, 32), (16, 1, 3, 3), groups=16)
    place = Place("CuPy", gpu=0, device=recorder)
    semifield = semifield or SelectSemifield.tropical_max()
    route = choose(semifield, plan, storage, place, "auto", Limits(copied=copied))
    krn_strides = (9, 9, 3, 1)
    run.forward_at(route, strides, krn_strides)(0, 0, 0, None, None)
    arrays = GradientArrays(0, 0, 0, 0, 0, 0)
    run.backward_at(route, strides, krn_strides, (True, True))(arrays, None)
    return [launch.source.name for launch in recorder.launches]


PIXELS_OF_16 = (16384, 1, 512, 16)


def test_what_is_copied():
    copy = "semiconv_in_order_4"
    assert copy in launches_of(PIXELS_OF_16)
    assert copy in launches_of((1, 8, 8 * 16 * 32, 8 * 16))
    # Not what is small, lies in order, leaves gaps that nobody reads, or has large elements.
    assert copy not in launches_of(PIXELS_OF_16, copied=8 * 16 * 32 * 32 + 1)
    assert copy not in launches_of((16384, 1024, 32, 1))
    assert copy not in launches_of((16384, 1024, 32, -1))
    assert copy not in launches_of((16 * 16384, 16 * 1024, 16 * 32, 16))
    assert copy not in launches_of((0, 0, 16, 0))
    assert copy not in launches_of((0, 1, 512, 16), copied=16 * 32 * 32 + 1)  # of one image
    assert "semiconv_in_order_8" not in launches_of(PIXELS_OF_16, storage="float64")


def test_gradients_copy_the_image_where_they_read_it():
    """Those of a selection do not: winners say where its gradients go."""
    selects = launches_of(PIXELS_OF_16)
    sums = launches_of(PIXELS_OF_16, semifield=SubtractSemifield.linear())
    assert [names.count("semiconv_in_order_4") for names in (selects, sums)] == [1, 2]


@pytest.mark.parametrize("name", ["tropical_max", "log(2)"])
def test_results_do_not_depend_on_the_order(name):
    case, axes = cases.SEMIFIELDS[name], (2, 3, 0, 1)
    plan = Geometry.plan((6, 5, 9, 11), (5, 1, 3, 3), groups=5, padding=1, stride=2)
    img, krn, grad_out = (
        cases.numbers(shape, "float32", case.domain)
        for shape in (plan.img_shape, plan.krn_shape, plan.out_shape)
    )
    place = Place("NumPy", gpu=0, device=cases.harness())
    route = choose(case.semifield, plan, "float32", place, "auto", Limits(copied=0))
    spec, results = route.residual_spec, []
    for image in (img, np.ascontiguousarray(img.transpose(axes)).transpose(np.argsort(axes))):
        out = np.empty(plan.out_shape, "float32")
        residual = np.empty(spec.shape, spec.dtype)
        gradients = np.empty(plan.img_shape, "float32"), np.empty(plan.krn_shape, "float32")
        run.forward(route, image, krn, out, residual)
        run.backward(route, GradientArrays(grad_out, image, krn, residual, *gradients))
        results.append((out, residual, *gradients))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(found, expected)
