"""Which way a matrix product goes: the backend, the method, what is kept for the derivative.

`choose_product` decides once for each kind of call; everybody else reads the `ProductRoute`.
Array-free. Called by ``matmul``, by the PyTorch bridge, and by ``route`` for convolutions that are
products.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends import by_sums
from semiconv_cupy.backends.host import prebuilt
from semiconv_cupy.backends.place import Place
from semiconv_cupy.errors import BackendUnavailableError, warn_once
from semiconv_cupy.methods import (
    LIMITS,
    Backend,
    Limits,
    require_by_sums,
    require_gpu_for_tiles,
    require_one_value,
    route_in_words,
)
from semiconv_cupy.product import Product
from semiconv_cupy.residual import Residual, residual_of_terms
from semiconv_cupy.structs import MAX_LEVELS

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProductRoute:
    """How a matrix product and its derivative are computed.

    Attributes
    ----------
    semifield, product, storage, place
        What is computed; see `Route` and ``product.Product``. A semifield that sums channels by
        ordinary addition adds the terms by its own.
    backend, by_sums, reason
        As in `Route`.
    values_by_sums : bool
        Whether values are computed by ordinary sums where nothing is kept for the derivative. On a
        GPU, a residual and gradients are computed by the semifield's own addition.
    channels : int
        How many values each parameter of the semifield has: 1, or one for each produced index.
    matrix_step : int
        From the values of a matrix to those of the next one: 0 where all have the same.
    slopes : bool
        As in `Route`.
    """

    semifield: Semifield
    product: Product
    storage: str
    place: Place
    backend: Backend
    by_sums: bool = False
    reason: str | None = None
    values_by_sums: bool = False
    channels: int = 1
    matrix_step: int = 0
    slopes: bool = False

    def residual_spec(self, out_shape: tuple[int, ...]) -> Residual | None:
        """The array that a forward pass keeps for the derivative; None where it keeps nothing.

        It lies in memory as the result does, or so does each of its arrays.
        """
        if self.by_sums:
            return None
        terms = self.product.terms
        return residual_of_terms(self.semifield, self.storage, out_shape, terms, slopes=self.slopes)


def choose_product(
    semifield: Semifield,
    product: Product,
    storage: str,
    place: Place,
    method: str = "auto",
    limits: Limits = LIMITS,
    channels: int = 1,
    slopes: bool = False,
) -> ProductRoute:
    """Decide how a matrix product of a compiled semifield is computed; as `choose`."""
    route = _cached_product(semifield, product, storage, place, method, limits, channels, slopes)
    if route.reason is not None:
        warn_once("array loops", f"matrix products run as slow array loops: {route.reason}")
    return route


def _choose_product(
    semifield: Semifield,
    product: Product,
    storage: str,
    place: Place,
    method: str,
    limits: Limits,
    channels: int,
    slopes: bool,
) -> ProductRoute:
    alone = channels == 1 and not slopes
    if method == "linear" and not alone:
        require_one_value(channels)
    by_sums_serve = alone and product_goes_by_sums(
        semifield, product.terms, method, on_gpu=place.on_gpu, limits=limits.by_sums
    )
    loops = ProductRoute(
        semifield, product, storage, place, "reference", by_sums=by_sums_serve, channels=channels,
        slopes=slopes,
    )  # fmt: skip
    if method == "reference":
        return loops
    reason = None
    if product.depth > MAX_LEVELS:
        reason = f"kernels serve up to {MAX_LEVELS} levels of an index, got {product.depth}"
    elif not place.on_gpu:
        reason = prebuilt.obstacle(semifield, storage)
    if reason is not None:
        if method != "auto":
            raise BackendUnavailableError(f"method={method!r} cannot run here: {reason}")
        return replace(loops, reason=reason)
    require_gpu_for_tiles(method, place)
    if not place.on_gpu:
        pays = method == "linear" or by_sums.pays_for_values_on_cpu(
            semifield, product, limits.by_sums
        )
        return replace(loops, backend="host", values_by_sums=by_sums_serve and pays)
    pays = (
        alone and method == "auto" and by_sums.pays_for_values(semifield, product, limits.by_sums)
    )
    return replace(loops, backend="cuda", values_by_sums=pays or method == "linear")


def product_goes_by_sums(
    semifield: Semifield,
    terms: int,
    method: str = "auto",
    *,
    on_gpu: bool,
    limits: by_sums.Limits = by_sums.LIMITS,
) -> bool:
    """`goes_by_sums` for a matrix product; on a GPU no more than values go by them."""
    if method == "linear":
        require_by_sums(semifield)
    if on_gpu:
        return False
    if method == "auto":
        return by_sums.pays_for_product(semifield, terms, limits)
    return method == "linear"


@lru_cache(maxsize=4096)
def _cached_product(*arguments: Any) -> ProductRoute:
    route = _choose_product(*arguments)
    way = route_in_words(route.backend, by_sums=route.values_by_sums)
    because = f", as {route.reason}" if route.reason else ""
    _log.debug(
        "%r of %s, product of %s: %s%s", route.semifield, route.storage, route.product, way, because
    )
    return route
