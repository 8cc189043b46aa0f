"""The report on every CUDA kernel, compiled without a GPU: resources, inner loops, model times.

``python -m kernels_cu report`` and the tests call this; what the figures mean is said in model.py.
Only the core knows which kernels ship and what a work launches: `main` asks it when it runs, and
nothing else here does.
"""

import argparse
import dataclasses
import functools
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from kernels_cu import model, nvrtc, sass

ARCHITECTURES = tuple(model.ARCHITECTURES)


class KernelSource(Protocol):
    """One kernel ready to compile (semiconv_cupy.source.KernelSource is one)."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def options(self) -> tuple[str, ...]: ...


@dataclasses.dataclass(frozen=True)
class Inner:
    """A kernel's inner loop: its instructions, the semifield's own share of them, the occupancy.

    The occupancy is that of blocks of the kernel's launch bounds; shared memory that a launch asks
    for is not in it.
    """

    counts: Mapping[str, int]
    of_arithmetic: float
    of_issued: float
    occupancy: float


class Launch(Protocol):
    """One launch of a work (semiconv_cupy.backends.device.Launch is one)."""

    @property
    def source(self) -> KernelSource: ...
    @property
    def grid(self) -> tuple[int, ...]: ...


class Work(Protocol):
    """A convolution to be modelled (semiconv_cupy.works.Work is one)."""

    @property
    def name(self) -> str: ...
    @property
    def terms(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def launches(self) -> Sequence[Launch]: ...


@dataclasses.dataclass(frozen=True)
class Row:
    """One kernel on one architecture: its resources, or the reason why there are none."""

    name: str
    arch: str
    resources: nvrtc.Resources | None
    error: str | None = None
    inner: Inner | None = None

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
        Also disassemble, for the inner loops.
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
    resources = compiled.kernels[name]
    inner = _inner(name, text, arch, compiled) if with_sass else None
    return Row(name, arch, resources, None, inner)


def _inner(name: str, text: str, arch: str, compiled: nvrtc.Compiled) -> Inner:
    code = sass.read(sass.disassemble(compiled.cubin))[name]
    arithmetic = model.arithmetic_of(text)
    counts = model.inner_loop(code, arithmetic)
    return Inner(
        counts,
        *model.shares(counts, arithmetic),
        model.occupancy(arch, compiled.kernels[name], code.threads),
    )


def model_work(work: Work, machine: model.Machine = model.H100) -> model.ModelTime:
    """Return the model time of a work that is one launch; not told for several (NaN).

    Raises
    ------
    nvrtc.LibraryNotFoundError, sass.DisassemblerNotFoundError
    """
    launches = work.launches
    source, grid = launches[-1].source, launches[-1].grid
    arithmetic = model.arithmetic_of(source.text)
    counts: Mapping[str, int] = {}
    if len(launches) == 1:
        compiled = _machine_code(source.text, tuple(source.options), machine.arch)
        code = sass.read(sass.disassemble(compiled.cubin))[source.name]
        counts = model.inner_loop(code, arithmetic)
    return model.model_time(work.terms, work.bytes, math.prod(grid), counts, arithmetic, machine)


def works_table(times: Mapping[str, model.ModelTime]) -> str:
    """Return model times in microseconds as text."""
    lines = [["work", "model us", "limit us", "share", "bound by"]]
    for name, time in times.items():
        share = f"{time.limit / time.seconds:.0%}"
        numbers = [f"{1e6 * seconds:.1f}" for seconds in (time.seconds, time.limit)]
        lines.append([name, *numbers, share, time.bound])
    return _aligned(lines, right=range(1, 4))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text."""
    heading = ["kernel", "arch", "registers", "shared", "local", "spills"]
    if any(row.inner for row in rows):
        heading += ["occupancy", "of arithmetic", "of issued", "inner loop"]
    lines = [heading]
    for row in rows:
        line = [row.name, row.arch]
        if row.resources is None:
            line += ["-", "-", "-", "does not compile"]
        else:
            spilled = row.resources.spill_stores + row.resources.spill_loads
            numbers = (row.resources.registers, row.resources.shared, row.resources.local, spilled)
            line += [str(number) for number in numbers]
        if row.inner:
            shares = (row.inner.occupancy, row.inner.of_arithmetic, row.inner.of_issued)
            line += [*(f"{share:.0%}" for share in shares), _mix(row.inner.counts)]
        lines.append(line + [""] * (len(heading) - len(line)))
    return _aligned(lines, right=range(2, 9))


def _aligned(lines: Sequence[Sequence[str]], right: range) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _mix(counts: Mapping[str, int]) -> str:
    most = sorted(sass.by_opcode(counts).items(), key=lambda item: (-item[1], item[0]))
    text = " ".join(f"{opcode} {count}" for opcode, count in most[:8])
    rest = sum(count for _, count in most[8:])
    return text + (f" other {rest}" if rest else "")


def as_json(rows: Sequence[Row], works: Mapping[str, model.ModelTime] | None = None) -> str:
    """Return the rows, the works' model times, and the compiler that all come from, as JSON."""
    library = nvrtc.load()

    def plain(row: Row) -> dict[str, object]:
        numbers: Mapping[str, object] = dataclasses.asdict(row.resources) if row.resources else {}
        inner = row.inner and dataclasses.asdict(row.inner)
        return {"name": row.name, "arch": row.arch, **numbers, "error": row.error, "inner": inner}

    version = ".".join(map(str, library.version))
    report = {
        "nvrtc": version,
        "kernels": [plain(row) for row in rows],
        "works": {name: dataclasses.asdict(time) for name, time in (works or {}).items()},
    }
    return json.dumps(report, indent=1) + "\n"


def main(
    arguments: Sequence[str] | None = None,
    *,
    sources: Iterable[KernelSource] | None = None,
    works: Iterable[Work] | None = None,
) -> int:
    """Run ``python -m kernels_cu report``; return the exit status.

    0: every kernel compiles and none spills; 1: some do not; 2: no report could be made. `sources`
    are the kernels (default: all that ship), `works` those that ``--works`` adds.
    """
    options, parser = _parse(arguments)

    # The one place where this package asks the core, which alone knows what ships and is launched.
    from semiconv_cupy.progress import bar
    from semiconv_cupy.variants import shipping_variants
    from semiconv_cupy.works import STANDARD_WORKS

    given = shipping_variants() if sources is None else sources
    chosen = [source for source in given if options.filter in source.name]
    if not chosen:
        parser.error(f"no kernel has {options.filter!r} in its name")
    timed = (STANDARD_WORKS if works is None else works) if options.works else ()
    try:
        with bar("compiling", "kernels") as show:
            rows = report(chosen, options.arch, with_sass=options.sass, progress=show)
        times = {work.name: model_work(work) for work in timed}
    except (nvrtc.LibraryNotFoundError, sass.DisassemblerNotFoundError, ValueError) as error:
        parser.error(str(error))
    print(table(rows))
    if times:
        print(f"\n{works_table(times)}")
    failed = [row for row in rows if row.failed]
    for row in failed:
        print(f"\n{row.name} on {row.arch}: {row.error or 'spills registers'}")
    print(f"\n{len(rows) - len(failed)} of {len(rows)} good; {nvrtc.load()!r}")
    if options.json:
        options.json.write_text(as_json(rows, times))
    return 1 if failed else 0


def _parse(
    arguments: Sequence[str] | None,
) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """The options of a command line, and what reports its errors."""
    parser = argparse.ArgumentParser(prog="python -m kernels_cu", description=__doc__)
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "report",
        help="resources and inner loops of every kernel, and model times, without a GPU",
    )
    command.add_argument(
        "--arch", nargs="+", default=ARCHITECTURES, help=f"default: {' '.join(ARCHITECTURES)}"
    )
    command.add_argument(
        "--filter", default="", metavar="TEXT", help="kernels with TEXT in the name"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    command.add_argument(
        "--sass",
        action="store_true",
        help="inner loops: the share of the semifield's own instructions, and the occupancy",
    )
    command.add_argument(
        "--works", action="store_true", help="model times of a standard set of works on an H100"
    )
    return parser.parse_args(arguments), parser
