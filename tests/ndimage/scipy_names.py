"""A pytest plugin: scipy.ndimage's functions are replaced by ours before its tests are collected.

`-p scipy_names` in a process of its own (test_scipy_suite.py). SciPy's other filters (Gaussian,
Sobel, ...) call the replaced ones, too. A stand-in counts its calls, so that a run which tests
SciPy against itself shows.
"""

import atexit
import functools
import os

import scipy.ndimage
from scipy._lib import _array_api
from scipy.ndimage import _filters, _morphology

from semiconv_cupy import ndimage

# A filter that SciPy does not have is not compared with it.
shared = [name for name in ndimage.__all__ if hasattr(scipy.ndimage, name)]
calls = dict.fromkeys(shared, 0)


def _stand_in(name):
    ours = getattr(ndimage, name)

    @functools.wraps(ours)
    def function(*args, **kwargs):
        calls[name] += 1
        return ours(*args, **kwargs)

    return function


for _name in shared:
    _theirs = getattr(scipy.ndimage, _name)
    _function = _stand_in(_name)
    # SciPy's decorators of tests look functions up in this table.
    _table = _array_api.xp_capabilities_table
    if _theirs in _table:
        _table[_function] = _table[_theirs]
    for _module in (scipy.ndimage, _filters, _morphology):
        if hasattr(_module, _name):
            setattr(_module, _name, _function)


@atexit.register
def _report():
    report = os.environ.get("SEMICONV_CALLS_FILE")
    if report:
        with open(report, "w") as file:
            file.write("\n".join(f"{name} {count}" for name, count in calls.items()))
