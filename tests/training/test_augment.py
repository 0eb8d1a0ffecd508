"""Augmentation: repeatable, moderate, and elastic as Simard's smoothed noise is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from torch import Tensor

from manual_bp.training import augment as module
from manual_bp.training.augment import Distortion, augment

NONE = Distortion(rotation=0, scale=0, shear=0, shift=0, alpha=0)
ELASTIC = Distortion(rotation=0, scale=0, shear=0, shift=0, alpha=34, sigma=4)  # the paper's
STEP = 9  # brightness a pixel on a ramp


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, side: int) -> Tensor:
    return torch.randint(0, 256, (n, side * side), dtype=torch.uint8, generator=generator(99))


def displacement(n: int, distortion: Distortion, *, axis: int = 1, seed: int = 0) -> Tensor:
    """q − p in pixels along an axis (1: x), (n, 28, 28): bilinear samples of a ramp of 9 a pixel
    are 9 q.

    Exact to 1/18 pixel, and only where q lies inside the image.
    """
    position = (
        torch.arange(28).expand(28, 28) if axis == 1 else torch.arange(28)[:, None].expand(28, 28)
    )
    ramp = (STEP * position).to(torch.uint8).reshape(1, -1).expand(n, -1)
    return augment(ramp, 28, generator(seed), distortion).view(n, 28, 28) / STEP - position


@pytest.mark.parametrize("side", [28, 8])
def test_keeps_shape_type_and_its_input(side: int) -> None:
    images = noise(37, side)
    before = images.clone()
    distorted = augment(images, side, generator())
    assert distorted.shape == images.shape
    assert distorted.dtype == torch.uint8
    assert torch.equal(images, before)
    assert (distorted != images).float().mean() > 0.5


@pytest.mark.parametrize("side", [28, 8])
def test_no_strength_is_the_identity(side: int) -> None:
    images = noise(600, side)
    assert torch.equal(augment(images, side, generator(), NONE), images)


def test_a_seed_decides_and_every_image_and_call_differs() -> None:
    images = noise(1, 28).expand(40, -1)
    first = augment(images, 28, generator(1))
    assert torch.equal(first, augment(images, 28, generator(1)))
    assert not torch.equal(first, augment(images, 28, generator(2)))
    assert len(first.unique(dim=0)) == 40
    running = generator(1)
    assert torch.equal(first, augment(images, 28, running))
    assert not torch.equal(first, augment(images, 28, running))


def test_rows_stay_with_their_labels() -> None:
    images = torch.zeros(1203, 784, dtype=torch.uint8)
    marked = torch.tensor([0, 499, 500, 777, 1202])
    images[marked] = 200
    assert torch.equal(augment(images, 28, generator()).any(1).nonzero()[:, 0], marked)


def test_the_size_of_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(100, 28)
    whole = augment(images, 28, generator()).int()
    monkeypatch.setattr(module, "_CHUNK", 7)
    # another shape of the product rounds in another order, which may tip a brightness over .5
    assert (augment(images, 28, generator()).int() - whole).abs().max() <= 1


def test_no_images() -> None:
    assert augment(noise(0, 28), 28, generator()).shape == (0, 784)


@pytest.mark.parametrize("axis", [0, 1])
def test_elastic_displacement_is_simards(axis: int) -> None:
    """Against the paper's own construction: uniform noise, smoothed by a Gaussian, times α."""
    u = displacement(4000, ELASTIC, axis=axis)[:, 8:20, 8:20]
    rng = np.random.default_rng(0)
    smoothed = gaussian_filter(
        rng.uniform(-1, 1, (400, 60, 60)), sigma=(0, 4, 4), mode="wrap", truncate=6
    )
    reference = 34 * torch.from_numpy(smoothed)
    assert u.std().item() == pytest.approx(34 / (2 * 4 * math.sqrt(3 * math.pi)), rel=0.02)
    assert u.std().item() == pytest.approx(reference.std().item(), rel=0.03)
    assert abs(u.mean().item()) < 0.05
    for dx, dy in [(1, 0), (4, 0), (0, 4), (8, 0), (5, 6)]:
        ours = (u[:, : 12 - dy, : 12 - dx] * u[:, dy:, dx:]).mean() / u.square().mean()
        theirs = (
            reference[:, : 60 - dy, : 60 - dx] * reference[:, dy:, dx:]
        ).mean() / reference.square().mean()
        assert ours.item() == pytest.approx(theirs.item(), abs=0.03)
        assert ours.item() == pytest.approx(math.exp(-(dx**2 + dy**2) / 64), abs=0.03)


def test_the_elastic_fields_of_both_axes_are_independent() -> None:
    distorted = [displacement(4000, ELASTIC, axis=axis)[:, 14, 14] for axis in (0, 1)]
    assert abs(torch.corrcoef(torch.stack(distorted))[0, 1]) < 0.05


def uniform_on(values: Tensor, bound: float) -> None:
    """Inside ±bound, up to a ramp's resolution, and spread over it."""
    assert values.abs().max() <= bound + 0.06
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert abs(values.mean().item()) < 0.06 * bound


@pytest.mark.parametrize("axis", [0, 1])
def test_shift(axis: int) -> None:
    u = displacement(3000, Distortion(rotation=0, scale=0, shear=0, shift=3, alpha=0), axis=axis)[
        :, 4:24, 4:24
    ]
    assert (u.amax((1, 2)) - u.amin((1, 2))).max() < 0.2  # the same everywhere
    uniform_on(u[:, 10, 10], 3)


def test_rotation() -> None:
    """q_x − p_x = −sin θ · (y − c) on the vertical through the centre, and q_y − p_y = sin θ · (x −
    c) across it.
    """
    only = Distortion(rotation=15, scale=0, shear=0, shift=0, alpha=0)
    below = displacement(3000, only)[:, 23, 13:15].mean(1)
    right = displacement(3000, only, axis=0)[:, 13:15, 23].mean(1)
    uniform_on(below, 9.5 * math.sin(math.radians(15)))
    assert torch.allclose(below, -right, atol=0.12)


def test_scale() -> None:
    """q − p = (s − 1)(p − c), along each axis by itself."""
    only = Distortion(rotation=0, scale=0.2, shear=0, shift=0, alpha=0)
    x = displacement(3000, only)[:, 14, 21] / 7.5
    y = displacement(3000, only, axis=0)[:, 21, 14] / 7.5
    for s in (1 + x, 1 + y):
        assert s.max() == pytest.approx(math.exp(0.2), abs=0.02)
        assert s.min() == pytest.approx(math.exp(-0.2), abs=0.02)
    assert abs(torch.corrcoef(torch.stack([x, y]))[0, 1]) < 0.06


def test_shear() -> None:
    only = Distortion(rotation=0, scale=0, shear=0.3, shift=0, alpha=0)
    uniform_on(displacement(3000, only)[:, 23, 14], 9.5 * 0.3)
    assert displacement(300, only, axis=0)[:, 4:24, 4:24].abs().max() < 0.06


def test_rotation_and_shear_keep_the_area() -> None:
    """det M = s_x s_y, which is 1 here, whatever θ and h."""
    only = Distortion(rotation=30, scale=0, shear=0.5, shift=0, alpha=0)
    x, y = displacement(500, only), displacement(500, only, axis=0)
    gradient = [
        ((q[:, 14, 18] - q[:, 14, 10]) / 8, (q[:, 18, 14] - q[:, 10, 14]) / 8) for q in (x, y)
    ]
    (xx, xy), (yx, yy) = gradient  # M − 1
    assert torch.allclose((1 + xx) * (1 + yy) - xy * yx, torch.ones(500), atol=0.05)


def digits(side: int) -> Tensor:
    """scikit-learn's handwritten digits: as they are, or in the middle of 28 × 28 pixels, as
    MNIST's are.
    """
    images = torch.from_numpy(load_digits().images).float() * (255 / 16)
    if side == 28:
        images = torch.nn.functional.interpolate(images[:, None], size=(20, 20), mode="bilinear")[
            :, 0
        ]
        images = torch.nn.functional.pad(images, (4, 4, 4, 4))
    return images.flatten(1).round().to(torch.uint8)


@pytest.mark.parametrize(
    ("side", "ink"),
    [
        (28, 0.02),
        (8, 0.08),  # the strokes touch the edges, and what is moved beyond them is lost
    ],
)
def test_digits_keep_their_ink_and_stay_themselves(side: int, ink: float) -> None:
    images = digits(side)
    distorted = augment(images, side, generator())
    assert distorted.double().mean().item() == pytest.approx(images.double().mean().item(), rel=ink)
    x, y = (torch.nn.functional.normalize(a.float(), dim=1) for a in (images, distorted))
    similarity = y @ x.T  # of every copy with every original
    assert 0.6 < similarity.diagonal().mean() < 0.97
    further = (
        similarity < similarity.diagonal()[:, None]
    ).double()  # originals further from a copy than its own
    assert further.mean() > 0.9  # a half by chance


def test_distortion_scales_with_the_side() -> None:
    """An 8 × 8 image is shifted by 8/28 of the pixels that a 28 × 28 image is."""
    ramp = (30 * torch.arange(8)).to(torch.uint8).repeat(8)[None].expand(3000, -1)
    only = Distortion(rotation=0, scale=0, shear=0, shift=3, alpha=0)
    u = augment(ramp, 8, generator(), only).view(-1, 8, 8)[:, 3, 3] / 30 - 3
    uniform_on(u, 3 * 8 / 28)


@pytest.mark.parametrize(
    ("images", "side", "seen"),
    [
        (torch.zeros(3, 784), 28, r"\(3, 784\) of torch.float32"),
        (torch.zeros(3, 784, dtype=torch.uint8), 8, r"\(3, 784\) of torch.uint8: uint8 \(N, 64\)"),
        (torch.zeros(784, dtype=torch.uint8), 28, r"\(784,\) of torch.uint8"),
        (torch.zeros(3, 28, 28, dtype=torch.uint8), 28, r"\(3, 28, 28\) of torch.uint8"),
    ],
)
def test_says_what_is_wrong_with_the_images(images: Tensor, side: int, seen: str) -> None:
    with pytest.raises(ValueError, match=seen):
        augment(images, side, generator())
