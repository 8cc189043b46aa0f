"""`return_indices=True`: values as without it, and the first winning tap by the oracle."""

import cases
import numpy as np
import oracle
import pytest
from cases import GEOMETRIES, SEMIFIELDS
from compare import assert_matches
from hypothesis import given

import semiconv_cupy as sc

SELECTIONS = [name for name, case in SEMIFIELDS.items() if case.selects]
BITWISE = {
    "tropical_max": oracle.OR_AND,
    "max_times": oracle.OR_AND,
    "boolean": oracle.OR_AND,
    "tropical_min": oracle.AND_OR,
    "tropical_min_negated": oracle.ERODING,
}
PLACES = {"host": "auto", "reference": "reference"}


def check(name, geometry, dtype, method):
    case = SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, dtype)
    algebra = BITWISE[name] if dtype == "bool" else case.algebra
    expected = oracle.convolve(img, krn, algebra, **geometry.arguments)
    out, indices = sc.semifield_conv(
        img, krn, case.semifield, method=method, return_indices=True, **geometry.arguments
    )
    assert_matches(out, expected, dtype=dtype)
    assert_matches(indices, expected.winner, dtype=np.int64)


@pytest.mark.table(20)
@pytest.mark.parametrize("method", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("geometry", ["same", "everything", "empty image", "group broadcasting"])
def test_against_the_oracle(name, geometry, method):
    check(name, GEOMETRIES[geometry], "float32", method)


@pytest.mark.table(4)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int32", "int64", "float16", "bool"])
@pytest.mark.parametrize("name", ["tropical_max", "tropical_min", "tropical_min_negated"])
def test_dtypes(name, dtype):
    check(name, GEOMETRIES["groups"], dtype, "auto")


@pytest.mark.table(2)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint64"])
def test_a_comparison_that_needs_wider_integers(dtype):
    """The magnitude of the least integer is beyond the range of its dtype."""
    check("largest_magnitude", GEOMETRIES["groups"], dtype, "auto")


@given(geometry=cases.geometries())
def test_drawn_geometries(geometry):
    check("tropical_max", geometry, "float32", "auto")


@pytest.mark.parametrize("kind", ["conv", "corr"])
def test_indices_find_the_terms_in_the_kernel_as_stored(kind):
    """The image is the same everywhere, so that the kernel's element is the term."""
    img = np.zeros((1, 2, 9, 9), np.float32)
    krn = np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)
    out, indices = sc.semifield_conv(img, krn, "tropical_max", kind=kind, return_indices=True)
    for o in range(3):
        assert np.array_equal(krn[o].ravel()[indices[0, o]], out[0, o])


def test_nothing_wins_among_zeros_and_nan():
    img = np.array([[[-np.inf, -np.inf, np.nan, np.nan, 0.0]]])
    krn = np.zeros((1, 1, 2))
    out, indices = sc.semifield_conv(img, krn, "tropical_max", kind="corr", return_indices=True)
    assert out.ravel().tolist() == [-np.inf, -np.inf, -np.inf, 0.0]
    assert indices.ravel().tolist() == [-1, -1, -1, 1]


def test_the_first_of_equal_terms_also_where_they_share_the_gradient():
    img, krn = np.ones((1, 1, 4)), np.zeros((1, 1, 3))
    for spread in (False, True):
        semifield = sc.SelectSemifield.tropical_max(spread_gradient=spread)
        out, indices = sc.semifield_conv(img, krn, semifield, return_indices=True)
        assert out.tolist() == [[[1, 1]]]
        assert indices.tolist() == [[[0, 0]]]


@pytest.mark.parametrize(
    "semifield",
    [
        "linear",
        sc.SubtractSemifield.log(1.0),
        sc.SelectSemifield.tropical_max(channels_add=True),
        sc.BroadcastSemifield.tropical_max(),
    ],
    ids=repr,
)
def test_other_additions_are_refused(semifield):
    img, krn = np.ones((1, 1, 4)), np.zeros((1, 1, 3))
    with pytest.raises(ValueError, match="return_indices=True needs"):
        sc.semifield_conv(img, krn, semifield, return_indices=True)


def test_wrong_arguments():
    img, krn = np.ones((1, 1, 4)), np.zeros((1, 1, 3))
    with pytest.raises(TypeError, match="return_indices must be a bool, got 'yes'"):
        sc.semifield_conv(img, krn, "tropical_max", return_indices="yes")
    with pytest.raises(TypeError, match="semifield must be"):
        sc.semifield_conv(img, krn, 3, return_indices=True)
    with pytest.raises(TypeError, match="must have one dtype"):
        sc.semifield_conv(img, krn.astype("f4"), "tropical_max", return_indices=True)
