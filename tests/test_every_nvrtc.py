"""Every release of NVRTC on this machine accepts the CUDA kernels: CUDA 13 is stricter than 12.

The newest one has registers enough for those that need most of them.
"""

import functools
import re

import numpy as np
import pytest

from kernels_cu import folder, nvrtc
from kernels_cu.report import ARCHITECTURES, report
from semiconv_cupy import SelectSemifield, source
from semiconv_cupy.backends.cuda.forward_tile import forward_tile_of
from semiconv_cupy.backends.cuda.gradient_tile import gradient_tile_of
from semiconv_cupy.backends.cuda.kernels import kernel_source, specialise
from semiconv_cupy.backends.cuda.limits import LIMITS
from semiconv_cupy.geometry import Geometry
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


@pytest.mark.parametrize("path", RELEASES, ids=lambda path: path.name)
def test_a_tile_of_structs_is_optimised(path):
    """Booleans are structs; 13.0 mixed up their addresses, which `check` does not find out."""
    shapes = (1, 1, 64, 64), (1, 1, 3, 3)
    semifield, plan = SelectSemifield.tropical_max(), Geometry.plan(*shapes)
    tile = forward_tile_of(semifield, "bool", plan, None, LIMITS)
    kernel = specialise("forward_tiled", semifield, "bool", plan, "int64", None, tile)
    made = kernel_source(kernel)
    assert made.name in nvrtc.Nvrtc(path).compile(made.text, "sm_90", made.options).kernels


@pytest.mark.slow
@pytest.mark.parametrize("path", RELEASES[:1], ids=lambda path: path.name)
def test_a_kernel_of_each_kind_and_dtype_is_accepted(path):
    """By the newest release, each for one of the architectures in turn."""
    library = nvrtc.Nvrtc(path)
    # Names without a window, tiles and ranks.
    kinds = {re.sub(r"_\d[\dx]*d?(?=_|$)|_by(?=_)", "", made.name): made for made in variants()}
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "side", "stride"), [(3, 14, 1), (3, 28, 2), (3, 7, 1), (2, 28, 2)]
)
def test_gradients_of_small_planes_leave_room_for_a_whole_wave(kernel, side, stride):
    """Of so few registers that `Limits.light_threads` are resident."""
    if not RELEASES:
        pytest.skip("no NVRTC library: pip install nvidia-cuda-nvrtc")
    library = nvrtc.Nvrtc(RELEASES[0])
    shapes = (512, 64, side, side), (64, 1, kernel, kernel)
    plan = Geometry.plan(*shapes, groups=64, stride=stride)
    case, residual = (SelectSemifield.tropical_max(), "float32", plan), np.dtype("u1")
    tile = gradient_tile_of(*case, residual, (True, True))
    assert tile is not None
    assert tile.light
    made = kernel_source(specialise("grad_tiled", *case, "int64", residual, tile))
    for arch in ("sm_80", "sm_90"):
        registers = library.compile(made.text, arch, made.options).kernels[made.name].registers
        assert -(-registers // 8) * 8 * LIMITS.light_threads <= 2**16
