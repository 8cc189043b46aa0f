"""Plans of matrix products: arguments are checked once, then arrays of one layout are multiplied.

Asks ``product_route`` for the way, allocates, and lets ``run`` compute. Called by ``matmul``, and,
for the checks, by ``matmul_vjp`` and ``explaining``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import run
from semiconv_cupy.algebra import (
    BroadcastSemifield,
    SelectSemifield,
    Semifield,
    SubtractSemifield,
    no_semifield,
)
from semiconv_cupy.backends.broadcast import broadcast_matmul
from semiconv_cupy.backends.host.functions import address, aligned
from semiconv_cupy.backends.place import Place, gpu_of, place_of
from semiconv_cupy.checks import (
    native,
    refuse_kernels,
    require_method,
    require_one_dtype,
    require_value,
    storage_of,
)
from semiconv_cupy.operands import Operands, Shape
from semiconv_cupy.parameters import Given, Values, channels_of
from semiconv_cupy.product import Product
from semiconv_cupy.product_route import ProductRoute, choose_product
from semiconv_cupy.strides import Strides, contiguous_strides, element_strides, in_one_order
from semiconv_cupy.winners import indices_of, selection_by_one

Array = Any


class Checked(NamedTuple):
    """What is known of a call once its arguments are checked."""

    place: Place
    operands: Operands
    semifield: Semifield
    storage: str
    method: str
    channels: int = 1
    slopes: bool = False

    @classmethod
    def of(
        cls, a: Array, b: Array, semifield: Any, method: str, *, slopes: bool = False
    ) -> Checked:
        """Check everything about a call; errors name what does not fit.

        `semifield` may be `Given` with a value.
        """
        place, operands = _checked_operands(a, b, method)
        values = semifield if isinstance(semifield, Given) else Given(semifield)
        semifield = values.semifield
        if not isinstance(semifield, (SelectSemifield, SubtractSemifield)):
            raise no_semifield(semifield)
        storage = storage_of(a.dtype, semifield, "a")
        require_value(storage, values)
        columns = b.shape[-1] if b.ndim > 1 else 1
        channels = channels_of(values, columns, storage, {"a": a})
        return cls(place, operands, semifield, storage, method, channels, slopes)

    def route(self, product: Product) -> ProductRoute:
        """How a product of these operands is computed."""
        what = self.semifield, product, self.storage, self.place, self.method
        return choose_product(*what, channels=self.channels, slopes=self.slopes)


def _checked_operands(a: Array, b: Array, method: str) -> tuple[Place, Operands]:
    place = place_of("semifield_matmul", a=a, b=b)
    require_method(method)
    if native(a.dtype) != native(b.dtype):
        require_one_dtype(a, b, ("a", "b"))
    return place, Operands.of(a.shape, b.shape)


# ---- into an array of its own --------------------------------------------------------------------


def plan_values(
    a: Array, b: Array, values: Given, method: str, with_winners: bool
) -> Callable[..., Any]:
    """Check everything once; return what multiplies (a, b, value of the parameter if any)."""
    if with_winners:
        values = values._replace(semifield=selection_by_one(values.semifield))
    elif isinstance(values.semifield, BroadcastSemifield):
        return _broadcast(a, b, values.semifield, method)
    checked = Checked.of(a, b, values, method)
    make = _with_winners if with_winners else _values
    if checked.place.on_gpu:
        call = make(checked, a, b)

        def on_its_gpu(a: Array, b: Array, value: Any = None) -> Any:
            with gpu_of(a=a, b=b):  # not always the GPU of the first call
                return call(a, b, value)

        return on_its_gpu
    dtype = native(a.dtype)

    def converted(a: Array, b: Array, value: Any = None) -> Any:
        a, b = a.astype(dtype, order="C"), b.astype(dtype, order="C")
        return make(checked, a, b)(a, b, value)

    if not (aligned(a) and aligned(b)):
        return converted
    by_addresses = None if with_winners else _by_addresses(checked, a, b, converted)
    if by_addresses is not None:
        return by_addresses
    by_arrays, alignment = make(checked, a, b), dtype.alignment

    def of_aligned(a: Array, b: Array, value: Any = None) -> Any:
        if (address(a) | address(b)) % alignment:  # unlike the arrays that this was planned for
            return converted(a, b, value)
        return by_arrays(a, b, value)

    return of_aligned


def _by_addresses(
    checked: Checked, a: np.ndarray, b: np.ndarray, converted: Callable[..., Any]
) -> Callable[..., Any] | None:
    """What multiplies such arrays by their addresses alone; None where arrays are needed."""
    shape, dtype = checked.operands.out_shape, native(a.dtype)
    if not math.prod(shape) or not shape:
        return None
    route = checked.route(_product(checked.operands, a, b, contiguous_strides(shape)))
    launch = run.product_at(route)
    if launch is None:
        return None
    empty, alignment = np.empty, dtype.alignment

    def call(a: np.ndarray, b: np.ndarray, value: Any = None) -> Any:
        first, second = address(a), address(b)
        if (first | second) % alignment:  # unlike the arrays that this was planned for
            return converted(a, b, value)
        out = empty(shape, dtype)
        if value is None:
            launch(first, second, address(out), None, None)
        else:
            values = Values.of(value, checked.place)
            launch(first, second, address(out), None, None, values and values.parameters)
        return out

    return call


def _values(checked: Checked, a: Array, b: Array) -> Callable[..., Array]:
    """What multiplies arrays of these shapes, dtypes and strides."""
    place, shape, dtype = checked.place, checked.operands.out_shape, native(a.dtype)
    empty = place.array_module.empty
    route = checked.route(_product(checked.operands, a, b, contiguous_strides(shape)))
    if 0 in shape:
        return lambda a, b, value=None: empty(shape, dtype)

    def by_arrays(a: Array, b: Array, value: Any = None) -> Array:
        out = empty(shape, dtype)
        run.product(route, a, b, out, value=value)
        return out if shape else out[()]

    return by_arrays


def _with_winners(checked: Checked, a: Array, b: Array) -> Callable[..., tuple[Array, Array]]:
    """`_values` and the winners' indices."""
    xp, shape, dtype = checked.place.array_module, checked.operands.out_shape, native(a.dtype)
    route = checked.route(_product(checked.operands, a, b, contiguous_strides(shape)))
    spec = route.residual_spec(shape or (1,))
    assert spec is not None

    def call(a: Array, b: Array, value: Any = None) -> tuple[Array, Array]:
        out, residual = xp.empty(shape, dtype), xp.empty(spec.shape, spec.dtype)
        if out.size:
            run.product(route, a, b, out, residual, value=value)
        indices = indices_of(xp, residual)
        return (out, indices) if shape else (out[()], indices[0])

    return call


def _product(operands: Operands, a: Array, b: Array, out: Strides) -> Product:
    return operands.product(element_strides(a), element_strides(b), out).merged()


def _broadcast(
    a: Array, b: Array, semifield: BroadcastSemifield, method: str
) -> Callable[[Array, Array], Array]:
    """`plan_values` for whole-array functions, which have no kernels."""
    place, operands = _checked_operands(a, b, method)
    refuse_kernels(method)

    def by_arrays(a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return broadcast_matmul(place.array_module, a, b, semifield, operands)[()]

    return by_arrays


# ---- into an array of the caller -----------------------------------------------------------------


def plan_into(
    a: Array, b: Array, out: Array, known: Given, method: str, with_winners: bool
) -> Callable[..., Any]:
    """Check everything once; return what multiplies (a, b, out, value of the parameter if any)."""
    values = plan_values(a, b, known, method, with_winners)
    _require_out(a, b, out)
    copied = _copied(a, b, values, with_winners)
    return _straight_into(a, b, out, known, method, with_winners, copied) or copied


def _require_out(a: Array, b: Array, out: Array) -> None:
    """Raise where `out` cannot receive the product of such arrays, by `numpy.matmul`'s rules."""
    place_of("semifield_matmul", a=a, b=b, out=out)
    operands = Operands.of(a.shape, b.shape)
    shape, batch = operands.out_shape, operands.batch
    matrix = shape[len(batch) :]
    leading = out.shape[: out.ndim - len(matrix)]
    if out.shape != (*leading, *matrix) or not _broadcasts(batch, leading):
        raise ValueError(f"out must have shape {shape}, or more leading axes, got {out.shape}")
    if not np.can_cast(native(a.dtype), out.dtype, "same_kind"):
        raise TypeError(
            f"out must have a dtype to which {a.dtype} can be cast as 'same_kind', got {out.dtype}"
        )


def _require_writeable(out: Array) -> None:
    if not getattr(out.flags, "writeable", True):
        raise ValueError("out is read-only")


def _copied(
    a: Array, b: Array, values: Callable[..., Any], with_winners: bool
) -> Callable[..., Any]:
    """What multiplies such arrays into an array of their own and copies it to any `out`."""
    on_gpu = place_of("semifield_matmul", a=a, b=b).on_gpu

    def copied(a: Array, b: Array, out: Array, value: Any = None) -> Any:
        _require_writeable(out)
        found = values(a, b) if value is None else values(a, b, value)
        with gpu_of(a=a, out=out) if on_gpu else nullcontext():
            out[...] = found[0] if with_winners else found
        return (out, found[1]) if with_winners else out

    return copied


def _straight_into(
    a: Array,
    b: Array,
    out: Array,
    known: Given,
    method: str,
    with_winners: bool,
    copied: Callable[..., Any],
) -> Callable[..., Any] | None:
    """What multiplies such arrays straight into an `out` like this one; None where none can.

    Kernels write numbers of the result's dtype, aligned, each to a place of its own. An `out` that
    may overlap an operand is for `copied`: a number would change before the last term reads it.
    """
    if isinstance(known.semifield, BroadcastSemifield):
        return None
    if with_winners:
        known = known._replace(semifield=selection_by_one(known.semifield))
    checked = Checked.of(a, b, known, method)
    place, shape, dtype = checked.place, checked.operands.out_shape, native(a.dtype)
    strides = element_strides(out)
    if out.shape != shape or not out.size or not shape or out.dtype != dtype:
        return None
    if not (place.on_gpu or all(map(aligned, (a, b, out)))) or not _apart(shape, strides):
        return None
    if with_winners and not in_one_order(shape, strides):
        return None  # the residual would lie as `out` does
    route = checked.route(_product(checked.operands, a, b, strides))
    spec = route.residual_spec(shape) if with_winners else None
    launch = None if with_winners or place.on_gpu else run.product_at(route)
    xp, alignment = place.array_module, dtype.alignment
    overlap = xp.may_share_memory

    def into(a: Array, b: Array, out: Array, value: Any = None) -> Any:
        _require_writeable(out)
        if overlap(a, out) or overlap(b, out):
            return copied(a, b, out, value)
        if not place.on_gpu:
            addresses = address(a), address(b), address(out)
            if (addresses[0] | addresses[1] | addresses[2]) % alignment:
                return copied(a, b, out, value)  # unlike the arrays that this was planned for
            if launch is not None:
                values = Values.of(value, place)
                launch(*addresses, None, None, values and values.parameters)
                return out
        residual = None if spec is None else xp.empty(spec.shape, spec.dtype)
        run.product(route, a, b, out, residual, value=value)
        return out if residual is None else (out, indices_of(xp, residual))

    if not place.on_gpu:
        return into

    def on_its_gpu(a: Array, b: Array, out: Array, value: Any = None) -> Any:
        with gpu_of(a=a, b=b):  # not always the GPU of the first call
            gpu_of(a=a, out=out)  # raises where `out` lies on another one
            return into(a, b, out, value)

    return on_its_gpu


def _apart(shape: Shape, strides: Strides) -> bool:
    """Whether no two elements of an array lie at one place, seen by positive strides alone.

    Examples
    --------
    >>> _apart((2, 3), (1, 2)), _apart((2, 3), (0, 1)), _apart((2, 3), (1, 1))
    (True, False, False)
    """
    span = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride < span:
                return False
            span = stride * size
    return True


def _broadcasts(batch: Shape, leading: Shape) -> bool:
    """Whether results of these leading axes broadcast to those of `out`."""
    own = leading[len(leading) - len(batch) :]
    return len(own) == len(batch) and all(a in (1, b) for a, b in zip(batch, own, strict=True))
