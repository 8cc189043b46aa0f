"""`python -m semiconv_cupy apply`: one function from an image file to another, in chunks if large.

Options are the function's own parameters, read from its signature. What fits into memory needs no
Dask. The result has its name when it is whole, not before.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy import preview
from semiconv_cupy.files import images
from semiconv_cupy.files.about import NOT_IN_SPACE, FileError, Image
from semiconv_cupy.texts import SHAPES, image_functions, value_of, values_of

PROG = "python -m semiconv_cupy apply"
DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
# Parameters that are arrays of the image's shape: files.
_FILES = ("mask", "seed")
# Parameters that are arrays of their own.
_ARRAYS = ("footprint", "structure", "structure1", "structure2", "weights", "kernel", "krn")
# Parameters that choose where results go, or that there be several.
_NOT_OFFERED = ("output", "distances", "indices", "return_distances", "return_indices")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}  # fmt: skip
_WRONG = (FileError, TypeError, ValueError, RuntimeError, IndexError)
_FAILED = (*_WRONG, OSError, MemoryError, ArithmeticError)


class Work(NamedTuple):
    """A function, its image and masks, its other arguments, and the axes that it works along."""

    function: Callable[..., Any]
    images: dict[str, Image]
    arguments: dict[str, Any]
    axes: tuple[int, ...]
    each: bool  # whether it is called for each index of the other axes

    @property
    def image(self) -> Image:
        return next(iter(self.images.values()))

    def result(self, arrays: Sequence[Any], stack: Callable[..., Any]) -> Any:
        """The function of these arrays; `stack` joins what it makes of each index."""
        axes = self.axes if self.each else range(arrays[0].ndim)
        return self._of(list(arrays), list(axes), stack)

    def _of(self, arrays: list[Any], axes: list[int], stack: Callable[..., Any]) -> Any:
        others = sorted(set(range(arrays[0].ndim)) - set(axes))
        if not others:
            return self.function(**dict(zip(self.images, arrays, strict=True)), **self.arguments)
        along = others[0]
        place = (slice(None),) * along
        inner = [axis - (axis > along) for axis in axes]
        parts = [
            self._of([array[(*place, index)] for array in arrays], inner, stack)
            for index in range(arrays[0].shape[along])
        ]
        return stack(parts, axis=along)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 0, 1 failed, 2 wrong arguments, 130 Ctrl-C."""
    functions = image_functions()
    name = next((text for text in arguments if not text.startswith("-")), None)
    if name is None or (arguments[0] not in functions and name not in functions):
        return _without_function(functions, name)
    rest = list(arguments)
    rest.remove(name)
    given = _parser(name, functions[name]).parse_args(rest)
    try:
        return _run(functions[name], given)
    except KeyboardInterrupt:
        print(f"{PROG} {name}: interrupted; {given.OUTPUT} is as it was", file=sys.stderr)
        return INTERRUPTED


def _without_function(functions: dict[str, Any], name: str | None) -> int:
    usage = (
        f"usage: {PROG} FUNCTION INPUT OUTPUT [options]\n       {PROG} --help FUNCTION\n\n"
        f"functions: {', '.join(functions)}"
    )
    if name is None:
        print(usage)
        return DONE
    print(f"{PROG}: FUNCTION {name!r} is none of: {', '.join(functions)}", file=sys.stderr)
    return WRONG


def _parser(name: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {name}", allow_abbrev=False, argument_default=argparse.SUPPRESS,
        description=(inspect.getdoc(function) or "").partition("\n")[0],
        epilog=f"example: {PROG} grey_opening in.tif out.tif --footprint 'disk(5)' --mode ignore",
    )  # fmt: skip
    formats = "PNG, JPEG, TIFF, .npy, Zarr or OME-Zarr (its first level)"
    parser.add_argument("INPUT", type=Path, help=formats)
    parser.add_argument("OUTPUT", type=Path, help="the same, by its name's end")
    own = parser.add_argument_group("arguments of the function")
    parameters = list(inspect.signature(function).parameters.values())[1:]
    for parameter in parameters:
        if parameter.name not in (*_NOT_OFFERED, "axes"):
            _add_parameter(own, parameter)
    names = {parameter.name for parameter in parameters}
    if "output" in names:
        own.add_argument("--dtype", help="of the result, such as float32")
    if "axis" not in names:
        own.add_argument(
            "--axes", nargs="+", type=int, metavar="AXIS",
            help="axes that the function works along (default: all but colour, channels and time)",
        )  # fmt: skip
    run = parser.add_argument_group("how it is run")
    run.add_argument("--scheduler", help="threads, processes, or the ADDRESS of a Dask scheduler")
    run.add_argument("--memory", type=_bytes, help="such as 8GB (default: half of the machine's)")
    run.add_argument(
        "--chunks", nargs="+", type=int, metavar="LENGTH",
        help="of a chunk: one number, or one for each axis (default: by --memory)",
    )  # fmt: skip
    run.add_argument("--dry-run", action="store_true", help="say what would be computed, and stop")
    run.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    run.add_argument("--preview", type=Path, metavar="PNG", help="a picture of before and after")
    return parser


def _add_parameter(group: Any, parameter: inspect.Parameter) -> None:
    option = "--" + parameter.name.replace("_", "-")
    required = parameter.default is inspect.Parameter.empty
    words = "required" if required else f"default: {parameter.default}"
    if isinstance(parameter.default, bool):
        group.add_argument(
            option, dest=parameter.name, action=argparse.BooleanOptionalAction, help=words
        )
    elif parameter.name in _FILES:
        group.add_argument(
            option, dest=parameter.name, type=Path, metavar="FILE", required=required,
            help=f"an image of the same shape ({words})",
        )  # fmt: skip
    else:
        group.add_argument(
            option, dest=parameter.name, nargs="+", metavar="VALUE", required=required, help=words
        )


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([\d.]+)\s*([KMGT]?I?)B?", text.strip().upper())
    if found is None or found[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 8GB or 500MiB")
    return int(float(found[1]) * _UNITS[found[2]])


# ---- what is asked for ---------------------------------------------------------------------------


def _run(function: Callable[..., Any], given: argparse.Namespace) -> int:
    options = vars(given)
    try:
        _require_paths(given.INPUT, given.OUTPUT, options)
        work = _work(function, options)
        memory = options.get("memory", _half_of_memory())
        empty = work.result(_empties(work), np.stack)  # checks the arguments, as Dask's calls do
        dtype = images.stored_dtype(given.OUTPUT, empty.dtype)
        images.require_fits(given.OUTPUT, work.image.array.shape, dtype, work.image.about)
        cut = _cut(work, options, dtype, memory)
    except _WRONG as error:
        return _complain(function, error, WRONG)
    _say(work, empty.dtype, dtype)
    try:
        if cut is None:
            _in_memory(work, dtype, options)
        else:
            _in_chunks(work, dtype, options, cut, memory)
    except _FAILED as error:
        return _complain(function, error, FAILED)
    return DONE


def _complain(function: Callable[..., Any], error: BaseException, status: int) -> int:
    text = str(error) or type(error).__name__
    print(f"{PROG} {function.__name__}: {text}", file=sys.stderr)
    return status


def _require_paths(source: Path, output: Path, options: dict[str, Any]) -> None:
    pairs = [("OUTPUT", output, "INPUT", source)]
    if "preview" in options:
        shown = options["preview"]
        pairs += [("--preview", shown, "INPUT", source), ("--preview", shown, "OUTPUT", output)]
        if shown.suffix.lower() != ".png":
            raise FileError(f"--preview {shown} must end with .png")
    for name, path, other_name, other in pairs:
        if os.path.realpath(path) == os.path.realpath(other):
            raise FileError(f"{name} and {other_name} are one file: {path}")
        inner, outer = os.path.realpath(other), os.path.realpath(path)
        if inner.startswith(outer + os.sep) or outer.startswith(inner + os.sep):
            raise FileError(f"{name} {path} and {other_name} {other} lie within each other")
    for name, path in (("OUTPUT", output), ("--preview", options.get("preview", output))):
        if not path.absolute().parent.is_dir():
            raise FileError(f"{name}: there is no folder {path.parent}")
        if path.exists() and "overwrite" not in options:
            raise FileError(f"{name} {path} exists: pass --overwrite to replace it")
    images.kind_of(output, "OUTPUT")


def _work(function: Callable[..., Any], options: dict[str, Any]) -> Work:
    parameters = inspect.signature(function).parameters
    first, *others = parameters
    found = {first: images.opened(options["INPUT"])}
    arguments: dict[str, Any] = {}
    for name in others:
        if name not in options or name == "axes":
            continue
        value = options[name]
        if name in _FILES:
            found[name] = images.opened(value, f"--{name}")
        else:
            arguments[name] = _argument(name, value) if isinstance(value, list) else value
    shape = found[first].array.shape
    for name, image in found.items():
        if image.array.shape != shape:
            raise ValueError(f"--{name} has shape {image.array.shape}, INPUT has {shape}")
    if "dtype" in options:
        arguments["output"] = _dtype(options["dtype"])
    axes, all_axes = _axes(found[first], options), tuple(range(len(shape)))
    if "axes" in parameters and axes != all_axes:
        arguments["axes"] = axes
    if "axis" in parameters and "axis" not in arguments and axes:
        arguments["axis"] = axes[-1]
    return Work(function, found, arguments, axes, not {"axes", "axis"} & set(parameters))


def _argument(name: str, texts: list[str]) -> Any:
    """The value of an option: an array for a list of numbers or a .npy file."""
    option = f"--{name.replace('_', '-')}"
    if len(texts) == 1 and texts[0].endswith(".npy"):
        try:
            return np.load(texts[0], allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise FileError(f"{option}: cannot read {texts[0]}: {error}") from None
    value = value_of(texts[0]) if len(texts) == 1 else values_of(texts)
    if isinstance(value, str) and name in _ARRAYS:
        raise ValueError(
            f"{option} {value!r} is no array: pass numbers such as '[[0,1,0],[1,1,1],[0,1,0]]', a "
            f".npy file, or one of {', '.join(SHAPES)} such as 'disk(5)'"
        )
    return np.array(value) if isinstance(value, list) else value


def _dtype(text: str) -> np.dtype:
    try:
        return np.dtype(text)
    except TypeError:
        raise ValueError(f"--dtype {text!r} is no dtype: pass one such as float32") from None


def _axes(image: Image, options: dict[str, Any]) -> tuple[int, ...]:
    rank = len(image.array.shape)
    if "axes" not in options:
        return tuple(n for n, axis in enumerate(image.about.axes) if axis not in NOT_IN_SPACE)
    wrong = [axis for axis in options["axes"] if not -rank <= axis < rank]
    axes = tuple(axis % rank for axis in options["axes"] if axis not in wrong)
    if wrong or len(set(axes)) < len(axes):
        raise ValueError(f"--axes must be different axes of {rank}, got {options['axes']}")
    return axes


def _empties(work: Work) -> list[np.ndarray]:
    """Arrays without elements, of one index along axes of which each is computed by itself."""
    array = work.image.array
    shape = [0 if axis in work.axes or not work.each else 1 for axis in range(len(array.shape))]
    return [np.empty(shape, image.array.dtype) for image in work.images.values()]


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cut(
    work: Work, options: dict[str, Any], dtype: np.dtype, memory: int
) -> tuple[int | str, ...] | None:
    """The length of chunks along each axis, None for an image that is computed whole."""
    array = work.image.array
    rank = len(array.shape)
    needed = 3 * max(array.nbytes, array.nbytes // array.dtype.itemsize * dtype.itemsize)
    if needed <= memory and not {"chunks", "scheduler"} & set(options):
        return None
    if 0 in array.shape:
        return None
    try:
        import_dask()
    except ImportError as error:
        raise FileError(
            f"an image in chunks ({needed / 1e9:.3g} GB of {memory / 1e9:.3g} GB of --memory, "
            f"--chunks or --scheduler) needs Dask: pip install 'semiconv-cupy[dask]' ({error})"
        ) from None
    scheduler = options.get("scheduler", "threads")
    if scheduler not in ("threads", "processes") and ":" not in scheduler:
        raise ValueError(
            f"--scheduler {scheduler} is neither threads nor processes nor an address such as "
            "tcp://host:8786"
        )
    given = options.get("chunks", ["auto"])
    if any(length != "auto" and length < 1 for length in given) or len(given) not in (1, rank):
        raise ValueError(f"--chunks must be 1 or {rank} numbers of at least 1, got {given}")
    if len(given) == rank > 1:
        return tuple(given)
    return tuple(given[0] if axis in work.axes else -1 for axis in range(rank))


def import_dask() -> Any:
    """The module that computes in chunks, which needs Dask."""
    from semiconv_cupy.dask import stored

    return stored


def _say(work: Work, dtype: np.dtype, written: np.dtype) -> None:
    array, about = work.image.array, work.image.about
    print(f"input   {array.dtype} {tuple(array.shape)}, axes {about.axes}")
    along = "".join(about.axes[axis] for axis in work.axes)
    source = "the file says so" if about.said else "the file does not name its axes"
    others = [about.axes[n] for n in range(len(array.shape)) if n not in work.axes]
    kept = f"; each {' '.join(others)} by itself" if others else ""
    print(f"axes    the function works along {along}{kept} ({source}; --axes changes it)")
    note = "" if dtype == written else f", written as {written}, 0 and 255"
    print(f"result  {dtype} {tuple(array.shape)}{note}", flush=True)


# ---- what is computed ----------------------------------------------------------------------------


def _in_memory(work: Work, dtype: np.dtype, options: dict[str, Any]) -> None:
    array, output = work.image.array, options["OUTPUT"]
    size = array.nbytes + array.nbytes // array.dtype.itemsize * dtype.itemsize
    print(f"whole   in memory, {size / 1e6:.3g} MB of input and result")
    if "dry_run" in options:
        return
    result = work.result([image.array[...] for image in work.images.values()], np.stack)
    if result.dtype != dtype:  # bool
        result = result * np.uint8(255)
    chunks = getattr(array, "chunks", None)
    with images.created(output, result.shape, dtype, work.image.about, chunks) as target:
        target[...] = result
        _preview(work, target, options)
    print(f"written to {output}")


def _in_chunks(
    work: Work, dtype: np.dtype, options: dict[str, Any], cut: tuple[int | str, ...], memory: int
) -> None:
    stored, output = import_dask(), options["OUTPUT"]
    array, dry = work.image.array, "dry_run" in options
    itemsize = max(array.dtype.itemsize, dtype.itemsize)
    chunks = getattr(array, "chunks", None)
    scheduler = "threads" if dry else options.get("scheduler", "threads")
    with ExitStack() as workers:
        client = None if dry else workers.enter_context(stored.scheduled(scheduler, memory))
        lazy = [
            stored.in_chunks(image.array, cut, itemsize, memory, chunks)
            for image in work.images.values()
        ]
        result, sizes = stored.evenly(work.result(lazy, stored.stacked), chunks)
        if result.dtype != dtype:  # bool
            result = result * np.uint8(255)
        one = int(np.prod(result.chunksize)) * itemsize
        print(
            f"chunks  {result.npartitions} of {result.chunksize}, {one / 1e6:.3g} MB; "
            f"{stored.tasks(result)} tasks; memory about {6 * one / 1e6:.3g} MB for each thread"
        )
        if dry:
            return
        with images.created(output, result.shape, dtype, work.image.about, sizes) as target:
            with workers.pop_all():  # they end first: an interrupted one may still write
                stored.write(result, target, client)
            _preview(work, target, options)
    print(f"written to {output}")


def _preview(work: Work, target: Any, options: dict[str, Any]) -> None:
    if "preview" in options and 0 not in work.image.array.shape:
        preview.write(options["preview"], work.image.array, target, work.image.about)
