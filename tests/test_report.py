"""``python -m kernels_cu report``: kernels compiled without a GPU, and what would be noticed."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kernels_cu import folder, model, nvrtc, sass
from kernels_cu.report import ARCHITECTURES, Inner, Row, as_json, main, report, table
from semiconv_cupy import SelectSemifield, SubtractSemifield, source
from semiconv_cupy.works import STANDARD_WORKS

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
extern "C" __global__ void __launch_bounds__(96)
max_plus(const float* img, const float* krn, float* out, int n) {
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


# ---- nvrtc.py ------------------------------------------------------------------------------------


@pytest.mark.table(1)
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


@pytest.mark.table(1)
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


def test_missing_library_names_the_remedy(tmp_path):
    with pytest.raises(nvrtc.LibraryNotFoundError, match="pip install nvidia-cuda-nvrtc-cu12"):
        nvrtc.Nvrtc(tmp_path / "libnvrtc.so.12")
    with pytest.raises(nvrtc.LibraryNotFoundError, match="pip install nvidia-cuda-nvrtc-cu12"):
        nvrtc.first_of([])


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
        /*0008*/                   FADD.FTZ R3, -R1, -RZ ;
        /*0010*/                   EXIT ;
        .section        .nv.info.straight,"",@"SHT_CUDA_INFO"
        //----- nvinfo : EIATTR_MAX_THREADS
        .align          4
        /*00a8*/        .byte   0x04, 0x05
        /*00aa*/        .short  (.L_86 - .L_85)
.L_85:
        /*00ac*/        .word   0x00000008
        /*00b0*/        .word   0x00000004
        /*00b4*/        .word   0x00000002
        .section        .debug_frame,"",@progbits
"""


def test_loops_of_an_assembly():
    found = sass.read(ASSEMBLY)
    outer, inner, last = found["nested"].loops
    assert outer == {"BRA": 2}  # what lies in no loop inside it
    assert inner == {"LDG.E.SYS": 1, "BRA": 2, "FMNMX.FTZ": 1}
    assert last == {"MUFU.EX2": 1, "BRA": 1}
    assert found["nested"].whole["BRA"] == 6
    assert found["straight"] == sass.Code({"FADD": 1, "FADD.FTZ.RZ": 1, "EXIT": 1}, (), 8 * 4 * 2)

    def maxima(counts):
        return counts.get("FMNMX.FTZ", 0)

    assert found["nested"].hottest(maxima) == inner
    assert found["straight"].hottest(maxima) == found["straight"].whole


def test_a_plane_unrolled_in_a_loop_over_channels_is_its_inner_loop():
    outer = {"FADD": 288, "FMNMX": 288, "LDS.128": 20}
    code = sass.Code({}, (outer, {"LDG": 9, "FADD": 2}))
    assert model.inner_loop(code, MAX_PLUS) is outer


@pytest.fixture(scope="module")
def disassembler(library):
    try:
        sass.find_disassembler()
    except sass.DisassemblerNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.table(1)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_inner_loop_of_max_plus(library, disassembler, arch):
    code = sass.read(sass.disassemble(library.compile(TOY, arch).cubin))["max_plus"]
    assert code.threads == 96
    loop = sass.by_opcode(model.inner_loop(code, MAX_PLUS))
    assert loop["FADD"] == 16
    assert loop["FMNMX"] + loop.get("FMNMX3", 0) in (8, 16)
    assert loop["LDG"] == 32
    assert loop["BRA"] == 1


# ---- model.py ------------------------------------------------------------------------------------


def described(**macros):
    return model.arithmetic_of("".join(f"#define SEMICONV_{k} {v}\n" for k, v in macros.items()))


def of(semifield, storage="float32", **macros):
    text = source.host_library(semifield, storage, "forward")
    return model.arithmetic_of(
        "".join(f"#define SEMICONV_{k} {v}\n" for k, v in macros.items()) + text
    )


MAX_PLUS = of(SelectSemifield.tropical_max())
LINEAR = of(SubtractSemifield.linear())
LOG = of(SubtractSemifield.log(2))


def test_own_instructions_and_terms():
    loop = {"FADD.FTZ": 6, "FMNMX.FTZ": 6, "FADD.RZ": 1, "IMAD.MOV": 3, "LDS.128": 2, "BRA": 2}
    assert model.own(loop, MAX_PLUS) == 12
    assert model.terms(loop, MAX_PLUS) == 6
    assert model.shares(loop, MAX_PLUS) == (12 / 16, 12 / 20)
    integers = of(SelectSemifield.tropical_max(), "uint8")
    assert model.terms({"VIADDMNMX.S16x2": 3, "VIADDMNMX": 1, "PRMT": 4}, integers) == 7
    packed = {"HADD2": 3, "HMNMX2": 3, "HADD2.F32": 2, "HADD2.BF16_V2": 1}
    assert model.own(packed, MAX_PLUS) == 7
    assert model.terms(packed, MAX_PLUS) == 8
    chosen = {"FSETP.GT.FTZ.AND": 1, "SEL": 1}
    assert model.own(chosen, MAX_PLUS) == 0
    remembering = of(SelectSemifield.tropical_max(), RESIDUAL="uint8")
    assert model.own(chosen, remembering) == 2
    products = of(SelectSemifield.max_times())
    assert model.own({"FMUL": 5, "FADD": 2}, products) == model.terms({"FMUL": 5}, products) == 5
    nearest = of(SelectSemifield(lambda a, b: b > a, lambda img, krn: abs(img - krn), zero=0))
    assert model.own({"FADD": 5, "FSETP": 5}, nearest) == 10
    assert model.terms({"FADD": 5}, nearest) == 0
    assert model.own({"FFMA": 5, "FADD": 2}, LINEAR) == model.terms({"FFMA": 5}, LINEAR) == 5
    assert model.own({"MUFU.EX2": 1, "FFMA": 1, "FADD": 1, "IADD3": 9}, LOG) == 3
    assert model.terms({"MUFU.EX2": 2, "MUFU.RCP": 1}, LOG) == 2


def test_a_filters_sum_is_not_a_semifields():
    assert described(SUM="", SYMMETRY="0").own == {"DADD", "DMUL"}
    assert "VIMNMX" in described(STORAGE="uint8", INTEGER="", FLAT="").own


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "share"),
    [
        (128, 5184, 256, 2 / 8),  # 65536 registers hold two blocks of 256 * 128
        (129, 0, 256, 1 / 8),  # given by 8 to a thread: 136 of 512 warps' worth
        (32, 0, 256, 1.0),
        (32, 75 * 1024, 256, 3 / 8),  # 228 KiB hold three blocks of 76
        (32, 76 * 1024, 256, 2 / 8),
        (16, 0, 32, 0.5),  # 32 blocks at most
    ],
)
def test_occupancy(registers, shared, threads, share):
    resources = nvrtc.Resources(registers, shared, local=0, spill_stores=0, spill_loads=0)
    assert model.occupancy("sm_90", resources, threads) == share


def test_model_time_of_max_plus():
    pure = {"FADD": 64, "FMNMX": 64}
    pairs = 64 * 132 * 1.755e9  # a second
    time = model.model_time(10**9, 8, 132 * 4, pure, MAX_PLUS)
    assert time.seconds == time.limit == pytest.approx(1e9 / pairs)
    fed = model.model_time(10**9, 8, 132 * 4, {**pure, "IMAD.MOV": 64}, MAX_PLUS)
    assert (fed.bound, fed.seconds / fed.limit) == ("issue", pytest.approx(1.5))
    loading = model.model_time(10**9, 8, 132 * 4, {**pure, "LDS.128": 32}, MAX_PLUS)
    assert (loading.bound, loading.seconds / loading.limit) == ("memory", pytest.approx(4.0))
    tail = model.model_time(10**9, 8, 132 + 1, pure, MAX_PLUS)
    assert tail.seconds / tail.limit == pytest.approx(264 / 133)
    moving = model.model_time(10**6, 3 * 10**9, 132, pure, MAX_PLUS)
    assert (moving.bound, moving.seconds) == ("bandwidth", pytest.approx(1e-3))
    assert math.isnan(model.model_time(10**6, 8, 132, {"MUFU": 1}, MAX_PLUS).seconds)


# Of the arithmetic in the inner loop of channel mixing, which convolutional layers are.
LEAST_OWN = 0.90


def test_channel_mixing_computes_little_but_its_semifield(library, disassembler):
    mixing = next(work for work in STANDARD_WORKS if work.name.startswith("mixing"))
    sources = [launch.source for launch in mixing.launches]
    [row] = report(sources, ("sm_90",), with_sass=True, workers=1)
    assert row.inner.of_arithmetic >= LEAST_OWN, table([row])


# ---- report.py -----------------------------------------------------------------------------------


@pytest.mark.slow
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
    inner = Inner({"FADD.FTZ": 8, "FMNMX.FTZ": 8, "BRA": 1}, 1.0, 16 / 17, 0.375)
    rows = [
        Row("first_kernel", "sm_90", replace(spilling, spill_stores=0, spill_loads=0), inner=inner),
        Row("second", "sm_120", spilling),
        Row("third", "sm_75", None, "error: ..."),
    ]
    assert [" ".join(line.split()) for line in table(rows).splitlines()] == [
        "kernel arch registers shared local spills occupancy of arithmetic of issued inner loop",
        "first_kernel sm_90 24 1024 8 0 38% 100% 94% FADD 8 FMNMX 8 BRA 1",
        "second sm_120 24 1024 8 10",
        "third sm_75 - - - does not compile",
    ]
    kernels = json.loads(as_json(rows))["kernels"]
    assert kernels[1]["spill_loads"] == 6
    assert kernels[0]["inner"]["counts"] == {"FADD.FTZ": 8, "FMNMX.FTZ": 8, "BRA": 1}
    assert kernels[2]["error"] == "error: ..."


def test_report_of_good_kernels(library, capsys, tmp_path):
    toys = Toy("staged"), Toy("indexed"), Toy("max_plus")
    path = tmp_path / "report.json"
    arguments = ["report", "--arch", "sm_75", "sm_90", "--filter", "ed", "--json", str(path)]
    assert main(arguments, sources=toys) == 0
    printed = capsys.readouterr()
    assert "max_plus" not in printed.out
    assert "4 of 4 good" in printed.out
    assert printed.err == ""  # no progress bar where there is no terminal
    assert [kernel["name"] for kernel in json.loads(path.read_text())["kernels"]] == [
        *("staged", "staged", "indexed", "indexed")
    ]


def test_model_times_of_works(library, disassembler, capsys, tmp_path):
    path = tmp_path / "report.json"
    arguments = ["report", "--arch", "sm_90", "--works", "--json", str(path)]
    assert main(arguments, sources=[Toy("staged")], works=STANDARD_WORKS[:1]) == 0
    [(name, told)] = json.loads(path.read_text())["works"].items()
    assert name in capsys.readouterr().out
    pairs = 8 * 64 * 128**2 * 64 * 9
    assert told["limit"] == pytest.approx(pairs / (64 * 132 * 1.755e9))
    assert told["limit"] <= told["computing"] < 2 * told["limit"]


@pytest.mark.parametrize(
    ("bad", "text"), [(SPILLING, "wide on sm_90: spills"), (BROKEN, "undeclared_name")]
)
def test_report_of_a_bad_kernel(library, capsys, bad, text):
    assert main(["report", "--arch", "sm_90"], sources=[Toy("staged"), bad]) == 1
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
def test_report_that_cannot_be_made(library, capsys, arguments, text):
    with pytest.raises(SystemExit) as exit_status:
        main(arguments, sources=[Toy("staged")])
    assert exit_status.value.code == 2
    assert text in capsys.readouterr().err


def test_report_without_nvrtc_names_the_remedy():
    """In a process that finds none of NVIDIA's wheels."""
    program = """
import sys
sys.modules["nvidia"] = None
from kernels_cu import nvrtc, report
if list(nvrtc.find_libraries()):
    sys.exit("NVRTC is installed outside of wheels, too")
report.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "report"], capture_output=True, text=True, check=False
    )
    if "outside of wheels" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 2
    assert "pip install nvidia-cuda-nvrtc-cu12" in done.stderr


def test_sources_are_at_hand_and_the_core_is_not_imported():
    assert (folder() / "portable.cuh").is_file()
    check = "import kernels_cu.report, sys; print('semiconv_cupy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert result.stdout == "False\n", result.stderr
