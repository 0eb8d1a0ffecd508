"""The data sets: MNIST and Fashion-MNIST, which torchvision fetches, and scikit-learn's digits."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import textwrap
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manual_bp.extras import missing
from manual_bp.training import idx, own_data
from manual_bp.training.dataset import DIGITS, Dataset, Part
from manual_bp.training.errors import UserError
from manual_bp.training.options import DATASETS

_CLOTHES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_STALL_SECONDS = 20.0  # a download that brings nothing for so long is given up


def data_folder(data_dir: str | None) -> Path:
    """--data-dir, else $MANUAL_BP_DATA, else data/."""
    return Path(data_dir or os.environ.get("MANUAL_BP_DATA") or "data")


def load_again(run: Path, name: str, kept: str | None, given: str | None) -> Dataset:
    """The data of a run: from the folder `given` now, or else from the one that its file names.

    The file is input from outside: nothing is downloaded into a folder that it alone names.

    Raises:
        UserError: they are not there.
    """
    try:
        return load(name, given or kept, download=given is not None or kept is None)
    except UserError as error:
        raise UserError(f"{run}: its data: {error}") from error


def load(name: str, data_dir: str | None = None, *, download: bool = True) -> Dataset:
    """Load a data set by the name that --dataset takes.

    Raises:
        UserError: the files are missing and cannot be downloaded, or they are damaged.
    """
    root = data_folder(data_dir)
    if name == "digits":
        return _digits("as asked")
    if name in _FOLDERS:
        return _mnist(name, root, download)
    if name != "auto":
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
    return _mnist("mnist", root, download)


def _place(path: Path, data_dir: str | None) -> Path:
    """Where data of one's own are: at their path, or in --data-dir, if they were moved there.

    Raises:
        UserError: nowhere.
    """
    places = [path] if data_dir is None else [Path(data_dir) / path.name, path, Path(data_dir)]
    for place in places:
        if place.exists():
            return place.resolve()
    raise UserError(
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


def _mnist(name: str, root: Path, download: bool) -> Dataset:
    """50,000 / 10,000 / 10,000: the last 10,000 training images are the validation part."""
    raw = root / _FOLDERS[name] / "raw"
    if lacking := idx.missing(raw):
        try:
            if not download:
                raise UserError("nothing is downloaded for a file")
            _download(name, root)
        except UserError as error:
            raise UserError(
                f"{name}: {raw} has no {', '.join(lacking)}, and {error}: put the idx files there, "
                f"name another folder with --data-dir, or use --dataset digits"
            ) from error
    found = [path for path in idx.find(raw).values() if path is not None]
    images, labels, test_images, test_labels = map(_read, found)
    classes = DIGITS if name == "mnist" else _CLOTHES
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
    if int(values.max()) >= len(DIGITS):
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
