"""Launches by the driver's function (`backends.device.prepared`), with stand-ins for CuPy."""

import ctypes
import types

import cases
import numpy as np
import pytest
from compare import assert_matches
from driver_on_cpu import CUDADriverError, DriverOnCpu, install

import semiconv_cupy as sc
from semiconv_cupy import structs
from semiconv_cupy.backends import cuda
from semiconv_cupy.backends.cuda.product import Multiplication, multiply_at
from semiconv_cupy.backends.device import CupyDevice, prepared
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.ndimage import reference
from semiconv_cupy.ndimage.addends import addends_of
from semiconv_cupy.ndimage.cuda import Backend
from semiconv_cupy.ndimage.window import WeightedTaps, Window
from semiconv_cupy.product import Level, Product
from semiconv_cupy.residual import residual_of


def test_the_driver_reads_the_arguments_of_a_prepared_launch(monkeypatch):
    """CuPy and the driver are stand-ins, which read arguments as the driver does."""
    seen = []

    class RawKernel:
        kernel = types.SimpleNamespace(ptr=77)

        def __init__(self, *_):
            pass

        def __call__(self, grid, block, args, *, shared_mem, stream):
            seen.append(("RawKernel", grid, block, args, shared_mem, stream.ptr))

    def launch(function, *sizes):
        *sizes, stream, table, extra = sizes
        if stream == 13:
            raise CUDADriverError("CUDA_ERROR_INVALID_CONTEXT")
        first, *pointers, last = (ctypes.c_void_p * 4).from_address(table)
        struct = bytes((ctypes.c_char * 24).from_address(first))
        addresses = [ctypes.c_uint64.from_address(at).value for at in pointers]
        count = ctypes.c_int64.from_address(last).value
        seen.append((function, *sizes, stream, extra, struct, addresses, count))

    stream, without_context = (types.SimpleNamespace(ptr=n) for n in (5, 13))
    install(monkeypatch, RawKernel, launch)
    device = CupyDevice()
    struct = np.zeros(3, "i8").view("V24")[0]
    array = types.SimpleNamespace(data=types.SimpleNamespace(ptr=2**63 + 1))
    constants = (4, 2), (256,), (struct,), 2, (np.int64(-9),)
    call = prepared(device.compile("text", "name", ()), *constants, 48)
    call((array, 3), stream)
    call((4, 0))
    call((4, 0), without_context)
    size = (4, 2, 1, 256, 1, 1, 48)
    assert seen == [
        (77, *size, 5, 0, bytes(24), [2**63 + 1, 3], -9),
        (77, *size, 6, 0, bytes(24), [4, 0], -9),
        ("RawKernel", (4, 2), (256,), (struct, 4, 0, -9), 48, 13),
    ]


@pytest.mark.parametrize("method", ["tiled", "direct"])
@pytest.mark.parametrize("name", ["tropical_max", "log(2)"])
def test_launches_by_the_driver_compute_the_same(monkeypatch, name, method):
    """All arguments arrive: structs, scalars, addresses that stay, and those of arrays."""
    driver_on_cpu = DriverOnCpu(monkeypatch)
    plain, geometry, case = cases.harness(), cases.GEOMETRIES["same"], cases.SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, "float32")
    plan = geometry.plan()
    spec = residual_of(case.semifield, "float32", plan)
    residual = plain.empty(spec.shape, spec.dtype)
    out = plain.empty(plan.out_shape, "f4")
    computed = cuda.Case(case.semifield, plan, "float32")
    strides = [tuple(step // 4 for step in array.strides) for array in (img, krn)]
    call = cuda.forward_at(driver_on_cpu, computed, *strides, spec, method)
    call(*(array.ctypes.data for array in (img, krn, out, residual)), None)
    assert_matches(out, cases.expected_of(name, geometry, "float32"), dtype="float32")

    grad_out = np.ones_like(out)
    found, expected = ([plain.empty(a.shape, "f4") for a in (img, krn)] for _ in range(2))
    cuda.backward(plain, computed, GradientArrays(grad_out, img, krn, residual, *expected), method)
    convolution = cuda.Convolution.of(computed, spec.dtype, *strides)
    arrays = GradientArrays(grad_out, img, krn, residual, *found).each(lambda a: a.ctypes.data)
    for one in cuda.gradient_launches(driver_on_cpu, convolution, (True, True), method):
        one(driver_on_cpu, arrays)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_products_are_launched_by_the_driver(monkeypatch):
    """Without parameters and with those of a call; addresses that are multiples of 16, and not."""
    device, plain = DriverOnCpu(monkeypatch), cases.harness()
    a, b, memory = plain.empty((8, 8), "f4"), plain.empty((8, 8), "f4"), plain.empty(65, "f4")
    a[:], b[:] = np.random.default_rng(0).random((2, 8, 8))
    product = Product(
        free=(Level(8, img=8, out=8),),
        produced=(Level(8, krn=1, out=1),),
        contracted=(Level(8, img=1, krn=8),),
    )
    multiplication = Multiplication(sc.SubtractSemifield.log(2.0), product, "float32", None)
    call = multiply_at(device, multiplication)
    for out in (memory[:64].reshape(8, 8), memory[1:].reshape(8, 8)):
        addresses = a.ctypes.data, b.ctypes.data, out.ctypes.data
        for mu in (2.0, None, -3.0, -3.0, 0.5):
            given = None if mu is None else structs.Parameters.of_numbers((mu,))
            call(*addresses, None, None, given)
            expected = sc.semifield_matmul(a, b, "log", mu=mu or 2.0, method="reference")
            np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_filters_are_launched_by_the_driver(monkeypatch, dtype):
    """By strips, tiles and lists of taps; of addresses that are multiples of 16, and not."""
    device = DriverOnCpu(monkeypatch)
    backend, there, outside = Backend(device), device.array_module.asarray, np.array(7, dtype)
    memory = np.random.default_rng(0).integers(0, 99, 24 * 32 + 4).astype(dtype)
    small = Window((3, 3), (1, 1), ("constant", "reflect"), 7)
    large, holed = small._replace(shape=(7, 9)), small._replace(taps=np.eye(3, dtype=bool))
    whole = small._replace(taps=np.ones((3, 3), bool), values=np.arange(9))
    taps = WeightedTaps(small.indices(), np.arange(9.0))
    few = WeightedTaps(small.indices()[:2], np.array([0.5, 2]))
    for begin in (0, 1):
        image = memory[begin : begin + 24 * 32].reshape(24, 32)
        for name, *given in (
            ("box", small, outside, True), ("box", large, outside, False),
            ("footprint", holed, outside, True),
            ("structure", whole, addends_of(image.dtype, whole.values, 7, False), False),
        ):  # fmt: skip
            for _ in range(2):
                found = getattr(backend, name)(there(image), *given).kept
                np.testing.assert_array_equal(found, getattr(reference, name)(image, *given))
        for given in (taps, few):
            found, expected = np.empty((24, 32)), np.empty((24, 32))
            backend.correlate(there(image), small, given, there(found))
            reference.correlate(image, small, given, expected)
            np.testing.assert_array_equal(found, expected)
