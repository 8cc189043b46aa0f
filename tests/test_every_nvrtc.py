"""Every release of NVRTC on this machine accepts the CUDA kernels: CUDA 13 is stricter than 12."""

import functools

import pytest

from kernels_cu import folder, nvrtc
from kernels_cu.report import ARCHITECTURES
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
def test_every_kernel_is_accepted(path):
    """By the newest release, each for one of the architectures in turn."""
    library = nvrtc.Nvrtc(path)
    for number, made in enumerate(variants()):
        arch = ARCHITECTURES[number % len(ARCHITECTURES)]
        log = library.check(made.text, arch, made.options)
        assert "shift count is too large" not in log
