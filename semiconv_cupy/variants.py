"""Which kernels ship: what ``python -m kernels_cu report`` and the tests compile for every GPU."""

from __future__ import annotations

from collections.abc import Iterator

from semiconv_cupy import source
from semiconv_cupy.algebra import SelectSemifield, Semifield, SubtractSemifield
from semiconv_cupy.backends import cuda
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.ndimage import cuda as neighbourhoods
from semiconv_cupy.residual import is_provenance, residual_of


def shipping_variants() -> Iterator[source.KernelSource]:
    """One source of every kernel file for each semifield, dtype and rank that it is written for.

    What ``python -m kernels_cu report`` compiles for GPUs that are not there.
    """
    dilation = SelectSemifield.tropical_max()
    floating: list[Semifield] = [
        dilation,
        SelectSemifield.tropical_min_negated(),
        SelectSemifield.max_times(),
        SelectSemifield.tropical_max(spread_gradient=True),
        SelectSemifield.tropical_max(channels_add=True),
        SubtractSemifield.linear(),
        SubtractSemifield.log(2.0),
        SubtractSemifield.log(-2.0),
        SubtractSemifield.root(3.0),
        SubtractSemifield.root(2.5),
    ]
    plane = Geometry.plan((1, 1, 8, 8), (1, 1, 3, 3))
    cases = [(semifield, "float32", plane) for semifield in floating]
    cases += [
        (semifield, storage, plane)
        for semifield in (dilation, SubtractSemifield.log(2.0))
        for storage in ("float16", "bfloat16", "float64")
    ]
    cases += [
        (dilation, "float32", Geometry.plan((1, 1) + (9,) * rank, (1, 1) + (3,) * rank))
        for rank in (1, 3, 4)
    ]
    for semifield, storage, geometry in cases:
        residual = residual_of(semifield, storage, geometry)
        element = None if residual is None else str(residual.dtype)
        yield cuda.kernel_source("forward", semifield, storage, geometry, "int32")
        yield cuda.kernel_source("forward", semifield, storage, geometry, "int64", element)
        for file in ("grad_image", "grad_bins" if is_provenance(semifield) else "grad_kernel"):
            yield cuda.kernel_source(file, semifield, storage, geometry, "int64", element)
        if semifield.accumulator in ("log", "root"):
            yield cuda.kernel_source("by_sums", semifield, storage, geometry, "int32")
    for storage in (*source.INTEGER, source.BOOLEAN):
        yield cuda.kernel_source("forward", dilation, storage, plane, "int32")
    shapes = [
        Geometry.plan((8, 64, 64, 64), (64, 64, 3, 3), padding="same"),
        Geometry.plan((8, 64, 256, 256), (64, 1, 3, 3), padding="same", groups=64),
        Geometry.plan((8, 64, 256, 256), (64, 1, 7, 7), padding="same", groups=64, stride=2),
        Geometry.plan((1, 1, 512, 512), (1, 1, 21, 21), padding="same"),
        Geometry.plan((1, 1, 4096), (1, 1, 9), padding="same"),
        Geometry.plan((1, 1, 64, 64, 64), (1, 1, 3, 3, 3), padding="same"),
        Geometry.plan((1, 1, 512, 512), (1, 1, 101, 101), padding="same"),
        Geometry.plan((1, 1, 4096), (1, 1, 501), padding="same"),
    ]
    works: list[tuple[Semifield, str]] = [
        (dilation, "float32"),
        (dilation, "float16"),
        (SubtractSemifield.linear(), "float32"),
        (SubtractSemifield.log(2.0), "float32"),
        (SubtractSemifield.root(3.0), "float32"),
    ]
    others = [(dilation, name) for name in ("bfloat16", "uint8", "int16", "int32", "int64")]
    tiled = [(geometry, *work) for geometry in shapes for work in works]
    tiled += [(geometry, *work) for geometry in (shapes[0], shapes[3]) for work in others]
    for geometry, semifield, storage in tiled:
        residual = residual_of(semifield, storage, geometry)
        for element in {None, None if residual is None else str(residual.dtype)}:
            tile = cuda.tile_of(semifield, storage, geometry, element, least_filled=0)
            if tile is not None:
                yield cuda.kernel_source(
                    "forward_tiled", semifield, storage, geometry, "int64", element, tile
                )
        element = None if residual is None else str(residual.dtype)
        for wants in ((True, True), (True, False), (False, True)):
            given = cuda.gradient_tile_of(semifield, storage, geometry, element, *wants)
            if given is not None:
                yield cuda.kernel_source(
                    "grad_tiled", semifield, storage, geometry, "int64", element, given
                )
        weights = cuda.weight_tile_of(semifield, storage, geometry)
        if weights is not None:
            yield cuda.kernel_source(
                "grad_weights", semifield, storage, geometry, "int64", None, weights
            )
    for storage in ("float32", "float64"):
        yield cuda.sum_source(storage)
        yield cuda.exchange_source(storage)
    yield from neighbourhoods.shipping_variants()
