"""The `Node` of a convolution: which tensors it takes, what it keeps, which launches it makes.

Called by `convolutions`.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy import run
from semiconv_cupy.residual import needs_arrays
from semiconv_cupy.source import ARITHMETIC, FLOATING
from torch_bridge.arguments import GeometryArguments
from torch_bridge.ops.executors import Executor, executor_of
from torch_bridge.ops.handles import Handle
from torch_bridge.ops.node import FallBack, Node, Operand, Work, kept, library
from torch_bridge.ops.plans import MOST_PLANS, Plan, plan_uncached, route_of

Wants = tuple[bool, bool]
_FEW_CALLS = 3  # of a number, before it has a node
_MOST_NUMBERS = 32


def conv_node(
    img: Tensor, krn: Tensor, handle: Handle, geometry: GeometryArguments, fall_back: FallBack
) -> Node | None:
    """The node for tensors on a GPU that go straight and of which one requires a gradient.

    None where none serves, or where it is still being compiled. A number that is mu or p is part of
    a node, so it has one only if it comes again and again.
    """
    index = img.get_device()
    if index < 0 or krn.dtype is not img.dtype or krn.get_device() != index:
        return None
    functions = library()
    if functions is None or not executor_of(index).is_current():
        return None
    shapes, strides = (img.shape, krn.shape), (img.stride(), krn.stride())
    wants = img.requires_grad, krn.requires_grad
    work = functions, img.dtype, index, shapes, strides, wants, handle.key, geometry, fall_back
    if not handle.parted.numbers:
        return _kept(*work)
    calls = _first_calls(work)
    calls.append(None)
    return _kept_of_numbers(*work) if len(calls) > _FEW_CALLS else None


def _new(
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
    img_shape, krn_shape = map(tuple, shapes)
    plan = plan_uncached(semifield, dtype, True, img_shape, krn_shape, geometry, True)
    device = torch.device("cuda", index)
    return prepare_node(functions, plan, executor, dtype, device, strides, wants, fall_back)


_kept = kept(MOST_PLANS)(_new)
_kept_of_numbers = kept(_MOST_NUMBERS)(_new)


@lru_cache(maxsize=_MOST_NUMBERS)
def _first_calls(work: tuple[Any, ...]) -> deque[None]:
    """An entry for each of the first calls of a work with numbers."""
    return deque(maxlen=_FEW_CALLS + 1)


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
