"""Which way a convolution goes: the backend, the method, what is kept for the derivative.

`choose` decides once for each kind of call; everybody else reads the `Route`. Array-free. Called by
``conv`` and by the PyTorch bridge; ``run`` and the backends follow the route.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from semiconv_cupy import source
from semiconv_cupy.algebra import Semifield
from semiconv_cupy.backends import by_sums
from semiconv_cupy.backends.by_sums import Limits as SumsLimits
from semiconv_cupy.backends.host import prebuilt
from semiconv_cupy.backends.place import Place
from semiconv_cupy.canonical import CanonicalForm, as_given, canonical
from semiconv_cupy.errors import BackendUnavailableError, warn_once
from semiconv_cupy.geometry import Geometry
from semiconv_cupy.methods import (
    LIMITS,
    PRODUCT_LIMITS,
    Backend,
    Limits,
    ProductLimits,
    Schedule,
    require_by_sums,
    require_gpu_for_tiles,
    require_one_value,
    route_in_words,
)
from semiconv_cupy.product import Product, merged
from semiconv_cupy.product_route import ProductRoute
from semiconv_cupy.residual import Residual, residual_of, slopes_alone
from semiconv_cupy.strides import Strides, contiguous_strides, in_memory, in_one_order
from semiconv_cupy.structs import MAX_LEVELS
from semiconv_cupy.vectors import for_vectors

_log = logging.getLogger(__name__)
SHORT_ROW = 8  # a last axis with fewer outputs leaves a GPU's forward tiles partly empty
SHORT_GRADIENT_ROW = 32  # the same for gradients, whose tiles are larger
SECTOR = 32  # bytes that a GPU reads at least
REACH = 33  # a gradient's tile holds the reach of windows shorter than this along a row


class Gradients(NamedTuple):
    """One or both gradients in one form: its route and strides; `wants` says which of them."""

    route: Route
    img_strides: Strides
    krn_strides: Strides
    wants: tuple[bool, bool]


@dataclass(frozen=True)
class Route:
    """How one convolution and its derivative are computed.

    Attributes
    ----------
    semifield, geometry, storage, place
        What is computed. `storage` is the dtype's name as in ``source.FLOATING``; arrays of
        bfloat16 may come as the bits of uint16.
    backend : {"host", "cuda", "reference"}
        Compiled kernels on the CPU, kernels on a GPU, or array loops.
    schedule : {"auto", "direct", "tiled"}
        Which CUDA kernels may compute it; "auto" takes the fastest.
    by_sums : bool
        Whether log or root is computed by ordinary sums; then no residual is kept, but slopes.
    reason : str or None
        Why array loops compute it although the caller would take compiled kernels.
    plain : bool
        Whether it is computed in the form in which it is given.
    products : ProductLimits
    copied : int
        As in `Limits`.
    sums : by_sums.Limits
        From which matrix product on a GPU computes values by ordinary sums; any, where the caller
        asked for them.
    channels : int
        How many values each parameter of the semifield has: 1, or one for each kernel.
    slopes : bool
        Whether the derivative by the parameter is kept behind the residual.
    """

    semifield: Semifield
    geometry: Geometry
    storage: str
    place: Place
    backend: Backend
    schedule: Schedule = "auto"
    by_sums: bool = False
    reason: str | None = None
    plain: bool = False
    products: ProductLimits = PRODUCT_LIMITS
    copied: int = LIMITS.copied
    sums: SumsLimits = LIMITS.by_sums
    channels: int = 1
    slopes: bool = False

    @property
    def residual_spec(self) -> Residual | None:
        """The array that a forward pass keeps for the derivative; None where it keeps nothing."""
        if self.by_sums:
            return slopes_alone(self.storage, self.geometry) if self.slopes else None
        return residual_of(self.semifield, self.storage, self.geometry, slopes=self.slopes)

    def form(self, img_strides: Strides, krn_strides: Strides) -> CanonicalForm:
        """The form in which the forward pass computes the work.

        Selections have the same bits in every form. Sums on a GPU depend on the tiles, whose order
        of additions is another one in another form, and so does the scale of log and root by
        ordinary sums. Semifields whose residual has an axis of input channels keep their own form.
        """
        given = as_given(self.geometry, img_strides, krn_strides)
        channels_of_residual = self.semifield.channels_add and self.geometry.in_channels > 1
        if self.plain or self.backend == "reference" or channels_of_residual:
            return given
        if self._loses_kernels(krn_strides):
            return given
        found = canonical(self.geometry, img_strides, krn_strides)
        if self.backend == "host":
            return for_vectors(found, source.itemsize(source.ARITHMETIC[self.storage]))
        return found if self._pays(found) else given

    def product(self, img_strides: Strides, krn_strides: Strides) -> ProductRoute | None:
        """The matrix product as which the forward pass computes the work; None where it does not.

        Overlapping windows stay windows: the schedule of windows reads what they share only once.
        """
        plain = self.plain or self.schedule != "auto"
        channels_of_residual = self.semifield.channels_add and self.geometry.in_channels > 1
        if self.backend == "reference" or plain or channels_of_residual or _overlaps(self.geometry):
            return None
        if self._loses_kernels(krn_strides):
            return None
        geometry = self.geometry
        found = as_given(geometry, img_strides, krn_strides).product
        if found is None or found.depth > MAX_LEVELS:
            return None
        if not self.products.allow(found, by_sums=self.by_sums):
            return None
        return ProductRoute(
            self.semifield,
            found,
            self.storage,
            self.place,
            self.backend,
            by_sums=self.by_sums,
            values_by_sums=self.by_sums and self._values_by_sums(found),
            channels=self.channels,
            matrix_step=0 if geometry.shares_kernels else geometry.outputs_per_group,
            slopes=self.slopes,
        )

    def _values_by_sums(self, product: Product) -> bool:
        on_gpu = self.backend == "cuda"
        return not on_gpu or by_sums.pays_for_values(self.semifield, product, self.sums)

    def product_gradients(self, img_strides: Strides) -> tuple[ProductRoute, Product] | None:
        """The matrix product as which the work is differentiated, and its gradients' layout.

        The kernel and all gradients are C-contiguous. Only works in ordinary sums whose windows see
        all of the image are; others are differentiated window by window.
        """
        if not (self.by_sums or self.semifield.differentiates_by_factors):
            return None
        geometry = self.geometry
        krn_strides = contiguous_strides(geometry.krn_shape)
        found = self.product(img_strides, krn_strides)
        if found is None:
            return None
        seen = found.product.outputs * found.product.terms // geometry.outputs_per_group
        if seen != math.prod(geometry.img_shape):
            return None
        values = as_given(geometry, img_strides, krn_strides).levels
        slopes = as_given(geometry, contiguous_strides(geometry.img_shape), krn_strides).levels
        assert values is not None
        assert slopes is not None
        product, gradients = merged(values, slopes)
        return replace(found, product=product), gradients

    def in_its_form(
        self, img_strides: Strides, krn_strides: Strides
    ) -> tuple[Route, Strides, Strides]:
        """The route of the work in its `form`, and the strides of image and kernel there."""
        form = self.form(img_strides, krn_strides)
        if form.geometry is self.geometry:
            return self, img_strides, krn_strides
        return replace(self, geometry=form.geometry), form.layout.img, form.layout.krn

    def form_of_gradients(self, img_strides: Strides) -> tuple[CanonicalForm, Strides]:
        """The form in which the CPU computes gradients, and the strides of the image's gradient.

        Grad_out and the gradients are C-contiguous. So is the image where another form than the
        given one is taken: its gradient then has the same axes. Gradients of selections are added
        up in the order of the given form's outputs, so that no bit depends on the form.
        """
        own = contiguous_strides(self.geometry.img_shape)
        krn = contiguous_strides(self.geometry.krn_shape)
        if self.semifield.accumulator != "select" and img_strides == own:
            found = self.form(img_strides, krn)
            if self._has_all_elements(found.geometry):
                return found, found.layout.img
        return as_given(self.geometry, img_strides, krn), own

    def copies_image(self, img_strides: Strides) -> bool:
        """Whether a GPU computes from a copy of the image in C order.

        Neighbours in a row that lie apart take a sector of memory each. What else the sectors hold
        is read again by other threads, unless nothing lies there. A copy reads all once, writes it,
        and is read: it pays for sectors of more than four elements. A matrix product copies panels.
        """
        shape = in_memory(self.geometry.img_shape, img_strides)
        if self.backend != "cuda" or math.prod(shape) < self.copied:
            return False
        sector = SECTOR // source.itemsize(self.storage)
        apart = [
            min(abs(stride), sector)
            for size, stride in zip(shape, img_strides, strict=True)
            if size > 1
        ]
        return bool(apart) and apart[-1] > 4 * min(apart)

    def needs_contiguous_image(self, img_strides: Strides) -> bool:
        """Whether the CPU computes gradients faster from a C-contiguous copy of the image.

        The copy costs a few operations a pixel, and lets another form than the given one be taken.
        """
        own = contiguous_strides(self.geometry.img_shape)
        if self.backend != "host" or self.semifield.accumulator == "select" or img_strides == own:
            return False
        return self.form_of_gradients(own)[0].geometry != self.geometry

    def gradients(
        self, img_strides: Strides, krn_strides: Strides, wants: tuple[bool, bool]
    ) -> list[Gradients]:
        """The forms in which a GPU computes the gradients that `wants` names: img's, krn's.

        The image's gradient of a selection adds the same numbers in the same order in every form.
        The kernel's does not: it keeps the given form, in which it costs no more, as its time does
        not depend on the window. Wherever some memory order lets the image's gradient have another
        form, the kernel's is launched by itself for all memory orders, so that no bit depends on
        them. On an H200 another form took 0.05 to 0.5 of the time for colours, but 1.4 to 9.6 where
        a window reached further than a tile, and 1.3 for selections with long rows, whose two
        gradients one launch computes in the given form.
        """
        given = Gradients(self, img_strides, krn_strides, wants)
        found, img, krn = self.in_its_form(img_strides, krn_strides)
        selects = self.semifield.accumulator == "select"
        usual = self._form_of_contiguous()
        fits = (usual.kernel_size[-1] - 1) * usual.dilation[-1] < REACH
        long = selects and self.geometry.out_size[-1] >= SHORT_GRADIENT_ROW
        if usual is self.geometry or not fits or long or not self._has_all_elements(usual):
            return [given]
        taken = Gradients(found, img, krn, wants)
        if found is self or not self._keeps_order(found.geometry):
            taken = given
        if not selects:
            return [taken]
        alone = (
            taken._replace(wants=(wants[0], False)),
            given._replace(wants=(False, wants[1])),
        )
        return [each for each in alone if any(each.wants)]

    def _loses_kernels(self, krn_strides: Strides) -> bool:
        """Whether another form would take kernels for one that lie in the same memory."""
        return self.channels > 1 and self.geometry.groups > 1 and krn_strides[0] == 0

    def _form_of_contiguous(self) -> Geometry:
        """The geometry of the form that contiguous arrays have, whether `plain` is set or not."""
        shapes = self.geometry.img_shape, self.geometry.krn_shape
        return replace(self, plain=False).form(*map(contiguous_strides, shapes)).geometry

    def _has_all_elements(self, form: Geometry) -> bool:
        """Whether a form has all elements of image and kernel, as their gradients do.

        It leaves out positions that no step reads, taps that no output sees inside the image, and
        kernels that lie in the same memory.
        """
        own = self.geometry
        shapes = (own.img_shape, form.img_shape), (own.krn_shape, form.krn_shape)
        same = all(math.prod(one) == math.prod(other) for one, other in shapes)
        return same and form.in_channels == own.in_channels

    def _keeps_order(self, form: Geometry) -> bool:
        """Whether a form has the elements of image and kernel in their order in memory.

        Where a batch became part of the space, its image has the channels of one element together.
        """
        img, krn = self.geometry.img_shape, self.geometry.krn_shape
        contiguous = self.form(contiguous_strides(img), contiguous_strides(krn))
        return (
            contiguous.geometry == form
            and in_one_order(form.img_shape, contiguous.layout.img)
            and in_one_order(form.krn_shape, contiguous.layout.krn)
        )

    def _pays(self, form: CanonicalForm) -> bool:
        """Whether a canonical form is faster than the work's own.

        On the CPU it is. A CUDA tile has two axes, the last one in chunks of four. On an H200, in
        float32, the form took of the own form's time: 0.15 to 0.9 for colours as part of the rows
        (H, W, 3, 4 or 16), 0.35 to 0.9 where three axes became two, 0.1 to 0.6 where two became one
        and the last one had 1 or 5 elements, but 1.1 to 1.9 where it had 16 or 31. Offsets within a
        tile have 32 bits: rows so long that a tile of a hundred would leave them keep their axes,
        and so their tile. A scale of ordinary sums is that of an image.
        """
        if self.backend != "cuda":
            return True
        own, found = self.geometry, form.geometry
        if self.schedule != "auto":
            return False
        if self.by_sums and (own.batch, own.groups) != (found.batch, found.groups):
            return False
        if found.rank == 1:
            return own.rank > 2 or own.out_size[-1] < SHORT_ROW
        return found.rank < own.rank and abs(form.layout.img[-2]) <= 2**24

    def after(self, residual: object | None) -> Route:
        """The route of a backward pass whose forward pass kept this residual, or None.

        The two passes may have been planned apart, for other sizes: ``torch.func.vmap`` changes the
        number of outputs, by which a GPU's method is chosen. Slopes do not depend on that number.
        """
        sums = residual is None and by_sums.applies(self.semifield)
        if self.by_sums == sums or self.channels > 1 or self.slopes:
            return self
        return replace(self, by_sums=not self.by_sums)


def choose_uncached(
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    place: Place,
    method: str = "auto",
    limits: Limits = LIMITS,
    channels: int = 1,
    slopes: bool = False,
) -> Route:
    """`choose` without its cache."""
    loops = Route(
        semifield,
        geometry,
        storage,
        place,
        backend="reference",
        by_sums=goes_by_sums(
            semifield,
            geometry,
            method,
            on_gpu=place.on_gpu,
            channels=channels,
            slopes=slopes,
            limits=limits.by_sums,
        ),
        plain=limits.plain,
        products=limits.gpu_products if place.on_gpu else limits.products,
        copied=limits.copied,
        sums=by_sums.ANY_PRODUCT if method == "linear" else limits.by_sums,
        channels=channels,
        slopes=slopes,
    )
    if method == "reference":
        return loops
    reason = _obstacle(semifield, geometry, storage, place, limits)
    if reason is not None:
        if method != "auto":
            raise BackendUnavailableError(f"method={method!r} cannot run here: {reason}")
        return replace(loops, reason=reason)
    require_gpu_for_tiles(method, place)
    schedule: Schedule = (
        "direct" if method == "direct" else "tiled" if method == "tiled" else "auto"
    )
    return replace(loops, backend="cuda" if place.on_gpu else "host", schedule=schedule)


@lru_cache(maxsize=4096)
def _cached(*arguments: Any) -> Route:
    route = choose_uncached(*arguments)
    geometry, way = route.geometry, route_in_words(route.backend, by_sums=route.by_sums)
    shapes = geometry.img_shape, geometry.krn_shape
    because = f", as {route.reason}" if route.reason else ""
    _log.debug("%r of %s %s by %s: %s%s", route.semifield, route.storage, *shapes, way, because)
    return route


def choose(
    semifield: Semifield,
    geometry: Geometry,
    storage: str,
    place: Place,
    method: str = "auto",
    limits: Limits = LIMITS,
    channels: int = 1,
    slopes: bool = False,
) -> Route:
    """Decide how a convolution of a compiled semifield is computed.

    Parameters
    ----------
    semifield, geometry, storage, place
        As in `Route`.
    method : str
        One of `METHODS`: "auto", or what `semifield_conv` was called with.
    limits : Limits
        What compiled kernels can do, and from where on ordinary sums pay.
    channels, slopes
        As in `Route`.

    Returns
    -------
    Route
        Cached.

    Raises
    ------
    ValueError
        A method that this semifield or this place does not have.
    BackendUnavailableError
        A method of compiled kernels, where they cannot run.

    Examples
    --------
    >>> from semiconv_cupy import SelectSemifield
    >>> from semiconv_cupy.backends.place import NUMPY
    >>> geometry = Geometry.plan((1, 1, 64, 64), (1, 1, 3, 3))
    >>> route = choose(SelectSemifield.tropical_max(), geometry, "float32", NUMPY, "reference")
    >>> route.backend, route.by_sums, route.residual_spec.dtype.name
    ('reference', False, 'uint8')
    """
    route = _cached(semifield, geometry, storage, place, method, limits, channels, slopes)
    if route.reason is not None:
        warn_once("array loops", f"semifield convolutions run as slow array loops: {route.reason}")
    return route


def goes_by_sums(
    semifield: Semifield,
    geometry: Geometry,
    method: str,
    *,
    on_gpu: bool,
    channels: int = 1,
    slopes: bool = False,
    limits: by_sums.Limits = by_sums.LIMITS,
) -> bool:
    """Whether `method` means ordinary sums here; ValueError for "linear" where they do not apply.

    Ordinary sums need one value of the parameter for all channels. They give slopes only on the CPU
    and for overlapping windows; matrix products and GPUs compute slopes term by term. This function
    only compares sizes, so these may be symbols of torch.compile.
    """
    serve = channels == 1 and not (slopes and (on_gpu or not _overlaps(geometry)))
    if method == "linear":
        require_by_sums(semifield)
        if not serve:
            require_one_value(channels)
    if method == "auto":
        return serve and by_sums.pays(semifield, geometry, on_gpu=on_gpu, limits=limits)
    return method == "linear"


def _obstacle(
    semifield: Semifield, geometry: Geometry, storage: str, place: Place, limits: Limits
) -> str | None:
    """Why compiled kernels cannot compute this here; None where they can."""
    if geometry.rank > limits.rank:
        return f"kernels serve up to {limits.rank} spatial axes, got {geometry.rank}"
    if place.on_gpu:
        return None
    if least_scratch(geometry) > limits.scratch:
        return f"windows of {geometry.kernel_size} at dilation {geometry.dilation} span too much"
    return prebuilt.obstacle(semifield, storage)


def _overlaps(geometry: Geometry) -> bool:
    """Whether windows of neighbouring outputs see the same positions, or positions outside."""
    axes = zip(
        geometry.kernel_size, geometry.out_size, geometry.stride, geometry.dilation, strict=True
    )
    shared = any(k > 1 and out > 1 and step <= d * (k - 1) for k, out, step, d in axes)
    return shared or any(geometry.padding)


def least_scratch(geometry: Geometry) -> int:
    """How many numbers the smallest tile's scratch holds: what its windows span, gaps included."""
    spans = ((k - 1) * d + 1 for k, d in zip(geometry.kernel_size, geometry.dilation, strict=True))
    return geometry.in_channels * math.prod(spans)
