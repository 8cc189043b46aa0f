"""Log and root of a number at run time, against the same number compiled into the kernels.

And against a value for each output channel, and one that is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

import semiconv_cupy as sc
from benchmarks import works
from benchmarks.inputs import Libraries, numbers
from benchmarks.timing import Call
from benchmarks.works import Parametric

NAMES = {"log": "mu", "root": "p"}


class Constant(sc.SubtractSemifield):
    """A log or root whose number is in the text that is compiled."""

    @classmethod
    def of(cls, semifield: sc.SubtractSemifield) -> Constant:
        """The same semifield, whose libraries and kernels serve this number alone."""
        made = cls.__new__(cls)
        content = (cls.__name__, *semifield.content)
        own = {"content": content, "_hash": hash(content), "_unbound": made}
        vars(made).update(vars(semifield) | own)
        return made

    def definitions(self, arithmetic: str) -> dict[str, str]:
        """As in the base, and the number."""
        found: dict[str, str] = self.family.unbound.definitions(arithmetic)
        kind = {"SEMICONV_KIND": self.nature} if self.nature else {}
        return found | {"SEMICONV_CONSTANT": repr(self.parameter)} | kind

    @property
    def family(self) -> sc.SubtractSemifield:
        """The ready-made semifield."""
        found: sc.SubtractSemifield = getattr(sc.SubtractSemifield, self.accumulator)(
            self.parameter
        )
        return found


def calls(
    measured: Parametric, seed: int, absent: list[str], libraries: Libraries
) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Ours, by a number at run time, and the others, by name."""
    random = np.random.default_rng(seed)
    # At least 0.1: roots are of positive numbers.
    arrays = [numbers(random, shape, "float32") + np.float32(0.1) for shape in measured.shapes]
    semifield = measured.semifield
    name, value = NAMES[semifield.accumulator], semifield.parameter
    columns = np.full(measured.columns, value, np.float32)
    if measured.mode == "forward":
        xp = libraries.arrays
        a, b = map(xp.asarray, arrays)
        function = partial(getattr(sc, measured.function), a, b, **measured.arguments)
        yield "ours", lambda: partial(function, semifield)
        yield works.CONSTANT, lambda: partial(function, Constant.of(semifield))
        by_channel = xp.asarray(columns)
        yield (
            works.BY_CHANNEL,
            lambda: partial(function, semifield.accumulator, **{name: by_channel}),
        )
        return
    if works.MATMUL in absent:
        return
    import torch

    from torch_bridge import functional

    to = libraries.torch_device
    a, b = (torch.from_numpy(array).to(to).requires_grad_() for array in arrays)
    function = partial(getattr(functional, measured.function), a, b, **measured.arguments)
    step = partial(_step, function, (a, b))
    yield "ours", lambda: partial(step, semifield, {})
    yield works.CONSTANT, lambda: partial(step, Constant.of(semifield), {})
    by_channel = {name: torch.from_numpy(columns).to(to)}
    yield works.BY_CHANNEL, lambda: partial(step, semifield.accumulator, by_channel)
    learned = torch.full((), value, device=to, requires_grad=True)
    given = {name: learned}
    yield works.LEARNED, lambda: partial(step, semifield.accumulator, given, (learned,))


def _step(
    function: Callable[..., Any],
    tensors: tuple[Any, ...],
    semifield: Any,
    given: Mapping[str, Any],
    more: tuple[Any, ...] = (),
) -> Any:
    """Forward and backward through torch."""
    out = function(semifield, **given)
    return out.sum().backward(inputs=(*tensors, *more))
