"""The convolution: the public call for arrays.

Checks arguments, asks ``route`` for the way, allocates, and lets ``run`` compute. A call that was
planned once is found again by the arrays' shapes, strides and dtypes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from semiconv_cupy import run
from semiconv_cupy.algebra import (
    BroadcastSemifield,
    SelectSemifield,
    Semifield,
    SubtractSemifield,
    named,
    no_semifield,
)
from semiconv_cupy.backends.broadcast import broadcast_conv
from semiconv_cupy.backends.place import Place, gpu_of, place_of
from semiconv_cupy.checks import (
    native,
    refuse_kernels,
    require_method,
    require_one_dtype,
    require_value,
    storage_of,
)
from semiconv_cupy.chunked import by_chunks
from semiconv_cupy.errors import flag
from semiconv_cupy.geometry import Geometry, IntOrTuple, Kind, Padding
from semiconv_cupy.parameters import Given, channels_of, given
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

    See Also
    --------
    semifield_conv_vjp : With gradients.
    semifield_matmul : The matrix product.
    semiconv_cupy.ndimage.grey_dilation : Of pictures and volumes, as in SciPy.
    torch_bridge.functional.semifield_conv : Of tensors.
    explain : What a call runs.

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


def checked_broadcast(
    img: Array, krn: Array, method: str, arguments: dict[str, Any]
) -> tuple[Place, Geometry]:
    """`checked_geometry` for whole-array functions, which have no kernels."""
    place, geometry = checked_geometry(img, krn, method, arguments)
    refuse_kernels(method)
    return place, geometry


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


def _plan_broadcast(
    img: Array, krn: Array, semifield: BroadcastSemifield, method: str, arguments: dict[str, Any]
) -> Callable[[Array, Array], Array]:
    """`_plan` for whole-array functions, which have no kernels."""
    place, geometry = checked_broadcast(img, krn, method, arguments)

    def by_arrays(img: Array, krn: Array) -> Array:
        with np.errstate(all="ignore"):
            return broadcast_conv(place.array_module, img, krn, semifield, geometry)

    return by_arrays
