"""Random calls of each function that takes Dask arrays, and random chunks of their images.

``python tests/chunks/random_chunks.py 500`` compares so many with the calls in memory; ``500 cupy``
makes chunks of CuPy arrays, and compares with NumPy's.
"""

import importlib
import re
import sys

import dask.array as da
import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy import ndimage

MODES = ("reflect", "mirror", "nearest", "wrap", "constant", "grid-wrap", "grid-mirror", "ignore")
WINDOWED = (
    "minimum_filter", "maximum_filter", "grey_erosion", "grey_dilation", "grey_opening",
    "grey_closing", "white_tophat", "black_tophat", "morphological_gradient",
    "morphological_laplace",
)  # fmt: skip
LINES = ("minimum_filter1d", "maximum_filter1d", "correlate1d", "convolve1d")
SUMS = ("correlate", "convolve")
STEPS = ("binary_erosion", "binary_dilation", "binary_opening", "binary_closing")
BINARY = (*STEPS, "binary_propagation", "binary_fill_holes", "binary_hit_or_miss")
WHOLE = ("reconstruction", "rolling_ball")
PARABOLIC = tuple(f"parabolic_{kind}" for kind in ("dilation", "erosion", "opening", "closing"))
DISTANCES = tuple(f"distance_transform_{kind}" for kind in ("edt", "bf", "cdt"))
OF_HEIGHTS = ("h_maxima", "h_minima", "opening_by_reconstruction", "closing_by_reconstruction")
FUNCTIONS = (*WINDOWED, *LINES, *SUMS, *BINARY, *WHOLE, *PARABOLIC, *DISTANCES, *OF_HEIGHTS)
DTYPES = ("uint8", "float32", "float64")


def chunks_of(rng, shape):
    """Whole axes, equal pieces, single elements, uneven pieces, pieces without elements."""
    return tuple(_pieces(rng, n) for n in shape)


def _pieces(rng, n):
    style = rng.integers(5)
    if style == 0 or n == 0:
        return (n,)
    if style == 1:
        size = int(rng.integers(1, n + 1))
        return (size,) * (n // size) + ((n % size,) if n % size else ())
    if style == 2 and n <= 12:
        return (1,) * n
    inner = rng.integers(0, n + 1, rng.integers(1, 5))
    ends = np.sort(np.concatenate([[0, n], inner]))
    return tuple(int(k) for k in np.diff(ends))


def image_of(rng, shape, dtype):
    if dtype == "bool":
        return rng.random(shape) < rng.choice([0.1, 0.4, 0.7])
    if dtype in ("uint8", "int64"):
        return rng.integers(0, 256, shape, dtype)
    return rng.standard_normal(shape).astype(dtype)


def origins(rng, sizes):
    return tuple(int(rng.integers(-(k // 2), (k - 1) // 2 + 1)) for k in sizes)


def window_of(rng, name, axes):
    """size=, footprint= or structure= with origin=, on so many axes."""
    sizes = tuple(int(k) for k in rng.integers(1, 6 if len(axes) < 3 else 4, len(axes)))
    kind = rng.choice(["size", "footprint", "structure"][: 2 if "filter" in name else 3])
    arguments = {"origin": origins(rng, sizes)}
    if kind == "size":
        arguments["size"] = sizes
    else:
        taps = rng.random(sizes) < 0.6
        taps.flat[0] = True
        arguments["footprint"] = taps
    if kind == "structure":
        arguments["structure"] = rng.integers(-5, 6, sizes)
    return arguments


def some_axes(rng, ndim):
    count = int(rng.integers(1, ndim + 1))
    return tuple(int(a) for a in np.sort(rng.permutation(ndim)[:count]))


def work(seed):
    """(function, arguments by name, names of those that are images)."""
    rng = np.random.default_rng(seed)
    name = FUNCTIONS[seed % len(FUNCTIONS)]
    function = getattr(sc, name, None) or getattr(ndimage, name)
    shape = tuple(int(n) for n in rng.integers(1, 14, rng.integers(1, 4)))
    if rng.random() < 0.04:
        shape = (*shape[:-1], 0)
    axes = some_axes(rng, len(shape))
    dtype = str(rng.choice(DTYPES))
    if name in WINDOWED:
        arguments = {"input": image_of(rng, shape, dtype), "axes": axes}
        arguments |= window_of(rng, name, axes) | {"mode": str(rng.choice(MODES)), "cval": 3.0}
    elif name in LINES or name in SUMS:
        arguments = _correlation(rng, name, shape, dtype, axes)
    elif name in BINARY:
        arguments = _binary(rng, name, shape, axes)
    elif name in PARABOLIC:
        scale = rng.choice([0.0, 0.5, 1.0, 3.0, np.inf], len(axes)).tolist()
        arguments = {"input": image_of(rng, shape, dtype), "scale": scale, "axes": axes}
    elif name in DISTANCES:
        arguments = {"input": image_of(rng, shape, "bool")}
        if name != "distance_transform_cdt" and rng.random() < 0.4:
            arguments["sampling"] = rng.random(len(shape)) + 0.5
    elif name in OF_HEIGHTS:
        arguments = _of_heights(rng, name, shape, dtype, axes)
    elif name == "rolling_ball":
        arguments = {"image": image_of(rng, shape, dtype), "radius": float(rng.integers(0, 50)) / 8}
    else:
        arguments = _reconstruction(rng, shape, dtype)
    return (
        function,
        arguments,
        [key for key in ("input", "image", "seed", "mask") if key in arguments],
    )


def _correlation(rng, name, shape, dtype, axes):
    arguments = {"input": image_of(rng, shape, dtype), "cval": 2.0}
    arguments["mode"] = str(rng.choice(MODES if "filter" in name else MODES[:-1]))
    if name in SUMS:
        sizes = tuple(int(k) for k in rng.integers(1, 5, len(axes)))
        weights = rng.integers(-2, 3, sizes) * rng.random(sizes)
        origin = tuple(-o - (1 - k % 2) for o, k in zip(origins(rng, sizes), sizes, strict=True))
        if name == "correlate":
            origin = origins(rng, sizes)
        return arguments | {"weights": weights, "axes": axes, "origin": origin}
    size, axis = int(rng.integers(1, 7)), int(rng.integers(len(shape)))
    (origin,) = origins(rng, (size,))
    if name == "convolve1d":
        origin = -origin - (1 - size % 2)
    window = (
        {"weights": rng.random(size)}
        if "correlate" in name or "convolve" in name
        else {"size": size}
    )
    return arguments | window | {"axis": axis, "origin": origin}


def _binary(rng, name, shape, axes):
    arguments = {"input": image_of(rng, shape, "bool"), "axes": axes}
    sizes = tuple(int(k) for k in rng.integers(1, 4, len(axes)))
    structure = rng.random(sizes) < 0.7
    own = tuple(k // 2 for k in sizes)
    structure[own] = rng.random() < 0.8  # else steps may never end, which is refused
    style, suffix = rng.integers(3), "1" if name == "binary_hit_or_miss" else ""
    if style == 0:
        arguments[f"structure{suffix}"] = structure
    elif style == 1:
        arguments[f"structure{suffix}"] = np.ones((3,) * len(axes), np.bool_)
    if name in STEPS:
        arguments["iterations"] = int(rng.choice([1, 2, 5, 40, 0]))
    if name in (*STEPS, "binary_propagation"):
        arguments["border_value"] = int(rng.integers(2))
        if rng.random() < 0.6:
            arguments["mask"] = image_of(rng, shape, "bool")
    return arguments


def _reconstruction(rng, shape, dtype):
    seed, mask = image_of(rng, shape, dtype), image_of(rng, shape, dtype)
    method = str(rng.choice(["dilation", "erosion"]))
    limit = np.minimum if method == "dilation" else np.maximum
    arguments = {"seed": limit(seed, mask), "mask": mask, "method": method}
    if rng.random() < 0.4:
        sizes = tuple(int(k) for k in rng.integers(1, 4, len(shape)))
        arguments |= {"footprint": rng.random(sizes) < 0.7, "offset": [k // 2 for k in sizes]}
    return arguments


def _of_heights(rng, name, shape, dtype, axes):
    image = image_of(rng, shape, rng.choice([dtype, "bool", "float16"]))
    if image.dtype.kind == "f" and rng.random() < 0.4:
        image[rng.random(shape) < 0.1] = rng.choice([np.nan, np.inf, -np.inf])
    arguments = {"image": image}
    if name.startswith("h_"):  # of 300 is none of uint8, nor of the others
        return arguments | {"h": float(rng.choice([0.5, 1, 2, 2.5, 40, 300]))}
    size = tuple(int(k) for k in rng.integers(1, 5, len(axes)))
    arguments |= {"size": size, "axes": axes, "mode": str(rng.choice(MODES)), "cval": 3.0}
    arguments["preserve_intensities"] = bool(rng.integers(2))
    return arguments | {"connectivity": int(rng.integers(1, len(axes) + 1))}


def compare(seed, library=np):
    """Raise unless the call with Dask arrays of random chunks equals the call in memory.

    The chunks are arrays of `library`, and so is the result.
    """
    function, arguments, images = work(seed)
    rng = np.random.default_rng([seed, 1])
    expected = refused = None
    try:
        expected = function(**arguments)
    except ValueError as error:
        refused = str(error)
    chunks = chunks_of(rng, arguments[images[0]].shape)

    def in_chunks(key, chunks):
        return da.from_array(library.asarray(arguments[key]), chunks=chunks, asarray=False)

    later = {key: in_chunks(key, chunks) for key in images[:1]}
    if "mask" in images and (rng.random() < 0.7 or library is not np):
        later["mask"] = in_chunks("mask", chunks_of(rng, arguments["mask"].shape))
    if refused is not None:
        with pytest.raises(ValueError, match=re.escape(refused)):
            function(**{**arguments, **later}).compute(scheduler="sync")
        return
    result = function(**{**arguments, **later})
    assert isinstance(result, da.Array)
    assert result.chunks == chunks
    assert result.dtype == expected.dtype
    values = result.compute(scheduler="sync")
    if library is not np:
        assert isinstance(values, library.ndarray)
        values = values.get()
    assert values.dtype == expected.dtype
    np.testing.assert_array_equal(values, expected, err_msg=f"{function.__name__}, seed {seed}")


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    library = importlib.import_module(sys.argv[2]) if len(sys.argv) > 2 else np
    for seed in range(count):
        compare(seed, library)
    print(f"{count} works in random chunks equal the calls in memory: {len(FUNCTIONS)} functions")


if __name__ == "__main__":
    main()
