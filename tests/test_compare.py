"""The comparison that the other tests rely on rejects every kind of wrong result."""

import cases
import numpy as np
import pytest
from compare import assert_matches, distance
from oracle import Expected

EXACT = Expected(np.array([[1.0, -np.inf, np.nan, 0.0]]))
CLOSE = Expected(np.array([1.0, 2.0, np.inf]), scale=np.array([1.0, 2.0, np.inf]))


def right(dtype="float32"):
    return EXACT.value.astype(dtype)


def test_accepts_what_is_right():
    assert_matches(right(), EXACT, dtype="float32")
    negative_zero = right()
    negative_zero[0, 3] = -0.0
    assert_matches(negative_zero, EXACT, dtype="float32")
    assert_matches(CLOSE.value.astype("f4"), CLOSE, dtype="float32")
    assert_matches(np.array([3, 255], "u1"), np.array([3, 256], object), dtype="uint8")


@pytest.mark.parametrize("place", range(4))
def test_rejects_a_wrong_value(place):
    wrong = right()
    wrong[0, place] = 7.0 if np.isnan(wrong[0, place]) else np.nan
    with pytest.raises(AssertionError, match=rf"1 of 4 values must be equal; at \(0, {place}\)"):
        assert_matches(wrong, EXACT, dtype="float32")


def test_rejects_the_smallest_difference_where_values_must_be_equal():
    wrong = right()
    wrong[0, 0] = np.nextafter(np.float32(1), np.float32(2))
    with pytest.raises(AssertionError, match="must be equal"):
        assert_matches(wrong, EXACT, dtype="float32")


@pytest.mark.parametrize(
    "wrong", [[1 + 5 * 2.0**-23, 2, np.inf], [1, np.nan, np.inf], [1, 2, 3e38], [1, 2, -np.inf]]
)
def test_rejects_what_is_too_far_apart(wrong):
    with pytest.raises(AssertionError, match="more than 4 ulp"):
        assert_matches(np.array(wrong, "f4"), CLOSE, dtype="float32")


def test_counts_units_of_the_arithmetic_not_of_the_storage():
    half = Expected(np.array([1.0 + 2.0**-12]), scale=np.array([1.0]))
    assert distance(np.array([1.0], np.float16), half, "float16") == 0  # correctly rounded
    assert distance(np.array([1.0 + 2.0**-10], np.float16), half, "float16") > 1000


def test_rejects_a_wrong_sign_of_zero_where_asked():
    with pytest.raises(AssertionError, match="must be equal"):
        assert_matches(np.array([-0.0]), np.array([0.0]), dtype="float64", signed_zeros=True)


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4"])
def test_rejects_a_wrong_dtype(dtype):
    with pytest.raises(AssertionError, match="dtype is"):
        assert_matches(right(dtype), EXACT, dtype="float32")


@pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 1, 4)])
def test_rejects_a_wrong_shape(shape):
    with pytest.raises(AssertionError, match="shape is"):
        assert_matches(right().reshape(shape), EXACT, dtype="float32")


def test_rejects_a_wrong_layout():
    square = Expected(np.eye(3))
    with pytest.raises(AssertionError, match="not C-contiguous"):
        assert_matches(np.asfortranarray(np.eye(3)), square, dtype="float64")


class Impostor(np.ndarray):
    pass


@pytest.mark.parametrize("make", [np.ndarray.tolist, lambda array: array.view(Impostor)])
def test_rejects_another_array_library(make):
    with pytest.raises(AssertionError, match=r"expected a numpy\.ndarray"):
        assert_matches(make(right()), EXACT, dtype="float32")
    with pytest.raises(AssertionError, match=r"expected a cupy\.ndarray"):
        assert_matches(right(), EXACT, dtype="float32", library="cupy")


def test_a_backend_that_is_asked_for_by_name_and_unknown_fails():
    image = np.zeros((1, 1, 3), "f4")
    with pytest.raises(ValueError, match="typo"):
        cases.run("typo", image, image, cases.SEMIFIELDS["linear"].semifield)
