"""Quadratic kernels by one compiled function, and the gradients of their parameters by another.

By tensors a kernel takes up to 20 small operations, and as many backward, in each step of training.
Those remain for all that compiled functions do not do: traces, transforms, forward mode, second
derivatives. Called by `kernels`, which say how tensors compute a kernel at given offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from semiconv_cupy.backends.device import Driver
from semiconv_cupy.backends.quadratic import Family, Parametrisation, on_gpu, on_host, serves
from semiconv_cupy.errors import BackendUnavailableError
from semiconv_cupy.source import FLOATING
from semiconv_cupy.strides import contiguous_strides
from torch_bridge.dlpack import gpu
from torch_bridge.ops.dispatch import PLAIN_CLASSES, goes_straight
from torch_bridge.ops.executors import executor_of
from torch_bridge.ops.node import Node, Operand, Work, kept, library
from torch_bridge.ops.plans import require_memory
from torch_bridge.quadratic.offsets import offsets

_STORAGES = {getattr(torch, name): name for name in FLOATING}
_WIDE = (torch.float32, torch.float64)
_PLAIN_OR_NONE = (*PLAIN_CLASSES, type(None))


def quadratic_kernel(
    parametrisation: Parametrisation,
    channels: tuple[int, int],
    sizes: tuple[int, ...],
    log_std: Tensor,
    pairs: Tensor | None,
    values: Callable[..., Tensor],
) -> Tensor:
    """The kernel (O, I, *K) for channels (O, I); `values` computes it by tensors.

    It is a function of (log_std, pairs, offsets). It is kept for other kernels of its kind, so it
    holds no module.

    The parameters are those of `covariances`; an isotropic kernel has no `pairs`.
    """
    if torch.compiler.is_compiling():  # `_Composed` is none of a trace's objects
        return values(log_std, pairs, offsets(sizes, log_std))
    wanted = parametrisation, channels, sizes, log_std.dtype, log_std.get_device()
    if log_std.is_cuda and type(log_std) in PLAIN_CLASSES and log_std.dtype in _WIDE:
        family = _family(*wanted)
        if family is not None and family.node is not None and type(pairs) in _PLAIN_OR_NONE:
            found = family.node(log_std, pairs)
            if found is not None:
                return found
    composed = _Composed(values, sizes)
    if not _is_plain(log_std, pairs):
        return composed(log_std, pairs)
    family = _family(*wanted)
    if family is None or not family.is_current():
        return composed(log_std, pairs)
    if torch.is_grad_enabled() and (
        log_std.requires_grad or (pairs is not None and pairs.requires_grad)
    ):
        recorded: Tensor | None = family.by_new_node(log_std, pairs, composed)
        if recorded is None:
            recorded = _Recorded.apply(log_std, pairs, family, composed)
        return recorded
    return family.values(log_std, pairs)


@dataclass(frozen=True)
class _Composed:
    """A kernel by tensors, of parameters alone; equal ones share a node."""

    values: Callable[..., Tensor]
    sizes: tuple[int, ...]

    def __call__(self, log_std: Tensor, pairs: Tensor | None) -> Tensor:
        return self.values(log_std, pairs, offsets(self.sizes, log_std))


def _is_plain(log_std: Tensor, pairs: Tensor | None) -> bool:
    """Whether nothing but autograd's reverse mode watches, and the dtypes are one."""
    if not goes_straight(log_std, pairs) or forward_ad._current_level >= 0:
        return False
    if pairs is not None and (pairs.dtype is not log_std.dtype or pairs.device != log_std.device):
        return False
    # Autocast computes exp in float32.
    return log_std.dtype in _WIDE or not torch.is_autocast_enabled(log_std.device.type)


class _Family:
    """The compiled functions of one family of kernels, called with tensors."""

    def __init__(self, family: Family, shape: tuple[int, ...], index: int) -> None:
        executor = executor_of(index)
        calls = on_host(family) if index < 0 else on_gpu(family, gpu(index))
        self._values, self._gradients, self._launches = calls
        self._shape = shape
        self.node: Node | None = None  # the one that served last
        self.is_current, self._threads_or_stream = executor.is_current, executor.threads_or_stream

    def values(self, log_std: Tensor, pairs: Tensor | None) -> Tensor:
        """The kernel."""
        log_std, pairs = _contiguous(log_std), _contiguous(pairs)
        krn = log_std.new_empty(self._shape)
        self._values(*_addresses(log_std, pairs), krn.data_ptr(), self._threads_or_stream())
        return krn

    def by_new_node(
        self, log_std: Tensor, pairs: Tensor | None, composed: _Composed
    ) -> Tensor | None:
        """The kernel, recorded by a `Node` for these parameters; None where none serves."""
        functions = None if self._launches is None else library()
        if functions is None:
            return None
        operands = _operand(log_std), _operand(pairs)
        self.node = _kept_node(functions, self, operands, log_std.dtype, composed)
        return None if self.node is None else self.node(log_std, pairs)

    def prepare_node(
        self,
        functions: Any,
        operands: tuple[Operand | None, Operand | None],
        empty: Tensor,
        driver: Driver,
        composed: _Composed,
    ) -> Node | None:
        """The node for parameters of these layouts, of the dtype of `empty` and on its device."""
        first, second = operands
        if self._launches is None or first is None:
            return None
        for operand in operands:
            if operand is not None and operand.strides != contiguous_strides(operand.sizes):
                return None
        work = Work(
            first=first,
            second=second,
            out_shape=self._shape,
            residual_shape=None,
            tensor=empty,
            gradients=empty,
            residual=empty,
            saves_tensors=True,
        )

        # With no node of its own, which would keep the node alive that keeps it: no collector finds
        # a cycle that goes through C++.
        family = copy(self)
        family.node = None

        def by_python(
            grad: Tensor, log_std: Tensor, pairs: Tensor | None, _: None, *wants: bool
        ) -> tuple[Tensor | None, Tensor | None]:
            found = _gradients(family, composed, log_std, pairs, grad)
            return found[0] if wants[0] else None, found[1] if wants[1] else None

        return Node(functions, work, self._launches, driver, by_python)

    def gradients(
        self, log_std: Tensor, pairs: Tensor | None, grad: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Those of the parameters, for the kernel's."""
        log_std, pairs, grad = _contiguous(log_std), _contiguous(pairs), grad.contiguous()
        of_log_std = torch.empty_like(log_std)
        of_pairs = None if pairs is None else torch.empty_like(pairs)
        self._gradients(
            *_addresses(log_std, pairs),
            grad.data_ptr(),
            of_log_std.data_ptr(),
            0 if of_pairs is None else of_pairs.data_ptr(),
            self._threads_or_stream(),
        )
        return of_log_std, of_pairs


def _operand(tensor: Tensor | None) -> Operand | None:
    if tensor is None:
        return None
    return Operand(tuple(tensor.shape), tensor.stride(), tensor.requires_grad)


@kept(512)
def _kept_node(
    functions: Any,
    family: _Family,
    operands: tuple[Operand | None, Operand | None],
    dtype: torch.dtype,
    composed: _Composed,
) -> Node | None:
    """The node of a family on the current GPU."""
    empty = torch.empty(0, dtype=dtype, device="cuda")
    driver = gpu(empty.get_device()).driver()
    return family.prepare_node(functions, operands, empty, driver, composed)


def _contiguous(tensor: Any) -> Any:
    return None if tensor is None else tensor.contiguous()


def _addresses(log_std: Tensor, pairs: Tensor | None) -> tuple[int, int]:
    first = log_std.data_ptr()
    if not first or (pairs is not None and pairs.numel() and not pairs.data_ptr()):
        require_memory(log_std=log_std, pairs=pairs)
    return first, 0 if pairs is None else pairs.data_ptr()


@lru_cache(maxsize=512)
def _family(
    parametrisation: Parametrisation,
    channels: tuple[int, int],
    sizes: tuple[int, ...],
    dtype: torch.dtype,
    index: int,
) -> _Family | None:
    """The functions for parameters of that dtype on the executor of that index.

    None where nothing compiles: without a C++ compiler, or CuPy for a GPU.
    """
    if dtype not in _STORAGES or not serves(sizes):
        return None
    family = Family(parametrisation, _STORAGES[dtype], sizes, channels[0] * channels[1])
    try:
        return _Family(family, (*channels, *sizes), index)
    except BackendUnavailableError:
        return None


class _Recorded(torch.autograd.Function):
    """(log_std, pairs or None) -> the kernel."""

    @staticmethod
    def forward(
        ctx: Any, log_std: Tensor, pairs: Tensor | None, family: _Family, composed: _Composed
    ) -> Tensor:
        ctx.save_for_backward(log_std, pairs)
        ctx.family, ctx.composed = family, composed
        return family.values(log_std, pairs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        log_std, pairs = ctx.saved_tensors
        return *_gradients(ctx.family, ctx.composed, log_std, pairs, grad), None, None


def _gradients(
    family: _Family, composed: _Composed, log_std: Tensor, pairs: Tensor | None, grad: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    watched = torch.is_grad_enabled() or not goes_straight(grad, log_std, pairs)
    if watched or not family.is_current():
        return _by_tensors(composed, log_std, pairs, grad)
    return family.gradients(log_std, pairs, grad)


def _by_tensors(
    composed: _Composed, log_std: Tensor, pairs: Tensor | None, grad: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients by tensors, themselves differentiable where gradients are recorded."""
    records = torch.is_grad_enabled()
    given = [log_std, pairs]
    asked = [tensor for tensor in given if tensor is not None and tensor.requires_grad]
    with torch.enable_grad():
        krn = composed(log_std, pairs)
        found = iter(torch.autograd.grad(krn, asked, grad, create_graph=records))
    of_log_std, of_pairs = (
        next(found) if tensor is not None and tensor.requires_grad else None for tensor in given
    )
    return of_log_std, of_pairs
