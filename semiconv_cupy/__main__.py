"""The command line: `python -m semiconv_cupy demo`, `info`, `explain` and `prepare`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status, 2 for an error that the user can correct."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["apply"]:  # whose options are the parameters of a function
        from semiconv_cupy import apply

        return apply.main(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m semiconv_cupy", description="Semifield convolutions."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_demo(commands)
    info = commands.add_parser(
        "info", help="what runs where on this machine, and what to do about the rest"
    )
    info.add_argument("--json", action="store_true", help="the report as one JSON object")
    _add_explain(commands)
    _add_prepare(commands)
    commands.add_parser("apply", help="a function from an image file to another, of any size")
    given = parser.parse_args(words)
    run = {"demo": _demo, "info": _info, "explain": _explain, "prepare": _prepare}[given.command]
    error = run(given)
    if error is not None:
        print(f"{parser.prog} {given.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _add_demo(commands: Any) -> None:
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
    kinds = demo.add_mutually_exclusive_group()
    kinds.add_argument("--colour", action="store_true", help="each channel of a colour picture")
    kinds.add_argument("--volume", action="store_true", help="a volume in three dimensions")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("semiconv_demo.png"),
        help="the picture to write (default: %(default)s)",
    )
    demo.add_argument(
        "--scale",
        type=float,
        help="pixels at which the structuring function has fallen from 0 to -1, white to black "
        "(default: 12, of a volume 4)",
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


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="what a call runs: form, route, kernels, libraries, operations; nothing is run",
        epilog="example: python -m semiconv_cupy explain grey_dilation --shape 1024x1024x3 "
        "--dtype uint8 --kernel 9x9 --argument mode=nearest",
    )
    explain.add_argument(
        "function",
        metavar="FUNCTION",
        help="semifield_conv, semifield_matmul, their derivatives (semifield_conv_vjp, "
        "semifield_matmul_vjp), or a function of semiconv_cupy.ndimage",
    )
    explain.add_argument("--shape", type=_shape, required=True, help="of the image: 1024x1024x3")
    explain.add_argument("--dtype", default="float32", help="of the arrays (default: %(default)s)")
    explain.add_argument(
        "--kernel",
        type=_shape,
        help="the size of the window (weights, which are ones), of the first axes where the image "
        "has more; of a convolution the kernel's shape, or its last axes: 7x7 is one channel to "
        "one; of a product the second operand's shape",
    )
    explain.add_argument(
        "--semifield",
        default="tropical_max",
        help="of a convolution or product: a name, or log(2), root(3) (default: %(default)s)",
    )
    explain.add_argument(
        "--argument",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another argument of the function, such as padding=same, groups=3 or axes=(0,1); may "
        "be given several times",
    )
    explain.add_argument("--gpu", action="store_true", help="for a GPU, which need not be there")
    explain.add_argument(
        "--arch", help="for a GPU such as sm_90, with registers and shared memory; needs NVRTC"
    )


def _add_prepare(commands: Any) -> None:
    prepare = commands.add_parser(
        "prepare", help="compile ahead what calls on the CPU need, in parallel, and torch's node"
    )
    prepare.add_argument(
        "semifields",
        nargs="*",
        metavar="SEMIFIELD",
        help="names, families with their parameter such as 'log(2)', ndimage, and torch: the node "
        "of training calls on a GPU (default: every name, and ndimage)",
    )
    prepare.add_argument("--dtype", nargs="+", default=["float32"], help="default: float32")
    prepare.add_argument("--jobs", type=int, help="compilers at the same time (default: cores)")


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape such as 1024x1024x3") from None


def _demo(given: argparse.Namespace) -> str | None:
    """The error that the user can correct, if there is one; so for all commands."""
    from semiconv_cupy import demo

    try:
        kind = "colour" if given.colour else "volume" if given.volume else "grey"
        demo.run(given.image, given.out, given.scale, given.size, given.panel, kind)
    except demo.DemoError as error:
        return str(error)
    return None


def _info(given: argparse.Namespace) -> str | None:
    from semiconv_cupy import info

    info.run(as_json=given.json, node=_node_in_words)
    return None


def _node_in_words() -> str:
    """Whether training calls on a GPU have their C++ node; needs torch."""
    from torch_bridge.ops import node

    return node.describe()


def _explain(given: argparse.Namespace) -> str | None:
    from semiconv_cupy.explain import explain_command

    try:
        print(
            explain_command(
                given.function, given.shape, given.kernel, given.dtype, given.semifield,
                given.argument, gpu=given.gpu, arch=given.arch,
            )
        )  # fmt: skip
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        return str(error)
    return None


_TORCH = "torch"  # among the names that `prepare` takes


def _prepare(given: argparse.Namespace) -> str | None:
    from semiconv_cupy.ahead import prepare

    named = [name for name in given.semifields if name != _TORCH]
    try:
        count = 0
        if named or not given.semifields:
            count = prepare(named or None, given.dtype, jobs=given.jobs)
        if len(named) < len(given.semifields):
            _prepare_node()
            count += 1
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        return str(error)
    print(f"{count} libraries are ready")
    return None


def _prepare_node() -> None:
    try:
        from torch_bridge.ops import node
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError("torch is not installed: pip install torch") from None
    node.prepare()


if __name__ == "__main__":
    sys.exit(main())
