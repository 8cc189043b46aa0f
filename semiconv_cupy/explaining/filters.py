"""The steps of a filter, one for each primitive, noted by a backend that computes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from semiconv_cupy.explaining.records import RECORDER, Needs, moved_bytes, recorded
from semiconv_cupy.explanation import Step
from semiconv_cupy.ndimage import host as host_primitives
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.cuda.backend import Backend
from semiconv_cupy.ndimage.form import filter_form
from semiconv_cupy.ndimage.lines import Pass
from semiconv_cupy.ndimage.window import WeightedTaps, Window
from semiconv_cupy.structs import MAX_RANK

Array = Any
# Bytes of a thread's scratch, beyond which tiles are cut: `MappedTiles::budget` of
# kernels_cu/host/mapped.hpp, with which a test compares it.
_TILE = 256 * 1024


class _Observer:
    """A `neighbourhood.Backend` that notes each primitive and returns zeros."""

    def __init__(self, on_gpu: bool) -> None:
        self.steps: list[Step] = []
        self._gpu = Backend(RECORDER) if on_gpu else None

    def _note(
        self, name: str, array: Array, window: str, operations: int, *arguments: Any
    ) -> np.ndarray:
        """Add a step; `operations` are those of one element."""
        needs: Needs
        if not 1 <= array.ndim <= MAX_RANK or (
            self._gpu is None and not host_primitives.serves(name, array.dtype)
        ):
            route, needs = "reference", ((), (), 0)
        elif self._gpu is None:
            part = host_primitives.part_of(name, array.dtype, *arguments)
            library = host_primitives.library_name(*part)
            route, needs = "host", ((library,), (), _TILE)
        else:
            route, needs = "cuda", recorded(getattr(self._gpu, name), array, *arguments)
        merged = _form_in_words(name, array, arguments, on_gpu=self._gpu is not None)
        form = f"{array.dtype} {array.shape}, {window}{merged}"
        moved = 2 * array.nbytes + moved_bytes(*(a for a in arguments if getattr(a, "ndim", 0)))
        if isinstance(arguments[0], Pass):
            moved = array.nbytes + moved_bytes(arguments[0].out, arguments[0].winners)
        self.steps.append(Step(name, form, route, operations * array.size, moved, *needs))
        return np.zeros(array.shape, array.dtype)  # zeros_like would touch the memory

    def box(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """Windows of 2 w from two of w: a comparison each."""
        doublings = sum((k - 1).bit_length() for k in window.shape)
        return self._note(
            "box", array, f"window {window.shape}", doublings, window, outside, minimum
        )

    def footprint(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """A comparison a tap."""
        taps = len(window.indices())
        words = f"{taps} taps of {window.shape}"
        return self._note("footprint", array, words, taps, window, outside, minimum)

    def structure(self, array: Array, window: Window, addends: Addends, minimum: bool) -> Array:
        """An addition and a comparison a tap."""
        taps = len(window.indices())
        words = f"{taps} taps of {window.shape}"
        return self._note("structure", array, words, 2 * taps, window, addends, minimum)

    def correlate(self, array: Array, window: Window, taps: WeightedTaps, out: Array) -> None:
        """A multiplication and an addition a tap."""
        words = f"{len(taps.weights)} taps of {window.shape}"
        self._note("correlate", array, words, 2 * len(taps.weights), window, taps, out)
        out[...] = 0

    def reconstruct(self, seed: Array, mask: Array, steps: np.ndarray, minimum: bool) -> Array:
        """Two comparisons a neighbour, if each element is met once."""
        words = f"{len(steps)} neighbours"
        return self._note("reconstruct", seed, words, 2 * len(steps), mask, steps, minimum)

    def nearest(self, unset: Array, step: Pass) -> None:
        """A comparison an element."""
        words = f"distances along axis {step.axis}"
        step.out[...] = self._note("nearest", unset, words, 1, step)[:]

    def parabolas(self, array: Array, step: Pass) -> None:
        """An addition and a comparison a level of nodes, and as much for the outputs."""
        levels = math.ceil(math.log2(max(array.shape[step.axis], 2)))
        words = f"parabolas along axis {step.axis}"
        step.out[...] = self._note("parabolas", array, words, 2 + levels // 4, step)[:]

    def chamfer(self, unset: Array, steps: np.ndarray, features: bool) -> tuple[Array, Any]:
        """An addition and a comparison a step, in both scans."""
        found = self._note("chamfer", unset, f"{len(steps)} steps", 4 * len(steps), steps, features)
        return found.astype(np.int32), found.astype(np.int32) if features else None


def filter_steps(
    function: Callable[..., Any], bound: dict[str, Any], on_gpu: bool
) -> tuple[Step, ...]:
    """The primitives that the function calls, in order; `bound` are the arguments."""
    observer = _Observer(on_gpu)
    with neighbourhood.served_by(observer):
        function(**bound)
    if not observer.steps:
        raise ValueError(
            f"function={function.__name__} runs no kernel for these arguments: nothing to explain"
        )
    return tuple(observer.steps)


def _form_in_words(name: str, array: Array, arguments: tuple[Any, ...], *, on_gpu: bool) -> str:
    """What a window's filter is computed as, where axes merge or another one is the last."""
    window = arguments[0]
    if not isinstance(window, Window):
        return ""
    if on_gpu:
        form = filter_form(array.shape, window.shape, window.before, window.rules)
    else:
        form = host_primitives.form_of(name, array, *arguments)
    if form.shape == array.shape:
        return ""
    if form.strides[-1] > 1:
        return f", as {form.shape}, vectors along the last axis"
    apart = "" if form.unit == 1 else f", taps {form.unit} apart in a row"
    return f", as {form.shape}{apart}"
