"""How each peer does a work: which are installed, what they serve, the very call.

A maker makes a peer's call, or None where the peer does not serve the work. Ours are here, too.
Inputs come from one random generator and reach every library as its own arrays.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np

import semiconv_cupy as sc
from benchmarks import works
from benchmarks.timing import Call
from benchmarks.works import Convolution, Device, Filter
from semiconv_cupy import conv, ndimage
from semiconv_cupy.launches import Work
from semiconv_cupy.residual import residual_of

Maker = Callable[[], Call | None]
OURS = "ours"
_MODULES = {
    works.SCIPY: "scipy.ndimage",
    works.OPENCV: "cv2",
    works.SKIMAGE: "skimage.morphology",
    works.KORNIA: "kornia",
    works.POOLING: "torch",
    works.CONV2D: "torch",
    works.EAGER: "pytorch_nd_semiconv",
    works.COMPILED: "pytorch_nd_semiconv",
    works.FUSED: "pytorch_nd_semiconv",
    works.CUPYX: "cupyx.scipy.ndimage",
}
_BY_DEVICE: dict[Device, tuple[str, ...]] = {
    "cpu": (
        *(works.SCIPY, works.OPENCV, works.SKIMAGE, works.KORNIA, works.POOLING, works.CONV2D),
        *(works.EAGER, works.COMPILED),
    ),
    "gpu": (
        *(works.CUPYX, works.KORNIA, works.POOLING, works.CONV2D),
        *(works.EAGER, works.COMPILED, works.FUSED),
    ),
}
PLACES: dict[Device, str] = {"cpu": "cpu", "gpu": "cuda"}  # as torch names them
_MOST_BYTES = 2 * 2**30  # that a peer may hold at once


def absent(device: Device) -> list[str]:
    """The peers of a device that are not installed."""
    return [peer for peer in _BY_DEVICE[device] if not _installed(_MODULES[peer])]


def _installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


class Inputs:
    """One set of arrays of a work, for every library."""

    def __init__(self, work: Work, device: Device, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.device = device
        self.img, self.krn = (_numbers(random, s, work.dtype) for s in (work.image, work.kernel))

    @cached_property
    def arrays(self) -> tuple[Any, Any]:
        """NumPy's or CuPy's."""
        return (
            (_there(self.img), _there(self.krn)) if self.device == "gpu" else (self.img, self.krn)
        )

    @cached_property
    def tensors(self) -> tuple[Any, Any]:
        """torch's, on the device."""
        import torch

        place = PLACES[self.device]
        img, krn = (torch.from_numpy(array).to(place) for array in (self.img, self.krn))
        return img, krn


def _numbers(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "bool":
        return random.random(shape) < 0.02
    if np.dtype(dtype).kind in "iu":
        return random.integers(0, 100, shape).astype(dtype)
    return random.random(shape, np.float32).astype(dtype, copy=False)


def _array_module(device: Device) -> Any:
    return importlib.import_module("cupy") if device == "gpu" else np


def _there(array: Any) -> Any:
    return _array_module("gpu").asarray(array)


def calls(
    measured: Convolution | Filter, device: Device, seed: int, missing: list[str]
) -> dict[str, Maker]:
    """Ours and each installed peer's way to do this work: what makes the call ready to be timed."""
    if isinstance(measured, Filter):
        return dict(_filter_calls(measured, device, seed, missing))
    inputs = Inputs(measured.work, device, seed)
    found: dict[str, Maker] = {OURS: lambda: _ours(measured, inputs)}
    if measured.mode == "provenance":
        found[works.PLAIN] = lambda: _forward_into(measured.work, inputs, remembering=False)
    for peer in _BY_DEVICE[device]:
        if peer not in missing:
            found[peer] = partial(_PEERS[peer], measured, inputs)
    return found


# ---- convolutions --------------------------------------------------------------------------------


def _ours(measured: Convolution, inputs: Inputs) -> Call:
    work = measured.work
    if measured.mode == "provenance":
        return _forward_into(work, inputs, remembering=True)
    if measured.mode == "forward" and not measured.tensors:
        img, krn = inputs.arrays
        return lambda: sc.semifield_conv(img, krn, work.semifield, **work.arguments)
    from torch_bridge.functional import semifield_conv

    return _torch_call(
        measured, inputs, lambda i, k: semifield_conv(i, k, work.semifield, **work.arguments)
    )


def _forward_into(work: Work, inputs: Inputs, remembering: bool) -> Call:
    """The core's forward pass, its arrays allocated in the call."""
    geometry, xp = work.geometry, _array_module(inputs.device)
    img, krn = inputs.arrays
    described = residual_of(work.semifield, work.dtype, geometry)
    assert described is not None

    def run() -> None:
        out = xp.empty(geometry.out_shape, work.dtype)
        residual = xp.empty(described.shape, described.dtype) if remembering else None
        conv.forward(img, krn, out, residual, work.semifield, geometry, work.dtype)

    return run


def _torch_call(measured: Convolution, inputs: Inputs, function: Callable[..., Any]) -> Call:
    """A function of (img, krn) forward, or forward and backward."""
    import torch

    img, krn = inputs.tensors
    if measured.mode == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return function(img, krn)

        return forward
    img, krn = img.clone().requires_grad_(), krn.clone().requires_grad_()
    with torch.no_grad():
        slopes = torch.ones_like(function(img, krn))

    def step() -> Any:
        out = function(img, krn)
        return torch.autograd.grad(out, (img, krn), slopes, allow_unused=True)

    return step


def _dilates(measured: Convolution) -> bool:
    return measured.work.semifield == sc.SelectSemifield.tropical_max()


def _is_one_plain_image(work: Work) -> bool:
    return work.image[:2] == work.kernel[:2] == (1, 1) and work.stride == work.dilation == 1


def _scipy(measured: Convolution, inputs: Inputs) -> Call | None:
    work = measured.work
    if not (_dilates(measured) and measured.mode == "forward" and _is_one_plain_image(work)):
        return None
    if work.dtype == "float16" or (inputs.device == "cpu" and work.terms > 2e9):
        return None  # SciPy has no float16; the longest would take a minute
    img, krn = (array[0, 0] for array in inputs.arrays)
    cval = -np.inf if img.dtype.kind == "f" else int(np.iinfo(img.dtype).min)
    if inputs.device == "gpu":
        import cupyx.scipy.ndimage as peer
    else:
        import scipy.ndimage as peer
    footprint = _ones_like(krn)  # CuPy takes no structure without one
    return lambda: peer.grey_dilation(
        img, footprint=footprint, structure=krn, mode="constant", cval=cval
    )


def _ones_like(array: Any) -> Any:
    return array == array


def _kornia(measured: Convolution, inputs: Inputs) -> Call | None:
    work = measured.work
    if not (_dilates(measured) and _is_one_plain_image(work) and len(work.kernel) == 4):
        return None
    if work.dtype != "float32" or work.terms * 4 > _MOST_BYTES or measured.mode == "provenance":
        return None  # it holds all terms at once
    from kornia.morphology import dilation

    flat = inputs.tensors[1][0, 0] * 0 + 1
    return _torch_call(
        measured, inputs, lambda img, krn: dilation(img, flat, structuring_element=krn[0, 0])
    )


def _max_pool2d(measured: Convolution, inputs: Inputs) -> Call | None:
    work = measured.work
    depthwise = work.groups == work.image[1] and work.kernel[1] == 1 and len(work.kernel) == 4
    odd = all(size % 2 for size in work.kernel[2:])
    if not (_dilates(measured) and depthwise and odd and measured.mode != "provenance"):
        return None
    if work.dtype not in ("float32", "float64", "float16") or work.kernel[2] > 31:
        return None
    if work.dilation > 1:  # it pads by half a window at most
        return None
    from torch.nn.functional import max_pool2d

    size = work.kernel[2]
    return _torch_call(
        measured, inputs, lambda img, _: max_pool2d(img, size, work.stride, size // 2)
    )  # fmt: skip


def _conv2d(measured: Convolution, inputs: Inputs) -> Call | None:
    work = measured.work
    sums = work.semifield.accumulator != "select"
    if not sums or len(work.kernel) != 4 or measured.mode == "provenance":
        return None
    if work.kernel[2] > 11:  # nobody convolves so by taps
        return None
    from torch.nn.functional import conv2d

    padding = work.dilation * (work.kernel[2] // 2)
    return _torch_call(
        measured, inputs,
        lambda img, krn: conv2d(img, krn, None, work.stride, padding, work.dilation, work.groups),
    )  # fmt: skip


def _broadcast(measured: Convolution, inputs: Inputs, compiled: bool) -> Call | None:
    work = measured.work
    made = _seed_semifield("BroadcastSemifield", work)
    if made is None or measured.mode == "provenance" or len(work.kernel) != 4:
        return None
    if work.dtype != "float32" or work.terms * 4 * 2 > _MOST_BYTES:
        return None  # it holds all terms at once
    import torch

    peer = made.dynamic()
    if compiled:
        if not any(goal.of == works.COMPILED for goal in measured.goals):
            return None  # its compilation takes up to half a minute
        peer = torch.compile(peer)
    return _torch_call(measured, inputs, lambda img, krn: peer(img, krn, **work.arguments))


def _fused(measured: Convolution, inputs: Inputs) -> Call | None:
    work = measured.work
    made = _seed_semifield("SelectSemifield", work) or _seed_semifield("SubtractSemifield", work)
    if made is None or measured.mode == "provenance" or len(work.kernel) != 4:
        return None
    if work.dtype != "float32":
        return None
    peer = made.dynamic()
    return _torch_call(measured, inputs, lambda img, krn: peer(img, krn, **work.arguments))


def _seed_semifield(kind: str, work: Work) -> Any | None:
    """pytorch_nd_semiconv's semifield of that class which means ours."""
    import pytorch_nd_semiconv

    makers: dict[Any, Callable[[Any], Any]] = {
        sc.SelectSemifield.tropical_max(): lambda made: made.tropical_max(),
        works.LOG: lambda made: made.log(works.LOG.parameter),
        works.ROOT: lambda made: made.root(works.ROOT.parameter),
        works.LINEAR: lambda made: made.linear(),
    }
    made, make = getattr(pytorch_nd_semiconv, kind), makers.get(work.semifield)
    selects = work.semifield.accumulator == "select"
    if make is None or (kind, selects) in (("SelectSemifield", False), ("SubtractSemifield", True)):
        return None
    return make(made)


def _flat_only(measured: Convolution, inputs: Inputs) -> Call | None:
    return None


_PEERS: dict[str, Callable[[Convolution, Inputs], Call | None]] = {
    works.SCIPY: _scipy,
    works.CUPYX: _scipy,
    works.OPENCV: _flat_only,
    works.SKIMAGE: _flat_only,
    works.KORNIA: _kornia,
    works.POOLING: _max_pool2d,
    works.CONV2D: _conv2d,
    works.EAGER: lambda measured, inputs: _broadcast(measured, inputs, compiled=False),
    works.COMPILED: lambda measured, inputs: _broadcast(measured, inputs, compiled=True),
    works.FUSED: _fused,
}


# ---- filters -------------------------------------------------------------------------------------


def _filter_calls(
    measured: Filter, device: Device, seed: int, missing: list[str]
) -> Iterator[tuple[str, Maker]]:
    array = _numbers(np.random.default_rng(seed), measured.shape, measured.dtype)
    given: tuple[Any, ...] = (array,)
    if measured.function == "reconstruction":
        given = (array - np.float32(0.02), array)
    if device == "gpu":
        given = tuple(map(_there, given))
    ours = getattr(ndimage, measured.function, None) or getattr(sc, measured.function)
    yield OURS, lambda: partial(ours, *given, **measured.arguments)
    if device == "gpu":
        makers = {works.CUPYX: _scipy_filter}
    else:
        makers = {
            works.SCIPY: _scipy_filter,
            works.OPENCV: _opencv_filter,
            works.SKIMAGE: _skimage_filter,
        }
    for peer, maker in makers.items():
        if peer not in missing:
            yield peer, partial(maker, measured, given)


def _scipy_filter(measured: Filter, given: tuple[Any, ...]) -> Call | None:
    there = not isinstance(given[0], np.ndarray)
    peer = importlib.import_module(works.CUPYX if there else works.SCIPY)
    function = getattr(peer, measured.function, None)
    arguments = {
        name: _there(np.asarray(value)) if there and isinstance(value, np.ndarray) else value
        for name, value in measured.arguments.items()
    }
    if there and "structure" in arguments:  # CuPy takes none without a footprint
        arguments["footprint"] = _ones_like(arguments["structure"])
    return function and partial(function, *given, **arguments)


def _opencv_filter(measured: Filter, given: tuple[Any, ...]) -> Call | None:
    import cv2

    element = _flat_element(measured)
    if element is None or given[0].ndim != 2 or given[0].dtype == bool:
        return None
    return partial(cv2.dilate, given[0], element)


def _skimage_filter(measured: Filter, given: tuple[Any, ...]) -> Call | None:
    from skimage.morphology import dilation, reconstruction
    from skimage.restoration import rolling_ball

    if measured.function == "reconstruction":
        return partial(reconstruction, *given)
    if measured.function == "rolling_ball":
        return partial(rolling_ball, *given, **measured.arguments)
    if "footprint" in measured.arguments:
        return partial(dilation, *given, measured.arguments["footprint"])
    return None


def _flat_element(measured: Filter) -> np.ndarray | None:
    """OpenCV's structuring element."""
    if measured.function == "maximum_filter":
        return np.ones((measured.arguments["size"],) * 2, np.uint8)
    footprint = measured.arguments.get("footprint")
    return None if footprint is None else footprint.astype(np.uint8)


def sets_of_inputs(measured: Convolution | Filter, cache: int) -> int:
    """How many sets of inputs are larger than twice a cache together; small ones stay one."""
    if measured.bytes < 2**20:
        return 1  # such a call is all overhead
    return max(1, min(8, math.ceil(2 * cache / measured.bytes)))
