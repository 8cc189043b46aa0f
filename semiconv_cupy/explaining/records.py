"""What a pass on a GPU would launch, by a `Recorder`; bytes and words of a step.

Called by the files beside this one, each for one kind of call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from semiconv_cupy.backends.device import Launch, Recorder
from semiconv_cupy.backends.place import NUMPY, Place
from semiconv_cupy.once import exclusive

Needs = tuple[tuple[str, ...], tuple[Launch, ...], int]  # libraries, launches, scratch of a step

# One recorder for all calls: planned launches are cached by their device. One pass at a time.
RECORDER = Recorder()


def planned_place(on_gpu: bool) -> Place:
    """Where a call is planned: for a GPU, with the recorder in place of its launches."""
    return Place("NumPy", gpu=0, device=RECORDER) if on_gpu else NUMPY


def recorded(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Needs:
    """Launches and scratch of a pass on a GPU."""
    with exclusive("explain"):
        RECORDER.clear()
        function(*arguments, **keywords)
        return (), tuple(RECORDER.launches), RECORDER.scratch_bytes


def moved_bytes(*arrays: np.ndarray | None) -> int:
    """The bytes of these arrays, each moved once."""
    return sum(array.nbytes for array in arrays if array is not None)
