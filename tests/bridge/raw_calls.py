"""Every wrong argument of the raw operators that memory depends on; run in a process of its own.

Prints a line a call: its name, and what was raised (or "values", where a result is all right).
"""

import sys

import torch

import torch_bridge as semiconv
from torch_bridge.ops import handle_of

FORWARD, BACKWARD = torch.ops.semiconv.forward, torch.ops.semiconv.backward
SEMIFIELDS = {
    "max": "tropical_max",
    "times": semiconv.SelectSemifield.max_times(),
    "linear": "linear",
    "log": semiconv.SubtractSemifield.log(1.0),
}
GEOMETRY = dict(
    stride=[1, 1], padding=[1, 1, 1, 1], dilation=[1, 1], groups=1, group_broadcasting=False,
    mirrored=True,
)  # fmt: skip


def good(semifield):
    """Arguments that fit, of both operators, with all gradients wanted."""
    img, krn = torch.rand(2, 2, 6, 7), torch.rand(3, 2, 3, 3)
    key = handle_of(semifield).key
    forward = dict(img=img, krn=krn, semifield=key, **GEOMETRY, residual=True)
    out, residual = FORWARD(**forward)
    backward = dict(
        grad_out=torch.ones_like(out), img=img, krn=krn, residual=residual, semifield=key,
        img_shape=list(img.shape), krn_shape=list(krn.shape), **GEOMETRY, want_img=True,
        want_krn=True,
    )  # fmt: skip
    return forward, backward


def freed(tensor):
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def odd_tensors(tensor):
    """Tensors that are not like this one, and cannot take its place."""
    return {
        "shorter": tensor[..., :-1],
        "longer": torch.cat([tensor, tensor], -1),
        "another rank": tensor[0],
        "a scalar": tensor.sum(),
        "empty": tensor[:0],
        "no element": tensor.new_empty(0),
        "int64": tensor.long(),
        "bool": tensor.bool(),
        "float64": tensor.double(),
        "complex": tensor.to(torch.complex64),
        "meta": tensor.to("meta"),
        "freed": freed(tensor),
    }


OTHER_SIZES = ("img: shorter", "img: longer", "img: empty", "krn: shorter", "krn: longer")
ODD_SHAPES = {
    "empty": [],
    "negative": [2, 2, -6, 7],
    "huge": [2, 2, 2**62, 7],
    "other": [2, 2, 60, 70],
    "signal": [2, 2, 6],
    "zero": [2, 2, 0, 7],
    "overflow": [2**40, 2, 2**40, 7],
}
ODD_GEOMETRY = {
    "stride": {"zero": [0, 1], "short": [1], "huge": [2**63 - 1] * 2, "negative": [-1, 1]},
    "padding": {"odd": [1, 1, 1], "none": [], "huge": [2**62] * 4, "negative": [-9, 1, 1, 1]},
    "dilation": {"zero": [0, 1], "long": [1, 1, 1], "huge": [2**40] * 2},
    "groups": {"zero": 0, "negative": -1, "huge": 2**62, "other": 2},
    "semifield": {"unknown": "sum-0", "empty": "", "text": "log(x)-0", "inf": "log(inf)-0"},
}


def wrong(arguments, tensors):
    for name in tensors:
        for what, value in odd_tensors(arguments[name]).items():
            yield f"{name}: {what}", {**arguments, name: value}
    for name, values in ODD_GEOMETRY.items():
        for what, value in values.items():
            yield f"{name}: {what}", {**arguments, name: value}


def calls(semifield):
    """(name, operator, arguments) of calls that must be refused."""
    forward, backward = good(semifield)
    for what, arguments in wrong(forward, ("img", "krn")):
        # A batch of none, and other sizes, are images too.
        if what not in OTHER_SIZES:
            yield f"forward, {what}", FORWARD, arguments
    kept = [name for name in ("grad_out", "img", "krn", "residual") if backward[name].numel()]
    for what, arguments in wrong(backward, kept):
        residual_may_be_missing = semifield is SEMIFIELDS["log"] and "residual" in what
        if not (residual_may_be_missing and what.endswith(("empty", "no element"))):
            yield f"backward, {what}", BACKWARD, arguments
    for name in ("img_shape", "krn_shape"):
        for what, value in ODD_SHAPES.items():
            yield f"backward, {name}: {what}", BACKWARD, {**backward, name: value}
    if semifield != "tropical_max":
        for name in ("img", "krn"):
            yield f"backward, {name}: None", BACKWARD, {**backward, name: None}


def winners(semifield):
    """Residuals of the right form whose numbers no forward pass leaves: nothing to refuse."""
    _, backward = good(semifield)
    for value in (0, 8, 17, 18, 19, 100, 254, 255):
        residual = torch.full_like(backward["residual"], value)
        for strided in (residual, residual.transpose(2, 3).contiguous().transpose(2, 3)):
            yield f"winners {value}", {**backward, "residual": strided}
    transposed = torch.rand(2, 2, 7, 6).transpose(2, 3)  # an image of other strides
    yield "winners 0 in a transposed image", {
        **backward, "residual": torch.zeros_like(backward["residual"]), "img": transposed
    }  # fmt: skip


def main():
    for label, semifield in SEMIFIELDS.items():
        for name, operator, arguments in calls(semifield):
            print(f"{label}, {name}", end=" -> ", flush=True)
            try:
                operator(**arguments)
            except Exception as error:
                print(type(error).__name__, str(error).partition("\n")[0], flush=True)
            else:
                print("values", flush=True)
    for label in ("max", "times"):
        for name, arguments in winners(SEMIFIELDS[label]):
            print(f"right, {label}, {name}", end=" -> ", flush=True)
            grad_img, grad_krn = BACKWARD(**arguments)
            total = float(arguments["grad_out"].sum())  # no output counts twice
            fair = label != "max" or max(grad_img.sum(), grad_krn.sum()) <= total
            print("values" if fair else "too much", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    main()
