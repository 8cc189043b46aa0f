"""What semifields are found to be: each trait true and false, of semifields as users write them."""

import math

import numpy as np
import pytest

from semiconv_cupy import SelectSemifield, SubtractSemifield, where

INF = math.inf


def selection(times, select=lambda left, right: right > left, **options):
    return SelectSemifield(select, times, zero=-INF, **options)


def total(times, zero=0.0, **options):
    return SubtractSemifield(lambda a, b: a + b, times, zero=zero, **options)


def plus(img, krn):
    return img + krn


def product(img, krn):
    return img * krn


TAKEN = {
    "max": (lambda a, b: b > a, "greater"),
    "max, read from the left": (lambda a, b: a < b, "greater"),
    "max, as a negation": (lambda a, b: ~(b <= a), "greater"),
    "min": (lambda a, b: b < a, "less"),
    "min, read from the left": (lambda a, b: a > b, "less"),
    "the last of equals": (lambda a, b: b >= a, None),
    "magnitudes": (lambda a, b: abs(b) > abs(a), None),
    "scaled": (lambda a, b: 2 * b > a, None),
    "bounded": (lambda a, b: (b > a) & (b < 5), None),
}


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("arithmetic", ["floating", "integer"])
def test_plain_maxima_and_minima(name, arithmetic):
    select, taken = TAKEN[name]
    assert selection(plus, select).traits(arithmetic).takes == taken


def test_bool_arrays_take_what_their_equivalent_takes():
    assert SelectSemifield.tropical_max().traits("bool").takes == "greater"
    assert SelectSemifield.tropical_min_negated().traits("bool").takes == "less"
    assert SubtractSemifield.linear().traits("floating").takes is None


OFFSETS = {
    "img + krn": (plus, "krn"),
    "krn + img": (lambda img, krn: krn + img, "krn"),
    "img - -krn": (lambda img, krn: img - (-krn), "krn"),
    "1.0 (img + krn)": (lambda img, krn: 1.0 * (img + krn), "krn"),
    "img - krn": (lambda img, krn: img - krn, "-krn"),
    "-krn + img": (lambda img, krn: -krn + img, "-krn"),
    "img - 1.0 krn": (lambda img, krn: img - 1.0 * krn, "-krn"),
    "krn - img": (lambda img, krn: krn - img, None),
    "img + 2 krn": (lambda img, krn: img + 2 * krn, None),
    "img + krn + 1": (lambda img, krn: img + krn + 1, None),
    "img + img": (lambda img, krn: img + img, None),
    "rounded before": (lambda img, krn: ((img + krn) - krn) + krn, None),
    "img + |krn|": (lambda img, krn: img + abs(krn), None),
    "img krn": (product, None),
}


@pytest.mark.parametrize("name", OFFSETS)
@pytest.mark.parametrize("make", [selection, total])
def test_plain_additions_of_the_kernel(name, make):
    times, offset = OFFSETS[name]
    assert make(times).traits("floating").offset == offset


def test_integers_that_saturate_add_the_kernel_and_wide_ones_do_not():
    assert selection(plus).traits("integer").offset == "krn"
    assert selection(lambda img, krn: img - krn).traits("integer").offset == "-krn"
    wide = selection(lambda img, krn: img - 1.0 * krn).traits("integer")
    assert wide.wide_times
    assert wide.offset is None
    assert SelectSemifield.tropical_max().traits("bool").offset is None
    either = SelectSemifield.tropical_min().boolean_equivalent  # computed in uint8 by array loops
    assert either.traits("integer").offset is None


PRODUCTS = {
    "img krn": (product, True),
    "krn img": (lambda img, krn: krn * img, True),
    "1.0 (img krn)": (lambda img, krn: 1.0 * (img * krn), True),
    "(1.0 img) krn": (lambda img, krn: (1.0 * img) * krn, True),
    "-img krn": (lambda img, krn: -img * krn, False),
    "2 img krn": (lambda img, krn: 2 * img * krn, False),
    "|img| krn": (lambda img, krn: abs(img) * krn, False),
    "img krn^2": (lambda img, krn: img * krn**2, False),
    "img / krn": (lambda img, krn: img / krn, False),
    "img + krn": (plus, False),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_plain_products(name):
    times, expected = PRODUCTS[name]
    assert total(times).traits("floating").is_sum_of_products == expected
    assert selection(times).traits("floating").drops_zero_weights == (expected or times is plus)
    assert not selection(times).traits("floating").is_sum_of_products


def test_the_ordinary_convolution():
    assert SubtractSemifield.linear().traits("floating").is_ordinary
    assert total(lambda img, krn: krn * img).traits("floating").is_ordinary
    for other in (
        total(product, zero=1.0),
        total(product, post_sum=lambda acc: 2 * acc),
        total(plus),
        SubtractSemifield.root(1),
        SubtractSemifield.log(1),
        SelectSemifield.max_times(),
    ):
        assert not other.traits("floating").is_ordinary


def test_which_selections_drop_kernel_values_at_the_zero():
    assert SelectSemifield.tropical_min_negated().traits("floating").drops_zero_weights
    assert not SelectSemifield.tropical_max().traits("integer").drops_zero_weights
    assert not SelectSemifield.boolean().traits("floating").drops_zero_weights
    assert not SubtractSemifield.linear().traits("floating").drops_zero_weights


WIDE = {
    "img + krn": (plus, False),
    "img krn": (product, False),
    "max(img + krn, 0)": (lambda img, krn: max(img + krn, 0), False),
    "min(img, krn)": (lambda img, krn: min(img, krn), False),
    "img + krn + 1": (lambda img, krn: img + krn + 1, True),
    "img + 3 krn": (lambda img, krn: img + 3 * krn, True),
    "|img|": (lambda img, krn: abs(img) + krn, True),
    "img^2": (lambda img, krn: img**2 - krn, True),
}


@pytest.mark.parametrize("name", WIDE)
def test_integers_beyond_the_range_of_their_dtype(name):
    times, wide = WIDE[name]
    semifield = selection(times)
    assert semifield.traits("integer").wide_times == wide
    assert ("narrow<V>" in semifield.definitions("integer")["SEMICONV_TIMES"]) == wide
    assert not semifield.traits("floating").wide_times


ROUNDED = {
    "img krn + 1": (lambda img, krn: img * krn + 1, True),
    "img + 3 krn": (lambda img, krn: img + 3 * krn, True),
    "img - krn / 3 img": (lambda img, krn: img - krn / (3 * img), True),
    "krn - img^2": (lambda img, krn: krn - img**2, True),
    "max(img krn, 0) - krn": (lambda img, krn: max(img * krn, 0) - krn, True),
    "in a branch": (lambda img, krn: where(img > 0, img * krn - 1, img), True),
    "img + krn": (plus, False),
    "img - 1.0 krn": (lambda img, krn: img - 1.0 * krn, False),
    "img + krn / 3": (lambda img, krn: img + krn / 3, False),
    "-2 img krn": (lambda img, krn: -2 * img * krn, False),
    "1e-5 img krn": (lambda img, krn: 1e-5 * img * krn, False),
    "(img - krn)^2": (lambda img, krn: (img - krn) ** 2, False),
    "(img + 1) krn": (lambda img, krn: (img + 1) * krn, False),
    "max(img krn, -1)": (lambda img, krn: max(img * krn, -1), False),
    "img + exp(krn)": (lambda img, krn: img + np.exp(krn), False),
    "img^20 + krn": (lambda img, krn: img**20 + krn, False),  # calls pow
}


@pytest.mark.parametrize("name", ROUNDED)
def test_products_that_no_compiler_may_fuse_with_a_sum(name):
    times, expected = ROUNDED[name]
    assert selection(times).traits("floating").rounds_products == expected
    assert not total(times).traits("floating").rounds_products


def test_whole_powers():
    assert all(SubtractSemifield.root(p).whole_power for p in (1, 3.0, -2))
    others = (SubtractSemifield.root(2.5), SubtractSemifield.log(2), SubtractSemifield.linear())
    assert not any(semifield.whole_power for semifield in others)


WORDS = {
    "tropical_max": SelectSemifield.tropical_max(),
    "tropical_min_channels_add_spread_gradient": SelectSemifield.tropical_min(True, True),
    "log_mu_minus_0_5": SubtractSemifield.log(-0.5),
    "root_p_1eminus_05": SubtractSemifield.root(1e-5),
    "selection": selection(plus),
    "sum": total(product),
    "custom": SubtractSemifield(math.hypot, product, zero=0),
}


@pytest.mark.parametrize("word", WORDS)
def test_words_for_profilers_are_identifiers(word):
    assert WORDS[word].word == word
    assert word.isidentifier()


def test_traits_need_a_meaning_in_the_arithmetic():
    assert not selection(lambda img, krn: img + 3 * krn).traits("integer").rounds_products
    with pytest.raises(TypeError, match="floating arrays only"):
        SubtractSemifield.linear().traits("integer")
    with pytest.raises(TypeError, match="no or/and equivalent"):
        selection(lambda img, krn: img + 3 * krn).traits("bool")
    with pytest.raises(ValueError, match="arithmetic='half'"):
        SelectSemifield.tropical_max().traits("half")
