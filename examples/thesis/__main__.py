"""The commands `train`, `time`, `complete`, `table` and `reduce`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from pathlib import Path

import torch

from examples.thesis import data, networks, records, settings, tables, timing, train

WAY = "how linear convolutions are computed; auto: the fastest on a GPU, torch's on a CPU"
SECONDS = "write a checkpoint and stop after so much time"
HERE = Path(__file__).parent
CONFIGURATIONS = "pooling", "convolutions"  # of which `complete` trains all networks, in this order


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.backends.cudnn.benchmark = True  # shapes stay the same
    options.command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.thesis", description=__doc__)
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("train", help="train all networks of a configuration file")
    add.add_argument("config", type=Path)
    add.add_argument("--data", type=Path, metavar="FOLDER", help="where the data set's files are")
    add.add_argument("--name", help="the data set, in place of the file's")
    add.add_argument("--out", type=Path, required=True, metavar="FILE", help="lines of JSON")
    add.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name in ("epochs", "batch", "seeds", "at-once"):
        add.add_argument(f"--{name}", type=int, metavar="N", help="in place of the file's")
    add.add_argument("--rate", type=float, metavar="X", help="in place of the file's")
    add.add_argument("--only", default="", metavar="TEXT", help="networks with this in their names")
    add.add_argument("--seconds", type=float, default=math.inf, metavar="S", help=SECONDS)
    add.add_argument("--eager", action="store_true", help="no CUDA graphs")
    add.add_argument("--way", default="auto", choices=["auto", *networks.WAYS], help=WAY)
    add.set_defaults(command=_train)
    add = commands.add_parser(
        "complete", help="train and time what the records of a folder lack, each kind in turn"
    )
    add.add_argument("--data", type=Path, metavar="FOLDER", help="where the data set's files are")
    add.add_argument("--name", default="mnist", help="the data set; default: %(default)s")
    add.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER")
    add.add_argument("--minutes", type=float, default=math.inf, metavar="M", help=SECONDS)
    add.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add.add_argument("--only", default="", metavar="TEXT", help="networks with this in their names")
    for name in ("epochs", "seeds"):
        add.add_argument(f"--{name}", type=int, metavar="N", help="in place of the files'")
    add.add_argument("--way", default="own", choices=["auto", *networks.WAYS], help=WAY)
    add.set_defaults(command=_complete)
    add = commands.add_parser("table", help="print the tables of records, and draw them")
    add.add_argument("records", type=Path, nargs="+", metavar="FILE")
    add.add_argument("--baseline", default="max 3", metavar="NAME", help="default: %(default)s")
    add.add_argument("--figures", type=Path, metavar="FOLDER", help="draw them there, as PNG files")
    add.set_defaults(command=_table)
    add = commands.add_parser("reduce", help="keep what tables and figures need of records")
    add.add_argument("records", type=Path, nargs="+", metavar="FILE")
    add.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="files of these names"
    )
    add.set_defaults(command=_reduce)
    add = commands.add_parser("time", help="measure seconds an epoch of one network")
    add.add_argument("--data", type=Path, metavar="FOLDER")
    add.add_argument("--name", default="mnist", help="the data set; default: %(default)s")
    add.add_argument("--out", type=Path, required=True, metavar="FILE", help="lines of JSON")
    add.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add.add_argument("--batch", type=int, default=1024, metavar="N")
    add.add_argument("--size", type=int, default=7, metavar="K", help="of the windows")
    add.add_argument("--rounds", type=int, default=5, metavar="N")
    add.add_argument(
        "--seconds", type=float, default=math.inf, metavar="S", help="begin no row after"
    )
    add.add_argument("--here", action="store_true", help="in this process; an error then ends it")
    add.add_argument("--installed", action="store_true", help="no records of missing packages")
    add.set_defaults(command=_time)
    return parser


def _train(options: argparse.Namespace) -> None:
    changes = {name: getattr(options, name) for name in settings.Training.__dataclass_fields__}
    experiment = settings.read(options.config, **changes).only(options.only)
    found = data.load(options.name or experiment.data, options.data)
    found = found.to(torch.device(options.device))
    done = train.run(
        experiment,
        found,
        options.out,
        way=options.way,
        graph=not options.eager,
        seconds=options.seconds,
    )
    if not done:
        print("The time is over: the same command continues.")


def _complete(options: argparse.Namespace) -> None:
    """What is written is what `reduce` keeps."""
    deadline = time.monotonic() + 60 * options.minutes
    found = data.load(options.name, options.data).to(torch.device(options.device))
    left = [name for name in CONFIGURATIONS if not _completed(name, found, options, deadline)]
    if not options.only and not _timed(found, options, deadline):
        left.append("timing")
    print(f"not complete: {', '.join(left)}; the same command continues" if left else "complete")


def _completed(name: str, found: data.Data, options: argparse.Namespace, deadline: float) -> bool:
    """Train the networks of a configuration that have no record; whether all have one then."""
    file = HERE / f"{name}.toml"
    experiment = settings.read(file, epochs=options.epochs, seeds=options.seeds)
    chosen = tuple(one for one in experiment.settings if options.only in one.name)
    if not chosen:
        return True
    if time.monotonic() > deadline:
        return False
    return train.run(
        dataclasses.replace(experiment, settings=chosen),
        found,
        options.results / f"{name}.jsonl",
        way=options.way,
        seconds=deadline - time.monotonic(),
        reduce=True,
    )


def _timed(found: data.Data, options: argparse.Namespace, deadline: float) -> bool:
    """Measure the rows that have no time; whether all have one then."""
    out = options.results / "timing.jsonl"
    command = [sys.executable, "-m", "examples.thesis", "time", "--here", "--installed"]
    for name in ("data", "name", "device"):
        value = getattr(options, name)
        command += [] if value is None else [f"--{name}", str(value)]
    wanted = [row for row in timing.rows(found, 7) if timing.can_be_measured(row)]
    return timing.by_processes([*command, "--out", str(out)], wanted, out, 1024, deadline)


def _table(options: argparse.Namespace) -> None:
    found = [record for path in options.records for record in records.read(path)]
    print(tables.report(found, options.baseline))
    if options.figures:
        from examples.thesis import plots  # Matplotlib is installed where figures are wanted

        for path in plots.write(found, options.figures):
            print(path)


def _reduce(options: argparse.Namespace) -> None:
    for path in options.records:
        target = options.out / path.name
        if target.exists():
            raise FileExistsError(f"{target} exists; records would be added to it: remove it first")
        for record in records.read(path):
            records.append(target, records.reduced(record))


def _time(options: argparse.Namespace) -> None:
    found = data.load(options.name, options.data).to(torch.device(options.device))
    if options.here:
        given = found, options.out, options.batch, options.size, options.rounds, options.seconds
        timing.measure_missing(*given, installed=options.installed)
        return
    command = [sys.executable, "-m", "examples.thesis", "time", "--here", "--out", str(options.out)]
    for name in ("data", "name", "device", "batch", "size", "rounds"):
        value = getattr(options, name)
        command += [] if value is None else [f"--{name}", str(value)]
    deadline = time.monotonic() + options.seconds
    rows = timing.rows(found, options.size)
    timing.by_processes(command, rows, options.out, options.batch, deadline)


if __name__ == "__main__":
    main()
