"""rolling_ball and reconstruction against scikit-image."""

import numpy as np
import pytest

import semiconv_cupy as sc

skimage = pytest.importorskip("skimage")
from skimage.morphology import reconstruction  # noqa: E402
from skimage.restoration import ellipsoid_kernel, rolling_ball  # noqa: E402


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(60,), (30, 41), (9, 8, 10)])
def test_rolling_ball_is_scikit_images(dtype, shape):
    image = (np.random.default_rng(0).random(shape) * 200).astype(dtype)
    for radius in (1, 3.5, 6):
        ours, theirs = sc.rolling_ball(image, radius), rolling_ball(image, radius=radius)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_rolling_ball_with_a_kernel_of_ones_own():
    image = (np.random.default_rng(1).random((40, 31)) * 200).astype(np.uint8)
    kernel = ellipsoid_kernel((9, 6), 40)
    np.testing.assert_array_equal(
        sc.rolling_ball(image, kernel=kernel), rolling_ball(image, kernel=kernel)
    )


@pytest.mark.parametrize("nansafe", [False, True])
def test_rolling_ball_and_nan(nansafe):
    image = np.random.default_rng(2).random((30, 30))
    image[7, 9] = image[20, 3] = np.nan
    np.testing.assert_array_equal(
        sc.rolling_ball(image, radius=4, nansafe=nansafe),
        rolling_ball(image, radius=4, nansafe=nansafe),
    )


@pytest.mark.table(3)
@pytest.mark.parametrize("method", ["dilation", "erosion"])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
def test_reconstruction_is_scikit_images(method, dtype):
    random = np.random.default_rng(3)
    for shape in ((70,), (33, 40), (9, 11, 12)):
        mask = (random.random(shape) * 100).astype(dtype)
        far = (random.random(shape) * 100).astype(dtype)
        seed = np.minimum(mask, far) if method == "dilation" else np.maximum(mask, far)
        footprint = random.random((3, 5, 3)[: len(shape)]) < 0.5
        for arguments in ({}, {"footprint": footprint}):
            theirs = reconstruction(seed, mask, method, **arguments)
            ours = sc.reconstruction(seed, mask, method, **arguments)
            assert ours.dtype == mask.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_reconstruction_names_what_does_not_fit():
    image = np.arange(5)
    with pytest.raises(ValueError, match="at most the mask"):
        sc.reconstruction(image + 1, image)
    with pytest.raises(ValueError, match="'opening'"):
        sc.reconstruction(image, image, method="opening")
    with pytest.raises(ValueError, match="odd"):
        sc.reconstruction(image, image, footprint=[1, 1])
