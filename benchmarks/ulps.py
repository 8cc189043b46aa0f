"""How exact log and root are, by mu, p and dtype: values and gradients against 60 digits.

Prints the table of docs/numerics.md: ``python -m benchmarks.ulps``. An error is given in units in
the last place of the dtype of arithmetic, eps times the exact number: of a value (log: of the
larger one of the value and the largest term, as the value may be near 0), of the largest of a
window's weights (its derivatives by the terms), of the derivative by the parameter.
"""

from __future__ import annotations

import argparse

import mpmath
import numpy as np

import semiconv_cupy as sc

VALUES = {
    "log": (-10.0, -2.0, -0.5, 0.1, 0.5, 2.0, 10.0),
    "root": (-2.0, 0.5, 1.0, 2.0, 2.5, 3.0, 10.0),
}
NAMES = {"log": "mu", "root": "p"}
DTYPES = (np.float32, np.float64)
TERMS = 25


def exact(
    family: str, value: float, terms: np.ndarray
) -> tuple[mpmath.mpf, list[mpmath.mpf], mpmath.mpf]:
    """A window's value, its derivatives by the terms, and that by the parameter."""
    x, numbers = mpmath.mpf(value), [mpmath.mpf(float(term)) for term in terms]
    logs = numbers if family == "log" else [mpmath.log(term) for term in numbers]
    powers = [mpmath.exp(x * one) for one in logs]
    total = sum(powers)
    mean = sum(s * one for s, one in zip(powers, logs, strict=True)) / total
    if family == "log":
        out = mpmath.log(total) / x
        return out, [s / total for s in powers], (mean - out) / x
    out = total ** (1 / x)
    weights = [s / total * out / one for s, one in zip(powers, numbers, strict=True)]
    return out, weights, out / x * (mean - mpmath.log(out))


def errors(family: str, value: float, dtype: type, windows: int) -> np.ndarray:
    """The largest errors of value, weights and slope, over windows of narrow and wide terms."""
    value = float(dtype(value))  # what the kernels receive
    rng, eps = np.random.default_rng(0), float(np.finfo(dtype).eps)
    spread = np.repeat([0.1, 1.0, 3.0], -(-windows // 3))[:windows, None]
    terms = (spread * rng.normal(size=(windows, TERMS))).astype(dtype)
    if family == "root":
        terms = np.exp(terms)
    one = np.full((1, 1, TERMS), 0.0 if family == "log" else 1.0, dtype)
    out, pullback = sc.semifield_conv_vjp(
        terms[:, None], one, family, method="direct", kind="corr", **{NAMES[family]: value}
    )
    found = np.zeros(3)
    grad_img = pullback(np.ones_like(out))[0][:, 0]
    for at in range(windows):
        grad_out = np.zeros_like(out)
        grad_out[at] = 1
        slope = float(pullback(grad_out)[2])
        with mpmath.workdps(60):
            right, weights, by_parameter = exact(family, value, terms[at])
            scale = abs(right)
            if family == "log":
                scale = max(scale, abs(mpmath.mpf(float(abs(terms[at]).max()))))
            apart = max(abs(float(g) - w) for g, w in zip(grad_img[at], weights, strict=True))
            parts = (
                abs(float(out[at, 0, 0]) - right) / scale,
                apart / max(weights),
                abs(slope - by_parameter) / abs(by_parameter) if by_parameter else mpmath.mpf(0),
            )
        found = np.maximum(found, [float(part) / eps for part in parts])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ulps", description=__doc__)
    parser.add_argument("--windows", type=int, default=300)
    windows = parser.parse_args().windows
    columns = [
        f"{kind} {np.dtype(d).name}" for d in DTYPES for kind in ("value", "weights", "slope")
    ]
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for family, values in VALUES.items():
        for value in values:
            row = np.concatenate([errors(family, value, dtype, windows) for dtype in DTYPES])
            cells = " | ".join(f"{one:.1f}" for one in row)
            print(f"| {family}, {NAMES[family]} = {value:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
