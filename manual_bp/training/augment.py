"""Distorted copies of the training images: one matrix product for all displacement fields, then
bilinear sampling.

Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks Applied to Visual
Document Analysis" (ICDAR 2003): every image is an elastic sheet; a pixel at p takes the brightness
that the image has at

    q(p) = M (p − c) + c + t + u(p)

with c the centre, M a small rotation, shear and scaling, t a small shift, and u = α G_σ ∗ n the
elastic part: noise n, uniform on [−1, 1] at each pixel, smoothed by a Gaussian G_σ, times α.

u is drawn here without smoothing anything. Along one axis, smoothed noise at distance d has the
covariance

    k(d) = (G_σ ⋆ G_σ)(d) = exp(−d²/4σ²) / (2σ√π),  and in two dimensions
    Cov u(p), u(p + d) = (α²/3) k(d_x) k(d_y).

With k = V Λ Vᵀ  u = (α/√3) Σ_ij ξ_ij √(λ_i λ_j) V_i ⊗ V_j  of standard normal ξ has that covariance
(Karhunen–Loève), and the smooth k needs few terms. The normal distribution instead of smoothed
uniform noise is no change one could see: a displacement averages over 4πσ², some two hundred, noise
values. So all of q is a matrix product: coefficients (N·2, 3 + terms) times the fixed fields 1, x,
y, V_i ⊗ V_j (3 + terms, pixels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manual_bp.devices import to_device

_SIDE = 28.0  # lengths are given in pixels of an image of this side, and scale with the image
_KEPT = 0.999  # share of the elastic field's variance that its terms must hold
_CHUNK = 500  # images at a time: their fields and samples stay in the processor's cache
_CUDA_CHUNK = 10_000  # few launches on a GPU


@dataclass(frozen=True)
class Distortion:
    """How strongly to distort. All zero leaves the images as they are.

    Lengths are in pixels of a 28 × 28 image: an 8 × 8 image is distorted by 8/28 of them.

    The defaults are milder than the paper's α = 34: chosen on MNIST's validation images for runs of
    tens of epochs.
    """

    rotation: float = 7.0  # degrees, uniform on ±
    scale: float = 0.08  # logarithm of the factor of each axis, uniform on ±
    shear: float = 0.08  # horizontal pixels per vertical pixel, uniform on ±
    shift: float = 0.5  # of each axis, uniform on ±
    alpha: float = 22.0  # Simard's α (his: 34): u's standard deviation is α / (2σ√(3π)), 0.9 pixels
    sigma: float = 4.0  # Simard's σ


def augment(
    images: Tensor, side: int, generator: torch.Generator, distortion: Distortion | None = None
) -> Tensor:
    """Distort every image in its own way.

    Args:
        images: uint8 (N, side · side), row by row. Not changed.
        side: width and height of an image.
        generator: decides the distortions, which differ between its devices. It may be on the CPU
            while the images are elsewhere.
        distortion: how strongly; the default is the one of the recipe in this room's README.

    Returns:
        uint8 (N, side · side), on the images' device. What lies outside an image is 0.

    Raises:
        ValueError: images of another type or shape.
    """
    if images.dtype != torch.uint8 or images.dim() != 2 or images.shape[1] != side * side:
        raise ValueError(
            f"augment: images {tuple(images.shape)} of {images.dtype}: uint8 (N, {side * side}) is "
            f"expected, {side} × {side} pixels each"
        )
    strength = distortion or Distortion()
    fields = _fields(side, strength)  # (3 + terms, pixels)
    coefficients = _coefficients(len(images), len(fields), strength, generator)  # (N, 2, 3 + terms)
    fields, coefficients = to_device(fields, images.device), to_device(coefficients, images.device)
    distorted = torch.empty_like(images)
    chunk = _CUDA_CHUNK if images.is_cuda else _CHUNK
    for start in range(0, len(images), chunk):
        rows = slice(start, start + chunk)
        # Where to look, x and y  (n, 2, side, side)
        q = (coefficients[rows] @ fields).unflatten(2, (side, side))
        samples = torch.nn.functional.grid_sample(
            images[rows].view(-1, 1, side, side).float(),
            q.permute(0, 2, 3, 1),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,  # −1 and 1 are the image's edges
        )
        distorted[rows] = samples.flatten(1).round_()
    return distorted


def _fields(side: int, strength: Distortion) -> Tensor:
    """1, x, y and (α/√3) √(λ_i λ_j) V_i ⊗ V_j, in half image sides: (3 + terms, side · side)."""
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) / side  # 0 to 1 across the image
    y, x = torch.meshgrid(2 * centres - 1, 2 * centres - 1, indexing="ij")
    affine = torch.stack([torch.ones_like(x), x, y]).flatten(1)
    if strength.alpha == 0:
        return affine.float()
    sigma = strength.sigma
    d = _SIDE * (centres[:, None] - centres)
    k = torch.exp(-d.square() / (4 * sigma**2)) / (2 * sigma * math.sqrt(math.pi))
    eigenvalues, V = torch.linalg.eigh(k)
    # An eigenvector's sign is arbitrary: settle it, so that a seed means one field everywhere.
    V = V * V[0].sign()
    # λ_i λ_j, rounding errors left out
    products = torch.outer(eigenvalues, eigenvalues).clamp_min(0)
    order = products.flatten().argsort(descending=True, stable=True)
    variances = products.flatten()[order]
    terms = int((variances.cumsum(0) < _KEPT * variances.sum()).sum()) + 1
    i, j = order[:terms] // side, order[:terms] % side
    elastic = V[:, i].T[:, :, None] * V[:, j].T[:, None, :]  # (terms, side, side)
    amplitude = strength.alpha / math.sqrt(3) * variances[:terms].sqrt() * (2 / _SIDE)
    return torch.cat([affine, amplitude[:, None] * elastic.flatten(1)]).float()


def _coefficients(n: int, fields: int, strength: Distortion, generator: torch.Generator) -> Tensor:
    """The weight of each field in q_x and q_y, for n images: (n, 2, fields).

    M = [[cos θ, −sin θ], [sin θ, cos θ]] [[1, h], [0, 1]] diag(s_x, s_y)
    """
    device = generator.device
    uniform = 2 * torch.rand(n, 6, generator=generator, device=device) - 1
    theta, h = math.radians(strength.rotation) * uniform[:, 0], strength.shear * uniform[:, 1]
    s = torch.exp(strength.scale * uniform[:, 2:4])  # (n, 2)
    t = strength.shift * (2 / _SIDE) * uniform[:, 4:6]  # (n, 2)
    cos, sin = theta.cos(), theta.sin()
    coefficients = torch.empty(n, 2, fields, device=device)
    coefficients[:, :, 0] = t
    coefficients[:, 0, 1], coefficients[:, 0, 2] = cos * s[:, 0], (cos * h - sin) * s[:, 1]
    coefficients[:, 1, 1], coefficients[:, 1, 2] = sin * s[:, 0], (sin * h + cos) * s[:, 1]
    coefficients[:, :, 3:].normal_(generator=generator)
    return coefficients
