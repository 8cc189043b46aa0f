"""SciPy's own tests of these functions, run with ours in their place (see scipy_names.py)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from semiconv_cupy import ndimage

pytest.importorskip("scipy", minversion="1.17")
scipy_ndimage = pytest.importorskip("scipy.ndimage")
HERE = Path(__file__).parent

# Tests of functions that this package does not offer; SciPy would test itself.
NOT_OFFERED = (
    "rank", "percentile", "median", "generic", "Vectorized", "gh_22586",
)  # fmt: skip
# Tests that ask for what SciPy does and ought not to.
DIFFERENT = {
    "test_morphology.py::TestNdimageMorphology::test_white_tophat03": (
        "expects of a bool image and a structure of ones that its opening is True everywhere "
        "(scipy#11771); to a bool image a structure is a set here"
    ),
    **dict.fromkeys(
        [f"test_filters.py::TestNdimageFilters::test_{n}imum_filter07" for n in ("min", "max")],
        "expects that a sequence of equal modes is refused with a footprint, which takes any here",
    ),
    "test_morphology.py::TestNdimageMorphology::test_distance_transform_cdt05": (
        "expects of a float64 structure of ones what its first bytes say, which are zeros: -1 "
        "everywhere (scipy#17381); a structure's taps are what is not zero here"
    ),
    "test_filters.py::test_gaussian_filter_float16": "float16 is refused there and computed here",
}


def test_others_compare_with_scipy_itself():
    """Nothing has replaced its functions in this process."""
    names = set(ndimage.__all__) & set(dir(scipy_ndimage))
    ours = [name for name in names if "semiconv" in getattr(scipy_ndimage, name).__module__]
    assert ours == []


@pytest.mark.slow
def test_scipys_tests_pass_with_our_functions_in_their_place(tmp_path):
    calls = tmp_path / "calls"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])]),
        "SEMICONV_CALLS_FILE": str(calls),
    }
    unwanted = [*NOT_OFFERED, *(name.rpartition("::")[2] for name in DIFFERENT)]
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "scipy_names", "-p", "no:cacheprovider", "-q",
            "-k", " and ".join(f"not {name}" for name in unwanted), "--pyargs",
            "scipy.ndimage.tests.test_morphology", "scipy.ndimage.tests.test_filters",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed > 3000
    called = dict(line.split() for line in calls.read_text().splitlines())
    assert sorted(called) == sorted(set(ndimage.__all__) & set(dir(scipy_ndimage)))
    assert len(called) >= 25
    assert [name for name, count in called.items() if int(count) == 0] == []
