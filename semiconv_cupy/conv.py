"""The convolution itself: one public call for arrays, and its parts for the PyTorch bridge.

Checks arrays and dtypes, plans (cached), picks the backend. Shapes are `geometry`'s business,
semifields are `semifields`', loops are the backends'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.algebra import (
    BroadcastSemifield,
    SelectSemifield,
    Semifield,
    SubtractSemifield,
    named,
    no_semifield,
)
from semiconv_cupy.backends import by_sums, cuda, reference
from semiconv_cupy.backends.broadcast import broadcast_conv
from semiconv_cupy.backends.cuda import by_sums as cuda_by_sums
from semiconv_cupy.backends.device import Device, cupy_device
from semiconv_cupy.backends.host import calls as host
from semiconv_cupy.backends.place import NUMPY, Place, place_of
from semiconv_cupy.errors import BackendUnavailableError, warn
from semiconv_cupy.geometry import Geometry, IntOrTuple, Kind, Padding
from semiconv_cupy.residual import Residual, needs_arrays

Array = Any
METHODS = ("auto", "direct", "tiled", "linear", "reference")


def semifield_conv(
    img: Array,
    krn: Array,
    semifield: Semifield | BroadcastSemifield | str,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    group_broadcasting: bool = False,
    kind: Kind = "conv",
    method: str = "auto",
) -> Array:
    r"""Convolve an image with a kernel in a semifield.

    .. math:: out[b, o, x] = \bigoplus_{i, y} img[b, g I + i, s x + d\,step(y) - begin]
              \otimes krn[k(o), i, y]

    with :math:`step(y) = K - 1 - y` for ``kind="conv"`` and :math:`y` for ``"corr"``; output
    channel o belongs to group g and uses kernel k(o) = o, or o modulo O with `group_broadcasting`;
    s, d and begin are `stride`, `dilation` and the padding before the first element. Positions
    outside the image do not take part; a window that has no position inside gives the semifield's
    zero. With ``"tropical_max"`` this is grey-scale dilation, the generalised max-pooling.

    Parameters
    ----------
    img : array (B, C, *S)
        NumPy or CuPy, any strides, one or more spatial axes. float16, bfloat16 (of ml_dtypes),
        float32 and float64; integers and bool for selections.
    krn : array (O, I, *K)
        Of the same library, device and dtype, as many axes; I = C / groups.
    semifield : SelectSemifield, SubtractSemifield, BroadcastSemifield or str
        The addition and the multiplication, or the name of a ready-made pair: ``"tropical_max"``,
        ``"tropical_min_negated"``, ``"tropical_min"``, ``"max_times"``, ``"boolean"``,
        ``"linear"``.
    stride : int or one int per spatial axis
        Step between outputs in image elements: s.
    dilation : int or one int per spatial axis
        Step between taps in image elements: d.
    padding : int, one int per axis, (begin, end) pairs, "valid" or "same"
        How far windows reach beyond the image, at its beginning (begin) and its end. "valid" is 0;
        "same" keeps the size at stride 1 (the odd step at the end).
    groups : int
        Number of channel groups that do not see each other; C is a multiple of it.
    group_broadcasting : bool
        Apply all O kernels to every group (out has O * groups channels), not O / groups to each.
    kind : {"conv", "corr"}
        Whether the kernel is mirrored (a convolution) or not (a correlation).
    method : {"auto", "direct", "tiled", "linear", "reference"}
        "auto" picks the fastest that is right here. "direct" insists on the compiled kernel that
        serves every geometry, "tiled" (CuPy arrays, floating dtypes, small strides) on the one that
        works in shared memory, "linear" (log, and root of p >= 1 or p <= -1) on ordinary sums of
        exponentials or powers, "reference" on plain array loops.

    Returns
    -------
    array (B, O or O * groups, *out)
        C-contiguous, of img's library, device and dtype;
        out = floor((S + begin + end - dilation (K - 1) - 1) / stride + 1).

    Raises
    ------
    TypeError
        Arrays of different libraries or dtypes, or a dtype that the semifield has no meaning for.
    ValueError
        Shapes or arguments that do not fit; the message names the argument and its value.
    BackendUnavailableError
        A method asked for by name that cannot run on this machine.

    Notes
    -----
    float16 and bfloat16 are computed in float32. Integer selections saturate instead of wrapping;
    bool is or/and. Of equal terms the first in the kernel's memory order wins. NaN is never
    selected, and a window of nothing but NaN gives the zero; other additions propagate it. "linear"
    computes log as ln(sum of e^(mu img) e^(mu krn))/mu, root as the p-th root of a sum of p-th
    powers, both relative to the largest numbers; outputs for which the sum does not prove that what
    underflowed is below rounding (differences of mu (img + krn) above 60 in float32, 600 in
    float64; infinities, NaN) are computed by "direct", so only speed depends on the numbers.
    Mathematics: van den Boomgaard and Smeulders, "The morphological structure of images", 1994;
    Maragos, "Slope transforms", 1995.

    Examples
    --------
    >>> import numpy as np
    >>> import semiconv_cupy as sc
    >>> img = np.array([[[0.0, 0.0, 5.0, 0.0, 1.0]]], dtype=np.float32)
    >>> krn = np.array([[[-1.0, 0.0, -1.0]]], dtype=np.float32)
    >>> sc.semifield_conv(img, krn, "tropical_max", padding="same")
    array([[[0., 4., 5., 4., 1.]]], dtype=float32)
    """
    if isinstance(semifield, str):
        semifield = named(semifield)
    try:
        key = (
            img.shape, img.strides, img.dtype, krn.shape, krn.strides, krn.dtype, type(img),
            type(krn), semifield, group_broadcasting, kind, method,
            f"{stride!r} {padding!r} {dilation!r} {groups!r}",  # 1 == 1.0 == True, and differ here
        )  # fmt: skip
        call = _calls.get(key)
    except (AttributeError, TypeError):  # no arrays, or nothing that can be hashed
        key, call = None, None
    if call is None:
        call = _plan(
            img, krn, semifield, method,
            dict(stride=stride, padding=padding, dilation=dilation, groups=groups,
                 group_broadcasting=group_broadcasting, kind=kind),
        )  # fmt: skip
        if key is not None:
            if len(_calls) >= _MOST_CALLS:
                _calls.clear()
            _calls[key] = call
    return call(img, krn)


# Calls already planned, by everything that a plan depends on.
_calls: dict[tuple[Any, ...], Callable[[Array, Array], Array]] = {}
_MOST_CALLS = 1024
_MOST_SCRATCH = 1 << 27  # elements: beyond, array loops without a scratch serve on the CPU


class _Checked(NamedTuple):
    """A call whose arguments fit together; nothing is compiled yet."""

    place: Place
    semifield: Semifield
    geometry: Geometry
    storage: str
    in_disguise: bool  # whether it is computed as the linear field
    served: bool  # whether by compiled kernels, else by array loops


def _arrays(
    img: Array, krn: Array, method: str, arguments: dict[str, Any]
) -> tuple[Place, Geometry]:
    """The arrays' place and the geometry of a call, all but its semifield checked."""
    place = place_of(img=img, krn=krn)
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got method={method!r}")
    if img.dtype != krn.dtype:
        remedy = "krn.astype(img.dtype)"
        if img.dtype.kind in "iub" and krn.dtype.kind == "f":  # integers cannot hold the kernel
            remedy = "img.astype(krn.dtype)"
        raise TypeError(
            f"img and krn must have one dtype, got img {img.dtype} and krn {krn.dtype}; "
            f"convert one of them: {remedy}"
        )
    return place, Geometry.plan(img.shape, krn.shape, **arguments)


def _check(
    img: Array, krn: Array, semifield: Any, method: str, arguments: dict[str, Any]
) -> _Checked:
    """Check everything about a call of a compiled semifield; errors name what does not fit."""
    place, geometry = _arrays(img, krn, method, arguments)
    if not isinstance(semifield, (SelectSemifield, SubtractSemifield)):
        raise no_semifield(semifield)
    storage = storage_of(img.dtype, semifield)
    in_disguise = by_sums.serves(semifield, geometry, method, on_gpu=place.on_gpu)
    served = method != "reference" and serves(geometry, method, on_gpu=place.on_gpu)
    if served and not place.on_gpu and method == "tiled":
        raise ValueError("method='tiled' is for CuPy arrays; NumPy arrays take 'direct' or 'auto'")
    return _Checked(place, semifield, geometry, storage, in_disguise, served)


def _plan(
    img: Array, krn: Array, semifield: Any, method: str, arguments: dict[str, Any]
) -> Callable[[Array, Array], Array]:
    """Check everything once; return what computes the convolution of such arrays."""
    if isinstance(semifield, BroadcastSemifield):
        place, geometry = _arrays(img, krn, method, arguments)
        if method in ("direct", "tiled", "linear"):
            raise ValueError(
                f"method={method!r} has no kernels for a BroadcastSemifield; use a "
                "SelectSemifield or SubtractSemifield, or method='auto'"
            )

        def by_arrays(img: Array, krn: Array) -> Array:
            with np.errstate(all="ignore"):
                return broadcast_conv(place.array_module, img, krn, semifield, geometry)

        return by_arrays
    place, semifield, geometry, storage, in_disguise, served = _check(
        img, krn, semifield, method, arguments
    )
    if not served:

        def loop(img: Array, krn: Array) -> Array:
            native = img.dtype if img.dtype.isnative else img.dtype.newbyteorder("=")
            here = place_of(img=img, krn=krn)
            with here.current():
                out = here.array_module.empty(geometry.out_shape, native)
                _by_reference(here.array_module, img, krn, out, None, semifield, geometry, storage)
            return out

        return loop
    if not place.on_gpu:
        part = "linear" if in_disguise else "forward"
        return host.forward_call(img, krn, semifield, geometry, storage, part)

    device = cupy_device()
    run = None
    if not in_disguise and 0 not in geometry.out_shape:
        run = cuda.forward_launch(
            device, semifield, geometry, storage, None, method, img.strides, krn.strides,
            img.itemsize,
        )  # fmt: skip

    def launch(img: Array, krn: Array) -> Array:
        with place_of(img=img, krn=krn).current():  # another GPU's arrays may take the same plan
            out = device.empty(geometry.out_shape, img.dtype)
            if run is not None:
                run(device.address(img), img, krn, out, None)
            elif in_disguise:
                cuda_by_sums.forward(device, img, krn, semifield, geometry, storage, out)
        return out

    return launch


def storage_of(dtype: Any, semifield: Semifield) -> str:
    """The storage name of an array's dtype; a TypeError where the semifield has no meaning."""
    name = str(dtype.name)
    if name not in (*source.FLOATING, *source.INTEGER, source.BOOLEAN):
        supported = ", ".join((*source.FLOATING, *source.INTEGER, source.BOOLEAN))
        raise TypeError(f"img has dtype {dtype}; supported are {supported}")
    require_meaning(name, semifield)
    return name


def require_meaning(name: str, semifield: Semifield) -> None:
    """Raise where the semifield has no meaning in that storage dtype, or its parameter no value."""
    if name in source.FLOATING:
        if semifield.parameter is not None:
            with np.errstate(over="ignore", under="ignore"):
                parameter = np.dtype(source.ARITHMETIC[name]).type(semifield.parameter)
            if parameter == 0 or not np.isfinite(parameter):
                raise ValueError(f"{semifield!r} cannot be computed in {name}: {parameter}")
    else:
        semifield.definitions(source.arithmetic_of(name))  # raises what is wrong, and for whom


def serves(geometry: Geometry, method: str, *, on_gpu: bool) -> bool:
    """Whether compiled kernels serve this geometry here; if not, say so once or raise."""
    if geometry.rank > host.MAX_RANK:
        reason = f"kernels serve up to {host.MAX_RANK} spatial axes, got {geometry.rank}"
    elif not on_gpu and host.scratch_elements(geometry) > _MOST_SCRATCH:
        reason = f"windows of {geometry.kernel_size} at dilation {geometry.dilation} span too much"
    elif not on_gpu and host.compiler() is None:
        reason = host.missing_compiler()
    else:
        return True
    if method in ("direct", "tiled", "linear"):
        raise BackendUnavailableError(f"method={method!r} cannot run here: {reason}")
    global _warned
    if not _warned:
        _warned = True
        warn(f"semifield convolutions run as slow array loops: {reason}")
    return False


_warned = False


def _by_reference(
    xp: Any,
    img: Array,
    krn: Array,
    out: Array,
    residual: Array | None,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
) -> None:
    """`forward` by array loops."""
    if storage == source.BOOLEAN:
        assert isinstance(semifield, SelectSemifield)
        semifield = semifield.boolean_equivalent or semifield
    arrays = _numbers(img, storage), _numbers(krn, storage)
    dtype = np.dtype(source.ARITHMETIC[storage])
    with np.errstate(all="ignore"):
        value, left = reference.forward(xp, *arrays, semifield, geometry, dtype)
        out[...] = _bits(xp, value) if _holds_bits(out, storage) else value
    if residual is not None:
        residual[...] = left


def _holds_bits(array: Array, storage: str) -> bool:
    """Whether an array holds bfloat16 as the bits of integers."""
    return storage == "bfloat16" and array.dtype == np.uint16


def _numbers(array: Array, storage: str) -> Array:
    """What an array's bits stand for; None stays None."""
    if array is None or not _holds_bits(array, storage):
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _bits(xp: Any, values: Array) -> Array:
    """The nearest bfloat16 of float32 numbers, ties to even, as bits."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return xp.where(xp.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


# ---- derivatives -------------------------------------------------------------------------------


def semifield_conv_vjp(
    img: Array,
    krn: Array,
    semifield: Semifield | str,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    group_broadcasting: bool = False,
    kind: Kind = "conv",
    method: str = "auto",
) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
    r"""Convolve, and return what pulls a gradient of the result back to image and kernel.

    .. math:: grad\_img[p] = \sum_{o, x, y} grad\_out[o, x]\,
              \frac{\partial out[o, x]}{\partial term} \frac{\partial term}{\partial img[p]}

    and likewise for the kernel. A selection sends the whole gradient to the term that won (the
    first of equal ones, unless the semifield spreads it); log and root weigh the terms by their own
    scaled values, so that the weights sum to 1 (log) at any magnitude. Windows of nothing but zeros
    have gradient 0. On the CPU the bits do not depend on the number of threads.

    Parameters are as in `semifield_conv`, floating dtypes only, no BroadcastSemifield.

    Returns
    -------
    out : array
        As `semifield_conv` returns it.
    pullback : callable
        ``pullback(grad_out) -> (grad_img, grad_krn)``, of the shapes and dtype of img and krn. It
        holds img and krn only where the derivative needs them.

    Examples
    --------
    >>> import numpy as np
    >>> import semiconv_cupy as sc
    >>> img = np.array([[[0.0, 0.0, 5.0, 0.0, 1.0]]])
    >>> krn = np.array([[[-1.0, 0.0, -1.0]]])
    >>> out, pullback = sc.semifield_conv_vjp(img, krn, "tropical_max", padding="same")
    >>> grad_img, grad_krn = pullback(np.ones_like(out))
    >>> grad_img
    array([[[1., 0., 3., 0., 1.]]])
    >>> grad_krn
    array([[[1., 3., 1.]]])
    """
    algebra = named(semifield) if isinstance(semifield, str) else semifield
    if isinstance(algebra, BroadcastSemifield):
        raise TypeError(
            "semifield_conv_vjp needs a SelectSemifield or SubtractSemifield; a BroadcastSemifield "
            "is differentiated by PyTorch (torch_bridge)"
        )
    place, algebra, geometry, storage, *_ = _check(
        img, krn, algebra, method,
        dict(stride=stride, padding=padding, dilation=dilation, groups=groups,
             group_broadcasting=group_broadcasting, kind=kind),
    )  # fmt: skip
    if storage not in source.FLOATING:
        raise TypeError(f"derivatives need a floating dtype, got {img.dtype}")
    dtype = img.dtype.newbyteorder("=") if img.dtype.kind == "f" else img.dtype
    described = by_sums.saved_residual(algebra, storage, geometry, method, on_gpu=place.on_gpu)
    xp = place.array_module
    with place.current():
        out = xp.empty(geometry.out_shape, dtype)
        residual = None if described is None else xp.empty(described.shape, described.dtype)
        forward(img, krn, out, residual, algebra, geometry, storage, method=method)
    # Views, whose shape and strides stay these whatever becomes of the caller's arrays.
    saved = (img.view(), krn.view()) if needs_arrays(algebra) else (None, None)

    def pullback(grad_out: Array) -> tuple[Array, Array]:
        place_of(out=out_like, grad_out=grad_out)
        if grad_out.shape != geometry.out_shape or grad_out.dtype != dtype:
            raise ValueError(
                f"grad_out must have the result's shape {geometry.out_shape} and dtype {dtype}, "
                f"got {grad_out.shape} and {grad_out.dtype}"
            )
        real = source.ARITHMETIC[storage]
        with place.current():
            grad_img = (xp.empty if place.on_gpu else xp.zeros)(geometry.img_shape, real)
            grad_krn = xp.empty(geometry.krn_shape, real)
            backward(
                grad_out, saved[0], saved[1], residual, grad_img, grad_krn, algebra, geometry,
                storage, method=method,
            )  # fmt: skip
            return grad_img.astype(dtype, copy=False), grad_krn.astype(dtype, copy=False)

    out_like = out[:0]
    return out, pullback


def forward(
    img: Array,
    krn: Array,
    out: Array,
    residual: Array | None,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    *,
    method: str = "auto",
    device: Device | None = None,
    threads: int | None = None,
) -> None:
    """Compute into given arrays: for callers that allocate themselves and have checked everything.

    `out` (img's dtype) and `residual` (see `residual.residual_of`; None: not wanted) are
    C-contiguous; where a residual is wanted, "auto" is not "linear", which has none. `storage`
    names the dtype that the bits of img, krn and out stand for, so that bfloat16 may come as
    uint16. At most `threads` threads of the CPU work (None: one a core).
    """
    place = NUMPY if isinstance(img, np.ndarray) else place_of(img=img, krn=krn)
    on_gpu = device is not None or place.on_gpu
    in_disguise = residual is None and by_sums.serves(semifield, geometry, method, on_gpu=on_gpu)
    if method == "reference" or not serves(geometry, method, on_gpu=on_gpu):
        _by_reference(place.array_module, img, krn, out, residual, semifield, geometry, storage)
    elif on_gpu:
        launcher, arrays = device or cupy_device(), (img, krn, semifield, geometry, storage, out)
        if in_disguise:
            cuda_by_sums.forward(launcher, *arrays)
        else:
            cuda.forward(launcher, *arrays, residual, method=method)
    else:
        part = "linear" if in_disguise else "forward"
        host.forward(img, krn, out, residual, semifield, geometry, storage, threads, part)


def forward_at(
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    img_strides: tuple[int, ...],
    krn_strides: tuple[int, ...],
    residual: Residual | None,
    device: Device | None = None,
) -> Callable[..., None] | None:
    """`forward` for callers that have addresses: see `forward_at` of `backends.host`, or `cuda`.

    None where no compiled code serves, and `forward` does it by array loops.
    """
    if not serves(geometry, "auto", on_gpu=device is not None):
        return None
    on_gpu = device is not None
    linearly = residual is None and by_sums.serves(semifield, geometry, "auto", on_gpu=on_gpu)
    if device is not None and linearly:
        return cuda_by_sums.forward_call(
            device, semifield, geometry, storage, img_strides, krn_strides
        )  # fmt: skip
    if device is not None:
        return cuda.forward_at(
            device, semifield, geometry, storage, img_strides, krn_strides, residual
        )
    part = "linear" if linearly else "forward"
    return host.forward_at(semifield, geometry, storage, img_strides, krn_strides, residual, part)


def backward_at(
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    img_strides: tuple[int, ...],
    krn_strides: tuple[int, ...],
    residual: Residual | None,
    wants: tuple[bool, bool],
    device: Device | None = None,
) -> Callable[..., None] | None:
    """`backward` for callers that have addresses: see `backward_at` of `backends.host`, or `cuda`.

    A kernel on the CPU is C-contiguous. `wants` tells of the gradients of img and krn.
    """
    if not serves(geometry, "auto", on_gpu=device is not None):
        return None
    if device is not None and residual is None and by_sums.can_serve(semifield):
        return cuda_by_sums.backward_call(
            device, semifield, geometry, storage, img_strides, krn_strides, *wants
        )  # fmt: skip
    if device is not None:
        return cuda.backward_at(
            device, semifield, geometry, storage, img_strides, krn_strides, residual, *wants
        )
    return host.backward_at(semifield, geometry, storage, img_strides, residual)


def backward(
    grad_out: Array,
    img: Array | None,
    krn: Array | None,
    residual: Array | None,
    grad_img: Array | None,
    grad_krn: Array | None,
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    *,
    method: str = "auto",
    device: Device | None = None,
    threads: int | None = None,
) -> None:
    """Gradients into given arrays (None: not wanted), in arithmetic dtype, C-contiguous.

    NumPy's `grad_img` comes zeroed; on a GPU every element is written. `img` and `krn` may
    be None where `residual.needs_arrays` is False. The residual tells what the forward pass was:
    where it kept none that `residual.residual_of` describes, it was "linear".
    """
    place = NUMPY if isinstance(grad_out, np.ndarray) else place_of(grad_out=grad_out)
    xp, on_gpu = place.array_module, device is not None or place.on_gpu
    linearly = residual is None and by_sums.can_serve(semifield)
    if method == "reference" or not serves(geometry, method, on_gpu=on_gpu):
        slopes, image, kernel = (_numbers(array, storage) for array in (grad_out, img, krn))
        dtype = np.dtype(source.ARITHMETIC[storage])
        if on_gpu and grad_img is not None:
            grad_img[...] = 0
        with np.errstate(all="ignore"):
            if linearly:
                residual = reference.forward(xp, image, kernel, semifield, geometry, dtype)[1]
            reference.backward(
                xp, slopes, image, kernel, residual, grad_img, grad_krn, semifield, geometry, dtype
            )
    elif on_gpu:
        launcher, case = device or cupy_device(), (semifield, geometry, storage)
        if linearly:
            method = "auto" if method == "linear" else method
            cuda_by_sums.backward(
                launcher, grad_out, img, krn, grad_img, grad_krn, *case, method
            )  # fmt: skip
        else:
            arrays = (grad_out, img, krn, residual, grad_img, grad_krn)
            cuda.backward(launcher, *arrays, *case, method)
    else:
        arrays = (grad_out, img, krn, residual, grad_img, grad_krn)
        host.backward(*arrays, semifield, geometry, storage, threads)
