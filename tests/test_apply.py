"""`python -m semiconv_cupy apply`: every format, in memory and in chunks, and what goes wrong."""

import inspect
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy import ndimage
from semiconv_cupy.__main__ import main
from semiconv_cupy.texts import image_functions, value_of

tifffile, Image = pytest.importorskip("tifffile"), pytest.importorskip("PIL.Image")
zarr = pytest.importorskip("zarr", minversion="3", reason="Zarr 3 is not installed")
ROOT = Path(__file__).parent.parent
GREY = np.random.default_rng(0).integers(0, 256, (20, 31), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (20, 31, 3), np.uint8)
VOLUME = np.random.default_rng(2).integers(0, 256, (9, 20, 31), np.uint8)
CHUNKED = ["--chunks", 8]


def apply(*arguments):
    return main(["apply", *map(str, arguments)])


def read(path):
    if path.suffix in (".png", ".jpg"):
        with Image.open(path) as picture:
            return np.array(picture)
    if path.suffix == ".tif":
        return tifffile.imread(path)
    if path.suffix == ".npy":
        return np.load(path)
    found = zarr.open(str(path), mode="r")
    return (found if isinstance(found, zarr.Array) else found["0"])[:]


def write(path, values):
    if path.suffix in (".png", ".jpg"):
        Image.fromarray(values).save(path)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values, photometric="rgb" if values.shape[-1] == 3 else "minisblack")
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        zarr.create_array(str(path), data=values, chunks=(4,) * values.ndim)


@pytest.mark.parametrize("chunks", [[], CHUNKED], ids=["whole", "chunks"])
@pytest.mark.parametrize(
    ("name", "values", "axes"),
    [
        ("a.png", GREY, (0, 1)),
        ("a.png", COLOUR, (0, 1)),
        ("a.tif", COLOUR, (0, 1)),
        ("a.tif", VOLUME, (0, 1, 2)),
        ("a.npy", VOLUME, (0, 1, 2)),
        ("a.zarr", VOLUME, (0, 1, 2)),
    ],
)
def test_a_file_has_the_result_of_the_call_in_memory(name, values, axes, chunks, tmp_path, capsys):
    source, output = tmp_path / name, tmp_path / f"out{Path(name).suffix}"
    write(source, values)
    assert apply("grey_opening", source, output, "--size", 5, "--mode", "ignore", *chunks) == 0
    found = read(output)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(
        found, ndimage.grey_opening(values, size=5, mode="ignore", axes=axes)
    )
    along = "yx" if len(axes) == 2 else "zyx"
    assert f"works along {along}" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, output.name])


def test_a_jpeg_is_read_and_written(tmp_path):
    write(tmp_path / "a.jpg", GREY)
    pixels = read(tmp_path / "a.jpg")
    assert apply("grey_erosion", tmp_path / "a.jpg", tmp_path / "b.npy", "--size", 3, 5) == 0
    np.testing.assert_array_equal(
        np.load(tmp_path / "b.npy"), ndimage.grey_erosion(pixels, size=(3, 5))
    )
    assert apply("grey_erosion", tmp_path / "a.jpg", tmp_path / "b.jpg", "--size", 3) == 0
    assert read(tmp_path / "b.jpg").shape == GREY.shape


def test_compressed_and_big_endian_tiff_in_chunks(tmp_path):
    expected = ndimage.grey_dilation(VOLUME.astype(np.float32), size=3)
    for name, options in {"a": {"compression": "zlib"}, "b": {"byteorder": ">"}}.items():
        source, output = tmp_path / f"{name}.tif", tmp_path / f"{name}.npy"
        tifffile.imwrite(source, VOLUME.astype(np.float32), photometric="minisblack", **options)
        assert apply("grey_dilation", source, output, "--size", 3, *CHUNKED) == 0
        np.testing.assert_array_equal(np.load(output), expected)


@pytest.mark.parametrize("chunks", [[], CHUNKED], ids=["whole", "chunks"])
def test_functions_without_axes_take_each_colour_by_itself(chunks, tmp_path):
    write(tmp_path / "a.tif", COLOUR)
    assert apply("h_maxima", tmp_path / "a.tif", tmp_path / "b.tif", "--h", 9, *chunks) == 0
    expected = np.stack([sc.h_maxima(COLOUR[..., c], 9) for c in range(3)], axis=-1)
    if expected.dtype == bool:
        expected = expected * np.uint8(255)
    np.testing.assert_array_equal(read(tmp_path / "b.tif"), expected)


@pytest.mark.parametrize("chunks", [[], CHUNKED], ids=["whole", "chunks"])
def test_a_convolution_by_a_kernel_from_a_file(chunks, tmp_path, capsys):
    kernel = np.array([[0.0, -5, 1], [-5, 0, -5]])
    write(tmp_path / "a.tif", COLOUR)
    np.save(tmp_path / "k.npy", kernel)
    command = [
        "semifield_conv",
        tmp_path / "a.tif",
        tmp_path / "b.tif",
        "--krn",
        tmp_path / "k.npy",
    ]
    assert apply(*command, *chunks) == 2
    assert "krn has numbers that uint8 does not have" in capsys.readouterr().err
    assert apply(*command, "--dtype", "float32", *chunks) == 0
    found = read(tmp_path / "b.tif")
    assert found.dtype == np.float32
    for colour in range(3):
        expected = sc.semifield_conv(
            COLOUR[None, None, ..., colour].astype("f4"), kernel[None, None].astype("f4"),
            "tropical_max", padding="same",
        )  # fmt: skip
        np.testing.assert_array_equal(found[..., colour], expected[0, 0])
    assert apply(*command, "--overwrite", "--dtype", "float32", "--semifield", "log") == 2
    assert "mu=" in capsys.readouterr().err


def test_shapes_masks_and_bool(tmp_path):
    write(tmp_path / "a.npy", GREY > 200)
    write(tmp_path / "mask.png", (GREY > 100) * np.uint8(255))
    options = ["--structure", "[[0,1,0],[1,1,1],[0,1,0]]", "--mask", tmp_path / "mask.png"]
    expected = ndimage.binary_propagation(GREY > 200, value_of("disk(1)"), mask=GREY > 100)
    for output, scale, chunks in (("b.npy", 1, CHUNKED), ("c.png", 255, [])):
        assert apply("binary_propagation", tmp_path / "a.npy", tmp_path / output,
                     *options, *chunks) == 0  # fmt: skip
        np.testing.assert_array_equal(read(tmp_path / output), expected * np.uint8(scale))
    assert apply("grey_closing", tmp_path / "mask.png", tmp_path / "d.npy",
                 "--footprint", "disk(2)") == 0  # fmt: skip
    closed = ndimage.grey_closing((GREY > 100) * np.uint8(255), footprint=value_of("disk(2)"))
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), closed)


# ---- what files say besides ----------------------------------------------------------------------


def test_resolution_of_pictures_and_tiffs_is_kept(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png", dpi=(300, 150))
    assert apply("grey_erosion", tmp_path / "a.png", tmp_path / "b.png", "--size", 3) == 0
    with Image.open(tmp_path / "b.png") as picture:
        np.testing.assert_allclose(picture.info["dpi"], (300, 150), rtol=1e-3)
    assert apply("grey_erosion", tmp_path / "b.png", tmp_path / "b.tif", "--size", 3) == 0
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        np.testing.assert_allclose(tiff.pages[0].resolution, (300, 150), rtol=1e-3)
        assert int(tiff.pages[0].resolutionunit) == 2


def test_imagej_and_ome_are_kept(tmp_path):
    tifffile.imwrite(
        tmp_path / "j.tif", VOLUME, imagej=True, resolution=(4, 5),
        metadata={"axes": "ZYX", "spacing": 0.5, "unit": "um"},
    )  # fmt: skip
    tifffile.imwrite(
        tmp_path / "o.ome.tif", VOLUME,
        metadata={"axes": "ZYX", "PhysicalSizeZ": 0.5, "PhysicalSizeX": 0.25,
                  "PhysicalSizeXUnit": "nm"},
    )  # fmt: skip
    for source, output in (("j.tif", "k.tif"), ("o.ome.tif", "p.ome.tif")):
        assert apply("grey_erosion", tmp_path / source, tmp_path / output, "--size", 3) == 0
    with tifffile.TiffFile(tmp_path / "k.tif") as tiff:
        assert tiff.is_imagej
        assert tiff.series[0].axes == "ZYX"
        assert tiff.imagej_metadata["spacing"] == 0.5
        assert tiff.imagej_metadata["unit"] == "um"
        np.testing.assert_allclose(tiff.pages[0].resolution, (4, 5), rtol=1e-6)
    with tifffile.TiffFile(tmp_path / "p.ome.tif") as tiff:
        assert tiff.series[0].axes == "ZYX"
        assert re.search('PhysicalSizeX="0.25" PhysicalSizeXUnit="nm"', tiff.ome_metadata)
        assert 'PhysicalSizeZ="0.5"' in tiff.ome_metadata


def test_chunks_of_a_result_are_the_shards_of_the_image(tmp_path):
    """A result has no more files than a sharded image."""
    volume = np.random.default_rng(5).integers(0, 255, (16, 16, 8), np.uint8)
    zarr.create_array(str(tmp_path / "a.zarr"), data=volume, chunks=(4, 4, 4), shards=(8, 8, 8))
    given = (tmp_path / "a.zarr", tmp_path / "b.zarr", "--size", 3, "--memory", "1KB")
    assert apply("grey_opening", *given) == 0
    found = zarr.open_array(str(tmp_path / "b.zarr"), mode="r")
    assert found.chunks == (8, 8, 8)
    np.testing.assert_array_equal(found[:], ndimage.grey_opening(volume, 3))


@pytest.mark.parametrize("version", [2, 3])
def test_the_first_level_of_ome_zarr(version, tmp_path):
    scale = {"type": "scale", "scale": [1.0, 2.0, 0.5, 0.25]}
    axes = [{"name": name, "type": kind} for name, kind in
            (("c", "channel"), ("z", "space"), ("y", "space"), ("x", "space"))]  # fmt: skip
    axes[3]["unit"] = "nanometer"
    level = {"path": "s0", "coordinateTransformations": [scale]}
    scales = {"axes": axes, "datasets": [level, {"path": "s1"}]}
    attributes = {"multiscales": [scales]} if version == 2 else {"ome": {"multiscales": [scales]}}
    group = zarr.create_group(str(tmp_path / "a.zarr"), zarr_format=version, attributes=attributes)
    values = np.stack([VOLUME, VOLUME[::-1]])
    group.create_array("s0", data=values, chunks=(1, 4, 8, 8))
    assert apply("grey_opening", tmp_path / "a.zarr", tmp_path / "b.zarr", "--size", 3,
                 *CHUNKED) == 0  # fmt: skip
    found = zarr.open_group(str(tmp_path / "b.zarr"), mode="r")
    assert found.metadata.zarr_format == version
    kept = dict(found.attrs) if version == 2 else found.attrs["ome"]
    assert kept["multiscales"][0]["axes"] == axes
    assert kept["multiscales"][0]["datasets"][0]["coordinateTransformations"] == [scale]
    assert found["0"].chunks == (1, 4, 8, 8)
    np.testing.assert_array_equal(
        found["0"][:], ndimage.grey_opening(values, size=3, axes=(1, 2, 3))
    )


def test_the_preview_shows_a_volume_before_and_after(tmp_path):
    write(tmp_path / "a.npy", VOLUME)
    assert apply("grey_opening", tmp_path / "a.npy", tmp_path / "b.npy", "--size", 3,
                 "--preview", tmp_path / "p.png") == 0  # fmt: skip
    shown = read(tmp_path / "p.png")[..., 0]
    opened = np.load(tmp_path / "b.npy")
    np.testing.assert_array_equal(shown[2:22, 2:33], VOLUME[4])
    np.testing.assert_array_equal(shown[2:22, 37:68], opened[4])
    np.testing.assert_array_equal(shown[26:46, 37:68], opened.max(axis=0))


# ---- what does not happen ------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [[], CHUNKED], ids=["whole", "chunks"])
def test_a_dry_run_writes_nothing_and_says_what_would_be(chunks, tmp_path, capsys):
    write(tmp_path / "a.zarr", VOLUME)
    before = sorted(tmp_path.rglob("*"))
    assert apply("grey_opening", tmp_path / "a.zarr", tmp_path / "b.zarr", "--size", 3,
                 "--dry-run", *chunks) == 0  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert "result  uint8 (9, 20, 31)" in said
    assert re.search(
        r"24 of \(8, 8, 8\), .* MB; \d+ tasks" if chunks else "whole   in memory", said
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["grey_opening", "none.npy", "b.npy", "--size", "3"], "INPUT: no such file"),
        (["grey_opening", "a.npy", "a.npy", "--size", "3", "--overwrite"], "are one file"),
        (["grey_opening", "a.npy", "old.npy", "--size", "3"], "pass --overwrite"),
        (["grey_opening", "a.npy", "b.xyz", "--size", "3"], "OUTPUT .*b.xyz must end with"),
        (["grey_opening", "a.npy", "b.png", "--size", "3"], "OUTPUT b.png: PNG holds"),
        (["grey_opening", "a.npy", "b.npy", "--size", "2.5"], "2.5"),
        (["grey_opening", "a.npy", "b.npy", "--size", "3", "--mode", "odd"], "mode"),
        (["grey_opening", "a.npy", "b.npy", "--size", "3", "--axes", "7"], "--axes"),
        (["grey_opening", "a.npy", "b.npy", "--size", "3", "--chunks", "0"], "--chunks"),
        (["grey_opening", "a.npy", "no/b.npy", "--size", "3"], "there is no folder"),
        (["reconstruction", "a.npy", "b.npy", "--mask", "old.npy"], "--mask has shape"),
        (["grey_openings", "a.npy", "b.npy"], "'grey_openings' is none of"),
        (["grey_opening", "a.npy", "b.npy", "--footprint", "n.npy"], "--footprint: cannot read"),
        (["grey_opening", "a.npy", "b.npy", "--footprint", "sphere(3)"], "--footprint 'sphere"),
        (["grey_opening", "a.npy", "b.npy", "--size", "3", "--dtype", "foo"], "--dtype 'foo'"),
        (
            ["grey_opening", "a.npy", "b.npy", "--size", "3", "--scheduler", "foo"],
            "--scheduler foo",
        ),
    ],
)
def test_wrong_arguments_end_with_2(arguments, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", VOLUME)
    np.save("old.npy", GREY)
    assert apply(*arguments) == 2
    assert re.search(complaint, capsys.readouterr().err)
    np.testing.assert_array_equal(np.load("old.npy"), GREY)
    assert sorted(os.listdir()) == ["a.npy", "old.npy"]


def test_wrong_options_end_with_2_and_overwriting_replaces_folders(tmp_path, capsys):
    write(tmp_path / "a.zarr", VOLUME)
    write(tmp_path / "b.zarr", VOLUME[:3])
    for option in (["--radius", "3"], ["--memory", "much"]):
        with pytest.raises(SystemExit) as ended:
            apply("grey_opening", tmp_path / "a.zarr", tmp_path / "b.zarr", *option)
        assert ended.value.code == 2
        assert option[0] in capsys.readouterr().err
    assert apply("grey_opening", tmp_path / "a.zarr", tmp_path / "b.zarr", "--size", 3,
                 "--overwrite") == 0  # fmt: skip
    assert read(tmp_path / "b.zarr").shape == VOLUME.shape
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr"]


def test_a_failure_leaves_nothing_and_ends_with_1(tmp_path, capsys):
    """A chunk of the store cannot be read, which shows while the result is written."""
    write(tmp_path / "a.zarr", VOLUME)
    (tmp_path / "a.zarr" / "c" / "1" / "2" / "3").write_bytes(b"broken")
    assert apply("grey_opening", tmp_path / "a.zarr", tmp_path / "b.zarr", "--size", 3,
                 *CHUNKED) == 1  # fmt: skip
    assert capsys.readouterr().err.startswith("python -m semiconv_cupy apply grey_opening: ")
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_ctrl_c_leaves_nothing_and_ends_with_130(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(512, 256, 256), chunks=(64, 64, 64),
                      dtype="uint8", fill_value=1)  # fmt: skip
    command = [sys.executable, "-m", "semiconv_cupy", "apply", "grey_opening", "a.zarr", "b.zarr",
               "--footprint", "ball(9)", "--chunks", "64"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # A shell that starts the tests in the background lets its children ignore the signal.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, preexec_fn=heed
    ) as run:
        until = time.monotonic() + 60
        while not list(tmp_path.glob(".b.zarr.*.part/c")) and run.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        errors = run.communicate(timeout=60)[1].decode()
    assert run.returncode == 130, errors
    assert "interrupted; b.zarr is as it was" in errors
    assert os.listdir(tmp_path) == ["a.zarr"]


# ---- every function ------------------------------------------------------------------------------


def test_help_lists_the_functions_and_the_parameters_of_each(capsys):
    assert apply("--help") == 0
    said = capsys.readouterr().out
    functions = image_functions()
    assert {"grey_opening", "rolling_ball", "reconstruction", "parabolic_erosion"} <= set(functions)
    for name, function in functions.items():
        assert name in said
        with pytest.raises(SystemExit) as ended:
            apply("--help", name)
        assert ended.value.code == 0
        options = capsys.readouterr().out
        for parameter in list(inspect.signature(function).parameters)[1:]:
            hidden = ("output", "distances", "indices", "return_distances", "return_indices")
            shown = f"--{parameter.replace('_', '-')}" in options
            assert shown == (parameter not in hidden), (name, parameter)


def test_workers_of_a_scheduler_give_the_same(tmp_path):
    """Its workers are threads of this process; processes differ in how they are started."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    write(tmp_path / "a.zarr", VOLUME)
    given = dict(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None)
    with distributed.LocalCluster(**given, protocol="tcp", silence_logs=50) as cluster:
        assert apply("grey_opening", tmp_path / "a.zarr", tmp_path / "b.tif", "--size", 3,
                     "--chunks", 16, "--scheduler", cluster.scheduler_address) == 0  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path / "b.tif"), ndimage.grey_opening(VOLUME, 3))


@pytest.mark.slow
def test_processes_give_the_same(tmp_path):
    pytest.importorskip("distributed", reason="distributed is not installed")
    write(tmp_path / "a.zarr", VOLUME)
    assert apply("grey_opening", tmp_path / "a.zarr", tmp_path / "b.tif", "--size", 3,
                 "--chunks", 16, "--scheduler", "processes") == 0  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path / "b.tif"), ndimage.grey_opening(VOLUME, 3))
