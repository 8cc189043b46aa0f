"""More than 2^31 elements, 70,001 images and channels, kernels of 1001 x 1001: right on a GPU?

    python tests/large_arrays.py [--side 46400] [--many 70001] [--kernel 1001] [--numpy]

Whole results are compared with the CPU's where these are quick, else parts of them: the first and
the last rows, and those around element 2^31. A work for which the GPU has too little memory is
skipped. With --numpy, small sizes rehearse it without a GPU.
"""

import argparse
import sys
import time

import numpy as np

import semiconv_cupy as sc

HALO = 4  # rows around a compared part, which its windows see
ROWS = 24  # of a compared part


def image(xp, side, dtype):
    """Numbers that differ in every part, made row by row."""
    row = xp.asarray(np.random.default_rng(0).integers(0, 251, 2 * side))
    made = xp.empty((side, side), dtype)
    for y in range(0, side, 64):
        rows = xp.stack([row[(n * 7919) % side :][:side] for n in range(y, min(y + 64, side))])
        made[y : y + 64] = ((rows + y) % 251).astype(dtype)
    return made


def parts_of(side):
    """The first rows that are compared: at both ends, and where element 2^31 lies."""
    return sorted({0, min(2**31 // side, side - ROWS), side - ROWS})


def on_host(array):
    return array.get() if hasattr(array, "get") else array


def compare_rows(given, found, call, equal):
    """`call` of the rows around each part, on the CPU, gives the part's rows."""
    side = len(found)
    for first in parts_of(side):
        begin, end = max(0, first - HALO), min(side, first + ROWS + HALO)
        expected = call(on_host(given[begin:end]))[first - begin :][:ROWS]
        equal(on_host(found[first : first + ROWS]), expected)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def filters(xp, options):
    x = image(xp, options.side, np.uint8)

    def opening(array):
        return sc.ndimage.grey_opening(array, (3, 5), mode="nearest")

    compare_rows(x, opening(x), opening, np.testing.assert_array_equal)


def dilations(xp, options):
    x = image(xp, options.side, np.uint8) > 245

    def call(array):
        return sc.ndimage.binary_dilation(array, iterations=2)

    compare_rows(x, call(x), call, np.testing.assert_array_equal)


def distances(xp, options):
    """Background in every 1000th row: the distance is that of rows."""
    side = options.side
    x = xp.ones((side, side), bool)
    x[::1000] = False
    found = sc.ndimage.distance_transform_edt(x)
    for first in parts_of(side):
        y = np.arange(first, first + ROWS)
        below = np.where((y // 1000 + 1) * 1000 < side, 1000 - y % 1000, 1000)
        expected = np.broadcast_to(np.minimum(y % 1000, below)[:, None], (ROWS, side))
        np.testing.assert_array_equal(on_host(found[first : first + ROWS]), expected)


def convolutions(xp, options):
    """Values and the image's gradient."""
    x = image(xp, options.side, np.float32)
    krn = np.random.default_rng(1).random((1, 1, 3, 3), np.float32)
    for semifield, equal in (
        ("tropical_max", np.testing.assert_array_equal),
        (sc.SubtractSemifield.log(0.1), close),
    ):

        def call(array, semifield=semifield):
            weights = xp.asarray(krn) if array is x else krn
            return sc.semifield_conv(array[None, None], weights, semifield, padding=1)[0, 0]

        compare_rows(x, call(x), call, equal)

    def gradient(array):
        weights = xp.asarray(krn) if array is x else krn
        out, pull_back = sc.semifield_conv_vjp(
            array[None, None], weights, "tropical_max", padding=1
        )
        return pull_back(out)[0][0, 0]

    compare_rows(x, gradient(x), gradient, close)


def many(xp, options):
    """Batches, channels and matrices, with gradients."""
    random, n = np.random.default_rng(2), options.many
    works = {
        "images": ((n, 1, 9, 9), (2, 1, 3, 3), {}),
        "channels": ((1, n - 1, 5, 6), (n - 1, 1, 3, 3), {"groups": n - 1, "padding": 1}),
    }
    for img_shape, krn_shape, arguments in works.values():
        arrays = [random.random(shape, np.float32) for shape in (img_shape, krn_shape)]
        results = []
        for module in (np, xp):
            given = map(module.asarray, arrays)
            out, pull_back = sc.semifield_conv_vjp(*given, "tropical_max", **arguments)
            results.append((out, *pull_back(out)))
        (out, *grads), (found, *found_grads) = results
        np.testing.assert_array_equal(on_host(found), out)
        for one, other in zip(found_grads, grads, strict=True):
            np.testing.assert_allclose(on_host(one), other, rtol=1e-4)
    a, b = random.random((n, 3, 4), np.float32), random.random((4, 5), np.float32)
    found = sc.semifield_matmul(xp.asarray(a), xp.asarray(b), "tropical_max")
    np.testing.assert_array_equal(on_host(found), sc.semifield_matmul(a, b, "tropical_max"))


def large_kernels(xp, options):
    """Some outputs, each compared with the maximum over its window by array functions."""
    size = options.kernel
    random = np.random.default_rng(3)
    x, krn = (xp.asarray(random.random((size, size), np.float32)) for _ in range(2))
    pad = size // 2
    out = sc.semifield_conv(x[None, None], krn[None, None], "tropical_max", padding=pad)[0, 0]
    flipped = krn[::-1, ::-1]
    ends = [0, 0], [size - 1, size - 1]
    for y, x_at in (*random.integers(0, size, (40, 2)).tolist(), *ends):
        place = []
        for at in (y, x_at):
            begin, end = max(0, at - pad), min(size, at + pad + 1)
            place.append((slice(begin, end), slice(begin - at + pad, end - at + pad)))
        (rows, taps_y), (columns, taps_x) = place
        expected = (x[rows, columns] + flipped[taps_y, taps_x]).max()
        assert out[y, x_at] == expected, (y, x_at)


# Bytes that a work needs for each element of its image.
WORKS = {filters: 6, dilations: 8, distances: 40, convolutions: 24, many: 0, large_kernels: 0}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--numpy", action="store_true", help="NumPy arrays, and small sizes")
    parser.add_argument("--side", type=int, help="of the large images")
    parser.add_argument("--many", type=int, help="images, and one channel less")
    parser.add_argument("--kernel", type=int, help="its size along both axes")
    options = parser.parse_args(arguments)
    for name, small, large in (("side", 3000, 46400), ("many", 301, 70001), ("kernel", 61, 1001)):
        if getattr(options, name) is None:
            setattr(options, name, small if options.numpy else large)
    if options.numpy:
        xp, free = np, 2**62
    else:
        import cupy as xp

        free = xp.cuda.runtime.memGetInfo()[0]
    right = []
    for work, each in WORKS.items():
        need = each * options.side**2
        if need > free:
            print(f"{work.__name__}: skipped, needs {need / 1e9:.0f} GB, free {free / 1e9:.0f}")
            continue
        begin = time.perf_counter()
        work(xp, options)
        print(f"{work.__name__}: right, {time.perf_counter() - begin:.1f} s", flush=True)
        right.append(work)
        if not options.numpy:
            xp.get_default_memory_pool().free_all_blocks()
    print(f"{len(right)} of {len(WORKS)} works of large arrays are right")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
