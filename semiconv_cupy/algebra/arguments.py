"""Checks of the numbers and flags that semifields are made of; errors name the argument."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np

from semiconv_cupy.algebra.recording import SCALARS
from semiconv_cupy.errors import flag


def _real(name: str, value: Any) -> float:
    """The value as a float, or an error that names the argument."""
    text = isinstance(value, str | bytes | bytearray)
    if not text and not isinstance(value, complex | np.complexfloating):
        try:
            return float(value)
        except OverflowError:
            shown = f"{Decimal(value):.3e}" if isinstance(value, int) else repr(value)
            raise ValueError(
                f"{name} must lie in the range of float64, up to 1.8e308, got {name}={shown}"
            ) from None
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{name} must be a real number, got {name}={value!r}")


def checked_number(name: str, value: Any) -> float:
    """The value as a float; TypeError for what is no number, or a tensor that learns."""
    if getattr(value, "requires_grad", False):
        raise TypeError(
            f"{name} must be a number, got a tensor that requires a gradient, which it would not "
            f"get: pass {name}.item() here, and the tensor as {name}= to SemifieldConv or to "
            "functional.semifield_conv of torch_bridge"
        )
    return _real(name, value)


def checked_flags(channels_add: Any, spread_gradient: Any) -> dict[str, Any]:
    return {
        "channels_add": flag("channels_add", channels_add),
        "spread_gradient": flag("spread_gradient", spread_gradient),
    }


def checked_zero(zero: Any) -> float:
    if zero is None:
        raise TypeError("zero is missing: pass the neutral element of the addition")
    if isinstance(zero, tuple | list) or np.ndim(zero) > 0:
        raise TypeError(f"zero must be one number, got zero={zero!r}: {SCALARS}")
    value = _real("zero", zero)
    if math.isnan(value):
        raise ValueError("zero must be a number or +-inf, got zero=nan")
    return value


def checked_parameter(name: str, value: Any) -> float:
    if getattr(value, "requires_grad", False):
        family = {"mu": "log", "p": "root"}[name]
        raise TypeError(
            f"{name} must be a number here, got a tensor that requires a gradient, which a "
            f'semifield does not keep: SemifieldConv("{family}", {name}=...) and '
            f'torch_bridge.functional.semifield_conv(img, krn, "{family}", {name}=...) learn it'
        )
    number = _real(name, value)
    if not math.isfinite(number) or number == 0:
        limits = {
            "mu": "for 0, 'linear' with weights 1/n is the mean, to which the log-mean (log minus "
            "ln(n) / mu) tends; for infinity, 'tropical_max' the maximum",
            "p": "for infinity, 'max_times' is the maximum",
        }
        raise ValueError(f"{name} must be finite and not 0, got {name}={value!r}; {limits[name]}")
    return number
