"""Pictures of kernels, by matplotlib. Called by a kernel's `plot`."""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor

from torch_bridge.sizes import whole_number


def draw(kernel: Tensor, at_most: int) -> Any:
    """Draw the first `at_most` of the kernels (O, I, *K) side by side; return the axes."""
    at_most = whole_number("at_most", at_most)
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "plot() needs matplotlib, which is not installed: pip install matplotlib"
        ) from error
    kernel = kernel.detach().float().cpu()
    pairs = list(itertools.product(range(kernel.shape[0]), range(kernel.shape[1])))[:at_most]
    ndim = kernel.dim() - 2
    figure, axes = pyplot.subplots(
        1, len(pairs), figsize=(2.5 * len(pairs), 2.5), squeeze=False, layout="constrained"
    )
    low, high = kernel.amin().item(), kernel.amax().item()
    picture = None
    for axis, (o, i) in zip(axes[0], pairs, strict=True):
        tap = kernel[o, i]
        for _ in range(ndim - 2):  # the middle slice of a volume
            tap = tap[(tap.shape[0] - 1) // 2]
        sizes = tap.shape
        first = [-((k - 1) // 2) for k in sizes]
        axis.set_title(f"channel {o}" if kernel.shape[1] == 1 else f"out {o}, in {i}")
        if ndim == 1:
            axis.plot(range(first[0], first[0] + sizes[0]), tap.numpy(), marker="o")
        else:
            rows, columns = sizes
            extent = (
                first[1] - 0.5,
                first[1] + columns - 0.5,
                first[0] + rows - 0.5,
                first[0] - 0.5,
            )
            picture = axis.imshow(tap.numpy(), vmin=low, vmax=high, extent=extent)
        axis.locator_params("x" if ndim == 1 else "both", integer=True)  # offsets are whole
    if picture is not None:
        figure.colorbar(picture, ax=axes[0].tolist(), shrink=0.8)
    return axes[0]
