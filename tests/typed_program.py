"""A user's program, which `mypy --strict` accepts: the packages' types are complete."""

import numpy as np
import numpy.typing as npt
import torch

import semiconv_cupy as sc
import torch_bridge as semiconv
from semiconv_cupy import ndimage

image: npt.NDArray[np.float32] = np.zeros((4, 3, 32, 32), np.float32)
kernel = sc.structuring.quadratic(5.0)[None, None]
out = sc.semifield_conv(
    image, kernel, "tropical_max", padding="same", groups=3, group_broadcasting=True
)
opened = ndimage.grey_opening(image[0, 0], size=9)
value, pull = sc.semifield_conv_vjp(image, kernel, "log", mu=2.0, groups=3, group_broadcasting=True)
grads = pull(value)
mine = sc.SelectSemifield(
    add_select=lambda a, b: abs(b) > abs(a), times=lambda i, k: i * k, zero=0.0
)
report = mine.check()
d = ndimage.distance_transform_edt(image[0, 0] > 0)
ball = sc.rolling_ball(image[0, 0], 7)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool = semiconv.DilationPool2d(2, channels=3)
        self.dense = semiconv.SemifieldLinear(3, 4, "tropical_max")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.pool(x)
        return semiconv.functional.log_sum_exp_pool2d(y, 2, mu=2.0)


net = Net()
z: torch.Tensor = net(torch.zeros(1, 3, 8, 8))
n: int = sc.prepare(["tropical_max"])
p = sc.parabolic_dilation(image[0, 0], 3.0)
m = sc.semifield_matmul(image[0, 0], image[0, 0], "tropical_max")
e = sc.explain("maximum_filter", image[0, 0], 9)
text: str = str(e)
