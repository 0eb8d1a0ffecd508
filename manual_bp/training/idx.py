"""idx files, MNIST's own format: found under any of their names, and read."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

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
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = bytearray(file.read(_LARGEST))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: a damaged gzip file; fetch it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    dimensions = 3 if "images" in path.name else 1
    header = 4 + 4 * dimensions
    magic, *shape = struct.unpack_from(f">{1 + dimensions}i", content.ljust(header, b"\0"))
    if magic != 2048 + dimensions or min(shape) < 0:  # 8: unsigned bytes
        what = "images" if dimensions == 3 else "labels"
        raise UserError(f"{path}: not an idx file of {what} (magic number {2048 + dimensions})")
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise UserError(
            f"{path}: {len(content)} bytes, {expected} expected by its header: the file is "
            f"truncated or damaged; fetch it again"
        )
    values = torch.frombuffer(content, dtype=torch.uint8, offset=header if expected > header else 0)
    values = values[: math.prod(shape)].view(shape)
    return values if dimensions == 3 else values.long()
