"""Convolutions and products of Dask arrays equal those of arrays in memory, to the bit."""

import numpy as np
import pytest

da = pytest.importorskip("dask.array", reason="Dask is not installed: pip install '.[dask]'")

from random_chunks import chunks_of  # noqa: E402

import semiconv_cupy as sc  # noqa: E402


def random_convolution(rng):
    ndim = int(rng.integers(1, 3))
    groups, inner, kernels = (int(k) for k in rng.integers(1, 3, 3))
    size = [int(n) for n in rng.integers(1, 12, ndim)]
    taps = [int(k) for k in rng.integers(1, 4, ndim)]
    arguments = {
        "stride": tuple(int(s) for s in rng.integers(1, 4, ndim)),
        "dilation": tuple(int(d) for d in rng.integers(1, 4, ndim)),
        "groups": groups,
        "kind": str(rng.choice(["conv", "corr"])),
        "group_broadcasting": bool(rng.integers(2)),
    }
    extent = [d * (k - 1) + 1 for d, k in zip(arguments["dilation"], taps, strict=True)]
    least = [max(0, e - n) for e, n in zip(extent, size, strict=True)]
    arguments["padding"] = tuple((int(rng.integers(0, 9)), k + int(rng.integers(4))) for k in least)
    img = rng.standard_normal((int(rng.integers(1, 4)), groups * inner, *size), np.float32)
    krn = rng.standard_normal((kernels * groups, inner, *taps), np.float32)
    return img, krn, arguments


@pytest.mark.table(20)
@pytest.mark.parametrize("seed", range(200))
def test_convolutions(seed):
    rng = np.random.default_rng(seed)
    img, krn, arguments = random_convolution(rng)
    later = da.from_array(img, chunks=chunks_of(rng, img.shape))
    winners = bool(rng.integers(2))
    expected = sc.semifield_conv(img, krn, "tropical_max", **arguments, return_indices=winners)
    found = sc.semifield_conv(later, krn, "tropical_max", **arguments, return_indices=winners)
    pairs = zip(found, expected, strict=True) if winners else [(found, expected)]
    for result, right in pairs:
        assert (result.shape, result.dtype) == (right.shape, right.dtype)
        np.testing.assert_array_equal(result.compute(scheduler="sync"), right)


def test_a_convolution_keeps_chunks_and_keeps_its_errors():
    img = da.zeros((2, 4, 20, 30), chunks=(1, 2, 7, 8), dtype="f4")
    krn = np.zeros((4, 1, 5, 4), "f4")
    same = sc.semifield_conv(img, krn, "tropical_max", padding="same", groups=4)
    assert same.chunks == ((1, 1), (4,), (7, 7, 6), (8, 8, 8, 6))
    for wrong in ({"groups": 3}, {"padding": -1}, {"method": "fast"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sc.semifield_conv(img, krn, "tropical_max", **{"groups": 4, **wrong})
    with pytest.raises(TypeError, match="must have one dtype"):
        sc.semifield_conv(img, krn.astype("f8"), "tropical_max", groups=4)


def test_sums_are_within_their_promise():
    rng = np.random.default_rng(0)
    img, krn = rng.standard_normal((1, 1, 40, 50)), rng.standard_normal((1, 1, 5, 5))
    log = sc.SubtractSemifield.log(2.0)
    found = sc.semifield_conv(da.from_array(img, chunks=(1, 1, 9, 50)), krn, log, padding=3)
    np.testing.assert_allclose(found, sc.semifield_conv(img, krn, log, padding=3), rtol=1e-13)


SHAPES = [((7, 5), (5, 9)), ((5,), (5, 9)), ((7, 5), (5,)), ((5,), (5,)), ((3, 1, 4, 5), (2, 5, 6))]


@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
@pytest.mark.parametrize("winners", [False, True])
def test_products(a_shape, b_shape, winners):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype("f4") for shape in (a_shape, b_shape))
    expected = sc.semifield_matmul(a, b, "tropical_max", return_indices=winners)
    for later in (
        (da.from_array(a, chunks=2), da.from_array(b, chunks=3)),
        (da.from_array(a, chunks=chunks_of(rng, a.shape)), b),
        (a, da.from_array(b, chunks=1)),
    ):
        found = sc.semifield_matmul(*later, "tropical_max", return_indices=winners)
        pairs = zip(found, expected, strict=True) if winners else [(found, expected)]
        for result, right in pairs:
            assert isinstance(result, da.Array)
            assert (result.shape, result.dtype) == (right.shape, right.dtype)
            np.testing.assert_array_equal(result.compute(scheduler="sync"), right)
    with pytest.raises(TypeError, match="out cannot be an array"):
        sc.semifield_matmul(*later, "tropical_max", out=np.empty((7, 9), "f4"))
    with pytest.raises(ValueError, match="must"):
        sc.semifield_matmul(later[0], da.zeros((4, 4), dtype="f4"), "tropical_max")


def test_parameters_of_a_semifield_reach_the_chunks():
    rng = np.random.default_rng(0)
    img, krn = rng.standard_normal((1, 1, 20, 30)), rng.standard_normal((1, 1, 3, 5))
    later = da.from_array(img, chunks=(1, 1, 7, 11))
    rows = rng.standard_normal((30, 4))
    for mu in (0.5, -3.0):
        found = sc.semifield_conv(later, krn, "log", padding=1, mu=mu)
        expected = sc.semifield_conv(img, krn, "log", padding=1, mu=mu)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        found = sc.semifield_matmul(later[0, 0], rows, "log", mu=mu)
        expected = sc.semifield_matmul(img[0, 0], rows, "log", mu=mu)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(TypeError, match="p"):
        sc.semifield_conv(later, krn, "log", p=2.0)


def test_a_value_for_each_output_reaches_the_chunks():
    """mu of log and parameters of one's own, one of them called as an operand of a product is."""
    rng = np.random.default_rng(0)
    img, krn, b = (rng.uniform(0.2, 1, shape) for shape in ((2, 2, 20), (4, 2, 3), (20, 4)))
    own = sc.SubtractSemifield(
        lambda left, right, q: (left**q + right**q) ** (1 / q),
        lambda img, krn, a: a * img * krn,
        zero=0.0,
        parameters={"q": 2.0, "a": 1.5},
    )
    mu = np.array([1.0, -2.0, 3.0, 0.5])
    imgs, krns = da.from_array(img, chunks=(1, 1, 7)), da.from_array(krn, chunks=(3, 1, 3))
    columns = da.from_array(b, chunks=(5, (1, 3)))
    for semifield, given in (("log", {"mu": mu}), (own, {"a": mu**2, "q": 3.0}), (own, {"q": 2.5})):
        expected = sc.semifield_conv(img, krn, semifield, **given)
        later = {
            k: v if isinstance(v, float) else da.from_array(v, chunks=3) for k, v in given.items()
        }
        for x, y, values in ((imgs, krn, given), (imgs, krns, later), (img, krn, later)):
            found = sc.semifield_conv(x, y, semifield, **values)
            np.testing.assert_allclose(found, expected, rtol=1e-13)
        expected = sc.semifield_matmul(img, b, semifield, **given)
        for x, y in ((imgs, b), (img, columns), (imgs, columns)):
            found = sc.semifield_matmul(x, y, semifield, **given)
            np.testing.assert_allclose(found, expected, rtol=1e-13)
        np.testing.assert_allclose(
            sc.semifield_matmul(imgs[0, 0], columns, semifield, **given), expected[0, 0], rtol=1e-13
        )
    with pytest.raises(ValueError, match=r"\(4,\), one for each column of b, got shape \(3,\)"):
        sc.semifield_matmul(imgs, columns, "log", mu=mu[:3])


@pytest.mark.parametrize("ones", [(0, 1, 0), (1, 0), (0, 0, 1)])
def test_products_along_axes_of_one_in_chunks_without_elements(ones):
    rng = np.random.default_rng(0)
    for a_shape, b_shape in (
        ((1, 5), (5, 1)),
        ((7, 1), (1, 4)),
        ((1, 3, 5), (2, 5, 4)),
        ((1,), (1, 4)),
    ):
        a, b = (rng.standard_normal(shape).astype("f4") for shape in (a_shape, b_shape))
        expected = sc.semifield_matmul(a, b, "tropical_max")
        later = (
            da.from_array(x, chunks=tuple(ones if n == 1 else (n - 1, 1) for n in x.shape))
            for x in (a, b)
        )
        found = sc.semifield_matmul(*later, "tropical_max")
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found.compute(scheduler="sync"), expected)
