"""Every CUDA kernel on small arrays that are no multiples of anything, for compute-sanitizer.

    compute-sanitizer --tool memcheck python tests/launch_every_kernel.py
    compute-sanitizer --tool racecheck python tests/launch_every_kernel.py [PROCESS PROCESSES]

On a GPU, through CuPy; it computes, and compares nothing (the tests do). Most of its time goes into
compiling, so that several processes (PROCESS of 0, 1, ...) take less. Tests in
test_cuda_backward.py run it on the CPU, and fail for a file of kernels that it leaves out.
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
from semiconv_cupy.backends.means import Means
from semiconv_cupy.backends.means import on_gpu as means_on_gpu
from semiconv_cupy.backends.place import Place
from semiconv_cupy.backends.quadratic import Family, on_gpu
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.methods import Limits
from semiconv_cupy.ndimage import cuda as neighbourhoods
from semiconv_cupy.ndimage.lines import Pullback
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
    xp, rng, place = device.array_module, np.random.default_rng(0), _place(device)
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
            semifield = SubtractSemifield(
                add, lambda img, krn, a, b: a * img * krn + b, zero=0.0,
                parameters={"a": 1.0, "b": 2.0},
            ).unbound  # fmt: skip
            for channels in (1, shapes[1][0]):
                for method in ("direct", "auto"):
                    yield partial(
                        _with_values, semifield=semifield, shapes=shapes, values=(1.5, 0.5),
                        channels=channels, method=method, slopes=add is _scaled_norm,
                    )  # fmt: skip


def _scaled_norm(left, right, a):
    return a * ((left / a) ** 2 + (right / a) ** 2) ** 0.5


def parameters() -> Iterator[partial]:
    """log and root of values that are arrays, or learned; each is a function of the device."""
    for family in map(SubtractSemifield.named_family, ("log", "root")):
        for shapes in GEOMETRIES[:3]:
            for channels, slopes in ((1, True), (shapes[1][0], False), (shapes[1][0], True)):
                for method in ("direct", "auto"):
                    yield partial(
                        _with_values, semifield=family, shapes=shapes, values=1.5,
                        channels=channels, method=method, slopes=slopes,
                    )  # fmt: skip
        for channels in (1, 5):
            yield partial(_product_of_values, semifield=family, channels=channels)


def _place(device):
    library = "NumPy" if device.array_module is np else "CuPy"
    return Place(library, gpu=0, device=device)


def _with_values(device, semifield, shapes, values, channels, method, slopes):
    img_shape, krn_shape, arguments = shapes
    geometry, xp = Geometry.plan(img_shape, krn_shape, **arguments), device.array_module
    route = choose(
        semifield, geometry, "float32", _place(device), method, channels=channels, slopes=slopes
    )
    img, krn = (xp.ones(shape, "float32") for shape in (img_shape, krn_shape))
    value = values
    if channels > 1:
        value = xp.full(channels, 0.5, "float32")
        value = (values[0], value) if isinstance(values, tuple) else value
    spec, out = route.residual_spec, device.empty(geometry.out_shape, "float32")
    residual = spec and device.empty(spec.shape, spec.dtype)
    for kept in (None, residual):
        run.forward(route, img, krn, out, kept, value=value)
    grads = (device.empty(shape, "float32") for shape in (img_shape, krn_shape))
    run.backward(route, GradientArrays(out, img, krn, residual, *grads), value=value)


def _product_of_values(device, semifield, channels):
    xp, operands = device.array_module, Operands.of((70, 37), (37, channels))
    a, b = xp.ones((70, 37), "float32"), xp.ones((37, channels), "float32")
    shapes = a.shape, b.shape, operands.out_shape
    product = operands.product(*map(contiguous_strides, shapes)).merged()
    route = choose_product(
        semifield, product, "float32", _place(device), channels=channels, slopes=True
    )
    out, grads = device.empty(operands.out_shape, "float32"), (xp.empty_like(a), xp.empty_like(b))
    spec = route.residual_spec(operands.out_shape)
    residual = spec and device.empty(spec.shape, spec.dtype)
    value = 1.5 if channels == 1 else xp.full(channels, 1.5, "float32")
    run.product(route, a, b, out, residual, value=value)
    arrays = GradientArrays(out, a, b, residual, *grads)
    run.product_backward(route, product, arrays, value=value)


def orders() -> Iterator[partial]:
    """Images in another order than C, copied before they are convolved."""
    for dtype in ("uint8", "float16", "float32", "float64"):
        for axes in ((3, 2, 1, 0), (0, 2, 3, 1), (2, 3, 0, 1)):
            yield partial(_order, dtype=dtype, axes=axes)


def _order(device, dtype, axes):
    plan = Geometry.plan((37, 9, 12, 35), (9, 1, 3, 3), groups=9)
    xp, limits = device.array_module, Limits(copied=0)
    img = xp.empty([plan.img_shape[axis] for axis in axes], dtype).transpose(np.argsort(axes))
    img[...] = 1
    route = choose(SelectSemifield.tropical_max(), plan, dtype, _place(device), "auto", limits)
    run.forward(route, img, xp.ones(plan.krn_shape, dtype), device.empty(plan.out_shape, dtype))


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
        yield partial(_small_boxes, cupy, dtype)
        yield partial(_sums, cupy, dtype)


def _filters(cupy, shape, dtype):
    rng, nd = np.random.default_rng(0), sc.ndimage
    x = cupy.asarray(rng.integers(0, 100, shape).astype(dtype))
    for size in (2, 5, 30):
        nd.maximum_filter(x, size)
        nd.minimum_filter(x, size, mode="constant", cval=7)
    nd.maximum_filter(x, footprint=sc.structuring.ball(4, len(shape)))
    nd.grey_erosion(x, structure=rng.integers(0, 9, (3,) * len(shape)))
    nd.binary_dilation(x > 50, iterations=3)
    nd.binary_fill_holes(x > 50)


def _small_boxes(cupy, dtype):
    for width in (96, 98, 100):
        x = cupy.asarray(np.random.default_rng(0).integers(0, 100, (61, width)).astype(dtype))
        for size in (3, 2, (1, 3), (3, 1)):
            sc.ndimage.maximum_filter(x, size)
            sc.ndimage.minimum_filter(x, size, mode="constant", cval=7)


def _sums(cupy, dtype):
    """By strips (of four rows, where images are large) and tiles; weights here and on the GPU."""
    rng, nd = np.random.default_rng(0), sc.ndimage
    for shape in ((3, 61, 83), (1, 300, 1001), (2, 30, 40, 3)):
        x = cupy.asarray(rng.integers(0, 100, shape).astype(dtype))
        for size in ((1, 3, 3), (3, 5, 5), (2, 11, 8)):
            weights = rng.random(size + (1,) * (len(shape) - 3))
            nd.correlate(x, weights, mode="constant", cval=7)
            nd.convolve(x, cupy.asarray(weights))
        for axis in (1, 2):
            for line in ([1, 2, 4], [1, 2, 4, 2, 1], [1, 0, -1], rng.random(9), rng.random(30)):
                nd.convolve1d(x, line, axis)


def _colours(cupy, dtype):
    rng, nd = np.random.default_rng(0), sc.ndimage
    x = cupy.asarray(rng.integers(0, 100, (61, 83, 3)).astype(dtype))
    for size in (2, 5, 30):
        nd.maximum_filter(x, (size, size, 1))
        nd.minimum_filter1d(x, size, axis=1, mode="constant", cval=7)
    nd.maximum_filter(x, footprint=sc.structuring.disk(4)[..., None])
    nd.grey_erosion(x, structure=rng.integers(0, 9, (3, 3, 1)))
    nd.binary_dilation(x > 50, np.ones((3, 3, 1)), iterations=3)


def lines(cupy, of_indices=(False, True)) -> Iterator[partial]:
    """Distances and parabolas without end: lines that fit into shared memory, and longer ones."""
    for shape in ((61, 83), (5, 40, 33), (3, 4000), (7000,)):
        for indices in of_indices:
            yield partial(_distances, cupy, shape, indices)
        for dtype in ("uint8", "int64", "float16", "float32", "float64"):
            yield partial(_parabolas, cupy, shape, dtype)


def _distances(cupy, shape, indices):
    x = cupy.asarray(np.random.default_rng(0).random(shape) < 0.9)
    for sampling in (None, 2.0, 0.7):
        sc.ndimage.distance_transform_edt(x, sampling, return_indices=indices)
    for metric in ("chessboard", "taxicab"):
        sc.ndimage.distance_transform_cdt(x, metric, return_indices=indices)


def _parabolas(cupy, shape, dtype):
    x = cupy.asarray(np.random.default_rng(0).integers(0, 100, shape).astype(dtype))
    sc.parabolic_dilation(x, 2.5)
    sc.parabolic_opening(x, 9.0)


def whole_images(cupy) -> Iterator[partial]:
    """What spreads through an image, and borders that take no part."""
    for dtype in ("uint8", "float32", "float64"):
        yield partial(_spreading, cupy, dtype)
        yield partial(_ignoring, cupy, dtype)


def forms(cupy) -> Iterator[partial]:
    """Works that are computed as another one that is equal."""
    for shapes in (
        ((1, 1, 61, 83, 3), (1, 1, 3, 3, 1)),  # colours
        ((64, 1, 40), (1, 1, 1)),
        ((70, 33, 1), (9, 33, 1)),  # a matrix product
        ((1, 1, 3, 2000), (1, 1, 3, 5)),
    ):
        for semifield, _ in SEMIFIELDS:
            yield partial(_of_any_form, cupy, semifield, shapes)


def _spreading(cupy, dtype):
    x = cupy.asarray(np.random.default_rng(0).integers(0, 100, (61, 83)).astype(dtype))
    sc.reconstruction(x // 2, x)
    sc.h_maxima(x, 9)
    sc.opening_by_reconstruction(x, size=5)
    sc.ndimage.binary_propagation(x > 70, mask=x > 40)


def _ignoring(cupy, dtype):
    rng, nd = np.random.default_rng(0), sc.ndimage
    x = cupy.asarray(rng.integers(0, 100, (61, 83)).astype(dtype))
    nd.grey_opening(x, (4, 7), mode="ignore")
    nd.grey_closing(x, footprint=rng.random((5, 6)) < 0.6, mode="ignore")
    nd.grey_dilation(x, structure=rng.integers(-9, 9, (4, 5)), mode="ignore")
    for weights in ([0.3, 2, 0.3], [0.3, 0, -0.3], [1, 2, 3, 4]):
        for axis in (0, 1):
            nd.correlate1d(x, weights, axis)


def _of_any_form(cupy, semifield, shapes):
    img, krn = (cupy.ones(shape, "float32") for shape in shapes)
    out, pull_back = sc.semifield_conv_vjp(img, krn, semifield)
    pull_back(out)


def gradients_of_tensors() -> Iterator[partial]:
    """Kernels that PyTorch's layers alone call; each is a function of the device."""
    for covariance in ("isotropic", "spectral", "cholesky"):
        yield partial(_quadratic, covariance=covariance)
    yield _pull_back
    for powers, size in ((True, 3), (False, 7)):
        yield partial(_means, powers=powers, size=size)


def _quadratic(device, covariance):
    calls = on_gpu(Family(covariance, "float32", (5, 7), 9), device)
    numbers = [device.array_module.full(n, 0.3, "float32") for n in (18, 9, 315, 18, 9)]
    log_std, pairs, krn, *grads = map(device.address, numbers)
    calls.values(log_std, pairs, krn, None)
    calls.gradients(log_std, pairs, krn, *grads, None)


def _means(device, powers, size):
    axes = (20, 21), (20, 21), (size, size), (1, 1), (1, 1), (size // 2, size // 2)
    calls = means_on_gpu(Means(powers, "float32", 1e-6, 6, 3, 3, *axes), device)
    numbers = [device.array_module.full(n, 0.3, "float32") for n in (2520, 3, 2520, 7560, 2520)]
    img, rate, out, residual, grad_img = map(device.address, numbers)
    calls.values(img, rate, out, residual, None)
    calls.gradients(out, img, rate, residual, grad_img, None)
    sums = device.array_module.zeros(3 * calls.parts, "float64")
    calls.rates(out, residual, device.address(sums), rate, None)


def _pull_back(device):
    xp, shape = device.array_module, (5, 40, 33)
    for axis in range(3):
        out, winners = (xp.zeros(shape, dtype) for dtype in ("float64", "int32"))
        back = Pullback(axis, winners, out, xp.zeros(6600 // shape[axis]))
        neighbourhoods.Backend(device).pull_back(xp.ones(shape), back)


def of_device() -> Iterator[partial]:
    """All cases that are functions of a device."""
    for made in (
        convolutions, parts, own_parameters, parameters, orders, integers, products,
        gradients_of_tensors,
    ):  # fmt: skip
        yield from made()


def of_library(cupy) -> Iterator[partial]:
    """All cases that call public functions with arrays of this library."""
    for made in (filters, lines, whole_images, forms):
        yield from made(cupy)


def main(process: int, processes: int) -> None:
    """Run every `processes`-th case."""
    import cupy

    made = (partial(case, cupy_device()) for case in of_device())
    cases = [*made, *of_library(cupy)][process::processes]
    for case in cases:
        case()
    cupy.cuda.Device().synchronize()
    print(f"all kernels of {len(cases)} cases were launched")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ("0", "1")))
