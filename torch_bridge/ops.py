"""The raw operators of torch.library: semiconv::forward and semiconv::backward.

Each has its shapes (for torch.compile's fake tensors) and its vmap rule right below it. They know
no autograd (that is `autograd`'s), take checked arguments, and fill what torch allocates.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semiconv_cupy import conv, run
from semiconv_cupy.algebra import SelectSemifield, Semifield, SubtractSemifield, named, no_semifield
from semiconv_cupy.backends import by_sums
from semiconv_cupy.backends.place import NUMPY, Place
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.residual import Residual, is_provenance, needs_arrays, residual_of
from semiconv_cupy.route import Route, choose, goes_by_sums
from semiconv_cupy.source import ARITHMETIC, BOOLEAN, FLOATING, INTEGER
from torch_bridge.dlpack import array_of, current_stream, gpu, guest

Shape = Sequence[int]

_library = torch.library.Library("semiconv", "DEF")
# How an operator says a geometry; padding is (begin, end) of the first axis, then of the next.
_GEOMETRY = (
    "int[] stride, int[] padding, int[] dilation, int groups, bool group_broadcasting, "
    "bool mirrored"
)


class GeometryArguments(NamedTuple):
    """`_GEOMETRY` in Python."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    group_broadcasting: bool
    mirrored: bool

    @classmethod
    def of(cls, geometry: Geometry) -> GeometryArguments:
        """Those that plan this geometry again."""
        return cls(
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
            geometry.shares_kernels,
            geometry.mirrored,
        )

    @classmethod
    def received(cls, arguments: Sequence[Any]) -> GeometryArguments:
        """As the dispatcher hands them over: with lists in place of tuples."""
        stride, padding, dilation, *rest = arguments
        return cls(tuple(stride), tuple(padding), tuple(dilation), *rest)

    def plan(self, img_shape: Shape, krn_shape: Shape) -> Geometry:
        """The geometry for these shapes, planned anew, so that sizes may be symbols."""
        return Geometry.plan_uncached(
            tuple(img_shape),
            tuple(krn_shape),
            stride=self.stride,
            padding=tuple(zip(self.padding[::2], self.padding[1::2], strict=True)),
            dilation=self.dilation,
            groups=self.groups,
            group_broadcasting=self.group_broadcasting,
            kind="conv" if self.mirrored else "corr",
        )


# ---- semifields and dtypes -----------------------------------------------------------------------


class Handle(NamedTuple):
    """What traced code may know of a semifield: plain constants, and a string for the operators."""

    key: str
    needs_arrays: bool  # whether the derivative needs img and krn besides the residual
    slopes: tuple[float, float] | None  # of times by img and krn, where a winner's index and they
    # are all that the derivative needs


# The semifields that keys stand for, as long as something else holds them: a module, a graph of
# autograd, a plan, the latest handles. One that a trace has met is held for good, as the traced
# program may run at any time; log and root, of which a sweep makes thousands, are made again from
# their keys.
_semifields: weakref.WeakValueDictionary[str, Semifield] = weakref.WeakValueDictionary()
_traced: dict[str, Semifield] = {}
_PARAMETRIC = re.compile(r"(log|root)\((.+)\)-\w+")


@torch.compiler.assume_constant_result
def handle_of(semifield: Semifield | str) -> Handle:
    """The handle of a semifield or of a name; equal semifields have equal ones, in any process."""
    return _entry_of(semifield)[0]


def _entry_of(semifield: Semifield | str) -> tuple[Handle, Semifield]:
    try:
        return _cached_entry(semifield)
    except TypeError:
        if isinstance(semifield, (str, SelectSemifield, SubtractSemifield)):
            raise
        raise no_semifield(semifield) from None  # nor can it be hashed


@lru_cache(maxsize=256)
def _cached_entry(semifield: Semifield | str) -> tuple[Handle, Semifield]:
    """The handle, and of equal semifields the one that is found by it."""
    known = named(semifield) if isinstance(semifield, str) else semifield
    if not isinstance(known, (SelectSemifield, SubtractSemifield)):
        raise no_semifield(semifield)
    # Torch keeps compiled graphs on disk, and knows of an operator no more than this key: what it
    # leaves for the derivative must follow from it.
    identity = (known.content, by_sums.LIMITS)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    slopes = None
    if not needs_arrays(known):
        by_img, by_krn = (known.expressions[f"d_times_d_{name}"] for name in ("img", "krn"))
        slopes = (float(by_img), float(by_krn))
    kind: str = known.accumulator
    if kind in ("log", "root"):  # ready-made: nothing else has their accumulators
        kind = f"{kind}({known.parameter!r})"
    handle = Handle(f"{kind}-{digest}", needs_arrays(known), slopes)
    return handle, _semifields.setdefault(handle.key, known)


class Known:
    """A semifield with its handle made beforehand, for modules: a plain attribute in traced code.

    (Not every version of Dynamo takes a semifield for a constant.) Made again by unpickling.
    """

    def __init__(self, semifield: Semifield) -> None:
        self.handle, self.semifield = _entry_of(semifield)

    def __reduce__(self) -> Any:
        return Known, (self.semifield,)


def semifield_of(key: str) -> Semifield:
    """The semifield of a handle's key."""
    found = _semifields.get(key)
    if found is not None:
        return found
    parametric = _PARAMETRIC.fullmatch(key)
    if parametric is not None:
        name, parameter = parametric.groups()
        with contextlib.suppress(ValueError):  # another's text
            handle, found = _entry_of(getattr(SubtractSemifield, name)(float(parameter)))
            if handle.key == key:
                return found
    raise RuntimeError(
        f"this process knows no semifield {key!r}: call a convolution with it once before "
        "running a program that was traced elsewhere"
    )


def _hold(key: str) -> Semifield:
    """`semifield_of`, for traced programs, which know the key alone."""
    found = semifield_of(key)
    if _PARAMETRIC.fullmatch(key) is None:
        _traced[key] = found
    return found


# ---- plans ---------------------------------------------------------------------------------------

_STORAGES = {getattr(torch, name): name for name in (*FLOATING, *INTEGER, BOOLEAN)}


class Plan(NamedTuple):
    """All that an operator needs besides its tensors."""

    semifield: Semifield
    geometry: Geometry
    storage: str
    described: Residual | None  # what the derivative needs of the forward pass
    residual: tuple[tuple[int, ...], torch.dtype] | None  # its shape and dtype in torch


def _plan(
    key: str,
    dtype: torch.dtype,
    on_gpu: bool,
    img_shape: Shape,
    krn_shape: Shape,
    arguments: GeometryArguments,
    derivative: bool,
) -> Plan:
    """The plan of one call; TypeError for a dtype that the semifield has no meaning for.

    What a derivative needs is told only for one: it may follow from sizes, which may be symbols.
    """
    semifield, storage = semifield_of(key), _STORAGES.get(dtype)
    if storage is None:
        supported = ", ".join(_STORAGES.values())
        raise TypeError(f"img has dtype {dtype}; supported are {supported}")
    if derivative and storage not in FLOATING:
        raise TypeError(f"derivatives need a floating dtype, got {dtype}")
    conv.require_meaning(storage, semifield)
    geometry = arguments.plan(img_shape, krn_shape)
    described = None
    if derivative and not goes_by_sums(semifield, geometry, "auto", on_gpu=on_gpu):
        described = residual_of(semifield, storage, geometry)
    residual = described and (described.shape, getattr(torch, described.dtype.name))
    return Plan(semifield, geometry, storage, described, residual)


def _route(plan: Plan, index: int) -> Route:
    """The route of a call on the GPU of that number, or on the CPU: -1."""
    place = NUMPY if index < 0 else Place("CuPy", index, gpu(index))
    return choose(plan.semifield, plan.geometry, plan.storage, place)


# Plans hold their semifields; a few hundred layouts are more than a training run has.
_MOST_PLANS = 512
_cached_plan = lru_cache(maxsize=_MOST_PLANS)(_plan)


# ---- forward: the convolution, and on demand what its derivative needs ---------------------------

_library.define(
    f"forward(Tensor img, Tensor krn, str semifield, {_GEOMETRY}, bool residual)"
    " -> (Tensor out, Tensor residual)"
)


def _forward_results(img: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """Both tensors, uninitialised; an empty residual where there is none."""
    out = img.new_empty(plan.geometry.out_shape)
    if plan.residual is None:
        return out, img.new_empty(0)
    shape, dtype = plan.residual
    return out, img.new_empty(shape, dtype=dtype)


def _forward(img: Tensor, krn: Tensor, semifield: str, *arguments: Any) -> tuple[Tensor, Tensor]:
    """On arrays: a GPU's, or any on the CPU."""
    geometry = GeometryArguments.received(arguments[:-1])
    place = img.dtype, img.is_cuda
    plan = _cached_plan(semifield, *place, img.shape, krn.shape, geometry, arguments[-1])
    out, residual = _forward_results(img, plan)
    if out.numel():
        with _place(img):
            run.forward(
                _route(plan, img.get_device()),
                array_of(img),
                array_of(krn),
                array_of(out),
                _array_or_none(residual),
                threads=torch.get_num_threads(),
            )
    return out, residual


def _forward_at(
    img: Tensor,
    krn: Tensor,
    semifield: str,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    """By addresses, for which everything is prepared but once."""
    dtype, index = img.dtype, img.get_device()
    if krn.dtype is not dtype or krn.get_device() != index:
        raise _unlike("krn", krn, "img", img)
    call = _forward_call(
        semifield, dtype, index, img.shape, krn.shape, img.stride(), krn.stride(),
        tuple(stride), tuple(padding), tuple(dilation), *others,
    )  # fmt: skip
    return call(img, krn)


@lru_cache(maxsize=_MOST_PLANS)
def _forward_call(
    semifield: str,
    dtype: torch.dtype,
    index: int,
    img_shape: Shape,
    krn_shape: Shape,
    img_strides: tuple[int, ...],
    krn_strides: tuple[int, ...],
    *arguments: Any,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`_forward` for tensors of this dtype and layout on the GPU of that number, or the CPU: -1."""
    geometry = GeometryArguments(*arguments[:-1])
    shapes = img_shape, krn_shape
    plan = _cached_plan(semifield, dtype, index >= 0, *shapes, geometry, arguments[-1])
    described = plan.described
    at, where = None, _where(index)
    if 0 not in plan.geometry.out_shape:
        keeps = described is not None
        at = run.forward_at(_route(plan, index), img_strides, krn_strides, keeps_residual=keeps)
    alignment = dtype.itemsize

    def call(img: Tensor, krn: Tensor) -> tuple[Tensor, Tensor]:
        image, kernel = img.data_ptr(), krn.data_ptr()
        if at is None or (image | kernel) % alignment or not _is_current(index):
            return _forward(img, krn, semifield, *arguments)
        if not (image and kernel):
            _require_memory(img=img, krn=krn)
        out, left = _forward_results(img, plan)
        leaves = left.data_ptr() if described is not None else None
        at(image, kernel, out.data_ptr(), leaves, where())
        return out, left

    return call


for _place_of in ("CPU", "CUDA"):
    _library.impl("forward", _forward_at, _place_of)


def _unlike(name: str, tensor: Tensor, other: str, pattern: Tensor) -> TypeError:
    return TypeError(
        f"{name} is {tensor.dtype} on {tensor.device}, and {other} {pattern.dtype} on "
        f"{pattern.device}"
    )


def _require_memory(**tensors: Tensor | None) -> None:
    """Raise for a tensor whose storage was freed, as `untyped_storage().resize_(0)` does."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.numel() and not tensor.data_ptr():
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} has no memory: it was freed")


def _where(index: int) -> Callable[[], Any]:
    """What tells a prepared call where to run: how many threads, or on which of a GPU's streams."""
    return torch.get_num_threads if index < 0 else partial(current_stream, index)


def _is_current(index: int) -> bool:
    """Whether launches go to the GPU of that number; work on the CPU goes nowhere else."""
    return index < 0 or torch.cuda.current_device() == index


def _place(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Inside, the core works on the tensor's device, on a GPU as torch's guest."""
    return guest(tensor) if tensor.is_cuda else contextlib.nullcontext()


def _array_or_none(residual: Tensor) -> Any:
    return array_of(residual) if residual.numel() else None


@torch.library.register_fake("semiconv::forward", lib=_library)
def _forward_fake(
    img: Tensor, krn: Tensor, semifield: str, *arguments: Any
) -> tuple[Tensor, Tensor]:
    if krn.dtype != img.dtype or krn.device != img.device:
        raise _unlike("krn", krn, "img", img)
    _hold(semifield)
    geometry = GeometryArguments.received(arguments[:-1])
    place = img.dtype, img.is_cuda
    plan = _plan(semifield, *place, img.shape, krn.shape, geometry, arguments[-1])
    return _forward_results(img, plan)


def _forward_vmap(
    info: Any, in_dims: tuple[Any, ...], img: Tensor, krn: Tensor, semifield: str, *arguments: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int | None]]:
    count, geometry = info.batch_size, GeometryArguments.received(arguments[:-1])
    if in_dims[1] is None:  # as a larger batch
        folded = img.movedim(in_dims[0], 0).flatten(0, 1)
        axis = 0
    else:  # as more groups
        folded = _with_batch(img, in_dims[0], count, 1).flatten(1, 2)
        krn, geometry = _as_groups(_with_batch(krn, in_dims[1], count, 0), geometry)
        axis = 1
    out, residual = torch.ops.semiconv.forward(folded, krn, semifield, *geometry, arguments[-1])
    out = out.unflatten(axis, (count, -1))
    if residual.numel() == 0 and out.numel():
        return (out, residual), (axis, None)
    stacked = axis + (not is_provenance(semifield_of(semifield)))
    return (out, residual.unflatten(stacked, (count, -1))), (axis, stacked)


def _with_batch(tensor: Tensor, dim: int | None, count: int, to: int) -> Tensor:
    """The tensor with vmap's dimension at `to`, repeated where it has none."""
    if dim is not None:
        return tensor.movedim(dim, to)
    shape = [*tensor.shape[:to], count, *tensor.shape[to:]]
    return tensor.unsqueeze(to).expand(shape)


def _as_groups(krn: Tensor, geometry: GeometryArguments) -> tuple[Tensor, GeometryArguments]:
    """Kernels (V, O, I, *K) and their geometry as one convolution of V times the groups."""
    groups = geometry.groups
    if geometry.group_broadcasting and groups > 1:
        krn = krn.unsqueeze(1).expand(-1, groups, *krn.shape[1:]).flatten(1, 2)
    grouped = geometry._replace(groups=krn.shape[0] * groups, group_broadcasting=False)
    return krn.flatten(0, 1), grouped


torch.library.register_vmap("semiconv::forward", _forward_vmap, lib=_library)


# ---- backward: the gradients of image and kernel that are wanted ---------------------------------

_library.define(
    "backward(Tensor grad_out, Tensor? img, Tensor? krn, Tensor residual, str semifield, "
    f"SymInt[] img_shape, SymInt[] krn_shape, {_GEOMETRY}, bool want_img, bool want_krn)"
    " -> (Tensor grad_img, Tensor grad_krn)"
)


def _backward(
    grad_out: Tensor,
    img: Tensor | None,
    krn: Tensor | None,
    residual: Tensor,
    semifield: str,
    img_shape: Shape,
    krn_shape: Shape,
    *arguments: Any,
) -> tuple[Tensor, Tensor]:
    geometry = GeometryArguments.received(arguments[:-2])
    if not any(arguments[-2:]):
        return grad_out.new_empty(0), grad_out.new_empty(0)
    shapes = tuple(img_shape), tuple(krn_shape)
    plan = _cached_plan(semifield, grad_out.dtype, grad_out.is_cuda, *shapes, geometry, True)
    real = getattr(torch, ARITHMETIC[plan.storage])
    want_img, want_krn = arguments[-2:]
    grad_img = grad_out.new_zeros(img_shape if want_img else 0, dtype=real)
    grad_krn = grad_out.new_empty(krn_shape if want_krn else 0, dtype=real)
    with _place(grad_out):
        run.backward(
            _route(plan, grad_out.get_device()),
            array_of(grad_out),
            None if img is None else array_of(img),
            None if krn is None else array_of(krn),
            _array_or_none(residual.contiguous()),
            array_of(grad_img) if want_img else None,
            array_of(grad_krn) if want_krn else None,
            threads=torch.get_num_threads(),
        )
    return grad_img.to(grad_out.dtype), grad_krn.to(grad_out.dtype)


def _backward_at(
    grad_out: Tensor,
    img: Tensor | None,
    krn: Tensor | None,
    residual: Tensor,
    semifield: str,
    img_shape: Shape,
    krn_shape: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    """By addresses, for which everything is prepared but once."""
    call = _backward_call(
        semifield, grad_out.dtype, grad_out.get_device(), tuple(img_shape), tuple(krn_shape),
        None if img is None else img.stride(), tuple(stride), tuple(padding), tuple(dilation),
        *others,
    )  # fmt: skip
    return call(grad_out, img, krn, residual)


Saved = Callable[[Tensor, "Tensor | None", "Tensor | None", Tensor], None]


def _check_of_saved(plan: Plan, dtype: torch.dtype, index: int) -> Saved:
    """What raises for tensors of a backward pass that are not those of its forward pass.

    Winners are numbers, which only reading would tell: the kernels skip those that are no taps.
    """
    semifield, geometry = plan.semifield, plan.geometry
    needed = needs_arrays(semifield)
    arrays = (("img", geometry.img_shape), ("krn", geometry.krn_shape))
    out_shape = geometry.out_shape
    described = residual_of(semifield, plan.storage, geometry)
    # A linear forward pass keeps nothing, and whether it was one may have followed from the number
    # of outputs, which torch.func.vmap changes.
    optional = described is None or by_sums.applies(semifield) or 0 in out_shape
    left_shape = None if described is None else described.shape
    left_dtype = None if described is None else getattr(torch, described.dtype.name)

    def check(grad_out: Tensor, img: Tensor | None, krn: Tensor | None, left: Tensor) -> None:
        if grad_out.shape != out_shape:
            raise ValueError(f"grad_out must have shape {out_shape}, got {tuple(grad_out.shape)}")
        kept = left.shape == left_shape and left.dtype is left_dtype and left.get_device() == index
        if not (kept or (optional and not left.numel())):
            raise ValueError(
                f"residual must be what the forward pass returned, of shape {left_shape} and "
                f"dtype {left_dtype} on {grad_out.device}, got {tuple(left.shape)} and "
                f"{left.dtype} on {left.device}"
            )
        if not needed and img is None and krn is None:
            return
        for (name, shape), tensor in zip(arrays, (img, krn), strict=True):
            if tensor is None:
                if needed:
                    raise ValueError(f"{name} is None, but {semifield!r} is differentiated by it")
                continue
            if tensor.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
            if tensor.dtype is not dtype or tensor.get_device() != index:
                raise _unlike(name, tensor, "grad_out", grad_out)

    return check


@lru_cache(maxsize=_MOST_PLANS)
def _backward_call(
    semifield: str,
    dtype: torch.dtype,
    index: int,
    img_shape: tuple[int, ...],
    krn_shape: tuple[int, ...],
    img_strides: tuple[int, ...] | None,
    *arguments: Any,
) -> Callable[[Tensor, Tensor | None, Tensor | None, Tensor], tuple[Tensor, Tensor]]:
    """`_backward` for tensors of this dtype and layout, and `_forward_call`'s index."""
    want_img, want_krn = arguments[-2:]
    geometry = GeometryArguments(*arguments[:-2])
    shapes = img_shape, krn_shape
    if min(img_shape, default=0) < 0:
        raise ValueError(f"img_shape must not be negative, got {img_shape}")
    plan = _cached_plan(semifield, dtype, index >= 0, *shapes, geometry, True)
    if img_strides is not None and len(img_strides) != len(img_shape):
        raise ValueError(f"img must have shape {img_shape}, got {len(img_strides)} axes")
    check = _check_of_saved(plan, dtype, index)
    real = getattr(torch, ARITHMETIC[plan.storage])
    at, where = None, _where(index)
    if 0 not in plan.geometry.out_shape and 0 not in img_shape and (want_img or want_krn):
        strides = img_strides or (0,) * len(img_shape)
        kernels = tuple(math.prod(krn_shape[axis + 1 :]) for axis in range(len(krn_shape)))
        route = _route(plan, index).after(plan.described)
        at = run.backward_at(route, strides, kernels, (want_img, want_krn))

    def call(
        grad_out: Tensor, img: Tensor | None, krn: Tensor | None, left: Tensor
    ) -> tuple[Tensor, Tensor]:
        check(grad_out, img, krn, left)
        slopes, left = grad_out.contiguous(), left.contiguous()
        krn = None if krn is None else krn.contiguous()
        image, kernel = (None if t is None else t.data_ptr() for t in (img, krn))
        flow, kept_at = slopes.data_ptr(), left.data_ptr()
        if not (flow and (kept_at or plan.described is None) and image != 0 and kernel != 0):
            _require_memory(grad_out=slopes, img=img, krn=krn, residual=left)
        unaligned = ((image or 0) | (kernel or 0) | flow) % dtype.itemsize
        kept = left.numel() > 0 or plan.described is None
        if at is None or unaligned or not kept or not _is_current(index):
            return _backward(grad_out, img, krn, left, semifield, img_shape, krn_shape, *arguments)
        grad_img = slopes.new_empty(img_shape if want_img else 0, dtype=real)
        grad_krn = slopes.new_empty(krn_shape if want_krn else 0, dtype=real)
        at(
            flow,
            image,
            kernel,
            kept_at or None,
            grad_img.data_ptr() or None,
            grad_krn.data_ptr() or None,
            where(),
        )
        if real is not dtype:
            grad_img, grad_krn = grad_img.to(dtype), grad_krn.to(dtype)
        return grad_img, grad_krn

    return call


for _place_of in ("CPU", "CUDA"):
    _library.impl("backward", _backward_at, _place_of)


@torch.library.register_fake("semiconv::backward", lib=_library)
def _backward_fake(
    grad_out: Tensor,
    img: Tensor | None,
    krn: Tensor | None,
    residual: Tensor,
    semifield: str,
    img_shape: Shape,
    krn_shape: Shape,
    *arguments: Any,
) -> tuple[Tensor, Tensor]:
    for name, tensor in (("img", img), ("krn", krn), ("residual", residual)):
        if tensor is not None and tensor.device != grad_out.device:
            raise _unlike(name, tensor, "grad_out", grad_out)
    _hold(semifield)
    grad_img, grad_krn = (
        grad_out.new_empty(shape if want else 0)
        for shape, want in zip((img_shape, krn_shape), arguments[-2:], strict=True)
    )
    return grad_img, grad_krn


def _backward_vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    grad_out: Tensor,
    img: Tensor | None,
    krn: Tensor | None,
    residual: Tensor,
    semifield: str,
    img_shape: Shape,
    krn_shape: Shape,
    *arguments: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int | None, int | None]]:
    """As more groups, so that each entry has a kernel gradient of its own."""
    count, geometry = info.batch_size, GeometryArguments.received(arguments[:-2])
    kernels = torch.empty(count, *krn_shape, device="meta")
    grouped = _as_groups(kernels, geometry)
    grad_out = _with_batch(grad_out, in_dims[0], count, 1).flatten(1, 2)
    if img is not None:
        img = _with_batch(img, in_dims[1], count, 1).flatten(1, 2)
    if krn is not None:
        krn = _as_groups(_with_batch(krn, in_dims[2], count, 0), geometry)[0]
    if residual.numel():
        to = 1 + (not is_provenance(semifield_of(semifield)))
        residual = _with_batch(residual, in_dims[3], count, to).flatten(to, to + 1)
    grad_img, grad_krn = torch.ops.semiconv.backward(
        grad_out,
        img,
        krn,
        residual,
        semifield,
        [img_shape[0], count * img_shape[1], *img_shape[2:]],
        grouped[0].shape,
        *grouped[1],
        *arguments[-2:],
    )
    want_img, want_krn = arguments[-2:]
    if want_img:
        grad_img = grad_img.unflatten(1, (count, -1))
    if want_krn:
        repeats = math.prod(grouped[0].shape[:1]) // (count * krn_shape[0])
        grad_krn = grad_krn.unflatten(0, (count, repeats, krn_shape[0])).sum(1)
    return (grad_img, grad_krn), (1 if want_img else None, 0 if want_krn else None)


torch.library.register_vmap("semiconv::backward", _backward_vmap, lib=_library)
