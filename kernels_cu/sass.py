"""Machine code (SASS) by NVIDIA's disassembler: a kernel's loops and their instructions.

Called by report.py; model.py says what the instructions cost and which are a semifield's own.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


class DisassemblerNotFoundError(RuntimeError):
    """No nvdisasm on this machine; the message names the remedy."""


@dataclass(frozen=True)
class Code:
    """One kernel's instructions, counted by mnemonic (``FADD.FTZ``, ``LDS.128``, ...).

    `loops` holds, for each loop, the instructions that are in no loop inside it: a plane of taps
    that is unrolled inside a loop over channels counts for that loop. A mnemonic ends in ``.RZ``
    where a floating-point addition takes the constant 0: such a one copies, negates or converts.
    `threads` is the most that a block may have (``__launch_bounds__``), 0 where that is not said.
    """

    whole: Mapping[str, int]
    loops: tuple[Mapping[str, int], ...]  # in the order of their first instructions
    threads: int = 0

    def hottest(self, weight: Callable[[Mapping[str, int]], float]) -> Mapping[str, int]:
        """The loop that weighs most, of equal ones the innermost; all where no loop weighs."""
        # An inner loop starts after the one around it.
        best = max(reversed(self.loops), key=weight, default=self.whole)
        return best if weight(best) > 0 else self.whole


def by_opcode(counts: Mapping[str, int]) -> Counter[str]:
    """Counts without the modifiers: ``FADD.FTZ`` and ``FADD`` are both ``FADD``."""
    merged: Counter[str] = Counter()
    for mnemonic, count in counts.items():
        merged[mnemonic.partition(".")[0]] += count
    return merged


@functools.cache
def find_disassembler() -> Path:
    """Return nvdisasm: of PATH, of CUDA_PATH, of NVIDIA's wheel, or of triton's (torch brings it).

    Raises
    ------
    DisassemblerNotFoundError
        If there is none.
    """
    toolkits = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    folders = [Path(root) / "bin" for root in toolkits if root]
    for package, inside in (("nvidia", "*/bin"), ("triton", "backends/nvidia/bin")):
        found = importlib.util.find_spec(package)
        for place in (found and found.submodule_search_locations) or ():
            folders += sorted(Path(place).glob(inside))
    for path in (None, os.pathsep.join(map(str, folders))):
        if program := shutil.which("nvdisasm", path=path):
            return Path(program)
    raise DisassemblerNotFoundError(
        "no nvdisasm found: `pip install nvidia-cuda-nvdisasm`, or set CUDA_PATH to a toolkit"
    )


def disassemble(cubin: bytes) -> str:
    """Return the assembly text of a cubin, its sections of facts included."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(find_disassembler()), "-ndf", file.name]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


_SECTION = re.compile(r"^\s*\.section\s+([^,\s]+)", re.MULTILINE)
_LABEL = re.compile(r"(\.L\w+):")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)(.*)")
_BRANCH_TARGET = re.compile(r"`\((\.L\w+)\)")
_COPYING = re.compile(r"[FHD]ADD|HFMA2")  # with a constant 0
_CONSTANT_ZERO = re.compile(r",\s*[-|]*RZ\b")
_MOST_THREADS = re.compile(
    r"EIATTR_MAX_THREADS.*?\.word\s+(0x[0-9a-f]+).*?\.word\s+(0x[0-9a-f]+).*?\.word\s+(0x[0-9a-f]+)",
    re.DOTALL,
)


def read(assembly: str) -> dict[str, Code]:
    """Return the code of every kernel of an assembly text.

    A loop is what lies between a label and the last branch back to it.

    Examples
    --------
    >>> read('''
    ...         .section .text.f,"ax",@progbits
    ... .L_x_0:
    ...         /*0000*/    FADD.FTZ R1, R1, R2 ;
    ...         /*0010*/    @P0 BRA `(.L_x_0) ;
    ...         /*0020*/    EXIT ;
    ... ''')["f"].loops
    (Counter({'FADD.FTZ': 1, 'BRA': 1}),)
    """
    parts = _SECTION.split(assembly)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = {}
    for section, body in sections.items():
        if section.startswith(".text."):
            name = section.removeprefix(".text.")
            facts = _MOST_THREADS.search(sections.get(f".nv.info.{name}", ""))
            threads = [int(size, 16) for size in facts.groups()] if facts else [0]
            found[name] = _code(body, functools.reduce(int.__mul__, threads))
    return found


def _code(body: str, threads: int) -> Code:
    mnemonics: list[str] = []
    labels: dict[str, int] = {}
    loops: dict[int, int] = {}  # where it starts -> where it ends
    for line in body.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(mnemonics)
        elif instruction := _INSTRUCTION.match(line):
            mnemonic, operands = instruction.groups()
            copies = _COPYING.match(mnemonic) and _CONSTANT_ZERO.search(operands)
            mnemonics.append(f"{mnemonic}.RZ" if copies else mnemonic)
            target = _BRANCH_TARGET.search(operands)
            branches = mnemonic.partition(".")[0] == "BRA"
            start = labels.get(target[1]) if target and branches else None
            # An instruction that branches to itself only fills the end of a function.
            if start is not None and start < len(mnemonics) - 1:
                loops[start] = len(mnemonics)
    owner: list[int | None] = [None] * len(mnemonics)  # the innermost loop around an instruction
    for start, end in sorted(loops.items(), key=lambda loop: loop[0] - loop[1]):
        owner[start:end] = [start] * (end - start)
    direct = {start: Counter[str]() for start in sorted(loops)}
    for mnemonic, start in zip(mnemonics, owner, strict=True):
        if start is not None:
            direct[start][mnemonic] += 1
    return Code(Counter(mnemonics), tuple(direct.values()), threads)
