"""What a call runs, without running it: form, route, kernels, libraries, scratch, operations.

`explain` makes the decisions of a call with the very code that decides them in production. A
convolution is planned and its launches go to a `Recorder`; any other function is called with a
backend that notes each primitive. Nothing is compiled for the CPU, and no GPU is needed.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import numpy as np

from kernels_cu import nvrtc
from semiconv_cupy import (
    conv,
    matmul,
    own_gradients,
    parameters,
    run,
    source,
)
from semiconv_cupy.algebra import BroadcastSemifield
from semiconv_cupy.algebra.names import semifield_of
from semiconv_cupy.backends.device import Launch, Recorder
from semiconv_cupy.backends.gradients import GradientArrays
from semiconv_cupy.backends.host import calls as host_calls
from semiconv_cupy.backends.host import products as host_products
from semiconv_cupy.backends.host.functions import aligned, library_names
from semiconv_cupy.backends.place import NUMPY, Place, is_foreign, place_of
from semiconv_cupy.errors import without_warnings
from semiconv_cupy.explanation import Explanation, Step
from semiconv_cupy.ndimage import host as host_primitives
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.addends import Addends
from semiconv_cupy.ndimage.cuda.backend import Backend
from semiconv_cupy.ndimage.form import filter_form
from semiconv_cupy.ndimage.lines import Pass
from semiconv_cupy.ndimage.window import WeightedTaps, Window
from semiconv_cupy.once import exclusive
from semiconv_cupy.operands import Operands
from semiconv_cupy.product import merged
from semiconv_cupy.product_route import ProductRoute
from semiconv_cupy.route import Route, least_scratch
from semiconv_cupy.strides import contiguous_strides, element_strides
from semiconv_cupy.structs import MAX_RANK
from semiconv_cupy.texts import function_named, named_value

Array = Any
Needs = tuple[tuple[str, ...], tuple[Launch, ...], int]  # libraries, launches, scratch of a step
_CONVOLUTIONS = ("semifield_conv", "semifield_conv_vjp")
_PRODUCTS = ("semifield_matmul", "semifield_matmul_vjp")
# Bytes of a thread's scratch, beyond which tiles are cut: `budget` in kernels_cu/host/tiles.hpp and
# in mapped.hpp.
_TILE, _MAPPED_TILE = 192 * 1024, 256 * 1024
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
            steps = _convolution(called.__name__, bound, on_gpu)
        elif called.__name__ in _PRODUCTS:
            steps = _matrix_product(called.__name__, bound, on_gpu)
        else:
            steps = _primitives(called, bound, on_gpu)
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


# One recorder for all calls: planned launches are cached by their device. One pass at a time.
_recorder = Recorder()


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


def _place(on_gpu: bool) -> Place:
    return Place("NumPy", gpu=0, device=_recorder) if on_gpu else NUMPY


# ---- convolutions --------------------------------------------------------------------------------


def _convolution(name: str, bound: dict[str, Any], on_gpu: bool) -> tuple[Step, ...]:
    given = dict(bound)
    img, krn, semifield = (given.pop(key) for key in ("img", "krn", "semifield"))
    method, passed = given.pop("method", "auto"), given.pop("parameters", {})
    values = parameters.given(semifield, passed, name)
    algebra = values.semifield
    place = _place(on_gpu)
    if name == "semifield_conv_vjp":
        conv.refuse_broadcast(algebra, "semifield_conv_vjp")
    if isinstance(algebra, BroadcastSemifield):
        geometry = conv.checked_broadcast(img, krn, method, given)[1]
        terms = math.prod(geometry.out_shape) * geometry.taps
        moved = _moved(img, krn) + math.prod(geometry.out_shape) * img.itemsize
        return (Step("forward", "whole windows", "arrays", 2 * terms, moved),)
    slopes = name == "semifield_conv_vjp" and own_gradients.keeps_slopes(algebra, passed)
    route = conv.checked_route(img, krn, values, method, given, place=place, slopes=slopes)
    if route.backend == "host" and not (aligned(img) and aligned(krn)):
        img, krn = np.empty(img.shape, img.dtype), np.empty(krn.shape, krn.dtype)  # copied first
    if name == "semifield_conv":
        return (_forward(route, img, krn, values.value, keeps_residual=False),)
    conv.require_derivatives(route.storage)
    forward = _forward(route, img, krn, values.value, keeps_residual=True)
    return forward, _backward(route, img, krn, values.value)


def _forward(
    route: Route, img: np.ndarray, krn: np.ndarray, value: Any, *, keeps_residual: bool
) -> Step:
    spec = route.residual_spec if keeps_residual else None
    out = np.empty(route.geometry.out_shape, img.dtype)
    residual = None if spec is None else np.empty(spec.shape, spec.dtype)
    arrays = (img, krn, out, residual)
    strides = element_strides(img), element_strides(krn)
    product = route.product(*strides)
    if route.backend == "cuda":
        needs = _recorded(run.forward, route, *arrays, value=value)
    else:
        part = host_calls.forward_part(route, keeps_residual=residual is not None)
        needs = _compiled(route, part if product is None else host_products.part(product, residual))
    form = str(route.form(*strides) if product is None else product.product)
    return Step(
        "forward", form, _route_in_words(route), _operations(route), _moved(*arrays), *needs
    )


def _backward(route: Route, img: np.ndarray, krn: np.ndarray, value: Any) -> Step:
    spec, real = route.residual_spec, source.ARITHMETIC[route.storage]
    grad_out = np.empty(route.geometry.out_shape, img.dtype)
    residual = None if spec is None else np.empty(spec.shape, spec.dtype)
    arrays = (grad_out, img, krn, residual, np.empty(img.shape, real), np.empty(krn.shape, real))
    if route.backend == "cuda":
        needs = _recorded(run.backward, route, GradientArrays(*arrays), value=value)
    else:
        strides = element_strides(img)
        if route.needs_contiguous_image(strides):
            strides = contiguous_strides(img.shape)
        product = route.product_gradients(strides)
        part = host_calls.backward_part(route)
        needs = _compiled(route, part if product is None else host_products.backward_part(*product))
    form, operations = "gradients of img and krn", 2 * _operations(route)
    return Step("backward", form, _route_in_words(route), operations, _moved(*arrays), *needs)


def _route_in_words(route: Route | ProductRoute) -> str:
    return _in_words(route.backend, by_sums=route.by_sums)


def _in_words(backend: str, *, by_sums: bool) -> str:
    return f"{backend}, by sums" if by_sums else backend


def _operations(route: Route) -> int:
    return 2 * math.prod(route.geometry.out_shape) * route.geometry.taps


def _compiled(route: Route, part: str) -> Needs:
    """Libraries and scratch of a pass on the CPU."""
    if route.backend == "reference":
        return (), (), 0
    names = library_names(route.semifield, route.storage, part)
    number = np.dtype(source.ARITHMETIC.get(route.storage, route.storage)).itemsize
    return names, (), max(_TILE, least_scratch(route.geometry) * number)


def _recorded(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Needs:
    """Launches and scratch of a pass on a GPU."""
    with exclusive("explain"):
        _recorder.clear()
        function(*arguments, **keywords)
        return (), tuple(_recorder.launches), _recorder.scratch_bytes


# ---- matrix products -----------------------------------------------------------------------------


def _matrix_product(name: str, bound: dict[str, Any], on_gpu: bool) -> tuple[Step, ...]:
    a, b, semifield = (bound[key] for key in ("a", "b", "semifield"))
    derived, passed = name == "semifield_matmul_vjp", bound.get("parameters", {})
    values = parameters.given(semifield, passed, name)
    algebra = values.semifield
    if derived:
        conv.refuse_broadcast(algebra, name)
    method = bound.get("method", "auto")
    if isinstance(algebra, BroadcastSemifield):
        conv.refuse_kernels(method)
        operands = Operands.of(a.shape, b.shape)
        terms = math.prod(operands.out_shape) * operands.terms
        moved = _moved(a, b) + math.prod(operands.out_shape) * a.itemsize
        return (Step("forward", "whole matrices", "arrays", 2 * terms, moved),)
    slopes = derived and own_gradients.keeps_slopes(algebra, passed)
    checked = matmul.Checked.of(a, b, values, method, slopes=slopes)
    checked = checked._replace(place=_place(on_gpu))
    if not (aligned(a) and aligned(b)):
        a, b = np.empty(a.shape, a.dtype), np.empty(b.shape, b.dtype)  # copied first
    shape = checked.operands.out_shape
    product, gradients = merged(
        checked.operands.product(element_strides(a), element_strides(b), contiguous_strides(shape)),
        checked.operands.product(*map(contiguous_strides, (a.shape, b.shape, shape))),
    )
    if not derived:
        product = product.merged()
    route = checked.route(product)
    keeps = derived or bool(bound.get("return_indices", False))
    spec = route.residual_spec(shape or (1,)) if keeps else None
    out = np.empty(shape, a.dtype)
    arrays = (a, b, out, None if spec is None else np.empty(spec.shape, spec.dtype))
    needs: Needs = ((), (), 0)
    if route.backend == "cuda":
        needs = _recorded(run.product, route, *arrays, value=values.value)
    elif route.backend == "host":
        needs = _library_of_product(route, host_products.part(route, spec))
    operations = 2 * product.outputs * product.terms
    words = _in_words(route.backend, by_sums=spec is None and route.values_by_sums)
    forward = Step("forward", str(product), words, operations, _moved(*arrays), *needs)
    if not derived:
        return (forward,)
    conv.require_derivatives(checked.storage)
    moved = 2 * _moved(a, b) + _moved(*arrays[2:])
    if route.backend == "cuda":
        real = source.ARITHMETIC[checked.storage]
        of_a, of_b = np.empty(a.shape, real), np.empty(b.shape, real)
        given = GradientArrays(out, a, b, arrays[3], of_a, of_b)
        needs = _recorded(run.product_backward, route, gradients, given, value=values.value)
    elif route.backend == "host":
        needs = _library_of_product(route, host_products.backward_part(route, gradients))
    words, form = _route_in_words(route), "gradients of a and b"
    return forward, Step("backward", form, words, 2 * operations, moved, *needs)


def _library_of_product(route: ProductRoute, part: str) -> Needs:
    return library_names(route.semifield, route.storage, part), (), 0


# ---- other functions -----------------------------------------------------------------------------


class _Observer:
    """A `neighbourhood.Backend` that notes each primitive and returns zeros."""

    def __init__(self, on_gpu: bool) -> None:
        self.steps: list[Step] = []
        self._gpu = Backend(_recorder) if on_gpu else None

    def _note(
        self, name: str, array: Array, window: str, operations: int, *arguments: Any
    ) -> np.ndarray:
        """Add a step; `operations` are those of one element."""
        needs: Needs
        if not 1 <= array.ndim <= MAX_RANK or (
            self._gpu is None and not host_primitives.serves(name, array.dtype)
        ):
            route, needs = "reference", ((), (), 0)
        elif self._gpu is None:
            part = host_primitives.part_of(name, array.dtype, *arguments)
            library = host_primitives.library_name(*part)
            route, needs = "host", ((library,), (), _MAPPED_TILE)
        else:
            route, needs = "cuda", _recorded(getattr(self._gpu, name), array, *arguments)
        merged = _form_in_words(name, array, arguments, on_gpu=self._gpu is not None)
        form = f"{array.dtype} {array.shape}, {window}{merged}"
        moved = 2 * array.nbytes + _moved(*(a for a in arguments if getattr(a, "ndim", 0)))
        if isinstance(arguments[0], Pass):
            moved = array.nbytes + _moved(arguments[0].out, arguments[0].winners)
        self.steps.append(Step(name, form, route, operations * array.size, moved, *needs))
        return np.zeros(array.shape, array.dtype)  # zeros_like would touch the memory

    def box(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """Windows of 2 w from two of w: a comparison each."""
        doublings = sum((k - 1).bit_length() for k in window.shape)
        return self._note(
            "box", array, f"window {window.shape}", doublings, window, outside, minimum
        )

    def footprint(self, array: Array, window: Window, outside: np.ndarray, minimum: bool) -> Array:
        """A comparison a tap."""
        taps = len(window.indices())
        words = f"{taps} taps of {window.shape}"
        return self._note("footprint", array, words, taps, window, outside, minimum)

    def structure(self, array: Array, window: Window, addends: Addends, minimum: bool) -> Array:
        """An addition and a comparison a tap."""
        taps = len(window.indices())
        words = f"{taps} taps of {window.shape}"
        return self._note("structure", array, words, 2 * taps, window, addends, minimum)

    def correlate(self, array: Array, window: Window, taps: WeightedTaps, out: Array) -> None:
        """A multiplication and an addition a tap."""
        words = f"{len(taps.weights)} taps of {window.shape}"
        self._note("correlate", array, words, 2 * len(taps.weights), window, taps, out)
        out[...] = 0

    def reconstruct(self, seed: Array, mask: Array, steps: np.ndarray, minimum: bool) -> Array:
        """Two comparisons a neighbour, if each element is met once."""
        words = f"{len(steps)} neighbours"
        return self._note("reconstruct", seed, words, 2 * len(steps), mask, steps, minimum)

    def nearest(self, unset: Array, step: Pass) -> None:
        """A comparison an element."""
        words = f"distances along axis {step.axis}"
        step.out[...] = self._note("nearest", unset, words, 1, step)[:]

    def parabolas(self, array: Array, step: Pass) -> None:
        """An addition and a comparison a level of nodes, and as much for the outputs."""
        levels = math.ceil(math.log2(max(array.shape[step.axis], 2)))
        words = f"parabolas along axis {step.axis}"
        step.out[...] = self._note("parabolas", array, words, 2 + levels // 4, step)[:]

    def chamfer(self, unset: Array, steps: np.ndarray, features: bool) -> tuple[Array, Any]:
        """An addition and a comparison a step, in both scans."""
        found = self._note("chamfer", unset, f"{len(steps)} steps", 4 * len(steps), steps, features)
        return found.astype(np.int32), found.astype(np.int32) if features else None


def _primitives(
    function: Callable[..., Any], bound: dict[str, Any], on_gpu: bool
) -> tuple[Step, ...]:
    observer = _Observer(on_gpu)
    with neighbourhood.served_by(observer):
        function(**bound)
    if not observer.steps:
        raise ValueError(
            f"function={function.__name__} runs no kernel for these arguments: nothing to explain"
        )
    return tuple(observer.steps)


def _form_in_words(name: str, array: Array, arguments: tuple[Any, ...], *, on_gpu: bool) -> str:
    """What a window's filter is computed as, where axes merge or another one is the last."""
    window = arguments[0]
    if not isinstance(window, Window):
        return ""
    if on_gpu:
        form = filter_form(array.shape, window.shape, window.before, window.rules)
    else:
        form = host_primitives.form_of(name, array, *arguments)
    if form.shape == array.shape:
        return ""
    if form.strides[-1] > 1:
        return f", as {form.shape}, vectors along the last axis"
    apart = "" if form.unit == 1 else f", taps {form.unit} apart in a row"
    return f", as {form.shape}{apart}"


# ---- numbers and words ---------------------------------------------------------------------------


def _resources(steps: Iterable[Step], arch: str) -> dict[str, nvrtc.Resources]:
    """Registers and memory of each kernel, by its name."""
    sources = {launch.source.name: launch.source for step in steps for launch in step.launches}
    compiler, found = nvrtc.load(), {}
    for name, kernel in sources.items():
        compiled = compiler.compile(kernel.text, arch, kernel.options)
        found[name] = compiled.kernels[name]
    return found


def _moved(*arrays: np.ndarray | None) -> int:
    return sum(array.nbytes for array in arrays if array is not None)
