"""Semifields of whole-array functions, which nothing compiles."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from semiconv_cupy.algebra import laws
from semiconv_cupy.algebra.arguments import checked_flags, checked_parameter, checked_zero
from semiconv_cupy.algebra.compiled import (
    shown_keywords,
)
from semiconv_cupy.algebra.reductions import Extremum, Log, Root, Sum
from semiconv_cupy.modules import broadcast_module


@dataclass(frozen=True)
class BroadcastSemifield:
    """A semifield of whole-array functions, for any device; torch differentiates it by itself.

    Parameters
    ----------
    add_reduce
        ``add_reduce(array, dims) -> array``: the addition over several axes.
    multiply
        ``multiply(a, b) -> array``: the multiplication, broadcasting.
    zero
        The neutral element of the addition.
    add_reduce_channels
        ``add_reduce_channels(array, dim) -> array``: another reduction for the channel axis alone.

    Notes
    -----
    The ready-made ones work on NumPy and CuPy arrays and on torch tensors.

    Examples
    --------
    >>> semifield = BroadcastSemifield.log(2.0)
    >>> semifield
    BroadcastSemifield.log(mu=2.0)
    >>> import numpy as np
    >>> float(semifield.add_reduce(np.array([1e4, 1e4]), (0,)))
    10000.34657359028
    """

    accumulator: ClassVar[str] = "arrays"  # no accumulator of the kernels adds these

    add_reduce: Callable[..., Any]
    multiply: Callable[..., Any]
    zero: float
    add_reduce_channels: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("add_reduce", "multiply"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {getattr(self, name)!r}")
        if self.add_reduce_channels is not None and not callable(self.add_reduce_channels):
            raise TypeError(
                f"add_reduce_channels must be callable or None, got {self.add_reduce_channels!r}"
            )
        object.__setattr__(self, "zero", checked_zero(self.zero))

    @classmethod
    def tropical_max(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> BroadcastSemifield:
        """max, img + krn, as `SelectSemifield.tropical_max`."""
        flags = checked_flags(channels_add, spread_gradient)
        reduce = Extremum(largest=True, spread_gradient=flags["spread_gradient"])
        return cls(reduce, operator.add, -math.inf, Sum() if flags["channels_add"] else None)

    @classmethod
    def tropical_min_negated(
        cls, channels_add: bool = False, spread_gradient: bool = False
    ) -> BroadcastSemifield:
        """min, img - krn, as `SelectSemifield.tropical_min_negated`."""
        flags = checked_flags(channels_add, spread_gradient)
        reduce = Extremum(largest=False, spread_gradient=flags["spread_gradient"])
        return cls(reduce, operator.sub, math.inf, Sum() if flags["channels_add"] else None)

    @classmethod
    def linear(cls) -> BroadcastSemifield:
        """+, img * krn, as `SubtractSemifield.linear`."""
        return cls(Sum(), operator.mul, 0.0)

    @classmethod
    def root(cls, p: float) -> BroadcastSemifield:
        """The p-norm and img * krn, as `SubtractSemifield.root`, on numbers >= 0.

        Negative terms are taken to the power as they are: for even p like their magnitudes, else
        the result is NaN where it is not real.
        """
        value = checked_parameter("p", p)
        return cls(Root(value), operator.mul, 0.0 if value > 0 else math.inf)

    @classmethod
    def log(cls, mu: float) -> BroadcastSemifield:
        """The log-sum-exp and img + krn, as `SubtractSemifield.log`."""
        value = checked_parameter("mu", mu)
        return cls(Log(value), operator.add, -math.inf if value > 0 else math.inf)

    @property
    def of_positive_numbers(self) -> bool:
        """Whether its numbers may all be >= 0: the zero is 0, or it is a root."""
        return self.zero == 0 or isinstance(self.add_reduce, Root)

    def check(
        self, samples: int = 200, seed: int = 0, domain: tuple[float, float] | None = None
    ) -> laws.LawReport:
        """As `SelectSemifield.check`."""
        return laws.check(self, samples, seed, domain)

    def dynamic(self, unfold_copy: bool = False) -> Any:
        """A torch module ``conv(img, krn, stride=1, padding=0, ...)`` for this semifield.

        Parameters
        ----------
        unfold_copy
            Gather the windows by ``torch.nn.functional.unfold``, which copies; 2-D only. By
            default they are a strided view.

        Raises
        ------
        ImportError
            Where `torch_bridge`, whose module it is, has not been imported.
        """
        return broadcast_module(self, unfold_copy=unfold_copy)

    def __repr__(self) -> str:
        reduce, channels = self.add_reduce, self.add_reduce_channels is not None
        name, keywords = None, {}
        if isinstance(reduce, Extremum):
            name = "tropical_max" if reduce.largest else "tropical_min_negated"
            keywords = {"channels_add": channels, "spread_gradient": reduce.spread_gradient}
        elif isinstance(reduce, Sum):
            name = "linear"
        elif isinstance(reduce, Root | Log):
            name = "root" if isinstance(reduce, Root) else "log"
            keywords = vars(reduce)
        if name is not None and self == getattr(BroadcastSemifield, name)(**keywords):
            shown = {key: value for key, value in keywords.items() if value is not False}
            return f"BroadcastSemifield.{name}({shown_keywords(shown)})"
        parts = [f"add_reduce={reduce!r}", f"multiply={self.multiply!r}", f"zero={self.zero!r}"]
        if channels:
            parts.append(f"add_reduce_channels={self.add_reduce_channels!r}")
        return f"BroadcastSemifield({', '.join(parts)})"
