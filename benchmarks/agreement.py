"""Whether a peer computes our numbers: what is timed is the same work.

Peers of another algebra (``works.OTHERS``) are not asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

TOLERANCE = 1e-3  # of the largest number: some compute in float32, or by fast functions


def disagreement(ours: Any, theirs: Any, gradients: bool = False) -> str | None:
    """How a peer's result differs from ours; None where it is the same, or where there is none.

    Of `gradients`, the mean difference counts: of two equal terms, a peer may take the other one.

    Results are arrays or tensors of any library, or tuples of them; axes of one element do not
    count. In a tuple, integers are indices, of which several may be right. Where we round to
    integers, a peer may give what lies before.

    Examples
    --------
    >>> disagreement(np.arange(6).reshape(2, 3), np.arange(6).reshape(1, 2, 3))
    >>> disagreement(np.zeros(2), np.array([0, 3]))
    'its numbers differ from ours by up to 3'
    >>> disagreement(np.zeros(2), np.zeros(3))
    'its result has shape (3,), ours (2,)'
    >>> disagreement(np.full(5000, 7.0), np.repeat([8.0, 7.0], [1, 4999]), gradients=True)
    """
    if ours is None or theirs is None:
        return None
    if isinstance(ours, (tuple, list)):
        pairs = zip(map(_as_numpy, ours), map(_as_numpy, theirs), strict=True)
        numbers = [(a, b) for a, b in pairs if a.dtype.kind not in "iu"]
        return next((text for pair in numbers if (text := disagreement(*pair, gradients))), None)
    a, b = _as_numpy(ours).squeeze(), _as_numpy(theirs).squeeze()
    if a.shape != b.shape:
        return f"its result has shape {b.shape}, ours {a.shape}"
    rounded = 0.5 if a.dtype.kind in "iu" and b.dtype.kind == "f" else 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    differs = np.where(finite, np.abs(np.where(finite, a - b, 0)), np.where(a == b, 0, np.inf))
    sizes = np.abs(a[finite])
    if gradients:
        same = differs.sum() <= TOLERANCE * sizes.sum()
    else:
        same = differs.max(initial=0) <= rounded + TOLERANCE * sizes.max(initial=0)
    return None if same else f"its numbers differ from ours by up to {differs.max():.3g}"


def _as_numpy(result: Any) -> np.ndarray:
    if result is None:
        return np.empty(0)
    if hasattr(result, "detach"):
        result = result.detach().cpu()
    return np.asarray(result.get() if hasattr(result, "get") else result)
