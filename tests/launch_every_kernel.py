"""Every CUDA kernel on small arrays that are no multiples of anything, for compute-sanitizer.

    compute-sanitizer --tool memcheck python tests/launch_every_kernel.py
    compute-sanitizer --tool racecheck python tests/launch_every_kernel.py [PROCESS PROCESSES]

On a GPU, through CuPy; it computes, and compares nothing (the tests do). Most of its time goes into
compiling, so that several processes (PROCESS of 0, 1, ...) take less. A test in
test_cuda_backward.py runs it on the CPU.
"""

import math
import sys
from collections.abc import Iterator
from functools import partial

import numpy as np

import semiconv_cupy as sc
from semiconv_cupy import SelectSemifield, SubtractSemifield, run
from semiconv_cupy.backends import by_sums, cuda
from semiconv_cupy.backends.cuda import by_sums as cuda_by_sums
from semiconv_cupy.backends.device import cupy_device
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.operands import Operands
from semiconv_cupy.product_route import choose_product
from semiconv_cupy.residual import residual_of
from semiconv_cupy.route import choose
from semiconv_cupy.strides import contiguous_strides

SEMIFIELDS = [
    (SelectSemifield.tropical_max(), ("float32", "float16", "float64")),
    (SelectSemifield.tropical_max(spread_gradient=True), ("float32",)),
    (SelectSemifield.tropical_max(channels_add=True), ("float32",)),
    (SubtractSemifield.log(2.0), ("float32", "float64")),
    (SubtractSemifield.root(3.0), ("float32",)),
    (SubtractSemifield.linear(), ("float32",)),
]
GEOMETRIES = [
    ((1, 2, 37, 270), (2, 1, 3, 3), dict(padding="same", groups=2)),
    ((3, 7, 20, 9), (7, 1, 3, 2), dict(padding=((2, 0), (0, 3)), groups=7)),
    ((2, 5, 18, 70), (9, 5, 3, 3), dict(padding="same")),
    ((1, 1, 40, 133), (1, 1, 11, 11), dict(padding="same", kind="corr")),
    ((1, 1, 70, 90), (1, 1, 41, 45), dict(padding="same")),
    ((1, 3, 33, 64), (3, 1, 5, 5), dict(padding=2, groups=3, stride=2)),
    ((2, 2, 301), (4, 2, 7), dict(padding=3, stride=2)),
    ((1, 1, 1500), (1, 1, 150), dict(padding="same")),
    ((1, 2, 7, 9, 36), (2, 2, 3, 3, 3), dict(padding=1, dilation=(1, 2, 1))),
]

# Also tiles that are mostly empty, and blocks that add up their tiles in several parts.
LIMITS = cuda.Limits(filled=0.0, terms=32, busy_blocks=2)


# Slabs of a few rows, of which each block computes one.
PARTS = cuda.Limits(filled=0.0, shared_bytes=12000, part_slabs=1)


def parts(semifields=SEMIFIELDS) -> Iterator[partial]:
    """Forward passes by parts of the taps; each is a function of the device."""
    for semifield, storages in semifields:
        for storage in storages:
            yield partial(_parts, semifield=semifield, storage=storage)


def _parts(device, semifield, storage):
    plan = Geometry.plan((1, 1, 37, 70), (1, 1, 37, 71), padding="same")
    xp, spec = device.array_module, residual_of(semifield, storage, plan)
    img, krn = (xp.ones(shape, storage) for shape in (plan.img_shape, plan.krn_shape))
    out = device.empty(plan.out_shape, storage)
    residual = spec and device.empty(spec.shape, spec.dtype)
    for kept in (None, residual):
        cuda.forward(
            device, cuda.Case(semifield, plan, storage), img, krn, out, kept, "auto", PARTS
        )


def convolutions(semifields=SEMIFIELDS, geometries=GEOMETRIES) -> Iterator[partial]:
    """Forward and backward passes, by the direct kernels and by tiles wherever there are some.

    Each is a function of the device.
    """
    for shapes in geometries:
        for semifield, storages in semifields:
            for storage in storages:
                yield partial(_convolution, semifield=semifield, storage=storage, shapes=shapes)


def _convolution(device, semifield, storage, shapes):
    img_shape, krn_shape, arguments = shapes
    plan = Geometry.plan(img_shape, krn_shape, **arguments)
    xp, rng = device.array_module, np.random.default_rng(0)
    img, krn = (
        xp.asarray((rng.random(shape) + 0.1).astype(storage)) for shape in (img_shape, krn_shape)
    )
    case = cuda.Case(semifield, plan, storage)
    for method in ("direct", "auto"):
        _passes(device, img, krn, case, method)
    if semifield.accumulator == "sum":  # looks at every term where it meets an infinity
        beyond = img.copy()
        beyond[..., 1] = np.inf
        _passes(device, beyond, krn, case, "auto")
    if by_sums.applies(semifield):
        out = device.empty(plan.out_shape, storage)
        cuda_by_sums.forward(device, case, img, krn, out, LIMITS)
        real = np.promote_types(storage, np.float32)
        grads = [device.empty(shape, real) for shape in (img_shape, krn_shape)]
        arrays = GradientArrays(out, img, krn, None, *grads)
        cuda_by_sums.backward(device, case, arrays, "auto", LIMITS)


def _passes(device, img, krn, case, method):
    spec = residual_of(case.semifield, case.storage, case.geometry)
    residual = spec and device.empty(spec.shape, spec.dtype)
    out = device.empty(case.geometry.out_shape, case.storage)
    for kept in (None, residual):
        cuda.forward(device, case, img, krn, out, kept, method, LIMITS)
    real = np.promote_types(case.storage, np.float32)
    grads = device.empty(img.shape, real), device.empty(krn.shape, real)
    for some in (grads, (grads[0], None), (None, grads[1])):
        arrays = GradientArrays(out, img, krn, residual, *some)
        cuda.backward(device, case, arrays, method, LIMITS)


def products() -> Iterator[partial]:
    """Matrix products and their gradients, with many outputs and with few."""
    for shapes in (((2, 70, 37), (37, 141)), ((3, 600), (600, 5)), ((9, 130, 3), (9, 3, 4))):
        for semifield, storages in SEMIFIELDS:
            for storage in storages:
                yield partial(_product, semifield=semifield, storage=storage, shapes=shapes)


def _product(device, semifield, storage, shapes):
    xp, rng = device.array_module, np.random.default_rng(0)
    place = Place("CuPy" if xp is not np else "NumPy", gpu=0, device=device)
    a, b = (xp.asarray((rng.random(shape) + 0.1).astype(storage)) for shape in shapes)
    operands = Operands.of(a.shape, b.shape)
    shape, real = operands.out_shape, np.promote_types(storage, np.float32)
    out, grads = device.empty(shape, storage), [device.empty(x.shape, real) for x in (a, b)]
    strides = map(contiguous_strides, (a.shape, b.shape, shape))
    product = operands.product(*strides).merged()
    route = choose_product(semifield, product, storage, place)
    spec = route.residual_spec(shape)
    residual = spec and device.empty(spec.shape, spec.dtype)
    run.product(route, a, b, out)
    run.product(route, a, b, out, residual)
    if by_sums.applies(semifield):
        multiplication = cuda.Multiplication(semifield, product, storage, None)
        cuda.multiply_by_sums(device, multiplication, a, b, out)
    run.product_backward(route, product, GradientArrays(out, a, b, residual, *grads))


def own_parameters() -> Iterator[partial]:
    """Convolutions of semifields with parameters of their own; each is a function of the device."""
    for shapes in GEOMETRIES:
        for add in (lambda left, right: left + right, math.hypot, _scaled_norm):
            for channels in (1, shapes[1][0]):
                for method in ("direct", "auto"):
                    yield partial(_own, add=add, shapes=shapes, channels=channels, method=method)


def _scaled_norm(left, right, a):
    return a * ((left / a) ** 2 + (right / a) ** 2) ** 0.5


def _own(device, add, shapes, channels, method):
    semifield = SubtractSemifield(
        add, lambda img, krn, a, b: a * img * krn + b, zero=0.0, parameters={"a": 1.0, "b": 2.0}
    ).unbound
    img_shape, krn_shape, arguments = shapes
    geometry, xp = Geometry.plan(img_shape, krn_shape, **arguments), device.array_module
    place = Place("CuPy" if xp is not np else "NumPy", gpu=0, device=device)
    slopes = add is _scaled_norm
    route = choose(semifield, geometry, "float32", place, method, channels=channels, slopes=slopes)
    img, krn = (xp.ones(shape, "float32") for shape in (img_shape, krn_shape))
    value = (1.5, 0.5 if channels == 1 else xp.ones(channels, "float32"))
    spec, out = route.residual_spec, device.empty(geometry.out_shape, "float32")
    residual = spec and device.empty(spec.shape, spec.dtype)
    for kept in (None, residual):
        run.forward(route, img, krn, out, kept, value=value)
    grads = (device.empty(shape, "float32") for shape in (img_shape, krn_shape))
    run.backward(route, GradientArrays(out, img, krn, residual, *grads), value=value)


def integers() -> Iterator[partial]:
    """Forward passes of dtypes that have no gradient; each is a function of the device."""
    rng = np.random.default_rng(0)
    for dtype in ("uint8", "int16", "int32", "uint64", "bool"):
        for *shapes, arguments in GEOMETRIES:
            img, krn = (rng.integers(0, 2, shape).astype(dtype) for shape in shapes)
            yield partial(_integers, img=img, krn=krn, arguments=arguments)


def _integers(device, img, krn, arguments):
    plan = Geometry.plan(img.shape, krn.shape, **arguments)
    case = cuda.Case(SelectSemifield.tropical_max(), plan, img.dtype.name)
    img, krn = (device.array_module.asarray(array) for array in (img, krn))
    out = device.empty(plan.out_shape, img.dtype)
    cuda.forward(device, case, img, krn, out, None, "auto", LIMITS)


def filters(cupy) -> Iterator[partial]:
    """The functions that have SciPy's names."""
    for dtype in ("uint8", "int32", "float16", "float32", "float64"):
        for shape in ((61, 83), (5, 40, 33), (1000,)):
            yield partial(_filters, cupy, shape, dtype)
        yield partial(_colours, cupy, dtype)


def _filters(cupy, shape, dtype):
    rng, nd = np.random.default_rng(0), sc.ndimage
    x = cupy.asarray(rng.integers(0, 100, shape).astype(dtype))
    for size in (2, 5, 30):
        nd.maximum_filter(x, size)
        nd.minimum_filter(x, size, mode="constant", cval=7)
    nd.maximum_filter(x, footprint=sc.structuring.ball(4, len(shape)))
    nd.grey_erosion(x, structure=rng.integers(0, 9, (3,) * len(shape)))
    if dtype in ("float32", "float64"):
        nd.convolve(x, rng.random((3,) * len(shape)))
    nd.binary_dilation(x > 50, iterations=3)
    nd.binary_fill_holes(x > 50)


def _colours(cupy, dtype):
    rng, nd = np.random.default_rng(0), sc.ndimage
    x = cupy.asarray(rng.integers(0, 100, (61, 83, 3)).astype(dtype))
    for size in (2, 5, 30):
        nd.maximum_filter(x, (size, size, 1))
        nd.minimum_filter1d(x, size, axis=1, mode="constant", cval=7)
    nd.maximum_filter(x, footprint=sc.structuring.disk(4)[..., None])
    nd.grey_erosion(x, structure=rng.integers(0, 9, (3, 3, 1)))
    nd.binary_dilation(x > 50, np.ones((3, 3, 1)), iterations=3)


def main(process: int, processes: int) -> None:
    """Run every `processes`-th case."""
    import cupy

    made = (*convolutions(), *parts(), *own_parameters(), *integers(), *products())
    of_device = (partial(case, cupy_device()) for case in made)
    cases = [*of_device, *filters(cupy)][process::processes]
    for case in cases:
        case()
    cupy.cuda.Device().synchronize()
    print(f"all kernels of {len(cases)} cases were launched")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ("0", "1")))
