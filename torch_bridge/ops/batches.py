"""vmap's extra dimension as more groups of one convolution. Called by both operators."""

from __future__ import annotations

from torch import Tensor

from torch_bridge.arguments import GeometryArguments


def with_batch(tensor: Tensor, dim: int | None, count: int, to: int) -> Tensor:
    """The tensor with vmap's dimension at `to`, repeated where it has none."""
    if dim is not None:
        return tensor.movedim(dim, to)
    shape = [*tensor.shape[:to], count, *tensor.shape[to:]]
    return tensor.unsqueeze(to).expand(shape)


def as_groups(krn: Tensor, geometry: GeometryArguments) -> tuple[Tensor, GeometryArguments]:
    """Kernels (V, O, I, *K) and their geometry as one convolution of V times the groups."""
    groups = geometry.groups
    if geometry.group_broadcasting and groups > 1:
        krn = krn.unsqueeze(1).expand(-1, groups, *krn.shape[1:]).flatten(1, 2)
    grouped = geometry._replace(groups=krn.shape[0] * groups, group_broadcasting=False)
    return krn.flatten(0, 1), grouped
