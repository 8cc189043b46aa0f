"""Semifields with values of parameters that their functions name: the base of both compiled kinds.

Plans and kernels go by the semifield without the values, `Parametric.unbound`.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from typing import Any

from semiconv_cupy.algebra.own import changed, unused_parameters


class Parametric:
    """What a semifield has to do with its parameters.

    Attributes
    ----------
    parameters : mapping
        Their values by their names: mu of log, p of root, or one's own.
    own : tuple of str
        The names of those of one's own.
    """

    parameters: Mapping[str, float] = types.MappingProxyType({})
    own: tuple[str, ...] = ()

    @property
    def unbound(self) -> Any:
        """The semifield without the values of its parameters, by which plans and kernels go.

        One for all values, but for their `nature`; itself where there is no parameter.
        """
        return vars(self).get("_unbound", self)

    def with_parameters(self, **values: float) -> Any:
        """The same semifield with other values of parameters of its own; compiles nothing.

        Raises
        ------
        TypeError
            A name that `parameters` of the constructor did not have, or a value that is no number.
        ValueError
            A value that is not finite.

        Examples
        --------
        >>> from semiconv_cupy import SubtractSemifield
        >>> scaled = SubtractSemifield(
        ...     lambda left, right: left + right,
        ...     lambda img, krn, a: a * img * krn,
        ...     zero=0.0,
        ...     parameters={"a": 1.0},
        ... )
        >>> scaled.with_parameters(a=3.0).times(2.0, 5.0)
        30.0
        """
        if not self.own:
            raise TypeError(f"{self!r} has no parameters of its own")
        known = self.parameters or dict.fromkeys(self.own, math.nan)
        if not self.parameters and set(values) != set(self.own):
            raise TypeError(f"{self!r} needs values of {', '.join(self.own)}")
        return self.of_values(changed(known, values, self).values())

    def of_values(self, values: Iterable[float]) -> Any:
        """The same with these values, in the order of `own`, whatever they are."""
        made = type(self).__new__(type(self))
        made._bind(self.unbound, dict(zip(self.own, values, strict=True)))
        return made

    def _bind(self, unbound: Any, values: Mapping[str, float]) -> None:
        """Become `unbound` with values of its parameters."""
        content = (unbound.content, tuple(values.values()))
        vars(self).update(
            {**vars(unbound), "content": content, "_hash": hash(content)},
            parameters=types.MappingProxyType(dict(values)),
            _unbound=unbound,
        )

    def _define_with(
        self, values: Mapping[str, float], functions: Any, *rest: Any, **flags: Any
    ) -> None:
        """`_define`, and the values of parameters that the functions take, if there are any.

        Raises
        ------
        ValueError
            A parameter that no function takes.
        """
        if not values:
            self._define(functions, *rest, **flags)  # type: ignore[attr-defined]
            return
        named = {symbol.name for one in functions.values() for symbol in one.free_symbols}
        unnamed = set(values) - named
        if unnamed:
            raise unused_parameters(sorted(unnamed))
        unbound = type(self).__new__(type(self))
        unbound._define(functions, *rest, own=tuple(values), **flags)  # type: ignore[attr-defined]
        self._bind(unbound, values)
