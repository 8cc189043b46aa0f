"""Morphology by parabolas without end, and Euclidean distances, of tensors; with gradients.

Checks tensors and scales; `parabolas` says how they are differentiated. Called by `functional`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torch_bridge.autograd import _inside_of_transforms
from torch_bridge.checks import require_dense, require_tensors
from torch_bridge.ops.parabolas import Passes
from torch_bridge.parabolas import parabolas

Scale = float | Sequence[float] | Tensor
Axes = int | Sequence[int] | None


def parabolic_dilation(img: Tensor, scale: Scale, *, axes: Axes = None) -> Tensor:
    r"""Dilation by a parabola without end, differentiable in image and scale.

    .. math:: out[b, c, x] = \max_y\ img[b, c, y] - \sum_a \left(\frac{x_a - y_a}{s_a}\right)^2

    Parameters
    ----------
    img : Tensor (B, C, *S)
        float16, bfloat16, float32 or float64; computed in double, rounded once.
    scale : float, sequence of float or Tensor
        Lengths s in elements. One for all axes, ``()``; one for each, ``(N,)``; or for each
        channel one for all axes, ``(C, 1)``, or one for each, ``(C, N)``. 0 leaves an axis as it
        is, inf takes the maximum of the whole axis. A tensor of any floating dtype may learn.
    axes : int or sequence of int, optional
        Along which axes; by default all but the first two. Others are a batch, and then an image
        needs no channels. The k-th scale belongs to the k-th of them.

    Returns
    -------
    Tensor
        Of the image's shape, dtype and device.

    Raises
    ------
    ValueError
        A scale that is negative or NaN (its logarithm can learn freely), or of another shape;
        axes that do not fit; tensors on two devices.
    TypeError
        No dense tensor, or no floating one.

    See Also
    --------
    parabolic_erosion : Its adjoint.
    parabolic_opening, parabolic_closing : Compositions of both.
    torch_bridge.ParabolicDilation : The layer.
    semiconv_cupy.parabolic_dilation : Of arrays; source.

    Notes
    -----
    The same as `semiconv_cupy.parabolic_dilation`, to the bit, for each channel in one call. Each
    result has a winner y, the first of equal ones; its gradient goes there, and 2 (x - y)^2 / s^3
    of it to the scale. Both are computed by one more pass along each axis, in double and with the
    same bits for any number of threads. A scale of 0 or inf has gradient 0.

    ``torch.compile(fullgraph=True)``, ``torch.vmap`` and ``torch.func``, forward mode and second
    derivatives work; in transforms and for second derivatives in functions of torch, which take
    more memory. Scales on a GPU are read by the CPU, which waits for them.

    Examples
    --------
    >>> img = torch.tensor([[[0.0, 0.0, 9.0, 0.0, 0.0]]], requires_grad=True)
    >>> scale = torch.tensor(0.5, requires_grad=True)
    >>> out = parabolic_dilation(img, scale)
    >>> out.tolist()
    [[[0.0, 5.0, 9.0, 5.0, 0.0]]]
    >>> out[0, 0, 1].backward()
    >>> img.grad.tolist(), scale.grad.item()
    ([[[0.0, 0.0, 1.0, 0.0, 0.0]]], 16.0)
    """
    return _morphology("parabolic_dilation", img, scale, axes, (False,))


def parabolic_erosion(img: Tensor, scale: Scale, *, axes: Axes = None) -> Tensor:
    r"""Erosion by a parabola without end; notes as in `parabolic_dilation`.

    .. math:: out[b, c, x] = \min_y\ img[b, c, y] + \sum_a \left(\frac{x_a - y_a}{s_a}\right)^2

    Its gradient by the scale is -2 (x - y)^2 / s^3.

    Parameters
    ----------
    img, scale, axes
        As in `parabolic_dilation`.

    Returns
    -------
    Tensor
        Of the image's shape, dtype and device.

    Raises
    ------
    ValueError, TypeError
        As in `parabolic_dilation`.

    See Also
    --------
    parabolic_dilation : Its adjoint.
    distance_transform_edt : Of masks, the root of this.
    torch_bridge.ParabolicErosion : The layer.
    semiconv_cupy.parabolic_erosion : Of arrays.

    Examples
    --------
    >>> parabolic_erosion(torch.tensor([[[9.0, 9.0, 0.0, 9.0, 9.0]]]), 0.5).tolist()
    [[[9.0, 4.0, 0.0, 4.0, 9.0]]]
    """
    return _morphology("parabolic_erosion", img, scale, axes, (True,))


def parabolic_opening(img: Tensor, scale: Scale, *, axes: Axes = None) -> Tensor:
    r"""Erosion, then dilation at the same scale, rounded once.

    .. math:: out = \delta_s(\varepsilon_s(img))

    Parameters
    ----------
    img, scale, axes
        As in `parabolic_dilation`.

    Returns
    -------
    Tensor
        Of the image's shape, dtype and device; nowhere above the image.

    Raises
    ------
    ValueError, TypeError
        As in `parabolic_dilation`.

    See Also
    --------
    parabolic_closing : From above.
    parabolic_dilation : Its second step; notes.
    torch_bridge.ParabolicOpening : The layer.
    semiconv_cupy.parabolic_opening : Of arrays.

    Examples
    --------
    >>> parabolic_opening(torch.tensor([[[0.0, 0.0, 9.0, 0.0, 0.0]]]), 0.5).tolist()
    [[[0.0, 0.0, 4.0, 0.0, 0.0]]]
    """
    return _morphology("parabolic_opening", img, scale, axes, (True, False))


def parabolic_closing(img: Tensor, scale: Scale, *, axes: Axes = None) -> Tensor:
    r"""Dilation, then erosion at the same scale, rounded once.

    .. math:: out = \varepsilon_s(\delta_s(img))

    Parameters
    ----------
    img, scale, axes
        As in `parabolic_dilation`.

    Returns
    -------
    Tensor
        Of the image's shape, dtype and device; nowhere below the image.

    Raises
    ------
    ValueError, TypeError
        As in `parabolic_dilation`.

    See Also
    --------
    parabolic_opening : From below.
    parabolic_dilation : Its first step; notes.
    torch_bridge.ParabolicClosing : The layer.
    semiconv_cupy.parabolic_closing : Of arrays.

    Examples
    --------
    >>> parabolic_closing(torch.tensor([[[9.0, 9.0, 0.0, 9.0, 9.0]]]), 0.5).tolist()
    [[[9.0, 9.0, 5.0, 9.0, 9.0]]]
    """
    return _morphology("parabolic_closing", img, scale, axes, (False, True))


def distance_transform_edt(
    img: Tensor,
    sampling: Scale = 1.0,
    *,
    softness: float | Tensor = 1.0,
    axes: Axes = None,
) -> Tensor:
    r"""The Euclidean distance to the background, exact, and differentiable in a soft mask.

    .. math:: out[b, c, x] = \sqrt{\min_y\ h(img[b, c, y]) + \sum_a (sampling_a (x_a - y_a))^2}

    Elements of 0 are background, h(0) = 0, and those of 1 or more are not, h(1) = inf: of such
    masks, and of integers and bool, where every element but 0 belongs to the object, this is
    `scipy.ndimage.distance_transform_edt`. In between an element is soft, as the probability of
    belonging to the object is::

        h(p) = -softness * log(1 - p)

    so that p = 1/2 is background at a distance of sqrt(0.69 softness) elements.

    Parameters
    ----------
    img : Tensor (B, C, *S)
        A mask, or probabilities in [0, 1]; what is below 0 counts as object, as in SciPy.
    sampling : float, sequence of float or Tensor
        Distance of neighbouring elements: of the shapes that `parabolic_dilation` takes as scale.
    softness : float or Tensor
        In squared units of distance; above 0.
    axes : int or sequence of int, optional
        As in `parabolic_dilation`.

    Returns
    -------
    Tensor
        Of the image's dtype, of integers and bool of torch's default dtype. Without background
        the distance is inf, where SciPy measures to a place outside of the image.

    Raises
    ------
    ValueError, TypeError
        As in `parabolic_dilation`, of sampling, whose square counts and must be finite; a softness
        that is not above 0 and finite. (Compiled code and transforms of torch.func do not look at
        the values of tensors.)

    See Also
    --------
    semiconv_cupy.ndimage.distance_transform_edt : Of arrays, with indices.
    parabolic_erosion : The same of grey values, squared.

    Notes
    -----
    Squared distances are computed in double, and their roots by torch. The gradient goes to the
    winning element of each distance, divided by twice that; at distance 0 it is 0. A hard mask has
    no gradient that helps.

    Exact algorithms for this function: Felzenszwalb and Huttenlocher, "Distance transforms of
    sampled functions", Theory of Computing 8 (2012), who take soft masks, too.

    Examples
    --------
    >>> distance_transform_edt(torch.tensor([[[0, 1, 1, 1, 1, 0]]])).tolist()
    [[[0.0, 1.0, 2.0, 2.0, 1.0, 0.0]]]
    >>> soft = torch.tensor([[[0.1, 1.0, 1.0, 0.5]]], requires_grad=True)
    >>> out = distance_transform_edt(soft)
    >>> [round(x, 3) for x in out[0, 0].tolist()]
    [0.325, 1.051, 1.301, 0.833]
    >>> out.sum().backward()
    >>> [round(x, 2) for x in soft.grad[0, 0].tolist()]
    [2.24, 0.0, 0.0, 1.97]
    """
    require_tensors("ndimage.distance_transform_edt", img=img)
    soft, steps = _as_tensor("softness", softness), _as_tensor("sampling", sampling).abs()
    _require("softness", "above 0 and finite", soft, (soft > 0) & (soft < math.inf))
    _require("sampling", "finite", steps, steps < math.inf)
    cost = _cost_of_background(img, softness)
    scale = 1 / steps
    square = _morphology("distance_transform_edt", cost, scale, axes, (True,))
    # At 0 the root has an infinite slope, and that of a minimum is 0.
    apart = square > 0
    distance = torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
    return distance.to(img.dtype if img.is_floating_point() else torch.get_default_dtype())


def _cost_of_background(img: Tensor, softness: float | Tensor) -> Tensor:
    """h of a mask: 0 on the background, infinite on the object, in float64."""
    if not img.is_floating_point():
        hard = torch.full_like(img, math.inf, dtype=torch.float64)
        return hard.masked_fill(img == 0, 0.0)
    p = img.float() if img.dtype.itemsize < 4 else img
    hard = (p < 0) | (p >= 1)
    cost = -torch.log1p(-p.masked_fill(hard, 0.0))
    return (softness * cost.double()).masked_fill(hard, math.inf)


# ---- checks --------------------------------------------------------------------------------------


def _require(name: str, what: str, value: Tensor, holds: Tensor) -> None:
    """ValueError where numbers are not what they must be; traced ones cannot be looked at."""
    if torch.compiler.is_compiling() or _inside_of_transforms():
        return
    if not bool(holds.all()):
        raise ValueError(f"{name} must be {what}, got {value.tolist()}")


def _morphology(
    function: str, img: Tensor, scale: Scale, axes: Axes, minima: tuple[bool, ...]
) -> Tensor:
    """Erosions (True) and dilations, rounded once."""
    require_tensors(function, img=img)
    if not img.is_floating_point():
        raise TypeError(
            f"img must have a floating dtype, got {img.dtype}; img.float() converts it, and "
            f"semiconv_cupy.{function} takes arrays of integers"
        )
    along = _axes(img, axes)
    lengths, channel = _lengths(img, _as_tensor("scale", scale), along)
    order = sorted(range(len(along)), key=along.__getitem__)
    if order != list(range(len(along))):
        lengths = lengths[:, order]
    return parabolas(img, lengths, Passes(channel, tuple(sorted(along)), minima))


def _axes(img: Tensor, axes: Axes) -> tuple[int, ...]:
    """The axes along which parabolas lie."""
    ndim = img.dim()
    if axes is None:
        if ndim < 3:
            raise ValueError(
                f"img must have shape (B, C, *S), got {tuple(img.shape)}: pass img[None, None], or "
                "axes= to say which axes are those of space"
            )
        return tuple(range(2, ndim))
    given = (axes,) if isinstance(axes, int) else tuple(axes)
    if not given or not all(isinstance(a, int) and -ndim <= a < ndim for a in given):
        raise ValueError(f"axes must be integers from {-ndim} to {ndim - 1}, got {axes!r}")
    found = tuple(axis % ndim for axis in given)
    if len(set(found)) < len(found):
        raise ValueError(f"axes must be distinct, got {axes!r}")
    return found


def _as_tensor(name: str, value: Scale) -> Tensor:
    """A scale as a tensor of float64; numbers on the CPU."""
    if isinstance(value, Tensor):
        require_dense(name, value)
        if not value.is_floating_point():
            raise TypeError(f"{name} must have a floating dtype, got {value.dtype}")
        return value.double()
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be numbers or a tensor, got {value!r}: {error}") from None


def _lengths(img: Tensor, scale: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, int]:
    """The scales (G, N), and the axis along which groups of them differ, -1 for one group."""
    count = len(axes)
    if scale.device != img.device and scale.device.type != "cpu":
        raise ValueError(
            f"img and scale must be on one device, got img on {img.device} and scale on "
            f"{scale.device}; move one of them: scale.to(img.device)"
        )
    shape = tuple(scale.shape)
    if shape in ((), (1,), (count,)):
        return scale.expand(count)[None], -1
    if len(shape) == 2 and shape[1] in (1, count):
        lengths = scale.expand(-1, count)
        if shape[0] == 1:
            return lengths, -1
        if 1 not in axes and img.dim() > 1 and img.shape[1] == shape[0]:
            return lengths, 1
    raise ValueError(
        f"scale must have shape (), ({count},), or of one row for each channel (C, 1) or "
        f"(C, {count}), got {shape} for an image of shape {tuple(img.shape)} with axes {axes}"
    )
