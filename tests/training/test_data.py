"""Loading the data sets: the split, what is found, what is missing or damaged, and the download
that never comes.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from manual_bp.training import data
from manual_bp.training.errors import UserError
from tests.training import idx


def test_mnist_is_split_50_10_10_and_stays_uint8(made_up_mnist: Path) -> None:
    dataset = data.load("mnist", str(made_up_mnist))
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [
        50_000,
        10_000,
        10_000,
    ]
    raw = np.fromfile(
        made_up_mnist / "MNIST/raw/train-images-idx3-ubyte", dtype=np.uint8, offset=16
    )
    images = torch.from_numpy(raw.reshape(60_000, 784))
    assert dataset.train.images.dtype == torch.uint8
    assert torch.equal(torch.cat([dataset.train.images, dataset.validation.images]), images)
    labels = np.fromfile(
        made_up_mnist / "MNIST/raw/t10k-labels-idx1-ubyte", dtype=np.uint8, offset=8
    )
    assert dataset.test.labels.tolist() == labels.tolist()


@pytest.mark.skipif(
    "MANUAL_BP_DATA" not in os.environ, reason="needs real MNIST in $MANUAL_BP_DATA"
)
def test_real_mnist() -> None:
    dataset = data.load("mnist")
    # the counts of each digit, as published with the data set
    assert torch.bincount(dataset.test.labels).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    share = (dataset.train.images > 0).float().mean().item()
    assert 0.19 < share < 0.20  # of the pixels are not 0


def test_the_environment_variable_names_the_folder(
    made_up_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANUAL_BP_DATA", str(made_up_mnist))
    assert data.load("auto").name == "mnist"
    monkeypatch.setenv("MANUAL_BP_DATA", "nowhere")
    assert data.load("auto", str(made_up_mnist)).name == "mnist"


def test_digits_are_the_bundled_ones_and_disjoint() -> None:
    dataset = data.load("digits")
    assert [len(part) for part in (dataset.train, dataset.validation, dataset.test)] == [
        1197,
        300,
        300,
    ]
    assert dataset.train.images.max() == 255
    assert dataset.shape == (8, 8)
    assert dataset.fingerprint == data.load("digits").fingerprint


def test_fingerprint_sees_one_changed_label() -> None:
    dataset, other = data.load("digits"), data.load("digits")
    other.test.labels[5] = (other.test.labels[5] + 1) % 10
    assert dataset.fingerprint != other.fingerprint


@pytest.fixture
def copied(made_up_mnist: Path, tmp_path: Path) -> Path:
    for name in idx.FILES:
        target = tmp_path / "MNIST" / "raw" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(made_up_mnist / "MNIST" / "raw" / name, target)
    return tmp_path


def replace(path: Path, content: bytes) -> None:
    path.unlink()  # it is a link to the file that all tests share
    path.write_bytes(content)


@pytest.mark.parametrize("name", idx.FILES)
@pytest.mark.parametrize(
    "damage", ["empty", "header only", "truncated", "longer", "other magic", "other count"]
)
def test_damaged_files_are_named(copied: Path, name: str, damage: str) -> None:
    path = copied / "MNIST" / "raw" / name
    content = path.read_bytes()
    replace(
        path,
        {
            "empty": b"",
            "header only": content[:16],
            "truncated": content[:-1],
            "longer": content + b"\0",
            "other magic": b"\0\0\x08\x07" + content[4:],
            "other count": content[:4] + b"\0\0\0\x05" + content[8:],
        }[damage],
    )
    with pytest.raises(UserError, match=f"{name}: .*(expected|not an idx file)") as error:
        data.load("mnist", str(copied))
    assert "\n" not in str(error.value)


def test_a_label_above_nine_is_refused(copied: Path) -> None:
    path = copied / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[100] = 77
    replace(path, bytes(content))
    with pytest.raises(UserError, match="holds the label 77: 0 to 9 expected"):
        data.load("mnist", str(copied))


class NoServer:
    def __init__(self, root: str, download: bool) -> None:
        raise RuntimeError("Error downloading it:\nTried everything")


class Stalled:
    given_up = threading.Event()

    def __init__(self, root: str, download: bool) -> None:
        assert self.given_up.wait(600)


class Brings:
    """A download that succeeds: it copies the files that `source` holds."""

    source: Path

    def __init__(self, root: str, download: bool) -> None:
        shutil.copytree(self.source / "MNIST", Path(root) / "MNIST")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_torchvision_class", lambda _: NoServer)


@pytest.mark.usefixtures("offline")
def test_auto_without_mnist_falls_back_with_a_notice(tmp_path: Path) -> None:
    dataset = data.load("auto", str(tmp_path / "none"))
    assert dataset.name == "digits"
    assert dataset.notice is not None
    for words in (
        str(tmp_path / "none/MNIST/raw"),
        "Tried everything",
        "handwritten digits instead",
        "--data-dir",
    ):
        assert words in dataset.notice
    assert "\n" not in dataset.notice
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_named_data_set_never_falls_back(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        UserError, match=r"train-images-idx3-ubyte.*t10k-labels-idx1-ubyte.*--data-dir"
    ) as error:
        data.load(name, str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("offline")
def test_one_missing_file_is_named_alone(copied: Path) -> None:
    (copied / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="has no t10k-labels-idx1-ubyte, and the download failed"):
        data.load("mnist", str(copied))
    assert sorted(path.name for path in (copied / "MNIST/raw").iterdir()) == sorted(
        set(idx.FILES) - {"t10k-labels-idx1-ubyte"}
    )


def test_a_download_that_stalls_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "_torchvision_class", lambda _: Stalled)
    monkeypatch.setattr(data, "_STALL_SECONDS", 0.5)
    try:
        with pytest.raises(UserError, match="brought nothing"):
            data.load("mnist", str(tmp_path))
    finally:
        Stalled.given_up.set()


def test_a_download_that_comes_is_moved_into_place(
    tmp_path: Path, made_up_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Brings.source = made_up_mnist
    real = data._torchvision_class
    calls = iter([Brings])
    monkeypatch.setattr(data, "_torchvision_class", lambda name: next(calls, None) or real(name))
    assert (
        data.load("mnist", str(tmp_path / "new")).fingerprint
        == data.load("mnist", str(made_up_mnist)).fingerprint
    )
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["MNIST"]


def test_a_torchvision_that_does_not_fit_torch_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def broken(name: str, *args: object) -> object:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(
        UserError, match=r"torchvision \d.* beside torch \d.*nms does not exist.*pip install"
    ):
        data._torchvision_class("mnist")
