"""The scalar functions of a compiled semifield: their names, parameters and symbols."""

from __future__ import annotations

from semiconv_cupy.algebra.functions import symbol

IMG, KRN, LEFT, RIGHT, ACC, RES, VAL = (
    symbol(name) for name in ("img", "krn", "left", "right", "acc", "res", "val")
)

# The parameters of each function, by the name that `expressions` and `functions` use.
PARAMETERS = {
    "select": ("left", "right"),
    "add": ("left", "right"),
    "times": ("img", "krn"),
    "d_times_d_img": ("img", "krn"),
    "d_times_d_krn": ("img", "krn"),
    "subtract": ("res", "val"),
    "d_add_d_right": ("acc", "val"),
    "post_sum": ("acc",),
    "undo_post_sum": ("res",),
    "d_post_d_acc": ("acc",),
}
# The names of constructor arguments, where they differ.
ARGUMENTS = {"select": "add_select", "d_times_d_krn": "d_times_d_kernel"}
