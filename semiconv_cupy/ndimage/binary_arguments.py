"""Images, masks and outputs of binary morphology: checked, and read as bool."""

from __future__ import annotations

from typing import Any

from semiconv_cupy.backends.place import Place, place_of
from semiconv_cupy.ndimage.arguments import (
    Array,
    as_array,
    is_output_array,
    output_dtype,
    readable,
    require_real,
)


def require_numbers(array: Array, name: str) -> None:
    """SciPy's error for an array that is not of real numbers."""
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise RuntimeError(f"data type not supported: {name} is {array.dtype}")


def truth_of(place: Place, array: Array, name: str) -> Array:
    """Where the array is not zero, also of a scalar as an array."""
    require_numbers(array, name)
    truth = array if array.dtype.kind == "b" else place.array_module.asarray(array != 0)
    return readable(place, truth)


def mask_of(place: Place, input: Array, mask: Any) -> Array:
    """The elements that may change, as bool."""
    its_place, mask = as_array(mask, "mask")
    if its_place.library != place.library:
        place_of(input=input, mask=mask)  # raises
    if mask.shape != input.shape:
        raise RuntimeError(
            f"mask and input must have equal sizes, got {mask.shape} and {input.shape}"
        )
    return truth_of(place, mask, "mask")


def checked_output(place: Place, output: Any, input: Array) -> Array | None:
    """The array to write to, checked; a dtype is ignored, as in SciPy."""
    if not is_output_array(place, output):
        return None
    require_real(output, f"Complex output type not supported: output is {output.dtype}")
    require_numbers(output, "output")
    output_dtype(place, output, input)
    return output
