"""semiconv::parametric_forward and _backward: semifields whose parameters are a tensor.

mu of log or p of root has one number, or one for each kernel. Those of a semifield of the user's
own are the rows of a matrix, in its order.

The kernels read the parameter's memory, so its value is no part of a plan, and nobody waits for it.
Called by `parametric`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.algebra.slopes import kept_slopes, with_kernel_slope
from semiconv_cupy.checks import require_derivatives
from semiconv_cupy.source import ARITHMETIC
from torch_bridge.arguments import (
    GeometryArguments,
    ParametricArguments,
    ParametricBackwardArguments,
    schema,
)
from torch_bridge.ops import backward, forward
from torch_bridge.ops.batches import as_groups, with_batch
from torch_bridge.ops.dispatch import goes_straight
from torch_bridge.ops.handles import handle_of_own, held_semifield, semifield_of
from torch_bridge.ops.plans import (
    channels_of,
    mismatch,
    plan_uncached,
    require_parameter,
    storage_of,
)

Results = tuple[Tensor, Tensor]
Gradients = tuple[Tensor, Tensor, Tensor]  # of img, krn, parameter; empty where not requested
Wants = tuple[bool, bool, bool]

_library = torch.library.Library("semiconv", "FRAGMENT")
_library.define(
    f"parametric_forward({schema(ParametricArguments)}) -> (Tensor out, Tensor residual)"
)
_library.define(
    f"parametric_backward({schema(ParametricBackwardArguments)}) -> "
    "(Tensor grad_img, Tensor grad_krn, Tensor grad_parameter)"
)


def call_parametric(
    img: Tensor,
    krn: Tensor,
    parameter: Tensor,
    semifield: str,
    geometry: GeometryArguments,
    residual: bool,
    slopes: bool,
) -> Results:
    """``torch.ops.semiconv.parametric_forward``, which takes a geometry entry by entry."""
    if goes_straight(img, krn, parameter):
        return _forward(img, krn, parameter, semifield, *geometry, residual, slopes)
    results: Results = torch.ops.semiconv.parametric_forward(
        img, krn, parameter, semifield, *geometry, residual, slopes
    )
    return results


def _forward(*flat: Any) -> Results:
    """The operator for CPU and CUDA tensors."""
    given = ParametricArguments.received(*flat)
    return forward.of_tensors(*forward.parametric_straight(*given), given.img)


def call_parametric_backward(
    grad_out: Tensor,
    img: Tensor,
    krn: Tensor,
    parameter: Tensor,
    residual: Tensor,
    semifield: str,
    geometry: GeometryArguments,
    slopes: bool,
    wants: Wants,
) -> Gradients:
    """``torch.ops.semiconv.parametric_backward``, which takes geometry and wants one by one."""
    tensors = grad_out, img, krn, parameter, residual
    constants = (semifield, *geometry, slopes, *wants)
    if goes_straight(*tensors):
        return _backward(*tensors, *constants)
    gradients: Gradients = torch.ops.semiconv.parametric_backward(*tensors, *constants)
    return gradients


def _backward(*flat: Any) -> Gradients:
    """The operator for CPU and CUDA tensors."""
    given = ParametricBackwardArguments.received(*flat)
    grad_out, img, krn, parameter, residual = given[:5]
    shapes = (tuple(img.shape), tuple(krn.shape))
    storage = storage_of(grad_out.dtype, semifield_of(given.semifield), "grad_out", True)
    require_derivatives(storage)
    grad_img, grad_krn = backward.parametric_straight(
        (grad_out, img, krn, residual),
        parameter,
        given.semifield,
        shapes,
        given.geometry,
        given.slopes,
        (given.want_img, given.want_krn),
    )
    if not given.want_parameter:
        return grad_img, grad_krn, parameter.new_empty(0)
    real = getattr(torch, ARITHMETIC[storage])
    if semifield_of(given.semifield).own:
        return grad_img, grad_krn, _by_own(given, real)
    _require_slopes(slopes=given.slopes)
    found = by_slopes(grad_out.to(real), residual, parameter, krn.shape[0])
    return grad_img, grad_krn, found


def _by_own(given: ParametricBackwardArguments, real: torch.dtype) -> Tensor:
    """The gradients of parameters of the user's own, as ``own_gradients`` says of arrays."""
    semifield, parameter, kernels = (
        semifield_of(given.semifield),
        given.parameter,
        given.krn.shape[0],
    )
    kept, shapes = kept_slopes(semifield), (tuple(given.img.shape), tuple(given.krn.shape))
    if kept:
        _require_slopes(slopes=given.slopes)
    tensors = (given.grad_out, given.img, given.krn, given.residual)
    found = parameter.new_zeros((len(semifield.own), kernels), dtype=torch.float64)
    for name, row in zip(semifield.own, found, strict=True):
        by_terms = with_kernel_slope(semifield, name)
        if by_terms is not None:
            constants = (handle_of_own(by_terms).key, shapes, given.geometry, given.slopes)
            by_krn = backward.parametric_straight(tensors, parameter, *constants, (False, True))[1]
            row += by_krn.flatten(1).sum(1, dtype=torch.float64)
        if name in kept and given.grad_out.numel():
            slopes = given.residual[1 + kept.index(name)]
            row += _by_kernels(given.grad_out.to(real), slopes, kernels)
    if channels_of(parameter) == 1:
        found = found.sum(1, keepdim=True)
    return found.to(parameter.dtype)


for _dispatch_key in ("CPU", "CUDA"):
    _library.impl("parametric_forward", _forward, _dispatch_key)
    _library.impl("parametric_backward", _backward, _dispatch_key)


def _require_slopes(*, slopes: bool) -> None:
    if not slopes:
        raise ValueError("want_parameter needs slopes, the forward pass's with slopes=True")


def by_slopes(grad_out: Tensor, residual: Tensor, parameter: Tensor, kernels: int) -> Tensor:
    """The parameter's gradient: the sum over outputs of grad_out times the output's derivative.

    The derivatives are the residual's last plane. Output channel o has kernel o % `kernels`.
    """
    if not grad_out.numel():
        return torch.zeros_like(parameter)
    if parameter.numel() == 1:
        terms = torch.where(grad_out == 0, 0, grad_out * residual[-1])
        found = terms.sum(dtype=torch.float64).view(parameter.shape)
    else:
        found = _by_kernels(grad_out, residual[-1], kernels)
    return found.to(parameter.dtype)


def _by_kernels(grad_out: Tensor, slopes: Tensor, kernels: int) -> Tensor:
    """The sums of grad_out * slopes over the outputs of each kernel, in float64."""
    terms = torch.where(grad_out == 0, 0, grad_out * slopes)
    return terms.flatten(2).sum((0, 2), dtype=torch.float64).view(-1, kernels).sum(0)


@torch.library.register_fake("semiconv::parametric_forward", lib=_library)
def _fake_forward(*flat: Any) -> Results:
    """The results' shapes and dtypes, for torch.compile."""
    given = ParametricArguments.received(*flat)
    img, krn = given.img, given.krn
    if krn.dtype != img.dtype or krn.device != img.device:
        raise mismatch("krn", krn, "img", img)
    require_parameter(given.parameter, img, krn.shape[0])
    held_semifield(given.semifield)
    plan = plan_uncached(
        given.semifield,
        img.dtype,
        img.is_cuda,
        img.shape,
        krn.shape,
        given.geometry,
        given.residual,
        given.slopes,
        channels_of(given.parameter),
    )
    out = img.new_empty(plan.geometry.out_shape)
    return forward.of_tensors(out, forward.new_residual(img, plan), img)


@torch.library.register_fake("semiconv::parametric_backward", lib=_library)
def _fake_backward(*flat: Any) -> Gradients:
    """The gradients' shapes and dtypes, for torch.compile."""
    given = ParametricBackwardArguments.received(*flat)
    held_semifield(given.semifield)
    grad_out, parameter = given.grad_out, given.parameter
    return (
        grad_out.new_empty(given.img.shape if given.want_img else 0),
        grad_out.new_empty(given.krn.shape if given.want_krn else 0),
        parameter.new_empty(parameter.shape if given.want_parameter else 0),
    )


def _vmap_forward(
    info: Any, in_dims: tuple[Any, ...], *flat: Any
) -> tuple[Results, tuple[int, int | None]]:
    """A batch of images as a larger batch; with a batch of kernels or parameters, as groups."""
    given, count = ParametricArguments.received(*flat), info.batch_size
    if semifield_of(given.semifield).own:
        results = _one_by_one(torch.ops.semiconv.parametric_forward, count, in_dims, flat)
        return results, (0, 0)
    img, krn, parameter, geometry = given.img, given.krn, given.parameter, given.geometry
    if in_dims[1] is None and in_dims[2] is None:
        img = img.movedim(in_dims[0], 0).flatten(0, 1)
        axis = 0
    else:
        img = with_batch(img, in_dims[0], count, 1).flatten(1, 2)
        if not _is_one_value(parameter, in_dims[2]):
            parameter = _parameter_of_groups(given, in_dims[1:3], count)
        krn, geometry = as_groups(with_batch(krn, in_dims[1], count, 0), geometry)
        axis = 1
    constants = (given.semifield, geometry, given.residual, given.slopes)
    out, residual = call_parametric(img, krn, parameter, *constants)
    out = out.unflatten(axis, (count, -1))
    if residual.numel() == 0 and out.numel():
        return (out, residual), (axis, None)
    return (out, residual.unflatten(axis + 1, (count, -1))), (axis, axis + 1)


def _vmap_backward(
    info: Any, in_dims: tuple[Any, ...], *flat: Any
) -> tuple[Gradients, tuple[int | None, int | None, int | None]]:
    """A batch as more groups, so that each entry has gradients of its own."""
    given, count = ParametricBackwardArguments.received(*flat), info.batch_size
    if semifield_of(given.semifield).own:
        found = _one_by_one(torch.ops.semiconv.parametric_backward, count, in_dims, flat)
        return found, (0, 0, 0)
    grad_out = with_batch(given.grad_out, in_dims[0], count, 1).flatten(1, 2)
    img = with_batch(given.img, in_dims[1], count, 1).flatten(1, 2)
    own = with_batch(given.krn, in_dims[2], count, 0)
    krn, grouped = as_groups(own, given.geometry)
    of_groups = _parameter_of_groups(given, in_dims[2:4], count)
    parameter = given.parameter if _is_one_value(given.parameter, in_dims[3]) else of_groups
    residual = given.residual
    if residual.numel():
        residual = with_batch(residual, in_dims[4], count, 2).flatten(2, 3)
    wants = given.want_img, given.want_krn, False
    grad_img, grad_krn, grad_parameter = call_parametric_backward(
        grad_out, img, krn, parameter, residual, given.semifield, grouped, given.slopes, wants
    )
    kernels = own.shape[1]
    if given.want_img:
        grad_img = grad_img.unflatten(1, (count, -1))
    if given.want_krn:
        grad_krn = grad_krn.unflatten(0, (count, -1, kernels)).sum(1)
    if given.want_parameter:
        _require_slopes(slopes=given.slopes)
        found = by_slopes(grad_out.to(of_groups.dtype), residual, of_groups, krn.shape[0])
        each = found.unflatten(0, (count, -1, kernels)).sum(1)
        axis = in_dims[3]
        shape = [n for at, n in enumerate(given.parameter.shape) if at != axis]
        one = not shape or shape == [1]
        grad_parameter = each.sum(1).view(count, *shape) if one else each
    wants = given.want_img, given.want_krn, given.want_parameter
    dims = tuple(at if want else None for at, want in zip((1, 0, 0), wants, strict=True))
    return (grad_img, grad_krn, grad_parameter), dims  # type: ignore[return-value]


def _one_by_one(operator: Any, count: int, in_dims: tuple[Any, ...], flat: tuple[Any, ...]) -> Any:
    """An operator of each entry of a batch: parameters of the user's own are rows, no groups."""

    def entry(value: Any, dim: Any, at: int) -> Any:
        batched = isinstance(value, Tensor) and dim is not None
        return value.select(dim, at) if batched else value

    dims = (*in_dims, *(None,) * (len(flat) - len(in_dims)))
    results = [
        operator(*(entry(value, dim, at) for value, dim in zip(flat, dims, strict=True)))
        for at in range(count)
    ]
    return tuple(map(torch.stack, zip(*results, strict=True)))


def _is_one_value(parameter: Tensor, in_dim: int | None) -> bool:
    """Whether one value serves a whole batch.

    It stays one: where the forward pass took ordinary sums, which serve one value, the backward
    pass does.
    """
    return in_dim is None and parameter.numel() == 1


def _parameter_of_groups(given: Any, in_dims: tuple[Any, ...], count: int) -> Tensor:
    """The parameter of each kernel that `as_groups` makes of a batch of kernels."""
    kernels = given.krn.shape[0 if in_dims[0] is None or in_dims[0] > 0 else 1]
    values = with_batch(given.parameter, in_dims[1], count, 0).reshape(count, -1)
    values = values.expand(count, kernels)
    if given.geometry.group_broadcasting and given.geometry.groups > 1:
        values = values[:, None].expand(count, given.geometry.groups, kernels)
    return values.reshape(-1)


torch.library.register_vmap("semiconv::parametric_forward", _vmap_forward, lib=_library)
torch.library.register_vmap("semiconv::parametric_backward", _vmap_backward, lib=_library)
