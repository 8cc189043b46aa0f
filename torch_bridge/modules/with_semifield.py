"""A module's semifield: its numbers stay in it, and the module holds those that are tensors.

`SemifieldConv`, `BroadcastConv` and `SemifieldLinear` are such modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from semiconv_cupy.algebra import BroadcastSemifield, SubtractSemifield, named
from semiconv_cupy.parameters import require_value_of
from torch_bridge.ops import PreparedSemifield
from torch_bridge.parameters import NAMES, Parameter, family_of, parameter_of, require_own


class WithSemifield(nn.Module):
    """A module that has `semifield`, and a `torch.nn.Parameter` or a buffer for each tensor."""

    semifield: Any
    _held: tuple[str, ...] = ()  # names of tensors; models saved before had none

    def _set_semifield(
        self,
        semifield: Any,
        mu: Parameter | None,
        p: Parameter | None,
        own: Mapping[str, Parameter],
        later: tuple[str, ...] = (),
    ) -> None:
        """Take the semifield and the parameters of a constructor.

        `later`: names of attributes that the constructor sets afterwards.
        """
        self.semifield, tensors = _divided(semifield, mu, p, own, type(self).__name__)
        for name, tensor in tensors.items():
            if name in later or hasattr(self, name):
                raise ValueError(
                    f"{name} must be a number, got a tensor: a {type(self).__name__} has another "
                    f"attribute of that name; give the parameter of {self.semifield!r} another name"
                )
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(name, tensor)
            else:
                self.register_buffer(name, tensor)
        self._held = tuple(tensors)
        self._prepared = _prepared(self.semifield)

    def _as_called(self) -> Any:
        """The semifield as functions take it beside `_tensors`."""
        return (family_of(self.semifield) or self.semifield) if self._held else self._prepared

    def _tensors(self) -> dict[str, Any]:
        """The parameters that the module holds."""
        return {name: getattr(self, name) for name in self._held}

    def _shown(self) -> str:
        """The semifield, and which of the parameters of one's own are tensors."""
        own = [name for name in self._held if name not in NAMES.values()]
        shapes = (f"{name}: {tuple(getattr(self, name).shape)}" for name in own)
        return f"{self.semifield!r}{', ' if own else ''}{', '.join(shapes)}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_prepared"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state.pop("_known", None)  # the prepared semifield in models of version 0.1.0
        super().__setstate__(state)
        self._prepared = _prepared(self.semifield)


def _divided(
    semifield: Any,
    mu: Parameter | None,
    p: Parameter | None,
    own: Mapping[str, Parameter],
    module: str,
) -> tuple[Any, dict[str, Tensor]]:
    """The semifield with the numbers, and the tensors by their names."""
    value, family = parameter_of(semifield, mu, p), family_of(semifield)
    if own:
        require_own(semifield, own, module)
    if isinstance(value, Tensor):
        return SubtractSemifield.named_family(str(family)), {NAMES[str(family)]: value}
    if value is not None:
        return getattr(SubtractSemifield, str(family))(value), {}
    found = named(semifield) if isinstance(semifield, str) else semifield
    tensors = {name: one for name, one in own.items() if isinstance(one, Tensor)}
    if len(own) > len(tensors):
        numbers: dict[str, Any] = {k: one for k, one in own.items() if k not in tensors}
        found = found.with_parameters(**numbers)
    require_value_of(found)
    return found, tensors


def _prepared(semifield: Any) -> Any:
    return semifield if isinstance(semifield, BroadcastSemifield) else PreparedSemifield(semifield)
