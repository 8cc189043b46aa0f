"""Every release of NVRTC on this machine accepts the CUDA kernels: CUDA 13 is stricter than 12.

The newest one has registers enough for those that need most of them.
"""

import functools
import re

import pytest

from kernels_cu import folder, nvrtc
from kernels_cu.report import ARCHITECTURES, report
from semiconv_cupy import source
from semiconv_cupy.variants import shipping_variants

RELEASES = list({path.name: path for path in nvrtc.find_libraries()}.values())  # the newest first


@functools.cache
def variants() -> list[source.KernelSource]:
    """All of them, those of float32 first."""
    return sorted(shipping_variants(), key=lambda made: "float32" not in made.name)


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.name)
def test_a_kernel_of_each_file_is_accepted(path):
    """Of float32 where the file has one: an element fills a word."""
    library = nvrtc.Nvrtc(path)
    files = {path.name for path in (folder() / "cuda").glob("*.cu")}
    assert len(files) > 20
    for name in sorted(files):
        text = source.inlined(f"cuda/{name}")
        made = next(made for made in variants() if made.text.endswith(text))
        library.check(made.text, "sm_90", made.options)


@pytest.mark.slow
@pytest.mark.parametrize("path", RELEASES[:1], ids=lambda path: path.name)
def test_a_kernel_of_each_kind_and_dtype_is_accepted(path):
    """By the newest release, each for one of the architectures in turn."""
    library = nvrtc.Nvrtc(path)
    named = ((re.match(r".*?_(bool|b?float|u?int)\d*", made.name), made) for made in variants())
    kinds = {name[0] if name else made.name: made for name, made in named}
    assert len(kinds) > 200
    for number, made in enumerate(kinds.values()):
        arch = ARCHITECTURES[number % len(ARCHITECTURES)]
        log = library.check(made.text, arch, made.options)
        assert "shift count is too large" not in log


# Kernels for which a release had too few registers, each with an architecture of which that was so.
AT_THE_LIMIT = [
    ("forward_tiled_tropical_max_float32_3x3_8x2", "sm_80"),
    ("forward_tiled_tropical_max_float32_3x3_8x2", "sm_90"),
    ("grad_tiled_root_float32_21x21", "sm_75"),
    ("grad_kernel_custom_float32_3x3", "sm_80"),
    ("product_tropical_max_float32_128x128", "sm_80"),
    ("product_tropical_max_int32_128x128", "sm_80"),
    ("weighted_symmetry0_float32_float32_4", "sm_75"),
    ("weighted_symmetry0_int64_bool_8", "sm_90"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arch"), AT_THE_LIMIT)
def test_registers_suffice(name, arch):
    if not RELEASES:
        pytest.skip("no NVRTC library: pip install nvidia-cuda-nvrtc")
    named = [made for made in variants() if made.name == f"semiconv_{name}"]
    assert named
    for row in report(named, (arch,), workers=1):
        assert not row.failed, row
