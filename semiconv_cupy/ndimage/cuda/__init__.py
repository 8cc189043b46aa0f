"""The primitives of ``ndimage`` on a GPU: tiles and launches of ``kernels_cu/cuda``."""

from semiconv_cupy.ndimage.cuda.backend import Backend
from semiconv_cupy.ndimage.cuda.limits import LIMITS, Limits
from semiconv_cupy.ndimage.cuda.variants import shipping_variants

__all__ = ["LIMITS", "Backend", "Limits", "shipping_variants"]
