"""The CUDA sources on the CPU harness, NVRTC, and the array loops: each the same as the host's."""

import numpy as np
import pytest
from cuda_on_cpu.device import HarnessDevice

from semiconv_cupy import ndimage
from semiconv_cupy.ndimage import cuda, neighbourhood, reference

DTYPES = ("bool", "uint8", "int16", "int64", "uint64", "float16", "float32", "float64")


def image_of(dtype, shape=(13, 17)):
    random = np.random.default_rng(7)
    if dtype == "bool":
        return random.random(shape) < 0.4
    if dtype.startswith("float"):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 120, shape).astype(dtype)


def calls(dtype):
    """Public calls that between them reach every primitive; name -> a function of the image."""
    random = np.random.default_rng(8)
    footprint = random.random((3, 5)) < 0.6
    footprint[1, 2] = True
    structure = random.integers(-9, 9, (3, 4))
    found = {
        "box": lambda a: ndimage.maximum_filter(a, (4, 7), mode="mirror", origin=(1, -2)),
        "constant": lambda a: ndimage.minimum_filter(a, 3, mode="constant", cval=1),
        "long": lambda a: ndimage.maximum_filter1d(a, 40, mode="wrap"),
        "footprint": lambda a: ndimage.grey_erosion(a, footprint=footprint, mode="constant"),
        "opening": lambda a: ndimage.grey_opening(a, footprint=footprint, mode="nearest"),
    }
    if dtype == "bool":
        more = {
            "iterated": lambda a: ndimage.binary_dilation(a, iterations=3, mask=~a[::-1]),
            "holes": ndimage.binary_fill_holes,
            "propagation": lambda a: ndimage.binary_propagation(a & a[::-1], mask=a),
            "erosion": lambda a: ndimage.binary_erosion(a, iterations=-1, border_value=1),
        }
        return found | more
    more = {
        "structure": lambda a: ndimage.grey_dilation(a, structure=structure, mode="reflect"),
        "fractions": lambda a: ndimage.grey_erosion(
            a, structure=structure + 0.3, mode="constant", cval=3
        ),
        "correlate": lambda a: ndimage.correlate(a, structure * 0.7, output=np.float64),
        "symmetric": lambda a: ndimage.correlate1d(a, [0.3, 2, 0.3], 0, mode="wrap"),
        "antisymmetric": lambda a: ndimage.convolve1d(a, [0.3, 0, -0.3], output=np.int16),
    }
    return found | more


@pytest.mark.parametrize("dtype", DTYPES)
def test_array_loops_agree_with_the_host(dtype, monkeypatch):
    image = image_of(dtype)
    expected = {name: call(image) for name, call in calls(dtype).items()}
    monkeypatch.setattr(neighbourhood, "backend", lambda xp, ndim: reference)
    for name, call in calls(dtype).items():
        np.testing.assert_array_equal(call(image), expected[name], err_msg=f"{name} of {dtype}")


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint64", "float16", "float32"])
def test_cuda_kernels_agree_with_the_host(dtype, order, monkeypatch):
    image = image_of(dtype)
    expected = {name: call(image) for name, call in calls(dtype).items()}
    monkeypatch.setattr(cuda, "_kernels", {})
    device = HarnessDevice(order=order)
    monkeypatch.setattr(neighbourhood, "backend", lambda xp, ndim: cuda.Backend(device))
    for name, call in calls(dtype).items():
        result = call(image)
        assert result.dtype == expected[name].dtype
        np.testing.assert_array_equal(result, expected[name], err_msg=f"{name} of {dtype}")


@pytest.mark.parametrize("shape", [(5,), (300,), (3, 4, 5), (2, 3, 2, 70)])
def test_cuda_boxes_of_any_rank(shape, monkeypatch):
    image = image_of("float32", shape)
    size = tuple(range(2, 2 + len(shape)))
    expected = ndimage.grey_closing(image, size, mode="reflect")
    device = HarnessDevice()
    monkeypatch.setattr(neighbourhood, "backend", lambda xp, ndim: cuda.Backend(device))
    np.testing.assert_array_equal(ndimage.grey_closing(image, size, mode="reflect"), expected)


@pytest.mark.parametrize("minimum", [False, True])
@pytest.mark.parametrize("dtype", ["bool", "int16", "float32"])
@pytest.mark.parametrize("shape", [(150,), (37, 75), (4, 3, 34, 5)])
def test_cuda_reconstruction_goes_through_tiles(shape, dtype, minimum):
    """Over their edges, against what one step after another gives; NaN spreads nowhere."""
    random = np.random.default_rng(9)
    mask = image_of(dtype, shape)
    seed = np.where(random.random(shape) < 0.02, mask, mask.max() if minimum else mask.min())
    if dtype == "float32":
        seed[random.random(shape) < 0.1] = np.nan
    steps = random.integers(-1, 2, (6, len(shape)))
    steps[0] = [0] * (len(shape) - 1) + [2]
    steps = np.unique(steps[steps.any(axis=1)], axis=0)
    given = (seed, mask, steps, minimum)
    result = cuda.Backend(HarnessDevice()).reconstruct(*given)
    np.testing.assert_array_equal(result, reference.reconstruct(*given))


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32"])
def test_cuda_structures_are_tiled(dtype, mode, monkeypatch):
    """As convolutions of a copy with borders, three axes, windows wider than the image."""
    image = image_of(dtype, (3, 40, 70))
    functions = ndimage.grey_dilation, ndimage.grey_erosion
    structure = image_of(dtype, (2, 11, 3))
    if image.dtype.kind == "f":
        structure[0, 3] = -np.inf
    given = dict(structure=structure, mode=mode, cval=3)
    expected = [function(image, **given) for function in functions]
    backend = cuda.Backend(HarnessDevice())
    monkeypatch.setattr(neighbourhood, "backend", lambda xp, ndim: backend)
    monkeypatch.setattr(backend, "_reduce", None)  # what serves one tap after the other
    for function, right in zip(functions, expected, strict=True):
        np.testing.assert_array_equal(function(image, **given), right)


@pytest.mark.parametrize("architecture", ["sm_90"])
@pytest.mark.parametrize("kernel", list(cuda.shipping_variants()), ids=lambda kernel: kernel.name)
def test_nvrtc_compiles_without_spills(kernel, architecture):
    nvrtc = pytest.importorskip("kernels_cu.nvrtc")
    try:
        compiler = nvrtc.load()
    except nvrtc.LibraryNotFoundError as error:
        pytest.skip(str(error))
    compiled = compiler.compile(kernel.text, architecture, kernel.options)
    assert not compiled.kernels[kernel.name].spills
