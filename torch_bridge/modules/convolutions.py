"""The convolutions that a semifield's `dynamic()` and `lazy_fixed()` return: conv(img, krn, ...).

They are thin layers over `functional`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from semiconv_cupy.errors import flag
from semiconv_cupy.geometry import IntOrTuple, Kind, Padding
from semiconv_cupy.source import definitions
from torch_bridge.broadcast import broadcast_conv
from torch_bridge.checks import one_kind, plan
from torch_bridge.functional import semifield_conv
from torch_bridge.modules.with_semifield import WithSemifield
from torch_bridge.parameters import Parameter

if TYPE_CHECKING:
    from semiconv_cupy.algebra import BroadcastSemifield, SelectSemifield, SubtractSemifield


class BroadcastConv(WithSemifield):
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
    **parameters : float, Tensor or Parameter
        Of the semifield's own, as of `SemifieldConv`; each is one number.

    Raises
    ------
    TypeError, ValueError
        No BroadcastSemifield; `unfold_copy` of images that are not 2-D.

    See Also
    --------
    SemifieldConv : Of compiled semifields, without all products in memory.
    functional.semifield_conv : The function.

    Examples
    --------
    >>> import torch
    >>> from semiconv_cupy import BroadcastSemifield
    >>> conv = BroadcastSemifield.tropical_max().dynamic()
    >>> conv(torch.tensor([[[0.0, 5.0, 0.0]]]), torch.tensor([[[-1.0, 0.0, -2.0]]]), padding="same")
    tensor([[[4., 5., 3.]]])
    """

    semifield: BroadcastSemifield

    def __init__(
        self, semifield: BroadcastSemifield, unfold_copy: bool = False, **parameters: Parameter
    ) -> None:
        super().__init__()
        self._set_semifield(semifield, None, None, parameters)
        self.unfold_copy = flag("unfold_copy", unfold_copy)

    def extra_repr(self) -> str:
        return f"{self._shown()}{', unfold_copy=True' if self.unfold_copy else ''}"

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
        called = self.semifield.called_with(**self._tensors())
        return broadcast_conv(*one_kind(img, krn), called, geometry, self.unfold_copy)


class SemifieldConv(WithSemifield):
    """The fused convolution of a compiled semifield; `dynamic()` and `lazy_fixed()` return it.

    Called like `torch_bridge.functional.semifield_conv`: ``conv(img, krn, stride=1, padding=0,
    dilation=1, groups=1, group_broadcasting=False, kind="conv")``.

    Parameters
    ----------
    semifield : SelectSemifield, SubtractSemifield or str
        A semifield, or the name of a ready-made one.
    mu, p : float, Tensor or Parameter, optional
        Of ``"log"`` and of ``"root"``, as in `torch_bridge.functional.semifield_conv`: a
        `torch.nn.Parameter` is learned, another tensor is a buffer.
    **parameters : float, Tensor or Parameter
        Of a semifield of your own those that it names, in the same way.
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

    Raises
    ------
    TypeError, ValueError
        What is no compiled semifield, or a parameter that does not fit.

    See Also
    --------
    BroadcastConv : Of functions of whole arrays.
    GenericConv : Joins it with a kernel.
    functional.semifield_conv : The function; the formula.

    Examples
    --------
    >>> import torch
    >>> from semiconv_cupy import SelectSemifield
    >>> conv = SelectSemifield.tropical_max().dynamic()
    >>> conv(torch.tensor([[[0.0, 5.0, 0.0]]]), torch.tensor([[[-1.0, 0.0, -2.0]]]), padding="same")
    tensor([[[4., 5., 3.]]])
    >>> learned = SemifieldConv("log", mu=torch.nn.Parameter(torch.tensor(3.0)))
    >>> [name for name, _ in learned.named_parameters()]
    ['mu']
    """

    semifield: SelectSemifield | SubtractSemifield

    def __init__(
        self,
        semifield: SelectSemifield | SubtractSemifield | str,
        *,
        mu: Parameter | None = None,
        p: Parameter | None = None,
        lazy_fixed: bool = False,
        thread_block_size: int | None = None,
        to_extension: bool = False,
        debug: bool = False,
        kernel_inflation: int = 16,
        **parameters: Parameter,
    ) -> None:
        super().__init__()
        self._set_semifield(semifield, mu, p, parameters)
        self.lazy_fixed = flag("lazy_fixed", lazy_fixed)
        self.debug = flag("debug", debug)
        self.fixed: dict[str, Any] | None = None
        self._explained: set[str] = set()

    def extra_repr(self) -> str:
        return f"{self._shown()}{', lazy_fixed=True' if self.lazy_fixed else ''}"

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
            return self._convolve(img, krn, arguments)
        now = {
            "img.shape[1:]": tuple(int(size) for size in img.shape[1:]),
            "krn.shape": tuple(int(size) for size in krn.shape),
            **arguments,
        }
        if self.fixed is not None and self.fixed != now:
            raise ValueError(self._refusal(now))
        out = self._convolve(img, krn, arguments)
        self.fixed = now
        return out

    def _convolve(self, img: Tensor, krn: Tensor, arguments: dict[str, Any]) -> Tensor:
        out: Tensor = semifield_conv(img, krn, self._as_called(), **arguments, **self._tensors())
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
