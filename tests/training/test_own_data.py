"""Data of one's own: every source is read as it is, and what does not fit is named."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from manual_bp.training import data
from manual_bp.training.command import main
from manual_bp.training.dataset import Dataset
from manual_bp.training.errors import UserError
from manual_bp.use import export, predict

RANDOM = np.random.default_rng(0)


def noise(n: int, *shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RANDOM.integers(0, 256, (n, *shape), dtype=np.uint8)


def labels(n: int, classes: int = 3) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(n) % classes


def write_pictures(root: Path, sizes: dict[str, int], shape: tuple[int, int] = (6, 5)) -> None:
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for i, image in enumerate(noise(count, *shape)):
            Image.fromarray(image).save(root / name / f"{i:03}.png")


def write_idx(folder: Path, ending: str, *, train: int = 30, test: int = 12) -> None:
    folder.mkdir(parents=True)
    for part, count in (("train", train), ("t10k", test)):
        images = struct.pack(">4i", 2051, count, 4, 7) + noise(count, 28).tobytes()
        numbers = struct.pack(">2i", 2049, count) + labels(count).astype(np.uint8).tobytes()
        for kind, content in (("images-idx3", images), ("labels-idx1", numbers)):
            name = f"{part}-{kind}-ubyte"
            name = name.replace("-idx", ".idx") if "." in ending else name
            path = folder / (name + (".gz" if "gz" in ending else ""))
            path.write_bytes(gzip.compress(content) if "gz" in ending else content)


def sizes(dataset: Dataset) -> list[int]:
    return [len(part) for part in (dataset.train, dataset.validation, dataset.test)]


def test_an_npz_file_is_split_the_same_way_every_time(tmp_path: Path) -> None:
    images, numbers = noise(100, 5, 4), labels(100)
    np.savez(tmp_path / "mine.npz", images=images, labels=numbers)
    dataset = data.load(str(tmp_path / "mine.npz"))
    assert sizes(dataset) == [70, 15, 15]
    assert (dataset.shape, dataset.classes) == ((5, 4), ("0", "1", "2"))
    assert dataset.fingerprint == data.load(str(tmp_path / "mine.npz")).fingerprint
    assert dataset.source.endswith("mine.npz (validation split off, test split off)")
    parts = (dataset.train, dataset.validation, dataset.test)
    for part in parts:
        assert part.labels.bincount().max() - part.labels.bincount().min() <= 1
    found = torch.cat([torch.cat([p.images, p.labels[:, None].byte()], 1) for p in parts])
    given = np.concatenate([images.reshape(100, 20), numbers[:, None]], 1)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, given.tolist()))


def test_given_parts_are_left_as_they_are(tmp_path: Path) -> None:
    arrays = {"images": noise(40, 9), "labels": labels(40), "test_images": noise(7, 3, 3)}
    np.savez(tmp_path / "a.npz", **arrays, test_labels=labels(7), classes=["a", "b", "c"])
    dataset = data.load(str(tmp_path / "a.npz"))
    assert sizes(dataset) == [33, 7, 7]
    assert torch.equal(dataset.test.images, torch.from_numpy(arrays["test_images"]).flatten(1))
    assert dataset.classes == ("a", "b", "c")
    assert dataset.shape == (3, 3)  # 9 pixels are a square


def test_floats_and_colours_become_grey_bytes(tmp_path: Path) -> None:
    grey = RANDOM.random((20, 2, 3))
    np.savez(
        tmp_path / "f.npz", images=grey, labels=labels(20), test_images=grey, test_labels=labels(20)
    )
    expected = torch.from_numpy((grey * 255).round()).flatten(1).byte()
    assert torch.equal(data.load(str(tmp_path / "f.npz")).test.images, expected)
    colours = np.repeat(noise(20, 2, 3)[..., None], 3, axis=-1)
    np.savez(
        tmp_path / "c.npz",
        images=colours,
        labels=labels(20),
        test_images=colours,
        test_labels=labels(20),
    )
    found = data.load(str(tmp_path / "c.npz")).test.images
    assert torch.equal(found, torch.from_numpy(colours[..., 0].copy()).flatten(1))


@pytest.mark.parametrize("ending", ["", ".", "gz", ".gz"])
def test_idx_files_of_any_size_and_name(ending: str, tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", ending)
    dataset = data.load(str(tmp_path / "idx"))
    assert sizes(dataset) == [25, 5, 12]
    assert dataset.shape == (4, 7)
    assert dataset.test.labels.tolist() == labels(12).tolist()


def test_packed_mnist_is_read(made_up_mnist: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (made_up_mnist / "MNIST" / "raw").iterdir():
        (raw / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    dataset = data.load("mnist", str(tmp_path))
    assert dataset.fingerprint == data.load("mnist", str(made_up_mnist)).fingerprint


def test_a_folder_of_pictures_trains_and_is_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two classes that a pixel tells apart, in pictures that are not square."""
    for name, place in (("left", 0), ("right", 4)):
        (tmp_path / "arrows" / name).mkdir(parents=True)
        for i, image in enumerate(noise(40, 3, 5) // 4):
            image[:, place] = 255
            Image.fromarray(image).convert("RGB").save(tmp_path / "arrows" / name / f"{i}.png")
    runs = tmp_path / "runs"
    flags = ["--engine", "direct", "--hidden", "4", "--epochs", "60", "--logdir", str(runs)]
    result = main(["--dataset", str(tmp_path / "arrows"), *flags])
    assert result.test_accuracy == 1
    assert result.folder is not None
    assert result.folder.name.startswith("arrows-4-lr")
    picture = tmp_path / "new.png"
    Image.fromarray(np.array([[255, 0, 0, 0, 0]] * 3, dtype=np.uint8)).save(picture)
    capsys.readouterr()
    assert predict.main(["latest", str(picture), "--logdir", str(runs)]) == 0
    assert f"{picture}: left   (5 × 3)\n  left   " in capsys.readouterr().out
    assert export.main(["latest", "--format", "torch", "--logdir", str(runs)]) == 0
    said = capsys.readouterr().out
    assert "as in your pictures, row by row\noutput a (m, 2): left, right\n" in said
    moved = tmp_path / "moved" / "arrows"
    moved.parent.mkdir()
    (tmp_path / "arrows").rename(moved)
    resume = ["--resume", "latest", "--logdir", str(runs), "--epochs", "61"]
    with pytest.raises(SystemExit):
        main(resume)
    assert "there is no such file or folder" in capsys.readouterr().err
    assert len(main([*resume, "--data-dir", str(moved.parent)]).metrics) == 62


def test_folders_of_parts_are_parts(tmp_path: Path) -> None:
    for part, count in (("train", 12), ("val", 3), ("test", 2)):
        write_pictures(tmp_path / "set" / part, {"cat": count, "dog": count})
    dataset = data.load(str(tmp_path / "set"))
    assert sizes(dataset) == [24, 6, 4]
    assert dataset.classes == ("cat", "dog")


def npz(**arrays: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "a.npz", **arrays)
        return folder / "a.npz"

    return write


def pictures(sizes: dict[str, int], **more: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_pictures(folder / "set", sizes, **more)
        return folder / "set"

    return write


def two_sizes(folder: Path) -> Path:
    write_pictures(folder / "set", {"a": 6, "b": 6})
    Image.new("L", (9, 9)).save(folder / "set" / "b" / "odd.png")
    return folder / "set"


def no_picture(folder: Path) -> Path:
    write_pictures(folder / "set", {"a": 6, "b": 6})
    (folder / "set" / "b" / "broken.png").write_bytes(b"\x89PNG nothing")
    return folder / "set"


def strange_class(folder: Path) -> Path:
    write_pictures(folder / "set" / "train", {"a": 6, "b": 6})
    write_pictures(folder / "set" / "test", {"c": 6})
    return folder / "set"


def no_data(folder: Path) -> Path:
    (folder / "README.txt").write_text("no data")
    return folder / "README.txt"


def damaged(folder: Path) -> Path:
    path = npz(images=noise(20, 4), labels=labels(20))(folder)
    path.write_bytes(path.read_bytes()[:300])
    return path


def damaged_idx(folder: Path) -> Path:
    write_idx(folder / "idx", "gz")
    path = folder / "idx" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-30])
    return folder / "idx"


WRONG = {
    "no labels": (npz(images=noise(20, 4)), "labels: missing"),
    "no images": (npz(x=noise(20, 4)), "arrays images and labels are needed, it has x"),
    "counts": (npz(images=noise(20, 4), labels=labels(19)), "20 images, 19 labels"),
    "float labels": (npz(images=noise(20, 4), labels=labels(20) / 2), "labels: float64"),
    "negative": (npz(images=noise(20, 4), labels=labels(20) - 1), "labels from -1 to 1"),
    "many": (npz(images=noise(20, 4), labels=labels(20) * 10**6), "classes are numbered from 0"),
    "one class": (npz(images=noise(20, 4), labels=labels(20, 1)), "one class alone"),
    "few": (npz(images=noise(5, 4), labels=labels(5)), "5 images: at least 10 are needed"),
    "shape": (npz(images=noise(20, 4, 4, 2), labels=labels(20)), r"images \(20, 4, 4, 2\)"),
    "range": (npz(images=noise(20, 4) * 1.0, labels=labels(20)), "numbers from 0 to 1"),
    "nan": (npz(images=np.full((20, 4), np.nan), labels=labels(20)), "numbers from 0 to 1"),
    "dtype": (npz(images=labels(80).reshape(20, 4), labels=labels(20)), "images of int64"),
    "objects": (npz(images=np.array([{}] * 20), labels=labels(20)), "damaged, or not a .npz"),
    "names": (npz(images=noise(20, 4), labels=labels(20), classes=["a"]), "names for 1 classes"),
    "sizes": (two_sizes, "odd.png: 9 × 9 pixels, the pictures before have 5 × 6"),
    "no picture": (no_picture, "broken.png: not a picture"),
    "class": (strange_class, "test/c: a class that train does not have"),
    "empty": (pictures({"a": 0, "b": 0}), "no pictures: a folder for each class"),
    "one folder": (pictures({"a": 20}), "one class alone"),
    "text": (no_data, "not data that can be read: a .npz file"),
    "cut": (damaged, "a.npz: (damaged|cannot be read)"),
    "gzip": (damaged_idx, "train-images-idx3-ubyte.gz: a damaged gzip file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case: str, tmp_path: Path) -> None:
    write, expected = WRONG[case]
    path = write(tmp_path)
    with pytest.raises(UserError, match=expected) as error:
        data.load(str(path))
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["minst", "nowhere/data", "a\x1b[2Jb"])
def test_a_name_that_is_no_data_set_is_wrong_usage(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not one of auto, mnist, fashion-mnist, digits"):
        data.load(name)
    with pytest.raises(SystemExit) as ended:
        main(["--dataset", name, "--logdir", "runs"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_augment_needs_square_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pictures(tmp_path / "set", {"a": 10, "b": 10})
    with pytest.raises(SystemExit):
        main(["--dataset", str(tmp_path / "set"), "--augment", "--logdir", str(tmp_path / "runs")])
    assert "square images, and these are 6 × 5: leave it out" in capsys.readouterr().err
