"""How each peer does a work: which peers are installed, which works they can do, and the call.

A maker returns the call that is timed, or None if the peer cannot do the work. Our own makers are
here, too. The inputs come from one random generator; each library gets them as its own arrays.
Filters are in filter_peers.py.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import semiconv_cupy as sc
from benchmarks import filter_peers, parameters, works
from benchmarks.inputs import Inputs, Libraries, libraries_of, numbers
from benchmarks.timing import Call, Maker
from benchmarks.works import (
    MOST_BYTES,
    OURS,
    AnyWork,
    Convolution,
    Device,
    Filter,
    Measured,
    Parametric,
    Product,
)
from semiconv_cupy.backends.place import place_of
from semiconv_cupy.route import choose
from semiconv_cupy.run import forward as forward_pass
from semiconv_cupy.works import Work

_MODULES = {
    works.SCIPY: "scipy.ndimage",
    works.OPENCV: "cv2",
    works.SKIMAGE: "skimage.morphology",
    **dict.fromkeys(works.ENGINES, "kornia"),
    works.POOLING: "torch",
    works.CONV2D: "torch",
    works.MATMUL: "torch",
    works.BROADCAST: "torch",
    works.EAGER: "pytorch_nd_semiconv",
    works.COMPILED: "pytorch_nd_semiconv",
    works.FUSED: "pytorch_nd_semiconv",
    works.CUPYX: "cupyx.scipy.ndimage",
    works.EDT: "edt",
    works.DIPLIB: "diplib",
    works.FASTMORPH: "fastmorph",
}
_BY_DEVICE: dict[Device, tuple[str, ...]] = {
    "cpu": (
        *(works.SCIPY, works.OPENCV, works.SKIMAGE, *works.ENGINES, works.POOLING, works.CONV2D),
        *(works.MATMUL, works.BROADCAST, works.EAGER, works.COMPILED, works.EDT, works.DIPLIB),
        works.FASTMORPH,
    ),
    "gpu": (
        *(works.CUPYX, *works.ENGINES, works.POOLING, works.CONV2D),
        *(works.MATMUL, works.BROADCAST, works.EAGER, works.COMPILED, works.FUSED),
    ),
}


def absent_peers(device: Device) -> list[str]:
    """The peers of a device that are not installed."""
    return [peer for peer in _BY_DEVICE[device] if not _installed(_MODULES[peer])]


def _installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def calls(
    measured: AnyWork,
    device: Device,
    seed: int,
    absent: list[str],
    libraries: Libraries | None = None,
) -> dict[str, Maker]:
    """The makers of our call and of each installed peer's call for this work, by name.

    `libraries` are those of the device unless a test replaces them.
    """
    libraries = libraries or libraries_of(device)
    if isinstance(measured, Filter):
        return dict(filter_peers.calls(measured, device, seed, absent, libraries))
    if isinstance(measured, Product):
        return dict(_product_calls(measured, seed, absent, libraries))
    if isinstance(measured, Parametric):
        return dict(parameters.calls(measured, seed, absent, libraries))
    inputs = Inputs(measured, device, seed, libraries)
    found: dict[str, Maker] = {OURS: lambda: _ours(measured, inputs)}
    if measured.mode == "provenance":
        found[works.PLAIN] = lambda: _forward_into(measured.work, inputs, with_residual=False)
    for peer in _BY_DEVICE[device]:
        if peer not in absent:
            found[peer] = partial(_PEERS[peer], measured, inputs)
    return found


# ---- convolutions --------------------------------------------------------------------------------


def _ours(measured: Convolution, inputs: Inputs) -> Call:
    work = measured.work
    if measured.mode == "provenance":
        return _forward_into(work, inputs, with_residual=True)
    if measured.mode == "forward" and not measured.tensors:
        img, krn = inputs.arrays
        return lambda: sc.semifield_conv(img, krn, work.semifield, **work.arguments)
    from torch_bridge.functional import semifield_conv

    return _torch_call(
        measured, inputs, lambda i, k: semifield_conv(i, k, work.semifield, **work.arguments)
    )


def _forward_into(work: Work, inputs: Inputs, with_residual: bool) -> Call:
    """The core's forward pass; each call allocates its result, and the residual if there is one."""
    geometry, xp = work.geometry, inputs.libraries.arrays
    img, krn = inputs.arrays
    route = choose(work.semifield, geometry, work.dtype, place_of(img=img, krn=krn))
    spec = route.residual_spec
    assert spec is not None

    def run() -> None:
        out = xp.empty(geometry.out_shape, work.dtype)
        residual = xp.empty(spec.shape, spec.dtype) if with_residual else None
        forward_pass(route, img, krn, out, residual)

    return run


def _torch_call(measured: Convolution, inputs: Inputs, function: Callable[..., Any]) -> Call:
    """Call `function(img, krn)` on tensors: forward, or forward and backward."""
    import torch

    img, krn = inputs.tensors
    if measured.mode == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return function(img, krn)

        return forward
    # Not clones, which would be contiguous.
    img, krn = img.detach().requires_grad_(), krn.detach().requires_grad_()
    with torch.no_grad():
        grad_out = torch.ones_like(function(img, krn))

    def step() -> Any:
        out = function(img, krn)
        return torch.autograd.grad(out, (img, krn), grad_out, allow_unused=True)

    return step


def _dilates(measured: Convolution) -> bool:
    return measured.work.semifield == sc.SelectSemifield.tropical_max()


def _is_one_plain_image(work: Work) -> bool:
    return work.image[:2] == work.kernel[:2] == (1, 1) and work.stride == work.dilation == 1


def _scipy(measured: Convolution, inputs: Inputs) -> Call | None:
    work = measured.work
    plain = _is_one_plain_image(dataclasses.replace(work, image=(1, *work.image[1:])))
    if not (_dilates(measured) and measured.mode == "forward" and plain):
        return None
    if work.dtype == "float16" or (inputs.device == "cpu" and work.terms > 2e9):
        return None  # SciPy has no float16, and would need a minute for the largest works
    img, krn = (array[:, 0] if work.image[0] > 1 else array[0, 0] for array in inputs.arrays)
    cval = -np.inf if img.dtype.kind == "f" else int(np.iinfo(img.dtype).min)
    peer = importlib.import_module(inputs.libraries.ndimage)
    footprint = _ones_like(krn)  # CuPy refuses a structure without a footprint
    return lambda: peer.grey_dilation(
        img, footprint=footprint, structure=krn, mode="constant", cval=cval
    )


def _ones_like(array: Any) -> Any:
    return array == array


def _as_matrices(measured: Convolution, inputs: Inputs) -> Call | None:
    """The same numbers multiplied by torch's matrix product, in the linear field."""
    work = measured.work
    windows_of_one = work.kernel[2:] == work.image[2:] == (1,) * len(work.kernel[2:])
    if not windows_of_one or work.groups > 1 or measured.mode == "provenance":
        return None
    return _torch_call(measured, inputs, lambda img, krn: img.flatten(1) @ krn.flatten(1).T)


def _kornia(measured: Convolution, inputs: Inputs, engine: str) -> Call | None:
    work = measured.work
    if not (_dilates(measured) and _is_one_plain_image(work) and len(work.kernel) == 4):
        return None
    if work.dtype != "float32" or measured.mode == "provenance":
        return None
    holds_terms = engine in ("unfold", "convolution") or measured.mode == "training"
    if holds_terms and work.terms * 4 > MOST_BYTES:
        return None
    from kornia.morphology import dilation

    flat = inputs.tensors[1][0, 0] * 0 + 1
    return _torch_call(
        measured,
        inputs,
        lambda img, krn: dilation(img, flat, structuring_element=krn[0, 0], engine=engine),
    )


def _max_pool2d(measured: Convolution, inputs: Inputs) -> Call | None:
    work = measured.work
    depthwise = work.groups == work.image[1] and work.kernel[1] == 1 and len(work.kernel) == 4
    odd = all(size % 2 for size in work.kernel[2:])
    if not (_dilates(measured) and depthwise and odd and measured.mode != "provenance"):
        return None
    if work.dtype not in ("float32", "float64", "float16") or work.kernel[2] > 31:
        return None
    if work.dilation > 1:  # max_pool2d pads by half a window at most
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
    if work.kernel[2] > 11:  # nobody computes such a window tap by tap
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
    if work.dtype != "float32" or work.terms * 4 * 2 > MOST_BYTES:
        return None  # this peer holds all terms in memory at once
    import torch

    peer = made.dynamic()
    if compiled:
        if not any(goal.of == works.COMPILED for goal in measured.goals):
            return None  # torch.compile takes up to half a minute
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
    """The semifield of class `kind` in pytorch_nd_semiconv that equals the work's semifield."""
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


def _filters_only(measured: Convolution, inputs: Inputs) -> Call | None:
    return None


_PEERS: dict[str, Callable[[Convolution, Inputs], Call | None]] = {
    works.SCIPY: _scipy,
    works.CUPYX: _scipy,
    works.OPENCV: _filters_only,
    works.SKIMAGE: _filters_only,
    works.EDT: _filters_only,
    works.DIPLIB: _filters_only,
    works.FASTMORPH: _filters_only,
    **{peer: partial(_kornia, engine=engine) for peer, engine in works.ENGINES.items()},
    works.POOLING: _max_pool2d,
    works.CONV2D: _conv2d,
    works.MATMUL: _as_matrices,
    works.BROADCAST: lambda measured, inputs: None,  # for products of matrices
    works.EAGER: lambda measured, inputs: _broadcast(measured, inputs, compiled=False),
    works.COMPILED: lambda measured, inputs: _broadcast(measured, inputs, compiled=True),
    works.FUSED: _fused,
}


# ---- products of matrices ------------------------------------------------------------------------


def _product_calls(
    measured: Product, seed: int, absent: list[str], libraries: Libraries
) -> Iterator[tuple[str, Maker]]:
    """Ours, the same as a convolution of one pixel, and torch's by another algebra and by terms."""
    random = np.random.default_rng(seed)
    arrays = [numbers(random, shape, measured.dtype) for shape in (measured.a, measured.b)]
    a, b = map(libraries.arrays.asarray, arrays)
    yield OURS, lambda: partial(sc.semifield_matmul, a, b, measured.semifield)
    if a.ndim == 2:
        img, krn = a[..., None], libraries.arrays.ascontiguousarray(b.T)[..., None]
        yield works.POINTWISE, lambda: partial(sc.semifield_conv, img, krn, measured.semifield)
    if works.MATMUL in absent or not measured.dtype.startswith("float"):
        return
    import torch

    tensors = [torch.from_numpy(array).to(libraries.torch_device) for array in arrays]
    yield works.MATMUL, lambda: partial(torch.matmul, *tensors)
    if measured.operations * np.dtype(measured.dtype).itemsize <= MOST_BYTES:
        yield works.BROADCAST, lambda: partial(_of_all_terms, measured.semifield, *tensors)


def _of_all_terms(semifield: Any, a: Any, b: Any) -> Any:
    """The product by an array that holds all its terms."""
    a, b = a[..., None], b[..., None, :, :]
    if semifield.accumulator == "select":
        return (a + b).amax(-2)
    if semifield.parameter is not None:
        return (semifield.parameter * (a + b)).logsumexp(-2) / semifield.parameter
    return (a * b).sum(-2)


def sets_of_inputs(measured: Measured, cache: int) -> int:
    """How many sets of inputs are together larger than twice the cache, from 1 to 8."""
    if measured.bytes < 2**20:
        return 1  # the time of such a call is overhead
    return max(1, min(8, math.ceil(2 * cache / measured.bytes)))
