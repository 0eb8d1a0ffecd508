"""Data of one's own: a .npz file, a folder of pictures by class, or a folder of idx files.

Whatever the source, images become grey bytes, and what is not given as validation or test part is
split off: 70 / 15 / 15 of a hundred, by class, the same for every run.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manual_bp.training import idx
from manual_bp.training.dataset import Dataset, Part
from manual_bp.training.errors import UserError

_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
# Folders of a data set's parts, and the beginnings of their names in a .npz file.
_PARTS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
_MOST_CLASSES = 10_000
_FEWEST = 10  # images, or no part of them says anything

Array = NDArray[np.generic]
Pairs = dict[str, tuple[Tensor, Tensor]]  # images (N, height, width) and labels, by part


def load(path: Path) -> Dataset:
    """Load the data at `path`.

    Raises:
        UserError: a file, a shape or a label that does not fit, by its name.
    """
    if path.suffix == ".npz" and path.is_file():
        pairs, classes = _npz(path)
    elif not path.is_dir():
        raise UserError(
            f"{path}: not data that can be read: a .npz file with images and labels, a folder with "
            f"a folder of pictures for each class, or a folder of idx files is needed"
        )
    elif not idx.missing(path):
        pairs, classes = _idx(path), None
    else:
        pairs, classes = _folders(path)
    return _dataset(path, pairs, classes)


def _dataset(path: Path, pairs: Pairs, classes: tuple[str, ...] | None) -> Dataset:
    """Check that the parts fit each other, and split off what is missing."""
    _, *sides = pairs["train"][0].shape
    shape = (sides[0], sides[1])
    highest = -1
    for name, (images, labels) in pairs.items():
        if len(images) != len(labels):
            raise UserError(f"{path}: {name}: {len(images)} images, {len(labels)} labels")
        if tuple(images.shape[1:]) != shape:
            seen = " × ".join(map(str, images.shape[1:]))
            raise UserError(
                f"{path}: {name}: images of {seen}, and {' × '.join(map(str, shape))} in train"
            )
        if not len(images):
            raise UserError(f"{path}: {name}: no images")
        least, highest = int(labels.min()), max(highest, int(labels.max()))
        if least < 0 or highest >= _MOST_CLASSES:
            raise UserError(
                f"{path}: {name}: labels from {least} to {highest}: classes are numbered from 0"
            )
    names = classes or tuple(str(number) for number in range(highest + 1))
    if highest >= len(names):
        raise UserError(f"{path}: the label {highest}, and names for {len(names)} classes")
    if len(names) < 2:
        raise UserError(f"{path}: one class alone: there is nothing to tell apart")
    said = dict.fromkeys(pairs, "given")
    for name in ("test", "validation"):
        if name not in pairs:
            pairs["train"], pairs[name] = _split(path, *pairs["train"], len(pairs))
            said[name] = "split off"
    train, validation, test = (
        Part(pairs[name][0].flatten(1).contiguous(), pairs[name][1], names) for name in _PARTS
    )
    how = ", ".join(f"{name} {said[name]}" for name in ("validation", "test"))
    return Dataset(str(path), train, validation, test, shape, f"{path} ({how})")


def _split(
    path: Path, images: Tensor, labels: Tensor, parts: int
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Split a part off: 15 of a hundred of all, and of each class, whether first or second."""
    if len(images) < _FEWEST:
        raise UserError(f"{path}: {len(images)} images: at least {_FEWEST} are needed")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    by_class = order[labels[order].argsort(stable=True)]
    share = 0.15 if parts == 1 else 0.15 / 0.85
    place = (torch.arange(len(order) + 1) * share + 0.5).floor()  # how many of the first k
    taken = torch.zeros(len(order), dtype=torch.bool)
    taken[by_class[place[1:] > place[:-1]]] = True
    off, left = order[taken[order]], order[~taken[order]]
    return (images[left], labels[left]), (images[off], labels[off])


def _idx(path: Path) -> Pairs:
    files = {name: idx.read(place) for name, place in idx.find(path).items() if place is not None}
    images, labels, test_images, test_labels = (files[name] for name in idx.NAMES)
    return {"train": (images, labels), "test": (test_images, test_labels)}


def _npz(path: Path) -> tuple[Pairs, tuple[str, ...] | None]:
    try:
        # Opened here, because of a damaged file numpy leaves its own handle open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or 'damaged'})") from error
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UserError(f"{path}: damaged, or not a .npz file of plain arrays") from error
    pairs: Pairs = {}
    for part, beginnings in _PARTS.items():
        starts = [f"{start}_" for start in beginnings] + [""] * (part == "train")
        start = next((s for s in starts if f"{s}images" in arrays), None)
        if start is not None:
            pairs[part] = (_images(path, arrays, start), _labels(path, arrays, start))
    if "train" not in pairs:
        seen = ", ".join(sorted(arrays)) or "nothing"
        raise UserError(f"{path}: arrays images and labels are needed, it has {seen}")
    classes = arrays.get("classes")
    return pairs, None if classes is None else tuple(str(name) for name in classes.flatten())


def _images(path: Path, arrays: Mapping[str, Array], start: str) -> Tensor:
    """Bytes (N, height, width) of uint8, or of floats from 0 to 1; colours become grey."""
    name, images = f"{start}images", arrays[f"{start}images"]
    if images.ndim == 4 and images.shape[-1] in (1, 3):
        images = images @ np.array([1.0] if images.shape[-1] == 1 else [0.299, 0.587, 0.114])
        images = images if arrays[name].dtype.kind == "f" else images.round().astype(np.uint8)
    if images.ndim == 2:
        side = int(np.sqrt(images.shape[1]))
        images = images.reshape(
            len(images), *((side, side) if side**2 == images.shape[1] else (1, -1))
        )
    if images.ndim != 3 or 0 in images.shape:
        raise UserError(
            f"{path}: {name} {arrays[name].shape}: (N, height, width), (N, height, width, 3) or "
            f"(N, pixels) is needed"
        )
    if images.dtype.kind == "f":
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise UserError(f"{path}: {name}: numbers from 0 to 1 are needed, or bytes")
        images = (images * 255).round().astype(np.uint8)
    if images.dtype != np.uint8:
        raise UserError(
            f"{path}: {name} of {images.dtype}: uint8, or numbers from 0 to 1 are needed"
        )
    return torch.from_numpy(np.ascontiguousarray(images))


def _labels(path: Path, arrays: Mapping[str, Array], start: str) -> Tensor:
    name, labels = f"{start}labels", arrays.get(f"{start}labels")
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        seen = "missing" if labels is None else f"{labels.dtype} {labels.shape}"
        raise UserError(f"{path}: {name}: {seen}: whole numbers (N,) are needed")
    return torch.from_numpy(labels.astype(np.int64))


def _folders(path: Path) -> tuple[Pairs, tuple[str, ...]]:
    """`path/CLASS/*.png`, or `path/train/CLASS/*.png` beside `validation` and `test`."""
    roots = {"train": path}
    if (path / "train").is_dir():
        roots = {
            part: path / name
            for part, names in _PARTS.items()
            for name in names
            if (path / name).is_dir()
        }
    classes = tuple(sorted(_inside(roots["train"])))
    shape: tuple[int, int] | None = None
    pairs: Pairs = {}
    for part, root in roots.items():
        odd = sorted(set(_inside(root)) - set(classes))
        if odd:
            raise UserError(f"{root / odd[0]}: a class that train does not have")
        images, labels = [], []
        for number, name in enumerate(classes):
            for file in sorted((root / name).rglob("*")):
                if file.suffix.lower() in _PICTURES and not file.name.startswith("."):
                    image = _grey(file)
                    shape = shape or image.shape
                    if image.shape != shape:
                        raise UserError(
                            f"{file}: {image.shape[1]} × {image.shape[0]} pixels, the pictures "
                            f"before have {shape[1]} × {shape[0]}: all must have one size; PIL's "
                            f"Image.open(file).resize((28, 28)) makes pictures of one size"
                        )
                    images.append(image)
                    labels.append(number)
        if not images:
            kinds = ", ".join(sorted(_PICTURES))
            raise UserError(
                f"{root}: no pictures: a folder for each class is needed, with {kinds} files"
            )
        pairs[part] = (torch.from_numpy(np.stack(images)), torch.tensor(labels))
    return pairs, classes


def _inside(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]


def _grey(file: Path) -> NDArray[np.uint8]:
    from PIL import Image

    if not file.is_file():  # a pipe would wait for whoever writes into it
        raise UserError(f"{file}: no file, but a folder, a pipe or a device")
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{file}: not a picture that can be read: {type(error).__name__}"
        ) from error
