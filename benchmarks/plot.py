"""How times grow with pixels, window and channels: one log-log picture for each."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.table import Report


def draw(report: Report, folder: Path) -> list[Path]:
    """Write the files ``growth_<name>.png`` and return their paths.

    The dotted line is the theory: the time is proportional to a power of the quantity on the axis.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for growth in report["growth"]:
        figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
        for name, points in growth["series"].items():
            axes.loglog(*zip(*points, strict=True), "o-", label=name)
        at, seconds = growth["series"]["ours"][-1]
        first = growth["series"]["ours"][0][0]
        power = growth["power"]
        axes.loglog(
            [first, at], [seconds * (first / at) ** power, seconds], "k:", linewidth=1,
            label=f"~ {growth['axis']}" + (f"^{power:g}" if power != 1 else ""),
        )  # fmt: skip
        axes.set(xlabel=growth["axis"], ylabel="seconds", title=growth["name"])
        axes.set_xscale("log", base=2)
        axes.grid(which="both", alpha=0.2)
        axes.legend(fontsize="small")
        path = folder / f"growth_{re.sub(r'[^a-z0-9]+', '_', growth['name'].lower())}.png"
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
        written.append(path)
    return written
