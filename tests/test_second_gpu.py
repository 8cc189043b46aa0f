"""Arrays of the second GPU, while the first is the current one: the CPU's results, on their GPU."""

import threading

import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy import ndimage

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cupy():
    cupy = pytest.importorskip("cupy")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no GPU: {error}")
    if count < 2:
        pytest.skip("there is one GPU at most")
    return cupy


@pytest.fixture
def second(cupy):
    """A function that copies an array to the second GPU."""

    def copied(array):
        with cupy.cuda.Device(1):
            return cupy.asarray(array)

    return copied


def image_of(dtype, shape=(70, 133)):
    values = np.random.default_rng(3).standard_normal(shape) * 60
    return (values > 0) if dtype == "bool" else (np.abs(values)).astype(dtype)


def assert_there(cupy, result, expected):
    assert result.device.id == 1
    assert cupy.cuda.runtime.getDevice() == 0
    np.testing.assert_array_equal(result.get(), expected)


def above(array, level):
    """A mask on the array's own GPU; CuPy compares on the current one."""
    if isinstance(array, np.ndarray):
        return array > level
    with array.device:
        return array > level


CALLS = {
    "maximum_filter": lambda a: ndimage.maximum_filter(a, 5),
    "grey_closing of a footprint": lambda a: ndimage.grey_closing(
        a, footprint=sc.structuring.disk(3), mode="ignore"
    ),
    "grey_dilation of a structure": lambda a: ndimage.grey_dilation(
        a, structure=np.arange(9.0).reshape(3, 3)
    ),
    "white_tophat": lambda a: ndimage.white_tophat(a, 5),
    "minimum_filter1d": lambda a: ndimage.minimum_filter1d(a, 9, axis=0),
    "correlate": lambda a: ndimage.correlate(a, np.arange(9.0).reshape(3, 3)),
    "binary_dilation": lambda a: ndimage.binary_dilation(above(a, 50), iterations=3),
    "binary_fill_holes": lambda a: ndimage.binary_fill_holes(above(a, 20)),
    "binary_propagation": lambda a: ndimage.binary_propagation(above(a, 150), mask=above(a, 20)),
    "distance_transform_edt": lambda a: ndimage.distance_transform_edt(above(a, 5)),
    "distance_transform_cdt": lambda a: ndimage.distance_transform_cdt(above(a, 5)),
    "parabolic_opening": lambda a: sc.parabolic_opening(a, 2.0),
    "rolling_ball": lambda a: sc.rolling_ball(a, 7),
    "h_maxima": lambda a: sc.h_maxima(a, 9),
    "reconstruction": lambda a: sc.reconstruction(ndimage.grey_erosion(a, 9), a),
}


@pytest.mark.parametrize("name", CALLS)
def test_filters(cupy, second, name):
    image = image_of("uint8")
    assert_there(cupy, CALLS[name](second(image)), CALLS[name](image))


def test_output_lies_there_too(cupy, second):
    image = image_of("float32")
    target = second(np.zeros_like(image))
    assert ndimage.minimum_filter(second(image), 3, output=target) is target
    assert_there(cupy, target, ndimage.minimum_filter(image, 3))


def test_arrays_of_two_gpus_are_refused(cupy, second):
    image = image_of("float32")
    with pytest.raises(TypeError, match="one GPU"):
        ndimage.minimum_filter(second(image), 3, output=cupy.zeros_like(image))
    with pytest.raises(TypeError, match="one GPU"):
        ndimage.binary_dilation(second(image), mask=cupy.asarray(image > 0))
    with pytest.raises(TypeError, match="one device"):
        sc.semifield_conv(second(image[None, None]), cupy.ones((1, 1, 3, 3), "f4"), "tropical_max")


@pytest.mark.parametrize("semifield", ["tropical_max", "log"])
def test_convolutions_products_and_gradients(cupy, second, semifield):
    semifield = sc.SubtractSemifield.log(2.0) if semifield == "log" else semifield
    rng = np.random.default_rng(0)
    img, krn = rng.random((2, 3, 20, 31), np.float32), rng.random((4, 3, 3, 3), np.float32)
    expected, pull = sc.semifield_conv_vjp(img, krn, semifield, padding=1)
    found, pull_there = sc.semifield_conv_vjp(second(img), second(krn), semifield, padding=1)
    pairs = [(found, expected), *zip(pull_there(found), pull(expected), strict=True)]
    a, b = rng.random((33, 40), np.float32), rng.random((40, 17), np.float32)
    pairs.append(
        (sc.semifield_matmul(second(a), second(b), semifield), sc.semifield_matmul(a, b, semifield))
    )
    for there, here in pairs:
        assert there.device.id == 1
        np.testing.assert_allclose(there.get(), here, rtol=1e-5, atol=1e-6)
    assert cupy.cuda.runtime.getDevice() == 0


def test_explain(second):
    image = second(image_of("float32", (512, 512)))
    assert "GPU" in str(sc.explain("maximum_filter", image, 9))


def test_two_threads_on_two_gpus(cupy):
    """Each on a stream of its own, many calls at once: caches are keyed by GPU and stream."""
    images = [image_of("float32", (200 + 9 * i, 300)) for i in range(2)]
    expected = [ndimage.grey_opening(image, 7) for image in images]
    faults = []

    def work(gpu):
        with cupy.cuda.Device(gpu), cupy.cuda.Stream(non_blocking=True) as stream:
            image = cupy.asarray(images[gpu])
            for _ in range(50):
                result = ndimage.grey_opening(image, 7)
                parabola = sc.parabolic_dilation(image, 3.0)
            stream.synchronize()
            if not (result.get() == expected[gpu]).all() or parabola.device.id != gpu:
                faults.append(gpu)

    threads = [threading.Thread(target=work, args=(gpu,)) for gpu in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
