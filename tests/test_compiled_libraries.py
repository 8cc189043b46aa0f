"""Which libraries calls compile: only what they run. Counted in a cache folder of their own."""

import os
import subprocess
import sys

import pytest

PRELUDE = """
import numpy as np, semiconv_cupy as sc
img, krn = np.random.rand(1, 1, 9, 9), np.random.rand(1, 1, 3, 3)
"""
TENSORS = """
import torch
from torch_bridge.functional import semifield_conv
img, krn = torch.from_numpy(img), torch.from_numpy(krn)
"""
# What is called, and how many libraries it needs besides the pool of threads: a forward pass has
# its own and the walk over tiles, which all semifields share.
CALLS = {
    "a convolution": ("sc.semifield_conv(img, krn, 'tropical_max')", 2),
    "of an image in another order of bytes": (
        "sc.semifield_conv(img.astype('>f8'), krn.astype('>f8'), 'tropical_max')",
        2,
    ),
    "nothing to compute": ("sc.semifield_conv(img[:0], krn, 'tropical_max')", 0),
    "array loops": ("sc.semifield_conv_vjp(img, krn, 'tropical_max', method='reference')", 0),
    "a forward pass with what its derivative needs": (
        "sc.semifield_conv_vjp(img, krn, 'tropical_max')",
        2,
    ),
    "refused": (
        "try: sc.semifield_conv_vjp(img.astype(int), krn.astype(int), 'tropical_max')\n"
        "except TypeError: pass",
        0,
    ),
    "a recorded call of tensors, and its gradient": (
        TENSORS + "semifield_conv(img, krn.requires_grad_(), 'tropical_max').sum().backward()",
        3,
    ),
    "no gradient wanted": (
        TENSORS + "from torch_bridge.ops import handle_of\n"
        "rest = (handle_of('tropical_max').key, [1, 1], [0] * 4, [1, 1], 1, False, True)\n"
        "args = torch.ones(1, 1, 7, 7).double(), None, None, torch.zeros(1, 1, 7, 7).byte()\n"
        "shapes = [1, 1, 9, 9], [1, 1, 3, 3]\n"
        "torch.ops.semiconv.backward(*args, rest[0], *shapes, *rest[1:], False, False)",
        0,
    ),
}


QUICK = ("a forward pass with what its derivative needs", "refused", "no gradient wanted")


@pytest.mark.table(1)
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CALLS],
)
def test_only_what_runs_is_compiled(name, tmp_path):
    code, expected = CALLS[name]
    environment = {**os.environ, "SEMICONV_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", PRELUDE + code], env=environment, check=True)
    libraries = list((tmp_path / "cache").glob("*.so"))
    assert len(libraries) == (expected + 1 if expected else 0)
