"""Means of windows at every rate: the CPU's functions and the CUDA kernels beside long doubles."""

import itertools

import cases
import numpy as np
import pytest

from semiconv_cupy.backends.means import Means, on_gpu, on_host

# Two axes with borders and gaps, a window of more taps than a thread takes, signals half outside.
WORKS = {
    "borders": ((9, 8), (3, 2), (2, 1), (1, 2), (1, 1)),
    "whole": ((7, 6), (7, 6), (1, 1), (1, 1), (0, 0)),
    "apart": ((3,), (2,), (1,), (4,), (2,)),
    "volumes": ((4, 5, 6), (2, 3, 3), (1, 2, 1), (1, 1, 1), (0, 1, 1)),
}
RATES = (0.0, 1e-6, -0.02, 0.1, 1.0, 3.0, -40.0)


def windows_of(work, powers, dtype="float32"):
    """`Means` of one image with a channel for each rate."""
    img, size, stride, dilation, before = WORKS[work]
    axes = zip(img, size, stride, dilation, before, strict=True)
    out = tuple((n + 2 * b - d * (k - 1) - 1) // s + 1 for n, k, s, d, b in axes)
    geometry = img, out, size, stride, dilation, before
    return Means(powers, dtype, 1e-3, 2 * len(RATES), len(RATES), 3, *geometry)


def computed(backend, means, img, rates, grad_out):
    """(result, derivative by the rate, gradient by the image) of compiled functions."""
    together = 3 if means.powers else None  # planes of a thread
    calls = on_host(means) if backend == "host" else on_gpu(means, cases.harness(), together)
    threads_or_stream = 2 if backend == "host" else None
    out, grad_img = np.zeros(means.outputs, img.dtype), np.zeros_like(img)
    residual = np.zeros((means.kept, means.outputs), rates.dtype)
    at = [array.ctypes.data for array in (img, rates, out, residual, grad_out, grad_img)]
    calls.values(*at[:4], threads_or_stream)
    calls.gradients(at[4], at[0], at[1], at[3], at[5], threads_or_stream)
    if calls.rates is not None:
        sums, grad_rate = np.zeros(calls.parts * len(rates)), np.zeros_like(rates)
        arrays = grad_out, residual, sums, grad_rate
        calls.rates(*(array.ctypes.data for array in arrays), threads_or_stream)
        products = (grad_out * residual[2].astype(np.float64)).reshape(2, len(rates), -1)
        expected = products.sum(axis=(0, 2))
        np.testing.assert_allclose(grad_rate, expected, rtol=1e-5)
    return out, residual[2], grad_img


def mean_of(values, rate, powers):
    """The mean of a window, its derivative by the rate, and those by the values."""
    if not len(values):
        return (0.0 if powers else -np.sign(rate or 1) * np.inf), 0.0, values
    logs = np.log(values) if powers else values
    extreme = logs.min() if rate < 0 else logs.max()
    if rate:
        mean = extreme + np.log1p(np.expm1(rate * (logs - extreme)).mean()) / rate
    else:
        mean = logs.mean()
    apart, n = logs - mean, len(values)
    z = rate * apart
    with np.errstate(all="ignore"):
        series = 0.5 + z / 3 + z**2 / 8 + z**3 / 30 + z**4 / 144
        bend = np.where(abs(z) < 1e-3, series, (z * np.exp(z) - np.expm1(z)) / z**2)
    slope, weights = (apart**2 * bend).mean(), np.exp(z) / n
    if not powers:
        return mean, slope, weights
    mean = np.exp(mean)
    return mean, mean * slope, mean * weights / values


def expected(means, img, rates, grad_out):
    """The same as `computed`, window by window in long doubles."""
    given = img.astype(np.longdouble).reshape(means.planes, *means.img)
    grads = grad_out.astype(np.longdouble).reshape(means.planes, *means.out)
    out, slopes, grad_img = [], [], np.zeros_like(given)
    for plane, at in itertools.product(range(means.planes), np.ndindex(*means.out)):
        taps = [
            [i for i in range(o * s - b, o * s - b + d * k, d) if 0 <= i < n]
            for o, s, b, d, k, n in zip(
                at, means.stride, means.before, means.dilation, means.size, means.img, strict=True
            )
        ]
        places = (plane, *np.ix_(*taps))
        values = given[places].ravel()
        used = np.maximum(values, np.longdouble(np.float64(means.eps))) if means.powers else values
        rate = np.longdouble(rates[plane % means.rates])
        mean, slope, by_values = mean_of(used, rate, means.powers)
        out.append(mean)
        slopes.append(slope)
        by_values = np.where(used == values, by_values, 0)
        grad_img[places] += grads[(plane, *at)] * by_values.reshape(given[places].shape)
    return np.array(out), np.array(slopes), grad_img.ravel()


@pytest.mark.parametrize("backend", ["host", "cuda"])
@pytest.mark.parametrize("powers", [True, False])
@pytest.mark.parametrize("work", WORKS)
def test_means_beside_long_doubles(work, powers, backend):
    rng = np.random.default_rng(0)
    means = windows_of(work, powers)
    img = np.exp(rng.standard_normal(means.values)).astype(np.float32)
    img[:5] = 1e-9  # below eps
    rates = np.array(RATES, np.float32)
    grad_out = rng.uniform(0.5, 1.5, means.outputs).astype(np.float32)
    found = computed(backend, means, img, rates, grad_out)
    tolerance = 40 * np.finfo(np.float32).eps
    for one, other in zip(found, expected(means, img, rates, grad_out), strict=True):
        np.testing.assert_allclose(one, other.astype(np.float64), rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("powers", [True, False])
def test_ends_of_the_numbers(powers):
    """NaN, infinities, numbers whose powers and ratios leave the range, and nothing but zeros."""
    rows = [
        [np.nan, 1, 2], [np.inf, 1, 2], [np.inf] * 3, [1e38, 1e-38, 1], [3e38] * 3, [2e-38] * 3,
    ]  # fmt: skip
    img = np.array(rows, np.float32).ravel()
    means = Means(powers, "float32", 1e-38, 6, 1, 3, (3,), (1,), (3,), (1,), (1,), (0,))
    for rate in (3.0, -3.0, 1e-6):
        rates, ones = np.array([rate], np.float32), np.ones(6, np.float32)
        out, slope, grad = computed("host", means, img, rates, ones)
        lower = rate < 0
        assert np.isnan(out[0])
        assert np.isinf(out[1]) != lower
        assert np.isinf(out[2])
        exact = [mean_of(np.array(row, np.longdouble), rate, powers)[0] for row in rows[3:]]
        np.testing.assert_allclose(out[3:], np.array(exact, float), rtol=2e-5 if powers else 1e-6)
        assert np.isnan(grad[:3]).all()
        assert np.isfinite(grad[9:]).all()
        assert (slope[1:3] == 0).all() or lower
    for result in computed("host", means, img, np.array([np.nan], np.float32), ones):
        assert np.isnan(result).all()
