"""Data sets: images and labels as tensors.

A folder of IDX files (MNIST, K-MNIST, Fashion-MNIST), the digits of scikit-learn, or CIFAR-10 and
SVHN through torchvision. Nothing is downloaded. Pixels are scaled to [0, 1], so that a root, which
is defined on numbers >= 0, can take them.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# Type codes of the IDX format, as far as these data sets use them: unsigned bytes.
_UINT8 = 0x08


class Split(NamedTuple):
    """Images (N, C, H, W) in [0, 1], float32, and their labels (N,), int64."""

    images: Tensor
    labels: Tensor


class Data(NamedTuple):
    name: str
    train: Split
    test: Split

    @property
    def classes(self) -> int:
        return int(self.train.labels.max()) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image."""
        return tuple(self.train.images.shape[1:])

    def to(self, device: torch.device) -> Data:
        splits = (Split(*(t.to(device) for t in split)) for split in (self.train, self.test))
        return Data(self.name, *splits)


def load(name: str, folder: Path | None) -> Data:
    """The data set of that name.

    Parameters
    ----------
    name : str
        "digits", "CIFAR10" or "SVHN"; any other name is only a title of the IDX files in `folder`.
    folder : Path, optional
        Where the files are; the digits need none.

    Raises
    ------
    FileNotFoundError
        A file that is missing, with the names that were looked for.
    ValueError
        A file that is no IDX file of bytes; a data set without a folder.
    ImportError
        scikit-learn or torchvision is not installed.
    """
    if name == "digits":
        return _digits()
    if folder is None:
        raise ValueError(f'the data set {name!r} needs --data FOLDER; only "digits" needs no files')
    if name in ("CIFAR10", "SVHN"):
        return _torchvision(name, folder)
    splits = []
    for part in ("train", "t10k"):
        images = read_idx(_found(folder, f"{part}-images-idx3-ubyte"))
        labels = read_idx(_found(folder, f"{part}-labels-idx1-ubyte"))
        splits.append(_split(images[:, None], labels, f"{folder}, {part}"))
    return Data(name, *splits)


def read_idx(path: Path) -> Tensor:
    """The array of an IDX file of unsigned bytes, gzipped or not.

    The format: two zero bytes, a type code, the number of axes; then the size of each axis as a
    big-endian 32-bit integer; then the elements, the last axis fastest.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:3] != bytes((0, 0, _UINT8)):
        raise ValueError(
            f"{path} is no IDX file of unsigned bytes: it begins with {content[:4].hex(' ')!r}"
        )
    begin = 4 + 4 * content[3]
    if len(content) < begin:
        raise ValueError(f"{path} ends within its header, after {len(content)} bytes")
    shape = struct.unpack(f">{content[3]}I", content[4:begin])
    if len(content) - begin != math.prod(shape):
        raise ValueError(
            f"{path} should have {math.prod(shape)} elements, shape {shape}, "
            f"but has {len(content) - begin}"
        )
    return torch.frombuffer(bytearray(content[begin:]), dtype=torch.uint8).view(shape)


def _found(folder: Path, name: str) -> Path:
    """The file of that name in the folder, gzipped or not, also with a dot before its type."""
    candidates = [
        f"{stem}{end}" for stem in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")
    ]
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    raise FileNotFoundError(f"{folder} has none of the files {', '.join(candidates)}")


def _split(images: Tensor, labels: Tensor, source: str) -> Split:
    if len(images) != len(labels):
        raise ValueError(f"{source}: {len(images)} images, but {len(labels)} labels")
    return Split(images.float() / 255, labels.long())


def _digits() -> Data:
    """The 1797 digits of 8 x 8 pixels that scikit-learn contains; every fifth is for the test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    test = torch.arange(len(labels)) % 5 == 0
    return Data("digits", *(Split(images[part], labels[part]) for part in (~test, test)))


def _torchvision(name: str, folder: Path) -> Data:
    from torchvision import datasets

    if name == "CIFAR10":
        parts = [datasets.CIFAR10(folder, train=train) for train in (True, False)]
        found = [(torch.tensor(p.data).permute(0, 3, 1, 2), torch.tensor(p.targets)) for p in parts]
    else:
        parts = [datasets.SVHN(folder, split=split) for split in ("train", "test")]
        found = [(torch.tensor(p.data), torch.tensor(p.labels)) for p in parts]
    return Data(name, *(_split(*pair, f"{folder}, {name}") for pair in found))
