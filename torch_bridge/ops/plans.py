"""What an operator needs besides its tensors, planned from their shapes and dtypes alone.

Called by both operators, which share the errors at the end, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semiconv_cupy import checks
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import Residual, is_provenance, residual_of, slopes_alone
from semiconv_cupy.route import Route, choose, goes_by_sums
from semiconv_cupy.source import BOOLEAN, FLOATING, INTEGER
from semiconv_cupy.structs import Parameters
from torch_bridge.arguments import GeometryArguments
from torch_bridge.dlpack import array_of
from torch_bridge.ops.executors import Executor
from torch_bridge.ops.handles import semifield_of

# A tensor's, or numbers, of all parameters.
Values = Tensor | tuple[float, ...]

_STORAGES = {getattr(torch, name): name for name in (*FLOATING, *INTEGER, BOOLEAN)}

# Plans hold their semifields; a few hundred layouts are more than a training run has.
MOST_PLANS = 512


class Plan(NamedTuple):
    """The semifield, the geometry and the dtype of a call, and what its derivative needs.

    `channels` is the number of values of a parameter that is a tensor: 1, or one for each kernel.
    `slopes` says whether the residual ends with the outputs' derivatives by it.
    """

    semifield: Semifield
    geometry: Geometry
    storage: str
    residual_spec: Residual | None  # None: the forward pass keeps nothing for the derivative
    residual_dtype: torch.dtype | None  # that of `residual_spec` in torch
    slopes: bool = False
    channels: int = 1


def plan_uncached(
    key: str,
    dtype: torch.dtype,
    on_gpu: bool,
    img_shape: Sequence[int],
    krn_shape: Sequence[int],
    arguments: GeometryArguments,
    derivative: bool,
    slopes: bool = False,
    channels: int = 1,
) -> Plan:
    """The plan of one call, without a cache: sizes may be symbols.

    What a derivative needs may depend on the number of outputs, so it is planned for a derivative
    only: a traced program without one must not depend on its batch size.

    Raises
    ------
    TypeError
        A dtype that the semifield has no meaning for, or no derivative.
    """
    semifield = semifield_of(key)
    storage = storage_of(dtype, semifield, "img", derivative)
    geometry = arguments.plan(img_shape, krn_shape)
    residual_spec = None
    if derivative:
        sums = goes_by_sums(
            semifield, geometry, "auto", on_gpu=on_gpu, channels=channels, slopes=slopes
        )
        if not sums:
            residual_spec = residual_of(semifield, storage, geometry, slopes=slopes)
        elif slopes:
            residual_spec = slopes_alone(storage, geometry)
    kept = torch_dtype(residual_spec)
    return Plan(semifield, geometry, storage, residual_spec, kept, slopes, channels)


def storage_of(dtype: torch.dtype, semifield: Semifield, argument: str, derivative: bool) -> str:
    """The storage name of an argument's dtype.

    Raises
    ------
    TypeError
        A dtype that the semifield has no meaning for, or no derivative; the winners of selections
        are found in every dtype.
    """
    storage = _STORAGES.get(dtype)
    if storage is None:
        supported = ", ".join(_STORAGES.values())
        raise TypeError(f"{argument} has dtype {dtype}; supported are {supported}")
    if derivative and storage not in FLOATING and not is_provenance(semifield):
        raise TypeError(f"derivatives need a floating dtype, got {dtype}")
    checks.require_meaning(storage, semifield)
    return storage


plan_cached = lru_cache(maxsize=MOST_PLANS)(plan_uncached)


def route_of(plan: Plan, executor: Executor) -> Route:
    """How the core computes a call of this plan on the executor."""
    place = executor.place()
    return choose(
        plan.semifield,
        plan.geometry,
        plan.storage,
        place,
        slopes=plan.slopes,
        channels=plan.channels,
    )


def torch_dtype(residual_spec: Residual | None) -> torch.dtype | None:
    """The torch dtype of a residual."""
    return None if residual_spec is None else getattr(torch, residual_spec.dtype.name)


def mismatch(name: str, tensor: Tensor, other_name: str, other: Tensor) -> TypeError:
    """The error for a tensor whose dtype or device is not that of the other tensor."""
    return TypeError(
        f"{name} is {tensor.dtype} on {tensor.device}, and {other_name} {other.dtype} on "
        f"{other.device}"
    )


def require_memory(**tensors: Tensor | None) -> None:
    """Raise for a tensor whose storage was freed, as `untyped_storage().resize_(0)` does."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.numel() and not tensor.data_ptr():
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} has no memory: it was freed")


def require_parameter(parameter: Tensor, img: Tensor, kernels: int) -> None:
    """Raise for a parameter that kernels cannot read: they trust its dtype, device and size."""
    real = torch.float64 if img.dtype is torch.float64 else torch.float32
    if parameter.dtype is not real or parameter.get_device() != img.get_device():
        raise TypeError(
            f"the parameter must be {real} on {img.device}, got {parameter.dtype} on "
            f"{parameter.device}"
        )
    *count, one = parameter.shape or (1,)  # several parameters are rows
    if len(count) > 1 or one not in (1, kernels):
        raise ValueError(
            f"the parameter must have one value or {kernels}, got shape {tuple(parameter.shape)}"
        )


def channels_of(parameter: Tensor) -> int:
    """How many values a parameter has: 1, or one for each kernel."""
    return parameter.shape[-1] if parameter.dim() else 1


def received(values: Values) -> Parameters:
    """The values of parameters as launches take them: numbers, or a contiguous tensor's memory."""
    if isinstance(values, tuple):
        return _of_numbers(values)
    return Parameters.of_memory(values.data_ptr(), channels_of(values))


_of_numbers = lru_cache(maxsize=32)(Parameters.of_numbers)


def as_given(values: tuple[Values, ...], semifield: Semifield) -> Any:
    """The same for calls by arrays; None for none."""
    if not values:
        return None
    (value,) = values
    if isinstance(value, tuple):
        return value if semifield.own else value[0]
    array = array_of(value)
    return tuple(array) if semifield.own else array
