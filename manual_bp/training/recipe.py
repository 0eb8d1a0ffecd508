"""Defaults that suit a data set and a network: epochs, batches and learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from manual_bp.ops.mse import scale
from manual_bp.training.data import CLASSES


@dataclass(frozen=True)
class Recipe:
    """Of a data set: epochs, examples a step, and η for the default network and cost."""

    epochs: int
    batch_size: int
    lr: float


MNIST = Recipe(epochs=10, batch_size=10, lr=3.0)
DIGITS = Recipe(epochs=60, batch_size=5, lr=2.0)

_WIDTH = 128  # of the last hidden layer, up to which the recipe's η serves
_LARGE_BATCH, _SMALL_BATCH = 32, 4


def recipe(dataset: str) -> Recipe:
    return DIGITS if dataset == "digits" else MNIST


def learning_rate(
    recipe: Recipe, cost: str, width: int, output: str, batch_size: int, momentum: float
) -> float:
    """η for a network and a descent that are not the recipe's own: one that does not freeze it in
    its first steps.

    The activations of the last hidden layer start near ½, all at once, so the outputs' first common
    push grows with its width; a step of half the length is enough to be safe for every doubling,
    and a little more. The rest are factors: of the cost's normalisation, of momentum's longer
    steps, and of what was measured.

    Args:
        recipe: the data set's.
        cost: its `reduction`; the same step needs another η (README, "The cost and its
            normalisations").
        width: of the last hidden layer, or of the input where there is none.
        output: "linear" has no slope of at most ¼ to shorten the step.
        batch_size: m.
        momentum: μ makes steps 1/(1 − μ) times as long, and lets them overshoot.
    """
    shape = torch.Size((batch_size, CLASSES))
    lr = recipe.lr * scale("half_per_example", shape) / scale(cost, shape)
    lr *= min(1.0, _WIDTH / width) ** 1.25 * (1 - momentum) ** 1.5
    if output == "linear":
        lr /= 30
    if batch_size >= _LARGE_BATCH:
        lr /= 1.5
    elif batch_size < _SMALL_BATCH:
        lr /= 3
    return float(f"{lr:.3g}")  # a number that can be read
