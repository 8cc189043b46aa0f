"""The command line: `python -m semiconv_cupy demo` and `python -m semiconv_cupy info`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status, 2 for an error that the user can correct."""
    parser = argparse.ArgumentParser(
        prog="python -m semiconv_cupy", description="Semifield convolutions."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="dilate, erode, open and close a picture, next to scipy.ndimage"
    )
    demo.add_argument(
        "image",
        nargs="?",
        type=Path,
        metavar="IMAGE",
        help="any picture, or a .npy or .tif array (of a volume, the middle slice); "
        "default: a photograph that scikit-image ships",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("semiconv_demo.png"),
        help="the picture to write (default: %(default)s)",
    )
    demo.add_argument(
        "--scale",
        type=float,
        default=12.0,
        help="pixels at which the structuring function has fallen from 0 to -1, white to black "
        "(default: %(default)g)",
    )
    demo.add_argument(
        "--size", type=int, help="taps along each axis, odd (default: as many as matter)"
    )
    demo.add_argument(
        "--panel",
        type=int,
        default=512,
        help="longest side of one panel in pixels (default: %(default)s)",
    )
    commands.add_parser(
        "info", help="what runs where on this machine, and what to do about the rest"
    )
    given = parser.parse_args(arguments)

    if given.command == "info":
        from semiconv_cupy import info

        info.run()
        return 0
    from semiconv_cupy import demo as demonstration

    try:
        demonstration.run(given.image, given.out, given.scale, given.size, given.panel)
    except demonstration.DemoError as error:
        print(f"{demo.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
