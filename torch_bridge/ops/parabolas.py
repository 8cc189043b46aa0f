"""semiconv::parabolas and ::parabolas_backward: erosions and dilations by parabolas without end.

Passes along one axis after another (``semiconv_cupy.ndimage.lines``), each with one scale or one
for each channel. The kernels for CPU and CUDA tensors, the shapes of fake tensors for compiling,
the rule of vmap. Called by `torch_bridge.parabolas`, which gives them a derivative.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiconv_cupy.backends.host.compiler import compiler
from semiconv_cupy.backends.place import NUMPY
from semiconv_cupy.ndimage import cuda, neighbourhood
from semiconv_cupy.ndimage.lines import Pass, Pullback, costs
from semiconv_cupy.ndimage.lines_backward import pull_back
from semiconv_cupy.parabolic_passes import weight_of
from torch_bridge.dlpack import array_of
from torch_bridge.ops.executors import as_arrays, executor_of

Results = tuple[Tensor, Tensor]

_library = torch.library.Library("semiconv", "FRAGMENT")
_ARGUMENTS = "int channel, int[] axes, bool[] minima"
_library.define(
    f"parabolas(Tensor img, Tensor scale, {_ARGUMENTS}, bool keeps_winners) "
    "-> (Tensor out, Tensor winners)"
)
_library.define(
    f"parabolas_backward(Tensor grad_out, Tensor scale, Tensor winners, {_ARGUMENTS}) "
    "-> (Tensor grad_img, Tensor grad_scale)"
)


@dataclass(frozen=True)
class Passes:
    """Erosions (True) and dilations one after another, each along all of the axes.

    Attributes
    ----------
    channel : int
        The axis along which scales differ, -1 where they do not.
    axes : tuple of int
        Ascending, of which a column of the scales belongs to each.
    minima : tuple of bool
        One erosion or dilation for each.
    """

    channel: int
    axes: tuple[int, ...]
    minima: tuple[bool, ...]

    def __iter__(self) -> Iterator[tuple[bool, int]]:
        """Whether the pass is of an erosion, and its axis' column: from the last axis on."""
        columns = range(len(self.axes) - 1, -1, -1)
        return iter([(minimum, column) for minimum in self.minima for column in columns])

    def __len__(self) -> int:
        return len(self.axes) * len(self.minima)

    def moved(self, by: int, channel: int) -> Passes:
        """The same behind `by` more axes."""
        return Passes(channel, tuple(axis + by for axis in self.axes), self.minima)

    def arguments(self) -> tuple[int, list[int], list[bool]]:
        """What the operators take."""
        return self.channel, list(self.axes), list(self.minima)


def call_parabolas(img: Tensor, scale: Tensor, passes: Passes, keeps_winners: bool) -> Results:
    """``torch.ops.semiconv.parabolas``."""
    arguments = passes.arguments()
    results: Results = torch.ops.semiconv.parabolas(img, scale, *arguments, keeps_winners)
    return results


def call_parabolas_backward(
    grad_out: Tensor, scale: Tensor, winners: Tensor, passes: Passes
) -> Results:
    """``torch.ops.semiconv.parabolas_backward``."""
    arguments = passes.arguments()
    results: Results = torch.ops.semiconv.parabolas_backward(grad_out, scale, winners, *arguments)
    return results


# ---- forward -------------------------------------------------------------------------------------


def _parabolas(
    img: Tensor, scale: Tensor, channel: int, axes: list[int], minima: list[bool], keeps: bool
) -> Results:
    passes = Passes(channel, tuple(axes), tuple(minima))
    lengths = _lengths(scale)
    out, winners = _new_results(img, passes, keeps)
    if img.numel() == 0:
        return out, winners
    bits = img.dtype is torch.bfloat16
    if bits and (img.is_cuda or compiler() is None):
        wide, _ = _run(img.double().contiguous(), lengths, passes, winners)
        return _rounded(wide), winners
    _run(img.contiguous(), lengths, passes, winners, out)
    return out, winners


def _run(
    img: Tensor, lengths: np.ndarray, passes: Passes, winners: Tensor, out: Tensor | None = None
) -> Results:
    """All passes, in one tensor of doubles; the last one rounds into `out`."""
    out = torch.empty_like(img) if out is None else out
    wide = out.dtype is torch.float64
    between = out if wide or len(passes) == 1 else torch.empty_like(out, dtype=torch.float64)
    place = executor_of(img.get_device()).place() if img.is_cuda else NUMPY
    given = img
    with as_arrays(img):
        for number, (minimum, column) in enumerate(passes):
            to = out if number == len(passes) - 1 else between
            axis = passes.axes[column]
            scales = lengths[:, column]
            step = Pass(
                axis,
                _costs(scales, img.shape[axis]),
                array_of(to),
                array_of(winners[number]) if winners.numel() else None,
                minimum=minimum,
                exact=bool((scales == math.inf).all()),
                repeat=_repeat(img.shape, passes, axis),
                storages=(_storage(given), _storage(to)),
                threads=torch.get_num_threads(),
            )
            neighbourhood.parabolas(place, array_of(given), step)
            given = to
    return out, winners


def _lengths(scale: Tensor) -> np.ndarray:
    """The scales as an array, checked. Of CUDA tensors they are waited for."""
    lengths: np.ndarray = scale.detach().cpu().numpy()
    if not (lengths >= 0).all():
        raise ValueError(
            f"scale must be at least 0 (0: identity), got {lengths.tolist()}; learn its logarithm, "
            "as the layers do"
        )
    return lengths


def _costs(scales: np.ndarray, size: int) -> np.ndarray:
    """The costs of each group; a row that begins with infinity leaves its lines as they are."""
    rows = [
        costs(size, weight_of(s)) if s > 0 else np.full(size, math.inf) for s in scales.tolist()
    ]
    if len(rows) == 1 and scales[0] > 0:
        return rows[0]
    return np.stack(rows)


def _repeat(shape: torch.Size, passes: Passes, axis: int) -> int:
    """How many lines along an axis follow each other in one channel."""
    return math.prod(shape[passes.channel + 1 : axis]) if passes.channel >= 0 else 1


def _storage(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _rounded(wide: Tensor) -> Tensor:
    """Doubles as bfloat16, rounded once: to float32 towards zero, with the last bit for the rest.

    Rounding to odd (Boldo and Melquiond 2008).
    """
    nearest = wide.float()
    back = nearest.double()
    bits = nearest.view(torch.int32) - (back.abs() > wide.abs()).int()
    odd = (bits | ((back < wide) | (back > wide)).int()).view(torch.float32)
    return odd.bfloat16()


def _new_results(img: Tensor, passes: Passes, keeps: bool) -> Results:
    """Both results, uninitialised; no winners where none are kept."""
    shape = (len(passes), *img.shape) if keeps else (0,)
    return img.new_empty(img.shape), img.new_empty(shape, dtype=torch.int32)


# ---- backward ------------------------------------------------------------------------------------


def _parabolas_backward(
    grad_out: Tensor,
    scale: Tensor,
    winners: Tensor,
    channel: int,
    axes: list[int],
    minima: list[bool],
) -> Results:
    passes = Passes(channel, tuple(axes), tuple(minima))
    grad, grad_scale = grad_out.contiguous(), torch.zeros_like(scale)
    if grad.numel() == 0:
        return torch.empty_like(grad), grad_scale
    if grad.is_cuda:  # where kernels are of doubles
        grad = grad.double()
    grad_img = torch.empty_like(grad)
    steps = list(passes)
    for number in range(len(steps) - 1, -1, -1):
        minimum, column = steps[number]
        axis = passes.axes[column]
        to = grad_img if number == 0 else torch.empty_like(grad, dtype=torch.float64)
        moments = _pull_back(grad, winners[number], to, axis)
        grad = to
        groups = (-1, len(scale), _lines_of_group(grad.shape, passes, axis))
        moment, s = _sums_of_groups(moments, groups).to(scale.device), scale[:, column]
        slope = torch.where((moment != 0) & (s > 0), 2 * moment / s**3, 0.0)
        grad_scale[:, column] += -slope if minimum else slope
    return grad_img.to(grad_out.dtype), grad_scale


def _pull_back(grad: Tensor, winners: Tensor, to: Tensor, axis: int) -> Tensor:
    """Fill `to`; the moments of all lines."""
    moments = grad.new_empty(grad.numel() // grad.shape[axis], dtype=torch.float64)
    storages = (_storage(grad), _storage(to))
    with as_arrays(grad):
        given = array_of(grad)
        back = Pullback(axis, array_of(winners), array_of(to), array_of(moments), storages)
        if grad.is_cuda:
            device = executor_of(grad.get_device()).place().device
            if device is None:
                raise ValueError(f"no device for a gradient on {grad.device}")
            cuda.Backend(device).pull_back(given, back)
        else:
            pull_back(given, back, torch.get_num_threads())
    return moments


def _sums_of_groups(moments: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The sum of each group; on the CPU by NumPy, whose order does not depend on threads."""
    if moments.is_cuda:
        return moments.view(shape).sum((0, 2))
    return torch.from_numpy(moments.numpy().reshape(shape).sum((0, 2)))


def _lines_of_group(shape: torch.Size, passes: Passes, axis: int) -> int:
    """How many lines in a row have one scale."""
    return math.prod(shape[passes.channel + 1 :]) // shape[axis]


def expressed(img: Tensor, scale: Tensor, winners: Tensor, passes: Passes) -> Tensor:
    """The result for given winners, in functions that torch differentiates in every mode."""
    value = img.double()
    for number, (minimum, column) in enumerate(passes):
        seen, at, square = _distances(winners[number], passes.axes[column])
        s, moves = _scales(scale, column, square, passes)
        cost = torch.where(moves, square * (1 / (s * s)), 0.0)
        value = value.gather(passes.axes[column], at)
        value = value + cost if minimum else value - cost
        value = torch.where(seen, value, math.inf if minimum else -math.inf)
    return value.to(img.dtype)


def plain_gradients(grad_out: Tensor, scale: Tensor, winners: Tensor, passes: Passes) -> Results:
    """Both gradients, in functions that torch differentiates: linear in `grad_out`."""
    grad, columns = grad_out.double(), [torch.zeros_like(scale[:, 0]) for _ in passes.axes]
    others = [a for a in range(grad.dim()) if a != passes.channel]
    steps = list(passes)
    for number in range(len(steps) - 1, -1, -1):
        minimum, column = steps[number]
        axis = passes.axes[column]
        seen, at, square = _distances(winners[number], axis)
        s, moves = _scales(scale, column, square, passes)
        grad = torch.where(seen, grad, 0.0)
        slope = torch.where(moves, 2 * square / (s * s * s), 0.0)
        term = (grad * slope).sum(others).reshape(-1).to(scale.device)
        columns[column] = columns[column] - term if minimum else columns[column] + term
        grad = torch.zeros_like(grad).scatter_add(axis, at, grad)
    return grad.to(grad_out.dtype), torch.stack(columns, 1)


def _distances(winners: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which results have a winner, where it lies, and its squared distance."""
    own = torch.arange(winners.shape[axis], device=winners.device)
    own = own.reshape(-1, *(1,) * (winners.dim() - axis - 1))
    at = winners.clamp(min=0).long()
    return winners >= 0, at, (own - at).double().square()


def _scales(scale: Tensor, column: int, square: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
    """The scales along one axis, shaped for an image; and where they matter. Else they are 1."""
    s = scale[:, column].to(square.device)
    if passes.channel >= 0:
        s = s.reshape(-1, *(1,) * (square.dim() - passes.channel - 1))
    usable = (s > 0) & (s < math.inf)
    return torch.where(usable, s, 1.0), usable & (square > 0)


# ---- registration --------------------------------------------------------------------------------

for _device in ("CPU", "CUDA"):
    _library.impl("parabolas", _parabolas, _device)
    _library.impl("parabolas_backward", _parabolas_backward, _device)


@torch.library.register_fake("semiconv::parabolas", lib=_library)
def _fake(
    img: Tensor, scale: Tensor, channel: int, axes: list[int], minima: list[bool], keeps: bool
) -> Results:
    return _new_results(img, Passes(channel, tuple(axes), tuple(minima)), keeps)


@torch.library.register_fake("semiconv::parabolas_backward", lib=_library)
def _fake_backward(grad_out: Tensor, scale: Tensor, winners: Tensor, *_: Any) -> Results:
    return grad_out.new_empty(grad_out.shape), scale.new_empty(scale.shape)


def _vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    img: Tensor,
    scale: Tensor,
    channel: int,
    axes: list[int],
    minima: list[bool],
    keeps: bool,
) -> tuple[Results, tuple[int, int | None]]:
    """One more axis in front; where scales differ along it, it is part of the channels."""
    passes = Passes(channel, tuple(axes), tuple(minima))
    of_img, of_scale = in_dims[:2]
    if of_scale is None:
        behind = passes.moved(1, channel + 1 if channel >= 0 else -1)
        results = call_parabolas(img.movedim(of_img, 0), scale, behind, keeps)
        return results, (0, 1 if keeps else None)
    place, count = max(channel, 0), info.batch_size
    if of_img is None:
        img = img.unsqueeze(place).expand(*img.shape[:place], count, *img.shape[place:])
    else:
        img = img.movedim(of_img, place)
    scale = scale.movedim(of_scale, 0).flatten(0, 1)
    if channel < 0:
        results = call_parabolas(img, scale, passes.moved(1, 0), keeps)
        return results, (0, 1 if keeps else None)
    out, winners = call_parabolas(img.flatten(place, place + 1), scale, passes, keeps)
    sizes = (count, -1)
    if keeps:
        winners = winners.unflatten(place + 1, sizes)
    return (out.unflatten(place, sizes), winners), (place, place + 1 if keeps else None)


torch.library.register_vmap("semiconv::parabolas", _vmap, lib=_library)
