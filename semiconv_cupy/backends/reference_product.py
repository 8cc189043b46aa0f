"""Matrix products by array loops, for NumPy and CuPy arrays alike.

As slow and as right as ``reference``: each step multiplies what meets at one contracted index, so
that no array is larger than the result. Called by ``run``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends.additions import (
    ADDITIONS,
    as_bits,
    chained,
    computed_semifield,
    holds_bits,
    numbers,
    times_function,
    weight_function,
)
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.parameters import bound_by_kernel
from semiconv_cupy.product import Levels, Product
from semiconv_cupy.residual import is_provenance

if TYPE_CHECKING:
    from semiconv_cupy.product_route import ProductRoute

Array = Any
Name = Literal["img", "krn", "out"]
Terms: TypeAlias = Callable[[], Iterator[tuple[int, Array, Array]]]
EVERYWHERE = (Ellipsis,)


def forward(
    route: ProductRoute,
    img: Array,
    krn: Array,
    out: Array,
    residual: Array | None = None,
    value: Any = None,
) -> None:
    """Fill `out`, and `residual` where given: see ``run.product``."""
    xp, product, storage = route.place.array_module, route.product, route.storage
    with np.errstate(all="ignore"):
        found, kept = _value(xp, route, _terms(xp, route, img, krn), value)
        target = _outputs(xp, product, out)
        target[...] = as_bits(xp, found[0]) if holds_bits(out, storage) else found[0]
    if residual is None or kept is None:
        return
    if is_provenance(route.semifield):
        _outputs(xp, product, residual)[...] = kept[0]
    else:
        # Slopes are computed only where they are kept.
        for array, values in zip(residual, kept, strict=False):
            _outputs(xp, product, array)[...] = values[0]


def _value(xp: Any, route: ProductRoute, terms: Terms, value: Any) -> tuple[Array, Array | None]:
    """The result and the residual, each with a batch axis of one in front."""
    semifields = bound_by_kernel(computed_semifield(route.semifield, route.storage), value)
    found = [_value_of(xp, route, terms, semifield) for semifield in semifields]
    if len(found) == 1:
        return found[0]
    kernels = _kernels(xp, route)
    return tuple(  # type: ignore[return-value]
        _chosen(xp, kernels, [pair[n] for pair in found]) for n in range(2)
    )


def _kernels(xp: Any, route: ProductRoute) -> Array:
    """The number of each output's kernel."""
    outer = _outer(route.product)
    sizes = tuple(level.size for level in outer)
    first = len(sizes) - len(route.product.produced)
    produced = xp.arange(math.prod(sizes[first:])).reshape(sizes[first:])
    shared = sizes[: len(route.product.shared)]
    matrices = xp.arange(math.prod(shared)).reshape(shared + (1,) * (len(sizes) - len(shared)))
    return xp.broadcast_to(matrices * route.matrix_step + produced, sizes) % route.channels


def _chosen(xp: Any, kernels: Array, arrays: list[Array]) -> Array:
    """Each output's number, from the array of its kernel; `arrays` has one for each kernel."""
    found = arrays[0]
    for kernel, array in enumerate(arrays[1:], 1):
        found = xp.where(kernels == kernel, array, found)
    return found


def _value_of(
    xp: Any, route: ProductRoute, terms: Terms, semifield: Semifield
) -> tuple[Array, Array | None]:
    """`_value` by one semifield."""
    dtype = np.dtype(source.ARITHMETIC[route.storage])
    times = times_function(xp, semifield, dtype)
    shape = (1, *(level.size for level in _outer(route.product)))
    addition = ADDITIONS[semifield.accumulator]
    return addition(
        xp,
        semifield,
        dtype,
        shape,
        lambda: ((n, EVERYWHERE, times(pixel, factor)) for n, pixel, factor in terms()),
    )


def backward(
    route: ProductRoute,
    gradients: Product,
    arrays: GradientArrays,
    value: Any = None,
) -> None:
    """Fill the gradients that are given: see ``run.product_backward``."""
    grad_out, img, krn, residual, grad_img, grad_krn = arrays
    xp, storage = route.place.array_module, route.storage
    semifields = bound_by_kernel(computed_semifield(route.semifield, storage), value)
    if not route.semifield.own:
        semifields = semifields[:1]
    times, d_img, d_krn = (
        _chosen_function(xp, route, [getattr(one.functions, name) for one in semifields])
        for name in ("times", "d_times_d_img", "d_times_d_krn")
    )
    dtype = np.dtype(source.ARITHMETIC[storage])
    slopes = numbers(_outputs(xp, gradients, grad_out), storage).astype(dtype)[None]
    for gradient in (grad_img, grad_krn):
        if gradient is not None:
            gradient[...] = 0
    with np.errstate(all="ignore"):
        terms = _terms(xp, route, img, krn)
        weight = _weight(xp, route, residual, terms, value)
        to_img = _gradient_views(xp, gradients, grad_img, "img")
        to_krn = _gradient_views(xp, gradients, grad_krn, "krn")
        for n, pixel, factor in terms():
            flow = chained(xp, slopes, weight(EVERYWHERE, times(pixel, factor), n))
            if to_img is not None:
                to_img(n, chained(xp, flow, d_img(pixel, factor)))
            if to_krn is not None:
                to_krn(n, chained(xp, flow, d_krn(pixel, factor)))


def _weight(
    xp: Any, route: ProductRoute, residual: Array | None, terms: Terms, value: Any
) -> Callable[..., Array]:
    """(all outputs, terms, contracted index) -> d result / d term.

    Where the forward pass kept no residual, it is computed again. `weight_function` looks for the
    residual of an output channel: the only one here holds all outputs.
    """
    semifields = bound_by_kernel(computed_semifield(route.semifield, route.storage), value)
    winners = is_provenance(route.semifield)
    if residual is None:
        kept = _value(xp, route, terms, value)[1]
    elif winners:
        kept = _outputs(xp, route.product, residual)[None]
    else:
        kept = xp.stack([_outputs(xp, route.product, array)[None] for array in residual])
    if kept is not None:
        kept = kept[:, None] if winners else kept[:, :, None]
    weights = [weight_function(xp, semifield, kept, (0,)) for semifield in semifields]
    if len(weights) == 1:
        return weights[0]
    return _chosen_function(xp, route, weights)


def _chosen_function(
    xp: Any, route: ProductRoute, functions: list[Callable[..., Array]]
) -> Callable[..., Array]:
    """The function whose value at each output is that of its own kernel's function."""
    if len(functions) == 1:
        return functions[0]
    kernels = _kernels(xp, route)
    return lambda *where: _chosen(xp, kernels, [function(*where) for function in functions])


# ---- views ---------------------------------------------------------------------------------------


def _outer(product: Product) -> Levels:
    """The levels that the result has, those of each index in its order."""
    return (*product.shared, *product.free, *product.produced)


def _view(xp: Any, array: Array, levels: Levels, name: Name, origin: int = 0) -> Array:
    """An array's numbers at the indices of some levels; `origin` is that of index 0."""
    strided, itemsize = xp.lib.stride_tricks.as_strided, array.itemsize
    shape = tuple(level.size for level in levels)
    if 0 in shape:
        return xp.empty(shape, array.dtype)
    if origin:
        array = strided(array, (origin + 1,), (itemsize,))[origin:]
    return strided(array, shape, tuple(getattr(level, name) * itemsize for level in levels))


def _outputs(xp: Any, product: Product, array: Array) -> Array:
    """The result, or an array that lies as it does, as an array of the outer levels."""
    return _view(xp, array, _outer(product), "out")


def _terms(xp: Any, route: ProductRoute, img: Array | None, krn: Array | None) -> Terms:
    """Iterations over (contracted index, image, kernel) in the arithmetic's dtype.

    Image and kernel broadcast to the outer levels, with a batch axis of one in front. Without
    arrays, which the derivative may not need, all numbers are one.
    """
    product, storage = route.product, route.storage
    dtype = np.dtype(source.ARITHMETIC[storage])
    indices = list(_indices(product.contracted))
    if img is None or krn is None:
        one = xp.ones((1,) * (1 + len(_outer(product))), dtype)
        return lambda: ((n, one, one) for n in range(len(indices)))
    image = _view(
        xp, img, (*product.contracted, *product.shared, *product.free), "img", product.img_origin
    )
    kernel = _view(xp, krn, (*product.contracted, *product.shared, *product.produced), "krn")
    beside_image = (None, Ellipsis, *(None for _ in product.produced))
    batch = (slice(None),) * len(product.shared)
    beside_kernel = (None, *batch, *(None for _ in product.free))

    def iterate() -> Iterator[tuple[int, Array, Array]]:
        for n, index in enumerate(indices):
            pixel, factor = numbers(image[index], storage), numbers(kernel[index], storage)
            yield n, pixel.astype(dtype)[beside_image], factor.astype(dtype)[beside_kernel]

    return iterate


def _indices(levels: Levels) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(level.size) for level in levels))


def _gradient_views(
    xp: Any, gradients: Product, array: Array | None, name: Name
) -> Callable[[int, Array], None] | None:
    """What adds (contracted index, parts of all outputs) to a gradient; None where it is None."""
    if array is None:
        return None
    outer = _outer(gradients)
    lacking = tuple(axis + 1 for axis, level in enumerate(outer) if getattr(level, name) == 0)
    present = tuple(level for level in outer if getattr(level, name))
    origin = gradients.img_origin if name == "img" else 0
    view = _view(xp, array, (*gradients.contracted, *present), name, origin)
    indices = list(_indices(gradients.contracted))
    shape = (1, *(level.size for level in outer))

    def add(n: int, part: Array) -> None:
        where = (*indices[n], Ellipsis)
        view[where] += xp.broadcast_to(part, shape).sum(axis=(0, *lacking))

    return add
