"""Modules that join a kernel with one or two convolutions, and so take an image alone.

The kernel comes from any module that returns one, the convolution from any module that is called
like ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active

from semiconv_cupy.algebra.reductions import Root
from semiconv_cupy.errors import warn
from semiconv_cupy.geometry import IntOrTuple, Kind, Padding
from torch_bridge.checks import plan
from torch_bridge.modules.convolutions import BroadcastConv, SemifieldConv
from torch_bridge.quadratic.kernels import Kernel
from torch_bridge.sizes import whole_number


def block_diagonal(krn: Tensor, groups: int) -> Tensor:
    """krn[o, g I : (g + 1) I] of a kernel (O, groups I, *K), for o in group g: (O, I, *K)."""
    blocks = krn.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
    return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0).flatten(0, 1)


def transposed_channels(krn: Tensor, groups: int, group_broadcasting: bool) -> Tensor:
    """The kernel (O, I, *K) with inputs and outputs of each group exchanged."""
    if groups == 1 or group_broadcasting:
        return krn.transpose(0, 1)
    return krn.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


class _Generic(nn.Module):
    """A kernel and the geometry arguments of its convolutions."""

    kernel: nn.Module
    stride: IntOrTuple
    padding: Padding
    dilation: IntOrTuple
    groups: int
    group_broadcasting: bool
    kind: Kind
    _signs_known = False

    def _configure(
        self,
        kernel: nn.Module,
        stride: IntOrTuple,
        padding: Padding,
        dilation: IntOrTuple,
        groups: int,
        group_broadcasting: bool,
        kind: Kind = "conv",
    ) -> None:
        super().__init__()
        if isinstance(kernel, SemifieldConv | BroadcastConv):
            raise TypeError(
                f"kernel must be a module that gives a kernel, got the convolution {kernel!r}: "
                f"the kernel comes first, as in {type(self).__name__}(kernel, conv)"
            )
        if not isinstance(kind, str):
            raise TypeError(f'kind must be "conv" or "corr", got {kind!r}')
        if not isinstance(group_broadcasting, (bool, int)):
            raise TypeError(f"group_broadcasting must be a bool, got {group_broadcasting!r}")
        self.kernel = _callable("kernel", kernel)
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = whole_number("groups", groups)
        self.group_broadcasting = group_broadcasting
        self.kind = kind
        self._warned = False

    def extra_repr(self) -> str:
        defaults = {
            "dilation": 1,
            "group_broadcasting": False,
            "groups": 1,
            "kind": "conv",
            "padding": 0,
            "stride": 1,
        }
        shown = {name: getattr(self, name) for name in defaults}
        return ", ".join(f"{n}={value}" for n, value in shown.items() if value != defaults[n])

    def _arguments(self, kind: Kind, padding: Padding) -> dict[str, Any]:
        """Keywords that every convolution takes; the other two only where they are not default."""
        arguments: dict[str, Any] = {
            "stride": self.stride,
            "padding": padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }
        if self.group_broadcasting:
            arguments["group_broadcasting"] = True
        if kind != "conv":
            arguments["kind"] = kind
        return arguments

    def _kernel_for(self, img: Tensor) -> Tensor:
        """The kernel, or its block-diagonal part where it has all channels of the image."""
        krn = self.kernel()
        if not (self._signs_known or torch.compiler.is_compiling()):
            self._require_signs(krn)
        channels = img.shape[1]
        if (
            self.groups == 1
            or self.group_broadcasting
            or krn.shape[1] != channels
            or channels % self.groups
            or krn.shape[0] % self.groups
        ):
            return krn
        if not (self._warned or torch.compiler.is_compiling()):
            self._warned = True
            used = channels // self.groups
            warn(
                f"the kernel has {channels} input channels, but with groups={self.groups} each "
                f"output channel has {used}: only the block-diagonal part of the kernel is used. "
                f"Make the kernel with in_channels={used} to save the unused parameters.",
                UserWarning,
            )
        return block_diagonal(krn, self.groups)

    def _require_signs(self, krn: Tensor | None = None) -> None:
        """Raise or warn, once, where a root meets a kernel with negative values.

        A root is defined on numbers >= 0. The values decide, so that every positive kernel is
        accepted: those of this package's kernels when the module is made, those of other kernels
        at the first call, which passes them as `krn`.
        """
        roots = [conv for conv in self.children() if _is_root(conv)]
        if not roots:
            self._signs_known = True
            return
        if krn is None:
            if not isinstance(self.kernel, Kernel):
                return
            with torch.no_grad():
                krn = self.kernel()
        if type(krn) not in (Tensor, nn.Parameter) or krn.is_meta or _cannot_read(krn):
            return  # there are no values yet; a later call looks at them
        self._signs_known = True
        lowest = krn.detach().amin().item() if krn.numel() else 0.0
        if not lowest < 0:
            return
        compiled = isinstance(roots[0], SemifieldConv)
        problem = (
            f"{roots[0].semifield!r} is defined for numbers >= 0, but the kernel of "
            f"{type(self.kernel).__name__} has values down to {lowest:.3g}, for which results are "
            f"NaN. {self._positive_remedy()}"
        )
        if compiled:
            self._signs_known = False  # so that the next call raises, too
            raise ValueError(problem)
        warn(problem, UserWarning)

    def _positive_remedy(self) -> str:
        """How to make the kernel positive by construction: an argument, or a function of it."""
        if isinstance(self.kernel, Kernel):
            return (
                f"Use a kernel that is positive by construction: {type(self.kernel).__name__}(..., "
                'positive="exp") or positive="softplus"'
            )
        return (
            "Use a kernel that is positive by construction, such as a module whose forward() "
            "returns torch.nn.functional.softplus(self.weight), or a LearnedKernel(..., "
            'positive="softplus")'
        )

    def _adjoint_arguments(self, img: Tensor, krn: Tensor, kind: Kind) -> dict[str, Any]:
        """The arguments with mirrored padding, (end, begin) on each axis."""
        geometry = plan(
            img,
            krn,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.group_broadcasting,
            "conv",
        )
        symmetric = geometry.pad_begin == geometry.pad_end
        return self._arguments(kind, self.padding if symmetric else geometry.transposed_padding)


def _is_root(conv: nn.Module) -> bool:
    if isinstance(conv, SemifieldConv):
        return conv.semifield.accumulator == "root"
    return isinstance(conv, BroadcastConv) and isinstance(conv.semifield.add_reduce, Root)


def _cannot_read(tensor: Tensor) -> bool:
    """Whether a tensor's values cannot be read now: in torch.func's transforms, in a CUDA graph."""
    if _are_functorch_transforms_active():
        return True
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _callable(name: str, value: Any) -> Any:
    """A module, or anything that is called like one; else a TypeError with the remedy."""
    if callable(value):
        return value
    example = "LearnedKernel(1, 1, 3, ndim=2)" if name == "kernel" else 'SemifieldConv("linear")'
    hint = f" {value!r}; one is torch_bridge.{example}"
    if hasattr(value, "dynamic"):
        hint = f": use {value!r}.dynamic()"
    elif isinstance(value, str):
        hint = f" {value!r}: use SelectSemifield.tropical_max().dynamic(), or that of another"
    elif isinstance(value, Tensor):
        hint = "; for a tensor as kernel use torch_bridge.functional.semifield_conv"
    raise TypeError(f"{name} must be a module, got {type(value).__name__}{hint}")


class GenericConv(_Generic):
    r"""A convolution with the kernel that a module gives.

    .. math:: out = conv(img,\ kernel())

    Parameters
    ----------
    kernel : Module
        Its `forward()` gives the kernel (O, I, *K).
    conv : Module
        Called as ``conv(img, krn, stride=..., padding=..., dilation=..., groups=...)``, with
        `group_broadcasting` and `kind` only where they are not default; so any convolution serves.
    stride, padding, dilation, groups, group_broadcasting, kind
        As in `semiconv_cupy.semifield_conv`.

    Raises
    ------
    TypeError, ValueError
        What is no module; arguments that the convolution refuses, at the first call; for roots a
        kernel with negative values.

    See Also
    --------
    GenericClosing, GenericOpening : Two convolutions by one kernel.
    QuadraticKernelSpectral, LearnedKernel : Kernels.
    SemifieldConv : Convolutions.
    DilationPool2d : A layer with both.

    Notes
    -----
    With `groups` G > 1, a kernel that has all C input channels of the image stands for its
    block-diagonal part krn[o, g C/G : (g + 1) C/G], the only part that the groups use (as
    `in_channels` of `torch.nn.Conv2d`); one warning says how to save the unused parameters.

    A root is defined for numbers >= 0. With ``SubtractSemifield.root``, a kernel with negative
    values is a ValueError: for a kernel of this package when the module is made, for any other at
    the first call. With ``BroadcastSemifield.root``, whose even powers are defined, it is a
    warning. This package's kernels are positive with ``positive="exp"`` or ``"softplus"``.

    Examples
    --------
    >>> from torch_bridge import LearnedKernel2D, SelectSemifield
    >>> conv = SelectSemifield.tropical_max().lazy_fixed()
    >>> pool = GenericConv(LearnedKernel2D(1, 5, 3), conv, stride=2, padding="same", groups=5)
    >>> pool(torch.randn(1, 5, 8, 8)).shape
    torch.Size([1, 5, 4, 4])
    """

    def __init__(
        self,
        kernel: nn.Module,
        conv: nn.Module,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        group_broadcasting: bool = False,
        kind: Kind = "conv",
    ) -> None:
        self._configure(kernel, stride, padding, dilation, groups, group_broadcasting, kind)
        self.conv = _callable("conv", conv)
        self._require_signs()

    def forward(self, img: Tensor) -> Tensor:
        """The convolution of `img` (B, C, *S)."""
        krn = self._kernel_for(img)
        return self.conv(img, krn, **self._arguments(self.kind, self.padding))


class GenericClosing(_Generic):
    r"""A closing with the kernel that a module gives: a dilation, then its adjoint erosion.

    .. math:: \phi = \varepsilon \circ \delta, \qquad
              \delta(f) \le g \iff f \le \varepsilon(g)

    The dilation has `kind` "conv" and the given padding. The erosion has `kind` "corr", the padding
    mirrored (end, begin), and the kernel's channel axes exchanged (within each group); so it is the
    adjoint for even kernel sizes and for kernels that mix channels, too. At stride 1 the result is
    a closing: extensive (not below the image), increasing, and idempotent where the padding keeps
    the size ("same"). With less padding it is the middle of such a closing, d (K - 1) - begin - end
    elements less at both ends; with more it continues outside the image. With stride > 1 both the
    dilation and the erosion are strided, as in pytorch_nd_semiconv: the result does not lie on the
    image's grid, and has no such law.

    Parameters
    ----------
    kernel : Module
        Its `forward()` gives the kernel (O, I, *K).
    conv_dilation, conv_erosion : Module
        Convolutions as in `GenericConv`, such as ``SelectSemifield.tropical_max().dynamic()`` and
        ``SelectSemifield.tropical_min_negated().dynamic()`` (which negates the kernel itself).
    stride, padding, dilation, groups, group_broadcasting
        As in `semiconv_cupy.semifield_conv`; kernels with all input channels as in `GenericConv`.

    Raises
    ------
    TypeError, ValueError
        As in `GenericConv`.

    See Also
    --------
    GenericOpening : From below.
    Closing : A layer with its kernel.

    References
    ----------
    H. J. A. M. Heijmans and C. Ronse, "The algebraic basis of mathematical morphology I:
    dilations and erosions", Computer Vision, Graphics, and Image Processing 50, 1990.

    Examples
    --------
    >>> from torch_bridge import LearnedKernel2D, SelectSemifield
    >>> closing = GenericClosing(LearnedKernel2D(1, 3, 4),
    ...                          SelectSemifield.tropical_max().dynamic(),
    ...                          SelectSemifield.tropical_min_negated().dynamic(),
    ...                          padding="same", groups=3)
    >>> closing(torch.randn(1, 3, 8, 8)).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(
        self,
        kernel: nn.Module,
        conv_dilation: nn.Module,
        conv_erosion: nn.Module,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        group_broadcasting: bool = False,
    ) -> None:
        self._configure(kernel, stride, padding, dilation, groups, group_broadcasting)
        self.conv_dilation = _callable("conv_dilation", conv_dilation)
        self.conv_erosion = _callable("conv_erosion", conv_erosion)
        self._require_signs()

    def forward(self, img: Tensor) -> Tensor:
        """The closing of `img` (B, C, *S)."""
        krn = self._kernel_for(img)
        eroding = self._adjoint_arguments(img, krn, "corr")
        dilated = self.conv_dilation(img, krn, **self._arguments("conv", self.padding))
        back = transposed_channels(krn, self.groups, self.group_broadcasting)
        return self.conv_erosion(dilated, back, **eroding)


class GenericOpening(_Generic):
    r"""An opening with the kernel that a module gives: an erosion, then its adjoint dilation.

    .. math:: \gamma = \delta \circ \varepsilon

    with the dilation and the erosion of `GenericClosing`: `padding` is the dilation's, and the
    erosion takes it mirrored. The erosion comes first, so it takes the kernel's channel axes as
    they stand, and the dilation takes them exchanged. At stride 1 the result is anti-extensive (not
    above the image) and, with padding "same", idempotent.

    Parameters
    ----------
    kernel, conv_erosion, conv_dilation, stride, padding, dilation, groups, group_broadcasting
        As in `GenericClosing`.

    Raises
    ------
    TypeError, ValueError
        As in `GenericConv`.

    See Also
    --------
    GenericClosing : From above; its source.
    Opening : A layer with its kernel.

    Examples
    --------
    >>> from torch_bridge import LearnedKernel2D, SelectSemifield
    >>> opening = GenericOpening(LearnedKernel2D(1, 3, 4),
    ...                          SelectSemifield.tropical_min_negated().dynamic(),
    ...                          SelectSemifield.tropical_max().dynamic(),
    ...                          padding="same", groups=3)
    >>> opening(torch.randn(1, 3, 8, 8)).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(
        self,
        kernel: nn.Module,
        conv_erosion: nn.Module,
        conv_dilation: nn.Module,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        group_broadcasting: bool = False,
    ) -> None:
        self._configure(kernel, stride, padding, dilation, groups, group_broadcasting)
        self.conv_erosion = _callable("conv_erosion", conv_erosion)
        self.conv_dilation = _callable("conv_dilation", conv_dilation)
        self._require_signs()

    def forward(self, img: Tensor) -> Tensor:
        """The opening of `img` (B, C, *S)."""
        krn = self._kernel_for(img)
        eroding = self._adjoint_arguments(img, krn, "corr")
        eroded = self.conv_erosion(img, krn, **eroding)
        back = transposed_channels(krn, self.groups, self.group_broadcasting)
        return self.conv_dilation(eroded, back, **self._arguments("conv", self.padding))
