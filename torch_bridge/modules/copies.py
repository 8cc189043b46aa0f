"""Initial weights for dense layers of a semifield: every output begins as a copy of an input.

A maximum of many independent numbers hardly depends on the sample, and sends its gradient to one of
them. In a deep max-plus network with torch.nn.Linear's weights, or with normal ones, all units soon
say the same, and few inputs get all gradients. Here a weight of one (the multiplication's neutral
element) joins output o and input o, modulo the smaller size. The others lie around `BELOW` under
it: they win where another input is much larger, and so they learn.

Measured with layers of 64 units on 128 samples of normal numbers: the share of the inputs that a
sample's gradient reaches through 4, 16 and 32 layers, and the standard deviation of the units:

    max-plus                   4 layers      16 layers     32 layers
    as torch.nn.Linear         0.02, 0.01    0.02, 0.01    0.02, 0.00
    normal numbers             0.08, 0.52    0.02, 0.50    0.02, 0.65
    copies, others 1 below     0.06, 0.16    0.05, 0.10    0.05, 0.08
    copies, others 4 below     0.56, 0.65    0.45, 0.54    0.42, 0.51
    copies, others 6 below     0.88, 0.90    0.80, 0.84    0.78, 0.81

At 4 a quarter of a layer's weights wins for one of the samples, at 6 a tenth. The terms of log and
root add up, so there the others lie ln(n) / mu lower, and each row is divided, in the semifield, by
its sum: constants pass unchanged. For log with mu = 1 the units then have a standard deviation of
0.78, 0.49 and 0.31, with torch.nn.Linear's weights of 0.01. Called by `linear`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semiconv_cupy.algebra import BroadcastSemifield, SelectSemifield, SubtractSemifield
from semiconv_cupy.algebra.reductions import Extremum, Log, Root

BELOW = 4.0  # the table above; inputs with a standard deviation of about one
LN_BELOW_OF_PRODUCTS = 2.0  # of positive factors: e^-2 of the copy's


class Scale(NamedTuple):
    """How weights of a semifield are compared.

    Attributes
    ----------
    multiplies : bool
        Weights multiply, and those of the copies are 1; otherwise they are added, from 0.
    sign : {1, -1}, or Tensor (1, 1) or (out, 1)
        The sign of the difference of a weight that seldom wins, or of its logarithm.
    power : float or None, or Tensor (1, 1) or (out, 1)
        mu of log or p of root, in magnitude; None for selections.
    """

    multiplies: bool
    sign: int | Tensor
    power: float | Tensor | None = None


def scale_of(semifield: Any) -> Scale | None:
    """The scale of a semifield; None for sums of products, and for formulas of the user's own.

    Examples
    --------
    >>> scale_of(SelectSemifield.tropical_max()), scale_of(SubtractSemifield.linear())
    (Scale(multiplies=False, sign=-1, power=None), None)
    """
    if isinstance(semifield, BroadcastSemifield):
        return _scale_of_arrays(semifield)
    if semifield.accumulator in ("log", "root"):
        power = float(semifield.parameter)
        sign = -1 if power > 0 else 1
        return Scale(semifield.accumulator == "root", sign, abs(power))
    if not isinstance(semifield, SelectSemifield):
        return None
    traits = semifield.traits("floating")
    if semifield in (SelectSemifield.max_times(), SelectSemifield.boolean()):
        return Scale(True, -1)
    if traits.takes is None or traits.offset is None:
        return None
    lower = traits.takes == "greater"
    return Scale(False, -1 if lower == (traits.offset == "krn") else 1)


def scale_of_family(family: str, parameter: Tensor) -> Scale:
    """The scale of "log" or "root" with one value of the parameter, or one for each output."""
    values = parameter.detach().reshape(-1, 1)
    return Scale(family == "root", -values.sign(), values.abs())


def _scale_of_arrays(semifield: BroadcastSemifield) -> Scale | None:
    reduce = semifield.add_reduce
    if isinstance(reduce, Log):
        return scale_of(SubtractSemifield.log(reduce.mu))
    if isinstance(reduce, Root):
        return scale_of(SubtractSemifield.root(reduce.p))
    if not isinstance(reduce, Extremum):
        return None
    select = SelectSemifield
    return scale_of(select.tropical_max() if reduce.largest else select.tropical_min_negated())


def fill_copies_(weight: Tensor, bias: Tensor | None, scale: Scale) -> None:
    """Fill the weight (out, in), and the bias as the weights of one more input, never copied."""
    outputs, inputs = weight.shape
    rows = weight if bias is None else torch.cat([weight, bias[:, None]], 1)
    below = LN_BELOW_OF_PRODUCTS if scale.multiplies else BELOW
    with torch.no_grad():
        rows = torch.empty_like(rows).uniform_(0.5 * below, 1.5 * below)
        if scale.power is not None:
            rows = rows + math.log(max(rows.shape[1], 2)) / scale.power
        each = torch.arange(max(outputs, inputs), device=rows.device)
        rows[each % outputs, each % inputs] = 0
        rows = rows * scale.sign
        if scale.power is not None:  # divided by the row's sum in the semifield
            signed = -scale.sign * scale.power
            rows = rows - torch.logsumexp(signed * rows, 1, keepdim=True) / signed
        if scale.multiplies:
            rows = rows.exp()
        weight.copy_(rows[:, :inputs])
        if bias is not None:
            bias.copy_(rows[:, inputs])
