"""``python -m kernels_cu report``: kernels compiled without a GPU, and what would be noticed."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kernels_cu import folder, nvrtc, sass
from kernels_cu.report import ARCHITECTURES, Row, as_json, main, report, table
from semiconv_cupy.backends import cuda

TOY = r"""
extern "C" __global__ void staged(const float* in, float* out) {
  __shared__ float tile[256];
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[255 - threadIdx.x];
}
extern "C" __global__ void indexed(float* out, int n) {
  float own[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) own[i] = out[i * n];
  for (int i = 0; i < n; ++i) own[i * 7 % 64] += own[i % 64];
  for (int i = 0; i < 64; ++i) out[i * n + 1] = own[i];
}
extern "C" __global__ void wide(const float* in, float* out, int n) {
  float own[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) own[i] = in[i * n];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; ++i) out[i] = own[95 - i] + own[(i * 7) % 96];
}
extern "C" __global__ void max_plus(const float* img, const float* krn, float* out, int n) {
  float best = -1e30f;
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
#pragma unroll
    for (int j = 0; j < 16; ++j) best = fmaxf(best, img[16 * i + j] + krn[16 * i + j]);
  }
  out[threadIdx.x] = best;
}
"""


@dataclass(frozen=True)
class Toy:
    name: str
    text: str = TOY
    options: tuple[str, ...] = ("-std=c++17",)


SPILLING = Toy("wide", options=("-std=c++17", "-maxrregcount=24"))
BROKEN = Toy("staged", 'extern "C" __global__ void staged() { undeclared_name = 1; }')


@pytest.fixture(scope="module")
def library() -> nvrtc.Nvrtc:
    if not list(nvrtc.find_libraries()):
        pytest.skip("no NVRTC library: pip install nvidia-cuda-nvrtc-cu12")
    return nvrtc.load()


@pytest.fixture
def ships(monkeypatch):
    """Let the core ship the given kernels."""

    def set_variants(*sources):
        monkeypatch.setattr(cuda, "shipping_variants", lambda: iter(sources))

    return set_variants


# ---- nvrtc.py ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_resources_of_toy_kernels(library, arch):
    compiled = library.compile(TOY, arch, ("-std=c++17",))
    assert compiled.cubin.startswith(b"\x7fELF")
    kernels = compiled.kernels
    assert set(kernels) == {"staged", "indexed", "wide", "max_plus"}
    for resources in kernels.values():
        assert 4 <= resources.registers <= 255
        assert not resources.spills
    assert [kernels[name].shared for name in ("staged", "indexed")] == [1024, 0]
    assert kernels["indexed"].local == 256
    assert kernels["staged"].local == kernels["wide"].local == 0
    assert kernels["wide"].registers > 80


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_spills_are_seen(library, arch):
    few = library.compile(TOY, arch, SPILLING.options).kernels
    assert few["wide"].registers <= 24
    assert few["wide"].spill_stores > 0
    assert few["wide"].spill_loads > 0
    assert few["wide"].spills
    assert not few["staged"].spills


def test_defines_reach_the_compiler(library):
    source = (
        'extern "C" __global__ void f(int* a) { __shared__ int b[SIZE]; b[*a] = 1; *a = b[1]; }'
    )
    assert library.compile(source, "sm_90", ("-DSIZE=100",)).kernels["f"].shared == 400


def test_options_are_those_of_cupy():
    compiler = pytest.importorskip("cupy.cuda.compiler", reason="compares with CuPy's options")
    text = Path(compiler.__file__).read_text()
    assert all(f"'{option}'" in text for option in nvrtc.CUPY_OPTIONS)
    assert "f'-arch=sm_{arch}', 'cubin'" in text


def test_compile_error_shows_the_log(library):
    with pytest.raises(nvrtc.CompileError, match=r"(?s)-arch=sm_80.*undeclared_name.*undefined"):
        library.compile(BROKEN.text, "sm_80")


def test_unknown_architecture_is_named(library):
    with pytest.raises(ValueError, match=r"arch='sm_1'.*sm_75.*sm_90"):
        library.compile(TOY, "sm_1")


def test_missing_library_names_the_remedy(monkeypatch, tmp_path):
    with pytest.raises(nvrtc.LibraryNotFoundError, match="pip install nvidia-cuda-nvrtc-cu12"):
        nvrtc.Nvrtc(tmp_path / "libnvrtc.so.12")
    monkeypatch.setattr(nvrtc, "find_libraries", lambda: iter(()))
    with pytest.raises(nvrtc.LibraryNotFoundError, match="pip install nvidia-cuda-nvrtc-cu12"):
        nvrtc.load.__wrapped__()


def test_log_of_a_kernel_with_a_function_that_is_not_inlined():
    log = """
kernel.cu(3): warning #177-D: variable "x" was declared but never referenced
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_80'
ptxas info    : Function properties for a
    32 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Function properties for helper
    16 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 40 registers, 48 bytes cumulative stack size, 3072 bytes smem
ptxas info    : Compiling entry function 'b' for 'sm_80'
ptxas info    : Function properties for b
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
"""
    assert nvrtc.read_resources(log) == {
        "a": nvrtc.Resources(40, shared=3072, local=48, spill_stores=12, spill_loads=16),
        "b": nvrtc.Resources(8, shared=0, local=0, spill_stores=0, spill_loads=0),
    }


# ---- sass.py -------------------------------------------------------------------------------------

ASSEMBLY = """
        .section        .text.nested,"ax",@progbits
nested:
.text.nested:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/              @!P0 BRA `(.L_x_3) ;
.L_x_2:
        /*0020*/                   LDG.E.SYS R16, [R2+-0x8] ;
        /*0030*/               @P2 BRA `(.L_x_2) ;
        /*0040*/                   FMNMX.FTZ R16, R16, R7, !PT ;
                                                                 /* 0x000fe400000e0000 */
        /*0050*/              @UP1 BRA `(.L_x_2) ;
.L_x_3:
        /*0060*/                   MUFU.EX2 R1, R1 ;
        /*0070*/               @P1 BRA `(.L_x_3) ;
        /*0080*/               @P1 BRA `(.L_x_1) ;
        /*0090*/                   EXIT ;
.L_x_4:
        /*00a0*/                   BRA `(.L_x_4);
        /*00b0*/                   NOP;
.L_x_5:
        .section        .text.straight,"ax",@progbits
        /*0000*/                   FADD R1, R1, R2 ;
        /*0010*/                   EXIT ;
        .section        .debug_frame,"",@progbits
"""


def test_innermost_loops_of_an_assembly():
    found = sass.mixes(ASSEMBLY)
    assert found["nested"].loops == (
        {"LDG": 1, "BRA": 2, "FMNMX": 1},
        {"MUFU": 1, "BRA": 1},
    )
    assert found["nested"].whole["BRA"] == 6
    assert found["straight"] == sass.Mix({"FADD": 1, "EXIT": 1}, ())
    assert found["straight"].main == {"FADD": 1, "EXIT": 1}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_inner_loop_of_max_plus(library, arch):
    try:
        sass.find_disassembler()
    except sass.DisassemblerNotFoundError as error:
        pytest.skip(str(error))
    loop = sass.mixes(sass.disassemble(library.compile(TOY, arch).cubin))["max_plus"].main
    assert loop["FADD"] == 16
    assert loop["FMNMX"] + loop.get("FMNMX3", 0) in (8, 16)
    assert loop["LDG"] == 32
    assert loop["BRA"] == 1


# ---- report.py -----------------------------------------------------------------------------------


def test_rows_come_in_order_whatever_the_number_of_processes(library):
    sources = [Toy("staged"), SPILLING, BROKEN, Toy("missing")]
    calls = []
    rows = report(sources, ("sm_80", "sm_90"), workers=1, progress=lambda *x: calls.append(x))
    assert [(row.name, row.arch) for row in rows] == [
        (source.name, arch) for source in sources for arch in ("sm_80", "sm_90")
    ]
    assert [row.failed for row in rows] == [False, False] + [True] * 6
    assert "undeclared_name" in rows[4].error
    assert "staged" in rows[6].error
    assert calls == [(done, 8) for done in range(9)]
    assert report(sources, ("sm_80", "sm_90"), workers=2) == rows


def test_table_and_json(library):
    spilling = nvrtc.Resources(24, shared=1024, local=8, spill_stores=4, spill_loads=6)
    mix = sass.Mix({"FADD": 9, "EXIT": 1}, ({"FADD": 8, "FMNMX": 8, "BRA": 1},))
    rows = [
        Row("first_kernel", "sm_90", replace(spilling, spill_stores=0, spill_loads=0), mix=mix),
        Row("second", "sm_120", spilling),
        Row("third", "sm_75", None, "error: ..."),
    ]
    assert table(rows).splitlines() == [
        "kernel        arch    registers  shared  local            spills  inner loop",
        "first_kernel  sm_90          24    1024      8                 0  FADD 8 FMNMX 8 BRA 1",
        "second        sm_120         24    1024      8                10",
        "third         sm_75           -       -      -  does not compile",
    ]
    kernels = json.loads(as_json(rows))["kernels"]
    assert kernels[1]["spill_loads"] == 6
    assert kernels[0]["sass"]["loops"] == [{"FADD": 8, "FMNMX": 8, "BRA": 1}]
    assert kernels[2]["error"] == "error: ..."


def test_report_of_good_kernels(library, ships, capsys, tmp_path):
    ships(Toy("staged"), Toy("indexed"), Toy("max_plus"))
    path = tmp_path / "report.json"
    arguments = ["report", "--arch", "sm_75", "sm_90", "--filter", "ed", "--json", str(path)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "max_plus" not in printed.out
    assert "4 of 4 good" in printed.out
    assert printed.err == ""  # no progress bar where there is no terminal
    assert [kernel["name"] for kernel in json.loads(path.read_text())["kernels"]] == [
        *("staged", "staged", "indexed", "indexed")
    ]


@pytest.mark.parametrize(
    ("bad", "text"), [(SPILLING, "wide on sm_90: spills"), (BROKEN, "undeclared_name")]
)
def test_report_of_a_bad_kernel(library, ships, capsys, bad, text):
    ships(Toy("staged"), bad)
    assert main(["report", "--arch", "sm_90"]) == 1
    printed = capsys.readouterr().out
    assert text in printed
    assert "1 of 2 good" in printed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["report", "--filter", "nowhere"], "no kernel has 'nowhere' in its name"),
        (["report", "--arch", "sm_1"], "sm_1 not among"),
        ([], "COMMAND"),
    ],
)
def test_report_that_cannot_be_made(library, ships, capsys, arguments, text):
    ships(Toy("staged"))
    with pytest.raises(SystemExit) as exit_status:
        main(arguments)
    assert exit_status.value.code == 2
    assert text in capsys.readouterr().err


def test_report_without_nvrtc_names_the_remedy(ships, capsys, monkeypatch):
    ships(Toy("staged"))

    def load():
        raise nvrtc.LibraryNotFoundError("pip install it")

    monkeypatch.setattr(nvrtc, "load", load)
    with pytest.raises(SystemExit) as exit_status:
        main(["report"])
    assert exit_status.value.code == 2
    assert "pip install it" in capsys.readouterr().err


def test_sources_are_at_hand_and_the_core_is_not_imported():
    assert (folder() / "portable.cuh").is_file()
    check = "import kernels_cu.report, sys; print('semiconv_cupy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
