"""One pass of a convolution along its route: forward or backward, on arrays or on addresses.

For callers that have checked the arguments and allocate themselves. Called by ``conv`` and by the
PyTorch bridge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from semiconv_cupy import source
from semiconv_cupy.backends import cuda, reference, reference_product
from semiconv_cupy.backends.cuda import by_sums as cuda_by_sums
from semiconv_cupy.backends.device import Described, Device, Launches, Stream, cupy_device
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host import calls as host
from semiconv_cupy.backends.host import products as host_products
from semiconv_cupy.backends.host.functions import aligned
from semiconv_cupy.parameters import Values
from semiconv_cupy.product import Product
from semiconv_cupy.product_route import ProductRoute
from semiconv_cupy.residual import needs_arrays
from semiconv_cupy.route import Route
from semiconv_cupy.strides import Strides, contiguous_strides, in_elements, strides_in_order
from semiconv_cupy.structs import Parameters

Array = Any


def _device(route: Route | ProductRoute) -> Device:
    """What compiles and launches: the place's own device, or else CuPy's."""
    return route.place.device or cupy_device()


def _case(route: Route) -> cuda.Case:
    return cuda.Case(
        route.semifield, route.geometry, route.storage, route.channels > 1, route.slopes
    )


def _require_no_residual(route: Route | ProductRoute) -> None:
    if route.by_sums and not route.slopes:
        raise ValueError("ordinary sums keep no residual; choose method='direct' to have one")


def forward(
    route: Route,
    img: Array,
    krn: Array,
    out: Array,
    residual: Array | None = None,
    *,
    threads: int | None = None,
    value: Any = None,
) -> None:
    """Fill `out`, and `residual` where given (`route.residual_spec` describes it), C-contiguous.

    `out` has img's dtype; bfloat16 may come as uint16. At most `threads` threads of the CPU work
    (None: one a core). `value`: of the semifield's parameter, where the route's has none itself.
    """
    values = Values.of(value, route.place)
    parameters = values and values.parameters
    if residual is not None:
        _require_no_residual(route)
    if route.backend == "reference":
        reference.forward(route, img, krn, out, residual, value)
    elif route.backend == "host":
        host.forward(route, img, krn, out, residual, threads, parameters)
    elif route.by_sums:
        if out.size:
            by_sums = _by_sums(route, img.strides, krn.strides)
            by_sums(img, krn, out, None, None, parameters)
    elif out.size:
        launch = _launch(route, img.strides, krn.strides, residual is not None)
        launch(_device(route).address(img), img, krn, out, residual, parameters)


@lru_cache(maxsize=4096)
def _launch(
    route: Route, img_byte_strides: Strides, krn_byte_strides: Strides, keeps_residual: bool
) -> Callable[..., None]:
    """The launch of a CUDA kernel for arrays of these strides, in canonical form.

    It takes (img's address, img, krn, out, residual or None).
    """
    img_strides = in_elements(img_byte_strides, route.storage)
    krn_strides = in_elements(krn_byte_strides, route.storage)
    if _takes_addresses(route, img_strides, krn_strides):
        run = forward_at(route, img_strides, krn_strides, keeps_residual=keeps_residual)
        assert run is not None
        address_of = _device(route).address

        def launch(
            address: int,
            img: Array,
            krn: Array,
            out: Array,
            residual: Array,
            parameters: Parameters | None = None,
        ) -> None:
            kept = None if residual is None else address_of(residual)
            run(address, address_of(krn), address_of(out), kept, None, parameters)

        return launch
    route, img_strides, krn_strides = route.in_its_form(img_strides, krn_strides)
    spec = route.residual_spec if keeps_residual else None
    convolution = cuda.Convolution.of(_case(route), spec and spec.dtype, img_strides, krn_strides)
    return cuda.forward_launch(_device(route), convolution, route.schedule).with_parameters


def _takes_addresses(route: Route, img_strides: Strides, krn_strides: Strides) -> bool:
    """Whether a GPU computes a work by more than kernels that take arrays as they are."""
    product = route.product(img_strides, krn_strides)
    return product is not None or route.copies_image(img_strides)


def _copy_in_order(route: Route, img_strides: Strides) -> cuda.CopyInOrder | None:
    """What copies the image into C order before a GPU computes; None where it reads it as it is."""
    if not route.copies_image(img_strides):
        return None
    shape, itemsize = route.geometry.img_shape, source.itemsize(route.storage)
    return cuda.copy_in_order(_device(route), shape, img_strides, itemsize)


def _product_on_gpu(
    route: Route, img_strides: Strides, krn_strides: Strides, keeps_residual: bool
) -> Callable[..., None] | None:
    """What computes a work as a matrix product, by addresses; None where it is none."""
    found = route.product(img_strides, krn_strides)
    if found is None:
        return None
    spec = route.residual_spec if keeps_residual else None
    plane = 0 if spec is None else math.prod(spec.shape) // spec.arrays
    multiplication = cuda.Multiplication.of(found, None if spec is None else spec.dtype)
    if found.values_by_sums:
        return cuda.multiply_by_sums_at(_device(route), multiplication)
    return cuda.multiply_at(_device(route), multiplication, plane)


@lru_cache(maxsize=4096)
def _by_sums(
    route: Route, img_byte_strides: Strides, krn_byte_strides: Strides
) -> Callable[..., None]:
    """`_launch` for log and root by ordinary sums: (img, krn, out, residual: None, stream)."""
    img_strides = in_elements(img_byte_strides, route.storage)
    krn_strides = in_elements(krn_byte_strides, route.storage)
    if _takes_addresses(route, img_strides, krn_strides):
        run = forward_at(route, img_strides, krn_strides)
        assert run is not None
        address_of = _device(route).address

        def launch(img: Array, krn: Array, out: Array, *more: Any) -> None:
            run(*map(address_of, (img, krn, out)), *more)

        return launch
    route, img_strides, krn_strides = route.in_its_form(img_strides, krn_strides)
    return cuda_by_sums.forward_at(_device(route), _case(route), img_strides, krn_strides)


def forward_at(
    route: Route, img_strides: Strides, krn_strides: Strides, *, keeps_residual: bool = False
) -> Callable[..., None] | None:
    """What computes (img, krn, out, residual or None, threads or stream), all as addresses.

    Strides are in elements. ``backends.host`` and ``backends.cuda`` say more in their functions of
    this name. None where array loops serve, which take no addresses.
    """
    if keeps_residual:
        _require_no_residual(route)
    if route.backend == "reference":
        return None
    if route.backend == "host":
        return host.forward_at(route, img_strides, krn_strides, keeps_residual)
    product = _product_on_gpu(route, img_strides, krn_strides, keeps_residual)
    if product is not None:
        return product
    copy = _copy_in_order(route, img_strides)
    if copy is not None:
        in_order = strides_in_order(route.geometry.img_shape, img_strides)
        of_copy = forward_at(route, in_order, krn_strides, keeps_residual=keeps_residual)
        assert of_copy is not None

        def copy_and_launch(
            img: int, krn: int, out: int, residual: int | None, stream: Stream | None, *more: Any
        ) -> None:
            copied, owner = copy(img, stream)
            of_copy(copied, krn, out, residual, stream, *more)
            del owner  # only later launches on this stream use the freed memory

        return copy_and_launch
    route, img_strides, krn_strides = route.in_its_form(img_strides, krn_strides)
    device, case = _device(route), _case(route)
    if route.by_sums:
        return cuda_by_sums.forward_at(device, case, img_strides, krn_strides)
    spec = route.residual_spec if keeps_residual else None
    return cuda.forward_at(device, case, img_strides, krn_strides, spec, route.schedule)


def forward_call(route: Route, img: Array, krn: Array) -> Callable[..., Array]:
    """What returns the convolution of arrays of these shapes, dtypes and strides.

    It takes (img, krn, value of the parameter: None).

    On a GPU the arrays' device is the current one whenever it is called.
    """
    if route.backend == "host":
        call = host.forward_call(route, img, krn)

        def with_value(img: Array, krn: Array, value: Any = None) -> Array:
            values = Values.of(value, route.place)
            found: Array = call(img, krn, values and values.parameters)
            return found

        has = route.semifield.accumulator in ("log", "root") or route.semifield.own
        return with_value if has else call
    xp, shape = route.place.array_module, route.geometry.out_shape
    if route.backend == "reference":
        native = img.dtype if img.dtype.isnative else img.dtype.newbyteorder("=")

        def loop(img: Array, krn: Array, value: Any = None) -> Array:
            out = xp.empty(shape, native)
            forward(route, img, krn, out, value=value)
            return out

        return loop

    device, dtype = _device(route), img.dtype
    if 0 in shape:
        return lambda *arrays: device.empty(shape, dtype)
    if route.by_sums:
        by_sums = _by_sums(route, img.strides, krn.strides)

        def sum_up(img: Array, krn: Array, value: Any = None) -> Array:
            out, values = device.empty(shape, dtype), Values.of(value, route.place)
            by_sums(img, krn, out, None, None, values and values.parameters)
            return out

        return sum_up
    run = _launch(route, img.strides, krn.strides, keeps_residual=False)

    def launch(img: Array, krn: Array, value: Any = None) -> Array:
        out, values = device.empty(shape, dtype), Values.of(value, route.place)
        run(device.address(img), img, krn, out, None, values and values.parameters)
        return out

    return launch


def backward(
    route: Route,
    arrays: GradientArrays,
    *,
    threads: int | None = None,
    value: Any = None,
) -> None:
    """Gradients into the arrays that are given, in arithmetic dtype, C-contiguous.

    NumPy's `grad_img` comes zeroed; on a GPU every element is written. Where the forward pass kept
    no residual although the semifield has one, it went by ordinary sums, and so does its
    derivative.
    """
    route = route.after(arrays.residual)
    values = Values.of(value, route.place)
    parameters = values and values.parameters
    if route.backend == "reference":
        reference.backward(route, arrays, value)
    elif route.backend == "host":
        host.backward(route, arrays, threads, parameters)
    else:
        _backward_on_gpu(route, arrays, parameters)


def _backward_on_gpu(route: Route, arrays: GradientArrays, parameters: Parameters | None) -> None:
    """`backward` by CUDA kernels."""
    arrays = cuda.with_contiguous_grad_out(_device(route), arrays)
    if cuda.fills_with_zeros(_case(route), arrays):
        return
    given = arrays.img, arrays.krn
    shapes = route.geometry.img_shape, route.geometry.krn_shape
    strides = (
        contiguous_strides(shape) if array is None else in_elements(array.strides, route.storage)
        for array, shape in zip(given, shapes, strict=True)
    )
    wants = arrays.grad_img is not None, arrays.grad_krn is not None
    _gradients(route, *strides, wants)(arrays, None, parameters)


@lru_cache(maxsize=4096)
def _gradients(
    route: Route, img_strides: Strides, krn_strides: Strides, wants: tuple[bool, bool]
) -> Callable[..., None]:
    """What computes gradients on a GPU, each in its form. Strides are in elements."""
    device = _device(route)
    copy = _copy_in_order(route, img_strides) if needs_arrays(route.semifield) else None
    if copy is not None:
        in_order = strides_in_order(route.geometry.img_shape, img_strides)
        of_copy = _gradients(route, in_order, krn_strides, wants)

        def copy_and_launch(
            arrays: GradientArrays, stream: Stream | None, *more: Any, **named: Any
        ) -> None:
            img = arrays.img
            copied, owner = copy(img if isinstance(img, int) else device.address(img), stream)
            of_copy(arrays._replace(img=copied), stream, *more, **named)
            del owner

        return copy_and_launch
    if route.by_sums:
        ((found, *strides, _),) = route.gradients(img_strides, krn_strides, wants)
        run = cuda_by_sums.backward_at(device, _case(found), *strides, wants, route.schedule)
        return lambda arrays, stream, parameters=None: run(*arrays, stream, parameters)
    launches = _gradient_launches(route, img_strides, krn_strides, wants)

    def launch_all(
        arrays: GradientArrays, stream: Stream | None, parameters: Parameters | None = None
    ) -> None:
        for launch in launches:
            launch(device, arrays, stream, parameters=parameters)

    return launch_all


def _gradient_launches(
    route: Route, img_strides: Strides, krn_strides: Strides, wants: tuple[bool, bool]
) -> list[cuda.Launch]:
    """The launches of `_gradients`, without ordinary sums."""
    spec = route.residual_spec
    return [
        launch
        for found, *strides, alone in route.gradients(img_strides, krn_strides, wants)
        for launch in cuda.gradient_launches(
            _device(route),
            cuda.Convolution.of(_case(found), spec and spec.dtype, *strides),
            alone,
            route.schedule,
        )
    ]


def launches_of(
    route: Route, img_strides: Strides, krn_strides: Strides, wants: tuple[bool, bool]
) -> Launches | None:
    """What `forward_at` with its residual and `backward_at` launch on a GPU, described.

    None where something else than plain launches computes the work: products, ordinary sums, works
    in parts, an image that is copied, a kernel that the backward pass copies.
    """
    spec, needed = route.residual_spec, needs_arrays(route.semifield)
    contiguous = contiguous_strides(route.geometry.krn_shape)
    if route.backend != "cuda" or route.by_sums or (needed and krn_strides != contiguous):
        return None
    if _product_on_gpu(route, img_strides, krn_strides, spec is not None) is not None:
        return None
    if route.copies_image(img_strides):
        return None
    found, *strides = route.in_its_form(img_strides, krn_strides)
    convolution = cuda.Convolution.of(_case(found), spec and spec.dtype, *strides)
    forward = cuda.forward_launch(_device(route), convolution, route.schedule)
    both = forward.described(keeps_residual=spec is not None)
    if both is None:
        return None
    if not needed:
        img_strides = (0,) * len(img_strides)
    backward: list[Described] = []
    scratch = 0
    for launch in _gradient_launches(route, img_strides, contiguous, wants):
        if not isinstance(launch, cuda.GradientLaunch):
            return None
        given = launch.described(wants, has_arrays=needed, keeps_residual=spec is not None)
        if given is None:
            return None
        backward += given
        scratch = max(scratch, 0 if launch.sums is None else launch.sums.numbers)
    return Launches(both, forward.alignment, backward, scratch)


def backward_at(
    route: Route, img_strides: Strides, krn_strides: Strides, wants: tuple[bool, bool]
) -> Callable[..., None] | None:
    """What differentiates: (addresses of `GradientArrays`, threads or stream).

    Strides are in elements. A kernel on the CPU is C-contiguous. `wants` says which of the
    gradients of img and krn are computed. None where array loops serve.
    """
    if route.backend == "reference":
        return None
    if route.backend == "host":
        return host.backward_at(route, img_strides)
    return _gradients(route, img_strides, krn_strides, wants)


# ---- matrix products -----------------------------------------------------------------------------


def product(
    route: ProductRoute,
    img: Array,
    krn: Array,
    out: Array,
    residual: Array | None = None,
    *,
    threads: int | None = None,
    value: Any = None,
) -> None:
    """Fill `out`, and `residual` where given (`route.residual_spec` describes it).

    The route's product says where the numbers of all arrays lie, relative to the first element of
    each. The dtypes are those of `forward`; compiled kernels read numbers as they lie, aligned and
    in the machine's byte order.
    """
    if residual is not None:
        _require_no_residual(route)
    values = Values.of(value, route.place)
    parameters = values and values.parameters
    if route.backend == "host":
        host_products.forward(route, img, krn, out, residual, threads, parameters)
    elif route.backend == "cuda":
        multiplication = cuda.Multiplication.of(route, None if residual is None else residual.dtype)
        if residual is None and route.values_by_sums:
            cuda.multiply_by_sums(
                _device(route), multiplication, img, krn, out, parameters=parameters
            )
        else:
            cuda.multiply(
                _device(route), multiplication, img, krn, out, residual, parameters=parameters
            )
    else:
        reference_product.forward(route, img, krn, out, residual, value)


def product_at(route: ProductRoute, *, keeps_residual: bool = False) -> Callable[..., None] | None:
    """What computes (img, krn, out, residual or None, threads or stream), all as addresses.

    None where array loops serve, which take no addresses.
    """
    if keeps_residual:
        _require_no_residual(route)
    if route.backend == "host" and route.product.outputs:
        return host_products.forward_at(route, keeps_residual)
    return None


def product_backward(
    route: ProductRoute,
    gradients: Product,
    arrays: GradientArrays,
    *,
    threads: int | None = None,
    value: Any = None,
) -> None:
    """Gradients into the arrays that are given, in arithmetic dtype; every element is written.

    `gradients` has the levels of the route's product, with the strides of `grad_img`, `grad_krn`
    and `grad_out` for img, krn and out; a stride is 0 where an operand was broadcast, so that its
    gradient adds up. Where the forward pass kept no residual although the semifield has one, it is
    computed again.
    """
    residual = arrays.residual
    values = Values.of(value, route.place)
    parameters = values and values.parameters
    if route.backend == "host" and aligned(arrays.grad_out):
        host_products.backward(route, gradients, arrays, threads, parameters)
    elif route.backend == "cuda":
        multiplication = cuda.Multiplication.of(route, None if residual is None else residual.dtype)
        cuda.differentiate(_device(route), multiplication, gradients, arrays, parameters=parameters)
    else:
        reference_product.backward(route, gradients, arrays, value)


def product_backward_at(
    route: ProductRoute, gradients: Product, wants: tuple[bool, bool]
) -> Callable[..., None] | None:
    """What differentiates: (addresses of `GradientArrays`, threads or stream).

    `wants` says which of the gradients of img and krn are computed. Numbers that
    no term reads are left as they are. None where arrays are needed.
    """
    if route.backend == "host" and route.product.outputs:
        return host_products.backward_at(route, gradients)
    return None
