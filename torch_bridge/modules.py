"""Modules that convolve: what a semifield's `dynamic()` and `lazy_fixed()` return, and its users.

Here: the convolution modules, torch's own convolution and pooling with this package's padding, and
the modules that join a kernel with a convolution. Gradients of the fused path live in `autograd`;
geometry comes from `semiconv_cupy.geometry`.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _are_functorch_transforms_active

from semiconv_cupy.algebra.reductions import Root
from semiconv_cupy.errors import flag
from semiconv_cupy.geometry import Geometry, IntOrTuple, Kind, Padding
from semiconv_cupy.source import definitions
from torch_bridge.broadcast import broadcast_conv
from torch_bridge.functional import one_kind, plan, semifield_conv
from torch_bridge.ops import PreparedSemifield
from torch_bridge.quadratic import _integer, _Kernel, per_axis

if TYPE_CHECKING:
    from semiconv_cupy.algebra import BroadcastSemifield, SelectSemifield, SubtractSemifield

__all__ = [
    "BroadcastConv",
    "GenericClosing",
    "GenericConv",
    "GenericOpening",
    "SemifieldConv",
    "TorchLinearConv2D",
    "TorchMaxPool2D",
]


class BroadcastConv(nn.Module):
    """The convolution of a `BroadcastSemifield`, differentiated by torch itself.

    Called like `semiconv_cupy.semifield_conv`: ``conv(img, krn, stride=1, padding=0, dilation=1,
    groups=1, group_broadcasting=False, kind="conv")``, with any number of spatial axes. All
    products are held in memory at once: the output times the taps of a window, and as much again
    for the gradient. Positions outside the image are padded with the semifield's zero.

    Parameters
    ----------
    semifield : BroadcastSemifield
        Its functions are called with tensors: `multiply(windows, kernel)` broadcasts, then
        `add_reduce(products, dims)` over the trailing input-channel and spatial axes; where there
        is an `add_reduce_channels`, that reduces the channel axis, after the spatial ones.
    unfold_copy : bool
        Gather the windows by `torch.nn.functional.unfold`, which copies, not as a view. 2-D only.

    Examples
    --------
    >>> from semiconv_cupy import BroadcastSemifield
    >>> conv = BroadcastSemifield.tropical_max().dynamic()
    >>> conv(torch.tensor([[[0.0, 5.0, 0.0]]]), torch.tensor([[[-1.0, 0.0, -2.0]]]), padding="same")
    tensor([[[4., 5., 3.]]])
    """

    def __init__(self, semifield: BroadcastSemifield, unfold_copy: bool = False) -> None:
        super().__init__()
        self.semifield = semifield
        self.unfold_copy = flag("unfold_copy", unfold_copy)

    def extra_repr(self) -> str:
        return f"{self.semifield!r}{', unfold_copy=True' if self.unfold_copy else ''}"

    def forward(
        self,
        img: Tensor,
        krn: Tensor,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        group_broadcasting: bool = False,
        kind: Kind = "conv",
    ) -> Tensor:
        """`img` (B, C, *S) and `krn` (O, I, *K) to (B, out channels, *out size)."""
        geometry = plan(img, krn, stride, padding, dilation, groups, group_broadcasting, kind)
        return broadcast_conv(*one_kind(img, krn), self.semifield, geometry, self.unfold_copy)


class SemifieldConv(nn.Module):
    """The fused convolution of a compiled semifield; `dynamic()` and `lazy_fixed()` return it.

    Called like `torch_bridge.functional.semifield_conv`: ``conv(img, krn, stride=1, padding=0,
    dilation=1, groups=1, group_broadcasting=False, kind="conv")``.

    Parameters
    ----------
    semifield : SelectSemifield or SubtractSemifield
    lazy_fixed : bool
        Fix the shapes and arguments to those of the first call; only the batch size may change
        afterwards, anything else raises ValueError. dtype and device stay free. Nothing is compiled
        for one image size here, so fixing is a promise that is checked, and no faster.
    debug : bool
        Print what is compiled, at the first call on each dtype and kind of device.
    thread_block_size, to_extension, kernel_inflation
        Accepted for programs written for pytorch_nd_semiconv, and without effect: each CUDA kernel
        brings the block size that it was written for, there is no ahead-of-time extension to write,
        and kernel gradients need no inflated buffer.

    Examples
    --------
    >>> from semiconv_cupy import SelectSemifield
    >>> conv = SelectSemifield.tropical_max().dynamic()
    >>> conv(torch.tensor([[[0.0, 5.0, 0.0]]]), torch.tensor([[[-1.0, 0.0, -2.0]]]), padding="same")
    tensor([[[4., 5., 3.]]])
    """

    def __init__(
        self,
        semifield: SelectSemifield | SubtractSemifield,
        *,
        lazy_fixed: bool = False,
        thread_block_size: int | None = None,
        to_extension: bool = False,
        debug: bool = False,
        kernel_inflation: int = 16,
    ) -> None:
        super().__init__()
        self.semifield = semifield
        self._known = PreparedSemifield(semifield)
        self.lazy_fixed = flag("lazy_fixed", lazy_fixed)
        self.debug = flag("debug", debug)
        self.fixed: dict[str, Any] | None = None
        self._explained: set[str] = set()

    def extra_repr(self) -> str:
        return f"{self.semifield!r}, lazy_fixed=True" if self.lazy_fixed else repr(self.semifield)

    def forward(
        self,
        img: Tensor,
        krn: Tensor,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        group_broadcasting: bool = False,
        kind: Kind = "conv",
    ) -> Tensor:
        """`img` (B, C, *S) and `krn` (O, I, *K) to (B, out channels, *out size)."""
        if self.debug:
            self._explain(img)
        arguments: dict[str, Any] = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "group_broadcasting": group_broadcasting,
            "kind": kind,
        }
        if not self.lazy_fixed:
            return semifield_conv(img, krn, self._known, **arguments)
        now = {
            "img.shape[1:]": tuple(int(size) for size in img.shape[1:]),
            "krn.shape": tuple(int(size) for size in krn.shape),
            **arguments,
        }
        if self.fixed is not None and self.fixed != now:
            raise ValueError(self._refusal(now))
        out = semifield_conv(img, krn, self._known, **arguments)
        self.fixed = now
        return out

    def _refusal(self, now: dict[str, Any]) -> str:
        assert self.fixed is not None
        changes = [
            f"{name} was {fixed!r} and is {now[name]!r}"
            for name, fixed in self.fixed.items()
            if fixed != now[name]
        ]
        return (
            f"a lazy_fixed convolution allows no other change than of the batch size: "
            f"{', '.join(changes)}; use dynamic() instead"
        )

    def _explain(self, img: Tensor) -> None:
        dtype = str(img.dtype).removeprefix("torch.")
        what = f"{self.semifield!r} on {dtype}, {img.device.type}"
        if what not in self._explained:
            self._explained.add(what)
            lines = [
                f"#define {name} {text}"
                for name, text in definitions(self.semifield, dtype).items()
            ]
            print(f"compiling {what}:", *lines, sep="\n    ")


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
        self.groups = _integer("groups", groups)
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
        """What every convolution takes; the rest only where it is not default."""
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
        """The kernel; of one that has all channels of the image, what the groups use."""
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
            warnings.warn(
                f"the kernel has {channels} input channels, but with groups={self.groups} each "
                f"output channel has {used}: only the block-diagonal part of the kernel is used. "
                f"Make the kernel with in_channels={used} to save the unused parameters.",
                stacklevel=5,  # the call of the module
            )
        return block_diagonal(krn, self.groups)

    def _require_signs(self, krn: Tensor | None = None) -> None:
        """Raise, or warn, once: a root, whose numbers are >= 0, with a kernel that has others.

        The values decide, so that any kernel serves that is positive: those of this package's
        kernels when the module is made, of others at the first call (by which `krn` is given).
        """
        roots = [conv for conv in self.children() if _is_root(conv)]
        if not roots:
            self._signs_known = True
            return
        if krn is None:
            if not isinstance(self.kernel, _Kernel):
                return
            with torch.no_grad():
                krn = self.kernel()
        if type(krn) not in (Tensor, nn.Parameter) or krn.is_meta or _cannot_read(krn):
            return  # no values yet: at a later call
        self._signs_known = True
        lowest = krn.detach().amin().item() if krn.numel() else 0.0
        if not lowest < 0:
            return
        compiled = isinstance(roots[0], SemifieldConv)
        problem = (
            f"{roots[0].semifield!r} is of numbers >= 0, but the kernel of "
            f"{type(self.kernel).__name__} has values down to {lowest:.3g}, of which results are "
            "NaN. Use a kernel that is positive by construction, such as a module whose forward() "
            "returns torch.nn.functional.softplus(self.weight); a LearnedKernel becomes one by "
            'torch.nn.utils.parametrize.register_parametrization(kernel, "kernel", '
            "torch.nn.Softplus())"
        )
        if compiled:
            self._signs_known = False  # refused again
            raise ValueError(problem)
        warnings.warn(problem, stacklevel=5)

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
    """Whether the values of a tensor must not be looked at: in a transform or a CUDA graph."""
    if _are_functorch_transforms_active():
        return True
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _callable(name: str, value: Any) -> Any:
    """A module, or anything that is called like one; else a TypeError with the remedy."""
    if callable(value):
        return value
    hint = ""
    if hasattr(value, "dynamic"):
        hint = f": use {value!r}.dynamic()"
    elif isinstance(value, str):
        hint = f" {value!r}: use SelectSemifield.tropical_max().dynamic(), or that of another"
    elif isinstance(value, Tensor):
        hint = "; for a tensor as kernel use torch_bridge.functional.semifield_conv"
    raise TypeError(f"{name} must be a module, got {type(value).__name__}{hint}")


class GenericConv(_Generic):
    """A convolution with the kernel that a module gives: conv(img, kernel(), ...).

    Parameters
    ----------
    kernel : Module
        Its `forward()` gives the kernel (O, I, *K).
    conv : Module
        Called as ``conv(img, krn, stride=..., padding=..., dilation=..., groups=...)``, with
        `group_broadcasting` and `kind` only where they are not default; so any convolution serves.
    stride, padding, dilation, groups, group_broadcasting, kind
        As in `semiconv_cupy.semifield_conv`.

    Notes
    -----
    With `groups` G > 1, a kernel that has all C input channels of the image stands for its
    block-diagonal part krn[o, g C/G : (g + 1) C/G], the only part that the groups use (as
    `in_channels` of `torch.nn.Conv2d`); one warning says how to save the unused parameters.

    A root is of numbers >= 0. With ``SubtractSemifield.root``, a kernel that has others is a
    ValueError: of a kernel of this package (quadratic ones are never positive) when the module is
    made, of any other at the first call. With ``BroadcastSemifield.root``, whose even powers are
    defined, it is a warning. ``torch.nn.functional.softplus`` of a parameter is positive.

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
    above the image) and, with padding "same", idempotent. Parameters as in `GenericClosing`.

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


class TorchLinearConv2D(nn.Module):
    """torch's own conv2d with this package's `padding`, `group_broadcasting` and `kind`.

    Called as ``conv(img, kernel, stride=1, padding=0, dilation=1, groups=1,
    group_broadcasting=False, kind="conv")`` with images (B, C, H, W): a linear convolution that
    takes the place of ``SubtractSemifield.linear().dynamic()``.

    Examples
    --------
    >>> conv = TorchLinearConv2D()
    >>> conv(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2), padding="same").shape
    torch.Size([1, 1, 4, 4])
    """

    def forward(
        self,
        img: Tensor,
        kernel: Tensor,
        stride: IntOrTuple = 1,
        padding: Padding = 0,
        dilation: IntOrTuple = 1,
        groups: int = 1,
        group_broadcasting: bool = False,
        kind: Kind = "conv",
    ) -> Tensor:
        """`img` (B, C, H, W) and `kernel` (O, I, KH, KW) to (B, out channels, OH, OW)."""
        geometry = plan(img, kernel, stride, padding, dilation, groups, group_broadcasting, kind)
        _two_dimensional(geometry)
        if geometry.mirrored:
            kernel = kernel.flip((2, 3))
        if geometry.shares_kernels:
            kernel = kernel.repeat(geometry.groups, 1, 1, 1)
        img, pads = _symmetric_padding(img, geometry, 0.0, geometry.pad_begin)
        return F.conv2d(
            img,
            kernel,
            stride=geometry.stride,
            padding=pads,
            dilation=geometry.dilation,
            groups=geometry.groups,
        )


class TorchMaxPool2D(nn.Module):
    """torch's own max_pool2d with this package's `padding`; windows never see the padding.

    Parameters
    ----------
    kernel_size : int or (int, int)
    stride : int or (int, int), optional
        None: the kernel size.
    padding, dilation
        As in `semiconv_cupy.semifield_conv`.

    Examples
    --------
    >>> TorchMaxPool2D(3, stride=2, padding="same")(torch.zeros(1, 1, 7, 7)).shape
    torch.Size([1, 1, 4, 4])
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: Padding = 0,
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        super().__init__()
        self.kernel_size = per_axis("kernel_size", kernel_size, 2)
        self.stride = self.kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation

    def extra_repr(self) -> str:
        return (
            f"{self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}"
        )

    def forward(self, img: Tensor) -> Tensor:
        """`img` (B, C, H, W) to (B, C, OH, OW)."""
        window = img.new_empty((1, img.shape[1], *self.kernel_size), device="meta")
        geometry = plan(img, window, self.stride, self.padding, self.dilation, 1, False, "corr")
        _two_dimensional(geometry)
        at_most = tuple(size // 2 for size in self.kernel_size)  # torch's own rule
        img, pads = _symmetric_padding(img, geometry, -math.inf, at_most)
        return F.max_pool2d(
            img, self.kernel_size, stride=geometry.stride, padding=pads, dilation=geometry.dilation
        )


def _two_dimensional(geometry: Geometry) -> None:
    if geometry.rank != 2:
        raise ValueError(f"img must have shape (B, C, H, W), got {geometry.img_shape}")


def _symmetric_padding(
    img: Tensor, geometry: Geometry, value: float, at_most: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """The image and the padding that torch's function shall add; what it cannot is added here."""
    begin, end = geometry.pad_begin, geometry.pad_end
    if begin == end and all(b <= most for b, most in zip(begin, at_most, strict=True)):
        return img, begin
    pads = [pad for pair in reversed(list(zip(begin, end, strict=True))) for pad in pair]
    return F.pad(img, pads, value=value), (0,) * geometry.rank
