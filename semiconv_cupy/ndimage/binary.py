"""Binary morphology with SciPy's signatures: the flat filters on bool, iterated.

An erosion is a minimum, a dilation a maximum; what runs "until nothing changes" is a
reconstruction.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy.backends.place import place_of
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.arguments import (
    as_array,
    as_numpy,
    check_axes,
    deliver,
    is_output_array,
    output_dtype,
    per_axis,
    readable,
    reflected_origin,
    require_real,
    spread,
    wrong_rank,
)
from semiconv_cupy.ndimage.borders import remembered, small_footprint

Array = Any
_MOST_ITERATIONS = 2**63
_DIAMOND = 16  # iterations of a plane cross that one pass over a diamond does fastest
_MOST_AXES = 20  # of a structure of size 3: 3 GiB

__all__ = [
    "binary_closing",
    "binary_dilation",
    "binary_erosion",
    "binary_fill_holes",
    "binary_hit_or_miss",
    "binary_opening",
    "binary_propagation",
    "generate_binary_structure",
    "iterate_structure",
]


def generate_binary_structure(rank: int, connectivity: int) -> np.ndarray:
    """The structure of size 3 whose taps are at most `connectivity` unit steps from the centre.

    Parameters
    ----------
    rank : int
        Number of axes; below 1 the structure is the scalar True.
    connectivity : int
        1 for the direct neighbours, `rank` for the full box; less than 1 counts as 1.

    Returns
    -------
    numpy.ndarray of bool
        Also for use with CuPy arrays.

    Examples
    --------
    >>> generate_binary_structure(2, 1).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 1, 0]])
    """
    rank = _whole(rank, "rank")
    if not isinstance(connectivity, Real):
        raise TypeError(f"connectivity must be a number, got {connectivity!r}")
    if rank < 1:
        return np.array(True)
    if rank > _MOST_AXES:
        raise ValueError(f"rank must be at most {_MOST_AXES}, of 3**rank elements, got {rank}")
    steps = np.zeros((), np.int8)
    for _ in range(rank):
        steps = np.add.outer(steps, np.array([1, 0, 1], np.int8))
    return steps <= max(connectivity, 1)


@lru_cache(maxsize=_MOST_AXES)
def _cross(rank: int) -> np.ndarray:
    """The default structure, which nobody writes to."""
    return generate_binary_structure(rank, 1)


def iterate_structure(structure: Any, iterations: int, origin: Any = None) -> Any:
    """The structure whose one dilation is `iterations` dilations by the given one.

    Parameters
    ----------
    structure : array_like of bool
        NumPy or CuPy.
    iterations : int
        Below 2 the structure itself is returned.
    origin : int or sequence of int, optional
        If given, the origin of the new structure is returned as well, from 2 iterations on.

    Returns
    -------
    array of bool, or (array of bool, list of int)
        Of the structure's library, and the structure itself for less than 2 iterations.

    Examples
    --------
    >>> iterate_structure([True, True, True], 2).astype(int)
    array([1, 1, 1, 1, 1])
    """
    xp, _ = as_array(structure, "structure")
    structure = as_numpy(structure, name="structure")
    iterations = _whole(iterations, "iterations")
    if iterations < 2:
        return xp.asarray(structure.copy())
    more = iterations - 1
    wider = [(more * (k // 2), more * (k - 1) - more * (k // 2)) for k in structure.shape]
    if any(n >= 2**40 for n in map(sum, wider)):
        raise ValueError(f"iterations make too large a structure, got {iterations}")
    start = np.pad(structure != 0, wider)
    result = xp.asarray(binary_dilation(start, structure, iterations=more))
    if origin is None:
        return result
    return result, [iterations * o for o in _origins(origin, structure.ndim, "origin")]


# ---- erosions and dilations --------------------------------------------------------------------


class _NotAnIndex(IndexError, TypeError):
    """An origin that is no integer: SciPy's class, and the usual one."""


class _OutsideStructure(IndexError, ValueError):
    """An origin outside the structure: SciPy's class, and the usual one."""


class _Window(NamedTuple):
    """The offsets from -before to after along each axis, or those at which `taps` is True."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    taps: np.ndarray | None

    def contains_centre(self) -> bool:
        """Whether an output sees its own position."""
        return self.taps is None or bool(self.taps[self.before])

    def within(self, shape: tuple[int, ...]) -> tuple[_Window, bool]:
        """The offsets that reach from some position of the image to another; whether more exist.

        An offset as long as the image sees what lies beyond the border, from every position.
        """
        if all(map(operator.lt, self.before + self.after, shape + shape)):
            return self, False
        before = tuple(min(b, n - 1) for b, n in zip(self.before, shape, strict=True))
        after = tuple(min(a, n - 1) for a, n in zip(self.after, shape, strict=True))
        if self.taps is None:
            return _Window(before, after, None), True
        sides = zip(self.before, before, after, strict=True)
        taps = self.taps[tuple(slice(whole - b, whole + a + 1) for whole, b, a in sides)]
        more = int(np.count_nonzero(taps)) < int(np.count_nonzero(self.taps))
        return _Window(before, after, taps), more

    def offsets(self) -> np.ndarray:
        """One row for each offset."""
        if self.taps is not None:
            return np.argwhere(self.taps) - np.array(self.before)
        sizes = [b + 1 + a for b, a in zip(self.before, self.after, strict=True)]
        return np.argwhere(np.ones(sizes, np.bool_)) - np.array(self.before)

    def repeated(self, iterations: int) -> _Window:
        """Of a box, the one that does as much at once, where the image's borders cannot matter."""
        before = tuple(iterations * b for b in self.before)
        return _Window(before, tuple(iterations * a for a in self.after), None)

    def cross_axes(self) -> tuple[int, ...]:
        """The axes of a cross of direct neighbours; none for another window."""
        axes = tuple(a for a, b in enumerate(self.before) if (b, self.after[a]) == (1, 1))
        if self.taps is None or self.taps.size != 3 ** len(axes):
            return ()
        cross = _cross(len(axes))
        return axes if np.array_equal(self.taps.reshape(cross.shape), cross) else ()


def _size_of(structure: Any, count: int) -> tuple[int, ...] | None:
    """The size of a full structure, where `structure` is one as in CuPy; None for an array.

    SciPy reads a sequence of integers as a structure of one axis, an error but for one axis. There,
    (k,) is a size, and any other sequence the structure itself.
    """
    if isinstance(structure, np.ndarray):
        return None
    if isinstance(structure, int | np.integer) and not isinstance(structure, bool):
        return (int(structure),) * count if count else None
    if not isinstance(structure, tuple | list) or len(structure) != count or count == 0:
        return None
    if not all(isinstance(k, int | np.integer) and not isinstance(k, bool) for k in structure):
        return None
    if count == 1 and (isinstance(structure, list) or structure[0] < 2):
        return None
    return tuple(int(k) for k in structure)


def _window(
    structure: Any, origin: Any, axes: tuple[int, ...], ndim: int, reflected: bool, suffix: str
) -> _Window:
    """The window of a structure, checked; `suffix` belongs to the names of the arguments."""
    name, count = f"structure{suffix}", len(axes)
    taps = None
    shape = _size_of(structure, count)
    if shape is None:
        taps = _cross(count) if structure is None else as_numpy(structure, bool, name)
        if taps.ndim != count:
            raise wrong_rank(name, taps.shape, count)
        shape = taps.shape
    if min(shape, default=1) < 1:
        raise RuntimeError(f"{name} must not be empty, got shape {shape}")
    origins = tuple(_origins(origin, count, f"origin{suffix}"))
    flags = None if taps is None else taps.tobytes()
    try:
        return _placed(flags, shape, origins, axes, ndim, reflected)
    except _OutsideStructure as error:
        raise _OutsideStructure(
            f"invalid origin{suffix} {origin!r} for a {name} of shape {shape}: it must satisfy "
            f"-({error} // 2) <= origin{suffix} <= ({error} - 1) // 2"
        ) from None


@remembered(64, small_footprint)
def _placed(
    flags: bytes | None,
    shape: tuple[int, ...],
    origins: tuple[int, ...],
    axes: tuple[int, ...],
    ndim: int,
    reflected: bool,
) -> _Window:
    """The window on all axes; _OutsideStructure with the length that an origin does not fit."""
    taps = None if flags is None else np.frombuffer(flags, np.bool_).reshape(shape)
    if reflected:
        pairs = zip(origins, shape, strict=True)
        origins = tuple(reflected_origin(o, k, checked=False) for o, k in pairs)
        taps = None if taps is None else taps[(slice(None, None, -1),) * len(shape)]
    if len(axes) < ndim:
        origins = tuple(spread(origins, axes, ndim, 0))
        # As in SciPy, the k-th axis of the structure belongs to the k-th of the sorted axes, and
        # the k-th origin to the k-th axis given.
        shape = tuple(spread(shape, sorted(axes), ndim, 1))
    before = tuple(k // 2 + o for k, o in zip(shape, origins, strict=True))
    for b, k in zip(before, shape, strict=True):
        if not 0 <= b < k:
            raise _OutsideStructure(k)
    after = tuple(k - 1 - b for k, b in zip(shape, before, strict=True))
    if taps is not None:
        taps = None if taps.all() else taps.reshape(shape)
    return _Window(before, after, taps)


def _origins(origin: Any, count: int, name: str) -> list[int]:
    """One integer for each axis."""
    entries = per_axis(origin, count, name)
    try:
        return [operator.index(entry) for entry in entries]
    except TypeError:
        raise _NotAnIndex(
            f"{name} must be an integer, or one for each axis, got {origin!r}"
        ) from None


def _whole(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def _require_numbers(array: Array, name: str) -> None:
    """SciPy's error for an array that is not of real numbers."""
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise RuntimeError(f"data type not supported: {name} is {array.dtype}")


def _truth(xp: Any, array: Array, name: str) -> Array:
    """Where the array is not zero, also of a scalar as an array."""
    _require_numbers(array, name)
    return readable(xp, array if array.dtype.kind == "b" else xp.asarray(array != 0))


def _morph(
    input: Any,
    structure: Any,
    iterations: Any,
    mask: Any,
    output: Any,
    border_value: Any,
    origin: Any,
    dilate: bool,
    axes: Any,
    reflected: bool | None = None,
    suffix: str = "",
) -> Array:
    """Both operations; for a dilation the window is by default the reflected structure."""
    xp, input = as_array(input)
    iterations = _whole(iterations, "iterations")
    if not -_MOST_ITERATIONS <= iterations < _MOST_ITERATIONS:
        raise OverflowError(f"iterations must fit 64 bits, got {iterations}")
    require_real(input)
    image = _truth(xp, input, "input")
    axes = check_axes(axes, image.ndim)
    reflected = dilate if reflected is None else reflected
    window = _window(structure, origin, axes, image.ndim, reflected, suffix)
    if mask is not None:
        library, mask = as_array(mask, "mask")
        if library is not xp:
            place_of(input=image, mask=mask)  # the error
        if mask.shape != image.shape:
            raise RuntimeError(
                f"mask and input must have equal sizes, got {mask.shape} and {image.shape}"
            )
        mask = _truth(xp, mask, "mask")
    border = bool(
        border_value if isinstance(border_value, np.bool_) else _whole(border_value, "border_value")
    )
    output = _output(xp, output, input)
    result = _iterate(xp, image, window, iterations, mask, border, dilate)
    return deliver(xp, result, output, input)


def _output(xp: Any, output: Any, input: Array) -> Array | None:
    """The array to write to, checked; a dtype is ignored, as in SciPy."""
    if not is_output_array(xp, output):
        return None
    require_real(output, f"Complex output type not supported: output is {output.dtype}")
    _require_numbers(output, "output")
    output_dtype(xp, output, input)
    return output


def _iterate(
    xp: Any,
    image: Array,
    window: _Window,
    iterations: int,
    mask: Array | None,
    border: bool,
    dilate: bool,
) -> Array:
    def once(image: Array, window: _Window = window) -> Array:
        seen, more = window.within(image.shape)
        if more and border == dilate:
            changed = xp.full(image.shape, dilate)
        elif seen.taps is not None and not seen.taps.any():
            changed = xp.full(image.shape, not dilate)
        else:
            rules = ("constant",) * image.ndim
            if seen.taps is None:
                sizes = tuple(b + 1 + a for b, a in zip(seen.before, seen.after, strict=True))
                changed = neighbourhood.box(
                    xp, image, sizes, seen.before, rules, border, not dilate
                )
            else:
                changed = neighbourhood.footprint(
                    xp, image, seen.taps, seen.before, rules, border, not dilate
                )
        return changed if mask is None else xp.where(mask, changed, image)

    if image.size == 0:
        return image.copy()
    if iterations == 1:
        return once(image)
    if not window.contains_centre():
        return _until_it_repeats(xp, once, image, iterations)
    # With the centre each step but the last changes an element, and none changes back: more steps
    # than elements are as many as it takes.
    if mask is None:
        farthest = sum(image.shape)
        enough = iterations if 0 < iterations < farthest else farthest
        cross = window.cross_axes()
        if window.taps is None:
            return once(image, window.repeated(enough))
        if cross:
            if len(cross) == 2:
                start = min(enough, _DIAMOND)
                image = once(image, _diamond(start, cross, image.ndim))
            else:
                start = min(enough, len(cross))
                for _ in range(start):
                    image = once(image)
            return _repeated_cross(xp, image, cross, start, enough, border, dilate)
    if iterations < 1 or iterations >= image.size:
        # Only the first step sees the border; then values spread until nothing changes.
        start = once(image)
        limit = xp.full(start.shape, dilate) if mask is None else xp.where(mask, dilate, start)
        seen, _ = window.within(image.shape)
        steps = -seen.offsets()
        return neighbourhood.reconstruct(
            xp, start, limit, steps[steps.any(axis=1)], minimum=not dilate
        )
    return _until_it_repeats(xp, once, image, iterations)


def _diamond(radius: int, axes: tuple[int, ...], ndim: int) -> _Window:
    """What `radius` iterations of the cross along two axes see."""
    distance = np.abs(np.arange(-radius, radius + 1))
    reach = tuple(radius if axis in axes else 0 for axis in range(ndim))
    taps = distance[:, None] + distance <= radius
    return _Window(reach, reach, taps.reshape([2 * r + 1 for r in reach]))


def _repeated_cross(
    xp: Any,
    image: Array,
    axes: tuple[int, ...],
    done: int,
    iterations: int,
    border: bool,
    dilate: bool,
) -> Array:
    """The iterations from `done` on of the cross along N axes, in about N log(iterations) passes.

    Up to N iterations these are passes of one step each, which the filter itself does faster.

    The set of all offsets of at most r + s steps, s <= r // N + 1, is that of at most r steps,
    combined with that of s steps along one axis: of more than r steps, at least r // N + 1 go along
    one and the same axis. Such a path never leaves the rectangle of its ends, so that no border
    inside of which both ends lie matters to it.
    """
    combine = xp.logical_or if dilate else xp.logical_and
    while done < iterations:
        step = min(done // len(axes) + 1, iterations - done)
        result = image.copy()
        for axis in axes:
            lead = (slice(None),) * axis
            low, high = (*lead, slice(None, -step)), (*lead, slice(step, None))
            combine(result[high], image[low], out=result[high])
            combine(result[low], image[high], out=result[low])
            if border == dilate:  # what lies beyond the border has an effect
                result[(*lead, slice(None, step))] = result[(*lead, slice(-step, None))] = dilate
        image = result
        done += step
    return image


def _until_it_repeats(
    xp: Any, once: Callable[[Array], Array], image: Array, iterations: int
) -> Array:
    """`iterations` steps, of which a period that repeats is computed only once.

    Finitely many states follow each other by one rule, so that sooner or later they repeat, with
    any structure, mask and border. Without the centre the period may be 2 (a structure of both
    neighbours, but not the centre), 3 (offsets 1 and -2) or, of several parts of the image, the
    least common multiple of the parts' periods. Brent's algorithm finds it: each state is compared
    with the last of those after 1, 2, 4, 8, ... steps.

    Until nothing changes (`iterations` below 1) this has no limit if the period is longer than 1.
    That shows after n^2 + 1 steps at the latest, n the number of elements: so long, at most, does
    a linear map over (or, and) of n elements and a border run before it is periodic (S. Schwarz,
    "On the semigroup of binary relations on a finite set", Czechoslovak Math. J. 20, 1970).
    """
    endless = iterations < 1
    # A look at the result takes a synchronisation on a GPU.
    kept, kept_after, next_kept = (image, 0, 1) if endless else (None, 0, 16)
    done = 0
    while endless or done < iterations:
        state = once(image)
        done += 1
        if kept is not None and bool(xp.array_equal(state, kept)):
            period = done - kept_after
            if not endless:
                for _ in range((iterations - done) % period):
                    state = once(state)
            elif period > 1:
                raise ValueError(_without_limit(f"they repeat every {period} steps"))
            return state
        if endless and done > image.size**2 + 1:
            if bool(xp.array_equal(state, image)):
                return state
            raise ValueError(_without_limit("they repeat in a long period"))
        if done == next_kept:
            kept, kept_after, next_kept = state, done, 2 * done
        image = state
    return image


def _without_limit(repeats: str) -> str:
    return (
        "iterations below 1 run until nothing changes, and with this structure, which does not "
        f"contain its origin, the states always change: {repeats}; pass the number of iterations, "
        "or a structure that is True at its origin"
    )


def binary_erosion(
    input: Any,
    structure: Any = None,
    iterations: int = 1,
    mask: Any = None,
    output: Any = None,
    border_value: int = 0,
    origin: Any = 0,
    brute_force: bool = False,
    *,
    axes: Any = None,
) -> Array:
    r"""Binary erosion: `scipy.ndimage.binary_erosion` for NumPy and CuPy arrays.

    .. math:: out[x] = \bigwedge_{y:\, structure[y]} input[x + y - \lfloor K / 2 \rfloor - origin]

    Parameters
    ----------
    input : array_like
        What is not zero is True.
    structure : array_like of bool, int or tuple of int, optional
        The cross of direct neighbours by default. As in CuPy an int, or a sequence of one for each
        axis, is the size of a full structure; along one axis only a tuple (k,), k > 1, is.
    iterations : int
        How often; below 1 until nothing changes. Any number ends soon: what no longer changes, or
        repeats, is not computed again.
    mask : array_like, optional
        Only elements where it is True change.
    output : array, optional
        Where the result goes, of any real dtype; it may be the input itself.
    border_value : int
        The truth of what lies beyond the border.
    origin, axes
        As in `minimum_filter`.
    brute_force : bool
        Accepted and without effect: every algorithm here looks at what it must and no more.

    Returns
    -------
    array of bool
        Or `output`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As SciPy does. An origin outside the structure is an IndexError and a ValueError, one that
        is no integer an IndexError and a TypeError. Also a ValueError where `iterations` is below 1
        and the states always change, as by the structure [1, 0, 1] (SciPy never returns).

    Notes
    -----
    Iterations of a box are one pass, those of the cross some log(iterations); what runs until
    nothing changes is a reconstruction by a queue [1]_. A structure may be larger than the image
    (SciPy then writes beyond its arrays).

    References
    ----------
    .. [1] L. Vincent, "Morphological grayscale reconstruction in image analysis", IEEE Trans. Image
       Processing 2 (1993), 176-201.

    Examples
    --------
    >>> binary_erosion([0, 1, 1, 1, 0, 1]).astype(int)
    array([0, 0, 1, 0, 0, 0])
    """
    return _morph(input, structure, iterations, mask, output, border_value, origin, False, axes)


def binary_dilation(
    input: Any,
    structure: Any = None,
    iterations: int = 1,
    mask: Any = None,
    output: Any = None,
    border_value: int = 0,
    origin: Any = 0,
    brute_force: bool = False,
    *,
    axes: Any = None,
) -> Array:
    r"""Binary dilation; parameters and notes as in `binary_erosion`.

    .. math:: out[x] = \bigvee_{y:\, structure[y]} input[x - y + \lfloor K / 2 \rfloor + origin]

    Examples
    --------
    >>> binary_dilation([0, 0, 0, 1, 0, 0, 0], iterations=2).astype(int)
    array([0, 1, 1, 1, 1, 1, 0])
    """
    return _morph(input, structure, iterations, mask, output, border_value, origin, True, axes)


def binary_opening(
    input: Any,
    structure: Any = None,
    iterations: int = 1,
    output: Any = None,
    origin: Any = 0,
    mask: Any = None,
    border_value: int = 0,
    brute_force: bool = False,
    *,
    axes: Any = None,
) -> Array:
    """`iterations` erosions, then as many dilations; parameters as in `binary_erosion`.

    Examples
    --------
    >>> binary_opening([0, 1, 0, 1, 1, 1, 0]).astype(int)
    array([0, 0, 0, 1, 1, 1, 0])
    """
    rest = (border_value, origin, brute_force)
    eroded = binary_erosion(input, structure, iterations, mask, None, *rest, axes=axes)
    return binary_dilation(eroded, structure, iterations, mask, output, *rest, axes=axes)


def binary_closing(
    input: Any,
    structure: Any = None,
    iterations: int = 1,
    output: Any = None,
    origin: Any = 0,
    mask: Any = None,
    border_value: int = 0,
    brute_force: bool = False,
    *,
    axes: Any = None,
) -> Array:
    """`iterations` dilations, then as many erosions; parameters as in `binary_erosion`.

    Examples
    --------
    >>> binary_closing([0, 0, 1, 0, 1, 0, 0]).astype(int)
    array([0, 0, 1, 1, 1, 0, 0])
    """
    rest = (border_value, origin, brute_force)
    dilated = binary_dilation(input, structure, iterations, mask, None, *rest, axes=axes)
    return binary_erosion(dilated, structure, iterations, mask, output, *rest, axes=axes)


# ---- compositions ------------------------------------------------------------------------------


def binary_hit_or_miss(
    input: Any,
    structure1: Any = None,
    structure2: Any = None,
    output: Any = None,
    origin1: Any = 0,
    origin2: Any = None,
    *,
    axes: Any = None,
) -> Array | None:
    """Where `structure1` fits the image and `structure2` its complement.

    Parameters
    ----------
    input, axes
        As in `binary_erosion`.
    structure1, structure2 : array_like of bool, optional
        By default the cross, and the complement of `structure1`.
    output : array, optional
        Then nothing is returned, as in SciPy.
    origin1, origin2 : int or sequence of int
        Of the structures; the second is the first's by default.

    Returns
    -------
    array of bool or None

    Examples
    --------
    >>> alone = [0, 1, 0]
    >>> binary_hit_or_miss([0, 1, 0, 1, 1, 0], alone, np.logical_not(alone)).astype(int)
    array([0, 1, 0, 0, 0, 0])
    """
    xp, input = as_array(input)
    output = _output(xp, output, input)
    count = len(check_axes(axes, input.ndim))
    if structure1 is None:
        structure1 = _cross(count)
    if structure2 is None:
        size = _size_of(structure1, count)
        if size is None:
            structure2 = np.logical_not(as_numpy(structure1, bool, "structure1"))
        else:
            structure2 = np.broadcast_to(np.False_, [max(k, 0) for k in size])
    if origin2 is None:
        origin2 = origin1
    hit = _morph(input, structure1, 1, None, None, 0, origin1, False, axes, suffix="1")
    # The erosion of the complement is the complement of a maximum over the same window.
    touched = _morph(
        input, structure2, 1, None, None, 0, origin2, True, axes, reflected=False, suffix="2"
    )
    result = xp.asarray(xp.logical_and(hit, xp.logical_not(touched)))
    return _filled(xp, result, output, input)


def _filled(xp: Any, result: Array, output: Array | None, input: Array) -> Array | None:
    """The result; None if it goes to an `output`."""
    if output is None:
        return result
    deliver(xp, result, output, input)
    return None


def binary_propagation(
    input: Any,
    structure: Any = None,
    mask: Any = None,
    output: Any = None,
    border_value: int = 0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Array:
    """What dilations within `mask` reach in the end; parameters as in `binary_erosion`.

    Examples
    --------
    >>> binary_propagation([0, 1, 0, 0, 0, 0], mask=[1, 1, 1, 0, 1, 1]).astype(int)
    array([1, 1, 1, 0, 0, 0])
    """
    return binary_dilation(input, structure, -1, mask, output, border_value, origin, axes=axes)


def binary_fill_holes(
    input: Any, structure: Any = None, output: Any = None, origin: Any = 0, *, axes: Any = None
) -> Array | None:
    """Fill what the background cannot reach from outside the image.

    Parameters
    ----------
    input, origin, axes
        As in `binary_erosion`.
    structure : array_like of bool, optional
        How the background is connected; the cross by default.
    output : array, optional
        Then nothing is returned, as in SciPy.

    Returns
    -------
    array of bool or None

    Examples
    --------
    >>> ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    >>> binary_fill_holes(ring).all()
    np.True_
    """
    xp, input = as_array(input)
    if input.dtype.kind not in "biufc":
        raise TypeError(f"data type not supported: input is {input.dtype}")
    output = _output(xp, output, input)
    background = xp.asarray(xp.logical_not(input))
    nothing = xp.zeros(input.shape, np.bool_)
    outside = binary_dilation(nothing, structure, -1, background, None, 1, origin, axes=axes)
    result = xp.asarray(xp.logical_not(outside))
    return _filled(xp, result, output, input)
