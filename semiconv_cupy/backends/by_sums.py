"""When log and root are computed by ordinary sums.

x -> x^p and x -> e^(mu x) turn their additions into ordinary sums and their multiplications into
products, so that a term costs one multiply-add and no exponential. Each sum shows whether terms
that underflowed could matter; outputs of which it proves nothing are computed directly, so that the
method is right for any numbers (``kernels_cu/by_sums.cuh``). No residual is kept but slopes by mu
or p: the derivative computes the sums again from image and kernel, because their scale is that of a
tile (on a GPU, of an image), and terms relative to one scale sum to 1 with no other. Array-free;
called by ``route``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from semiconv_cupy.algebra import Semifield
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.product import Product


@dataclass(frozen=True)
class Limits:
    """The least work for which transforming the image pays.

    Measured, forward and backward together. Whole powers are a few products, which exponentials and
    other powers are not: there the direct kernels are faster for longer. On a GPU the method makes
    a dozen launches and several passes over the image, which on an H100 take as long as 10^8 terms
    of the direct kernels; whole powers pay later, unless many outputs see the same image.

    Attributes
    ----------
    taps, taps_of_whole_powers : int
        Taps of a window, on the CPU.
    taps_on_gpu, taps_of_whole_powers_on_gpu : int
        The same on a GPU, the second where a group has fewer than 4 outputs.
    terms_on_gpu : int
        Outputs times taps, on a GPU.
    terms_of_product_on_gpu : int
        All terms of a matrix product, on a GPU: eight launches take the host some 135 us. On an
        H200, in float32 log, 512^3 terms took 137 us, directly 146; 1024^3 terms 174 us, and 972;
        roots of p = 3 took as long.
    reads_on_gpu : int
        Terms of a matrix product that read each number of an operand, on a GPU: it pays for its
        transformation then. Of 16 x 4096 x 4096 terms 0.32 ms, directly 0.26; of 32 x 4096 x 4096
        0.32 ms, and 0.47.
    reads, reads_of_whole_powers, reads_per_terms : int
        The same on the CPU: at least `reads`, or `reads_of_whole_powers`, and `reads_per_terms`
        divided by the terms of an output more, since each row or column has a scale of its own. In
        float32 log on one core, M x 1024 x 390 terms took 0.9 and 0.7 ms for M = 1 and 4, directly
        0.5 and 1.1; M x 3 x 133333 took 40, 38 and 63 ms for M = 1, 8 and 32, directly 2, 18, 77.
    """

    taps: int = 3
    taps_of_whole_powers: int = 24
    taps_on_gpu: int = 24
    taps_of_whole_powers_on_gpu: int = 36
    terms_on_gpu: int = 10**8
    terms_of_product_on_gpu: int = 2 * 10**8
    reads_on_gpu: int = 32
    reads: int = 3
    reads_of_whole_powers: int = 8
    reads_per_terms: int = 48


LIMITS = Limits()
# Where a caller asked for ordinary sums.
ANY_PRODUCT = Limits(taps_on_gpu=0, terms_of_product_on_gpu=0, reads_on_gpu=0)


def applies(semifield: Semifield) -> bool:
    """Whether a semifield can be computed by ordinary sums: a ready-made log, or most roots.

    A root of -1 < p < 1 cannot: terms beyond the range of numbers from the extreme one still count
    there, and for p > 0 it has no finite slope at 0. Of a root whose p is not known the kernels do
    so, output by output, if need be.
    """
    kind = semifield.accumulator
    return kind == "log" or (kind == "root" and not semifield.nature.startswith("flat"))


def pays(
    semifield: Semifield, geometry: Geometry, *, on_gpu: bool, limits: Limits = LIMITS
) -> bool:
    """Whether ordinary sums apply and were measured to be faster than the direct kernels."""
    if not applies(semifield) or geometry.taps < _least_taps(semifield, geometry, on_gpu, limits):
        return False
    return not on_gpu or math.prod(geometry.out_shape) * geometry.taps >= limits.terms_on_gpu


def pays_for_product(semifield: Semifield, terms: int, limits: Limits = LIMITS) -> bool:
    """`pays` for a matrix product of so many terms, on the CPU."""
    least = limits.taps_of_whole_powers if semifield.whole_power else limits.taps
    return applies(semifield) and terms >= least


def pays_for_values_on_cpu(semifield: Semifield, product: Product, limits: Limits = LIMITS) -> bool:
    """Whether a product that goes by sums on the CPU computes its values by them, too.

    Gradients always do, so that the forward pass keeps nothing: see `pays_for_product`.
    """
    reads = limits.reads_of_whole_powers if semifield.whole_power else limits.reads
    numbers = max(_numbers(product, "img"), _numbers(product, "krn"))
    return (
        product.outputs * product.terms**2
        >= (reads * product.terms + limits.reads_per_terms) * numbers
    )


def pays_for_values(semifield: Semifield, product: Product, limits: Limits = LIMITS) -> bool:
    """`pays` for the values of a matrix product on a GPU, where nothing else is kept."""
    every = product.outputs * product.terms
    if not applies(semifield) or product.terms < limits.taps_on_gpu:
        return False
    if every < limits.terms_of_product_on_gpu:
        return False
    return every >= limits.reads_on_gpu * max(_numbers(product, "img"), _numbers(product, "krn"))


def _numbers(product: Product, operand: str) -> int:
    """How many numbers of an operand a product reads."""
    levels = (level for _, levels in product.roles for level in levels)
    return math.prod(level.size for level in levels if getattr(level, operand))


def _least_taps(semifield: Semifield, geometry: Geometry, on_gpu: bool, limits: Limits) -> int:
    if not on_gpu:
        return limits.taps_of_whole_powers if semifield.whole_power else limits.taps
    if semifield.whole_power and geometry.outputs_per_group < 4:
        return limits.taps_of_whole_powers_on_gpu
    return limits.taps_on_gpu
