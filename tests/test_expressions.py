"""Tracing, derivatives and printing: the same numbers as the callable, and the text as agreed."""

import functools
import math
import operator
import pickle
import random
import shutil
import subprocess
from math import exp as imported_exp
from pathlib import Path

import numpy as np
import pytest
import sympy
from hypothesis import assume, given
from hypothesis import strategies as st

import kernels_cu
from semiconv_cupy import where
from semiconv_cupy.algebra.arrays import ArrayFunction
from semiconv_cupy.algebra.calculus import derivative
from semiconv_cupy.algebra.cpp import cpp_bool, cpp_floating, cpp_integer
from semiconv_cupy.algebra.functions import symbol
from semiconv_cupy.algebra.printing import readable
from semiconv_cupy.algebra.tracing import trace

generator = np.random.default_rng(0)


def traced(function, names=("a", "b")):
    return ArrayFunction(trace(function, names, "f"), names)


def helper(x):
    return math.tanh(x) + imported_exp(-x)


def factorial(n):
    return 1 if n == 0 else n * factorial(n - 1)


def with_local_imports(a, b):
    import math as mathematics
    from math import sin

    return mathematics.cos(a) + sin(b)


class Scaled:
    def __init__(self, mu):
        self.mu = mu

    def __call__(self, a, b):
        return math.exp(a * self.mu) + b

    def method(self, a, b):
        return self.mu * np.arctan(a) + b


def closure(mu):
    return lambda a, b: a * mu + b


CALLABLES = {
    "arithmetic": lambda a, b: -a + 3 * b - a / (2 - b) + a // b + a % b + abs(a - 2),
    "powers": lambda a, b: a**2 + b**-3 + (a + b) ** 0.5 + a**b + pow(b, 2.0) + 2**a + b**20,
    "math": lambda a, b: math.log(a, 2) + math.sqrt(b) + math.pow(a, b) + math.hypot(a, b),
    "numpy": lambda a, b: np.log1p(np.exp(-np.abs(a - b))) + np.maximum(a, b) + np.sign(a),
    "logaddexp": np.logaddexp,
    "operator": operator.mul,
    "builtins": lambda a, b: min(a, b, 1) + max([2 * a, b]) + sum([a, b, 1.5]) + max(3, 4),
    "steps": lambda a, b: math.floor(a * 7) + math.ceil(b * 7) + math.trunc(-3 * b),
    "rounding": lambda a, b: np.rint(7 * a) + round(5 * b) + np.fmod(-7 * a, b) + np.fix(-9 * a),
    "remainders": lambda a, b: math.remainder(7 * a, b) + math.fmod(5 * a, b) + (-a) % 0.25,
    "helpers": lambda a, b: helper(a) * factorial(3) + max(x * 2 for x in (a, b)),
    "local imports": with_local_imports,
    "closure over a NumPy scalar": closure(np.float32(0.125)),
    "closure over a 0-d array": closure(np.array(2.5)),
    "default": lambda a, b, c=2: a * c + b,
    "partial": functools.partial(lambda c, a, b: c * a + math.erf(b), 3.0),
    "object": Scaled(2.5),
    "method": Scaled(np.float64(0.5)).method,
    "where": lambda a, b: where((a > b) | (b == 2), where(a > 1, a, 1.0), math.inf),
    "numpy where": lambda a, b: np.where(np.logical_and(a > 0.5, np.logical_not(b > a)), a, b),
    "clip": lambda a, b: np.clip(a, 0, 0.5) + b,
    "constants": lambda a, b: math.log(3) * a + math.pi + len("four") * b,
}


@pytest.mark.parametrize("name", CALLABLES)
def test_a_traced_callable_gives_the_callables_numbers(name):
    function = CALLABLES[name]
    again = traced(function)
    for a, b in [(0.7, 1.3), (1.9, 0.4), (0.25, 0.25)]:
        expected = float(function(a, b))
        assert again(a, b) == pytest.approx(expected, rel=1e-7)  # float32 is one of the constants


def test_torch_functions_are_traced_by_name():
    torch = pytest.importorskip("torch")
    two = torch.tensor(2.0)

    def function(a, b):
        mixed = torch.where(a > b, torch.exp(a), torch.clamp(b, min=0.5)) + two / a + a**two
        return mixed + torch.nn.functional.relu(a - b) + torch.sigmoid(-50 * a)

    for a, b in [(0.7, 1.3), (1.9, 0.4)]:
        expected = function(*(torch.tensor(x, dtype=torch.float64) for x in (a, b)))
        assert traced(function)(a, b) == pytest.approx(float(expected), rel=1e-12)


def test_sympy_expressions_are_taken_by_the_names_of_their_symbols():
    a, b = sympy.symbols("a b", real=True)
    piecewise = sympy.Piecewise((a, a > b), (sympy.Max(b, 1) * sympy.Abs(a), True))
    assert traced(piecewise)(3.0, 2.0) == 3.0
    assert traced(piecewise)(-3.0, 2.0) == 6.0
    assert traced(sympy.Lambda((b, a), b - a))(3.0, 2.0) == 1.0
    with pytest.raises(TypeError, match="unknown symbols c"):
        trace(sympy.Symbol("c"), ["a", "b"], "f")


TERMS = st.recursive(
    st.sampled_from(["a", "b", "0.1", "3", "-2", "0.5"]),
    lambda term: st.one_of(
        st.tuples(st.sampled_from("+-*/"), term, term).map(lambda t: f"({t[1]} {t[0]} {t[2]})"),
        st.tuples(st.sampled_from(["min", "max"]), term, term).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        ),
        term.map(lambda t: f"(-{t})"),
        term.map(lambda t: f"abs({t})"),
        term.map(lambda t: f"({t})**2"),
        term.map(lambda t: f"np.exp(-({t})**2)"),
        st.tuples(term, term, term, term).map(lambda t: f"where({t[0]} > {t[1]}, {t[2]}, {t[3]})"),
    ),
    max_leaves=8,
)


@given(TERMS, st.floats(-9, 9), st.floats(-9, 9))
def test_any_formula_keeps_its_numbers(text, a, b):
    function = eval(f"lambda a, b: {text}", {"np": np, "where": where})
    with np.errstate(all="ignore"):
        try:
            expected = float(function(np.float64(a), np.float64(b)))
            again = traced(function)
        except ZeroDivisionError:  # of constants
            assume(False)
        except TypeError as error:  # a / (3 - 3) has no value at any a and b
            assume("division by 0" not in str(error))
            raise
    assume(math.isfinite(expected))
    assert again(a, b) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_sympy_does_not_rearrange_what_then_overflows_or_cancels():
    assert traced(lambda a, b: (a / b) ** 3)(3e200, 1e200) == pytest.approx(27)
    assert traced(lambda a, b: ((a * b) / b) * a)(2.0, 1e300) == 4
    assert traced(lambda a, b: 1.1 * (a - b))(1e16 + 2, 1e16) == 2.2
    assert traced(lambda a, b: (a + b) - b)(1.0, 1e30) == 0


FAILURES = {
    "if": (lambda a, b: a if a > b else b, r"branch.* a > b: write semiconv_cupy\.where"),
    "and": (lambda a, b: a > 0 and b, r"branch.*where\(condition, a, b\)"),
    "chained": (lambda a, b: where(0 < a < 1, a, b), r"chained comparison.*where"),
    "unknown": (lambda a, b: np.sinc(a) + b, "'sinc' cannot be traced: use arithmetic"),
    "array": (lambda a, b: np.sum(np.array([a, b])), "cannot be traced"),
    "random": (lambda a, b: a * random.random(), "random.random .* frozen"),
    "generator": (lambda a, b: a * generator.normal(), "Generator.normal .* frozen"),
    "float": (lambda a, b: float(a) + b, "asked for its number"),
    "condition": (lambda a, b: a > b, "must give a number, but a > b is a condition"),
    "constant array": (lambda a, b: a * np.ones(3), r"array of shape \(3,\) is not a scalar"),
    "nothing": (lambda a, b: None, "returned None"),
    "NaN": (lambda a, b: a + math.nan, "NaN"),
    "division": (lambda a, b: a / 0, "division by 0"),
    "arity": (lambda a: a, r"called with 2 arguments, but takes \(a\)"),
    "pair": (lambda a, b: (a + b, a), r"\(a \+ b, a\) is not a scalar.*no pairs or vectors"),
    "vector": (lambda a, b: np.array([1.0, 2.0]), "not a scalar.*no pairs or vectors"),
    "index": (lambda a, b: a[0] + b[0], "a cannot be indexed or unpacked: .* are scalars"),
    "unpacking": (lambda a, b: [*a, b], "a cannot be indexed or unpacked: .* are scalars"),
    "complex": (lambda a, b: a + 1j * b, "1j is complex"),
    "text": ("a + b", "needs a callable or a SymPy expression, not 'a \\+ b'"),
}


@pytest.mark.parametrize(
    "function", [lambda a, b: a.max() + b, lambda a, b: a @ b, lambda a, b: divmod(a, b)[1]]
)
def test_what_symbols_lack_names_the_argument_and_the_remedy(function):
    message = r"^times\(a, b\) cannot be traced: .*; use arithmetic, min, max"
    with pytest.raises(TypeError, match=message):
        trace(function, ["a", "b"], "times")


@pytest.mark.parametrize("name", FAILURES)
def test_what_cannot_be_traced_says_what_to_write(name):
    function, message = FAILURES[name]
    with pytest.raises(TypeError, match=rf"^times\(a, b\): .*{message}"):
        trace(function, ["a", "b"], "times")


def test_a_condition_must_depend_on_its_arguments():
    with pytest.raises(TypeError, match="must give a condition, but a is a number"):
        trace(lambda a, b: a, ["a", "b"], "f", condition=True)
    with pytest.raises(TypeError, match="always True"):
        trace(lambda a, b: True, ["a", "b"], "f", condition=True)


DIFFERENTIABLE = {
    "smooth": lambda a, b: a**3 / b + math.exp(-a * b) * math.sqrt(a + b) - (a / b) ** 2.5,
    "kinks": lambda a, b: max(a, b) * min(a, 1) + abs(a - b) + where(a > b, a * b, b**2),
    "steps": lambda a, b: a * math.floor(b) + np.sign(a - b) * b + math.ceil(a),
    "stable": lambda a, b: np.logaddexp(3 * a, b) + np.log1p(a) * np.expm1(b),
    "functions": lambda a, b: math.erf(a) + math.atan2(a, b) + math.sinh(b) * math.acos(a / 9),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_derivatives_match_finite_differences(name):
    expression = trace(DIFFERENTIABLE[name], ["a", "b"], "f")
    f = ArrayFunction(expression, "ab")
    a, b, step = np.array([0.3, 1.7, 2.2]), np.array([0.9, 0.6, 2.9]), 1e-6
    by_a = ArrayFunction(derivative(expression, "a", "df"), "ab")(a, b)
    by_b = ArrayFunction(derivative(expression, "b", "df"), "ab")(a, b)
    np.testing.assert_allclose(by_a, (f(a + step, b) - f(a - step, b)) / (2 * step), rtol=1e-7)
    np.testing.assert_allclose(by_b, (f(a, b + step) - f(a, b - step)) / (2 * step), rtol=1e-7)


def slopes(function, a=2.0, b=2.0):
    expression = trace(function, ["a", "b"], "f")
    return [ArrayFunction(derivative(expression, x, "df"), "ab")(a, b) for x in "ab"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: max(a, b), [0.5, 0.5]),
        (lambda a, b: np.minimum(b, a), [0.5, 0.5]),
        (lambda a, b: abs(a - b), [0, 0]),
        (lambda a, b: np.sqrt((a - b) ** 2), [0, 0]),
        (lambda a, b: np.clip(a, 2, 5) + b, [0.5, 1]),
        (lambda a, b: where(a >= b, 3 * a, 2 * a + b), [2.5, 0.5]),
        (lambda a, b: where((a > 2) & (b > 1), a, 2), [0.5, 0]),
        (lambda a, b: where(a > 2, b, a * b - b), [1, 1]),  # by b nothing changes sides
        # A branch that replaces another where that has no derivative, or another value.
        (lambda a, b: where(a > 2, (a - 2) ** 0.5, 0) + b, [0, 1]),
        (lambda a, b: where(a > 2, a + b, -math.inf), [0, 0]),
        (lambda a, b: where(a != b, (a * a - b * b) / (a - b), 2 * a), [2, 0]),
    ],
)
def test_derivatives_at_kinks_are_the_mean_of_both_sides(function, expected):
    assert slopes(function) == expected


def softplus(a):
    return np.log1p(np.exp(-abs(a)))


A, B = sympy.symbols("a b")
SMOOTH = {
    "maximum": lambda a, b: np.maximum(a, b) + softplus(a - b),
    "max": lambda a, b: max(b, a) + softplus(b - a),
    "minimum": lambda a, b: np.minimum(a, b) - softplus(a - b),
    "abs": lambda a, b: (a + b + abs(a - b)) / 2 + softplus(a - b),
    "root of a square": lambda a, b: (a + b + ((b - a) ** 2) ** 0.5) / 2 + softplus(a - b),
    "sign": lambda a, b: (a + b + np.sign(a - b) * (a - b)) / 2 + softplus(a - b),
    "heaviside": lambda a, b: b + np.heaviside(a - b, 0.5) * (a - b) + softplus(a - b),
    "clip": lambda a, b: b + np.clip(a - b, 0, None) + softplus(a - b),
    "where": lambda a, b: where(a > b, a, b) + softplus(a - b),
    "where not": lambda a, b: where(~(a > b), b, a) + softplus(a - b),
    "where both": lambda a, b: where((a >= b) & (b > -9), a, b) + softplus(a - b),
    "where equal": lambda a, b: where(a == b, a + math.log(2), max(a, b) + softplus(a - b)),
    "where branches": lambda a, b: where(a < b, b + softplus(a - b), a + softplus(a - b)),
    "logaddexp": np.logaddexp,
    "sympy": sympy.Max(A, B) + sympy.log(1 + sympy.exp(-sympy.Abs(A - B))),
    "piecewise": sympy.Piecewise((A, A > B), (B, True))
    + sympy.log(1 + sympy.exp(-sympy.Abs(A - B))),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_kinks_of_smooth_sums_cancel(name):
    assert slopes(SMOOTH[name]) == [0.5, 0.5]
    beside = np.exp(2.0) / (np.exp(2.0) + np.exp(1.5))
    if name == "minimum":
        beside = 1 - beside
    assert slopes(SMOOTH[name], 2.0, 1.5) == pytest.approx([beside, 1 - beside])


def test_the_sigmoid_has_its_slope_at_zero():
    torch = pytest.importorskip("torch")
    assert slopes(lambda a, b: torch.sigmoid(a - b)) == [0.25, -0.25]


def test_a_derivative_without_c_names_the_argument_to_pass():
    expression = trace(lambda a, b: math.gamma(a) + b, ["a", "b"], "times")
    with pytest.raises(
        TypeError, match=r"d_times_d_img: the derivative .*polygamma.* pass d_times"
    ):
        derivative(expression, "a", "d_times_d_img")


FLOATING = {
    "a + b": lambda a, b: b + a,
    "a - b": lambda a, b: a - b,
    "-a": lambda a, b: -a,
    "constant<V>(2.0)": lambda a, b: 2,
    "constant<V>(0.6931471805599453)": lambda a, b: math.log(2),
    "-infinity<V>()": lambda a, b: -math.inf,
    "constant<V>(0.1) * a": lambda a, b: 0.1 * a,
    "a / constant<V>(3.0)": lambda a, b: a / 3,
    "constant<V>(-2.0) * (a - b)": lambda a, b: -2.0 * (a - b),
    "power<3>(a / b)": lambda a, b: (a / b) ** 3.0,
    "constant<V>(1.0) / power<2>(a)": lambda a, b: a**-2,
    "sqrt(a) + constant<V>(1.0) / sqrt(b)": lambda a, b: a**0.5 + b**-0.5,
    "pow(a, constant<V>(0.3333333333333333))": lambda a, b: a ** (1 / 3),
    "pow(a, constant<V>(17.0))": lambda a, b: a**17,
    "pow(a, b)": math.pow,
    "where((a > b), a, constant<V>(0.0))": lambda a, b: where(a > b, a, 0),
    "where(((a == b) | (a <= constant<V>(1.0))), a, b)": lambda a, b: where(
        (a == b) | (a <= 1), a, b
    ),
    "maximum(minimum(a, b), constant<V>(1.0))": lambda a, b: max(min(a, b), 1),
    "(absolute(a) * sign(b) + floor(a)) - ceil(b)": lambda a, b: (
        abs(a) * np.sign(b) + np.floor(a) - np.ceil(b)
    ),
    "(a - b * rint(a / b)) + rint(b)": lambda a, b: math.remainder(a, b) + np.rint(b),
    "expm1(a) + log1p(b)": lambda a, b: np.expm1(a) + np.log1p(b),
    "tgamma(b) + lgamma(a)": lambda a, b: math.lgamma(a) + math.gamma(b),
    "(acosh(a) + atan2(a, b)) + erfc(b)": lambda a, b: (
        np.arccosh(a) + np.arctan2(a, b) + math.erfc(b)
    ),
}


@pytest.mark.parametrize("text", FLOATING)
def test_cpp_of_floating_numbers(text):
    assert cpp_floating(trace(FLOATING[text], ["a", "b"], "f")) == text


INTEGER = {
    "saturating_add(a, b)": lambda a, b: b + a,
    "saturating_subtract(b, a)": lambda a, b: b - a,
    "saturating_multiply(a, b)": lambda a, b: a * b,
    "maximum(saturating_add(a, b), a)": lambda a, b: max(a + b, a),
    "where((a > b), a, negative_infinity<V>())": lambda a, b: where(a > b, a, -math.inf),
    "narrow<V>(widen(a) + constant<Wide<V>>(300))": lambda a, b: a + 300.0,
    "narrow<V>(-widen(a))": lambda a, b: -a,
    "narrow<V>(power<2>(widen(a)) - widen(b))": lambda a, b: a**2 - b,
    "narrow<V>(maximum(widen(a), constant<Wide<V>>(-3)))": lambda a, b: max(a, -3),
    "narrow<V>(widen(a) + (widen(a) + widen(b)))": lambda a, b: (a + b) + a,
}


@pytest.mark.parametrize("text", INTEGER)
def test_cpp_of_integers(text):
    assert cpp_integer(trace(INTEGER[text], ["a", "b"], "f")) == text


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a / b,
        lambda a, b: a / 2,
        lambda a, b: 0.5 * a,
        lambda a, b: np.sqrt(a),
        lambda a, b: np.exp(b),
        lambda a, b: a**b,
    ],
)
def test_integers_refuse_what_gives_no_integer(function):
    with pytest.raises(TypeError, match=r"no integer|is no"):
        cpp_integer(trace(function, ["a", "b"], "f"))


def test_cpp_of_booleans():
    a, b = symbol("a"), symbol("b")
    assert cpp_bool(trace(min, ["a", "b"], "f")) == "V(a & b)"
    assert cpp_bool(trace(max, ["a", "b"], "f")) == "V(a | b)"
    assert cpp_bool(sympy.Or(a, sympy.Not(b))) == "V(a | (constant<V>(1) ^ b))"
    assert cpp_bool(a > b) == "(a > b)"


def test_cpp_computes_what_the_array_function_computes(tmp_path):
    """Compiled against the kernels' own header, in both arithmetics."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    floating = [trace(CALLABLES[name], ["a", "b"], name) for name in CALLABLES]
    floating += [trace(function, ["a", "b"], text) for text, function in FLOATING.items()]
    integer = [trace(function, ["a", "b"], text) for text, function in INTEGER.items()]
    smooth = [trace(function, ["a", "b"], name) for name, function in SMOOTH.items()]
    tied = [derivative(expression, name, "df") for expression in smooth for name in "ab"]
    a, b, i, j = 1.7, 0.6, 100, 90
    program = tmp_path / "program.cpp"
    program.write_text(
        "#define SEMICONV_STORAGE float64\n"
        '#include "functions.cuh"\n#include <cstdio>\nnamespace semiconv {\n'
        + "".join(
            f"template <class V> V f{n}(V a, V b) {{ return {cpp_floating(f)}; }}\n"
            for n, f in enumerate(floating)
        )
        + "".join(
            f"template <class V> V g{n}(V a, V b) {{ return {cpp_integer(f)}; }}\n"
            for n, f in enumerate(integer)
        )
        + "".join(
            f"template <class V> V h{n}(V a, V b) {{ return {cpp_floating(f)}; }}\n"
            for n, f in enumerate(tied)
        )
        + "}\nint main() {\n"
        + "".join(
            f'printf("%.17g\\n", semiconv::f{n}<double>({a}, {b}));\n' for n in range(len(floating))
        )
        + "".join(
            f'printf("%d\\n", (int)semiconv::g{n}<signed char>({i}, {j}));\n'
            for n in range(len(integer))
        )
        + "".join(
            f'printf("%.17g\\n", semiconv::h{n}<float>({a}f, {a}f));\n' for n in range(len(tied))
        )
        + "}\n"
    )
    headers = Path(kernels_cu.__file__).parent
    command = [
        compiler,
        "-std=c++17",
        f"-I{headers}",
        str(program),
        "-o",
        str(tmp_path / "program"),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    printed = subprocess.run([tmp_path / "program"], check=True, capture_output=True, text=True)
    numbers = [float(line) for line in printed.stdout.split()]
    expected = [ArrayFunction(f, "ab")(a, b) for f in floating]
    exact = [ArrayFunction(f, "ab")(*np.array([[i], [j]], object))[0] for f in integer]
    np.testing.assert_allclose(numbers[: len(floating)], expected, rtol=1e-14)
    saturated, halves = numbers[len(floating) : -len(tied)], numbers[-len(tied) :]
    np.testing.assert_array_equal(saturated, np.clip(exact, -128, 127))
    assert halves == [0.5] * len(tied)


def test_array_functions_keep_shape_and_dtype():
    f = traced(lambda a, b: where(a > 0, 1, 0) + 0.1 * b)
    result = f(np.ones((3, 1), np.float32), np.float32(2))
    assert (result.dtype, result.shape) == (np.float32, (3, 1))
    constant = traced(lambda a, b: 1)(np.ones((3, 1), np.float32), np.ones(2, np.float32))
    assert (constant.dtype, constant.shape) == (np.float32, (3, 2))
    select = ArrayFunction(symbol("b") >= symbol("a"), "ab", never_nan="b")
    np.testing.assert_array_equal(
        select(np.array([1.0, 1, 3]), np.array([1, np.nan, 2])), [1, 0, 0]
    )
    assert select(1.0, 2.0) is True
    assert pickle.loads(pickle.dumps(f))(1.0, 2.0) == f(1.0, 2.0)


def test_arrays_of_python_integers_are_exact():
    f = traced(lambda a, b: 3 * a - 2 * b)
    assert f(np.array([1], object), 2**62)[0] == 3 - 2**63


def test_array_functions_refuse_other_arrays():
    torch = pytest.importorskip("torch")
    f = traced(lambda a, b: a + b)
    with pytest.raises(TypeError, match="arrays of numpy and torch are mixed"):
        f(np.ones(2), torch.ones(2))
    with pytest.raises(TypeError, match="got a torch tensor"):
        f(torch.ones(2), 1.0)
    with pytest.raises(TypeError, match=r"takes 2 arguments \(a, b\), got 1"):
        f(1.0)


def test_where_serves_arrays_tensors_and_numbers():
    torch = pytest.importorskip("torch")
    assert where(1 > 2, "a", "b") == "b"
    assert where(torch.tensor([True, False]), 1.0, 2.0).tolist() == [1, 2]
    assert readable(trace(lambda a, b: where(a > b, a, b), "ab", "f")) == "where((a > b), a, b)"
