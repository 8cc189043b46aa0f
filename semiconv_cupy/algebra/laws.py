"""The laws of a semifield, tested on random numbers: `SelectSemifield.check()` and its sisters.

Not here: what a semifield is (`algebra`). Everything is evaluated in float64 by NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from semiconv_cupy.algebra.arrays import ArrayFunction
from semiconv_cupy.algebra.functions import symbol
from semiconv_cupy.algebra.signatures import ACC, LEFT, RIGHT, VAL
from semiconv_cupy.algebra.slopes import (
    kept_slopes,
    slopes_of,
    with_kernel_slope,
)
from semiconv_cupy.errors import integer

__all__ = ["Law", "LawReport", "check"]

ROUNDING = 1e-9  # relative; the laws hold exactly, the numbers have 53 bits
SLOPE = 1e-5  # relative; of a central difference


@dataclass(frozen=True)
class Law:
    """One law: what it says, where it fails, and whether a convolution needs it."""

    name: str
    formula: str
    counterexample: str | None
    needed_by: Literal["convolution", "semifield"] = "convolution"

    @property
    def holds(self) -> bool:
        """Whether no counterexample was found."""
        return self.counterexample is None

    def __str__(self) -> str:
        verdict = "holds" if self.holds else f"FAILS: {self.counterexample}"
        return f"{self.name:<32} {self.formula:<46} {verdict}"


@dataclass(frozen=True)
class LawReport:
    """What `check` found; prints one line a law, and what follows.

    Attributes
    ----------
    semifield : str
        What was tested.
    laws : tuple of Law
        In the order in which they print.
    one : float or None
        The neutral element of the multiplication, None where there is none.
    kernel_inverted : bool
        Whether img ⊗ krn multiplies by the inverse of krn, as img - krn does; the laws of the
        multiplication are then those of a ⊗ (one ⊗ b).

    See Also
    --------
    Law : One of its lines.
    """

    semifield: str
    laws: tuple[Law, ...]
    one: float | None = None
    kernel_inverted: bool = False

    @property
    def ok(self) -> bool:
        """Whether every law that a convolution needs holds, derivatives included."""
        return all(law.holds for law in self.laws if law.needed_by == "convolution")

    @property
    def is_semifield(self) -> bool:
        """Whether every law holds, those of the multiplication included."""
        return all(law.holds for law in self.laws)

    def __str__(self) -> str:
        inverted = ", of a · b = a ⊗ (one ⊗ b): kernels enter inverted" * self.kernel_inverted
        return "\n".join(
            [
                self.semifield,
                *(f"  {law}" for law in self.laws),
                f"enough for a convolution: {'yes' if self.ok else 'no'}",
                f"a semifield: {'yes' + inverted if self.is_semifield else 'no'}",
            ]
        )

    __repr__ = __str__

    def raise_if_failed(self) -> None:
        """Raise a ValueError that shows the laws that fail, if a convolution needs any of them."""
        if not self.ok:
            failed = [f"  {law}" for law in self.laws if not law.holds]
            lines = [f"{self.semifield} is no semifield, nor enough for a convolution:", *failed]
            raise ValueError("\n".join(lines))


class _Samples(NamedTuple):
    """Random numbers: three values of an image or of accumulators, and a kernel value."""

    a: Any
    b: Any
    c: Any
    k: Any


class _Checker:
    """Collects laws; every side is an array over the samples."""

    def __init__(self, low: float, high: float) -> None:
        self.laws: list[Law] = []
        self.domain = (low, high)

    def equal(
        self,
        name: str,
        formula: str,
        left: Any,
        right: Any,
        tolerance: float = ROUNDING,
        needed_by: Literal["convolution", "semifield"] = "convolution",
        remedy: str = "",
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
            counterexample = f"{', '.join(shown)} gives {left[at]:.6g} and {right[at]:.6g}{remedy}"
        self.laws.append(Law(name, formula, counterexample, needed_by))

    def slope(
        self,
        name: str,
        formula: str,
        given: Callable[..., Any],
        function: Callable[..., Any],
        by: str,
        points: dict[str, Any],
        special: dict[str, Any],
    ) -> None:
        """Compare with differences; at a kink any slope between those of its two sides is right.

        Of the `special` points those count at which the function is finite on both sides.
        """
        drawn = points[by].size
        joined = {key: np.concatenate([points[key], special[key]]) for key in points}
        at = joined[by]
        step = 4e-6 * (1 + np.abs(at))
        values = [
            function(*({**joined, by: at + offset * step}).values())
            for offset in (-2.0, -1.0, 0.0, 1.0, 2.0)
        ]
        below, before, here, after, above = values
        left = (3 * here - 4 * before + below) / (2 * step)
        right = (4 * after - 3 * here - above) / (2 * step)
        middle = (after - before) / (2 * step)
        sides = np.stack([left, middle, right])
        found = given(*joined.values())
        nearest = np.clip(found, sides.min(0), sides.max(0))
        counted = np.isfinite(np.stack(values)).all(0) | (np.arange(at.size) < drawn)
        shown: dict[str, Any] = {key: value[counted] for key, value in joined.items()}
        self.equal(name, formula, found[counted], nearest[counted], SLOPE, **shown)


_MOST_SAMPLES = 10**6


def check(semifield: Any, samples: int, seed: int, domain: tuple[float, float] | None) -> LawReport:
    """As `SelectSemifield.check`, which documents it."""
    samples, seed = integer("samples", samples), integer("seed", seed)
    if not 1 <= samples <= _MOST_SAMPLES:
        raise ValueError(f"samples must be from 1 to {_MOST_SAMPLES}, got samples={samples}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got seed={seed}")
    low, high = _interval(domain, (0.1, 4.0) if semifield.of_positive_numbers else (-4.0, 4.0))
    drawn = _Samples(*np.random.default_rng(seed).uniform(low, high, (4, samples)))
    drawn.b[::4] = drawn.a[::4]  # ties
    checker = _Checker(low, high)
    with np.errstate(all="ignore"):
        times: Callable[[Any, Any], Any]
        if semifield.accumulator == "arrays":
            times = semifield.multiply
            _check_algebra(checker, _broadcast_add(semifield), times, semifield.zero, drawn)
        elif semifield.accumulator == "select":
            times = semifield.times
            _check_select(checker, semifield, drawn)
        else:
            post = semifield.post_sum or _identity
            times = lambda img, krn: post(semifield.times(img, krn))  # noqa: E731
            _check_subtract(checker, semifield, drawn)
        one, kernel_inverted = _check_multiplication(checker, times, drawn)
    return LawReport(repr(semifield), tuple(checker.laws), one, kernel_inverted)


def _interval(domain: Any, usual: tuple[float, float]) -> tuple[float, float]:
    """The interval to draw from, checked."""
    if domain is None:
        return usual
    what = f"domain must be (low, high) with low < high, both finite, got domain={domain!r}"
    try:
        low, high = map(float, domain)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(what) from None
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(what)
    return low, high


def _identity(value: Any) -> Any:
    return value


def _broadcast_add(semifield: Any) -> Callable[[Any, Any], Any]:
    def add(a: Any, b: Any) -> Any:
        return semifield.add_reduce(np.stack(np.broadcast_arrays(a, b)), (0,))

    return add


def _check_algebra(
    checker: _Checker,
    add: Callable[[Any, Any], Any],
    times: Callable[[Any, Any], Any],
    zero: float,
    samples: _Samples,
    post: Callable[[Any], Any] = _identity,
) -> None:
    """The laws that a convolution needs.

    Where ``post`` makes outputs of accumulators, the samples a, b and c are accumulators, and
    ``times`` multiplies the outputs.
    """
    a, b, c, k = samples
    checker.equal(
        "addition is associative", "(a ⊕ b) ⊕ c = a ⊕ (b ⊕ c)",
        add(add(a, b), c), add(a, add(b, c)), a=a, b=b, c=c,
    )  # fmt: skip
    checker.equal("addition is commutative", "a ⊕ b = b ⊕ a", add(a, b), add(b, a), a=a, b=b)
    zeros = np.full_like(a, zero)
    checker.equal("zero is neutral on the left", "zero ⊕ a = a", add(zeros, a), a, a=a)
    checker.equal("zero is neutral on the right", "a ⊕ zero = a", add(a, zeros), a, a=a)
    checker.equal(
        "zero absorbs", "zero ⊗ k = zero", times(post(zeros), k), zeros, k=k,
        remedy="; if k never is such a number, pass domain=(low, high), as domain=(0.1, 4)",
    )  # fmt: skip
    checker.equal(
        "multiplication distributes", "(a ⊕ b) ⊗ k = (a ⊗ k) ⊕ (b ⊗ k)",
        times(post(add(a, b)), k), add(times(post(a), k), times(post(b), k)), a=a, b=b, k=k,
    )  # fmt: skip


def _check_multiplication(
    checker: _Checker, times: Callable[[Any, Any], Any], samples: _Samples
) -> tuple[float | None, bool]:
    """The other laws of a semifield; returns its one, and whether kernels enter inverted."""
    a, b, c, _ = samples
    one = _one_of(times, a)
    inverted, product, dot = False, times, "⊗"
    if one is not None:
        ones = np.full_like(b, one)
        inverted = not _close(times(ones, b), b) and _close(times(b, b), ones)
        if inverted:
            product, dot = lambda img, krn: times(img, times(np.full_like(krn, one), krn)), "·"
    checker.equal(
        "multiplication is associative", f"(a {dot} b) {dot} c = a {dot} (b {dot} c)",
        product(product(a, b), c), product(a, product(b, c)), a=a, b=b, c=c, needed_by="semifield",
    )  # fmt: skip
    checker.equal(
        "multiplication is commutative", f"a {dot} b = b {dot} a",
        product(a, b), product(b, a), a=a, b=b, needed_by="semifield",
    )  # fmt: skip
    if one is None:
        missing = "no number k gives a ⊗ k = a for every a"
        checker.laws.append(Law("one is neutral", "a ⊗ one = a", missing, "semifield"))
        checker.laws.append(Law("inverses", "a ⊗ x = one", "there is no one", "semifield"))
        return None, False
    checker.equal(
        "one is neutral", f"one {dot} a = a = a {dot} one, one = {one:g}",
        product(ones, a), a, a=a, needed_by="semifield",
    )  # fmt: skip
    neutral = checker.laws[-1].holds
    row, _ = _solutions(product, a[:16], np.full_like(a[:16], one))
    without = np.setdiff1d(np.arange(a[:16].size), row)
    counterexample = f"a = {a[without[0]]:.6g} has none" if without.size else None
    checker.laws.append(Law("inverses", f"a {dot} x = one", counterexample, "semifield"))
    return one if neutral else None, inverted


def _close(left: Any, right: Any) -> bool:
    return bool(np.allclose(left, right, rtol=ROUNDING, atol=ROUNDING))


def _one_of(times: Callable[[Any, Any], Any], a: Any) -> float | None:
    """The k with a ⊗ k = a for every a."""
    _, solved = _solutions(times, a[:1], a[:1])
    for k in (1.0, 0.0, np.inf, -np.inf, *solved):
        if _close(times(a, np.full_like(a, k)), a):
            return float(k)
    return None


# Where solutions are looked for.
_MAGNITUDES = np.logspace(-6, 6, 601)
_GRID = np.concatenate([-_MAGNITUDES[::-1], [0.0], _MAGNITUDES])


def _solutions(times: Callable[[Any, Any], Any], a: Any, result: Any) -> tuple[Any, Any]:
    """All (n, x) on a grid or between two of its points with a[n] ⊗ x = result[n]."""

    def difference(row: Any, x: Any) -> Any:
        return times(a[row], x) - result[row]

    rows, columns = np.indices((a.size, _GRID.size))
    on_grid = difference(rows, _GRID[columns])
    row, column = np.nonzero(on_grid[:, :-1] * on_grid[:, 1:] < 0)
    low, high = _GRID[column], _GRID[column + 1]
    rising = on_grid[row, column + 1] > 0
    for _ in range(60):  # bisection
        middle = (low + high) / 2
        beyond = (difference(row, middle) > 0) == rising
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    row = np.concatenate([rows.ravel(), row])
    x = np.concatenate([_GRID[columns.ravel()], low])
    solved = np.isclose(times(a[row], x), result[row], rtol=ROUNDING, atol=ROUNDING)
    return row[solved], x[solved]


def _check_times(checker: _Checker, semifield: Any, a: Any, k: Any) -> None:
    # Where formulas have kinks: equal arguments, and 0 and +-1 with anything.
    low, high = checker.domain
    pairs = list(zip(a, a, strict=True))
    for kink in (-1.0, 0.0, 1.0):
        if low < kink < high:
            pairs += [(kink, kink), *((kink, x) for x in k[:8]), *((x, kink) for x in a[:8])]
    imgs, krns = np.array(pairs).T
    points, special = {"img": a, "krn": k}, {"img": imgs, "krn": krns}
    checker.slope(
        "derivative of times by img", "d_times_d_img = d (img ⊗ krn) / d img",
        semifield.d_times_d_img, semifield.times, "img", points, special,
    )  # fmt: skip
    checker.slope(
        "derivative of times by krn", "d_times_d_kernel = d (img ⊗ krn) / d krn",
        semifield.d_times_d_kernel, semifield.times, "krn", points, special,
    )  # fmt: skip


def _check_own(checker: _Checker, semifield: Any, a: Any, k: Any) -> None:
    """The derivatives of times by parameters of the user's own, at their values."""
    for name in getattr(semifield, "own", ()):
        slope = with_kernel_slope(semifield, name)
        if slope is None:
            continue
        values = {key: np.full_like(a, value) for key, value in semifield.parameters.items()}
        names = ("img", "krn", *values)
        points = {"img": a, "krn": k, **values}
        checker.slope(
            f"derivative of times by {name}", f"d (img ⊗ krn) / d {name}",
            ArrayFunction(slope.expressions["d_times_d_krn"], names),
            ArrayFunction(semifield.expressions["times"], names),
            name, points, {key: value[:0] for key, value in points.items()},
        )  # fmt: skip


def _check_addition_of_own(checker: _Checker, semifield: Any, acc: Any, val: Any) -> None:
    """The derivatives of an addition by what its slopes need, and its zero at other values."""
    expressions = semifield.expressions
    names = [name for name in semifield.own if symbol(name) in expressions["add"].free_symbols]
    if not names:
        return
    found, zero = slopes_of(semifield), np.full_like(acc, semifield.zero)
    by_own = dict(zip(kept_slopes(semifield), found.add_by_own, strict=True))
    values = {key: np.full_like(acc, value) for key, value in semifield.parameters.items()}
    points = {"acc": acc, "val": val, **values}
    nothing = {key: value[:0] for key, value in points.items()}
    add = ArrayFunction(
        semifield.unbound.expressions["add"].xreplace({LEFT: ACC, RIGHT: VAL}), tuple(points)
    )
    for name in ("acc", *names):
        slope = found.add_by_left if name == "acc" else by_own[name]
        checker.slope(
            f"derivative of add by {name}", f"d (acc ⊕ val) / d {name}",
            ArrayFunction(slope, tuple(points)), add, name, points, nothing,
        )  # fmt: skip
    for name in names:
        apart = np.linspace(-0.2, 0.25, acc.size) * (abs(semifield.parameters[name]) or 1)
        others = values | {name: values[name] + apart}
        checker.equal(
            f"zero is neutral for all {name}", "zero ⊕ val = val",
            add(zero, val, *others.values()), val, val=val, **{name: others[name]},
        )  # fmt: skip


def _check_select(checker: _Checker, semifield: Any, samples: _Samples) -> None:
    a, b, _, k = samples
    select = semifield.add_select

    def add(left: Any, right: Any) -> Any:
        return np.where(select(left, right), right, left)

    _check_algebra(checker, add, semifield.times, semifield.zero, samples)
    false = np.zeros(a.shape, bool)
    checker.equal("equals are not exchanged", "add_select(a, a) is False", select(a, a), false, a=a)
    checker.equal(
        "the order of arguments", "not both add_select(a, b) and (b, a)",
        select(a, b) & select(b, a), false, a=a, b=b,
    )  # fmt: skip
    _check_own(checker, semifield, a, k)
    nan = np.full_like(a, np.nan)
    checker.equal(
        "NaN is never selected", "add_select(a, nan) is False", select(a, nan), false, a=a
    )
    _check_times(checker, semifield, a, k)


def _check_subtract(checker: _Checker, semifield: Any, samples: _Samples) -> None:
    a, b, c, k = samples
    add, times, post = semifield.add, semifield.times, semifield.post_sum
    if post is None:
        _check_algebra(checker, add, times, semifield.zero, samples)
    else:
        products = _Samples(times(a, k), times(b, k), times(c, k), k)
        _check_algebra(checker, add, times, semifield.zero, products, post)
    _check_times(checker, semifield, a, k)
    _check_own(checker, semifield, a, k)
    acc, val = times(a, k), times(b, c)
    _check_addition_of_own(checker, semifield, acc, val)
    res = add(acc, val)
    checker.equal(
        "subtract undoes add", "subtract(res, val) ⊕ val = res",
        add(semifield.subtract(res, val), val), res, res=res, val=val,
    )  # fmt: skip
    checker.slope(
        "derivative of add", "d_add_d_right = d (acc ⊕ val) / d val",
        semifield.d_add_d_right, add, "val",
        {"acc": acc, "val": val}, {"acc": acc, "val": acc},
    )  # fmt: skip
    if post is None:
        return
    if "undo_post_sum" in semifield.expressions:
        checker.equal(
            "undo_post_sum undoes post_sum", "undo_post_sum(post_sum(acc)) = acc",
            semifield.undo_post_sum(post(acc)), acc, acc=acc,
        )  # fmt: skip
    checker.slope(
        "derivative of post_sum", "d_post_d_acc = d post_sum(acc) / d acc",
        semifield.d_post_d_acc, post, "acc", {"acc": acc}, {"acc": acc[:0]},
    )  # fmt: skip
