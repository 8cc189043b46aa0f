"""The CUDA forward kernels, launched by the real launch code, on the CPU.

`test_forward.py` and others run what the launch code picks: the tiled kernel, where there is a
tile. Here: the direct kernel on the whole table, that every element is written, 64-bit offsets, the
grid-stride loop, the order of threads, memory errors.
"""

import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
from cases import GEOMETRIES, SEMIFIELDS
from compare import assert_matches
from cuda_on_cpu.device import HarnessDevice, sanitizer_environment

from semiconv_cupy.backends import cuda
from semiconv_cupy.residual import residual_of

HERE = Path(__file__).parent


class Recorder(HarnessDevice):
    """Remembers what was compiled and launched; may change the grid."""

    def __init__(self, grid=None, **arguments):
        super().__init__(**arguments)
        self.grid = grid
        self.sources, self.grids = [], []

    def compile(self, source, name, options=()):
        self.sources.append(source)
        kernel = super().compile(source, name, options)

        def launch(grid, block, args, shared_bytes=0):
            self.grids.append(grid)
            kernel(self.grid or grid, block, args, shared_bytes)

        return launch


def check(device, name, geometry, dtype="float32", method="direct"):
    case = SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, dtype)
    out = cases.run_on(device, img, krn, case.semifield, method, **geometry.arguments)
    assert_matches(out, cases.expected_of(name, geometry, dtype), dtype=dtype)


@pytest.mark.parametrize("name", ["tropical_max", "linear"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_direct_on_every_geometry(geometry, name):
    check(cases.harness(), name, GEOMETRIES[geometry])


@pytest.mark.parametrize("name", SEMIFIELDS)
def test_direct_on_every_semifield(name):
    check(cases.harness(), name, GEOMETRIES["everything"])


@pytest.mark.parametrize("name", ["tropical_max", "linear", "log(2)", "root(3)", "norm"])
def test_the_table_has_tiles(name):
    """Where both kernels serve they agree, and they are two."""
    device = Recorder()
    for method in ("direct", "auto"):
        check(device, name, GEOMETRIES["same"], method=method)
    direct, tiled = (len(grid) for grid in device.grids)
    assert (direct, tiled) == (1, 3)


@pytest.mark.parametrize("method", ["direct", "auto"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", ["tropical_max", "log(2)"])
@pytest.mark.parametrize("geometry", ["groups", "everything"])
def test_every_element_is_written(geometry, name, residual, method):
    """From two different poisons the same bits."""
    case, geometry = SEMIFIELDS[name], GEOMETRIES[geometry]
    img, krn = cases.arrays_of(case, geometry, "float32")
    plan = geometry.plan()
    results = []
    for poison in (0xA5, 0x3C):
        arrays = [np.empty(plan.out_shape, "f4")]
        if residual:
            described = residual_of(case.semifield, "float32", plan)
            arrays.append(np.empty(described.shape, described.dtype))
        for array in arrays:
            array.view(np.uint8)[...] = poison
        where = (arrays[0], arrays[1] if residual else None)
        cuda.forward(
            cases.harness(), img, krn, case.semifield, plan, "float32", *where, method=method
        )
        results.append([array.tobytes() for array in arrays])
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["tropical_max", "linear"])
@pytest.mark.parametrize("geometry", ["same", "everything", "1-D", "3-D"])
def test_offsets_of_64_bits(geometry, name, monkeypatch):
    """The variant for arrays beyond 2 GiB, on small ones."""
    monkeypatch.setattr(cuda, "_reach", lambda shape, strides: 2**31)
    device = Recorder()
    check(device, name, GEOMETRIES[geometry])
    (source,) = device.sources
    assert "#define SEMICONV_OFFSET int64" in source


def test_offsets_of_32_bits_where_they_reach():
    device = Recorder()
    check(device, "tropical_max", GEOMETRIES["everything"])
    (source,) = device.sources
    assert "#define SEMICONV_OFFSET int32" in source


@pytest.mark.parametrize("name", ["tropical_max", "linear"])
def test_one_block_serves_more_outputs_than_it_has_threads(name):
    """The grid-stride loop: a grid of one block goes on until all outputs are there."""
    geometry = GEOMETRIES["everything"]
    device = Recorder(grid=(1,))
    check(device, name, geometry)
    assert device.grids == [(-(-np.prod(geometry.plan().out_shape) // cuda.THREADS),)]
    assert device.grids[0][0] > 1


def test_another_image_compiles_nothing():
    """Image sizes, batch, channels, padding, groups and strides are arguments of the kernel."""
    device = Recorder()
    arguments = GEOMETRIES["everything"].arguments
    fixed = {name: arguments[name] for name in ("stride", "dilation")}
    semifield = SEMIFIELDS["tropical_max"].semifield
    for size, groups, padding, kind in (
        ((1, 2, 12, 13), 1, 0, "conv"),
        ((3, 4, 30, 9), 2, ((1, 2), (3, 4)), "corr"),
        ((2, 4, 8, 50), 4, 1, "conv"),
    ):
        img = cases.numbers(size, "f4", seed=1)
        krn = cases.numbers((4, size[1] // groups, 2, 3), "f4", seed=2)
        arguments = dict(groups=groups, padding=padding, kind=kind, **fixed)
        cases.run_on(device, img, krn, semifield, "direct", **arguments)
    assert len(device.sources) == 1


def test_tiles_of_images_are_few():
    """The tiled kernel adapts to narrow images only: three kernels for all sizes."""
    device = Recorder()
    semifield = SEMIFIELDS["tropical_max"].semifield
    krn = cases.numbers((1, 1, 3, 3), "f4", seed=2)
    for width in (5, 17, 31, 40, 63, 70, 200, 999):
        img = cases.numbers((1, 1, 9, width), "f4", seed=1)
        cases.run_on(device, img, krn, semifield, padding=1)
    assert len(device.sources) == 3


@pytest.mark.parametrize("method", ["direct", "auto"])
@pytest.mark.parametrize("name", ["tropical_max", "log(2)"])
def test_no_result_depends_on_the_order_of_threads(name, method):
    """A missing barrier shows in one order or the other."""
    device = HarnessDevice(order="reverse")
    for geometry in ("same", "everything", "3-D"):
        check(device, name, GEOMETRIES[geometry], method=method)


SANITIZED = """
import sys
sys.path[:0] = {path!r}
import cases
import numpy as np
from compare import assert_matches
for name in {names!r}:
    case = cases.SEMIFIELDS[name]
    for geometry in map(cases.GEOMETRIES.get, {geometries!r}):
        img, krn = cases.arrays_of(case, geometry, "float32")
        expected = cases.expected_of(name, geometry, "float32")
        for method in ("direct", "auto"):
            out = cases.run_on(
                cases.harness(), img, krn, case.semifield, method, **geometry.arguments
            )
            assert_matches(out, expected, dtype="float32")
    out, residual = cases.run_with_residual(
        "cuda_on_cpu", img, krn, case.semifield, "float32", **geometry.arguments
    )
    assert_matches(out, expected, dtype="float32")
print("clean")
"""


def test_sanitizers_find_nothing():
    """AddressSanitizer and UBSan, on windows that reach over every edge."""
    code = SANITIZED.format(
        path=[str(HERE), str(HERE.parent)],
        names=["tropical_max", "log(2)"],
        geometries=["windows wholly outside", "empty image", "groups"],
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=sanitizer_environment(),
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr[-4000:]
