"""Semifields saved by version 0.1.0 are loaded, although their classes have moved."""

import base64
import pickle
import subprocess
import sys
import zlib

import numpy as np
import pytest

import semiconv_cupy as sc

# Written by version 0.1.0: SelectSemifield(lambda a, b: abs(b) > abs(a), lambda i, k: i * k,
# zero=0.0).
OWN = zlib.decompress(base64.b64decode(
    "eJxtUM1KAzEQrrSVUqxtEa/qRehp38FTT3pwvYdsMt2EZrMlyYoVBD1YLOSk4+P5Ls7uVuyhAwMzk+9nMq+975+jThPx"
    "wkOhRWkfmahW64SbHDLHE1EWK21AYhwwB1mlTcAvjFeH0R4MiKBL6zGO06ZJCbjQYCTRXnAWh1xK1uIwnvt1QXRROkgc"
    "GF5TucE4TYPTIswd8ADuQXFbm14eNl1U9s9zcJP50lQBavh0T5zKrCTh47Qt6LnvdK4CvtNWcQRPAawESX8k/w//SfM3"
    "VCM1iT0DixqmztrhhjL2gy6ADE/3PIqKDLq3Va1OvK4u8h2t7pbO7rpGYCRZI8Ekq3FqFif/kyU4CwbVdew9gytx3tlF"
    "HAouFDDLC8C7eCLoMoT0jI6K2zj2K9pfstxxqcEG3FYbvMfkF0L2w4I="
))  # fmt: skip


def test_a_semifield_of_ones_own():
    img, krn = np.array([[[1.0, -3.0, 2.0]]]), np.array([[[2.0, 1.0]]])
    found = sc.semifield_conv(img, krn, pickle.loads(OWN), kind="corr")
    np.testing.assert_array_equal(found, [[[-3.0, -6.0]]])


@pytest.mark.parametrize(
    "name",
    [
        *("semifields SelectSemifield", "semifields SubtractSemifield"),
        *("semifields BroadcastSemifield", "semifields _rebuilt", "expressions where"),
        *("printing ArrayFunction", "printing Maximum", "printing Where", "printing Expm1"),
        *("reductions Sum", "reductions Extremum", "reductions Root", "reductions Log"),
        *("laws Law", "laws LawReport"),
    ],
)
def test_names_that_have_moved(name):
    module, name = name.split()
    assert callable(pickle.loads(f"csemiconv_cupy.{module}\n{name}\n.".encode()))


def test_in_a_new_process(tmp_path):
    """As `pickle.load` without an import before it."""
    (tmp_path / "own.pickle").write_bytes(OWN)
    program = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "own.pickle")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("SelectSemifield(")
