"""Machine code (SASS) by NVIDIA's disassembler: the instruction mix of a kernel's inner loops.

Called by report.py; what an inner loop ought to hold is said by the kernels and their tests.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class DisassemblerNotFoundError(RuntimeError):
    """No nvdisasm on this machine; the message names the remedy."""


@dataclass(frozen=True)
class Mix:
    """Instructions by opcode (``FADD``, ``LDG``, ...): of all, and of each innermost loop."""

    whole: Mapping[str, int]
    loops: tuple[Mapping[str, int], ...]  # the longest first

    @property
    def main(self) -> Mapping[str, int]:
        """The longest innermost loop; of a kernel without loops, all."""
        return self.loops[0] if self.loops else self.whole


@functools.cache
def find_disassembler() -> Path:
    """Return nvdisasm: of PATH, of CUDA_PATH, or of the triton wheel (which torch brings).

    Raises
    ------
    DisassemblerNotFoundError
        If there is none.
    """
    toolkits = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    folders = [str(Path(root) / "bin") for root in toolkits if root]
    triton = importlib.util.find_spec("triton")
    places = (triton and triton.submodule_search_locations) or ()
    folders += [str(Path(place) / "backends" / "nvidia" / "bin") for place in places]
    for path in (None, os.pathsep.join(folders)):
        if found := shutil.which("nvdisasm", path=path):
            return Path(found)
    raise DisassemblerNotFoundError(
        "no nvdisasm found: install triton (`pip install triton`), or set CUDA_PATH to a toolkit"
    )


def disassemble(cubin: bytes) -> str:
    """Return the assembly text of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(find_disassembler()), "-c", "-ndf", file.name]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout


_SECTION = re.compile(r"^\s*\.section\s+\.text\.([^,\s]+)", re.MULTILINE)
_LABEL = re.compile(r"(\.L\w+):")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z]\w*)")
_BRANCH_TARGET = re.compile(r"`\((\.L\w+)\)")


def mixes(assembly: str) -> dict[str, Mix]:
    """Return the instruction mix of every function of an assembly text.

    A loop is what lies between a label and the last branch back to it; an innermost one has no
    other loop inside.

    Examples
    --------
    >>> mixes('''
    ...         .section .text.f,"ax",@progbits
    ... .L_x_0:
    ...         /*0000*/    FADD.FTZ R1, R1, R2 ;
    ...         /*0010*/    @P0 BRA `(.L_x_0) ;
    ...         /*0020*/    EXIT ;
    ... ''')["f"].main
    Counter({'FADD': 1, 'BRA': 1})
    """
    parts = _SECTION.split(assembly)
    return {name: _mix(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _mix(body: str) -> Mix:
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    loops: dict[int, int] = {}  # where it starts -> where it ends
    for line in body.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(opcodes)
        elif instruction := _INSTRUCTION.match(line):
            opcodes.append(instruction[1])
            target = _BRANCH_TARGET.search(line)
            start = labels.get(target[1]) if target and instruction[1] == "BRA" else None
            # An instruction that branches to itself only fills the end of a function.
            if start is not None and start < len(opcodes) - 1:
                loops[start] = len(opcodes)
    innermost = [
        (start, end)
        for start, end in loops.items()
        if not any(start < inner and inner_end <= end for inner, inner_end in loops.items())
    ]
    innermost.sort(key=lambda loop: loop[0] - loop[1])
    return Mix(Counter(opcodes), tuple(Counter(opcodes[start:end]) for start, end in innermost))
