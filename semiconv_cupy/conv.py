"""The convolution and its derivative: the public calls for arrays.

Checks arguments, asks ``route`` for the way, allocates, and lets ``run`` compute. A call that was
planned once is found again by the arrays' shapes, strides and dtypes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from semiconv_cupy import own_gradients, run, source
from semiconv_cupy.algebra import (
    BroadcastSemifield,
    SelectSemifield,
    Semifield,
    SubtractSemifield,
    named,
    no_semifield,
)
from semiconv_cupy.backends.broadcast import broadcast_conv
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.place import Place, gpu_of, place_of
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.errors import flag
from semiconv_cupy.geometry import Geometry, IntOrTuple, Kind, Padding
from semiconv_cupy.methods import METHODS
from semiconv_cupy.parameters import Given, channels_of, given, gradient_of
from semiconv_cupy.residual import needs_arrays
from semiconv_cupy.route import Route, choose
from semiconv_cupy.winners import indices_of, selection_by_one

Array = Any


@by_chunks
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
    return_indices: bool = False,
    **parameters: Any,
) -> Any:
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
    padding : int, one int per axis, one (begin, end) per axis, "valid" or "same"
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
    return_indices : bool
        Return the winners, too: for selections without `channels_add`.
    **parameters
        ``mu`` of ``"log"``, ``p`` of ``"root"``: a number, or an array of shape () or (O,), one
        value for each kernel, of img's library and of the dtype of arithmetic (float32 for halves).
        Kernels read an array when they run: another value compiles nothing, keeps nothing and does
        not wait for a GPU. So an array's values are not checked: 0 and NaN give NaN, infinite ones
        are not defined. Parameters of a `SubtractSemifield` of one's own are given in the same way;
        those that are left out keep the semifield's values.

    Returns
    -------
    out : array (B, O or O * groups, *out)
        C-contiguous, of img's library, device and dtype;
        out = floor((S + begin + end - dilation (K - 1) - 1) / stride + 1).
    indices : array of int64, of out's shape
        Only with `return_indices`, as (out, indices): which element of krn[k(o)] as it is stored,
        flat in C order, gave the term that won; -1 where no term is better than the zero.

    Raises
    ------
    TypeError
        Arrays of different libraries or dtypes, or a dtype that the semifield has no meaning for. A
        parameter that is missing, or that the semifield does not have.
    ValueError
        Shapes or arguments that do not fit; the message names the argument and its value. A
        parameter's number that is 0 or not finite. `return_indices` with an addition that is no
        selection.
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
    >>> sc.semifield_conv(img, krn, "tropical_max", padding="same", return_indices=True)[1]
    array([[[1, 0, 1, 2, 1]]])
    """
    if parameters or not isinstance(semifield, str):
        values = given(semifield, parameters, "semifield_conv")
    else:
        values = Given(named(semifield))
    call: Callable[..., Any] | None
    try:
        key = (
            img.shape, img.strides, img.dtype, krn.shape, krn.strides, krn.dtype, type(img),
            type(krn), values.key, group_broadcasting, kind, method, return_indices,
            f"{stride!r} {padding!r} {dilation!r} {groups!r}",  # 1 == 1.0 == True, and differ here
        )  # fmt: skip
        call = _calls.get(key)
    except (AttributeError, TypeError):  # no arrays, or nothing that can be hashed
        key, call = None, None
    if call is None:
        arguments = dict(
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            group_broadcasting=group_broadcasting,
            kind=kind,
        )
        with_winners = flag("return_indices", return_indices)
        plan: Callable[..., Callable[..., Any]] = _plan_with_winners if with_winners else _plan
        call = plan(img, krn, values, method, arguments)
        if key is not None:
            if len(_calls) >= _MOST_CALLS:
                _calls.clear()
            _calls[key] = call
    return call(img, krn) if values.value is None else call(img, krn, values.value)


# Calls already planned, by everything that a plan depends on.
_calls: dict[tuple[Any, ...], Callable[..., Any]] = {}
_MOST_CALLS = 1024


def checked_geometry(
    img: Array, krn: Array, method: str, arguments: dict[str, Any]
) -> tuple[Place, Geometry]:
    """The arrays' place and the geometry of a call, all but its semifield checked."""
    place = place_of("semifield_conv", img=img, krn=krn)
    require_method(method)
    require_one_dtype(img, krn, ("img", "krn"))
    return place, Geometry.plan(img.shape, krn.shape, **arguments)


def require_method(method: object) -> None:
    """ValueError for what is no method's name."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got method={method!r}")


def require_one_dtype(first: Array, second: Array, names: tuple[str, str]) -> None:
    """TypeError with the remedy where the dtypes of two arguments differ."""
    if first.dtype == second.dtype:
        return
    one, other = names
    remedy = f"{other}.astype({one}.dtype)"
    if first.dtype.kind in "iub" and second.dtype.kind == "f":  # integers cannot hold the second
        remedy = f"{one}.astype({other}.dtype)"
    raise TypeError(
        f"{one} and {other} must have one dtype, got {one} {first.dtype} and {other} "
        f"{second.dtype}; convert one of them: {remedy}"
    )


def checked_broadcast(
    img: Array, krn: Array, method: str, arguments: dict[str, Any]
) -> tuple[Place, Geometry]:
    """`checked_geometry` for whole-array functions, which have no kernels."""
    place, geometry = checked_geometry(img, krn, method, arguments)
    refuse_kernels(method)
    return place, geometry


def refuse_kernels(method: str) -> None:
    """ValueError for a method of compiled kernels, which a BroadcastSemifield does not have."""
    if method in ("direct", "tiled", "linear"):
        raise ValueError(
            f"method={method!r} has no kernels for a BroadcastSemifield; use a "
            "SelectSemifield or SubtractSemifield, or method='auto'"
        )


def checked_route(
    img: Array,
    krn: Array,
    semifield: Any,
    method: str,
    arguments: dict[str, Any],
    place: Place | None = None,
    *,
    slopes: bool = False,
) -> Route:
    """Check everything about a call of a compiled semifield; errors name what does not fit.

    `semifield` may be `Given` with a value. A `place` takes the place of the arrays' own.
    """
    its_place, geometry = checked_geometry(img, krn, method, arguments)
    values = semifield if isinstance(semifield, Given) else Given(semifield)
    semifield = values.semifield
    if not isinstance(semifield, (SelectSemifield, SubtractSemifield)):
        raise no_semifield(semifield)
    storage = storage_of(img.dtype, semifield)
    require_value(storage, values)
    channels = channels_of(values, geometry.kernels, storage, {"img": img})
    where = place or its_place
    return choose(semifield, geometry, storage, where, method, channels=channels, slopes=slopes)


def _plan(
    img: Array, krn: Array, values: Given, method: str, arguments: dict[str, Any]
) -> Callable[..., Array]:
    """Check everything once; return what computes (img, krn, value of the parameter if any)."""
    if isinstance(values.semifield, BroadcastSemifield):
        return _plan_broadcast(img, krn, values.semifield, method, arguments)
    route = checked_route(img, krn, values, method, arguments)
    call = run.forward_call(route, img, krn)
    if not route.place.on_gpu:
        return call

    def on_its_gpu(img: Array, krn: Array, *value: Any) -> Array:
        with gpu_of(img=img, krn=krn):  # not always the GPU of the first call
            return call(img, krn, *value)

    return on_its_gpu


def _plan_with_winners(
    img: Array, krn: Array, values: Given, method: str, arguments: dict[str, Any]
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """`_plan` for a call that returns the winners' indices, too."""
    values = values._replace(semifield=selection_by_one(values.semifield))
    route = checked_route(img, krn, values, method, arguments)
    place, spec, dtype = route.place, route.residual_spec, native(img.dtype)
    assert spec is not None
    xp, out_shape = place.array_module, route.geometry.out_shape

    def call(img: Array, krn: Array, value: Any = None) -> tuple[Array, Array]:
        with gpu_of(img=img, krn=krn) if place.on_gpu else nullcontext():
            out, residual = xp.empty(out_shape, dtype), xp.empty(spec.shape, spec.dtype)
            run.forward(route, img, krn, out, residual, value=value)
            return out, indices_of(xp, residual)

    return call


def native(dtype: Any) -> Any:
    """The dtype in the machine's byte order: that of results."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _plan_broadcast(
    img: Array, krn: Array, semifield: BroadcastSemifield, method: str, arguments: dict[str, Any]
) -> Callable[[Array, Array], Array]:
    """`_plan` for whole-array functions, which have no kernels."""
    place, geometry = checked_broadcast(img, krn, method, arguments)

    def by_arrays(img: Array, krn: Array) -> Array:
        with np.errstate(all="ignore"):
            return broadcast_conv(place.array_module, img, krn, semifield, geometry)

    return by_arrays


def storage_of(dtype: Any, semifield: Semifield, argument: str = "img") -> str:
    """The storage name of an argument's dtype; a TypeError where the semifield has no meaning."""
    name = str(dtype.name)
    if name not in (*source.FLOATING, *source.INTEGER, source.BOOLEAN):
        supported = ", ".join((*source.FLOATING, *source.INTEGER, source.BOOLEAN))
        raise TypeError(f"{argument} has dtype {dtype}; supported are {supported}")
    require_meaning(name, semifield)
    return name


def require_value(name: str, values: Given) -> None:
    """ValueError for a number that is none, or infinite, in that storage dtype."""
    if type(values.value) is tuple:
        numbers = zip(values.semifield.own, values.value, strict=True)
        _require_range(name, {key: one for key, one in numbers if type(one) is float})
        return
    if type(values.value) is float and name in source.FLOATING:
        made = getattr(SubtractSemifield, values.semifield.accumulator)(values.value)
        require_meaning(name, made)


def require_meaning(name: str, semifield: Semifield) -> None:
    """Raise where the semifield has no meaning in that storage dtype, or its parameter no value."""
    if name in source.FLOATING:
        _require_range(name, semifield.parameters if semifield.own else {})
        if semifield.parameter is not None:
            with np.errstate(over="ignore", under="ignore"):
                parameter = np.dtype(source.ARITHMETIC[name]).type(semifield.parameter)
            if parameter == 0 or not np.isfinite(parameter):
                raise ValueError(f"{semifield!r} cannot be computed in {name}: {parameter}")
    else:
        semifield.definitions(source.arithmetic_of(name))  # raises where there are none


def _require_range(name: str, own: Mapping[str, float]) -> None:
    largest = float(np.finfo(source.ARITHMETIC[name]).max)
    for key, value in own.items():
        if not abs(value) <= largest:
            raise ValueError(f"{key}={value!r} cannot be computed in {name}: it is infinite there")


# ---- derivatives -------------------------------------------------------------------------------


def require_derivatives(storage: str) -> None:
    """TypeError for a dtype whose results have no derivative."""
    if storage not in source.FLOATING:
        raise TypeError(f"derivatives need a floating dtype, got {storage}")


def refuse_broadcast(semifield: object, function: str) -> None:
    """TypeError for whole-array functions, of which no derivative is known here."""
    if isinstance(semifield, BroadcastSemifield):
        raise TypeError(
            f"{function} needs a SelectSemifield or SubtractSemifield; a BroadcastSemifield is "
            "differentiated by PyTorch (torch_bridge)"
        )


def require_grad_out(grad_out: Array, shape: tuple[int, ...], dtype: Any) -> None:
    """ValueError for a gradient of another shape or dtype than the result's."""
    if grad_out.shape != shape or grad_out.dtype != dtype:
        raise ValueError(
            f"grad_out must have the result's shape {shape} and dtype {dtype}, "
            f"got {grad_out.shape} and {grad_out.dtype}"
        )


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
    **parameters: Any,
) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
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
        holds img and krn only where the derivative needs them. Where a parameter was passed, its
        gradient is the third, of its shape and of the dtype of arithmetic: for log
        ``sum of grad_out (sum_i w_i v_i - out) / mu``, for root
        ``sum of grad_out out (sum_i w_i ln v_i - ln out) / p``, with the weights w_i of a window's
        terms v_i; nothing comes from windows of zeros and from those with an infinite term. Where
        parameters of one's own were passed, a gradient follows for each, in the call's order.

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
    values = given(semifield, parameters, "semifield_conv_vjp")
    algebra, value = values.semifield, values.value
    refuse_broadcast(algebra, "semifield_conv_vjp")
    arguments = dict(
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        group_broadcasting=group_broadcasting,
        kind=kind,
    )
    route = checked_route(
        img, krn, values, method, arguments, slopes=own_gradients.keeps_slopes(algebra, parameters)
    )
    place, geometry = route.place, route.geometry
    require_derivatives(route.storage)
    dtype = native(img.dtype)
    xp, spec = place.array_module, route.residual_spec
    with place.current():
        out = xp.empty(geometry.out_shape, dtype)
        residual = None if spec is None else xp.empty(spec.shape, spec.dtype)
        run.forward(route, img, krn, out, residual, value=value)
    # Views, whose shape and strides stay these whatever becomes of the caller's arrays.
    saved: tuple[Array, Array] = (None, None)
    if needs_arrays(algebra):
        saved = img.view(), krn.view()

    def summed(other: Semifield, grad_out: Array) -> Array:
        """The gradient of each kernel, its numbers added up, by another derivative of times."""
        of_krn = xp.empty(geometry.krn_shape, source.ARITHMETIC[route.storage])
        arrays = GradientArrays(grad_out, *saved, residual, None, of_krn)
        run.backward(replace(route, semifield=other), arrays, value=value)
        return of_krn.sum(axis=tuple(range(1, of_krn.ndim)), dtype=np.float64)

    def pullback(grad_out: Array) -> tuple[Array, ...]:
        place_of("semifield_conv", out=out_like, grad_out=grad_out)
        require_grad_out(grad_out, geometry.out_shape, dtype)
        real = source.ARITHMETIC[route.storage]
        with place.current():
            grad_img = (xp.empty if place.on_gpu else xp.zeros)(geometry.img_shape, real)
            grad_krn = xp.empty(geometry.krn_shape, real)
            arrays = GradientArrays(grad_out, *saved, residual, grad_img, grad_krn)
            run.backward(route, arrays, value=value)
            found = grad_img.astype(dtype, copy=False), grad_krn.astype(dtype, copy=False)
            if not parameters:
                return found
            if algebra.own:
                by_own = own_gradients.gradients(
                    values,
                    parameters,
                    residual,
                    grad_out,
                    xp,
                    lambda other: summed(other, grad_out),
                )
                return *found, *(one.astype(real) for one in by_own)
            assert residual is not None
            return *found, gradient_of(value, residual[-1], grad_out, xp)

    out_like = out[:0]
    return out, pullback
