"""SciPy's conventions for arguments: arrays, axes, per-axis sequences, origins and `output`.

Error classes are SciPy's (a RuntimeError here and there where one expects a ValueError), so that
programs and their tests can be moved without a change. No computing.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from semiconv_cupy import source
from semiconv_cupy.backends.place import (
    NUMPY,
    Place,
    gpu_place,
    is_foreign,
    require_unmasked,
    to_numpy,
)
from semiconv_cupy.chunked import refuse_chunks
from semiconv_cupy.errors import warn

Array = Any
_SUPPORTED = frozenset((*source.FLOATING, *source.INTEGER, source.BOOLEAN))
_NATIVE = frozenset(np.dtype(name) for name in _SUPPORTED - {"bfloat16"})


def as_array(value: Any, name: str = "input") -> tuple[Place, Array]:
    """The place and the array: a CuPy array stays on its device, all else becomes NumPy's."""
    if type(value) is np.ndarray:
        return NUMPY, value
    place = gpu_place(value)
    if place is not None:
        place.require_current(name)
        return place, value
    refuse_chunks(name, value)
    if isinstance(value, str | os.PathLike):
        raise _no_array(name, value, "read the file first, as skimage.io.imread does")
    if type(value).__module__.partition(".")[0] == "torch":
        raise TypeError(
            f"{name} must be a NumPy or CuPy array, got a torch.Tensor: pass {name}.numpy(), or "
            "for a tensor as result use torch_bridge"
        )
    return NUMPY, _asarray(value, None, name)


def as_numpy(value: Any, dtype: Any = None, name: str = "array") -> np.ndarray:
    """A small array (footprint, structure, weights) as NumPy's; CuPy's is copied to the host."""
    if type(value) is np.ndarray and dtype is None:
        return value
    if is_foreign(value):
        value = to_numpy(value)
    if isinstance(value, str | os.PathLike):
        raise _no_array(name, value, "pass one, as numpy.ones((3, 3)) or structuring.disk(5)")
    return _asarray(value, dtype, name)


def _no_array(name: str, text: Any, remedy: str) -> RuntimeError:
    """The error for a text in the place of an array."""
    return RuntimeError(
        f"data type not supported: {name} is the text {str(text)!r}, not an array; {remedy}"
    )


def _asarray(value: Any, dtype: Any, name: str) -> np.ndarray:
    """numpy.asarray, whose errors (nested lists of unequal lengths) name the argument."""
    require_unmasked(name, value)
    try:
        return np.asarray(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} must be an array, got {value!r}: {error}") from None


def require_real(array: Array, what: str = "Complex type not supported for input") -> None:
    """TypeError for complex numbers."""
    if array.dtype.kind == "c":
        raise TypeError(f"{what}: got {array.dtype}; pass .real, .imag or abs() of it")


def is_readable(place: Place, array: Array) -> bool:
    """Whether kernels can read the array as it lies."""
    return array.dtype in _NATIVE and array.flags.c_contiguous and place.is_native(array)


def readable(place: Place, array: Array, name: str = "input") -> Array:
    """The array as kernels read it: C-contiguous, aligned, in the machine's byte order."""
    if is_readable(place, array):
        return array
    if array.dtype.name not in _SUPPORTED:
        if array.dtype.kind in "biuf" and array.dtype.newbyteorder("=").name in _SUPPORTED:
            array = array.astype(array.dtype.newbyteorder("="))
        else:
            of = ""
            if array.dtype == object and array.size:
                of = f" (its elements are Python's {type(array.flat[0]).__name__})"
            raise RuntimeError(
                f"data type not supported: {name} is {array.dtype}{of}; convert it, as by "
                f"{name}.astype('float32')"
            )
    array = place.array_module.ascontiguousarray(array).reshape(array.shape)
    if not place.is_native(array):
        array = array.astype(array.dtype.newbyteorder("="))
    return array


def check_axes(axes: Any, ndim: int) -> tuple[int, ...]:
    """`axes` as distinct numbers from 0 to ndim - 1."""
    if axes is None:
        return tuple(range(ndim))
    if not isinstance(axes, (tuple, list)) and np.isscalar(axes):
        axes = (axes,)
    elif not isinstance(axes, Iterable):
        raise ValueError(f"axes must be an integer, iterable of integers, or None, got {axes!r}")
    try:
        numbers = [operator.index(axis) for axis in axes]
    except TypeError as error:
        raise TypeError(f"axes must be integers, got {axes!r}: {error}") from None
    for axis in numbers:
        if not -ndim <= axis < ndim:
            raise np.exceptions.AxisError(
                f"axes: specified axis: {axis} is out of range for {ndim} axes"
            )
    found = tuple(axis % ndim for axis in numbers)
    if len(set(found)) != len(found):
        raise ValueError(f"axes must be unique, got {axes!r}")
    return found


def check_axis(axis: Any, ndim: int) -> int:
    """One axis number; numpy.exceptions.AxisError out of range."""
    axis = whole("axis", axis)
    if not -ndim <= axis < ndim:
        raise np.exceptions.AxisError(axis, ndim)
    return axis % ndim


def whole(name: str, value: Any, what: str = "an integer") -> int:
    """An integer argument; TypeError for anything else (ValueError for an array, as SciPy)."""
    if type(value) is int:
        return value
    try:
        return operator.index(value)
    except TypeError as error:
        kind = ValueError if isinstance(value, np.ndarray) and value.size > 1 else TypeError
        raise kind(f"{name} must be {what}, got {value!r}: {error}") from None


def check_size(size: Any) -> int:
    """A window's length along one axis."""
    length = whole("size", size, "an integer, or one for each axis")
    check_length("size", length)
    return length


def check_length(name: str, length: float) -> None:
    """OverflowError for a length that no array's axis can have."""
    if length > sys.maxsize:
        raise OverflowError(f"{name} must be at most {sys.maxsize}, got {length!r}")


def check_constant(cval: Any) -> Any:
    """`cval`, a real number."""
    try:
        math.isnan(cval)  # refuses a text, which float() would read
    except (TypeError, OverflowError) as error:
        raise type(error)(f"cval must be a real number, got {cval!r}") from None
    return cval


def per_axis(value: Any, count: int, name: str = "origin") -> list[Any]:
    """One entry per axis: a sequence of that length, or one value for all."""
    if not isinstance(value, (int, str)) and np.iterable(value):
        wrong = f"{name}: sequence argument must have length equal to input rank: got"
        shape = getattr(value, "shape", ())
        if len(shape) > 1:
            raise RuntimeError(
                f"{wrong} an array of shape {shape}; a footprint is passed as footprint="
            )
        entries = list(value)
        if len(entries) != count:
            raise RuntimeError(f"{wrong} {value!r} for {count} axes{_colour_hint(entries, count)}")
        return entries
    return [value] * count


def on_axes(entries: Sequence[Any], axes: Sequence[int], ndim: int, other: Any) -> list[Any]:
    """One entry for each axis of the array: those given for `axes`, `other` for the rest."""
    result = [other] * ndim
    for axis, entry in zip(axes, entries, strict=True):
        result[axis] = entry
    return result


def wrong_rank(name: str, shape: Sequence[int], count: int) -> RuntimeError:
    """The error for a footprint (structure, weights) whose rank is not the number of axes."""
    remedy = _colour_hint(shape, count)
    if not shape:
        remedy = "; it is an array, as numpy.ones((3, 3)) or semiconv_cupy.structuring.disk(5)"
    return RuntimeError(f"{name}.ndim ({len(shape)}) must match len(axes) ({count}){remedy}")


def _colour_hint(entries: Sequence[Any], count: int) -> str:
    """The remedy where a window for two axes meets an image of three, for an error's end."""
    picture = len(entries) == 2 and count == 3
    return "; for a colour picture (H, W, 3) pass axes=(0, 1)" if picture else ""


def expanded(array: np.ndarray, axes: tuple[int, ...], ndim: int, name: str) -> np.ndarray:
    """A footprint (structure, weights) on some axes as one on all, of size 1 on the others."""
    if array.ndim != len(axes):
        raise wrong_rank(name, array.shape, len(axes))
    if len(axes) == ndim:
        return array
    # As in SciPy, the k-th axis of the footprint belongs to the k-th of the sorted axes.
    return np.expand_dims(array, tuple(axis for axis in range(ndim) if axis not in axes))


def positions_before(window: int, origin: Any) -> int:
    """How many positions a window has before its output's own, which it must contain."""
    least, most = -(window // 2), (window - 1) // 2
    if type(origin) is not int and not isinstance(origin, (float, np.floating)):
        origin = whole("origin", origin)
    if not least <= origin <= most:
        raise ValueError(
            f"Invalid origin {origin}: it must satisfy {least} <= origin <= {most}, "
            f"which is -(K // 2) <= origin <= (K - 1) // 2 for a window of K = {window}"
        )
    return window // 2 + whole("origin", origin)


def reflected_origin(origin: Any, window: int, *, checked: bool = True) -> int:
    """The origin of the reflected window; not checked where the window's axis is not yet known."""
    if checked and window > 1:
        positions_before(window, origin)  # so that an error shows the caller's own origin
    return -whole("origin", origin) - (1 - window % 2)


def is_output_array(place: Place, output: Any) -> bool:
    """Whether `output` is an array to write to rather than a dtype or None."""
    if output is None or not isinstance(output, place.array_module.ndarray):
        return False
    if isinstance(output, np.ma.MaskedArray):
        raise TypeError(
            f"output is a masked array, whose mask would stay as it is: got {output!r}; pass "
            "output.data, or None"
        )
    if place.on_gpu:
        (gpu_place(output) or place).require_current("output")
    return True


def output_dtype(place: Place, output: Any, input: Array, complex_output: bool = False) -> np.dtype:
    """The dtype of a result for `output` (array, dtype or None), checked; nothing is allocated."""
    if output is None:
        dtype = input.dtype.newbyteorder("=")
        return np.promote_types(dtype, np.complex64) if complex_output else dtype
    dtype = _dtype_of(place, output, input, complex_output)
    if dtype.kind == "c" and complex_output:
        return dtype
    if dtype.newbyteorder("=").name not in _SUPPORTED:
        raise RuntimeError(f"data type not supported: output is {dtype}")
    return dtype


def _dtype_of(place: Place, output: Any, input: Array, complex_output: bool) -> np.dtype:
    """The dtype of an `output` that is given, which may be one that no function supports."""
    if isinstance(output, (type, np.dtype)):
        dtype = np.dtype(output)
        if complex_output and dtype.kind != "c":
            warn("promoting specified output dtype to complex", UserWarning)
            dtype = np.promote_types(dtype, np.complex64)
        return dtype
    if isinstance(output, str):
        try:
            dtype = np.dtype(output)
        except TypeError as error:
            raise TypeError(f"output must be an array or a dtype: {error}") from None
        if complex_output and dtype.kind != "c":
            raise RuntimeError(f"output must have complex dtype, got {output!r}")
        if not issubclass(dtype.type, np.number):
            raise RuntimeError(f"output must have numeric dtype, got {output!r}")
        return dtype
    if not is_output_array(place, output):
        kind = TypeError if hasattr(output, "__dlpack__") else RuntimeError
        raise kind(
            f"output must be an array of input's library, a dtype or None, got {type(output)}"
        )
    if not getattr(output.flags, "writeable", True):  # CuPy's have no such flag
        raise ValueError(
            f"output array is read-only: got one of shape {output.shape} and {output.dtype}; pass "
            "an array that can be written to, or None"
        )
    if output.shape != input.shape:
        raise RuntimeError(
            f"output shape not correct: got {output.shape} for an input of {input.shape}"
        )
    if complex_output and output.dtype.kind != "c":
        raise RuntimeError(f"output must have complex dtype, got {output.dtype}")
    return output.dtype


def get_output(place: Place, output: Any, input: Array, complex_output: bool = False) -> Array:
    """The array that a function fills: the given one, or a new one of `output_dtype`."""
    dtype = output_dtype(place, output, input, complex_output)
    xp = place.array_module
    return output if isinstance(output, xp.ndarray) else xp.empty(input.shape, dtype)


def writable_beside(place: Place, output: Array, input: Array) -> bool:
    """Whether a kernel that reads the input can write to the output at the same time."""
    return (
        output.flags.c_contiguous
        and place.is_native(output)
        and not place.array_module.may_share_memory(input, output)
    )


def deliver(place: Place, result: Array, output: Any, input: Array) -> Array:
    """The result in the `output` that the caller gave, converted as C does.

    `result` never shares memory with the caller's arrays, so that `output` may be the input.
    """
    if output is None:
        return result
    dtype = output_dtype(place, output, input)
    if not is_output_array(place, output) and dtype == result.dtype:
        return result
    target = get_output(place, output, input)
    with np.errstate(invalid="ignore", over="ignore"):
        place.array_module.copyto(target, result, casting="unsafe")
    return target
