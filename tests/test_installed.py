"""An installed wheel with ready-made libraries, on a machine without any compiler.

`.ci/run` and the workflow of wheels run this beside a wheel; it is skipped where none was built.
Every call below must be ready-made: no warning, nothing compiled, and no wait.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import semiconv_cupy as sc
from semiconv_cupy.backends.host import prebuilt

pytestmark = pytest.mark.skipif(
    prebuilt.level() is None, reason="no ready-made libraries: python -m kernels_cu build"
)

FIRST = """
import json, time
import numpy as np
import semiconv_cupy as sc
img, krn = np.ones((1, 1, 64, 64), "f4"), np.zeros((1, 1, 3, 3), "f4")
begin, used = time.perf_counter(), time.process_time()
sc.semifield_conv(img, krn, "tropical_max")
print(json.dumps([time.perf_counter() - begin, time.process_time() - used]))
"""


def run(code, tmp_path):
    """What a process prints as JSON that finds no compiler and takes each warning for an error."""
    cache = tmp_path / "cache"
    variables = {**os.environ, "CXX": "/nonexistent/c++", "SEMICONV_CACHE_DIR": str(cache)}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not cache.exists()  # nothing was compiled
    return json.loads(done.stdout)


def test_the_first_call_waits_for_nothing(tmp_path):
    seconds, of_processor = min(run(FIRST, tmp_path) for _ in range(3))
    print(f"first call: {1e3 * seconds:.0f} ms, {1e3 * of_processor:.0f} of them computing")
    assert of_processor < 0.05


FILTERS = """
import json
import numpy as np
import semiconv_cupy as sc
from semiconv_cupy import ndimage
rng = np.random.default_rng(3)
flags, footprint, weights = rng.random((33, 41)) < 0.6, np.array([[0, 1, 0], [1, 1, 1]]), [1, 2, 1]
made = {"generate_binary_structure": (2, 1), "iterate_structure": (footprint, 2)}
weighted = {"convolve": [[1, 2], [0, 1]], "correlate": [[1, 2], [0, 1]]}
structured = ("grey_dilation", "grey_erosion")
done = []
for name in ndimage.__all__:
    function = getattr(ndimage, name)
    if name in made:
        function(*made[name])
    elif name.startswith(("binary", "distance")):
        function(flags)
    else:
        for dtype in ("uint8", "float32"):
            image = (100 * rng.random((33, 41))).astype(dtype)
            if name in structured:
                function(image, structure=[[0, 1], [2, 3]])
                function(image, structure=[[0, 1.5], [2, 1e6]], mode="ignore")
            if name in weighted:
                function(image, weighted[name])
            elif name.endswith("ve1d") or name.endswith("te1d"):
                function(image, weights)
            elif name.endswith("1d"):
                function(image, 5)
            else:
                function(image, size=3)
                function(image, footprint=footprint)
    done.append(name)
image = flags * np.float32(3)
for function in (sc.parabolic_dilation, sc.parabolic_erosion, sc.parabolic_opening):
    function(image, 2.0)
sc.reconstruction(image - 1, image), sc.h_maxima(image, 1.0), sc.rolling_ball(image, radius=5)
print(json.dumps(done))
"""


def test_every_function_of_ndimage(tmp_path):
    assert run(FILTERS, tmp_path) == sc.ndimage.__all__


SEMIFIELDS = """
import json
import numpy as np
import semiconv_cupy as sc
rng = np.random.default_rng(4)
sums = {}
log = sc.SubtractSemifield.log
for name, semifield, value in (
    ("max", "tropical_max", {}), ("linear", "linear", {}), ("log(1)", log(1.0), {}),
    ("log(-2)", log(-2.0), {}), ("learned", "log", {"mu": np.array(1.5, "f4")}),
    ("of each output", "log", {"mu": np.arange(1, 5, dtype="f4")}),
):
    img, krn = (rng.random(s, dtype="f4") for s in ((2, 3, 20, 21), (4, 3, 3, 5)))
    methods = ("auto",) if name == "max" else ("auto", "direct")
    for method in methods:
        options = dict(padding="same", method=method, **value)
        found = [sc.semifield_conv(img, krn, semifield, **options)]
        out, pullback = sc.semifield_conv_vjp(img, krn, semifield, **options)
        found += [out, *pullback(np.ones_like(out))]
        if np.ndim(value.get("mu", 0)) == 0:
            a, b = (rng.random(s, dtype="f4") for s in ((17, 40), (40, 23)))
            product, back = sc.semifield_matmul_vjp(a, b, semifield, method=method, **value)
            found += [product, *back(np.ones_like(product))]
        sums[f"{name} {method}"] = [float(np.sum(x)) for x in found]
_, winners = sc.semifield_conv(img, krn, "tropical_max", return_indices=True)
sums["winners"] = int(winners.sum())
img, krn = (rng.integers(0, 99, s).astype("u1") for s in ((1, 1, 30, 31), (1, 1, 3, 3)))
sums["uint8"] = int(sc.semifield_conv(img, krn, "tropical_max").sum())
print(json.dumps(sums))
"""


def test_ready_made_semifields_and_their_gradients(tmp_path):
    found = run(SEMIFIELDS, tmp_path)
    space = {}
    exec(SEMIFIELDS.replace("print(json", "sums = (json"), space)  # in this process
    for name, expected in json.loads(space["sums"]).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)


TENSORS = """
import json, torch
from torch_bridge.functional import semifield_conv
import torch_bridge as semiconv
img, krn = torch.rand(2, 3, 20, 21, requires_grad=True), torch.rand(3, 1, 3, 3, requires_grad=True)
layers = [semiconv.Dilation(3, channels=3, ndim=2), semiconv.Erosion(3, channels=3, ndim=2),
          semiconv.DilationPool2d(2, channels=3), semiconv.LogSumExpPool2d(2),
          torch.nn.Flatten(), semiconv.SemifieldLinear(3 * 5 * 5, 4, "tropical_max")]
torch.nn.Sequential(*layers)(img).sum().backward()
semiconv.functional.parabolic_dilation(img, torch.tensor(2.0, requires_grad=True)).sum().backward()
img.grad = None
semifield_conv(img, krn, "tropical_max", groups=3, padding="same").sum().backward()
print(json.dumps([img.grad.sum().item(), krn.grad.sum().item()]))
"""


def test_tensors_and_their_gradients(tmp_path):
    pytest.importorskip("torch")
    assert run(TENSORS, tmp_path) == [2 * 3 * 20 * 21] * 2


def test_a_semifield_of_ones_own_warns_once(tmp_path):
    code = FIRST.replace(
        '"tropical_max")',
        "sc.SelectSemifield(lambda a, b: b > a + 1, lambda i, k: i * 2 + k, zero=-9.0))",
    )
    variables = {**os.environ, "CXX": "/nonexistent/c++", "SEMICONV_CACHE_DIR": str(tmp_path / "c")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run as slow array loops") == 1
