"""Ready-made libraries for a wheel: ``python -m kernels_cu build``.

Compiles each library that ships (``semiconv_cupy.variants``) to an object, and links the objects of
one level of a CPU's instructions into one shared object, which ``semiconv_cupy``'s ``prebuilt``
loads. An object's namespace and exported functions are renamed by the hash of its text, so that
many of one template lie side by side.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from semiconv_cupy import source
from semiconv_cupy.backends.host import cache, compiler, prebuilt
from semiconv_cupy.progress import bar
from semiconv_cupy.source import HostSource


@dataclass(frozen=True)
class Target:
    """A platform for which libraries are built.

    Attributes
    ----------
    system, machine : str
        As `sys.platform` and ``prebuilt.LEVELS`` name them.
    triple : str
        The platform as zig names it, with the oldest C library that serves.
    tag : str
        The platform in a wheel's name.
    levels : mapping of str to str
        The CPU of each level as zig names it, from the lowest.
    """

    system: str
    machine: str
    triple: str
    tag: str
    levels: Mapping[str, str]


_X86 = {level: f"x86_64_{level}" for level in ("v2", "v3", "v4")}
TARGETS = {
    "linux-x86_64": Target(
        "linux", "x86_64", "x86_64-linux-gnu.2.28", "manylinux_2_28_x86_64", _X86
    ),
    "linux-aarch64": Target(
        "linux", "aarch64", "aarch64-linux-gnu.2.28", "manylinux_2_28_aarch64", {"neon": "generic"}
    ),
    "macos-x86_64": Target("darwin", "x86_64", "x86_64-macos.11.0", "macosx_11_0_x86_64", _X86),
    "macos-aarch64": Target(
        "darwin", "aarch64", "aarch64-macos.11.0", "macosx_11_0_arm64", {"neon": "apple_m1"}
    ),
    "windows-x86_64": Target("win32", "x86_64", "x86_64-windows-gnu", "win_amd64", _X86),
}


def this_platform(system: str = sys.platform, machine: str | None = None) -> str | None:
    """The key in `TARGETS` of the machine that this runs on; None where there is none."""
    here = (system, prebuilt.machine(machine))
    return next((key for key, one in TARGETS.items() if (one.system, one.machine) == here), None)


@dataclass(frozen=True)
class Built:
    """One shared object that was built: its level, its number of libraries, its bytes."""

    level: str
    libraries: int
    size: int


# ---- the compiler --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compiler:
    """A command that compiles C++ to objects and links them.

    zig compiles for every `Target`; any other compiler for the platform that this runs on.
    """

    command: tuple[str, ...]
    cache: Path

    def flags(self, target: Target, level: str | None) -> list[str]:
        """The flags of a level; without one, those of what every machine of the target runs."""
        flags = list(compiler.flags_of(self.command))
        cpu = None if level is None else target.levels[level]
        if compiler.is_zig(self.command):
            return [*flags, "-target", target.triple, *([] if cpu is None else [f"-mcpu={cpu}"])]
        if cpu is not None and target.machine == "x86_64":
            flags.append(f"-march={cpu.replace('_v', '-v').replace('x86_64', 'x86-64')}")
        return flags

    def run(self, arguments: Iterable[str], what: str) -> None:
        """Run it; RuntimeError with its message if it fails."""
        done = subprocess.run(
            [*self.command, *arguments],
            env={**os.environ, **compiler.variables_of(self.command, self.cache)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise RuntimeError(
                f"{what} does not compile (status {done.returncode}):\n{done.stdout[-4000:]}"
            )

    def object_of(self, flags: Sequence[str], text: str, what: str, folder: Path) -> Path:
        """A text's object in a folder; one that is there already is taken."""
        words = "\0".join((text, *self.command, *flags))
        made = folder / f"{hashlib.sha256(words.encode()).hexdigest()[:32]}.o"
        if not made.is_file():
            with tempfile.TemporaryDirectory(dir=folder) as own:  # several builds may run
                file, whole = Path(own, "library.cpp"), Path(own, made.name)
                file.write_text(text, encoding="utf-8")
                self.run([*flags, "-c", str(file), "-o", str(whole)], what)
                whole.replace(made)
        return made

    def link(
        self, flags: Sequence[str], objects: Sequence[Path], file: Path, target: Target
    ) -> None:
        """One shared object of many objects."""
        listed = file.with_suffix(".objects")
        listed.write_text("".join(f'"{one.as_posix()}"\n' for one in objects), encoding="utf-8")
        unused = [] if target.system == "darwin" else ["-Wl,--gc-sections"]
        arguments = [*flags, "-shared", "-s", *unused, "-o", str(file), f"@{listed}"]
        self.run(arguments, file.name)
        listed.unlink()
        for leftover in file.parent.glob("*.lib"):  # import libraries of Windows
            leftover.unlink()


# ---- building ------------------------------------------------------------------------------------


def build(
    libraries: Iterable[HostSource],
    target: Target,
    levels: Sequence[str],
    output: Path,
    *,
    by: Compiler,
    objects: Path | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Built]:
    """Compile libraries for levels of a target, in parallel, one shared object a level.

    Parameters
    ----------
    libraries : iterable of HostSource
        Those of one text are one.
    target : Target
    levels : sequence of str
        Keys of ``target.levels``.
    output : Path
        The folder of the shared objects, from which those of earlier builds are removed.
    by : Compiler
    objects : Path, optional
        A folder that keeps objects between builds.
    jobs : int, optional
        Compilers at the same time; default: one a core.
    progress : callable
        Called with the number of finished objects and of all.

    Raises
    ------
    ValueError
        A level that the target does not have.
    RuntimeError
        The compiler's message, where it fails.
    """
    if unknown := [level for level in levels if level not in target.levels]:
        raise ValueError(f"levels: {', '.join(unknown)} not among {', '.join(target.levels)}")
    unique = {prebuilt.name_of(library.text): library for library in libraries}
    works = [(level, name) for level in levels for name in sorted(unique)]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary, "objects") if objects is None else objects
        made = Path(temporary, "made")
        place.mkdir(parents=True, exist_ok=True)
        made.mkdir()
        _build_probe(target, made, by, place)

        def compile_one(level: str, name: str) -> Path:
            library = unique[name]
            flags = [*by.flags(target, level), *_names(library, name)]
            return by.object_of(flags, library.text, f"{library.what} at {level}", place)

        found = _in_parallel(compile_one, works, jobs or _cores(), progress)
        built = []
        for level in levels:
            file = made / prebuilt.file_name(level, target.system)
            parts = [found[level, name] for name in sorted(unique)]
            by.link(by.flags(target, level), parts, file, target)
            built.append(Built(level, len(unique), file.stat().st_size))
        _replace_all(output, made)
    return built


def _build_probe(target: Target, made: Path, by: Compiler, objects: Path) -> None:
    """The library that says the level."""
    flags, text = by.flags(target, None), source.inlined(f"host/{prebuilt.PROBE}.cpp")
    probe = by.object_of(flags, text, prebuilt.PROBE, objects)
    by.link(flags, [probe], made / prebuilt.file_name(prebuilt.PROBE, target.system), target)


def _names(library: HostSource, name: str) -> list[str]:
    """The flags that give a library's namespace and functions names of their own."""
    renamed = [f"-D{one}={prebuilt.exported(one, name)}" for one in library.exports]
    return [f"-Dsemiconv=semiconv_{name}", *renamed]


def _in_parallel(
    compile_one: Callable[[str, str], Path],
    works: Sequence[tuple[str, str]],
    jobs: int,
    progress: Callable[[int, int], None],
) -> dict[tuple[str, str], Path]:
    progress(0, len(works))
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(compile_one, *work): work for work in works}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                progress(done, len(works))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return {work: future.result() for future, work in futures.items()}


def _replace_all(output: Path, made: Path) -> None:
    names = {
        prebuilt.file_name(library, target.system)
        for target in TARGETS.values()
        for library in (*target.levels, prebuilt.PROBE)
    }
    output.mkdir(parents=True, exist_ok=True)
    for name in names:
        (output / name).unlink(missing_ok=True)
        if (made / name).is_file():
            shutil.move(made / name, output / name)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- the command ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m kernels_cu build``; return the exit status, 2 for what cannot be built."""
    from semiconv_cupy.variants import ready_made_libraries

    options, parser = parse(arguments)
    target, start = TARGETS[options.target], time.perf_counter()
    with _cache_of_zig() as place:
        by = Compiler(tuple(options.cxx), place)
        try:
            libraries = ready_made_libraries(options.semifields, options.dtypes)
            with bar("compiling", "libraries") as show:
                built = build(
                    libraries, target, options.levels or list(target.levels), options.output,
                    by=by, objects=options.objects, jobs=options.jobs, progress=show,
                )  # fmt: skip
        except (ValueError, RuntimeError, OSError) as error:
            parser.error(str(error))
    for one in built:
        print(f"{one.level:6}{one.libraries:5} libraries{one.size / 1e6:8.2f} MB")
    print(f"{options.target}, in {options.output}, after {time.perf_counter() - start:.0f} s")
    return 0


@contextmanager
def _cache_of_zig() -> Iterator[Path]:
    """The folder in which zig keeps its C library and its results: the usual cache, if possible."""
    try:
        yield cache.writable_folder()
    except OSError:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def parse(
    arguments: Sequence[str] | None,
) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """The options of a command line, and what reports their errors."""
    parser = argparse.ArgumentParser(
        prog="python -m kernels_cu build",
        description="Compile the libraries that a wheel brings ready-made.",
    )
    parser.add_argument(
        "--levels", nargs="+", help="of the CPU: v2 v3 v4, or neon (default: all of the target)"
    )
    parser.add_argument("--jobs", type=int, help="compilers at the same time (default: cores)")
    parser.add_argument(
        "--target", choices=TARGETS, default=this_platform(), help="default: this platform"
    )
    parser.add_argument(
        "--output", type=Path, default=prebuilt.folder(), help="default: where they are loaded from"
    )
    parser.add_argument(
        "--semifields", nargs="+", metavar="NAME", help="of these alone, and of ndimage"
    )
    parser.add_argument("--dtypes", nargs="+", metavar="DTYPE", help="of these alone")
    parser.add_argument(
        "--objects", type=Path, metavar="FOLDER", help="keeps objects for the next build"
    )
    parser.add_argument(
        "--cxx", type=shlex.split, default=compiler.zig(), metavar="COMMAND",
        help="default: that of the package ziglang, which alone builds for other platforms",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.target is None:
        parser.error(f"this platform has no ready-made libraries: name a --target of {[*TARGETS]}")
    if not options.cxx:
        parser.error("no compiler: pip install ziglang, or name one by --cxx")
    if options.target != this_platform() and not compiler.is_zig(options.cxx):
        parser.error(f"--cxx {shlex.join(options.cxx)} builds for this platform alone")
    return options, parser


def platform_tag(options: argparse.Namespace) -> str:
    """The platform in the name of a wheel of what these options build."""
    target = TARGETS[options.target]
    if compiler.is_zig(options.cxx):  # which links against the oldest C library of the tag
        return target.tag
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")
