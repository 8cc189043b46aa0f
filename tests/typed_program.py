"""A user's program that `mypy --strict` and `pyright` accept: the packages' types are complete."""

import dask.array as da
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import semiconv_cupy as sc
import torch_bridge as semiconv
from semiconv_cupy import ndimage, structuring
from semiconv_cupy.dask import ThreadsPerCall
from torch_bridge import functional

Image = npt.NDArray[np.float32]

# ---- arrays --------------------------------------------------------------------------------------

image: Image = np.zeros((4, 3, 32, 32), np.float32)
kernel: npt.NDArray[np.floating] = structuring.quadratic(5.0)[None, None]
out: Image = sc.semifield_conv(
    image, kernel, "tropical_max", padding="same", groups=3, group_broadcasting=True
)
value, pull = sc.semifield_conv_vjp(image, kernel, "log", mu=2.0, groups=3, group_broadcasting=True)
grad_img, grad_krn, grad_mu = pull(value)
best, winners = sc.semifield_conv(
    image, kernel, "tropical_max", groups=3, group_broadcasting=True, return_indices=True
)
product: Image = sc.semifield_matmul(image[0, 0], image[0, 0], "tropical_max")
paths: Image = sc.semifield_closure(image[0, 0], "tropical_max")

mine = sc.SelectSemifield(
    add_select=lambda a, b: abs(b) > abs(a), times=lambda i, k: i * k, zero=0.0
)
smooth: sc.SubtractSemifield = sc.SubtractSemifield.log(mu=2.0)
report: str = str(mine.check())
text: str = str(sc.explain("maximum_filter", image[0, 0], 9))
count: int = sc.prepare(["tropical_max", mine], dtypes=["float32", np.uint8], jobs=2)

# ---- filters -------------------------------------------------------------------------------------

plane = image[0, 0]
disk: npt.NDArray[np.bool_] = structuring.disk(3)
opened: Image = ndimage.grey_opening(plane, size=9, mode="ignore")
dilated: Image = ndimage.grey_dilation(plane, footprint=disk, origin=(0, 1))
colour: Image = ndimage.maximum_filter(np.zeros((9, 9, 3)), size=3, axes=(0, 1))
mask = ndimage.binary_fill_holes(plane > 0)
distances, indices = ndimage.distance_transform_edt(plane > 0, return_indices=True)
correlated = ndimage.correlate(plane, np.ones((3, 3)), output=np.float64)
background = sc.rolling_ball(plane, 7)
peaks = sc.h_maxima(plane, 0.1)
parabola = sc.parabolic_dilation(plane, (3.0, 5.0), axes=(0, 1))

chunks = da.zeros((64, 64), dtype=np.float32, chunks=(32, 32))
later = ndimage.grey_closing(chunks, size=5).compute()
plugin = ThreadsPerCall(1)

# ---- tensors -------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.widen = semiconv.Dilation(5, channels=channels, ndim=2)
        self.pool = semiconv.DilationPool2d(2, channels=channels)
        self.soft = semiconv.LogSumExpPool2d(2, mu=3.0, channels=channels)
        self.mean = semiconv.GeMPool2d((2, 2), p=3.0)
        self.parabola = semiconv.ParabolicErosion(2.0, channels=channels)
        self.mixing = semiconv.GenericConv(
            semiconv.LearnedKernel2D(channels, 4, 3), smooth.lazy_fixed()
        )
        self.dense = semiconv.SemifieldLinear(3, 4, "tropical_max")

    def forward(self, x: Tensor) -> Tensor:
        x = self.parabola(self.pool(self.widen(x)))
        y: Tensor = self.mean(self.soft(x))
        return functional.log_sum_exp_pool2d(y, 2, mu=torch.tensor(2.0))


net = Net()
result: Tensor = net(torch.zeros(1, 3, 32, 32))
tensor: Tensor = functional.semifield_conv(
    result, torch.zeros(1, 3, 1, 1), "root", p=torch.tensor(3.0), stride=2
)
summed: Tensor = functional.semifield_matmul(torch.zeros(2, 3), torch.zeros(3, 2), smooth)
sharp: Tensor = functional.parabolic_dilation(result, torch.tensor(2.0), axes=(-2, -1))
soft: Tensor = functional.distance_transform_edt(torch.zeros(8, 8), sampling=1.0)
pooled: Tensor = functional.gem_pool1d(torch.ones(1, 2, 8), 2, p=3.0)
