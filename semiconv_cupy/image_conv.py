"""`semifield_conv` as the command `apply` offers it: of one image by one kernel, in its size."""

from __future__ import annotations

from typing import Any

import numpy as np

from semiconv_cupy import conv
from semiconv_cupy.chunked import is_chunked
from semiconv_cupy.geometry import Kind


def semifield_conv(
    input: Any,
    krn: Any,
    semifield: str = "tropical_max",
    mu: Any = None,
    p: Any = None,
    dilation: Any = 1,
    kind: Kind = "conv",
    method: str = "auto",
    output: Any = None,
) -> Any:
    """Convolve an image with a kernel in a semifield; the result has the image's size.

    Parameters
    ----------
    input : array
        One image without channels; NumPy, CuPy or Dask.
    krn : array_like
        As many axes; its numbers must exist in the image's dtype.
    semifield : str
        The name of a ready-made semifield; `mu` belongs to "log", `p` to "root".
    dilation, kind, method
        As in `semiconv_cupy.semifield_conv`.
    output : dtype, optional
        Computed in this dtype, and returned so: log and root need a floating one.

    Returns
    -------
    array
        Of the image's shape: padding "same", positions outside take no part.

    Raises
    ------
    ValueError
        A kernel of another number of axes, or with numbers that the dtype does not have.
    TypeError
        A dtype that the semifield has no meaning for.

    Examples
    --------
    >>> semifield_conv(np.array([0.0, 0.0, 5.0, 0.0, 1.0]), [-1.0, 0.0, -1.0])
    array([0., 4., 5., 4., 1.])
    """
    image = input if is_chunked(input) else np.asarray(input)
    if output is not None:
        image = image.astype(output)
    given = np.asarray(krn)
    if given.ndim != image.ndim:
        raise ValueError(
            f"krn must have {image.ndim} axes like the image that it works along, got shape "
            f"{given.shape}"
        )
    with np.errstate(all="ignore"):
        kernel = given.astype(image.dtype)
    if image.dtype.kind in "biu" and not np.array_equal(kernel, given):
        raise ValueError(
            f"krn has numbers that {image.dtype} does not have: pass --dtype float32, in which all "
            "is computed then"
        )
    parameters = {name: value for name, value in (("mu", mu), ("p", p)) if value is not None}

    def convolved(images: Any) -> Any:
        return conv.semifield_conv(
            images, kernel[None, None], semifield, padding="same", dilation=dilation, kind=kind,
            method=method, **parameters,
        )  # fmt: skip

    if 0 in image.shape:  # the arguments are checked, too, where there is nothing to compute
        convolved(np.empty((0, 1, *(1 for _ in image.shape)), image.dtype))
        return image.copy()
    return convolved(image[None, None])[0, 0]
