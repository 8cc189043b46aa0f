"""Many steps of a binary erosion or dilation in few passes over the image.

`iterate` chooses how: one pass over a larger window, doubling passes for the cross, a
reconstruction, or step after step until the states repeat. Knows no SciPy conventions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from semiconv_cupy.backends.place import Place
from semiconv_cupy.ndimage import neighbourhood
from semiconv_cupy.ndimage.neighbourhood import Call
from semiconv_cupy.ndimage.structures import cross
from semiconv_cupy.ndimage.window import Window

Array = Any
# Iterations of a plane cross that one pass over a diamond does fastest: larger ones take longer
# than passes of `_repeated_cross`.
_DIAMOND = 16


class Step(NamedTuple):
    """One step: an erosion or dilation that changes only what `mask` shows.

    Attributes
    ----------
    place : Place
        Where the images lie.
    window : Window
        What each output sees; its constant is the truth of what lies beyond the border.
    mask : array of bool, optional
        The elements that may change; all by default.
    dilate : bool
        A dilation; else an erosion.
    """

    place: Place
    window: Window
    mask: Array | None
    dilate: bool

    @property
    def border_matters(self) -> bool:
        """Whether what lies beyond the border can change an element."""
        return bool(self.window.cval) == self.dilate

    def __call__(self, image: Array, window: Window | None = None) -> Array:
        """The image after the step, by another window where one is given."""
        changed = self.call_for(image, window)(image)
        if self.mask is None:
            return changed
        # Of bool arrays, which are masked ten times as fast as by `where`.
        return (changed & self.mask) | (image & ~self.mask)

    def call_for(self, like: Array, window: Window | None = None) -> Call:
        """What computes the step of such images, all of whose elements may change."""
        xp, minimum = self.place.array_module, not self.dilate
        seen, more = (window or self.window).within(like.shape)
        if more and self.border_matters:
            return lambda image, out=None: xp.full(image.shape, not minimum)
        if seen.taps is not None and not seen.taps.any():
            return lambda image, out=None: xp.full(image.shape, minimum)
        return neighbourhood.extremum_call(self.place, like, seen, minimum)


def iterate(step: Step, image: Array, iterations: int) -> Array:
    """`iterations` steps; below 1, steps until nothing changes."""
    if image.size == 0:
        return image.copy()
    if iterations == 1:
        return step(image)
    if not step.window.contains_own_position():
        return _until_it_repeats(step, image, iterations)
    # Where an output sees its own position, each step but the last changes an element, and none
    # changes back: more steps than elements are as many as it takes.
    if step.mask is None:
        enough = sum(image.shape)
        if 0 < iterations < enough:
            enough = iterations
        if step.window.taps is None:
            return step(image, _repeated_box(step.window, enough))
        axes = _cross_axes(step.window)
        if axes:
            return _crosses(step, image, axes, enough)
    if iterations < 1 or iterations >= image.size:
        return _reconstructed(step, image)
    return _until_it_repeats(step, image, iterations)


def _repeated_box(window: Window, iterations: int) -> Window:
    """The box that does as much at once, where the image's borders cannot matter."""
    before = tuple(iterations * b for b in window.before)
    shape = tuple(iterations * (k - 1) + 1 for k in window.shape)
    return window._replace(shape=shape, before=before)


def _reconstructed(step: Step, image: Array) -> Array:
    """Steps until nothing changes: only the first sees the border, then values spread."""
    xp, dilate = step.place.array_module, step.dilate
    start = step(image)
    if step.mask is None:
        limit = xp.full(start.shape, dilate)
    else:
        limit = start | step.mask if dilate else start & ~step.mask
    seen, _ = step.window.within(image.shape)
    steps = -seen.offsets()
    return neighbourhood.reconstruct(
        step.place, start, limit, steps[steps.any(axis=1)], minimum=not dilate
    )


# ---- the cross -----------------------------------------------------------------------------------


def _cross_axes(window: Window) -> tuple[int, ...]:
    """The axes of a cross of direct neighbours; none for another window."""
    sides = zip(window.before, window.after, strict=True)
    axes = tuple(axis for axis, reach in enumerate(sides) if reach == (1, 1))
    if window.taps is None or window.taps.size != 3 ** len(axes):
        return ()
    right = cross(len(axes))
    return axes if np.array_equal(window.taps.reshape(right.shape), right) else ()


def _crosses(step: Step, image: Array, axes: tuple[int, ...], iterations: int) -> Array:
    """`iterations` steps of the cross: the first ones by a diamond or singly, the rest doubling."""
    if len(axes) == 2:
        done = min(iterations, _DIAMOND)
        image = step(image, _diamond(done, axes, image.ndim, step.window.cval))
    else:
        done = min(iterations, len(axes))
        for _ in range(done):
            image = step(image)
    return _repeated_cross(step, image, axes, done, iterations)


@lru_cache(maxsize=64)
def _diamond(radius: int, axes: tuple[int, ...], ndim: int, border: bool) -> Window:
    """What `radius` iterations of the cross along two axes see."""
    distance = np.abs(np.arange(-radius, radius + 1))
    reach = tuple(radius if axis in axes else 0 for axis in range(ndim))
    shape = tuple(2 * r + 1 for r in reach)
    taps = (distance[:, None] + distance <= radius).reshape(shape)
    return Window(shape, reach, ("constant",) * ndim, border, taps)


def _repeated_cross(
    step: Step, image: Array, axes: tuple[int, ...], done: int, iterations: int
) -> Array:
    """The iterations from `done` on of the cross along N axes, in about N log(iterations) passes.

    Up to N iterations these are passes of one step each, which the filter itself does faster.

    The set of all offsets of at most r + s steps, s <= r // N + 1, is that of at most r steps,
    combined with that of s steps along one axis: of more than r steps, at least r // N + 1 go along
    one and the same axis. For N = 2, r = 2 and s = 2 (the set of r at the left)::

                          . . . . 2 . . . .
                          . . . 2 2 2 . . .
            . . 0 . .     . . 2 2 1 2 2 . .
            . 0 0 0 .     . 2 2 1 0 1 2 2 .      1: moved by s along one axis or lying within,
            0 0 0 0 0     2 2 1 0 0 0 1 2 2      2: at most 4 steps away
            . 0 0 0 .     . 2 2 1 0 1 2 2 .
            . . 0 . .     . . 2 2 1 2 2 . .
                          . . . 2 2 2 . . .
                          . . . . 2 . . . .

    Such a path never leaves the rectangle of its ends, so that no border inside of which both ends
    lie matters to it.
    """
    xp, dilate = step.place.array_module, step.dilate
    combine = xp.logical_or if dilate else xp.logical_and
    while done < iterations:
        shift = min(done // len(axes) + 1, iterations - done)
        result = image.copy()
        for axis in axes:
            lead = (slice(None),) * axis
            low, high = (*lead, slice(None, -shift)), (*lead, slice(shift, None))
            combine(result[high], image[low], out=result[high])
            combine(result[low], image[high], out=result[low])
            if step.border_matters:
                result[(*lead, slice(None, shift))] = result[(*lead, slice(-shift, None))] = dilate
        image = result
        done += shift
    return image


# ---- states that repeat --------------------------------------------------------------------------


def _until_it_repeats(step: Step, image: Array, iterations: int) -> Array:
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
    xp = step.place.array_module
    endless = iterations < 1
    # To compare two states, a GPU must be waited for: not after each of few steps.
    kept, kept_after, next_kept = (image, 0, 1) if endless else (None, 0, 16)
    done = 0
    while endless or done < iterations:
        state = step(image)
        done += 1
        if kept is not None and bool(xp.array_equal(state, kept)):
            period = done - kept_after
            if not endless:
                for _ in range((iterations - done) % period):
                    state = step(state)
            elif period > 1:
                raise ValueError(without_limit(f"they repeat every {period} steps"))
            return state
        if endless and done > image.size**2 + 1:
            if bool(xp.array_equal(state, image)):
                return state
            raise ValueError(without_limit("they repeat in a long period"))
        if done == next_kept:
            kept, kept_after, next_kept = state, done, 2 * done
        image = state
    return image


def without_limit(repeats: str) -> str:
    """The message for steps that never come to an end."""
    return (
        "iterations below 1 run until nothing changes, and with this structure, which does not "
        f"contain its origin, the states always change: {repeats}; pass the number of iterations, "
        "or a structure that is True at its origin"
    )
