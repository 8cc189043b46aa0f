"""Derivatives of passes of parabolas (``lines.Pass``): from an output's gradient to the input's.

An output depends on the element that won and on the cost of its distance, so that a pass is linear
where no winner changes. On the CPU; on a GPU ``cuda.Backend`` has the same. Called by
``torch_bridge`` with arrays of tensors' memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.host import functions as host
from semiconv_cupy.backends.host import prebuilt
from semiconv_cupy.ndimage.host.libraries import TYPE_CODES
from semiconv_cupy.ndimage.lines import Pullback
from semiconv_cupy.ndimage.structs import Lines

_POINTER, _FLAG = ctypes.c_void_p, ctypes.c_int
_ARGUMENTS = {
    "semiconv_parabolas_backward": (
        *(_POINTER,) * 3, _FLAG, _POINTER, _FLAG, _POINTER, _FLAG,
    )
}  # fmt: skip
_SMALL_WORK = 1 << 15  # elements that one thread takes in about a tenth of a millisecond


def source_of() -> tuple[str, str]:
    """The text of the library and its name in messages, as `libraries.build` takes them."""
    text = source.assemble("host/parabolas_backward.cpp", source.storage_macros("float64"))
    return text, "parabolas_backward on float64"


def sources() -> Iterator[source.HostSource]:
    """The source of the library, which serves all dtypes."""
    yield source.HostSource(*source_of(), (*source.COMMON_EXPORTS, *_ARGUMENTS))


@cache
def _library() -> host.Library:
    return host.open_library(*source_of(), _ARGUMENTS)


def pull_back(grad: np.ndarray, back: Pullback, threads: int) -> None:
    """Fill `back.out` and `back.moments` from the gradient of a pass's output, on the CPU."""
    if grad.size == 0:
        back.moments[...] = 0
        return
    if not prebuilt.serves(source_of()[0]):
        pull_back_by_arrays(grad, back)
        return
    lines = Lines.along(grad.shape, back.axis)
    given, stored = back.storages or (grad.dtype.name, back.out.dtype.name)
    status = _library().semiconv_parabolas_backward(
        ctypes.byref(lines), host.address(back.winners), host.address(grad), TYPE_CODES[given],
        host.address(back.out), TYPE_CODES[stored], host.address(back.moments),
        threads if grad.size > _SMALL_WORK else 1,
    )  # fmt: skip
    host.check(status, "a gradient of parabolas")


def pull_back_by_arrays(grad: np.ndarray, back: Pullback) -> None:
    """The same where nothing is compiled."""
    grads = np.moveaxis(grad.astype(np.float64), back.axis, -1)
    winners = np.moveaxis(back.winners, back.axis, -1)
    seen = winners >= 0
    distances = np.arange(grads.shape[-1]) - winners
    terms = np.where(seen & (distances != 0), grads * distances.astype(np.float64) ** 2, 0)
    back.moments[...] = terms.sum(-1).reshape(back.moments.shape)
    sums = np.zeros(grads.shape)
    np.add.at(sums, (*np.indices(grads.shape)[:-1], winners.clip(0)), np.where(seen, grads, 0))
    back.out[...] = np.moveaxis(sums, -1, back.axis)
