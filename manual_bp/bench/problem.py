"""The task of every contender: the same network, images, order and number of SGD steps."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manual_bp.bench.configuration import EXAMPLES, Configuration

PIXEL_SCALE = 1 / 255
TOLERANCE = 1e-4  # relative, of the final cost against float64
TF32_TOLERANCE = 1e-2  # where --float32 high rounds factors to 2⁻¹¹
COST_EXAMPLES = 2_000


@dataclass
class Problem:
    """Everything a contender is given.

    The cost is torch's default, s = 1/(m n_out), which suits torch.nn best.
    """

    configuration: Configuration
    images: Tensor  # (N, n_in) uint8
    one_hot: Tensor  # (N, n_out) float32
    order: Tensor  # (steps · batch,) int64
    weights: list[tuple[Tensor, Tensor]]  # W (n_out, n_in), b (n_out,), float32, by layer
    lr: float
    device: torch.device

    @property
    def steps(self) -> int:
        return len(self.order) // self.configuration.batch

    def batches(self) -> tuple[Tensor, ...]:
        return tuple(self.order.split(self.configuration.batch))

    def cost(self, parameters: list[tuple[NDArray[np.floating], NDArray[np.floating]]]) -> float:
        """The mean squared error on the first images, in float64."""
        a = self.images[:COST_EXAMPLES].cpu().double() * PIXEL_SCALE
        for i, (weight, bias) in enumerate(parameters):
            z = (
                a @ torch.from_numpy(np.array(weight, dtype=np.float64)).t()
                + torch.from_numpy(np.array(bias)).double()
            )
            a = z if self.configuration.linear and i == len(parameters) - 1 else torch.sigmoid(z)
        return float((a - self.one_hot[:COST_EXAMPLES].cpu().double()).square().mean())


def tolerance() -> float:
    """For the precision of float32 products that torch is set to."""
    return TOLERANCE if torch.get_float32_matmul_precision() == "highest" else TF32_TOLERANCE


def make(
    configuration: Configuration, data: tuple[Tensor, Tensor], steps: int, device: torch.device
) -> Problem:
    """The problem of `steps` steps; the same arguments give the same problem."""
    pixels, labels = data
    n_in, n_out = configuration.sizes[0], configuration.sizes[-1]
    if pixels.shape[1] != n_in:
        pixels = pixels.repeat(1, math.ceil(n_in / pixels.shape[1]))[:, :n_in].contiguous()
    generator = torch.Generator().manual_seed(0)
    if configuration.dense:
        pixels = pixels.clamp(min=1)
    passes = steps * configuration.batch // len(pixels) + 1
    order = torch.cat([torch.randperm(len(pixels), generator=generator) for _ in range(passes)])
    weights = []
    for fan_in, fan_out in pairwise(configuration.sizes):
        bound = 1 / math.sqrt(fan_in)  # as nn.Linear
        weight, bias = (
            torch.rand(shape, generator=generator) for shape in ((fan_out, fan_in), (fan_out,))
        )
        weights.append(((2 * weight - 1) * bound, (2 * bias - 1) * bound))
    return Problem(
        configuration=configuration,
        images=pixels.to(device),
        one_hot=torch.nn.functional.one_hot(labels % n_out, n_out).float().to(device),
        order=order[: steps * configuration.batch].to(device),
        weights=[(weight.to(device), bias.to(device)) for weight, bias in weights],
        lr=0.5 if configuration.linear else 5.0,
        device=device,
    )


def load_data() -> tuple[Tensor, Tensor, str]:
    """MNIST's training images, or synthetic ones that are as sparse.

    Returns:
        Images uint8 (N, 784), labels int64 (N,), and where they are from.
    """
    root = Path(os.environ.get("MANUAL_BP_DATA") or "data") / "MNIST" / "raw"
    files = root / "train-images-idx3-ubyte", root / "train-labels-idx1-ubyte"
    if all(file.exists() for file in files):
        pixels = torch.from_numpy(
            np.fromfile(files[0], dtype=np.uint8)[16:].reshape(-1, 784).copy()
        )
        labels = torch.from_numpy(np.fromfile(files[1], dtype=np.uint8)[8:].astype(np.int64))
        return pixels, labels, "MNIST's training images"
    generator = torch.Generator().manual_seed(0)
    # Each row of a 28 × 28 picture has one run of non-zero pixels, 0 to 11 long: 19 % of the
    # pixels, as in MNIST.
    begin = torch.randint(4, 14, (EXAMPLES, 28, 1), generator=generator)
    length = torch.randint(0, 12, (EXAMPLES, 28, 1), generator=generator)
    column = torch.arange(28)
    pixels = torch.randint(1, 256, (EXAMPLES, 28, 28), dtype=torch.uint8, generator=generator)
    pixels *= (column >= begin) & (column < begin + length)
    labels = torch.randint(0, 10, (EXAMPLES,), generator=generator)
    return pixels.flatten(1), labels, f"synthetic images as sparse as MNIST's ({root} has none)"
