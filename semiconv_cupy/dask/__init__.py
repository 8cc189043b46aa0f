"""Functions of Dask arrays: the same function of each chunk, and of what it needs of others.

``compute_later`` answers what ``semiconv_cupy.chunked`` hands over. Which other elements a chunk
needs follows from the window (``stages.py``), exactly (``halo.py``); one graph moves them
(``overlap.py``). What spreads through the whole image joins the chunks' components
(``spreading.py``), or goes around among the chunks' borders (``borders.py``).
"""

from __future__ import annotations

from typing import Any

__all__ = ["ThreadsPerCall"]


def __getattr__(name: str) -> Any:
    if name == "ThreadsPerCall":  # needs distributed, which is not always installed with Dask
        from semiconv_cupy.dask.threads import ThreadsPerCall

        return ThreadsPerCall
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
