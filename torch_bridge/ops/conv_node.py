"""The `Node` of a convolution: which tensors it takes, what it keeps, which launches it makes.

Called by `convolutions`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy import run
from semiconv_cupy.residual import needs_arrays
from semiconv_cupy.source import ARITHMETIC, FLOATING
from torch_bridge.arguments import GeometryArguments
from torch_bridge.ops.executors import Executor, executor_of
from torch_bridge.ops.node import FallBack, Node, Operand, Work, library
from torch_bridge.ops.plans import MOST_PLANS, Plan, plan_cached, route_of

Wants = tuple[bool, bool]


def conv_node(
    img: Tensor, krn: Tensor, semifield: str, geometry: GeometryArguments, fall_back: FallBack
) -> Node | None:
    """The node for tensors on a GPU that go straight and of which one requires a gradient.

    None where none serves, or where it is still being compiled.
    """
    index = img.get_device()
    if index < 0 or krn.dtype is not img.dtype or krn.get_device() != index:
        return None
    functions = library()
    if functions is None or not executor_of(index).is_current():
        return None
    shapes, strides = (img.shape, krn.shape), (img.stride(), krn.stride())
    wants = img.requires_grad, krn.requires_grad
    return _kept(
        functions, img.dtype, index, shapes, strides, wants, semifield, geometry, fall_back
    )


@lru_cache(maxsize=MOST_PLANS)
def _kept(
    functions: Any,
    dtype: torch.dtype,
    index: int,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    strides: tuple[tuple[int, ...], tuple[int, ...]],
    wants: Wants,
    semifield: str,
    geometry: GeometryArguments,
    fall_back: FallBack,
) -> Node | None:
    """The node of this layout on the GPU of that index, which is the current one."""
    executor = executor_of(index)
    plan = plan_cached(semifield, dtype, True, *map(tuple, shapes), geometry, True)
    device = torch.device("cuda", index)
    return prepare_node(functions, plan, executor, dtype, device, strides, wants, fall_back)


def prepare_node(
    functions: Any,
    plan: Plan,
    executor: Executor,
    dtype: torch.dtype,
    device: torch.device,
    strides: tuple[tuple[int, ...], tuple[int, ...]],
    wants: Wants,
    fall_back: FallBack,
) -> Node | None:
    """The node for tensors of this plan and these strides; None where plain launches do not serve.

    `functions` are those of `library`.
    """
    geometry, spec = plan.geometry, plan.residual_spec
    if plan.storage not in FLOATING or 0 in (*geometry.out_shape, *geometry.img_shape):
        return None
    place = executor.place()
    launches = run.launches_of(route_of(plan, executor), *strides, wants)
    if launches is None or place.device is None:
        return None
    empty = torch.empty(0, dtype=dtype, device=device)
    work = Work(
        first=Operand(geometry.img_shape, strides[0], wants[0]),
        second=Operand(geometry.krn_shape, strides[1], wants[1]),
        out_shape=geometry.out_shape,
        residual_shape=None if spec is None else spec.shape,
        tensor=empty,
        gradients=empty.to(getattr(torch, ARITHMETIC[plan.storage])),
        residual=empty if spec is None else empty.to(plan.residual_dtype),
        saves_tensors=needs_arrays(plan.semifield),
    )
    return Node(functions, work, launches, place.device.driver(), fall_back)
