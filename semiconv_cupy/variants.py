"""What ships: the kernels that ``python -m kernels_cu report`` and the tests compile for every GPU,
and the libraries of the CPU that ``python -m kernels_cu build`` compiles into a wheel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from semiconv_cupy import source
from semiconv_cupy.algebra import SelectSemifield, Semifield, SubtractSemifield
from semiconv_cupy.algebra.names import READY_MADE
from semiconv_cupy.backends import by_sums
from semiconv_cupy.backends.cuda.bins import bins_of
from semiconv_cupy.backends.cuda.forward_tile import forward_tile_of
from semiconv_cupy.backends.cuda.gradient_tile import gradient_tile_of
from semiconv_cupy.backends.cuda.kernels import (
    exchange_source,
    in_order_source,
    in_parts,
    kernel_source,
    specialise,
    sum_source,
)
from semiconv_cupy.backends.cuda.limits import LIMITS
from semiconv_cupy.backends.cuda.product import (
    Multiplication,
    ProductSpecialisation,
    product_source,
)
from semiconv_cupy.backends.cuda.product_backward import GradientSpecialisation, gradient_source
from semiconv_cupy.backends.cuda.product_by_sums import (
    ProductSumsSpecialisation,
    product_sums_source,
)
from semiconv_cupy.backends.cuda.product_tile import plan_product
from semiconv_cupy.backends.cuda.weight_tile import weight_tile_of
from semiconv_cupy.backends.host import functions
from semiconv_cupy.backends.means import host_sources as means_on_cpu
from semiconv_cupy.backends.means import means_source
from semiconv_cupy.backends.quadratic import Parametrisation, quadratic_source
from semiconv_cupy.backends.quadratic import host_sources as quadratics_on_cpu
from semiconv_cupy.checks import require_meaning
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.ndimage import cuda as neighbourhoods
from semiconv_cupy.ndimage import host as neighbourhoods_on_cpu
from semiconv_cupy.ndimage.lines_backward import sources as line_gradients_on_cpu
from semiconv_cupy.product import Product
from semiconv_cupy.residual import is_provenance, residual_of, residual_of_terms

_DILATION = SelectSemifield.tropical_max()
_LINEAR, _LOG = SubtractSemifield.linear(), SubtractSemifield.log(2.0)
_ROOT = SubtractSemifield.root(3.0)
_PLANE = Geometry.plan((1, 1, 8, 8), (1, 1, 3, 3))
_SEMIFIELDS: tuple[Semifield, ...] = (
    _DILATION,
    SelectSemifield.tropical_min_negated(),
    SelectSemifield.max_times(),
    SelectSemifield.tropical_max(spread_gradient=True),
    SelectSemifield.tropical_max(channels_add=True),
    _LINEAR,
    _LOG,
    _ROOT,
    SubtractSemifield.root(2.5),
)
# Semifields of which each output channel may have values of its own.
_OF_ARRAYS: tuple[Semifield, ...] = (
    SubtractSemifield.named_family("log"),
    SubtractSemifield.named_family("root"),
    SubtractSemifield(
        lambda left, right, a: left + right + a * left * right,
        lambda img, krn, b, c: b * img * krn + c,
        zero=0.0,
        post_sum=lambda acc, d: d * acc,
        parameters={"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0},
    ).unbound,
)
# Works that tiles are made for: mixing, depthwise, strides, large windows; signals and volumes.
_TILED = (
    Geometry.plan((8, 64, 64, 64), (64, 64, 3, 3), padding="same"),
    Geometry.plan((8, 64, 256, 256), (64, 1, 3, 3), padding="same", groups=64),
    Geometry.plan((8, 64, 256, 256), (64, 1, 7, 7), padding="same", groups=64, stride=2),
    Geometry.plan((1, 1, 512, 512), (1, 1, 21, 21), padding="same"),
    Geometry.plan((1, 1, 4096), (1, 1, 9), padding="same"),
    Geometry.plan((1, 1, 64, 64, 64), (1, 1, 3, 3, 3), padding="same"),
    Geometry.plan((1, 1, 512, 512), (1, 1, 101, 101), padding="same"),
    Geometry.plan((1, 1, 4096), (1, 1, 501), padding="same"),
)

# Small planes, of which a block computes several: pooling in networks.
_PLANES = (
    Geometry.plan((4096, 32, 14, 14), (32, 1, 3, 3), padding="same", groups=32),
    Geometry.plan((512, 64, 28, 28), (64, 1, 3, 3), padding="same", groups=64, stride=2),
)


def shipping_variants() -> Iterator[source.KernelSource]:
    """One source of every kernel file for each semifield, dtype and rank that it is written for.

    What ``python -m kernels_cu report`` compiles for GPUs that are not there.
    """
    for semifield in _SEMIFIELDS:
        yield from _direct(semifield, "float32", _PLANE)
    for semifield in (_DILATION, _LOG):
        for storage in ("float16", "bfloat16", "float64"):
            yield from _direct(semifield, storage, _PLANE)
    for rank in (1, 3, 4):
        geometry = Geometry.plan((1, 1) + (9,) * rank, (1, 1) + (3,) * rank)
        yield from _direct(_DILATION, "float32", geometry)
    for storage in (*source.INTEGER, source.BOOLEAN):
        yield kernel_source(specialise("forward", _DILATION, storage, _PLANE, "int32"))
    for geometry in _TILED:
        yield from _tiled(_DILATION, "float16", geometry)
        for semifield in (_DILATION, _LINEAR, _LOG, _ROOT):
            yield from _tiled(semifield, "float32", geometry)
    for geometry in (_TILED[0], _TILED[3]):
        for storage in ("bfloat16", "uint8", "int16", "int32", "int64"):
            yield from _tiled(_DILATION, storage, geometry)
    for geometry in _PLANES:
        for storage in ("float16", "float64"):
            yield from _tiled(_DILATION, storage, geometry)
        for semifield in (_DILATION, _LINEAR, _LOG, _ROOT):
            yield from _tiled(semifield, "float32", geometry)
    for semifield in _OF_ARRAYS:
        yield from _direct(semifield, "float32", _PLANE)
        for storage, number in (("float32", 0), ("float32", 3), ("float64", 0)):
            yield from _tiled(semifield, storage, _TILED[number], by_channel=True)
        yield from _product(semifield, "float32", 4096, by_channel=True)
    yield from map(in_order_source, (1, 2, 4, 8))
    for storage in ("float32", "float64"):
        yield sum_source(storage)
        yield exchange_source(storage)
        yield from (quadratic_source(name, storage, (5, 5)) for name in get_args(Parametrisation))
    for storage in source.FLOATING:
        for powers, offset, lanes in (
            (True, "int32", 1),
            (False, "int32", 32),
            (True, "int64", 32),
        ):
            yield means_source(powers, storage, offset, lanes)
    yield from _products()
    yield from neighbourhoods.shipping_variants()


def _products() -> Iterator[source.KernelSource]:
    """Matrix products: large, small and wide ones, with and without residuals, both joined."""
    for semifield in (_DILATION, _LINEAR, _LOG, _ROOT):
        yield from _product(semifield, "float32", 4096)
        yield from _product(semifield, "float32", 4096, rows=8)
    yield from _product(_DILATION, "float32", 512)
    for storage in ("float16", "bfloat16", "float64", "uint8", "int16", "int32"):
        yield from _product(_DILATION, storage, 4096)
        yield from _product(_DILATION, storage, 4096, rows=8)


def _product(
    semifield: Semifield,
    storage: str,
    size: int,
    *,
    rows: int | None = None,
    by_channel: bool = False,
) -> Iterator[source.KernelSource]:
    """The kernels of a product of square matrices, and the one that joins parts of its terms.

    With `rows`, so few of them, and many columns.
    """
    spec = residual_of_terms(semifield, storage, (size, size), size)
    sizes = (size, size, size) if rows is None else (rows, size * size, size)
    for kept in dict.fromkeys((None, None if spec is None else spec.dtype)):
        plan = plan_product(semifield, storage, 1, sizes, keeps_residual=kept is not None)
        for joins in (False, True):
            kernel = ProductSpecialisation(
                semifield, storage, kept, plan.tile, image_in_columns=joins, offset="int32",
                joins=joins, by_channel=by_channel,
            )  # fmt: skip
            yield product_source(kernel)
            if kept is None and by_sums.applies(semifield) and not by_channel:
                yield product_source(kernel._replace(unproven=True))
    if by_sums.applies(semifield):
        yield product_sums_source(ProductSumsSpecialisation(semifield, storage))
    if source.arithmetic_of(storage) == "floating":
        multiplication = Multiplication(
            semifield, Product(), storage, None if spec is None else spec.dtype
        )
        for of_image in (False, True):
            gradient = GradientSpecialisation(multiplication, of_image, joins=of_image)
            yield gradient_source(gradient)
            yield gradient_source(gradient._replace(joins=not of_image))


def _direct(
    semifield: Semifield, storage: str, geometry: Geometry
) -> Iterator[source.KernelSource]:
    """The kernels that serve any geometry, forward and backward."""
    case = (semifield, storage, geometry)
    residual = residual_of(*case)
    element = None if residual is None else residual.dtype
    yield kernel_source(specialise("forward", *case, "int32"))
    yield kernel_source(specialise("forward", *case, "int64", element))
    yield kernel_source(specialise("grad_image", *case, "int64", element))
    if is_provenance(semifield):
        yield kernel_source(specialise("grad_bins", *case, "int64", element, bins_of(*case)))
    else:
        yield kernel_source(specialise("grad_kernel", *case, "int64", element))
    if semifield.accumulator in ("log", "root"):
        yield kernel_source(specialise("by_sums", *case, "int32"))


def _tiled(
    semifield: Semifield, storage: str, geometry: Geometry, *, by_channel: bool = False
) -> Iterator[source.KernelSource]:
    """The tiled kernels that serve this, forward and backward."""
    case = (semifield, storage, geometry)
    residual = residual_of(*case)
    element = None if residual is None else residual.dtype
    for kept in dict.fromkeys((None, element)):
        tile = forward_tile_of(*case, kept, LIMITS.for_method("tiled"))
        if tile is None:
            continue
        kernel = specialise("forward_tiled", *case, "int64", kept, tile, by_channel=by_channel)
        yield kernel_source(kernel)
        if tile.parts(geometry, LIMITS) > 1:
            for one in in_parts(kernel)[:2]:
                yield kernel_source(one)
    for wants in ((True, True), (True, False), (False, True)):
        gradients = gradient_tile_of(*case, element, wants)
        if gradients is not None:
            yield kernel_source(specialise("grad_tiled", *case, "int64", element, gradients))
    weights = weight_tile_of(*case)
    if weights is not None:
        yield kernel_source(specialise("grad_weights", *case, "int64", None, weights))


# ---- the CPU -----------------------------------------------------------------------------------

# A value of a family's parameter; its libraries serve all values.
_PARAMETERS = {"log": (1.0,), "root": (3.0,)}


def ready_made_libraries(
    names: Sequence[str] | None = None, storages: Sequence[str] | None = None
) -> Iterator[source.HostSource]:
    """The libraries of the CPU in a wheel: of ready-made semifields, ndimage, quadratic kernels.

    Parameters
    ----------
    names : sequence of str, optional
        The semifields; default: all. The rest is always there.
    storages : sequence of str, optional
        The dtypes; default: all that a semifield has.

    Raises
    ------
    ValueError
        A name or dtype that there is not.
    """
    known = (*source.FLOATING, *source.INTEGER, source.BOOLEAN)
    for what, given, allowed in (
        ("semifields", names, READY_MADE), ("dtypes", storages, known),
    ):  # fmt: skip
        if unknown := [one for one in given or () if one not in allowed]:
            raise ValueError(f"{what}: {', '.join(unknown)} not among {', '.join(allowed)}")
    yield source.pool_of_threads()
    for name in names or READY_MADE:
        entry = READY_MADE[name]
        made = [entry.make(value) for value in _PARAMETERS.get(name, ())] or [entry.make()]
        for semifield in made:
            for storage in storages or known:
                yield from libraries_of(semifield, storage)
    yield from filters_on_cpu(storages)
    yield from quadratics_on_cpu(storages)
    yield from means_on_cpu(storages)


def filters_on_cpu(storages: Sequence[str] | None = None) -> Iterator[source.HostSource]:
    """The libraries of the CPU that ndimage's functions and parabolic ones need."""
    yield from neighbourhoods_on_cpu.sources(storages)
    yield from line_gradients_on_cpu()


def libraries_of(semifield: Semifield, storage: str) -> Iterator[source.HostSource]:
    """The libraries that calls of a semifield on a dtype may need; none where it has no meaning."""
    try:
        require_meaning(storage, semifield)
    except (TypeError, ValueError):
        return
    for part in functions.parts_of(semifield, storage):
        yield from functions.sources_of(semifield, storage, part)
