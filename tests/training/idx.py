"""Files in MNIST's own format, made up: noise with labels, of the right sizes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

FILES = {
    "train-images-idx3-ubyte": (2051, 60_000),
    "train-labels-idx1-ubyte": (2049, 60_000),
    "t10k-images-idx3-ubyte": (2051, 10_000),
    "t10k-labels-idx1-ubyte": (2049, 10_000),
}


def write(root: Path, folder: str = "MNIST") -> Path:
    """Write the four files below `root`, and give the folder they are in."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, (magic, count) in FILES.items():
        if magic == 2051:
            header = struct.pack(">iiii", magic, count, 28, 28)
            body = random.integers(0, 256, count * 784, dtype=np.uint8)
        else:
            header = struct.pack(">ii", magic, count)
            body = random.integers(0, 10, count, dtype=np.uint8)
        (raw / name).write_bytes(header + body.tobytes())
    return raw
