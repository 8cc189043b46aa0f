"""semiconv::means and ::means_backward: means of windows whose mu or p only kernels read.

``semiconv_cupy.backends.means`` computes them, at every rate. A value of the rate is no part of a
plan, and nobody waits for it. Called by `torch_bridge.window_means`, which gives them a derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from semiconv_cupy.backends.means import Calls, Means, on_gpu, on_host
from semiconv_cupy.source import ARITHMETIC
from torch_bridge.arguments import MeansArguments, MeansBackwardArguments, schema
from torch_bridge.dlpack import gpu
from torch_bridge.ops import means_by_sums
from torch_bridge.ops.batches import with_batch
from torch_bridge.ops.dispatch import goes_straight
from torch_bridge.ops.executors import as_arrays, executor_of
from torch_bridge.ops.parametric import by_slopes
from torch_bridge.ops.plans import require_memory, require_parameter

Results = tuple[Tensor, Tensor]

_library = torch.library.Library("semiconv", "FRAGMENT")
_library.define(f"means({schema(MeansArguments)}) -> (Tensor out, Tensor residual)")
_library.define(
    f"means_backward({schema(MeansBackwardArguments)}) -> (Tensor grad_img, Tensor grad_rate)"
)


def call_means(given: MeansArguments) -> Results:
    """``torch.ops.semiconv.means``."""
    if goes_straight(given.img, given.rate):
        return _means(*given)
    results: Results = torch.ops.semiconv.means(*given)
    return results


def call_means_backward(given: MeansBackwardArguments) -> Results:
    """``torch.ops.semiconv.means_backward``."""
    if goes_straight(given.grad_out, given.residual, given.img, given.rate):
        return _means_backward(*given)
    results: Results = torch.ops.semiconv.means_backward(*given)
    return results


def _means(*flat: Any) -> Results:
    """The operator for CPU and CUDA tensors."""
    given = MeansArguments.received(*flat)
    img, rate = given.img.contiguous(), given.rate.contiguous()
    require_parameter(rate, img, img.shape[1])
    out, residual = _new_results(given)
    if out.numel() and means_by_sums.serve(given):
        return means_by_sums.values_of(given), residual
    if out.numel():
        addresses = [tensor.data_ptr() for tensor in (img, rate, out, residual)]
        if not all(addresses[:2]):
            require_memory(img=given.img, parameter=given.rate)
        _run(img, _calls_of(given).values, addresses)
    return out, residual


def _run(img: Tensor, call: Callable[..., None], addresses: list[int]) -> None:
    """One of the `Calls`, on the executor of the image."""
    executor = executor_of(img.get_device())
    if executor.is_current():
        call(*addresses, executor.threads_or_stream())
        return
    with as_arrays(img):
        call(*addresses, executor.threads_or_stream())


def _calls_of(given: MeansArguments) -> Calls:
    img = given.img
    axes = given.out_size, given.size, given.stride, given.dilation, given.before
    _require_windows(img, *axes)
    return _calls(
        img.get_device(),
        Means(
            given.powers,
            str(img.dtype).removeprefix("torch."),
            given.eps,
            img.shape[0] * img.shape[1],
            given.rate.numel(),
            given.kept,
            tuple(img.shape[2:]),
            *axes,
        ),
    )


def _require_windows(img: Tensor, *axes: Sequence[int]) -> None:
    """ValueError for windows that the kernels would read beyond memory for, or never end with."""
    out_size, size, stride, dilation, before = axes
    ndim = img.dim() - 2
    if any(len(of) != ndim for of in axes) or min(*size, *stride, *dilation) < 1:
        raise ValueError(
            f"out_size, size, stride, dilation and before need {ndim} numbers each for an image of "
            f"shape {tuple(img.shape)}, and size, stride and dilation positive ones, got "
            f"{out_size=}, {size=}, {stride=}, {dilation=}, {before=}"
        )


@lru_cache(maxsize=512)
def _calls(index: int, means: Means) -> Calls:
    """The functions for these windows on the executor of that index."""
    return on_host(means) if index < 0 else on_gpu(means, gpu(index))


def _new_results(given: MeansArguments) -> Results:
    """The result and the residuals, uninitialised."""
    img = given.img
    shape = (img.shape[0], img.shape[1], *given.out_size)
    if not given.kept:
        return img.new_empty(shape), given.rate.new_empty(0)
    return img.new_empty(shape), given.rate.new_empty((given.kept, *shape))


def _means_backward(*flat: Any) -> Results:
    """The operator for CPU and CUDA tensors."""
    given = MeansBackwardArguments.received(*flat)
    if given.grad_out.numel() and means_by_sums.serve(given.forward):
        wants = given.want_img, given.want_rate
        by_img, by_rate = means_by_sums.gradients_of(given.forward, given.grad_out, *wants)
        return by_img, by_rate if given.want_rate else given.rate.new_empty(0)
    img, rate, residual = given.img.contiguous(), given.rate.contiguous(), given.residual
    grad_out = given.grad_out.contiguous()
    if residual.shape != (given.kept, *grad_out.shape) or residual.dtype is not rate.dtype:
        raise ValueError(
            f"residual must be {rate.dtype} of shape {(given.kept, *grad_out.shape)}, got "
            f"{residual.dtype} of shape {tuple(residual.shape)}"
        )
    calls = _calls_of(given.forward) if grad_out.numel() else None
    grad_img = img.new_empty(img.shape if given.want_img else 0)
    if calls is None:
        grad_img.zero_()
    elif grad_img.numel():
        tensors = (grad_out, img, rate, residual.contiguous(), grad_img)
        addresses = [tensor.data_ptr() for tensor in tensors]
        if not all(addresses):
            require_memory(grad_out=grad_out, img=img, parameter=rate, residual=residual)
        _run(img, calls.gradients, addresses)
    if not given.want_rate:
        return grad_img, rate.new_empty(0)
    if given.kept < 3:
        raise ValueError(f"want_rate needs the forward pass's kept=3, got {given.kept}")
    return grad_img, _gradient_of_rate(given, calls, grad_out)


def _gradient_of_rate(
    given: MeansBackwardArguments, calls: Calls | None, grad_out: Tensor
) -> Tensor:
    """The sum over outputs of grad_out times the output's derivative, the residual's last plane."""
    rate, residual = given.rate, given.residual
    if calls is None or calls.rates is None:
        real = getattr(torch, ARITHMETIC[str(given.img.dtype).removeprefix("torch.")])
        return by_slopes(grad_out.to(real), residual, rate, given.img.shape[1])
    found = rate.new_empty(rate.shape)
    sums = rate.new_empty(calls.parts * rate.numel(), dtype=torch.float64)
    tensors = grad_out, residual.contiguous(), sums, found
    _run(grad_out, calls.rates, [tensor.data_ptr() for tensor in tensors])
    return found


for _dispatch_key in ("CPU", "CUDA"):
    _library.impl("means", _means, _dispatch_key)
    _library.impl("means_backward", _means_backward, _dispatch_key)


@torch.library.register_fake("semiconv::means", lib=_library)
def _fake(*flat: Any) -> Results:
    """The results' shapes and dtypes, for torch.compile."""
    given = MeansArguments.received(*flat)
    require_parameter(given.rate, given.img, given.img.shape[1])
    return _new_results(given)


@torch.library.register_fake("semiconv::means_backward", lib=_library)
def _fake_backward(*flat: Any) -> Results:
    """The gradients' shapes and dtypes, for torch.compile."""
    given = MeansBackwardArguments.received(*flat)
    return (
        given.img.new_empty(given.img.shape if given.want_img else 0),
        given.rate.new_empty(given.rate.shape if given.want_rate else 0),
    )


# ---- vmap: a batch is more channels, each with its rate ------------------------------------------


def _vmap(info: Any, in_dims: tuple[Any, ...], *flat: Any) -> tuple[Results, tuple[int, Any]]:
    given, count = MeansArguments.received(*flat), info.batch_size
    img = with_batch(given.img, in_dims[0], count, 1).flatten(1, 2)
    rate = _rates(given.rate, in_dims[1], count, img.shape[1] // count)
    out, residual = call_means(given._replace(img=img, rate=rate))
    if given.kept:
        return (out.unflatten(1, (count, -1)), residual.unflatten(2, (count, -1))), (1, 2)
    return (out.unflatten(1, (count, -1)), residual), (1, None)


def _vmap_backward(
    info: Any, in_dims: tuple[Any, ...], *flat: Any
) -> tuple[Results, tuple[int | None, int | None]]:
    given, count = MeansBackwardArguments.received(*flat), info.batch_size
    grad_out = with_batch(given.grad_out, in_dims[0], count, 1).flatten(1, 2)
    residual = with_batch(given.residual, in_dims[1], count, 2).flatten(2, 3)
    img = with_batch(given.img, in_dims[2], count, 1).flatten(1, 2)
    channels = img.shape[1] // count
    rate = _rates(given.rate, in_dims[3], count, channels)
    many = given._replace(grad_out=grad_out, residual=residual, img=img, rate=rate)
    grad_img, grad_rate = call_means_backward(many)
    if given.want_img:
        grad_img = grad_img.unflatten(1, (count, -1))
    if given.want_rate:
        shape = [n for at, n in enumerate(given.rate.shape) if at != in_dims[3]]
        each = grad_rate.view(count, channels)
        grad_rate = each if shape == [channels] else each.sum(1).view(count, *shape)
    return (grad_img, grad_rate), (
        1 if given.want_img else None,
        0 if given.want_rate else None,
    )


def _rates(rate: Tensor, in_dim: int | None, count: int, channels: int) -> Tensor:
    """The rate of each channel of a whole batch."""
    return with_batch(rate, in_dim, count, 0).reshape(count, -1).expand(count, channels).flatten()


torch.library.register_vmap("semiconv::means", _vmap, lib=_library)
torch.library.register_vmap("semiconv::means_backward", _vmap_backward, lib=_library)
