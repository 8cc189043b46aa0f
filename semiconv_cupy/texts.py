"""Arguments of functions as texts, as the commands `explain` and `apply` take them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from semiconv_cupy import (
    background,
    conv,
    conv_vjp,
    heights,
    image_conv,
    matmul,
    matmul_vjp,
    ndimage,
    openings,
    parabolic,
    reconstructions,
    structuring,
)

# The functions that `disk(5)` and the like may call.
SHAPES = ("ball", "box", "cross", "diamond", "disk", "flat", "quadratic")
# The first arguments of functions from one image to one image.
_IMAGE = ("input", "image", "seed")
# The modules of functions of images.
_OF_IMAGES = (ndimage, background, parabolic, reconstructions, heights, openings)


def function_named(name: str) -> Callable[..., Any]:
    """The public function of this package of that name, its module before it or not."""
    for module in (conv, conv_vjp, matmul, matmul_vjp, *_OF_IMAGES):
        found = getattr(module, name.rpartition(".")[2], None)
        if inspect.isfunction(found):
            return found
    raise ValueError(
        f"function={name!r} is none of semiconv_cupy or semiconv_cupy.ndimage; such as "
        "'semifield_conv', 'grey_dilation'"
    )


def image_functions() -> dict[str, Callable[..., Any]]:
    """The public functions that make one image of one image, by name."""
    found: dict[str, Callable[..., Any]] = {"semifield_conv": image_conv.semifield_conv}
    for module in _OF_IMAGES:
        for name in getattr(module, "__all__", None) or vars(module):
            function = getattr(module, name)
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            ours = module is ndimage or inspect.unwrap(function).__module__ == module.__name__
            first = next(iter(inspect.signature(function).parameters), None)
            if ours and first in _IMAGE and inspect.signature(function).return_annotation != "None":
                found[name] = function
    return dict(sorted(found.items()))


def named_value(text: str) -> tuple[str, Any]:
    """(name, value) of a text such as mode=wrap or axes=(0,1)."""
    name, found, value = text.partition("=")
    if not found:
        raise ValueError(f"{text!r} is not of the form NAME=VALUE, such as padding=same")
    return name, value_of(value)


def value_of(text: str) -> Any:
    """A literal of Python, the array of a shape such as disk(5), or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return _shape(text)


def values_of(texts: Sequence[str]) -> Any:
    """The value of one text, a tuple of several."""
    values = tuple(map(value_of, texts))
    return values[0] if len(values) == 1 else values


def _shape(text: str) -> Any:
    """What a call of a function of ``structuring`` returns, whose arguments are literals."""
    name, found, _ = text.partition("(")
    if not found or name not in SHAPES:
        return text
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError(text)
        arguments = [ast.literal_eval(value) for value in call.args]
        named = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{text!r} is no call with numbers, such as disk(5) or box((3,3,5))"
        ) from None
    return getattr(structuring, name)(*arguments, **named)
