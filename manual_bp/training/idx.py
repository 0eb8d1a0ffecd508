"""idx files, MNIST's own format: found under any of their names, and read."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manual_bp.training.errors import UserError

# The four files of a data set, by the name that they have unpacked at its source.
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_LARGEST = 2**32  # bytes of a file, unpacked


def find(folder: Path) -> dict[str, Path | None]:
    """Where each of the four files is: also gzipped, or with a dot, as some programs name them."""
    found: dict[str, Path | None] = {}
    for name in NAMES:
        ways = [way + end for end in ("", ".gz") for way in (name, name.replace("-idx", ".idx"))]
        found[name] = next((folder / way for way in ways if (folder / way).is_file()), None)
    return found


def missing(folder: Path) -> list[str]:
    return [name for name, path in find(folder).items() if path is None]


def read(path: Path) -> Tensor:
    """Images (count, height, width), uint8, or labels (count,), int64.

    Raises:
        UserError: a file that cannot be read, or that is not what its header says.
    """
    dimensions = 3 if "images" in path.name else 1
    header = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic, *shape = struct.unpack(
                f">{1 + dimensions}i", file.read(header).ljust(header, b"\0")
            )
            if magic != 2048 + dimensions or min(shape) < 0:  # 8: unsigned bytes
                what = "images" if dimensions == 3 else "labels"
                raise UserError(
                    f"{path}: not an idx file of {what} (magic number {2048 + dimensions})"
                )
            expected = math.prod(shape)
            # NumPy asks the system for large pages: rows are read in random order.
            values = np.empty(min(expected, _LARGEST), np.uint8)
            found, beyond = file.readinto(values.data), len(file.read(_LARGEST))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: a damaged gzip file; fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if found != expected or beyond:
        raise UserError(
            f"{path}: {header + found + beyond} bytes, {header + expected} expected by its header: "
            f"the file is truncated or damaged; fetch it again"
        )
    images = torch.from_numpy(values).view(shape)
    return images if dimensions == 3 else images.long()
