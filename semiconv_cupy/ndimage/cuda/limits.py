"""Numbers by which the launches of this package are cut, each with what set it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)  # plans are cached by the object: a hash takes a microsecond
class Limits:
    """Limits of launches; each is an argument with a default, so that tests can pass others.

    Attributes
    ----------
    shared_bytes : int
        Shared memory of a block: what CUDA gives on every GPU without an attribute of the kernel.
    blocks, blocks_y : int
        CUDA's limits of a grid along its first axis, and along the two others.
    blocks_at_once : int
        Blocks that fill a large GPU: six on each of the 132 multiprocessors of an H100. With fewer
        blocks than that a launch is taken to be half idle at its end.
    sector_bytes : int
        The least that memory moves at once, by CUDA's programming guide.
    thread_words : float
        What a thread of a box costs besides its outputs, in words moved. It is index arithmetic,
        for which small tiles are faster with blocks of 128 threads than of 256.
    stacks_apart : int
        Stacks of words in a box's tile from which on a warp's accesses to windows along rows lie in
        different banks; with fewer the launch is slower in proportion.
    small_box : tuple of int
        The longest sides of a window that ``small_box.cu`` serves, of elements of 1, 2, 4, 8 bytes.
        On an H200, 3 x 3 and 5 x 5 on 4096^2 take 8.5 and 13.7 us of uint8 (``flat.cu`` 26 and 27),
        20 and 23 us of float16 (37 and 39), 36 and 42 us of float32 (61 and 64), 9 x 9 of them 22,
        29 and 50 us (31, 39, 59); 8 bytes: not measured beyond 3.
    small_sum : tuple of int
        The longest side of a window that ``small_weighted.cu`` serves, and the longest of one along
        a row and down a column. On an H200, 3 x 3 and 5 x 5 taps on 2048^2 float32 take 21 and 38
        us (``weighted.cu`` 32, 41), 3^3 on 128^3 24 (57), 5, 9 and 21 taps of a column 14, 16 and
        24 (28, 31, 43), of a row 21, 32 and 49 (32, 35, 54): there, and for 7 x 7 (55, 60), there
        are too few registers on other GPUs.
    strips : int
        Threads that launches by strips have at least, where images are so large: 512 on each of
        the 132 multiprocessors of a large GPU.
    strip_rows : tuple of int
        The least and the most rows of strips, powers of two. Each kind has a most of its own: of
        boxes 4 up to 3 x 3 (within 3 % of the best) and for bytes, else 8 (42 us for 5 x 5 of
        float32 on 4096^2, by four 46); of sums 4, or 8 where a window has at most 3 columns.
    unit : int
        Elements between neighbouring positions of a row (colours) up to which they all lie in the
        rows of a tile, of footprints and structures. What a window sees of a row grows with them:
        16 positions of 16 elements leave shared memory few rows.
    reach : int
        Steps along an axis that a reconstruction's tile of 32 x 32 has room for in shared memory.
    kept_bytes : int
        The size up to which an array (border tables, look-ups, weights) stays on the GPU, and a
        footprint's launch is cached: a footprint of 256 x 256. It bounds memory; no time was
        measured.
    kept_arrays : int
        How many arrays stay there before all are dropped: 16 MiB at most.
    """

    shared_bytes: int = 48 * 1024
    blocks: int = 2**31 - 1
    blocks_y: int = 2**16 - 1
    blocks_at_once: int = 6 * 132
    sector_bytes: int = 32
    thread_words: float = 2.5
    stacks_apart: int = 16
    small_box: tuple[int, int, int, int] = (9, 9, 9, 3)
    small_sum: tuple[int, int, int] = (5, 9, 21)
    strips: int = 512 * 132
    strip_rows: tuple[int, int] = (1, 8)
    unit: int = 8
    reach: int = 8
    kept_bytes: int = 2**16
    kept_arrays: int = 256


LIMITS = Limits()
