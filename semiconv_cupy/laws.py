"""The laws of a semifield, tested on random numbers: `SelectSemifield.check()` and its sisters.

Not here: what a semifield is (`semifields.py`). Everything is evaluated in float64 by NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from semiconv_cupy.semifields import BroadcastSemifield, SelectSemifield, Semifield

__all__ = ["Law", "LawReport", "check"]

ROUNDING = 1e-9  # relative; the laws hold exactly, the numbers have 53 bits
SLOPE = 1e-5  # relative; of a central difference


@dataclass(frozen=True)
class Law:
    """One law: what it says, and where it fails."""

    name: str
    formula: str
    counterexample: str | None

    @property
    def holds(self) -> bool:
        """Whether no counterexample was found."""
        return self.counterexample is None

    def __str__(self) -> str:
        verdict = "holds" if self.holds else f"FAILS: {self.counterexample}"
        return f"{self.name:<32} {self.formula:<46} {verdict}"


@dataclass(frozen=True)
class LawReport:
    """What `check` found; prints one line a law."""

    semifield: str
    laws: tuple[Law, ...]

    @property
    def ok(self) -> bool:
        """Whether every law holds."""
        return all(law.holds for law in self.laws)

    def __str__(self) -> str:
        return "\n".join([self.semifield, *(f"  {law}" for law in self.laws)])

    __repr__ = __str__

    def raise_if_failed(self) -> None:
        """Raise a ValueError that shows the laws that fail, if any does."""
        if not self.ok:
            failed = [f"  {law}" for law in self.laws if not law.holds]
            raise ValueError("\n".join([f"{self.semifield} is no semifield:", *failed]))


class _Checker:
    """Collects laws; every side is an array over the samples."""

    def __init__(self) -> None:
        self.laws: list[Law] = []

    def equal(
        self,
        name: str,
        formula: str,
        left: Any,
        right: Any,
        tolerance: float = ROUNDING,
        **variables: Any,
    ) -> None:
        left, right = np.broadcast_arrays(np.asarray(left), np.asarray(right))
        wrong = ~np.isclose(left, right, rtol=tolerance, atol=tolerance)
        counterexample = None
        if wrong.any():
            at = np.unravel_index(np.argmax(wrong), wrong.shape)
            shown = (
                f"{key} = {np.broadcast_to(v, wrong.shape)[at]:.6g}" for key, v in variables.items()
            )
            counterexample = f"{', '.join(shown)} gives {left[at]:.6g} and {right[at]:.6g}"
        self.laws.append(Law(name, formula, counterexample))

    def slope(
        self,
        name: str,
        formula: str,
        given: Any,
        function: Callable[[Any], Any],
        at: Any,
        **rest: Any,
    ) -> None:
        step = 1e-6 * (1 + np.abs(at))
        numeric = (function(at + step) - function(at - step)) / (2 * step)
        self.equal(name, formula, given, numeric, SLOPE, **rest)


def check(
    semifield: Semifield, samples: int, seed: int, domain: tuple[float, float] | None
) -> LawReport:
    """As `SelectSemifield.check`, which documents it."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got samples={samples}")
    zero = semifield.zero
    low, high = domain or ((0.1, 4.0) if semifield.of_positive_numbers else (-4.0, 4.0))
    if not low < high:
        raise ValueError(f"domain must be (low, high) with low < high, got domain={domain}")
    a, b, c, k = np.random.default_rng(seed).uniform(low, high, (4, samples))
    b[::4] = a[::4]  # ties
    checker = _Checker()
    with np.errstate(all="ignore"):
        if isinstance(semifield, BroadcastSemifield):
            _check_algebra(checker, _broadcast_add(semifield), semifield.multiply, zero, a, b, c, k)
        elif isinstance(semifield, SelectSemifield):
            _check_select(checker, semifield, a, b, c, k)
        else:
            _check_subtract(checker, semifield, a, b, c, k)
    return LawReport(repr(semifield), tuple(checker.laws))


def _broadcast_add(semifield: BroadcastSemifield) -> Callable[[Any, Any], Any]:
    def add(a: Any, b: Any) -> Any:
        return semifield.add_reduce(np.stack(np.broadcast_arrays(a, b)), (0,))

    return add


def _check_algebra(
    checker: _Checker,
    add: Callable[[Any, Any], Any],
    times: Callable[[Any, Any], Any],
    zero: float,
    a: Any,
    b: Any,
    c: Any,
    k: Any,
    post: Callable[[Any], Any] = lambda acc: acc,
    undo: Callable[[Any], Any] = lambda out: out,
) -> None:
    """Where ``post`` transforms accumulators, add works on those and times on what post gives."""
    checker.equal(
        "addition is associative", "(a ⊕ b) ⊕ c = a ⊕ (b ⊕ c)",
        add(add(a, b), c), add(a, add(b, c)), a=a, b=b, c=c,
    )  # fmt: skip
    checker.equal("addition is commutative", "a ⊕ b = b ⊕ a", add(a, b), add(b, a), a=a, b=b)
    zeros = np.full_like(a, zero)
    checker.equal("zero is neutral on the left", "zero ⊕ a = a", add(zeros, a), a, a=a)
    checker.equal("zero is neutral on the right", "a ⊕ zero = a", add(a, zeros), a, a=a)
    checker.equal("zero absorbs", "zero ⊗ k = zero", times(post(zeros), k), zeros, k=k)
    checker.equal(
        "multiplication distributes", "(a ⊕ b) ⊗ k = (a ⊗ k) ⊕ (b ⊗ k)",
        times(post(add(undo(a), undo(b))), k), add(times(a, k), times(b, k)), a=a, b=b, k=k,
    )  # fmt: skip


def _check_times(checker: _Checker, semifield: Any, a: Any, k: Any) -> None:
    times = semifield.times
    checker.slope(
        "derivative of times by img", "d_times_d_img = d (img ⊗ krn) / d img",
        semifield.d_times_d_img(a, k), lambda img: times(img, k), a, img=a, krn=k,
    )  # fmt: skip
    checker.slope(
        "derivative of times by krn", "d_times_d_kernel = d (img ⊗ krn) / d krn",
        semifield.d_times_d_kernel(a, k), lambda krn: times(a, krn), k, img=a, krn=k,
    )  # fmt: skip


def _check_select(checker: _Checker, semifield: Any, a: Any, b: Any, c: Any, k: Any) -> None:
    select = semifield.add_select

    def add(left: Any, right: Any) -> Any:
        return np.where(select(left, right), right, left)

    _check_algebra(checker, add, semifield.times, semifield.zero, a, b, c, k)
    false = np.zeros(a.shape, bool)
    checker.equal("equals are not exchanged", "add_select(a, a) is False", select(a, a), false, a=a)
    checker.equal(
        "the order of arguments", "not both add_select(a, b) and (b, a)",
        select(a, b) & select(b, a), false, a=a, b=b,
    )  # fmt: skip
    nan = np.full_like(a, np.nan)
    checker.equal(
        "NaN is never selected", "add_select(a, nan) is False", select(a, nan), false, a=a
    )
    _check_times(checker, semifield, a, k)


def _check_subtract(checker: _Checker, semifield: Any, a: Any, b: Any, c: Any, k: Any) -> None:
    add, subtract = semifield.add, semifield.subtract
    identity: Callable[[Any], Any] = lambda value: value  # noqa: E731
    post, undo = semifield.post_sum or identity, semifield.undo_post_sum or identity
    _check_algebra(checker, add, semifield.times, semifield.zero, a, b, c, k, post, undo)
    _check_times(checker, semifield, a, k)
    acc, val = semifield.times(a, k), semifield.times(b, c)
    res = add(acc, val)
    checker.equal(
        "subtract undoes add", "subtract(res, val) ⊕ val = res",
        add(subtract(res, val), val), res, res=res, val=val,
    )  # fmt: skip
    checker.slope(
        "derivative of add", "d_add_d_right = d (acc ⊕ val) / d val",
        semifield.d_add_d_right(acc, val), lambda right: add(acc, right), val, acc=acc, val=val,
    )  # fmt: skip
    if semifield.post_sum is not None:
        checker.equal(
            "undo_post_sum undoes post_sum", "undo_post_sum(post_sum(acc)) = acc",
            undo(post(acc)), acc, acc=acc,
        )  # fmt: skip
        checker.slope(
            "derivative of post_sum", "d_post_d_acc = d post_sum(acc) / d acc",
            semifield.d_post_d_acc(acc), post, acc, acc=acc,
        )  # fmt: skip
