"""semiconv::backward: the gradients of image and kernel, or one of them.

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
from semiconv_cupy.backends import by_sums
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.checks import require_derivatives
from semiconv_cupy.residual import is_provenance, needs_arrays, residual_of
from semiconv_cupy.route import Route
from semiconv_cupy.source import ARITHMETIC
from semiconv_cupy.strides import contiguous_strides
from torch_bridge.arguments import BackwardArguments, GeometryArguments, Shape, schema
from torch_bridge.dlpack import array_of
from torch_bridge.ops.batches import as_groups, with_batch
from torch_bridge.ops.dispatch import goes_straight
from torch_bridge.ops.executors import Executor, as_arrays, executor_of
from torch_bridge.ops.handles import held_semifield, parted, semifield_of
from torch_bridge.ops.plans import (
    MOST_PLANS,
    Plan,
    Values,
    as_given,
    channels_of,
    mismatch,
    plan_cached,
    received,
    require_memory,
    require_parameter,
    route_of,
    torch_dtype,
)

Gradients = tuple[Tensor, Tensor]  # of img and of krn; empty where it was not requested
Wants = tuple[bool, bool]
# grad_out, img, krn, residual: without one, None or an empty tensor
Given = tuple[Tensor, "Tensor | None", "Tensor | None", "Tensor | None"]
Call = Callable[..., Gradients]  # of these, and of values of parameters
Check = Callable[[Tensor, "Tensor | None", "Tensor | None", "Tensor | None"], None]

_library = torch.library.Library("semiconv", "FRAGMENT")
_library.define(f"backward({schema(BackwardArguments)}) -> (Tensor grad_img, Tensor grad_krn)")


def call_backward(
    grad_out: Tensor,
    img: Tensor | None,
    krn: Tensor | None,
    residual: Tensor | None,
    semifield: str,
    shapes: tuple[Shape, Shape],
    geometry: GeometryArguments,
    wants: Wants,
) -> Gradients:
    """``torch.ops.semiconv.backward``, which takes shapes, geometry and wants entry by entry."""
    given = grad_out, img, krn, residual
    if goes_straight(*given):
        return _straight(given, semifield, shapes, geometry, wants)
    kept = grad_out.new_empty(0) if residual is None else residual
    gradients: Gradients = torch.ops.semiconv.backward(
        grad_out, img, krn, kept, semifield, *shapes, *geometry, *wants
    )
    return gradients


def _straight(
    given: Given,
    semifield: str,
    shapes: tuple[Shape, Shape],
    geometry: GeometryArguments,
    wants: Wants,
) -> Gradients:
    """The gradients by the call that was prepared for the tensors' layout."""
    grad_out, img, *_ = given
    strides = None if img is None else img.stride()
    device, (unbound, numbers) = grad_out.get_device(), parted(semifield)
    call = _prepared(grad_out.dtype, device, strides, unbound, shapes, geometry, wants)
    return call(*given, numbers) if numbers else call(*given)


def parametric_straight(
    given: Given,
    parameter: Tensor,
    semifield: str,
    shapes: tuple[Shape, Shape],
    geometry: GeometryArguments,
    slopes: bool,
    wants: Wants,
) -> Gradients:
    """`_straight` of a semifield whose parameter is a tensor."""
    grad_out, img, *_ = given
    require_parameter(parameter, grad_out, shapes[1][0])
    layout = grad_out.dtype, grad_out.get_device(), None if img is None else img.stride()
    constants = (semifield, shapes, geometry, wants)
    call = _prepared(*layout, *constants, slopes, channels_of(parameter))
    return call(*given, parameter.contiguous())


def _backward(*flat: Any) -> Gradients:
    """The operator for CPU and CUDA tensors."""
    given = BackwardArguments.received(*flat)
    shapes, wants = (given.img_shape, given.krn_shape), (given.want_img, given.want_krn)
    return _straight(given[:4], given.semifield, shapes, given.geometry, wants)


for _dispatch_key in ("CPU", "CUDA"):
    _library.impl("backward", _backward, _dispatch_key)


@lru_cache(maxsize=MOST_PLANS)
def _prepared(
    dtype: torch.dtype,
    index: int,
    img_strides: tuple[int, ...] | None,
    semifield: str,
    shapes: tuple[Shape, Shape],
    geometry: GeometryArguments,
    wants: Wants,
    slopes: bool = False,
    channels: int = 1,
) -> Call:
    """The call for tensors of this layout on the executor of that index."""
    executor, (img_shape, krn_shape) = executor_of(index), map(tuple, shapes)
    if min(img_shape, default=0) < 0:
        raise ValueError(f"img_shape must not be negative, got {img_shape}")
    plan = plan_cached(
        semifield, dtype, executor.on_gpu, img_shape, krn_shape, geometry, True, slopes, channels
    )
    require_derivatives(plan.storage)  # winners alone are planned in every dtype
    if img_strides is not None and len(img_strides) != len(img_shape):
        raise ValueError(f"img must have shape {img_shape}, got {len(img_strides)} axes")
    return prepare_backward(plan, executor, dtype, img_strides, wants)


def prepare_backward(
    plan: Plan,
    executor: Executor,
    dtype: torch.dtype,
    img_strides: tuple[int, ...] | None,
    wants: Wants,
) -> Call:
    """The call for tensors of this plan, and an image of these strides (None: no image)."""
    (want_img, want_krn), geometry = wants, plan.geometry
    img_shape, krn_shape = geometry.img_shape, geometry.krn_shape
    check = _check_of_tensors(plan, dtype, executor.index)
    real = getattr(torch, ARITHMETIC[plan.storage])
    copies = img_strides is not None and _route(plan, executor).needs_contiguous_image(img_strides)
    if copies:
        img_strides = contiguous_strides(img_shape)
    launch = _launch(plan, executor, img_strides, wants)
    is_current, threads_or_stream = executor.is_current, executor.threads_or_stream
    keeps_residual, alignment = plan.residual_spec is not None, dtype.itemsize
    kind = {} if real is dtype else {"dtype": real}

    def call(
        grad_out: Tensor,
        img: Tensor | None,
        krn: Tensor | None,
        residual: Tensor | None,
        *values: Values,
    ) -> Gradients:
        check(grad_out, img, krn, residual)
        grad_out, image, kernel, kept = grad_out.contiguous(), None, None, None
        if residual is not None:
            residual = residual.contiguous()
            kept = residual.data_ptr()
        if krn is not None:
            krn = krn.contiguous()
            kernel = krn.data_ptr()
        if img is not None:
            img = img.contiguous() if copies else img
            image = img.data_ptr()
        gradient = grad_out.data_ptr()
        if not gradient or (keeps_residual and not kept) or image == 0 or kernel == 0:
            require_memory(grad_out=grad_out, img=img, krn=krn, residual=residual)
        unaligned = ((image or 0) | (kernel or 0) | gradient) % alignment
        missing = keeps_residual and not kept
        if launch is None or unaligned or missing or not is_current():
            given = (grad_out, img, krn, residual)
            return _by_arrays(given, plan, wants, executor, values)
        grad_img = grad_out.new_empty(img_shape if want_img else 0, **kind)
        grad_krn = grad_out.new_empty(krn_shape if want_krn else 0, **kind)
        grads = grad_img.data_ptr() or None, grad_krn.data_ptr() or None
        launch(
            GradientArrays(gradient, image, kernel, kept or None, *grads),
            threads_or_stream(),
            *map(received, values),
        )
        if real is not dtype:
            grad_img, grad_krn = grad_img.to(dtype), grad_krn.to(dtype)
        return grad_img, grad_krn

    return call


def _route(plan: Plan, executor: Executor) -> Route:
    """The route of the backward pass."""
    return route_of(plan, executor).after(plan.residual_spec)


def _launch(
    plan: Plan, executor: Executor, img_strides: tuple[int, ...] | None, wants: Wants
) -> Callable[..., None] | None:
    """The core's function of addresses; None where array loops serve or nothing is to be done."""
    geometry = plan.geometry
    if 0 in geometry.out_shape or 0 in geometry.img_shape or not any(wants):
        return None
    route = _route(plan, executor)
    strides = img_strides or (0,) * len(geometry.img_shape)
    return run.backward_at(route, strides, contiguous_strides(geometry.krn_shape), wants)


def _check_of_tensors(plan: Plan, dtype: torch.dtype, index: int) -> Check:
    """A function that raises for tensors which cannot come from the plan's forward pass.

    It compares shapes, dtypes and devices. It does not read the indices of winning taps: the
    kernels skip indices that no tap has.
    """
    semifield, geometry = plan.semifield, plan.geometry
    needed = needs_arrays(semifield)
    arrays = (("img", geometry.img_shape), ("krn", geometry.krn_shape))
    out_shape = geometry.out_shape
    spec = plan.residual_spec if plan.slopes else residual_of(semifield, plan.storage, geometry)
    # A forward pass by ordinary sums keeps no residual. On a GPU the number of outputs decides
    # about them, and torch.func.vmap changes that number between the two passes: so where ordinary
    # sums apply, a residual may be there or not.
    alone = plan.channels == 1 and not plan.slopes
    by_sums_alone = by_sums.applies(semifield) and alone
    optional = spec is None or by_sums_alone or 0 in out_shape
    kept_shape, kept_dtype = None if spec is None else spec.shape, torch_dtype(spec)

    def check(
        grad_out: Tensor, img: Tensor | None, krn: Tensor | None, residual: Tensor | None
    ) -> None:
        if grad_out.shape != out_shape:
            raise ValueError(f"grad_out must have shape {out_shape}, got {tuple(grad_out.shape)}")
        kept = residual is not None and (
            residual.shape == kept_shape
            and residual.dtype is kept_dtype
            and residual.get_device() == index
        )
        if not (kept or (optional and (residual is None or not residual.numel()))):
            found = (
                "none"
                if residual is None
                else (f"{tuple(residual.shape)} and {residual.dtype} on {residual.device}")
            )
            raise ValueError(
                f"residual must be what the forward pass returned, of shape {kept_shape} and "
                f"dtype {kept_dtype} on {grad_out.device}, got {found}"
            )
        if not needed and img is None and krn is None:
            return
        for (name, shape), tensor in zip(arrays, (img, krn), strict=True):
            if tensor is None:
                if needed:
                    raise ValueError(f"{name} is None, but {semifield!r} is differentiated by it")
                continue
            if tensor.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
            if tensor.dtype is not dtype or tensor.get_device() != index:
                raise mismatch(name, tensor, "grad_out", grad_out)

    return check


def _by_arrays(
    given: Given, plan: Plan, wants: Wants, executor: Executor, values: tuple[Values, ...]
) -> Gradients:
    """The gradients by NumPy or CuPy arrays, where addresses cannot be used."""
    grad_out, img, krn, residual = given
    if not any(wants):
        return grad_out.new_empty(0), grad_out.new_empty(0)
    want_img, want_krn = wants
    real = getattr(torch, ARITHMETIC[plan.storage])
    grad_img = grad_out.new_zeros(plan.geometry.img_shape if want_img else 0, dtype=real)
    grad_krn = grad_out.new_empty(plan.geometry.krn_shape if want_krn else 0, dtype=real)
    with as_arrays(grad_out):
        tensors = GradientArrays(
            grad_out,
            img,
            krn,
            None if residual is None or not residual.numel() else residual,
            grad_img if want_img else None,
            grad_krn if want_krn else None,
        )
        arrays = tensors.each(array_of)
        run.backward(
            route_of(plan, executor),
            arrays,
            threads=torch.get_num_threads(),
            value=as_given(values, plan.semifield),
        )
    return grad_img.to(grad_out.dtype), grad_krn.to(grad_out.dtype)


@torch.library.register_fake("semiconv::backward", lib=_library)
def _fake(*flat: Any) -> Gradients:
    """The gradients' shapes and dtypes, for torch.compile."""
    given = BackwardArguments.received(*flat)
    grad_out = given.grad_out
    for name, tensor in (("img", given.img), ("krn", given.krn), ("residual", given.residual)):
        if tensor is not None and tensor.device != grad_out.device:
            raise mismatch(name, tensor, "grad_out", grad_out)
    held_semifield(given.semifield)
    return (
        grad_out.new_empty(given.img_shape if given.want_img else 0),
        grad_out.new_empty(given.krn_shape if given.want_krn else 0),
    )


def _vmap(
    info: Any, in_dims: tuple[Any, ...], *flat: Any
) -> tuple[Gradients, tuple[int | None, int | None]]:
    """A batch as more groups, so that each entry has a kernel gradient of its own."""
    given, count = BackwardArguments.received(*flat), info.batch_size
    img, krn, residual, geometry = given.img, given.krn, given.residual, given.geometry
    img_shape, krn_shape = given.img_shape, given.krn_shape
    kernels, grouped = as_groups(torch.empty(count, *krn_shape, device="meta"), geometry)
    grad_out = with_batch(given.grad_out, in_dims[0], count, 1).flatten(1, 2)
    if img is not None:
        img = with_batch(img, in_dims[1], count, 1).flatten(1, 2)
    if krn is not None:
        krn = as_groups(with_batch(krn, in_dims[2], count, 0), geometry)[0]
    if residual.numel():
        to = 1 + (not is_provenance(semifield_of(given.semifield)))
        residual = with_batch(residual, in_dims[3], count, to).flatten(to, to + 1)
    shapes = (img_shape[0], count * img_shape[1], *img_shape[2:]), tuple(kernels.shape)
    wants = given.want_img, given.want_krn
    grad_img, grad_krn = call_backward(
        grad_out, img, krn, residual, given.semifield, shapes, grouped, wants
    )
    if given.want_img:
        grad_img = grad_img.unflatten(1, (count, -1))
    if given.want_krn:
        repeats = kernels.shape[0] // (count * krn_shape[0])
        grad_krn = grad_krn.unflatten(0, (count, repeats, krn_shape[0])).sum(1)
    return (grad_img, grad_krn), (1 if given.want_img else None, 0 if given.want_krn else None)


torch.library.register_vmap("semiconv::backward", _vmap, lib=_library)
