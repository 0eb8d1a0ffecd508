"""The data sets: MNIST and Fashion-MNIST, which torchvision fetches, and scikit-learn's digits.

Images stay one uint8 tensor on the device and are indexed there; a step scales its own few rows to
[0, 1].
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import struct
import tempfile
import textwrap
import threading
import time
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.extras import missing
from manual_bp.training.errors import UserError

PIXEL_SCALE = 1 / 255
CLASSES = 10
# Each file: its magic number, its count of images or labels, and the bytes of one of them.
_IDX_FILES = {
    "train-images-idx3-ubyte": (2051, 60_000, 784),
    "train-labels-idx1-ubyte": (2049, 60_000, 1),
    "t10k-images-idx3-ubyte": (2051, 10_000, 784),
    "t10k-labels-idx1-ubyte": (2049, 10_000, 1),
}
_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_STALL_SECONDS = 20.0  # a download that brings nothing for so long is given up


@dataclass(frozen=True)
class Part:
    """Images as uint8 (m, pixels), 0 to 255, and labels as int64 (m,), 0 to 9."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> Part:
        return Part(self.images[rows], self.labels[rows])

    def to(self, device: torch.device) -> Part:
        return Part(self.images.to(device), self.labels.to(device))

    def batch(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """As inputs x (m, pixels), 0 to 1, and one-hot targets y (m, 10)."""
        y = torch.eye(CLASSES, dtype=dtype, device=self.labels.device)[self.labels]
        return self.images.to(dtype) * PIXEL_SCALE, y


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts: validation is for choices, and test is reported once, at the end."""

    name: str
    train: Part
    validation: Part
    test: Part
    side: int  # an image has side × side pixels
    source: str  # where it came from, for the person at the terminal
    notice: str | None = None  # what that person must not miss

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images and labels of all parts."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(part.images.cpu().numpy().tobytes())
            digest.update(part.labels.cpu().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> Dataset:
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)


def data_folder(data_dir: str | None) -> Path:
    """--data-dir, else $MANUAL_BP_DATA, else data/."""
    return Path(data_dir or os.environ.get("MANUAL_BP_DATA") or "data")


def load(name: str, data_dir: str | None = None) -> Dataset:
    """Load a data set by the name that --dataset takes.

    Raises:
        UserError: the files are missing and cannot be downloaded, or they are damaged.
    """
    root = data_folder(data_dir)
    if name == "digits":
        return _digits("as asked")
    if name != "auto":
        return _mnist(name, root)
    if _missing(root, "mnist"):
        try:
            _download("mnist", root)
        except UserError as error:
            return _digits(
                "in MNIST's place",
                f"MNIST is not in {root / 'MNIST' / 'raw'} and {error}: training on scikit-learn's "
                f"small handwritten digits instead. To get MNIST, put its four idx files there, "
                f"unpacked, or name the folder that holds MNIST/raw with --data-dir.",
            )
    return _mnist("mnist", root)


def _digits(why: str, notice: str | None = None) -> Dataset:
    if lacking := missing("sklearn", extra="train"):  # `manual-bp trace --run` needs torch alone
        raise UserError(lacking)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).reshape(-1, 64)
    images = (images * (255 / 16)).round().to(torch.uint8)  # 0 to 16 there
    labels = torch.from_numpy(bunch.target).long()
    # A fixed shuffle, because the file is ordered by writer; 1197 / 300 / 300.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, validation, test = (
        Part(images[i], labels[i]) for i in order.split([len(order) - 600, 300, 300])
    )
    return Dataset(
        "digits", train, validation, test, 8, f"scikit-learn's handwritten digits, {why}", notice
    )


def _mnist(name: str, root: Path) -> Dataset:
    """50,000 / 10,000 / 10,000: the last 10,000 training images are the validation part."""
    raw = root / _FOLDERS[name] / "raw"
    missing = _missing(root, name)
    if missing:
        try:
            _download(name, root)
        except UserError as error:
            raise UserError(
                f"{name}: {raw} has no {', '.join(missing)}, and {error}: put the uncompressed idx "
                f"files there, name another folder with --data-dir, or use --dataset digits"
            ) from error
    images, labels, test_images, test_labels = (_read_idx(raw / file) for file in _IDX_FILES)
    return Dataset(
        name,
        train=Part(images[:50_000], labels[:50_000]),
        validation=Part(images[50_000:], labels[50_000:]),
        test=Part(test_images, test_labels),
        side=28,
        source=f"{name} from {raw}",
    )


def _torchvision_class(name: str) -> Any:
    try:
        from torchvision import datasets
    except Exception as error:  # a torchvision built for another torch fails in many ways
        raise UserError(
            f"torchvision {version('torchvision')} cannot be loaded beside torch "
            f"{version('torch')} ({_in_short(error)}): install a matching pair with "
            f"pip install --upgrade torch torchvision"
        ) from error
    return datasets.MNIST if name == "mnist" else datasets.FashionMNIST


def _missing(root: Path, name: str) -> list[str]:
    raw = root / _FOLDERS[name] / "raw"
    return [file_name for file_name in _IDX_FILES if not (raw / file_name).is_file()]


def _read_idx(path: Path) -> Tensor:
    """Images (count, 784), uint8, or labels (count,), int64, of a file that fits MNIST."""
    magic, count, size = _IDX_FILES[path.name]
    header = 16 if magic == 2051 else 8
    expected = header + count * size
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) != expected:
        raise UserError(
            f"{path}: {len(content)} bytes, {expected} expected: the file is truncated or not "
            f"MNIST's; fetch it again"
        )
    sides = (28, 28) if size == 784 else ()
    if struct.unpack_from(f">{header // 4}i", content) != (magic, count, *sides):
        shape = "images of 28 × 28" if sides else "labels"
        raise UserError(
            f"{path}: not an idx file of {count} {shape} (magic number {magic}); fetch it again"
        )
    values = torch.frombuffer(content, dtype=torch.uint8, offset=header)
    if sides:
        return values.view(count, size)
    if int(values.max()) >= CLASSES:
        raise UserError(f"{path}: holds the label {int(values.max())}: 0 to 9 expected")
    return values.long()


def _download(name: str, root: Path) -> None:
    """Fetch with torchvision into a folder beside, then move it into place, so that no half file is
    ever found.

    Raises:
        UserError: nothing came for _STALL_SECONDS, or the download failed.
    """
    kind = _torchvision_class(name)
    try:
        made = not root.exists()
        root.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".download-", dir=root))
    except OSError as error:
        raise UserError(f"nothing can be written to {root} ({error.strerror})") from error
    failure: list[Exception] = []

    def fetch() -> None:
        try:
            kind(str(beside), download=True)
        except Exception as error:
            failure.append(error)

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALL_SECONDS / 2)  # urllib sets none of its own
    try:
        # torchvision's progress bars and its word on each failing mirror would bury the one line
        # that matters
        with (
            open(os.devnull, "w") as devnull,
            contextlib.redirect_stderr(devnull),
            contextlib.redirect_stdout(devnull),
        ):
            thread = threading.Thread(target=fetch, daemon=True)
            thread.start()
            size, since = 0, time.monotonic()
            while thread.is_alive():
                thread.join(0.2)
                now = sum(path.stat().st_size for path in beside.rglob("*") if path.is_file())
                if now != size:
                    size, since = now, time.monotonic()
                if time.monotonic() - since > _STALL_SECONDS:
                    raise UserError(f"the download brought nothing for {_STALL_SECONDS:.0f} s")
        if failure:
            raise UserError(f"the download failed ({_in_short(failure[0])})")
        target = root / _FOLDERS[name] / "raw"
        target.mkdir(parents=True, exist_ok=True)
        for file_name in _IDX_FILES:
            os.replace(beside / _FOLDERS[name] / "raw" / file_name, target / file_name)
    finally:
        socket.setdefaulttimeout(before)
        shutil.rmtree(beside, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # it is not empty: the download came
                root.rmdir()


def _in_short(error: Exception) -> str:
    return textwrap.shorten(str(error), 160, placeholder=" …") or type(error).__name__
