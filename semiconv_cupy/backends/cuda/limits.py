"""The numbers by which work is cut into blocks and tiles, each with the reason for its value.

Array-free. All plans of this package take them as an argument, so that tests can pass others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

BLOCK_THREADS = 256  # threads of a block, where a kernel leaves it to the launch
CHUNK = 4  # neighbouring elements of a row that a thread loads at once (Chunk in chunk.cuh)


@dataclass(frozen=True, eq=False)  # compared by identity: a quick key of caches
class Limits:
    """Limits of tiles and launches.

    Registers and shared memory are those of GPUs from compute capability 7.0 to 9.0; times were
    measured on an H100, or computed by its model (``python -m kernels_cu report --works``).

    Attributes
    ----------
    shared_bytes : int
        Shared memory of a block: what every GPU gives without being asked for more.
    shared_bytes_of_multiprocessor : int
        Shared memory of all blocks of a multiprocessor of a large GPU, which has 228 KiB.
    offset_32 : int
        Offsets below this number are computed in 32 bits, which takes half the instructions.
    filled : float
        The least part of a tile's elements that must exist: idle threads cost more than tiles save
        below it. 0 accepts every tile, and keeps tiles large where outputs are few.
    mixed_channels : int
        The least number of channels on both sides for the kernels of sums that mix channels: with
        fewer, most threads of a block would have none.
    slab_rows : int
        The least rows of taps in a slab of a large window: below, copies of the image cost more
        than large tiles save. Slabs brought 101x101 taps on 1024^2 pixels to 799 us; the arithmetic
        alone takes 722 us.
    part_slabs, part_warps : int
        The least slabs of a part, and the warps up to which blocks share the slabs of a tile: eight
        for each of the 528 schedulers of a large GPU. Accumulators of all parts take as much memory
        as registers of so many warps hold. On an H200, 257x257 taps on an image of that size took
        0.64 ms, before 1.46 ms; 501x501 took 6.1 ms, before 6.2 ms.
    threads : int
        The least threads of a block: smaller blocks leave a multiprocessor idle.
    warps : int
        The least warps of a launch, below which tiles become small: two for each of the 528
        schedulers of a large GPU.
    small_rows : tuple of int
        Rows that a thread may hold where images have at most 32 columns and are many, the fewest
        first. Of 14 rows, 7 leave no thread idle, and halve what a thread does once for all its
        outputs: on an H200, 72 us for 4096 x 32 images of 14^2, by 4 rows 76 us. Of 7 and 16 rows,
        4 are better (27 us for as many images of 7^2, by 7 rows 41 us), and with strides of 2.
    full_blocks : int
        Blocks that fill any GPU several times over.
    light_threads : int
        Threads that a multiprocessor holds of both gradients of a selection with two or three rows
        and columns of taps, whose derivatives are constant: each may take 72 registers then, and
        takes 48 to 72. On an H200, both gradients of 4096 x 32 images of 14^2 take 107 us (768
        threads: 113, 640: 124; 1024, of 64 registers: 106), of 7^2 75 us (768: 77, 640: 80).
    jobs : int
        Tiles that a block adds up at most, so that its sums stay exact enough.
    taps_in_registers : int
        Sums of the kernel's gradient that a thread holds: 5 x 5 taps.
    line_in_registers : int
        Columns of a window that a thread's registers hold a line of the image for.
    terms : int
        Terms of the kernel's gradient that a thread adds up in the arithmetic's own precision; then
        they are added to a partial sum in float64. 256 terms lose 8 bits at most.
    busy_blocks : int
        Blocks of the kernel's gradient that keep any GPU busy. Partial sums take memory, so that
        there are at most twice as many blocks.
    sums_in_registers, image_in_registers, channels_in_registers : int
        Registers of a thread of the kernel's gradient that mixes channels: sums, numbers of the
        image beside them, and both together where a thread has several input channels.
    bins_bytes : int
        Shared memory of a block's bins, 8 KiB less than a block may have: the rest of it is used.
    direct_parts, direct_outputs : int
        Partial sums of a weight at most, and outputs that a block adds up at least, in the kernel's
        gradient of any geometry.
    product_parts, product_slabs : int
        Matrix products: blocks that share the terms of a tile at most, and slabs of terms that a
        team keeps at least. Fewer slabs would be little beside the copies of the first one.
    few_rows : int
        Wide tiles along a matrix's rows at most: each reads all columns again.
    multiprocessors : int
        Of a large GPU. Gradients of small planes are one wave of blocks, of a GPU's own number of
        multiprocessors where that is smaller.
    conditional_blocks : int
        The largest grid of a conditional launch, which usually returns at once: more blocks only
        add start-up time.
    """

    shared_bytes: int = 48 * 1024
    shared_bytes_of_multiprocessor: int = 224 * 1024
    offset_32: int = 2**31 - 1
    filled: float = 0.3
    mixed_channels: int = 4
    slab_rows: int = 4
    part_slabs: int = 2
    part_warps: int = 4224
    threads: int = 64
    warps: int = 1024
    small_rows: tuple[int, ...] = (4, 7)
    full_blocks: int = 4096
    light_threads: int = 896
    jobs: int = 64
    taps_in_registers: int = 25
    line_in_registers: int = 33
    terms: int = 256
    busy_blocks: int = 1024
    sums_in_registers: int = 72
    image_in_registers: int = 40
    channels_in_registers: int = 92
    bins_bytes: int = 40 * 1024
    direct_parts: int = 256
    direct_outputs: int = 16 * BLOCK_THREADS
    product_parts: int = 64
    product_slabs: int = 2
    few_rows: int = 2
    multiprocessors: int = 132
    conditional_blocks: int = 1024

    @lru_cache(maxsize=64)  # noqa: B019 - there are few, and they are small
    def for_method(self, method: str) -> Limits:
        """These limits; by "tiled" also tiles that are mostly empty, and few channels."""
        return replace(self, filled=0.0, mixed_channels=1) if method == "tiled" else self


LIMITS = Limits()
