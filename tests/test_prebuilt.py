"""Ready-made libraries: what a wheel brings is found, right, and never of another source.

A copy of the packages stands for an installed wheel; its processes have a cache of their own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_installed

import kernels_cu
import semiconv_cupy as sc
from kernels_cu import build
from semiconv_cupy import source
from semiconv_cupy.algebra import SelectSemifield, SubtractSemifield
from semiconv_cupy.backends.host import compiler, functions, prebuilt
from semiconv_cupy.checks import require_meaning
from semiconv_cupy.ndimage import host as primitives
from semiconv_cupy.variants import ready_made_libraries

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    compiler.compiler() is None or build.this_platform() is None,
    reason="needs a C++ compiler, and a platform for which libraries are built",
)
LEVEL = {"x86_64": "v2", "aarch64": "neon"}.get(prebuilt.machine())

PROBE = """
import json, os, pathlib, sys, warnings
import numpy as np
import semiconv_cupy as sc
from semiconv_cupy.backends.host import libraries, prebuilt
rng = np.random.default_rng(1)
img, krn = (rng.standard_normal(s).astype("f4") for s in ((2, 3, 17, 29), (4, 3, 5, 3)))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    maximum = sc.semifield_conv(img, krn, "tropical_max", padding="same", stride=(1, 2))
    total = sc.semifield_conv(img, krn, "linear", padding="same")
    flat = sc.ndimage.maximum_filter(img[0], 4)
np.savez(sys.argv[1], maximum=maximum, total=total, flat=flat)
compiled = list(pathlib.Path(os.environ["SEMICONV_CACHE_DIR"]).glob("*.so"))
print(json.dumps({
    "level": prebuilt.level(), "compiled": len(compiled),
    "warnings": [str(w.message) for w in caught],
}))
"""


def sources():
    """What `PROBE` calls."""
    for semifield in (SelectSemifield.tropical_max(), SubtractSemifield.linear()):
        yield from functions.sources_of(semifield, "float32", "forward")
    yield source.pool_of_threads()
    yield from (one for one in primitives.sources(["float32"]) if one.what.startswith("flat"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder of packages with ready-made libraries of the lowest level."""
    site = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("__pycache__", "prebuilt")
    for package in ("semiconv_cupy", "kernels_cu"):
        shutil.copytree(ROOT / package, site / package, ignore=ignored)
    folder = site / "kernels_cu/prebuilt"
    folder.mkdir()
    for file in ("of_others.so", prebuilt.file_name("v4")):  # a stranger's, and an earlier build's
        (folder / file).touch()
    command = tuple(compiler.compiler().split())
    built = build.build(
        sources(),
        build.TARGETS[build.this_platform()],
        [LEVEL],
        folder,
        by=build.Compiler(command, site),
    )
    assert [(one.level, one.libraries) for one in built] == [(LEVEL, 5)]
    files = {prebuilt.file_name(one) for one in (LEVEL, prebuilt.PROBE)}
    assert {file.name for file in folder.iterdir()} == files | {"of_others.so"}
    return site


def probe(site, folder, **environment):
    """What `PROBE` finds in a process whose packages are in `site`, and its arrays."""
    variables = {**os.environ, "PYTHONPATH": str(site), "SEMICONV_CACHE_DIR": str(folder / "cache")}
    variables |= {"SEMICONV_PREBUILT": "", **environment}
    arguments = [sys.executable, "-c", PROBE, str(folder / "found.npz")]
    done = subprocess.run(arguments, env=variables, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), dict(np.load(folder / "found.npz"))


def test_ready_made_libraries_need_no_compiler(installed, tmp_path):
    (tmp_path / "first").mkdir(), (tmp_path / "second").mkdir()
    found, ready = probe(installed, tmp_path / "first", CXX="/nonexistent/c++")
    assert found == {"level": LEVEL, "compiled": 0, "warnings": []}
    found, compiled = probe(installed, tmp_path / "second", SEMICONV_PREBUILT="0")
    assert found == {"level": None, "compiled": 5, "warnings": []}
    for name in ("maximum", "flat"):
        assert np.array_equal(ready[name], compiled[name])
    # 45 terms, each fused or not
    np.testing.assert_allclose(ready["total"], compiled["total"], rtol=0, atol=2e-5)


def test_code_of_another_source_is_not_found(installed, tmp_path):
    changed = tmp_path / "site"
    shutil.copytree(installed, changed)
    with open(changed / "kernels_cu/host/forward.hpp", "a") as file:
        file.write("// changed\n")
    found, _ = probe(changed, tmp_path, CXX="/nonexistent/c++")
    assert found["level"] == LEVEL
    (warning,) = found["warnings"]  # of convolutions; flat filters are ready-made still
    assert "semifield convolutions run as slow array loops" in warning


@pytest.mark.parametrize("part", [0.5, 0])
def test_a_file_that_is_not_whole_is_named(installed, tmp_path, part):
    """The system maps half a file, and ends the process that reads the other half."""
    broken = tmp_path / "site"
    shutil.copytree(installed, broken)
    file = broken / "kernels_cu/prebuilt" / prebuilt.file_name(LEVEL)
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    found, _ = probe(broken, tmp_path, CXX="/nonexistent/c++")
    assert found["level"] is None
    assert f"{file} cannot be loaded" in found["warnings"][0]


def test_a_wrong_level_is_refused(installed, tmp_path):
    variables = {**os.environ, "PYTHONPATH": str(installed), "SEMICONV_PREBUILT": "v9"}
    code = "from semiconv_cupy.backends.host import prebuilt; prebuilt.level()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd=tmp_path, capture_output=True, text=True
    )
    assert "SEMICONV_PREBUILT='v9' must be 0 or one of" in done.stderr


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="Linux tells flags")
def test_the_level_is_what_the_system_says(installed, tmp_path):
    variables = {**os.environ, "PYTHONPATH": str(installed)}
    code = "from semiconv_cupy.backends.host import prebuilt; print(prebuilt.cpu_level())"
    found = subprocess.check_output(
        [sys.executable, "-c", code], env=variables, cwd=tmp_path, text=True
    ).strip()
    if prebuilt.machine() != "x86_64":
        assert found == "neon"
        return
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    needed = {  # of each level above the first, as Linux names them
        "v2": {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"},
        "v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
        "v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    }
    expected = "v1"
    for level, names in needed.items():
        if not names <= flags:
            break
        expected = level
    assert found == expected


def test_sums_of_filters_are_not_fused(tmp_path):
    """Clang heeds the pragma of correlate.cpp, too; of the compilers that are here."""
    (library,) = (one for one in primitives.sources(["float64"]) if one.what.startswith("corr"))
    command = compiler.zig()
    if command is None or prebuilt.machine() != "x86_64":
        pytest.skip("needs ziglang, on x86-64")
    flags = [*compiler.flags_of(command), "-march=x86_64_v3", "-S"]
    file = tmp_path / "library.cpp"
    file.write_text(library.text)
    environment = {**os.environ, **compiler.variables_of(command, tmp_path)}
    made = tmp_path / "library.s"
    subprocess.run([*command, *flags, "-o", str(made), str(file)], env=environment, check=True)
    code = made.read_text()
    assert "vmulpd" in code
    assert "vfmadd" not in code


def test_what_ships_is_all_that_calls_may_need():
    """Each part of a semifield, each walk, each primitive: once for a text, and no name twice."""
    shipped = {library.text: library for library in ready_made_libraries()}
    names = [prebuilt.name_of(text) for text in shipped]
    assert len(set(names)) == len(names)
    exported = {name for library in shipped.values() for name in library.exports}
    files = (kernels_cu.folder() / "host").glob("*.cpp")
    known = {
        name
        for file in files
        for name in re.findall(r"SEMICONV_EXPORT [^(]*\b(semiconv_\w+)\(", file.read_text())
    }
    assert known - exported == {"semiconv_cpu_level"}
    for library in shipped.values():
        written = set(re.findall(r"SEMICONV_EXPORT [^(]*\b(semiconv_\w+)\(", library.text))
        assert written == set(library.exports), library.what


LOADED = """
from semiconv_cupy.backends.host import libraries
print(*libraries.loaded())
"""


@pytest.mark.parametrize("calls", ["FILTERS", "SEMIFIELDS", "TENSORS"])
def test_what_ready_made_calls_load_ships(calls):
    """No library that the list lacks, and none that the list of their dtypes alone lacks."""
    done = subprocess.run(
        [sys.executable, "-c", getattr(test_installed, calls) + LOADED],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert len(loaded) > 5
    dtypes = ["float32", "uint8", "bool", "int32"]
    for listed in (ready_made_libraries(), ready_made_libraries(None, dtypes)):
        shipped = {prebuilt.name_of(one.text) for one in listed}
        assert loaded <= shipped


def test_a_dtype_without_meaning_does_not_ship():
    semifield = SubtractSemifield.linear()
    with pytest.raises(TypeError):
        require_meaning("uint8", semifield)
    texts = {one.text for one in ready_made_libraries(["linear"], ["uint8"])}
    floating = {one.text for one in ready_made_libraries(["linear"], ["float32"])}
    for part in functions.parts_of(semifield, "float32"):
        for library in functions.sources_of(semifield, "float32", part):
            assert library.text in floating - texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--semifields", "plus"], "semifields: plus not among tropical_max"),
        (["--dtypes", "complex64"], "dtypes: complex64 not among float16"),
        (["--levels", "v9"], "levels: v9 not among"),
        (["--cxx", "g++", "--target", "windows-x86_64"], "builds for this platform alone"),
    ],
)
def test_the_command_names_what_is_wrong(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        build.main(["--output", str(tmp_path), "--cxx", "g++", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("value", ["yes", "v3", "true"])
def test_the_build_hook_names_a_wrong_value(value):
    done = subprocess.run(
        [sys.executable, "-c", HOOK],
        env={**os.environ, "SEMICONV_PREBUILD": value, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert f"SEMICONV_PREBUILD={value!r} must be 0, 1, or options" in done.stderr


# hatchling, which builds wheels, need not be installed.
HOOK = """
import sys, types
sys.modules["hatchling.builders.hooks.plugin.interface"] = types.SimpleNamespace(
    BuildHookInterface=object
)
import hatch_build
hatch_build.build_arguments()
"""


# ---- prepare -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("semifields", "dtypes", "options", "error", "message"),
    [
        ("tropical_max", ["f4"], {}, TypeError, r"semifields must be a sequence, such as \['trop"),
        (["max"], ["f4"], {}, ValueError, "did you mean 'tropical_max'"),
        (["log"], ["f4"], {}, TypeError, "needs its parameter"),
        (["log(x)"], ["f4"], {}, ValueError, r"needs a number, such as log\(2\)"),
        ([max], ["f4"], {}, TypeError, "must be a SelectSemifield"),
        (["tropical_max"], ["c8"], {}, ValueError, "dtypes: 'c8' is not supported"),
        (["tropical_max"], ["f4"], {"jobs": 0}, ValueError, "jobs must be at least 1, got 0"),
    ],
)
def test_prepare_names_what_is_wrong(semifields, dtypes, options, error, message):
    with pytest.raises(error, match=message):
        sc.prepare(semifields, dtypes, **options)


def test_prepare_leaves_out_what_has_no_meaning():
    assert sc.prepare(["linear", "log(2)"], ["bool"]) == 1  # the pool of threads


@pytest.mark.slow
def test_after_prepare_nothing_is_compiled(tmp_path):
    variables = {**os.environ, "SEMICONV_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "semiconv_cupy", "prepare", "tropical_max", "--jobs", "2"]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
    count = int(re.fullmatch(r"(\d+) libraries are ready\n", done.stdout)[1])
    code = (
        "import numpy as np, semiconv_cupy as sc\n"
        "img, krn = np.ones((1, 2, 8, 8), 'f4'), np.zeros((3, 2, 3, 3), 'f4')\n"
        "out, pullback = sc.semifield_conv_vjp(img, krn, 'tropical_max')\n"
        "pullback(out)\n"
        "sc.semifield_conv(img, krn, 'tropical_max')\n"
        "sc.semifield_matmul(krn[0, 0], krn[0, 1], 'tropical_max')\n"
    )
    subprocess.run([sys.executable, "-c", code], env=variables, cwd=ROOT, check=True)
    assert len(list((tmp_path / "cache").glob("*.so"))) == count
