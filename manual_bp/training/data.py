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
from manual_bp.training import idx
from manual_bp.training.errors import UsageError, UserError
from manual_bp.training.options import DATASETS

PIXEL_SCALE = 1 / 255
_TEN = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_STALL_SECONDS = 20.0  # a download that brings nothing for so long is given up


@dataclass(frozen=True)
class Part:
    """Images as uint8 (m, pixels), 0 to 255, and labels as int64 (m,), numbers of `classes`."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = _TEN

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor | slice) -> Part:
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def to(self, device: torch.device) -> Part:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    @property
    def n_out(self) -> int:
        return len(self.classes)

    def targets(self, dtype: torch.dtype) -> Tensor:
        """One-hot rows y (m, n_out)."""
        return torch.eye(self.n_out, dtype=dtype, device=self.labels.device)[self.labels]

    def batch(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """As inputs x (m, pixels), 0 to 1, and one-hot targets y (m, n_out)."""
        return self.images.to(dtype) * PIXEL_SCALE, self.targets(dtype)


@dataclass(frozen=True)
class Dataset:
    """Three disjoint parts: validation is for choices, and test is reported once, at the end."""

    name: str
    train: Part
    validation: Part
    test: Part
    shape: tuple[int, int]  # an image's height and width
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

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

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
    if name in _FOLDERS:
        return _mnist(name, root)
    if name != "auto":
        from manual_bp.training import own_data

        return own_data.load(_place(Path(name), data_dir))
    if idx.missing(root / _FOLDERS["mnist"] / "raw"):
        try:
            _download("mnist", root)
        except UserError as error:
            return _digits(
                "in MNIST's place",
                f"MNIST is not in {root / 'MNIST' / 'raw'} and {error}: training on scikit-learn's "
                f"small handwritten digits instead. To get MNIST, put its four idx files there, "
                f"or name the folder that holds MNIST/raw with --data-dir.",
            )
    return _mnist("mnist", root)


def _place(path: Path, data_dir: str | None) -> Path:
    """Where data of one's own are: at their path, or in --data-dir, if they were moved there.

    Raises:
        UsageError: nowhere.
    """
    places = [path] if data_dir is None else [Path(data_dir) / path.name, Path(data_dir), path]
    for place in places:
        if place.is_dir() or (place.suffix == ".npz" and place.is_file()):
            return place.resolve()
    raise UsageError(
        f"--dataset {path}: not one of {', '.join(DATASETS)}, and there is no such file or folder"
    )


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
        "digits",
        train,
        validation,
        test,
        (8, 8),
        f"scikit-learn's handwritten digits, {why}",
        notice,
    )


def _mnist(name: str, root: Path) -> Dataset:
    """50,000 / 10,000 / 10,000: the last 10,000 training images are the validation part."""
    raw = root / _FOLDERS[name] / "raw"
    if lacking := idx.missing(raw):
        try:
            _download(name, root)
        except UserError as error:
            raise UserError(
                f"{name}: {raw} has no {', '.join(lacking)}, and {error}: put the idx files there, "
                f"name another folder with --data-dir, or use --dataset digits"
            ) from error
    found = [path for path in idx.find(raw).values() if path is not None]
    images, labels, test_images, test_labels = map(_read, found)
    classes = _TEN if name == "mnist" else _CLOTHES
    return Dataset(
        name,
        train=Part(images[:50_000], labels[:50_000], classes),
        validation=Part(images[50_000:], labels[50_000:], classes),
        test=Part(test_images, test_labels, classes),
        shape=(28, 28),
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


def _read(path: Path) -> Tensor:
    """Images (count, 784) or labels (count,) of a file that fits MNIST."""
    values = idx.read(path)
    count = 60_000 if path.name.startswith("train") else 10_000
    expected = (count, 28, 28) if values.dim() == 3 else (count,)
    if tuple(values.shape) != expected:
        seen = " × ".join(map(str, values.shape))
        raise UserError(
            f"{path}: holds {seen}, {' × '.join(map(str, expected))} expected: not MNIST's; for "
            f"data of your own name their folder with --dataset"
        )
    if values.dim() == 3:
        return values.view(count, 784)
    if int(values.max()) >= len(_TEN):
        raise UserError(f"{path}: holds the label {int(values.max())}: 0 to 9 expected")
    return values


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
        for file_name in idx.NAMES:
            os.replace(beside / _FOLDERS[name] / "raw" / file_name, target / file_name)
    finally:
        socket.setdefaulttimeout(before)
        shutil.rmtree(beside, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # it is not empty: the download came
                root.rmdir()


def _in_short(error: Exception) -> str:
    return textwrap.shorten(str(error), 160, placeholder=" …") or type(error).__name__
