"""The report on every CUDA kernel, compiled without a GPU: registers, memory, spills, SASS mix.

``python -m kernels_cu report`` and the tests call this. Only the core knows which kernels ship:
`main` asks it when it runs, and nothing else here does.
"""

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from kernels_cu import nvrtc, sass

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_120")


class KernelSource(Protocol):
    """One kernel ready to compile (semiconv_cupy.source.KernelSource is one)."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def options(self) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True)
class Row:
    """One kernel on one architecture: its resources, or the reason why there are none."""

    name: str
    arch: str
    resources: nvrtc.Resources | None
    error: str | None = None
    mix: sass.Mix | None = None

    @property
    def failed(self) -> bool:
        """Whether it does not compile, or spills."""
        return self.resources is None or self.resources.spills


def report(
    sources: Iterable[KernelSource],
    archs: Sequence[str] = ARCHITECTURES,
    *,
    with_sass: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Compile kernels for several architectures and say what each takes.

    Parameters
    ----------
    sources : iterable of KernelSource
    archs : sequence of str
    with_sass : bool
        Also disassemble, see `sass.mixes`.
    workers : int, optional
        Processes; default: one a CPU (NVRTC compiles one program at a time in a process).
    progress : callable
        Called with the number of finished programs and of all.

    Returns
    -------
    list of Row
        In the order of `sources`, then of `archs`.

    Raises
    ------
    nvrtc.LibraryNotFoundError, sass.DisassemblerNotFoundError
    ValueError
        For an architecture that this NVRTC does not know.
    """
    known = nvrtc.load().architectures
    if unknown := [arch for arch in archs if arch not in known]:
        raise ValueError(f"archs: {', '.join(unknown)} not among {', '.join(known)}")
    if with_sass:
        sass.find_disassembler()
    programs = [
        (source.name, source.text, tuple(source.options), arch, with_sass)
        for source in sources
        for arch in archs
    ]
    workers = min(workers or os.cpu_count() or 1, len(programs))
    progress(0, len(programs))
    if workers <= 1:
        rows = []
        for program in programs:
            rows.append(_compile(*program))
            progress(len(rows), len(programs))
        return rows
    # Not forked: the caller may have threads (torch, OpenMP).
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_compile, *program) for program in programs]
        for done, _ in enumerate(as_completed(futures), 1):
            progress(done, len(programs))
        return [future.result() for future in futures]


@functools.lru_cache(maxsize=4)  # kernels of one text come one after another
def _machine_code(text: str, options: tuple[str, ...], arch: str) -> nvrtc.Compiled:
    return nvrtc.load().compile(text, arch, options)


def _compile(name: str, text: str, options: tuple[str, ...], arch: str, with_sass: bool) -> Row:
    try:
        compiled = _machine_code(text, options, arch)
    except nvrtc.CompileError as error:
        return Row(name, arch, None, str(error))
    if name not in compiled.kernels:
        has = ", ".join(compiled.kernels) or "none"
        return Row(name, arch, None, f"no kernel of that name in its source, which has {has}")
    mix = sass.mixes(sass.disassemble(compiled.cubin))[name] if with_sass else None
    return Row(name, arch, compiled.kernels[name], None, mix)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text; the mix, where there is one, is of the longest innermost loop."""
    heading = ["kernel", "arch", "registers", "shared", "local", "spills"]
    if any(row.mix for row in rows):
        heading.append("inner loop")
    lines = [heading]
    for row in rows:
        line = [row.name, row.arch]
        if row.resources is None:
            line += ["-", "-", "-", "does not compile"]
        else:
            spilled = row.resources.spill_stores + row.resources.spill_loads
            numbers = (row.resources.registers, row.resources.shared, row.resources.local, spilled)
            line += [str(number) for number in numbers]
        if row.mix:
            line.append(_mix_text(row.mix))
        lines.append(line + [""] * (len(heading) - len(line)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 2 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _mix_text(mix: sass.Mix) -> str:
    most = sorted(mix.main.items(), key=lambda item: (-item[1], item[0]))
    text = " ".join(f"{opcode} {count}" for opcode, count in most[:8])
    rest = sum(count for _, count in most[8:])
    return text + (f" other {rest}" if rest else "") + ("" if mix.loops else " (no loop)")


def as_json(rows: Sequence[Row]) -> str:
    """Return the rows, and the compiler that they come from, as JSON."""
    library = nvrtc.load()

    def plain(row: Row) -> dict[str, object]:
        numbers: Mapping[str, object] = dataclasses.asdict(row.resources) if row.resources else {}
        mix = row.mix and {"whole": dict(row.mix.whole), "loops": [dict(x) for x in row.mix.loops]}
        return {"name": row.name, "arch": row.arch, **numbers, "error": row.error, "sass": mix}

    version = ".".join(map(str, library.version))
    return json.dumps({"nvrtc": version, "kernels": [plain(row) for row in rows]}, indent=1) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m kernels_cu report``; return the exit status.

    0: every kernel compiles and none spills; 1: some do not; 2: no report could be made.
    """
    parser = argparse.ArgumentParser(prog="python -m kernels_cu", description=__doc__)
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "report",
        help="registers, shared memory, spills and SASS mix of every kernel, without a GPU",
    )
    command.add_argument(
        "--arch", nargs="+", default=ARCHITECTURES, help=f"default: {' '.join(ARCHITECTURES)}"
    )
    command.add_argument(
        "--filter", default="", metavar="TEXT", help="kernels with TEXT in the name"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    command.add_argument(
        "--sass", action="store_true", help="count the instructions of inner loops"
    )
    options = parser.parse_args(arguments)

    # The one place where this package asks the core, which alone knows the semifields that ship.
    from semiconv_cupy.backends.cuda import shipping_variants

    sources = [source for source in shipping_variants() if options.filter in source.name]
    if not sources:
        parser.error(f"no kernel has {options.filter!r} in its name")
    try:
        rows = report(sources, options.arch, with_sass=options.sass, progress=_progress_bar)
    except (nvrtc.LibraryNotFoundError, sass.DisassemblerNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(table(rows))
    failed = [row for row in rows if row.failed]
    for row in failed:
        print(f"\n{row.name} on {row.arch}: {row.error or 'spills registers'}")
    print(f"\n{len(rows) - len(failed)} of {len(rows)} good; {nvrtc.load()!r}")
    if options.json:
        options.json.write_text(as_json(rows))
    return 1 if failed else 0


def _progress_bar(done: int, total: int) -> None:
    if sys.stderr.isatty():
        filled = 40 * done // max(total, 1)
        end = "\n" if done == total else ""
        bar = "#" * filled + "." * (40 - filled)
        print(f"\r[{bar}] {done}/{total}", end=end, file=sys.stderr, flush=True)
