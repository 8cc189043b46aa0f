"""Importing the core is cheap and touches neither CuPy, torch nor CUDA."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROBE = """
import json, sys, time
start = time.process_time()
import numpy, sympy
needed = time.process_time()
before = set(sys.modules)
import {module}
end = time.process_time()
try:
    mapped = open("/proc/self/maps").read()
except OSError:
    mapped = ""
print(json.dumps({{
    "own part": (end - needed) / (needed - start),
    "packages": sorted({{name.split(".")[0] for name in set(sys.modules) - before}}),
    "cuda": [name for name in ("libcuda.", "libcudart", "libnvrtc") if name in mapped],
}}))
"""


def import_in_a_fresh_process(module):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "modules", ["semiconv_cupy", "semiconv_cupy.demo, semiconv_cupy.info, kernels_cu"]
)
def test_import_brings_no_optional_package_and_no_cuda(modules):
    found = import_in_a_fresh_process(modules)
    optional = {"cupy", "cupyx", "torch", "scipy", "skimage", "PIL", "matplotlib", "dask"}
    assert not optional.intersection(found["packages"])
    assert found["cuda"] == []


def test_import_takes_little_beside_numpy_and_sympy():
    """Processor time, 0.8 of theirs: the same process imports both, so load slows all alike."""
    parts = (import_in_a_fresh_process("semiconv_cupy")["own part"] for _ in range(3))
    assert min(parts) < 1.2


def test_a_module_without_torch_bridge_is_an_error_that_says_what_to_import():
    program = """
import semiconv_cupy as sc
made = sc.SelectSemifield.boolean(), sc.SubtractSemifield.linear(), sc.BroadcastSemifield.linear()
for make in (*(semifield.dynamic for semifield in made), *(s.lazy_fixed for s in made[:2])):
    try:
        make()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.count("Semifield.") == done.stdout.count("`import torch_bridge` first") == 5


def test_the_probe_sees_an_optional_package():
    pytest.importorskip("scipy")
    assert "scipy" in import_in_a_fresh_process("scipy")["packages"]


def test_every_module_can_be_imported():
    """Also those that only a command or a report imports; those of Dask only where it is."""
    absent = set() if find_spec("dask") else {ROOT / "semiconv_cupy" / "dask"}
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("semiconv_cupy", "kernels_cu")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name != "__main__.py" and path.parent not in absent
    ]
    done = subprocess.run(
        [sys.executable, "-c", f"import {', '.join(modules)}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
