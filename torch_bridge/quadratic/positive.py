"""Kernels that are positive by construction, as roots need them: exp or softplus of another one.

The other one is quadratic, or a free parameter. Called by `kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

Positive = Literal["softplus", "exp"]


class _Map(NamedTuple):
    """A function to the positive numbers, and the argument that it maps to 1."""

    function: Callable[[Tensor], Tensor]
    at_one: float


_MAPS = {
    "softplus": _Map(softplus, math.log(math.e - 1)),
    "exp": _Map(torch.exp, 0.0),
}


def checked(positive: Any) -> Positive | None:
    """The argument `positive` of a kernel; a ValueError for anything but its names and None."""
    if positive is None or (isinstance(positive, str) and positive in _MAPS):
        return positive  # type: ignore[return-value]
    raise ValueError(f"positive must be one of {list(_MAPS)} or None, got {positive!r}")


def mapped(values: Tensor, positive: Positive | None) -> Tensor:
    """The values, made positive where that is asked for."""
    return values if positive is None else _MAPS[positive].function(values)


def centre(positive: Positive | None) -> float:
    """The parameter around which a free kernel starts: it stands for the neutral element.

    That is 0 of kernels that are added, and 1 of positive ones, which multiply.
    """
    return 0.0 if positive is None else _MAPS[positive].at_one
