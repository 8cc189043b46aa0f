"""The GPU backend: picks, compiles and launches the kernels of ``kernels_cu/cuda``.

    limits                                     numbers by which work is cut
    tiles <- forward_tile, gradient_tile, weight_tile; bins        plans from shapes alone
    kernels                                    texts of kernels, compiled once
    convolution                                what a launch knows before there are arrays
    in_order                                   copies of images in another order
    forward; gradient_launch, adjoint, backward; by_sums           launches
    product_tile; product, product_backward, product_by_sums       the same of matrix products

Each name is used by the lines below its own. All launch code takes a `Device`
(``backends.device``) as argument; arrays are its arrays.
"""

from semiconv_cupy.backends.cuda.backward import (
    Launch,
    backward,
    fills_with_zeros,
    gradient_launches,
    with_contiguous_grad_out,
)
from semiconv_cupy.backends.cuda.convolution import Case, Convolution
from semiconv_cupy.backends.cuda.forward import forward, forward_at, forward_launch
from semiconv_cupy.backends.cuda.forward_tile import forward_tile_of
from semiconv_cupy.backends.cuda.gradient_launch import GradientLaunch
from semiconv_cupy.backends.cuda.in_order import CopyInOrder, copy_in_order
from semiconv_cupy.backends.cuda.limits import BLOCK_THREADS, CHUNK, LIMITS, Limits
from semiconv_cupy.backends.cuda.product import Multiplication, multiply, multiply_at
from semiconv_cupy.backends.cuda.product_backward import differentiate
from semiconv_cupy.backends.cuda.product_by_sums import multiply_by_sums, multiply_by_sums_at

__all__ = [
    "BLOCK_THREADS",
    "CHUNK",
    "LIMITS",
    "Case",
    "Convolution",
    "CopyInOrder",
    "GradientLaunch",
    "Launch",
    "Limits",
    "Multiplication",
    "backward",
    "copy_in_order",
    "differentiate",
    "fills_with_zeros",
    "forward",
    "forward_at",
    "forward_launch",
    "forward_tile_of",
    "gradient_launches",
    "multiply",
    "multiply_at",
    "multiply_by_sums",
    "multiply_by_sums_at",
    "with_contiguous_grad_out",
]
