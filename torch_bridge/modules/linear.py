"""`SemifieldLinear`: the dense layer of a semifield, in place of torch.nn.Linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from semiconv_cupy.algebra import BroadcastSemifield, Semifield, SubtractSemifield
from semiconv_cupy.algebra.own import named_by
from semiconv_cupy.algebra.slopes import product_depends_on
from semiconv_cupy.errors import flag
from semiconv_cupy.powers import laws_of
from torch_bridge.checks import is_one_or, one_kind, require_dense
from torch_bridge.functional import semifield_matmul
from torch_bridge.modules.copies import Scale, fill_copies_, scale_of, scale_of_family
from torch_bridge.modules.with_semifield import WithSemifield
from torch_bridge.parameters import Parameter, family_of
from torch_bridge.sizes import whole_number

Init = str | Callable[[Tensor], Any]


class SemifieldLinear(WithSemifield):
    r"""A dense layer in a semifield: `torch.nn.Linear` with another addition and multiplication.

    .. math:: out[\ldots, o] = \Bigl( \bigoplus_i x[\ldots, i] \otimes w[o, i] \Bigr) \oplus b_o

    With ``"tropical_max"`` each output is the largest of the shifted inputs; ``"linear"`` makes it
    `torch.nn.Linear`. The bias is one more weight, of an input that is always one (the neutral
    element of ⊗).

    Parameters
    ----------
    in_features, out_features : int
        The last axis of the input and of the result; all leading axes stay.
    semifield : SelectSemifield, SubtractSemifield, BroadcastSemifield or str
        A semifield, or the name of a ready-made one.
    mu, p : float, Tensor or Parameter, optional
        Of ``"log"`` and of ``"root"``: a number, or a tensor with one entry or one for each output,
        (out_features,). A `torch.nn.Parameter` is learned, another tensor is a buffer.
    **parameters : float, Tensor or Parameter
        Of a semifield of your own those that it names, in the same way. A bias is no weight of one
        where the multiplication's neutral element depends on a tensor: pass ``bias=False``.
    bias : bool
        Whether there is a bias; it needs a multiplication with a neutral element.
    init : {"copies", "uniform"} or callable, optional
        "copies": output o begins as a copy of input o, and all other weights so low that they
        seldom win (``torch_bridge.modules.copies`` says why, with measurements). It expects inputs
        with a standard deviation of about 1; for max_times, boolean and root, positive ones.
        "uniform": as `torch.nn.Linear`. A callable fills a matrix in place, as the functions of
        `torch.nn.init` do: the weight, with the bias as one more column where there is one. By
        default "copies" where the semifield has it, else "uniform".
    device, dtype : optional
        As in torch's modules; the dtype is a floating one.

    Attributes
    ----------
    weight : Parameter (out_features, in_features)
    bias : Parameter (out_features,) or None

    Raises
    ------
    ValueError, TypeError
        An argument that does not fit; the message names it.

    See Also
    --------
    functional.semifield_matmul : The product.
    GenericConv : The convolution.

    Notes
    -----
    In a selection only winners get a gradient. A root needs inputs and weights >= 0: to keep the
    weight and the bias so, register ``torch.nn.Softplus()`` by `torch.nn.utils.parametrize`.

    References
    ----------
    V. Charisopoulos and P. Maragos, "Morphological perceptrons: geometry and training algorithms",
    ISMM 2017.

    Examples
    --------
    >>> import torch
    >>> layer = SemifieldLinear(3, 2, "tropical_max")
    >>> layer
    SemifieldLinear(in_features=3, out_features=2, semifield=SelectSemifield.tropical_max())
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[0.0, -1.0, -2.0], [-9.0, 0.0, 1.0]]))
    ...     _ = layer.bias.fill_(-5.0)
    >>> layer(torch.tensor([3.0, 1.0, 2.0]))
    tensor([3., 3.], grad_fn=<SqueezeBackward1>)
    >>> layer(torch.randn(8, 5, 3)).shape
    torch.Size([8, 5, 2])
    >>> learned = SemifieldLinear(3, 2, "log", mu=nn.Parameter(torch.tensor([1.0, -1.0])))
    >>> [name for name, _ in learned.named_parameters()]
    ['mu', 'weight', 'bias']
    """

    semifield: Semifield | BroadcastSemifield

    def __init__(
        self,
        in_features: int,
        out_features: int,
        semifield: Semifield | BroadcastSemifield | str,
        *,
        mu: Parameter | None = None,
        p: Parameter | None = None,
        bias: bool = True,
        init: Init | None = None,
        device: Any = None,
        dtype: Any = None,
        **parameters: Parameter,
    ) -> None:
        super().__init__()
        self.in_features = whole_number("in_features", in_features)
        self.out_features = whole_number("out_features", out_features)
        later = ("init", "one", "weight", "bias")
        self._set_semifield(semifield, mu, p, parameters, later)
        for name, tensor in self._tensors().items():
            _require_shape(name, tensor, self.out_features)
        # Any value will do: the neutral element, and whether there are copies, are those of all.
        example, family = self.semifield, family_of(self.semifield)
        if family is not None and self._held:
            example = getattr(SubtractSemifield, family)(1.0)
        self.init = _checked_init(init, example)
        self.one = _one_for_bias(example, self._held) if flag("bias", bias) else None
        options = {"device": device, "dtype": _floating(dtype)}
        self.weight = nn.Parameter(torch.empty(self.out_features, self.in_features, **options))
        if self.one is None:
            self.register_parameter("bias", None)
        else:
            self.bias = nn.Parameter(torch.empty(self.out_features, **options))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weight and bias anew, as `init` says."""
        if callable(self.init):
            with torch.no_grad():
                self._fill_as_one(self.init)
        elif self.init == "uniform":
            bound = self.in_features**-0.5
            for parameter in (self.weight, self.bias):
                if parameter is not None:
                    nn.init.uniform_(parameter, -bound, bound)
        else:
            scale = self._scale()
            assert scale is not None
            fill_copies_(self.weight, self.bias, scale)

    def _scale(self) -> Scale | None:
        family = family_of(self.semifield)
        if family is None or not self._held:
            return scale_of(self.semifield)
        (parameter,) = self._tensors().values()
        return scale_of_family(family, parameter.to(self.weight.device))

    def _fill_as_one(self, init: Callable[[Tensor], Any]) -> None:
        """Fill the weight, and the bias as the weights of one more input, as one matrix.

        So functions that need two axes serve, such as `torch.nn.init.xavier_uniform_`.
        """
        columns = self.in_features + (self.bias is not None)
        rows = self.weight.new_full((self.out_features, columns), torch.nan)
        init(rows)
        if not rows.is_meta and rows.isnan().any():
            raise ValueError(
                f"init must fill the matrix that it is given in place, got {init!r}, which leaves "
                "some of it unset or NaN; torch.nn.init.zeros_ fills one, torch.zeros_like does not"
            )
        self.weight.copy_(rows[:, : self.in_features])
        if self.bias is not None:
            self.bias.copy_(rows[:, -1])

    def forward(self, x: Tensor) -> Tensor:
        """`x` (..., in_features) to (..., out_features)."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f"the input must be a torch.Tensor, got {type(x).__name__}; torch.as_tensor(input) "
                "makes one"
            )
        require_dense("input", x)
        if not x.dim() or x.shape[-1] != self.in_features:
            raise ValueError(
                f"the input must have {self.in_features} features on its last axis, got shape "
                f"{tuple(x.shape)}"
            )
        x, weight = one_kind(x, self.weight, ("input", "weight"))
        if self.one is not None:
            # One more term within the product, although input and weight are copied for it. Added
            # to the result, it would need the semifield's addition of two tensors with the
            # product's own gradients: the user's comparison, NaN that never wins, a gradient that
            # equal terms share, and the scale of log and root. The copy of 4096 inputs took 1/20
            # of the time of a product to 64 outputs, 1/3 of one from 512 to 10.
            x = torch.cat([x, x.new_full((*x.shape[:-1], 1), self.one)], -1)
            weight = torch.cat([weight, self.bias[:, None]], 1)
        out: Tensor = semifield_matmul(x, weight.mT, self._as_called(), **self._tensors())
        return out

    def extra_repr(self) -> str:
        shown = [
            f"in_features={self.in_features}",
            f"out_features={self.out_features}",
            f"semifield={self._shown()}",
        ]
        return ", ".join(shown + ["bias=False"] * (self.one is None))


def _floating(dtype: Any) -> Any:
    """The dtype; a TypeError where a parameter of it could not be learned."""
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return dtype
    raise TypeError(f"dtype must be a floating torch.dtype, such as torch.float32, got {dtype!r}")


def _require_shape(name: str, tensor: Tensor, outputs: int) -> None:
    """ValueError for a parameter whose shape does not fit."""
    if not is_one_or(tensor, outputs):
        raise ValueError(
            f"{name} must be one number, or one for each of the {outputs} outputs, got shape "
            f"{tuple(tensor.shape)}"
        )


def _checked_init(init: Any, semifield: Any) -> Init:
    """The initialisation that is meant; a ValueError where the semifield does not have it."""
    if callable(init) or init == "uniform":
        return init  # type: ignore[no-any-return]
    has_copies = scale_of(semifield) is not None
    if init is None:
        return "copies" if has_copies else "uniform"
    if init != "copies":
        raise ValueError(f'init must be "copies", "uniform" or a callable, got {init!r}')
    if not has_copies:
        raise ValueError(
            f'init="copies" serves selections by img + krn, max_times, boolean, log and root, got '
            f"{semifield!r}"
        )
    return "copies"


def _one_for_bias(semifield: Any, learned: tuple[str, ...]) -> float:
    """The neutral element of the multiplication, whatever the parameters `learned` are."""
    one = laws_of(semifield).one
    if one is None:
        raise ValueError(
            "bias=True needs a multiplication with a neutral element, which is missing in "
            f"{semifield!r}; pass bias=False"
        )
    for name in learned:
        if _depends_on(semifield, name, one):
            raise ValueError(
                f"bias=True needs a multiplication with one neutral element, got {name} as a "
                f"tensor, on which that of {semifield!r} depends; pass bias=False"
            )
    return one


def _depends_on(semifield: Any, name: str, one: float) -> bool:
    """Whether one times a number depends on the parameter."""
    if isinstance(semifield, BroadcastSemifield):
        return name in named_by(semifield.multiply, 2, semifield.own)
    return product_depends_on(semifield, name, one)
