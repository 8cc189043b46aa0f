"""Ready-made layers: flat pooling is max-pooling; openings and closings keep their laws."""

import itertools

import pytest
import torch
from torch import nn

from torch_bridge import (
    Closing,
    Dilation,
    DilationPool1d,
    DilationPool2d,
    DilationPool3d,
    Erosion,
    Opening,
    SelectSemifield,
)
from torch_bridge.functional import semifield_conv

POOLS = {1: (DilationPool1d, nn.MaxPool1d), 2: (DilationPool2d, nn.MaxPool2d)}
POOLS[3] = (DilationPool3d, nn.MaxPool3d)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("channels", [None, 2])
def test_flat_pooling_is_torchs_pooling(ndim, channels):
    ours, theirs = POOLS[ndim]
    for size, stride, padding, dilation, ceil, length in itertools.product(
        (2, 3), (None, 1, 2, 3), (0, 1), (1, 2), (False, True), (6, 7, 8)
    ):
        if length != 7 and ndim > 1:
            continue
        img = torch.randn(2, 2, *(length + n for n in range(ndim)))
        arguments = (size, stride, padding, dilation, False, ceil)
        pool = ours(*arguments, channels=channels, structuring="free").requires_grad_(False)
        expected = theirs(*arguments)(img)
        assert torch.equal(pool(img), expected), arguments
        assert torch.equal(pool(img[0]), expected[0])


def test_pooling_arguments_per_axis():
    img = torch.randn(1, 3, 9, 12)
    arguments = ((3, 2), (2, 1), (1, 0), (1, 3))
    pool = DilationPool2d(*arguments, structuring="free").requires_grad_(False)
    assert torch.equal(pool(img), nn.MaxPool2d(*arguments)(img))


@pytest.mark.parametrize("structuring", ["spectral", "cholesky", "iso", "free"])
def test_pooling_adds_each_channels_structuring_function(structuring):
    pool = DilationPool2d(3, 2, 1, channels=4, structuring=structuring).requires_grad_(False)
    if structuring == "free":
        nn.init.normal_(pool.kernel.kernel)
    img, krn = torch.randn(2, 4, 9, 9), pool.kernel()
    assert krn.shape == (4, 1, 3, 3)
    padded = nn.functional.pad(img, (1, 1, 1, 1), value=-torch.inf)
    windows = padded.unfold(2, 3, 2).unfold(3, 3, 2)
    expected = (windows + krn.flip(2, 3).view(1, 4, 1, 1, 3, 3)).amax((4, 5))
    torch.testing.assert_close(pool(img), expected)
    assert [n for n, _ in DilationPool2d(3, init={"var": 2.0}).named_parameters()] == [
        "kernel.covs.theta",
        "kernel.covs.log_std",
    ]


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("size", [(4,), (3, 4), (2, 3, 2)])
def test_openings_and_closings(size, channels):
    torch.manual_seed(0)
    img = torch.randint(-9, 9, (2, 3, *(7 for _ in size))).double()
    layers = [
        cls(size, channels, structuring="free") for cls in (Dilation, Erosion, Opening, Closing)
    ]
    krn = torch.randint(-5, 5, layers[0].kernel.kernel.shape).double()
    for layer in layers:
        layer.requires_grad_(False).kernel.kernel = nn.Parameter(krn, requires_grad=False)
    dilation, erosion, opening, closing = layers
    opened, closed = opening(img), closing(img)
    assert (opened <= img).all()
    assert (closed >= img).all()
    assert torch.equal(opening(opened), opened)
    assert torch.equal(closing(closed), closed)
    assert torch.equal(erosion(dilation(img)), closed)
    assert torch.equal(dilation(erosion(img)), opened)
    groups = {"groups": 3, "group_broadcasting": channels is None}
    expected = semifield_conv(img, krn, SelectSemifield.tropical_max(), padding="same", **groups)
    assert torch.equal(dilation(img), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DilationPool2d(2, return_indices=True), "return_indices"),
        (lambda: DilationPool2d(2, padding=2), "half the window"),
        (lambda: DilationPool2d((2, 2, 2)), "kernel_size"),
        (lambda: DilationPool1d(2, stride=0), "stride.*0"),
        (lambda: DilationPool2d(2, structuring="disk"), "structuring.*'disk'"),
        (lambda: DilationPool2d(2, structuring="free", init={}), "init"),
        (lambda: Dilation(3), "ndim"),
        (lambda: Dilation(3, channels=2, ndim=1)(torch.zeros(1, 3, 5)), r"2 channels.*\(1, 3, 5\)"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_repr():
    assert "kernel_size=3, stride=2, padding=0" in repr(DilationPool2d(3, 2))
    assert "kernel_size=(3, 4), channels=2, dilation=(2, 2)" in repr(
        Dilation((3, 4), 2, dilation=2)
    )
