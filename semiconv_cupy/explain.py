"""What a call runs, without running it: form, route, kernels, libraries, scratch, operations.

`explain` makes the decisions of a call with the very code that decides them in production. A
convolution is planned and its launches go to a `Recorder`; any other function is called with a
backend that notes each primitive. Nothing is compiled for the CPU, and no GPU is needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from kernels_cu import nvrtc
from semiconv_cupy.algebra.names import semifield_of
from semiconv_cupy.backends.place import is_foreign, place_of
from semiconv_cupy.errors import without_warnings
from semiconv_cupy.explaining.convolutions import convolution_steps
from semiconv_cupy.explaining.filters import filter_steps
from semiconv_cupy.explaining.products import product_steps
from semiconv_cupy.explanation import Explanation, Step
from semiconv_cupy.texts import function_named, named_value

Array = Any
_CONVOLUTIONS = ("semifield_conv", "semifield_conv_vjp")
_PRODUCTS = ("semifield_matmul", "semifield_matmul_vjp")
# The arguments of this package's functions for which a shape may stand.
_IMAGES = ("img", "krn", "a", "b", "input", "image", "seed", "mask", "input1", "input2")


def explain(
    function: Callable[..., Any] | str,
    *arrays: Any,
    dtype: Any = "float32",
    gpu: bool = False,
    arch: str | None = None,
    **arguments: Any,
) -> Explanation:
    """Say what a call would run: form, route, kernels, libraries, scratch, operations, bytes.

    Parameters
    ----------
    function : callable or str
        `semifield_conv`, `semifield_matmul`, one of their derivatives (`semifield_conv_vjp`,
        `semifield_matmul_vjp`), or any function of `ndimage` and of this package that takes arrays;
        or its name.
    *arrays : array, shape or anything else
        What the function takes by position. A shape may stand for an image, a kernel or a mask.
    dtype : dtype
        The dtype of the arrays that are given by their shapes.
    gpu : bool
        Whether these arrays are on a GPU; this machine needs none. CuPy arrays always are.
    arch : str, optional
        An architecture of GPUs, such as "sm_90": also compile the kernels for it, by NVRTC, and say
        what registers and shared memory they take. It implies `gpu`.
    **arguments
        What the function takes by name. Footprints, structures and weights are arrays here too.

    Returns
    -------
    Explanation
        `semifield_conv` and `semifield_matmul` have a step "forward"; their derivatives have
        "forward", with what it keeps for the derivative, and "backward". Other functions have a
        step for each primitive.

    Raises
    ------
    TypeError, ValueError
        What the function itself raises for such arguments; an unknown name; a function that calls
        no primitive of this package.
    kernels_cu.nvrtc.LibraryNotFoundError
        An `arch` where NVRTC is not installed.

    See Also
    --------
    prepare : Compiles what calls need.

    Notes
    -----
    Loops that end when nothing changes (`binary_propagation`, ``iterations=0``) show one round.
    The first call of each kind of kernel writes its source, which takes some milliseconds.

    Examples
    --------
    >>> import semiconv_cupy as sc
    >>> sc.explain("grey_dilation", (1024, 1024, 3), size=(9, 9, 1), dtype="uint8")
    grey_dilation of uint8 (1024, 1024, 3), size=(9, 9, 1), on the CPU
      box         uint8 (1024, 1024, 3), window (9, 9, 1), as (1024, 3072), taps 3 apart in a row
                  host: 25.2 M operations, 6.29 MB moved, scratch about 262 kB a thread
                    library flat on uint8
    >>> img, krn = (8, 16, 64, 64), (16, 1, 3, 3)
    >>> found = sc.explain("semifield_conv_vjp", img, krn, "tropical_max", groups=16, gpu=True)
    >>> [step.name for step in found.steps], len(found.step("backward").launches)
    (['forward', 'backward'], 2)
    """
    called = _function(function)
    on_gpu = gpu or arch is not None or any(map(_on_gpu, (*arrays, *arguments.values())))
    bound = _bind(called, arrays, arguments, dtype)
    call = f"{_call_in_words(called, bound)}, on {'a GPU' if on_gpu else 'the CPU'}"
    with without_warnings():  # the call itself has not been made yet
        if called.__name__ in _CONVOLUTIONS:
            steps = convolution_steps(called.__name__, bound, on_gpu)
        elif called.__name__ in _PRODUCTS:
            steps = product_steps(called.__name__, bound, on_gpu)
        else:
            steps = filter_steps(called, bound, on_gpu)
    return Explanation(call, steps, arch, {} if arch is None else _resources(steps, arch))


def explain_command(
    function: str,
    shape: tuple[int, ...],
    kernel: tuple[int, ...] | None,
    dtype: str,
    semifield: str,
    others: Iterable[str] = (),
    *,
    gpu: bool = False,
    arch: str | None = None,
) -> Explanation:
    """`explain` for texts, as ``python -m semiconv_cupy explain`` takes them."""
    arguments = dict(map(named_value, others))
    arrays: tuple[Any, ...] = (shape,)
    name = function.rpartition(".")[2]
    if name in (*_CONVOLUTIONS, *_PRODUCTS):
        if kernel is None:
            of = "b, such as 64x32" if name in _PRODUCTS else "krn, such as 16x1x3x3, or 3x3"
            raise ValueError(f"--kernel is missing: the shape of {of}")
        if name in _CONVOLUTIONS:
            kernel = (1,) * (len(shape) - len(kernel)) + kernel
        arrays += (kernel, semifield_of(semifield) if "(" in semifield else semifield)
    elif kernel is not None:
        taken = inspect.signature(_function(function)).parameters
        along_one = "axis" in taken and len(kernel) == 1
        if "weights" in taken:
            arguments.setdefault("weights", np.ones(kernel))
        else:
            arguments.setdefault("size", kernel[0] if along_one else kernel)
        if len(kernel) < len(shape) and not along_one:
            arguments.setdefault("axes", tuple(range(len(kernel))))
    return explain(function, *arrays, dtype=dtype, gpu=gpu, arch=arch, **arguments)


def _function(function: Callable[..., Any] | str) -> Callable[..., Any]:
    if callable(function) and hasattr(function, "__name__"):
        return function
    if not isinstance(function, str):
        raise TypeError(f"function must be a function or its name, got {function!r}")
    return function_named(function)


def _bind(
    function: Callable[..., Any], arrays: tuple[Any, ...], arguments: dict[str, Any], dtype: Any
) -> dict[str, Any]:
    """The arguments by name, with NumPy arrays for images that are given by shape or on a GPU.

    An array of the caller's for the results is not written to: another takes its place.
    """
    bound = inspect.signature(function).bind(*arrays, **arguments)
    return {
        name: _stand_in(value, dtype) if name in _IMAGES
        else _zeros_like(value) if name == "output" and _is_array(value)
        else value
        for name, value in bound.arguments.items()
    }  # fmt: skip


def _on_gpu(value: object) -> bool:
    return is_foreign(value) and place_of(array=value).on_gpu


def _stand_in(value: Any, dtype: Any) -> Any:
    """An array of zeros of this shape, dtype and layout; memory that nobody touches costs none."""
    if isinstance(value, (tuple, list)) and all(isinstance(size, int) for size in value):
        return np.zeros(tuple(value), _dtype(dtype))
    return _zeros_like(value) if is_foreign(value) else value


def _dtype(dtype: Any) -> np.dtype:
    """The dtype of that name; NumPy knows "bfloat16" once ml_dtypes is imported."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:
            import_module("ml_dtypes")
        except ImportError:
            raise TypeError(
                "dtype='bfloat16' is that of ml_dtypes: pip install ml_dtypes"
            ) from None
    return np.dtype(dtype)


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or is_foreign(value)


def _zeros_like(array: Array) -> np.ndarray:
    """A NumPy array of zeros of the array's shape, dtype and order of axes."""
    ranks = np.argsort([-abs(stride) for stride in array.strides], kind="stable")
    zeros = np.zeros([array.shape[axis] for axis in ranks], array.dtype)
    if isinstance(array, np.ndarray):
        zeros.flags.writeable = array.flags.writeable
    return zeros.transpose(np.argsort(ranks))


def _call_in_words(function: Callable[..., Any], bound: Mapping[str, Any]) -> str:
    arrays = [
        f"{value.dtype} {value.shape}" for value in bound.values() if isinstance(value, np.ndarray)
    ]
    others = [
        f"{name}={value!r}" for name, value in bound.items() if not isinstance(value, np.ndarray)
    ]
    return ", ".join([f"{function.__name__} of {' and '.join(arrays)}", *others])


def _resources(steps: Iterable[Step], arch: str) -> dict[str, nvrtc.Resources]:
    """Registers and memory of each kernel, by its name."""
    sources = {launch.source.name: launch.source for step in steps for launch in step.launches}
    compiler, found = nvrtc.load(), {}
    for name, kernel in sources.items():
        compiled = compiler.compile(kernel.text, arch, kernel.options)
        found[name] = compiled.kernels[name]
    return found
