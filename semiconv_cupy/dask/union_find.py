"""Which labels of chunks belong together, and which of these are reached: union-find in NumPy."""

from __future__ import annotations

import numpy as np


def reached(pairs: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The labels of `pairs`, sorted, that some chain of pairs joins with a seed.

    Parameters
    ----------
    pairs : numpy.ndarray of int64 (N, 2)
        Labels of one component each.
    seeds : numpy.ndarray of int64
        Labels that are reached already.

    Examples
    --------
    >>> reached(np.array([[1, 2], [2, 7], [4, 5]]), np.array([7, 9]))
    array([1, 2, 7])
    """
    nodes, numbers = np.unique(pairs, return_inverse=True)
    first, second = numbers.reshape(-1, 2).T
    parent = np.arange(len(nodes))
    while True:
        a, b = parent[first], parent[second]
        if np.array_equal(a, b):
            break
        # Each root is hung below the least root that it is joined with; then paths are shortened.
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while True:
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter
    is_root = np.zeros(len(nodes), np.bool_)
    is_root[parent[np.isin(nodes, seeds)]] = True
    found: np.ndarray = nodes[is_root[parent]]
    return found
