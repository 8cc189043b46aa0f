r"""What machine code says of a kernel's speed, with no GPU: own arithmetic, occupancy, model times.

**Own arithmetic.** A kernel's inner loop (`sass.Code.hottest`, weighed by these very instructions)
holds the semifield's own instructions and others, which feed them. Own are

=====================  =============================================================
max-plus, min-minus    FADD, FMNMX; FSETP, FSEL, SEL where winners are remembered
the same on halves     HADD2, HMNMX2 (packed: two terms each); DADD, DSETP, FSEL on doubles
products, selected     FMUL (HMUL2, DMUL) in place of the additions
linear                 FFMA (HFMA2, DFMA); a compensated sum's FADD are not
log                    FADD, FMUL, FFMA, FMNMX, FSETP, FSEL, MUFU: nothing else computes there
root and other sums    the same
integers, flat filters the minima and maxima (VIMNMX, FMNMX, VIADDMNMX: of a sum, ...)
=====================  =============================================================

*Of arithmetic* is their share of all instructions but memory's (LD*, ST*, ATOM*, RED*, SHFL, ...)
and control's (BRA, BAR, BSYNC, NOP, ...); addresses, moves and comparisons count against it. *Of
issued* is their share of all. Copies written as an addition of 0 are never own.

**Occupancy.** Blocks resident on a multiprocessor are the least of what its registers (given to
warps by 256, a quarter of them to each of four schedulers), its shared memory (one reserved KiB for
each block), its warps and its blocks allow; occupancy is their warps over the most possible.

**Model time.** Of a work that must move `bytes` and whose windows have `terms` in all,

.. math:: time = \max(bytes / bandwidth,\; terms \cdot c / (SMs \cdot clock) \cdot tail)

c, clocks of a multiprocessor for a term, is that of the inner loop: its most occupied unit's
clocks, over the terms in it. A unit's clocks are 32 lanes times its instructions over its lanes a
clock (`Architecture.lanes`): on Hopper 128 issue slots, 128 for FADD, FMUL and FFMA, 64 for FMNMX,
comparisons, selections and integers, 64 for IMAD (of the 128), 16 for MUFU, 64 for doubles, 32
words of 4 bytes for loads and stores. The tail is the number of blocks rounded up to a multiple of
the multiprocessors. Latencies are taken to be hidden, caches to hold what is read twice. The
*limit* has in c only the least instructions for a term, an FADD and an FMNMX, say: 1/64 clock.

What the GPU's data sheets and the CUDA C++ Programming Guide (arithmetic throughput) give, and a
device copy's bandwidth, are `H100` and `ARCHITECTURES`; a benchmark puts measured ones in place.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kernels_cu import sass
from kernels_cu.nvrtc import Resources

Counts = Mapping[str, int]


@dataclass(frozen=True)
class Architecture:
    """A multiprocessor: what it holds, and the lanes of its units, by clock."""

    warps: int
    blocks: int
    shared: int  # bytes
    reserved: int  # shared bytes that each block costs besides its own
    lanes: Mapping[str, int]


def _lanes(fma: int, half: int, double: int) -> dict[str, int]:
    return dict(issue=128, fma=fma, imad=64, alu=64, half=half, double=double, mufu=16, memory=32)


ARCHITECTURES = {
    "sm_75": Architecture(32, 16, 64 * 1024, 0, _lanes(64, 64, 2)),
    "sm_80": Architecture(64, 32, 164 * 1024, 1024, _lanes(64, 128, 32)),
    "sm_90": Architecture(64, 32, 228 * 1024, 1024, _lanes(128, 128, 64)),
    "sm_120": Architecture(48, 24, 100 * 1024, 1024, _lanes(128, 128, 2)),
}


@dataclass(frozen=True)
class Machine:
    """A GPU: clock in Hz, bandwidth of a device copy in bytes (read and written) a second."""

    arch: str
    multiprocessors: int
    clock: float
    bandwidth: float


H100 = Machine("sm_90", 132, 1.755e9, 3.0e12)

# ---- which instructions are whose ----------------------------------------------------------------

_MEMORY = re.compile(r"LD|ST|ATOM|RED|SHFL|CCTL|MEMBAR|ERRBAR|UBLKCP|UTMA|SYNCS")
_CONTROL = re.compile(
    r"BRA|BRX|JMP|CALL|RET|EXIT|BAR|B2R|BSSY|BSYNC|BREAK|WARPSYNC|NOP|DEPBAR|YIELD|NANOSLEEP|ELECT"
)
_UNITS = {
    "fma": re.compile(r"F(ADD|MUL|FMA)\b"),
    "imad": re.compile(r"IMAD"),
    "half": re.compile(r"H(ADD2|MUL2|FMA2)"),
    "double": re.compile(r"D(ADD|MUL|FMA|SETP|MNMX)"),
    "mufu": re.compile(r"MUFU|[IF]2[IF]\b|POPC|FLO"),
    "memory": _MEMORY,
    "issue": re.compile(rf"U[A-Z]|{_CONTROL.pattern}"),  # the uniform unit is never the bottleneck
}


@dataclass(frozen=True)
class Arithmetic:
    """A kernel's semifield as instructions.

    `own` are opcodes; `terms` says how many terms of a window one instruction stands for; `least`
    is what one term costs at best, in lanes of each unit. Empty where that is not told.
    """

    own: frozenset[str]
    terms: Mapping[str, int]
    least: Mapping[str, float]


_ADDITION = {"FADD": 1, "HADD2": 2, "DADD": 1}
_PRODUCT = {"FMUL": 1, "HMUL2": 2, "DMUL": 1}
_FUSED = {"FFMA": 1, "HFMA2": 2, "DFMA": 1}
_EXTREMUM = {
    "FMNMX",
    "FMNMX3",
    "HMNMX2",
    "VHMNMX",
    "DMNMX",
    "VIMNMX",
    "VIMNMX3",
    "VIADDMNMX",
    "IMNMX",
}
# Its sums too; a pair counts in both.
_FUSED_EXTREMUM = {"VIADDMNMX": 1, "VIADDMNMX.S16x2": 1}
_CHOICE = {"FSETP", "FSEL", "SEL", "DSETP", "HSETP2"}
_ANY = {*_ADDITION, *_PRODUCT, *_FUSED, *_EXTREMUM, "FSETP", "FSEL", "DSETP", "MUFU"}
_SELECTED = {"fma": 1, "alu": 1, "issue": 2}
_MULTIPLIED = {"fma": 1, "issue": 1}


def arithmetic_of(text: str) -> Arithmetic:
    """The arithmetic of a kernel's final source text, from its semifield's macros (README.md)."""
    macros = dict(re.findall(r"^#define (SEMICONV_\w+) ?(.*)$", text, re.MULTILINE))
    double = macros.get("SEMICONV_STORAGE") == "float64"
    if "SEMICONV_SELECT" in macros and "SEMICONV_INTEGER" not in macros:
        choice = _CHOICE if double or "SEMICONV_RESIDUAL" in macros else set()
        least = {"double": 2, "issue": 2} if double else _SELECTED
        if "SEMICONV_PLAIN_TIMES" in macros:
            if macros.get("SEMICONV_STORAGE") in ("float16", "bfloat16") and not choice:
                # In pairs; half of the sums are a fused multiplication by 1, for another unit.
                terms = {**_ADDITION, "HFMA2": 2}
                return Arithmetic(frozenset({*terms, *_EXTREMUM}), terms, {"alu": 0.5, "issue": 1})
            return Arithmetic(frozenset({*_ADDITION, *_EXTREMUM, *choice}), _ADDITION, least)
        if "SEMICONV_DROP_ZERO_WEIGHTS" in macros:  # of those left: img * krn
            return Arithmetic(frozenset({*_PRODUCT, *_EXTREMUM, *choice}), _PRODUCT, least)
        return Arithmetic(frozenset(_ANY | choice), {}, {})
    bits = re.fullmatch(r"u?int(8|16|32)", macros.get("SEMICONV_STORAGE", ""))
    if bits and "SEMICONV_PLAIN_TIMES" in macros:
        terms = {} if "SEMICONV_RESIDUAL" in macros else _FUSED_EXTREMUM
        return Arithmetic(frozenset(_EXTREMUM), terms, {"alu": 0.5 if bits[1] == "8" else 1.0})
    if "SEMICONV_SYMMETRY" in macros:  # a filter's weighted sum, in double and never fused
        return Arithmetic(frozenset({"DADD", "DMUL"}), {"DMUL": 1}, {"double": 2, "issue": 2})
    if "SEMICONV_SUM" in macros and "SEMICONV_TIMES" in macros:
        least = {"double": 1, "issue": 1} if double else _MULTIPLIED
        return Arithmetic(frozenset(_FUSED), _FUSED, least)
    if "SEMICONV_LOG" in macros or "SEMICONV_ROOT" in macros:
        # At best they are linear ones, of powers of the values.
        terms = {"MUFU.EX2": 1} if "SEMICONV_LOG" in macros else {}
        return Arithmetic(frozenset(_ANY), terms, {} if double else _MULTIPLIED)
    if "SEMICONV_TIMES" in macros:
        return Arithmetic(frozenset(_ANY), {}, {})
    return Arithmetic(frozenset({*_EXTREMUM, *_ADDITION}), {}, {})


def own(counts: Counts, arithmetic: Arithmetic) -> int:
    """How many instructions are the semifield's own."""
    return sum(
        count
        for mnemonic, count in counts.items()
        if mnemonic.partition(".")[0] in arithmetic.own and not _converts(mnemonic)
    )


def terms(counts: Counts, arithmetic: Arithmetic) -> int:
    """How many terms of a window the instructions stand for; 0 where that cannot be told."""
    return sum(
        count * terms
        for mnemonic, count in counts.items()
        for opcode, terms in arithmetic.terms.items()
        if (mnemonic + ".").startswith(opcode + ".") and not _converts(mnemonic)
    )


def _converts(mnemonic: str) -> bool:
    return mnemonic.endswith(".RZ") or mnemonic.startswith("HADD2.F32")


def shares(counts: Counts, arithmetic: Arithmetic) -> tuple[float, float]:
    """The own instructions' share of the arithmetic ones, and of all."""
    everything = sum(counts.values())
    other = sum(
        count
        for mnemonic, count in counts.items()
        if _MEMORY.match(mnemonic) or _CONTROL.match(mnemonic)
    )
    mine = own(counts, arithmetic)
    return mine / max(everything - other, 1), mine / max(everything, 1)


# ---- what they cost ------------------------------------------------------------------------------


def occupancy(arch: str, resources: Resources, threads: int, dynamic_shared: int = 0) -> float:
    """The share of a multiprocessor's warps that blocks of so many threads can fill."""
    machine = ARCHITECTURES[arch]
    warps = -(-threads // 32)
    by_scheduler = 16384 // (-(-resources.registers // 8) * 8 * 32)
    shared = resources.shared + dynamic_shared + machine.reserved
    blocks = min(
        by_scheduler * 4 // warps,
        machine.warps // warps,
        machine.blocks,
        machine.shared // shared if shared else machine.blocks,
    )
    return blocks * warps / machine.warps


def clocks(counts: Counts, arch: str) -> dict[str, float]:
    """Clocks of a multiprocessor's units for the instructions of one warp."""
    lanes = ARCHITECTURES[arch].lanes
    used: Counter[str] = Counter()
    for mnemonic, count in counts.items():
        unit = next((unit for unit, its in _UNITS.items() if its.match(mnemonic)), "alu")
        width = re.search(r"\.(64|128)\b", mnemonic) if unit == "memory" else None
        used["issue"] += count
        if unit != "issue":
            used[unit] += count * (int(width[1]) // 32 if width else 1)
    used["fma"] += used["imad"]
    return {unit: 32 * count / lanes[unit] for unit, count in used.items() if count}


def rate(per_term: Mapping[str, float], machine: Machine) -> float:
    """Terms a second, if a term costs so many lanes of each unit."""
    lanes = ARCHITECTURES[machine.arch].lanes
    slowest = max(count / lanes[unit] for unit, count in per_term.items())
    return machine.multiprocessors * machine.clock / slowest


@dataclass(frozen=True)
class ModelTime:
    """Seconds: `moving` the bytes, `computing` by this machine code, the `limit` of any code.

    `computing` and `limit` are NaN where the terms in the inner loop cannot be told.
    """

    moving: float
    computing: float
    limit: float
    bound: str  # the unit that is occupied longest, "bandwidth" included

    @property
    def seconds(self) -> float:
        """The model time; NaN where it cannot be told."""
        return self.computing if math.isnan(self.computing) else max(self.moving, self.computing)


def inner_loop(code: sass.Code, arithmetic: Arithmetic) -> Counts:
    """The loop with most own instructions, of several the shortest; all where no loop has any."""
    return code.hottest(lambda counts: own(counts, arithmetic) - sum(counts.values()) / 1e6)


def model_time(
    total_terms: int,
    bytes_moved: int,
    blocks: int,
    loop: Counts,
    arithmetic: Arithmetic,
    machine: Machine = H100,
) -> ModelTime:
    """The model time of one launch; the formulas are in this module's docstring.

    Parameters
    ----------
    total_terms : int
        Terms of all windows, outputs times taps.
    bytes_moved : int
        Bytes of image, kernel and result, each once.
    blocks : int
        Blocks of the launch.
    loop : mapping of mnemonics to counts
        The kernel's `inner_loop`.
    arithmetic : Arithmetic
        Of the kernel's text.
    machine : Machine
    """
    moving = bytes_moved / machine.bandwidth
    limit = math.nan
    if arithmetic.least:
        limit = max(moving, total_terms / rate(arithmetic.least, machine))
    inside = terms(loop, arithmetic)
    if not inside:
        return ModelTime(moving, math.nan, limit, "unknown")
    units = clocks(loop, machine.arch)
    unit = max(units, key=lambda unit: units[unit])
    tail = -(-blocks // machine.multiprocessors) * machine.multiprocessors / blocks
    each = units[unit] / (32 * inside)
    computing = total_terms * each / (machine.multiprocessors * machine.clock) * tail
    return ModelTime(moving, computing, limit, unit if computing > moving else "bandwidth")
