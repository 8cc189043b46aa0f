"""The primitives on NumPy arrays: calls of compiled ``kernels_cu/host`` by ctypes.

The functions of `neighbourhood.Backend`, for C-contiguous arrays of a supported dtype and checked
arguments; what they return is a new array. Those of selections exist as calls, too: all but the
addresses is prepared for one shape and dtype.
"""

from semiconv_cupy.ndimage.host.flat import box, box_call, footprint, footprint_call
from semiconv_cupy.ndimage.host.forms import form_of
from semiconv_cupy.ndimage.host.libraries import library_name, part_of, serves, sources
from semiconv_cupy.ndimage.host.lines import chamfer, nearest, parabolas
from semiconv_cupy.ndimage.host.spread import reconstruct
from semiconv_cupy.ndimage.host.structures import structure, structure_call
from semiconv_cupy.ndimage.host.sums import correlate

__all__ = [
    "box",
    "box_call",
    "chamfer",
    "correlate",
    "footprint",
    "footprint_call",
    "form_of",
    "library_name",
    "nearest",
    "parabolas",
    "part_of",
    "reconstruct",
    "serves",
    "sources",
    "structure",
    "structure_call",
]
