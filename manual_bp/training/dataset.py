"""Images and labels: a part of a data set, and its three parts.

Images stay one uint8 tensor on the device and are indexed there; a step scales its own few rows to
[0, 1].
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

PIXEL_SCALE = 1 / 255
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Part:
    """Images as uint8 (m, pixels), 0 to 255, and labels as int64 (m,), numbers of `classes`."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = DIGITS

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
