"""Every backend agrees with the brute-force oracle on the shared table, and beyond it."""

import cases
import oracle
import pytest
from cases import ESSENTIAL, GEOMETRIES, SEMIFIELDS
from compare import assert_matches
from hypothesis import given, settings


def check(backend, name, geometry, dtype):
    case = SEMIFIELDS[name]
    img, krn = cases.arrays_of(case, geometry, dtype)
    got = cases.run(backend, img, krn, case.semifield, **geometry.arguments)
    expected = cases.expected_of(name, geometry, dtype)
    assert_matches(got, expected, dtype=dtype, library=cases.library_of(backend))


@pytest.mark.table(20)
@pytest.mark.parametrize("name", ["tropical_max", "linear"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_geometry(backend, geometry, name):
    check(backend, name, GEOMETRIES[geometry], "float32")


@pytest.mark.table(25)
@pytest.mark.parametrize("name", SEMIFIELDS)
@pytest.mark.parametrize("geometry", ESSENTIAL)
def test_every_semifield(backend, geometry, name):
    check(backend, name, GEOMETRIES[geometry], "float32")


@pytest.mark.table(6)
@pytest.mark.parametrize("name", ["tropical_max", "linear", "log(2)", "root(2.5)"])
@pytest.mark.parametrize("geometry", ESSENTIAL)
def test_double_precision(backend, geometry, name):
    check(backend, name, GEOMETRIES[geometry], "float64")


@pytest.mark.parametrize("name", SEMIFIELDS)
def test_drawn_geometries(name):
    """Host and reference, any rank; the oracle's result serves both."""
    case = SEMIFIELDS[name]

    @given(geometry=cases.geometries())
    def agrees(geometry):
        img, krn = cases.arrays_of(case, geometry, "float32")
        expected = oracle.convolve(img, krn, case.algebra, **geometry.arguments)
        for backend in ("host", "reference"):
            got = cases.run(backend, img, krn, case.semifield, **geometry.arguments)
            assert_matches(got, expected, dtype="float32")

    agrees()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tropical_max", "linear"])
def test_drawn_geometries_on_cuda(name):
    """Everything that is a run-time argument of one compiled kernel."""
    case = SEMIFIELDS[name]
    everything = GEOMETRIES["everything"]
    window = (everything.krn[2:], everything.arguments["stride"], everything.arguments["dilation"])

    @settings(max_examples=60)
    @given(geometry=cases.geometries(window))
    def agrees(geometry):
        img, krn = cases.arrays_of(case, geometry, "float32")
        expected = oracle.convolve(img, krn, case.algebra, **geometry.arguments)
        got = cases.run("cuda_on_cpu", img, krn, case.semifield, **geometry.arguments)
        assert_matches(got, expected, dtype="float32")

    agrees()
