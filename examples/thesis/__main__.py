"""The commands `train`, `time`, `table` and `reduce`."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch

from examples.thesis import data, networks, records, settings, tables, timing, train

WAY = "how linear convolutions are computed; auto: the fastest on a GPU, torch's on a CPU"
SECONDS = "write a checkpoint and stop after so much time"


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
    add.add_argument("--here", action="store_true", help="in this process; an error then ends it")
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
        timing.measure_missing(found, options.out, options.batch, options.size, options.rounds)
        return
    command = [sys.executable, "-m", "examples.thesis", "time", "--here", "--out", str(options.out)]
    for name in ("data", "name", "device", "batch", "size", "rounds"):
        value = getattr(options, name)
        command += [] if value is None else [f"--{name}", str(value)]
    timing.by_processes(command, timing.rows(found, options.size), options.out, options.batch)


if __name__ == "__main__":
    main()
