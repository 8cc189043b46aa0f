"""All C++ and CUDA sources, and what looks at them without a GPU: ``python -m kernels_cu report``.

Nothing here imports the core (semiconv_cupy), which reads these sources and launches them.
"""

from pathlib import Path


def folder() -> Path:
    """Return the folder of the sources, to read them or to give it to a compiler as ``-I``.

    Examples
    --------
    >>> (folder() / "portable.cuh").is_file()
    True
    """
    return Path(__file__).parent
