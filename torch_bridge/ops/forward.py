"""semiconv::forward: the convolution, and on demand what its derivative needs.

The kernel for CPU and CUDA tensors, the shapes of fake tensors for torch.compile, the rule of vmap.
Called by `autograd`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy import run
from semiconv_cupy.residual import is_provenance
from torch_bridge.arguments import ForwardArguments, GeometryArguments, schema
from torch_bridge.dlpack import array_of
from torch_bridge.ops.batches import as_groups, with_batch
from torch_bridge.ops.dispatch import goes_straight
from torch_bridge.ops.executors import Executor, as_arrays, executor_of
from torch_bridge.ops.handles import Parted, held_semifield, parted, semifield_of
from torch_bridge.ops.plans import (
    MOST_PLANS,
    Plan,
    Values,
    as_given,
    channels_of,
    mismatch,
    plan_cached,
    plan_uncached,
    received,
    require_memory,
    require_parameter,
    route_of,
)

Results = tuple[Tensor, Tensor]
Found = tuple[Tensor, "Tensor | None"]

_library = torch.library.Library("semiconv", "FRAGMENT")
_library.define(f"forward({schema(ForwardArguments)}) -> (Tensor out, Tensor residual)")


def call_forward(
    img: Tensor, krn: Tensor, semifield: str, geometry: GeometryArguments, residual: bool
) -> Results:
    """``torch.ops.semiconv.forward``, which takes a geometry entry by entry."""
    if goes_straight(img, krn):
        return of_tensors(*forward_straight(img, krn, parted(semifield), geometry, residual), img)
    results: Results = torch.ops.semiconv.forward(img, krn, semifield, *geometry, residual)
    return results


def forward_straight(
    img: Tensor, krn: Tensor, semifield: Parted, geometry: GeometryArguments, residual: bool
) -> Found:
    """`call_forward` of tensors that go straight: by the call that was prepared for their layout.

    The residual is None where there is none.
    """
    dtype, index = img.dtype, img.get_device()
    if krn.dtype is not dtype or krn.get_device() != index:
        raise mismatch("krn", krn, "img", img)
    strides, (unbound, numbers) = (img.stride(), krn.stride()), semifield
    call = _prepared(dtype, index, img.shape, krn.shape, *strides, unbound, geometry, residual)
    return call(img, krn, numbers) if numbers else call(img, krn)


def parametric_straight(
    img: Tensor,
    krn: Tensor,
    parameter: Tensor,
    semifield: str,
    geometry: GeometryArguments,
    residual: bool,
    slopes: bool,
) -> Found:
    """`forward_straight` of a semifield whose parameter is a tensor."""
    dtype, index = img.dtype, img.get_device()
    if krn.dtype is not dtype or krn.get_device() != index:
        raise mismatch("krn", krn, "img", img)
    require_parameter(parameter, img, krn.shape[0])
    strides, constants = (img.stride(), krn.stride()), (semifield, geometry, residual, slopes)
    channels = channels_of(parameter)
    call = _prepared(dtype, index, img.shape, krn.shape, *strides, *constants, channels)
    return call(img, krn, parameter.contiguous())


def _forward(*flat: Any) -> Results:
    """The operator for CPU and CUDA tensors."""
    img, krn, key, geometry, residual = ForwardArguments.received(*flat)
    return of_tensors(*forward_straight(img, krn, parted(key), geometry, residual), img)


def of_tensors(out: Tensor, residual: Tensor | None, img: Tensor) -> Results:
    """The operator's results, an empty tensor where there is no residual."""
    return out, img.new_empty(0) if residual is None else residual


for _dispatch_key in ("CPU", "CUDA"):
    _library.impl("forward", _forward, _dispatch_key)


@lru_cache(maxsize=MOST_PLANS)
def _prepared(
    dtype: torch.dtype,
    index: int,
    img_shape: tuple[int, ...],
    krn_shape: tuple[int, ...],
    img_strides: tuple[int, ...],
    krn_strides: tuple[int, ...],
    semifield: str,
    geometry: GeometryArguments,
    residual: bool,
    slopes: bool = False,
    channels: int = 1,
) -> Callable[..., Found]:
    """The call for tensors of this layout on the executor of that index."""
    executor, shapes = executor_of(index), (tuple(img_shape), tuple(krn_shape))
    plan = plan_cached(
        semifield, dtype, executor.on_gpu, *shapes, geometry, residual, slopes, channels
    )
    return prepare_forward(plan, executor, dtype, img_strides, krn_strides)


def prepare_forward(
    plan: Plan,
    executor: Executor,
    dtype: torch.dtype,
    img_strides: tuple[int, ...],
    krn_strides: tuple[int, ...],
    forward_at: Callable[..., Callable[..., None] | None] = run.forward_at,
) -> Callable[..., Found]:
    """The call for tensors of this plan and these strides, and for values of parameters.

    `forward_at` makes the core's function of addresses, or None where array loops serve. The call
    takes arrays instead at odd addresses, and on another GPU than the current one.
    """
    launch, keeps_residual = None, plan.residual_spec is not None
    if 0 not in plan.geometry.out_shape:
        route = route_of(plan, executor)
        launch = forward_at(route, img_strides, krn_strides, keeps_residual=keeps_residual)
    alignment, out_shape = dtype.itemsize, plan.geometry.out_shape
    is_current, threads_or_stream = executor.is_current, executor.threads_or_stream

    def call(img: Tensor, krn: Tensor, *values: Values) -> Found:
        image, kernel = img.data_ptr(), krn.data_ptr()
        if launch is None or (image | kernel) % alignment or not is_current():
            return _by_arrays(img, krn, plan, executor, values)
        if not (image and kernel):
            require_memory(img=img, krn=krn)
        out = img.new_empty(out_shape)
        residual = new_residual(img, plan) if keeps_residual else None
        kept = None if residual is None else residual.data_ptr()
        launch(image, kernel, out.data_ptr(), kept, threads_or_stream(), *map(received, values))
        return out, residual

    return call


def new_residual(img: Tensor, plan: Plan) -> Tensor | None:
    """The residual, uninitialised; None where there is none."""
    if plan.residual_spec is None:
        return None
    return img.new_empty(plan.residual_spec.shape, dtype=plan.residual_dtype)


def _by_arrays(
    img: Tensor, krn: Tensor, plan: Plan, executor: Executor, values: tuple[Values, ...]
) -> Found:
    """The results by NumPy or CuPy arrays, where addresses cannot be used."""
    out, residual = img.new_empty(plan.geometry.out_shape), new_residual(img, plan)
    if out.numel():
        with as_arrays(img):
            run.forward(
                route_of(plan, executor),
                array_of(img),
                array_of(krn),
                array_of(out),
                None if residual is None else array_of(residual),
                threads=torch.get_num_threads(),
                value=as_given(values, plan.semifield),
            )
    return out, residual


@torch.library.register_fake("semiconv::forward", lib=_library)
def _fake(*flat: Any) -> Results:
    """The results' shapes and dtypes, for torch.compile."""
    img, krn, key, geometry, residual = ForwardArguments.received(*flat)
    if krn.dtype != img.dtype or krn.device != img.device:
        raise mismatch("krn", krn, "img", img)
    held_semifield(key)
    plan = plan_uncached(key, img.dtype, img.is_cuda, img.shape, krn.shape, geometry, residual)
    return of_tensors(img.new_empty(plan.geometry.out_shape), new_residual(img, plan), img)


def _vmap(
    info: Any, in_dims: tuple[Any, ...], *flat: Any
) -> tuple[Results, tuple[int, int | None]]:
    """A batch of images as a larger batch, where all have one kernel; else as more groups."""
    img, krn, key, geometry, wants_residual = ForwardArguments.received(*flat)
    count = info.batch_size
    if in_dims[1] is None:
        img = img.movedim(in_dims[0], 0).flatten(0, 1)
        axis = 0
    else:
        img = with_batch(img, in_dims[0], count, 1).flatten(1, 2)
        krn, geometry = as_groups(with_batch(krn, in_dims[1], count, 0), geometry)
        axis = 1
    out, residual = call_forward(img, krn, key, geometry, wants_residual)
    out = out.unflatten(axis, (count, -1))
    if residual.numel() == 0 and out.numel():
        return (out, residual), (axis, None)
    stacked = axis + (not is_provenance(semifield_of(key)))
    return (out, residual.unflatten(stacked, (count, -1))), (axis, stacked)


torch.library.register_vmap("semiconv::forward", _vmap, lib=_library)
