"""The semifields: their values, laws and derivatives, what the kernels get, identity, errors."""

import copy
import math
import pickle

import numpy as np
import pytest
import sympy

from semiconv_cupy import BroadcastSemifield, SelectSemifield, SubtractSemifield, where
from semiconv_cupy.algebra import READY_MADE

INF = math.inf


def p_norm(p):
    return SubtractSemifield(lambda a, b: (a**p + b**p) ** (1 / p), lambda a, b: a * b, zero=0)


def log_add_exp(mu):
    def add(a, b):
        return math.log(math.exp(mu * a) + math.exp(mu * b)) / mu

    return SubtractSemifield(add, lambda img, krn: img + krn, zero=-INF)


SQUARES = SubtractSemifield(
    lambda a, b: a + b, lambda img, krn: (img * krn) ** 2, zero=0, post_sum=math.sqrt
)
READY = [entry.make() for entry in READY_MADE.values() if entry.parameter is None]
SELECTIONS = [
    *(semifield for semifield in READY if semifield.accumulator == "select"),
    SelectSemifield.tropical_max(channels_add=True, spread_gradient=True),
    SelectSemifield(lambda a, b: 2 * b > 2 * a, lambda img, krn: img + krn, zero=-INF),
]
SUMS = [
    SubtractSemifield.linear(),
    *(SubtractSemifield.root(p) for p in (1, 2, 3, 0.5, -2.5, 40)),
    *(SubtractSemifield.log(mu) for mu in (1, 2.5, -3, 300)),
    p_norm(3.5),
    log_add_exp(2),
    SQUARES,
]
BROADCASTS = [
    BroadcastSemifield.tropical_max(),
    BroadcastSemifield.tropical_min_negated(spread_gradient=True),
    BroadcastSemifield.linear(),
    BroadcastSemifield.root(3),
    BroadcastSemifield.root(-0.5),
    BroadcastSemifield.log(-2),
]


# ---- values, computed by hand ------------------------------------------------------------------


def test_the_selections_have_their_values():
    def values(semifield):
        taken = [semifield.add_select(2.0, 3.0), semifield.add_select(3.0, 2.0)]
        return (*taken, semifield.times(5.0, 3.0), semifield.zero)

    assert values(SelectSemifield.tropical_max()) == (True, False, 8, -INF)
    assert values(SelectSemifield.tropical_min_negated()) == (False, True, 2, INF)
    assert values(SelectSemifield.tropical_min()) == (False, True, 8, INF)
    assert values(SelectSemifield.max_times()) == (True, False, 15, 0)
    assert values(SelectSemifield.boolean()) == (True, False, 3, 0)


def test_the_sums_have_their_values_at_any_magnitude():
    assert SubtractSemifield.linear().add(2.0, 3.0) == 5
    for scale in (1e-300, 1.0, 1e300):
        assert SubtractSemifield.root(2).add(3 * scale, 4 * scale) == pytest.approx(5 * scale)
    assert SubtractSemifield.root(-1).add(3.0, 6.0) == pytest.approx(2)
    assert SubtractSemifield.root(-1).add(0.0, 6.0) == 0
    assert SubtractSemifield.root(3).times(2.0, 3.0) == 6
    assert SubtractSemifield.log(2).add(1e5, 1e5) == pytest.approx(1e5 + math.log(2) / 2)
    assert SubtractSemifield.log(2).add(0.0, 1.0) == pytest.approx(math.log(1 + math.e**2) / 2)
    assert SubtractSemifield.log(-2).add(-1e5, 1e5) == -1e5
    assert SubtractSemifield.log(2).times(2.0, 3.0) == 5
    assert [SubtractSemifield.root(p).zero for p in (2, -2)] == [0, INF]
    assert [SubtractSemifield.log(mu).zero for mu in (2, -2)] == [-INF, INF]


def test_sums_of_nothing_but_zeros_have_slope_zero():
    for semifield in (SubtractSemifield.root(3), SubtractSemifield.root(-2)):
        assert semifield.d_add_d_right(semifield.zero, semifield.zero) == 0
    for semifield in (SubtractSemifield.log(3), SubtractSemifield.log(-2)):
        assert semifield.d_add_d_right(semifield.zero, semifield.zero) == 0
        assert semifield.add(semifield.zero, semifield.zero) == semifield.zero
        assert semifield.subtract(semifield.zero, semifield.zero) == semifield.zero
    assert SubtractSemifield.root(1).d_add_d_right(0.0, 0.0) == 1  # a plain sum


# ---- laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("semifield", [*SELECTIONS, *SUMS, *BROADCASTS], ids=repr)
def test_the_laws_hold(semifield):
    semifield.check().raise_if_failed()


def broken(kind, **changes):
    sound = {
        SelectSemifield: {
            "add_select": lambda a, b: b > a,
            "times": lambda img, krn: img + krn,
            "zero": -INF,
        },
        SubtractSemifield: {
            "add": lambda a, b: a + b,
            "times": lambda img, krn: img * krn,
            "zero": 0.0,
        },
    }[kind]
    return kind(**{**sound, **changes})


BROKEN = {
    "addition is associative": (SubtractSemifield, {"add": lambda a, b: a + b + a * a * b}),
    "addition is commutative": (SubtractSemifield, {"add": lambda a, b: a + 2 * b}),
    "zero is neutral on the left": (SelectSemifield, {"zero": 1.0}),
    "zero absorbs": (SubtractSemifield, {"times": lambda img, krn: img + krn}),
    "multiplication distributes": (SubtractSemifield, {"times": lambda img, krn: img**2 * krn}),
    "equals are not exchanged": (SelectSemifield, {"add_select": lambda a, b: b >= a}),
    "derivative of times by img": (SelectSemifield, {"d_times_d_img": lambda img, krn: 2}),
    "derivative of times by krn": (SubtractSemifield, {"d_times_d_kernel": lambda img, krn: krn}),
    "subtract undoes add": (SubtractSemifield, {"subtract": lambda res, val: res + val}),
    "derivative of add": (SubtractSemifield, {"d_add_d_right": lambda acc, val: val}),
    "undo_post_sum undoes post_sum": (
        SubtractSemifield,
        {"post_sum": lambda acc: acc**2, "undo_post_sum": lambda res: res},
    ),
    "derivative of post_sum": (
        SubtractSemifield,
        {"post_sum": lambda acc: acc**2, "d_post_d_acc": lambda acc: acc},
    ),
}


@pytest.mark.parametrize("law", BROKEN)
def test_a_broken_law_is_found_and_shown(law):
    kind, changes = BROKEN[law]
    if "add" in changes:  # so that only the addition is at fault
        changes = {**changes, "subtract": lambda res, val: res - val}
    report = broken(kind, **changes).check(domain=(0.5, 3))
    failed = {found.name: str(found) for found in report.laws if not found.holds}
    assert law in failed
    assert "FAILS: " in failed[law]
    assert " = " in failed[law]
    assert not report.ok
    with pytest.raises(ValueError, match=f"is no semifield(.|\n)*{law}"):
        report.raise_if_failed()


MULTIPLICATION = (
    "multiplication is associative",
    "multiplication is commutative",
    "one is neutral",
    "inverses",
)
TIMES = [
    # times of a maximum, its one, the laws of the multiplication that fail
    (lambda a, b: a + b, 0, ()),
    (lambda a, b: a + b - 2.5, 2.5, ()),
    (lambda a, b: a - b, 0, ()),  # the kernel enters inverted
    (lambda a, b: a + 2 * b, None, MULTIPLICATION[:3]),
    (lambda a, b: a + np.exp(b), None, MULTIPLICATION),
    (lambda a, b: np.minimum(a, b), INF, MULTIPLICATION[3:]),
]


@pytest.mark.parametrize(("times", "one", "failing"), TIMES)
@pytest.mark.parametrize("kind", ["select", "broadcast"])
def test_enough_for_a_convolution_is_told_apart_from_a_semifield(kind, times, one, failing):
    if kind == "select":
        semifield = broken(SelectSemifield, times=times)
    else:
        semifield = BroadcastSemifield(BroadcastSemifield.tropical_max().add_reduce, times, -INF)
    report = semifield.check()
    assert report.ok
    report.raise_if_failed()
    assert tuple(law.name for law in report.laws if not law.holds) == failing
    assert report.is_semifield == (not failing)
    assert report.one == (None if "one is neutral" in failing else one)
    assert "enough for a convolution: yes" in repr(report)
    assert f"a semifield: {'no' if failing else 'yes'}" in repr(report)


def test_the_ready_made_ones_are_semifields():
    for semifield in (*SELECTIONS[:4], *SUMS[:10], *BROADCASTS):
        report = semifield.check(samples=50)
        assert report.is_semifield
        inverted = "min_negated" in repr(semifield)
        assert report.kernel_inverted == inverted
        assert ("kernels enter inverted" in repr(report)) == inverted


def test_absorption_that_fails_mentions_the_domain():
    signed = broken(SelectSemifield, times=lambda img, krn: img * krn)
    with pytest.raises(ValueError, match=r"zero absorbs .* pass domain=\(low, high\)"):
        signed.check().raise_if_failed()
    signed.check(domain=(0.1, 4)).raise_if_failed()


def softplus(a):
    return np.log1p(np.exp(-abs(a)))


def rounded(**changes):
    """log(1) by a formula of its author's."""
    functions = {
        "add": lambda a, b: np.maximum(a, b) + softplus(a - b),
        "times": lambda img, krn: img + krn,
        "subtract": lambda res, val: res + np.log(-np.expm1(val - res)),
        "zero": -INF,
    }
    return SubtractSemifield(**{**functions, **changes})


def failing_derivatives(semifield):
    laws = semifield.check().laws
    return [law.name for law in laws if law.name.startswith("derivative") and not law.holds]


def test_derivatives_are_checked_at_ties():
    assert rounded().check().is_semifield

    def one_sided(acc, val):
        return where(acc == val, 0, 1 / (1 + np.exp(acc - val)))

    assert failing_derivatives(rounded(d_add_d_right=one_sided)) == ["derivative of add"]

    def smooth(img, krn):
        return max(img, krn) + softplus(img - krn)

    given = {"d_times_d_img": lambda img, krn: one_sided(krn, img)}
    assert failing_derivatives(rounded(times=smooth)) == []
    assert failing_derivatives(rounded(times=smooth, **given)) == ["derivative of times by img"]


@pytest.mark.parametrize(("slope", "right"), [(-1, True), (0, True), (0.5, True), (2, False)])
def test_at_a_kink_any_slope_between_its_sides_is_right(slope, right):
    kinked = broken(
        SelectSemifield,
        times=lambda img, krn: abs(img) + krn,
        d_times_d_img=lambda img, krn: where(img == 0, slope, np.sign(img)),
    )
    assert failing_derivatives(kinked) == ([] if right else ["derivative of times by img"])


def test_check_takes_a_domain():
    beyond = SubtractSemifield(lambda a, b: a + b, lambda a, b: abs(a) * b, zero=0.0)
    assert beyond.check().ok
    assert not beyond.check(domain=(-1, 1)).ok
    with pytest.raises(ValueError, match=r"domain=\(2, 1\)"):
        beyond.check(domain=(2, 1))


# ---- what is derived ---------------------------------------------------------------------------


def test_what_is_left_out_is_derived():
    norm = p_norm(3)
    assert norm.subtract(norm.add(2.0, 1.5), 1.5) == pytest.approx(2)
    assert norm.d_add_d_right(2.0, 1.5) == pytest.approx((1.5 / norm.add(2.0, 1.5)) ** 2)
    assert norm.d_times_d_img(2.0, 5.0) == 5
    assert norm.d_times_d_kernel(2.0, 5.0) == 2
    assert SQUARES.subtract(5.0, 3.0) == 2
    assert SQUARES.undo_post_sum(3.0) == 9
    assert SQUARES.d_post_d_acc(4.0) == 0.25
    velocities = SubtractSemifield(
        lambda a, b: (a + b) / (1 + a * b), lambda a, b: a * b, zero=0.0
    )  # acc occurs twice: only an equation solver finds this inverse
    assert velocities.subtract(velocities.add(0.3, 0.5), 0.5) == pytest.approx(0.3)


def test_sums_need_no_inverse_that_nothing_reads():
    bounded = SubtractSemifield(
        lambda a, b: a + b, lambda a, b: a * b, zero=0, post_sum=lambda a: a + math.tanh(a)
    )
    with pytest.raises(
        ValueError, match=r"undo_post_sum is missing.*pass undo_post_sum=lambda res"
    ):
        bounded.undo_post_sum  # noqa: B018
    assert pickle.loads(pickle.dumps(bounded)) == bounded
    assert SubtractSemifield.linear().undo_post_sum is None
    given = broken(SubtractSemifield, post_sum=lambda a: 2 * a, undo_post_sum=lambda r: r / 2)
    assert given.undo_post_sum(6.0) == 3
    laws = [law.name for law in given.check().laws]
    assert "undo_post_sum undoes post_sum" in laws
    assert "undo_post_sum undoes post_sum" not in [law.name for law in SQUARES.check().laws]


def test_a_given_function_is_used_as_it_is():
    semifield = broken(SelectSemifield, d_times_d_img=lambda img, krn: where(img > 0, 1, 0.5))
    assert semifield.d_times_d_img(-1.0, 0.0) == 0.5
    assert semifield.d_times_d_kernel(-1.0, 0.0) == 1


ERRORS = [
    (lambda: broken(SubtractSemifield, add=max), ValueError, r"subtract .* = maximum\(acc, val\)"),
    (lambda: broken(SubtractSemifield, add=max), ValueError, "use SelectSemifield"),
    (
        lambda: rounded(subtract=None),
        ValueError,
        r"pass subtract=.*use SubtractSemifield\.log\(mu=1",
    ),
    (
        lambda: broken(SubtractSemifield, add=lambda a, b: -np.logaddexp(-2 * a, -2 * b) / 2),
        ValueError,
        r"pass subtract=.*or use SubtractSemifield\.log\(mu=-2\.0\)",
    ),
    (
        lambda: broken(SubtractSemifield, add=lambda a, b: a + b + abs(a) * b),
        ValueError,
        r"pass subtract=lambda res, val: \.\.\., the acc with add\(acc, val\) == res$",
    ),
    (lambda: broken(SubtractSemifield, undo_post_sum=abs), TypeError, "need post_sum"),
    *(
        (lambda make=make, value=value: make(value), error, message)
        for name, make in (
            ("mu", SubtractSemifield.log),
            ("p", SubtractSemifield.root),
            ("mu", BroadcastSemifield.log),
            ("p", BroadcastSemifield.root),
            ("zero", lambda value: broken(SelectSemifield, zero=value)),
            ("zero", lambda value: broken(SubtractSemifield, zero=value)),
            ("zero", lambda value: BroadcastSemifield(np.max, np.add, value)),
        )
        for value, error, message in (
            (10**400, ValueError, rf"{name} must lie in .* float64.*got {name}=1\.000e\+400"),
            ("2", TypeError, f"{name} must be a real number, got {name}='2'"),
            (2 + 1j, TypeError, rf"{name} must be a real number, got {name}=\(2\+1j\)"),
            ((0.0, INF), TypeError, rf"{name} must be .* got {name}=\(0.0, inf\)"),
        )
    ),
    (lambda: broken(SelectSemifield, zero=None), TypeError, "zero is missing"),
    (lambda: broken(SelectSemifield, zero=math.nan), ValueError, "zero=nan"),
    (lambda: broken(SelectSemifield, add_select=max), TypeError, "add_select.*must give a cond"),
    (lambda: SubtractSemifield.root(0), ValueError, "p must be finite and not 0, got p=0"),
    (lambda: SubtractSemifield.root(INF), ValueError, "got p=inf"),
    (lambda: SubtractSemifield.log(math.nan), ValueError, "got mu=nan"),
    (lambda: BroadcastSemifield.log(0.0), ValueError, "got mu=0.0"),
    (lambda: BroadcastSemifield(None, max, 0), TypeError, "add_reduce must be callable"),
    (lambda: SubtractSemifield.linear().definitions("integer"), TypeError, "floating arrays only"),
    (
        lambda: broken(SelectSemifield, times=lambda a, b: a / 2 + b).definitions("integer"),
        TypeError,
        r"SelectSemifield\(.*cannot work on integer arrays: the division",
    ),
    (
        lambda: SelectSemifield.tropical_max(channels_add=True).definitions("bool"),
        TypeError,
        "no or/and equivalent",
    ),
    (lambda: SubtractSemifield.linear().definitions("half"), ValueError, "arithmetic='half'"),
]


@pytest.mark.parametrize(("make", "error", "message"), ERRORS)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- what the kernels get ----------------------------------------------------------------------


def test_definitions_of_floating_numbers():
    assert SelectSemifield.tropical_min_negated().definitions("floating") == {
        "SEMICONV_SELECT": "(right < left)",
        "SEMICONV_TIMES": "img - krn",
        "SEMICONV_D_TIMES_D_IMG": "constant<V>(1.0)",
        "SEMICONV_D_TIMES_D_KRN": "constant<V>(-1.0)",
        "SEMICONV_ZERO": "infinity<V>()",
    }
    assert SQUARES.definitions("floating") == {
        "SEMICONV_ADD": "left + right",
        "SEMICONV_TIMES": "power<2>(img * krn)",
        "SEMICONV_D_TIMES_D_IMG": "constant<V>(2.0) * krn * (img * krn)",
        "SEMICONV_D_TIMES_D_KRN": "constant<V>(2.0) * img * (img * krn)",
        "SEMICONV_SUBTRACT": "res - val",
        "SEMICONV_D_ADD_D_RIGHT": "constant<V>(1.0)",
        "SEMICONV_POST_SUM": "sqrt(acc)",
        "SEMICONV_D_POST_D_ACC": "constant<V>(1.0) / (constant<V>(2.0) * sqrt(acc))",
        "SEMICONV_ZERO": "constant<V>(0.0)",
    }
    assert SubtractSemifield.log(3).definitions("floating") == {
        "SEMICONV_TIMES": "img + krn",
        "SEMICONV_D_TIMES_D_IMG": "constant<V>(1.0)",
        "SEMICONV_D_TIMES_D_KRN": "constant<V>(1.0)",
    }
    loose = broken(SelectSemifield, add_select=lambda a, b: ~(b <= a))
    assert loose.definitions("floating")["SEMICONV_SELECT"] == "(right > left)"
    loose = broken(SelectSemifield, add_select=lambda a, b: 2 * b > a)
    text = "(constant<V>(2.0) * right > left) & (right == right)"
    assert loose.definitions("floating")["SEMICONV_SELECT"] == text


def test_definitions_of_integers_and_bool():
    maximum, minimum = SelectSemifield.tropical_max(), SelectSemifield.tropical_min_negated()
    assert maximum.definitions("integer") == {
        "SEMICONV_SELECT": "(right > left)",
        "SEMICONV_TIMES": "saturating_add(img, krn)",
        "SEMICONV_ZERO": "negative_infinity<V>()",
    }
    assert maximum.definitions("bool") == {
        "SEMICONV_SELECT": "(right > left)",
        "SEMICONV_TIMES": "V(img & krn)",
        "SEMICONV_ZERO": "constant<V>(0)",
    }
    assert minimum.definitions("bool") == {
        "SEMICONV_SELECT": "(right < left)",
        "SEMICONV_TIMES": "V(img | (constant<V>(1) ^ krn))",
        "SEMICONV_ZERO": "constant<V>(1)",
    }


def test_boolean_equivalents_agree_with_the_tropical_ones():
    """True is 0 in a kernel and False its zero: the tropical result on 0 and 1 is the bool one."""
    flags = np.array([False, True])
    img, krn = (grid.ravel() for grid in np.meshgrid(flags, flags))
    for semifield in SELECTIONS[:2]:
        weight = np.where(krn, 0.0, -INF)
        product = semifield.times(img.astype(float), weight)
        lowest, highest = (-INF, 1) if semifield.zero < 0 else (0, INF)
        expected = product >= 1 if semifield.zero > 0 else product > 0
        found = semifield.boolean_equivalent.times(img, krn)
        np.testing.assert_array_equal(found, expected)
        assert ((lowest <= product) & (product <= highest)).all()
        assert semifield.boolean_equivalent.times(np.uint8([1]), np.uint8([0])).dtype == np.uint8
    assert SelectSemifield.boolean().boolean_equivalent is SelectSemifield.boolean()
    assert SelectSemifield.tropical_max(channels_add=True).boolean_equivalent is None
    assert SelectSemifield.tropical_max(spread_gradient=True).boolean_equivalent is not None


def test_accumulators_and_parameters():
    kinds = [(s.accumulator, s.parameter) for s in SUMS]
    assert kinds[:4] == [("sum", None), ("root", 1.0), ("root", 2.0), ("root", 3.0)]
    assert ("log", -3.0) in kinds
    assert kinds[-3:] == [("custom", None), ("custom", None), ("sum", None)]
    assert {s.accumulator for s in SELECTIONS} == {"select"}


def test_where_the_zero_absorbs_every_kernel_value():
    assert all(s.absorbing for s in SELECTIONS[:5])
    assert SubtractSemifield.linear().absorbing
    assert SubtractSemifield.log(-2).absorbing
    assert SubtractSemifield.root(2).absorbing
    assert not SubtractSemifield.root(-2).absorbing  # inf * 0
    assert not broken(SelectSemifield, zero=-1e30).absorbing
    assert not broken(SubtractSemifield, times=lambda a, b: (a - b) ** 2).absorbing
    assert not broken(SubtractSemifield, times=lambda a, b: a * (b * b)).absorbing  # 0 * inf is NaN
    assert not broken(SelectSemifield, times=lambda a, b: a**0.5 + b).absorbing  # complex
    assert not p_norm(3).absorbing  # its author's formula


def test_constant_derivatives_are_recognised():
    constant = [s.d_times_constant for s in (*SELECTIONS[:5], SubtractSemifield.log(2))]
    assert constant == [True, True, True, False, False, True]


def test_nan_is_never_selected():
    greedy = broken(SelectSemifield, add_select=lambda a, b: ~(b < a))
    for semifield in (greedy, SelectSemifield.tropical_max()):
        assert semifield.add_select(1.0, math.nan) is False


# ---- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("semifield", [*SELECTIONS, *SUMS, *BROADCASTS], ids=repr)
def test_copies_and_pickles_are_equal(semifield):
    again = pickle.loads(pickle.dumps(semifield))
    assert again == semifield == copy.deepcopy(semifield)
    assert hash(again) == hash(semifield)
    assert repr(again) == repr(semifield)


def test_identity_is_the_formula_and_nothing_else():
    def tropical(weight, **options):
        return SelectSemifield(
            lambda a, b: b > a, lambda img, krn: img + weight * krn, zero=-INF, **options
        )

    assert tropical(1) == SelectSemifield.tropical_max()
    assert tropical(2, cache_name="x") == tropical(2, cache_name="y")
    assert tropical(2, cache_name="x").cache_name == "x"
    everything = [
        *SELECTIONS[:6], *SUMS, tropical(2), tropical(3), tropical(2, spread_gradient=True),
        broken(SelectSemifield, zero=0), broken(SelectSemifield, d_times_d_img=lambda a, b: 2),
    ]  # fmt: skip
    assert len(set(everything)) == len(everything)
    assert SubtractSemifield.linear() != BroadcastSemifield.linear()
    assert SubtractSemifield.log(3) == SubtractSemifield.log(np.float32(3))


def test_semifields_cannot_be_changed():
    with pytest.raises(AttributeError, match="cannot be changed: zero"):
        SelectSemifield.tropical_max().zero = 0.0
    with pytest.raises(AttributeError, match="cannot be changed: zero"):
        del SubtractSemifield.linear().zero
    with pytest.raises(AttributeError):
        BroadcastSemifield.linear().zero = 1.0


def test_repr_reads_as_the_call():
    assert repr(SelectSemifield.tropical_max()) == "SelectSemifield.tropical_max()"
    spread = SelectSemifield.tropical_min(spread_gradient=True)
    assert repr(spread) == "SelectSemifield.tropical_min(spread_gradient=True)"
    assert repr(SubtractSemifield.log(2)) == "SubtractSemifield.log(mu=2.0)"
    assert repr(broken(SelectSemifield, channels_add=True)) == (
        "SelectSemifield(add_select=right > left, times=img + krn, zero=-inf, channels_add=True)"
    )
    assert repr(BroadcastSemifield.root(3)) == "BroadcastSemifield.root(p=3.0)"
    both = BroadcastSemifield.tropical_max(True, True)
    assert repr(both) == "BroadcastSemifield.tropical_max(channels_add=True, spread_gradient=True)"
    assert repr(BroadcastSemifield(np.max, np.add, 0)).startswith("BroadcastSemifield(add_reduce=<")


def test_sympy_expressions_define_the_same_semifield():
    img, krn, left, right = sympy.symbols("img krn left right")
    assert SelectSemifield(right > left, img + krn, zero=-INF) == SelectSemifield.tropical_max()


# ---- whole arrays ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_broadcast_reductions_agree_with_the_scalar_ones(dtype):
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).uniform(0.1, 4, (2, 3, 4, 5)).astype(dtype)
    array[0, :, 1] = 2
    pairs = [
        (BroadcastSemifield.linear(), np.add.reduce),
        (BroadcastSemifield.root(3), lambda x, axis: (x**3).sum(axis) ** (1 / 3)),
        (BroadcastSemifield.root(0.5), lambda x, axis: (x**0.5).sum(axis) ** 2),
        (BroadcastSemifield.root(-2), lambda x, axis: (x**-2).sum(axis) ** -0.5),
        (BroadcastSemifield.log(2), lambda x, axis: np.log(np.exp(2 * x).sum(axis)) / 2),
        (BroadcastSemifield.log(-2), lambda x, axis: np.log(np.exp(-2 * x).sum(axis)) / -2),
        (BroadcastSemifield.tropical_max(), np.max),
        (BroadcastSemifield.tropical_min_negated(), np.min),
    ]
    for semifield, reference in pairs:
        for dims in [(1, 3), (-1, -3), (2,), 0]:
            expected = reference(array.astype(float), axis=dims)
            for found in (
                semifield.add_reduce(array, dims),
                semifield.add_reduce(torch.from_numpy(array), dims).numpy(),
            ):
                assert found.dtype == np.dtype(dtype)
                np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    summed = BroadcastSemifield.tropical_max(channels_add=True).add_reduce_channels(array, 1)
    np.testing.assert_allclose(summed, array.sum(1))


GRADIENTS = [
    # semifield, window, expected result, expected gradient
    (BroadcastSemifield.tropical_max(), [-INF, -INF], -INF, [0, 0]),
    (BroadcastSemifield.tropical_min_negated(), [INF, INF], INF, [0, 0]),
    (BroadcastSemifield.tropical_max(spread_gradient=True), [1, 3, 3], 3, [0, 0.5, 0.5]),
    (BroadcastSemifield.tropical_min_negated(spread_gradient=True), [1, 1, 3], 1, [0.5, 0.5, 0]),
    (BroadcastSemifield.log(2), [-INF, -INF], -INF, [0, 0]),
    (BroadcastSemifield.log(-2), [INF, INF], INF, [0, 0]),
    (BroadcastSemifield.log(2), [-INF, 1e4, 1e4], 1e4 + math.log(2) / 2, [0, 0.5, 0.5]),
    (BroadcastSemifield.root(3), [0, 0], 0, [0, 0]),
    (BroadcastSemifield.root(-3), [INF, INF], INF, [0, 0]),
    (BroadcastSemifield.root(1), [0, 0], 0, [1, 1]),
    (BroadcastSemifield.root(2), [0, 3e14, 4e14], 5e14, [0, 0.6, 0.8]),
    (BroadcastSemifield.root(2), [0, 3e-12, 4e-12], 5e-12, [0, 0.6, 0.8]),
    (BroadcastSemifield.root(0.5), [0, 1, 1], 4, [0, 2, 2]),
    (BroadcastSemifield.log(2), [INF, 1, -INF], INF, [1, 0, 0]),
    (BroadcastSemifield.log(-2), [-INF, 1, -INF], -INF, [0.5, 0, 0.5]),
    (BroadcastSemifield.log(2), [math.nan, INF], math.nan, [math.nan, math.nan]),
    (BroadcastSemifield.root(2), [INF, 1], INF, [1, 0]),
    (BroadcastSemifield.root(-2), [0, 1, INF], 0, [1, 0, 0]),
    (BroadcastSemifield.root(-2), [INF, 1], 1, [0, 1]),
    (BroadcastSemifield.root(2), [math.nan, 1], math.nan, [math.nan, math.nan]),
    (BroadcastSemifield.tropical_max(spread_gradient=True), [INF, 1, INF], INF, [0.5, 0, 0.5]),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("semifield", "window", "result", "gradient"), GRADIENTS)
def test_broadcast_gradients_at_the_edges(semifield, window, result, gradient, dtype):
    torch = pytest.importorskip("torch")
    array = torch.tensor([window], dtype=getattr(torch, dtype), requires_grad=True)
    found = semifield.add_reduce(array[:, None], (1, 2))
    found.sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), [result], rtol=1e-6)
    np.testing.assert_allclose(array.grad.numpy(), [gradient], rtol=1e-6, atol=1e-7)


def test_one_of_equal_extrema_gets_the_gradient():
    torch = pytest.importorskip("torch")
    array = torch.ones(2, 3, 4, requires_grad=True)
    BroadcastSemifield.tropical_max().add_reduce(array, (0, 2)).sum().backward()
    gradient = array.grad.movedim(1, 0).flatten(1)
    assert gradient.sum(1).tolist() == [1, 1, 1]
    assert gradient.amax(1).tolist() == [1, 1, 1]


def test_broadcast_reductions_compile_and_pass_gradcheck():
    torch = pytest.importorskip("torch")
    array = torch.rand(2, 3, 2, dtype=torch.float64, requires_grad=True)
    for semifield in BROADCASTS:

        def reduce(x, semifield=semifield):
            return semifield.add_reduce(semifield.multiply(x, 1.5), (0, 2))

        assert torch.autograd.gradcheck(reduce, array)
        compiled = torch.compile(reduce, fullgraph=True, backend="eager")
        assert torch.equal(compiled(array), reduce(array))


def test_modules_hold_the_semifield():
    pytest.importorskip("torch")
    import torch_bridge  # noqa: F401  (provides the modules)

    for semifield in (SelectSemifield.tropical_max(), SubtractSemifield.log(2)):
        assert semifield.dynamic(None, False, False, 16).semifield is semifield
        assert semifield.lazy_fixed(thread_block_size=128).semifield is semifield
    assert BroadcastSemifield.linear().dynamic(unfold_copy=True).semifield.zero == 0
