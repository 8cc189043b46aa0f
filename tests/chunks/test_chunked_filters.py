"""Functions of Dask arrays equal the functions of arrays in memory, lazily, for any chunks."""

import inspect
import itertools
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

da = pytest.importorskip("dask.array", reason="Dask is not installed: pip install '.[dask]'")

import dask  # noqa: E402
from random_chunks import FUNCTIONS, MODES, OF_HEIGHTS, compare, work  # noqa: E402

import semiconv_cupy as sc  # noqa: E402
from semiconv_cupy import ndimage  # noqa: E402
from semiconv_cupy.dask.halo import Halo, Reach, needed  # noqa: E402

IMAGE = np.random.default_rng(0).integers(0, 256, (23, 31), np.uint8)


@pytest.mark.table(60)
@pytest.mark.parametrize("seed", range(500))
def test_a_random_work_in_random_chunks(seed):
    compare(seed)


def test_the_works_call_every_function_of_an_image():
    called = {work(seed)[0].__name__ for seed in range(len(FUNCTIONS))}
    others = {"generate_binary_structure", "iterate_structure"}
    assert called | others >= set(ndimage.__all__)


@pytest.mark.parametrize("mode", MODES)
def test_windows_longer_than_the_image(mode):
    for chunks in ((8, 31), ((3, 0, 20), (16, 15))):
        later = da.from_array(IMAGE, chunks=chunks)
        for size in ((60, 3), (47, 90)):
            found = ndimage.grey_closing(later, size, mode=mode).compute(scheduler="sync")
            np.testing.assert_array_equal(found, ndimage.grey_closing(IMAGE, size, mode=mode))


def test_chunks_without_elements_on_an_axis_of_one():
    """Dask's element-wise functions take only the first chunk of such an axis."""
    image = np.array([[1, 0, 1, 1, 0, 1, 0, 1, 1, 0]], bool)
    later = da.from_array(image, chunks=((0, 1, 0, 0), (0, 5, 4, 1)))
    for function in (ndimage.binary_propagation, ndimage.binary_fill_holes, ndimage.white_tophat):
        arguments = {"size": (1, 3)} if function is ndimage.white_tophat else {}
        found = function(later, **arguments)
        assert found.chunks == later.chunks
        np.testing.assert_array_equal(found, function(image, **arguments))


def test_nothing_is_computed_and_the_result_says_what_it_is():
    def never(block_info=None):
        raise AssertionError

    later = da.map_blocks(never, chunks=((4, 4), (6,)), dtype="f4", meta=np.empty((0, 0), "f4"))
    for result in (
        ndimage.white_tophat(later, 3),
        ndimage.correlate1d(later, [1, 2], output="f8"),
        ndimage.binary_propagation(later, mask=later),
    ):
        assert (result.shape, result.chunks) == ((8, 6), ((4, 4), (6,)))
        assert type(result._meta) is np.ndarray
    assert ndimage.correlate(later, [[1, 2]], output="f8").dtype == np.float64
    assert ndimage.binary_erosion(later).dtype == bool


def test_arguments_are_checked_at_once_with_the_usual_errors():
    later = da.from_array(IMAGE, chunks=8)
    with pytest.raises(RuntimeError, match="boundary mode not supported: 'round'"):
        ndimage.maximum_filter(later, 3, mode="round")
    with pytest.raises(ValueError, match="Invalid origin 2"):
        ndimage.grey_opening(later, 3, origin=2)
    with pytest.raises(TypeError, match=r"output cannot be an array.*to_zarr"):
        ndimage.grey_erosion(later, 3, output=np.empty_like(IMAGE))
    with pytest.raises(TypeError, match="output cannot be an array"):
        ndimage.grey_erosion(later, 3, output=later)
    with pytest.raises(RuntimeError, match=r"must have equal sizes, got \(23, 31\) and \(5, 5\)"):
        ndimage.binary_dilation(later, mask=np.ones((5, 5)))
    unknown = later[later > 3]
    with pytest.raises(ValueError, match=r"input.compute_chunk_sizes\(\)"):
        ndimage.grey_erosion(unknown, 3)
    with pytest.raises(TypeError, match=r"img is a Dask array, .* pass img.compute\(\)"):
        sc.semifield_conv_vjp(later[None, None], IMAGE[None, None], "tropical_max")
    with pytest.warns(sc.FootprintWarning):
        result = ndimage.grey_erosion(later, structure=np.ones((3, 3)))
    with warnings.catch_warnings(record=True) as caught:  # chunks do not warn again
        warnings.simplefilter("always")
        result.compute(scheduler="sync")
    assert caught == []


def test_a_footprint_may_be_a_dask_array_and_an_image_may_be_in_memory():
    taps = np.array([[0, 1, 0], [1, 1, 1]], bool)
    later = da.from_array(IMAGE > 99, chunks=(9, 31))
    result = ndimage.binary_erosion(later, da.from_array(taps, chunks=1))
    np.testing.assert_array_equal(result, ndimage.binary_erosion(IMAGE > 99, taps))
    result = ndimage.binary_dilation(IMAGE > 200, mask=later)
    assert isinstance(result, da.Array)
    np.testing.assert_array_equal(result, ndimage.binary_dilation(IMAGE > 200, mask=IMAGE > 99))


def test_each_element_moves_once_and_no_more_than_the_window_sees():
    """Three axes: 2 slabs each, all faces, and the result; bytes are the shell of the chunks."""
    later = da.zeros((40, 40, 40), chunks=(10, 20, 8), dtype=np.uint8)
    for windowed, slabs in (((0, 1, 2), 7), ((1,), 2)):
        result = ndimage.maximum_filter(later, size=4, axes=windowed)
        graph = dict(result.__dask_graph__())
        tasks = [key for key in graph if isinstance(key, tuple) and key[0] != later.name]
        assert len(tasks) <= later.npartitions * (slabs + 1)
        # No key is shared by all chunks, and a slab needs whole chunks only where it needs no slab:
        # so no chunk moves for a slab, nor for what all workers have.
        needs = result.__dask_graph__().get_all_dependencies()
        for key in tasks:
            assert all(isinstance(other, tuple) for other in needs[key])
            if "slab" in key[0]:
                whole = any(other[0] == later.name for other in needs[key])
                assert not whole or len(needs[key]) == 1
    stage = (Reach(2, 1, "reflect"),) * 3
    moved = Halo.of(later.chunks, [stage]).elements_moved(later.chunks)
    cut = [
        sum(min(2, e) + min(1, 40 - e) for e in ends)
        for ends in ([10, 20, 30], [20], range(8, 40, 8))
    ]
    assert moved == (40 + cut[0]) * (40 + cut[1]) * (40 + cut[2]) - 40**3


@pytest.mark.parametrize("name", ["binary_dilation", "binary_erosion"])
def test_steps_by_a_structure_without_its_origin_run_until_nothing_changes(name):
    """No chunk is ever joined with another one; what never ends is refused as in memory."""
    function, image = getattr(ndimage, name), IMAGE > 99

    def bounded(block):
        assert block.size <= 80
        return block

    later = da.from_array(image, chunks=(8, 10)).map_blocks(bounded)
    for structure in ([[1, 0, 0]], [[1, 1], [1, 0]]):  # the second moves both ways
        found = function(later, structure, iterations=0)
        assert all(size <= 10 for along in found.chunks for size in along)
        np.testing.assert_array_equal(found, function(image, structure, iterations=0))
    point = np.zeros((9, 20), bool)
    point[5, 7] = True
    given = dict(structure=[[1, 0, 1]], iterations=0, border_value=int(name == "binary_erosion"))
    if name == "binary_erosion":
        point = ~point
    for array in (point, da.from_array(point, chunks=(5, 6))):
        with pytest.raises(ValueError, match="they repeat every 2 steps; pass the number"):
            function(array, **given)


@pytest.mark.parametrize("name", OF_HEIGHTS)
def test_no_chunks_are_joined_for_what_reconstruction_makes(name):
    """Nor is a chunk computed before `compute` where values spread into no other one."""
    function, blocks = getattr(sc, name), []
    argument = {"h": 9} if name.startswith("h_") else {"size": 3}

    def bounded(block):
        blocks.append(block.size)
        return block

    later = da.from_array(IMAGE, chunks=(8, 10)).map_blocks(bounded, meta=IMAGE[:0, :0])
    found = function(later, **argument)
    np.testing.assert_array_equal(found, function(IMAGE, **argument))
    assert max(blocks) <= 80
    if "size" in argument:
        blocks.clear()
        lines = later.rechunk((8, 31)).map_blocks(bounded, meta=IMAGE[:0, :0])
        found = function(lines, size=3, axes=1, preserve_intensities=True)
        assert blocks == []
        expected = function(IMAGE, size=3, axes=1, preserve_intensities=True)
        np.testing.assert_array_equal(found, expected)


def test_tasks_of_what_spreads_stay_few():
    """25 a chunk, and 45 with a mask that is an array in chunks, too."""
    later = da.zeros((160, 160, 160), chunks=20, dtype=bool)
    for result, most in (
        (ndimage.binary_fill_holes(later), 25),
        (ndimage.binary_propagation(later, mask=~later), 45),
    ):
        assert len(dict(result.__dask_graph__())) <= most * later.npartitions


def test_pieces_of_whole_lines_are_parts_of_chunks():
    """Pieces whose ends are no chunks' ends would take ten times as many tasks."""
    later = da.zeros((400, 400, 400), chunks=100, dtype=np.uint8)
    with dask.config.set({"array.chunk-size": "1 MiB"}):
        for result in (ndimage.distance_transform_edt(later), sc.parabolic_erosion(later, 1.0)):
            assert len(dict(result.__dask_graph__())) <= 32 * later.npartitions


@pytest.mark.parametrize("name", ["dilation", "erosion", "opening", "closing"])
def test_parabolas_of_integers_see_no_further_than_their_range(name):
    """Single extreme pixels reach as far as any can; chunks see that far, and no whole lines."""
    function = getattr(sc, f"parabolic_{name}")
    rng = np.random.default_rng(7)
    for dtype, scale in (("uint8", 0.5), ("int8", (0.3, 1.0)), ("uint8", (0.0, 0.7))):
        limits = np.iinfo(dtype)
        image = np.where(rng.random((90, 110)) < 0.01, limits.max, limits.min).astype(dtype)
        for values in (image, np.invert(image)):
            later = function(da.from_array(values, chunks=(30, 40)), scale)
            assert not any("lines" in layer or "rechunk" in layer for layer in later.dask.layers)
            np.testing.assert_array_equal(later, function(values, scale))


@pytest.mark.parametrize("rule", ["reflect", "mirror", "nearest", "wrap", "constant"])
def test_no_smaller_part_would_do(rule):
    """Every end of the needed part matters: by a search for the elements that an output shows."""
    from semiconv_cupy.ndimage.borders import beyond

    for size, before, after in itertools.product((1, 2, 5, 9), (0, 1, 3), (0, 2)):
        table = np.concatenate(
            [beyond(size, before, 0, rule), np.arange(size), beyond(size, 0, after, rule)]
        )
        for start, stop in itertools.combinations(range(size + 1), 2):
            seen = table[start : stop + before + after]
            seen = set(seen[seen >= 0].tolist())
            low, high = needed(start, stop, size, [Reach(before, after, rule)])
            part = {k % size for k in range(low, high)}
            assert seen <= part
            if (low, high) != (0, size):
                assert seen == part


def test_signatures_pickles_and_imports_stay():
    for name in (*FUNCTIONS, "semifield_conv", "semifield_matmul"):
        function = getattr(sc, name, None) or getattr(ndimage, name)
        assert pickle.loads(pickle.dumps(function)) is function
        assert function.__doc__
        parameters = inspect.signature(function).parameters.values()
        assert all(p.kind is not p.VAR_POSITIONAL for p in parameters)
    program = (
        "import sys, numpy, semiconv_cupy as sc; sc.ndimage.grey_erosion(numpy.eye(3), 3);"
        "assert 'dask' not in sys.modules and 'semiconv_cupy.dask' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_xarray_hands_the_blocks_over():
    xarray = pytest.importorskip("xarray")
    table = xarray.DataArray(
        da.from_array(IMAGE, chunks=(8, 9)), dims=("y", "x"), coords={"x": range(31)}
    )
    result = xarray.apply_ufunc(ndimage.grey_opening, table, kwargs={"size": 5}, dask="allowed")
    assert isinstance(result.data, da.Array)
    assert result.dims == ("y", "x")
    np.testing.assert_array_equal(result, ndimage.grey_opening(IMAGE, 5))


def test_indices_of_distances():
    image = IMAGE > 40
    later = da.from_array(image, chunks=(9, 31))
    expected = ndimage.distance_transform_edt(image, return_indices=True)
    found = ndimage.distance_transform_edt(later, return_indices=True)
    assert [result.chunks for result in found] == [later.chunks, ((2,), *later.chunks)]
    for result, right in zip(found, expected, strict=True):
        assert result.dtype == right.dtype
        np.testing.assert_array_equal(result, right)
    with pytest.raises(TypeError, match="indices cannot be an array"):
        ndimage.distance_transform_edt(later, return_indices=True, indices=expected[1])
