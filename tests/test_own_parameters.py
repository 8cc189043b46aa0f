"""Parameters that a semifield of one's own names: values, gradients, laws, errors."""

import copy
import math
import pickle
import re

import cases
import numpy as np
import pytest

import semiconv_cupy as sc

METHODS = ("auto", "reference")


def norm(a=2.0, gain=1.5):
    """(sum (gain img krn)^a)^(1/a): its values and gradients are known."""
    return sc.SubtractSemifield(
        add=lambda left, right, a: (left**a + right**a) ** (1 / a),
        times=lambda img, krn, *, gain: gain * img * krn,
        zero=0.0,
        parameters={"a": a, "gain": gain},
    )


def expected(img, krn, a, gain):
    """The convolution (kind "corr") of `norm`, its channels, by NumPy; a and gain are (O,)."""
    size = krn.shape[2:]
    windows = np.lib.stride_tricks.sliding_window_view(img, size, (2, 3))
    a, gain = (np.broadcast_to(x, krn.shape[:1]).reshape(-1, 1, 1, 1, 1, 1) for x in (a, gain))
    powers = (np.einsum("bcijxy,ocxy->bocijxy", windows, krn) * gain) ** a
    return powers.sum((2, 5, 6)) ** (1 / a[..., 0, 0, 0])


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.uniform(0.2, 1, (2, 2, 5, 9)), rng.uniform(0.2, 1, (3, 2, 2, 3))


OTHERS = (
    {},
    {"a": 3.0},
    {"a": np.array([1.5, 2.0, 3.0]), "gain": 0.5},
    {"a": np.array(2.5), "gain": np.array([0.5, 1.0, 2.0])},
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("others", OTHERS)
def test_values_follow_the_call(arrays, others, method):
    img, krn = arrays
    found = sc.semifield_conv(img, krn, norm(), kind="corr", method=method, **others)
    values = {"a": 2.0, "gain": 1.5} | others
    np.testing.assert_allclose(found, expected(img, krn, **values), rtol=1e-13)


def test_several_values_compile_one_library(arrays):
    img, krn = arrays
    sc.semifield_conv(img, krn, norm())
    texts = set()
    for a in np.linspace(1.1, 5, 30):
        semifield = norm(a, a + 1)
        texts.add(tuple(semifield.unbound.definitions("floating").items()))
        assert semifield.unbound == norm().unbound
        sc.semifield_conv(img, krn, semifield)
    assert len(texts) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_by_image_and_kernel(arrays, method, per_channel):
    img, krn = (x[..., :1, :3] for x in arrays)
    semifield = norm(3.0, 0.7)
    out, pullback = sc.semifield_conv_vjp(img, krn[..., :1, :2], semifield, method=method)
    grad = np.random.default_rng(1).normal(size=out.shape)
    for number, which in enumerate(pullback(grad)):
        operands = [img, krn[..., :1, :2]]
        for at in np.ndindex(which.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [x.copy() for x in operands]
                moved[number][at] += step
                sides.append((sc.semifield_conv(*moved, semifield, method=method) * grad).sum())
            np.testing.assert_allclose(
                which[at], (sides[0] - sides[1]) / 2e-6, rtol=1e-7, atol=1e-8
            )


@pytest.mark.parametrize("method", METHODS)
def test_products(method):
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0.2, 1, (5, 6)), rng.uniform(0.2, 1, (6, 4))
    found = sc.semifield_matmul(x, y, norm(3.0), gain=np.array([1.0, 2.0, 3.0, 4.0]), method=method)
    right = ((x[:, :, None] * y * np.arange(1, 5)) ** 3).sum(1) ** (1 / 3)
    np.testing.assert_allclose(found, right, rtol=1e-13)
    _, pullback = sc.semifield_matmul_vjp(x, y, norm(3.0), method=method)
    grad_x, _ = pullback(np.ones((5, 4)))
    products = 1.5 * x[:, :, None] * y
    sums = (products**3).sum(1) ** (1 / 3)
    by_x = ((products / sums[:, None]) ** 2 * 1.5 * y).sum(2)
    np.testing.assert_allclose(grad_x, by_x, rtol=1e-12)


@pytest.mark.parametrize("padding", ["same", ((1, 2), (0, 3))])
def test_outside_the_image_nothing_takes_part(padding):
    """krn + a img of the zero is not the zero: taps outside are left out all the same."""
    semifield = sc.SubtractSemifield(
        lambda left, right: left + right,
        lambda img, krn, a: a * img + krn,
        zero=0.0,
        post_sum=lambda acc, a: acc * a,
        parameters={"a": 2.0},
    )
    img, krn = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 2), np.float32)
    found = sc.semifield_conv(img, krn, semifield, padding=padding, a=3.0)
    slow = sc.semifield_conv(img, krn, semifield, padding=padding, a=3.0, method="reference")
    np.testing.assert_array_equal(found, slow)
    assert found.max() == 6 * 4 * 3


def test_one_semifield_with_values():
    semifield = norm()
    assert semifield == norm() != norm(3.0)
    assert hash(semifield) == hash(norm())
    assert semifield.with_parameters(a=3.0) == norm(3.0)
    assert semifield.with_parameters(a=3.0).parameters == {"a": 3.0, "gain": 1.5}
    assert repr(semifield).endswith("zero=0.0, parameters={'a': 2.0, 'gain': 1.5})")
    for same in (pickle.loads(pickle.dumps(semifield)), copy.deepcopy(semifield)):
        assert same == semifield
        assert same.unbound == semifield.unbound
    assert semifield.add(3.0, 4.0) == 5.0
    assert semifield.d_times_d_img(2.0, 4.0) == 6.0


def test_check_tests_the_laws_at_the_values():
    assert norm().check().ok
    assert "derivative of times by gain" in str(norm().check())
    wrong = sc.SubtractSemifield(
        lambda left, right: left + right,
        lambda img, krn, a: img * krn**a,
        d_times_d_kernel=lambda img, krn, a: img,
        zero=0.0,
        parameters={"a": 1.0},
    )
    assert wrong.check(domain=(0.1, 4)).ok
    assert not wrong.with_parameters(a=2.0).check(domain=(0.1, 4)).ok


def affine(a=0.8, c=1.3):
    """tanh(c sum(a img^2 krn + c)): both in the terms and behind the sum."""
    return sc.SubtractSemifield(
        add=lambda left, right: left + right,
        times=lambda img, krn, a, c: a * img**2 * krn + c * a,
        zero=0.0,
        post_sum=lambda acc, c: np.tanh(c * acc / 9),
        parameters={"a": a, "c": c},
    )


def slopes_by_differences(call, grad, values):
    """d (sum of grad * call(values)) / d each number of the values."""
    for name, value in values.items():
        found = np.empty(np.shape(value))
        for at in np.ndindex(found.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = np.array(value, float)
                moved[at] += step
                sides.append((call(**values | {name: moved}) * grad).sum())
            found[at] = (sides[0] - sides[1]) / 2e-6
        yield found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        {"a": 0.8},
        {"c": np.array([0.4, 0.9, 1.2]), "a": np.array(0.7)},
        {"a": np.array([0.5, 1, 2])},
    ],
)
def test_gradients_by_parameters(arrays, values, method):
    img, krn = (x[:, :1, :4, :5] for x in arrays)
    options = {"padding": "same", "method": method}
    out, pullback = sc.semifield_conv_vjp(img, krn, affine(), **options, **values)
    grad = np.random.default_rng(3).normal(size=out.shape)
    _, _, *found = pullback(grad)

    def call(**moved):
        return sc.semifield_conv(img, krn, affine(), **options, **moved)

    for one, right, value in zip(
        found, slopes_by_differences(call, grad, values), values.values(), strict=True
    ):
        assert np.shape(one) == np.shape(value)
        np.testing.assert_allclose(one, right, rtol=1e-6, atol=1e-8)


def test_gradients_by_parameters_of_shared_kernels_and_products(arrays):
    img, krn = (x[..., :4, :5] for x in arrays)
    options, values = {"groups": 2, "group_broadcasting": True}, {"c": np.array([0.4, 0.9, 1.2])}
    out, pullback = sc.semifield_conv_vjp(img, krn[:, :1], affine(), **options, **values)
    grad = np.random.default_rng(4).normal(size=out.shape)

    def call(**moved):
        return sc.semifield_conv(img, krn[:, :1], affine(), **options, **moved)

    right = next(slopes_by_differences(call, grad, values))
    np.testing.assert_allclose(pullback(grad)[2], right, rtol=1e-6)

    x, y = img[0, 0], img[0, 1, :, :3].repeat(2, 0)[:5]
    out, pullback = sc.semifield_matmul_vjp(x, y, affine(), **values)
    grad = np.random.default_rng(5).normal(size=out.shape)
    right = next(
        slopes_by_differences(
            lambda **moved: sc.semifield_matmul(x, y, affine(), **moved), grad, values
        )
    )
    np.testing.assert_allclose(pullback(grad)[2], right, rtol=1e-6)


def folded(power=2.0, unit=0.7, gain=1.0):
    """An addition that takes two parameters, one of which follows the sum, too."""
    return sc.SubtractSemifield(
        add=lambda left, right, power, unit: (
            unit * ((left / unit) ** power + (right / unit) ** power) ** (1 / power)
        ),
        times=lambda img, krn, gain: gain * img * krn,
        subtract=lambda res, val, power: np.maximum(res**power - val**power, 0) ** (1 / power),
        zero=0.0,
        post_sum=lambda acc, power: power * acc**2,
        parameters={"power": power, "unit": unit, "gain": gain},
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        {"power": 2.5},
        {"gain": 0.8, "power": np.array([1.5, 2.0, 3.0])},
        {"unit": 0.5, "power": 3.0},
    ],
)
def test_gradients_by_parameters_of_the_addition(arrays, values, method):
    img, krn = (x[:, :1, :4, :5] for x in arrays)
    img[0] = 0  # the parameters do not change windows of zeros, whatever 0^power ln 0 is
    options = {"padding": "same", "method": method}
    out, pullback = sc.semifield_conv_vjp(img, krn, folded(), **options, **values)
    grad = np.random.default_rng(6).normal(size=out.shape)
    found = pullback(grad)[2:]
    right = slopes_by_differences(
        lambda **moved: sc.semifield_conv(img, krn, folded(), **options, **moved), grad, values
    )
    for one, other, value in zip(found, right, values.values(), strict=True):
        assert np.shape(one) == np.shape(value)
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)
    # A product, whose columns are kernels.
    x, y = img[1, 0], krn[:, 0].reshape(3, -1).T[:5]
    out, pullback = sc.semifield_matmul_vjp(x, y, folded(), method=method, **values)
    grad = np.random.default_rng(7).normal(size=out.shape)
    right = slopes_by_differences(
        lambda **moved: sc.semifield_matmul(x, y, folded(), method=method, **moved), grad, values
    )
    for one, other in zip(pullback(grad)[2:], right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_the_norm_has_the_gradient_of_root(arrays):
    img, krn = arrays
    grad = np.random.default_rng(8).normal(size=(2, 3, 5, 9))
    p = np.array([1.5, 2.0, 3.0])
    known = sc.semifield_conv_vjp(img, krn, "root", p=p, padding="same")[1](grad)
    found = sc.semifield_conv_vjp(img, krn, norm(gain=1.0), a=p, padding="same")[1](grad)
    for one, other in zip(found, known, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)


def test_a_zero_that_another_value_has_not_fails_check():
    shifted = sc.SubtractSemifield(
        lambda left, right, a: left + right + a, lambda img, krn: img * krn, zero=0.0,
        parameters={"a": 0.0},
    )  # fmt: skip
    assert [law.name for law in shifted.check().laws if not law.holds] == [
        "zero is neutral for all a"
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "flags",
    cases.slow_except(
        [{}, {"spread_gradient": True}, {"channels_add": True}], {}, {"spread_gradient": True}
    ),
)
def test_selections(arrays, method, flags):
    rng = np.random.default_rng(9)
    img, krn = (rng.normal(size=x.shape) for x in arrays)
    semifield, options = cases.nearest(**flags), {"padding": ((1, 0), (1, 1)), "method": method}
    assert pickle.loads(pickle.dumps(semifield)) == semifield
    values = {"gain": np.array([0.5, 1.0, 2.0]), "a": 0.1}
    out, pullback = sc.semifield_conv_vjp(img, krn, semifield, **options, **values)
    if not flags:
        _, indices = sc.semifield_conv(
            img, krn, semifield, return_indices=True, **options, **values
        )
        for n, o, y, x in np.ndindex(out.shape):
            terms = {}
            for tap, (c, i, j) in enumerate(np.ndindex(2, 2, 3)):
                at = n, c, y + 1 - i - 1, x + 2 - j - 1  # the kernel is turned
                if 0 <= at[2] < 5 and 0 <= at[3] < 9:
                    terms[tap] = values["gain"][o] * img[at] + krn[o, c, i, j]
            best = min(terms, key=lambda tap: abs(terms[tap] - 0.1))
            assert indices[n, o, y, x] == best
            np.testing.assert_allclose(out[n, o, y, x], terms[best], rtol=1e-14)
    grad = np.random.default_rng(10).normal(size=out.shape)
    found = pullback(grad)
    right = slopes_by_differences(
        lambda **moved: sc.semifield_conv(img, krn, semifield, **options, **moved), grad, values
    )
    for one, other in zip(found[2:], right, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    place = (0, 0, 1, 1)
    for at in range(2):
        sides = []
        for step in (1e-6, -1e-6):
            moved = [img.copy(), krn.copy()]
            moved[at][place] += step
            sides.append((sc.semifield_conv(*moved, semifield, **options, **values) * grad).sum())
        np.testing.assert_allclose(found[at][place], (sides[0] - sides[1]) / 2e-6, atol=1e-6)


def test_products_and_dtypes_of_selections():
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(5, 6)), rng.normal(size=(6, 4))
    terms = 1.2 * x[:, :, None] + y
    for method in METHODS:
        for a in (-1.0, 0.5):
            semifield = cases.nearest(a)
            where = abs(terms - a).argmin(1)
            out, indices = sc.semifield_matmul(
                x, y, semifield, return_indices=True, method=method, gain=1.2
            )
            np.testing.assert_array_equal(indices, where)
            np.testing.assert_allclose(
                out, np.take_along_axis(terms, where[:, None], 1)[:, 0], rtol=1e-13
            )
    for dtype in (np.int32, np.bool_):
        with pytest.raises(TypeError, match="its parameters are real numbers"):
            sc.semifield_conv(np.ones((1, 1, 3), dtype), np.ones((1, 1, 2), dtype), cases.nearest())


@pytest.mark.slow
def test_gradients_of_float32_and_of_terms_that_are_folded(arrays):
    img, krn = (x.astype(np.float32) for x in arrays)
    grad = np.ones((2, 3, 4, 7), np.float32)
    found = sc.semifield_conv_vjp(img, krn, norm(), gain=2.0)[1](grad)[2]
    assert found.dtype == np.float32
    out = sc.semifield_conv(img, krn, norm())  # the norm is linear in the gain
    np.testing.assert_allclose(found, out.sum(dtype=float) / 1.5, rtol=1e-5)


def add(left, right):
    return left + right


@pytest.mark.parametrize(
    ("times", "parameters", "error", "message"),
    [
        (lambda img, krn, b: b * img, {"a": 1.0}, TypeError, "parameters="),
        (lambda img, krn, krn_=1: img, {"krn": 1.0}, ValueError, "'krn'"),
        (lambda img, krn: img, {"stride": 1.0}, ValueError, "'stride'"),
        (lambda img, krn: img, {"a b": 1.0}, ValueError, "'a b'"),
        (lambda img, krn: img * krn, {"a": 1.0}, ValueError, "no function takes"),
        (lambda img, krn, a: a * img, {"a": math.inf}, ValueError, "a=inf"),
        (lambda img, krn, a: a * img, {"a": "1"}, TypeError, "a='1'"),
        (lambda img, krn, a: a * img, [1.0], TypeError, "parameters=[1.0]"),
        (lambda img, krn, **x: img, dict.fromkeys("abcde", 1.0), ValueError, "at most 4"),
    ],
)
def test_what_is_refused(times, parameters, error, message):
    with pytest.raises(error, match=re.escape(message)):
        sc.SubtractSemifield(add, times, zero=0.0, parameters=parameters)


def test_what_calls_refuse(arrays):
    img, krn = arrays
    semifield = norm()
    for others, error, message in (
        ({"b": 1.0}, TypeError, "'b'"),
        ({"a": math.nan}, ValueError, "a=nan"),
        ({"a": np.ones(3, np.float32)}, TypeError, "a must have the dtype"),
        ({"a": np.ones(2)}, ValueError, "a must be a number or an array of shape"),
        ({"a": "2"}, TypeError, "a='2'"),
    ):
        with pytest.raises(error, match=message):
            sc.semifield_conv(img, krn, semifield, **others)
    with pytest.raises(TypeError, match="needs a, gain="):
        sc.semifield_conv(img, krn, semifield.unbound)
    small = img.astype(np.float32), krn.astype(np.float32)
    sc.semifield_conv(*small, semifield, gain=2.0, method="reference")
    with pytest.raises(ValueError, match="gain=1e\\+300"):
        sc.semifield_conv(*small, semifield, gain=1e300, method="reference")
    with pytest.raises(TypeError, match="no parameters of its own"):
        sc.SubtractSemifield.linear().with_parameters(a=1.0)


def test_a_parameter_may_be_called_as_an_operand_of_a_product_is():
    x, y = np.ones((2, 3)), np.ones((3, 4))
    named_a = sc.SubtractSemifield(
        lambda left, right: left + right,
        lambda img, krn, a: a * img * krn,
        zero=0.0,
        parameters={"a": 1.0},
    )
    out, pullback = sc.semifield_matmul_vjp(x, y, named_a, a=2)
    np.testing.assert_array_equal(out, sc.semifield_matmul(x, y, named_a, a=2))
    np.testing.assert_array_equal(out, np.full((2, 4), 6.0))
    assert pullback(np.ones_like(out))[2] == 24
    rows = np.arange(4.0)
    np.testing.assert_array_equal(sc.semifield_matmul(x, y, named_a, a=rows), out / 2 * rows)
    assert pickle.loads(pickle.dumps(named_a.unbound)) == named_a.unbound
