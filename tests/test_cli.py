"""The command line: the demo on small pictures of every kind, and info with parts missing."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from semiconv_cupy import demo, info
from semiconv_cupy.__main__ import main
from semiconv_cupy.progress import bar

tifffile, Image = pytest.importorskip("tifffile"), pytest.importorskip("PIL.Image")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def picture():
    """A smooth picture of 48 x 40 pixels in [0, 1], with a bright and a dark point."""
    rows, columns = np.indices((40, 48))
    grey = 0.5 + 0.3 * np.sin(rows / 5) * np.cos(columns / 7)
    grey[10, 12], grey[30, 33] = 1.0, 0.0
    return grey.astype(np.float32)


def run_demo(capsys, *arguments):
    status = main(["demo", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_demo_prints_the_comparison_and_writes_the_picture(picture, tmp_path, capsys):
    np.save(tmp_path / "small.npy", picture)
    out = tmp_path / "out.png"
    status, printed, complaints = run_demo(
        capsys, tmp_path / "small.npy", "--out", out, "--scale", 3, "--panel", 96
    )
    assert (status, complaints) == (0, "")
    assert "small.npy, 48 x 40 pixels" in printed
    assert "quadratic, 5 x 5 taps, falls by 1 at 3 pixels" in printed
    assert f"written to {out}" in printed
    for operation in ("dilation", "erosion", "opening", "closing"):
        line = re.search(
            rf"^{operation} +\d\S* m?s +\d\S* m?s +\S+x +(\S+)$", printed, re.MULTILINE
        )
        assert line, printed
        # Both add and compare float32 values; SciPy adds in float64 and rounds to the same result.
        assert float(line[1]) == 0
    with Image.open(out) as written:
        assert written.size > (4 * 96, 2 * 80)
        assert len(written.getcolors(1 << 20)) > 100


def test_demo_without_a_picture_takes_a_photograph_and_the_given_size(tmp_path, capsys):
    out = tmp_path / "out.jpg"
    status, printed, _ = run_demo(capsys, "--out", out, "--size", 3, "--panel", 100)
    assert status == 0
    assert "512 x 512 pixels" in printed
    assert "3 x 3 taps" in printed
    assert out.read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize("kind", ["colour", "volume"])
def test_demo_of_colours_and_volumes(kind, picture, tmp_path, capsys):
    """Each channel apart, and in three dimensions: SciPy's results, in a picture of their kind."""
    parts = [picture[:20, :24], picture[20:, :24], picture[:20, 24:]]
    np.save(tmp_path / "small.npy", np.stack(parts, axis=-1 if kind == "colour" else 0))
    given = (tmp_path / "small.npy", f"--{kind}", "--out", tmp_path / "out.png", "--scale", 3)
    status, printed, _ = run_demo(capsys, *given, "--panel", 96)
    assert status == 0
    assert "24 x 20 pixels of 3 channels" in printed or "24 x 20 x 3 voxels" in printed
    assert re.findall(r"x +(\S+)$", printed, re.MULTILINE)[-4:] == ["0"] * 4
    with Image.open(tmp_path / "out.png") as written:
        red, green, _ = written.crop((12, 30, 60, 60)).split()
        assert (red.tobytes() != green.tobytes()) == (kind == "colour")
    np.save(tmp_path / "flat.npy", picture)
    status, _, complaints = run_demo(capsys, tmp_path / "flat.npy", f"--{kind}")
    assert status == 2
    assert "got shape (40, 48)" in complaints


def test_load_gives_grey_values_between_0_and_1(picture, tmp_path):
    eight = np.rint(255 * picture).astype(np.uint8)
    sixteen = np.rint(4095 * picture).astype(np.uint16)
    colour = np.stack([eight, eight, eight], axis=-1)
    volume = np.stack([0 * picture, picture, 1 - picture])
    Image.fromarray(eight).save(tmp_path / "grey.png")
    Image.fromarray(colour).save(tmp_path / "colour.png")
    Image.fromarray(sixteen).save(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "volume.tif", volume, photometric="minisblack")
    np.save(tmp_path / "colour.npy", colour)
    np.save(tmp_path / "volume.npy", volume)
    np.save(tmp_path / "counts.npy", (1000 * picture - 50).astype(np.float64))
    np.save(tmp_path / "mask.npy", picture > 0.5)
    for name, tolerance in {
        "grey.png": 0.002,
        "colour.png": 0.002,
        "deep.png": 0.0002,
        "volume.tif": 0,
        "colour.npy": 0.002,
        "volume.npy": 0,
        "counts.npy": 1e-6,
    }.items():
        label, grey = demo.load(tmp_path / name)
        assert label == name
        assert grey.dtype == np.float32
        assert grey.flags.c_contiguous
        np.testing.assert_allclose(grey, picture, atol=tolerance, rtol=0, err_msg=name)
    np.testing.assert_array_equal(demo.load(tmp_path / "mask.npy")[1], picture > 0.5)


def test_load_of_a_constant_picture(tmp_path):
    np.save(tmp_path / "constant.npy", np.full((4, 5), 7000, dtype=np.int32))
    np.testing.assert_array_equal(demo.load(tmp_path / "constant.npy")[1], np.zeros((4, 5)))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (np.ones(7), r"got shape \(7,\)"),
        (np.ones((3, 0)), "some pixels"),
        (np.array([[0.0, np.nan]]), "not finite"),
        (np.array([[0.0, np.inf]]), "not finite"),
        (np.ones((3, 3), dtype=complex), "complex128"),
    ],
)
def test_demo_refuses_what_is_no_picture(values, complaint, tmp_path, capsys):
    np.save(tmp_path / "values.npy", values)
    status, printed, complaints = run_demo(capsys, tmp_path / "values.npy")
    assert (status, printed) == (2, "")
    assert re.search(f"demo: cannot read .*values.npy as a picture: .*{complaint}", complaints)


def test_demo_of_a_file_that_is_no_picture(tmp_path, capsys):
    (tmp_path / "text.png").write_text("this is no picture")
    status, _, complaints = run_demo(capsys, tmp_path / "text.png")
    assert status == 2
    assert "cannot read" in complaints


def test_demo_of_a_missing_file_says_so_and_exits_with_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "semiconv_cupy", "demo", str(tmp_path / "none.png")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stderr == f"python -m semiconv_cupy demo: no such picture: {tmp_path}/none.png\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--size", "4"], "--size must be odd, got 4"),
        (["--size", "-1"], "size must be at least 1"),
        (["--scale", "0"], "scale must be positive and finite"),
        (["--panel", "5"], "--panel must be at least 64"),
        (["--out", "picture.xyz"], "picture.xyz"),
        (["--out", "no-such-folder/picture.png"], "no-such-folder"),
    ],
)
def test_demo_refuses_arguments_that_make_no_sense(arguments, complaint, tmp_path, capsys):
    np.save(tmp_path / "dot.npy", np.eye(8))
    status, _, complaints = run_demo(capsys, tmp_path / "dot.npy", *arguments)
    assert status == 2
    assert complaint in complaints


def run_without(modules, program):
    """Run a program in a process in which these modules cannot be imported."""
    preface = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"
    return subprocess.run(
        [sys.executable, "-c", preface + program],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_demo_without_its_packages_names_the_remedy():
    program = "from semiconv_cupy.__main__ import main; sys.exit(main(['demo']))"
    done = run_without(["skimage", "tifffile"], program)
    assert done.returncode == 2
    assert done.stderr.endswith("packages are missing: pip install scikit-image tifffile\n")


class Terminal(io.StringIO):
    """What a program takes for a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("silenced", [False, True])
def test_long_works_show_a_bar_on_a_terminal(silenced, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    if silenced:
        monkeypatch.setenv("TQDM_DISABLE", "1")
    with bar("comparing", "steps") as show:
        show(1, 4, "an opening")
        show(4, 4)
    shown = terminal.getvalue()
    assert shown == "" if silenced else re.search("comparing: 100%.* 4/4 ", shown)


def test_info_names_each_part(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for part in ("python", "numpy", "sympy", "torch", "cupy", "compiler", "cache", "driver"):
        assert re.search(rf"^  {part} +\S", printed, re.MULTILINE), part
    assert re.search(r"^  NumPy arrays +\S", printed, re.MULTILINE)
    assert re.search(r"^  CuPy arrays +\S", printed, re.MULTILINE)
    assert re.search(r"^Remedies\n  - \S", printed, re.MULTILINE)


def test_info_as_json_says_the_same(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["packages", "cpu", "gpu", "backends", "remedies"]
    for section in ("packages", "cpu", "gpu", "backends"):
        for name, fact in found[section].items():
            fact = fact.partition(" (")[0]  # how many libraries there are may change meanwhile
            assert f"  {name:14} {fact}" in printed
    for remedy in found["remedies"]:
        assert f"  - {remedy}\n" in printed


def test_info_where_nothing_optional_is_installed():
    program = (
        "from semiconv_cupy import info\n"
        "found = info.installed_here()\n"
        "present = {'numpy', 'sympy', 'semiconv-cupy'}\n"
        "versions = {name: found.versions[name] for name in present & found.versions.keys()}\n"
        "info.run(info.Installed(versions, found.demo_lacks))\n"
    )
    done = run_without(["cupy", "torch", "scipy", "PIL"], program)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  numpy +\d", done.stdout, re.MULTILINE)
    for package in ("scipy", "torch", "cupy"):
        assert re.search(rf"^  {package} +not installed$", done.stdout, re.MULTILINE), package
    assert "the demo needs more packages: pip install pillow scipy" in done.stdout
    assert "torch_bridge needs PyTorch: pip install torch" in done.stdout


def test_info_of_two_distributions_of_cupy(capsys):
    versions = {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.1", "cupyx-tools": "1"}
    info.run(info.Installed(versions, demo_lacks=[]))
    printed = capsys.readouterr().out
    assert re.search(r"^  cupy +cupy-cuda12x 14.2.0, cupy-cuda13x 14.2.1$", printed, re.MULTILINE)
    assert "overwrite each other" in printed
    assert "the demo needs" not in printed


def test_info_without_a_compiler_names_the_remedy(no_compiler):
    done = subprocess.run(
        [sys.executable, "-m", "semiconv_cupy", "info"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**no_compiler, "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  compiler +none$", done.stdout, re.MULTILINE)
    assert "no C++ compiler found" in done.stdout


@pytest.mark.slow
def test_info_with_a_broken_cupy(tmp_path):
    (tmp_path / "cupy.py").write_text("raise OSError('libcublas.so.12: cannot open it')\n")
    (tmp_path / "cupy_cuda12x-99.dist-info").mkdir()
    (tmp_path / "cupy_cuda12x-99.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: cupy-cuda12x\nVersion: 99\n"
    )
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from semiconv_cupy.__main__ import main; main(['info'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be imported: OSError: libcublas.so.12" in done.stdout
    assert "--force-reinstall" in done.stdout
