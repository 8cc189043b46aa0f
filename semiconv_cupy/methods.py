"""What `method` may say, what each method needs, and the least work for which each pays.

Array-free. Called by ``route`` and ``product_route``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends import by_sums
from semiconv_cupy.backends.place import Place
from semiconv_cupy.product import Product
from semiconv_cupy.structs import MAX_RANK

Backend = Literal["host", "cuda", "reference"]
Schedule = Literal["auto", "direct", "tiled"]
METHODS = ("auto", "direct", "tiled", "linear", "reference")


@dataclass(frozen=True)
class ProductLimits:
    """The least work that is faster as a matrix product than in tiles, on the CPU.

    Tiles fill their vectors along a row. Works whose rows are short leave lanes empty there; long
    rows fill them, and only many terms and outputs pay for the panels into which a product copies.
    Measured on an AMD Zen 3, float32 maximum: as a product, one pixel of 37 channels to 9 took 1/40
    of the time; rows of 40000 took 0.5 to 0.7 of it with 16 channels to 8 and more, and 1.5 to 3.5
    times as long with 1 to 8 channels.

    Attributes
    ----------
    terms : int
        Terms of an output.
    row : int
        From this length on, a row of contiguous image and result is long.
    terms_of_rows, produced_of_rows : int
        Terms and output channels where rows are long.
    """

    terms: int = 2
    row: int = 64
    terms_of_rows: int = 16
    produced_of_rows: int = 8

    def allow(self, product: Product, *, by_sums: bool) -> bool:
        """Whether a work is faster as this product. Sums pay for their exponentials sooner."""
        produced = math.prod(level.size for level in product.produced)
        if product.terms < self.terms or (produced == 1 and len(product.contracted) > 1):
            return False  # no number is read twice, and windows are read by short runs
        rows = (level.size for level in product.free if level.img == level.out == 1)
        if by_sums or max(rows, default=0) < self.row:
            return True
        return product.terms >= self.terms_of_rows and produced >= self.produced_of_rows


PRODUCT_LIMITS = ProductLimits()
# On an H200, whose tiles are filled by rows of 32. float32 maximum of 4096 channels to 4096 of rows
# of 4096: 5.9 ms as a product, 8.3 in tiles; 1024 to 1024 of 1024 pixels: 0.13 ms, and 4.9.
GPU_PRODUCT_LIMITS = ProductLimits(terms=8, row=32)


@dataclass(frozen=True)
class Limits:
    """Where array loops take the place of compiled kernels, and where ordinary sums begin to pay.

    Attributes
    ----------
    rank : int
        Spatial axes: as many as the structs of the kernels hold.
    scratch : int
        Numbers in the scratch of one tile on the CPU, 2^27: 1 GiB in float64.
    by_sums : by_sums.Limits
        The least work for which log and root are computed by ordinary sums.
    plain : bool
        Whether every work is computed in the form in which it is given: tests compare with it.
    products : ProductLimits
        The least work that the CPU computes as a matrix product.
    gpu_products : ProductLimits
        The same of a GPU.
    copied : int
        Elements in memory from which on a GPU copies an image whose rows lie apart: fewer take as
        long as the host needs for another launch, and to record it for a derivative.
    """

    rank: int = MAX_RANK
    scratch: int = 1 << 27
    by_sums: by_sums.Limits = by_sums.LIMITS
    plain: bool = False
    products: ProductLimits = PRODUCT_LIMITS
    gpu_products: ProductLimits = GPU_PRODUCT_LIMITS
    copied: int = 1 << 20


LIMITS = Limits()


def route_in_words(backend: str, *, by_sums: bool) -> str:
    """What logs and explanations call a backend and the way that it takes."""
    return f"{backend}, by sums" if by_sums else backend


def require_by_sums(semifield: Semifield) -> None:
    """ValueError for a semifield that cannot be computed by ordinary sums."""
    if not by_sums.applies(semifield):
        raise ValueError(
            "method='linear' serves the ready-made log(mu), and root(p) of p >= 1 or p <= -1, got "
            f"{semifield!r}; use method='auto'"
        )


def require_one_value(channels: int) -> None:
    """ValueError for a call that ordinary sums do not serve."""
    what = f"{channels} values of a parameter" if channels > 1 else "the gradient of a parameter"
    raise ValueError(f"method='linear' does not serve {what}; use method='auto'")


def require_gpu_for_tiles(method: str, place: Place) -> None:
    if method == "tiled" and not place.on_gpu:
        raise ValueError("method='tiled' is for CuPy arrays; NumPy arrays take 'direct' or 'auto'")
