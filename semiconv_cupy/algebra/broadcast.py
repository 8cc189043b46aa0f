"""Semifields of whole-array functions, which nothing compiles."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from semiconv_cupy.algebra import laws
from semiconv_cupy.algebra.arguments import checked_flags, checked_parameter, checked_zero
from semiconv_cupy.algebra.compiled import shown_keywords
from semiconv_cupy.algebra.own import (
    changed,
    checked_parameters,
    checked_value,
    named_by,
    unused_parameters,
)
from semiconv_cupy.algebra.reductions import Extremum, Log, Root, Sum
from semiconv_cupy.modules import broadcast_module


class _Values(dict[str, float]):
    """Parameters, by which a frozen dataclass has a hash."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


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
    parameters : mapping of names to numbers, optional
        Numbers that these functions take by name, as of `SubtractSemifield`. Calls give others as
        keywords, each one number, also as an array or a tensor, by which torch differentiates.

    See Also
    --------
    SelectSemifield, SubtractSemifield : Scalar functions, which are compiled.

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
    parameters: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name in ("add_reduce", "multiply"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {getattr(self, name)!r}")
        if self.add_reduce_channels is not None and not callable(self.add_reduce_channels):
            raise TypeError(
                f"add_reduce_channels must be callable or None, got {self.add_reduce_channels!r}"
            )
        object.__setattr__(self, "zero", checked_zero(self.zero))
        values = _Values({} if self.parameters is None else checked_parameters(self.parameters))
        object.__setattr__(self, "parameters", values)
        functions = (self.add_reduce, self.multiply, self.add_reduce_channels)
        taken = {name for f in functions if f is not None for name in named_by(f, 2, self.own)}
        if taken != set(values):
            raise unused_parameters([name for name in values if name not in taken])

    @property
    def own(self) -> tuple[str, ...]:
        """The names of its parameters."""
        return tuple(self.parameters or ())

    def with_parameters(self, **values: float) -> BroadcastSemifield:
        """As `SubtractSemifield.with_parameters`."""
        if not self.own:
            raise TypeError(f"{self!r} has no parameters of its own")
        return dataclasses.replace(self, parameters=changed(self.parameters or {}, values, self))

    def called_with(self, **values: Any) -> BroadcastSemifield:
        """The functions with these values of parameters and its own of the others; for one call.

        Raises
        ------
        TypeError
            A name that `parameters` does not have.
        ValueError
            A number that is not finite, or an array or a tensor of several numbers.
        """
        if not self.own:
            return self
        found: dict[str, Any] = dict(self.parameters or {})
        for name, value in values.items():
            if name not in found:
                raise TypeError(f"{self!r} has no parameter {name!r}; it has {', '.join(self.own)}")
            shape = getattr(value, "shape", None)
            if shape is not None and math.prod(shape) != 1:
                raise ValueError(
                    f"{name} must be one number for a BroadcastSemifield, got shape {tuple(shape)}"
                )
            found[name] = checked_value(name, value) if shape is None else value

        def bound(function: Callable[..., Any] | None) -> Any:
            names = [] if function is None else named_by(function, 2, self.own)
            taken = {name: found[name] for name in names}
            return functools.partial(function, **taken) if function and taken else function

        functions = map(bound, (self.add_reduce, self.multiply, self.add_reduce_channels))
        add_reduce, multiply, add_reduce_channels = functions
        return _Called(add_reduce, multiply, self.zero, add_reduce_channels)

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
        report = laws.check(self.called_with(), samples, seed, domain)
        return dataclasses.replace(report, semifield=repr(self)) if self.own else report

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
        if self.own:
            parts.append(f"parameters={dict(self.parameters or {})}")
        return f"BroadcastSemifield({', '.join(parts)})"


class _Called(BroadcastSemifield):
    """A semifield with the values of one call, for which no plan is kept."""

    __hash__ = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Nothing: `called_with` took checked functions, and torch.compile traces it."""
