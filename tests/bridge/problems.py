"""What the tests of gradients share: semifields, geometries of each rank, and inputs for them."""

import numpy as np
import torch

from torch_bridge import BroadcastSemifield, SelectSemifield, SubtractSemifield

# Fused, and the same as array functions that torch differentiates; None where there is none.
SEMIFIELDS = {
    "max": (SelectSemifield.tropical_max(), BroadcastSemifield.tropical_max()),
    "min": (SelectSemifield.tropical_min_negated(), BroadcastSemifield.tropical_min_negated()),
    "max, channels added": (
        SelectSemifield.tropical_max(channels_add=True),
        BroadcastSemifield.tropical_max(channels_add=True),
    ),
    "max, shared": (
        SelectSemifield.tropical_max(spread_gradient=True),
        BroadcastSemifield.tropical_max(spread_gradient=True),
    ),
    "max_times": (SelectSemifield.max_times(), None),
    "linear": (SubtractSemifield.linear(), BroadcastSemifield.linear()),
    "log": (SubtractSemifield.log(-2.0), BroadcastSemifield.log(-2.0)),
    "root": (SubtractSemifield.root(3.0), BroadcastSemifield.root(3.0)),
}
TWICE = ("max", "min", "max, channels added")  # what has second derivatives

# image, kernel, arguments; no window lies wholly outside
GEOMETRIES = [
    ((2, 3, 9), (4, 3, 4), {"padding": "same", "dilation": 2}),
    ((2, 4, 8, 7), (6, 2, 3, 2), {"stride": (2, 3), "padding": ((2, 0), (0, 1)), "groups": 2}),
    ((1, 4, 6, 9), (3, 2, 2, 3), {"groups": 2, "group_broadcasting": True, "kind": "corr"}),
    ((1, 2, 5, 4, 6), (2, 1, 2, 3, 2), {"padding": 1, "groups": 2, "stride": 2}),
    ((2, 1, 11, 10), (1, 1, 1, 4), {"stride": 4, "padding": "valid", "kind": "corr"}),
    ((1, 2, 4, 5, 3), (3, 2, 2, 2, 3), {"dilation": (1, 2, 1), "padding": "same", "kind": "corr"}),
]


def inputs(img_shape, krn_shape, dtype=torch.float64, seed=0, device="cpu"):
    """Positive numbers, no two sums equal, wanting gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (img_shape, krn_shape)
    drawn = [torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1 for shape in shapes]
    return [tensor.to(device, dtype).requires_grad_() for tensor in drawn]


def random_geometry(seed):
    """Any geometry without a window that lies wholly outside."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))
    groups, ins, outs = (int(n) for n in rng.integers(1, 4, 3))
    sizes = tuple(int(k) for k in rng.integers(1, 5, rank))
    dilation = tuple(int(d) for d in rng.integers(1, 3, rank))
    arguments = {
        "stride": tuple(int(s) for s in rng.integers(1, 4, rank)),
        "dilation": dilation,
        "groups": groups,
        "group_broadcasting": bool(rng.integers(2)),
        "kind": str(rng.choice(["conv", "corr"])),
        "padding": tuple(
            tuple(int(p) for p in rng.integers(0, d * (k - 1) // 2 + 1, 2))
            for d, k in zip(dilation, sizes, strict=True)
        ),
    }
    return (2, groups * ins, *(9,) * rank), (outs * groups, ins, *sizes), arguments


def with_gradients(conv, tensors, **arguments):
    """(out, gradient of the image, gradient of the kernel) for uneven weights of the outputs."""
    out = conv(*tensors, **arguments)
    weights = torch.linspace(-1, 2, out.numel(), dtype=torch.float64, device=out.device)
    return (out, *torch.autograd.grad(out, tensors, weights.view(out.shape).to(out)))
