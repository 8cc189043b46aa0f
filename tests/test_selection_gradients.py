"""Gradients of selections: what each output's winner receives, and in which order.

A winner's tap is the residual. With it the gradients are two sums, which `scattered` adds up in the
order of the outputs in memory.
"""

import cases
import numpy as np
import pytest
from hypothesis import given

import semiconv_cupy as sc
from semiconv_cupy import run
from semiconv_cupy.backends import cuda
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.geometry import Geometry

MAX = sc.SelectSemifield.tropical_max()
SEMIFIELDS = {
    "max": MAX,
    "max times": sc.SelectSemifield.max_times(),
    "max of channels": sc.SelectSemifield.tropical_max(channels_add=True),
}
# Rows of any length, many planes of few outputs, windows that tile the image; where kernels have
# more weights than there are outputs, their gradients are added up apart.
GEOMETRIES = {
    "one column": ((2, 1, 700, 1), (1, 1, 9, 1), dict(padding="same")),
    "rows of three": ((2, 2, 90, 3), (2, 2, 5, 3), dict(padding=(2, 1))),
    "rows of three, strides": ((1, 1, 301, 7), (2, 1, 3, 3), dict(stride=(3, 2), padding=1)),
    "rows of eleven": ((3, 2, 31, 11), (2, 1, 3, 3), dict(groups=2, padding="same", kind="corr")),
    "rows of twelve": ((3, 2, 31, 12), (2, 1, 3, 3), dict(groups=2, padding="same")),
    "planes of 2 x 3": ((1, 1, 40, 2, 3), (1, 1, 3, 2, 2), dict(padding=1, dilation=(2, 1, 1))),
    "many groups": ((40, 30, 5, 4), (30, 1, 3, 3), dict(groups=30, padding="same")),
    "many groups, one kernel": (
        (20, 18, 4, 4),
        (2, 2, 2, 2),
        dict(groups=9, group_broadcasting=True, stride=2),
    ),
    "one pixel": ((70, 5, 1, 1), (6, 5, 1, 1), {}),
    "more weights than outputs": ((5, 60, 1, 1), (70, 60, 1, 1), {}),
    "more weights than outputs, groups": ((5, 24, 3, 2), (18, 8, 3, 2), dict(groups=3)),
    "more weights than outputs, one kernel": (
        (2, 24, 2, 3),
        (9, 8, 2, 2),
        dict(groups=3, group_broadcasting=True, padding=((0, 1), (1, 0))),
    ),
    "pooling": ((9, 8, 14, 14), (8, 1, 2, 2), dict(groups=8, stride=2)),
}


def small_numbers(shape, seed):
    """Multiples of 1/4, of which all sums here are exact, in the memory order of channels last."""
    values = np.random.default_rng(seed).integers(0, 25, shape) / 4
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1).astype(np.float32)


def gradients(semifield, plan, img, krn, grad_out, threads=2):
    """(residual, grad_img, grad_krn) of the host's kernels."""
    route = cases.route_of(semifield, plan, "float32", method="direct")
    out = np.empty(plan.out_shape, np.float32)
    residual = np.empty(route.residual_spec.shape, route.residual_spec.dtype)
    run.forward(route, img, krn, out, residual, threads=threads)
    grads = np.empty(img.shape, np.float32), np.empty(krn.shape, np.float32)
    run.backward(route, GradientArrays(grad_out, img, krn, residual, *grads), threads=threads)
    return residual, *grads


def scattered(semifield, plan, img, krn, grad_out, residual):
    """(grad_img, grad_krn) by NumPy, which adds in the order of the outputs."""
    if not semifield.channels_add:
        residual = residual[:, :, None]
    b, plane, of_channel, *outputs = np.nonzero(residual < np.iinfo(residual.dtype).max)
    tap = residual[b, plane, of_channel, *outputs].astype(np.int64)
    channel, *index = np.unravel_index(tap, (plan.in_channels, *plan.kernel_size))
    channel = of_channel if semifield.channels_add else channel
    group = plane // plan.outputs_per_group
    kernel = plane % plan.outputs_per_group if plan.shares_kernels else plane
    step = [k - 1 - i if plan.mirrored else i for i, k in zip(index, plan.kernel_size, strict=True)]
    position = [
        x * s + k * d - begin
        for x, s, k, d, begin in zip(
            outputs, plan.stride, step, plan.dilation, plan.pad_begin, strict=True
        )
    ]
    at_img = b, group * plan.in_channels + channel, *position
    at_krn = kernel, channel, *index
    to_img = to_krn = grad_out[b, plane, *outputs]
    if semifield is SEMIFIELDS["max times"]:
        to_img, to_krn = to_img * krn[at_krn], to_krn * img[at_img]
    grad_img, grad_krn = np.zeros_like(img, order="C"), np.zeros_like(krn, order="C")
    np.add.at(grad_img, at_img, to_img)
    np.add.at(grad_krn, at_krn, to_krn)
    return grad_img, grad_krn


@pytest.mark.parametrize("name", SEMIFIELDS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_each_winner_receives_its_gradient(geometry, name):
    img_shape, krn_shape, arguments = GEOMETRIES[geometry]
    plan = Geometry.plan(img_shape, krn_shape, **arguments)
    img, krn = small_numbers(img_shape, 1), np.ascontiguousarray(small_numbers(krn_shape, 2))
    grad_out = np.ascontiguousarray(small_numbers(plan.out_shape, 3)) - 3
    residual, *got = gradients(SEMIFIELDS[name], plan, img, krn, grad_out)
    expected = scattered(SEMIFIELDS[name], plan, img, krn, grad_out, residual)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_added_in_order(plan):
    """Bits of grad_img show the order. A kernel's gradient is added up in double.

    Of at least 16 planes, so that each is one tile.
    """
    assert plan.batch * plan.groups >= 16
    rng = np.random.default_rng(5)
    img, krn, grad_out = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in (plan.img_shape, plan.krn_shape, plan.out_shape)
    )
    residual, grad_img, grad_krn = gradients(MAX, plan, img, krn, grad_out)
    expected_img, expected_krn = scattered(MAX, plan, img, krn, grad_out.astype("f8"), residual)
    in_order, _ = scattered(MAX, plan, img, krn, grad_out, residual)
    assert np.array_equal(grad_img, in_order)
    np.testing.assert_allclose(grad_img, expected_img, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grad_krn, expected_krn, rtol=1e-4, atol=1e-5)


@given(cases.geometries())
def test_outputs_of_a_tile_send_their_gradients_in_memory_order(geometry):
    plan = Geometry.plan((17, *geometry.img[1:]), geometry.krn, **geometry.arguments)
    if 0 not in plan.out_shape:
        assert_added_in_order(plan)


@pytest.mark.parametrize(
    "geometry", ["many groups", "many groups, one kernel", "one pixel", "pooling"]
)
def test_outputs_of_many_planes_send_their_gradients_in_memory_order(geometry):
    img, krn, arguments = GEOMETRIES[geometry]
    assert_added_in_order(Geometry.plan(img, krn, **arguments))


@pytest.mark.table(4)
@pytest.mark.parametrize("name", ["max", "max of channels"])
@pytest.mark.parametrize("geometry", ["planes of 2 x 3, corr", *GEOMETRIES])
def test_cuda_kernels_send_gradients_to_the_image_in_memory_order(geometry, name):
    """Tiles, tiles with bins of channels, and the kernel for any geometry: the same bits."""
    img, krn, arguments = GEOMETRIES[geometry.removesuffix(", corr")]
    arguments = arguments | (dict(kind="corr") if geometry.endswith("corr") else {})
    plan, semifield = Geometry.plan((min(img[0], 2), *img[1:]), krn, **arguments), SEMIFIELDS[name]
    rng = np.random.default_rng(5)
    img, krn, grad_out = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in (plan.img_shape, plan.krn_shape, plan.out_shape)
    )
    residual, *_ = gradients(semifield, plan, img, krn, grad_out)
    expected, _ = scattered(semifield, plan, img, krn, grad_out, residual)
    for method in ("direct", "tiled"):
        grad_img = cases.harness().empty(img.shape, "f4")
        case = cuda.Case(semifield, plan, "float32")
        arrays = GradientArrays(grad_out, img, krn, residual, grad_img, None)
        cuda.backward(cases.harness(), case, arrays, method)
        np.testing.assert_array_equal(grad_img, expected, method)
